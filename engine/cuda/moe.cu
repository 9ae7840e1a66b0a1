/* moe.cu - the experts of each row, and the rows of each expert.
 *
 * With few rows one thread block does both (moe_assign); from CU_ASSIGN_ROWS on, routing is a grid
 * of its own (moe_route) before the one block that groups (moe_group). */
#include "engine/cuda/common.cuh"

enum {
    ROUTE_WARPS = 4,      /* of moe_route's thread blocks; a warp takes a row */
    GROUP_THREADS = 1024, /* at least a thread a group */
    BATCH = 8,            /* parts of one thread at a time */
};
static_assert((int)CU_MAX_EXPERTS <= (int)GROUP_THREADS, "a thread for every group");

/* ---- routing ---- */

/* Experts picked one after the other by a whole warp; lane l holds the logits of experts l + 32 j,
 * j < N. */
template <int N> struct candidates { float logit[N], biased[N]; };

template <int N>
static __device__ __forceinline__ void load_candidates(candidates<N> &best,
                                                       const cu_route_args &args, uint32_t row) {
    const float *logits = args.logits + (uint64_t)row * args.moe.n_experts;
    float bias[N];
#pragma unroll
    for (int j = 0; j < N; j++) {
        uint32_t expert = (threadIdx.x & 31) + 32 * j;
        bias[j] = expert < args.moe.n_experts ? args.bias[expert] : 0.0f;
        best.logit[j] = expert < args.moe.n_experts ? logits[expert] : 0.0f;
    }
#pragma unroll
    for (int j = 0; j < N; j++)
        best.biased[j] = best.logit[j] + bias[j];
}

/* The best expert not `taken` (bit j: expert lane + 32 j), with its logit in every lane. */
template <int N>
static __device__ __forceinline__ uint32_t pick_best(const candidates<N> &all, uint32_t n,
                                                     uint32_t *taken, float *logit) {
    uint32_t lane = threadIdx.x & 31, id = UINT32_MAX;
    float best = -INFINITY, own = 0.0f;
#pragma unroll
    for (int j = 0; j < N; j++) {
        uint32_t expert = lane + 32 * j;
        bool free = expert < n && !(*taken >> j & 1u);
        if (free && (id == UINT32_MAX || rm_expert_before(all.biased[j], expert, best, id))) {
            best = all.biased[j];
            own = all.logit[j];
            id = expert;
        }
    }
    for (int step = 16; step > 0; step >>= 1) {
        float v = __shfl_xor_sync(0xffffffffu, best, step);
        float l = __shfl_xor_sync(0xffffffffu, own, step);
        uint32_t expert = __shfl_xor_sync(0xffffffffu, id, step);
        bool wins =
            expert != UINT32_MAX && (id == UINT32_MAX || rm_expert_before(v, expert, best, id));
        best = wins ? v : best;
        own = wins ? l : own;
        id = wins ? expert : id;
    }
    if ((id & 31) == lane) *taken |= 1u << (id >> 5);
    *logit = own;
    return id;
}

/* The top_k experts of a row by logit + bias, weighed by the logits alone. Pick k stays with lane
 * k % 32, so that the exponentials are taken side by side. */
template <int N>
static __device__ __forceinline__ void route_row(const cu_route_args &args, uint32_t row) {
    uint32_t lane = threadIdx.x & 31, top_k = args.moe.top_k, taken = 0;
    uint32_t *pick = args.moe.pick + (uint64_t)row * top_k;
    float *weight = args.moe.weight + (uint64_t)row * top_k;
    candidates<N> best;
    float mine[N] = {}, top = -INFINITY, sum = 0.0f;
    load_candidates(best, args, row);
    for (uint32_t k = 0; k < top_k; k++) {
        float logit;
        uint32_t id = pick_best(best, args.moe.n_experts, &taken, &logit);
#pragma unroll
        for (int j = 0; j < N; j++) {
            if (k == lane + 32 * j) mine[j] = logit;
        }
        top = fmaxf(top, logit);
        if (lane == 0) pick[k] = id;
    }
#pragma unroll
    for (int j = 0; j < N; j++) {
        if (lane + 32 * j < top_k) sum += expf(mine[j] - top);
    }
    sum = warp_sum(sum);
#pragma unroll
    for (int j = 0; j < N; j++) {
        if (lane + 32 * j < top_k) weight[lane + 32 * j] = rm_expert_weight(mine[j], top, sum);
    }
}

