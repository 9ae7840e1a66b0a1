/* plot.c - four panels drawn by gnuplot: distribution of TTFT and of ITL, tokens per second over
 * time, and depth of tokens. */
#include "base/gnuplot.h"
#include "loadgen/loadgen_internal.h"

/* Cumulative distribution: percent over milliseconds, at most 400 points. */
static void put_distribution(buf *script, const char *name, const bench_series *series) {
    buf_printf(script, "$%s << EOD\n", name);
    size_t n = series->count < 400 ? series->count : 400;
    for (size_t i = 0; i < n; i++) {
        double percent = n > 1 ? 100.0 * (double)i / (double)(n - 1) : 100;
        double ms = 1e3 * bench_percentile(series->values, series->count, percent);
        buf_printf(script, "%.6g %.6g\n", ms > 1e-2 ? ms : 1e-2, percent);
    }
    if (n == 0) buf_puts(script, "1 0\n");
    buf_puts(script, "EOD\n");
}

static void put_rate(buf *script, const bench_run *run) {
    uint64_t last = (run->end_ns - run->start_ns) / 1000000000u;
    buf_puts(script, "$rate << EOD\n");
    for (uint64_t second = 0; second <= last && second < BENCH_MAX_SECONDS; second++) {
        buf_printf(script, "%llu %u\n", (unsigned long long)second, run->tokens_by_second[second]);
    }
    buf_puts(script, "EOD\n");
}

static void put_depths(buf *script, const bench_run *run) {
    uint64_t sum = 0;
    size_t last = 1;
    for (size_t depth = 0; depth < BENCH_MAX_DEPTH; depth++) {
        sum += run->depth_histogram[depth];
        if (run->depth_histogram[depth]) last = depth;
    }
    buf_puts(script, "$depth << EOD\n");
    for (size_t depth = 1; depth <= last; depth++) {
        buf_printf(script, "%zu %.6g\n", depth,
                   sum ? 100.0 * (double)run->depth_histogram[depth] / (double)sum : 0);
    }
    buf_puts(script, "EOD\n");
}

static void put_panel(buf *script, const char *title, const char *xlabel, const char *ylabel) {
    buf_printf(script, "set title '%s'\nset xlabel '%s'\nset ylabel '%s'\n", title, xlabel, ylabel);
}

static void put_script(buf *script, const bench_stats *stats, const bench_run *run) {
    put_distribution(script, "ttft", &stats->series[BENCH_TTFT]);
    put_distribution(script, "itl", &stats->series[BENCH_ITL]);
    put_rate(script, run);
    put_depths(script, run);
    buf_puts(script, "set multiplot layout 2,2\nc='" GNUPLOT_BLUE "'\n");
    put_panel(script, "Time to first token", "ms", "requests, %");
    buf_puts(script, "set logscale x\nset yrange [0:100]\nplot $ttft with lines lw 2 lc rgb c\n");
    put_panel(script, "Inter-token latency", "ms", "gaps, %");
    buf_puts(script, "plot $itl with lines lw 2 lc rgb c\nunset logscale x\n");
    put_panel(script, "Output tokens", "s", "tokens per second");
    buf_puts(script, "set yrange [0:*]\nplot $rate with steps lw 2 lc rgb c\n");
    put_panel(script, "Depth of tokens", "loops", "tokens, %");
    bool told = false;
    for (size_t depth = 0; depth < BENCH_MAX_DEPTH; depth++)
        told = told || run->depth_histogram[depth] > 0;
    if (!told) {
        buf_puts(script, "set label 1 'the server reported no depth' at graph 0.5,0.5 center\n");
    }
    buf_puts(script, told ? "set xrange [0.4:*]\nset yrange [0:*]\n"
                          : "set xrange [0.4:*]\nset yrange [0:1]\n");
    buf_puts(script, "plot $depth with boxes lc rgb c\nunset multiplot\n");
}

int bench_plot(const char *path, const bench_stats *stats, const bench_run *run, err *e) {
    buf script = {0};
    gnuplot_begin(&script, path, (gnuplot_size){1100, 760});
    put_script(&script, stats, run);
    int rc = gnuplot_draw("--plot", path, &script, e);
    buf_deinit(&script);
    return rc;
}
