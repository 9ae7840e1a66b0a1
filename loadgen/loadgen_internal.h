/* loadgen_internal.h - the parts of `fathom bench`, the load generator.
 *
 *   command.c checks options, and sets the exit status
 *   steps.c   waits for the server, warms it up, runs, reports, saves
 *   sweep.c   runs at several rates: their table and their curve
 *   plan.c    the requests and their times: arrivals, cancels, bodies
 *   flags.c   the command line
 *   prompt.c  prompts and lengths: random, from a file, after a trace
 *   dataset.c vLLM's other data sets: sharegpt, sonnet, prefix_repetition
 *   load.c    the loop: libuv drives libcurl's multi-socket interface
 *   curl.c    libcurl, loaded at run time
 *   conn.c    one transfer: sends a request, reads the events of its answer
 *   sse.c     reads the chunks of a stream in place, without malloc
 *   drafts.c  drafted tokens, from the server's metrics
 *   stats.c   percentiles, goodput, peaks
 *   report.c  the console block and the JSON result
 *   plot.c    gnuplot
 *
 * One thread. Memory that grows with the number of tokens is allocated before the first request
 * is sent. Figures are defined as in `vllm bench serve`, with one addition: the latency of an
 * open-loop request counts from its scheduled time, so a client that falls behind shows as
 * latency. */
#ifndef FATHOM_BENCH_INTERNAL_H
#define FATHOM_BENCH_INTERNAL_H

#include "base/gnuplot.h"
#include "base/json.h"
#include "text/tokenizer.h"

enum {
    BENCH_MAX_DEPTH = 256, /* bins of the histogram; the last counts all deeper tokens too */
    BENCH_MAX_PERCENTILES = 16,
    BENCH_MAX_SECONDS = 86400, /* buckets of the token rate, one a second */
    BENCH_ERROR_BYTES = 160,
    BENCH_MAX_RATES = 32,
    BENCH_DRAFT_PLACES = 64, /* later places are not told apart from none */
};

/* ---- random numbers: the same seed gives the same plan on every machine ---- */
typedef struct {
    uint64_t state[4];
} bench_rng;
void bench_rng_seed(bench_rng *rng, uint64_t seed);
uint64_t bench_rng_next(bench_rng *rng);
double bench_rng_unit(bench_rng *rng);                /* (0, 1) */
uint64_t bench_rng_below(bench_rng *rng, uint64_t n); /* [0, n), n >= 1 */
double bench_rng_gamma(bench_rng *rng, double shape); /* scale 1 */

/* ---- options ---- */
typedef struct {
    const char *base_url; /* without a trailing slash */
    const char *endpoint, *url;
    bool chat;
    const char *model;
    const char *dataset, *dataset_path;
    const tokenizer *tokenizer; /* NULL: without --tokenizer */
    bool self_timed;            /* send at the times of the trace instead of `rate` */
    double trace_seconds;       /* seconds in a unit of the trace's timestamps */
    uint64_t hash_chunk;        /* tokens that a hash id of a trace stands for */
    double probe_rate;          /* one-token requests per second beside the load; 0 = none */
    uint64_t n_prompts, input_len, output_len, prefix_len, vocab_size, seed;
    bool no_oversample;                      /* use each prompt of a file once */
    uint64_t custom_output, sharegpt_output; /* 0 = as in the file */
    uint64_t sonnet_input, sonnet_prefix, sonnet_output;
    uint64_t shared_prefix, shared_suffix, n_prefixes, shared_output; /* prefix_repetition */
    double range_ratio;
    double rate;                   /* requests per second; INFINITY = all at once */
    double rates[BENCH_MAX_RATES]; /* one run for each, instead of `rate` */
    size_t n_rates;
    double burstiness;
    bool ramp, ramp_exponential;
    double ramp_start, ramp_end;
    uint64_t max_concurrency; /* 0 = no limit: open loop */
    double cancel_rate;
    uint64_t warmups;
    double ready_timeout_s, request_timeout_s;
    bool ignore_eos, return_depth, want_logprobs, insecure, quiet, detailed;
    uint64_t logprobs;
    double temperature, top_p, min_p, repetition_penalty; /* NAN = not sent */
    double presence_penalty, frequency_penalty;           /* NAN = not sent */
    int64_t top_k;                                        /* 0 = not sent; -1 = off */
    const char *request_id_prefix;
    json_t *extra_body; /* object or NULL */
    const char *const *headers;
    size_t n_headers;
    /* reporting */
    const char *percentile_metrics;
    double percentiles[BENCH_MAX_PERCENTILES];
    size_t n_percentiles;
    double slo_ttft_ms, slo_tpot_ms, slo_e2el_ms; /* NAN = not given */
} bench_opts;

/* ---- one request: plan and outcome ---- */
typedef enum {
    BENCH_PLANNED,
    BENCH_RUNNING,
    BENCH_OK,
    BENCH_FAILED,
    BENCH_CANCELLED, /* by the plan's cancel rate */
    BENCH_ABANDONED, /* did not end before the run was interrupted */
} bench_outcome;

