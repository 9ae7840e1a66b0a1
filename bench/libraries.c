/* libraries.c - the packed-panel product beside oneDNN and OpenBLAS: float32 rows times
 * [N, K] weights, one thread each, CPU time, alternating, best of the rounds (a busy
 * machine only ever adds time). Built and run by bench/libraries.sh; not part of Fathom. */
#include "base/size.h"
#include "engine/cpu/cpu_internal.h"

#include <cblas.h>
#include <dnnl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { K = 2048, N = 8192, MOST = 128, ROUNDS = 15 };

static double cpu_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

#define DNNL(call)                                                                                 \
    do {                                                                                           \
        dnnl_status_t rc_ = (call);                                                                \
        if (rc_ != dnnl_success) {                                                                 \
            fprintf(stderr, "%s: oneDNN error %d\n", #call, (int)rc_);                             \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

/* An inner product whose weights lie as oneDNN likes them. */
typedef struct {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    dnnl_primitive_t product;
    dnnl_memory_t src, weights, dst;
} library;

static library library_open(int rows, float *x, float *w, float *y) {
    library l;
    dnnl_memory_desc_t src, any, plain, dst;
    dnnl_inner_product_desc_t d;
    dnnl_primitive_desc_t pd, reorder;
    dnnl_primitive_t move;
    dnnl_memory_t from;
    DNNL(dnnl_engine_create(&l.engine, dnnl_cpu, 0));
    DNNL(dnnl_stream_create(&l.stream, l.engine, dnnl_stream_default_flags));
    DNNL(dnnl_memory_desc_init_by_tag(&src, 2, (dnnl_dims_t){rows, K}, dnnl_f32, dnnl_ab));
    DNNL(dnnl_memory_desc_init_by_tag(&any, 2, (dnnl_dims_t){N, K}, dnnl_f32, dnnl_format_tag_any));
    DNNL(dnnl_memory_desc_init_by_tag(&plain, 2, (dnnl_dims_t){N, K}, dnnl_f32, dnnl_ab));
    DNNL(dnnl_memory_desc_init_by_tag(&dst, 2, (dnnl_dims_t){rows, N}, dnnl_f32, dnnl_ab));
    DNNL(dnnl_inner_product_forward_desc_init(&d, dnnl_forward_inference, &src, &any, NULL, &dst));
    DNNL(dnnl_primitive_desc_create(&pd, &d, NULL, l.engine, NULL));
    const dnnl_memory_desc_t *liked = dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0);
    DNNL(dnnl_memory_create(&from, &plain, l.engine, w));
    DNNL(dnnl_memory_create(&l.weights, liked, l.engine, DNNL_MEMORY_ALLOCATE));
    DNNL(dnnl_memory_create(&l.src, &src, l.engine, x));
    DNNL(dnnl_memory_create(&l.dst, &dst, l.engine, y));
    DNNL(dnnl_reorder_primitive_desc_create(&reorder, &plain, l.engine, liked, l.engine, NULL));
    DNNL(dnnl_primitive_create(&move, reorder));
    dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, l.weights}};
    DNNL(dnnl_primitive_execute(move, l.stream, 2, args));
    DNNL(dnnl_primitive_create(&l.product, pd));
    DNNL(dnnl_stream_wait(l.stream));
    return l; /* ends with the process */
}

static void library_run(library *l) {
    dnnl_exec_arg_t args[] = {
        {DNNL_ARG_SRC, l->src}, {DNNL_ARG_WEIGHTS, l->weights}, {DNNL_ARG_DST, l->dst}};
    DNNL(dnnl_primitive_execute(l->product, l->stream, 3, args));
    DNNL(dnnl_stream_wait(l->stream));
}

static void keep_best(double *best, double start) {
    double took = cpu_seconds() - start;
    if (took < *best) *best = took;
}

int main(void) {
    static const int row_counts[] = {1, 8, 32, MOST};
    float *w = array_new_aligned((size_t)N * K, sizeof *w),
          *panels = array_new_aligned((size_t)N * K, 4);
    float *x = array_new_aligned((size_t)MOST * K, sizeof *x),
          *y = array_new_aligned((size_t)MOST * N, 4);
    float *xp = array_new_aligned((size_t)MOST * (K + ENG__PAD), sizeof *xp),
          acc[ENG__ROW_BLOCK * ENG__PANEL];
    eng__cpu g = {0};
    if (!w || !panels || !x || !y || !xp || eng__kernels_choose(&g.kern, NULL, NULL) != 0) return 1;
    for (size_t i = 0; i < (size_t)N * K; i++)
        w[i] = panels[i] = (float)(i % 97) * 0.01f;
    for (size_t i = 0; i < (size_t)MOST * K; i++)
        x[i] = (float)(i % 31) * 0.1f;
    memset(xp, 0, (size_t)MOST * (K + ENG__PAD) * sizeof *xp);
    eng__mat m = {.data = (uint8_t *)panels,
                  .n_out = N,
                  .n_in = K,
                  .panels = N / ENG__PANEL,
                  .type = ENG__F32};
    m.panel_bytes = (size_t)K * ENG__PANEL * 4;
    openblas_set_num_threads(1);
    printf("%5s %12s %12s %12s   GFLOP/s, f32, one thread, %s\n", "rows", "fathom", "oneDNN",
           "OpenBLAS", g.kern->name);
    for (size_t c = 0; c < ARRAY_LEN(row_counts); c++) {
        int rows = row_counts[c];
        double ours = 1e9, dnnl = 1e9, blas = 1e9, flop = 2e-9 * rows * N * K;
        library l = library_open(rows, x, w, y);
        for (int r = 0; r < ROUNDS; r++) {
            double t = cpu_seconds();
            eng__input in = {.src = xp, .ld_src = K + ENG__PAD};
            for (uint32_t p = 0; p < m.panels; p++) {
                for (int r0 = 0; r0 < rows; r0 += ENG__ROW_BLOCK) {
                    int n = rows - r0 < ENG__ROW_BLOCK ? rows - r0 : ENG__ROW_BLOCK;
                    eng__panel(&g, &m, p, &in, (uint32_t)r0, (uint32_t)n, acc);
                    for (int i = 0; i < n; i++) {
                        memcpy(y + (size_t)(r0 + i) * N + p * ENG__PANEL, acc + i * ENG__PANEL,
                               ENG__PANEL * 4);
                    }
                }
            }
            keep_best(&ours, t);
            t = cpu_seconds();
            library_run(&l);
            keep_best(&dnnl, t);
            t = cpu_seconds();
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, rows, N, K, 1, x, K, w, K, 0, y,
                        N);
            keep_best(&blas, t);
        }
        printf("%5d %12.1f %12.1f %12.1f\n", rows, flop / ours, flop / dnnl, flop / blas);
    }
    return 0;
}
