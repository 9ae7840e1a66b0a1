/* curve.c - the picture of a comparison on a text: agreement with the last loop over loops, and the
 * share of tokens outside the loop by then. */
#include "base/gnuplot.h"
#include "cli/compare/compare_internal.h"

enum { WIDTH = 720, HEIGHT = 440 }; /* pixels */

/* Points may stand in any order, as the option names them; a line needs them rising. */
static void put_points(buf *script, const agreement_curve *curve) {
    buf_puts(script, "$agreement << EOD\n");
    for (uint32_t loops = 1; loops <= curve->default_loops; loops++) {
        for (size_t i = 0; i < curve->n; i++) {
            const agreement_point *point = &curve->points[i];
            if (point->loops == loops)
                buf_printf(script, "%u %g %g\n", loops, point->likeliest, point->drawn);
        }
    }
    buf_puts(script, "EOD\n");
}

static void put_depths(buf *script, const agreement_curve *curve) {
    uint64_t all = 0, left = 0;
    for (uint32_t depth = 0; depth <= PLAN_MAX_LOOPS; depth++)
        all += curve->depths[depth];
    buf_puts(script, "$left << EOD\n");
    for (uint32_t depth = 1; depth <= curve->default_loops; depth++) {
        left += curve->depths[depth];
        buf_printf(script, "%u %g\n", depth, 100.0 * (double)left / (double)(all ? all : 1));
    }
    buf_puts(script, "EOD\n");
}

static void put_title(buf *script, const agreement_curve *curve) {
    buf title = {0};
    buf_printf(&title, "%s: tokens that a loop names as the last one does\n", curve->model_name);
    buf_printf(&title, "%zu tokens, drawn at temperature %g", curve->n_tokens, curve->temperature);
    if (curve->top_p < 1) buf_printf(&title, " and top_p %g", curve->top_p);
    gnuplot_set(script, "title", title.data ? title.data : "");
    if (title.failed) script->failed = true;
    buf_deinit(&title);
}

int curve_draw(const agreement_curve *curve, err *e) {
    buf script = {0};
    uint32_t most = curve->default_loops;
    gnuplot_begin(&script, curve->file, (gnuplot_size){WIDTH, HEIGHT});
    put_title(&script, curve);
    put_points(&script, curve);
    put_depths(&script, curve);
    buf_printf(&script,
               "set xlabel 'loops'\nset ylabel '%% of tokens'\nset xrange [0.8:%g]\n"
               "set xtics 1,%u\nset yrange [0:103]\nset key bottom right\n"
               "plot $left using 1:2 with steps lw 2 lc rgb '" GNUPLOT_GREY
               "' title 'have left the loop', "
               "$agreement using 1:2 with linespoints lw 2 pt 7 lc rgb '" GNUPLOT_BLUE
               "' title 'likeliest token alike', "
               "$agreement using 1:3 with linespoints lw 2 pt 7 lc rgb '" GNUPLOT_ORANGE
               "' title 'drawn token alike'\n",
               most + 0.2, most > 16 ? most / 8 : 1);
    int rc = gnuplot_draw("--plot", curve->file, &script, e);
    buf_deinit(&script);
    return rc;
}
