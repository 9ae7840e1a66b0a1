/* attention_blocks.c - attention over the slot cache: absorbed MLA, and GQA.
 *
 * Attention is computed per query, in segments of ENG__SEGMENT positions. The segments of a span of
 * ENG__SPAN positions give one partial result; partial results are merged in order. So the bits of
 * a query depend only on its own position and the cache. The spans of a long context may go to
 * different threads.
 *
 * A block of queries has one of two forms, with the same bits. With many queries it takes one group
 * and gathers a segment once for all of them. With few queries it takes several groups: the keys of
 * all groups of a position are one piece of memory, and memory is read piece by piece. */
#include "engine/cpu/cpu_internal.h"

#include <math.h>
#include <string.h>

typedef enum { KEYS, VALUES } kv_kind; /* for MLA both are the latent */

enum {
    AHEAD = 6,        /* one group: prefetch distance in slots */
    AHEAD_PIECES = 2, /* several groups: prefetch distance in pieces */
};

typedef struct { /* positions [first, end) of a plane; table NULL: nothing to read */
    const uint32_t *table;
    uint32_t plane, group, first, end;
} kv_range;

/* Queries of one run: up to ROW_BLOCK of one group, or up to PANEL of several groups. */
typedef struct {
    eng__cpu *cpu;
    eng__scratch *scratch;
    const uint32_t *table;
    uint32_t plane, group, groups;
    uint32_t row0, first, per_group; /* query i is first + i % per_group of group + i / per_group */
    uint32_t n_queries;              /* groups * per_group */
    float *to;                       /* [n_queries][value_dim] results; NULL: the launch's ctx */
    kv_range next, after;            /* to prefetch after this segment, and after this block */
    float top[ENG__ROW_BLOCK], sum[ENG__ROW_BLOCK], keep[ENG__ROW_BLOCK];
} query_block;

static uint32_t group_of(const query_block *block, uint32_t query) {
    return block->groups == 1 ? block->group : block->group + query / block->per_group;
}

static uint32_t query_in_group(const query_block *block, uint32_t query) {
    return block->first + (block->groups == 1 ? query : query % block->per_group);
}

static uint32_t query_row(const query_block *block, uint32_t query) {
    return block->row0 + query_in_group(block, query) / block->cpu->group_heads;
}

static float *context_of(const query_block *block, uint32_t query) {
    const eng__cpu *cpu = block->cpu;
    if (block->to) return block->to + (size_t)query * cpu->value_dim;
    uint32_t head =
        group_of(block, query) * cpu->group_heads + query_in_group(block, query) % cpu->group_heads;
    return cpu->ctx + query_row(block, query) * cpu->ld_ctx + (size_t)head * cpu->value_dim;
}

/* Queries as the columns of panels, scaled: query_panels[panel][key_dim][PANEL]. */
static void transpose_queries(const query_block *block) {
    const eng__cpu *cpu = block->cpu;
    for (uint32_t query = 0; query < block->n_queries; query++) {
        size_t row = (size_t)group_of(block, query) * cpu->opts.max_launch + block->row0;
        const float *values =
            cpu->queries + (row * cpu->group_heads + query_in_group(block, query)) * cpu->key_dim;
        float *to = block->scratch->query_panels +
                    (size_t)(query / ENG__PANEL) * cpu->key_dim * ENG__PANEL + query % ENG__PANEL;
        for (uint32_t dim = 0; dim < cpu->key_dim; dim++)
            to[dim * ENG__PANEL] = values[dim] * cpu->attn_scale;
    }
}

/* Offset of the keys or values of a group inside a layer of a slot. */
static size_t group_offset(const eng__cpu *cpu, uint32_t group, kv_kind kind) {
    if (cpu->plan.attn == ATTN_MLA) return 0;
    return kind == KEYS ? (size_t)group * cpu->key_dim
                        : (size_t)(cpu->groups + group) * cpu->key_dim;
}

