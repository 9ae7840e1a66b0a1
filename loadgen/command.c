/* command.c - `fathom bench`: options, order of a run, exit status. */
#include "base/clock.h"
#include "base/size.h"
#include "loadgen/loadgen.h"
#include "loadgen/loadgen_internal.h"

#include <curl/curl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* ---- what the command line says, before it is checked ---- */

typedef struct {
    const char *tokenizer;
    const char *url, *host, *backend, *endpoint, *model, *dataset, *dataset_path;
    const char *rate, *ramp, *extra_body, *percentiles, *metrics, *request_id_prefix;
    uint64_t port, n_prompts, input_len, output_len, prefix_len, vocab_size, seed, concurrency;
    uint64_t warmups, top_k, logprobs, hash_chunk;
    double burstiness, ramp_start, ramp_end, range_ratio, cancel_rate, ready_s, timeout_s;
    double temperature, top_p, min_p, repetition_penalty;
    double probe_rate, trace_seconds;
    bool self_timed;
    bool ignore_eos, return_depth, insecure, quiet, save, detailed, append;
    opt_list goodput, headers, metadata;
    const char *result_dir, *result_file, *label, *plot;
} flags;

static const double UNSET = -1; /* of a REAL that is only sent when given */
static const uint64_t NO_LOGPROBS = 1 << 20;

/* Flags of vllm's that take several values after one name. opt_parse knows one value for a
 * flag, so the flag is repeated before each. Free the result. */
static char **repeat_flags(int *argc, char **argv) {
    static const char *const many[] = {"--goodput", "--metadata", "--header"};
    char **out = array_new((size_t)*argc * 2 + 1, sizeof *out);
    if (out == NULL) return NULL;
    char *open = NULL;
    int n = 0;
    for (int i = 0; i < *argc; i++) {
        if (argv[i][0] == '-' && argv[i][1] == '-') {
            open = NULL;
            for (size_t k = 0; k < ARRAY_LEN(many); k++) {
                if (strcmp(argv[i], many[k]) == 0) open = argv[i];
            }
        } else if (open && out[n - 1] != open) {
            out[n++] = open;
        }
        out[n++] = argv[i];
    }
    *argc = n;
    return out;
}

