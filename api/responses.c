/* responses.c - /v1/responses, the stateless part: nothing is stored, so nothing can
 * be referred to. Its own fields, its object, its events.
 *
 * Events carry increasing sequence numbers and one pair of ids; the joined deltas are the
 * text of the last event. The whole text is kept until then. */
#include "api/api_internal.h"

/* ---- reading ---- */

static int read_include(const json_t *list, bool *logprobs, err *e) {
    if (list && !json_is_array(list))
        return api__bad_param(e, "include", "must be a list of strings");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *what = json_string_value(json_array_get(list, i));
        if (what == NULL) return api__bad_param(e, "include", "must be a list of strings");
        if (strcmp(what, "message.output_text.logprobs") == 0) *logprobs = true;
        /* There is no hidden reasoning here, so asking for it changes nothing. */
        else if (strcmp(what, "reasoning.encrypted_content") != 0) {
            return err_set(e, ERR_UNSUPPORTED, "include",
                           "include may hold message.output_text.logprobs only");
        }
    }
    return 0;
}

static int read_reasoning(const json_t *reasoning, const char **effort, err *e) {
    if (reasoning == NULL) return 0;
    if (!json_is_object(reasoning)) return api__bad_param(e, "reasoning", "must be an object");
    const json_t *v = json_object_get(reasoning, "effort");
    if (v == NULL || json_is_null(v)) return 0;
    if (!json_is_string(v)) return api__bad_param(e, "reasoning.effort", "must be a string");
    *effort = json_string_value(v);
    return 0;
}

static int check_metadata(const json_t *metadata, err *e) {
    const char *key;
    json_t *v;
    if (metadata == NULL) return 0;
    if (!json_is_object(metadata) || json_object_size(metadata) > 16) {
        return api__bad_param(e, "metadata", "must be an object of at most 16 strings");
    }
    json_object_foreach((json_t *)(uintptr_t)metadata, key, v) {
        if (!json_is_string(v) || json_string_length(v) > 512 || strlen(key) > 64) {
            return api__bad_param(e, "metadata",
                                  "must map keys of at most 64 bytes to strings of at most 512");
        }
    }
    return 0;
}

int api__read_response_fields(api_request *r, api__values *v, err *e) {
    (void)r;
    if (read_include(v->include, &v->chat_logprobs, e) != 0) return -1;
    if (v->top_logprobs != API__NO_INT && v->top_logprobs > 0) v->chat_logprobs = true;
    if (!v->chat_logprobs) v->top_logprobs = API__NO_INT;
    if (read_reasoning(v->reasoning, &v->reasoning_effort, e) != 0) return -1;
    if (check_metadata(v->metadata, e) != 0) return -1;
    if (v->truncation && strcmp(v->truncation, "disabled") != 0) {
        return strcmp(v->truncation, "auto") == 0
                   ? err_set(e, ERR_UNSUPPORTED, "truncation",
                             "truncation auto is not supported: nothing is cut silently")
                   : api__bad_param(e, "truncation", "must be disabled");
    }
    if (v->text == NULL) return 0;
    if (!json_is_object(v->text)) return api__bad_param(e, "text", "must be an object");
    const json_t *format = json_object_get(v->text, "format");
    v->response_format = json_is_null(format) ? NULL : format;
    return 0;
}

static void echo_json(buf *b, const char *key, const json_t *v, const char *absent) {
    buf_printf(b, ",\"%s\":", key);
    if (v) api__dump(b, v);
    else buf_puts(b, absent);
}

static void echo_string(buf *b, const char *key, const char *s) {
    buf_printf(b, ",\"%s\":", key);
    if (s) buf_json_text(b, s);
    else buf_puts(b, "null");
}

/* The object of a response repeats what was asked. */
int api__keep_echoed(api_request *r, const api__values *v, err *e) {
    buf b = {0};
    echo_string(&b, "instructions", v->instructions);
    if (v->max_completion_tokens == API__NO_INT) buf_puts(&b, ",\"max_output_tokens\":null");
    else buf_printf(&b, ",\"max_output_tokens\":%lld", (long long)v->max_completion_tokens);
    buf_printf(
        &b, ",\"parallel_tool_calls\":%s,\"previous_response_id\":null,\"reasoning\":{\"effort\":",
        v->parallel_tool_calls ? "true" : "false");
    if (v->reasoning_effort) buf_json_text(&b, v->reasoning_effort);
    else buf_puts(&b, "null");
    buf_printf(&b,
               ",\"summary\":null},\"store\":false,\"temperature\":%.6g,\"top_p\":%.6g,"
               "\"truncation\":\"disabled\"",
               (double)r->sampling.temperature, (double)r->sampling.top_p);
    buf_puts(&b, ",\"text\":{\"format\":");
    if (v->response_format) api__dump(&b, v->response_format);
    else buf_puts(&b, "{\"type\":\"text\"}");
    buf_puts(&b, "}");
    echo_json(&b, "tool_choice", v->tool_choice, "\"auto\"");
    echo_json(&b, "tools", v->tools, "[]");
    echo_json(&b, "metadata", v->metadata, "{}");
    echo_string(&b, "user", v->user);
    r->echoed = b.failed ? NULL : arena_strndup(&r->mem, b.data, b.len);
    buf_deinit(&b);
    return r->echoed ? 0 : api__out_of_memory(e);
}

