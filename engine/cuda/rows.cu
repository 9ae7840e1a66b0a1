/* rows.cu - kernels that work on one row each: entering and leaving a stage, and the preparation
 * of queries and cache slots.
 *
 * With few rows these kernels only wait for memory, so each asks for everything it can name at
 * once: norms before the kernel in front has ended, since nothing writes them; then what the number
 * of the launch row gives; then what the row itself gives. */
#include "engine/cuda/rows.cuh"

enum {
    PREP_VECS = 4, /* accesses of a thread that splits heads */
    SPLIT_THREADS = 1024,
    PAIR_THREADS = 128,
};

/* ---- entering and leaving a stage ---- */

/* What a row enters with: x, and y, which is added to it (from LOOP e; from X the delta). */
template <typename A, int V, bool WHOLE>
static __device__ __forceinline__ bool row_enter(const cu_row_args &a, uint32_t i, cu_row *r,
                                                 row_vec<V> &x, row_vec<V> &y) {
    if (a.from == CU_FROM_X) {
        row_load<WHOLE>(x, a.x + (uint64_t)i * a.dim, a.dim);
        row_load<WHOLE>(y, a.delta + (uint64_t)i * a.dim, a.dim);
    }
    if (!launch_row(a.desc, i, r)) return false;
    if (a.to == CU_TO_HEAD && r->logits == CU_NO_LOGITS) return false;
    uint64_t at = (uint64_t)r->row * a.dim;
    if (a.from == CU_FROM_LOOP) {
        row_vec<V> loop;
        row_load<WHOLE>(x, a.state.h + at, a.dim);
        row_load<WHOLE>(y, a.state.e + at, a.dim);
        row_load<WHOLE>(loop, a.loop_emb + (uint64_t)r->loop * a.loop_width, a.loop_width);
        row_join(x, y, [](float h, float e) { return h + e; });
        row_join(x, loop, [](float v, float e) { return v + e; });
    } else if (a.from == CU_FROM_STATE) {
        row_load<WHOLE>(x, a.state.h + at, a.dim);
    } else if (a.from == CU_FROM_OUT) {
        row_load<WHOLE>(x, a.state.out + at, a.dim);
    } else if (a.from == CU_FROM_TOKEN) {
        row_load<WHOLE>(x, (const A *)a.embed + (uint64_t)r->token * a.ld, a.dim);
        float scale = a.embed_scale;
        row_join(x, x, [=](float v, float) { return v * scale; });
    }
    return true;
}

/* The state before the first loop. */
template <int V, bool WHOLE>
static __device__ __forceinline__ void row_start(const cu_row_args &a, const cu_row &r,
                                                 const row_vec<V> &x) {
    uint64_t at = (uint64_t)r.row * a.dim;
    const row_vec<V> zero = {};
    if (a.state.e) row_store<WHOLE>(a.state.e + at, a.dim, x);
    row_store<WHOLE>(a.state.out + at, a.dim, zero);
    if (a.start == CU_START_SEEDED) {
        for (uint32_t c = threadIdx.x; c < a.dim; c += blockDim.x)
            a.state.h[at + c] = rm_seeded_state(r.pos, c, a.start_std);
    } else if (a.start == CU_START_ZERO) {
        row_store<WHOLE>(a.state.h + at, a.dim, zero);
    } else {
        row_store<WHOLE>(a.state.h + at, a.dim, x);
    }
    if (threadIdx.x == 0) {
        a.state.cum[r.row] = 0.0f;
        a.state.halted[r.row] = 0;
    }
}

template <typename A, int V, bool WHOLE> static __global__ void ROW_BOUNDS row_step(cu_row_args a) {
    const float *inner = a.from == CU_FROM_LOOP ? a.loop_norm
                         : a.from == CU_FROM_X  ? a.out_norm
                                                : nullptr;
    row_vec<V> w_inner, w, x, y;
    row_weights<true, WHOLE>(w_inner, inner, a.dim);
    row_weights<true, WHOLE>(w, a.norm, a.dim);
    kernel_scope scope(a.stamp);
    DYNAMIC_SHARED(shared);
    float *scratch = (float *)shared;
    uint32_t i = blockIdx.x;
    cu_row r;
    if (!row_enter<A, V, WHOLE>(a, i, &r, x, y)) return;
    row_weights<false, WHOLE>(w_inner, inner, a.dim);
    if (a.from == CU_FROM_LOOP) row_norm(x, w_inner, a.dim, a.norm_eps, scratch);
    if (a.from == CU_FROM_X) {
        if (inner) row_norm(y, w_inner, a.dim, a.norm_eps, scratch);
        row_join(x, y, [](float v, float delta) { return v + delta; });
    }
    if (a.to == CU_TO_STATE) {
        row_start<V, WHOLE>(a, r, x);
        return;
    }
    if (a.to == CU_TO_NORM) row_store<WHOLE>(a.x + (uint64_t)i * a.dim, a.dim, x);
    row_weights<false, WHOLE>(w, a.norm, a.dim);
    if (a.norm) row_norm(x, w, a.dim, a.norm_eps, scratch + ROW_SUM);
    uint32_t to = a.to == CU_TO_HEAD ? r.logits : i;
    row_store<WHOLE>((A *)a.act + (uint64_t)to * a.ld, a.ld, x); /* zeros beyond dim */
}

