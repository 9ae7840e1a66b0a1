/* attention_expanded.c - MLA attention with keys and values rebuilt per head.
 *
 * Absorbed, a query meets kv_lora_rank values per position; expanded, only its head's own
 * nope + rope and v, but each position must first be multiplied out. That pays where many
 * queries of one sequence share the positions. A work item is one head and a block of
 * queries; it rebuilds segment after segment, all queries pass over it, and nothing of it is
 * kept. */
#include "engine/cpu/cpu_internal.h"

#include <math.h>
#include <string.h>

typedef struct {
    eng__cpu *g;
    const eng__layer *l;
} expand_arg;

typedef struct { /* up to EXPAND_BLOCK queries of one head of one run */
    eng__cpu *g;
    const eng__layer *l;
    eng__scratch *s;
    uint32_t row0, n, head;
    float top[ENG__EXPAND_BLOCK], sum[ENG__EXPAND_BLOCK], keep[ENG__EXPAND_BLOCK];
} head_block;

static uint32_t pos_of(const eng__cpu *g, uint32_t s) {
    return eng__row_of(g, s)->pos;
}

static uint32_t min_u32(uint32_t a, uint32_t b) {
    return a < b ? a : b;
}

static float *output_of(const head_block *b, uint32_t m) {
    const eng__cpu *g = b->g;
    return g->o + (b->row0 + m) * g->ld_o + (size_t)b->head * g->plan.v_head_dim;
}

/* query[panel][nope + rope][PANEL], scaled. */
static void transpose_queries(const head_block *b) {
    const eng__cpu *g = b->g;
    uint32_t nope = g->plan.qk_nope_head_dim, rope = g->plan.qk_rope_head_dim;
    for (uint32_t m = 0; m < b->n; m++) {
        size_t s = b->row0 + m;
        float *to =
            b->s->query + (size_t)(m / ENG__PANEL) * (nope + rope) * ENG__PANEL + m % ENG__PANEL;
        const float *q = g->qn + s * g->ld_qn + (size_t)b->head * nope;
        for (uint32_t d = 0; d < nope; d++, to += ENG__PANEL)
            *to = q[d] * g->attn_scale;
        q = g->q + (s * g->plan.n_heads + b->head) * g->dk + g->plan.kv_lora_rank;
        for (uint32_t d = 0; d < rope; d++, to += ENG__PANEL)
            *to = q[d] * g->attn_scale;
    }
}

/* to[n][ld] = n latents times a head's matrix. */
static void multiply_out(const head_block *b, const eng__mat *w, uint32_t n, float *to, size_t ld) {
    const eng__cpu *g = b->g;
    for (uint32_t p = 0; p < w->panels; p++, to += ENG__PANEL) {
        const void *panel = w->data + p * w->panel_bytes;
        for (uint32_t i = 0; i < n; i += ENG__TILE) {
            uint32_t rows = min_u32(n - i, ENG__TILE);
            const float *x = b->s->kv + i * g->kv_ld;
            if (w->type == ENG__BF16) {
                g->k->tile_bf16(panel, w->k, x, g->kv_ld, rows, to + i * ld, ld, false);
            } else {
                g->k->tile_f32(panel, ENG__PANEL, w->k, x, g->kv_ld, rows, to + i * ld, ld, false);
            }
        }
    }
}

static void expand_segment(const head_block *b, uint32_t p0, uint32_t n) {
    eng__cpu *g = b->g;
    uint32_t nope = g->plan.qk_nope_head_dim, rank = g->plan.kv_lora_rank;
    eng__gather(g, eng__row_of(g, b->row0)->blocks, g->plane[b->row0], 0, p0, n, b->s->kv);
    multiply_out(b, &b->l->key[b->head], n, b->s->key, g->ld_key);
    multiply_out(b, &b->l->uv[b->head], n, b->s->value, g->ld_value);
    for (uint32_t i = 0; i < n; i++) {
        memcpy(b->s->key + i * g->ld_key + nope, b->s->kv + i * g->kv_ld + rank,
               g->plan.qk_rope_head_dim * sizeof(float));
    }
}

