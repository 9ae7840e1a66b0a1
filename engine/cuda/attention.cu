/* attention.cu - attention of rows over the cache, through lists of slots.
 *
 * Absorbed MLA is attention with one K/V head: the key of a position is its slot, the value the
 * slot's first kv_lora values. The context is split over thread blocks; the last block to end joins
 * their parts (attention.cuh).
 *
 * attn_mma: tensor cores, bfloat16 cache. A block of 8 warps takes 16 heads (one m16 tile) of
 * up to CU_ATTN_ROWS rows of one sequence against tiles of 64 keys. Scores: each warp 8
 * keys; values: each warp a share of the latent, so a slot is read from memory once. Two blocks
 * fit a multiprocessor: with 4 warps each, on an H100, the chains of few warps and not memory took
 * the time (67 % of the read probe at 512 rows).
 * Grouped keys by tensor cores are gqa.cu, a head each mha.cu, any other shape and float32
 * plain.cu, long chunks of a prompt under MLA flash.cu. */
#include "engine/cuda/attention.cuh"

enum {
    MMA_THREADS = 256,
    MMA_WARPS = MMA_THREADS / 32,
    WARP_KEYS = CU_ATTN_KEYS / MMA_WARPS,       /* of a tile, scored by one warp */
    HEAD_THREADS = MMA_THREADS / CU_ATTN_HEADS, /* that copy a query */
    P_LD = CU_ATTN_KEYS + 8,
    WIDE_ROWS = 2,
    KEY_THREADS = 4, /* that copy one key: their 16 bytes in turn cover the published widths */
    KEY_TURNS = CU_ATTN_KEYS * KEY_THREADS / MMA_THREADS,
    KEYS_OF_TURN = CU_ATTN_KEYS / KEY_TURNS,
};

static __host__ __device__ __forceinline__ uint32_t key_ld(uint32_t dk) {
    return (dk + 15) / 16 * 16 + 8;
}

struct mma_shared { /* offsets in bytes; everything 16-byte aligned */
    uint32_t q, k, p, top, sum, bytes;
};
static __host__ __device__ __forceinline__ mma_shared mma_layout(uint32_t dk, uint32_t rows,
                                                                 uint32_t buffers,
                                                                 uint32_t splits) {
    mma_shared layout;
    uint32_t ld = key_ld(dk) * 2, merge = merge_bytes(splits);
    layout.k = 0;
    layout.q = layout.k + buffers * CU_ATTN_KEYS * ld;
    layout.p = layout.q + rows * CU_ATTN_HEADS * ld;
    layout.top = layout.p + rows * CU_ATTN_HEADS * P_LD * 2;
    layout.sum = layout.top + rows * CU_ATTN_HEADS * MMA_WARPS * 4;
    layout.bytes = layout.sum + rows * CU_ATTN_HEADS * MMA_WARPS * 4;
    if (layout.bytes < merge) layout.bytes = merge;
    return layout;
}

/* Queries of 16 heads of each row, on their way. Zeros for missing heads. */
template <int R, int DK>
static __device__ __forceinline__ void send_queries(const cu_attn_args &args,
                                                    const query_block &block, bf16 *qs) {
    const uint32_t dk = DK ? DK : args.dk, ld = key_ld(dk);
    uint32_t head = threadIdx.x / HEAD_THREADS, part = threadIdx.x % HEAD_THREADS * 8;
    const bf16 *from =
        (const bf16 *)args.q + ((uint64_t)block.row * args.n_heads + block.h0 + head) * dk + part;
#pragma unroll
    for (int r = 0; r < R; r++) {
        bf16 *to = qs + (r * CU_ATTN_HEADS + head) * ld + part;
        bool there = (uint32_t)r < block.n && head < block.heads;
#pragma unroll
        for (uint32_t c = 0; c < dk; c += HEAD_THREADS * 8) {
            if (part + c >= dk) continue;
            if (there) copy_async(to + c, from + c);
            else *(vec16 *)(to + c) = vec16{};
        }
        from += (uint64_t)args.n_heads * dk;
    }
}

