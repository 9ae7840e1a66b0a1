/* reference.c - the loop of the model: injection, exit rules and outputs, from the formulas. S is
 * the number of positions, D the width. */
#include "engine/rowmath.h"

#include "tests/lib/reference_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    ref_seq seq;
    ref_opts opts;
    ref_result *res;
    float *state, *embed, *input, *out; /* [S][D] */
    double *cum;                        /* [S] */
    bool *runs, *computes;              /* [S] not halted; runs the core at this loop */
} run;

/* ---- the first state ---- */

/* The u-quantile of the normal distribution, by bisection. */
static double normal_quantile(double u) {
    double low = -9, high = 9;
    for (int i = 0; i < 80; i++) {
        double mid = (low + high) / 2;
        if (0.5 * erfc(-mid / sqrt(2)) < u) low = mid;
        else high = mid;
    }
    return low;
}

/* A normal draw cut at 3 std. The random bits are Fathom's own choice; their use is not. */
static float seeded_state(uint32_t pos, uint32_t channel, double std) {
    double below = 0.5 * erfc(3 / sqrt(2));
    double u = rm_uniform(RM_STATE_SEED, (uint64_t)pos << 32 | channel);
    return (float)(normal_quantile(below + u * (1 - 2 * below)) * std);
}

static void start_state(const run *now, state_start kind) {
    const model_plan *plan = &now->seq.ref->plan;
    uint32_t dim = plan->dim;
    for (uint32_t pos = 0; pos < now->seq.n; pos++) {
        float *state = now->state + (size_t)pos * dim;
        for (uint32_t i = 0; i < dim; i++) {
            if (kind == STATE_EMBEDDING) state[i] = now->embed[(size_t)pos * dim + i];
            if (kind == STATE_SEEDED) state[i] = seeded_state(pos, i, (double)plan->state0_std);
        }
    }
}

/* ---- injection ---- */

/* u = rms(h + loop_emb(t) + e) */
static void mythos_input(const reference *ref, uint32_t loop, const float *state,
                         const float *embed, float *out) {
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
    ref__rms(ref, sum, &ref->loop_norm, out);
    free(sum);
}

/* W [h; e] */
static void linear_input(const reference *ref, const float *state, const float *embed, float *out) {
    size_t dim = ref->plan.dim;
    float *both = ref__floats(2 * dim);
    memcpy(both, state, dim * sizeof *both);
    memcpy(both + dim, embed, dim * sizeof *both);
    ref__linear(&ref->inject, both, out);
    free(both);
}

/* exp(-dt exp(A)) h + dt (B e) */
static void diagonal_input(const reference *ref, const float *state, const float *embed,
                           float *out) {
    size_t dim = ref->plan.dim;
    float *product = ref__floats(dim);
    ref__linear(&ref->inject, embed, product);
    for (size_t i = 0; i < dim; i++) {
        double step = log(1 + exp((double)ref->log_dt.values[i]));
        double keep = exp(-step * exp((double)ref->log_A.values[i]));
        out[i] = (float)(keep * state[i] + step * product[i]);
    }
    free(product);
}

/* The input of the core. */
static void loop_input(const run *now, uint32_t loop, uint32_t pos) {
    const reference *ref = now->seq.ref;
    size_t dim = ref->plan.dim;
    const float *state = now->state + pos * dim, *embed = now->embed + pos * dim;
    float *out = now->input + pos * dim;
    switch (ref->plan.inject) {
    case INJECT_NONE: memcpy(out, state, dim * sizeof *out); break;
    case INJECT_MYTHOS: mythos_input(ref, loop, state, embed, out); break;
    case INJECT_LINEAR: linear_input(ref, state, embed, out); break;
    case INJECT_DIAGONAL: diagonal_input(ref, state, embed, out); break;
    }
}

/* y += ((y Ldown^T) * Lscale[min(t, rows - 1)]) LB */
static void add_lora(const reference *ref, uint32_t loop, float *y) {
    uint32_t rank = ref->plan.lora_rank, dim = ref->plan.dim;
    size_t row = loop < ref->lora_scale.rows ? loop : ref->lora_scale.rows - 1;
    float *low = ref__floats(rank);
    ref__linear(&ref->lora_down, y, low);
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
    if (ref->plan.loop_norm) ref__rms(ref, state, &ref->loop_norm, state);
}

