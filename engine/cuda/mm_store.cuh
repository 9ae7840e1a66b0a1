/* mm_store.cuh - stores a product's sums: one struct for each kind of output, as template arguments
 * of the kernels in mm.cu.
 *
 * A lane has the sums of weight rows n0 + g and n0 + g + 8 of a warp's 16 rows, and gives them to
 * put() token by token. All lanes of the warp call put(), for missing tokens too. */
#ifndef FATHOM_ENGINE_CUDA_MM_STORE_CUH
#define FATHOM_ENGINE_CUDA_MM_STORE_CUH

#include "engine/cuda/mm_tokens.cuh"

/* What all kinds need. */
struct mm_output {
    const cu_mm_args &args;
    const mm_tile &tile;
    const mm_rows *sh;
    uint32_t n0, g; /* the lane's first row is n0 + g */
};

/* y [token][n] of type Y, weighed as MAP says. */
template <typename Y> struct mm_plain {
    mm_output out;

    static __device__ __forceinline__ void look_up(const cu_mm_args &, const mm_tile &, mm_rows *) {
    }
    template <typename MAP, typename ACT>
    __device__ __forceinline__ void put(uint32_t token, float lo, float hi) const {
        if (token >= out.tile.n) return;
        Y *y = (Y *)out.args.y + MAP::y(out.args, out.tile, out.sh, token);
        float scale = MAP::scale(out.sh, token);
        uint32_t n = out.n0 + out.g;
        if (n < out.args.n) narrow(lo * scale, &y[n]);
        if (n + 8 < out.args.n) narrow(hi * scale, &y[n + 8]);
    }
};

/* y [token][n / 2]: rows are gates and ups, 8 and 8 in turn, so a lane has one of each. */
struct mm_silu {
    mm_output out;

    static __device__ __forceinline__ void look_up(const cu_mm_args &, const mm_tile &, mm_rows *) {
    }
    template <typename MAP, typename ACT>
    __device__ __forceinline__ void put(uint32_t token, float lo, float hi) const {
        if (token >= out.tile.n || out.n0 + out.g >= out.args.n) return;
        ACT *y = (ACT *)out.args.y + MAP::y(out.args, out.tile, out.sh, token);
        narrow(rm_silu(lo) * hi, &y[out.n0 / 2 + out.g]);
    }
};

/* y [token][n] = 0.5 relu^2. */
struct mm_relu2 {
    mm_output out;

    static __device__ __forceinline__ void look_up(const cu_mm_args &, const mm_tile &, mm_rows *) {
    }
    template <typename MAP, typename ACT>
    __device__ __forceinline__ void put(uint32_t token, float lo, float hi) const {
        if (token >= out.tile.n) return;
        ACT *y = (ACT *)out.args.y + MAP::y(out.args, out.tile, out.sh, token);
        uint32_t n = out.n0 + out.g;
        if (n < out.args.n) narrow(rm_half_relu2(lo), &y[n]);
        if (n + 8 < out.args.n) narrow(rm_half_relu2(hi), &y[n + 8]);
    }
};

/* The query of MLA, as mla_query splits it: rows are [nope of all heads | rope of all heads]. The
 * two rows of a rotated pair lie in neighbouring lanes of g, since the heads' nope parts together
 * are an even number of rows. Padding belongs to the lane with the last row before it. */
struct mm_query {
    struct place {
        uint32_t at;  /* in a row of q_nope, or of q */
        uint32_t pad; /* zeros behind it */
        uint32_t j;   /* channel of the rotated part */
        bool rope, there;
    };
    mm_output out;

    static __device__ __forceinline__ place place_of(const cu_mm_args &args, uint32_t n) {
        const cu_query_args &query = args.query;
        uint32_t nopes = query.n_heads * query.nope;
        place spot = {0, 0, 0, n >= nopes, n < args.n};
        if (spot.rope) {
            spot.j = (n - nopes) % query.rope_dim;
            spot.at = (n - nopes) / query.rope_dim * (query.kv_lora + query.rope_dim) +
                      query.kv_lora + spot.j;
        } else {
            uint32_t k = n % query.nope;
            spot.at = n / query.nope * query.nope_ld + k;
            if (k + 1 == query.nope) spot.pad = query.nope_ld - query.nope;
        }
        return spot;
    }

    /* On the way while the sums are made. */
    static __device__ __forceinline__ void look_up(const cu_mm_args &args, const mm_tile &tile,
                                                   mm_rows *sh) {
        uint32_t i = threadIdx.x;
        if (i >= tile.n) return;
        sh->pos[i] = rows_of(args.desc)[tile.first + i].pos;
        prefetch(args.query.rope + (uint64_t)sh->pos[i] * args.query.rope_dim);
    }

    template <typename ACT>
    __device__ __forceinline__ void one(const place &spot, uint32_t token, float mine,
                                        float other) const {
        const cu_query_args &query = out.args.query;
        uint64_t row = out.tile.first + token;
        if (!spot.there) return;
        if (spot.rope) {
            const float *turn =
                query.rope + (uint64_t)out.sh->pos[token] * query.rope_dim + (spot.j & ~1u);
            bool odd = spot.j & 1;
            float x0 = odd ? other : mine, x1 = odd ? mine : other;
            rm_rotate(&x0, &x1, turn[0], turn[1]);
            narrow(odd ? x1 : x0, (ACT *)query.q +
                                      row * query.n_heads * (query.kv_lora + query.rope_dim) +
                                      spot.at);
            return;
        }
        ACT *to = (ACT *)query.q_nope + row * query.n_heads * query.nope_ld + spot.at;
        narrow(mine, to);
#pragma unroll 1
        for (uint32_t i = 1; i <= spot.pad; i++)
            narrow(0.0f, to + i);
    }

    template <typename MAP, typename ACT>
    __device__ __forceinline__ void put(uint32_t token, float lo, float hi) const {
        const cu_query_args &query = out.args.query;
#pragma unroll 1
        for (uint32_t half = 0; half < 2; half++) {
            float mine = half ? hi : lo, other = __shfl_xor_sync(0xffffffffu, mine, 4);
            if (token < out.tile.n)
                one<ACT>(place_of(out.args, out.n0 + out.g + 8 * half), token, mine, other);
        }
        if (token >= out.tile.n || out.n0 + out.g != 0) return;
#pragma unroll 1
        for (uint32_t c = query.o_values; c < query.o_ld; c++)
            narrow(0.0f, (ACT *)query.o + (uint64_t)(out.tile.first + token) * query.o_ld + c);
    }
};

#endif
