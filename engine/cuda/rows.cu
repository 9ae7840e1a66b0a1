/* rows.cu - kernels with one thread block a row: entering and leaving a stage, and the preparation
 * of queries and cache slots.
 *
 * With few rows these kernels only wait for memory, so each loads everything it can address at
 * once: norms before the kernel in front has ended, since no kernel writes them; then the values
 * found by the number of the launch row; then the values found by the row itself. */
#include "engine/cuda/rows.cuh"

enum {
    PREP_VECS = 4, /* accesses of a thread splitting heads */
    SPLIT_THREADS = 1024,
    PAIR_THREADS = 128,
};

/* ---- entering and leaving a stage ---- */

/* A row's input: x, and y to add to it (from LOOP e; from X the delta). */
template <typename ACT, int V, bool WHOLE>
static __device__ __forceinline__ bool row_enter(const cu_row_args &args, uint32_t i, cu_row *row,
                                                 row_vec<V> &x, row_vec<V> &y) {
    if (args.from == CU_FROM_X) {
        row_load<WHOLE>(x, args.x + (uint64_t)i * args.dim, args.dim);
        row_load<WHOLE>(y, args.delta + (uint64_t)i * args.dim, args.dim);
    }
    if (!launch_row(args.desc, i, row)) return false;
    if (args.to == CU_TO_HEAD && row->logits == CU_NO_LOGITS) return false;
    uint64_t at = (uint64_t)row->row * args.dim;
    if (args.from == CU_FROM_LOOP) {
        row_vec<V> loop;
        row_load<WHOLE>(x, args.state.h + at, args.dim);
        row_load<WHOLE>(y, args.state.e + at, args.dim);
        row_load<WHOLE>(loop, args.loop_emb + (uint64_t)row->loop * args.loop_width,
                        args.loop_width);
        row_join(x, y, [](float h, float e) { return h + e; });
        row_join(x, loop, [](float v, float e) { return v + e; });
    } else if (args.from == CU_FROM_STATE) {
        row_load<WHOLE>(x, args.state.h + at, args.dim);
    } else if (args.from == CU_FROM_OUT) {
        row_load<WHOLE>(x, args.state.out + at, args.dim);
    } else if (args.from == CU_FROM_TOKEN) {
        row_load<WHOLE>(x, (const ACT *)args.embed + (uint64_t)row->token * args.ld, args.dim);
        float scale = args.embed_scale;
        row_join(x, x, [=](float v, float) { return v * scale; });
    }
    return true;
}

/* The state before the first loop. */
template <int V, bool WHOLE>
static __device__ __forceinline__ void row_start(const cu_row_args &args, const cu_row &row,
                                                 const row_vec<V> &x) {
    uint64_t at = (uint64_t)row.row * args.dim;
    const row_vec<V> zero = {};
    if (args.state.e) row_store<WHOLE>(args.state.e + at, args.dim, x);
    row_store<WHOLE>(args.state.out + at, args.dim, zero);
    if (args.start == CU_START_SEEDED) {
        for (uint32_t chan = threadIdx.x; chan < args.dim; chan += blockDim.x)
            args.state.h[at + chan] = rm_seeded_state(row.pos, chan, args.start_std);
    } else if (args.start == CU_START_ZERO) {
        row_store<WHOLE>(args.state.h + at, args.dim, zero);
    } else {
        row_store<WHOLE>(args.state.h + at, args.dim, x);
    }
    if (threadIdx.x == 0) {
        args.state.cum[row.row] = 0.0f;
        args.state.halted[row.row] = 0;
    }
}

template <typename ACT, int V, bool WHOLE>
static __global__ void ROW_BOUNDS row_step(cu_row_args args) {
    const float *inner = args.from == CU_FROM_LOOP ? args.loop_norm
                         : args.from == CU_FROM_X  ? args.out_norm
                                                   : nullptr;
    row_vec<V> w_inner, w, x, y;
    row_weights<true, WHOLE>(w_inner, inner, args.dim);
    row_weights<true, WHOLE>(w, args.norm, args.dim);
    kernel_scope scope(args.stamp);
    DYNAMIC_SHARED(shared);
    float *scratch = (float *)shared;
    uint32_t i = blockIdx.x;
    cu_row row;
    if (!row_enter<ACT, V, WHOLE>(args, i, &row, x, y)) return;
    row_weights<false, WHOLE>(w_inner, inner, args.dim);
    if (args.from == CU_FROM_LOOP) row_norm(x, w_inner, args.dim, args.norm_eps, scratch);
    if (args.from == CU_FROM_X) {
        if (inner) row_norm(y, w_inner, args.dim, args.norm_eps, scratch);
        row_join(x, y, [](float v, float delta) { return v + delta; });
    }
    if (args.to == CU_TO_STATE) {
        row_start<V, WHOLE>(args, row, x);
        return;
    }
    if (args.to == CU_TO_NORM) row_store<WHOLE>(args.x + (uint64_t)i * args.dim, args.dim, x);
    row_weights<false, WHOLE>(w, args.norm, args.dim);
    if (args.norm) row_norm(x, w, args.dim, args.norm_eps, scratch + ROW_SUM);
    uint32_t to = args.to == CU_TO_HEAD ? row.logits : i;
    row_store<WHOLE>((ACT *)args.act + (uint64_t)to * args.ld, args.ld, x); /* zeros beyond dim */
}

