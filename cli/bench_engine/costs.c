/* costs.c - the costs of launches: read from the command line, or fitted to the table of
 * launches that `fathom bench engine --json` writes. */
#include "cli/bench_engine/costs_internal.h"

#include "base/json.h"
#include "engine/backend.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

double be_experts_of(const be_costs *costs, double rows) {
    if (costs->n_experts == 0) return 0;
    double n = costs->n_experts;
    return n * (1 - pow(1 - costs->experts_per_row / n, rows));
}

double be_launch_ns(const be_costs *costs, const be_launch *launch) {
    const be_stage_cost *cost = &costs->stage[launch->stage];
    double rows = (double)launch->rows - launch->kv_only;
    double ns = cost->launch + cost->row * rows + cost->kv_row * launch->kv_only;
    if (launch->stage == ENG_STAGE_RECURRENT) ns += cost->expert * be_experts_of(costs, rows);
    return ns;
}

/* ---- by hand ---- */

static const char *const stage_names[] = {"prelude", "recurrent", "coda", "host"};

/* Reads up to four numbers with commas; the end of them, or NULL. */
static const char *parse_numbers(const char *at, double out[4]) {
    for (int i = 0; i < 4; i++) {
        char *end;
        out[i] = strtod(at, &end);
        if (end == at || !(out[i] >= 0) || out[i] > 1e15) return NULL;
        if (*end != ',') return end;
        at = end + 1;
    }
    return NULL;
}

static void set_costs(be_costs *out, int which, const double ns[4]) {
    if (which == 3) {
        out->host_launch = ns[0];
        out->host_token = ns[1];
    } else {
        out->stage[which] = (be_stage_cost){ns[0], ns[1], ns[2], ns[3]};
    }
}

int be_costs_parse(be_costs *out, const char *text, err *e) {
    unsigned seen = 0;
    for (const char *at = text; at && *at;) {
        int which = 0;
        size_t len = strcspn(at, "=");
        while (which < 4 &&
               (strlen(stage_names[which]) != len || strncmp(at, stage_names[which], len) != 0))
            which++;
        double ns[4] = {0};
        const char *end = which < 4 && at[len] == '=' ? parse_numbers(at + len + 1, ns) : NULL;
        if (end == NULL || (*end && *end != ' ')) {
            return err_set(
                e, ERR_USAGE, "--costs",
                "--costs: '%.*s' is not one of prelude, recurrent, coda or host with = and "
                "up to four numbers of ns",
                (int)strcspn(at, " "), at);
        }
        set_costs(out, which, ns);
        seen |= 1u << which;
        at = *end ? end + 1 : end;
    }
    if ((seen & 7) == 7) return 0;
    return err_set(e, ERR_USAGE, "--costs",
                   "--costs '%s': give prelude, recurrent and coda in ns, as in 'prelude=20000,100 "
                   "recurrent=90000,500,8000,50 coda=30000,100 host=5000,200': a launch, a row, an "
                   "expert, a row of keys and values only",
                   text);
}

#define USUAL_AGREEMENT 0.9 /* after loop 1 */

int be_agreement_parse(be_costs *out, const char *list, err *e) {
    out->agreement[0] = USUAL_AGREEMENT;
    out->n_agreement = 1;
    if (list == NULL) return 0;
    uint32_t n = 0;
    for (const char *at = list; n < PLAN_MAX_LOOPS;) {
        char *end;
        double part = strtod(at, &end);
        if (end == at || !(part >= 0 && part <= 1) || (*end && *end != ',')) break;
        if (n > 0 && part < out->agreement[n - 1]) break;
        out->agreement[n++] = part;
        out->n_agreement = n;
        if (*end == 0) return 0;
        at = end + 1;
    }
    return err_set(e, ERR_USAGE, "--agreement",
                   "--agreement '%s': give numbers from 0 to 1, none below the one before, as in "
                   "'0.6,0.9'",
                   list);
}

double be_agreement_after(const be_costs *costs, uint32_t done, uint32_t all) {
    uint32_t given = costs->n_agreement;
    if (done >= all || done == 0) return 1;
    if (done <= given) return costs->agreement[done - 1];
    double last = costs->agreement[given - 1];
    return last + (1 - last) * (double)(done - given) / (double)(all - given);
}

