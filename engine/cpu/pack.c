/* pack.c - from the model's tensors to packed panels.
 *
 * bfloat16 stays bfloat16 (exact); float32 and float16 become float32. Padding columns
 * and padding k steps are zero. */
#include "engine/cpu/cpu_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef enum {
    PACK_ROWS,    /* column c = row row0 + c of the tensor */
    PACK_COLS,    /* w[k][c] = tensor[row0 + k][c] */
    PACK_GATE_UP, /* 16 gate rows then 16 up rows per panel; experts one after the other */
    PACK_DOWN     /* k runs over the padded hidden values of the experts one after the other */
} pack_kind;

enum { MAX_SOURCES = 2 * 64 };

enum { K_STEPS = 2 * ENG__GROUP }; /* a block of a panel that stays in the nearest cache */

typedef struct {
    eng__cpu *g;
    bool fill;   /* false: only sizes and places; true: the image is there */
    bool packed; /* the image came from a file and needs no work */
    bool keep;   /* never int8 */
    size_t at;   /* bytes of the image given out */
    eng__mat *m;
    pack_kind kind;
    uint32_t row0, hidden, hidden_padded;
    model_tensor *src; /* GATE_UP: gate, up, gate, up, … */
    uint32_t n_src;
    uint64_t started_ns, said_ns;
} pack;

static uint32_t round_up(uint32_t n, uint32_t to) {
    return (n + to - 1) / to * to;
}

static void read_down(const pack *j, uint32_t row, uint32_t k0, uint32_t n, float *out) {
    for (uint32_t i = 0, step; i < n; i += step) {
        uint32_t s = (k0 + i) / j->hidden_padded, unit = (k0 + i) % j->hidden_padded;
        step = j->hidden_padded - unit < n - i ? j->hidden_padded - unit : n - i;
        uint32_t real = unit < j->hidden ? j->hidden - unit : 0;
        if (real > step) real = step;
        if (s >= j->n_src) real = 0;
        if (real) model_tensor_read(&j->src[s], (size_t)row * j->hidden + unit, real, out + i);
        memset(out + i + real, 0, (step - real) * sizeof *out);
    }
}

/* Values k0 .. k0 + n of output column c of panel p; padding is 0. */
static void read_column(const pack *j, uint32_t p, uint32_t c, uint32_t k0, uint32_t n,
                        float *out) {
    uint32_t column = p * ENG__PANEL + c, k = j->m->k;
    uint32_t real = k0 < k ? k - k0 : 0;
    if (real > n) real = n;
    const model_tensor *t = j->src;
    if (j->kind == PACK_GATE_UP) {
        uint32_t per = j->hidden_padded / 16, unit = p % per * 16 + c % 16;
        t = &j->src[2 * (p / per) + c / 16];
        if (unit >= j->hidden) real = 0;
        if (real) model_tensor_read(t, (size_t)unit * k + k0, real, out);
    } else if (column >= j->m->n) {
        real = 0;
    } else if (j->kind == PACK_DOWN) {
        read_down(j, column, k0, n, out);
        return;
    } else if (j->kind == PACK_COLS) {
        for (uint32_t i = 0; i < real; i++) {
            model_tensor_read(t, (size_t)(j->row0 + k0 + i) * j->m->n + column, 1, out + i);
        }
    } else if (real) {
        model_tensor_read(t, (size_t)(j->row0 + column) * k + k0, real, out);
    }
    memset(out + real, 0, (n - real) * sizeof *out);
}

static void put_bf16(uint16_t *to, uint32_t c, const float *v, uint32_t n) {
    to += c < 16 ? 2 * c : 2 * (c - 16) + 1;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, v + i, sizeof bits);
        to[i * ENG__PANEL] = (uint16_t)(bits >> 16);
    }
}

