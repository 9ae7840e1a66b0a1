/* attention.cu - attention of rows over the cache, through lists of slots.
 *
 * Absorbed MLA is attention with one K/V head: the key of a position is its slot, the value
 * the slot's first kv_lora values. The context is split over thread blocks; each leaves an
 * unnormalised sum with its maximum, and cu_attn_merge joins them.
 *
 * attn_mma: tensor cores, bfloat16 cache. A block of 4 warps takes 16 heads (one m16 tile) of
 * up to CU_ATTN_ROWS rows of one sequence against tiles of 64 keys. Scores: each warp 16
 * keys; values: each warp a share of the latent, so a slot is read from memory once.
 * attn_simple: any shape and type, and the parity mode.
 * GQA by tensor cores is gqa.cu, decode with a K/V head for every query head mha.cu; long chunks
 * of a prompt under MLA are flash.cu. */
#include "engine/cuda/attention.cuh"

enum {
    MMA_THREADS = 128,
    SIMPLE_THREADS = 128,
    MERGE_THREADS = 128,
    P_LD = CU_ATTN_KEYS + 8,
    WIDE_ROWS = 2,
    BLOCK_RESERVE = 1024 /* shared memory that a block takes beyond what it asks for */
};

static __host__ __device__ __forceinline__ uint32_t key_ld(uint32_t dk) {
    return (dk + 15) / 16 * 16 + 8;
}

/* Slots of 64 positions from k0 on; RM_NO_SLOT beyond the context or where the map is wrong. */
static __device__ __forceinline__ void find_slots(const cu_attn_args &a, const cu_row &r,
                                                  uint32_t k0, uint32_t keys, uint32_t *slots) {

    uint32_t plane = a.plane + (a.by_loop ? r.loop : 0);
    for (uint32_t k = threadIdx.x; k < CU_ATTN_KEYS; k += blockDim.x)
        slots[k] = slot_of(a.desc, a.cache, r.table, plane, k0 + k, keys);
}

struct alignas(8) float_pair { /* as one store */
    float a, b;
};

struct mma_shared { /* offsets in bytes; everything 16-byte aligned */
    uint32_t q, k, p, top, sum, slots, bytes;
};
/* One or two buffers of keys; slots of two tiles in any case. */
static __host__ __device__ __forceinline__ mma_shared mma_layout(uint32_t dk, uint32_t rows,
                                                                 uint32_t buffers) {
    mma_shared s;
    uint32_t ld = key_ld(dk) * 2;
    s.k = 0;
    s.q = s.k + buffers * CU_ATTN_KEYS * ld;
    s.p = s.q + rows * CU_ATTN_HEADS * ld;
    s.top = s.p + rows * CU_ATTN_HEADS * P_LD * 2;
    s.sum = s.top + rows * CU_ATTN_HEADS * 4 * 4;
    s.slots = s.sum + rows * CU_ATTN_HEADS * 4 * 4;
    s.bytes = s.slots + 2 * CU_ATTN_KEYS * 4;
    return s;
}

/* 16-byte vectors of a key: a constant, or with 0 what the arguments say. */
template <uint32_t VECS>
static __device__ __forceinline__ uint32_t key_vecs(const cu_attn_args &a) {
    return VECS ? VECS : a.dk / 8;
}

/* Queries of 16 heads of each row on their way, 8 threads to a head; zeros for heads that are not
 * there, and beyond dk up to a multiple of 16. */
