/* slices.c - decides when to write, and how much.
 *
 * A reply has one cursor. When the cursor's steps are complete, the next part begins: in a stream a
 * chunk of any choice with new data, then the end of the stream; otherwise the body. Events during
 * a part change the choices only; their data is written together after the part. */
#include "api/dialect_internal.h"

#include <stdlib.h>

/* ---- memory of a reply ---- */

void api__forget_choice(api_reply *reply, api__choice *choice) {
    reply->bytes -= api__choice_bytes(choice);
    buf_deinit(&choice->text);
    api__answer_deinit(&choice->answer);
    free(choice->tokens);
    free(choice->tops);
    choice->tokens = NULL;
    choice->tops = NULL;
    choice->n_tokens = choice->n_scored = choice->cap_tokens = choice->cap_tops = 0;
}

size_t api_reply_bytes(const api_reply *reply) {
    return reply->bytes;
}

/* ---- the next part ---- */

/* True if a chunk of this choice would have new data. */
static bool has_news(const api_reply *reply, const api__choice *choice) {
    if (choice->closed) return false;
    if (choice->state != API__RUNNING) return true; /* the reason has to be written */
    if (choice->n_output == 0) return false; /* an echoed prompt is written with the first token */
    if (reply->pulled && api__draft_due(choice)) return true;
    if (reply->ctx->opts.tokenizer == NULL)
        return choice->n_tokens > 0; /* the answer consists of ids */
    return api__has_fresh(reply, choice);
}

static api__choice *next_with_news(api_reply *reply) {
    uint32_t look_at = reply->behind ? reply->n_choices : 1;
    for (uint32_t n = 0; n < look_at; n++) {
        api__choice *choice = &reply->choices[reply->current];
        if (has_news(reply, choice)) return choice;
        if (reply->behind && ++reply->current == reply->n_choices) reply->current = 0;
    }
    if (reply->pulled || reply->done) reply->behind = false; /* else fresh drafts may be left */
    return NULL;
}

static bool begin_next(api_reply *reply) {
    api__choice *choice;
    if (reply->closed || reply->failed) return false;
    if (reply->req->stream) {
        while ((choice = next_with_news(reply))) {
            if (!reply->req->dialect->begin_chunk(reply, choice)) continue;
            reply->started = true;
            return true;
        }
    }
    if (!reply->done) return false;
    reply->closed = true;
    if (reply->req->stream) reply->req->dialect->begin_end(reply);
    else reply->req->dialect->begin_body(reply);
    return true;
}

/* True when the steps are complete. */
static bool write_on(buf *out, api_reply *reply, size_t end) {
    api__cursor *cursor = &reply->cursor;
    while (cursor->steps[cursor->step]) {
        if (out->failed || out->len >= end) return false;
        if (!cursor->steps[cursor->step](out, reply, end)) return false;
        cursor->step++;
        cursor->open = cursor->comma = false;
        cursor->token = 0;
        cursor->byte = 0;
        cursor->chars = 0;
    }
    cursor->steps = NULL;
    return true;
}

bool api__write_more(api_reply *reply, buf *out, size_t want) {
    size_t room = SIZE_MAX - out->len;
    if (want == 0) want = 1;
    size_t end = out->len + (want < room ? want : room);
    if (reply->failed) return false;
    while (reply->cursor.steps || begin_next(reply)) {
        if (!write_on(out, reply, end)) return !out->failed;
    }
    return false;
}

bool api_reply_more(api_reply *reply, buf *out, size_t want) {
    reply->pulled = true;
    return api__write_more(reply, out, want);
}
