/* weights.c - the tensors packed by the CPU engine, and their order.
 *
 * All are loaded twice: the first pass only sizes the image, the second fills it. */
#include "base/log.h"
#include "engine/cpu/pack_internal.h"
#include "engine/rowmath.h"

#include <math.h>

#define MANY_BYTES 4000000000u /* of float32 weights: worth a hint */

static tensor_place of_model(tensor_role role) {
    return (tensor_place){.role = role, .stage = PART_OF_MODEL};
}

static int get(const eng__cpu *cpu, tensor_place place, model_tensor *out, err *e) {
    if (model_find(cpu->model, place, out)) return 0;
    return err_set(e, ERR_INTERNAL, NULL, "the plan has no tensor of role %d in layer %u",
                   (int)place.role, place.layer);
}

/* A small tensor of n values as float32, read in the first pass; with pack->rope in the order of
 * the rotation. */
static int vector(eng__pack *pack, float **at, tensor_place place, size_t n, err *e) {
    model_tensor tensor;
    if (*at) return 0;
    if (get(pack->cpu, place, &tensor, e) != 0) return -1;
    if (tensor.n_values != n) {
        return err_set(e, ERR_BAD_FILE, NULL, "tensor %s has %zu values instead of %zu",
                       model_tensor_name(pack->cpu->model, place), tensor.n_values, n);
    }
    float *values = eng__take(pack->cpu, n + ENG__PAD, sizeof *values);
    if (values == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory reading weights");
    if (!pack->rope) model_tensor_read(&tensor, 0, n, values);
    for (size_t i = 0; pack->rope && i < n; i++)
        model_tensor_read(&tensor, plan_rope_row(&pack->cpu->plan, (uint32_t)i), 1, values + i);
    pack->cpu->weight_bytes += n * sizeof *values;
    *at = values;
    return 0;
}

static int take_mats(eng__cpu *cpu, eng__mat **at, uint32_t n, err *e) {
    if (*at == NULL) *at = eng__take(cpu, n, sizeof **at);
    return *at ? 0 : err_set(e, ERR_NO_MEMORY, NULL, "out of memory packing weights");
}

/* Columns [col0, col0 + k) of a tensor of n rows. */
static int columns(eng__pack *pack, eng__mat *mat, tensor_place place, uint32_t n, uint32_t col0,
                   uint32_t k, err *e) {
    model_tensor tensor;
    if (get(pack->cpu, place, &tensor, e) != 0) return -1;
    pack->mat = mat;
    pack->kind = ENG__PACK_ROWS;
    pack->row0 = 0;
    pack->col0 = col0;
    pack->src = &tensor;
    pack->n_src = 1;
    int rc = eng__pack_run(pack, n, k, e);
    pack->col0 = 0;
    return rc;
}

static int matrix(eng__pack *pack, eng__mat *mat, tensor_place place, uint32_t n, uint32_t k,
                  err *e) {
    return columns(pack, mat, place, n, 0, k, e);
}

/* ---- attention ---- */

/* kv_up holds, per head, `nope` rows for keys and `v` rows for values. */
static int load_kv_up(eng__pack *pack, eng__layer *layer, tensor_place place, err *e) {
    eng__cpu *cpu = pack->cpu;
    const model_plan *plan = &cpu->plan;
    model_tensor tensor;
    uint32_t per_head = plan->qk_nope_head_dim + plan->v_head_dim;
    if (take_mats(cpu, &layer->uk, plan->n_heads, e) != 0 ||
        take_mats(cpu, &layer->uv, plan->n_heads, e) != 0 ||
        (cpu->crossover && take_mats(cpu, &layer->key, plan->n_heads, e) != 0)) {
        return -1;
    }
    place.role = TENSOR_KV_UP;
    if (get(cpu, place, &tensor, e) != 0) return -1;
    pack->src = &tensor;
    pack->n_src = 1;
    pack->keep = true;
    for (uint32_t head = 0; head < plan->n_heads; head++) {
        pack->mat = &layer->uk[head];
        pack->kind = ENG__PACK_COLS;
        pack->row0 = head * per_head;
        if (eng__pack_run(pack, plan->kv_lora_rank, plan->qk_nope_head_dim, e) != 0) return -1;
        pack->kind = ENG__PACK_ROWS;
        pack->mat = layer->key ? &layer->key[head] : NULL;
        if (pack->mat && eng__pack_run(pack, plan->qk_nope_head_dim, plan->kv_lora_rank, e) != 0)
            return -1;
        pack->mat = &layer->uv[head];
        pack->row0 = head * per_head + plan->qk_nope_head_dim;
        if (eng__pack_run(pack, plan->v_head_dim, plan->kv_lora_rank, e) != 0) return -1;
    }
    pack->keep = false;
    return 0;
}

/* One matrix of the layer at `place`. */
static int layer_matrix(eng__pack *pack, eng__mat *mat, tensor_place place, tensor_role role,
                        uint32_t n, uint32_t k, err *e) {
    place.role = role;
    return matrix(pack, mat, place, n, k, e);
}

static int layer_vector(eng__pack *pack, float **at, tensor_place place, tensor_role role, size_t n,
                        err *e) {
    place.role = role;
    return vector(pack, at, place, n, e);
}

static int load_qk_vectors(eng__pack *pack, eng__layer *layer, tensor_place place, err *e) {
    const model_plan *plan = &pack->cpu->plan;
    bool full = plan->qk_norm == QK_NORM_FULL;
    const struct {
        bool has;
        float **at;
        tensor_role role;
        uint32_t n;
    } all[] = {
        {plan->qk_bias, &layer->q_bias, TENSOR_Q_BIAS, plan_q_width(plan)},
        {plan->qk_bias, &layer->k_bias, TENSOR_K_BIAS, plan_kv_width(plan)},
        {full, &layer->q_norm, TENSOR_Q_NORM, plan_q_width(plan)},
        {full, &layer->k_norm, TENSOR_K_NORM, plan_kv_width(plan)},
    };
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        if (all[i].has && layer_vector(pack, all[i].at, place, all[i].role, all[i].n, e) != 0)
            return -1;
    }
    return 0;
}

