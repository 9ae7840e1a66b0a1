/* attention_blocks.c - attention over the slot cache: MLA absorbed, GQA, a head of its own.
 *
 * Attention is computed per query, segment of ENG__SEGMENT positions by segment within
 * spans of ENG__SPAN, which are merged in order. So a query's bits depend only on its own
 * position and the cache. The spans of a long context may go to different threads.
 *
 * A block has one of two forms, with the same bits. With many queries it takes one group,
 * whose segment is gathered once for all of them. With few it takes several groups: a
 * position's keys of all groups lie in one piece, and memory is read piece by piece. */
#include "engine/cpu/cpu_internal.h"

#include <math.h>
#include <string.h>

typedef enum { KEYS, VALUES } kv_part; /* MLA's latent is both */

enum {
    AHEAD = 6,        /* slots of one group fetched before they are read */
    AHEAD_PIECES = 2, /* the same for pieces of several groups */
};

typedef struct { /* positions [first, end) of a plane; blocks NULL: none */
    const uint32_t *blocks;
    uint32_t plane, group, first, end;
} piece;

/* Queries of one run: up to ROW_BLOCK of one group, or up to PANEL of several groups. */
typedef struct {
    eng__cpu *g;
    eng__scratch *s;
    const uint32_t *blocks;
    uint32_t plane, group, groups;
    uint32_t row0, first, per_group; /* query m: first + m % per_group of group + m / per_group */
    uint32_t n;                      /* groups * per_group */
    float *to;                       /* [n][dv] results; NULL: the launch's ctx */
    piece next, after; /* to be read after the segment at hand, and after all of this block */
    float top[ENG__ROW_BLOCK], sum[ENG__ROW_BLOCK], keep[ENG__ROW_BLOCK];
} query_block;

static uint32_t group_of(const query_block *b, uint32_t m) {
    return b->groups == 1 ? b->group : b->group + m / b->per_group;
}

static uint32_t query_in_group(const query_block *b, uint32_t m) {
    return b->first + (b->groups == 1 ? m : m % b->per_group);
}

static uint32_t query_row(const query_block *b, uint32_t m) {
    return b->row0 + query_in_group(b, m) / b->g->group_heads;
}

static float *context_of(const query_block *b, uint32_t m) {
    const eng__cpu *g = b->g;
    if (b->to) return b->to + (size_t)m * g->dv;
    uint32_t head = group_of(b, m) * g->group_heads + query_in_group(b, m) % g->group_heads;
    return g->ctx + query_row(b, m) * g->ld_ctx + (size_t)head * g->dv;
}

/* Queries as the columns of panels, scaled: qt[panel][dk][PANEL]. */
static void transpose_queries(const query_block *b) {
    const eng__cpu *g = b->g;
    for (uint32_t m = 0; m < b->n; m++) {
        size_t row = (size_t)group_of(b, m) * g->opts.max_launch + b->row0;
        const float *q = g->q + (row * g->group_heads + query_in_group(b, m)) * g->dk;
        float *to = b->s->qt + (size_t)(m / ENG__PANEL) * g->dk * ENG__PANEL + m % ENG__PANEL;
        for (uint32_t d = 0; d < g->dk; d++)
            to[d * ENG__PANEL] = q[d] * g->attn_scale;
    }
}

/* Where a group's part begins inside a layer of a slot. */
static size_t part_at(const eng__cpu *g, uint32_t group, kv_part which) {
    if (g->plan.attn == ATTN_MLA) return 0;
    return which == KEYS ? (size_t)group * g->dk : (size_t)(g->groups + group) * g->dk;
}

static void prefetch_bytes(const uint8_t *p, size_t n, bool near) {
    for (size_t i = 0; i < n; i += 64) {
        if (near) __builtin_prefetch(p + i);
        else __builtin_prefetch(p + i, 0, 2);
    }
}

/* Slots lie anywhere: only the map knows what will be read next. Brings a part of `groups` groups
 * at a position nearer. */
static void prefetch_part(const eng__cpu *g, const uint32_t *blocks, uint32_t plane, uint32_t pos,
                          uint32_t group, uint32_t groups, kv_part which, bool near) {
    uint32_t slot = eng__slot_at(g, blocks, pos, plane);
    size_t value = model_dtype_bytes(g->opts.cache_dtype);
    size_t at = eng__layer_at(g, slot) + part_at(g, group, which);
    if (slot == ENG_NO_SLOT) return;
    prefetch_bytes((const uint8_t *)g->slots + at * value, groups * g->dk * value, near);
}

