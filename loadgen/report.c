/* report.c - the console block and the JSON result, in the words of `vllm bench serve`. */
#include "base/clock.h"
#include "loadgen/loadgen_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const struct {
    const char *title, *label;
} metric_text[BENCH_METRICS] = {
    [BENCH_TTFT] = {"Time to First Token", "TTFT"},
    [BENCH_TPOT] = {"Time per Output Token (excl. 1st token)", "TPOT"},
    [BENCH_ITL] = {"Inter-token Latency", "ITL"},
    [BENCH_E2EL] = {"End-to-end Latency", "E2EL"},
    [BENCH_QUEUE] = {"Client Queue Time", "Client Queue Time"},
    [BENCH_E2EL_QUEUE] = {"End-to-end Latency incl. Client Queue", "E2EL incl. Client Queue"},
};

bool bench_metric_wanted(const bench_opts *o, bench_metric m) {
    const char *name = bench_metric_name[m];
    for (const char *p = o->percentile_metrics; *p;) {
        size_t n = strcspn(p, ",");
        if (n == strlen(name) && memcmp(p, name, n) == 0) return true;
        p += n + (p[n] == ',');
    }
    return false;
}

/* ---- the console block: 50 columns, label padded to 40 ---- */

static void rule(const char *title, char c) {
    size_t n = strlen(title), left = n < 50 ? (50 - n) / 2 : 0;
    for (size_t i = 0; i < left; i++)
        putchar(c);
    fputs(title, stdout);
    for (size_t i = left + n; i < 50; i++)
        putchar(c);
    putchar('\n');
}

static void count(const char *label, uint64_t v) {
    printf("%-40s %-10llu\n", label, (unsigned long long)v);
}

static void real(const char *label, double v) {
    printf("%-40s %-10.2f\n", label, v);
}

static void print_metric(const bench_stats *s, const bench_opts *o, bench_metric m) {
    const bench_series *v = &s->series[m];
    const char *label = metric_text[m].label;
    char line[64];
    rule(metric_text[m].title, '-');
    (void)snprintf(line, sizeof line, "Mean %s (ms):", label);
    real(line, 1e3 * bench_mean(v->v, v->n));
    (void)snprintf(line, sizeof line, "Median %s (ms):", label);
    real(line, 1e3 * bench_percentile(v->v, v->n, 50));
    for (size_t i = 0; i < o->n_percentiles; i++) {
        (void)snprintf(line, sizeof line, "P%g %s (ms):", o->percentiles[i], label);
        real(line, 1e3 * bench_percentile(v->v, v->n, o->percentiles[i]));
    }
}

static void print_depth(const bench_stats *s, const bench_run *run) {
    rule("Depth", '-');
    real("Mean depth (loops per token):", s->mean_depth);
    uint64_t top = 0;
    for (size_t d = 0; d < BENCH_MAX_DEPTH; d++) {
        if (run->depth_histogram[d] > top) top = run->depth_histogram[d];
    }
    for (size_t d = 0; top > 0 && d < BENCH_MAX_DEPTH; d++) {
        uint64_t n = run->depth_histogram[d];
        if (n == 0) continue;
        char line[64];
        (void)snprintf(line, sizeof line, "Tokens at depth %zu:", d);
        printf("%-40s %-10llu %.*s\n", line, (unsigned long long)n, (int)(1 + n * 24 / top),
               "#########################");
    }
}

static void print_probes(const bench_stats *s, const bench_opts *o) {
    rule("Probes (one token, beside the load)", '-');
    count("Successful probes:", s->probes.n);
    count("Failed probes:", s->probes_failed);
    real("Mean probe latency (ms):", 1e3 * bench_mean(s->probes.v, s->probes.n));
    real("Median probe latency (ms):", 1e3 * bench_percentile(s->probes.v, s->probes.n, 50));
    for (size_t i = 0; i < o->n_percentiles; i++) {
        char line[64];
        (void)snprintf(line, sizeof line, "P%g probe latency (ms):", o->percentiles[i]);
        real(line, 1e3 * bench_percentile(s->probes.v, s->probes.n, o->percentiles[i]));
    }
}

/* What went wrong, each message once with how often it came. */
static void print_errors(const bench_plan *p) {
    enum { KINDS = 16 };
    const char *text[KINDS];
    size_t n[KINDS], kinds = 0, more = 0;
    for (size_t i = 0; i < p->n; i++) {
        const bench_req *r = &p->reqs[i];
        if (r->outcome != BENCH_FAILED) continue;
        size_t k = 0;
        while (k < kinds && strcmp(text[k], r->error) != 0)
            k++;
        if (k == KINDS) {
            more++;
            continue;
        }
        if (k == kinds) {
            text[kinds] = r->error;
            n[kinds++] = 0;
        }
        n[k]++;
    }
    for (size_t k = 0; k < kinds; k++)
        fprintf(stderr, "fathom bench: %zux %s\n", n[k], text[k]);
    if (more) fprintf(stderr, "fathom bench: %zux other failures\n", more);
}

