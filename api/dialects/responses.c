/* responses.c - the stateless part of /v1/responses: its fields, its object, its events. Nothing is
 * stored, so no earlier response can be referred to.
 *
 * Events carry increasing sequence numbers. All events use the same ids of the response and its
 * items. The joined deltas are the text of the last event, so the whole text is kept until then.
 *
 * Each part of the answer is an item: a message, a reasoning item or a function call. */
#include "api/dialect_internal.h"

/* ---- reading ---- */

typedef struct {
    api__values shared;
    const json_t *input, *instructions, *text, *reasoning, *include, *metadata;
    int64_t max_output_tokens, max_tool_calls;
    const char *truncation;
} values;

static const api__field fields[] = {
    API__OWN_JSON(values, input,
                  "Input for the model: a string, or a list of 1 to 1000 messages, function calls "
                  "and results."),
    API__OWN_JSON(values, instructions, "System message to place before the input."),
    API__OWN_INT(values, max_output_tokens, -1, API__ANY_TOKENS,
                 "Maximum number of tokens to generate. Default, also for -1: set by the server."),
    API__OWN_INT(values, max_tool_calls, 1, INT32_MAX,
                 "Limits calls of tools that run on the server. There are none."),
    API__OWN_JSON(values, text,
                  "text.format: format of the answer, which is text (default), json_object or "
                  "json_schema."),
    API__OWN_JSON(values, reasoning, "reasoning.effort: the same as reasoning_effort."),
    API__OWN_JSON(values, include,
                  "message.output_text.logprobs returns log-probabilities. "
                  "reasoning.encrypted_content is accepted and has no effect."),
    API__OWN_JSON(values, metadata,
                  "Returned unchanged. At most 16 strings of up to 512 bytes, with keys of up to "
                  "64 bytes."),
    API__OWN_STR(values, truncation, 16,
                 "Must be disabled (default): an input that is too long is refused."),
    API__OWN_REFUSED(previous_response_id),
    API__OWN_REFUSED(conversation),
    API__OWN_REFUSED(background),
    API__OWN_REFUSED(prompt),
};

static int read_include(const json_t *list, bool *logprobs, err *e) {
    if (list && !json_is_array(list))
        return api__bad_param(e, "include", "must be a list of strings");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *what = json_c_string(json_array_get(list, i));
        if (what == NULL) return api__bad_param(e, "include", "must be a list of strings");
        if (strcmp(what, "message.output_text.logprobs") == 0) *logprobs = true;
        /* There is no hidden reasoning here, so this changes nothing. */
        else if (strcmp(what, "reasoning.encrypted_content") != 0) {
            return err_set(e, ERR_UNSUPPORTED, "include",
                           "include supports message.output_text.logprobs only");
        }
    }
    return 0;
}

static int read_reasoning(const json_t *reasoning, const char **effort, err *e) {
    if (reasoning == NULL) return 0;
    if (!json_is_object(reasoning)) return api__bad_param(e, "reasoning", "must be an object");
    const json_t *value = json_object_get(reasoning, "effort");
    if (value == NULL || json_is_null(value)) return 0;
    if (!json_is_string(value)) return api__bad_param(e, "reasoning.effort", "must be a string");
    *effort = json_c_string(value);
    return *effort ? 0 : api__bad_param(e, "reasoning.effort", "may not contain U+0000");
}

static int check_metadata(const json_t *metadata, err *e) {
    const char *key;
    json_t *value;
    if (metadata == NULL) return 0;
    if (!json_is_object(metadata) || json_object_size(metadata) > 16) {
        return api__bad_param(e, "metadata", "must be an object of at most 16 strings");
    }
    json_object_foreach((json_t *)(uintptr_t)metadata, key, value) {
        if (!json_is_string(value) || json_string_length(value) > 512 || strlen(key) > 64) {
            return api__bad_param(
                e, "metadata", "must map keys of at most 64 bytes to strings of at most 512 bytes");
        }
    }
    return 0;
}

