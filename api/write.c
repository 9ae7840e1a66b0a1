/* write.c - completions and chats: the steps of a stream's chunk, of its end, of a whole body. */
#include "api/api_internal.h"
#include "base/utf8.h"

bool api__step_text(buf *out, api_reply *r, size_t end) {
    api__cursor *k = &r->cursor;
    const char *text = api__chosen(r)->text.data;
    if (k->mute) return true;
    return api__write_string(out, k, text ? text + k->from : "", k->to - k->from, end);
}

/* ---- parts that chunks and bodies share ---- */

static void write_finish(buf *out, const api_reply *r, const api__choice *ch, bool finished) {
    if (!finished) {
        buf_puts(out, ",\"finish_reason\":null");
        return;
    }
    /* A function that was named is what was asked for: that is an ordinary stop. */
    bool call = api__is_call(ch) && r->r->named == NULL;
    buf_puts(out, ",\"finish_reason\":");
    buf_puts(out, ch->finish != SCHED_STOP ? "\"length\"" : call ? "\"tool_calls\"" : "\"stop\"");
    buf_puts(out, ",\"stop_reason\":");
    if (ch->stop_hit >= 0)
        buf_json_string(out, r->r->stops[ch->stop_hit].text, r->r->stops[ch->stop_hit].n);
    else if (ch->has_stop_id) api__write_uint(out, ch->stop_id);
    else buf_puts(out, "null");
}

void api__write_prefix(buf *out, const api_reply *r) {
    static const char *const objects[][2] = {
        [API_COMPLETION] = {"text_completion", "text_completion"},
        [API_CHAT] = {"chat.completion", "chat.completion.chunk"},
        [API_RESPONSES] = {"response", "response"},
    };
    buf_puts(out, r->r->stream ? "data: {\"id\":" : "{\"id\":");
    buf_json_text(out, r->id);
    buf_puts(out, ",\"object\":\"");
    buf_puts(out, objects[r->r->kind][r->r->stream]);
    buf_puts(out, "\",\"created\":");
    api__write_uint(out, (uint64_t)r->created);
    buf_puts(out, ",\"model\":");
    buf_json_text(out, r->c->name);
    buf_puts(out, ",\"choices\":[");
}

static void write_usage(buf *out, const api_reply *r) {
    uint64_t prompt, output;
    api_reply_usage(r, &prompt, &output);
    buf_puts(out, ",\"usage\":{\"prompt_tokens\":");
    api__write_uint(out, prompt);
    buf_puts(out, ",\"completion_tokens\":");
    api__write_uint(out, output);
    buf_puts(out, ",\"total_tokens\":");
    api__write_uint(out, prompt + output);
    buf_puts(out, ",\"prompt_tokens_details\":{\"cached_tokens\":");
    api__write_uint(out, r->n_cached);
    buf_puts(out, ",\"loops\":");
    api__write_uint(out, r->prompt_loops);
    buf_puts(out, "},\"completion_tokens_details\":{\"reasoning_tokens\":0,\"loops\":");
    api__write_uint(out, r->output_loops);
    buf_puts(out, "}}");
}

void api__write_call_id(buf *out, const api_reply *r, const api__choice *ch, const char *head) {
    char id[128];
    const char *own = strpbrk(r->id, "-_"); /* behind the head of the answer's id */
    (void)snprintf(id, sizeof id, "%s_%.80s_%u", head, own ? own + 1 : r->id, ch->index);
    buf_json_text(out, id);
}

/* A call up to its arguments, which are a string. */
static void open_call(buf *out, const api_reply *r, const api__choice *ch) {
    buf_puts(out, "\"id\":");
    api__write_call_id(out, r, ch, "call");
    buf_puts(out, ",\"type\":\"function\",\"function\":{\"name\":");
    buf_json_string(out, ch->text.data + ch->call.name, ch->call.n_name);
    buf_puts(out, ",\"arguments\":");
}

/* ---- a chunk of a stream ---- */

