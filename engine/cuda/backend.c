/* backend.c - the CUDA backend. */
#include "engine/cuda/cuda_internal.h"

int eng__cuda_open_device(eng_backend **out, const eng_model *m, const eng_backend_opts *opts,
                          int device, err *e) {
    (void)m;
    (void)opts;
    *out = NULL;
    struct cudaDeviceProp prop;
    cudaError_t rc = cudaGetDeviceProperties(&prop, device);
    if (rc != cudaSuccess) {
        return err_set(e, ERR_NOT_FOUND, NULL, "no CUDA: %s", cudaGetErrorString(rc));
    }
    return err_set(e, ERR_NOT_FOUND, NULL, "no CUDA: the kernels for %s are not built yet",
                   prop.name);
}
