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

bool bench_metric_wanted(const bench_opts *opts, bench_metric metric) {
    const char *name = bench_metric_name[metric];
    for (const char *at = opts->percentile_metrics; *at;) {
        size_t n = strcspn(at, ",");
        if (n == strlen(name) && memcmp(at, name, n) == 0) return true;
        at += n + (at[n] == ',');
    }
    return false;
}

/* ---- the console block: 50 columns, label padded to 40 ---- */

static void rule(const char *title, char line) {
    size_t n = strlen(title), left = n < 50 ? (50 - n) / 2 : 0;
    for (size_t i = 0; i < left; i++)
        putchar(line);
    fputs(title, stdout);
    for (size_t i = left + n; i < 50; i++)
        putchar(line);
    putchar('\n');
}

static void count(const char *label, uint64_t value) {
    printf("%-40s %-10llu\n", label, (unsigned long long)value);
}

static void real(const char *label, double value) {
    printf("%-40s %-10.2f\n", label, value);
}

static void print_metric(const bench_stats *stats, const bench_opts *opts, bench_metric metric) {
    const bench_series *series = &stats->series[metric];
    const char *label = metric_text[metric].label;
    char line[64];
    rule(metric_text[metric].title, '-');
    (void)snprintf(line, sizeof line, "Mean %s (ms):", label);
    real(line, 1e3 * bench_mean(series->values, series->count));
    (void)snprintf(line, sizeof line, "Median %s (ms):", label);
    real(line, 1e3 * bench_percentile(series->values, series->count, 50));
    for (size_t i = 0; i < opts->n_percentiles; i++) {
        (void)snprintf(line, sizeof line, "P%g %s (ms):", opts->percentiles[i], label);
        real(line, 1e3 * bench_percentile(series->values, series->count, opts->percentiles[i]));
    }
}

static void print_depth(const bench_stats *stats, const bench_run *run) {
    rule("Depth", '-');
    real("Mean depth (loops per token):", stats->mean_depth);
    uint64_t top = 0;
    for (size_t depth = 0; depth < BENCH_MAX_DEPTH; depth++) {
        if (run->depth_histogram[depth] > top) top = run->depth_histogram[depth];
    }
    for (size_t depth = 0; top > 0 && depth < BENCH_MAX_DEPTH; depth++) {
        uint64_t n = run->depth_histogram[depth];
        if (n == 0) continue;
        char line[64];
        (void)snprintf(line, sizeof line, "Tokens at depth %zu:", depth);
        printf("%-40s %-10llu %.*s\n", line, (unsigned long long)n, (int)(1 + n * 24 / top),
               "#########################");
    }
}

static void print_drafts(const bench_drafts *drafts) {
    rule("Speculative Decoding", '-');
    real("Acceptance rate (%):", 100 * drafts->accepted / drafts->tokens);
    real("Acceptance length:", 1 + drafts->accepted / drafts->chains);
    count("Drafts:", (uint64_t)drafts->chains);
    count("Draft tokens:", (uint64_t)drafts->tokens);
    count("Accepted tokens:", (uint64_t)drafts->accepted);
    if (drafts->n_places) puts("Per-position acceptance (%):");
    for (size_t i = 0; i < drafts->n_places; i++) {
        char line[64];
        (void)snprintf(line, sizeof line, "  Position %zu:", i);
        real(line, 100 * drafts->by_place[i] / drafts->chains);
    }
}

static void print_probes(const bench_stats *stats, const bench_opts *opts) {
    rule("Probes (one token, beside the load)", '-');
    count("Successful probes:", stats->probes.count);
    count("Failed probes:", stats->probes_failed);
    real("Mean probe latency (ms):", 1e3 * bench_mean(stats->probes.values, stats->probes.count));
    real("Median probe latency (ms):",
         1e3 * bench_percentile(stats->probes.values, stats->probes.count, 50));
    for (size_t i = 0; i < opts->n_percentiles; i++) {
        char line[64];
        (void)snprintf(line, sizeof line, "P%g probe latency (ms):", opts->percentiles[i]);
        real(line, 1e3 * bench_percentile(stats->probes.values, stats->probes.count,
                                          opts->percentiles[i]));
    }
}

