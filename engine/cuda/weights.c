/* weights.c - puts the model's tensors on the device in the layouts the kernels read.
 *
 * Matrices keep the file's row order [out][in], rows padded with zeros to 32 values and their
 * number to 16, so no kernel needs a bound inside a product. Gate and up rows alternate in eights:
 * one lane of a tensor-core tile then holds a gate and its up. */
#include "base/size.h"
#include "engine/cuda/upload.h"
#include "engine/rowmath.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The kernels turn neighbours: rows of queries and keys move if the file pairs halves. */
static uint64_t file_row(const model_plan *plan, tensor_role role, uint64_t row) {
    bool turns = plan->attn == ATTN_GQA && (role == TENSOR_WQ || role == TENSOR_WK);
    return turns ? plan_rope_row(plan, (uint32_t)row) : row;
}

/* Several tensors [n_i][k], one above the other; zeros behind the rows of narrower ones. */
static int upload_stack(cu_uploader *upload, cu_mat *mat, tensor_place at, const tensor_role *roles,
                        uint32_t count, err *e) {
    model_tensor tensor[4] = {0};
    uint64_t rows = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (eng__up_need(upload->cuda, cu_at_role(at, roles[i]), &tensor[i], e) != 0) return -1;
        rows += tensor[i].shape[0];
    }
    uint32_t n = (uint32_t)rows, k = (uint32_t)tensor[0].shape[1];
    if (eng__up_begin(upload, mat, 1, n, k, e) != 0) return -1;
    for (uint32_t i = 0; i < count; i++) {
        for (uint64_t row = 0; row < tensor[i].shape[0]; row++) {
            if (eng__up_row(upload, &tensor[i], file_row(&upload->cuda->plan, roles[i], row), 0,
                            (uint32_t)tensor[i].shape[1], e) != 0)
                return -1;
        }
    }
    if (eng__up_zeros(upload, cu_round(n, CU_MM_ROWS) - n, e) != 0) return -1;
    return eng__up_flush(upload, e);
}

/* Columns [col, col + k) of a tensor. */
static int upload_columns(cu_uploader *upload, cu_mat *mat, const model_tensor *tensor,
                          uint32_t col, uint32_t k, err *e) {
    uint32_t n = (uint32_t)tensor->shape[0];
    if (eng__up_begin(upload, mat, 1, n, k, e) != 0) return -1;
    for (uint32_t row = 0; row < n; row++) {
        if (eng__up_row(upload, tensor, row, col, k, e) != 0) return -1;
    }
    if (eng__up_zeros(upload, cu_round(n, CU_MM_ROWS) - n, e) != 0) return -1;
    return eng__up_flush(upload, e);
}

static int upload_one(cu_uploader *upload, cu_mat *mat, tensor_place at, tensor_role role, err *e) {
    return upload_stack(upload, mat, at, &role, 1, e);
}

/* A matrix [n][k] of which this rank's rows follow: eng__up_begin of these alone. */
static int begin_own(cu_uploader *upload, cu_mat *mat, uint32_t count, uint32_t n, eng_share own,
                     uint32_t k, err *e) {
    if (eng__up_begin(upload, mat, count, own.last - own.first, k, e) != 0) return -1;
    mat->all = n;
    return 0;
}

/* Of gate rows [first, first + n) and the same of up, 8 and 8 in turn, the rows `own`; zeros from n
 * on. */
static int put_gate_up(cu_uploader *upload, const model_tensor *gate, const model_tensor *up,
                       uint32_t first, uint32_t n, eng_share own, uint32_t k, err *e) {
    for (uint32_t i = own.first; i < own.last; i += 8) {
        for (uint32_t side = 0; side < 2; side++) {
            for (uint32_t j = i; j < i + 8; j++) {
                int rc = j < n ? eng__up_row(upload, side ? up : gate, first + j, 0, k, e)
                               : eng__up_zeros(upload, 1, e);
                if (rc != 0) return -1;
            }
        }
    }
    return 0;
}

/* Rows `own` of a tensor [n][k], of them columns `cols`; zeros from n and k on, and as many as fill
 * the last tile. */
