/* cost.c - stage times as base_ns + row_ns * rows, exit rates, and the price of waiting. */
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

static void learn(double *mean, double value, double memory) {
    *mean += *mean > 0 ? (value - *mean) / memory : value;
}

/* Classes of sizes, two for each doubling. */
static uint32_t size_class(uint32_t n_rows) {
    uint32_t bits = 31 - (uint32_t)__builtin_clz(n_rows);
    uint32_t at = bits == 0 ? 0 : 2 * bits - 1 + (n_rows >> (bits - 1) & 1);
    return at < COST_SIZES ? at : COST_SIZES - 1;
}

/* One interrupted launch must not count much. */
static void learn_size(cost_model *cost, uint32_t n_rows, double ns) {
    uint32_t at = size_class(n_rows);
    double *mean = &cost->loop_ns[at];
    if (*mean > 0 && ns > 4 * *mean) ns = 4 * *mean;
    learn(mean, ns, 16);
    learn(&cost->loop_rows[at], n_rows, 16);
}

void sched__learn_launch(cost_model *cost, eng_stage stage, uint32_t n_rows, uint64_t ns) {
    if (n_rows == 0) return;
    sched__fit_add(&cost->stage[stage], n_rows, ns);
    if (stage == ENG_STAGE_RECURRENT) learn_size(cost, n_rows, (double)ns);
}

/* Small launches do not cost a base and a price for each row: on a CPU the first rows are free as
 * long as the weights are read more slowly than multiplied, and experts are read by few rows each.
 */
double sched__loop_ns(const cost_model *cost, double n_rows) {
    double fit = sched__fit_ns(&cost->stage[ENG_STAGE_RECURRENT], n_rows);
    double rows[2] = {0, 0}, ns[2] = {0, 0}; /* the nearest sizes below and above */
    for (uint32_t i = 0; i < COST_SIZES; i++) {
        bool above = cost->loop_rows[i] > n_rows;
        if (cost->loop_rows[i] == 0 || (above && rows[1] > 0)) continue;
        rows[above] = cost->loop_rows[i];
        ns[above] = cost->loop_ns[i];
    }
    if (rows[0] > 0 && rows[1] > 0)
        return ns[0] + (ns[1] - ns[0]) * (n_rows - rows[0]) / (rows[1] - rows[0]);
    if (rows[0] > 0) { /* beyond the largest size: with the price of the fit */
        return ns[0] + (n_rows - rows[0]) * cost->stage[ENG_STAGE_RECURRENT].row_ns;
    }
    return fit;
}

/* Weighted by rows: the first launch full of prompt rows outweighs earlier small ones. */
void sched__learn_exits(cost_model *cost, uint32_t live, uint32_t exited) {
    if (live == 0) return;
    cost->live_rows = cost->live_rows * 0.95 + live;
    cost->exited_rows = cost->exited_rows * 0.95 + exited;
    cost->exit_rate = cost->exited_rows / cost->live_rows;
}

void sched__learn_depth(cost_model *cost, uint16_t depth, bool prompt) {
    learn(&cost->mean_depth, depth, 256);
    learn(prompt ? &cost->mean_prompt_depth : &cost->mean_output_depth, depth, 256);
}

void sched__learn_same_depth(cost_model *cost, bool same) {
    static const double memory = 1 - 1.0 / 64;
    cost->as_deep = cost->as_deep * memory + same;
    cost->compared = cost->compared * memory + 1;
}

void sched__learn_length(cost_model *cost, uint32_t n_output) {
    learn(&cost->mean_output, n_output, 32);
}

/* Rows share base_ns, the part of a launch's time that does not grow with them. A flush costs the
 * base_ns of a prelude and of a coda, however many rows it serves. A row that waits for the flush
 * misses a recurrent launch, so its loop needs a share of the base_ns of another one. The cost per
 * row is least when a flush starts as soon as the waiting rows have cost as much as the flush: the
 * rule of any batch that is ordered at a fixed price while waiting costs a rate.
 *
 * Waiting also delays tokens. Therefore part of the rest of a row's share is charged, its row_ns,
 * although the row needs that time anyway. And a flush far cheaper than a launch starts at once:
 * waiting would gain almost no time and delay every ready token by a launch. */
bool sched__charge_wait(cost_model *cost, double live, double looping, double ready,
                        double flushes) {
    enum { FAR_CHEAPER = 32 };
    static const double delay_price = 0.125;
    const cost_fit *loop = &cost->stage[ENG_STAGE_RECURRENT];
    double flush_ns = sched__flush_base_ns(cost);
    if (flush_ns * FAR_CHEAPER <= sched__fit_ns(loop, looping)) return false;
    double wait_ns = (loop->base_ns + delay_price * loop->row_ns * looping) * ready / live;
    if (cost->waited_ns + wait_ns >= flush_ns * flushes) return false;
    cost->waited_ns += wait_ns;
    return true;
}
