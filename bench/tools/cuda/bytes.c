/* bytes.c - the least each kernel must move and compute: every input and every output once, a
 * weight once for any number of rows. A second read by a kernel does not count. */
#include "base/size.h"
#include "bench/tools/cuda/bench.h"

#include <stdlib.h>
#include <string.h>

/* y [rows][groups][n] = x [rows][groups][k] w [groups][n][k]; x bfloat16. */
static kb_work product(const cu_mat *mat, double groups, double rows, double y_bytes) {
    double n = mat->n, k = mat->k;
    return (kb_work){groups * (n * k * 2 + rows * (k * 2 + n * y_bytes)),
                     2 * groups * n * k * rows};
}

/* Gate and up become one: half as many outputs, in bfloat16. */
static kb_work gated(const cu_mat *mat, double rows) {
    return product(mat, 1, rows, 1);
}

/* Routed experts and always-on groups with rows; parts: of all rows. */
static kb_work by_expert(const cu_mat *mat, double groups, double parts, double y_bytes) {
    double n = mat->n, k = mat->k;
    return (kb_work){groups * n * k * 2 + parts * (k * 2 + n * y_bytes), 2 * n * k * parts};
}

typedef struct {
    const cu_backend *cuda;
    const cu_layer *layer;
    double rows, dim;
    bool moe_stage;
} kernel_at;

static const cu_layer *layer_of(const cu_backend *cuda, eng_stage stage) {
    return stage == ENG_STAGE_PRELUDE ? cuda->prelude
           : stage == ENG_STAGE_CODA  ? cuda->coda
                                      : cuda->core;
}

static bool products(const kernel_at *here, const char *name, kb_work *work) {
    const cu_backend *cuda = here->cuda;
    const cu_layer *layer = here->layer;
    double heads = cuda->plan.n_heads;
    if (strcmp(name, "head") == 0) *work = product(&cuda->head, 1, here->rows, 4);
    else if (strcmp(name, "qkv") == 0) *work = product(&layer->in, 1, here->rows, 4);
    else if (strcmp(name, "q_up") == 0) *work = product(&layer->q_up, 1, here->rows, 4);
    else if (strcmp(name, "absorb") == 0) *work = product(&layer->uk, heads, here->rows, 2);
    else if (strcmp(name, "value_up") == 0) *work = product(&layer->uv, heads, here->rows, 2);
    else if (strcmp(name, "wo") == 0) *work = product(&layer->wo, 1, here->rows, 4);
    else if (strcmp(name, "router") == 0) *work = product(&layer->router, 1, here->rows, 4);
    else if (strcmp(name, "gate_up") == 0) *work = gated(&layer->gate_up, here->rows);
    else if (strcmp(name, "up") == 0) *work = product(&layer->gate_up, 1, here->rows, 2);
    else if (strcmp(name, "inject_state") == 0) *work = product(&cuda->inj_state, 1, here->rows, 4);
    else if (strcmp(name, "inject_input") == 0) *work = product(&cuda->inj_input, 1, here->rows, 4);
    else if (strcmp(name, "coda_in") == 0) *work = product(&cuda->coda_in, 1, here->rows, 4);
    else if (strcmp(name, "down") == 0) *work = product(&layer->down, 1, here->rows, 4);
    else return false;
    return true;
}

static bool experts(const kernel_at *here, const char *name, uint32_t live, kb_work *work) {
    const cu_backend *cuda = here->cuda;
    const cu_layer *layer = here->layer;
    bool dense = eng__cuda_blas_shared(cuda, (uint32_t)here->rows);
    double in_mm = dense ? 0 : cuda->groups_shared;
    double parts = here->rows * (cuda->plan.n_experts_per_tok + in_mm);
    if (strcmp(name, "expert_gate_up") == 0) {
        *work = by_expert(&layer->gate_up, live + in_mm, parts, 1);
    } else if (strcmp(name, "expert_down") == 0) {
        *work = by_expert(&layer->down, live + in_mm, parts, 4);
    } else if (strcmp(name, "shared_gate_up") == 0) {
        cu_mat wide = layer->shared_gate_up; /* all groups as one; bfloat16 before SiLU */
        wide.n *= cuda->groups_shared;
        *work = product(&wide, 1, here->rows, 2);
    } else if (strcmp(name, "shared_down") == 0) {
        *work = product(&layer->shared_down, 1, here->rows, 4);
    } else {
        return false;
    }
    return true;
}

