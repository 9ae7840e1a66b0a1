/* config_raven.c - the keys and names that Huginn's training code and its descendants share. */
#include "model/model_internal.h"

#include <stdio.h>
#include <string.h>

/* The table of the vocabulary is padded to padded_vocab_size rows. */
static int read_vocab(const model__config *config, model_plan *plan) {
    uint32_t real;
    if (model__config_whole(config, "vocab_size", 2, 1u << 24, &real) != 0) return -1;
    plan->vocab_size = real;
    if (!model__config_has(config, "padded_vocab_size")) return 0;
    return model__config_whole(config, "padded_vocab_size", real, 1u << 24, &plan->vocab_size);
}

/* Names of the training code's classes and functions. Each must be one that Fathom knows. */
int model__config_only_names(const model__config *config, const model__names *rows, size_t n) {
    for (size_t i = 0; i < n; i++) {
        int at;
        if (!model__config_has(config, rows[i].key)) continue;
        if (model__config_choice(config, rows[i].key, rows[i].names, rows[i].names[1] ? 2 : 1,
                                 &at) != 0)
            return -1;
    }
    return 0;
}

/* Absent, it is as in training: a draw. */
static int read_state_init(const model__config *config, model_plan *plan) {
    static const char *const names[] = {"like-init", "zero"};
    int at = 0;
    if (model__config_has(config, "state_init") &&
        model__config_choice(config, "state_init", names, ARRAY_LEN(names), &at) != 0)
        return -1;
    plan->state0 = at == 0 ? STATE_SEEDED : STATE_ZERO;
    return 0;
}

int model__read_raven_shape(const model__config *config, model_plan *plan) {
    const char *heads = model__config_has(config, "n_heads") ? "n_heads" : "num_attention_heads";
    uint32_t layers = PLAN_MAX_LAYERS;
    if (read_vocab(config, plan) != 0 ||
        model__config_whole(config, "n_embd", 2, MODEL_MAX_DIM, &plan->dim) != 0 ||
        model__config_whole(config, "intermediate_size", 1, MODEL_MAX_FFN, &plan->ffn_dim) != 0 ||
        model__config_whole(config, "n_layers_in_prelude", 0, layers, &plan->n_prelude) != 0 ||
        model__config_whole(config, "n_layers_in_recurrent_block", 1, layers, &plan->n_core) != 0 ||
        model__config_whole(config, "n_layers_in_coda", 0, layers, &plan->n_coda) != 0 ||
        model__config_whole(config, "block_size", 1, 1u << 24, &plan->max_seq_len) != 0 ||
        model__config_whole(config, "mean_recurrence", 1, PLAN_MAX_LOOPS, &plan->loops_default) !=
            0 ||
        model__config_real(config, "norm_eps", 1e-12, 1, "1e-12 to 1", &plan->norm_eps) != 0 ||
        model__config_only_false(config, "bias") != 0 || read_state_init(config, plan) != 0) {
        return -1;
    }
    return model__read_heads(config, heads, plan);
}

/* Fathom's own key: the published configurations name no threshold. 0 means that every loop
 * runs. */
int model__read_raven_exit(const model__config *config, model_plan *plan) {
    plan->exit_threshold = 0;
    if (!model__config_has(config, "exit_threshold")) return 0;
    return model__config_real(config, "exit_threshold", 0, 1e6, "0 to 1e6", &plan->exit_threshold);
}

void model__write_raven_shape(buf *out, const model_plan *plan) {
    const struct {
        const char *key;
        uint32_t value;
    } numbers[] = {
        {"vocab_size", plan->vocab_size},
        {"padded_vocab_size", plan->vocab_size},
        {"n_embd", plan->dim},
        {"intermediate_size", plan->ffn_dim},
        {"num_attention_heads", plan->n_heads},
        {"num_key_value_heads", plan->n_kv_heads},
        {"head_dim", plan->head_dim},
        {"n_layers_in_prelude", plan->n_prelude},
        {"n_layers_in_recurrent_block", plan->n_core},
        {"n_layers_in_coda", plan->n_coda},
        {"block_size", plan->max_seq_len},
        {"mean_recurrence", plan->loops_default},
    };
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++)
        buf_printf(out, "  \"%s\": %u,\n", numbers[i].key, numbers[i].value);
    buf_printf(out, "  \"bias\": false,\n  \"state_init\": \"%s\",\n",
               plan->state0 == STATE_ZERO ? "zero" : "like-init");
    model__write_eos(out, plan);
    model__write_real(out, "norm_eps", plan->norm_eps);
}

void model__want_raven_layers(model__walk *walk, void (*want_layer)(model__walk *walk)) {
    const struct {
        const char *name;
        tensor_stage stage;
        uint32_t n;
    } stages[] = {{"prelude", PART_OF_PRELUDE, walk->plan->n_prelude},
                  {"core_block", PART_OF_CORE, walk->plan->n_core},
                  {"coda", PART_OF_CODA, walk->plan->n_coda}};
    for (size_t i = 0; i < ARRAY_LEN(stages); i++) {
        walk->stage = stages[i].stage;
        for (walk->layer = 0; walk->layer < stages[i].n && walk->rc == 0; walk->layer++) {
            char prefix[48];
            (void)snprintf(prefix, sizeof prefix, "transformer.%s.%u.", stages[i].name,
                           walk->layer);
            walk->prefix = prefix;
            want_layer(walk);
            walk->prefix = "";
        }
    }
    walk->stage = PART_OF_MODEL;
}
