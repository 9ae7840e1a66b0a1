/* keep.c - the weights to keep in the second-level cache from loop to loop.
 *
 * A looped model reads its core's weights again in every loop, and between two reads far more than
 * the cache holds goes by, mostly routed experts, not always picked again by the next loop. So
 * experts are marked to leave first, and a fixed share of the weights read by every loop is marked
 * to stay: the first rows of each matrix, as many of each in proportion, so that all kernels gain
 * alike. */
#include "base/size.h"
#include "engine/cuda/cuda_internal.h"

#include <stdlib.h>
#include <string.h>

/* Of the cache, for weights marked to stay; the rest is for everything without a hint. */
enum { KEPT_TENTHS = 4 };

uint32_t eng__cuda_keep_rows(uint32_t n, uint64_t budget, uint64_t total) {
    if (budget > UINT32_MAX) budget = UINT32_MAX; /* n * budget fits 64 bits */
    uint64_t rows = budget >= total ? n : n * budget / total;
    return (uint32_t)rows / CU_MM_ROWS * CU_MM_ROWS;
}

/* A matrix read by every loop, or a set of `groups` matrices. */
typedef struct {
    cu_mat *mat;
    uint32_t groups;
} kept;

enum { KEPT_MOST = 9 };

static uint32_t matrices_of(const cu_backend *cuda, cu_layer *layer, kept out[KEPT_MOST]) {
    bool moe = cuda->plan.core_ffn == FFN_MOE;
    uint32_t heads = cuda->plan.n_heads;
    const kept all[KEPT_MOST] = {
        {&layer->in, 1},
        {&layer->q_up, 1},
        {&layer->uk, heads},
        {&layer->uv, heads},
        {&layer->wo, 1},
        {&layer->shared_gate_up, cuda->groups_shared},
        {&layer->shared_down, 1},
        {moe ? NULL : &layer->gate_up, 1},
        {moe ? NULL : &layer->down, 1},
    };
    uint32_t n = 0;
    for (uint32_t i = 0; i < KEPT_MOST; i++)
        if (all[i].mat && all[i].mat->w && all[i].groups) out[n++] = all[i];
    return n;
}

/* False if the sum overflows. */
static bool add_bytes(const kept *kept_mat, size_t *total) {
    size_t bytes;
    return size_mul(kept_mat->mat->n, kept_mat->mat->ld, &bytes) && size_mul(bytes, 2, &bytes) &&
           size_mul(bytes, kept_mat->groups, &bytes) && size_add(*total, bytes, total);
}

/* All matrices of core layer `i`, or behind the last layer the matrix on the state. */
static uint32_t kept_at(cu_backend *cuda, uint32_t i, kept out[KEPT_MOST]) {
    if (i < cuda->plan.n_core) return matrices_of(cuda, &cuda->core[i], out);
    out[0] = (kept){&cuda->inj_state, 1};
    return cuda->inj_state.w ? 1 : 0;
}

void eng__cuda_plan_l2(cu_backend *cuda, uint64_t l2_bytes) {
    const char *asked = getenv("FATHOM_CUDA_L2");
    kept list[KEPT_MOST];
    size_t total = 0;
    if (cuda->f32 || (asked && strcmp(asked, "0") == 0)) return;
    cuda->pass_experts = true;
    for (uint32_t i = 0; i <= cuda->plan.n_core; i++) {
        uint32_t n = kept_at(cuda, i, list);
        for (uint32_t j = 0; j < n; j++)
            if (!add_bytes(&list[j], &total)) return;
    }
    for (uint32_t i = 0; i <= cuda->plan.n_core; i++) {
        uint32_t n = kept_at(cuda, i, list);
        for (uint32_t j = 0; j < n; j++)
            list[j].mat->keep =
                eng__cuda_keep_rows(list[j].mat->n, l2_bytes / 10 * KEPT_TENTHS, total);
    }
}