template <int R, uint32_t VECS>
static __device__ __forceinline__ void load_queries(const cu_attn_args &a, cu_tile t, uint32_t h0,
                                                    bf16 *q) {
    const uint32_t vecs = key_vecs<VECS>(a), ld = key_ld(vecs * 8);
    const uint32_t head = threadIdx.x >> 3;
    const vec16 zero = {{0, 0, 0, 0}};
#pragma unroll 1
    for (uint32_t r = 0; r < R; r++) {
        bool there = r < t.n && h0 + head < a.n_heads;
        const bf16 *from = (const bf16 *)a.q;
        if (there) from += ((uint64_t)(t.first + r) * a.n_heads + h0 + head) * (vecs * 8);
        bf16 *to = q + (r * CU_ATTN_HEADS + head) * ld;
        for (uint32_t c = threadIdx.x & 7; c < vecs; c += 8) {
            if (there) copy_async(to + c * 8, from + c * 8);
            else *(vec16 *)(to + c * 8) = zero;
        }
        if (vecs % 2 && (threadIdx.x & 7) == 0) *(vec16 *)(to + vecs * 8) = zero;
    }
}

/* 64 keys on their way, 4 threads to a key; zeros where there is no slot. Neighbours in a group of
 * 8 threads take keys that are 4 apart: they write to different banks. */
template <uint32_t VECS>
static __device__ __forceinline__ void load_keys(const cu_attn_args &a, const uint32_t *slots,
                                                 bf16 *k) {
    const uint32_t vecs = key_vecs<VECS>(a), ld = key_ld(vecs * 8), c0 = threadIdx.x & 3;
    const uint32_t group = threadIdx.x >> 2;
    const uint32_t first = (group & ~7u) | (group & 1) << 2 | (group >> 1 & 3);
#pragma unroll 1
    for (uint32_t key = first; key < first + CU_ATTN_KEYS; key += MMA_THREADS / 4) {
        uint32_t slot = slots[key];
        bf16 *to = k + key * ld;
        if (slot != RM_NO_SLOT) {
            const bf16 *from = (const bf16 *)a.cache.slots + (uint64_t)slot * a.cache.slot_values;
#pragma unroll(VECS ? (VECS + 3) / 4 : 2)
            for (uint32_t c = c0; c < vecs; c += 4)
                copy_async(to + c * 8, from + c * 8);
        } else {
            const vec16 zero = {{0, 0, 0, 0}};
#pragma unroll 1
            for (uint32_t c = c0; c < vecs; c += 4)
                *(vec16 *)(to + c * 8) = zero;
        }
    }
}

/* Slots that later tiles need, looked up in two steps of which none is waited for at once: a
 * thread below CU_ATTN_KEYS reads the block of its position in one turn, the slot in the next. */
struct slot_reader {
    const uint32_t *table, *map; /* map: of block 0 at the tile's plane */
    uint32_t keys, stride, block, slot;
};
static __device__ __forceinline__ void read_block(slot_reader &f, uint32_t k0) {
    uint32_t key = k0 + threadIdx.x;
    if (threadIdx.x < CU_ATTN_KEYS && key < f.keys) f.block = f.table[key >> RM_BLOCK_SHIFT];
}
static __device__ __forceinline__ void read_slot(slot_reader &f, uint32_t k0) {
    uint32_t key = k0 + threadIdx.x;
    if (threadIdx.x < CU_ATTN_KEYS && key < f.keys)
        f.slot = f.map[(uint64_t)f.block * f.stride + (key & RM_BLOCK_MASK)];
}
static __device__ __forceinline__ void keep_slot(const cu_attn_args &a, const slot_reader &f,
                                                 uint32_t k0, uint32_t *slots) {
    uint32_t key = k0 + threadIdx.x, slot = RM_NO_SLOT;
    if (threadIdx.x >= CU_ATTN_KEYS) return;
    if (key < f.keys) {
        if (f.slot < a.cache.n_slots) slot = f.slot;
        else *head_of(a.desc)->bad = 1;
    }
    slots[threadIdx.x] = slot;
}

/* PAIRS: most 16-value pieces of the latent one warp sums: 4 warps cover 64 * PAIRS values, and
 * with VECS exactly these. With two buffers the next tile's keys are under way while this tile's
 * are used; no bit depends on it. */
