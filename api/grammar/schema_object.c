/* schema_object.c - objects: named properties, and the keys beside them.
 *
 * Several schemas may hold for one object (allOf, $ref). Their schemas for a key then hold
 * together. */
#include "api/grammar/schema_internal.h"
#include "base/buf.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_PATTERNS = 16 };

/* An entry of patternProperties. Entries with equal patterns are one. */
typedef struct {
    const char *pattern;
} key_pattern;

typedef struct {
    api__compiler *comp;
    const api__pending *item;
    api__node *node;
    key_pattern patterns[MOST_PATTERNS];
    uint16_t n_patterns;
    bool has_declared, has_properties, has_rest, has_names, closed;
} object;

static const json_t *get(const object *self, uint16_t i, const char *key) {
    return json_object_get(self->item->parts[i].schema, key);
}

/* ---- the schemas of a key ---- */

/* 1: a part's patternProperties speak of the key, and their schemas are added; -1: error. */
static int add_matching(object *self, uint16_t part, const char *key, api__parts *parts) {
    const char *text;
    json_t *schema;
    int hit = 0;
    json_object_foreach((json_t *)(uintptr_t)get(self, part, "patternProperties"), text, schema) {
        json_t *pattern = json_string(text);
        int rc = pattern ? api__pattern_matches(self->comp, "patternProperties", pattern, key,
                                                strlen(key))
                         : api__schema_no_memory(self->comp);
        json_decref(pattern);
        if (rc < 0 || (rc == 1 && api__parts_add(self->comp, parts, schema) != 0)) return -1;
        hit = hit || rc == 1;
    }
    return hit;
}

/* All schemas for the value of a declared key. */
static int key_parts(object *self, const char *key, api__parts *parts) {
    *parts = (api__parts){.root = self->item->root};
    for (uint16_t i = 0; i < self->item->n_parts; i++) {
        const json_t *own = json_object_get(get(self, i, "properties"), key),
                     *rest = get(self, i, "additionalProperties");
        if (own && api__parts_add(self->comp, parts, own) != 0) return -1;
        int hit = add_matching(self, i, key, parts);
        if (hit < 0) return -1;
        if (!own && !hit && rest && api__parts_add(self->comp, parts, rest) != 0) return -1;
    }
    return 0;
}

/* Do all propertyNames allow the key? -1: error. */
static int name_fits(object *self, const char *key) {
    json_t *name = json_string(key);
    int rc = name ? 1 : api__schema_no_memory(self->comp);
    for (uint16_t i = 0; rc == 1 && i < self->item->n_parts; i++) {
        const api__part part = {.schema = get(self, i, "propertyNames")};
        if (json_is_false(part.schema)) rc = 0;
        if (json_is_object(part.schema))
            rc = api__schema_admits(self->comp, &part, self->item->root, name);
    }
    json_decref(name);
    return rc;
}

/* ---- declared properties ---- */

static bool has_name(const object *self, const api__name *name) {
    for (uint16_t i = 0; i < self->node->n_parts; i++) {
        const api__name *one = &self->node->names[i];
        if (one->len == name->len && memcmp(one->text, name->text, name->len) == 0) return true;
    }
    return false;
}

static bool is_required(const object *self, const char *key) {
    const json_t *one;
    size_t k;
    for (uint16_t i = 0; i < self->item->n_parts; i++) {
        json_array_foreach(get(self, i, "required"), k, one) {
            const char *text = json_c_string(one);
            if (text && strcmp(text, key) == 0) return true;
        }
    }
    return false;
}

/* Writes the key as JSON does, without its quotes; for a tag as it is. */
static int key_text(const object *self, const char *key, api__name *out) {
    api__compiler *comp = self->comp;
    json_t *text = json_string(key);
    if (text && self->item->form == API__FORM_TAG_PARAMS) {
        int rc = api__schema_value(comp, text, true, out);
        json_decref(text);
        return rc;
    }
    if (text == NULL || api__schema_value(comp, text, false, out) != 0) {
        if (text == NULL) api__schema_no_memory(comp);
        json_decref(text);
        return -1;
    }
    json_decref(text);
    out->text++;
    out->len = (uint16_t)(out->len - 2);
    return 0;
}

