/* test_mm.c - the products against plain sums in double: every map and store, ragged rows, k beyond
 * one pass of shared memory, experts without rows, no active row. */
#include "tests/cuda/selftest/selftest.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    uint32_t rows, n_out, n_in;
    cu_mm_map map;
    cu_mm_store store;
    uint32_t groups; /* HEADS */
} mm_shape;

static double silu(double x) {
    return x / (1 + exp(-x));
}

/* Row of weights with output i's gate (side 0) or up (side 1). */
static uint32_t silu_row(uint32_t i, uint32_t side) {
    return i / 8 * 16 + i % 8 + 8 * side;
}

static double dot(const float *one, const float *two, uint32_t n) {
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += (double)one[i] * (double)two[i];
    return sum;
}

static double twin(const mm_shape *shape, const float *weights, const float *x, uint32_t i) {
    double plain = dot(weights + (size_t)i * shape->n_in, x, shape->n_in);
    if (shape->store == CU_STORE_RELU2) return plain > 0 ? plain * plain / 2 : 0;
    if (shape->store != CU_STORE_SILU) return plain;
    return silu(dot(weights + (size_t)silu_row(i, 0) * shape->n_in, x, shape->n_in)) *
           dot(weights + (size_t)silu_row(i, 1) * shape->n_in, x, shape->n_in);
}

/* Every required value of y is near its twin; nothing else of y was written. */
static void verify(const mm_shape *shape, const float *weights, const float *x, const float *y,
                   uint32_t ldx, uint32_t ldy, size_t cap, bool f32, const char *what) {
    uint32_t outs = shape->store == CU_STORE_SILU ? shape->n_out / 2 : shape->n_out,
             n_pad = cu_round(shape->n_out, CU_MM_ROWS);
    double bad = 0, top = 1e-3;
    bool touched = false;
    for (size_t row = 0; row < cap; row++) {
        for (uint32_t group = 0; group < shape->groups; group++) {
            for (uint32_t i = 0; i < outs; i++) {
                float got = y[row * ldy + group * outs + i];
                if (row >= shape->rows) {
                    touched |= !isnan(got);
                    continue;
                }
                double want = twin(shape, weights + (size_t)group * n_pad * shape->n_in,
                                   x + row * ldx + group * shape->n_in, i);
                double off = fabs(want - (double)got);
                if (!(off <= bad)) bad = off;
                if (fabs(want) > top) top = fabs(want);
            }
        }
        for (uint32_t i = shape->groups * outs; i < ldy; i++)
            touched |= !isnan(y[row * ldy + i]);
    }
    double limit = shape->store != CU_STORE_F32 && !f32 ? 8e-3 : 2e-5;
    check(bad / top <= limit, "mm %s %s: rows %u n %u k %u: error %g", what, f32 ? "f32" : "bf16",
          shape->rows, shape->n_out, shape->n_in, bad / top);
    check(!touched, "mm %s: rows %u n %u: wrote where nothing belongs", what, shape->rows,
          shape->n_out);
}

