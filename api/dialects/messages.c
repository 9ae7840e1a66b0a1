/* messages.c - the dialect of Anthropic's /v1/messages, and its count_tokens.
 *
 * A body is turned into the shapes of chat completions (messages by blocks.c), and then read like
 * one. If the last message is the assistant's, the answer continues it. */
#include "api/dialect_internal.h"

/* ---- reading: fields ---- */

typedef struct {
    api__values shared;
    const json_t *messages, *system, *stop_sequences, *tools, *tool_choice, *thinking,
        *output_config, *output_format, *thread, *metadata, *context_management, *container,
        *mcp_servers;
    int64_t max_tokens;
    const char *service_tier;
} values;

static const api__field fields[] = {
    API__OWN_JSON(values, messages, "Messages of the conversation so far, 1 to 1000."),
    API__OWN_JSON(values, system, "System message: a string or a list of text blocks."),
    API__OWN_INT(values, max_tokens, 0, API__ANY_TOKENS,
                 "Maximum number of tokens to generate. Default: set by the server."),
    API__OWN_JSON(values, stop_sequences,
                  "Up to 16 strings of at most 256 bytes. The first one that is generated ends the "
                  "answer and is removed from the text."),
    API__OWN_JSON(
        values, tools,
        "Functions that the model may call; at most 128 tools. Tools that Anthropic runs are "
        "ignored."),
    API__OWN_JSON(values, tool_choice,
                  "auto (default): the model decides. any: the model must call a function. tool: "
                  "it must call the named one. none: no calls. disable_parallel_tool_use: at most "
                  "one call."),
    API__OWN_JSON(values, thinking,
                  "disabled: no reasoning, if the chat template can turn it off, and none in the "
                  "answer. enabled or adaptive: reasoning as thinking blocks. Default: as the "
                  "chat template has it."),
    API__OWN_JSON(values, output_config,
                  "effort: the same as reasoning_effort. format: a JSON Schema for the answer."),
    API__OWN_JSON(values, output_format, "Older name of output_config.format."),
    API__OWN_JSON(values, thread,
                  "Not supported: nothing is stored. The official package then sends "
                  "the whole conversation."),
    API__OWN_JSON(values, metadata, "Accepted but not used."),
    API__OWN_JSON(values, context_management, "Accepted but not used."),
    API__OWN_JSON(values, container, "Accepted but not used."),
    API__OWN_JSON(values, mcp_servers, "Accepted but not used."),
    API__OWN_STR(values, service_tier, 0, "Accepted but not used."),
};

/* ---- reading: shapes of chat completions ---- */

/* A body in the shapes of chat completions. `made` owns all values. */
typedef struct {
    json_t *made;
    json_t *messages, *tools, *tool_choice, *kwargs, *format;
    bool open_last, one_call;
    err *error;
} chat_shape;

/* Gives a new value to `made`. NULL: out of memory. */
static json_t *own(chat_shape *shape, json_t *value) {
    if (value && json_array_append_new(shape->made, value) == 0) return value;
    (void)api__out_of_memory(shape->error);
    return NULL;
}

static int append(chat_shape *shape, json_t *list, json_t *value) {
    return value && json_array_append_new(list, value) == 0 ? 0 : api__out_of_memory(shape->error);
}

/* ---- reading: tools and thinking ---- */

/* A function has an input_schema. Tools run by Anthropic have a type instead. */
static int read_tools(chat_shape *shape, const values *from) {
    json_t *tool;
    size_t i;
    if (from->tools == NULL) return 0;
    if (!json_is_array(from->tools))
        return api__bad_param(shape->error, "tools", "must be a list of tools");
    shape->tools = own(shape, json_array());
    if (shape->tools == NULL) return -1;
    json_array_foreach((json_t *)(uintptr_t)from->tools, i, tool) {
        const json_t *schema = api__member(tool, "input_schema"), *type = api__member(tool, "type");
        if (!json_is_object(tool))
            return api__bad_param(shape->error, "tools", "must be a list of objects");
        if (schema == NULL && type && !api__is_type(tool, "custom")) continue;
        json_t *chat = json_pack("{ss,s{sO*,sO*,sO*,sO*}}", "type", "function", "function", "name",
                                 json_object_get(tool, "name"), "description",
                                 api__member(tool, "description"), "parameters", schema, "strict",
                                 api__member(tool, "strict"));
        if (append(shape, shape->tools, chat) != 0) return -1;
    }
    return 0;
}