/* Where a sequence's keys are. */
struct key_map {
    const uint32_t *table;
    uint32_t plane, keys;
};
/* The slots of this thread's keys of tile `tile`. */
static __device__ __forceinline__ void find_slots(const cu_attn_args &args, const key_map &map,
                                                  uint32_t tile, uint32_t slot[KEY_TURNS]) {
#pragma unroll
    for (int i = 0; i < KEY_TURNS; i++) {
        uint32_t key = tile * CU_ATTN_KEYS + i * KEYS_OF_TURN + threadIdx.x / KEY_THREADS;
        slot[i] = slot_of(args.desc, args.cache, map.table, map.plane, key, map.keys);
    }
}

/* 64 keys, on their way; zeros for keys without a slot. */
template <int DK>
static __device__ __forceinline__ void send_keys(const cu_attn_args &args,
                                                 const uint32_t slot[KEY_TURNS], bf16 *ks) {
    const uint32_t dk = DK ? DK : args.dk, ld = key_ld(dk);
    uint32_t part = threadIdx.x % KEY_THREADS * 8;
#pragma unroll
    for (int i = 0; i < KEY_TURNS; i++) {
        bf16 *to = ks + (i * KEYS_OF_TURN + threadIdx.x / KEY_THREADS) * ld + part;
        const bf16 *from = (const bf16 *)args.cache.slots + part;
        if (slot[i] == RM_NO_SLOT) {
            for (uint32_t c = 0; part + c < dk; c += KEY_THREADS * 8)
                *(vec16 *)(to + c) = vec16{};
            continue;
        }
        from += (uint64_t)slot[i] * args.cache.slot_values;
#pragma unroll
        for (uint32_t c = 0; c < dk; c += KEY_THREADS * 8) {
            if (DK || part + c < dk) copy_async(to + c, from + c);
        }
    }
}

/* One warp's sums: of each row's 16 heads lane l holds g = l / 4 and g + 8; its share of the latent
 * is pieces warp, warp + MMA_WARPS, ... of 16 values. */
template <int R, int PAIRS> struct mma_sums { float m[R][2], l[R][2], acc[R][PAIRS * 2][4]; };

/* Scores of the warp's 8 keys, and their maxima. k: the tile's keys; see[r]: how many of them row r
 * sees. */
template <int R, int DK>
static __device__ __forceinline__ void mma_scores(const cu_attn_args &args, const bf16 *qs,
                                                  const bf16 *k, const int32_t see[R], float *top,
                                                  float scores[R][4]) {
    const uint32_t dk = DK ? DK : args.dk, ld = key_ld(dk), k_steps = (dk + 15) / 16;
    uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, q = lane & 3;
    /* Addresses ldmatrix wants of this lane: rows of an m16 x 16 piece, and of 8 keys by 32. */
    uint32_t a_row = lane & 15, a_col = lane >> 4 << 3;
    uint32_t b_row = lane & 7, b_col = lane >> 3 << 3;
    k += (warp * WARP_KEYS + b_row) * ld;
    qs += a_row * ld + a_col;
    [[maybe_unused]] constexpr int turns =
        R == CU_ATTN_ROWS ? 1 : 3; /* unrolled; many rows need the registers */
#pragma unroll turns
    for (uint32_t step = 0; step < k_steps; step += 2) {
        bool two = DK % 32 == 0 && DK ? true : step + 1 < k_steps; /* whole warps */
        uint32_t b[4];
        load_matrices(b, k + step * 16 + (two ? b_col : b_col & 8));
#pragma unroll
        for (int r = 0; r < R; r++) {
            const bf16 *q_at = qs + r * CU_ATTN_HEADS * ld + step * 16;
            uint32_t f[4];
            load_matrices(f, q_at);
            mma_bf16(scores[r], f[0], f[1], f[2], f[3], b[0], b[1]);
            if (!two) continue;
            load_matrices(f, q_at + 16);
            mma_bf16(scores[r], f[0], f[1], f[2], f[3], b[2], b[3]);
        }
    }
    float scale = args.scale * LOG2E;
#pragma unroll
    for (int r = 0; r < R; r++) {
        float high[2] = {-INFINITY, -INFINITY};
#pragma unroll
        for (int c = 0; c < 4; c++) {
            bool seen = (int32_t)(warp * WARP_KEYS + 2 * q + (c & 1)) < see[r];
            scores[r][c] = seen ? rm_mul(scores[r][c], scale) : -INFINITY;
            high[c >> 1] = fmaxf(high[c >> 1], scores[r][c]);
        }
#pragma unroll
        for (int half = 0; half < 2; half++) {
            high[half] = fmaxf(high[half], __shfl_xor_sync(0xffffffffu, high[half], 1));
            high[half] = fmaxf(high[half], __shfl_xor_sync(0xffffffffu, high[half], 2));
            if (q == 0) top[(r * CU_ATTN_HEADS + g + 8 * half) * MMA_WARPS + warp] = high[half];
        }
    }
}