static void prefetch_bytes(const uint8_t *start, size_t n, bool near) {
    for (size_t i = 0; i < n; i += 64) {
        if (near) __builtin_prefetch(start + i);
        else __builtin_prefetch(start + i, 0, 2);
    }
}

/* Prefetches the keys or values of `groups` groups at one position. The hardware cannot predict the
 * address, because slots are scattered. */
static void prefetch_groups(const eng__cpu *cpu, const uint32_t *table, uint32_t plane,
                            uint32_t pos, uint32_t group, uint32_t groups, kv_kind kind,
                            bool near) {
    uint32_t slot = eng__slot_at(cpu, table, pos, plane);
    size_t value = model_dtype_bytes(cpu->opts.cache_dtype);
    size_t at = eng__layer_at(cpu, slot) + group_offset(cpu, group, kind);
    if (slot == ENG_NO_SLOT) return;
    prefetch_bytes((const uint8_t *)cpu->slots + at * value, groups * cpu->key_dim * value, near);
}

static void prefetch_group(const eng__cpu *cpu, const uint32_t *table, uint32_t plane, uint32_t pos,
                           uint32_t group, bool near) {
    prefetch_groups(cpu, table, plane, pos, group, 1, KEYS, near);
    if (cpu->plan.attn != ATTN_MLA) prefetch_groups(cpu, table, plane, pos, group, 1, VALUES, near);
}

/* n values of the current layer from `at` on, as float32. */
static void read_slot(const eng__cpu *cpu, uint32_t slot, size_t at, size_t n, float *to) {
    at += eng__layer_at(cpu, slot);
    if (cpu->opts.cache_dtype == DTYPE_BF16)
        cpu->kern->widen((const uint16_t *)cpu->slots + at, to, n);
    else memcpy(to, (const float *)cpu->slots + at, n * sizeof *to);
}

void eng__gather(eng__cpu *cpu, const uint32_t *table, uint32_t plane, uint32_t group,
                 uint32_t pos0, uint32_t n, float *to) {
    size_t key_at = group_offset(cpu, group, KEYS), val_at = group_offset(cpu, group, VALUES);
    for (uint32_t i = 0; i < n; i++, to += cpu->ld_gathered) {
        if (i + AHEAD < n) prefetch_group(cpu, table, plane, pos0 + i + AHEAD, group, true);
        uint32_t slot;
        if (!eng__find_slot(cpu, table, pos0 + i, plane, &slot)) {
            memset(to, 0, cpu->ld_gathered * sizeof *to);
            continue;
        }
        read_slot(cpu, slot, key_at, cpu->key_dim, to);
        if (cpu->plan.attn != ATTN_MLA)
            read_slot(cpu, slot, val_at, cpu->value_dim, to + cpu->value_at);
    }
}

/* Prefetches the tile of the next segment at the same offset `at` into the second cache. It takes
 * no place in the first cache while this segment is computed. */
static void prefetch_next(const query_block *block, uint32_t at) {
    uint32_t first = block->next.first + at, end = first + ENG__TILE;
    for (uint32_t pos = first; pos < end && pos < block->next.end; pos++)
        prefetch_group(block->cpu, block->next.table, block->next.plane, pos, block->next.group,
                       false);
}

/* score[position][PANEL] of up to PANEL queries; the other columns are undefined. */
static void score_panel(const query_block *block, uint32_t query0, uint32_t queries, uint32_t n,
                        float *score) {
    const eng__cpu *cpu = block->cpu;
    const float *panel = block->scratch->query_panels + (size_t)query0 * cpu->key_dim;
    for (uint32_t pos = 0; pos < n; pos += ENG__TILE) {
        uint32_t n_pos = eng__min(n - pos, ENG__TILE);
        const float *keys = block->scratch->kv + pos * cpu->ld_gathered;
        float *to = score + pos * ENG__PANEL;
        if (query0 == 0) prefetch_next(block, pos);
        if (queries > 2 * ENG__NARROW) {
            cpu->kern->tile_f32(panel, ENG__PANEL, cpu->key_dim, keys, cpu->ld_gathered, n_pos, to,
                                ENG__PANEL, false);
            continue;
        }
        for (uint32_t col = 0; col < queries; col += ENG__NARROW) {
            cpu->kern->tile_f32_narrow(panel + col, ENG__PANEL, cpu->key_dim, keys,
                                       cpu->ld_gathered, n_pos, to + col, ENG__PANEL);
        }
    }
}