typedef struct {
    double at_s; /* scheduled time, in seconds from the start of the run */
    uint32_t input_len, output_len;
    uint32_t cancel_after; /* number of chunks until the client leaves; 0 = never */
    uint32_t *ids;         /* prompt of token ids, or */
    char *text;            /* prompt in UTF-8; the other is NULL; both owned by the plan */

    bool probe; /* not part of the load, counted separately */
    bench_outcome outcome;
    long status;       /* HTTP status; 0 = no answer */
    uint64_t due_ns;   /* at_s as a time of the clock */
    uint64_t start_ns; /* due_ns, or later if --max-concurrency delayed the request */
    uint64_t first_ns, last_ns, end_ns;
    float *gaps;                 /* seconds between chunks, n_chunks - 1 of them */
    uint32_t gaps_max, n_chunks; /* chunks with a token */
    bool answered;               /* a chunk with a choice came */
    uint32_t n_depths;           /* tokens with a depth in the chunks */
    uint64_t depth_sum;
    bool has_usage;
    uint64_t usage_input, usage_output, usage_loops; /* loops: 0 = not reported */
    char error[BENCH_ERROR_BYTES];
    buf reply; /* generated text, only with --save-detailed */
} bench_req;

typedef struct {
    bench_req *reqs;
    size_t n_reqs;
    float *gaps; /* memory of all requests' gaps */
    uint32_t *prefix;
} bench_plan;

/* Depends on the options only. Allocates all memory that the run will write. */
int bench_plan_create(bench_plan *out, const bench_opts *opts, err *e) WARN_UNUSED;
void bench_plan_destroy(bench_plan *plan);
/* Fills prompts, lengths and, for a trace, times. May lower plan->n_reqs. */
int bench_prompts(bench_plan *plan, const bench_opts *opts, bench_rng *rng, err *e) WARN_UNUSED;
/* dataset.c: the same, each for one data set. */
int bench_sharegpt(bench_plan *plan, const bench_opts *opts, bench_rng *rng, err *e) WARN_UNUSED;
int bench_sonnet(bench_plan *plan, const bench_opts *opts, bench_rng *rng, err *e) WARN_UNUSED;
int bench_prefix_repetition(bench_plan *plan, const bench_opts *opts, bench_rng *rng,
                            err *e) WARN_UNUSED;
/* prompt.c: helpers of all data sets. */
int bench_no_memory(err *e); /* records it and returns -1 */
/* A random token that is not special. */
uint32_t bench_random_id(const bench_opts *opts, bench_rng *rng);
/* Text of n tokens or, without a tokenizer, of n made-up words; NULL with an error recorded. */
char *bench_random_text(const bench_opts *opts, bench_rng *rng, uint32_t n, err *e) WARN_UNUSED;
/* Fills the plan with copies of its first `got` requests, or shortens it with --no-oversample. */
int bench_oversample(bench_plan *plan, const bench_opts *opts, size_t got, err *e) WARN_UNUSED;
/* JSON body of a request. */
int bench_plan_body(const bench_opts *opts, const bench_req *req, buf *out, err *e) WARN_UNUSED;

/* ---- streams ---- */
typedef struct {
    bool has_choice; /* has non-empty choices */
    bool has_token;  /* of these, one has text, token ids, depths, or a part of a tool call */
    uint32_t n_depths;
    uint16_t depths[256]; /* of all choices; further ones are counted but not kept */
    uint64_t depth_sum;
    const char *text; /* of choices[0]; JSON-escaped bytes inside the event */
    size_t text_len;
    bool has_usage;
    uint64_t usage_input, usage_output, usage_loops;
    bool is_error;
    const char *message; /* of the error; JSON-escaped */
    size_t message_len;
} bench_chunk;

/* One JSON payload. -1: not the JSON object it should be. No allocation. */
int bench_chunk_read(bench_chunk *out, const char *json, size_t n);

enum { BENCH_SSE_HELD = 1 << 20 }; /* bytes of the longest line that may arrive in pieces */
typedef struct {
    buf held;  /* start of an incomplete line */
    bool done; /* [DONE] was seen */
} bench_sse;
/* Calls on_data for each data line that these bytes complete. Stops at the first non-zero result
 * and returns it; returns -1 for a line longer than BENCH_SSE_HELD. */
typedef int (*bench_on_data)(void *ud, const char *json, size_t n);
int bench_sse_feed(bench_sse *sse, const char *bytes, size_t n, bench_on_data on_data, void *ud);
void bench_sse_reset(bench_sse *sse); /* keeps the memory */

/* ---- drafted tokens, as a server counts them ---- */
typedef struct {
    bool known; /* the server answered */
    /* Chains of drafts (vLLM's word: drafts), drafted tokens, right ones. */
    double chains, tokens, accepted;
    double by_place[BENCH_DRAFT_PLACES]; /* right ones, by their place in vLLM's words */
    size_t n_places;                     /* bench_drafts_between: with the last place above 0 */
} bench_drafts;

/* From the text of /metrics. Adds up the samples of a name, and skips all but counters of
 * drafts. */
