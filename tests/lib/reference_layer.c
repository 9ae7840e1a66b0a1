/* reference_layer.c - the formulas of a layer, in their order. Row vectors; a matrix is [out][in]
 * as stored; S is the number of positions, D the width. */
#include "tests/lib/reference_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- small formulas ---- */

double ref__dot(const float *a, const float *b, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)a[i] * b[i];
    return sum;
}

/* As ref_opts.nudge says. One run at a time. */
static float nudge;
static uint32_t nudge_pattern;

void ref__nudge(float share, uint32_t pattern) {
    nudge = share;
    nudge_pattern = pattern;
}

static bool moves_up(size_t i) {
    return ((uint32_t)i + nudge_pattern * 0x85ebca6bu) * 2654435761u >> 16 & 1;
}

static double sum_of_sizes(const float *a, const float *b, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += fabs((double)a[i] * b[i]);
    return sum;
}

/* y = x W^T */
void ref__linear(const mat *weight, const float *x, float *y) {
    for (size_t i = 0; i < weight->rows; i++) {
        const float *row = weight->values + i * weight->cols;
        double sum = ref__dot(row, x, weight->cols);
        if (nudge != 0)
            sum += (moves_up(i) ? 1 : -1) * (double)nudge * sum_of_sizes(row, x, weight->cols);
        y[i] = (float)sum;
    }
}

/* y = x / sqrt(mean(x^2) + eps), times the weight if there is one. */
static void norm(const float *x, size_t n, double eps, const float *weight, float *y) {
    double scale = 1 / sqrt(ref__dot(x, x, n) / (double)n + eps);
    for (size_t i = 0; i < n; i++)
        y[i] = (float)(x[i] * scale * (weight ? (double)weight[i] : 1));
}

void ref__rms(const reference *ref, const float *x, const mat *weight, float *y) {
    norm(x, weight->cols, (double)ref->plan.norm_eps, weight->values, y);
}

double ref__sigmoid(double x) {
    return 1 / (1 + exp(-x));
}

/* theta^(-2j/width), with Llama 3's scaling as its authors write it: in wavelengths. */
static double frequency(const model_plan *plan, uint32_t width, uint32_t j) {
    const double pi = 3.14159265358979323846;
    double plain = pow((double)plan->rope_theta, -2.0 * j / width), wave = 2 * pi / plain;
    double factor = (double)plan->scaling.factor, original = plan->scaling.original;
    double low = (double)plan->scaling.low, high = (double)plan->scaling.high;
    if (factor == 0 || wave < original / high) return plain;
    if (wave > original / low) return plain / factor;
    double smooth = (original / wave - low) / (high - low);
    return (1 - smooth) * plain / factor + smooth * plain;
}

/* Rotates the pairs of x by the position: neighbours, or a value and the one half a head further.
 */
static void rope(const model_plan *plan, float *x, uint32_t width, uint32_t pos) {
    for (uint32_t j = 0; j < width / 2; j++) {
        float *re_at = x + (plan->rope_halves ? j : 2 * j),
              *im_at = plan->rope_halves ? re_at + width / 2 : re_at + 1;
        double turn = pos * frequency(plan, width, j), re = *re_at, im = *im_at;
        *re_at = (float)(re * cos(turn) - im * sin(turn));
        *im_at = (float)(re * sin(turn) + im * cos(turn));
    }
}

static void add(float *x, const float *y, size_t n) {
    for (size_t i = 0; i < n; i++)
        x[i] += y[i];
}

/* x += weight * down(silu(gate in) * up in), or weight * down(0.5 relu(up in)^2) */
static void add_ffn(const ffn *net, const float *in, double weight, float *x) {
    size_t hidden = net->up.rows, dim = net->down.rows;
    float *gate = ref__floats(hidden), *up = ref__floats(hidden), *y = ref__floats(dim);
    if (net->gate.values) ref__linear(&net->gate, in, gate);
    ref__linear(&net->up, in, up);
    for (size_t i = 0; i < hidden; i++) {
        if (net->gate.values) up[i] = (float)(gate[i] * ref__sigmoid(gate[i]) * up[i]);
        else up[i] = up[i] > 0 ? (float)(0.5 * up[i] * up[i]) : 0;
    }
    ref__linear(&net->down, up, y);
    for (size_t i = 0; i < dim; i++)
        x[i] += (float)(weight * y[i]);
    free(gate);
    free(up);
    free(y);
}

