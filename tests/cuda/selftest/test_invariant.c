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
} batch_way;

/* The others are compared with the first. From 64 rows on bf16 uses cuBLAS. */
static const batch_way ways[] = {
    {"alone, the whole prompt", 80, 1, false, false, false, 0},
    {"alone, chunks of 5", 5, 1, false, false, false, 0},
    {"alone, one position after the other", 3, 1, false, true, true, 0},
    {"in company, random batches", 23, 1, true, false, false, 31},
    {"in company, large batches, two in flight", 150, 2, true, false, false, 0},
};

static drive_spec spec_of(const model_plan *plan, const batch_way *way, kv_policy policy) {
    static uint32_t ids[4][LEN];
    drive_spec spec = {.n_seqs = way->company ? 4 : 1,
                       .n_loops = plan->loops_default < 4 ? plan->loops_default : 4,
                       .max_rows = way->max_rows,
                       .len = {LEN, 38, 9, 66},
                       .ids = {ids[0], ids[1], ids[2], ids[3]},
                       .policy = policy,
                       .threshold = plan->exit_threshold,
                       .flights = way->flights,
                       .one_by_one = way->one_by_one,
                       .seed = way->seed};
    rng rnd = {91};
    for (uint32_t seq = 0; seq < 4; seq++) {
        for (uint32_t i = 0; i < LEN; i++)
            ids[seq][i] = rng_below(&rnd, plan->vocab_size);
    }
    return spec;
}

static bool answer(const model_folder *model, const batch_way *way, kv_policy policy,
                   const char *kernels, drive_result *result) {
    drive_spec spec = spec_of(model_plan_of(model), way, policy);
    eng_backend_opts opts = drive_opts(&spec, kernels, DTYPE_BF16);
    eng_backend *eng = open_backend(model, &opts);
    bool ok = eng && drive(eng, &spec, result);
    eng_backend_close(eng);
    return ok;
}

static bool same_bits(const drive_result *one, const drive_result *two, uint32_t vocab) {
    return memcmp(one->depth[0], two->depth[0], LEN * sizeof one->depth[0][0]) == 0 &&
           memcmp(one->logits[0], two->logits[0], (size_t)LEN * vocab * sizeof(float)) == 0;
}

/* How many ways give other bits than the first. */
static uint32_t others(const model_folder *model, kv_policy policy, bool invariant,
                       const char *name) {
    drive_result first = {0};
    uint32_t differ = 0;
    for (size_t i = 0; i < ARRAY_LEN(ways); i++) {
        const char *kernels = invariant ? "bf16-invariant-stream" : "bf16-stream";
        drive_result result = {0};
        if (invariant && ways[i].graphs) kernels = "bf16-invariant";
        if (answer(model, &ways[i], policy, kernels, &result)) {
            bool same = i == 0 || same_bits(&first, &result, model_plan_of(model)->vocab_size);
            if (invariant) check(same, "%s, %s: other bits", name, ways[i].what);
            differ += !same;
        }
        if (i == 0) first = result;
        else drive_result_deinit(&result);
    }
    drive_result_deinit(&first);
    return differ;
}

static void holds(const model_folder *model, kv_policy policy, const char *name) {
    (void)others(model, policy, true, name);
    /* Were it so by chance, the kernels without this promise would give the same bits as well. */
    uint32_t differ = others(model, policy, false, name);
    check(differ > 0, "%s: bf16 has the same bits in every way", name);
}

static void folder(const char *dir, kv_policy policy) {
    err e = {0};
    model_folder *model = NULL;
    if (!check(model_open(&model, dir, &e) == 0, "%s: %s", dir, e.msg)) return;
    holds(model, policy, dir);
    model_close(model);
}

/* Heads of 64 values with keys of their own: bf16 has a kernel for decode alone. */
static void a_head_each(void) {
    model_plan plan;
    err e = {0};
    model_folder *model = NULL;
    if (!check(plan_variant(&plan, "ouro_tiny", &e) == 0, "%s", e.msg)) return;
    plan.n_core = 2;
    plan.n_heads = plan.n_kv_heads = 2;
    plan.head_dim = 64;
    plan_derive(&plan);
    tmp_dir dir = tmp_dir_create();
    if (family_random(&model, &dir, &plan, 2)) holds(model, KV_EXACT, "a head each");
    model_close(model);
    tmp_dir_remove(&dir);
}

void test_invariant(void) {
    folder("tests/golden/cases/mla", KV_EXACT);
    folder("tests/golden/cases/gqa", KV_LAST);
    a_head_each();
}
