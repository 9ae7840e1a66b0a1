/* nanbeige.c - Nanbeige4.2: a Llama stack that runs twice, with its final norm after each loop.
 *
 * The number of loops is part of the model: other depths give garbage. Keys and names are from the
 * published config.json and modeling code. */
#include "model/model_internal.h"

#include <stdio.h>

/* ---- reading ---- */

/* Features of the modeling code that no published model uses. Any of them changes the layers. */
static int refuse_features(const model__config *config) {
    static const char *const features[] = {"qk_layernorm",
                                           "emb_neighbor_num",
                                           "enable_double_loop_split",
                                           "loop_middle_layers",
                                           "loop_share_kv",
                                           "enable_hyper_connection",
                                           "enable_mhc",
                                           "enable_depth_attention",
                                           "skip_loop_final_norm",
                                           "insert_ngram_layer_idx"};
    for (size_t i = 0; i < ARRAY_LEN(features); i++) {
        const json_t *value = model__config_look(config, features[i]);
        bool off = value == NULL || json_is_null(value) || json_is_false(value) ||
                   (json_is_number(value) && json_number_value(value) == 0) ||
                   (json_is_array(value) && json_array_size(value) == 0) ||
                   (json_is_object(value) && json_object_size(value) == 0);
        if (off) continue;
        return model__config_bad(config, features[i],
                                 "%s is set; Fathom does not know it for this family", features[i]);
    }
    return 0;
}

/* With loop_loss_weights there is one loop more than weights. */
static int read_loops(const model__config *config, model_plan *plan) {
    const json_t *weights = model__config_look(config, "loop_loss_weights");
    if (model__config_whole(config, "num_loops", 1, PLAN_MAX_LOOPS, &plan->loops_default) != 0)
        return -1;
    if (weights && !json_is_null(weights) && !json_is_array(weights))
        return model__config_bad(config, "loop_loss_weights", "loop_loss_weights must be a list");
    size_t n = json_array_size(weights);
    if (n == 0) return 0;
    if (n >= PLAN_MAX_LOOPS) {
        return model__config_bad(config, "loop_loss_weights",
                                 "loop_loss_weights has %zu entries, expected at most %d", n,
                                 PLAN_MAX_LOOPS - 1);
    }
    plan->loops_default = (uint32_t)n + 1;
    return 0;
}

static void complete(model_plan *plan) {
    model__complete_llama_loop(plan);
    plan->norms = NORM_PRE;
    plan->exit = EXIT_FIXED;
    plan->exits = 1u << EXIT_FIXED;
    plan->loops_cap = plan->loops_least = plan->loops_default;
}

static int read(const model__config *config, model_plan *plan) {
    if (model__read_llama_shape(config, plan) != 0 ||
        model__read_rope(config, "rope_theta", plan) != 0 ||
        model__refuse_llama_extras(config, plan) != 0 || refuse_features(config) != 0 ||
        read_loops(config, plan) != 0) {
        return -1;
    }
    complete(plan);
    return 0;
}

static void write(buf *out, const model_plan *plan, const char *dtype) {
    buf_printf(out,
               "{\n  \"architectures\": [\"NanbeigeForCausalLM\"],\n"
               "  \"model_type\": \"nanbeige\",\n  \"num_loops\": %u,\n"
               "  \"loop_loss_weights\": [],\n  \"skip_loop_final_norm\": false,\n",
               plan->loops_default);
    model__write_llama_shape(out, plan, dtype);
    buf_puts(out, "\n}\n");
}

/* ---- tensors ---- */

static void tensors(model__walk *walk) {
    const model_plan *plan = walk->plan;
    uint64_t dim = plan->dim, vocab = plan->vocab_size;
    model__want_one(walk, TENSOR_EMBED, MODEL_PART_EMBED, "model.embed_tokens.weight", vocab, dim);
    walk->stage = PART_OF_CORE;
    for (walk->layer = 0; walk->layer < plan->n_core && walk->rc == 0; walk->layer++) {
        char prefix[40];
        (void)snprintf(prefix, sizeof prefix, "model.layers.%u.", walk->layer);
        walk->prefix = prefix;
        model__want_llama_layer(walk);
        walk->prefix = "";
    }
    walk->stage = PART_OF_MODEL;
    model__want_one(walk, TENSOR_LOOP_NORM, MODEL_PART_OTHER, "model.norm.weight", dim, 0);
    if (plan->tied_head) model__want_copy(walk, "lm_head.weight", vocab, dim);
    else model__want_one(walk, TENSOR_HEAD, MODEL_PART_EMBED, "lm_head.weight", vocab, dim);
}

/* ---- variants ---- */

static const model__variant variants[] = {
    {"nanbeige_tiny",
     {.vocab_size = 320,
      .dim = 64,
      .ffn_dim = 96,
      .n_core = 3,
      .n_heads = 6,
      .n_kv_heads = 2,
      .head_dim = 16,
      .max_seq_len = 512,
      .loops_default = 2,
      .norm_eps = 1e-5f,
      .rope_theta = 70000000}},
    {"nanbeige_3b",
     {.vocab_size = 166144,
      .dim = 3072,
      .ffn_dim = 10752,
      .n_core = 22,
      .n_heads = 48,
      .n_kv_heads = 8,
      .head_dim = 128,
      .max_seq_len = 262144,
      .loops_default = 2,
      .norm_eps = 1e-5f,
      .rope_theta = 70000000,
      .eos_ids = {166101},
      .n_eos = 1}},
};

const model_family model__nanbeige = {
    .name = "nanbeige",
    .model_type = "nanbeige",
    .read = read,
    .write = write,
    .complete = complete,
    .tensors = tensors,
    .variants = variants,
    .n_variants = ARRAY_LEN(variants),
};
