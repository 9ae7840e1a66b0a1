/* weights.c - which tensors of a plan the CPU engine packs, and in which order.
 *
 * Everything is loaded twice: the first pass only sizes the image, the second fills it. */
#include "base/clock.h"
#include "base/log.h"
#include "engine/cpu/pack_internal.h"
#include "engine/rowmath.h"

#include <math.h>
#include <stdio.h>
#include <unistd.h>

static tensor_place of_model(tensor_role role) {
    return (tensor_place){.role = role, .stage = PART_OF_MODEL};
}

static int get(const eng__cpu *g, tensor_place place, model_tensor *out, err *e) {
    if (model_find(g->model, place, out)) return 0;
    return err_set(e, ERR_INTERNAL, NULL, "the plan has no tensor of role %d in layer %u",
                   (int)place.role, place.layer);
}

/* A small tensor of n values as float32, read in the first pass. */
static int vector(eng__pack *j, float **at, tensor_place place, size_t n, err *e) {
    model_tensor t;
    if (*at) return 0;
    if (get(j->g, place, &t, e) != 0) return -1;
    if (t.n_values != n) {
        return err_set(e, ERR_BAD_FILE, NULL, "tensor %s has %zu values instead of %zu",
                       model_tensor_name(j->g->model, place), t.n_values, n);
    }
    float *v = eng__take(j->g, n + ENG__PAD, sizeof *v);
    if (v == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory reading weights");
    model_tensor_read(&t, 0, n, v);
    j->g->weight_bytes += n * sizeof *v;
    *at = v;
    return 0;
}

static int take_mats(eng__cpu *g, eng__mat **at, uint32_t n, err *e) {
    if (*at == NULL) *at = eng__take(g, n, sizeof **at);
    return *at ? 0 : err_set(e, ERR_NO_MEMORY, NULL, "out of memory packing weights");
}

static int matrix(eng__pack *j, eng__mat *m, tensor_place place, uint32_t n, uint32_t k, err *e) {
    model_tensor t;
    if (get(j->g, place, &t, e) != 0) return -1;
    j->m = m;
    j->kind = ENG__PACK_ROWS;
    j->row0 = 0;
    j->src = &t;
    j->n_src = 1;
    return eng__pack_run(j, n, k, e);
}

/* ---- attention ---- */

/* kv_up holds, per head, `nope` rows that make keys and `v` rows that make values. */
static int load_kv_up(eng__pack *j, eng__layer *l, tensor_place place, err *e) {
    eng__cpu *g = j->g;
    const model_plan *p = &g->plan;
    model_tensor t;
    uint32_t per_head = p->qk_nope_head_dim + p->v_head_dim;
    if (take_mats(g, &l->uk, p->n_heads, e) != 0 || take_mats(g, &l->uv, p->n_heads, e) != 0 ||
        (g->crossover && take_mats(g, &l->key, p->n_heads, e) != 0)) {
        return -1;
    }
    place.role = TENSOR_KV_UP;
    if (get(g, place, &t, e) != 0) return -1;
    j->src = &t;
    j->n_src = 1;
    j->keep = true;
    for (uint32_t h = 0; h < p->n_heads; h++) {
        j->m = &l->uk[h];
        j->kind = ENG__PACK_COLS;
        j->row0 = h * per_head;
        if (eng__pack_run(j, p->kv_lora_rank, p->qk_nope_head_dim, e) != 0) return -1;
        j->kind = ENG__PACK_ROWS;
        j->m = l->key ? &l->key[h] : NULL;
        if (j->m && eng__pack_run(j, p->qk_nope_head_dim, p->kv_lora_rank, e) != 0) return -1;
        j->m = &l->uv[h];
        j->row0 = h * per_head + p->qk_nope_head_dim;
        if (eng__pack_run(j, p->v_head_dim, p->kv_lora_rank, e) != 0) return -1;
    }
    j->keep = false;
    return 0;
}

/* One matrix of the layer at `place`. */
static int layer_matrix(eng__pack *j, eng__mat *m, tensor_place place, tensor_role role, uint32_t n,
                        uint32_t k, err *e) {
    place.role = role;
    return matrix(j, m, place, n, k, e);
}

static int layer_vector(eng__pack *j, float **at, tensor_place place, tensor_role role, size_t n,
                        err *e) {
    place.role = role;
    return vector(j, at, place, n, e);
}

static int load_gqa(eng__pack *j, eng__layer *l, tensor_place place, err *e) {
    const model_plan *p = &j->g->plan;
    uint32_t q = plan_q_width(p), kv = plan_kv_width(p);
    j->rope = p->rope_halves;
    int rc = layer_matrix(j, &l->wq, place, TENSOR_WQ, q, p->dim, e);
    if (rc == 0) rc = layer_matrix(j, &l->wk, place, TENSOR_WK, kv, p->dim, e);
    j->rope = false;
    if (rc == 0) rc = layer_matrix(j, &l->wv, place, TENSOR_WV, kv, p->dim, e);
    return rc == 0 ? layer_matrix(j, &l->wo, place, TENSOR_WO, p->dim, q, e) : rc;
}

static int load_mla(eng__pack *j, eng__layer *l, tensor_place place, err *e) {
    const model_plan *p = &j->g->plan;
    uint32_t q = p->q_lora_rank, rank = p->kv_lora_rank, rope = p->qk_rope_head_dim,
             heads = p->n_heads;
    if (layer_vector(j, &l->q_norm, place, TENSOR_Q_NORM, q, e) != 0 ||
        layer_vector(j, &l->kv_norm, place, TENSOR_KV_NORM, rank, e) != 0 ||
        layer_matrix(j, &l->q_down, place, TENSOR_Q_DOWN, q, p->dim, e) != 0 ||
        layer_matrix(j, &l->q_up_nope, place, TENSOR_Q_UP_NOPE, heads * p->qk_nope_head_dim, q,
                     e) != 0 ||
        layer_matrix(j, &l->q_up_rope, place, TENSOR_Q_UP_ROPE, heads * rope, q, e) != 0 ||
        layer_matrix(j, &l->kv_down, place, TENSOR_KV_DOWN, rank + rope, p->dim, e) != 0 ||
        load_kv_up(j, l, place, e) != 0) {
        return -1;
    }
    return layer_matrix(j, &l->wo, place, TENSOR_WO, p->dim, heads * p->v_head_dim, e);
}

/* ---- feed-forward ---- */

/* `count` SwiGLUs packed as one, the first at `place` with role gate; up and down follow it. */
static int load_swiglu(eng__pack *j, eng__mat *gate_up, eng__mat *down, tensor_place place,
                       tensor_role gate, uint32_t first, uint32_t count, uint32_t hidden, err *e) {
    model_tensor src[ENG__MAX_SOURCES];
    uint32_t dim = j->g->plan.dim;
    if (count > ENG__MAX_SOURCES / 2) {
        return err_set(e, ERR_UNSUPPORTED, "n_shared_experts", "at most %d shared experts",
                       ENG__MAX_SOURCES / 2);
    }
    j->hidden = hidden;
    j->hidden_padded = (hidden + 15) / 16 * 16;
    j->row0 = 0;
    j->src = src;
    for (uint32_t i = 0; i < 2 * count; i++) {
        place.role = i % 2 ? gate + 1 : gate;
        place.index = first + i / 2;
        if (get(j->g, place, &src[i], e) != 0) return -1;
    }
    j->kind = ENG__PACK_GATE_UP;
    j->m = gate_up;
    j->n_src = 2 * count;
    if (eng__pack_run(j, 2 * count * j->hidden_padded, dim, e) != 0) return -1;
    place.role = gate + 2;
    for (uint32_t i = 0; i < count; i++) {
        place.index = first + i;
        if (get(j->g, place, &src[i], e) != 0) return -1;
    }
    j->kind = ENG__PACK_DOWN;
    j->m = down;
    j->n_src = count;
    return eng__pack_run(j, dim, count * j->hidden_padded, e);
}

static int load_moe(eng__pack *j, eng__layer *l, tensor_place place, err *e) {
    eng__cpu *g = j->g;
    const model_plan *p = &g->plan;
    j->keep = true;
    int rc = layer_matrix(j, &l->router, place, TENSOR_ROUTER, p->n_experts, p->dim, e);
    j->keep = false;
    if (rc != 0 ||
        layer_vector(j, &l->router_bias, place, TENSOR_ROUTER_BIAS, p->n_experts, e) != 0 ||
        take_mats(g, &l->expert_gate_up, p->n_experts, e) != 0 ||
        take_mats(g, &l->expert_down, p->n_experts, e) != 0) {
        return -1;
    }
    for (uint32_t i = 0; i < p->n_experts; i++) {
        if (load_swiglu(j, &l->expert_gate_up[i], &l->expert_down[i], place, TENSOR_EXPERT_GATE, i,
                        1, p->expert_dim, e) != 0) {
            return -1;
        }
    }
    if (p->n_shared_experts == 0) return 0;
    return load_swiglu(j, &l->gate_up, &l->down, place, TENSOR_SHARED_GATE, 0, p->n_shared_experts,
                       g->shared_dim, e);
}

/* ---- layers ---- */

static int load_norms(eng__pack *j, eng__layer *l, tensor_place place, err *e) {
    const model_plan *p = &j->g->plan;
    if (layer_vector(j, &l->attn_norm, place, TENSOR_ATTN_NORM, p->dim, e) != 0 ||
        layer_vector(j, &l->ffn_norm, place, TENSOR_FFN_NORM, p->dim, e) != 0) {
        return -1;
    }
    if (p->norms != NORM_SANDWICH) return 0;
    if (layer_vector(j, &l->attn_out_norm, place, TENSOR_ATTN_OUT_NORM, p->dim, e) != 0) return -1;
    return layer_vector(j, &l->ffn_out_norm, place, TENSOR_FFN_OUT_NORM, p->dim, e);
}

static int load_layers(eng__pack *j, eng__layer *layers, tensor_stage stage, uint32_t n,
                       ffn_kind ffn, err *e) {
    const model_plan *p = &j->g->plan;
    for (uint32_t i = 0; i < n; i++) {
        tensor_place place = {.stage = stage, .layer = i};
        eng__layer *l = &layers[i];
        l->slot_at = plan_layer_offset(p, i);
        l->moe = ffn == FFN_MOE;
        if (load_norms(j, l, place, e) != 0 ||
            (p->attn == ATTN_GQA ? load_gqa : load_mla)(j, l, place, e) != 0) {
            return -1;
        }
        int rc =
            l->moe ? load_moe(j, l, place, e)
                   : load_swiglu(j, &l->gate_up, &l->down, place, TENSOR_GATE, 0, 1, p->ffn_dim, e);
        if (rc != 0) return -1;
    }
    return 0;
}

/* ---- the loop ---- */

static int load_injection(eng__pack *j, err *e) {
    eng__cpu *g = j->g;
    uint32_t d = g->plan.dim;
    float *dt = NULL;
    if (g->inj_a) return 0;
    if (vector(j, &dt, of_model(TENSOR_LOG_DT), 1, e) != 0 ||
        vector(j, &g->inj_a, of_model(TENSOR_LOG_A), d, e) != 0 ||
        vector(j, &g->inj_b, of_model(TENSOR_INJECT_B), d, e) != 0) {
        return -1;
    }
    for (uint32_t i = 0; i < d; i++)
        g->inj_a[i] = rm_lti_decay(dt[0], g->inj_a[i]);
    return 0;
}

static int load_lora(eng__pack *j, err *e) {
    eng__cpu *g = j->g;
    uint32_t rank = g->plan.lora_rank;
    if (rank == 0) return 0;
    g->lora_rows = g->plan.lora_rows;
    if (vector(j, &g->lora_b, of_model(TENSOR_LORA_B), (size_t)rank * g->plan.dim, e) != 0 ||
        vector(j, &g->lora_scale, of_model(TENSOR_LORA_SCALE), (size_t)g->lora_rows * rank, e) !=
            0) {
        return -1;
    }
    j->keep = true;
    int rc = matrix(j, &g->lora_down, of_model(TENSOR_LORA_DOWN), rank, g->plan.dim, e);
    j->keep = false;
    return rc;
}

static int load_loop(eng__pack *j, err *e) {
    eng__cpu *g = j->g;
    const model_plan *p = &g->plan;
    bool mythos = p->inject == INJECT_MYTHOS;
    float *bias = NULL;
    if (mythos && (load_injection(j, e) != 0 || load_lora(j, e) != 0)) return -1;
    if ((mythos || p->loop_norm) &&
        vector(j, &g->loop_norm, of_model(TENSOR_LOOP_NORM), p->dim, e) != 0) {
        return -1;
    }
    bool gate = plan_allows_exit(p, EXIT_ACT) || plan_allows_exit(p, EXIT_HAZARD);
    if (!gate || g->exit_w) return 0;
    if (vector(j, &g->exit_w, of_model(TENSOR_EXIT_WEIGHT), p->dim, e) != 0 ||
        vector(j, &bias, of_model(TENSOR_EXIT_BIAS), 1, e) != 0) {
        return -1;
    }
    g->exit_bias = bias[0];
    return 0;
}

static int load_all(eng__pack *j, err *e) {
    eng__cpu *g = j->g;
    const model_plan *p = &g->plan;
    model_tensor head;
    bool untied = model_find(g->model, of_model(TENSOR_HEAD), &head);
    j->at = 0;
    if (load_layers(j, g->prelude, PART_OF_PRELUDE, p->n_prelude, p->end_ffn, e) != 0 ||
        load_layers(j, g->core, PART_OF_CORE, p->n_core, p->core_ffn, e) != 0 ||
        load_loop(j, e) != 0 ||
        load_layers(j, g->coda, PART_OF_CODA, p->n_coda, p->end_ffn, e) != 0) {
        return -1;
    }
    if (p->final_norm && vector(j, &g->final_norm, of_model(TENSOR_FINAL_NORM), p->dim, e) != 0)
        return -1;
    return matrix(j, &g->head, of_model(untied ? TENSOR_HEAD : TENSOR_EMBED), p->vocab_size, p->dim,
                  e);
}

/* Every matrix gets its part of the image, which is a mapped file or is packed now. */
static int fill(eng__pack *j, err *e) {
    eng__image *image = &j->g->image;
    if (!j->packed) image->data = eng__take(j->g, image->bytes, 1);
    if (image->data == NULL) {
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for %.2f GB of weights",
                       (double)image->bytes / 1e9);
    }
    return load_all(j, e);
}

