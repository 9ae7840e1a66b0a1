/* command.c - `fathom bench`: checks options, runs the steps, sets the exit status. */
#include "base/clock.h"
#include "base/gnuplot.h"
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

static int read_goodput(bench_opts *opts, const opt_list *list, err *e) {
    for (size_t i = 0; i < list->n; i++) {
        const char *text = list->items[i], *colon = strchr(text, ':');
        size_t n = colon ? (size_t)(colon - text) : 0;
        double *to = n == 4 && memcmp(text, "ttft", 4) == 0   ? &opts->slo_ttft_ms
                     : n == 4 && memcmp(text, "tpot", 4) == 0 ? &opts->slo_tpot_ms
                     : n == 4 && memcmp(text, "e2el", 4) == 0 ? &opts->slo_e2el_ms
                                                              : NULL;
        if (to == NULL)
            return err_set(e, ERR_USAGE, NULL,
                           "--goodput takes ttft:MS, tpot:MS or e2el:MS, not '%s'", text);
        if (positive(colon + 1, "--goodput", to, e) != 0) return -1;
    }
    return 0;
}

static int read_percentiles(bench_opts *opts, const char *list, err *e) {
    for (const char *at = list; *at;) {
        char *end;
        double value = strtod(at, &end);
        if (end == at || !(value >= 0) || value > 100 || (*end && *end != ',')) {
            return err_set(
                e, ERR_USAGE, NULL,
                "--metric-percentiles takes numbers from 0 to 100, as in 50,99, not '%s'", list);
        }
        if (opts->n_percentiles == BENCH_MAX_PERCENTILES) {
            return err_set(e, ERR_USAGE, NULL, "--metric-percentiles takes at most %d numbers",
                           BENCH_MAX_PERCENTILES);
        }
        opts->percentiles[opts->n_percentiles++] = value;
        at = end + (*end == ',');
    }
    return 0;
}

static int check_metrics(const char *list, err *e) {
    for (const char *at = list; *at;) {
        size_t n = strcspn(at, ","), metric = 0;
        while (metric < BENCH_METRICS && !(strlen(bench_metric_name[metric]) == n &&
                                           memcmp(bench_metric_name[metric], at, n) == 0))
            metric++;
        if (metric == BENCH_METRICS)
            return err_set(e, ERR_USAGE, NULL, "--percentile-metrics: there is no figure '%.*s'",
                           (int)n, at);
        at += n + (at[n] == ',');
    }
    return 0;
}

static double given(double value) {
    return value < 0 ? NAN : value; /* not given */
}

static int read_load(bench_opts *opts, const bench_flags *flags, err *e) {
    opts->rate = INFINITY;
    if (strcmp(flags->rate, "inf") != 0 &&
        positive(flags->rate, "--request-rate", &opts->rate, e) != 0)
        return -1;
    if (flags->ramp) {
        opts->ramp = true;
        opts->ramp_exponential = strcmp(flags->ramp, "exponential") == 0;
        if (flags->ramp_start < 0 || flags->ramp_end < 0) {
            return err_set(e, ERR_USAGE, NULL,
                           "--ramp-up-strategy needs --ramp-up-start-rps and --ramp-up-end-rps");
        }
        if (!isinf(opts->rate))
            return err_set(e, ERR_USAGE, NULL,
                           "--ramp-up-strategy cannot be combined with --request-rate");
    }
    bool trace = strcmp(flags->dataset, "timed_trace") == 0;
    bool made =
        strcmp(flags->dataset, "random") == 0 || strcmp(flags->dataset, "prefix_repetition") == 0;
    if (!made && flags->dataset_path == NULL) {
        return err_set(e, ERR_USAGE, NULL, "--dataset-name %s needs --dataset-path",
                       flags->dataset);
    }
    if (flags->self_timed && (!trace || opts->ramp || !isinf(opts->rate))) {
        return err_set(e, ERR_USAGE, NULL,
                       "--self-timed needs --dataset-name timed_trace and cannot be combined with "
                       "a request rate");
    }
    if (strcmp(flags->dataset, "prefix_repetition") == 0 && flags->n_prefixes > flags->n_prompts) {
        return err_set(e, ERR_USAGE, NULL,
                       "--prefix-repetition-num-prefixes is %llu and exceeds --num-prompts",
                       (unsigned long long)flags->n_prefixes);
    }
    if (flags->custom_output == 0)
        return err_set(e, ERR_USAGE, NULL, "--custom-output-len takes -1 or a number from 1");
    if (flags->sonnet_prefix >= flags->sonnet_input && strcmp(flags->dataset, "sonnet") == 0) {
        return err_set(
            e, ERR_USAGE, NULL,
            "--sonnet-prefix-len must be below --sonnet-input-len, which includes the prefix");
    }
    if (trace && opts->chat) {
        return err_set(
            e, ERR_USAGE, NULL,
            "--dataset-name timed_trace needs a backend of completions, not openai-chat");
    }
    return 0;
}