static int read_choice(chat_shape *shape, const values *from) {
    static const char *const names[][2] = {{"auto", "auto"}, {"any", "required"}, {"none", "none"}};
    const json_t *choice = from->tool_choice;
    if (choice == NULL) return 0;
    if (api__read_bool(json_object_get(choice, "disable_parallel_tool_use"),
                       "tool_choice.disable_parallel_tool_use", &shape->one_call,
                       shape->error) != 0)
        return -1;
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (!api__is_type(choice, names[i][0])) continue;
        shape->tool_choice = own(shape, json_string(names[i][1]));
        return shape->tool_choice ? 0 : -1;
    }
    const json_t *name = json_object_get(choice, "name");
    if (!api__is_type(choice, "tool") || !json_is_string(name)) {
        return api__bad_param(shape->error, "tool_choice",
                              "must have the type auto, any, none, or tool with a name");
    }
    shape->tool_choice =
        own(shape, json_pack("{ss,s{sO}}", "type", "function", "function", "name", name));
    return shape->tool_choice ? 0 : -1;
}

/* Thinking is a variable of many chat templates. The client's own value counts more. */
static int read_thinking(chat_shape *shape, values *from) {
    bool off = api__is_type(from->thinking, "disabled"),
         on = api__is_type(from->thinking, "enabled");
    if (from->thinking == NULL) return 0;
    if (!off && !on && !api__is_type(from->thinking, "adaptive")) {
        return api__bad_param(shape->error, "thinking",
                              "must have the type enabled, disabled or adaptive");
    }
    if (off) from->shared.include_reasoning = false;
    if ((!off && !on) || from->shared.chat_template_kwargs) return 0;
    shape->kwargs = own(shape, json_pack("{sb}", "enable_thinking", on));
    from->shared.chat_template_kwargs = shape->kwargs;
    return shape->kwargs ? 0 : -1;
}

/* {"type": "json_schema", "schema": ...}: the shape with a schema and no name is json_object's. */
static int read_format(chat_shape *shape, values *from) {
    const json_t *format = api__member(from->output_config, "format"),
                 *effort = api__member(from->output_config, "effort");
    const char *param = format ? "output_config.format" : "output_format";
    if (format == NULL) format = from->output_format;
    if (effort && !json_c_string(effort))
        return api__bad_param(shape->error, "output_config.effort", "must be a string");
    if (effort) {
        from->shared.reasoning_effort = json_c_string(effort);
        from->shared.effort_field = "output_config.effort";
    }
    if (format == NULL) return 0;
    const json_t *schema = json_object_get(format, "schema");
    if (!api__is_type(format, "json_schema") || !json_is_object(schema))
        return api__bad_param(shape->error, param, "must have the type json_schema and a schema");
    shape->format = own(shape, json_pack("{ss,sO}", "type", "json_object", "schema", schema));
    from->shared.response_format = shape->format;
    from->shared.format_field = param;
    return shape->format ? 0 : -1;
}

static int to_chat(chat_shape *shape, values *from) {
    shape->messages =
        api__chat_messages(from->messages, from->system, &shape->open_last, shape->error);
    if (shape->messages == NULL || own(shape, shape->messages) == NULL) return -1;
    if (read_tools(shape, from) != 0) return -1;
    if (read_choice(shape, from) != 0 || read_thinking(shape, from) != 0) return -1;
    return read_format(shape, from);
}

static int prepare(api_request *req, const api_context *ctx, api__values *shared, err *e) {
    values *from = (values *)shared;
    chat_shape shape = {.made = json_array(), .error = e};
    (void)ctx;
    req->made = shape.made; /* lives until the body is read */
    if (shape.made == NULL) return api__out_of_memory(e);
    if (from->thread) {
        return err_set(e, ERR_UNSUPPORTED, "thread",
                       "thread is not supported: send the whole conversation");
    }
    if (to_chat(&shape, from) != 0) return -1;
    from->messages = shape.messages;
    shared->limit = from->max_tokens;
    shared->stop = from->stop_sequences;
    shared->stop_field = "stop_sequences";
    shared->tools = shape.tools;
    shared->tool_choice = shape.tool_choice;
    shared->parallel_tool_calls = !shape.one_call;
    req->open_last = shape.open_last;
    return 0;
}

