/* mm_product.cuh - the product itself: 16 weight rows a warp against 8 to 64 tokens.
 *
 * The weights are the 16-row operand of the tensor cores and the tokens the 8-column one, so one
 * token wastes little: each weight goes once from memory straight into registers, 16 bytes a lane,
 * and these loads bound the kernel up to 64 tokens. A quad of lanes takes 32 consecutive k; a lane
 * holds the same k of weights and tokens, so the order of k inside a step does not matter.
 *
 * Weights come through a ring of BATCH steps. The place of a used step is filled again at once,
 * with the step BATCH further on or with the first steps of the next item, so that a warp has 4 KB
 * on the way while it waits for tokens, for other warps, or stores. A load is used a batch later,
 * beyond the loop's end, so that ptxas cannot move the load next to its use.
 *
 * A token's result is one sum per output, in an order set by k and n alone: its bits do not depend
 * on the other rows of the launch. */
#ifndef FATHOM_ENGINE_CUDA_MM_PRODUCT_CUH
#define FATHOM_ENGINE_CUDA_MM_PRODUCT_CUH

#include "engine/cuda/mm_store.cuh"

enum {
    X_VALUES = 2048, /* token values in shared memory for 8 tokens; fewer k for more tokens */
    X_PAD = 32,      /* row stride of 64 bytes beyond a multiple of 128: no bank conflicts */
    X_BYTES = 8 * (CU_TILE_ROWS / 8) * X_PAD * 2 + 8 * X_VALUES * 2,
    MM_WARPS = CU_MM_THREADS / 32,
    BATCH = 4, /* steps of k with weights in flight together */
};

struct mm_shared {
    mm_rows rows[2];                      /* of this item and of the next */
    alignas(16) unsigned char x[X_BYTES]; /* a second one behind it if two fit */
};
static __host__ __device__ __forceinline__ uint32_t mm_shared_bytes(uint32_t fillings) {
    return sizeof(mm_shared) + (fillings - 1) * X_BYTES;
}

/* One lane's place in its weights. */
struct mm_walk {
    const bf16 *w; /* of the step at the head of the ring */
    uint32_t up;   /* values to the row 8 further down */
    uint32_t left; /* steps from the head of the ring to the end of this warp's share */
    uint32_t n0;   /* the warp's first weight row */
    uint64_t hint;
};

struct mm_ring {
    vec16 lo[BATCH], hi[BATCH];
};

/* 16 bytes of two weight rows, if they are there. The asm keeps its place among others of its kind:
 * an item's first loads stay before grid_wait. */
static __device__ __forceinline__ void load_rows(vec16 *lo, vec16 *hi, const bf16 *p, uint32_t up,
                                                 uint64_t hint, bool there) {
#ifdef __CUDA_ARCH__
    asm volatile("{\n.reg .pred there;\nsetp.ne.u32 there, %11, 0;\n"
                 "@there ld.global.nc.L1::no_allocate.L2::cache_hint.v4.u32 {%0,%1,%2,%3}, [%8], "
                 "%10;\n"
                 "@there ld.global.nc.L1::no_allocate.L2::cache_hint.v4.u32 {%4,%5,%6,%7}, [%9], "
                 "%10;\n}"
                 : "+r"(lo->w[0]), "+r"(lo->w[1]), "+r"(lo->w[2]), "+r"(lo->w[3]), "+r"(hi->w[0]),
                   "+r"(hi->w[1]), "+r"(hi->w[2]), "+r"(hi->w[3])
                 : "l"(p), "l"(p + up), "l"(hint), "r"((uint32_t)there));
#else
    (void)hint;
    if (!there) return;
    *lo = *(const vec16 *)p;
    *hi = *(const vec16 *)(p + up);
#endif
}

/* Fills one place of the ring with the step `ahead` of its head. */
template <int KS>
static __device__ __forceinline__ void ring_load(mm_ring &ring, const mm_walk &at, uint32_t place,
                                                 uint32_t ahead) {
    load_rows(&ring.lo[place], &ring.hi[place], at.w + ahead * (KS * CU_K_STEP), at.up, at.hint,
              ahead < at.left);
}

