/* weights.c - puts the model's tensors on the device in the layouts the kernels read.
 *
 * Matrices keep the file's row order [out][in], rows padded with zeros to 32 values and
 * their number to 16, so that no kernel needs a bound inside a product. Gate and up rows
 * alternate in eights: one lane of a tensor-core tile then holds a gate and its up. */
#include "engine/cuda/cuda_internal.h"
#include "engine/rowmath.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STAGE_BYTES = 8 << 20, NAME_BYTES = 160 };

/* Fills one matrix on the device row by row through a pinned buffer. */
typedef struct {
    cu_backend *b;
    uint8_t *stage; /* pinned, STAGE_BYTES or one row */
    size_t cap, used;
    uint8_t *to; /* where the staged bytes go */
    float *row;  /* one widened row */
    uint32_t k, ld;
    uint64_t done, all, began_ns, said_ns;
} uploader;

static int flush(uploader *u, err *e) {
    if (u->used == 0) return 0;
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

/* Space for one row, zeroed. NULL after an error. */
static uint8_t *next_row(uploader *u, err *e) {
    size_t bytes = (size_t)u->ld * cu_act_bytes(u->b);
    if (u->used + bytes > u->cap && flush(u, e) != 0) return NULL;
    uint8_t *at = u->stage + u->used;
    memset(at, 0, bytes);
    u->used += bytes;
    return at;
}

static int put_floats(uploader *u, const float *v, uint32_t n, err *e) {
    uint8_t *at = next_row(u, e);
    if (at == NULL) return -1;
    if (u->b->f32) {
        memcpy(at, v, (size_t)n * 4);
        return 0;
    }
    for (uint32_t i = 0; i < n; i++) {
        uint16_t bits = rm_bf16_narrow(v[i]);
        memcpy(at + 2 * (size_t)i, &bits, 2);
    }
    return 0;
}

/* n values of t from column col of row r; rows have as many values as the tensor's last axis. */
static int put_row(uploader *u, const model_tensor *t, uint64_t r, uint64_t col, uint32_t n,
                   err *e) {
    size_t first = (size_t)(r * t->shape[1] + col);
    if (!u->b->f32 && t->dtype == DTYPE_BF16) {
        uint8_t *at = next_row(u, e);
        if (at == NULL) return -1;
        memcpy(at, (const uint8_t *)t->data + first * 2, (size_t)n * 2);
        return 0;
    }
    model_tensor_read(t, first, n, u->row);
    return put_floats(u, u->row, n, e);
}

static int put_zeros(uploader *u, uint32_t rows, err *e) {
    for (uint32_t i = 0; i < rows; i++) {
        if (next_row(u, e) == NULL) return -1;
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
    u->k = k;
    u->ld = m->ld;
    return 0;
}

static int need(const cu_backend *b, const char *name, model_tensor *t, err *e) {
    if (model_find(b->model, name, t)) return 0;
    return err_set(e, ERR_BAD_FILE, NULL, "the model has no tensor %s", name);
}

static int need_in(const cu_backend *b, const char *prefix, const char *name, model_tensor *t,
                   err *e) {
    char full[NAME_BYTES];
    (void)snprintf(full, sizeof full, "%s%s", prefix, name);
    return need(b, full, t, e);
}

/* Float32 values on the device, whatever the mode. */
static int upload_floats(cu_backend *b, float **out, const float *v, size_t n, err *e) {
    if (eng__cuda_alloc(b, out, n, sizeof(float), "weights", e) != 0) return -1;
    b->weight_bytes += n * sizeof(float);
    return eng__cuda_check(b, cudaMemcpy(*out, v, n * sizeof(float), cudaMemcpyHostToDevice),
                           "copying weights", e);
}

static int upload_vector(cu_backend *b, float **out, const char *prefix, const char *name, err *e) {
    model_tensor t;
    if (need_in(b, prefix, name, &t, e) != 0) return -1;
    float *v = array_new(t.n_values, sizeof *v);
    if (v == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory reading %s", name);
    model_tensor_read(&t, 0, t.n_values, v);
    int rc = upload_floats(b, out, v, t.n_values, e);
    free(v);
    return rc;
}

/* Several tensors [n_i][k], one above the other. */
static int upload_stack(uploader *u, cu_mat *m, const char *prefix, const char *const *names,
                        uint32_t count, err *e) {
    model_tensor t[3] = {0};
    uint64_t rows = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (need_in(u->b, prefix, names[i], &t[i], e) != 0) return -1;
        rows += t[i].shape[0];
    }
    uint32_t n = (uint32_t)rows, k = (uint32_t)t[0].shape[1];
    if (mat_begin(u, m, 1, n, k, e) != 0) return -1;
    for (uint32_t i = 0; i < count; i++) {
        for (uint64_t r = 0; r < t[i].shape[0]; r++) {
            if (put_row(u, &t[i], r, 0, k, e) != 0) return -1;
        }
    }
    if (put_zeros(u, cu_round(n, CU_MM_ROWS) - n, e) != 0) return -1;
    return flush(u, e);
}

static int upload_one(uploader *u, cu_mat *m, const char *prefix, const char *name, err *e) {
    return upload_stack(u, m, prefix, &name, 1, e);
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

static int upload_dense_ffn(uploader *u, cu_layer *l, const char *prefix, err *e) {
    const cu_backend *b = u->b;
    model_tensor gate, up, down;
    if (need_in(b, prefix, "ffn.gate.weight", &gate, e) != 0 ||
        need_in(b, prefix, "ffn.up.weight", &up, e) != 0 ||
        need_in(b, prefix, "ffn.down.weight", &down, e) != 0) {
        return -1;
    }
    uint32_t hidden = b->c.dense_dim, padded = cu_round(hidden, CU_K_STEP), d = b->c.dim;
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

static int expert_tensors(const cu_backend *b, const char *kind, uint32_t j, model_tensor t[3],
                          err *e) {
    static const char *const names[] = {"gate", "up", "down"};
    for (int i = 0; i < 3; i++) {
        char name[NAME_BYTES];
        (void)snprintf(name, sizeof name, "recurrent.block.ffn.%s_experts.%u.%s.weight", kind, j,
                       names[i]);
        if (need(b, name, &t[i], e) != 0) return -1;
    }
    return 0;
}

static int upload_routed(uploader *u, cu_layer *l, err *e) {
    const model_plan *c = &u->b->c;
    uint32_t padded = cu_round(c->expert_dim, CU_K_STEP);
    model_tensor t[3];
    if (mat_begin(u, &l->gate_up, c->n_experts, 2 * padded, c->dim, e) != 0) return -1;
    for (uint32_t j = 0; j < c->n_experts; j++) {
        if (expert_tensors(u->b, "routed", j, t, e) != 0 ||
            put_gate_up(u, &t[0], &t[1], 0, c->expert_dim, padded, c->dim, e) != 0) {
            return -1;
        }
    }
    if (flush(u, e) != 0) return -1;
    if (mat_begin(u, &l->down, c->n_experts, c->dim, c->expert_dim, e) != 0) return -1;
    for (uint32_t j = 0; j < c->n_experts; j++) {
        if (expert_tensors(u->b, "routed", j, t, e) != 0) return -1;
        for (uint32_t r = 0; r < c->dim; r++) {
            if (put_row(u, &t[2], r, 0, c->expert_dim, e) != 0) return -1;
        }
        if (put_zeros(u, cu_round(c->dim, CU_MM_ROWS) - c->dim, e) != 0) return -1;
    }
    return flush(u, e);
}

/* A shared expert of hidden expert_dim * top_k is top_k groups of hidden expert_dim: the MoE
 * is uniform. down is [D][groups * expert_ld], so that it also serves as one matrix. */
static int upload_shared(uploader *u, cu_layer *l, err *e) {
    const model_plan *c = &u->b->c;
    uint32_t padded = cu_round(c->expert_dim, CU_K_STEP), groups = u->b->groups_shared;
    uint32_t per = c->n_experts_per_tok;
    model_tensor t[3];
    if (groups == 0) return 0;
    if (mat_begin(u, &l->shared_gate_up, groups, 2 * padded, c->dim, e) != 0) return -1;
    for (uint32_t g = 0; g < groups; g++) {
        if (expert_tensors(u->b, "shared", g / per, t, e) != 0 ||
            put_gate_up(u, &t[0], &t[1], g % per * c->expert_dim, c->expert_dim, padded, c->dim,
                        e) != 0) {
            return -1;
        }
    }
    if (flush(u, e) != 0) return -1;
    float *row = array_new((size_t)groups * padded, sizeof *row);
    if (row == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory packing weights");
    int rc = mat_begin(u, &l->shared_down, 1, c->dim, groups * padded, e);
    for (uint32_t r = 0; rc == 0 && r < c->dim; r++) {
        for (uint32_t g = 0; rc == 0 && g < groups; g++) {
            rc = expert_tensors(u->b, "shared", g / per, t, e);
            if (rc != 0) break;
            size_t first = (size_t)r * t[2].shape[1] + (size_t)(g % per) * c->expert_dim;
            model_tensor_read(&t[2], first, c->expert_dim, row + (size_t)g * padded);
        }
        if (rc == 0) rc = put_floats(u, row, groups * padded, e);
    }
    if (rc == 0) rc = put_zeros(u, cu_round(c->dim, CU_MM_ROWS) - c->dim, e);
    if (rc == 0) rc = flush(u, e);
    l->shared_down.group = padded; /* group g reads columns from g * padded on */
    free(row);
    return rc;
}

/* kv_up [H * (nope + v)][rank] as two sets: uk[h] = its nope rows transposed, uv[h] = its v rows.
 */
static int upload_kv_up(uploader *u, cu_layer *l, const char *prefix, err *e) {
    const model_plan *c = &u->b->c;
    uint32_t nope = c->qk_nope_head_dim, v = c->v_head_dim, rank = c->kv_lora_rank;
    model_tensor t;
    if (need_in(u->b, prefix, "attn.kv_up.weight", &t, e) != 0) return -1;
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

static int upload_attention(uploader *u, cu_layer *l, const char *prefix, err *e) {
    static const char *const down[] = {"attn.q_down.weight", "attn.kv_down.weight"};
    static const char *const up[] = {"attn.q_up_nope.weight", "attn.q_up_rope.weight"};
    static const char *const gqa[] = {"attn.wq.weight", "attn.wk.weight", "attn.wv.weight"};
    if (upload_one(u, &l->wo, prefix, "attn.wo.weight", e) != 0) return -1;
    if (u->b->c.attn_type == ATTN_GQA) return upload_stack(u, &l->in, prefix, gqa, 3, e);
    if (upload_stack(u, &l->in, prefix, down, 2, e) != 0 ||
        upload_stack(u, &l->q_up, prefix, up, 2, e) != 0 ||
        upload_vector(u->b, &l->q_norm, prefix, "attn.q_norm.weight", e) != 0 ||
        upload_vector(u->b, &l->kv_norm, prefix, "attn.kv_norm.weight", e) != 0) {
        return -1;
    }
    return upload_kv_up(u, l, prefix, e);
}

static int upload_layer(uploader *u, cu_layer *l, const char *prefix, bool moe, err *e) {
    cu_backend *b = u->b;
    if (upload_vector(b, &l->attn_norm, prefix, "attn_norm.weight", e) != 0 ||
        upload_vector(b, &l->ffn_norm, prefix, "ffn_norm.weight", e) != 0 ||
        upload_attention(u, l, prefix, e) != 0) {
        return -1;
    }
    if (!moe) return upload_dense_ffn(u, l, prefix, e);
    if (upload_one(u, &l->router, prefix, "ffn.router.weight", e) != 0 ||
        upload_vector(b, &l->router_bias, prefix, "ffn.router_bias", e) != 0) {
        return -1;
    }
    return upload_routed(u, l, e) != 0 ? -1 : upload_shared(u, l, e);
}

static int upload_layers(uploader *u, cu_layer **out, const char *kind, uint32_t n, err *e) {
    *out = array_new(n ? n : 1, sizeof **out);
    if (*out == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory");
    for (uint32_t i = 0; i < n; i++) {
        char prefix[64];
        (void)snprintf(prefix, sizeof prefix, "%s.%u.", kind, i);
        if (upload_layer(u, &(*out)[i], prefix, false, e) != 0) return -1;
    }
    return 0;
}

/* The injection's decay, worked out once, and the halting bias. */
static int upload_recurrent(cu_backend *b, err *e) {
    model_tensor log_a, log_dt, bias, scale;
    if (need(b, "recurrent.injection.log_A", &log_a, e) != 0 ||
        need(b, "recurrent.injection.log_dt", &log_dt, e) != 0 ||
        need(b, "recurrent.act.halt.bias", &bias, e) != 0 ||
        need(b, "recurrent.lora.scale.weight", &scale, e) != 0) {
        return -1;
    }
    b->lora_rows = (uint32_t)scale.shape[0];
    model_tensor_read(&bias, 0, 1, &b->halt_bias);
    float *a = array_new(b->c.dim, sizeof *a), dt[1];
    if (a == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory");
    model_tensor_read(&log_dt, 0, 1, dt);
    model_tensor_read(&log_a, 0, b->c.dim, a);
    for (uint32_t i = 0; i < b->c.dim; i++)
        a[i] = rm_lti_decay(dt[0], a[i]);
    int rc = upload_floats(b, &b->inj_a, a, b->c.dim, e);
    free(a);
    if (rc != 0 || upload_vector(b, &b->inj_b, "", "recurrent.injection.B", e) != 0 ||
        upload_vector(b, &b->halt_w, "", "recurrent.act.halt.weight", e) != 0 ||
        upload_vector(b, &b->lora_down, "", "recurrent.lora.down.weight", e) != 0 ||
        upload_vector(b, &b->lora_b, "", "recurrent.lora.B", e) != 0 ||
        upload_vector(b, &b->lora_scale, "", "recurrent.lora.scale.weight", e) != 0) {
        return -1;
    }
    return upload_vector(b, &b->loop_norm, "", "recurrent.norm.weight", e);
}

/* Tables of the rotation [max_positions][pairs][cos, sin] and the loop embedding. */
static int upload_tables(cu_backend *b, err *e) {
    uint32_t rot = b->c.attn_type == ATTN_MLA ? b->c.qk_rope_head_dim : b->c.head_dim;
    size_t n = (size_t)b->opts.max_positions * rot, loops = b->opts.max_loops;
    float *v = array_new(n, sizeof *v), *emb = array_new(loops * b->loop_width + 1, sizeof *emb);
    int rc = v && emb ? 0 : err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the rotation table");
    for (uint32_t j = 0; rc == 0 && j < rot / 2; j++) {
        float f = rm_rope_frequency(b->c.rope_theta, j, rot);
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
    model_tensor head;
    if (upload_one(u, &b->embed, "", "embed.weight", e) != 0) return -1;
    b->head = b->embed;
    if (model_find(b->model, "head.weight", &head) &&
        upload_one(u, &b->head, "", "head.weight", e) != 0) {
        return -1;
    }
    if (upload_layers(u, &b->prelude, "prelude", b->c.prelude_layers, e) != 0 ||
        upload_layers(u, &b->coda, "coda", b->c.coda_layers, e) != 0 ||
        upload_layer(u, &b->recurrent, "recurrent.block.", true, e) != 0 ||
        upload_recurrent(b, e) != 0 || upload_tables(b, e) != 0) {
        return -1;
    }
    return upload_vector(b, &b->final_norm, "", "norm.weight", e);
}

/* Longest row of any matrix, in values. */
static uint32_t longest_row(const cu_backend *b) {
    uint32_t n = b->dim_ld, more[] = {b->dense_ld,
                                      b->groups_shared * b->expert_ld,
                                      b->o_ld,
                                      cu_round(b->c.q_lora_rank, CU_K_STEP),
                                      cu_round(b->c.kv_lora_rank, CU_K_STEP),
                                      cu_round(b->c.qk_nope_head_dim, CU_K_STEP),
                                      b->expert_ld};
    for (size_t i = 0; i < ARRAY_LEN(more); i++)
        n = more[i] > n ? more[i] : n;
    return n;
}

int eng__cuda_upload(cu_backend *b, err *e) {
    uploader u = {.b = b, .all = model_bytes(b->model), .began_ns = clock_ns()};
    uint32_t row = longest_row(b);
    u.cap = (size_t)row * 4 > STAGE_BYTES ? (size_t)row * 4 : STAGE_BYTES;
    u.row = array_new(row, sizeof *u.row);
    if (u.row == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory packing weights");
    int rc = eng__cuda_check(b, cudaMallocHost((void **)&u.stage, u.cap), "pinning memory", e);
    if (rc == 0) rc = upload_all(&u, e);
    if (u.stage) (void)cudaFreeHost(u.stage);
    free(u.row);
    return rc;
}
