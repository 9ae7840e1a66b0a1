/* openmythos.c - the OpenMythos family: MLA or GQA, one recurrent layer with a mixture of
 * experts, an LTI injection with a LoRA per loop, ACT halting, a weighted sum as output.
 *
 * One table drives reading and writing of config.json, so every key read is also checked. */
#include "model/model_internal.h"

#include <stdio.h>
#include <string.h>

/* The kind of attention a key is for. A GQA file may have any q_lora_rank. */
typedef enum { FOR_BOTH, FOR_MLA, FOR_GQA } used_by;

/* Limits are far above any published model (1 T parameters: dim 16384, 512 experts) and low enough
 * for every product of a tensor's shape to fit 63 bits. */
static const struct {
    const char *key;
    size_t at; /* offset of a uint32_t in model_plan */
    uint32_t min, max;
    used_by used;
} numbers[] = {
#define ROW(key, field, min, max, used)                                                            \
    { key, offsetof(model_plan, field), min, max, used }
    ROW("vocab_size", vocab_size, 2, 1u << 24, FOR_BOTH),
    ROW("dim", dim, 2, 1u << 17, FOR_BOTH),
    ROW("n_heads", n_heads, 1, 4096, FOR_BOTH),
    ROW("n_kv_heads", n_kv_heads, 1, 4096, FOR_GQA),
    ROW("max_seq_len", max_seq_len, 1, 1u << 24, FOR_BOTH),
    ROW("max_loop_iters", loops_default, 1, PLAN_MAX_LOOPS, FOR_BOTH),
    ROW("prelude_layers", n_prelude, 0, 1024, FOR_BOTH),
    ROW("coda_layers", n_coda, 0, 1024, FOR_BOTH),
    ROW("kv_lora_rank", kv_lora_rank, 1, 1u << 16, FOR_MLA),
    ROW("q_lora_rank", q_lora_rank, 1, 1u << 16, FOR_MLA),
    ROW("qk_rope_head_dim", qk_rope_head_dim, 2, 1u << 12, FOR_MLA),
    ROW("qk_nope_head_dim", qk_nope_head_dim, 1, 1u << 12, FOR_MLA),
    ROW("v_head_dim", v_head_dim, 1, 1u << 12, FOR_MLA),
    ROW("n_experts", n_experts, 1, 1u << 16, FOR_BOTH),
    ROW("n_shared_experts", n_shared_experts, 0, 1024, FOR_BOTH),
    ROW("n_experts_per_tok", n_experts_per_tok, 1, 1024, FOR_BOTH),
    ROW("expert_dim", expert_dim, 1, 1u << 20, FOR_BOTH),
    ROW("lora_rank", lora_rank, 1, 1u << 14, FOR_BOTH),
    ROW("max_output_tokens", max_output_tokens, 1, 1u << 30, FOR_BOTH),
#undef ROW
};

static uint32_t *number_at(model_plan *plan, size_t i) {
    return (uint32_t *)(void *)((char *)plan + numbers[i].at);
}

static const char *const attn_names[2] = {[ATTN_MLA] = "mla", [ATTN_GQA] = "gqa"};
static const char *const policy_names[2] = {[KV_EXACT] = "exact", [KV_LAST] = "last"};

/* ---- reading ---- */

static int read_keys(const model__config *config, model_plan *plan) {
    int choice = 0;
    if (model__config_choice(config, "attn_type", attn_names, 2, &choice) != 0) return -1;
    plan->attn = (attn_kind)choice;
    used_by other = plan->attn == ATTN_MLA ? FOR_GQA : FOR_MLA;
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++) {
        uint32_t min = numbers[i].used == other ? 0 : numbers[i].min;
        if (model__config_whole(config, numbers[i].key, min, numbers[i].max, number_at(plan, i)) !=
            0)
            return -1;
    }
    if (model__config_real(config, "act_threshold", 1e-6, 1, "above 0 and at most 1",
                           &plan->exit_threshold) != 0 ||
        model__config_real(config, "rope_theta", 1, 1e12, "1 to 1e12", &plan->rope_theta) != 0) {
        return -1;
    }
    choice = KV_EXACT;
    if (model__config_look(config, "halted_kv") &&
        model__config_choice(config, "halted_kv", policy_names, 2, &choice) != 0) {
        return -1;
    }
    plan->halted_kv = (kv_policy)choice;
    return 0;
}

