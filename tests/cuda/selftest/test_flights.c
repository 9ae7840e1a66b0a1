/* test_flights.c - two launches in flight: the second is built before the halted rows of the first
 * are known, and all results must be as if they had been. */
#include "tests/cuda/selftest/cases.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    uint32_t left_out, empty, became_tails;
} ahead_counts;

static void count(ahead_counts *counts, const drive_result *result) {
    counts->left_out += result->left_out;
    counts->empty += result->empty;
    counts->became_tails += result->became_tails;
}

static void same_cache(const eng_backend *one, const eng_backend *two, const drive_spec *spec,
                       const char *what) {
    for (uint32_t seq = 0; seq < spec->n_seqs; seq++) {
        size_t n, n_two;
        float *x = drive_latents(one, spec, seq, &n), *y = drive_latents(two, spec, seq, &n_two);
        check(n > 0 && n == n_two && worst(x, y, n) < 1e-3, "%s: the cache of sequence %u differs",
              what, seq);
        free(x);
        free(y);
    }
}

typedef struct {
    kv_policy policy;
    uint32_t max_rows;
    bool one_by_one, against_one; /* and once more, one launch at a time */
    uint64_t seed;
} ahead_run;

/* One golden case with two launches in flight: the published logits and depths, and the same
 * latents in the cache as with one launch at a time. */
static void golden_case_ahead(const char *name, ahead_run run, ahead_counts *counts) {
    golden_case golden = golden_open(name);
    err e = {0};
    model_folder *model;
    if (!check(model_open(&model, golden.dir, &e) == 0, "%s: %s", golden.dir, e.msg)) return;
    drive_spec spec =
        golden_spec(&golden, model_plan_of(model), run.policy, run.max_rows, run.seed);
    spec.flights = 2;
    spec.one_by_one = run.one_by_one;
    drive_spec plain = spec;
    plain.flights = 1;
    eng_backend_opts opts = drive_opts(&spec, parity.kernels, parity.cache);
    eng_backend *two = open_backend(model, &opts),
                *one = run.against_one ? open_backend(model, &opts) : NULL;
    drive_result got = {0}, want = {0};
    if (two && drive(two, &spec, &got)) {
        compare_golden(&golden, &spec, &got, &parity);
        count(counts, &got);
    }
    if (one && drive(one, &plain, &want)) {
        check(want.left_out == 0 && want.became_tails == 0, "one launch at a time left rows out");
        same_cache(two, one, &spec, name);
    }
    drive_result_deinit(&got);
    drive_result_deinit(&want);
    eng_backend_close(one);
    eng_backend_close(two);
    model_close(model);
    golden_close(&golden);
}

/* Random mixes with two in flight against the CPU engine, one launch at a time. */
static void mixes_ahead(const char *dir, uint32_t n_seqs, uint32_t rounds, ahead_counts *counts) {
    err e = {0};
    model_folder *model;
    rng rnd = {7};
    if (!check(model_open(&model, dir, &e) == 0, "%s: %s", dir, e.msg)) return;
    const model_plan *plan = model_plan_of(model);
    for (uint32_t k = 0; k < rounds; k++) {
        drive_spec spec = random_spec(plan, n_seqs, on_shim ? 25 : DRIVE_LEN, 2000 + k, &rnd);
        spec.flights = 2;
        spec.one_by_one = k & 2;
        eng_backend_opts opts = drive_opts(&spec, "f32", DTYPE_F32),
                         plain = drive_opts(&spec, NULL, DTYPE_F32);
        eng_backend *gpu = open_backend(model, &opts), *cpu = NULL;
        check(eng_cpu_open(&cpu, model, &plain, &e) == 0, "cpu: %s", e.msg);
        drive_result got = {0}, want = {0};
        if (gpu && cpu && drive(gpu, &spec, &got) && drive(cpu, &spec, &want)) {
            compare_near(&spec, plan->vocab_size, &got, &want, dir);
            count(counts, &got);
        }
        drive_result_deinit(&got);
        drive_result_deinit(&want);
        eng_backend_close(gpu);
        eng_backend_close(cpu);
    }
    model_close(model);
}

/* ---- one launch behind the other ---- */

static eng_backend *open_small(model_folder **model) {
    err e = {0};
    eng_backend *eng = NULL;
    eng_backend_opts opts = {.max_loops = 2,
                             .n_rows = 8,
                             .max_launch = 4,
                             .max_logits = 2,
                             .cache_bytes = 1 << 20,
                             .max_positions = 64};
    if (!check(model_open(model, "tests/golden/cases/mla", &e) == 0, "model: %s", e.msg))
        return NULL;
    if (check(eng__cuda_open_device(&eng, *model, &opts, 0, &e) == 0, "open: %s", e.msg))
        return eng;
    model_close(*model);
    return NULL;
}

/* Position 0 of a sequence of its own. */
static bool start_one(eng_backend *eng, uint32_t which) {
    static const uint32_t blocks[3][1] = {{0}, {1}, {2}};
    err e = {0};
    eng_edit edit = {.block = which, .slot = 5 + which, .n_planes = 4};
    eng_row row = {.row = which, .token = 3 + which, .blocks = blocks[which]};
    eng_launch launch = {ENG_STAGE_PRELUDE, &row, 1, &edit, 1};
    return check(eng->ops->launch(eng, &launch, &e) == 0, "launch %u: %s", which, e.msg);
}

static uint64_t time_of_oldest(eng_backend *eng) {
    err e = {0};
    eng_result result = {0};
    check(eng->ops->wait(eng, &result, &e) == 0, "%s", e.msg);
    return result.ns;
}

