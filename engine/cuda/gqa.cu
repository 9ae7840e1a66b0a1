/* gqa.cu - grouped-query attention by tensor cores, for decode and prompts, over slot lists.
 *
 * The query heads of a group read the same keys and values, so a tile packs heads and rows: query j
 * is row j / group, head j % group. A block of 4 warps takes one K/V head and one split of the
 * context, 64 keys at a time, the next 64 on their way (cp.async) meanwhile. Up to 16 queries (a
 * decode row): each warp takes 16 of the 64 keys, with sums of its own, joined at the end. More
 * (rows of one prompt): each warp takes 16 queries and all keys. */
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
    gqa_shared layout;
    uint32_t ld = gqa_ld(dk) * 2, merge = merge_bytes(splits);
    layout.k = 0;
    layout.v = layout.k + 2 * CU_ATTN_KEYS * ld;
    layout.q = layout.v + 2 * CU_ATTN_KEYS * ld;
    layout.slots = layout.q + queries * ld;
    layout.ml = layout.slots + 2 * CU_ATTN_KEYS * 4;
    layout.bytes = layout.ml + GQA_WARPS * 16 * 2 * 4;
    if (layout.bytes < merge) layout.bytes = merge;
    return layout;
}

/* The thread block's work. */
struct gqa_block {
    cu_tile tile;
    const cu_row *rows; /* the tile's */
    uint32_t kv, split, group, queries, keys;
    key_range range;
};

/* The position of query j's row, plus 1; 0 if there is no such query. */
static __device__ __forceinline__ uint32_t gqa_sees(const gqa_block &block, uint32_t j) {
    return j < block.queries ? block.rows[j / block.group].pos + 1 : 0;
}

static __device__ __forceinline__ void
gqa_load_queries(const cu_attn_args &args, const gqa_block &block, uint32_t most, bf16 *qs) {
    uint32_t vecs = args.dk / 8, ld = gqa_ld(args.dk);
    for (uint32_t i = threadIdx.x; i < most * vecs; i += GQA_THREADS) {
        uint32_t j = i / vecs, c = i % vecs * 8;
        vec16 vec = {{0, 0, 0, 0}};
        if (j < block.queries) {
            uint64_t row = block.tile.first + j / block.group,
                     head = block.kv * block.group + j % block.group;
            vec =
                *(const vec16 *)((const bf16 *)args.q + (row * args.n_heads + head) * args.dk + c);
        }
        *(vec16 *)(qs + j * ld + c) = vec;
    }
}

/* 64 keys and values on their way; zeros for keys without a slot. */
static __device__ __forceinline__ void gqa_load_keys(const cu_attn_args &args,
                                                     const gqa_block &block, const uint32_t *slots,
                                                     bf16 *ks, bf16 *vs) {
    uint32_t ld = gqa_ld(args.dk);
    const bf16 *pool = (const bf16 *)args.cache.slots + block.kv * args.dk;
#pragma unroll
    for (uint32_t i = 0; i < CU_ATTN_KEYS; i += GQA_THREADS / 8) { /* 8 threads to a key */
        uint32_t key = i + (threadIdx.x >> 3), slot = slots[key];
        const bf16 *from =
            pool + (slot == RM_NO_SLOT ? 0 : (uint64_t)slot * args.cache.slot_values);
        for (uint32_t c = (threadIdx.x & 7) * 8; c < args.dk; c += 64) {
            if (slot == RM_NO_SLOT) {
                vec16 zero = {{0, 0, 0, 0}};
                *(vec16 *)(ks + key * ld + c) = zero;
                *(vec16 *)(vs + key * ld + c) = zero;
                continue;
            }
            copy_async(ks + key * ld + c, from + c);
            copy_async(vs + key * ld + c, from + c + args.v_offset);
        }
    }
}

/* One block's keys, tile by tile. NT: n8 tiles of keys one warp takes of each 64; warps at
 * key0 in them and at query q0. */
