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
    cublasHandle_t blas;
    void *blas_space;
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

static void open_blas(bench *b) {
    void *workspace;
    must(cudaMalloc(&workspace, 32 << 20), "allocating");
    if (cublasCreate(&b->blas) != CUBLAS_STATUS_SUCCESS ||
        cublasSetStream(b->blas, b->stream) != CUBLAS_STATUS_SUCCESS ||
        cublasSetWorkspace(b->blas, workspace, 32 << 20) != CUBLAS_STATUS_SUCCESS) {
        must(cudaErrorLaunchFailure, "cuBLAS");
    }
    b->blas_space = workspace;
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
    void *p = take(b, bytes), *sink = take(b, 4);
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
    const float one = 1, zero = 0;
    size_t n = (size_t)side * (size_t)side * 2;
    void *x = take(b, n), *w = take(b, n), *y = take(b, 2 * n);
    best = 1e30;
    for (int i = 0; i < 5; i++) {
        begin(b);
        if (cublasGemmStridedBatchedEx(b->blas, CUBLAS_OP_T, CUBLAS_OP_N, side, side, side, &one, w,
                                       CUDA_R_16BF, side, 0, x, CUDA_R_16BF, side, 0, &zero, y,
                                       CUDA_R_32F, side, 0, 1, CUBLAS_COMPUTE_32F,
                                       CUBLAS_GEMM_DEFAULT) != CUBLAS_STATUS_SUCCESS) {
            must(cudaErrorLaunchFailure, "matrix probe");
        }
        double us = end_us(b, 1);
        if (us < best) best = us;
    }
    b->matrix_tflops = 2.0 * side * side * (double)side / best * 1e-6;
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
    cu_head h = {
        .n_rows = rows, .n_tiles = rows, .n_logits = rows, .rows = sizeof h, .bad = take(b, 16)};
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
    return cu_attn(b->stream, &x->a, x->rows, false, true);
}
static cudaError_t go_merge(bench *b, void *arg) {
    attention_arg *x = arg;
    return cu_attn_merge(b->stream, &x->a, x->rows, false);
}

/* A cache of n slots in one plane, every position at a slot of its own, scattered. */
static cu_cache scattered(bench *b, uint32_t n) {
    uint32_t *maps = array_new(n, 4);
    if (maps == NULL) must(cudaErrorMemoryAllocation, "the host's memory");
    for (uint32_t i = 0; i < n; i++)
        maps[i] = i;
    for (uint32_t i = n - 1; i > 0; i--) {
        uint32_t j = rnd(b, i + 1), t = maps[i];
        maps[i] = maps[j];
        maps[j] = t;
    }
    cu_cache cache = {.slots = take(b, (size_t)n * b->c.slot_values * 2),
                      .maps = send(b, maps, (size_t)n * 4),
                      .n_slots = n,
                      .n_blocks = n / 32,
                      .n_planes = 1,
                      .slot_values = b->c.slot_values};
    free(maps);
    return cache;
}

/* Everything but descriptor, cache and splits, for so many rows. */
static cu_attn_args attention_args(bench *b, uint32_t rows, uint32_t splits) {
    const eng_config *c = &b->c;
    bool mla = c->attn_type == ENG_ATTN_MLA;
    cu_attn_args all = {.splits = splits}, *a = &all;
    a->n_heads = c->n_heads;
    a->n_kv_heads = mla ? 1 : c->n_kv_heads;
    a->dk = mla ? c->kv_lora_rank + c->qk_rope_head_dim : c->head_dim;
    a->dv = mla ? c->kv_lora_rank : c->head_dim;
    a->v_offset = mla ? 0 : c->n_kv_heads * c->head_dim;
    a->scale = 0.1f;
    a->o_head = cu_round(a->dv, CU_K_STEP);
    a->o_ld = a->n_heads * a->o_head;
    a->q = take(b, (size_t)rows * a->n_heads * a->dk * 2);
    a->o = take(b, (size_t)rows * a->o_ld * 2);
    size_t parts = (size_t)rows * a->splits * a->n_heads;
    a->part_o = take(b, parts * a->dv * 4);
    a->part_ml = take(b, parts * 8);
    return all;
}

static uint32_t splits_for(const bench *b, uint32_t blocks, uint32_t context) {
    uint32_t want = b->sms * 4 / blocks, tiles = (context + CU_ATTN_KEYS - 1) / CU_ATTN_KEYS;
    if (want > CU_MAX_SPLITS) want = CU_MAX_SPLITS;
    if (want > tiles) want = tiles;
    return want ? want : 1;
}