static int check_attention(const model__config *config, const model_plan *plan) {
    if (plan->attn == ATTN_MLA) {
        if (plan->qk_rope_head_dim % 2 == 0) return 0;
        return model__config_bad(
            config, "qk_rope_head_dim",
            "qk_rope_head_dim is %u, expected an even number: RoPE turns pairs",
            plan->qk_rope_head_dim);
    }
    if (plan->n_heads % plan->n_kv_heads != 0) {
        return model__config_bad(config, "n_kv_heads",
                                 "n_kv_heads is %u, expected a divisor of n_heads = %u",
                                 plan->n_kv_heads, plan->n_heads);
    }
    if (plan->dim % plan->n_heads != 0) {
        return model__config_bad(config, "n_heads",
                                 "n_heads is %u, expected a divisor of dim = %u (attn_type gqa)",
                                 plan->n_heads, plan->dim);
    }
    if (plan->dim / plan->n_heads % 2 != 0) {
        return model__config_bad(
            config, "n_heads",
            "n_heads is %u, so dim / n_heads = %u, expected an even number: RoPE turns pairs",
            plan->n_heads, plan->dim / plan->n_heads);
    }
    return 0;
}

static int check(const model__config *config, const model_plan *plan) {
    if (plan->n_experts_per_tok > plan->n_experts) {
        return model__config_bad(config, "n_experts_per_tok",
                                 "n_experts_per_tok is %u, expected at most n_experts = %u",
                                 plan->n_experts_per_tok, plan->n_experts);
    }
    return check_attention(config, plan);
}

/* The parts all models of the family have in common. */
static void complete(model_plan *plan) {
    plan->n_core = 1;
    plan->norms = NORM_PRE;
    plan->norm_eps = 1e-6f;
    plan->core_ffn = FFN_MOE;
    plan->end_ffn = FFN_SWIGLU;
    plan->ffn_dim = (uint32_t)((uint64_t)plan->dim * 4 / 3);
    plan->head_dim = plan->attn == ATTN_GQA ? plan->dim / plan->n_heads : 0;
    plan->embed_scale = 1;
    plan->inject = INJECT_MYTHOS;
    plan->lora_rows = plan->loops_default;
    plan->state0 = STATE_EMBEDDING;
    plan->exit = EXIT_ACT;
    plan->exits = 1u << EXIT_ACT;
    if (plan->exit_threshold == 0) plan->exit_threshold = 0.99f;
    plan->output = OUTPUT_WEIGHTED_SUM;
    plan->final_norm = true;
}

static int read(const model__config *config, model_plan *plan) {
    if (read_keys(config, plan) != 0 || check(config, plan) != 0) return -1;
    complete(plan);
    return 0;
}

static void write(buf *out, const model_plan *plan, const char *dtype) {
    buf_puts(out, "{\n  \"architectures\": [\"OpenMythos\"],\n  \"model_type\": \"openmythos\",\n");
    buf_printf(out, "  \"torch_dtype\": \"%s\",\n", dtype);
    buf_printf(out, "  \"attn_type\": \"%s\",\n", attn_names[plan->attn]);
    buf_printf(out, "  \"halted_kv\": \"%s\",\n", policy_names[plan->halted_kv]);
    model_plan copy = *plan;
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++) {
        buf_printf(out, "  \"%s\": %u,\n", numbers[i].key, *number_at(&copy, i));
    }
    model__write_eos(out, plan);
    model__write_real(out, "act_threshold", plan->exit_threshold);
    buf_puts(out, ",\n");
    model__write_real(out, "rope_theta", plan->rope_theta);
    buf_puts(out, "\n}\n");
}

/* ---- tensors ---- */

