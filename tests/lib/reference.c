/* reference.c - the formulas of the model, in their order. Row vectors; a matrix is
 * [out][in] as stored; S is the number of positions, D the width. */
#include "tests/lib/reference.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    float *v; /* [rows][cols] */
    size_t rows, cols;
} mat;

typedef struct {
    mat gate, up, down;
} ffn;

typedef struct {
    mat attn_norm, attn_out_norm, ffn_norm, ffn_out_norm;
    mat q_down, q_norm, q_up_nope, q_up_rope, kv_down, kv_norm, kv_up; /* MLA */
    mat wq, wk, wv;                                                    /* GQA */
    mat wo;
    ffn dense;
    mat router, router_bias; /* MOE */
    ffn *routed, *shared;
} block;

struct reference {
    model_plan c;
    mat embed, norm, head;
    block *prelude, *core, *coda;
    mat loop_norm, log_A, log_dt, B, exit_w, exit_b, lora_down, lora_B, lora_scale;
};

static void *must_alloc(size_t n, size_t item) {
    void *p = calloc(n ? n : 1, item);
    if (p == NULL) {
        fprintf(stderr, "reference: out of memory\n");
        abort();
    }
    return p;
}

static float *floats(size_t n) {
    return must_alloc(n, sizeof(float));
}

/* ---- weights ---- */

static mat load(const model_folder *m, tensor_place place) {
    model_tensor t;
    if (!model_find(m, place, &t)) {
        fprintf(stderr, "reference: no tensor of role %d\n", (int)place.role);
        abort();
    }
    mat w = {floats(t.n_values), t.rank == 2 ? t.shape[0] : 1,
             t.rank == 2 ? t.shape[1] : t.n_values};
    model_tensor_read(&t, 0, t.n_values, w.v);
    return w;
}

static mat load_own(const model_folder *m, tensor_role role) {
    return load(m, (tensor_place){.role = role, .stage = PART_OF_MODEL});
}

static mat load_in(const model_folder *m, tensor_place place, tensor_role role) {
    place.role = role;
    return load(m, place);
}

/* Roles gate, gate + 1 (up) and gate + 2 (down). */
static ffn load_ffn(const model_folder *m, tensor_place place, tensor_role gate) {
    return (ffn){load_in(m, place, gate), load_in(m, place, gate + 1), load_in(m, place, gate + 2)};
}

static ffn *load_experts(const model_folder *m, tensor_place place, tensor_role gate, uint32_t n) {
    ffn *all = must_alloc(n, sizeof *all);
    for (place.index = 0; place.index < n; place.index++)
        all[place.index] = load_ffn(m, place, gate);
    return all;
}

static void load_attention(const model_folder *m, tensor_place at, block *b) {
    b->wo = load_in(m, at, TENSOR_WO);
    if (model_plan_of(m)->attn == ATTN_GQA) {
        b->wq = load_in(m, at, TENSOR_WQ);
        b->wk = load_in(m, at, TENSOR_WK);
        b->wv = load_in(m, at, TENSOR_WV);
        return;
    }
    b->q_down = load_in(m, at, TENSOR_Q_DOWN);
    b->q_norm = load_in(m, at, TENSOR_Q_NORM);
    b->q_up_nope = load_in(m, at, TENSOR_Q_UP_NOPE);
    b->q_up_rope = load_in(m, at, TENSOR_Q_UP_ROPE);
    b->kv_down = load_in(m, at, TENSOR_KV_DOWN);
    b->kv_norm = load_in(m, at, TENSOR_KV_NORM);
    b->kv_up = load_in(m, at, TENSOR_KV_UP);
}

