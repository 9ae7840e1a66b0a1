/* fathom_plan.c - the family of any plan: config.json holds the fields of model_plan under their
 * own names. It serves looped models of no published family, and lets tests draw plans at random.
 *
 * One table drives reading and writing of config.json, so every key read is also checked. A key
 * without meaning in its plan is refused: a plan says nothing that its model does not do. */
#include "model/families/fathom_plan_internal.h"

#include <stdio.h>
#include <string.h>

/* ---- parts of a plan ---- */

/* A field or tensor may exist in some plans only. */
typedef struct {
    bool (*in)(const model_plan *plan);
    const char *says; /* the value of config.json that makes it so */
} plan_part;

static bool is_moe(const model_plan *plan) {
    return plan->core_ffn == FFN_MOE;
}
static bool has_ends(const model_plan *plan) {
    return plan->n_prelude + plan->n_coda > 0;
}
static bool is_dense(const model_plan *plan) {
    return !is_moe(plan) || has_ends(plan);
}
static bool is_seeded(const model_plan *plan) {
    return plan->state0 == STATE_SEEDED;
}
static bool is_scaled(const model_plan *plan) {
    return plan->scaling.factor != 0;
}
static bool has_threshold(const model_plan *plan) {
    return plan->exit != EXIT_FIXED;
}
static bool norms_q_and_k(const model_plan *plan) {
    return plan->qk_norm != QK_NORM_NONE;
}

static const plan_part with_mla = {plan__is_mla, "attn \"mla\""},
                       with_gqa = {plan__is_gqa, "attn \"gqa\""},
                       with_moe = {is_moe, "core_ffn \"moe\""},
                       with_ends = {has_ends, "n_prelude or n_coda above 0"},
                       with_dense = {is_dense, "a dense feed-forward"},
                       with_mythos = {plan__is_mythos, "inject \"mythos\""},
                       with_lora = {plan__has_lora, "lora_rank above 0"},
                       with_seeds = {is_seeded, "state0 \"seeded\""},
                       with_scaling = {is_scaled, "scaling.factor above 0"},
                       with_threshold = {has_threshold, "an exit other than \"fixed\""},
                       with_qk_norm = {norms_q_and_k, "a qk_norm"};

/* ---- the fields ---- */

static const char *const attn_names[] = {[ATTN_MLA] = "mla", [ATTN_GQA] = "gqa"};
static const char *const norm_names[] = {
    [NORM_PRE] = "pre", [NORM_SANDWICH] = "sandwich", [NORM_AFTER] = "after", [NORM_POST] = "post"};
static const char *const core_ffn_names[] = {
    [FFN_SWIGLU] = "swiglu", [FFN_HALF_RELU2] = "half-relu2", [FFN_MOE] = "moe"};
static const char *const end_ffn_names[] = {
    [FFN_SWIGLU] = "swiglu", [FFN_HALF_RELU2] = "half-relu2"};
static const char *const qk_norm_names[] = {
    [QK_NORM_NONE] = "none", [QK_NORM_FULL] = "full", [QK_NORM_HEAD_UNIT] = "head-unit"};
static const char *const inject_names[] = {[INJECT_NONE] = "none",
                                           [INJECT_MYTHOS] = "mythos",
                                           [INJECT_LINEAR] = "linear",
                                           [INJECT_DIAGONAL] = "diagonal"};
static const char *const state_names[] = {
    [STATE_EMBEDDING] = "embedding", [STATE_ZERO] = "zero", [STATE_SEEDED] = "seeded"};
static const char *const output_names[] = {
    [OUTPUT_WEIGHTED_SUM] = "weighted-sum", [OUTPUT_STATE] = "state"};
static const char *const coda_in_names[] = {
    [CODA_IN_NONE] = "none", [CODA_IN_NORM] = "norm", [CODA_IN_LINEAR] = "linear"};
static const char *const policy_names[] = {[KV_EXACT] = "exact", [KV_LAST] = "last"};

typedef enum { FIELD_WHOLE, FIELD_REAL, FIELD_FLAG, FIELD_NAME, FIELD_RULE } field_kind;

typedef struct {
    const char *key;
    size_t at; /* offset in model_plan */
    field_kind kind;
    bool optional;        /* an absent key means `otherwise`, or the first name */
    const plan_part *use; /* NULL: every plan uses it */
    double min, max, otherwise;
    const char *range; /* of a REAL, in words */
    const char *const *names;
    size_t n_names;
} field;

/* A row may depend on rows above it. Limits are far above any published model, and low enough for
 * every product of a tensor's shape to fit 63 bits. */
