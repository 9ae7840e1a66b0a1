/* reference_weights.c - reads the weights of the reference model. */
#include "tests/lib/reference_internal.h"

#include <stdio.h>
#include <stdlib.h>

void *ref__alloc(size_t n, size_t item) {
    void *out = calloc(n ? n : 1, item);
    if (out == NULL) {
        fprintf(stderr, "reference: out of memory\n");
        abort();
    }
    return out;
}

float *ref__floats(size_t n) {
    return ref__alloc(n, sizeof(float));
}

static mat load(const model_folder *model, tensor_place place) {
    model_tensor tensor;
    if (!model_find(model, place, &tensor)) {
        fprintf(stderr, "reference: no tensor of role %d\n", (int)place.role);
        abort();
    }
    mat weight = {ref__floats(tensor.n_values), tensor.rank == 2 ? tensor.shape[0] : 1,
                  tensor.rank == 2 ? tensor.shape[1] : tensor.n_values};
    model_tensor_read(&tensor, 0, tensor.n_values, weight.values);
    return weight;
}

static mat load_own(const model_folder *model, tensor_role role) {
    return load(model, (tensor_place){.role = role, .stage = PART_OF_MODEL});
}

static mat load_in(const model_folder *model, tensor_place place, tensor_role role) {
    place.role = role;
    return load(model, place);
}

/* Roles gate, gate + 1 (up) and gate + 2 (down). */
static ffn load_ffn(const model_folder *model, tensor_place place, tensor_role gate) {
    return (ffn){load_in(model, place, gate), load_in(model, place, gate + 1),
                 load_in(model, place, gate + 2)};
}

static ffn *load_experts(const model_folder *model, tensor_place place, tensor_role gate,
                         uint32_t n) {
    ffn *all = ref__alloc(n, sizeof *all);
    for (place.index = 0; place.index < n; place.index++)
        all[place.index] = load_ffn(model, place, gate);
    return all;
}

static void load_attention(const model_folder *model, tensor_place at, block *layer) {
    layer->wo = load_in(model, at, TENSOR_WO);
    if (model_plan_of(model)->attn == ATTN_GQA) {
        layer->wq = load_in(model, at, TENSOR_WQ);
        layer->wk = load_in(model, at, TENSOR_WK);
        layer->wv = load_in(model, at, TENSOR_WV);
        return;
    }
    layer->q_down = load_in(model, at, TENSOR_Q_DOWN);
    layer->q_norm = load_in(model, at, TENSOR_Q_NORM);
    layer->q_up_nope = load_in(model, at, TENSOR_Q_UP_NOPE);
    layer->q_up_rope = load_in(model, at, TENSOR_Q_UP_ROPE);
    layer->kv_down = load_in(model, at, TENSOR_KV_DOWN);
    layer->kv_norm = load_in(model, at, TENSOR_KV_NORM);
    layer->kv_up = load_in(model, at, TENSOR_KV_UP);
}

static block load_block(const model_folder *model, tensor_place at, bool moe) {
    const model_plan *plan = model_plan_of(model);
    block layer = {.attn_norm = load_in(model, at, TENSOR_ATTN_NORM),
                   .ffn_norm = load_in(model, at, TENSOR_FFN_NORM)};
    if (plan->norms == NORM_SANDWICH) {
        layer.attn_out_norm = load_in(model, at, TENSOR_ATTN_OUT_NORM);
        layer.ffn_out_norm = load_in(model, at, TENSOR_FFN_OUT_NORM);
    }
    load_attention(model, at, &layer);
    if (!moe) {
        layer.dense = load_ffn(model, at, TENSOR_GATE);
        return layer;
    }
    layer.router = load_in(model, at, TENSOR_ROUTER);
    layer.router_bias = load_in(model, at, TENSOR_ROUTER_BIAS);
    layer.routed = load_experts(model, at, TENSOR_EXPERT_GATE, plan->n_experts);
    layer.shared = load_experts(model, at, TENSOR_SHARED_GATE, plan->n_shared_experts);
    return layer;
}