/* `index` counts over prelude, core and coda. */
static int load_value_embed(eng__pack *pack, eng__layer *layer, tensor_place place, uint32_t index,
                            err *e) {
    const model_plan *plan = &pack->cpu->plan;
    if (!plan_value_embed(plan, index)) return 0;
    place.role = TENSOR_VALUE_TABLE;
    if (get(pack->cpu, place, &layer->value_table, e) != 0) return -1;
    return layer_vector(pack, &layer->value_gate, place, TENSOR_VALUE_GATE,
                        (size_t)plan->n_kv_heads * PLAN_VALUE_GATE, e);
}

static int load_gqa(eng__pack *pack, eng__layer *layer, tensor_place place, err *e) {
    const model_plan *plan = &pack->cpu->plan;
    uint32_t q_width = plan_q_width(plan), kv = plan_kv_width(plan);
    pack->rope = plan->rope_halves;
    int rc = layer_matrix(pack, &layer->wq, place, TENSOR_WQ, q_width, plan->dim, e);
    if (rc == 0) rc = layer_matrix(pack, &layer->wk, place, TENSOR_WK, kv, plan->dim, e);
    if (rc == 0) rc = load_qk_vectors(pack, layer, place, e);
    pack->rope = false;
    if (rc == 0) rc = layer_matrix(pack, &layer->wv, place, TENSOR_WV, kv, plan->dim, e);
    return rc == 0 ? layer_matrix(pack, &layer->wo, place, TENSOR_WO, plan->dim, q_width, e) : rc;
}

