/* test_backend.c - the whole backend: golden cases, random batch mixes, bfloat16 against the
 * CPU engine, graphs against plain launches on poisoned memory, refusals. */
#include "tests/cuda/selftest/cases.h"

#include <string.h>

static void run_case(const char *name, kv_policy policy, uint32_t max_rows, uint64_t seed,
                     const precision *prec) {
    golden_case golden = golden_open(name);
    err e = {0};
    model_folder *model;
    if (!check(model_open(&model, golden.dir, &e) == 0, "%s: %s", golden.dir, e.msg)) return;
    drive_spec spec = golden_spec(&golden, model_plan_of(model), policy, max_rows, seed);
    eng_backend_opts opts = drive_opts(&spec, prec->kernels, prec->cache);
    eng_backend *eng = open_backend(model, &opts);
    drive_result result = {0};
    if (eng && drive(eng, &spec, &result)) compare_golden(&golden, &spec, &result, prec);
    drive_result_deinit(&result);
    eng_backend_close(eng);
    model_close(model);
    golden_close(&golden);
}

static void golden_cases(void) {
    for (int i = 0; i < GOLDEN_CASES; i++) {
        run_case(golden_names[i], KV_EXACT, 96, 0, &parity);
        run_case(golden_names[i], KV_LAST, 96, 0, &parity);
    }
}

/* The same answers from batches of any size and mix of depths. */
static void random_mixes(void) {
    for (int i = 0; i < GOLDEN_CASES; i++) {
        run_case(golden_names[i], i & 1 ? KV_EXACT : KV_LAST, 13, 7u + (uint64_t)i, &parity);
        run_case(golden_names[i], i & 1 ? KV_LAST : KV_EXACT, 40, 77u + (uint64_t)i, &parity);
    }
}

/* Runs a case with bfloat16 in batches of at most max_rows. */
static bool run_half(const golden_case *golden, const model_folder *model, kv_policy policy,
                     uint32_t max_rows, uint64_t seed, const precision *prec,
                     drive_result *result) {
    drive_spec spec = golden_spec(golden, model_plan_of(model), policy, max_rows, seed);
    eng_backend_opts opts = drive_opts(&spec, prec->kernels, prec->cache);
    eng_backend *eng = open_backend(model, &opts);
    bool ok = eng && drive(eng, &spec, result);
    if (ok) compare_golden(golden, &spec, result, prec);
    eng_backend_close(eng);
    return ok;
}

/* bfloat16 weights, activations and cache: near the golden logits at most positions, and the
 * own kernels (up to 63 rows) near cuBLAS (64 and more) likewise: one other choice of
 * expert changes every later position. */
static void half_precision(void) {
    static const precision half[] = {{"bf16", DTYPE_BF16, 0.05f, false},
                                     {"bf16", DTYPE_F32, 0.05f, false}};
    for (int i = 0; i < GOLDEN_CASES; i++) {
        golden_case golden = golden_open(golden_names[i]);
        err e = {0};
        model_folder *model;
        if (!check(model_open(&model, golden.dir, &e) == 0, "%s: %s", golden.dir, e.msg)) return;
        drive_result few = {0}, many = {0};
        kv_policy policy = i & 1 ? KV_LAST : KV_EXACT;
        uint32_t near = 0, n = GOLDEN_SEQS * GOLDEN_LEN;
        if (run_half(&golden, model, policy, 21, 5, &half[i > 3], &few) &&
            run_half(&golden, model, policy, 96, 0, &half[i > 3], &many)) {
            for (uint32_t k = 0; k < n; k++) {
                size_t at = (size_t)(k % GOLDEN_LEN) * golden.vocab;
                const float *one = few.logits[k / GOLDEN_LEN] + at,
                            *two = many.logits[k / GOLDEN_LEN] + at;
                near += worst(one, two, golden.vocab) < 0.02;
            }
            check(near >= n / 2, "%s: only %u of %u positions are near in batches of 21 and 96",
                  golden.dir, near, n);
        }
        /* Every prompt of two rows and more over expanded keys, one scratch of 128 keys. */
        static const precision early = {"bf16-expand", DTYPE_BF16, 0.05f, false};
        drive_result expanded = {0};
        if (model_plan_of(model)->attn == ATTN_MLA) {
            check(run_half(&golden, model, policy, 96, 0, &early, &expanded), "%s: no run",
                  golden.dir);
        }
        drive_result_deinit(&expanded);
        drive_result_deinit(&few);
        drive_result_deinit(&many);
        model_close(model);
        golden_close(&golden);
    }
}

