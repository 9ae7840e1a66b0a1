/* stages.c - the three stages: prelude, one loop of the core, coda and head. */
#include "engine/cpu/cpu_internal.h"
#include "engine/rowmath.h"

#include <math.h>
#include <string.h>

enum { ROPE_LOW = 256 };

int eng__tables_init(eng__cpu *g, err *e) {
    const model_plan *c = &g->plan;
    uint32_t rope = c->attn == ATTN_MLA ? c->qk_rope_head_dim : c->head_dim;
    uint32_t high = g->opts.max_positions / ROPE_LOW + 1, n = c->dim / 8;
    g->rope_pairs = rope / 2;
    g->loop_width = n;
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
        for (uint32_t i = 0, half = n / 2 + n % 2; i < n; i++) { /* sines first */
            double angle = t * pow(10000.0, -2.0 * (i < half ? i : i - half) / n);
            g->loop_emb[t * n + i] = (float)(i < half ? sin(angle) : cos(angle));
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
static bool runs_all(const eng_row *r) {
    return (r->flags & ENG_ROW_KV_ONLY) == 0;
}
static bool wants_logits(const eng_row *r) {
    return (r->flags & ENG_ROW_LOGITS) != 0;
}

static void norm_rows(eng__cpu *g, uint32_t first, uint32_t last, const float *w) {
    for (uint32_t s = first; s < last; s++) {
        g->k->rms(g->x + s * g->ld_d, w, g->xn + s * g->ld_d, g->plan.dim, g->plan.norm_eps);
    }
}

typedef struct {
    eng__cpu *g;
    const float *norm;
} norm_arg;

static void norm_work(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    const norm_arg *a = arg;
    (void)worker;
    norm_rows(a->g, first, last, a->norm);
}

static void norm(eng__cpu *g, const float *w, uint32_t n) {
    norm_arg a = {g, w};
    eng__pool_run(g->pool, norm_work, &a, n, 4);
}

/* x += norm(xn): xn holds what a sublayer gave. */
static void add_normed_work(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    const norm_arg *a = arg;
    eng__cpu *g = a->g;
    (void)worker;
    for (uint32_t s = first; s < last; s++) {
        float *xn = g->xn + s * g->ld_d;
        g->k->rms(xn, a->norm, xn, g->plan.dim, g->plan.norm_eps);
        g->k->scale_add(g->x + s * g->ld_d, 1.0f, xn, 1.0f, g->plan.dim);
    }
}

/* A sublayer is behind us: with NORM_SANDWICH its output still waits for its norm. */
static void end_sublayer(eng__cpu *g, const float *w) {
    norm_arg a = {g, w};
    if (g->plan.norms != NORM_SANDWICH) return;
    eng__pool_run(g->pool, add_normed_work, &a, g->n_full, 4);
}

/* One layer on x. Rows from n_full on only write their keys and values. */
static void layer(eng__cpu *g, const eng__layer *l) {
    norm(g, l->attn_norm, g->n);
    eng__attention(g, l);
    if (g->n_full == 0) return;
    end_sublayer(g, l->attn_out_norm);
    norm(g, l->ffn_norm, g->n_full);
    if (l->moe) eng__ffn_moe(g, l);
    else eng__ffn_dense(g, l);
    end_sublayer(g, l->ffn_out_norm);
}

static void set_planes(eng__cpu *g, uint32_t plane) {
    for (uint32_t s = 0; s < g->n; s++)
        g->plane[s] = plane;
}

/* ---- prelude ---- */

static void prelude_start_work(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    eng__cpu *g = arg;
    size_t d = g->plan.dim;
    (void)worker;
    for (uint32_t s = first; s < last; s++) {
        const eng_row *r = eng__row_of(g, s);
        float *x = g->x + s * g->ld_d;
        model_tensor_read(&g->embed, r->token * d, d, x);
        for (size_t i = 0; g->plan.embed_scale != 1 && i < d; i++)
            x[i] *= g->plan.embed_scale;
        eng__rope_at(g, r->pos, g->rope + s * g->ld_rope);
    }
}

static void start_state(const eng__cpu *g, const eng_row *r, const float *x) {
    size_t d = g->plan.dim;
    float *h = g->h + r->row * d;
    switch (g->opts.state0) {
    case STATE_EMBEDDING: memcpy(h, x, d * sizeof *h); break;
    case STATE_ZERO: memset(h, 0, d * sizeof *h); break;
    case STATE_SEEDED:
        for (size_t i = 0; i < d; i++)
            h[i] = rm_seeded_state(r->pos, (uint32_t)i, g->plan.state0_std);
        break;
    }
}

static void prelude_end_work(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    eng__cpu *g = arg;
    size_t d = g->plan.dim;
    (void)worker;
    for (uint32_t s = first; s < last; s++) {
        const eng_row *r = eng__row_of(g, s);
        const float *x = g->x + s * g->ld_d;
        start_state(g, r, x);
        if (g->plan.inject != INJECT_NONE) memcpy(g->e + r->row * d, x, d * sizeof *g->e);
        memset(g->out + r->row * d, 0, d * sizeof *g->out);
        g->cum[r->row] = 0;
    }
}

void eng__stage_prelude(eng__cpu *g) {
    order_rows(g, all_full);
    eng__pool_run(g->pool, prelude_start_work, g, g->n, 8);
    for (uint32_t i = 0; i < g->plan.n_prelude; i++) {
        set_planes(g, plan_plane_prelude(&g->plan, i));
        layer(g, &g->prelude[i]);
    }
    eng__pool_run(g->pool, prelude_end_work, g, g->n, 8);
}

/* ---- one loop ---- */

/* x = norm(h + loop embedding + e) */
static void mythos_input(const eng__cpu *g, const eng_row *r, float *x) {
    size_t d = g->plan.dim, n = g->loop_width;
    const float *h = g->h + r->row * d, *e = g->e + r->row * d, *le = g->loop_emb + r->loop * n;
    for (size_t i = 0; i < n; i++)
        x[i] = h[i] + le[i] + e[i];
    for (size_t i = n; i < d; i++)
        x[i] = h[i] + e[i];
    g->k->rms(x, g->loop_norm, x, d, g->plan.norm_eps);
}

static void loop_start_work(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    eng__cpu *g = arg;
    size_t d = g->plan.dim;
    (void)worker;
    for (uint32_t s = first; s < last; s++) {
        const eng_row *r = eng__row_of(g, s);
        float *x = g->x + s * g->ld_d;
        if (g->plan.inject == INJECT_MYTHOS) mythos_input(g, r, x);
        else memcpy(x, g->h + r->row * d, d * sizeof *x);
        eng__rope_at(g, r->pos, g->rope + s * g->ld_rope);
    }
}

/* y = x + LoRA(x); x = A h + B e + y: the new state. */
static void mythos_state(eng__cpu *g, uint32_t s, const eng_row *r) {
    size_t d = g->plan.dim, rank = g->plan.lora_rank;
    float *x = g->x + s * g->ld_d;
    const float *h = g->h + r->row * d, *e = g->e + r->row * d;
    if (rank) {
        const float *z = g->lora + s * g->ld_lora;
        const float *scale = g->lora_scale + rm_lora_row(r->loop, g->lora_rows) * rank;
        for (size_t i = 0; i < rank; i++) {
            g->k->scale_add(x, 1.0f, g->lora_b + i * d, z[i] * scale[i], d);
        }
    }
    for (size_t i = 0; i < d; i++)
        x[i] = rm_lti(h[i], e[i], x[i], g->inj_a[i], g->inj_b[i]);
}

static float gate_of(const eng__cpu *g, const float *state) {
    return rm_sigmoid(g->k->dot(state, g->exit_w, g->plan.dim) + g->exit_bias);
}

/* ACT: how much of the state the output takes, and whether the row leaves. */
static bool act(eng__cpu *g, const eng_row *r, const float *state) {
    rm_act_step step = rm_act(g->cum[r->row], gate_of(g, state), r->threshold, r->loop + 1u,
                              r->min_loops, r->max_loops);
    g->cum[r->row] = step.cum;
    g->k->scale_add(g->out + r->row * g->plan.dim, 1.0f, state, step.weight, g->plan.dim);
    return step.halted != 0;
}

static bool latent_diff(const eng__cpu *g, const eng_row *r, const float *state) {
    size_t d = g->plan.dim;
    const float *before = g->h + r->row * d;
    float diff = 0;
    for (size_t i = 0; i < d; i++)
        diff += (state[i] - before[i]) * (state[i] - before[i]);
    return rm_latent_diff(diff, g->k->dot(state, state, d), r->threshold, r->loop + 1u,
                          r->min_loops, r->max_loops);
}

static bool cosine(const eng__cpu *g, const eng_row *r, const float *state) {
    size_t d = g->plan.dim;
    const float *before = g->h + r->row * d;
    return rm_cosine(g->k->dot(state, before, d), g->k->dot(state, state, d),
                     g->k->dot(before, before, d), r->threshold, r->loop + 1u, r->min_loops,
                     r->max_loops);
}

/* Whether the row leaves with this state; h still holds the one before. */
static bool leaves(eng__cpu *g, const eng_row *r, const float *state) {
    switch (g->opts.exit) {
    case EXIT_ACT: return act(g, r, state);
    case EXIT_HAZARD: {
        rm_hazard_step step = rm_hazard(g->cum[r->row], gate_of(g, state), r->threshold,
                                        r->loop + 1u, r->min_loops, r->max_loops);
        g->cum[r->row] = step.cum;
        return step.halted != 0;
    }
    case EXIT_LATENT_DIFF: return latent_diff(g, r, state);
    case EXIT_COSINE: return cosine(g, r, state);
    case EXIT_FIXED: break;
    }
    return r->loop + 1u >= r->max_loops;
}

static void loop_end_work(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    eng__cpu *g = arg;
    size_t d = g->plan.dim;
    (void)worker;
    for (uint32_t s = first; s < last; s++) {
        const eng_row *r = eng__row_of(g, s);
        float *x = g->x + s * g->ld_d;
        if (g->plan.inject == INJECT_MYTHOS) mythos_state(g, s, r);
        if (g->plan.loop_norm) g->k->rms(x, g->loop_norm, x, d, g->plan.norm_eps);
        if ((r->flags & ENG_ROW_TAIL) == 0) {
            bool halts = leaves(g, r, x);
            g->halted[g->perm[s]] = halts;
            if (halts && g->plan.output == OUTPUT_STATE)
                memcpy(g->out + r->row * d, x, d * sizeof *x);
        }
        memcpy(g->h + r->row * d, x, d * sizeof *x);
    }
}

static void lora(eng__cpu *g) {
    g->jobs[0] = (eng__gemm){.w = &g->lora_down,
                             .x = g->x,
                             .ldx = g->ld_d,
                             .y = g->lora,
                             .ldy = g->ld_lora,
                             .rows = g->n_full};
    eng__gemm_run(g, g->jobs, 1);
}

/* Rows of a tail's last loop need no output, so they stop at the keys and values of the last
 * layer; in the layers before it they run like all others. */
void eng__stage_recurrent(eng__cpu *g) {
    order_rows(g, runs_all);
    uint32_t n_full = g->n_full;
    memset(g->halted, 0, g->n_rows);
    for (uint32_t s = 0; s < g->n; s++)
        g->plane[s] = plan_plane_loop(&g->plan, eng__row_of(g, s)->loop);
    eng__pool_run(g->pool, loop_start_work, g, g->n, 4);
    g->n_full = g->n;
    for (uint32_t i = 0; i < g->plan.n_core; i++) {
        if (i + 1 == g->plan.n_core) g->n_full = n_full;
        layer(g, &g->core[i]);
    }
    if (g->n_full == 0) return;
    if (g->plan.inject == INJECT_MYTHOS && g->plan.lora_rank) lora(g);
    eng__pool_run(g->pool, loop_end_work, g, g->n_full, 4);
}

/* ---- coda and head ---- */

/* Coda works on a copy of out: the row may still loop as a tail. */
static void coda_start_work(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    eng__cpu *g = arg;
    size_t d = g->plan.dim;
    (void)worker;
    for (uint32_t s = first; s < last; s++) {
        const eng_row *r = eng__row_of(g, s);
        memcpy(g->x + s * g->ld_d, g->out + r->row * d, d * sizeof *g->out);
        eng__rope_at(g, r->pos, g->rope + s * g->ld_rope);
    }
}

void eng__stage_coda(eng__cpu *g) {
    order_rows(g, wants_logits);
    uint32_t n_logits = g->n_full;
    g->n_full = g->n;
    eng__pool_run(g->pool, coda_start_work, g, g->n, 8);
    for (uint32_t i = 0; i < g->plan.n_coda; i++) {
        if (i + 1 == g->plan.n_coda) g->n_full = n_logits;
        set_planes(g, plan_plane_coda(&g->plan, i));
        layer(g, &g->coda[i]);
    }
    g->n_logits = n_logits;
    if (n_logits == 0) return;
    if (g->plan.final_norm) norm(g, g->final_norm, n_logits);
    g->jobs[0] = (eng__gemm){.w = &g->head,
                             .x = g->plan.final_norm ? g->xn : g->x,
                             .ldx = g->ld_d,
                             .y = g->logits,
                             .ldy = g->plan.vocab_size,
                             .rows = n_logits};
    eng__gemm_run(g, g->jobs, 1);
}
