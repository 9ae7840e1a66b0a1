/* runtime.cpp - devices, errors, streams, events and graphs of the shim. */
#include "runtime.h"

#include <cstdio>

enum { DEVICES = 5, L2_BYTES = 50 << 20 };

namespace {
long fail_in = -1, break_in = -1;
bool fail_sticky;
cudaError_t lost = cudaSuccess, no_image = cudaSuccess;
uint64_t cold_graphs;
thread_local int current, captures; /* captures: streams this thread captures now */
thread_local cudaError_t last_error = cudaSuccess;
std::vector<shim_stream *> streams;
shim_stream legacy[DEVICES];

bool loses_the_device(cudaError_t rc) {
    return rc == cudaErrorLaunchFailure || rc == cudaErrorIllegalAddress;
}

bool fails() {
    if (fail_in < 0) return false;
    if (fail_in > 0) {
        fail_in--;
        return false;
    }
    if (!fail_sticky) fail_in = -1;
    return true;
}
} // namespace

int shim_device() {
    return current;
}
cudaError_t shim_said(cudaError_t rc) {
    if (rc != cudaSuccess) last_error = rc;
    return rc;
}
cudaError_t shim_failing(cudaError_t rc) {
    if (lost == cudaSuccess && !fails()) return cudaSuccess;
    if (lost == cudaSuccess && loses_the_device(rc)) lost = rc;
    return shim_said(lost != cudaSuccess ? lost : rc);
}
bool shim_lost() {
    return lost != cudaSuccess;
}
bool shim_breaks() {
    if (break_in < 0 || break_in-- > 0) return false;
    lost = cudaErrorIllegalAddress;
    return true;
}

shim_stream *shim_legacy() {
    legacy[current].device = current;
    return &legacy[current];
}
/* A lost device runs nothing more. */
void shim_drain(shim_stream *stream, uint64_t until) {
    while (!stream->waiting.empty() && stream->ran < until) {
        if (!shim_lost()) stream->waiting.front()();
        stream->waiting.pop_front();
        stream->ran++;
    }
}

uint64_t shim_ns() {
    static uint64_t now;
    return ++now;
}

cudaError_t shim_enqueue(cudaStream_t stream, std::function<void()> op) {
    if (stream == nullptr) stream = shim_legacy();
    OF_THIS_DEVICE(stream->device);
    if (stream->capturing) stream->captured.push_back(std::move(op));
    else stream->waiting.push_back(std::move(op));
    return cudaSuccess;
}

/* The limits of real devices: 8.9, 8.0 and 9.0. */
size_t shim_most_shared() {
    static size_t kb;
    const char *asked = kb ? nullptr : getenv("SHIM_SHARED_KB");
    if (kb == 0) kb = asked ? strtoul(asked, nullptr, 10) : 227;
    if (kb != 99 && kb != 163 && kb != 227) shim_die("SHIM_SHARED_KB is 99, 163 or 227");
    return kb << 10;
}

extern "C" {

void shim_fail_at(long n, int sticky) {
    fail_in = n;
    fail_sticky = sticky != 0;
    lost = last_error = cudaSuccess;
}
void shim_break_at(long n) {
    break_in = n;
}
void shim_no_image(cudaError_t rc) {
    no_image = rc;
}
uint64_t shim_cold_graphs(void) {
    return cold_graphs;
}

/* ---- devices and errors ---- */

cudaError_t cudaGetDeviceCount(int *count) {
    MAY_FAIL(cudaErrorNoDevice);
    *count = DEVICES;
    return cudaSuccess;
}
/* Few multiprocessors, to make every kernel's loop over work go round more than once. */
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *prop, int device) {
    MAY_FAIL(cudaErrorNoDevice);
    if (device < 0 || device >= DEVICES) return shim_said(cudaErrorInvalidDevice);
    memset(prop, 0, sizeof *prop);
    snprintf(prop->name, sizeof prop->name, "CPU shim %d", device);
    prop->major = shim_most_shared() == 227 << 10 ? 9 : 8;
    prop->minor = shim_most_shared() == 99 << 10 ? 9 : 0;
    prop->multiProcessorCount = 3;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attr, int device) {
    MAY_FAIL(cudaErrorInvalidValue);
    if (device < 0 || device >= DEVICES) return shim_said(cudaErrorInvalidDevice);
    *value = attr == cudaDevAttrL2CacheSize ? (int)L2_BYTES : (int)shim_most_shared();
    return cudaSuccess;
}
cudaError_t cudaDeviceGetPCIBusId(char *text, int bytes, int device) {
    MAY_FAIL(cudaErrorInvalidValue);
    if (device < 0 || device >= DEVICES) return shim_said(cudaErrorInvalidDevice);
    snprintf(text, (size_t)bytes, "0000:%02x:00.0", device);
    return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
    MAY_FAIL(cudaErrorNoDevice);
    if (device < 0 || device >= DEVICES) return shim_said(cudaErrorInvalidDevice);
    current = device;
    return cudaSuccess;
}
cudaError_t cudaGetDevice(int *device) {
    MAY_FAIL(cudaErrorNoDevice);
    *device = current;
    return cudaSuccess;
}
/* The legacy stream last: other streams do not wait for it. */
cudaError_t cudaDeviceSynchronize(void) {
    std::vector<shim_stream *> here; /* another thread may open streams while one runs dry */
    for (auto *stream : streams)
        if (stream->device == current) here.push_back(stream);
    for (auto *stream : here)
        shim_drain(stream);
    shim_drain(shim_legacy());
    MAY_FAIL(cudaErrorLaunchFailure);
    return cudaSuccess;
}
cudaError_t cudaPeekAtLastError(void) {
    return shim_lost() ? lost : last_error;
}
cudaError_t cudaGetLastError(void) {
    cudaError_t rc = cudaPeekAtLastError();
    last_error = cudaSuccess;
    return rc;
}
const char *cudaGetErrorString(cudaError_t rc) {
    switch (rc) {
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidDeviceFunction: return "invalid device function";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    case cudaErrorNoKernelImageForDevice:
        return "no kernel image is available for execution on the device";
    case cudaErrorInvalidResourceHandle: return "invalid resource handle";
    case cudaErrorIllegalAddress: return "an illegal memory access was encountered";
    case cudaErrorStreamCaptureUnsupported:
        return "operation not permitted when stream is capturing";
    default: return "an error the shim made up";
    }
}
cudaError_t shim_allow_shared(const void *kernel, int bytes) {
    MAY_FAIL(cudaErrorInvalidValue);
    if (no_image != cudaSuccess) return shim_said(no_image);
    if (bytes < 0 || (size_t)bytes > shim_most_shared()) return shim_said(cudaErrorInvalidValue);
    shim_set_shared(kernel, (size_t)bytes);
    return cudaSuccess;
}

