/* plans.c - draws plans part by part. Fields that a part does not use stay 0, as the family of any
 * plan demands. */
#include "tests/property/plans.h"

#include "base/hash.h"
#include "tests/lib/weights.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

uint64_t plans_rand(uint64_t *state) {
    return hash_mix(*state += HASH_STEP);
}

uint32_t plans_between(uint64_t *state, uint32_t low, uint32_t high) {
    return low + (uint32_t)(plans_rand(state) % (high - low + 1));
}

bool plans_chance(uint64_t *state, uint32_t one_in) {
    return plans_between(state, 1, one_in) == 1;
}

/* ---- drawing ---- */

static void draw_attention(model_plan *plan, uint64_t *state) {
    static const float thetas[] = {10, 10000, 70000000};
    plan->rope_theta = thetas[plans_between(state, 0, ARRAY_LEN(thetas) - 1)];
    if (plans_chance(state, 3)) {
        plan->scaling = (rope_scaling){.factor = (float)plans_between(state, 2, 32),
                                       .low = 1,
                                       .high = (float)plans_between(state, 2, 8),
                                       .original = plans_between(state, 4, 64)};
    }
    if (plans_chance(state, 4)) {
        plan->attn = ATTN_MLA;
        plan->n_heads = plans_between(state, 1, 4);
        plan->kv_lora_rank = plans_between(state, 3, 24);
        plan->q_lora_rank = plans_between(state, 3, 20);
        plan->qk_rope_head_dim = 2 * plans_between(state, 1, 6);
        plan->qk_nope_head_dim = plans_between(state, 1, 14);
        plan->v_head_dim = plans_between(state, 1, 18);
        return;
    }
    plan->attn = ATTN_GQA;
    plan->n_kv_heads = plans_between(state, 1, 3);
    plan->n_heads = plan->n_kv_heads * plans_between(state, 1, 3);
    plan->head_dim = 2 * plans_between(state, 1, 12);
    plan->qk_bias = plans_chance(state, 2);
    plan->qk_norm = (qk_norm_kind)plans_between(state, QK_NORM_NONE, QK_NORM_HEAD_UNIT);
    if (plan->qk_norm != QK_NORM_NONE) plan->qk_norm_eps = plans_chance(state, 2) ? 1e-6f : 0.01f;
    plan->rope_halves = plans_chance(state, 2);
}

static void draw_layers(model_plan *plan, uint64_t *state) {
    plan->n_prelude = plans_between(state, 0, 3);
    plan->n_core = plan->inject == INJECT_MYTHOS ? 1 : plans_between(state, 1, 4);
    plan->n_coda = plans_between(state, 0, 3);
    plan->norms = (norm_place)plans_between(state, NORM_PRE, NORM_POST);
    plan->norm_eps = plans_chance(state, 2) ? 1e-6f : 1e-3f;
    plan->core_ffn = plans_chance(state, 2) ? FFN_SWIGLU : FFN_HALF_RELU2;
    if (plan->norms == NORM_PRE && plans_chance(state, 2)) {
        plan->core_ffn = FFN_MOE;
        plan->n_experts = plans_between(state, 1, 5);
        plan->n_experts_per_tok = plans_between(state, 1, plan->n_experts);
        plan->n_shared_experts = plans_between(state, 0, 2);
        plan->expert_dim = plans_between(state, 1, 20);
    }
    bool ends = plan->n_prelude + plan->n_coda > 0;
    if (ends && plans_chance(state, 2)) plan->end_ffn = FFN_HALF_RELU2;
    if (ends || plan->core_ffn != FFN_MOE) plan->ffn_dim = plans_between(state, 4, 60);
}

static void draw_value_embeds(model_plan *plan, uint64_t *state) {
    uint32_t layers = plan->n_prelude + plan->n_core + plan->n_coda;
    if (plan->attn != ATTN_GQA || plan->dim < PLAN_VALUE_GATE || plans_chance(state, 2)) return;
    for (uint32_t i = 0; i < layers; i++) {
        if (plans_chance(state, 2)) plan->value_embeds[i / 8] |= (uint8_t)(1u << i % 8);
    }
}

static void draw_loop(model_plan *plan, uint64_t *state) {
    plan->loops_default = plans_between(state, 1, 6);
    if (plans_chance(state, 3)) plan->loops_cap = plan->loops_default + plans_between(state, 0, 3);
    if (plans_chance(state, 4)) plan->loops_least = plans_between(state, 1, plan->loops_default);
    if (plan->inject == INJECT_MYTHOS) {
        plan->lora_rank = plans_between(state, 0, 4);
        if (plan->lora_rank) plan->lora_rows = plans_between(state, 1, 5);
    } else plan->loop_norm = plans_chance(state, 3);
    plan->input_norm = plans_chance(state, 3);
    if (plan->inject == INJECT_NONE) return;
    plan->state0 = (state_start)plans_between(state, STATE_EMBEDDING, STATE_SEEDED);
    if (plan->state0 == STATE_SEEDED) plan->state0_std = plans_chance(state, 2) ? 0.6f : 1.4f;
}