template <int N>
static __global__ void __launch_bounds__(32 * ROUTE_WARPS) moe_route(cu_route_args args) {
    kernel_scope scope(args.stamp);
    uint32_t i = blockIdx.x * ROUTE_WARPS + (threadIdx.x >> 5);
    if (i < head_of(args.desc)->n_rows) route_row<N>(args, i);
}

/* ---- grouping ---- */

struct group_shared {
    uint32_t count[GROUP_THREADS]; /* parts, then the place of the next one */
    uint32_t parts[GROUP_THREADS / 32], tiles[GROUP_THREADS / 32]; /* of a warp's groups */
};

/* Groups of this thread's next BATCH parts, from `first` on in steps of the block; UINT32_MAX
 * beyond the last part, or if its row takes no part. */
static __device__ __forceinline__ void load_groups(const cu_moe &moe, const cu_row *rows,
                                                   uint32_t n_parts, uint32_t first,
                                                   uint32_t group[BATCH]) {
    uint16_t flags[BATCH];
#pragma unroll
    for (uint32_t b = 0; b < BATCH; b++) {
        uint32_t part = first + b * blockDim.x, row = part / moe.parts_per_row;
        uint32_t k = part - row * moe.parts_per_row;
        bool there = part < n_parts, picked = k < moe.top_k;
        flags[b] = there ? rows[row].flags & moe.no_output : (uint16_t)1;
        group[b] = there && picked ? moe.pick[row * moe.top_k + k] : moe.n_experts + k - moe.top_k;
        if (!picked && k - moe.top_k >= moe.n_shared_groups) group[b] = UINT32_MAX;
    }
#pragma unroll
    for (int b = 0; b < BATCH; b++) {
        if (flags[b]) group[b] = UINT32_MAX;
    }
}

/* Inclusive sum over the warp. */
static __device__ __forceinline__ uint32_t sum_below(uint32_t value) {
    uint32_t lane = threadIdx.x & 31;
    for (uint32_t step = 1; step < 32; step <<= 1) {
        uint32_t below = __shfl_up_sync(0xffffffffu, value, step);
        if (lane >= step) value += below;
    }
    return value;
}

/* The sum of of_warp[0] to of_warp[n - 1], n <= 32. */
static __device__ __forceinline__ uint32_t sum_of(const uint32_t *of_warp, uint32_t n) {
    uint32_t lane = threadIdx.x & 31;
    return __shfl_sync(0xffffffffu, sum_below(lane < n ? of_warp[lane] : 0), 31);
}

/* Thread g has group g: its tiles of at most CU_TILE_ROWS parts; its count becomes the place of its
 * first part. */
static __device__ __forceinline__ void put_tiles(const cu_moe &moe, group_shared *sh) {
    uint32_t id = threadIdx.x, warp = id >> 5, lane = id & 31;
    uint32_t n = sh->count[id], n_tiles = (n + CU_TILE_ROWS - 1) / CU_TILE_ROWS;
    uint32_t parts = sum_below(n), tiles = sum_below(n_tiles);
    if (lane == 31) {
        sh->parts[warp] = parts;
        sh->tiles[warp] = tiles;
    }
    __syncthreads();
    uint32_t first = sum_of(sh->parts, warp) + parts - n;
    uint32_t at = sum_of(sh->tiles, warp) + tiles - n_tiles;
    sh->count[id] = first;
    if (id == blockDim.x - 1)
        *moe.n_tiles = at + n_tiles < moe.max_tiles ? at + n_tiles : moe.max_tiles;
    for (uint32_t t = 0; t < n_tiles && at + t < moe.max_tiles; t++) {
        uint32_t left = n - t * CU_TILE_ROWS;
        moe.tiles[at + t] = {id, first + t * CU_TILE_ROWS,
                             left < CU_TILE_ROWS ? left : (uint32_t)CU_TILE_ROWS};
    }
    __syncthreads();
}