/* Scores to weights, by the maxima of all warps; the sums so far are scaled to them. */
template <int R, int PAIRS>
static __device__ __forceinline__ void mma_weights(const float *top, float scores[R][4], bf16 *ps,
                                                   mma_sums<R, PAIRS> &sum) {
    uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, q = lane & 3;
#pragma unroll
    for (int r = 0; r < R; r++) {
        float old[2], base[2], part[2] = {0.0f, 0.0f};
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const float *w = top + (r * CU_ATTN_HEADS + g + 8 * half) * MMA_WARPS;
            float now = sum.m[r][half];
#pragma unroll
            for (int i = 0; i < MMA_WARPS; i++)
                now = fmaxf(now, w[i]);
            base[half] = now == -INFINITY ? 0.0f : now; /* nothing seen yet: all weights are 0 */
            old[half] = power2(sum.m[r][half] - base[half]);
            sum.m[r][half] = now;
        }
        float p[4];
#pragma unroll
        for (int c = 0; c < 4; c++) {
            p[c] = power2(scores[r][c] - base[c >> 1]);
            part[c >> 1] += p[c];
        }
        bf16 *to = ps + (r * CU_ATTN_HEADS + g) * P_LD + warp * WARP_KEYS + 2 * q;
        *(uint32_t *)to = narrow_pair(p[0], p[1]);
        *(uint32_t *)(to + 8 * P_LD) = narrow_pair(p[2], p[3]);
#pragma unroll
        for (int half = 0; half < 2; half++)
            sum.l[r][half] = fmaf(sum.l[r][half], old[half], part[half]);
#pragma unroll
        for (int i = 0; i < PAIRS * 2; i++) {
            sum.acc[r][i][0] *= old[0];
            sum.acc[r][i][1] *= old[0];
            sum.acc[r][i][2] *= old[1];
            sum.acc[r][i][3] *= old[1];
        }
    }
}

/* The tile's values, weighed. */
template <int R, int PAIRS, int DK>
static __device__ __forceinline__ void mma_values(const cu_attn_args &args, const bf16 *ps,
                                                  const bf16 *k, mma_sums<R, PAIRS> &sum) {
    const uint32_t ld = key_ld(DK ? DK : args.dk), pieces = DK ? PAIRS * MMA_WARPS : args.dv / 16;
    uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    uint32_t a_row = lane & 15, a_col = lane >> 4 << 3;
#pragma unroll
    for (uint32_t step = 0; step < CU_ATTN_KEYS / 16; step++) {
        uint32_t f[R][4];
#pragma unroll
        for (int r = 0; r < R; r++)
            load_matrices(f[r], ps + (r * CU_ATTN_HEADS + a_row) * P_LD + step * 16 + a_col);
#pragma unroll
        for (int i = 0; i < PAIRS; i++) {
            uint32_t piece = warp + MMA_WARPS * i;
            if (piece >= pieces) continue; /* whole warps */
            uint32_t b[4];
            load_matrices_t(b, k + (step * 16 + a_row) * ld + piece * 16 + a_col);
#pragma unroll
            for (int r = 0; r < R; r++) {
                mma_bf16(sum.acc[r][2 * i], f[r][0], f[r][1], f[r][2], f[r][3], b[0], b[1]);
                mma_bf16(sum.acc[r][2 * i + 1], f[r][0], f[r][1], f[r][2], f[r][3], b[2], b[3]);
            }
        }
    }
}

/* Sums of a head are spread over quads and warps: all of them, to `all` [R * 16][MMA_WARPS]. */
template <int R, int PAIRS>
static __device__ __forceinline__ void mma_collect(const mma_sums<R, PAIRS> &sum, float *all) {
    uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
#pragma unroll
    for (int r = 0; r < R; r++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float v = sum.l[r][half];
            v += __shfl_xor_sync(0xffffffffu, v, 1);
            v += __shfl_xor_sync(0xffffffffu, v, 2);
            uint32_t head = (lane >> 2) + 8 * half;
            if ((lane & 3) == 0) all[(r * CU_ATTN_HEADS + head) * MMA_WARPS + warp] = v;
        }
    }
    __syncthreads();
}