/* ---- the cache slot ---- */

/* The slot of this row at its plane; RM_NO_SLOT if the map has none in range. */
static __device__ __forceinline__ uint32_t row_slot(const void *desc, const cu_cache &cache,
                                                    const cu_row &row, uint32_t plane) {
    const uint32_t *table = tables_of(desc) + row.table;
    uint32_t slot = rm_slot(cache.maps, table, cache.n_planes, plane, row.pos);
    if (slot < cache.n_slots) return slot;
    if (threadIdx.x == 0) *head_of(desc)->bad = 1;
    return RM_NO_SLOT;
}

/* Channels chan to chan + 3 of n; channel 0 stands at `at` in the slot. */
template <bool WHOLE>
static __device__ __forceinline__ void slot_store(const cu_cache &cache, uint32_t slot, uint32_t at,
                                                  uint32_t chan, uint32_t n,
                                                  const float values[4]) {
    if (slot == RM_NO_SLOT) return;
    uint64_t to = (uint64_t)slot * cache.slot_values + at;
    if (cache.f32) store4<WHOLE>((float *)cache.slots + to, chan, n, values);
    else store4<WHOLE>((bf16 *)cache.slots + to, chan, n, values);
}

/* Two pairs, each turned by an angle given as cosine and sine in `turn`. */
static __device__ __forceinline__ void turn_pairs(float values[4], const float turn[4]) {
    rm_rotate(&values[0], &values[1], turn[0], turn[1]);
    rm_rotate(&values[2], &values[3], turn[2], turn[3]);
}

static_assert((int)CU_MAX_LATENT == (int)NARROW, "the widest latents of one thread block");

template <typename ACT, bool WHOLE> static __global__ void ROW_BOUNDS mla_prep(cu_prep_args args) {
    row_vec<FEW> w_q, w_kv, q, kv;
    float k_rope[4], turn[4];
    row_weights<true, WHOLE>(w_q, args.q_norm, args.q_lora);
    row_weights<true, WHOLE>(w_kv, args.kv_norm, args.kv_lora);
    kernel_scope scope(args.stamp);
    DYNAMIC_SHARED(shared);
    uint32_t i = blockIdx.x, chan = 4 * threadIdx.x;
    const float *in = args.in + (uint64_t)i * args.ld_in;
    row_load<WHOLE>(q, in, args.q_lora);
    row_load<WHOLE>(kv, in + args.q_lora, args.kv_lora);
    load4<WHOLE>(in + args.q_lora + args.kv_lora, chan, args.rope_dim, k_rope);
    cu_row row;
    if (!launch_row(args.desc, i, &row)) return;
    load4<WHOLE>(args.rope + (uint64_t)row.pos * args.rope_dim, chan, args.rope_dim, turn);
    uint32_t slot =
        row_slot(args.desc, args.cache, row, args.plane + (args.by_loop ? row.loop : 0));
    float sums[2] = {row_dot(q, q), row_dot(kv, kv)};
    row_sums(sums, (float *)shared);
    float q_scale = rm_rms_scale(sums[0], args.q_lora, args.norm_eps);
    row_join(q, w_q, [=](float x, float w) { return x * q_scale * w; });
    row_store<WHOLE>((ACT *)args.q + (uint64_t)i * args.ld_q, args.ld_q,
                     q); /* zeros beyond q_lora */
    float kv_scale = rm_rms_scale(sums[1], args.kv_lora, args.norm_eps);
    row_join(kv, w_kv, [=](float x, float w) { return x * kv_scale * w; });
#pragma unroll
    for (int k = 0; k < FEW; k++)
        slot_store<WHOLE>(args.cache, slot, 0, first_channel(k), args.kv_lora, kv.v[k]);
    turn_pairs(k_rope, turn);
    slot_store<WHOLE>(args.cache, slot, args.kv_lora, chan, args.rope_dim, k_rope);
}

