/* reference.c - the formulas of the model, in their order. Row vectors; a matrix is
 * [out][in] as stored; S is the number of positions, D the width. */
#include "tests/lib/reference_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- small formulas ---- */

static double dot(const float *a, const float *b, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)a[i] * b[i];
    return sum;
}

/* y = x W^T */
static void linear(const mat *weight, const float *x, float *y) {
    for (size_t i = 0; i < weight->rows; i++)
        y[i] = (float)dot(weight->values + i * weight->cols, x, weight->cols);
}

static void rms(const reference *ref, const float *x, const mat *weight, float *y) {
    double scale =
        1 / sqrt(dot(x, x, weight->cols) / (double)weight->cols + (double)ref->plan.norm_eps);
    for (size_t i = 0; i < weight->cols; i++)
        y[i] = (float)(x[i] * scale * weight->values[i]);
}

static double sigmoid(double x) {
    return 1 / (1 + exp(-x));
}

/* Rotates pairs of x [dim] by pos * theta^(-2j/dim): neighbours, or with `halves` a value and
 * the one half a head further. */
static void rope(float *x, uint32_t dim, uint32_t pos, double theta, bool halves) {
    for (uint32_t j = 0; j < dim / 2; j++) {
        float *re_at = x + (halves ? j : 2 * j), *im_at = x + (halves ? j + dim / 2 : 2 * j + 1);
        double turn = pos * pow(theta, -2.0 * j / dim), re = *re_at, im = *im_at;
        *re_at = (float)(re * cos(turn) - im * sin(turn));
        *im_at = (float)(re * sin(turn) + im * cos(turn));
    }
}

static void add(float *x, const float *y, size_t n) {
    for (size_t i = 0; i < n; i++)
        x[i] += y[i];
}

/* x += weight * down(silu(gate in) * up in) */
static void add_ffn(const ffn *net, const float *in, double weight, float *x) {
    size_t hidden = net->gate.rows, dim = net->down.rows;
    float *gate = ref__floats(hidden), *up = ref__floats(hidden), *y = ref__floats(dim);
    linear(&net->gate, in, gate);
    linear(&net->up, in, up);
    for (size_t i = 0; i < hidden; i++)
        gate[i] = (float)(gate[i] * sigmoid(gate[i]) * up[i]);
    linear(&net->down, gate, y);
    for (size_t i = 0; i < dim; i++)
        x[i] += (float)(weight * y[i]);
    free(gate);
    free(up);
    free(y);
}

static void add_moe(const reference *ref, const block *layer, const float *in, float *x) {
    const model_plan *plan = &ref->plan;
    uint32_t n = plan->n_experts, k = plan->n_experts_per_tok;
    float *logits = ref__floats(n);
    bool *taken = ref__alloc(n, sizeof *taken);
    uint32_t *pick = ref__alloc(k, sizeof *pick);
    linear(&layer->router, in, logits);
    double max = -INFINITY, sum = 0;
    for (uint32_t i = 0; i < k; i++) { /* ties: lower index */
        uint32_t best = n;
        for (uint32_t j = 0; j < n; j++) {
            if (taken[j]) continue;
            if (best == n || logits[j] + layer->router_bias.values[j] >
                                 logits[best] + layer->router_bias.values[best])
                best = j;
        }
        taken[best] = true;
        pick[i] = best;
        if (logits[best] > max) max = logits[best];
    }
    for (uint32_t i = 0; i < k; i++)
        sum += exp(logits[pick[i]] - max);
    for (uint32_t i = 0; i < k; i++)
        add_ffn(&layer->routed[pick[i]], in, exp(logits[pick[i]] - max) / sum, x);
    for (uint32_t i = 0; i < plan->n_shared_experts; i++)
        add_ffn(&layer->shared[i], in, 1, x);
    free(logits);
    free(taken);
    free(pick);
}

/* ---- attention ---- */

/* The keys and values of all positions at one depth, per head. */
typedef struct {
    float *keys, *values; /* [S][n_kv][k_dim], [S][n_kv][v_dim] */
    uint32_t n_kv, k_dim, v_dim;
} kv;

