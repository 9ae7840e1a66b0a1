/* stages.c - the kernels of each stage in order, for a capacity of rows.
 *
 * Nothing here knows a launch: counts are read on the device. Below CU_BLAS_ROWS rows, or
 * CU_BLAS_ROWS_DENSE where the core has no experts, every product is the project's own kernel. From
 * there on dense products are cuBLAS's, which then computes the capacity's rows (rows beyond the
 * launch are scratch). Where a row's bits may not depend on the capacity (kernels bf16-invariant),
 * all products are the own ones. */
#include "engine/cuda/cuda_internal.h"

#include <math.h>

/* Joins steps until one fails. */
#define STEP(rc, call)                                                                             \
    do {                                                                                           \
        if ((rc) == cudaSuccess) (rc) = (call);                                                    \
    } while (0)

static bool use_blas(const cu_backend *b, uint32_t rows) {
    return rows >= b->blas_rows;
}

bool eng__cuda_blas_shared(const cu_backend *b, uint32_t rows) {
    return use_blas(b, rows) && b->groups_shared > 0;
}

enum { LONG_PARTS = 4, LONG_TILES = 1024 / CU_ATTN_KEYS };

static uint32_t max_blocks(const cu_backend *b) {
    return (uint32_t)b->sms * 2;
}

