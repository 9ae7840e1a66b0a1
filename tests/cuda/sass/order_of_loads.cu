/* order_of_loads.cu - two kernels for tools/cuda_sass.py to tell apart. Both ask in their source
 * for eight loads before the first product. In `mm_bf16_late` a branch stands between the products,
 * and the compiler moves each pair of loads behind it; so the product kernel once lost three
 * quarters of the bytes it should have had in flight. */
#include "engine/cuda/common.cuh"

enum { PAIRS = 4 };

static __device__ __forceinline__ void load_pair(const bf16 *w, uint32_t i, vec16 *lo, vec16 *hi) {
    *lo = load_stream(w + i * 512);
    *hi = load_stream(w + i * 512 + 256);
}

static __device__ __forceinline__ void multiply(float acc[4], const vec16 &lo, const vec16 &hi,
                                                uint32_t x) {
    mma_bf16(acc, lo.w[0], hi.w[0], lo.w[1], hi.w[1], x, x);
    mma_bf16(acc, lo.w[2], hi.w[2], lo.w[3], hi.w[3], x, x);
}

extern "C" __global__ void __launch_bounds__(256, 3)
    mm_bf16_late(const bf16 *w, float *y, uint32_t steps, uint32_t x) {
    float acc[4] = {};
    w += threadIdx.x * 8;
    for (uint32_t j = 0; j < steps; j += PAIRS) {
        vec16 lo[PAIRS], hi[PAIRS];
#pragma unroll
        for (uint32_t i = 0; i < PAIRS; i++)
            load_pair(w, j + i < steps ? j + i : j, &lo[i], &hi[i]);
#pragma unroll
        for (uint32_t i = 0; i < PAIRS; i++) {
            if (j + i >= steps) break;
            multiply(acc, lo[i], hi[i], x);
        }
    }
    y[threadIdx.x] = acc[0] + acc[1] + acc[2] + acc[3];
}

extern "C" __global__ void __launch_bounds__(256, 3)
    mm_bf16_early(const bf16 *w, float *y, uint32_t steps, uint32_t x) {
    float acc[4] = {};
    w += threadIdx.x * 8;
    for (uint32_t j = 0; j + PAIRS <= steps; j += PAIRS) {
        vec16 lo[PAIRS], hi[PAIRS];
#pragma unroll
        for (uint32_t i = 0; i < PAIRS; i++)
            load_pair(w, j + i, &lo[i], &hi[i]);
#pragma unroll
        for (uint32_t i = 0; i < PAIRS; i++)
            multiply(acc, lo[i], hi[i], x);
    }
    y[threadIdx.x] = acc[0] + acc[1] + acc[2] + acc[3];
}
