/* cuda_runtime_api.h - the part of the CUDA runtime used by Fathom, on the CPU.
 *
 * Device memory is malloc'ed to the byte and filled with NaN patterns, so ASan reports every access
 * out of range, and a read of unwritten memory gives a wrong result. A stream runs nothing before
 * it is waited for, and then only up to the event asked for: this shows code reusing a buffer or
 * reading a result too early.
 *
 * The same holds for asynchronous parts of synchronous calls: cudaMemset, and cudaMemcpy to the
 * device from unpinned memory, return before the device has the bytes. They go through the legacy
 * stream, and no other stream here waits for it, as all are non-blocking.
 *
 * There are four devices. An object made on one is refused while the other is current. CUDA is
 * milder in places; the engine must not rely on it. */
#ifndef FATHOM_SHIM_CUDA_RUNTIME_API_H
#define FATHOM_SHIM_CUDA_RUNTIME_API_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CUDART_VERSION 13000

typedef enum {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInsufficientDriver = 35,
    cudaErrorInvalidDeviceFunction = 98,
    cudaErrorNoDevice = 100,
    cudaErrorInvalidDevice = 101,
    cudaErrorNoKernelImageForDevice = 209,
    cudaErrorInvalidResourceHandle = 400,
    cudaErrorStreamCaptureUnsupported = 900,
    cudaErrorNotReady = 600,
    cudaErrorIllegalAddress = 700,
    cudaErrorLaunchOutOfResources = 701,
    cudaErrorLaunchFailure = 719,
    cudaErrorUnknown = 999
} cudaError_t;
typedef enum {
    cudaMemcpyHostToHost,
    cudaMemcpyHostToDevice,
    cudaMemcpyDeviceToHost,
    cudaMemcpyDeviceToDevice
} cudaMemcpyKind;
typedef enum {
    cudaDevAttrL2CacheSize = 38,
    cudaDevAttrMaxSharedMemoryPerBlockOptin = 97
} cudaDeviceAttr;
typedef enum { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 } cudaFuncAttribute;
typedef enum { cudaStreamCaptureModeThreadLocal = 1 } cudaStreamCaptureMode;
enum { cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2 };

typedef struct shim_stream *cudaStream_t; /* NULL: the legacy stream of the current device */
typedef struct shim_event *cudaEvent_t;
typedef struct shim_graph *cudaGraph_t, *cudaGraphExec_t;
struct cudaDeviceProp {
    char name[256];
    int major, minor, multiProcessorCount;
};

cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *prop, int device);
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attr, int device);
cudaError_t cudaDeviceGetPCIBusId(char *text, int bytes, int device);
cudaError_t cudaSetDevice(int device); /* for the calling thread; 0 before */
cudaError_t cudaGetDevice(int *device);
cudaError_t cudaDeviceSynchronize(void);
cudaError_t cudaGetLastError(void);
cudaError_t cudaPeekAtLastError(void);
const char *cudaGetErrorString(cudaError_t rc);
cudaError_t cudaMemGetInfo(size_t *room, size_t *all);
cudaError_t cudaMalloc(void **mem, size_t bytes);
cudaError_t cudaFree(void *mem);
cudaError_t cudaMallocHost(void **mem, size_t bytes);
cudaError_t cudaFreeHost(void *mem);
cudaError_t cudaHostGetDevicePointer(void **dev, void *host, unsigned flags);
cudaError_t cudaMemset(void *mem, int value, size_t bytes);
cudaError_t cudaMemsetAsync(void *mem, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamQuery(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph);
/* Counts only: nodes is NULL. */
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, void *nodes, size_t *count);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphUpload(cudaGraphExec_t graph, cudaStream_t stream);
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph);
cudaError_t cudaEventCreate(cudaEvent_t *event);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to);

/* ---- calls of the shim alone ---- */

/* The n-th runtime call from now (0 = the next) fails, and with sticky all after it; -1: no call
 * fails. An error by losing the device is sticky in any case: until the next shim_fail_at. */
void shim_fail_at(long n, int sticky);
/* The n-th kernel run from now on breaks off and loses the device; -1: no kernel does. */
void shim_break_at(long n);
/* The error from sizing a kernel's shared memory when no kernel has code for the device; 0: all
 * have. */
void shim_no_image(cudaError_t rc);
/* Called over and over by an operation of the stand-in for NCCL (nccl.cpp) while it waits for other
 * ranks, threads of this process that run one at a time: lets another run. */
void shim_pause_by(void (*pause)(void));
/* Order in which the threads of a block take turns: 0 rising, 1 falling, else shuffled by it. A
 * result depending on the order lacks a barrier. */
void shim_set_order(unsigned order);
uint64_t shim_launched(void);    /* kernels run so far */
uint64_t shim_cold_graphs(void); /* launches of graphs not uploaded before */

#ifdef __cplusplus
}
#endif
#endif