static block load_block(const model_folder *m, tensor_place at, bool moe) {
    const model_plan *c = model_plan_of(m);
    block b = {.attn_norm = load_in(m, at, TENSOR_ATTN_NORM),
               .ffn_norm = load_in(m, at, TENSOR_FFN_NORM)};
    if (c->norms == NORM_SANDWICH) {
        b.attn_out_norm = load_in(m, at, TENSOR_ATTN_OUT_NORM);
        b.ffn_out_norm = load_in(m, at, TENSOR_FFN_OUT_NORM);
    }
    load_attention(m, at, &b);
    if (!moe) {
        b.dense = load_ffn(m, at, TENSOR_GATE);
        return b;
    }
    b.router = load_in(m, at, TENSOR_ROUTER);
    b.router_bias = load_in(m, at, TENSOR_ROUTER_BIAS);
    b.routed = load_experts(m, at, TENSOR_EXPERT_GATE, c->n_experts);
    b.shared = load_experts(m, at, TENSOR_SHARED_GATE, c->n_shared_experts);
    return b;
}

static block *load_stage(const model_folder *m, tensor_stage stage, uint32_t n, ffn_kind kind) {
    block *blocks = must_alloc(n, sizeof *blocks);
    for (uint32_t i = 0; i < n; i++) {
        blocks[i] = load_block(m, (tensor_place){.stage = stage, .layer = i}, kind == FFN_MOE);
    }
    return blocks;
}

reference *ref_open(const model_folder *m) {
    reference *r = must_alloc(1, sizeof *r);
    model_tensor t;
    const model_plan *c = &r->c;
    r->c = *model_plan_of(m);
    r->embed = load_own(m, TENSOR_EMBED);
    bool untied = model_find(m, (tensor_place){.role = TENSOR_HEAD}, &t);
    r->head = untied ? load_own(m, TENSOR_HEAD) : r->embed;
    r->prelude = load_stage(m, PART_OF_PRELUDE, c->n_prelude, c->end_ffn);
    r->core = load_stage(m, PART_OF_CORE, c->n_core, c->core_ffn);
    r->coda = load_stage(m, PART_OF_CODA, c->n_coda, c->end_ffn);
    r->loop_norm = load_own(m, TENSOR_LOOP_NORM);
    r->exit_w = load_own(m, TENSOR_EXIT_WEIGHT);
    r->exit_b = load_own(m, TENSOR_EXIT_BIAS);
    if (c->final_norm) r->norm = load_own(m, TENSOR_FINAL_NORM);
    if (c->inject != INJECT_MYTHOS) return r;
    r->log_A = load_own(m, TENSOR_LOG_A);
    r->log_dt = load_own(m, TENSOR_LOG_DT);
    r->B = load_own(m, TENSOR_INJECT_B);
    r->lora_down = load_own(m, TENSOR_LORA_DOWN);
    r->lora_B = load_own(m, TENSOR_LORA_B);
    r->lora_scale = load_own(m, TENSOR_LORA_SCALE);
    return r;
}

static void free_ffn(ffn *f) {
    free(f->gate.v);
    free(f->up.v);
    free(f->down.v);
}

static void free_block(const model_plan *c, block *b) {
    mat *const all[] = {&b->attn_norm,   &b->ffn_norm,  &b->q_down,      &b->q_norm,
                        &b->q_up_nope,   &b->q_up_rope, &b->kv_down,     &b->kv_norm,
                        &b->kv_up,       &b->wq,        &b->wk,          &b->wv,
                        &b->wo,          &b->router,    &b->router_bias, &b->attn_out_norm,
                        &b->ffn_out_norm};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        free(all[i]->v);
    free_ffn(&b->dense);
    for (uint32_t i = 0; b->routed && i < c->n_experts; i++)
        free_ffn(&b->routed[i]);
    for (uint32_t i = 0; b->shared && i < c->n_shared_experts; i++)
        free_ffn(&b->shared[i]);
    free(b->routed);
    free(b->shared);
}

static void free_stage(const model_plan *c, block *blocks, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        free_block(c, &blocks[i]);
    free(blocks);
}

