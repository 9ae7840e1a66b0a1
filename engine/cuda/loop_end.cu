/* loop_end.cu - the end of a loop: the last sum, LoRA, injection, norm, who leaves, and the output.
 *
 * A row with injection is worked on by many warps, each with its own CHUNK of channels: one thread
 * block would have to fetch some 280 KB (dim 2048, 12 parts, rank 8) through one multiprocessor.
 * What needs sums over the row comes in a second kernel, since clusters of thread blocks are not
 * everywhere: loop_mix leaves u = A h + B e + y and each warp's sums, loop_leave adds those up, in
 * every warp the same, and ends the loop. Even the gate's product needs no third: LoRA is linear,
 * so h w = u w + sum of z[k] (B[k] w), and B[k] w is a constant.
 *
 * A norm of the new state, or a rule that compares it with the old one, does need a sum over it:
 * then loop_row, one thread block a row, ends the loop. It is all there is without injection. */
#include "engine/cuda/rows.cuh"

enum {
    CHUNK = 128, /* channels of one warp */
    WARPS = 2,   /* of one thread block; they know nothing of each other */
    RANKS = 8,   /* LoRA rows at a time */
    PARTS = 12,  /* parts at a time */
    SUMS = 8,    /* of 32 chunks, that a lane reads at a time */
};

static __host__ __device__ __forceinline__ uint32_t chunks_of(uint32_t dim) {
    return (dim + CHUNK - 1) / CHUNK;
}

/* What loop_mix tells loop_leave of a row: [lora_rank + 1][chunks] sums, then its cum. */
static __host__ __device__ __forceinline__ uint32_t sums_of(uint32_t dim, uint32_t rank) {
    return (rank + 1) * chunks_of(dim) + 1;
}

static __device__ __forceinline__ bool has_gate(cu_exit rule) {
    return rule == CU_EXIT_ACT || rule == CU_EXIT_HAZARD;
}

/* Whether the row leaves. Sums: the gate's product, or |h - old|^2, |h|^2, or h old, |h|^2,
 * |old|^2. */
static __device__ __forceinline__ rm_act_step loop_exit(const cu_loop_end_args &a, const cu_row &r,
                                                        float cum, const float sums[3]) {
    uint32_t done = r.loop + 1u;
    rm_act_step step = {0.0f, cum, done >= r.max_loops};
    if (a.exit == CU_EXIT_ACT) {
        return rm_act(cum, rm_sigmoid(sums[0] + a.halt_bias), r.threshold, done, r.min_loops,
                      r.max_loops);
    }
    if (a.exit == CU_EXIT_HAZARD) {
        rm_hazard_step z = rm_hazard(cum, rm_sigmoid(sums[0] + a.halt_bias), r.threshold, done,
                                     r.min_loops, r.max_loops);
        step.cum = z.cum;
        step.halted = z.halted;
    } else if (a.exit == CU_EXIT_LATENT_DIFF) {
        step.halted = rm_latent_diff(sums[0], sums[1], r.threshold, done, r.min_loops, r.max_loops);
    } else if (a.exit == CU_EXIT_COSINE) {
        step.halted =
            rm_cosine(sums[0], sums[1], sums[2], r.threshold, done, r.min_loops, r.max_loops);
    }
    return step;
}

/* By one thread of the row. */
static __device__ __forceinline__ void loop_tell(const cu_loop_end_args &a, const cu_row &r,
                                                 const rm_act_step &s) {
    a.state.cum[r.row] = s.cum;
    if (s.halted) a.state.halted[r.row] = head_of(a.desc)->halted[r.at] = 1;
}

/* ---- many warps a row ---- */

/* Sums of 8 values over a warp at once: lane l gets that of v[l / 4]. */
static __device__ __forceinline__ float warp_sums8(const float v[8]) {
    uint32_t lane = threadIdx.x & 31;
    float four[4], two[2];
#pragma unroll
    for (int j = 0; j < 4; j++) {
        float give = lane & 16 ? v[j] : v[j + 4], keep = lane & 16 ? v[j + 4] : v[j];
        four[j] = keep + __shfl_xor_sync(0xffffffffu, give, 16);
    }
#pragma unroll
    for (int j = 0; j < 2; j++) {
        float give = lane & 8 ? four[j] : four[j + 2], keep = lane & 8 ? four[j + 2] : four[j];
        two[j] = keep + __shfl_xor_sync(0xffffffffu, give, 8);
    }
    float give = lane & 4 ? two[0] : two[1], sum = lane & 4 ? two[1] : two[0];
    sum += __shfl_xor_sync(0xffffffffu, give, 4);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    return sum + __shfl_xor_sync(0xffffffffu, sum, 1);
}