/* *none: the object needs a key and cannot have it. */
static int add_key(object *self, const char *key, bool *none) {
    api__name *name = &self->node->names[self->node->n_parts];
    api__parts parts;
    *name = (api__name){.required = is_required(self, key)};
    if (key_text(self, key, name) != 0) return -1;
    if (has_name(self, name)) return 0;
    if (key_parts(self, key, &parts) != 0) return -1;
    int fits = name_fits(self, key);
    if (fits < 0) return -1;
    if (fits == 0 || parts.none) {
        *none = name->required;
        if (*none)
            return api__schema_none(self->comp, self->node,
                                    "'%.60s' is required, and the schema allows no value of it",
                                    key);
        return 0;
    }
    self->node->n_parts++;
    api__form_kind form =
        self->item->form == API__FORM_TAG_PARAMS ? API__FORM_TAG_VALUE : API__FORM_JSON;
    return api__parts_node(self->comp, &parts, 0, form, &name->node);
}

static int add_keys(object *self, bool *none) {
    const char *key;
    json_t *one;
    size_t k;
    for (uint16_t i = 0; i < self->item->n_parts; i++) {
        json_object_foreach((json_t *)(uintptr_t)get(self, i, "properties"), key, one) {
            if (add_key(self, key, none) != 0) return -1;
            if (*none) return 0;
        }
    }
    for (uint16_t i = 0; i < self->item->n_parts; i++) {
        json_array_foreach(get(self, i, "required"), k, one) {
            key = json_c_string(one);
            if (key == NULL)
                return api__schema_wrong(self->comp, "required must be a list of strings");
            if (add_key(self, key, none) != 0) return -1;
            if (*none) return 0;
        }
    }
    return 0;
}

/* ---- other keys ---- */

static void put_literal(buf *text, const char *key) {
    buf_puts(text, "|");
    for (const char *at = key; *at; at++) {
        if (strchr("\\^$.*+?()[]{}|/-", *at)) buf_puts(text, "\\");
        buf_append(text, at, 1);
    }
}

/* A pattern for exactly the keys with a name in the schemas. */
static const char *declared_pattern(object *self) {
    buf text = {0};
    const char *key;
    json_t *one;
    size_t k;
    buf_puts(&text, "^(?:[]"); /* no character at all */
    for (uint16_t i = 0; i < self->item->n_parts; i++) {
        json_object_foreach((json_t *)(uintptr_t)get(self, i, "properties"), key, one) {
            put_literal(&text, key);
        }
        json_array_foreach(get(self, i, "required"), k, one) {
            put_literal(&text, json_c_string(one));
        }
    }
    buf_puts(&text, ")$");
    const char *kept =
        text.failed ? NULL : arena_strndup(&self->comp->grammar->mem, text.data, text.len);
    buf_deinit(&text);
    return kept;
}

/* The node of a key's string: propertyNames, and the patterns. `is`: the one entry of
 * patternProperties to match, or n_patterns. */
