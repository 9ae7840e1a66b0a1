/* masks.c - the masks of constrained sequences: made beside the launches, not between them.
 *
 * The mask of the next token depends only on the tokens before it, so it is made while the launches
 * for the token's logits run: by a thread of its own (thread.c), or at once in a scheduler without
 * threads. A position without its mask stays out of the coda and delays no other. Every mask has a
 * bound in work, and sequences with slow masks let others pass, so a slow constraint delays others
 * by one bound at most.
 *
 * With the mask come the tokens that the constraint expects next and the masks behind each. While
 * the drafts in front of a position are these tokens, whatever named them, its mask is known. So a
 * run of expected tokens goes through one coda, and needs one mask from the maker.
 *
 * While sequence.mask is MASK_WANTED the constraint belongs to the mask maker, so the sequence must
 * not be reported ended; in every other state it belongs to the engine thread. */
#include "base/clock.h"
#include "scheduler/scheduler_internal.h"

#include <string.h>

enum { SLOW_NS = 1000 * 1000 };

bool sched__make_mask(sequence *seq) {
    mask_state became = MASK_DROPPED;
    if (!atomic_load_explicit(&seq->cancel_wanted, memory_order_relaxed)) {
        uint64_t began = clock_ns();
        seq->mask_error = seq->req.constraint->make(seq->req.ud);
        seq->slow_mask = clock_ns() - began > SLOW_NS;
        became = seq->mask_error == ERR_NONE ? MASK_READY : MASK_FAILED;
    }
    atomic_store_explicit(&seq->mask, became, memory_order_release);
    return became != MASK_FAILED; /* seq may be gone by now */
}

bool sched__want_mask(scheduler *sched, sequence *seq) {
    if (seq->req.constraint == NULL || seq->req.max_tokens == 0) return false;
    if (sched__mask(seq) == MASK_READY) return false;
    atomic_store_explicit(&seq->mask, MASK_WANTED, memory_order_relaxed);
    if (sched->hand_mask) {
        sched->hand_mask(sched->ud, seq);
    } else if (!sched__make_mask(seq)) {
        atomic_store_explicit(&sched->masks_failed, true, memory_order_release);
    }
    return true;
}

uint32_t sched__expected(const sequence *seq, const uint32_t **tokens) {
    const sched_constraint *constraint = seq->req.constraint;
    *tokens = NULL;
    if (sched__mask(seq) != MASK_READY || constraint->expected == NULL) return 0;
    return constraint->expected(seq->req.ud, tokens);
}

bool sched__knows_mask(const sequence *seq, uint32_t pos) {
    mask_state mask = sched__mask(seq);
    if (mask == MASK_NONE) return true;
    if (mask != MASK_READY || pos < seq->n_tokens) return false;
    const uint32_t *tokens, *drafts = seq->tokens + seq->n_tokens;
    uint32_t behind = pos - seq->n_tokens;
    if (behind == 0) return true;
    return behind <= sched__expected(seq, &tokens) &&
           memcmp(tokens, drafts, behind * sizeof *drafts) == 0;
}

const eng_mask *sched__mask_at(const sequence *seq, uint32_t pos) {
    if (sched__mask(seq) == MASK_NONE) return NULL;
    return seq->req.constraint->mask(seq->req.ud, pos - seq->n_tokens);
}

/* After an expected token the mask stays ready. */
bool sched__take_token(sequence *seq, uint32_t token) {
    const uint32_t *tokens;
    if (seq->req.constraint == NULL) return true;
    bool expected = sched__expected(seq, &tokens) > 0 && tokens[0] == token;
    if (!seq->req.constraint->take(seq->req.ud, token)) return false;
    if (!expected) atomic_store_explicit(&seq->mask, MASK_SPENT, memory_order_relaxed);
    return true;
}

/* The mask of the token that coh gives last is not known. The maker may have just finished,
 * but no position overtakes the one in front, which waits too. */
bool sched__lacks_mask(const cohort *coh) {
    uint32_t gives = sched__next_pos(coh);
    if (gives < coh->owner->n_tokens) return false;
    if (coh->before && coh->before->awaits_mask) return true;
    return !sched__knows_mask(coh->owner, gives);
}

void sched__admit_masked(scheduler *sched) {
    list_link *list = &sched->to_mask;
    for (list_link *link = list->next, *next; link != list; link = next) {
        cohort *coh = OWNER_OF(link, cohort, stage_link);
        next = link->next;
        if (sched__lacks_mask(coh)) continue;
        coh->awaits_mask = false;
        list_move_back(&sched->to_coda, &coh->stage_link);
        sched->n_to_coda += coh->n_coda;
    }
}