static void run_shape(const mm_shape *shape, bool f32, rng *rnd, const char *what) {
    uint32_t ldx = shape->groups * shape->n_in + 32, ldy = shape->groups * shape->n_out + 5,
             cap = shape->rows + 3;
    uint32_t n_pad = cu_round(shape->n_out, CU_MM_ROWS);
    bool y_f32 = f32 || shape->store == CU_STORE_F32;
    float *weights = random_floats(rnd, (size_t)shape->groups * n_pad * shape->n_in, 1.0f);
    float *x = random_floats(rnd, (size_t)cap * ldx, 1.0f),
          *y = calloc((size_t)cap * ldy, sizeof *y);
    desc_spec spec = {.n_rows = shape->map == CU_MAP_LOGITS ? 0 : shape->rows,
                      .n_logits = shape->map == CU_MAP_LOGITS ? shape->rows : 0};
    cu_row *rows = calloc(shape->rows + 1, sizeof *rows);
    spec.rows = rows;
    cu_mm_args args = {.desc = dev_desc(&spec),
                       .map = shape->map,
                       .store = shape->store,
                       .w = dev_act(weights, (size_t)shape->groups * n_pad * shape->n_in, f32),
                       .w_group = (uint64_t)n_pad * shape->n_in,
                       .ldw = shape->n_in,
                       .x = dev_act(x, (size_t)cap * ldx, f32),
                       .ldx = ldx,
                       .x_group = shape->n_in,
                       .ldy = ldy,
                       .y_group = shape->store == CU_STORE_SILU ? shape->n_out / 2 : shape->n_out,
                       .n = shape->n_out,
                       .k = shape->n_in,
                       .groups = shape->groups};
    float *first = NULL;
    for (unsigned order = 0; order < (on_shim && shape->rows < 70 ? 3u : 1u); order++) {
#ifdef FATHOM_CUDA_SHIM
        shim_set_order(order == 2 ? 99 : order);
#endif
        args.y = dev_act(NULL, (size_t)cap * ldy, y_f32);
        must(cu_mm(test_stream, &args, cap, 5, f32), "mm");
        host_act(y, args.y, (size_t)cap * ldy, y_f32);
        if (first == NULL) {
            verify(shape, weights, x, y, ldx, ldy, cap, f32, what);
            first = malloc((size_t)cap * ldy * 4);
            memcpy(first, y, (size_t)cap * ldy * 4);
        }
        check(memcmp(first, y, (size_t)cap * ldy * 4) == 0, "mm %s: the order of threads matters",
              what);
    }
#ifdef FATHOM_CUDA_SHIM
    shim_set_order(0);
#endif
    free(first);
    free(weights);
    free(x);
    free(y);
    free(rows);
    dev_free_all();
}

static void dense(rng *rnd) {
    static const uint32_t rows[] = {0, 1, 7, 8, 9, 16, 17, 32, 33, 63, 64, 65, 128, 513};
    static const uint32_t nk[][2] = {{16, 32}, {24, 96}, {130, 64}, {88, 2144}, {400, 512}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        for (size_t j = 0; j < ARRAY_LEN(nk); j++) {
            if (rows[i] > 70 && j != 1) continue;
            mm_shape shape = {rows[i], nk[j][0], nk[j][1], CU_MAP_ROWS, CU_STORE_F32, 1};
            run_shape(&shape, false, rnd, "dense");
            if (j < 3) run_shape(&shape, true, rnd, "dense");
        }
        mm_shape logits = {rows[i], 40, 64, CU_MAP_LOGITS, CU_STORE_F32, 1};
        mm_shape gate = {rows[i], 96, 64, CU_MAP_ROWS, CU_STORE_SILU, 1};
        mm_shape up = {rows[i], 88, 96, CU_MAP_ROWS, CU_STORE_RELU2, 1};
        mm_shape heads = {rows[i], 24, 96, CU_MAP_HEADS, CU_STORE_ACT, 5};
        if (rows[i] > 70) continue;
        for (int f32 = 0; f32 < 2; f32++) {
            run_shape(&logits, f32, rnd, "logits");
            run_shape(&gate, f32, rnd, "silu");
            run_shape(&up, f32, rnd, "relu2");
            run_shape(&heads, f32, rnd, "heads");
        }
    }
}

/* A row's bits do not depend on the rows beside it. */
static void rows_do_not_see_each_other(rng *rnd) {
    enum { N = 48, K = 2080, MANY = 63 };
    static cu_row rows[MANY];
    float *weights = random_floats(rnd, N * K, 1.0f), *x = random_floats(rnd, MANY * K, 1.0f);
    float many[MANY * N], one[N];
    desc_spec spec = {.rows = rows, .n_rows = MANY};
    cu_mm_args args = {.desc = dev_desc(&spec),
                       .map = CU_MAP_ROWS,
                       .store = CU_STORE_F32,
                       .w = dev_act(weights, N * K, false),
                       .ldw = K,
                       .x = dev_act(x, MANY * K, false),
                       .ldx = K,
                       .y = dev_poison(MANY * N * 4),
                       .ldy = N,
                       .n = N,
                       .k = K};
    must(cu_mm(test_stream, &args, MANY, 64, false), "mm");
    host_act(many, args.y, MANY * N, true);
    spec.n_rows = 1;
    args.desc = dev_desc(&spec);
    for (uint32_t i = 0; i < MANY; i += 9) {
        cu_mm_args alone = args;
        alone.x = (const uint16_t *)args.x + (size_t)i * K;
        must(cu_mm(test_stream, &alone, 1, 64, false), "mm");
        host_act(one, alone.y, N, true);
        check(memcmp(one, many + i * N, sizeof one) == 0, "row %u alone differs from row %u of 63",
              i, i);
    }
    free(weights);
    free(x);
    dev_free_all();
}

