/* either.c - the grammar of an answer that is a call of a function or a value of a schema. */
#include "api/grammar/schema_internal.h"

/* The members of the schema compiled here. */
static const char calls_key[] = "calls", tools_key[] = "tools", form_key[] = "form";

/* Each alternative is the start of its own $refs. */
static int add(api__compiler *comp, api__node *node, const json_t *schema, api__form_kind kind) {
    api__pending item = {schema, schema, 0, (uint8_t)kind};
    uint16_t *out = &node->items[node->n_parts++];
    if (kind == API__FORM_JSON) return api__schema_node(comp, schema, schema, 0, out);
    return api__schema_node_of(comp, item, out);
}

int api__compile_either(api__compiler *comp, api__node *node, const api__pending *item) {
    const json_t *calls = json_object_get(item->schema, calls_key), *one,
                 *tools = json_object_get(item->schema, tools_key),
                 *form = json_object_get(item->schema, form_key);
    size_t i;
    if (api__schema_alternatives(comp, node, json_array_size(calls) + (tools ? 1 : 0) + 1) != 0)
        return -1;
    if (tools && add(comp, node, tools, API__FORM_CALL) != 0) return -1;
    json_array_foreach(calls, i, one) {
        if (add(comp, node, one, API__FORM_JSON) != 0) return -1;
    }
    if (form) return add(comp, node, form, API__FORM_JSON);
    node->items[node->n_parts++] = API__NODE_OBJECT;
    return 0;
}

int api__grammar_compile_either(api__grammar **out, const json_t *tools, bool tags,
                                const json_t *form, const char *param, err *e) {
    json_t *calls = tags ? NULL : api__call_schemas(tools, NULL);
    json_t *both = json_pack("{s:O*,s:O*,s:O*}", calls_key, calls, tools_key, tags ? tools : NULL,
                             form_key, form);
    int rc = both && (tags || calls)
                 ? 0
                 : err_set(e, ERR_NO_MEMORY, param, "out of memory for the tools");
    *out = NULL;
    if (rc == 0)
        rc = api__compile_from(out, (api__pending){both, both, 0, API__FORM_EITHER}, calls, NULL,
                               param, e);
    json_decref(both);
    json_decref(calls);
    return rc;
}