void check_poisoned_spec(const model_folder *model, const drive_spec *spec, const char *graphs,
                         const char *plain, model_dtype cache, const char *what) {
    drive_spec poisoned = *spec, clean = *spec;
    size_t vocab = model_plan_of(model)->vocab_size;
    eng_backend_opts opts = drive_opts(spec, graphs, cache), other = drive_opts(spec, plain, cache);
    eng_backend *one = open_backend(model, &opts), *two = open_backend(model, &other);
    drive_result got = {0}, want = {0};
    poisoned.poison = true;
    clean.poison = false;
    if (one && drive(one, &poisoned, &got) && two && drive(two, &clean, &want)) {
        check(memcmp(got.depth, want.depth, sizeof got.depth) == 0, "%s %s: depths differ from %s",
              what, graphs, plain);
        for (uint32_t seq = 0; seq < spec->n_seqs; seq++) {
            check(memcmp(got.logits[seq], want.logits[seq], spec->len[seq] * vocab * 4) == 0,
                  "%s %s: logits differ from %s", what, graphs, plain);
        }
    }
    drive_result_deinit(&got);
    drive_result_deinit(&want);
    eng_backend_close(one);
    eng_backend_close(two);
}

/* Captured graphs, replayed on working memory full of NaN, against the same kernels launched one
 * by one: equal to the bit. */
void check_poisoned(const poisoned_case *test) {
    golden_case golden = golden_open(test->name);
    err e = {0};
    model_folder *model;
    if (!check(model_open(&model, golden.dir, &e) == 0, "%s: %s", golden.dir, e.msg)) return;
    drive_spec spec = golden_spec(&golden, model_plan_of(model), test->policy, 80, test->seed);
    spec.flights = test->flights;
    spec.one_by_one = test->one_by_one;
    check_poisoned_spec(model, &spec, test->graphs, test->plain, test->cache, test->name);
    model_close(model);
    golden_close(&golden);
}

void compare_with_cpu(const model_folder *model, const drive_spec *spec, const char *kernels,
                      const char *what) {
    err e = {0};
    eng_backend_opts opts = drive_opts(spec, kernels, DTYPE_F32),
                     plain = drive_opts(spec, NULL, DTYPE_F32);
    eng_backend *gpu = open_backend(model, &opts), *cpu = NULL;
    check(eng_cpu_open(&cpu, model, &plain, &e) == 0, "cpu: %s", e.msg);
    drive_result got = {0}, want = {0};
    if (gpu && cpu && drive(gpu, spec, &got) && drive(cpu, spec, &want))
        compare_near(spec, model_plan_of(model)->vocab_size, &got, &want, what);
    drive_result_deinit(&got);
    drive_result_deinit(&want);
    eng_backend_close(gpu);
    eng_backend_close(cpu);
}

/* Sequences of random tokens, random batches, fewer and more loops than trained, minimum depths:
 * the CUDA backend in float32 against the CPU backend driven by the very same launches. */
static void mixes_against_the_cpu_engine(const char *dir, uint32_t n_seqs, uint32_t rounds) {
    err e = {0};
    model_folder *model;
    rng rnd = {99};
    if (!check(model_open(&model, dir, &e) == 0, "%s: %s", dir, e.msg)) return;
    for (uint32_t k = 0; k < rounds; k++) {
        uint32_t longest = on_shim ? 40 : DRIVE_LEN;
        drive_spec spec = random_spec(model_plan_of(model), n_seqs, longest, 1000 + k, &rnd);
        compare_with_cpu(model, &spec, "f32", dir);
    }
    model_close(model);
}

void test_backend(void) {
    golden_cases();
    random_mixes();
    half_precision();
    static const poisoned_case poisoned[] = {
        {"mla", "f32", "f32-stream", DTYPE_F32, KV_EXACT, 1, false, 17},
        {"gqa", "f32", "f32-stream", DTYPE_BF16, KV_EXACT, 1, false, 17},
        {"mla_no_prelude", "bf16", "bf16-stream", DTYPE_BF16, KV_EXACT, 1, false, 17},
        {"gqa", "bf16", "bf16-stream", DTYPE_F32, KV_EXACT, 1, false, 17},
        {"gqa", "bf16", "bf16-stream", DTYPE_BF16, KV_EXACT, 1, false, 17},
        {"mla", "bf16-expand", "bf16-expand-stream", DTYPE_BF16, KV_EXACT, 1, false, 17},
    };
    for (size_t i = 0; i < ARRAY_LEN(poisoned); i++)
        check_poisoned(&poisoned[i]);
    mixes_against_the_cpu_engine("tests/golden/cases/mla_deep", 5, on_shim ? 2 : 10);
    mixes_against_the_cpu_engine("tests/golden/cases/gqa", 4, on_shim ? 2 : 10);
    if (!on_shim) mixes_against_the_cpu_engine("models/demo", 8, 10);
}
