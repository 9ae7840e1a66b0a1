/* beside.c - a second stream, on which a part of a stage runs beside the rest.
 *
 * The always-on experts are products of the same input as the routed ones, and nothing depends on
 * either before the end of both. From CU_BLAS_ROWS rows on they are cuBLAS's, limited by
 * arithmetic, while the routed experts are limited by memory. Events fork the second stream from
 * the first and join them again; a captured graph has two branches then. No bit depends on it. */
#include "engine/cuda/cuda_internal.h"

#include <stdlib.h>
#include <string.h>

static bool asked_for(void) {
    const char *asked = getenv("FATHOM_CUDA_BESIDE");
    return asked && strcmp(asked, "1") == 0;
}

int eng__cuda_beside_open(cu_backend *cuda, err *e) {
    cu_beside *beside = &cuda->beside;
    if (cuda->f32 || cuda->invariant || cuda->groups_shared == 0 || !asked_for()) return 0;
    if (eng__cuda_check(cuda, cudaStreamCreateWithFlags(&beside->stream, cudaStreamNonBlocking),
                        "opening a stream", e) != 0 ||
        eng__cuda_check(cuda, cudaEventCreateWithFlags(&beside->forked, cudaEventDisableTiming),
                        "opening an event", e) != 0 ||
        eng__cuda_check(cuda, cudaEventCreateWithFlags(&beside->joined, cudaEventDisableTiming),
                        "opening an event", e) != 0) {
        return -1;
    }
    return eng__cuda_blas_open(cuda, &beside->blas, beside->stream, e);
}

void eng__cuda_beside_close(cu_backend *cuda) {
    cu_beside *beside = &cuda->beside;
    if (beside->stream) (void)cudaStreamSynchronize(beside->stream);
    if (beside->blas) (void)cublasDestroy(beside->blas);
    if (beside->forked) (void)cudaEventDestroy(beside->forked);
    if (beside->joined) (void)cudaEventDestroy(beside->joined);
    if (beside->stream) (void)cudaStreamDestroy(beside->stream);
    *beside = (cu_beside){0};
}

/* Kernels queued from here on go to the other stream. */
static void change_streams(cu_backend *cuda) {
    cu_beside *beside = &cuda->beside;
    cudaStream_t stream = cuda->stream;
    cublasHandle_t blas = cuda->blas;
    cuda->stream = beside->stream;
    cuda->blas = beside->blas;
    beside->stream = stream;
    beside->blas = blas;
}

bool eng__cuda_has_beside(const cu_backend *cuda) {
    return cuda->beside.stream && cuda->clock == NULL && cuda->next_kernel == NULL;
}

cudaError_t eng__cuda_fork(cu_backend *cuda) {
    cudaError_t rc = cudaEventRecord(cuda->beside.forked, cuda->stream);
    if (rc != cudaSuccess) return rc;
    rc = cudaStreamWaitEvent(cuda->beside.stream, cuda->beside.forked, 0);
    if (rc == cudaSuccess) change_streams(cuda);
    return rc;
}

cudaError_t eng__cuda_back(cu_backend *cuda) {
    cudaError_t rc = cudaEventRecord(cuda->beside.joined, cuda->stream);
    change_streams(cuda);
    return rc;
}

cudaError_t eng__cuda_join(cu_backend *cuda) {
    cu_wait_for_all(); /* a kernel that starts early waits for one kernel only */
    return cudaStreamWaitEvent(cuda->stream, cuda->beside.joined, 0);
}