static int prepare(api_request *req, const api_context *ctx, api__values *shared, err *e) {
    values *own = (values *)shared;
    (void)req, (void)ctx;
    shared->limit = own->max_output_tokens;
    shared->limit_field = "max_output_tokens";
    shared->format_field = "text.format";
    if (read_include(own->include, &shared->logprobs, e) != 0) return -1;
    if (shared->top_logprobs != API__NO_INT && shared->top_logprobs > 0) shared->logprobs = true;
    if (shared->logprobs && shared->top_logprobs != API__NO_INT)
        shared->n_top = shared->top_logprobs;
    if (own->reasoning) shared->effort_field = "reasoning.effort";
    if (read_reasoning(own->reasoning, &shared->reasoning_effort, e) != 0) return -1;
    if (check_metadata(own->metadata, e) != 0) return -1;
    if (own->truncation && strcmp(own->truncation, "disabled") != 0) {
        return strcmp(own->truncation, "auto") == 0
                   ? err_set(
                         e, ERR_UNSUPPORTED, "truncation",
                         "truncation auto is not supported: an input that is too long is refused")
                   : api__bad_param(e, "truncation", "must be disabled");
    }
    if (own->text == NULL) return 0;
    if (!json_is_object(own->text)) return api__bad_param(e, "text", "must be an object");
    shared->response_format = api__member(own->text, "format");
    return 0;
}

static int read_input(api_request *req, const api_context *ctx, const api__values *shared, err *e) {
    const values *own = (const values *)shared;
    api__turns turns = {.items = true, .generation = true, .instructions = own->instructions};
    return api__read_conversation(req, ctx, shared, own->input, &turns, e);
}

static void echo_json(buf *out, const char *key, const json_t *value, const char *absent) {
    buf_printf(out, ",\"%s\":", key);
    if (value) api__dump(out, value);
    else buf_puts(out, absent);
}

static void echo_string(buf *out, const char *key, const char *text) {
    buf_printf(out, ",\"%s\":", key);
    if (text) buf_json_text(out, text);
    else buf_puts(out, "null");
}

/* Prepares the members of the response object from the request. */
static int keep_echoed(api_request *req, const api__values *shared, err *e) {
    const values *own = (const values *)shared;
    buf text = {0};
    echo_json(&text, "instructions", own->instructions, "null");
    if (own->max_output_tokens == API__NO_INT) buf_puts(&text, ",\"max_output_tokens\":null");
    else buf_printf(&text, ",\"max_output_tokens\":%lld", (long long)own->max_output_tokens);
    buf_printf(
        &text,
        ",\"parallel_tool_calls\":%s,\"previous_response_id\":null,\"reasoning\":{\"effort\":",
        shared->parallel_tool_calls ? "true" : "false");
    if (shared->reasoning_effort) buf_json_text(&text, shared->reasoning_effort);
    else buf_puts(&text, "null");
    buf_printf(&text,
               ",\"summary\":null},\"store\":false,\"temperature\":%.6g,\"top_p\":%.6g,"
               "\"truncation\":\"disabled\"",
               (double)req->sampling.temperature,
               shared->top_p <= 0 ? 0.0 : (double)req->sampling.top_p);
    buf_puts(&text, ",\"text\":{\"format\":");
    if (shared->response_format) api__dump(&text, shared->response_format);
    else buf_puts(&text, "{\"type\":\"text\"}");
    buf_puts(&text, "}");
    echo_json(&text, "tool_choice", shared->tool_choice, "\"auto\"");
    echo_json(&text, "tools", shared->tools, "[]");
    echo_json(&text, "metadata", own->metadata, "{}");
    echo_string(&text, "user", shared->user);
    req->echoed = text.failed ? NULL : arena_strndup(&req->mem, text.data, text.len);
    req->n_echoed = text.len;
    buf_deinit(&text);
    return req->echoed ? 0 : api__out_of_memory(e);
}

/* ---- writing: parts of objects ---- */

/* How the three kinds of items differ. */
static const struct {
    const char *type, *id_head; /* of the item */
    const char *part;           /* type of its one part; NULL: no part */
    const char *delta, *done;   /* types of the events with its text */
    const char *text;           /* name of the text in these events */
} kinds[] = {
    [API__PART_TEXT] = {"message", "msg", "output_text", "response.output_text.delta",
                        "response.output_text.done", "text"},
    [API__PART_THOUGHT] = {"reasoning", "rs", "reasoning_text", "response.reasoning_text.delta",
                           "response.reasoning_text.done", "text"},
    [API__PART_CALL] = {"function_call", "fc", NULL, "response.function_call_arguments.delta",
                        "response.function_call_arguments.done", "arguments"},
};

static bool is_text(const api_reply *reply) {
    return reply->cursor.kind == API__PART_TEXT;
}

static bool is_call(const api_reply *reply) {
    return reply->cursor.kind == API__PART_CALL;
}

static void write_item_id(buf *out, const api_reply *reply) {
    api__write_item_id(out, reply, &reply->choices[0], reply->cursor.part,
                       kinds[reply->cursor.kind].id_head);
}

