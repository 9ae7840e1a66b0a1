/* ouro.c - the Ouro family (ByteDance/Ouro-1.4B, -2.6B, and their Thinking variants): every
 * layer in the loop, a norm on both sides of each sublayer, a norm after each loop, and a gate
 * whose hazard picks the loop that the head reads.
 *
 * Keys and names are those of the published config.json and modeling_ouro.py. */
#include "model/model_internal.h"

#include <stdio.h>
#include <string.h>

enum { MAX_DIM = 1 << 17, MAX_FFN = 1 << 20, MAX_HEADS = 4096, MAX_HEAD_DIM = 4096 };

/* ---- reading ---- */

/* An object that says how angles are scaled: it may say "not at all", and where it stands for
 * rope_theta, that. */
static int read_rope_object(const model__config *c, const char *key, model_plan *p) {
    json_t *object = json_object_get(c->root, key);
    if (!json_is_object(object)) return model__config_absent(c, key);
    model__config in = {object, c->what, c->e, model__config_keys(object)};
    model__config_ignore(c, key);
    if (in.unread == NULL) return err_set(c->e, ERR_NO_MEMORY, NULL, "%s: out of memory", c->what);
    int rc = 0;
    if (model__config_only_text(&in, "rope_type", "default") != 0 ||
        model__config_only_text(&in, "type", "default") != 0) {
        rc = -1;
    } else if (model__config_has(&in, "rope_theta")) {
        rc = model__config_real(&in, "rope_theta", 1, 1e12, "1 to 1e12", &p->rope_theta);
    }
    if (rc == 0) rc = model__config_refuse_unread(&in);
    json_decref(in.unread);
    return rc;
}

/* Newer files hold rope_theta inside rope_parameters. */
static int read_rope(const model__config *c, model_plan *p) {
    p->rope_theta = 0;
    if (read_rope_object(c, "rope_scaling", p) != 0 ||
        read_rope_object(c, "rope_parameters", p) != 0)
        return -1;
    if (p->rope_theta > 0) return model__config_ignore(c, "rope_theta"), 0;
    return model__config_real(c, "rope_theta", 1, 1e12, "1 to 1e12", &p->rope_theta);
}

static int read_layer_types(const model__config *c, const model_plan *p) {
    const json_t *types = model__config_look(c, "layer_types"), *one;
    size_t i;
    if (types == NULL || json_is_null(types)) return 0;
    if (!json_is_array(types) || json_array_size(types) != p->n_core) {
        return model__config_bad(c, "layer_types", "layer_types must list all %u layers",
                                 p->n_core);
    }
    json_array_foreach(types, i, one) {
        const char *name = json_string_value(one);
        if (name && strcmp(name, "full_attention") == 0) continue;
        return model__config_bad(c, "layer_types",
                                 "layer_types %zu is '%.40s'; Fathom knows only full_attention", i,
                                 name ? name : "no text");
    }
    return 0;
}

/* Keys that would change what a layer computes. */
static int refuse_unknown(const model__config *c, const model_plan *p) {
    static const char *const switches[] = {"use_sliding_window", "attention_bias", "mlp_bias",
                                           "qkv_bias"};
    for (size_t i = 0; i < ARRAY_LEN(switches); i++) {
        if (model__config_only_false(c, switches[i]) != 0) return -1;
    }
    /* of no effect while use_sliding_window is false */
    model__config_ignore(c, "sliding_window");
    model__config_ignore(c, "max_window_layers");
    if (model__config_absent(c, "quantization_config") != 0) return -1;
    if (model__config_only_text(c, "hidden_act", "silu") != 0) return -1;
    return read_layer_types(c, p);
}

