/* cuda_internal.h - what the host files of the CUDA backend share. Host code is C; the
 * kernels and their launchers are declared in kernels.h. */
#ifndef FATHOM_ENGINE_CUDA_INTERNAL_H
#define FATHOM_ENGINE_CUDA_INTERNAL_H

#include "engine/engine.h"

#include <cuda_runtime_api.h>

extern const char eng__cuda_plugin_version[];
int eng__cuda_plugin_open(eng_backend **out, const eng_model *m, const eng_backend_opts *opts,
                          err *e) WARN_UNUSED;
int eng__cuda_open_device(eng_backend **out, const eng_model *m, const eng_backend_opts *opts,
                          int device, err *e) WARN_UNUSED;

#endif
