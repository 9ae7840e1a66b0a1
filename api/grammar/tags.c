/* tags.c - the grammar of a call written as tags; api/call_tags.c has the form.
 *
 * Parameters come in the order of the function's schema; those that are not required may be left
 * out. A string stands without quotes and escapes. Values of other types are JSON. */
#include "api/grammar/schema_internal.h"

#include <string.h>

static const char end_text[] = "\n</tool_call>";

static int start(api__compiler *comp, api__node *node, size_t n) {
    node->kind = API__TAGS;
    if (n > API__MAX_NAMES)
        return api__schema_wrong(comp, "a function has more than %d parameters", API__MAX_NAMES);
    node->names = arena_array(&comp->grammar->mem, n, sizeof *node->names);
    node->sorted = arena_array(&comp->grammar->mem, n, sizeof *node->sorted);
    return node->names && node->sorted ? 0 : api__schema_no_memory(comp);
}

/* Adds the tag BEFORE name AFTER. */
static int add_tag(api__compiler *comp, api__node *node, const char *before, const char *name,
                   const char *after, api__pending value, bool required) {
    api__name *tag = &node->names[node->n_parts];
    size_t n_before = strlen(before), n_name = strlen(name), n_after = strlen(after);
    if (n_name > API__MAX_TEXT_BYTES)
        return api__schema_wrong(comp, "a name has more than %d bytes", API__MAX_TEXT_BYTES);
    char *text = arena_array(&comp->grammar->mem, n_before + n_name + n_after + 1, 1);
    if (text == NULL) return api__schema_no_memory(comp);
    memcpy(text, before, n_before);
    memcpy(text + n_before, name, n_name);
    memcpy(text + n_before + n_name, after, n_after);
    tag->text = text;
    tag->len = (uint16_t)(n_before + n_name + n_after);
    tag->required = required;
    node->n_parts++;
    return api__schema_node_of(comp, value, &tag->node);
}

/* ---- the call ---- */

static int compile_call(api__compiler *comp, api__node *node, const json_t *tools) {
    const json_t *tool;
    size_t i;
    if (start(comp, node, json_array_size(tools)) != 0) return -1;
    node->once = true;
    json_array_foreach(tools, i, tool) {
        const json_t *function = json_object_get(tool, "function");
        const char *name = json_string_value(json_object_get(function, "name"));
        if (name == NULL || (comp->only && strcmp(comp->only, name) != 0)) continue;
        if (add_tag(comp, node, "<tool_call>\n<function=", name, ">\n",
                    (api__pending){function, NULL, 0, API__FORM_BODY}, false) != 0)
            return -1;
    }
    api__sort_names(node);
    return 0;
}

/* ---- parameters ---- */

static int add_param(api__compiler *comp, api__node *node, const char *key, const json_t *schema,
                     const json_t *root, bool required) {
    if (key[0] == 0 || strpbrk(key, ">\n"))
        return api__schema_wrong(
            comp, "the model's form of calls cannot hold a parameter named '%.80s'", key);
    return add_tag(comp, node, "<parameter=", key, ">\n",
                   (api__pending){schema, root, 0, API__FORM_VALUE}, required);
}

static bool is_listed(const json_t *list, const char *key) {
    const json_t *one;
    size_t i;
    json_array_foreach(list, i, one) {
        const char *text = json_c_string(one);
        if (text && strcmp(text, key) == 0) return true;
    }
    return false;
}

static bool has_param(const api__node *node, const char *key) {
    static const size_t before = sizeof "<parameter=" - 1;
    for (uint16_t i = 0; i < node->n_parts; i++) {
        const api__name *name = &node->names[i];
        if (name->len == before + strlen(key) + 2 &&
            memcmp(name->text + before, key, strlen(key)) == 0)
            return true;
    }
    return false;
}

/* Adds the parameters that are required and not described. */
static int add_required(api__compiler *comp, api__node *node, const json_t *required) {
    const json_t *one;
    size_t i;
    json_array_foreach(required, i, one) {
        const char *key = json_c_string(one);
        if (key == NULL) return api__schema_wrong(comp, "required must be a list of strings");
        if (has_param(node, key)) continue;
        if (add_param(comp, node, key, json_true(), NULL, true) != 0) return -1;
    }
    return 0;
}

static int compile_params(api__compiler *comp, api__node *node, const json_t *schema,
                          const json_t *root) {
    const json_t *properties = json_object_get(schema, "properties"),
                 *required = json_object_get(schema, "required");
    const char *key, *combines;
    json_t *property;
    uint8_t implied;
    if (schema && api__schema_keywords(comp, schema, &implied, &combines) != 0) return -1;
    if (schema && combines)
        return api__schema_unsupported(comp, combines, " for all parameters of a function");
    if ((properties && !json_is_object(properties)) || (required && !json_is_array(required)))
        return api__schema_wrong(comp, "properties must be an object and required a list");
    if (start(comp, node, json_object_size(properties) + json_array_size(required) + 1) != 0)
        return -1;
    json_object_foreach((json_t *)(uintptr_t)properties, key, property) {
        if (add_param(comp, node, key, property, root, is_listed(required, key)) != 0) return -1;
    }
    if (add_required(comp, node, required) != 0) return -1;
    if (add_tag(comp, node, "</function>", "", "", (api__pending){root, root, 0, API__FORM_END},
                true) != 0)
        return -1;
    api__sort_names(node);
    return 0;
}

