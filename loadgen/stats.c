/* stats.c - figures from the outcomes of the requests. */
#include "base/size.h"
#include "loadgen/loadgen_internal.h"

#include <math.h>
#include <stdlib.h>

const char *const bench_metric_name[BENCH_METRICS] = {
    "ttft", "tpot", "itl", "e2el", "client_queue_time", "e2el_including_client_queue",
};

static int by_value(const void *first, const void *second) {
    double x = *(const double *)first, y = *(const double *)second;
    return (x > y) - (x < y);
}

static int by_u64(const void *first, const void *second) {
    uint64_t x = *(const uint64_t *)first, y = *(const uint64_t *)second;
    return (x > y) - (x < y);
}

double bench_percentile(const double *sorted, size_t n, double percent) {
    if (n == 0) return NAN;
    double at = percent / 100 * (double)(n - 1);
    if (!(at > 0)) return sorted[0];
    size_t lo = (size_t)at;
    if (lo + 1 >= n) return sorted[n - 1];
    double part = at - (double)lo;
    return sorted[lo] + part * (sorted[lo + 1] - sorted[lo]);
}

double bench_mean(const double *values, size_t n) {
    if (n == 0) return NAN;
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += values[i];
    return sum / (double)n;
}

double bench_std(const double *values, size_t n) {
    if (n == 0) return NAN;
    double mean = bench_mean(values, n), sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (values[i] - mean) * (values[i] - mean);
    return sqrt(sum / (double)n);
}

uint64_t bench_peak_overlap(uint64_t *starts, uint64_t *ends, size_t n) {
    if (n == 0) return 0;
    qsort(starts, n, sizeof *starts, by_u64);
    qsort(ends, n, sizeof *ends, by_u64);
    uint64_t peak = 0, now = 0;
    size_t ended = 0;
    for (size_t started = 0; started < n; started++) {
        while (ended < n && ends[ended] <= starts[started]) {
            ended++;
            now--;
        }
        if (++now > peak) peak = now;
    }
    return peak;
}

uint32_t bench_req_output_tokens(const bench_req *req) {
    if (req->has_usage)
        return (uint32_t)(req->usage_output > UINT32_MAX ? UINT32_MAX : req->usage_output);
    return req->n_depths > req->n_chunks ? req->n_depths : req->n_chunks;
}

double bench_seconds(uint64_t from_ns, uint64_t to_ns) {
    return to_ns > from_ns ? (double)(to_ns - from_ns) * 1e-9 : 0;
}

/* As in vLLM, TPOT of a single token is 0 for goodput and left out of the TPOT figures. */
static double tpot_of(const bench_req *req) {
    uint32_t n = bench_req_output_tokens(req);
    return n > 1 ? bench_seconds(req->first_ns, req->last_ns) / (double)(n - 1) : 0;
}

static bool is_good(const bench_req *req, const bench_opts *opts) {
    if (!isnan(opts->slo_ttft_ms) &&
        bench_seconds(req->start_ns, req->first_ns) * 1e3 > opts->slo_ttft_ms)
        return false;
    if (!isnan(opts->slo_tpot_ms) && tpot_of(req) * 1e3 > opts->slo_tpot_ms) return false;
    if (!isnan(opts->slo_e2el_ms) &&
        bench_seconds(req->start_ns, req->last_ns) * 1e3 > opts->slo_e2el_ms)
        return false;
    return true;
}

static int take_memory(bench_stats *stats, const bench_plan *plan) {
    size_t completed = 0, gaps = 0;
    for (size_t i = 0; i < plan->n_reqs; i++) {
        const bench_req *req = &plan->reqs[i];
        if (req->outcome != BENCH_OK) continue;
        completed++;
        gaps += req->n_chunks ? req->n_chunks - 1 : 0;
    }
    for (int metric = 0; metric < BENCH_METRICS; metric++) {
        size_t n = metric == BENCH_ITL ? gaps : completed;
        stats->series[metric].values = array_new(n ? n : 1, sizeof(double));
        if (stats->series[metric].values == NULL) return -1;
    }
    return 0;
}

static void push(bench_series *series, double value) {
    series->values[series->count++] = value;
}

