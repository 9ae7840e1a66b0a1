/* ouro.c - the Ouro family (ByteDance/Ouro-1.4B, -2.6B, and their Thinking variants): every
 * layer in the loop, a norm on both sides of each sublayer, a norm after each loop, and a gate.
 * The gate's hazard picks the loop read by the head.
 *
 * Keys and names are from the published config.json and modeling_ouro.py. */
#include "model/model_internal.h"

#include <stdio.h>

/* ---- reading ---- */

/* early_exit_step sets one depth for every token; otherwise early_exit_threshold decides. With
 * neither, every loop runs. */
static int read_exit(const model__config *config, model_plan *plan) {
    uint32_t step;
    if (model__config_whole(config, "total_ut_steps", 1, PLAN_MAX_LOOPS, &plan->loops_cap) != 0)
        return -1;
    plan->loops_default = plan->loops_cap;
    plan->exit_threshold = 1;
    if (model__config_has(config, "early_exit_threshold") &&
        model__config_real(config, "early_exit_threshold", 1e-6, 1e6, "above 0",
                           &plan->exit_threshold) != 0) {
        return -1;
    }
    if (plan->exit_threshold > 1) plan->exit_threshold = 1;
    if (!model__config_has(config, "early_exit_step")) return 0;
    if (model__config_whole(config, "early_exit_step", 0, plan->loops_cap - 1, &step) != 0)
        return -1;
    plan->loops_default = step + 1;
    plan->exit_threshold = 1;
    return 0;
}

static void complete(model_plan *plan) {
    model__complete_llama_loop(plan);
    plan->norms = NORM_SANDWICH;
    plan->exit = EXIT_HAZARD;
    plan->exits = 1u << EXIT_HAZARD | 1u << EXIT_LATENT_DIFF | 1u << EXIT_COSINE | 1u << EXIT_FIXED;
}

static int read(const model__config *config, model_plan *plan) {
    if (model__read_llama_shape(config, plan) != 0 ||
        model__read_rope(config, "rope_theta", plan) != 0 ||
        model__refuse_llama_extras(config, plan) != 0 || read_exit(config, plan) != 0) {
        return -1;
    }
    complete(plan);
    return 0;
}

static void write(buf *out, const model_plan *plan, const char *dtype) {
    buf_puts(out, "{\n  \"architectures\": [\"OuroForCausalLM\"],\n  \"model_type\": \"ouro\",\n"
                  "  \"use_sliding_window\": false,\n");
    buf_printf(out, "  \"total_ut_steps\": %u,\n", plan->loops_cap);
    if (plan->loops_default != plan->loops_cap)
        buf_printf(out, "  \"early_exit_step\": %u,\n", plan->loops_default - 1);
    model__write_real(out, "early_exit_threshold", plan->exit_threshold);
    buf_puts(out, ",\n");
    model__write_llama_shape(out, plan, dtype);
    buf_puts(out, "\n}\n");
}

/* ---- tensors ---- */

/* Llama's input_layernorm and post_attention_layernorm stand before a sublayer; the _2 norms are on
 * its output. */
static void want_layer(model__walk *walk, uint32_t layer) {
    const uint64_t dim = walk->plan->dim;
    char prefix[40];
    (void)snprintf(prefix, sizeof prefix, "model.layers.%u.", layer);
    walk->prefix = prefix;
    walk->layer = layer;
    model__want_one(walk, TENSOR_ATTN_OUT_NORM, MODEL_PART_OTHER, "input_layernorm_2.weight", dim,
                    0);
    model__want_one(walk, TENSOR_FFN_OUT_NORM, MODEL_PART_OTHER,
                    "post_attention_layernorm_2.weight", dim, 0);
    model__want_llama_layer(walk);
    walk->prefix = "";
}

static void tensors(model__walk *walk) {
    const model_plan *plan = walk->plan;
    uint64_t dim = plan->dim, vocab = plan->vocab_size;
    model__want_one(walk, TENSOR_EMBED, MODEL_PART_EMBED, "model.embed_tokens.weight", vocab, dim);
    walk->stage = PART_OF_CORE;
    for (uint32_t i = 0; i < plan->n_core && walk->rc == 0; i++)
        want_layer(walk, i);
    walk->stage = PART_OF_MODEL;
    model__want_one(walk, TENSOR_LOOP_NORM, MODEL_PART_OTHER, "model.norm.weight", dim, 0);
    model__want_one(walk, TENSOR_EXIT_WEIGHT, MODEL_PART_OTHER, "model.early_exit_gate.weight", 1,
                    dim);
    model__want_one(walk, TENSOR_EXIT_BIAS, MODEL_PART_OTHER, "model.early_exit_gate.bias", 1, 0);
    if (!plan->tied_head)
        model__want_one(walk, TENSOR_HEAD, MODEL_PART_EMBED, "lm_head.weight", vocab, dim);
}

/* ---- variants ---- */

static const model__variant variants[] = {
    {"ouro_tiny",
     {.vocab_size = 320,
      .dim = 64,
      .ffn_dim = 96,
      .n_core = 3,
      .n_heads = 4,
      .n_kv_heads = 4,
      .head_dim = 16,
      .max_seq_len = 512,
      .loops_default = 4,
      .loops_cap = 4,
      .norm_eps = 1e-6f,
      .rope_theta = 1000000,
      .exit_threshold = 1}},
/* The published models differ in their number of layers only. */
#define PUBLISHED(name_, layers)                                                                   \
    {                                                                                              \
        name_, {                                                                                   \
            .vocab_size = 49152, .dim = 2048, .ffn_dim = 5632, .n_core = layers, .n_heads = 16,    \
            .n_kv_heads = 16, .head_dim = 128, .max_seq_len = 65536, .loops_default = 4,           \
            .loops_cap = 4, .norm_eps = 1e-6f, .rope_theta = 1000000, .exit_threshold = 1          \
        }                                                                                          \
    }
    PUBLISHED("ouro_1.4b", 24),
    PUBLISHED("ouro_2.6b", 48),
#undef PUBLISHED
};

const model_family model__ouro = {
    .name = "ouro",
    .model_type = "ouro",
    .read = read,
    .write = write,
    .complete = complete,
    .tensors = tensors,
    .variants = variants,
    .n_variants = ARRAY_LEN(variants),
};