/* y [rows][ldy] = x [rows][ldx] wT, `count` times with the given strides; y float32 or bfloat16. */
static cudaError_t blas(cu_backend *b, const char *name, const cu_mat *w, const void *x,
                        uint32_t ldx, uint32_t x_step, void *y, uint32_t ldy, uint32_t y_step,
                        bool y_f32, uint32_t rows, uint32_t count) {
    const float one = 1.0f, zero = 0.0f;
    eng__cuda_unstamped(b, name);
    cublasStatus_t rc = cublasGemmStridedBatchedEx(
        b->blas, CUBLAS_OP_T, CUBLAS_OP_N, (int)w->n, (int)rows, (int)w->k, &one, w->w, CUDA_R_16BF,
        (int)w->ld, (long long)w->group, x, CUDA_R_16BF, (int)ldx, (long long)x_step, &zero, y,
        y_f32 ? CUDA_R_32F : CUDA_R_16BF, (int)ldy, (long long)y_step, (int)count,
        CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    if (rc == CUBLAS_STATUS_SUCCESS) return cudaSuccess;
    b->blas_product = name;
    b->blas_status = rc;
    return cudaErrorUnknown;
}

static cu_mm_args dense_args(cu_backend *b, const char *name, const cu_mat *w, const void *x) {
    return (cu_mm_args){.desc = b->desc,
                        .stamp = eng__cuda_stamp(b, name),
                        .map = CU_MAP_ROWS,
                        .w = w->w,
                        .ldw = w->ld,
                        .x = x,
                        .ldx = w->ld,
                        .n = w->n,
                        .k = w->k,
                        .keep_rows = w->keep};
}

static cudaError_t product(cu_backend *b, const char *name, const cu_mat *w, cu_mm_store store,
                           const void *x, void *y, uint32_t ldy, uint32_t rows) {
    if (use_blas(b, rows) && store == CU_STORE_F32) {
        return blas(b, name, w, x, w->ld, 0, y, ldy, 0, true, rows, 1);
    }
    if (use_blas(b, rows) && store == CU_STORE_SILU) {
        cudaError_t rc = blas(b, name, w, x, w->ld, 0, b->work.wide, w->n, 0, false, rows, 1);
        cu_stamp *stamp = eng__cuda_stamp(b, "silu_rows");
        STEP(rc, cu_silu(b->stream, b->desc, b->work.wide, y, w->n / 2, rows, stamp));
        return rc;
    }
    cu_mm_args a = dense_args(b, name, w, x);
    a.store = store;
    a.y = y;
    a.ldy = ldy;
    return cu_mm(b->stream, &a, rows, max_blocks(b), b->f32);
}

/* One product per head, act to act. */
static cudaError_t per_head(cu_backend *b, const char *name, const cu_mat *w, const void *x,
                            uint32_t x_head, void *y, uint32_t ldy, uint32_t y_head,
                            uint32_t rows) {
    uint32_t heads = b->plan.n_heads;
    if (use_blas(b, rows)) {
        return blas(b, name, w, x, heads * x_head, x_head, y, ldy, y_head, false, rows, heads);
    }
    cu_mm_args a = {.desc = b->desc,
                    .stamp = eng__cuda_stamp(b, name),
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
                    .groups = heads,
                    .keep_rows = w->keep};
    return cu_mm(b->stream, &a, rows, max_blocks(b), b->f32);
}

void eng__cuda_attn_shape(const cu_backend *b, cu_attn_args *a) {
    const model_plan *c = &b->plan;
    bool mla = c->attn == ATTN_MLA;
    *a = (cu_attn_args){
        .cache = b->cache,
        .n_heads = c->n_heads,
        .n_kv_heads = mla ? 1 : c->n_kv_heads,
        .dk = b->dk,
        .dv = b->dv,
        .v_offset = mla ? 0 : c->n_kv_heads * c->head_dim,
        .invariant = b->invariant,
        .shared = (uint32_t)b->shared_bytes,
        .scale =
            1.0f / sqrtf((float)(mla ? c->qk_nope_head_dim + c->qk_rope_head_dim : c->head_dim))};
}

/* Parts of a context, and the least key tiles of one.
 *
 * Few rows: enough thread blocks to fill the device twice over. The last block of a row and its
 * heads reads what the others leave, so MLA, with 16 heads to a block, has at most 16 parts, of two
 * tiles at least: reading a part of mythos_1b (16 KB) takes about as long as a fifth of a tile.
 * Many rows: parts of 1,024 positions, by position, so that the block of one long context does not
 * run on when all others have ended. A part costs memory for each row: four are enough. Invariant:
 * a row's parts follow from the most positions alone, whatever runs beside it. */
cu_parts eng__cuda_parts(const cu_backend *b, uint32_t rows) {
    bool mla = b->plan.attn == ATTN_MLA;
    uint32_t per_row =
        mla ? (b->plan.n_heads + CU_ATTN_HEADS - 1) / CU_ATTN_HEADS : b->plan.n_kv_heads;
    uint32_t tiles = (b->opts.max_positions + CU_ATTN_KEYS - 1) / CU_ATTN_KEYS;
    uint32_t want = (uint32_t)b->sms * 4 / (rows * per_row), most = mla ? 16 : CU_MAX_SPLITS;
    cu_parts p = {.most = want < most ? want : most, .per = mla ? 2 : 1};
    if (b->invariant) p = (cu_parts){.most = 16, .per = (tiles + 15) / 16};
    else if (want < LONG_PARTS) p = (cu_parts){.most = LONG_PARTS, .per = LONG_TILES};
    uint32_t full = (tiles + p.per - 1) / p.per; /* parts of the longest context */
    if (p.most > full) p.most = full;
    return p;
}

/* Where a layer keeps its keys and values. */
typedef struct {
    cu_cache cache; /* slots as this layer sees them */
    uint32_t plane;
    bool by_loop;
    uint16_t no_query; /* rows so flagged end with this layer's keys and values */
} place;

/* Layer `layer` of a stage. A tail's last loop is there for its keys and values: the last core
 * layer has no more to do, and all before it run fully, since the next layer reads them. */
static place place_of(const cu_backend *b, eng_stage stage, uint32_t layer) {
    const model_plan *p = &b->plan;
    size_t value = b->cache.f32 ? 4 : 2;
    place at = {.cache = b->cache, .by_loop = stage == ENG_STAGE_RECURRENT};
    at.cache.slots = (uint8_t *)b->cache.slots + plan_layer_offset(p, layer) * value;
    at.plane = stage == ENG_STAGE_PRELUDE ? plan_plane_prelude(p, layer)
               : stage == ENG_STAGE_CODA  ? plan_plane_coda(p, layer)
                                          : plan_plane_loop(p, 0);
    if (at.by_loop && layer + 1 == p->n_core) at.no_query = CU_ROW_KV_ONLY;
    return at;
}

static cudaError_t attend(cu_backend *b, const place *at, uint32_t rows, cu_path path) {
    cu_attn_args a;
    eng__cuda_attn_shape(b, &a);
    a.cache = at->cache;
    a.no_query = at->no_query;
    bool mla = b->plan.attn == ATTN_MLA;
    a.desc = b->desc;
    a.plane = at->plane;
    a.by_loop = at->by_loop;
    a.q = b->work.q;
    cu_parts parts = eng__cuda_parts(b, rows);
    a.splits = parts.most;
    a.per = parts.per;
    a.arrived = b->arrived;
    a.part_o = b->work.part_o;
    a.part_ml = b->work.part_ml;
    a.o = mla ? b->work.ctx : b->work.o;
    a.o_head = mla ? cu_round(b->plan.kv_lora_rank, CU_K_STEP) : b->dv;
    a.o_ld = mla ? b->plan.n_heads * a.o_head : b->o_ld;
    a.stamp = eng__cuda_stamp(b, "attention");
    return cu_attn(b->stream, &a, rows, b->f32, path.mode == CU_ONE_ROW);
}

void eng__cuda_flash_shape(const cu_backend *b, cu_flash_args *a) {
    const model_plan *c = &b->plan;
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
static cudaError_t expanded(cu_backend *b, const cu_layer *l, const place *at, uint32_t rows,
                            uint32_t passes) {
    cu_flash_args a;
    eng__cuda_flash_shape(b, &a);
    a.desc = b->desc;
    a.cache = at->cache;
    a.plane = at->plane;
    a.by_loop = at->by_loop;
    a.no_query = at->no_query;
    a.uk = l->uk.w;
    a.uv = l->uv.w;
    a.uk_head = l->uk.group;
    a.uv_head = l->uv.group;
    a.uk_ld = l->uk.ld;
    a.uv_ld = l->uv.ld;
    a.q_nope = b->work.q_nope;
    a.q = b->work.q;
    a.k = b->work.keys;
    a.values = b->work.values;
    a.k_rope = b->work.keys_rope;
    a.part_o = b->work.flash_o;
    a.part_ml = b->work.flash_ml;
    a.o = b->work.o;
    a.o_ld = b->o_ld;
    cudaError_t rc = cudaSuccess;
    for (uint32_t pass = 0; pass < passes; pass++) {
        a.stamp = eng__cuda_stamp(b, "flash_expand");
        STEP(rc, cu_flash_expand(b->stream, &a, pass));
        a.stamp = eng__cuda_stamp(b, "flash_attend");
        STEP(rc, cu_flash_attend(b->stream, &a, pass, eng__cuda_flash_tiles(b, rows)));
    }
    a.stamp = eng__cuda_stamp(b, "flash_merge");
    STEP(rc, cu_flash_merge(b->stream, &a, rows));
    return rc;
}

/* cq -> q_nope and q. mm splits its product itself where the pairs that are rotated are two rows of
 * one of its tiles. */
static cudaError_t queries(cu_backend *b, const cu_layer *l, cu_query_args *q, uint32_t rows) {
    if (!b->f32 && !use_blas(b, rows) && q->n_heads * q->nope % 2 == 0) {
        cu_mm_args a = dense_args(b, "q_up", &l->q_up, b->work.cq);
        a.store = CU_STORE_QUERY;
        a.query = *q;
        return cu_mm(b->stream, &a, rows, max_blocks(b), false);
    }
    cudaError_t rc =
        product(b, "q_up", &l->q_up, CU_STORE_F32, b->work.cq, b->work.q_up, l->q_up.n, rows);
    q->stamp = eng__cuda_stamp(b, "mla_query");
    STEP(rc, cu_mla_query(b->stream, q, rows, b->f32));
    return rc;
}

/* act = the normed input; leaves attention's output in delta. */
static cudaError_t attention(cu_backend *b, const cu_layer *l, const place *at, uint32_t rows,
                             cu_path path) {
    const model_plan *c = &b->plan;
    cu_scratch *s = &b->work;
    bool mla = c->attn == ATTN_MLA;
    cu_prep_args prep = {.desc = b->desc,
                         .cache = at->cache,
                         .plane = at->plane,
                         .by_loop = at->by_loop,
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
                         .norm_eps = c->norm_eps,
                         .q = mla ? s->cq : s->q,
                         .ld_q = mla ? l->q_up.ld : c->n_heads * c->head_dim};
    cudaError_t rc = product(b, "qkv", &l->in, CU_STORE_F32, s->act, s->in, l->in.n, rows);
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
        prep.stamp = eng__cuda_stamp(b, "mla_prep");
        STEP(rc, cu_mla_prep(b->stream, &prep, rows, b->f32));
        STEP(rc, queries(b, l, &q, rows));
        if (path.mode != CU_ALL_EXPANDED) {
            STEP(rc, per_head(b, "absorb", &l->uk, s->q_nope, nope_ld, s->q, c->n_heads * b->dk,
                              b->dk, rows));
            STEP(rc, attend(b, at, rows, path));
            STEP(rc, per_head(b, "value_up", &l->uv, s->ctx, ctx_head, s->o, b->o_ld, c->v_head_dim,
                              rows));
        }
        if (path.mode >= CU_EXPANDED) STEP(rc, expanded(b, l, at, rows, path.passes));
    } else {
        prep.stamp = eng__cuda_stamp(b, "gqa_prep");
        STEP(rc, cu_gqa_prep(b->stream, &prep, rows, b->f32));
        STEP(rc, attend(b, at, rows, path));
    }
    STEP(rc, product(b, "wo", &l->wo, CU_STORE_F32, s->o, s->delta, c->dim, rows));
    return rc;
}

_Static_assert((int)CU_START_INPUT == (int)STATE_EMBEDDING &&
                   (int)CU_START_ZERO == (int)STATE_ZERO &&
                   (int)CU_START_SEEDED == (int)STATE_SEEDED,
               "states to start from, as the plan names them");
_Static_assert((int)CU_EXIT_ACT == (int)EXIT_ACT && (int)CU_EXIT_HAZARD == (int)EXIT_HAZARD &&
                   (int)CU_EXIT_LATENT_DIFF == (int)EXIT_LATENT_DIFF &&
                   (int)CU_EXIT_COSINE == (int)EXIT_COSINE && (int)CU_EXIT_FIXED == (int)EXIT_FIXED,
               "exit rules, as the plan names them");

/* out_norm: of the delta that is added first, if the layers have such norms. */
static cu_row_args row_args(const cu_backend *b, cu_row_from from, cu_row_to to, const float *norm,
                            const float *out_norm) {
    return (cu_row_args){.desc = b->desc,
                         .from = from,
                         .to = to,
                         .dim = b->plan.dim,
                         .ld = b->dim_ld,
                         .loop_width = b->loop_width,
                         .norm_eps = b->plan.norm_eps,
                         .embed_scale = b->plan.embed_scale,
                         .start = (cu_start)b->opts.state0,
                         .start_std = b->plan.state0_std,
                         .state = b->state,
                         .x = b->work.x,
                         .delta = b->work.delta,
                         .embed = b->embed.w,
                         .norm = norm,
                         .loop_norm = b->loop_norm,
                         .loop_emb = b->loop_emb,
                         .out_norm = out_norm,
                         .act = to == CU_TO_HEAD ? b->work.head : b->work.act};
}

/* Which rows go to which group. */
static cudaError_t assign(cu_backend *b, cu_route_args *a, uint32_t rows) {
    if (rows <= CU_ASSIGN_ROWS && a->moe.n_experts <= CU_ASSIGN_EXPERTS) {
        a->stamp = eng__cuda_stamp(b, "moe_assign");
        return cu_moe_assign(b->stream, a, rows);
    }
    a->stamp = eng__cuda_stamp(b, "moe_route");
    cudaError_t rc = cu_moe_route(b->stream, a, rows);
    a->stamp = eng__cuda_stamp(b, "moe_group");
    STEP(rc, cu_moe_group(b->stream, a));
    return rc;
}

/* act -> parts [rows][n_parts][D]. The always-on experts are groups like the others, or at many
 * rows two dense products whose sum is the last part. */
static cudaError_t experts(cu_backend *b, uint32_t rows, uint32_t *n_parts) {
    const model_plan *c = &b->plan;
    const cu_layer *l = &b->core[0];
    cu_scratch *s = &b->work;
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
                     .moe = moe,
                     .keep_rows = l->shared_gate_up.keep,
                     .pass_experts = b->pass_experts};
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
                      .moe = moe,
                      .keep_rows = l->shared_down.keep,
                      .pass_experts = b->pass_experts};
    cudaError_t rc =
        product(b, "router", &l->router, CU_STORE_F32, s->act, s->router, c->n_experts, rows);
    STEP(rc, assign(b, &route, rows));
    in.stamp = eng__cuda_stamp(b, "expert_gate_up");
    STEP(rc, cu_mm(b->stream, &in, rows, max_blocks(b), b->f32));
    out.stamp = eng__cuda_stamp(b, "expert_down");
    STEP(rc, cu_mm(b->stream, &out, rows, max_blocks(b), b->f32));
    if (!dense) return rc;
    cu_mat wide = l->shared_gate_up; /* all groups as one matrix */
    wide.n *= b->groups_shared;
    STEP(rc, product(b, "shared_gate_up", &wide, CU_STORE_SILU, s->act, s->hidden,
                     l->shared_down.ld, rows));
    STEP(rc, product(b, "shared_down", &l->shared_down, CU_STORE_F32, s->hidden,
                     s->parts + (size_t)moe.top_k * c->dim, moe.parts_per_row * c->dim, rows));
    return rc;
}