static int load_mla(eng__pack *pack, eng__layer *layer, tensor_place place, err *e) {
    const model_plan *plan = &pack->cpu->plan;
    uint32_t q_rank = plan->q_lora_rank, rank = plan->kv_lora_rank, rope = plan->qk_rope_head_dim,
             heads = plan->n_heads;
    if (layer_vector(pack, &layer->q_norm, place, TENSOR_Q_NORM, q_rank, e) != 0 ||
        layer_vector(pack, &layer->kv_norm, place, TENSOR_KV_NORM, rank, e) != 0 ||
        layer_matrix(pack, &layer->q_down, place, TENSOR_Q_DOWN, q_rank, plan->dim, e) != 0 ||
        layer_matrix(pack, &layer->q_up_nope, place, TENSOR_Q_UP_NOPE,
                     heads * plan->qk_nope_head_dim, q_rank, e) != 0 ||
        layer_matrix(pack, &layer->q_up_rope, place, TENSOR_Q_UP_ROPE, heads * rope, q_rank, e) !=
            0 ||
        layer_matrix(pack, &layer->kv_down, place, TENSOR_KV_DOWN, rank + rope, plan->dim, e) !=
            0 ||
        load_kv_up(pack, layer, place, e) != 0) {
        return -1;
    }
    return layer_matrix(pack, &layer->wo, place, TENSOR_WO, plan->dim, heads * plan->v_head_dim, e);
}

/* ---- feed-forward ---- */

/* `count` SwiGLUs packed as one. The first is at `place` with role `gate`; the roles of up and down
 * follow. */
static int load_swiglu(eng__pack *pack, eng__mat *gate_up, eng__mat *down, tensor_place place,
                       tensor_role gate, uint32_t first, uint32_t count, uint32_t hidden, err *e) {
    model_tensor src[ENG__MAX_SOURCES];
    uint32_t dim = pack->cpu->plan.dim;
    if (count > ENG__MAX_SOURCES / 2) {
        return err_set(e, ERR_UNSUPPORTED, "n_shared_experts",
                       "at most %d shared experts are supported", ENG__MAX_SOURCES / 2);
    }
    pack->hidden = hidden;
    pack->hidden_padded = (hidden + 15) / 16 * 16;
    pack->row0 = 0;
    pack->src = src;
    for (uint32_t i = 0; i < 2 * count; i++) {
        place.role = i % 2 ? gate + 1 : gate;
        place.index = first + i / 2;
        if (get(pack->cpu, place, &src[i], e) != 0) return -1;
    }
    pack->kind = ENG__PACK_GATE_UP;
    pack->mat = gate_up;
    pack->n_src = 2 * count;
    if (eng__pack_run(pack, 2 * count * pack->hidden_padded, dim, e) != 0) return -1;
    place.role = gate + 2;
    for (uint32_t i = 0; i < count; i++) {
        place.index = first + i;
        if (get(pack->cpu, place, &src[i], e) != 0) return -1;
    }
    pack->kind = ENG__PACK_DOWN;
    pack->mat = down;
    pack->n_src = count;
    return eng__pack_run(pack, dim, count * pack->hidden_padded, e);
}

static int load_router(eng__pack *pack, eng__layer *layer, tensor_place place, err *e) {
    const model_plan *plan = &pack->cpu->plan;
    pack->keep = true;
    int rc =
        layer_matrix(pack, &layer->router, place, TENSOR_ROUTER, plan->n_experts, plan->dim, e);
    pack->keep = false;
    if (rc != 0) return rc;
    return layer_vector(pack, &layer->router_bias, place, TENSOR_ROUTER_BIAS, plan->n_experts, e);
}

static int load_moe(eng__pack *pack, eng__layer *layer, tensor_place place, err *e) {
    eng__cpu *cpu = pack->cpu;
    const model_plan *plan = &cpu->plan;
    if (take_mats(cpu, &layer->expert_gate_up, plan->n_experts, e) != 0 ||
        take_mats(cpu, &layer->expert_down, plan->n_experts, e) != 0) {
        return -1;
    }
    for (uint32_t i = 0; i < plan->n_experts; i++) {
        if (load_swiglu(pack, &layer->expert_gate_up[i], &layer->expert_down[i], place,
                        TENSOR_EXPERT_GATE, i, 1, plan->expert_dim, e) != 0) {
            return -1;
        }
    }
    if (plan->n_shared_experts == 0) return 0;
    return load_swiglu(pack, &layer->gate_up, &layer->down, place, TENSOR_SHARED_GATE, 0,
                       plan->n_shared_experts, cpu->shared_dim, e);
}