template <int NT, int VT>
static __device__ __forceinline__ void gqa_keys(const cu_attn_args &args, const gqa_block &block,
                                                unsigned char *shared, const gqa_shared &at,
                                                uint32_t q0, uint32_t key0, warp_sums<VT> &sum) {
    uint32_t lane = threadIdx.x & 31, ld = gqa_ld(args.dk), tile_values = CU_ATTN_KEYS * ld;
    bf16 *ks = (bf16 *)(shared + at.k), *vs = (bf16 *)(shared + at.v);
    uint32_t *slots = (uint32_t *)(shared + at.slots);
    const uint32_t *table = tables_of(args.desc) + block.rows[0].table;
    uint32_t plane = args.plane + (args.by_loop ? block.rows[0].loop : 0),
             first = block.range.first;
    uint32_t sees[2] = {gqa_sees(block, q0 + (lane >> 2)), gqa_sees(block, q0 + (lane >> 2) + 8)};
    for (uint32_t i = threadIdx.x; i < 2 * CU_ATTN_KEYS; i += GQA_THREADS)
        slots[i] =
            slot_of(args.desc, args.cache, table, plane, first * CU_ATTN_KEYS + i, block.keys);
    __syncthreads();
    gqa_load_keys(args, block, slots, ks, vs);
    for (uint32_t tile = first; tile < block.range.last; tile++) {
        uint32_t now = (tile - first) & 1, k0 = tile * CU_ATTN_KEYS, ahead = RM_NO_SLOT;
        copies_wait();
        __syncthreads(); /* this tile is here; the other buffer has been used */
        if (tile + 1 < block.range.last) {
            gqa_load_keys(args, block, slots + (now ^ 1) * CU_ATTN_KEYS,
                          ks + (now ^ 1) * tile_values, vs + (now ^ 1) * tile_values);
        }
        if (threadIdx.x < CU_ATTN_KEYS) {
            ahead = slot_of(args.desc, args.cache, table, plane,
                            k0 + 2 * CU_ATTN_KEYS + threadIdx.x, block.keys);
        }
        warp_operands ops;
        ops.q = (const bf16 *)(shared + at.q) + q0 * ld;
        ops.k = ks + now * tile_values + key0 * ld;
        ops.v = vs + now * tile_values + key0 * ld;
        ops.ld_q = ops.ld_k = ops.ld_v = ld;
        ops.k_steps = ops.v_pieces = args.dk / 16;
        ops.scale = args.scale * LOG2E;
        int32_t see[2] = {(int32_t)(sees[0] - k0 - key0), (int32_t)(sees[1] - k0 - key0)};
        warp_attend<NT, VT>(sum, ops, see);
        /* This tile's slots were read a barrier ago, when its keys were sent for. */
        if (threadIdx.x < CU_ATTN_KEYS) slots[now * CU_ATTN_KEYS + threadIdx.x] = ahead;
    }
}

/* The place of query j's sums: its part, or o if the context has one part. */
struct gqa_place {
    float *part;
    bf16 *o;
    float norm;
    bool query; /* o is the caller's to write */
};
static __device__ __forceinline__ gqa_place gqa_put(const cu_attn_args &args,
                                                    const gqa_block &block, uint32_t j, float m,
                                                    float l, bool first) {
    uint32_t r = j / block.group, h = block.kv * block.group + j % block.group;
    uint64_t part = part_at(args, block.tile.first + r, block.split, h);
    gqa_place place;
    place.part = args.part_o + part * args.dv;
    place.o =
        (bf16 *)args.o + (uint64_t)(block.tile.first + r) * args.o_ld + (uint64_t)h * args.o_head;
    place.norm = l > 0.0f ? 1.0f / l : 0.0f;
    place.query = has_query(args, block.rows[r]);
    if (first && block.range.used > 1) args.part_ml[part * 2] = m, args.part_ml[part * 2 + 1] = l;
    return place;
}