/* act -> delta. */
static cudaError_t dense_ffn(cu_backend *b, const cu_layer *l, uint32_t rows) {
    cudaError_t rc = product(b, "gate_up", &l->gate_up, CU_STORE_SILU, b->work.act, b->work.hidden,
                             l->down.ld, rows);
    STEP(rc, product(b, "down", &l->down, CU_STORE_F32, b->work.hidden, b->work.delta, b->plan.dim,
                     rows));
    return rc;
}

uint32_t eng__cuda_layers(const cu_backend *b, eng_stage stage) {
    const model_plan *p = &b->plan;
    return stage == ENG_STAGE_PRELUDE ? p->n_prelude
           : stage == ENG_STAGE_CODA  ? p->n_coda
                                      : p->n_core;
}

/* A stage's layers; `from` is where the first finds its input. The last sum is left to the
 * caller: x, and what the last feed-forward gave, in delta or, from experts, in n_parts parts. */
static cudaError_t run_layers(cu_backend *b, eng_stage stage, const cu_layer *layers,
                              cu_row_from from, uint32_t rows, cu_path path, uint32_t *n_parts) {
    cudaError_t rc = cudaSuccess;
    const float *added = NULL; /* norm of the delta still to be added */
    bool moe = stage == ENG_STAGE_RECURRENT && b->plan.core_ffn == FFN_MOE;
    for (uint32_t i = 0; i < eng__cuda_layers(b, stage); i++) {
        const cu_layer *l = &layers[i];
        place at = place_of(b, stage, i);
        cu_row_args in = row_args(b, i ? CU_FROM_X : from, CU_TO_NORM, l->attn_norm, added);
        cu_row_args mid = row_args(b, CU_FROM_X, CU_TO_NORM, l->ffn_norm, l->attn_out_norm);
        in.stamp = eng__cuda_stamp(b, "row_step_attention");
        STEP(rc, cu_row_step(b->stream, &in, rows, b->f32));
        STEP(rc, attention(b, l, &at, rows, path));
        mid.stamp = eng__cuda_stamp(b, "row_step_ffn");
        STEP(rc, cu_row_step(b->stream, &mid, rows, b->f32));
        STEP(rc, moe ? experts(b, rows, n_parts) : dense_ffn(b, l, rows));
        added = l->ffn_out_norm;
    }
    return rc;
}

