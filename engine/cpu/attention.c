/* attention.c - MLA (absorbed; expanded.c has the other form) and GQA over the slot cache.
 *
 * K and V of all rows of the launch are written before any row attends. Attention is
 * computed per query, segment of ENG__SEGMENT positions by segment within spans of
 * ENG__SPAN, which are merged in order. So a query's bits depend only on its own position
 * and the cache; queries of one run share the work of widening a segment, and the spans of
 * a long context may go to different threads. */
#include "engine/cpu/cpu_internal.h"
#include "engine/rowmath.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

enum { AHEAD = 6 }; /* slots fetched before they are read */

typedef struct {
    eng__cpu *g;
    const eng__layer *l;
} layer_arg;

static const eng_row *row_of(const eng__cpu *g, uint32_t s) {
    return &g->rows[g->perm[s]];
}

/* Slot of a position, or ENG_NO_SLOT when the map names none that exists. */
static inline uint32_t slot_at(const eng__cpu *g, const uint32_t *blocks, uint32_t pos,
                               uint32_t plane) {
    size_t map = (size_t)blocks[pos / ENG_BLOCK] * g->base.info.n_planes + plane;
    uint32_t slot = g->maps[map * ENG_BLOCK + pos % ENG_BLOCK] - 1;
    return slot < g->base.info.n_slots ? slot : ENG_NO_SLOT;
}

static void rotate(float *v, const float *turn, uint32_t pairs) {
    for (uint32_t i = 0; i < pairs; i++)
        rm_rotate(&v[2 * i], &v[2 * i + 1], turn[2 * i], turn[2 * i + 1]);
}

