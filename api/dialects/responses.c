/* responses.c - the stateless part of /v1/responses: its fields, its object, its events. Nothing is
 * stored, so no earlier response can be referred to.
 *
 * Events carry increasing sequence numbers. All events use the same ids of the response and its
 * items. The joined deltas are the text of the last event, so the whole text is kept until then.
 *
 * Items are at most one message, with all text of the answer, and one item for each call. Their
 * order is that of their beginnings. */
#include "api/dialect_internal.h"

/* ---- reading ---- */

typedef struct {
    api__values shared;
    const json_t *input, *instructions, *text, *reasoning, *include, *metadata;
    int64_t max_output_tokens;
    const char *truncation;
} values;

static const api__field fields[] = {
    API__OWN_JSON(values, input,
                  "Input for the model: a string, or a list of 1 to 1000 messages, function calls "
                  "and results."),
    API__OWN_JSON(values, instructions, "System message to place before the input."),
    API__OWN_INT(values, max_output_tokens, 1, INT32_MAX,
                 "Maximum number of tokens to generate. Default: set by the server."),
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
    API__OWN_REFUSED(max_tool_calls),
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

/* Prepares the members of the response object that repeat the request. */
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
               (double)req->sampling.temperature, (double)req->sampling.top_p);
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

/* ---- writing ---- */

/* The message is left out if the answer has calls and no text. */
static bool has_message(const api_reply *reply) {
    const api__choice *choice = &reply->choices[0];
    return choice->answer.n_calls == 0 || choice->answer.said.len > 0;
}

static uint32_t n_items(const api_reply *reply) {
    return reply->choices[0].answer.n_calls + has_message(reply);
}

/* Index of the cursor's item in the output. */
static uint32_t item_index(const api_reply *reply) {
    const api__cursor *cursor = &reply->cursor;
    uint32_t message = reply->choices[0].answer.said_after;
    if (!cursor->call) return message;
    return cursor->n_call + (has_message(reply) && cursor->n_call >= message);
}

/* Ids of items derive from the response's: "resp_X" has "msg_X_0", or "fc_X_0" and "call_X_0". */
static void write_item_id(buf *out, const api_reply *reply) {
    const api__cursor *cursor = &reply->cursor;
    api__write_call_id(out, reply, &reply->choices[0], cursor->call ? cursor->n_call : 0,
                       cursor->call ? "fc" : "msg");
}

static void write_name(buf *out, const api_reply *reply) {
    buf_puts(out, ",");
    api__write_call_name(out, reply, &reply->choices[0], reply->cursor.n_call);
}

static const char *status_of(const api__choice *choice, bool whole) {
    if (!whole) return "in_progress";
    return choice->finish == SCHED_STOP ? "completed" : "incomplete";
}

/* Writes an item up to its text or arguments, which follow if the item is complete. */
static void open_item(buf *out, const api_reply *reply, bool whole) {
    const api__choice *choice = &reply->choices[0];
    bool call = reply->cursor.call;
    buf_puts(out, call ? "{\"type\":\"function_call\",\"id\":" : "{\"type\":\"message\",\"id\":");
    write_item_id(out, reply);
    if (call) {
        buf_puts(out, ",\"call_id\":");
        api__write_call_id(out, reply, choice, reply->cursor.n_call, "call");
        write_name(out, reply);
        buf_puts(out, ",\"arguments\":");
        return;
    }
    buf_puts(out, ",\"status\":");
    buf_json_text(out, status_of(choice, whole));
    buf_puts(out, ",\"role\":\"assistant\",\"content\":[");
}

static void close_item(buf *out, const api_reply *reply, bool whole) {
    const api__choice *choice = &reply->choices[0];
    if (reply->cursor.call) {
        buf_puts(out, ",\"status\":");
        buf_json_text(out, status_of(choice, whole));
        buf_puts(out, "}");
    } else {
        buf_puts(out, "]}");
    }
}