void ref_close(reference *r) {
    if (r == NULL) return;
    if (r->head.v != r->embed.v) free(r->head.v);
    mat *const all[] = {&r->embed,  &r->norm,   &r->loop_norm, &r->log_A,  &r->log_dt,    &r->B,
                        &r->exit_w, &r->exit_b, &r->lora_down, &r->lora_B, &r->lora_scale};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        free(all[i]->v);
    free_stage(&r->c, r->prelude, r->c.n_prelude);
    free_stage(&r->c, r->core, r->c.n_core);
    free_stage(&r->c, r->coda, r->c.n_coda);
    free(r);
}

/* ---- small formulas ---- */

static double dot(const float *a, const float *b, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)a[i] * b[i];
    return sum;
}

/* y = x W^T */
static void linear(const mat *w, const float *x, float *y) {
    for (size_t i = 0; i < w->rows; i++)
        y[i] = (float)dot(w->v + i * w->cols, x, w->cols);
}

static void rms(const reference *r, const float *x, const mat *w, float *y) {
    double scale = 1 / sqrt(dot(x, x, w->cols) / (double)w->cols + (double)r->c.norm_eps);
    for (size_t i = 0; i < w->cols; i++)
        y[i] = (float)(x[i] * scale * w->v[i]);
}

static double sigmoid(double x) {
    return 1 / (1 + exp(-x));
}

/* Rotates pairs of x [dim] by pos * theta^(-2j/dim): neighbours, or with `halves` a value and
 * the one half a head further. */
static void rope(float *x, uint32_t dim, uint32_t pos, double theta, bool halves) {
    for (uint32_t j = 0; j < dim / 2; j++) {
        float *a = x + (halves ? j : 2 * j), *b = x + (halves ? j + dim / 2 : 2 * j + 1);
        double turn = pos * pow(theta, -2.0 * j / dim), re = *a, im = *b;
        *a = (float)(re * cos(turn) - im * sin(turn));
        *b = (float)(re * sin(turn) + im * cos(turn));
    }
}

static void add(float *x, const float *y, size_t n) {
    for (size_t i = 0; i < n; i++)
        x[i] += y[i];
}

/* x += weight * down(silu(gate in) * up in) */
static void add_ffn(const ffn *f, const float *in, double weight, float *x) {
    size_t hidden = f->gate.rows, d = f->down.rows;
    float *g = floats(hidden), *u = floats(hidden), *y = floats(d);
    linear(&f->gate, in, g);
    linear(&f->up, in, u);
    for (size_t i = 0; i < hidden; i++)
        g[i] = (float)(g[i] * sigmoid(g[i]) * u[i]);
    linear(&f->down, g, y);
    for (size_t i = 0; i < d; i++)
        x[i] += (float)(weight * y[i]);
    free(g);
    free(u);
    free(y);
}

static void add_moe(const reference *r, const block *b, const float *in, float *x) {
    const model_plan *c = &r->c;
    uint32_t n = c->n_experts, k = c->n_experts_per_tok;
    float *l = floats(n);
    bool *taken = must_alloc(n, sizeof *taken);
    uint32_t *pick = must_alloc(k, sizeof *pick);
    linear(&b->router, in, l);
    double max = -INFINITY, sum = 0;
    for (uint32_t i = 0; i < k; i++) { /* ties: lower index */
        uint32_t best = n;
        for (uint32_t j = 0; j < n; j++) {
            if (taken[j]) continue;
            if (best == n || l[j] + b->router_bias.v[j] > l[best] + b->router_bias.v[best])
                best = j;
        }
        taken[best] = true;
        pick[i] = best;
        if (l[best] > max) max = l[best];
    }
    for (uint32_t i = 0; i < k; i++)
        sum += exp(l[pick[i]] - max);
    for (uint32_t i = 0; i < k; i++)
        add_ffn(&b->routed[pick[i]], in, exp(l[pick[i]] - max) / sum, x);
    for (uint32_t i = 0; i < c->n_shared_experts; i++)
        add_ffn(&b->shared[i], in, 1, x);
    free(l);
    free(taken);
    free(pick);
}

