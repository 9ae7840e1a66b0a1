/* grammar.c - makes a grammar from a schema or from the functions of a request. */
#include "api/grammar/schema_internal.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

int api__grammar_compile(api__grammar **out, const json_t *schema, const char *param, err *e) {
    return api__grammar_compile_schema(out, schema, NULL, param, e);
}

static json_t *call_schema(const json_t *function) {
    json_t *parameters = json_incref(json_object_get(function, "parameters"));
    if (parameters == NULL) {
        parameters = json_pack("{s:s, s:b}", "type", "object", "additionalProperties", 0);
    }
    /* json_pack fails if a part is NULL. */
    return json_pack("{s:s, s:{s:{s:O}, s:o}, s:[s,s], s:b}", "type", "object", "properties",
                     "name", "const", json_object_get(function, "name"), "arguments", parameters,
                     "required", "name", "arguments", "additionalProperties", 0);
}

json_t *api__call_schemas(const json_t *tools, const char *only) {
    json_t *calls = json_array();
    const json_t *tool;
    size_t i;
    json_array_foreach(tools, i, tool) {
        const json_t *function = json_object_get(tool, "function");
        const char *name = json_string_value(json_object_get(function, "name"));
        if (name == NULL || (only && strcmp(only, name) != 0)) continue;
        if (json_array_append_new(calls, call_schema(function)) == 0) continue;
        json_decref(calls);
        return NULL;
    }
    return calls;
}

int api__grammar_compile_tools(api__grammar **out, const json_t *tools, const char *only,
                               const char *param, err *e) {
    json_t *calls = api__call_schemas(tools, only), *schema = json_pack("{s:O}", "anyOf", calls);
    int rc = calls && schema ? 0 : -1;
    *out = NULL;
    if (rc != 0) err_set(e, ERR_NO_MEMORY, param, "out of memory for the tools");
    else rc = api__grammar_compile_schema(out, schema, calls, param, e);
    json_decref(schema);
    json_decref(calls);
    return rc;
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
