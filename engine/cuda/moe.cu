/* moe.cu - which experts a row goes to, and the rows of each expert.
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
static __device__ __forceinline__ void load_candidates(candidates<N> &c, const cu_route_args &a,
                                                       uint32_t row) {
    const float *logits = a.logits + (uint64_t)row * a.moe.n_experts;
    float bias[N];
#pragma unroll
    for (int j = 0; j < N; j++) {
        uint32_t e = (threadIdx.x & 31) + 32 * j;
        bias[j] = e < a.moe.n_experts ? a.bias[e] : 0.0f;
        c.logit[j] = e < a.moe.n_experts ? logits[e] : 0.0f;
    }
#pragma unroll
    for (int j = 0; j < N; j++)
        c.biased[j] = c.logit[j] + bias[j];
}

/* The best expert of those not `taken` (bit j: expert lane + 32 j), with its logit in every lane.
 */
template <int N>
static __device__ __forceinline__ uint32_t pick_best(const candidates<N> &c, uint32_t n,
                                                     uint32_t *taken, float *logit) {
    uint32_t lane = threadIdx.x & 31, id = UINT32_MAX;
    float best = -INFINITY, own = 0.0f;
#pragma unroll
    for (int j = 0; j < N; j++) {
        uint32_t e = lane + 32 * j;
        bool free = e < n && !(*taken >> j & 1u);
        if (free && (id == UINT32_MAX || rm_expert_before(c.biased[j], e, best, id))) {
            best = c.biased[j];
            own = c.logit[j];
            id = e;
        }
    }
    for (int step = 16; step > 0; step >>= 1) {
        float v = __shfl_xor_sync(0xffffffffu, best, step);
        float l = __shfl_xor_sync(0xffffffffu, own, step);
        uint32_t e = __shfl_xor_sync(0xffffffffu, id, step);
        bool wins = e != UINT32_MAX && (id == UINT32_MAX || rm_expert_before(v, e, best, id));
        best = wins ? v : best;
        own = wins ? l : own;
        id = wins ? e : id;
    }
    if ((id & 31) == lane) *taken |= 1u << (id >> 5);
    *logit = own;
    return id;
}

/* The top_k experts of a row by logit + bias, weighed by the logits alone. Pick k stays with lane
 * k % 32, so that the exponentials are taken side by side. */