static int parse(flags *f, int argc, char **argv) {
    const opt_row options[] = {
        {"--url", OPT_TEXT, &f->url, "URL",
         "server, as http://127.0.0.1:8080 (or --host and --port)", 0, 0, false},
        {"--base-url", OPT_TEXT, &f->url, "URL", "the same", 0, 0, false},
        {"--host", OPT_TEXT, &f->host, "NAME", "server's address (default 127.0.0.1)", 0, 0, false},
        {"--port", OPT_UINT, &f->port, "N", "server's port (default 8080)", 1, 65535, false},
        {"--backend", OPT_CHOICE, &f->backend, "openai|vllm|openai-chat",
         "completions or chat (default openai)", 0, 0, false},
        {"--endpoint", OPT_TEXT, &f->endpoint, "PATH",
         "path of the route (default /v1/completions or /v1/chat/completions)", 0, 0, false},
        {"--model", OPT_TEXT, &f->model, "NAME",
         "model asked for (default: the first of /v1/models)", 0, 0, false},
        {"--header", OPT_TEXT_MANY, &f->headers, "K=V", "sent with every request", 0, 0, false},
        {"--insecure", OPT_FLAG, &f->insecure, NULL, "accept any TLS certificate", 0, 0, false},
        {"--dataset-name", OPT_CHOICE, &f->dataset, "random|custom|timed_trace",
         "kind of prompts (default random)", 0, 0, false},
        {"--dataset-path", OPT_TEXT, &f->dataset_path, "FILE",
         "lines of JSON: {prompt, output_tokens} or a Mooncake trace", 0, 0, false},
        {"--tokenizer", OPT_TEXT, &f->tokenizer, "DIR",
         "model folder: random prompts from its tokens", 0, 0, false},
        {"--self-timed", OPT_FLAG, &f->self_timed, NULL,
         "timed_trace: requests at the trace's own times", 0, 0, false},
        {"--timed-trace-sec-multiplier", OPT_REAL, &f->trace_seconds, "S",
         "seconds in a unit of timestamp (default 1)", 1e-9, 1e6, false},
        {"--timed-trace-chunk-hash-size", OPT_UINT, &f->hash_chunk, "N",
         "tokens behind a hash id (default 16)", 1, 1 << 20, false},
        {"--num-prompts", OPT_UINT, &f->n_prompts, "N", "requests (default 1000)", 1, 10000000,
         false},
        {"--input-len", OPT_UINT, &f->input_len, "N",
         "random: prompt tokens, words for chat (default 1024)", 1, 1 << 20, false},
        {"--random-input-len", OPT_UINT, &f->input_len, "N", "the same", 1, 1 << 20, false},
        {"--output-len", OPT_UINT, &f->output_len, "N", "most output tokens (default 128)", 1,
         1 << 20, false},
        {"--random-output-len", OPT_UINT, &f->output_len, "N", "the same", 1, 1 << 20, false},
        {"--random-range-ratio", OPT_REAL, &f->range_ratio, "R",
         "lengths vary by this share both ways (default 0)", 0, 0.999, false},
        {"--random-prefix-len", OPT_UINT, &f->prefix_len, "N",
         "random: leading tokens all prompts share (default 0)", 0, 1 << 20, false},
        {"--vocab-size", OPT_UINT, &f->vocab_size, "N",
         "random: token ids below this (default 256)", 1, 1 << 24, false},
        {"--request-rate", OPT_TEXT, &f->rate, "R",
         "requests per second (default inf: all at once)", 0, 0, false},
        {"--burstiness", OPT_REAL, &f->burstiness, "B",
         "shape of the gaps: 1 Poisson, less is burstier", 1e-3, 1e6, false},
        {"--ramp-up-strategy", OPT_CHOICE, &f->ramp, "linear|exponential",
         "the rate climbs over the run", 0, 0, false},
        {"--ramp-up-start-rps", OPT_REAL, &f->ramp_start, "R", "first rate of the ramp", 1e-6, 1e9,
         false},
        {"--ramp-up-end-rps", OPT_REAL, &f->ramp_end, "R", "last rate of the ramp", 1e-6, 1e9,
         false},
        {"--max-concurrency", OPT_UINT, &f->concurrency, "N",
         "requests in flight at most (closed loop)", 1, 1000000, false},
        {"--cancel-rate", OPT_REAL, &f->cancel_rate, "P",
         "share of requests whose client leaves mid-stream", 0, 1, false},
        {"--probe-request-rate", OPT_REAL, &f->probe_rate, "R",
         "one-token requests a second beside the load, reported apart", 0, 1e5, false},
        {"--num-warmups", OPT_UINT, &f->warmups, "N",
         "requests before the measured ones (default 0)", 0, 100000, false},
        {"--ready-check-timeout-sec", OPT_REAL, &f->ready_s, "S",
         "wait for GET /health (default 0: do not ask)", 0, 86400, false},
        {"--timeout-sec", OPT_REAL, &f->timeout_s, "S", "longest request (default 3600)", 0.001,
         86400, false},
        {"--ignore-eos", OPT_FLAG, &f->ignore_eos, NULL, "ask for exactly --output-len tokens", 0,
         0, false},
        {"--return-depth", OPT_FLAG, &f->return_depth, NULL,
         "ask for each token's depth: histogram", 0, 0, false},
        {"--logprobs", OPT_UINT, &f->logprobs, "N", "ask for logprobs", 0, 20, false},
        {"--temperature", OPT_REAL, &f->temperature, "T", "0 = greedy (default: the server's)", 0,
         2, false},
        {"--top-p", OPT_REAL, &f->top_p, "P", "of the sampler (default: the server's)", 0, 1,
         false},
        {"--min-p", OPT_REAL, &f->min_p, "P", "of the sampler (default: the server's)", 0, 1,
         false},
        {"--top-k", OPT_UINT, &f->top_k, "N", "of the sampler (default: the server's)", 1, 1 << 24,
         false},
        {"--repetition-penalty", OPT_REAL, &f->repetition_penalty, "R",
         "of the sampler (default: the server's)", 0.01, 10, false},
        {"--extra-body", OPT_TEXT, &f->extra_body, "JSON",
         "merged into every body, as {\"depth\":{\"max_loops\":4}}", 0, 0, false},
        {"--request-id-prefix", OPT_TEXT, &f->request_id_prefix, "TEXT",
         "send X-Request-Id: TEXT0, TEXT1, …", 0, 0, false},
        {"--seed", OPT_UINT, &f->seed, "N", "of prompts, arrivals and cancels (default 0)", 0, 1e18,
         false},
        {"--percentile-metrics", OPT_TEXT, &f->metrics, "LIST",
         "of ttft,tpot,itl,e2el,client_queue_time,e2el_including_client_queue", 0, 0, false},
        {"--metric-percentiles", OPT_TEXT, &f->percentiles, "LIST",
         "percentiles told, with commas (default 99)", 0, 0, false},
        {"--goodput", OPT_TEXT_MANY, &f->goodput, "M:MS",
         "requests per second that keep all of ttft:MS tpot:MS e2el:MS", 0, 0, false},
        {"--save-result", OPT_FLAG, &f->save, NULL, "write the figures as JSON", 0, 0, false},
        {"--save-detailed", OPT_FLAG, &f->detailed, NULL, "with every request's latencies and text",
         0, 0, false},
        {"--append-result", OPT_FLAG, &f->append, NULL, "add a line to the file instead", 0, 0,
         false},
        {"--result-dir", OPT_TEXT, &f->result_dir, "DIR", "folder of the file (default .)", 0, 0,
         false},
        {"--result-filename", OPT_TEXT, &f->result_file, "FILE",
         "name of the file (default LABEL-RATEqps[-concurrencyN]-MODEL-TIME.json)", 0, 0, false},
        {"--label", OPT_TEXT, &f->label, "TEXT", "name of the run (default: the backend)", 0, 0,
         false},
        {"--metadata", OPT_TEXT_MANY, &f->metadata, "K=V", "kept with the result", 0, 0, false},
        {"--plot", OPT_TEXT, &f->plot, "FILE", ".svg or .png, drawn by gnuplot", 0, 0, false},
        {"--disable-tqdm", OPT_FLAG, &f->quiet, NULL, "no progress on stderr", 0, 0, false},
    };
    const opt_command command = {
        "bench",
        "load generator with the flags and figures of `vllm bench serve`\n\n"
        "Latencies of an open loop count from the scheduled start. Without HTTP: 'fathom bench "
        "engine', 'fathom bench kernels'.",
        "fathom bench --url http://127.0.0.1:8080 --num-prompts 64 --input-len 32 --output-len 32 "
        "--max-concurrency 8 --return-depth",
        options,
        ARRAY_LEN(options),
    };
    return opt_parse(&command, argc, argv);
}

