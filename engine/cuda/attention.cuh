/* attention.cuh - what the attention kernels share: ranges of keys, slots, and one warp's step
 * of attention with online softmax.
 *
 * Sums are kept by maxima in powers of two: a score times log2(e), so that a weight is one
 * ex2 instruction. Parts that leave a kernel for cu_attn_merge carry natural maxima. */
#ifndef FATHOM_ENGINE_CUDA_ATTENTION_CUH
#define FATHOM_ENGINE_CUDA_ATTENTION_CUH

#include "engine/cuda/common.cuh"

#define LOG2E 1.44269504088896f
#define LN2 0.69314718055995f

/* Key tiles [first, last) of one split, for a context of `keys` positions. */
struct key_range {
    uint32_t first, last;
};
static __device__ __forceinline__ key_range split_range(const cu_attn_args &a, uint32_t keys,
                                                        uint32_t split) {
    uint32_t tiles = (keys + CU_ATTN_KEYS - 1) / CU_ATTN_KEYS;
    uint32_t per = a.split_tiles ? a.split_tiles : rm_tiles_per_split(tiles, a.splits);
    key_range r;
    r.first = split * per;
    r.last = r.first + per < tiles ? r.first + per : tiles;
    return r;
}

/* Splits of such a context that have any tile. */
static __device__ __forceinline__ uint32_t splits_used(const cu_attn_args &a, uint32_t keys) {
    uint32_t tiles = (keys + CU_ATTN_KEYS - 1) / CU_ATTN_KEYS;
    return a.split_tiles ? rm_tiles_per_split(tiles, a.split_tiles)
                         : rm_splits_used(tiles, a.splits);
}

/* The slot of position `key` below `keys` at `plane` of the block table that starts at entry
 * `table`; RM_NO_SLOT beyond, and where the map is wrong, which is flagged. */
static __device__ __forceinline__ uint32_t slot_of(const void *desc, const cu_cache &c,
                                                   uint32_t table, uint32_t plane, uint32_t key,
                                                   uint32_t keys) {
    if (key >= keys) return RM_NO_SLOT;
    uint32_t slot = rm_slot(c.maps, tables_of(desc) + table, c.n_planes, plane, key);
    if (slot < c.n_slots) return slot;
    *head_of(desc)->bad = 1;
    return RM_NO_SLOT;
}

/* Where row `row` of the launch, head h, split s leaves its part. */
static __device__ __forceinline__ uint64_t part_at(const cu_attn_args &a, uint32_t row,
                                                   uint32_t split, uint32_t h) {
    return ((uint64_t)row * a.splits + split) * a.n_heads + h;
}

/* 2^x; 0 for -infinity. */
static __device__ __forceinline__ float power2(float x) {
#ifdef __CUDA_ARCH__
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return exp2f(x);
#endif
}

/* What one warp knows of its 16 queries: lane l holds rows g = l / 4 and g + 8. m and l are
 * the same in a quad of lanes; acc[i] is columns 8 i + 2 (l % 4), +1 of both rows. */
template <int VT> struct warp_sums { float m[2], l[2], acc[VT][4]; };

template <int VT> static __device__ __forceinline__ void sums_clear(warp_sums<VT> &s) {
    s.m[0] = s.m[1] = -INFINITY;
    s.l[0] = s.l[1] = 0.0f;
#pragma unroll
    for (int i = 0; i < VT; i++)
        s.acc[i][0] = s.acc[i][1] = s.acc[i][2] = s.acc[i][3] = 0.0f;
}

/* Where one warp's operands are in shared memory; rows 16-byte aligned. */
struct warp_operands {
    const bf16 *q, *k, *v; /* [16][ld_q], [keys][ld_k], [keys][ld_v] */
    uint32_t ld_q, ld_k, ld_v;
    uint32_t k_steps, v_pieces; /* pieces of 16 of a query and of a value */
    float scale;                /* times LOG2E */
};

/* Adds 8 * NT keys to the sums of 16 queries. Key column c counts for row g + 8 i if
 * c < see[i]. A tile of which a row sees nothing leaves that row's bits as they are, so a
 * row's result depends on no other row. */
