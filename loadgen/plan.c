/* plan.c - what will be asked and when, as a pure function of options and seed. */
#include "base/hash.h"
#include "base/size.h"
#include "loadgen/loadgen_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- random numbers: xoshiro256++ seeded by splitmix64 ---- */

void bench_rng_seed(bench_rng *r, uint64_t seed) {
    for (int i = 0; i < 4; i++) {
        seed += HASH_STEP;
        r->s[i] = hash_mix(seed);
    }
}

static uint64_t rotl(uint64_t x, int k) {
    return (x << k) | (x >> (64 - k));
}

uint64_t bench_rng_next(bench_rng *r) {
    uint64_t *s = r->s, out = rotl(s[0] + s[3], 23) + s[0], t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotl(s[3], 45);
    return out;
}

double bench_rng_unit(bench_rng *r) {
    return ((double)(bench_rng_next(r) >> 11) + 0.5) * 0x1p-53;
}

uint64_t bench_rng_below(bench_rng *r, uint64_t n) {
    return (uint64_t)(((unsigned __int128)bench_rng_next(r) * n) >> 64);
}

static double normal(bench_rng *r) {
    return sqrt(-2 * log(bench_rng_unit(r))) * cos(6.283185307179586 * bench_rng_unit(r));
}

/* Marsaglia and Tsang (2000); a shape below 1 is lifted by 1 and scaled back. */
double bench_rng_gamma(bench_rng *r, double shape) {
    if (shape < 1) {
        double u = bench_rng_unit(r);
        return bench_rng_gamma(r, shape + 1) * pow(u, 1 / shape);
    }
    double d = shape - 1.0 / 3, c = 1 / sqrt(9 * d);
    for (;;) {
        double x = normal(r), v = 1 + c * x;
        if (v <= 0) continue;
        v = v * v * v;
        if (log(bench_rng_unit(r)) < 0.5 * x * x + d - d * v + d * log(v)) return d * v;
    }
}

/* ---- arrival times ---- */

/* Gamma gaps of shape `burstiness`: 1 is Poisson, below 1 bursts, above 1 evens out. Without
 * a ramp the times are scaled so that the last one stands at n / rate, as vLLM does: two
 * seeds then ask for the same load. */
static void plan_times(bench_plan *p, const bench_opts *o, bench_rng *rng) {
    if (o->self_timed || (!o->ramp && isinf(o->rate))) return;
    double at = 0;
    for (size_t i = 0; i < p->n; i++) {
        double rate = o->rate;
        if (o->ramp) {
            double part = p->n > 1 ? (double)i / (double)(p->n - 1) : 0;
            rate = o->ramp_exponential ? o->ramp_start * pow(o->ramp_end / o->ramp_start, part)
                                       : o->ramp_start + (o->ramp_end - o->ramp_start) * part;
        }
        at += bench_rng_gamma(rng, o->burstiness) / (rate * o->burstiness);
        p->reqs[i].at_s = at;
    }
    if (o->ramp || at <= 0) return;
    double scale = (double)p->n / o->rate / at;
    for (size_t i = 0; i < p->n; i++)
        p->reqs[i].at_s *= scale;
}

/* ---- the plan ---- */

static int plan_gaps(bench_plan *p, err *e) {
    size_t total = 0;
    for (size_t i = 0; i < p->n; i++) {
        bench_req *r = &p->reqs[i];
        r->gaps_max = r->output_len + 8; /* a role chunk and a closing chunk besides the tokens */
        if (!size_add(total, r->gaps_max, &total))
            return err_set(e, ERR_NO_MEMORY, NULL, "the requests ask for too many tokens in all");
    }
    p->gaps = array_new(total, sizeof(float));
    if (p->gaps == NULL) {
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the latencies of %zu tokens",
                       total);
    }
    float *at = p->gaps;
    for (size_t i = 0; i < p->n; i++) {
        p->reqs[i].gaps = at;
        at += p->reqs[i].gaps_max;
    }
    return 0;
}

