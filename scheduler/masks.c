/* masks.c - the masks of constrained sequences: made beside the launches, not between them.
 *
 * The mask of the next token depends on the tokens before it alone, so it is made while the
 * launches run that lead to that token's logits: by a thread that takes one sequence after the
 * other (thread.c), or here and now where the machine is driven without one. A position whose
 * mask is not there yet stays out of the coda; it alone is late. Since a mask of any sequence
 * has a bound and those whose masks are dear let others pass, a dear form delays others by no
 * more than that.
 *
 * While seq.mask is MASK_WANTED the sequence's constraint belongs to whoever makes masks, and so
 * the sequence must not be reported ended; in every other state it belongs to the engine. */
#include "base/clock.h"
#include "scheduler/scheduler_internal.h"

enum { DEAR_NS = 1000 * 1000 };

bool sched__makes_mask(seq *q) {
    mask_state became = MASK_DROPPED;
    if (!atomic_load_explicit(&q->cancel_wanted, memory_order_relaxed)) {
        uint64_t t0 = clock_ns();
        q->mask_error = q->req.constraint->make(q->req.ud);
        q->dear_mask = clock_ns() - t0 > DEAR_NS;
        became = q->mask_error == ERR_NONE ? MASK_READY : MASK_FAILED;
    }
    atomic_store_explicit(&q->mask, became, memory_order_release);
    return became != MASK_FAILED; /* q may be gone by now */
}

void sched__want_mask(scheduler *s, seq *q) {
    if (q->req.constraint == NULL || q->req.max_tokens == 0) return;
    atomic_store_explicit(&q->mask, MASK_WANTED, memory_order_relaxed);
    if (s->hand_mask) {
        s->hand_mask(s->ud, q);
    } else if (!sched__makes_mask(q)) {
        atomic_store_explicit(&s->masks_failed, true, memory_order_release);
    }
}

/* The last position of c gives the next token, and what may come is not known yet. */
bool sched__lacks_mask(const cohort *c) {
    const seq *q = c->owner;
    mask_state mask = sched__mask(q);
    return c->first + c->n == q->n_tokens && mask != MASK_NONE && mask != MASK_READY;
}

static void end_failed(scheduler *s, list_link *list) {
    for (list_link *r = list->next, *next; r != list; r = next) {
        seq *q = OWNER_OF(r, seq, rank);
        next = r->next;
        if (sched__mask(q) == MASK_FAILED) sched__end(s, q, SCHED_FAILED, q->mask_error, 0);
    }
}

void sched__look_at_masks(scheduler *s) {
    if (atomic_exchange_explicit(&s->masks_failed, false, memory_order_acq_rel)) {
        end_failed(s, &s->running);
        for (uint32_t i = 0; i < s->n_tenants; i++)
            end_failed(s, &s->tenants[i].waiting);
    }
    for (list_link *r = s->to_mask.next, *next; r != &s->to_mask; r = next) {
        cohort *c = OWNER_OF(r, cohort, stage);
        next = r->next;
        if (sched__mask(c->owner) != MASK_READY) continue;
        c->unmasked = false;
        list_move_back(&s->to_coda, &c->stage);
        s->n_to_coda += c->n_coda;
    }
}
