/* plan.c - the requests and their times, computed from options and seed only. */
#include "base/hash.h"
#include "base/size.h"
#include "loadgen/loadgen_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- random numbers: xoshiro256++ seeded by splitmix64 ---- */

void bench_rng_seed(bench_rng *rng, uint64_t seed) {
    for (int i = 0; i < 4; i++) {
        seed += HASH_STEP;
        rng->state[i] = hash_mix(seed);
    }
}

static uint64_t rotl(uint64_t x, int k) {
    return (x << k) | (x >> (64 - k));
}

uint64_t bench_rng_next(bench_rng *rng) {
    uint64_t *state = rng->state, out = rotl(state[0] + state[3], 23) + state[0],
             t = state[1] << 17;
    state[2] ^= state[0];
    state[3] ^= state[1];
    state[1] ^= state[2];
    state[0] ^= state[3];
    state[2] ^= t;
    state[3] = rotl(state[3], 45);
    return out;
}

double bench_rng_unit(bench_rng *rng) {
    return ((double)(bench_rng_next(rng) >> 11) + 0.5) * 0x1p-53;
}

uint64_t bench_rng_below(bench_rng *rng, uint64_t n) {
    return (uint64_t)(((unsigned __int128)bench_rng_next(rng) * n) >> 64);
}

static double normal(bench_rng *rng) {
    return sqrt(-2 * log(bench_rng_unit(rng))) * cos(6.283185307179586 * bench_rng_unit(rng));
}

/* Marsaglia and Tsang (2000); a shape below 1 is lifted by 1 and scaled back. */
double bench_rng_gamma(bench_rng *rng, double shape) {
    if (shape < 1) {
        double u = bench_rng_unit(rng);
        return bench_rng_gamma(rng, shape + 1) * pow(u, 1 / shape);
    }
    double d = shape - 1.0 / 3, c = 1 / sqrt(9 * d);
    for (;;) {
        double x = normal(rng), value = 1 + c * x;
        if (value <= 0) continue;
        value = value * value * value;
        if (log(bench_rng_unit(rng)) < 0.5 * x * x + d - d * value + d * log(value))
            return d * value;
    }
}

/* ---- arrival times ---- */

/* Gaps are gamma-distributed with shape `burstiness`: 1 is Poisson, less is burstier, more is more
 * even. Without a ramp the times are scaled so that the last one is n / rate, as in vLLM: then two
 * seeds give the same load. */
static void plan_times(bench_plan *plan, const bench_opts *opts, bench_rng *rng) {
    if (opts->self_timed || (!opts->ramp && isinf(opts->rate))) return;
    double at = 0;
    for (size_t i = 0; i < plan->n_reqs; i++) {
        double rate = opts->rate;
        if (opts->ramp) {
            double part = plan->n_reqs > 1 ? (double)i / (double)(plan->n_reqs - 1) : 0;
            rate = opts->ramp_exponential
                       ? opts->ramp_start * pow(opts->ramp_end / opts->ramp_start, part)
                       : opts->ramp_start + (opts->ramp_end - opts->ramp_start) * part;
        }
        at += bench_rng_gamma(rng, opts->burstiness) / (rate * opts->burstiness);
        plan->reqs[i].at_s = at;
    }
    if (opts->ramp || at <= 0) return;
    double scale = (double)plan->n_reqs / opts->rate / at;
    for (size_t i = 0; i < plan->n_reqs; i++)
        plan->reqs[i].at_s *= scale;
}

/* ---- the plan ---- */

static int plan_gaps(bench_plan *plan, err *e) {
    size_t total = 0;
    for (size_t i = 0; i < plan->n_reqs; i++) {
        bench_req *req = &plan->reqs[i];
        req->gaps_max =
            req->output_len + 8; /* besides the tokens there are a role chunk and a last chunk */
        if (!size_add(total, req->gaps_max, &total))
            return err_set(e, ERR_NO_MEMORY, NULL, "the requests ask for too many tokens in all");
    }
    plan->gaps = array_new(total, sizeof(float));
    if (plan->gaps == NULL) {
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the latencies of %zu tokens",
                       total);
    }
    float *at = plan->gaps;
    for (size_t i = 0; i < plan->n_reqs; i++) {
        plan->reqs[i].gaps = at;
        at += plan->reqs[i].gaps_max;
    }
    return 0;
}