/* The not yet taken expert with the highest biased logit; the lower index of equal ones. */
static uint32_t best_expert(const ref_layer *layer, uint32_t n, const float *logits,
                            const bool *taken) {
    uint32_t best = n;
    for (uint32_t j = 0; j < n; j++) {
        if (taken[j]) continue;
        if (best == n || logits[j] + layer->router_bias.values[j] >
                             logits[best] + layer->router_bias.values[best])
            best = j;
    }
    return best;
}

static void keep_router_margin(const ref_seq *seq, const ref_layer *layer, uint32_t last,
                               uint32_t next, const float *logits) {
    const float *bias = layer->router_bias.values;
    if (next == seq->ref->plan.n_experts) return;
    float gap = logits[last] + bias[last] - logits[next] - bias[next];
    if (gap < *seq->router_margin) *seq->router_margin = gap;
}

static void add_moe(const ref_seq *seq, const ref_layer *layer, const float *in, float *x) {
    const model_plan *plan = &seq->ref->plan;
    uint32_t n = plan->n_experts, k = plan->n_experts_per_tok;
    float *logits = ref__floats(n);
    bool *taken = ref__alloc(n, sizeof *taken);
    uint32_t *pick = ref__alloc(k, sizeof *pick);
    ref__linear(&layer->router, in, logits);
    double max = -INFINITY, sum = 0;
    for (uint32_t i = 0; i < k; i++) {
        pick[i] = best_expert(layer, n, logits, taken);
        taken[pick[i]] = true;
        if (logits[pick[i]] > max) max = logits[pick[i]];
    }
    keep_router_margin(seq, layer, pick[k - 1], best_expert(layer, n, logits, taken), logits);
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

kv ref__kv_new(const model_plan *plan, uint32_t n) {
    bool mla = plan->attn == ATTN_MLA;
    kv store = {.n_kv = mla ? plan->n_heads : plan->n_kv_heads,
                .k_dim = mla ? plan->qk_nope_head_dim + plan->qk_rope_head_dim : plan->head_dim,
                .v_dim = mla ? plan->v_head_dim : plan->head_dim};
    store.keys = ref__floats((size_t)n * store.n_kv * store.k_dim);
    store.values = ref__floats((size_t)n * store.n_kv * store.v_dim);
    return store;
}

void ref__kv_free(kv *store) {
    free(store->keys);
    free(store->values);
}

/* Queries or keys of n heads of a position: bias, full norm, RoPE, norm of each head. */
static void turn_heads(const model_plan *plan, uint32_t n, uint32_t pos, const mat *bias,
                       const mat *full, float *x) {
    uint32_t width = plan->head_dim;
    double eps = (double)plan->qk_norm_eps;
    if (bias->values) add(x, bias->values, (size_t)n * width);
    if (plan->qk_norm == QK_NORM_FULL) norm(x, (size_t)n * width, eps, full->values, x);
    for (uint32_t head = 0; head < n; head++) {
        float *at = x + (size_t)head * width;
        rope(plan, at, width, pos);
        if (plan->qk_norm == QK_NORM_HEAD_UNIT) norm(at, width, eps, NULL, at);
    }
}

/* v += 2 sigmoid(gate in[0..32]) table[token], one gate per head */
static void add_value_embedding(const ref_seq *seq, const ref_layer *layer, const kv *store,
                                uint32_t pos, const float *in, float *values) {
    const mat *gate = &layer->value_gate, *table = &layer->value_table;
    const float *row = table->values + seq->ids[pos] * table->cols;
    for (uint32_t head = 0; head < store->n_kv; head++) {
        double share = 2 * ref__sigmoid(ref__dot(gate->values + head * gate->cols, in, gate->cols));
        for (uint32_t i = head * store->v_dim; i < (head + 1) * store->v_dim; i++)
            values[i] += (float)(share * row[i]);
    }
}

/* K and V of position pos from the layer's input x. */
static void write_kv(const ref_seq *seq, const ref_layer *layer, kv *store, uint32_t pos,
                     const float *x) {
    const reference *ref = seq->ref;
    const model_plan *plan = &ref->plan;
    float *keys = store->keys + (size_t)pos * store->n_kv * store->k_dim,
          *values = store->values + (size_t)pos * store->n_kv * store->v_dim;
    if (plan->attn == ATTN_GQA) {
        ref__linear(&layer->wk, x, keys);
        ref__linear(&layer->wv, x, values);
        turn_heads(plan, store->n_kv, pos, &layer->k_bias, &layer->k_norm, keys);
        if (layer->value_table.values) add_value_embedding(seq, layer, store, pos, x, values);
        return;
    }
    uint32_t nope = plan->qk_nope_head_dim, rot = plan->qk_rope_head_dim, rank = plan->kv_lora_rank;
    float *down = ref__floats(rank + rot), *latent = ref__floats(rank),
          *up = ref__floats(layer->kv_up.rows);
    ref__linear(&layer->kv_down, x, down);
    ref__rms(ref, down, &layer->kv_norm, latent);
    rope(plan, down + rank, rot, pos);
    ref__linear(&layer->kv_up, latent, up);
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
static void make_query(const reference *ref, const ref_layer *layer, uint32_t pos, const float *x,
                       float *query) {
    const model_plan *plan = &ref->plan;
    if (plan->attn == ATTN_GQA) {
        ref__linear(&layer->wq, x, query);
        turn_heads(plan, plan->n_heads, pos, &layer->q_bias, &layer->q_norm, query);
        return;
    }
    uint32_t nope = plan->qk_nope_head_dim, rot = plan->qk_rope_head_dim;
    float *down = ref__floats(plan->q_lora_rank), *plain = ref__floats(layer->q_up_nope.rows),
          *turned = ref__floats(layer->q_up_rope.rows);
    ref__linear(&layer->q_down, x, down);
    ref__rms(ref, down, &layer->q_norm, down);
    ref__linear(&layer->q_up_nope, down, plain);
    ref__linear(&layer->q_up_rope, down, turned);
    for (uint32_t head = 0; head < plan->n_heads; head++) {
        float *to = query + (size_t)head * (nope + rot);
        memcpy(to, plain + head * nope, nope * sizeof *query);
        memcpy(to + nope, turned + head * rot, rot * sizeof *query);
        rope(plan, to + nope, rot, pos);
    }
    free(down);
    free(plain);
    free(turned);
}

/* Attention of position pos over positions 0..pos of s; the caller frees it. */
static float *attention_of(const reference *ref, const ref_layer *layer, const kv *store,
                           uint32_t pos, const float *in) {
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
            prob[j] = ref__dot(query + (size_t)head * store->k_dim, key, store->k_dim) /
                      sqrt(store->k_dim);
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
    ref__linear(&layer->wo, out, y);
    free(query);
    free(out);
    free(prob);
    return y;
}

static float *ffn_of(const ref_seq *seq, const ref_layer *layer, const float *in) {
    float *y = ref__floats(seq->ref->plan.dim);
    if (layer->routed) add_moe(seq, layer, in, y);
    else add_ffn(&layer->dense, in, 1, y);
    return y;
}

/* The input of a sublayer: n x, or x itself in a layer without such a norm. */
static void sublayer_input(const reference *ref, const mat *in_norm, const float *x, float *in) {
    if (in_norm->values) ref__rms(ref, x, in_norm, in);
    else memcpy(in, x, ref->plan.dim * sizeof *in);
}

/* x += y; x += n y; or x = n(x + y), as the layer is built. Frees y. */
static void add_sublayer(const reference *ref, const mat *out_norm, float *x, float *y) {
    norm_place norms = ref->plan.norms;
    if (norms == NORM_SANDWICH || norms == NORM_POST) ref__rms(ref, y, out_norm, y);
    add(x, y, ref->plan.dim);
    if (norms == NORM_AFTER) ref__rms(ref, x, out_norm, x);
    free(y);
}

void ref__run_layer(const ref_seq *seq, const ref_layer *layer, kv *store, const bool *run,
                    float *x) {
    const reference *ref = seq->ref;
    size_t dim = ref->plan.dim;
    float *normed = ref__floats(seq->n * dim), *in = ref__floats(dim);
    for (uint32_t pos = 0; pos < seq->n; pos++) {
        if (run && !run[pos]) continue;
        sublayer_input(ref, &layer->attn_norm, x + pos * dim, normed + pos * dim);
        write_kv(seq, layer, store, pos, normed + pos * dim);
    }
    for (uint32_t pos = 0; pos < seq->n; pos++) {
        if (run && !run[pos]) continue;
        add_sublayer(ref, &layer->attn_out_norm, x + pos * dim,
                     attention_of(ref, layer, store, pos, normed + pos * dim));
        sublayer_input(ref, &layer->ffn_norm, x + pos * dim, in);
        add_sublayer(ref, &layer->ffn_out_norm, x + pos * dim, ffn_of(seq, layer, in));
    }
    free(normed);
    free(in);
}
