/* stages.c - the three stages: prelude, one loop of the recurrent block, coda and head. */
#include "engine/cpu/cpu_internal.h"

#include <math.h>
#include <string.h>

enum { ROPE_LOW = 256 };

int eng__tables_init(eng__cpu *g, err *e) {
    const model_plan *c = &g->c;
    uint32_t rope = c->attn_type == ATTN_MLA ? c->qk_rope_head_dim : c->head_dim;
    uint32_t high = g->opts.max_positions / ROPE_LOW + 1, n = c->dim / 8;
    g->rope_pairs = rope / 2;
    g->loop_half = n / 2;
    g->rope_low = eng__take(g, (size_t)ROPE_LOW * g->rope_pairs, 2 * sizeof(double));
    g->rope_high = eng__take(g, (size_t)high * g->rope_pairs, 2 * sizeof(double));
    g->loop_emb = eng__take(g, (size_t)g->opts.max_loops * n + ENG__PAD, sizeof *g->loop_emb);
    if (!g->rope_low || !g->rope_high || !g->loop_emb) {
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for position tables");
    }
    for (uint32_t i = 0; i < g->rope_pairs; i++) {
        double f = pow((double)c->rope_theta, -2.0 * i / rope);
        for (uint32_t p = 0; p < ROPE_LOW; p++) {
            g->rope_low[2 * (p * g->rope_pairs + i)] = cos(p * f);
            g->rope_low[2 * (p * g->rope_pairs + i) + 1] = sin(p * f);
        }
        for (uint32_t p = 0; p < high; p++) {
            g->rope_high[2 * (p * g->rope_pairs + i)] = cos((double)p * ROPE_LOW * f);
            g->rope_high[2 * (p * g->rope_pairs + i) + 1] = sin((double)p * ROPE_LOW * f);
        }
    }
    for (uint32_t t = 0; t < g->opts.max_loops; t++) {
        for (uint32_t j = 0; j < g->loop_half; j++) {
            double f = pow(10000.0, -2.0 * j / n);
            g->loop_emb[t * 2 * g->loop_half + j] = (float)sin(t * f);
            g->loop_emb[t * 2 * g->loop_half + g->loop_half + j] = (float)cos(t * f);
        }
    }
    return 0;
}

void eng__rope_at(const eng__cpu *g, uint32_t pos, float *out) {
    const double *a = g->rope_high + 2 * (size_t)(pos / ROPE_LOW) * g->rope_pairs;
    const double *b = g->rope_low + 2 * (size_t)(pos % ROPE_LOW) * g->rope_pairs;
    for (uint32_t i = 0; i < g->rope_pairs; i++) {
        out[2 * i] = (float)(a[2 * i] * b[2 * i] - a[2 * i + 1] * b[2 * i + 1]);
        out[2 * i + 1] = (float)(a[2 * i] * b[2 * i + 1] + a[2 * i + 1] * b[2 * i]);
    }
}

static const eng_row *row_of(const eng__cpu *g, uint32_t s) {
    return &g->rows[g->perm[s]];
}

/* Scratch order: rows for which `full` holds first, both parts in launch order. */
static void order_rows(eng__cpu *g, bool (*full)(const eng_row *)) {
    g->n = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (uint32_t i = 0; i < g->n_rows; i++) {
            if (full(&g->rows[i]) == (pass == 0)) g->perm[g->n++] = i;
        }
        if (pass == 0) g->n_full = g->n;
    }
}

static bool all_full(const eng_row *r) {
    (void)r;
    return true;
}
static bool wants_block(const eng_row *r) {
    return (r->flags & ENG_ROW_KV_ONLY) == 0;
}
static bool wants_logits(const eng_row *r) {
    return (r->flags & ENG_ROW_LOGITS) != 0;
}

static void rms_rows(eng__cpu *g, uint32_t first, uint32_t last, const float *w) {
    for (uint32_t s = first; s < last; s++) {
        g->k->rms(g->x + s * g->ld_d, w, g->xn + s * g->ld_d, g->c.dim);
    }
}

