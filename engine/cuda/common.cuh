/* common.cuh - shared by all kernels: types, warp and block sums, tensor-core operations.
 *
 * With FATHOM_CUDA_SHIM the kernels are plain C++ on the CPU (tests/cuda/shim): threads are fibers,
 * and the three operations in inline PTX are emulated lane by lane. */
#ifndef FATHOM_ENGINE_CUDA_COMMON_CUH
#define FATHOM_ENGINE_CUDA_COMMON_CUH

#ifdef FATHOM_CUDA_SHIM
#include "shim.h"
#endif

#include "engine/cuda/kernels.h"
#include "engine/rowmath.h"

struct alignas(2) bf16 {
    uint16_t bits;
};

struct alignas(16) vec16 { /* 16 bytes as one load: 8 bfloat16 or 4 floats */
    uint32_t w[4];
};

static __device__ __forceinline__ float widen(float value) {
    return value;
}
static __device__ __forceinline__ float widen(bf16 value) {
    return rm_bf16_widen(value.bits);
}

static __device__ __forceinline__ void narrow(float x, float *to) {
    *to = x;
}
static __device__ __forceinline__ void narrow(float x, bf16 *to) {
#ifdef __CUDA_ARCH__
    uint16_t bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    to->bits = bits;
#else
    to->bits = rm_bf16_narrow(x);
#endif
}

static __device__ __forceinline__ uint32_t narrow_pair(float lo, float hi) {
#ifdef __CUDA_ARCH__
    uint32_t bits;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(hi), "f"(lo));
    return bits;
#else
    return rm_bf16_pair(lo, hi);
#endif
}

/* Weights are read once per launch: past the first-level cache. */
static __device__ __forceinline__ vec16 load_stream(const void *from) {
#ifdef __CUDA_ARCH__
    vec16 vec;
    asm("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
        : "=r"(vec.w[0]), "=r"(vec.w[1]), "=r"(vec.w[2]), "=r"(vec.w[3])
        : "l"(from));
    return vec;
#else
    return *(const vec16 *)from;
#endif
}

/* How weights are kept in the second-level cache: normally; evicted first, for weights not read
 * again soon; kept, for weights read again by the next loop. */
enum cache_policy { CACHE_NORMAL, CACHE_EVICT_FIRST, CACHE_KEEP };

static __device__ __forceinline__ uint64_t cache_hint(cache_policy policy) {
    uint64_t hint = 0;
#ifdef __CUDA_ARCH__
    if (policy == CACHE_EVICT_FIRST)
        asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(hint));
    else if (policy == CACHE_KEEP)
        asm("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(hint));
    else asm("createpolicy.fractional.L2::evict_normal.b64 %0, 1.0;" : "=l"(hint));
#endif
    (void)policy;
    return hint;
}

/* load_stream with a hint of cache_hint. */
static __device__ __forceinline__ vec16 load_hinted(const void *from, uint64_t hint) {
#ifdef __CUDA_ARCH__
    vec16 vec;
    asm("ld.global.nc.L1::no_allocate.L2::cache_hint.v4.u32 {%0,%1,%2,%3}, [%4], %5;"
        : "=r"(vec.w[0]), "=r"(vec.w[1]), "=r"(vec.w[2]), "=r"(vec.w[3])
        : "l"(from), "l"(hint));
    return vec;
#else
    (void)hint;
    return *(const vec16 *)from;
#endif
}

/* Asks for a line ahead of its use. */
static __device__ __forceinline__ void prefetch(const void *from) {
#ifdef __CUDA_ARCH__
    asm volatile("prefetch.global.L2 [%0];" ::"l"(from));
#else
    (void)*(const volatile char *)from; /* on the shim: in range, or ASan says so */
#endif
}

/* ---- the launch descriptor ---- */

static __device__ __forceinline__ const cu_head *head_of(const void *desc) {
    return (const cu_head *)desc;
}
static __device__ __forceinline__ const cu_row *rows_of(const void *desc) {
    return (const cu_row *)((const char *)desc + head_of(desc)->rows);
}
static __device__ __forceinline__ const cu_draw *draws_of(const void *desc) {
    return (const cu_draw *)((const char *)desc + head_of(desc)->draws);
}
static __device__ __forceinline__ const uint32_t *tables_of(const void *desc) {
    return (const uint32_t *)((const char *)desc + head_of(desc)->tables);
}

/* ---- sums in a fixed order, so that a row's bits depend on nothing else ---- */

static __device__ __forceinline__ float warp_sum(float value) {
    for (int step = 16; step > 0; step >>= 1)
        value += __shfl_xor_sync(0xffffffffu, value, step);
    return value;
}

/* Sum over a block of at most 1024 threads (a multiple of 32) in every thread; `scratch` is 33
 * floats of shared memory without another use. */
