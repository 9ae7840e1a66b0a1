/* kernels.c - each kernel of a recurrent step at the shapes of a variant, as a share of the read
 * probe of the same run; writes one JSON object to stdout. Run by bench/cuda/run.sh.
 *
 *   fathom-cuda-bench [VARIANT] [CONTEXT]      mythos_1b 1024 */
#include "base/size.h"
#include "bench/cuda/bench.h"
#include "engine/rowmath.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

cudaError_t probe_read(cudaStream_t s, const void *p, uint64_t bytes, void *sink, uint32_t blocks);
cudaError_t probe_nothing(cudaStream_t s);

void kb_must(cudaError_t rc, const char *what) {
    if (rc == cudaSuccess) return;
    fprintf(stderr, "fathom-cuda-bench: %s: %s\n", what, cudaGetErrorString(rc));
    exit(1);
}

void *kb_take(bench *b, size_t bytes) {
    void *p;
    kb_must(cudaMalloc(&p, bytes ? bytes : 1), "allocating");
    kb_must(cudaMemset(p, 0, bytes), "clearing"); /* zeros: no NaN, no denormals */
    if (b->n_taken == ARRAY_LEN(b->taken)) kb_must(cudaErrorMemoryAllocation, "too many buffers");
    return b->taken[b->n_taken++] = p;
}

void *kb_put(bench *b, const void *v, size_t bytes) {
    void *p = kb_take(b, bytes);
    kb_must(cudaMemcpy(p, v, bytes, cudaMemcpyHostToDevice), "copying");
    return p;
}

void kb_give_all(bench *b) {
    kb_must(cudaDeviceSynchronize(), "waiting");
    while (b->n_taken)
        (void)cudaFree(b->taken[--b->n_taken]);
}

static uint32_t rnd(bench *b, uint32_t n) {
    b->seed = b->seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((b->seed >> 33) % n);
}

static void open_blas(bench *b) {
    void *workspace;
    kb_must(cudaMalloc(&workspace, 32 << 20), "allocating");
    if (cublasCreate(&b->blas) != CUBLAS_STATUS_SUCCESS ||
        cublasSetStream(b->blas, b->stream) != CUBLAS_STATUS_SUCCESS ||
        cublasSetWorkspace(b->blas, workspace, 32 << 20) != CUBLAS_STATUS_SUCCESS) {
        kb_must(cudaErrorLaunchFailure, "cuBLAS");
    }
    b->blas_space = workspace;
}

void kb_begin(bench *b) {
    kb_must(cudaEventRecord(b->from, b->stream), "timing");
}
double kb_end_us(bench *b, uint32_t times) {
    float ms = 0;
    kb_must(cudaEventRecord(b->to, b->stream), "timing");
    kb_must(cudaEventSynchronize(b->to), "waiting");
    kb_must(cudaEventElapsedTime(&ms, b->from, b->to), "timing");
    return (double)ms * 1e3 / times;
}

/* ---- probes ---- */

static void probes(bench *b, size_t bytes, int side) {
    void *p = kb_take(b, bytes), *sink = kb_take(b, 4);
    double best = 1e30;
    for (int i = 0; i < 5; i++) {
        kb_begin(b);
        kb_must(probe_read(b->stream, p, bytes, sink, b->sms * 4), "read probe");
        double us = kb_end_us(b, 1);
        if (us < best) best = us;
    }
    b->read_gbs = (double)bytes / best * 1e-3;
    kb_begin(b);
    for (int i = 0; i < 200; i++)
        kb_must(probe_nothing(b->stream), "gap probe");
    b->gap_us = kb_end_us(b, 200);
    const float one = 1, zero = 0;
    size_t n = (size_t)side * (size_t)side * 2;
    void *x = kb_take(b, n), *w = kb_take(b, n), *y = kb_take(b, 2 * n);
    best = 1e30;
    for (int i = 0; i < 5; i++) {
        kb_begin(b);
        if (cublasGemmStridedBatchedEx(b->blas, CUBLAS_OP_T, CUBLAS_OP_N, side, side, side, &one, w,
                                       CUDA_R_16BF, side, 0, x, CUDA_R_16BF, side, 0, &zero, y,
                                       CUDA_R_32F, side, 0, 1, CUBLAS_COMPUTE_32F,
                                       CUBLAS_GEMM_DEFAULT) != CUBLAS_STATUS_SUCCESS) {
            kb_must(cudaErrorLaunchFailure, "matrix probe");
        }
        double us = kb_end_us(b, 1);
        if (us < best) best = us;
    }
    b->matrix_tflops = 2.0 * side * side * (double)side / best * 1e-6;
    kb_give_all(b);
    printf("\"read_probe_gb_s\":%.1f,\"matrix_probe_tflop_s\":%.1f,\"kernel_gap_us\":%.2f,\n",
           b->read_gbs, b->matrix_tflops, b->gap_us);
}

