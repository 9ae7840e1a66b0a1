/* mm.cu - products y = x wT for few rows, dense, per head, and grouped by expert.
 *
 * The weights are the 16-row operand of the tensor cores and the tokens the 8-column one, so
 * that one token wastes nothing that matters: each weight goes once from memory straight into
 * registers, 16 bytes a lane, and the kernel stays bound by that up to 64 tokens. A quad of
 * lanes takes 32 consecutive k; which of them a lane holds is the same for weights and
 * tokens, so the order of k inside a step does not matter.
 *
 * A token's result is one sum per output whose order depends on k and n alone: its bits do
 * not depend on the other rows of the launch. */
#include "engine/cuda/common.cuh"

enum {
    X_VALUES = 2048, /* token values in shared memory for 8 tokens; fewer k for more tokens */
    X_PAD = 32,      /* row stride of 64 bytes beyond a multiple of 128: no bank conflicts */
    X_BYTES = 8 * (CU_TILE_ROWS / 8) * X_PAD * 2 + 8 * X_VALUES * 2,
    MAX_KS = 8,
    PREFETCH = 4, /* steps of k */
    BATCH = 4,    /* steps of k whose weights are in flight together */
    FEW = 8,      /* rows up to which no tile has more than 8 tokens */
};

/* One tile of tokens and where its rows are. */
struct mm_tile {
    uint32_t group, n; /* n tokens; 0: nothing to do */
    uint32_t first;    /* token (dense) or index into moe.order */
};

struct mm_shared {
    uint32_t x_row[CU_TILE_ROWS], y_row[CU_TILE_ROWS];
    float scale[CU_TILE_ROWS];
};

static __device__ uint32_t tokens_of(const cu_mm_args &a) {
    return a.map == CU_MAP_LOGITS ? head_of(a.desc)->n_logits : head_of(a.desc)->n_rows;
}

static __device__ uint32_t tile_count(const cu_mm_args &a) {
    if (a.map == CU_MAP_IN || a.map == CU_MAP_OUT) return *a.moe.n_tiles;
    uint32_t tiles = (tokens_of(a) + CU_TILE_ROWS - 1) / CU_TILE_ROWS;
    return a.map == CU_MAP_HEADS ? tiles * a.groups : tiles;
}

static __device__ mm_tile tile_get(const cu_mm_args &a, uint32_t t) {
    mm_tile tile;
    if (a.map == CU_MAP_IN || a.map == CU_MAP_OUT) {
        cu_moe_tile m = a.moe.tiles[t];
        tile.group = m.group;
        tile.first = m.first;
        tile.n = m.n;
        return tile;
    }
    tile.group = a.map == CU_MAP_HEADS ? t % a.groups : 0;
    tile.first = (a.map == CU_MAP_HEADS ? t / a.groups : t) * CU_TILE_ROWS;
    uint32_t left = tokens_of(a) - tile.first;
    tile.n = left < CU_TILE_ROWS ? left : (uint32_t)CU_TILE_ROWS;
    return tile;
}

/* Which rows of x and y the tokens of a tile are. Ends without a barrier. */
static __device__ void tile_rows(const cu_mm_args &a, const mm_tile &t, mm_shared *sh) {
    uint32_t i = threadIdx.x;
    if (i >= t.n) return;
    if (a.map != CU_MAP_IN && a.map != CU_MAP_OUT) {
        sh->x_row[i] = sh->y_row[i] = t.first + i;
        return;
    }
    uint32_t part = a.moe.order[t.first + i];
    uint32_t row = part / a.moe.parts_per_row, k = part % a.moe.parts_per_row;
    sh->x_row[i] = a.map == CU_MAP_IN ? row : part;
    sh->y_row[i] = part;
    sh->scale[i] = k < a.moe.top_k ? a.moe.weight[row * a.moe.top_k + k] : 1.0f;
}

template <typename A>
static __device__ const A *group_weights(const cu_mm_args &a, uint32_t group, uint32_t *ldw) {
    bool moe = a.map == CU_MAP_IN || a.map == CU_MAP_OUT;
    if (moe && group >= a.moe.n_experts) {
        *ldw = a.ldw_shared;
        return (const A *)a.w_shared + (uint64_t)(group - a.moe.n_experts) * a.w_shared_group;
    }
    *ldw = a.ldw;
    return (const A *)a.w + (uint64_t)group * a.w_group;
}

