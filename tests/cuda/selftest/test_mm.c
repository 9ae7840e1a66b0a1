/* test_mm.c - the products against plain sums in double: every map and store, ragged rows, k beyond
 * one pass of shared memory, experts without rows, no active row. */
#include "tests/cuda/selftest/selftest.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    uint32_t rows, n, k;
    cu_mm_map map;
    cu_mm_store store;
    uint32_t groups; /* HEADS */
} shape;

static double silu(double x) {
    return x / (1 + exp(-x));
}

/* Row of weights with output i's gate (side 0) or up (side 1). */
static uint32_t silu_row(uint32_t i, uint32_t side) {
    return i / 8 * 16 + i % 8 + 8 * side;
}

static double dot(const float *a, const float *b, uint32_t n) {
    double s = 0;
    for (uint32_t i = 0; i < n; i++)
        s += (double)a[i] * (double)b[i];
    return s;
}

static double twin(const shape *s, const float *w, const float *x, uint32_t i) {
    if (s->store != CU_STORE_SILU) return dot(w + (size_t)i * s->k, x, s->k);
    return silu(dot(w + (size_t)silu_row(i, 0) * s->k, x, s->k)) *
           dot(w + (size_t)silu_row(i, 1) * s->k, x, s->k);
}

/* Every required value of y is near its twin; nothing else of y was written. */
static void verify(const shape *s, const float *w, const float *x, const float *y, uint32_t ldx,
                   uint32_t ldy, size_t cap, bool f32, const char *what) {
    uint32_t outs = s->store == CU_STORE_SILU ? s->n / 2 : s->n, n_pad = cu_round(s->n, CU_MM_ROWS);
    double bad = 0, top = 1e-3;
    bool touched = false;
    for (size_t r = 0; r < cap; r++) {
        for (uint32_t g = 0; g < s->groups; g++) {
            for (uint32_t i = 0; i < outs; i++) {
                float got = y[r * ldy + g * outs + i];
                if (r >= s->rows) {
                    touched |= !isnan(got);
                    continue;
                }
                double want = twin(s, w + (size_t)g * n_pad * s->k, x + r * ldx + g * s->k, i);
                double d = fabs(want - (double)got);
                if (!(d <= bad)) bad = d;
                if (fabs(want) > top) top = fabs(want);
            }
        }
        for (uint32_t i = s->groups * outs; i < ldy; i++)
            touched |= !isnan(y[r * ldy + i]);
    }
    double limit = s->store != CU_STORE_F32 && !f32 ? 8e-3 : 2e-5;
    check(bad / top <= limit, "mm %s %s: rows %u n %u k %u: error %g", what, f32 ? "f32" : "bf16",
          s->rows, s->n, s->k, bad / top);
    check(!touched, "mm %s: rows %u n %u: wrote where nothing belongs", what, s->rows, s->n);
}