/* ---- one kernel ---- */

bool kb_first_line = true;

/* Times `fn` and prints its share of the probe. `bytes`: what it must read. Working sets are
 * larger than the second-level cache where the model's are. */
static void measure(bench *b, const char *name, uint32_t rows, double bytes, go fn, void *arg) {
    for (uint32_t i = 0; i < 3; i++)
        kb_must(fn(b, arg), name);
    kb_begin(b);
    for (uint32_t i = 0; i < b->repeats; i++)
        kb_must(fn(b, arg), name);
    double us = kb_end_us(b, b->repeats), gbs = bytes / us * 1e-3;
    printf("%s{\"kernel\":\"%s\",\"rows\":%u,\"us\":%.2f,\"bytes\":%.0f,\"gb_s\":%.1f,"
           "\"percent_of_read_probe\":%.1f}",
           kb_first_line ? "" : ",\n", name, rows, us, bytes, gbs, 100 * gbs / b->read_gbs);
    kb_first_line = false;
    fflush(stdout);
}

static void *descriptor(bench *b, uint32_t rows) {
    uint32_t blocks = (b->context + 31) / 32;
    size_t tables = (size_t)rows * blocks;
    cu_head h = {
        .n_rows = rows, .n_tiles = rows, .n_logits = rows, .rows = sizeof h, .bad = kb_take(b, 16)};
    h.tiles = h.rows + rows * (uint32_t)sizeof(cu_row);
    h.edits = h.tables = h.tiles + rows * (uint32_t)sizeof(cu_tile);
    size_t bytes = h.tables + tables * 4;
    uint8_t *p = array_new(bytes, 1);
    if (p == NULL) kb_must(cudaErrorMemoryAllocation, "the host's memory");
    memcpy(p, &h, sizeof h);
    for (uint32_t i = 0; i < rows; i++) {
        cu_row r = {.row = i,
                    .pos = b->context - 1,
                    .table = i * blocks,
                    .logits = i,
                    .loop = (uint16_t)(i % b->c.loops_default),
                    .max_loops = 1000,
                    .threshold = 2};
        cu_tile t = {i, 1};
        memcpy(p + h.rows + i * sizeof r, &r, sizeof r);
        memcpy(p + h.tiles + i * sizeof t, &t, sizeof t);
    }
    for (uint32_t i = 0; i < tables; i++)
        memcpy(p + h.tables + (size_t)i * 4, &i, 4);
    void *dev = kb_put(b, p, bytes);
    free(p);
    return dev;
}

/* ---- attention ---- */

typedef struct {
    cu_attn_args a;
    uint32_t rows;
} attention_arg;

static cudaError_t go_attention(bench *b, void *arg) {
    attention_arg *x = arg;
    return cu_attn(b->stream, &x->a, x->rows, false, true);
}
static cudaError_t go_merge(bench *b, void *arg) {
    attention_arg *x = arg;
    return cu_attn_merge(b->stream, &x->a, x->rows, false);
}

/* A cache of n slots in one plane, every position at a slot of its own, scattered. A slot holds one
 * layer: of a core of many the others would only take memory. */
