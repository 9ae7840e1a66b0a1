/* slices.c - what is written next, and how much of it now.
 *
 * A reply has one cursor. When the text it stands in is over, the next one begins: of a stream a
 * chunk of any choice that has news, then the end; of a whole answer its body. Events that come
 * within a text wait in the choices, and are told together behind it. */
#include "api/api_internal.h"

#include <stdlib.h>

/* ---- what a reply holds ---- */

size_t api__choice_bytes(const api__choice *ch) {
    return ch->text.cap + ch->cap_tokens * sizeof *ch->tokens + ch->cap_tops * sizeof *ch->tops;
}

void api__forget_choice(api_reply *r, api__choice *ch) {
    r->bytes -= api__choice_bytes(ch);
    buf_deinit(&ch->text);
    free(ch->tokens);
    free(ch->tops);
    ch->tokens = NULL;
    ch->tops = NULL;
    ch->n_tokens = ch->n_scored = ch->cap_tokens = ch->cap_tops = 0;
}

size_t api_reply_bytes(const api_reply *r) {
    return r->bytes;
}

/* ---- what comes next ---- */

/* A choice has something that a chunk would tell. */
static bool has_news(const api_reply *r, const api__choice *ch) {
    if (ch->closed) return false;
    if (ch->state != API__RUNNING) return true; /* why it ended */
    if (ch->n_output == 0) return false;        /* an echoed prompt goes with the first token */
    if (r->c->opts.tokenizer == NULL) return ch->n_tokens > 0; /* ids are all there is */
    if (r->r->calls == API__CALLS_NONE || ch->call.phase == API__CALL_NONE)
        return ch->ready > ch->sent;
    return api__is_call(ch) && (!ch->call.told || ch->call.args_end > api__args_from(ch));
}

static api__choice *next_with_news(api_reply *r) {
    uint32_t look_at = r->behind ? r->n_choices : 1;
    for (uint32_t n = 0; n < look_at; n++) {
        api__choice *ch = &r->choices[r->current];
        if (has_news(r, ch)) return ch;
        if (r->behind && ++r->current == r->n_choices) r->current = 0;
    }
    r->behind = false;
    return NULL;
}

static bool begin_next(api_reply *r) {
    api__choice *ch;
    if (r->closed || r->failed) return false;
    if (r->r->stream) {
        while ((ch = next_with_news(r))) {
            if (!api__begin_chunk(r, ch)) continue;
            r->started = true;
            return true;
        }
    }
    if (!r->done) return false;
    r->closed = true;
    if (r->r->stream) api__begin_end(r);
    else api__begin_body(r);
    return true;
}

/* True when the text is over. */
static bool write_on(buf *out, api_reply *r, size_t end) {
    api__cursor *k = &r->cursor;
    while (k->steps[k->step]) {
        if (out->failed || out->len >= end) return false;
        if (!k->steps[k->step](out, r, end)) return false;
        k->step++;
        k->open = k->comma = false;
        k->token = 0;
        k->byte = 0;
        k->chars = 0;
    }
    k->steps = NULL;
    return true;
}

bool api_reply_more(api_reply *r, buf *out, size_t want) {
    size_t room = SIZE_MAX - out->len;
    if (want == 0) want = 1;
    size_t end = out->len + (want < room ? want : room);
    if (r->failed) return false;
    while (r->cursor.steps || begin_next(r)) {
        if (!write_on(out, r, end)) return !out->failed;
    }
    return false;
}