static void write_name(buf *out, const api_reply *reply) {
    buf_puts(out, ",");
    api__write_call_name(out, reply, &reply->choices[0], reply->cursor.n_call);
}

/* If the answer was cut short, its last item is incomplete. */
static const char *status_of(const api_reply *reply, bool whole, bool last) {
    if (!whole) return "in_progress";
    return last && reply->choices[0].finish != SCHED_STOP ? "incomplete" : "completed";
}

static void write_item_status(buf *out, const api_reply *reply, bool whole) {
    const api__choice *choice = &reply->choices[0];
    bool last =
        choice->state != API__RUNNING && reply->cursor.part + 1 == api__n_parts(reply, choice);
    bool cut = whole && is_call(reply) && !choice->answer.calls[reply->cursor.n_call].whole;
    buf_puts(out, ",\"status\":");
    buf_json_text(out, cut ? "incomplete" : status_of(reply, whole, last));
}

/* Writes an item up to its text or arguments. They follow if the item is complete. */
static void open_item(buf *out, const api_reply *reply, bool whole) {
    const api__choice *choice = &reply->choices[0];
    buf_printf(out, "{\"type\":\"%s\",\"id\":", kinds[reply->cursor.kind].type);
    write_item_id(out, reply);
    write_item_status(out, reply, whole);
    if (is_call(reply)) {
        buf_puts(out, ",\"call_id\":");
        api__write_item_id(out, reply, choice, reply->cursor.n_call, "call");
        write_name(out, reply);
        buf_puts(out, ",\"arguments\":");
        return;
    }
    buf_puts(out, is_text(reply) ? ",\"role\":\"assistant\"" : ",\"summary\":[]");
    buf_puts(out, ",\"content\":[");
}

static void write_usage(buf *out, const api_reply *reply) {
    uint64_t prompt, output;
    api_reply_usage(reply, &prompt, &output);
    buf_printf(out,
               ",\"usage\":{\"input_tokens\":%llu,\"input_tokens_details\":{\"cached_tokens\":%llu,"
               "\"cache_write_tokens\":0,\"loops\":%llu},\"output_tokens\":%llu,"
               "\"output_tokens_details\":{\"reasoning_tokens\":%llu,\"loops\":%llu},"
               "\"total_tokens\":%llu}",
               (unsigned long long)prompt, (unsigned long long)reply->n_cached,
               (unsigned long long)reply->prompt_loops, (unsigned long long)output,
               (unsigned long long)reply->n_thought, (unsigned long long)reply->output_loops,
               (unsigned long long)(prompt + output));
}

/* Writes a response up to its items. */
static void open_response(buf *out, const api_reply *reply, bool whole) {
    bool cut = whole && reply->choices[0].finish != SCHED_STOP;
    buf_puts(out, "{\"id\":");
    buf_json_text(out, reply->id);
    buf_puts(out, ",\"object\":\"response\",\"created_at\":");
    api__write_uint(out, (uint64_t)reply->created);
    buf_puts(out, ",\"status\":");
    buf_json_text(out, status_of(reply, whole, true));
    buf_puts(out, ",\"error\":null,\"incomplete_details\":");
    buf_puts(out, cut ? "{\"reason\":\"max_output_tokens\"}" : "null");
    buf_puts(out, ",\"model\":");
    buf_json_text(out, reply->ctx->name);
    buf_puts(out, ",\"output\":[");
}

static void open_event(buf *out, api_reply *reply, const char *type) {
    buf_printf(out, "event: %s\ndata: {\"type\":\"%s\",\"sequence_number\":%llu", type, type,
               (unsigned long long)reply->n_events++);
}

static void open_response_event(buf *out, api_reply *reply, const char *type, bool whole) {
    open_event(out, reply, type);
    buf_puts(out, ",\"response\":");
    open_response(out, reply, whole);
}

static void open_item_event(buf *out, api_reply *reply, const char *type, bool whole) {
    open_event(out, reply, type);
    buf_printf(out, ",\"output_index\":%u,\"item\":", reply->cursor.part);
    open_item(out, reply, whole);
}

static void open_content_event(buf *out, api_reply *reply, const char *type) {
    open_event(out, reply, type);
    buf_puts(out, ",\"item_id\":");
    write_item_id(out, reply);
    buf_printf(out, ",\"output_index\":%u", reply->cursor.part);
    if (!is_call(reply)) buf_puts(out, ",\"content_index\":0");
}

static void open_part(buf *out, const api_reply *reply) {
    buf_printf(out, "{\"type\":\"%s\",\"text\":", kinds[reply->cursor.kind].part);
}

