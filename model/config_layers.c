/* config_layers.c - the keys of config.json that several families share: heads, RoPE, and the keys
 * of Llama's layers. */
#include "model/model_internal.h"

#include <string.h>

/* ---- heads ---- */

/* kv_channels is a second name of head_dim. Without both, the heads share the width. */
static int read_head_dim(const model__config *config, model_plan *plan) {
    static const char *const names[] = {"head_dim", "kv_channels"};
    const char *from = NULL;
    plan->head_dim = plan->dim / plan->n_heads;
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        uint32_t size;
        if (!model__config_has(config, names[i])) continue;
        if (model__config_whole(config, names[i], 2, MODEL_MAX_HEAD_DIM, &size) != 0) return -1;
        if (from && size != plan->head_dim) {
            return model__config_bad(config, names[i], "%s is %u, but %s is %u; both name one size",
                                     names[i], size, from, plan->head_dim);
        }
        plan->head_dim = size;
        from = names[i];
    }
    if (from == NULL) from = "head_dim";
    if (plan->head_dim > MODEL_MAX_HEAD_DIM) {
        return model__config_bad(config, from, "%s is %u, expected at most %d", from,
                                 plan->head_dim, MODEL_MAX_HEAD_DIM);
    }
    if (plan->head_dim >= 2 && plan->head_dim % 2 == 0) return 0;
    return model__config_bad(config, from, "%s is %u, expected an even number: RoPE turns pairs",
                             from, plan->head_dim);
}

int model__read_heads(const model__config *config, const char *key, model_plan *plan) {
    if (model__config_whole(config, key, 1, MODEL_MAX_HEADS, &plan->n_heads) != 0) return -1;
    plan->n_kv_heads = plan->n_heads;
    if (model__config_has(config, "num_key_value_heads") &&
        model__config_whole(config, "num_key_value_heads", 1, MODEL_MAX_HEADS, &plan->n_kv_heads) !=
            0) {
        return -1;
    }
    if (plan->n_heads % plan->n_kv_heads != 0) {
        return model__config_bad(config, "num_key_value_heads",
                                 "num_key_value_heads is %u, expected a divisor of %s = %u",
                                 plan->n_kv_heads, key, plan->n_heads);
    }
    return read_head_dim(config, plan);
}

/* ---- RoPE ---- */

static int read_llama3(const model__config *in, model_plan *plan) {
    rope_scaling *scaling = &plan->scaling;
    if (model__config_real(in, "factor", 1e-3, 1e6, "0.001 to 1e6", &scaling->factor) != 0 ||
        model__config_real(in, "low_freq_factor", 1e-6, 1e6, "above 0", &scaling->low) != 0 ||
        model__config_real(in, "high_freq_factor", 1e-6, 1e6, "above 0", &scaling->high) != 0 ||
        model__config_whole(in, "original_max_position_embeddings", 1, 1u << 24,
                            &scaling->original) != 0) {
        return -1;
    }
    if (scaling->high > scaling->low) return 0;
    return model__config_bad(in, "high_freq_factor",
                             "high_freq_factor is %g, expected above low_freq_factor = %g",
                             (double)scaling->high, (double)scaling->low);
}

/* Newer files name the kind rope_type, older ones type. */
static int read_rope_kind(const model__config *in, int *kind) {
    static const char *const keys[] = {"rope_type", "type"}, *const kinds[] = {"default", "llama3"};
    int seen = -1;
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        int one;
        if (!model__config_has(in, keys[i])) continue;
        if (model__config_choice(in, keys[i], kinds, ARRAY_LEN(kinds), &one) != 0) return -1;
        if (seen >= 0 && one != seen) {
            return model__config_bad(in, keys[i], "rope_type is \"%s\", but type is \"%s\"",
                                     kinds[seen], kinds[one]);
        }
        seen = one;
    }
    *kind = seen > 0 ? seen : 0;
    return 0;
}

/* An object about RoPE. It may hold a scaling and rope_theta. */
static int read_rope_object(const model__config *config, const char *key, model_plan *plan) {
    json_t *object = json_object_get(config->root, key);
    if (!json_is_object(object)) return model__config_absent(config, key);
    model__config in = {object, config->what, config->err, model__config_keys(object)};
    model__config_ignore(config, key);
    if (in.unread == NULL)
        return err_set(config->err, ERR_NO_MEMORY, NULL, "%s: out of memory", config->what);
    int kind = 0, rc = read_rope_kind(&in, &kind);
    if (rc == 0 && kind > 0) rc = read_llama3(&in, plan);
    if (rc == 0 && model__config_has(&in, "rope_theta"))
        rc = model__config_real(&in, "rope_theta", 1, 1e12, "1 to 1e12", &plan->rope_theta);
    if (rc == 0) rc = model__config_refuse_unread(&in);
    json_decref(in.unread);
    return rc;
}

int model__read_rope(const model__config *config, const char *fallback, model_plan *plan) {
    plan->rope_theta = 0;
    if (read_rope_object(config, "rope_scaling", plan) != 0 ||
        read_rope_object(config, "rope_parameters", plan) != 0)
        return -1;
    const char *key = model__config_has(config, "rope_theta") ? "rope_theta" : fallback;
    model__config_ignore(config, fallback);
    if (plan->rope_theta > 0) return 0;
    return model__config_real(config, key, 1, 1e12, "1 to 1e12", &plan->rope_theta);
}

