/* attention.cuh - what the attention kernels share: ranges of keys, slots, and one warp's step
 * of attention with online softmax.
 *
 * Sums are kept by maxima in powers of two: a score times log2(e), so that a weight is one
 * ex2 instruction. (attn_simple, which parity with the CPU engine rests on, keeps natural ones.) */
#ifndef FATHOM_ENGINE_CUDA_ATTENTION_CUH
#define FATHOM_ENGINE_CUDA_ATTENTION_CUH

#include "engine/cuda/common.cuh"

#define LOG2E 1.44269504088896f

/* Key tiles [first, last) of one split, for a context of `keys` positions; used: splits that have
 * any. A split takes at least a.per tiles: where that bounds it, ranges depend on positions alone.
 */
struct key_range {
    uint32_t first, last, used;
};
static __device__ __forceinline__ key_range split_range(const cu_attn_args &a, uint32_t keys,
                                                        uint32_t split) {
    uint32_t tiles = (keys + CU_ATTN_KEYS - 1) / CU_ATTN_KEYS;
    uint32_t per = rm_tiles_per_split(tiles, a.splits);
    if (per < a.per) per = a.per;
    key_range r;
    r.first = split * per;
    r.last = r.first + per < tiles ? r.first + per : tiles;
    r.used = (tiles + per - 1) / per;
    return r;
}

/* The slot of position `key` below `keys` at `plane` of a block table; RM_NO_SLOT beyond, and where
 * the map is wrong, which is flagged. */