/* Queries [m0, m0 + queries) over n positions from p0 of the segment at hand. */
static void attend_panel(head_block *b, uint32_t m0, uint32_t queries, uint32_t p0, uint32_t n) {
    const eng__cpu *g = b->g;
    uint32_t width = g->plan.qk_nope_head_dim + g->plan.qk_rope_head_dim, v = g->plan.v_head_dim;
    float *score = b->s->score;
    int32_t seen[ENG__PANEL] = {0};
    for (uint32_t i = 0; i < n; i += ENG__TILE) {
        g->k->tile_f32(b->s->query + (size_t)m0 * width, ENG__PANEL, width,
                       b->s->key + i * g->ld_key, g->ld_key, min_u32(n - i, ENG__TILE),
                       score + i * ENG__PANEL, ENG__PANEL, false);
    }
    for (uint32_t m = 0; m < queries; m++) {
        uint32_t end = pos_of(g, b->row0 + m0 + m) + 1;
        seen[m] = (int32_t)(end <= p0 ? 0 : end - p0);
    }
    g->k->softmax_across(score, n, queries, seen, b->top + m0, b->sum + m0, b->keep + m0);
    for (uint32_t c0 = 0; c0 < v; c0 += ENG__PANEL) {
        uint32_t nc = min_u32(v - c0, ENG__PANEL);
        for (uint32_t m = 0; m < queries; m += ENG__TILE) {
            uint32_t nm = min_u32(queries - m, ENG__TILE);
            g->k->tile_f32_across(b->s->value + c0, g->ld_value, n, score + m, ENG__PANEL, nm,
                                  b->s->acc, ENG__PANEL, false);
            for (uint32_t i = 0; i < nm; i++) {
                g->k->scale_add(output_of(b, m0 + m + i) + c0, b->keep[m0 + m + i],
                                b->s->acc + i * ENG__PANEL, 1.0f, nc);
            }
        }
    }
}

static void attend_block(head_block *b) {
    const eng__cpu *g = b->g;
    uint32_t v = g->plan.v_head_dim, end = pos_of(g, b->row0 + b->n - 1) + 1;
    for (uint32_t m = 0; m < ENG__EXPAND_BLOCK; m++) {
        b->top[m] = -INFINITY;
        b->sum[m] = 0;
    }
    for (uint32_t m = 0; m < b->n; m++)
        memset(output_of(b, m), 0, v * sizeof *g->o);
    transpose_queries(b);
    for (uint32_t p0 = 0, n; p0 < end; p0 += n) {
        n = min_u32(end - p0, ENG__SEGMENT);
        expand_segment(b, p0, n);
        for (uint32_t m0 = 0, queries; m0 < b->n; m0 += queries) {
            queries = min_u32(b->n - m0, ENG__PANEL);
            uint32_t sees = pos_of(g, b->row0 + m0 + queries - 1) + 1;
            if (sees > p0) attend_panel(b, m0, queries, p0, min_u32(n, sees - p0));
        }
    }
    for (uint32_t m = 0; m < b->n; m++) {
        float *o = output_of(b, m), inverse = 1.0f / b->sum[m];
        for (uint32_t i = 0; i < v; i++)
            o[i] *= inverse;
    }
}

static uint32_t blocks_of(const eng__cpu *g, const eng__run *r) {
    return r->expanded ? (r->n - 1) / g->expand_block + 1 : 0;
}

static void expand_work(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    const expand_arg *a = arg;
    eng__cpu *g = a->g;
    uint32_t run = 0, before = 0, heads = g->plan.n_heads;
    for (uint32_t i = first; i < last; i++) {
        for (uint32_t n; i - before >= (n = heads * blocks_of(g, &g->runs[run])); run++)
            before += n;
        const eng__run *r = &g->runs[run];
        uint32_t block = (i - before) / heads * g->expand_block;
        head_block b = {.g = g, .l = a->l, .s = &g->scratch[worker]};
        b.head = (i - before) % heads;
        b.row0 = r->first + block;
        b.n = min_u32(r->n - block, g->expand_block);
        attend_block(&b);
    }
}

static uint32_t count_items(const eng__cpu *g) {
    uint32_t items = 0;
    for (uint32_t i = 0; i < g->n_runs; i++)
        items += g->plan.n_heads * blocks_of(g, &g->runs[i]);
    return items;
}

/* Blocks as large as keep all threads busy, but none so small that rebuilding its segments
 * costs more than it saves. Results do not depend on them. */
void eng__attend_expanded(eng__cpu *g, const eng__layer *l) {
    expand_arg a = {g, l};
    uint32_t threads = eng__pool_threads(g->pool);
    g->expand_block = ENG__EXPAND_BLOCK;
    while (count_items(g) < threads && g->expand_block / 2 >= g->crossover)
        g->expand_block /= 2;
    eng__pool_run(g->pool, expand_work, &a, count_items(g), 1);
}
