/* backlog.c - the loops that the sequences inside are expected to run still.
 *
 * Each sequence notes its part, and the scheduler keeps the sum, so the figure costs no walk over
 * the queue. A position counts with the mean depth of its kind when its sequence came, within the
 * limits of its request, until its coda is done. The sums are whole numbers: without sequences they
 * are 0 again. */
#include "scheduler/scheduler_internal.h"

#include <math.h>

static uint32_t parts_of(const request_limits *limits, const sequence *seq, uint32_t pos,
                         double mean) {
    double least = sched__min_loops(seq, pos), loops = seq->prefix_key.max_loops;
    bool runs_all = exit_rule_runs_all(limits->exit, seq->prefix_key.threshold);
    if (!runs_all && mean > 0 && mean < loops) loops = mean > least ? mean : least;
    return (uint32_t)(loops * LOOP_PARTS + 0.5);
}

void sched__expect_loops(const scheduler *sched, sequence *seq) {
    const cost_model *cost = &sched->cost;
    seq->prompt_parts = parts_of(&sched->limits, seq, 0, cost->mean_prompt_depth);
    seq->output_parts = parts_of(&sched->limits, seq, seq->req.n_prompt, cost->mean_output_depth);
}

loop_sums sched__count_loops(const sequence *seq) {
    uint64_t n_prompt = seq->req.n_prompt, done = seq->coda_next;
    uint64_t prompt = done < n_prompt ? n_prompt - done : 0;
    uint64_t output = seq->n_tokens - done - prompt, left = seq->req.max_tokens - seq_n_output(seq);
    loop_sums sums = {.known = prompt * seq->prompt_parts + output * seq->output_parts};
    if (left > 1) { /* the last token is not run */
        sums.ahead = (left - 1) * seq->output_parts;
        sums.of_a_token = seq->output_parts;
    }
    return sums;
}

static void replace(scheduler *sched, sequence *seq, loop_sums by) {
    loop_sums *all = &sched->loops_left, *own = &seq->loops_left;
    all->known += by.known - own->known;
    all->ahead += by.ahead - own->ahead;
    all->of_a_token += by.of_a_token - own->of_a_token;
    *own = by;
}

void sched__note_loops(scheduler *sched, sequence *seq) {
    replace(sched, seq, sched__count_loops(seq));
}

void sched__forget_loops(scheduler *sched, sequence *seq) {
    replace(sched, seq, (loop_sums){0});
}

uint64_t sched__loops_to_run(const scheduler *sched) {
    const loop_sums *all = &sched->loops_left;
    double ahead = (double)all->ahead, usual = sched->cost.mean_output * (double)all->of_a_token;
    if (sched->cost.mean_output > 0 && usual < ahead) ahead = usual;
    return (uint64_t)ceil(((double)all->known + ahead) / LOOP_PARTS);
}