static block *load_stage(const model_folder *model, tensor_stage stage, uint32_t n, ffn_kind kind) {
    block *blocks = ref__alloc(n, sizeof *blocks);
    for (uint32_t i = 0; i < n; i++) {
        blocks[i] = load_block(model, (tensor_place){.stage = stage, .layer = i}, kind == FFN_MOE);
    }
    return blocks;
}

reference *ref_open(const model_folder *model) {
    reference *ref = ref__alloc(1, sizeof *ref);
    model_tensor tensor;
    const model_plan *plan = &ref->plan;
    ref->plan = *model_plan_of(model);
    ref->embed = load_own(model, TENSOR_EMBED);
    bool untied = model_find(model, (tensor_place){.role = TENSOR_HEAD}, &tensor);
    ref->head = untied ? load_own(model, TENSOR_HEAD) : ref->embed;
    ref->prelude = load_stage(model, PART_OF_PRELUDE, plan->n_prelude, plan->end_ffn);
    ref->core = load_stage(model, PART_OF_CORE, plan->n_core, plan->core_ffn);
    ref->coda = load_stage(model, PART_OF_CODA, plan->n_coda, plan->end_ffn);
    ref->loop_norm = load_own(model, TENSOR_LOOP_NORM);
    ref->exit_w = load_own(model, TENSOR_EXIT_WEIGHT);
    ref->exit_b = load_own(model, TENSOR_EXIT_BIAS);
    if (plan->final_norm) ref->norm = load_own(model, TENSOR_FINAL_NORM);
    if (plan->inject != INJECT_MYTHOS) return ref;
    ref->log_A = load_own(model, TENSOR_LOG_A);
    ref->log_dt = load_own(model, TENSOR_LOG_DT);
    ref->inject_b = load_own(model, TENSOR_INJECT_B);
    ref->lora_down = load_own(model, TENSOR_LORA_DOWN);
    ref->lora_B = load_own(model, TENSOR_LORA_B);
    ref->lora_scale = load_own(model, TENSOR_LORA_SCALE);
    return ref;
}

static void free_ffn(ffn *net) {
    free(net->gate.values);
    free(net->up.values);
    free(net->down.values);
}

static void free_block(const model_plan *plan, block *layer) {
    mat *const all[] = {
        &layer->attn_norm,   &layer->ffn_norm,  &layer->q_down,      &layer->q_norm,
        &layer->q_up_nope,   &layer->q_up_rope, &layer->kv_down,     &layer->kv_norm,
        &layer->kv_up,       &layer->wq,        &layer->wk,          &layer->wv,
        &layer->wo,          &layer->router,    &layer->router_bias, &layer->attn_out_norm,
        &layer->ffn_out_norm};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        free(all[i]->values);
    free_ffn(&layer->dense);
    for (uint32_t i = 0; layer->routed && i < plan->n_experts; i++)
        free_ffn(&layer->routed[i]);
    for (uint32_t i = 0; layer->shared && i < plan->n_shared_experts; i++)
        free_ffn(&layer->shared[i]);
    free(layer->routed);
    free(layer->shared);
}

static void free_stage(const model_plan *plan, block *blocks, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        free_block(plan, &blocks[i]);
    free(blocks);
}

void ref_close(reference *ref) {
    if (ref == NULL) return;
    if (ref->head.values != ref->embed.values) free(ref->head.values);
    mat *const all[] = {&ref->embed,     &ref->norm,     &ref->loop_norm, &ref->log_A,
                        &ref->log_dt,    &ref->inject_b, &ref->exit_w,    &ref->exit_b,
                        &ref->lora_down, &ref->lora_B,   &ref->lora_scale};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        free(all[i]->values);
    free_stage(&ref->plan, ref->prelude, ref->plan.n_prelude);
    free_stage(&ref->plan, ref->core, ref->plan.n_core);
    free_stage(&ref->plan, ref->coda, ref->plan.n_coda);
    free(ref);
}
