/* tails.c - policy exact: when a halted row's silent loops are run.
 *
 * A tail's K/V of loop t is read only by later positions that run loop t themselves. So
 * tails park, and a row about to run loop t takes those of its sequence that have not run
 * it along in the same launch: it started at loop 0 and took everybody along so far, so
 * none stands further back than it does, and it never waits. What no later position
 * reaches is never computed and takes no slot; when the sequence ends it is dropped.
 *
 * A parked tail keeps its state row. When rows run short, or somebody was refused some,
 * the longest parked go on to their last loop and give theirs back. Where blocks go into
 * the prefix cache, prompt rows do not park: a cached block must hold every loop. */
#include "scheduler/scheduler_internal.h"

bool sched__parks_at_all(const scheduler *s, const cohort *c) {
    const sched_opts *o = &s->limits.opts;
    return o->batching == SCHED_DEPTHWISE && o->halted_kv == KV_EXACT && !c->finishing &&
           (c->decode || !o->prefix_cache);
}

bool sched__may_park(const scheduler *s, const cohort *c) {
    return sched__parks_at_all(s, c) && !c->parked && c->looping && c->n_live == 0 &&
           c->n_tail > 0 && c->next_loop >= c->owner->frontier && !sched__loop_is_out(s, c);
}

void sched__park(scheduler *s, cohort *c) {
    c->parked = true;
    c->waited = 0;
    s->n_looping_tail -= c->n_tail;
    s->n_parked += c->n_tail;
    list_move_back(&s->parked, &c->loop);
}

static void unpark(scheduler *s, cohort *c, list_link *before) {
    c->parked = false;
    s->n_parked -= c->n_tail;
    s->n_looping_tail += c->n_tail;
    list_remove(&c->loop);
    list_insert_before(before, &c->loop);
}

/* A position of q is about to run the loop below `loops`. Along a sequence loops never
 * rise, so those that must come along stand together, latest last; they go to the front
 * of their list, earliest first, as the rule wants them picked. */
void sched__raise_frontier(scheduler *s, seq *q, uint32_t loops) {
    if (loops <= q->frontier) return;
    q->frontier = loops;
    for (cohort *c = q->last; c && s->n_parked > 0; c = c->before) {
        if (c->n_live > 0 || c->n_tail == 0) continue;
        if (c->next_loop >= loops) break;
        if (c->parked) unpark(s, c, s->looping[c->list].next);
    }
}

/* The next position starts from loop 0 and needs only what it will reach itself. */
void sched__lower_frontier(seq *q) {
    q->frontier = 0;
}

/* Tails were called along for a loop that the one live position of q will not run: q needs
 * `loops` only. Those not in a launch park again, the earliest first, as they would have. */
void sched__call_back(scheduler *s, seq *q, uint32_t loops) {
    uint32_t was = q->frontier;
    if (was <= loops) return;
    q->frontier = loops;
    cohort *c = q->last;
    while (c->before && (c->n_live + c->n_tail == 0 || c->next_loop < was))
        c = c->before;
    for (; c; c = c->after) {
        if (sched__may_park(s, c)) sched__park(s, c);
    }
}

/* At most an eighth of a launch goes on at a time, so that decoding hardly notices. */
void sched__relieve_rows(scheduler *s) {
    bool refused = !list_empty(&s->want_decode) || !list_empty(&s->want_prompt);
    if (s->n_parked == 0 || (!refused && s->n_free_rows >= s->n_rows / 4)) return;
    uint32_t rows = s->max_rows / 8 + 1;
    while (rows > 0 && !list_empty(&s->parked)) {
        cohort *c = OWNER_OF(s->parked.next, cohort, loop);
        c->finishing = true;
        rows -= c->n_tail < rows ? c->n_tail : rows;
        unpark(s, c, &s->looping[c->list]);
    }
}