/* ---- the cache slot ---- */

/* The slot of this row at its plane; RM_NO_SLOT if the map has none in range. */
static __device__ __forceinline__ uint32_t row_slot(const void *desc, const cu_cache &c,
                                                    const cu_row &r, uint32_t plane) {
    const uint32_t *table = tables_of(desc) + r.table;
    uint32_t slot = rm_slot(c.maps, table, c.n_planes, plane, r.pos);
    if (slot < c.n_slots) return slot;
    if (threadIdx.x == 0) *head_of(desc)->bad = 1;
    return RM_NO_SLOT;
}

/* Channels c to c + 3 of n, which stand at `at` in the slot. */
template <bool WHOLE>
static __device__ __forceinline__ void slot_store(const cu_cache &cache, uint32_t slot, uint32_t at,
                                                  uint32_t c, uint32_t n, const float v[4]) {
    if (slot == RM_NO_SLOT) return;
    uint64_t to = (uint64_t)slot * cache.slot_values + at;
    if (cache.f32) store4<WHOLE>((float *)cache.slots + to, c, n, v);
    else store4<WHOLE>((bf16 *)cache.slots + to, c, n, v);
}

/* Two pairs, each turned by the angle whose cosine and sine stand in `turn`. */
static __device__ __forceinline__ void turn_pairs(float v[4], const float turn[4]) {
    rm_rotate(&v[0], &v[1], turn[0], turn[1]);
    rm_rotate(&v[2], &v[3], turn[2], turn[3]);
}

static_assert((int)CU_MAX_LATENT == (int)NARROW, "the widest latents of one thread block");

template <typename A, bool WHOLE> static __global__ void ROW_BOUNDS mla_prep(cu_prep_args a) {
    row_vec<FEW> w_q, w_kv, q, kv;
    float k_rope[4], turn[4];
    row_weights<true, WHOLE>(w_q, a.q_norm, a.q_lora);
    row_weights<true, WHOLE>(w_kv, a.kv_norm, a.kv_lora);
    kernel_scope scope(a.stamp);
    DYNAMIC_SHARED(shared);
    uint32_t i = blockIdx.x, c = 4 * threadIdx.x;
    const float *in = a.in + (uint64_t)i * a.ld_in;
    row_load<WHOLE>(q, in, a.q_lora);
    row_load<WHOLE>(kv, in + a.q_lora, a.kv_lora);
    load4<WHOLE>(in + a.q_lora + a.kv_lora, c, a.rope_dim, k_rope);
    cu_row r;
    if (!launch_row(a.desc, i, &r)) return;
    load4<WHOLE>(a.rope + (uint64_t)r.pos * a.rope_dim, c, a.rope_dim, turn);
    uint32_t slot = row_slot(a.desc, a.cache, r, a.plane + (a.by_loop ? r.loop : 0));
    float sums[2] = {row_dot(q, q), row_dot(kv, kv)};
    row_sums(sums, (float *)shared);
    float q_scale = rm_rms_scale(sums[0], a.q_lora, a.norm_eps);
    row_join(q, w_q, [=](float x, float w) { return x * q_scale * w; });
    row_store<WHOLE>((A *)a.q + (uint64_t)i * a.ld_q, a.ld_q, q); /* zeros beyond q_lora */
    float kv_scale = rm_rms_scale(sums[1], a.kv_lora, a.norm_eps);
    row_join(kv, w_kv, [=](float x, float w) { return x * kv_scale * w; });
#pragma unroll
    for (int k = 0; k < FEW; k++)
        slot_store<WHOLE>(a.cache, slot, 0, first_channel(k), a.kv_lora, kv.v[k]);
    turn_pairs(k_rope, turn);
    slot_store<WHOLE>(a.cache, slot, a.kv_lora, c, a.rope_dim, k_rope);
}

