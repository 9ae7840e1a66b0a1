/* attention_expanded.c - MLA attention with keys and values rebuilt per head.
 *
 * In the absorbed form a query meets kv_lora_rank values per position. In the expanded form it
 * meets only the nope + rope and v values of its head, but each position must first be multiplied
 * out. This pays if many queries of one sequence share the positions. A work item is one head and a
 * block of queries. It rebuilds one segment after another, passes all queries over it, and keeps
 * nothing. */
#include "engine/cpu/cpu_internal.h"

#include <math.h>
#include <string.h>

typedef struct {
    eng__cpu *cpu;
    const eng__layer *layer;
} expand_arg;

typedef struct { /* up to EXPAND_BLOCK queries of one head of one run */
    eng__cpu *cpu;
    const eng__layer *layer;
    eng__scratch *scratch;
    uint32_t row0, n_queries, head;
    float top[ENG__EXPAND_BLOCK], sum[ENG__EXPAND_BLOCK], keep[ENG__EXPAND_BLOCK];
} head_block;

static uint32_t pos_of(const eng__cpu *cpu, uint32_t idx) {
    return eng__row_of(cpu, idx)->pos;
}

static float *output_of(const head_block *block, uint32_t query) {
    const eng__cpu *cpu = block->cpu;
    return cpu->attended + (block->row0 + query) * cpu->ld_attended +
           (size_t)block->head * cpu->plan.v_head_dim;
}

/* query[panel][nope + rope][PANEL], scaled. */
static void transpose_queries(const head_block *block) {
    const eng__cpu *cpu = block->cpu;
    uint32_t nope = cpu->plan.qk_nope_head_dim, rope = cpu->plan.qk_rope_head_dim;
    for (uint32_t query = 0; query < block->n_queries; query++) {
        size_t idx = block->row0 + query;
        float *to = block->scratch->query +
                    (size_t)(query / ENG__PANEL) * (nope + rope) * ENG__PANEL + query % ENG__PANEL;
        const float *values = cpu->q_nope + idx * cpu->ld_q_nope + (size_t)block->head * nope;
        for (uint32_t dim = 0; dim < nope; dim++, to += ENG__PANEL)
            *to = values[dim] * cpu->attn_scale;
        values = cpu->queries + (idx * cpu->plan.n_heads + block->head) * cpu->key_dim +
                 cpu->plan.kv_lora_rank;
        for (uint32_t dim = 0; dim < rope; dim++, to += ENG__PANEL)
            *to = values[dim] * cpu->attn_scale;
    }
}

/* to[n][ld] = n latents times the matrix of a head. */
static void multiply_out(const head_block *block, const eng__mat *mat, uint32_t n, float *to,
                         size_t ld) {
    const eng__cpu *cpu = block->cpu;
    for (uint32_t panel_idx = 0; panel_idx < mat->panels; panel_idx++, to += ENG__PANEL) {
        const void *panel = mat->data + panel_idx * mat->panel_bytes;
        for (uint32_t i = 0; i < n; i += ENG__TILE) {
            uint32_t rows = eng__min(n - i, ENG__TILE);
            const float *latents = block->scratch->kv + i * cpu->ld_gathered;
            if (mat->type == ENG__BF16) {
                cpu->kern->tile_bf16(panel, mat->n_in, latents, cpu->ld_gathered, rows, to + i * ld,
                                     ld, false);
            } else {
                cpu->kern->tile_f32(panel, ENG__PANEL, mat->n_in, latents, cpu->ld_gathered, rows,
                                    to + i * ld, ld, false);
            }
        }
    }
}

static void expand_segment(const head_block *block, uint32_t pos0, uint32_t n) {
    eng__cpu *cpu = block->cpu;
    uint32_t nope = cpu->plan.qk_nope_head_dim, rank = cpu->plan.kv_lora_rank;
    eng__gather(cpu, eng__row_of(cpu, block->row0)->blocks, cpu->plane[block->row0], 0, pos0, n,
                block->scratch->kv);
    multiply_out(block, &block->layer->key[block->head], n, block->scratch->key, cpu->ld_key);
    multiply_out(block, &block->layer->uv[block->head], n, block->scratch->value, cpu->ld_value);
    for (uint32_t i = 0; i < n; i++) {
        memcpy(block->scratch->key + i * cpu->ld_key + nope,
               block->scratch->kv + i * cpu->ld_gathered + rank,
               cpu->plan.qk_rope_head_dim * sizeof(float));
    }
}

