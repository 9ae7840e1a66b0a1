/* emit.c - a position is finished: its log-probability, its tap, the next token. */
#include "base/clock.h"
#include "scheduler/scheduler_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The log-probability of the prompt token after pos has not been reported. */
static bool scores_next(const sequence *seq, uint32_t pos) {
    return seq->req.prompt_logprobs && pos + 1 < seq->req.n_prompt && pos + 1 >= seq->n_reported;
}

/* The token behind pos is not known, or only a draft. */
static bool gives_token(const sequence *seq, uint32_t pos) {
    return pos + 1 >= seq->n_tokens && seq->req.max_tokens > 0;
}

/* It is too early to stop after n_output tokens. */
static bool bans_stop_ids(const sequence *seq, uint32_t n_output) {
    return n_output < seq->req.min_tokens && seq->req.n_stop_ids > 0;
}

/* If the backend can pick the next token from the logits alone, they need not leave the device.
 * (Masks, penalties and bias are known here only.) */
static bool backend_samples(const scheduler *sched, const sequence *seq, uint32_t n_output) {
    return sched->backend->info.samples && seq->req.constraint == NULL &&
           !bans_stop_ids(seq, n_output) && eng_sampling_is_plain(&seq->req.sampling);
}

uint16_t sched__head_wanted(const scheduler *sched, const sequence *seq, uint32_t pos) {
    bool tapped = seq->req.tap && seq->req.tap_logits && pos >= seq->n_reported;
    if (tapped || scores_next(seq, pos)) return ENG_ROW_LOGITS;
    if (!gives_token(seq, pos)) return 0;
    bool samples = backend_samples(sched, seq, pos + 1 - seq->req.n_prompt);
    return samples ? ENG_ROW_SAMPLE : ENG_ROW_LOGITS;
}

static void fill_choice(sched_event *event, const eng_choice *choice) {
    event->logprob = choice->logprob;
    event->n_top = choice->n_top;
    memcpy(event->top, choice->top, choice->n_top * sizeof *choice->top);
}

static void emit_prompt(scheduler *sched, sequence *seq, uint32_t pos, uint16_t depth) {
    sched_event event = {
        .id = seq->id, .kind = SCHED_PROMPT, .token = seq->tokens[pos], .pos = pos, .depth = depth};
    if (pos == 0) {
        event.logprob = NAN;
    } else {
        fill_choice(&event, &seq->prompt_score);
    }
    sched->sink(sched->ud, &event);
}

static void count_position(scheduler *sched, sequence *seq, uint32_t pos, uint16_t depth) {
    sched->stats.exits_by_depth[depth]++;
    bool prompt = pos < seq->req.n_prompt;
    sched__learn_depth(&sched->cost, depth, prompt);
    if (prompt) {
        seq->prompt_loops += depth;
        sched->stats.prompt_loops += depth;
    } else {
        if (seq->last_depth) sched__learn_same_depth(&sched->cost, depth == seq->last_depth);
        seq->last_depth = depth;
        seq->output_loops += depth;
        sched->stats.output_loops += depth;
    }
}

enum { REDRAWS = 32 }; /* of one token */

/* Makes *mask our own copy, to remove more tokens from. */
static void own_mask(scheduler *sched, eng_mask *mask) {
    size_t words = (sched->plan->vocab_size + 63) / 64;
    for (size_t i = 0; mask->words != sched->mask && i < words; i++) {
        sched->mask[i] = mask->words == NULL ? UINT64_MAX : i < mask->n_words ? mask->words[i] : 0;
    }
    *mask = (eng_mask){sched->mask, words};
}

static void ban(scheduler *sched, eng_mask *mask, uint32_t id) {
    own_mask(sched, mask);
    sched->mask[id / 64] &= ~(UINT64_C(1) << (id % 64));
}

/* The tokens allowed by the constraint after n_output tokens, minus the stop ids while it is too
 * early to stop. A mask without words allows every token, and so does one that is not known. */
static eng_mask mask_for(scheduler *sched, const sequence *seq, uint32_t n_output) {
    eng_mask mask = {0};
    uint32_t pos = seq->req.n_prompt + n_output;
    const eng_mask *given = sched__knows_mask(seq, pos) ? sched__mask_at(seq, pos) : NULL;
    if (given) mask = *given;
    for (uint32_t i = 0; bans_stop_ids(seq, n_output) && i < seq->req.n_stop_ids; i++)
        ban(sched, &mask, seq->req.stop_ids[i]);
    return mask;
}

/* Draws the token behind the prompt and n_output tokens. */
static int draw_one(scheduler *sched, const sequence *seq, uint32_t n_output, uint32_t n_top,
                    const eng_mask *mask, const float *logits, eng_choice *out, err *e) {
    eng_history history = {seq->tokens, seq->tokens + seq->req.n_prompt, seq->req.n_prompt,
                           n_output};
    return eng_sample(sched->sampler, &seq->req.sampling, &history, mask->words ? mask : NULL,
                      logits, n_output, n_top, out, e);
}

/* Draws a token and hands it to the constraint. If the constraint refuses it in spite of the mask,
 * bans it and draws another. When no token is left, only this sequence ends. */