int bench_plan_create(bench_plan *out, const bench_opts *opts, err *e) {
    *out = (bench_plan){.n_reqs = opts->n_prompts};
    out->reqs = array_new(out->n_reqs, sizeof *out->reqs);
    if (out->reqs == NULL)
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for %zu requests", out->n_reqs);
    bench_rng rng;
    bench_rng_seed(&rng, opts->seed);
    int rc = bench_prompts(out, opts, &rng, e);
    if (rc == 0) rc = plan_gaps(out, e);
    if (rc != 0) {
        bench_plan_destroy(out);
        return -1;
    }
    /* Separate generators keep times and cancels independent of how prompts are made. */
    bench_rng_seed(&rng, opts->seed + 1);
    plan_times(out, opts, &rng);
    bench_rng_seed(&rng, opts->seed + 2);
    for (size_t i = 0; i < out->n_reqs; i++) {
        bench_req *req = &out->reqs[i];
        bool leaves = bench_rng_unit(&rng) < opts->cancel_rate;
        uint64_t most = req->output_len > 1 ? req->output_len - 1 : 1;
        uint32_t after = (uint32_t)(1 + bench_rng_below(&rng, most));
        if (leaves) req->cancel_after = after;
    }
    return 0;
}

void bench_plan_destroy(bench_plan *plan) {
    for (size_t i = 0; plan->reqs && i < plan->n_reqs; i++) {
        free(plan->reqs[i].ids);
        free(plan->reqs[i].text);
        buf_deinit(&plan->reqs[i].reply);
    }
    free(plan->reqs);
    free(plan->gaps);
    free(plan->prefix);
    *plan = (bench_plan){0};
}

/* ---- bodies ---- */

static void real(buf *out, const char *key, double value) {
    if (!isnan(value)) buf_printf(out, ",\"%s\":%g", key, value);
}

static void prompt(buf *out, const bench_req *req, bool chat) {
    if (chat) {
        buf_puts(out, ",\"messages\":[{\"role\":\"user\",\"content\":");
        buf_json_text(out, req->text);
        buf_printf(out, "}],\"max_completion_tokens\":%u", req->output_len);
        return;
    }
    buf_puts(out, ",\"prompt\":");
    if (req->text) {
        buf_json_text(out, req->text);
    } else {
        for (uint32_t k = 0; k < req->input_len; k++)
            buf_printf(out, "%c%u", k ? ',' : '[', req->ids[k]);
        buf_puts(out, "]");
    }
    buf_printf(out, ",\"max_tokens\":%u", req->output_len);
}

/* Keys of --extra-body replace keys of the same name: strict servers refuse a repeated key. */
static int merge(buf *out, const json_t *extra, err *e) {
    json_error_t why;
    json_t *body = json_loadb(out->data, out->len, 0, &why);
    int rc = body && json_object_update(body, (json_t *)(uintptr_t)extra) == 0 ? 0 : -1;
    char *text = rc == 0 ? json_dumps(body, JSON_COMPACT) : NULL;
    json_decref(body);
    if (text == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for a request body");
    buf_clear(out);
    buf_puts(out, text);
    free(text);
    return 0;
}

int bench_plan_body(const bench_opts *opts, const bench_req *req, buf *out, err *e) {
    buf_clear(out);
    buf_puts(out, "{\"model\":");
    buf_json_text(out, opts->model);
    prompt(out, req, opts->chat);
    buf_puts(out, ",\"stream\":true,\"stream_options\":{\"include_usage\":true}");
    real(out, "temperature", opts->temperature);
    real(out, "top_p", opts->top_p);
    real(out, "min_p", opts->min_p);
    real(out, "repetition_penalty", opts->repetition_penalty);
    real(out, "presence_penalty", opts->presence_penalty);
    real(out, "frequency_penalty", opts->frequency_penalty);
    if (opts->top_k) buf_printf(out, ",\"top_k\":%lld", (long long)opts->top_k);
    if (opts->ignore_eos) buf_puts(out, ",\"ignore_eos\":true");
    if (opts->return_depth) buf_puts(out, ",\"return_depth\":true");
    if (opts->want_logprobs && opts->chat)
        buf_printf(out, ",\"logprobs\":true,\"top_logprobs\":%llu",
                   (unsigned long long)opts->logprobs);
    if (opts->want_logprobs && !opts->chat)
        buf_printf(out, ",\"logprobs\":%llu", (unsigned long long)opts->logprobs);
    buf_puts(out, "}");
    if (out->failed) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for a request body");
    return opts->extra_body ? merge(out, opts->extra_body, e) : 0;
}
