/* plot.c - throughput by mode against the bound, depths, and for each mode the rows of its launches
 * over time. */
#include "base/gnuplot.h"
#include "cli/bench_engine/bench_engine_internal.h"

#include <stdio.h>
#include <string.h>

enum { /* in pixels */
       WIDTH = 1300,
       TITLE = 60,
       TOP = 400,
       SMALL = 230,
};
enum {
    COLUMNS = 3, /* of small panels */
    SHOWN = 200, /* launches of a mode: the file must stay small enough for a page */
};

/* One hue per mode, one lightness per policy; one more hue for drafts. */
static const char *colour_of(const be_mode *mode) {
    bool exact = mode->halted_kv == KV_EXACT;
    switch (mode->batching) {
    case SCHED_FULL: return GNUPLOT_GREY;
    case SCHED_LOCKSTEP: return exact ? GNUPLOT_RED : GNUPLOT_ORANGE;
    case SCHED_DEPTHWISE: break;
    }
    if (mode->drafts) return GNUPLOT_PURPLE;
    if (mode->halted_kv == KV_COLLAPSE) return GNUPLOT_GREEN;
    return exact ? GNUPLOT_BLUE : GNUPLOT_SKY;
}

/* Lines are ordered by sequences, and every number of sequences has the same modes. */
static size_t count_modes(const be_line *lines, size_t n) {
    size_t modes = 1;
    while (modes < n && lines[modes].sequences == lines[0].sequences)
        modes++;
    return modes;
}

/* A panel's area in pixels from the top left corner of the picture. */
static void place(buf *to, uint32_t tall, uint32_t left, uint32_t top, uint32_t wide,
                  uint32_t high) {
    enum { LEFT = 62, RIGHT = 14, ABOVE = 30, BELOW = 46 };
    buf_printf(to, "set lmargin at screen %.4f\nset rmargin at screen %.4f\n",
               (double)(left + LEFT) / WIDTH, (double)(left + wide - RIGHT) / WIDTH);
    buf_printf(to, "set tmargin at screen %.4f\nset bmargin at screen %.4f\n",
               1 - (double)(top + ABOVE) / tall, 1 - (double)(top + high - BELOW) / tall);
}

/* ---- throughput ---- */

static void put_ratio_data(buf *to, const be_line *lines, size_t n, size_t modes) {
    for (size_t mode = 0; mode < modes; mode++) {
        buf_printf(to, "$ratio%zu << EOD\n", mode);
        for (size_t i = mode; i < n; i += modes) {
            size_t group = i / modes, x = group * (modes + 1) + mode;
            buf_printf(to, "%zu %.4f %.4f\n", x, lines[i].ratio, lines[i].bound);
        }
        buf_puts(to, "EOD\n");
    }
}

static void put_ratios(buf *to, const be_line *lines, size_t n, size_t modes) {
    double most = 1;
    for (size_t i = 0; i < n; i++) {
        if (lines[i].ratio > most) most = lines[i].ratio;
        if (lines[i].bound > most) most = lines[i].bound;
    }
    put_ratio_data(to, lines, n, modes);
    buf_puts(to, "set title 'tokens/s in multiples of full'\nset xtics (");
    for (size_t i = 0; i < n; i += modes) {
        size_t group = i / modes, first = group * (modes + 1);
        buf_printf(to, "%s'%u sequence%s' %g", i ? ", " : "", lines[i].sequences,
                   lines[i].sequences == 1 ? "" : "s", (double)first + (double)(modes - 1) / 2);
    }
    /* Room above the bars for the key. */
    buf_printf(to,
               ") scale 0\nset grid noxtics\nset yrange [0:%.3f]\nset xrange [-1:%zu]\n"
               "set key top center horizontal samplen 1 maxrows 2\nset boxwidth 0.85\nplot ",
               1.45 * most, n / modes * (modes + 1) - 1);
    for (size_t mode = 0; mode < modes; mode++) {
        char name[BE_NAME];
        buf_printf(to,
                   "$ratio%zu using 1:2 with boxes lc rgb '%s' title '%s', $ratio%zu using "
                   "1:2:(gprintf('%%.2f', $2)) with labels font ',9' offset 0,0.6 notitle, ",
                   mode, colour_of(lines[mode].mode), be_mode_name(name, lines[mode].mode), mode);
    }
    for (size_t mode = 0; mode < modes; mode++) {
        buf_printf(to,
                   "%s$ratio%zu using ($1-0.42):3:(0.84):(0) with vectors nohead lw 3 lc rgb "
                   "'" GNUPLOT_INK "' %s",
                   mode ? ", " : "", mode, mode ? "notitle" : "title 'bound by the depths'");
    }
    buf_puts(to, "\nset xtics autofreq scale 1\nset grid xtics\nset key off\nset boxwidth 0.8\n");
}

/* ---- depths ---- */