/* Replaces the scores of n positions from pos0 on by weights relative to the running maximum, for
 * queries [query0, query0 + PANEL). A position hidden from a query has weight 0. */
static void weigh_panel(query_block *block, uint32_t query0, uint32_t pos0, uint32_t n,
                        float *score) {
    const eng__cpu *cpu = block->cpu;
    uint32_t queries = eng__min(block->n_queries - query0, ENG__PANEL);
    int32_t seen[ENG__PANEL] = {0};
    for (uint32_t i = 0; i < queries; i++) {
        uint32_t end = eng__row_of(cpu, query_row(block, query0 + i))->pos + 1;
        seen[i] = (int32_t)(end <= pos0 ? 0 : end - pos0);
    }
    cpu->kern->softmax_across(score, n, queries, seen, block->top + query0, block->sum + query0,
                              block->keep + query0);
}

/* ---- one group: its segment gathered once ---- */

static void add_values(const query_block *block, uint32_t n) {
    const eng__cpu *cpu = block->cpu;
    const float *values = block->scratch->kv + cpu->value_at;
    for (uint32_t col0 = 0; col0 < cpu->value_dim; col0 += ENG__PANEL) {
        uint32_t n_cols = eng__min(cpu->value_dim - col0, ENG__PANEL);
        for (uint32_t query0 = 0, n_queries; query0 < block->n_queries; query0 += n_queries) {
            uint32_t lane0 = query0 % ENG__PANEL;
            n_queries = eng__min(ENG__PANEL - lane0, ENG__TILE);
            if (n_queries > block->n_queries - query0) n_queries = block->n_queries - query0;
            cpu->kern->tile_f32_across(
                values + col0, cpu->ld_gathered, n,
                block->scratch->scores + (query0 - lane0) * ENG__SEGMENT + lane0, ENG__PANEL,
                n_queries, block->scratch->acc, ENG__PANEL, false);
            for (uint32_t query = 0; query < n_queries; query++) {
                cpu->kern->scale_add(context_of(block, query0 + query) + col0,
                                     block->keep[query0 + query],
                                     block->scratch->acc + query * ENG__PANEL, 1.0f, n_cols);
            }
        }
    }
}

static void attend_segment(query_block *block, uint32_t pos0, uint32_t n) {
    eng__gather(block->cpu, block->table, block->plane, block->group, pos0, n, block->scratch->kv);
    for (uint32_t query0 = 0; query0 < block->n_queries; query0 += ENG__PANEL) {
        float *score = block->scratch->scores + query0 * ENG__SEGMENT;
        score_panel(block, query0, eng__min(block->n_queries - query0, ENG__PANEL), n, score);
        weigh_panel(block, query0, pos0, n, score);
    }
    add_values(block, n);
}

/* ---- several groups: keys, then values, a piece of memory per position ---- */

/* Keys or values of the block's groups at positions [pos0, pos0 + n): kv[n][ld]. Positions up to
 * `end` are read next. */
static void gather_pieces(const query_block *block, kv_kind kind, uint32_t pos0, uint32_t n,
                          uint32_t end, size_t ld) {
    eng__cpu *cpu = block->cpu;
    size_t at = group_offset(cpu, block->group, kind),
           values = (size_t)block->groups * cpu->key_dim;
    float *to = block->scratch->kv;
    for (uint32_t pos = pos0; pos < pos0 + n; pos++, to += ld) {
        if (pos + AHEAD_PIECES < end) {
            prefetch_groups(cpu, block->table, block->plane, pos + AHEAD_PIECES, block->group,
                            block->groups, kind, true);
        }
        uint32_t slot;
        if (!eng__find_slot(cpu, block->table, pos, block->plane, &slot)) {
            memset(to, 0, values * sizeof *to);
            continue;
        }
        read_slot(cpu, slot, at, values, to);
    }
}