/* ---- flags to options ---- */

static int positive(const char *text, const char *what, double *out, err *e) {
    char *end;
    *out = strtod(text, &end);
    if (end == text || *end || !(*out > 0)) {
        return err_set(e, ERR_USAGE, NULL, "%s takes a number above 0, not '%s'", what, text);
    }
    return 0;
}

static int read_goodput(bench_opts *o, const opt_list *list, err *e) {
    for (size_t i = 0; i < list->n; i++) {
        const char *text = list->items[i], *colon = strchr(text, ':');
        size_t n = colon ? (size_t)(colon - text) : 0;
        double *to = n == 4 && memcmp(text, "ttft", 4) == 0   ? &o->slo_ttft_ms
                     : n == 4 && memcmp(text, "tpot", 4) == 0 ? &o->slo_tpot_ms
                     : n == 4 && memcmp(text, "e2el", 4) == 0 ? &o->slo_e2el_ms
                                                              : NULL;
        if (to == NULL)
            return err_set(e, ERR_USAGE, NULL,
                           "--goodput takes ttft:MS, tpot:MS or e2el:MS, not '%s'", text);
        if (positive(colon + 1, "--goodput", to, e) != 0) return -1;
    }
    return 0;
}

static int read_percentiles(bench_opts *o, const char *list, err *e) {
    for (const char *p = list; *p;) {
        char *end;
        double v = strtod(p, &end);
        if (end == p || !(v >= 0) || v > 100 || (*end && *end != ',')) {
            return err_set(
                e, ERR_USAGE, NULL,
                "--metric-percentiles takes numbers from 0 to 100, as in 50,99, not '%s'", list);
        }
        if (o->n_percentiles == BENCH_MAX_PERCENTILES) {
            return err_set(e, ERR_USAGE, NULL, "--metric-percentiles takes at most %d",
                           BENCH_MAX_PERCENTILES);
        }
        o->percentiles[o->n_percentiles++] = v;
        p = end + (*end == ',');
    }
    return 0;
}

