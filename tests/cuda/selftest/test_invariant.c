/* test_invariant.c - kernels bf16-invariant: a sequence's logits and depths are the same to the bit
 * alone and in company, in any capacity, chunks and order, as a prompt and position by position. */
#include "tests/cuda/selftest/families.h"
#include "tests/lib/files.h"

#include <stdlib.h>
#include <string.h>

enum { LEN = 75 }; /* two key tiles, so two parts of the context */

typedef struct {
    const char *what;
    uint32_t max_rows, flights;
    bool company, one_by_one, graphs;
    uint64_t seed;
} way;

/* The others are compared with the first. From 64 rows on bf16 uses cuBLAS. */
static const way ways[] = {
    {"alone, the whole prompt", 80, 1, false, false, false, 0},
    {"alone, chunks of 5", 5, 1, false, false, false, 0},
    {"alone, one position after the other", 3, 1, false, true, true, 0},
    {"in company, random batches", 23, 1, true, false, false, 31},
    {"in company, large batches, two in flight", 150, 2, true, false, false, 0},
};

static drive_spec spec_of(const model_plan *p, const way *w, kv_policy policy) {
    static uint32_t ids[4][LEN];
    drive_spec spec = {.n_seqs = w->company ? 4 : 1,
                       .n_loops = p->loops_default < 4 ? p->loops_default : 4,
                       .max_rows = w->max_rows,
                       .len = {LEN, 38, 9, 66},
                       .ids = {ids[0], ids[1], ids[2], ids[3]},
                       .policy = policy,
                       .threshold = p->exit_threshold,
                       .flights = w->flights,
                       .one_by_one = w->one_by_one,
                       .seed = w->seed};
    rng r = {91};
    for (uint32_t s = 0; s < 4; s++) {
        for (uint32_t i = 0; i < LEN; i++)
            ids[s][i] = rng_below(&r, p->vocab_size);
    }
    return spec;
}

static bool answer(const model_folder *m, const way *w, kv_policy policy, const char *kernels,
                   drive_result *r) {
    drive_spec spec = spec_of(model_plan_of(m), w, policy);
    eng_backend_opts o = drive_opts(&spec, kernels, DTYPE_BF16);
    eng_backend *b = open_backend(m, &o);
    bool ok = b && drive(b, &spec, r);
    eng_backend_close(b);
    return ok;
}

static bool same_bits(const drive_result *a, const drive_result *b, uint32_t vocab) {
    return memcmp(a->depth[0], b->depth[0], LEN * sizeof a->depth[0][0]) == 0 &&
           memcmp(a->logits[0], b->logits[0], (size_t)LEN * vocab * sizeof(float)) == 0;
}

/* How many ways give other bits than the first. */
static uint32_t others(const model_folder *m, kv_policy policy, bool invariant, const char *name) {
    drive_result first = {0};
    uint32_t differ = 0;
    for (size_t i = 0; i < ARRAY_LEN(ways); i++) {
        const char *kernels = invariant ? "bf16-invariant-stream" : "bf16-stream";
        drive_result r = {0};
        if (invariant && ways[i].graphs) kernels = "bf16-invariant";
        if (answer(m, &ways[i], policy, kernels, &r)) {
            bool same = i == 0 || same_bits(&first, &r, model_plan_of(m)->vocab_size);
            if (invariant) check(same, "%s, %s: other bits", name, ways[i].what);
            differ += !same;
        }
        if (i == 0) first = r;
        else drive_result_deinit(&r);
    }
    drive_result_deinit(&first);
    return differ;
}

static void holds(const model_folder *m, kv_policy policy, const char *name) {
    (void)others(m, policy, true, name);
    /* Were it so by chance, the kernels without this promise would give the same bits as well. */
    uint32_t differ = others(m, policy, false, name);
    check(differ > 0, "%s: bf16 has the same bits in every way", name);
}

static void folder(const char *dir, kv_policy policy) {
    err e = {0};
    model_folder *m = NULL;
    if (!check(model_open(&m, dir, &e) == 0, "%s: %s", dir, e.msg)) return;
    holds(m, policy, dir);
    model_close(m);
}

/* Heads of 64 values with keys of their own: bf16 has a kernel for decode alone. */
static void a_head_each(void) {
    model_plan p;
    err e = {0};
    model_folder *m = NULL;
    if (!check(plan_variant(&p, "ouro_tiny", &e) == 0, "%s", e.msg)) return;
    p.n_core = 2;
    p.n_heads = p.n_kv_heads = 2;
    p.head_dim = 64;
    plan_derive(&p);
    tmp_dir dir = tmp_dir_create();
    if (family_random(&m, &dir, &p, 2)) holds(m, KV_EXACT, "a head each");
    model_close(m);
    tmp_dir_remove(&dir);
}

void test_invariant(void) {
    folder("tests/golden/cases/mla", KV_EXACT);
    folder("tests/golden/cases/gqa", KV_LAST);
    a_head_each();
}
