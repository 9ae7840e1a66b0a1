/* mha.cu - attention where every query head has keys and values of its own, one row at a time.
 *
 * Tensor cores take 16 queries at once, and here there is one for a key: what counts is how many
 * keys are on their way. LANES lanes of a warp hold one key, 16 bytes each, and the same 16 bytes
 * of its value, in registers; nothing goes through shared memory. A block of 4 warps takes one head
 * and one split of the context, 64 keys at a time, each warp 16 of them.
 *
 * In flight: a warp sends for its 16 keys and values before it uses the first. That is 32 * dk * 2
 * bytes, 8 KB for heads of 128, as 16 loads of 16 bytes by 32 lanes; 4 warps make 32 KB a block.
 * A multiprocessor of an H200 has to keep 26 KB in flight (4.3 TB/s over 132, times 0.8 us). One
 * block does that while it loads, and the 4 that find room there do while others compute.
 *
 * Each group of lanes keeps sums of its own: of the keys it holds, in order of their positions.
 * Groups are joined at the end, then warps, in a fixed order. So a row's bits depend on its own
 * keys, and on how its context is split, alone. */
#include "engine/cuda/attention.cuh"

enum { MHA_THREADS = 128, MHA_WARPS = 4, MHA_WARP_KEYS = CU_ATTN_KEYS / MHA_WARPS, PIECE = 8 };

/* The keys that one group of lanes has seen: their maximum as a power of two, the sum of their
 * weights, and each lane's 8 columns of the weighed values. */
struct mha_sums {
    float m, l, acc[PIECE];
};

/* 16 bytes of the cache, which an earlier kernel of this launch may have written. */
static __device__ __forceinline__ vec16 load_cache(const bf16 *p) {
#ifdef __CUDA_ARCH__
    vec16 v;
    asm volatile("ld.global.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.w[0]), "=r"(v.w[1]), "=r"(v.w[2]), "=r"(v.w[3])
                 : "l"(p));
    return v;
#else
    return *(const vec16 *)p;
#endif
}

static __device__ __forceinline__ void widen_piece(const vec16 &v, float to[PIECE]) {
#pragma unroll
    for (int i = 0; i < PIECE; i++)
        to[i] = rm_bf16_widen((uint16_t)(v.w[i / 2] >> (i & 1) * 16));
}

/* What sums by maximum m count for beside sums by maximum `top`. */
static __device__ __forceinline__ float part_weight(float m, float top) {
    return m == -INFINITY ? 0.0f : power2(m - top);
}

/* Where a row's slots are: its block table and its plane of the maps. */
struct mha_slots {
    const uint32_t *table;
    uint32_t plane, last; /* last: the row's own position */
    bool wrong;           /* a map named no slot */
};

/* Slots of a warp's keys from `key` on, one a lane, twice over. Beyond the context it is the last
 * position's: its keys are numbers, so they may be multiplied by a weight of 0. */
static __device__ __forceinline__ uint32_t mha_slot(const cu_attn_args &a, mha_slots &in,
                                                    uint32_t key) {
    key += threadIdx.x & (MHA_WARP_KEYS - 1);
    uint32_t slot =
        rm_slot(a.cache.maps, in.table, a.cache.n_planes, in.plane, key < in.last ? key : in.last);
    bool there = slot < a.cache.n_slots;
    in.wrong |= !there;
    return there ? slot : RM_NO_SLOT;
}

