/* runtime.h - shared by the files of the shim's runtime: devices, streams, injected errors. */
#ifndef FATHOM_SHIM_RUNTIME_H
#define FATHOM_SHIM_RUNTIME_H

#include "shim.h"

#include <deque>
#include <vector>

typedef std::vector<std::function<void()>> shim_ops;
struct shim_stream {
    int device = 0;
    std::deque<std::function<void()>> waiting;
    uint64_t ran = 0; /* of all operations ever queued */
    bool capturing = false;
    shim_ops captured;
};
struct shim_event {
    int device;
    cudaStream_t stream = nullptr;
    uint64_t at = 0; /* operations queued before it */
};
struct shim_graph {
    int device;
    shim_ops list;
    bool uploaded = false;
};

int shim_device(); /* the calling thread's current one */
/* Remembers rc as the last error of this thread, unless it is success, and gives it back. */
cudaError_t shim_said(cudaError_t rc);
/* Success, or the error this call has to return: `rc` if an error was injected here. */
cudaError_t shim_failing(cudaError_t rc);
bool shim_lost();
shim_stream *shim_legacy(); /* the legacy stream of the current device */
/* Runs the operations a stream has queued, up to `until`. */
void shim_drain(shim_stream *stream, uint64_t until = UINT64_MAX);

/* The innermost check of every entry point. */
#define MAY_FAIL(rc)                                                                               \
    do {                                                                                           \
        cudaError_t failed = shim_failing(rc);                                                     \
        if (failed != cudaSuccess) return failed;                                                  \
    } while (0)
/* Refuses an object made on another device. */
#define OF_THIS_DEVICE(made_on)                                                                    \
    do {                                                                                           \
        if ((made_on) != shim_device()) return shim_said(cudaErrorInvalidResourceHandle);          \
    } while (0)

#endif
