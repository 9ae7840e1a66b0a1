/* plot.c - throughput by mode against the bound, depths, and the pool over time. */
#include "base/gnuplot.h"
#include "cli/bench_engine/bench_engine_internal.h"

static void plot_ratios(buf *to, const be_line *lines, size_t n) {
    buf_printf(to, "$ratios << EOD\n");
    for (size_t i = 0; i < n; i++) {
        buf_printf(to, "\"%s\\n%s\\n%u\" %.4f %.4f\n", lines[i].mode->mode, lines[i].mode->policy,
                   lines[i].sequences, lines[i].ratio, lines[i].bound);
    }
    buf_printf(to, "EOD\nset title 'tokens/s over full'\nset style fill solid 0.6\nset boxwidth "
                   "0.7\nset yrange [0:*]\n"
                   "set key top left\nset xtics font ',8'\n"
                   "plot $ratios using 0:2:xtic(1) with boxes lc rgb '#3b6ea5' title 'measured', "
                   "$ratios using 0:3 with points pt 9 ps 1 lc rgb '#c0392b' title 'bound'\n");
}

static const be_line *last_depthwise(const be_line *lines, size_t n) {
    const be_line *best = &lines[n - 1];
    for (size_t i = 0; i < n; i++) {
        if (lines[i].mode->batching == SCHED_DEPTHWISE) best = &lines[i];
    }
    return best;
}

static void plot_depths(buf *to, const be_line *line) {
    buf_printf(to, "$depths << EOD\n");
    for (uint32_t depth = 1; depth <= line->max_loops; depth++) {
        buf_printf(to, "%u %.3f\n", depth,
                   100.0 * (double)line->run->depth[depth] / (double)line->run->positions);
    }
    buf_printf(
        to,
        "EOD\nset title 'depth of positions, %% (mean %.2f of %u)'\nset xtics auto font ',9'\n"
        "plot $depths using 1:2 with boxes lc rgb '#3b6ea5' notitle\n",
        line->mean_depth, line->max_loops);
}

static void plot_pool(buf *to, const be_line *lines, size_t n, uint32_t sequences) {
    for (size_t i = 0; i < n; i++) {
        if (lines[i].sequences != sequences) continue;
        buf_printf(to, "$pool%zu << EOD\n", i);
        for (uint32_t j = 0; j < lines[i].run->n_samples; j++) {
            buf_printf(to, "%.3f %u\n", lines[i].run->at_ms[j] / 1e3, lines[i].run->pool[j]);
        }
        buf_printf(to, "EOD\n");
    }
    buf_printf(to, "set title 'rows in a recurrent launch, %u sequences'\nset xlabel 's'\nplot ",
               sequences);
    bool any = false;
    for (size_t i = 0; i < n; i++) {
        if (lines[i].sequences != sequences) continue;
        buf_printf(to, "%s$pool%zu using 1:2 with lines title '%s %s'", any ? ", " : "", i,
                   lines[i].mode->mode, lines[i].mode->policy);
        any = true;
    }
    buf_printf(to, "\n");
}

int be_plot(const char *file, const be_line *lines, size_t n, const char *title, err *e) {
    buf to = {0};
    gnuplot_begin(&to, file, (gnuplot_size){1500, 1000});
    buf_puts(&to, "set multiplot layout 2,2 title ");
    gnuplot_string(&to, title);
    buf_puts(&to, "\n");
    plot_ratios(&to, lines, n);
    plot_depths(&to, last_depthwise(lines, n));
    buf_puts(&to, "set xtics auto\nset key top right font ',8'\n");
    plot_pool(&to, lines, n, lines[0].sequences);
    if (lines[n - 1].sequences != lines[0].sequences)
        plot_pool(&to, lines, n, lines[n - 1].sequences);
    buf_puts(&to, "unset multiplot\n");
    int rc = gnuplot_draw("--plot", file, &to, e);
    buf_deinit(&to);
    return rc;
}
