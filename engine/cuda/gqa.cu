/* gqa.cu - grouped-query attention by tensor cores, for decode and prompts, over slot lists.
 *
 * The query heads of a group read the same keys and values, so a tile packs heads and rows:
 * query j is row j / group, head j % group. A block of 4 warps takes one K/V head and one
 * split of the context, 64 keys at a time, the next 64 on their way (cp.async) meanwhile.
 * Up to 16 queries (a decode row): each warp takes 16 of the 64 keys, with sums of its own that
 * are joined at the end. More (rows of one prompt): each warp takes 16 queries and all keys. */
#include "engine/cuda/attention.cuh"

enum { GQA_THREADS = 128, GQA_WARPS = 4 };

struct gqa_shared { /* offsets in bytes */
    uint32_t q, k, v, slots, ml, bytes;
};
static __host__ __device__ __forceinline__ uint32_t gqa_ld(uint32_t dk) {
    return dk + 8; /* dk is a multiple of 16: an odd multiple of 16 bytes, no bank conflicts */
}
/* Two of k, v and slots: one in use, one being filled. */
static __host__ __device__ __forceinline__ gqa_shared gqa_layout(uint32_t dk, uint32_t queries,
                                                                 uint32_t splits) {
    gqa_shared s;
    uint32_t ld = gqa_ld(dk) * 2, merge = merge_bytes(splits);
    s.k = 0;
    s.v = s.k + 2 * CU_ATTN_KEYS * ld;
    s.q = s.v + 2 * CU_ATTN_KEYS * ld;
    s.slots = s.q + queries * ld;
    s.ml = s.slots + 2 * CU_ATTN_KEYS * 4;
    s.bytes = s.ml + GQA_WARPS * 16 * 2 * 4;
    if (s.bytes < merge) s.bytes = merge;
    return s;
}

/* What every part of the kernel knows of its block. */
struct gqa_block {
    cu_tile t;
    const cu_row *rows; /* the tile's */
    uint32_t kv, split, group, queries, keys;
    key_range range;
};

/* The position of query j's row, plus 1; 0 if there is no such query. */
static __device__ __forceinline__ uint32_t gqa_sees(const gqa_block &b, uint32_t j) {
    return j < b.queries ? b.rows[j / b.group].pos + 1 : 0;
}

static __device__ __forceinline__ void gqa_load_queries(const cu_attn_args &a, const gqa_block &b,
                                                        uint32_t most, bf16 *qs) {
    uint32_t vecs = a.dk / 8, ld = gqa_ld(a.dk);
    for (uint32_t i = threadIdx.x; i < most * vecs; i += GQA_THREADS) {
        uint32_t j = i / vecs, c = i % vecs * 8;
        vec16 v = {{0, 0, 0, 0}};
        if (j < b.queries) {
            uint64_t row = b.t.first + j / b.group, head = b.kv * b.group + j % b.group;
            v = *(const vec16 *)((const bf16 *)a.q + (row * a.n_heads + head) * a.dk + c);
        }
        *(vec16 *)(qs + j * ld + c) = v;
    }
}

/* 64 keys and values on their way; zeros where there is no slot. */
static __device__ __forceinline__ void gqa_load_keys(const cu_attn_args &a, const gqa_block &b,
                                                     const uint32_t *slots, bf16 *ks, bf16 *vs) {
    uint32_t ld = gqa_ld(a.dk);
    const bf16 *pool = (const bf16 *)a.cache.slots + b.kv * a.dk;
#pragma unroll
    for (uint32_t i = 0; i < CU_ATTN_KEYS; i += GQA_THREADS / 8) { /* 8 threads to a key */
        uint32_t key = i + (threadIdx.x >> 3), slot = slots[key];
        const bf16 *from = pool + (slot == RM_NO_SLOT ? 0 : (uint64_t)slot * a.cache.slot_values);
        for (uint32_t c = (threadIdx.x & 7) * 8; c < a.dk; c += 64) {
            if (slot == RM_NO_SLOT) {
                vec16 zero = {{0, 0, 0, 0}};
                *(vec16 *)(ks + key * ld + c) = zero;
                *(vec16 *)(vs + key * ld + c) = zero;
                continue;
            }
            copy_async(ks + key * ld + c, from + c);
            copy_async(vs + key * ld + c, from + c + a.v_offset);
        }
    }
}