template <int R, int PAIRS, uint32_t VECS>
static __global__ void __launch_bounds__(MMA_THREADS) attn_mma(cu_attn_args a, uint32_t buffers) {
    kernel_scope scope(a.stamp);
    DYNAMIC_SHARED(shared);
    const uint32_t vecs = key_vecs<VECS>(a), ld = key_ld(vecs * 8);
    const mma_shared at = mma_layout(vecs * 8, R, buffers);
    bf16 *ks = (bf16 *)(shared + at.k), *qs = (bf16 *)(shared + at.q),
         *ps = (bf16 *)(shared + at.p);
    float *top = (float *)(shared + at.top), *sum = (float *)(shared + at.sum);
    uint32_t *slots = (uint32_t *)(shared + at.slots);
    const cu_head *head = head_of(a.desc);
    if (blockIdx.x >= head->n_tiles) return;
    cu_tile t = ((const cu_tile *)((const char *)a.desc + head->tiles))[blockIdx.x];
    const cu_row *rows = rows_of(a.desc) + t.first;
    if (rows[0].flags & CU_ROW_EXPANDED) return; /* then all of the tile: flash.cu's */
    uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, q = lane & 3;
    uint32_t h0 = blockIdx.y * CU_ATTN_HEADS, split = blockIdx.z;
    uint32_t keys = rows[t.n - 1].pos + 1;
    const uint32_t k_steps = (vecs + 1) / 2, pieces = VECS ? 4 * PAIRS : a.dv / 16;
    key_range range = split_range(a, keys, split);
    if (range.first >= range.last) return;

    load_queries<R, VECS>(a, t, h0, qs);
    static_assert(MMA_THREADS == 2 * CU_ATTN_KEYS, "a thread looks up one of two tiles' slots");
    uint32_t plane = a.plane + (a.by_loop ? rows[0].loop : 0), table = rows[0].table;
    slots[threadIdx.x] = slot_of(a.desc, a.cache, table, plane,
                                 range.first * CU_ATTN_KEYS + threadIdx.x, keys); /* two tiles' */
    slot_reader ahead = {tables_of(a.desc) + table,
                         a.cache.maps + ((uint64_t)plane << RM_BLOCK_SHIFT),
                         keys,
                         a.cache.n_planes << RM_BLOCK_SHIFT,
                         0,
                         0};
    read_block(ahead, (range.first + 2) * CU_ATTN_KEYS);
    for (uint32_t i = threadIdx.x; vecs % 2 && i < buffers * CU_ATTN_KEYS; i += MMA_THREADS) {
        const vec16 zero = {{0, 0, 0, 0}}; /* beyond dk: read as keys, never written again */
        *(vec16 *)(ks + i * ld + vecs * 8) = zero;
    }
    uint32_t pos[R];
    float m[R][2], l[R][2], acc[R][PAIRS * 2][4];
#pragma unroll
    for (int r = 0; r < R; r++) {
        pos[r] = (uint32_t)r < t.n ? rows[r].pos : 0;
        m[r][0] = m[r][1] = -INFINITY;
        l[r][0] = l[r][1] = 0.0f;
#pragma unroll
        for (int i = 0; i < PAIRS * 2; i++)
            acc[r][i][0] = acc[r][i][1] = acc[r][i][2] = acc[r][i][3] = 0.0f;
    }
    /* Addresses ldmatrix wants of this lane: rows of an m16 (or k16) x 16 piece, and of two n8
     * tiles of 16 keys. */
    uint32_t a_row = lane & 15, a_col = lane >> 4 << 3;
    uint32_t b_row = (lane & 7) + (lane >> 4 << 3), b_col = (lane >> 3 & 1) << 3;

    __syncthreads();
    load_keys<VECS>(a, slots, ks);
    for (uint32_t tile = range.first; tile < range.last; tile++) {
        uint32_t k0 = tile * CU_ATTN_KEYS, now = (tile - range.first) & 1;
        uint32_t *seen_slots = slots + now * CU_ATTN_KEYS;
        const uint32_t *next_slots = slots + (now ^ 1) * CU_ATTN_KEYS;
        const bf16 *kt = ks + (buffers == 2 ? now * CU_ATTN_KEYS * ld : 0);
        bool more = tile + 1 < range.last;
        copies_wait();
        __syncthreads(); /* this tile is here; the other buffer has been used */
        if (more && buffers == 2)
            load_keys<VECS>(a, next_slots, ks + (now ^ 1) * CU_ATTN_KEYS * ld);
        read_slot(ahead, k0 + 2 * CU_ATTN_KEYS);
        read_block(ahead, k0 + 3 * CU_ATTN_KEYS);

        float s[R][2][4] = {};
#pragma unroll(R == 1 ? 4 : VECS ? 2 : 1)
        for (uint32_t step = 0; step < k_steps; step++) {
            uint32_t b[4];
            load_matrices(b, kt + (warp * 16 + b_row) * ld + step * 16 + b_col);
#pragma unroll
            for (int r = 0; r < R; r++) {
                uint32_t f[4];
                load_matrices(f, qs + (r * CU_ATTN_HEADS + a_row) * ld + step * 16 + a_col);
                mma_bf16(s[r][0], f[0], f[1], f[2], f[3], b[0], b[1]);
                mma_bf16(s[r][1], f[0], f[1], f[2], f[3], b[2], b[3]);
            }
        }
#pragma unroll
        for (int r = 0; r < R; r++) { /* mask, scale, and this warp's maxima */
            float high[2] = {-INFINITY, -INFINITY};
#pragma unroll
            for (int n = 0; n < 2; n++) {
#pragma unroll
                for (int c = 0; c < 4; c++) {
                    uint32_t k = warp * 16 + n * 8 + 2 * q + (c & 1);
                    bool seen = k0 + k <= pos[r] && seen_slots[k] != RM_NO_SLOT;
                    s[r][n][c] = seen ? s[r][n][c] * a.scale : -INFINITY;
                    high[c >> 1] = fmaxf(high[c >> 1], s[r][n][c]);
                }
            }
#pragma unroll
            for (int half = 0; half < 2; half++) {
                high[half] = fmaxf(high[half], __shfl_xor_sync(0xffffffffu, high[half], 1));
                high[half] = fmaxf(high[half], __shfl_xor_sync(0xffffffffu, high[half], 2));
                if (q == 0) top[(r * CU_ATTN_HEADS + g + 8 * half) * 4 + warp] = high[half];
            }
        }
        __syncthreads();
#pragma unroll
        for (int r = 0; r < R; r++) {
            float old[2], part[2] = {0.0f, 0.0f};
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const float *w = top + (r * CU_ATTN_HEADS + g + 8 * half) * 4;
                float now = fmaxf(fmaxf(fmaxf(w[0], w[1]), fmaxf(w[2], w[3])), m[r][half]);
                old[half] = rm_part_scale(m[r][half], now);
                m[r][half] = now;
            }
#pragma unroll
            for (int n = 0; n < 2; n++) {
                float p[4];
#pragma unroll
                for (int c = 0; c < 4; c++) {
                    p[c] = rm_part_scale(s[r][n][c], m[r][c >> 1]);
                    part[c >> 1] += p[c];
                }
                bf16 *to = ps + (r * CU_ATTN_HEADS + g) * P_LD + warp * 16 + n * 8 + 2 * q;
                *(uint32_t *)to = narrow_pair(p[0], p[1]);
                *(uint32_t *)(to + 8 * P_LD) = narrow_pair(p[2], p[3]);
            }
#pragma unroll
            for (int half = 0; half < 2; half++)
                l[r][half] = l[r][half] * old[half] + part[half];
#pragma unroll
            for (int i = 0; i < PAIRS * 2; i++) {
                acc[r][i][0] *= old[0];
                acc[r][i][1] *= old[0];
                acc[r][i][2] *= old[1];
                acc[r][i][3] *= old[1];
            }
        }
        __syncthreads();
#pragma unroll
        for (uint32_t step = 0; step < CU_ATTN_KEYS / 16; step++) {
            uint32_t f[R][4];
#pragma unroll
            for (int r = 0; r < R; r++) {
                load_matrices(f[r], ps + (r * CU_ATTN_HEADS + a_row) * P_LD + step * 16 + a_col);
            }
#pragma unroll
            for (int i = 0; i < PAIRS; i++) {
                uint32_t piece = warp + 4 * i;
                if (piece >= pieces) continue; /* whole warps */
                uint32_t b[4];
                load_matrices_t(b, kt + (step * 16 + a_row) * ld + piece * 16 + a_col);
#pragma unroll
                for (int r = 0; r < R; r++) {
                    mma_bf16(acc[r][2 * i], f[r][0], f[r][1], f[r][2], f[r][3], b[0], b[1]);
                    mma_bf16(acc[r][2 * i + 1], f[r][0], f[r][1], f[r][2], f[r][3], b[2], b[3]);
                }
            }
        }
        keep_slot(a, ahead, k0 + 2 * CU_ATTN_KEYS, seen_slots); /* read two barriers ago */
        if (more && buffers == 1) {
            __syncthreads(); /* this tile's keys have been used */
            load_keys<VECS>(a, next_slots, ks);
        }
    }

