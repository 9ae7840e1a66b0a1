/* parcae.c - Parcae (SandyResearch/parcae-140m to -1.3b): prelude, core and coda of equal length, a
 * state that decays per channel while the normed output of the prelude flows in, squared ReLU, and
 * tables that add a row per token to the values of every second layer.
 *
 * Keys and names are from the published dataclass dump and code. tools/convert_bin.py turns the
 * published pytorch_model.bin into a folder that opens here. */
#include "model/model_internal.h"

#include <float.h>
#include <math.h>
#include <stdio.h>

/* ---- reading ---- */

/* The published settings of the training code's switches; others would change the arithmetic. */
static int refuse_unknown(const model__config *config) {
    static const model__names rows[] = {
        {"block_class_name", {"TransformerPreNormBlock", NULL}},
        {"norm_class_name", {"RMSNorm", NULL}},
        {"mlp_class_name", {"BaseMLP", NULL}},
        {"nonlin_name", {"ReLU2", NULL}},
        {"injection_type", {"diagonal", NULL}},
        /* of it follow an embedding scale and a logit scale of 1 */
        {"init_strategy", {"scaled-zero", NULL}},
        {"recurrent_iteration_method", {"per-sequence", NULL}},
        {"model_class_name", {"Parcae", NULL}},
    };
    static const char *const off[] = {"qk_bias",          "use_abacus", "debias_attention",
                                      "center_attention", "lockstep_n", "lockstep_k"};
    static const char *const absent[] = {"clip_qkv", "logit_softcap", "randomize_positions_from"};
    if (model__config_only_names(config, rows, ARRAY_LEN(rows)) != 0) return -1;
    for (size_t i = 0; i < ARRAY_LEN(off); i++) {
        if (model__config_only_false(config, off[i]) != 0) return -1;
    }
    for (size_t i = 0; i < ARRAY_LEN(absent); i++) {
        if (model__config_absent(config, absent[i]) != 0) return -1;
    }
    return 0;
}

/* Switches that every published model has on; Fathom knows no other layers of this family. */
static int need_switches(const model__config *config) {
    static const char *const on[] = {"qk_norm", "prelude_norm", "tie_embeddings"};
    for (size_t i = 0; i < ARRAY_LEN(on); i++) {
        bool set;
        if (model__config_flag(config, on[i], true, &set) != 0) return -1;
        if (set) continue;
        return model__config_bad(config, on[i],
                                 "%s is false; Fathom knows only true for this family", on[i]);
    }
    return 0;
}

/* The core may have sizes of its own in the training code; in published models they are equal. */
static int check_core_size(const model__config *config, const char *key, uint32_t expected) {
    uint32_t size;
    if (!model__config_has(config, key)) return 0;
    if (model__config_whole(config, key, 1, MODEL_MAX_FFN, &size) != 0) return -1;
    if (size == expected) return 0;
    return model__config_bad(config, key,
                             "%s is %u, but the other layers have %u; Fathom knows only equal "
                             "layers for this family",
                             key, size, expected);
}

static int read_rope(const model__config *config, model_plan *plan) {
    const json_t *object = model__config_get(config, "rope_settings");
    if (object == NULL) return -1;
    if (!json_is_object(object))
        return model__config_bad(config, "rope_settings", "rope_settings must be an object");
    model__config in = {object, config->what, config->err, NULL};
    bool use;
    float ratio;
    if (model__config_flag(&in, "use_rope", true, &use) != 0) return -1;
    if (!use) return model__config_bad(config, "rope_settings", "use_rope is false, expected true");
    if (model__config_has(&in, "rope_condense_ratio") &&
        model__config_real(&in, "rope_condense_ratio", 1, 1, "1", &ratio) != 0)
        return -1;
    return model__config_real(&in, "rope_base", 1, 1e12, "1 to 1e12", &plan->rope_theta);
}

/* Layers counted over prelude, core and coda. */
static uint32_t n_layers(const model_plan *plan) {
    return plan->n_prelude + plan->n_core + plan->n_coda;
}

static int check_layers(const model__config *config, const model_plan *plan) {
    if (plan->dim < PLAN_VALUE_GATE) {
        return model__config_bad(config, "n_embd",
                                 "n_embd is %u, expected at least %d: the value gates read so many",
                                 plan->dim, PLAN_VALUE_GATE);
    }
    if (n_layers(plan) <= PLAN_MAX_LAYERS) return 0;
    return model__config_bad(config, "n_layers_in_coda",
                             "prelude, core and coda have %u layers, expected at most %d",
                             n_layers(plan), PLAN_MAX_LAYERS);
}

/* In published models every second layer has a gate and a table. */
static void set_value_embeds(model_plan *plan) {
    for (uint32_t i = 1; i < n_layers(plan); i += 2)
        plan->value_embeds[i / 8] |= (uint8_t)(1u << i % 8);
}