/* Prefetches one group of the tile gathered next. */
static void prefetch_tile(const query_block *block, uint32_t group, kv_kind kind, uint32_t pos0,
                          uint32_t end) {
    for (uint32_t pos = pos0; pos < end && pos < pos0 + ENG__TILE; pos++)
        prefetch_groups(block->cpu, block->table, block->plane, pos, block->group + group, 1, kind,
                        false);
}

static void score_pieces(const query_block *block, uint32_t pos0, uint32_t n, float *score) {
    const eng__cpu *cpu = block->cpu;
    size_t ld = (size_t)block->groups * cpu->key_dim + ENG__PAD;
    float tile[ENG__TILE * ENG__NARROW];
    for (uint32_t pos = 0; pos < n; pos += ENG__TILE, score += ENG__TILE * ENG__PANEL) {
        uint32_t n_pos = eng__min(n - pos, ENG__TILE);
        gather_pieces(block, KEYS, pos0 + pos, n_pos, pos0 + n, ld);
        for (uint32_t group = 0; group < block->groups; group++) {
            uint32_t column = group * block->per_group;
            if (pos + n_pos < n) prefetch_tile(block, group, KEYS, pos0 + pos + n_pos, pos0 + n);
            else prefetch_tile(block, group, VALUES, pos0, pos0 + n);
            cpu->kern->tile_f32_narrow(block->scratch->query_panels + column, ENG__PANEL,
                                       cpu->key_dim, block->scratch->kv + group * cpu->key_dim, ld,
                                       n_pos, tile, ENG__NARROW);
            for (uint32_t row = 0; row < n_pos; row++)
                memcpy(score + row * ENG__PANEL + column, tile + row * ENG__NARROW,
                       block->per_group * sizeof *tile);
        }
    }
}

static void add_value_pieces(const query_block *block, uint32_t pos0, uint32_t n,
                             const float *score) {
    const eng__cpu *cpu = block->cpu;
    size_t ld = (size_t)block->groups * cpu->value_dim + ENG__PAD;
    for (uint32_t pos = 0; pos < n; pos += ENG__TILE, score += ENG__TILE * ENG__PANEL) {
        uint32_t n_pos = eng__min(n - pos, ENG__TILE);
        gather_pieces(block, VALUES, pos0 + pos, n_pos, pos0 + n, ld);
        for (uint32_t group = 0; group < block->groups; group++) {
            float *sums = block->scratch->sums + (size_t)group * block->per_group * cpu->ld_sums;
            if (pos + n_pos < n) prefetch_tile(block, group, VALUES, pos0 + pos + n_pos, pos0 + n);
            else if (block->next.table == block->table)
                prefetch_tile(block, group, KEYS, block->next.first, block->next.end);
            for (uint32_t col0 = 0; col0 < cpu->value_dim; col0 += ENG__PANEL) {
                cpu->kern->tile_f32_across(block->scratch->kv + group * cpu->value_dim + col0, ld,
                                           n_pos, score + group * block->per_group, ENG__PANEL,
                                           block->per_group, sums + col0, cpu->ld_sums, pos > 0);
            }
        }
    }
    for (uint32_t query = 0; query < block->n_queries; query++)
        cpu->kern->scale_add(context_of(block, query), block->keep[query],
                             block->scratch->sums + query * cpu->ld_sums, 1.0f, cpu->value_dim);
}

static void attend_pieces(query_block *block, uint32_t pos0, uint32_t n) {
    score_pieces(block, pos0, n, block->scratch->scores);
    weigh_panel(block, 0, pos0, n, block->scratch->scores);
    add_value_pieces(block, pos0, n, block->scratch->scores);
}

