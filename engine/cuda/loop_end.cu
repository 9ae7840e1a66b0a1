/* loop_end.cu - the end of a loop: the last sum, LoRA, injection, norm, exit, and the output.
 *
 * A row with injection is worked on by many warps, each with its own CHUNK of channels: one thread
 * block would have to fetch some 280 KB (dim 2048, 12 parts, rank 8) through one multiprocessor.
 * Steps that need sums over the row come in a second kernel, since not every device has clusters of
 * thread blocks: loop_mix leaves u = A h + B e + y and each warp's sums; loop_leave adds the sums
 * up, in every warp the same, and ends the loop. Even the gate's product needs no third: LoRA is
 * linear, so h w = u w + sum of z[k] (B[k] w), and B[k] w is a constant.
 *
 * A norm of the new state, or a rule comparing it with the old one, does need a sum over it: then
 * loop_row, one thread block a row, ends the loop. Without injection loop_row is the only kernel.
 */
#include "engine/cuda/rows.cuh"

enum {
    CHUNK = 128, /* channels of one warp */
    WARPS = 2,   /* of one thread block; they know nothing of each other */
    RANKS = 8,   /* LoRA rows at a time */
    PARTS = 12,  /* parts at a time */
    SUMS = 8,    /* of 32 chunks, read by a lane at a time */
};

static __host__ __device__ __forceinline__ uint32_t chunks_of(uint32_t dim) {
    return (dim + CHUNK - 1) / CHUNK;
}

/* From loop_mix to loop_leave, for each row: [lora_rank + 1][chunks] sums, then its cum. */
static __host__ __device__ __forceinline__ uint32_t sums_of(uint32_t dim, uint32_t rank) {
    return (rank + 1) * chunks_of(dim) + 1;
}

static __device__ __forceinline__ bool has_gate(cu_exit rule) {
    return rule == CU_EXIT_ACT || rule == CU_EXIT_HAZARD;
}

/* Decides if the row leaves. Sums: the gate's product, or |h - old|^2, |h|^2, or h old, |h|^2,
 * |old|^2. */
static __device__ __forceinline__ rm_act_step loop_exit(const cu_loop_end_args &args,
                                                        const cu_row &row, float cum,
                                                        const float sums[3]) {
    uint32_t done = row.loop + 1u;
    rm_act_step step = {0.0f, cum, done >= row.max_loops};
    if (args.exit == CU_EXIT_ACT) {
        return rm_act(cum, rm_sigmoid(sums[0] + args.halt_bias), row.threshold, done, row.min_loops,
                      row.max_loops);
    }
    if (args.exit == CU_EXIT_HAZARD) {
        rm_hazard_step hazard = rm_hazard(cum, rm_sigmoid(sums[0] + args.halt_bias), row.threshold,
                                          done, row.min_loops, row.max_loops);
        step.cum = hazard.cum;
        step.halted = hazard.halted;
    } else if (args.exit == CU_EXIT_LATENT_DIFF) {
        step.halted =
            rm_latent_diff(sums[0], sums[1], row.threshold, done, row.min_loops, row.max_loops);
    } else if (args.exit == CU_EXIT_COSINE) {
        step.halted =
            rm_cosine(sums[0], sums[1], sums[2], row.threshold, done, row.min_loops, row.max_loops);
    }
    return step;
}

/* By one thread of the row. */
static __device__ __forceinline__ void loop_tell(const cu_loop_end_args &args, const cu_row &row,
                                                 const rm_act_step &step) {
    args.state.cum[row.row] = step.cum;
    if (step.halted) args.state.halted[row.row] = head_of(args.desc)->halted[row.at] = 1;
}

/* ---- many warps a row ---- */

