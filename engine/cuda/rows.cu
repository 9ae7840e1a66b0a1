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

static __device__ __forceinline__ bool has_delta(cu_row_from from) {
    return from == CU_FROM_X || from == CU_FROM_DELTA || from == CU_FROM_LINEAR;
}

/* A row's input in parts: x, and y to add to it times `share`. */
template <typename ACT, int V, bool WHOLE>
static __device__ __forceinline__ bool row_enter(const cu_row_args &args, uint32_t i, cu_row *row,
                                                 row_vec<V> &x, row_vec<V> &y, float *share) {
    if (args.from == CU_FROM_X) row_load<WHOLE>(x, args.x + (uint64_t)i * args.dim, args.dim);
    const float *parts = args.delta + (uint64_t)i * args.n_parts * args.dim;
    if (has_delta(args.from)) row_load<WHOLE>(y, parts, args.dim);
    if (!launch_row(args.desc, i, row)) return false;
    if (args.to == CU_TO_HEAD && row->logits == CU_NO_LOGITS) return false;
    uint64_t at = (uint64_t)row->row * args.dim;
    if (args.from == CU_FROM_TOKEN) {
        row_load<WHOLE>(x, (const ACT *)args.embed + (uint64_t)row->token * args.ld, args.dim);
        float scale = args.embed_scale;
        row_join(x, x, [=](float v, float) { return v * scale; });
    }
    bool loops = args.from == CU_FROM_LOOP || args.from == CU_FROM_DIAGONAL,
         draft = args.from == CU_FROM_OUT && row->flags & CU_ROW_DRAFT,
         add_state = draft && args.weighted;
    *share = args.from == CU_FROM_X || loops || args.from == CU_FROM_LINEAR ? 1.0f : 0.0f;
    if (add_state) *share = rm_act_rest(args.state.cum[row->row]);
    if (args.from != CU_FROM_TOKEN && args.from != CU_FROM_X && args.from != CU_FROM_DELTA) {
        const float *state = args.from == CU_FROM_OUT && draft == add_state ? args.state.out
                             : args.from == CU_FROM_LINEAR                  ? args.state.e
                                                                            : args.state.h;
        row_load<WHOLE>(x, state + at, args.dim);
    }
    const float *more = parts + args.dim; /* to add to y */
    uint32_t n_more = has_delta(args.from) ? args.n_parts - 1 : 0, width = args.dim;
    if (loops || add_state)
        row_load<WHOLE>(y, (loops ? args.state.e : args.state.h) + at, args.dim);
    if (args.from == CU_FROM_LOOP) {
        width = args.loop_width;
        more = args.loop_emb + (uint64_t)row->loop * width;
        n_more = 1;
    }
#pragma unroll 1
    for (uint32_t k = 0; k < n_more; k++, more += width) {
        row_vec<V> part;
        row_load<WHOLE>(part, more, width);
        row_join(y, part, [](float sum, float add) { return sum + add; });
    }
    return true;
}

/* Joins the parts. w: of `before`, or the decay. The norm's sum stands in the code once, whether it
 * is of delta alone or of the joined row. */
template <int V>
static __device__ __forceinline__ void row_join_parts(const cu_row_args &args, row_vec<V> &x,
                                                      const row_vec<V> &y, float share,
                                                      const row_vec<V> &w, float *scratch) {
    bool norm = args.before != nullptr, of_delta = norm && args.from == CU_FROM_X && !args.norm_sum;
    if (args.from == CU_FROM_DIAGONAL)
        row_join(x, w, [](float h, float decay) { return h * decay; });
    if (args.from == CU_FROM_DELTA) x = y;
    else if (share != 0 && !of_delta)
        row_join(x, y, [=](float v, float part) { return v + share * part; });
    if (!norm) return;
    float sum[1] = {of_delta ? row_dot(y, y) : row_dot(x, x)};
    row_sums(sum, scratch);
    float scale = rm_rms_scale(sum[0], args.dim, args.norm_eps);
#pragma unroll
    for (int k = 0; k < V; k++) {
#pragma unroll
        for (int j = 0; j < 4; j++)
            x.v[k][j] = of_delta ? x.v[k][j] + y.v[k][j] * scale * w.v[k][j]
                                 : x.v[k][j] * scale * w.v[k][j];
    }
}

