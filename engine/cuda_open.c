/* cuda_open.c - finds and loads the CUDA plug-in. So one program runs with and without a GPU, and
 * the CPU build needs no part of the CUDA toolkit. */
#include "engine/backend_internal.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

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
    /* Neither library is ever unloaded: CUDA keeps threads and exit handlers in them. */
    void *plugin = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (plugin == NULL) {
        const char *why = dlerror();
        return err_set(e, ERR_NOT_FOUND, NULL, "no CUDA: fathom-cuda.so cannot be loaded: %s",
                       why ? why : "no reason given");
    }
    void *sym = dlsym(plugin, "eng__cuda_plugin_open");
    const char *version = dlsym(plugin, "eng__cuda_plugin_version");
    if (sym == NULL || version == NULL || strcmp(version, FATHOM_VERSION) != 0) {
        return err_set(e, ERR_NOT_FOUND, NULL,
                       "no CUDA: fathom-cuda.so is not version " FATHOM_VERSION);
    }
    plugin_open open;
    memcpy(&open, &sym, sizeof open); /* ISO C has no cast from object to function pointer */
    return open(out, model, opts, e);
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
