/* gemm.c - products of the rows of a launch with packed matrices.
 *
 * A work item is one panel times one block of rows. It runs k in blocks, so a block of the panel
 * stays in the core's cache for all row tiles. Each element still sums k in rising order. */
#include "engine/cpu/cpu_internal.h"
#include "engine/rowmath.h"

#include <string.h>

void eng__panel(const eng__cpu *cpu, const eng__mat *mat, uint32_t panel_idx, const eng__input *in,
                uint32_t row0, uint32_t rows, float *acc) {
    const uint8_t *panel = mat->data + (panel_idx - mat->own.first) * mat->panel_bytes;
    for (size_t k0 = 0; k0 < mat->n_in; k0 += ENG__K_BLOCK) {
        size_t n = mat->n_in - k0 < ENG__K_BLOCK ? mat->n_in - k0 : ENG__K_BLOCK,
               group0 = k0 / ENG__GROUP;
        for (uint32_t row = 0; row < rows; row += ENG__TILE) {
            uint32_t n_rows = eng__min(rows - row, ENG__TILE);
            const float *src = in->src + (row0 + row) * in->ld_src + k0;
            float *to = acc + row * ENG__PANEL;
            if (mat->type == ENG__BF16) {
                cpu->kern->tile_bf16((const uint16_t *)(const void *)panel + k0 * ENG__PANEL, n,
                                     src, in->ld_src, n_rows, to, ENG__PANEL, k0 > 0);
            } else if (mat->type == ENG__F32) {
                cpu->kern->tile_f32((const float *)(const void *)panel + k0 * ENG__PANEL,
                                    ENG__PANEL, n, src, in->ld_src, n_rows, to, ENG__PANEL, k0 > 0);
            } else {
                cpu->kern->tile_i8(panel + group0 * ENG__GROUP_BYTES,
                                   (uint32_t)((n + ENG__GROUP - 1) / ENG__GROUP),
                                   in->codes + (row0 + row) * in->ld_codes + k0, in->ld_codes,
                                   in->scale + (row0 + row) * in->ld_scale + group0,
                                   in->sum + (row0 + row) * in->ld_scale + group0, in->ld_scale,
                                   n_rows, to, ENG__PANEL, k0 > 0);
            }
        }
    }
}

/* ---- int8 forms of inputs ---- */

typedef struct {
    eng__cpu *cpu;
    const eng__gemm *jobs;
} code_batch;

static void code_work(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    const code_batch *batch = arg;
    (void)worker;
    for (uint32_t i = first, at = 0; i < last; i++) {
        while (i - batch->jobs[at].first_item >= batch->jobs[at].new_rows)
            at++;
        const eng__gemm *job = &batch->jobs[at];
        const eng__input *in = &job->in;
        size_t row = i - job->first_item, n_in = job->mat->n_in;
        int8_t *codes = in->codes + row * in->ld_codes;
        float *scale = in->scale + row * in->ld_scale;
        int32_t *sum = in->sum + row * in->ld_scale;
        for (size_t k0 = 0, n; k0 < n_in; k0 += n, codes += ENG__GROUP) {
            n = n_in - k0 < ENG__GROUP ? n_in - k0 : ENG__GROUP;
            batch->cpu->kern->quantize(in->src + row * in->ld_src + k0, n, codes, scale++, sum++);
        }
    }
}

void eng__gemm_inputs(eng__cpu *cpu, eng__gemm *jobs, uint32_t n_jobs) {
    size_t codes = 0, groups = 0;
    uint32_t items = 0, last_new = 0;
    for (uint32_t i = 0; i < n_jobs; i++) {
        eng__gemm *job = &jobs[i];
        const eng__gemm *old = &jobs[last_new];
        job->in = (eng__input){.src = job->src, .ld_src = job->ld_src};
        job->first_item = items;
        job->new_rows = 0;
        if (job->mat->type != ENG__I8) continue;
        if (old->new_rows && old->src == job->src && old->mat->n_in == job->mat->n_in &&
            old->rows >= job->rows) {
            job->in = old->in;
            continue;
        }
        last_new = i;
        job->in.ld_scale = (job->mat->n_in + ENG__GROUP - 1) / ENG__GROUP;
        job->in.ld_codes = job->in.ld_scale * ENG__GROUP;
        job->in.codes = cpu->codes + codes;
        job->in.scale = cpu->code_scale + groups;
        job->in.sum = cpu->code_sum + groups;
        codes += job->in.ld_codes * job->rows;
        groups += job->in.ld_scale * job->rows;
        items += job->new_rows = job->rows;
    }
    code_batch batch = {cpu, jobs};
    eng__pool_run(cpu->pool, code_work, &batch, items, 2);
}