/* LoRA rows k0 to k0 + 7 at channels c to c + 3; zeros beyond the last. */
template <bool WHOLE>
static __device__ __forceinline__ void load_ranks(const float *m, uint32_t k0, uint32_t c,
                                                  const cu_loop_end_args &a, float v[RANKS][4]) {
#pragma unroll
    for (uint32_t k = 0; k < RANKS; k++) {
        load4<WHOLE>(m + (uint64_t)(k0 + k) * a.dim, c, k0 + k < a.lora_rank ? a.dim : 0, v[k]);
    }
}

/* The sums of LoRA rows k0 on over this warp's channels, into sums[k][chunk]. */
static __device__ __forceinline__ void put_ranks(const cu_loop_end_args &a, const float y[4],
                                                 const float down[RANKS][4], uint32_t k0,
                                                 uint32_t chunk, float *sums) {
    float z[RANKS];
    uint32_t lane = threadIdx.x & 31, k = k0 + (lane >> 2);
#pragma unroll
    for (int j = 0; j < RANKS; j++)
        z[j] = y[0] * down[j][0] + y[1] * down[j][1] + y[2] * down[j][2] + y[3] * down[j][3];
    float sum = warp_sums8(z);
    if ((lane & 3) == 0 && k < a.lora_rank) sums[k * chunks_of(a.dim) + chunk] = sum;
}

template <bool WHOLE>
static __global__ void __launch_bounds__(32 * WARPS, 1) loop_mix(cu_loop_end_args a) {
    uint32_t i = blockIdx.x, lane = threadIdx.x & 31;
    uint32_t chunk = blockIdx.y * WARPS + (threadIdx.x >> 5), c = chunk * CHUNK + 4 * lane;
    float inj_a[4], inj_b[4], w[4], y[4], h[4], e[4], down[RANKS][4], part[PARTS][4];
    load4<WHOLE>(a.inj_a, c, a.dim, inj_a);
    load4<WHOLE>(a.inj_b, c, a.dim, inj_b);
    load4<WHOLE>(a.halt_w, c, has_gate(a.exit) ? a.dim : 0, w);
    load_ranks<WHOLE>(a.lora_down, 0, c, a, down);
    kernel_scope scope(a.stamp);
    const float *parts = a.parts + (uint64_t)i * a.n_parts * a.dim;
    float *x = a.x + (uint64_t)i * a.dim;
    load4<WHOLE>(x, c, a.dim, y);
#pragma unroll
    for (uint32_t k = 0; k < PARTS; k++)
        load4<WHOLE>(parts + (uint64_t)k * a.dim, c, k < a.n_parts ? a.dim : 0, part[k]);
    cu_row r;
    if (!launch_row(a.desc, i, &r) || r.flags & CU_ROW_KV_ONLY || chunk * CHUNK >= a.dim) return;
    uint64_t at = (uint64_t)r.row * a.dim;
    float *sums = a.sums + (uint64_t)i * sums_of(a.dim, a.lora_rank);
    load4<WHOLE>(a.state.h + at, c, a.dim, h);
    load4<WHOLE>(a.state.e + at, c, a.dim, e);
    float cum = a.state.cum[r.row];
    for (uint32_t k0 = 0;; k0 += PARTS) {
#pragma unroll
        for (int k = 0; k < PARTS; k++) {
            for (int j = 0; j < 4; j++)
                y[j] += part[k][j];
        }
        if (k0 + PARTS >= a.n_parts) break;
        for (uint32_t k = 0; k < PARTS; k++) {
            load4<WHOLE>(parts + (uint64_t)(k0 + PARTS + k) * a.dim, c,
                         k0 + PARTS + k < a.n_parts ? a.dim : 0, part[k]);
        }
    }
    put_ranks(a, y, down, 0, chunk, sums);
    for (uint32_t k0 = RANKS; k0 < a.lora_rank; k0 += RANKS) {
        load_ranks<WHOLE>(a.lora_down, k0, c, a, down);
        put_ranks(a, y, down, k0, chunk, sums);
    }
    for (int j = 0; j < 4; j++)
        y[j] = rm_lti(h[j], e[j], y[j], inj_a[j], inj_b[j]);
    store4<WHOLE>(x, c, a.dim, y);
    uint32_t chunks = chunks_of(a.dim);
    float gate = warp_sum(y[0] * w[0] + y[1] * w[1] + y[2] * w[2] + y[3] * w[3]);
    if (lane != 0) return;
    sums[a.lora_rank * chunks + chunk] = gate;
    if (chunk == 0) sums[(a.lora_rank + 1) * chunks] = cum; /* loop_leave writes the old place */
}

