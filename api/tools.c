/* tools.c - tools and tool_choice: the functions that the model may or must call.
 *
 * A chat template with tools shows the functions to the model. Without, a plain text before the
 * conversation describes them. The template decides the form of a call (call_json.c,
 * call_tags.c). With tool_choice required or a named function a grammar forces a call; with auto
 * the model decides. An answer may hold several calls, if the notation of the template has that.
 *
 * Tools of other types than function are run by other services' servers. They are left out, because
 * clients send them beside functions that work here too. */
#include "api/dialect_internal.h"

#include <stdlib.h>

enum { MAX_TOOLS = 128 };

/* The list being read. */
typedef struct {
    arena *mem;
    api__tool *tools;
    uint32_t n_tools;
    bool responses;
    err *error;
} reading;

static int bad(const reading *reader, size_t i, const char *key, const char *rule) {
    char param[64];
    (void)snprintf(param, sizeof param, "tools[%zu]%s%s", i, key[0] ? "." : "", key);
    return api__bad_param(reader->error, param, rule);
}

static int by_name(const void *left, const void *right) {
    return strcmp(((const api__param *)left)->name, ((const api__param *)right)->name);
}

/* Keeps the types of the parameters: a notation's text may not tell them. */
static int read_params(const reading *reader, const json_t *schema, api__tool *tool) {
    const json_t *properties = json_object_get(schema, "properties");
    const char *key;
    json_t *property;
    tool->params = arena_array(reader->mem, json_object_size(properties) + 1, sizeof *tool->params);
    if (tool->params == NULL) return api__out_of_memory(reader->error);
    json_object_foreach((json_t *)(uintptr_t)properties, key, property) {
        api__param *param = &tool->params[tool->n_params++];
        param->name = arena_strndup(reader->mem, key, strlen(key));
        param->types = api__schema_types(property, schema);
        if (param->name == NULL) return api__out_of_memory(reader->error);
    }
    qsort(tool->params, tool->n_params, sizeof *tool->params, by_name);
    return 0;
}

/* Arguments are an object, so the schema must admit one. */
static int check_parameters(const reading *reader, const json_t *schema, size_t i) {
    static const char rule[] = "must be a JSON Schema that admits an object";
    uint8_t types = json_is_object(schema) ? api__schema_types(schema, schema) : 0;
    if (types != 0 && !(types & API__TYPE_OBJECT)) return bad(reader, i, "parameters", rule);
    if (schema == NULL || json_is_null(schema) || json_is_true(schema) || json_is_object(schema))
        return 0;
    return bad(reader, i, "parameters",
               json_is_false(schema) ? rule : "must be a JSON Schema object");
}

static int read_function(reading *reader, json_t *function, size_t i) {
    const json_t *name = json_object_get(function, "name"),
                 *about = json_object_get(function, "description");
    const json_t *parameters = json_object_get(function, "parameters");
    if (!api__name_ok(name))
        return bad(reader, i, "name", "must have 1 to 64 letters, digits, '_' or '-'");
    for (uint32_t k = 0; k < reader->n_tools; k++) {
        if (strcmp(reader->tools[k].name, json_string_value(name)) == 0)
            return bad(reader, i, "name", "is used by two tools");
    }
    if (about && !json_is_null(about) && !json_is_string(about))
        return bad(reader, i, "description", "must be a string");
    if (check_parameters(reader, parameters, i) != 0) return -1;
    if (!json_is_object(parameters)) {
        (void)json_object_del(function, "parameters"); /* null and true say nothing */
        parameters = NULL;
    }
    api__tool *tool = &reader->tools[reader->n_tools++];
    tool->name = arena_strndup(reader->mem, json_string_value(name), json_string_length(name));
    return tool->name ? read_params(reader, parameters, tool) : api__out_of_memory(reader->error);
}

/* Appends the tool in the shape of chat completions: {"type": "function", "function": {...}}. In
 * responses the function's members stand beside the type. */
static int put_tool(const reading *reader, json_t *tool, json_t *function, json_t *out) {
    if (!reader->responses)
        return json_array_append(out, tool) == 0 ? 0 : api__out_of_memory(reader->error);
    json_t *wrapped = json_object(), *inner = json_copy(function), *type = json_string("function");
    bool ok = wrapped && inner && type;
    if (ok) (void)json_object_del(inner, "type");
    ok = ok && json_object_set(wrapped, "type", type) == 0 &&
         json_object_set(wrapped, "function", inner) == 0 && json_array_append(out, wrapped) == 0;
    json_decref(wrapped);
    json_decref(inner);
    json_decref(type);
    return ok ? 0 : api__out_of_memory(reader->error);
}

static int read_tool(reading *reader, json_t *tool, size_t i, json_t *out) {
    const char *type = json_c_string(json_object_get(tool, "type"));
    if (!json_is_object(tool) || type == NULL)
        return bad(reader, i, "", "must be an object with a type");
    if (strcmp(type, "function") != 0) return 0;
    json_t *function = reader->responses ? tool : json_object_get(tool, "function");
    if (!json_is_object(function)) return bad(reader, i, "", "must have a function object");
    if (read_function(reader, function, i) != 0) return -1;
    return put_tool(reader, tool, function, out);
}

int api__list_tools(const json_t *tools, bool responses, arena *mem, api__tool **functions,
                    json_t **out, err *e) {
    size_t n = json_array_size(tools);
    *out = NULL;
    if (!json_is_array(tools) || n > MAX_TOOLS)
        return api__bad_param(e, "tools", "must be a list of at most 128 functions");
    if (n == 0) return 0;
    reading reader = {.mem = mem, .responses = responses, .error = e};
    reader.tools = arena_array(mem, n, sizeof *reader.tools);
    json_t *list = json_array();
    int rc = reader.tools && list ? 0 : api__out_of_memory(e);
    for (size_t i = 0; rc == 0 && i < n; i++)
        rc = read_tool(&reader, json_array_get(tools, i), i, list);
    if (rc != 0 || reader.n_tools == 0) {
        json_decref(list);
        return rc;
    }
    *out = list;
    *functions = reader.tools;
    return 0;
}

