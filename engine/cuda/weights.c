/* weights.c - puts the model's tensors on the device in the layouts the kernels read.
 *
 * Matrices keep the file's row order [out][in], rows padded with zeros to 32 values and their
 * number to 16, so no kernel needs a bound inside a product. Gate and up rows alternate in eights:
 * one lane of a tensor-core tile then holds a gate and its up. */
#include "base/clock.h"
#include "base/log.h"
#include "base/size.h"
#include "engine/cpu/cpu_internal.h"
#include "engine/cuda/cuda_internal.h"
#include "engine/rowmath.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { STAGE_BYTES = 8 << 20, PIECES = 16384, MOST_THREADS = 8, AT_ONCE = 64 };

/* Values next to each other in the file and in a row. */
typedef struct {
    const uint8_t *from;
    uint8_t *to; /* in the stage */
    uint32_t n;
    model_dtype dtype;
} piece;

/* Fills one matrix on the device through a pinned buffer. Rows are only noted at first; when the
 * buffer is full, several threads bring their values into the device's type. */
typedef struct {
    cu_backend *cuda;
    eng__pool *pool;
    uint8_t *stage; /* pinned, STAGE_BYTES or one row */
    size_t cap, used;
    piece *pieces; /* [PIECES] of the stage */
    uint32_t n_pieces;
    uint8_t *to; /* target of the staged bytes */
    uint32_t ld;
    uint64_t done, all, began_ns, said_ns;
} uploader;

static void narrow_all(const float *values, uint32_t n, uint8_t *to) {
    uint16_t bits[AT_ONCE];
    for (uint32_t i = 0; i < AT_ONCE; i++)
        bits[i] = rm_bf16_narrow(values[i]);
    memcpy(to, bits, n * sizeof *bits);
}

static void convert(const piece *part, bool f32) {
    model_tensor tensor = {.data = part->from, .dtype = part->dtype};
    float values[AT_ONCE] = {0};
    if (f32) {
        model_tensor_read(&tensor, 0, part->n, (float *)(void *)part->to);
    } else if (part->dtype == DTYPE_BF16) {
        memcpy(part->to, part->from, (size_t)part->n * 2);
    } else {
        for (uint32_t i = 0; i < part->n; i += AT_ONCE) {
            uint32_t n = part->n - i < AT_ONCE ? part->n - i : AT_ONCE;
            model_tensor_read(&tensor, i, n, values);
            narrow_all(values, n, part->to + (size_t)i * 2);
        }
    }
}

static void convert_some(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    const uploader *upload = arg;
    (void)worker;
    for (uint32_t i = first; i < last; i++)
        convert(&upload->pieces[i], upload->cuda->f32);
}

static int flush(uploader *upload, err *e) {
    if (upload->used == 0) return 0;
    eng__pool_run(upload->pool, convert_some, upload, upload->n_pieces, 8);
    upload->n_pieces = 0;
    if (eng__cuda_check(upload->cuda,
                        cudaMemcpy(upload->to, upload->stage, upload->used, cudaMemcpyHostToDevice),
                        "copying weights", e) != 0) {
        return -1;
    }
    upload->to += upload->used;
    upload->done += upload->used;
    upload->used = 0;
    uint64_t now = clock_ns();
    if (now - upload->began_ns > 1000000000u && now - upload->said_ns > 1000000000u) {
        upload->said_ns = now;
        log_line(LOG_INFO, "weights to the device: %.1f of %.1f GB", (double)upload->done * 1e-9,
                 (double)upload->all * 1e-9);
    }
    return 0;
}

/* Space for one row of `pieces` pieces, with zeros beyond its first n values. NULL after an error.
 */
static uint8_t *next_row(uploader *upload, uint32_t n, uint32_t pieces, err *e) {
    size_t bytes = (size_t)upload->ld * cu_act_bytes(upload->cuda),
           filled = (size_t)n * cu_act_bytes(upload->cuda);
    bool full = upload->used + bytes > upload->cap || upload->n_pieces + pieces > PIECES;
    if (full && flush(upload, e) != 0) return NULL;
    uint8_t *at = upload->stage + upload->used;
    memset(at + filled, 0, bytes - filled);
    upload->used += bytes;
    return at;
}