/* ---- layers ---- */

static int load_norms(eng__pack *pack, eng__layer *layer, tensor_place place, err *e) {
    const model_plan *plan = &pack->cpu->plan;
    if (plan_norms_inputs(plan) &&
        (layer_vector(pack, &layer->attn_norm, place, TENSOR_ATTN_NORM, plan->dim, e) != 0 ||
         layer_vector(pack, &layer->ffn_norm, place, TENSOR_FFN_NORM, plan->dim, e) != 0)) {
        return -1;
    }
    if (!plan_norms_outputs(plan)) return 0;
    if (layer_vector(pack, &layer->attn_out_norm, place, TENSOR_ATTN_OUT_NORM, plan->dim, e) != 0)
        return -1;
    return layer_vector(pack, &layer->ffn_out_norm, place, TENSOR_FFN_OUT_NORM, plan->dim, e);
}

static int load_ffn(eng__pack *pack, eng__layer *layer, tensor_place place, err *e) {
    const model_plan *plan = &pack->cpu->plan;
    switch (layer->ffn) {
    case FFN_MOE: return load_moe(pack, layer, place, e);
    case FFN_SWIGLU:
        return load_swiglu(pack, &layer->gate_up, &layer->down, place, TENSOR_GATE, 0, 1,
                           plan->ffn_dim, e);
    case FFN_HALF_RELU2: break;
    }
    if (layer_matrix(pack, &layer->gate_up, place, TENSOR_UP, plan->ffn_dim, plan->dim, e) != 0)
        return -1;
    return layer_matrix(pack, &layer->down, place, TENSOR_DOWN, plan->dim, plan->ffn_dim, e);
}

/* Every rank chooses among all experts, but holds its columns of their products alone. */
static int load_divided_ffn(eng__pack *pack, eng__layer *layer, tensor_place place, err *e) {
    if (layer->ffn == FFN_MOE && load_router(pack, layer, place, e) != 0) return -1;
    pack->divide = true;
    int rc = load_ffn(pack, layer, place, e);
    pack->divide = false;
    return rc;
}

/* n layers of a stage. The first has number `index` over prelude, core and coda. */
static int load_layers(eng__pack *pack, eng__layer *layers, tensor_stage stage, uint32_t index,
                       uint32_t n, ffn_kind ffn, err *e) {
    const model_plan *plan = &pack->cpu->plan;
    for (uint32_t i = 0; i < n; i++) {
        tensor_place place = {.stage = stage, .layer = i};
        eng__layer *layer = &layers[i];
        layer->slot_at = plan_layer_offset(plan, i);
        layer->ffn = ffn;
        if (load_norms(pack, layer, place, e) != 0 ||
            (plan->attn == ATTN_GQA ? load_gqa : load_mla)(pack, layer, place, e) != 0 ||
            load_value_embed(pack, layer, place, index + i, e) != 0 ||
            load_divided_ffn(pack, layer, place, e) != 0) {
            return -1;
        }
    }
    return 0;
}

/* ---- the loop ---- */

static int load_mythos(eng__pack *pack, err *e) {
    eng__cpu *cpu = pack->cpu;
    uint32_t dim = cpu->plan.dim;
    float *dt = NULL;
    if (cpu->inj_a) return 0;
    if (vector(pack, &dt, of_model(TENSOR_LOG_DT), 1, e) != 0 ||
        vector(pack, &cpu->inj_a, of_model(TENSOR_LOG_A), dim, e) != 0 ||
        vector(pack, &cpu->inj_b, of_model(TENSOR_INJECT_B), dim, e) != 0) {
        return -1;
    }
    for (uint32_t i = 0; i < dim; i++)
        cpu->inj_a[i] = rm_lti_decay(dt[0], cpu->inj_a[i]);
    return 0;
}