/* ---- writing ---- */

/* The items' ids come from the response's: "resp_X" has "msg_X_0", or "fc_X_0" and "call_X_0". */
static void write_item_id(buf *out, const api_reply *r) {
    const api__choice *ch = &r->choices[0];
    api__write_call_id(out, r, ch, api__is_call(ch) ? "fc" : "msg");
}

static void write_name(buf *out, const api__choice *ch) {
    buf_puts(out, ",\"name\":");
    buf_json_string(out, ch->text.data + ch->call.name, ch->call.n_name);
}

static void write_arguments(buf *out, const api__choice *ch) {
    buf_json_string(out, ch->text.data + ch->call.args, ch->call.args_end - ch->call.args);
}

static void write_part(buf *out, const api_reply *r, const api__choice *ch, bool whole) {
    buf_puts(out, "{\"type\":\"output_text\",\"text\":");
    buf_json_string(out, whole && ch->text.data ? ch->text.data : "", whole ? ch->text.len : 0);
    buf_puts(out, ",\"annotations\":[],\"logprobs\":[");
    if (whole && r->r->logprobs) api__write_logprob_entries(out, r, ch, 0, ch->n_tokens);
    buf_puts(out, "]");
    if (whole && r->r->return_ids)
        api__write_numbers(out, r, ch, 0, ch->n_tokens, false, ",\"token_ids\":[");
    if (whole && r->r->return_depth)
        api__write_numbers(out, r, ch, 0, ch->n_tokens, true, ",\"depths\":[");
    buf_puts(out, "}");
}

static const char *status_of(const api__choice *ch, bool whole) {
    if (!whole) return "in_progress";
    return ch->finish == SCHED_STOP ? "completed" : "incomplete";
}

static void write_call_item(buf *out, const api_reply *r, const api__choice *ch, bool whole) {
    buf_puts(out, "{\"type\":\"function_call\",\"id\":");
    write_item_id(out, r);
    buf_puts(out, ",\"call_id\":");
    api__write_call_id(out, r, ch, "call");
    write_name(out, ch);
    buf_puts(out, ",\"arguments\":");
    if (whole) write_arguments(out, ch);
    else buf_puts(out, "\"\"");
    buf_puts(out, ",\"status\":");
    buf_json_text(out, status_of(ch, whole));
    buf_puts(out, "}");
}

static void write_item(buf *out, const api_reply *r, const api__choice *ch, bool whole) {
    if (api__is_call(ch)) {
        write_call_item(out, r, ch, whole);
        return;
    }
    buf_puts(out, "{\"type\":\"message\",\"id\":");
    write_item_id(out, r);
    buf_puts(out, ",\"status\":");
    buf_json_text(out, status_of(ch, whole));
    buf_puts(out, ",\"role\":\"assistant\",\"content\":[");
    if (whole) write_part(out, r, ch, true);
    buf_puts(out, "]}");
}

static void write_usage(buf *out, const api_reply *r, const api__choice *ch) {
    uint64_t prompt, output;
    api_reply_usage(r, &prompt, &output);
    buf_printf(out,
               ",\"usage\":{\"input_tokens\":%llu,\"input_tokens_details\":{\"cached_tokens\":%llu,"
               "\"cache_write_tokens\":0,\"loops\":%llu},\"output_tokens\":%llu,\"output_tokens_"
               "details\":{"
               "\"reasoning_tokens\":0,\"loops\":%llu},\"total_tokens\":%llu}",
               (unsigned long long)prompt, (unsigned long long)ch->n_cached,
               (unsigned long long)ch->prompt_loops, (unsigned long long)output,
               (unsigned long long)ch->output_loops, (unsigned long long)(prompt + output));
}

static void write_response(buf *out, const api_reply *r, bool whole) {
    const api__choice *ch = &r->choices[0];
    buf_puts(out, "{\"id\":");
    buf_json_text(out, r->id);
    buf_puts(out, ",\"object\":\"response\",\"created_at\":");
    api__write_uint(out, (uint64_t)r->created);
    buf_puts(out, ",\"status\":");
    buf_json_text(out, status_of(ch, whole));
    buf_puts(out, ",\"error\":null,\"incomplete_details\":");
    buf_puts(out,
             whole && ch->finish != SCHED_STOP ? "{\"reason\":\"max_output_tokens\"}" : "null");
    buf_puts(out, ",\"model\":");
    buf_json_text(out, r->c->name);
    buf_puts(out, ",\"output\":[");
    if (whole) write_item(out, r, ch, true);
    buf_puts(out, "]");
    buf_puts(out, r->r->echoed);
    if (whole) write_usage(out, r, ch);
    else buf_puts(out, ",\"usage\":null");
    buf_puts(out, "}");
}

