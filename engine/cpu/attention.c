/* attention.c - attention of a layer: its products, K and V into the slot cache, queries laid out
 * by group.
 *
 * K and V of all rows of the launch are written before any row attends. The queries of consecutive
 * positions of one sequence make a run. attention_blocks.c computes a run over the cache as it is,
 * attention_expanded.c with keys and values rebuilt per head. */
#include "engine/cpu/cpu_internal.h"
#include "engine/rowmath.h"

#include <string.h>

typedef struct {
    eng__cpu *cpu;
    const eng__layer *layer;
} layer_arg;

static void rotate(float *values, const float *turn, uint32_t pairs) {
    for (uint32_t i = 0; i < pairs; i++)
        rm_rotate(&values[2 * i], &values[2 * i + 1], turn[2 * i], turn[2 * i + 1]);
}

/* Queries or keys of one position, all heads, after the product: bias and QK_NORM_FULL. NULL: the
 * plan has none. */
static void before_rope(const eng__cpu *cpu, float *heads, size_t width, const float *bias,
                        const float *weights) {
    if (bias) cpu->kern->scale_add(heads, 1.0f, bias, 1.0f, width);
    if (weights) cpu->kern->rms(heads, weights, heads, width, cpu->plan.qk_norm_eps);
}

static void rotate_head(const eng__cpu *cpu, float *head, const float *turn) {
    uint32_t width = cpu->plan.head_dim;
    rotate(head, turn, cpu->rope_pairs);
    if (cpu->plan.qk_norm != QK_NORM_HEAD_UNIT) return;
    float scale = rm_rms_scale(cpu->kern->dot(head, head, width), width, cpu->plan.qk_norm_eps);
    for (uint32_t i = 0; i < width; i++)
        head[i] *= scale;
}

/* Adds the gated row of the token to the values of one position. `table_row` is scratch for one
 * head. */
static void embed_values(const eng__cpu *cpu, const eng__layer *layer, uint32_t idx, float *values,
                         float *table_row) {
    const model_plan *plan = &cpu->plan;
    const float *xn = eng__sublayer_input(cpu) + idx * cpu->ld_stream;
    size_t at = (size_t)eng__row_of(cpu, idx)->token * plan_kv_width(plan);
    for (uint32_t head = 0; head < plan->n_kv_heads; head++, at += plan->head_dim) {
        const float *gate = layer->value_gate + (size_t)head * PLAN_VALUE_GATE;
        float share = 2.0f * rm_sigmoid(cpu->kern->dot(gate, xn, PLAN_VALUE_GATE));
        model_tensor_read(&layer->value_table, at, plan->head_dim, table_row);
        cpu->kern->scale_add(values + head * plan->head_dim, 1.0f, table_row, share,
                             plan->head_dim);
    }
}

static void store_slot(eng__cpu *cpu, uint32_t idx, const float *values) {
    const eng_row *row = eng__row_of(cpu, idx);
    uint32_t slot;
    if (!eng__find_slot(cpu, row->blocks, row->pos, cpu->plane[idx], &slot)) return;
    size_t n = cpu->plan.layer_values, at = eng__layer_at(cpu, slot);
    if (cpu->opts.cache_dtype == DTYPE_BF16) {
        cpu->kern->narrow(values, (uint16_t *)cpu->slots + at, n);
    } else {
        memcpy((float *)cpu->slots + at, values, n * sizeof *values);
    }
}

/* ---- before attention: K/V to the cache, queries laid out by group ---- */

