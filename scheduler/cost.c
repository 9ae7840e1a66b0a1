/* cost.c - stage times as base_ns + row_ns * rows, exit rates, and gain per cycle. */
#include "scheduler/cost.h"

/* Old launches fade, so a slower machine is noticed within about a hundred launches. */
static const double fade = 0.98;

void sched__fit_add(cost_fit *fit, uint32_t n_rows, uint64_t ns) {
    double x = n_rows, y = (double)ns;
    /* Ten times the estimate means an interruption by another process. */
    if (fit->weight > 4 && y > 10 * sched__fit_ns(fit, x)) y = 10 * sched__fit_ns(fit, x);
    fit->weight = fit->weight * fade + 1;
    fit->rows = fit->rows * fade + x;
    fit->rows2 = fit->rows2 * fade + x * x;
    fit->ns = fit->ns * fade + y;
    fit->rows_ns = fit->rows_ns * fade + x * y;
    /* weight^2 times the variance of rows */
    double spread = fit->weight * fit->rows2 - fit->rows * fit->rows;
    if (spread > 0.01 * fit->rows * fit->rows) {
        fit->row_ns = (fit->weight * fit->rows_ns - fit->rows * fit->ns) / spread;
        if (fit->row_ns < 0) fit->row_ns = 0;
    } else if (fit->row_ns == 0) {
        /* Launches of one size cannot tell base_ns from row_ns: half and half. */
        fit->row_ns = 0.5 * fit->ns / fit->rows;
    }
    if (fit->row_ns * fit->rows > fit->ns) fit->row_ns = fit->ns / fit->rows;
    fit->base_ns = (fit->ns - fit->row_ns * fit->rows) / fit->weight;
}

void sched__learn_launch(cost_model *cost, eng_stage stage, uint32_t n_rows, uint64_t ns,
                         bool of_flush) {
    if (n_rows > 0) sched__fit_add(&cost->stage[stage], n_rows, ns);
    if (stage == ENG_STAGE_RECURRENT) cost->loops_ns += (double)ns;
    if (!of_flush) return;
    cost->flush_ns += ns;
    cost->flush_rows += stage == ENG_STAGE_CODA ? n_rows : 0;
}

/* Weighted by rows: the first launch full of prompt rows outweighs earlier small ones. */
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

/* Wait one more launch if the rows it makes ready, per ns, exceed the average rows per ns, whatever
 * this cycle has cost so far: the rule of a renewal process; the average converges as the rule is
 * followed. (A prompt chunk becomes ready only when its last row exits.) */
bool sched__waiting_pays(const cost_model *cost, double live, double looping, double max_rows) {
    const cost_fit *loop = &cost->stage[ENG_STAGE_RECURRENT];
    if (cost->cycle_ns <= 0 || loop->weight <= 0) return false;
    double n_rows = looping < max_rows ? looping : max_rows;
    double more = cost->ready_rate * live * n_rows / looping;
    return more / sched__fit_ns(loop, n_rows) > cost->cycle_rows / cost->cycle_ns;
}