/* ---- writing: steps shared by several lists ---- */

/* The repeated fields stand in three events of a stream and may be as long as a body. */
static bool echoed(buf *out, api_reply *reply, size_t end) {
    return api__write_raw(out, &reply->cursor, reply->req->echoed, reply->req->n_echoed, end);
}

static bool part_open(buf *out, api_reply *reply, size_t end) {
    (void)end;
    if (!is_call(reply)) open_part(out, reply);
    return true;
}

/* All tokens of an answer stand in its first message. */
static bool has_tokens(const api_reply *reply) {
    const api__choice *choice = &reply->choices[0];
    if (!is_text(reply)) return false;
    for (uint32_t i = 0; api__splits(reply->req) && i < reply->cursor.part; i++) {
        if (choice->answer.parts[i].kind == API__PART_TEXT) return false;
    }
    return true;
}

static bool logprobs(buf *out, api_reply *reply, const char *key, size_t end) {
    if (!is_text(reply)) return true;
    if (!reply->req->logprobs || !has_tokens(reply)) return api__write_no_list(out, key);
    return api__write_list(out, reply, key, api__entry_chat, end);
}

static bool part_logprobs(buf *out, api_reply *reply, size_t end) {
    return logprobs(out, reply, ",\"annotations\":[],\"logprobs\":[", end);
}

static bool part_ids(buf *out, api_reply *reply, size_t end) {
    return !has_tokens(reply) || api__step_ids(out, reply, end);
}

static bool part_depths(buf *out, api_reply *reply, size_t end) {
    return !has_tokens(reply) || api__step_depths(out, reply, end);
}

static bool item_close(buf *out, api_reply *reply, size_t end) {
    (void)end;
    buf_puts(out, is_call(reply) ? "}" : "}]}");
    return true;
}

#define PART_LISTS part_logprobs, part_ids, part_depths
#define WHOLE_ITEM part_open, api__step_text, PART_LISTS, item_close

static bool content_logprobs(buf *out, api_reply *reply, size_t end) {
    return logprobs(out, reply, ",\"logprobs\":[", end);
}

static bool close_output(buf *out, api_reply *reply, size_t end) {
    (void)reply, (void)end;
    buf_puts(out, "]");
    return true;
}

/* ---- writing: the first events of a stream ---- */

static bool created(buf *out, api_reply *reply, size_t end) {
    open_response_event(out, reply, "response.created", false);
    return close_output(out, reply, end);
}

static bool in_progress(buf *out, api_reply *reply, size_t end) {
    open_response_event(out, reply, "response.in_progress", false);
    return close_output(out, reply, end);
}

static bool close_begun(buf *out, api_reply *reply, size_t end) {
    (void)reply, (void)end;
    buf_puts(out, ",\"usage\":null}}\n\n");
    return true;
}

/* ---- writing: the events of an item ---- */

static bool item_added(buf *out, api_reply *reply, size_t end) {
    open_item_event(out, reply, "response.output_item.added", false);
    buf_puts(out, is_call(reply) ? "\"\"}" : "]}");
    api__part_opened(&reply->choices[0]);
    return api__step_event_close(out, reply, end);
}

static bool part_added(buf *out, api_reply *reply, size_t end) {
    if (is_call(reply)) return true;
    open_content_event(out, reply, "response.content_part.added");
    buf_puts(out, ",\"part\":");
    open_part(out, reply);
    buf_puts(out, is_text(reply) ? "\"\",\"annotations\":[],\"logprobs\":[]}" : "\"\"}");
    return api__step_event_close(out, reply, end);
}

static bool delta_open(buf *out, api_reply *reply, size_t end) {
    (void)end;
    open_content_event(out, reply, kinds[reply->cursor.kind].delta);
    buf_puts(out, ",\"delta\":");
    return true;
}

static bool text_done(buf *out, api_reply *reply, size_t end) {
    (void)end;
    open_content_event(out, reply, kinds[reply->cursor.kind].done);
    if (is_call(reply)) write_name(out, reply);
    buf_printf(out, ",\"%s\":", kinds[reply->cursor.kind].text);
    return true;
}

static bool part_done(buf *out, api_reply *reply, size_t end) {
    (void)end;
    if (is_call(reply)) return true;
    open_content_event(out, reply, "response.content_part.done");
    buf_puts(out, ",\"part\":");
    open_part(out, reply);
    return true;
}

static bool part_text(buf *out, api_reply *reply, size_t end) {
    return is_call(reply) || api__step_text(out, reply, end);
}