static int check_metrics(const char *list, err *e) {
    for (const char *p = list; *p;) {
        size_t n = strcspn(p, ","), m = 0;
        while (m < BENCH_METRICS &&
               !(strlen(bench_metric_name[m]) == n && memcmp(bench_metric_name[m], p, n) == 0))
            m++;
        if (m == BENCH_METRICS)
            return err_set(e, ERR_USAGE, NULL, "--percentile-metrics does not know '%.*s'", (int)n,
                           p);
        p += n + (p[n] == ',');
    }
    return 0;
}

static double given(double v) {
    return v < 0 ? NAN : v; /* UNSET */
}

static int read_load(bench_opts *o, const flags *f, err *e) {
    o->rate = INFINITY;
    if (strcmp(f->rate, "inf") != 0 && positive(f->rate, "--request-rate", &o->rate, e) != 0)
        return -1;
    if (f->ramp) {
        o->ramp = true;
        o->ramp_exponential = strcmp(f->ramp, "exponential") == 0;
        if (f->ramp_start < 0 || f->ramp_end < 0) {
            return err_set(e, ERR_USAGE, NULL,
                           "--ramp-up-strategy needs --ramp-up-start-rps and --ramp-up-end-rps");
        }
        if (!isinf(o->rate))
            return err_set(e, ERR_USAGE, NULL,
                           "--ramp-up-strategy takes the place of --request-rate");
    }
    bool trace = strcmp(f->dataset, "timed_trace") == 0;
    if (strcmp(f->dataset, "random") != 0 && f->dataset_path == NULL) {
        return err_set(e, ERR_USAGE, NULL, "--dataset-name %s needs --dataset-path", f->dataset);
    }
    if (f->self_timed && (!trace || o->ramp || !isinf(o->rate))) {
        return err_set(e, ERR_USAGE, NULL,
                       "--self-timed goes with timed_trace and takes the place of a rate");
    }
    if (trace && o->chat) {
        return err_set(e, ERR_USAGE, NULL, "timed_trace asks for completions, not chats");
    }
    return 0;
}

static int read_extra(bench_opts *o, const char *text, err *e) {
    if (text == NULL) return 0;
    json_error_t why;
    o->extra_body = json_loads(text, JSON_REJECT_DUPLICATES, &why);
    if (!json_is_object(o->extra_body)) {
        return err_set(e, ERR_USAGE, NULL, "--extra-body takes a JSON object: %s",
                       o->extra_body ? "this is none" : why.text);
    }
    return 0;
}

/* "K=V" becomes "K: V" in place of the argument; the copies live as long as the process. */
static int read_headers(bench_opts *o, flags *f, buf *lines, err *e) {
    for (size_t i = 0; i < f->headers.n; i++) {
        const char *text = f->headers.items[i], *eq = strchr(text, '=');
        if (eq == NULL || eq == text)
            return err_set(e, ERR_USAGE, NULL, "--header takes K=V, not '%s'", text);
        buf_printf(&lines[i], "%.*s: %s", (int)(eq - text), text, eq + 1);
        if (lines[i].failed) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory");
        f->headers.items[i] = lines[i].data;
    }
    /* As the SDKs do: a key in the environment is used. */
    static char bearer[512];
    const char *key = getenv("OPENAI_API_KEY");
    if (key && *key && f->headers.n < OPT_LIST_MAX) {
        (void)snprintf(bearer, sizeof bearer, "Authorization: Bearer %s", key);
        f->headers.items[f->headers.n++] = bearer;
    }
    o->headers = f->headers.items;
    o->n_headers = f->headers.n;
    return 0;
}