static void prefetch_group(const eng__cpu *g, const uint32_t *blocks, uint32_t plane, uint32_t pos,
                           uint32_t group, bool near) {
    prefetch_part(g, blocks, plane, pos, group, 1, KEYS, near);
    if (g->plan.attn != ATTN_MLA) prefetch_part(g, blocks, plane, pos, group, 1, VALUES, near);
}

/* n values of the layer at hand from `at` on, as float32. */
static void read_slot(const eng__cpu *g, uint32_t slot, size_t at, size_t n, float *to) {
    at += eng__layer_at(g, slot);
    if (g->opts.cache_dtype == DTYPE_BF16) g->k->widen((const uint16_t *)g->slots + at, to, n);
    else memcpy(to, (const float *)g->slots + at, n * sizeof *to);
}

void eng__gather(eng__cpu *g, const uint32_t *blocks, uint32_t plane, uint32_t group, uint32_t p0,
                 uint32_t n, float *to) {
    size_t key_at = part_at(g, group, KEYS), val_at = part_at(g, group, VALUES);
    for (uint32_t i = 0; i < n; i++, to += g->kv_ld) {
        if (i + AHEAD < n) prefetch_group(g, blocks, plane, p0 + i + AHEAD, group, true);
        uint32_t slot;
        if (!eng__find_slot(g, blocks, p0 + i, plane, &slot)) {
            memset(to, 0, g->kv_ld * sizeof *to);
            continue;
        }
        read_slot(g, slot, key_at, g->dk, to);
        if (g->plan.attn != ATTN_MLA) read_slot(g, slot, val_at, g->dv, to + g->val_off);
    }
}

/* The part of the next segment that is as far from its start as `at` is in this one: it comes
 * to the second cache while this one is computed, and takes no place in the first. */
static void prefetch_next(const query_block *b, uint32_t at) {
    uint32_t first = b->next.first + at, end = first + ENG__TILE;
    for (uint32_t p = first; p < end && p < b->next.end; p++)
        prefetch_group(b->g, b->next.blocks, b->next.plane, p, b->next.group, false);
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

/* Weights relative to the running maximum in place of scores of n positions from p0 on, for
 * queries [m0, m0 + PANEL); a position that a query may not see weighs 0. */
static void weigh_panel(query_block *b, uint32_t m0, uint32_t p0, uint32_t n, float *score) {
    const eng__cpu *g = b->g;
    uint32_t queries = b->n - m0 < ENG__PANEL ? b->n - m0 : ENG__PANEL;
    int32_t seen[ENG__PANEL] = {0};
    for (uint32_t i = 0; i < queries; i++) {
        uint32_t end = eng__row_of(g, query_row(b, m0 + i))->pos + 1;
        seen[i] = (int32_t)(end <= p0 ? 0 : end - p0);
    }
    g->k->softmax_across(score, n, queries, seen, b->top + m0, b->sum + m0, b->keep + m0);
}

/* ---- one group: its segment gathered once ---- */

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
                                  b->s->acc, ENG__PANEL, false);
            for (uint32_t m = 0; m < nm; m++) {
                g->k->scale_add(context_of(b, m0 + m) + c0, b->keep[m0 + m],
                                b->s->acc + m * ENG__PANEL, 1.0f, nc);
            }
        }
    }
}

static void attend_segment(query_block *b, uint32_t p0, uint32_t n) {
    eng__gather(b->g, b->blocks, b->plane, b->group, p0, n, b->s->kv);
    for (uint32_t m0 = 0; m0 < b->n; m0 += ENG__PANEL) {
        float *score = b->s->score + m0 * ENG__SEGMENT;
        score_panel(b, m0, b->n - m0 < ENG__PANEL ? b->n - m0 : ENG__PANEL, n, score);
        weigh_panel(b, m0, p0, n, score);
    }
    add_values(b, n);
}

/* ---- several groups: keys, then values, a piece of memory per position ---- */

/* A part of the block's groups at positions [p0, p0 + n): kv[n][ld]. Positions up to `end` will
 * be read after them. */
static void gather_pieces(const query_block *b, kv_part which, uint32_t p0, uint32_t n,
                          uint32_t end, size_t ld) {
    eng__cpu *g = b->g;
    size_t at = part_at(g, b->group, which), values = (size_t)b->groups * g->dk;
    float *to = b->s->kv;
    for (uint32_t p = p0; p < p0 + n; p++, to += ld) {
        if (p + AHEAD_PIECES < end) {
            prefetch_part(g, b->blocks, b->plane, p + AHEAD_PIECES, b->group, b->groups, which,
                          true);
        }
        uint32_t slot;
        if (!eng__find_slot(g, b->blocks, p, b->plane, &slot)) {
            memset(to, 0, values * sizeof *to);
            continue;
        }
        read_slot(g, slot, at, values, to);
    }
}

