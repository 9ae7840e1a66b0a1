/* rows.cu - kernels that work on one row each: entering and leaving a stage, the preparation
 * of queries and cache slots, and the end of a loop. */
#include "engine/cuda/common.cuh"

enum { ROW_THREADS = 256, PREP_THREADS = 128 };

/* act = x * scale * w, or x without w, and zeros up to ld. */
template <typename A>
static __device__ void write_normed(const float *x, const float *w, uint32_t n, uint32_t ld,
                                    float scale, A *act) {
    for (uint32_t c = threadIdx.x; c < ld; c += blockDim.x) {
        float v = c >= n ? 0.0f : w ? x[c] * scale * w[c] : x[c];
        narrow(v, &act[c]);
    }
}

static __device__ float sum_squares(const float *x, uint32_t n, float *scratch) {
    float sum = 0.0f;
    for (uint32_t c = threadIdx.x; c < n; c += blockDim.x)
        sum += x[c] * x[c];
    return block_sum(sum, scratch);
}

/* x = x * scale * w. */
static __device__ void norm_here(float *x, const float *w, uint32_t n, float eps, float *scratch) {
    float scale = rm_rms_scale(sum_squares(x, n, scratch), n, eps);
    for (uint32_t c = threadIdx.x; c < n; c += blockDim.x)
        x[c] *= scale * w[c];
}

/* Each thread reads and writes only its own channels of x, so only the sums need a barrier. */
template <typename A>
static __device__ void row_begin(const cu_row_args &a, const cu_row &r, uint32_t i, float *x,
                                 float *scratch) {
    uint64_t at = (uint64_t)r.row * a.dim, here = (uint64_t)i * a.dim;
    bool normed_delta = a.from == CU_FROM_X && a.out_norm;
    for (uint32_t c = threadIdx.x; c < a.dim; c += blockDim.x) {
        float v;
        if (a.from == CU_FROM_TOKEN) {
            v = widen(((const A *)a.embed)[(uint64_t)r.token * a.ld + c]) * a.embed_scale;
        } else if (a.from == CU_FROM_OUT) {
            v = a.state.out[at + c];
        } else if (a.from == CU_FROM_STATE) {
            v = a.state.h[at + c];
        } else if (a.from == CU_FROM_X) {
            v = normed_delta ? a.delta[here + c] : a.x[here + c] + a.delta[here + c];
        } else {
            v = a.state.h[at + c] + a.state.e[at + c];
            if (c < a.loop_width) v += a.loop_emb[(uint64_t)r.loop * a.loop_width + c];
        }
        x[c] = v;
    }
    if (a.from == CU_FROM_LOOP) norm_here(x, a.loop_norm, a.dim, a.norm_eps, scratch);
    if (!normed_delta) return;
    norm_here(x, a.out_norm, a.dim, a.norm_eps, scratch);
    for (uint32_t c = threadIdx.x; c < a.dim; c += blockDim.x)
        x[c] += a.x[here + c];
}

/* The state before the first loop. */
static __device__ void row_start(const cu_row_args &a, const cu_row &r, const float *x) {
    uint64_t at = (uint64_t)r.row * a.dim;
    for (uint32_t c = threadIdx.x; c < a.dim; c += blockDim.x) {
        float h = x[c];
        if (a.start == CU_START_ZERO) h = 0.0f;
        if (a.start == CU_START_SEEDED) h = rm_seeded_state(r.pos, c, a.start_std);
        a.state.h[at + c] = h;
        if (a.state.e) a.state.e[at + c] = x[c];
        a.state.out[at + c] = 0.0f;
    }
    if (threadIdx.x == 0) {
        a.state.cum[r.row] = 0.0f;
        a.state.halted[r.row] = 0;
    }
}

template <typename A>
static __global__ void __launch_bounds__(ROW_THREADS) row_step(cu_row_args a) {
    kernel_scope scope(a.stamp);
    DYNAMIC_SHARED(shared);
    float *scratch = (float *)shared, *x = scratch + 36;
    uint32_t i = blockIdx.x;
    if (i >= head_of(a.desc)->n_rows) return;
    cu_row r = rows_of(a.desc)[i];
    if (a.to == CU_TO_HEAD && r.logits == CU_NO_LOGITS) return;
    row_begin<A>(a, r, i, x, scratch);
    if (a.to == CU_TO_STATE) {
        row_start(a, r, x);
        return;
    }
    float scale = 1.0f;
    if (a.norm) scale = rm_rms_scale(sum_squares(x, a.dim, scratch), a.dim, a.norm_eps);
    uint32_t to = a.to == CU_TO_HEAD ? r.logits : i;
    write_normed(x, a.norm, a.dim, a.ld, scale, (A *)a.act + (uint64_t)to * a.ld);
    if (a.to == CU_TO_HEAD) return;
    for (uint32_t c = threadIdx.x; c < a.dim; c += blockDim.x)
        a.x[(uint64_t)i * a.dim + c] = x[c];
}