int bench_plan_create(bench_plan *out, const bench_opts *o, err *e) {
    *out = (bench_plan){.n = o->n_prompts};
    out->reqs = array_new(out->n, sizeof *out->reqs);
    if (out->reqs == NULL)
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for %zu requests", out->n);
    bench_rng rng;
    bench_rng_seed(&rng, o->seed);
    int rc = bench_prompts(out, o, &rng, e);
    if (rc == 0) rc = plan_gaps(out, e);
    if (rc != 0) {
        bench_plan_destroy(out);
        return -1;
    }
    /* Own generators, so that times and cancels do not depend on how prompts are made. */
    bench_rng_seed(&rng, o->seed + 1);
    plan_times(out, o, &rng);
    bench_rng_seed(&rng, o->seed + 2);
    for (size_t i = 0; i < out->n; i++) {
        bench_req *r = &out->reqs[i];
        bool leaves = bench_rng_unit(&rng) < o->cancel_rate;
        uint64_t most = r->output_len > 1 ? r->output_len - 1 : 1;
        uint32_t after = (uint32_t)(1 + bench_rng_below(&rng, most));
        if (leaves) r->cancel_after = after;
    }
    return 0;
}

void bench_plan_destroy(bench_plan *p) {
    for (size_t i = 0; p->reqs && i < p->n; i++) {
        free(p->reqs[i].ids);
        free(p->reqs[i].text);
        buf_deinit(&p->reqs[i].reply);
    }
    free(p->reqs);
    free(p->gaps);
    free(p->prefix);
    *p = (bench_plan){0};
}

/* ---- bodies ---- */

static void real(buf *b, const char *key, double v) {
    if (!isnan(v)) buf_printf(b, ",\"%s\":%g", key, v);
}

static void prompt(buf *b, const bench_req *r, bool chat) {
    if (chat) {
        buf_puts(b, ",\"messages\":[{\"role\":\"user\",\"content\":");
        buf_json_text(b, r->text);
        buf_printf(b, "}],\"max_completion_tokens\":%u", r->output_len);
        return;
    }
    buf_puts(b, ",\"prompt\":");
    if (r->text) {
        buf_json_text(b, r->text);
    } else {
        for (uint32_t k = 0; k < r->input_len; k++)
            buf_printf(b, "%c%u", k ? ',' : '[', r->ids[k]);
        buf_puts(b, "]");
    }
    buf_printf(b, ",\"max_tokens\":%u", r->output_len);
}

/* Keys of --extra-body are added last and may not repeat ours: a repeated key is refused by
 * careful servers, so ours gives way. */
static int merge(buf *b, const json_t *extra, err *e) {
    json_error_t why;
    json_t *body = json_loadb(b->data, b->len, 0, &why);
    int rc = body && json_object_update(body, (json_t *)(uintptr_t)extra) == 0 ? 0 : -1;
    char *text = rc == 0 ? json_dumps(body, JSON_COMPACT) : NULL;
    json_decref(body);
    if (text == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for a request body");
    buf_clear(b);
    buf_puts(b, text);
    free(text);
    return 0;
}

int bench_plan_body(const bench_opts *o, const bench_req *r, buf *out, err *e) {
    buf_clear(out);
    buf_puts(out, "{\"model\":");
    buf_json_text(out, o->model);
    prompt(out, r, o->chat);
    buf_puts(out, ",\"stream\":true,\"stream_options\":{\"include_usage\":true}");
    real(out, "temperature", o->temperature);
    real(out, "top_p", o->top_p);
    real(out, "min_p", o->min_p);
    real(out, "repetition_penalty", o->repetition_penalty);
    real(out, "presence_penalty", o->presence_penalty);
    real(out, "frequency_penalty", o->frequency_penalty);
    if (o->top_k) buf_printf(out, ",\"top_k\":%lld", (long long)o->top_k);
    if (o->ignore_eos) buf_puts(out, ",\"ignore_eos\":true");
    if (o->return_depth) buf_puts(out, ",\"return_depth\":true");
    if (o->want_logprobs && o->chat)
        buf_printf(out, ",\"logprobs\":true,\"top_logprobs\":%llu",
                   (unsigned long long)o->logprobs);
    if (o->want_logprobs && !o->chat)
        buf_printf(out, ",\"logprobs\":%llu", (unsigned long long)o->logprobs);
    buf_puts(out, "}");
    if (out->failed) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for a request body");
    return o->extra_body ? merge(out, o->extra_body, e) : 0;
}