/* Stores the sums of weight rows n0 + g and n0 + g + 8 for one token. With SILU the first is
 * a gate and the second its up. */
template <typename A>
static __device__ __forceinline__ void store_pair(const cu_mm_args &a, const mm_tile &t,
                                                  const mm_shared *sh, uint32_t token, uint32_t n0,
                                                  uint32_t g, float lo, float hi) {
    if (token >= t.n) return;
    uint64_t at = (uint64_t)sh->y_row[token] * a.ldy;
    if (a.map == CU_MAP_HEADS) at += (uint64_t)t.group * a.y_group;
    if (a.store == CU_STORE_SILU) {
        if (n0 + g < a.n) narrow(rm_silu(lo) * hi, &((A *)a.y)[at + n0 / 2 + g]);
        return;
    }
    float scale = a.map == CU_MAP_OUT ? sh->scale[token] : 1.0f;
    for (uint32_t half = 0; half < 2; half++) {
        uint32_t n = n0 + g + 8 * half;
        float v = (half ? hi : lo) * scale;
        if (n >= a.n) continue;
        if (a.store == CU_STORE_F32) ((float *)a.y)[at + n] = v;
        else narrow(v, &((A *)a.y)[at + n]);
    }
}

/* Tokens' values [k0, k0 + n) into xs, zeros for tokens that are not there. */
template <int NT>
static __device__ __forceinline__ void load_tokens(const cu_mm_args &a, const mm_tile &t,
                                                   const mm_shared *sh, bf16 *xs, uint32_t k0,
                                                   uint32_t n) {
    const uint32_t stride = X_VALUES / NT + X_PAD, vecs = n / 8;
    const bf16 *x = (const bf16 *)a.x + k0;
    if (a.map == CU_MAP_HEADS) x += (uint64_t)t.group * a.x_group;
    for (uint32_t i = threadIdx.x; i < NT * 8 * vecs; i += CU_MM_THREADS) {
        uint32_t token = i / vecs, v = i % vecs;
        vec16 val = {{0, 0, 0, 0}};
        if (token < t.n) val = *(const vec16 *)(x + (uint64_t)sh->x_row[token] * a.ldx + 8 * v);
        *(vec16 *)(xs + token * stride + 8 * v) = val;
    }
}

/* One block of threads: 8 warps = 8 / ks tiles of 16 weight rows, each tile's k dealt to ks
 * warps in steps of 32. NT * 8 tokens. */