static int put_rows(cu_uploader *upload, const model_tensor *tensor, eng_share own, eng_share cols,
                    err *e) {
    uint32_t n = (uint32_t)tensor->shape[0], end = own.last < n ? own.last : n;
    uint32_t k = (uint32_t)tensor->shape[1], last = cols.last < k ? cols.last : k;
    for (uint32_t row = own.first; row < end; row++) {
        if (eng__up_row(upload, tensor, row, cols.first, last - cols.first, e) != 0) return -1;
    }
    uint32_t there = end > own.first ? end - own.first : 0;
    return eng__up_zeros(upload, cu_round(own.last - own.first, CU_MM_ROWS) - there, e);
}

/* This rank's rows of one tensor [n][k], of n / ENG_RANKS_OUT units. */
static int upload_own(cu_uploader *upload, cu_mat *mat, const model_tensor *tensor, err *e) {
    uint32_t n = (uint32_t)tensor->shape[0], k = (uint32_t)tensor->shape[1];
    eng_share own = eng__cuda_share(upload->cuda, n, ENG_RANKS_OUT);
    if (begin_own(upload, mat, 1, n, own, k, e) != 0 ||
        put_rows(upload, tensor, own, (eng_share){0, k}, e) != 0)
        return -1;
    return eng__up_flush(upload, e);
}

/* This rank's part of a down matrix [dim][k], k padded. By columns: the rows of its outputs, with
 * all inputs. With sums: all rows, with the inputs that are its hidden values. */
typedef struct {
    eng_share rows, cols;
} down_part;
static down_part own_down(const cu_uploader *upload, uint32_t padded) {
    const cu_backend *cuda = upload->cuda;
    uint32_t dim = cuda->plan.dim;
    if (!eng__cuda_sums(cuda))
        return (down_part){eng__cuda_share(cuda, dim, ENG_RANKS_OUT), {0, padded}};
    eng_share cols = eng__cuda_share_hidden(cuda, padded);
    return (down_part){{0, cols.last > cols.first ? dim : 0}, cols};
}

/* This rank's part of `count` down matrices, its columns `groups` times side by side. */
static int begin_down(cu_uploader *upload, cu_mat *mat, uint32_t count, down_part own,
                      uint32_t groups, err *e) {
    return begin_own(upload, mat, count, upload->cuda->plan.dim, own.rows,
                     groups * (own.cols.last - own.cols.first), e);
}

/* The same in rows of a matrix with a gate for each. */
static eng_share with_gates(eng_share hidden) {
    return (eng_share){2 * hidden.first, 2 * hidden.last};
}

static int upload_dense_ffn(cu_uploader *upload, cu_layer *layer, tensor_place at, ffn_kind ffn,
                            err *e) {
    const cu_backend *cuda = upload->cuda;
    model_tensor gate, up, down;
    bool gated = ffn == FFN_SWIGLU;
    if ((gated && eng__up_need(cuda, cu_at_role(at, TENSOR_GATE), &gate, e) != 0) ||
        eng__up_need(cuda, cu_at_role(at, TENSOR_UP), &up, e) != 0 ||
        eng__up_need(cuda, cu_at_role(at, TENSOR_DOWN), &down, e) != 0) {
        return -1;
    }
    uint32_t hidden = cuda->plan.ffn_dim, padded = cu_round(hidden, CU_K_STEP),
             dim = cuda->plan.dim;
    eng_share own = eng__cuda_share_hidden(cuda, padded);
    if (begin_own(upload, &layer->gate_up, 1, gated ? 2 * padded : padded,
                  gated ? with_gates(own) : own, dim, e) != 0)
        return -1;
    int rc = gated ? put_gate_up(upload, &gate, &up, 0, hidden, own, dim, e)
                   : put_rows(upload, &up, own, (eng_share){0, dim}, e);
    if (rc != 0 || eng__up_flush(upload, e) != 0) return -1;
    down_part part = own_down(upload, padded);
    if (begin_down(upload, &layer->down, 1, part, 1, e) != 0 ||
        put_rows(upload, &down, part.rows, part.cols, e) != 0)
        return -1;
    return eng__up_flush(upload, e);
}

/* gate, up and down of expert `index`; `first` is the role of the gate, the others follow it. */
static int expert_tensors(const cu_backend *cuda, tensor_place at, tensor_role first,
                          uint32_t index, model_tensor tensor[3], err *e) {
    at.index = index;
    for (int i = 0; i < 3; i++) {
        if (eng__up_need(cuda, cu_at_role(at, (tensor_role)((int)first + i)), &tensor[i], e) != 0)
            return -1;
    }
    return 0;
}

