/* emit.c - a position is finished: its log-probability, its tap, the next token, the end. */
#include "base/clock.h"
#include "scheduler/scheduler_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The score of the prompt token after pos is still to be told. */
static bool scores_next(const seq *q, uint32_t pos) {
    return q->req.prompt_logprobs && pos + 1 < q->req.n_prompt && pos + 1 >= q->seen;
}

static bool gives_token(const seq *q, uint32_t pos) {
    return pos + 1 == q->n_tokens && q->req.max_tokens > 0;
}

static bool bans_stop_ids(const seq *q) { /* it is too early to stop */
    return seq_n_output(q) < q->req.min_tokens && q->req.n_stop_ids > 0;
}

/* The next token follows from the logits alone, where the backend can pick it: they need
 * not leave the device. (Masks, penalties and bias are known here only.) */
static bool backend_samples(const scheduler *s, const seq *q) {
    return s->backend->info.samples && q->req.constraint == NULL && !bans_stop_ids(q) &&
           eng_sampling_is_plain(&q->req.sampling);
}

uint16_t sched__head_wanted(const scheduler *s, const seq *q, uint32_t pos) {
    bool tapped = q->req.tap && q->req.tap_logits && pos >= q->seen;
    if (tapped || scores_next(q, pos)) return ENG_ROW_LOGITS;
    if (!gives_token(q, pos)) return 0;
    return backend_samples(s, q) ? ENG_ROW_SAMPLE : ENG_ROW_LOGITS;
}

static void fill_choice(sched_event *ev, const eng_choice *c) {
    ev->logprob = c->logprob;
    ev->n_top = c->n_top;
    memcpy(ev->top, c->top, c->n_top * sizeof *c->top);
}

static void emit_prompt(scheduler *s, seq *q, uint32_t pos, uint16_t depth) {
    sched_event ev = {
        .id = q->id, .kind = SCHED_PROMPT, .token = q->tokens[pos], .pos = pos, .depth = depth};
    if (pos == 0) {
        ev.logprob = NAN;
    } else {
        fill_choice(&ev, &q->pending);
    }
    s->sink(s->ud, &ev);
}

static void count_position(scheduler *s, seq *q, uint32_t pos, uint16_t depth) {
    s->stats.exits_by_depth[depth]++;
    s->depth_mean += s->depth_mean > 0 ? (depth - s->depth_mean) / 256 : depth;
    if (pos < q->req.n_prompt) {
        q->prompt_loops += depth;
        s->stats.prompt_loops += depth;
    } else {
        q->output_loops += depth;
        s->stats.output_loops += depth;
    }
}

enum { REDRAWS = 32 }; /* of one token */

/* The mask as our own copy, of which more may be taken away. */
static void own_mask(scheduler *s, eng_mask *m) {
    size_t words = (s->plan->vocab_size + 63) / 64;
    for (size_t i = 0; m->words != s->mask && i < words; i++) {
        s->mask[i] = m->words == NULL ? UINT64_MAX : i < m->n_words ? m->words[i] : 0;
    }
    *m = (eng_mask){s->mask, words};
}

static void ban(scheduler *s, eng_mask *m, uint32_t id) {
    own_mask(s, m);
    s->mask[id / 64] &= ~(UINT64_C(1) << (id % 64));
}

/* What the caller's constraint allows, less the stop ids while it is too early. Without words:
 * everything. */
static eng_mask mask_for(scheduler *s, const seq *q) {
    const eng_mask *given = q->req.constraint ? q->req.constraint->mask(q->req.ud) : NULL;
    eng_mask m = given ? *given : (eng_mask){0};
    for (uint32_t i = 0; bans_stop_ids(q) && i < q->req.n_stop_ids; i++)
        ban(s, &m, q->req.stop_ids[i]);
    return m;
}

static bool is_stop(const seq *q, uint32_t token) {
    for (uint32_t i = 0; i < q->req.n_stop_ids; i++) {
        if (q->req.stop_ids[i] == token) return true;
    }
    return false;
}

/* A token that the constraint takes. What it refuses, though the mask allowed it, is banned and
 * another is drawn; of an answer that runs out of tokens only its own sequence ends. */
static err_code draw(scheduler *s, const seq *q, const float *logits, eng_choice *out) {
    eng_history h = {q->tokens, q->tokens + q->req.n_prompt, q->req.n_prompt, seq_n_output(q)};
    eng_mask m = mask_for(s, q);
    for (int i = 0; i < REDRAWS; i++) {
        err e = {0};
        if (eng_sample(s->sampler, &q->req.sampling, &h, m.words ? &m : NULL, logits,
                       seq_n_output(q), q->req.n_top, out, &e) != 0) {
            return e.code;
        }
        if (!q->req.constraint || q->req.constraint->take(q->req.ud, out->token)) return ERR_NONE;
        ban(s, &m, out->token);
        if (s->beat) s->beat(s->ud);
    }
    return ERR_CONSTRAINT;
}

