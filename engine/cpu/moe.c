/* moe.c - the feed-forward parts: dense SwiGLU or squared ReLU, and the mixture of experts.
 *
 * Rows of the mixture are sorted by expert (count, prefix, scatter). The first phase computes
 * silu(gate) * up of the shared experts, packed as one, and of each chosen expert. An item of the
 * second phase is one panel of the output. It adds, per row, the shared experts, then the chosen
 * experts in rising order, so the sum never depends on other rows.
 *
 * With ranks each phase computes this rank's panels and ends with a gather: all hidden values are
 * there before the second product, all outputs before the next layer. */
#include "engine/cpu/cpu_internal.h"

#include <math.h>
#include <string.h>

/* The hidden values of the dense layer, or of the always-on experts, for all full rows. */
static eng__gemm to_hidden(eng__cpu *cpu, const eng__layer *layer) {
    return (eng__gemm){.mat = &layer->gate_up,
                       .src = eng__sublayer_input(cpu),
                       .ld_src = cpu->ld_stream,
                       .dst = cpu->hidden,
                       .ld_dst = cpu->ld_hidden,
                       .rows = cpu->n_full,
                       .op = layer->ffn == FFN_HALF_RELU2 ? ENG__HALF_RELU2 : ENG__SILU};
}

/* What to_hidden writes, as columns of ranks. */
static eng_columns hidden_columns(const eng__cpu *cpu, const eng__layer *layer) {
    return (eng_columns){
        cpu->hidden,         cpu->ld_hidden,
        sizeof *cpu->hidden, cpu->n_full,
        layer->down.n_in,    layer->ffn == FFN_HALF_RELU2 ? ENG_RANKS_OUT : ENG_RANKS_HIDDEN};
}

static void gather_output(eng__cpu *cpu, float *out, size_t ld) {
    const eng_columns part = {out, ld, sizeof *out, cpu->n_full, cpu->plan.dim, ENG_RANKS_OUT};
    eng__gather_ranks(cpu, &part, 1);
}

void eng__ffn_dense(eng__cpu *cpu, const eng__layer *layer) {
    cpu->jobs[0] = to_hidden(cpu, layer);
    eng__gemm_run(cpu, cpu->jobs, 1);
    const eng_columns hidden = hidden_columns(cpu, layer);
    eng__gather_ranks(cpu, &hidden, 1);
    const eng__gemm down = eng__to_stream(cpu, &layer->down, cpu->hidden, cpu->ld_hidden);
    cpu->jobs[0] = down;
    eng__gemm_run(cpu, cpu->jobs, 1);
    gather_output(cpu, down.dst, down.ld_dst);
}

/* The top_k experts of one row by logit + bias (ties: lower index), in rising order. Their weights
 * are the softmax of their logits without bias. NaN never wins against a number. */
static void pick_experts(const model_plan *plan, const float *logits, const float *bias,
                         uint32_t *pick, float *weight) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < plan->n_experts; i++) {
        float value = logits[i] + bias[i];
        if (isnan(value)) value = -INFINITY;
        uint32_t at = n;
        if (n < plan->n_experts_per_tok) {
            n++;
        } else if (value > weight[n - 1]) { /* until here weight holds logit + bias, best first */
            at = n - 1;
        } else {
            continue;
        }
        while (at > 0 && value > weight[at - 1]) {
            weight[at] = weight[at - 1];
            pick[at] = pick[at - 1];
            at--;
        }
        weight[at] = value;
        pick[at] = i;
    }
    for (uint32_t i = 1; i < n; i++) {
        uint32_t expert = pick[i], at = i;
        for (; at > 0 && pick[at - 1] > expert; at--)
            pick[at] = pick[at - 1];
        pick[at] = expert;
    }
    float top = logits[pick[0]], sum = 0;
    for (uint32_t i = 1; i < n; i++)
        top = fmaxf(top, logits[pick[i]]);
    for (uint32_t i = 0; i < n; i++)
        sum += weight[i] = expf(logits[pick[i]] - top);
    for (uint32_t i = 0; i < n; i++)
        weight[i] /= sum;
}

static void sort_by_expert(eng__cpu *cpu) {
    uint32_t top_k = cpu->plan.n_experts_per_tok, n = cpu->n_full * top_k,
             *first = cpu->expert_first;
    memset(first, 0, (cpu->plan.n_experts + 1) * sizeof *first);
    for (uint32_t i = 0; i < n; i++)
        first[cpu->pick[i] + 1]++;
    for (uint32_t i = 0; i < cpu->plan.n_experts; i++)
        first[i + 1] += first[i];
    for (uint32_t i = 0; i < n; i++) {
        cpu->sorted[first[cpu->pick[i]]++] = i;
    }
    memmove(first + 1, first, cpu->plan.n_experts * sizeof *first);
    first[0] = 0;
}

static void gather_work(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    eng__cpu *cpu = arg;
    (void)worker;
    for (uint32_t i = first; i < last; i++) {
        uint32_t row = cpu->sorted[i] / cpu->plan.n_experts_per_tok;
        memcpy(cpu->expert_x + i * cpu->ld_stream, cpu->normed + row * cpu->ld_stream,
               cpu->plan.dim * sizeof *cpu->normed);
    }
}

