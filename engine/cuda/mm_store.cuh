/* mm_store.cuh - what becomes of a product's sums: one struct for each kind of output, as template
 * arguments of the kernels in mm.cu.
 *
 * A lane has the sums of weight rows n0 + g and n0 + g + 8 of a warp's 16 rows, and gives them to
 * put() token by token. All lanes of the warp call put(), for tokens that are not there too. */
#ifndef FATHOM_ENGINE_CUDA_MM_STORE_CUH
#define FATHOM_ENGINE_CUDA_MM_STORE_CUH

#include "engine/cuda/mm_tokens.cuh"

/* What all kinds need. */
struct mm_output {
    const cu_mm_args &a;
    const mm_tile &t;
    const mm_rows *sh;
    uint32_t n0, g; /* the lane's first row is n0 + g */
};

/* y [token][n] of type Y, weighed as MAP says. */
template <typename Y> struct mm_plain {
    mm_output out;

    static __device__ __forceinline__ void look_up(const cu_mm_args &, const mm_tile &, mm_rows *) {
    }
    template <typename MAP, typename A>
    __device__ __forceinline__ void put(uint32_t token, float lo, float hi) const {
        if (token >= out.t.n) return;
        Y *y = (Y *)out.a.y + MAP::y(out.a, out.t, out.sh, token);
        float scale = MAP::scale(out.sh, token);
        uint32_t n = out.n0 + out.g;
        if (n < out.a.n) narrow(lo * scale, &y[n]);
        if (n + 8 < out.a.n) narrow(hi * scale, &y[n + 8]);
    }
};

/* y [token][n / 2]: rows are gates and ups, 8 and 8 in turn, so that a lane has one of each. */
struct mm_silu {
    mm_output out;

    static __device__ __forceinline__ void look_up(const cu_mm_args &, const mm_tile &, mm_rows *) {
    }
    template <typename MAP, typename A>
    __device__ __forceinline__ void put(uint32_t token, float lo, float hi) const {
        if (token >= out.t.n || out.n0 + out.g >= out.a.n) return;
        A *y = (A *)out.a.y + MAP::y(out.a, out.t, out.sh, token);
        narrow(rm_silu(lo) * hi, &y[out.n0 / 2 + out.g]);
    }
};

/* The query of MLA, as mla_query splits it: rows are [nope of all heads | rope of all heads]. The
 * two rows of a rotated pair lie in neighbouring lanes of g, since the heads' nope parts together
 * are an even number of rows. Padding belongs to the lane that has the last row before it. */
struct mm_query {
    struct place {
        uint32_t at;  /* in a row of q_nope, or of q */
        uint32_t pad; /* zeros behind it */
        uint32_t j;   /* channel of the rotated part */
        bool rope, there;
    };
    mm_output out;

    static __device__ __forceinline__ place place_of(const cu_mm_args &a, uint32_t n) {
        const cu_query_args &q = a.query;
        uint32_t nopes = q.n_heads * q.nope;
        place p = {0, 0, 0, n >= nopes, n < a.n};
        if (p.rope) {
            p.j = (n - nopes) % q.rope_dim;
            p.at = (n - nopes) / q.rope_dim * (q.kv_lora + q.rope_dim) + q.kv_lora + p.j;
        } else {
            uint32_t k = n % q.nope;
            p.at = n / q.nope * q.nope_ld + k;
            if (k + 1 == q.nope) p.pad = q.nope_ld - q.nope;
        }
        return p;
    }

    /* On the way while the sums are made. */
    static __device__ __forceinline__ void look_up(const cu_mm_args &a, const mm_tile &t,
                                                   mm_rows *sh) {
        uint32_t i = threadIdx.x;
        if (i >= t.n) return;
        sh->pos[i] = rows_of(a.desc)[t.first + i].pos;
        prefetch(a.query.rope + (uint64_t)sh->pos[i] * a.query.rope_dim);
    }

    template <typename A>
    __device__ __forceinline__ void one(const place &p, uint32_t token, float mine,
                                        float other) const {
        const cu_query_args &q = out.a.query;
        uint64_t row = out.t.first + token;
        if (!p.there) return;
        if (p.rope) {
            const float *turn = q.rope + (uint64_t)out.sh->pos[token] * q.rope_dim + (p.j & ~1u);
            bool odd = p.j & 1;
            float x0 = odd ? other : mine, x1 = odd ? mine : other;
            rm_rotate(&x0, &x1, turn[0], turn[1]);
            narrow(odd ? x1 : x0, (A *)q.q + row * q.n_heads * (q.kv_lora + q.rope_dim) + p.at);
            return;
        }
        A *to = (A *)q.q_nope + row * q.n_heads * q.nope_ld + p.at;
        narrow(mine, to);
#pragma unroll 1
        for (uint32_t i = 1; i <= p.pad; i++)
            narrow(0.0f, to + i);
    }

    template <typename MAP, typename A>
    __device__ __forceinline__ void put(uint32_t token, float lo, float hi) const {
        const cu_query_args &q = out.a.query;
#pragma unroll 1
        for (uint32_t half = 0; half < 2; half++) {
            float mine = half ? hi : lo, other = __shfl_xor_sync(0xffffffffu, mine, 4);
            if (token < out.t.n)
                one<A>(place_of(out.a, out.n0 + out.g + 8 * half), token, mine, other);
        }
        if (token >= out.t.n || out.n0 + out.g != 0) return;
#pragma unroll 1
        for (uint32_t c = q.o_values; c < q.o_ld; c++)
            narrow(0.0f, (A *)q.o + (uint64_t)(out.t.first + token) * q.o_ld + c);
    }
};

#endif