/* Decode: every row its own sequence and its own scattered slots: nothing is read twice. */
static void attention(bench *b, uint32_t rows) {
    bool mla = b->c.attn_type == ENG_ATTN_MLA;
    uint32_t per_row = mla ? 1 : b->c.n_kv_heads;
    attention_arg x = {.rows = rows};
    x.a = attention_args(b, rows, splits_for(b, rows * per_row, b->context));
    x.a.desc = descriptor(b, rows);
    x.a.cache = scattered(b, rows * ((b->context + 31) / 32) * 32);
    size_t parts = (size_t)rows * x.a.splits * x.a.n_heads;
    measure(b, mla ? "attention" : "attention_gqa", rows,
            (double)rows * b->context * b->c.slot_values * 2, go_attention, &x);
    measure(b, mla ? "attention_merge" : "attention_gqa_merge", rows,
            (double)parts * (x.a.dv + 2) * 4, go_merge, &x);
    give_all(b);
}

/* The same model with grouped queries: its heads, K/V heads and width. */
static void attention_gqa(bench *b, uint32_t rows) {
    eng_config own = b->c;
    if (own.attn_type == ENG_ATTN_GQA) return;
    b->c.attn_type = ENG_ATTN_GQA;
    b->c.head_dim = own.dim / own.n_heads;
    b->c.slot_values = 2 * own.n_kv_heads * b->c.head_dim;
    attention(b, rows);
    b->c = own;
}

/* ---- prompts: a chunk at the end of its context, absorbed and over expanded keys ---- */

typedef struct {
    attention_arg absorbed;
    cu_flash_args expanded;
    cu_mat uk, uv;
    uint32_t rows, tiles, n_tiles; /* n_tiles: of expanded attention */
} prefill_arg;

static cudaError_t per_head(bench *b, const cu_mat *w, const void *x, uint32_t x_head, void *y,
                            uint32_t ldy, uint32_t y_head, uint32_t rows) {
    const float one = 1, zero = 0;
    uint32_t heads = b->c.n_heads;
    cublasStatus_t rc = cublasGemmStridedBatchedEx(
        b->blas, CUBLAS_OP_T, CUBLAS_OP_N, (int)w->n, (int)rows, (int)w->k, &one, w->w, CUDA_R_16BF,
        (int)w->ld, (long long)w->group, x, CUDA_R_16BF, (int)(heads * x_head), (long long)x_head,
        &zero, y, CUDA_R_16BF, (int)ldy, (long long)y_head, (int)heads, CUBLAS_COMPUTE_32F,
        CUBLAS_GEMM_DEFAULT);
    return rc == CUBLAS_STATUS_SUCCESS ? cudaSuccess : cudaErrorLaunchFailure;
}

/* What a run costs either way: absorption and value_up belong to the one, the expansion to the
 * other. Products by cuBLAS, as the backend's are from 64 rows on. */
static cudaError_t go_absorbed(bench *b, void *arg) {
    prefill_arg *p = arg;
    cu_attn_args *a = &p->absorbed.a;
    const cu_flash_args *f = &p->expanded;
    cudaError_t rc = per_head(b, &p->uk, f->q_nope, f->nope_ld, (void *)(uintptr_t)a->q,
                              a->n_heads * a->dk, a->dk, p->rows);
    if (rc == cudaSuccess) rc = cu_attn(b->stream, a, p->tiles, false, false);
    if (rc == cudaSuccess) rc = cu_attn_merge(b->stream, a, p->rows, false);
    if (rc != cudaSuccess) return rc;
    return per_head(b, &p->uv, a->o, a->o_head, f->o, f->o_ld, f->v, p->rows);
}
static cudaError_t go_expand(bench *b, void *arg) {
    return cu_flash_expand(b->stream, &((prefill_arg *)arg)->expanded, 0);
}
static cudaError_t go_attend(bench *b, void *arg) {
    prefill_arg *p = arg;
    return cu_flash_attend(b->stream, &p->expanded, 0, p->n_tiles);
}
static cudaError_t go_expanded(bench *b, void *arg) {
    prefill_arg *p = arg;
    cudaError_t rc = go_expand(b, arg);
    if (rc == cudaSuccess) rc = go_attend(b, arg);
    return rc == cudaSuccess ? cu_flash_merge(b->stream, &p->expanded, p->rows) : rc;
}