/* ---- streams ---- */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) {
    MAY_FAIL(cudaErrorMemoryAllocation);
    if (flags != cudaStreamNonBlocking) shim_die("a stream that waits for the legacy stream");
    *stream = new shim_stream;
    (*stream)->device = current;
    streams.push_back(*stream);
    return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    OF_THIS_DEVICE(stream->device);
    for (size_t i = 0; i < streams.size(); i++) {
        if (streams[i] == stream) streams.erase(streams.begin() + (long)i);
    }
    if (streams.empty()) std::vector<shim_stream *>().swap(streams);
    delete stream;
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    if (stream == nullptr) stream = shim_legacy();
    OF_THIS_DEVICE(stream->device);
    shim_drain(stream);
    MAY_FAIL(cudaErrorLaunchFailure);
    return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
    MAY_FAIL(cudaErrorLaunchFailure);
    OF_THIS_DEVICE(event->device);
    OF_THIS_DEVICE(stream->device);
    if (event->stream == nullptr) return cudaSuccess; /* recorded nowhere: nothing to wait for */
    shim_stream *of = event->stream;
    uint64_t at = event->at;
    return shim_enqueue(stream, [of, at] { shim_drain(of, at); });
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
    MAY_FAIL(cudaErrorLaunchFailure);
    if (stream == nullptr) stream = shim_legacy();
    OF_THIS_DEVICE(stream->device);
    return stream->waiting.empty() ? cudaSuccess : cudaErrorNotReady;
}

/* ---- graphs ---- */

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
    MAY_FAIL(cudaErrorInvalidValue);
    OF_THIS_DEVICE(stream->device);
    stream->capturing = true;
    captures++;
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
    OF_THIS_DEVICE(stream->device);
    *graph = new shim_graph{current, std::move(stream->captured)};
    stream->captured = shim_ops();
    stream->capturing = false;
    captures--;
    MAY_FAIL(cudaErrorInvalidValue);
    return cudaSuccess;
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, void *nodes, size_t *count) {
    MAY_FAIL(cudaErrorInvalidValue);
    if (nodes) shim_die("the shim counts a graph's nodes and names none");
    *count = graph->list.size();
    return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long) {
    MAY_FAIL(cudaErrorMemoryAllocation);
    OF_THIS_DEVICE(graph->device);
    /* As a device refuses it: this thread captures, in a mode without unsafe calls. */
    if (captures) return shim_said(cudaErrorStreamCaptureUnsupported);
    *out = new shim_graph(*graph);
    return cudaSuccess;
}
cudaError_t cudaGraphUpload(cudaGraphExec_t graph, cudaStream_t stream) {
    MAY_FAIL(cudaErrorMemoryAllocation);
    OF_THIS_DEVICE(graph->device);
    OF_THIS_DEVICE(stream->device);
    graph->uploaded = true;
    return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
    MAY_FAIL(cudaErrorLaunchFailure);
    OF_THIS_DEVICE(graph->device);
    OF_THIS_DEVICE(stream->device);
    cold_graphs += !graph->uploaded;
    for (auto &op : graph->list)
        shim_enqueue(stream, op);
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    OF_THIS_DEVICE(graph->device);
    delete graph;
    return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
    return cudaGraphDestroy(graph);
}

/* ---- events ---- */

cudaError_t cudaEventCreate(cudaEvent_t *event) {
    return cudaEventCreateWithFlags(event, 0);
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned) {
    MAY_FAIL(cudaErrorMemoryAllocation);
    *event = new shim_event{current};
    return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
    OF_THIS_DEVICE(event->device);
    delete event;
    return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    MAY_FAIL(cudaErrorLaunchFailure);
    OF_THIS_DEVICE(event->device);
    OF_THIS_DEVICE(stream->device);
    event->stream = stream;
    event->at = stream->ran + stream->waiting.size();
    return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    OF_THIS_DEVICE(event->device);
    shim_drain(event->stream, event->at);
    MAY_FAIL(cudaErrorLaunchFailure);
    return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
    MAY_FAIL(cudaErrorLaunchFailure);
    OF_THIS_DEVICE(event->device);
    return event->stream && event->stream->ran < event->at ? cudaErrorNotReady : cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to) {
    MAY_FAIL(cudaErrorLaunchFailure);
    OF_THIS_DEVICE(from->device);
    OF_THIS_DEVICE(to->device);
    if (from->stream == nullptr || to->at < from->at) return shim_said(cudaErrorInvalidValue);
    *ms = 0.001f * (float)(to->at - from->at); /* operations queued between them */
    return cudaSuccess;
}
}
