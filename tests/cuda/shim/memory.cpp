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

/* The allocation holding [mem, mem + bytes); NULL: the host's pageable memory. */
const span *span_of(const void *mem, size_t bytes) {
    uintptr_t at = (uintptr_t)mem;
    auto next = spans.upper_bound(at);
    if (next == spans.begin()) return nullptr;
    auto held = std::prev(next);
    return at - held->first < held->second.bytes && bytes <= held->second.bytes - (at - held->first)
               ? &held->second
               : nullptr;
}
bool on_device(const void *mem, size_t bytes) {
    const span *held = span_of(mem, bytes);
    return held && held->device == shim_device();
}
bool pinned(const void *mem, size_t bytes) {
    const span *held = span_of(mem, bytes);
    return held && held->device == PINNED;
}

cudaError_t take(void **mem, size_t bytes, int device) {
    MAY_FAIL(cudaErrorMemoryAllocation);
    if (posix_memalign(mem, 256, bytes)) return shim_said(cudaErrorMemoryAllocation);
    memset(*mem, 0xff, bytes);
    spans[(uintptr_t)*mem] = {bytes, device};
    return cudaSuccess;
}
/* As on a device, the legacy stream first finishes its work on the memory. */
cudaError_t give_back(void *mem, int device) {
    auto held = spans.find((uintptr_t)mem);
    if (mem == nullptr) return cudaSuccess;
    if (held == spans.end() || held->second.device != device)
        return shim_said(cudaErrorInvalidValue);
    shim_drain(shim_legacy());
    spans.erase(held);
    free(mem);
    return cudaSuccess;
}

bool sides_are_right(const void *to, const void *from, size_t bytes, cudaMemcpyKind kind) {
    bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    return on_device(to, bytes) == to_device && on_device(from, bytes) == from_device;
}

/* A copy in a stream's order. The host's pageable memory is read at once: its owner may
 * use it for something else when the call is back. */
cudaError_t enqueue_copy(cudaStream_t stream, void *to, const void *from, size_t bytes,
                         cudaMemcpyKind kind) {
    if (kind != cudaMemcpyHostToDevice || pinned(from, bytes))
        return shim_enqueue(stream, [=] { memcpy(to, from, bytes); });
    if (stream && stream->capturing) shim_die("a graph copies memory that is not pinned");
    const unsigned char *first = (const unsigned char *)from;
    std::vector<unsigned char> staged(first, first + bytes);
    return shim_enqueue(stream, [=] { memcpy(to, staged.data(), bytes); });
}
} // namespace

extern "C" {

cudaError_t cudaMemGetInfo(size_t *room, size_t *all) {
    MAY_FAIL(cudaErrorLaunchFailure);
    *room = 48 << 20;
    *all = 64 << 20;
    return cudaSuccess;
}
cudaError_t cudaMalloc(void **mem, size_t bytes) {
    return take(mem, bytes, shim_device());
}
cudaError_t cudaFree(void *mem) {
    return give_back(mem, shim_device());
}
cudaError_t cudaMallocHost(void **mem, size_t bytes) {
    return take(mem, bytes, PINNED);
}
cudaError_t cudaFreeHost(void *mem) {
    return give_back(mem, PINNED);
}
cudaError_t cudaHostGetDevicePointer(void **dev, void *host, unsigned) {
    MAY_FAIL(cudaErrorInvalidValue);
    if (!pinned(host, 1)) return shim_said(cudaErrorInvalidValue);
    *dev = host;
    return cudaSuccess;
}

cudaError_t cudaMemset(void *mem, int value, size_t bytes) {
    return cudaMemsetAsync(mem, value, bytes, nullptr);
}
cudaError_t cudaMemsetAsync(void *mem, int value, size_t bytes, cudaStream_t stream) {
    MAY_FAIL(cudaErrorInvalidValue);
    if (bytes == 0) return cudaSuccess;
    if (!on_device(mem, bytes)) return shim_said(cudaErrorInvalidValue);
    return shim_enqueue(stream, [=] { memset(mem, value, bytes); });
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind) {
    MAY_FAIL(cudaErrorInvalidValue);
    if (bytes == 0) return cudaSuccess;
    if (!sides_are_right(to, from, bytes, kind)) return shim_said(cudaErrorInvalidValue);
    shim_drain(shim_legacy()); /* before the copy begins */
    cudaError_t rc = enqueue_copy(nullptr, to, from, bytes, kind);
    bool waits = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyHostToHost ||
                 (kind == cudaMemcpyHostToDevice && pinned(from, bytes));
    if (rc == cudaSuccess && waits) shim_drain(shim_legacy());
    return rc;
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
    MAY_FAIL(cudaErrorInvalidValue);
    if (bytes == 0) return cudaSuccess;
    if (!sides_are_right(to, from, bytes, kind)) return shim_said(cudaErrorInvalidValue);
    cudaError_t rc = enqueue_copy(stream, to, from, bytes, kind);
    bool waits =
        kind == cudaMemcpyHostToHost || (kind == cudaMemcpyDeviceToHost && !pinned(to, bytes));
    if (rc == cudaSuccess && waits) shim_drain(stream ? stream : shim_legacy());
    return rc;
}
}
