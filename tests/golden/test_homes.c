/* test_homes.c - sequences at home on one rank each give the bits of one process: tokens, depths
 * and logits, also of prompts that begin alike. The ranks are threads. */
#include "scheduler/scheduler_internal.h"
#include "tests/lib/golden_run.h"
#include "tests/lib/rank_group.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <stdio.h>

TestSuite(golden_homes, .fini = fail_on_leaks, .timeout = HANGS_S);

enum { SEQUENCES = 7, COMMON = 40, MOST_IDS = 100, LARGE = 16 << 20 };

/* What a run shows of its homes. */
typedef struct {
    uint32_t most_at_once; /* homes with sequences at one time */
    uint64_t cached;       /* prompt tokens from the prefix cache */
    uint64_t preemptions, pages;
    eng_ranks_counts counts;
} seen_homes;

static uint32_t homes_in_use(const scheduler *sched) {
    uint32_t n = 0;
    for (uint32_t home = 0; home < ENG_MOST_HOMES; home++)
        n += sched->home_running[home] > 0;
    return n;
}

/* Every other prompt begins as the first one does. A tap hides a prompt from the prefix cache, so
 * only the second half of the sequences tells logits. */
static void run_sequences(eng_backend *backend, kv_policy policy, golden_outputs *outs,
                          seen_homes *seen) {
    const model_plan *plan = backend->plan;
    uint32_t prompt[MOST_IDS];
    sched_opts opts;
    scheduler *sch;
    err e = {0};
    sched_opts_default(&opts);
    opts.halted_kv = policy;
    opts.chunk = 16;
    opts.max_rows = 64;
    outs->n = SEQUENCES;
    cr_assert_eq(sched_create(&sch, backend, &opts, golden_event, outs, &e), 0, "%s", e.msg);
    for (uint32_t k = 0; k < SEQUENCES; k++) {
        uint32_t room = plan->max_seq_len - 8, n = COMMON + 5 * k < room ? COMMON + 5 * k : room;
        for (uint32_t i = 0; i < n; i++) {
            uint32_t stream = k % 2 == 0 && i < COMMON ? 0 : k;
            prompt[i] = (i * 31 + stream * 7 + 3) % plan->vocab_size;
        }
        golden_output *out = &outs->of[k];
        out->vocab = plan->vocab_size;
        sched_request req = {.prompt = prompt, .n_prompt = n, .max_tokens = 8};
        req.sampling = (eng_sampling){.top_p = 1, .repetition_penalty = 1};
        if (k >= SEQUENCES / 2) req.tap = golden_tap, req.tap_logits = true, req.ud = out;
        out->id = golden_submit(sch, &req);
        golden_step(sch, k == 0 ? 60 : 3);
        uint32_t in_use = homes_in_use(sch);
        if (in_use > seen->most_at_once) seen->most_at_once = in_use;
    }
    golden_step(sch, 100000);
    sched_stats stats;
    sched_get_stats(sch, &stats);
    seen->cached = stats.prefix_hits;
    seen->preemptions = stats.preemptions;
    seen->pages = stats.pages;
    sched_destroy(sch);
}

/* A cache for n_blocks blocks at full depth. */
static uint64_t cache_for(const model_folder *model, uint64_t n_blocks) {
    const model_plan *plan = model_plan_of(model);
    uint64_t planes = plan_planes(plan, plan->loops_default);
    uint64_t map = planes * ENG_BLOCK * sizeof(uint32_t);
    return n_blocks * ENG_BLOCK * planes * plan->slot_values * sizeof(float) + 16 * map;
}

static seen_homes run_on(const model_folder *model, kv_policy policy, eng_weights weights,
                         uint64_t cache_bytes, uint32_t n, bool homes, golden_outputs *outs) {
    const eng_backend_opts opts = {.threads = 1,
                                   .n_rows = 300,
                                   .max_launch = 128,
                                   .max_logits = 64,
                                   .cache_bytes = cache_bytes,
                                   .weights = weights,
                                   .homes = homes,
                                   .own_state0 = model_plan_of(model)->state0 == STATE_SEEDED,
                                   .state0 = STATE_ZERO};
    err e = {0};
    rank_group *group;
    seen_homes seen = {0};
    eng_backend *backend = rank_group_start(&group, n, model, &opts, 1, eng_cpu_open, &e);
    cr_assert_not_null(backend, "%s", e.msg);
    run_sequences(backend, policy, outs, &seen);
    if (n > 1) seen.counts = eng_ranks_read(rank_group_ranks(group));
    rank_group_close(group);
    return seen;
}