/* Channels c to c + 3, if below n, of [q | k | v], turned already: to the query or the slot. */
template <typename A, bool WHOLE>
static __device__ __forceinline__ void gqa_store(const cu_prep_args &a, uint32_t i, uint32_t slot,
                                                 uint32_t c, uint32_t n, const float v[4]) {
    uint32_t n_q = a.n_heads * a.head_dim;
    if (c < n_q) store4<WHOLE>((A *)a.q + (uint64_t)i * a.ld_q, c, n < n_q ? n : n_q, v);
    else slot_store<WHOLE>(a.cache, slot, 0, c - n_q, n - n_q, v);
}

/* Heads are multiples of 4 wide: no four channels belong to two. */
template <typename A>
static __global__ void __launch_bounds__(SPLIT_THREADS) gqa_prep(cu_prep_args a) {
    kernel_scope scope(a.stamp);
    uint32_t i = blockIdx.x, n_turned = (a.n_heads + a.n_kv_heads) * a.head_dim;
    uint32_t n = n_turned + a.n_kv_heads * a.head_dim;
    row_vec<PREP_VECS> x, turn;
    row_load<true>(x, a.in + (uint64_t)i * a.ld_in, n);
    cu_row r;
    if (!launch_row(a.desc, i, &r)) return;
    const float *turns = a.rope + (uint64_t)r.pos * a.head_dim;
#pragma unroll
    for (int k = 0; k < PREP_VECS; k++) {
        uint32_t c = first_channel(k);
        load4<true>(turns, c < n_turned ? c % a.head_dim : a.head_dim, a.head_dim, turn.v[k]);
    }
    uint32_t slot = row_slot(a.desc, a.cache, r, a.plane + (a.by_loop ? r.loop : 0));
#pragma unroll
    for (int k = 0; k < PREP_VECS; k++) {
        uint32_t c = first_channel(k);
        if (c < n_turned) turn_pairs(x.v[k], turn.v[k]);
        gqa_store<A, true>(a, i, slot, c, n, x.v[k]);
    }
}

/* The same, a pair at a time, for any width. */
template <typename A>
static __global__ void __launch_bounds__(PAIR_THREADS) gqa_prep_pairs(cu_prep_args a) {
    kernel_scope scope(a.stamp);
    uint32_t i = blockIdx.x, n_turned = (a.n_heads + a.n_kv_heads) * a.head_dim;
    uint32_t n = n_turned + a.n_kv_heads * a.head_dim;
    cu_row r;
    if (!launch_row(a.desc, i, &r)) return;
    const float *in = a.in + (uint64_t)i * a.ld_in;
    const float *turns = a.rope + (uint64_t)r.pos * a.head_dim;
    uint32_t slot = row_slot(a.desc, a.cache, r, a.plane + (a.by_loop ? r.loop : 0));
    for (uint32_t c = 2 * threadIdx.x; c < n; c += 2 * blockDim.x) {
        float v[4] = {in[c], in[c + 1]};
        uint32_t j = c % a.head_dim;
        if (c < n_turned) rm_rotate(&v[0], &v[1], turns[j], turns[j + 1]);
        gqa_store<A, false>(a, i, slot, c, c + 2, v);
    }
}

/* ---- the query ---- */

