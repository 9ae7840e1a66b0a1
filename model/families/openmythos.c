/* openmythos.c - the OpenMythos family: MLA or GQA, one recurrent layer with a mixture of
 * experts, an LTI injection with a LoRA per loop, ACT halting, a weighted sum as output.
 *
 * One table drives reading and writing of config.json, so a key cannot be read and not
 * checked. */
#include "model/model_internal.h"

#include <stdio.h>
#include <string.h>

/* Which attention a key matters to: a GQA file may carry any q_lora_rank it likes. */
typedef enum { FOR_BOTH, FOR_MLA, FOR_GQA } used_by;

/* Bounds are far above any published model (1 T parameters: dim 16384, 512 experts) and
 * low enough that every product of a tensor's shape fits 63 bits. */
static const struct {
    const char *key;
    size_t at; /* offset of a uint32_t in model_plan */
    uint32_t min, max;
    used_by used;
} numbers[] = {
#define N(key, field, min, max, used)                                                              \
    { key, offsetof(model_plan, field), min, max, used }
    N("vocab_size", vocab_size, 2, 1u << 24, FOR_BOTH),
    N("dim", dim, 2, 1u << 17, FOR_BOTH),
    N("n_heads", n_heads, 1, 4096, FOR_BOTH),
    N("n_kv_heads", n_kv_heads, 1, 4096, FOR_GQA),
    N("max_seq_len", max_seq_len, 1, 1u << 24, FOR_BOTH),
    N("max_loop_iters", loops_default, 1, PLAN_MAX_LOOPS, FOR_BOTH),
    N("prelude_layers", n_prelude, 0, 1024, FOR_BOTH),
    N("coda_layers", n_coda, 0, 1024, FOR_BOTH),
    N("kv_lora_rank", kv_lora_rank, 1, 1u << 16, FOR_MLA),
    N("q_lora_rank", q_lora_rank, 1, 1u << 16, FOR_MLA),
    N("qk_rope_head_dim", qk_rope_head_dim, 2, 1u << 12, FOR_MLA),
    N("qk_nope_head_dim", qk_nope_head_dim, 1, 1u << 12, FOR_MLA),
    N("v_head_dim", v_head_dim, 1, 1u << 12, FOR_MLA),
    N("n_experts", n_experts, 1, 1u << 16, FOR_BOTH),
    N("n_shared_experts", n_shared_experts, 0, 1024, FOR_BOTH),
    N("n_experts_per_tok", n_experts_per_tok, 1, 1024, FOR_BOTH),
    N("expert_dim", expert_dim, 1, 1u << 20, FOR_BOTH),
    N("lora_rank", lora_rank, 1, 1u << 14, FOR_BOTH),
    N("max_output_tokens", max_output_tokens, 1, 1u << 30, FOR_BOTH),
#undef N
};

static uint32_t *number_at(model_plan *p, size_t i) {
    return (uint32_t *)(void *)((char *)p + numbers[i].at);
}

static const char *const attn_names[2] = {[ATTN_MLA] = "mla", [ATTN_GQA] = "gqa"};
static const char *const policy_names[2] = {[KV_EXACT] = "exact", [KV_LAST] = "last"};

/* ---- reading ---- */

static int read_keys(const model__config *c, model_plan *p) {
    int choice = 0;
    if (model__config_choice(c, "attn_type", attn_names, 2, &choice) != 0) return -1;
    p->attn = (attn_kind)choice;
    used_by other = p->attn == ATTN_MLA ? FOR_GQA : FOR_MLA;
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++) {
        uint32_t min = numbers[i].used == other ? 0 : numbers[i].min;
        if (model__config_whole(c, numbers[i].key, min, numbers[i].max, number_at(p, i)) != 0)
            return -1;
    }
    if (model__config_real(c, "act_threshold", 1e-6, 1, "above 0 and at most 1",
                           &p->exit_threshold) != 0 ||
        model__config_real(c, "rope_theta", 1, 1e12, "1 to 1e12", &p->rope_theta) != 0) {
        return -1;
    }
    choice = KV_EXACT;
    if (model__config_look(c, "halted_kv") &&
        model__config_choice(c, "halted_kv", policy_names, 2, &choice) != 0) {
        return -1;
    }
    p->halted_kv = (kv_policy)choice;
    return 0;
}

static int check_attention(const model__config *c, const model_plan *p) {
    if (p->attn == ATTN_MLA) {
        if (p->qk_rope_head_dim % 2 == 0) return 0;
        return model__config_bad(
            c, "qk_rope_head_dim",
            "qk_rope_head_dim is %u, expected an even number: RoPE turns pairs",
            p->qk_rope_head_dim);
    }
    if (p->n_heads % p->n_kv_heads != 0) {
        return model__config_bad(c, "n_kv_heads",
                                 "n_kv_heads is %u, expected a divisor of n_heads = %u",
                                 p->n_kv_heads, p->n_heads);
    }
    if (p->dim % p->n_heads != 0) {
        return model__config_bad(c, "n_heads",
                                 "n_heads is %u, expected a divisor of dim = %u (attn_type gqa)",
                                 p->n_heads, p->dim);
    }
    if (p->dim / p->n_heads % 2 != 0) {
        return model__config_bad(
            c, "n_heads",
            "n_heads is %u, so dim / n_heads = %u, expected an even number: RoPE turns pairs",
            p->n_heads, p->dim / p->n_heads);
    }
    return 0;
}

