/* rows.cuh - a row of floats in the registers of a thread block: load all of it, add up, store it.
 *
 * Thread t of T holds the channels 4 (t + k T) to 4 (t + k T) + 3 for k < V. A row is loaded as a
 * whole before any use, so its memory accesses are on their way together. WHOLE: the row is aligned
 * to 16 bytes and its width is a multiple of 4, so the four channels are one access; else each is
 * loaded alone. Both hold the same channels and add them up in the same order, so the bits of a
 * result depend on the width alone. */
#ifndef FATHOM_ENGINE_CUDA_ROWS_CUH
#define FATHOM_ENGINE_CUDA_ROWS_CUH

#include "engine/cuda/common.cuh"

struct alignas(8) vec8 { /* 4 bfloat16 as one access */
    uint32_t w[2];
};

template <int V> struct row_vec { float v[V][4]; };

static __device__ __forceinline__ uint32_t first_channel(int k) {
    return 4 * (threadIdx.x + (uint32_t)k * blockDim.x);
}

/* ---- four channels, chan to chan + 3, of a row of n; beyond n they are 0 ---- */

template <bool WHOLE>
static __device__ __forceinline__ void load4(const float *from, uint32_t chan, uint32_t n,
                                             float values[4]) {
    if constexpr (WHOLE) {
        vec16 vec = {};
        if (chan < n) vec = *(const vec16 *)(from + chan);
        for (int j = 0; j < 4; j++)
            values[j] = rm_float_of(vec.w[j]);
    } else {
        for (int j = 0; j < 4; j++)
            values[j] = chan + j < n ? from[chan + j] : 0.0f;
    }
}

template <bool WHOLE>
static __device__ __forceinline__ void load4(const bf16 *from, uint32_t chan, uint32_t n,
                                             float values[4]) {
    if constexpr (WHOLE) {
        vec8 vec = {};
        if (chan < n) vec = *(const vec8 *)(from + chan);
        for (int j = 0; j < 4; j++)
            values[j] = rm_bf16_widen((uint16_t)(vec.w[j >> 1] >> 16 * (j & 1)));
    } else {
        for (int j = 0; j < 4; j++)
            values[j] = chan + j < n ? widen(from[chan + j]) : 0.0f;
    }
}

template <bool WHOLE>
static __device__ __forceinline__ void store4(float *to, uint32_t chan, uint32_t n,
                                              const float values[4]) {
    if constexpr (WHOLE) {
        vec16 vec;
        for (int j = 0; j < 4; j++)
            vec.w[j] = rm_bits_of(values[j]);
        if (chan < n) *(vec16 *)(to + chan) = vec;
    } else {
        for (int j = 0; j < 4; j++) {
            if (chan + j < n) to[chan + j] = values[j];
        }
    }
}

template <bool WHOLE>
static __device__ __forceinline__ void store4(bf16 *to, uint32_t chan, uint32_t n,
                                              const float values[4]) {
    if constexpr (WHOLE) {
        vec8 vec = {{narrow_pair(values[0], values[1]), narrow_pair(values[2], values[3])}};
        if (chan < n) *(vec8 *)(to + chan) = vec;
    } else {
        for (int j = 0; j < 4; j++) {
            if (chan + j < n) narrow(values[j], &to[chan + j]);
        }
    }
}

/* ---- whole rows ---- */

enum {
    FEW = 2,  /* accesses of a thread for rows of up to NARROW channels */
    MANY = 6, /* and beyond */
    ROW_THREADS = 512,
    NARROW = 4 * FEW * ROW_THREADS,
};
static_assert((int)CU_MAX_DIM == 4 * MANY * ROW_THREADS, "the widest row of one thread block");
#define ROW_BOUNDS __launch_bounds__(ROW_THREADS, 1)

/* n 0: no row, all zeros; `from` is not read. */
template <bool WHOLE, int V, typename T>
static __device__ __forceinline__ void row_load(row_vec<V> &x, const T *from, uint32_t n) {
#pragma unroll
    for (int k = 0; k < V; k++)
        load4<WHOLE>(from, first_channel(k), n, x.v[k]);
}