static kv kv_new(const model_plan *plan, uint32_t n) {
    bool mla = plan->attn == ATTN_MLA;
    kv store = {.n_kv = mla ? plan->n_heads : plan->n_kv_heads,
                .k_dim = mla ? plan->qk_nope_head_dim + plan->qk_rope_head_dim : plan->head_dim,
                .v_dim = mla ? plan->v_head_dim : plan->head_dim};
    store.keys = ref__floats((size_t)n * store.n_kv * store.k_dim);
    store.values = ref__floats((size_t)n * store.n_kv * store.v_dim);
    return store;
}

static void kv_free(kv *store) {
    free(store->keys);
    free(store->values);
}

/* K and V of position pos from its normed input x. */
static void write_kv(const reference *ref, const block *layer, kv *store, uint32_t pos,
                     const float *x) {
    const model_plan *plan = &ref->plan;
    float *keys = store->keys + (size_t)pos * store->n_kv * store->k_dim,
          *values = store->values + (size_t)pos * store->n_kv * store->v_dim;
    if (plan->attn == ATTN_GQA) {
        linear(&layer->wk, x, keys);
        linear(&layer->wv, x, values);
        for (uint32_t head = 0; head < store->n_kv; head++)
            rope(keys + head * store->k_dim, store->k_dim, pos, plan->rope_theta,
                 plan->rope_halves);
        return;
    }
    uint32_t nope = plan->qk_nope_head_dim, rot = plan->qk_rope_head_dim, rank = plan->kv_lora_rank;
    float *down = ref__floats(rank + rot), *latent = ref__floats(rank),
          *up = ref__floats(layer->kv_up.rows);
    linear(&layer->kv_down, x, down);
    rms(ref, down, &layer->kv_norm, latent);
    rope(down + rank, rot, pos, plan->rope_theta, plan->rope_halves);
    linear(&layer->kv_up, latent, up);
    for (uint32_t head = 0; head < store->n_kv; head++) { /* one rotated key, shared by all heads */
        const float *from = up + (size_t)head * (nope + store->v_dim);
        memcpy(keys + head * store->k_dim, from, nope * sizeof *keys);
        memcpy(keys + head * store->k_dim + nope, down + rank, rot * sizeof *keys);
        memcpy(values + head * store->v_dim, from + nope, store->v_dim * sizeof *values);
    }
    free(down);
    free(latent);
    free(up);
}

/* Queries [n_heads][k_dim] of position pos. */
static void make_query(const reference *ref, const block *layer, uint32_t pos, const float *x,
                       float *query) {
    const model_plan *plan = &ref->plan;
    if (plan->attn == ATTN_GQA) {
        linear(&layer->wq, x, query);
        for (uint32_t head = 0; head < plan->n_heads; head++) {
            rope(query + head * plan->head_dim, plan->head_dim, pos, plan->rope_theta,
                 plan->rope_halves);
        }
        return;
    }
    uint32_t nope = plan->qk_nope_head_dim, rot = plan->qk_rope_head_dim;
    float *down = ref__floats(plan->q_lora_rank), *plain = ref__floats(layer->q_up_nope.rows),
          *turned = ref__floats(layer->q_up_rope.rows);
    linear(&layer->q_down, x, down);
    rms(ref, down, &layer->q_norm, down);
    linear(&layer->q_up_nope, down, plain);
    linear(&layer->q_up_rope, down, turned);
    for (uint32_t head = 0; head < plan->n_heads; head++) {
        float *to = query + (size_t)head * (nope + rot);
        memcpy(to, plain + head * nope, nope * sizeof *query);
        memcpy(to + nope, turned + head * rot, rot * sizeof *query);
        rope(to + nope, rot, pos, plan->rope_theta, plan->rope_halves);
    }
    free(down);
    free(plain);
    free(turned);
}