void be_costs_print(FILE *to, const be_costs *costs) {
    fprintf(to, "simulated costs:");
    for (int i = 0; i < 3; i++) {
        const be_stage_cost *cost = &costs->stage[i];
        fprintf(to, " %s=%.0f,%.0f,%.0f,%.0f", stage_names[i], cost->launch, cost->row,
                cost->expert, cost->kv_row);
    }
    fprintf(to, " host=%.0f,%.0f\n", costs->host_launch, costs->host_token);
}

void be_depths_of_mean(be_costs *costs, double mean, uint32_t max_loops) {
    double p = 2 / (mean + 1), below = 0, left = p * p;
    costs->n_depths = max_loops;
    if (mean >= max_loops) left = 0; /* every position runs every loop */
    for (uint32_t depth = 1; depth < max_loops; depth++) {
        below += depth * left;
        left *= 1 - p;
        costs->depth_below[depth] = below;
    }
    costs->depth_below[max_loops] = 1;
}

/* ---- fitted: least squares without negative costs ---- */

enum { TERMS = 4 };

typedef struct {
    double sums[TERMS][TERMS], against[TERMS], square; /* weighted sums of x*x, x*y, y*y */
} fit_sums;

static void add_point(fit_sums *sums, const double x[TERMS], double y, double weight) {
    for (int i = 0; i < TERMS; i++) {
        for (int j = 0; j < TERMS; j++)
            sums->sums[i][j] += weight * x[i] * x[j];
        sums->against[i] += weight * x[i] * y;
    }
    sums->square += weight * y * y;
}

/* Solves for the terms in `mask`, the others being 0, by elimination with scaled pivots. False if
 * the points do not tell them apart, or one comes out negative. */
static bool solve(const fit_sums *sums, unsigned mask, double out[TERMS]) {
    double rows[TERMS][TERMS + 1];
    int term[TERMS], n = 0;
    for (int i = 0; i < TERMS; i++) {
        out[i] = 0;
        if (mask & 1u << i) term[n++] = i;
    }
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < n; j++)
            rows[i][j] = sums->sums[term[i]][term[j]];
        rows[i][n] = sums->against[term[i]];
    }
    for (int i = 0; i < n; i++) { /* the sums are positive definite: no row is swapped */
        if (rows[i][i] <= 1e-9 * sums->sums[term[i]][term[i]] || rows[i][i] <= 0) return false;
        for (int k = 0; k < n; k++) {
            double times = k == i ? 0 : rows[k][i] / rows[i][i];
            for (int j = i; j <= n && times != 0; j++)
                rows[k][j] -= times * rows[i][j];
        }
    }
    for (int i = 0; i < n; i++) {
        out[term[i]] = rows[i][n] / rows[i][i];
        if (out[term[i]] < 0) return false;
    }
    return true;
}

static void fit(const fit_sums *sums, double out[TERMS]) {
    double least = INFINITY, tried[TERMS];
    memset(out, 0, TERMS * sizeof *out);
    for (unsigned mask = 1; mask < 1u << TERMS; mask++) {
        if (!solve(sums, mask, tried)) continue;
        double left = sums->square;
        for (int i = 0; i < TERMS; i++)
            left -= tried[i] * sums->against[i];
        if (left < least * (1 - 1e-9)) {
            least = left;
            memcpy(out, tried, sizeof tried);
        }
    }
}

/* ---- a file of results ---- */

typedef struct {
    be_costs *costs;
    fit_sums stage[3], host;
    double depths[PLAN_MAX_LOOPS + 1];
    uint32_t n_depths;
} fitting;

static double number(const json_t *object, const char *name) {
    return json_number_value(json_object_get(object, name));
}

/* `n` launches of these rows took `ns` each. */
static void add_launches(fitting *to, const be_launch *launch, double ns, double n) {
    if (launch->rows == 0 || ns <= 0) return;
    double rows = (double)launch->rows - launch->kv_only;
    bool loops = launch->stage == ENG_STAGE_RECURRENT;
    double x[TERMS] = {1, rows, loops ? be_experts_of(to->costs, rows) : 0, launch->kv_only};
    add_point(&to->stage[launch->stage], x, ns, n / launch->rows);
}