/* The sums to their parts, or to o if the context has one part. */
template <int R, int PAIRS, int DK>
static __device__ __forceinline__ void mma_store(const cu_attn_args &args, const query_block &block,
                                                 uint32_t split, bool whole, const float *all,
                                                 const mma_sums<R, PAIRS> &sum) {
    const uint32_t dv = DK ? PAIRS * MMA_WARPS * 16 : args.dv;
    uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5, q = lane & 3;
#pragma unroll
    for (int r = 0; r < R; r++) {
        if ((uint32_t)r >= block.n) continue;
        if (whole && !has_query(args, rows_of(args.desc)[block.row + r])) continue;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            uint32_t head = (lane >> 2) + 8 * half, h = block.h0 + head;
            if (head >= block.heads) continue;
            const float *w = all + (r * CU_ATTN_HEADS + head) * MMA_WARPS;
            float l = w[0];
#pragma unroll
            for (int i = 1; i < MMA_WARPS; i++)
                l += w[i];
            float norm = l > 0.0f ? 1.0f / l : 0.0f;
            uint64_t part = part_at(args, block.row + r, split, h);
            float *to = args.part_o + part * dv + 2 * q;
            bf16 *o = (bf16 *)args.o + (uint64_t)(block.row + r) * args.o_ld +
                      (uint64_t)h * args.o_head + 2 * q;
            if (!whole && warp == 0 && q == 0) {
                args.part_ml[part * 2] = sum.m[r][half];
                args.part_ml[part * 2 + 1] = l;
            }
#pragma unroll
            for (int i = 0; i < PAIRS * 2; i++) {
                uint32_t c = (warp + MMA_WARPS * (i / 2)) * 16 + (i & 1) * 8;
                float x = sum.acc[r][i][2 * half], y = sum.acc[r][i][2 * half + 1];
                if (c >= dv) continue;
                if (whole) *(uint32_t *)(o + c) = narrow_pair(x * norm, y * norm);
                else to[c] = x, to[c + 1] = y;
            }
        }
    }
}

/* One split's keys, tile by tile, the next on their way meanwhile if there are two buffers. */
template <int R, int PAIRS, int DK>
static __device__ __forceinline__ void mma_keys(const cu_attn_args &args, const query_block &block,
                                                const key_range &range, const key_map &map,
                                                uint32_t buffers, unsigned char *shared,
                                                const mma_shared &at, mma_sums<R, PAIRS> &sum) {
    const uint32_t dk = DK ? DK : args.dk, ld = key_ld(dk);
    bf16 *ks = (bf16 *)(shared + at.k), *qs = (bf16 *)(shared + at.q),
         *ps = (bf16 *)(shared + at.p);
    float *top = (float *)(shared + at.top);
    uint32_t slot[KEY_TURNS], pos[R], other = buffers == 2 ? CU_ATTN_KEYS * ld : 0;
    find_slots(args, map, range.first, slot);
    send_queries<R, DK>(args, block, qs);
    for (uint32_t i = threadIdx.x; DK == 0 && dk % 16 && i < buffers * CU_ATTN_KEYS + R * 16;
         i += MMA_THREADS) /* the 8 values up to a multiple of 16: keys, then queries */
        *(vec16 *)(i < buffers * CU_ATTN_KEYS ? ks + i * ld + dk
                                              : qs + (i - buffers * CU_ATTN_KEYS) * ld + dk) =
            vec16{};
#pragma unroll
    for (int r = 0; r < R; r++)
        pos[r] = (uint32_t)r < block.n ? rows_of(args.desc)[block.row + r].pos : 0;
    send_keys<DK>(args, slot, ks);
    find_slots(args, map, range.first + 1, slot);
    for (uint32_t tile = range.first; tile < range.last; tile++) {
        const bf16 *k = ks + ((tile - range.first) & 1) * other;
        bool more = tile + 1 < range.last;
        float scores[R][4] = {};
        int32_t see[R];
        copies_wait();
        __syncthreads(); /* this tile is here; the other buffer has been used */
        if (more && buffers == 2) {
            send_keys<DK>(args, slot, ks + ((tile + 1 - range.first) & 1) * other);
            find_slots(args, map, tile + 2, slot);
        }
#pragma unroll
        for (int r = 0; r < R; r++)
            see[r] = (int32_t)(pos[r] + 1 - tile * CU_ATTN_KEYS);
        mma_scores<R, DK>(args, qs, k, see, top, scores);
        __syncthreads();
        mma_weights<R, PAIRS>(top, scores, ps, sum);
        __syncthreads();
        mma_values<R, PAIRS, DK>(args, ps, k, sum);
        if (more && buffers == 1) {
            __syncthreads(); /* the keys have been used */
            send_keys<DK>(args, slot, ks);
            find_slots(args, map, tile + 2, slot);
        }
    }
}