#pragma unroll
    for (int r = 0; r < R; r++) { /* sums of a head are spread over quads and warps */
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float v = l[r][half];
            v += __shfl_xor_sync(0xffffffffu, v, 1);
            v += __shfl_xor_sync(0xffffffffu, v, 2);
            if (q == 0) sum[(r * CU_ATTN_HEADS + g + 8 * half) * 4 + warp] = v;
        }
    }
    __syncthreads();
#pragma unroll
    for (int r = 0; r < R; r++) {
        if ((uint32_t)r >= t.n) continue;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            uint32_t h = h0 + g + 8 * half;
            if (h >= a.n_heads) continue;
            uint64_t part = part_at(a, t.first + r, split, h);
            if (warp == 0 && q == 0) {
                const float *w = sum + (r * CU_ATTN_HEADS + g + 8 * half) * 4;
                a.part_ml[part * 2] = m[r][half];
                a.part_ml[part * 2 + 1] = w[0] + w[1] + w[2] + w[3];
            }
            float *o = a.part_o + part * a.dv + warp * 16 + 2 * q;
#pragma unroll
            for (int i = 0; i < PAIRS * 2; i++) {
                if (warp + 4 * (i / 2) >= pieces) continue;
                *(float_pair *)(o + i / 2 * 64 + (i & 1) * 8) = {acc[r][i][2 * half],
                                                                 acc[r][i][2 * half + 1]};
            }
        }
    }
}

