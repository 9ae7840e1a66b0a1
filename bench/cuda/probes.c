/* probes.c - the limits of the device itself, measured in the same run as everything else: bytes
 * read per second, products per second, and the cost of starting a kernel. */
#include "bench/cuda/bench.h"

#include <stdlib.h>

enum { TIMES = 11, NODES = 200 };

cudaError_t probe_read(cudaStream_t s, const void *p, uint64_t bytes, void *sink, uint32_t blocks);
cudaError_t probe_nothing(cudaStream_t s);

typedef struct {
    cudaEvent_t from, to;
    cu_backend *b;
} timer;

static timer timer_of(cu_backend *b) {
    timer t = {.b = b};
    kb_must(cudaEventCreate(&t.from), "opening an event");
    kb_must(cudaEventCreate(&t.to), "opening an event");
    return t;
}
static void begin(timer *t) {
    kb_must(cudaEventRecord(t->from, t->b->stream), "timing");
}
static double end_us(timer *t) {
    float ms = 0;
    kb_must(cudaEventRecord(t->to, t->b->stream), "timing");
    kb_must(cudaEventSynchronize(t->to), "waiting");
    kb_must(cudaEventElapsedTime(&ms, t->from, t->to), "timing");
    return (double)ms * 1e3;
}
static void timer_close(timer *t) {
    (void)cudaEventDestroy(t->from);
    (void)cudaEventDestroy(t->to);
}

/* As a rate: the best time is the largest. */
static kb_times rate(double *us, uint32_t n, double amount) {
    kb_times t = kb_sorted(us, n);
    return (kb_times){amount / t.best, amount / t.median, amount / t.worst};
}

static void *random_bytes(cu_backend *b, size_t bytes) {
    void *p;
    kb_must(cudaMalloc(&p, bytes), "allocating for a probe");
    kb_fill(b, p, bytes, false);
    return p;
}

void kb_probe_read(kb_probes *p, cu_backend *b, bool small) {
    size_t bytes = small ? 1 << 20 : (size_t)4 << 30;
    void *data = random_bytes(b, bytes), *sink = random_bytes(b, 16);
    double us[TIMES];
    timer t = timer_of(b);
    for (int i = -1; i < TIMES; i++) { /* the first warms up */
        begin(&t);
        kb_must(probe_read(b->stream, data, bytes, sink, (uint32_t)b->sms * 4), "read probe");
        double took = end_us(&t);
        if (i >= 0) us[i] = took;
    }
    p->read_gb_s = rate(us, TIMES, (double)bytes * 1e-3);
    timer_close(&t);
    (void)cudaFree(data);
    (void)cudaFree(sink);
}

static void probe_matrix(kb_probes *p, cu_backend *b, bool small) {
    const float one = 1, zero = 0;
    int side = small ? 64 : 8192;
    size_t n = (size_t)side * (size_t)side;
    void *x = random_bytes(b, n * 2), *w = random_bytes(b, n * 2), *y = random_bytes(b, n * 4);
    double us[TIMES];
    timer t = timer_of(b);
    for (int i = -2; i < TIMES; i++) {
        begin(&t);
        if (cublasGemmStridedBatchedEx(b->blas, CUBLAS_OP_T, CUBLAS_OP_N, side, side, side, &one, w,
                                       CUDA_R_16BF, side, 0, x, CUDA_R_16BF, side, 0, &zero, y,
                                       CUDA_R_32F, side, 0, 1, CUBLAS_COMPUTE_32F,
                                       CUBLAS_GEMM_DEFAULT) != CUBLAS_STATUS_SUCCESS) {
            kb_fail("cuBLAS refuses the matrix probe");
        }
        double took = end_us(&t);
        if (i >= 0) us[i] = took;
    }
    p->matrix_tflop_s = rate(us, TIMES, 2e-6 * side * side * side);
    timer_close(&t);
    (void)cudaFree(x);
    (void)cudaFree(w);
    (void)cudaFree(y);
}

static void nothings(cu_backend *b) {
    for (int i = 0; i < NODES; i++)
        kb_must(probe_nothing(b->stream), "an empty kernel");
}

/* From the start of one empty kernel in a graph to the start of the next. */
static double node_us(cu_backend *b, timer *t) {
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    double us[TIMES];
    kb_must(cudaStreamBeginCapture(b->stream, cudaStreamCaptureModeThreadLocal), "capturing");
    nothings(b);
    kb_must(cudaStreamEndCapture(b->stream, &graph), "capturing");
    kb_must(cudaGraphInstantiate(&exec, graph, 0), "making a graph");
    (void)cudaGraphDestroy(graph);
    for (int i = 0; i < TIMES; i++) {
        kb_must(cudaGraphLaunch(exec, b->stream), "an empty graph"); /* keeps the device busy */
        begin(t);
        kb_must(cudaGraphLaunch(exec, b->stream), "an empty graph");
        us[i] = end_us(t) / NODES;
    }
    (void)cudaGraphExecDestroy(exec);
    return kb_sorted(us, TIMES).median;
}

void kb_overlap(cu_backend *b, bool on) {
    (void)setenv("FATHOM_CUDA_OVERLAP", on ? "1" : "0", 1);
    kb_must(cu_kernels_setup(0, b->plan.dim), "setting up the kernels");
}

void kb_probe_rest(kb_probes *p, cu_backend *b, bool small) {
    timer t = timer_of(b);
    double us[TIMES];
    probe_matrix(p, b, small);
    kb_overlap(b, false);
    p->node_us = node_us(b, &t);
    for (int i = 0; i < TIMES; i++) {
        begin(&t);
        nothings(b);
        us[i] = end_us(&t) / NODES;
    }
    p->launch_us = kb_sorted(us, TIMES).median;
    kb_overlap(b, true);
    p->node_overlap_us = node_us(b, &t);
    timer_close(&t);
}