/* ---- spans ---- */

/* One span for all queries of the block: results not yet divided by `sum`. */
static void attend_span(query_block *block, uint32_t span) {
    const eng__cpu *cpu = block->cpu;
    uint32_t first = span * ENG__SPAN,
             last = eng__row_of(cpu, query_row(block, block->n_queries - 1))->pos + 1;
    uint32_t end = last - first > ENG__SPAN ? first + ENG__SPAN : last;
    for (uint32_t query = 0; query < ENG__ROW_BLOCK; query++) { /* also the unused lanes */
        block->top[query] = -INFINITY;
        block->sum[query] = 0;
    }
    for (uint32_t query = 0; query < block->n_queries; query++)
        memset(context_of(block, query), 0, cpu->value_dim * sizeof *cpu->ctx);
    for (uint32_t pos0 = first; pos0 < end; pos0 += ENG__SEGMENT) {
        uint32_t n = eng__min(end - pos0, ENG__SEGMENT);
        block->next = pos0 + n < last
                          ? (kv_range){block->table, block->plane, block->group, pos0 + n, last}
                          : block->after;
        if (block->groups > 1) attend_pieces(block, pos0, n);
        else attend_segment(block, pos0, n);
    }
}

/* Maximum and sum of a query over the spans so far. */
typedef struct {
    float top, sum;
} merged;

static void merge(const eng__cpu *cpu, merged *into, float *ctx, float top, float sum,
                  const float *partial) {
    if (sum == 0) return; /* the query sees no position of this span */
    float most = into->top > top ? into->top : top;
    float keep = expf(into->top - most), take = expf(top - most);
    into->sum = into->sum * keep + sum * take;
    into->top = most;
    cpu->kern->scale_add(ctx, keep, partial, take, cpu->value_dim);
}

static void divide(const eng__cpu *cpu, float *ctx, float sum) {
    float inverse = 1.0f / sum;
    for (uint32_t i = 0; i < cpu->value_dim; i++)
        ctx[i] *= inverse;
}

static uint32_t spans_of(const eng__cpu *cpu, const eng__run *run) {
    return eng__row_of(cpu, run->first + run->n_rows - 1)->pos / ENG__SPAN + 1;
}

/* All spans of the block on this thread. */
static void attend(query_block *block) {
    const eng__cpu *cpu = block->cpu;
    uint32_t spans = eng__row_of(cpu, query_row(block, block->n_queries - 1))->pos / ENG__SPAN + 1;
    merged all[ENG__ROW_BLOCK];
    transpose_queries(block);
    attend_span(block, 0);
    for (uint32_t query = 0; query < block->n_queries; query++)
        all[query] = (merged){block->top[query], block->sum[query]};
    for (uint32_t span = 1; span < spans; span++) {
        block->to = block->scratch->partial;
        attend_span(block, span);
        block->to = NULL;
        for (uint32_t query = 0; query < block->n_queries; query++) {
            merge(cpu, &all[query], context_of(block, query), block->top[query], block->sum[query],
                  block->scratch->partial + (size_t)query * cpu->value_dim);
        }
    }
    for (uint32_t query = 0; query < block->n_queries; query++)
        divide(cpu, context_of(block, query), all[query].sum);
}

/* Number of groups in one block of the run. */
static uint32_t groups_together(const eng__cpu *cpu, const eng__run *run) {
    uint32_t per = run->n_rows * cpu->group_heads;
    if (per > ENG__NARROW) return 1;
    uint32_t n = cpu->block_columns / per;
    if (n > ENG__PIECE / cpu->key_dim) n = ENG__PIECE / cpu->key_dim;
    return n > cpu->groups ? cpu->groups : n > 1 ? n : 1;
}

static uint32_t query_blocks(const eng__cpu *cpu, const eng__run *run) {
    return (run->n_rows * cpu->group_heads - 1) / cpu->query_block + 1;
}