/* Prelude or coda. */
static cudaError_t dense_stage(cu_backend *b, eng_stage stage, const cu_layer *layers,
                               cu_row_from from, cu_row_to to, uint32_t rows, cu_path path) {
    uint32_t n = eng__cuda_layers(b, stage);
    cudaError_t rc = run_layers(b, stage, layers, from, rows, path, NULL);
    cu_row_args out =
        row_args(b, n ? CU_FROM_X : from, to, b->final_norm, n ? layers[n - 1].ffn_out_norm : NULL);
    out.stamp = eng__cuda_stamp(b, to == CU_TO_HEAD ? "row_step_head" : "row_step_state");
    STEP(rc, cu_row_step(b->stream, &out, rows, b->f32));
    return rc;
}

static cudaError_t loop_end(cu_backend *b, cu_loop_end_args *a, uint32_t rows) {
    cudaError_t rc = cudaSuccess;
    if (a->inject) {
        a->stamp = eng__cuda_stamp(b, "loop_mix");
        rc = cu_loop_mix(b->stream, a, rows);
        a->stamp = eng__cuda_stamp(b, "loop_leave");
        STEP(rc, cu_loop_leave(b->stream, a, rows));
    }
    if (!cu_loop_by_row(a)) return rc;
    a->stamp = eng__cuda_stamp(b, "loop_row");
    STEP(rc, cu_loop_row(b->stream, a, rows));
    return rc;
}

