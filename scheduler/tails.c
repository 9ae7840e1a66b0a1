/* tails.c - policy exact: when the silent loops of a halted row are run.
 *
 * A tail's keys and values of loop t are read only by later positions running loop t themselves. So
 * tails park. A row about to run loop t wakes the tails of its sequence that lack loop t, and they
 * run it in the same launch. The row started at loop 0 and has woken the same tails at every loop
 * so far, so no tail stands further back than the row, and the row never waits. A loop not reached
 * by any later position is never computed and takes no slot.
 *
 * Under policy collapse the same happens by ticks instead of loops: collapse.c.
 *
 * A parked tail keeps its state row. When rows run short, or a sequence was refused rows, the
 * longest parked tails go on to their last loop and give their rows back. With a prefix cache,
 * tails of prompt rows do not park: a cached block must hold every loop. */
#include "scheduler/scheduler_internal.h"

bool sched__parks_at_all(const scheduler *sched, const cohort *coh) {
    bool park = coh->decode ? sched->rules.tails_park : sched->rules.prompt_tails_park;
    return park && !coh->finishing;
}

bool sched__may_park(const scheduler *sched, const cohort *coh) {
    return sched__parks_at_all(sched, coh) && !coh->parked && coh->looping && coh->n_live == 0 &&
           coh->n_tail > 0 && sched__tick(coh) >= coh->owner->frontier && !sched__loop_is_out(coh);
}

void sched__park(scheduler *sched, cohort *coh) {
    coh->parked = true;
    coh->waited = 0;
    sched->n_looping_tail -= coh->n_tail;
    sched->n_parked += coh->n_tail;
    list_move_back(&sched->parked, &coh->loop_link);
}

static void unpark(scheduler *sched, cohort *coh, list_link *before) {
    coh->parked = false;
    sched->n_parked -= coh->n_tail;
    sched->n_looping_tail += coh->n_tail;
    list_remove(&coh->loop_link);
    list_insert_before(before, &coh->loop_link);
}

/* Along a sequence loops never rise, and ticks are alike, so the tails to wake stand together, the
 * latest last. They go to the front of their list, earliest first, in the order of the wavefront
 * rule. */
void sched__raise_frontier(scheduler *sched, const cohort *about) {
    sequence *seq = about->owner;
    uint32_t frontier = sched__tick(about) + 1;
    if (sched->rules.collapses && !about->timed) return; /* tails of prompts do not park */
    if (frontier <= seq->frontier) return;
    seq->frontier = frontier;
    for (cohort *coh = seq->last; coh && sched->n_parked > 0; coh = coh->before) {
        if (coh->n_live > 0 || coh->n_tail == 0) continue;
        if (sched__tick(coh) >= frontier) break;
        if (coh->parked) unpark(sched, coh, sched->looping[coh->list].next);
    }
}

/* One position of the sequence is live, at loop 0: it needs only its own loops. */
void sched__restart_frontier(sequence *seq) {
    seq->frontier = 0;
}

/* The guess was wrong: the last live position of seq halted at `loops`. Parks the tails woken for a
 * deeper loop again, unless they are in a launch, the earliest first. */
void sched__lower_frontier(scheduler *sched, sequence *seq, uint32_t loops) {
    uint32_t was = seq->frontier;
    if (was <= loops) return;
    seq->frontier = loops;
    cohort *coh = seq->last;
    while (coh->before && (coh->n_live + coh->n_tail == 0 || coh->next_loop < was))
        coh = coh->before;
    for (; coh; coh = coh->after) {
        if (sched__may_park(sched, coh)) sched__park(sched, coh);
    }
}

/* The first live row of a sequence is the deepest. */
static void follow_live(scheduler *sched, sequence *seq) {
    const cohort *coh = seq->first;
    while (coh && coh->n_live == 0)
        coh = coh->after;
    if (coh) sched__lower_frontier(sched, seq, coh->next_loop + !sched__loop_is_out(coh));
}

/* Without drafts the frontier starts over with each generated position. */
void sched__follow_drafts(scheduler *sched) {
    if (sched->n_draft_rows == 0) return;
    for (list_link *link = sched->running.next; link != &sched->running; link = link->next) {
        sequence *seq = OWNER_OF(link, sequence, rank_link);
        if (seq->n_drafts > 0) follow_live(sched, seq);
    }
}

/* At most an eighth of a launch at a time, so decoding hardly slows down. */
void sched__relieve_rows(scheduler *sched) {
    bool refused = !list_empty(&sched->want_decode) || !list_empty(&sched->want_prompt);
    if (sched->n_parked == 0 || sched->rules.collapses) return;
    if (!refused && sched->n_free_rows >= sched->n_rows / 4) return;
    uint32_t n_rows = sched->max_rows / 8 + 1;
    while (n_rows > 0 && !list_empty(&sched->parked)) {
        cohort *coh = OWNER_OF(sched->parked.next, cohort, loop_link);
        coh->finishing = true;
        n_rows -= coh->n_tail < n_rows ? coh->n_tail : n_rows;
        unpark(sched, coh, &sched->looping[coh->list]);
    }
}
