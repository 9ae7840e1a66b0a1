/* tails.c - policy exact: when a halted row's silent loops are run.
 *
 * A tail's K/V of loop t is read only by later positions that run loop t themselves. So
 * tails run as far as any position of their sequence has gone, its frontier, and park
 * there. A row about to go beyond raises the frontier, and the tails, which all stand
 * exactly there, run that loop in the same launch: nobody waits for them. What no position
 * ever reached is never computed and takes no slot; when the sequence ends it is dropped.
 *
 * A parked tail keeps its state row. When rows run short, or somebody was refused some,
 * the longest parked go on to their last loop and give theirs back. Where blocks go into
 * the prefix cache, prompt rows do not park: a cached block must hold every loop. */
#include "scheduler/scheduler_internal.h"

bool sched__may_park(const sched *s, const cohort *c) {
    const sched_opts *o = &s->limits.opts;
    return o->batching == SCHED_DEPTHWISE && o->halted_kv == ENG_EXACT && !c->parked &&
           !c->finishing && c->looping && c->n_live == 0 && c->n_tail > 0 &&
           c->next_loop >= c->owner->frontier && (c->decode || !o->prefix_cache);
}

void sched__park(sched *s, cohort *c) {
    c->parked = true;
    c->waited = 0;
    s->n_looping_tail -= c->n_tail;
    s->n_parked += c->n_tail;
    ring_move_back(&s->parked, &c->loop);
}

static void unpark(sched *s, cohort *c) {
    c->parked = false;
    s->n_parked -= c->n_tail;
    s->n_looping_tail += c->n_tail;
    ring_move_back(&s->looping[c->list], &c->loop);
}

/* Some position of q is about to run the loop below `loops`. */
void sched__raise_frontier(sched *s, seq *q, uint32_t loops) {
    if (loops <= q->frontier) return;
    q->frontier = loops;
    for (cohort *c = q->first; c && s->n_parked > 0; c = c->after) {
        if (c->parked && c->next_loop < loops) unpark(s, c);
    }
}

/* At most an eighth of a launch goes on at a time, so that decoding hardly notices. */
void sched__relieve_rows(sched *s) {
    bool refused = !ring_empty(&s->want_decode) || !ring_empty(&s->want_prompt);
    if (s->n_parked == 0 || (!refused && s->n_free_rows >= s->n_rows / 4)) return;
    uint32_t rows = s->max_rows / 8 + 1;
    while (rows > 0 && !ring_empty(&s->parked)) {
        cohort *c = RING_OWNER(s->parked.next, cohort, loop);
        c->finishing = true;
        rows -= c->n_tail < rows ? c->n_tail : rows;
        unpark(s, c);
    }
}
