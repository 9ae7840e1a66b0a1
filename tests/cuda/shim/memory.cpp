/* memory.cpp - memory and copies of the shim. Work deferred by a CUDA call is deferred here too:
 * see "API synchronization behavior" in the manual of the CUDA runtime. */
#include "runtime.h"

#include <map>

namespace {
enum { PINNED = -1 };
struct span {
    size_t bytes;
    int device; /* or PINNED */
};
std::map<uintptr_t, span> spans;

/* The allocation holding [p, p + n); NULL: the host's pageable memory. */
const span *span_of(const void *p, size_t n) {
    uintptr_t at = (uintptr_t)p;
    auto next = spans.upper_bound(at);
    if (next == spans.begin()) return nullptr;
    auto s = std::prev(next);
    return at - s->first < s->second.bytes && n <= s->second.bytes - (at - s->first) ? &s->second
                                                                                     : nullptr;
}
bool on_device(const void *p, size_t n) {
    const span *s = span_of(p, n);
    return s && s->device == shim_device();
}
bool pinned(const void *p, size_t n) {
    const span *s = span_of(p, n);
    return s && s->device == PINNED;
}

cudaError_t take(void **p, size_t n, int device) {
    MAY_FAIL(cudaErrorMemoryAllocation);
    if (posix_memalign(p, 256, n)) return shim_said(cudaErrorMemoryAllocation);
    memset(*p, 0xff, n);
    spans[(uintptr_t)*p] = {n, device};
    return cudaSuccess;
}
/* As on a device, the legacy stream first finishes its work on the memory. */
cudaError_t give_back(void *p, int device) {
    auto s = spans.find((uintptr_t)p);
    if (p == nullptr) return cudaSuccess;
    if (s == spans.end() || s->second.device != device) return shim_said(cudaErrorInvalidValue);
    shim_drain(shim_legacy());
    spans.erase(s);
    free(p);
    return cudaSuccess;
}

bool sides_are_right(const void *to, const void *from, size_t n, cudaMemcpyKind kind) {
    bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    return on_device(to, n) == to_device && on_device(from, n) == from_device;
}

/* A copy in a stream's order. The host's pageable memory is read at once: its owner may use it
 * for something else when the call is back. */
cudaError_t enqueue_copy(cudaStream_t s, void *to, const void *from, size_t n,
                         cudaMemcpyKind kind) {
    if (kind != cudaMemcpyHostToDevice || pinned(from, n))
        return shim_enqueue(s, [=] { memcpy(to, from, n); });
    if (s && s->capturing) shim_die("a graph copies memory that is not pinned");
    const unsigned char *bytes = (const unsigned char *)from;
    std::vector<unsigned char> staged(bytes, bytes + n);
    return shim_enqueue(s, [=] { memcpy(to, staged.data(), n); });
}
} // namespace

extern "C" {

cudaError_t cudaMemGetInfo(size_t *room, size_t *all) {
    MAY_FAIL(cudaErrorLaunchFailure);
    *room = 48 << 20;
    *all = 64 << 20;
    return cudaSuccess;
}
cudaError_t cudaMalloc(void **p, size_t n) {
    return take(p, n, shim_device());
}
cudaError_t cudaFree(void *p) {
    return give_back(p, shim_device());
}
cudaError_t cudaMallocHost(void **p, size_t n) {
    return take(p, n, PINNED);
}
cudaError_t cudaFreeHost(void *p) {
    return give_back(p, PINNED);
}
cudaError_t cudaHostGetDevicePointer(void **dev, void *host, unsigned) {
    MAY_FAIL(cudaErrorInvalidValue);
    if (!pinned(host, 1)) return shim_said(cudaErrorInvalidValue);
    *dev = host;
    return cudaSuccess;
}

cudaError_t cudaMemset(void *p, int v, size_t n) {
    return cudaMemsetAsync(p, v, n, nullptr);
}
cudaError_t cudaMemsetAsync(void *p, int v, size_t n, cudaStream_t s) {
    MAY_FAIL(cudaErrorInvalidValue);
    if (n == 0) return cudaSuccess;
    if (!on_device(p, n)) return shim_said(cudaErrorInvalidValue);
    return shim_enqueue(s, [=] { memset(p, v, n); });
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t n, cudaMemcpyKind kind) {
    MAY_FAIL(cudaErrorInvalidValue);
    if (n == 0) return cudaSuccess;
    if (!sides_are_right(to, from, n, kind)) return shim_said(cudaErrorInvalidValue);
    shim_drain(shim_legacy()); /* before the copy begins */
    cudaError_t rc = enqueue_copy(nullptr, to, from, n, kind);
    bool waits = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyHostToHost ||
                 (kind == cudaMemcpyHostToDevice && pinned(from, n));
    if (rc == cudaSuccess && waits) shim_drain(shim_legacy());
    return rc;
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, cudaMemcpyKind kind,
                            cudaStream_t s) {
    MAY_FAIL(cudaErrorInvalidValue);
    if (n == 0) return cudaSuccess;
    if (!sides_are_right(to, from, n, kind)) return shim_said(cudaErrorInvalidValue);
    cudaError_t rc = enqueue_copy(s, to, from, n, kind);
    bool waits = kind == cudaMemcpyHostToHost || (kind == cudaMemcpyDeviceToHost && !pinned(to, n));
    if (rc == cudaSuccess && waits) shim_drain(s ? s : shim_legacy());
    return rc;
}
}
