/* cost.c - what a launch costs, and when running prelude and coda pays. */
#include "scheduler/scheduler_internal.h"

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

/* One cycle is some recurrent launches and a flush of what left them. Its time per
 * token, if the flush came now, against that if it came one recurrent launch later. */
bool sched__flush_pays(const sched *s) {
    double ready = (double)s->n_to_coda + s->n_to_prelude;
    if (ready == 0) return false;
    double looping = (double)s->n_looping_live + s->n_looping_tail;
    switch (s->limits.opts.batching) {
    case SCHED_FULL: return looping == 0;
    case SCHED_LOCKSTEP: return s->n_looping_live == 0;
    case SCHED_DEPTHWISE: break;
    }
    if (s->n_looping_live == 0 || s->flush_waited >= s->limits.opts.wait_bound) return true;
    const cost_fit *pre = &s->cost[ENG_STAGE_PRELUDE], *rec = &s->cost[ENG_STAGE_RECURRENT],
                   *coda = &s->cost[ENG_STAGE_CODA];
    if (coda->n == 0 || rec->n == 0) return true; /* nothing measured yet */
    double fixed = pre->a + coda->a, each = pre->b + coda->b;
    double rows = looping < s->max_rows ? looping : s->max_rows;
    double more = s->exit_rate * s->n_looping_live * rows / looping;
    double now = (s->since_flush_ns + fixed) / ready + each;
    double later = (s->since_flush_ns + sched__cost_ns(rec, rows) + fixed) / (ready + more) + each;
    return now <= later;
}
