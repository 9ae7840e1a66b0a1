/* staircase.c - the picture: a band for each number of steps, and in it the share of right answers
 * over the loops allowed. A point marks the loops that the model chooses. */
#include "base/gnuplot.h"
#include "cli/compare/compare_internal.h"
#include "cli/describe.h"

enum { BAND = 44, SIDE = 640, MARGINS = 130 }; /* pixels */

static const ask_run *own_run(const ask_session *ask, kv_policy policy) {
    const ask_run *run = ask->runs;
    while (run->policy != policy || run->max_loops != 0)
        run++;
    return run;
}

static uint32_t most_loops(const ask_session *ask) {
    uint32_t most = ask->default_loops;
    for (size_t i = 0; i < ask->n_runs; i++) {
        if (ask->runs[i].max_loops > most) most = ask->runs[i].max_loops;
    }
    return most;
}

/* A band begins at its index; a share of 100 % reaches 0.8 above. */
static double height(size_t band, const ask_sum *sum) {
    return (double)band + 0.8 * ask_percent(sum) / 100;
}

/* Steps: loop counts between two limits that were tried have the lower one's share. */
static void put_band(buf *script, const ask_session *ask, kv_policy policy, size_t band) {
    double before = (double)band, x = 0.5;
    buf_printf(script, "$%s%zu << EOD\n", kv_policy_name(policy), band);
    for (size_t i = 0; i < ask->n_runs; i++) {
        const ask_run *run = &ask->runs[i];
        if (run->policy != policy || run->max_loops == 0) continue;
        double left = (double)run->max_loops - 0.5, y = height(band, &run->by_step[band]);
        buf_printf(script, "%g %g\n%g %g\n", left > x ? left : x, before, left, y);
        before = y;
        x = left;
    }
    buf_printf(script, "%g %g\nEOD\n", most_loops(ask) + 0.5, before);
}

static void put_own(buf *script, const ask_session *ask, kv_policy policy) {
    const ask_run *own = own_run(ask, policy);
    buf_printf(script, "$%sown << EOD\n", kv_policy_name(policy));
    for (size_t i = 0; i < ask->n_steps; i++)
        buf_printf(script, "%g %g\n", ask_loops(&own->by_step[i]), height(i, &own->by_step[i]));
    buf_puts(script, "EOD\n");
}

static void put_names(buf *script, const ask_session *ask) {
    buf_puts(script, "set ytics (");
    for (size_t i = 0; i < ask->n_steps; i++) {
        buf_puts(script, i ? ", " : "");
        if (ask->steps[i] == 0) buf_puts(script, "'all'");
        else buf_printf(script, "'%u step%s'", ask->steps[i], ask->steps[i] == 1 ? "" : "s");
        buf_printf(script, " %g", (double)i + 0.4);
    }
    buf_puts(script, ") scale 0\n");
}

static void put_panel(buf *script, const ask_session *ask, kv_policy policy, bool alike) {
    char title[120];
    const char *name = kv_policy_name(policy);
    const ask_run *own = own_run(ask, policy);
    (void)snprintf(title, sizeof title, "%s%s: %.0f %% right at %.2f loops on average",
                   alike ? "" : "policy ", alike ? "policies exact and last alike" : name,
                   ask_percent(&own->all), ask_loops(&own->all));
    put_own(script, ask, policy);
    for (size_t i = 0; i < ask->n_steps; i++)
        put_band(script, ask, policy, i);
    gnuplot_set(script, "title", title);
    buf_puts(script, "plot ");
    for (size_t i = 0; i < ask->n_steps; i++) {
        const char *colour = gnuplot_shade((uint32_t)i, (uint32_t)(ask->n_steps - 1));
        buf_printf(script,
                   "$%s%zu using 1:(%zu):2 with filledcurves fs solid 0.35 noborder lc rgb '%s', "
                   "$%s%zu with lines lw 2 lc rgb '%s', ",
                   name, i, i, colour, name, i, colour);
    }
    buf_printf(script, "$%sown with points pt 7 ps 1.1 lc rgb '" GNUPLOT_RED "'\n", name);
}

static bool same(const ask_sum *one, const ask_sum *other) {
    return one->right == other->right && one->loops == other->loops;
}

/* Both policies gave the same figures, so that one panel says all. */
static bool alike(const ask_session *ask) {
    size_t half = ask->n_runs / 2;
    for (size_t i = 0; i < half; i++) {
        for (size_t step = 0; step < ask->n_steps; step++) {
            if (!same(&ask->runs[i].by_step[step], &ask->runs[half + i].by_step[step]))
                return false;
        }
    }
    return true;
}

static void put_frame(buf *script, const ask_session *ask, uint32_t panels, uint32_t tall) {
    uint32_t most = most_loops(ask);
    buf title = {0};
    buf_printf(&title, "%s: right answers by the loops allowed, %zu questions",
               describe_model_name(ask->rt), ask->asked.n);
    gnuplot_begin(script, ask->opts->plot, (gnuplot_size){panels * SIDE, tall});
    gnuplot_set(
        script, "label 1",
        "Height of a band: share of right answers. Points: the loops that the model chooses.");
    buf_printf(script,
               "set label 1 at screen 0.5, screen %.4f center\nset multiplot layout 1,%u title ",
               14.0 / tall, panels);
    gnuplot_string(script, title.data ? title.data : "");
    buf_printf(script,
               "\nset border 1\nset grid noytics\nset xrange [0.5:%g]\nset xtics 1,%u\n"
               "set yrange [-0.15:%g]\nset xlabel 'most loops allowed'\nset bmargin 5\n",
               most + 0.5, most > 16 ? most / 8 : 1, (double)ask->n_steps);
    put_names(script, ask);
    if (title.failed) script->failed = true;
    buf_deinit(&title);
}

int ask_draw(const ask_session *ask, err *e) {
    buf script = {0};
    bool one = alike(ask);
    uint32_t bands = ask->n_steps > 3 ? (uint32_t)ask->n_steps : 3;
    put_frame(&script, ask, one ? 1 : 2, bands * BAND + MARGINS);
    put_panel(&script, ask, KV_EXACT, one);
    if (!one) put_panel(&script, ask, KV_LAST, false);
    int rc = gnuplot_draw("--plot", ask->opts->plot, &script, e);
    buf_deinit(&script);
    return rc;
}