template <int N>
static __device__ __forceinline__ void route_row(const cu_route_args &a, uint32_t row) {
    uint32_t lane = threadIdx.x & 31, top_k = a.moe.top_k, taken = 0;
    uint32_t *pick = a.moe.pick + (uint64_t)row * top_k;
    float *weight = a.moe.weight + (uint64_t)row * top_k;
    candidates<N> c;
    float mine[N] = {}, top = -INFINITY, sum = 0.0f;
    load_candidates(c, a, row);
    for (uint32_t k = 0; k < top_k; k++) {
        float logit;
        uint32_t id = pick_best(c, a.moe.n_experts, &taken, &logit);
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
static __global__ void __launch_bounds__(32 * ROUTE_WARPS) moe_route(cu_route_args a) {
    kernel_scope scope(a.stamp);
    uint32_t i = blockIdx.x * ROUTE_WARPS + (threadIdx.x >> 5);
    if (i < head_of(a.desc)->n_rows) route_row<N>(a, i);
}

/* ---- grouping ---- */

struct group_shared {
    uint32_t count[GROUP_THREADS]; /* parts, then where the next one goes */
    uint32_t parts[GROUP_THREADS / 32], tiles[GROUP_THREADS / 32]; /* of a warp's groups */
};

/* Groups of this thread's next BATCH parts, from `first` on in steps of the block; UINT32_MAX where
 * there is none or its row takes no part. */
static __device__ __forceinline__ void load_groups(const cu_moe &m, const cu_row *rows,
                                                   uint32_t n_parts, uint32_t first,
                                                   uint32_t group[BATCH]) {
    uint16_t flags[BATCH];
#pragma unroll
    for (uint32_t b = 0; b < BATCH; b++) {
        uint32_t part = first + b * blockDim.x, row = part / m.parts_per_row;
        uint32_t k = part - row * m.parts_per_row;
        bool there = part < n_parts, picked = k < m.top_k;
        flags[b] = there ? rows[row].flags : (uint16_t)CU_ROW_KV_ONLY;
        group[b] = there && picked ? m.pick[row * m.top_k + k] : m.n_experts + k - m.top_k;
        if (!picked && k - m.top_k >= m.n_shared_groups) group[b] = UINT32_MAX;
    }
#pragma unroll
    for (int b = 0; b < BATCH; b++) {
        if (flags[b] & CU_ROW_KV_ONLY) group[b] = UINT32_MAX;
    }
}

/* Inclusive sum over the warp. */
static __device__ __forceinline__ uint32_t sum_below(uint32_t v) {
    uint32_t lane = threadIdx.x & 31;
    for (uint32_t step = 1; step < 32; step <<= 1) {
        uint32_t below = __shfl_up_sync(0xffffffffu, v, step);
        if (lane >= step) v += below;
    }
    return v;
}

/* The sum of v[0] to v[n - 1], n <= 32. */
static __device__ __forceinline__ uint32_t sum_of(const uint32_t *v, uint32_t n) {
    uint32_t lane = threadIdx.x & 31;
    return __shfl_sync(0xffffffffu, sum_below(lane < n ? v[lane] : 0), 31);
}

/* Thread g has group g: its tiles of at most CU_TILE_ROWS parts; its count becomes the place of its
 * first part. */
static __device__ __forceinline__ void put_tiles(const cu_moe &m, group_shared *sh) {
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
    if (id == blockDim.x - 1) *m.n_tiles = at + n_tiles < m.max_tiles ? at + n_tiles : m.max_tiles;
    for (uint32_t t = 0; t < n_tiles && at + t < m.max_tiles; t++) {
        uint32_t left = n - t * CU_TILE_ROWS;
        m.tiles[at + t] = {id, first + t * CU_TILE_ROWS,
                           left < CU_TILE_ROWS ? left : (uint32_t)CU_TILE_ROWS};
    }
    __syncthreads();
}

/* By one thread block: counts, offsets, the sorted parts and tiles. The counts are 0, behind a
 * barrier. The order of parts within a group is free: no result depends on it. */
static __device__ __forceinline__ void group_rows(const cu_route_args &a, group_shared *sh) {
    const cu_moe &m = a.moe;
    const cu_row *rows = rows_of(a.desc);
    uint32_t n = head_of(a.desc)->n_rows * m.parts_per_row, step = BATCH * blockDim.x;
    uint32_t group[BATCH];
    for (uint32_t first = threadIdx.x; first < n; first += step) {
        load_groups(m, rows, n, first, group);
#pragma unroll
        for (int b = 0; b < BATCH; b++) {
            if (group[b] != UINT32_MAX) atomicAdd(&sh->count[group[b]], 1u);
        }
    }
    __syncthreads();
    put_tiles(m, sh);
    for (uint32_t first = threadIdx.x; first < n; first += step) {
        if (n > step) load_groups(m, rows, n, first, group);
#pragma unroll
        for (uint32_t b = 0; b < BATCH; b++) {
            if (group[b] == UINT32_MAX) continue;
            m.order[atomicAdd(&sh->count[group[b]], 1u)] = first + b * blockDim.x;
        }
    }
}

/* Alone on the device, so it may have the registers of a whole multiprocessor. */
static __global__ void __launch_bounds__(GROUP_THREADS, 1) moe_group(cu_route_args a) {
    DYNAMIC_SHARED(shared);
    group_shared *sh = (group_shared *)shared;
    sh->count[threadIdx.x] = 0;
    kernel_scope scope(a.stamp);
    __syncthreads();
    group_rows(a, sh);
}

template <int N>
static __global__ void __launch_bounds__(GROUP_THREADS, 1) moe_assign(cu_route_args a) {
    DYNAMIC_SHARED(shared);
    group_shared *sh = (group_shared *)shared;
    sh->count[threadIdx.x] = 0;
    kernel_scope scope(a.stamp);
    uint32_t n = head_of(a.desc)->n_rows;
    for (uint32_t i = threadIdx.x >> 5; i < n; i += blockDim.x >> 5)
        route_row<N>(a, i);
    __syncthreads();
    group_rows(a, sh);
}

/* ---- launchers ---- */

extern "C" cudaError_t cu_moe_route(cudaStream_t s, const cu_route_args *a, uint32_t rows) {
    uint32_t blocks = cu_ceil_div(rows, ROUTE_WARPS), threads = 32 * ROUTE_WARPS;
    if (a->moe.n_experts <= 64) return LAUNCH(moe_route<2>, blocks, threads, 0, s, *a);
    if (a->moe.n_experts <= 256) return LAUNCH(moe_route<8>, blocks, threads, 0, s, *a);
    return LAUNCH(moe_route<32>, blocks, threads, 0, s, *a);
}

extern "C" cudaError_t cu_moe_group(cudaStream_t s, const cu_route_args *a) {
    uint32_t bytes = sizeof(group_shared);
    return LAUNCH(moe_group, 1, GROUP_THREADS, bytes, s, *a);
}

/* A warp for each row, a thread for each group. */
extern "C" cudaError_t cu_moe_assign(cudaStream_t s, const cu_route_args *a, uint32_t rows) {
    uint32_t groups = a->moe.n_experts + a->moe.n_shared_groups, bytes = sizeof(group_shared);
    uint32_t threads = cu_ceil_div(groups, 32) * 32;
    if (threads < 32 * rows) threads = 32 * rows;
    if (threads > GROUP_THREADS) threads = GROUP_THREADS;
    if (a->moe.n_experts <= 64) return LAUNCH(moe_assign<2>, 1, threads, bytes, s, *a);
    if (a->moe.n_experts > CU_ASSIGN_EXPERTS) return cudaErrorInvalidValue;
    return LAUNCH(moe_assign<8>, 1, threads, bytes, s, *a);
}