/* Then the outputs of n ranks are let go of. */
static void equal_outputs(const golden_outputs *alone, golden_outputs *outs, const char *dir,
                          uint32_t n) {
    char what[64];
    (void)snprintf(what, sizeof what, "%s on %u ranks", dir, n);
    golden_expect_equal(alone, outs, what);
    golden_outputs_deinit(outs);
}

Test(golden_homes, sequences_at_home_on_any_number_of_ranks_give_the_bits_of_one_process) {
    for (size_t i = 0; i < GOLDEN_FOLDERS; i++) {
        model_folder *model;
        err e = {0};
        cr_assert_eq(model_open(&model, golden_folders[i], &e), 0, "%s", e.msg);
        for (int way = 0; way < 4; way++) {
            kv_policy policy = way & 1 ? KV_LAST : KV_EXACT;
            eng_weights weights = way & 2 ? ENG_WEIGHTS_INT8 : ENG_WEIGHTS_AS_STORED;
            golden_outputs alone = {0};
            (void)run_on(model, policy, weights, LARGE, 1, true, &alone);
            for (uint32_t n = 2; n <= 3; n++) {
                golden_outputs outs = {0};
                seen_homes seen = run_on(model, policy, weights, LARGE, n, true, &outs);
                cr_assert_eq(seen.most_at_once, n, "%s: %u homes in use", golden_folders[i],
                             seen.most_at_once);
                equal_outputs(&alone, &outs, golden_folders[i], n);
            }
            golden_outputs_deinit(&alone);
        }
        model_close(model);
    }
}

/* One more gather for each layer with rows that go on to the feed-forward; and since attention is
 * divided, the prompt that is cached at one home is computed anew at another. */
Test(golden_homes, a_layer_gathers_its_rows_once_more_and_prefixes_are_found_at_home) {
    model_folder *model;
    err e = {0};
    golden_outputs columns = {0}, homes = {0};
    cr_assert_eq(model_open(&model, "tests/golden/cases/mla", &e), 0, "%s", e.msg);
    seen_homes without = run_on(model, KV_EXACT, ENG_WEIGHTS_AS_STORED, LARGE, 2, false, &columns);
    seen_homes with = run_on(model, KV_EXACT, ENG_WEIGHTS_AS_STORED, LARGE, 2, true, &homes);
    cr_expect_eq(without.most_at_once, 1);
    cr_expect_gt(with.cached, 0);
    /* For each launch: how many there are depends on how long the first ones took. */
    cr_expect_gt(with.counts.gathers * without.counts.launches,
                 without.counts.gathers * with.counts.launches * 5 / 4);
    cr_expect_gt(with.counts.bytes, without.counts.bytes);
    equal_outputs(&columns, &homes, "mla", 2);
    golden_outputs_deinit(&columns);
    model_close(model);
}

/* One home holds one of the longer sequences, or two short ones, so pages run out at every home. */
Test(golden_homes, homes_with_small_caches_give_the_bits_of_one_large_cache) {
    enum { RANKS = 3, BLOCKS = 4 };
    uint64_t preemptions[RANKS + 1] = {0};
    for (size_t i = 0; i < 2 * GOLDEN_FOLDERS; i++) {
        const char *dir = golden_folders[i / 2];
        kv_policy policy = i & 1 ? KV_LAST : KV_EXACT;
        model_folder *model;
        err e = {0};
        cr_assert_eq(model_open(&model, dir, &e), 0, "%s", e.msg);
        uint64_t small = cache_for(model, BLOCKS), pages = 0;
        golden_outputs alone = {0};
        (void)run_on(model, policy, ENG_WEIGHTS_AS_STORED, LARGE, 1, true, &alone);
        for (uint32_t n = 1; n <= RANKS; n++) {
            golden_outputs outs = {0};
            seen_homes seen = run_on(model, policy, ENG_WEIGHTS_AS_STORED, small, n, true, &outs);
            if (n == 1) pages = seen.pages;
            cr_assert_eq(seen.pages, n * pages, "%s: %u ranks", dir, n);
            preemptions[n] += seen.preemptions;
            equal_outputs(&alone, &outs, dir, n);
        }
        golden_outputs_deinit(&alone);
        model_close(model);
    }
    cr_expect_gt(preemptions[RANKS], 0);
    cr_expect_gt(preemptions[1], preemptions[RANKS]);
}
