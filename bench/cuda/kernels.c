/* kernels.c - each kernel of a recurrent step at the shapes of a variant, as a share of the read
 * probe of the same run; writes one JSON object to stdout. Run by bench/cuda/run.sh.
 *
 *   fathom-cuda-bench [VARIANT] [CONTEXT]      mythos_1b 1024 */
#include "engine/cuda/cuda_internal.h"
#include "engine/rowmath.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

cudaError_t probe_read(cudaStream_t s, const void *p, uint64_t bytes, void *sink, uint32_t blocks);
cudaError_t probe_nothing(cudaStream_t s);

typedef struct {
    cudaStream_t stream;
    cudaEvent_t from, to;
    uint32_t sms, repeats;
    double read_gbs, matrix_tflops, gap_us;
    void *taken[256];
    uint32_t n_taken;
    eng_config c;
    uint32_t context;
    uint64_t seed;
} bench;

static void must(cudaError_t rc, const char *what) {
    if (rc == cudaSuccess) return;
    fprintf(stderr, "fathom-cuda-bench: %s: %s\n", what, cudaGetErrorString(rc));
    exit(1);
}

static void *take(bench *b, size_t bytes) {
    void *p;
    must(cudaMalloc(&p, bytes ? bytes : 1), "allocating");
    must(cudaMemset(p, 0, bytes), "clearing"); /* zeros: no NaN, no denormals */
    if (b->n_taken == ARRAY_LEN(b->taken)) must(cudaErrorMemoryAllocation, "too many buffers");
    return b->taken[b->n_taken++] = p;
}

static void *send(bench *b, const void *v, size_t bytes) {
    void *p = take(b, bytes);
    must(cudaMemcpy(p, v, bytes, cudaMemcpyHostToDevice), "copying");
    return p;
}

static void give_all(bench *b) {
    must(cudaDeviceSynchronize(), "waiting");
    while (b->n_taken)
        (void)cudaFree(b->taken[--b->n_taken]);
}

static uint32_t rnd(bench *b, uint32_t n) {
    b->seed = b->seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((b->seed >> 33) % n);
}

static void begin(bench *b) {
    must(cudaEventRecord(b->from, b->stream), "timing");
}
static double end_us(bench *b, uint32_t times) {
    float ms = 0;
    must(cudaEventRecord(b->to, b->stream), "timing");
    must(cudaEventSynchronize(b->to), "waiting");
    must(cudaEventElapsedTime(&ms, b->from, b->to), "timing");
    return (double)ms * 1e3 / times;
}

/* ---- probes ---- */

static void probes(bench *b, size_t bytes, int side) {
    void *p = take(b, bytes), *sink = take(b, 4), *ws = take(b, 32 << 20);
    double best = 1e30;
    for (int i = 0; i < 5; i++) {
        begin(b);
        must(probe_read(b->stream, p, bytes, sink, b->sms * 4), "read probe");
        double us = end_us(b, 1);
        if (us < best) best = us;
    }
    b->read_gbs = (double)bytes / best * 1e-3;
    begin(b);
    for (int i = 0; i < 200; i++)
        must(probe_nothing(b->stream), "gap probe");
    b->gap_us = end_us(b, 200);
    cublasHandle_t h;
    const float one = 1, zero = 0;
    size_t n = (size_t)side * (size_t)side * 2;
    void *x = take(b, n), *w = take(b, n), *y = take(b, 2 * n);
    if (cublasCreate(&h) != CUBLAS_STATUS_SUCCESS ||
        cublasSetStream(h, b->stream) != CUBLAS_STATUS_SUCCESS ||
        cublasSetWorkspace(h, ws, 32 << 20) != CUBLAS_STATUS_SUCCESS) {
        must(cudaErrorLaunchFailure, "cuBLAS");
    }
    best = 1e30;
    for (int i = 0; i < 5; i++) {
        begin(b);
        if (cublasGemmStridedBatchedEx(h, CUBLAS_OP_T, CUBLAS_OP_N, side, side, side, &one, w,
                                       CUDA_R_16BF, side, 0, x, CUDA_R_16BF, side, 0, &zero, y,
                                       CUDA_R_32F, side, 0, 1, CUBLAS_COMPUTE_32F,
                                       CUBLAS_GEMM_DEFAULT) != CUBLAS_STATUS_SUCCESS) {
            must(cudaErrorLaunchFailure, "matrix probe");
        }
        double us = end_us(b, 1);
        if (us < best) best = us;
    }
    b->matrix_tflops = 2.0 * side * side * (double)side / best * 1e-6;
    (void)cublasDestroy(h);
    give_all(b);
    printf("\"read_probe_gb_s\":%.1f,\"matrix_probe_tflop_s\":%.1f,\"kernel_gap_us\":%.2f,\n",
           b->read_gbs, b->matrix_tflops, b->gap_us);
}

