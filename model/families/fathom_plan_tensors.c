/* fathom_plan_tensors.c - the tensors of any plan: prelude.0.attn.wq.weight, core.3.ffn.up.weight,
 * inject.weight. A tensor exists if the plan needs it. */
#include "model/families/fathom_plan_internal.h"

#include <stdio.h>
#include <string.h>

/* ---- conditions ---- */

static bool is_linear(const model_plan *plan) {
    return plan->inject == INJECT_LINEAR;
}
static bool is_diagonal(const model_plan *plan) {
    return plan->inject == INJECT_DIAGONAL;
}
static bool has_qk_bias(const model_plan *plan) {
    return plan->qk_bias;
}
static bool norms_q_and_k_in_full(const model_plan *plan) {
    return plan->qk_norm == QK_NORM_FULL;
}
static bool has_input_norm(const model_plan *plan) {
    return plan->input_norm;
}
static bool has_loop_norm(const model_plan *plan) {
    return plan->loop_norm || plan__is_mythos(plan);
}
static bool has_final_norm(const model_plan *plan) {
    return plan->final_norm;
}
static bool has_exit_gate(const model_plan *plan) {
    return plan_allows_exit(plan, EXIT_ACT) || plan_allows_exit(plan, EXIT_HAZARD);
}
static bool has_coda_matrix(const model_plan *plan) {
    return plan->coda_in == CODA_IN_LINEAR;
}
static bool is_untied(const model_plan *plan) {
    return !plan->tied_head;
}

/* ---- sizes ---- */

typedef enum {
    ONE,
    DIM,
    TWO_DIMS,
    VOCAB,
    Q_WIDTH,
    KV_WIDTH,
    Q_RANK,
    KV_RANK,
    HEADS_NOPE,
    HEADS_ROPE,
    KV_DOWN,
    KV_UP,
    HEADS_V,
    FFN,
    EXPERTS,
    EXPERT,
    SHARED,
    LORA,
    LORA_ROWS,
    KV_HEADS,
    GATE_CHANNELS,
    WIDTHS
} width;

typedef uint64_t widths[WIDTHS];

static void measure(const model_plan *plan, widths out) {
    uint64_t heads = plan->n_heads, nope = plan->qk_nope_head_dim, rope = plan->qk_rope_head_dim;
    const widths all = {
        [ONE] = 1,
        [DIM] = plan->dim,
        [TWO_DIMS] = 2 * (uint64_t)plan->dim,
        [VOCAB] = plan->vocab_size,
        [Q_WIDTH] = plan__is_gqa(plan) ? plan_q_width(plan) : 0,
        [KV_WIDTH] = plan__is_gqa(plan) ? plan_kv_width(plan) : 0,
        [Q_RANK] = plan->q_lora_rank,
        [KV_RANK] = plan->kv_lora_rank,
        [HEADS_NOPE] = heads * nope,
        [HEADS_ROPE] = heads * rope,
        [KV_DOWN] = plan->kv_lora_rank + rope,
        [KV_UP] = heads * (nope + plan->v_head_dim),
        [HEADS_V] = heads * plan->v_head_dim,
        [FFN] = plan->ffn_dim,
        [EXPERTS] = plan->n_experts,
        [EXPERT] = plan->expert_dim,
        [SHARED] = (uint64_t)plan->expert_dim * plan->n_experts_per_tok,
        [LORA] = plan->lora_rank,
        [LORA_ROWS] = plan->lora_rows,
        [KV_HEADS] = plan->n_kv_heads,
        [GATE_CHANNELS] = PLAN_VALUE_GATE,
    };
    memcpy(out, all, sizeof all);
}

typedef struct {
    tensor_role role;
    model_part part;
    const char *name;
    width rows, cols;                     /* cols ONE: a vector of `rows` values */
    bool (*when)(const model_plan *plan); /* NULL: always */
} tensor_row;

static void want_rows(model__walk *walk, const tensor_row *rows, size_t n) {
    widths size;
    measure(walk->plan, size);
    for (size_t i = 0; i < n; i++) {
        if (rows[i].when && !rows[i].when(walk->plan)) continue;
        model__want_one(walk, rows[i].role, rows[i].part, rows[i].name, size[rows[i].rows],
                        rows[i].cols == ONE ? 0 : size[rows[i].cols]);
    }
}
#define WANT(walk, list) want_rows(walk, list, ARRAY_LEN(list))

#define OTHER MODEL_PART_OTHER
#define ATTN MODEL_PART_ATTENTION
#define DENSE MODEL_PART_DENSE