static void finish(const eng__cpu *cpu, const eng__gemm *job, uint32_t panel_idx, uint32_t row0,
                   uint32_t rows, const float *acc) {
    if (job->op == ENG__SILU) {
        for (uint32_t row = 0; row < rows; row++, acc += ENG__PANEL) {
            cpu->kern->silu_mul(acc, acc + 16,
                                job->dst + (row0 + row) * job->ld_dst + 16 * panel_idx, 16);
        }
        return;
    }
    uint32_t col0 = panel_idx * ENG__PANEL, n = eng__min(job->mat->n_out - col0, ENG__PANEL);
    for (uint32_t row = 0; row < rows; row++, acc += ENG__PANEL) {
        float *dst = job->dst + (row0 + row) * job->ld_dst + col0;
        if (job->op == ENG__ADD) {
            for (uint32_t col = 0; col < n; col++)
                dst[col] += acc[col];
        } else if (job->op == ENG__HALF_RELU2) {
            for (uint32_t col = 0; col < n; col++)
                dst[col] = rm_half_relu2(acc[col]);
        } else {
            memcpy(dst, acc, n * sizeof *dst);
        }
    }
}

typedef struct {
    eng__cpu *cpu;
    eng__gemm *jobs;
    uint32_t n_jobs;
} gemm_batch;

static uint32_t row_blocks(const eng__gemm *job) {
    return (job->rows + ENG__ROW_BLOCK - 1) / ENG__ROW_BLOCK;
}

static void gemm_work(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    const gemm_batch *batch = arg;
    float *acc = batch->cpu->scratch[worker].acc;
    uint32_t low = 0, high = batch->n_jobs; /* the job that holds item `first` */
    while (high - low > 1) {
        uint32_t mid = low + (high - low) / 2;
        if (batch->jobs[mid].first_item <= first) low = mid;
        else high = mid;
    }
    for (uint32_t i = first; i < last; i++) {
        while (low + 1 < batch->n_jobs && batch->jobs[low + 1].first_item <= i)
            low++;
        const eng__gemm *job = &batch->jobs[low];
        uint32_t item = i - job->first_item, blocks = row_blocks(job);
        uint32_t panel_idx = job->mat->own.first + item / blocks;
        uint32_t row0 = item % blocks * ENG__ROW_BLOCK;
        uint32_t rows = eng__min(job->rows - row0, ENG__ROW_BLOCK);
        eng__panel(batch->cpu, job->mat, panel_idx, &job->in, row0, rows, acc);
        finish(batch->cpu, job, panel_idx, row0, rows, acc);
    }
}

void eng__gemm_run(eng__cpu *cpu, eng__gemm *jobs, uint32_t n_jobs) {
    uint32_t n = 0, kept = 0;
    for (uint32_t i = 0; i < n_jobs; i++) {
        if (jobs[i].rows && jobs[i].mat->panels) jobs[kept++] = jobs[i];
    }
    eng__gemm_inputs(cpu, jobs, kept);
    for (uint32_t i = 0; i < kept; i++) {
        jobs[i].first_item = n;
        n += (jobs[i].mat->own.last - jobs[i].mat->own.first) * row_blocks(&jobs[i]);
    }
    gemm_batch batch = {cpu, jobs, kept};
    eng__pool_run(cpu->pool, gemm_work, &batch, n, 1);
}