/* ---- one kernel ---- */

typedef cudaError_t (*go)(bench *b, void *arg);
static bool first_line = true;

/* Times `fn` and prints its share of the probe. `bytes`: what it must read. Working sets are
 * larger than the second-level cache where the model's are. */
static void measure(bench *b, const char *name, uint32_t rows, double bytes, go fn, void *arg) {
    for (uint32_t i = 0; i < 3; i++)
        must(fn(b, arg), name);
    begin(b);
    for (uint32_t i = 0; i < b->repeats; i++)
        must(fn(b, arg), name);
    double us = end_us(b, b->repeats), gbs = bytes / us * 1e-3;
    printf("%s{\"kernel\":\"%s\",\"rows\":%u,\"us\":%.2f,\"bytes\":%.0f,\"gb_s\":%.1f,"
           "\"percent_of_read_probe\":%.1f}",
           first_line ? "" : ",\n", name, rows, us, bytes, gbs, 100 * gbs / b->read_gbs);
    first_line = false;
    fflush(stdout);
}

static void *descriptor(bench *b, uint32_t rows) {
    uint32_t blocks = (b->context + 31) / 32;
    size_t tables = (size_t)rows * blocks;
    cu_head h = {.n_rows = rows, .n_tiles = rows, .n_logits = rows, .rows = sizeof h, .bad = take(b, 16)};
    h.tiles = h.rows + rows * (uint32_t)sizeof(cu_row);
    h.edits = h.tables = h.tiles + rows * (uint32_t)sizeof(cu_tile);
    size_t bytes = h.tables + tables * 4;
    uint8_t *p = array_new(bytes, 1);
    if (p == NULL) must(cudaErrorMemoryAllocation, "the host's memory");
    memcpy(p, &h, sizeof h);
    for (uint32_t i = 0; i < rows; i++) {
        cu_row r = {.row = i,
                    .pos = b->context - 1,
                    .table = i * blocks,
                    .logits = i,
                    .loop = (uint16_t)(i % b->c.max_loop_iters),
                    .max_loops = 1000,
                    .threshold = 2};
        cu_tile t = {i, 1};
        memcpy(p + h.rows + i * sizeof r, &r, sizeof r);
        memcpy(p + h.tiles + i * sizeof t, &t, sizeof t);
    }
    for (uint32_t i = 0; i < tables; i++)
        memcpy(p + h.tables + (size_t)i * 4, &i, 4);
    void *dev = send(b, p, bytes);
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
    return cu_attn_fits_mma(&x->a, false) ? cu_attn_mma(b->stream, &x->a, x->rows, true)
                                          : cu_attn_simple(b->stream, &x->a, x->rows, false);
}
static cudaError_t go_merge(bench *b, void *arg) {
    attention_arg *x = arg;
    return cu_attn_merge(b->stream, &x->a, x->rows, false);
}