int eng__load_weights(eng__cpu *g, err *e) {
    const model_plan *p = &g->plan;
    eng__pack j = {.g = g, .started_ns = clock_ns()};
    g->prelude = eng__take(g, p->n_prelude, sizeof *g->prelude);
    g->core = eng__take(g, p->n_core, sizeof *g->core);
    g->coda = eng__take(g, p->n_coda, sizeof *g->coda);
    if (g->prelude == NULL || g->core == NULL || g->coda == NULL) {
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory packing weights");
    }
    if (get(g, of_model(TENSOR_EMBED), &g->embed, e) != 0 || load_all(&j, e) != 0) return -1;
    g->image.bytes = j.at;
    g->weight_bytes += j.at;
    j.packed = g->opts.packed_cache && eng__packed_open(g);
    j.fill = true;
    if (fill(&j, e) != 0) return -1;
    if (j.packed && j.not_finite) { /* summed right, so it was packed wrong */
        log_line(LOG_WARN,
                 "the packed weights in %s hold values that are not finite; packing again",
                 model_dir(g->model));
        eng__packed_close(g);
        j.packed = false;
        if (fill(&j, e) != 0) return -1;
    }
    if (j.said_ns && isatty(STDERR_FILENO)) fprintf(stderr, "\rpacking weights: 100%%\n");
    if (g->opts.packed_cache && !j.packed) (void)eng__packed_save(g);
    return 0;
}