/* ---- exit rules: true if the position leaves ---- */

static void keep_margin(const run *now, double off) {
    if ((float)fabs(off) < now->res->margin) now->res->margin = (float)fabs(off);
}

static bool may_leave(const run *now, uint32_t loop, uint32_t pos) {
    const ref_opts *opts = &now->opts;
    uint32_t least = opts->min_loops;
    if (pos < opts->n_prompt && opts->prompt_min_loops > least) least = opts->prompt_min_loops;
    if (least > opts->max_loops) least = opts->max_loops;
    return loop + 1 >= least;
}

static double gate_of(const reference *ref, const float *state) {
    return ref__sigmoid(ref__dot(state, ref->exit_w.values, ref->plan.dim) +
                        (double)ref->exit_b.values[0]);
}

/* *share is the weight of this loop's state in the output. */
static bool act(run *now, uint32_t loop, uint32_t pos, double halt, double *share) {
    double threshold = (double)now->opts.threshold, left = 1 - now->cum[pos];
    bool enough = false;
    if (left < 0) left = 0;
    *share = halt;
    if (!may_leave(now, loop, pos)) {
        if (*share > left) *share = left;
        now->cum[pos] += *share;
        return false;
    }
    keep_margin(now, now->cum[pos] + halt - threshold);
    if (now->cum[pos] + halt >= threshold) {
        *share = left;
        enough = true;
    }
    now->cum[pos] += halt;
    return enough;
}

/* 1 - prod(1 - halt) reaches the threshold. A threshold of 1 means never. */
static bool hazard(run *now, uint32_t loop, uint32_t pos, double halt) {
    double threshold = (double)now->opts.threshold;
    now->cum[pos] = 1 - (1 - now->cum[pos]) * (1 - halt);
    if (threshold >= 1 || !may_leave(now, loop, pos)) return false;
    keep_margin(now, now->cum[pos] - threshold);
    return now->cum[pos] >= threshold;
}

/* |h - before| / |h|, or 1 - cos(h, before). Without a direction there is no cosine. */
static double change(exit_rule rule, const float *state, const float *before, size_t n) {
    double diff = 0, now = ref__dot(state, state, n), old = ref__dot(before, before, n);
    for (size_t i = 0; i < n; i++)
        diff += ((double)state[i] - before[i]) * ((double)state[i] - before[i]);
    if (rule == EXIT_LATENT_DIFF) return sqrt(diff / now);
    return old > 0 && now > 0 ? 1 - ref__dot(state, before, n) / sqrt(now * old) : INFINITY;
}

static bool leaves(run *now, uint32_t loop, uint32_t pos, const float *before, double *share) {
    const reference *ref = now->seq.ref;
    const float *state = now->state + (size_t)pos * ref->plan.dim;
    double value;
    switch (now->opts.exit) {
    case EXIT_ACT: return act(now, loop, pos, gate_of(ref, state), share);
    case EXIT_HAZARD: return hazard(now, loop, pos, gate_of(ref, state));
    case EXIT_FIXED: return false;
    case EXIT_LATENT_DIFF:
    case EXIT_COSINE: break;
    }
    if (!may_leave(now, loop, pos)) return false;
    value = change(now->opts.exit, state, before, ref->plan.dim);
    keep_margin(now, value - (double)now->opts.threshold);
    return value < (double)now->opts.threshold;
}

/* Computes the new state and adds its part to the output; may halt the position. */
static void step_position(run *now, uint32_t loop, uint32_t pos) {
    const reference *ref = now->seq.ref;
    size_t dim = ref->plan.dim;
    float *state = now->state + pos * dim, *out = now->out + pos * dim, *before = ref__floats(dim);
    double share = 0;
    memcpy(before, state, dim * sizeof *before);
    new_state(ref, now->embed + pos * dim, now->input + pos * dim, state);
    if (now->runs[pos]) { /* else it runs for its K/V only */
        now->res->depth[pos] = loop + 1;
        now->runs[pos] = !leaves(now, loop, pos, before, &share);
        for (size_t i = 0; i < dim; i++) {
            if (ref->plan.output == OUTPUT_STATE) out[i] = state[i];
            else out[i] += (float)(share * state[i]);
        }
    }
    free(before);
}