/* Outputs of [nope of all heads, each padded to nope_ld | rotated part of all heads]. */
template <typename A>
static __global__ void __launch_bounds__(SPLIT_THREADS) mla_query(cu_query_args a) {
    uint32_t n_nope = a.n_heads * a.nope_ld, n = n_nope + a.n_heads * a.rope_dim;
    uint32_t dk = a.kv_lora + a.rope_dim, i = blockIdx.x, head[PREP_VECS], at[PREP_VECS];
#pragma unroll
    for (int k = 0; k < PREP_VECS; k++) {
        uint32_t c = first_channel(k);
        bool nope = c < n_nope;
        head[k] = nope ? c / a.nope_ld : (c - n_nope) / a.rope_dim;
        at[k] = nope ? c - head[k] * a.nope_ld : c - n_nope - head[k] * a.rope_dim;
    }
    kernel_scope scope(a.stamp);
    const float *in = a.in + (uint64_t)i * a.ld_in, *in_rope = in + a.n_heads * a.nope;
    row_vec<PREP_VECS> x, turn;
#pragma unroll
    for (int k = 0; k < PREP_VECS; k++) {
        uint32_t c = first_channel(k);
        const float *from = c < n_nope ? in + head[k] * a.nope : in_rope + head[k] * a.rope_dim;
        load4<true>(from, at[k], c < n_nope ? a.nope : c < n ? a.rope_dim : 0, x.v[k]);
    }
    cu_row r;
    if (!launch_row(a.desc, i, &r)) return;
#pragma unroll
    for (int k = 0; k < PREP_VECS; k++) {
        uint32_t c = first_channel(k);
        load4<true>(a.rope + (uint64_t)r.pos * a.rope_dim, at[k],
                    c >= n_nope && c < n ? a.rope_dim : 0, turn.v[k]);
    }
    A *to = (A *)a.q_nope + (uint64_t)i * n_nope, *q = (A *)a.q + (uint64_t)i * a.n_heads * dk;
#pragma unroll
    for (int k = 0; k < PREP_VECS; k++) {
        uint32_t c = first_channel(k);
        if (c < n_nope) {
            store4<true>(to, c, n_nope, x.v[k]);
        } else if (c < n) {
            turn_pairs(x.v[k], turn.v[k]);
            store4<true>(q + head[k] * dk + a.kv_lora, at[k], a.rope_dim, x.v[k]);
        }
    }
    A *o = (A *)a.o + (uint64_t)i * a.o_ld;
    for (uint32_t c = a.o_values + threadIdx.x; c < a.o_ld; c += blockDim.x)
        narrow(0.0f, &o[c]);
}

/* The same, a channel or a pair at a time, for any width. */
template <typename A>
static __global__ void __launch_bounds__(PAIR_THREADS) mla_query_pairs(cu_query_args a) {
    kernel_scope scope(a.stamp);
    uint32_t i = blockIdx.x;
    cu_row r;
    if (!launch_row(a.desc, i, &r)) return;
    const float *nope = a.in + (uint64_t)i * a.ld_in, *rope = nope + a.n_heads * a.nope;
    A *to = (A *)a.q_nope + (uint64_t)i * a.n_heads * a.nope_ld;
    for (uint32_t c = threadIdx.x; c < a.n_heads * a.nope_ld; c += blockDim.x) {
        uint32_t h = c / a.nope_ld, k = c % a.nope_ld;
        narrow(k < a.nope ? nope[h * a.nope + k] : 0.0f, &to[c]);
    }
    uint32_t dk = a.kv_lora + a.rope_dim, pairs = a.rope_dim / 2;
    A *q = (A *)a.q + (uint64_t)i * a.n_heads * dk;
    const float *turn = a.rope + (uint64_t)r.pos * a.rope_dim;
    for (uint32_t p = threadIdx.x; p < a.n_heads * pairs; p += blockDim.x) {
        uint32_t h = p / pairs, j = p % pairs;
        float x0 = rope[h * a.rope_dim + 2 * j], x1 = rope[h * a.rope_dim + 2 * j + 1];
        rm_rotate(&x0, &x1, turn[2 * j], turn[2 * j + 1]);
        narrow(x0, &q[h * dk + a.kv_lora + 2 * j]);
        narrow(x1, &q[h * dk + a.kv_lora + 2 * j + 1]);
    }
    A *o = (A *)a.o + (uint64_t)i * a.o_ld;
    for (uint32_t c = a.o_values + threadIdx.x; c < a.o_ld; c += blockDim.x)
        narrow(0.0f, &o[c]);
}

/* ---- launchers ---- */

template <typename A>
static cudaError_t start_step(cudaStream_t s, const cu_row_args &a, uint32_t rows, bool whole) {
    uint32_t bytes = 2 * ROW_SUM * sizeof(float), few = row_threads(a.ld, FEW),
             many = row_threads(a.ld, MANY);
    if (a.ld > CU_MAX_DIM) return cudaErrorInvalidValue;
    if (a.ld <= NARROW) {
        return whole ? LAUNCH((row_step<A, FEW, true>), rows, few, bytes, s, a)
                     : LAUNCH((row_step<A, FEW, false>), rows, few, bytes, s, a);
    }
    return whole ? LAUNCH((row_step<A, MANY, true>), rows, many, bytes, s, a)
                 : LAUNCH((row_step<A, MANY, false>), rows, many, bytes, s, a);
}