static void put_piece(uploader *upload, uint8_t *to, const model_tensor *tensor, size_t first,
                      uint32_t n) {
    const uint8_t *from = (const uint8_t *)tensor->data + first * model_dtype_bytes(tensor->dtype);
    upload->pieces[upload->n_pieces++] =
        (piece){.from = from, .to = to, .n = n, .dtype = tensor->dtype};
}

static int put_floats(uploader *upload, const float *values, uint32_t n, err *e) {
    uint8_t *at = next_row(upload, n, 0, e);
    if (at == NULL) return -1;
    for (uint32_t i = 0; i < n; i++) {
        uint16_t bits = rm_bf16_narrow(values[i]);
        if (upload->cuda->f32) memcpy(at + 4 * (size_t)i, &values[i], 4);
        else memcpy(at + 2 * (size_t)i, &bits, 2);
    }
    return 0;
}

/* n values of `tensor` from column col of `row`; rows have as many values as the tensor's last
 * axis. */
static int put_row(uploader *upload, const model_tensor *tensor, uint64_t row, uint64_t col,
                   uint32_t n, err *e) {
    uint8_t *at = next_row(upload, n, 1, e);
    if (at == NULL) return -1;
    put_piece(upload, at, tensor, (size_t)(row * tensor->shape[1] + col), n);
    return 0;
}

static int put_zeros(uploader *upload, uint32_t rows, err *e) {
    for (uint32_t i = 0; i < rows; i++) {
        if (next_row(upload, 0, 0, e) == NULL) return -1;
    }
    return 0;
}

/* A set of `count` matrices [n][k]; uploads start at its first row. */
static int mat_begin(uploader *upload, cu_mat *mat, uint32_t count, uint32_t n, uint32_t k,
                     err *e) {
    mat->n = n;
    mat->k = cu_round(k, CU_K_STEP);
    mat->ld = mat->k;
    mat->group = (uint64_t)cu_round(n, CU_MM_ROWS) * mat->ld;
    size_t values;
    if (!size_mul((size_t)mat->group, count, &values)) {
        return err_set(e, ERR_NO_MEMORY, NULL, "a weight matrix is larger than memory can be");
    }
    if (eng__cuda_alloc(upload->cuda, &mat->w, values, cu_act_bytes(upload->cuda), "weights", e) !=
        0)
        return -1;
    upload->cuda->weight_bytes += values * cu_act_bytes(upload->cuda);
    upload->to = mat->w;
    upload->ld = mat->ld;
    return 0;
}

static tensor_place at_role(tensor_place at, tensor_role role) {
    at.role = role;
    return at;
}

static tensor_place of_model(tensor_role role) {
    return (tensor_place){.role = role};
}

static int need(const cu_backend *cuda, tensor_place at, model_tensor *tensor, err *e) {
    if (model_find(cuda->model, at, tensor)) return 0;
    return err_set(e, ERR_BAD_FILE, NULL, "the model has no tensor %s",
                   model_tensor_name(cuda->model, at));
}

/* Float32 values on the device, whatever the mode. */
static int upload_floats(cu_backend *cuda, float **out, const float *values, size_t n, err *e) {
    if (eng__cuda_alloc(cuda, out, n, sizeof(float), "weights", e) != 0) return -1;
    cuda->weight_bytes += n * sizeof(float);
    return eng__cuda_check(cuda,
                           cudaMemcpy(*out, values, n * sizeof(float), cudaMemcpyHostToDevice),
                           "copying weights", e);
}