/* ---- loops ---- */

/* One K/V store per core layer serves all loops. A computing position overwrites its K/V at each
 * loop; under `last` a halted position keeps its last K/V. */
static void run_loops(run *now) {
    const reference *ref = now->seq.ref;
    size_t dim = ref->plan.dim;
    kv *stores = ref__alloc(ref->plan.n_core, sizeof *stores);
    uint32_t n = now->seq.n, running = n;
    for (uint32_t i = 0; i < ref->plan.n_core; i++)
        stores[i] = ref__kv_new(&ref->plan, n);
    for (uint32_t pos = 0; pos < n; pos++)
        now->runs[pos] = now->computes[pos] = true;
    for (uint32_t loop = 0; loop < now->opts.max_loops && running > 0; loop++) {
        for (uint32_t pos = 0; pos < n; pos++) {
            if (now->opts.policy == KV_LAST) now->computes[pos] = now->runs[pos];
            if (now->computes[pos]) loop_input(now, loop, pos);
        }
        for (uint32_t i = 0; i < ref->plan.n_core; i++)
            ref__run_layer(&now->seq, &ref->core[i], &stores[i], now->computes, now->input);
        running = 0;
        for (uint32_t pos = 0; pos < n; pos++) {
            if (!now->computes[pos]) continue;
            if (ref->lora_down.values) add_lora(ref, loop, now->input + pos * dim);
            step_position(now, loop, pos);
            running += now->runs[pos];
        }
    }
    for (uint32_t i = 0; i < ref->plan.n_core; i++)
        ref__kv_free(&stores[i]);
    free(stores);
}

/* ---- policy collapse ---- */

/* Copies the keys and values of one position from store to store. */
static void copy_position(const kv *from, kv *to, uint32_t pos) {
    size_t n_keys = (size_t)to->n_kv * to->k_dim, n_values = (size_t)to->n_kv * to->v_dim;
    memcpy(to->keys + pos * n_keys, from->keys + pos * n_keys, n_keys * sizeof *to->keys);
    memcpy(to->values + pos * n_values, from->values + pos * n_values,
           n_values * sizeof *to->values);
}

/* One loop of one position in one core layer, which reads the stores of this loop or, of collapsed
 * positions, of the deepest loop. A position is collapsed if the positions from it to the reader
 * ran max_loops loops in all, the reader's own included; began[] counts loops before each. */
static void run_reader(run *now, uint32_t layer, uint32_t loop, uint32_t pos, kv *const *stores,
                       const uint32_t *began) {
    const reference *ref = now->seq.ref;
    uint32_t most = now->opts.max_loops;
    kv view = ref__kv_new(&ref->plan, now->seq.n);
    for (uint32_t i = 0; i < pos; i++) {
        bool collapsed = i >= now->opts.n_prompt && began[pos] + loop >= began[i] + most;
        copy_position(&stores[collapsed ? most - 1 : loop][layer], &view, i);
    }
    ref__run_layer(&now->seq, &ref->core[layer], &view, now->computes, now->input);
    copy_position(&view, &stores[loop][layer], pos);
    ref__kv_free(&view);
}

static void run_position(run *now, uint32_t pos, kv *const *stores, const uint32_t *began) {
    const reference *ref = now->seq.ref;
    now->runs[pos] = now->computes[pos] = true;
    for (uint32_t loop = 0; loop < now->opts.max_loops; loop++) {
        loop_input(now, loop, pos);
        for (uint32_t i = 0; i < ref->plan.n_core; i++)
            run_reader(now, i, loop, pos, stores, began);
        if (ref->lora_down.values) add_lora(ref, loop, now->input + (size_t)pos * ref->plan.dim);
        step_position(now, loop, pos);
    }
    now->computes[pos] = false;
}