static void want_attention(model__walk *walk) {
    const model_plan *plan = walk->plan;
    uint64_t dim = plan->dim, heads = plan->n_heads;
    model__want_one(walk, TENSOR_ATTN_NORM, MODEL_PART_OTHER, "attn_norm.weight", dim, 0);
    model__want_one(walk, TENSOR_FFN_NORM, MODEL_PART_OTHER, "ffn_norm.weight", dim, 0);
    const model_part part = MODEL_PART_ATTENTION;
    if (plan->attn == ATTN_GQA) {
        uint64_t kv = plan_kv_width(plan);
        model__want_one(walk, TENSOR_WQ, part, "attn.wq.weight", dim, dim);
        model__want_one(walk, TENSOR_WK, part, "attn.wk.weight", kv, dim);
        model__want_one(walk, TENSOR_WV, part, "attn.wv.weight", kv, dim);
        model__want_one(walk, TENSOR_WO, part, "attn.wo.weight", dim, dim);
        return;
    }
    uint64_t rank = plan->q_lora_rank, nope = plan->qk_nope_head_dim, rope = plan->qk_rope_head_dim;
    model__want_one(walk, TENSOR_Q_DOWN, part, "attn.q_down.weight", rank, dim);
    model__want_one(walk, TENSOR_Q_NORM, MODEL_PART_OTHER, "attn.q_norm.weight", rank, 0);
    model__want_one(walk, TENSOR_Q_UP_NOPE, part, "attn.q_up_nope.weight", heads * nope, rank);
    model__want_one(walk, TENSOR_Q_UP_ROPE, part, "attn.q_up_rope.weight", heads * rope, rank);
    model__want_one(walk, TENSOR_KV_DOWN, part, "attn.kv_down.weight",
                    (uint64_t)plan->kv_lora_rank + rope, dim);
    model__want_one(walk, TENSOR_KV_NORM, MODEL_PART_OTHER, "attn.kv_norm.weight",
                    plan->kv_lora_rank, 0);
    model__want_one(walk, TENSOR_KV_UP, part, "attn.kv_up.weight",
                    heads * (nope + plan->v_head_dim), plan->kv_lora_rank);
    model__want_one(walk, TENSOR_WO, part, "attn.wo.weight", dim, heads * plan->v_head_dim);
}

static void want_dense(model__walk *walk, tensor_stage stage, const char *name, uint32_t n) {
    uint64_t dim = walk->plan->dim, hidden = walk->plan->ffn_dim;
    for (uint32_t i = 0; i < n && walk->rc == 0; i++) {
        char prefix[32];
        (void)snprintf(prefix, sizeof prefix, "%s.%u.", name, i);
        walk->prefix = prefix;
        walk->stage = stage;
        walk->layer = i;
        want_attention(walk);
        model__want_one(walk, TENSOR_GATE, MODEL_PART_DENSE, "ffn.gate.weight", hidden, dim);
        model__want_one(walk, TENSOR_UP, MODEL_PART_DENSE, "ffn.up.weight", hidden, dim);
        model__want_one(walk, TENSOR_DOWN, MODEL_PART_DENSE, "ffn.down.weight", dim, hidden);
        walk->prefix = "";
    }
}

static void want_experts(model__walk *walk, model_part part, tensor_role gate, const char *kind,
                         uint32_t n, uint64_t hidden) {
    uint64_t dim = walk->plan->dim;
    for (uint32_t i = 0; i < n && walk->rc == 0; i++) {
        char prefix[64];
        (void)snprintf(prefix, sizeof prefix, "recurrent.block.ffn.%s.%u.", kind, i);
        walk->prefix = prefix;
        walk->index = i;
        model__want_one(walk, gate, part, "gate.weight", hidden, dim);
        model__want_one(walk, gate + 1, part, "up.weight", hidden, dim);
        model__want_one(walk, gate + 2, part, "down.weight", dim, hidden);
        walk->prefix = "";
    }
    walk->index = 0;
}

static void want_core(model__walk *walk) {
    const model_plan *plan = walk->plan;
    walk->stage = PART_OF_CORE;
    walk->layer = 0;
    walk->prefix = "recurrent.block.";
    want_attention(walk);
    model__want_one(walk, TENSOR_ROUTER, MODEL_PART_EXPERTS, "ffn.router.weight", plan->n_experts,
                    plan->dim);
    model__want_one(walk, TENSOR_ROUTER_BIAS, MODEL_PART_EXPERTS, "ffn.router_bias",
                    plan->n_experts, 0);
    want_experts(walk, MODEL_PART_EXPERTS, TENSOR_EXPERT_GATE, "routed_experts", plan->n_experts,
                 plan->expert_dim);
    want_experts(walk, MODEL_PART_SHARED, TENSOR_SHARED_GATE, "shared_experts",
                 plan->n_shared_experts, (uint64_t)plan->expert_dim * plan->n_experts_per_tok);
}