/* The slot of this row at its plane; RM_NO_SLOT if the map has none in range. */
static __device__ uint32_t row_slot(const void *desc, const cu_cache &c, const cu_row &r,
                                    uint32_t plane) {
    const uint32_t *table = tables_of(desc) + r.table;
    uint32_t slot = rm_slot(c.maps, table, c.n_planes, plane, r.pos);
    if (slot < c.n_slots) return slot;
    if (threadIdx.x == 0) *head_of(desc)->bad = 1;
    return RM_NO_SLOT;
}

static __device__ void slot_write(const cu_cache &c, uint32_t slot, uint32_t at, float v) {
    if (slot == RM_NO_SLOT) return;
    uint64_t to = (uint64_t)slot * c.slot_values + at;
    if (c.f32) ((float *)c.slots)[to] = v;
    else narrow(v, &((bf16 *)c.slots)[to]);
}

template <typename A>
static __global__ void __launch_bounds__(PREP_THREADS) mla_prep(cu_prep_args a) {
    kernel_scope scope(a.stamp);
    DYNAMIC_SHARED(shared);
    float *scratch = (float *)shared;
    uint32_t i = blockIdx.x;
    if (i >= head_of(a.desc)->n_rows) return;
    cu_row r = rows_of(a.desc)[i];
    const float *cq = a.in + (uint64_t)i * a.ld_in, *c = cq + a.q_lora, *kr = c + a.kv_lora;
    float q_scale = rm_rms_scale(sum_squares(cq, a.q_lora, scratch), a.q_lora, a.norm_eps);
    write_normed(cq, a.q_norm, a.q_lora, a.ld_q, q_scale, (A *)a.q + (uint64_t)i * a.ld_q);
    float c_scale = rm_rms_scale(sum_squares(c, a.kv_lora, scratch), a.kv_lora, a.norm_eps);
    uint32_t slot = row_slot(a.desc, a.cache, r, a.plane + (a.by_loop ? r.loop : 0));
    for (uint32_t k = threadIdx.x; k < a.kv_lora; k += blockDim.x) {
        slot_write(a.cache, slot, k, c[k] * c_scale * a.kv_norm[k]);
    }
    const float *turn = a.rope + (uint64_t)r.pos * a.rope_dim;
    for (uint32_t p = threadIdx.x; p < a.rope_dim / 2; p += blockDim.x) {
        float x0 = kr[2 * p], x1 = kr[2 * p + 1];
        rm_rotate(&x0, &x1, turn[2 * p], turn[2 * p + 1]);
        slot_write(a.cache, slot, a.kv_lora + 2 * p, x0);
        slot_write(a.cache, slot, a.kv_lora + 2 * p + 1, x1);
    }
}

template <typename A>
static __global__ void __launch_bounds__(PREP_THREADS) gqa_prep(cu_prep_args a) {
    kernel_scope scope(a.stamp);
    uint32_t i = blockIdx.x;
    if (i >= head_of(a.desc)->n_rows) return;
    cu_row r = rows_of(a.desc)[i];
    uint32_t n_q = a.n_heads * a.head_dim, n_k = a.n_kv_heads * a.head_dim;
    const float *in = a.in + (uint64_t)i * a.ld_in;
    const float *turn = a.rope + (uint64_t)r.pos * a.head_dim;
    A *q = (A *)a.q + (uint64_t)i * a.ld_q;
    uint32_t slot = row_slot(a.desc, a.cache, r, a.plane + (a.by_loop ? r.loop : 0));
    for (uint32_t p = threadIdx.x; p < (n_q + n_k) / 2; p += blockDim.x) {
        uint32_t at = 2 * p, j = at % a.head_dim;
        float x0 = in[at], x1 = in[at + 1];
        rm_rotate(&x0, &x1, turn[j], turn[j + 1]);
        if (at < n_q) {
            narrow(x0, &q[at]);
            narrow(x1, &q[at + 1]);
        } else {
            slot_write(a.cache, slot, at - n_q, x0);
            slot_write(a.cache, slot, at - n_q + 1, x1);
        }
    }
    for (uint32_t k = threadIdx.x; k < n_k; k += blockDim.x) {
        slot_write(a.cache, slot, n_k + k, in[n_q + n_k + k]);
    }
}