/* Plain: a block takes one row, one split, and of the query heads of one K/V head up to `most`.
 * Q: type of queries; C: of the cache. The range of a split is that of the row's tile, so that
 * cu_attn_merge need not know which kernel ran. */
template <typename Q, typename C>
static __global__ void __launch_bounds__(SIMPLE_THREADS, 4)
    attn_simple(cu_attn_args a, uint32_t most) {
    kernel_scope scope(a.stamp);
    DYNAMIC_SHARED(shared);
    uint32_t i = blockIdx.x, split = blockIdx.z, of_kv = a.n_heads / a.n_kv_heads;
    uint32_t blocks = (of_kv + most - 1) / most, kv = blockIdx.y / blocks;
    uint32_t skip = blockIdx.y % blocks * most, h0 = kv * of_kv + skip;
    uint32_t group = of_kv - skip < most ? of_kv - skip : most;
    if (i >= head_of(a.desc)->n_rows) return;
    cu_row r = rows_of(a.desc)[i];
    if (r.flags & a.no_query) return;
    uint32_t keys = r.pos + 1;
    key_range range = split_range(a, keys, split);
    if (range.first >= range.last) return;
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
        find_slots(a, r, k0, keys, slots);
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
    uint64_t part = part_at(a, i, split, h0);
    for (uint32_t c = threadIdx.x; c < group * a.dv; c += SIMPLE_THREADS)
        a.part_o[part * a.dv + c] = acc[c];
    for (uint32_t h = threadIdx.x; h < group; h += SIMPLE_THREADS) {
        a.part_ml[(part + h) * 2] = m[h];
        a.part_ml[(part + h) * 2 + 1] = l[h];
    }
}