/* One chunk as launch.c would pack it: tiles of one prompt, and its run if expand. */
static void *chunk(bench *b, prefill_arg *p, uint32_t context, bool expand, uint32_t *keys) {
    uint32_t rows = p->rows, blocks = (context + 31) / 32, per = 1;
    cu_backend *plan = array_new(1, sizeof *plan);
    uint32_t *table = array_new(blocks, 4);
    eng_row *er = array_new(rows, sizeof *er);
    if (plan == NULL || table == NULL || er == NULL) must(cudaErrorMemoryAllocation, "the host");
    plan->opts.max_launch = rows;
    plan->opts.max_positions = context;
    eng__cuda_size_runs(plan, expand ? rows : UINT32_MAX, 0, cu_flash_key_bytes(&p->expanded));
    cu_head h = {.n_rows = rows, .rows = sizeof h, .bad = take(b, 16)};
    h.tiles = h.rows + rows * (uint32_t)sizeof(cu_row);
    h.edits = h.tables = h.tiles + rows * (uint32_t)sizeof(cu_tile);
    size_t bytes = h.tables + (size_t)blocks * 4;
    uint8_t *desc = array_new(bytes + eng__cuda_runs_bytes(plan), 1);
    if (desc == NULL) must(cudaErrorMemoryAllocation, "the host");
    per = cu_attn_tile_rows(&p->absorbed.a, false);
    for (uint32_t i = 0; i < blocks; i++)
        table[i] = i;
    for (uint32_t i = 0; i < rows; i++) {
        er[i] = (eng_row){.row = i, .pos = context - rows + i, .blocks = table};
        cu_row r = {.row = i, .pos = er[i].pos, .at = i};
        memcpy(desc + h.rows + i * sizeof r, &r, sizeof r);
        if (i % per) continue;
        cu_tile t = {i, rows - i < per ? rows - i : per};
        memcpy(desc + h.tiles + h.n_tiles++ * sizeof t, &t, sizeof t);
    }
    memcpy(desc + h.tables, table, (size_t)blocks * 4);
    memcpy(desc, &h, sizeof h);
    eng_launch l = {.stage = ENG_STAGE_PRELUDE, .rows = er, .n_rows = rows};
    bool all;
    bytes = eng__cuda_put_runs(plan, &l, desc, bytes, &all);
    if (expand) p->n_tiles = eng__cuda_flash_tiles(plan, rows);
    p->tiles = h.n_tiles;
    *keys = expand ? plan->flash.keys : CU_FLASH_KEYS;
    void *dev = send(b, desc, bytes);
    free(desc);
    free(er);
    free(table);
    free(plan);
    return dev;
}

static cu_mat heads_of(bench *b, uint32_t n, uint32_t k) {
    cu_mat m = {.n = n, .k = cu_round(k, CU_K_STEP), .ld = cu_round(k, CU_K_STEP)};
    m.group = (uint64_t)cu_round(n, CU_MM_ROWS) * m.ld;
    m.w = take(b, m.group * b->c.n_heads * 2);
    return m;
}

/* A line with the share of the matrix probe that a kernel's own arithmetic reaches. */
static double measure_ops(bench *b, const char *name, uint32_t rows, uint32_t context, double ops,
                          double against_us, go fn, void *arg) {
    for (uint32_t i = 0; i < 3; i++)
        must(fn(b, arg), name);
    begin(b);
    for (uint32_t i = 0; i < b->repeats; i++)
        must(fn(b, arg), name);
    double us = end_us(b, b->repeats), tflops = ops / us * 1e-6;
    printf("%s{\"kernel\":\"%s\",\"rows\":%u,\"context\":%u,\"us\":%.2f,\"gflop\":%.3f,"
           "\"tflop_s\":%.1f,\"percent_of_matrix_probe\":%.1f",
           first_line ? "" : ",\n", name, rows, context, us, ops * 1e-9, tflops,
           100 * tflops / b->matrix_tflops);
    if (against_us > 0) printf(",\"times_faster_than_absorbed\":%.2f", against_us / us);
    printf("}");
    first_line = false;
    fflush(stdout);
    return us;
}