static int read_input(api_request *req, const api_context *ctx, const api__values *shared, err *e) {
    api__turns turns = {.generation = true, .open_last = req->open_last};
    return api__read_conversation(req, ctx, shared, ((const values *)shared)->messages, &turns, e);
}

/* ---- count_tokens ---- */

extern const api_dialect api_dialect_messages;

/* Counts a prompt of any length: a client must learn how much to cut. */
static int count(const api_context *ctx, const json_t *root, bool soon, uint64_t *n, err *e) {
    values from;
    token_ids ids = {0};
    chat_shape shape = {.made = json_array(), .error = e};
    int rc = shape.made ? api__read_fields(&from.shared, &api_dialect_messages, root, e)
                        : api__out_of_memory(e);
    if (rc == 0) rc = api__check_model(ctx, from.shared.model, e);
    if (rc == 0) rc = to_chat(&shape, &from);
    json_t *body = rc == 0 ? json_pack("{sO,sO*,sO*,sb}", "messages", shape.messages, "tools",
                                       json_array_size(shape.tools) ? shape.tools : NULL,
                                       "chat_template_kwargs", from.shared.chat_template_kwargs,
                                       "continue_final_message", shape.open_last)
                           : NULL;
    if (rc == 0) {
        rc = body ? api__body_to_ids(ctx, body, soon, NULL, &ids, e) : api__out_of_memory(e);
    }
    *n = ids.n;
    token_ids_deinit(&ids);
    json_decref(body);
    json_decref(shape.made);
    return rc;
}

int api__count_tokens(api_listing **out, const api_context *ctx, const char *body, size_t n,
                      bool soon, err *e) {
    json_t *root = NULL;
    buf answer = {0};
    uint64_t tokens = 0;
    *out = NULL;
    if (api__body(&root, ctx, body, n, e) != 0) return -1;
    int rc = count(ctx, root, soon, &tokens, e);
    json_decref(root);
    if (rc != 0) return rc;
    buf_printf(&answer, "{\"input_tokens\":%llu}", (unsigned long long)tokens);
    return api__listing_of(out, ctx, &answer, e);
}

/* ---- writing: parts of objects ---- */

/* The block of each kind of part: its type, the name of its text in a delta, and the delta's type.
 */
static const struct {
    const char *type, *text, *delta;
} kinds[] = {
    [API__PART_TEXT] = {"text", "text", "text_delta"},
    [API__PART_THOUGHT] = {"thinking", "thinking", "thinking_delta"},
    [API__PART_CALL] = {"tool_use", "partial_json", "input_json_delta"},
};

static void write_usage(buf *out, const api_reply *reply) {
    uint64_t prompt, output;
    api_reply_usage(reply, &prompt, &output);
    /* Cached tokens are not counted as input tokens. */
    buf_printf(out,
               "\"usage\":{\"input_tokens\":%llu,\"cache_creation_input_tokens\":0,"
               "\"cache_read_input_tokens\":%llu,\"output_tokens\":%llu,\"input_loops\":%llu,"
               "\"output_loops\":%llu}",
               (unsigned long long)(prompt - reply->n_cached), (unsigned long long)reply->n_cached,
               (unsigned long long)output, (unsigned long long)reply->prompt_loops,
               (unsigned long long)reply->output_loops);
}

static void write_reason(buf *out, const api_reply *reply) {
    const api__choice *choice = &reply->choices[0];
    bool stop = choice->finish == SCHED_STOP && choice->stop_hit >= 0;
    const char *reason = choice->finish != SCHED_STOP ? "max_tokens"
                         : stop                       ? "stop_sequence"
                         : choice->answer.n_calls > 0 ? "tool_use"
                                                      : "end_turn";
    buf_printf(out, "\"stop_reason\":\"%s\",\"stop_sequence\":", reason);
    if (stop) {
        const api__stop *hit = &reply->req->stops[choice->stop_hit];
        buf_json_string(out, hit->text, hit->len);
    } else {
        buf_puts(out, "null");
    }
}

/* Writes a message up to its blocks. */
static void open_message(buf *out, const api_reply *reply) {
    buf_puts(out, "{\"id\":");
    buf_json_text(out, reply->id);
    buf_puts(out, ",\"type\":\"message\",\"role\":\"assistant\",\"model\":");
    buf_json_text(out, reply->ctx->name);
    buf_puts(out, ",\"content\":[");
}