static void add_request(bench_stats *stats, const bench_req *req) {
    uint32_t tokens = bench_req_output_tokens(req);
    stats->completed++;
    stats->input_tokens += req->has_usage ? req->usage_input : req->input_len;
    stats->output_tokens += tokens;
    double e2el = bench_seconds(req->start_ns, req->last_ns),
           queued = bench_seconds(req->due_ns, req->start_ns);
    push(&stats->series[BENCH_TTFT], bench_seconds(req->start_ns, req->first_ns));
    push(&stats->series[BENCH_E2EL], e2el);
    push(&stats->series[BENCH_QUEUE], queued);
    push(&stats->series[BENCH_E2EL_QUEUE], e2el + queued);
    if (tokens > 1) push(&stats->series[BENCH_TPOT], tpot_of(req));
    uint32_t gaps = req->n_chunks ? req->n_chunks - 1 : 0;
    if (gaps > req->gaps_max) gaps = req->gaps_max;
    for (uint32_t k = 0; k < gaps; k++)
        push(&stats->series[BENCH_ITL], (double)req->gaps[k]);
}

/* Depths in chunks are exact. Usage counts the loops that the engine ran for output, and the last
 * token of a request is never run, so this mean is too low by one token's loops. */
static void add_depth(bench_stats *stats, const bench_req *req) {
    uint32_t tokens = bench_req_output_tokens(req);
    if (req->n_depths >= tokens || req->usage_loops == 0) {
        stats->loops += req->depth_sum;
        stats->loop_tokens += req->n_depths;
    } else {
        stats->loops += req->usage_loops;
        stats->loop_tokens += tokens;
    }
}

static int find_peaks(bench_stats *stats, const bench_plan *plan, const bench_run *run) {
    uint64_t *starts = array_new(plan->n_reqs, sizeof *starts),
             *ends = array_new(plan->n_reqs, sizeof *ends);
    int rc = starts && ends ? 0 : -1;
    size_t n = 0;
    for (size_t i = 0; rc == 0 && i < plan->n_reqs; i++) {
        const bench_req *req = &plan->reqs[i];
        if (req->end_ns == 0) continue;
        starts[n] = req->start_ns;
        ends[n++] = req->end_ns;
    }
    if (rc == 0) stats->peak_concurrent = bench_peak_overlap(starts, ends, n);
    free(starts);
    free(ends);
    uint32_t best = 0;
    for (size_t i = 0; i < BENCH_MAX_SECONDS; i++) {
        if (run->tokens_by_second[i] > best) best = run->tokens_by_second[i];
    }
    /* The busiest second says nothing about a run of one or two. */
    bool whole = run->end_ns - run->start_ns >= 2000000000u;
    stats->peak_output_rate = whole ? (double)best : (double)NAN;
    return rc;
}

static int take_probes(bench_stats *stats, const bench_run *run) {
    stats->probes.values = array_new(run->n_probes ? run->n_probes : 1, sizeof(double));
    if (stats->probes.values == NULL) return -1;
    for (size_t i = 0; i < run->n_probes; i++) {
        const bench_req *req = run->probes[i];
        if (req->outcome == BENCH_OK)
            push(&stats->probes, bench_seconds(req->start_ns, req->last_ns));
        stats->probes_failed += req->outcome == BENCH_FAILED;
    }
    qsort(stats->probes.values, stats->probes.count, sizeof(double), by_value);
    return 0;
}

int bench_stats_create(bench_stats *out, const bench_plan *plan, const bench_opts *opts,
                       const bench_run *run, err *e) {
    *out = (bench_stats){0};
    if (take_memory(out, plan) != 0 || find_peaks(out, plan, run) != 0 ||
        take_probes(out, run) != 0) {
        bench_stats_destroy(out);
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the figures");
    }
    size_t good = 0;
    for (size_t i = 0; i < plan->n_reqs; i++) {
        const bench_req *req = &plan->reqs[i];
        switch (req->outcome) {
        case BENCH_OK:
            add_request(out, req);
            add_depth(out, req);
            good += is_good(req, opts);
            break;
        case BENCH_CANCELLED: out->cancelled++; break;
        case BENCH_FAILED: out->failed++; break;
        default: out->abandoned++; break;
        }
    }
    out->duration_s = bench_seconds(run->start_ns, run->end_ns);
    double duration = out->duration_s > 0 ? out->duration_s : NAN;
    out->request_rate = (double)out->completed / duration;
    out->goodput = (double)good / duration;
    out->output_rate = (double)out->output_tokens / duration;
    out->total_rate = (double)(out->input_tokens + out->output_tokens) / duration;
    out->mean_depth =
        out->loops && out->loop_tokens ? (double)out->loops / (double)out->loop_tokens : NAN;
    for (int metric = 0; metric < BENCH_METRICS; metric++) {
        qsort(out->series[metric].values, out->series[metric].count, sizeof(double), by_value);
    }
    return 0;
}

void bench_stats_destroy(bench_stats *stats) {
    for (int metric = 0; metric < BENCH_METRICS; metric++)
        free(stats->series[metric].values);
    free(stats->probes.values);
    *stats = (bench_stats){0};
}
