/* test_ranks.c - one model over several ranks: the answers of one device to the bit, a part of the
 * weights on each rank, gathers staged on one device and through NCCL. Ranks are threads here, each
 * with a backend of its own. Two devices are needed to see NCCL carry anything: on one device it
 * runs with a single rank, and on the shim a stand-in for it joins devices. */
#include "engine/cuda/nccl.h"
#include "tests/cuda/selftest/ranks_run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the answers of one device ---- */

static const char *name_of(const ranks_case *row) {
    const char *slash = strrchr(row->dir, '/');
    return slash ? slash + 1 : row->dir;
}

/* Times of the shim mean nothing. */
static void tell_times(const ranks_case *row, const char *carrier, const ranks_run *one,
                       const ranks_run *many) {
    if (on_shim) return;
    printf("ranks: %s %s: %u launches, one rank %.2f ms, %u through %s %.2f ms, %llu gathers\n",
           name_of(row), row->kernels, one->results[0].launches, (double)one->ns * 1e-6, row->ranks,
           carrier, (double)many->ns * 1e-6, (unsigned long long)many->counts[0].gathers);
}

static void answers_are_equal(const ranks_case *row, bool apart) {
    err e = {0};
    model_folder *model = NULL;
    char what[160];
    (void)snprintf(what, sizeof what, "%s %s%s", row->dir, row->kernels,
                   apart ? " by NCCL" : " staged");
    if (!check(model_open(&model, row->dir, &e) == 0, "%s: %s", row->dir, e.msg)) return;
    drive_spec spec = ranks_spec(model_plan_of(model), row);
    ranks_run one = {.model = model, .spec = &spec, .kernels = row->kernels, .cache = row->cache};
    ranks_run many = one;
    many.apart = apart;
    ranks_run_one(NULL, &one);
    ranks_here(row->ranks, ranks_run_one, &many);
    ranks_same_answers(&one, &many, row->ranks, what);
    ranks_divide_weights(one.holds, many.holds, row->ranks, what);
    for (uint32_t rank = 0; rank < row->ranks; rank++) {
        check(many.holds[rank].graphs == apart, "%s: graphs with staged gathers, or none", what);
        check(many.counts[rank].gathers > 0 && many.counts[rank].bytes > 0 &&
                  many.counts[rank].gathers == many.counts[0].gathers,
              "%s: rank %u counts %llu gathers of %llu bytes", what, rank,
              (unsigned long long)many.counts[rank].gathers,
              (unsigned long long)many.counts[rank].bytes);
    }
    tell_times(row, apart ? "NCCL" : "the host", &one, &many);
    ranks_run_deinit(&one);
    ranks_run_deinit(&many);
    model_close(model);
}

