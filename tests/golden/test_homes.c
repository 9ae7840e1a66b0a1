/* test_homes.c - sequences at home on one rank each give the bits of one process: tokens, depths
 * and logits, also of prompts that begin alike. The ranks are threads. */
#include "base/buf.h"
#include "scheduler/scheduler_internal.h"
#include "tests/lib/golden_run.h"
#include "tests/lib/rank_group.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <string.h>

TestSuite(golden_homes, .fini = fail_on_leaks, .timeout = HANGS_S);

enum { SEQUENCES = 7, COMMON = 40, MOST_IDS = 100, LARGE = 16 << 20 };

typedef struct {
    uint64_t id;
    buf bytes;
    uint32_t vocab;
} output;

static void on_tap(void *ud, uint64_t id, uint32_t pos, uint16_t depth, const float *logits) {
    output *out = ud;
    (void)id;
    buf_append(&out->bytes, &pos, sizeof pos);
    buf_append(&out->bytes, &depth, sizeof depth);
    buf_append(&out->bytes, logits, out->vocab * sizeof *logits);
}

static void on_event(void *ud, const sched_event *ev) {
    output *outs = ud;
    for (int i = 0; i < SEQUENCES; i++) {
        if (outs[i].id != ev->id || ev->kind != SCHED_TOKEN) continue;
        buf_append(&outs[i].bytes, &ev->token, sizeof ev->token);
        buf_append(&outs[i].bytes, &ev->depth, sizeof ev->depth);
    }
}

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
static void run_sequences(eng_backend *backend, kv_policy policy, output outs[SEQUENCES],
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
    cr_assert_eq(sched_create(&sch, backend, &opts, on_event, outs, &e), 0, "%s", e.msg);
    for (uint32_t k = 0; k < SEQUENCES; k++) {
        uint32_t room = plan->max_seq_len - 8, n = COMMON + 5 * k < room ? COMMON + 5 * k : room;
        for (uint32_t i = 0; i < n; i++) {
            uint32_t stream = k % 2 == 0 && i < COMMON ? 0 : k;
            prompt[i] = (i * 31 + stream * 7 + 3) % plan->vocab_size;
        }
        outs[k].vocab = plan->vocab_size;
        sched_request req = {.prompt = prompt, .n_prompt = n, .max_tokens = 8};
        req.sampling = (eng_sampling){.top_p = 1, .repetition_penalty = 1};
        if (k >= SEQUENCES / 2) req.tap = on_tap, req.tap_logits = true, req.ud = &outs[k];
        outs[k].id = golden_submit(sch, &req);
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

static int open_cpu(eng_backend **out, const model_folder *model, const eng_backend_opts *opts,
                    err *e) {
    return eng_cpu_open(out, model, opts, e);
}

/* A cache for n_blocks blocks at full depth. */
static uint64_t cache_for(const model_folder *model, uint64_t n_blocks) {
    const model_plan *plan = model_plan_of(model);
    uint64_t planes = plan_planes(plan, plan->loops_default);
    uint64_t map = planes * ENG_BLOCK * sizeof(uint32_t);
    return n_blocks * ENG_BLOCK * planes * plan->slot_values * sizeof(float) + 16 * map;
}

static seen_homes run_on(const model_folder *model, kv_policy policy, eng_weights weights,
                         uint64_t cache_bytes, uint32_t n, bool homes, output outs[SEQUENCES]) {
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
    eng_backend *backend = rank_group_start(&group, n, model, &opts, 1, open_cpu, &e);
    cr_assert_not_null(backend, "%s", e.msg);
    run_sequences(backend, policy, outs, &seen);
    if (n > 1) seen.counts = eng_ranks_read(rank_group_ranks(group));
    rank_group_close(group);
    return seen;
}

static void equal_outputs(output one[SEQUENCES], output other[SEQUENCES], const char *dir,
                          uint32_t n) {
    for (int k = 0; k < SEQUENCES; k++) {
        cr_assert_gt(one[k].bytes.len, 0);
        cr_assert_eq(other[k].bytes.len, one[k].bytes.len, "%s: sequence %d on %u ranks", dir, k,
                     n);
        cr_assert_eq(memcmp(other[k].bytes.data, one[k].bytes.data, one[k].bytes.len), 0,
                     "%s: sequence %d differs on %u ranks", dir, k, n);
        buf_deinit(&other[k].bytes);
    }
}

static const char *const dirs[] = {
    "tests/golden/cases/mla",          "tests/golden/cases/gqa",
    "tests/golden/cases/mla_deep",     "tests/golden/families/ouro",
    "tests/golden/families/nanbeige",  "tests/golden/families/huginn",
    "tests/golden/families/parcae",    "tests/golden/families/retro_llama",
    "tests/golden/families/retro_olmo"};

Test(golden_homes, sequences_at_home_on_any_number_of_ranks_give_the_bits_of_one_process) {
    for (size_t i = 0; i < ARRAY_LEN(dirs); i++) {
        model_folder *model;
        err e = {0};
        cr_assert_eq(model_open(&model, dirs[i], &e), 0, "%s", e.msg);
        for (int way = 0; way < 4; way++) {
            kv_policy policy = way & 1 ? KV_LAST : KV_EXACT;
            eng_weights weights = way & 2 ? ENG_WEIGHTS_INT8 : ENG_WEIGHTS_AS_STORED;
            output alone[SEQUENCES] = {0};
            (void)run_on(model, policy, weights, LARGE, 1, true, alone);
            for (uint32_t n = 2; n <= 3; n++) {
                output outs[SEQUENCES] = {0};
                seen_homes seen = run_on(model, policy, weights, LARGE, n, true, outs);
                cr_assert_eq(seen.most_at_once, n, "%s: %u homes in use", dirs[i],
                             seen.most_at_once);
                equal_outputs(alone, outs, dirs[i], n);
            }
            for (int k = 0; k < SEQUENCES; k++)
                buf_deinit(&alone[k].bytes);
        }
        model_close(model);
    }
}

/* One more gather for each layer with rows that go on to the feed-forward; and since attention is
 * divided, the prompt that is cached at one home is computed anew at another. */
Test(golden_homes, a_layer_gathers_its_rows_once_more_and_prefixes_are_found_at_home) {
    model_folder *model;
    err e = {0};
    output columns[SEQUENCES] = {0}, homes[SEQUENCES] = {0};
    cr_assert_eq(model_open(&model, "tests/golden/cases/mla", &e), 0, "%s", e.msg);
    seen_homes without = run_on(model, KV_EXACT, ENG_WEIGHTS_AS_STORED, LARGE, 2, false, columns);
    seen_homes with = run_on(model, KV_EXACT, ENG_WEIGHTS_AS_STORED, LARGE, 2, true, homes);
    cr_expect_eq(without.most_at_once, 1);
    cr_expect_gt(with.cached, 0);
    cr_expect_gt(with.counts.gathers, without.counts.gathers * 5 / 4);
    cr_expect_gt(with.counts.bytes, without.counts.bytes);
    equal_outputs(columns, homes, "mla", 2);
    for (int k = 0; k < SEQUENCES; k++)
        buf_deinit(&columns[k].bytes);
    model_close(model);
}

/* One home holds one of the longer sequences, or two short ones, so pages run out at every home. */
Test(golden_homes, homes_with_small_caches_give_the_bits_of_one_large_cache) {
    enum { RANKS = 3, BLOCKS = 4 };
    uint64_t preemptions[RANKS + 1] = {0};
    for (size_t i = 0; i < 2 * ARRAY_LEN(dirs); i++) {
        const char *dir = dirs[i / 2];
        kv_policy policy = i & 1 ? KV_LAST : KV_EXACT;
        model_folder *model;
        err e = {0};
        cr_assert_eq(model_open(&model, dir, &e), 0, "%s", e.msg);
        uint64_t small = cache_for(model, BLOCKS), pages = 0;
        output alone[SEQUENCES] = {0};
        (void)run_on(model, policy, ENG_WEIGHTS_AS_STORED, LARGE, 1, true, alone);
        for (uint32_t n = 1; n <= RANKS; n++) {
            output outs[SEQUENCES] = {0};
            seen_homes seen = run_on(model, policy, ENG_WEIGHTS_AS_STORED, small, n, true, outs);
            if (n == 1) pages = seen.pages;
            cr_assert_eq(seen.pages, n * pages, "%s: %u ranks", dir, n);
            preemptions[n] += seen.preemptions;
            equal_outputs(alone, outs, dir, n);
        }
        for (int k = 0; k < SEQUENCES; k++)
            buf_deinit(&alone[k].bytes);
        model_close(model);
    }
    cr_expect_gt(preemptions[RANKS], 0);
    cr_expect_gt(preemptions[1], preemptions[RANKS]);
}