typedef struct {
    eng__cpu *g;
    const float *norm;
} norm_arg;

static void norm_work(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    const norm_arg *a = arg;
    (void)worker;
    rms_rows(a->g, first, last, a->norm);
}

static void norm(eng__cpu *g, const float *w, uint32_t n) {
    norm_arg a = {g, w};
    eng__pool_run(g->pool, norm_work, &a, n, 4);
}

/* x += attn(rms(x)); x += ffn(rms(x)). Rows from n_full on only write their K/V. */
static void block(eng__cpu *g, const eng__layer *l, bool moe) {
    norm(g, l->attn_norm, g->n);
    eng__attention(g, l);
    if (g->n_full == 0) return;
    norm(g, l->ffn_norm, g->n_full);
    if (moe) eng__ffn_moe(g, l);
    else eng__ffn_dense(g, l);
}

static void set_planes(eng__cpu *g, uint32_t plane) {
    for (uint32_t s = 0; s < g->n; s++)
        g->plane[s] = plane;
}

/* ---- prelude ---- */

static void prelude_start_work(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    eng__cpu *g = arg;
    (void)worker;
    for (uint32_t s = first; s < last; s++) {
        const eng_row *r = row_of(g, s);
        model_tensor_read(&g->embed, (size_t)r->token * g->c.dim, g->c.dim, g->x + s * g->ld_d);
        eng__rope_at(g, r->pos, g->rope + s * g->ld_rope);
    }
}

static void prelude_end_work(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    eng__cpu *g = arg;
    size_t d = g->c.dim;
    (void)worker;
    for (uint32_t s = first; s < last; s++) {
        uint32_t row = row_of(g, s)->row;
        memcpy(g->h + row * d, g->x + s * g->ld_d, d * sizeof *g->h);
        memcpy(g->e + row * d, g->x + s * g->ld_d, d * sizeof *g->e);
        memset(g->out + row * d, 0, d * sizeof *g->out);
        g->cum[row] = 0;
    }
}

void eng__stage_prelude(eng__cpu *g) {
    order_rows(g, all_full);
    eng__pool_run(g->pool, prelude_start_work, g, g->n, 8);
    for (uint32_t i = 0; i < g->c.prelude_layers; i++) {
        set_planes(g, plan_plane_prelude(&g->c, i));
        block(g, &g->prelude[i], false);
    }
    eng__pool_run(g->pool, prelude_end_work, g, g->n, 8);
}

/* ---- recurrent ---- */

static void loop_start_work(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    eng__cpu *g = arg;
    size_t d = g->c.dim, n = 2 * g->loop_half;
    (void)worker;
    for (uint32_t s = first; s < last; s++) {
        const eng_row *r = row_of(g, s);
        float *x = g->x + s * g->ld_d;
        const float *h = g->h + r->row * d, *e = g->e + r->row * d, *le = g->loop_emb + r->loop * n;
        for (size_t i = 0; i < n; i++)
            x[i] = h[i] + le[i] + e[i];
        for (size_t i = n; i < d; i++)
            x[i] = h[i] + e[i];
        g->k->rms(x, g->rec_norm, x, d);
        eng__rope_at(g, r->pos, g->rope + s * g->ld_rope);
    }
}

/* y += ((y Ldown^T) * scale[t]) B, then h = A h + B e + y. */
static void inject(eng__cpu *g, uint32_t s, const eng_row *r) {
    size_t d = g->c.dim;
    float *y = g->x + s * g->ld_d, *h = g->h + r->row * d;
    const float *e = g->e + r->row * d;
    if (g->c.lora_rank) {
        uint32_t last = g->lora_rows - 1, t = r->loop < last ? r->loop : last;
        const float *z = g->lora + s * g->ld_lora,
                    *scale = g->lora_scale + (size_t)t * g->c.lora_rank;
        for (uint32_t i = 0; i < g->c.lora_rank; i++) {
            g->k->scale_add(y, 1.0f, g->lora_b + i * d, z[i] * scale[i], d);
        }
    }
    for (size_t i = 0; i < d; i++)
        h[i] = g->inj_a[i] * h[i] + g->inj_b[i] * e[i] + y[i];
}

