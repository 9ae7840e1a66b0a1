/* cost.c - what a launch costs, and when running prelude and coda pays. */
#include "scheduler/scheduler_internal.h"

#include <math.h>

/* Weights of old launches fade so that a machine that slows down is noticed within
 * about a hundred launches. */
static const double fade = 0.98;

void sched__cost_add(cost_fit *f, uint32_t rows, uint64_t ns) {
    double x = rows, y = (double)ns;
    /* A launch that took ten times what was foreseen was interrupted by something else. */
    if (f->n > 4 && y > 10 * sched__cost_ns(f, x)) y = 10 * sched__cost_ns(f, x);
    f->n = f->n * fade + 1;
    f->x = f->x * fade + x;
    f->xx = f->xx * fade + x * x;
    f->y = f->y * fade + y;
    f->xy = f->xy * fade + x * y;
    double spread = f->n * f->xx - f->x * f->x; /* n^2 times the variance of rows */
    if (spread > 0.01 * f->x * f->x) {
        f->b = (f->n * f->xy - f->x * f->y) / spread;
        if (f->b < 0) f->b = 0;
    } else if (f->b == 0) {
        f->b = 0.5 * f->y / f->x; /* nothing to tell a from b yet: half and half */
    }
    if (f->b * f->x > f->y) f->b = f->y / f->x;
    f->a = (f->y - f->b * f->x) / f->n;
}

/* A cycle is some recurrent launches and the flush of what left them; it gains the rows
 * flushed. Flushing later gains what one more launch makes ready (of a prompt's chunk nothing
 * until its last row exits) and costs that launch; that
 * is worth it while it beats what time gains on average, whatever this cycle has cost so
 * far (the rule of a renewal process; the average converges as it is followed). */
void sched__learn_cycle(scheduler *s) {
    s->cycle_rows = s->cycle_rows * 0.97 + (double)s->flush_rows;
    s->cycle_ns = s->cycle_ns * 0.97 + s->since_flush_ns + (double)s->flush_ns;
    s->since_flush_ns = 0;
    s->flush_rows = s->flush_ns = 0;
    s->flush_open = false;
}

bool sched__flush_pays(scheduler *s) {
    double ready = (double)s->n_to_coda + s->n_to_prelude;
    if (ready == 0) return false;
    double looping = (double)s->n_looping_live + s->n_looping_tail;
    switch (s->limits.opts.batching) {
    case SCHED_FULL: return looping == 0;
    case SCHED_LOCKSTEP: return s->n_looping_live == 0;
    case SCHED_DEPTHWISE: break;
    }
    if (s->n_looping_live == 0 || s->flush_waited >= s->limits.opts.wait_bound) return true;
    if (s->n_tenants > 1 && sched__flush_is_waited_for(s)) return true;
    if (s->flush_at > 0) return ready >= s->flush_at;
    if (s->cycle_ns <= 0 || s->cost[ENG_STAGE_RECURRENT].n <= 0)
        return true; /* nothing measured yet */
    double live = s->n_looping_live;
    if (s->held_looping > 0 && s->held_looping < looping) { /* whose tenant sits out */
        looping -= s->held_looping;
        live = live > s->held_live ? live - s->held_live : 0;
    }
    double rows = looping < s->max_rows ? looping : s->max_rows;
    double more = s->ready_rate * live * rows / looping;
    double ns = sched__cost_ns(&s->cost[ENG_STAGE_RECURRENT], rows);
    return more / ns <= s->cycle_rows / s->cycle_ns;
}

/* Starting a recurrent launch before the one that is out is settled hides what the host
 * does in between. Its price: rows that the one out lets go (into the coda, or as new
 * tokens out of it) are known too late to go along, so their share of the pool stands
 * still for one launch. A launch whose rows all turn out to have halted is over at once
 * and costs nobody anything; that is why a sequence alone always goes ahead. A prelude
 * lets nobody go. In the other modes nobody waits for the coda alone, so nothing is lost. */
bool sched__ahead_pays(const scheduler *s, const flight *out) {
    if (s->ahead != AHEAD_BY_COST) return s->ahead == AHEAD_ALWAYS;
    if (out->stage == ENG_STAGE_PRELUDE || s->limits.opts.batching != SCHED_DEPTHWISE) return true;
    double live = s->n_looping_live, rows = live + s->n_looping_tail, go, share;
    if (live == 0) return false; /* nothing to start */
    if (rows > s->max_rows) rows = s->max_rows;
    if (out->stage == ENG_STAGE_CODA) {
        go = out->n_heads;
        share = go / (go + live);
    } else {
        go = out->n_last + s->exit_rate * out->n_may;
        share = go < live ? go / live : 1;
        share *= 1 - pow(share, live - 1); /* the others did not all go too */
    }
    return s->host_ns[out->stage] >= share * sched__cost_ns(&s->cost[ENG_STAGE_RECURRENT], rows);
}