static void store_slot(eng__cpu *g, uint32_t s, const float *values) {
    const eng_row *r = row_of(g, s);
    uint32_t slot = slot_at(g, r->blocks, r->pos, g->plane[s]);
    if (slot == ENG_NO_SLOT) {
        atomic_store_explicit(&g->bad_slot, 1, memory_order_relaxed);
        return;
    }
    size_t n = g->plan.layer_values, at = (size_t)slot * g->plan.slot_values + g->slot_at;
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

/* ---- attention proper ---- */

typedef struct { /* positions [first, end) of a plane; blocks NULL: none */
    const uint32_t *blocks;
    uint32_t plane, group, first, end;
} piece;

typedef struct { /* up to ROW_BLOCK queries of one group and one run */
    eng__cpu *g;
    eng__scratch *s;
    const uint32_t *blocks;
    uint32_t plane, group;
    uint32_t row0, first, n; /* query m belongs to scratch row row0 + (first + m) / group_heads */
    float *to;               /* [n][dv] results; NULL: the launch's ctx */
    piece next, after;       /* to be read after the segment at hand, and after all of this block */
    float top[ENG__ROW_BLOCK], sum[ENG__ROW_BLOCK], keep[ENG__ROW_BLOCK];
} query_block;

static uint32_t query_row(const query_block *b, uint32_t m) {
    return b->row0 + (b->first + m) / b->g->group_heads;
}

static float *context_of(const query_block *b, uint32_t m) {
    const eng__cpu *g = b->g;
    if (b->to) return b->to + (size_t)m * g->dv;
    uint32_t head = b->group * g->group_heads + (b->first + m) % g->group_heads;
    return g->ctx + query_row(b, m) * g->ld_ctx + (size_t)head * g->dv;
}

/* Queries as the columns of panels, scaled: qt[panel][dk][PANEL]. */
static void transpose_queries(const query_block *b) {
    const eng__cpu *g = b->g;
    size_t from = ((size_t)b->group * g->opts.max_launch + b->row0) * g->group_heads + b->first;
    const float *q = g->q + from * g->dk;
    for (uint32_t m = 0; m < b->n; m++, q += g->dk) {
        float *to = b->s->qt + (size_t)(m / ENG__PANEL) * g->dk * ENG__PANEL + m % ENG__PANEL;
        for (uint32_t d = 0; d < g->dk; d++)
            to[d * ENG__PANEL] = q[d] * g->attn_scale;
    }
}

/* First value of a group's keys (part 0) or values (part 1) inside a layer; MLA's latent is both.
 */
static size_t part_at(const eng__cpu *g, uint32_t group, uint32_t part) {
    if (g->plan.attn == ATTN_MLA) return 0;
    return part == 0 ? (size_t)group * g->dk : (size_t)(g->groups + group) * g->dk;
}

/* Brings one group's keys and values of a slot nearer; other groups' lie beside them. */
static inline void prefetch_group(const eng__cpu *g, uint32_t slot, uint32_t group, bool near) {
    size_t value = model_dtype_bytes(g->opts.cache_dtype), bytes = g->dk * value;
    const uint8_t *layer =
        (const uint8_t *)g->slots + slot * g->base.info.slot_bytes + g->slot_at * value;
    uint32_t parts = g->plan.attn == ATTN_MLA ? 1 : 2;
    for (uint32_t part = 0; part < parts; part++) {
        const uint8_t *p = layer + part_at(g, group, part) * value;
        for (size_t i = 0; i < bytes; i += 64) {
            if (near) __builtin_prefetch(p + i);
            else __builtin_prefetch(p + i, 0, 2);
        }
    }
}

/* Slots lie anywhere: only the map knows what will be read next. */
static void prefetch_slot(const eng__cpu *g, const uint32_t *blocks, uint32_t plane, uint32_t group,
                          uint32_t pos) {
    uint32_t slot = slot_at(g, blocks, pos, plane);
    if (slot != ENG_NO_SLOT) prefetch_group(g, slot, group, true);
}

void eng__gather(eng__cpu *g, const uint32_t *blocks, uint32_t plane, uint32_t group, uint32_t p0,
                 uint32_t n, float *to) {
    bool mla = g->plan.attn == ATTN_MLA, half = g->opts.cache_dtype == DTYPE_BF16;
    size_t key_at = part_at(g, group, 0), val_at = part_at(g, group, 1);
    for (uint32_t i = 0; i < n; i++, to += g->kv_ld) {
        if (i + AHEAD < n) prefetch_slot(g, blocks, plane, group, p0 + i + AHEAD);
        uint32_t slot = slot_at(g, blocks, p0 + i, plane);
        if (slot == ENG_NO_SLOT) {
            atomic_store_explicit(&g->bad_slot, 1, memory_order_relaxed);
            memset(to, 0, g->kv_ld * sizeof *to);
            continue;
        }
        size_t at = (size_t)slot * g->plan.slot_values + g->slot_at;
        if (half) {
            const uint16_t *from = (const uint16_t *)g->slots + at;
            g->k->widen(from + key_at, to, g->dk);
            if (!mla) g->k->widen(from + val_at, to + g->val_off, g->dv);
        } else {
            const float *from = (const float *)g->slots + at;
            memcpy(to, from + key_at, g->dk * sizeof *to);
            if (!mla) memcpy(to + g->val_off, from + val_at, g->dv * sizeof *to);
        }
    }
}

/* The part of the next segment that is as far from its start as `at` is in this one: it comes
 * to the second cache while this one is computed, and takes no place in the first. */
static void prefetch_next(const query_block *b, uint32_t at) {
    const eng__cpu *g = b->g;
    uint32_t first = b->next.first + at, end = first + ENG__TILE;
    for (uint32_t p = first; p < end && p < b->next.end; p++) {
        uint32_t slot = slot_at(g, b->next.blocks, p, b->next.plane);
        if (slot != ENG_NO_SLOT) prefetch_group(g, slot, b->next.group, false);
    }
}

/* score[position][PANEL] of up to PANEL queries; columns beyond them are of no meaning. */
static void score_panel(const query_block *b, uint32_t m0, uint32_t queries, uint32_t n,
                        float *score) {
    const eng__cpu *g = b->g;
    const float *qt = b->s->qt + (size_t)m0 * g->dk;
    for (uint32_t p = 0; p < n; p += ENG__TILE) {
        uint32_t np = n - p < ENG__TILE ? n - p : ENG__TILE;
        const float *keys = b->s->kv + p * g->kv_ld;
        float *to = score + p * ENG__PANEL;
        if (m0 == 0) prefetch_next(b, p);
        if (queries > 2 * ENG__NARROW) {
            g->k->tile_f32(qt, ENG__PANEL, g->dk, keys, g->kv_ld, np, to, ENG__PANEL, false);
            continue;
        }
        for (uint32_t c = 0; c < queries; c += ENG__NARROW) {
            g->k->tile_f32_narrow(qt + c, ENG__PANEL, g->dk, keys, g->kv_ld, np, to + c,
                                  ENG__PANEL);
        }
    }
}

/* Scores of n positions, then weights relative to the running maximum; what a query may
 * not see weighs 0. Queries stay side by side: score[panel][position][PANEL]. */
static void weigh(query_block *b, uint32_t p0, uint32_t n) {
    const eng__cpu *g = b->g;
    for (uint32_t m0 = 0; m0 < b->n; m0 += ENG__PANEL) {
        float *score = b->s->score + m0 * ENG__SEGMENT;
        uint32_t queries = b->n - m0 < ENG__PANEL ? b->n - m0 : ENG__PANEL;
        int32_t seen[ENG__PANEL] = {0};
        score_panel(b, m0, queries, n, score);
        for (uint32_t m = m0; m < b->n && m < m0 + ENG__PANEL; m++) {
            uint32_t end = row_of(g, query_row(b, m))->pos + 1;
            seen[m - m0] = (int32_t)(end <= p0 ? 0 : end - p0);
        }
        g->k->softmax_across(score, n, queries, seen, b->top + m0, b->sum + m0, b->keep + m0);
    }
}

static void add_values(const query_block *b, uint32_t n) {
    const eng__cpu *g = b->g;
    const float *values = b->s->kv + g->val_off;
    for (uint32_t c0 = 0; c0 < g->dv; c0 += ENG__PANEL) {
        uint32_t nc = g->dv - c0 < ENG__PANEL ? g->dv - c0 : ENG__PANEL;
        for (uint32_t m0 = 0, nm; m0 < b->n; m0 += nm) {
            uint32_t in = m0 % ENG__PANEL;
            nm = ENG__PANEL - in < ENG__TILE ? ENG__PANEL - in : ENG__TILE;
            if (nm > b->n - m0) nm = b->n - m0;
            g->k->tile_f32_across(values + c0, g->kv_ld, n,
                                  b->s->score + (m0 - in) * ENG__SEGMENT + in, ENG__PANEL, nm,
                                  b->s->acc, ENG__PANEL);
            for (uint32_t m = 0; m < nm; m++) {
                g->k->scale_add(context_of(b, m0 + m) + c0, b->keep[m0 + m],
                                b->s->acc + m * ENG__PANEL, 1.0f, nc);
            }
        }
    }
}

/* Positions of span number `span` for all queries: results not yet divided by sum. */
static void attend_span(query_block *b, uint32_t span) {
    const eng__cpu *g = b->g;
    uint32_t first = span * ENG__SPAN, last = row_of(g, query_row(b, b->n - 1))->pos + 1;
    uint32_t end = last - first > ENG__SPAN ? first + ENG__SPAN : last;
    for (uint32_t m = 0; m < ENG__ROW_BLOCK; m++) { /* also lanes beyond n */
        b->top[m] = -INFINITY;
        b->sum[m] = 0;
    }
    for (uint32_t m = 0; m < b->n; m++)
        memset(context_of(b, m), 0, g->dv * sizeof *g->ctx);
    for (uint32_t p0 = first; p0 < end; p0 += ENG__SEGMENT) {
        uint32_t n = end - p0 < ENG__SEGMENT ? end - p0 : ENG__SEGMENT;
        b->next = p0 + n < last ? (piece){b->blocks, b->plane, b->group, p0 + n, last} : b->after;
        eng__gather(b->g, b->blocks, b->plane, b->group, p0, n, b->s->kv);
        weigh(b, p0, n);
        add_values(b, n);
    }
}

/* What a query has gathered over the spans so far. */
typedef struct {
    float top, sum;
} merged;

static void merge(const eng__cpu *g, merged *into, float *ctx, float top, float sum,
                  const float *part) {
    if (sum == 0) return; /* the query sees nothing of this span */
    float most = into->top > top ? into->top : top;
    float keep = expf(into->top - most), take = expf(top - most);
    into->sum = into->sum * keep + sum * take;
    into->top = most;
    g->k->scale_add(ctx, keep, part, take, g->dv);
}

static void divide(const eng__cpu *g, float *ctx, float sum) {
    float inverse = 1.0f / sum;
    for (uint32_t i = 0; i < g->dv; i++)
        ctx[i] *= inverse;
}

static uint32_t spans_of(const eng__cpu *g, const eng__run *r) {
    return row_of(g, r->first + r->n - 1)->pos / ENG__SPAN + 1;
}

/* All spans on this thread. */
static void attend(query_block *b) {
    const eng__cpu *g = b->g;
    uint32_t spans = row_of(g, query_row(b, b->n - 1))->pos / ENG__SPAN + 1;
    merged all[ENG__ROW_BLOCK];
    transpose_queries(b);
    attend_span(b, 0);
    for (uint32_t m = 0; m < b->n; m++)
        all[m] = (merged){b->top[m], b->sum[m]};
    for (uint32_t s = 1; s < spans; s++) {
        b->to = b->s->part;
        attend_span(b, s);
        b->to = NULL;
        for (uint32_t m = 0; m < b->n; m++) {
            merge(g, &all[m], context_of(b, m), b->top[m], b->sum[m],
                  b->s->part + (size_t)m * g->dv);
        }
    }
    for (uint32_t m = 0; m < b->n; m++)
        divide(g, context_of(b, m), all[m].sum);
}

static uint32_t run_items(const eng__cpu *g, const eng__run *r) {
    if (r->expanded) return 0;
    return g->groups * ((r->n * g->group_heads - 1) / g->query_block + 1);
}

/* Item `item` of a run, numbered by group, then by block of queries. */
static query_block block_of(eng__cpu *g, const eng__run *r, uint32_t item, uint32_t worker) {
    uint32_t per_group = run_items(g, r) / g->groups, queries = r->n * g->group_heads;
    query_block b = {.g = g, .s = &g->scratch[worker], .row0 = r->first};
    b.group = item / per_group;
    b.first = item % per_group * g->query_block;
    b.n = queries - b.first < g->query_block ? queries - b.first : g->query_block;
    b.blocks = row_of(g, r->first)->blocks;
    b.plane = g->plane[r->first];
    return b;
}

/* Where the item behind this one begins to read: another group of the run, or the next run. */
static piece first_piece(const eng__cpu *g, uint32_t run, uint32_t item) {
    uint32_t items = run_items(g, &g->runs[run]), group = 0;
    if (item + 1 < items) group = (item + 1) / (items / g->groups);
    else run++;
    if (run >= g->n_runs || g->runs[run].expanded) return (piece){0};
    uint32_t s = g->runs[run].first, end = row_of(g, s)->pos + 1;
    return (piece){.blocks = row_of(g, s)->blocks,
                   .plane = g->plane[s],
                   .group = group,
                   .end = end < ENG__SEGMENT ? end : ENG__SEGMENT};
}

static void attend_work(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    eng__cpu *g = arg;
    uint32_t run = 0, before = 0;
    for (uint32_t i = first; i < last; i++) {
        while (i - before >= run_items(g, &g->runs[run]))
            before += run_items(g, &g->runs[run++]);
        query_block b = block_of(g, &g->runs[run], i - before, worker);
        b.after = first_piece(g, run, i - before);
        attend(&b);
    }
}

/* ---- few queries, long contexts: spans go to different threads ----
 * Parts lie run by run; of a run [groups][queries][spans]: dv values, maximum, sum. */

static float *part_of(const eng__cpu *g, uint32_t run, uint32_t group, uint32_t query,
                      uint32_t span) {
    size_t at = 0, ld = g->dv + 2u;
    for (uint32_t i = 0; i < run; i++) {
        if (g->runs[i].expanded) continue;
        at += (size_t)g->groups * g->runs[i].n * g->group_heads * spans_of(g, &g->runs[i]);
    }
    const eng__run *r = &g->runs[run];
    size_t q = (size_t)group * r->n * g->group_heads + query;
    return g->part + (at + q * spans_of(g, r) + span) * ld;
}

static void span_work(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    eng__cpu *g = arg;
    uint32_t run = 0, before = 0;
    for (uint32_t i = first; i < last; i++) {
        for (uint32_t n;
             i - before >= (n = run_items(g, &g->runs[run]) * spans_of(g, &g->runs[run]));) {
            before += n;
            run++;
        }
        uint32_t spans = spans_of(g, &g->runs[run]), span = (i - before) % spans;
        query_block b = block_of(g, &g->runs[run], (i - before) / spans, worker);
        if (span * ENG__SPAN > row_of(g, query_row(&b, b.n - 1))->pos) continue;
        transpose_queries(&b);
        b.to = b.s->part;
        attend_span(&b, span);
        for (uint32_t m = 0; m < b.n; m++) {
            float *part = part_of(g, run, b.group, b.first + m, span);
            memcpy(part, b.s->part + (size_t)m * g->dv, g->dv * sizeof *part);
            part[g->dv] = b.top[m];
            part[g->dv + 1] = b.sum[m];
        }
    }
}

static void merge_run(eng__cpu *g, uint32_t run) {
    const eng__run *r = &g->runs[run];
    for (uint32_t i = 0; i < run_items(g, r); i++) {
        query_block b = block_of(g, r, i, 0);
        for (uint32_t m = 0; m < b.n; m++) {
            float *ctx = context_of(&b, m), *part = part_of(g, run, b.group, b.first + m, 0);
            merged all = {part[g->dv], part[g->dv + 1]};
            memcpy(ctx, part, g->dv * sizeof *ctx);
            for (uint32_t s = 1; s <= row_of(g, query_row(&b, m))->pos / ENG__SPAN; s++) {
                part = part_of(g, run, b.group, b.first + m, s);
                merge(g, &all, ctx, part[g->dv], part[g->dv + 1], part);
            }
            divide(g, ctx, all.sum);
        }
    }
}

/* Runs attention over the launch's runs; items: query blocks. */
static void attend_all(eng__cpu *g, uint32_t items) {
    size_t parts = 0;
    uint32_t span_items = 0;
    for (uint32_t i = 0; i < g->n_runs; i++) {
        if (g->runs[i].expanded) continue;
        uint32_t spans = spans_of(g, &g->runs[i]);
        parts += (size_t)g->groups * g->runs[i].n * g->group_heads * spans;
        span_items += run_items(g, &g->runs[i]) * spans;
    }
    bool idle = items < 2 * eng__pool_threads(g->pool) && eng__pool_threads(g->pool) > 1;
    if (!idle || span_items == items || parts > g->part_cap) {
        eng__pool_run(g->pool, attend_work, g, items, 1);
        return;
    }
    eng__pool_run(g->pool, span_work, g, span_items, 1);
    for (uint32_t i = 0; i < g->n_runs; i++)
        merge_run(g, i);
}

static void add_run(eng__cpu *g, uint32_t first, uint32_t last, bool expanded) {
    if (last > first) g->runs[g->n_runs++] = (eng__run){first, last - first, expanded};
}

/* Consecutive positions in rows [first, last): which of them are expanded. A row is when those
 * that follow it up to the end of its window are here too, and with them a block at least: that
 * asks nothing of other sequences nor of how many windows run together, and a window whose start
 * came from the prefix cache decides for the rest as it would have for all. The coda may be
 * cut anywhere and stays absorbed. */
static void add_runs(eng__cpu *g, uint32_t first, uint32_t last) {
    uint32_t begin = first, pos = row_of(g, first)->pos, window = g->in_coda ? 0 : g->window;
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
        const eng_row *r = row_of(g, s);
        for (n = 1; s + n < g->n_full; n++) {
            const eng_row *next = row_of(g, s + n);
            if (next->blocks != r->blocks || next->pos != r->pos + n) break;
            if (g->plane[s + n] != g->plane[s]) break;
        }
        add_runs(g, s, s + n);
    }
}

static uint32_t count_items(const eng__cpu *g) {
    uint32_t items = 0;
    for (uint32_t i = 0; i < g->n_runs; i++)
        items += run_items(g, &g->runs[i]);
    return items;
}

/* Blocks of queries, smaller where they would leave threads idle: sharing a gathered
 * segment matters less than a thread. Returns their number. */
static uint32_t cut_queries(eng__cpu *g) {
    uint32_t threads = eng__pool_threads(g->pool), queries = g->n_full * g->plan.n_heads;
    g->query_block = ENG__ROW_BLOCK;
    uint32_t items = count_items(g);
    if (items >= threads) return items;
    uint32_t share = ((queries - 1) / threads / ENG__NARROW + 1) * ENG__NARROW;
    if (share < g->query_block) g->query_block = share;
    return count_items(g);
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
    attend_all(g, cut_queries(g));
    if (g->window) eng__attend_expanded(g, l);
    if (mla) absorb(g, l, absorb_values);
    g->jobs[0] = eng__to_stream(g, &l->wo, mla ? g->o : g->ctx, mla ? g->ld_o : g->ld_ctx);
    eng__gemm_run(g, g->jobs, 1);
}
