/* flush.c - when prelude and coda run.
 *
 * Run at once, both read their weights for few rows; run late, they hold rows back. A flush is the
 * coda launches of all ready rows, then the prelude launches of all new rows. */
#include "scheduler/scheduler_internal.h"

/* Rows of tenants sitting out will not join the next launch. */
static bool flush_pays_by_cost(const scheduler *sched) {
    double live = sched->n_looping_live, looping = live + sched->n_looping_tail;
    if (sched->rows_sitting_out > 0 && sched->rows_sitting_out < looping) {
        looping -= sched->rows_sitting_out;
        live = live > sched->live_sitting_out ? live - sched->live_sitting_out : 0;
    }
    return !sched__waiting_pays(&sched->cost, live, looping, sched->max_rows);
}

bool sched__flush_pays(scheduler *sched) {
    uint32_t ready = sched->n_to_coda + sched->n_to_prelude;
    if (ready == 0) return false;
    if (sched->n_looping_live == 0) {
        return sched->rules.flush != FLUSH_WHEN_NONE_LOOPS || sched->n_looping_tail == 0;
    }
    if (sched->rules.flush != FLUSH_BY_COST) return false;
    if (sched->flush_waited >= sched->limits.opts.wait_bound) return true;
    if (sched->n_tenants > 1 && sched__flush_is_waited_for(sched)) return true;
    return sched->flush_at > 0 ? ready >= sched->flush_at : flush_pays_by_cost(sched);
}

void sched__flush_begins(scheduler *sched) {
    sched->flushing = sched->flush_open = true;
}

/* A cycle is learnt from once its flush is started and settled. */
static void close_flush(scheduler *sched) {
    if (!sched->flush_open || sched->flushing || sched->n_flush_out > 0) return;
    sched->flush_open = false;
    sched__learn_cycle(&sched->cost);
}

void sched__flush_started(scheduler *sched) {
    sched->flushing = false;
    sched->flush_waited = 0;
    close_flush(sched);
}

void sched__flush_settled(scheduler *sched, const flight *done) {
    sched->n_flush_out -= done->of_flush;
    close_flush(sched);
}