static void draw_exit(model_plan *plan, uint64_t *state) {
    plan->output = plans_chance(state, 3) ? OUTPUT_WEIGHTED_SUM : OUTPUT_STATE;
    plan->exit = plan->output == OUTPUT_WEIGHTED_SUM
                     ? EXIT_ACT
                     : (exit_rule)plans_between(state, EXIT_ACT, EXIT_FIXED);
    plan->exits = 1u << plan->exit;
    if (plan->output == OUTPUT_STATE) plan->exits |= plans_between(state, 0, 31);
    if (plan->exit != EXIT_FIXED) plan->exit_threshold = 0.5f;
    plan->final_norm = plans_chance(state, 2);
    plan->coda_in = (coda_in_kind)plans_between(state, CODA_IN_NONE, CODA_IN_LINEAR);
    if (plan->coda_in == CODA_IN_NORM) plan->final_norm = true;
    plan->halted_kv = plans_chance(state, 2) ? KV_LAST : KV_EXACT;
    plan->full_prompts = plans_chance(state, 2);
}

model_plan plans_draw(uint64_t *state) {
    model_plan plan = {0};
    err e = {0};
    model_plan tiny;
    cr_assert_eq(plan_variant(&tiny, "plan_tiny", &e), 0, "%s", e.msg);
    plan.family = tiny.family;
    plan.vocab_size = plans_between(state, 2, 70);
    plan.max_seq_len = 128;
    plan.dim = plans_between(state, 4, 70);
    plan.embed_scale = plans_chance(state, 2) ? 1 : 2.5f;
    plan.tied_head = plans_chance(state, 2);
    plan.inject = (inject_kind)plans_between(state, INJECT_NONE, INJECT_DIAGONAL);
    draw_attention(&plan, state);
    draw_layers(&plan, state);
    draw_value_embeds(&plan, state);
    draw_loop(&plan, state);
    draw_exit(&plan, state);
    plan_derive(&plan);
    return plan;
}

/* ---- weights ---- */

/* Sum of four uniforms: bell-shaped, mean 0, std 1. */
static float bell(uint64_t *state) {
    uint64_t x = plans_rand(state);
    int32_t sum = (int32_t)((x & 0xffff) + (x >> 16 & 0xffff) + (x >> 32 & 0xffff) + (x >> 48));
    return (float)(sum - 131070) / 37837.2f;
}

typedef struct {
    float mean, std;
} spread;

static spread spread_of(const char *name, size_t rank, size_t cols) {
    static const struct {
        const char *part;
        spread is;
    } vectors[] = {
        {"out_norm.weight", {0.5f, 0.2f}}, {"norm.weight", {1, 0.3f}}, {"bias", {0, 0.5f}},
        {"log_dt", {-0.5f, 0.7f}},         {"log_A", {0, 0.6f}},       {"inject.B", {0, 0.4f}}};
    float in = 1 / sqrtf((float)cols);
    for (size_t i = 0; rank == 1 && i < ARRAY_LEN(vectors); i++) {
        if (strstr(name, vectors[i].part)) return vectors[i].is;
    }
    if (strstr(name, "embed.weight")) return (spread){0, 1};
    if (strstr(name, "value_table")) return (spread){0, 1};
    if (strstr(name, "lora.B")) return (spread){0, 0.2f};
    return (spread){0, 0.9f * in};
}

void plans_write(const char *dir, const model_plan *plan, uint64_t *state) {
    model_init_opts opts = {.seed = 1, .dtype = DTYPE_F32};
    err e = {0};
    const char *name;
    json_t *entry;
    cr_assert_eq(model_init_write(dir, plan, &opts, &e), 0, "%s", e.msg);
    st_file file = st_read(dir, "model.safetensors");
    json_object_foreach(file.header, name, entry) {
        const json_t *shape = json_object_get(entry, "shape");
        size_t rank = json_array_size(shape), n = 1;
        if (rank == 0) continue; /* __metadata__ */
        for (size_t i = 0; i < rank; i++)
            n *= (size_t)json_integer_value(json_array_get(shape, i));
        spread like =
            spread_of(name, rank, (size_t)json_integer_value(json_array_get(shape, rank - 1)));
        unsigned char *at = st_bytes(&file, name);
        for (size_t i = 0; i < n; i++) {
            float value = like.mean + like.std * bell(state);
            memcpy(at + i * sizeof value, &value, sizeof value);
        }
    }
    st_write(&file, dir, "model.safetensors");
    st_free(&file);
}

/* ---- parts ---- */