static int key_node(object *self, uint16_t is, uint16_t *out) {
    api__parts parts = {.root = self->item->root};
    api__pattern *list =
        arena_array(&self->comp->grammar->mem, self->n_patterns + 1u, sizeof *list);
    uint16_t n = 0;
    if (list == NULL) return api__schema_no_memory(self->comp);
    for (uint16_t i = 0; i < self->n_patterns; i++) {
        const char *text = self->patterns[i].pattern;
        list[n++] = (api__pattern){
            .text = text, .n = strlen(text), .wanted = i == is, .keyword = "patternProperties"};
    }
    if (self->has_declared) {
        const char *text = declared_pattern(self);
        if (text == NULL) return api__schema_no_memory(self->comp);
        list[n++] = (api__pattern){.text = text, .n = strlen(text), .keyword = "propertyNames"};
    }
    for (uint16_t i = 0; i < self->item->n_parts; i++) {
        const json_t *names = get(self, i, "propertyNames");
        if (names && api__parts_add(self->comp, &parts, names) != 0) return -1;
    }
    *out = API__NODE_NONE;
    if (parts.none) return 0;
    *out = API__NODE_STRING;
    if (parts.n == 0 && n == 0) return 0;
    return api__pending_node(self->comp,
                             (api__pending){.parts = parts.list,
                                            .n_parts = parts.n,
                                            .root = parts.root,
                                            .types = API__TYPE_STRING,
                                            .form = API__FORM_JSON,
                                            .keys = list,
                                            .n_keys = n},
                             out);
}

/* All schemas for the values of undeclared keys of pattern `is`, or of no pattern. */
static int rest_parts(object *self, uint16_t is, api__parts *parts) {
    *parts = (api__parts){.root = self->item->root};
    for (uint16_t i = 0; i < self->item->n_parts; i++) {
        const json_t *rest = get(self, i, "additionalProperties"), *own = NULL;
        if (is < self->n_patterns)
            own = json_object_get(get(self, i, "patternProperties"), self->patterns[is].pattern);
        if (own || rest) {
            if (api__parts_add(self->comp, parts, own ? own : rest) != 0) return -1;
        }
    }
    return 0;
}

static int add_keyed(object *self, uint16_t is, api__keyed *list) {
    api__parts parts;
    if (rest_parts(self, is, &parts) != 0) return -1;
    if (parts.none) return 0;
    api__keyed *one = &list[self->node->n_keyed++];
    if (key_node(self, is, &one->key) != 0) return -1;
    return api__parts_node(self->comp, &parts, 0, API__FORM_JSON, &one->node);
}

/* Without a word on them, other keys are allowed in an object without declared ones, and not beside
 * declared ones or patterns. */
static int add_rest(object *self) {
    bool open = !self->closed && (self->has_rest || (!self->has_properties && !self->n_patterns));
    api__node *node = self->node;
    api__parts parts;
    node->rest = API__NO_NODE;
    if (self->n_patterns == 0 && !self->has_names) {
        if (!open) return 0;
        if (rest_parts(self, 0, &parts) != 0) return -1;
        return parts.none ? 0 : api__parts_node(self->comp, &parts, 0, API__FORM_JSON, &node->rest);
    }
    api__keyed *list = arena_array(&self->comp->grammar->mem, self->n_patterns + 1u, sizeof *list);
    if (list == NULL) return api__schema_no_memory(self->comp);
    node->keyed = list;
    for (uint16_t i = 0; i < self->n_patterns; i++) {
        if (add_keyed(self, i, list) != 0) return -1;
    }
    return open ? add_keyed(self, self->n_patterns, list) : 0;
}

/* ---- the whole ---- */

static int note_pattern(object *self, const char *text) {
    for (uint16_t i = 0; i < self->n_patterns; i++) {
        if (strcmp(self->patterns[i].pattern, text) == 0) return 0;
    }
    json_t *pattern = json_string(text); /* an unsupported one is left out */
    int rc = pattern ? api__pattern_matches(self->comp, "patternProperties", pattern, "", 0)
                     : api__schema_no_memory(self->comp);
    json_decref(pattern);
    if (rc < 0 || rc == API__PATTERN_UNKNOWN) return rc < 0 ? -1 : 0;
    if (self->n_patterns == MOST_PATTERNS)
        return api__schema_wrong(self->comp, "an object has more than %d patternProperties",
                                 MOST_PATTERNS);
    self->patterns[self->n_patterns++].pattern = text;
    return 0;
}