/* One tile's keys of one group of lanes, of which those u count for which u * GROUPS < sees. */
template <int LANES>
static __device__ __forceinline__ void mha_attend(mha_sums &sum, const float q[PIECE],
                                                  const vec16 *k, const vec16 *v,
                                                  const uint32_t *slots, int32_t sees) {
    constexpr int GROUPS = 32 / LANES, KEYS = MHA_WARP_KEYS / GROUPS;
    float s[KEYS], high = sum.m, part = 0.0f;
#pragma unroll
    for (int u = 0; u < KEYS; u++) {
        float key[PIECE], dot = 0.0f;
        widen_piece(k[u], key);
#pragma unroll
        for (int i = 0; i < PIECE; i++)
            dot += q[i] * key[i];
#pragma unroll
        for (int step = LANES / 2; step > 0; step >>= 1)
            dot += __shfl_xor_sync(0xffffffffu, dot, step);
        s[u] = u * GROUPS < sees && slots[u] != RM_NO_SLOT ? dot : -INFINITY;
        high = fmaxf(high, s[u]);
    }
    float base = high == -INFINITY ? 0.0f : high; /* nothing seen yet: every weight is 0 */
    float old = power2(sum.m - base);
    sum.m = high;
#pragma unroll
    for (int i = 0; i < PIECE; i++)
        sum.acc[i] *= old;
#pragma unroll
    for (int u = 0; u < KEYS; u++) {
        float value[PIECE], p = power2(s[u] - base);
        widen_piece(v[u], value);
        part += p;
#pragma unroll
        for (int i = 0; i < PIECE; i++)
            sum.acc[i] += p * value[i];
    }
    sum.l = sum.l * old + part;
}

/* All keys of the range that this lane's group holds. */
template <int LANES>
static __device__ __forceinline__ void mha_keys(const cu_attn_args &a, const cu_row &r, uint32_t h,
                                                key_range range, mha_sums &sum) {
    constexpr int GROUPS = 32 / LANES, KEYS = MHA_WARP_KEYS / GROUPS;
    uint32_t lane = threadIdx.x & 31, group = lane / LANES, piece = lane % LANES;
    uint32_t key0 = range.first * CU_ATTN_KEYS + (threadIdx.x >> 5) * MHA_WARP_KEYS;
    bool idle = piece >= a.dk / PIECE; /* heads of 24, say: such a lane's query is 0 */
    uint32_t column = h * a.dk + (idle ? 0 : piece * PIECE);
    const bf16 *pool = (const bf16 *)a.cache.slots + column;
    float q[PIECE];
    widen_piece(
        *(const vec16 *)((const bf16 *)a.q + (uint64_t)blockIdx.x * a.n_heads * a.dk + column), q);
#pragma unroll
    for (int i = 0; i < PIECE; i++)
        q[i] = idle ? 0.0f : q[i] * (a.scale * LOG2E);
    mha_slots in = {tables_of(a.desc) + r.table, a.plane + (a.by_loop ? r.loop : 0), r.pos, false};
    uint32_t at = mha_slot(a, in, key0);
    for (uint32_t tile = range.first; tile < range.last; tile++, key0 += CU_ATTN_KEYS) {
        vec16 k[KEYS], v[KEYS];
        uint32_t slots[KEYS];
#pragma unroll
        for (int u = 0; u < KEYS; u++) {
            slots[u] = __shfl_sync(0xffffffffu, at, u * GROUPS + (int)group);
            uint32_t slot = slots[u] == RM_NO_SLOT ? 0 : slots[u];
            const bf16 *from = pool + (uint64_t)slot * a.cache.slot_values;
            k[u] = load_cache(from);
            v[u] = load_cache(from + a.v_offset);
        }
        __syncwarp(); /* else the compiler sends for most values once scores are done */
        at = mha_slot(a, in, key0 + CU_ATTN_KEYS); /* looked up while the keys come */
        mha_attend<LANES>(sum, q, k, v, slots, (int32_t)(r.pos + 1 - key0 - group));
    }
    if (in.wrong) *head_of(a.desc)->bad = 1;
}

/* The groups of a warp into its first. */
template <int LANES> static __device__ __forceinline__ void mha_join_groups(mha_sums &sum) {
#pragma unroll
    for (int step = LANES; step < 32; step *= 2) {
        float m = __shfl_xor_sync(0xffffffffu, sum.m, step), top = fmaxf(sum.m, m);
        float mine = part_weight(sum.m, top), other = part_weight(m, top);
        sum.l = sum.l * mine + __shfl_xor_sync(0xffffffffu, sum.l, step) * other;
#pragma unroll
        for (int i = 0; i < PIECE; i++) {
            sum.acc[i] = sum.acc[i] * mine + __shfl_xor_sync(0xffffffffu, sum.acc[i], step) * other;
        }
        sum.m = top;
    }
}