static be_launch launch_of(const json_t *row) {
    uint32_t column[5];
    for (size_t i = 0; i < 5; i++) {
        double x = json_number_value(json_array_get(row, i));
        column[i] = x >= 0 && x < 1e9 ? (uint32_t)x : 0;
    }
    return (be_launch){.stage = column[0] > ENG_STAGE_CODA ? ENG_STAGE_CODA : (uint8_t)column[0],
                       .rows = column[1],
                       .tails = column[2],
                       .kv_only = column[3] < column[1] ? column[3] : column[1],
                       .waiting = column[4]};
}

static double add_table(fitting *to, const json_t *table) {
    double busy = 0;
    for (size_t i = 0; i < json_array_size(table); i++) {
        const json_t *row = json_array_get(table, i);
        be_launch launch = launch_of(row);
        double ns = json_number_value(json_array_get(row, 5));
        add_launches(to, &launch, ns, 1);
        busy += ns;
    }
    return busy;
}

/* Results without a table still tell the mean launch of each stage. */
static double add_means(fitting *to, const json_t *run) {
    double busy = 0;
    for (int stage = 0; stage < 3; stage++) {
        const json_t *told = json_object_get(run, stage_names[stage]);
        double n = number(told, "launches"), ns = number(told, "seconds") * 1e9;
        if (n < 1) continue;
        be_launch launch = {.stage = (uint8_t)stage,
                            .rows = (uint32_t)(number(told, "rows") / n + 0.5)};
        add_launches(to, &launch, ns / n, n);
        busy += ns;
    }
    return busy;
}

static void add_run(fitting *to, const json_t *run) {
    const json_t *table = json_object_get(run, "launches");
    double busy = json_array_size(table) ? add_table(to, table) : add_means(to, run), n = 0;
    for (int stage = 0; stage < 3; stage++)
        n += number(json_object_get(run, stage_names[stage]), "launches");
    double host = number(run, "seconds") * 1e9 - busy;
    if (host > 0 && n > 0)
        add_point(&to->host, (double[TERMS]){n, number(run, "tokens")}, host, 1 / n);
    const json_t *depths = json_object_get(run, "depth_histogram");
    size_t last = json_array_size(depths);
    for (size_t d = 1; d < last && d <= PLAN_MAX_LOOPS; d++) {
        to->depths[d] += json_number_value(json_array_get(depths, d));
        if (d > to->n_depths) to->n_depths = (uint32_t)d;
    }
}

static void finish(const fitting *from, be_costs *out) {
    double terms[TERMS];
    for (int stage = 0; stage < 3; stage++) {
        fit(&from->stage[stage], terms);
        out->stage[stage] = (be_stage_cost){terms[0], terms[1], terms[2], terms[3]};
    }
    fit(&from->host, terms);
    out->host_launch = terms[0];
    out->host_token = terms[1];
    double all = 0, below = 0;
    for (uint32_t d = 1; d <= from->n_depths; d++)
        all += from->depths[d];
    for (uint32_t d = 1; d <= from->n_depths && all > 0; d++)
        out->depth_below[d] = (below += from->depths[d]) / all;
    out->n_depths = from->n_depths;
}

int be_costs_fit(be_costs *out, const char *path, err *e) {
    static const json_limits limits = {256u << 20, 8, 64u << 20};
    buf text = {0};
    json_t *root = NULL;
    fitting sums = {.costs = out};
    int rc = opt_read_file(&text, "--simulate-from", path, limits.max_bytes, e);
    if (rc == 0) rc = json_parse(&root, text.data ? text.data : "", text.len, &limits, path, e);
    const json_t *runs = json_object_get(root, "runs");
    for (size_t i = 0; rc == 0 && i < json_array_size(runs); i++)
        add_run(&sums, json_array_get(runs, i));
    if (rc == 0) {
        finish(&sums, out);
        if (out->stage[ENG_STAGE_RECURRENT].launch + out->stage[ENG_STAGE_RECURRENT].row <= 0 ||
            out->n_depths == 0)
            rc = err_set(e, ERR_USAGE, "--simulate-from",
                         "--simulate-from %s: no runs of 'fathom bench engine --json' in it", path);
    }
    json_decref(root);
    buf_deinit(&text);
    return rc;
}