static int read_extra(bench_opts *opts, const char *text, err *e) {
    if (text == NULL) return 0;
    json_error_t why;
    opts->extra_body = json_loads(text, JSON_REJECT_DUPLICATES, &why);
    if (!json_is_object(opts->extra_body)) {
        return err_set(e, ERR_USAGE, NULL, "--extra-body takes a JSON object: %s",
                       opts->extra_body ? "this is JSON, but not an object" : why.text);
    }
    return 0;
}

/* Replaces "K=V" by "K: V"; the copies live as long as the process. */
static int read_headers(bench_opts *opts, bench_flags *flags, buf *lines, err *e) {
    for (size_t i = 0; i < flags->headers.n; i++) {
        const char *text = flags->headers.items[i], *eq = strchr(text, '=');
        if (eq == NULL || eq == text)
            return err_set(e, ERR_USAGE, NULL, "--header takes K=V, not '%s'", text);
        buf_printf(&lines[i], "%.*s: %s", (int)(eq - text), text, eq + 1);
        if (lines[i].failed) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory");
        flags->headers.items[i] = lines[i].data;
    }
    /* A key in the environment is used, as OpenAI's SDKs do. */
    static char bearer[512];
    const char *key = getenv("OPENAI_API_KEY");
    if (key && *key && flags->headers.n < OPT_LIST_MAX) {
        (void)snprintf(bearer, sizeof bearer, "Authorization: Bearer %s", key);
        flags->headers.items[flags->headers.n++] = bearer;
    }
    opts->headers = flags->headers.items;
    opts->n_headers = flags->headers.n;
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

static int read_opts(bench_opts *opts, bench_flags *flags, buf *base, buf *url, err *e) {
    *opts = (bench_opts){
        .chat = strcmp(flags->backend, "openai-chat") == 0,
        .model = flags->served_name ? flags->served_name : flags->model,
        .dataset = flags->dataset,
        .dataset_path = flags->dataset_path,
        .n_prompts = flags->n_prompts,
        .input_len = flags->input_len,
        .output_len = flags->output_len,
        .prefix_len = flags->prefix_len,
        .vocab_size = flags->vocab_size,
        .seed = flags->seed,
        .range_ratio = flags->range_ratio,
        .burstiness = flags->burstiness,
        .ramp_start = flags->ramp_start,
        .ramp_end = flags->ramp_end,
        .max_concurrency = flags->concurrency,
        .probe_rate = flags->probe_rate,
        .self_timed = flags->self_timed,
        .trace_seconds = flags->trace_seconds,
        .hash_chunk = flags->hash_chunk,
        .no_oversample = flags->no_oversample,
        .custom_output = flags->custom_output > 0 ? (uint64_t)flags->custom_output : 0,
        .sharegpt_output = flags->sharegpt_output,
        .sonnet_input = flags->sonnet_input,
        .sonnet_prefix = flags->sonnet_prefix,
        .sonnet_output = flags->sonnet_output,
        .shared_prefix = flags->shared_prefix,
        .shared_suffix = flags->shared_suffix,
        .n_prefixes = flags->n_prefixes,
        .shared_output = flags->shared_output,
        .cancel_rate = flags->cancel_rate,
        .warmups = flags->warmups,
        .ready_timeout_s = flags->ready_s,
        .request_timeout_s = flags->timeout_s,
        .ignore_eos = flags->ignore_eos,
        .return_depth = flags->return_depth,
        .want_logprobs = flags->logprobs != BENCH_NO_LOGPROBS,
        .logprobs = flags->logprobs,
        .insecure = flags->insecure,
        .quiet = flags->quiet,
        .detailed = flags->detailed,
        .temperature = given(flags->temperature),
        .top_p = given(flags->top_p),
        .min_p = given(flags->min_p),
        .repetition_penalty = given(flags->repetition_penalty),
        .presence_penalty = flags->presence_penalty < -2 ? NAN : flags->presence_penalty,
        .frequency_penalty = flags->frequency_penalty < -2 ? NAN : flags->frequency_penalty,
        .top_k = flags->top_k == BENCH_NO_TOP_K ? 0
                 : flags->top_k > 0             ? flags->top_k
                                                : -1,
        .request_id_prefix = flags->request_id_prefix,
        .percentile_metrics = flags->metrics,
        .slo_ttft_ms = NAN,
        .slo_tpot_ms = NAN,
        .slo_e2el_ms = NAN,
    };
    if (flags->url)
        buf_printf(base, "%s%s", strstr(flags->url, "://") ? "" : "http://", flags->url);
    else buf_printf(base, "http://%s:%llu", flags->host, (unsigned long long)flags->port);
    while (base->len && base->data[base->len - 1] == '/')
        base->data[--base->len] = 0;
    const char *path = flags->endpoint ? flags->endpoint
                       : opts->chat    ? "/v1/chat/completions"
                                       : "/v1/completions";
    buf_printf(url, "%s%s%s", base->data, path[0] == '/' ? "" : "/", path);
    if (base->failed || url->failed) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory");
    opts->base_url = base->data;
    opts->url = url->data;
    opts->endpoint = path;
    if (read_load(opts, flags, e) != 0 || read_goodput(opts, &flags->goodput, e) != 0) return -1;
    if (read_percentiles(opts, flags->percentiles, e) != 0 || check_metrics(flags->metrics, e) != 0)
        return -1;
    return check_metadata(&flags->metadata, e) != 0 ? -1 : read_extra(opts, flags->extra_body, e);
}

/* ---- before the run ---- */

static int wait_ready(const bench_opts *opts, err *e) {
    uint64_t until = clock_ns() + (uint64_t)(opts->ready_timeout_s * 1e9);
    long status = 0;
    for (;;) {
        buf answer = {0};
        err why = {0};
        int rc = bench_get(opts, "/health", &answer, &status, &why);
        buf_deinit(&answer);
        if (rc == 0 && status == 200) return 0;
        if (clock_ns() >= until) {
            return err_set(e, ERR_IO, NULL, "the server is not ready after %g s: %s",
                           opts->ready_timeout_s, rc == 0 ? "/health did not answer 200" : why.msg);
        }
        (void)nanosleep(&(struct timespec){.tv_nsec = 200000000}, NULL);
    }
}

static int find_model(const bench_opts *opts, buf *name, err *e) {
    static const json_limits limits = {
        .max_bytes = 1 << 20, .max_depth = 16, .max_structural = 1 << 16};
    buf answer = {.max = 1 << 20};
    long status = 0;
    json_t *root = NULL;
    int rc = bench_get(opts, "/v1/models", &answer, &status, e);
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

static int warm_up(const bench_opts *opts, err *e) {
    bench_opts warm = *opts;
    warm.n_prompts = opts->warmups;
    warm.rate = INFINITY;
    warm.ramp = warm.detailed = false;
    warm.cancel_rate = warm.probe_rate = 0;
    warm.self_timed = false;
    warm.quiet = true;
    warm.seed =
        opts->seed +
        1000003; /* other prompts, so that the prefix cache does not know the measured ones */
    bench_plan plan;
    bench_run run = {.tokens_by_second = array_new(BENCH_MAX_SECONDS, sizeof(uint32_t))};
    if (run.tokens_by_second == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory");
    int rc = bench_plan_create(&plan, &warm, e);
    if (rc == 0) {
        rc = bench_load(&plan, &warm, &run, e);
        if (rc == 0 && plan.reqs[0].outcome == BENCH_FAILED) {
            rc = err_set(e, ERR_IO, NULL, "a warm-up request failed: %s", plan.reqs[0].error);
        }
        bench_plan_destroy(&plan);
    }
    bench_run_deinit(&run);
    return rc;
}

/* ---- after the run ---- */

static void file_name(buf *out, const bench_flags *flags, const bench_opts *opts) {
    buf_printf(out, "%s/", flags->result_dir);
    if (flags->result_file) {
        buf_puts(out, flags->result_file);
        return;
    }
    char date[32];
    time_t now = (time_t)clock_unix_s();
    struct tm tm;
    (void)strftime(date, sizeof date, "%Y%m%d-%H%M%S", gmtime_r(&now, &tm));
    const char *slash = strrchr(opts->model, '/');
    buf_printf(out, "%s-%gqps", flags->label ? flags->label : flags->backend, opts->rate);
    if (opts->max_concurrency)
        buf_printf(out, "-concurrency%llu", (unsigned long long)opts->max_concurrency);
    buf_printf(out, "-%s-%s.json", slash ? slash + 1 : opts->model, date);
}

static int save(const bench_flags *flags, const bench_opts *opts, json_t *result, err *e) {
    buf path = {0};
    file_name(&path, flags, opts);
    char *text = json_dumps(result, flags->append ? JSON_COMPACT : JSON_INDENT(1));
    int rc = 0;
    if (path.failed || text == NULL)
        rc = err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the result");
    FILE *file = rc == 0 ? fopen(path.data, flags->append ? "a" : "w") : NULL;
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

static int report(const bench_flags *flags, const bench_opts *opts, const bench_plan *plan,
                  const bench_run *run, err *e) {
    bench_stats stats;
    if (bench_stats_create(&stats, plan, opts, run, e) != 0) return -1;
    bench_print(&stats, plan, opts, run);
    int rc = 0;
    if (flags->save || flags->append || flags->result_file) {
        json_t *result = bench_json(&stats, plan, opts, run, flags->label, flags->metadata.items,
                                    flags->metadata.n);
        rc = result ? save(flags, opts, result, e)
                    : err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the result");
        json_decref(result);
    }
    if (rc == 0 && flags->plot) rc = bench_plot(flags->plot, opts, &stats, run, e);
    if (rc == 0 && run->interrupted) rc = err_set(e, ERR_IO, NULL, "the run was interrupted");
    if (rc == 0 && stats.completed == 0 && stats.cancelled == 0)
        rc = err_set(e, ERR_IO, NULL, "every request failed");
    bench_stats_destroy(&stats);
    return rc;
}

static int run_all(const bench_flags *flags, bench_opts *opts, err *e) {
    buf name = {0};
    bench_plan plan = {0};
    tokenizer *tok = NULL;
    bench_run run = {.tokens_by_second = array_new(BENCH_MAX_SECONDS, sizeof(uint32_t))};
    int rc = run.tokens_by_second ? 0 : err_set(e, ERR_NO_MEMORY, NULL, "out of memory");
    if (rc == 0 && flags->plot) rc = gnuplot_check("--plot", flags->plot, e);
    if (rc == 0 && opts->ready_timeout_s > 0) rc = wait_ready(opts, e);
    if (rc == 0 && opts->model == NULL) {
        rc = find_model(opts, &name, e);
        opts->model = name.data;
    }
    if (rc == 0 && flags->tokenizer) rc = tokenizer_open(&tok, flags->tokenizer, UINT32_MAX, e);
    if (tok) {
        opts->tokenizer = tok;
        opts->vocab_size = tokenizer_size(tok);
    }
    if (rc == 0) rc = bench_plan_create(&plan, opts, e);
    if (rc == 0 && opts->warmups) rc = warm_up(opts, e);
    if (rc == 0) rc = bench_load(&plan, opts, &run, e);
    if (rc == 0) rc = report(flags, opts, &plan, &run, e);
    bench_plan_destroy(&plan);
    bench_run_deinit(&run);
    buf_deinit(&name);
    tokenizer_close(tok);
    return rc;
}

int cmd_bench(opt_args *args) {
    bench_flags flags = bench_flags_default();
    opt_args repeated = *args;
    char **argv = bench_repeat_flags(&repeated.argc, args->argv);
    if (argv == NULL) return EXIT_FAILED;
    repeated.argv = argv;
    int rc = bench_flags_read(&flags, &repeated);
    args->texts = repeated.texts;
    bench_opts opts = {0};
    buf base = {0}, url = {0}, lines[OPT_LIST_MAX] = {{0}};
    err e = {0};
    int status = rc > 0 ? 0 : EXIT_USAGE;
    if (rc == 0) {
        bench_say_ignored(&flags);
        flags.detailed = flags.detailed && (flags.save || flags.append || flags.result_file);
        curl_global_init(CURL_GLOBAL_DEFAULT);
        rc = read_opts(&opts, &flags, &base, &url, &e);
        if (rc == 0) rc = read_headers(&opts, &flags, lines, &e);
        if (rc == 0) rc = run_all(&flags, &opts, &e);
        status = rc == 0 ? 0 : opt_fail(&e);
        curl_global_cleanup();
    }
    json_decref(opts.extra_body);
    for (size_t i = 0; i < OPT_LIST_MAX; i++)
        buf_deinit(&lines[i]);
    buf_deinit(&base);
    buf_deinit(&url);
    free(argv);
    return status;
}
