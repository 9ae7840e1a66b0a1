/* schema_values.c - enum and const, and the names of nodes.
 *
 * The values are known, so every other keyword is tried on them here and needs no automaton. */
#include "api/grammar/schema_internal.h"

#include <stdlib.h>
#include <string.h>

/* ---- names ---- */

int api__schema_value(api__compiler *comp, const json_t *value, bool bare, api__name *out) {
    char *json = bare && json_is_string(value)
                     ? strndup(json_string_value(value), json_string_length(value))
                     : json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
    if (json == NULL) return api__schema_no_memory(comp);
    size_t n = strlen(json);
    int rc = 0;
    if (n > API__MAX_TEXT_BYTES) {
        rc = api__schema_wrong(comp, "a name or value has more than %d bytes", API__MAX_TEXT_BYTES);
    } else {
        out->text = arena_strndup(&comp->grammar->mem, json, n);
        out->len = (uint16_t)n;
        if (out->text == NULL) rc = api__schema_no_memory(comp);
    }
    free(json);
    return rc;
}

int api__start_names(api__compiler *comp, api__node *node, api__node_kind kind, size_t room) {
    *node = (api__node){.kind = (uint8_t)kind};
    node->names = arena_array(&comp->grammar->mem, room + 1, sizeof *node->names);
    if (node->names == NULL) return api__schema_no_memory(comp);
    if (kind == API__ENUM) return 0;
    node->sorted = arena_array(&comp->grammar->mem, room + 1, sizeof *node->sorted);
    return node->sorted ? 0 : api__schema_no_memory(comp);
}

static int compare_names(const api__name *left, const api__name *right) {
    size_t n = left->len < right->len ? left->len : right->len;
    int order = memcmp(left->text, right->text, n);
    return order ? order : (left->len > right->len) - (left->len < right->len);
}

static int by_text(const void *left, const void *right) {
    return compare_names(left, right);
}

static int by_text_of(const void *left, const void *right, void *names) {
    const api__name *all = names;
    return compare_names(&all[*(const uint16_t *)left], &all[*(const uint16_t *)right]);
}

void api__sort_enum(api__node *node) {
    uint16_t kept = 1;
    qsort(node->names, node->n_parts, sizeof *node->names, by_text);
    for (uint16_t k = 1; k < node->n_parts; k++) {
        if (compare_names(&node->names[k], &node->names[kept - 1]) != 0)
            node->names[kept++] = node->names[k];
    }
    node->n_parts = kept;
}

void api__sort_names(api__node *node) {
    for (uint16_t k = 0; k < node->n_parts; k++)
        node->sorted[k] = k;
    qsort_r(node->sorted, node->n_parts, sizeof *node->sorted, by_text_of, node->names);
}

/* ---- values ---- */

/* The shortest list of values in the schemas. A const is returned as *only. */
static const json_t *find_list(const api__pending *item, const json_t **only) {
    const json_t *list = NULL;
    *only = NULL;
    for (uint16_t i = 0; i < item->n_parts && *only == NULL; i++) {
        const json_t *schema = item->parts[i].schema, *values = json_object_get(schema, "enum");
        *only = json_object_get(schema, "const");
        bool shorter = list == NULL || json_array_size(values) < json_array_size(list);
        if (values && shorter) list = values;
    }
    return list;
}

static bool is_string_form(const api__pending *item) {
    return item->form == API__FORM_TAG_VALUE;
}

/* 1: every schema allows the value; 0: not; -1: error. */
static int fits(api__compiler *comp, const api__pending *item, const json_t *value) {
    if (item->types && !(api__type_of_value(value) & item->types)) return 0;
    for (uint16_t i = 0; i < item->n_parts; i++) {
        int rc = api__schema_admits(comp, &item->parts[i], item->root, value);
        if (rc != 1) return rc;
    }
    const api__dfa *dfa;
    bool empty;
    if (item->n_keys == 0 || !json_is_string(value)) return 1;
    if (api__patterns_dfa(comp, item->keys, item->n_keys, 0, UINT32_MAX, &dfa, &empty) != 0)
        return -1;
    return empty ? 0
                 : dfa == NULL ||
                       api__dfa_matches(dfa, json_string_value(value), json_string_length(value));
}

/* A text in a tag ends before API__CLOSER, and begins with some byte. */
static bool fits_tag(const json_t *value) {
    const char *text = json_string_value(value);
    return text == NULL || (strlen(text) == json_string_length(value) && text[0] &&
                            strstr(text, API__CLOSER) == NULL);
}

static int add_value(api__compiler *comp, api__node *node, const api__pending *item,
                     const json_t *value) {
    int rc = fits(comp, item, value);
    if (rc != 1) return rc;
    if (is_string_form(item) && !fits_tag(value))
        return api__schema_wrong(comp, "the model's form of calls cannot hold the value '%.80s'",
                                 json_string_value(value));
    return api__schema_value(comp, value, is_string_form(item), &node->names[node->n_parts++]);
}

int api__compile_values(api__compiler *comp, api__node *node, const api__pending *item,
                        bool *found) {
    const json_t *only, *list = find_list(item, &only), *value;
    size_t i, n = only ? 1 : json_array_size(list);
    *found = only || list;
    if (!*found) return 0;
    if (!only && !json_is_array(list)) return api__schema_wrong(comp, "enum must be a list");
    if (n == 0 || n > API__MAX_NAMES)
        return api__schema_wrong(comp, "an enum has %zu values; 1 to %d are allowed", n,
                                 API__MAX_NAMES);
    if (api__start_names(comp, node, API__ENUM, n) != 0) return -1;
    if (only) {
        if (add_value(comp, node, item, only) != 0) return -1;
    } else {
        json_array_foreach(list, i, value) {
            if (add_value(comp, node, item, value) != 0) return -1;
        }
    }
    if (node->n_parts == 0)
        return api__schema_none(comp, node, "an enum has no value of its type, or none that fits");
    api__sort_enum(node);
    return 0;
}