/* One block's keys, tile by tile. NT: n8 tiles of keys one warp takes of each 64; warps at
 * key0 in them and at query q0. */
template <int NT, int VT>
static __device__ __forceinline__ void gqa_keys(const cu_attn_args &a, const gqa_block &b,
                                                unsigned char *shared, const gqa_shared &at,
                                                uint32_t q0, uint32_t key0, warp_sums<VT> &sum) {
    uint32_t lane = threadIdx.x & 31, ld = gqa_ld(a.dk), tile_values = CU_ATTN_KEYS * ld;
    bf16 *ks = (bf16 *)(shared + at.k), *vs = (bf16 *)(shared + at.v);
    uint32_t *slots = (uint32_t *)(shared + at.slots);
    const uint32_t *table = tables_of(a.desc) + b.rows[0].table;
    uint32_t plane = a.plane + (a.by_loop ? b.rows[0].loop : 0), first = b.range.first;
    uint32_t sees[2] = {gqa_sees(b, q0 + (lane >> 2)), gqa_sees(b, q0 + (lane >> 2) + 8)};
    for (uint32_t i = threadIdx.x; i < 2 * CU_ATTN_KEYS; i += GQA_THREADS)
        slots[i] = slot_of(a.desc, a.cache, table, plane, first * CU_ATTN_KEYS + i, b.keys);
    __syncthreads();
    gqa_load_keys(a, b, slots, ks, vs);
    for (uint32_t tile = first; tile < b.range.last; tile++) {
        uint32_t now = (tile - first) & 1, k0 = tile * CU_ATTN_KEYS, ahead = RM_NO_SLOT;
        copies_wait();
        __syncthreads(); /* this tile is here; the other buffer has been used */
        if (tile + 1 < b.range.last) {
            gqa_load_keys(a, b, slots + (now ^ 1) * CU_ATTN_KEYS, ks + (now ^ 1) * tile_values,
                          vs + (now ^ 1) * tile_values);
        }
        if (threadIdx.x < CU_ATTN_KEYS) {
            ahead =
                slot_of(a.desc, a.cache, table, plane, k0 + 2 * CU_ATTN_KEYS + threadIdx.x, b.keys);
        }
        warp_operands o;
        o.q = (const bf16 *)(shared + at.q) + q0 * ld;
        o.k = ks + now * tile_values + key0 * ld;
        o.v = vs + now * tile_values + key0 * ld;
        o.ld_q = o.ld_k = o.ld_v = ld;
        o.k_steps = o.v_pieces = a.dk / 16;
        o.scale = a.scale * LOG2E;
        int32_t see[2] = {(int32_t)(sees[0] - k0 - key0), (int32_t)(sees[1] - k0 - key0)};
        warp_attend<NT, VT>(sum, o, see);
        /* This tile's slots were read a barrier ago, when its keys were sent for. */
        if (threadIdx.x < CU_ATTN_KEYS) slots[now * CU_ATTN_KEYS + threadIdx.x] = ahead;
    }
}

/* Where the sums of query j go: to its part, or, where the context has one part, to o. */
struct gqa_place {
    float *part;
    bf16 *o;
    float norm;
    bool query; /* o is the caller's to write */
};
static __device__ __forceinline__ gqa_place gqa_put(const cu_attn_args &a, const gqa_block &b,
                                                    uint32_t j, float m, float l, bool first) {
    uint32_t r = j / b.group, h = b.kv * b.group + j % b.group;
    uint64_t part = part_at(a, b.t.first + r, b.split, h);
    gqa_place p;
    p.part = a.part_o + part * a.dv;
    p.o = (bf16 *)a.o + (uint64_t)(b.t.first + r) * a.o_ld + (uint64_t)h * a.o_head;
    p.norm = l > 0.0f ? 1.0f / l : 0.0f;
    p.query = has_query(a, b.rows[r]);
    if (first && b.range.used > 1) a.part_ml[part * 2] = m, a.part_ml[part * 2 + 1] = l;
    return p;
}