static void write_usage(buf *out, const api_reply *reply) {
    uint64_t prompt, output;
    api_reply_usage(reply, &prompt, &output);
    buf_printf(out,
               ",\"usage\":{\"input_tokens\":%llu,\"input_tokens_details\":{\"cached_tokens\":%llu,"
               "\"cache_write_tokens\":0,\"loops\":%llu},\"output_tokens\":%llu,\"output_tokens_"
               "details\":{"
               "\"reasoning_tokens\":0,\"loops\":%llu},\"total_tokens\":%llu}",
               (unsigned long long)prompt, (unsigned long long)reply->n_cached,
               (unsigned long long)reply->prompt_loops, (unsigned long long)output,
               (unsigned long long)reply->output_loops, (unsigned long long)(prompt + output));
}

/* Writes a response up to its items. */
static void open_response(buf *out, const api_reply *reply, bool whole) {
    const api__choice *choice = &reply->choices[0];
    buf_puts(out, "{\"id\":");
    buf_json_text(out, reply->id);
    buf_puts(out, ",\"object\":\"response\",\"created_at\":");
    api__write_uint(out, (uint64_t)reply->created);
    buf_puts(out, ",\"status\":");
    buf_json_text(out, status_of(choice, whole));
    buf_puts(out, ",\"error\":null,\"incomplete_details\":");
    buf_puts(out,
             whole && choice->finish != SCHED_STOP ? "{\"reason\":\"max_output_tokens\"}" : "null");
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
    buf_printf(out, ",\"output_index\":%u,\"item\":", item_index(reply));
    open_item(out, reply, whole);
}

static void open_content_event(buf *out, api_reply *reply, const char *type) {
    open_event(out, reply, type);
    buf_puts(out, ",\"item_id\":");
    write_item_id(out, reply);
    buf_printf(out, ",\"output_index\":%u", item_index(reply));
    if (!reply->cursor.call) buf_puts(out, ",\"content_index\":0");
}

/* ---- steps shared by several parts ---- */

/* The repeated fields stand in three events of a stream and may be as long as a body. */
static bool echoed(buf *out, api_reply *reply, size_t end) {
    return api__write_raw(out, &reply->cursor, reply->req->echoed, reply->req->n_echoed, end);
}

static const char part_open_text[] = "{\"type\":\"output_text\",\"text\":";

static bool part_open(buf *out, api_reply *reply, size_t end) {
    (void)end;
    if (!reply->cursor.call) buf_puts(out, part_open_text);
    return true;
}

static bool part_logprobs(buf *out, api_reply *reply, size_t end) {
    static const char key[] = ",\"annotations\":[],\"logprobs\":[";
    if (reply->cursor.call) return true;
    if (!reply->req->logprobs) return api__write_no_list(out, key);
    return api__write_list(out, reply, key, api__entry_chat, end);
}

static bool part_ids(buf *out, api_reply *reply, size_t end) {
    return reply->cursor.call || api__step_ids(out, reply, end);
}

static bool part_depths(buf *out, api_reply *reply, size_t end) {
    return reply->cursor.call || api__step_depths(out, reply, end);
}

static bool item_close(buf *out, api_reply *reply, size_t end) {
    (void)end;
    if (!reply->cursor.call) buf_puts(out, "}"); /* ends the part */
    close_item(out, reply, true);
    return true;
}

#define PART_LISTS part_logprobs, part_ids, part_depths
#define WHOLE_ITEM part_open, api__step_text, PART_LISTS, item_close

static bool content_logprobs(buf *out, api_reply *reply, size_t end) {
    if (reply->cursor.call) return true;
    if (!reply->req->logprobs) return api__write_no_list(out, ",\"logprobs\":[");
    return api__write_list(out, reply, ",\"logprobs\":[", api__entry_chat, end);
}

static bool close_event(buf *out, api_reply *reply, size_t end) {
    (void)reply, (void)end;
    buf_puts(out, "}\n\n");
    return true;
}