template <bool WHOLE, int V, typename T>
static __device__ __forceinline__ void row_store(T *from, uint32_t n, const row_vec<V> &x) {
#pragma unroll
    for (int k = 0; k < V; k++)
        store4<WHOLE>(from, first_channel(k), n, x.v[k]);
}

/* Weights of a row, asked for early (before the kernel in front has ended) or at their use: with
 * MANY, registers hold little more than one row. `from` NULL: zeros. */
template <bool EARLY, bool WHOLE, int V>
static __device__ __forceinline__ void row_weights(row_vec<V> &weights, const float *from,
                                                   uint32_t n) {
    if (EARLY == (V == FEW)) row_load<WHOLE>(weights, from, from ? n : 0);
}

/* f(x channel, y channel) in place of each channel of x. */
template <int V, typename F>
static __device__ __forceinline__ void row_join(row_vec<V> &x, const row_vec<V> &y, F join) {
#pragma unroll
    for (int k = 0; k < V; k++) {
#pragma unroll
        for (int j = 0; j < 4; j++)
            x.v[k][j] = join(x.v[k][j], y.v[k][j]);
    }
}

/* This thread's share of the sum of x y. */
template <int V>
static __device__ __forceinline__ float row_dot(const row_vec<V> &x, const row_vec<V> &y) {
    float sum = 0.0f;
#pragma unroll
    for (int k = 0; k < V; k++) {
#pragma unroll
        for (int j = 0; j < 4; j++)
            sum += x.v[k][j] * y.v[k][j];
    }
    return sum;
}

enum { ROW_SUM = 32 }; /* floats of shared memory for one sum over the block */

/* N sums over a block of whole warps, in every thread, behind one barrier. `scratch`: N * ROW_SUM
 * floats, not used by another sum of the kernel. */
template <int N> static __device__ __forceinline__ void row_sums(float (&v)[N], float *scratch) {
    uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
#pragma unroll
    for (int i = 0; i < N; i++)
        v[i] = warp_sum(v[i]);
    if (lane == 0) {
#pragma unroll
        for (int i = 0; i < N; i++)
            scratch[i * ROW_SUM + warp] = v[i];
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < N; i++)
        v[i] = warp_sum(lane < warps ? scratch[i * ROW_SUM + lane] : 0.0f);
}

/* x = x * scale * w with the scale of a root mean square. */
template <int V>
static __device__ __forceinline__ void row_norm(row_vec<V> &x, const row_vec<V> &weights,
                                                uint32_t n, float eps, float *scratch) {
    float sum[1] = {row_dot(x, x)};
    row_sums(sum, scratch);
    float scale = rm_rms_scale(sum[0], n, eps);
    row_join(x, weights, [=](float a, float b) { return a * scale * b; });
}

/* Row i of the launch; false if it has fewer. The row is read beside the count, not behind it: a
 * descriptor has memory for as many rows as any kernel has thread blocks for. */
static __device__ __forceinline__ bool launch_row(const void *desc, uint32_t i, cu_row *row) {
    const cu_row *from = (const cu_row *)((const char *)desc + sizeof(cu_head)) + i;
#ifdef __CUDA_ARCH__
    static_assert(sizeof(cu_row) == 40 && sizeof(cu_head) % 8 == 0, "five accesses of 8 bytes");
    uint32_t w[10];
    for (int k = 0; k < 5; k++) { /* volatile: not to be moved behind the comparison */
        asm volatile("ld.global.v2.u32 {%0, %1}, [%2];"
                     : "=r"(w[2 * k]), "=r"(w[2 * k + 1])
                     : "l"((const uint32_t *)from + 2 * k));
    }
    memcpy(row, w, sizeof *row);
#else
    *row = *from;
#endif
    return i < head_of(desc)->n_rows;
}

/* ---- on the host ---- */

static inline bool in_fours(const void *from) {
    return (uintptr_t)from % 16 == 0;
}

/* Threads for a row of n with v accesses each. */
static inline uint32_t row_threads(uint32_t n, uint32_t v) {
    return cu_ceil_div(n, 128 * v) * 32;
}

#endif
