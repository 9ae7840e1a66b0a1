/* libraries.c - the packed-panel product beside oneDNN and OpenBLAS: float32 rows times
 * [N_OUT, N_IN] weights, one thread each, CPU time, alternating, best of the rounds (a busy
 * machine only ever adds time). Built and run by bench/tools/libraries.sh; not part of Fathom. */
#include "base/size.h"
#include "engine/cpu/cpu_internal.h"

#include <cblas.h>
#include <dnnl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { N_IN = 2048, N_OUT = 8192, MOST = 128, ROUNDS = 15 };

static double cpu_seconds(void) {
    struct timespec start;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &start);
    return (double)start.tv_sec + (double)start.tv_nsec * 1e-9;
}

#define DNNL(call)                                                                                 \
    do {                                                                                           \
        dnnl_status_t rc_ = (call);                                                                \
        if (rc_ != dnnl_success) {                                                                 \
            fprintf(stderr, "%s: oneDNN error %d\n", #call, (int)rc_);                             \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

/* An inner product, its weights in the layout that oneDNN chose. */
typedef struct {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    dnnl_primitive_t product;
    dnnl_memory_t src, weights, dst;
} library;

static library library_open(int rows, float *x, float *weights, float *y) {
    library lib;
    dnnl_memory_desc_t src, any, plain, dst;
    dnnl_inner_product_desc_t desc;
    dnnl_primitive_desc_t pd, reorder;
    dnnl_primitive_t move;
    dnnl_memory_t from;
    DNNL(dnnl_engine_create(&lib.engine, dnnl_cpu, 0));
    DNNL(dnnl_stream_create(&lib.stream, lib.engine, dnnl_stream_default_flags));
    DNNL(dnnl_memory_desc_init_by_tag(&src, 2, (dnnl_dims_t){rows, N_IN}, dnnl_f32, dnnl_ab));
    DNNL(dnnl_memory_desc_init_by_tag(&any, 2, (dnnl_dims_t){N_OUT, N_IN}, dnnl_f32,
                                      dnnl_format_tag_any));
    DNNL(dnnl_memory_desc_init_by_tag(&plain, 2, (dnnl_dims_t){N_OUT, N_IN}, dnnl_f32, dnnl_ab));
    DNNL(dnnl_memory_desc_init_by_tag(&dst, 2, (dnnl_dims_t){rows, N_OUT}, dnnl_f32, dnnl_ab));
    DNNL(dnnl_inner_product_forward_desc_init(&desc, dnnl_forward_inference, &src, &any, NULL,
                                              &dst));
    DNNL(dnnl_primitive_desc_create(&pd, &desc, NULL, lib.engine, NULL));
    const dnnl_memory_desc_t *liked = dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0);
    DNNL(dnnl_memory_create(&from, &plain, lib.engine, weights));
    DNNL(dnnl_memory_create(&lib.weights, liked, lib.engine, DNNL_MEMORY_ALLOCATE));
    DNNL(dnnl_memory_create(&lib.src, &src, lib.engine, x));
    DNNL(dnnl_memory_create(&lib.dst, &dst, lib.engine, y));
    DNNL(dnnl_reorder_primitive_desc_create(&reorder, &plain, lib.engine, liked, lib.engine, NULL));
    DNNL(dnnl_primitive_create(&move, reorder));
    dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, lib.weights}};
    DNNL(dnnl_primitive_execute(move, lib.stream, 2, args));
    DNNL(dnnl_primitive_create(&lib.product, pd));
    DNNL(dnnl_stream_wait(lib.stream));
    return lib; /* ends with the process */
}

static void library_run(library *lib) {
    dnnl_exec_arg_t args[] = {
        {DNNL_ARG_SRC, lib->src}, {DNNL_ARG_WEIGHTS, lib->weights}, {DNNL_ARG_DST, lib->dst}};
    DNNL(dnnl_primitive_execute(lib->product, lib->stream, 3, args));
    DNNL(dnnl_stream_wait(lib->stream));
}

static void keep_best(double *best, double start) {
    double took = cpu_seconds() - start;
    if (took < *best) *best = took;
}

int main(void) {
    static const int row_counts[] = {1, 8, 32, MOST};
    float *weights = array_new_aligned((size_t)N_OUT * N_IN, sizeof *weights),
          *panels = array_new_aligned((size_t)N_OUT * N_IN, 4);
    float *x = array_new_aligned((size_t)MOST * N_IN, sizeof *x),
          *y = array_new_aligned((size_t)MOST * N_OUT, 4);
    float *xp = array_new_aligned((size_t)MOST * (N_IN + ENG__PAD), sizeof *xp),
          acc[ENG__ROW_BLOCK * ENG__PANEL];
    eng__cpu cpu = {0};
    if (!weights || !panels || !x || !y || !xp || eng__kernels_choose(&cpu.kern, NULL, NULL) != 0)
        return 1;
    for (size_t i = 0; i < (size_t)N_OUT * N_IN; i++)
        weights[i] = panels[i] = (float)(i % 97) * 0.01f;
    for (size_t i = 0; i < (size_t)MOST * N_IN; i++)
        x[i] = (float)(i % 31) * 0.1f;
    memset(xp, 0, (size_t)MOST * (N_IN + ENG__PAD) * sizeof *xp);
    eng__mat mat = {.data = (uint8_t *)panels,
                    .n_out = N_OUT,
                    .n_in = N_IN,
                    .panels = N_OUT / ENG__PANEL,
                    .type = ENG__F32};
    mat.panel_bytes = (size_t)N_IN * ENG__PANEL * 4;
    openblas_set_num_threads(1);
    printf("%5s %12s %12s %12s   GFLOP/s, f32, one thread, %s\n", "rows", "fathom", "oneDNN",
           "OpenBLAS", cpu.kern->name);
    for (size_t c = 0; c < ARRAY_LEN(row_counts); c++) {
        int rows = row_counts[c];
        double ours = 1e9, dnnl = 1e9, blas = 1e9, flop = 2e-9 * rows * N_OUT * N_IN;
        library lib = library_open(rows, x, weights, y);
        for (int round = 0; round < ROUNDS; round++) {
            double start = cpu_seconds();
            eng__input in = {.src = xp, .ld_src = N_IN + ENG__PAD};
            for (uint32_t panel = 0; panel < mat.panels; panel++) {
                for (int r0 = 0; r0 < rows; r0 += ENG__ROW_BLOCK) {
                    int n = rows - r0 < ENG__ROW_BLOCK ? rows - r0 : ENG__ROW_BLOCK;
                    eng__panel(&cpu, &mat, panel, &in, (uint32_t)r0, (uint32_t)n, acc);
                    for (int i = 0; i < n; i++) {
                        memcpy(y + (size_t)(r0 + i) * N_OUT + panel * ENG__PANEL,
                               acc + i * ENG__PANEL, ENG__PANEL * 4);
                    }
                }
            }
            keep_best(&ours, start);
            start = cpu_seconds();
            library_run(&lib);
            keep_best(&dnnl, start);
            start = cpu_seconds();
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, rows, N_OUT, N_IN, 1, x, N_IN,
                        weights, N_IN, 0, y, N_OUT);
            keep_best(&blas, start);
        }
        printf("%5d %12.1f %12.1f %12.1f\n", rows, flop / ours, flop / dnnl, flop / blas);
    }
    return 0;
}
