/* cost.c - stage times as a + b * rows, exit rates, and what a cycle gains. */
#include "scheduler/cost.h"

/* Weights of old launches fade so that a machine that slows down is noticed within about a
 * hundred launches. */
static const double fade = 0.98;

void sched__fit_add(cost_fit *fit, uint32_t n_rows, uint64_t ns) {
    double x = n_rows, y = (double)ns;
    /* A launch that took ten times its estimate was interrupted by something else. */
    if (fit->n > 4 && y > 10 * sched__fit_ns(fit, x)) y = 10 * sched__fit_ns(fit, x);
    fit->n = fit->n * fade + 1;
    fit->x = fit->x * fade + x;
    fit->xx = fit->xx * fade + x * x;
    fit->y = fit->y * fade + y;
    fit->xy = fit->xy * fade + x * y;
    double spread = fit->n * fit->xx - fit->x * fit->x; /* n^2 times the variance of rows */
    if (spread > 0.01 * fit->x * fit->x) {
        fit->b = (fit->n * fit->xy - fit->x * fit->y) / spread;
        if (fit->b < 0) fit->b = 0;
    } else if (fit->b == 0) {
        fit->b = 0.5 * fit->y / fit->x; /* launches of one size tell nothing of a: half and half */
    }
    if (fit->b * fit->x > fit->y) fit->b = fit->y / fit->x;
    fit->a = (fit->y - fit->b * fit->x) / fit->n;
}

void sched__learn_launch(cost_model *cost, eng_stage stage, uint32_t n_rows, uint64_t ns,
                         bool of_flush) {
    if (n_rows > 0) sched__fit_add(&cost->stage[stage], n_rows, ns);
    if (stage == ENG_STAGE_RECURRENT) cost->loops_ns += (double)ns;
    if (!of_flush) return;
    cost->flush_ns += ns;
    cost->flush_rows += stage == ENG_STAGE_CODA ? n_rows : 0;
}

/* By rows, so that the first launch full of prompt rows outweighs what few rows taught. */
void sched__learn_exits(cost_model *cost, uint32_t live, uint32_t exited, uint32_t ready) {
    if (live == 0) return;
    cost->live_rows = cost->live_rows * 0.95 + live;
    cost->exited_rows = cost->exited_rows * 0.95 + exited;
    cost->ready_rows = cost->ready_rows * 0.95 + ready;
    cost->exit_rate = cost->exited_rows / cost->live_rows;
    cost->ready_rate = cost->ready_rows / cost->live_rows;
}

void sched__learn_depth(cost_model *cost, uint16_t depth) {
    cost->mean_depth += cost->mean_depth > 0 ? (depth - cost->mean_depth) / 256 : depth;
}

void sched__learn_cycle(cost_model *cost) {
    cost->cycle_rows = cost->cycle_rows * 0.97 + (double)cost->flush_rows;
    cost->cycle_ns = cost->cycle_ns * 0.97 + cost->loops_ns + (double)cost->flush_ns;
    cost->loops_ns = 0;
    cost->flush_rows = cost->flush_ns = 0;
}

/* Wait one more launch if the rows it makes ready, per ns, exceed the average rows per ns,
 * whatever this cycle has cost so far: the rule of a renewal process, whose average converges as
 * the rule is followed. (A prompt chunk becomes ready only when its last row exits.) */
bool sched__waiting_pays(const cost_model *cost, double live, double looping, double max_rows) {
    const cost_fit *loop = &cost->stage[ENG_STAGE_RECURRENT];
    if (cost->cycle_ns <= 0 || loop->n <= 0) return false;
    double n_rows = looping < max_rows ? looping : max_rows;
    double more = cost->ready_rate * live * n_rows / looping;
    return more / sched__fit_ns(loop, n_rows) > cost->cycle_rows / cost->cycle_ns;
}