static void store_kv_work(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    const layer_arg *work = arg;
    eng__cpu *cpu = work->cpu;
    const eng__layer *layer = work->layer;
    const model_plan *plan = &cpu->plan;
    float *tmp = cpu->scratch[worker].tmp;
    for (uint32_t idx = first; idx < last; idx++) {
        const float *kv = cpu->kv + idx * cpu->ld_kv, *turn = cpu->rope + idx * cpu->ld_rope;
        memcpy(tmp, kv, plan->layer_values * sizeof *tmp);
        if (plan->attn == ATTN_MLA) {
            cpu->kern->rms(kv, layer->kv_norm, tmp, plan->kv_lora_rank, plan->norm_eps);
            rotate(tmp + plan->kv_lora_rank, turn, cpu->rope_pairs);
            if (idx < cpu->n_full) {
                float *q_latent = cpu->q_latent + idx * cpu->ld_q_latent;
                cpu->kern->rms(q_latent, layer->q_norm, q_latent, plan->q_lora_rank,
                               plan->norm_eps);
            }
        } else {
            uint32_t width = plan_kv_width(plan);
            before_rope(cpu, tmp, width, layer->k_bias, layer->k_norm);
            for (uint32_t head = 0; head < plan->n_kv_heads; head++)
                rotate_head(cpu, tmp + head * plan->head_dim, turn);
            if (layer->value_gate)
                embed_values(cpu, layer, idx, tmp + width, tmp + plan->layer_values);
        }
        store_slot(cpu, idx, tmp);
    }
}

static void lay_out_queries_work(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    const layer_arg *work = arg;
    eng__cpu *cpu = work->cpu;
    const eng__layer *layer = work->layer;
    const model_plan *plan = &cpu->plan;
    (void)worker;
    for (uint32_t idx = first; idx < last; idx++) {
        const float *turn = cpu->rope + idx * cpu->ld_rope;
        float *q_nope = cpu->q_nope + idx * cpu->ld_q_nope;
        if (plan->attn == ATTN_GQA)
            before_rope(cpu, q_nope, plan_q_width(plan), layer->q_bias, layer->q_norm);
        for (uint32_t head = 0; head < plan->n_heads; head++) {
            uint32_t group = head / cpu->group_heads, in = head % cpu->group_heads;
            float *query = cpu->queries +
                           (((size_t)group * cpu->opts.max_launch + idx) * cpu->group_heads + in) *
                               cpu->key_dim;
            if (plan->attn == ATTN_MLA) {
                uint32_t rope = plan->qk_rope_head_dim;
                query += plan->kv_lora_rank;
                memcpy(query, cpu->q_rope + idx * cpu->ld_q_rope + head * rope,
                       rope * sizeof *query);
                rotate(query, turn, cpu->rope_pairs);
            } else {
                memcpy(query, q_nope + head * cpu->key_dim, cpu->key_dim * sizeof *query);
                rotate_head(cpu, query, turn);
            }
        }
    }
}

static void project_mla(eng__cpu *cpu, const eng__layer *layer) {
    layer_arg work = {cpu, layer};
    cpu->jobs[0] = (eng__gemm){.mat = &layer->kv_down,
                               .src = eng__sublayer_input(cpu),
                               .ld_src = cpu->ld_stream,
                               .dst = cpu->kv,
                               .ld_dst = cpu->ld_kv,
                               .rows = cpu->n_all};
    cpu->jobs[1] = (eng__gemm){.mat = &layer->q_down,
                               .src = eng__sublayer_input(cpu),
                               .ld_src = cpu->ld_stream,
                               .dst = cpu->q_latent,
                               .ld_dst = cpu->ld_q_latent,
                               .rows = cpu->n_full};
    eng__gemm_run(cpu, cpu->jobs, 2);
    eng__pool_run(cpu->pool, store_kv_work, &work, cpu->n_all, 4);
    cpu->jobs[0] = (eng__gemm){.mat = &layer->q_up_nope,
                               .src = cpu->q_latent,
                               .ld_src = cpu->ld_q_latent,
                               .dst = cpu->q_nope,
                               .ld_dst = cpu->ld_q_nope,
                               .rows = cpu->n_full};
    cpu->jobs[1] = (eng__gemm){.mat = &layer->q_up_rope,
                               .src = cpu->q_latent,
                               .ld_src = cpu->ld_q_latent,
                               .dst = cpu->q_rope,
                               .ld_dst = cpu->ld_q_rope,
                               .rows = cpu->n_full};
    eng__gemm_run(cpu, cpu->jobs, 2);
    eng__pool_run(cpu->pool, lay_out_queries_work, &work, cpu->n_full, 4);
}