static __device__ __forceinline__ uint32_t slot_of(const void *desc, const cu_cache &c,
                                                   const uint32_t *table, uint32_t plane,
                                                   uint32_t key, uint32_t keys) {
    if (key >= keys) return RM_NO_SLOT;
    uint32_t slot = rm_slot(c.maps, table, c.n_planes, plane, key);
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

/* ---- joining the splits of a context ----
 *
 * Every thread block leaves an unnormalised sum with its maximum and weight, its part. The last one
 * to end joins the parts in the order of splits, so it is all the same which one that is. Where
 * there is one split, its block writes o at once. */

/* Launch rows [row, row + n) times heads [h0, h0 + heads): what one thread block attends for. */
struct query_block {
    uint32_t row, n, h0, heads;
};

static __device__ __forceinline__ bool has_query(const cu_attn_args &a, const cu_row &r) {
    return (r.flags & (a.no_query | CU_ROW_EXPANDED)) == 0;
}

static __device__ __forceinline__ void device_fence() {
#ifdef __CUDA_ARCH__
    __threadfence();
#endif
}

/* True, in every thread, in the last of `used` thread blocks that come to this counter; what all of
 * them wrote before can then be read. The counter is 0 again for the next kernel. `word`: shared
 * memory that nobody else uses. */
static __device__ __forceinline__ bool comes_last(uint32_t *arrived, uint32_t used,
                                                  uint32_t *word) {
    device_fence();
    __syncthreads();
    if (threadIdx.x == 0) {
        *word = atomicAdd(arrived, 1u) + 1 == used;
        if (*word) *arrived = 0;
    }
    __syncthreads();
    device_fence();
    return *word != 0;
}

/* V floats that other thread blocks wrote, not through the first-level cache; nothing is read, and
 * no branch taken, unless they are there. */
template <int V> struct floats { float v[V]; };
template <int V>
static __device__ __forceinline__ void load_part(floats<V> &f, const float *p, bool there) {
#ifdef __CUDA_ARCH__
    static_assert(V == 1 || V == 4, "one load");
    if (V == 4) {
        asm volatile("{.reg .pred t; setp.ne.u32 t, %5, 0;\n\t"
                     "@t ld.global.cg.v4.f32 {%0,%1,%2,%3}, [%4];}"
                     : "+f"(f.v[0]), "+f"(f.v[1 % V]), "+f"(f.v[2 % V]), "+f"(f.v[3 % V])
                     : "l"(p), "r"((uint32_t)there));
    } else {
        asm volatile("{.reg .pred t; setp.ne.u32 t, %2, 0;\n\t@t ld.global.cg.f32 %0, [%1];}"
                     : "+f"(f.v[0])
                     : "l"(p), "r"((uint32_t)there));
    }
#else
    if (there) f = *(const floats<V> *)p;
#endif
}

/* Zeros into o: behind the values of the block's heads, behind the last head, and for all of a row
 * without a query, whose products go on, unused. */
template <typename A>
static __device__ __forceinline__ void write_zeros(const cu_attn_args &a, const query_block &b) {
    uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    bool last = b.h0 + b.heads == a.n_heads;
#pragma unroll 1
    for (uint32_t r = warp; r < b.n; r += warps) {
        uint32_t from = has_query(a, rows_of(a.desc)[b.row + r]) ? a.dv : 0;
        A *o = (A *)a.o + (uint64_t)(b.row + r) * a.o_ld;
#pragma unroll 1
        for (uint32_t h = b.h0; from < a.o_head && h < b.h0 + b.heads; h++) {
#pragma unroll 1
            for (uint32_t c = from + lane; c < a.o_head; c += 32)
                narrow(0.0f, &o[(uint64_t)h * a.o_head + c]);
        }
#pragma unroll 1
        for (uint32_t c = a.n_heads * a.o_head + lane; last && c < a.o_ld; c += 32)
            narrow(0.0f, &o[c]);
    }
}

enum {
    MERGE_QUERIES = 16, /* whose weights are in shared memory at a time */
    MERGE_LOADS = 8,    /* parts of each on their way together */
};
static __host__ __device__ __forceinline__ uint32_t merge_bytes(uint32_t splits) {
    return MERGE_QUERIES * (2 * splits + 1) * 4;
}

/* Weights of the parts of queries [j0, j0 + some) of the block, [some][used], and one over their
 * sums. */
template <bool NATURAL>
static __device__ __forceinline__ void merge_weights(const cu_attn_args &a, const query_block &b,
                                                     uint32_t j0, uint32_t some, uint32_t used,
                                                     float *weight, float *sum, float *norm) {
    for (uint32_t i = threadIdx.x; i < some * used; i += blockDim.x) {
        uint32_t j = j0 + i / used, row = b.row + j / b.heads, h = b.h0 + j % b.heads;
        const float *ml = a.part_ml + part_at(a, row, i % used, h) * 2;
        floats<1> m = {}, l = {};
        load_part(m, ml, true);
        load_part(l, ml + 1, true);
        weight[i] = m.v[0];
        sum[i] = l.v[0];
    }
    __syncthreads();
    for (uint32_t j = threadIdx.x; j < some; j += blockDim.x) {
        float top = -INFINITY, all = 0.0f;
#pragma unroll 4
        for (uint32_t s = 0; s < used; s++)
            top = fmaxf(top, weight[j * used + s]);
#pragma unroll 4
        for (uint32_t s = 0; s < used; s++) {
            float m = weight[j * used + s], w;
            if (NATURAL) w = rm_part_scale(m, top);
            else w = m == -INFINITY ? 0.0f : power2(m - top);
            weight[j * used + s] = w;
            all = fmaf(sum[j * used + s], w, all);
        }
        norm[j] = all > 0.0f ? 1.0f / all : 0.0f;
    }
    __syncthreads();
}

/* V values of o, V a divisor of dv and o_head: where the first split's part of them is, and the
 * weights of all. */
struct merge_item {
    bool there;
    uint32_t j, c; /* query, first value */
    const float *part, *weight;
};
static __device__ __forceinline__ merge_item item_of(const cu_attn_args &a, const query_block &b,
                                                     uint32_t j0, uint32_t j, uint32_t c,
                                                     bool there, const float *weights) {
    uint32_t row = b.row + (j0 + j) / b.heads, h = b.h0 + (j0 + j) % b.heads;
    merge_item t = {there, j, c, a.part_o + part_at(a, row, 0, h) * a.dv + c, weights};
    return t;
}

template <int V, typename A>
static __device__ __forceinline__ void put_values(const floats<V> &v, float norm, A *o) {
    if constexpr (V == 4 && sizeof(A) == 2) {
        ((uint32_t *)o)[0] = narrow_pair(v.v[0] * norm, v.v[1] * norm);
        ((uint32_t *)o)[1] = narrow_pair(v.v[2] * norm, v.v[3] * norm);
    } else {
#pragma unroll
        for (int e = 0; e < V; e++)
            narrow(v.v[e] * norm, &o[e]);
    }
}

/* o of the block's queries from `used` parts each; ITEMS places of o to a thread at a time. shared:
 * merge_bytes(a.splits) that nobody else uses any more. */
template <int V, bool NATURAL, typename A, int ITEMS = 2>
static __device__ void merge_parts(const cu_attn_args &a, const query_block &b, uint32_t used,
                                   void *shared) {
    float *weight = (float *)shared, *sum = weight + MERGE_QUERIES * used,
          *norm = sum + MERGE_QUERIES * used;
    uint32_t n = b.n * b.heads, vecs = a.dv / V;
    uint64_t step = (uint64_t)a.n_heads * a.dv; /* from split to split */
    for (uint32_t j0 = 0; j0 < n; j0 += MERGE_QUERIES) {
        uint32_t some = n - j0 < MERGE_QUERIES ? n - j0 : (uint32_t)MERGE_QUERIES;
        __syncthreads(); /* the weights before have been used */
        merge_weights<NATURAL>(a, b, j0, some, used, weight, sum, norm);
        for (uint32_t i = threadIdx.x; i < some * vecs; i += ITEMS * blockDim.x) {
            merge_item t[ITEMS];
            floats<V> v[ITEMS] = {};
#pragma unroll
            for (int k = 0; k < ITEMS; k++) {
                uint32_t at = i + k * blockDim.x;
                bool there = at < some * vecs;
                uint32_t j = there ? at / vecs : 0, c = there ? at % vecs * V : 0;
                t[k] = item_of(a, b, j0, j, c, there, weight + j * used);
            }
            for (uint32_t s0 = 0; s0 < used; s0 += MERGE_LOADS) {
                floats<V> p[ITEMS][MERGE_LOADS] = {};
#pragma unroll
                for (int s = 0; s < MERGE_LOADS; s++) {
#pragma unroll
                    for (int k = 0; k < ITEMS; k++)
                        load_part(p[k][s], t[k].part + (s0 + s) * step,
                                  t[k].there && s0 + s < used);
                }
#pragma unroll
                for (int s = 0; s < MERGE_LOADS; s++) {
#pragma unroll
                    for (int k = 0; k < ITEMS; k++) {
                        float w = s0 + s < used ? t[k].weight[s0 + s] : 0.0f;
#pragma unroll
                        for (int e = 0; e < V; e++)
                            v[k].v[e] = fmaf(p[k][s].v[e], w, v[k].v[e]);
                    }
                }
            }
#pragma unroll
            for (int k = 0; k < ITEMS; k++) {
                uint32_t row = b.row + (j0 + t[k].j) / b.heads, h = b.h0 + (j0 + t[k].j) % b.heads;
                if (!t[k].there || !has_query(a, rows_of(a.desc)[row])) continue;
                A *o = (A *)a.o + (uint64_t)row * a.o_ld + (uint64_t)h * a.o_head + t[k].c;
                put_values<V>(v[k], norm[t[k].j], o);
            }
        }
    }
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
            s[n][c] = seen ? rm_mul(s[n][c], o.scale) : -INFINITY;
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
        sum.l[i] = fmaf(sum.l[i], old[i], part[i]);
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
