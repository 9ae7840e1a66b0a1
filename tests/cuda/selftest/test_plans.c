/* test_plans.c - plans drawn at random against the CPU engine, with every part that a plan may
 * have: norms, biases, norms of queries and keys, value embeddings, feed-forwards, injections,
 * states, exits, what stands before the coda. */
#include "tests/cuda/selftest/families.h"
#include "tests/lib/weights.h"

#include <stdio.h>
#include <string.h>

static uint32_t between(rng *rnd, uint32_t low, uint32_t high) { /* both included */
    return low + rng_below(rnd, high - low + 1);
}

static void draw_attention(model_plan *plan, rng *rnd) {
    plan->rope_theta = 10000;
    if (rng_below(rnd, 2)) plan->scaling = (rope_scaling){8, 1, 4, 16};
    if (rng_below(rnd, 5) == 0) {
        plan->attn = ATTN_MLA;
        plan->n_heads = between(rnd, 1, 4);
        plan->kv_lora_rank = between(rnd, 3, 24);
        plan->q_lora_rank = between(rnd, 3, 20);
        plan->qk_rope_head_dim = 2 * between(rnd, 1, 6);
        plan->qk_nope_head_dim = between(rnd, 1, 14);
        plan->v_head_dim = between(rnd, 1, 18);
        return;
    }
    plan->attn = ATTN_GQA;
    plan->n_kv_heads = between(rnd, 1, 3);
    plan->n_heads = plan->n_kv_heads * between(rnd, 1, 3);
    plan->head_dim = rng_below(rnd, 2) ? 16 : 2 * between(rnd, 1, 12);
    plan->qk_bias = rng_below(rnd, 2);
    plan->qk_norm = (qk_norm_kind)between(rnd, QK_NORM_NONE, QK_NORM_HEAD_UNIT);
    if (plan->qk_norm != QK_NORM_NONE) plan->qk_norm_eps = 0.01f;
    plan->rope_halves = rng_below(rnd, 2);
}

static void draw_layers(model_plan *plan, rng *rnd) {
    plan->n_prelude = between(rnd, 0, 2);
    plan->n_core = plan->inject == INJECT_MYTHOS ? 1 : between(rnd, 1, 3);
    plan->n_coda = between(rnd, 0, 2);
    uint32_t layers = plan->n_prelude + plan->n_core + plan->n_coda;
    plan->norms = (norm_place)between(rnd, NORM_PRE, NORM_POST);
    plan->norm_eps = 1e-3f;
    plan->ffn_dim = between(rnd, 4, 70);
    plan->core_ffn = rng_below(rnd, 2) ? FFN_SWIGLU : FFN_HALF_RELU2;
    plan->end_ffn = rng_below(rnd, 2) ? FFN_SWIGLU : FFN_HALF_RELU2;
    if (plan->n_prelude + plan->n_coda == 0) plan->end_ffn = FFN_SWIGLU;
    if (plan->norms == NORM_PRE && rng_below(rnd, 2)) {
        plan->core_ffn = FFN_MOE;
        plan->n_experts = between(rnd, 1, 5);
        plan->n_experts_per_tok = between(rnd, 1, plan->n_experts);
        plan->n_shared_experts = between(rnd, 0, 2);
        plan->expert_dim = between(rnd, 1, 20);
        if (plan->n_prelude + plan->n_coda == 0) plan->ffn_dim = 0;
    }
    for (uint32_t i = 0; plan->attn == ATTN_GQA && plan->dim >= PLAN_VALUE_GATE && i < layers; i++)
        if (rng_below(rnd, 3) == 0) plan->value_embeds[i / 8] |= (uint8_t)(1u << i % 8);
}

static void draw_loop(model_plan *plan, rng *rnd) {
    plan->loops_default = between(rnd, 3, 5);
    plan->input_norm = rng_below(rnd, 2);
    if (plan->inject == INJECT_MYTHOS) {
        plan->lora_rank = between(rnd, 0, 4);
        if (plan->lora_rank) plan->lora_rows = between(rnd, 1, 5);
    } else {
        plan->loop_norm = rng_below(rnd, 3) == 0;
    }
    if (plan->inject != INJECT_NONE) {
        plan->state0 = (state_start)between(rnd, STATE_EMBEDDING, STATE_SEEDED);
        if (plan->state0 == STATE_SEEDED) plan->state0_std = 0.6f;
    }
    bool weighted = rng_below(rnd, 4) == 0;
    plan->output = weighted ? OUTPUT_WEIGHTED_SUM : OUTPUT_STATE;
    plan->exit = weighted ? EXIT_ACT : (exit_rule)between(rnd, EXIT_ACT, EXIT_FIXED);
    plan->exits = weighted ? 1u << EXIT_ACT : 31;
    if (plan->exit != EXIT_FIXED) plan->exit_threshold = 0.5f;
    plan->coda_in = (coda_in_kind)between(rnd, CODA_IN_NONE, CODA_IN_LINEAR);
    plan->final_norm = plan->coda_in == CODA_IN_NORM || rng_below(rnd, 2);
    plan->halted_kv = KV_EXACT;
}

