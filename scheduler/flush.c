/* flush.c - when prelude and coda run.
 *
 * Run at once, both read their weights for few rows; run late, they hold rows back. A flush is the
 * coda launches of all ready rows, then the prelude launches of all new rows. */
#include "scheduler/scheduler_internal.h"

/* With drafts, one row of a sequence leads and the others follow it. So sequences are counted, not
 * rows: sequences that cannot go on without a coda, and sequences with a leading row that loops on.
 */
static bool sequences_wait(scheduler *sched) {
    double held = sched__held_up(sched), leading = sched__leading(sched);
    if (held == 0) return true;
    if (leading == 0 || (sched->draft_now.trial && sched->n_to_draft > 0)) return false;
    double looping = (double)sched->n_looping_live + sched->n_looping_tail;
    return sched__charge_wait(&sched->cost, leading, looping, held, 1);
}

/* Where positions run equal loops, rows that enter the coda together do so again for later tokens.
 * So waiting once brings sequences into step that came at other times, or were brought out of step
 * by a draft. How many tokens follow is not known: as many as came so far is a fair guess. */
static double shared_flushes(const scheduler *sched) {
    enum { MOST = 64 };
    const cost_model *cost = &sched->cost;
    double in_step = cost->as_deep / (cost->compared - cost->as_deep + 1); /* tokens, so far */
    uint32_t least = in_step < MOST ? (uint32_t)in_step : MOST;
    const list_link *link = sched->to_coda.next;
    for (; least > 0 && link != &sched->to_coda; link = link->next) {
        const sequence *seq = OWNER_OF((uintptr_t)link, cohort, stage_link)->owner;
        uint32_t n = seq_n_output(seq);
        least = fewer(least, fewer(n, seq->req.max_tokens - n));
    }
    return 1 + least;
}

/* Given the next recurrent launch, which rows of tenants sitting out will not join. */
static bool waits_by_cost(scheduler *sched) {
    if (sched->n_draft_rows + sched->n_to_draft > 0) return sequences_wait(sched);
    double live = sched->n_looping_live, looping = live + sched->n_looping_tail;
    if (sched->live_sitting_out < live && sched->rows_sitting_out < looping) {
        looping -= sched->rows_sitting_out;
        live -= sched->live_sitting_out;
    }
    double part = looping > sched->max_rows ? sched->max_rows / looping : 1;
    return sched__charge_wait(&sched->cost, live * part, looping * part, sched->n_to_coda,
                              shared_flushes(sched));
}

bool sched__flush_pays(scheduler *sched) {
    uint32_t ready = sched->n_to_coda + sched->n_to_draft + sched->n_to_prelude;
    if (ready == 0) return false;
    if (sched->n_looping_live == 0) {
        return sched->rules.flush != FLUSH_WHEN_NONE_LOOPS || sched->n_looping_tail == 0;
    }
    if (sched->rules.flush != FLUSH_BY_COST) return false;
    if (sched->flush_waited >= sched->limits.opts.wait_bound) return true;
    if (sched->n_tenants > 1 && sched__flush_is_waited_for(sched)) return true;
    if (sched->flush_at > 0) return ready >= sched->flush_at;
    return !waits_by_cost(sched);
}

void sched__flush_begins(scheduler *sched) {
    sched->flush_waited = 0;
    sched->cost.waited_ns = 0;
    if (sched->n_draft_rows > 0) sched__offer_checks(sched);
}