/* Four warps' sums of the same 16 queries, joined in their order. */
template <int VT>
static __device__ void gqa_join(const cu_attn_args &a, const gqa_block &b, unsigned char *shared,
                                const gqa_shared &at, const warp_sums<VT> &sum) {
    uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, q2 = (lane & 3) * 2;
    float *acc = (float *)shared; /* [warps][16][dv], over keys and values that have been used */
    float *ml = (float *)(shared + at.ml); /* [warps][16][2] */
    __syncthreads();
#pragma unroll
    for (int half = 0; half < 2; half++) {
        uint32_t j = warp * 16 + g + 8 * half;
        if (q2 == 0) ml[j * 2] = sum.m[half], ml[j * 2 + 1] = sum.l[half];
#pragma unroll
        for (int i = 0; i < VT; i++) {
            uint32_t c = 8 * i + q2;
            if (c >= a.dv) continue;
            acc[j * a.dv + c] = sum.acc[i][2 * half];
            acc[j * a.dv + c + 1] = sum.acc[i][2 * half + 1];
        }
    }
    __syncthreads();
    uint32_t pairs = a.dv / 2;
    for (uint32_t i = threadIdx.x; i < b.queries * pairs; i += GQA_THREADS) {
        uint32_t j = i / pairs, c = i % pairs * 2;
        float top = -INFINITY, l = 0.0f, v[2] = {0.0f, 0.0f};
        for (uint32_t w = 0; w < GQA_WARPS; w++)
            top = fmaxf(top, ml[(w * 16 + j) * 2]);
        for (uint32_t w = 0; w < GQA_WARPS; w++) {
            float m = ml[(w * 16 + j) * 2], scale = m == -INFINITY ? 0.0f : power2(m - top);
            l = fmaf(ml[(w * 16 + j) * 2 + 1], scale, l);
            v[0] = fmaf(acc[(w * 16 + j) * a.dv + c], scale, v[0]);
            v[1] = fmaf(acc[(w * 16 + j) * a.dv + c + 1], scale, v[1]);
        }
        gqa_place p = gqa_put(a, b, j, top, l, c == 0);
        if (b.range.used > 1) p.part[c] = v[0], p.part[c + 1] = v[1];
        else if (p.query) *(uint32_t *)(p.o + c) = narrow_pair(v[0] * p.norm, v[1] * p.norm);
    }
}

/* Each warp's own 16 queries from q0 on. */
template <int VT>
static __device__ void gqa_store(const cu_attn_args &a, const gqa_block &b, uint32_t q0,
                                 const warp_sums<VT> &sum) {
    uint32_t lane = threadIdx.x & 31, q2 = (lane & 3) * 2;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        uint32_t j = q0 + (lane >> 2) + 8 * half;
        if (j >= b.queries) continue;
        gqa_place p = gqa_put(a, b, j, sum.m[half], sum.l[half], q2 == 0);
#pragma unroll
        for (int i = 0; i < VT; i++) {
            uint32_t c = 8 * i + q2;
            float x = sum.acc[i][2 * half], y = sum.acc[i][2 * half + 1];
            if (c >= a.dv) continue;
            if (b.range.used > 1) p.part[c] = x, p.part[c + 1] = y;
            else if (p.query) *(uint32_t *)(p.o + c) = narrow_pair(x * p.norm, y * p.norm);
        }
    }
}

