/* runtime.cpp - devices, errors, streams, events and graphs of the shim. */
#include "runtime.h"

#include <cstdio>

enum { DEVICES = 2, L2_BYTES = 50 << 20 };

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
void shim_drain(shim_stream *s, uint64_t until) {
    while (!s->waiting.empty() && s->ran < until) {
        if (!shim_lost()) s->waiting.front()();
        s->waiting.pop_front();
        s->ran++;
    }
}

uint64_t shim_ns() {
    static uint64_t now;
    return ++now;
}

cudaError_t shim_enqueue(cudaStream_t s, std::function<void()> op) {
    if (s == nullptr) s = shim_legacy();
    OF_THIS_DEVICE(s->device);
    if (s->capturing) s->captured.push_back(std::move(op));
    else s->waiting.push_back(std::move(op));
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

cudaError_t cudaGetDeviceCount(int *n) {
    MAY_FAIL(cudaErrorNoDevice);
    *n = DEVICES;
    return cudaSuccess;
}
/* Few multiprocessors, to make every kernel's loop over work go round more than once. */
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device) {
    MAY_FAIL(cudaErrorNoDevice);
    if (device < 0 || device >= DEVICES) return shim_said(cudaErrorInvalidDevice);
    memset(p, 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "CPU shim %d", device);
    p->major = shim_most_shared() == 227 << 10 ? 9 : 8;
    p->minor = shim_most_shared() == 99 << 10 ? 9 : 0;
    p->multiProcessorCount = 3;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int *v, cudaDeviceAttr a, int device) {
    MAY_FAIL(cudaErrorInvalidValue);
    if (device < 0 || device >= DEVICES) return shim_said(cudaErrorInvalidDevice);
    *v = a == cudaDevAttrL2CacheSize ? (int)L2_BYTES : (int)shim_most_shared();
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
    for (auto *s : streams) {
        if (s->device == current) shim_drain(s);
    }
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

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags) {
    MAY_FAIL(cudaErrorMemoryAllocation);
    if (flags != cudaStreamNonBlocking) shim_die("a stream that waits for the legacy stream");
    *s = new shim_stream;
    (*s)->device = current;
    streams.push_back(*s);
    return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t s) {
    OF_THIS_DEVICE(s->device);
    for (size_t i = 0; i < streams.size(); i++) {
        if (streams[i] == s) streams.erase(streams.begin() + (long)i);
    }
    if (streams.empty()) std::vector<shim_stream *>().swap(streams);
    delete s;
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t s) {
    if (s == nullptr) s = shim_legacy();
    OF_THIS_DEVICE(s->device);
    shim_drain(s);
    MAY_FAIL(cudaErrorLaunchFailure);
    return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned) {
    MAY_FAIL(cudaErrorLaunchFailure);
    OF_THIS_DEVICE(e->device);
    OF_THIS_DEVICE(s->device);
    if (e->stream == nullptr) return cudaSuccess; /* recorded nowhere: nothing to wait for */
    shim_stream *of = e->stream;
    uint64_t at = e->at;
    return shim_enqueue(s, [of, at] { shim_drain(of, at); });
}
cudaError_t cudaStreamQuery(cudaStream_t s) {
    MAY_FAIL(cudaErrorLaunchFailure);
    if (s == nullptr) s = shim_legacy();
    OF_THIS_DEVICE(s->device);
    return s->waiting.empty() ? cudaSuccess : cudaErrorNotReady;
}

/* ---- graphs ---- */

cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode) {
    MAY_FAIL(cudaErrorInvalidValue);
    OF_THIS_DEVICE(s->device);
    s->capturing = true;
    captures++;
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g) {
    OF_THIS_DEVICE(s->device);
    *g = new shim_graph{current, std::move(s->captured)};
    s->captured = shim_ops();
    s->capturing = false;
    captures--;
    MAY_FAIL(cudaErrorInvalidValue);
    return cudaSuccess;
}
cudaError_t cudaGraphGetNodes(cudaGraph_t g, void *nodes, size_t *n) {
    MAY_FAIL(cudaErrorInvalidValue);
    if (nodes) shim_die("the shim counts a graph's nodes and names none");
    *n = g->list.size();
    return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t g, unsigned long long) {
    MAY_FAIL(cudaErrorMemoryAllocation);
    OF_THIS_DEVICE(g->device);
    /* As a device refuses it: this thread captures, in a mode without unsafe calls. */
    if (captures) return shim_said(cudaErrorStreamCaptureUnsupported);
    *out = new shim_graph(*g);
    return cudaSuccess;
}
cudaError_t cudaGraphUpload(cudaGraphExec_t g, cudaStream_t s) {
    MAY_FAIL(cudaErrorMemoryAllocation);
    OF_THIS_DEVICE(g->device);
    OF_THIS_DEVICE(s->device);
    g->uploaded = true;
    return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t g, cudaStream_t s) {
    MAY_FAIL(cudaErrorLaunchFailure);
    OF_THIS_DEVICE(g->device);
    OF_THIS_DEVICE(s->device);
    cold_graphs += !g->uploaded;
    for (auto &op : g->list)
        shim_enqueue(s, op);
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t g) {
    OF_THIS_DEVICE(g->device);
    delete g;
    return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t g) {
    return cudaGraphDestroy(g);
}

/* ---- events ---- */

cudaError_t cudaEventCreate(cudaEvent_t *e) {
    return cudaEventCreateWithFlags(e, 0);
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned) {
    MAY_FAIL(cudaErrorMemoryAllocation);
    *e = new shim_event{current};
    return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t e) {
    OF_THIS_DEVICE(e->device);
    delete e;
    return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) {
    MAY_FAIL(cudaErrorLaunchFailure);
    OF_THIS_DEVICE(e->device);
    OF_THIS_DEVICE(s->device);
    e->stream = s;
    e->at = s->ran + s->waiting.size();
    return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t e) {
    OF_THIS_DEVICE(e->device);
    shim_drain(e->stream, e->at);
    MAY_FAIL(cudaErrorLaunchFailure);
    return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t e) {
    MAY_FAIL(cudaErrorLaunchFailure);
    OF_THIS_DEVICE(e->device);
    return e->stream && e->stream->ran < e->at ? cudaErrorNotReady : cudaSuccess;
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
