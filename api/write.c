/* write.c - answers and stream events as JSON text.
 *
 * Only appends; no JSON tree and no allocation but the growth of the caller's buffer, for
 * this is run for every token of every stream. */
#include "api/api_internal.h"
#include "base/utf8.h"

void api__write_uint(buf *out, uint64_t v) {
    char digits[20];
    size_t at = sizeof digits;
    do
        digits[--at] = (char)('0' + v % 10);
    while ((v /= 10) > 0);
    buf_append(out, digits + at, sizeof digits - at);
}

/* -9999 is the API's word for "very unlikely"; JSON has no infinities. */
void api__write_logprob(buf *out, float v) {
    char text[32];
    double x = isnan(v) || v < -9999.0f ? -9999.0 : v < 0 ? (double)v : 0.0;
    int n = snprintf(text, sizeof text, "%.6g", x);
    buf_append(out, text, (size_t)n);
}

/* ---- single tokens ---- */

static size_t text_start(const api__choice *ch, uint32_t i) {
    return i == 0 ? ch->tokens_at : ch->tokens[i - 1].text_end;
}

static void write_token_text(buf *out, const api__choice *ch, uint32_t i) {
    size_t from = text_start(ch, i);
    buf_json_string(out, ch->text.data ? ch->text.data + from : "", ch->tokens[i].text_end - from);
}

/* A token that is not part of the text: its spelling, special or not. */
static void write_spelling(buf *out, const tokenizer *t, uint32_t id, bool as_key) {
    size_t n = 0;
    const char *bytes = t ? tokenizer_bytes(t, id, &n) : NULL;
    if (bytes == NULL) {
        char text[32];
        int len = snprintf(text, sizeof text, "token_id:%u", id);
        buf_json_string(out, text, (size_t)len);
    } else if (as_key && (!utf8_valid(bytes, n) || memchr(bytes, 0, n))) {
        /* U+FFFD twice would be one key twice, and many parsers take no NUL in a key. */
        buf_puts(out, "\"bytes:");
        for (size_t i = 0; i < n; i++)
            buf_printf(out, "\\\\x%02x", (unsigned char)bytes[i]);
        buf_puts(out, "\"");
    } else {
        buf_json_string(out, bytes, n);
    }
}

static void write_bytes(buf *out, const tokenizer *t, uint32_t id) {
    size_t n = 0;
    const char *bytes = t ? tokenizer_bytes(t, id, &n) : NULL;
    buf_puts(out, "[");
    for (size_t i = 0; bytes && i < n; i++) {
        if (i) buf_puts(out, ",");
        api__write_uint(out, (unsigned char)bytes[i]);
    }
    buf_puts(out, "]");
}

static const eng_top *tops_of(const api_reply *r, const api__choice *ch, uint32_t i, uint32_t most,
                              uint32_t *n) {
    size_t per = r->r->n_top > r->r->n_prompt_top ? r->r->n_top : r->r->n_prompt_top;
    *n = ch->tokens[i].n_top < most ? ch->tokens[i].n_top : most;
    return ch->tops ? ch->tops + i * per : NULL;
}

static void write_chat_entry(buf *out, const api_reply *r, const api__choice *ch, uint32_t i) {
    const tokenizer *t = r->c->opts.tokenizer;
    const api__token *k = &ch->tokens[i];
    uint32_t n;
    const eng_top *top = tops_of(r, ch, i, r->r->n_top, &n);
    buf_puts(out, "{\"token\":");
    write_token_text(out, ch, i);
    buf_puts(out, ",\"logprob\":");
    api__write_logprob(out, k->logprob);
    buf_puts(out, ",\"bytes\":");
    write_bytes(out, t, k->id);
    buf_puts(out, ",\"top_logprobs\":[");
    for (uint32_t j = 0; j < n; j++) {
        buf_puts(out, j ? ",{\"token\":" : "{\"token\":");
        write_spelling(out, t, top[j].id, false);
        buf_puts(out, ",\"logprob\":");
        api__write_logprob(out, top[j].logprob);
        buf_puts(out, ",\"bytes\":");
        write_bytes(out, t, top[j].id);
        buf_puts(out, "}");
    }
    buf_puts(out, "]");
    if (r->r->return_depth) {
        buf_puts(out, ",\"depth\":");
        api__write_uint(out, k->depth);
    }
    buf_puts(out, "}");
}

/* The prompt's own tokens are part of a completion's lists only where it is echoed. */
static bool shown(const api_reply *r, const api__token *k) {
    return !k->prompt || r->r->echo;
}

