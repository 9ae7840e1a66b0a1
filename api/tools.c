/* tools.c - tools and tool_choice: which functions the model may call, and whether it
 * must.
 *
 * No template language is run, so the functions are told in plain text before the
 * conversation, and a call is a JSON object in the answer (call.c). With tool_choice
 * required or a named function a grammar makes the answer one; with auto the model is free
 * to write it. One call per answer. */
#include "api/api_internal.h"

enum { MAX_TOOLS = 128 };

static int read_function(api_request *r, json_t *f, size_t i, err *e) {
    char param[64];
    const json_t *name = json_object_get(f, "name"), *about = json_object_get(f, "description");
    const json_t *parameters = json_object_get(f, "parameters");
    (void)snprintf(param, sizeof param, "tools[%zu].name", i);
    if (!api__name_ok(name))
        return api__bad_param(e, param, "must have 1 to 64 letters, digits, '_' or '-'");
    for (uint32_t k = 0; k < r->n_tools; k++) {
        if (strcmp(r->tools[k], json_string_value(name)) == 0)
            return api__bad_param(e, param, "is there twice");
    }
    if (about && !json_is_null(about) && !json_is_string(about)) {
        (void)snprintf(param, sizeof param, "tools[%zu].description", i);
        return api__bad_param(e, param, "must be a string");
    }
    if (parameters && !json_is_null(parameters) && !json_is_object(parameters)) {
        (void)snprintf(param, sizeof param, "tools[%zu].parameters", i);
        return api__bad_param(e, param, "must be a JSON Schema object");
    }
    if (json_is_null(parameters))
        (void)json_object_del(f, "parameters"); /* absent, as everywhere */
    r->tools[r->n_tools] =
        arena_strndup(&r->mem, json_string_value(name), json_string_length(name));
    return r->tools[r->n_tools++] ? 0 : api__out_of_memory(e);
}

/* Checks the list and gives it in chat's shape: [{"function": {...}}]; a new reference. */
static int read_tools(api_request *r, const json_t *tools, json_t **out, err *e) {
    size_t n = json_array_size(tools);
    if (!json_is_array(tools) || n == 0 || n > MAX_TOOLS)
        return api__bad_param(e, "tools", "must be a list of 1 to 128 functions");
    r->tools = arena_array(&r->mem, n, sizeof *r->tools);
    *out = json_array();
    if (r->tools == NULL || *out == NULL) return api__out_of_memory(e);
    for (size_t i = 0; i < n; i++) {
        char param[64];
        json_t *tool = json_array_get(tools, i);
        const char *type = json_c_string(json_object_get(tool, "type"));
        (void)snprintf(param, sizeof param, "tools[%zu]", i);
        if (!json_is_object(tool) || type == NULL)
            return api__bad_param(e, param, "must be an object with a type");
        if (strcmp(type, "function") != 0) {
            return err_set(e, ERR_UNSUPPORTED, param, "%s: only functions can be called here",
                           param);
        }
        json_t *f = r->kind == API_RESPONSES ? tool : json_object_get(tool, "function");
        if (!json_is_object(f)) return api__bad_param(e, param, "must have a function");
        if (read_function(r, f, i, e) != 0) return -1;
        if (json_array_append_new(*out, json_pack("{s:O}", "function", f)) != 0)
            return api__out_of_memory(e);
    }
    return 0;
}

static int read_named(api_request *r, const json_t *choice, err *e) {
    const json_t *at = r->kind == API_RESPONSES ? choice : json_object_get(choice, "function");
    const char *name = json_c_string(json_object_get(at, "name"));
    const char *type = json_c_string(json_object_get(choice, "type"));
    if (type && strcmp(type, "function") != 0) {
        return err_set(e, ERR_UNSUPPORTED, "tool_choice",
                       "tool_choice may be none, auto, required or a function");
    }
    if (name == NULL)
        return api__bad_param(e, "tool_choice", "must be none, auto, required or name a function");
    for (uint32_t i = 0; i < r->n_tools; i++) {
        if (strcmp(r->tools[i], name) != 0) continue;
        r->named = r->tools[i];
        r->calls = API__CALLS_FORCED;
        return 0;
    }
    return api__bad_param(e, "tool_choice", "names a function that is not in tools");
}

static int read_choice(api_request *r, const json_t *choice, err *e) {
    const char *word = json_c_string(choice);
    r->calls = API__CALLS_AUTO;
    if (choice == NULL || (word && strcmp(word, "auto") == 0)) return 0;
    if (json_is_object(choice)) return read_named(r, choice, e);
    if (word && strcmp(word, "none") == 0) r->calls = API__CALLS_NONE;
    else if (word && strcmp(word, "required") == 0) r->calls = API__CALLS_FORCED;
    else return api__bad_param(e, "tool_choice", "must be none, auto, required or name a function");
    return 0;
}

/* The functions as the model is told of them, before the conversation. */
static int write_lead(api_request *r, const json_t *tools, err *e) {
    buf b = {0};
    buf_puts(&b, "You can call these functions, described as JSON:\n");
    for (size_t i = 0; i < json_array_size(tools); i++) {
        api__dump(&b, json_object_get(json_array_get(tools, i), "function"));
        buf_puts(&b, "\n");
    }
    buf_puts(&b, "To call one, answer only with {\"name\":NAME,\"arguments\":{...}}.");
    r->lead = b.failed ? NULL : arena_strndup(&r->mem, b.data, b.len);
    buf_deinit(&b);
    return r->lead ? 0 : api__out_of_memory(e);
}

static int force(api_request *r, const api_context *c, const api__values *v, const json_t *tools,
                 err *e) {
    if (r->grammar)
        return api__bad_param(e, "tool_choice",
                              "cannot force a call together with a form for the answer");
    if (api__can_constrain(c, v, "tool_choice", e) != 0) return -1;
    r->form_field = "tools";
    return api__grammar_compile_tools(&r->grammar, tools, r->named, "tools", e);
}

int api__read_tools(api_request *r, const api_context *c, const api__values *v, err *e) {
    const char *word = json_c_string(v->tool_choice);
    if (v->tools == NULL) {
        if (v->tool_choice == NULL || (word && strcmp(word, "none") == 0)) return 0;
        return api__bad_param(e, "tool_choice", "needs tools");
    }
    json_t *tools = NULL;
    int rc = read_tools(r, v->tools, &tools, e);
    if (rc == 0) rc = read_choice(r, v->tool_choice, e);
    if (rc == 0 && r->calls != API__CALLS_NONE) rc = write_lead(r, tools, e);
    if (rc == 0 && r->calls == API__CALLS_FORCED) rc = force(r, c, v, tools, e);
    json_decref(tools);
    return rc;
}