static int read_shape(const model__config *c, model_plan *p) {
    if (model__config_whole(c, "vocab_size", 2, 1u << 24, &p->vocab_size) != 0 ||
        model__config_whole(c, "hidden_size", 2, MAX_DIM, &p->dim) != 0 ||
        model__config_whole(c, "intermediate_size", 1, MAX_FFN, &p->ffn_dim) != 0 ||
        model__config_whole(c, "num_hidden_layers", 1, PLAN_MAX_LAYERS, &p->n_core) != 0 ||
        model__config_whole(c, "num_attention_heads", 1, MAX_HEADS, &p->n_heads) != 0 ||
        model__config_whole(c, "max_position_embeddings", 1, 1u << 24, &p->max_seq_len) != 0 ||
        model__config_real(c, "rms_norm_eps", 1e-12, 1, "1e-12 to 1", &p->norm_eps) != 0) {
        return -1;
    }
    p->n_kv_heads = p->n_heads;
    if (model__config_has(c, "num_key_value_heads") &&
        model__config_whole(c, "num_key_value_heads", 1, MAX_HEADS, &p->n_kv_heads) != 0) {
        return -1;
    }
    if (p->n_heads % p->n_kv_heads != 0) {
        return model__config_bad(c, "num_key_value_heads",
                                 "num_key_value_heads is %u, expected a divisor of "
                                 "num_attention_heads = %u",
                                 p->n_kv_heads, p->n_heads);
    }
    p->head_dim = p->dim / p->n_heads;
    if (model__config_has(c, "head_dim") &&
        model__config_whole(c, "head_dim", 2, MAX_HEAD_DIM, &p->head_dim) != 0) {
        return -1;
    }
    if (p->head_dim < 2 || p->head_dim % 2 != 0) {
        return model__config_bad(c, "head_dim",
                                 "head_dim is %u, expected an even number: RoPE turns pairs",
                                 p->head_dim);
    }
    return 0;
}

/* early_exit_step names one loop for every token; else early_exit_threshold, whose absence
 * means that every loop runs. */
static int read_exit(const model__config *c, model_plan *p) {
    uint32_t step;
    if (model__config_whole(c, "total_ut_steps", 1, PLAN_MAX_LOOPS, &p->loops_cap) != 0) return -1;
    p->loops_default = p->loops_cap;
    p->exit_threshold = 1;
    if (model__config_has(c, "early_exit_threshold") &&
        model__config_real(c, "early_exit_threshold", 1e-6, 1e6, "above 0", &p->exit_threshold) !=
            0) {
        return -1;
    }
    if (p->exit_threshold > 1) p->exit_threshold = 1;
    if (!model__config_has(c, "early_exit_step")) return 0;
    if (model__config_whole(c, "early_exit_step", 0, p->loops_cap - 1, &step) != 0) return -1;
    p->loops_default = step + 1;
    p->exit_threshold = 1;
    return 0;
}

static void complete(model_plan *p) {
    p->norms = NORM_SANDWICH;
    p->attn = ATTN_GQA;
    p->rope_halves = true;
    p->core_ffn = p->end_ffn = FFN_SWIGLU;
    p->embed_scale = 1;
    p->inject = INJECT_NONE;
    p->state0 = STATE_EMBEDDING;
    p->loop_norm = true;
    p->exit = EXIT_HAZARD;
    p->exits = 1u << EXIT_HAZARD | 1u << EXIT_LATENT_DIFF | 1u << EXIT_COSINE | 1u << EXIT_FIXED;
    p->output = OUTPUT_STATE;
    p->halted_kv = KV_EXACT;
    p->full_prompts = true;
}

static int read(const model__config *c, model_plan *p) {
    if (read_shape(c, p) != 0 || read_rope(c, p) != 0 || refuse_unknown(c, p) != 0 ||
        read_exit(c, p) != 0 ||
        model__config_flag(c, "tie_word_embeddings", false, &p->tied_head) != 0) {
        return -1;
    }
    complete(p);
    return 0;
}