/* Position after position, with the keys and values of every loop. */
static void run_collapsing(run *now) {
    const reference *ref = now->seq.ref;
    uint32_t n = now->seq.n, loops = now->opts.max_loops, n_core = ref->plan.n_core;
    uint32_t *began = ref__alloc(n, sizeof *began);
    kv **stores = ref__alloc(loops, sizeof *stores);
    for (uint32_t loop = 0; loop < loops; loop++) {
        stores[loop] = ref__alloc(n_core, sizeof **stores);
        for (uint32_t i = 0; i < n_core; i++)
            stores[loop][i] = ref__kv_new(&ref->plan, n);
    }
    for (uint32_t pos = 0; pos < n; pos++) {
        if (pos > now->opts.n_prompt) began[pos] = began[pos - 1] + now->res->depth[pos - 1];
        run_position(now, pos, stores, began);
    }
    for (uint32_t loop = 0; loop < loops; loop++) {
        for (uint32_t i = 0; i < n_core; i++)
            ref__kv_free(&stores[loop][i]);
        free(stores[loop]);
    }
    free(stores);
    free(began);
}

/* ---- the whole ---- */

static void run_stage(const ref_seq *seq, const ref_layer *layers, uint32_t n_layers, float *x) {
    for (uint32_t i = 0; i < n_layers; i++) {
        kv store = ref__kv_new(&seq->ref->plan, seq->n);
        ref__run_layer(seq, &layers[i], &store, NULL, x);
        ref__kv_free(&store);
    }
}

static void run_prelude(const run *now) {
    const reference *ref = now->seq.ref;
    size_t dim = ref->plan.dim;
    for (uint32_t pos = 0; pos < now->seq.n; pos++) {
        for (size_t i = 0; i < dim; i++)
            now->embed[pos * dim + i] =
                ref->embed.values[now->seq.ids[pos] * dim + i] * ref->plan.embed_scale;
    }
    run_stage(&now->seq, ref->prelude, ref->plan.n_prelude, now->embed);
    for (uint32_t pos = 0; ref->input_norm.values && pos < now->seq.n; pos++)
        ref__rms(ref, now->embed + pos * dim, &ref->input_norm, now->embed + pos * dim);
}

static void run_coda(const run *now) {
    const reference *ref = now->seq.ref;
    size_t dim = ref->plan.dim;
    float *from = ref__floats(dim);
    for (uint32_t pos = 0; pos < now->seq.n; pos++) {
        float *x = now->out + pos * dim;
        memcpy(from, x, dim * sizeof *from);
        if (ref->plan.coda_in == CODA_IN_NORM) ref__rms(ref, from, &ref->norm, x);
        if (ref->plan.coda_in == CODA_IN_LINEAR) ref__linear(&ref->coda_in, from, x);
    }
    run_stage(&now->seq, ref->coda, ref->plan.n_coda, now->out);
    for (uint32_t pos = 0; pos < now->seq.n; pos++) {
        float *x = now->out + pos * dim;
        if (ref->norm.values) ref__rms(ref, x, &ref->norm, x);
        ref__linear(&ref->head, x, now->res->logits + (size_t)pos * now->res->vocab);
    }
    free(from);
}

ref_result ref_run(const reference *ref, const uint32_t *ids, uint32_t n, const ref_opts *opts) {
    size_t values = (size_t)n * ref->plan.dim;
    ref_result res = {.n = n, .vocab = ref->plan.vocab_size, .margin = 1, .router_margin = 1};
    res.logits = ref__floats((size_t)n * res.vocab);
    res.depth = ref__alloc(n, sizeof *res.depth);
    run now = {.seq = {ref, ids, n, &res.router_margin},
               .opts = *opts,
               .res = &res,
               .state = ref__floats(values),
               .embed = ref__floats(values),
               .input = ref__floats(values),
               .out = ref__floats(values),
               .cum = ref__alloc(n, sizeof(double)),
               .runs = ref__alloc(n, 1),
               .computes = ref__alloc(n, 1)};
    if (opts->max_loops == 0) now.opts.max_loops = ref->plan.loops_default;
    if (opts->threshold == 0) now.opts.threshold = ref->plan.exit_threshold;
    if (!opts->own_exit) now.opts.exit = ref->plan.exit;
    ref__nudge(opts->nudge, opts->nudge_pattern);
    run_prelude(&now);
    start_state(&now, opts->own_state0 ? opts->state0 : ref->plan.state0);
    if (now.opts.policy == KV_COLLAPSE) run_collapsing(&now);
    else run_loops(&now);
    run_coda(&now);
    free(now.state);
    free(now.embed);
    free(now.input);
    free(now.out);
    free(now.cum);
    free(now.runs);
    free(now.computes);
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