/* y += z B over LoRA rows k0 on, and what that adds to the gate's product. Lanes 4k to 4k + 3 have
 * LoRA row k0 + k. */
static __device__ __forceinline__ float add_ranks(float sum, float scale, float gate,
                                                  const float up[RANKS][4], float y[4]) {
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    float z = sum * scale, dot = z * gate;
#pragma unroll
    for (int k = 0; k < RANKS; k++) {
        float zk = __shfl_sync(0xffffffffu, z, 4 * k);
        for (int j = 0; j < 4; j++)
            y[j] += zk * up[k][j];
    }
    for (int step = 4; step < 32; step <<= 1)
        dot += __shfl_xor_sync(0xffffffffu, dot, step);
    return dot;
}

/* A lane's part of LoRA row k's sums over chunks from `first` on: of each 4 chunks one. */
static __device__ __forceinline__ void load_sums(const cu_loop_end_args &a, const float *sums,
                                                 uint32_t k, uint32_t first, float v[SUMS]) {
    uint32_t chunks = chunks_of(a.dim);
#pragma unroll
    for (uint32_t j = 0; j < SUMS; j++) {
        uint32_t chunk = first + (threadIdx.x & 3) + 4 * j;
        v[j] = k < a.lora_rank && chunk < chunks ? sums[k * chunks + chunk] : 0.0f;
    }
}

/* Those sums in one, begun with what is loaded already. */
static __device__ __forceinline__ float rank_sum(const cu_loop_end_args &a, const float *sums,
                                                 uint32_t k, float v[SUMS]) {
    float sum = 0.0f;
    for (uint32_t first = 0;;) {
#pragma unroll
        for (int j = 0; j < SUMS; j++)
            sum += v[j];
        first += 4 * SUMS;
        if (first >= chunks_of(a.dim)) return sum;
        load_sums(a, sums, k, first, v);
    }
}

/* TO_ROW: leaves the new state in x for loop_row. */
template <bool WHOLE, bool TO_ROW>
static __global__ void __launch_bounds__(32 * WARPS, 1) loop_leave(cu_loop_end_args a) {
    uint32_t i = blockIdx.x, lane = threadIdx.x & 31, chunks = chunks_of(a.dim);
    uint32_t chunk = blockIdx.y * WARPS + (threadIdx.x >> 5), c = chunk * CHUNK + 4 * lane;
    uint32_t k = lane >> 2;
    bool gated = has_gate(a.exit) && !TO_ROW;
    float y[4], out[4], up[RANKS][4], of_rank[SUMS];
    load_ranks<WHOLE>(a.lora_b, 0, c, a, up);
    float gate_of_rank = gated && k < a.lora_rank ? a.lora_gate[k] : 0.0f;
    kernel_scope scope(a.stamp);
    float *x = a.x + (uint64_t)i * a.dim;
    const float *sums = a.sums + (uint64_t)i * sums_of(a.dim, a.lora_rank);
    const float *scales = a.lora_scale;
    load4<WHOLE>(x, c, a.dim, y);
    load_sums(a, sums, k, 0, of_rank);
    const float *gates = sums + a.lora_rank * chunks;
    float cum = gates[chunks], gate[3] = {lane < chunks ? gates[lane] : 0.0f};
    cu_row r;
    if (!launch_row(a.desc, i, &r) || r.flags & CU_ROW_KV_ONLY || chunk * CHUNK >= a.dim) return;
    uint64_t at = (uint64_t)r.row * a.dim;
    bool tail = r.flags & CU_ROW_TAIL;
    load4<WHOLE>(a.state.out + at, c, TO_ROW || tail ? 0 : a.dim, out);
    scales += (uint64_t)rm_lora_row(r.loop, a.lora_rows) * a.lora_rank;
    float scale = k < a.lora_rank ? scales[k] : 0.0f, dot = 0.0f;
    if (a.lora_rank > 0) dot = add_ranks(rank_sum(a, sums, k, of_rank), scale, gate_of_rank, up, y);
    for (uint32_t k0 = RANKS; k0 < a.lora_rank; k0 += RANKS) {
        load_ranks<WHOLE>(a.lora_b, k0, c, a, up);
        bool there = k0 + k < a.lora_rank;
        load_sums(a, sums, k0 + k, 0, of_rank);
        dot += add_ranks(rank_sum(a, sums, k0 + k, of_rank), there ? scales[k0 + k] : 0.0f,
                         there && gated ? a.lora_gate[k0 + k] : 0.0f, up, y);
    }
    store4<WHOLE>(TO_ROW ? x : a.state.h + at, c, a.dim, y);
    if constexpr (!TO_ROW) {
        if (tail) return;
        for (uint32_t j = lane + 32; j < chunks; j += 32)
            gate[0] += gates[j];
        gate[0] = warp_sum(gate[0]) + dot;
        rm_act_step s = loop_exit(a, r, cum, gate);
        for (int j = 0; j < 4; j++)
            out[j] = a.weighted ? out[j] + s.weight * y[j] : y[j];
        if (a.weighted || s.halted) store4<WHOLE>(a.state.out + at, c, a.dim, out);
        if (chunk == 0 && lane == 0) loop_tell(a, r, s);
    }
}