/* Four warps' sums of the same 16 queries, joined in their order. */
template <int VT>
static __device__ void gqa_join(const cu_attn_args &args, const gqa_block &block,
                                unsigned char *shared, const gqa_shared &at,
                                const warp_sums<VT> &sum) {
    uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, q2 = (lane & 3) * 2;
    float *acc = (float *)shared;          /* [warps][16][dv], over keys and values already used */
    float *ml = (float *)(shared + at.ml); /* [warps][16][2] */
    __syncthreads();
#pragma unroll
    for (int half = 0; half < 2; half++) {
        uint32_t j = warp * 16 + g + 8 * half;
        if (q2 == 0) ml[j * 2] = sum.m[half], ml[j * 2 + 1] = sum.l[half];
#pragma unroll
        for (int i = 0; i < VT; i++) {
            uint32_t c = 8 * i + q2;
            if (c >= args.dv) continue;
            acc[j * args.dv + c] = sum.acc[i][2 * half];
            acc[j * args.dv + c + 1] = sum.acc[i][2 * half + 1];
        }
    }
    __syncthreads();
    uint32_t pairs = args.dv / 2;
    for (uint32_t i = threadIdx.x; i < block.queries * pairs; i += GQA_THREADS) {
        uint32_t j = i / pairs, c = i % pairs * 2;
        float top = -INFINITY, l = 0.0f, v[2] = {0.0f, 0.0f};
        for (uint32_t w = 0; w < GQA_WARPS; w++)
            top = fmaxf(top, ml[(w * 16 + j) * 2]);
        for (uint32_t w = 0; w < GQA_WARPS; w++) {
            float m = ml[(w * 16 + j) * 2], scale = m == -INFINITY ? 0.0f : power2(m - top);
            l = fmaf(ml[(w * 16 + j) * 2 + 1], scale, l);
            v[0] = fmaf(acc[(w * 16 + j) * args.dv + c], scale, v[0]);
            v[1] = fmaf(acc[(w * 16 + j) * args.dv + c + 1], scale, v[1]);
        }
        gqa_place place = gqa_put(args, block, j, top, l, c == 0);
        if (block.range.used > 1) place.part[c] = v[0], place.part[c + 1] = v[1];
        else if (place.query)
            *(uint32_t *)(place.o + c) = narrow_pair(v[0] * place.norm, v[1] * place.norm);
    }
}

/* Each warp's own 16 queries from q0 on. */
template <int VT>
static __device__ void gqa_store(const cu_attn_args &args, const gqa_block &block, uint32_t q0,
                                 const warp_sums<VT> &sum) {
    uint32_t lane = threadIdx.x & 31, q2 = (lane & 3) * 2;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        uint32_t j = q0 + (lane >> 2) + 8 * half;
        if (j >= block.queries) continue;
        gqa_place place = gqa_put(args, block, j, sum.m[half], sum.l[half], q2 == 0);
#pragma unroll
        for (int i = 0; i < VT; i++) {
            uint32_t c = 8 * i + q2;
            float x = sum.acc[i][2 * half], y = sum.acc[i][2 * half + 1];
            if (c >= args.dv) continue;
            if (block.range.used > 1) place.part[c] = x, place.part[c + 1] = y;
            else if (place.query)
                *(uint32_t *)(place.o + c) = narrow_pair(x * place.norm, y * place.norm);
        }
    }
}