/* One output as the tensor cores' emulation computes it, step by step: the warps sharing the k of
 * 16 weight rows take steps of 32 in turn and are summed in order. Within a step the first
 * instruction takes values 0 to 3 of each 8, the second 4 to 7. */
static float in_order(const float *weights, const float *x, uint32_t k, uint32_t slices) {
    float sum = 0;
    for (uint32_t slice = 0; slice < slices; slice++) {
        float part = 0;
        for (uint32_t step = slice; step < k / CU_K_STEP; step += slices) {
            for (uint32_t half = 0; half < 2; half++) {
                for (uint32_t i = 0; i < 16; i++) {
                    uint32_t at = step * CU_K_STEP + i % 8 / 2 * 8 + half * 4 + i / 8 * 2 + i % 2;
                    part += weights[at] * x[at];
                }
            }
        }
        sum = slice ? sum + part : part;
    }
    return sum;
}

/* As many warps share 16 weight rows as the matrix alone says. */
static uint32_t slices_of(uint32_t n, uint32_t k) {
    uint32_t slices = 1;
    while (slices < 8 && (n + 15) / 16 * slices < 2048 && k / (64 * slices) >= 2)
        slices *= 2;
    return slices;
}

static void check_order(uint32_t n, uint32_t k, uint32_t n_rows, rng *rnd) {
    uint32_t slices = slices_of(n, k), n_pad = cu_round(n, CU_MM_ROWS), wrong = 0;
    float *weights = random_floats(rnd, (size_t)n_pad * k, 1.0f);
    float *x = random_floats(rnd, (size_t)n_rows * k, 1.0f), *y = calloc((size_t)n_rows * n, 4);
    cu_row *rows = calloc(n_rows, sizeof *rows);
    desc_spec spec = {.rows = rows, .n_rows = n_rows};
    cu_mm_args args = {.desc = dev_desc(&spec),
                       .map = CU_MAP_ROWS,
                       .store = CU_STORE_F32,
                       .w = dev_act(weights, (size_t)n_pad * k, false),
                       .ldw = k,
                       .x = dev_act(x, (size_t)n_rows * k, false),
                       .ldx = k,
                       .y = dev_poison((size_t)n_rows * n * 4),
                       .ldy = n,
                       .n = n,
                       .k = k};
    must(cu_mm(test_stream, &args, n_rows, 3, false), "mm");
    host_act(y, args.y, (size_t)n_rows * n, true);
    uint32_t few = n < 48 ? n : 48; /* of the first and of the last rows */
    for (uint32_t i = 0; i < n_rows; i++) {
        for (uint32_t j = 0; j < 2 * few; j++) {
            uint32_t out = j < few ? j : n - 1 - (j - few);
            float want = in_order(weights + (size_t)out * k, x + (size_t)i * k, k, slices);
            wrong += memcmp(&want, &y[(size_t)i * n + out], 4) != 0;
        }
    }
    check(wrong == 0, "mm n %u k %u, %u rows, %u slices: %u sums are in another order", n, k,
          n_rows, slices, wrong);
    free(weights);
    free(x);
    free(y);
    free(rows);
    dev_free_all();
}

