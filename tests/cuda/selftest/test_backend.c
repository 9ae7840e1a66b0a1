/* test_backend.c - the whole backend: golden cases, random batch mixes, bfloat16 against the
 * CPU engine, graphs against plain launches on poisoned memory, refusals. */
#include "tests/cuda/selftest/cases.h"

#include <string.h>

static void run_case(const char *name, kv_policy policy, uint32_t max_rows, uint64_t seed,
                     const precision *p) {
    golden_case g = golden_open(name);
    err e = {0};
    model_folder *m;
    if (!check(model_open(&m, g.dir, &e) == 0, "%s: %s", g.dir, e.msg)) return;
    drive_spec spec = golden_spec(&g, model_plan_of(m), policy, max_rows, seed);
    eng_backend_opts o = drive_opts(&spec, p->kernels, p->cache);
    eng_backend *b = open_backend(m, &o);
    drive_result r = {0};
    if (b && drive(b, &spec, &r)) compare_golden(&g, &spec, &r, p);
    drive_result_deinit(&r);
    eng_backend_close(b);
    model_close(m);
    golden_close(&g);
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
static bool run_half(const golden_case *g, const model_folder *m, kv_policy policy,
                     uint32_t max_rows, uint64_t seed, const precision *p, drive_result *r) {
    drive_spec spec = golden_spec(g, model_plan_of(m), policy, max_rows, seed);
    eng_backend_opts o = drive_opts(&spec, p->kernels, p->cache);
    eng_backend *b = open_backend(m, &o);
    bool ok = b && drive(b, &spec, r);
    if (ok) compare_golden(g, &spec, r, p);
    eng_backend_close(b);
    return ok;
}

/* bfloat16 weights, activations and cache: near the golden logits at most positions, and the
 * own kernels (up to 63 rows) near cuBLAS (64 and more) likewise: one other choice of
 * expert changes every later position. */
static void half_precision(void) {
    static const precision half[] = {{"bf16", DTYPE_BF16, 0.05f, false},
                                     {"bf16", DTYPE_F32, 0.05f, false}};
    for (int i = 0; i < GOLDEN_CASES; i++) {
        golden_case g = golden_open(golden_names[i]);
        err e = {0};
        model_folder *m;
        if (!check(model_open(&m, g.dir, &e) == 0, "%s: %s", g.dir, e.msg)) return;
        drive_result few = {0}, many = {0};
        kv_policy policy = i & 1 ? KV_LAST : KV_EXACT;
        uint32_t near = 0, n = GOLDEN_SEQS * GOLDEN_LEN;
        if (run_half(&g, m, policy, 21, 5, &half[i > 3], &few) &&
            run_half(&g, m, policy, 96, 0, &half[i > 3], &many)) {
            for (uint32_t k = 0; k < n; k++) {
                size_t at = (size_t)(k % GOLDEN_LEN) * g.vocab;
                const float *a = few.logits[k / GOLDEN_LEN] + at,
                            *b = many.logits[k / GOLDEN_LEN] + at;
                near += worst(a, b, g.vocab) < 0.02;
            }
            check(near >= n / 2, "%s: only %u of %u positions are near in batches of 21 and 96",
                  g.dir, near, n);
        }
        /* Every prompt of two rows and more over expanded keys, one scratch of 128 keys. */
        static const precision early = {"bf16-expand", DTYPE_BF16, 0.05f, false};
        drive_result expanded = {0};
        if (model_plan_of(m)->attn == ATTN_MLA) {
            check(run_half(&g, m, policy, 96, 0, &early, &expanded), "%s: no run", g.dir);
        }
        drive_result_deinit(&expanded);
        drive_result_deinit(&few);
        drive_result_deinit(&many);
        model_close(m);
        golden_close(&g);
    }
}

void check_poisoned_spec(const model_folder *m, const drive_spec *spec, const char *graphs,
                         const char *plain, model_dtype cache, const char *what) {
    drive_spec poisoned = *spec, clean = *spec;
    size_t vocab = model_plan_of(m)->vocab_size;
    eng_backend_opts o = drive_opts(spec, graphs, cache), q = drive_opts(spec, plain, cache);
    eng_backend *one = open_backend(m, &o), *two = open_backend(m, &q);
    drive_result a = {0}, b = {0};
    poisoned.poison = true;
    clean.poison = false;
    if (one && drive(one, &poisoned, &a) && two && drive(two, &clean, &b)) {
        check(memcmp(a.depth, b.depth, sizeof a.depth) == 0, "%s %s: depths differ from %s", what,
              graphs, plain);
        for (uint32_t s = 0; s < spec->n_seqs; s++) {
            check(memcmp(a.logits[s], b.logits[s], spec->len[s] * vocab * 4) == 0,
                  "%s %s: logits differ from %s", what, graphs, plain);
        }
    }
    drive_result_deinit(&a);
    drive_result_deinit(&b);
    eng_backend_close(one);
    eng_backend_close(two);
}

/* Captured graphs, replayed on working memory full of NaN, against the same kernels launched one
 * by one: equal to the bit. */
void check_poisoned(const poisoned_case *p) {
    golden_case g = golden_open(p->name);
    err e = {0};
    model_folder *m;
    if (!check(model_open(&m, g.dir, &e) == 0, "%s: %s", g.dir, e.msg)) return;
    drive_spec spec = golden_spec(&g, model_plan_of(m), p->policy, 80, p->seed);
    spec.flights = p->flights;
    spec.one_by_one = p->one_by_one;
    check_poisoned_spec(m, &spec, p->graphs, p->plain, p->cache, p->name);
    model_close(m);
    golden_close(&g);
}

void compare_with_cpu(const model_folder *m, const drive_spec *spec, const char *kernels,
                      const char *what) {
    err e = {0};
    eng_backend_opts o = drive_opts(spec, kernels, DTYPE_F32),
                     q = drive_opts(spec, NULL, DTYPE_F32);
    eng_backend *gpu = open_backend(m, &o), *cpu = NULL;
    check(eng_cpu_open(&cpu, m, &q, &e) == 0, "cpu: %s", e.msg);
    drive_result a = {0}, b = {0};
    if (gpu && cpu && drive(gpu, spec, &a) && drive(cpu, spec, &b))
        compare_near(spec, model_plan_of(m)->vocab_size, &a, &b, what);
    drive_result_deinit(&a);
    drive_result_deinit(&b);
    eng_backend_close(gpu);
    eng_backend_close(cpu);
}

/* Sequences of random tokens, random batches, fewer and more loops than trained, minimum depths:
 * the CUDA backend in float32 against the CPU backend driven by the very same launches. */
static void mixes_against_the_cpu_engine(const char *dir, uint32_t n_seqs, uint32_t rounds) {
    err e = {0};
    model_folder *m;
    rng r = {99};
    if (!check(model_open(&m, dir, &e) == 0, "%s: %s", dir, e.msg)) return;
    for (uint32_t k = 0; k < rounds; k++) {
        uint32_t longest = on_shim ? 40 : DRIVE_LEN;
        drive_spec spec = random_spec(model_plan_of(m), n_seqs, longest, 1000 + k, &r);
        compare_with_cpu(m, &spec, "f32", dir);
    }
    model_close(m);
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
