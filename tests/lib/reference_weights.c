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

/* Empty if the model has no such tensor. */
static mat load(const model_folder *model, tensor_place place) {
    model_tensor tensor;
    if (!model_find(model, place, &tensor)) return (mat){0};
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

/* A plan lists the tensors it needs, and opening a folder checks that they are there: a role
 * without a tensor is a part the plan does not have. */
static ref_layer load_layer(const model_folder *model, tensor_place at, bool moe) {
    const model_plan *plan = model_plan_of(model);
    ref_layer layer = {
        .attn_norm = load_in(model, at, TENSOR_ATTN_NORM),
        .attn_out_norm = load_in(model, at, TENSOR_ATTN_OUT_NORM),
        .ffn_norm = load_in(model, at, TENSOR_FFN_NORM),
        .ffn_out_norm = load_in(model, at, TENSOR_FFN_OUT_NORM),
        .wq = load_in(model, at, TENSOR_WQ),
        .wk = load_in(model, at, TENSOR_WK),
        .wv = load_in(model, at, TENSOR_WV),
        .wo = load_in(model, at, TENSOR_WO),
        .q_bias = load_in(model, at, TENSOR_Q_BIAS),
        .k_bias = load_in(model, at, TENSOR_K_BIAS),
        .k_norm = load_in(model, at, TENSOR_K_NORM),
        .q_down = load_in(model, at, TENSOR_Q_DOWN),
        .q_norm = load_in(model, at, TENSOR_Q_NORM),
        .q_up_nope = load_in(model, at, TENSOR_Q_UP_NOPE),
        .q_up_rope = load_in(model, at, TENSOR_Q_UP_ROPE),
        .kv_down = load_in(model, at, TENSOR_KV_DOWN),
        .kv_norm = load_in(model, at, TENSOR_KV_NORM),
        .kv_up = load_in(model, at, TENSOR_KV_UP),
        .value_table = load_in(model, at, TENSOR_VALUE_TABLE),
        .value_gate = load_in(model, at, TENSOR_VALUE_GATE),
        .dense = load_ffn(model, at, TENSOR_GATE),
        .router = load_in(model, at, TENSOR_ROUTER),
        .router_bias = load_in(model, at, TENSOR_ROUTER_BIAS),
    };
    if (!moe) return layer;
    layer.routed = load_experts(model, at, TENSOR_EXPERT_GATE, plan->n_experts);
    layer.shared = load_experts(model, at, TENSOR_SHARED_GATE, plan->n_shared_experts);
    return layer;
}

static ref_layer *load_stage(const model_folder *model, tensor_stage stage, uint32_t n,
                             ffn_kind kind) {
    ref_layer *layers = ref__alloc(n, sizeof *layers);
    for (uint32_t i = 0; i < n; i++) {
        layers[i] = load_layer(model, (tensor_place){.stage = stage, .layer = i}, kind == FFN_MOE);
    }
    return layers;
}

reference *ref_open(const model_folder *model) {
    reference *ref = ref__alloc(1, sizeof *ref);
    const model_plan *plan = &ref->plan;
    ref->plan = *model_plan_of(model);
    ref->embed = load_own(model, TENSOR_EMBED);
    ref->head = load_own(model, TENSOR_HEAD);
    if (ref->head.values == NULL) ref->head = ref->embed;
    ref->prelude = load_stage(model, PART_OF_PRELUDE, plan->n_prelude, plan->end_ffn);
    ref->core = load_stage(model, PART_OF_CORE, plan->n_core, plan->core_ffn);
    ref->coda = load_stage(model, PART_OF_CODA, plan->n_coda, plan->end_ffn);
    ref->input_norm = load_own(model, TENSOR_INPUT_NORM);
    ref->norm = load_own(model, TENSOR_FINAL_NORM);
    ref->loop_norm = load_own(model, TENSOR_LOOP_NORM);
    ref->log_A = load_own(model, TENSOR_LOG_A);
    ref->log_dt = load_own(model, TENSOR_LOG_DT);
    ref->inject_b = load_own(model, TENSOR_INJECT_B);
    ref->inject = load_own(model, TENSOR_INJECT);
    ref->exit_w = load_own(model, TENSOR_EXIT_WEIGHT);
    ref->exit_b = load_own(model, TENSOR_EXIT_BIAS);
    ref->lora_down = load_own(model, TENSOR_LORA_DOWN);
    ref->lora_B = load_own(model, TENSOR_LORA_B);
    ref->lora_scale = load_own(model, TENSOR_LORA_SCALE);
    ref->coda_in = load_own(model, TENSOR_CODA_IN);
    return ref;
}

static void free_ffn(ffn *net) {
    free(net->gate.values);
    free(net->up.values);
    free(net->down.values);
}

static void free_layer(const model_plan *plan, ref_layer *layer) {
    mat *const all[] = {&layer->attn_norm,   &layer->attn_out_norm,
                        &layer->ffn_norm,    &layer->ffn_out_norm,
                        &layer->q_down,      &layer->q_norm,
                        &layer->q_up_nope,   &layer->q_up_rope,
                        &layer->kv_down,     &layer->kv_norm,
                        &layer->kv_up,       &layer->wq,
                        &layer->wk,          &layer->wv,
                        &layer->wo,          &layer->q_bias,
                        &layer->k_bias,      &layer->k_norm,
                        &layer->value_table, &layer->value_gate,
                        &layer->router,      &layer->router_bias};
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

static void free_stage(const model_plan *plan, ref_layer *layers, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        free_layer(plan, &layers[i]);
    free(layers);
}

void ref_close(reference *ref) {
    if (ref == NULL) return;
    if (ref->head.values != ref->embed.values) free(ref->head.values);
    mat *const all[] = {&ref->embed,      &ref->input_norm, &ref->norm,      &ref->loop_norm,
                        &ref->log_A,      &ref->log_dt,     &ref->inject_b,  &ref->inject,
                        &ref->exit_w,     &ref->exit_b,     &ref->lora_down, &ref->lora_B,
                        &ref->lora_scale, &ref->coda_in};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        free(all[i]->values);
    free_stage(&ref->plan, ref->prelude, ref->plan.n_prelude);
    free_stage(&ref->plan, ref->core, ref->plan.n_core);
    free_stage(&ref->plan, ref->coda, ref->plan.n_coda);
    free(ref);
}