static int load_linear(eng__pack *pack, err *e) {
    eng__cpu *cpu = pack->cpu;
    uint32_t dim = cpu->plan.dim;
    if (columns(pack, &cpu->inject_state, of_model(TENSOR_INJECT), dim, 0, dim, e) != 0) return -1;
    return columns(pack, &cpu->inject_input, of_model(TENSOR_INJECT), dim, dim, dim, e);
}

static int load_diagonal(eng__pack *pack, err *e) {
    eng__cpu *cpu = pack->cpu;
    uint32_t dim = cpu->plan.dim;
    if (matrix(pack, &cpu->inject_input, of_model(TENSOR_INJECT), dim, dim, e) != 0) return -1;
    if (cpu->inj_a) return 0;
    if (vector(pack, &cpu->inj_a, of_model(TENSOR_LOG_A), dim, e) != 0 ||
        vector(pack, &cpu->inj_b, of_model(TENSOR_LOG_DT), dim, e) != 0) {
        return -1;
    }
    for (uint32_t i = 0; i < dim; i++) {
        cpu->inj_b[i] = rm_softplus(cpu->inj_b[i]);
        cpu->inj_a[i] = rm_diagonal_decay(cpu->inj_b[i], cpu->inj_a[i]);
    }
    return 0;
}

static int load_lora(eng__pack *pack, err *e) {
    eng__cpu *cpu = pack->cpu;
    uint32_t rank = cpu->plan.lora_rank;
    if (rank == 0) return 0;
    cpu->lora_rows = cpu->plan.lora_rows;
    if (vector(pack, &cpu->lora_b, of_model(TENSOR_LORA_B), (size_t)rank * cpu->plan.dim, e) != 0 ||
        vector(pack, &cpu->lora_scale, of_model(TENSOR_LORA_SCALE), (size_t)cpu->lora_rows * rank,
               e) != 0) {
        return -1;
    }
    pack->keep = true;
    int rc = matrix(pack, &cpu->lora_down, of_model(TENSOR_LORA_DOWN), rank, cpu->plan.dim, e);
    pack->keep = false;
    return rc;
}

static int load_injection(eng__pack *pack, err *e) {
    switch (pack->cpu->plan.inject) {
    case INJECT_NONE: break;
    case INJECT_MYTHOS: return load_mythos(pack, e) == 0 ? load_lora(pack, e) : -1;
    case INJECT_LINEAR: return load_linear(pack, e);
    case INJECT_DIAGONAL: return load_diagonal(pack, e);
    }
    return 0;
}

static int load_loop(eng__pack *pack, err *e) {
    eng__cpu *cpu = pack->cpu;
    const model_plan *plan = &cpu->plan;
    float *bias = NULL;
    if (load_injection(pack, e) != 0) return -1;
    if (plan->input_norm &&
        vector(pack, &cpu->input_norm, of_model(TENSOR_INPUT_NORM), plan->dim, e) != 0) {
        return -1;
    }
    if ((plan->inject == INJECT_MYTHOS || plan->loop_norm) &&
        vector(pack, &cpu->loop_norm, of_model(TENSOR_LOOP_NORM), plan->dim, e) != 0) {
        return -1;
    }
    bool gate = plan_allows_exit(plan, EXIT_ACT) || plan_allows_exit(plan, EXIT_HAZARD);
    if (!gate || cpu->exit_w) return 0;
    if (vector(pack, &cpu->exit_w, of_model(TENSOR_EXIT_WEIGHT), plan->dim, e) != 0 ||
        vector(pack, &bias, of_model(TENSOR_EXIT_BIAS), 1, e) != 0) {
        return -1;
    }
    cpu->exit_bias = bias[0];
    return 0;
}

