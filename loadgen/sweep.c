/* sweep.c - runs at several request rates: the table, and the curve of latency over throughput. */
#include "base/gnuplot.h"
#include "loadgen/loadgen_internal.h"

#include <math.h>
#include <stdio.h>

void bench_sweep_deinit(bench_sweep *sweep) {
    json_decref(sweep->results);
    *sweep = (bench_sweep){0};
}

static void percentiles(double out_ms[2], const bench_series *series) {
    out_ms[0] = 1e3 * bench_percentile(series->values, series->count, 50);
    out_ms[1] = 1e3 * bench_percentile(series->values, series->count, 99);
}

int bench_sweep_add(bench_sweep *sweep, const bench_opts *opts, const bench_stats *stats,
                    json_t *steal_result, err *e) {
    bench_point *to = &sweep->points[sweep->n++];
    *to = (bench_point){.rate = opts->rate,
                        .done_rate = stats->request_rate,
                        .output_rate = stats->output_rate,
                        .completed = stats->completed,
                        .failed = stats->failed + stats->abandoned};
    percentiles(to->ttft_ms, &stats->series[BENCH_TTFT]);
    percentiles(to->tpot_ms, &stats->series[BENCH_TPOT]);
    percentiles(to->e2el_ms, &stats->series[BENCH_E2EL]);
    if (steal_result == NULL) return 0;
    if (sweep->results == NULL) sweep->results = json_pack("{s:[]}", "runs");
    /* json_array_append_new takes the result on failure too. */
    if (json_array_append_new(json_object_get(sweep->results, "runs"), steal_result) == 0) return 0;
    return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the results");
}

void bench_sweep_print(const bench_sweep *sweep) {
    printf("\n%10s %10s %8s %8s %10s %19s %19s %21s\n", "rate", "completed", "failed", "req/s",
           "tok/s", "TTFT p50 p99 (ms)", "TPOT p50 p99 (ms)", "E2EL p50 p99 (ms)");
    for (size_t i = 0; i < sweep->n; i++) {
        const bench_point *point = &sweep->points[i];
        printf("%10g %10zu %8zu %8.2f %10.1f %9.2f %9.2f %9.2f %9.2f %10.2f %10.2f\n", point->rate,
               point->completed, point->failed, point->done_rate, point->output_rate,
               point->ttft_ms[0], point->ttft_ms[1], point->tpot_ms[0], point->tpot_ms[1],
               point->e2el_ms[0], point->e2el_ms[1]);
    }
}

/* ---- the curve ---- */

static void put_points(buf *script, const bench_sweep *sweep) {
    buf_puts(script, "$points << EOD\n");
    for (size_t i = 0; i < sweep->n; i++) {
        const bench_point *point = &sweep->points[i];
        if (point->completed == 0) continue;
        buf_printf(script, "%.6g %.6g %.6g %.6g %.6g %.6g %.6g\n", point->rate, point->done_rate,
                   point->output_rate, point->ttft_ms[0], point->ttft_ms[1], point->e2el_ms[0],
                   point->e2el_ms[1]);
    }
    buf_puts(script, "EOD\n");
}

static bool is_wide(const bench_sweep *sweep) {
    double least = INFINITY, most = 0;
    for (size_t i = 0; i < sweep->n; i++) {
        least = fmin(least, sweep->points[i].rate);
        most = fmax(most, sweep->points[i].rate);
    }
    return most > 20 * least;
}

/* Where the server keeps up, the points lie on the dotted line; the knee is where they leave it. */
static void put_throughput(buf *script) {
    gnuplot_set(script, "title", "Throughput: requests completed for requests sent");
    buf_puts(script, "set xlabel 'requests sent per second'\n"
                     "set ylabel 'requests completed per second'\nset key top left reverse Left\n"
                     "plot x with lines dt 3 lc rgb '" GNUPLOT_GREY
                     "' title 'every request at its rate', $points using 1:2 with linespoints pt 7 "
                     "lw 2 lc rgb '" GNUPLOT_BLUE "' title 'completed', $points using "
                     "1:2:(gprintf('%.0f tok/s', $3)) with labels left offset 0.8,-0.7 font ',9' "
                     "notitle\n");
}

static void put_latency(buf *script) {
    static const struct {
        int column;
        const char *name, *colour, *dashes;
    } lines[] = {{7, "end to end, p99", GNUPLOT_RED, "1"},
                 {6, "end to end, p50", GNUPLOT_RED, "2"},
                 {5, "first token, p99", GNUPLOT_BLUE, "1"},
                 {4, "first token, p50", GNUPLOT_BLUE, "2"}};
    gnuplot_set(script, "title", "Latency over throughput, a point for each rate");
    buf_puts(script,
             "unset logscale x\nset logscale y\nset xlabel 'requests completed per second'\n"
             "set ylabel 'ms'\nset key top left reverse Left\nplot ");
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        buf_printf(script,
                   "%s$points using 2:%d with linespoints pt 7 ps 0.8 lw 2 dt %s lc rgb '%s' "
                   "title '%s'",
                   i ? ", " : "", lines[i].column, lines[i].dashes, lines[i].colour, lines[i].name);
    }
    buf_puts(script, "\n");
}

int bench_sweep_plot(const char *path, const bench_opts *opts, const bench_sweep *sweep, err *e) {
    buf script = {0}, load = {0};
    buf_printf(&load, "%zu request rates", sweep->n);
    if (opts->max_concurrency)
        buf_printf(&load, ", at most %llu at once", (unsigned long long)opts->max_concurrency);
    bench_plot_begin(&script, path, (gnuplot_size){1200, 520}, 1, opts, &load);
    put_points(&script, sweep);
    buf_puts(&script,
             is_wide(sweep) ? "set logscale xy\n" : "set xrange [0:*]\nset yrange [0:*]\n");
    put_throughput(&script);
    buf_puts(&script, "unset logscale\nset xrange [*:*]\nset yrange [*:*]\n");
    put_latency(&script);
    int rc = gnuplot_draw("--plot", path, &script, e);
    buf_deinit(&script);
    buf_deinit(&load);
    return rc;
}
