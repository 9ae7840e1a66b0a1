/* plot.c - four panels drawn by gnuplot: distribution of TTFT and of ITL, tokens per second over
 * time, and depth of tokens. */
#include "base/clock.h"
#include "base/gnuplot.h"
#include "loadgen/loadgen_internal.h"

#include <math.h>
#include <stdio.h>
#include <time.h>

/* ---- a distribution ---- */

/* Tokens that arrive in one read are parted by the microseconds that it takes to look at them. A
 * shorter gap than this (in ms) says how the bytes were cut, and nothing of the server's pace. */
#define ONE_READ_MS 0.02

/* Values below it are at the front. */
static size_t count_one_read(const bench_series *series) {
    size_t n = 0;
    while (n < series->count && 1e3 * series->values[n] < ONE_READ_MS)
        n++;
    return n;
}

/* Percent over milliseconds, at most 400 points. */
static void put_points(buf *script, const char *name, const bench_series *series, size_t from) {
    size_t n = series->count - from, points = n < 400 ? n : 400;
    buf_printf(script, "$%s << EOD\n", name);
    for (size_t i = 0; i < points; i++) {
        size_t at = from + (points > 1 ? i * (n - 1) / (points - 1) : 0);
        buf_printf(script, "%.6g %.6g\n", 1e3 * series->values[at],
                   100.0 * (double)(at + 1) / (double)series->count);
    }
    buf_puts(script, "EOD\n");
}

static void put_mark(buf *script, int tag, const char *name, const char *place, double ms) {
    if (!(ms >= ONE_READ_MS)) return;
    buf_printf(script,
               "set arrow %d from %.6g, graph 0 to %.6g, graph 1 nohead dt 2 lc rgb '" GNUPLOT_RED
               "'\nset label %d '%s' at %.6g, graph 0.06 %s textcolor rgb '" GNUPLOT_RED "'\n",
               tag, ms, ms, tag, name, ms, place);
}

static void put_message(buf *script, const char *text) {
    buf_puts(script, "set label 9 ");
    gnuplot_string(script, text);
    buf_puts(script,
             " at graph 0.5,0.5 center\nunset tics\nunset border\nset xrange [0:1]\n"
             "set yrange [0:1]\nunset xlabel\nunset ylabel\nplot NaN\nunset label\nset border 3\n"
             "set xtics nomirror\nset ytics nomirror\nset tics textcolor rgb '" GNUPLOT_INK "'\n");
}

/* Three digits, or all before the point: %g alone would write 1.23e+03. */
static void write_time(char *out, size_t n, double time, const char *unit) {
    (void)snprintf(out, n, time < 100 ? "%.3g %s" : "%.0f %s", time, unit);
}

static void put_distribution(buf *script, const char *name, const char *what,
                             const bench_series *series, const char *unit) {
    size_t joined = count_one_read(series), n = series->count;
    double p50 = 1e3 * bench_percentile(series->values, n, 50),
           p99 = 1e3 * bench_percentile(series->values, n, 99);
    char title[120];
    int len = snprintf(title, sizeof title, "%s", what);
    if (n > 0) {
        char median[40] = "in one read", most[40];
        if (p50 >= ONE_READ_MS) write_time(median, sizeof median, p50, "ms");
        write_time(most, sizeof most, p99, "ms");
        (void)snprintf(title + len, sizeof title - (size_t)len, ": p50 %s, p99 %s", median, most);
    }
    gnuplot_set(script, "title", title);
    buf_puts(script, "set xrange [*:*]\nset yrange [0:100]\nset xlabel 'ms'\n");
    gnuplot_set(script, "ylabel", unit);
    if (joined == n) {
        put_message(script, n ? "every token came in one read with the one before" : "no values");
        return;
    }
    put_points(script, name, series, joined);
    put_mark(script, 1, "p50", "right offset -0.5,0", p50);
    put_mark(script, 2, "p99", "left offset 0.5,0", p99);
    double share = (double)joined / (double)n;
    if (joined) {
        buf_printf(
            script,
            "set xrange [%g:*]\nset label 3 '%.0f %% came in one read with the token before' "
            "at graph 0.03,%.3f left\n",
            ONE_READ_MS, 100 * share, share > 0.15 ? share - 0.06 : 0.95);
    }
    if (series->values[n - 1] > 20 * series->values[joined]) buf_puts(script, "set logscale x\n");
    buf_printf(script,
               "plot $%s with lines lw 2 lc rgb '" GNUPLOT_BLUE
               "'\nunset logscale x\nunset arrow\nunset label\n",
               name);
}

/* ---- tokens over time ---- */