template <int NT>
static __device__ void mm_block(const cu_mm_args &a, const mm_tile &t, uint32_t block, uint32_t ks,
                                mm_shared *sh, bf16 *xs) {
    const uint32_t stride = X_VALUES / NT + X_PAD;
    uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, q = lane & 3;
    uint32_t slice = warp % ks, n0 = (block * (CU_MM_THREADS / 32 / ks) + warp / ks) * CU_MM_ROWS;
    bool live = n0 < a.n;
    uint32_t ldw;
    const bf16 *w = group_weights<bf16>(a, t.group, &ldw);
    w += (uint64_t)(live ? n0 + g : 0) * ldw + 8 * q;
    for (uint32_t i = 0; live && i < PREFETCH;
         i++) { /* on the way while the tokens are looked up */
        uint32_t k = (slice + i * ks) * CU_K_STEP;
        if (k >= a.k) break;
        prefetch(w + k);
        prefetch(w + 8 * (uint64_t)ldw + k);
    }
    float acc[NT][4] = {};
    for (uint32_t k0 = 0; k0 < a.k; k0 += X_VALUES / NT) {
        uint32_t n = a.k - k0 < X_VALUES / NT ? a.k - k0 : X_VALUES / NT;
        __syncthreads(); /* rows are known; the last values have been used */
        load_tokens<NT>(a, t, sh, xs, k0, n);
        __syncthreads();
        if (!live) continue;
        for (uint32_t j = slice, steps = n / CU_K_STEP; j < steps; j += BATCH * ks) {
            vec16 lo[BATCH], hi[BATCH]; /* all on the way before the first is used */
#pragma unroll
            for (int i = 0; i < BATCH; i++) {
                uint32_t at = j + i * ks < steps ? j + i * ks : j;
                lo[i] = load_stream(w + k0 + at * CU_K_STEP);
                hi[i] = load_stream(w + 8 * (uint64_t)ldw + k0 + at * CU_K_STEP);
            }
#pragma unroll
            for (int i = 0; i < BATCH; i++) {
                uint32_t at = j + i * ks;
                if (at >= steps) break; /* whole warps */
#pragma unroll
                for (int t8 = 0; t8 < NT; t8++) {
                    vec16 x = *(const vec16 *)(xs + (t8 * 8 + g) * stride + at * CU_K_STEP + 8 * q);
                    mma_bf16(acc[t8], lo[i].w[0], hi[i].w[0], lo[i].w[1], hi[i].w[1], x.w[0],
                             x.w[1]);
                    mma_bf16(acc[t8], lo[i].w[2], hi[i].w[2], lo[i].w[3], hi[i].w[3], x.w[2],
                             x.w[3]);
                }
            }
        }
    }
    if (ks > 1) { /* the slices of a tile, summed in order */
        float *sums = (float *)xs;
        __syncthreads();
#pragma unroll
        for (int i = 0; i < NT; i++) {
#pragma unroll
            for (int c = 0; c < 4; c++)
                sums[((i * 4 + c) * 8 + warp) * 32 + lane] = acc[i][c];
        }
        __syncthreads();
        if (slice != 0) return;
#pragma unroll
        for (int i = 0; i < NT; i++) {
#pragma unroll
            for (int c = 0; c < 4; c++) {
                for (uint32_t s = 1; s < ks; s++) {
                    acc[i][c] += sums[((i * 4 + c) * 8 + warp + s) * 32 + lane];
                }
            }
        }
    }
    if (!live) return;
#pragma unroll
    for (int i = 0; i < NT; i++) {
        store_pair<bf16>(a, t, sh, i * 8 + 2 * q, n0, g, acc[i][0], acc[i][2]);
        store_pair<bf16>(a, t, sh, i * 8 + 2 * q + 1, n0, g, acc[i][1], acc[i][3]);
    }
}

/* MOST: most tokens of a tile. For 8 the kernel needs fewer registers, so half as many warps again
 * have weights in flight. */
template <int MOST>
static __global__ void __launch_bounds__(CU_MM_THREADS, MOST == 8 ? 3 : 2)
    mm_bf16(cu_mm_args a, uint32_t ks) {
    kernel_scope scope(a.stamp);
    DYNAMIC_SHARED(shared);
    mm_shared *sh = (mm_shared *)shared;
    bf16 *xs = (bf16 *)(shared + sizeof(mm_shared));
    uint32_t per_block = CU_MM_THREADS / 32 / ks * CU_MM_ROWS,
             blocks = (a.n + per_block - 1) / per_block;
    uint32_t items = tile_count(a) * blocks;
    for (uint32_t item = blockIdx.x; item < items; item += gridDim.x) {
        mm_tile t = tile_get(a, item / blocks);
        __syncthreads(); /* the last item's rows have been used */
        tile_rows(a, t, sh);
        if (MOST == 8 || t.n <= 8) mm_block<1>(a, t, item % blocks, ks, sh, xs);
        else if (t.n <= 16) mm_block<MOST == 8 ? 1 : 2>(a, t, item % blocks, ks, sh, xs);
        else if (t.n <= 32) mm_block<MOST == 8 ? 1 : 4>(a, t, item % blocks, ks, sh, xs);
        else mm_block<MOST == 8 ? 1 : 8>(a, t, item % blocks, ks, sh, xs);
    }
}