/* Writes a block up to its text or its input. */
static void open_block(buf *out, const api_reply *reply) {
    const api__cursor *cursor = &reply->cursor;
    const api__choice *choice = &reply->choices[0];
    buf_printf(out, "{\"type\":\"%s\",", kinds[cursor->kind].type);
    if (cursor->kind == API__PART_CALL) {
        buf_puts(out, "\"id\":");
        api__write_item_id(out, reply, choice, cursor->n_call, "toolu");
        buf_puts(out, ",");
        api__write_call_name(out, reply, choice, cursor->n_call);
        buf_puts(out, ",\"input\":");
        return;
    }
    if (cursor->kind == API__PART_THOUGHT) buf_puts(out, "\"signature\":\"\",");
    buf_printf(out, "\"%s\":", kinds[cursor->kind].text);
}

/* ---- writing: a stream ---- */

static void open_event(buf *out, const char *type) {
    buf_printf(out, "event: %s\ndata: {\"type\":\"%s\"", type, type);
}

static void open_block_event(buf *out, const api_reply *reply, const char *type) {
    open_event(out, type);
    buf_printf(out, ",\"index\":%u", reply->cursor.part);
}

static bool message_start(buf *out, api_reply *reply, size_t end) {
    open_event(out, "message_start");
    buf_puts(out, ",\"message\":");
    open_message(out, reply);
    buf_puts(out, "],\"stop_reason\":null,\"stop_sequence\":null,");
    write_usage(out, reply);
    buf_puts(out, "}");
    return api__step_event_close(out, reply, end);
}

static bool block_start(buf *out, api_reply *reply, size_t end) {
    open_block_event(out, reply, "content_block_start");
    buf_puts(out, ",\"content_block\":");
    open_block(out, reply);
    buf_puts(out, reply->cursor.kind == API__PART_CALL ? "{}}" : "\"\"}");
    api__part_opened(&reply->choices[0]);
    return api__step_event_close(out, reply, end);
}

static bool delta_open(buf *out, api_reply *reply, size_t end) {
    (void)end;
    open_block_event(out, reply, "content_block_delta");
    buf_printf(out, ",\"delta\":{\"type\":\"%s\",\"%s\":", kinds[reply->cursor.kind].delta,
               kinds[reply->cursor.kind].text);
    return true;
}

static bool delta_end(buf *out, api_reply *reply, size_t end) {
    (void)reply, (void)end;
    buf_puts(out, "}");
    return true;
}

static bool block_stop(buf *out, api_reply *reply, size_t end) {
    open_block_event(out, reply, "content_block_stop");
    api__part_closed(&reply->choices[0]);
    return api__step_event_close(out, reply, end);
}

static bool begin_chunk(api_reply *reply, api__choice *choice) {
    static const api__step start[] = {message_start, NULL}, opens[] = {block_start, NULL},
                           grows[] = {delta_open,    api__step_text,   delta_end,
                                      api__step_ids, api__step_depths, api__step_delta_close,
                                      NULL},
                           closes[] = {block_stop, NULL};
    static const api__part_events events = {start, opens, grows, closes};
    return api__begin_part_event(reply, choice, &events);
}

static bool message_end(buf *out, api_reply *reply, size_t end) {
    open_event(out, "message_delta");
    buf_puts(out, ",\"delta\":{");
    write_reason(out, reply);
    buf_puts(out, "},");
    write_usage(out, reply);
    api__write_warnings(out, reply);
    (void)api__step_event_close(out, reply, end);
    open_event(out, "message_stop");
    return api__step_event_close(out, reply, end);
}

static void begin_end(api_reply *reply) {
    static const api__step steps[] = {message_end, NULL};
    reply->cursor = (api__cursor){.steps = steps};
}

/* ---- writing: a whole answer ---- */

static bool body_open(buf *out, api_reply *reply, size_t end) {
    (void)end;
    open_message(out, reply);
    return true;
}

