/* cuda_open.c - finds and loads the CUDA plug-in. So one program runs with and without a GPU, and
 * the CPU build needs no part of the CUDA toolkit. */
#include "engine/backend_internal.h"

#include <dlfcn.h>
#include <stdio.h>

typedef int (*plugin_open)(eng_backend **out, const model_folder *model,
                           const eng_backend_opts *opts, err *e);

static bool plugin_path(char out[ENG__PATH_BYTES]) {
    return eng__plugin_path("fathom-cuda.so", out);
}

int eng_cuda_open(eng_backend **out, const model_folder *model, const eng_backend_opts *opts,
                  err *e) {
    *out = NULL;
    char path[ENG__PATH_BYTES];
    if (!plugin_path(path)) {
        return err_set(e, ERR_NOT_FOUND, NULL,
                       "no CUDA: fathom-cuda.so is not beside the program (built without nvcc)");
    }
    /* The driver is checked before the plug-in is loaded, because cuBLAS takes long to load. */
    void *driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
    if (driver == NULL) {
        return err_set(e, ERR_NOT_FOUND, NULL,
                       "no CUDA: the NVIDIA driver (libcuda.so.1) is not installed");
    }
    plugin_open open = (plugin_open)eng__plugin_load(path, "cuda", RTLD_NOW | RTLD_LOCAL, e);
    return open ? open(out, model, opts, e) : -1;
}

void eng_cuda_describe(char *out, size_t room) {
    char path[ENG__PATH_BYTES];
    if (!plugin_path(path)) {
        (void)snprintf(out, room, "no fathom-cuda.so beside the program");
        return;
    }
    void *driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
    (void)snprintf(out, room, "%s, %s", path,
                   driver ? "the NVIDIA driver is installed"
                          : "but no NVIDIA driver (libcuda.so.1)");
}
