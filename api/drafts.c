/* drafts.c - shows a client of a stream what is drafted: tokens that were begun before they are
 * certain (stream_options.include_drafts).
 *
 * A chunk's member "draft" is all text that may follow the text sent so far, so a client forgets
 * the last one at each chunk. It begins with text that is certain but held back, because it may
 * become a stop string, a mark or a character of several tokens. Without a tokenizer an answer
 * consists of ids, and the member is "draft_token_ids".
 *
 * Drafts come many at a time. They are written with a token, or when the caller asks for more: what
 * came until then makes one chunk. */
#include "api/dialect_internal.h"

#include <stdlib.h>

int api__drafts_create(api_reply *reply, err *e) {
    const api_request *req = reply->req;
    bool shown = req->include_drafts && req->calls == API__CALLS_NONE;
    for (uint32_t i = 0; shown && i < reply->n_choices; i++) {
        reply->choices[i].drafts = calloc(1, sizeof *reply->choices[i].drafts);
        if (reply->choices[i].drafts == NULL) return api__out_of_memory(e);
        reply->bytes += sizeof *reply->choices[i].drafts;
    }
    return 0;
}

/* ---- events ---- */

void api__draft_named(api__choice *choice, const sched_event *ev) {
    api__drafts *drafts = choice->drafts;
    uint64_t next = choice->prompt->n_ids + choice->n_output; /* the first that is not certain */
    if (drafts == NULL || ev->pos < next) return;
    uint64_t place = ev->pos - next;
    if (place > drafts->n || place >= SCHED_MAX_DRAFTS) return;
    drafts->ids[place] = ev->token;
    drafts->n = (uint32_t)place + 1;
    drafts->fresh = true;
}

void api__draft_judged(api__choice *choice, uint32_t token) {
    api__drafts *drafts = choice->drafts;
    if (drafts == NULL || drafts->n == 0) return;
    if (drafts->ids[0] != token) {
        drafts->n = 0;
        drafts->fresh = true; /* what was shown is wrong, even if the token prints nothing */
        return;
    }
    drafts->n--;
    memmove(drafts->ids, drafts->ids + 1, drafts->n * sizeof *drafts->ids);
}

/* ---- writing ---- */

/* Appends the text of the drafted tokens. Returns the bytes of `tail` before the answer's end. */
static size_t add_drafts(const api_reply *reply, const api__choice *choice, buf *tail) {
    const api__drafts *drafts = choice->drafts;
    uint64_t left = choice->prompt->max_tokens - choice->n_output;
    api_utf8 utf8 = choice->utf8;
    api__matcher stop = choice->stop;
    size_t certain = tail->len;
    int hit;
    for (uint32_t i = 0; i < drafts->n && i < left; i++)
        api__token_text(reply, choice, drafts->ids[i], &utf8, tail);
    if (tail->failed || tail->len == certain) return tail->len;
    size_t taken = api__stop_feed(&stop, tail->data + certain, tail->len - certain, &hit);
    if (hit < 0 || reply->req->include_stop) return certain + taken;
    return certain + taken - reply->req->stops[hit].len;
}

static void write_ids(buf *out, const api_reply *reply, const api__choice *choice) {
    const api__drafts *drafts = choice->drafts;
    uint64_t left = choice->prompt->max_tokens - choice->n_output;
    uint32_t i;
    for (i = 0; i < drafts->n && i < left && !api__is_stop_id(reply->req, drafts->ids[i]); i++) {
        buf_puts(out, i ? "," : ",\"draft_token_ids\":[");
        api__write_uint(out, drafts->ids[i]);
    }
    if (i > 0) buf_puts(out, "]");
}

static void write_text(buf *out, const api_reply *reply, const api__choice *choice) {
    size_t from;
    buf tail = {0};
    if (api__has_fresh(reply, choice)) return;
    if (!api__tail_at(&choice->thinker, reply->req, choice->ready, &from)) return;
    if (choice->text.len > from)
        buf_append(&tail, choice->text.data + from, choice->text.len - from);
    size_t n = add_drafts(reply, choice, &tail);
    n = api__before_mark(&choice->thinker, reply->req, tail.data, n);
    out->failed |= tail.failed;
    if (n > 0 && !tail.failed) {
        buf_puts(out, ",\"draft\":");
        buf_json_string(out, tail.data, n);
    }
    buf_deinit(&tail);
}

void api__write_draft(buf *out, const api_reply *reply, api__choice *choice) {
    if (choice->drafts == NULL) return;
    choice->drafts->fresh = choice->drafts->n > 0 && out->len >= API__SLICE && !reply->pulled;
    if (choice->drafts->n == 0 || choice->drafts->fresh) return;
    if (reply->ctx->opts.tokenizer) write_text(out, reply, choice);
    else write_ids(out, reply, choice);
}