static int compile_body(api__compiler *comp, api__node *node, const json_t *function) {
    const json_t *root = json_object_get(function, "parameters"), *schema = root;
    if (root && api__schema_resolve(comp, root, &schema) != 0) return -1;
    return compile_params(comp, node, schema, root);
}

/* ---- values ---- */

static int start_enum(api__compiler *comp, api__node *node, size_t n) {
    node->kind = API__ENUM;
    if (n == 0 || n > API__MAX_NAMES)
        return api__schema_wrong(comp, "an enum has %zu values; 1 to %d are allowed", n,
                                 API__MAX_NAMES);
    node->names = arena_array(&comp->grammar->mem, n, sizeof *node->names);
    return node->names ? 0 : api__schema_no_memory(comp);
}

static int add_value(api__compiler *comp, api__node *node, const json_t *value) {
    api__name *name = &node->names[node->n_parts++];
    const char *text = json_string_value(value);
    if (text &&
        (strlen(text) != json_string_length(value) || text[0] == 0 || strstr(text, API__CLOSER)))
        return api__schema_wrong(comp, "the model's form of calls cannot hold the value '%.80s'",
                                 text);
    return api__schema_value(comp, value, true, name);
}

static int compile_choice(api__compiler *comp, api__node *node, const json_t *schema) {
    const json_t *values = json_object_get(schema, "enum"),
                 *only = json_object_get(schema, "const"), *one;
    size_t i;
    if (values && !json_is_array(values)) return api__schema_wrong(comp, "enum must be a list");
    if (start_enum(comp, node, only ? 1 : json_array_size(values)) != 0) return -1;
    if (only) return add_value(comp, node, only);
    json_array_foreach(values, i, one) {
        if (add_value(comp, node, one) != 0) return -1;
    }
    api__sort_enum(node);
    return 0;
}

/* A text holds every value of the other types that the schema allows. */
static int compile_text(api__compiler *comp, api__node *node, const json_t *schema) {
    node->kind = API__TEXT;
    if (api__schema_count(comp, schema, "minLength", 0, &node->min) != 0) return -1;
    if (api__schema_count(comp, schema, "maxLength", UINT32_MAX, &node->max) != 0) return -1;
    return node->min > node->max ? api__schema_wrong(comp, "minLength is greater than maxLength")
                                 : 0;
}

static int compile_branches(api__compiler *comp, api__node *node, const json_t *list,
                            const json_t *root) {
    const json_t *one;
    size_t i;
    if (api__schema_alternatives(comp, node, json_array_size(list)) != 0) return -1;
    json_array_foreach(list, i, one) {
        api__pending item = {one, root, 0, API__FORM_VALUE};
        if (api__schema_node_of(comp, item, &node->items[node->n_parts++]) != 0) return -1;
    }
    return 0;
}

static int compile_value(api__compiler *comp, api__node *node, const api__pending *item) {
    const json_t *schema = item->schema;
    const char *combines = NULL;
    uint8_t implied = 0;
    if (api__schema_resolve(comp, item->root, &schema) != 0) return -1;
    if (!json_is_object(schema) && !json_is_true(schema))
        return api__schema_wrong(comp, "a schema must be an object or true");
    if (json_is_object(schema) && api__schema_keywords(comp, schema, &implied, &combines) != 0)
        return -1;
    uint8_t types = api__schema_types(schema, item->root);
    if (combines) {
        const json_t *list = json_object_get(schema, combines);
        if (strcmp(combines, "allOf") == 0 && json_array_size(list) != 1)
            return api__schema_unsupported(comp, combines, " with more than one schema");
        return compile_branches(comp, node, list, item->root);
    }
    if (types != 0 && !(types & API__TYPE_STRING)) {
        node->items = arena_array(&comp->grammar->mem, 1, sizeof *node->items);
        if (node->items == NULL) return api__schema_no_memory(comp);
        node->kind = API__ALT;
        node->n_parts = 1;
        return api__schema_node(comp, schema, item->root, 0, &node->items[0]);
    }
    if (json_object_get(schema, "enum") || json_object_get(schema, "const"))
        return compile_choice(comp, node, schema);
    return compile_text(comp, node, schema);
}

/* ---- all ---- */

static int compile_end(api__compiler *comp, api__node *node) {
    if (start_enum(comp, node, 1) != 0) return -1;
    node->names[node->n_parts++] = (api__name){.text = end_text, .len = sizeof end_text - 1};
    return 0;
}

int api__compile_tags(api__compiler *comp, api__node *node, const api__pending *item) {
    switch ((api__form_kind)item->form) {
    case API__FORM_CALL: return compile_call(comp, node, item->schema);
    case API__FORM_BODY: return compile_body(comp, node, item->schema);
    case API__FORM_END: return compile_end(comp, node);
    case API__FORM_EITHER: return api__compile_either(comp, node, item);
    default: return compile_value(comp, node, item);
    }
}

int api__grammar_compile_tags(api__grammar **out, const json_t *tools, const char *only,
                              const char *param, err *e) {
    return api__compile_from(out, (api__pending){tools, NULL, 0, API__FORM_CALL}, NULL, only, param,
                             e);
}
