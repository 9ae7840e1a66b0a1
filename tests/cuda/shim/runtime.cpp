/* runtime.cpp - streams, graphs, memory and cuBLAS of the shim. */
#include "shim.h"

#include <cstdio>
#include <cublas_v2.h>
#include <deque>
#include <vector>

typedef std::vector<std::function<void()>> ops;
struct shim_stream {
    std::deque<std::function<void()>> waiting;
    uint64_t ran = 0; /* of everything that was ever queued */
    bool capturing = false;
    ops captured;
};
struct shim_event {
    cudaStream_t stream = nullptr;
    uint64_t at = 0; /* what was queued before it */
};
struct shim_graph {
    ops list;
};
struct shim_blas {
    cudaStream_t stream = nullptr;
};

namespace {
long fail_in = -1;
bool fail_sticky;
std::vector<shim_stream *> streams;

bool fails() {
    if (fail_in < 0) return false;
    if (fail_in > 0) {
        fail_in--;
        return false;
    }
    if (!fail_sticky) fail_in = -1;
    return true;
}

void drain(shim_stream *s, uint64_t until = UINT64_MAX) {
    while (!s->waiting.empty() && s->ran < until) {
        s->waiting.front()();
        s->waiting.pop_front();
        s->ran++;
    }
}
} // namespace

/* The innermost check of every entry point. */
#define MAY_FAIL(rc)                                                                               \
    do {                                                                                           \
        if (fails()) return rc;                                                                    \
    } while (0)

uint64_t shim_ns() {
    static uint64_t now;
    return ++now;
}

void shim_enqueue(cudaStream_t s, std::function<void()> op) {
    if (s->capturing) s->captured.push_back(std::move(op));
    else s->waiting.push_back(std::move(op));
}