static const be_line *last_depthwise(const be_line *lines, size_t n) {
    const be_line *best = &lines[n - 1];
    for (size_t i = 0; i < n; i++) {
        if (lines[i].mode->batching == SCHED_DEPTHWISE) best = &lines[i];
    }
    return best;
}

static void put_depths(buf *to, const be_line *line) {
    char title[80];
    double most = 0;
    buf_puts(to, "$depths << EOD\n");
    for (uint32_t depth = 1; depth <= line->max_loops; depth++) {
        double percent = 100.0 * (double)line->run->depth[depth] / (double)line->run->positions;
        if (percent > most) most = percent;
        buf_printf(to, "%u %.3f\n", depth, percent);
    }
    (void)snprintf(title, sizeof title, "loops of a position: %% of positions, mean %.2f of %u",
                   line->mean_depth, line->max_loops);
    buf_puts(to, "EOD\n");
    gnuplot_set(to, "title", title);
    buf_printf(to,
               "set xrange [0.4:%u.6]\nset yrange [0:%.3f]\nset xtics 1,%u\nset xlabel 'loops' "
               "offset 0,0.7\n"
               "plot $depths using 1:2 with boxes lc rgb '" GNUPLOT_BLUE "'%s\n"
               "unset xlabel\nset xtics autofreq\n",
               line->max_loops, 1.15 * most, line->max_loops / 16 + 1,
               line->max_loops > 16 ? ""
                                    : ", $depths using 1:2:(gprintf('%.1f', $2)) with labels "
                                      "font ',9' offset 0,0.6");
}

/* ---- launches over time ---- */

static void put_launches(buf *to, const be_line *line, double seconds, uint32_t rows) {
    const be_run *run = line->run;
    char title[120];
    buf_puts(to, "$pool << EOD\n");
    /* A sample is taken when its launch has ended. */
    uint32_t every = run->n_samples / SHOWN + 1;
    double before = 0;
    for (uint32_t i = 0; i < run->n_samples; i += every) {
        double now = run->at_ms[i] / 1e3;
        buf_printf(to, "%.4f %u\n%.4f %u\n", before, run->pool[i], now, run->pool[i]);
        before = now;
    }
    char name[BE_NAME];
    (void)snprintf(title, sizeof title, "%s: rows of a launch, mean %.1f",
                   be_mode_name(name, line->mode), run->pool_mean);
    buf_puts(to, "EOD\n");
    gnuplot_set(to, "title", title);
    buf_printf(
        to,
        "set xrange [0:%.4f]\nset yrange [0:%.1f]\nset xlabel 's' offset 0,0.7\n"
        "plot $pool using 1:2 with filledcurves y1=0 fs solid 0.3 noborder lc rgb '%s', $pool "
        "using 1:2 with lines lw 1 lc rgb '%s'\n",
        seconds, 1.1 * rows, colour_of(line->mode), colour_of(line->mode));
}

/* Small panels of the same axes, so that longer runs and fuller launches are seen as such. */
static void put_all_launches(buf *to, const be_line *lines, size_t modes, uint32_t tall) {
    double seconds = 0;
    uint32_t rows = 1;
    for (size_t i = 0; i < modes; i++) {
        const be_run *run = lines[i].run;
        for (uint32_t k = 0; k < run->n_samples; k++) {
            if (run->at_ms[k] / 1e3 > seconds) seconds = run->at_ms[k] / 1e3;
            if (run->pool[k] > rows) rows = run->pool[k];
        }
    }
    for (uint32_t i = 0; i < modes; i++) {
        uint32_t column = i % COLUMNS, row = i / COLUMNS;
        place(to, tall, column * (WIDTH / COLUMNS), TITLE + TOP + row * SMALL, WIDTH / COLUMNS,
              SMALL);
        put_launches(to, &lines[i], seconds > 0 ? seconds : 1, rows);
    }
}

/* ---- the picture ---- */

int be_plot(const char *file, const be_line *lines, size_t n, const char *title, err *e) {
    size_t modes = count_modes(lines, n);
    uint32_t rows = (uint32_t)(modes + COLUMNS - 1) / COLUMNS, tall = TITLE + TOP + rows * SMALL;
    buf to = {0};
    gnuplot_begin(&to, file, (gnuplot_size){WIDTH, tall});
    gnuplot_panels(&to, 0, 0, title);
    place(&to, tall, 0, TITLE, WIDTH * 3 / 5, TOP);
    put_ratios(&to, lines, n, modes);
    place(&to, tall, WIDTH * 3 / 5, TITLE, WIDTH * 2 / 5, TOP);
    put_depths(&to, last_depthwise(lines, n));
    put_all_launches(&to, &lines[n - modes], modes, tall);
    int rc = gnuplot_draw("--plot", file, &to, e);
    buf_deinit(&to);
    return rc;
}
