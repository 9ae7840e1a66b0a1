/* window.c - measures of a run's window: counters at both ends, and gauges between them. */
#include "cli/bench_engine/bench_engine_internal.h"

#include <string.h>

/* Keeps at most BE_SAMPLES sizes of launches over time. When they are full every other one goes. */
static void sample_pool(be_window *window, uint64_t since_ns) {
    be_run *run = window->run;
    uint64_t n_rows = window->now.launch_rows[ENG_STAGE_RECURRENT] - window->sampled_rows;
    uint64_t n = window->now.launches[ENG_STAGE_RECURRENT] - window->sampled_launches;
    if (n == 0) return;
    window->sampled_rows += n_rows;
    window->sampled_launches += n;
    if (window->n_seen++ % window->every != 0) return;
    if (run->n_samples == BE_SAMPLES) {
        for (uint32_t i = 0; i < BE_SAMPLES / 2; i++) {
            run->at_ms[i] = run->at_ms[2 * i];
            run->pool[i] = run->pool[2 * i];
        }
        run->n_samples = BE_SAMPLES / 2;
        window->every *= 2;
    }
    run->at_ms[run->n_samples] = (double)since_ns / 1e6;
    run->pool[run->n_samples++] = (uint32_t)(n_rows / n);
}

static void sample_cache(be_run *run, const sched_stats *now) {
    if (now->cache_bytes <= run->cache_bytes) return;
    run->cache_bytes = now->cache_bytes;
    run->cache_bytes_all_loops = now->cache_bytes_all_loops;
    run->slots_ideal_bytes = now->slots_used * now->slot_bytes;
}

void be_window_open(be_window *window, be_run *run, const scheduler *sched) {
    *window = (be_window){.run = run, .every = 1};
    sched_get_stats(sched, &window->before);
    for (int i = 0; i < SCHED_DEPTH_BINS; i++)
        run->warm_up_positions += window->before.exits_by_depth[i];
    window->sampled_rows = window->before.launch_rows[ENG_STAGE_RECURRENT];
    window->sampled_launches = window->before.launches[ENG_STAGE_RECURRENT];
}

void be_window_look(be_window *window, const scheduler *sched, uint64_t since_ns) {
    sched_get_stats(sched, &window->now);
    sample_pool(window, since_ns);
    sample_cache(window->run, &window->now);
    if (window->now.rows_held > window->run->rows_held)
        window->run->rows_held = window->now.rows_held;
}

void be_window_close(be_window *window, const scheduler *sched) {
    be_run *run = window->run;
    const sched_stats *before = &window->before, *now = &window->now;
    sched_get_stats(sched, &window->now);
    for (int i = 0; i < SCHED_DEPTH_BINS; i++) {
        run->depth[i] = now->exits_by_depth[i] - before->exits_by_depth[i];
        run->positions += run->depth[i];
        run->loops += run->depth[i] * (uint64_t)i;
    }
    for (int i = 0; i < 3; i++) {
        run->launches[i] = now->launches[i] - before->launches[i];
        run->rows[i] = now->launch_rows[i] - before->launch_rows[i];
        run->ns[i] = now->launch_ns[i] - before->launch_ns[i];
    }
    run->sample_ns = now->sample_ns - before->sample_ns;
    run->tail_rows = now->tail_rows - before->tail_rows;
    run->draft_chains = now->draft_chains - before->draft_chains;
    run->drafts_accepted = now->drafts_accepted - before->drafts_accepted;
    run->drafts_withdrawn = now->drafts_withdrawn - before->drafts_withdrawn;
    run->text_drafts = now->text_drafts - before->text_drafts;
    run->text_drafts_accepted = now->text_drafts_accepted - before->text_drafts_accepted;
    run->draft_heads = now->draft_heads - before->draft_heads;
    run->withdrawn_rows = now->withdrawn_rows - before->withdrawn_rows;
    for (int i = 0; i < SCHED_DRAFT_PLACES; i++)
        run->accepted_by_place[i] = now->accepted_by_place[i] - before->accepted_by_place[i];
    run->draft_loops = now->draft_loops_now;
    run->drafts = now->drafts_now;
    run->pool_mean = run->launches[1] ? (double)run->rows[1] / (double)run->launches[1] : 0;
}