static int upload_routed(cu_uploader *upload, cu_layer *layer, tensor_place at, err *e) {
    const model_plan *plan = &upload->cuda->plan;
    uint32_t padded = cu_round(plan->expert_dim, CU_K_STEP);
    eng_share own = eng__cuda_share_hidden(upload->cuda, padded);
    down_part out = own_down(upload, padded);
    model_tensor tensor[3];
    if (begin_own(upload, &layer->gate_up, plan->n_experts, 2 * padded, with_gates(own), plan->dim,
                  e) != 0)
        return -1;
    for (uint32_t j = 0; j < plan->n_experts; j++) {
        if (expert_tensors(upload->cuda, at, TENSOR_EXPERT_GATE, j, tensor, e) != 0 ||
            put_gate_up(upload, &tensor[0], &tensor[1], 0, plan->expert_dim, own, plan->dim, e) !=
                0) {
            return -1;
        }
    }
    if (eng__up_flush(upload, e) != 0) return -1;
    if (begin_down(upload, &layer->down, plan->n_experts, out, 1, e) != 0) return -1;
    for (uint32_t j = 0; j < plan->n_experts; j++) {
        if (expert_tensors(upload->cuda, at, TENSOR_EXPERT_GATE, j, tensor, e) != 0 ||
            put_rows(upload, &tensor[2], out.rows, out.cols, e) != 0)
            return -1;
    }
    return eng__up_flush(upload, e);
}

/* A shared expert's down as columns of one matrix: row r holds row r of every group. */
static int put_shared_down(cu_uploader *upload, const model_tensor *down, down_part own, err *e) {
    const model_plan *plan = &upload->cuda->plan;
    uint32_t per = plan->n_experts_per_tok, groups = upload->cuda->groups_shared;
    uint32_t width = own.cols.last - own.cols.first;
    uint32_t last = own.cols.last < plan->expert_dim ? own.cols.last : plan->expert_dim;
    for (uint32_t row = own.rows.first; row < own.rows.last; row++) {
        uint8_t *at = eng__up_next_row(upload, 0, groups, e);
        if (at == NULL) return -1;
        for (uint32_t group = 0; group < groups; group++) {
            const model_tensor *tensor = &down[group / per];
            size_t first =
                (size_t)row * tensor->shape[1] + (size_t)(group % per) * plan->expert_dim;
            eng__up_piece(upload, at + (size_t)group * width * cu_act_bytes(upload->cuda), tensor,
                          first + own.cols.first, last - own.cols.first);
        }
    }
    uint32_t rows = own.rows.last - own.rows.first;
    return eng__up_zeros(upload, cu_round(rows, CU_MM_ROWS) - rows, e);
}

/* A shared expert of hidden expert_dim * top_k is top_k groups of hidden expert_dim: the MoE is
 * uniform. down is [D][groups * expert_ld], so it also serves as one matrix. */