void bench_print(const bench_stats *s, const bench_plan *p, const bench_opts *o,
                 const bench_run *run) {
    print_errors(p);
    rule(" Serving Benchmark Result ", '=');
    count("Successful requests:", s->completed);
    count("Failed requests:", s->failed);
    if (s->cancelled) count("Cancelled requests:", s->cancelled);
    if (s->abandoned) count("Abandoned requests:", s->abandoned);
    if (o->max_concurrency) count("Maximum request concurrency:", o->max_concurrency);
    if (!isinf(o->rate)) real("Request rate configured (RPS):", o->rate);
    real("Benchmark duration (s):", s->duration_s);
    count("Total input tokens:", s->input_tokens);
    count("Total generated tokens:", s->output_tokens);
    real("Request throughput (req/s):", s->request_rate);
    if (!isnan(o->slo_ttft_ms) || !isnan(o->slo_tpot_ms) || !isnan(o->slo_e2el_ms)) {
        real("Request goodput (req/s):", s->goodput);
    }
    real("Output token throughput (tok/s):", s->output_rate);
    real("Peak output token throughput (tok/s):", s->peak_output_rate);
    real("Peak concurrent requests:", (double)s->peak_concurrent);
    real("Total token throughput (tok/s):", s->total_rate);
    for (int m = 0; m < BENCH_METRICS; m++) {
        if (bench_metric_wanted(o, (bench_metric)m)) print_metric(s, o, (bench_metric)m);
    }
    if (!isnan(s->mean_depth)) print_depth(s, run);
    if (o->probe_rate > 0) print_probes(s, o);
    rule("Load generator", '-');
    real("Client CPU (s):", run->cpu_s);
    real("Client CPU per chunk (us):", run->chunks ? run->cpu_s * 1e6 / (double)run->chunks : NAN);
    rule("", '=');
}

/* ---- JSON ---- */

static void set_int(json_t *o, const char *key, uint64_t v) {
    (void)json_object_set_new(o, key, json_integer((json_int_t)v));
}

/* A figure nobody measured is null: JSON has no NaN. */
static void set_real(json_t *o, const char *key, double v) {
    (void)json_object_set_new(o, key, isfinite(v) ? json_real(v) : json_null());
}

static void set_text(json_t *o, const char *key, const char *v) {
    (void)json_object_set_new(o, key, v ? json_string(v) : json_null());
}

static void set_metric(json_t *out, const bench_stats *s, const bench_opts *o, bench_metric m) {
    const bench_series *v = &s->series[m];
    const char *name = bench_metric_name[m];
    char key[96];
    (void)snprintf(key, sizeof key, "mean_%s_ms", name);
    set_real(out, key, 1e3 * bench_mean(v->v, v->n));
    (void)snprintf(key, sizeof key, "median_%s_ms", name);
    set_real(out, key, 1e3 * bench_percentile(v->v, v->n, 50));
    (void)snprintf(key, sizeof key, "std_%s_ms", name);
    set_real(out, key, 1e3 * bench_std(v->v, v->n));
    for (size_t i = 0; i < o->n_percentiles; i++) {
        (void)snprintf(key, sizeof key, "p%g_%s_ms", o->percentiles[i], name);
        set_real(out, key, 1e3 * bench_percentile(v->v, v->n, o->percentiles[i]));
    }
}

static void set_depth(json_t *out, const bench_stats *s, const bench_run *run) {
    set_real(out, "mean_depth", s->mean_depth);
    set_int(out, "total_output_loops", s->loops);
    size_t n = 0;
    for (size_t d = 0; d < BENCH_MAX_DEPTH; d++) {
        if (run->depth_histogram[d]) n = d + 1;
    }
    json_t *list = json_array();
    for (size_t d = 0; d < n; d++) {
        (void)json_array_append_new(list, json_integer((json_int_t)run->depth_histogram[d]));
    }
    (void)json_object_set_new(out, "depth_histogram", list);
}

static void set_probes(json_t *out, const bench_stats *s, const bench_opts *o) {
    set_real(out, "probe_request_rate", o->probe_rate);
    set_int(out, "probe_completed", s->probes.n);
    set_int(out, "probe_failed", s->probes_failed);
    set_real(out, "mean_probe_ms", 1e3 * bench_mean(s->probes.v, s->probes.n));
    set_real(out, "median_probe_ms", 1e3 * bench_percentile(s->probes.v, s->probes.n, 50));
    for (size_t i = 0; i < o->n_percentiles; i++) {
        char key[64];
        (void)snprintf(key, sizeof key, "p%g_probe_ms", o->percentiles[i]);
        set_real(out, key, 1e3 * bench_percentile(s->probes.v, s->probes.n, o->percentiles[i]));
    }
}

static double between(uint64_t from, uint64_t to) {
    return to > from ? (double)(to - from) * 1e-9 : 0;
}