/* Queries [query0, query0 + queries) attend to n positions from pos0 on, in this segment. */
static void attend_panel(head_block *block, uint32_t query0, uint32_t queries, uint32_t pos0,
                         uint32_t n) {
    const eng__cpu *cpu = block->cpu;
    uint32_t width = cpu->plan.qk_nope_head_dim + cpu->plan.qk_rope_head_dim,
             v_dim = cpu->plan.v_head_dim;
    float *score = block->scratch->scores;
    int32_t seen[ENG__PANEL] = {0};
    for (uint32_t i = 0; i < n; i += ENG__TILE) {
        cpu->kern->tile_f32(block->scratch->query + (size_t)query0 * width, ENG__PANEL, width,
                            block->scratch->key + i * cpu->ld_key, cpu->ld_key,
                            eng__min(n - i, ENG__TILE), score + i * ENG__PANEL, ENG__PANEL, false);
    }
    for (uint32_t query = 0; query < queries; query++) {
        uint32_t end = pos_of(cpu, block->row0 + query0 + query) + 1;
        seen[query] = (int32_t)(end <= pos0 ? 0 : end - pos0);
    }
    cpu->kern->softmax_across(score, n, queries, seen, block->top + query0, block->sum + query0,
                              block->keep + query0);
    for (uint32_t col0 = 0; col0 < v_dim; col0 += ENG__PANEL) {
        uint32_t n_cols = eng__min(v_dim - col0, ENG__PANEL);
        for (uint32_t query = 0; query < queries; query += ENG__TILE) {
            uint32_t n_tile = eng__min(queries - query, ENG__TILE);
            cpu->kern->tile_f32_across(block->scratch->value + col0, cpu->ld_value, n,
                                       score + query, ENG__PANEL, n_tile, block->scratch->acc,
                                       ENG__PANEL, false);
            for (uint32_t i = 0; i < n_tile; i++) {
                cpu->kern->scale_add(output_of(block, query0 + query + i) + col0,
                                     block->keep[query0 + query + i],
                                     block->scratch->acc + i * ENG__PANEL, 1.0f, n_cols);
            }
        }
    }
}

static void attend_block(head_block *block) {
    const eng__cpu *cpu = block->cpu;
    uint32_t v_dim = cpu->plan.v_head_dim,
             end = pos_of(cpu, block->row0 + block->n_queries - 1) + 1;
    for (uint32_t query = 0; query < ENG__EXPAND_BLOCK; query++) {
        block->top[query] = -INFINITY;
        block->sum[query] = 0;
    }
    for (uint32_t query = 0; query < block->n_queries; query++)
        memset(output_of(block, query), 0, v_dim * sizeof *cpu->attended);
    transpose_queries(block);
    for (uint32_t pos0 = 0, n; pos0 < end; pos0 += n) {
        n = eng__min(end - pos0, ENG__SEGMENT);
        expand_segment(block, pos0, n);
        for (uint32_t query0 = 0, queries; query0 < block->n_queries; query0 += queries) {
            queries = eng__min(block->n_queries - query0, ENG__PANEL);
            uint32_t sees = pos_of(cpu, block->row0 + query0 + queries - 1) + 1;
            if (sees > pos0) attend_panel(block, query0, queries, pos0, eng__min(n, sees - pos0));
        }
    }
    for (uint32_t query = 0; query < block->n_queries; query++) {
        float *output = output_of(block, query), inverse = 1.0f / block->sum[query];
        for (uint32_t i = 0; i < v_dim; i++)
            output[i] *= inverse;
    }
}

static uint32_t blocks_of(const eng__cpu *cpu, const eng__run *run) {
    return run->expanded ? (run->n_rows - 1) / cpu->expand_block + 1 : 0;
}

static void expand_work(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    const expand_arg *work = arg;
    eng__cpu *cpu = work->cpu;
    uint32_t run_idx = 0, before = 0, heads = cpu->plan.n_heads;
    for (uint32_t i = first; i < last; i++) {
        for (uint32_t n; i - before >= (n = heads * blocks_of(cpu, &cpu->runs[run_idx])); run_idx++)
            before += n;
        const eng__run *run = &cpu->runs[run_idx];
        uint32_t query0 = (i - before) / heads * cpu->expand_block;
        head_block block = {.cpu = cpu, .layer = work->layer, .scratch = &cpu->scratch[worker]};
        block.head = (i - before) % heads;
        block.row0 = run->first + query0;
        block.n_queries = eng__min(run->n_rows - query0, cpu->expand_block);
        attend_block(&block);
    }
}

static uint32_t count_items(const eng__cpu *cpu) {
    uint32_t items = 0;
    for (uint32_t i = 0; i < cpu->n_runs; i++)
        items += cpu->plan.n_heads * blocks_of(cpu, &cpu->runs[i]);
    return items;
}

/* Blocks are as large as keeps all threads busy, but not so small that rebuilding segments costs
 * more than it saves. Results do not depend on the size. */
void eng__attend_expanded(eng__cpu *cpu, const eng__layer *layer) {
    expand_arg work = {cpu, layer};
    uint32_t threads = eng__pool_threads(cpu->pool);
    cpu->expand_block = ENG__EXPAND_BLOCK;
    while (count_items(cpu) < threads && cpu->expand_block / 2 >= cpu->crossover)
        cpu->expand_block /= 2;
    eng__pool_run(cpu->pool, expand_work, &work, count_items(cpu), 1);
}
