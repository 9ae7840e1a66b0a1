/* shim.h - lets a .cu file compile as C++: the words of CUDA, threads as fibers.
 *
 * A block's threads run one at a time on stacks of their own and change over only at barriers and
 * warp operations. The program ends at a barrier missed by a thread, a warp operation missed by any
 * of the 32 lanes, and a misaligned vector access. */
#ifndef FATHOM_SHIM_H
#define FATHOM_SHIM_H

#include <cuda_runtime_api.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>

#define __device__
#define __host__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) alignas(n)

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
extern dim3 threadIdx, blockIdx, blockDim, gridDim;

extern unsigned char *shim_shared; /* of the running block: NaN patterns at its start */
void shim_block_barrier();
/* Every lane gives `bytes` bytes and gets the bytes of all 32; valid until its next warp
 * operation. */
const unsigned char *shim_warp_gather(const void *give, size_t bytes, size_t *step);
void shim_die(const char *what);
uint64_t shim_ns(); /* a clock rising by one at every reading */
void shim_copy_later(void *to, const void *from);
void shim_copies_do();
cudaError_t shim_enqueue(cudaStream_t stream, std::function<void()> op);
cudaError_t shim_launch(const void *kernel, dim3 grid, dim3 block, size_t bytes,
                        cudaStream_t stream, std::function<void()> body);
/* Sets the limit of a kernel's dynamic shared memory on the current device; the engine's kernels
 * have no other. */
extern "C" cudaError_t shim_allow_shared(const void *kernel, int bytes);
void shim_set_shared(const void *kernel, size_t bytes);
size_t shim_most_shared(); /* of SHIM_SHARED_KB: 99, 163 or 227 */
bool shim_breaks();        /* the next kernel breaks off */

static inline void __syncthreads() {
    shim_block_barrier();
}
static inline void __syncwarp() {
    size_t step;
    char nothing = 0;
    shim_warp_gather(&nothing, 1, &step);
}

template <typename T> static inline T shim_shuffle(T value, unsigned lane) {
    size_t step;
    const unsigned char *all = shim_warp_gather(&value, sizeof value, &step);
    T out;
    memcpy(&out, all + lane * step, sizeof out);
    return out;
}
template <typename T> static inline T __shfl_xor_sync(unsigned mask, T value, int with) {
    if (mask != 0xffffffffu) shim_die("a shuffle of a part of the warp");
    return shim_shuffle(value, (threadIdx.x & 31) ^ (unsigned)with);
}
template <typename T> static inline T __shfl_sync(unsigned mask, T value, int from) {
    if (mask != 0xffffffffu) shim_die("a shuffle of a part of the warp");
    return shim_shuffle(value, (unsigned)from & 31);
}
static inline unsigned __ballot_sync(unsigned mask, int yes) {
    if (mask != 0xffffffffu) shim_die("a vote of a part of the warp");
    size_t step;
    char mine = yes != 0;
    const unsigned char *all = shim_warp_gather(&mine, 1, &step);
    unsigned bits = 0;
    for (unsigned i = 0; i < 32; i++)
        bits |= (unsigned)all[i * step] << i;
    return bits;
}
static inline int __popc(unsigned value) {
    return __builtin_popcount(value);
}
template <typename T> static inline T __shfl_up_sync(unsigned mask, T value, unsigned by) {
    if (mask != 0xffffffffu) shim_die("a shuffle of a part of the warp");
    unsigned lane = threadIdx.x & 31;
    return shim_shuffle(value, lane >= by ? lane - by : lane);
}
static inline unsigned long long atomicAdd(unsigned long long *cell, unsigned long long value) {
    unsigned long long old = *cell;
    *cell += value;
    return old;
}
static inline unsigned long long atomicMin(unsigned long long *cell, unsigned long long value) {
    unsigned long long old = *cell;
    *cell = value < old ? value : old;
    return old;
}
static inline unsigned long long atomicMax(unsigned long long *cell, unsigned long long value) {
    unsigned long long old = *cell;
    *cell = value > old ? value : old;
    return old;
}
static inline unsigned atomicAdd(unsigned *cell, unsigned value) {
    unsigned old = *cell;
    *cell += value;
    return old;
}