static bool close_output(buf *out, api_reply *reply, size_t end) {
    (void)reply, (void)end;
    buf_puts(out, "]");
    return true;
}

/* ---- the first events of a stream ---- */

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

static bool item_added(buf *out, api_reply *reply, size_t end) {
    open_item_event(out, reply, "response.output_item.added", false);
    if (reply->cursor.call) buf_puts(out, "\"\"");
    close_item(out, reply, false);
    return close_event(out, reply, end);
}

static bool part_added(buf *out, api_reply *reply, size_t end) {
    if (reply->cursor.call) return true;
    open_content_event(out, reply, "response.content_part.added");
    buf_puts(out, ",\"part\":");
    buf_puts(out, part_open_text);
    buf_puts(out, "\"\",\"annotations\":[],\"logprobs\":[]}");
    return close_event(out, reply, end);
}

/* ---- a delta ---- */

static bool delta_open(buf *out, api_reply *reply, size_t end) {
    (void)end;
    open_content_event(out, reply,
                       reply->cursor.call ? "response.function_call_arguments.delta"
                                          : "response.output_text.delta");
    buf_puts(out, ",\"delta\":");
    return true;
}

static bool delta_close(buf *out, api_reply *reply, size_t end) {
    api__choice *choice = &reply->choices[0];
    if (reply->cursor.call) api__call_sent(reply, choice);
    else choice->sent = reply->cursor.to;
    choice->n_written = reply->cursor.to_token;
    return close_event(out, reply, end);
}

/* The first events of the response, of its message, or of the next call. False: all were written.
 */
static bool begin_opening(api_reply *reply, api__choice *choice) {
    static const api__step response[] = {created, echoed,      close_begun, in_progress,
                                         echoed,  close_begun, NULL};
    static const api__step item[] = {item_added, part_added, NULL};
    bool text = api__content_end(reply, choice) > choice->sent;
    bool empty = choice->state != API__RUNNING && choice->answer.n_calls == 0;
    reply->cursor = (api__cursor){.steps = item};
    if (!reply->begun) {
        reply->cursor.steps = response;
        return reply->begun = true;
    }
    if (!choice->message_opened && (text || empty)) return choice->message_opened = true;
    if (text || !api__next_call(choice) || choice->call_opened) return false;
    api__at_call(reply, choice, choice->sent_calls);
    choice->sent_args = reply->cursor.from;
    return choice->call_opened = true;
}

static bool begin_chunk(api_reply *reply, api__choice *choice) {
    static const api__step delta[] = {delta_open,    api__step_text,   content_logprobs,
                                      api__step_ids, api__step_depths, delta_close,
                                      NULL};
    bool finished = choice->state != API__RUNNING;
    uint32_t due = choice->n_written;
    if (begin_opening(reply, choice)) return true;
    while (due < choice->n_tokens && (finished || choice->tokens[due].text_end <= choice->ready))
        due++;
    reply->cursor = (api__cursor){.steps = delta, .from_token = choice->n_written, .to_token = due};
    if (api__content_end(reply, choice) > choice->sent) api__at_content(reply, choice);
    else if (api__next_call(choice)) api__at_call(reply, choice, choice->sent_calls);
    if (reply->cursor.from < reply->cursor.to) return true;
    reply->cursor.steps = NULL; /* no empty deltas */
    choice->closed = finished;
    return false;
}

/* ---- the last events ---- */

/* Points the cursor at an item: all of its text, or its arguments. */
static void at_item(api_reply *reply) {
    api__cursor *cursor = &reply->cursor;
    const api__choice *choice = &reply->choices[0];
    uint32_t message = choice->answer.said_after;
    if (!has_message(reply) || cursor->item != message) {
        uint32_t n_call = cursor->item - (has_message(reply) && cursor->item > message);
        api__at_call(reply, choice, n_call);
        cursor->from = choice->answer.calls[n_call].args;
        return;
    }
    api__at_content(reply, choice);
    cursor->from = 0;
    cursor->to_token = choice->n_tokens;
}