static err_code draw(scheduler *sched, sequence *seq, const float *logits, eng_choice *out) {
    uint32_t n_output = seq_n_output(seq);
    eng_mask mask = mask_for(sched, seq, n_output);
    for (int i = 0; i < REDRAWS; i++) {
        err e = {0};
        if (draw_one(sched, seq, n_output, seq->req.n_top, &mask, logits, out, &e) != 0)
            return e.code;
        if (sched__take_token(seq, out->token)) return ERR_NONE;
        ban(sched, &mask, out->token);
        if (sched->beat) sched->beat(sched->ud);
    }
    return ERR_CONSTRAINT;
}

static err_code sample(scheduler *sched, sequence *seq, const float *logits, eng_choice *out) {
    uint64_t began = clock_ns();
    err_code failure = draw(sched, seq, logits, out);
    uint64_t took = clock_ns() - began;
    sched->stats.sample_ns += took;
    sched__charge_host(sched, seq, took);
    return failure;
}

static void put_out(scheduler *sched, sequence *seq, uint16_t depth, const eng_choice *choice) {
    if (seq->t_first == 0) seq->t_first = seq->t_last;
    if (seq_is_stop(seq, choice->token)) {
        sched__end(sched, seq, SCHED_STOP, ERR_NONE, choice->token);
        return;
    }
    sched_event event = {.id = seq->id,
                         .kind = SCHED_TOKEN,
                         .token = choice->token,
                         .pos = seq->n_tokens,
                         .depth = depth};
    fill_choice(&event, choice);
    bool runs = sched__judge_draft(sched, seq, choice->token);
    /* With many sequences a trial is dearer, so it comes after as many more tokens. */
    if (sched->draft_now.loops == 0) sched__age_drafts(&sched->drafts, 1.0 / sched->n_running);
    seq->tokens[seq->n_tokens++] = choice->token;
    sched->stats.output_tokens++;
    sched__tenant_of(sched, seq)->output_tokens++;
    sched->sink(sched->ud, &event);
    if (seq_n_output(seq) == seq->req.max_tokens) {
        sched__end(sched, seq, SCHED_LENGTH, ERR_NONE, 0);
    } else {
        bool expects_anew = sched__want_mask(sched, seq);
        if (!runs) sched__want_start(sched, seq);
        look_up where = !runs ? LOOK_FOR_TEXT_TOO : expects_anew ? LOOK_FOR_EXPECTED : LOOK_NOWHERE;
        if (sched->rules.drafts && where != LOOK_NOWHERE) sched__want_look_up(sched, seq, where);
    }
}

static void next_token(scheduler *sched, sequence *seq, uint16_t depth, const float *logits,
                       const eng_choice *choice) {
    eng_choice own;
    err_code failure = ERR_NONE;
    if (choice == NULL) {
        failure = sample(sched, seq, logits, &own);
        choice = &own;
    } else if (choice->token == ENG_NO_TOKEN) {
        failure = ERR_NUMERIC;
    }
    seq->t_last = clock_ns();
    if (failure == ERR_NONE) {
        put_out(sched, seq, depth, choice);
    } else {
        sched__end(sched, seq, SCHED_FAILED, failure, 0);
    }
}

/* A draft without a token, by NaN or an empty mask, is none: the verdict will tell. */
void sched__finish_draft(scheduler *sched, cohort *coh, const float *logits,
                         const eng_choice *choice) {
    sequence *seq = coh->owner;
    uint32_t n_output = sched__next_pos(coh) - seq->req.n_prompt;
    eng_choice own = {.token = ENG_NO_TOKEN};
    coh->drafting = DRAFTS_NOTHING;
    if (choice == NULL) {
        err e = {0};
        uint64_t began = clock_ns();
        eng_mask mask = mask_for(sched, seq, n_output);
        if (draw_one(sched, seq, n_output, 0, &mask, logits, &own, &e) != 0)
            own.token = ENG_NO_TOKEN;
        uint64_t took = clock_ns() - began;
        sched->stats.sample_ns += took;
        sched__charge_host(sched, seq, took);
        choice = &own;
    }
    uint32_t token = choice->token;
    if (token != ENG_NO_TOKEN && seq_is_stop(seq, token)) token = ENG_NO_TOKEN;
    sched__take_draft(sched, coh, token);
}

/* Reports a position once, when it is first finished. */
static void report(scheduler *sched, sequence *seq, uint32_t pos, uint16_t depth,
                   const float *logits) {
    const sched_request *req = &seq->req;
    if (pos < seq->n_reported) return;
    seq->n_reported = pos + 1;
    count_position(sched, seq, pos, depth);
    if (req->tap) req->tap(req->ud, seq->id, pos, depth, req->tap_logits ? logits : NULL);
    if (req->prompt_logprobs && pos < req->n_prompt) emit_prompt(sched, seq, pos, depth);
}

void sched__finish_position(scheduler *sched, sequence *seq, uint32_t pos, uint16_t depth,
                            const float *logits, const eng_choice *choice) {
    bool score = scores_next(seq, pos); /* before the report */
    err e = {0};
    report(sched, seq, pos, depth, logits);
    if (score && eng_score(logits, sched->plan->vocab_size, seq->tokens[pos + 1], seq->req.n_top,
                           &seq->prompt_score, &e) != 0) {
        sched__end(sched, seq, SCHED_FAILED, e.code, 0);
        return;
    }
    if (pos + 1 < seq->n_tokens) return;
    if (seq->req.max_tokens == 0) {
        sched__end(sched, seq, SCHED_LENGTH, ERR_NONE, 0);
    } else {
        next_token(sched, seq, depth, logits, choice);
    }
}