static int upload_shared(cu_uploader *upload, cu_layer *layer, tensor_place at, err *e) {
    const model_plan *plan = &upload->cuda->plan;
    uint32_t padded = cu_round(plan->expert_dim, CU_K_STEP), groups = upload->cuda->groups_shared;
    uint32_t per = plan->n_experts_per_tok;
    if (groups == 0) return 0;
    eng_share own = eng__cuda_share_hidden(upload->cuda, padded);
    down_part out = own_down(upload, padded);
    model_tensor tensor[3], *down = array_new(plan->n_shared_experts, sizeof *down);
    if (down == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory packing weights");
    int rc = begin_own(upload, &layer->shared_gate_up, groups, 2 * padded, with_gates(own),
                       plan->dim, e);
    for (uint32_t group = 0; rc == 0 && group < groups; group++) {
        rc = expert_tensors(upload->cuda, at, TENSOR_SHARED_GATE, group / per, tensor, e);
        down[group / per] = tensor[2];
        if (rc == 0)
            rc = put_gate_up(upload, &tensor[0], &tensor[1], group % per * plan->expert_dim,
                             plan->expert_dim, own, plan->dim, e);
    }
    if (rc == 0) rc = eng__up_flush(upload, e);
    if (rc == 0) rc = begin_down(upload, &layer->shared_down, 1, out, groups, e);
    if (rc == 0) rc = put_shared_down(upload, down, out, e);
    if (rc == 0) rc = eng__up_flush(upload, e);
    /* group g reads columns from here on, g times */
    layer->shared_down.group = out.cols.last - out.cols.first;
    free(down);
    return rc;
}

/* kv_up [H * (nope + v)][rank] as two sets: uk[h] = its nope rows transposed, uv[h] = its v rows.
 */
static int upload_kv_up(cu_uploader *upload, cu_layer *layer, tensor_place at, err *e) {
    const model_plan *plan = &upload->cuda->plan;
    uint32_t nope = plan->qk_nope_head_dim, v = plan->v_head_dim, rank = plan->kv_lora_rank;
    model_tensor tensor;
    if (eng__up_need(upload->cuda, cu_at_role(at, TENSOR_KV_UP), &tensor, e) != 0) return -1;
    float *block = array_new((size_t)nope * rank, sizeof *block),
          *col = array_new(nope, sizeof *col);
    int rc = block && col ? eng__up_begin(upload, &layer->uk, plan->n_heads, rank, nope, e)
                          : err_set(e, ERR_NO_MEMORY, NULL, "out of memory packing weights");
    for (uint32_t head = 0; rc == 0 && head < plan->n_heads; head++) {
        model_tensor_read(&tensor, (size_t)head * (nope + v) * rank, (size_t)nope * rank, block);
        for (uint32_t j = 0; rc == 0 && j < rank; j++) {
            for (uint32_t i = 0; i < nope; i++)
                col[i] = block[(size_t)i * rank + j];
            rc = eng__up_values(upload, col, nope, e);
        }
        if (rc == 0) rc = eng__up_zeros(upload, cu_round(rank, CU_MM_ROWS) - rank, e);
    }
    free(block);
    free(col);
    if (rc != 0 || eng__up_flush(upload, e) != 0) return -1;
    if (eng__up_begin(upload, &layer->uv, plan->n_heads, v, rank, e) != 0) return -1;
    for (uint32_t head = 0; head < plan->n_heads; head++) {
        for (uint32_t i = 0; i < v; i++) {
            if (eng__up_row(upload, &tensor, (uint64_t)head * (nope + v) + nope + i, 0, rank, e) !=
                0)
                return -1;
        }
        if (eng__up_zeros(upload, cu_round(v, CU_MM_ROWS) - v, e) != 0) return -1;
    }
    return eng__up_flush(upload, e);
}

/* Vectors of all query heads and of all key heads as one, turned like the rows of wq and wk. */
static int upload_turned(cu_backend *cuda, float **out, tensor_place at, tensor_role query,
                         tensor_role key, err *e) {
    const model_plan *plan = &cuda->plan;
    uint32_t n_q = plan_q_width(plan), n = n_q + plan_kv_width(plan);
    model_tensor tensor[2];
    if (eng__up_need(cuda, cu_at_role(at, query), &tensor[0], e) != 0 ||
        eng__up_need(cuda, cu_at_role(at, key), &tensor[1], e) != 0) {
        return -1;
    }
    float *values = array_new(n, sizeof *values);
    if (values == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory packing weights");
    for (uint32_t i = 0; i < n; i++) {
        uint32_t row = plan_rope_row(plan, i < n_q ? i : i - n_q);
        model_tensor_read(&tensor[i >= n_q], row, 1, &values[i]);
    }
    int rc = eng__up_floats(cuda, out, values, n, e);
    free(values);
    return rc;
}

/* The gate of a value embedding is one more row of the product for each key-value head. */
static int upload_gqa(cu_uploader *upload, cu_layer *layer, tensor_place at, bool embeds_values,
                      err *e) {
    static const tensor_role roles[] = {TENSOR_WQ, TENSOR_WK, TENSOR_WV, TENSOR_VALUE_GATE};
    cu_backend *cuda = upload->cuda;
    if (upload_stack(upload, &layer->in, at, roles, embeds_values ? 4 : 3, e) != 0) return -1;
    if (embeds_values && upload_one(upload, &layer->value_table, at, TENSOR_VALUE_TABLE, e) != 0)
        return -1;
    if (cuda->plan.qk_bias &&
        upload_turned(cuda, &layer->qk_bias, at, TENSOR_Q_BIAS, TENSOR_K_BIAS, e) != 0)
        return -1;
    if (cuda->plan.qk_norm != QK_NORM_FULL) return 0;
    return upload_turned(cuda, &layer->qk_norm, at, TENSOR_Q_NORM, TENSOR_K_NORM, e);
}

static int upload_attention(cu_uploader *upload, cu_layer *layer, tensor_place at,
                            bool embeds_values, err *e) {
    static const tensor_role down[] = {TENSOR_Q_DOWN, TENSOR_KV_DOWN};
    static const tensor_role up[] = {TENSOR_Q_UP_NOPE, TENSOR_Q_UP_ROPE};
    if (upload_one(upload, &layer->wo, at, TENSOR_WO, e) != 0) return -1;
    if (upload->cuda->plan.attn == ATTN_GQA) return upload_gqa(upload, layer, at, embeds_values, e);
    if (upload_stack(upload, &layer->in, at, down, 2, e) != 0 ||
        upload_stack(upload, &layer->q_up, at, up, 2, e) != 0 ||
        eng__up_vector(upload->cuda, &layer->q_norm, cu_at_role(at, TENSOR_Q_NORM), e) != 0 ||
        eng__up_vector(upload->cuda, &layer->kv_norm, cu_at_role(at, TENSOR_KV_NORM), e) != 0) {
        return -1;
    }
    return upload_kv_up(upload, layer, at, e);
}

static int upload_ffn(cu_uploader *upload, cu_layer *layer, tensor_place at, ffn_kind ffn, err *e) {
    if (ffn != FFN_MOE) return upload_dense_ffn(upload, layer, at, ffn, e);
    if (upload_one(upload, &layer->router, at, TENSOR_ROUTER, e) != 0 ||
        eng__up_vector(upload->cuda, &layer->router_bias, cu_at_role(at, TENSOR_ROUTER_BIAS), e) !=
            0) {
        return -1;
    }
    return upload_routed(upload, layer, at, e) != 0 ? -1 : upload_shared(upload, layer, at, e);
}

static int upload_norms(cu_backend *cuda, cu_layer *layer, tensor_place at, err *e) {
    const struct {
        float **to;
        tensor_role role;
        bool has;
    } norms[] = {
        {&layer->attn_norm, TENSOR_ATTN_NORM, plan_norms_inputs(&cuda->plan)},
        {&layer->ffn_norm, TENSOR_FFN_NORM, plan_norms_inputs(&cuda->plan)},
        {&layer->attn_out_norm, TENSOR_ATTN_OUT_NORM, plan_norms_outputs(&cuda->plan)},
        {&layer->ffn_out_norm, TENSOR_FFN_OUT_NORM, plan_norms_outputs(&cuda->plan)},
    };
    for (size_t i = 0; i < ARRAY_LEN(norms); i++) {
        if (norms[i].has &&
            eng__up_vector(cuda, norms[i].to, cu_at_role(at, norms[i].role), e) != 0)
            return -1;
    }
    return 0;
}

/* `index`: of the layer over all stages. */
static int upload_layer(cu_uploader *upload, cu_layer *layer, tensor_place at, uint32_t index,
                        ffn_kind ffn, err *e) {
    bool embeds_values = plan_value_embed(&upload->cuda->plan, index);
    if (upload_norms(upload->cuda, layer, at, e) != 0 ||
        upload_attention(upload, layer, at, embeds_values, e) != 0)
        return -1;
    return upload_ffn(upload, layer, at, ffn, e);
}

static int upload_layers(cu_uploader *upload, cu_layer **out, tensor_stage stage, uint32_t n,
                         uint32_t before, ffn_kind ffn, err *e) {
    *out = array_new(n ? n : 1, sizeof **out);
    if (*out == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory");
    for (uint32_t i = 0; i < n; i++) {
        tensor_place at = {.stage = stage, .layer = i};
        if (upload_layer(upload, &(*out)[i], at, before + i, ffn, e) != 0) return -1;
    }
    return 0;
}

/* The decay of the state, worked out once; with DIAGONAL the step on the input too. */
static int upload_decay(cu_backend *cuda, err *e) {
    model_tensor log_a, log_dt;
    if (eng__up_need(cuda, cu_of_model(TENSOR_LOG_A), &log_a, e) != 0 ||
        eng__up_need(cuda, cu_of_model(TENSOR_LOG_DT), &log_dt, e) != 0) {
        return -1;
    }
    uint32_t dim = cuda->plan.dim;
    bool diagonal = cuda->plan.inject == INJECT_DIAGONAL;
    float *decay = array_new(2 * (size_t)dim, sizeof *decay);
    if (decay == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory");
    float *step = decay + dim;
    model_tensor_read(&log_dt, 0, diagonal ? dim : 1, step);
    model_tensor_read(&log_a, 0, dim, decay);
    for (uint32_t i = 0; i < dim; i++) {
        if (diagonal) step[i] = rm_softplus(step[i]);
        decay[i] =
            diagonal ? rm_diagonal_decay(step[i], decay[i]) : rm_lti_decay(step[0], decay[i]);
    }
    int rc = eng__up_floats(cuda, &cuda->inj_a, decay, dim, e);
    if (rc == 0 && diagonal) rc = eng__up_floats(cuda, &cuda->inj_step, step, dim, e);
    free(decay);
    return rc;
}

static int upload_mythos(cu_backend *cuda, err *e) {
    const float none = 0; /* kernels of a model without LoRA take the address of its rows */
    float **const lora[] = {&cuda->lora_down, &cuda->lora_b, &cuda->lora_scale};
    model_tensor scale;
    if (eng__up_vector(cuda, &cuda->inj_b, cu_of_model(TENSOR_INJECT_B), e) != 0) return -1;
    for (size_t i = 0; cuda->plan.lora_rank == 0 && i < ARRAY_LEN(lora); i++) {
        cuda->lora_rows = 1;
        if (eng__up_floats(cuda, lora[i], &none, 1, e) != 0) return -1;
    }
    if (cuda->plan.lora_rank == 0) return 0;
    if (eng__up_need(cuda, cu_of_model(TENSOR_LORA_SCALE), &scale, e) != 0 ||
        eng__up_vector(cuda, &cuda->lora_down, cu_of_model(TENSOR_LORA_DOWN), e) != 0 ||
        eng__up_vector(cuda, &cuda->lora_b, cu_of_model(TENSOR_LORA_B), e) != 0) {
        return -1;
    }
    cuda->lora_rows = (uint32_t)scale.shape[0];
    return eng__up_vector(cuda, &cuda->lora_scale, cu_of_model(TENSOR_LORA_SCALE), e);
}

/* The matrix on [state; input] of LINEAR is two: each loop reads the first alone. */
static int upload_injection(cu_uploader *upload, err *e) {
    cu_backend *cuda = upload->cuda;
    inject_kind inject = cuda->plan.inject;
    uint32_t dim = cuda->plan.dim;
    model_tensor tensor;
    if (inject == INJECT_NONE) return 0;
    if (inject != INJECT_LINEAR && upload_decay(cuda, e) != 0) return -1;
    if (inject == INJECT_MYTHOS) return upload_mythos(cuda, e);
    if (eng__up_need(cuda, cu_of_model(TENSOR_INJECT), &tensor, e) != 0) return -1;
    if (inject == INJECT_DIAGONAL)
        return upload_columns(upload, &cuda->inj_input, &tensor, 0, dim, e);
    if (upload_columns(upload, &cuda->inj_state, &tensor, 0, dim, e) != 0) return -1;
    return upload_columns(upload, &cuda->inj_input, &tensor, dim, dim, e);
}

/* The gate, for the exit rules with one. */
static int upload_gate(cu_backend *cuda, err *e) {
    model_tensor bias;
    if (cuda->opts.exit != EXIT_ACT && cuda->opts.exit != EXIT_HAZARD) return 0;
    if (eng__up_need(cuda, cu_of_model(TENSOR_EXIT_BIAS), &bias, e) != 0) return -1;
    model_tensor_read(&bias, 0, 1, &cuda->halt_bias);
    return eng__up_vector(cuda, &cuda->halt_w, cu_of_model(TENSOR_EXIT_WEIGHT), e);
}

/* Everything between the prelude's layers and the coda's. */
static int upload_loop(cu_uploader *upload, err *e) {
    cu_backend *cuda = upload->cuda;
    const model_plan *plan = &cuda->plan;
    if (upload_injection(upload, e) != 0 || upload_gate(cuda, e) != 0) return -1;
    if (plan->input_norm &&
        eng__up_vector(cuda, &cuda->input_norm, cu_of_model(TENSOR_INPUT_NORM), e) != 0)
        return -1;
    if (plan->coda_in == CODA_IN_LINEAR &&
        upload_one(upload, &cuda->coda_in, cu_of_model(TENSOR_CODA_IN), TENSOR_CODA_IN, e) != 0)
        return -1;
    if (plan->inject != INJECT_MYTHOS && !plan->loop_norm) return 0;
    return eng__up_vector(cuda, &cuda->loop_norm, cu_of_model(TENSOR_LOOP_NORM), e);
}

/* Tables of the rotation [max_positions][pairs][cos, sin] and the loop embedding. */
static int upload_tables(cu_backend *cuda, err *e) {
    uint32_t rot = cuda->plan.attn == ATTN_MLA ? cuda->plan.qk_rope_head_dim : cuda->plan.head_dim;
    size_t n = (size_t)cuda->opts.max_positions * rot, loops = cuda->opts.max_loops;
    float *values = array_new(n, sizeof *values),
          *emb = array_new(loops * cuda->loop_width + 1, sizeof *emb);
    int rc =
        values && emb ? 0 : err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the rotation table");
    for (uint32_t j = 0; rc == 0 && j < rot / 2; j++) {
        double frequency = plan_rope_frequency(&cuda->plan, j);
        for (uint32_t pos = 0; pos < cuda->opts.max_positions; pos++) {
            double angle = pos * frequency;
            values[(size_t)pos * rot + 2 * j] = (float)cos(angle);
            values[(size_t)pos * rot + 2 * j + 1] = (float)sin(angle);
        }
    }
    for (uint32_t loop = 0; rc == 0 && loop < loops; loop++) {
        for (uint32_t i = 0; i < cuda->loop_width; i++) {
            emb[(size_t)loop * cuda->loop_width + i] = rm_loop_embedding(loop, i, cuda->loop_width);
        }
    }
    if (rc == 0) rc = eng__up_floats(cuda, &cuda->rope, values, n, e);
    if (rc == 0) rc = eng__up_floats(cuda, &cuda->loop_emb, emb, loops * cuda->loop_width + 1, e);
    free(values);
    free(emb);
    return rc;
}

/* A head of its own, or this rank's rows of the embedding. */
static int upload_head(cu_uploader *upload, err *e) {
    cu_backend *cuda = upload->cuda;
    model_tensor head;
    if (model_find(cuda->model, cu_of_model(TENSOR_HEAD), &head))
        return upload_own(upload, &cuda->head, &head, e);
    eng_share own = eng__cuda_share(cuda, cuda->embed.n, ENG_RANKS_OUT);
    cuda->head = cuda->embed;
    cuda->head.n = own.last - own.first;
    cuda->head.w =
        (uint8_t *)cuda->embed.w + (size_t)own.first * cuda->embed.ld * cu_act_bytes(cuda);
    return 0;
}

static int upload_all(cu_uploader *upload, err *e) {
    cu_backend *cuda = upload->cuda;
    const model_plan *plan = &cuda->plan;
    if (upload_one(upload, &cuda->embed, cu_of_model(TENSOR_EMBED), TENSOR_EMBED, e) != 0 ||
        upload_head(upload, e) != 0)
        return -1;
    uint32_t before = plan->n_prelude;
    if (upload_layers(upload, &cuda->prelude, PART_OF_PRELUDE, plan->n_prelude, 0, plan->end_ffn,
                      e) != 0 ||
        upload_layers(upload, &cuda->core, PART_OF_CORE, plan->n_core, before, plan->core_ffn, e) !=
            0 ||
        upload_layers(upload, &cuda->coda, PART_OF_CODA, plan->n_coda, before + plan->n_core,
                      plan->end_ffn, e) != 0 ||
        upload_loop(upload, e) != 0 || upload_tables(cuda, e) != 0) {
        return -1;
    }
    if (!plan->final_norm && plan->coda_in != CODA_IN_NORM) return 0;
    return eng__up_vector(cuda, &cuda->final_norm, cu_of_model(TENSOR_FINAL_NORM), e);
}

/* Longest row of any matrix, in values. */
static uint32_t longest_row(const cu_backend *cuda) {
    uint32_t n = cuda->dim_ld, more[] = {cuda->dense_ld,
                                         cuda->groups_shared * cuda->expert_ld,
                                         cuda->o_ld,
                                         cu_round(cuda->plan.q_lora_rank, CU_K_STEP),
                                         cu_round(cuda->plan.kv_lora_rank, CU_K_STEP),
                                         cu_round(cuda->plan.qk_nope_head_dim, CU_K_STEP),
                                         cuda->expert_ld};
    for (size_t i = 0; i < ARRAY_LEN(more); i++)
        n = more[i] > n ? more[i] : n;
    return n;
}

int eng__cuda_upload(cu_backend *cuda, err *e) {
    return eng__up_run(cuda, longest_row(cuda), upload_all, e);
}
