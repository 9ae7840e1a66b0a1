/* cuda_open.c - finds and loads the CUDA plug-in. So one program runs with and without a GPU, and
 * the CPU build needs no part of the CUDA toolkit. */
#include "base/file.h"
#include "engine/backend.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

typedef int (*plugin_open)(eng_backend **out, const model_folder *model,
                           const eng_backend_opts *opts, err *e);

enum { PATH_BYTES = 4096 };

/* The plug-in is beside the program, one folder up from build/release (`make`), or in lib/fathom
 * (`make install`). */
static bool plugin_path(char out[PATH_BYTES]) {
    static const char *const places[] = {"fathom-cuda.so", "../fathom-cuda.so",
                                         "../lib/fathom/fathom-cuda.so"};
    char dir[PATH_BYTES];
    if (!file_program_dir(dir, sizeof dir)) return false;
    for (size_t i = 0; i < ARRAY_LEN(places); i++) {
        int n = snprintf(out, PATH_BYTES, "%s/%s", dir, places[i]);
        if (n > 0 && n < PATH_BYTES && access(out, R_OK) == 0) return true;
    }
    return false;
}

int eng_cuda_open(eng_backend **out, const model_folder *model, const eng_backend_opts *opts,
                  err *e) {
    *out = NULL;
    char path[PATH_BYTES];
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
    char path[PATH_BYTES];
    if (!plugin_path(path)) {
        (void)snprintf(out, room, "no fathom-cuda.so beside the program");
        return;
    }
    void *driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
    (void)snprintf(out, room, "%s, %s", path,
                   driver ? "the NVIDIA driver is installed"
                          : "but no NVIDIA driver (libcuda.so.1)");
}