static void write_top_map(buf *out, const api_reply *r, const api__choice *ch, uint32_t i) {
    const api__token *k = &ch->tokens[i];
    uint32_t n;
    const eng_top *top = tops_of(r, ch, i, r->r->n_top, &n);
    bool has_own = false;
    if (isnan(k->logprob) || r->r->n_top == 0) {
        buf_puts(out, "null");
        return;
    }
    buf_puts(out, "{");
    for (uint32_t j = 0; j < n; j++) {
        if (j) buf_puts(out, ",");
        write_spelling(out, r->c->opts.tokenizer, top[j].id, true);
        buf_puts(out, ":");
        api__write_logprob(out, top[j].logprob);
        has_own = has_own || top[j].id == k->id;
    }
    if (!has_own) { /* the chosen one is always there, so there may be one more than asked */
        if (n) buf_puts(out, ",");
        write_spelling(out, r->c->opts.tokenizer, k->id, true);
        buf_puts(out, ":");
        api__write_logprob(out, k->logprob);
    }
    buf_puts(out, "}");
}

typedef enum { LIST_TEXT, LIST_LOGPROB, LIST_TOP, LIST_OFFSET } list;

static void write_list(buf *out, const api_reply *r, const api__choice *ch, uint32_t n, list what,
                       const char *key) {
    uint64_t chars = ch->chars;
    bool first = true;
    buf_puts(out, key);
    for (uint32_t i = 0; i < n; i++) {
        const api__token *k = &ch->tokens[i];
        if (!shown(r, k)) continue;
        if (!first) buf_puts(out, ",");
        first = false;
        switch (what) {
        case LIST_TEXT: write_token_text(out, ch, i); break;
        case LIST_LOGPROB:
            if (isnan(k->logprob)) buf_puts(out, "null");
            else api__write_logprob(out, k->logprob);
            break;
        case LIST_TOP: write_top_map(out, r, ch, i); break;
        case LIST_OFFSET: {
            size_t from = text_start(ch, i);
            api__write_uint(out, chars);
            if (ch->text.data) chars += utf8_count(ch->text.data + from, k->text_end - from);
            break;
        }
        }
    }
    buf_puts(out, "]");
}

void api__write_logprob_entries(buf *out, const api_reply *r, const api__choice *ch, uint32_t from,
                                uint32_t to) {
    bool first = true;
    for (uint32_t i = from; i < to; i++) {
        if (ch->tokens[i].prompt) continue;
        if (!first) buf_puts(out, ",");
        first = false;
        write_chat_entry(out, r, ch, i);
    }
}

void api__write_numbers(buf *out, const api_reply *r, const api__choice *ch, uint32_t from,
                        uint32_t to, bool depths, const char *key) {
    bool first = true;
    buf_puts(out, key);
    for (uint32_t i = from; i < to; i++) {
        if (!shown(r, &ch->tokens[i])) continue;
        if (!first) buf_puts(out, ",");
        first = false;
        api__write_uint(out, depths ? ch->tokens[i].depth : ch->tokens[i].id);
    }
    buf_puts(out, "]");
}

void api__write_token_fields(buf *out, const api_reply *r, const api__choice *ch, uint32_t n) {
    const api_request *q = r->r;
    if (!q->logprobs) {
        buf_puts(out, ",\"logprobs\":null");
    } else if (q->kind == API_CHAT) {
        buf_puts(out, ",\"logprobs\":{\"content\":[");
        api__write_logprob_entries(out, r, ch, 0, n);
        buf_puts(out, "],\"refusal\":null}");
    } else {
        write_list(out, r, ch, n, LIST_TEXT, ",\"logprobs\":{\"tokens\":[");
        write_list(out, r, ch, n, LIST_LOGPROB, ",\"token_logprobs\":[");
        write_list(out, r, ch, n, LIST_TOP, ",\"top_logprobs\":[");
        write_list(out, r, ch, n, LIST_OFFSET, ",\"text_offset\":[");
        if (q->return_depth) api__write_numbers(out, r, ch, 0, n, true, ",\"depth\":[");
        buf_puts(out, "}");
    }
    if (q->return_ids) api__write_numbers(out, r, ch, 0, n, false, ",\"token_ids\":[");
    if (q->return_depth) api__write_numbers(out, r, ch, 0, n, true, ",\"depths\":[");
}