/* By one thread block: counts, offsets, the sorted parts and tiles. The counts are 0, behind a
 * barrier. The order of parts within a group is free: no result depends on it. */
static __device__ __forceinline__ void group_rows(const cu_route_args &args, group_shared *sh) {
    const cu_moe &moe = args.moe;
    const cu_row *rows = rows_of(args.desc);
    uint32_t n = head_of(args.desc)->n_rows * moe.parts_per_row, step = BATCH * blockDim.x;
    uint32_t group[BATCH];
    for (uint32_t first = threadIdx.x; first < n; first += step) {
        load_groups(moe, rows, n, first, group);
#pragma unroll
        for (int b = 0; b < BATCH; b++) {
            if (group[b] != UINT32_MAX) atomicAdd(&sh->count[group[b]], 1u);
        }
    }
    __syncthreads();
    put_tiles(moe, sh);
    for (uint32_t first = threadIdx.x; first < n; first += step) {
        if (n > step) load_groups(moe, rows, n, first, group);
#pragma unroll
        for (uint32_t b = 0; b < BATCH; b++) {
            if (group[b] == UINT32_MAX) continue;
            moe.order[atomicAdd(&sh->count[group[b]], 1u)] = first + b * blockDim.x;
        }
    }
}

/* Alone on the device, so it may have the registers of a whole multiprocessor. */
static __global__ void __launch_bounds__(GROUP_THREADS, 1) moe_group(cu_route_args args) {
    DYNAMIC_SHARED(shared);
    group_shared *sh = (group_shared *)shared;
    sh->count[threadIdx.x] = 0;
    kernel_scope scope(args.stamp);
    __syncthreads();
    group_rows(args, sh);
}

template <int N>
static __global__ void __launch_bounds__(GROUP_THREADS, 1) moe_assign(cu_route_args args) {
    DYNAMIC_SHARED(shared);
    group_shared *sh = (group_shared *)shared;
    sh->count[threadIdx.x] = 0;
    kernel_scope scope(args.stamp);
    uint32_t n = head_of(args.desc)->n_rows;
    for (uint32_t i = threadIdx.x >> 5; i < n; i += blockDim.x >> 5)
        route_row<N>(args, i);
    __syncthreads();
    group_rows(args, sh);
}

/* ---- launchers ---- */

extern "C" cudaError_t cu_moe_route(cudaStream_t stream, const cu_route_args *args, uint32_t rows) {
    uint32_t blocks = cu_ceil_div(rows, ROUTE_WARPS), threads = 32 * ROUTE_WARPS;
    if (args->moe.n_experts <= 64) return LAUNCH(moe_route<2>, blocks, threads, 0, stream, *args);
    if (args->moe.n_experts <= 256) return LAUNCH(moe_route<8>, blocks, threads, 0, stream, *args);
    return LAUNCH(moe_route<32>, blocks, threads, 0, stream, *args);
}

extern "C" cudaError_t cu_moe_group(cudaStream_t stream, const cu_route_args *args) {
    uint32_t bytes = sizeof(group_shared);
    return LAUNCH(moe_group, 1, GROUP_THREADS, bytes, stream, *args);
}

/* A warp for each row, a thread for each group. */
extern "C" cudaError_t cu_moe_assign(cudaStream_t stream, const cu_route_args *args,
                                     uint32_t rows) {
    uint32_t groups = args->moe.n_experts + args->moe.n_shared_groups, bytes = sizeof(group_shared);
    uint32_t threads = cu_ceil_div(groups, 32) * 32;
    if (threads < 32 * rows) threads = 32 * rows;
    if (threads > GROUP_THREADS) threads = GROUP_THREADS;
    if (args->moe.n_experts <= 64) return LAUNCH(moe_assign<2>, 1, threads, bytes, stream, *args);
    if (args->moe.n_experts > CU_ASSIGN_EXPERTS) return cudaErrorInvalidValue;
    return LAUNCH(moe_assign<8>, 1, threads, bytes, stream, *args);
}