typedef struct {
    eng__cpu *cpu;
    const eng__layer *layer;
    eng__input shared, experts; /* inputs of the second phase */
    eng_share own;              /* its panels */
} moe_arg;

/* One panel of the output for all rows: the shared experts, then the chosen ones. */
static void down_work(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    const moe_arg *work = arg;
    eng__cpu *cpu = work->cpu;
    float *acc = cpu->scratch[worker].acc;
    uint32_t top_k = cpu->plan.n_experts_per_tok;
    first += work->own.first;
    last += work->own.first;
    for (uint32_t panel_idx = first; panel_idx < last; panel_idx++) {
        uint32_t col0 = panel_idx * ENG__PANEL, n_cols = eng__min(cpu->plan.dim - col0, ENG__PANEL);
        for (uint32_t row0 = 0; cpu->plan.n_shared_experts && row0 < cpu->n_full;
             row0 += ENG__ROW_BLOCK) {
            uint32_t n = eng__min(cpu->n_full - row0, ENG__ROW_BLOCK);
            eng__panel(cpu, &work->layer->down, panel_idx, &work->shared, row0, n, acc);
            for (uint32_t row = 0; row < n; row++) {
                cpu->kern->scale_add(cpu->stream + (row0 + row) * cpu->ld_stream + col0, 1.0f,
                                     acc + row * ENG__PANEL, 1.0f, n_cols);
            }
        }
        for (uint32_t expert = 0; expert < cpu->plan.n_experts; expert++) {
            uint32_t first_at = cpu->expert_first[expert], end = cpu->expert_first[expert + 1];
            for (; first_at < end; first_at += ENG__ROW_BLOCK) {
                uint32_t n = eng__min(end - first_at, ENG__ROW_BLOCK);
                eng__panel(cpu, &work->layer->expert_down[expert], panel_idx, &work->experts,
                           first_at, n, acc);
                for (uint32_t i = 0; i < n; i++) {
                    uint32_t pick = cpu->sorted[first_at + i];
                    cpu->kern->scale_add(cpu->stream + pick / top_k * cpu->ld_stream + col0, 1.0f,
                                         acc + i * ENG__PANEL, cpu->pick_weight[pick], n_cols);
                }
            }
        }
    }
}

void eng__ffn_moe(eng__cpu *cpu, const eng__layer *layer) {
    const model_plan *plan = &cpu->plan;
    uint32_t top_k = plan->n_experts_per_tok, n_jobs = 0;
    cpu->jobs[0] = (eng__gemm){.mat = &layer->router,
                               .src = cpu->normed,
                               .ld_src = cpu->ld_stream,
                               .dst = cpu->router,
                               .ld_dst = cpu->ld_router,
                               .rows = cpu->n_full};
    eng__gemm_run(cpu, cpu->jobs, 1);
    for (uint32_t row = 0; row < cpu->n_full; row++) {
        pick_experts(plan, cpu->router + row * cpu->ld_router, layer->router_bias,
                     cpu->pick + row * top_k, cpu->pick_weight + row * top_k);
    }
    sort_by_expert(cpu);
    if (cpu->n_full > 1) eng__pool_run(cpu->pool, gather_work, cpu, cpu->n_full * top_k, 4);
    if (plan->n_shared_experts) cpu->jobs[n_jobs++] = to_hidden(cpu, layer);
    for (uint32_t expert = 0; expert < plan->n_experts; expert++) {
        uint32_t first_at = cpu->expert_first[expert], n = cpu->expert_first[expert + 1] - first_at;
        if (n == 0) continue;
        cpu->jobs[n_jobs++] = (eng__gemm){
            .mat = &layer->expert_gate_up[expert],
            .src = cpu->n_full > 1 ? cpu->expert_x + first_at * cpu->ld_stream : cpu->normed,
            .ld_src = cpu->ld_stream,
            .dst = cpu->expert_hidden + first_at * cpu->ld_expert,
            .ld_dst = cpu->ld_expert,
            .rows = n,
            .op = ENG__SILU};
    }
    eng__gemm_run(cpu, cpu->jobs, n_jobs);
    const eng_columns parts[] = {{cpu->expert_hidden, cpu->ld_expert, sizeof *cpu->expert_hidden,
                                  cpu->n_full * top_k, layer->expert_down[0].n_in,
                                  ENG_RANKS_HIDDEN},
                                 hidden_columns(cpu, layer)};
    eng__gather_ranks(cpu, parts, plan->n_shared_experts ? 2 : 1);
    cpu->jobs[0] = (eng__gemm){.mat = &layer->expert_down[0],
                               .src = cpu->expert_hidden,
                               .ld_src = cpu->ld_expert,
                               .rows = cpu->n_full * top_k};
    cpu->jobs[1] = (eng__gemm){
        .mat = &layer->down, .src = cpu->hidden, .ld_src = cpu->ld_hidden, .rows = cpu->n_full};
    eng__gemm_inputs(cpu, cpu->jobs, plan->n_shared_experts ? 2 : 1);
    moe_arg work = {cpu, layer, cpu->jobs[1].in, cpu->jobs[0].in, layer->expert_down[0].own};
    eng__pool_run(cpu->pool, down_work, &work, work.own.last - work.own.first, 1);
    gather_output(cpu, cpu->stream, cpu->ld_stream);
}
