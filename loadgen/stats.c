/* stats.c - what the outcomes amount to. */
#include "base/size.h"
#include "loadgen/loadgen_internal.h"

#include <math.h>
#include <stdlib.h>

const char *const bench_metric_name[BENCH_METRICS] = {
    "ttft", "tpot", "itl", "e2el", "client_queue_time", "e2el_including_client_queue",
};

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int by_u64(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
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

double bench_mean(const double *v, size_t n) {
    if (n == 0) return NAN;
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += v[i];
    return sum / (double)n;
}

double bench_std(const double *v, size_t n) {
    if (n == 0) return NAN;
    double mean = bench_mean(v, n), sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (v[i] - mean) * (v[i] - mean);
    return sqrt(sum / (double)n);
}

uint64_t bench_peak_overlap(uint64_t *starts, uint64_t *ends, size_t n) {
    if (n == 0) return 0;
    qsort(starts, n, sizeof *starts, by_u64);
    qsort(ends, n, sizeof *ends, by_u64);
    uint64_t peak = 0, now = 0;
    size_t e = 0;
    for (size_t s = 0; s < n; s++) {
        while (e < n && ends[e] <= starts[s]) {
            e++;
            now--;
        }
        if (++now > peak) peak = now;
    }
    return peak;
}

uint32_t bench_req_output_tokens(const bench_req *r) {
    if (r->has_usage)
        return (uint32_t)(r->usage_output > UINT32_MAX ? UINT32_MAX : r->usage_output);
    return r->n_depths > r->n_chunks ? r->n_depths : r->n_chunks;
}

static double seconds(uint64_t from, uint64_t to) {
    return to > from ? (double)(to - from) * 1e-9 : 0;
}

/* vLLM counts a single token's TPOT as 0 for goodput and leaves it out of the TPOT figures. */
static double tpot_of(const bench_req *r) {
    uint32_t n = bench_req_output_tokens(r);
    return n > 1 ? seconds(r->first_ns, r->last_ns) / (double)(n - 1) : 0;
}

static bool is_good(const bench_req *r, const bench_opts *o) {
    if (!isnan(o->slo_ttft_ms) && seconds(r->start_ns, r->first_ns) * 1e3 > o->slo_ttft_ms)
        return false;
    if (!isnan(o->slo_tpot_ms) && tpot_of(r) * 1e3 > o->slo_tpot_ms) return false;
    if (!isnan(o->slo_e2el_ms) && seconds(r->start_ns, r->last_ns) * 1e3 > o->slo_e2el_ms)
        return false;
    return true;
}

static int take_memory(bench_stats *s, const bench_plan *p) {
    size_t completed = 0, gaps = 0;
    for (size_t i = 0; i < p->n; i++) {
        const bench_req *r = &p->reqs[i];
        if (r->outcome != BENCH_OK) continue;
        completed++;
        gaps += r->n_chunks ? r->n_chunks - 1 : 0;
    }
    for (int m = 0; m < BENCH_METRICS; m++) {
        size_t n = m == BENCH_ITL ? gaps : completed;
        s->series[m].v = array_new(n ? n : 1, sizeof(double));
        if (s->series[m].v == NULL) return -1;
    }
    return 0;
}

static void push(bench_series *s, double v) {
    s->v[s->n++] = v;
}

static void add_request(bench_stats *s, const bench_req *r) {
    uint32_t tokens = bench_req_output_tokens(r);
    s->completed++;
    s->input_tokens += r->has_usage ? r->usage_input : r->input_len;
    s->output_tokens += tokens;
    double e2el = seconds(r->start_ns, r->last_ns), queued = seconds(r->due_ns, r->start_ns);
    push(&s->series[BENCH_TTFT], seconds(r->start_ns, r->first_ns));
    push(&s->series[BENCH_E2EL], e2el);
    push(&s->series[BENCH_QUEUE], queued);
    push(&s->series[BENCH_E2EL_QUEUE], e2el + queued);
    if (tokens > 1) push(&s->series[BENCH_TPOT], tpot_of(r));
    uint32_t gaps = r->n_chunks ? r->n_chunks - 1 : 0;
    if (gaps > r->gaps_max) gaps = r->gaps_max;
    for (uint32_t k = 0; k < gaps; k++)
        push(&s->series[BENCH_ITL], (double)r->gaps[k]);
}

/* Depths in the chunks are exact. Usage counts the loops the engine ran for output, and the
 * last token of a request is never run: there the mean is lower by one part in its length. */
static void add_depth(bench_stats *s, const bench_req *r) {
    uint32_t tokens = bench_req_output_tokens(r);
    if (r->n_depths >= tokens || r->usage_loops == 0) {
        s->loops += r->depth_sum;
        s->loop_tokens += r->n_depths;
    } else {
        s->loops += r->usage_loops;
        s->loop_tokens += tokens;
    }
}

static int find_peaks(bench_stats *s, const bench_plan *p, const bench_run *run) {
    uint64_t *starts = array_new(p->n, sizeof *starts), *ends = array_new(p->n, sizeof *ends);
    int rc = starts && ends ? 0 : -1;
    size_t n = 0;
    for (size_t i = 0; rc == 0 && i < p->n; i++) {
        const bench_req *r = &p->reqs[i];
        if (r->end_ns == 0) continue;
        starts[n] = r->start_ns;
        ends[n++] = r->end_ns;
    }
    if (rc == 0) s->peak_concurrent = bench_peak_overlap(starts, ends, n);
    free(starts);
    free(ends);
    uint32_t best = 0;
    for (size_t i = 0; i < BENCH_MAX_SECONDS; i++) {
        if (run->tokens_by_second[i] > best) best = run->tokens_by_second[i];
    }
    s->peak_output_rate = best;
    return rc;
}

static int take_probes(bench_stats *s, const bench_run *run) {
    s->probes.v = array_new(run->n_probes ? run->n_probes : 1, sizeof(double));
    if (s->probes.v == NULL) return -1;
    for (size_t i = 0; i < run->n_probes; i++) {
        const bench_req *r = run->probes[i];
        if (r->outcome == BENCH_OK) push(&s->probes, seconds(r->start_ns, r->last_ns));
        s->probes_failed += r->outcome == BENCH_FAILED;
    }
    qsort(s->probes.v, s->probes.n, sizeof(double), by_value);
    return 0;
}

int bench_stats_create(bench_stats *out, const bench_plan *p, const bench_opts *o,
                       const bench_run *run, err *e) {
    *out = (bench_stats){0};
    if (take_memory(out, p) != 0 || find_peaks(out, p, run) != 0 || take_probes(out, run) != 0) {
        bench_stats_destroy(out);
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the figures");
    }
    size_t good = 0;
    for (size_t i = 0; i < p->n; i++) {
        const bench_req *r = &p->reqs[i];
        switch (r->outcome) {
        case BENCH_OK:
            add_request(out, r);
            add_depth(out, r);
            good += is_good(r, o);
            break;
        case BENCH_CANCELLED: out->cancelled++; break;
        case BENCH_FAILED: out->failed++; break;
        default: out->abandoned++; break;
        }
    }
    out->duration_s = seconds(run->start_ns, run->end_ns);
    double d = out->duration_s > 0 ? out->duration_s : NAN;
    out->request_rate = (double)out->completed / d;
    out->goodput = (double)good / d;
    out->output_rate = (double)out->output_tokens / d;
    out->total_rate = (double)(out->input_tokens + out->output_tokens) / d;
    out->mean_depth =
        out->loops && out->loop_tokens ? (double)out->loops / (double)out->loop_tokens : NAN;
    for (int m = 0; m < BENCH_METRICS; m++) {
        qsort(out->series[m].v, out->series[m].n, sizeof(double), by_value);
    }
    return 0;
}

void bench_stats_destroy(bench_stats *s) {
    for (int m = 0; m < BENCH_METRICS; m++)
        free(s->series[m].v);
    free(s->probes.v);
    *s = (bench_stats){0};
}