/* B[k] w, for the gate. */
static __global__ void __launch_bounds__(256)
    loop_gate(const float *lora_b, const float *halt_w, uint32_t dim, float *to) {
    kernel_scope scope(nullptr);
    DYNAMIC_SHARED(shared);
    float sum[1] = {0.0f};
    for (uint32_t c = threadIdx.x; c < dim; c += blockDim.x)
        sum[0] += lora_b[(uint64_t)blockIdx.x * dim + c] * halt_w[c];
    row_sums(sum, (float *)shared);
    if (threadIdx.x == 0) to[blockIdx.x] = sum[0];
}

/* ---- one thread block a row ---- */

/* The new state goes over the old one, and what the rule wants to know of both. */
template <int V, bool WHOLE>
static __device__ __forceinline__ void loop_store(const cu_loop_end_args &a, const cu_row &r,
                                                  const row_vec<V> &y, row_vec<V> &w,
                                                  float sums[3]) {
    float *h = a.state.h + (uint64_t)r.row * a.dim;
    sums[0] = sums[1] = sums[2] = 0.0f;
    if (has_gate(a.exit)) {
        row_weights<false, WHOLE>(w, a.halt_w, a.dim);
        sums[0] = row_dot(y, w);
    } else if (a.exit != CU_EXIT_FIXED) {
        row_vec<V> old;
        row_load<WHOLE>(old, h, a.dim);
        sums[1] = row_dot(y, y);
        sums[2] = row_dot(old, old);
        if (a.exit == CU_EXIT_COSINE) {
            sums[0] = row_dot(y, old);
        } else {
            row_join(old, y, [](float was, float now) { return now - was; });
            sums[0] = row_dot(old, old);
        }
    }
    row_store<WHOLE>(h, a.dim, y);
}

template <int V, bool WHOLE> static __global__ void ROW_BOUNDS loop_row(cu_loop_end_args a) {
    row_vec<V> w_out, w_loop, w_halt, x, y;
    const float *halt_w = has_gate(a.exit) ? a.halt_w : nullptr;
    row_weights<true, WHOLE>(w_out, a.out_norm, a.dim);
    row_weights<true, WHOLE>(w_loop, a.loop_norm, a.dim);
    row_weights<true, WHOLE>(w_halt, halt_w, a.dim);
    kernel_scope scope(a.stamp);
    DYNAMIC_SHARED(shared);
    float *scratch = (float *)shared;
    uint32_t i = blockIdx.x;
    const float *parts = a.parts + (uint64_t)i * a.n_parts * a.dim;
    row_load<WHOLE>(x, a.x + (uint64_t)i * a.dim, a.dim);
    row_load<WHOLE>(y, parts, a.n_parts ? a.dim : 0);
    cu_row r;
    if (!launch_row(a.desc, i, &r) || r.flags & CU_ROW_KV_ONLY) return;
    float cum = a.state.cum[r.row];
    auto add = [](float v, float w) { return v + w; };
    if (a.out_norm) {
        row_weights<false, WHOLE>(w_out, a.out_norm, a.dim);
        row_norm(y, w_out, a.dim, a.norm_eps, scratch);
    }
    row_join(x, y, add);
    for (uint32_t k = 1; k < a.n_parts; k++) {
        row_load<WHOLE>(y, parts + (uint64_t)k * a.dim, a.dim);
        row_join(x, y, add);
    }
    if (a.loop_norm) {
        row_weights<false, WHOLE>(w_loop, a.loop_norm, a.dim);
        row_norm(x, w_loop, a.dim, a.norm_eps, scratch + ROW_SUM);
    }
    float sums[3];
    loop_store<V, WHOLE>(a, r, x, w_halt, sums);
    if (r.flags & CU_ROW_TAIL) return; /* the same for the whole block: no barrier is left out */
    row_sums(sums, scratch + 2 * ROW_SUM);
    rm_act_step s = loop_exit(a, r, cum, sums);
    float *out = a.state.out + (uint64_t)r.row * a.dim;
    if (a.weighted) {
        row_load<WHOLE>(y, out, a.dim);
        float weight = s.weight;
        row_join(x, y, [=](float now, float sum) { return sum + weight * now; });
    }
    if (a.weighted || s.halted) row_store<WHOLE>(out, a.dim, x);
    if (threadIdx.x == 0) loop_tell(a, r, s);
}

