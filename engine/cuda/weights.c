/* weights.c - puts the model's tensors on the device in the layouts the kernels read.
 *
 * Matrices keep the file's row order [out][in], rows padded with zeros to 32 values and
 * their number to 16, so that no kernel needs a bound inside a product. Gate and up rows
 * alternate in eights: one lane of a tensor-core tile then holds a gate and its up. */
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

/* Values that stand together in the file and in a row. */
typedef struct {
    const uint8_t *from;
    uint8_t *to; /* in the stage */
    uint32_t n;
    model_dtype dtype;
} piece;

/* Fills one matrix on the device through a pinned buffer. Rows are only noted at first; when the
 * buffer is full, several threads bring their values into the device's type. */
typedef struct {
    cu_backend *b;
    eng__pool *pool;
    uint8_t *stage; /* pinned, STAGE_BYTES or one row */
    size_t cap, used;
    piece *pieces; /* [PIECES] of the stage */
    uint32_t n_pieces;
    uint8_t *to; /* where the staged bytes go */
    uint32_t ld;
    uint64_t done, all, began_ns, said_ns;
} uploader;

static void narrow_all(const float *v, uint32_t n, uint8_t *to) {
    uint16_t bits[AT_ONCE];
    for (uint32_t i = 0; i < AT_ONCE; i++)
        bits[i] = rm_bf16_narrow(v[i]);
    memcpy(to, bits, n * sizeof *bits);
}

static void convert(const piece *p, bool f32) {
    model_tensor t = {.data = p->from, .dtype = p->dtype};
    float v[AT_ONCE] = {0};
    if (f32) {
        model_tensor_read(&t, 0, p->n, (float *)(void *)p->to);
    } else if (p->dtype == DTYPE_BF16) {
        memcpy(p->to, p->from, (size_t)p->n * 2);
    } else {
        for (uint32_t i = 0; i < p->n; i += AT_ONCE) {
            uint32_t n = p->n - i < AT_ONCE ? p->n - i : AT_ONCE;
            model_tensor_read(&t, i, n, v);
            narrow_all(v, n, p->to + (size_t)i * 2);
        }
    }
}

static void convert_some(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    const uploader *u = arg;
    (void)worker;
    for (uint32_t i = first; i < last; i++)
        convert(&u->pieces[i], u->b->f32);
}

static int flush(uploader *u, err *e) {
    if (u->used == 0) return 0;
    eng__pool_run(u->pool, convert_some, u, u->n_pieces, 8);
    u->n_pieces = 0;
    if (eng__cuda_check(u->b, cudaMemcpy(u->to, u->stage, u->used, cudaMemcpyHostToDevice),
                        "copying weights", e) != 0) {
        return -1;
    }
    u->to += u->used;
    u->done += u->used;
    u->used = 0;
    uint64_t now = clock_ns();
    if (now - u->began_ns > 1000000000u && now - u->said_ns > 1000000000u) {
        u->said_ns = now;
        log_line(LOG_INFO, "weights to the device: %.1f of %.1f GB", (double)u->done * 1e-9,
                 (double)u->all * 1e-9);
    }
    return 0;
}

/* Space for one row of `pieces` pieces; what lies beyond its first n values is zeros. NULL after
 * an error. */
static uint8_t *next_row(uploader *u, uint32_t n, uint32_t pieces, err *e) {
    size_t bytes = (size_t)u->ld * cu_act_bytes(u->b), filled = (size_t)n * cu_act_bytes(u->b);
    bool full = u->used + bytes > u->cap || u->n_pieces + pieces > PIECES;
    if (full && flush(u, e) != 0) return NULL;
    uint8_t *at = u->stage + u->used;
    memset(at + filled, 0, bytes - filled);
    u->used += bytes;
    return at;
}

