/* prefill.c - prompts in the kernel benchmark: a chunk at the end of its context, absorbed and
 * over expanded keys, to see where one overtakes the other. */
#include "base/size.h"
#include "bench/cuda/bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    cu_attn_args absorbed;
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
    cu_attn_args *a = &p->absorbed;
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
    if (plan == NULL || table == NULL || er == NULL) kb_must(cudaErrorMemoryAllocation, "the host");
    plan->opts.max_launch = rows;
    plan->opts.max_positions = context;
    eng__cuda_size_runs(plan, expand ? rows : UINT32_MAX, 0, cu_flash_key_bytes(&p->expanded));
    cu_head h = {.n_rows = rows, .rows = sizeof h, .bad = kb_take(b, 16)};
    h.tiles = h.rows + rows * (uint32_t)sizeof(cu_row);
    h.edits = h.tables = h.tiles + rows * (uint32_t)sizeof(cu_tile);
    size_t bytes = h.tables + (size_t)blocks * 4;
    uint8_t *desc = array_new(bytes + eng__cuda_runs_bytes(plan), 1);
    if (desc == NULL) kb_must(cudaErrorMemoryAllocation, "the host");
    per = cu_attn_tile_rows(&p->absorbed, false);
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
    void *dev = kb_put(b, desc, bytes);
    free(desc);
    free(er);
    free(table);
    free(plan);
    return dev;
}

static cu_mat heads_of(bench *b, uint32_t n, uint32_t k) {
    cu_mat m = {.n = n, .k = cu_round(k, CU_K_STEP), .ld = cu_round(k, CU_K_STEP)};
    m.group = (uint64_t)cu_round(n, CU_MM_ROWS) * m.ld;
    m.w = kb_take(b, m.group * b->c.n_heads * 2);
    return m;
}

/* A line with the share of the matrix probe that a kernel's own arithmetic reaches. */
static double measure_ops(bench *b, const char *name, uint32_t rows, uint32_t context, double ops,
                          double against_us, go fn, void *arg) {
    for (uint32_t i = 0; i < 3; i++)
        kb_must(fn(b, arg), name);
    kb_begin(b);
    for (uint32_t i = 0; i < b->repeats; i++)
        kb_must(fn(b, arg), name);
    double us = kb_end_us(b, b->repeats), tflops = ops / us * 1e-6;
    printf("%s{\"kernel\":\"%s\",\"rows\":%u,\"context\":%u,\"us\":%.2f,\"gflop\":%.3f,"
           "\"tflop_s\":%.1f,\"percent_of_matrix_probe\":%.1f",
           kb_first_line ? "" : ",\n", name, rows, context, us, ops * 1e-9, tflops,
           100 * tflops / b->matrix_tflops);
    if (against_us > 0) printf(",\"times_faster_than_absorbed\":%.2f", against_us / us);
    printf("}");
    kb_first_line = false;
    fflush(stdout);
    return us;
}

/* True if the expanded side is the faster one. */
static bool prefill(bench *b, uint32_t rows, uint32_t context) {
    const model_plan *c = &b->c;
    prefill_arg p = {.rows = rows};
    cu_flash_args *f = &p.expanded;
    uint32_t keys, heads = c->n_heads;
    double pairs = (double)rows * (context - rows) + (double)rows * (rows + 1) / 2;
    p.absorbed = kb_attention_args(b, rows, kb_splits_for(b, rows, context));
    p.uk = heads_of(b, c->kv_lora_rank, c->qk_nope_head_dim);
    p.uv = heads_of(b, c->v_head_dim, c->kv_lora_rank);
    *f = (cu_flash_args){.cache = kb_scattered(b, cu_round(context, 32)),
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
                         .q = p.absorbed.q,
                         .nope_ld = cu_round(c->qk_nope_head_dim, CU_K_STEP),
                         .scale = 0.1f,
                         .o_ld = cu_round(heads * c->v_head_dim, CU_K_STEP)};
    f->q_nope = kb_take(b, (size_t)rows * heads * f->nope_ld * 2);
    f->o = kb_take(b, (size_t)rows * f->o_ld * 2);
    f->part_o = kb_take(b, (size_t)rows * CU_FLASH_SPLITS * heads * f->v * 4);
    f->part_ml = kb_take(b, (size_t)rows * CU_FLASH_SPLITS * heads * 8);
    p.absorbed.cache = f->cache;
    p.absorbed.desc = chunk(b, &p, context, false, &keys);
    f->desc = chunk(b, &p, context, true, &keys);
    f->keys = keys;
    f->k = kb_take(b, (size_t)heads * keys * cu_round(f->nope, 16) * 2);
    f->values = kb_take(b, (size_t)heads * keys * cu_round(f->v, 16) * 2);
    f->k_rope = kb_take(b, (size_t)keys * cu_round(f->rope, 16) * 2);
    double rebuild = 2.0 * heads * f->kv_lora * (f->nope + f->v);
    double dots = 2.0 * heads * (f->nope + f->rope + f->v) * pairs;
    double absorbed = measure_ops(b, "prefill_absorbed", rows, context,
                                  2.0 * heads * (2 * f->kv_lora + f->rope) * pairs + rebuild * rows,
                                  0, go_absorbed, &p);
    measure_ops(b, "prefill_expand", rows, context, rebuild * context, 0, go_expand, &p);
    measure_ops(b, "prefill_attend", rows, context, dots, 0, go_attend, &p);
    double expanded = measure_ops(b, "prefill_expanded", rows, context, dots + rebuild * context,
                                  absorbed, go_expanded, &p);
    kb_give_all(b);
    return expanded < absorbed;
}

/* Chunks on both sides of the crossover; says from which one on expanding was faster. */
void kb_prefills(bench *b, bool small) {
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