cu_cache kb_scattered(bench *b, uint32_t n) {
    uint32_t *maps = array_new(n, 4);
    if (maps == NULL) kb_must(cudaErrorMemoryAllocation, "the host's memory");
    for (uint32_t i = 0; i < n; i++)
        maps[i] = i;
    for (uint32_t i = n - 1; i > 0; i--) {
        uint32_t j = rnd(b, i + 1), t = maps[i];
        maps[i] = maps[j];
        maps[j] = t;
    }
    cu_cache cache = {.slots = kb_take(b, (size_t)n * b->c.layer_values * 2),
                      .maps = kb_put(b, maps, (size_t)n * 4),
                      .n_slots = n,
                      .n_blocks = n / 32,
                      .n_planes = 1,
                      .slot_values = b->c.layer_values};
    free(maps);
    return cache;
}

/* Everything but descriptor, cache and splits, for so many rows. */
cu_attn_args kb_attention_args(bench *b, uint32_t rows, uint32_t splits) {
    const model_plan *c = &b->c;
    bool mla = c->attn == ATTN_MLA;
    cu_attn_args all = {.splits = splits}, *a = &all;
    a->n_heads = c->n_heads;
    a->n_kv_heads = mla ? 1 : c->n_kv_heads;
    a->dk = mla ? c->kv_lora_rank + c->qk_rope_head_dim : c->head_dim;
    a->dv = mla ? c->kv_lora_rank : c->head_dim;
    a->v_offset = mla ? 0 : c->n_kv_heads * c->head_dim;
    a->scale = 0.1f;
    a->o_head = cu_round(a->dv, CU_K_STEP);
    a->o_ld = a->n_heads * a->o_head;
    a->q = kb_take(b, (size_t)rows * a->n_heads * a->dk * 2);
    a->o = kb_take(b, (size_t)rows * a->o_ld * 2);
    size_t parts = (size_t)rows * a->splits * a->n_heads;
    a->part_o = kb_take(b, parts * a->dv * 4);
    a->part_ml = kb_take(b, parts * 8);
    return all;
}

uint32_t kb_splits_for(const bench *b, uint32_t blocks, uint32_t context) {
    uint32_t want = b->sms * 4 / blocks, tiles = (context + CU_ATTN_KEYS - 1) / CU_ATTN_KEYS;
    if (want > CU_MAX_SPLITS) want = CU_MAX_SPLITS;
    if (want > tiles) want = tiles;
    return want ? want : 1;
}

/* Decode: every row its own sequence and its own scattered slots: nothing is read twice. */
static void attention(bench *b, uint32_t rows) {
    bool mla = b->c.attn == ATTN_MLA;
    uint32_t per_row = mla ? 1 : b->c.n_kv_heads;
    attention_arg x = {.rows = rows};
    x.a = kb_attention_args(b, rows, kb_splits_for(b, rows * per_row, b->context));
    x.a.desc = descriptor(b, rows);
    x.a.cache = kb_scattered(b, rows * ((b->context + 31) / 32) * 32);
    size_t parts = (size_t)rows * x.a.splits * x.a.n_heads;
    measure(b, mla ? "attention" : "attention_gqa", rows,
            (double)rows * b->context * b->c.layer_values * 2, go_attention, &x);
    measure(b, mla ? "attention_merge" : "attention_gqa_merge", rows,
            (double)parts * (x.a.dv + 2) * 4, go_merge, &x);
    kb_give_all(b);
}

/* The same model with grouped queries: its heads, K/V heads and width. */
static void attention_gqa(bench *b, uint32_t rows) {
    model_plan own = b->c;
    if (own.attn == ATTN_GQA) return;
    b->c.attn = ATTN_GQA;
    b->c.head_dim = own.dim / own.n_heads;
    plan_derive(&b->c);
    attention(b, rows);
    b->c = own;
}

/* ---- products ---- */

typedef struct {
    cu_mm_args a;
    uint32_t rows;
} mm_arg;
static cudaError_t go_mm(bench *b, void *arg) {
    mm_arg *x = arg;
    return cu_mm(b->stream, &x->a, x->rows, b->sms * 2, false);
}