/* Attention of position pos over positions 0..pos of s; the caller frees it. */
static float *attention_of(const reference *ref, const block *layer, const kv *store, uint32_t pos,
                           const float *in) {
    const model_plan *plan = &ref->plan;
    float *query = ref__floats((size_t)plan->n_heads * store->k_dim),
          *out = ref__floats((size_t)plan->n_heads * store->v_dim);
    double *prob = ref__alloc(pos + 1, sizeof *prob);
    make_query(ref, layer, pos, in, query);
    for (uint32_t head = 0; head < plan->n_heads; head++) {
        uint32_t kv_head = head / (plan->n_heads / store->n_kv);
        double max = -INFINITY, sum = 0;
        for (uint32_t j = 0; j <= pos; j++) {
            const float *key = store->keys + ((size_t)j * store->n_kv + kv_head) * store->k_dim;
            prob[j] =
                dot(query + (size_t)head * store->k_dim, key, store->k_dim) / sqrt(store->k_dim);
            if (prob[j] > max) max = prob[j];
        }
        for (uint32_t j = 0; j <= pos; j++)
            sum += prob[j] = exp(prob[j] - max);
        for (uint32_t i = 0; i < store->v_dim; i++) {
            double y = 0;
            for (uint32_t j = 0; j <= pos; j++) {
                y += prob[j] / sum *
                     store->values[((size_t)j * store->n_kv + kv_head) * store->v_dim + i];
            }
            out[(size_t)head * store->v_dim + i] = (float)y;
        }
    }
    float *y = ref__floats(plan->dim);
    linear(&layer->wo, out, y);
    free(query);
    free(out);
    free(prob);
    return y;
}

static float *ffn_of(const reference *ref, const block *layer, const float *in) {
    float *y = ref__floats(ref->plan.dim);
    if (layer->routed) add_moe(ref, layer, in, y);
    else add_ffn(&layer->dense, in, 1, y);
    return y;
}

/* x += y, with y normed first if the block norms the output of its sublayers. Frees y. */
static void add_sublayer(const reference *ref, const mat *out_norm, float *x, float *y) {
    if (out_norm->values) rms(ref, y, out_norm, y);
    add(x, y, ref->plan.dim);
    free(y);
}

/* Runs a block on the positions marked (all if run is NULL); x [S][D] in place. The K/V of
 * positions not run stay in s as they are. */
static void run_block(const reference *ref, const block *layer, kv *store, uint32_t n,
                      const bool *run, float *x) {
    size_t dim = ref->plan.dim;
    float *normed = ref__floats(n * dim), *in = ref__floats(dim);
    for (uint32_t pos = 0; pos < n; pos++) {
        if (run && !run[pos]) continue;
        rms(ref, x + pos * dim, &layer->attn_norm, normed + pos * dim);
        write_kv(ref, layer, store, pos, normed + pos * dim);
    }
    for (uint32_t pos = 0; pos < n; pos++) {
        if (run && !run[pos]) continue;
        add_sublayer(ref, &layer->attn_out_norm, x + pos * dim,
                     attention_of(ref, layer, store, pos, normed + pos * dim));
        rms(ref, x + pos * dim, &layer->ffn_norm, in);
        add_sublayer(ref, &layer->ffn_out_norm, x + pos * dim, ffn_of(ref, layer, in));
    }
    free(normed);
    free(in);
}

/* ---- the loop ---- */

typedef struct {
    float *state, *embed, *input, *out; /* [S][D] */
    double *cum;                        /* [S] */
    bool *runs, *computes;              /* [S] not halted; runs the core at this loop */
} seq_state;

/* u = rms(h + loop_emb(t) + e) */
static void loop_input(const reference *ref, uint32_t loop, const float *state, const float *embed,
                       float *out) {
    uint32_t dim = ref->plan.dim, n = dim / 8;
    float *sum = ref__floats(dim);
    for (uint32_t i = 0; i < dim; i++)
        sum[i] = state[i] + embed[i];
    uint32_t sines = (n + 1) / 2;
    for (uint32_t j = 0; j < sines; j++) {
        double angle = loop * pow(10000, -2.0 * j / n);
        sum[j] += (float)sin(angle);
        if (sines + j < n) sum[sines + j] += (float)cos(angle);
    }
    rms(ref, sum, &ref->loop_norm, out);
    free(sum);
}