static int upload_vector(cu_backend *cuda, float **out, tensor_place at, err *e) {
    model_tensor tensor;
    if (need(cuda, at, &tensor, e) != 0) return -1;
    float *values = array_new(tensor.n_values, sizeof *values);
    if (values == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory packing weights");
    model_tensor_read(&tensor, 0, tensor.n_values, values);
    int rc = upload_floats(cuda, out, values, tensor.n_values, e);
    free(values);
    return rc;
}

/* The kernels turn neighbours: rows of queries and keys move if the file pairs halves. */
static uint64_t file_row(const model_plan *plan, tensor_role role, uint64_t row) {
    bool turns = plan->attn == ATTN_GQA && (role == TENSOR_WQ || role == TENSOR_WK);
    return turns ? plan_rope_row(plan, (uint32_t)row) : row;
}

/* Several tensors [n_i][k], one above the other. */
static int upload_stack(uploader *upload, cu_mat *mat, tensor_place at, const tensor_role *roles,
                        uint32_t count, err *e) {
    model_tensor tensor[3] = {0};
    uint64_t rows = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (need(upload->cuda, at_role(at, roles[i]), &tensor[i], e) != 0) return -1;
        rows += tensor[i].shape[0];
    }
    uint32_t n = (uint32_t)rows, k = (uint32_t)tensor[0].shape[1];
    if (mat_begin(upload, mat, 1, n, k, e) != 0) return -1;
    for (uint32_t i = 0; i < count; i++) {
        for (uint64_t row = 0; row < tensor[i].shape[0]; row++) {
            if (put_row(upload, &tensor[i], file_row(&upload->cuda->plan, roles[i], row), 0, k,
                        e) != 0)
                return -1;
        }
    }
    if (put_zeros(upload, cu_round(n, CU_MM_ROWS) - n, e) != 0) return -1;
    return flush(upload, e);
}

static int upload_one(uploader *upload, cu_mat *mat, tensor_place at, tensor_role role, err *e) {
    return upload_stack(upload, mat, at, &role, 1, e);
}

/* gate rows [first, first + n) and the same of up, 8 and 8 in turn, zeros up to `padded`. */
static int put_gate_up(uploader *upload, const model_tensor *gate, const model_tensor *up,
                       uint32_t first, uint32_t n, uint32_t padded, uint32_t k, err *e) {
    for (uint32_t i = 0; i < padded; i += 8) {
        for (uint32_t side = 0; side < 2; side++) {
            for (uint32_t j = i; j < i + 8; j++) {
                int rc = j < n ? put_row(upload, side ? up : gate, first + j, 0, k, e)
                               : put_zeros(upload, 1, e);
                if (rc != 0) return -1;
            }
        }
    }
    return 0;
}

static int upload_dense_ffn(uploader *upload, cu_layer *layer, tensor_place at, err *e) {
    const cu_backend *cuda = upload->cuda;
    model_tensor gate, up, down;
    if (need(cuda, at_role(at, TENSOR_GATE), &gate, e) != 0 ||
        need(cuda, at_role(at, TENSOR_UP), &up, e) != 0 ||
        need(cuda, at_role(at, TENSOR_DOWN), &down, e) != 0) {
        return -1;
    }
    uint32_t hidden = cuda->plan.ffn_dim, padded = cu_round(hidden, CU_K_STEP),
             dim = cuda->plan.dim;
    if (mat_begin(upload, &layer->gate_up, 1, 2 * padded, dim, e) != 0 ||
        put_gate_up(upload, &gate, &up, 0, hidden, padded, dim, e) != 0 || flush(upload, e) != 0) {
        return -1;
    }
    if (mat_begin(upload, &layer->down, 1, dim, hidden, e) != 0) return -1;
    for (uint32_t row = 0; row < dim; row++) {
        if (put_row(upload, &down, row, 0, hidden, e) != 0) return -1;
    }
    if (put_zeros(upload, cu_round(dim, CU_MM_ROWS) - dim, e) != 0) return -1;
    return flush(upload, e);
}