/* Bit for bit, on the shim only: a device's rounding within an instruction is not documented. */
static void sums_are_made_in_one_order(rng *rnd) {
    static const struct {
        uint32_t n_out, n_in;
    } nk[] = {{40, 64}, {32, 96}, {40, 128}, {24, 416}, {40, 1056}, {16, 2240}, {33000, 160}};
    static const uint32_t n_rows[] = {1, 8, 13, 29, 50};
    for (size_t i = 0; i < ARRAY_LEN(nk); i++) {
        for (size_t j = 0; j < ARRAY_LEN(n_rows); j++)
            if (nk[i].n_out < 1000 || j == 0) check_order(nk[i].n_out, nk[i].n_in, n_rows[j], rnd);
    }
}

static void only_products_in_use_are_served(void) {
    static cu_row rows[1];
    desc_spec spec = {.rows = rows, .n_rows = 1};
    cu_mm_args args = {
        .desc = dev_desc(&spec), .map = CU_MAP_HEADS, .store = CU_STORE_SILU, .groups = 1};
    check(cu_mm(test_stream, &args, 1, 1, false) == cudaErrorInvalidValue,
          "mm takes a product not in use");
    args.map = CU_MAP_ROWS;
    args.store = CU_STORE_QUERY;
    check(cu_mm(test_stream, &args, 1, 1, true) == cudaErrorInvalidValue,
          "mm takes queries in float32");
    dev_free_all();
}

/* ---- the query split by the product of q_up itself ---- */

typedef struct {
    uint32_t heads, nope, nope_ld, rope, kv_lora, o_values, o_ld, n_in, n_rows;
} query_shape;

/* q_nope, q and o of a launch one after the other; first NaN patterns. */
static float *query_of(const query_shape *shape, bool fused, const cu_row *rows, void *weights,
                       void *input, float *rope, size_t *n_values) {
    uint32_t n = shape->heads * (shape->nope + shape->rope), cap = shape->n_rows + 2;
    size_t nope = (size_t)cap * shape->heads * shape->nope_ld,
           n_query = (size_t)cap * shape->heads * (shape->kv_lora + shape->rope),
           n_o = (size_t)cap * shape->o_ld;
    desc_spec spec = {.rows = rows, .n_rows = shape->n_rows};
    cu_query_args to = {.desc = dev_desc(&spec),
                        .n_heads = shape->heads,
                        .nope = shape->nope,
                        .nope_ld = shape->nope_ld,
                        .rope_dim = shape->rope,
                        .kv_lora = shape->kv_lora,
                        .in = dev_poison((size_t)cap * n * 4),
                        .ld_in = n,
                        .rope = rope,
                        .q_nope = dev_act(NULL, nope, false),
                        .q = dev_act(NULL, n_query, false),
                        .o = dev_act(NULL, n_o, false),
                        .o_values = shape->o_values,
                        .o_ld = shape->o_ld};
    cu_mm_args args = {.desc = to.desc,
                       .map = CU_MAP_ROWS,
                       .store = fused ? CU_STORE_QUERY : CU_STORE_F32,
                       .w = weights,
                       .ldw = shape->n_in,
                       .x = input,
                       .ldx = shape->n_in,
                       .y = fused ? NULL : (void *)(uintptr_t)to.in,
                       .ldy = n,
                       .n = n,
                       .k = shape->n_in,
                       .query = to};
    must(cu_mm(test_stream, &args, cap, 5, false), "q_up");
    if (!fused) must(cu_mla_query(test_stream, &to, cap, false), "mla query");
    float *out = malloc((nope + n_query + n_o) * sizeof *out);
    host_act(out, to.q_nope, nope, false);
    host_act(out + nope, to.q, n_query, false);
    host_act(out + nope + n_query, to.o, n_o, false);
    *n_values = nope + n_query + n_o;
    return out;
}

