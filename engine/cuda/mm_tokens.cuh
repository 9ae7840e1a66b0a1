/* mm_tokens.cuh - which tokens a product takes, where their values are, and which weights they
 * meet: one struct for each way of gathering, as template arguments of the kernels in mm.cu.
 *
 * Work comes in tiles of up to CU_TILE_ROWS tokens that meet the same matrix. */
#ifndef FATHOM_ENGINE_CUDA_MM_TOKENS_CUH
#define FATHOM_ENGINE_CUDA_MM_TOKENS_CUH

#include "engine/cuda/common.cuh"

/* n tokens of one group of weights. */
struct mm_tile {
    uint32_t group, n;
    uint32_t first; /* token, or index into moe.order */
};

/* What a thread block looks up about a tile's tokens. */
struct mm_rows {
    uint32_t x_row[CU_TILE_ROWS], y_row[CU_TILE_ROWS]; /* experts */
    float scale[CU_TILE_ROWS];                         /* experts, on the way out */
    uint32_t pos[CU_TILE_ROWS];                        /* queries */
};

template <typename A> struct mm_weights {
    const A *w; /* of the group's first row */
    uint32_t ld;
};

/* Rows [first, first + n) of what the launch counts as `tokens`. */
static __device__ __forceinline__ mm_tile tile_of_rows(uint32_t tokens, uint32_t tile,
                                                       uint32_t group) {
    uint32_t first = tile * CU_TILE_ROWS, left = tokens - first;
    return {group, left < CU_TILE_ROWS ? left : (uint32_t)CU_TILE_ROWS, first};
}

/* One matrix; tokens are the launch's rows, or those with logits. */
struct mm_dense {
    static constexpr bool KNOWN = true; /* weights are known from the arguments alone */

    static __device__ __forceinline__ uint32_t tokens(const cu_mm_args &a) {
        return a.map == CU_MAP_LOGITS ? head_of(a.desc)->n_logits : head_of(a.desc)->n_rows;
    }
    static __device__ __forceinline__ uint32_t tiles(const cu_mm_args &a) {
        return (tokens(a) + CU_TILE_ROWS - 1) / CU_TILE_ROWS;
    }
    static __device__ __forceinline__ uint32_t group(const cu_mm_args &, uint32_t) { return 0; }
    static __device__ __forceinline__ mm_tile tile(const cu_mm_args &a, uint32_t t) {
        return tile_of_rows(tokens(a), t, 0);
    }
    static __device__ __forceinline__ void look_up(const cu_mm_args &, const mm_tile &, mm_rows *) {
    }
    template <typename A>
    static __device__ __forceinline__ mm_weights<A> weights(const cu_mm_args &a, uint32_t) {
        return {(const A *)a.w, a.ldw};
    }
    static __device__ __forceinline__ cache_policy policy(const cu_mm_args &a, uint32_t,
                                                          uint32_t row) {
        return row < a.keep_rows ? CACHE_KEEP : CACHE_NORMAL;
    }
    template <typename A>
    static __device__ __forceinline__ const A *x(const cu_mm_args &a, const mm_tile &t,
                                                 const mm_rows *, uint32_t token) {
        return (const A *)a.x + (uint64_t)(t.first + token) * a.ldx;
    }
    static __device__ __forceinline__ uint64_t y(const cu_mm_args &a, const mm_tile &t,
                                                 const mm_rows *, uint32_t token) {
        return (uint64_t)(t.first + token) * a.ldy;
    }
    static __device__ __forceinline__ float scale(const mm_rows *, uint32_t) { return 1.0f; }
};

/* A matrix for each head; every row meets all of them. Tiles of the same rows follow each other. */
struct mm_heads : mm_dense {
    static __device__ __forceinline__ uint32_t tiles(const cu_mm_args &a) {
        return mm_dense::tiles(a) * a.groups;
    }
    static __device__ __forceinline__ uint32_t group(const cu_mm_args &a, uint32_t t) {
        return t % a.groups;
    }
    static __device__ __forceinline__ mm_tile tile(const cu_mm_args &a, uint32_t t) {
        return tile_of_rows(tokens(a), t / a.groups, t % a.groups);
    }
    template <typename A>
    static __device__ __forceinline__ mm_weights<A> weights(const cu_mm_args &a, uint32_t group) {
        return {(const A *)a.w + group * a.w_group, a.ldw};
    }
    template <typename A>
    static __device__ __forceinline__ const A *x(const cu_mm_args &a, const mm_tile &t,
                                                 const mm_rows *sh, uint32_t token) {
        return mm_dense::x<A>(a, t, sh, token) + (uint64_t)t.group * a.x_group;
    }
    static __device__ __forceinline__ uint64_t y(const cu_mm_args &a, const mm_tile &t,
                                                 const mm_rows *sh, uint32_t token) {
        return mm_dense::y(a, t, sh, token) + (uint64_t)t.group * a.y_group;
    }
};

/* The parts that the router sorted by expert, into the experts or OUT of them. */
template <bool OUT> struct mm_parts {
    static constexpr bool KNOWN = false;

    static __device__ __forceinline__ uint32_t tiles(const cu_mm_args &a) { return *a.moe.n_tiles; }
    static __device__ __forceinline__ uint32_t group(const cu_mm_args &a, uint32_t t) {
        return a.moe.tiles[t].group;
    }
    static __device__ __forceinline__ mm_tile tile(const cu_mm_args &a, uint32_t t) {
        cu_moe_tile m = a.moe.tiles[t];
        return {m.group, m.n, m.first};
    }
    static __device__ __forceinline__ void look_up(const cu_mm_args &a, const mm_tile &t,
                                                   mm_rows *sh) {
        uint32_t i = threadIdx.x;
        if (i >= t.n) return;
        uint32_t part = a.moe.order[t.first + i];
        uint32_t row = part / a.moe.parts_per_row, k = part % a.moe.parts_per_row;
        sh->x_row[i] = OUT ? part : row;
        sh->y_row[i] = part;
        if (OUT) sh->scale[i] = k < a.moe.top_k ? a.moe.weight[row * a.moe.top_k + k] : 1.0f;
    }
    template <typename A>
    static __device__ __forceinline__ mm_weights<A> weights(const cu_mm_args &a, uint32_t group) {
        if (group < a.moe.n_experts) return {(const A *)a.w + group * a.w_group, a.ldw};
        return {(const A *)a.w_shared + (group - a.moe.n_experts) * a.w_shared_group, a.ldw_shared};
    }
    /* Another loop picks other experts, but reads the always-on ones again. */
    static __device__ __forceinline__ cache_policy policy(const cu_mm_args &a, uint32_t group,
                                                          uint32_t row) {
        if (group < a.moe.n_experts) return a.pass_experts ? CACHE_EVICT_FIRST : CACHE_NORMAL;
        return row < a.keep_rows ? CACHE_KEEP : CACHE_NORMAL;
    }
    template <typename A>
    static __device__ __forceinline__ const A *x(const cu_mm_args &a, const mm_tile &,
                                                 const mm_rows *sh, uint32_t token) {
        return (const A *)a.x + (uint64_t)sh->x_row[token] * a.ldx;
    }
    static __device__ __forceinline__ uint64_t y(const cu_mm_args &a, const mm_tile &,
                                                 const mm_rows *sh, uint32_t token) {
        return (uint64_t)sh->y_row[token] * a.ldy;
    }
    static __device__ __forceinline__ float scale(const mm_rows *sh, uint32_t token) {
        return OUT ? sh->scale[token] : 1.0f;
    }
};

#endif