static void put_piece(uploader *u, uint8_t *to, const model_tensor *t, size_t first, uint32_t n) {
    const uint8_t *from = (const uint8_t *)t->data + first * model_dtype_bytes(t->dtype);
    u->pieces[u->n_pieces++] = (piece){.from = from, .to = to, .n = n, .dtype = t->dtype};
}

static int put_floats(uploader *u, const float *v, uint32_t n, err *e) {
    uint8_t *at = next_row(u, n, 0, e);
    if (at == NULL) return -1;
    for (uint32_t i = 0; i < n; i++) {
        uint16_t bits = rm_bf16_narrow(v[i]);
        if (u->b->f32) memcpy(at + 4 * (size_t)i, &v[i], 4);
        else memcpy(at + 2 * (size_t)i, &bits, 2);
    }
    return 0;
}

/* n values of t from column col of row r; rows have as many values as the tensor's last axis. */
static int put_row(uploader *u, const model_tensor *t, uint64_t r, uint64_t col, uint32_t n,
                   err *e) {
    uint8_t *at = next_row(u, n, 1, e);
    if (at == NULL) return -1;
    put_piece(u, at, t, (size_t)(r * t->shape[1] + col), n);
    return 0;
}

static int put_zeros(uploader *u, uint32_t rows, err *e) {
    for (uint32_t i = 0; i < rows; i++) {
        if (next_row(u, 0, 0, e) == NULL) return -1;
    }
    return 0;
}

/* A set of `count` matrices [n][k]; uploads start at its first row. */
static int mat_begin(uploader *u, cu_mat *m, uint32_t count, uint32_t n, uint32_t k, err *e) {
    m->n = n;
    m->k = cu_round(k, CU_K_STEP);
    m->ld = m->k;
    m->group = (uint64_t)cu_round(n, CU_MM_ROWS) * m->ld;
    size_t values;
    if (!size_mul((size_t)m->group, count, &values)) {
        return err_set(e, ERR_NO_MEMORY, NULL, "a weight matrix is larger than memory can be");
    }
    if (eng__cuda_alloc(u->b, &m->w, values, cu_act_bytes(u->b), "weights", e) != 0) return -1;
    u->b->weight_bytes += values * cu_act_bytes(u->b);
    u->to = m->w;
    u->ld = m->ld;
    return 0;
}

static tensor_place at_role(tensor_place at, tensor_role role) {
    at.role = role;
    return at;
}

static tensor_place of_model(tensor_role role) {
    return (tensor_place){.role = role};
}

static int need(const cu_backend *b, tensor_place at, model_tensor *t, err *e) {
    if (model_find(b->model, at, t)) return 0;
    return err_set(e, ERR_BAD_FILE, NULL, "the model has no tensor %s",
                   model_tensor_name(b->model, at));
}

/* Float32 values on the device, whatever the mode. */
static int upload_floats(cu_backend *b, float **out, const float *v, size_t n, err *e) {
    if (eng__cuda_alloc(b, out, n, sizeof(float), "weights", e) != 0) return -1;
    b->weight_bytes += n * sizeof(float);
    return eng__cuda_check(b, cudaMemcpy(*out, v, n * sizeof(float), cudaMemcpyHostToDevice),
                           "copying weights", e);
}

