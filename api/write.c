/* write.c - completions and chat: the steps of a stream's chunk, of its end, and of a whole
 * body. */
#include "api/api_internal.h"
#include "base/utf8.h"

bool api__step_text(buf *out, api_reply *reply, size_t end) {
    api__cursor *cursor = &reply->cursor;
    const api__choice *choice = api__chosen(reply);
    const char *text = cursor->call ? choice->answer.args.data : api__content(reply, choice)->data;
    if (cursor->mute) return true;
    return api__write_string(out, cursor, text ? text + cursor->from : "",
                             cursor->to - cursor->from, end);
}

/* ---- parts shared by chunks and bodies ---- */

static void write_finish(buf *out, const api_reply *reply, const api__choice *choice,
                         bool finished) {
    if (!finished) {
        buf_puts(out, ",\"finish_reason\":null");
        return;
    }
    /* A function named by tool_choice was expected, so its call ends with "stop". */
    bool call = choice->answer.n_calls > 0 && reply->req->named == NULL;
    buf_puts(out, ",\"finish_reason\":");
    buf_puts(out, choice->finish != SCHED_STOP ? "\"length\""
                  : call                       ? "\"tool_calls\""
                                               : "\"stop\"");
    buf_puts(out, ",\"stop_reason\":");
    if (choice->stop_hit >= 0)
        buf_json_string(out, reply->req->stops[choice->stop_hit].text,
                        reply->req->stops[choice->stop_hit].len);
    else if (choice->has_stop_id) api__write_uint(out, choice->stop_id);
    else buf_puts(out, "null");
}

void api__write_prefix(buf *out, const api_reply *reply) {
    static const char *const objects[][2] = {
        [API_COMPLETION] = {"text_completion", "text_completion"},
        [API_CHAT] = {"chat.completion", "chat.completion.chunk"},
        [API_RESPONSES] = {"response", "response"},
    };
    buf_puts(out, reply->req->stream ? "data: {\"id\":" : "{\"id\":");
    buf_json_text(out, reply->id);
    buf_puts(out, ",\"object\":\"");
    buf_puts(out, objects[reply->req->kind][reply->req->stream]);
    buf_puts(out, "\",\"created\":");
    api__write_uint(out, (uint64_t)reply->created);
    buf_puts(out, ",\"model\":");
    buf_json_text(out, reply->ctx->name);
    buf_puts(out, ",\"choices\":[");
}

static void write_usage(buf *out, const api_reply *reply) {
    uint64_t prompt, output;
    api_reply_usage(reply, &prompt, &output);
    buf_puts(out, ",\"usage\":{\"prompt_tokens\":");
    api__write_uint(out, prompt);
    buf_puts(out, ",\"completion_tokens\":");
    api__write_uint(out, output);
    buf_puts(out, ",\"total_tokens\":");
    api__write_uint(out, prompt + output);
    buf_puts(out, ",\"prompt_tokens_details\":{\"cached_tokens\":");
    api__write_uint(out, reply->n_cached);
    buf_puts(out, ",\"loops\":");
    api__write_uint(out, reply->prompt_loops);
    buf_puts(out, "},\"completion_tokens_details\":{\"reasoning_tokens\":0,\"loops\":");
    api__write_uint(out, reply->output_loops);
    buf_puts(out, "}}");
}

void api__write_call_id(buf *out, const api_reply *reply, const api__choice *choice,
                        uint32_t n_call, const char *head) {
    char id[128];
    const char *own = strpbrk(reply->id, "-_"); /* after the head of the answer's id */
    int n = snprintf(id, sizeof id, "%s_%.80s_%u", head, own ? own + 1 : reply->id, choice->index);
    if (n_call > 0) (void)snprintf(id + n, sizeof id - (size_t)n, "_%u", n_call);
    buf_json_text(out, id);
}

void api__write_call_name(buf *out, const api_reply *reply, const api__choice *choice,
                          uint32_t n_call) {
    buf_puts(out, "\"name\":");
    buf_json_text(out, reply->req->tools[choice->answer.calls[n_call].tool].name);
}

/* Writes a call up to its arguments. They follow as a string. */
static void open_call(buf *out, const api_reply *reply, const api__choice *choice) {
    uint32_t n_call = reply->cursor.n_call;
    buf_puts(out, "\"id\":");
    api__write_call_id(out, reply, choice, n_call, "call");
    buf_puts(out, ",\"type\":\"function\",\"function\":{");
    api__write_call_name(out, reply, choice, n_call);
    buf_puts(out, ",\"arguments\":");
}

/* ---- a chunk of a stream ---- */

/* Number of tokens with their text completely ready; all of them at the end. */
static uint32_t tokens_due(const api__choice *choice, bool finished) {
    uint32_t n = 0;
    if (finished) return choice->n_tokens;
    while (n < choice->n_tokens && choice->tokens[n].text_end <= choice->ready)
        n++;
    return n;
}