static int check_metadata(const opt_list *list, err *e) {
    for (size_t i = 0; i < list->n; i++) {
        const char *eq = strchr(list->items[i], '=');
        if (eq == NULL || eq == list->items[i]) {
            return err_set(e, ERR_USAGE, NULL, "--metadata takes K=V, not '%s'", list->items[i]);
        }
    }
    return 0;
}

static int read_opts(bench_opts *o, flags *f, buf *base, buf *url, err *e) {
    *o = (bench_opts){
        .chat = strcmp(f->backend, "openai-chat") == 0,
        .model = f->model,
        .dataset = f->dataset,
        .dataset_path = f->dataset_path,
        .n_prompts = f->n_prompts,
        .input_len = f->input_len,
        .output_len = f->output_len,
        .prefix_len = f->prefix_len,
        .vocab_size = f->vocab_size,
        .seed = f->seed,
        .range_ratio = f->range_ratio,
        .burstiness = f->burstiness,
        .ramp_start = f->ramp_start,
        .ramp_end = f->ramp_end,
        .max_concurrency = f->concurrency,
        .probe_rate = f->probe_rate,
        .self_timed = f->self_timed,
        .trace_seconds = f->trace_seconds,
        .hash_chunk = f->hash_chunk,
        .cancel_rate = f->cancel_rate,
        .warmups = f->warmups,
        .ready_timeout_s = f->ready_s,
        .request_timeout_s = f->timeout_s,
        .ignore_eos = f->ignore_eos,
        .return_depth = f->return_depth,
        .want_logprobs = f->logprobs != NO_LOGPROBS,
        .logprobs = f->logprobs,
        .insecure = f->insecure,
        .quiet = f->quiet,
        .detailed = f->detailed,
        .temperature = given(f->temperature),
        .top_p = given(f->top_p),
        .min_p = given(f->min_p),
        .repetition_penalty = given(f->repetition_penalty),
        .top_k = f->top_k,
        .request_id_prefix = f->request_id_prefix,
        .percentile_metrics = f->metrics,
        .slo_ttft_ms = NAN,
        .slo_tpot_ms = NAN,
        .slo_e2el_ms = NAN,
    };
    if (f->url) buf_printf(base, "%s%s", strstr(f->url, "://") ? "" : "http://", f->url);
    else buf_printf(base, "http://%s:%llu", f->host, (unsigned long long)f->port);
    while (base->len && base->data[base->len - 1] == '/')
        base->data[--base->len] = 0;
    const char *path = f->endpoint ? f->endpoint
                       : o->chat   ? "/v1/chat/completions"
                                   : "/v1/completions";
    buf_printf(url, "%s%s%s", base->data, path[0] == '/' ? "" : "/", path);
    if (base->failed || url->failed) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory");
    o->base_url = base->data;
    o->url = url->data;
    o->endpoint = path;
    if (read_load(o, f, e) != 0 || read_goodput(o, &f->goodput, e) != 0) return -1;
    if (read_percentiles(o, f->percentiles, e) != 0 || check_metrics(f->metrics, e) != 0) return -1;
    return check_metadata(&f->metadata, e) != 0 ? -1 : read_extra(o, f->extra_body, e);
}

/* ---- before the run ---- */

static int wait_ready(const bench_opts *o, err *e) {
    uint64_t until = clock_ns() + (uint64_t)(o->ready_timeout_s * 1e9);
    long status = 0;
    for (;;) {
        buf answer = {0};
        err why = {0};
        int rc = bench_get(o, "/health", &answer, &status, &why);
        buf_deinit(&answer);
        if (rc == 0 && status == 200) return 0;
        if (clock_ns() >= until) {
            return err_set(e, ERR_IO, NULL, "not ready after %g s: %s", o->ready_timeout_s,
                           rc == 0 ? "/health did not answer 200" : why.msg);
        }
        (void)nanosleep(&(struct timespec){.tv_nsec = 200000000}, NULL);
    }
}