/* Sums of 8 values over a warp at once: lane l gets the sum of values[l / 4]. */
static __device__ __forceinline__ float warp_sums8(const float values[8]) {
    uint32_t lane = threadIdx.x & 31;
    float four[4], two[2];
#pragma unroll
    for (int j = 0; j < 4; j++) {
        float give = lane & 16 ? values[j] : values[j + 4],
              keep = lane & 16 ? values[j + 4] : values[j];
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
static __device__ __forceinline__ void load_ranks(const float *matrix, uint32_t k0, uint32_t chan,
                                                  const cu_loop_end_args &args,
                                                  float values[RANKS][4]) {
#pragma unroll
    for (uint32_t k = 0; k < RANKS; k++) {
        load4<WHOLE>(matrix + (uint64_t)(k0 + k) * args.dim, chan,
                     k0 + k < args.lora_rank ? args.dim : 0, values[k]);
    }
}

/* The sums of LoRA rows k0 on over this warp's channels, into sums[k][chunk]. */
static __device__ __forceinline__ void put_ranks(const cu_loop_end_args &args, const float y[4],
                                                 const float down[RANKS][4], uint32_t k0,
                                                 uint32_t chunk, float *sums) {
    float z[RANKS];
    uint32_t lane = threadIdx.x & 31, k = k0 + (lane >> 2);
#pragma unroll
    for (int j = 0; j < RANKS; j++)
        z[j] = y[0] * down[j][0] + y[1] * down[j][1] + y[2] * down[j][2] + y[3] * down[j][3];
    float sum = warp_sums8(z);
    if ((lane & 3) == 0 && k < args.lora_rank) sums[k * chunks_of(args.dim) + chunk] = sum;
}

template <bool WHOLE>
static __global__ void __launch_bounds__(32 * WARPS, 1) loop_mix(cu_loop_end_args args) {
    uint32_t i = blockIdx.x, lane = threadIdx.x & 31;
    uint32_t chunk = blockIdx.y * WARPS + (threadIdx.x >> 5), chan = chunk * CHUNK + 4 * lane;
    float inj_a[4], inj_b[4], halt[4], y[4], h[4], e[4], down[RANKS][4], part[PARTS][4];
    load4<WHOLE>(args.inj_a, chan, args.dim, inj_a);
    load4<WHOLE>(args.inj_b, chan, args.dim, inj_b);
    load4<WHOLE>(args.halt_w, chan, has_gate(args.exit) ? args.dim : 0, halt);
    load_ranks<WHOLE>(args.lora_down, 0, chan, args, down);
    kernel_scope scope(args.stamp);
    const float *parts = args.parts + (uint64_t)i * args.n_parts * args.dim;
    float *x = args.x + (uint64_t)i * args.dim;
    load4<WHOLE>(x, chan, args.dim, y);
#pragma unroll
    for (uint32_t k = 0; k < PARTS; k++)
        load4<WHOLE>(parts + (uint64_t)k * args.dim, chan, k < args.n_parts ? args.dim : 0,
                     part[k]);
    cu_row row;
    if (!launch_row(args.desc, i, &row) || row.flags & CU_ROW_KV_ONLY || chunk * CHUNK >= args.dim)
        return;
    uint64_t at = (uint64_t)row.row * args.dim;
    float *sums = args.sums + (uint64_t)i * sums_of(args.dim, args.lora_rank);
    load4<WHOLE>(args.state.h + at, chan, args.dim, h);
    load4<WHOLE>(args.state.e + at, chan, args.dim, e);
    float cum = args.state.cum[row.row];
    for (uint32_t k0 = 0;; k0 += PARTS) {
#pragma unroll
        for (int k = 0; k < PARTS; k++) {
            for (int j = 0; j < 4; j++)
                y[j] += part[k][j];
        }
        if (k0 + PARTS >= args.n_parts) break;
        for (uint32_t k = 0; k < PARTS; k++) {
            load4<WHOLE>(parts + (uint64_t)(k0 + PARTS + k) * args.dim, chan,
                         k0 + PARTS + k < args.n_parts ? args.dim : 0, part[k]);
        }
    }
    put_ranks(args, y, down, 0, chunk, sums);
    for (uint32_t k0 = RANKS; k0 < args.lora_rank; k0 += RANKS) {
        load_ranks<WHOLE>(args.lora_down, k0, chan, args, down);
        put_ranks(args, y, down, k0, chunk, sums);
    }
    for (int j = 0; j < 4; j++)
        y[j] = rm_lti(h[j], e[j], y[j], inj_a[j], inj_b[j]);
    store4<WHOLE>(x, chan, args.dim, y);
    uint32_t chunks = chunks_of(args.dim);
    float gate = warp_sum(y[0] * halt[0] + y[1] * halt[1] + y[2] * halt[2] + y[3] * halt[3]);
    if (lane != 0) return;
    sums[args.lora_rank * chunks + chunk] = gate;
    if (chunk == 0) sums[(args.lora_rank + 1) * chunks] = cum; /* loop_leave writes the old place */
}

/* y += z B over LoRA rows k0 on, and its share of the gate's product. Lanes 4k to 4k + 3 have LoRA
 * row k0 + k. */
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
static __device__ __forceinline__ void load_sums(const cu_loop_end_args &args, const float *sums,
                                                 uint32_t k, uint32_t first, float values[SUMS]) {
    uint32_t chunks = chunks_of(args.dim);
#pragma unroll
    for (uint32_t j = 0; j < SUMS; j++) {
        uint32_t chunk = first + (threadIdx.x & 3) + 4 * j;
        values[j] = k < args.lora_rank && chunk < chunks ? sums[k * chunks + chunk] : 0.0f;
    }
}

/* The total of these sums, begun with the part already loaded. */
static __device__ __forceinline__ float rank_sum(const cu_loop_end_args &args, const float *sums,
                                                 uint32_t k, float values[SUMS]) {
    float sum = 0.0f;
    for (uint32_t first = 0;;) {
#pragma unroll
        for (int j = 0; j < SUMS; j++)
            sum += values[j];
        first += 4 * SUMS;
        if (first >= chunks_of(args.dim)) return sum;
        load_sums(args, sums, k, first, values);
    }
}

/* TO_ROW: leaves the new state in x for loop_row. */
template <bool WHOLE, bool TO_ROW>
static __global__ void __launch_bounds__(32 * WARPS, 1) loop_leave(cu_loop_end_args args) {
    uint32_t i = blockIdx.x, lane = threadIdx.x & 31, chunks = chunks_of(args.dim);
    uint32_t chunk = blockIdx.y * WARPS + (threadIdx.x >> 5), chan = chunk * CHUNK + 4 * lane;
    uint32_t k = lane >> 2;
    bool gated = has_gate(args.exit) && !TO_ROW;
    float y[4], out[4], up[RANKS][4], of_rank[SUMS];
    load_ranks<WHOLE>(args.lora_b, 0, chan, args, up);
    float gate_of_rank = gated && k < args.lora_rank ? args.lora_gate[k] : 0.0f;
    kernel_scope scope(args.stamp);
    float *x = args.x + (uint64_t)i * args.dim;
    const float *sums = args.sums + (uint64_t)i * sums_of(args.dim, args.lora_rank);
    const float *scales = args.lora_scale;
    load4<WHOLE>(x, chan, args.dim, y);
    load_sums(args, sums, k, 0, of_rank);
    const float *gates = sums + args.lora_rank * chunks;
    float cum = gates[chunks], gate[3] = {lane < chunks ? gates[lane] : 0.0f};
    cu_row row;
    if (!launch_row(args.desc, i, &row) || row.flags & CU_ROW_KV_ONLY || chunk * CHUNK >= args.dim)
        return;
    uint64_t at = (uint64_t)row.row * args.dim;
    bool tail = row.flags & CU_ROW_TAIL;
    load4<WHOLE>(args.state.out + at, chan, TO_ROW || tail ? 0 : args.dim, out);
    scales += (uint64_t)rm_lora_row(row.loop, args.lora_rows) * args.lora_rank;
    float scale = k < args.lora_rank ? scales[k] : 0.0f, dot = 0.0f;
    if (args.lora_rank > 0)
        dot = add_ranks(rank_sum(args, sums, k, of_rank), scale, gate_of_rank, up, y);
    for (uint32_t k0 = RANKS; k0 < args.lora_rank; k0 += RANKS) {
        load_ranks<WHOLE>(args.lora_b, k0, chan, args, up);
        bool there = k0 + k < args.lora_rank;
        load_sums(args, sums, k0 + k, 0, of_rank);
        dot += add_ranks(rank_sum(args, sums, k0 + k, of_rank), there ? scales[k0 + k] : 0.0f,
                         there && gated ? args.lora_gate[k0 + k] : 0.0f, up, y);
    }
    store4<WHOLE>(TO_ROW ? x : args.state.h + at, chan, args.dim, y);
    if constexpr (!TO_ROW) {
        if (tail) return;
        for (uint32_t j = lane + 32; j < chunks; j += 32)
            gate[0] += gates[j];
        gate[0] = warp_sum(gate[0]) + dot;
        rm_act_step step = loop_exit(args, row, cum, gate);
        for (int j = 0; j < 4; j++)
            out[j] = args.weighted ? out[j] + step.weight * y[j] : y[j];
        if (args.weighted || step.halted) store4<WHOLE>(args.state.out + at, chan, args.dim, out);
        if (chunk == 0 && lane == 0) loop_tell(args, row, step);
    }
}

/* B[k] w, for the gate. */
static __global__ void __launch_bounds__(256)
    loop_gate(const float *lora_b, const float *halt_w, uint32_t dim, float *to) {
    kernel_scope scope(nullptr);
    DYNAMIC_SHARED(shared);
    float sum[1] = {0.0f};
    for (uint32_t chan = threadIdx.x; chan < dim; chan += blockDim.x)
        sum[0] += lora_b[(uint64_t)blockIdx.x * dim + chan] * halt_w[chan];
    row_sums(sum, (float *)shared);
    if (threadIdx.x == 0) to[blockIdx.x] = sum[0];
}

/* ---- one thread block a row ---- */

/* Stores the new state over the old one, and gives the sums of both that the exit rule needs. */
template <int V, bool WHOLE>
static __device__ __forceinline__ void loop_store(const cu_loop_end_args &args, const cu_row &row,
                                                  const row_vec<V> &y, row_vec<V> &halt,
                                                  float sums[3]) {
    float *h = args.state.h + (uint64_t)row.row * args.dim;
    sums[0] = sums[1] = sums[2] = 0.0f;
    if (has_gate(args.exit)) {
        row_weights<false, WHOLE>(halt, args.halt_w, args.dim);
        sums[0] = row_dot(y, halt);
    } else if (args.exit != CU_EXIT_FIXED) {
        row_vec<V> old;
        row_load<WHOLE>(old, h, args.dim);
        sums[1] = row_dot(y, y);
        sums[2] = row_dot(old, old);
        if (args.exit == CU_EXIT_COSINE) {
            sums[0] = row_dot(y, old);
        } else {
            row_join(old, y, [](float was, float now) { return now - was; });
            sums[0] = row_dot(old, old);
        }
    }
    row_store<WHOLE>(h, args.dim, y);
}

template <int V, bool WHOLE> static __global__ void ROW_BOUNDS loop_row(cu_loop_end_args args) {
    row_vec<V> w_out, w_loop, w_halt, x, y;
    const float *halt_w = has_gate(args.exit) ? args.halt_w : nullptr;
    row_weights<true, WHOLE>(w_out, args.out_norm, args.dim);
    row_weights<true, WHOLE>(w_loop, args.loop_norm, args.dim);
    row_weights<true, WHOLE>(w_halt, halt_w, args.dim);
    kernel_scope scope(args.stamp);
    DYNAMIC_SHARED(shared);
    float *scratch = (float *)shared;
    uint32_t i = blockIdx.x;
    const float *parts = args.parts + (uint64_t)i * args.n_parts * args.dim;
    row_load<WHOLE>(x, args.x + (uint64_t)i * args.dim, args.dim);
    row_load<WHOLE>(y, parts, args.n_parts ? args.dim : 0);
    cu_row row;
    if (!launch_row(args.desc, i, &row) || row.flags & CU_ROW_KV_ONLY) return;
    float cum = args.state.cum[row.row];
    auto add = [](float v, float w) { return v + w; };
    if (args.out_norm) row_weights<false, WHOLE>(w_out, args.out_norm, args.dim);
    if (args.out_norm && !args.norm_sum) row_norm(y, w_out, args.dim, args.norm_eps, scratch);
    row_join(x, y, add);
    if (args.out_norm && args.norm_sum) row_norm(x, w_out, args.dim, args.norm_eps, scratch);
    for (uint32_t k = 1; k < args.n_parts; k++) {
        row_load<WHOLE>(y, parts + (uint64_t)k * args.dim, args.dim);
        row_join(x, y, add);
    }
    if (args.loop_norm) {
        row_weights<false, WHOLE>(w_loop, args.loop_norm, args.dim);
        row_norm(x, w_loop, args.dim, args.norm_eps, scratch + ROW_SUM);
    }
    float sums[3];
    loop_store<V, WHOLE>(args, row, x, w_halt, sums);
    if (row.flags & CU_ROW_TAIL) return; /* the same for the whole block: no barrier is left out */
    row_sums(sums, scratch + 2 * ROW_SUM);
    rm_act_step step = loop_exit(args, row, cum, sums);
    float *out = args.state.out + (uint64_t)row.row * args.dim;
    if (args.weighted) {
        row_load<WHOLE>(y, out, args.dim);
        float weight = step.weight;
        row_join(x, y, [=](float now, float sum) { return sum + weight * now; });
    }
    if (args.weighted || step.halted) row_store<WHOLE>(out, args.dim, x);
    if (threadIdx.x == 0) loop_tell(args, row, step);
}

/* ---- launchers ---- */

extern "C" uint64_t cu_loop_sums(uint32_t dim, uint32_t lora_rank) {
    return sums_of(dim, lora_rank);
}

extern "C" cudaError_t cu_loop_gate(cudaStream_t stream, const float *lora_b, const float *halt_w,
                                    uint32_t dim, uint32_t lora_rank, float *to) {
    uint32_t bytes = ROW_SUM * sizeof(float);
    return LAUNCH(loop_gate, lora_rank, 256, bytes, stream, lora_b, halt_w, dim, to);
}

static bool in_fours_all(const cu_loop_end_args *args) {
    const void *all[] = {args->state.h, args->state.e,   args->state.out, args->x,
                         args->parts,   args->out_norm,  args->lora_b,    args->inj_a,
                         args->inj_b,   args->lora_down, args->halt_w,    args->loop_norm};
    bool whole = args->dim % 4 == 0;
    for (const void *from : all)
        whole = whole && in_fours(from);
    return whole;
}

extern "C" bool cu_loop_by_row(const cu_loop_end_args *args) {
    return !args->inject || args->loop_norm || args->exit == CU_EXIT_LATENT_DIFF ||
           args->exit == CU_EXIT_COSINE;
}

extern "C" cudaError_t cu_loop_mix(cudaStream_t stream, const cu_loop_end_args *args,
                                   uint32_t rows) {
    if (args->out_norm)
        return cudaErrorInvalidValue; /* a norm over the row comes before its sums */
    dim3 grid(rows, cu_ceil_div(chunks_of(args->dim), WARPS));
    if (in_fours_all(args)) return LAUNCH(loop_mix<true>, grid, 32 * WARPS, 0, stream, *args);
    return LAUNCH(loop_mix<false>, grid, 32 * WARPS, 0, stream, *args);
}

extern "C" cudaError_t cu_loop_leave(cudaStream_t stream, const cu_loop_end_args *args,
                                     uint32_t rows) {
    dim3 grid(rows, cu_ceil_div(chunks_of(args->dim), WARPS));
    bool whole = in_fours_all(args);
    if (!cu_loop_by_row(args)) {
        return whole ? LAUNCH((loop_leave<true, false>), grid, 32 * WARPS, 0, stream, *args)
                     : LAUNCH((loop_leave<false, false>), grid, 32 * WARPS, 0, stream, *args);
    }
    return whole ? LAUNCH((loop_leave<true, true>), grid, 32 * WARPS, 0, stream, *args)
                 : LAUNCH((loop_leave<false, true>), grid, 32 * WARPS, 0, stream, *args);
}

extern "C" cudaError_t cu_loop_row(cudaStream_t stream, const cu_loop_end_args *args,
                                   uint32_t rows) {
    cu_loop_end_args own = *args;
    uint32_t bytes = 5 * ROW_SUM * sizeof(float), n = own.dim;
    bool whole = in_fours_all(args);
    if (n > CU_MAX_DIM) return cudaErrorInvalidValue;
    if (own.inject) own.n_parts = 0; /* cu_loop_leave has added them */
    if (n <= NARROW) {
        return whole
                   ? LAUNCH((loop_row<FEW, true>), rows, row_threads(n, FEW), bytes, stream, own)
                   : LAUNCH((loop_row<FEW, false>), rows, row_threads(n, FEW), bytes, stream, own);
    }
    return whole ? LAUNCH((loop_row<MANY, true>), rows, row_threads(n, MANY), bytes, stream, own)
                 : LAUNCH((loop_row<MANY, false>), rows, row_threads(n, MANY), bytes, stream, own);
}