/* The last second is rarely whole; its tokens count for the part that was run, or not at all. */
static void put_rate(buf *script, const bench_stats *stats, const bench_run *run) {
    double seconds = stats->duration_s;
    uint64_t whole = (uint64_t)seconds;
    double rest = seconds - (double)whole;
    gnuplot_set(script, "title", "Output tokens per second");
    gnuplot_set(script, "ylabel", "tokens/s");
    buf_puts(script, "set xlabel 's'\n");
    if (whole < 2) {
        char text[120];
        (void)snprintf(text, sizeof text,
                       "%.0f tokens/s in a run of %.2f s,\ntoo short for a rate over time",
                       stats->output_rate, seconds);
        put_message(script, text);
        return;
    }
    buf_puts(script, "$rate << EOD\n");
    for (uint64_t second = 0; second <= whole && second < BENCH_MAX_SECONDS; second++) {
        double part = second < whole ? 1 : rest;
        if (part < 0.25) break;
        double tokens = (double)run->tokens_by_second[second] / part;
        buf_printf(script, "%llu %.6g\n%g %.6g\n", (unsigned long long)second, tokens,
                   (double)second + part, tokens);
    }
    buf_printf(script,
               "EOD\nset xrange [0:*]\nset yrange [0:*]\nset key bottom right\n"
               "plot $rate with lines lw 2 lc rgb '" GNUPLOT_BLUE
               "' notitle, %.6g with lines dt 2 lc rgb '" GNUPLOT_RED
               "' title 'mean %.0f'\nset key off\n",
               stats->output_rate, stats->output_rate);
}

/* ---- depth ---- */

static void put_depths(buf *script, const bench_stats *stats, const bench_run *run) {
    uint64_t sum = 0;
    size_t last = 1;
    for (size_t depth = 0; depth < BENCH_MAX_DEPTH; depth++) {
        sum += run->depth_histogram[depth];
        if (run->depth_histogram[depth]) last = depth;
    }
    char title[80] = "Depth of tokens";
    if (sum)
        (void)snprintf(title, sizeof title, "Depth of tokens: mean %.2f loops", stats->mean_depth);
    gnuplot_set(script, "title", title);
    gnuplot_set(script, "ylabel", "tokens, %");
    buf_puts(script, "set xlabel 'loops'\n");
    if (sum == 0) {
        put_message(script,
                    "the server reported no depth\n(--return-depth asks a Fathom server for it)");
        return;
    }
    buf_puts(script, "$depth << EOD\n");
    for (size_t depth = 1; depth <= last; depth++)
        buf_printf(script, "%zu %.6g\n", depth,
                   100.0 * (double)run->depth_histogram[depth] / (double)sum);
    buf_printf(script,
               "EOD\nset xrange [0.4:%zu.6]\nset yrange [0:*]\nset xtics 1,%zu\n"
               "plot $depth with boxes lc rgb '" GNUPLOT_BLUE "'\nset xtics autofreq\n",
               last, last / 16 + 1);
}

/* ---- the picture ---- */

void bench_plot_begin(buf *script, const char *path, gnuplot_size size, uint32_t rows,
                      const bench_opts *opts, const buf *load) {
    buf title = {0};
    char date[32];
    time_t now = (time_t)clock_unix_s();
    struct tm tm;
    (void)strftime(date, sizeof date, "%Y-%m-%d %H:%M UTC", gmtime_r(&now, &tm));
    buf_printf(&title, "%s at %s\n%s, %s", opts->model, opts->base_url, date,
               load->data ? load->data : "");
    gnuplot_begin(script, path, size);
    gnuplot_panels(script, rows, 2, title.data ? title.data : "");
    if (title.failed || load->failed) script->failed = true;
    buf_deinit(&title);
}

static void put_load(buf *out, const bench_opts *opts, const bench_stats *stats) {
    char took[40];
    write_time(took, sizeof took, stats->duration_s, "s");
    buf_printf(out, "%zu of %llu requests in %s, ", stats->completed,
               (unsigned long long)opts->n_prompts, took);
    if (opts->ramp) buf_printf(out, "%g to %g requests/s", opts->ramp_start, opts->ramp_end);
    else if (isinf(opts->rate) && opts->max_concurrency)
        buf_puts(out, "each sent when another has ended");
    else if (isinf(opts->rate)) buf_puts(out, "all sent at once");
    else buf_printf(out, "%g requests/s", opts->rate);
    if (opts->max_concurrency)
        buf_printf(out, ", at most %llu at once", (unsigned long long)opts->max_concurrency);
}

int bench_plot(const char *path, const bench_opts *opts, const bench_stats *stats,
               const bench_run *run, err *e) {
    buf script = {0}, load = {0};
    put_load(&load, opts, stats);
    bench_plot_begin(&script, path, (gnuplot_size){1100, 800}, 2, opts, &load);
    put_distribution(&script, "ttft", "Time to first token", &stats->series[BENCH_TTFT],
                     "requests, %");
    put_distribution(&script, "itl", "Inter-token latency", &stats->series[BENCH_ITL], "gaps, %");
    put_rate(&script, stats, run);
    put_depths(&script, stats, run);
    int rc = gnuplot_draw("--plot", path, &script, e);
    buf_deinit(&script);
    buf_deinit(&load);
    return rc;
}