static cudaError_t recurrent(cu_backend *b, uint32_t rows, cu_path path) {
    const model_plan *p = &b->plan;
    bool mythos = p->inject == INJECT_MYTHOS, moe = p->core_ffn == FFN_MOE;
    uint32_t n_parts = 1;
    cudaError_t rc = run_layers(b, ENG_STAGE_RECURRENT, b->core,
                                mythos ? CU_FROM_LOOP : CU_FROM_STATE, rows, path, &n_parts);
    cu_loop_end_args end = {.desc = b->desc,
                            .dim = p->dim,
                            .n_parts = n_parts,
                            .norm_eps = p->norm_eps,
                            .state = b->state,
                            .x = b->work.x,
                            .parts = moe ? b->work.parts : b->work.delta,
                            .out_norm = b->core[p->n_core - 1].ffn_out_norm,
                            .inject = mythos,
                            .lora_rank = p->lora_rank,
                            .lora_rows = b->lora_rows,
                            .lora_down = b->lora_down,
                            .lora_b = b->lora_b,
                            .lora_scale = b->lora_scale,
                            .inj_a = b->inj_a,
                            .inj_b = b->inj_b,
                            .lora_gate = b->lora_gate,
                            .sums = b->work.loop_sums,
                            .loop_norm = p->loop_norm ? b->loop_norm : NULL,
                            .exit = (cu_exit)b->opts.exit,
                            .halt_w = b->halt_w,
                            .halt_bias = b->halt_bias,
                            .weighted = p->output == OUTPUT_WEIGHTED_SUM};
    STEP(rc, loop_end(b, &end, rows));
    return rc;
}