static int find_model(const bench_opts *o, buf *name, err *e) {
    static const json_limits limits = {
        .max_bytes = 1 << 20, .max_depth = 16, .max_structural = 1 << 16};
    buf answer = {.max = 1 << 20};
    long status = 0;
    json_t *root = NULL;
    int rc = bench_get(o, "/v1/models", &answer, &status, e);
    if (rc == 0 && status != 200)
        rc = err_set(e, ERR_IO, NULL, "/v1/models answered %ld: give --model", status);
    if (rc == 0) rc = json_parse(&root, answer.data, answer.len, &limits, "/v1/models", e);
    if (rc == 0) {
        const char *id = json_string_value(
            json_object_get(json_array_get(json_object_get(root, "data"), 0), "id"));
        if (id) buf_puts(name, id);
        if (id == NULL || name->failed)
            rc = err_set(e, ERR_IO, NULL, "/v1/models names no model: give --model");
    }
    json_decref(root);
    buf_deinit(&answer);
    return rc;
}

static int warm_up(const bench_opts *o, err *e) {
    bench_opts w = *o;
    w.n_prompts = o->warmups;
    w.rate = INFINITY;
    w.ramp = w.detailed = false;
    w.cancel_rate = w.probe_rate = 0;
    w.self_timed = false;
    w.quiet = true;
    w.seed =
        o->seed + 1000003; /* other prompts: the prefix cache must not know the measured ones */
    bench_plan plan;
    bench_run did = {.tokens_by_second = array_new(BENCH_MAX_SECONDS, sizeof(uint32_t))};
    if (did.tokens_by_second == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory");
    int rc = bench_plan_create(&plan, &w, e);
    if (rc == 0) {
        rc = bench_load(&plan, &w, &did, e);
        if (rc == 0 && plan.reqs[0].outcome == BENCH_FAILED) {
            rc = err_set(e, ERR_IO, NULL, "a warm-up failed: %s", plan.reqs[0].error);
        }
        bench_plan_destroy(&plan);
    }
    bench_run_deinit(&did);
    return rc;
}

/* ---- after it ---- */

static void file_name(buf *out, const flags *f, const bench_opts *o) {
    buf_printf(out, "%s/", f->result_dir);
    if (f->result_file) {
        buf_puts(out, f->result_file);
        return;
    }
    char date[32];
    time_t now = (time_t)clock_unix_s();
    struct tm tm;
    (void)strftime(date, sizeof date, "%Y%m%d-%H%M%S", gmtime_r(&now, &tm));
    const char *slash = strrchr(o->model, '/');
    buf_printf(out, "%s-%gqps", f->label ? f->label : f->backend, o->rate);
    if (o->max_concurrency)
        buf_printf(out, "-concurrency%llu", (unsigned long long)o->max_concurrency);
    buf_printf(out, "-%s-%s.json", slash ? slash + 1 : o->model, date);
}

static int save(const flags *f, const bench_opts *o, json_t *result, err *e) {
    buf path = {0};
    file_name(&path, f, o);
    char *text = json_dumps(result, f->append ? JSON_COMPACT : JSON_INDENT(1));
    int rc = 0;
    if (path.failed || text == NULL)
        rc = err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the result");
    FILE *file = rc == 0 ? fopen(path.data, f->append ? "a" : "w") : NULL;
    if (rc == 0 && file == NULL) rc = err_set(e, ERR_IO, NULL, "cannot write %s", path.data);
    if (file) {
        bool bad = fprintf(file, "%s\n", text) < 0;
        if (fclose(file) != 0 || bad) rc = err_set(e, ERR_IO, NULL, "cannot write %s", path.data);
        if (rc == 0) fprintf(stderr, "fathom bench: result in %s\n", path.data);
    }
    free(text);
    buf_deinit(&path);
    return rc;
}

static int report(const flags *f, const bench_opts *o, const bench_plan *plan, const bench_run *did,
                  err *e) {
    bench_stats stats;
    if (bench_stats_create(&stats, plan, o, did, e) != 0) return -1;
    bench_print(&stats, plan, o, did);
    int rc = 0;
    if (f->save || f->append || f->result_file) {
        json_t *result =
            bench_json(&stats, plan, o, did, f->label, f->metadata.items, f->metadata.n);
        rc = result ? save(f, o, result, e)
                    : err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the result");
        json_decref(result);
    }
    if (rc == 0 && f->plot) rc = bench_plot(f->plot, &stats, did, e);
    if (rc == 0 && did->interrupted) rc = err_set(e, ERR_IO, NULL, "interrupted");
    if (rc == 0 && stats.completed == 0 && stats.cancelled == 0)
        rc = err_set(e, ERR_IO, NULL, "every request failed");
    bench_stats_destroy(&stats);
    return rc;
}

static int run_all(const flags *f, bench_opts *o, err *e) {
    buf name = {0};
    bench_plan plan = {0};
    tokenizer *spelling = NULL;
    bench_run did = {.tokens_by_second = array_new(BENCH_MAX_SECONDS, sizeof(uint32_t))};
    int rc = did.tokens_by_second ? 0 : err_set(e, ERR_NO_MEMORY, NULL, "out of memory");
    if (rc == 0 && o->ready_timeout_s > 0) rc = wait_ready(o, e);
    if (rc == 0 && o->model == NULL) {
        rc = find_model(o, &name, e);
        o->model = name.data;
    }
    if (rc == 0 && f->tokenizer) rc = tokenizer_open(&spelling, f->tokenizer, UINT32_MAX, e);
    if (spelling) {
        o->tokenizer = spelling;
        o->vocab_size = tokenizer_size(spelling);
    }
    if (rc == 0) rc = bench_plan_create(&plan, o, e);
    if (rc == 0 && o->warmups) rc = warm_up(o, e);
    if (rc == 0) rc = bench_load(&plan, o, &did, e);
    if (rc == 0) rc = report(f, o, &plan, &did, e);
    bench_plan_destroy(&plan);
    bench_run_deinit(&did);
    buf_deinit(&name);
    tokenizer_close(spelling);
    return rc;
}

int cmd_bench(int argc, char **argv) {
    flags f = {
        .host = "127.0.0.1",
        .port = 8080,
        .backend = "openai",
        .dataset = "random",
        .n_prompts = 1000,
        .input_len = 1024,
        .output_len = 128,
        .vocab_size = 256,
        .hash_chunk = 16,
        .trace_seconds = 1,
        .rate = "inf",
        .burstiness = 1,
        .ramp_start = UNSET,
        .ramp_end = UNSET,
        .timeout_s = 3600,
        .temperature = UNSET,
        .top_p = UNSET,
        .min_p = UNSET,
        .repetition_penalty = UNSET,
        .logprobs = NO_LOGPROBS,
        .metrics = "ttft,tpot,itl",
        .percentiles = "99",
        .result_dir = ".",
    };
    char **args = repeat_flags(&argc, argv);
    if (args == NULL) return EXIT_FAILED;
    int rc = parse(&f, argc, args);
    bench_opts o = {0};
    buf base = {0}, url = {0}, lines[OPT_LIST_MAX] = {{0}};
    err e = {0};
    int status = rc > 0 ? 0 : EXIT_USAGE;
    if (rc == 0) {
        f.detailed = f.detailed && (f.save || f.append || f.result_file);
        curl_global_init(CURL_GLOBAL_DEFAULT);
        rc = read_opts(&o, &f, &base, &url, &e);
        if (rc == 0) rc = read_headers(&o, &f, lines, &e);
        if (rc == 0) rc = run_all(&f, &o, &e);
        status = rc == 0 ? 0 : opt_fail(&e);
        curl_global_cleanup();
    }
    json_decref(o.extra_body);
    for (size_t i = 0; i < OPT_LIST_MAX; i++)
        buf_deinit(&lines[i]);
    buf_deinit(&base);
    buf_deinit(&url);
    free(args);
    return status;
}