/* The norm of queries and keys uses the least step of the format it is computed in. Fathom computes
 * it in float32, so it is float32's; published code in bfloat16 has 0.0078 there. */
static void complete(model_plan *plan) {
    plan->norms = NORM_PRE;
    plan->attn = ATTN_GQA;
    plan->qk_norm = QK_NORM_HEAD_UNIT;
    plan->qk_norm_eps = FLT_EPSILON;
    plan->core_ffn = plan->end_ffn = FFN_HALF_RELU2;
    plan->embed_scale = 1;
    plan->tied_head = true;
    plan->input_norm = true;
    plan->inject = INJECT_DIAGONAL;
    if (plan->state0 == STATE_EMBEDDING) plan->state0 = STATE_SEEDED;
    plan->state0_std = (float)sqrt(2 / (5 * (double)plan->dim));
    plan->exit = plan->exit_threshold > 0 ? EXIT_LATENT_DIFF : EXIT_FIXED;
    plan->exits = 1u << EXIT_LATENT_DIFF | 1u << EXIT_COSINE | 1u << EXIT_FIXED;
    plan->output = OUTPUT_STATE;
    plan->coda_in = CODA_IN_LINEAR;
    plan->final_norm = true;
    plan->halted_kv = KV_LAST;
    plan->full_prompts = true;
    set_value_embeds(plan);
}

static int read(const model__config *config, model_plan *plan) {
    if (model__read_raven_shape(config, plan) != 0 || check_layers(config, plan) != 0 ||
        read_rope(config, plan) != 0 || refuse_unknown(config) != 0 || need_switches(config) != 0 ||
        check_core_size(config, "recurrent_embedding_dimension", plan->dim) != 0 ||
        check_core_size(config, "recurrent_num_attention_heads", plan->n_heads) != 0 ||
        check_core_size(config, "recurrent_intermediation_embedding_dimension", plan->ffn_dim) !=
            0 ||
        model__read_raven_exit(config, plan) != 0) {
        return -1;
    }
    complete(plan);
    return 0;
}

/* ---- the names of tensors ---- */

static const struct {
    const char *name;
    tensor_stage stage;
} stages[] = {{"prelude", PART_OF_PRELUDE}, {"core_block", PART_OF_CORE}, {"coda", PART_OF_CODA}};

/* Index of a layer over all stages. */
static uint32_t index_of(const model_plan *plan, tensor_stage stage, uint32_t layer) {
    uint32_t before = stage == PART_OF_PRELUDE ? 0
                      : stage == PART_OF_CORE  ? plan->n_prelude
                                               : plan->n_prelude + plan->n_core;
    return before + layer;
}

/* A layer with both a gate and a table adds to its values. */
static void refine(model_plan *plan, model__has_tensor has, const void *ud) {
    const uint32_t n[] = {plan->n_prelude, plan->n_core, plan->n_coda};
    for (size_t i = 0; i < ARRAY_LEN(stages); i++) {
        for (uint32_t layer = 0; layer < n[i]; layer++) {
            uint32_t index = index_of(plan, stages[i].stage, layer);
            char gate[64], table[40];
            (void)snprintf(gate, sizeof gate, "transformer.%s.%u.attn.ve_gate.weight",
                           stages[i].name, layer);
            (void)snprintf(table, sizeof table, "value_embeds.%u.weight", index);
            uint8_t bit = (uint8_t)(1u << index % 8);
            plan->value_embeds[index / 8] &= (uint8_t)~bit;
            if (has(ud, gate) && has(ud, table)) plan->value_embeds[index / 8] |= bit;
        }
    }
}

static void want_value_embed(model__walk *walk) {
    const model_plan *plan = walk->plan;
    uint32_t index = index_of(plan, walk->stage, walk->layer);
    const char *prefix = walk->prefix;
    char table[40];
    if (!plan_value_embed(plan, index)) return;
    model__want_one(walk, TENSOR_VALUE_GATE, MODEL_PART_ATTENTION, "attn.ve_gate.weight",
                    plan->n_kv_heads, PLAN_VALUE_GATE);
    (void)snprintf(table, sizeof table, "value_embeds.%u.weight", index);
    walk->prefix = "";
    model__want_one(walk, TENSOR_VALUE_TABLE, MODEL_PART_VALUES, table, plan->vocab_size,
                    plan_kv_width(plan));
    walk->prefix = prefix;
}