static int upload_vector(cu_backend *b, float **out, tensor_place at, err *e) {
    model_tensor t;
    if (need(b, at, &t, e) != 0) return -1;
    float *v = array_new(t.n_values, sizeof *v);
    if (v == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory packing weights");
    model_tensor_read(&t, 0, t.n_values, v);
    int rc = upload_floats(b, out, v, t.n_values, e);
    free(v);
    return rc;
}

/* The kernels turn neighbours: rows of queries and keys move where the file pairs halves. */
static uint64_t file_row(const model_plan *p, tensor_role role, uint64_t row) {
    bool turns = p->attn == ATTN_GQA && (role == TENSOR_WQ || role == TENSOR_WK);
    return turns ? plan_rope_row(p, (uint32_t)row) : row;
}

/* Several tensors [n_i][k], one above the other. */
static int upload_stack(uploader *u, cu_mat *m, tensor_place at, const tensor_role *roles,
                        uint32_t count, err *e) {
    model_tensor t[3] = {0};
    uint64_t rows = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (need(u->b, at_role(at, roles[i]), &t[i], e) != 0) return -1;
        rows += t[i].shape[0];
    }
    uint32_t n = (uint32_t)rows, k = (uint32_t)t[0].shape[1];
    if (mat_begin(u, m, 1, n, k, e) != 0) return -1;
    for (uint32_t i = 0; i < count; i++) {
        for (uint64_t r = 0; r < t[i].shape[0]; r++) {
            if (put_row(u, &t[i], file_row(&u->b->plan, roles[i], r), 0, k, e) != 0) return -1;
        }
    }
    if (put_zeros(u, cu_round(n, CU_MM_ROWS) - n, e) != 0) return -1;
    return flush(u, e);
}

static int upload_one(uploader *u, cu_mat *m, tensor_place at, tensor_role role, err *e) {
    return upload_stack(u, m, at, &role, 1, e);
}

/* gate rows [first, first + n) and the same of up, 8 and 8 in turn, zeros up to `padded`. */
static int put_gate_up(uploader *u, const model_tensor *gate, const model_tensor *up,
                       uint32_t first, uint32_t n, uint32_t padded, uint32_t k, err *e) {
    for (uint32_t i = 0; i < padded; i += 8) {
        for (uint32_t side = 0; side < 2; side++) {
            for (uint32_t j = i; j < i + 8; j++) {
                int rc =
                    j < n ? put_row(u, side ? up : gate, first + j, 0, k, e) : put_zeros(u, 1, e);
                if (rc != 0) return -1;
            }
        }
    }
    return 0;
}

static int upload_dense_ffn(uploader *u, cu_layer *l, tensor_place at, err *e) {
    const cu_backend *b = u->b;
    model_tensor gate, up, down;
    if (need(b, at_role(at, TENSOR_GATE), &gate, e) != 0 ||
        need(b, at_role(at, TENSOR_UP), &up, e) != 0 ||
        need(b, at_role(at, TENSOR_DOWN), &down, e) != 0) {
        return -1;
    }
    uint32_t hidden = b->plan.ffn_dim, padded = cu_round(hidden, CU_K_STEP), d = b->plan.dim;
    if (mat_begin(u, &l->gate_up, 1, 2 * padded, d, e) != 0 ||
        put_gate_up(u, &gate, &up, 0, hidden, padded, d, e) != 0 || flush(u, e) != 0) {
        return -1;
    }
    if (mat_begin(u, &l->down, 1, d, hidden, e) != 0) return -1;
    for (uint32_t r = 0; r < d; r++) {
        if (put_row(u, &down, r, 0, hidden, e) != 0) return -1;
    }
    if (put_zeros(u, cu_round(d, CU_MM_ROWS) - d, e) != 0) return -1;
    return flush(u, e);
}

/* gate, up and down of expert `index`; `first` is the role of the gate, the others follow it. */
static int expert_tensors(const cu_backend *b, tensor_place at, tensor_role first, uint32_t index,
                          model_tensor t[3], err *e) {
    at.index = index;
    for (int i = 0; i < 3; i++) {
        if (need(b, at_role(at, (tensor_role)((int)first + i)), &t[i], e) != 0) return -1;
    }
    return 0;
}