/* The warps, through shared memory, and out. */
static __device__ __forceinline__ void mha_join_warps(const cu_attn_args &a, const mha_sums &sum,
                                                      unsigned char *shared) {
    float *acc = (float *)shared, *ml = acc + MHA_WARPS * a.dk; /* [warps][dk], [warps][2] */
    uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5, c = threadIdx.x;
    if (lane < a.dk / PIECE) { /* lanes of the first group */
#pragma unroll
        for (int i = 0; i < PIECE; i++)
            acc[warp * a.dk + lane * PIECE + i] = sum.acc[i];
    }
    if (lane == 0) ml[warp * 2] = sum.m, ml[warp * 2 + 1] = sum.l;
    __syncthreads();
    if (c >= a.dk) return; /* dk <= MHA_THREADS */
    float top = -INFINITY, l = 0.0f, v = 0.0f;
#pragma unroll
    for (int w = 0; w < MHA_WARPS; w++)
        top = fmaxf(top, ml[w * 2]);
#pragma unroll
    for (int w = 0; w < MHA_WARPS; w++) {
        float scale = part_weight(ml[w * 2], top);
        l += ml[w * 2 + 1] * scale;
        v += acc[w * a.dk + c] * scale;
    }
    uint64_t part = part_at(a, blockIdx.x, blockIdx.z, blockIdx.y);
    a.part_o[part * a.dv + c] = v;
    if (c) return;
    a.part_ml[part * 2] = top * LN2;
    a.part_ml[part * 2 + 1] = l;
}

/* A block: row x of the launch, head y, split z. LANES: dk / 8 or more, a power of two. */
template <int LANES>
static __global__ void __launch_bounds__(MHA_THREADS, 4) attn_mha(cu_attn_args a) {
    kernel_scope scope(a.stamp);
    DYNAMIC_SHARED(shared);
    if (blockIdx.x >= head_of(a.desc)->n_rows) return;
    cu_row r = rows_of(a.desc)[blockIdx.x];
    if (r.flags & a.no_query) return; /* nobody reads its parts */
    key_range range = split_range(a, r.pos + 1, blockIdx.z);
    if (range.first >= range.last) return;
    mha_sums sum = {-INFINITY, 0.0f, {}};
    mha_keys<LANES>(a, r, blockIdx.y, range, sum);
    mha_join_groups<LANES>(sum);
    mha_join_warps(a, sum, shared);
}

extern "C" bool cu_attn_fits_mha(const cu_attn_args *a, bool f32) {
    return !f32 && !a->cache.f32 && a->n_heads == a->n_kv_heads && a->v_offset > 0 &&
           a->dk == a->dv && a->dk % PIECE == 0 && a->dk <= MHA_THREADS &&
           a->v_offset % PIECE == 0 && a->cache.slot_values % PIECE == 0;
}

extern "C" cudaError_t cu_attn_mha(cudaStream_t s, const cu_attn_args *a, uint32_t rows) {
    dim3 grid(rows, a->n_heads, a->splits);
    uint32_t bytes = MHA_WARPS * (a->dk + 2) * 4;
    if (a->dk <= 16) return LAUNCH(attn_mha<2>, grid, MHA_THREADS, bytes, s, *a);
    if (a->dk <= 32) return LAUNCH(attn_mha<4>, grid, MHA_THREADS, bytes, s, *a);
    if (a->dk <= 64) return LAUNCH(attn_mha<8>, grid, MHA_THREADS, bytes, s, *a);
    return LAUNCH(attn_mha<16>, grid, MHA_THREADS, bytes, s, *a);
}
