/* mm.cu - products y = x wT for few rows, dense, per head, and grouped by expert: the kernels, and
 * the choice of a kernel for each product.
 *
 * mm_tokens.cuh pairs tokens with weights, mm_product.cuh has the product, mm_store.cuh stores its
 * sums. */
#include "engine/cuda/mm_product.cuh"

enum {
    MAX_KS = 8,
    ENOUGH_WARPS = 2048,
    FEW = 8, /* with so few rows no tile has more than 8 tokens */
    ONE_FILLING = 128,
};

/* An item's product, its first weights already on their way; its sums go to xs. */
template <int NT, int KS, typename MAP>
static __device__ __forceinline__ void multiply_item(const cu_mm_args &args, const mm_tile &tile,
                                                     const mm_rows *sh, unsigned char *xs,
                                                     mm_ring &ring, mm_walk &at) {
    float acc[NT][4] = {};
    product<NT, KS, MAP>(acc, args, tile, sh, (bf16 *)xs, ring, at);
    leave_sums<NT>(acc, (float *)xs);
}

/* The same for any number of tokens. Above 8 only experts have smaller tiles often: of a dense
 * product they are the last tile, or the rest of a launch with halted rows. */
template <int KS, int MOST, typename MAP>
static __device__ __forceinline__ void multiply_tile(const cu_mm_args &args, const mm_tile &tile,
                                                     const mm_rows *sh, unsigned char *xs,
                                                     mm_ring &ring, mm_walk &at) {
    if constexpr (MOST == 8) {
        multiply_item<1, KS, MAP>(args, tile, sh, xs, ring, at);
    } else {
        if (!MAP::KNOWN && tile.n <= 8) multiply_item<1, KS, MAP>(args, tile, sh, xs, ring, at);
        else if (tile.n <= 16) multiply_item<2, KS, MAP>(args, tile, sh, xs, ring, at);
        else if (tile.n <= 32) multiply_item<4, KS, MAP>(args, tile, sh, xs, ring, at);
        else multiply_item<8, KS, MAP>(args, tile, sh, xs, ring, at);
    }
}

/* 8 warps = 8 / KS tiles of 16 weight rows, each tile's k dealt to KS warps in steps of 32. MOST:
 * most tokens of a tile. For 8 the kernel needs fewer registers, so half as many warps again have
 * weights in flight. */
template <typename MAP, typename STORE, int KS, int MOST>
static __global__ void __launch_bounds__(CU_MM_THREADS, MOST == 8 ? 3 : 2)
    mm_bf16(cu_mm_args args) {
    const uint32_t per_block = MM_WARPS / KS * CU_MM_ROWS;
    DYNAMIC_SHARED(bytes);
    mm_shared *shared = (mm_shared *)bytes;
    unsigned char *xs = shared->x;
    uint32_t blocks = (args.n + per_block - 1) / per_block, item = blockIdx.x, turn = 0;
    mm_ring ring = {};
    mm_walk at;
    if (MAP::KNOWN)
        at = begin_item<MAP, KS>(args, MAP::group(args, item / blocks), item % blocks, ring);
    kernel_scope scope(args.stamp);
    uint32_t items = MAP::tiles(args) * blocks;
    bool more = item < items;
    mm_tile now = more ? MAP::tile(args, item / blocks) : mm_tile{};
    if (!MAP::KNOWN && more) at = begin_item<MAP, KS>(args, now.group, item % blocks, ring);
    for (; more; turn ^= 1) {
        item += gridDim.x;
        more = item < items;
        mm_tile next = more ? MAP::tile(args, item / blocks) : now;
        mm_rows *sh = &shared->rows[turn]; /* the other one may still be read */
        MAP::look_up(args, now, sh);
        STORE::look_up(args, now, sh);
        uint32_t n0 = at.n0;
        multiply_tile<KS, MOST, MAP>(args, now, sh, xs, ring, at);
        if (more) at = begin_item<MAP, KS>(args, next.group, item % blocks, ring);
        __syncthreads();
        if (n0 < args.n)
            store_sums<KS, MAP>(STORE{{args, now, sh, n0, threadIdx.x >> 2 & 7}}, (const float *)xs,
                                now.n);
        now = next;
    }
}