static void staged(void) {
    /* A rank without hidden values or without outputs is among them: 64 channels are two units. */
    static const ranks_case rows[] = {
        {"tests/golden/cases/mla", "f32", DTYPE_F32, KV_EXACT, 2, 40, 1, true, 11},
        {"tests/golden/cases/gqa", "f32", DTYPE_F32, KV_LAST, 3, 9, 2, false, 13},
        {"tests/golden/cases/mla", "bf16-invariant", DTYPE_BF16, KV_LAST, 3, 40, 2, true, 15},
        {"tests/golden/cases/gqa", "bf16-invariant", DTYPE_BF16, KV_EXACT, 2, 70, 1, false, 17},
        {"tests/golden/cases/mla_deep", "f32", DTYPE_F32, KV_LAST, 5, 30, 1, false, 19},
        {"tests/golden/families/ouro", "f32", DTYPE_F32, KV_EXACT, 2, 30, 2, true, 21},
        {"tests/golden/families/ouro", "bf16-invariant", DTYPE_BF16, KV_EXACT, 3, 30, 1, false, 23},
        {"tests/golden/families/huginn", "f32", DTYPE_F32, KV_EXACT, 3, 30, 1, false, 25},
        {"tests/golden/families/parcae", "bf16-invariant", DTYPE_BF16, KV_EXACT, 2, 30, 1, true,
         27},
        {"tests/golden/families/nanbeige", "bf16-invariant", DTYPE_BF16, KV_EXACT, 2, 30, 1, false,
         29},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        answers_are_equal(&rows[i], false);
}

/* Through the stand-in for NCCL, inside graphs. */
static void through_nccl(void) {
#ifdef FATHOM_CUDA_SHIM
    static const ranks_case rows[] = {
        {"tests/golden/cases/mla", "f32", DTYPE_F32, KV_EXACT, 2, 20, 2, true, 31},
        {"tests/golden/cases/gqa", "bf16-invariant", DTYPE_BF16, KV_LAST, 3, 70, 1, true, 33},
        {"tests/golden/families/ouro", "f32", DTYPE_F32, KV_EXACT, 3, 9, 2, true, 35},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        answers_are_equal(&rows[i], true);
#endif
}

/* NCCL with one rank: its calls in graphs, parcels and spreading on a single device. */
static void nccl_with_itself(void) {
    static const ranks_case rows[] = {
        {"tests/golden/cases/mla", "f32", DTYPE_F32, KV_EXACT, 1, 40, 2, true, 41},
        {"tests/golden/cases/mla", "bf16-invariant", DTYPE_BF16, KV_LAST, 1, 70, 2, true, 43},
        {"tests/golden/families/ouro", "bf16-invariant", DTYPE_BF16, KV_EXACT, 1, 30, 1, true, 45},
    };
    err e = {0};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        model_folder *model = NULL;
        if (!check(model_open(&model, rows[i].dir, &e) == 0, "%s: %s", rows[i].dir, e.msg)) return;
        drive_spec spec = ranks_spec(model_plan_of(model), &rows[i]);
        ranks_run one = {
            .model = model, .spec = &spec, .kernels = rows[i].kernels, .cache = rows[i].cache};
        ranks_run self = one;
        ranks_run_one(NULL, &one);
        (void)setenv("FATHOM_CUDA_RANKS", "nccl-self", 1);
        ranks_run_one(NULL, &self);
        (void)unsetenv("FATHOM_CUDA_RANKS");
        ranks_same_answers(&one, &self, 1, rows[i].dir);
        check(self.holds[0].graphs, "%s: no graphs", rows[i].dir);
        tell_times(&rows[i], "NCCL", &one, &self);
        ranks_run_deinit(&one);
        ranks_run_deinit(&self);
        model_close(model);
    }
}

/* ---- bfloat16, where cuBLAS takes products of other shapes ---- */

static void near_the_published_answers(void) {
    static const precision half = {"bf16", DTYPE_BF16, 0.05f, false};
    ranks_published(2, &half);
}

/* ---- the order of sums ---- */

enum { WHOLE = 8192, DEPTH = 512, TOKENS = 3 };

static float *product_of(const cu_mm_args *args) {
    cu_mm_args own = *args;
    float *y = malloc((size_t)TOKENS * args->n * sizeof *y);
    own.y = dev_poison((size_t)TOKENS * args->n * sizeof *y);
    own.ldy = args->n;
    must(cu_mm(test_stream, &own, TOKENS, 8, false), "a product");
    if (y) host_bytes(y, own.y, (size_t)TOKENS * args->n * sizeof *y);
    return y;
}

/* Half of a matrix this large would be shared out among more warps than the whole: then its sums
 * would have another order. */
static void sums_have_the_order_of_the_whole_matrix(void) {
    rng rnd = {77};
    cu_row rows[TOKENS] = {{.row = 0}, {.row = 1}, {.row = 2}};
    desc_spec desc = {.rows = rows, .n_rows = TOKENS};
    float *w = random_floats(&rnd, (size_t)WHOLE * DEPTH, 1),
          *x = random_floats(&rnd, TOKENS * DEPTH, 1);
    cu_mm_args whole = {.desc = dev_desc(&desc),
                        .map = CU_MAP_ROWS,
                        .store = CU_STORE_F32,
                        .w = dev_act(w, (size_t)WHOLE * DEPTH, false),
                        .ldw = DEPTH,
                        .x = dev_act(x, TOKENS * DEPTH, false),
                        .ldx = DEPTH,
                        .n = WHOLE,
                        .k = DEPTH};
    cu_mm_args half = whole;
    half.w = (const uint16_t *)whole.w + (size_t)WHOLE / 2 * DEPTH;
    half.n = WHOLE / 2;
    float *other = product_of(&half);
    half.n_all = WHOLE;
    float *own = product_of(&half), *all = product_of(&whole);
    bool equal = true, chance = true;
    for (uint32_t i = 0; i < TOKENS && own && other && all; i++) {
        const float *want = all + (size_t)i * WHOLE + WHOLE / 2;
        equal = equal && memcmp(own + (size_t)i * half.n, want, half.n * sizeof *want) == 0;
        chance = chance && memcmp(other + (size_t)i * half.n, want, half.n * sizeof *want) == 0;
    }
    check(equal, "half of a matrix has other sums than the whole");
    check(!chance, "the order of sums does not matter here: the test shows nothing");
    free(own);
    free(other);
    free(all);
    free(w);
    free(x);
    dev_free_all();
}

/* ---- bytes on the way ---- */

static int one_row(eng_backend *eng, err *e) {
    static const uint32_t block[1] = {0};
    eng_edit edit = {.block = 0, .slot = 5, .plane = 0, .n_planes = 4, .off = 0};
    eng_row row = {.row = 1, .token = 3, .blocks = block};
    eng_launch launch = {ENG_STAGE_PRELUDE, &row, 1, &edit, 1};
    eng_result result;
    return eng_run(eng, &launch, &result, e);
}

static const eng_backend_opts small = {.max_loops = 2,
                                       .n_rows = 8,
                                       .max_launch = 4,
                                       .max_logits = 2,
                                       .cache_bytes = 1 << 20,
                                       .max_positions = 64,
                                       .kernels = "f32"};

/* A prelude of one layer: hidden values, then outputs, both as floats. */
static void counted_prelude(eng_ranks *ranks, void *arg) {
    eng_backend_opts opts = small;
    eng_backend *eng = NULL;
    err e = {0};
    opts.ranks = ranks;
    if (!check(eng__cuda_open_device(&eng, arg, &opts, 0, &e) == 0, "open: %s", e.msg)) return;
    const cu_backend *cuda = (const cu_backend *)eng;
    eng_ranks_counts before = eng_ranks_read(ranks);
    check(one_row(eng, &e) == 0, "rank %u: %s", ranks->rank, e.msg);
    eng_ranks_counts after = eng_ranks_read(ranks);
    eng_share hidden = eng__cuda_share(cuda, cuda->dense_ld, ENG_RANKS_HIDDEN),
              out = eng__cuda_share(cuda, cuda->plan.dim, ENG_RANKS_OUT);
    uint64_t others =
        cuda->dense_ld - (hidden.last - hidden.first) + cuda->plan.dim - (out.last - out.first);
    check(after.gathers - before.gathers == 2 && after.bytes - before.bytes == 4 * others,
          "rank %u: %llu gathers of %llu bytes, must be 2 of %llu", ranks->rank,
          (unsigned long long)(after.gathers - before.gathers),
          (unsigned long long)(after.bytes - before.bytes), (unsigned long long)(4 * others));
    eng_backend_close(eng);
}

/* Two ranks on one device and no size given: each takes half of what one would. */
static void shared_room(eng_ranks *ranks, void *arg) {
    eng_backend_opts opts = small;
    eng_backend *eng = NULL, *alone = NULL;
    err e = {0};
    opts.cache_bytes = 0;
    bool ok = check(eng__cuda_open_device(&alone, arg, &opts, 0, &e) == 0, "open: %s", e.msg);
    opts.ranks = ranks;
    ok = check(eng__cuda_open_device(&eng, arg, &opts, 0, &e) == 0, "open: %s", e.msg) && ok;
    if (ok)
        check(eng->info.n_slots > alone->info.n_slots / 5 * 2 &&
                  eng->info.n_slots < alone->info.n_slots / 5 * 3,
              "rank %u: %u slots, alone %u", ranks->rank, eng->info.n_slots, alone->info.n_slots);
    eng_backend_close(eng);
    eng_backend_close(alone);
}

/* ---- refusals and losses ---- */

static void a_rank_ends_early(eng_ranks *ranks, void *arg) {
    eng_backend_opts opts = small;
    eng_backend *eng = NULL;
    err first = {0}, again = {0};
    opts.ranks = ranks;
    if (!check(eng__cuda_open_device(&eng, arg, &opts, 0, &first) == 0, "open: %s", first.msg))
        return;
    if (ranks->rank == 0) {
        check(one_row(eng, &first) != 0 && first.code == ERR_DEVICE &&
                  strstr(first.msg, "rank 1 is lost"),
              "without rank 1: code %d, %s", (int)first.code, first.msg);
        check(one_row(eng, &again) != 0 && again.code == ERR_DEVICE, "the backend came back: %s",
              again.msg);
    }
    eng_backend_close(eng);
}

typedef struct {
    const char *wish;  /* FATHOM_CUDA_RANKS */
    const char *split; /* FATHOM_CUDA_RANKS_SPLIT */
    const char *other; /* kernels of rank 1 */
    uint32_t ranks;    /* 1: none */
    err_code code;
    const char *says;
    const model_folder *model;
} refused_case;

static void is_refused(eng_ranks *ranks, void *arg) {
    const refused_case *row = arg;
    eng_backend_opts opts = small;
    eng_backend *eng = NULL;
    err e = {0};
    opts.ranks = ranks;
    if (ranks && ranks->rank && row->other) opts.kernels = row->other;
    check(eng__cuda_open_device(&eng, row->model, &opts, 0, &e) != 0 && eng == NULL &&
              e.code == row->code && strstr(e.msg, row->says),
          "%s: code %d, %s", row->says, (int)e.code, e.msg);
}

static void refusals(const model_folder *model) {
    refused_case rows[] = {
        {"ncl", NULL, NULL, 1, ERR_USAGE, "FATHOM_CUDA_RANKS must be", model},
        {"ncl", NULL, NULL, 2, ERR_USAGE, "FATHOM_CUDA_RANKS must be", model},
        {"nccl-self", NULL, NULL, 2, ERR_USAGE, "FATHOM_CUDA_RANKS must be", model},
        {NULL, "sum", NULL, 1, ERR_USAGE, "FATHOM_CUDA_RANKS_SPLIT must be columns or sums", model},
        {NULL, "sum", NULL, 2, ERR_USAGE, "FATHOM_CUDA_RANKS_SPLIT must be columns or sums", model},
        {NULL, NULL, "f32-stream", 2, ERR_USAGE, "rank 1 and rank 0 differ in the kernels", model},
        {"nccl", NULL, NULL, 2, ERR_DEVICE, "NCCL does not join rank",
         model}, /* they share a device */
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        if (rows[i].code == ERR_DEVICE && !on_shim) continue; /* real ranks there are processes */
        if (rows[i].wish) (void)setenv("FATHOM_CUDA_RANKS", rows[i].wish, 1);
        if (rows[i].split) (void)setenv("FATHOM_CUDA_RANKS_SPLIT", rows[i].split, 1);
        if (rows[i].ranks > 1) ranks_here(rows[i].ranks, is_refused, &rows[i]);
        else is_refused(NULL, &rows[i]);
        (void)unsetenv("FATHOM_CUDA_RANKS");
        (void)unsetenv("FATHOM_CUDA_RANKS_SPLIT");
    }
}

static void with_a_small_model(void) {
    err e = {0};
    model_folder *model = NULL;
    if (!check(model_open(&model, "tests/golden/cases/mla", &e) == 0, "%s", e.msg)) return;
    ranks_here(2, counted_prelude, model);
    ranks_here(3, counted_prelude, model);
    if (on_shim) ranks_here(2, shared_room, model); /* all of a device may be in use by others */
    ranks_here(2, a_rank_ends_early, model);
    refusals(model);
    model_close(model);
}

void test_ranks(void) {
    cu_nccl nccl;
    sums_have_the_order_of_the_whole_matrix();
    staged();
    through_nccl();
    near_the_published_answers();
    with_a_small_model();
    if (eng__nccl_load(&nccl)) nccl_with_itself();
    else printf("ranks: skipped NCCL with one rank: libnccl.so.2 is not here\n");
}
