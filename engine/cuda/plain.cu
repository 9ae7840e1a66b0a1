/* plain.cu - attention for any shape and type, and for parity with the CPU engine: float32 sums, a
 * dot product to a thread. */
#include "engine/cuda/attention.cuh"

enum { SIMPLE_THREADS = 128 };

/* Sums of one row's heads to their parts, or to o if the context has one part. */
template <typename ACT>
static __device__ void simple_store(const cu_attn_args &args, const query_block &block,
                                    uint32_t split, bool whole, const float *acc, const float *m,
                                    const float *l) {
    uint64_t part = part_at(args, block.row, split, block.h0);
    __syncthreads();
    for (uint32_t c = threadIdx.x; c < block.heads * args.dv; c += SIMPLE_THREADS) {
        uint32_t head = c / args.dv, d = c % args.dv;
        float norm = l[head] > 0.0f ? 1.0f / l[head] : 0.0f;
        ACT *o = (ACT *)args.o + (uint64_t)block.row * args.o_ld +
                 (uint64_t)(block.h0 + head) * args.o_head;
        if (whole) narrow(acc[c] * norm, &o[d]);
        else args.part_o[part * args.dv + c] = acc[c];
    }
    for (uint32_t head = threadIdx.x; !whole && head < block.heads; head += SIMPLE_THREADS) {
        args.part_ml[(part + head) * 2] = m[head];
        args.part_ml[(part + head) * 2 + 1] = l[head];
    }
}

/* Plain: a block takes one row, some query heads of one K/V head, and one split. Q: type of queries
 * and o; C: of the cache. */
template <typename Q, typename C>
static __global__ void __launch_bounds__(SIMPLE_THREADS, 4)
    attn_simple(cu_attn_args args, uint32_t most) {
    kernel_scope scope(args.stamp);
    DYNAMIC_SHARED(shared);
    uint32_t i = blockIdx.x, per_kv = args.n_heads / args.n_kv_heads,
             chunks = (per_kv + most - 1) / most;
    uint32_t kv = blockIdx.y / chunks, from = blockIdx.y % chunks * most, split = blockIdx.z;
    if (i >= head_of(args.desc)->n_rows) return;
    cu_row row = rows_of(args.desc)[i];
    uint32_t group = per_kv - from < most ? per_kv - from : most, h0 = kv * per_kv + from;
    query_block block = {i, 1, h0, group};
    if (!has_query(args, row)) {
        if (split == 0) write_zeros<Q>(args, block);
        return;
    }
    uint32_t keys = row.pos + 1, plane = args.plane + (args.by_loop ? row.loop : 0);
    key_range range = split_range(args, keys, split);
    if (range.first >= range.last) return;
    const uint32_t *table = tables_of(args.desc) + row.table;
    float *qs = (float *)shared, *s = qs + group * args.dk, *acc = s + group * CU_ATTN_KEYS;
    float *m = acc + group * args.dv, *l = m + group, *old = l + group;
    uint32_t *slots = (uint32_t *)(old + group);
    const Q *q = (const Q *)args.q + ((uint64_t)i * args.n_heads + h0) * args.dk;
    const C *pool = (const C *)args.cache.slots;
    uint32_t k_at = args.n_kv_heads > 1 || args.v_offset ? kv * args.dk : 0;
    uint32_t v_at = args.v_offset + (args.v_offset ? kv * args.dv : 0);
    for (uint32_t c = threadIdx.x; c < group * args.dk; c += SIMPLE_THREADS)
        qs[c] = widen(q[c]);
    for (uint32_t c = threadIdx.x; c < group * args.dv; c += SIMPLE_THREADS)
        acc[c] = 0.0f;
    for (uint32_t head = threadIdx.x; head < group; head += SIMPLE_THREADS)
        m[head] = -INFINITY, l[head] = 0.0f;

    for (uint32_t tile = range.first; tile < range.last; tile++) {
        uint32_t k0 = tile * CU_ATTN_KEYS;
        __syncthreads();
        for (uint32_t k = threadIdx.x; k < CU_ATTN_KEYS; k += SIMPLE_THREADS)
            slots[k] = slot_of(args.desc, args.cache, table, plane, k0 + k, keys);
        __syncthreads();
        for (uint32_t c = threadIdx.x; c < group * CU_ATTN_KEYS; c += SIMPLE_THREADS) {
            uint32_t k = c % CU_ATTN_KEYS;
            bool seen = slots[k] != RM_NO_SLOT;
            const C *key = pool + (seen ? (uint64_t)slots[k] * args.cache.slot_values : 0) + k_at;
            const float *query = qs + c / CU_ATTN_KEYS * args.dk;
            float dot = 0.0f;
            for (uint32_t d = 0; seen && d < args.dk; d++)
                dot += query[d] * widen(key[d]);
            s[c] = seen ? dot * args.scale : -INFINITY;
        }
        __syncthreads();
        for (uint32_t head = threadIdx.x; head < group; head += SIMPLE_THREADS) {
            float *score = s + head * CU_ATTN_KEYS, now = m[head], sum = 0.0f;
            for (uint32_t k = 0; k < CU_ATTN_KEYS; k++)
                now = fmaxf(now, score[k]);
            for (uint32_t k = 0; k < CU_ATTN_KEYS; k++) {
                score[k] = rm_part_scale(score[k], now);
                sum += score[k];
            }
            old[head] = rm_part_scale(m[head], now);
            l[head] = l[head] * old[head] + sum;
            m[head] = now;
        }
        __syncthreads();
        for (uint32_t c = threadIdx.x; c < group * args.dv; c += SIMPLE_THREADS) {
            uint32_t head = c / args.dv, d = c % args.dv;
            float v = acc[c] * old[head];
#pragma unroll 4
            for (uint32_t k = 0; k < CU_ATTN_KEYS; k++) {
                if (slots[k] == RM_NO_SLOT) continue;
                v += s[head * CU_ATTN_KEYS + k] *
                     widen(pool[(uint64_t)slots[k] * args.cache.slot_values + v_at + d]);
            }
            acc[c] = v;
        }
    }
    simple_store<Q>(args, block, split, range.used == 1, acc, m, l);
    if (range.used > 1) {
        uint32_t *arrived = args.arrived + (uint64_t)i * gridDim.y + blockIdx.y;
        if (!comes_last(arrived, range.used, (uint32_t *)shared)) return;
        merge_parts<1, true, Q>(args, block, range.used, shared);
    }
    write_zeros<Q>(args, block);
}

