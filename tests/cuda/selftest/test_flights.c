/* test_flights.c - two launches in flight: the second is built before it is known who halts in
 * the first, and everything must come out as if it had been. */
#include "tests/cuda/selftest/cases.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    uint32_t left_out, empty, became_tails;
} tally;

static void count(tally *t, const drive_result *r) {
    t->left_out += r->left_out;
    t->empty += r->empty;
    t->became_tails += r->became_tails;
}

static void same_cache(const eng_backend *a, const eng_backend *b, const drive_spec *spec,
                       const char *what) {
    for (uint32_t s = 0; s < spec->n_seqs; s++) {
        size_t n, m;
        float *x = drive_latents(a, spec, s, &n), *y = drive_latents(b, spec, s, &m);
        check(n > 0 && n == m && worst(x, y, n) < 1e-3, "%s: the cache of sequence %u differs",
              what, s);
        free(x);
        free(y);
    }
}

typedef struct {
    kv_policy policy;
    uint32_t max_rows;
    bool one_by_one, against_one; /* and once more, one launch at a time */
    uint64_t seed;
} how;

/* One golden case with two launches in flight: the published logits and depths, and the latents
 * in the cache that one launch at a time leaves. */
static void golden_case_ahead(const char *name, how h, tally *t) {
    golden_case g = golden_open(name);
    err e = {0};
    model_folder *m;
    if (!check(model_open(&m, g.dir, &e) == 0, "%s: %s", g.dir, e.msg)) return;
    drive_spec spec = golden_spec(&g, model_plan_of(m), h.policy, h.max_rows, h.seed);
    spec.flights = 2;
    spec.one_by_one = h.one_by_one;
    drive_spec plain = spec;
    plain.flights = 1;
    eng_backend_opts o = drive_opts(&spec, parity.kernels, parity.cache);
    eng_backend *two = open_backend(m, &o), *one = h.against_one ? open_backend(m, &o) : NULL;
    drive_result a = {0}, b = {0};
    if (two && drive(two, &spec, &a)) {
        compare_golden(&g, &spec, &a, &parity);
        count(t, &a);
    }
    if (one && drive(one, &plain, &b)) {
        check(b.left_out == 0 && b.became_tails == 0, "one launch at a time left rows out");
        same_cache(two, one, &spec, name);
    }
    drive_result_deinit(&a);
    drive_result_deinit(&b);
    eng_backend_close(one);
    eng_backend_close(two);
    model_close(m);
    golden_close(&g);
}

/* Random mixes with two in flight against the CPU engine, one launch at a time. */
static void mixes_ahead(const char *dir, uint32_t n_seqs, uint32_t rounds, tally *t) {
    err e = {0};
    model_folder *m;
    rng r = {7};
    if (!check(model_open(&m, dir, &e) == 0, "%s: %s", dir, e.msg)) return;
    const model_plan *c = model_plan_of(m);
    for (uint32_t k = 0; k < rounds; k++) {
        drive_spec spec = random_spec(c, n_seqs, on_shim ? 25 : DRIVE_LEN, 2000 + k, &r);
        spec.flights = 2;
        spec.one_by_one = k & 2;
        eng_backend_opts o = drive_opts(&spec, "f32", DTYPE_F32),
                         q = drive_opts(&spec, NULL, DTYPE_F32);
        eng_backend *gpu = open_backend(m, &o), *cpu = NULL;
        check(eng_cpu_open(&cpu, m, &q, &e) == 0, "cpu: %s", e.msg);
        drive_result a = {0}, b = {0};
        if (gpu && cpu && drive(gpu, &spec, &a) && drive(cpu, &spec, &b)) {
            compare_near(&spec, c->vocab_size, &a, &b, dir);
            count(t, &a);
        }
        drive_result_deinit(&a);
        drive_result_deinit(&b);
        eng_backend_close(gpu);
        eng_backend_close(cpu);
    }
    model_close(m);
}

void test_flights(void) {
    tally t = {0};
    for (int i = 0; i < GOLDEN_CASES; i++) {
        uint64_t seed = i & 1 ? 31u + (uint64_t)i : 0;
        bool against = i == 0 || i == 3;
        golden_case_ahead(golden_names[i], (how){KV_EXACT, 96, false, against, seed}, &t);
        golden_case_ahead(golden_names[i], (how){KV_LAST, 60, false, against, seed}, &t);
    }
    golden_case_ahead("mla_deep", (how){KV_EXACT, 60, true, true, 5}, &t);
    golden_case_ahead("gqa", (how){KV_LAST, 23, true, false, 6}, &t);
    mixes_ahead("tests/golden/cases/mla_deep", 4, on_shim ? 4 : 20, &t);
    mixes_ahead("tests/golden/cases/gqa", 4, on_shim ? 2 : 20, &t);
    check(t.left_out > 100 && t.empty > 5 && t.became_tails > 100,
          "only %u rows were left out, %u launches emptied, %u rows made tails", t.left_out,
          t.empty, t.became_tails);
    static const poisoned_case poisoned[] = {
        {"mla", "f32", "f32-stream", DTYPE_F32, KV_EXACT, 2, false, 23},
        {"mla_no_prelude", "bf16", "bf16-stream", DTYPE_BF16, KV_LAST, 2, true, 23},
        {"mla", "bf16-expand", "bf16-expand-stream", DTYPE_BF16, KV_EXACT, 2, false, 23},
    };
    for (size_t i = 0; i < ARRAY_LEN(poisoned); i++)
        check_poisoned(&poisoned[i]);
}