/* ---- attention ---- */

/* What a position leaves for later ones at one depth: keys and values per head. */
typedef struct {
    float *k, *v; /* [S][n_kv][k_dim], [S][n_kv][v_dim] */
    uint32_t n_kv, k_dim, v_dim;
} kv;

static kv kv_new(const model_plan *c, uint32_t n) {
    bool mla = c->attn == ATTN_MLA;
    kv s = {.n_kv = mla ? c->n_heads : c->n_kv_heads,
            .k_dim = mla ? c->qk_nope_head_dim + c->qk_rope_head_dim : c->head_dim,
            .v_dim = mla ? c->v_head_dim : c->head_dim};
    s.k = floats((size_t)n * s.n_kv * s.k_dim);
    s.v = floats((size_t)n * s.n_kv * s.v_dim);
    return s;
}

static void kv_free(kv *s) {
    free(s->k);
    free(s->v);
}

/* K and V of position pos from its normed input x. */
static void write_kv(const reference *r, const block *b, kv *s, uint32_t pos, const float *x) {
    const model_plan *c = &r->c;
    float *k = s->k + (size_t)pos * s->n_kv * s->k_dim,
          *v = s->v + (size_t)pos * s->n_kv * s->v_dim;
    if (c->attn == ATTN_GQA) {
        linear(&b->wk, x, k);
        linear(&b->wv, x, v);
        for (uint32_t h = 0; h < s->n_kv; h++)
            rope(k + h * s->k_dim, s->k_dim, pos, c->rope_theta, c->rope_halves);
        return;
    }
    uint32_t nope = c->qk_nope_head_dim, rot = c->qk_rope_head_dim, rank = c->kv_lora_rank;
    float *down = floats(rank + rot), *latent = floats(rank), *up = floats(b->kv_up.rows);
    linear(&b->kv_down, x, down);
    rms(r, down, &b->kv_norm, latent);
    rope(down + rank, rot, pos, c->rope_theta, c->rope_halves);
    linear(&b->kv_up, latent, up);
    for (uint32_t h = 0; h < s->n_kv; h++) { /* one rotated key, shared by all heads */
        const float *from = up + (size_t)h * (nope + s->v_dim);
        memcpy(k + h * s->k_dim, from, nope * sizeof *k);
        memcpy(k + h * s->k_dim + nope, down + rank, rot * sizeof *k);
        memcpy(v + h * s->v_dim, from + nope, s->v_dim * sizeof *v);
    }
    free(down);
    free(latent);
    free(up);
}

/* Queries [n_heads][k_dim] of position pos. */
static void make_query(const reference *r, const block *b, uint32_t pos, const float *x, float *q) {
    const model_plan *c = &r->c;
    if (c->attn == ATTN_GQA) {
        linear(&b->wq, x, q);
        for (uint32_t h = 0; h < c->n_heads; h++) {
            rope(q + h * c->head_dim, c->head_dim, pos, c->rope_theta, c->rope_halves);
        }
        return;
    }
    uint32_t nope = c->qk_nope_head_dim, rot = c->qk_rope_head_dim;
    float *down = floats(c->q_lora_rank), *plain = floats(b->q_up_nope.rows),
          *turned = floats(b->q_up_rope.rows);
    linear(&b->q_down, x, down);
    rms(r, down, &b->q_norm, down);
    linear(&b->q_up_nope, down, plain);
    linear(&b->q_up_rope, down, turned);
    for (uint32_t h = 0; h < c->n_heads; h++) {
        float *to = q + (size_t)h * (nope + rot);
        memcpy(to, plain + h * nope, nope * sizeof *q);
        memcpy(to + nope, turned + h * rot, rot * sizeof *q);
        rope(to + nope, rot, pos, c->rope_theta, c->rope_halves);
    }
    free(down);
    free(plain);
    free(turned);
}