/* y += ((y Ldown^T) * Lscale[min(t, rows - 1)]) LB */
static void add_lora(const reference *ref, uint32_t loop, float *y) {
    uint32_t rank = ref->plan.lora_rank, dim = ref->plan.dim;
    size_t row = loop < ref->lora_scale.rows ? loop : ref->lora_scale.rows - 1;
    float *low = ref__floats(rank);
    linear(&ref->lora_down, y, low);
    for (uint32_t j = 0; j < rank; j++)
        low[j] *= ref->lora_scale.values[row * rank + j];
    for (uint32_t i = 0; i < dim; i++) {
        double sum = 0;
        for (uint32_t j = 0; j < rank; j++)
            sum += (double)low[j] * ref->lora_B.values[(size_t)j * dim + i];
        y[i] += (float)sum;
    }
    free(low);
}

/* The state h after the core's output y: A h + B e + y, or just y; normed if the plan says so. */
static void new_state(const reference *ref, const float *embed, const float *y, float *state) {
    size_t dim = ref->plan.dim;
    for (size_t i = 0; i < dim; i++) {
        if (ref->plan.inject != INJECT_MYTHOS) {
            state[i] = y[i];
            continue;
        }
        double decay = ref->log_dt.values[0] + ref->log_A.values[i];
        decay = exp(-exp(decay < -20 ? -20 : decay > 20 ? 20 : decay));
        state[i] = (float)(decay * state[i] + (double)ref->inject_b.values[i] * embed[i] + y[i]);
    }
    if (ref->plan.loop_norm) rms(ref, state, &ref->loop_norm, state);
}

static void keep_margin(ref_result *res, double off) {
    if ((float)fabs(off) < res->margin) res->margin = (float)fabs(off);
}

/* The weight of this loop's state in the output. Halts the position if ACT says so. */
static double act(const ref_opts *opts, uint32_t loop, uint32_t pos, double halt, seq_state *seq,
                  ref_result *res) {
    double left = 1 - seq->cum[pos], share = halt;
    if (left < 0) left = 0;
    if (loop + 1 < opts->min_loops) {
        if (share > left) share = left;
        seq->cum[pos] += share;
        return share;
    }
    keep_margin(res, seq->cum[pos] + halt - (double)opts->threshold);
    if (seq->cum[pos] + halt >= (double)opts->threshold) {
        share = left;
        seq->runs[pos] = false;
    }
    seq->cum[pos] += halt;
    return share;
}

/* Halts the position when 1 - prod(1 - halt) reaches the threshold. A threshold of 1 never halts.
 */
static void hazard(const ref_opts *opts, uint32_t loop, uint32_t pos, double halt, seq_state *seq,
                   ref_result *res) {
    seq->cum[pos] = 1 - (1 - seq->cum[pos]) * (1 - halt);
    if (opts->threshold >= 1 || loop + 1 < opts->min_loops) return;
    keep_margin(res, seq->cum[pos] - (double)opts->threshold);
    if (seq->cum[pos] >= (double)opts->threshold) seq->runs[pos] = false;
}

/* Computes the new state and adds its part to the output; may halt the position. */
static void step_position(const reference *ref, const ref_opts *opts, uint32_t loop, uint32_t pos,
                          seq_state *seq, ref_result *res) {
    size_t dim = ref->plan.dim;
    float *state = seq->state + pos * dim;
    new_state(ref, seq->embed + pos * dim, seq->input + pos * dim, state);
    if (!seq->runs[pos]) return; /* halted: runs for its K/V only */
    double halt = sigmoid(dot(state, ref->exit_w.values, dim) + ref->exit_b.values[0]);
    res->depth[pos] = loop + 1;
    if (ref->plan.output == OUTPUT_STATE) {
        hazard(opts, loop, pos, halt, seq, res);
        memcpy(seq->out + pos * dim, state, dim * sizeof *state);
        return;
    }
    double share = act(opts, loop, pos, halt, seq, res);
    for (size_t i = 0; i < dim; i++)
        seq->out[pos * dim + i] += (float)(share * state[i]);
}

/* One K/V store per core layer serves all loops. A computing position overwrites its K/V at each
 * loop; under `last` a halted position keeps its last K/V. */
