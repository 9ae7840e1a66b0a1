/* moe.cu - which experts a row goes to, and the rows of each expert. */
#include "engine/cuda/common.cuh"

enum { ROUTE_THREADS = 128, GROUP_THREADS = 1024 };

/* A warp per row: the top_k experts by logit + bias, weighed by the logits alone. */
static __global__ void __launch_bounds__(ROUTE_THREADS) moe_route(cu_route_args a) {
    kernel_scope scope(a.stamp);
    uint32_t lane = threadIdx.x & 31;
    uint32_t i = blockIdx.x * (ROUTE_THREADS / 32) + (threadIdx.x >> 5);
    if (i >= head_of(a.desc)->n_rows) return; /* whole warps */
    const float *logits = a.logits + (uint64_t)i * a.moe.n_experts;
    uint32_t *pick = a.moe.pick + (uint64_t)i * a.moe.top_k;
    float *weight = a.moe.weight + (uint64_t)i * a.moe.top_k;
    uint32_t taken = 0; /* bit j: expert lane + 32 j is picked already */
    for (uint32_t k = 0; k < a.moe.top_k; k++) {
        float best = -INFINITY;
        uint32_t id = UINT32_MAX;
        for (uint32_t j = 0, e = lane; e < a.moe.n_experts; e += 32, j++) {
            float v = logits[e] + a.bias[e];
            if (!(taken >> j & 1u) && (id == UINT32_MAX || rm_expert_before(v, e, best, id))) {
                best = v;
                id = e;
            }
        }
        for (int step = 16; step > 0; step >>= 1) {
            float v = __shfl_xor_sync(0xffffffffu, best, step);
            uint32_t e = __shfl_xor_sync(0xffffffffu, id, step);
            bool wins = e != UINT32_MAX && (id == UINT32_MAX || rm_expert_before(v, e, best, id));
            best = wins ? v : best;
            id = wins ? e : id;
        }
        if ((id & 31) == lane) taken |= 1u << (id >> 5);
        if (lane == 0) pick[k] = id;
    }
    __syncwarp();
    if (lane != 0) return;
    float top = -INFINITY, sum = 0.0f;
    for (uint32_t k = 0; k < a.moe.top_k; k++)
        top = fmaxf(top, logits[pick[k]]);
    for (uint32_t k = 0; k < a.moe.top_k; k++)
        sum += expf(logits[pick[k]] - top);
    for (uint32_t k = 0; k < a.moe.top_k; k++)
        weight[k] = rm_expert_weight(logits[pick[k]], top, sum);
}

/* Part -> group, or UINT32_MAX for a row that takes no part. */
static __device__ __forceinline__ uint32_t part_group(const cu_moe &m, const cu_row *rows,
                                                      uint32_t part) {
    uint32_t row = part / m.parts_per_row, k = part % m.parts_per_row;
    if (rows[row].flags & CU_ROW_KV_ONLY) return UINT32_MAX;
    if (k < m.top_k) return m.pick[row * m.top_k + k];
    return k - m.top_k < m.n_shared_groups ? m.n_experts + k - m.top_k : UINT32_MAX;
}

/* One block: counts, offsets, the sorted parts, and tiles of at most CU_TILE_ROWS. The order
 * of parts within a group is free: no result depends on it. */
static __global__ void __launch_bounds__(GROUP_THREADS) moe_group(cu_route_args a) {
    kernel_scope scope(a.stamp);
    DYNAMIC_SHARED(shared);
    const cu_moe m = a.moe;
    uint32_t *count = (uint32_t *)shared, *first = count + GROUP_THREADS,
             *tile = first + GROUP_THREADS;
    uint32_t id = threadIdx.x, groups = m.n_experts + m.n_shared_groups;
    const cu_row *rows = rows_of(a.desc);
    uint32_t parts = head_of(a.desc)->n_rows * m.parts_per_row;
    count[id] = 0;
    __syncthreads();
    for (uint32_t p = id; p < parts; p += GROUP_THREADS) {
        uint32_t g = part_group(m, rows, p);
        if (g < groups) atomicAdd(&count[g], 1u);
    }
    __syncthreads();
    uint32_t mine = count[id], my_tiles = (mine + CU_TILE_ROWS - 1) / CU_TILE_ROWS;
    first[id] = mine;
    tile[id] = my_tiles;
    for (uint32_t step = 1; step < GROUP_THREADS; step <<= 1) { /* inclusive sums */
        __syncthreads();
        uint32_t f = id >= step ? first[id - step] : 0, t = id >= step ? tile[id - step] : 0;
        __syncthreads();
        first[id] += f;
        tile[id] += t;
    }
    __syncthreads();
    if (id == GROUP_THREADS - 1) *m.n_tiles = tile[id] < m.max_tiles ? tile[id] : m.max_tiles;
    uint32_t start = first[id] - mine, at = tile[id] - my_tiles;
    for (uint32_t t = 0; t < my_tiles && at + t < m.max_tiles; t++) {
        cu_moe_tile *to = &m.tiles[at + t];
        to->group = id;
        to->first = start + t * CU_TILE_ROWS;
        uint32_t left = mine - t * CU_TILE_ROWS;
        to->n = left < CU_TILE_ROWS ? left : (uint32_t)CU_TILE_ROWS;
    }
    count[id] = start; /* from here on: where the group's next part goes */
    __syncthreads();
    for (uint32_t p = id; p < parts; p += GROUP_THREADS) {
        uint32_t g = part_group(m, rows, p);
        if (g < groups) m.order[atomicAdd(&count[g], 1u)] = p;
    }
}

extern "C" cudaError_t cu_moe_route(cudaStream_t s, const cu_route_args *a, uint32_t rows) {
    return LAUNCH(moe_route, cu_ceil_div(rows, ROUTE_THREADS / 32), ROUTE_THREADS, 0, s, *a);
}

extern "C" cudaError_t cu_moe_group(cudaStream_t s, const cu_route_args *a) {
    return LAUNCH(moe_group, 1, GROUP_THREADS, 3 * GROUP_THREADS * 4, s, *a);
}