/* Tokens whose text is wholly out; at the end, all. */
static uint32_t tokens_due(const api__choice *ch, bool finished) {
    uint32_t n = 0;
    if (finished) return ch->n_tokens;
    while (n < ch->n_tokens && ch->tokens[n].text_end <= ch->ready)
        n++;
    return n;
}

/* Forgets the first n tokens and the text that neither a reader nor a token waits for. */
static void drop_written(const api_reply *r, api__choice *ch, uint32_t n) {
    size_t tops = api__tops_at(r, ch, n), all_tops = api__tops_at(r, ch, ch->n_tokens);
    size_t until = n > 0 ? ch->tokens[n - 1].text_end : ch->tokens_at;
    bool keep = r->r->calls != API__CALLS_NONE && ch->call.phase != API__CALL_NONE;
    if (!r->keeps_output) until = ch->sent;
    if (keep) ch->tokens_at = until; /* the call's places are in this text */
    if (r->r->logprobs && until > ch->tokens_at) {
        ch->chars += utf8_count(ch->text.data + ch->tokens_at, until - ch->tokens_at);
    }
    if (n > 0 && n < ch->n_tokens) {
        memmove(ch->tokens, ch->tokens + n, (ch->n_tokens - n) * sizeof *ch->tokens);
        if (ch->tops) memmove(ch->tops, ch->tops + tops, (all_tops - tops) * sizeof *ch->tops);
    }
    ch->n_tokens -= n;
    ch->n_scored -= n < ch->n_scored ? n : ch->n_scored;
    if (keep) return;
    buf_drop(&ch->text, until);
    for (uint32_t i = 0; i < ch->n_tokens; i++)
        ch->tokens[i].text_end -= (uint32_t)until;
    ch->tokens_at = 0;
    ch->scanned -= until;
    ch->ready -= until;
    ch->sent -= until;
}

static void open_delta(buf *out, const api_reply *r, const api__choice *ch) {
    const api__cursor *k = &r->cursor;
    buf_puts(out, ch->opened ? ",\"delta\":{" : ",\"delta\":{\"role\":\"assistant\"");
    if (k->mute) return;
    if (!ch->opened) buf_puts(out, ",");
    if (!k->call) {
        buf_puts(out, "\"content\":");
        return;
    }
    buf_puts(out, "\"tool_calls\":[{\"index\":0,");
    if (!ch->call.told) open_call(out, r, ch);
    else buf_puts(out, "\"function\":{\"arguments\":");
}

static bool chunk_open(buf *out, api_reply *r, size_t end) {
    const api__choice *ch = api__chosen(r);
    (void)end;
    buf_append(out, r->prefix.data, r->prefix.len);
    buf_puts(out, "{\"index\":");
    api__write_uint(out, ch->index);
    if (r->r->kind == API_COMPLETION) buf_puts(out, ",\"text\":");
    else open_delta(out, r, ch);
    return true;
}

static bool delta_close(buf *out, api_reply *r, size_t end) {
    const api__cursor *k = &r->cursor;
    (void)end;
    if (k->call && !k->mute) buf_puts(out, "}}]");
    buf_puts(out, "}");
    return true;
}

static bool chunk_close(buf *out, api_reply *r, size_t end) {
    const api__cursor *k = &r->cursor;
    api__choice *ch = api__chosen(r);
    (void)end;
    write_finish(out, r, ch, k->finished);
    buf_puts(out, "}]");
    if (r->r->continuous_usage) write_usage(out, r);
    buf_puts(out, "}\n\n");
    ch->sent = k->to;
    ch->opened = true;
    ch->closed = k->finished;
    if (k->call) ch->call.told = true;
    drop_written(r, ch, k->to_token);
    return true;
}

#define COMPLETION_LISTS                                                                           \
    api__step_texts, api__step_logprobs, api__step_tops, api__step_offsets,                        \
        api__step_logprob_depths, api__step_ids, api__step_depths
#define CHAT_LISTS api__step_chat_logprobs, api__step_ids, api__step_depths