/* ---- launchers ---- */

extern "C" uint64_t cu_loop_sums(uint32_t dim, uint32_t lora_rank) {
    return sums_of(dim, lora_rank);
}

extern "C" cudaError_t cu_loop_gate(cudaStream_t s, const float *lora_b, const float *halt_w,
                                    uint32_t dim, uint32_t lora_rank, float *to) {
    uint32_t bytes = ROW_SUM * sizeof(float);
    return LAUNCH(loop_gate, lora_rank, 256, bytes, s, lora_b, halt_w, dim, to);
}

static bool in_fours_all(const cu_loop_end_args *a) {
    const void *all[] = {a->state.h, a->state.e,   a->state.out, a->x,
                         a->parts,   a->out_norm,  a->lora_b,    a->inj_a,
                         a->inj_b,   a->lora_down, a->halt_w,    a->loop_norm};
    bool whole = a->dim % 4 == 0;
    for (const void *p : all)
        whole = whole && in_fours(p);
    return whole;
}

extern "C" bool cu_loop_by_row(const cu_loop_end_args *a) {
    return !a->inject || a->loop_norm || a->exit == CU_EXIT_LATENT_DIFF ||
           a->exit == CU_EXIT_COSINE;
}

extern "C" cudaError_t cu_loop_mix(cudaStream_t s, const cu_loop_end_args *a, uint32_t rows) {
    if (a->out_norm) return cudaErrorInvalidValue; /* a norm over the row comes before its sums */
    dim3 grid(rows, cu_ceil_div(chunks_of(a->dim), WARPS));
    if (in_fours_all(a)) return LAUNCH(loop_mix<true>, grid, 32 * WARPS, 0, s, *a);
    return LAUNCH(loop_mix<false>, grid, 32 * WARPS, 0, s, *a);
}

extern "C" cudaError_t cu_loop_leave(cudaStream_t s, const cu_loop_end_args *a, uint32_t rows) {
    dim3 grid(rows, cu_ceil_div(chunks_of(a->dim), WARPS));
    bool whole = in_fours_all(a);
    if (!cu_loop_by_row(a)) {
        return whole ? LAUNCH((loop_leave<true, false>), grid, 32 * WARPS, 0, s, *a)
                     : LAUNCH((loop_leave<false, false>), grid, 32 * WARPS, 0, s, *a);
    }
    return whole ? LAUNCH((loop_leave<true, true>), grid, 32 * WARPS, 0, s, *a)
                 : LAUNCH((loop_leave<false, true>), grid, 32 * WARPS, 0, s, *a);
}

extern "C" cudaError_t cu_loop_row(cudaStream_t s, const cu_loop_end_args *args, uint32_t rows) {
    cu_loop_end_args a = *args;
    uint32_t bytes = 5 * ROW_SUM * sizeof(float), n = a.dim;
    bool whole = in_fours_all(args);
    if (n > CU_MAX_DIM) return cudaErrorInvalidValue;
    if (a.inject) a.n_parts = 0; /* cu_loop_leave has added them */
    if (n <= NARROW) {
        return whole ? LAUNCH((loop_row<FEW, true>), rows, row_threads(n, FEW), bytes, s, a)
                     : LAUNCH((loop_row<FEW, false>), rows, row_threads(n, FEW), bytes, s, a);
    }
    return whole ? LAUNCH((loop_row<MANY, true>), rows, row_threads(n, MANY), bytes, s, a)
                 : LAUNCH((loop_row<MANY, false>), rows, row_threads(n, MANY), bytes, s, a);
}