/* The shim's clock counts queued operations, and these launches queue the same number. */
static void a_launch_is_timed_alone_whatever_is_in_flight_before_it(void) {
    model_folder *model;
    eng_backend *eng = open_small(&model);
    if (eng == NULL) return;
    uint64_t alone, ns[3];
    if (start_one(eng, 0)) alone = time_of_oldest(eng);
    else alone = 0;
    bool started = start_one(eng, 0) && start_one(eng, 1);
    ns[0] = time_of_oldest(eng);
    started = started && start_one(eng, 2);
    ns[1] = time_of_oldest(eng);
    ns[2] = time_of_oldest(eng);
    check(started && alone > 0, "a launch takes no time");
    for (int i = 0; i < 3; i++)
        check(on_shim ? ns[i] == alone : ns[i] > 0, "launch %d took %llu ns, alone %llu", i,
              (unsigned long long)ns[i], (unsigned long long)alone);
    eng_backend_close(eng);
    model_close(model);
}

/* Edits that may set one entry twice are found, with any edits between them, and only they. */
static void edits_of_one_entry_keep_their_order(void) {
    static const struct {
        bool in_order;
        uint32_t n_edits;
        eng_edit edits[4];
    } cases[] = {
        {false, 3, {{2, 1, 0, 1, 3, 0, 0, 0}, {2, 2, 1, 2, 3, 0, 0, 0}, {2, 3, 0, 1, 4, 0, 0, 0}}},
        {false, 3, {{2, 1, 0, 1, 3, 0, 0, 0}, {3, 2, 0, 1, 3, 0, 0, 0}, {4, 3, 0, 1, 3, 0, 0, 0}}},
        {true, 2, {{2, 1, 0, 2, 3, 0, 0, 0}, {2, 2, 1, 2, 3, 0, 0, 0}}},
        {true, 3, {{2, 1, 0, 2, 3, 0, 0, 0}, {3, 2, 0, 2, 3, 0, 0, 0}, {2, 3, 0, 1, 3, 0, 0, 0}}},
        {true, 3, {{2, 1, 2, 1, 3, 0, 0, 0}, {2, 2, 0, 1, 3, 0, 0, 0}, {2, 3, 0, 3, 3, 0, 0, 0}}},
    };
    model_folder *model;
    eng_backend *eng = open_small(&model);
    if (eng == NULL) return;
    const cu_cache *cache = &((cu_backend *)eng)->cache;
    size_t words = (size_t)cache->n_planes * ENG_BLOCK;
    uint32_t *want = malloc(5 * words * 4), *got = malloc(5 * words * 4);
    memset(want, 0xff, 5 * words * 4);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        err e = {0};
        eng_result result;
        eng_launch launch = {ENG_STAGE_PRELUDE, NULL, 0, cases[i].edits, cases[i].n_edits};
        check(eng_run(eng, &launch, &result, &e) == 0, "edits: %s", e.msg);
        for (uint32_t k = 0; k < cases[i].n_edits; k++) {
            const eng_edit *edit = &cases[i].edits[k];
            for (uint32_t plane = edit->plane; plane < (uint32_t)edit->plane + edit->n_planes;
                 plane++)
                want[edit->block * words + plane * ENG_BLOCK + edit->off] = edit->slot;
        }
        const cu_backend *cb = (const cu_backend *)eng;
        const cu_head *sent = (const cu_head *)(const void *)cb->sent[(cb->turn - 1) & 1];
        check((sent->in_order != 0) == cases[i].in_order, "edits %zu: %s in order", i,
              cases[i].in_order ? "not sent" : "sent");
        must(cudaMemcpy(got, cache->maps, 5 * words * 4, cudaMemcpyDeviceToHost), "copying");
        check(memcmp(got, want, 5 * words * 4) == 0, "edits %zu are not there", i);
    }
    free(want);
    free(got);
    eng_backend_close(eng);
    model_close(model);
}

void test_flights(void) {
    a_launch_is_timed_alone_whatever_is_in_flight_before_it();
    edits_of_one_entry_keep_their_order();
    ahead_counts counts = {0};
    for (int i = 0; i < GOLDEN_CASES; i++) {
        uint64_t seed = i & 1 ? 31u + (uint64_t)i : 0;
        bool against = i == 0 || i == 3;
        golden_case_ahead(golden_names[i], (ahead_run){KV_EXACT, 96, false, against, seed},
                          &counts);
        golden_case_ahead(golden_names[i], (ahead_run){KV_LAST, 60, false, against, seed}, &counts);
    }
    golden_case_ahead("mla_deep", (ahead_run){KV_EXACT, 60, true, true, 5}, &counts);
    golden_case_ahead("gqa", (ahead_run){KV_LAST, 23, true, false, 6}, &counts);
    mixes_ahead("tests/golden/cases/mla_deep", 4, on_shim ? 4 : 20, &counts);
    mixes_ahead("tests/golden/cases/gqa", 4, on_shim ? 2 : 20, &counts);
    check(counts.left_out > 100 && counts.empty > 5 && counts.became_tails > 100,
          "only %u rows were left out, %u launches emptied, %u rows made tails", counts.left_out,
          counts.empty, counts.became_tails);
    static const poisoned_case poisoned[] = {
        {"mla", "f32", "f32-stream", DTYPE_F32, KV_EXACT, 2, false, 23},
        {"mla_no_prelude", "bf16", "bf16-stream", DTYPE_BF16, KV_LAST, 2, true, 23},
        {"mla", "bf16-expand", "bf16-expand-stream", DTYPE_BF16, KV_EXACT, 2, false, 23},
    };
    for (size_t i = 0; i < ARRAY_LEN(poisoned); i++)
        check_poisoned(&poisoned[i]);
}