void plans_note(plans_parts *parts, const char *name, bool has) {
    uint32_t i = 0;
    while (i < parts->n && strcmp(parts->names[i], name) != 0)
        i++;
    if (i == parts->n) {
        cr_assert_lt(i, PLANS_MAX_PARTS);
        parts->names[parts->n++] = name;
    }
    parts->counts[i] += has;
}

static void count_layers(plans_parts *parts, const model_plan *plan) {
    uint32_t ends = plan->n_prelude + plan->n_coda;
    plans_note(parts, "no prelude", plan->n_prelude == 0);
    plans_note(parts, "no coda", plan->n_coda == 0);
    plans_note(parts, "neither", ends == 0);
    plans_note(parts, "a prelude of more planes than one", plan_planes_prelude(plan) > 1);
    plans_note(parts, "several core layers", plan->n_core > 1);
    plans_note(parts, "norms pre", plan->norms == NORM_PRE);
    plans_note(parts, "norms sandwich", plan->norms == NORM_SANDWICH);
    plans_note(parts, "norms after", plan->norms == NORM_AFTER);
    plans_note(parts, "norms post", plan->norms == NORM_POST);
    plans_note(parts, "core swiglu", plan->core_ffn == FFN_SWIGLU);
    plans_note(parts, "core relu2", plan->core_ffn == FFN_HALF_RELU2);
    plans_note(parts, "experts in several layers", plan->core_ffn == FFN_MOE && plan->n_core > 1);
    plans_note(parts, "shared experts", plan->n_shared_experts > 0);
    plans_note(parts, "end swiglu", ends && plan->end_ffn == FFN_SWIGLU);
    plans_note(parts, "end relu2", ends && plan->end_ffn == FFN_HALF_RELU2);
}

static void count_attention(plans_parts *parts, const model_plan *plan) {
    bool gqa = plan->attn == ATTN_GQA, values = false;
    for (uint32_t i = 0; i < PLAN_MAX_LAYERS; i++)
        values = values || plan_value_embed(plan, i);
    plans_note(parts, "mla", !gqa);
    plans_note(parts, "gqa", gqa && plan->n_heads > plan->n_kv_heads);
    plans_note(parts, "multi-head", gqa && plan->n_heads == plan->n_kv_heads);
    plans_note(parts, "queries wider than the stream", gqa && plan_q_width(plan) > plan->dim);
    plans_note(parts, "qk bias", plan->qk_bias);
    plans_note(parts, "qk norm full", plan->qk_norm == QK_NORM_FULL);
    plans_note(parts, "qk norm head-unit", plan->qk_norm == QK_NORM_HEAD_UNIT);
    plans_note(parts, "qk bias and norm", plan->qk_bias && plan->qk_norm != QK_NORM_NONE);
    plans_note(parts, "rope halves", plan->rope_halves);
    plans_note(parts, "rope scaling", gqa && plan->scaling.factor != 0);
    plans_note(parts, "rope scaling of mla", !gqa && plan->scaling.factor != 0);
    plans_note(parts, "value embeddings", values);
}

static void count_loop(plans_parts *parts, const model_plan *plan) {
    plans_note(parts, "inject none", plan->inject == INJECT_NONE);
    plans_note(parts, "inject mythos", plan->inject == INJECT_MYTHOS);
    plans_note(parts, "inject mythos without lora",
               plan->inject == INJECT_MYTHOS && plan->lora_rank == 0);
    plans_note(parts, "inject linear", plan->inject == INJECT_LINEAR);
    plans_note(parts, "inject diagonal", plan->inject == INJECT_DIAGONAL);
    plans_note(parts, "state embedding", plan->state0 == STATE_EMBEDDING);
    plans_note(parts, "state zero", plan->state0 == STATE_ZERO);
    plans_note(parts, "state seeded", plan->state0 == STATE_SEEDED);
    plans_note(parts, "input norm", plan->input_norm);
    plans_note(parts, "a least number of loops", plan->loops_least > 1);
    plans_note(parts, "loop norm", plan->loop_norm);
    plans_note(parts, "output weighted sum", plan->output == OUTPUT_WEIGHTED_SUM);
    plans_note(parts, "output state", plan->output == OUTPUT_STATE);
    plans_note(parts, "coda in norm", plan->coda_in == CODA_IN_NORM);
    plans_note(parts, "coda in linear", plan->coda_in == CODA_IN_LINEAR);
    plans_note(parts, "no final norm", !plan->final_norm);
    plans_note(parts, "tied head", plan->tied_head);
    plans_note(parts, "own head", !plan->tied_head);
    plans_note(parts, "embed scale", plan->embed_scale != 1);
}

void plans_count(plans_parts *parts, const model_plan *plan) {
    count_layers(parts, plan);
    count_attention(parts, plan);
    count_loop(parts, plan);
}
