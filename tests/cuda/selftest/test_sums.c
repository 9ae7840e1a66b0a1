/* test_sums.c - one model over several ranks, sums in rank order: near the answers of one device,
 * and the same bits on every rank, by every carrier, in graphs and without, alone and beside other
 * rows. */
#include "engine/cuda/nccl.h"
#include "runtime/rank_plan.h"
#include "tests/cuda/selftest/families.h"
#include "tests/cuda/selftest/ranks_run.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- models ---- */

/* OpenMythos with experts of five steps of hidden values, the last one part empty, and two shared
 * experts of as many groups as a token picks. */
static bool wide_experts(model_folder **model, const tmp_dir *dir) {
    model_plan plan;
    err e = {0};
    if (!check(plan_variant(&plan, "tiny", &e) == 0, "%s", e.msg)) return false;
    plan.dim = 96;
    plan.ffn_dim = plan.dim * 4 / 3;
    plan.expert_dim = 150;
    plan.n_experts = 3;
    plan.n_shared_experts = 1;
    plan.vocab_size = 64;
    plan_derive(&plan);
    return family_random(model, dir, &plan, 3);
}

/* `dir` NULL: the wide one, in *made. */
static bool model_of(model_folder **model, const char *dir, tmp_dir *made) {
    err e = {0};
    *made = dir ? (tmp_dir){{0}} : tmp_dir_create();
    return dir ? check(model_open(model, dir, &e) == 0, "%s: %s", dir, e.msg)
               : wide_experts(model, made);
}

static void model_gone(model_folder *model, const char *dir, tmp_dir *made) {
    model_close(model);
    if (dir == NULL) tmp_dir_remove(made);
}

/* ---- runs ---- */

/* The same workload, not run yet. */
static ranks_run again(const ranks_run *run) {
    return (ranks_run){
        .model = run->model, .spec = run->spec, .kernels = run->kernels, .cache = run->cache};
}

static void run_sums(ranks_run *run, uint32_t ranks, const char *split, const char *carrier) {
    (void)setenv("FATHOM_CUDA_RANKS_SPLIT", split, 1);
    if (carrier) (void)setenv("FATHOM_CUDA_RANKS", carrier, 1);
    if (ranks > 1) ranks_here(ranks, ranks_run_one, run);
    else ranks_run_one(NULL, run);
    (void)unsetenv("FATHOM_CUDA_RANKS");
    (void)unsetenv("FATHOM_CUDA_RANKS_SPLIT");
}

/* In float32 every depth is one device's, and logits are as near as another order of sums allows;
 * with bfloat16 a position may leave elsewhere or pick another expert. */
static void near_one_device(const ranks_run *one, const ranks_run *many, bool f32,
                            const char *what) {
    uint32_t depths = 0, far = 0, n = 0;
    size_t vocab = model_plan_of(one->model)->vocab_size;
    double most = 0;
    if (!one->ok[0] || !many->ok[0]) return;
    for (uint32_t seq = 0; seq < one->spec->n_seqs; seq++) {
        for (uint32_t pos = 0; pos < one->spec->len[seq]; pos++, n++) {
            size_t at = pos * vocab;
            double off =
                worst(many->results[0].logits[seq] + at, one->results[0].logits[seq] + at, vocab);
            depths += one->results[0].depth[seq][pos] != many->results[0].depth[seq][pos];
            far += !(off <= (f32 ? 1e-5 : 0.05));
            if (!(off <= most)) most = off;
        }
    }
    check(f32 ? depths + far == 0 : depths <= n / 2 && far <= n / 2,
          "%s: of %u positions %u depths and %u logits differ, by up to %.1e", what, n, depths, far,
          most);
}

static void equals_first(const ranks_run *first, const ranks_case *row, const char *kernels,
                         bool apart, const char *split, const char *what) {
    ranks_run run = again(first);
    run.kernels = kernels;
    run.apart = apart;
    run_sums(&run, row->ranks, split, NULL);
    ranks_same_answers(first, &run, row->ranks, what);
    ranks_run_deinit(&run);
}

