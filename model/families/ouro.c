/* ouro.c - the Ouro family (ByteDance/Ouro-1.4B, -2.6B, and their Thinking variants): every
 * layer in the loop, a norm on both sides of each sublayer, a norm after each loop, and a gate.
 * The gate's hazard picks the loop read by the head.
 *
 * Keys and names are from the published config.json and modeling_ouro.py. */
#include "model/model_internal.h"

#include <stdio.h>
#include <string.h>

enum { MAX_DIM = 1 << 17, MAX_FFN = 1 << 20, MAX_HEADS = 4096, MAX_HEAD_DIM = 4096 };

/* ---- reading ---- */

/* An object about RoPE scaling. Only "default", no scaling, is accepted; it may hold rope_theta. */
static int read_rope_object(const model__config *config, const char *key, model_plan *plan) {
    json_t *object = json_object_get(config->root, key);
    if (!json_is_object(object)) return model__config_absent(config, key);
    model__config in = {object, config->what, config->err, model__config_keys(object)};
    model__config_ignore(config, key);
    if (in.unread == NULL)
        return err_set(config->err, ERR_NO_MEMORY, NULL, "%s: out of memory", config->what);
    int rc = 0;
    if (model__config_only_text(&in, "rope_type", "default") != 0 ||
        model__config_only_text(&in, "type", "default") != 0) {
        rc = -1;
    } else if (model__config_has(&in, "rope_theta")) {
        rc = model__config_real(&in, "rope_theta", 1, 1e12, "1 to 1e12", &plan->rope_theta);
    }
    if (rc == 0) rc = model__config_refuse_unread(&in);
    json_decref(in.unread);
    return rc;
}

/* Newer files hold rope_theta inside rope_parameters. */
static int read_rope(const model__config *config, model_plan *plan) {
    plan->rope_theta = 0;
    if (read_rope_object(config, "rope_scaling", plan) != 0 ||
        read_rope_object(config, "rope_parameters", plan) != 0)
        return -1;
    if (plan->rope_theta > 0) return model__config_ignore(config, "rope_theta"), 0;
    return model__config_real(config, "rope_theta", 1, 1e12, "1 to 1e12", &plan->rope_theta);
}

static int read_layer_types(const model__config *config, const model_plan *plan) {
    const json_t *types = model__config_look(config, "layer_types"), *one;
    size_t i;
    if (types == NULL || json_is_null(types)) return 0;
    if (!json_is_array(types) || json_array_size(types) != plan->n_core) {
        return model__config_bad(config, "layer_types", "layer_types must list all %u layers",
                                 plan->n_core);
    }
    json_array_foreach(types, i, one) {
        const char *name = json_string_value(one);
        if (name && strcmp(name, "full_attention") == 0) continue;
        return model__config_bad(config, "layer_types",
                                 "layer_types %zu is '%.40s'; Fathom knows only full_attention", i,
                                 name ? name : "no text");
    }
    return 0;
}

/* Refuses keys that would change a layer's arithmetic. */
static int refuse_unknown(const model__config *config, const model_plan *plan) {
    static const char *const switches[] = {"use_sliding_window", "attention_bias", "mlp_bias",
                                           "qkv_bias"};
    for (size_t i = 0; i < ARRAY_LEN(switches); i++) {
        if (model__config_only_false(config, switches[i]) != 0) return -1;
    }
    /* of no effect while use_sliding_window is false */
    model__config_ignore(config, "sliding_window");
    model__config_ignore(config, "max_window_layers");
    if (model__config_absent(config, "quantization_config") != 0) return -1;
    if (model__config_only_text(config, "hidden_act", "silu") != 0) return -1;
    return read_layer_types(config, plan);
}

static int read_shape(const model__config *config, model_plan *plan) {
    if (model__config_whole(config, "vocab_size", 2, 1u << 24, &plan->vocab_size) != 0 ||
        model__config_whole(config, "hidden_size", 2, MAX_DIM, &plan->dim) != 0 ||
        model__config_whole(config, "intermediate_size", 1, MAX_FFN, &plan->ffn_dim) != 0 ||
        model__config_whole(config, "num_hidden_layers", 1, PLAN_MAX_LAYERS, &plan->n_core) != 0 ||
        model__config_whole(config, "num_attention_heads", 1, MAX_HEADS, &plan->n_heads) != 0 ||
        model__config_whole(config, "max_position_embeddings", 1, 1u << 24, &plan->max_seq_len) !=
            0 ||
        model__config_real(config, "rms_norm_eps", 1e-12, 1, "1e-12 to 1", &plan->norm_eps) != 0) {
        return -1;
    }
    plan->n_kv_heads = plan->n_heads;
    if (model__config_has(config, "num_key_value_heads") &&
        model__config_whole(config, "num_key_value_heads", 1, MAX_HEADS, &plan->n_kv_heads) != 0) {
        return -1;
    }
    if (plan->n_heads % plan->n_kv_heads != 0) {
        return model__config_bad(config, "num_key_value_heads",
                                 "num_key_value_heads is %u, expected a divisor of "
                                 "num_attention_heads = %u",
                                 plan->n_kv_heads, plan->n_heads);
    }
    plan->head_dim = plan->dim / plan->n_heads;
    if (model__config_has(config, "head_dim") &&
        model__config_whole(config, "head_dim", 2, MAX_HEAD_DIM, &plan->head_dim) != 0) {
        return -1;
    }
    if (plan->head_dim < 2 || plan->head_dim % 2 != 0) {
        return model__config_bad(config, "head_dim",
                                 "head_dim is %u, expected an even number: RoPE turns pairs",
                                 plan->head_dim);
    }
    return 0;
}

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
    plan->norms = NORM_SANDWICH;
    plan->attn = ATTN_GQA;
    plan->rope_halves = true;
    plan->core_ffn = plan->end_ffn = FFN_SWIGLU;
    plan->embed_scale = 1;
    plan->inject = INJECT_NONE;
    plan->state0 = STATE_EMBEDDING;
    plan->loop_norm = true;
    plan->exit = EXIT_HAZARD;
    plan->exits = 1u << EXIT_HAZARD | 1u << EXIT_LATENT_DIFF | 1u << EXIT_COSINE | 1u << EXIT_FIXED;
    plan->output = OUTPUT_STATE;
    plan->halted_kv = KV_EXACT;
    plan->full_prompts = true;
}