/* VT: n8 tiles of a value. MANY: tiles may have more than 16 queries. */
template <int VT, bool MANY>
static __global__ void __launch_bounds__(GQA_THREADS, MANY &&VT == 16 ? 2 : 3)
    attn_gqa(cu_attn_args a) {
    kernel_scope scope(a.stamp);
    DYNAMIC_SHARED(shared);
    const uint32_t most = MANY ? (uint32_t)CU_GQA_QUERIES : 16u;
    const gqa_shared at = gqa_layout(a.dk, most, a.splits);
    const cu_head *head = head_of(a.desc);
    if (blockIdx.x >= head->n_tiles) return;
    gqa_block b;
    b.t = ((const cu_tile *)((const char *)a.desc + head->tiles))[blockIdx.x];
    b.rows = rows_of(a.desc) + b.t.first;
    b.kv = blockIdx.y;
    b.split = blockIdx.z;
    b.group = a.n_heads / a.n_kv_heads;
    b.queries = b.t.n * b.group;
    b.keys = b.rows[b.t.n - 1].pos + 1;
    query_block whole = {b.t.first, b.t.n, b.kv * b.group, b.group};
    if (b.t.n == 1 && !has_query(a, b.rows[0])) {
        if (b.split == 0) write_zeros<bf16>(a, whole);
        return;
    }
    b.range = split_range(a, b.keys, b.split);
    if (b.range.first >= b.range.last) return;
    gqa_load_queries(a, b, most, (bf16 *)(shared + at.q));
    uint32_t warp = threadIdx.x >> 5;
    warp_sums<VT> sum;
    sums_clear(sum);
    if (MANY && b.queries > 16) {
        gqa_keys<CU_ATTN_KEYS / 8, VT>(a, b, shared, at, warp * 16, 0, sum);
        gqa_store(a, b, warp * 16, sum);
    } else {
        gqa_keys<CU_ATTN_KEYS / 8 / GQA_WARPS, VT>(a, b, shared, at, 0, warp * 16, sum);
        gqa_join(a, b, shared, at, sum);
    }
    if (b.range.used > 1) {
        uint32_t *arrived = a.arrived + (uint64_t)blockIdx.x * gridDim.y + blockIdx.y;
        if (!comes_last(arrived, b.range.used, (uint32_t *)shared)) return;
        merge_parts<4, false, bf16>(a, whole, b.range.used, shared);
    }
    write_zeros<bf16>(a, whole);
}

/* By their number of queries tiles are summed in one of two ways; a row whose bits may not depend
 * on its tile keeps to the one for few. */
static bool few_only(const cu_attn_args *a) {
    return a->invariant || gqa_layout(a->dk, CU_GQA_QUERIES, a->splits).bytes > a->shared;
}

extern "C" bool cu_attn_fits_gqa(const cu_attn_args *a, bool f32) {
    return !f32 && !a->cache.f32 && a->v_offset > 0 && a->dk == a->dv && a->dk % 16 == 0 &&
           a->dk <= 128 && a->n_heads <= 16 * a->n_kv_heads && a->v_offset % 8 == 0 &&
           a->cache.slot_values % 8 == 0 && gqa_layout(a->dk, 16, a->splits).bytes <= a->shared;
}

extern "C" uint32_t cu_gqa_tile_rows(const cu_attn_args *a) {
    return (few_only(a) ? 16u : (uint32_t)CU_GQA_QUERIES) / (a->n_heads / a->n_kv_heads);
}

extern "C" cudaError_t cu_attn_gqa(cudaStream_t s, const cu_attn_args *a, uint32_t tiles,
                                   bool one_row) {
    dim3 grid(tiles, a->n_kv_heads, a->splits);
    bool few = one_row || few_only(a);
    uint32_t bytes = gqa_layout(a->dk, few ? 16 : CU_GQA_QUERIES, a->splits).bytes;
    if (a->dk <= 64) {
        if (few) return LAUNCH((attn_gqa<8, false>), grid, GQA_THREADS, bytes, s, *a);
        return LAUNCH((attn_gqa<8, true>), grid, GQA_THREADS, bytes, s, *a);
    }
    if (few) return LAUNCH((attn_gqa<16, false>), grid, GQA_THREADS, bytes, s, *a);
    return LAUNCH((attn_gqa<16, true>), grid, GQA_THREADS, bytes, s, *a);
}

extern "C" cudaError_t cu_gqa_setup(int most) {
    const cudaFuncAttribute shared = cudaFuncAttributeMaxDynamicSharedMemorySize;
    cudaError_t rc = cudaFuncSetAttribute(attn_gqa<8, false>, shared, most);
    if (rc == cudaSuccess) rc = cudaFuncSetAttribute(attn_gqa<8, true>, shared, most);
    if (rc == cudaSuccess) rc = cudaFuncSetAttribute(attn_gqa<16, false>, shared, most);
    if (rc == cudaSuccess) rc = cudaFuncSetAttribute(attn_gqa<16, true>, shared, most);
    return rc;
}