static const tensor_row layer_rows[] = {
    {TENSOR_ATTN_NORM, OTHER, "attn_norm.weight", DIM, ONE, plan_norms_inputs},
    {TENSOR_ATTN_OUT_NORM, OTHER, "attn_out_norm.weight", DIM, ONE, plan_norms_outputs},
    {TENSOR_FFN_NORM, OTHER, "ffn_norm.weight", DIM, ONE, plan_norms_inputs},
    {TENSOR_FFN_OUT_NORM, OTHER, "ffn_out_norm.weight", DIM, ONE, plan_norms_outputs},
    {TENSOR_WQ, ATTN, "attn.wq.weight", Q_WIDTH, DIM, plan__is_gqa},
    {TENSOR_WK, ATTN, "attn.wk.weight", KV_WIDTH, DIM, plan__is_gqa},
    {TENSOR_WV, ATTN, "attn.wv.weight", KV_WIDTH, DIM, plan__is_gqa},
    {TENSOR_WO, ATTN, "attn.wo.weight", DIM, Q_WIDTH, plan__is_gqa},
    {TENSOR_Q_BIAS, ATTN, "attn.q_bias", Q_WIDTH, ONE, has_qk_bias},
    {TENSOR_K_BIAS, ATTN, "attn.k_bias", KV_WIDTH, ONE, has_qk_bias},
    {TENSOR_Q_NORM, OTHER, "attn.q_norm.weight", Q_WIDTH, ONE, norms_q_and_k_in_full},
    {TENSOR_K_NORM, OTHER, "attn.k_norm.weight", KV_WIDTH, ONE, norms_q_and_k_in_full},
    {TENSOR_Q_DOWN, ATTN, "attn.q_down.weight", Q_RANK, DIM, plan__is_mla},
    {TENSOR_Q_NORM, OTHER, "attn.q_norm.weight", Q_RANK, ONE, plan__is_mla},
    {TENSOR_Q_UP_NOPE, ATTN, "attn.q_up_nope.weight", HEADS_NOPE, Q_RANK, plan__is_mla},
    {TENSOR_Q_UP_ROPE, ATTN, "attn.q_up_rope.weight", HEADS_ROPE, Q_RANK, plan__is_mla},
    {TENSOR_KV_DOWN, ATTN, "attn.kv_down.weight", KV_DOWN, DIM, plan__is_mla},
    {TENSOR_KV_NORM, OTHER, "attn.kv_norm.weight", KV_RANK, ONE, plan__is_mla},
    {TENSOR_KV_UP, ATTN, "attn.kv_up.weight", KV_UP, KV_RANK, plan__is_mla},
    {TENSOR_WO, ATTN, "attn.wo.weight", DIM, HEADS_V, plan__is_mla},
};
static const tensor_row value_rows[] = {
    {TENSOR_VALUE_TABLE, MODEL_PART_EMBED, "attn.value_table.weight", VOCAB, KV_WIDTH, NULL},
    {TENSOR_VALUE_GATE, ATTN, "attn.value_gate.weight", KV_HEADS, GATE_CHANNELS, NULL},
};
static const tensor_row swiglu_rows[] = {
    {TENSOR_GATE, DENSE, "ffn.gate.weight", FFN, DIM, NULL},
    {TENSOR_UP, DENSE, "ffn.up.weight", FFN, DIM, NULL},
    {TENSOR_DOWN, DENSE, "ffn.down.weight", DIM, FFN, NULL},
};
static const tensor_row router_rows[] = {
    {TENSOR_ROUTER, MODEL_PART_EXPERTS, "ffn.router.weight", EXPERTS, DIM, NULL},
    {TENSOR_ROUTER_BIAS, MODEL_PART_EXPERTS, "ffn.router_bias", EXPERTS, ONE, NULL},
};
static const tensor_row expert_rows[] = {
    {TENSOR_EXPERT_GATE, MODEL_PART_EXPERTS, "gate.weight", EXPERT, DIM, NULL},
    {TENSOR_EXPERT_UP, MODEL_PART_EXPERTS, "up.weight", EXPERT, DIM, NULL},
    {TENSOR_EXPERT_DOWN, MODEL_PART_EXPERTS, "down.weight", DIM, EXPERT, NULL},
};
static const tensor_row shared_rows[] = {
    {TENSOR_SHARED_GATE, MODEL_PART_SHARED, "gate.weight", SHARED, DIM, NULL},
    {TENSOR_SHARED_UP, MODEL_PART_SHARED, "up.weight", SHARED, DIM, NULL},
    {TENSOR_SHARED_DOWN, MODEL_PART_SHARED, "down.weight", DIM, SHARED, NULL},
};
static const tensor_row input_rows[] = {
    {TENSOR_INPUT_NORM, OTHER, "input_norm.weight", DIM, ONE, has_input_norm},
    {TENSOR_INJECT, OTHER, "inject.weight", DIM, TWO_DIMS, is_linear},
    {TENSOR_INJECT, OTHER, "inject.weight", DIM, DIM, is_diagonal},
    {TENSOR_LOG_A, OTHER, "inject.log_A", DIM, ONE, is_diagonal},
    {TENSOR_LOG_DT, OTHER, "inject.log_dt", DIM, ONE, is_diagonal},
    {TENSOR_LOG_A, OTHER, "inject.log_A", DIM, ONE, plan__is_mythos},
    {TENSOR_LOG_DT, OTHER, "inject.log_dt", ONE, ONE, plan__is_mythos},
    {TENSOR_INJECT_B, OTHER, "inject.B", DIM, ONE, plan__is_mythos},
};
static const tensor_row loop_rows[] = {
    {TENSOR_LORA_DOWN, OTHER, "lora.down.weight", LORA, DIM, plan__has_lora},
    {TENSOR_LORA_B, OTHER, "lora.B", LORA, DIM, plan__has_lora},
    {TENSOR_LORA_SCALE, OTHER, "lora.scale.weight", LORA_ROWS, LORA, plan__has_lora},
    {TENSOR_LOOP_NORM, OTHER, "loop_norm.weight", DIM, ONE, has_loop_norm},
    {TENSOR_CODA_IN, OTHER, "coda_in.weight", DIM, DIM, has_coda_matrix},
};
static const tensor_row head_rows[] = {
    {TENSOR_FINAL_NORM, OTHER, "norm.weight", DIM, ONE, has_final_norm},
    {TENSOR_HEAD, MODEL_PART_EMBED, "head.weight", VOCAB, DIM, is_untied},
};

