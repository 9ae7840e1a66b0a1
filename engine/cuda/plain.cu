/* plain.cu - attention for any shape and type, and for parity with the CPU engine: float32 sums, a
 * dot product to a thread. */
#include "engine/cuda/attention.cuh"

enum { SIMPLE_THREADS = 128 };

/* Sums of one row's heads to their parts, or, where the context has one part, to o. */
template <typename A>
static __device__ void simple_store(const cu_attn_args &a, const query_block &b, uint32_t split,
                                    bool whole, const float *acc, const float *m, const float *l) {
    uint64_t part = part_at(a, b.row, split, b.h0);
    __syncthreads();
    for (uint32_t c = threadIdx.x; c < b.heads * a.dv; c += SIMPLE_THREADS) {
        uint32_t h = c / a.dv, d = c % a.dv;
        float norm = l[h] > 0.0f ? 1.0f / l[h] : 0.0f;
        A *o = (A *)a.o + (uint64_t)b.row * a.o_ld + (uint64_t)(b.h0 + h) * a.o_head;
        if (whole) narrow(acc[c] * norm, &o[d]);
        else a.part_o[part * a.dv + c] = acc[c];
    }
    for (uint32_t h = threadIdx.x; !whole && h < b.heads; h += SIMPLE_THREADS) {
        a.part_ml[(part + h) * 2] = m[h];
        a.part_ml[(part + h) * 2 + 1] = l[h];
    }
}

/* Plain: a block takes one row, some query heads of one K/V head, and one split. Q: type of queries
 * and o; C: of the cache. */
template <typename Q, typename C>
static __global__ void __launch_bounds__(SIMPLE_THREADS, 4)
    attn_simple(cu_attn_args a, uint32_t most) {
    kernel_scope scope(a.stamp);
    DYNAMIC_SHARED(shared);
    uint32_t i = blockIdx.x, per_kv = a.n_heads / a.n_kv_heads, chunks = (per_kv + most - 1) / most;
    uint32_t kv = blockIdx.y / chunks, from = blockIdx.y % chunks * most, split = blockIdx.z;
    if (i >= head_of(a.desc)->n_rows) return;
    cu_row r = rows_of(a.desc)[i];
    uint32_t group = per_kv - from < most ? per_kv - from : most, h0 = kv * per_kv + from;
    query_block b = {i, 1, h0, group};
    if (!has_query(a, r)) {
        if (split == 0) write_zeros<Q>(a, b);
        return;
    }
    uint32_t keys = r.pos + 1, plane = a.plane + (a.by_loop ? r.loop : 0);
    key_range range = split_range(a, keys, split);
    if (range.first >= range.last) return;
    const uint32_t *table = tables_of(a.desc) + r.table;
    float *qs = (float *)shared, *s = qs + group * a.dk, *acc = s + group * CU_ATTN_KEYS;
    float *m = acc + group * a.dv, *l = m + group, *old = l + group;
    uint32_t *slots = (uint32_t *)(old + group);
    const Q *q = (const Q *)a.q + ((uint64_t)i * a.n_heads + h0) * a.dk;
    const C *pool = (const C *)a.cache.slots;
    uint32_t k_at = a.n_kv_heads > 1 || a.v_offset ? kv * a.dk : 0;
    uint32_t v_at = a.v_offset + (a.v_offset ? kv * a.dv : 0);
    for (uint32_t c = threadIdx.x; c < group * a.dk; c += SIMPLE_THREADS)
        qs[c] = widen(q[c]);
    for (uint32_t c = threadIdx.x; c < group * a.dv; c += SIMPLE_THREADS)
        acc[c] = 0.0f;
    for (uint32_t h = threadIdx.x; h < group; h += SIMPLE_THREADS)
        m[h] = -INFINITY, l[h] = 0.0f;

    for (uint32_t tile = range.first; tile < range.last; tile++) {
        uint32_t k0 = tile * CU_ATTN_KEYS;
        __syncthreads();
        for (uint32_t k = threadIdx.x; k < CU_ATTN_KEYS; k += SIMPLE_THREADS)
            slots[k] = slot_of(a.desc, a.cache, table, plane, k0 + k, keys);
        __syncthreads();
        for (uint32_t c = threadIdx.x; c < group * CU_ATTN_KEYS; c += SIMPLE_THREADS) {
            uint32_t k = c % CU_ATTN_KEYS;
            bool seen = slots[k] != RM_NO_SLOT;
            const C *key = pool + (seen ? (uint64_t)slots[k] * a.cache.slot_values : 0) + k_at;
            const float *query = qs + c / CU_ATTN_KEYS * a.dk;
            float dot = 0.0f;
            for (uint32_t d = 0; seen && d < a.dk; d++)
                dot += query[d] * widen(key[d]);
            s[c] = seen ? dot * a.scale : -INFINITY;
        }
        __syncthreads();
        for (uint32_t h = threadIdx.x; h < group; h += SIMPLE_THREADS) {
            float *score = s + h * CU_ATTN_KEYS, now = m[h], sum = 0.0f;
            for (uint32_t k = 0; k < CU_ATTN_KEYS; k++)
                now = fmaxf(now, score[k]);
            for (uint32_t k = 0; k < CU_ATTN_KEYS; k++) {
                score[k] = rm_part_scale(score[k], now);
                sum += score[k];
            }
            old[h] = rm_part_scale(m[h], now);
            l[h] = l[h] * old[h] + sum;
            m[h] = now;
        }
        __syncthreads();
        for (uint32_t c = threadIdx.x; c < group * a.dv; c += SIMPLE_THREADS) {
            uint32_t h = c / a.dv, d = c % a.dv;
            float v = acc[c] * old[h];
#pragma unroll 4
            for (uint32_t k = 0; k < CU_ATTN_KEYS; k++) {
                if (slots[k] == RM_NO_SLOT) continue;
                v += s[h * CU_ATTN_KEYS + k] *
                     widen(pool[(uint64_t)slots[k] * a.cache.slot_values + v_at + d]);
            }
            acc[c] = v;
        }
    }
    simple_store<Q>(a, b, split, range.used == 1, acc, m, l);
    if (range.used > 1) {
        uint32_t *arrived = a.arrived + (uint64_t)i * gridDim.y + blockIdx.y;
        if (!comes_last(arrived, range.used, (uint32_t *)shared)) return;
        merge_parts<1, true, Q>(a, b, range.used, shared);
    }
    write_zeros<Q>(a, b);
}

