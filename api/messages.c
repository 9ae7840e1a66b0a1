/* messages.c - turns the conversations of chat and responses into a list of messages. */
#include "api/dialect_internal.h"

#include <stdlib.h>

/* Memory for rendering: COPIES of the longest body, and SPARE_BYTES for values made by the
 * template. */
enum { COPIES = 8, SPARE_BYTES = 16 << 20 };

/* The list being read. Errors name the place in it: "messages[3].role". */
typedef struct {
    const api_context *ctx;
    const api__traits *traits;
    const char *list;
    arena *mem;
    json_t *made; /* owns values of messages beyond the client's JSON */
    err *error;
} reading;

static int bad(const reading *reader, err_code code, size_t i, const char *key, const char *rule) {
    char param[64];
    (void)snprintf(param, sizeof param, "%s[%zu]%s%s", reader->list, i, key[0] ? "." : "", key);
    return err_set(reader->error, code, param, "%s %s", param, rule);
}

static int read_role(const reading *reader, const json_t *value, size_t i, api__role *out) {
    const char *name = json_c_string(value);
    size_t role = 0;
    if (name == NULL) return bad(reader, ERR_BAD_PARAM, i, "role", "must be a string");
    while (role < API__ROLES && strcmp(api__role_names[role], name) != 0)
        role++;
    if (role == API__ROLES) {
        return bad(reader, ERR_BAD_PARAM, i, "role",
                   "must be system, developer, user, assistant or tool");
    }
    bool system = role == API__SYSTEM || role == API__DEVELOPER;
    /* A template that refuses system messages raises its own error. */
    if (system && !reader->traits->system && !reader->traits->refuses) {
        return bad(reader, ERR_BAD_PARAM, i, "role",
                   "is not supported by this model's chat template");
    }
    *out = (api__role)role;
    return 0;
}

static bool is_text(const char *type) {
    return strcmp(type, "text") == 0 || strcmp(type, "input_text") == 0 ||
           strcmp(type, "output_text") == 0;
}

static int check_parts(const reading *reader, const json_t *parts, size_t i, size_t *bytes) {
    size_t n = json_array_size(parts);
    if (n == 0) return bad(reader, ERR_BAD_PARAM, i, "content", "may not be an empty list");
    for (size_t k = 0; k < n; k++) {
        const json_t *part = json_array_get(parts, k), *text = json_object_get(part, "text");
        const char *type = json_c_string(json_object_get(part, "type"));
        if (type == NULL)
            return bad(reader, ERR_BAD_PARAM, i, "content", "must be a list of parts with a type");
        if (!is_text(type)) {
            return bad(reader, ERR_UNSUPPORTED, i, "content", "supports text parts only");
        }
        if (!json_is_string(text))
            return bad(reader, ERR_BAD_PARAM, i, "content", "has a text part without text");
        *bytes += json_string_length(text) + 1; /* cannot overflow: the body holds all the text */
    }
    return 0;
}

/* Joins text parts by newlines. The server fetches nothing, so it takes no other parts. */
static int join_parts(const reading *reader, const json_t *parts, size_t i, api__message *out) {
    size_t total = 0, at = 0;
    if (check_parts(reader, parts, i, &total) != 0) return -1;
    char *joined = arena_alloc(reader->mem, total);
    if (joined == NULL) return api__out_of_memory(reader->error);
    for (size_t k = 0; k < json_array_size(parts); k++) {
        const json_t *text = json_object_get(json_array_get(parts, k), "text");
        if (k > 0) joined[at++] = '\n';
        memcpy(joined + at, json_string_value(text), json_string_length(text));
        at += json_string_length(text);
    }
    out->text = joined;
    out->len = at;
    return 0;
}

static int read_content(const reading *reader, const json_t *content, size_t i, api__message *out) {
    if (json_is_array(content)) return join_parts(reader, content, i, out);
    if (!json_is_string(content)) {
        return bad(reader, ERR_BAD_PARAM, i, "content", "must be a string or a list of text parts");
    }
    out->text = json_string_value(content);
    out->len = json_string_length(content);
    out->content = content;
    return 0;
}

/* ---- calls of functions ---- */

