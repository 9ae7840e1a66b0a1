/* probe.cu - what the device can read per second, and the gap between two kernels of a stream. */
#include "engine/cuda/common.cuh"

/* Reads n vectors of 16 bytes once; the sum keeps the compiler from dropping them. */
static __global__ void __launch_bounds__(512) read_all(const vec16 *p, uint64_t n, uint32_t *sink) {
    uint32_t sum = 0;
    uint64_t step = (uint64_t)gridDim.x * blockDim.x * 4;
    for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x * 4 + threadIdx.x; i < n; i += step) {
#pragma unroll
        for (uint32_t k = 0; k < 4; k++) {
            uint64_t at = i + (uint64_t)k * blockDim.x;
            if (at >= n) continue;
            vec16 v = load_stream(p + at);
            sum ^= v.w[0] ^ v.w[1] ^ v.w[2] ^ v.w[3];
        }
    }
    if (sum == 0x12345678u) *sink = sum;
}

static __global__ void nothing(uint32_t *sink) {
    if (sink == nullptr) return;
}

extern "C" cudaError_t probe_read(cudaStream_t s, const void *p, uint64_t bytes, void *sink,
                                  uint32_t blocks) {
    return LAUNCH(read_all, blocks, 512, 0, s, (const vec16 *)p, bytes / 16, (uint32_t *)sink);
}

extern "C" cudaError_t probe_nothing(cudaStream_t s) {
    return LAUNCH(nothing, 1, 32, 0, s, (uint32_t *)nullptr);
}