/* Prints each error message once, with the number of requests that had it. */
static void print_errors(const bench_plan *plan) {
    enum { KINDS = 16 };
    const char *text[KINDS];
    size_t n[KINDS], kinds = 0, more = 0;
    for (size_t i = 0; i < plan->n_reqs; i++) {
        const bench_req *req = &plan->reqs[i];
        if (req->outcome != BENCH_FAILED) continue;
        size_t k = 0;
        while (k < kinds && strcmp(text[k], req->error) != 0)
            k++;
        if (k == KINDS) {
            more++;
            continue;
        }
        if (k == kinds) {
            text[kinds] = req->error;
            n[kinds++] = 0;
        }
        n[k]++;
    }
    for (size_t k = 0; k < kinds; k++)
        fprintf(stderr, "fathom bench: %zux %s\n", n[k], text[k]);
    if (more) fprintf(stderr, "fathom bench: %zux other failures\n", more);
}

void bench_print(const bench_stats *stats, const bench_plan *plan, const bench_opts *opts,
                 const bench_run *run) {
    print_errors(plan);
    rule(" Serving Benchmark Result ", '=');
    count("Successful requests:", stats->completed);
    count("Failed requests:", stats->failed);
    if (stats->cancelled) count("Cancelled requests:", stats->cancelled);
    if (stats->abandoned) count("Abandoned requests:", stats->abandoned);
    if (opts->max_concurrency) count("Maximum request concurrency:", opts->max_concurrency);
    if (!isinf(opts->rate)) real("Request rate configured (RPS):", opts->rate);
    real("Benchmark duration (s):", stats->duration_s);
    count("Total input tokens:", stats->input_tokens);
    count("Total generated tokens:", stats->output_tokens);
    real("Request throughput (req/s):", stats->request_rate);
    if (!isnan(opts->slo_ttft_ms) || !isnan(opts->slo_tpot_ms) || !isnan(opts->slo_e2el_ms)) {
        real("Request goodput (req/s):", stats->goodput);
    }
    real("Output token throughput (tok/s):", stats->output_rate);
    if (!isnan(stats->peak_output_rate))
        real("Peak output token throughput (tok/s):", stats->peak_output_rate);
    real("Peak concurrent requests:", (double)stats->peak_concurrent);
    real("Total token throughput (tok/s):", stats->total_rate);
    for (int metric = 0; metric < BENCH_METRICS; metric++) {
        if (bench_metric_wanted(opts, (bench_metric)metric))
            print_metric(stats, opts, (bench_metric)metric);
    }
    if (!isnan(stats->mean_depth)) print_depth(stats, run);
    if (run->drafts.tokens > 0) print_drafts(&run->drafts);
    if (opts->probe_rate > 0) print_probes(stats, opts);
    rule("Load generator", '-');
    real("Client CPU (s):", run->cpu_s);
    real("Client CPU per chunk (us):", run->chunks ? run->cpu_s * 1e6 / (double)run->chunks : NAN);
    rule("", '=');
}

/* ---- JSON ---- */

static void set_int(json_t *out, const char *key, uint64_t value) {
    (void)json_object_set_new(out, key, json_integer((json_int_t)value));
}

/* A figure without a measurement is null: JSON has no NaN. */
static void set_real(json_t *out, const char *key, double value) {
    (void)json_object_set_new(out, key, isfinite(value) ? json_real(value) : json_null());
}

static void set_text(json_t *out, const char *key, const char *value) {
    (void)json_object_set_new(out, key, value ? json_string(value) : json_null());
}

static void set_metric(json_t *out, const bench_stats *stats, const bench_opts *opts,
                       bench_metric metric) {
    const bench_series *series = &stats->series[metric];
    const char *name = bench_metric_name[metric];
    char key[96];
    (void)snprintf(key, sizeof key, "mean_%s_ms", name);
    set_real(out, key, 1e3 * bench_mean(series->values, series->count));
    (void)snprintf(key, sizeof key, "median_%s_ms", name);
    set_real(out, key, 1e3 * bench_percentile(series->values, series->count, 50));
    (void)snprintf(key, sizeof key, "std_%s_ms", name);
    set_real(out, key, 1e3 * bench_std(series->values, series->count));
    for (size_t i = 0; i < opts->n_percentiles; i++) {
        (void)snprintf(key, sizeof key, "p%g_%s_ms", opts->percentiles[i], name);
        set_real(out, key,
                 1e3 * bench_percentile(series->values, series->count, opts->percentiles[i]));
    }
}

