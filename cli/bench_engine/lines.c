/* lines.c - from the runs of all modes to the lines of the report: medians, bound, losses. */
#include "cli/bench_engine/bench_engine_internal.h"
#include "engine/backend.h"

#include <stdlib.h>
#include <string.h>

static int by_value(const void *x, const void *y) {
    double left = *(const double *)x, right = *(const double *)y;
    return left < right ? -1 : left > right;
}

static double median(const double *values, uint64_t n) {
    double sorted[BE_MAX_REPEAT];
    memcpy(sorted, values, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, by_value);
    return n % 2 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
}

double be_percent(uint64_t part, uint64_t all) {
    return all ? 100 * (double)part / (double)all : 0;
}

double be_tokens_per_launch(const be_run *run, uint32_t sequences) {
    double launches = (double)run->launches[ENG_STAGE_RECURRENT];
    return launches > 0 ? (double)run->tokens / launches / sequences : 0;
}

static double rate(const be_run *run) {
    return (double)run->tokens / run->seconds;
}
static double loops_ns(const be_run *run) {
    return (double)run->ns[ENG_STAGE_RECURRENT];
}
static double rest_ns(const be_run *run) {
    return run->seconds * 1e9 - loops_ns(run);
}

/* Of the runs of `full`: fr = one loop of one row, f0 = all other time (prelude, coda, head,
 * sampler, host) per position. */
static void measure_costs(const be_run *full, uint64_t repeat, be_line *line) {
    double f0[BE_MAX_REPEAT], fr[BE_MAX_REPEAT];
    for (uint64_t i = 0; i < repeat; i++) {
        f0[i] = rest_ns(&full[i]) / (double)full[i].positions;
        fr[i] = loops_ns(&full[i]) / (double)full[i].rows[ENG_STAGE_RECURRENT];
    }
    line->f0 = median(f0, repeat);
    line->fr = median(fr, repeat);
}

/* Time of the bound for a position that runs so many loops. */
static double position_ns(const be_line *line, double loops) {
    return line->f0 + loops * line->fr;
}

/* Parts of the time beyond the bound's: loops that cost more than fr (launches with fewer rows, or
 * tails), and a rest that costs more than f0 (coda launches with fewer rows, more launches). */
static void fill_losses(be_line *line) {
    const be_run *run = line->run;
    double all = run->seconds * 1e9, positions = (double)run->positions;
    bool full = line->mode->batching == SCHED_FULL;
    double loops = (double)(full ? run->rows[ENG_STAGE_RECURRENT] : run->loops);
    double with_tails = (double)(run->loops + run->tail_rows) / positions;
    line->lost_loops = (loops_ns(run) - loops * line->fr) / all;
    line->lost_rest = (rest_ns(run) - positions * line->f0) / all;
    line->tails = (double)run->tail_rows / (double)run->rows[ENG_STAGE_RECURRENT];
    line->bound_with_tails = position_ns(line, line->max_loops) / position_ns(line, with_tails);
}

/* The run with the rate nearest to the line's median. */
static const be_run *median_run(const be_line *line, const be_run *runs, uint64_t repeat) {
    const be_run *best = runs;
    double least = 0;
    for (uint64_t i = 0; i < repeat; i++) {
        double off = rate(&runs[i]) - line->tokens_per_s;
        if (i > 0 && off * off >= least) continue;
        best = &runs[i];
        least = off * off;
    }
    return best;
}

void be_fill_line(be_line *line, const be_run *runs, const be_run *full, uint64_t repeat) {
    double rates[BE_MAX_REPEAT], ratios[BE_MAX_REPEAT], depths[BE_MAX_REPEAT];
    for (uint64_t i = 0; i < repeat; i++) {
        rates[i] = rate(&runs[i]);
        ratios[i] = rates[i] / rate(&full[i]);
        depths[i] = (double)runs[i].loops / (double)runs[i].positions;
    }
    measure_costs(full, repeat, line);
    line->tokens_per_s = median(rates, repeat);
    line->ratio = median(ratios, repeat);
    line->mean_depth = median(depths, repeat);
    double loops = runs == full ? line->max_loops : line->mean_depth; /* full runs them all */
    line->bound = position_ns(line, line->max_loops) / position_ns(line, loops);
    line->percent = 100 * line->ratio / line->bound;
    line->run = median_run(line, runs, repeat);
    fill_losses(line);
}
