/* command.c - `fathom bench`: checks options, and sets the exit status. */
#include "base/size.h"
#include "loadgen/curl_internal.h"
#include "loadgen/flags_internal.h"
#include "loadgen/loadgen.h"
#include "loadgen/loadgen_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

static int read_rates(bench_opts *opts, const bench_flags *flags, err *e) {
    for (const char *at = flags->rates;; at++) {
        char *end;
        double rate = strtod(at, &end);
        if (end == at || !(rate > 0) || !(rate <= 1e9) || opts->n_rates == BENCH_MAX_RATES ||
            (*end && *end != ',')) {
            return err_set(e, ERR_USAGE, NULL,
                           "--rates takes up to %d numbers above 0, as in 1,2,4, not '%s'",
                           BENCH_MAX_RATES, flags->rates);
        }
        opts->rates[opts->n_rates++] = rate;
        if (*end == 0) break;
        at = end;
    }
    if (opts->ramp || flags->self_timed || !isinf(opts->rate)) {
        return err_set(e, ERR_USAGE, NULL,
                       "--rates cannot be combined with --request-rate, --ramp-up-strategy or "
                       "--self-timed");
    }
    return 0;
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
    if (flags->rates && read_rates(opts, flags, e) != 0) return -1;
    if (flags->rate_seconds > 0 && flags->rates == NULL)
        return err_set(e, ERR_USAGE, NULL, "--rate-seconds goes with --rates");
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

static int run(const bench_flags *flags, bench_opts *opts, err *e) {
    if (bench_curl_open(e) != 0) return -1;
    int rc = bench_steps(flags, opts, e);
    bench_curl_close();
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
        rc = read_opts(&opts, &flags, &base, &url, &e);
        if (rc == 0) rc = read_headers(&opts, &flags, lines, &e);
        if (rc == 0) rc = run(&flags, &opts, &e);
        status = rc == 0 ? 0 : opt_fail(&e);
    }
    json_decref(opts.extra_body);
    for (size_t i = 0; i < OPT_LIST_MAX; i++)
        buf_deinit(&lines[i]);
    buf_deinit(&base);
    buf_deinit(&url);
    free(argv);
    return status;
}
