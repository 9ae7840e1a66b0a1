/* stages.c - the kernels of each stage in order, for a capacity of rows.
 *
 * Nothing here knows a launch: counts are read on the device. */
#include "engine/cuda/cuda_internal.h"

#include <math.h>

void eng__cuda_attn_shape(const cu_backend *cuda, cu_attn_args *args) {
    const model_plan *plan = &cuda->plan;
    bool mla = plan->attn == ATTN_MLA;
    *args = (cu_attn_args){
        .cache = cuda->cache,
        .n_heads = plan->n_heads,
        .n_kv_heads = mla ? 1 : plan->n_kv_heads,
        .dk = cuda->dk,
        .dv = cuda->dv,
        .v_offset = mla ? 0 : plan->n_kv_heads * plan->head_dim,
        .invariant = cuda->invariant,
        .shared = (uint32_t)cuda->shared_bytes,
        .scale = 1.0f / sqrtf((float)(mla ? plan->qk_nope_head_dim + plan->qk_rope_head_dim
                                          : plan->head_dim))};
}

enum { LONG_PARTS = 4, LONG_TILES = 1024 / CU_ATTN_KEYS };

/* Parts of a context, and the least key tiles of one.
 *
 * Few rows: enough thread blocks to fill the device twice over. The last block of a row and its
 * heads reads the parts of the others, so MLA, with 16 heads to a block, has at most 16 parts, of
 * two tiles at least: reading a part of mythos_1b (16 KB) takes about as long as a fifth of a tile.
 * Many rows: parts of 1,024 positions, by position, so the block of one long context does not run
 * on after all others have ended. A part costs memory for each row: four are enough. Invariant: a
 * row's parts follow from the most positions alone, whatever runs beside it. */
cu_parts eng__cuda_parts(const cu_backend *cuda, uint32_t rows) {
    bool mla = cuda->plan.attn == ATTN_MLA;
    uint32_t per_row =
        mla ? (cuda->plan.n_heads + CU_ATTN_HEADS - 1) / CU_ATTN_HEADS : cuda->plan.n_kv_heads;
    uint32_t tiles = (cuda->opts.max_positions + CU_ATTN_KEYS - 1) / CU_ATTN_KEYS;
    uint32_t want = (uint32_t)cuda->sms * 4 / (rows * per_row), most = mla ? 16 : CU_MAX_SPLITS;
    cu_parts parts = {.most = want < most ? want : most, .per = mla ? 2 : 1};
    if (cuda->invariant) parts = (cu_parts){.most = 16, .per = (tiles + 15) / 16};
    else if (want < LONG_PARTS) parts = (cu_parts){.most = LONG_PARTS, .per = LONG_TILES};
    uint32_t full = (tiles + parts.per - 1) / parts.per; /* parts of the longest context */
    if (parts.most > full) parts.most = full;
    return parts;
}

/* The place of a layer's keys and values. */
typedef struct {
    cu_cache cache; /* slots as this layer sees them */
    uint32_t plane;
    bool by_loop;
    uint16_t no_query; /* a row with these flags ends with this layer's keys and values */
} place;

/* Layer `layer` of a stage. A tail's last loop is there for its keys and values: the last core
 * layer has no more to do, and all before it run fully, since the next layer reads them. */
static place place_of(const cu_backend *cuda, eng_stage stage, uint32_t layer) {
    const model_plan *plan = &cuda->plan;
    size_t value = cuda->cache.f32 ? 4 : 2;
    place at = {.cache = cuda->cache, .by_loop = stage == ENG_STAGE_RECURRENT};
    at.cache.slots = (uint8_t *)cuda->cache.slots + plan_layer_offset(plan, layer) * value;
    at.plane = stage == ENG_STAGE_PRELUDE ? plan_plane_prelude(plan, layer)
               : stage == ENG_STAGE_CODA  ? plan_plane_coda(plan, layer)
                                          : plan_plane_loop(plan, 0);
    if (at.by_loop && layer + 1 == plan->n_core) at.no_query = CU_ROW_KV_ONLY;
    return at;
}