/* Between loop and coda, and the head. */
static int load_end(eng__pack *pack, err *e) {
    eng__cpu *cpu = pack->cpu;
    const model_plan *plan = &cpu->plan;
    model_tensor head;
    bool untied = model_find(cpu->model, of_model(TENSOR_HEAD), &head);
    if (plan->coda_in == CODA_IN_LINEAR &&
        matrix(pack, &cpu->coda_in, of_model(TENSOR_CODA_IN), plan->dim, plan->dim, e) != 0) {
        return -1;
    }
    if ((plan->final_norm || plan->coda_in == CODA_IN_NORM) &&
        vector(pack, &cpu->final_norm, of_model(TENSOR_FINAL_NORM), plan->dim, e) != 0)
        return -1;
    pack->divide = true;
    int rc = matrix(pack, &cpu->head, of_model(untied ? TENSOR_HEAD : TENSOR_EMBED),
                    plan->vocab_size, plan->dim, e);
    pack->divide = false;
    return rc;
}

static int load_all(eng__pack *pack, err *e) {
    eng__cpu *cpu = pack->cpu;
    const model_plan *plan = &cpu->plan;
    uint32_t core = plan->n_prelude, coda = core + plan->n_core;
    pack->at = 0;
    if (load_layers(pack, cpu->prelude, PART_OF_PRELUDE, 0, core, plan->end_ffn, e) != 0 ||
        load_layers(pack, cpu->core, PART_OF_CORE, core, plan->n_core, plan->core_ffn, e) != 0 ||
        load_loop(pack, e) != 0 ||
        load_layers(pack, cpu->coda, PART_OF_CODA, coda, plan->n_coda, plan->end_ffn, e) != 0) {
        return -1;
    }
    return load_end(pack, e);
}

/* Assigns every matrix its part of the image: a mapped file, or memory packed now. */
static int fill(eng__pack *pack, err *e) {
    eng__image *image = &pack->cpu->image;
    if (!pack->packed) image->data = eng__take(pack->cpu, image->bytes, 1);
    if (image->data == NULL) {
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for %.2f GB of weights",
                       (double)image->bytes / 1e9);
    }
    if (pack->packed) return load_all(pack, e);
    progress_start(&pack->bar, "packing weights", NULL, image->bytes);
    int rc = load_all(pack, e);
    progress_stop(&pack->bar);
    return rc;
}

/* Published float32 models were trained and measured in bfloat16. */
static void advise_bf16(const eng__pack *pack) {
    if (pack->cpu->opts.weights != ENG_WEIGHTS_AS_STORED || pack->f32_bytes < MANY_BYTES) return;
    log_line(LOG_INFO,
             "weights are float32 (%.1f GB); --weights bf16 halves memory and time per loop",
             (double)pack->f32_bytes / 1e9);
}

int eng__load_weights(eng__cpu *cpu, err *e) {
    const model_plan *plan = &cpu->plan;
    eng__pack pack = {.cpu = cpu};
    cpu->prelude = eng__take(cpu, plan->n_prelude, sizeof *cpu->prelude);
    cpu->core = eng__take(cpu, plan->n_core, sizeof *cpu->core);
    cpu->coda = eng__take(cpu, plan->n_coda, sizeof *cpu->coda);
    if (cpu->prelude == NULL || cpu->core == NULL || cpu->coda == NULL) {
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory packing weights");
    }
    if (get(cpu, of_model(TENSOR_EMBED), &cpu->embed, e) != 0 || load_all(&pack, e) != 0) return -1;
    cpu->image.bytes = pack.at;
    cpu->weight_bytes += pack.at;
    advise_bf16(&pack);
    pack.packed = cpu->opts.packed_cache && eng__packed_open(cpu);
    pack.fill = true;
    if (fill(&pack, e) != 0) return -1;
    if (pack.packed && pack.not_finite) { /* the checksum is right, so it was packed wrong */
        log_line(LOG_WARN,
                 "the packed weights in %s hold values that are not finite; packing again",
                 model_dir(cpu->model));
        eng__packed_close(cpu);
        pack.packed = false;
        if (fill(&pack, e) != 0) return -1;
    }
    if (cpu->opts.packed_cache && !pack.packed) (void)eng__packed_save(cpu);
    return 0;
}
