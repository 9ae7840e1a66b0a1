/* test_flights.c - two launches in flight: the second is built before the halted rows of the first
 * are known, and all results must be as if they had been. */
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

/* One golden case with two launches in flight: the published logits and depths, and the same
 * latents in the cache as with one launch at a time. */
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

/* ---- one launch behind the other ---- */

static eng_backend *open_small(model_folder **m) {
    err e = {0};
    eng_backend *b = NULL;
    eng_backend_opts o = {.max_loops = 2,
                          .n_rows = 8,
                          .max_launch = 4,
                          .max_logits = 2,
                          .cache_bytes = 1 << 20,
                          .max_positions = 64};
    if (!check(model_open(m, "tests/golden/cases/mla", &e) == 0, "model: %s", e.msg)) return NULL;
    if (check(eng__cuda_open_device(&b, *m, &o, 0, &e) == 0, "open: %s", e.msg)) return b;
    model_close(*m);
    return NULL;
}

/* Position 0 of a sequence of its own. */
static bool start_one(eng_backend *b, uint32_t which) {
    static const uint32_t blocks[3][1] = {{0}, {1}, {2}};
    err e = {0};
    eng_edit edit = {.block = which, .slot = 5 + which, .n_planes = 4};
    eng_row row = {.row = which, .token = 3 + which, .blocks = blocks[which]};
    eng_launch l = {ENG_STAGE_PRELUDE, &row, 1, &edit, 1};
    return check(b->ops->launch(b, &l, &e) == 0, "launch %u: %s", which, e.msg);
}

static uint64_t time_of_oldest(eng_backend *b) {
    err e = {0};
    eng_result r = {0};
    check(b->ops->wait(b, &r, &e) == 0, "%s", e.msg);
    return r.ns;
}

/* The shim's clock counts queued operations, and these launches queue the same number. */
static void a_launch_is_timed_alone_whatever_is_in_flight_before_it(void) {
    model_folder *m;
    eng_backend *b = open_small(&m);
    if (b == NULL) return;
    uint64_t alone, ns[3];
    if (start_one(b, 0)) alone = time_of_oldest(b);
    else alone = 0;
    bool started = start_one(b, 0) && start_one(b, 1);
    ns[0] = time_of_oldest(b);
    started = started && start_one(b, 2);
    ns[1] = time_of_oldest(b);
    ns[2] = time_of_oldest(b);
    check(started && alone > 0, "a launch takes no time");
    for (int i = 0; i < 3; i++)
        check(on_shim ? ns[i] == alone : ns[i] > 0, "launch %d took %llu ns, alone %llu", i,
              (unsigned long long)ns[i], (unsigned long long)alone);
    eng_backend_close(b);
    model_close(m);
}

/* Edits that may set one entry twice are found, with any edits between them, and only they. */
static void edits_of_one_entry_keep_their_order(void) {
    static const struct {
        bool in_order;
        uint32_t n;
        eng_edit edits[4];
    } cases[] = {
        {false, 3, {{2, 1, 0, 1, 3, 0, 0}, {2, 2, 1, 2, 3, 0, 0}, {2, 3, 0, 1, 4, 0, 0}}},
        {false, 3, {{2, 1, 0, 1, 3, 0, 0}, {3, 2, 0, 1, 3, 0, 0}, {4, 3, 0, 1, 3, 0, 0}}},
        {true, 2, {{2, 1, 0, 2, 3, 0, 0}, {2, 2, 1, 2, 3, 0, 0}}},
        {true, 3, {{2, 1, 0, 2, 3, 0, 0}, {3, 2, 0, 2, 3, 0, 0}, {2, 3, 0, 1, 3, 0, 0}}},
        {true, 3, {{2, 1, 2, 1, 3, 0, 0}, {2, 2, 0, 1, 3, 0, 0}, {2, 3, 0, 3, 3, 0, 0}}},
    };
    model_folder *m;
    eng_backend *b = open_small(&m);
    if (b == NULL) return;
    const cu_cache *c = &((cu_backend *)b)->cache;
    size_t words = (size_t)c->n_planes * ENG_BLOCK;
    uint32_t *want = malloc(5 * words * 4), *got = malloc(5 * words * 4);
    memset(want, 0xff, 5 * words * 4);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        err e = {0};
        eng_result r;
        eng_launch l = {ENG_STAGE_PRELUDE, NULL, 0, cases[i].edits, cases[i].n};
        check(eng_run(b, &l, &r, &e) == 0, "edits: %s", e.msg);
        for (uint32_t k = 0; k < cases[i].n; k++) {
            const eng_edit *d = &cases[i].edits[k];
            for (uint32_t p = d->plane; p < (uint32_t)d->plane + d->n_planes; p++)
                want[d->block * words + p * ENG_BLOCK + d->off] = d->slot;
        }
        const cu_backend *cb = (const cu_backend *)b;
        const cu_head *sent = (const cu_head *)(const void *)cb->sent[(cb->turn - 1) & 1];
        check((sent->in_order != 0) == cases[i].in_order, "edits %zu: %s in order", i,
              cases[i].in_order ? "not sent" : "sent");
        must(cudaMemcpy(got, c->maps, 5 * words * 4, cudaMemcpyDeviceToHost), "copying");
        check(memcmp(got, want, 5 * words * 4) == 0, "edits %zu are not there", i);
    }
    free(want);
    free(got);
    eng_backend_close(b);
    model_close(m);
}

void test_flights(void) {
    a_launch_is_timed_alone_whatever_is_in_flight_before_it();
    edits_of_one_entry_keep_their_order();
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