static err_code sample(scheduler *s, const seq *q, const float *logits, eng_choice *out) {
    uint64_t t0 = clock_ns();
    err_code bad = draw(s, q, logits, out);
    t0 = clock_ns() - t0;
    s->stats.sample_ns += t0;
    sched__charge_host(s, q, t0);
    return bad;
}

static void put_out(scheduler *s, seq *q, uint16_t depth, const eng_choice *c) {
    if (q->t_first == 0) q->t_first = q->t_last;
    if (is_stop(q, c->token)) {
        sched__end(s, q, SCHED_STOP, ERR_NONE, c->token);
        return;
    }
    sched_event ev = {
        .id = q->id, .kind = SCHED_TOKEN, .token = c->token, .pos = q->n_tokens, .depth = depth};
    fill_choice(&ev, c);
    q->tokens[q->n_tokens++] = c->token;
    s->stats.output_tokens++;
    sched__tenant_of(s, q)->output_tokens++;
    s->sink(s->ud, &ev);
    if (seq_n_output(q) == q->req.max_tokens) {
        sched__end(s, q, SCHED_LENGTH, ERR_NONE, 0);
    } else {
        sched__want_mask(s, q);
        sched__want_start(s, q);
    }
}

static void next_token(scheduler *s, seq *q, uint16_t depth, const float *logits,
                       const eng_choice *choice) {
    eng_choice own;
    err_code bad = ERR_NONE;
    if (choice == NULL) {
        bad = sample(s, q, logits, &own);
        choice = &own;
    } else if (choice->token == ENG_NO_TOKEN) {
        bad = ERR_NUMERIC;
    }
    q->t_last = clock_ns();
    if (bad == ERR_NONE) {
        put_out(s, q, depth, choice);
    } else {
        sched__end(s, q, SCHED_FAILED, bad, 0);
    }
}

void sched__finish_position(scheduler *s, seq *q, uint32_t pos, uint16_t depth, const float *logits,
                            const eng_choice *choice) {
    bool score = scores_next(q, pos);
    bool first = pos >= q->seen;
    if (first) q->seen = pos + 1;
    if (first || s->fault == FAULT_REEMIT) {
        count_position(s, q, pos, depth);
        if (q->req.tap) q->req.tap(q->req.ud, q->id, pos, depth, q->req.tap_logits ? logits : NULL);
        if (q->req.prompt_logprobs && pos < q->req.n_prompt) emit_prompt(s, q, pos, depth);
    }
    if (score) {
        err e = {0};
        if (eng_score(logits, s->plan->vocab_size, q->tokens[pos + 1], q->req.n_top, &q->pending,
                      &e) != 0) {
            sched__end(s, q, SCHED_FAILED, e.code, 0);
            return;
        }
    }
    if (pos + 1 < q->n_tokens) return;
    if (q->req.max_tokens == 0) {
        sched__end(s, q, SCHED_LENGTH, ERR_NONE, 0);
    } else {
        next_token(s, q, depth, logits, choice);
    }
}

void sched__end(scheduler *s, seq *q, sched_finish finish, err_code why, uint32_t stop_id) {
    sched__release(s, q);
    q->state = SEQ_ENDED;
    if (q->t_last == 0) q->t_last = clock_ns();
    sched_event ev = {
        .id = q->id, .kind = SCHED_END, .finish = finish, .why = why, .stop_id = stop_id};
    ev.n_prompt = q->req.n_prompt;
    ev.n_cached = q->n_cached;
    ev.n_output = seq_n_output(q);
    ev.prompt_loops = q->prompt_loops;
    ev.output_loops = q->output_loops;
    uint64_t admit = q->t_admit ? q->t_admit : q->t_last,
             first = q->t_first ? q->t_first : q->t_last;
    ev.queued_ns = admit - q->t_submit;
    ev.prefill_ns = first - admit;
    ev.decode_ns = q->t_last - first;
    s->stats.finished[finish]++;
    if (s->keep_ended) {
        q->end = ev;
    } else {
        s->sink(s->ud, &ev);
    }
    q->rank.next = s->ended ? &s->ended->rank : NULL; /* callers still look at its state */
    s->ended = q;
}