static int upload_routed(uploader *u, cu_layer *l, tensor_place at, err *e) {
    const model_plan *c = &u->b->plan;
    uint32_t padded = cu_round(c->expert_dim, CU_K_STEP);
    model_tensor t[3];
    if (mat_begin(u, &l->gate_up, c->n_experts, 2 * padded, c->dim, e) != 0) return -1;
    for (uint32_t j = 0; j < c->n_experts; j++) {
        if (expert_tensors(u->b, at, TENSOR_EXPERT_GATE, j, t, e) != 0 ||
            put_gate_up(u, &t[0], &t[1], 0, c->expert_dim, padded, c->dim, e) != 0) {
            return -1;
        }
    }
    if (flush(u, e) != 0) return -1;
    if (mat_begin(u, &l->down, c->n_experts, c->dim, c->expert_dim, e) != 0) return -1;
    for (uint32_t j = 0; j < c->n_experts; j++) {
        if (expert_tensors(u->b, at, TENSOR_EXPERT_GATE, j, t, e) != 0) return -1;
        for (uint32_t r = 0; r < c->dim; r++) {
            if (put_row(u, &t[2], r, 0, c->expert_dim, e) != 0) return -1;
        }
        if (put_zeros(u, cu_round(c->dim, CU_MM_ROWS) - c->dim, e) != 0) return -1;
    }
    return flush(u, e);
}

/* A shared expert's down as columns of one matrix: row r holds row r of every group. */
static int put_shared_down(uploader *u, const model_tensor *down, uint32_t padded, err *e) {
    const model_plan *c = &u->b->plan;
    uint32_t per = c->n_experts_per_tok, groups = u->b->groups_shared;
    for (uint32_t r = 0; r < c->dim; r++) {
        uint8_t *at = next_row(u, 0, groups, e);
        if (at == NULL) return -1;
        for (uint32_t g = 0; g < groups; g++) {
            const model_tensor *t = &down[g / per];
            size_t first = (size_t)r * t->shape[1] + (size_t)(g % per) * c->expert_dim;
            put_piece(u, at + (size_t)g * padded * cu_act_bytes(u->b), t, first, c->expert_dim);
        }
    }
    return put_zeros(u, cu_round(c->dim, CU_MM_ROWS) - c->dim, e);
}

/* A shared expert of hidden expert_dim * top_k is top_k groups of hidden expert_dim: the MoE
 * is uniform. down is [D][groups * expert_ld], so that it also serves as one matrix. */