static int keep_text(const reading *reader, buf *text, api__message *out) {
    out->content = NULL;
    out->text =
        text->failed ? NULL : arena_strndup(reader->mem, text->data ? text->data : "", text->len);
    out->len = text->len;
    buf_deinit(text);
    return out->text ? 0 : api__out_of_memory(reader->error);
}

/* For a template without calls: writes a call as the model would write it. The arguments are JSON
 * text from a client, so they may be any string. */
static void write_call(buf *text, const json_t *name, const json_t *arguments) {
    if (text->len) buf_puts(text, "\n");
    buf_puts(text, "{\"name\":");
    buf_json_string(text, json_string_value(name), json_string_length(name));
    buf_puts(text, ",\"arguments\":");
    buf_append(text, json_string_value(arguments), json_string_length(arguments));
    buf_puts(text, "}");
}

/* Adds one call to `calls`, or as JSON to `text`. */
static int add_call(const reading *reader, const json_t *id, const json_t *function, size_t i,
                    json_t *calls, buf *text) {
    const json_t *name = json_object_get(function, "name"),
                 *arguments = json_object_get(function, "arguments");
    if (!json_is_string(name) || !json_is_string(arguments)) {
        return bad(reader, ERR_BAD_PARAM, i, "tool_calls",
                   "must contain calls with the name and arguments of a function as strings");
    }
    if (!reader->traits->calls) {
        write_call(text, name, arguments);
        return 0;
    }
    json_t *call = api__talk_call(reader->traits, id, name, arguments, reader->error);
    if (call == NULL) return -1;
    return json_array_append_new(calls, call) == 0 ? 0 : api__out_of_memory(reader->error);
}

/* Ends the reading of an answer's calls: keeps the list or the text. */
static int keep_calls(const reading *reader, json_t *calls, buf *text, api__message *out) {
    if (!reader->traits->calls) return keep_text(reader, text, out);
    buf_deinit(text);
    out->calls = calls;
    return 0;
}

static json_t *new_calls(const reading *reader) {
    json_t *calls = json_array();
    if (calls && json_array_append(reader->made, calls) == 0) {
        json_decref(calls); /* reader->made holds a reference */
        return calls;
    }
    json_decref(calls);
    (void)api__out_of_memory(reader->error);
    return NULL;
}

static int read_calls(const reading *reader, const json_t *list, size_t i, api__message *out) {
    buf text = {0};
    if (!json_is_array(list) || json_array_size(list) == 0) {
        return bad(reader, ERR_BAD_PARAM, i, "tool_calls", "must be a list of at least one call");
    }
    json_t *calls = new_calls(reader);
    if (calls == NULL) return -1;
    buf_append(&text, out->text, out->len);
    for (size_t k = 0; k < json_array_size(list); k++) {
        const json_t *one = json_array_get(list, k);
        if (add_call(reader, json_object_get(one, "id"), json_object_get(one, "function"), i, calls,
                     &text) != 0) {
            buf_deinit(&text);
            return -1;
        }
    }
    return keep_calls(reader, calls, &text, out);
}

/* A template without results of functions prints a result as a user message. */
static int result_as_user(const reading *reader, api__message *out) {
    buf text = {0};
    if (reader->traits->result) return 0;
    out->role = API__USER;
    out->original = NULL;
    buf_puts(&text, "Result: ");
    buf_append(&text, out->text, out->len);
    return keep_text(reader, &text, out);
}

static int read_message(const reading *reader, const json_t *value, size_t i, api__message *out) {
    if (!json_is_object(value)) return bad(reader, ERR_BAD_PARAM, i, "", "must be an object");
    if (read_role(reader, json_object_get(value, "role"), i, &out->role) != 0) return -1;
    const json_t *content = api__member(value, "content"),
                 *calls = api__member(value, "tool_calls");
    if (calls && out->role != API__ASSISTANT) {
        return bad(reader, ERR_BAD_PARAM, i, "tool_calls", "is only allowed in assistant messages");
    }
    out->text = "";
    out->original = value;
    /* Only an assistant message with calls may lack a content. */
    if ((content || !calls) && read_content(reader, content, i, out) != 0) return -1;
    if (calls) return read_calls(reader, calls, i, out);
    return out->role == API__TOOL ? result_as_user(reader, out) : 0;
}

