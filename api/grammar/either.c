/* either.c - the grammar of an answer that is a call of a function or a value of a schema. */
#include "api/grammar/schema_internal.h"

/* The members of the object compiled here. */
static const char tools_key[] = "tools", tags_key[] = "tags", form_key[] = "form",
                  strict_key[] = "strict";

int api__compile_either(api__compiler *comp, api__node *node, const json_t *both) {
    const json_t *tools = json_object_get(both, tools_key), *form = json_object_get(both, form_key);
    bool tags = json_is_true(json_object_get(both, tags_key));
    if (api__schema_alternatives(comp, node, 2) != 0) return -1;
    node->n_parts = 2;
    node->items[1] = API__NODE_OBJECT;
    if (api__form_node(comp, tools, NULL, tags ? API__FORM_TAG_CALLS : API__FORM_CALLS,
                       &node->items[0]) != 0)
        return -1;
    comp->strict = json_is_true(json_object_get(both, strict_key));
    return form ? api__schema_node(comp, form, form, &node->items[1]) : 0;
}

int api__grammar_compile_either(api__grammar **out, const json_t *tools, bool tags,
                                const json_t *form, bool strict, const char *param, err *e) {
    json_t *both = json_pack("{s:O,s:b,s:O*,s:b}", tools_key, tools, tags_key, tags, form_key, form,
                             strict_key, strict);
    const api__part part = {.schema = both};
    const api__pending root = {.parts = &part, .n_parts = 1, .form = API__FORM_EITHER};
    *out = NULL;
    int rc = both ? api__compile_from(out, root, NULL, param, e)
                  : err_set(e, ERR_NO_MEMORY, param, "out of memory for the tools");
    json_decref(both);
    return rc;
}