static void run_shape(const shape *s, bool f32, rng *r, const char *what) {
    uint32_t ldx = s->groups * s->k + 32, ldy = s->groups * s->n + 5, cap = s->rows + 3;
    uint32_t n_pad = cu_round(s->n, CU_MM_ROWS);
    bool y_f32 = f32 || s->store == CU_STORE_F32;
    float *w = random_floats(r, (size_t)s->groups * n_pad * s->k, 1.0f);
    float *x = random_floats(r, (size_t)cap * ldx, 1.0f), *y = calloc((size_t)cap * ldy, sizeof *y);
    desc_spec d = {.n_rows = s->map == CU_MAP_LOGITS ? 0 : s->rows,
                   .n_logits = s->map == CU_MAP_LOGITS ? s->rows : 0};
    cu_row *rows = calloc(s->rows + 1, sizeof *rows);
    d.rows = rows;
    cu_mm_args a = {.desc = dev_desc(&d),
                    .map = s->map,
                    .store = s->store,
                    .w = dev_act(w, (size_t)s->groups * n_pad * s->k, f32),
                    .w_group = (uint64_t)n_pad * s->k,
                    .ldw = s->k,
                    .x = dev_act(x, (size_t)cap * ldx, f32),
                    .ldx = ldx,
                    .x_group = s->k,
                    .ldy = ldy,
                    .y_group = s->store == CU_STORE_SILU ? s->n / 2 : s->n,
                    .n = s->n,
                    .k = s->k,
                    .groups = s->groups};
    float *first = NULL;
    for (unsigned order = 0; order < (on_shim && s->rows < 70 ? 3u : 1u); order++) {
#ifdef FATHOM_CUDA_SHIM
        shim_set_order(order == 2 ? 99 : order);
#endif
        a.y = dev_act(NULL, (size_t)cap * ldy, y_f32);
        must(cu_mm(test_stream, &a, cap, 5, f32), "mm");
        host_act(y, a.y, (size_t)cap * ldy, y_f32);
        if (first == NULL) {
            verify(s, w, x, y, ldx, ldy, cap, f32, what);
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
    free(w);
    free(x);
    free(y);
    free(rows);
    dev_free_all();
}

static void dense(rng *r) {
    static const uint32_t rows[] = {0, 1, 7, 8, 9, 16, 17, 32, 33, 63, 64, 65, 128, 513};
    static const uint32_t nk[][2] = {{16, 32}, {24, 96}, {130, 64}, {88, 2144}, {400, 512}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        for (size_t j = 0; j < ARRAY_LEN(nk); j++) {
            if (rows[i] > 70 && j != 1) continue;
            shape s = {rows[i], nk[j][0], nk[j][1], CU_MAP_ROWS, CU_STORE_F32, 1};
            run_shape(&s, false, r, "dense");
            if (j < 3) run_shape(&s, true, r, "dense");
        }
        shape logits = {rows[i], 40, 64, CU_MAP_LOGITS, CU_STORE_F32, 1};
        shape gate = {rows[i], 96, 64, CU_MAP_ROWS, CU_STORE_SILU, 1};
        shape heads = {rows[i], 24, 96, CU_MAP_HEADS, CU_STORE_ACT, 5};
        if (rows[i] > 70) continue;
        for (int f32 = 0; f32 < 2; f32++) {
            run_shape(&logits, f32, r, "logits");
            run_shape(&gate, f32, r, "silu");
            run_shape(&heads, f32, r, "heads");
        }
    }
}

/* A row's bits do not depend on the rows beside it. */
static void rows_do_not_see_each_other(rng *r) {
    enum { N = 48, K = 2080, MANY = 63 };
    static cu_row rows[MANY];
    float *w = random_floats(r, N * K, 1.0f), *x = random_floats(r, MANY * K, 1.0f);
    float many[MANY * N], one[N];
    desc_spec d = {.rows = rows, .n_rows = MANY};
    cu_mm_args a = {.desc = dev_desc(&d),
                    .map = CU_MAP_ROWS,
                    .store = CU_STORE_F32,
                    .w = dev_act(w, N * K, false),
                    .ldw = K,
                    .x = dev_act(x, MANY * K, false),
                    .ldx = K,
                    .y = dev_poison(MANY * N * 4),
                    .ldy = N,
                    .n = N,
                    .k = K};
    must(cu_mm(test_stream, &a, MANY, 64, false), "mm");
    host_act(many, a.y, MANY * N, true);
    d.n_rows = 1;
    a.desc = dev_desc(&d);
    for (uint32_t i = 0; i < MANY; i += 9) {
        cu_mm_args b = a;
        b.x = (const uint16_t *)a.x + (size_t)i * K;
        must(cu_mm(test_stream, &b, 1, 64, false), "mm");
        host_act(one, b.y, N, true);
        check(memcmp(one, many + i * N, sizeof one) == 0, "row %u alone differs from row %u of 63",
              i, i);
    }
    free(w);
    free(x);
    dev_free_all();
}

/* One output as the tensor cores' emulation computes it, step by step: the warps sharing the k of
 * 16 weight rows take steps of 32 in turn and are summed in order. Within a step the first
 * instruction takes values 0 to 3 of each 8, the second 4 to 7. */
static float in_order(const float *w, const float *x, uint32_t k, uint32_t slices) {
    float sum = 0;
    for (uint32_t s = 0; s < slices; s++) {
        float part = 0;
        for (uint32_t step = s; step < k / CU_K_STEP; step += slices) {
            for (uint32_t half = 0; half < 2; half++) {
                for (uint32_t i = 0; i < 16; i++) {
                    uint32_t at = step * CU_K_STEP + i % 8 / 2 * 8 + half * 4 + i / 8 * 2 + i % 2;
                    part += w[at] * x[at];
                }
            }
        }
        sum = s ? sum + part : part;
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

static void check_order(uint32_t n, uint32_t k, uint32_t n_rows, rng *r) {
    uint32_t slices = slices_of(n, k), n_pad = cu_round(n, CU_MM_ROWS), wrong = 0;
    float *w = random_floats(r, (size_t)n_pad * k, 1.0f);
    float *x = random_floats(r, (size_t)n_rows * k, 1.0f), *y = calloc((size_t)n_rows * n, 4);
    cu_row *rows = calloc(n_rows, sizeof *rows);
    desc_spec d = {.rows = rows, .n_rows = n_rows};
    cu_mm_args a = {.desc = dev_desc(&d),
                    .map = CU_MAP_ROWS,
                    .store = CU_STORE_F32,
                    .w = dev_act(w, (size_t)n_pad * k, false),
                    .ldw = k,
                    .x = dev_act(x, (size_t)n_rows * k, false),
                    .ldx = k,
                    .y = dev_poison((size_t)n_rows * n * 4),
                    .ldy = n,
                    .n = n,
                    .k = k};
    must(cu_mm(test_stream, &a, n_rows, 3, false), "mm");
    host_act(y, a.y, (size_t)n_rows * n, true);
    uint32_t few = n < 48 ? n : 48; /* of the first and of the last rows */
    for (uint32_t i = 0; i < n_rows; i++) {
        for (uint32_t j = 0; j < 2 * few; j++) {
            uint32_t out = j < few ? j : n - 1 - (j - few);
            float want = in_order(w + (size_t)out * k, x + (size_t)i * k, k, slices);
            wrong += memcmp(&want, &y[(size_t)i * n + out], 4) != 0;
        }
    }
    check(wrong == 0, "mm n %u k %u, %u rows, %u slices: %u sums are in another order", n, k,
          n_rows, slices, wrong);
    free(w);
    free(x);
    free(y);
    free(rows);
    dev_free_all();
}

/* Bit for bit, on the shim only: a device's rounding within an instruction is not documented. */
static void sums_are_made_in_one_order(rng *r) {
    static const struct {
        uint32_t n, k;
    } nk[] = {{40, 64}, {32, 96}, {40, 128}, {24, 416}, {40, 1056}, {16, 2240}, {33000, 160}};
    static const uint32_t n_rows[] = {1, 8, 13, 29, 50};
    for (size_t i = 0; i < ARRAY_LEN(nk); i++) {
        for (size_t j = 0; j < ARRAY_LEN(n_rows); j++)
            if (nk[i].n < 1000 || j == 0) check_order(nk[i].n, nk[i].k, n_rows[j], r);
    }
}

static void only_products_in_use_are_served(void) {
    static cu_row rows[1];
    desc_spec d = {.rows = rows, .n_rows = 1};
    cu_mm_args a = {.desc = dev_desc(&d), .map = CU_MAP_HEADS, .store = CU_STORE_SILU, .groups = 1};
    check(cu_mm(test_stream, &a, 1, 1, false) == cudaErrorInvalidValue,
          "mm takes a product that nobody has");
    a.map = CU_MAP_ROWS;
    a.store = CU_STORE_QUERY;
    check(cu_mm(test_stream, &a, 1, 1, true) == cudaErrorInvalidValue,
          "mm takes queries in float32");
    dev_free_all();
}

/* ---- the query split by the product of q_up itself ---- */

typedef struct {
    uint32_t heads, nope, nope_ld, rope, kv_lora, o_values, o_ld, k, n_rows;
} query_shape;

/* q_nope, q and o of a launch one after the other; first NaN patterns. */
static float *query_of(const query_shape *s, bool fused, const cu_row *rows, void *w, void *x,
                       float *rope, size_t *n_values) {
    uint32_t n = s->heads * (s->nope + s->rope), cap = s->n_rows + 2;
    size_t nope = (size_t)cap * s->heads * s->nope_ld,
           q = (size_t)cap * s->heads * (s->kv_lora + s->rope), o = (size_t)cap * s->o_ld;
    desc_spec d = {.rows = rows, .n_rows = s->n_rows};
    cu_query_args to = {.desc = dev_desc(&d),
                        .n_heads = s->heads,
                        .nope = s->nope,
                        .nope_ld = s->nope_ld,
                        .rope_dim = s->rope,
                        .kv_lora = s->kv_lora,
                        .in = dev_poison((size_t)cap * n * 4),
                        .ld_in = n,
                        .rope = rope,
                        .q_nope = dev_act(NULL, nope, false),
                        .q = dev_act(NULL, q, false),
                        .o = dev_act(NULL, o, false),
                        .o_values = s->o_values,
                        .o_ld = s->o_ld};
    cu_mm_args a = {.desc = to.desc,
                    .map = CU_MAP_ROWS,
                    .store = fused ? CU_STORE_QUERY : CU_STORE_F32,
                    .w = w,
                    .ldw = s->k,
                    .x = x,
                    .ldx = s->k,
                    .y = fused ? NULL : (void *)(uintptr_t)to.in,
                    .ldy = n,
                    .n = n,
                    .k = s->k,
                    .query = to};
    must(cu_mm(test_stream, &a, cap, 5, false), "q_up");
    if (!fused) must(cu_mla_query(test_stream, &to, cap, false), "mla query");
    float *out = malloc((nope + q + o) * sizeof *out);
    host_act(out, to.q_nope, nope, false);
    host_act(out + nope, to.q, q, false);
    host_act(out + nope + q, to.o, o, false);
    *n_values = nope + q + o;
    return out;
}

static void queries_are_those_of_two_kernels(rng *r) {
    static const query_shape shapes[] = {
        {3, 20, 32, 6, 16, 10, 32, 64, 4},      {1, 2, 32, 2, 8, 2, 32, 32, 1},
        {16, 64, 64, 32, 256, 64, 64, 512, 11}, {5, 6, 32, 10, 40, 33, 64, 96, 63},
        {4, 32, 32, 16, 24, 32, 32, 160, 27},
    };
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
        const query_shape *s = &shapes[i];
        uint32_t n_pad = cu_round(s->heads * (s->nope + s->rope), CU_MM_ROWS);
        cu_row *rows = calloc(s->n_rows, sizeof *rows);
        for (uint32_t k = 0; k < s->n_rows; k++)
            rows[k].pos = k * 5 % 17;
        float *w = random_floats(r, (size_t)n_pad * s->k, 1.0f),
              *x = random_floats(r, (size_t)(s->n_rows + 2) * s->k, 1.0f),
              *rope = random_floats(r, (size_t)17 * s->rope, 1.0f);
        void *dw = dev_act(w, (size_t)n_pad * s->k, false),
             *dx = dev_act(x, (size_t)(s->n_rows + 2) * s->k, false);
        float *turn = dev_floats(rope, (size_t)17 * s->rope);
        size_t n = 0;
        float *two = query_of(s, false, rows, dw, dx, turn, &n),
              *one = query_of(s, true, rows, dw, dx, turn, &n);
        check(memcmp(one, two, n * sizeof *one) == 0,
              "queries of %u heads, %u rows: the fused kernel's differ", s->heads, s->n_rows);
        free(rows);
        free(w);
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
    cu_backend b = {.core = &core, .groups_shared = GROUPS};
    b.plan.n_core = 1;
    b.plan.n_heads = HEADS;
    b.plan.core_ffn = FFN_MOE;
    if (getenv("FATHOM_CUDA_L2")) return; /* the user set this on purpose */
    eng__cuda_plan_l2(&b, L2);
    size_t kept = ((size_t)core.in.keep * 2048 + core.q_up.keep * 512 + core.uk.keep * 64 * HEADS +
                   core.uv.keep * 256 * HEADS + core.wo.keep * 1024 +
                   (size_t)core.shared_gate_up.keep * 2048 * GROUPS +
                   (size_t)core.shared_down.keep * 2048 * GROUPS) *
                  2;
    check(kept <= L2 / 10 * 4 && kept >= L2 / 10 * 3, "%zu bytes of %d are to be kept", kept, L2);
    check(core.in.keep && core.q_up.keep && core.wo.keep && core.shared_gate_up.keep &&
              core.shared_down.keep && core.gate_up.keep == 0 && b.pass_experts,
          "a matrix without a share, or a routed expert with one");
    core.in.keep = core.gate_up.keep = 0;
    b.plan.core_ffn = FFN_SWIGLU;
    eng__cuda_plan_l2(&b, L2);
    check(core.in.keep && core.gate_up.keep, "a dense core keeps no feed-forward");
    cu_backend exact = b;
    core.in.keep = 0;
    exact.f32 = true;
    eng__cuda_plan_l2(&exact, L2);
    check(core.in.keep == 0, "parity mode keeps what its kernels never ask for");
}

static void hints_can_be_turned_off(void) {
    int there = 0;
    cu_layer core = {.in = {&there, 800, 2048, 2048, 0, 0}};
    cu_backend b = {.core = &core};
    b.plan.n_core = 1;
    const char *old = getenv("FATHOM_CUDA_L2");
    char *was = old ? strdup(old) : NULL;
    setenv("FATHOM_CUDA_L2", "0", 1);
    eng__cuda_plan_l2(&b, 50 << 20);
    check(core.in.keep == 0 && !b.pass_experts, "FATHOM_CUDA_L2=0 leaves hints on");
    if (was) setenv("FATHOM_CUDA_L2", was, 1);
    else unsetenv("FATHOM_CUDA_L2");
    free(was);
}

static void silu_of_a_dense_product(rng *r) {
    enum { ROWS = 9, N = 40 };
    static cu_row rows[ROWS];
    float *x = random_floats(r, (ROWS + 1) * 2 * N, 3.0f), y[(ROWS + 1) * N];
    desc_spec d = {.rows = rows, .n_rows = ROWS};
    void *dx = dev_act(x, (ROWS + 1) * 2 * N, false), *dy = dev_act(NULL, (ROWS + 1) * N, false);
    must(cu_silu(test_stream, dev_desc(&d), dx, dy, N, ROWS + 1, NULL), "silu");
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

void test_mm(void) {
    rng r = {11};
    if (on_shim) sums_are_made_in_one_order(&r);
    dense(&r);
    rows_do_not_see_each_other(&r);
    silu_of_a_dense_product(&r);
    only_products_in_use_are_served();
    shares_of_the_cache_fit_it();
    every_matrix_of_the_core_keeps_its_share();
    hints_can_be_turned_off();
    queries_are_those_of_two_kernels(&r);
}