/* Every row its own sequence and its own scattered slots: nothing is read twice. */
static void attention(bench *b, uint32_t rows) {
    const eng_config *c = &b->c;
    uint32_t blocks = (b->context + 31) / 32, n = rows * blocks * 32;
    attention_arg x = {.rows = rows};
    cu_attn_args *a = &x.a;
    bool mla = c->attn_type == ENG_ATTN_MLA;
    uint32_t *maps = array_new(n, 4);
    if (maps == NULL) must(cudaErrorMemoryAllocation, "the host's memory");
    for (uint32_t i = 0; i < n; i++)
        maps[i] = i;
    for (uint32_t i = n - 1; i > 0; i--) {
        uint32_t j = rnd(b, i + 1), t = maps[i];
        maps[i] = maps[j];
        maps[j] = t;
    }
    a->desc = descriptor(b, rows);
    a->cache = (cu_cache){.slots = take(b, (size_t)n * c->slot_values * 2),
                          .maps = send(b, maps, (size_t)n * 4),
                          .n_slots = n,
                          .n_blocks = rows * blocks,
                          .n_planes = 1,
                          .slot_values = c->slot_values};
    free(maps);
    a->n_heads = c->n_heads;
    a->n_kv_heads = mla ? 1 : c->n_kv_heads;
    a->dk = mla ? c->kv_lora_rank + c->qk_rope_head_dim : c->head_dim;
    a->dv = mla ? c->kv_lora_rank : c->head_dim;
    a->v_offset = mla ? 0 : c->n_kv_heads * c->head_dim;
    a->scale = 0.1f;
    a->o_head = cu_round(a->dv, CU_K_STEP);
    a->o_ld = a->n_heads * a->o_head;
    uint32_t want = b->sms * 4 / rows, tiles = (b->context + CU_ATTN_KEYS - 1) / CU_ATTN_KEYS;
    a->splits = want > CU_MAX_SPLITS ? CU_MAX_SPLITS : want ? want : 1;
    if (a->splits > tiles) a->splits = tiles;
    a->q = take(b, (size_t)rows * a->n_heads * a->dk * 2);
    a->o = take(b, (size_t)rows * a->o_ld * 2);
    size_t parts = (size_t)rows * a->splits * a->n_heads;
    a->part_o = take(b, parts * a->dv * 4);
    a->part_ml = take(b, parts * 8);
    measure(b, "attention", rows, (double)rows * b->context * c->slot_values * 2, go_attention, &x);
    measure(b, "attention_merge", rows, (double)parts * (a->dv + 2) * 4, go_merge, &x);
    give_all(b);
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
                       .w = take(b, group * groups * 2),
                       .w_group = group,
                       .ldw = k,
                       .x = take(b, (size_t)rows * groups * k * 2),
                       .ldx = groups * k,
                       .x_group = k,
                       .y = take(b, (size_t)rows * groups * n * 4),
                       .ldy = groups * n,
                       .y_group = n,
                       .n = n,
                       .k = k,
                       .groups = groups};
    measure(b, name, rows, (double)group * groups * 2, go_mm, &x);
    give_all(b);
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
    const eng_config *c = &b->c;
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
    m.pick = take(b, (size_t)rows * m.top_k * 4);
    m.weight = take(b, (size_t)rows * m.top_k * 4);
    m.order = take(b, (size_t)parts * 4);
    m.tiles = take(b, m.max_tiles * sizeof(cu_moe_tile));
    m.n_tiles = take(b, 4);
    float *logits = array_new((size_t)rows * e, 4), *zero = array_new(e, 4);
    if (logits == NULL || zero == NULL) must(cudaErrorMemoryAllocation, "the host's memory");
    for (size_t i = 0; i < (size_t)rows * e; i++)
        logits[i] = (float)rnd(b, 1000) * 0.01f;
    void *desc = descriptor(b, rows);
    x.route = (cu_route_args){.desc = desc,
                              .logits = send(b, logits, (size_t)rows * e * 4),
                              .bias = send(b, zero, e * 4),
                              .moe = m};
    x.in = (cu_mm_args){.desc = desc,
                        .map = CU_MAP_IN,
                        .store = CU_STORE_SILU,
                        .w = take(b, group * e * 2),
                        .w_shared = take(b, group * shared * 2),
                        .w_group = group,
                        .w_shared_group = group,
                        .ldw = d,
                        .ldw_shared = d,
                        .x = take(b, (size_t)rows * d * 2),
                        .ldx = d,
                        .y = take(b, (size_t)parts * h * 2),
                        .ldy = h,
                        .n = 2 * h,
                        .k = d,
                        .moe = m};
    x.out = (cu_mm_args){.desc = desc,
                         .map = CU_MAP_OUT,
                         .store = CU_STORE_F32,
                         .w = take(b, out_group * e * 2),
                         .w_shared = take(b, out_group * shared * 2),
                         .w_group = out_group,
                         .w_shared_group = h,
                         .ldw = h,
                         .ldw_shared = h * shared,
                         .x = x.in.y,
                         .ldx = h,
                         .y = take(b, (size_t)parts * c->dim * 4),
                         .ldy = c->dim,
                         .n = c->dim,
                         .k = h,
                         .moe = m};
    must(go_route(b, &x), "routing");
    uint32_t *pick = array_new((size_t)rows * m.top_k, 4), live = shared;
    uint8_t *has = array_new(e, 1);
    if (pick == NULL || has == NULL) must(cudaErrorMemoryAllocation, "the host's memory");
    must(cudaStreamSynchronize(b->stream), "waiting");
    must(cudaMemcpy(pick, m.pick, (size_t)rows * m.top_k * 4, cudaMemcpyDeviceToHost), "copying");
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
    give_all(b);
}