typedef struct {
    ranks_case row;
    enum { BY_HOST, BY_NCCL, BY_ALL } carriers; /* BY_ALL: NCCL also without graphs */
} sums_case;

static void sums_are_the_same_everywhere(const sums_case *test) {
    const ranks_case *row = &test->row;
    bool f32 = strcmp(row->kernels, "f32") == 0;
    model_folder *model = NULL;
    tmp_dir made;
    char what[160];
    (void)snprintf(what, sizeof what, "%s %s by sums of %u", row->dir ? row->dir : "wide experts",
                   row->kernels, row->ranks);
    if (model_of(&model, row->dir, &made)) {
        drive_spec spec = ranks_spec(model_plan_of(model), row);
        ranks_run one = {
            .model = model, .spec = &spec, .kernels = row->kernels, .cache = row->cache};
        ranks_run many = again(&one);
        ranks_run_one(NULL, &one);
        run_sums(&many, row->ranks, "sums", NULL);
        near_one_device(&one, &many, f32, what);
        ranks_same_answers(&many, &many, row->ranks, what);
        ranks_divide_weights(one.holds, many.holds, row->ranks, what);
        if (test->carriers >= BY_NCCL && on_shim) /* NCCL needs a device for each rank */
            equals_first(&many, row, row->kernels, true, "sums-dealt", what);
        if (test->carriers == BY_ALL && on_shim) {
            equals_first(&many, row, row->kernels, true, "sums", what);
            equals_first(&many, row, "f32-stream", true, "sums", what);
        }
        ranks_run_deinit(&one);
        ranks_run_deinit(&many);
    }
    model_gone(model, row->dir, &made);
}