/* Parity mode: plain float32, a thread per token and pair of weight rows, k in order. */
static __global__ void __launch_bounds__(CU_MM_THREADS) mm_f32(cu_mm_args a) {
    kernel_scope scope(a.stamp);
    DYNAMIC_SHARED(shared);
    mm_shared *sh = (mm_shared *)shared;
    uint32_t g = threadIdx.x & 7, blocks = (a.n + CU_MM_ROWS - 1) / CU_MM_ROWS;
    uint32_t items = tile_count(a) * blocks;
    for (uint32_t item = blockIdx.x; item < items; item += gridDim.x) {
        mm_tile t = tile_get(a, item / blocks);
        uint32_t n0 = item % blocks * CU_MM_ROWS, ldw;
        __syncthreads();
        tile_rows(a, t, sh);
        __syncthreads();
        const float *w = group_weights<float>(a, t.group, &ldw);
        w += (uint64_t)(n0 + g) * ldw;
        for (uint32_t token = threadIdx.x >> 3; token < t.n; token += CU_MM_THREADS / 8) {
            const float *x = (const float *)a.x + (uint64_t)sh->x_row[token] * a.ldx;
            if (a.map == CU_MAP_HEADS) x += (uint64_t)t.group * a.x_group;
            float lo = 0.0f, hi = 0.0f;
            for (uint32_t k = 0; k < a.k; k++) {
                lo += w[k] * x[k];
                hi += w[8 * (uint64_t)ldw + k] * x[k];
            }
            store_pair<float>(a, t, sh, token, n0, g, lo, hi);
        }
    }
}

/* x and y rows as cuBLAS left them: for the always-on experts at many rows. */
static __global__ void __launch_bounds__(256)
    silu_rows(const void *desc, const bf16 *x, bf16 *y, uint32_t n, cu_stamp *stamp) {
    kernel_scope scope(stamp);
    uint32_t i = blockIdx.x;
    if (i >= head_of(desc)->n_rows) return;
    const bf16 *row = x + (uint64_t)i * 2 * n;
    for (uint32_t c = threadIdx.x; c < n; c += blockDim.x) {
        uint32_t at = c / 8 * 16 + c % 8;
        narrow(rm_silu(widen(row[at])) * widen(row[at + 8]), &y[(uint64_t)i * n + c]);
    }
}

/* Warps that share a tile of weight rows: as many as it takes to give the device enough warps
 * at one token; a function of the matrix alone, as the order of the sum hangs on it. */
static uint32_t split_k(const cu_mm_args *a) {
    uint32_t groups = a->map == CU_MAP_HEADS                        ? a->groups
                      : a->map == CU_MAP_IN || a->map == CU_MAP_OUT ? a->moe.top_k
                                                                    : 1;
    uint32_t tiles = cu_ceil_div(a->n, CU_MM_ROWS) * groups, ks = 1;
    while (ks < MAX_KS && tiles * ks < 4096 && a->k / (CU_K_STEP * 2 * ks) >= 2)
        ks *= 2;
    return ks;
}

extern "C" cudaError_t cu_mm(cudaStream_t s, const cu_mm_args *a, uint32_t rows,
                             uint32_t max_blocks, bool f32) {
    uint32_t ks = f32 ? 8 : split_k(a);
    uint32_t tiles = cu_ceil_div(rows, CU_TILE_ROWS);
    if (a->map == CU_MAP_HEADS) tiles *= a->groups;
    if (a->map == CU_MAP_IN || a->map == CU_MAP_OUT) {
        uint32_t parts = rows * a->moe.parts_per_row;
        tiles = parts < a->moe.max_tiles ? parts : a->moe.max_tiles;
    }
    uint32_t blocks = tiles * cu_ceil_div(a->n, CU_MM_THREADS / 32 / ks * CU_MM_ROWS);
    bool few = !f32 && rows <= FEW;
    if (few) max_blocks += max_blocks / 2;
    if (blocks > max_blocks) blocks = max_blocks;
    if (f32) return LAUNCH(mm_f32, blocks, CU_MM_THREADS, sizeof(mm_shared), s, *a);
    uint32_t bytes = sizeof(mm_shared) + X_BYTES;
    if (few) return LAUNCH(mm_bf16<8>, blocks, CU_MM_THREADS, bytes, s, *a, ks);
    return LAUNCH(mm_bf16<CU_TILE_ROWS>, blocks, CU_MM_THREADS, bytes, s, *a, ks);
}

extern "C" cudaError_t cu_silu(cudaStream_t s, const void *desc, const void *x, void *y, uint32_t n,
                               uint32_t rows, cu_stamp *stamp) {
    return LAUNCH(silu_rows, rows, 256, 0, s, desc, (const bf16 *)x, (bf16 *)y, n, stamp);
}