int main(int argc, char **argv) {
    static const uint32_t all[] = {1, 8, 32, 128, 512}, few[] = {1, 9};
    bench b = {.seed = 7, .context = 1024, .repeats = 50};
    err e = {0};
    int devices = 0;
    const char *variant = argc > 1 ? argv[1] : "mythos_1b";
    bool small = strcmp(variant, "tiny") == 0; /* to try the program itself, not to measure */
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
        fprintf(stderr, "fathom-cuda-bench: no CUDA device\n");
        return 2;
    }
    if (eng_config_variant(&b.c, variant, &e) != 0) {
        fprintf(stderr, "fathom-cuda-bench: %s\n", e.msg);
        return 2;
    }
    if (argc > 2) b.context = (uint32_t)strtoul(argv[2], NULL, 10);
    if (b.context < 1 || b.context > 1u << 20) return 2;
    if (small) b.repeats = 1;
    struct cudaDeviceProp prop;
    must(cudaSetDevice(0), "choosing a device");
    must(cudaGetDeviceProperties(&prop, 0), "asking for the device");
    b.sms = (uint32_t)prop.multiProcessorCount;
    must(cu_kernels_setup(0, b.c.dim), "sizing shared memory");
    must(cudaStreamCreateWithFlags(&b.stream, cudaStreamNonBlocking), "opening a stream");
    must(cudaEventCreate(&b.from), "opening an event");
    must(cudaEventCreate(&b.to), "opening an event");
    printf("{\"device\":\"%s\",\"variant\":\"%s\",\"context\":%u,\"dtype\":\"bf16\",\n", prop.name,
           variant, b.context);
    probes(&b, small ? 1 << 20 : (size_t)4 << 30, small ? 64 : 8192);
    printf("\"kernels\":[\n");
    const eng_config *c = &b.c;
    for (size_t i = 0; i < (small ? ARRAY_LEN(few) : ARRAY_LEN(all)); i++) {
        uint32_t rows = small ? few[i] : all[i];
        if (c->attn_type == ENG_ATTN_MLA) {
            dense(&b, "q_down_kv_down", rows, c->q_lora_rank + c->slot_values, c->dim, CU_MAP_ROWS,
                  1);
            dense(&b, "q_up", rows, c->n_heads * (c->qk_nope_head_dim + c->qk_rope_head_dim),
                  c->q_lora_rank, CU_MAP_ROWS, 1);
            dense(&b, "absorb", rows, c->kv_lora_rank, c->qk_nope_head_dim, CU_MAP_HEADS,
                  c->n_heads);
            dense(&b, "value_up", rows, c->v_head_dim, c->kv_lora_rank, CU_MAP_HEADS, c->n_heads);
        }
        attention(&b, rows);
        experts(&b, rows);
        dense(&b, "head", rows, c->vocab_size, c->dim, CU_MAP_ROWS, 1);
    }
    printf("\n]}\n");
    (void)cudaEventDestroy(b.from);
    (void)cudaEventDestroy(b.to);
    (void)cudaStreamDestroy(b.stream);
    return 0;
}