/* Parity mode: plain float32, a thread per token and pair of weight rows, k in order. */
template <typename MAP, typename STORE>
static __global__ void __launch_bounds__(CU_MM_THREADS) mm_f32(cu_mm_args args) {
    kernel_scope scope(args.stamp);
    DYNAMIC_SHARED(bytes);
    mm_rows *sh = (mm_rows *)bytes;
    uint32_t g = threadIdx.x & 7, blocks = (args.n + CU_MM_ROWS - 1) / CU_MM_ROWS;
    uint32_t items = MAP::tiles(args) * blocks;
    for (uint32_t item = blockIdx.x; item < items; item += gridDim.x) {
        mm_tile now = MAP::tile(args, item / blocks);
        uint32_t n0 = item % blocks * CU_MM_ROWS;
        __syncthreads(); /* the last item's rows have been used */
        MAP::look_up(args, now, sh);
        __syncthreads();
        mm_weights<float> weights = MAP::template weights<float>(args, now.group);
        const float *w = weights.w + (uint64_t)(n0 + g) * weights.ld;
        STORE out{{args, now, sh, n0, g}};
        for (uint32_t token = threadIdx.x >> 3; token < now.n; token += CU_MM_THREADS / 8) {
            const float *x = MAP::template x<float>(args, now, sh, token);
            float lo = 0.0f, hi = 0.0f;
            for (uint32_t k = 0; k < args.k; k++) {
                lo += w[k] * x[k];
                hi += w[8 * (uint64_t)weights.ld + k] * x[k];
            }
            out.template put<MAP, float>(token, lo, hi);
        }
    }
}

/* Rows as cuBLAS left them, in bfloat16, through the activation: gates and ups, 8 and 8 in turn, or
 * ups alone. */
template <bool GATED>
static __global__ void __launch_bounds__(256)
    hidden_rows(const void *desc, const bf16 *x, bf16 *y, uint32_t n, cu_stamp *stamp) {
    kernel_scope scope(stamp);
    uint32_t i = blockIdx.x;
    if (i >= head_of(desc)->n_rows) return;
    const vec16 *row = (const vec16 *)(x + (uint64_t)i * (GATED ? 2 * n : n));
    vec16 *to = (vec16 *)(y + (uint64_t)i * n);
    auto activate = [](uint32_t gate, uint32_t up) {
        float g = rm_bf16_widen((uint16_t)gate), u = rm_bf16_widen((uint16_t)up);
        return GATED ? rm_silu(g) * u : rm_half_relu2(u);
    };
    for (uint32_t c = threadIdx.x; c < n / 8; c += blockDim.x) {
        vec16 gate = row[GATED ? 2 * c : c], up = row[GATED ? 2 * c + 1 : c], out;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            out.w[j] =
                narrow_pair(activate(gate.w[j], up.w[j]), activate(gate.w[j] >> 16, up.w[j] >> 16));
        }
        to[c] = out;
    }
}

/* ---- which kernel ---- */

typedef void (*mm_kernel)(cu_mm_args);

/* The products in use. */
struct mm_pair {
    cu_mm_map map;
    cu_mm_store store;
    const char *name;
    mm_kernel few[4], many[4]; /* by log2 of KS */
    mm_kernel f32;             /* NULL: not in parity mode */
};

template <typename MAP, typename STORE>
static constexpr mm_pair pair_of(cu_mm_map map, cu_mm_store store, const char *name,
                                 mm_kernel f32) {
    return {map,
            store,
            name,
            {mm_bf16<MAP, STORE, 1, 8>, mm_bf16<MAP, STORE, 2, 8>, mm_bf16<MAP, STORE, 4, 8>,
             mm_bf16<MAP, STORE, 8, 8>},
            {mm_bf16<MAP, STORE, 1, CU_TILE_ROWS>, mm_bf16<MAP, STORE, 2, CU_TILE_ROWS>,
             mm_bf16<MAP, STORE, 4, CU_TILE_ROWS>, mm_bf16<MAP, STORE, 8, CU_TILE_ROWS>},
            f32};
}

static const mm_pair pairs[] = {
    pair_of<mm_dense, mm_plain<float>>(CU_MAP_ROWS, CU_STORE_F32, "mm",
                                       mm_f32<mm_dense, mm_plain<float>>),
    pair_of<mm_dense, mm_plain<float>>(CU_MAP_LOGITS, CU_STORE_F32, "mm of logits",
                                       mm_f32<mm_dense, mm_plain<float>>),
    pair_of<mm_dense, mm_silu>(CU_MAP_ROWS, CU_STORE_SILU, "mm with SiLU",
                               mm_f32<mm_dense, mm_silu>),
    pair_of<mm_dense, mm_relu2>(CU_MAP_ROWS, CU_STORE_RELU2, "mm with relu2",
                                mm_f32<mm_dense, mm_relu2>),
    pair_of<mm_dense, mm_query>(CU_MAP_ROWS, CU_STORE_QUERY, "mm of queries", nullptr),
    pair_of<mm_heads, mm_plain<bf16>>(CU_MAP_HEADS, CU_STORE_ACT, "mm per head",
                                      mm_f32<mm_heads, mm_plain<float>>),
    pair_of<mm_parts<false>, mm_silu>(CU_MAP_IN, CU_STORE_SILU, "mm into experts",
                                      mm_f32<mm_parts<false>, mm_silu>),
    pair_of<mm_parts<true>, mm_plain<float>>(CU_MAP_OUT, CU_STORE_F32, "mm out of experts",
                                             mm_f32<mm_parts<true>, mm_plain<float>>),
};