static void want_layer(model__walk *walk) {
    const model_plan *plan = walk->plan;
    const model_part other = MODEL_PART_OTHER, attention = MODEL_PART_ATTENTION;
    uint64_t dim = plan->dim, hidden = plan->ffn_dim, q_width = plan_q_width(plan),
             kv_width = plan_kv_width(plan);
    model__want_one(walk, TENSOR_ATTN_NORM, other, "norm_1.weight", dim, 0);
    model__want_one(walk, TENSOR_FFN_NORM, other, "norm_2.weight", dim, 0);
    model__want_one(walk, TENSOR_WQ, attention, "attn.c_q.weight", q_width, dim);
    model__want_one(walk, TENSOR_WK, attention, "attn.c_k.weight", kv_width, dim);
    model__want_one(walk, TENSOR_WV, attention, "attn.c_v.weight", kv_width, dim);
    model__want_one(walk, TENSOR_WO, attention, "attn.c_proj.weight", dim, q_width);
    model__want_one(walk, TENSOR_UP, MODEL_PART_DENSE, "mlp.fc.weight", hidden, dim);
    model__want_one(walk, TENSOR_DOWN, MODEL_PART_DENSE, "mlp.proj.weight", dim, hidden);
    want_value_embed(walk);
}

static void tensors(model__walk *walk) {
    const model_part other = MODEL_PART_OTHER;
    uint64_t dim = walk->plan->dim, vocab = walk->plan->vocab_size;
    model__want_one(walk, TENSOR_EMBED, MODEL_PART_EMBED, "transformer.wte.weight", vocab, dim);
    model__want_raven_layers(walk, want_layer);
    model__want_one(walk, TENSOR_LOG_A, other, "transformer.adapter.A_log", dim, 0);
    model__want_one(walk, TENSOR_LOG_DT, other, "transformer.adapter.dt_bias", dim, 0);
    model__want_one(walk, TENSOR_INJECT, other, "transformer.adapter.B", dim, dim);
    model__want_one(walk, TENSOR_INPUT_NORM, other, "transformer.ln_prelude.weight", dim, 0);
    model__want_one(walk, TENSOR_CODA_IN, other, "transformer.C.weight", dim, dim);
    model__want_one(walk, TENSOR_FINAL_NORM, other, "transformer.ln_f.weight", dim, 0);
    model__want_copy(walk, "lm_head.weight", vocab, dim);
}

/* ---- writing ---- */

static void write(buf *out, const model_plan *plan, const char *dtype) {
    buf_printf(out,
               "{\n  \"_class_name\": \"ParcaeConfig\",\n  \"model_type\": \"parcae\",\n"
               "  \"torch_dtype\": \"%s\",\n  \"block_class_name\": \"TransformerPreNormBlock\",\n"
               "  \"norm_class_name\": \"RMSNorm\",\n  \"mlp_class_name\": \"BaseMLP\",\n"
               "  \"nonlin_name\": \"ReLU2\",\n  \"injection_type\": \"diagonal\",\n"
               "  \"qk_norm\": true,\n  \"qk_bias\": false,\n  \"prelude_norm\": true,\n"
               "  \"tie_embeddings\": true,\n",
               dtype);
    buf_puts(out, "  \"rope_settings\": {\"use_rope\": true, \"rope_condense_ratio\": 1,\n");
    model__write_real(out, "rope_base", plan->rope_theta);
    buf_puts(out, "},\n");
    if (plan->exit == EXIT_LATENT_DIFF) {
        model__write_real(out, "exit_threshold", plan->exit_threshold);
        buf_puts(out, ",\n");
    }
    model__write_raven_shape(out, plan);
    buf_puts(out, "\n}\n");
}

/* ---- variants ---- */

/* Sizes differ in width and in the number of layers per stage; a head has 128 channels. */
#define SIZE(name_, vocab, dim_, heads, layers, context)                                           \
    {                                                                                              \
        name_, {                                                                                   \
            .vocab_size = vocab, .dim = dim_, .ffn_dim = 4 * dim_, .n_prelude = layers,            \
            .n_core = layers, .n_coda = layers, .n_heads = heads, .n_kv_heads = heads,             \
            .head_dim = dim_ / heads, .norm_eps = 1e-5f, .rope_theta = 50000,                      \
            .max_seq_len = context, .loops_default = 8                                             \
        }                                                                                          \
    }

static const model__variant variants[] = {
    SIZE("parcae_tiny", 320, 64, 2, 2, 512),       SIZE("parcae_140m", 32768, 768, 6, 2, 2048),
    SIZE("parcae_370m", 32768, 1024, 8, 4, 2048),  SIZE("parcae_770m", 32768, 1280, 10, 6, 2048),
    SIZE("parcae_1.3b", 32768, 1536, 12, 8, 2048),
};
#undef SIZE

const model_family model__parcae = {
    .name = "parcae",
    .model_type = "parcae",
    .class_name = "ParcaeConfig",
    .read = read,
    .write = write,
    .complete = complete,
    .refine = refine,
    .tensors = tensors,
    .variants = variants,
    .n_variants = ARRAY_LEN(variants),
};
