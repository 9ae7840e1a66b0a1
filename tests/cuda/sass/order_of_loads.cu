/* order_of_loads.cu - two kernels for tools/cuda_sass.py to tell apart. Both ask in their source
 * for eight loads before the first product. In `mm_bf16_late` a branch stands between the products,
 * and the compiler moves each pair of loads behind it. In this way the product kernel once lost
 * three quarters of the bytes it should have had in flight. */
#include "engine/cuda/common.cuh"

enum { PAIRS = 4 };

static __device__ __forceinline__ void load_pair(const bf16 *weights, uint32_t pair, vec16 *lo,
                                                 vec16 *hi) {
    *lo = load_stream(weights + pair * 512);
    *hi = load_stream(weights + pair * 512 + 256);
}

static __device__ __forceinline__ void multiply(float acc[4], const vec16 &lo, const vec16 &hi,
                                                uint32_t value) {
    mma_bf16(acc, lo.w[0], hi.w[0], lo.w[1], hi.w[1], value, value);
    mma_bf16(acc, lo.w[2], hi.w[2], lo.w[3], hi.w[3], value, value);
}

extern "C" __global__ void __launch_bounds__(256, 3)
    mm_bf16_late(const bf16 *weights, float *out, uint32_t steps, uint32_t value) {
    float acc[4] = {};
    weights += threadIdx.x * 8;
    for (uint32_t step = 0; step < steps; step += PAIRS) {
        vec16 lo[PAIRS], hi[PAIRS];
#pragma unroll
        for (uint32_t pair = 0; pair < PAIRS; pair++)
            load_pair(weights, step + pair < steps ? step + pair : step, &lo[pair], &hi[pair]);
#pragma unroll
        for (uint32_t pair = 0; pair < PAIRS; pair++) {
            if (step + pair >= steps) break;
            multiply(acc, lo[pair], hi[pair], value);
        }
    }
    out[threadIdx.x] = acc[0] + acc[1] + acc[2] + acc[3];
}

extern "C" __global__ void __launch_bounds__(256, 3)
    mm_bf16_early(const bf16 *weights, float *out, uint32_t steps, uint32_t value) {
    float acc[4] = {};
    weights += threadIdx.x * 8;
    for (uint32_t step = 0; step + PAIRS <= steps; step += PAIRS) {
        vec16 lo[PAIRS], hi[PAIRS];
#pragma unroll
        for (uint32_t pair = 0; pair < PAIRS; pair++)
            load_pair(weights, step + pair, &lo[pair], &hi[pair]);
#pragma unroll
        for (uint32_t pair = 0; pair < PAIRS; pair++)
            multiply(acc, lo[pair], hi[pair], value);
    }
    out[threadIdx.x] = acc[0] + acc[1] + acc[2] + acc[3];
}