static uint32_t run_items(const eng__cpu *cpu, const eng__run *run) {
    if (run->expanded) return 0;
    return ((cpu->groups - 1) / groups_together(cpu, run) + 1) * query_blocks(cpu, run);
}

/* Item number `item` of a run; items are numbered by group, then by block of queries. */
static query_block block_of(eng__cpu *cpu, const eng__run *run, uint32_t item, uint32_t worker) {
    uint32_t together = groups_together(cpu, run), blocks = query_blocks(cpu, run);
    uint32_t queries = run->n_rows * cpu->group_heads;
    query_block block = {.cpu = cpu, .scratch = &cpu->scratch[worker], .row0 = run->first};
    block.group = item / blocks * together;
    block.groups = eng__min(cpu->groups - block.group, together);
    block.first = item % blocks * cpu->query_block;
    block.per_group = eng__min(queries - block.first, cpu->query_block);
    block.n_queries = block.groups * block.per_group;
    block.table = eng__row_of(cpu, run->first)->blocks;
    block.plane = cpu->plane[run->first];
    return block;
}

/* First positions read by the next item: another group of the run, or the next run. */
static kv_range first_range(const eng__cpu *cpu, uint32_t run_idx, uint32_t item) {
    uint32_t group = 0;
    if (item + 1 < run_items(cpu, &cpu->runs[run_idx]))
        group = (item + 1) / query_blocks(cpu, &cpu->runs[run_idx]);
    else run_idx++;
    if (run_idx >= cpu->n_runs || cpu->runs[run_idx].expanded) return (kv_range){0};
    if (groups_together(cpu, &cpu->runs[run_idx]) > 1) return (kv_range){0};
    uint32_t row0 = cpu->runs[run_idx].first, end = eng__row_of(cpu, row0)->pos + 1;
    return (kv_range){.table = eng__row_of(cpu, row0)->blocks,
                      .plane = cpu->plane[row0],
                      .group = group,
                      .end = eng__min(end, ENG__SEGMENT)};
}

static void attend_work(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    eng__cpu *cpu = arg;
    uint32_t run_idx = 0, before = 0;
    for (uint32_t i = first; i < last; i++) {
        while (i - before >= run_items(cpu, &cpu->runs[run_idx]))
            before += run_items(cpu, &cpu->runs[run_idx++]);
        query_block block = block_of(cpu, &cpu->runs[run_idx], i - before, worker);
        block.after = first_range(cpu, run_idx, i - before);
        attend(&block);
    }
}

/* ---- few queries, long contexts: spans go to different threads ----
 * Partial results are ordered by run, and in a run [groups][queries][spans]. Each is value_dim
 * values, the maximum of the scores, and the sum of the weights. */

static float *partial_of(const eng__cpu *cpu, uint32_t run_idx, const query_block *block,
                         uint32_t query, uint32_t span) {
    size_t at = 0, ld = cpu->value_dim + 2u;
    for (uint32_t i = 0; i < run_idx; i++) {
        if (cpu->runs[i].expanded) continue;
        at += (size_t)cpu->groups * cpu->runs[i].n_rows * cpu->group_heads *
              spans_of(cpu, &cpu->runs[i]);
    }
    const eng__run *run = &cpu->runs[run_idx];
    size_t query_at = (size_t)group_of(block, query) * run->n_rows * cpu->group_heads +
                      query_in_group(block, query);
    return cpu->partials + (at + query_at * spans_of(cpu, run) + span) * ld;
}