static void dense(bench *b, const char *name, uint32_t rows, uint32_t n, uint32_t k, cu_mm_map map,
                  uint32_t groups) {
    k = cu_round(k, CU_K_STEP);
    uint64_t group = (uint64_t)cu_round(n, CU_MM_ROWS) * k;
    mm_arg x = {.rows = rows};
    x.a = (cu_mm_args){.desc = descriptor(b, rows),
                       .map = map,
                       .store = CU_STORE_F32,
                       .w = kb_take(b, group * groups * 2),
                       .w_group = group,
                       .ldw = k,
                       .x = kb_take(b, (size_t)rows * groups * k * 2),
                       .ldx = groups * k,
                       .x_group = k,
                       .y = kb_take(b, (size_t)rows * groups * n * 4),
                       .ldy = groups * n,
                       .y_group = n,
                       .n = n,
                       .k = k,
                       .groups = groups};
    measure(b, name, rows, (double)group * groups * 2, go_mm, &x);
    kb_give_all(b);
}

typedef struct {
    cu_route_args route;
    cu_mm_args in, out;
    uint32_t rows;
} moe_arg;
static cudaError_t go_route(bench *b, void *arg) {
    moe_arg *x = arg;
    cudaError_t rc = cu_moe_route(b->stream, &x->route, x->rows);
    return rc == cudaSuccess ? cu_moe_group(b->stream, &x->route) : rc;
}
static cudaError_t go_in(bench *b, void *arg) {
    moe_arg *x = arg;
    return cu_mm(b->stream, &x->in, x->rows, b->sms * 2, false);
}
static cudaError_t go_out(bench *b, void *arg) {
    moe_arg *x = arg;
    return cu_mm(b->stream, &x->out, x->rows, b->sms * 2, false);
}

/* Random routes; the bytes are those of the experts that have a row. */
static void experts(bench *b, uint32_t rows) {
    const model_plan *c = &b->c;
    uint32_t e = c->n_experts, shared = c->n_shared_experts * c->n_experts_per_tok;
    uint32_t h = cu_round(c->expert_dim, CU_K_STEP), d = cu_round(c->dim, CU_K_STEP);
    uint64_t group = (uint64_t)2 * h * d, out_group = (uint64_t)cu_round(c->dim, CU_MM_ROWS) * h;
    moe_arg x = {.rows = rows};
    cu_moe m = {.n_experts = e,
                .top_k = c->n_experts_per_tok,
                .n_shared_groups = shared,
                .parts_per_row = c->n_experts_per_tok + shared};
    uint32_t parts = rows * m.parts_per_row;
    m.max_tiles = parts / CU_TILE_ROWS + e + shared;
    m.pick = kb_take(b, (size_t)rows * m.top_k * 4);
    m.weight = kb_take(b, (size_t)rows * m.top_k * 4);
    m.order = kb_take(b, (size_t)parts * 4);
    m.tiles = kb_take(b, m.max_tiles * sizeof(cu_moe_tile));
    m.n_tiles = kb_take(b, 4);
    float *logits = array_new((size_t)rows * e, 4), *zero = array_new(e, 4);
    if (logits == NULL || zero == NULL) kb_must(cudaErrorMemoryAllocation, "the host's memory");
    for (size_t i = 0; i < (size_t)rows * e; i++)
        logits[i] = (float)rnd(b, 1000) * 0.01f;
    void *desc = descriptor(b, rows);
    x.route = (cu_route_args){.desc = desc,
                              .logits = kb_put(b, logits, (size_t)rows * e * 4),
                              .bias = kb_put(b, zero, e * 4),
                              .moe = m};
    x.in = (cu_mm_args){.desc = desc,
                        .map = CU_MAP_IN,
                        .store = CU_STORE_SILU,
                        .w = kb_take(b, group * e * 2),
                        .w_shared = kb_take(b, group * shared * 2),
                        .w_group = group,
                        .w_shared_group = group,
                        .ldw = d,
                        .ldw_shared = d,
                        .x = kb_take(b, (size_t)rows * d * 2),
                        .ldx = d,
                        .y = kb_take(b, (size_t)parts * h * 2),
                        .ldy = h,
                        .n = 2 * h,
                        .k = d,
                        .moe = m};
    x.out = (cu_mm_args){.desc = desc,
                         .map = CU_MAP_OUT,
                         .store = CU_STORE_F32,
                         .w = kb_take(b, out_group * e * 2),
                         .w_shared = kb_take(b, out_group * shared * 2),
                         .w_group = out_group,
                         .w_shared_group = h,
                         .ldw = h,
                         .ldw_shared = h * shared,
                         .x = x.in.y,
                         .ldx = h,
                         .y = kb_take(b, (size_t)parts * c->dim * 4),
                         .ldy = c->dim,
                         .n = c->dim,
                         .k = h,
                         .moe = m};
    kb_must(go_route(b, &x), "routing");
    uint32_t *pick = array_new((size_t)rows * m.top_k, 4), live = shared;
    uint8_t *has = array_new(e, 1);
    if (pick == NULL || has == NULL) kb_must(cudaErrorMemoryAllocation, "the host's memory");
    kb_must(cudaStreamSynchronize(b->stream), "waiting");
    kb_must(cudaMemcpy(pick, m.pick, (size_t)rows * m.top_k * 4, cudaMemcpyDeviceToHost),
            "copying");
    for (size_t i = 0; i < (size_t)rows * m.top_k; i++) {
        if (pick[i] < e && !has[pick[i]]++) live++;
    }
    measure(b, "moe_route_and_group", rows, (double)rows * e * 4, go_route, &x);
    measure(b, "moe_gate_up", rows, (double)live * (double)group * 2, go_in, &x);
    measure(b, "moe_down", rows, (double)live * (double)out_group * 2, go_out, &x);
    free(logits);
    free(zero);
    free(pick);
    free(has);
    kb_give_all(b);
}

