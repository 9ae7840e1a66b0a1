/* probe.cu - the device's read rate, a kernel without work, and random data. */
#include "engine/cuda/common.cuh"

/* Reads n vectors of 16 bytes once; the sum keeps the compiler from dropping them. */
static __global__ void __launch_bounds__(512)
    read_all(const vec16 *data, uint64_t n, uint32_t *sink) {
    kernel_scope scope(nullptr);
    uint32_t sum = 0;
    uint64_t step = (uint64_t)gridDim.x * blockDim.x * 4;
    for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x * 4 + threadIdx.x; i < n; i += step) {
#pragma unroll
        for (uint32_t k = 0; k < 4; k++) {
            uint64_t at = i + (uint64_t)k * blockDim.x;
            if (at >= n) continue;
            vec16 vec = load_stream(data + at);
            sum ^= vec.w[0] ^ vec.w[1] ^ vec.w[2] ^ vec.w[3];
        }
    }
    if (sum == 0x12345678u) *sink = sum;
}

static __global__ void nothing(uint32_t *sink) {
    kernel_scope scope(nullptr);
    if (sink == nullptr) return;
}

static __device__ __forceinline__ uint32_t scrambled(uint64_t value) {
    value ^= value >> 32;
    value *= 0xd6e8feb86659fd93u;
    value ^= value >> 32;
    value *= 0xd6e8feb86659fd93u;
    return (uint32_t)(value >> 32);
}

/* Sizes of 1/4 to 2 and either sign: the power of arithmetic depends on its bits, so there are no
 * zeros, no denormals and no NaN. */
static __device__ __forceinline__ uint32_t random_pair(uint32_t bits, bool f32) {
    if (f32) return (bits & 0x807fffffu) | (125u + (bits >> 29 & 2)) << 23;
    uint32_t size = (bits & 0x807f807fu) | 0x3e803e80u; /* exponent 125 */
    return size | (bits >> 1 & 0x01000100u);            /* or 127, if its second bit is set */
}

static __global__ void __launch_bounds__(256)
    fill(vec16 *data, uint64_t n, uint64_t seed, bool f32) {
    kernel_scope scope(nullptr);
    uint64_t step = (uint64_t)gridDim.x * blockDim.x;
    for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) {
        vec16 vec;
#pragma unroll
        for (uint32_t k = 0; k < 4; k++)
            vec.w[k] = random_pair(scrambled(seed + i * 4 + k + 1), f32);
        data[i] = vec;
    }
}

extern "C" cudaError_t probe_read(cudaStream_t stream, const void *data, uint64_t bytes, void *sink,
                                  uint32_t blocks) {
    return LAUNCH(read_all, blocks, 512, 0, stream, (const vec16 *)data, bytes / 16,
                  (uint32_t *)sink);
}

extern "C" cudaError_t probe_nothing(cudaStream_t stream) {
    return LAUNCH(nothing, 1, 32, 0, stream, (uint32_t *)nullptr);
}

extern "C" cudaError_t probe_fill(cudaStream_t stream, void *data, uint64_t bytes, uint64_t seed,
                                  bool f32, uint32_t blocks) {
    return LAUNCH(fill, blocks, 256, 0, stream, (vec16 *)data, bytes / 16, seed << 40, f32);
}