static int check_keywords(object *self, uint16_t i, size_t *room) {
    static const char *const unheld[] = {"dependentRequired", "dependentSchemas", "dependencies"};
    const json_t *properties = get(self, i, "properties"), *required = get(self, i, "required"),
                 *patterns = get(self, i, "patternProperties"),
                 *rest = get(self, i, "unevaluatedProperties");
    const char *key;
    json_t *one;
    size_t k;
    if ((properties && !json_is_object(properties)) || (required && !json_is_array(required)))
        return api__schema_wrong(self->comp, "properties must be an object and required a list");
    /* A longer list could only repeat names, and each name is compared with all others. */
    if (json_array_size(required) > API__MAX_NAMES) {
        return api__schema_wrong(self->comp, "required has more than %d entries", API__MAX_NAMES);
    }
    *room += json_object_size(properties);
    json_array_foreach((json_t *)(uintptr_t)required, k, one) {
        key = json_c_string(one);
        *room += key == NULL || json_object_get(properties, key) == NULL;
    }
    if (patterns && !json_is_object(patterns))
        return api__schema_wrong(self->comp, "patternProperties must be an object");
    json_object_foreach((json_t *)(uintptr_t)patterns, key, one) {
        if (note_pattern(self, key) != 0) return -1;
    }
    self->has_properties = self->has_properties || properties;
    self->has_declared = *room > 0;
    self->has_rest = self->has_rest || get(self, i, "additionalProperties");
    self->has_names = self->has_names || get(self, i, "propertyNames");
    for (k = 0; k < ARRAY_LEN(unheld); k++) {
        const json_t *value = get(self, i, unheld[k]);
        if (value && json_object_size(value) > 0 &&
            api__schema_unheld(self->comp, unheld[k], "") != 0)
            return -1;
    }
    if (json_is_false(rest) && self->item->n_parts == 1) self->closed = !self->has_rest;
    else if (rest && !json_is_true(rest))
        return api__schema_unheld(self->comp, "unevaluatedProperties", "");
    return 0;
}

/* Undeclared keys may repeat, so only one is sure to count. */
static int check_counts(object *self) {
    api__node *node = self->node;
    uint32_t required = 0;
    for (uint16_t i = 0; i < node->n_parts; i++)
        required += node->names[i].required;
    if (required > node->max)
        return api__schema_none(self->comp, node,
                                "more properties are required than maxProperties");
    bool open = node->rest != API__NO_NODE || node->n_keyed > 0;
    if (!open || node->min <= required + 1) return 0;
    if (node->min <= node->n_parts) { /* the declared ones are enough */
        node->rest = API__NO_NODE;
        node->n_keyed = 0;
        return 0;
    }
    node->min = required + 1;
    return api__schema_unheld(self->comp, "minProperties", " for properties without names");
}

int api__compile_object(api__compiler *comp, api__node *node, const api__pending *item) {
    object self = {.comp = comp, .item = item, .node = node};
    size_t room = 0;
    bool none = false;
    for (uint16_t i = 0; i < item->n_parts; i++) {
        if (check_keywords(&self, i, &room) != 0) return -1;
    }
    if (room > API__MAX_NAMES)
        return api__schema_wrong(comp, "an object has more than %d properties", API__MAX_NAMES);
    if (api__start_names(comp, node, API__OBJECT, room) != 0) return -1;
    if (api__parts_count(comp, item, "minProperties", true, 0, &node->min) != 0 ||
        api__parts_count(comp, item, "maxProperties", false, UINT32_MAX, &node->max) != 0)
        return -1;
    if (add_keys(&self, &none) != 0) return -1;
    if (none) return 0;
    api__sort_names(node);
    node->rest = API__NO_NODE;
    if (item->form == API__FORM_TAG_PARAMS) return check_counts(&self);
    if (add_rest(&self) != 0) return -1;
    return check_counts(&self);
}