cudaError_t eng__cuda_begin(cu_backend *b) {
    cu_begin_args a = {.stamp = eng__cuda_stamp(b, "begin"),
                       .desc = b->desc,
                       .came = {b->came[0], b->came[1]},
                       .turn = b->dev_turn,
                       .cache = b->cache,
                       .halted = b->state.halted};
    return cu_begin(b->stream, &a);
}

static cudaError_t kernels_of(cu_backend *b, eng_stage stage, uint32_t rows, cu_path path) {
    cudaError_t rc = eng__cuda_begin(b);
    if (rc != cudaSuccess) return rc;
    switch (stage) {
    case ENG_STAGE_PRELUDE:
        return dense_stage(b, stage, b->prelude, CU_FROM_TOKEN, CU_TO_STATE, rows, path);
    case ENG_STAGE_RECURRENT: return recurrent(b, rows, path);
    case ENG_STAGE_CODA: return dense_stage(b, stage, b->coda, CU_FROM_OUT, CU_TO_HEAD, rows, path);
    }
    return cudaErrorInvalidValue;
}

cudaError_t eng__cuda_stage(cu_backend *b, eng_stage stage, uint32_t rows, cu_path path) {
    eng__cuda_clock_begin(b, (int)stage, rows, path);
    cudaError_t rc = kernels_of(b, stage, rows, path);
    eng__cuda_clock_end(b);
    return rc;
}

static cudaError_t logits_of_rows(cu_backend *b, uint32_t rows) {
    uint32_t vocab = b->plan.vocab_size;
    if (use_blas(b, rows)) {
        cu_mat head = b->head;
        return blas(b, "head", &head, b->work.head, head.ld, 0, b->work.logits, vocab, 0, true,
                    rows, 1);
    }
    cu_mm_args a = {.desc = b->desc,
                    .stamp = eng__cuda_stamp(b, "head"),
                    .map = CU_MAP_LOGITS,
                    .store = CU_STORE_F32,
                    .w = b->head.w,
                    .ldw = b->head.ld,
                    .x = b->work.head,
                    .ldx = b->dim_ld,
                    .y = b->work.logits,
                    .ldy = vocab,
                    .n = vocab,
                    .k = b->head.k};
    return cu_mm(b->stream, &a, rows, max_blocks(b), b->f32);
}

/* Tokens are picked in the head's graph: no launch more, and the logits are still in the cache.
 * Blocks without a draw end at once. */
cudaError_t eng__cuda_head(cu_backend *b, uint32_t rows) {
    cu_sample_args a = {.desc = b->desc, .logits = b->work.logits, .vocab = b->plan.vocab_size};
    eng__cuda_clock_begin(b, CU_STAGES, rows, (cu_path){CU_ONE_ROW, 1});
    cudaError_t rc = logits_of_rows(b, rows);
    a.stamp = eng__cuda_stamp(b, "sample");
    STEP(rc, cu_sample(b->stream, &a, rows));
    eng__cuda_clock_end(b);
    return rc;
}