/* Drops the first n tokens, and text once it is sent and belongs to no kept token. */
static void drop_written(const api_reply *reply, api__choice *choice, uint32_t n) {
    size_t tops = api__tops_at(reply, choice, n),
           all_tops = api__tops_at(reply, choice, choice->n_tokens);
    size_t until = n > 0 ? choice->tokens[n - 1].text_end : choice->tokens_at;
    bool keep = reply->req->calls != API__CALLS_NONE;
    if (!reply->keeps_output) until = choice->sent;
    if (keep) choice->tokens_at = until; /* the reader of calls counts its bytes */
    if (reply->req->logprobs && until > choice->tokens_at) {
        choice->chars +=
            utf8_count(choice->text.data + choice->tokens_at, until - choice->tokens_at);
    }
    if (n > 0 && n < choice->n_tokens) {
        memmove(choice->tokens, choice->tokens + n,
                (choice->n_tokens - n) * sizeof *choice->tokens);
        if (choice->tops)
            memmove(choice->tops, choice->tops + tops, (all_tops - tops) * sizeof *choice->tops);
    }
    choice->n_tokens -= n;
    choice->n_scored -= n < choice->n_scored ? n : choice->n_scored;
    if (keep) return;
    buf_drop(&choice->text, until);
    for (uint32_t i = 0; i < choice->n_tokens; i++)
        choice->tokens[i].text_end -= (uint32_t)until;
    choice->tokens_at = 0;
    choice->scanned -= until;
    choice->ready -= until;
    choice->sent -= until;
}

static void open_delta(buf *out, const api_reply *reply, const api__choice *choice) {
    const api__cursor *cursor = &reply->cursor;
    buf_puts(out, choice->opened ? ",\"delta\":{" : ",\"delta\":{\"role\":\"assistant\"");
    if (cursor->mute) return;
    if (!choice->opened) buf_puts(out, ",");
    if (!cursor->call) {
        buf_puts(out, "\"content\":");
        return;
    }
    buf_puts(out, "\"tool_calls\":[{\"index\":");
    api__write_uint(out, cursor->n_call);
    buf_puts(out, ",");
    if (!choice->call_opened) open_call(out, reply, choice);
    else buf_puts(out, "\"function\":{\"arguments\":");
}

static bool chunk_open(buf *out, api_reply *reply, size_t end) {
    const api__choice *choice = api__chosen(reply);
    (void)end;
    buf_append(out, reply->prefix.data, reply->prefix.len);
    buf_puts(out, "{\"index\":");
    api__write_uint(out, choice->index);
    if (reply->req->kind == API_COMPLETION) buf_puts(out, ",\"text\":");
    else open_delta(out, reply, choice);
    return true;
}

static bool delta_close(buf *out, api_reply *reply, size_t end) {
    const api__cursor *cursor = &reply->cursor;
    (void)end;
    if (cursor->call && !cursor->mute) buf_puts(out, "}}]");
    buf_puts(out, "}");
    return true;
}

static bool chunk_close(buf *out, api_reply *reply, size_t end) {
    const api__cursor *cursor = &reply->cursor;
    api__choice *choice = api__chosen(reply);
    (void)end;
    write_finish(out, reply, choice, cursor->finished);
    buf_puts(out, "}]");
    if (reply->req->continuous_usage) write_usage(out, reply);
    buf_puts(out, "}\n\n");
    if (cursor->call) api__call_sent(reply, choice);
    else choice->sent = cursor->to;
    choice->opened = true;
    choice->closed = cursor->finished;
    drop_written(reply, choice, cursor->to_token);
    return true;
}

#define COMPLETION_LISTS                                                                           \
    api__step_texts, api__step_logprobs, api__step_tops, api__step_offsets,                        \
        api__step_logprob_depths, api__step_ids, api__step_depths
#define CHAT_LISTS api__step_chat_logprobs, api__step_ids, api__step_depths

bool api__begin_chunk(api_reply *reply, api__choice *choice) {
    static const api__step completion[] = {chunk_open, api__step_text, COMPLETION_LISTS,
                                           chunk_close, NULL};
    static const api__step chat[] = {chunk_open, api__step_text, delta_close,
                                     CHAT_LISTS, chunk_close,    NULL};
    bool whole = reply->req->kind == API_COMPLETION;
    if (reply->req->kind == API_RESPONSES) return api__responses_begin_chunk(reply, choice);
    bool text = api__content_end(reply, choice) > choice->sent;
    const api__call *call = api__next_call(choice);
    /* Parts that follow this one. */
    uint32_t later = choice->answer.n_calls - choice->sent_calls - (!text && call ? 1 : 0);
    reply->cursor =
        (api__cursor){.steps = whole ? completion : chat,
                      .choice = choice->index,
                      .finished = choice->state != API__RUNNING && (later == 0 || call == NULL)};
    if (!text && call) api__at_call(reply, choice, choice->sent_calls);
    else api__at_content(reply, choice);
    reply->cursor.to_token = tokens_due(choice, reply->cursor.finished);
    reply->cursor.mute = !whole && !text && call == NULL && choice->opened;
    return true;
}

