/* attention.c - a layer's attention: its products, K and V to the slot cache, queries by group.
 *
 * K and V of all rows of the launch are written before any row attends. The queries of
 * consecutive positions of one sequence make a run; attention_blocks.c computes a run
 * over the cache as it is, attention_expanded.c with keys rebuilt per head. */
#include "engine/cpu/cpu_internal.h"
#include "engine/rowmath.h"

#include <string.h>

typedef struct {
    eng__cpu *g;
    const eng__layer *l;
} layer_arg;

static void rotate(float *v, const float *turn, uint32_t pairs) {
    for (uint32_t i = 0; i < pairs; i++)
        rm_rotate(&v[2 * i], &v[2 * i + 1], turn[2 * i], turn[2 * i + 1]);
}

static void store_slot(eng__cpu *g, uint32_t s, const float *values) {
    const eng_row *r = eng__row_of(g, s);
    uint32_t slot;
    if (!eng__find_slot(g, r->blocks, r->pos, g->plane[s], &slot)) return;
    size_t n = g->plan.layer_values, at = eng__layer_at(g, slot);
    if (g->opts.cache_dtype == DTYPE_BF16) {
        g->k->narrow(values, (uint16_t *)g->slots + at, n);
    } else {
        memcpy((float *)g->slots + at, values, n * sizeof *values);
    }
}

/* ---- before attention: K/V to the cache, queries laid out by group ---- */

static void store_kv_work(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    const layer_arg *a = arg;
    eng__cpu *g = a->g;
    const model_plan *c = &g->plan;
    float *tmp = g->scratch[worker].tmp;
    for (uint32_t s = first; s < last; s++) {
        const float *kv = g->kv + s * g->ld_kv, *turn = g->rope + s * g->ld_rope;
        memcpy(tmp, kv, c->layer_values * sizeof *tmp);
        if (c->attn == ATTN_MLA) {
            g->k->rms(kv, a->l->kv_norm, tmp, c->kv_lora_rank, c->norm_eps);
            rotate(tmp + c->kv_lora_rank, turn, g->rope_pairs);
            if (s < g->n_full) {
                float *cq = g->cq + s * g->ld_q;
                g->k->rms(cq, a->l->q_norm, cq, c->q_lora_rank, c->norm_eps);
            }
        } else {
            for (uint32_t h = 0; h < c->n_kv_heads; h++)
                rotate(tmp + h * c->head_dim, turn, g->rope_pairs);
        }
        store_slot(g, s, tmp);
    }
}

static void lay_out_queries_work(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    eng__cpu *g = arg;
    const model_plan *c = &g->plan;
    (void)worker;
    for (uint32_t s = first; s < last; s++) {
        const float *turn = g->rope + s * g->ld_rope;
        for (uint32_t h = 0; h < c->n_heads; h++) {
            uint32_t group = h / g->group_heads, in = h % g->group_heads;
            float *q =
                g->q + (((size_t)group * g->opts.max_launch + s) * g->group_heads + in) * g->dk;
            if (c->attn == ATTN_MLA) {
                uint32_t rope = c->qk_rope_head_dim;
                q += c->kv_lora_rank;
                memcpy(q, g->qr + s * g->ld_qr + h * rope, rope * sizeof *q);
            } else {
                memcpy(q, g->qn + s * g->ld_qn + h * g->dk, g->dk * sizeof *q);
            }
            rotate(q, turn, g->rope_pairs);
        }
    }
}

static void project_mla(eng__cpu *g, const eng__layer *l) {
    layer_arg a = {g, l};
    g->jobs[0] = (eng__gemm){
        .w = &l->kv_down, .x = g->xn, .ldx = g->ld_d, .y = g->kv, .ldy = g->ld_kv, .rows = g->n};
    g->jobs[1] = (eng__gemm){
        .w = &l->q_down, .x = g->xn, .ldx = g->ld_d, .y = g->cq, .ldy = g->ld_q, .rows = g->n_full};
    eng__gemm_run(g, g->jobs, 2);
    eng__pool_run(g->pool, store_kv_work, &a, g->n, 4);
    g->jobs[0] = (eng__gemm){.w = &l->q_up_nope,
                             .x = g->cq,
                             .ldx = g->ld_q,
                             .y = g->qn,
                             .ldy = g->ld_qn,
                             .rows = g->n_full};
    g->jobs[1] = (eng__gemm){.w = &l->q_up_rope,
                             .x = g->cq,
                             .ldx = g->ld_q,
                             .y = g->qr,
                             .ldy = g->ld_qr,
                             .rows = g->n_full};
    eng__gemm_run(g, g->jobs, 2);
    eng__pool_run(g->pool, lay_out_queries_work, g, g->n_full, 4);
}

/* The queries of rows [first, last) into the latent: absorbed keys. */
static void absorb_keys(eng__cpu *g, const eng__layer *l, uint32_t first, uint32_t last) {
    const model_plan *c = &g->plan;
    for (uint32_t h = 0; h < c->n_heads; h++) {
        g->jobs[h] = (eng__gemm){.w = &l->uk[h],
                                 .x = g->qn + first * g->ld_qn + h * c->qk_nope_head_dim,
                                 .ldx = g->ld_qn,
                                 .y = g->q + ((size_t)first * c->n_heads + h) * g->dk,
                                 .ldy = (size_t)c->n_heads * g->dk,
                                 .rows = last - first};
    }
    eng__gemm_run(g, g->jobs, c->n_heads);
}