/* Absorbed keys: multiplies the queries of rows [first, last) into the latent. */
static void absorb_keys(eng__cpu *cpu, const eng__layer *layer, uint32_t first, uint32_t last) {
    const model_plan *plan = &cpu->plan;
    for (uint32_t head = 0; head < plan->n_heads; head++) {
        cpu->jobs[head] =
            (eng__gemm){.mat = &layer->uk[head],
                        .src = cpu->q_nope + first * cpu->ld_q_nope + head * plan->qk_nope_head_dim,
                        .ld_src = cpu->ld_q_nope,
                        .dst = cpu->queries + ((size_t)first * plan->n_heads + head) * cpu->key_dim,
                        .ld_dst = (size_t)plan->n_heads * cpu->key_dim,
                        .rows = last - first};
    }
    eng__gemm_run(cpu, cpu->jobs, plan->n_heads);
}

/* Absorbed values: multiplies the gathered latents of the rows into values. */
static void absorb_values(eng__cpu *cpu, const eng__layer *layer, uint32_t first, uint32_t last) {
    const model_plan *plan = &cpu->plan;
    for (uint32_t head = 0; head < plan->n_heads; head++) {
        cpu->jobs[head] =
            (eng__gemm){.mat = &layer->uv[head],
                        .src = cpu->ctx + first * cpu->ld_ctx + (size_t)head * cpu->value_dim,
                        .ld_src = cpu->ld_ctx,
                        .dst = cpu->attended + first * cpu->ld_attended + head * plan->v_head_dim,
                        .ld_dst = cpu->ld_attended,
                        .rows = last - first};
    }
    eng__gemm_run(cpu, cpu->jobs, plan->n_heads);
}

/* Calls fn for each stretch of rows in runs that are not expanded. */
static void absorb(eng__cpu *cpu, const eng__layer *layer,
                   void (*fn)(eng__cpu *, const eng__layer *, uint32_t, uint32_t)) {
    for (uint32_t i = 0; i < cpu->n_runs;) {
        uint32_t first = cpu->runs[i].first, last = first;
        for (; i < cpu->n_runs && !cpu->runs[i].expanded; i++)
            last += cpu->runs[i].n_rows;
        if (last > first) fn(cpu, layer, first, last);
        else i++;
    }
}

static void project_gqa(eng__cpu *cpu, const eng__layer *layer) {
    layer_arg work = {cpu, layer};
    size_t kv = (size_t)cpu->plan.n_kv_heads * cpu->plan.head_dim;
    cpu->jobs[0] = (eng__gemm){.mat = &layer->wk,
                               .src = eng__sublayer_input(cpu),
                               .ld_src = cpu->ld_stream,
                               .dst = cpu->kv,
                               .ld_dst = cpu->ld_kv,
                               .rows = cpu->n_all};
    cpu->jobs[1] = (eng__gemm){.mat = &layer->wv,
                               .src = eng__sublayer_input(cpu),
                               .ld_src = cpu->ld_stream,
                               .dst = cpu->kv + kv,
                               .ld_dst = cpu->ld_kv,
                               .rows = cpu->n_all};
    cpu->jobs[2] = (eng__gemm){.mat = &layer->wq,
                               .src = eng__sublayer_input(cpu),
                               .ld_src = cpu->ld_stream,
                               .dst = cpu->q_nope,
                               .ld_dst = cpu->ld_q_nope,
                               .rows = cpu->n_full};
    eng__gemm_run(cpu, cpu->jobs, 3);
    eng__pool_run(cpu->pool, store_kv_work, &work, cpu->n_all, 4);
    eng__pool_run(cpu->pool, lay_out_queries_work, &work, cpu->n_full, 4);
}

/* ---- runs ---- */

static void add_run(eng__cpu *cpu, uint32_t first, uint32_t last, bool expanded) {
    if (last > first) cpu->runs[cpu->n_runs++] = (eng__run){first, last - first, expanded};
}

static bool chunked(const eng__cpu *cpu, uint32_t idx) {
    return !cpu->in_coda && cpu->chunked[eng__row_of(cpu, idx)->row];
}

