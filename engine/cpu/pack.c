/* pack.c - from the model's tensors to packed panels.
 *
 * bfloat16 stays bfloat16 (exact); float32 and float16 become float32. Padding columns
 * and padding k steps are zero. */
#include "engine/cpu/cpu_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum {
    PACK_ROWS,    /* column c = row row0 + c of the tensor */
    PACK_COLS,    /* w[k][c] = tensor[row0 + k][c] */
    PACK_GATE_UP, /* 16 gate rows then 16 up rows per panel; experts one after the other */
    PACK_DOWN     /* k runs over the padded hidden values of the experts one after the other */
} pack_kind;

enum { MAX_SOURCES = 2 * 64 };

typedef struct {
    eng__cpu *g;
    eng__mat *m;
    pack_kind kind;
    uint32_t row0, hidden, hidden_padded;
    eng_tensor *src; /* GATE_UP: gate, up, gate, up, … */
    uint32_t n_src;
    float *rows; /* one row of source values per thread */
    size_t ld_rows;
} pack;

static uint32_t round_up(uint32_t n, uint32_t to) {
    return (n + to - 1) / to * to;
}

/* Writes n values down column c of a panel, from k step k0. */
static void put_column(const eng__mat *m, uint8_t *panel, uint32_t c, size_t k0, const float *v,
                       size_t n) {
    if (m->dtype == ENG_F32) {
        float *to = (float *)(void *)panel + k0 * ENG__PANEL + c;
        for (size_t i = 0; i < n; i++)
            to[i * ENG__PANEL] = v[i];
        return;
    }
    uint16_t *to =
        (uint16_t *)(void *)panel + k0 * ENG__PANEL + (c < 16 ? 2 * c : 2 * (c - 16) + 1);
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, v + i, sizeof bits);
        to[i * ENG__PANEL] = (uint16_t)(bits >> 16);
    }
}

static void pack_rows(const pack *j, uint32_t p, uint8_t *panel, float *row) {
    for (uint32_t c = 0; c < ENG__PANEL && p * ENG__PANEL + c < j->m->n; c++) {
        size_t from = (size_t)(j->row0 + p * ENG__PANEL + c) * j->m->k;
        eng_tensor_read(j->src, from, j->m->k, row);
        put_column(j->m, panel, c, 0, row, j->m->k);
    }
}

static void pack_cols(const pack *j, uint32_t p, uint8_t *panel, float *row) {
    uint32_t c0 = p * ENG__PANEL, n = j->m->n - c0 < ENG__PANEL ? j->m->n - c0 : ENG__PANEL;
    for (uint32_t k = 0; k < j->m->k; k++) {
        eng_tensor_read(j->src, (size_t)(j->row0 + k) * j->m->n + c0, n, row);
        for (uint32_t c = 0; c < n; c++)
            put_column(j->m, panel, c, k, row + c, 1);
    }
}

static void pack_gate_up(const pack *j, uint32_t p, uint8_t *panel, float *row) {
    uint32_t per = j->hidden_padded / 16, s = p / per, first = p % per * 16;
    for (uint32_t half = 0; half < 2; half++) {
        for (uint32_t c = 0; c < 16 && first + c < j->hidden; c++) {
            eng_tensor_read(&j->src[2 * s + half], (size_t)(first + c) * j->m->k, j->m->k, row);
            put_column(j->m, panel, 16 * half + c, 0, row, j->m->k);
        }
    }
}

static void pack_down(const pack *j, uint32_t p, uint8_t *panel, float *row) {
    for (uint32_t c = 0; c < ENG__PANEL && p * ENG__PANEL + c < j->m->n; c++) {
        for (uint32_t s = 0; s < j->n_src; s++) {
            eng_tensor_read(&j->src[s], (size_t)(p * ENG__PANEL + c) * j->hidden, j->hidden, row);
            put_column(j->m, panel, c, (size_t)s * j->hidden_padded, row, j->hidden);
        }
    }
}

static void pack_work(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    const pack *j = arg;
    float *row = j->rows + worker * j->ld_rows;
    for (uint32_t p = first; p < last; p++) {
        uint8_t *panel = (uint8_t *)j->m->data + p * j->m->panel_bytes;
        switch (j->kind) {
        case PACK_ROWS: pack_rows(j, p, panel, row); break;
        case PACK_COLS: pack_cols(j, p, panel, row); break;
        case PACK_GATE_UP: pack_gate_up(j, p, panel, row); break;
        case PACK_DOWN: pack_down(j, p, panel, row); break;
        }
    }
}

static void say_progress(eng__cpu *g) {
    uint64_t now = clock_ns(), all = eng_model_bytes(g->model);
    if (now - g->pack_start_ns < 1000000000u || now - g->pack_said_ns < 500000000u) return;
    g->pack_said_ns = now;
    fprintf(stderr, "\rpacking weights: %3.0f%%",
            all ? 100.0 * (double)g->packed_bytes / (double)all : 0.0);
}