/* False after a cut, or if the model wrote bad JSON. The arguments are then given as text. */
static bool arguments_are_json(const api_reply *reply) {
    const api__cursor *cursor = &reply->cursor;
    const buf *args = &reply->choices[0].answer.args;
    json_t *value = json_loadb(args->data + cursor->from, cursor->to - cursor->from,
                               JSON_REJECT_DUPLICATES, NULL);
    bool object = json_is_object(value);
    json_decref(value);
    return object;
}

enum { BLOCK_OPEN = 1 }; /* its index in the list of steps */

static bool block_open(buf *out, api_reply *reply, size_t end) {
    api__cursor *cursor = &reply->cursor;
    (void)end;
    if (cursor->part > 0) buf_puts(out, ",");
    api__at_part(reply, &reply->choices[0], cursor->part);
    cursor->to_token = reply->choices[0].n_tokens;
    cursor->raw = cursor->kind == API__PART_CALL && arguments_are_json(reply);
    open_block(out, reply);
    if (cursor->kind == API__PART_CALL && !cursor->raw) buf_puts(out, "{\"INVALID_JSON\":");
    return true;
}

static bool block_text(buf *out, api_reply *reply, size_t end) {
    api__cursor *cursor = &reply->cursor;
    if (!cursor->raw) return api__step_text(out, reply, end);
    const char *args = reply->choices[0].answer.args.data;
    return api__write_raw(out, cursor, args + cursor->from, cursor->to - cursor->from, end);
}

static bool block_close(buf *out, api_reply *reply, size_t end) {
    api__cursor *cursor = &reply->cursor;
    (void)end;
    buf_puts(out, cursor->kind == API__PART_CALL && !cursor->raw ? "}}" : "}");
    if (++cursor->part < api__n_parts(reply, &reply->choices[0]))
        cursor->step = BLOCK_OPEN - 1; /* the next block follows */
    return true;
}

static bool blocks_end(buf *out, api_reply *reply, size_t end) {
    (void)end;
    buf_puts(out, "],");
    write_reason(out, reply);
    buf_puts(out, ",");
    write_usage(out, reply);
    api__write_warnings(out, reply);
    return true;
}

static void begin_body(api_reply *reply) {
    static const api__step steps[] = {
        body_open,     [BLOCK_OPEN] = block_open, block_text, block_close, blocks_end,
        api__step_ids, api__step_depths,          delta_end,  NULL};
    reply->cursor = (api__cursor){.steps = steps};
}

/* ---- errors ---- */

static void error_body(buf *out, const api__fault *fault) {
    static const struct {
        unsigned status;
        const char *type;
    } types[] = {{401, "authentication_error"}, {403, "permission_error"},
                 {404, "not_found_error"},      {413, "request_too_large"},
                 {429, "rate_limit_error"},     {503, "overloaded_error"}};
    const char *type = fault->status < 500 ? "invalid_request_error" : "api_error";
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        if (types[i].status == fault->status) type = types[i].type;
    }
    buf_printf(out, "{\"type\":\"error\",\"error\":{\"type\":\"%s\",\"message\":", type);
    if (fault->limit > 0) { /* clients look for these words */
        buf_printf(out, "\"prompt is too long: %llu tokens > %llu maximum; ",
                   (unsigned long long)fault->have, (unsigned long long)fault->limit);
        buf_json_escaped(out, fault->message, strlen(fault->message));
        buf_puts(out, "\"}}");
        return;
    }
    buf_json_text(out, fault->message);
    /* The official package then sends the whole conversation. */
    if (fault->param && strcmp(fault->param, "thread") == 0) {
        buf_puts(out, ",\"details\":{\"error_code\":\"thread_unsupported_request\","
                      "\"unsupported\":[\"thread\"]}");
    }
    buf_puts(out, "}}");
}

static void error_event(buf *out, api_reply *reply, const api__fault *fault) {
    (void)reply;
    buf_puts(out, "event: error\ndata: ");
    error_body(out, fault);
    buf_puts(out, "\n\n");
}

const api_dialect api_dialect_messages = {
    .schema = "MessagesRequest",
    .input = "messages",
    .id_head = "msg_",
    .groups = API__EVERY | API__TALK,
    .fields = fields,
    .n_fields = ARRAY_LEN(fields),
    .values_bytes = sizeof(values),
    .prepare = prepare,
    .read_input = read_input,
    .begin_chunk = begin_chunk,
    .begin_end = begin_end,
    .begin_body = begin_body,
    .error_body = error_body,
    .error_event = error_event,
};