/* Attention of position pos over positions 0..pos of s; the caller frees it. */
static float *attention_of(const reference *r, const block *b, const kv *s, uint32_t pos,
                           const float *in) {
    const model_plan *c = &r->c;
    float *q = floats((size_t)c->n_heads * s->k_dim), *out = floats((size_t)c->n_heads * s->v_dim);
    double *p = must_alloc(pos + 1, sizeof *p);
    make_query(r, b, pos, in, q);
    for (uint32_t h = 0; h < c->n_heads; h++) {
        uint32_t g = h / (c->n_heads / s->n_kv);
        double max = -INFINITY, sum = 0;
        for (uint32_t j = 0; j <= pos; j++) {
            const float *k = s->k + ((size_t)j * s->n_kv + g) * s->k_dim;
            p[j] = dot(q + (size_t)h * s->k_dim, k, s->k_dim) / sqrt(s->k_dim);
            if (p[j] > max) max = p[j];
        }
        for (uint32_t j = 0; j <= pos; j++)
            sum += p[j] = exp(p[j] - max);
        for (uint32_t i = 0; i < s->v_dim; i++) {
            double y = 0;
            for (uint32_t j = 0; j <= pos; j++) {
                y += p[j] / sum * s->v[((size_t)j * s->n_kv + g) * s->v_dim + i];
            }
            out[(size_t)h * s->v_dim + i] = (float)y;
        }
    }
    float *y = floats(c->dim);
    linear(&b->wo, out, y);
    free(q);
    free(out);
    free(p);
    return y;
}

static float *ffn_of(const reference *r, const block *b, const float *in) {
    float *y = floats(r->c.dim);
    if (b->routed) add_moe(r, b, in, y);
    else add_ffn(&b->dense, in, 1, y);
    return y;
}

/* x += y, normed first where the block norms what a sublayer gives. Frees y. */
static void add_sublayer(const reference *r, const mat *out_norm, float *x, float *y) {
    if (out_norm->v) rms(r, y, out_norm, y);
    add(x, y, r->c.dim);
    free(y);
}

/* Runs a block on the positions marked (all if run is NULL); x [S][D] in place. The K/V of
 * positions not run stay in s as they are. */
static void run_block(const reference *r, const block *b, kv *s, uint32_t n, const bool *run,
                      float *x) {
    size_t d = r->c.dim;
    float *normed = floats(n * d), *in = floats(d);
    for (uint32_t p = 0; p < n; p++) {
        if (run && !run[p]) continue;
        rms(r, x + p * d, &b->attn_norm, normed + p * d);
        write_kv(r, b, s, p, normed + p * d);
    }
    for (uint32_t p = 0; p < n; p++) {
        if (run && !run[p]) continue;
        add_sublayer(r, &b->attn_out_norm, x + p * d, attention_of(r, b, s, p, normed + p * d));
        rms(r, x + p * d, &b->ffn_norm, in);
        add_sublayer(r, &b->ffn_out_norm, x + p * d, ffn_of(r, b, in));
    }
    free(normed);
    free(in);
}

/* ---- the loop ---- */

typedef struct {
    float *h, *e, *u, *out; /* [S][D] */
    double *cum;            /* [S] */
    bool *runs, *computes;  /* [S] not halted; goes through the block at this loop */
} loop;

/* u = rms(h + loop_emb(t) + e) */
static void loop_input(const reference *r, uint32_t t, const float *h, const float *e, float *u) {
    uint32_t d = r->c.dim, n = d / 8;
    float *sum = floats(d);
    for (uint32_t i = 0; i < d; i++)
        sum[i] = h[i] + e[i];
    uint32_t sines = (n + 1) / 2;
    for (uint32_t j = 0; j < sines; j++) {
        double a = t * pow(10000, -2.0 * j / n);
        sum[j] += (float)sin(a);
        if (sines + j < n) sum[sines + j] += (float)cos(a);
    }
    rms(r, sum, &r->loop_norm, u);
    free(sum);
}