static void open_event(buf *out, api_reply *r, const char *type) {
    buf_printf(out, "event: %s\ndata: {\"type\":\"%s\",\"sequence_number\":%llu", type, type,
               (unsigned long long)r->n_events++);
}

static void response_event(buf *out, api_reply *r, const char *type, bool whole) {
    open_event(out, r, type);
    buf_puts(out, ",\"response\":");
    write_response(out, r, whole);
    buf_puts(out, "}\n\n");
}

static void item_event(buf *out, api_reply *r, const char *type, bool whole) {
    open_event(out, r, type);
    buf_puts(out, ",\"output_index\":0,\"item\":");
    write_item(out, r, &r->choices[0], whole);
    buf_puts(out, "}\n\n");
}

static void open_content_event(buf *out, api_reply *r, const char *type) {
    open_event(out, r, type);
    buf_puts(out, ",\"item_id\":");
    write_item_id(out, r);
    buf_puts(out, api__is_call(&r->choices[0]) ? ",\"output_index\":0"
                                               : ",\"output_index\":0,\"content_index\":0");
}

static void part_event(buf *out, api_reply *r, const char *type, bool whole) {
    open_content_event(out, r, type);
    buf_puts(out, ",\"part\":");
    write_part(out, r, &r->choices[0], whole);
    buf_puts(out, "}\n\n");
}

/* By now it is certain whether the item is a message or a call. */
static void open_item(buf *out, api_reply *r) {
    if (r->item_open) return;
    r->item_open = true;
    response_event(out, r, "response.created", false);
    response_event(out, r, "response.in_progress", false);
    item_event(out, r, "response.output_item.added", false);
    if (!api__is_call(&r->choices[0])) part_event(out, r, "response.content_part.added", false);
}

static void write_tokens(buf *out, const api_reply *r, const api__choice *ch, uint32_t due) {
    if (r->r->return_ids)
        api__write_numbers(out, r, ch, ch->n_written, due, false, ",\"token_ids\":[");
    if (r->r->return_depth)
        api__write_numbers(out, r, ch, ch->n_written, due, true, ",\"depths\":[");
}

void api__responses_chunk(buf *out, api_reply *r, api__choice *ch, bool finished) {
    bool call = api__is_call(ch);
    size_t from = call ? api__args_from(ch) : ch->sent, to = call ? ch->call.args_end : ch->ready;
    uint32_t due = ch->n_written;
    open_item(out, r);
    while (due < ch->n_tokens && (finished || ch->tokens[due].text_end <= ch->ready))
        due++;
    ch->call.told = true;
    if (from >= to) return; /* nothing to say is not said */
    open_content_event(
        out, r, call ? "response.function_call_arguments.delta" : "response.output_text.delta");
    buf_puts(out, ",\"delta\":");
    buf_json_string(out, ch->text.data + from, to - from);
    if (!call) {
        buf_puts(out, ",\"logprobs\":[");
        if (r->r->logprobs) api__write_logprob_entries(out, r, ch, ch->n_written, due);
        buf_puts(out, "]");
    }
    write_tokens(out, r, ch, due);
    buf_puts(out, "}\n\n");
    ch->sent = to;
    ch->n_written = due;
}

static void close_call(buf *out, api_reply *r, const api__choice *ch) {
    open_content_event(out, r, "response.function_call_arguments.done");
    write_name(out, ch);
    buf_puts(out, ",\"arguments\":");
    write_arguments(out, ch);
    buf_puts(out, "}\n\n");
}

static void close_text(buf *out, api_reply *r, const api__choice *ch) {
    open_content_event(out, r, "response.output_text.done");
    buf_puts(out, ",\"text\":");
    buf_json_string(out, ch->text.data ? ch->text.data : "", ch->text.len);
    buf_puts(out, ",\"logprobs\":[");
    if (r->r->logprobs) api__write_logprob_entries(out, r, ch, 0, ch->n_tokens);
    buf_puts(out, "]}\n\n");
    part_event(out, r, "response.content_part.done", true);
}

void api__responses_stream_end(buf *out, api_reply *r) {
    const api__choice *ch = &r->choices[0];
    open_item(out, r);
    if (api__is_call(ch)) close_call(out, r, ch);
    else close_text(out, r, ch);
    item_event(out, r, "response.output_item.done", true);
    response_event(out, r, ch->finish == SCHED_STOP ? "response.completed" : "response.incomplete",
                   true);
}

void api__responses_body(buf *out, const api_reply *r) {
    write_response(out, r, true);
}

/* The event's own fields, and the error object that every other stream has. */
void api__responses_error(buf *out, api_reply *r, const err *why) {
    buf body = {0};
    api_error_body(&body, why);
    open_event(out, r, "error");
    buf_puts(out, ",\"code\":");
    buf_json_text(out, err_name(why->code));
    buf_puts(out, ",\"message\":");
    buf_json_text(out, err_text(why->code));
    buf_puts(out, ",\"param\":null,");
    if (body.len > 2) buf_append(out, body.data + 1, body.len - 2); /* "error":{…} */
    buf_puts(out, "}\n\n");
    if (body.failed) out->failed = true;
    buf_deinit(&body);
}