/* ---- launchers ---- */

/* Shared memory for so many query heads. */
static uint32_t simple_bytes(const cu_attn_args *args, uint32_t heads) {
    uint32_t bytes = (heads * (args->dk + CU_ATTN_KEYS + args->dv + 3) + CU_ATTN_KEYS) * 4;
    return bytes > merge_bytes(args->splits) ? bytes : merge_bytes(args->splits);
}

extern "C" cudaError_t cu_attn_simple(cudaStream_t stream, const cu_attn_args *args, uint32_t rows,
                                      bool f32) {
    uint32_t group = args->n_heads / args->n_kv_heads, most = group;
    while (most > 1 && simple_bytes(args, most) > args->shared)
        most = cu_ceil_div(most, 2);
    dim3 grid(rows, args->n_kv_heads * cu_ceil_div(group, most), args->splits);
    uint32_t bytes = simple_bytes(args, most);
    if (f32 && args->cache.f32)
        return LAUNCH((attn_simple<float, float>), grid, SIMPLE_THREADS, bytes, stream, *args,
                      most);
    if (f32)
        return LAUNCH((attn_simple<float, bf16>), grid, SIMPLE_THREADS, bytes, stream, *args, most);
    if (args->cache.f32)
        return LAUNCH((attn_simple<bf16, float>), grid, SIMPLE_THREADS, bytes, stream, *args, most);
    return LAUNCH((attn_simple<bf16, bf16>), grid, SIMPLE_THREADS, bytes, stream, *args, most);
}

extern "C" cudaError_t cu_simple_setup(int most) {
    const cudaFuncAttribute shared = cudaFuncAttributeMaxDynamicSharedMemorySize;
    cudaError_t rc = cudaFuncSetAttribute(attn_simple<float, float>, shared, most);
    if (rc == cudaSuccess) rc = cudaFuncSetAttribute(attn_simple<float, bf16>, shared, most);
    if (rc == cudaSuccess) rc = cudaFuncSetAttribute(attn_simple<bf16, float>, shared, most);
    if (rc == cudaSuccess) rc = cudaFuncSetAttribute(attn_simple<bf16, bf16>, shared, most);
    return rc;
}