extern "C" cudaError_t cu_row_step(cudaStream_t s, const cu_row_args *a, uint32_t rows, bool f32) {
    const void *all[] = {a->state.h, a->state.e, a->state.out, a->x,        a->delta,   a->embed,
                         a->norm,    a->act,     a->loop_norm, a->loop_emb, a->out_norm};
    bool whole = a->dim % 4 == 0 && a->ld % 4 == 0 && a->loop_width % 4 == 0;
    for (const void *p : all)
        whole = whole && in_fours(p);
    return f32 ? start_step<float>(s, *a, rows, whole) : start_step<bf16>(s, *a, rows, whole);
}

/* Whether a slot's values of one layer stand in fours. */
static bool slots_in_fours(const cu_cache *c) {
    return in_fours(c->slots) && c->slot_values % 4 == 0;
}

extern "C" cudaError_t cu_mla_prep(cudaStream_t s, const cu_prep_args *a, uint32_t rows, bool f32) {
    const void *all[] = {a->in, a->q, a->q_norm, a->kv_norm, a->rope};
    bool whole = (a->q_lora | a->kv_lora | a->rope_dim | a->ld_in | a->ld_q) % 4 == 0 &&
                 slots_in_fours(&a->cache);
    for (const void *p : all)
        whole = whole && in_fours(p);
    uint32_t n = FEW * a->rope_dim; /* which a thread holds with one access */
    for (uint32_t width : {a->ld_q, a->kv_lora})
        n = width > n ? width : n;
    if (n > CU_MAX_LATENT) return cudaErrorInvalidValue;
    uint32_t bytes = 2 * ROW_SUM * sizeof(float), threads = row_threads(n, FEW);
    if (f32) {
        return whole ? LAUNCH((mla_prep<float, true>), rows, threads, bytes, s, *a)
                     : LAUNCH((mla_prep<float, false>), rows, threads, bytes, s, *a);
    }
    return whole ? LAUNCH((mla_prep<bf16, true>), rows, threads, bytes, s, *a)
                 : LAUNCH((mla_prep<bf16, false>), rows, threads, bytes, s, *a);
}

extern "C" cudaError_t cu_gqa_prep(cudaStream_t s, const cu_prep_args *a, uint32_t rows, bool f32) {
    uint32_t n = (a->n_heads + 2 * a->n_kv_heads) * a->head_dim;
    bool whole = (a->head_dim | a->ld_in | a->ld_q) % 4 == 0 && slots_in_fours(&a->cache) &&
                 in_fours(a->in) && in_fours(a->q) && in_fours(a->rope);
    if (!whole || n > 4 * PREP_VECS * SPLIT_THREADS) {
        if (f32) return LAUNCH(gqa_prep_pairs<float>, rows, PAIR_THREADS, 0, s, *a);
        return LAUNCH(gqa_prep_pairs<bf16>, rows, PAIR_THREADS, 0, s, *a);
    }
    if (f32) return LAUNCH(gqa_prep<float>, rows, row_threads(n, PREP_VECS), 0, s, *a);
    return LAUNCH(gqa_prep<bf16>, rows, row_threads(n, PREP_VECS), 0, s, *a);
}

extern "C" cudaError_t cu_mla_query(cudaStream_t s, const cu_query_args *a, uint32_t rows,
                                    bool f32) {
    uint32_t n = a->n_heads * (a->nope_ld + a->rope_dim);
    bool whole = (a->nope | a->nope_ld | a->rope_dim | a->kv_lora | a->ld_in) % 4 == 0 &&
                 in_fours(a->in) && in_fours(a->rope) && in_fours(a->q_nope) && in_fours(a->q);
    if (!whole || n > 4 * PREP_VECS * SPLIT_THREADS) {
        if (f32) return LAUNCH(mla_query_pairs<float>, rows, PAIR_THREADS, 0, s, *a);
        return LAUNCH(mla_query_pairs<bf16>, rows, PAIR_THREADS, 0, s, *a);
    }
    if (f32) return LAUNCH(mla_query<float>, rows, row_threads(n, PREP_VECS), 0, s, *a);
    return LAUNCH(mla_query<bf16>, rows, row_threads(n, PREP_VECS), 0, s, *a);
}

extern "C" cudaError_t cu_rows_setup(uint32_t dim) {
    return dim <= CU_MAX_DIM ? cudaSuccess : cudaErrorInvalidValue;
}