/* One group's part of the tile that is gathered next. */
static void prefetch_tile(const query_block *b, uint32_t i, kv_part which, uint32_t p0,
                          uint32_t end) {
    for (uint32_t p = p0; p < end && p < p0 + ENG__TILE; p++)
        prefetch_part(b->g, b->blocks, b->plane, p, b->group + i, 1, which, false);
}

static void score_pieces(const query_block *b, uint32_t p0, uint32_t n, float *score) {
    const eng__cpu *g = b->g;
    size_t ld = (size_t)b->groups * g->dk + ENG__PAD;
    float tile[ENG__TILE * ENG__NARROW];
    for (uint32_t p = 0; p < n; p += ENG__TILE, score += ENG__TILE * ENG__PANEL) {
        uint32_t np = n - p < ENG__TILE ? n - p : ENG__TILE;
        gather_pieces(b, KEYS, p0 + p, np, p0 + n, ld);
        for (uint32_t i = 0; i < b->groups; i++) {
            uint32_t column = i * b->per_group;
            if (p + np < n) prefetch_tile(b, i, KEYS, p0 + p + np, p0 + n);
            else prefetch_tile(b, i, VALUES, p0, p0 + n);
            g->k->tile_f32_narrow(b->s->qt + column, ENG__PANEL, g->dk, b->s->kv + i * g->dk, ld,
                                  np, tile, ENG__NARROW);
            for (uint32_t r = 0; r < np; r++)
                memcpy(score + r * ENG__PANEL + column, tile + r * ENG__NARROW,
                       b->per_group * sizeof *tile);
        }
    }
}

static void add_value_pieces(const query_block *b, uint32_t p0, uint32_t n, const float *score) {
    const eng__cpu *g = b->g;
    size_t ld = (size_t)b->groups * g->dv + ENG__PAD;
    for (uint32_t p = 0; p < n; p += ENG__TILE, score += ENG__TILE * ENG__PANEL) {
        uint32_t np = n - p < ENG__TILE ? n - p : ENG__TILE;
        gather_pieces(b, VALUES, p0 + p, np, p0 + n, ld);
        for (uint32_t i = 0; i < b->groups; i++) {
            float *sums = b->s->sums + (size_t)i * b->per_group * g->ld_sums;
            if (p + np < n) prefetch_tile(b, i, VALUES, p0 + p + np, p0 + n);
            else if (b->next.blocks == b->blocks)
                prefetch_tile(b, i, KEYS, b->next.first, b->next.end);
            for (uint32_t c0 = 0; c0 < g->dv; c0 += ENG__PANEL) {
                g->k->tile_f32_across(b->s->kv + i * g->dv + c0, ld, np, score + i * b->per_group,
                                      ENG__PANEL, b->per_group, sums + c0, g->ld_sums, p > 0);
            }
        }
    }
    for (uint32_t m = 0; m < b->n; m++)
        g->k->scale_add(context_of(b, m), b->keep[m], b->s->sums + m * g->ld_sums, 1.0f, g->dv);
}

static void attend_pieces(query_block *b, uint32_t p0, uint32_t n) {
    score_pieces(b, p0, n, b->s->score);
    weigh_panel(b, 0, p0, n, b->s->score);
    add_value_pieces(b, p0, n, b->s->score);
}

/* ---- spans ---- */

/* Positions of span number `span` for all queries: results not yet divided by sum. */
static void attend_span(query_block *b, uint32_t span) {
    const eng__cpu *g = b->g;
    uint32_t first = span * ENG__SPAN, last = eng__row_of(g, query_row(b, b->n - 1))->pos + 1;
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
        if (b->groups > 1) attend_pieces(b, p0, n);
        else attend_segment(b, p0, n);
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
    return eng__row_of(g, r->first + r->n - 1)->pos / ENG__SPAN + 1;
}