/* One group of one column: codes are value + 128. */
static void put_i8(const eng__kernels *kern, uint8_t *group, uint32_t c, const float *v) {
    int8_t q[ENG__GROUP];
    int32_t sum;
    float scale;
    kern->quantize(v, ENG__GROUP, q, &scale, &sum);
    for (uint32_t i = 0; i < ENG__GROUP; i++) {
        group[(i / 4 * ENG__PANEL + c) * 4 + i % 4] = (uint8_t)(q[i] + 128);
    }
    memcpy(group + ENG__GROUP * ENG__PANEL + c * sizeof scale, &scale, sizeof scale);
}

static void pack_block(const pack *j, uint32_t p, uint32_t k0, uint32_t n, uint8_t *panel) {
    float v[K_STEPS];
    for (uint32_t c = 0; c < ENG__PANEL; c++) {
        read_column(j, p, c, k0, n, v);
        if (j->m->type == ENG__BF16) {
            put_bf16((uint16_t *)(void *)panel + (size_t)k0 * ENG__PANEL, c, v, n);
        } else if (j->m->type == ENG__F32) {
            float *to = (float *)(void *)panel + (size_t)k0 * ENG__PANEL + c;
            for (uint32_t i = 0; i < n; i++)
                to[i * ENG__PANEL] = v[i];
        } else {
            for (uint32_t i = 0; i < n; i += ENG__GROUP) {
                put_i8(j->g->k, panel + (size_t)((k0 + i) / ENG__GROUP) * ENG__GROUP_BYTES, c,
                       v + i);
            }
        }
    }
}

static void pack_work(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    const pack *j = arg;
    uint32_t k = j->m->type == ENG__I8 ? round_up(j->m->k, ENG__GROUP) : j->m->k;
    (void)worker;
    for (uint32_t p = first; p < last; p++) {
        uint8_t *panel = j->g->image.data + (j->m->data - j->g->image.data) + p * j->m->panel_bytes;
        for (uint32_t k0 = 0; k0 < k; k0 += K_STEPS) {
            pack_block(j, p, k0, k - k0 < K_STEPS ? k - k0 : K_STEPS, panel);
        }
    }
}

/* On a terminal a counter that runs, in a log one line; neither for the first second. */
static void say_progress(pack *j) {
    uint64_t now = clock_ns();
    if (now - j->started_ns < 1000000000u || now - j->said_ns < 500000000u) return;
    if (isatty(STDERR_FILENO)) {
        fprintf(stderr, "\rpacking weights: %3.0f%%",
                100.0 * (double)j->at / (double)j->g->image.bytes);
    } else if (j->said_ns == 0) {
        log_line(LOG_INFO, "packing %.2f GB of weights", (double)j->g->image.bytes / 1e9);
    }
    j->said_ns = now;
}

static eng__wtype type_of(const pack *j, uint32_t k) {
    if (j->g->opts.weights == ENG_WEIGHTS_INT8 && !j->keep && k >= ENG__GROUP / 2) return ENG__I8;
    for (uint32_t i = 0; i < j->n_src; i++) {
        if (j->src[i].dtype != DTYPE_BF16) return ENG__F32;
    }
    return ENG__BF16;
}

/* Tells the kernel about the whole pages of a tensor in the model's read-only file map:
 * wanted at once before it is packed, given back after. Given-back pages come again from
 * the file if anyone reads them (the embedding does). */
static void advise(const model_tensor *t, int advice) {
    uintptr_t page = 4096, first = ((uintptr_t)t->data + page - 1) & ~(page - 1);
    uintptr_t end = ((uintptr_t)t->data + t->bytes) & ~(page - 1);
    if (end > first && end - first >= (1u << 20)) (void)madvise((void *)first, end - first, advice);
}

static void advise_sources(const pack *j, int advice) {
    if (j->kind == PACK_COLS || j->row0) return; /* read again for the next head */
    for (uint32_t i = 0; i < j->n_src; i++)
        advise(&j->src[i], advice);
}

