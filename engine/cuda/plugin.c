/* plugin.c - the door of fathom-cuda.so: says whether there is a device to run on. */
#include "engine/cuda/cuda_internal.h"

const char eng__cuda_plugin_version[] = FATHOM_VERSION;

int eng__cuda_plugin_open(eng_backend **out, const model_folder *model,
                          const eng_backend_opts *opts, err *e) {
    *out = NULL;
    int n = 0;
    cudaError_t rc = cudaGetDeviceCount(&n);
    if (rc == cudaErrorInsufficientDriver) {
        return err_set(e, ERR_NOT_FOUND, NULL,
                       "no CUDA: the NVIDIA driver is older than CUDA %d.%d needs",
                       CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
    }
    if (rc != cudaSuccess || n == 0) {
        return err_set(e, ERR_NOT_FOUND, NULL, "no CUDA: no device (%s)",
                       rc == cudaSuccess ? "none visible" : cudaGetErrorString(rc));
    }
    /* The ranks of a machine take its devices in turn. */
    int device = opts->ranks ? (int)(opts->ranks->local_rank % (uint32_t)n) : 0;
    return eng__cuda_open_device(out, model, opts, device, e);
}