/* Channels chan to chan + 3, if below n, of [q | k | v], turned already: to the query or the slot.
 */
template <typename ACT, bool WHOLE>
static __device__ __forceinline__ void gqa_store(const cu_prep_args &args, uint32_t i,
                                                 uint32_t slot, uint32_t chan, uint32_t n,
                                                 const float values[4]) {
    uint32_t n_q = args.n_heads * args.head_dim;
    if (chan < n_q)
        store4<WHOLE>((ACT *)args.q + (uint64_t)i * args.ld_q, chan, n < n_q ? n : n_q, values);
    else slot_store<WHOLE>(args.cache, slot, 0, chan - n_q, n - n_q, values);
}

/* Heads are multiples of 4 wide: no four channels belong to two. */
template <typename ACT>
static __global__ void __launch_bounds__(SPLIT_THREADS) gqa_prep(cu_prep_args args) {
    kernel_scope scope(args.stamp);
    uint32_t i = blockIdx.x, n_turned = (args.n_heads + args.n_kv_heads) * args.head_dim;
    uint32_t n = n_turned + args.n_kv_heads * args.head_dim;
    row_vec<PREP_VECS> x, turn;
    row_load<true>(x, args.in + (uint64_t)i * args.ld_in, n);
    cu_row row;
    if (!launch_row(args.desc, i, &row)) return;
    const float *turns = args.rope + (uint64_t)row.pos * args.head_dim;
#pragma unroll
    for (int k = 0; k < PREP_VECS; k++) {
        uint32_t chan = first_channel(k);
        load4<true>(turns, chan < n_turned ? chan % args.head_dim : args.head_dim, args.head_dim,
                    turn.v[k]);
    }
    uint32_t slot =
        row_slot(args.desc, args.cache, row, args.plane + (args.by_loop ? row.loop : 0));
#pragma unroll
    for (int k = 0; k < PREP_VECS; k++) {
        uint32_t chan = first_channel(k);
        if (chan < n_turned) turn_pairs(x.v[k], turn.v[k]);
        gqa_store<ACT, true>(args, i, slot, chan, n, x.v[k]);
    }
}

/* The same, a pair at a time, for any width. */
template <typename ACT>
static __global__ void __launch_bounds__(PAIR_THREADS) gqa_prep_pairs(cu_prep_args args) {
    kernel_scope scope(args.stamp);
    uint32_t i = blockIdx.x, n_turned = (args.n_heads + args.n_kv_heads) * args.head_dim;
    uint32_t n = n_turned + args.n_kv_heads * args.head_dim;
    cu_row row;
    if (!launch_row(args.desc, i, &row)) return;
    const float *in = args.in + (uint64_t)i * args.ld_in;
    const float *turns = args.rope + (uint64_t)row.pos * args.head_dim;
    uint32_t slot =
        row_slot(args.desc, args.cache, row, args.plane + (args.by_loop ? row.loop : 0));
    for (uint32_t chan = 2 * threadIdx.x; chan < n; chan += 2 * blockDim.x) {
        float values[4] = {in[chan], in[chan + 1]};
        uint32_t j = chan % args.head_dim;
        if (chan < n_turned) rm_rotate(&values[0], &values[1], turns[j], turns[j + 1]);
        gqa_store<ACT, false>(args, i, slot, chan, chan + 2, values);
    }
}

/* ---- the query ---- */