void model__write_rope(buf *out, const model_plan *plan) {
    const rope_scaling *scaling = &plan->scaling;
    if (scaling->factor == 0) {
        buf_puts(out, "  \"rope_scaling\": null,\n");
    } else {
        buf_puts(out, "  \"rope_scaling\": {\n  \"rope_type\": \"llama3\",\n");
        model__write_real(out, "factor", scaling->factor);
        buf_puts(out, ",\n");
        model__write_real(out, "low_freq_factor", scaling->low);
        buf_puts(out, ",\n");
        model__write_real(out, "high_freq_factor", scaling->high);
        buf_printf(out, ",\n  \"original_max_position_embeddings\": %u},\n", scaling->original);
    }
    model__write_real(out, "rope_theta", plan->rope_theta);
}

/* ---- Llama's keys ---- */

int model__read_llama_shape(const model__config *config, model_plan *plan) {
    if (model__config_whole(config, "vocab_size", 2, 1u << 24, &plan->vocab_size) != 0 ||
        model__config_whole(config, "hidden_size", 2, MODEL_MAX_DIM, &plan->dim) != 0 ||
        model__config_whole(config, "intermediate_size", 1, MODEL_MAX_FFN, &plan->ffn_dim) != 0 ||
        model__config_whole(config, "num_hidden_layers", 1, PLAN_MAX_LAYERS, &plan->n_core) != 0 ||
        model__config_whole(config, "max_position_embeddings", 1, 1u << 24, &plan->max_seq_len) !=
            0 ||
        model__config_real(config, "rms_norm_eps", 1e-12, 1, "1e-12 to 1", &plan->norm_eps) != 0 ||
        model__config_flag(config, "tie_word_embeddings", false, &plan->tied_head) != 0) {
        return -1;
    }
    return model__read_heads(config, "num_attention_heads", plan);
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

int model__refuse_llama_extras(const model__config *config, const model_plan *plan) {
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

void model__write_llama_shape(buf *out, const model_plan *plan, const char *dtype) {
    const struct {
        const char *key;
        uint32_t value;
    } numbers[] = {
        {"vocab_size", plan->vocab_size},       {"hidden_size", plan->dim},
        {"intermediate_size", plan->ffn_dim},   {"num_hidden_layers", plan->n_core},
        {"num_attention_heads", plan->n_heads}, {"num_key_value_heads", plan->n_kv_heads},
        {"head_dim", plan->head_dim},           {"max_position_embeddings", plan->max_seq_len},
    };
    buf_printf(out,
               "  \"hidden_act\": \"silu\",\n  \"torch_dtype\": \"%s\",\n"
               "  \"tie_word_embeddings\": %s,\n",
               dtype, plan->tied_head ? "true" : "false");
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++)
        buf_printf(out, "  \"%s\": %u,\n", numbers[i].key, numbers[i].value);
    model__write_eos(out, plan);
    model__write_real(out, "rms_norm_eps", plan->norm_eps);
    buf_puts(out, ",\n");
    model__write_rope(out, plan);
}

/* ---- Llama's layers in a loop ---- */

void model__complete_llama_loop(model_plan *plan) {
    plan->attn = ATTN_GQA;
    plan->rope_halves = true;
    plan->core_ffn = plan->end_ffn = FFN_SWIGLU;
    plan->embed_scale = 1;
    plan->inject = INJECT_NONE;
    plan->state0 = STATE_EMBEDDING;
    plan->loop_norm = true;
    plan->output = OUTPUT_STATE;
    plan->halted_kv = KV_EXACT;
    plan->full_prompts = true;
}

/* ---- Llama's tensors ---- */

void model__want_llama_layer(model__walk *walk) {
    const model_plan *plan = walk->plan;
    uint64_t dim = plan->dim, hidden = plan->ffn_dim, q_width = plan_q_width(plan),
             kv_width = plan_kv_width(plan);
    const model_part other = MODEL_PART_OTHER, attention = MODEL_PART_ATTENTION;
    model__want_one(walk, TENSOR_ATTN_NORM, other, "input_layernorm.weight", dim, 0);
    model__want_one(walk, TENSOR_FFN_NORM, other, "post_attention_layernorm.weight", dim, 0);
    model__want_one(walk, TENSOR_WQ, attention, "self_attn.q_proj.weight", q_width, dim);
    model__want_one(walk, TENSOR_WK, attention, "self_attn.k_proj.weight", kv_width, dim);
    model__want_one(walk, TENSOR_WV, attention, "self_attn.v_proj.weight", kv_width, dim);
    model__want_one(walk, TENSOR_WO, attention, "self_attn.o_proj.weight", dim, q_width);
    model__want_one(walk, TENSOR_GATE, MODEL_PART_DENSE, "mlp.gate_proj.weight", hidden, dim);
    model__want_one(walk, TENSOR_UP, MODEL_PART_DENSE, "mlp.up_proj.weight", hidden, dim);
    model__want_one(walk, TENSOR_DOWN, MODEL_PART_DENSE, "mlp.down_proj.weight", dim, hidden);
}
