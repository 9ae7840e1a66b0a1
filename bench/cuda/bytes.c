/* bytes.c - the least each kernel must move and compute: every input and every output once, a
 * weight once for any number of rows. A second read by a kernel does not count. */
#include "base/size.h"
#include "bench/cuda/bench.h"

#include <stdlib.h>
#include <string.h>

/* y [rows][groups][n] = x [rows][groups][k] w [groups][n][k]; x bfloat16. */
static kb_work product(const cu_mat *w, double groups, double rows, double y_bytes) {
    double n = w->n, k = w->k;
    return (kb_work){groups * (n * k * 2 + rows * (k * 2 + n * y_bytes)),
                     2 * groups * n * k * rows};
}

/* Gate and up become one: half as many outputs, in bfloat16. */
static kb_work gated(const cu_mat *w, double rows) {
    return product(w, 1, rows, 1);
}

/* Routed experts and always-on groups with rows; parts: of all rows. */
static kb_work by_expert(const cu_mat *w, double groups, double parts, double y_bytes) {
    double n = w->n, k = w->k;
    return (kb_work){groups * n * k * 2 + parts * (k * 2 + n * y_bytes), 2 * n * k * parts};
}

typedef struct {
    const cu_backend *b;
    const cu_layer *l;
    double rows, d;
    bool moe_stage;
} at;

static const cu_layer *layer_of(const cu_backend *b, eng_stage stage) {
    return stage == ENG_STAGE_PRELUDE ? b->prelude : stage == ENG_STAGE_CODA ? b->coda : b->core;
}

static bool products(const at *x, const char *name, kb_work *w) {
    const cu_backend *b = x->b;
    const cu_layer *l = x->l;
    double heads = b->plan.n_heads;
    if (strcmp(name, "head") == 0) *w = product(&b->head, 1, x->rows, 4);
    else if (strcmp(name, "qkv") == 0) *w = product(&l->in, 1, x->rows, 4);
    else if (strcmp(name, "q_up") == 0) *w = product(&l->q_up, 1, x->rows, 4);
    else if (strcmp(name, "absorb") == 0) *w = product(&l->uk, heads, x->rows, 2);
    else if (strcmp(name, "value_up") == 0) *w = product(&l->uv, heads, x->rows, 2);
    else if (strcmp(name, "wo") == 0) *w = product(&l->wo, 1, x->rows, 4);
    else if (strcmp(name, "router") == 0) *w = product(&l->router, 1, x->rows, 4);
    else if (strcmp(name, "gate_up") == 0) *w = gated(&l->gate_up, x->rows);
    else if (strcmp(name, "down") == 0) *w = product(&l->down, 1, x->rows, 4);
    else return false;
    return true;
}

static bool experts(const at *x, const char *name, uint32_t live, kb_work *w) {
    const cu_backend *b = x->b;
    const cu_layer *l = x->l;
    bool dense = eng__cuda_blas_shared(b, (uint32_t)x->rows);
    double in_mm = dense ? 0 : b->groups_shared;
    double parts = x->rows * (b->plan.n_experts_per_tok + in_mm);
    if (strcmp(name, "expert_gate_up") == 0) {
        *w = by_expert(&l->gate_up, live + in_mm, parts, 1);
    } else if (strcmp(name, "expert_down") == 0) {
        *w = by_expert(&l->down, live + in_mm, parts, 4);
    } else if (strcmp(name, "shared_gate_up") == 0) {
        cu_mat wide = l->shared_gate_up; /* all groups as one; bfloat16 before SiLU */
        wide.n *= b->groups_shared;
        *w = product(&wide, 1, x->rows, 2);
    } else if (strcmp(name, "shared_down") == 0) {
        *w = product(&l->shared_down, 1, x->rows, 4);
    } else {
        return false;
    }
    return true;
}

static bool attends(const at *x, const char *name, double context, kb_work *w) {
    const cu_backend *b = x->b;
    const model_plan *c = &b->plan;
    if (strcmp(name, "attention") != 0) return false;
    double h = c->n_heads, q = x->rows * h * b->dk * 2, o = x->rows * h * b->dv * 2;
    double n = eng__cuda_parts(b, (uint32_t)x->rows).most, parts = 0;
    if (n > 1) parts = 2 * x->rows * n * h * (b->dv + 2) * 4; /* left, then joined */
    *w = (kb_work){x->rows * context * c->layer_values * 2 + q + parts + o,
                   2 * x->rows * context * h * (b->dk + b->dv)};
    return true;
}