static bool attends(const kernel_at *here, const char *name, double context, kb_work *work) {
    const cu_backend *cuda = here->cuda;
    const model_plan *plan = &cuda->plan;
    if (strcmp(name, "attention") != 0) return false;
    double heads = plan->n_heads, query = here->rows * heads * cuda->dk * 2,
           out = here->rows * heads * cuda->dv * 2;
    double n = eng__cuda_parts(cuda, (uint32_t)here->rows).most, parts = 0;
    if (n > 1) parts = 2 * here->rows * n * heads * (cuda->dv + 2) * 4; /* left, then joined */
    *work = (kb_work){here->rows * context * plan->layer_values * 2 + query + parts + out,
                      2 * here->rows * context * heads * (cuda->dk + cuda->dv)};
    return true;
}

/* Kernels of rows: floats of dim read and written a row, and vectors read once. */
static bool of_rows(const kernel_at *here, const char *name, eng_stage stage, kb_work *work) {
    const cu_backend *cuda = here->cuda;
    const cu_layer *layer = here->layer;
    const model_plan *plan = &cuda->plan;
    double rows = here->rows, dim = here->dim, row = dim * 4, act = dim * 2;
    double parts = here->moe_stage
                       ? plan->n_experts_per_tok +
                             (eng__cuda_blas_shared(cuda, (uint32_t)rows) ? 1 : cuda->groups_shared)
                       : 1;
    double from = 2 * row; /* h and e, or x and delta; of a stage's only layer: */
    if (stage == ENG_STAGE_PRELUDE && cuda->plan.n_prelude == 1) from = act;
    if (stage == ENG_STAGE_CODA && cuda->plan.n_coda == 1) from = row;
    double bytes;
    if (strcmp(name, "row_step_attention") == 0) bytes = rows * (from + row + act) + 2 * row;
    else if (strcmp(name, "row_step_ffn") == 0) bytes = rows * (3 * row + act) + row;
    else if (strcmp(name, "row_step_state") == 0) bytes = rows * 5 * row;
    else if (strcmp(name, "row_step_head") == 0) bytes = rows * (2 * row + act) + row;
    else if (strcmp(name, "row_step_product") == 0) bytes = rows * (2 * row + act);
    else if (strcmp(name, "row_step_input") == 0) bytes = rows * 2 * row;
    else if (strcmp(name, "row_step_sum") == 0) bytes = rows * (3 * row + act) + row;
    else if (strcmp(name, "mla_prep") == 0 || strcmp(name, "gqa_prep") == 0) {
        bytes = rows * (layer->in.n * 6.0 + layer->value_table.k * 2.0);
    } else if (strcmp(name, "mla_query") == 0) {
        bytes = rows * (layer->q_up.n * 4.0 + layer->q_up.n * 2.0);
    } else if (strcmp(name, "silu_rows") == 0) {
        double wide = here->moe_stage ? (double)layer->shared_gate_up.n * cuda->groups_shared
                                      : layer->gate_up.n;
        bytes = rows * wide * 3;
    } else if (strcmp(name, "relu2_rows") == 0) {
        bytes = rows * layer->gate_up.n * 4;
    } else if (strcmp(name, "moe_route") == 0) {
        bytes = rows * (plan->n_experts * 4.0 + plan->n_experts_per_tok * 8.0);
    } else if (strcmp(name, "moe_group") == 0) {
        bytes = rows * (plan->n_experts_per_tok * 4.0 + parts * 4);
    } else if (strcmp(name, "moe_assign") == 0) {
        bytes = rows * (plan->n_experts * 4.0 + plan->n_experts_per_tok * 8.0 + parts * 4);
    } else if (strcmp(name, "loop_mix") == 0) { /* the sum over parts goes over x */
        bytes = rows * (2 * row + parts * row) + plan->lora_rank * row;
    } else if (strcmp(name, "loop_leave") == 0 || strcmp(name, "loop_row") == 0) {
        bool leave = name[5] == 'l';
        double lora = leave ? plan->lora_rank * row + 2 * row : 0;
        double state = leave ? 3 * row : 2 * row; /* h read, written; e read */
        double sum = plan->output == OUTPUT_WEIGHTED_SUM ? 2 * row : 0;
        bytes = rows * (leave ? row + state + sum : row + parts * row + state + sum) + lora + row;
    } else if (strcmp(name, "sample") == 0) {
        bytes = rows * plan->vocab_size * 4.0;
    } else {
        return false;
    }
    *work = (kb_work){bytes, 0};
    return true;
}