/* Outputs of [nope of all heads, each padded to nope_ld | rotated part of all heads]. */
template <typename ACT>
static __global__ void __launch_bounds__(SPLIT_THREADS) mla_query(cu_query_args args) {
    uint32_t n_nope = args.n_heads * args.nope_ld, n = n_nope + args.n_heads * args.rope_dim;
    uint32_t dk = args.kv_lora + args.rope_dim, i = blockIdx.x, head[PREP_VECS], at[PREP_VECS];
#pragma unroll
    for (int k = 0; k < PREP_VECS; k++) {
        uint32_t chan = first_channel(k);
        bool nope = chan < n_nope;
        head[k] = nope ? chan / args.nope_ld : (chan - n_nope) / args.rope_dim;
        at[k] = nope ? chan - head[k] * args.nope_ld : chan - n_nope - head[k] * args.rope_dim;
    }
    kernel_scope scope(args.stamp);
    const float *in = args.in + (uint64_t)i * args.ld_in, *in_rope = in + args.n_heads * args.nope;
    row_vec<PREP_VECS> x, turn;
#pragma unroll
    for (int k = 0; k < PREP_VECS; k++) {
        uint32_t chan = first_channel(k);
        const float *from =
            chan < n_nope ? in + head[k] * args.nope : in_rope + head[k] * args.rope_dim;
        load4<true>(from, at[k], chan < n_nope ? args.nope : chan < n ? args.rope_dim : 0, x.v[k]);
    }
    cu_row row;
    if (!launch_row(args.desc, i, &row)) return;
#pragma unroll
    for (int k = 0; k < PREP_VECS; k++) {
        uint32_t chan = first_channel(k);
        load4<true>(args.rope + (uint64_t)row.pos * args.rope_dim, at[k],
                    chan >= n_nope && chan < n ? args.rope_dim : 0, turn.v[k]);
    }
    ACT *to = (ACT *)args.q_nope + (uint64_t)i * n_nope,
        *q = (ACT *)args.q + (uint64_t)i * args.n_heads * dk;
#pragma unroll
    for (int k = 0; k < PREP_VECS; k++) {
        uint32_t chan = first_channel(k);
        if (chan < n_nope) {
            store4<true>(to, chan, n_nope, x.v[k]);
        } else if (chan < n) {
            turn_pairs(x.v[k], turn.v[k]);
            store4<true>(q + head[k] * dk + args.kv_lora, at[k], args.rope_dim, x.v[k]);
        }
    }
    ACT *o = (ACT *)args.o + (uint64_t)i * args.o_ld;
    for (uint32_t chan = args.o_values + threadIdx.x; chan < args.o_ld; chan += blockDim.x)
        narrow(0.0f, &o[chan]);
}

/* The same, a channel or a pair at a time, for any width. */
template <typename ACT>
static __global__ void __launch_bounds__(PAIR_THREADS) mla_query_pairs(cu_query_args args) {
    kernel_scope scope(args.stamp);
    uint32_t i = blockIdx.x;
    cu_row row;
    if (!launch_row(args.desc, i, &row)) return;
    const float *nope = args.in + (uint64_t)i * args.ld_in, *rope = nope + args.n_heads * args.nope;
    ACT *to = (ACT *)args.q_nope + (uint64_t)i * args.n_heads * args.nope_ld;
    for (uint32_t chan = threadIdx.x; chan < args.n_heads * args.nope_ld; chan += blockDim.x) {
        uint32_t h = chan / args.nope_ld, k = chan % args.nope_ld;
        narrow(k < args.nope ? nope[h * args.nope + k] : 0.0f, &to[chan]);
    }
    uint32_t dk = args.kv_lora + args.rope_dim, pairs = args.rope_dim / 2;
    ACT *q = (ACT *)args.q + (uint64_t)i * args.n_heads * dk;
    const float *turn = args.rope + (uint64_t)row.pos * args.rope_dim;
    for (uint32_t p = threadIdx.x; p < args.n_heads * pairs; p += blockDim.x) {
        uint32_t h = p / pairs, j = p % pairs;
        float x0 = rope[h * args.rope_dim + 2 * j], x1 = rope[h * args.rope_dim + 2 * j + 1];
        rm_rotate(&x0, &x1, turn[2 * j], turn[2 * j + 1]);
        narrow(x0, &q[h * dk + args.kv_lora + 2 * j]);
        narrow(x1, &q[h * dk + args.kv_lora + 2 * j + 1]);
    }
    ACT *o = (ACT *)args.o + (uint64_t)i * args.o_ld;
    for (uint32_t chan = args.o_values + threadIdx.x; chan < args.o_ld; chan += blockDim.x)
        narrow(0.0f, &o[chan]);
}

/* ---- launchers ---- */

template <typename ACT>
static cudaError_t start_step(cudaStream_t stream, const cu_row_args &args, uint32_t rows,
                              bool whole) {
    uint32_t bytes = 2 * ROW_SUM * sizeof(float), few = row_threads(args.ld, FEW),
             many = row_threads(args.ld, MANY);
    if (args.ld > CU_MAX_DIM) return cudaErrorInvalidValue;
    if (args.ld <= NARROW) {
        return whole ? LAUNCH((row_step<ACT, FEW, true>), rows, few, bytes, stream, args)
                     : LAUNCH((row_step<ACT, FEW, false>), rows, few, bytes, stream, args);
    }
    return whole ? LAUNCH((row_step<ACT, MANY, true>), rows, many, bytes, stream, args)
                 : LAUNCH((row_step<ACT, MANY, false>), rows, many, bytes, stream, args);
}