/* gate, up and down of expert `index`; `first` is the role of the gate, the others follow it. */
static int expert_tensors(const cu_backend *cuda, tensor_place at, tensor_role first,
                          uint32_t index, model_tensor tensor[3], err *e) {
    at.index = index;
    for (int i = 0; i < 3; i++) {
        if (need(cuda, at_role(at, (tensor_role)((int)first + i)), &tensor[i], e) != 0) return -1;
    }
    return 0;
}

static int upload_routed(uploader *upload, cu_layer *layer, tensor_place at, err *e) {
    const model_plan *plan = &upload->cuda->plan;
    uint32_t padded = cu_round(plan->expert_dim, CU_K_STEP);
    model_tensor tensor[3];
    if (mat_begin(upload, &layer->gate_up, plan->n_experts, 2 * padded, plan->dim, e) != 0)
        return -1;
    for (uint32_t j = 0; j < plan->n_experts; j++) {
        if (expert_tensors(upload->cuda, at, TENSOR_EXPERT_GATE, j, tensor, e) != 0 ||
            put_gate_up(upload, &tensor[0], &tensor[1], 0, plan->expert_dim, padded, plan->dim,
                        e) != 0) {
            return -1;
        }
    }
    if (flush(upload, e) != 0) return -1;
    if (mat_begin(upload, &layer->down, plan->n_experts, plan->dim, plan->expert_dim, e) != 0)
        return -1;
    for (uint32_t j = 0; j < plan->n_experts; j++) {
        if (expert_tensors(upload->cuda, at, TENSOR_EXPERT_GATE, j, tensor, e) != 0) return -1;
        for (uint32_t row = 0; row < plan->dim; row++) {
            if (put_row(upload, &tensor[2], row, 0, plan->expert_dim, e) != 0) return -1;
        }
        if (put_zeros(upload, cu_round(plan->dim, CU_MM_ROWS) - plan->dim, e) != 0) return -1;
    }
    return flush(upload, e);
}

/* A shared expert's down as columns of one matrix: row r holds row r of every group. */
static int put_shared_down(uploader *upload, const model_tensor *down, uint32_t padded, err *e) {
    const model_plan *plan = &upload->cuda->plan;
    uint32_t per = plan->n_experts_per_tok, groups = upload->cuda->groups_shared;
    for (uint32_t row = 0; row < plan->dim; row++) {
        uint8_t *at = next_row(upload, 0, groups, e);
        if (at == NULL) return -1;
        for (uint32_t group = 0; group < groups; group++) {
            const model_tensor *tensor = &down[group / per];
            size_t first =
                (size_t)row * tensor->shape[1] + (size_t)(group % per) * plan->expert_dim;
            put_piece(upload, at + (size_t)group * padded * cu_act_bytes(upload->cuda), tensor,
                      first, plan->expert_dim);
        }
    }
    return put_zeros(upload, cu_round(plan->dim, CU_MM_ROWS) - plan->dim, e);
}

/* A shared expert of hidden expert_dim * top_k is top_k groups of hidden expert_dim: the MoE is
 * uniform. down is [D][groups * expert_ld], so it also serves as one matrix. */