static cudaError_t attend(cu_backend *cuda, const place *at, uint32_t rows, cu_path path) {
    cu_attn_args args;
    eng__cuda_attn_shape(cuda, &args);
    args.cache = at->cache;
    args.no_query = at->no_query;
    bool mla = cuda->plan.attn == ATTN_MLA;
    args.desc = cuda->desc;
    args.plane = at->plane;
    args.by_loop = at->by_loop;
    args.q = cuda->work.q;
    cu_parts parts = eng__cuda_parts(cuda, rows);
    args.splits = parts.most;
    args.per = parts.per;
    args.arrived = cuda->arrived;
    args.part_o = cuda->work.part_o;
    args.part_ml = cuda->work.part_ml;
    args.o = mla ? cuda->work.ctx : cuda->work.o;
    args.o_head = mla ? cu_round(cuda->plan.kv_lora_rank, CU_K_STEP) : cuda->dv;
    args.o_ld = mla ? cuda->plan.n_heads * args.o_head : cuda->o_ld;
    args.stamp = eng__cuda_stamp(cuda, "attention");
    return cu_attn(cuda->stream, &args, rows, cuda->f32, path.mode == CU_ONE_ROW);
}

void eng__cuda_flash_shape(const cu_backend *cuda, cu_flash_args *args) {
    const model_plan *plan = &cuda->plan;
    *args = (cu_flash_args){
        .cache = cuda->cache,
        .n_heads = plan->n_heads,
        .nope = plan->qk_nope_head_dim,
        .rope = plan->qk_rope_head_dim,
        .kv_lora = plan->kv_lora_rank,
        .v = plan->v_head_dim,
        .nope_ld = cu_round(plan->qk_nope_head_dim, CU_K_STEP),
        .scale = 1.0f / sqrtf((float)(plan->qk_nope_head_dim + plan->qk_rope_head_dim)),
        .keys = cuda->flash.keys};
}

/* o of the rows in runs, over the absorbed products' values. */
static cudaError_t expanded(cu_backend *cuda, const cu_layer *layer, const place *at, uint32_t rows,
                            uint32_t passes) {
    cu_flash_args args;
    eng__cuda_flash_shape(cuda, &args);
    args.desc = cuda->desc;
    args.cache = at->cache;
    args.plane = at->plane;
    args.by_loop = at->by_loop;
    args.no_query = at->no_query;
    args.uk = layer->uk.w;
    args.uv = layer->uv.w;
    args.uk_head = layer->uk.group;
    args.uv_head = layer->uv.group;
    args.uk_ld = layer->uk.ld;
    args.uv_ld = layer->uv.ld;
    args.q_nope = cuda->work.q_nope;
    args.q = cuda->work.q;
    args.k = cuda->work.keys;
    args.values = cuda->work.values;
    args.k_rope = cuda->work.keys_rope;
    args.part_o = cuda->work.flash_o;
    args.part_ml = cuda->work.flash_ml;
    args.o = cuda->work.o;
    args.o_ld = cuda->o_ld;
    cudaError_t rc = cudaSuccess;
    for (uint32_t pass = 0; pass < passes; pass++) {
        args.stamp = eng__cuda_stamp(cuda, "flash_expand");
        STEP(rc, cu_flash_expand(cuda->stream, &args, pass));
        args.stamp = eng__cuda_stamp(cuda, "flash_attend");
        STEP(rc, cu_flash_attend(cuda->stream, &args, pass, eng__cuda_flash_tiles(cuda, rows)));
    }
    args.stamp = eng__cuda_stamp(cuda, "flash_merge");
    STEP(rc, cu_flash_merge(cuda->stream, &args, rows));
    return rc;
}

/* cq -> q_nope and q. mm splits its product itself if the two rows of each rotated pair lie in one
 * of its tiles. */
static cudaError_t queries(cu_backend *cuda, const cu_layer *layer, cu_query_args *query,
                           uint32_t rows) {
    if (!cuda->f32 && !eng__cuda_use_blas(cuda, rows) && query->n_heads * query->nope % 2 == 0) {
        cu_mm_args args = eng__cuda_dense_args(cuda, "q_up", &layer->q_up, cuda->work.cq);
        args.store = CU_STORE_QUERY;
        args.query = *query;
        return cu_mm(cuda->stream, &args, rows, eng__cuda_max_blocks(cuda), false);
    }
    cudaError_t rc = eng__cuda_product(cuda, "q_up", &layer->q_up, CU_STORE_F32, cuda->work.cq,
                                       cuda->work.q_up, layer->q_up.n, rows);
    query->stamp = eng__cuda_stamp(cuda, "mla_query");
    STEP(rc, cu_mla_query(cuda->stream, query, rows, cuda->f32));
    return rc;
}

