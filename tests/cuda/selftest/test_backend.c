/* test_backend.c - the whole backend: golden cases, random batch mixes, bfloat16 against the
 * CPU engine, graphs against plain launches on poisoned memory, refusals. */
#include "tests/cuda/selftest/driver.h"
#include "tests/lib/golden.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const char *kernels;
    eng_dtype cache;
    float limit; /* of the logit error, as a fraction of the largest logit */
    bool all;    /* every position must hold it, and every depth be equal; otherwise most must:
                    with bfloat16 a position may leave a loop earlier or pick another expert */
} precision;

static const precision parity = {"f32", ENG_F32, 1e-3f, true};

static eng_backend *open_backend(const eng_model *m, const eng_backend_opts *o) {
    err e = {0};
    eng_backend *b;
    if (eng__cuda_open_device(&b, m, o, 0, &e) != 0) check(false, "open: %s", e.msg);
    return b;
}

static drive_spec golden_spec(const golden_case *g, const eng_config *c, eng_policy policy,
                              uint32_t max_rows, uint64_t seed) {
    return (drive_spec){.n_seqs = GOLDEN_SEQS,
                        .n_loops = g->n_loops,
                        .max_rows = max_rows,
                        .len = {GOLDEN_LEN, GOLDEN_LEN},
                        .ids = {g->ids[0], g->ids[1]},
                        .policy = policy,
                        .threshold = c->act_threshold,
                        .seed = seed};
}

static void compare(const golden_case *g, const drive_spec *spec, const drive_result *r,
                    const precision *p) {
    const char *policy = spec->policy == ENG_EXACT ? "exact" : "last";
    uint32_t depths = 0, far = 0, n = GOLDEN_SEQS * GOLDEN_LEN;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t s = i / GOLDEN_LEN, pos = i % GOLDEN_LEN;
        size_t at = (size_t)pos * g->vocab;
        const float *want = g->logits[spec->policy] + (size_t)s * GOLDEN_LEN * g->vocab + at;
        depths += r->depth[s][pos] != g->depth[spec->policy][s][pos];
        far += !(worst(r->logits[s] + at, want, g->vocab) <= (double)p->limit);
    }
    uint32_t most = p->all ? 0 : n / 2;
    check(far <= most && depths <= most,
          "%s %s %s seed %llu rows %u: %u of %u logits too far off, %u depths differ", g->dir,
          policy, p->kernels, (unsigned long long)spec->seed, spec->max_rows, far, n, depths);
}

static void run_case(const char *name, eng_policy policy, uint32_t max_rows, uint64_t seed,
                     const precision *p) {
    golden_case g = golden_open(name);
    err e = {0};
    eng_model *m;
    if (!check(eng_model_open(&m, g.dir, &e) == 0, "%s: %s", g.dir, e.msg)) return;
    drive_spec spec = golden_spec(&g, eng_model_config(m), policy, max_rows, seed);
    eng_backend_opts o = drive_opts(&spec, p->kernels, p->cache);
    eng_backend *b = open_backend(m, &o);
    drive_result r = {0};
    if (b && drive(b, &spec, &r)) compare(&g, &spec, &r, p);
    drive_result_deinit(&r);
    eng_backend_close(b);
    eng_model_close(m);
    golden_close(&g);
}

static void golden_cases(void) {
    for (int i = 0; i < GOLDEN_CASES; i++) {
        run_case(golden_names[i], ENG_EXACT, 96, 0, &parity);
        run_case(golden_names[i], ENG_LAST, 96, 0, &parity);
    }
}

/* The same answers from batches of any size and mix of depths. */
static void random_mixes(void) {
    for (int i = 0; i < GOLDEN_CASES; i++) {
        run_case(golden_names[i], i & 1 ? ENG_EXACT : ENG_LAST, 13, 7u + (uint64_t)i, &parity);
        run_case(golden_names[i], i & 1 ? ENG_LAST : ENG_EXACT, 40, 77u + (uint64_t)i, &parity);
    }
}

/* Runs a case with bfloat16 in batches of at most max_rows. */
static bool run_half(const golden_case *g, const eng_model *m, eng_policy policy, uint32_t max_rows,
                     uint64_t seed, const precision *p, drive_result *r) {
    drive_spec spec = golden_spec(g, eng_model_config(m), policy, max_rows, seed);
    eng_backend_opts o = drive_opts(&spec, p->kernels, p->cache);
    eng_backend *b = open_backend(m, &o);
    bool ok = b && drive(b, &spec, r);
    if (ok) compare(g, &spec, r, p);
    eng_backend_close(b);
    return ok;
}

/* bfloat16 weights, activations and cache: near the golden logits at most positions, and the
 * own kernels (up to 63 rows) near cuBLAS (64 and more) likewise: one other choice of
 * expert changes every later position. */
static void half_precision(void) {
    static const precision half[] = {{"bf16", ENG_BF16, 0.05f, false},
                                     {"bf16", ENG_F32, 0.05f, false}};
    for (int i = 0; i < GOLDEN_CASES; i++) {
        golden_case g = golden_open(golden_names[i]);
        err e = {0};
        eng_model *m;
        if (!check(eng_model_open(&m, g.dir, &e) == 0, "%s: %s", g.dir, e.msg)) return;
        drive_result few = {0}, many = {0};
        eng_policy policy = i & 1 ? ENG_LAST : ENG_EXACT;
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
        drive_result_deinit(&few);
        drive_result_deinit(&many);
        eng_model_close(m);
        golden_close(&g);
    }
}

void test_backend(void) {
    golden_cases();
    random_mixes();
    half_precision();
}