/* Gives m its place in the image and, when that exists, fills it. */
static int pack_run(pack *j, uint32_t n, uint32_t k, err *e) {
    eng__mat *m = j->m;
    size_t bytes;
    m->n = n;
    m->k = k;
    m->panels = (n + ENG__PANEL - 1) / ENG__PANEL;
    m->type = type_of(j, k);
    m->panel_bytes = m->type == ENG__I8
                         ? (size_t)round_up(k, ENG__GROUP) / ENG__GROUP * ENG__GROUP_BYTES
                         : (size_t)k * ENG__PANEL * (m->type == ENG__F32 ? 4 : 2);
    if (!size_mul(m->panels, m->panel_bytes, &bytes)) goto too_large;
    if (!j->fill && j->g->opts.packed_cache) {
        uint32_t facts[] = {n, k, m->type, j->kind, j->row0, j->n_src};
        j->g->image.key = eng__hash(j->g->image.key, facts, sizeof facts);
        for (uint32_t i = 0; i < j->n_src; i++) {
            j->g->image.key = eng__hash_tensor(j->g->image.key, &j->src[i]);
        }
    }
    if (j->fill) {
        m->data = j->g->image.data + j->at;
        if (!j->packed) {
#ifdef MADV_POPULATE_READ
            advise_sources(j, MADV_POPULATE_READ);
#endif
            eng__pool_run(j->g->pool, pack_work, j, m->panels, 1);
            advise_sources(j, MADV_DONTNEED);
            say_progress(j);
        }
    }
    if (!size_add(j->at, bytes, &j->at)) goto too_large;
    return 0;
too_large:
    return err_set(e, ERR_NO_MEMORY, NULL, "the model's weights exceed the address space");
}

/* ---- tensors by name ---- */

static int get(const eng__cpu *g, model_tensor *out, err *e, const char *fmt, ...)
    PRINTF_LIKE(4, 5);
static int get(const eng__cpu *g, model_tensor *out, err *e, const char *fmt, ...) {
    char name[160];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(name, sizeof name, fmt, args);
    va_end(args);
    if (model_find(g->model, name, out)) return 0;
    return err_set(e, ERR_BAD_FILE, name, "the model has no tensor %s", name);
}