static void want_loop(model__walk *walk) {
    const model_plan *plan = walk->plan;
    const model_part part = MODEL_PART_OTHER;
    uint64_t dim = plan->dim;
    walk->stage = PART_OF_MODEL;
    walk->prefix = "recurrent.";
    model__want_one(walk, TENSOR_LOOP_NORM, part, "norm.weight", dim, 0);
    model__want_one(walk, TENSOR_LOG_A, part, "injection.log_A", dim, 0);
    model__want_one(walk, TENSOR_LOG_DT, part, "injection.log_dt", 1, 0);
    model__want_one(walk, TENSOR_INJECT_B, part, "injection.B", dim, 0);
    model__want_one(walk, TENSOR_EXIT_WEIGHT, part, "act.halt.weight", 1, dim);
    model__want_one(walk, TENSOR_EXIT_BIAS, part, "act.halt.bias", 1, 0);
    model__want_one(walk, TENSOR_LORA_DOWN, part, "lora.down.weight", plan->lora_rank, dim);
    model__want_one(walk, TENSOR_LORA_B, part, "lora.B", plan->lora_rank, dim);
    model__want_one(walk, TENSOR_LORA_SCALE, part, "lora.scale.weight", plan->lora_rows,
                    plan->lora_rank);
    walk->prefix = "";
}

static void tensors(model__walk *walk) {
    const model_plan *plan = walk->plan;
    model__want_one(walk, TENSOR_EMBED, MODEL_PART_EMBED, "embed.weight", plan->vocab_size,
                    plan->dim);
    want_dense(walk, PART_OF_PRELUDE, "prelude", plan->n_prelude);
    want_core(walk);
    want_loop(walk);
    want_dense(walk, PART_OF_CODA, "coda", plan->n_coda);
    walk->stage = PART_OF_MODEL;
    walk->layer = 0;
    model__want_one(walk, TENSOR_FINAL_NORM, MODEL_PART_OTHER, "norm.weight", plan->dim, 0);
    model__want_optional(walk, TENSOR_HEAD, MODEL_PART_EMBED, "head.weight", plan->vocab_size,
                         plan->dim);
}

/* ---- published variants ---- */

/* All use MLA, an FFN of 4/3 dim, threshold 0.99. Sizes as published by the OpenMythos project;
 * tiny is ours, for tests of every kind of model. */