/* The keys the attention kernel counted for launch row i: those of the last row of its tile. */
static __device__ uint32_t tile_keys(const cu_attn_args &a, uint32_t i, bool tiled) {
    const cu_row *rows = rows_of(a.desc);
    if (!tiled) return rows[i].pos + 1;
    const cu_head *head = head_of(a.desc);
    const cu_tile *tiles = (const cu_tile *)((const char *)a.desc + head->tiles);
    uint32_t low = 0, high = head->n_tiles; /* the last tile that starts at or before i */
    while (high - low > 1) {
        uint32_t mid = (low + high) / 2;
        if (tiles[mid].first <= i) low = mid;
        else high = mid;
    }
    return rows[tiles[low].first + tiles[low].n - 1].pos + 1;
}

/* A warp per head. Rows without a query get zeros, as do those that flash.cu attends for:
 * their products go on, unused. */
template <typename A>
static __global__ void __launch_bounds__(MERGE_THREADS) attn_merge(cu_attn_args a, bool tiled) {
    kernel_scope scope(a.stamp);
    uint32_t i = blockIdx.x, lane = threadIdx.x & 31;
    uint32_t h = blockIdx.y * (MERGE_THREADS / 32) + (threadIdx.x >> 5);
    if (i >= head_of(a.desc)->n_rows || h >= a.n_heads) return;
    bool none = rows_of(a.desc)[i].flags & (a.no_query | CU_ROW_EXPANDED);
    uint32_t used = none ? 0 : splits_used(a, tile_keys(a, i, tiled));
    float top = -INFINITY, sum = 0.0f;
    for (uint32_t s = 0; s < used; s++)
        top = fmaxf(top, a.part_ml[part_at(a, i, s, h) * 2]);
    for (uint32_t s = 0; s < used; s++) {
        const float *ml = a.part_ml + part_at(a, i, s, h) * 2;
        sum += ml[1] * rm_part_scale(ml[0], top);
    }
    float norm = sum > 0.0f ? 1.0f / sum : 0.0f;
    A *o = (A *)a.o + (uint64_t)i * a.o_ld;
    for (uint32_t c = lane; c < a.o_head; c += 32) {
        float v = 0.0f;
        for (uint32_t s = 0; c < a.dv && s < used; s++) {
            uint64_t part = part_at(a, i, s, h);
            v += a.part_o[part * a.dv + c] * rm_part_scale(a.part_ml[part * 2], top);
        }
        narrow(v * norm, &o[(uint64_t)h * a.o_head + c]);
    }
    if (h != a.n_heads - 1) return;
    for (uint32_t c = a.n_heads * a.o_head + lane; c < a.o_ld; c += 32)
        narrow(0.0f, &o[c]);
}

/* ---- launchers ---- */

static uint32_t mma_bytes(const cu_attn_args *a, uint32_t rows, uint32_t buffers) {
    return mma_layout(a->dk, rows, buffers).bytes;
}

/* Most rows that shared memory holds of those that registers hold, or 1; 0: not even one. */
static uint32_t mma_rows(const cu_attn_args *a) {
    uint32_t most = a->dv <= 256 ? (uint32_t)CU_ATTN_ROWS : (uint32_t)WIDE_ROWS;
    if (mma_bytes(a, most, 1) <= a->shared_bytes) return most;
    return mma_bytes(a, 1, 1) <= a->shared_bytes ? 1 : 0;
}