static void run_loops(const reference *ref, const ref_opts *opts, uint32_t n, seq_state *seq,
                      ref_result *res) {
    size_t dim = ref->plan.dim;
    kv *stores = ref__alloc(ref->plan.n_core, sizeof *stores);
    for (uint32_t i = 0; i < ref->plan.n_core; i++)
        stores[i] = kv_new(&ref->plan, n);
    uint32_t running = n;
    for (uint32_t pos = 0; pos < n; pos++)
        seq->runs[pos] = seq->computes[pos] = true;
    for (uint32_t loop = 0; loop < opts->max_loops && running > 0; loop++) {
        for (uint32_t pos = 0; pos < n; pos++) {
            if (opts->policy == KV_LAST) seq->computes[pos] = seq->runs[pos];
            if (!seq->computes[pos]) continue;
            if (ref->plan.inject == INJECT_MYTHOS)
                loop_input(ref, loop, seq->state + pos * dim, seq->embed + pos * dim,
                           seq->input + pos * dim);
            else memcpy(seq->input + pos * dim, seq->state + pos * dim, dim * sizeof *seq->input);
        }
        for (uint32_t i = 0; i < ref->plan.n_core; i++)
            run_block(ref, &ref->core[i], &stores[i], n, seq->computes, seq->input);
        running = 0;
        for (uint32_t pos = 0; pos < n; pos++) {
            if (!seq->computes[pos]) continue;
            if (ref->lora_down.values) add_lora(ref, loop, seq->input + pos * dim);
            step_position(ref, opts, loop, pos, seq, res);
            running += seq->runs[pos];
        }
    }
    for (uint32_t i = 0; i < ref->plan.n_core; i++)
        kv_free(&stores[i]);
    free(stores);
}

static void run_stage(const reference *ref, const block *blocks, uint32_t n_blocks, uint32_t n,
                      float *x) {
    for (uint32_t i = 0; i < n_blocks; i++) {
        kv store = kv_new(&ref->plan, n);
        run_block(ref, &blocks[i], &store, n, NULL, x);
        kv_free(&store);
    }
}

ref_result ref_run(const reference *ref, const uint32_t *ids, uint32_t n, const ref_opts *opts) {
    size_t dim = ref->plan.dim;
    ref_opts own = *opts;
    if (own.max_loops == 0) own.max_loops = ref->plan.loops_default;
    if (own.threshold == 0) own.threshold = ref->plan.exit_threshold;
    ref_result res = {.n = n, .vocab = ref->plan.vocab_size, .margin = 1};
    res.logits = ref__floats((size_t)n * res.vocab);
    res.depth = ref__alloc(n, sizeof *res.depth);
    seq_state seq = {ref__floats(n * dim), ref__floats(n * dim),          ref__floats(n * dim),
                     ref__floats(n * dim), ref__alloc(n, sizeof(double)), ref__alloc(n, 1),
                     ref__alloc(n, 1)};
    for (uint32_t pos = 0; pos < n; pos++)
        memcpy(seq.embed + pos * dim, ref->embed.values + ids[pos] * dim, dim * sizeof(float));
    run_stage(ref, ref->prelude, ref->plan.n_prelude, n, seq.embed);
    memcpy(seq.state, seq.embed, n * dim * sizeof(float));
    run_loops(ref, &own, n, &seq, &res);
    run_stage(ref, ref->coda, ref->plan.n_coda, n, seq.out);
    for (uint32_t pos = 0; pos < n; pos++) {
        if (ref->norm.values) rms(ref, seq.out + pos * dim, &ref->norm, seq.out + pos * dim);
        linear(&ref->head, seq.out + pos * dim, res.logits + (size_t)pos * res.vocab);
    }
    free(seq.state);
    free(seq.embed);
    free(seq.input);
    free(seq.out);
    free(seq.cum);
    free(seq.runs);
    free(seq.computes);
    return res;
}

void ref_result_deinit(ref_result *res) {
    free(res->logits);
    free(res->depth);
    *res = (ref_result){0};
}

double ref_relative_error(const float *a, const float *b, size_t n) {
    double worst = 0, largest = 0;
    for (size_t i = 0; i < n; i++) {
        double off = fabs((double)a[i] - b[i]);
        if (!(off <= worst)) worst = off; /* NaN counts as worst */
        if (fabs(b[i]) > largest) largest = fabs(b[i]);
    }
    return worst / largest;
}
