/* plot.c - throughput by mode against the bound, depths, and the pool over time. */
#include "cli/bench_engine/bench_engine_internal.h"

#include <stdio.h>
#include <string.h>

static void plot_ratios(FILE *to, const be_line *lines, size_t n) {
    fprintf(to, "$ratios << EOD\n");
    for (size_t i = 0; i < n; i++) {
        fprintf(to, "\"%s\\n%s\\n%u\" %.4f %.4f\n", lines[i].mode->mode, lines[i].mode->policy,
                lines[i].sequences, lines[i].ratio, lines[i].bound);
    }
    fprintf(to, "EOD\nset title 'tokens/s over full'\nset style fill solid 0.6\nset boxwidth "
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

static void plot_depths(FILE *to, const be_line *line) {
    fprintf(to, "$depths << EOD\n");
    for (uint32_t depth = 1; depth <= line->max_loops; depth++) {
        fprintf(to, "%u %.3f\n", depth,
                100.0 * (double)line->run->depth[depth] / (double)line->run->positions);
    }
    fprintf(to,
            "EOD\nset title 'depth of positions, %% (mean %.2f of %u)'\nset xtics auto font ',9'\n"
            "plot $depths using 1:2 with boxes lc rgb '#3b6ea5' notitle\n",
            line->mean_depth, line->max_loops);
}

static void plot_pool(FILE *to, const be_line *lines, size_t n, uint32_t sequences) {
    for (size_t i = 0; i < n; i++) {
        if (lines[i].sequences != sequences) continue;
        fprintf(to, "$pool%zu << EOD\n", i);
        for (uint32_t j = 0; j < lines[i].run->n_samples; j++) {
            fprintf(to, "%.3f %u\n", lines[i].run->at_ms[j] / 1e3, lines[i].run->pool[j]);
        }
        fprintf(to, "EOD\n");
    }
    fprintf(to, "set title 'rows in a recurrent launch, %u sequences'\nset xlabel 's'\nplot ",
            sequences);
    bool any = false;
    for (size_t i = 0; i < n; i++) {
        if (lines[i].sequences != sequences) continue;
        fprintf(to, "%s$pool%zu using 1:2 with lines title '%s %s'", any ? ", " : "", i,
                lines[i].mode->mode, lines[i].mode->policy);
        any = true;
    }
    fprintf(to, "\n");
}

int be_plot(const char *file, const be_line *lines, size_t n, const char *title, err *e) {
    size_t len = strlen(file);
    bool png = len > 4 && strcmp(file + len - 4, ".png") == 0;
    if (strpbrk(file, "'\n\\"))
        return err_set(e, ERR_USAGE, "--plot", "the file name holds a quote");
    FILE *to = popen("gnuplot", "w");
    if (to == NULL) return err_set(e, ERR_IO, "--plot", "cannot start gnuplot");
    fprintf(to,
            "set terminal %s size 1500,1000\nset output '%s'\nset multiplot layout 2,2 title '%s' "
            "noenhanced\n",
            png ? "png" : "svg dynamic background rgb 'white'", file, title);
    plot_ratios(to, lines, n);
    plot_depths(to, last_depthwise(lines, n));
    fprintf(to, "set xtics auto\nset key top right font ',8'\n");
    plot_pool(to, lines, n, lines[0].sequences);
    if (lines[n - 1].sequences != lines[0].sequences)
        plot_pool(to, lines, n, lines[n - 1].sequences);
    fprintf(to, "unset multiplot\n");
    if (pclose(to) != 0) return err_set(e, ERR_IO, "--plot", "gnuplot failed (is it installed?)");
    return 0;
}