/* Two buffers of keys where all thread blocks of the launch still run at once. Where they would
 * not, blocks beside each other hide their loads from memory as well. */
static uint32_t mma_buffers(const cu_attn_args *a, uint32_t rows, dim3 grid) {
    uint32_t bytes = mma_bytes(a, rows, 2);
    if (bytes > a->shared_bytes) return 1;
    uint32_t per_sm = (a->shared_bytes + BLOCK_RESERVE) / (bytes + BLOCK_RESERVE);
    return (uint64_t)grid.x * grid.y * grid.z <= (uint64_t)a->sms * per_sm ? 2 : 1;
}

extern "C" bool cu_attn_fits_mma(const cu_attn_args *a, bool f32) {
    return !f32 && !a->cache.f32 && a->n_kv_heads == 1 && a->v_offset == 0 && a->dk % 8 == 0 &&
           a->dv % 16 == 0 && a->dv <= 512 && a->dk <= 640 && a->cache.slot_values % 8 == 0 &&
           mma_rows(a) > 0;
}

extern "C" uint32_t cu_attn_tile_rows(const cu_attn_args *a, bool f32) {
    if (cu_attn_fits_mma(a, f32)) return mma_rows(a);
    if (!cu_attn_fits_gqa(a, f32) || cu_gqa_bytes(a, false) > a->shared_bytes) return 1;
    return CU_GQA_QUERIES / (a->n_heads / a->n_kv_heads);
}

template <int PAIRS, uint32_t VECS, int ROWS>
static cudaError_t start_mma(cudaStream_t s, const cu_attn_args *a, dim3 grid, uint32_t rows) {
    uint32_t buffers = mma_buffers(a, rows, grid), bytes = mma_bytes(a, rows, buffers);
    if (rows == 1)
        return LAUNCH((attn_mma<1, PAIRS, VECS>), grid, MMA_THREADS, bytes, s, *a, buffers);
    return LAUNCH((attn_mma<ROWS, PAIRS, VECS>), grid, MMA_THREADS, bytes, s, *a, buffers);
}

/* The published models' shapes have kernels of their own. */
extern "C" cudaError_t cu_attn_mma(cudaStream_t s, const cu_attn_args *a, uint32_t tiles,
                                   bool one_row) {
    dim3 grid(tiles, cu_ceil_div(a->n_heads, CU_ATTN_HEADS), a->splits);
    uint32_t rows = one_row ? 1 : mma_rows(a);
    if (a->dk == 288 && a->dv == 256) return start_mma<4, 36, CU_ATTN_ROWS>(s, a, grid, rows);
    if (a->dk == 416 && a->dv == 384) return start_mma<6, 52, WIDE_ROWS>(s, a, grid, rows);
    if (a->dk == 576 && a->dv == 512) return start_mma<8, 72, WIDE_ROWS>(s, a, grid, rows);
    if (a->dv <= 256) return start_mma<4, 0, CU_ATTN_ROWS>(s, a, grid, rows);
    return start_mma<8, 0, WIDE_ROWS>(s, a, grid, rows);
}

static uint32_t simple_bytes(const cu_attn_args *a, uint32_t heads) {
    return (heads * (a->dk + CU_ATTN_KEYS + a->dv + 3) + CU_ATTN_KEYS) * 4;
}

/* Query heads of one K/V head that a block takes: all, or as many as its shared memory holds. */
static uint32_t simple_heads(const cu_attn_args *a) {
    uint32_t group = a->n_heads / a->n_kv_heads, head = simple_bytes(a, 1);
    if (simple_bytes(a, group) <= a->shared_bytes) return group;
    if (head >= a->shared_bytes) return 1;
    return 1 + (a->shared_bytes - head) / (simple_bytes(a, 2) - head);
}