/* Splits rows [first, last) of consecutive positions into runs. A row uses the expanded form if the
 * launch holds the rest of its window and at least one block of it. The choice depends on this
 * sequence only, not on other sequences or on the number of windows in the launch. If the prefix
 * cache holds the start of a window, the rest takes the same form as without it. Rows that entered
 * one by one stay absorbed: it is chance that their tails meet. The coda may be cut anywhere, so it
 * stays absorbed. */
static void add_runs(eng__cpu *cpu, uint32_t first, uint32_t last) {
    uint32_t begin = first, pos = eng__row_of(cpu, first)->pos,
             window = chunked(cpu, first) ? cpu->window : 0;
    if (window == 0) {
        add_run(cpu, first, last, false);
        return;
    }
    uint32_t to_end = window - pos % window;
    if (to_end < ENG_BLOCK) begin += to_end;
    uint32_t past = (pos + last - first) % window; /* rows of an incomplete window */
    uint32_t end = last - first >= to_end ? last - past : first;
    if (end <= begin) {
        add_run(cpu, first, last, false);
        return;
    }
    add_run(cpu, first, begin, false);
    add_run(cpu, begin, end, true);
    add_run(cpu, end, last, false);
}

static void find_runs(eng__cpu *cpu) {
    cpu->n_runs = 0;
    for (uint32_t idx = 0, n; idx < cpu->n_full; idx += n) {
        const eng_row *row = eng__row_of(cpu, idx);
        for (n = 1; idx + n < cpu->n_full; n++) {
            const eng_row *next = eng__row_of(cpu, idx + n);
            if (next->blocks != row->blocks || next->pos != row->pos + n) break;
            if (cpu->plane[idx + n] != cpu->plane[idx]) break;
            if (chunked(cpu, idx + n) != chunked(cpu, idx)) break;
        }
        add_runs(cpu, idx, idx + n);
    }
}

void eng__choose_forms(eng__cpu *cpu) {
    for (uint32_t idx = 0; idx < cpu->n_all; idx++) {
        const eng_row *row = eng__row_of(cpu, idx);
        cpu->chunked[row->row] = cpu->window > 0 && !(row->flags & ENG_ROW_GENERATED);
        cpu->plane[idx] = 0; /* all alike */
    }
    if (cpu->window == 0) return;
    find_runs(cpu);
    for (uint32_t i = 0; i < cpu->n_runs; i++) {
        const eng__run *run = &cpu->runs[i];
        for (uint32_t k = 0; k < run->n_rows; k++)
            cpu->chunked[eng__row_of(cpu, run->first + k)->row] = run->expanded;
    }
}

eng__gemm eng__to_stream(const eng__cpu *cpu, const eng__mat *mat, const float *src,
                         size_t ld_src) {
    bool apart = cpu->plan.norms == NORM_SANDWICH || cpu->plan.norms == NORM_POST;
    return (eng__gemm){.mat = mat,
                       .src = src,
                       .ld_src = ld_src,
                       .dst = apart ? cpu->normed : cpu->stream,
                       .ld_dst = cpu->ld_stream,
                       .rows = cpu->n_full,
                       .op = apart ? ENG__STORE : ENG__ADD};
}

void eng__attention(eng__cpu *cpu, const eng__layer *layer) {
    bool mla = cpu->plan.attn == ATTN_MLA;
    cpu->slot_at = layer->slot_at;
    if (mla) project_mla(cpu, layer);
    else project_gqa(cpu, layer);
    if (cpu->n_full == 0) return;
    find_runs(cpu);
    if (mla) absorb(cpu, layer, absorb_keys);
    eng__attend_blocks(cpu);
    if (cpu->window) eng__attend_expanded(cpu, layer);
    if (mla) absorb(cpu, layer, absorb_values);
    cpu->jobs[0] = eng__to_stream(cpu, &layer->wo, mla ? cpu->attended : cpu->ctx,
                                  mla ? cpu->ld_attended : cpu->ld_ctx);
    eng__gemm_run(cpu, cpu->jobs, 1);
}