static int check(const model__config *c, const model_plan *p) {
    if (p->n_experts_per_tok > p->n_experts) {
        return model__config_bad(c, "n_experts_per_tok",
                                 "n_experts_per_tok is %u, expected at most n_experts = %u",
                                 p->n_experts_per_tok, p->n_experts);
    }
    return check_attention(c, p);
}

/* What all models of the family have in common. */
static void complete(model_plan *p) {
    p->n_core = 1;
    p->norms = NORM_PRE;
    p->norm_eps = 1e-6f;
    p->core_ffn = FFN_MOE;
    p->end_ffn = FFN_SWIGLU;
    p->ffn_dim = (uint32_t)((uint64_t)p->dim * 4 / 3);
    p->head_dim = p->attn == ATTN_GQA ? p->dim / p->n_heads : 0;
    p->embed_scale = 1;
    p->inject = INJECT_MYTHOS;
    p->lora_rows = p->loops_default;
    p->state0 = STATE_EMBEDDING;
    p->exit = EXIT_ACT;
    p->exits = 1u << EXIT_ACT;
    if (p->exit_threshold == 0) p->exit_threshold = 0.99f;
    p->output = OUTPUT_WEIGHTED_SUM;
    p->final_norm = true;
}

static int read(const model__config *c, model_plan *p) {
    if (read_keys(c, p) != 0 || check(c, p) != 0) return -1;
    complete(p);
    return 0;
}

static void write(buf *out, const model_plan *p, const char *dtype) {
    buf_puts(out, "{\n  \"architectures\": [\"OpenMythos\"],\n  \"model_type\": \"openmythos\",\n");
    buf_printf(out, "  \"torch_dtype\": \"%s\",\n", dtype);
    buf_printf(out, "  \"attn_type\": \"%s\",\n", attn_names[p->attn]);
    buf_printf(out, "  \"halted_kv\": \"%s\",\n", policy_names[p->halted_kv]);
    model_plan copy = *p;
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++) {
        buf_printf(out, "  \"%s\": %u,\n", numbers[i].key, *number_at(&copy, i));
    }
    model__write_eos(out, p);
    model__write_real(out, "act_threshold", p->exit_threshold);
    buf_puts(out, ",\n");
    model__write_real(out, "rope_theta", p->rope_theta);
    buf_puts(out, "\n}\n");
}

/* ---- tensors ---- */

static void want_attention(model__walk *k) {
    const model_plan *p = k->p;
    uint64_t d = p->dim, h = p->n_heads;
    model__want_one(k, TENSOR_ATTN_NORM, MODEL_PART_OTHER, "attn_norm.weight", d, 0);
    model__want_one(k, TENSOR_FFN_NORM, MODEL_PART_OTHER, "ffn_norm.weight", d, 0);
    const model_part part = MODEL_PART_ATTENTION;
    if (p->attn == ATTN_GQA) {
        uint64_t kv = plan_kv_width(p);
        model__want_one(k, TENSOR_WQ, part, "attn.wq.weight", d, d);
        model__want_one(k, TENSOR_WK, part, "attn.wk.weight", kv, d);
        model__want_one(k, TENSOR_WV, part, "attn.wv.weight", kv, d);
        model__want_one(k, TENSOR_WO, part, "attn.wo.weight", d, d);
        return;
    }
    uint64_t rank = p->q_lora_rank, nope = p->qk_nope_head_dim, rope = p->qk_rope_head_dim;
    model__want_one(k, TENSOR_Q_DOWN, part, "attn.q_down.weight", rank, d);
    model__want_one(k, TENSOR_Q_NORM, MODEL_PART_OTHER, "attn.q_norm.weight", rank, 0);
    model__want_one(k, TENSOR_Q_UP_NOPE, part, "attn.q_up_nope.weight", h * nope, rank);
    model__want_one(k, TENSOR_Q_UP_ROPE, part, "attn.q_up_rope.weight", h * rope, rank);
    model__want_one(k, TENSOR_KV_DOWN, part, "attn.kv_down.weight",
                    (uint64_t)p->kv_lora_rank + rope, d);
    model__want_one(k, TENSOR_KV_NORM, MODEL_PART_OTHER, "attn.kv_norm.weight", p->kv_lora_rank, 0);
    model__want_one(k, TENSOR_KV_UP, part, "attn.kv_up.weight", h * (nope + p->v_head_dim),
                    p->kv_lora_rank);
    model__want_one(k, TENSOR_WO, part, "attn.wo.weight", d, h * p->v_head_dim);
}