extern "C" cudaError_t cu_attn_simple(cudaStream_t s, const cu_attn_args *a, uint32_t rows,
                                      bool f32) {
    uint32_t heads = simple_heads(a), bytes = simple_bytes(a, heads);
    dim3 grid(rows, a->n_kv_heads * cu_ceil_div(a->n_heads / a->n_kv_heads, heads), a->splits);
    if (f32 && a->cache.f32)
        return LAUNCH((attn_simple<float, float>), grid, SIMPLE_THREADS, bytes, s, *a, heads);
    if (f32) return LAUNCH((attn_simple<float, bf16>), grid, SIMPLE_THREADS, bytes, s, *a, heads);
    if (a->cache.f32)
        return LAUNCH((attn_simple<bf16, float>), grid, SIMPLE_THREADS, bytes, s, *a, heads);
    return LAUNCH((attn_simple<bf16, bf16>), grid, SIMPLE_THREADS, bytes, s, *a, heads);
}

extern "C" cudaError_t cu_attn_merge(cudaStream_t s, const cu_attn_args *a, uint32_t rows,
                                     bool f32) {
    dim3 grid(rows, cu_ceil_div(a->n_heads, MERGE_THREADS / 32));
    bool tiled = cu_attn_fits_mma(a, f32) || cu_attn_fits_gqa(a, f32);
    if (f32) return LAUNCH(attn_merge<float>, grid, MERGE_THREADS, 0, s, *a, tiled);
    return LAUNCH(attn_merge<bf16>, grid, MERGE_THREADS, 0, s, *a, tiled);
}

extern "C" cudaError_t cu_attn(cudaStream_t s, const cu_attn_args *a, uint32_t rows, bool f32,
                               bool one_row) {
    /* Where positions decide on splits, a row's bits may not depend on one_row either. */
    bool gqa = cu_attn_fits_gqa(a, f32), lone = one_row && !(a->split_tiles && gqa);
    if (lone && cu_attn_fits_mha(a, f32)) return cu_attn_mha(s, a, rows);
    one_row = one_row || cu_attn_tile_rows(a, f32) == 1;
    if (cu_attn_fits_mma(a, f32)) return cu_attn_mma(s, a, rows, one_row);
    if (gqa) return cu_attn_gqa(s, a, rows, one_row);
    return cu_attn_simple(s, a, rows, f32);
}

extern "C" uint32_t cu_attn_bytes(const cu_attn_args *a, bool f32, bool one_row) {
    one_row = one_row || cu_attn_tile_rows(a, f32) == 1;
    if (cu_attn_fits_mma(a, f32)) return mma_bytes(a, one_row ? 1 : mma_rows(a), 1);
    if (cu_attn_fits_gqa(a, f32)) return cu_gqa_bytes(a, one_row);
    return simple_bytes(a, simple_heads(a));
}

template <typename F> static cudaError_t allow_shared(F kernel, int bytes, cudaError_t rc) {
    if (rc != cudaSuccess) return rc;
    return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}

template <int PAIRS, uint32_t VECS, int ROWS> static cudaError_t allow_mma(int most) {
    cudaError_t rc = allow_shared(attn_mma<1, PAIRS, VECS>, most, cudaSuccess);
    return allow_shared(attn_mma<ROWS, PAIRS, VECS>, most, rc);
}

extern "C" cudaError_t cu_attn_setup(int most) {
    cudaError_t rc = allow_mma<4, 36, CU_ATTN_ROWS>(most);
    if (rc == cudaSuccess) rc = allow_mma<6, 52, WIDE_ROWS>(most);
    if (rc == cudaSuccess) rc = allow_mma<8, 72, WIDE_ROWS>(most);
    if (rc == cudaSuccess) rc = allow_mma<4, 0, CU_ATTN_ROWS>(most);
    if (rc == cudaSuccess) rc = allow_mma<8, 0, WIDE_ROWS>(most);
    rc = allow_shared(attn_simple<float, float>, most, rc);
    rc = allow_shared(attn_simple<float, bf16>, most, rc);
    rc = allow_shared(attn_simple<bf16, float>, most, rc);
    return allow_shared(attn_simple<bf16, bf16>, most, rc);
}