/* The beginning of an item: its first steps on their way. */
template <typename MAP, int KS>
static __device__ __forceinline__ mm_walk begin_item(const cu_mm_args &args, uint32_t group,
                                                     uint32_t block, mm_ring &ring) {
    uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, q = lane & 3;
    uint32_t slice = warp % KS, steps = args.k / CU_K_STEP;
    mm_weights<bf16> m = MAP::template weights<bf16>(args, group);
    mm_walk at;
    at.n0 = (block * (MM_WARPS / KS) + warp / KS) * CU_MM_ROWS;
    at.up = 8 * m.ld;
    at.left = at.n0 < args.n ? (steps + KS - 1 - slice) / KS : 0;
    at.w = m.w + (uint64_t)(at.n0 + g) * m.ld + slice * CU_K_STEP + 8 * q;
    at.hint = cache_hint(MAP::policy(args, group, at.n0));
    if (at.left) { /* a branch: ptxas leaves these loads before it */
#pragma unroll
        for (uint32_t i = 0; i < BATCH; i++)
            ring_load<KS>(ring, at, i, i);
    }
    return at;
}

/* Tokens' values [k0, k0 + X_VALUES / NT), on their way into xs. Rows of missing tokens keep their
 * old values: a column of the tensor cores' operand meets no other column. */
template <int NT, typename MAP>
static __device__ __forceinline__ void load_tokens(const cu_mm_args &args, const mm_tile &tile,
                                                   const mm_rows *sh, bf16 *xs, uint32_t k0) {
    const uint32_t stride = X_VALUES / NT + X_PAD, vecs = X_VALUES / NT / 8;
    uint32_t v = threadIdx.x % vecs, k = k0 + 8 * v;
    if (k < args.k) {
#pragma unroll 1 /* no wait for their data here */
        for (uint32_t token = threadIdx.x / vecs; token < tile.n; token += CU_MM_THREADS / vecs)
            copy_async(xs + token * stride + 8 * v,
                       MAP::template x<bf16>(args, tile, sh, token) + k);
    }
}

/* One step of 32 k. */
template <int NT>
static __device__ __forceinline__ void multiply(float acc[NT][4], const vec16 &lo, const vec16 &hi,
                                                const bf16 *x) {
    const uint32_t stride = X_VALUES / NT + X_PAD;
#pragma unroll
    for (int t8 = 0; t8 < NT; t8++) {
        vec16 vec = *(const vec16 *)(x + t8 * 8 * stride);
        mma_bf16(acc[t8], lo.w[0], hi.w[0], lo.w[1], hi.w[1], vec.w[0], vec.w[1]);
        mma_bf16(acc[t8], lo.w[2], hi.w[2], lo.w[3], hi.w[3], vec.w[2], vec.w[3]);
    }
}

/* A warp's steps among the tokens' values in shared memory, n in all; x: the lane's place in the
 * first. */
template <int KS>
static __device__ __forceinline__ void use_batches(float acc[1][4], mm_ring &ring, mm_walk &at,
                                                   const bf16 *x, uint32_t n) {
#pragma unroll 1
    for (; n >= BATCH; n -= BATCH, x += BATCH * KS * CU_K_STEP) {
#pragma unroll
        for (uint32_t i = 0; i < BATCH; i++) {
            multiply<1>(acc, ring.lo[i], ring.hi[i], x + i * KS * CU_K_STEP);
            ring_load<KS>(ring, at, i, BATCH + i);
        }
        at.w += BATCH * KS * CU_K_STEP;
        at.left -= BATCH;
    }
#pragma unroll
    for (uint32_t i = 0; i + 1 < BATCH; i++) /* the last of all */
        if (i < n) multiply<1>(acc, ring.lo[i], ring.hi[i], x + i * KS * CU_K_STEP);
}

/* The same for more tokens: a step is long enough for a branch before it, and separate code for a
 * shorter batch would be long. A filling of xs holds HERE of the warp's steps: if less than a
 * batch, `part` is the filling's turn in it. */
template <int NT, int KS, int HERE>
static __device__ __forceinline__ void use_steps(float acc[NT][4], mm_ring &ring, mm_walk &at,
                                                 const bf16 *x, uint32_t part) {
#pragma unroll
    for (uint32_t i = 0; i < BATCH; i++) {
        if (HERE < BATCH && i / HERE != part) continue;
        if (i < at.left) multiply<NT>(acc, ring.lo[i], ring.hi[i], x + i % HERE * KS * CU_K_STEP);
        ring_load<KS>(ring, at, i, BATCH + i);
    }
    if (HERE < BATCH && part + 1 != BATCH / HERE) return;
    at.w += BATCH * KS * CU_K_STEP;
    at.left = at.left < BATCH ? 0 : at.left - BATCH;
}