/* ---- the end of a stream ---- */

static bool usage_chunk(buf *out, api_reply *reply, size_t end) {
    (void)end;
    if (reply->req->include_usage) {
        buf_append(out, reply->prefix.data, reply->prefix.len);
        buf_puts(out, "]");
        write_usage(out, reply);
        buf_puts(out, "}\n\n");
    }
    buf_puts(out, "data: [DONE]\n\n");
    return true;
}

void api__begin_end(api_reply *reply) {
    static const api__step steps[] = {usage_chunk, NULL};
    if (reply->req->kind == API_RESPONSES) api__responses_begin_end(reply);
    else reply->cursor = (api__cursor){.steps = steps};
}

/* ---- whole answers ---- */

static bool body_open(buf *out, api_reply *reply, size_t end) {
    (void)end;
    buf_append(out, reply->prefix.data, reply->prefix.len);
    return true;
}

static bool choice_open(buf *out, api_reply *reply, size_t end) {
    api__cursor *cursor = &reply->cursor;
    const api__choice *choice = api__chosen(reply);
    (void)end;
    api__at_content(reply, choice);
    cursor->to_token = choice->n_tokens;
    buf_puts(out, cursor->choice ? ",{\"index\":" : "{\"index\":");
    api__write_uint(out, cursor->choice);
    if (reply->req->kind == API_COMPLETION) {
        buf_puts(out, ",\"text\":");
        return true;
    }
    buf_puts(out, ",\"message\":{\"role\":\"assistant\",\"content\":");
    cursor->mute = choice->answer.n_calls > 0 && cursor->to == 0;
    if (cursor->mute) buf_puts(out, "null"); /* calls only */
    return true;
}

static bool content_close(buf *out, api_reply *reply, size_t end) {
    const api__choice *choice = api__chosen(reply);
    (void)end;
    buf_puts(out, ",\"refusal\":null");
    if (choice->answer.n_calls > 0) buf_puts(out, ",\"tool_calls\":[");
    reply->cursor.item = 0;
    return true;
}

static bool call_open(buf *out, api_reply *reply, size_t end) {
    const api__choice *choice = api__chosen(reply);
    (void)end;
    reply->cursor.mute = choice->answer.n_calls == 0;
    if (reply->cursor.mute) return true;
    api__at_call(reply, choice, reply->cursor.item);
    buf_puts(out, reply->cursor.item ? ",{" : "{");
    open_call(out, reply, choice);
    return true;
}

enum { CHOICE_OPEN = 1, CALL_OPEN = 4 }; /* their indices in the lists of steps */

static bool call_close(buf *out, api_reply *reply, size_t end) {
    const api__choice *choice = api__chosen(reply);
    (void)end;
    if (reply->cursor.mute) return true;
    buf_puts(out, "}}");
    if (++reply->cursor.item < choice->answer.n_calls)
        reply->cursor.step = CALL_OPEN - 1; /* the next call follows */
    return true;
}

static bool message_close(buf *out, api_reply *reply, size_t end) {
    (void)end;
    buf_puts(out, api__chosen(reply)->answer.n_calls > 0 ? "]}" : "}");
    return true;
}

static bool choice_close(buf *out, api_reply *reply, size_t end) {
    api__cursor *cursor = &reply->cursor;
    api__choice *choice = api__chosen(reply);
    (void)end;
    write_finish(out, reply, choice, true);
    buf_puts(out, "}");
    api__forget_choice(reply, choice);
    if (++cursor->choice < reply->n_choices)
        cursor->step = CHOICE_OPEN - 1; /* the next choice follows */
    return true;
}

static bool body_close(buf *out, api_reply *reply, size_t end) {
    (void)end;
    buf_puts(out, "]");
    write_usage(out, reply);
    buf_puts(out, "}");
    return true;
}

void api__begin_body(api_reply *reply) {
    static const api__step completion[] = {body_open,
                                           choice_open,
                                           api__step_text,
                                           COMPLETION_LISTS,
                                           api__step_prompt_logprobs,
                                           choice_close,
                                           body_close,
                                           NULL};
    static const api__step chat[] = {body_open,
                                     choice_open,
                                     api__step_text,
                                     content_close,
                                     call_open,
                                     api__step_text,
                                     call_close,
                                     message_close,
                                     CHAT_LISTS,
                                     api__step_prompt_logprobs,
                                     choice_close,
                                     body_close,
                                     NULL};
    if (reply->req->kind == API_RESPONSES) api__responses_begin_body(reply);
    else reply->cursor = (api__cursor){.steps = reply->req->kind == API_CHAT ? chat : completion};
}