static inline float shim_half(uint32_t word, unsigned high) {
    uint32_t bits = high ? word & 0xffff0000u : word << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

/* m16n8k16, by the layout the PTX manual gives. */
static inline void mma_bf16(float c[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                            uint32_t b0, uint32_t b1) {
    uint32_t mine[6] = {a0, a1, a2, a3, b0, b1};
    size_t step;
    const unsigned char *all = shim_warp_gather(mine, sizeof mine, &step);
    unsigned lane = threadIdx.x & 31, group = lane >> 2, in_group = lane & 3;
    for (unsigned i = 0; i < 4; i++) {
        unsigned row = group + 8 * (i >> 1), col = 2 * in_group + (i & 1);
        for (unsigned k = 0; k < 16; k++) {
            uint32_t a, b;
            memcpy(&a, all + ((row % 8) * 4 + k % 8 / 2) * step + 4 * (row / 8 + 2 * (k / 8)), 4);
            memcpy(&b, all + (col * 4 + k % 8 / 2) * step + 16 + 4 * (k / 8), 4);
            c[i] += shim_half(a, k & 1) * shim_half(b, k & 1);
        }
    }
}

static inline void shim_matrices(uint32_t regs[4], const void *row, bool turned) {
    if ((uintptr_t)row % 16) shim_die("ldmatrix: a row is not aligned to 16 bytes");
    size_t step;
    const unsigned char *all = shim_warp_gather(&row, sizeof row, &step);
    unsigned lane = threadIdx.x & 31, group = lane >> 2, in_group = lane & 3;
    for (unsigned mat = 0; mat < 4; mat++) {
        uint16_t pair[2];
        for (unsigned i = 0; i < 2; i++) {
            const uint16_t *from;
            unsigned at = turned ? 2 * in_group + i : group,
                     col = turned ? group : 2 * in_group + i;
            memcpy(&from, all + (mat * 8 + at) * step, sizeof from);
            pair[i] = from[col];
        }
        regs[mat] = (uint32_t)pair[0] | (uint32_t)pair[1] << 16;
    }
}
static inline void load_matrices(uint32_t regs[4], const void *row) {
    shim_matrices(regs, row, false);
}
static inline void load_matrices_t(uint32_t regs[4], const void *row) {
    shim_matrices(regs, row, true);
}
/* The copy itself is made outside ASan's sight: here ASan sees both sides. */
static inline void copy_async(void *to, const void *from) {
    if ((uintptr_t)to % 16 || (uintptr_t)from % 16) shim_die("cp.async: not aligned to 16 bytes");
    const volatile uint64_t *in = (const volatile uint64_t *)from;
    volatile uint64_t *out = (volatile uint64_t *)to;
    (void)in[0], (void)in[1], (void)out[0], (void)out[1];
    shim_copy_later(to, from);
}
static inline void copies_wait() {
    shim_copies_do();
}

#define DYNAMIC_SHARED(name) unsigned char *name = shim_shared
/* Arguments are copied at launch, as on the device. */
template <typename... P, typename... A>
static inline std::function<void()> shim_bind(void (*kernel)(P...), A... args) {
    return [=] { kernel(args...); };
}
template <typename... P, typename... A>
static inline cudaError_t shim_start(void (*kernel)(P...), dim3 grid, dim3 block, size_t bytes,
                                     cudaStream_t stream, A... args) {
    return shim_launch((const void *)kernel, grid, block, bytes, stream,
                       shim_bind(kernel, P(args)...));
}
#define START shim_start
#define START_BEHIND shim_start

template <typename F>
static inline cudaError_t cudaFuncSetAttribute(F kernel, cudaFuncAttribute, int bytes) {
    return shim_allow_shared((const void *)kernel, bytes);
}

#endif