static bool item_begin(buf *out, api_reply *reply, size_t end) {
    (void)out, (void)end;
    at_item(reply);
    return true;
}

static bool text_done(buf *out, api_reply *reply, size_t end) {
    (void)end;
    open_content_event(out, reply,
                       reply->cursor.call ? "response.function_call_arguments.done"
                                          : "response.output_text.done");
    if (reply->cursor.call) write_name(out, reply);
    buf_puts(out, reply->cursor.call ? ",\"arguments\":" : ",\"text\":");
    return true;
}

static bool part_done(buf *out, api_reply *reply, size_t end) {
    (void)end;
    if (reply->cursor.call) return true;
    open_content_event(out, reply, "response.content_part.done");
    buf_puts(out, ",\"part\":");
    buf_puts(out, part_open_text);
    return true;
}

static bool part_text(buf *out, api_reply *reply, size_t end) {
    return reply->cursor.call || api__step_text(out, reply, end);
}

static bool close_part_event(buf *out, api_reply *reply, size_t end) {
    if (reply->cursor.call) return true;
    buf_puts(out, "}");
    return close_event(out, reply, end);
}

static bool item_done(buf *out, api_reply *reply, size_t end) {
    (void)end;
    open_item_event(out, reply, "response.output_item.done", true);
    return true;
}

/* Goes back to `step` for the next item. False: this was the last. */
static bool next_item(api_reply *reply, uint32_t step) {
    if (++reply->cursor.item == n_items(reply)) return false;
    reply->cursor.step = step - 1;
    return true;
}

enum { ITEM_BEGIN = 0, WHOLE_BEGIN = 20, BODY_BEGIN = 1 }; /* indices in the lists of steps below */

static bool item_end(buf *out, api_reply *reply, size_t end) {
    (void)next_item(reply, ITEM_BEGIN);
    return close_event(out, reply, end);
}

static bool completed(buf *out, api_reply *reply, size_t end) {
    bool stop = reply->choices[0].finish == SCHED_STOP;
    (void)end;
    open_response_event(out, reply, stop ? "response.completed" : "response.incomplete", true);
    reply->cursor.item = 0;
    return true;
}

static bool whole_begin(buf *out, api_reply *reply, size_t end) {
    (void)end;
    if (reply->cursor.item > 0) buf_puts(out, ",");
    at_item(reply);
    open_item(out, reply, true);
    return true;
}

static bool whole_end(buf *out, api_reply *reply, size_t end) {
    bool stream = reply->req->stream;
    (void)out, (void)end;
    (void)next_item(reply, stream ? WHOLE_BEGIN : BODY_BEGIN);
    return true;
}

static bool close_response(buf *out, api_reply *reply, size_t end) {
    (void)end;
    write_usage(out, reply);
    buf_puts(out, "}");
    return true;
}

static void begin_end(api_reply *reply) {
    static const api__step steps[] = {[ITEM_BEGIN] = item_begin,
                                      text_done,
                                      api__step_text,
                                      content_logprobs,
                                      close_event,
                                      part_done,
                                      part_text,
                                      PART_LISTS,
                                      close_part_event,
                                      item_done,
                                      WHOLE_ITEM,
                                      item_end,
                                      completed,
                                      [WHOLE_BEGIN] = whole_begin,
                                      WHOLE_ITEM,
                                      whole_end,
                                      close_output,
                                      echoed,
                                      close_response,
                                      close_event,
                                      NULL};
    reply->cursor = (api__cursor){.steps = steps};
}

static bool body_open(buf *out, api_reply *reply, size_t end) {
    (void)end;
    open_response(out, reply, true);
    return true;
}

static void begin_body(api_reply *reply) {
    static const api__step body[] = {body_open,      [BODY_BEGIN] = whole_begin,
                                     WHOLE_ITEM,     whole_end,
                                     close_output,   echoed,
                                     close_response, NULL};
    reply->cursor = (api__cursor){.steps = body};
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