static const mm_pair *pair_for(const cu_mm_args *args) {
    for (const mm_pair &pair : pairs)
        if (pair.map == args->map && pair.store == args->store) return &pair;
    return nullptr;
}

static size_t block_shared; /* bytes a thread block may have, of cu_mm_setup */

/* log2 of the warps sharing a tile of weight rows: enough to give the device enough warps at one
 * token. A function of the whole matrix alone, as the order of the sum depends on it. More than
 * enough cost bandwidth: a thread block with fewer weight rows fetches the same tokens, and at 32
 * tokens and 16 rows it fetches twice as many bytes of them as of weights. */
static uint32_t split_k(const cu_mm_args *args) {
    uint32_t groups = args->map == CU_MAP_HEADS                           ? args->groups
                      : args->map == CU_MAP_IN || args->map == CU_MAP_OUT ? args->moe.top_k
                                                                          : 1;
    uint32_t n = args->n_all ? args->n_all : args->n, log = 0;
    uint32_t tiles = cu_ceil_div(n, CU_MM_ROWS) * groups;
    while (1u << log < MAX_KS && tiles << log < ENOUGH_WARPS &&
           args->k / (CU_K_STEP * 2 << log) >= 2)
        log++;
    return log;
}

/* Two fillings of tokens if a multiprocessor then still takes two thread blocks, at 1 KB more for
 * each: not with 100 KB (8.6, 8.9). And only for many rows: on an H100 they gain 3 % of a step of
 * 512 rows, lose 0.5 % at 128, and double the time at up to 8, as three thread blocks fit with one
 * filling. */
static uint32_t fillings_of(uint32_t rows) {
    bool fit = 2 * (size_t)(mm_shared_bytes(2) + 1024) <= block_shared + 1024;
    return fit && rows > ONE_FILLING ? 2 : 1;
}

/* most: bytes of shared memory a thread block may have; a multiprocessor has 1 KB more. */
extern "C" cudaError_t cu_mm_setup(int most) {
    block_shared = (size_t)most;
    if (fillings_of(UINT32_MAX) == 1) return cudaSuccess;
    cudaError_t rc = cudaSuccess;
    for (const mm_pair &pair : pairs) {
        for (int log = 0; log < 4 && rc == cudaSuccess; log++) {
            rc = cudaFuncSetAttribute(pair.many[log], cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      (int)mm_shared_bytes(2));
        }
    }
    return rc;
}

extern "C" cudaError_t cu_mm(cudaStream_t stream, const cu_mm_args *args, uint32_t rows,
                             uint32_t max_blocks, bool f32) {
    const mm_pair *pair = pair_for(args);
    if (pair == nullptr || (f32 && pair->f32 == nullptr)) return cudaErrorInvalidValue;
    if (args->n == 0) return cudaSuccess; /* a rank without columns */
    uint32_t log = f32 ? 3 : split_k(args), tiles = cu_ceil_div(rows, CU_TILE_ROWS);
    if (args->map == CU_MAP_HEADS) tiles *= args->groups;
    if (args->map == CU_MAP_IN || args->map == CU_MAP_OUT) {
        uint32_t parts = rows * args->moe.parts_per_row;
        tiles = parts < args->moe.max_tiles ? parts : args->moe.max_tiles;
    }
    uint32_t blocks = tiles * cu_ceil_div(args->n, (MM_WARPS >> log) * CU_MM_ROWS);
    bool few = !f32 && rows <= FEW;
    if (few) max_blocks += max_blocks / 2;
    if (blocks > max_blocks) blocks = max_blocks;
    mm_kernel kernel = f32 ? pair->f32 : few ? pair->few[log] : pair->many[log];
    cu_mm_args own = *args;
    own.fillings = fillings_of(rows);
    size_t bytes = f32 ? sizeof(mm_rows) : mm_shared_bytes(own.fillings);
    return cu_started(START(kernel, blocks, CU_MM_THREADS, bytes, stream, own), pair->name);
}

extern "C" cudaError_t cu_silu(cudaStream_t stream, const void *desc, const void *x, void *y,
                               uint32_t n, uint32_t rows, cu_stamp *stamp) {
    return LAUNCH(hidden_rows<true>, rows, 256, 0, stream, desc, (const bf16 *)x, (bf16 *)y, n,
                  stamp);
}

extern "C" cudaError_t cu_relu2(cudaStream_t stream, const void *desc, const void *x, void *y,
                                uint32_t n, uint32_t rows, cu_stamp *stamp) {
    return LAUNCH(hidden_rows<false>, rows, 256, 0, stream, desc, (const bf16 *)x, (bf16 *)y, n,
                  stamp);
}