/* A small tensor as float32, read in the first pass. */
static int vector(pack *j, float **at, const char *prefix, const char *name, size_t n, err *e) {
    model_tensor t;
    if (*at) return 0;
    if (get(j->g, &t, e, "%s%s", prefix, name) != 0) return -1;
    if (t.n_values != n) {
        return err_set(e, ERR_BAD_FILE, name, "tensor %s%s has %zu values instead of %zu", prefix,
                       name, t.n_values, n);
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

static int matrix(pack *j, eng__mat *m, const char *prefix, const char *name, uint32_t n,
                  uint32_t k, err *e) {
    model_tensor t;
    if (get(j->g, &t, e, "%s%s", prefix, name) != 0) return -1;
    j->m = m;
    j->kind = PACK_ROWS;
    j->row0 = 0;
    j->src = &t;
    j->n_src = 1;
    return pack_run(j, n, k, e);
}

/* kv_up holds, per head, `nope` rows that make keys and `v` rows that make values. */
static int load_kv_up(eng__cpu *g, pack *j, eng__layer *l, const char *prefix, err *e) {
    const model_plan *c = &g->c;
    model_tensor t;
    uint32_t per_head = c->qk_nope_head_dim + c->v_head_dim;
    if (take_mats(g, &l->uk, c->n_heads, e) != 0 || take_mats(g, &l->uv, c->n_heads, e) != 0 ||
        (g->crossover && take_mats(g, &l->key, c->n_heads, e) != 0)) {
        return -1;
    }
    if (get(g, &t, e, "%sattn.kv_up.weight", prefix) != 0) return -1;
    j->src = &t;
    j->n_src = 1;
    j->keep = true;
    for (uint32_t h = 0; h < c->n_heads; h++) {
        j->m = &l->uk[h];
        j->kind = PACK_COLS;
        j->row0 = h * per_head;
        if (pack_run(j, c->kv_lora_rank, c->qk_nope_head_dim, e) != 0) return -1;
        j->kind = PACK_ROWS;
        j->m = l->key ? &l->key[h] : NULL;
        if (j->m && pack_run(j, c->qk_nope_head_dim, c->kv_lora_rank, e) != 0) return -1;
        j->m = &l->uv[h];
        j->row0 = h * per_head + c->qk_nope_head_dim;
        if (pack_run(j, c->v_head_dim, c->kv_lora_rank, e) != 0) return -1;
    }
    j->keep = false;
    return 0;
}

static int load_attention(eng__cpu *g, pack *j, eng__layer *l, const char *prefix, err *e) {
    const model_plan *c = &g->c;
    if (vector(j, &l->attn_norm, prefix, "attn_norm.weight", c->dim, e) != 0) return -1;
    if (vector(j, &l->ffn_norm, prefix, "ffn_norm.weight", c->dim, e) != 0) return -1;
    if (c->attn_type == ATTN_GQA) {
        uint32_t kv = c->n_kv_heads * c->head_dim;
        if (matrix(j, &l->wq, prefix, "attn.wq.weight", c->dim, c->dim, e) != 0 ||
            matrix(j, &l->wk, prefix, "attn.wk.weight", kv, c->dim, e) != 0 ||
            matrix(j, &l->wv, prefix, "attn.wv.weight", kv, c->dim, e) != 0) {
            return -1;
        }
        return matrix(j, &l->wo, prefix, "attn.wo.weight", c->dim, c->dim, e);
    }
    uint32_t q = c->q_lora_rank, rank = c->kv_lora_rank, rope = c->qk_rope_head_dim, h = c->n_heads;
    if (vector(j, &l->q_norm, prefix, "attn.q_norm.weight", q, e) != 0) return -1;
    if (vector(j, &l->kv_norm, prefix, "attn.kv_norm.weight", rank, e) != 0) return -1;
    if (matrix(j, &l->q_down, prefix, "attn.q_down.weight", q, c->dim, e) != 0 ||
        matrix(j, &l->q_up_nope, prefix, "attn.q_up_nope.weight", h * c->qk_nope_head_dim, q, e) !=
            0 ||
        matrix(j, &l->q_up_rope, prefix, "attn.q_up_rope.weight", h * rope, q, e) != 0 ||
        matrix(j, &l->kv_down, prefix, "attn.kv_down.weight", rank + rope, c->dim, e) != 0 ||
        load_kv_up(g, j, l, prefix, e) != 0) {
        return -1;
    }
    return matrix(j, &l->wo, prefix, "attn.wo.weight", c->dim, h * c->v_head_dim, e);
}

/* `infix` names one FFN, or with a %u many that are packed as one. */
static int load_swiglu(eng__cpu *g, pack *j, eng__mat *gate_up, eng__mat *down, const char *prefix,
                       uint32_t first, uint32_t count, const char *list, uint32_t hidden, err *e) {
    model_tensor src[MAX_SOURCES];
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
    const model_plan *c = &g->c;
    j->keep = true;
    if (matrix(j, &l->router, prefix, "ffn.router.weight", c->n_experts, c->dim, e) != 0) return -1;
    j->keep = false;
    if (vector(j, &l->router_bias, prefix, "ffn.router_bias", c->n_experts, e) != 0) return -1;
    if (take_mats(g, &l->expert_gate_up, c->n_experts, e) != 0) return -1;
    if (take_mats(g, &l->expert_down, c->n_experts, e) != 0) return -1;
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

static int load_injection(pack *j, err *e) {
    eng__cpu *g = j->g;
    uint32_t d = g->c.dim;
    const char *in = "recurrent.injection.";
    float *dt = NULL;
    if (g->inj_a) return 0;
    if (vector(j, &dt, in, "log_dt", 1, e) != 0 || vector(j, &g->inj_a, in, "log_A", d, e) != 0 ||
        vector(j, &g->inj_b, in, "B", d, e) != 0) {
        return -1;
    }
    for (uint32_t i = 0; i < d; i++) {
        float s = fminf(fmaxf(dt[0] + g->inj_a[i], -20.0f), 20.0f);
        g->inj_a[i] = expf(-expf(s));
    }
    return 0;
}

static int load_lora(pack *j, err *e) {
    eng__cpu *g = j->g;
    const char *in = "recurrent.lora.";
    uint32_t rank = g->c.lora_rank;
    model_tensor scale;
    if (rank == 0) return 0;
    if (get(g, &scale, e, "recurrent.lora.scale.weight") != 0) return -1;
    if (scale.rank != 2 || scale.shape[0] == 0 || scale.shape[0] > UINT32_MAX) {
        return err_set(e, ERR_BAD_FILE, "recurrent.lora.scale.weight", "it has no rows");
    }
    g->lora_rows = (uint32_t)scale.shape[0];
    if (vector(j, &g->lora_b, in, "B", (size_t)rank * g->c.dim, e) != 0) return -1;
    if (vector(j, &g->lora_scale, in, "scale.weight", (size_t)g->lora_rows * rank, e) != 0)
        return -1;
    j->keep = true;
    int rc = matrix(j, &g->lora_down, in, "down.weight", rank, g->c.dim, e);
    j->keep = false;
    return rc;
}

static int load_recurrent(pack *j, err *e) {
    eng__cpu *g = j->g;
    const char *in = "recurrent.", *block = "recurrent.block.";
    float *bias = NULL;
    if (load_attention(g, j, &g->recurrent, block, e) != 0) return -1;
    if (load_moe(g, j, &g->recurrent, block, e) != 0) return -1;
    if (load_injection(j, e) != 0 || load_lora(j, e) != 0) return -1;
    if (vector(j, &g->rec_norm, in, "norm.weight", g->c.dim, e) != 0) return -1;
    if (g->halt_w) return 0;
    if (vector(j, &g->halt_w, in, "act.halt.weight", g->c.dim, e) != 0) return -1;
    if (vector(j, &bias, in, "act.halt.bias", 1, e) != 0) return -1;
    g->halt_bias = bias[0];
    return 0;
}

static int load_all(pack *j, err *e) {
    eng__cpu *g = j->g;
    const model_plan *c = &g->c;
    model_tensor head;
    bool untied = model_find(g->model, "head.weight", &head);
    j->at = 0;
    if (load_dense(g, j, g->prelude, c->prelude_layers, "prelude", e) != 0) return -1;
    if (load_recurrent(j, e) != 0) return -1;
    if (load_dense(g, j, g->coda, c->coda_layers, "coda", e) != 0) return -1;
    if (vector(j, &g->final_norm, "", "norm.weight", c->dim, e) != 0) return -1;
    return matrix(j, &g->head, "", untied ? "head.weight" : "embed.weight", c->vocab_size, c->dim,
                  e);
}

int eng__load_weights(eng__cpu *g, err *e) {
    const model_plan *c = &g->c;
    pack j = {.g = g, .started_ns = clock_ns()};
    g->prelude = eng__take(g, c->prelude_layers, sizeof *g->prelude);
    g->coda = eng__take(g, c->coda_layers, sizeof *g->coda);
    if (g->prelude == NULL || g->coda == NULL) {
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory packing weights");
    }
    if (get(g, &g->embed, e, "embed.weight") != 0) return -1;
    if (load_all(&j, e) != 0) return -1;
    g->image.bytes = j.at;
    g->weight_bytes += j.at;
    j.packed = g->opts.packed_cache && eng__packed_open(g);
    if (!j.packed) g->image.data = eng__take(g, j.at, 1);
    if (g->image.data == NULL) {
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for %.2f GB of weights",
                       (double)j.at / 1e9);
    }
    j.fill = true;
    if (load_all(&j, e) != 0) return -1;
    if (j.said_ns && isatty(STDERR_FILENO)) fprintf(stderr, "\rpacking weights: 100%%\n");
    if (g->opts.packed_cache && !j.packed) (void)eng__packed_save(g);
    return 0;
}