/* All of a warp's steps, for the whole thread block's tokens. With room for two fillings of xs, the
 * next is on its way while this one is used: experts at 512 rows take 6 % less time on an H100. */
template <int NT, int KS, typename MAP>
static __device__ __forceinline__ void product(float acc[NT][4], const cu_mm_args &args,
                                               const mm_tile &tile, const mm_rows *sh, bf16 *xs,
                                               mm_ring &ring, mm_walk &at) {
    constexpr uint32_t stride = X_VALUES / NT + X_PAD, width = X_VALUES / NT;
    constexpr uint32_t here = width / CU_K_STEP / KS; /* steps of a warp in one filling of xs */
    /* One filling holds 1,024 k of up to 16 tokens. Where it holds one step of a warp, the code of
     * a second place would exceed 32 KB. */
    constexpr bool may_have_two = NT > 2 && here > 1;
    const uint32_t other = may_have_two && args.fillings == 2 ? X_BYTES / sizeof(bf16) : 0;
    uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5, part = 0, turn = 0;
    uint32_t from = (lane >> 2) * stride + warp % KS * CU_K_STEP + 8 * (lane & 3);
#pragma unroll 1
    for (uint32_t k0 = 0; k0 < args.k; k0 += width, turn ^= other) {
        const bf16 *x = xs + turn + from;
        bool load_now = k0 == 0 || other == 0;
#pragma unroll 1 /* one place of load_tokens in the code: the kernel stays within 32 KB */
        for (uint32_t ahead = 0; ahead < 1 + may_have_two; ahead++) {
            if (ahead) copies_wait();
            /* Now: rows are known, the last values and sums have been used. Ahead: the values of
             * this filling are here, the other place has been used. */
            if (ahead || load_now) __syncthreads();
            if (ahead ? other != 0 : load_now)
                load_tokens<NT, MAP>(args, tile, sh, xs + (ahead ? turn ^ other : turn),
                                     k0 + ahead * width);
        }
        if constexpr (!may_have_two) {
            copies_wait();
            __syncthreads();
        }
        if constexpr (NT == 1) {
            use_batches<KS>(acc, ring, at, x, at.left < here ? at.left : here);
        } else if constexpr (here < BATCH) {
            use_steps<NT, KS, here>(acc, ring, at, x, part);
            part = (part + 1) % (BATCH / here);
        } else {
#pragma unroll 1
            for (uint32_t i = 0; i < here && at.left; i += BATCH)
                use_steps<NT, KS, here>(acc, ring, at, x + i * KS * CU_K_STEP, 0);
        }
    }
}

/* A warp's sums into shared memory, for join_slices. */
template <int NT>
static __device__ __forceinline__ void leave_sums(const float acc[NT][4], float *sums) {
    uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    __syncthreads(); /* tokens have been used */
#pragma unroll
    for (int i = 0; i < NT * 4; i++)
        sums[(i * MM_WARPS + warp) * 32 + lane] = acc[i / 4][i % 4];
}

/* Stores a tile's sums, of up to n tokens, each of its KS warps' in order; these warps take turns.
 */
template <int KS, typename MAP, typename STORE>
static __device__ __forceinline__ void store_sums(const STORE &out, const float *sums, uint32_t n) {
    const uint32_t slice = 32, sum = MM_WARPS * 32; /* from one to the next */
    uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    sums += warp / KS * KS * slice + lane;
#pragma unroll 1
    for (uint32_t i = warp % KS; i / 2 * 8 < n; i += KS) {
        const float *of = sums + (i / 2 * 4 + i % 2) * sum;
        float lo = of[0], hi = of[2 * sum];
#pragma unroll 1 /* the kernel stays within 32 KB */
        for (uint32_t s = 1; s < KS; s++) {
            lo += of[s * slice];
            hi += of[2 * sum + s * slice];
        }
        out.template put<MAP, bf16>(i / 2 * 8 + 2 * (lane & 3) + i % 2, lo, hi);
    }
}

#endif