static bool draw(model_plan *plan, rng *rnd) {
    model_plan tiny;
    err e = {0};
    if (!check(plan_variant(&tiny, "plan_tiny", &e) == 0, "%s", e.msg)) return false;
    *plan = (model_plan){.family = tiny.family,
                         .vocab_size = between(rnd, 2, 70),
                         .max_seq_len = 128,
                         .dim = rng_below(rnd, 2) ? 64 : between(rnd, 2, 70),
                         .embed_scale = rng_below(rnd, 2) ? 1 : 2.5f,
                         .tied_head = rng_below(rnd, 2),
                         .inject = (inject_kind)between(rnd, INJECT_NONE, INJECT_DIAGONAL)};
    draw_attention(plan, rnd);
    draw_layers(plan, rnd);
    draw_loop(plan, rnd);
    plan_derive(plan);
    return true;
}

/* Vectors of random weights are 0 or 1, or all equal: moved, so that a part left out shows. */
static void vary_vectors(const char *dir, rng *rnd) {
    const char *name;
    json_t *entry;
    st_file file = st_read(dir, "model.safetensors");
    json_object_foreach(file.header, name, entry) {
        const json_t *shape = json_object_get(entry, "shape");
        if (json_array_size(shape) != 1) continue;
        unsigned char *at = st_bytes(&file, name);
        for (json_int_t i = 0; i < json_integer_value(json_array_get(shape, 0)); i++, at += 4) {
            float value;
            memcpy(&value, at, sizeof value);
            value += 0.3f * rng_float(rnd);
            memcpy(at, &value, sizeof value);
        }
    }
    st_write(&file, dir, "model.safetensors");
    st_free(&file);
}

static bool random_folder(model_folder **model, const tmp_dir *dir, const model_plan *plan,
                          rng *rnd) {
    err e = {0};
    model_init_opts opts = {.seed = 9, .dtype = DTYPE_F32};
    if (!check(model_init_write(dir->path, plan, &opts, &e) == 0, "init: %s", e.msg)) return false;
    vary_vectors(dir->path, rnd);
    return check(model_open(model, dir->path, &e) == 0, "open: %s", e.msg);
}

/* The parts that draws must meet, a bit each. */
static uint64_t parts_of(const model_plan *plan) {
    const bool has[] = {plan->norms == NORM_PRE,
                        plan->norms == NORM_SANDWICH,
                        plan->norms == NORM_AFTER,
                        plan->norms == NORM_POST,
                        plan->core_ffn == FFN_HALF_RELU2,
                        plan->end_ffn == FFN_HALF_RELU2,
                        plan->core_ffn == FFN_MOE && plan->n_core > 1,
                        plan->qk_bias,
                        plan->qk_norm == QK_NORM_FULL,
                        plan->qk_norm == QK_NORM_HEAD_UNIT,
                        plan->attn == ATTN_MLA,
                        plan->scaling.factor != 0,
                        eng__has_value_embeds(plan),
                        plan->input_norm,
                        plan->inject == INJECT_NONE,
                        plan->inject == INJECT_MYTHOS && plan_norms_outputs(plan),
                        plan->inject == INJECT_LINEAR,
                        plan->inject == INJECT_DIAGONAL,
                        plan->state0 == STATE_SEEDED,
                        plan->coda_in == CODA_IN_NORM,
                        plan->coda_in == CODA_IN_LINEAR,
                        plan->n_coda == 0 && plan->coda_in != CODA_IN_NONE,
                        plan->n_prelude == 0 && plan->inject == INJECT_LINEAR};
    uint64_t bits = 0;
    for (size_t i = 0; i < ARRAY_LEN(has); i++)
        bits |= (uint64_t)has[i] << i;
    return bits;
}
enum { PARTS = 23 };

void test_plans(void) {
    const uint32_t n = on_shim ? 40 : 200;
    uint64_t seen = 0;
    rng rnd = {2};
    for (uint32_t k = 0; k < n; k++) {
        model_plan plan;
        model_folder *model = NULL;
        char what[48];
        if (!draw(&plan, &rnd)) return;
        seen |= parts_of(&plan);
        (void)snprintf(what, sizeof what, "plan %u", k);
        tmp_dir dir = tmp_dir_create();
        if (random_folder(&model, &dir, &plan, &rnd)) {
            drive_spec spec = random_spec(&plan, 3, 12, 700 + k, &rnd);
            spec.flights = 1 + k % 2;
            compare_with_cpu(model, &spec, k % 4 ? "f32-stream" : "f32", what);
        }
        model_close(model);
        tmp_dir_remove(&dir);
    }
    check(seen == (1ull << PARTS) - 1, "the draws miss some part: %llx", (unsigned long long)seen);
}