static void set_depth(json_t *out, const bench_stats *stats, const bench_run *run) {
    set_real(out, "mean_depth", stats->mean_depth);
    set_int(out, "total_output_loops", stats->loops);
    size_t n = 0;
    for (size_t depth = 0; depth < BENCH_MAX_DEPTH; depth++) {
        if (run->depth_histogram[depth]) n = depth + 1;
    }
    json_t *list = json_array();
    for (size_t depth = 0; depth < n; depth++) {
        (void)json_array_append_new(list, json_integer((json_int_t)run->depth_histogram[depth]));
    }
    (void)json_object_set_new(out, "depth_histogram", list);
}

static void set_probes(json_t *out, const bench_stats *stats, const bench_opts *opts) {
    set_real(out, "probe_request_rate", opts->probe_rate);
    set_int(out, "probe_completed", stats->probes.count);
    set_int(out, "probe_failed", stats->probes_failed);
    set_real(out, "mean_probe_ms", 1e3 * bench_mean(stats->probes.values, stats->probes.count));
    set_real(out, "median_probe_ms",
             1e3 * bench_percentile(stats->probes.values, stats->probes.count, 50));
    for (size_t i = 0; i < opts->n_percentiles; i++) {
        char key[64];
        (void)snprintf(key, sizeof key, "p%g_probe_ms", opts->percentiles[i]);
        set_real(out, key,
                 1e3 * bench_percentile(stats->probes.values, stats->probes.count,
                                        opts->percentiles[i]));
    }
}

static void set_drafts(json_t *out, const bench_drafts *drafts) {
    json_t *places = json_array();
    set_real(out, "spec_decode_acceptance_rate", 100 * drafts->accepted / drafts->tokens);
    set_real(out, "spec_decode_acceptance_length", 1 + drafts->accepted / drafts->chains);
    set_int(out, "spec_decode_num_drafts", (uint64_t)drafts->chains);
    set_int(out, "spec_decode_draft_tokens", (uint64_t)drafts->tokens);
    set_int(out, "spec_decode_accepted_tokens", (uint64_t)drafts->accepted);
    for (size_t i = 0; i < drafts->n_places; i++)
        (void)json_array_append_new(places, json_real(drafts->by_place[i] / drafts->chains));
    (void)json_object_set_new(out, "spec_decode_per_position_acceptance_rates", places);
}

/* Lists with one entry per request, in the order of the plan; seconds. */
static void set_detailed(json_t *out, const bench_plan *plan, const bench_run *run) {
    static const char *const keys[] = {"input_lens",  "output_lens",     "ttfts",
                                       "itls",        "latencies",       "start_times",
                                       "queue_times", "generated_texts", "errors"};
    json_t *list[ARRAY_LEN(keys)];
    for (size_t k = 0; k < ARRAY_LEN(keys); k++)
        list[k] = json_array();
    for (size_t i = 0; i < plan->n_reqs; i++) {
        const bench_req *req = &plan->reqs[i];
        json_t *gaps = json_array();
        uint32_t n = req->n_chunks ? req->n_chunks - 1 : 0;
        for (uint32_t k = 0; k < n && k < req->gaps_max; k++)
            (void)json_array_append_new(gaps, json_real((double)req->gaps[k]));
        uint64_t input = req->has_usage ? req->usage_input : req->input_len;
        json_t *values[] = {
            json_integer((json_int_t)input),
            json_integer((json_int_t)bench_req_output_tokens(req)),
            json_real(bench_seconds(req->start_ns, req->first_ns)),
            gaps,
            json_real(bench_seconds(req->start_ns, req->last_ns)),
            json_real(bench_seconds(run->start_ns, req->start_ns)),
            json_real(bench_seconds(req->due_ns, req->start_ns)),
            json_stringn(req->reply.data ? req->reply.data : "", req->reply.len),
            json_string(req->error),
        };
        for (size_t k = 0; k < ARRAY_LEN(keys); k++)
            (void)json_array_append_new(list[k], values[k]);
    }
    for (size_t k = 0; k < ARRAY_LEN(keys); k++)
        (void)json_object_set_new(out, keys[k], list[k]);
}