static void write(buf *out, const model_plan *p, const char *dtype) {
    const struct {
        const char *key;
        uint32_t value;
    } numbers[] = {
        {"vocab_size", p->vocab_size},       {"hidden_size", p->dim},
        {"intermediate_size", p->ffn_dim},   {"num_hidden_layers", p->n_core},
        {"num_attention_heads", p->n_heads}, {"num_key_value_heads", p->n_kv_heads},
        {"head_dim", p->head_dim},           {"max_position_embeddings", p->max_seq_len},
        {"total_ut_steps", p->loops_cap},
    };
    buf_puts(out, "{\n  \"architectures\": [\"OuroForCausalLM\"],\n  \"model_type\": \"ouro\",\n"
                  "  \"hidden_act\": \"silu\",\n  \"rope_scaling\": null,\n"
                  "  \"use_sliding_window\": false,\n");
    buf_printf(out, "  \"torch_dtype\": \"%s\",\n  \"tie_word_embeddings\": %s,\n", dtype,
               p->tied_head ? "true" : "false");
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++)
        buf_printf(out, "  \"%s\": %u,\n", numbers[i].key, numbers[i].value);
    if (p->loops_default != p->loops_cap)
        buf_printf(out, "  \"early_exit_step\": %u,\n", p->loops_default - 1);
    model__write_eos(out, p);
    model__write_real(out, "early_exit_threshold", p->exit_threshold);
    buf_puts(out, ",\n");
    model__write_real(out, "rms_norm_eps", p->norm_eps);
    buf_puts(out, ",\n");
    model__write_real(out, "rope_theta", p->rope_theta);
    buf_puts(out, "\n}\n");
}

/* ---- tensors ---- */

/* post_attention_layernorm is the norm before the feed-forward; the _2 norms are on what a
 * sublayer gives. */
static void want_layer(model__walk *k, uint32_t layer) {
    const model_plan *p = k->p;
    uint64_t d = p->dim, f = p->ffn_dim, q = plan_q_width(p), kv = plan_kv_width(p);
    char prefix[40];
    (void)snprintf(prefix, sizeof prefix, "model.layers.%u.", layer);
    k->prefix = prefix;
    k->layer = layer;
    const model_part other = MODEL_PART_OTHER, attention = MODEL_PART_ATTENTION;
    model__want_one(k, TENSOR_ATTN_NORM, other, "input_layernorm.weight", d, 0);
    model__want_one(k, TENSOR_ATTN_OUT_NORM, other, "input_layernorm_2.weight", d, 0);
    model__want_one(k, TENSOR_FFN_NORM, other, "post_attention_layernorm.weight", d, 0);
    model__want_one(k, TENSOR_FFN_OUT_NORM, other, "post_attention_layernorm_2.weight", d, 0);
    model__want_one(k, TENSOR_WQ, attention, "self_attn.q_proj.weight", q, d);
    model__want_one(k, TENSOR_WK, attention, "self_attn.k_proj.weight", kv, d);
    model__want_one(k, TENSOR_WV, attention, "self_attn.v_proj.weight", kv, d);
    model__want_one(k, TENSOR_WO, attention, "self_attn.o_proj.weight", d, q);
    model__want_one(k, TENSOR_GATE, MODEL_PART_DENSE, "mlp.gate_proj.weight", f, d);
    model__want_one(k, TENSOR_UP, MODEL_PART_DENSE, "mlp.up_proj.weight", f, d);
    model__want_one(k, TENSOR_DOWN, MODEL_PART_DENSE, "mlp.down_proj.weight", d, f);
    k->prefix = "";
}

static void tensors(model__walk *k) {
    const model_plan *p = k->p;
    uint64_t d = p->dim, v = p->vocab_size;
    model__want_one(k, TENSOR_EMBED, MODEL_PART_EMBED, "model.embed_tokens.weight", v, d);
    k->stage = PART_OF_CORE;
    for (uint32_t i = 0; i < p->n_core && k->rc == 0; i++)
        want_layer(k, i);
    k->stage = PART_OF_MODEL;
    model__want_one(k, TENSOR_LOOP_NORM, MODEL_PART_OTHER, "model.norm.weight", d, 0);
    model__want_one(k, TENSOR_EXIT_WEIGHT, MODEL_PART_OTHER, "model.early_exit_gate.weight", 1, d);
    model__want_one(k, TENSOR_EXIT_BIAS, MODEL_PART_OTHER, "model.early_exit_gate.bias", 1, 0);
    if (!p->tied_head) model__want_one(k, TENSOR_HEAD, MODEL_PART_EMBED, "lm_head.weight", v, d);
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
/* The published sizes differ in their number of layers alone. */
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