/* ---- launchers ---- */

/* Shared memory for so many query heads. */
static uint32_t simple_bytes(const cu_attn_args *a, uint32_t heads) {
    uint32_t bytes = (heads * (a->dk + CU_ATTN_KEYS + a->dv + 3) + CU_ATTN_KEYS) * 4;
    return bytes > merge_bytes(a->splits) ? bytes : merge_bytes(a->splits);
}

extern "C" cudaError_t cu_attn_simple(cudaStream_t s, const cu_attn_args *a, uint32_t rows,
                                      bool f32) {
    uint32_t group = a->n_heads / a->n_kv_heads, most = group;
    while (most > 1 && simple_bytes(a, most) > a->shared)
        most = cu_ceil_div(most, 2);
    dim3 grid(rows, a->n_kv_heads * cu_ceil_div(group, most), a->splits);
    uint32_t bytes = simple_bytes(a, most);
    if (f32 && a->cache.f32)
        return LAUNCH((attn_simple<float, float>), grid, SIMPLE_THREADS, bytes, s, *a, most);
    if (f32) return LAUNCH((attn_simple<float, bf16>), grid, SIMPLE_THREADS, bytes, s, *a, most);
    if (a->cache.f32)
        return LAUNCH((attn_simple<bf16, float>), grid, SIMPLE_THREADS, bytes, s, *a, most);
    return LAUNCH((attn_simple<bf16, bf16>), grid, SIMPLE_THREADS, bytes, s, *a, most);
}

extern "C" cudaError_t cu_simple_setup(int most) {
    const cudaFuncAttribute shared = cudaFuncAttributeMaxDynamicSharedMemorySize;
    cudaError_t rc = cudaFuncSetAttribute(attn_simple<float, float>, shared, most);
    if (rc == cudaSuccess) rc = cudaFuncSetAttribute(attn_simple<float, bf16>, shared, most);
    if (rc == cudaSuccess) rc = cudaFuncSetAttribute(attn_simple<bf16, float>, shared, most);
    if (rc == cudaSuccess) rc = cudaFuncSetAttribute(attn_simple<bf16, bf16>, shared, most);
    return rc;
}