/* Thread blocks of a shared tile's kernel on a multiprocessor. With 128 registers a thread, enough
 * for two, ptxas spills on compute capability 10. */
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
#define TILE_BLOCKS 1
#else
#define TILE_BLOCKS 2
#endif

/* R: most rows of a tile. PAIRS: most 16-value pieces of the latent one warp sums: 8 warps cover
 * 128 * PAIRS values. DK: width of a key, with values of 128 * PAIRS; 0: any, from the arguments.
 */
template <int R, int PAIRS, int DK>
static __global__ void __launch_bounds__(MMA_THREADS, R == CU_ATTN_ROWS ? TILE_BLOCKS : 2)
    attn_mma(cu_attn_args args, uint32_t buffers) {
    kernel_scope scope(args.stamp);
    DYNAMIC_SHARED(shared);
    const mma_shared at = mma_layout(DK ? DK : args.dk, R, buffers, args.splits);
    const cu_head *head = head_of(args.desc);
    if (blockIdx.x >= head->n_tiles) return;
    cu_tile tile = ((const cu_tile *)((const char *)args.desc + head->tiles))[blockIdx.x];
    const cu_row *rows = rows_of(args.desc) + tile.first, first = rows[0];
    uint32_t h0 = blockIdx.y * CU_ATTN_HEADS, split = blockIdx.z;
    uint32_t heads =
        args.n_heads - h0 < CU_ATTN_HEADS ? args.n_heads - h0 : (uint32_t)CU_ATTN_HEADS;
    query_block block = {tile.first, tile.n, h0, heads};
    /* Expanded rows are flash.cu's, then all of the tile. */
    if (first.flags & CU_ROW_EXPANDED || (tile.n == 1 && !has_query(args, first))) {
        if (split == 0) write_zeros<bf16>(args, block);
        return;
    }
    key_map map = {tables_of(args.desc) + first.table, args.plane + (args.by_loop ? first.loop : 0),
                   rows[tile.n - 1].pos + 1};
    key_range range = split_range(args, map.keys, split);
    if (range.first >= range.last) return;
    mma_sums<R, PAIRS> sum;
#pragma unroll
    for (int r = 0; r < R; r++) {
        sum.m[r][0] = sum.m[r][1] = -INFINITY;
        sum.l[r][0] = sum.l[r][1] = 0.0f;
#pragma unroll
        for (int i = 0; i < PAIRS * 2; i++)
            sum.acc[r][i][0] = sum.acc[r][i][1] = sum.acc[r][i][2] = sum.acc[r][i][3] = 0.0f;
    }
    mma_keys<R, PAIRS, DK>(args, block, range, map, buffers, shared, at, sum);
    mma_collect<R, PAIRS>(sum, (float *)(shared + at.sum));
    mma_store<R, PAIRS, DK>(args, block, split, range.used == 1, (const float *)(shared + at.sum),
                            sum);
    uint32_t *arrived = args.arrived + (uint64_t)blockIdx.x * gridDim.y + blockIdx.y;
    if (range.used > 1) {
        if (!comes_last(arrived, range.used, (uint32_t *)shared)) return;
        merge_parts<4, false, bf16, R == CU_ATTN_ROWS ? 1 : 2>(args, block, range.used, shared);
    }
    write_zeros<bf16>(args, block);
}

/* ---- launchers ---- */

static uint32_t most_rows(const cu_attn_args *args) {
    return args->dv <= 256 ? (uint32_t)CU_ATTN_ROWS
                           : (uint32_t)WIDE_ROWS; /* sums fit the registers */
}

extern "C" bool cu_attn_fits_mma(const cu_attn_args *args, bool f32) {
    return !f32 && !args->cache.f32 && args->n_kv_heads == 1 && args->v_offset == 0 &&
           args->dk % 8 == 0 && args->dv % 16 == 0 && args->dv <= 512 && args->dk <= 640 &&
           args->cache.slot_values % 8 == 0 &&
           mma_layout(args->dk, 1, 1, args->splits).bytes <= args->shared;
}