template <typename A>
static __global__ void __launch_bounds__(PREP_THREADS) mla_query(cu_query_args a) {
    kernel_scope scope(a.stamp);
    uint32_t i = blockIdx.x;
    if (i >= head_of(a.desc)->n_rows) return;
    cu_row r = rows_of(a.desc)[i];
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

/* y -> y + ((y Ldown^T) * scale) LB, in place; z: [lora_rank] of shared memory. */
static __device__ void add_lora(const cu_loop_end_args &a, uint32_t loop, float *y, float *z) {
    uint32_t lane = threadIdx.x & 31, warps = blockDim.x >> 5;
    const float *scale = a.lora_scale + (uint64_t)rm_lora_row(loop, a.lora_rows) * a.lora_rank;
    __syncthreads();
    for (uint32_t k = threadIdx.x >> 5; k < a.lora_rank; k += warps) {
        const float *down = a.lora_down + (uint64_t)k * a.dim;
        float sum = 0.0f;
        for (uint32_t c = lane; c < a.dim; c += 32)
            sum += y[c] * down[c];
        sum = warp_sum(sum);
        if (lane == 0) z[k] = sum * scale[k];
    }
    __syncthreads();
    for (uint32_t c = threadIdx.x; c < a.dim; c += blockDim.x) {
        float sum = 0.0f;
        for (uint32_t k = 0; k < a.lora_rank; k++)
            sum += z[k] * a.lora_b[(uint64_t)k * a.dim + c];
        y[c] += sum;
    }
}

/* y = the residual stream after the last layer; each thread its own channels. */
static __device__ void loop_sum(const cu_loop_end_args &a, uint32_t i, float *y, float *scratch) {
    const float *x = a.x + (uint64_t)i * a.dim;
    const float *parts = a.parts + (uint64_t)i * a.n_parts * a.dim;
    for (uint32_t c = threadIdx.x; c < a.dim; c += blockDim.x) {
        float v = a.out_norm ? parts[c] : x[c];
        for (uint32_t k = 0; !a.out_norm && k < a.n_parts; k++)
            v += parts[c + (uint64_t)k * a.dim];
        y[c] = v;
    }
    if (!a.out_norm) return;
    norm_here(y, a.out_norm, a.dim, a.norm_eps, scratch);
    for (uint32_t c = threadIdx.x; c < a.dim; c += blockDim.x)
        y[c] += x[c];
}

/* What one thread's channels say about leaving: the gate's product, or how far the state moved. */
struct exit_sums {
    float a, b, c; /* h w | |h - old|^2, |h|^2 | h old, |h|^2, |old|^2 */
};

/* The new state y goes over the old one. */
static __device__ exit_sums loop_store(const cu_loop_end_args &a, const cu_row &r, const float *y) {
    exit_sums s = {0.0f, 0.0f, 0.0f};
    float *h = a.state.h + (uint64_t)r.row * a.dim;
    bool gate = a.exit == CU_EXIT_ACT || a.exit == CU_EXIT_HAZARD;
    for (uint32_t c = threadIdx.x; c < a.dim; c += blockDim.x) {
        float now = y[c];
        if (gate) {
            s.a += now * a.halt_w[c];
        } else if (a.exit != CU_EXIT_FIXED) {
            float old = h[c], moved = now - old;
            s.a += a.exit == CU_EXIT_COSINE ? now * old : moved * moved;
            s.b += now * now;
            s.c += old * old;
        }
        h[c] = now;
    }
    return s;
}

/* The same for all threads of the block. */
static __device__ rm_act_step loop_exit(const cu_loop_end_args &a, const cu_row &r, exit_sums s,
                                        float *scratch) {
    uint32_t done = r.loop + 1u;
    float cum = a.state.cum[r.row];
    rm_act_step step = {0.0f, cum, done >= r.max_loops};
    if (a.exit == CU_EXIT_FIXED) return step;
    float sum = block_sum(s.a, scratch);
    if (a.exit == CU_EXIT_ACT) {
        return rm_act(cum, rm_sigmoid(sum + a.halt_bias), r.threshold, done, r.min_loops,
                      r.max_loops);
    }
    if (a.exit == CU_EXIT_HAZARD) {
        rm_hazard_step z = rm_hazard(cum, rm_sigmoid(sum + a.halt_bias), r.threshold, done,
                                     r.min_loops, r.max_loops);
        step.cum = z.cum;
        step.halted = z.halted;
        return step;
    }
    float now = block_sum(s.b, scratch);
    if (a.exit == CU_EXIT_LATENT_DIFF) {
        step.halted = rm_latent_diff(sum, now, r.threshold, done, r.min_loops, r.max_loops);
    } else {
        step.halted = rm_cosine(sum, now, block_sum(s.c, scratch), r.threshold, done, r.min_loops,
                                r.max_loops);
    }
    return step;
}

static __global__ void __launch_bounds__(ROW_THREADS) loop_end(cu_loop_end_args a) {
    kernel_scope scope(a.stamp);
    DYNAMIC_SHARED(shared);
    float *scratch = (float *)shared, *y = scratch + 36, *z = y + a.dim;
    uint32_t i = blockIdx.x;
    if (i >= head_of(a.desc)->n_rows) return;
    cu_row r = rows_of(a.desc)[i];
    if (r.flags & CU_ROW_KV_ONLY) return;
    uint64_t at = (uint64_t)r.row * a.dim;
    loop_sum(a, i, y, scratch);
    if (a.inject) {
        add_lora(a, r.loop, y, z);
        for (uint32_t c = threadIdx.x; c < a.dim; c += blockDim.x)
            y[c] = rm_lti(a.state.h[at + c], a.state.e[at + c], y[c], a.inj_a[c], a.inj_b[c]);
    }
    if (a.loop_norm) norm_here(y, a.loop_norm, a.dim, a.norm_eps, scratch);
    exit_sums sums = loop_store(a, r, y);
    if (r.flags & CU_ROW_TAIL) return; /* the same for the whole block: no barrier is left out */
    rm_act_step s = loop_exit(a, r, sums, scratch);
    for (uint32_t c = threadIdx.x; c < a.dim; c += blockDim.x) {
        if (a.weighted) a.state.out[at + c] += s.weight * y[c];
        else if (s.halted) a.state.out[at + c] = y[c];
    }
    __syncthreads(); /* all have read cum */
    if (threadIdx.x == 0) {
        a.state.cum[r.row] = s.cum;
        if (s.halted) a.state.halted[r.row] = head_of(a.desc)->halted[r.at] = 1;
    }
}

/* ---- launchers ---- */

/* About 8 channels to a thread. */
static uint32_t row_threads(uint32_t dim) {
    uint32_t n = (dim / 8 + 31) / 32 * 32;
    return n < 32 ? 32 : n > ROW_THREADS ? (uint32_t)ROW_THREADS : n;
}

static uint32_t row_bytes(uint32_t dim, uint32_t extra) {
    return (36 + dim + extra) * 4;
}

extern "C" cudaError_t cu_row_step(cudaStream_t s, const cu_row_args *a, uint32_t rows, bool f32) {
    uint32_t bytes = row_bytes(a->dim, 0);
    if (f32) return LAUNCH(row_step<float>, rows, row_threads(a->dim), bytes, s, *a);
    return LAUNCH(row_step<bf16>, rows, row_threads(a->dim), bytes, s, *a);
}

extern "C" cudaError_t cu_mla_prep(cudaStream_t s, const cu_prep_args *a, uint32_t rows, bool f32) {
    uint32_t bytes = row_bytes(0, 0);
    if (f32) return LAUNCH(mla_prep<float>, rows, PREP_THREADS, bytes, s, *a);
    return LAUNCH(mla_prep<bf16>, rows, PREP_THREADS, bytes, s, *a);
}

extern "C" cudaError_t cu_gqa_prep(cudaStream_t s, const cu_prep_args *a, uint32_t rows, bool f32) {
    if (f32) return LAUNCH(gqa_prep<float>, rows, PREP_THREADS, 0, s, *a);
    return LAUNCH(gqa_prep<bf16>, rows, PREP_THREADS, 0, s, *a);
}

extern "C" cudaError_t cu_mla_query(cudaStream_t s, const cu_query_args *a, uint32_t rows,
                                    bool f32) {
    if (f32) return LAUNCH(mla_query<float>, rows, PREP_THREADS, 0, s, *a);
    return LAUNCH(mla_query<bf16>, rows, PREP_THREADS, 0, s, *a);
}

extern "C" cudaError_t cu_loop_end(cudaStream_t s, const cu_loop_end_args *a, uint32_t rows) {
    return LAUNCH(loop_end, rows, row_threads(a->dim), row_bytes(a->dim, a->lora_rank), s, *a);
}

extern "C" cudaError_t cu_rows_setup(uint32_t dim) {
    int bytes = (int)row_bytes(dim, 1024);
    if (bytes <= 48 * 1024) return cudaSuccess;
    cudaFuncAttribute most = cudaFuncAttributeMaxDynamicSharedMemorySize;
    cudaError_t rc = cudaFuncSetAttribute(row_step<float>, most, bytes);
    if (rc == cudaSuccess) rc = cudaFuncSetAttribute(row_step<bf16>, most, bytes);
    if (rc == cudaSuccess) rc = cudaFuncSetAttribute(loop_end, most, bytes);
    return rc;
}