template <int NT, int VT>
static __device__ __forceinline__ void warp_attend(warp_sums<VT> &sum, const warp_operands &o,
                                                   const int32_t see[2]) {
    uint32_t lane = threadIdx.x & 31, q2 = (lane & 3) * 2;
    uint32_t a_row = lane & 15, a_col = lane >> 4 << 3;
    uint32_t b_row = (lane & 7) + (lane >> 4 << 3), b_col = (lane >> 3 & 1) << 3;
    float s[NT][4] = {};
    for (uint32_t step = 0; step < o.k_steps; step++) {
        uint32_t f[4];
        load_matrices(f, o.q + a_row * o.ld_q + step * 16 + a_col);
#pragma unroll
        for (int n = 0; n < NT / 2; n++) {
            uint32_t b[4];
            load_matrices(b, o.k + (n * 16 + b_row) * o.ld_k + step * 16 + b_col);
            mma_bf16(s[2 * n], f[0], f[1], f[2], f[3], b[0], b[1]);
            mma_bf16(s[2 * n + 1], f[0], f[1], f[2], f[3], b[2], b[3]);
        }
    }
    float high[2] = {-INFINITY, -INFINITY}, old[2], base[2], part[2] = {0.0f, 0.0f};
#pragma unroll
    for (int n = 0; n < NT; n++) {
#pragma unroll
        for (int c = 0; c < 4; c++) {
            bool seen = n * 8 + (int32_t)q2 + (c & 1) < see[c >> 1];
            s[n][c] = seen ? s[n][c] * o.scale : -INFINITY;
            high[c >> 1] = fmaxf(high[c >> 1], s[n][c]);
        }
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        high[i] = fmaxf(high[i], __shfl_xor_sync(0xffffffffu, high[i], 1));
        high[i] = fmaxf(high[i], __shfl_xor_sync(0xffffffffu, high[i], 2));
        float now = fmaxf(sum.m[i], high[i]);
        base[i] = now == -INFINITY ? 0.0f : now; /* nothing seen yet: every weight is 0 */
        old[i] = power2(sum.m[i] - base[i]);
        sum.m[i] = now;
    }
#pragma unroll
    for (int n = 0; n < NT; n++) {
#pragma unroll
        for (int c = 0; c < 4; c++) {
            s[n][c] = power2(s[n][c] - base[c >> 1]);
            part[c >> 1] += s[n][c];
        }
    }
#pragma unroll
    for (int i = 0; i < 2; i++) { /* summed over the quad here, so that sums can be put away */
        part[i] += __shfl_xor_sync(0xffffffffu, part[i], 1);
        part[i] += __shfl_xor_sync(0xffffffffu, part[i], 2);
        sum.l[i] = sum.l[i] * old[i] + part[i];
    }
#pragma unroll
    for (int i = 0; i < VT; i++) {
        sum.acc[i][0] *= old[0];
        sum.acc[i][1] *= old[0];
        sum.acc[i][2] *= old[1];
        sum.acc[i][3] *= old[1];
    }
#pragma unroll
    for (int j = 0; j < NT / 2; j++) { /* the scores' layout is that of the left operand */
        uint32_t p0 = narrow_pair(s[2 * j][0], s[2 * j][1]),
                 p1 = narrow_pair(s[2 * j][2], s[2 * j][3]),
                 p2 = narrow_pair(s[2 * j + 1][0], s[2 * j + 1][1]),
                 p3 = narrow_pair(s[2 * j + 1][2], s[2 * j + 1][3]);
#pragma unroll
        for (int i = 0; i < VT / 2; i++) {
            if ((uint32_t)i >= o.v_pieces) continue; /* whole warps */
            uint32_t b[4];
            load_matrices_t(b, o.v + (j * 16 + a_row) * o.ld_v + i * 16 + a_col);
            mma_bf16(sum.acc[2 * i], p0, p1, p2, p3, b[0], b[1]);
            mma_bf16(sum.acc[2 * i + 1], p0, p1, p2, p3, b[2], b[3]);
        }
    }
}

#endif