kb_work kb_kernel_work(const cu_backend *cuda, const char *kernel, eng_stage stage, uint32_t rows,
                       uint32_t context, uint32_t live) {
    kernel_at here = {
        .cuda = cuda, .layer = layer_of(cuda, stage), .rows = rows, .dim = cuda->plan.dim};
    here.moe_stage = stage == ENG_STAGE_RECURRENT && cuda->plan.core_ffn == FFN_MOE;
    kb_work work = {0, 0};
    if (products(&here, kernel, &work) || attends(&here, kernel, context, &work)) return work;
    if (here.moe_stage && experts(&here, kernel, live, &work)) return work;
    (void)of_rows(&here, kernel, stage, &work);
    return work;
}

static double mat_bytes(const cu_mat *mat, double count) {
    return mat->w ? (double)mat->n * mat->k * 2 * count : 0;
}

/* Weights of one layer, and a row's entry of its value table. */
static double layer_bytes(const cu_backend *cuda, const cu_layer *layer, bool moe, uint32_t rows,
                          uint32_t live) {
    double heads = cuda->plan.n_heads, shared = cuda->groups_shared;
    double sum = mat_bytes(&layer->in, 1) + mat_bytes(&layer->wo, 1) + mat_bytes(&layer->q_up, 1) +
                 mat_bytes(&layer->uk, heads) + mat_bytes(&layer->uv, heads) +
                 mat_bytes(&layer->gate_up, moe ? live : 1) +
                 mat_bytes(&layer->down, moe ? live : 1) + (double)rows * layer->value_table.k * 2;
    if (!moe) return sum;
    return sum + mat_bytes(&layer->router, 1) + mat_bytes(&layer->shared_gate_up, shared) +
           mat_bytes(&layer->shared_down, 1);
}

double kb_stage_bytes(const cu_backend *cuda, eng_stage stage, uint32_t rows, uint32_t context,
                      uint32_t live) {
    const model_plan *plan = &cuda->plan;
    bool moe = stage == ENG_STAGE_RECURRENT && plan->core_ffn == FFN_MOE;
    uint32_t n = eng__cuda_layers(cuda, stage);
    double n_rows = rows, row = (double)plan->dim * 4, sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += layer_bytes(cuda, layer_of(cuda, stage) + i, moe, rows, live);
    sum += n * n_rows * context * plan->layer_values * 2;
    if (stage == ENG_STAGE_PRELUDE)
        return sum + mat_bytes(&cuda->inj_input, 1) + n_rows * (row / 2 + 3 * row);
    if (stage == ENG_STAGE_CODA) return sum + mat_bytes(&cuda->coda_in, 1) + n_rows * row;
    if (plan->inject == INJECT_MYTHOS) sum += 2.0 * plan->lora_rank * row;
    double states = plan->inject == INJECT_NONE ? 2 : 3; /* h read and written, e read */
    if (plan->output == OUTPUT_WEIGHTED_SUM) states += 2;
    return sum + mat_bytes(&cuda->inj_state, 1) + n_rows * row * states;
}

double kb_head_bytes(const cu_backend *cuda, uint32_t rows) {
    return mat_bytes(&cuda->head, 1) +
           (double)rows * cuda->plan.vocab_size * 8; /* written, then read */
}

uint32_t kb_live_experts(const cu_backend *cuda, uint32_t rows) {
    const model_plan *plan = &cuda->plan;
    if (plan->core_ffn != FFN_MOE) return 0;
    size_t n = (size_t)rows * plan->n_experts_per_tok;
    uint32_t *pick = array_new(n, sizeof *pick), live = 0;
    uint8_t *has = array_new(plan->n_experts, 1);
    if (pick == NULL || has == NULL) kb_fail("out of memory");
    kb_must(cudaStreamSynchronize(cuda->stream), "waiting");
    kb_must(cudaMemcpy(pick, cuda->work.moe.pick, n * sizeof *pick, cudaMemcpyDeviceToHost),
            "reading routes");
    for (size_t i = 0; i < n; i++) {
        if (pick[i] < plan->n_experts && !has[pick[i]]++) live++;
    }
    free(pick);
    free(has);
    return live;
}