/* The state before the first loop. */
template <int V, bool WHOLE>
static __device__ __forceinline__ void row_start(const cu_row_args &args, const cu_row &row,
                                                 const row_vec<V> &x) {
    uint64_t at = (uint64_t)row.row * args.dim;
    const row_vec<V> zero = {};
    if (args.state.e && args.act == nullptr) row_store<WHOLE>(args.state.e + at, args.dim, x);
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
    const float *inner = args.from == CU_FROM_DIAGONAL ? args.decay : args.before,
                *outer = args.to == CU_TO_INPUT ? args.step : args.norm;
    row_vec<V> w_inner, w, x, y;
    row_weights<true, WHOLE>(w_inner, inner, args.dim);
    row_weights<true, WHOLE>(w, outer, args.dim);
    kernel_scope scope(args.stamp);
    DYNAMIC_SHARED(shared);
    float *scratch = (float *)shared;
    uint32_t i = blockIdx.x;
    cu_row row;
    float share;
    if (!row_enter<ACT, V, WHOLE>(args, i, &row, x, y, &share)) return;
    row_weights<false, WHOLE>(w_inner, inner, args.dim);
    row_join_parts(args, x, y, share, w_inner, scratch);
    if (args.to == CU_TO_NORM) row_store<WHOLE>(args.x + (uint64_t)i * args.dim, args.dim, x);
    row_weights<false, WHOLE>(w, outer, args.dim);
    if (args.to == CU_TO_INPUT) {
        if (outer) row_join(x, w, [](float v, float step) { return v * step; });
        row_store<WHOLE>(args.state.e + (uint64_t)row.row * args.dim, args.dim, x);
        return;
    }
    if (outer) row_norm(x, w, args.dim, args.norm_eps, scratch + ROW_SUM);
    if (args.to == CU_TO_STATE) row_start<V, WHOLE>(args, row, x);
    if (args.act == nullptr) return;
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

/* ---- [q | k | v] of GQA ---- */

struct qkv_shape {
    uint32_t q, turned, all; /* ends of the queries, of the keys, of the values */
};
static __device__ __forceinline__ qkv_shape qkv_of(const cu_prep_args &args) {
    uint32_t keys = args.n_kv_heads * args.head_dim, q = args.n_heads * args.head_dim;
    return {q, q + keys, q + 2 * keys};
}

/* Channels chan to chan + 3, if below n, turned already: to the query or the slot. */
template <typename ACT, bool WHOLE>
static __device__ __forceinline__ void gqa_store(const cu_prep_args &args, uint32_t i,
                                                 uint32_t slot, uint32_t chan, uint32_t n,
                                                 const float values[4]) {
    uint32_t n_q = args.n_heads * args.head_dim;
    if (chan < n_q)
        store4<WHOLE>((ACT *)args.q + (uint64_t)i * args.ld_q, chan, n < n_q ? n : n_q, values);
    else slot_store<WHOLE>(args.cache, slot, 0, chan - n_q, n - n_q, values);
}

/* A norm of queries and keys has one scale for all queries and one for all keys (FULL) or one a
 * head (HEAD_UNIT). `scales`: shared. `square(i)`: the sum of squares of channels i * step on. */
template <typename F>
static __device__ __forceinline__ void qk_scales(const cu_prep_args &args, uint32_t step,
                                                 float *scales, F square) {
    uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    bool full = args.qk_norm == CU_QK_NORM_FULL;
    uint32_t n_q = args.n_heads * args.head_dim, spans = full ? 2 : args.n_heads + args.n_kv_heads;
    __syncthreads(); /* squares in shared memory are there */
    for (uint32_t span = warp; span < spans; span += warps) {
        uint32_t from = full ? span * n_q : span * args.head_dim;
        uint32_t width = !full ? args.head_dim : span ? args.n_kv_heads * args.head_dim : n_q;
        float sum = 0.0f;
        for (uint32_t i = from / step + lane; i < (from + width) / step; i += 32)
            sum += square(i);
        sum = warp_sum(sum);
        if (lane == 0) scales[span] = rm_rms_scale(sum, width, args.qk_norm_eps);
    }
    __syncthreads();
}

/* Up to four channels of a query or key head, biased already, through the norm; weights: theirs. A
 * norm of a head after the rotation is one before it: turning keeps lengths. */
static __device__ __forceinline__ void qk_norm(const cu_prep_args &args, const float *scales,
                                               uint32_t chan, uint32_t head, const float weights[4],
                                               float values[4]) {
    bool full = args.qk_norm == CU_QK_NORM_FULL;
    float scale = scales[full ? chan >= args.n_heads * args.head_dim : head];
#pragma unroll
    for (int j = 0; j < 4; j++)
        values[j] *= full ? scale * weights[j] : scale;
}

/* The factor of a value embedding; gates: of the K/V heads; head: over all of q, k and v. */
static __device__ __forceinline__ float value_gate(const cu_prep_args &args, const float *gates,
                                                   uint32_t head) {
    return 2.0f * rm_sigmoid(gates[head - args.n_heads - args.n_kv_heads]);
}
template <typename ACT>
static __device__ __forceinline__ const ACT *value_row(const cu_prep_args &args,
                                                       const cu_row &row) {
    return (const ACT *)args.value_table + (uint64_t)row.token * args.value_ld;
}

/* Heads are multiples of 4 wide: no four channels belong to two. */
template <typename ACT>
static __global__ void __launch_bounds__(SPLIT_THREADS) gqa_prep(cu_prep_args args) {
    const qkv_shape shape = qkv_of(args);
    uint32_t at[PREP_VECS]; /* in its head */
#pragma unroll
    for (int k = 0; k < PREP_VECS; k++)
        at[k] = first_channel(k) % args.head_dim;
    kernel_scope scope(args.stamp);
    uint32_t i = blockIdx.x;
    row_vec<PREP_VECS> x, turn;
    row_load<true>(x, args.in + (uint64_t)i * args.ld_in, shape.all);
    cu_row row;
    if (!launch_row(args.desc, i, &row)) return;
    const float *turns = args.rope + (uint64_t)row.pos * args.head_dim;
#pragma unroll
    for (int k = 0; k < PREP_VECS; k++)
        load4<true>(turns, at[k], first_channel(k) < shape.turned ? args.head_dim : 0, turn.v[k]);
    uint32_t slot =
        row_slot(args.desc, args.cache, row, args.plane + (args.by_loop ? row.loop : 0));
#pragma unroll
    for (int k = 0; k < PREP_VECS; k++) {
        uint32_t chan = first_channel(k);
        if (chan < shape.turned) turn_pairs(x.v[k], turn.v[k]);
        gqa_store<ACT, true>(args, i, slot, chan, shape.all, x.v[k]);
    }
}

/* Channels of a pass over [q | k | v] in the kernel below: each thread has two accesses. */
static __device__ __forceinline__ uint32_t pass_channels(void) {
    return FEW * 4 * blockDim.x;
}

/* The channels of the pass at `base`, queries and keys with their bias. */
static __device__ __forceinline__ void load_biased(const cu_prep_args &args, const float *in,
                                                   const qkv_shape &shape, uint32_t base,
                                                   row_vec<FEW> &x) {
    row_vec<FEW> bias;
#pragma unroll
    for (int k = 0; k < FEW; k++) {
        uint32_t chan = base + first_channel(k);
        load4<true>(in, chan, shape.all, x.v[k]);
        load4<true>(args.qk_bias, chan, args.qk_bias ? shape.turned : 0, bias.v[k]);
    }
    row_join(x, bias, [](float v, float b) { return v + b; });
}

/* The same for models with a bias, a norm or value embeddings: passes of fewer channels, since
 * each has more to load. */
template <typename ACT>
static __global__ void __launch_bounds__(SPLIT_THREADS) gqa_prep_more(cu_prep_args args) {
    const qkv_shape shape = qkv_of(args);
    const bool full = args.qk_norm == CU_QK_NORM_FULL;
    kernel_scope scope(args.stamp);
    DYNAMIC_SHARED(shared);
    float *scales = (float *)shared, *squares = scales + args.n_heads + args.n_kv_heads;
    uint32_t i = blockIdx.x;
    const float *in = args.in + (uint64_t)i * args.ld_in;
    row_vec<FEW> x, more, weights; /* more: angles of queries and keys, table values of values */
    cu_row row;
    if (!launch_row(args.desc, i, &row)) return;
    const float *turns = args.rope + (uint64_t)row.pos * args.head_dim;
    uint32_t slot =
        row_slot(args.desc, args.cache, row, args.plane + (args.by_loop ? row.loop : 0));
    if (args.qk_norm != CU_QK_NORM_NONE) {
#pragma unroll 1
        for (uint32_t base = 0; base < shape.turned; base += pass_channels()) {
            load_biased(args, in, shape, base, x);
#pragma unroll
            for (int k = 0; k < FEW; k++) {
                const float *v = x.v[k];
                uint32_t chan = base + first_channel(k);
                if (chan < shape.turned)
                    squares[chan / 4] = v[0] * v[0] + v[1] * v[1] + v[2] * v[2] + v[3] * v[3];
            }
        }
        qk_scales(args, 4, scales, [=](uint32_t at) { return squares[at]; });
    }
#pragma unroll 1
    for (uint32_t base = 0; base < shape.all; base += pass_channels()) {
        uint32_t head[FEW];
        load_biased(args, in, shape, base, x);
#pragma unroll
        for (int k = 0; k < FEW; k++) {
            uint32_t chan = base + first_channel(k);
            head[k] = chan / args.head_dim;
            load4<true>(args.qk_weights, chan, full ? shape.turned : 0, weights.v[k]);
            load4<true>(turns, chan - head[k] * args.head_dim,
                        chan < shape.turned ? args.head_dim : 0, more.v[k]);
            if (args.value_table != nullptr && chan >= shape.turned) {
                load4<true>(value_row<ACT>(args, row), chan - shape.turned,
                            shape.all - shape.turned, more.v[k]);
            }
        }
#pragma unroll
        for (int k = 0; k < FEW; k++) {
            uint32_t chan = base + first_channel(k);
            if (chan < shape.turned) {
                if (args.qk_norm != CU_QK_NORM_NONE)
                    qk_norm(args, scales, chan, head[k], weights.v[k], x.v[k]);
                turn_pairs(x.v[k], more.v[k]);
            } else if (args.value_table != nullptr && chan < shape.all) {
                float gate = value_gate(args, in + shape.all, head[k]);
                for (int j = 0; j < 4; j++)
                    x.v[k][j] += gate * more.v[k][j];
            }
            gqa_store<ACT, true>(args, i, slot, chan, shape.all, x.v[k]);
        }
    }
}

/* The same, a pair at a time, for any width. */
template <typename ACT>
static __global__ void __launch_bounds__(PAIR_THREADS) gqa_prep_pairs(cu_prep_args args) {
    const qkv_shape shape = qkv_of(args);
    kernel_scope scope(args.stamp);
    DYNAMIC_SHARED(shared);
    float *scales = (float *)shared;
    uint32_t i = blockIdx.x;
    cu_row row;
    if (!launch_row(args.desc, i, &row)) return;
    const float *in = args.in + (uint64_t)i * args.ld_in, *bias = args.qk_bias;
    const float *turns = args.rope + (uint64_t)row.pos * args.head_dim;
    auto biased = [=](uint32_t chan) { return bias ? in[chan] + bias[chan] : in[chan]; };
    uint32_t slot =
        row_slot(args.desc, args.cache, row, args.plane + (args.by_loop ? row.loop : 0));
    if (args.qk_norm != CU_QK_NORM_NONE)
        qk_scales(args, 1, scales, [=](uint32_t at) { return biased(at) * biased(at); });
    for (uint32_t chan = 2 * threadIdx.x; chan < shape.all; chan += 2 * blockDim.x) {
        uint32_t head = chan / args.head_dim, j = chan % args.head_dim;
        float values[4] = {in[chan], in[chan + 1]}, weights[4];
        if (chan < shape.turned) {
            values[0] = biased(chan);
            values[1] = biased(chan + 1);
            load4<false>(args.qk_weights + chan, 0, args.qk_norm == CU_QK_NORM_FULL ? 2 : 0,
                         weights);
            if (args.qk_norm != CU_QK_NORM_NONE) qk_norm(args, scales, chan, head, weights, values);
            rm_rotate(&values[0], &values[1], turns[j], turns[j + 1]);
        } else if (args.value_table != nullptr) {
            const ACT *add = value_row<ACT>(args, row) + (chan - shape.turned);
            float gate = value_gate(args, in + shape.all, head);
            values[0] += gate * widen(add[0]);
            values[1] += gate * widen(add[1]);
        }
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
    const void *all[] = {args->state.h, args->state.e, args->state.out, args->x,
                         args->delta,   args->embed,   args->norm,      args->act,
                         args->before,  args->decay,   args->step,      args->loop_emb};
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

template <typename ACT>
static cudaError_t start_gqa_prep(cudaStream_t stream, const cu_prep_args &args, uint32_t rows,
                                  bool whole) {
    uint32_t turned = (args.n_heads + args.n_kv_heads) * args.head_dim,
             n = turned + args.n_kv_heads * args.head_dim;
    bool norm = args.qk_norm != CU_QK_NORM_NONE, more = norm || args.qk_bias || args.value_table;
    uint32_t bytes = norm ? (args.n_heads + args.n_kv_heads) * (uint32_t)sizeof(float) : 0;
    if (!whole || n > 4 * PREP_VECS * SPLIT_THREADS)
        return LAUNCH(gqa_prep_pairs<ACT>, rows, PAIR_THREADS, bytes, stream, args);
    if (!more) return LAUNCH(gqa_prep<ACT>, rows, row_threads(n, PREP_VECS), bytes, stream, args);
    uint32_t threads = row_threads(n, FEW), most = SPLIT_THREADS;
    if (norm) bytes += turned / 4 * (uint32_t)sizeof(float);
    return LAUNCH(gqa_prep_more<ACT>, rows, threads < most ? threads : most, bytes, stream, args);
}

extern "C" cudaError_t cu_gqa_prep(cudaStream_t stream, const cu_prep_args *args, uint32_t rows,
                                   bool f32) {
    bool whole = (args->head_dim | args->ld_in | args->ld_q | args->value_ld) % 4 == 0 &&
                 slots_in_fours(&args->cache);
    for (const void *from : {(const void *)args->in, (const void *)args->q,
                             (const void *)args->rope, (const void *)args->qk_bias,
                             (const void *)args->qk_weights, (const void *)args->value_table})
        whole = whole && in_fours(from);
    return f32 ? start_gqa_prep<float>(stream, *args, rows, whole)
               : start_gqa_prep<bf16>(stream, *args, rows, whole);
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