/* Allocates and fills m; n, k and the sources are set by the caller. */
static int pack_run(pack *j, uint32_t n, uint32_t k, err *e) {
    eng__cpu *g = j->g;
    eng__mat *m = j->m;
    m->n = n;
    m->k = k;
    m->panels = (n + ENG__PANEL - 1) / ENG__PANEL;
    m->dtype = ENG_BF16;
    for (uint32_t i = 0; i < j->n_src; i++) {
        if (j->src[i].dtype != ENG_BF16) m->dtype = ENG_F32;
        g->packed_bytes += j->kind == PACK_COLS || j->row0 ? 0 : j->src[i].bytes;
    }
    if (!size_mul(k, ENG__PANEL * eng_dtype_bytes(m->dtype), &m->panel_bytes)) goto no_memory;
    m->data = eng__take(g, m->panels, m->panel_bytes);
    if (m->data == NULL) goto no_memory;
    g->weight_bytes += m->panels * m->panel_bytes;
    eng__pool_run(g->pool, pack_work, j, m->panels, 1);
    say_progress(g);
    return 0;
no_memory:
    return err_set(e, ERR_NO_MEMORY, NULL, "out of memory packing weights (%.1f GB so far)",
                   (double)g->weight_bytes / 1e9);
}

/* ---- tensors by name ---- */

static int get(const eng__cpu *g, eng_tensor *out, err *e, const char *fmt, ...) PRINTF_LIKE(4, 5);
static int get(const eng__cpu *g, eng_tensor *out, err *e, const char *fmt, ...) {
    char name[160];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(name, sizeof name, fmt, args);
    va_end(args);
    if (eng_model_find(g->model, name, out)) return 0;
    return err_set(e, ERR_BAD_FILE, name, "the model has no tensor %s", name);
}

static float *vector(eng__cpu *g, const char *prefix, const char *name, size_t n, err *e) {
    eng_tensor t;
    if (get(g, &t, e, "%s%s", prefix, name) != 0) return NULL;
    if (t.n_values != n) {
        err_set(e, ERR_BAD_FILE, name, "tensor %s%s has %zu values instead of %zu", prefix, name,
                t.n_values, n);
        return NULL;
    }
    float *v = eng__take(g, n + ENG__PAD, sizeof *v);
    if (v == NULL) {
        err_set(e, ERR_NO_MEMORY, NULL, "out of memory reading weights");
        return NULL;
    }
    eng_tensor_read(&t, 0, n, v);
    g->weight_bytes += n * sizeof *v;
    return v;
}

static int matrix(eng__cpu *g, pack *j, eng__mat *m, const char *prefix, const char *name,
                  uint32_t n, uint32_t k, err *e) {
    eng_tensor t;
    if (get(g, &t, e, "%s%s", prefix, name) != 0) return -1;
    j->m = m;
    j->kind = PACK_ROWS;
    j->row0 = 0;
    j->src = &t;
    j->n_src = 1;
    return pack_run(j, n, k, e);
}

