/* probes.c - the limits of the device itself, measured in the same run as everything else: bytes
 * read per second, products per second, and the cost of starting a kernel. */
#include "bench/tools/cuda/bench.h"

#include <stdlib.h>

enum { TIMES = 11, NODES = 200 };

cudaError_t probe_read(cudaStream_t stream, const void *data, uint64_t bytes, void *sink,
                       uint32_t blocks);
cudaError_t probe_nothing(cudaStream_t stream);

typedef struct {
    cudaEvent_t from, to;
    cu_backend *cuda;
} probe_timer;

static probe_timer timer_of(cu_backend *cuda) {
    probe_timer timer = {.cuda = cuda};
    kb_must(cudaEventCreate(&timer.from), "opening an event");
    kb_must(cudaEventCreate(&timer.to), "opening an event");
    return timer;
}
static void begin(probe_timer *timer) {
    kb_must(cudaEventRecord(timer->from, timer->cuda->stream), "timing");
}
static double end_us(probe_timer *timer) {
    float ms = 0;
    kb_must(cudaEventRecord(timer->to, timer->cuda->stream), "timing");
    kb_must(cudaEventSynchronize(timer->to), "waiting");
    kb_must(cudaEventElapsedTime(&ms, timer->from, timer->to), "timing");
    return (double)ms * 1e3;
}
static void timer_close(probe_timer *timer) {
    (void)cudaEventDestroy(timer->from);
    (void)cudaEventDestroy(timer->to);
}

/* As a rate: the best time is the largest. */
static kb_times rate(double *us, uint32_t n, double amount) {
    kb_times times = kb_sorted(us, n);
    return (kb_times){amount / times.best, amount / times.median, amount / times.worst};
}

static void *random_bytes(cu_backend *cuda, size_t bytes) {
    void *mem;
    kb_must(cudaMalloc(&mem, bytes), "allocating for a probe");
    kb_fill(cuda, mem, bytes, false);
    return mem;
}

void kb_probe_read(kb_probes *probes, cu_backend *cuda, bool small) {
    size_t bytes = small ? 1 << 20 : (size_t)4 << 30;
    void *data = random_bytes(cuda, bytes), *sink = random_bytes(cuda, 16);
    double us[TIMES];
    probe_timer timer = timer_of(cuda);
    for (int i = -1; i < TIMES; i++) { /* the first warms up */
        begin(&timer);
        kb_must(probe_read(cuda->stream, data, bytes, sink, (uint32_t)cuda->sms * 4), "read probe");
        double took = end_us(&timer);
        if (i >= 0) us[i] = took;
    }
    probes->read_gb_s = rate(us, TIMES, (double)bytes * 1e-3);
    timer_close(&timer);
    (void)cudaFree(data);
    (void)cudaFree(sink);
}

static void probe_matrix(kb_probes *probes, cu_backend *cuda, bool small) {
    const float one = 1, zero = 0;
    int side = small ? 64 : 8192;
    size_t n = (size_t)side * (size_t)side;
    void *x = random_bytes(cuda, n * 2), *weights = random_bytes(cuda, n * 2),
         *y = random_bytes(cuda, n * 4);
    double us[TIMES];
    probe_timer timer = timer_of(cuda);
    for (int i = -2; i < TIMES; i++) {
        begin(&timer);
        if (cublasGemmStridedBatchedEx(cuda->blas, CUBLAS_OP_T, CUBLAS_OP_N, side, side, side, &one,
                                       weights, CUDA_R_16BF, side, 0, x, CUDA_R_16BF, side, 0,
                                       &zero, y, CUDA_R_32F, side, 0, 1, CUBLAS_COMPUTE_32F,
                                       CUBLAS_GEMM_DEFAULT) != CUBLAS_STATUS_SUCCESS) {
            kb_fail("cuBLAS refuses the matrix probe");
        }
        double took = end_us(&timer);
        if (i >= 0) us[i] = took;
    }
    probes->matrix_tflop_s = rate(us, TIMES, 2e-6 * side * side * side);
    timer_close(&timer);
    (void)cudaFree(x);
    (void)cudaFree(weights);
    (void)cudaFree(y);
}

static void nothings(cu_backend *cuda) {
    for (int i = 0; i < NODES; i++)
        kb_must(probe_nothing(cuda->stream), "an empty kernel");
}

/* From the start of one empty kernel in a graph to the start of the next. */
static double node_us(cu_backend *cuda, probe_timer *timer) {
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    double us[TIMES];
    kb_must(cudaStreamBeginCapture(cuda->stream, cudaStreamCaptureModeThreadLocal), "capturing");
    nothings(cuda);
    kb_must(cudaStreamEndCapture(cuda->stream, &graph), "capturing");
    kb_must(cudaGraphInstantiate(&exec, graph, 0), "making a graph");
    (void)cudaGraphDestroy(graph);
    for (int i = 0; i < TIMES; i++) {
        kb_must(cudaGraphLaunch(exec, cuda->stream), "an empty graph"); /* keeps the device busy */
        begin(timer);
        kb_must(cudaGraphLaunch(exec, cuda->stream), "an empty graph");
        us[i] = end_us(timer) / NODES;
    }
    (void)cudaGraphExecDestroy(exec);
    return kb_sorted(us, TIMES).median;
}

void kb_overlap(cu_backend *cuda, bool on) {
    (void)setenv("FATHOM_CUDA_OVERLAP", on ? "1" : "0", 1);
    kb_must(cu_kernels_setup(0, cuda->plan.dim), "setting up the kernels");
}

void kb_probe_rest(kb_probes *probes, cu_backend *cuda, bool small) {
    probe_timer timer = timer_of(cuda);
    double us[TIMES];
    probe_matrix(probes, cuda, small);
    kb_overlap(cuda, false);
    probes->node_us = node_us(cuda, &timer);
    for (int i = 0; i < TIMES; i++) {
        begin(&timer);
        nothings(cuda);
        us[i] = end_us(&timer) / NODES;
    }
    probes->launch_us = kb_sorted(us, TIMES).median;
    kb_overlap(cuda, true);
    probes->node_overlap_us = node_us(cuda, &timer);
    timer_close(&timer);
}