/* One row: two buffers if they fit. Rows of a prompt have more to compute than to read: one buffer,
 * so that two thread blocks fit. */
template <int R, int PAIRS, int DK>
static cudaError_t start_mma(cudaStream_t stream, const cu_attn_args *args, uint32_t tiles) {
    dim3 grid(tiles, cu_ceil_div(args->n_heads, CU_ATTN_HEADS), args->splits);
    uint32_t buffers =
        R == 1 && mma_layout(args->dk, R, 2, args->splits).bytes <= args->shared ? 2 : 1;
    uint32_t bytes = mma_layout(args->dk, R, buffers, args->splits).bytes;
    return LAUNCH((attn_mma<R, PAIRS, DK>), grid, MMA_THREADS, bytes, stream, *args, buffers);
}

/* The published widths, then any. */
template <int R>
static cudaError_t start_shape(cudaStream_t stream, const cu_attn_args *args, uint32_t tiles) {
    if constexpr (R != WIDE_ROWS) {
        if (args->dk == 288 && args->dv == 256) return start_mma<R, 2, 288>(stream, args, tiles);
        if (args->dv <= 256) return start_mma<R, 2, 0>(stream, args, tiles);
    }
    if constexpr (R <= WIDE_ROWS) {
        if (args->dk == 416 && args->dv == 384) return start_mma<R, 3, 416>(stream, args, tiles);
        if (args->dk == 576 && args->dv == 512) return start_mma<R, 4, 576>(stream, args, tiles);
        return start_mma<R, 4, 0>(stream, args, tiles);
    }
    return cudaErrorInvalidValue;
}

extern "C" uint32_t cu_attn_tile_rows(const cu_attn_args *args, bool f32) {
    if (cu_attn_fits_gqa(args, f32)) return cu_gqa_tile_rows(args);
    if (!cu_attn_fits_mma(args, f32)) return 1;
    uint32_t rows = most_rows(args);
    return mma_layout(args->dk, rows, 1, args->splits).bytes <= args->shared ? rows : 1;
}

extern "C" cudaError_t cu_attn_mma(cudaStream_t stream, const cu_attn_args *args, uint32_t tiles,
                                   bool one_row) {
    if (one_row) return start_shape<1>(stream, args, tiles);
    if (most_rows(args) == WIDE_ROWS) return start_shape<WIDE_ROWS>(stream, args, tiles);
    return start_shape<CU_ATTN_ROWS>(stream, args, tiles);
}

extern "C" cudaError_t cu_attn(cudaStream_t stream, const cu_attn_args *args, uint32_t rows,
                               bool f32, bool one_row) {
    if (cu_attn_fits_mma(args, f32)) return cu_attn_mma(stream, args, rows, one_row);
    if (one_row && cu_attn_fits_mha(args, f32)) return cu_attn_mha(stream, args, rows);
    if (cu_attn_fits_gqa(args, f32)) return cu_attn_gqa(stream, args, rows, one_row);
    return cu_attn_simple(stream, args, rows, f32);
}

template <typename F> static cudaError_t allow_shared(F kernel, int bytes, cudaError_t rc) {
    if (rc != cudaSuccess) return rc;
    return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}

extern "C" cudaError_t cu_simple_setup(int most);

extern "C" cudaError_t cu_attn_setup(int most) {
    cudaError_t rc = allow_shared(attn_mma<1, 2, 0>, most, cudaSuccess);
    rc = allow_shared(attn_mma<1, 2, 288>, most, rc);
    rc = allow_shared(attn_mma<1, 3, 416>, most, rc);
    rc = allow_shared(attn_mma<1, 4, 576>, most, rc);
    rc = allow_shared(attn_mma<1, 4, 0>, most, rc);
    rc = allow_shared(attn_mma<CU_ATTN_ROWS, 2, 0>, most, rc);
    rc = allow_shared(attn_mma<CU_ATTN_ROWS, 2, 288>, most, rc);
    rc = allow_shared(attn_mma<WIDE_ROWS, 3, 416>, most, rc);
    rc = allow_shared(attn_mma<WIDE_ROWS, 4, 576>, most, rc);
    rc = allow_shared(attn_mma<WIDE_ROWS, 4, 0>, most, rc);
    return rc == cudaSuccess ? cu_simple_setup(most) : rc;
}
