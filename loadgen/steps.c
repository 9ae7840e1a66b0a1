/* steps.c - the steps of `fathom bench`: waits for the server, warms it up, runs, reports, saves.
 */
#include "base/clock.h"
#include "base/gnuplot.h"
#include "base/size.h"
#include "loadgen/flags_internal.h"
#include "loadgen/loadgen_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- before the run ---- */

static int wait_ready(const bench_opts *opts, err *e) {
    uint64_t until = clock_ns() + (uint64_t)(opts->ready_timeout_s * 1e9);
    long status = 0;
    for (;;) {
        buf answer = {0};
        err why = {0};
        int rc = bench_get(opts, "/health", BENCH_GET_S, &answer, &status, &why);
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
    int rc = bench_get(opts, "/v1/models", BENCH_GET_S, &answer, &status, e);
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
    const char *label = flags->label ? flags->label : flags->backend;
    if (opts->n_rates) buf_printf(out, "%s-%zurates", label, opts->n_rates);
    else buf_printf(out, "%s-%gqps", label, opts->rate);
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

/* Keeps a run of several for the end, or writes the only one. */
static int keep(const bench_flags *flags, const bench_opts *opts, const bench_plan *plan,
                const bench_run *run, const bench_stats *stats, bench_sweep *sweep, err *e) {
    bool saved = flags->save || flags->append || flags->result_file;
    json_t *result = saved ? bench_json(stats, plan, opts, run, flags->label, flags->metadata.items,
                                        flags->metadata.n)
                           : NULL;
    if (saved && result == NULL)
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the result");
    if (sweep) return bench_sweep_add(sweep, opts, stats, result, e);
    int rc = result ? save(flags, opts, result, e) : 0;
    json_decref(result);
    return rc == 0 && flags->plot ? bench_plot(flags->plot, opts, stats, run, e) : rc;
}

static int report(const bench_flags *flags, const bench_opts *opts, const bench_plan *plan,
                  const bench_run *run, bench_sweep *sweep, err *e) {
    bench_stats stats;
    if (bench_stats_create(&stats, plan, opts, run, e) != 0) return -1;
    bench_print(&stats, plan, opts, run);
    int rc = keep(flags, opts, plan, run, &stats, sweep, e);
    if (rc == 0 && run->interrupted) rc = err_set(e, ERR_IO, NULL, "the run was interrupted");
    if (rc == 0 && stats.completed == 0 && stats.cancelled == 0)
        rc = err_set(e, ERR_IO, NULL, "every request failed");
    bench_stats_destroy(&stats);
    return rc;
}

/* ---- the steps ---- */

/* Reads the metrics while no request runs: they take no time from one. */
static int run_plan(bench_plan *plan, const bench_opts *opts, bench_run *run, err *e) {
    bench_drafts before = bench_drafts_now(opts);
    if (bench_load(plan, opts, run, e) != 0) return -1;
    bench_drafts after = before.known ? bench_drafts_now(opts) : before;
    run->drafts = bench_drafts_between(&before, &after);
    return 0;
}

static int run_once(const bench_flags *flags, const bench_opts *opts, bool warm, bench_sweep *sweep,
                    err *e) {
    bench_plan plan = {0};
    bench_run run = {.tokens_by_second = array_new(BENCH_MAX_SECONDS, sizeof(uint32_t))};
    int rc = run.tokens_by_second ? 0 : err_set(e, ERR_NO_MEMORY, NULL, "out of memory");
    if (rc == 0) rc = bench_plan_create(&plan, opts, e);
    if (rc == 0 && warm && opts->warmups) rc = warm_up(opts, e);
    if (rc == 0) rc = run_plan(&plan, opts, &run, e);
    if (rc == 0) rc = report(flags, opts, &plan, &run, sweep, e);
    bench_plan_destroy(&plan);
    bench_run_deinit(&run);
    return rc;
}

/* One rate after another. What has been run is reported also if a later rate fails. */
static int run_rates(const bench_flags *flags, const bench_opts *opts, err *e) {
    bench_sweep sweep = {0};
    int rc = 0;
    for (size_t i = 0; i < opts->n_rates && rc == 0; i++) {
        bench_opts one = *opts;
        one.rate = opts->rates[i];
        if (flags->rate_seconds > 0) {
            double n = ceil(one.rate * flags->rate_seconds);
            one.n_prompts = n < 1 ? 1 : n > 1e7 ? 10000000 : (uint64_t)n;
        }
        fprintf(stderr, "fathom bench: rate %zu of %zu: %g requests/s, %llu requests\n", i + 1,
                opts->n_rates, one.rate, (unsigned long long)one.n_prompts);
        rc = run_once(flags, &one, i == 0, &sweep, e);
    }
    if (sweep.n > 0) {
        err later = {0};
        bench_sweep_print(&sweep);
        int more = sweep.results ? save(flags, opts, sweep.results, &later) : 0;
        if (more == 0 && flags->plot) more = bench_sweep_plot(flags->plot, opts, &sweep, &later);
        if (rc == 0 && more != 0) *e = later;
        rc = rc == 0 ? more : rc;
    }
    bench_sweep_deinit(&sweep);
    return rc;
}

int bench_steps(const bench_flags *flags, bench_opts *opts, err *e) {
    buf name = {0};
    tokenizer *tok = NULL;
    int rc = flags->plot ? gnuplot_check("--plot", flags->plot, e) : 0;
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
    if (rc == 0)
        rc = opts->n_rates ? run_rates(flags, opts, e) : run_once(flags, opts, true, NULL, e);
    buf_deinit(&name);
    tokenizer_close(tok);
    return rc;
}