static int upload_shared(uploader *upload, cu_layer *layer, tensor_place at, err *e) {
    const model_plan *plan = &upload->cuda->plan;
    uint32_t padded = cu_round(plan->expert_dim, CU_K_STEP), groups = upload->cuda->groups_shared;
    uint32_t per = plan->n_experts_per_tok;
    if (groups == 0) return 0;
    model_tensor tensor[3], *down = array_new(plan->n_shared_experts, sizeof *down);
    if (down == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory packing weights");
    int rc = mat_begin(upload, &layer->shared_gate_up, groups, 2 * padded, plan->dim, e);
    for (uint32_t group = 0; rc == 0 && group < groups; group++) {
        rc = expert_tensors(upload->cuda, at, TENSOR_SHARED_GATE, group / per, tensor, e);
        down[group / per] = tensor[2];
        if (rc == 0)
            rc = put_gate_up(upload, &tensor[0], &tensor[1], group % per * plan->expert_dim,
                             plan->expert_dim, padded, plan->dim, e);
    }
    if (rc == 0) rc = flush(upload, e);
    if (rc == 0) rc = mat_begin(upload, &layer->shared_down, 1, plan->dim, groups * padded, e);
    if (rc == 0) rc = put_shared_down(upload, down, padded, e);
    if (rc == 0) rc = flush(upload, e);
    layer->shared_down.group = padded; /* group g reads columns from g * padded on */
    free(down);
    return rc;
}

/* kv_up [H * (nope + v)][rank] as two sets: uk[h] = its nope rows transposed, uv[h] = its v rows.
 */
static int upload_kv_up(uploader *upload, cu_layer *layer, tensor_place at, err *e) {
    const model_plan *plan = &upload->cuda->plan;
    uint32_t nope = plan->qk_nope_head_dim, v = plan->v_head_dim, rank = plan->kv_lora_rank;
    model_tensor tensor;
    if (need(upload->cuda, at_role(at, TENSOR_KV_UP), &tensor, e) != 0) return -1;
    float *block = array_new((size_t)nope * rank, sizeof *block),
          *col = array_new(nope, sizeof *col);
    int rc = block && col ? mat_begin(upload, &layer->uk, plan->n_heads, rank, nope, e)
                          : err_set(e, ERR_NO_MEMORY, NULL, "out of memory packing weights");
    for (uint32_t head = 0; rc == 0 && head < plan->n_heads; head++) {
        model_tensor_read(&tensor, (size_t)head * (nope + v) * rank, (size_t)nope * rank, block);
        for (uint32_t j = 0; rc == 0 && j < rank; j++) {
            for (uint32_t i = 0; i < nope; i++)
                col[i] = block[(size_t)i * rank + j];
            rc = put_floats(upload, col, nope, e);
        }
        if (rc == 0) rc = put_zeros(upload, cu_round(rank, CU_MM_ROWS) - rank, e);
    }
    free(block);
    free(col);
    if (rc != 0 || flush(upload, e) != 0) return -1;
    if (mat_begin(upload, &layer->uv, plan->n_heads, v, rank, e) != 0) return -1;
    for (uint32_t head = 0; head < plan->n_heads; head++) {
        for (uint32_t i = 0; i < v; i++) {
            if (put_row(upload, &tensor, (uint64_t)head * (nope + v) + nope + i, 0, rank, e) != 0)
                return -1;
        }
        if (put_zeros(upload, cu_round(v, CU_MM_ROWS) - v, e) != 0) return -1;
    }
    return flush(upload, e);
}

static int upload_attention(uploader *upload, cu_layer *layer, tensor_place at, err *e) {
    static const tensor_role down[] = {TENSOR_Q_DOWN, TENSOR_KV_DOWN};
    static const tensor_role up[] = {TENSOR_Q_UP_NOPE, TENSOR_Q_UP_ROPE};
    static const tensor_role gqa[] = {TENSOR_WQ, TENSOR_WK, TENSOR_WV};
    if (upload_one(upload, &layer->wo, at, TENSOR_WO, e) != 0) return -1;
    if (upload->cuda->plan.attn == ATTN_GQA) return upload_stack(upload, &layer->in, at, gqa, 3, e);
    if (upload_stack(upload, &layer->in, at, down, 2, e) != 0 ||
        upload_stack(upload, &layer->q_up, at, up, 2, e) != 0 ||
        upload_vector(upload->cuda, &layer->q_norm, at_role(at, TENSOR_Q_NORM), e) != 0 ||
        upload_vector(upload->cuda, &layer->kv_norm, at_role(at, TENSOR_KV_NORM), e) != 0) {
        return -1;
    }
    return upload_kv_up(upload, layer, at, e);
}

static int upload_ffn(uploader *upload, cu_layer *layer, tensor_place at, ffn_kind ffn, err *e) {
    if (ffn != FFN_MOE) return upload_dense_ffn(upload, layer, at, e);
    if (upload_one(upload, &layer->router, at, TENSOR_ROUTER, e) != 0 ||
        upload_vector(upload->cuda, &layer->router_bias, at_role(at, TENSOR_ROUTER_BIAS), e) != 0) {
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
        {&layer->attn_norm, TENSOR_ATTN_NORM, true},
        {&layer->ffn_norm, TENSOR_FFN_NORM, true},
        {&layer->attn_out_norm, TENSOR_ATTN_OUT_NORM, cuda->plan.norms == NORM_SANDWICH},
        {&layer->ffn_out_norm, TENSOR_FFN_OUT_NORM, cuda->plan.norms == NORM_SANDWICH},
    };
    for (size_t i = 0; i < ARRAY_LEN(norms); i++) {
        if (norms[i].has && upload_vector(cuda, norms[i].to, at_role(at, norms[i].role), e) != 0)
            return -1;
    }
    return 0;
}

static int upload_layer(uploader *upload, cu_layer *layer, tensor_place at, ffn_kind ffn, err *e) {
    if (upload_norms(upload->cuda, layer, at, e) != 0 ||
        upload_attention(upload, layer, at, e) != 0)
        return -1;
    return upload_ffn(upload, layer, at, ffn, e);
}

static int upload_layers(uploader *upload, cu_layer **out, tensor_stage stage, uint32_t n,
                         ffn_kind ffn, err *e) {
    *out = array_new(n ? n : 1, sizeof **out);
    if (*out == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory");
    for (uint32_t i = 0; i < n; i++) {
        tensor_place at = {.stage = stage, .layer = i};
        if (upload_layer(upload, &(*out)[i], at, ffn, e) != 0) return -1;
    }
    return 0;
}

/* The injection's decay, worked out once. */
static int upload_decay(cu_backend *cuda, err *e) {
    model_tensor log_a, log_dt;
    if (need(cuda, of_model(TENSOR_LOG_A), &log_a, e) != 0 ||
        need(cuda, of_model(TENSOR_LOG_DT), &log_dt, e) != 0) {
        return -1;
    }
    float *decay = array_new(cuda->plan.dim, sizeof *decay), dt[1];
    if (decay == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory");
    model_tensor_read(&log_dt, 0, 1, dt);
    model_tensor_read(&log_a, 0, cuda->plan.dim, decay);
    for (uint32_t i = 0; i < cuda->plan.dim; i++)
        decay[i] = rm_lti_decay(dt[0], decay[i]);
    int rc = upload_floats(cuda, &cuda->inj_a, decay, cuda->plan.dim, e);
    free(decay);
    return rc;
}

static int upload_injection(cu_backend *cuda, err *e) {
    model_tensor scale;
    if (cuda->plan.inject != INJECT_MYTHOS) return 0;
    if (need(cuda, of_model(TENSOR_LORA_SCALE), &scale, e) != 0 || upload_decay(cuda, e) != 0)
        return -1;
    cuda->lora_rows = (uint32_t)scale.shape[0];
    if (upload_vector(cuda, &cuda->inj_b, of_model(TENSOR_INJECT_B), e) != 0 ||
        upload_vector(cuda, &cuda->lora_down, of_model(TENSOR_LORA_DOWN), e) != 0 ||
        upload_vector(cuda, &cuda->lora_b, of_model(TENSOR_LORA_B), e) != 0) {
        return -1;
    }
    return upload_vector(cuda, &cuda->lora_scale, of_model(TENSOR_LORA_SCALE), e);
}

/* The gate, for the exit rules with one. */
static int upload_gate(cu_backend *cuda, err *e) {
    model_tensor bias;
    if (cuda->opts.exit != EXIT_ACT && cuda->opts.exit != EXIT_HAZARD) return 0;
    if (need(cuda, of_model(TENSOR_EXIT_BIAS), &bias, e) != 0) return -1;
    model_tensor_read(&bias, 0, 1, &cuda->halt_bias);
    return upload_vector(cuda, &cuda->halt_w, of_model(TENSOR_EXIT_WEIGHT), e);
}

static int upload_loop(cu_backend *cuda, err *e) {
    if (upload_injection(cuda, e) != 0 || upload_gate(cuda, e) != 0) return -1;
    if (cuda->plan.inject != INJECT_MYTHOS && !cuda->plan.loop_norm) return 0;
    return upload_vector(cuda, &cuda->loop_norm, of_model(TENSOR_LOOP_NORM), e);
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
        float frequency = rm_rope_frequency(cuda->plan.rope_theta, j, rot);
        for (uint32_t pos = 0; pos < cuda->opts.max_positions; pos++) {
            double angle = (double)((float)pos * frequency);
            values[(size_t)pos * rot + 2 * j] = (float)cos(angle);
            values[(size_t)pos * rot + 2 * j + 1] = (float)sin(angle);
        }
    }
    for (uint32_t loop = 0; rc == 0 && loop < loops; loop++) {
        for (uint32_t i = 0; i < cuda->loop_width; i++) {
            emb[(size_t)loop * cuda->loop_width + i] = rm_loop_embedding(loop, i, cuda->loop_width);
        }
    }
    if (rc == 0) rc = upload_floats(cuda, &cuda->rope, values, n, e);
    if (rc == 0) rc = upload_floats(cuda, &cuda->loop_emb, emb, loops * cuda->loop_width + 1, e);
    free(values);
    free(emb);
    return rc;
}

static int upload_all(uploader *upload, err *e) {
    cu_backend *cuda = upload->cuda;
    const model_plan *plan = &cuda->plan;
    model_tensor head;
    if (upload_one(upload, &cuda->embed, of_model(TENSOR_EMBED), TENSOR_EMBED, e) != 0) return -1;
    cuda->head = cuda->embed;
    if (model_find(cuda->model, of_model(TENSOR_HEAD), &head) &&
        upload_one(upload, &cuda->head, of_model(TENSOR_HEAD), TENSOR_HEAD, e) != 0) {
        return -1;
    }
    if (upload_layers(upload, &cuda->prelude, PART_OF_PRELUDE, plan->n_prelude, plan->end_ffn, e) !=
            0 ||
        upload_layers(upload, &cuda->coda, PART_OF_CODA, plan->n_coda, plan->end_ffn, e) != 0 ||
        upload_layers(upload, &cuda->core, PART_OF_CORE, plan->n_core, plan->core_ffn, e) != 0 ||
        upload_loop(cuda, e) != 0 || upload_tables(cuda, e) != 0) {
        return -1;
    }
    if (!plan->final_norm) return 0; /* the head reads the output of the last loop or layer */
    return upload_vector(cuda, &cuda->final_norm, of_model(TENSOR_FINAL_NORM), e);
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
    uploader upload = {.cuda = cuda, .all = model_bytes(cuda->model), .began_ns = clock_ns()};
    size_t row = (size_t)longest_row(cuda) * sizeof(float);
    uint32_t threads = eng__threads_here();
    upload.cap = row > STAGE_BYTES ? row : STAGE_BYTES;
    if (eng__pool_create(&upload.pool, threads < MOST_THREADS ? threads : MOST_THREADS, e) != 0)
        return -1;
    upload.pieces = array_new(PIECES, sizeof *upload.pieces);
    int rc = upload.pieces ? 0 : err_set(e, ERR_NO_MEMORY, NULL, "out of memory packing weights");
    if (rc == 0)
        rc = eng__cuda_check(cuda, cudaMallocHost((void **)&upload.stage, upload.cap),
                             "pinning memory", e);
    if (rc == 0) rc = upload_all(&upload, e);
    if (upload.stage) (void)cudaFreeHost(upload.stage);
    free(upload.pieces);
    eng__pool_destroy(upload.pool);
    return rc;
}