/* ---- items of /v1/responses ---- */

static int read_call_item(const reading *reader, const json_t *value, size_t i, api__message *out) {
    buf text = {0};
    json_t *calls = new_calls(reader);
    out->role = API__ASSISTANT;
    out->text = "";
    if (calls == NULL) return -1;
    if (add_call(reader, json_object_get(value, "call_id"), value, i, calls, &text) == 0)
        return keep_calls(reader, calls, &text, out);
    buf_deinit(&text);
    return -1;
}

static int read_result_item(const reading *reader, const json_t *value, size_t i,
                            api__message *out) {
    json_t *output = json_object_get(value, "output"), *id = json_object_get(value, "call_id");
    if (!json_is_string(output)) return bad(reader, ERR_BAD_PARAM, i, "output", "must be a string");
    *out = (api__message){.role = API__TOOL,
                          .text = json_string_value(output),
                          .len = json_string_length(output),
                          .content = output};
    if (json_is_string(id)) {
        json_t *original = json_object();
        int rc = original && json_object_set(original, "tool_call_id", id) == 0 &&
                         json_array_append(reader->made, original) == 0
                     ? 0
                     : api__out_of_memory(reader->error);
        out->original = original; /* reader->made holds a reference */
        json_decref(original);
        if (rc != 0) return -1;
    }
    return result_as_user(reader, out);
}

static int read_item(const reading *reader, const json_t *value, size_t i, api__message *out) {
    const json_t *type = api__member(value, "type");
    const char *name = type ? json_c_string(type) : "message";
    if (!json_is_object(value)) return bad(reader, ERR_BAD_PARAM, i, "", "must be an object");
    if (name == NULL) return bad(reader, ERR_BAD_PARAM, i, "type", "must be a string");
    if (strcmp(name, "message") == 0) return read_message(reader, value, i, out);
    if (strcmp(name, "function_call") == 0) return read_call_item(reader, value, i, out);
    if (strcmp(name, "function_call_output") == 0) return read_result_item(reader, value, i, out);
    return bad(reader, ERR_UNSUPPORTED, i, "type",
               "must be message, function_call or function_call_output");
}

/* ---- lists ---- */

static int check_end(const reading *reader, const api__message *msgs, size_t n, bool open_last) {
    bool answered = msgs[n - 1].role == API__ASSISTANT;
    if (answered && n > 1 && msgs[n - 2].role == API__ASSISTANT &&
        strcmp(reader->list, "messages") == 0) {
        return err_set(reader->error, ERR_BAD_PARAM, reader->list,
                       "%s may not end with two assistant messages", reader->list);
    }
    if (!open_last || answered) return 0;
    return err_set(reader->error, ERR_BAD_PARAM, "continue_final_message",
                   "continue_final_message requires an assistant message at the end");
}

/* Puts a text before everything: as a system message, or at the start of the first message if the
 * template has no system role. The list has room for one more message. */
static int put_lead(const reading *reader, const char *lead, api__message *msgs, size_t *n) {
    buf text = {0};
    if (reader->traits->system && msgs[0].role != API__SYSTEM && msgs[0].role != API__DEVELOPER) {
        memmove(msgs + 1, msgs, *n * sizeof *msgs);
        msgs[0] = (api__message){.role = API__SYSTEM, .text = lead, .len = strlen(lead)};
        *n += 1;
        return 0;
    }
    buf_puts(&text, lead);
    buf_puts(&text, "\n\n");
    buf_append(&text, msgs[0].text, msgs[0].len);
    return keep_text(reader, &text, &msgs[0]);
}

static int read_instructions(const reading *reader, const json_t *text, api__message *out) {
    if (!json_is_string(text))
        return api__bad_param(reader->error, "instructions", "must be a string");
    if (!reader->traits->system && !reader->traits->refuses) {
        return err_set(reader->error, ERR_BAD_PARAM, "instructions",
                       "instructions require a system role, which this model's chat template does "
                       "not support");
    }
    *out = (api__message){.role = API__SYSTEM,
                          .text = json_string_value(text),
                          .len = json_string_length(text),
                          .content = text};
    return 0;
}