/* y += ((y Ldown^T) * Lscale[min(t, rows - 1)]) LB */
static void add_lora(const reference *r, uint32_t t, float *y) {
    uint32_t rank = r->c.lora_rank, d = r->c.dim;
    size_t row = t < r->lora_scale.rows ? t : r->lora_scale.rows - 1;
    float *low = floats(rank);
    linear(&r->lora_down, y, low);
    for (uint32_t j = 0; j < rank; j++)
        low[j] *= r->lora_scale.v[row * rank + j];
    for (uint32_t i = 0; i < d; i++) {
        double sum = 0;
        for (uint32_t j = 0; j < rank; j++)
            sum += (double)low[j] * r->lora_B.v[(size_t)j * d + i];
        y[i] += (float)sum;
    }
    free(low);
}

/* The state after the core gave y: A h + B e + y, or y itself, normed where the plan says so. */
static void new_state(const reference *r, const float *e, const float *y, float *h) {
    size_t d = r->c.dim;
    for (size_t i = 0; i < d; i++) {
        if (r->c.inject != INJECT_MYTHOS) {
            h[i] = y[i];
            continue;
        }
        double a = r->log_dt.v[0] + r->log_A.v[i];
        a = exp(-exp(a < -20 ? -20 : a > 20 ? 20 : a));
        h[i] = (float)(a * h[i] + (double)r->B.v[i] * e[i] + y[i]);
    }
    if (r->c.loop_norm) rms(r, h, &r->loop_norm, h);
}

static void keep_margin(ref_result *res, double off) {
    if ((float)fabs(off) < res->margin) res->margin = (float)fabs(off);
}

/* Weight of this loop's state in the output; halts the position where ACT says so. */
static double act(const ref_opts *o, uint32_t t, uint32_t p, double halt, loop *k,
                  ref_result *res) {
    double left = 1 - k->cum[p], w = halt;
    if (left < 0) left = 0;
    if (t + 1 < o->min_loops) {
        if (w > left) w = left;
        k->cum[p] += w;
        return w;
    }
    keep_margin(res, k->cum[p] + halt - (double)o->threshold);
    if (k->cum[p] + halt >= (double)o->threshold) {
        w = left;
        k->runs[p] = false;
    }
    k->cum[p] += halt;
    return w;
}

/* Halts the position where 1 - prod(1 - halt) reaches the threshold; 1 is never reached. */
static void hazard(const ref_opts *o, uint32_t t, uint32_t p, double halt, loop *k,
                   ref_result *res) {
    k->cum[p] = 1 - (1 - k->cum[p]) * (1 - halt);
    if (o->threshold >= 1 || t + 1 < o->min_loops) return;
    keep_margin(res, k->cum[p] - (double)o->threshold);
    if (k->cum[p] >= (double)o->threshold) k->runs[p] = false;
}

/* The new state, its part in the output, and whether the position goes on. */
static void step_position(const reference *r, const ref_opts *o, uint32_t t, uint32_t p, loop *k,
                          ref_result *res) {
    size_t d = r->c.dim;
    float *h = k->h + p * d;
    new_state(r, k->e + p * d, k->u + p * d, h);
    if (!k->runs[p]) return; /* goes on for its K/V only */
    double halt = sigmoid(dot(h, r->exit_w.v, d) + r->exit_b.v[0]);
    res->depth[p] = t + 1;
    if (r->c.output == OUTPUT_STATE) {
        hazard(o, t, p, halt, k, res);
        memcpy(k->out + p * d, h, d * sizeof *h);
        return;
    }
    double w = act(o, t, p, halt, k, res);
    for (size_t i = 0; i < d; i++)
        k->out[p * d + i] += (float)(w * h[i]);
}

/* One K/V store per core layer serves all loops: positions that compute overwrite theirs at
 * each loop, and under `last` a halted one leaves its last. */