static void want_experts(model__walk *walk, const char *layer, const char *kind, uint32_t n,
                         const tensor_row rows[3]) {
    for (walk->index = 0; walk->index < n && walk->rc == 0; walk->index++) {
        char prefix[64];
        (void)snprintf(prefix, sizeof prefix, "%sffn.%s.%u.", layer, kind, walk->index);
        walk->prefix = prefix;
        want_rows(walk, rows, 3);
    }
    walk->index = 0;
    walk->prefix = layer;
}

static void want_ffn(model__walk *walk, ffn_kind kind, const char *layer) {
    switch (kind) {
    case FFN_SWIGLU: WANT(walk, swiglu_rows); break;
    case FFN_HALF_RELU2: want_rows(walk, swiglu_rows + 1, 2); break; /* no gate */
    case FFN_MOE:
        WANT(walk, router_rows);
        want_experts(walk, layer, "experts", walk->plan->n_experts, expert_rows);
        want_experts(walk, layer, "shared", walk->plan->n_shared_experts, shared_rows);
    }
}

static void want_stage(model__walk *walk, tensor_stage stage, const char *name, uint32_t n,
                       uint32_t first, ffn_kind kind) {
    walk->stage = stage;
    for (uint32_t i = 0; i < n && walk->rc == 0; i++) {
        char prefix[32];
        (void)snprintf(prefix, sizeof prefix, "%s.%u.", name, i);
        walk->prefix = prefix;
        walk->layer = i;
        WANT(walk, layer_rows);
        if (plan_value_embed(walk->plan, first + i)) WANT(walk, value_rows);
        want_ffn(walk, kind, prefix);
    }
    walk->stage = PART_OF_MODEL;
    walk->prefix = "";
}

void plan__tensors(model__walk *walk) {
    const model_plan *plan = walk->plan;
    model__want_one(walk, TENSOR_EMBED, MODEL_PART_EMBED, "embed.weight", plan->vocab_size,
                    plan->dim);
    want_stage(walk, PART_OF_PRELUDE, "prelude", plan->n_prelude, 0, plan->end_ffn);
    WANT(walk, input_rows);
    want_stage(walk, PART_OF_CORE, "core", plan->n_core, plan->n_prelude, plan->core_ffn);
    WANT(walk, loop_rows);
    if (has_exit_gate(plan)) {
        model__want_one(walk, TENSOR_EXIT_WEIGHT, OTHER, "exit.weight", 1, plan->dim);
        model__want_one(walk, TENSOR_EXIT_BIAS, OTHER, "exit.bias", 1, 0);
    }
    want_stage(walk, PART_OF_CODA, "coda", plan->n_coda, plan->n_prelude + plan->n_core,
               plan->end_ffn);
    WANT(walk, head_rows);
}
