/* mm_tokens.cuh - the tokens of a product, the places of their values, and their weights: one
 * struct for each way of gathering, as template arguments of the kernels in mm.cu.
 *
 * Work comes in tiles of up to CU_TILE_ROWS tokens for the same matrix. */
#ifndef FATHOM_ENGINE_CUDA_MM_TOKENS_CUH
#define FATHOM_ENGINE_CUDA_MM_TOKENS_CUH

#include "engine/cuda/common.cuh"

/* n tokens of one group of weights. */
struct mm_tile {
    uint32_t group, n;
    uint32_t first; /* token, or index into moe.order */
};

/* Looked up by a thread block for a tile's tokens. */
struct mm_rows {
    uint32_t x_row[CU_TILE_ROWS], y_row[CU_TILE_ROWS]; /* experts */
    float scale[CU_TILE_ROWS];                         /* experts, on the way out */
    uint32_t pos[CU_TILE_ROWS];                        /* queries */
};

template <typename ACT> struct mm_weights {
    const ACT *w; /* of the group's first row */
    uint32_t ld;
};

/* The tile numbered `tile` of a launch's `tokens`. */
static __device__ __forceinline__ mm_tile tile_of_rows(uint32_t tokens, uint32_t tile,
                                                       uint32_t group) {
    uint32_t first = tile * CU_TILE_ROWS, left = tokens - first;
    return {group, left < CU_TILE_ROWS ? left : (uint32_t)CU_TILE_ROWS, first};
}

/* One matrix; tokens are the launch's rows, or its rows with logits. */
struct mm_dense {
    static constexpr bool KNOWN = true; /* weights are known from the arguments alone */

    static __device__ __forceinline__ uint32_t tokens(const cu_mm_args &args) {
        return args.map == CU_MAP_LOGITS ? head_of(args.desc)->n_logits
                                         : head_of(args.desc)->n_rows;
    }
    static __device__ __forceinline__ uint32_t tiles(const cu_mm_args &args) {
        return (tokens(args) + CU_TILE_ROWS - 1) / CU_TILE_ROWS;
    }
    static __device__ __forceinline__ uint32_t group(const cu_mm_args &, uint32_t) { return 0; }
    static __device__ __forceinline__ mm_tile tile(const cu_mm_args &args, uint32_t index) {
        return tile_of_rows(tokens(args), index, 0);
    }
    static __device__ __forceinline__ void look_up(const cu_mm_args &, const mm_tile &, mm_rows *) {
    }
    template <typename ACT>
    static __device__ __forceinline__ mm_weights<ACT> weights(const cu_mm_args &args, uint32_t) {
        return {(const ACT *)args.w, args.ldw};
    }
    static __device__ __forceinline__ cache_policy policy(const cu_mm_args &args, uint32_t,
                                                          uint32_t row) {
        return row < args.keep_rows ? CACHE_KEEP : CACHE_NORMAL;
    }
    template <typename ACT>
    static __device__ __forceinline__ const ACT *x(const cu_mm_args &args, const mm_tile &tile,
                                                   const mm_rows *, uint32_t token) {
        return (const ACT *)args.x + (uint64_t)(tile.first + token) * args.ldx;
    }
    static __device__ __forceinline__ uint64_t y(const cu_mm_args &args, const mm_tile &tile,
                                                 const mm_rows *, uint32_t token) {
        return (uint64_t)(tile.first + token) * args.ldy;
    }
    static __device__ __forceinline__ float scale(const mm_rows *, uint32_t) { return 1.0f; }
};

/* A matrix for each head; every row meets all of them. Tiles of the same rows follow each other. */
struct mm_heads : mm_dense {
    static __device__ __forceinline__ uint32_t tiles(const cu_mm_args &args) {
        return mm_dense::tiles(args) * args.groups;
    }
    static __device__ __forceinline__ uint32_t group(const cu_mm_args &args, uint32_t index) {
        return index % args.groups;
    }
    static __device__ __forceinline__ mm_tile tile(const cu_mm_args &args, uint32_t index) {
        return tile_of_rows(tokens(args), index / args.groups, index % args.groups);
    }
    template <typename ACT>
    static __device__ __forceinline__ mm_weights<ACT> weights(const cu_mm_args &args,
                                                              uint32_t group) {
        return {(const ACT *)args.w + group * args.w_group, args.ldw};
    }
    template <typename ACT>
    static __device__ __forceinline__ const ACT *x(const cu_mm_args &args, const mm_tile &tile,
                                                   const mm_rows *sh, uint32_t token) {
        return mm_dense::x<ACT>(args, tile, sh, token) + (uint64_t)tile.group * args.x_group;
    }
    static __device__ __forceinline__ uint64_t y(const cu_mm_args &args, const mm_tile &tile,
                                                 const mm_rows *sh, uint32_t token) {
        return mm_dense::y(args, tile, sh, token) + (uint64_t)tile.group * args.y_group;
    }
};

/* The parts sorted by expert, into the experts or OUT of them. */
template <bool OUT> struct mm_parts {
    static constexpr bool KNOWN = false;

    static __device__ __forceinline__ uint32_t tiles(const cu_mm_args &args) {
        return *args.moe.n_tiles;
    }
    static __device__ __forceinline__ uint32_t group(const cu_mm_args &args, uint32_t index) {
        return args.moe.tiles[index].group;
    }
    static __device__ __forceinline__ mm_tile tile(const cu_mm_args &args, uint32_t index) {
        cu_moe_tile tile = args.moe.tiles[index];
        return {tile.group, tile.n, tile.first};
    }
    static __device__ __forceinline__ void look_up(const cu_mm_args &args, const mm_tile &tile,
                                                   mm_rows *sh) {
        uint32_t i = threadIdx.x;
        if (i >= tile.n) return;
        uint32_t part = args.moe.order[tile.first + i];
        uint32_t row = part / args.moe.parts_per_row, k = part % args.moe.parts_per_row;
        sh->x_row[i] = OUT ? part : row;
        sh->y_row[i] = part;
        if (OUT)
            sh->scale[i] = k < args.moe.top_k ? args.moe.weight[row * args.moe.top_k + k] : 1.0f;
    }
    template <typename ACT>
    static __device__ __forceinline__ mm_weights<ACT> weights(const cu_mm_args &args,
                                                              uint32_t group) {
        if (group < args.moe.n_experts)
            return {(const ACT *)args.w + group * args.w_group, args.ldw};
        return {(const ACT *)args.w_shared + (group - args.moe.n_experts) * args.w_shared_group,
                args.ldw_shared};
    }
    /* Another loop picks other experts, but reads the always-on ones again. */
    static __device__ __forceinline__ cache_policy policy(const cu_mm_args &args, uint32_t group,
                                                          uint32_t row) {
        if (group < args.moe.n_experts) return args.pass_experts ? CACHE_EVICT_FIRST : CACHE_NORMAL;
        return row < args.keep_rows ? CACHE_KEEP : CACHE_NORMAL;
    }
    template <typename ACT>
    static __device__ __forceinline__ const ACT *x(const cu_mm_args &args, const mm_tile &,
                                                   const mm_rows *sh, uint32_t token) {
        return (const ACT *)args.x + (uint64_t)sh->x_row[token] * args.ldx;
    }
    static __device__ __forceinline__ uint64_t y(const cu_mm_args &args, const mm_tile &,
                                                 const mm_rows *sh, uint32_t token) {
        return (uint64_t)sh->y_row[token] * args.ldy;
    }
    static __device__ __forceinline__ float scale(const mm_rows *sh, uint32_t token) {
        return OUT ? sh->scale[token] : 1.0f;
    }
};

#endif
