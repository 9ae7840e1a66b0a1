/* gemm.c - products of a launch's rows with packed matrices.
 *
 * A work item is one panel times one block of rows. Within it k runs in blocks, so that a
 * block of the panel stays in the core's cache while all row tiles pass over it; each
 * element still sums k in rising order. */
#include "engine/cpu/cpu_internal.h"

#include <string.h>

void eng__panel(const eng__cpu *g, const eng__mat *w, uint32_t p, const float *x, size_t ldx,
                uint32_t rows, float *acc) {
    const uint8_t *panel = (const uint8_t *)w->data + p * w->panel_bytes;
    for (size_t k0 = 0; k0 < w->k; k0 += ENG__K_BLOCK) {
        size_t n = w->k - k0 < ENG__K_BLOCK ? w->k - k0 : ENG__K_BLOCK;
        for (uint32_t r = 0; r < rows; r += ENG__TILE) {
            uint32_t nr = rows - r < ENG__TILE ? rows - r : ENG__TILE;
            const float *xr = x + r * ldx + k0;
            float *to = acc + r * ENG__PANEL;
            if (w->dtype == ENG_BF16) {
                g->k->tile_bf16((const uint16_t *)(const void *)panel + k0 * ENG__PANEL, n, xr, ldx,
                                nr, to, ENG__PANEL, k0 > 0);
            } else {
                g->k->tile_f32((const float *)(const void *)panel + k0 * ENG__PANEL, ENG__PANEL, n,
                               xr, ldx, nr, to, ENG__PANEL, k0 > 0);
            }
        }
    }
}

static void finish(const eng__cpu *g, const eng__gemm *j, uint32_t p, uint32_t row0, uint32_t rows,
                   const float *acc) {
    if (j->op == ENG__SILU) {
        for (uint32_t r = 0; r < rows; r++, acc += ENG__PANEL) {
            g->k->silu_mul(acc, acc + 16, j->y + (row0 + r) * j->ldy + 16 * p, 16);
        }
        return;
    }
    uint32_t c0 = p * ENG__PANEL, n = j->w->n - c0 < ENG__PANEL ? j->w->n - c0 : ENG__PANEL;
    for (uint32_t r = 0; r < rows; r++, acc += ENG__PANEL) {
        float *y = j->y + (row0 + r) * j->ldy + c0;
        if (j->op == ENG__ADD) {
            for (uint32_t c = 0; c < n; c++)
                y[c] += acc[c];
        } else {
            memcpy(y, acc, n * sizeof *y);
        }
    }
}

typedef struct {
    eng__cpu *g;
    eng__gemm *jobs;
    uint32_t n_jobs;
} batch;

static uint32_t row_blocks(const eng__gemm *j) {
    return (j->rows + ENG__ROW_BLOCK - 1) / ENG__ROW_BLOCK;
}

static void gemm_work(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    const batch *b = arg;
    float *acc = b->g->scratch[worker].acc;
    uint32_t low = 0, high = b->n_jobs; /* the job that holds item `first` */
    while (high - low > 1) {
        uint32_t mid = low + (high - low) / 2;
        if (b->jobs[mid].first_item <= first) low = mid;
        else high = mid;
    }
    for (uint32_t i = first; i < last; i++) {
        while (low + 1 < b->n_jobs && b->jobs[low + 1].first_item <= i)
            low++;
        const eng__gemm *j = &b->jobs[low];
        uint32_t item = i - j->first_item, blocks = row_blocks(j);
        uint32_t p = item / blocks, row0 = item % blocks * ENG__ROW_BLOCK;
        uint32_t rows = j->rows - row0 < ENG__ROW_BLOCK ? j->rows - row0 : ENG__ROW_BLOCK;
        eng__panel(b->g, j->w, p, j->x + row0 * j->ldx, j->ldx, rows, acc);
        finish(b->g, j, p, row0, rows, acc);
    }
}

void eng__gemm_run(eng__cpu *g, eng__gemm *jobs, uint32_t n_jobs) {
    uint32_t n = 0, kept = 0;
    for (uint32_t i = 0; i < n_jobs; i++) {
        if (jobs[i].rows == 0 || jobs[i].w->panels == 0) continue;
        jobs[kept] = jobs[i];
        jobs[kept++].first_item = n;
        n += jobs[i].w->panels * row_blocks(&jobs[i]);
    }
    batch b = {g, jobs, kept};
    eng__pool_run(g->pool, gemm_work, &b, n, 1);
}