static void every_family(void) {
    /* The small experts of the golden cases are one step of hidden values: all but one rank have
     * none. */
    static const sums_case rows[] = {
        {{NULL, "f32", DTYPE_F32, KV_EXACT, 2, 40, 2, true, 51}, BY_HOST},
        {{NULL, "f32", DTYPE_F32, KV_LAST, 3, 10, 2, true, 53}, BY_ALL},
        {{NULL, "f32", DTYPE_F32, KV_EXACT, 5, 10, 1, false, 55}, BY_NCCL},
        {{NULL, "bf16-invariant", DTYPE_BF16, KV_EXACT, 3, 16, 1, true, 57}, BY_NCCL},
        {{NULL, "bf16", DTYPE_BF16, KV_EXACT, 2, 80, 1, false, 59}, BY_HOST},
        {{"tests/golden/cases/gqa", "f32", DTYPE_F32, KV_LAST, 2, 10, 1, true, 61}, BY_ALL},
        {{"tests/golden/families/ouro", "f32", DTYPE_F32, KV_EXACT, 2, 30, 2, true, 63}, BY_HOST},
        {{"tests/golden/families/ouro", "f32", DTYPE_F32, KV_EXACT, 3, 10, 1, true, 65}, BY_NCCL},
        {{"tests/golden/families/huginn", "f32", DTYPE_F32, KV_EXACT, 3, 30, 1, false, 67},
         BY_HOST},
        {{"tests/golden/families/parcae", "f32", DTYPE_F32, KV_EXACT, 5, 30, 1, true, 69}, BY_HOST},
        {{"tests/golden/families/parcae", "bf16", DTYPE_BF16, KV_EXACT, 3, 30, 1, true, 71},
         BY_HOST},
        {{"tests/golden/families/nanbeige", "f32", DTYPE_F32, KV_EXACT, 2, 30, 1, false, 73},
         BY_HOST},
        {{"tests/golden/families/retro_llama", "f32", DTYPE_F32, KV_EXACT, 2, 30, 1, true, 75},
         BY_HOST},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        sums_are_the_same_everywhere(&rows[i]);
}

/* ---- rows beside others ---- */

static void other_rows_change_no_bit(const ranks_case *row) {
    model_folder *model = NULL;
    tmp_dir made;
    if (model_of(&model, row->dir, &made)) {
        drive_spec spec = ranks_spec(model_plan_of(model), row), lone = spec;
        size_t vocab = model_plan_of(model)->vocab_size;
        ranks_run all = {
            .model = model, .spec = &spec, .kernels = row->kernels, .cache = row->cache};
        run_sums(&all, row->ranks, "sums", NULL);
        lone.n_seqs = 1;
        lone.max_rows = 9;
        for (uint32_t seq = 0; seq < spec.n_seqs; seq++) {
            ranks_run alone = again(&all);
            alone.spec = &lone;
            lone.len[0] = spec.len[seq];
            lone.ids[0] = spec.ids[seq];
            run_sums(&alone, row->ranks, "sums", NULL);
            size_t bytes = spec.len[seq] * vocab * sizeof(float);
            if (all.ok[0] && alone.ok[0])
                check(memcmp(all.results[0].depth[seq], alone.results[0].depth[0],
                             spec.len[seq] * sizeof(uint32_t)) == 0 &&
                          memcmp(all.results[0].logits[seq], alone.results[0].logits[0], bytes) ==
                              0,
                      "%u ranks: sequence %u alone has other bits", row->ranks, seq);
            ranks_run_deinit(&alone);
        }
        ranks_run_deinit(&all);
    }
    model_gone(model, row->dir, &made);
}

/* ---- the published answers ---- */

static void published_answers(void) {
    static const precision half = {"bf16", DTYPE_BF16, 0.05f, false};
    (void)setenv("FATHOM_CUDA_RANKS_SPLIT", "sums", 1);
    ranks_published(2, &half);
    ranks_published(2, &parity);
    (void)unsetenv("FATHOM_CUDA_RANKS_SPLIT");
}

/* ---- bytes on the way ---- */

typedef struct {
    const model_folder *model;
    bool apart;
    double bytes; /* received by all ranks in one loop */
    uint64_t exchanges;
} counted_run;

enum { COUNTED_ROWS = 2 };

/* A loop of two rows behind their prelude. */
static void count_loop(eng_ranks *ranks, void *arg) {
    static const uint32_t block[1] = {0};
    counted_run *run = arg;
    eng_backend_opts opts = {.max_loops = 2,
                             .n_rows = 8,
                             .max_launch = 4,
                             .max_logits = 2,
                             .cache_bytes = 1 << 20,
                             .max_positions = 64,
                             .kernels = "f32",
                             .ranks = ranks};
    eng_backend *eng = NULL;
    err e = {0};
    if (!check(eng__cuda_open_device(&eng, run->model, &opts, run->apart ? (int)ranks->rank : 0,
                                     &e) == 0,
               "open: %s", e.msg))
        return;
    eng_edit edits[] = {{.block = 0, .slot = 5, .plane = 0, .n_planes = 4, .off = 0},
                        {.block = 0, .slot = 9, .plane = 0, .n_planes = 4, .off = 1}};
    eng_row rows[] = {{.row = 1, .token = 3, .max_loops = 2, .blocks = block},
                      {.row = 2, .pos = 1, .token = 4, .max_loops = 2, .blocks = block}};
    eng_launch first = {ENG_STAGE_PRELUDE, rows, COUNTED_ROWS, edits, ARRAY_LEN(edits)};
    eng_launch loop = {ENG_STAGE_RECURRENT, rows, COUNTED_ROWS, NULL, 0};
    eng_result result;
    check(eng_run(eng, &first, &result, &e) == 0, "rank %u: %s", ranks->rank, e.msg);
    eng_ranks_counts before = eng_ranks_read(ranks);
    check(eng_run(eng, &loop, &result, &e) == 0, "rank %u: %s", ranks->rank, e.msg);
    eng_ranks_counts after = eng_ranks_read(ranks);
    run->bytes += (double)(after.bytes - before.bytes);
    run->exchanges = after.gathers - before.gathers;
    eng_backend_close(eng);
}

/* `fathom inspect --ranks` and the engine count alike: the plan has the mean of the ranks. */
static void bytes_are_as_planned(const model_folder *model) {
    static const struct {
        uint32_t ranks;
        bool apart, dealt;
    } rows[] = {
        {2, false, false}, {3, false, false}, {5, false, false}, {3, true, false}, {3, true, true}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        if (rows[i].apart && !on_shim) continue; /* NCCL needs a device for each rank */
        rank_device device = *rank_device_find("h200");
        if (rows[i].dealt) device.exchange_us = 0; /* then two exchanges are never slower */
        rank_plan planned;
        rank_plan_make(&planned, model_plan_of(model), &device, rows[i].ranks, 0, 4);
        rank_cost cost = rank_plan_loop(&planned, RANK_ORDERED_SUM, COUNTED_ROWS);
        counted_run run = {.model = model, .apart = rows[i].apart};
        (void)setenv("FATHOM_CUDA_RANKS_SPLIT", rows[i].dealt ? "sums-dealt" : "sums", 1);
        ranks_here(rows[i].ranks, count_loop, &run);
        (void)unsetenv("FATHOM_CUDA_RANKS_SPLIT");
        check(run.exchanges == cost.exchanges &&
                  fabs(run.bytes - cost.received * rows[i].ranks) < 0.5,
              "row %zu: %llu exchanges of %.0f bytes, planned are %u of %.0f", i,
              (unsigned long long)run.exchanges, run.bytes, cost.exchanges,
              cost.received * rows[i].ranks);
    }
}

/* ---- NCCL with one rank ---- */

/* Its calls in graphs on a single device: sums of one rank, gathered and dealt. */
static void one_rank_with_itself(void) {
    static const ranks_case row = {NULL, "bf16-invariant", DTYPE_BF16, KV_EXACT, 1, 20, 2, true,
                                   81};
    model_folder *model = NULL;
    tmp_dir made;
    if (model_of(&model, row.dir, &made)) {
        drive_spec spec = ranks_spec(model_plan_of(model), &row);
        ranks_run one = {.model = model, .spec = &spec, .kernels = row.kernels, .cache = row.cache};
        ranks_run self = again(&one), dealt = again(&one);
        ranks_run_one(NULL, &one);
        run_sums(&self, 1, "sums", "nccl-self");
        run_sums(&dealt, 1, "sums-dealt", "nccl-self");
        near_one_device(&one, &self, false, "one rank by sums");
        ranks_same_answers(&self, &dealt, 1, "one rank by sums");
        ranks_run_deinit(&one);
        ranks_run_deinit(&self);
        ranks_run_deinit(&dealt);
    }
    model_gone(model, row.dir, &made);
}

void test_sums(void) {
    static const ranks_case beside[] = {
        {NULL, "bf16-invariant", DTYPE_BF16, KV_EXACT, 2, 40, 2, true, 91},
        {"tests/golden/families/ouro", "bf16-invariant", DTYPE_BF16, KV_EXACT, 2, 40, 1, true, 93},
    };
    cu_nccl nccl;
    model_folder *model = NULL;
    tmp_dir made;
    every_family();
    for (size_t i = 0; i < ARRAY_LEN(beside); i++)
        other_rows_change_no_bit(&beside[i]);
    published_answers();
    if (model_of(&model, NULL, &made)) bytes_are_as_planned(model);
    model_gone(model, NULL, &made);
    if (eng__nccl_load(&nccl)) one_rank_with_itself();
    else printf("sums: skipped NCCL with one rank: libnccl.so.2 is not here\n");
}