static bool close_part_event(buf *out, api_reply *reply, size_t end) {
    if (is_call(reply)) return true;
    buf_puts(out, "}");
    return api__step_event_close(out, reply, end);
}

static bool item_done(buf *out, api_reply *reply, size_t end) {
    (void)end;
    open_item_event(out, reply, "response.output_item.done", true);
    return true;
}

static bool item_end(buf *out, api_reply *reply, size_t end) {
    api__part_closed(&reply->choices[0]);
    return api__step_event_close(out, reply, end);
}

static const api__step begin_steps[] = {created, echoed,      close_begun, in_progress,
                                        echoed,  close_begun, NULL},
                       open_steps[] = {item_added, part_added, NULL},
                       delta_steps[] = {delta_open,    api__step_text,   content_logprobs,
                                        api__step_ids, api__step_depths, api__step_delta_close,
                                        NULL},
                       close_steps[] = {
                           text_done, api__step_text, content_logprobs, api__step_event_close,
                           part_done, part_text,      PART_LISTS,       close_part_event,
                           item_done, WHOLE_ITEM,     item_end,         NULL};

static bool begin_chunk(api_reply *reply, api__choice *choice) {
    static const api__part_events events = {begin_steps, open_steps, delta_steps, close_steps};
    return api__begin_part_event(reply, choice, &events);
}

/* ---- writing: the last event of a stream, and a whole answer ---- */

static bool completed(buf *out, api_reply *reply, size_t end) {
    bool stop = reply->choices[0].finish == SCHED_STOP;
    (void)end;
    open_response_event(out, reply, stop ? "response.completed" : "response.incomplete", true);
    return true;
}

static bool body_open(buf *out, api_reply *reply, size_t end) {
    (void)end;
    open_response(out, reply, true);
    return true;
}

enum { WHOLE_BEGIN = 1 }; /* its index in the lists of steps */

static bool whole_begin(buf *out, api_reply *reply, size_t end) {
    (void)end;
    if (reply->cursor.part > 0) buf_puts(out, ",");
    api__at_part(reply, &reply->choices[0], reply->cursor.part);
    reply->cursor.to_token = reply->choices[0].n_tokens;
    open_item(out, reply, true);
    return true;
}

static bool whole_end(buf *out, api_reply *reply, size_t end) {
    (void)out, (void)end;
    if (++reply->cursor.part < api__n_parts(reply, &reply->choices[0]))
        reply->cursor.step = WHOLE_BEGIN - 1; /* the next item follows */
    return true;
}

static bool close_response(buf *out, api_reply *reply, size_t end) {
    (void)end;
    api__write_warnings(out, reply);
    write_usage(out, reply);
    buf_puts(out, "}");
    return true;
}

#define ALL_ITEMS [WHOLE_BEGIN] = whole_begin, WHOLE_ITEM, whole_end, close_output, echoed

static void begin_end(api_reply *reply) {
    static const api__step steps[] = {completed, ALL_ITEMS, close_response, api__step_event_close,
                                      NULL};
    reply->cursor = (api__cursor){.steps = steps};
}

static void begin_body(api_reply *reply) {
    static const api__step steps[] = {body_open, ALL_ITEMS, close_response, NULL};
    reply->cursor = (api__cursor){.steps = steps};
}

/* The event has fields of its own besides the error object of other streams. */
static void error_event(buf *out, api_reply *reply, const api__fault *fault) {
    buf body = {0};
    api__openai_error(&body, fault);
    open_event(out, reply, "error");
    buf_puts(out, ",\"code\":");
    buf_json_text(out, fault->code ? fault->code : fault->type);
    buf_puts(out, ",\"message\":");
    buf_json_text(out, fault->message);
    buf_puts(out, ",\"param\":null,");
    if (body.len > 2) buf_append(out, body.data + 1, body.len - 2); /* "error":{…} */
    buf_puts(out, "}\n\n");
    if (body.failed) out->failed = true;
    buf_deinit(&body);
}

const api_dialect api_dialect_responses = {
    .schema = "ResponsesRequest",
    .input = "input",
    .id_head = "resp_",
    .groups = API__EVERY | API__OPENAI | API__FUNCTIONS | API__TALK,
    .fields = fields,
    .n_fields = ARRAY_LEN(fields),
    .values_bytes = sizeof(values),
    .flat = true,
    .keeps_tokens = true,
    .prepare = prepare,
    .read_input = read_input,
    .finish = keep_echoed,
    .begin_chunk = begin_chunk,
    .begin_end = begin_end,
    .begin_body = begin_body,
    .error_body = api__openai_error,
    .error_event = error_event,
};