/* ---- sampling ---- */

typedef struct {
    cu_sample_args a;
    uint32_t rows;
} sample_arg;
static cudaError_t go_sample(bench *b, void *arg) {
    sample_arg *x = arg;
    return cu_sample(b->stream, &x->a, x->rows);
}

/* Logits spread as a model's: a bell some units wide. The bytes are those of one reading. */
static void sampling(bench *b, uint32_t rows) {
    static const struct {
        const char *name;
        cu_draw draw;
    } ways[] = {{"sample_greedy", {.top_p = 1}},
                {"sample_draw", {.scale = 1.25f, .top_p = 1}},
                {"sample_top_k_top_p", {.scale = 1.25f, .top_p = 0.9f, .top_k = 50}},
                {"sample_greedy_20_best", {.top_p = 1, .n_top = CU_MAX_TOP}}};
    size_t n = (size_t)rows * b->c.vocab_size, bytes = sizeof(cu_head) + rows * sizeof(cu_draw);
    float *logits = array_new(n, sizeof *logits);
    uint8_t *desc = array_new(bytes, 1);
    if (logits == NULL || desc == NULL) kb_must(cudaErrorMemoryAllocation, "the host's memory");
    for (size_t i = 0; i < n; i++)
        logits[i] = (float)(rnd(b, 10000) + rnd(b, 10000) + rnd(b, 10000)) * 1e-3f;
    sample_arg x = {{.logits = kb_put(b, logits, n * 4), .vocab = b->c.vocab_size}, rows};
    cu_head h = {
        .n_draws = rows, .draws = sizeof h, .choices = kb_take(b, rows * sizeof(cu_choice))};
    memcpy(desc, &h, sizeof h);
    for (size_t k = 0; k < ARRAY_LEN(ways); k++) {
        for (uint32_t i = 0; i < rows; i++) {
            cu_draw d = ways[k].draw;
            d.seed = d.logits = i;
            memcpy(desc + h.draws + i * sizeof d, &d, sizeof d);
        }
        x.a.desc = kb_put(b, desc, bytes);
        measure(b, ways[k].name, rows, (double)n * 4, go_sample, &x);
    }
    free(logits);
    free(desc);
    kb_give_all(b);
}