static void run_loops(const reference *r, const ref_opts *o, uint32_t n, loop *k, ref_result *res) {
    size_t d = r->c.dim;
    kv *stores = must_alloc(r->c.n_core, sizeof *stores);
    for (uint32_t i = 0; i < r->c.n_core; i++)
        stores[i] = kv_new(&r->c, n);
    uint32_t running = n;
    for (uint32_t p = 0; p < n; p++)
        k->runs[p] = k->computes[p] = true;
    for (uint32_t t = 0; t < o->max_loops && running > 0; t++) {
        for (uint32_t p = 0; p < n; p++) {
            if (o->policy == KV_LAST) k->computes[p] = k->runs[p];
            if (!k->computes[p]) continue;
            if (r->c.inject == INJECT_MYTHOS)
                loop_input(r, t, k->h + p * d, k->e + p * d, k->u + p * d);
            else memcpy(k->u + p * d, k->h + p * d, d * sizeof *k->u);
        }
        for (uint32_t i = 0; i < r->c.n_core; i++)
            run_block(r, &r->core[i], &stores[i], n, k->computes, k->u);
        running = 0;
        for (uint32_t p = 0; p < n; p++) {
            if (!k->computes[p]) continue;
            if (r->lora_down.v) add_lora(r, t, k->u + p * d);
            step_position(r, o, t, p, k, res);
            running += k->runs[p];
        }
    }
    for (uint32_t i = 0; i < r->c.n_core; i++)
        kv_free(&stores[i]);
    free(stores);
}

static void run_stage(const reference *r, const block *blocks, uint32_t n_blocks, uint32_t n,
                      float *x) {
    for (uint32_t i = 0; i < n_blocks; i++) {
        kv s = kv_new(&r->c, n);
        run_block(r, &blocks[i], &s, n, NULL, x);
        kv_free(&s);
    }
}

ref_result ref_run(const reference *r, const uint32_t *ids, uint32_t n, const ref_opts *opts) {
    size_t d = r->c.dim;
    ref_opts o = *opts;
    if (o.max_loops == 0) o.max_loops = r->c.loops_default;
    if (o.threshold == 0) o.threshold = r->c.exit_threshold;
    ref_result res = {.n = n, .vocab = r->c.vocab_size, .margin = 1};
    res.logits = floats((size_t)n * res.vocab);
    res.depth = must_alloc(n, sizeof *res.depth);
    loop k = {floats(n * d),
              floats(n * d),
              floats(n * d),
              floats(n * d),
              must_alloc(n, sizeof(double)),
              must_alloc(n, 1),
              must_alloc(n, 1)};
    for (uint32_t p = 0; p < n; p++)
        memcpy(k.e + p * d, r->embed.v + ids[p] * d, d * sizeof(float));
    run_stage(r, r->prelude, r->c.n_prelude, n, k.e);
    memcpy(k.h, k.e, n * d * sizeof(float));
    run_loops(r, &o, n, &k, &res);
    run_stage(r, r->coda, r->c.n_coda, n, k.out);
    for (uint32_t p = 0; p < n; p++) {
        if (r->norm.v) rms(r, k.out + p * d, &r->norm, k.out + p * d);
        linear(&r->head, k.out + p * d, res.logits + (size_t)p * res.vocab);
    }
    free(k.h);
    free(k.e);
    free(k.u);
    free(k.out);
    free(k.cum);
    free(k.runs);
    free(k.computes);
    return res;
}

void ref_result_deinit(ref_result *r) {
    free(r->logits);
    free(r->depth);
    *r = (ref_result){0};
}

double ref_relative_error(const float *a, const float *b, size_t n) {
    double worst = 0, largest = 0;
    for (size_t i = 0; i < n; i++) {
        double off = fabs((double)a[i] - b[i]);
        if (!(off <= worst)) worst = off; /* NaN counts as worst */
        if (fabs(b[i]) > largest) largest = fabs(b[i]);
    }
    return worst / largest;
}