/* vLLM's shape: one entry for each position, the first null, keyed by token id. */
static void write_prompt_logprobs(buf *out, const api_reply *r, const api__choice *ch) {
    bool first = true;
    buf_puts(out, ",\"prompt_logprobs\":[");
    for (uint32_t i = 0; i < ch->n_tokens; i++) {
        const api__token *k = &ch->tokens[i];
        uint32_t n;
        const eng_top *top = tops_of(r, ch, i, r->r->n_prompt_top, &n);
        if (!k->prompt) continue;
        if (!first) buf_puts(out, ",");
        first = false;
        if (isnan(k->logprob)) {
            buf_puts(out, "null");
            continue;
        }
        buf_puts(out, "{");
        bool has_own = false;
        for (uint32_t j = 0; j <= n; j++) {
            bool own = j == n;
            if (own && has_own) break;
            uint32_t id = own ? k->id : top[j].id;
            has_own = has_own || id == k->id;
            buf_printf(out, "%s\"%u\":{\"logprob\":", j ? "," : "", id);
            api__write_logprob(out, own ? k->logprob : top[j].logprob);
            if (!own) buf_printf(out, ",\"rank\":%u", j + 1);
            buf_puts(out, ",\"decoded_token\":");
            write_spelling(out, r->c->opts.tokenizer, id, false);
            buf_puts(out, "}");
        }
        buf_puts(out, "}");
    }
    buf_puts(out, "]");
}

/* ---- choices ---- */

void api__write_finish(buf *out, const api_reply *r, const api__choice *ch, bool finished) {
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
    size_t per = r->r->n_top > r->r->n_prompt_top ? r->r->n_top : r->r->n_prompt_top;
    size_t until = n > 0 ? ch->tokens[n - 1].text_end : ch->tokens_at;
    bool keep = r->r->calls != API__CALLS_NONE && ch->call.phase != API__CALL_NONE;
    if (!api__wants_tokens(r->r)) until = ch->sent;
    if (keep) ch->tokens_at = until; /* the call's places are in this text */
    if (r->r->logprobs && until > ch->tokens_at) {
        ch->chars += utf8_count(ch->text.data + ch->tokens_at, until - ch->tokens_at);
    }
    if (n > 0 && n < ch->n_tokens) {
        memmove(ch->tokens, ch->tokens + n, (ch->n_tokens - n) * sizeof *ch->tokens);
        if (per) memmove(ch->tops, ch->tops + n * per, (ch->n_tokens - n) * per * sizeof *ch->tops);
    }
    ch->n_tokens -= n;
    if (keep) return;
    buf_drop(&ch->text, until);
    for (uint32_t i = 0; i < ch->n_tokens; i++)
        ch->tokens[i].text_end -= (uint32_t)until;
    ch->tokens_at = 0;
    ch->scanned -= until;
    ch->ready -= until;
    ch->sent -= until;
}

void api__write_call_id(buf *out, const api_reply *r, const api__choice *ch, const char *head) {
    char id[128];
    const char *own = strpbrk(r->id, "-_"); /* behind the head of the answer's id */
    (void)snprintf(id, sizeof id, "%s_%.80s_%u", head, own ? own + 1 : r->id, ch->index);
    buf_json_text(out, id);
}

static void write_function(buf *out, const api__choice *ch, bool name, size_t from) {
    buf_puts(out, "\"function\":{");
    if (name) {
        buf_puts(out, "\"name\":");
        buf_json_string(out, ch->text.data + ch->call.name, ch->call.n_name);
        buf_puts(out, ",");
    }
    buf_puts(out, "\"arguments\":");
    buf_json_string(out, ch->text.data + from, ch->call.args_end - from);
    buf_puts(out, "}}]");
}

static void write_delta(buf *out, const api_reply *r, api__choice *ch, const char *text, size_t n) {
    const char *comma = ch->opened ? "" : ",";
    buf_puts(out, ch->opened ? ",\"delta\":{" : ",\"delta\":{\"role\":\"assistant\"");
    if (!api__is_call(ch)) {
        if (n > 0 || !ch->opened) {
            buf_puts(out, comma);
            buf_puts(out, "\"content\":");
            buf_json_string(out, text, n);
        }
    } else if (!ch->call.told || ch->call.args_end > api__args_from(ch)) {
        buf_puts(out, comma);
        buf_puts(out, "\"tool_calls\":[{\"index\":0,");
        if (!ch->call.told) {
            buf_puts(out, "\"id\":");
            api__write_call_id(out, r, ch, "call");
            buf_puts(out, ",\"type\":\"function\",");
        }
        write_function(out, ch, !ch->call.told, api__args_from(ch));
        ch->call.told = true;
    }
    buf_puts(out, "}");
}