static const field fields[] = {
#define ROW(name, kind_, ...)                                                                      \
    { .key = #name, .at = offsetof(model_plan, name), .kind = kind_, __VA_ARGS__ }
#define WHOLE(name, least, most, ...) ROW(name, FIELD_WHOLE, .min = least, .max = most, __VA_ARGS__)
#define REAL(name, least, most, ...)                                                               \
    ROW(name, FIELD_REAL, .min = least, .max = most, .range = #least " to " #most, __VA_ARGS__)
#define FLAG(name, ...) ROW(name, FIELD_FLAG, .optional = true, __VA_ARGS__)
#define NAME(name, list, ...)                                                                      \
    ROW(name, FIELD_NAME, .names = list, .n_names = ARRAY_LEN(list), __VA_ARGS__)
    WHOLE(vocab_size, 2, 1 << 24, .use = NULL),
    WHOLE(max_seq_len, 1, 1 << 24, .use = NULL),
    WHOLE(max_output_tokens, 0, 1 << 30, .optional = true),
    WHOLE(dim, 2, 1 << 17, .use = NULL),
    WHOLE(n_prelude, 0, PLAN_MAX_LAYERS, .use = NULL),
    WHOLE(n_core, 1, PLAN_MAX_LAYERS, .use = NULL),
    WHOLE(n_coda, 0, PLAN_MAX_LAYERS, .use = NULL),
    NAME(norms, norm_names, .optional = true),
    REAL(norm_eps, 1e-12, 1, .use = NULL),
    NAME(attn, attn_names, .use = NULL),
    WHOLE(n_heads, 1, 4096, .use = NULL),
    WHOLE(n_kv_heads, 1, 4096, .use = &with_gqa),
    WHOLE(head_dim, 2, 4096, .use = &with_gqa),
    WHOLE(kv_lora_rank, 1, 1 << 16, .use = &with_mla),
    WHOLE(q_lora_rank, 1, 1 << 16, .use = &with_mla),
    WHOLE(qk_rope_head_dim, 2, 4096, .use = &with_mla),
    WHOLE(qk_nope_head_dim, 1, 4096, .use = &with_mla),
    WHOLE(v_head_dim, 1, 4096, .use = &with_mla),
    FLAG(qk_bias, .use = &with_gqa),
    NAME(qk_norm, qk_norm_names, .optional = true, .use = &with_gqa),
    REAL(qk_norm_eps, 1e-12, 1, .use = &with_qk_norm),
    REAL(rope_theta, 1, 1e12, .use = NULL),
    FLAG(rope_halves, .use = &with_gqa),
    REAL(scaling.factor, 0, 1e6, .optional = true),
    REAL(scaling.low, 1e-6, 1e6, .use = &with_scaling),
    REAL(scaling.high, 1e-6, 1e6, .use = &with_scaling),
    WHOLE(scaling.original, 1, 1 << 24, .use = &with_scaling),
    NAME(core_ffn, core_ffn_names, .optional = true),
    NAME(end_ffn, end_ffn_names, .optional = true, .use = &with_ends),
    WHOLE(ffn_dim, 1, 1 << 20, .use = &with_dense),
    WHOLE(n_experts, 1, 1 << 16, .use = &with_moe),
    WHOLE(n_shared_experts, 0, 1024, .use = &with_moe),
    WHOLE(n_experts_per_tok, 1, 1024, .use = &with_moe),
    WHOLE(expert_dim, 1, 1 << 20, .use = &with_moe),
    REAL(embed_scale, 1e-6, 1e6, .optional = true, .otherwise = 1),
    FLAG(tied_head, .use = NULL),
    FLAG(input_norm, .use = NULL),
    NAME(inject, inject_names, .optional = true),
    WHOLE(lora_rank, 0, 1 << 14, .use = &with_mythos),
    WHOLE(lora_rows, 1, PLAN_MAX_LOOPS, .use = &with_lora),
    NAME(state0, state_names, .optional = true),
    REAL(state0_std, 1e-6, 1e6, .use = &with_seeds),
    FLAG(loop_norm, .use = NULL),
    ROW(exit, FIELD_RULE, .use = NULL),
    REAL(exit_threshold, 0, 1e6, .use = &with_threshold),
    NAME(output, output_names, .use = NULL),
    NAME(coda_in, coda_in_names, .optional = true),
    FLAG(final_norm, .use = NULL),
    WHOLE(loops_default, 1, PLAN_MAX_LOOPS, .use = NULL),
    WHOLE(loops_cap, 0, PLAN_MAX_LOOPS, .optional = true),
    WHOLE(loops_least, 0, PLAN_MAX_LOOPS, .optional = true),
    NAME(halted_kv, policy_names, .optional = true),
    FLAG(full_prompts, .use = NULL),
#undef ROW
#undef WHOLE
#undef REAL
#undef FLAG
#undef NAME
};

static bool used(const field *row, const model_plan *plan) {
    return row->use == NULL || row->use->in(plan);
}

/* The enums of a plan are read and written as ints. */
_Static_assert(sizeof(attn_kind) == sizeof(int) && sizeof(exit_rule) == sizeof(int), "enums");

static void *place_of(const field *row, model_plan *plan) {
    return (char *)plan + row->at;
}
static const void *value_of(const field *row, const model_plan *plan) {
    return (const char *)plan + row->at;
}

/* ---- reading ---- */

static int no_rule(const model__config *config, const char *key, const char *name) {
    buf all = {0};
    for (int i = 0; i < EXIT_RULES; i++)
        buf_printf(&all, "%s%s", i ? ", " : "", exit_rule_name((exit_rule)i));
    model__config_bad(config, key, "%s has \"%.40s\", expected one of: %s", key,
                      name ? name : "no text", all.data ? all.data : "");
    buf_deinit(&all);
    return -1;
}

static int read_rule(const model__config *config, const char *key, exit_rule *out) {
    const json_t *value = model__config_get(config, key);
    if (value == NULL) return -1;
    const char *name = json_string_value(value);
    return name && exit_rule_find(name, out) ? 0 : no_rule(config, key, name);
}

static int read_field(const model__config *config, const field *row, model_plan *plan) {
    void *out = place_of(row, plan);
    switch (row->kind) {
    case FIELD_WHOLE:
        return model__config_whole(config, row->key, (uint32_t)row->min, (uint32_t)row->max, out);
    case FIELD_REAL:
        return model__config_real(config, row->key, row->min, row->max, row->range, out);
    case FIELD_FLAG: return model__config_flag(config, row->key, false, out);
    case FIELD_NAME: return model__config_choice(config, row->key, row->names, row->n_names, out);
    case FIELD_RULE: break;
    }
    return read_rule(config, row->key, out);
}

static int read_fields(const model__config *config, model_plan *plan) {
    for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
        const field *row = &fields[i];
        bool has = model__config_has(config, row->key);
        if (row->kind == FIELD_FLAG && json_is_false(model__config_look(config, row->key)))
            continue;
        if (has && !used(row, plan)) {
            return model__config_bad(config, row->key, "%s is set; only %s gives it a meaning",
                                     row->key, row->use->says);
        }
        if (row->kind == FIELD_REAL) *(float *)place_of(row, plan) = (float)row->otherwise;
        if (!used(row, plan) || (!has && row->optional)) continue;
        if (read_field(config, row, plan) != 0) return -1;
    }
    return 0;
}

/* A list; NULL if the key is absent. -1 if it is anything else. */
static int read_list(const model__config *config, const char *key, const json_t **out) {
    *out = model__config_has(config, key) ? model__config_look(config, key) : NULL;
    if (*out == NULL || json_is_array(*out)) return 0;
    return model__config_bad(config, key, "%s must be a list", key);
}

/* The rules that the weights allow; by default only the rule of the model. */
static int read_exits(const model__config *config, model_plan *plan) {
    const json_t *list, *one;
    size_t i;
    if (read_list(config, "exits", &list) != 0) return -1;
    json_array_foreach(list, i, one) {
        const char *name = json_string_value(one);
        exit_rule rule;
        if (name == NULL || !exit_rule_find(name, &rule)) return no_rule(config, "exits", name);
        plan->exits |= 1u << rule;
    }
    if (list == NULL) plan->exits = 1u << plan->exit;
    if (plan_allows_exit(plan, plan->exit)) return 0;
    return model__config_bad(config, "exits", "exits does not list the model's own exit, \"%s\"",
                             exit_rule_name(plan->exit));
}

/* Numbers of layers, counted over prelude, core and coda. */
static int read_value_embeds(const model__config *config, model_plan *plan) {
    const json_t *list, *one;
    size_t i;
    json_int_t layers = (json_int_t)plan->n_prelude + plan->n_core + plan->n_coda;
    if (layers > PLAN_MAX_LAYERS) layers = PLAN_MAX_LAYERS;
    if (read_list(config, "value_embeds", &list) != 0) return -1;
    json_array_foreach(list, i, one) {
        json_int_t at = json_integer_value(one);
        if (!json_is_integer(one) || at < 0 || at >= layers) {
            return model__config_bad(config, "value_embeds",
                                     "value_embeds %zu must be the number of a layer, 0 to %lld", i,
                                     (long long)layers - 1);
        }
        plan->value_embeds[at / 8] |= (uint8_t)(1u << at % 8);
    }
    if (json_array_size(list) == 0) return 0;
    if (plan->attn != ATTN_GQA) {
        return model__config_bad(config, "value_embeds",
                                 "value_embeds needs attn \"gqa\": \"mla\" caches no values");
    }
    if (plan->dim >= PLAN_VALUE_GATE) return 0;
    return model__config_bad(config, "value_embeds",
                             "value_embeds needs a dim of at least %d: its gate reads %d channels",
                             PLAN_VALUE_GATE, PLAN_VALUE_GATE);
}

/* ---- rules between fields ---- */

static int check_attention(const model__config *config, const model_plan *plan) {
    if (plan__is_gqa(plan) && plan->n_heads % plan->n_kv_heads != 0) {
        return model__config_bad(config, "n_kv_heads",
                                 "n_kv_heads is %u, expected a divisor of n_heads = %u",
                                 plan->n_kv_heads, plan->n_heads);
    }
    const char *key = plan__is_gqa(plan) ? "head_dim" : "qk_rope_head_dim";
    uint32_t width = plan__is_gqa(plan) ? plan->head_dim : plan->qk_rope_head_dim;
    if (width % 2 != 0) {
        return model__config_bad(config, key, "%s is %u, expected an even number: RoPE turns pairs",
                                 key, width);
    }
    if (is_scaled(plan) && !(plan->scaling.low < plan->scaling.high)) {
        return model__config_bad(config, "scaling.low",
                                 "scaling.low is %g, expected less than scaling.high = %g",
                                 (double)plan->scaling.low, (double)plan->scaling.high);
    }
    return 0;
}

static int check_loops(const model__config *config, const model_plan *plan) {
    float above, most;
    if (plan->loops_cap && plan->loops_cap < plan->loops_default) {
        return model__config_bad(config, "loops_cap",
                                 "loops_cap is %u, expected at least loops_default = %u, or 0",
                                 plan->loops_cap, plan->loops_default);
    }
    if (plan->loops_least > plan->loops_default) {
        return model__config_bad(config, "loops_least",
                                 "loops_least is %u, expected at most loops_default = %u",
                                 plan->loops_least, plan->loops_default);
    }
    if (!exit_rule_range(plan->exit, &above, &most)) return 0;
    if (plan->exit_threshold > above && plan->exit_threshold <= most) return 0;
    return model__config_bad(
        config, "exit_threshold",
        "exit_threshold is %g, expected above %g and at most %g for exit \"%s\"",
        (double)plan->exit_threshold, (double)above, (double)most, exit_rule_name(plan->exit));
}

/* Pairs of values that describe no model. */
static int check_pairs(const model__config *config, const model_plan *plan) {
    const struct {
        bool bad;
        const char *key, *why;
    } rules[] = {
        {is_moe(plan) && plan->norms != NORM_PRE, "norms", "core_ffn \"moe\" needs norms \"pre\""},
        {plan__is_mythos(plan) && plan->n_core != 1, "n_core", "inject \"mythos\" needs n_core 1"},
        {plan__is_mythos(plan) && plan->loop_norm, "loop_norm",
         "inject \"mythos\" has its own norm before the core, so loop_norm must be false"},
        {plan->inject == INJECT_NONE && plan->state0 != STATE_EMBEDDING, "state0",
         "inject \"none\" needs state0 \"embedding\": else the input never reaches the loop"},
        {plan->output == OUTPUT_WEIGHTED_SUM && plan->exits != 1u << EXIT_ACT, "output",
         "output \"weighted-sum\" needs exit and exits \"act\": no other rule has weights"},
        {plan->coda_in == CODA_IN_NORM && !plan->final_norm, "coda_in",
         "coda_in \"norm\" uses the final norm, so final_norm must be true"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rules); i++) {
        if (rules[i].bad) return model__config_bad(config, rules[i].key, "%s", rules[i].why);
    }
    if (plan->n_experts_per_tok <= plan->n_experts) return 0;
    return model__config_bad(config, "n_experts_per_tok",
                             "n_experts_per_tok is %u, expected at most n_experts = %u",
                             plan->n_experts_per_tok, plan->n_experts);
}

/* A misspelled key of this format would change the model unseen, so every key must be known. */
static int refuse_unknown(const model__config *config) {
    static const char *const foreign[] = {"architectures",       "torch_dtype",  "dtype",
                                          "eos_token_id",        "bos_token_id", "pad_token_id",
                                          "transformers_version"};
    const char *key;
    json_t *value;
    json_object_foreach(config->unread, key, value) {
        bool known = key[0] == '_';
        for (size_t i = 0; i < ARRAY_LEN(foreign); i++)
            known = known || strcmp(key, foreign[i]) == 0;
        if (!known) return model__config_bad(config, key, "%.60s is not a field of a plan", key);
    }
    return 0;
}

static int read(const model__config *config, model_plan *plan) {
    if (read_fields(config, plan) != 0) return -1;
    plan->exit_threshold = exit_rule_from_written(plan->exit, plan->exit_threshold);
    if (read_exits(config, plan) != 0 || read_value_embeds(config, plan) != 0 ||
        check_attention(config, plan) != 0 || check_loops(config, plan) != 0 ||
        check_pairs(config, plan) != 0) {
        return -1;
    }
    return refuse_unknown(config);
}

/* ---- writing ---- */

static void write_field(buf *out, const field *row, const model_plan *plan) {
    const void *at = value_of(row, plan);
    const int *choice = at;
    switch (row->kind) {
    case FIELD_WHOLE: buf_printf(out, "  \"%s\": %u", row->key, *(const uint32_t *)at); break;
    case FIELD_REAL: model__write_real(out, row->key, *(const float *)at); break;
    case FIELD_FLAG:
        buf_printf(out, "  \"%s\": %s", row->key, *(const bool *)at ? "true" : "false");
        break;
    case FIELD_NAME: buf_printf(out, "  \"%s\": \"%s\"", row->key, row->names[*choice]); break;
    case FIELD_RULE:
        buf_printf(out, "  \"%s\": \"%s\"", row->key, exit_rule_name((exit_rule)*choice));
    }
    buf_puts(out, ",\n");
}

static void write(buf *out, const model_plan *plan, const char *dtype) {
    model_plan copy = *plan;
    copy.exit_threshold = exit_rule_written(plan->exit, plan->exit_threshold);
    buf_printf(out, "{\n  \"model_type\": \"fathom-plan\",\n  \"torch_dtype\": \"%s\",\n", dtype);
    for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
        if (used(&fields[i], plan)) write_field(out, &fields[i], &copy);
    }
    model__write_eos(out, plan);
    buf_puts(out, "  \"value_embeds\": [");
    for (uint32_t i = 0, n = 0; i < PLAN_MAX_LAYERS; i++) {
        if (plan_value_embed(plan, i)) buf_printf(out, "%s%u", n++ ? ", " : "", i);
    }
    buf_puts(out, "],\n  \"exits\": [");
    for (uint32_t i = 0, n = 0; i < EXIT_RULES; i++) {
        if (plan_allows_exit(plan, (exit_rule)i))
            buf_printf(out, "%s\"%s\"", n++ ? ", " : "", exit_rule_name((exit_rule)i));
    }
    buf_puts(out, "]\n}\n");
}

