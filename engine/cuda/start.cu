/* start.cu - set-up of all kernels, done once: the shared memory they may use, leave to start
 * before the kernel before has ended, and the name of a kernel that failed to start. */
#include "engine/cuda/common.cuh"

#include <atomic>
#include <cstdlib>
#include <cstring>

static thread_local const char *failed_kernel; /* until it is told */
static std::atomic<bool> overlap{false};

extern "C" cudaError_t cu_started(cudaError_t rc, const char *kernel) {
    if (rc != cudaSuccess) failed_kernel = kernel;
    return rc;
}

extern "C" const char *cu_failed_kernel(void) {
    const char *kernel = failed_kernel;
    failed_kernel = nullptr;
    return kernel;
}

extern "C" bool cu_overlap(void) {
    return overlap;
}

extern "C" cudaError_t cu_rows_setup(uint32_t dim);
extern "C" cudaError_t cu_attn_setup(int most);
extern "C" cudaError_t cu_gqa_setup(int most);
extern "C" cudaError_t cu_flash_setup(int most);
extern "C" cudaError_t cu_sample_setup(int most);
extern "C" cudaError_t cu_mm_setup(int most);

extern "C" cudaError_t cu_kernels_setup(int device, uint32_t dim) {
    struct cudaDeviceProp prop;
    int most = 0;
    cudaError_t rc = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    if (rc == cudaSuccess) rc = cudaGetDeviceProperties(&prop, device);
    if (rc == cudaSuccess) rc = cu_rows_setup(dim);
    if (rc == cudaSuccess) rc = cu_attn_setup(most);
    if (rc == cudaSuccess) rc = cu_gqa_setup(most);
    if (rc == cudaSuccess) rc = cu_flash_setup(most);
    if (rc == cudaSuccess) rc = cu_sample_setup(most);
    if (rc == cudaSuccess) rc = cu_mm_setup(most);
    if (rc != cudaSuccess) return rc;
    const char *asked = getenv("FATHOM_CUDA_OVERLAP");
    overlap = prop.major >= 9 && !(asked && strcmp(asked, "0") == 0);
    return cudaSuccess;
}
