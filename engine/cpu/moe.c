/* moe.c - the feed-forward parts: dense SwiGLU and the mixture of experts.
 *
 * Mixture: rows are sorted by expert (count, prefix, scatter). The first phase computes
 * silu(gate) * up of the shared experts, packed as one, and of each chosen expert; the
 * second makes one panel of the output per item and adds, per row, the shared experts
 * and then the chosen ones in rising order, so the sum never depends on other rows. */
#include "engine/cpu/cpu_internal.h"

#include <math.h>
#include <string.h>

void eng__ffn_dense(eng__cpu *g, const eng__layer *l) {
    g->jobs[0] = (eng__gemm){.w = &l->gate_up,
                             .x = g->xn,
                             .ldx = g->ld_d,
                             .y = g->hidden,
                             .ldy = g->ld_hidden,
                             .rows = g->n_full,
                             .op = ENG__SILU};
    eng__gemm_run(g, g->jobs, 1);
    g->jobs[0] = eng__to_stream(g, &l->down, g->hidden, g->ld_hidden);
    eng__gemm_run(g, g->jobs, 1);
}

/* The top_k experts of one row by logit + bias (ties: lower index), in rising order, with
 * the softmax of the plain logits over them. NaN never wins against a number. */
static void pick_experts(const model_plan *c, const float *logits, const float *bias,
                         uint32_t *pick, float *weight) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < c->n_experts; i++) {
        float v = logits[i] + bias[i];
        if (isnan(v)) v = -INFINITY;
        uint32_t at = n;
        if (n < c->n_experts_per_tok) {
            n++;
        } else if (v > weight[n - 1]) { /* weight holds the choosing values for now, best first */
            at = n - 1;
        } else {
            continue;
        }
        while (at > 0 && v > weight[at - 1]) {
            weight[at] = weight[at - 1];
            pick[at] = pick[at - 1];
            at--;
        }
        weight[at] = v;
        pick[at] = i;
    }
    for (uint32_t i = 1; i < n; i++) {
        uint32_t p = pick[i], at = i;
        for (; at > 0 && pick[at - 1] > p; at--)
            pick[at] = pick[at - 1];
        pick[at] = p;
    }
    float top = logits[pick[0]], sum = 0;
    for (uint32_t i = 1; i < n; i++)
        top = fmaxf(top, logits[pick[i]]);
    for (uint32_t i = 0; i < n; i++)
        sum += weight[i] = expf(logits[pick[i]] - top);
    for (uint32_t i = 0; i < n; i++)
        weight[i] /= sum;
}

static void sort_by_expert(eng__cpu *g) {
    uint32_t k = g->plan.n_experts_per_tok, n = g->n_full * k, *first = g->expert_first;
    memset(first, 0, (g->plan.n_experts + 1) * sizeof *first);
    for (uint32_t i = 0; i < n; i++)
        first[g->pick[i] + 1]++;
    for (uint32_t i = 0; i < g->plan.n_experts; i++)
        first[i + 1] += first[i];
    for (uint32_t i = 0; i < n; i++) {
        g->sorted[first[g->pick[i]]++] = i;
    }
    memmove(first + 1, first, g->plan.n_experts * sizeof *first);
    first[0] = 0;
}

static void gather_work(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    eng__cpu *g = arg;
    (void)worker;
    for (uint32_t i = first; i < last; i++) {
        uint32_t row = g->sorted[i] / g->plan.n_experts_per_tok;
        memcpy(g->expert_x + i * g->ld_d, g->xn + row * g->ld_d, g->plan.dim * sizeof *g->xn);
    }
}

typedef struct {
    eng__cpu *g;
    const eng__layer *l;
    eng__input shared, experts; /* of the second phase */
} moe_arg;