static void want_dense(model__walk *k, tensor_stage stage, const char *name, uint32_t n) {
    uint64_t d = k->p->dim, hidden = k->p->ffn_dim;
    for (uint32_t i = 0; i < n && k->rc == 0; i++) {
        char prefix[32];
        (void)snprintf(prefix, sizeof prefix, "%s.%u.", name, i);
        k->prefix = prefix;
        k->stage = stage;
        k->layer = i;
        want_attention(k);
        model__want_one(k, TENSOR_GATE, MODEL_PART_DENSE, "ffn.gate.weight", hidden, d);
        model__want_one(k, TENSOR_UP, MODEL_PART_DENSE, "ffn.up.weight", hidden, d);
        model__want_one(k, TENSOR_DOWN, MODEL_PART_DENSE, "ffn.down.weight", d, hidden);
        k->prefix = "";
    }
}

static void want_experts(model__walk *k, model_part part, tensor_role gate, const char *kind,
                         uint32_t n, uint64_t hidden) {
    uint64_t d = k->p->dim;
    for (uint32_t i = 0; i < n && k->rc == 0; i++) {
        char prefix[64];
        (void)snprintf(prefix, sizeof prefix, "recurrent.block.ffn.%s.%u.", kind, i);
        k->prefix = prefix;
        k->index = i;
        model__want_one(k, gate, part, "gate.weight", hidden, d);
        model__want_one(k, gate + 1, part, "up.weight", hidden, d);
        model__want_one(k, gate + 2, part, "down.weight", d, hidden);
        k->prefix = "";
    }
    k->index = 0;
}

static void want_core(model__walk *k) {
    const model_plan *p = k->p;
    k->stage = PART_OF_CORE;
    k->layer = 0;
    k->prefix = "recurrent.block.";
    want_attention(k);
    model__want_one(k, TENSOR_ROUTER, MODEL_PART_EXPERTS, "ffn.router.weight", p->n_experts,
                    p->dim);
    model__want_one(k, TENSOR_ROUTER_BIAS, MODEL_PART_EXPERTS, "ffn.router_bias", p->n_experts, 0);
    want_experts(k, MODEL_PART_EXPERTS, TENSOR_EXPERT_GATE, "routed_experts", p->n_experts,
                 p->expert_dim);
    want_experts(k, MODEL_PART_SHARED, TENSOR_SHARED_GATE, "shared_experts", p->n_shared_experts,
                 (uint64_t)p->expert_dim * p->n_experts_per_tok);
}

static void want_loop(model__walk *k) {
    const model_plan *p = k->p;
    const model_part part = MODEL_PART_OTHER;
    uint64_t d = p->dim;
    k->stage = PART_OF_MODEL;
    k->prefix = "recurrent.";
    model__want_one(k, TENSOR_LOOP_NORM, part, "norm.weight", d, 0);
    model__want_one(k, TENSOR_LOG_A, part, "injection.log_A", d, 0);
    model__want_one(k, TENSOR_LOG_DT, part, "injection.log_dt", 1, 0);
    model__want_one(k, TENSOR_INJECT_B, part, "injection.B", d, 0);
    model__want_one(k, TENSOR_EXIT_WEIGHT, part, "act.halt.weight", 1, d);
    model__want_one(k, TENSOR_EXIT_BIAS, part, "act.halt.bias", 1, 0);
    model__want_one(k, TENSOR_LORA_DOWN, part, "lora.down.weight", p->lora_rank, d);
    model__want_one(k, TENSOR_LORA_B, part, "lora.B", p->lora_rank, d);
    model__want_one(k, TENSOR_LORA_SCALE, part, "lora.scale.weight", p->lora_rows, p->lora_rank);
    k->prefix = "";
}

static void tensors(model__walk *k) {
    const model_plan *p = k->p;
    model__want_one(k, TENSOR_EMBED, MODEL_PART_EMBED, "embed.weight", p->vocab_size, p->dim);
    want_dense(k, PART_OF_PRELUDE, "prelude", p->n_prelude);
    want_core(k);
    want_loop(k);
    want_dense(k, PART_OF_CODA, "coda", p->n_coda);
    k->stage = PART_OF_MODEL;
    k->layer = 0;
    model__want_one(k, TENSOR_FINAL_NORM, MODEL_PART_OTHER, "norm.weight", p->dim, 0);
    model__want_optional(k, TENSOR_HEAD, MODEL_PART_EMBED, "head.weight", p->vocab_size, p->dim);
}

/* ---- published variants ---- */

/* All use MLA, two thirds of a 4/3 FFN, threshold 0.99. Sizes as the OpenMythos project
 * publishes them; tiny is ours, small enough for tests that run a model of every kind. */
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
