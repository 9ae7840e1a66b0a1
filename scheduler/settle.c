/* settle.c - launches are settled: their results are applied, oldest first. */
#include "base/clock.h"
#include "scheduler/scheduler_internal.h"

/* Counts the rows of freed cohorts, too: the launch ran them. */
static void remember(scheduler *sched, const flight *done, uint64_t ns) {
    sched_launch *launch = sched__launches_add(&sched->launches);
    launch->end_ns = clock_ns();
    launch->ns = ns;
    for (uint32_t i = 0; i < done->n_rows; i++) {
        if (done->origins[i].left_out) continue;
        launch->n_prompt += done->origins[i].prompt;
        launch->rows[done->rows[i].loop]++;
        sched->stats.rows_run_by_loop[done->rows[i].loop]++;
    }
}

static void count(scheduler *sched, const flight *done, uint64_t ns) {
    uint32_t n_rows = done->n_rows - done->n_left_out;
    sched__learn_launch(&sched->cost, done->stage, n_rows, ns);
    sched->stats.launches[done->stage]++;
    sched->stats.launch_rows[done->stage] += n_rows;
    sched->stats.launch_ns[done->stage] += ns;
    sched->stats.voided_rows += done->n_left_out;
    if (done->stage == ENG_STAGE_RECURRENT) remember(sched, done, ns);
    if (sched->n_tenants > 1) sched__charge(sched, done, ns);
}

static flight *take_oldest(scheduler *sched) {
    flight *oldest = &sched->flights[sched->first_out];
    sched->first_out = (sched->first_out + 1) % sched->max_flights;
    sched->n_out--;
    return oldest;
}

int sched__settle_oldest(scheduler *sched, err *e) {
    flight *done = take_oldest(sched);
    eng_result result;
    if (sched->backend->ops->wait(sched->backend, &result, e) != 0) return -1;
    sched__host_begins(sched, done->stage);
    count(sched, done, result.ns);
    switch (done->stage) {
    case ENG_STAGE_PRELUDE: sched__settle_prelude(done); break;
    case ENG_STAGE_RECURRENT: sched__settle_loops(sched, done, &result); break;
    case ENG_STAGE_CODA: sched__settle_coda(sched, done, &result); break;
    }
    if (done->stage == ENG_STAGE_CODA && sched->on_tokens_out) sched->on_tokens_out(sched->ud);
    return 0;
}

int sched__settle_all(scheduler *sched, err *e) {
    while (sched->n_out > 0) {
        if (sched__settle_oldest(sched, e) != 0) return -1;
    }
    return 0;
}

void sched__drain(scheduler *sched) {
    while (sched->n_out > 0) {
        eng_result result;
        err e = {0};
        (void)take_oldest(sched);
        (void)sched->backend->ops->wait(sched->backend, &result, &e);
    }
}
