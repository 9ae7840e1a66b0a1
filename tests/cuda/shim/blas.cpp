/* blas.cpp - cuBLAS of the shim. */
#include "runtime.h"

#include "engine/rowmath.h"

#include <cublas_v2.h>

struct shim_blas {
    int device;
    cudaStream_t stream = nullptr;
    cublasMath_t math = CUBLAS_DEFAULT_MATH;
};

/* cuBLAS has errors of its own; only those of a lost device are the runtime's. */
#define BLAS_MAY_FAIL(rc)                                                                          \
    do {                                                                                           \
        if (shim_lost()) return CUBLAS_STATUS_EXECUTION_FAILED;                                    \
        if (shim_failing(cudaErrorUnknown) != cudaSuccess) return rc;                              \
    } while (0)

static float half_at(const void *values, long long i) {
    return shim_half(((const uint16_t *)values)[i], 0);
}

extern "C" {

cublasStatus_t cublasCreate(cublasHandle_t *handle) {
    BLAS_MAY_FAIL(CUBLAS_STATUS_NOT_INITIALIZED);
    *handle = new shim_blas{shim_device()};
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasDestroy(cublasHandle_t handle) {
    if (handle->device != shim_device()) return CUBLAS_STATUS_NOT_INITIALIZED;
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetStream(cublasHandle_t handle, cudaStream_t stream) {
    BLAS_MAY_FAIL(CUBLAS_STATUS_INVALID_VALUE);
    handle->stream = stream;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetWorkspace(cublasHandle_t, void *space, size_t) {
    BLAS_MAY_FAIL(CUBLAS_STATUS_INVALID_VALUE);
    return space && (uintptr_t)space % 256 == 0 ? CUBLAS_STATUS_SUCCESS
                                                : CUBLAS_STATUS_INVALID_VALUE;
}
cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode) {
    BLAS_MAY_FAIL(CUBLAS_STATUS_INVALID_VALUE);
    handle->math = mode;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasGetMathMode(cublasHandle_t handle, cublasMath_t *mode) {
    *mode = handle->math;
    return CUBLAS_STATUS_SUCCESS;
}
const char *cublasGetStatusName(cublasStatus_t rc) {
    switch (rc) {
    case CUBLAS_STATUS_SUCCESS: return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED: return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_INVALID_VALUE: return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_EXECUTION_FAILED: return "CUBLAS_STATUS_EXECUTION_FAILED";
    }
    return "<unknown>";
}

/* Column-major, as cuBLAS: c[m x n] = a^T b. */
cublasStatus_t cublasGemmStridedBatchedEx(
    cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,
    const void *alpha, const void *a, cudaDataType type_a, int lda, long long step_a, const void *b,
    cudaDataType type_b, int ldb, long long step_b, const void *beta, void *c, cudaDataType type_c,
    int ldc, long long step_c, int count, cublasComputeType_t compute, cublasGemmAlgo_t) {
    BLAS_MAY_FAIL(CUBLAS_STATUS_INVALID_VALUE);
    if (handle->device != shim_device()) return CUBLAS_STATUS_EXECUTION_FAILED;
    if (ta != CUBLAS_OP_T || tb != CUBLAS_OP_N || type_a != CUDA_R_16BF || type_b != CUDA_R_16BF ||
        compute != CUBLAS_COMPUTE_32F || *(const float *)alpha != 1.0f ||
        *(const float *)beta != 0.0f || lda < k || ldb < k || ldc < m) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    cudaError_t queued = shim_enqueue(handle->stream, [=] {
        for (long long batch = 0; batch < count; batch++) {
            for (long long j = 0; j < n; j++) {
                for (long long i = 0; i < m; i++) {
                    float sum = 0;
                    for (long long x = 0; x < k; x++) {
                        sum += half_at(a, batch * step_a + i * lda + x) *
                               half_at(b, batch * step_b + j * ldb + x);
                    }
                    long long at = batch * step_c + j * ldc + i;
                    if (type_c == CUDA_R_32F) ((float *)c)[at] = sum;
                    else ((uint16_t *)c)[at] = rm_bf16_narrow(sum);
                }
            }
        }
    });
    return queued == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}
}
