/* l2.cu - what the second-level cache keeps of weights read once per loop, and what having them
 * there is worth.
 *
 * A "loop" reads `kept` MB of weights and then sweeps 300 MB of others. Ways differ in the hint of
 * the kept reads, in the hint of the sweep, in the share of the cache set aside for persisting
 * lines, and in a bulk prefetch ahead. The time is that of the kept reads alone, by events, median
 * of 15 loops. Built by hand:
 *   nvcc -O2 -std=c++17 -gencode arch=compute_90a,code=sm_90a -o build/l2 bench/tools/cuda/l2.cu
 */
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cuda_runtime.h>
#include <vector>

enum { LOOPS = 15, PIECE = 4096 };
enum hint { NONE, LAST, FIRST };

static void must(cudaError_t rc, const char *what) {
    if (rc == cudaSuccess) return;
    std::printf("%s: %s\n", what, cudaGetErrorString(rc));
    std::exit(1);
}

static __device__ uint64_t policy_of(int hint) {
    uint64_t policy;
    if (hint == LAST) asm("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
    else if (hint == FIRST)
        asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    else asm("createpolicy.fractional.L2::evict_normal.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}

/* Every warp has four 16-byte loads a lane on their way. */
static __global__ void __launch_bounds__(256)
    read_all(const uint4 *from, size_t n, int hint, uint32_t *out) {
    uint64_t policy = policy_of(hint);
    uint32_t sum = 0;
    size_t step = (size_t)gridDim.x * blockDim.x;
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += 4 * step) {
        uint4 v[4] = {};
        for (int j = 0; j < 4; j++) {
            if (i + j * step < n)
                asm volatile("ld.global.nc.L1::no_allocate.L2::cache_hint.v4.u32 "
                             "{%0,%1,%2,%3}, [%4], %5;"
                             : "=r"(v[j].x), "=r"(v[j].y), "=r"(v[j].z), "=r"(v[j].w)
                             : "l"(from + i + j * step), "l"(policy));
        }
        for (int j = 0; j < 4; j++)
            sum += v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
    }
    if (sum == 12345) *out = sum;
}

static __global__ void prefetch_all(const uint8_t *from, size_t bytes) {
    size_t step = (size_t)gridDim.x * blockDim.x * PIECE;
    for (size_t i = (blockIdx.x * (size_t)blockDim.x + threadIdx.x) * PIECE; i < bytes; i += step)
        asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from + i),
                     "r"((uint32_t)PIECE)
                     : "memory");
}

static __global__ void wait_us(uint64_t us) {
    uint64_t begin, now;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(begin));
    do
        asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
    while (now - begin < us * 1000);
}

struct way {
    const char *name;
    size_t kept_mb, sweep_mb, aside_mb;
    hint kept, sweep;
    bool prefetch;
};

static const way ways[] = {
    {"normal, sweep of nothing (all hits)", 10, 0, 0, NONE, NONE, false},
    {"normal, sweep of nothing (all hits)", 24, 0, 0, NONE, NONE, false},
    {"normal", 10, 300, 0, NONE, NONE, false},
    {"sweep evicts itself first", 10, 300, 0, NONE, FIRST, false},
    {"kept last", 10, 300, 0, LAST, NONE, false},
    {"kept last, sweep first", 10, 300, 0, LAST, FIRST, false},
    {"kept last, sweep first, 12 MB aside", 10, 300, 12, LAST, FIRST, false},
    {"normal", 20, 300, 0, NONE, NONE, false},
    {"kept last, sweep first", 20, 300, 0, LAST, FIRST, false},
    {"kept last, sweep first, 24 MB aside", 20, 300, 24, LAST, FIRST, false},
    {"kept last, sweep first, 30 MB aside", 20, 300, 30, LAST, FIRST, false},
    {"bulk prefetch, 20 us of time", 10, 300, 0, NONE, FIRST, true},
    {"bulk prefetch, 20 us of time", 24, 300, 0, NONE, FIRST, true},
    {"bulk prefetch, 20 us of time, read as first", 24, 300, 0, FIRST, FIRST, true},
};

static float loop_us(const way &w, const uint8_t *kept, const uint8_t *sweep, uint32_t *out,
                     cudaEvent_t from, cudaEvent_t to) {
    std::vector<float> us;
    must(cudaDeviceSetLimit(cudaLimitPersistingL2CacheSize, w.aside_mb << 20), "setting aside");
    must(cudaCtxResetPersistingL2Cache(), "resetting");
    for (int i = 0; i < LOOPS; i++) {
        float ms;
        if (w.prefetch) {
            prefetch_all<<<64, 128>>>(kept, w.kept_mb << 20);
            wait_us<<<1, 1>>>(20);
        }
        must(cudaEventRecord(from), "event");
        read_all<<<132 * 3, 256>>>((const uint4 *)kept, (w.kept_mb << 20) / 16, w.kept, out);
        must(cudaEventRecord(to), "event");
        if (w.sweep_mb)
            read_all<<<132 * 3, 256>>>((const uint4 *)sweep, (w.sweep_mb << 20) / 16, w.sweep, out);
        must(cudaDeviceSynchronize(), "running");
        must(cudaEventElapsedTime(&ms, from, to), "timing");
        us.push_back(ms * 1e3f);
    }
    std::sort(us.begin(), us.end());
    return us[LOOPS / 2];
}

int main() {
    uint8_t *kept, *sweep;
    uint32_t *out;
    cudaEvent_t from, to;
    must(cudaMalloc(&kept, 64 << 20), "memory");
    must(cudaMalloc(&sweep, 300 << 20), "memory");
    must(cudaMalloc(&out, 4), "memory");
    must(cudaMemset(kept, 0x5a, 64 << 20), "memory");
    must(cudaMemset(sweep, 0xa5, 300 << 20), "memory");
    must(cudaEventCreate(&from), "event");
    must(cudaEventCreate(&to), "event");
    for (const way &w : ways) {
        float us = loop_us(w, kept, sweep, out, from, to);
        std::printf("%2zu MB, %-45s %7.2f us, %5.0f GB/s\n", w.kept_mb, w.name, us,
                    (double)(w.kept_mb << 20) / us * 1e-3);
    }
    return 0;
}