extern "C" cudaError_t cu_row_step(cudaStream_t stream, const cu_row_args *args, uint32_t rows,
                                   bool f32) {
    const void *all[] = {args->state.h,   args->state.e,  args->state.out, args->x,
                         args->delta,     args->embed,    args->norm,      args->act,
                         args->loop_norm, args->loop_emb, args->out_norm};
    bool whole = args->dim % 4 == 0 && args->ld % 4 == 0 && args->loop_width % 4 == 0;
    for (const void *from : all)
        whole = whole && in_fours(from);
    return f32 ? start_step<float>(stream, *args, rows, whole)
               : start_step<bf16>(stream, *args, rows, whole);
}

/* True if a slot's values of one layer stand in fours. */
static bool slots_in_fours(const cu_cache *cache) {
    return in_fours(cache->slots) && cache->slot_values % 4 == 0;
}

extern "C" cudaError_t cu_mla_prep(cudaStream_t stream, const cu_prep_args *args, uint32_t rows,
                                   bool f32) {
    const void *all[] = {args->in, args->q, args->q_norm, args->kv_norm, args->rope};
    bool whole =
        (args->q_lora | args->kv_lora | args->rope_dim | args->ld_in | args->ld_q) % 4 == 0 &&
        slots_in_fours(&args->cache);
    for (const void *from : all)
        whole = whole && in_fours(from);
    uint32_t n = FEW * args->rope_dim; /* held by threads with one access each */
    for (uint32_t width : {args->ld_q, args->kv_lora})
        n = width > n ? width : n;
    if (n > CU_MAX_LATENT) return cudaErrorInvalidValue;
    uint32_t bytes = 2 * ROW_SUM * sizeof(float), threads = row_threads(n, FEW);
    if (f32) {
        return whole ? LAUNCH((mla_prep<float, true>), rows, threads, bytes, stream, *args)
                     : LAUNCH((mla_prep<float, false>), rows, threads, bytes, stream, *args);
    }
    return whole ? LAUNCH((mla_prep<bf16, true>), rows, threads, bytes, stream, *args)
                 : LAUNCH((mla_prep<bf16, false>), rows, threads, bytes, stream, *args);
}

extern "C" cudaError_t cu_gqa_prep(cudaStream_t stream, const cu_prep_args *args, uint32_t rows,
                                   bool f32) {
    uint32_t n = (args->n_heads + 2 * args->n_kv_heads) * args->head_dim;
    bool whole = (args->head_dim | args->ld_in | args->ld_q) % 4 == 0 &&
                 slots_in_fours(&args->cache) && in_fours(args->in) && in_fours(args->q) &&
                 in_fours(args->rope);
    if (!whole || n > 4 * PREP_VECS * SPLIT_THREADS) {
        if (f32) return LAUNCH(gqa_prep_pairs<float>, rows, PAIR_THREADS, 0, stream, *args);
        return LAUNCH(gqa_prep_pairs<bf16>, rows, PAIR_THREADS, 0, stream, *args);
    }
    if (f32) return LAUNCH(gqa_prep<float>, rows, row_threads(n, PREP_VECS), 0, stream, *args);
    return LAUNCH(gqa_prep<bf16>, rows, row_threads(n, PREP_VECS), 0, stream, *args);
}

extern "C" cudaError_t cu_mla_query(cudaStream_t stream, const cu_query_args *args, uint32_t rows,
                                    bool f32) {
    uint32_t n = args->n_heads * (args->nope_ld + args->rope_dim);
    bool whole =
        (args->nope | args->nope_ld | args->rope_dim | args->kv_lora | args->ld_in) % 4 == 0 &&
        in_fours(args->in) && in_fours(args->rope) && in_fours(args->q_nope) && in_fours(args->q);
    if (!whole || n > 4 * PREP_VECS * SPLIT_THREADS) {
        if (f32) return LAUNCH(mla_query_pairs<float>, rows, PAIR_THREADS, 0, stream, *args);
        return LAUNCH(mla_query_pairs<bf16>, rows, PAIR_THREADS, 0, stream, *args);
    }
    if (f32) return LAUNCH(mla_query<float>, rows, row_threads(n, PREP_VECS), 0, stream, *args);
    return LAUNCH(mla_query<bf16>, rows, row_threads(n, PREP_VECS), 0, stream, *args);
}

extern "C" cudaError_t cu_rows_setup(uint32_t dim) {
    return dim <= CU_MAX_DIM ? cudaSuccess : cudaErrorInvalidValue;
}
