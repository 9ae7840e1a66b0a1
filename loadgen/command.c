/* command.c - `fathom bench`: options, order of a run, exit status. */
#include "base/clock.h"
#include "base/size.h"
#include "loadgen/flags_internal.h"
#include "loadgen/loadgen.h"
#include "loadgen/loadgen_internal.h"

#include <curl/curl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

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
            return err_set(e, ERR_USAGE, NULL, "--metric-percentiles takes at most %d numbers",
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
            return err_set(e, ERR_USAGE, NULL, "--percentile-metrics: there is no figure '%.*s'",
                           (int)n, p);
        p += n + (p[n] == ',');
    }
    return 0;
}

static double given(double v) {
    return v < 0 ? NAN : v; /* not given */
}

static int read_load(bench_opts *o, const bench_flags *f, err *e) {
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
                           "--ramp-up-strategy cannot be combined with --request-rate");
    }
    bool trace = strcmp(f->dataset, "timed_trace") == 0;
    bool made = strcmp(f->dataset, "random") == 0 || strcmp(f->dataset, "prefix_repetition") == 0;
    if (!made && f->dataset_path == NULL) {
        return err_set(e, ERR_USAGE, NULL, "--dataset-name %s needs --dataset-path", f->dataset);
    }
    if (f->self_timed && (!trace || o->ramp || !isinf(o->rate))) {
        return err_set(e, ERR_USAGE, NULL,
                       "--self-timed needs --dataset-name timed_trace and cannot be combined with "
                       "a request rate");
    }
    if (strcmp(f->dataset, "prefix_repetition") == 0 && f->n_prefixes > f->n_prompts) {
        return err_set(e, ERR_USAGE, NULL,
                       "--prefix-repetition-num-prefixes is %llu and exceeds --num-prompts",
                       (unsigned long long)f->n_prefixes);
    }
    if (f->custom_output == 0)
        return err_set(e, ERR_USAGE, NULL, "--custom-output-len takes -1 or a number from 1");
    if (f->sonnet_prefix >= f->sonnet_input && strcmp(f->dataset, "sonnet") == 0) {
        return err_set(
            e, ERR_USAGE, NULL,
            "--sonnet-prefix-len must be below --sonnet-input-len, which includes the prefix");
    }
    if (trace && o->chat) {
        return err_set(
            e, ERR_USAGE, NULL,
            "--dataset-name timed_trace needs a backend of completions, not openai-chat");
    }
    return 0;
}

static int read_extra(bench_opts *o, const char *text, err *e) {
    if (text == NULL) return 0;
    json_error_t why;
    o->extra_body = json_loads(text, JSON_REJECT_DUPLICATES, &why);
    if (!json_is_object(o->extra_body)) {
        return err_set(e, ERR_USAGE, NULL, "--extra-body takes a JSON object: %s",
                       o->extra_body ? "this is JSON, but not an object" : why.text);
    }
    return 0;
}

/* "K=V" becomes "K: V" in place of the argument; the copies live as long as the process. */
static int read_headers(bench_opts *o, bench_flags *f, buf *lines, err *e) {
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

static int read_opts(bench_opts *o, bench_flags *f, buf *base, buf *url, err *e) {
    *o = (bench_opts){
        .chat = strcmp(f->backend, "openai-chat") == 0,
        .model = f->served_name ? f->served_name : f->model,
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
        .no_oversample = f->no_oversample,
        .custom_output = f->custom_output > 0 ? (uint64_t)f->custom_output : 0,
        .sharegpt_output = f->sharegpt_output,
        .sonnet_input = f->sonnet_input,
        .sonnet_prefix = f->sonnet_prefix,
        .sonnet_output = f->sonnet_output,
        .shared_prefix = f->shared_prefix,
        .shared_suffix = f->shared_suffix,
        .n_prefixes = f->n_prefixes,
        .shared_output = f->shared_output,
        .cancel_rate = f->cancel_rate,
        .warmups = f->warmups,
        .ready_timeout_s = f->ready_s,
        .request_timeout_s = f->timeout_s,
        .ignore_eos = f->ignore_eos,
        .return_depth = f->return_depth,
        .want_logprobs = f->logprobs != BENCH_NO_LOGPROBS,
        .logprobs = f->logprobs,
        .insecure = f->insecure,
        .quiet = f->quiet,
        .detailed = f->detailed,
        .temperature = given(f->temperature),
        .top_p = given(f->top_p),
        .min_p = given(f->min_p),
        .repetition_penalty = given(f->repetition_penalty),
        .presence_penalty = f->presence_penalty < -2 ? NAN : f->presence_penalty,
        .frequency_penalty = f->frequency_penalty < -2 ? NAN : f->frequency_penalty,
        .top_k = f->top_k == BENCH_NO_TOP_K ? 0
                 : f->top_k > 0             ? f->top_k
                                            : -1,
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
            return err_set(e, ERR_IO, NULL, "the server is not ready after %g s: %s",
                           o->ready_timeout_s, rc == 0 ? "/health did not answer 200" : why.msg);
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
        rc = err_set(e, ERR_IO, NULL,
                     "/v1/models answered with status %ld; name the model with --model", status);
    if (rc == 0) rc = json_parse(&root, answer.data, answer.len, &limits, "/v1/models", e);
    if (rc == 0) {
        const char *id = json_string_value(
            json_object_get(json_array_get(json_object_get(root, "data"), 0), "id"));
        if (id) buf_puts(name, id);
        if (id == NULL || name->failed)
            rc = err_set(e, ERR_IO, NULL, "/v1/models lists no model; name it with --model");
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
            rc = err_set(e, ERR_IO, NULL, "a warm-up request failed: %s", plan.reqs[0].error);
        }
        bench_plan_destroy(&plan);
    }
    bench_run_deinit(&did);
    return rc;
}

/* ---- after it ---- */

static void file_name(buf *out, const bench_flags *f, const bench_opts *o) {
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

static int save(const bench_flags *f, const bench_opts *o, json_t *result, err *e) {
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
        if (rc == 0) fprintf(stderr, "fathom bench: wrote the result to %s\n", path.data);
    }
    free(text);
    buf_deinit(&path);
    return rc;
}

static int report(const bench_flags *f, const bench_opts *o, const bench_plan *plan,
                  const bench_run *did, err *e) {
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
    if (rc == 0 && did->interrupted) rc = err_set(e, ERR_IO, NULL, "the run was interrupted");
    if (rc == 0 && stats.completed == 0 && stats.cancelled == 0)
        rc = err_set(e, ERR_IO, NULL, "every request failed");
    bench_stats_destroy(&stats);
    return rc;
}

static int run_all(const bench_flags *f, bench_opts *o, err *e) {
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
    bench_flags f = bench_flags_default();
    char **args = bench_repeat_flags(&argc, argv);
    if (args == NULL) return EXIT_FAILED;
    int rc = bench_flags_read(&f, argc, args, opt_parse);
    bench_opts o = {0};
    buf base = {0}, url = {0}, lines[OPT_LIST_MAX] = {{0}};
    err e = {0};
    int status = rc > 0 ? 0 : EXIT_USAGE;
    if (rc == 0) {
        bench_say_ignored(&f);
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