/* What they gathered in the latent into values. */
static void absorb_values(eng__cpu *g, const eng__layer *l, uint32_t first, uint32_t last) {
    const model_plan *c = &g->plan;
    for (uint32_t h = 0; h < c->n_heads; h++) {
        g->jobs[h] = (eng__gemm){.w = &l->uv[h],
                                 .x = g->ctx + first * g->ld_ctx + (size_t)h * g->dv,
                                 .ldx = g->ld_ctx,
                                 .y = g->o + first * g->ld_o + h * c->v_head_dim,
                                 .ldy = g->ld_o,
                                 .rows = last - first};
    }
    eng__gemm_run(g, g->jobs, c->n_heads);
}

/* Calls absorb for each stretch of rows whose runs are not expanded. */
static void absorb(eng__cpu *g, const eng__layer *l,
                   void (*fn)(eng__cpu *, const eng__layer *, uint32_t, uint32_t)) {
    for (uint32_t i = 0; i < g->n_runs;) {
        uint32_t first = g->runs[i].first, last = first;
        for (; i < g->n_runs && !g->runs[i].expanded; i++)
            last += g->runs[i].n;
        if (last > first) fn(g, l, first, last);
        else i++;
    }
}

static void project_gqa(eng__cpu *g, const eng__layer *l) {
    layer_arg a = {g, l};
    size_t kv = (size_t)g->plan.n_kv_heads * g->plan.head_dim;
    g->jobs[0] = (eng__gemm){
        .w = &l->wk, .x = g->xn, .ldx = g->ld_d, .y = g->kv, .ldy = g->ld_kv, .rows = g->n};
    g->jobs[1] = (eng__gemm){
        .w = &l->wv, .x = g->xn, .ldx = g->ld_d, .y = g->kv + kv, .ldy = g->ld_kv, .rows = g->n};
    g->jobs[2] = (eng__gemm){
        .w = &l->wq, .x = g->xn, .ldx = g->ld_d, .y = g->qn, .ldy = g->ld_qn, .rows = g->n_full};
    eng__gemm_run(g, g->jobs, 3);
    eng__pool_run(g->pool, store_kv_work, &a, g->n, 4);
    eng__pool_run(g->pool, lay_out_queries_work, g, g->n_full, 4);
}

/* ---- runs ---- */

static void add_run(eng__cpu *g, uint32_t first, uint32_t last, bool expanded) {
    if (last > first) g->runs[g->n_runs++] = (eng__run){first, last - first, expanded};
}

/* Consecutive positions in rows [first, last): which of them are expanded. A row is when those
 * that follow it up to the end of its window are here too, and with them a block at least: that
 * asks nothing of other sequences nor of how many windows run together, and a window whose start
 * came from the prefix cache decides for the rest as it would have for all. The coda may be
 * cut anywhere and stays absorbed. */
static void add_runs(eng__cpu *g, uint32_t first, uint32_t last) {
    uint32_t begin = first, pos = eng__row_of(g, first)->pos, window = g->in_coda ? 0 : g->window;
    if (window == 0) {
        add_run(g, first, last, false);
        return;
    }
    uint32_t to_end = window - pos % window;
    if (to_end < ENG_BLOCK) begin += to_end;
    uint32_t past = (pos + last - first) % window; /* rows of a window that is not whole */
    uint32_t end = last - first >= to_end ? last - past : first;
    if (end <= begin) {
        add_run(g, first, last, false);
        return;
    }
    add_run(g, first, begin, false);
    add_run(g, begin, end, true);
    add_run(g, end, last, false);
}

static void find_runs(eng__cpu *g) {
    g->n_runs = 0;
    for (uint32_t s = 0, n; s < g->n_full; s += n) {
        const eng_row *r = eng__row_of(g, s);
        for (n = 1; s + n < g->n_full; n++) {
            const eng_row *next = eng__row_of(g, s + n);
            if (next->blocks != r->blocks || next->pos != r->pos + n) break;
            if (g->plane[s + n] != g->plane[s]) break;
        }
        add_runs(g, s, s + n);
    }
}

eng__gemm eng__to_stream(const eng__cpu *g, const eng__mat *w, const float *x, size_t ldx) {
    bool apart = g->plan.norms == NORM_SANDWICH;
    return (eng__gemm){.w = w,
                       .x = x,
                       .ldx = ldx,
                       .y = apart ? g->xn : g->x,
                       .ldy = g->ld_d,
                       .rows = g->n_full,
                       .op = apart ? ENG__STORE : ENG__ADD};
}

void eng__attention(eng__cpu *g, const eng__layer *l) {
    bool mla = g->plan.attn == ATTN_MLA;
    g->slot_at = l->slot_at;
    if (mla) project_mla(g, l);
    else project_gqa(g, l);
    if (g->n_full == 0) return;
    find_runs(g);
    if (mla) absorb(g, l, absorb_keys);
    eng__attend_blocks(g);
    if (g->window) eng__attend_expanded(g, l);
    if (mla) absorb(g, l, absorb_values);
    g->jobs[0] = eng__to_stream(g, &l->wo, mla ? g->o : g->ctx, mla ? g->ld_o : g->ld_ctx);
    eng__gemm_run(g, g->jobs, 1);
}