/* All spans on this thread. */
static void attend(query_block *b) {
    const eng__cpu *g = b->g;
    uint32_t spans = eng__row_of(g, query_row(b, b->n - 1))->pos / ENG__SPAN + 1;
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

/* Groups that one block of the run takes. */
static uint32_t groups_together(const eng__cpu *g, const eng__run *r) {
    uint32_t per = r->n * g->group_heads;
    if (per > ENG__NARROW) return 1;
    uint32_t n = g->block_columns / per;
    if (n > ENG__PIECE / g->dk) n = ENG__PIECE / g->dk;
    return n > g->groups ? g->groups : n > 1 ? n : 1;
}

static uint32_t query_blocks(const eng__cpu *g, const eng__run *r) {
    return (r->n * g->group_heads - 1) / g->query_block + 1;
}

static uint32_t run_items(const eng__cpu *g, const eng__run *r) {
    if (r->expanded) return 0;
    return ((g->groups - 1) / groups_together(g, r) + 1) * query_blocks(g, r);
}

/* Item `item` of a run, numbered by group, then by block of queries. */
static query_block block_of(eng__cpu *g, const eng__run *r, uint32_t item, uint32_t worker) {
    uint32_t together = groups_together(g, r), blocks = query_blocks(g, r);
    uint32_t queries = r->n * g->group_heads;
    query_block b = {.g = g, .s = &g->scratch[worker], .row0 = r->first};
    b.group = item / blocks * together;
    b.groups = g->groups - b.group < together ? g->groups - b.group : together;
    b.first = item % blocks * g->query_block;
    b.per_group = queries - b.first < g->query_block ? queries - b.first : g->query_block;
    b.n = b.groups * b.per_group;
    b.blocks = eng__row_of(g, r->first)->blocks;
    b.plane = g->plane[r->first];
    return b;
}

/* Where the item behind this one begins to read: another group of the run, or the next run. */
static piece first_piece(const eng__cpu *g, uint32_t run, uint32_t item) {
    uint32_t group = 0;
    if (item + 1 < run_items(g, &g->runs[run])) group = (item + 1) / query_blocks(g, &g->runs[run]);
    else run++;
    if (run >= g->n_runs || g->runs[run].expanded) return (piece){0};
    if (groups_together(g, &g->runs[run]) > 1) return (piece){0};
    uint32_t s = g->runs[run].first, end = eng__row_of(g, s)->pos + 1;
    return (piece){.blocks = eng__row_of(g, s)->blocks,
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

static float *part_of(const eng__cpu *g, uint32_t run, const query_block *b, uint32_t m,
                      uint32_t span) {
    size_t at = 0, ld = g->dv + 2u;
    for (uint32_t i = 0; i < run; i++) {
        if (g->runs[i].expanded) continue;
        at += (size_t)g->groups * g->runs[i].n * g->group_heads * spans_of(g, &g->runs[i]);
    }
    const eng__run *r = &g->runs[run];
    size_t q = (size_t)group_of(b, m) * r->n * g->group_heads + query_in_group(b, m);
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
        if (span * ENG__SPAN > eng__row_of(g, query_row(&b, b.n - 1))->pos) continue;
        transpose_queries(&b);
        b.to = b.s->part;
        attend_span(&b, span);
        for (uint32_t m = 0; m < b.n; m++) {
            float *part = part_of(g, run, &b, m, span);
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
            float *ctx = context_of(&b, m), *part = part_of(g, run, &b, m, 0);
            merged all = {part[g->dv], part[g->dv + 1]};
            memcpy(ctx, part, g->dv * sizeof *ctx);
            for (uint32_t s = 1; s <= eng__row_of(g, query_row(&b, m))->pos / ENG__SPAN; s++) {
                part = part_of(g, run, &b, m, s);
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

static uint32_t count_items(const eng__cpu *g) {
    uint32_t items = 0;
    for (uint32_t i = 0; i < g->n_runs; i++)
        items += run_items(g, &g->runs[i]);
    return items;
}

/* Blocks of groups and of queries, smaller where they would leave threads idle: sharing a
 * gathered segment matters less than a thread. Returns their number. */
static uint32_t cut_blocks(eng__cpu *g) {
    uint32_t threads = eng__pool_threads(g->pool), queries = g->n_full * g->plan.n_heads;
    g->query_block = ENG__ROW_BLOCK;
    g->block_columns = ENG__PANEL;
    uint32_t items = count_items(g);
    for (; items < threads && g->block_columns > 1; items = count_items(g))
        g->block_columns /= 2;
    if (items >= threads) return items;
    uint32_t share = ((queries - 1) / threads / ENG__NARROW + 1) * ENG__NARROW;
    if (share < g->query_block) g->query_block = share;
    return count_items(g);
}

void eng__attend_blocks(eng__cpu *g) {
    attend_all(g, cut_blocks(g));
}