/* VT: n8 tiles of a value. MANY: tiles may have more than 16 queries. */
template <int VT, bool MANY>
static __global__ void __launch_bounds__(GQA_THREADS, MANY &&VT == 16 ? 2 : 3)
    attn_gqa(cu_attn_args args) {
    kernel_scope scope(args.stamp);
    DYNAMIC_SHARED(shared);
    const uint32_t most = MANY ? (uint32_t)CU_GQA_QUERIES : 16u;
    const gqa_shared at = gqa_layout(args.dk, most, args.splits);
    const cu_head *head = head_of(args.desc);
    if (blockIdx.x >= head->n_tiles) return;
    gqa_block block;
    block.tile = ((const cu_tile *)((const char *)args.desc + head->tiles))[blockIdx.x];
    block.rows = rows_of(args.desc) + block.tile.first;
    block.kv = blockIdx.y;
    block.split = blockIdx.z;
    block.group = args.n_heads / args.n_kv_heads;
    block.queries = block.tile.n * block.group;
    block.keys = block.rows[block.tile.n - 1].pos + 1;
    query_block whole = {block.tile.first, block.tile.n, block.kv * block.group, block.group};
    if (block.tile.n == 1 && !has_query(args, block.rows[0])) {
        if (block.split == 0) write_zeros<bf16>(args, whole);
        return;
    }
    block.range = split_range(args, block.keys, block.split);
    if (block.range.first >= block.range.last) return;
    gqa_load_queries(args, block, most, (bf16 *)(shared + at.q));
    uint32_t warp = threadIdx.x >> 5;
    warp_sums<VT> sum;
    sums_clear(sum);
    if (MANY && block.queries > 16) {
        gqa_keys<CU_ATTN_KEYS / 8, VT>(args, block, shared, at, warp * 16, 0, sum);
        gqa_store(args, block, warp * 16, sum);
    } else {
        gqa_keys<CU_ATTN_KEYS / 8 / GQA_WARPS, VT>(args, block, shared, at, 0, warp * 16, sum);
        gqa_join(args, block, shared, at, sum);
    }
    if (block.range.used > 1) {
        uint32_t *arrived = args.arrived + (uint64_t)blockIdx.x * gridDim.y + blockIdx.y;
        if (!comes_last(arrived, block.range.used, (uint32_t *)shared)) return;
        merge_parts<4, false, bf16>(args, whole, block.range.used, shared);
    }
    write_zeros<bf16>(args, whole);
}

/* Tiles are summed in one of two ways, by their number of queries; if a row's bits may not depend
 * on its tile, always in the way for few. */
static bool few_only(const cu_attn_args *args) {
    return args->invariant ||
           gqa_layout(args->dk, CU_GQA_QUERIES, args->splits).bytes > args->shared;
}

extern "C" bool cu_attn_fits_gqa(const cu_attn_args *args, bool f32) {
    return !f32 && !args->cache.f32 && args->v_offset > 0 && args->dk == args->dv &&
           args->dk % 16 == 0 && args->dk <= 128 && args->n_heads <= 16 * args->n_kv_heads &&
           args->v_offset % 8 == 0 && args->cache.slot_values % 8 == 0 &&
           gqa_layout(args->dk, 16, args->splits).bytes <= args->shared;
}

extern "C" uint32_t cu_gqa_tile_rows(const cu_attn_args *args) {
    return (few_only(args) ? 16u : (uint32_t)CU_GQA_QUERIES) / (args->n_heads / args->n_kv_heads);
}

extern "C" cudaError_t cu_attn_gqa(cudaStream_t stream, const cu_attn_args *args, uint32_t tiles,
                                   bool one_row) {
    dim3 grid(tiles, args->n_kv_heads, args->splits);
    bool few = one_row || few_only(args);
    uint32_t bytes = gqa_layout(args->dk, few ? 16 : CU_GQA_QUERIES, args->splits).bytes;
    if (args->dk <= 64) {
        if (few) return LAUNCH((attn_gqa<8, false>), grid, GQA_THREADS, bytes, stream, *args);
        return LAUNCH((attn_gqa<8, true>), grid, GQA_THREADS, bytes, stream, *args);
    }
    if (few) return LAUNCH((attn_gqa<16, false>), grid, GQA_THREADS, bytes, stream, *args);
    return LAUNCH((attn_gqa<16, true>), grid, GQA_THREADS, bytes, stream, *args);
}

extern "C" cudaError_t cu_gqa_setup(int most) {
    const cudaFuncAttribute shared = cudaFuncAttributeMaxDynamicSharedMemorySize;
    cudaError_t rc = cudaFuncSetAttribute(attn_gqa<8, false>, shared, most);
    if (rc == cudaSuccess) rc = cudaFuncSetAttribute(attn_gqa<8, true>, shared, most);
    if (rc == cudaSuccess) rc = cudaFuncSetAttribute(attn_gqa<16, false>, shared, most);
    if (rc == cudaSuccess) rc = cudaFuncSetAttribute(attn_gqa<16, true>, shared, most);
    return rc;
}
