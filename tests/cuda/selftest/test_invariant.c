/* test_invariant.c - kernels bf16-invariant: a row's bits depend on its own history alone, whatever
 * runs beside it, however its prompt is cut, and whatever launches the engine is made for. */
#include "tests/cuda/selftest/cases.h"
#include "tests/lib/files.h"

#include <string.h>

enum { LEN = 70, BESIDE = 3 }; /* more than one tile of keys, and more rows than cuBLAS needs */

/* Ways to run the same sequence, which is the first. */
static const struct {
    const char *name;
    uint32_t n_seqs, max_rows, flights;
    uint64_t seed;
    bool one_by_one;
} ways[] = {{"whole", 1, 100, 1, 0, false},
            {"in chunks of 7", 1, 7, 1, 0, false},
            {"beside others, in random batches", BESIDE, 180, 2, 5, false},
            {"beside another, position by position", 2, 20, 1, 9, true}};

static drive_spec spec_of(size_t way, const model_plan *p) {
    static uint32_t ids[BESIDE][LEN];
    rng r = {77};
    for (uint32_t s = 0; s < BESIDE; s++) {
        for (uint32_t i = 0; i < LEN; i++)
            ids[s][i] = rng_below(&r, p->vocab_size);
    }
    return (drive_spec){.n_seqs = ways[way].n_seqs,
                        .n_loops = 3,
                        .max_rows = ways[way].max_rows,
                        .len = {LEN, 40, 9},
                        .ids = {ids[0], ids[1], ids[2]},
                        .policy = KV_EXACT,
                        .threshold = p->exit_threshold,
                        .flights = ways[way].flights,
                        .one_by_one = ways[way].one_by_one,
                        .seed = ways[way].seed};
}

/* Values of the first sequence's logits and depths that differ from the first way's. */
static uint32_t differing(const drive_result *a, const drive_result *b, uint32_t vocab) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < LEN; i++)
        n += a->depth[0][i] != b->depth[0][i];
    for (size_t i = 0; i < (size_t)LEN * vocab; i++)
        n += memcmp(&a->logits[0][i], &b->logits[0][i], sizeof(float)) != 0;
    return n;
}

static bool run_way(const model_folder *m, size_t way, const char *kernels, drive_result *r) {
    drive_spec spec = spec_of(way, model_plan_of(m));
    eng_backend_opts o = drive_opts(&spec, kernels, DTYPE_BF16);
    eng_backend *b = open_backend(m, &o);
    bool ok = b && drive(b, &spec, r);
    eng_backend_close(b);
    return ok;
}

/* In how many ways of [1, n) the bits are not those of the first; *last: the last of them. */
static uint32_t ways_that_differ(const model_folder *m, const char *kernels, const char *name,
                                 size_t n, size_t *last) {
    uint32_t vocab = model_plan_of(m)->vocab_size, found = 0;
    drive_result first = {0};
    bool ok = run_way(m, 0, kernels, &first);
    for (size_t way = 1; ok && way < n; way++) {
        drive_result r = {0};
        ok = run_way(m, way, kernels, &r);
        uint32_t differ = ok ? differing(&first, &r, vocab) : 0;
        if (differ) *last = way;
        found += differ > 0;
        drive_result_deinit(&r);
    }
    drive_result_deinit(&first);
    return check(ok, "%s, %s does not run", name, kernels) ? found : UINT32_MAX;
}

static void whatever_else_runs(const model_folder *m, const char *name) {
    size_t last = 0;
    uint32_t n = ways_that_differ(m, "bf16-invariant-stream", name, ARRAY_LEN(ways), &last);
    check(n == 0, "%s: bits follow the launch in %u ways of %zu, one is: %s", name, n,
          ARRAY_LEN(ways) - 1, ways[last].name);
    check(ways_that_differ(m, "bf16-stream", name, 2, &last) == 1,
          "%s: chunks change no bit of bf16 either, so this proves nothing", name);
}

static void golden_model(const char *name) {
    golden_case g = golden_open(name);
    err e = {0};
    model_folder *m = NULL;
    if (check(model_open(&m, g.dir, &e) == 0, "%s: %s", g.dir, e.msg)) whatever_else_runs(m, name);
    model_close(m);
    golden_close(&g);
}

/* A K/V head for every query head. */
static void ouro_tiny(void) {
    model_plan p;
    err e = {0};
    model_folder *m = NULL;
    if (!check(plan_variant(&p, "ouro_tiny", &e) == 0, "%s", e.msg)) return;
    check(p.n_heads == p.n_kv_heads, "ouro_tiny: keys are shared");
    tmp_dir dir = tmp_dir_create();
    model_init_opts o = {.seed = 9, .dtype = DTYPE_F32, .mean_depth = 2};
    if (check(model_init_write(dir.path, &p, &o, &e) == 0 && model_open(&m, dir.path, &e) == 0,
              "%s", e.msg)) {
        whatever_else_runs(m, "ouro_tiny");
    }
    model_close(m);
    tmp_dir_remove(&dir);
}

void test_invariant(void) {
    golden_model("mla");
    golden_model("gqa");
    ouro_tiny();
}