static int upload_shared(uploader *u, cu_layer *l, tensor_place at, err *e) {
    const model_plan *c = &u->b->plan;
    uint32_t padded = cu_round(c->expert_dim, CU_K_STEP), groups = u->b->groups_shared;
    uint32_t per = c->n_experts_per_tok;
    if (groups == 0) return 0;
    model_tensor t[3], *down = array_new(c->n_shared_experts, sizeof *down);
    if (down == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory packing weights");
    int rc = mat_begin(u, &l->shared_gate_up, groups, 2 * padded, c->dim, e);
    for (uint32_t g = 0; rc == 0 && g < groups; g++) {
        rc = expert_tensors(u->b, at, TENSOR_SHARED_GATE, g / per, t, e);
        down[g / per] = t[2];
        if (rc == 0)
            rc = put_gate_up(u, &t[0], &t[1], g % per * c->expert_dim, c->expert_dim, padded,
                             c->dim, e);
    }
    if (rc == 0) rc = flush(u, e);
    if (rc == 0) rc = mat_begin(u, &l->shared_down, 1, c->dim, groups * padded, e);
    if (rc == 0) rc = put_shared_down(u, down, padded, e);
    if (rc == 0) rc = flush(u, e);
    l->shared_down.group = padded; /* group g reads columns from g * padded on */
    free(down);
    return rc;
}

/* kv_up [H * (nope + v)][rank] as two sets: uk[h] = its nope rows transposed, uv[h] = its v rows.
 */
static int upload_kv_up(uploader *u, cu_layer *l, tensor_place at, err *e) {
    const model_plan *c = &u->b->plan;
    uint32_t nope = c->qk_nope_head_dim, v = c->v_head_dim, rank = c->kv_lora_rank;
    model_tensor t;
    if (need(u->b, at_role(at, TENSOR_KV_UP), &t, e) != 0) return -1;
    float *block = array_new((size_t)nope * rank, sizeof *block),
          *col = array_new(nope, sizeof *col);
    int rc = block && col ? mat_begin(u, &l->uk, c->n_heads, rank, nope, e)
                          : err_set(e, ERR_NO_MEMORY, NULL, "out of memory packing weights");
    for (uint32_t h = 0; rc == 0 && h < c->n_heads; h++) {
        model_tensor_read(&t, (size_t)h * (nope + v) * rank, (size_t)nope * rank, block);
        for (uint32_t j = 0; rc == 0 && j < rank; j++) {
            for (uint32_t i = 0; i < nope; i++)
                col[i] = block[(size_t)i * rank + j];
            rc = put_floats(u, col, nope, e);
        }
        if (rc == 0) rc = put_zeros(u, cu_round(rank, CU_MM_ROWS) - rank, e);
    }
    free(block);
    free(col);
    if (rc != 0 || flush(u, e) != 0) return -1;
    if (mat_begin(u, &l->uv, c->n_heads, v, rank, e) != 0) return -1;
    for (uint32_t h = 0; h < c->n_heads; h++) {
        for (uint32_t i = 0; i < v; i++) {
            if (put_row(u, &t, (uint64_t)h * (nope + v) + nope + i, 0, rank, e) != 0) return -1;
        }
        if (put_zeros(u, cu_round(v, CU_MM_ROWS) - v, e) != 0) return -1;
    }
    return flush(u, e);
}

static int upload_attention(uploader *u, cu_layer *l, tensor_place at, err *e) {
    static const tensor_role down[] = {TENSOR_Q_DOWN, TENSOR_KV_DOWN};
    static const tensor_role up[] = {TENSOR_Q_UP_NOPE, TENSOR_Q_UP_ROPE};
    static const tensor_role gqa[] = {TENSOR_WQ, TENSOR_WK, TENSOR_WV};
    if (upload_one(u, &l->wo, at, TENSOR_WO, e) != 0) return -1;
    if (u->b->plan.attn == ATTN_GQA) return upload_stack(u, &l->in, at, gqa, 3, e);
    if (upload_stack(u, &l->in, at, down, 2, e) != 0 ||
        upload_stack(u, &l->q_up, at, up, 2, e) != 0 ||
        upload_vector(u->b, &l->q_norm, at_role(at, TENSOR_Q_NORM), e) != 0 ||
        upload_vector(u->b, &l->kv_norm, at_role(at, TENSOR_KV_NORM), e) != 0) {
        return -1;
    }
    return upload_kv_up(u, l, at, e);
}

static int upload_ffn(uploader *u, cu_layer *l, tensor_place at, ffn_kind ffn, err *e) {
    if (ffn != FFN_MOE) return upload_dense_ffn(u, l, at, e);
    if (upload_one(u, &l->router, at, TENSOR_ROUTER, e) != 0 ||
        upload_vector(u->b, &l->router_bias, at_role(at, TENSOR_ROUTER_BIAS), e) != 0) {
        return -1;
    }
    return upload_routed(u, l, at, e) != 0 ? -1 : upload_shared(u, l, at, e);
}

static int upload_norms(cu_backend *b, cu_layer *l, tensor_place at, err *e) {
    const struct {
        float **to;
        tensor_role role;
        bool has;
    } norms[] = {
        {&l->attn_norm, TENSOR_ATTN_NORM, true},
        {&l->ffn_norm, TENSOR_FFN_NORM, true},
        {&l->attn_out_norm, TENSOR_ATTN_OUT_NORM, b->plan.norms == NORM_SANDWICH},
        {&l->ffn_out_norm, TENSOR_FFN_OUT_NORM, b->plan.norms == NORM_SANDWICH},
    };
    for (size_t i = 0; i < ARRAY_LEN(norms); i++) {
        if (norms[i].has && upload_vector(b, norms[i].to, at_role(at, norms[i].role), e) != 0)
            return -1;
    }
    return 0;
}

static int upload_layer(uploader *u, cu_layer *l, tensor_place at, ffn_kind ffn, err *e) {
    if (upload_norms(u->b, l, at, e) != 0 || upload_attention(u, l, at, e) != 0) return -1;
    return upload_ffn(u, l, at, ffn, e);
}

static int upload_layers(uploader *u, cu_layer **out, tensor_stage stage, uint32_t n, ffn_kind ffn,
                         err *e) {
    *out = array_new(n ? n : 1, sizeof **out);
    if (*out == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory");
    for (uint32_t i = 0; i < n; i++) {
        tensor_place at = {.stage = stage, .layer = i};
        if (upload_layer(u, &(*out)[i], at, ffn, e) != 0) return -1;
    }
    return 0;
}

/* The injection's decay, worked out once. */
static int upload_decay(cu_backend *b, err *e) {
    model_tensor log_a, log_dt;
    if (need(b, of_model(TENSOR_LOG_A), &log_a, e) != 0 ||
        need(b, of_model(TENSOR_LOG_DT), &log_dt, e) != 0) {
        return -1;
    }
    float *a = array_new(b->plan.dim, sizeof *a), dt[1];
    if (a == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory");
    model_tensor_read(&log_dt, 0, 1, dt);
    model_tensor_read(&log_a, 0, b->plan.dim, a);
    for (uint32_t i = 0; i < b->plan.dim; i++)
        a[i] = rm_lti_decay(dt[0], a[i]);
    int rc = upload_floats(b, &b->inj_a, a, b->plan.dim, e);
    free(a);
    return rc;
}

static int upload_injection(cu_backend *b, err *e) {
    model_tensor scale;
    if (b->plan.inject != INJECT_MYTHOS) return 0;
    if (need(b, of_model(TENSOR_LORA_SCALE), &scale, e) != 0 || upload_decay(b, e) != 0) return -1;
    b->lora_rows = (uint32_t)scale.shape[0];
    if (upload_vector(b, &b->inj_b, of_model(TENSOR_INJECT_B), e) != 0 ||
        upload_vector(b, &b->lora_down, of_model(TENSOR_LORA_DOWN), e) != 0 ||
        upload_vector(b, &b->lora_b, of_model(TENSOR_LORA_B), e) != 0) {
        return -1;
    }
    return upload_vector(b, &b->lora_scale, of_model(TENSOR_LORA_SCALE), e);
}

/* The gate, for the rules that ask it. */
static int upload_gate(cu_backend *b, err *e) {
    model_tensor bias;
    if (b->opts.exit != EXIT_ACT && b->opts.exit != EXIT_HAZARD) return 0;
    if (need(b, of_model(TENSOR_EXIT_BIAS), &bias, e) != 0) return -1;
    model_tensor_read(&bias, 0, 1, &b->halt_bias);
    return upload_vector(b, &b->halt_w, of_model(TENSOR_EXIT_WEIGHT), e);
}

static int upload_loop(cu_backend *b, err *e) {
    if (upload_injection(b, e) != 0 || upload_gate(b, e) != 0) return -1;
    if (b->plan.inject != INJECT_MYTHOS && !b->plan.loop_norm) return 0;
    return upload_vector(b, &b->loop_norm, of_model(TENSOR_LOOP_NORM), e);
}

/* Tables of the rotation [max_positions][pairs][cos, sin] and the loop embedding. */
static int upload_tables(cu_backend *b, err *e) {
    uint32_t rot = b->plan.attn == ATTN_MLA ? b->plan.qk_rope_head_dim : b->plan.head_dim;
    size_t n = (size_t)b->opts.max_positions * rot, loops = b->opts.max_loops;
    float *v = array_new(n, sizeof *v), *emb = array_new(loops * b->loop_width + 1, sizeof *emb);
    int rc = v && emb ? 0 : err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the rotation table");
    for (uint32_t j = 0; rc == 0 && j < rot / 2; j++) {
        float f = rm_rope_frequency(b->plan.rope_theta, j, rot);
        for (uint32_t p = 0; p < b->opts.max_positions; p++) {
            double angle = (double)((float)p * f);
            v[(size_t)p * rot + 2 * j] = (float)cos(angle);
            v[(size_t)p * rot + 2 * j + 1] = (float)sin(angle);
        }
    }
    for (uint32_t t = 0; rc == 0 && t < loops; t++) {
        for (uint32_t i = 0; i < b->loop_width; i++) {
            emb[(size_t)t * b->loop_width + i] = rm_loop_embedding(t, i, b->loop_width);
        }
    }
    if (rc == 0) rc = upload_floats(b, &b->rope, v, n, e);
    if (rc == 0) rc = upload_floats(b, &b->loop_emb, emb, loops * b->loop_width + 1, e);
    free(v);
    free(emb);
    return rc;
}

static int upload_all(uploader *u, err *e) {
    cu_backend *b = u->b;
    const model_plan *p = &b->plan;
    model_tensor head;
    if (upload_one(u, &b->embed, of_model(TENSOR_EMBED), TENSOR_EMBED, e) != 0) return -1;
    b->head = b->embed;
    if (model_find(b->model, of_model(TENSOR_HEAD), &head) &&
        upload_one(u, &b->head, of_model(TENSOR_HEAD), TENSOR_HEAD, e) != 0) {
        return -1;
    }
    if (upload_layers(u, &b->prelude, PART_OF_PRELUDE, p->n_prelude, p->end_ffn, e) != 0 ||
        upload_layers(u, &b->coda, PART_OF_CODA, p->n_coda, p->end_ffn, e) != 0 ||
        upload_layers(u, &b->core, PART_OF_CORE, p->n_core, p->core_ffn, e) != 0 ||
        upload_loop(b, e) != 0 || upload_tables(b, e) != 0) {
        return -1;
    }
    if (!p->final_norm) return 0; /* the head reads what the last loop or layer gave */
    return upload_vector(b, &b->final_norm, of_model(TENSOR_FINAL_NORM), e);
}

/* Longest row of any matrix, in values. */
static uint32_t longest_row(const cu_backend *b) {
    uint32_t n = b->dim_ld, more[] = {b->dense_ld,
                                      b->groups_shared * b->expert_ld,
                                      b->o_ld,
                                      cu_round(b->plan.q_lora_rank, CU_K_STEP),
                                      cu_round(b->plan.kv_lora_rank, CU_K_STEP),
                                      cu_round(b->plan.qk_nope_head_dim, CU_K_STEP),
                                      b->expert_ld};
    for (size_t i = 0; i < ARRAY_LEN(more); i++)
        n = more[i] > n ? more[i] : n;
    return n;
}

int eng__cuda_upload(cu_backend *b, err *e) {
    uploader u = {.b = b, .all = model_bytes(b->model), .began_ns = clock_ns()};
    size_t row = (size_t)longest_row(b) * sizeof(float);
    uint32_t threads = eng__threads_here();
    u.cap = row > STAGE_BYTES ? row : STAGE_BYTES;
    if (eng__pool_create(&u.pool, threads < MOST_THREADS ? threads : MOST_THREADS, e) != 0)
        return -1;
    u.pieces = array_new(PIECES, sizeof *u.pieces);
    int rc = u.pieces ? 0 : err_set(e, ERR_NO_MEMORY, NULL, "out of memory packing weights");
    if (rc == 0)
        rc = eng__cuda_check(b, cudaMallocHost((void **)&u.stage, u.cap), "pinning memory", e);
    if (rc == 0) rc = upload_all(&u, e);
    if (u.stage) (void)cudaFreeHost(u.stage);
    free(u.pieces);
    eng__pool_destroy(u.pool);
    return rc;
}