/* Each call is an item of its own. Calls after an answer, or after each other, join one message. */
static bool joins_turn(const api__message *msgs, size_t at) {
    return at > 0 && msgs[at].calls && !msgs[at].original && msgs[at].len == 0 &&
           msgs[at - 1].role == API__ASSISTANT;
}

static int join_turn(const reading *reader, api__message *msg, const api__message *call) {
    if (msg->calls == NULL) msg->calls = call->calls;
    else if (json_array_extend((json_t *)(uintptr_t)msg->calls, (json_t *)(uintptr_t)call->calls) !=
             0)
        return api__out_of_memory(reader->error);
    return 0;
}

static int read_list(const reading *reader, const json_t *list, const api__turns *turns,
                     api__message *msgs, size_t *n) {
    size_t at = 0;
    if (turns->instructions && read_instructions(reader, turns->instructions, &msgs[at++]) != 0)
        return -1;
    if (json_is_string(list)) {
        msgs[at++] = (api__message){.role = API__USER,
                                    .text = json_string_value(list),
                                    .len = json_string_length(list),
                                    .content = list};
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *value = json_array_get(list, i);
        msgs[at] = (api__message){0};
        if ((turns->items ? read_item(reader, value, i, &msgs[at])
                          : read_message(reader, value, i, &msgs[at])) != 0)
            return -1;
        if (!turns->items || !joins_turn(msgs, at)) at++;
        else if (join_turn(reader, &msgs[at - 1], &msgs[at]) != 0) return -1;
    }
    *n = at;
    if (check_end(reader, msgs, at, turns->open_last) != 0) return -1;
    if (turns->tools == NULL || reader->traits->tools) return 0;
    const char *lead = api__tools_lead(turns->tools, reader->mem, reader->error);
    return lead ? put_lead(reader, lead, msgs, n) : -1;
}

/* ---- rendering ---- */

static int check_kwargs(const api__template *tmpl, const json_t *kwargs, err *e) {
    static const char name[] = "chat_template_kwargs";
    const char *key;
    json_t *value;
    if (kwargs == NULL || json_is_null(kwargs)) return 0;
    if (!json_is_object(kwargs)) return api__bad_param(e, name, "must be an object");
    if (json_object_size(kwargs) > API__MAX_KWARGS)
        return api__bad_param(e, name, "may have at most 64 members");
    json_object_foreach((json_t *)(uintptr_t)kwargs, key, value) {
        if (!api__template_reserves(tmpl, key)) continue;
        return err_set(e, ERR_BAD_PARAM, name,
                       "%s: %.64s is set by the server and cannot be changed", name, key);
    }
    return 0;
}

static int render(const reading *reader, const api__turns *turns, const api__message *msgs,
                  size_t n, jinja_output *text, token_ids *out) {
    api__talk talk = {.tools = reader->traits->tools ? turns->tools : NULL,
                      .kwargs = turns->kwargs,
                      .generation = turns->generation && !turns->open_last,
                      .open_last = turns->open_last,
                      .soon = turns->soon,
                      .max_memory = reader->ctx->opts.max_body_bytes * COPIES + SPARE_BYTES};
    json_t *messages = api__talk_messages(reader->traits, msgs, n, turns->open_last);
    if (messages == NULL) return api__out_of_memory(reader->error);
    talk.messages = messages;
    err why = {0};
    int rc = api__template_render(reader->ctx->template, &talk, text, &why);
    json_decref(messages);
    if (rc < 0) {
        const char *param = why.param[0] ? why.param : reader->list;
        return err_set(reader->error, why.code, param, "%s", why.msg);
    }
    return rc == 0 ? api__template_ids(reader->ctx->opts.tokenizer, text, out, reader->error) : rc;
}