void bench_drafts_parse(bench_drafts *out, const char *page);
/* Asks the server. Not known if it has no such page or refuses it: no error. Blocks. */
bench_drafts bench_drafts_now(const bench_opts *opts);
/* The difference of two readings. All 0 if it is nothing or unknown. */
bench_drafts bench_drafts_between(const bench_drafts *before, const bench_drafts *after);

/* ---- the run ---- */
typedef struct {
    uint64_t start_ns, end_ns;
    double cpu_s; /* of this process */
    uint64_t chunks, bytes;
    uint32_t *tokens_by_second; /* BENCH_MAX_SECONDS */
    uint64_t depth_histogram[BENCH_MAX_DEPTH];
    bool interrupted;
    bench_req **probes; /* owned, in order of sending */
    size_t n_probes, probes_cap;
    bench_drafts drafts; /* during the run, of all the server's clients */
} bench_run;
void bench_run_deinit(bench_run *run);

/* Runs the plan to its end or to SIGINT, and fills in the outcomes. */
int bench_load(bench_plan *plan, const bench_opts *opts, bench_run *run, err *e) WARN_UNUSED;
/* One blocking GET, given up after wait_s; *status is 0 without an answer. Before and after runs.
 */
int bench_get(const bench_opts *opts, const char *path, double wait_s, buf *out, long *status,
              err *e) WARN_UNUSED;
enum { BENCH_GET_S = 30 }; /* the usual wait_s */

/* ---- figures ---- */
typedef struct {
    double *values;
    size_t count;
} bench_series; /* sorted ascending by bench_stats_create */

typedef enum {
    BENCH_TTFT,
    BENCH_TPOT,
    BENCH_ITL,
    BENCH_E2EL,
    BENCH_QUEUE,
    BENCH_E2EL_QUEUE,
    BENCH_METRICS
} bench_metric;
extern const char *const bench_metric_name[BENCH_METRICS]; /* "ttft" … */

typedef struct {
    size_t completed, failed, cancelled, abandoned;
    double duration_s;
    uint64_t input_tokens, output_tokens;
    double request_rate, goodput, output_rate, total_rate;
    double peak_output_rate; /* NAN: the run took less than 2 s */
    uint64_t peak_concurrent;
    uint64_t loops, loop_tokens;        /* loops that were run, and how many tokens ran them */
    double mean_depth;                  /* NAN = the server reported no depth */
    bench_series series[BENCH_METRICS]; /* seconds */
    bench_series probes;                /* end-to-end, seconds */
    size_t probes_failed;
} bench_stats;

/* numpy's default: linear between the two nearest of n sorted values. NAN when n is 0. */
double bench_percentile(const double *sorted, size_t n, double percent);
double bench_seconds(uint64_t from_ns, uint64_t to_ns); /* 0 if to_ns is the earlier one */
double bench_mean(const double *values, size_t n);
double bench_std(const double *values, size_t n); /* of the population, as in numpy */
/* The largest number of intervals [start, end) that overlap at one time. Sorts both arrays. */
uint64_t bench_peak_overlap(uint64_t *starts, uint64_t *ends, size_t n);
uint32_t bench_req_output_tokens(const bench_req *req);
int bench_stats_create(bench_stats *out, const bench_plan *plan, const bench_opts *opts,
                       const bench_run *run, err *e) WARN_UNUSED;
void bench_stats_destroy(bench_stats *stats);

/* ---- reporting ---- */
bool bench_metric_wanted(const bench_opts *opts, bench_metric metric);
void bench_print(const bench_stats *stats, const bench_plan *plan, const bench_opts *opts,
                 const bench_run *run);
/* New reference; NULL when out of memory. */
json_t *bench_json(const bench_stats *stats, const bench_plan *plan, const bench_opts *opts,
                   const bench_run *run, const char *label, const char *const *metadata,
                   size_t n_metadata) WARN_UNUSED;
/* Begins a picture of two columns. Its title has the model, the server, the date and the load. */
void bench_plot_begin(buf *script, const char *path, gnuplot_size size, uint32_t rows,
                      const bench_opts *opts, const buf *load);
/* path has passed gnuplot_check. */
int bench_plot(const char *path, const bench_opts *opts, const bench_stats *stats,
               const bench_run *run, err *e) WARN_UNUSED;

/* ---- a run at each of several rates ---- */
typedef struct {
    double rate, done_rate, output_rate;       /* requests sent and completed per second; tokens */
    double ttft_ms[2], tpot_ms[2], e2el_ms[2]; /* p50, p99 */
    size_t completed, failed;
} bench_point;

typedef struct {
    bench_point points[BENCH_MAX_RATES];
    size_t n;
    json_t *results; /* {"runs": [...]}; NULL: not saved */
} bench_sweep;
void bench_sweep_deinit(bench_sweep *sweep);
/* Takes the result, which may be NULL, on failure too. */
int bench_sweep_add(bench_sweep *sweep, const bench_opts *opts, const bench_stats *stats,
                    json_t *steal_result, err *e) WARN_UNUSED;
void bench_sweep_print(const bench_sweep *sweep);
/* path has passed gnuplot_check. */
int bench_sweep_plot(const char *path, const bench_opts *opts, const bench_sweep *sweep,
                     err *e) WARN_UNUSED;

#endif