int main(int argc, char **argv) {
    static const uint32_t all[] = {1, 8, 32, 128, 512}, few[] = {1, 9};
    bench b = {.seed = 7, .context = 1024, .repeats = 50};
    err e = {0};
    int devices = 0;
    const char *variant = argc > 1 ? argv[1] : "mythos_1b";
    bool small = strstr(variant, "tiny") != NULL; /* to try the program itself, not to measure */
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
        fprintf(stderr, "fathom-cuda-bench: no CUDA device\n");
        return 2;
    }
    if (plan_variant(&b.c, variant, &e) != 0) {
        fprintf(stderr, "fathom-cuda-bench: %s\n", e.msg);
        return 2;
    }
    if (argc > 2) b.context = (uint32_t)strtoul(argv[2], NULL, 10);
    if (b.context < 1 || b.context > 1u << 20) return 2;
    if (small) b.repeats = 1;
    struct cudaDeviceProp prop;
    kb_must(cudaSetDevice(0), "choosing a device");
    kb_must(cudaGetDeviceProperties(&prop, 0), "asking for the device");
    b.sms = (uint32_t)prop.multiProcessorCount;
    kb_must(cu_kernels_setup(0, b.c.dim), "sizing shared memory");
    kb_must(cudaStreamCreateWithFlags(&b.stream, cudaStreamNonBlocking), "opening a stream");
    kb_must(cudaEventCreate(&b.from), "opening an event");
    kb_must(cudaEventCreate(&b.to), "opening an event");
    open_blas(&b);
    printf("{\"device\":\"%s\",\"variant\":\"%s\",\"context\":%u,\"dtype\":\"bf16\",\n", prop.name,
           variant, b.context);
    probes(&b, small ? 1 << 20 : (size_t)4 << 30, small ? 64 : 8192);
    printf("\"kernels\":[\n");
    const model_plan *c = &b.c;
    for (size_t i = 0; i < (small ? ARRAY_LEN(few) : ARRAY_LEN(all)); i++) {
        uint32_t rows = small ? few[i] : all[i];
        if (c->attn == ATTN_MLA) {
            dense(&b, "q_down_kv_down", rows, c->q_lora_rank + c->layer_values, c->dim, CU_MAP_ROWS,
                  1);
            dense(&b, "q_up", rows, c->n_heads * (c->qk_nope_head_dim + c->qk_rope_head_dim),
                  c->q_lora_rank, CU_MAP_ROWS, 1);
            dense(&b, "absorb", rows, c->kv_lora_rank, c->qk_nope_head_dim, CU_MAP_HEADS,
                  c->n_heads);
            dense(&b, "value_up", rows, c->v_head_dim, c->kv_lora_rank, CU_MAP_HEADS, c->n_heads);
        }
        if (c->attn == ATTN_GQA) {
            dense(&b, "q_k_v", rows, plan_q_width(c) + 2 * plan_kv_width(c), c->dim, CU_MAP_ROWS,
                  1);
            dense(&b, "wo", rows, c->dim, plan_q_width(c), CU_MAP_ROWS, 1);
        }
        attention(&b, rows);
        attention_gqa(&b, rows);
        if (c->core_ffn == FFN_MOE) {
            experts(&b, rows);
        } else {
            dense(&b, "gate_up", rows, 2 * c->ffn_dim, c->dim, CU_MAP_ROWS, 1);
            dense(&b, "down", rows, c->dim, c->ffn_dim, CU_MAP_ROWS, 1);
        }
        dense(&b, "head", rows, c->vocab_size, c->dim, CU_MAP_ROWS, 1);
        sampling(&b, rows);
    }
    if (c->attn == ATTN_MLA) kb_prefills(&b, small);
    printf("\n]}\n");
    (void)cublasDestroy(b.blas);
    (void)cudaFree(b.blas_space);
    (void)cudaEventDestroy(b.from);
    (void)cudaEventDestroy(b.to);
    (void)cudaStreamDestroy(b.stream);
    return 0;
}