/* Adaptive computation time: how much of h the output takes, and whether the row leaves. */
static bool halt(eng__cpu *g, const eng_row *r) {
    size_t d = g->c.dim;
    const float *h = g->h + r->row * d;
    float z = g->k->dot(h, g->halt_w, d) + g->halt_bias, p = 1.0f / (1.0f + expf(-z));
    float cum = g->cum[r->row], rest = fmaxf(1.0f - cum, 0.0f), w = p;
    bool leaves = false;
    if (r->loop + 1 < r->min_loops) {
        if (w > rest) w = rest;
        g->cum[r->row] = cum + w;
    } else {
        leaves = cum + p >= r->threshold;
        if (leaves) w = rest;
        g->cum[r->row] = cum + p;
    }
    g->k->scale_add(g->out + r->row * d, 1.0f, h, w, d);
    return leaves || r->loop + 1 >= r->max_loops;
}

static void loop_end_work(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    eng__cpu *g = arg;
    (void)worker;
    for (uint32_t s = first; s < last; s++) {
        const eng_row *r = row_of(g, s);
        inject(g, s, r);
        if ((r->flags & ENG_ROW_TAIL) == 0) g->halted[g->perm[s]] = halt(g, r);
    }
}

void eng__stage_recurrent(eng__cpu *g) {
    order_rows(g, wants_block);
    memset(g->halted, 0, g->n_rows);
    for (uint32_t s = 0; s < g->n; s++)
        g->plane[s] = plan_plane_loop(&g->c, row_of(g, s)->loop);
    eng__pool_run(g->pool, loop_start_work, g, g->n, 4);
    block(g, &g->recurrent, true);
    if (g->c.lora_rank && g->n_full) {
        g->jobs[0] = (eng__gemm){.w = &g->lora_down,
                                 .x = g->x,
                                 .ldx = g->ld_d,
                                 .y = g->lora,
                                 .ldy = g->ld_lora,
                                 .rows = g->n_full};
        eng__gemm_run(g, g->jobs, 1);
    }
    eng__pool_run(g->pool, loop_end_work, g, g->n_full, 4);
}

/* ---- coda and head ---- */

/* Coda works on a copy of out: the row may still loop as a tail. */
static void coda_start_work(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    eng__cpu *g = arg;
    size_t d = g->c.dim;
    (void)worker;
    for (uint32_t s = first; s < last; s++) {
        const eng_row *r = row_of(g, s);
        memcpy(g->x + s * g->ld_d, g->out + r->row * d, d * sizeof *g->out);
        eng__rope_at(g, r->pos, g->rope + s * g->ld_rope);
    }
}

void eng__stage_coda(eng__cpu *g) {
    order_rows(g, wants_logits);
    uint32_t n_logits = g->n_full;
    g->n_full = g->n;
    eng__pool_run(g->pool, coda_start_work, g, g->n, 8);
    for (uint32_t i = 0; i < g->c.coda_layers; i++) {
        if (i + 1 == g->c.coda_layers) g->n_full = n_logits;
        set_planes(g, plan_plane_coda(&g->c, i));
        block(g, &g->coda[i], false);
    }
    g->n_logits = n_logits;
    if (n_logits == 0) return;
    norm(g, g->final_norm, n_logits);
    g->jobs[0] = (eng__gemm){.w = &g->head,
                             .x = g->xn,
                             .ldx = g->ld_d,
                             .y = g->logits,
                             .ldy = g->c.vocab_size,
                             .rows = n_logits};
    eng__gemm_run(g, g->jobs, 1);
}