/* Kernels of rows: floats of d read and written a row, and vectors read once. */
static bool of_rows(const at *x, const char *name, eng_stage stage, kb_work *w) {
    const cu_backend *b = x->b;
    const cu_layer *l = x->l;
    const model_plan *c = &b->plan;
    double r = x->rows, d = x->d, row = d * 4, act = d * 2;
    double parts = x->moe_stage ? c->n_experts_per_tok +
                                      (eng__cuda_blas_shared(b, (uint32_t)r) ? 1 : b->groups_shared)
                                : 1;
    double from = 2 * row; /* h and e, or x and delta; of a stage's only layer: */
    if (stage == ENG_STAGE_PRELUDE && b->plan.n_prelude == 1) from = act;
    if (stage == ENG_STAGE_CODA && b->plan.n_coda == 1) from = row;
    double bytes;
    if (strcmp(name, "row_step_attention") == 0) bytes = r * (from + row + act) + 2 * row;
    else if (strcmp(name, "row_step_ffn") == 0) bytes = r * (3 * row + act) + row;
    else if (strcmp(name, "row_step_state") == 0) bytes = r * 5 * row;
    else if (strcmp(name, "row_step_head") == 0) bytes = r * (2 * row + act) + row;
    else if (strcmp(name, "mla_prep") == 0 || strcmp(name, "gqa_prep") == 0) {
        bytes = r * (l->in.n * 4.0 + l->in.n * 2.0);
    } else if (strcmp(name, "mla_query") == 0) {
        bytes = r * (l->q_up.n * 4.0 + l->q_up.n * 2.0);
    } else if (strcmp(name, "silu_rows") == 0) {
        double wide = x->moe_stage ? (double)l->shared_gate_up.n * b->groups_shared : l->gate_up.n;
        bytes = r * wide * 3;
    } else if (strcmp(name, "moe_route") == 0) {
        bytes = r * (c->n_experts * 4.0 + c->n_experts_per_tok * 8.0);
    } else if (strcmp(name, "moe_group") == 0) {
        bytes = r * (c->n_experts_per_tok * 4.0 + parts * 4);
    } else if (strcmp(name, "moe_assign") == 0) {
        bytes = r * (c->n_experts * 4.0 + c->n_experts_per_tok * 8.0 + parts * 4);
    } else if (strcmp(name, "loop_mix") == 0) { /* the sum over parts goes over x */
        bytes = r * (2 * row + parts * row) + c->lora_rank * row;
    } else if (strcmp(name, "loop_leave") == 0 || strcmp(name, "loop_row") == 0) {
        bool leave = name[5] == 'l';
        double lora = leave ? c->lora_rank * row + 2 * row : 0;
        double state = leave ? 3 * row : 2 * row; /* h read, written; e read */
        double sum = c->output == OUTPUT_WEIGHTED_SUM ? 2 * row : 0;
        bytes = r * (leave ? row + state + sum : row + parts * row + state + sum) + lora + row;
    } else if (strcmp(name, "sample") == 0) {
        bytes = r * c->vocab_size * 4.0;
    } else {
        return false;
    }
    *w = (kb_work){bytes, 0};
    return true;
}

kb_work kb_kernel_work(const cu_backend *b, const char *kernel, eng_stage stage, uint32_t rows,
                       uint32_t context, uint32_t live) {
    at x = {.b = b, .l = layer_of(b, stage), .rows = rows, .d = b->plan.dim};
    x.moe_stage = stage == ENG_STAGE_RECURRENT && b->plan.core_ffn == FFN_MOE;
    kb_work w = {0, 0};
    if (products(&x, kernel, &w) || attends(&x, kernel, context, &w)) return w;
    if (x.moe_stage && experts(&x, kernel, live, &w)) return w;
    (void)of_rows(&x, kernel, stage, &w);
    return w;
}

static double mat_bytes(const cu_mat *m, double count) {
    return m->w ? (double)m->n * m->k * 2 * count : 0;
}

double kb_stage_bytes(const cu_backend *b, eng_stage stage, uint32_t rows, uint32_t context,
                      uint32_t live) {
    const model_plan *c = &b->plan;
    bool moe = stage == ENG_STAGE_RECURRENT && c->core_ffn == FFN_MOE;
    double n = eng__cuda_layers(b, stage), r = rows, d = c->dim, sum = 0;
    if (n > 0) {
        const cu_layer *l = layer_of(b, stage);
        double shared = b->groups_shared;
        sum = mat_bytes(&l->in, 1) + mat_bytes(&l->wo, 1) + mat_bytes(&l->q_up, 1) +
              mat_bytes(&l->uk, c->n_heads) + mat_bytes(&l->uv, c->n_heads) +
              mat_bytes(&l->gate_up, moe ? live : 1) + mat_bytes(&l->down, moe ? live : 1);
        if (moe) {
            sum += mat_bytes(&l->router, 1) + mat_bytes(&l->shared_gate_up, shared) +
                   mat_bytes(&l->shared_down, 1);
        }
        sum = n * (sum + r * context * c->layer_values * 2);
    }
    if (stage == ENG_STAGE_PRELUDE) return sum + r * d * (2 + 4 * 3);
    if (stage == ENG_STAGE_CODA) return sum + r * d * 4;
    if (c->inject == INJECT_MYTHOS) sum += 2.0 * c->lora_rank * d * 4;
    return sum + r * d * 4 * (c->inject == INJECT_MYTHOS ? 3 : 2) +
           (c->output == OUTPUT_WEIGHTED_SUM ? r * d * 8 : 0);
}

double kb_head_bytes(const cu_backend *b, uint32_t rows) {
    return mat_bytes(&b->head, 1) + (double)rows * b->plan.vocab_size * 8; /* written, then read */
}

uint32_t kb_live_experts(const cu_backend *b, uint32_t rows) {
    const model_plan *c = &b->plan;
    if (c->core_ffn != FFN_MOE) return 0;
    size_t n = (size_t)rows * c->n_experts_per_tok;
    uint32_t *pick = array_new(n, sizeof *pick), live = 0;
    uint8_t *has = array_new(c->n_experts, 1);
    if (pick == NULL || has == NULL) kb_fail("out of memory");
    kb_must(cudaStreamSynchronize(b->stream), "waiting");
    kb_must(cudaMemcpy(pick, b->work.moe.pick, n * sizeof *pick, cudaMemcpyDeviceToHost),
            "reading routes");
    for (size_t i = 0; i < n; i++) {
        if (pick[i] < c->n_experts && !has[pick[i]]++) live++;
    }
    free(pick);
    free(has);
    return live;
}