/* kv_up holds, per head, `nope` rows that make keys and `v` rows that make values. */
static int load_kv_up(eng__cpu *g, pack *j, eng__layer *l, const char *prefix, err *e) {
    const eng_config *c = &g->c;
    eng_tensor t;
    uint32_t per_head = c->qk_nope_head_dim + c->v_head_dim;
    l->uk = eng__take(g, c->n_heads, sizeof *l->uk);
    l->uv = eng__take(g, c->n_heads, sizeof *l->uv);
    if (l->uk == NULL || l->uv == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory");
    if (get(g, &t, e, "%sattn.kv_up.weight", prefix) != 0) return -1;
    j->src = &t;
    j->n_src = 1;
    for (uint32_t h = 0; h < c->n_heads; h++) {
        j->m = &l->uk[h];
        j->kind = PACK_COLS;
        j->row0 = h * per_head;
        if (pack_run(j, c->kv_lora_rank, c->qk_nope_head_dim, e) != 0) return -1;
        j->m = &l->uv[h];
        j->kind = PACK_ROWS;
        j->row0 = h * per_head + c->qk_nope_head_dim;
        if (pack_run(j, c->v_head_dim, c->kv_lora_rank, e) != 0) return -1;
    }
    return 0;
}

static int load_attention(eng__cpu *g, pack *j, eng__layer *l, const char *prefix, err *e) {
    const eng_config *c = &g->c;
    if ((l->attn_norm = vector(g, prefix, "attn_norm.weight", c->dim, e)) == NULL) return -1;
    if ((l->ffn_norm = vector(g, prefix, "ffn_norm.weight", c->dim, e)) == NULL) return -1;
    if (c->attn_type == ENG_ATTN_GQA) {
        uint32_t kv = c->n_kv_heads * c->head_dim;
        if (matrix(g, j, &l->wq, prefix, "attn.wq.weight", c->dim, c->dim, e) != 0 ||
            matrix(g, j, &l->wk, prefix, "attn.wk.weight", kv, c->dim, e) != 0 ||
            matrix(g, j, &l->wv, prefix, "attn.wv.weight", kv, c->dim, e) != 0) {
            return -1;
        }
        return matrix(g, j, &l->wo, prefix, "attn.wo.weight", c->dim, c->dim, e);
    }
    uint32_t q = c->q_lora_rank, rank = c->kv_lora_rank, rope = c->qk_rope_head_dim, h = c->n_heads;
    if ((l->q_norm = vector(g, prefix, "attn.q_norm.weight", q, e)) == NULL) return -1;
    if ((l->kv_norm = vector(g, prefix, "attn.kv_norm.weight", rank, e)) == NULL) return -1;
    if (matrix(g, j, &l->q_down, prefix, "attn.q_down.weight", q, c->dim, e) != 0 ||
        matrix(g, j, &l->q_up_nope, prefix, "attn.q_up_nope.weight", h * c->qk_nope_head_dim, q,
               e) != 0 ||
        matrix(g, j, &l->q_up_rope, prefix, "attn.q_up_rope.weight", h * rope, q, e) != 0 ||
        matrix(g, j, &l->kv_down, prefix, "attn.kv_down.weight", rank + rope, c->dim, e) != 0 ||
        load_kv_up(g, j, l, prefix, e) != 0) {
        return -1;
    }
    return matrix(g, j, &l->wo, prefix, "attn.wo.weight", c->dim, h * c->v_head_dim, e);
}

/* `infix` names one FFN, or with a %u many that are packed as one. */
static int load_swiglu(eng__cpu *g, pack *j, eng__mat *gate_up, eng__mat *down, const char *prefix,
                       uint32_t first, uint32_t count, const char *list, uint32_t hidden, err *e) {
    eng_tensor src[MAX_SOURCES];
    if (count > MAX_SOURCES / 2) {
        return err_set(e, ERR_UNSUPPORTED, "n_shared_experts", "at most %d shared experts",
                       MAX_SOURCES / 2);
    }
    j->hidden = hidden;
    j->hidden_padded = round_up(hidden, 16);
    j->row0 = 0;
    j->src = src;
    char where[96] = "";
    for (uint32_t s = 0; s < count; s++) {
        if (list) (void)snprintf(where, sizeof where, "%s.%u.", list, first + s);
        if (get(g, &src[2 * s], e, "%sffn.%sgate.weight", prefix, where) != 0) return -1;
        if (get(g, &src[2 * s + 1], e, "%sffn.%sup.weight", prefix, where) != 0) return -1;
    }
    j->kind = PACK_GATE_UP;
    j->m = gate_up;
    j->n_src = 2 * count;
    if (pack_run(j, 2 * count * j->hidden_padded, g->c.dim, e) != 0) return -1;
    for (uint32_t s = 0; s < count; s++) {
        if (list) (void)snprintf(where, sizeof where, "%s.%u.", list, first + s);
        if (get(g, &src[s], e, "%sffn.%sdown.weight", prefix, where) != 0) return -1;
    }
    j->kind = PACK_DOWN;
    j->m = down;
    j->n_src = count;
    return pack_run(j, g->c.dim, count * j->hidden_padded, e);
}

static int load_moe(eng__cpu *g, pack *j, eng__layer *l, const char *prefix, err *e) {
    const eng_config *c = &g->c;
    if (matrix(g, j, &l->router, prefix, "ffn.router.weight", c->n_experts, c->dim, e) != 0)
        return -1;
    l->router_bias = vector(g, prefix, "ffn.router_bias", c->n_experts, e);
    if (l->router_bias == NULL) return -1;
    l->expert_gate_up = eng__take(g, c->n_experts, sizeof *l->expert_gate_up);
    l->expert_down = eng__take(g, c->n_experts, sizeof *l->expert_down);
    if (l->expert_gate_up == NULL || l->expert_down == NULL) {
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory");
    }
    for (uint32_t i = 0; i < c->n_experts; i++) {
        if (load_swiglu(g, j, &l->expert_gate_up[i], &l->expert_down[i], prefix, i, 1,
                        "routed_experts", c->expert_dim, e) != 0) {
            return -1;
        }
    }
    if (c->n_shared_experts == 0) return 0;
    return load_swiglu(g, j, &l->gate_up, &l->down, prefix, 0, c->n_shared_experts,
                       "shared_experts", g->shared_dim, e);
}

static int load_dense(eng__cpu *g, pack *j, eng__layer *layers, uint32_t n, const char *stage,
                      err *e) {
    for (uint32_t i = 0; i < n; i++) {
        char prefix[48];
        (void)snprintf(prefix, sizeof prefix, "%s.%u.", stage, i);
        if (load_attention(g, j, &layers[i], prefix, e) != 0 ||
            load_swiglu(g, j, &layers[i].gate_up, &layers[i].down, prefix, 0, 1, NULL,
                        g->c.dense_dim, e) != 0) {
            return -1;
        }
    }
    return 0;
}

static int load_injection(eng__cpu *g, err *e) {
    uint32_t d = g->c.dim;
    const char *in = "recurrent.injection.";
    float *dt = vector(g, in, "log_dt", 1, e);
    g->inj_a = vector(g, in, "log_A", d, e);
    g->inj_b = vector(g, in, "B", d, e);
    if (dt == NULL || g->inj_a == NULL || g->inj_b == NULL) return -1;
    for (uint32_t i = 0; i < d; i++) {
        float s = fminf(fmaxf(dt[0] + g->inj_a[i], -20.0f), 20.0f);
        g->inj_a[i] = expf(-expf(s));
    }
    return 0;
}

static int load_recurrent(eng__cpu *g, pack *j, err *e) {
    const eng_config *c = &g->c;
    const char *in = "recurrent.", *block = "recurrent.block.";
    eng_tensor scale;
    if (load_attention(g, j, &g->recurrent, block, e) != 0) return -1;
    if (load_moe(g, j, &g->recurrent, block, e) != 0) return -1;
    if (load_injection(g, e) != 0) return -1;
    if ((g->rec_norm = vector(g, in, "norm.weight", c->dim, e)) == NULL) return -1;
    if ((g->halt_w = vector(g, in, "act.halt.weight", c->dim, e)) == NULL) return -1;
    float *bias = vector(g, in, "act.halt.bias", 1, e);
    if (bias == NULL) return -1;
    g->halt_bias = bias[0];
    if (c->lora_rank == 0) return 0;
    if (matrix(g, j, &g->lora_down, in, "lora.down.weight", c->lora_rank, c->dim, e) != 0)
        return -1;
    if (get(g, &scale, e, "recurrent.lora.scale.weight") != 0) return -1;
    g->lora_rows = (uint32_t)scale.shape[0];
    g->lora_b = vector(g, in, "lora.B", (size_t)c->lora_rank * c->dim, e);
    g->lora_scale = vector(g, in, "lora.scale.weight", (size_t)g->lora_rows * c->lora_rank, e);
    return g->lora_b && g->lora_scale && g->lora_rows ? 0 : -1;
}

int eng__load_weights(eng__cpu *g, err *e) {
    const eng_config *c = &g->c;
    size_t longest = c->dim > c->dense_dim ? c->dim : c->dense_dim;
    size_t others[] = {g->shared_dim, c->expert_dim, c->kv_lora_rank, c->q_lora_rank,
                       (size_t)c->n_heads * c->v_head_dim};
    for (size_t i = 0; i < ARRAY_LEN(others); i++) {
        if (others[i] > longest) longest = others[i];
    }
    pack j = {.g = g, .ld_rows = longest + ENG__PAD};
    j.rows = array_new(eng__pool_threads(g->pool), j.ld_rows * sizeof *j.rows);
    if (j.rows == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory packing weights");
    g->pack_start_ns = clock_ns();
    int rc = -1;
    eng_tensor head;
    g->prelude = eng__take(g, c->prelude_layers, sizeof *g->prelude);
    g->coda = eng__take(g, c->coda_layers, sizeof *g->coda);
    if (g->prelude == NULL || g->coda == NULL) {
        err_set(e, ERR_NO_MEMORY, NULL, "out of memory packing weights");
        goto end;
    }
    if (get(g, &g->embed, e, "embed.weight") != 0) goto end;
    bool untied = eng_model_find(g->model, "head.weight", &head);
    if (load_dense(g, &j, g->prelude, c->prelude_layers, "prelude", e) != 0 ||
        load_recurrent(g, &j, e) != 0 ||
        load_dense(g, &j, g->coda, c->coda_layers, "coda", e) != 0 ||
        (g->final_norm = vector(g, "", "norm.weight", c->dim, e)) == NULL ||
        matrix(g, &j, &g->head, "", untied ? "head.weight" : "embed.weight", c->vocab_size, c->dim,
               e) != 0) {
        goto end;
    }
    rc = 0;
end:
    if (g->pack_said_ns) fprintf(stderr, "\rpacking weights: 100%%\n");
    free(j.rows);
    return rc;
}