static __device__ __forceinline__ float block_sum(float value, float *scratch) {
    unsigned lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    value = warp_sum(value);
    __syncthreads(); /* an earlier sum has been read */
    if (lane == 0) scratch[warp] = value;
    __syncthreads();
    if (warp == 0) {
        float sum = warp_sum(lane < warps ? scratch[lane] : 0.0f);
        if (lane == 0) scratch[32] = sum;
    }
    __syncthreads();
    return scratch[32];
}

/* ---- tensor cores: c[16x8] += a[16x16] b[16x8], bfloat16 in, float32 out ----
 * Lane l holds, with g = l / 4 and t = l % 4: a rows g and g+8 at k 2t,2t+1 (a0, a1) and
 * 2t+8,2t+9 (a2, a3); b column g at the same k (b0, b1); c rows g (c0, c1) and g+8 (c2, c3)
 * at columns 2t, 2t+1. */
#ifndef FATHOM_CUDA_SHIM
static __device__ __forceinline__ void mma_bf16(float c[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                                uint32_t a3, uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/* Four 8x8 matrices of bfloat16 from shared memory; lane l gives the address of row l % 8 of
 * matrix l / 8 and gets, of each, row l / 4 at columns 2(l % 4), +1 (transposed: column l / 4). */
static __device__ __forceinline__ void load_matrices(uint32_t regs[4], const void *row) {
    uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(regs[0]), "=r"(regs[1]), "=r"(regs[2]), "=r"(regs[3])
                 : "r"(at)
                 : "memory");
}
static __device__ __forceinline__ void load_matrices_t(uint32_t regs[4], const void *row) {
    uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(regs[0]), "=r"(regs[1]), "=r"(regs[2]), "=r"(regs[3])
                 : "r"(at)
                 : "memory");
}

/* 16 bytes from global to shared memory behind the thread's back, until copies_wait. */
static __device__ __forceinline__ void copy_async(void *to, const void *from) {
    uint32_t at = (uint32_t)__cvta_generic_to_shared(to);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at), "l"(from) : "memory");
}
static __device__ __forceinline__ void copies_wait(void) {
    asm volatile("cp.async.wait_all;" ::: "memory");
}

#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

/* ---- the beginning and end of a kernel ----
 *
 * On devices of compute capability 9.0 a kernel may be started while the kernel before it in the
 * stream still runs. It may then read weights, as no kernel writes them, and must not touch
 * anything else, the descriptor included, before grid_wait. */

/* Returns once the kernel before has ended and its writes can be seen. As every kernel waits so,
 * all earlier kernels have ended too. */
static __device__ __forceinline__ void grid_wait(void) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* From here on the next kernel's thread blocks may take the places left free by this kernel. */
static __device__ __forceinline__ void grid_release(void) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

static __device__ __forceinline__ uint64_t device_ns(void) {
#ifdef __CUDA_ARCH__
    uint64_t ns;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(ns));
    return ns;
#elif defined(FATHOM_CUDA_SHIM)
    return shim_ns();
#else
    return 0;
#endif
}

/* The first thing in every kernel: waits for the kernel before, lets the next one come, and stamps
 * the kernel's beginning and, wherever the kernel returns, its end. */
struct kernel_scope {
    cu_stamp *stamp;
    __device__ __forceinline__ kernel_scope(cu_stamp *at) : stamp(at) {
        grid_wait();
        grid_release();
        if (stamp != nullptr && threadIdx.x == 0)
            atomicMin((unsigned long long *)&stamp->first, (unsigned long long)device_ns());
    }
    __device__ __forceinline__ ~kernel_scope() {
        if (stamp != nullptr && threadIdx.x == 0)
            atomicMax((unsigned long long *)&stamp->last, (unsigned long long)device_ns());
    }
};

/* ---- starting a kernel: LAUNCH(kernel, grid, block, bytes of shared memory, stream, arguments...)
 * ---- */

extern "C" cudaError_t cu_started(cudaError_t rc, const char *kernel); /* remembers a failed one */
extern "C" bool cu_overlap(void);

#ifndef FATHOM_CUDA_SHIM
template <typename... P, typename... A>
static inline cudaError_t start_kernel(bool early, void (*kernel)(P...), dim3 grid, dim3 block,
                                       size_t bytes, cudaStream_t stream, A... args) {
    cudaLaunchAttribute overlap;
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = bytes;
    config.stream = stream;
    config.attrs = &overlap;
    config.numAttrs = early ? 1 : 0;
    return cudaLaunchKernelEx(&config, kernel, P(args)...);
}
#define START(...) start_kernel(cu_overlap(), __VA_ARGS__)
/* Never before all that is queued in front has ended: nodes of a library that captures more than
 * kernels. */
#define START_BEHIND(...) start_kernel(false, __VA_ARGS__)
#endif
#define LAUNCH(kernel, grid, block, bytes, stream, ...)                                            \
    cu_started(START((kernel), (grid), (block), (bytes), (stream), __VA_ARGS__), #kernel)

static inline uint32_t cu_ceil_div(uint32_t a, uint32_t b) {
    return (a + b - 1) / b;
}

#endif
