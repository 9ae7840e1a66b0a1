/* gemm.c - products of a launch's rows with packed matrices.
 *
 * A work item is one panel times one block of rows. Within it k runs in blocks, so that a
 * block of the panel stays in the core's cache while all row tiles pass over it; each
 * element still sums k in rising order. */
#include "engine/cpu/cpu_internal.h"

#include <string.h>

void eng__panel(const eng__cpu *g, const eng__mat *w, uint32_t p, const eng__input *in,
                uint32_t row0, uint32_t rows, float *acc) {
    const uint8_t *panel = w->data + p * w->panel_bytes;
    for (size_t k0 = 0; k0 < w->k; k0 += ENG__K_BLOCK) {
        size_t n = w->k - k0 < ENG__K_BLOCK ? w->k - k0 : ENG__K_BLOCK, g0 = k0 / ENG__GROUP;
        for (uint32_t r = 0; r < rows; r += ENG__TILE) {
            uint32_t nr = rows - r < ENG__TILE ? rows - r : ENG__TILE;
            const float *x = in->x + (row0 + r) * in->ldx + k0;
            float *to = acc + r * ENG__PANEL;
            if (w->type == ENG__BF16) {
                g->k->tile_bf16((const uint16_t *)(const void *)panel + k0 * ENG__PANEL, n, x,
                                in->ldx, nr, to, ENG__PANEL, k0 > 0);
            } else if (w->type == ENG__F32) {
                g->k->tile_f32((const float *)(const void *)panel + k0 * ENG__PANEL, ENG__PANEL, n,
                               x, in->ldx, nr, to, ENG__PANEL, k0 > 0);
            } else {
                g->k->tile_i8(
                    panel + g0 * ENG__GROUP_BYTES, (uint32_t)((n + ENG__GROUP - 1) / ENG__GROUP),
                    in->q + (row0 + r) * in->ldq + k0, in->ldq,
                    in->scale + (row0 + r) * in->ld_s + g0, in->sum + (row0 + r) * in->ld_s + g0,
                    in->ld_s, nr, to, ENG__PANEL, k0 > 0);
            }
        }
    }
}

/* ---- int8 forms of inputs ---- */

typedef struct {
    eng__cpu *g;
    const eng__gemm *jobs;
} code_batch;

static void code_work(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    const code_batch *b = arg;
    (void)worker;
    for (uint32_t i = first, j = 0; i < last; i++) {
        while (i - b->jobs[j].first_item >= b->jobs[j].new_rows)
            j++;
        const eng__gemm *job = &b->jobs[j];
        const eng__input *in = &job->in;
        size_t r = i - job->first_item, k = job->w->k;
        int8_t *q = in->q + r * in->ldq;
        float *scale = in->scale + r * in->ld_s;
        int32_t *sum = in->sum + r * in->ld_s;
        for (size_t k0 = 0, n; k0 < k; k0 += n, q += ENG__GROUP) {
            n = k - k0 < ENG__GROUP ? k - k0 : ENG__GROUP;
            b->g->k->quantize(in->x + r * in->ldx + k0, n, q, scale++, sum++);
        }
    }
}

void eng__gemm_inputs(eng__cpu *g, eng__gemm *jobs, uint32_t n_jobs) {
    size_t codes = 0, groups = 0;
    uint32_t items = 0, last_new = 0;
    for (uint32_t i = 0; i < n_jobs; i++) {
        eng__gemm *j = &jobs[i];
        const eng__gemm *old = &jobs[last_new];
        j->in = (eng__input){.x = j->x, .ldx = j->ldx};
        j->first_item = items;
        j->new_rows = 0;
        if (j->w->type != ENG__I8) continue;
        if (old->new_rows && old->x == j->x && old->w->k == j->w->k && old->rows >= j->rows) {
            j->in = old->in;
            continue;
        }
        last_new = i;
        j->in.ld_s = (j->w->k + ENG__GROUP - 1) / ENG__GROUP;
        j->in.ldq = j->in.ld_s * ENG__GROUP;
        j->in.q = g->codes + codes;
        j->in.scale = g->code_scale + groups;
        j->in.sum = g->code_sum + groups;
        codes += j->in.ldq * j->rows;
        groups += j->in.ld_s * j->rows;
        items += j->new_rows = j->rows;
    }
    code_batch b = {g, jobs};
    eng__pool_run(g->pool, code_work, &b, items, 2);
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
        eng__panel(b->g, j->w, p, &j->in, row0, rows, acc);
        finish(b->g, j, p, row0, rows, acc);
    }
}

void eng__gemm_run(eng__cpu *g, eng__gemm *jobs, uint32_t n_jobs) {
    uint32_t n = 0, kept = 0;
    for (uint32_t i = 0; i < n_jobs; i++) {
        if (jobs[i].rows && jobs[i].w->panels) jobs[kept++] = jobs[i];
    }
    eng__gemm_inputs(g, jobs, kept);
    for (uint32_t i = 0; i < kept; i++) {
        jobs[i].first_item = n;
        n += jobs[i].w->panels * row_blocks(&jobs[i]);
    }
    batch b = {g, jobs, kept};
    eng__pool_run(g->pool, gemm_work, &b, n, 1);
}
