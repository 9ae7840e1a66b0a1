/* masks.c - the masks of constrained sequences: made beside the launches, not between them.
 *
 * The mask of the next token depends only on the tokens before it, so it is made while the launches
 * for the token's logits run: by a thread of its own (thread.c), or at once in a scheduler without
 * threads. A position without its mask stays out of the coda and delays no other. Every mask has a
 * bound in work, and sequences with slow masks let others pass, so a slow constraint delays others
 * by one bound at most.
 *
 * While sequence.mask is MASK_WANTED the constraint belongs to the mask maker, so the sequence must
 * not be reported ended; in every other state it belongs to the engine thread. */
#include "base/clock.h"
#include "scheduler/scheduler_internal.h"

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

void sched__want_mask(scheduler *sched, sequence *seq) {
    if (seq->req.constraint == NULL || seq->req.max_tokens == 0) return;
    atomic_store_explicit(&seq->mask, MASK_WANTED, memory_order_relaxed);
    if (sched->hand_mask) {
        sched->hand_mask(sched->ud, seq);
    } else if (!sched__make_mask(seq)) {
        atomic_store_explicit(&sched->masks_failed, true, memory_order_release);
    }
}

/* The last position of coh gives the next token, and its mask is not ready. Behind a draft the mask
 * cannot be made yet. */
bool sched__lacks_mask(const cohort *coh) {
    const sequence *seq = coh->owner;
    uint32_t gives = sched__next_pos(coh);
    mask_state mask = sched__mask(seq);
    if (mask == MASK_NONE || gives < seq->n_tokens) return false;
    return gives > seq->n_tokens || mask != MASK_READY;
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