/* act = the normed input; leaves attention's output in delta. */
static cudaError_t attention(cu_backend *cuda, const cu_layer *layer, const place *at,
                             uint32_t rows, cu_path path) {
    const model_plan *plan = &cuda->plan;
    cu_scratch *work = &cuda->work;
    bool mla = plan->attn == ATTN_MLA;
    cu_prep_args prep = {.desc = cuda->desc,
                         .cache = at->cache,
                         .plane = at->plane,
                         .by_loop = at->by_loop,
                         .q_lora = plan->q_lora_rank,
                         .kv_lora = plan->kv_lora_rank,
                         .rope_dim = plan->qk_rope_head_dim,
                         .n_heads = plan->n_heads,
                         .n_kv_heads = plan->n_kv_heads,
                         .head_dim = plan->head_dim,
                         .in = work->in,
                         .ld_in = cu_in_ld(layer),
                         .q_norm = layer->q_norm,
                         .kv_norm = layer->kv_norm,
                         .rope = cuda->rope,
                         .norm_eps = plan->norm_eps,
                         .qk_bias = layer->qk_bias,
                         .qk_weights = layer->qk_norm,
                         .qk_norm = (cu_qk_norm)plan->qk_norm,
                         .qk_norm_eps = plan->qk_norm_eps,
                         .value_table = layer->value_table.w,
                         .value_ld = layer->value_table.ld,
                         .q = mla ? work->cq : work->q,
                         .ld_q = mla ? layer->q_up.ld : plan->n_heads * plan->head_dim};
    cudaError_t rc = eng__cuda_product(cuda, "qkv", &layer->in, CU_STORE_F32, work->act, work->in,
                                       cu_in_ld(layer), rows);
    if (mla) {
        uint32_t nope_ld = cu_round(plan->qk_nope_head_dim, CU_K_STEP);
        uint32_t ctx_head = cu_round(plan->kv_lora_rank, CU_K_STEP);
        cu_query_args query = {.desc = cuda->desc,
                               .n_heads = plan->n_heads,
                               .nope = plan->qk_nope_head_dim,
                               .nope_ld = nope_ld,
                               .rope_dim = plan->qk_rope_head_dim,
                               .kv_lora = plan->kv_lora_rank,
                               .in = work->q_up,
                               .ld_in = layer->q_up.n,
                               .rope = cuda->rope,
                               .q_nope = work->q_nope,
                               .q = work->q,
                               .o = work->o,
                               .o_values = cuda->o_values,
                               .o_ld = cuda->o_ld};
        prep.stamp = eng__cuda_stamp(cuda, "mla_prep");
        STEP(rc, cu_mla_prep(cuda->stream, &prep, rows, cuda->f32));
        STEP(rc, queries(cuda, layer, &query, rows));
        if (path.mode != CU_ALL_EXPANDED) {
            STEP(rc, eng__cuda_per_head(cuda, "absorb", &layer->uk, work->q_nope, nope_ld, work->q,
                                        plan->n_heads * cuda->dk, cuda->dk, rows));
            STEP(rc, attend(cuda, at, rows, path));
            STEP(rc, eng__cuda_per_head(cuda, "value_up", &layer->uv, work->ctx, ctx_head, work->o,
                                        cuda->o_ld, plan->v_head_dim, rows));
        }
        if (path.mode >= CU_EXPANDED) STEP(rc, expanded(cuda, layer, at, rows, path.passes));
    } else {
        prep.stamp = eng__cuda_stamp(cuda, "gqa_prep");
        STEP(rc, cu_gqa_prep(cuda->stream, &prep, rows, cuda->f32));
        STEP(rc, attend(cuda, at, rows, path));
    }
    STEP(rc, eng__cuda_product(cuda, "wo", &layer->wo, CU_STORE_F32, work->o, work->delta,
                               plan->dim, rows));
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
_Static_assert((int)CU_QK_NORM_NONE == (int)QK_NORM_NONE &&
                   (int)CU_QK_NORM_FULL == (int)QK_NORM_FULL &&
                   (int)CU_QK_NORM_HEAD_UNIT == (int)QK_NORM_HEAD_UNIT,
               "norms of queries and keys, as the plan names them");

/* The input of a layer; before: its norm, or NULL. */
typedef struct {
    cu_row_from from;
    const float *before;
    uint32_t n_parts; /* of experts' outputs; 0: delta holds the sum */
} entry;

static cu_row_args row_args(const cu_backend *cuda, entry in, cu_row_to to, const float *norm) {
    return (cu_row_args){.desc = cuda->desc,
                         .from = in.from,
                         .to = to,
                         .weighted = cuda->plan.output == OUTPUT_WEIGHTED_SUM,
                         .dim = cuda->plan.dim,
                         .ld = cuda->dim_ld,
                         .loop_width = cuda->loop_width,
                         .norm_eps = cuda->plan.norm_eps,
                         .embed_scale = cuda->plan.embed_scale,
                         .start = (cu_start)cuda->opts.state0,
                         .start_std = cuda->plan.state0_std,
                         .state = cuda->state,
                         .x = cuda->work.x,
                         .delta = in.n_parts ? cuda->work.parts : cuda->work.delta,
                         .n_parts = in.n_parts ? in.n_parts : 1,
                         .embed = cuda->embed.w,
                         .before = in.before,
                         .norm = norm,
                         .norm_sum = cuda->plan.norms == NORM_AFTER,
                         .loop_emb = cuda->loop_emb,
                         .decay = cuda->inj_a,
                         .step = cuda->inj_step,
                         .act = to == CU_TO_HEAD ? cuda->work.head : cuda->work.act};
}

static cudaError_t row_step(cu_backend *cuda, const char *name, cu_row_args args, uint32_t rows) {
    args.stamp = eng__cuda_stamp(cuda, name);
    return cu_row_step(cuda->stream, &args, rows, cuda->f32);
}

uint32_t eng__cuda_layers(const cu_backend *cuda, eng_stage stage) {
    const model_plan *plan = &cuda->plan;
    return stage == ENG_STAGE_PRELUDE ? plan->n_prelude
           : stage == ENG_STAGE_CODA  ? plan->n_coda
                                      : plan->n_core;
}

/* A stage's layers. The last sum is left to the caller: *out is the input of a layer behind them.
 */
static cudaError_t run_layers(cu_backend *cuda, eng_stage stage, const cu_layer *layers, entry in,
                              uint32_t rows, cu_path path, entry *out) {
    cudaError_t rc = cudaSuccess;
    ffn_kind ffn = stage == ENG_STAGE_RECURRENT ? cuda->plan.core_ffn : cuda->plan.end_ffn;
    for (uint32_t i = 0; i < eng__cuda_layers(cuda, stage); i++) {
        const cu_layer *layer = &layers[i];
        place at = place_of(cuda, stage, i);
        entry mid = {CU_FROM_X, layer->attn_out_norm, 0}, end = {CU_FROM_X, layer->ffn_out_norm, 0};
        STEP(rc, row_step(cuda, "row_step_attention",
                          row_args(cuda, in, CU_TO_NORM, layer->attn_norm), rows));
        STEP(rc, attention(cuda, layer, &at, rows, path));
        STEP(rc, row_step(cuda, "row_step_ffn", row_args(cuda, mid, CU_TO_NORM, layer->ffn_norm),
                          rows));
        STEP(rc, ffn == FFN_MOE ? eng__cuda_experts(cuda, layer, rows, &end.n_parts)
                                : eng__cuda_dense_ffn(cuda, layer, ffn, rows));
        in = end;
    }
    *out = in;
    return rc;
}

/* ---- between the stages ---- */

/* x -> act, without a norm: the input of a product on a state. */
static cudaError_t act_of(cu_backend *cuda, cu_row_from from, uint32_t rows) {
    return row_step(cuda, "row_step_product",
                    row_args(cuda, (entry){from, NULL, 0}, CU_TO_NORM, NULL), rows);
}

/* All loops of a position have a term of their input in common: it is made once, behind the
 * prelude. */
static cudaError_t common_input(cu_backend *cuda, uint32_t rows) {
    cudaError_t rc = eng__cuda_product(cuda, "inject_input", &cuda->inj_input, CU_STORE_F32,
                                       cuda->work.act, cuda->work.delta, cuda->plan.dim, rows);
    entry in = {CU_FROM_DELTA, NULL, 0};
    STEP(rc, row_step(cuda, "row_step_input", row_args(cuda, in, CU_TO_INPUT, NULL), rows));
    return rc;
}

static cudaError_t prelude(cu_backend *cuda, uint32_t rows, cu_path path) {
    entry out, token = {CU_FROM_TOKEN, NULL, 0};
    cudaError_t rc = run_layers(cuda, ENG_STAGE_PRELUDE, cuda->prelude, token, rows, path, &out);
    cu_row_args args = row_args(cuda, out, CU_TO_STATE, cuda->input_norm);
    bool product = cuda->inj_input.n > 0;
    if (!product) args.act = NULL;
    STEP(rc, row_step(cuda, "row_step_state", args, rows));
    if (product) STEP(rc, common_input(cuda, rows));
    return rc;
}

/* The input of a loop's first layer. */
static cudaError_t loop_input(cu_backend *cuda, uint32_t rows, entry *in) {
    *in = (entry){CU_FROM_STATE, NULL, 0};
    switch (cuda->plan.inject) {
    case INJECT_NONE: break;
    case INJECT_MYTHOS: *in = (entry){CU_FROM_LOOP, cuda->loop_norm, 0}; break;
    case INJECT_DIAGONAL: in->from = CU_FROM_DIAGONAL; break;
    case INJECT_LINEAR: {
        in->from = CU_FROM_LINEAR;
        cudaError_t rc = act_of(cuda, CU_FROM_STATE, rows);
        STEP(rc, eng__cuda_product(cuda, "inject_state", &cuda->inj_state, CU_STORE_F32,
                                   cuda->work.act, cuda->work.delta, cuda->plan.dim, rows));
        return rc;
    }
    }
    return cudaSuccess;
}

static cudaError_t coda(cu_backend *cuda, uint32_t rows, cu_path path) {
    entry in = {CU_FROM_OUT, cuda->plan.coda_in == CODA_IN_NORM ? cuda->final_norm : NULL, 0}, out;
    cudaError_t rc = cudaSuccess;
    if (cuda->plan.coda_in == CODA_IN_LINEAR) {
        in.from = CU_FROM_DELTA;
        rc = act_of(cuda, CU_FROM_OUT, rows);
        STEP(rc, eng__cuda_product(cuda, "coda_in", &cuda->coda_in, CU_STORE_F32, cuda->work.act,
                                   cuda->work.delta, cuda->plan.dim, rows));
    }
    STEP(rc, run_layers(cuda, ENG_STAGE_CODA, cuda->coda, in, rows, path, &out));
    const float *norm = cuda->plan.final_norm ? cuda->final_norm : NULL;
    STEP(rc, row_step(cuda, "row_step_head", row_args(cuda, out, CU_TO_HEAD, norm), rows));
    return rc;
}

static cudaError_t loop_end(cu_backend *cuda, cu_loop_end_args *args, uint32_t rows) {
    cudaError_t rc = cudaSuccess;
    if (args->inject) {
        args->stamp = eng__cuda_stamp(cuda, "loop_mix");
        rc = cu_loop_mix(cuda->stream, args, rows);
        args->stamp = eng__cuda_stamp(cuda, "loop_leave");
        STEP(rc, cu_loop_leave(cuda->stream, args, rows));
    }
    if (!cu_loop_by_row(args)) return rc;
    args->stamp = eng__cuda_stamp(cuda, "loop_row");
    STEP(rc, cu_loop_row(cuda->stream, args, rows));
    return rc;
}

static cudaError_t recurrent(cu_backend *cuda, uint32_t rows, cu_path path) {
    const model_plan *plan = &cuda->plan;
    bool mythos = plan->inject == INJECT_MYTHOS, moe = plan->core_ffn == FFN_MOE;
    entry in, out = {CU_FROM_X, NULL, 0};
    cudaError_t rc = loop_input(cuda, rows, &in);
    STEP(rc, run_layers(cuda, ENG_STAGE_RECURRENT, cuda->core, in, rows, path, &out));
    uint32_t n_parts = moe ? out.n_parts : 1;
    if (mythos && out.before) { /* the injection adds plain sums */
        STEP(rc, row_step(cuda, "row_step_sum", row_args(cuda, out, CU_TO_NORM, NULL), rows));
        out.before = NULL;
        n_parts = 0;
    }
    cu_loop_end_args end = {.desc = cuda->desc,
                            .dim = plan->dim,
                            .n_parts = n_parts,
                            .norm_eps = plan->norm_eps,
                            .state = cuda->state,
                            .x = cuda->work.x,
                            .parts = moe ? cuda->work.parts : cuda->work.delta,
                            .out_norm = out.before,
                            .norm_sum = plan->norms == NORM_AFTER,
                            .inject = mythos,
                            .lora_rank = plan->lora_rank,
                            .lora_rows = cuda->lora_rows,
                            .lora_down = cuda->lora_down,
                            .lora_b = cuda->lora_b,
                            .lora_scale = cuda->lora_scale,
                            .inj_a = cuda->inj_a,
                            .inj_b = cuda->inj_b,
                            .lora_gate = cuda->lora_gate,
                            .sums = cuda->work.loop_sums,
                            .loop_norm = plan->loop_norm ? cuda->loop_norm : NULL,
                            .exit = (cu_exit)cuda->opts.exit,
                            .halt_w = cuda->halt_w,
                            .halt_bias = cuda->halt_bias,
                            .weighted = plan->output == OUTPUT_WEIGHTED_SUM};
    STEP(rc, loop_end(cuda, &end, rows));
    return rc;
}

cudaError_t eng__cuda_begin(cu_backend *cuda) {
    cu_begin_args args = {.stamp = eng__cuda_stamp(cuda, "begin"),
                          .desc = cuda->desc,
                          .came = {cuda->came[0], cuda->came[1]},
                          .turn = cuda->dev_turn,
                          .cache = cuda->cache,
                          .halted = cuda->state.halted};
    return cu_begin(cuda->stream, &args);
}

static cudaError_t kernels_of(cu_backend *cuda, eng_stage stage, uint32_t rows, cu_path path) {
    cudaError_t rc = eng__cuda_begin(cuda);
    if (rc != cudaSuccess) return rc;
    switch (stage) {
    case ENG_STAGE_PRELUDE: return prelude(cuda, rows, path);
    case ENG_STAGE_RECURRENT: return recurrent(cuda, rows, path);
    case ENG_STAGE_CODA: return coda(cuda, rows, path);
    }
    return cudaErrorInvalidValue;
}

cudaError_t eng__cuda_stage(cu_backend *cuda, eng_stage stage, uint32_t rows, cu_path path) {
    eng__cuda_clock_begin(cuda, (int)stage, rows, path);
    cudaError_t rc = kernels_of(cuda, stage, rows, path);
    eng__cuda_clock_end(cuda);
    return rc;
}

static cudaError_t logits_of_rows(cu_backend *cuda, uint32_t rows) {
    cu_columns logits = eng__cuda_columns_floats(cuda->work.logits, cuda->plan.vocab_size, rows);
    uint32_t ld;
    float *own = eng__cuda_own(cuda, &logits, &ld);
    const cu_mat *head = &cuda->head;
    cudaError_t rc = cudaSuccess;
    if (eng__cuda_use_blas(cuda, rows)) {
        if (head->n)
            rc = eng__cuda_blas(cuda, "head", head, cuda->work.head, head->ld, 0, own, ld, 0, true,
                                rows, 1);
        STEP(rc, eng__cuda_gather(cuda, "gather_head", &logits));
        return rc;
    }
    cu_mm_args args = {.desc = cuda->desc,
                       .stamp = eng__cuda_stamp(cuda, "head"),
                       .map = CU_MAP_LOGITS,
                       .store = CU_STORE_F32,
                       .w = head->w,
                       .ldw = head->ld,
                       .x = cuda->work.head,
                       .ldx = cuda->dim_ld,
                       .y = own,
                       .ldy = ld,
                       .n = head->n,
                       .n_all = head->all,
                       .k = head->k};
    rc = cu_mm(cuda->stream, &args, rows, eng__cuda_max_blocks(cuda), cuda->f32);
    STEP(rc, eng__cuda_gather(cuda, "gather_head", &logits));
    return rc;
}

/* Tokens are picked in the head's graph: no launch more, and the logits are still in the cache.
 * Blocks without a draw end at once. */
cudaError_t eng__cuda_head(cu_backend *cuda, uint32_t rows) {
    cu_sample_args args = {
        .desc = cuda->desc, .logits = cuda->work.logits, .vocab = cuda->plan.vocab_size};
    eng__cuda_clock_begin(cuda, CU_STAGES, rows, (cu_path){CU_ONE_ROW, 1});
    cudaError_t rc = logits_of_rows(cuda, rows);
    args.stamp = eng__cuda_stamp(cuda, "sample");
    STEP(rc, cu_sample(cuda->stream, &args, rows));
    eng__cuda_clock_end(cuda);
    return rc;
}
