/* stages.c - the kernels of each stage in order, for a capacity of rows.
 *
 * Nothing here knows a launch: counts are read on the device. Up to CU_BLAS_ROWS rows every
 * product is the project's own kernel; from there on dense products are cuBLAS's, which then
 * computes the capacity's rows (those beyond the launch are scratch nobody reads). */
#include "engine/cuda/cuda_internal.h"

#include <math.h>

/* Joins steps until one fails. */
#define STEP(rc, call)                                                                             \
    do {                                                                                           \
        if ((rc) == cudaSuccess) (rc) = (call);                                                    \
    } while (0)

static bool use_blas(const cu_backend *b, uint32_t rows) {
    return !b->f32 && rows >= CU_BLAS_ROWS;
}

bool eng__cuda_blas_shared(const cu_backend *b, uint32_t rows) {
    return use_blas(b, rows) && b->groups_shared > 0;
}

static uint32_t max_blocks(const cu_backend *b) {
    return (uint32_t)b->sms * 2;
}

/* y [rows][ldy] = x [rows][ldx] wT, `count` times with the given strides; y float32 or bfloat16. */
static cudaError_t blas(cu_backend *b, const cu_mat *w, const void *x, uint32_t ldx,
                        uint32_t x_step, void *y, uint32_t ldy, uint32_t y_step, bool y_f32,
                        uint32_t rows, uint32_t count) {
    const float one = 1.0f, zero = 0.0f;
    cublasStatus_t rc = cublasGemmStridedBatchedEx(
        b->blas, CUBLAS_OP_T, CUBLAS_OP_N, (int)w->n, (int)rows, (int)w->k, &one, w->w, CUDA_R_16BF,
        (int)w->ld, (long long)w->group, x, CUDA_R_16BF, (int)ldx, (long long)x_step, &zero, y,
        y_f32 ? CUDA_R_32F : CUDA_R_16BF, (int)ldy, (long long)y_step, (int)count,
        CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    return rc == CUBLAS_STATUS_SUCCESS ? cudaSuccess : cudaErrorLaunchFailure;
}

static cudaError_t product(cu_backend *b, const cu_mat *w, cu_mm_store store, const void *x,
                           void *y, uint32_t ldy, uint32_t rows) {
    if (use_blas(b, rows) && store == CU_STORE_F32) {
        return blas(b, w, x, w->ld, 0, y, ldy, 0, true, rows, 1);
    }
    if (use_blas(b, rows) && store == CU_STORE_SILU) {
        cudaError_t rc = blas(b, w, x, w->ld, 0, b->s.wide, w->n, 0, false, rows, 1);
        STEP(rc, cu_silu(b->stream, b->desc, b->s.wide, y, w->n / 2, rows));
        return rc;
    }
    cu_mm_args a = {.desc = b->desc,
                    .map = CU_MAP_ROWS,
                    .store = store,
                    .w = w->w,
                    .ldw = w->ld,
                    .x = x,
                    .y = y,
                    .ldx = w->ld,
                    .ldy = ldy,
                    .n = w->n,
                    .k = w->k};
    return cu_mm(b->stream, &a, rows, max_blocks(b), b->f32);
}

/* One product per head, act to act. */
static cudaError_t per_head(cu_backend *b, const cu_mat *w, const void *x, uint32_t x_head, void *y,
                            uint32_t ldy, uint32_t y_head, uint32_t rows) {
    uint32_t heads = b->c.n_heads;
    if (use_blas(b, rows)) {
        return blas(b, w, x, heads * x_head, x_head, y, ldy, y_head, false, rows, heads);
    }
    cu_mm_args a = {.desc = b->desc,
                    .map = CU_MAP_HEADS,
                    .store = CU_STORE_ACT,
                    .w = w->w,
                    .w_group = w->group,
                    .ldw = w->ld,
                    .x = x,
                    .ldx = heads * x_head,
                    .x_group = x_head,
                    .y = y,
                    .ldy = ldy,
                    .y_group = y_head,
                    .n = w->n,
                    .k = w->k,
                    .groups = heads};
    return cu_mm(b->stream, &a, rows, max_blocks(b), b->f32);
}

void eng__cuda_attn_shape(const cu_backend *b, cu_attn_args *a) {
    const model_plan *c = &b->c;
    bool mla = c->attn_type == ATTN_MLA;
    *a = (cu_attn_args){
        .cache = b->cache,
        .n_heads = c->n_heads,
        .n_kv_heads = mla ? 1 : c->n_kv_heads,
        .dk = b->dk,
        .dv = b->dv,
        .v_offset = mla ? 0 : c->n_kv_heads * c->head_dim,
        .scale =
            1.0f / sqrtf((float)(mla ? c->qk_nope_head_dim + c->qk_rope_head_dim : c->head_dim))};
}

/* Enough thread blocks to fill the device twice over, where the context allows. */
uint32_t eng__cuda_splits(const cu_backend *b, uint32_t rows) {
    uint32_t per_row = b->c.attn_type == ATTN_MLA
                           ? (b->c.n_heads + CU_ATTN_HEADS - 1) / CU_ATTN_HEADS
                           : b->c.n_kv_heads;
    uint32_t tiles = (b->opts.max_positions + CU_ATTN_KEYS - 1) / CU_ATTN_KEYS;
    uint32_t want = (uint32_t)b->sms * 4 / (rows * per_row);
    if (want > CU_MAX_SPLITS) want = CU_MAX_SPLITS;
    if (want > tiles) want = tiles;
    return want ? want : 1;
}

static cudaError_t attend(cu_backend *b, uint32_t plane, bool by_loop, uint32_t rows,
                          cu_path path) {
    cu_attn_args a;
    eng__cuda_attn_shape(b, &a);
    bool mla = b->c.attn_type == ATTN_MLA;
    a.desc = b->desc;
    a.plane = plane;
    a.by_loop = by_loop;
    a.q = b->s.q;
    a.splits = eng__cuda_splits(b, rows);
    a.part_o = b->s.part_o;
    a.part_ml = b->s.part_ml;
    a.o = mla ? b->s.ctx : b->s.o;
    a.o_head = mla ? cu_round(b->c.kv_lora_rank, CU_K_STEP) : b->dv;
    a.o_ld = mla ? b->c.n_heads * a.o_head : b->o_ld;
    cudaError_t rc = cu_attn(b->stream, &a, rows, b->f32, path.mode == CU_ONE_ROW);
    STEP(rc, cu_attn_merge(b->stream, &a, rows, b->f32));
    return rc;
}

void eng__cuda_flash_shape(const cu_backend *b, cu_flash_args *a) {
    const model_plan *c = &b->c;
    *a = (cu_flash_args){.cache = b->cache,
                         .n_heads = c->n_heads,
                         .nope = c->qk_nope_head_dim,
                         .rope = c->qk_rope_head_dim,
                         .kv_lora = c->kv_lora_rank,
                         .v = c->v_head_dim,
                         .nope_ld = cu_round(c->qk_nope_head_dim, CU_K_STEP),
                         .scale = 1.0f / sqrtf((float)(c->qk_nope_head_dim + c->qk_rope_head_dim)),
                         .keys = b->flash.keys};
}

/* o of the rows in runs, over what the absorbed products left there. */
static cudaError_t expanded(cu_backend *b, const cu_layer *l, uint32_t plane, bool by_loop,
                            uint32_t rows, uint32_t passes) {
    cu_flash_args a;
    eng__cuda_flash_shape(b, &a);
    a.desc = b->desc;
    a.plane = plane;
    a.by_loop = by_loop;
    a.uk = l->uk.w;
    a.uv = l->uv.w;
    a.uk_head = l->uk.group;
    a.uv_head = l->uv.group;
    a.uk_ld = l->uk.ld;
    a.uv_ld = l->uv.ld;
    a.q_nope = b->s.q_nope;
    a.q = b->s.q;
    a.k = b->s.keys;
    a.values = b->s.values;
    a.k_rope = b->s.keys_rope;
    a.part_o = b->s.flash_o;
    a.part_ml = b->s.flash_ml;
    a.o = b->s.o;
    a.o_ld = b->o_ld;
    cudaError_t rc = cudaSuccess;
    for (uint32_t pass = 0; pass < passes; pass++) {
        STEP(rc, cu_flash_expand(b->stream, &a, pass));
        STEP(rc, cu_flash_attend(b->stream, &a, pass, eng__cuda_flash_tiles(b, rows)));
    }
    STEP(rc, cu_flash_merge(b->stream, &a, rows));
    return rc;
}

/* act = the normed input; leaves attention's output in delta. */
static cudaError_t attention(cu_backend *b, const cu_layer *l, uint32_t plane, bool by_loop,
                             uint32_t rows, cu_path path) {
    const model_plan *c = &b->c;
    cu_scratch *s = &b->s;
    bool mla = c->attn_type == ATTN_MLA;
    cu_prep_args prep = {.desc = b->desc,
                         .cache = b->cache,
                         .plane = plane,
                         .by_loop = by_loop,
                         .q_lora = c->q_lora_rank,
                         .kv_lora = c->kv_lora_rank,
                         .rope_dim = c->qk_rope_head_dim,
                         .n_heads = c->n_heads,
                         .n_kv_heads = c->n_kv_heads,
                         .head_dim = c->head_dim,
                         .in = s->in,
                         .ld_in = l->in.n,
                         .q_norm = l->q_norm,
                         .kv_norm = l->kv_norm,
                         .rope = b->rope,
                         .q = mla ? s->cq : s->q,
                         .ld_q = mla ? l->q_up.ld : c->n_heads * c->head_dim};
    cudaError_t rc = product(b, &l->in, CU_STORE_F32, s->act, s->in, l->in.n, rows);
    if (mla) {
        uint32_t nope_ld = cu_round(c->qk_nope_head_dim, CU_K_STEP);
        uint32_t ctx_head = cu_round(c->kv_lora_rank, CU_K_STEP);
        cu_query_args q = {.desc = b->desc,
                           .n_heads = c->n_heads,
                           .nope = c->qk_nope_head_dim,
                           .nope_ld = nope_ld,
                           .rope_dim = c->qk_rope_head_dim,
                           .kv_lora = c->kv_lora_rank,
                           .in = s->q_up,
                           .ld_in = l->q_up.n,
                           .rope = b->rope,
                           .q_nope = s->q_nope,
                           .q = s->q,
                           .o = s->o,
                           .o_values = b->o_values,
                           .o_ld = b->o_ld};
        STEP(rc, cu_mla_prep(b->stream, &prep, rows, b->f32));
        STEP(rc, product(b, &l->q_up, CU_STORE_F32, s->cq, s->q_up, l->q_up.n, rows));
        STEP(rc, cu_mla_query(b->stream, &q, rows, b->f32));
        if (path.mode != CU_ALL_EXPANDED) {
            STEP(rc,
                 per_head(b, &l->uk, s->q_nope, nope_ld, s->q, c->n_heads * b->dk, b->dk, rows));
            STEP(rc, attend(b, plane, by_loop, rows, path));
            STEP(rc, per_head(b, &l->uv, s->ctx, ctx_head, s->o, b->o_ld, c->v_head_dim, rows));
        }
        if (path.mode >= CU_EXPANDED) STEP(rc, expanded(b, l, plane, by_loop, rows, path.passes));
    } else {
        STEP(rc, cu_gqa_prep(b->stream, &prep, rows, b->f32));
        STEP(rc, attend(b, plane, by_loop, rows, path));
    }
    STEP(rc, product(b, &l->wo, CU_STORE_F32, s->o, s->delta, c->dim, rows));
    return rc;
}

static cu_row_args row_args(const cu_backend *b, cu_row_from from, cu_row_to to,
                            const float *norm) {
    return (cu_row_args){.desc = b->desc,
                         .from = from,
                         .to = to,
                         .dim = b->c.dim,
                         .ld = b->dim_ld,
                         .loop_width = b->loop_width,
                         .state = b->state,
                         .x = b->s.x,
                         .delta = b->s.delta,
                         .embed = b->embed.w,
                         .norm = norm,
                         .loop_norm = b->loop_norm,
                         .loop_emb = b->loop_emb,
                         .act = to == CU_TO_HEAD ? b->s.head : b->s.act};
}

/* Layers of the prelude or coda: `from` is where the first finds its input, `to` where the last
 * leaves its output. */
static cudaError_t dense_stage(cu_backend *b, const cu_layer *layers, uint32_t n, uint32_t plane,
                               cu_row_from from, cu_row_to to, uint32_t rows, cu_path path) {
    cudaError_t rc = cudaSuccess;
    for (uint32_t i = 0; i < n; i++) {
        const cu_layer *l = &layers[i];
        cu_row_args in = row_args(b, i ? CU_FROM_X : from, CU_TO_NORM, l->attn_norm);
        cu_row_args mid = row_args(b, CU_FROM_X, CU_TO_NORM, l->ffn_norm);
        STEP(rc, cu_row_step(b->stream, &in, rows, b->f32));
        STEP(rc, attention(b, l, plane + i, false, rows, path));
        STEP(rc, cu_row_step(b->stream, &mid, rows, b->f32));
        STEP(rc, product(b, &l->gate_up, CU_STORE_SILU, b->s.act, b->s.hidden, l->down.ld, rows));
        STEP(rc, product(b, &l->down, CU_STORE_F32, b->s.hidden, b->s.delta, b->c.dim, rows));
    }
    cu_row_args out = row_args(b, n ? CU_FROM_X : from, to, b->final_norm);
    STEP(rc, cu_row_step(b->stream, &out, rows, b->f32));
    return rc;
}

/* act -> parts [rows][n_parts][D]. The always-on experts are groups like the others, or at many
 * rows two dense products whose sum is the last part. */
static cudaError_t experts(cu_backend *b, uint32_t rows, uint32_t *n_parts) {
    const model_plan *c = &b->c;
    const cu_layer *l = &b->recurrent;
    cu_scratch *s = &b->s;
    bool dense = eng__cuda_blas_shared(b, rows);
    cu_moe moe = s->moe;
    moe.n_experts = c->n_experts;
    moe.top_k = c->n_experts_per_tok;
    moe.n_shared_groups = dense ? 0 : b->groups_shared;
    moe.parts_per_row = moe.top_k + (dense ? 1 : b->groups_shared);
    *n_parts = moe.parts_per_row;
    cu_route_args route = {
        .desc = b->desc, .logits = s->router, .bias = l->router_bias, .moe = moe};
    cu_mm_args in = {.desc = b->desc,
                     .map = CU_MAP_IN,
                     .store = CU_STORE_SILU,
                     .w = l->gate_up.w,
                     .w_shared = l->shared_gate_up.w,
                     .w_group = l->gate_up.group,
                     .w_shared_group = l->shared_gate_up.group,
                     .ldw = l->gate_up.ld,
                     .ldw_shared = l->shared_gate_up.ld,
                     .x = s->act,
                     .ldx = b->dim_ld,
                     .y = s->hidden,
                     .ldy = b->expert_ld,
                     .n = l->gate_up.n,
                     .k = l->gate_up.k,
                     .moe = moe};
    cu_mm_args out = {.desc = b->desc,
                      .map = CU_MAP_OUT,
                      .store = CU_STORE_F32,
                      .w = l->down.w,
                      .w_shared = l->shared_down.w,
                      .w_group = l->down.group,
                      .w_shared_group = l->shared_down.group,
                      .ldw = l->down.ld,
                      .ldw_shared = l->shared_down.ld,
                      .x = s->hidden,
                      .ldx = b->expert_ld,
                      .y = s->parts,
                      .ldy = c->dim,
                      .n = c->dim,
                      .k = l->down.k,
                      .moe = moe};
    cudaError_t rc = product(b, &l->router, CU_STORE_F32, s->act, s->router, c->n_experts, rows);
    STEP(rc, cu_moe_route(b->stream, &route, rows));
    STEP(rc, cu_moe_group(b->stream, &route));
    STEP(rc, cu_mm(b->stream, &in, rows, max_blocks(b), b->f32));
    STEP(rc, cu_mm(b->stream, &out, rows, max_blocks(b), b->f32));
    if (!dense) return rc;
    cu_mat wide = l->shared_gate_up; /* all groups as one matrix */
    wide.n *= b->groups_shared;
    STEP(rc, product(b, &wide, CU_STORE_SILU, s->act, s->hidden, l->shared_down.ld, rows));
    STEP(rc, product(b, &l->shared_down, CU_STORE_F32, s->hidden,
                     s->parts + (size_t)moe.top_k * c->dim, moe.parts_per_row * c->dim, rows));
    return rc;
}

static cudaError_t recurrent(cu_backend *b, uint32_t rows, cu_path path) {
    const model_plan *c = &b->c;
    const cu_layer *l = &b->recurrent;
    uint32_t n_parts = 0;
    cu_row_args in = row_args(b, CU_FROM_LOOP, CU_TO_NORM, l->attn_norm);
    cu_row_args mid = row_args(b, CU_FROM_X, CU_TO_NORM, l->ffn_norm);
    cudaError_t rc = cu_row_step(b->stream, &in, rows, b->f32);
    STEP(rc, attention(b, l, plan_plane_loop(c, 0), true, rows, path));
    STEP(rc, cu_row_step(b->stream, &mid, rows, b->f32));
    STEP(rc, experts(b, rows, &n_parts));
    cu_loop_end_args end = {.desc = b->desc,
                            .dim = c->dim,
                            .lora_rank = c->lora_rank,
                            .lora_rows = b->lora_rows,
                            .n_parts = n_parts,
                            .state = b->state,
                            .x = b->s.x,
                            .parts = b->s.parts,
                            .lora_down = b->lora_down,
                            .lora_b = b->lora_b,
                            .lora_scale = b->lora_scale,
                            .inj_a = b->inj_a,
                            .inj_b = b->inj_b,
                            .halt_w = b->halt_w,
                            .halt_bias = b->halt_bias};
    STEP(rc, cu_loop_end(b->stream, &end, rows));
    return rc;
}

cudaError_t eng__cuda_stage(cu_backend *b, eng_stage stage, uint32_t rows, cu_path path) {
    const model_plan *c = &b->c;
    cudaError_t rc = cu_begin(b->stream, b->desc, &b->cache, &b->state);
    if (rc != cudaSuccess) return rc;
    switch (stage) {
    case ENG_STAGE_PRELUDE:
        return dense_stage(b, b->prelude, c->prelude_layers, plan_plane_prelude(c, 0),
                           CU_FROM_TOKEN, CU_TO_STATE, rows, path);
    case ENG_STAGE_RECURRENT: return recurrent(b, rows, path);
    case ENG_STAGE_CODA:
        return dense_stage(b, b->coda, c->coda_layers, plan_plane_coda(c, 0), CU_FROM_OUT,
                           CU_TO_HEAD, rows, path);
    }
    return cudaErrorInvalidValue;
}

static cudaError_t logits_of_rows(cu_backend *b, uint32_t rows) {
    uint32_t vocab = b->c.vocab_size;
    if (use_blas(b, rows)) {
        cu_mat head = b->head;
        return blas(b, &head, b->s.head, head.ld, 0, b->s.logits, vocab, 0, true, rows, 1);
    }
    cu_mm_args a = {.desc = b->desc,
                    .map = CU_MAP_LOGITS,
                    .store = CU_STORE_F32,
                    .w = b->head.w,
                    .ldw = b->head.ld,
                    .x = b->s.head,
                    .ldx = b->dim_ld,
                    .y = b->s.logits,
                    .ldy = vocab,
                    .n = vocab,
                    .k = b->head.k};
    return cu_mm(b->stream, &a, rows, max_blocks(b), b->f32);
}

/* Tokens are picked in the head's graph: no launch more, and the logits are still in the cache.
 * Blocks without a draw end at once. */
cudaError_t eng__cuda_head(cu_backend *b, uint32_t rows) {
    cu_sample_args a = {.desc = b->desc, .logits = b->s.logits, .vocab = b->c.vocab_size};
    cudaError_t rc = logits_of_rows(b, rows);
    STEP(rc, cu_sample(b->stream, &a, rows));
    return rc;
}