/* ---- variants ---- */

/* A small model of parts that no published family puts together. */
static const model__variant variants[] = {
    {"plan_tiny",
     {.vocab_size = 320,
      .max_seq_len = 512,
      .dim = 48,
      .n_prelude = 1,
      .n_core = 2,
      .n_coda = 1,
      .norms = NORM_SANDWICH,
      .norm_eps = 1e-6f,
      .attn = ATTN_GQA,
      .n_heads = 6,
      .n_kv_heads = 2,
      .head_dim = 16,
      .rope_theta = 10000,
      .rope_halves = true,
      .ffn_dim = 80,
      .embed_scale = 1,
      .tied_head = true,
      .loop_norm = true,
      .exit = EXIT_HAZARD,
      .exits = 1u << EXIT_HAZARD | 1u << EXIT_LATENT_DIFF | 1u << EXIT_COSINE | 1u << EXIT_FIXED,
      .exit_threshold = 0.7f,
      .output = OUTPUT_STATE,
      .final_norm = true,
      .loops_default = 6}},
};

/* A variant is complete. */
static void complete(model_plan *plan) {
    (void)plan;
}

const model_family model__fathom_plan = {
    .name = "fathom-plan",
    .model_type = "fathom-plan",
    .read = read,
    .write = write,
    .complete = complete,
    .tensors = plan__tensors,
    .variants = variants,
    .n_variants = ARRAY_LEN(variants),
};
