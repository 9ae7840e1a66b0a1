/* grammar.c - the grammar of a call as JSON: {"name": ..., "arguments": {...}}. */
#include "api/grammar/schema_internal.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

bool api__function_strict(const json_t *function) {
    return json_is_true(json_object_get(function, "strict"));
}

static int compile_calls(api__compiler *comp, api__node *node, const json_t *tools) {
    const json_t *tool;
    size_t i, n = 0;
    json_array_foreach(tools, i, tool) {
        const char *name =
            json_c_string(json_object_get(json_object_get(tool, "function"), "name"));
        n += name && (comp->only == NULL || strcmp(comp->only, name) == 0);
    }
    if (api__schema_alternatives(comp, node, n) != 0) return -1;
    json_array_foreach(tools, i, tool) {
        const json_t *function = json_object_get(tool, "function");
        const char *name = json_c_string(json_object_get(function, "name"));
        if (name == NULL || (comp->only && strcmp(comp->only, name) != 0)) continue;
        comp->strict = api__function_strict(function);
        if (api__form_node(comp, function, NULL, API__FORM_CALL, &node->items[node->n_parts++]) !=
            0)
            return -1;
    }
    return 0;
}

/* Arguments are an object, whatever the parameters say. Without parameters the object is empty. */
static int arguments_node(api__compiler *comp, const json_t *function, uint16_t *out) {
    const json_t *parameters = json_object_get(function, "parameters");
    api__parts parts = {.root = parameters};
    if (parameters == NULL || json_is_null(parameters))
        return api__form_node(comp, function, NULL, API__FORM_NO_ARGUMENTS, out);
    if (api__parts_add(comp, &parts, parameters) != 0) return -1;
    return api__parts_node(comp, &parts, API__TYPE_OBJECT, API__FORM_JSON, out);
}

static int compile_function(api__compiler *comp, api__node *node, const json_t *function) {
    if (api__start_names(comp, node, API__OBJECT, 2) != 0) return -1;
    node->rest = API__NO_NODE;
    node->max = UINT32_MAX;
    node->n_parts = 2;
    node->names[0] = (api__name){.text = "name", .len = 4, .required = true};
    node->names[1] = (api__name){.text = "arguments", .len = 9, .required = true};
    api__sort_names(node);
    if (api__form_node(comp, function, NULL, API__FORM_NAME, &node->names[0].node) != 0) return -1;
    return arguments_node(comp, function, &node->names[1].node);
}

static int compile_name(api__compiler *comp, api__node *node, const json_t *function) {
    if (api__start_names(comp, node, API__ENUM, 1) != 0) return -1;
    node->n_parts = 1;
    return api__schema_value(comp, json_object_get(function, "name"), false, &node->names[0]);
}

int api__compile_call(api__compiler *comp, api__node *node, const api__pending *item) {
    switch ((api__form_kind)item->form) {
    case API__FORM_CALLS: return compile_calls(comp, node, item->parts->schema);
    case API__FORM_CALL: return compile_function(comp, node, item->parts->schema);
    case API__FORM_NAME: return compile_name(comp, node, item->parts->schema);
    default: break;
    }
    if (api__start_names(comp, node, API__OBJECT, 0) != 0) return -1;
    node->rest = API__NO_NODE;
    node->max = UINT32_MAX;
    return 0;
}

int api__grammar_compile_tools(api__grammar **out, const json_t *tools, const char *only,
                               const char *param, err *e) {
    const api__part part = {.schema = tools};
    api__pending root = {.parts = &part, .n_parts = 1, .form = API__FORM_CALLS};
    return api__compile_from(out, root, only, param, e);
}

/* Several calls follow each other. */
static int again(api__grammar **out, int rc) {
    if (rc == 0) (*out)->again = true;
    return rc;
}

int api__grammar_compile_many_tools(api__grammar **out, const json_t *tools, const char *only,
                                    const char *param, err *e) {
    return again(out, api__grammar_compile_tools(out, tools, only, param, e));
}

int api__grammar_compile_many_tags(api__grammar **out, const json_t *tools, const char *only,
                                   const char *param, err *e) {
    return again(out, api__grammar_compile_tags(out, tools, only, param, e));
}

/* Numbers are not used again, so a kept mask never meets a grammar at the address of a freed one.
 */
api__grammar *api__grammar_new(void) {
    static atomic_uint_fast64_t last;
    api__grammar *grammar = calloc(1, sizeof *grammar);
    if (grammar) grammar->number = atomic_fetch_add_explicit(&last, 1, memory_order_relaxed) + 1;
    return grammar;
}

void api__grammar_free(api__grammar *grammar) {
    if (grammar == NULL) return;
    arena_deinit(&grammar->mem);
    free(grammar->nodes);
    free(grammar);
}