/* One panel of the output for all rows: the shared experts, then the chosen. */
static void down_work(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    const moe_arg *a = arg;
    eng__cpu *g = a->g;
    float *acc = g->scratch[worker].acc;
    uint32_t k = g->plan.n_experts_per_tok;
    for (uint32_t p = first; p < last; p++) {
        uint32_t c0 = p * ENG__PANEL,
                 nc = g->plan.dim - c0 < ENG__PANEL ? g->plan.dim - c0 : ENG__PANEL;
        for (uint32_t r0 = 0; g->plan.n_shared_experts && r0 < g->n_full; r0 += ENG__ROW_BLOCK) {
            uint32_t n = g->n_full - r0 < ENG__ROW_BLOCK ? g->n_full - r0 : ENG__ROW_BLOCK;
            eng__panel(g, &a->l->down, p, &a->shared, r0, n, acc);
            for (uint32_t r = 0; r < n; r++) {
                g->k->scale_add(g->x + (r0 + r) * g->ld_d + c0, 1.0f, acc + r * ENG__PANEL, 1.0f,
                                nc);
            }
        }
        for (uint32_t x = 0; x < g->plan.n_experts; x++) {
            uint32_t i0 = g->expert_first[x], end = g->expert_first[x + 1];
            for (; i0 < end; i0 += ENG__ROW_BLOCK) {
                uint32_t n = end - i0 < ENG__ROW_BLOCK ? end - i0 : ENG__ROW_BLOCK;
                eng__panel(g, &a->l->expert_down[x], p, &a->experts, i0, n, acc);
                for (uint32_t i = 0; i < n; i++) {
                    uint32_t pick = g->sorted[i0 + i];
                    g->k->scale_add(g->x + pick / k * g->ld_d + c0, 1.0f, acc + i * ENG__PANEL,
                                    g->pick_weight[pick], nc);
                }
            }
        }
    }
}

void eng__ffn_moe(eng__cpu *g, const eng__layer *l) {
    const model_plan *c = &g->plan;
    uint32_t k = c->n_experts_per_tok, n_jobs = 0;
    g->jobs[0] = (eng__gemm){.w = &l->router,
                             .x = g->xn,
                             .ldx = g->ld_d,
                             .y = g->router,
                             .ldy = g->ld_router,
                             .rows = g->n_full};
    eng__gemm_run(g, g->jobs, 1);
    for (uint32_t r = 0; r < g->n_full; r++) {
        pick_experts(c, g->router + r * g->ld_router, l->router_bias, g->pick + r * k,
                     g->pick_weight + r * k);
    }
    sort_by_expert(g);
    if (g->n_full > 1) eng__pool_run(g->pool, gather_work, g, g->n_full * k, 4);
    if (c->n_shared_experts) {
        g->jobs[n_jobs++] = (eng__gemm){.w = &l->gate_up,
                                        .x = g->xn,
                                        .ldx = g->ld_d,
                                        .y = g->hidden,
                                        .ldy = g->ld_hidden,
                                        .rows = g->n_full,
                                        .op = ENG__SILU};
    }
    for (uint32_t x = 0; x < c->n_experts; x++) {
        uint32_t i0 = g->expert_first[x], n = g->expert_first[x + 1] - i0;
        if (n == 0) continue;
        g->jobs[n_jobs++] = (eng__gemm){.w = &l->expert_gate_up[x],
                                        .x = g->n_full > 1 ? g->expert_x + i0 * g->ld_d : g->xn,
                                        .ldx = g->ld_d,
                                        .y = g->expert_hidden + i0 * g->ld_expert,
                                        .ldy = g->ld_expert,
                                        .rows = n,
                                        .op = ENG__SILU};
    }
    eng__gemm_run(g, g->jobs, n_jobs);
    g->jobs[0] = (eng__gemm){
        .w = &l->expert_down[0], .x = g->expert_hidden, .ldx = g->ld_expert, .rows = g->n_full * k};
    g->jobs[1] = (eng__gemm){.w = &l->down, .x = g->hidden, .ldx = g->ld_hidden, .rows = g->n_full};
    eng__gemm_inputs(g, g->jobs, c->n_shared_experts ? 2 : 1);
    moe_arg a = {g, l, g->jobs[1].in, g->jobs[0].in};
    eng__pool_run(g->pool, down_work, &a, (c->dim + ENG__PANEL - 1) / ENG__PANEL, 1);
}