bool api__begin_chunk(api_reply *r, api__choice *ch) {
    static const api__step completion[] = {chunk_open, api__step_text, COMPLETION_LISTS,
                                           chunk_close, NULL};
    static const api__step chat[] = {chunk_open, api__step_text, delta_close,
                                     CHAT_LISTS, chunk_close,    NULL};
    bool whole = r->r->kind == API_COMPLETION, call = api__is_call(ch);
    api__cursor k = {.steps = whole ? completion : chat,
                     .choice = ch->index,
                     .call = call,
                     .finished = ch->state != API__RUNNING,
                     .from = call ? api__args_from(ch) : ch->sent,
                     .to = call ? ch->call.args_end : ch->ready};
    if (r->r->kind == API_RESPONSES) return api__responses_begin_chunk(r, ch);
    if (k.to < k.from) k.to = k.from;
    k.to_token = tokens_due(ch, k.finished);
    k.mute = !whole && k.from == k.to && (call ? ch->call.told : ch->opened);
    r->cursor = k;
    return true;
}

/* ---- the end of a stream ---- */

static bool usage_chunk(buf *out, api_reply *r, size_t end) {
    (void)end;
    if (r->r->include_usage) {
        buf_append(out, r->prefix.data, r->prefix.len);
        buf_puts(out, "]");
        write_usage(out, r);
        buf_puts(out, "}\n\n");
    }
    buf_puts(out, "data: [DONE]\n\n");
    return true;
}

void api__begin_end(api_reply *r) {
    static const api__step steps[] = {usage_chunk, NULL};
    if (r->r->kind == API_RESPONSES) api__responses_begin_end(r);
    else r->cursor = (api__cursor){.steps = steps};
}

/* ---- whole answers ---- */

static bool body_open(buf *out, api_reply *r, size_t end) {
    (void)end;
    buf_append(out, r->prefix.data, r->prefix.len);
    return true;
}

static bool choice_open(buf *out, api_reply *r, size_t end) {
    api__cursor *k = &r->cursor;
    const api__choice *ch = api__chosen(r);
    (void)end;
    k->call = api__is_call(ch);
    k->from = k->call ? ch->call.args : 0;
    k->to = k->call ? ch->call.args_end : ch->text.len;
    k->to_token = ch->n_tokens;
    buf_puts(out, k->choice ? ",{\"index\":" : "{\"index\":");
    api__write_uint(out, k->choice);
    if (r->r->kind == API_COMPLETION) {
        buf_puts(out, ",\"text\":");
        return true;
    }
    buf_puts(out, ",\"message\":{\"role\":\"assistant\",\"content\":");
    if (!k->call) return true;
    buf_puts(out, "null,\"refusal\":null,\"tool_calls\":[{");
    open_call(out, r, ch);
    return true;
}

static bool message_close(buf *out, api_reply *r, size_t end) {
    (void)end;
    buf_puts(out, r->cursor.call ? "}}]}" : ",\"refusal\":null}");
    return true;
}

enum { CHOICE_OPEN = 1 }; /* its place in both lists of steps */

static bool choice_close(buf *out, api_reply *r, size_t end) {
    api__cursor *k = &r->cursor;
    api__choice *ch = api__chosen(r);
    (void)end;
    write_finish(out, r, ch, true);
    buf_puts(out, "}");
    api__forget_choice(r, ch);
    if (++k->choice < r->n_choices) k->step = CHOICE_OPEN - 1; /* it goes on with the next */
    return true;
}

static bool body_close(buf *out, api_reply *r, size_t end) {
    (void)end;
    buf_puts(out, "]");
    write_usage(out, r);
    buf_puts(out, "}");
    return true;
}

void api__begin_body(api_reply *r) {
    static const api__step completion[] = {body_open,
                                           choice_open,
                                           api__step_text,
                                           COMPLETION_LISTS,
                                           api__step_prompt_logprobs,
                                           choice_close,
                                           body_close,
                                           NULL};
    static const api__step chat[] = {body_open,     choice_open, api__step_text,
                                     message_close, CHAT_LISTS,  api__step_prompt_logprobs,
                                     choice_close,  body_close,  NULL};
    if (r->r->kind == API_RESPONSES) api__responses_begin_body(r);
    else r->cursor = (api__cursor){.steps = r->r->kind == API_CHAT ? chat : completion};
}