static void set_setting(json_t *out, const bench_opts *opts, const char *label,
                        const char *const *metadata, size_t n_metadata) {
    char date[32];
    time_t now = (time_t)clock_unix_s();
    struct tm tm;
    (void)strftime(date, sizeof date, "%Y%m%d-%H%M%S", gmtime_r(&now, &tm));
    set_text(out, "date", date);
    set_text(out, "endpoint_type", opts->chat ? "openai-chat" : "openai");
    set_text(out, "label", label);
    set_text(out, "model_id", opts->model);
    set_text(out, "base_url", opts->base_url);
    set_int(out, "num_prompts", opts->n_prompts);
    set_int(out, "seed", opts->seed);
    for (size_t i = 0; i < n_metadata; i++) {
        const char *eq = strchr(metadata[i], '=');
        char key[128];
        (void)snprintf(key, sizeof key, "%.*s", (int)(eq - metadata[i]), metadata[i]);
        set_text(out, key, eq + 1);
    }
    if (isinf(opts->rate)) set_text(out, "request_rate", "inf");
    else set_real(out, "request_rate", opts->rate);
    set_real(out, "burstiness", opts->burstiness);
    if (opts->max_concurrency) set_int(out, "max_concurrency", opts->max_concurrency);
    else (void)json_object_set_new(out, "max_concurrency", json_null());
    set_real(out, "cancel_rate", opts->cancel_rate);
    if (opts->ramp) {
        set_text(out, "ramp_up_strategy", opts->ramp_exponential ? "exponential" : "linear");
        set_real(out, "ramp_up_start_rps", opts->ramp_start);
        set_real(out, "ramp_up_end_rps", opts->ramp_end);
    }
}

json_t *bench_json(const bench_stats *stats, const bench_plan *plan, const bench_opts *opts,
                   const bench_run *run, const char *label, const char *const *metadata,
                   size_t n_metadata) {
    json_t *out = json_object();
    if (out == NULL) return NULL;
    set_setting(out, opts, label, metadata, n_metadata);
    set_real(out, "duration", stats->duration_s);
    set_int(out, "completed", stats->completed);
    set_int(out, "failed", stats->failed);
    set_int(out, "cancelled", stats->cancelled);
    set_int(out, "abandoned", stats->abandoned);
    set_int(out, "total_input_tokens", stats->input_tokens);
    set_int(out, "total_output_tokens", stats->output_tokens);
    set_real(out, "request_throughput", stats->request_rate);
    bool slo = !isnan(opts->slo_ttft_ms) || !isnan(opts->slo_tpot_ms) || !isnan(opts->slo_e2el_ms);
    set_real(out, "request_goodput", slo ? stats->goodput : NAN);
    set_real(out, "output_throughput", stats->output_rate);
    set_real(out, "total_token_throughput", stats->total_rate);
    set_real(out, "max_output_tokens_per_s", stats->peak_output_rate);
    set_int(out, "max_concurrent_requests", stats->peak_concurrent);
    for (int metric = 0; metric < BENCH_METRICS; metric++) {
        if (bench_metric_wanted(opts, (bench_metric)metric))
            set_metric(out, stats, opts, (bench_metric)metric);
    }
    set_depth(out, stats, run);
    if (run->drafts.tokens > 0) set_drafts(out, &run->drafts);
    if (opts->probe_rate > 0) set_probes(out, stats, opts);
    set_real(out, "client_cpu_seconds", run->cpu_s);
    set_int(out, "client_chunks", run->chunks);
    set_int(out, "client_bytes", run->bytes);
    if (opts->detailed) set_detailed(out, plan, run);
    return out;
}
