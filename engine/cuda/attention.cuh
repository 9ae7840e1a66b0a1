/* attention.cuh - shared by the attention kernels: ranges of keys, slots, and one warp's step of
 * attention with online softmax.
 *
 * Sums are kept by maxima in powers of two: a score times log2(e), so that a weight is one ex2
 * instruction. (attn_simple keeps natural ones, for parity with the CPU engine.) */
#ifndef FATHOM_ENGINE_CUDA_ATTENTION_CUH
#define FATHOM_ENGINE_CUDA_ATTENTION_CUH

#include "engine/cuda/common.cuh"

#define LOG2E 1.44269504088896f

/* Key tiles [first, last) of one split, for a context of `keys` positions; used: splits with any
 * tile. A split takes at least args.per tiles: if this bounds it, ranges depend on positions alone.
 */
struct key_range {
    uint32_t first, last, used;
};
static __device__ __forceinline__ key_range split_range(const cu_attn_args &args, uint32_t keys,
                                                        uint32_t split) {
    uint32_t tiles = (keys + CU_ATTN_KEYS - 1) / CU_ATTN_KEYS;
    uint32_t per = rm_tiles_per_split(tiles, args.splits);
    if (per < args.per) per = args.per;
    key_range range;
    range.first = split * per;
    range.last = range.first + per < tiles ? range.first + per : tiles;
    range.used = (tiles + per - 1) / per;
    return range;
}

/* The slot of position `key` below `keys` at `plane` of a block table; RM_NO_SLOT beyond it. A
 * wrong map is flagged and gives RM_NO_SLOT too. */
static __device__ __forceinline__ uint32_t slot_of(const void *desc, const cu_cache &cache,
                                                   const uint32_t *table, uint32_t plane,
                                                   uint32_t key, uint32_t keys) {
    if (key >= keys) return RM_NO_SLOT;
    uint32_t slot = rm_slot(cache.maps, table, cache.n_planes, plane, key);
    if (slot < cache.n_slots) return slot;
    *head_of(desc)->bad = 1;
    return RM_NO_SLOT;
}