/* True if the expanded side is the faster one. */
static bool prefill(bench *b, uint32_t rows, uint32_t context) {
    const eng_config *c = &b->c;
    prefill_arg p = {.rows = rows};
    cu_flash_args *f = &p.expanded;
    uint32_t keys, heads = c->n_heads;
    double pairs = (double)rows * (context - rows) + (double)rows * (rows + 1) / 2;
    p.absorbed.a = attention_args(b, rows, splits_for(b, rows, context));
    p.uk = heads_of(b, c->kv_lora_rank, c->qk_nope_head_dim);
    p.uv = heads_of(b, c->v_head_dim, c->kv_lora_rank);
    *f = (cu_flash_args){.cache = scattered(b, cu_round(context, 32)),
                         .n_heads = heads,
                         .nope = c->qk_nope_head_dim,
                         .rope = c->qk_rope_head_dim,
                         .kv_lora = c->kv_lora_rank,
                         .v = c->v_head_dim,
                         .uk = p.uk.w,
                         .uv = p.uv.w,
                         .uk_head = p.uk.group,
                         .uv_head = p.uv.group,
                         .uk_ld = p.uk.ld,
                         .uv_ld = p.uv.ld,
                         .q = p.absorbed.a.q,
                         .nope_ld = cu_round(c->qk_nope_head_dim, CU_K_STEP),
                         .scale = 0.1f,
                         .o_ld = cu_round(heads * c->v_head_dim, CU_K_STEP)};
    f->q_nope = take(b, (size_t)rows * heads * f->nope_ld * 2);
    f->o = take(b, (size_t)rows * f->o_ld * 2);
    f->part_o = take(b, (size_t)rows * CU_FLASH_SPLITS * heads * f->v * 4);
    f->part_ml = take(b, (size_t)rows * CU_FLASH_SPLITS * heads * 8);
    p.absorbed.a.cache = f->cache;
    p.absorbed.a.desc = chunk(b, &p, context, false, &keys);
    f->desc = chunk(b, &p, context, true, &keys);
    f->keys = keys;
    f->k = take(b, (size_t)heads * keys * cu_round(f->nope, 16) * 2);
    f->values = take(b, (size_t)heads * keys * cu_round(f->v, 16) * 2);
    f->k_rope = take(b, (size_t)keys * cu_round(f->rope, 16) * 2);
    double rebuild = 2.0 * heads * f->kv_lora * (f->nope + f->v);
    double dots = 2.0 * heads * (f->nope + f->rope + f->v) * pairs;
    double absorbed = measure_ops(b, "prefill_absorbed", rows, context,
                                  2.0 * heads * (2 * f->kv_lora + f->rope) * pairs + rebuild * rows,
                                  0, go_absorbed, &p);
    measure_ops(b, "prefill_expand", rows, context, rebuild * context, 0, go_expand, &p);
    measure_ops(b, "prefill_attend", rows, context, dots, 0, go_attend, &p);
    double expanded = measure_ops(b, "prefill_expanded", rows, context, dots + rebuild * context,
                                  absorbed, go_expanded, &p);
    give_all(b);
    return expanded < absorbed;
}

/* Chunks on both sides of the crossover; says from which one on expanding was faster. */
static void prefills(bench *b, bool small) {
    static const uint32_t chunks[] = {64, 96, 112, 128, 192, 256, 512}, contexts[] = {1024, 4096};
    cu_flash_args shape = {.kv_lora = b->c.kv_lora_rank,
                           .rope = b->c.qk_rope_head_dim,
                           .nope = b->c.qk_nope_head_dim,
                           .v = b->c.v_head_dim};
    for (size_t k = 0; k < ARRAY_LEN(contexts); k++) {
        uint32_t context = small ? 100 + 100 * (uint32_t)k : contexts[k], from = 0;
        for (size_t i = 0; i < (small ? 2 : ARRAY_LEN(chunks)); i++) {
            bool faster = prefill(b, chunks[i], context);
            if (!faster) from = 0;
            else if (from == 0) from = chunks[i];
        }
        printf(",\n{\"kernel\":\"prefill_crossover\",\"context\":%u,\"measured\":%u,\"built\":%u}",
               context, from, cu_flash_crossover(&shape));
    }
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
    if (logits == NULL || desc == NULL) must(cudaErrorMemoryAllocation, "the host's memory");
    for (size_t i = 0; i < n; i++)
        logits[i] = (float)(rnd(b, 10000) + rnd(b, 10000) + rnd(b, 10000)) * 1e-3f;
    sample_arg x = {{.logits = send(b, logits, n * 4), .vocab = b->c.vocab_size}, rows};
    cu_head h = {.n_draws = rows, .draws = sizeof h, .choices = take(b, rows * sizeof(cu_choice))};
    memcpy(desc, &h, sizeof h);
    for (size_t k = 0; k < ARRAY_LEN(ways); k++) {
        for (uint32_t i = 0; i < rows; i++) {
            cu_draw d = ways[k].draw;
            d.seed = d.logits = i;
            memcpy(desc + h.draws + i * sizeof d, &d, sizeof d);
        }
        x.a.desc = send(b, desc, bytes);
        measure(b, ways[k].name, rows, (double)n * 4, go_sample, &x);
    }
    free(logits);
    free(desc);
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
    open_blas(&b);
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
        attention_gqa(&b, rows);
        experts(&b, rows);
        dense(&b, "head", rows, c->vocab_size, c->dim, CU_MAP_ROWS, 1);
        sampling(&b, rows);
    }
    if (c->attn_type == ENG_ATTN_MLA) prefills(&b, small);
    printf("\n]}\n");
    (void)cublasDestroy(b.blas);
    (void)cudaFree(b.blas_space);
    (void)cudaEventDestroy(b.from);
    (void)cudaEventDestroy(b.to);
    (void)cudaStreamDestroy(b.stream);
    return 0;
}