static void queries_are_those_of_two_kernels(rng *rnd) {
    static const query_shape shapes[] = {
        {3, 20, 32, 6, 16, 10, 32, 64, 4},      {1, 2, 32, 2, 8, 2, 32, 32, 1},
        {16, 64, 64, 32, 256, 64, 64, 512, 11}, {5, 6, 32, 10, 40, 33, 64, 96, 63},
        {4, 32, 32, 16, 24, 32, 32, 160, 27},
    };
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
        const query_shape *shape = &shapes[i];
        uint32_t n_pad = cu_round(shape->heads * (shape->nope + shape->rope), CU_MM_ROWS);
        cu_row *rows = calloc(shape->n_rows, sizeof *rows);
        for (uint32_t k = 0; k < shape->n_rows; k++)
            rows[k].pos = k * 5 % 17;
        float *weights = random_floats(rnd, (size_t)n_pad * shape->n_in, 1.0f),
              *x = random_floats(rnd, (size_t)(shape->n_rows + 2) * shape->n_in, 1.0f),
              *rope = random_floats(rnd, (size_t)17 * shape->rope, 1.0f);
        void *dw = dev_act(weights, (size_t)n_pad * shape->n_in, false),
             *dx = dev_act(x, (size_t)(shape->n_rows + 2) * shape->n_in, false);
        float *turn = dev_floats(rope, (size_t)17 * shape->rope);
        size_t n = 0;
        float *two = query_of(shape, false, rows, dw, dx, turn, &n),
              *one = query_of(shape, true, rows, dw, dx, turn, &n);
        check(memcmp(one, two, n * sizeof *one) == 0,
              "queries of %u heads, %u rows: the fused kernel's differ", shape->heads,
              shape->n_rows);
        free(rows);
        free(weights);
        free(x);
        free(rope);
        free(one);
        free(two);
        dev_free_all();
    }
}

/* ---- hints to the second-level cache ---- */

static void shares_of_the_cache_fit_it(void) {
    check(eng__cuda_keep_rows(4096, 20000000, 200000000) == 400, "rows kept of 4096 at a tenth");
    check(eng__cuda_keep_rows(4096, 5, 5) == 4096 && eng__cuda_keep_rows(40, 9, 5) == 32,
          "rows kept where all fits");
    check(eng__cuda_keep_rows(4096, 0, 5) == 0 && eng__cuda_keep_rows(4096, 0, 0) == 4096,
          "rows kept where nothing fits or is there");
    check(eng__cuda_keep_rows(UINT32_MAX, UINT64_MAX / 2, UINT64_MAX) % CU_MM_ROWS == 0,
          "rows kept of the largest matrix");
}

/* Shapes of mythos_1b: a share of each matrix of the core, together within 0.4 of the cache. */
static void every_matrix_of_the_core_keeps_its_share(void) {
    enum { L2 = 50 << 20, HEADS = 16, GROUPS = 8 };
    int there = 0;
    cu_layer core = {.in = {&there, 800, 2048, 2048, 0, 0},
                     .q_up = {&there, 1536, 512, 512, 0, 0},
                     .uk = {&there, 256, 64, 64, 0, 0},
                     .uv = {&there, 64, 256, 256, 0, 0},
                     .wo = {&there, 2048, 1024, 1024, 0, 0},
                     .gate_up = {&there, 4096, 2048, 2048, 0, 0},
                     .shared_gate_up = {&there, 4096, 2048, 2048, 0, 0},
                     .shared_down = {&there, 2048, GROUPS * 2048, GROUPS * 2048, 0, 0}};
    cu_backend cuda = {.core = &core, .groups_shared = GROUPS};
    cuda.plan.n_core = 1;
    cuda.plan.n_heads = HEADS;
    cuda.plan.core_ffn = FFN_MOE;
    if (getenv("FATHOM_CUDA_L2")) return; /* the user set this on purpose */
    eng__cuda_plan_l2(&cuda, L2);
    size_t kept = ((size_t)core.in.keep * 2048 + core.q_up.keep * 512 + core.uk.keep * 64 * HEADS +
                   core.uv.keep * 256 * HEADS + core.wo.keep * 1024 +
                   (size_t)core.shared_gate_up.keep * 2048 * GROUPS +
                   (size_t)core.shared_down.keep * 2048 * GROUPS) *
                  2;
    check(kept <= L2 / 10 * 4 && kept >= L2 / 10 * 3, "%zu bytes of %d are to be kept", kept, L2);
    check(core.in.keep && core.q_up.keep && core.wo.keep && core.shared_gate_up.keep &&
              core.shared_down.keep && core.gate_up.keep == 0 && cuda.pass_experts,
          "a matrix without a share, or a routed expert with one");
    core.in.keep = core.gate_up.keep = 0;
    cuda.plan.core_ffn = FFN_SWIGLU;
    eng__cuda_plan_l2(&cuda, L2);
    check(core.in.keep && core.gate_up.keep, "a dense core keeps no feed-forward");
    cu_backend exact = cuda;
    core.in.keep = 0;
    exact.f32 = true;
    eng__cuda_plan_l2(&exact, L2);
    check(core.in.keep == 0, "parity mode keeps what its kernels never ask for");
}