static int check_list(const reading *reader, const json_t *list, const api__turns *turns) {
    const api_context *ctx = reader->ctx;
    bool text = turns->items && json_is_string(list);
    size_t n = text ? 1 : json_array_size(list);
    if (list == NULL)
        return err_set(reader->error, ERR_BAD_PARAM, reader->list, "%s is missing", reader->list);
    if (ctx->opts.tokenizer == NULL)
        return api__no_tokenizer(ctx, reader->list, "send token ids to /v1/completions",
                                 reader->error);
    if (ctx->template == NULL) {
        return err_set(reader->error, ERR_UNSUPPORTED, reader->list,
                       "this model has no chat template: use /v1/completions, or start the server "
                       "with --chat-template FILE|NAME");
    }
    if (api__template_broken(ctx->template)) {
        return err_set(
            reader->error, ERR_UNSUPPORTED, reader->list,
            "this model's chat template cannot be used: %.200s. To replace it, start the server "
            "with "
            "--chat-template FILE|NAME or add chat_template.fathom.json to the model's folder",
            api__template_broken(ctx->template));
    }
    if (!text && !json_is_array(list)) {
        return err_set(reader->error, ERR_BAD_PARAM, reader->list, "%s must be a %slist",
                       reader->list, turns->items ? "string or a " : "");
    }
    if (n > 0 && n <= API__MAX_MESSAGES)
        return check_kwargs(ctx->template, turns->kwargs, reader->error);
    return err_set(reader->error, ERR_BAD_PARAM, reader->list, "%s must have 1 to %d entries",
                   reader->list, API__MAX_MESSAGES);
}

int api__turns_to_ids(const api_context *ctx, const json_t *list, const api__turns *turns,
                      arena *mem, jinja_output *text, token_ids *out, err *e) {
    reading reader = {
        .ctx = ctx, .list = turns->items ? "input" : "messages", .mem = mem, .error = e};
    jinja_output own = {0};
    size_t n = json_is_array(list) ? json_array_size(list) : 1;
    if (check_list(&reader, list, turns) != 0) return -1;
    reader.traits = api__template_traits(ctx->template, turns->tools != NULL);
    reader.made = json_array();
    api__message *msgs = arena_array(mem, n + 2, sizeof *msgs);
    int rc =
        msgs && reader.made ? read_list(&reader, list, turns, msgs, &n) : api__out_of_memory(e);
    if (rc == 0) rc = render(&reader, turns, msgs, n, text ? text : &own, out);
    json_decref(reader.made);
    jinja_output_deinit(&own);
    return rc;
}

int api__body_to_ids(const api_context *ctx, const json_t *root, bool soon, jinja_output *text,
                     token_ids *out, err *e) {
    api__turns turns = {
        .generation = true, .soon = soon, .kwargs = api__member(root, "chat_template_kwargs")};
    const json_t *tools = api__member(root, "tools");
    api__tool *functions;
    json_t *list = NULL;
    arena mem;
    if (api__read_bool(json_object_get(root, "add_generation_prompt"), "add_generation_prompt",
                       &turns.generation, e) != 0) {
        return -1;
    }
    if (api__read_bool(json_object_get(root, "continue_final_message"), "continue_final_message",
                       &turns.open_last, e) != 0) {
        return -1;
    }
    arena_init(&mem, ctx->opts.max_body_bytes * 2 + (1 << 20));
    int rc = tools ? api__list_tools(tools, false, &mem, &functions, &list, e) : 0;
    turns.tools = list;
    if (rc == 0)
        rc = api__turns_to_ids(ctx, json_object_get(root, "messages"), &turns, &mem, text, out, e);
    json_decref(list);
    arena_deinit(&mem);
    return rc;
}

static int read_turns(api_request *req, const api_context *ctx, const json_t *list,
                      const api__turns *turns, err *e) {
    token_ids ids = {0};
    req->prompts = arena_array(&req->mem, 1, sizeof *req->prompts);
    if (req->prompts == NULL) return api__out_of_memory(e);
    int rc = api__turns_to_ids(ctx, list, turns, &req->mem, NULL, &ids, e);
    if (rc == 0) rc = api__keep_ids(req, ctx, &ids, &req->prompts[0], req->dialect->input, e);
    token_ids_deinit(&ids);
    req->n_prompts = 1;
    return rc;
}

int api__read_conversation(api_request *req, const api_context *ctx, const api__values *fields,
                           const json_t *list, api__turns *turns, err *e) {
    json_t *tools = NULL;
    int rc = api__read_tools(req, ctx, fields, &tools, e);
    turns->soon = req->soon;
    turns->tools = tools;
    turns->kwargs = fields->chat_template_kwargs;
    if (rc == 0) rc = read_turns(req, ctx, list, turns, e);
    json_decref(tools);
    return rc;
}