static void write_message(buf *out, const api_reply *r, const api__choice *ch) {
    buf_puts(out, ",\"message\":{\"role\":\"assistant\",\"content\":");
    if (!api__is_call(ch)) {
        buf_json_string(out, ch->text.data ? ch->text.data : "", ch->text.len);
        buf_puts(out, ",\"refusal\":null}");
        return;
    }
    buf_puts(out, "null,\"refusal\":null,\"tool_calls\":[{\"id\":");
    api__write_call_id(out, r, ch, "call");
    buf_puts(out, ",\"type\":\"function\",");
    write_function(out, ch, true, ch->call.args);
    buf_puts(out, "}");
}

void api__write_chunk(buf *out, api_reply *r, api__choice *ch, bool finished) {
    if (r->r->kind == API_RESPONSES) {
        api__responses_chunk(out, r, ch, finished);
        return;
    }
    const char *text = ch->text.data ? ch->text.data + ch->sent : "";
    size_t n = ch->ready - ch->sent;
    buf_append(out, r->prefix.data, r->prefix.len);
    buf_puts(out, "{\"index\":");
    api__write_uint(out, ch->index);
    if (r->r->kind == API_COMPLETION) {
        buf_puts(out, ",\"text\":");
        buf_json_string(out, text, n);
    } else {
        write_delta(out, r, ch, text, n);
    }
    uint32_t due = tokens_due(ch, finished);
    api__write_token_fields(out, r, ch, due);
    api__write_finish(out, r, ch, finished);
    buf_puts(out, "}]");
    if (r->r->continuous_usage) api__write_usage(out, r);
    buf_puts(out, "}\n\n");
    ch->sent = ch->ready;
    ch->opened = true;
    drop_written(r, ch, due);
}

/* ---- whole answers ---- */

void api__write_usage(buf *out, const api_reply *r) {
    uint64_t prompt, output, cached = 0, prompt_loops = 0, output_loops = 0;
    api_reply_usage(r, &prompt, &output);
    for (uint32_t i = 0; i < r->n_choices; i++) {
        const api__choice *ch = &r->choices[i];
        if (i % r->r->n == 0)
            cached += ch->n_cached; /* a prompt counts once, however many choices */
        prompt_loops += ch->prompt_loops;
        output_loops += ch->output_loops;
    }
    buf_puts(out, ",\"usage\":{\"prompt_tokens\":");
    api__write_uint(out, prompt);
    buf_puts(out, ",\"completion_tokens\":");
    api__write_uint(out, output);
    buf_puts(out, ",\"total_tokens\":");
    api__write_uint(out, prompt + output);
    buf_puts(out, ",\"prompt_tokens_details\":{\"cached_tokens\":");
    api__write_uint(out, cached);
    buf_puts(out, ",\"loops\":");
    api__write_uint(out, prompt_loops);
    buf_puts(out, "},\"completion_tokens_details\":{\"reasoning_tokens\":0,\"loops\":");
    api__write_uint(out, output_loops);
    buf_puts(out, "}}");
}

void api__write_stream_end(buf *out, api_reply *r) {
    if (r->r->kind == API_RESPONSES) {
        api__responses_stream_end(out, r);
        return;
    }
    if (r->r->include_usage) {
        buf_append(out, r->prefix.data, r->prefix.len);
        buf_puts(out, "]");
        api__write_usage(out, r);
        buf_puts(out, "}\n\n");
    }
    buf_puts(out, "data: [DONE]\n\n");
}

void api__write_body(buf *out, const api_reply *r) {
    if (r->r->kind == API_RESPONSES) {
        api__responses_body(out, r);
        return;
    }
    buf_append(out, r->prefix.data, r->prefix.len);
    for (uint32_t i = 0; i < r->n_choices; i++) {
        const api__choice *ch = &r->choices[i];
        const char *text = ch->text.data ? ch->text.data : "";
        buf_puts(out, i ? ",{\"index\":" : "{\"index\":");
        api__write_uint(out, i);
        if (r->r->kind == API_COMPLETION) {
            buf_puts(out, ",\"text\":");
            buf_json_string(out, text, ch->text.len);
        } else {
            write_message(out, r, ch);
        }
        api__write_token_fields(out, r, ch, ch->n_tokens);
        if (r->r->prompt_logprobs) write_prompt_logprobs(out, r, ch);
        api__write_finish(out, r, ch, true);
        buf_puts(out, "}");
    }
    buf_puts(out, "]");
    api__write_usage(out, r);
    buf_puts(out, "}");
}