static int read(const model__config *config, model_plan *plan) {
    if (read_shape(config, plan) != 0 || read_rope(config, plan) != 0 ||
        refuse_unknown(config, plan) != 0 || read_exit(config, plan) != 0 ||
        model__config_flag(config, "tie_word_embeddings", false, &plan->tied_head) != 0) {
        return -1;
    }
    complete(plan);
    return 0;
}

static void write(buf *out, const model_plan *plan, const char *dtype) {
    const struct {
        const char *key;
        uint32_t value;
    } numbers[] = {
        {"vocab_size", plan->vocab_size},       {"hidden_size", plan->dim},
        {"intermediate_size", plan->ffn_dim},   {"num_hidden_layers", plan->n_core},
        {"num_attention_heads", plan->n_heads}, {"num_key_value_heads", plan->n_kv_heads},
        {"head_dim", plan->head_dim},           {"max_position_embeddings", plan->max_seq_len},
        {"total_ut_steps", plan->loops_cap},
    };
    buf_puts(out, "{\n  \"architectures\": [\"OuroForCausalLM\"],\n  \"model_type\": \"ouro\",\n"
                  "  \"hidden_act\": \"silu\",\n  \"rope_scaling\": null,\n"
                  "  \"use_sliding_window\": false,\n");
    buf_printf(out, "  \"torch_dtype\": \"%s\",\n  \"tie_word_embeddings\": %s,\n", dtype,
               plan->tied_head ? "true" : "false");
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++)
        buf_printf(out, "  \"%s\": %u,\n", numbers[i].key, numbers[i].value);
    if (plan->loops_default != plan->loops_cap)
        buf_printf(out, "  \"early_exit_step\": %u,\n", plan->loops_default - 1);
    model__write_eos(out, plan);
    model__write_real(out, "early_exit_threshold", plan->exit_threshold);
    buf_puts(out, ",\n");
    model__write_real(out, "rms_norm_eps", plan->norm_eps);
    buf_puts(out, ",\n");
    model__write_real(out, "rope_theta", plan->rope_theta);
    buf_puts(out, "\n}\n");
}

/* ---- tensors ---- */

/* post_attention_layernorm is the norm before the feed-forward; the _2 norms are on a sublayer's
 * output. */
static void want_layer(model__walk *walk, uint32_t layer) {
    const model_plan *plan = walk->plan;
    uint64_t dim = plan->dim, hidden = plan->ffn_dim, q_width = plan_q_width(plan),
             kv_width = plan_kv_width(plan);
    char prefix[40];
    (void)snprintf(prefix, sizeof prefix, "model.layers.%u.", layer);
    walk->prefix = prefix;
    walk->layer = layer;
    const model_part other = MODEL_PART_OTHER, attention = MODEL_PART_ATTENTION;
    model__want_one(walk, TENSOR_ATTN_NORM, other, "input_layernorm.weight", dim, 0);
    model__want_one(walk, TENSOR_ATTN_OUT_NORM, other, "input_layernorm_2.weight", dim, 0);
    model__want_one(walk, TENSOR_FFN_NORM, other, "post_attention_layernorm.weight", dim, 0);
    model__want_one(walk, TENSOR_FFN_OUT_NORM, other, "post_attention_layernorm_2.weight", dim, 0);
    model__want_one(walk, TENSOR_WQ, attention, "self_attn.q_proj.weight", q_width, dim);
    model__want_one(walk, TENSOR_WK, attention, "self_attn.k_proj.weight", kv_width, dim);
    model__want_one(walk, TENSOR_WV, attention, "self_attn.v_proj.weight", kv_width, dim);
    model__want_one(walk, TENSOR_WO, attention, "self_attn.o_proj.weight", dim, q_width);
    model__want_one(walk, TENSOR_GATE, MODEL_PART_DENSE, "mlp.gate_proj.weight", hidden, dim);
    model__want_one(walk, TENSOR_UP, MODEL_PART_DENSE, "mlp.up_proj.weight", hidden, dim);
    model__want_one(walk, TENSOR_DOWN, MODEL_PART_DENSE, "mlp.down_proj.weight", dim, hidden);
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