static void span_work(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    eng__cpu *cpu = arg;
    uint32_t run_idx = 0, before = 0;
    for (uint32_t i = first; i < last; i++) {
        for (uint32_t n; i - before >= (n = run_items(cpu, &cpu->runs[run_idx]) *
                                            spans_of(cpu, &cpu->runs[run_idx]));) {
            before += n;
            run_idx++;
        }
        uint32_t spans = spans_of(cpu, &cpu->runs[run_idx]), span = (i - before) % spans;
        query_block block = block_of(cpu, &cpu->runs[run_idx], (i - before) / spans, worker);
        if (span * ENG__SPAN > eng__row_of(cpu, query_row(&block, block.n_queries - 1))->pos)
            continue;
        transpose_queries(&block);
        block.to = block.scratch->partial;
        attend_span(&block, span);
        for (uint32_t query = 0; query < block.n_queries; query++) {
            float *partial = partial_of(cpu, run_idx, &block, query, span);
            memcpy(partial, block.scratch->partial + (size_t)query * cpu->value_dim,
                   cpu->value_dim * sizeof *partial);
            partial[cpu->value_dim] = block.top[query];
            partial[cpu->value_dim + 1] = block.sum[query];
        }
    }
}

static void merge_run(eng__cpu *cpu, uint32_t run_idx) {
    const eng__run *run = &cpu->runs[run_idx];
    for (uint32_t i = 0; i < run_items(cpu, run); i++) {
        query_block block = block_of(cpu, run, i, 0);
        for (uint32_t query = 0; query < block.n_queries; query++) {
            float *ctx = context_of(&block, query),
                  *partial = partial_of(cpu, run_idx, &block, query, 0);
            merged all = {partial[cpu->value_dim], partial[cpu->value_dim + 1]};
            memcpy(ctx, partial, cpu->value_dim * sizeof *ctx);
            for (uint32_t span = 1;
                 span <= eng__row_of(cpu, query_row(&block, query))->pos / ENG__SPAN; span++) {
                partial = partial_of(cpu, run_idx, &block, query, span);
                merge(cpu, &all, ctx, partial[cpu->value_dim], partial[cpu->value_dim + 1],
                      partial);
            }
            divide(cpu, ctx, all.sum);
        }
    }
}

/* Attention over the launch's runs; `items` is the number of query blocks. */
static void attend_all(eng__cpu *cpu, uint32_t items) {
    size_t parts = 0;
    uint32_t span_items = 0;
    for (uint32_t i = 0; i < cpu->n_runs; i++) {
        if (cpu->runs[i].expanded) continue;
        uint32_t spans = spans_of(cpu, &cpu->runs[i]);
        parts += (size_t)cpu->groups * cpu->runs[i].n_rows * cpu->group_heads * spans;
        span_items += run_items(cpu, &cpu->runs[i]) * spans;
    }
    bool idle = items < 2 * eng__pool_threads(cpu->pool) && eng__pool_threads(cpu->pool) > 1;
    if (!idle || span_items == items || parts > cpu->partials_cap) {
        eng__pool_run(cpu->pool, attend_work, cpu, items, 1);
        return;
    }
    eng__pool_run(cpu->pool, span_work, cpu, span_items, 1);
    for (uint32_t i = 0; i < cpu->n_runs; i++)
        merge_run(cpu, i);
}

static uint32_t count_items(const eng__cpu *cpu) {
    uint32_t items = 0;
    for (uint32_t i = 0; i < cpu->n_runs; i++)
        items += run_items(cpu, &cpu->runs[i]);
    return items;
}

/* Sets the sizes of blocks and returns their number. Blocks are smaller if threads would be idle: a
 * busy thread is worth more than a shared segment. */
static uint32_t cut_blocks(eng__cpu *cpu) {
    uint32_t threads = eng__pool_threads(cpu->pool), queries = cpu->n_full * cpu->plan.n_heads;
    cpu->query_block = ENG__ROW_BLOCK;
    cpu->block_columns = ENG__PANEL;
    uint32_t items = count_items(cpu);
    for (; items < threads && cpu->block_columns > 1; items = count_items(cpu))
        cpu->block_columns /= 2;
    if (items >= threads) return items;
    uint32_t share = ((queries - 1) / threads / ENG__NARROW + 1) * ENG__NARROW;
    if (share < cpu->query_block) cpu->query_block = share;
    return count_items(cpu);
}

void eng__attend_blocks(eng__cpu *cpu) {
    attend_all(cpu, cut_blocks(cpu));
}