static int read_named(api_request *req, const json_t *choice, err *e) {
    const json_t *at = req->dialect->flat ? choice : json_object_get(choice, "function");
    const char *name = json_c_string(json_object_get(at, "name"));
    const char *type = json_c_string(json_object_get(choice, "type"));
    if (type && strcmp(type, "function") != 0) {
        return err_set(e, ERR_UNSUPPORTED, "tool_choice",
                       "tool_choice asks for %.40s; this server supports none, auto, required and "
                       "a tool of type function",
                       type);
    }
    if (name == NULL)
        return api__bad_param(e, "tool_choice",
                              "must be none, auto, required or an object that names a function");
    for (uint32_t i = 0; i < req->n_tools; i++) {
        if (strcmp(req->tools[i].name, name) != 0) continue;
        req->named = req->tools[i].name;
        req->calls = API__CALLS_FORCED;
        return 0;
    }
    return api__bad_param(e, "tool_choice", "names a function that is not in tools");
}

static int read_choice(api_request *req, const json_t *choice, err *e) {
    const char *word = json_c_string(choice);
    req->calls = API__CALLS_AUTO;
    if (choice == NULL || (word && strcmp(word, "auto") == 0)) return 0;
    if (json_is_object(choice)) return read_named(req, choice, e);
    if (word && strcmp(word, "none") == 0) req->calls = API__CALLS_NONE;
    else if (word && strcmp(word, "required") == 0) req->calls = API__CALLS_FORCED;
    else
        return api__bad_param(e, "tool_choice",
                              "must be none, auto, required or an object that names a function");
    return 0;
}

const char *api__tools_lead(const json_t *tools, arena *mem, err *e) {
    buf text = {0};
    buf_puts(&text, "You can call these functions, described as JSON:\n");
    for (size_t i = 0; i < json_array_size(tools); i++) {
        api__dump(&text, json_object_get(json_array_get(tools, i), "function"));
        buf_puts(&text, "\n");
    }
    buf_puts(&text, "To call one, answer only with {\"name\":NAME,\"arguments\":{...}}.");
    const char *lead = text.failed ? NULL : arena_strndup(mem, text.data, text.len);
    buf_deinit(&text);
    if (lead == NULL) api__out_of_memory(e);
    return lead;
}

static bool shows_tools(const api_context *ctx) {
    return ctx->template && api__template_traits(ctx->template, true)->tools;
}

/* A forced call takes the place of the format, which is that of a text. Only a model whose template
 * shows functions knows when to end a list of calls; others make one. */
static int force(api_request *req, const api_context *ctx, const api__values *fields,
                 const json_t *tools, err *e) {
    if (api__can_constrain(ctx, fields, "tool_choice", e) != 0) return -1;
    api__grammar_release(req->grammar);
    req->grammar = NULL;
    req->form_field = "tools";
    bool one = req->one_call || req->named || !shows_tools(ctx);
    const api__form form = {.json = tools,
                            .calls = one ? req->notation->grammar : req->notation->grammar_many,
                            .only = req->named,
                            .param = "tools"};
    return api__grammar_get(&req->grammar, ctx->grammars, &form, req->soon, e);
}

/* The answer is a call or a text of the format asked for. 1: a worker must compile it. */
static int allow_calls(api_request *req, const json_t *tools, err *e) {
    api__grammar *both;
    if (req->grammar == NULL) return 0;
    if (req->soon) return 1; /* compiling takes more than the loop thread may */
    if (api__grammar_compile_either(&both, tools, req->notation->tags, req->form, req->form_strict,
                                    "tools", e) != 0)
        return -1;
    api__grammar_release(req->grammar);
    req->grammar = both;
    return 0;
}

/* Without functions the model can only answer with a text. */
static int check_choice(const json_t *choice, err *e) {
    const char *word = json_c_string(choice);
    if (choice == NULL || (word && (strcmp(word, "none") == 0 || strcmp(word, "auto") == 0)))
        return 0;
    return api__bad_param(e, "tool_choice", "requires tools of type function");
}

/* A model whose template shows no functions reads api__tools_lead, which asks for JSON. */
static const api__notation *notation_of(const api_context *ctx) {
    return shows_tools(ctx) ? api__template_traits(ctx->template, true)->notation
                            : &api__notation_json;
}

int api__read_tools(api_request *req, const api_context *ctx, const api__values *fields,
                    json_t **tools, err *e) {
    json_t *list = NULL;
    *tools = NULL;
    if (fields->tools &&
        api__list_tools(fields->tools, req->dialect->flat, &req->mem, &req->tools, &list, e) != 0)
        return -1;
    if (list == NULL) return check_choice(fields->tool_choice, e);
    int rc = 0;
    req->n_tools = (uint32_t)json_array_size(list);
    req->notation = notation_of(ctx);
    req->one_call = !fields->parallel_tool_calls;
    if (rc == 0) rc = read_choice(req, fields->tool_choice, e);
    if (rc == 0 && req->calls == API__CALLS_FORCED) rc = force(req, ctx, fields, list, e);
    if (rc == 0 && req->calls == API__CALLS_AUTO) rc = allow_calls(req, list, e);
    if (rc == 0 && req->calls != API__CALLS_NONE) *tools = list;
    else json_decref(list);
    return rc;
}