static const model__variant variants[] = {
    {"tiny",
     {.vocab_size = 320,
      .dim = 64,
      .n_heads = 4,
      .n_kv_heads = 2,
      .max_seq_len = 512,
      .loops_default = 8,
      .n_prelude = 1,
      .n_coda = 1,
      .kv_lora_rank = 32,
      .q_lora_rank = 48,
      .qk_rope_head_dim = 8,
      .qk_nope_head_dim = 16,
      .v_head_dim = 16,
      .n_experts = 8,
      .n_shared_experts = 1,
      .n_experts_per_tok = 2,
      .expert_dim = 32,
      .lora_rank = 4,
      .max_output_tokens = 512,
      .rope_theta = 10000}},
    {"mythos_1b",
     {.vocab_size = 32000,
      .dim = 2048,
      .n_heads = 16,
      .n_kv_heads = 4,
      .max_seq_len = 4096,
      .loops_default = 16,
      .n_prelude = 2,
      .n_coda = 2,
      .kv_lora_rank = 256,
      .q_lora_rank = 512,
      .qk_rope_head_dim = 32,
      .qk_nope_head_dim = 64,
      .v_head_dim = 64,
      .n_experts = 64,
      .n_shared_experts = 2,
      .n_experts_per_tok = 4,
      .expert_dim = 2048,
      .lora_rank = 8,
      .max_output_tokens = 4096,
      .rope_theta = 500000}},
    {"mythos_3b",
     {.vocab_size = 32000,
      .dim = 3072,
      .n_heads = 24,
      .n_kv_heads = 6,
      .max_seq_len = 4096,
      .loops_default = 16,
      .n_prelude = 2,
      .n_coda = 2,
      .kv_lora_rank = 384,
      .q_lora_rank = 768,
      .qk_rope_head_dim = 32,
      .qk_nope_head_dim = 96,
      .v_head_dim = 96,
      .n_experts = 64,
      .n_shared_experts = 2,
      .n_experts_per_tok = 4,
      .expert_dim = 4096,
      .lora_rank = 8,
      .max_output_tokens = 4096,
      .rope_theta = 500000}},
    {"mythos_10b",
     {.vocab_size = 32000,
      .dim = 4096,
      .n_heads = 32,
      .n_kv_heads = 8,
      .max_seq_len = 8192,
      .loops_default = 24,
      .n_prelude = 2,
      .n_coda = 2,
      .kv_lora_rank = 512,
      .q_lora_rank = 1024,
      .qk_rope_head_dim = 64,
      .qk_nope_head_dim = 128,
      .v_head_dim = 128,
      .n_experts = 128,
      .n_shared_experts = 2,
      .n_experts_per_tok = 4,
      .expert_dim = 5632,
      .lora_rank = 16,
      .max_output_tokens = 4096,
      .rope_theta = 500000}},
    {"mythos_50b",
     {.vocab_size = 32000,
      .dim = 6144,
      .n_heads = 48,
      .n_kv_heads = 8,
      .max_seq_len = 8192,
      .loops_default = 32,
      .n_prelude = 3,
      .n_coda = 3,
      .kv_lora_rank = 512,
      .q_lora_rank = 1536,
      .qk_rope_head_dim = 64,
      .qk_nope_head_dim = 128,
      .v_head_dim = 128,
      .n_experts = 256,
      .n_shared_experts = 4,
      .n_experts_per_tok = 4,
      .expert_dim = 9728,
      .lora_rank = 32,
      .max_output_tokens = 4096,
      .rope_theta = 500000}},
    {"mythos_100b",
     {.vocab_size = 32000,
      .dim = 8192,
      .n_heads = 64,
      .n_kv_heads = 8,
      .max_seq_len = 1000000,
      .loops_default = 32,
      .n_prelude = 4,
      .n_coda = 4,
      .kv_lora_rank = 512,
      .q_lora_rank = 2048,
      .qk_rope_head_dim = 64,
      .qk_nope_head_dim = 128,
      .v_head_dim = 128,
      .n_experts = 256,
      .n_shared_experts = 4,
      .n_experts_per_tok = 8,
      .expert_dim = 13568,
      .lora_rank = 64,
      .max_output_tokens = 131072,
      .rope_theta = 1000000}},
    {"mythos_500b",
     {.vocab_size = 100000,
      .dim = 12288,
      .n_heads = 96,
      .n_kv_heads = 16,
      .max_seq_len = 1000000,
      .loops_default = 48,
      .n_prelude = 4,
      .n_coda = 4,
      .kv_lora_rank = 1024,
      .q_lora_rank = 3072,
      .qk_rope_head_dim = 64,
      .qk_nope_head_dim = 128,
      .v_head_dim = 128,
      .n_experts = 512,
      .n_shared_experts = 8,
      .n_experts_per_tok = 8,
      .expert_dim = 23040,
      .lora_rank = 128,
      .max_output_tokens = 131072,
      .rope_theta = 1000000}},
    {"mythos_1t",
     {.vocab_size = 100000,
      .dim = 16384,
      .n_heads = 128,
      .n_kv_heads = 16,
      .max_seq_len = 1000000,
      .loops_default = 64,
      .n_prelude = 6,
      .n_coda = 6,
      .kv_lora_rank = 1024,
      .q_lora_rank = 4096,
      .qk_rope_head_dim = 64,
      .qk_nope_head_dim = 128,
      .v_head_dim = 128,
      .n_experts = 512,
      .n_shared_experts = 8,
      .n_experts_per_tok = 8,
      .expert_dim = 34560,
      .lora_rank = 256,
      .max_output_tokens = 131072,
      .rope_theta = 2000000}},
};

const model_family model__openmythos = {
    .name = "openmythos",
    .model_type = "openmythos",
    .read = read,
    .write = write,
    .complete = complete,
    .tensors = tensors,
    .variants = variants,
    .n_variants = ARRAY_LEN(variants),
};