/* The place of the part of row `row` of the launch, head `head`, split `split`. */
static __device__ __forceinline__ uint64_t part_at(const cu_attn_args &args, uint32_t row,
                                                   uint32_t split, uint32_t head) {
    return ((uint64_t)row * args.splits + split) * args.n_heads + head;
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
 * Every thread block leaves an unnormalised sum with its maximum and weight, its part. The last
 * block to end joins the parts in the order of splits, so the result does not depend on the order
 * of blocks. With one split, its block writes o at once. */

/* Launch rows [row, row + n) times heads [h0, h0 + heads): the queries of one thread block. */
struct query_block {
    uint32_t row, n, h0, heads;
};

static __device__ __forceinline__ bool has_query(const cu_attn_args &args, const cu_row &row) {
    return (row.flags & (args.no_query | CU_ROW_EXPANDED)) == 0;
}

static __device__ __forceinline__ void device_fence() {
#ifdef __CUDA_ARCH__
    __threadfence();
#endif
}

/* True, in every thread, in the last of `used` thread blocks to reach this counter; everything they
 * wrote before can then be read. The counter is 0 again for the next kernel. `word`: shared memory
 * without another use. */
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

/* V floats written by other thread blocks, not through the first-level cache; nothing is read, and
 * no branch taken, unless they are there. */
template <int V> struct floats { float v[V]; };
template <int V>
static __device__ __forceinline__ void load_part(floats<V> &out, const float *from, bool there) {
#ifdef __CUDA_ARCH__
    static_assert(V == 1 || V == 4, "one load");
    if (V == 4) {
        asm volatile("{.reg .pred t; setp.ne.u32 t, %5, 0;\n\t"
                     "@t ld.global.cg.v4.f32 {%0,%1,%2,%3}, [%4];}"
                     : "+f"(out.v[0]), "+f"(out.v[1 % V]), "+f"(out.v[2 % V]), "+f"(out.v[3 % V])
                     : "l"(from), "r"((uint32_t)there));
    } else {
        asm volatile("{.reg .pred t; setp.ne.u32 t, %2, 0;\n\t@t ld.global.cg.f32 %0, [%1];}"
                     : "+f"(out.v[0])
                     : "l"(from), "r"((uint32_t)there));
    }
#else
    if (there) out = *(const floats<V> *)from;
#endif
}

/* Zeros into o: behind the values of the block's heads, behind the last head, and for all of a row
 * without a query: later products read the row, and their results are unused. */
template <typename ACT>
static __device__ __forceinline__ void write_zeros(const cu_attn_args &args,
                                                   const query_block &block) {
    uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    bool last = block.h0 + block.heads == args.n_heads;
#pragma unroll 1
    for (uint32_t r = warp; r < block.n; r += warps) {
        uint32_t from = has_query(args, rows_of(args.desc)[block.row + r]) ? args.dv : 0;
        ACT *o = (ACT *)args.o + (uint64_t)(block.row + r) * args.o_ld;
#pragma unroll 1
        for (uint32_t h = block.h0; from < args.o_head && h < block.h0 + block.heads; h++) {
#pragma unroll 1
            for (uint32_t c = from + lane; c < args.o_head; c += 32)
                narrow(0.0f, &o[(uint64_t)h * args.o_head + c]);
        }
#pragma unroll 1
        for (uint32_t c = args.n_heads * args.o_head + lane; last && c < args.o_ld; c += 32)
            narrow(0.0f, &o[c]);
    }
}

enum {
    MERGE_QUERIES = 16, /* queries with weights in shared memory at a time */
    MERGE_LOADS = 8,    /* parts of each on their way together */
};
static __host__ __device__ __forceinline__ uint32_t merge_bytes(uint32_t splits) {
    return MERGE_QUERIES * (2 * splits + 1) * 4;
}

/* Weights of the parts of queries [j0, j0 + some) of the block, [some][used], and one over their
 * sums. */
template <bool NATURAL>
static __device__ __forceinline__ void
merge_weights(const cu_attn_args &args, const query_block &block, uint32_t j0, uint32_t some,
              uint32_t used, float *weight, float *sum, float *norm) {
    for (uint32_t i = threadIdx.x; i < some * used; i += blockDim.x) {
        uint32_t j = j0 + i / used, row = block.row + j / block.heads,
                 h = block.h0 + j % block.heads;
        const float *ml = args.part_ml + part_at(args, row, i % used, h) * 2;
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

/* V values of o, V a divisor of dv and o_head: the place of their part in the first split, and the
 * weights of all splits. */
struct merge_item {
    bool there;
    uint32_t query, value; /* the first */
    const float *part, *weight;
};
static __device__ __forceinline__ merge_item item_of(const cu_attn_args &args,
                                                     const query_block &block, uint32_t j0,
                                                     uint32_t j, uint32_t c, bool there,
                                                     const float *weights) {
    uint32_t row = block.row + (j0 + j) / block.heads, h = block.h0 + (j0 + j) % block.heads;
    merge_item item = {there, j, c, args.part_o + part_at(args, row, 0, h) * args.dv + c, weights};
    return item;
}

template <int V, typename ACT>
static __device__ __forceinline__ void put_values(const floats<V> &values, float norm, ACT *o) {
    if constexpr (V == 4 && sizeof(ACT) == 2) {
        ((uint32_t *)o)[0] = narrow_pair(values.v[0] * norm, values.v[1] * norm);
        ((uint32_t *)o)[1] = narrow_pair(values.v[2] * norm, values.v[3] * norm);
    } else {
#pragma unroll
        for (int e = 0; e < V; e++)
            narrow(values.v[e] * norm, &o[e]);
    }
}

/* o of the block's queries from `used` parts each; ITEMS places of o to a thread at a time. shared:
 * merge_bytes(args.splits), no longer in other use. */
template <int V, bool NATURAL, typename ACT, int ITEMS = 2>
static __device__ void merge_parts(const cu_attn_args &args, const query_block &block,
                                   uint32_t used, void *shared) {
    float *weight = (float *)shared, *sum = weight + MERGE_QUERIES * used,
          *norm = sum + MERGE_QUERIES * used;
    uint32_t n = block.n * block.heads, vecs = args.dv / V;
    uint64_t step = (uint64_t)args.n_heads * args.dv; /* from split to split */
    for (uint32_t j0 = 0; j0 < n; j0 += MERGE_QUERIES) {
        uint32_t some = n - j0 < MERGE_QUERIES ? n - j0 : (uint32_t)MERGE_QUERIES;
        __syncthreads(); /* the weights before have been used */
        merge_weights<NATURAL>(args, block, j0, some, used, weight, sum, norm);
        for (uint32_t i = threadIdx.x; i < some * vecs; i += ITEMS * blockDim.x) {
            merge_item items[ITEMS];
            floats<V> v[ITEMS] = {};
#pragma unroll
            for (int k = 0; k < ITEMS; k++) {
                uint32_t at = i + k * blockDim.x;
                bool there = at < some * vecs;
                uint32_t j = there ? at / vecs : 0, c = there ? at % vecs * V : 0;
                items[k] = item_of(args, block, j0, j, c, there, weight + j * used);
            }
            for (uint32_t s0 = 0; s0 < used; s0 += MERGE_LOADS) {
                floats<V> parts[ITEMS][MERGE_LOADS] = {};
#pragma unroll
                for (int s = 0; s < MERGE_LOADS; s++) {
#pragma unroll
                    for (int k = 0; k < ITEMS; k++)
                        load_part(parts[k][s], items[k].part + (s0 + s) * step,
                                  items[k].there && s0 + s < used);
                }
#pragma unroll
                for (int s = 0; s < MERGE_LOADS; s++) {
#pragma unroll
                    for (int k = 0; k < ITEMS; k++) {
                        float w = s0 + s < used ? items[k].weight[s0 + s] : 0.0f;
#pragma unroll
                        for (int e = 0; e < V; e++)
                            v[k].v[e] = fmaf(parts[k][s].v[e], w, v[k].v[e]);
                    }
                }
            }
#pragma unroll
            for (int k = 0; k < ITEMS; k++) {
                uint32_t row = block.row + (j0 + items[k].query) / block.heads,
                         h = block.h0 + (j0 + items[k].query) % block.heads;
                if (!items[k].there || !has_query(args, rows_of(args.desc)[row])) continue;
                ACT *o = (ACT *)args.o + (uint64_t)row * args.o_ld + (uint64_t)h * args.o_head +
                         items[k].value;
                put_values<V>(v[k], norm[items[k].query], o);
            }
        }
    }
}

/* One warp's sums of its 16 queries: lane l holds rows g = l / 4 and g + 8. m and l are the same in
 * a quad of lanes; acc[i] is columns 8 i + 2 (l % 4), +1 of both rows. */
template <int VT> struct warp_sums { float m[2], l[2], acc[VT][4]; };

template <int VT> static __device__ __forceinline__ void sums_clear(warp_sums<VT> &s) {
    s.m[0] = s.m[1] = -INFINITY;
    s.l[0] = s.l[1] = 0.0f;
#pragma unroll
    for (int i = 0; i < VT; i++)
        s.acc[i][0] = s.acc[i][1] = s.acc[i][2] = s.acc[i][3] = 0.0f;
}

/* One warp's operands in shared memory; rows 16-byte aligned. */
struct warp_operands {
    const bf16 *q, *k, *v; /* [16][ld_q], [keys][ld_k], [keys][ld_v] */
    uint32_t ld_q, ld_k, ld_v;
    uint32_t k_steps, v_pieces; /* pieces of 16 of a query and of a value */
    float scale;                /* times LOG2E */
};

/* Adds 8 * NT keys to the sums of 16 queries. Key column c counts for row g + 8 i if c < see[i]. A
 * tile with no key in a row's sight leaves the row's bits as they are, so a row's result depends on
 * no other row. */
template <int NT, int VT>
static __device__ __forceinline__ void warp_attend(warp_sums<VT> &sum, const warp_operands &ops,
                                                   const int32_t see[2]) {
    uint32_t lane = threadIdx.x & 31, q2 = (lane & 3) * 2;
    uint32_t a_row = lane & 15, a_col = lane >> 4 << 3;
    uint32_t b_row = (lane & 7) + (lane >> 4 << 3), b_col = (lane >> 3 & 1) << 3;
    float s[NT][4] = {};
    for (uint32_t step = 0; step < ops.k_steps; step++) {
        uint32_t f[4];
        load_matrices(f, ops.q + a_row * ops.ld_q + step * 16 + a_col);
#pragma unroll
        for (int n = 0; n < NT / 2; n++) {
            uint32_t b[4];
            load_matrices(b, ops.k + (n * 16 + b_row) * ops.ld_k + step * 16 + b_col);
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
            s[n][c] = seen ? rm_mul(s[n][c], ops.scale) : -INFINITY;
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
    for (int i = 0; i < 2; i++) { /* summed over the quad here, so sums can be stored */
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
    for (int j = 0; j < NT / 2; j++) { /* the scores have the layout of the left operand */
        uint32_t p0 = narrow_pair(s[2 * j][0], s[2 * j][1]),
                 p1 = narrow_pair(s[2 * j][2], s[2 * j][3]),
                 p2 = narrow_pair(s[2 * j + 1][0], s[2 * j + 1][1]),
                 p3 = narrow_pair(s[2 * j + 1][2], s[2 * j + 1][3]);
#pragma unroll
        for (int i = 0; i < VT / 2; i++) {
            if ((uint32_t)i >= ops.v_pieces) continue; /* whole warps */
            uint32_t b[4];
            load_matrices_t(b, ops.v + (j * 16 + a_row) * ops.ld_v + i * 16 + a_col);
            mma_bf16(sum.acc[2 * i], p0, p1, p2, p3, b[0], b[1]);
            mma_bf16(sum.acc[2 * i + 1], p0, p1, p2, p3, b[2], b[3]);
        }
    }
}

#endif
