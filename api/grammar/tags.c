/* tags.c - the grammar of a call written as tags; api/call_tags.c has the form.
 *
 * Parameters come in the order of the function's schema; those that are not required may be left
 * out. A string stands without quotes and escapes. Values of other types are JSON. */
#include "api/grammar/schema_internal.h"

#include <string.h>

static const char end_text[] = "\n</tool_call>";

static int start(api__compiler *comp, api__node *node, size_t n) {
    if (n > API__MAX_NAMES)
        return api__schema_wrong(comp, "a function has more than %d parameters", API__MAX_NAMES);
    return api__start_names(comp, node, API__TAGS, n);
}

/* Adds the tag BEFORE name AFTER, with a value. */
static int add_tag(api__compiler *comp, api__node *node, const char *before, const api__name *name,
                   const char *after, uint16_t value, bool required) {
    api__name *tag = &node->names[node->n_parts];
    size_t n_before = strlen(before), n_after = strlen(after);
    char *text = arena_array(&comp->grammar->mem, n_before + name->len + n_after + 1, 1);
    if (text == NULL) return api__schema_no_memory(comp);
    memcpy(text, before, n_before);
    if (name->len) memcpy(text + n_before, name->text, name->len);
    memcpy(text + n_before + name->len, after, n_after);
    *tag = (api__name){.text = text,
                       .len = (uint16_t)(n_before + name->len + n_after),
                       .node = value,
                       .required = required};
    node->n_parts++;
    return 0;
}

/* ---- the call ---- */

static int compile_calls(api__compiler *comp, api__node *node, const json_t *tools) {
    const json_t *tool;
    size_t i;
    if (start(comp, node, json_array_size(tools)) != 0) return -1;
    node->once = true;
    json_array_foreach(tools, i, tool) {
        const json_t *function = json_object_get(tool, "function");
        const char *name = json_c_string(json_object_get(function, "name"));
        uint16_t body;
        if (name == NULL || (comp->only && strcmp(comp->only, name) != 0)) continue;
        const api__name text = {.text = name, .len = (uint16_t)strlen(name)}; /* 64 bytes at most */
        comp->strict = api__function_strict(function);
        if (api__form_node(comp, function, NULL, API__FORM_TAG_BODY, &body) != 0 ||
            add_tag(comp, node, "<tool_call>\n<function=", &text, ">\n", body, false) != 0)
            return -1;
    }
    api__sort_names(node);
    return 0;
}

/* ---- parameters ---- */

/* The parameters are an object even if the schema names no type. */
static int compile_body(api__compiler *comp, api__node *node, const json_t *function) {
    const json_t *parameters = json_object_get(function, "parameters");
    api__parts parts = {.root = parameters};
    if (parameters && !json_is_null(parameters) && api__parts_add(comp, &parts, parameters) != 0)
        return -1;
    if (api__schema_alternatives(comp, node, 1) != 0) return -1;
    return api__parts_node(comp, &parts, API__TYPE_OBJECT, API__FORM_TAG_PARAMS,
                           &node->items[node->n_parts++]);
}

static int add_params(api__compiler *comp, api__node *node, const api__node *object) {
    for (uint16_t i = 0; i < object->n_parts; i++) {
        const api__name *name = &object->names[i];
        if (name->len == 0 || strpbrk(name->text, ">\n"))
            return api__schema_wrong(
                comp, "the model's form of calls cannot hold a parameter named '%.80s'",
                name->text);
        if (add_tag(comp, node, "<parameter=", name, ">\n", name->node, name->required) != 0)
            return -1;
    }
    return 0;
}

/* Parameters that are one of several objects: these have no form as tags. */
static int check_values(api__compiler *comp, api__node *node, const api__pending *item) {
    bool found;
    if (api__compile_values(comp, node, item, &found) != 0) return -1;
    return found && node->kind != API__NONE
               ? api__schema_unheld(comp, "enum", " for all parameters")
               : 0;
}

static int compile_params(api__compiler *comp, api__node *node, const api__pending *item) {
    static const api__name nothing = {.text = ""};
    bool open, split;
    uint8_t types;
    uint16_t end;
    if (api__parts_types(comp, item->parts, item->n_parts, &types, &open) != 0) return -1;
    if (!(types & API__TYPE_OBJECT))
        return api__schema_none(comp, node, "the schema's types exclude each other");
    if (check_values(comp, node, item) != 0) return -1;
    if (node->kind == API__NONE) return 0;
    if (api__compile_branches(comp, node, item, &split) != 0) return -1;
    if (split) return 0;
    api__node object = {.kind = API__OBJECT};
    if (api__compile_object(comp, &object, item) != 0) return -1;
    if (object.kind == API__NONE) {
        *node = object;
        return 0;
    }
    if (object.min > 0 && api__schema_unheld(comp, "minProperties", " in this form of calls") != 0)
        return -1;
    if (object.max < object.n_parts &&
        api__schema_unheld(comp, "maxProperties", " in this form of calls") != 0)
        return -1;
    if (start(comp, node, object.n_parts + 1u) != 0 || add_params(comp, node, &object) != 0 ||
        api__form_node(comp, NULL, NULL, API__FORM_TAG_END, &end) != 0 ||
        add_tag(comp, node, "</function>", &nothing, "", end, true) != 0)
        return -1;
    api__sort_names(node);
    return 0;
}

/* ---- values ---- */

/* A text holds every value of the other types that the schema allows. */
static int compile_value(api__compiler *comp, api__node *node, const api__pending *item) {
    bool open, done = false;
    uint8_t types;
    if (api__compile_values(comp, node, item, &done) != 0) return -1;
    if (!done && api__compile_branches(comp, node, item, &done) != 0) return -1;
    if (done) return 0;
    if (api__parts_types(comp, item->parts, item->n_parts, &types, &open) != 0) return -1;
    if (types & API__TYPE_STRING) return api__compile_string(comp, node, item, API__TEXT);
    api__pending json = *item;
    json.form = API__FORM_JSON;
    if (api__schema_alternatives(comp, node, 1) != 0) return -1;
    return api__pending_node(comp, json, &node->items[node->n_parts++]);
}

/* ---- all ---- */

static int compile_end(api__compiler *comp, api__node *node) {
    if (api__start_names(comp, node, API__ENUM, 1) != 0) return -1;
    node->names[node->n_parts++] = (api__name){.text = end_text, .len = sizeof end_text - 1};
    return 0;
}

int api__compile_tags(api__compiler *comp, api__node *node, const api__pending *item) {
    switch ((api__form_kind)item->form) {
    case API__FORM_TAG_CALLS: return compile_calls(comp, node, item->parts->schema);
    case API__FORM_TAG_BODY: return compile_body(comp, node, item->parts->schema);
    case API__FORM_TAG_PARAMS: return compile_params(comp, node, item);
    case API__FORM_TAG_END: return compile_end(comp, node);
    case API__FORM_EITHER: return api__compile_either(comp, node, item->parts->schema);
    default: return compile_value(comp, node, item);
    }
}

int api__grammar_compile_tags(api__grammar **out, const json_t *tools, const char *only,
                              const char *param, err *e) {
    const api__part part = {.schema = tools};
    api__pending root = {.parts = &part, .n_parts = 1, .form = API__FORM_TAG_CALLS};
    return api__compile_from(out, root, only, param, e);
}