extern "C" {

void shim_fail_at(long n, int sticky) {
    fail_in = n;
    fail_sticky = sticky != 0;
}

cudaError_t cudaGetDeviceCount(int *n) {
    MAY_FAIL(cudaErrorNoDevice);
    *n = 1;
    return cudaSuccess;
}
/* Few multiprocessors, so that every kernel's loop over work goes round more than once. */
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device) {
    MAY_FAIL(cudaErrorNoDevice);
    memset(p, 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "CPU shim %d", device);
    p->major = 9;
    p->multiProcessorCount = 3;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int *v, cudaDeviceAttr, int) {
    MAY_FAIL(cudaErrorInvalidValue);
    *v = 227 << 10;
    return cudaSuccess;
}
cudaError_t cudaSetDevice(int) {
    MAY_FAIL(cudaErrorNoDevice);
    return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize(void) {
    MAY_FAIL(cudaErrorLaunchFailure);
    for (auto *s : streams)
        drain(s);
    return cudaSuccess;
}
cudaError_t cudaGetLastError(void) {
    return cudaSuccess;
}
const char *cudaGetErrorString(cudaError_t rc) {
    return rc == cudaErrorMemoryAllocation ? "out of memory" : "an error the shim made up";
}
cudaError_t cudaMemGetInfo(size_t *room, size_t *all) {
    MAY_FAIL(cudaErrorLaunchFailure);
    *room = 48 << 20;
    *all = 64 << 20;
    return cudaSuccess;
}
cudaError_t cudaMalloc(void **p, size_t n) {
    MAY_FAIL(cudaErrorMemoryAllocation);
    if (posix_memalign(p, 256, n)) return cudaErrorMemoryAllocation;
    memset(*p, 0xff, n);
    return cudaSuccess;
}
cudaError_t cudaFree(void *p) {
    free(p);
    return cudaSuccess;
}
cudaError_t cudaMallocHost(void **p, size_t n) {
    return cudaMalloc(p, n);
}
cudaError_t cudaFreeHost(void *p) {
    return cudaFree(p);
}
cudaError_t cudaMemset(void *p, int v, size_t n) {
    MAY_FAIL(cudaErrorInvalidValue);
    memset(p, v, n);
    return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void *p, int v, size_t n, cudaStream_t s) {
    MAY_FAIL(cudaErrorInvalidValue);
    shim_enqueue(s, [=] { memset(p, v, n); });
    return cudaSuccess;
}
cudaError_t cudaMemcpy(void *to, const void *from, size_t n, cudaMemcpyKind) {
    MAY_FAIL(cudaErrorInvalidValue);
    memcpy(to, from, n);
    return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, cudaMemcpyKind, cudaStream_t s) {
    MAY_FAIL(cudaErrorInvalidValue);
    shim_enqueue(s, [=] { memcpy(to, from, n); });
    return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned) {
    MAY_FAIL(cudaErrorMemoryAllocation);
    *s = new shim_stream;
    streams.push_back(*s);
    return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t s) {
    for (size_t i = 0; i < streams.size(); i++) {
        if (streams[i] == s) streams.erase(streams.begin() + (long)i);
    }
    if (streams.empty()) std::vector<shim_stream *>().swap(streams);
    delete s;
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t s) {
    drain(s);
    MAY_FAIL(cudaErrorLaunchFailure);
    return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode) {
    MAY_FAIL(cudaErrorInvalidValue);
    s->capturing = true;
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g) {
    *g = new shim_graph{std::move(s->captured)};
    s->captured = ops();
    s->capturing = false;
    MAY_FAIL(cudaErrorInvalidValue);
    return cudaSuccess;
}
cudaError_t cudaGraphGetNodes(cudaGraph_t g, void *nodes, size_t *n) {
    MAY_FAIL(cudaErrorInvalidValue);
    if (nodes) shim_die("the shim counts a graph's nodes and names none");
    *n = g->list.size();
    return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t g, unsigned long long) {
    MAY_FAIL(cudaErrorMemoryAllocation);
    *out = new shim_graph(*g);
    return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t g, cudaStream_t s) {
    MAY_FAIL(cudaErrorLaunchFailure);
    for (auto &op : g->list)
        shim_enqueue(s, op);
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t g) {
    delete g;
    return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t g) {
    delete g;
    return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t *e) {
    MAY_FAIL(cudaErrorMemoryAllocation);
    *e = new shim_event;
    return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t e) {
    delete e;
    return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) {
    MAY_FAIL(cudaErrorLaunchFailure);
    e->stream = s;
    e->at = s->ran + s->waiting.size();
    return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t e) {
    drain(e->stream, e->at);
    MAY_FAIL(cudaErrorLaunchFailure);
    return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t, cudaEvent_t) {
    MAY_FAIL(cudaErrorLaunchFailure);
    *ms = 0.001f;
    return cudaSuccess;
}

/* ---- cuBLAS ---- */

cublasStatus_t cublasCreate(cublasHandle_t *h) {
    MAY_FAIL(CUBLAS_STATUS_NOT_INITIALIZED);
    *h = new shim_blas;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasDestroy(cublasHandle_t h) {
    delete h;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetStream(cublasHandle_t h, cudaStream_t s) {
    MAY_FAIL(CUBLAS_STATUS_INVALID_VALUE);
    h->stream = s;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetWorkspace(cublasHandle_t, void *p, size_t) {
    MAY_FAIL(CUBLAS_STATUS_INVALID_VALUE);
    return p && (uintptr_t)p % 256 == 0 ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

static float half_at(const void *p, long long i) {
    return shim_half(((const uint16_t *)p)[i], 0);
}
static uint16_t half_of(float v) {
    uint32_t u;
    memcpy(&u, &v, 4);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

/* Column-major, as cuBLAS: c[m x n] = a^T b. */
cublasStatus_t cublasGemmStridedBatchedEx(
    cublasHandle_t h, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,
    const void *alpha, const void *a, cudaDataType type_a, int lda, long long step_a, const void *b,
    cudaDataType type_b, int ldb, long long step_b, const void *beta, void *c, cudaDataType type_c,
    int ldc, long long step_c, int count, cublasComputeType_t compute, cublasGemmAlgo_t) {
    MAY_FAIL(CUBLAS_STATUS_INVALID_VALUE);
    if (ta != CUBLAS_OP_T || tb != CUBLAS_OP_N || type_a != CUDA_R_16BF || type_b != CUDA_R_16BF ||
        compute != CUBLAS_COMPUTE_32F || *(const float *)alpha != 1.0f ||
        *(const float *)beta != 0.0f || lda < k || ldb < k || ldc < m) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    shim_enqueue(h->stream, [=] {
        for (long long g = 0; g < count; g++) {
            for (long long j = 0; j < n; j++) {
                for (long long i = 0; i < m; i++) {
                    float sum = 0;
                    for (long long x = 0; x < k; x++) {
                        sum += half_at(a, g * step_a + i * lda + x) *
                               half_at(b, g * step_b + j * ldb + x);
                    }
                    long long at = g * step_c + j * ldc + i;
                    if (type_c == CUDA_R_32F) ((float *)c)[at] = sum;
                    else ((uint16_t *)c)[at] = half_of(sum);
                }
            }
        }
    });
    return CUBLAS_STATUS_SUCCESS;
}
}