static void hints_can_be_turned_off(void) {
    int there = 0;
    cu_layer core = {.in = {&there, 800, 2048, 2048, 0, 0}};
    cu_backend cuda = {.core = &core};
    cuda.plan.n_core = 1;
    const char *old = getenv("FATHOM_CUDA_L2");
    char *was = old ? strdup(old) : NULL;
    setenv("FATHOM_CUDA_L2", "0", 1);
    eng__cuda_plan_l2(&cuda, 50 << 20);
    check(core.in.keep == 0 && !cuda.pass_experts, "FATHOM_CUDA_L2=0 leaves hints on");
    if (was) setenv("FATHOM_CUDA_L2", was, 1);
    else unsetenv("FATHOM_CUDA_L2");
    free(was);
}

static void silu_of_a_dense_product(rng *rnd) {
    enum { ROWS = 9, N = 40 };
    static cu_row rows[ROWS];
    float *x = random_floats(rnd, (ROWS + 1) * 2 * N, 3.0f), y[(ROWS + 1) * N];
    desc_spec spec = {.rows = rows, .n_rows = ROWS};
    void *dx = dev_act(x, (ROWS + 1) * 2 * N, false), *dy = dev_act(NULL, (ROWS + 1) * N, false);
    must(cu_silu(test_stream, dev_desc(&spec), dx, dy, N, ROWS + 1, NULL), "silu");
    host_act(y, dy, (ROWS + 1) * N, false);
    double bad = 0;
    for (uint32_t i = 0; i < ROWS * N; i++) {
        const float *row = x + (size_t)(i / N) * 2 * N;
        double want = silu((double)row[silu_row(i % N, 0)]) * (double)row[silu_row(i % N, 1)];
        bad = fmax(bad, fabs(want - (double)y[i]) / (fabs(want) + 1));
    }
    check(bad < 5e-3 && isnan(y[ROWS * N]), "silu of rows: error %g", bad);
    free(x);
    dev_free_all();
}

static void relu2_of_a_dense_product(rng *rnd) {
    enum { ROWS = 9, N = 72 };
    static cu_row rows[ROWS];
    float *x = random_floats(rnd, (ROWS + 1) * N, 3.0f), y[(ROWS + 1) * N];
    desc_spec spec = {.rows = rows, .n_rows = ROWS};
    void *dx = dev_act(x, (ROWS + 1) * N, false), *dy = dev_act(NULL, (ROWS + 1) * N, false);
    must(cu_relu2(test_stream, dev_desc(&spec), dx, dy, N, ROWS + 1, NULL), "relu2");
    host_act(y, dy, (ROWS + 1) * N, false);
    double bad = 0;
    for (uint32_t i = 0; i < ROWS * N; i++) {
        double want = x[i] > 0 ? (double)x[i] * (double)x[i] / 2 : 0;
        bad = fmax(bad, fabs(want - (double)y[i]) / (fabs(want) + 1));
    }
    check(bad < 5e-3 && isnan(y[ROWS * N]), "relu2 of rows: error %g", bad);
    free(x);
    dev_free_all();
}

void test_mm(void) {
    rng rnd = {11};
    if (on_shim) sums_are_made_in_one_order(&rnd);
    dense(&rnd);
    rows_do_not_see_each_other(&rnd);
    silu_of_a_dense_product(&rnd);
    relu2_of_a_dense_product(&rnd);
    only_products_in_use_are_served();
    shares_of_the_cache_fit_it();
    every_matrix_of_the_core_keeps_its_share();
    hints_can_be_turned_off();
    queries_are_those_of_two_kernels(&rnd);
}