/* Lists with one entry per request, in the order of the plan; seconds. */
static void set_detailed(json_t *out, const bench_plan *p, const bench_run *run) {
    static const char *const keys[] = {"input_lens",  "output_lens",     "ttfts",
                                       "itls",        "latencies",       "start_times",
                                       "queue_times", "generated_texts", "errors"};
    json_t *list[ARRAY_LEN(keys)];
    for (size_t k = 0; k < ARRAY_LEN(keys); k++)
        list[k] = json_array();
    for (size_t i = 0; i < p->n; i++) {
        const bench_req *r = &p->reqs[i];
        json_t *gaps = json_array();
        uint32_t n = r->n_chunks ? r->n_chunks - 1 : 0;
        for (uint32_t k = 0; k < n && k < r->gaps_max; k++)
            (void)json_array_append_new(gaps, json_real((double)r->gaps[k]));
        uint64_t input = r->has_usage ? r->usage_input : r->input_len;
        json_t *v[] = {
            json_integer((json_int_t)input),
            json_integer((json_int_t)bench_req_output_tokens(r)),
            json_real(between(r->start_ns, r->first_ns)),
            gaps,
            json_real(between(r->start_ns, r->last_ns)),
            json_real(between(run->start_ns, r->start_ns)),
            json_real(between(r->due_ns, r->start_ns)),
            json_stringn(r->reply.data ? r->reply.data : "", r->reply.len),
            json_string(r->error),
        };
        for (size_t k = 0; k < ARRAY_LEN(keys); k++)
            (void)json_array_append_new(list[k], v[k]);
    }
    for (size_t k = 0; k < ARRAY_LEN(keys); k++)
        (void)json_object_set_new(out, keys[k], list[k]);
}

static void set_setting(json_t *out, const bench_opts *o, const char *label,
                        const char *const *metadata, size_t n_metadata) {
    char date[32];
    time_t now = (time_t)clock_unix_s();
    struct tm tm;
    (void)strftime(date, sizeof date, "%Y%m%d-%H%M%S", gmtime_r(&now, &tm));
    set_text(out, "date", date);
    set_text(out, "endpoint_type", o->chat ? "openai-chat" : "openai");
    set_text(out, "label", label);
    set_text(out, "model_id", o->model);
    set_text(out, "base_url", o->base_url);
    set_int(out, "num_prompts", o->n_prompts);
    set_int(out, "seed", o->seed);
    for (size_t i = 0; i < n_metadata; i++) {
        const char *eq = strchr(metadata[i], '=');
        char key[128];
        (void)snprintf(key, sizeof key, "%.*s", (int)(eq - metadata[i]), metadata[i]);
        set_text(out, key, eq + 1);
    }
    if (isinf(o->rate)) set_text(out, "request_rate", "inf");
    else set_real(out, "request_rate", o->rate);
    set_real(out, "burstiness", o->burstiness);
    if (o->max_concurrency) set_int(out, "max_concurrency", o->max_concurrency);
    else (void)json_object_set_new(out, "max_concurrency", json_null());
    set_real(out, "cancel_rate", o->cancel_rate);
    if (o->ramp) {
        set_text(out, "ramp_up_strategy", o->ramp_exponential ? "exponential" : "linear");
        set_real(out, "ramp_up_start_rps", o->ramp_start);
        set_real(out, "ramp_up_end_rps", o->ramp_end);
    }
}

json_t *bench_json(const bench_stats *s, const bench_plan *p, const bench_opts *o,
                   const bench_run *run, const char *label, const char *const *metadata,
                   size_t n_metadata) {
    json_t *out = json_object();
    if (out == NULL) return NULL;
    set_setting(out, o, label, metadata, n_metadata);
    set_real(out, "duration", s->duration_s);
    set_int(out, "completed", s->completed);
    set_int(out, "failed", s->failed);
    set_int(out, "cancelled", s->cancelled);
    set_int(out, "abandoned", s->abandoned);
    set_int(out, "total_input_tokens", s->input_tokens);
    set_int(out, "total_output_tokens", s->output_tokens);
    set_real(out, "request_throughput", s->request_rate);
    bool slo = !isnan(o->slo_ttft_ms) || !isnan(o->slo_tpot_ms) || !isnan(o->slo_e2el_ms);
    set_real(out, "request_goodput", slo ? s->goodput : NAN);
    set_real(out, "output_throughput", s->output_rate);
    set_real(out, "total_token_throughput", s->total_rate);
    set_real(out, "max_output_tokens_per_s", s->peak_output_rate);
    set_int(out, "max_concurrent_requests", s->peak_concurrent);
    for (int m = 0; m < BENCH_METRICS; m++) {
        if (bench_metric_wanted(o, (bench_metric)m)) set_metric(out, s, o, (bench_metric)m);
    }
    set_depth(out, s, run);
    if (o->probe_rate > 0) set_probes(out, s, o);
    set_real(out, "client_cpu_seconds", run->cpu_s);
    set_int(out, "client_chunks", run->chunks);
    set_int(out, "client_bytes", run->bytes);
    if (o->detailed) set_detailed(out, p, run);
    return out;
}
