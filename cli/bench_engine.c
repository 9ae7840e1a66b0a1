/* bench_engine.c - fathom bench engine: batching modes and policies side by side in one
 * run, on real exits, sampling on. */
#include "base/size.h"
#include "cli/bench_engine/bench_engine_internal.h"
#include "cli/bench_engine/costs_internal.h"
#include "engine/backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const be_mode all_modes[BE_MAX_MODES] = {
    {"full", "exact", SCHED_FULL, KV_EXACT},
    {"lockstep", "exact", SCHED_LOCKSTEP, KV_EXACT},
    {"lockstep", "last", SCHED_LOCKSTEP, KV_LAST},
    {"depthwise", "exact", SCHED_DEPTHWISE, KV_EXACT},
    {"depthwise", "last", SCHED_DEPTHWISE, KV_LAST},
};

typedef struct {
    const char *sequences, *modes, *plot, *clock, *simulate_from, *costs;
    uint64_t prompt_tokens, output_tokens, repeat, seed, flights, rounds, waiting, shared;
    double temperature, top_p, mean_depth;
    bool json, simulate, same_lengths;
} options;

typedef struct {
    be_mode modes[BE_MAX_MODES];
    uint32_t sizes[BE_MAX_SIZES];
    size_t n_modes, n_sizes;
    be_load load;
    uint64_t repeat;
    be_run *runs; /* [size][mode][repeat] */
    be_line *lines;
} bench;

static int parse_sizes(bench *b, const char *text, err *e) {
    for (const char *at = text; *at;) {
        char *end;
        unsigned long n = strtoul(at, &end, 10);
        if (end == at || n < 1 || n > 65536 || b->n_sizes == BE_MAX_SIZES ||
            (*end && *end != ',')) {
            return err_set(e, ERR_USAGE, "--sequences",
                           "'%s': expected up to %d numbers with commas", text, BE_MAX_SIZES);
        }
        b->sizes[b->n_sizes++] = (uint32_t)n;
        at = *end ? end + 1 : end;
    }
    return b->n_sizes ? 0 : err_set(e, ERR_USAGE, "--sequences", "no number given");
}

static bool listed(const char *list, const char *name) {
    size_t n = strlen(name);
    for (const char *at = list; at; at = strchr(at, ',')) {
        if (*at == ',') at++;
        if (strncmp(at, name, n) == 0 && (at[n] == ',' || at[n] == 0)) return true;
    }
    return false;
}

/* `full` always runs: everything is told against it. A mode is meant with both policies
 * unless "mode/policy" names one. */
static int parse_modes(bench *b, const char *list, err *e) {
    for (int i = 0; i < BE_MAX_MODES; i++) {
        char both[40];
        snprintf(both, sizeof both, "%s/%s", all_modes[i].mode, all_modes[i].policy);
        if (i == 0 || list == NULL || listed(list, all_modes[i].mode) || listed(list, both)) {
            b->modes[b->n_modes++] = all_modes[i];
        }
    }
    if (list && b->n_modes == 1 && !listed(list, "full")) {
        return err_set(e, ERR_USAGE, "--modes", "'%s' names none of full, lockstep, depthwise",
                       list);
    }
    return 0;
}

static be_run *run_at(const bench *b, size_t size, size_t mode, uint64_t repeat) {
    return &b->runs[(size * b->n_modes + mode) * b->repeat + repeat];
}

static int run_all(bench *b, const runtime *r, err *e) {
    for (size_t s = 0; s < b->n_sizes; s++) {
        be_tokens first[2] = {{0}, {0}};
        b->load.sequences = b->sizes[s];
        int rc = 0;
        for (uint64_t k = 0; k < b->repeat && rc == 0; k++) {
            for (size_t m = 0; m < b->n_modes && rc == 0; m++) {
                be_run *u = run_at(b, s, m, k);
                rc = be_drive(u, r, &b->modes[m], &b->load, &first[b->modes[m].halted_kv], e);
                if (rc == 0) {
                    fprintf(stderr, "%u sequences, run %llu of %llu, %s %s: %.1f tokens/s\n",
                            b->sizes[s], (unsigned long long)k + 1, (unsigned long long)b->repeat,
                            b->modes[m].mode, b->modes[m].policy, (double)u->tokens / u->seconds);
                }
            }
        }
        be_tokens_deinit(&first[0]);
        be_tokens_deinit(&first[1]);
        if (rc != 0) return -1;
    }
    return 0;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(const double *values, uint64_t n) {
    double sorted[BE_MAX_REPEAT];
    memcpy(sorted, values, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, by_value);
    return n % 2 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
}

static double rate(const be_run *u) {
    return (double)u->tokens / u->seconds;
}

static double loops_ns(const be_run *u) {
    return (double)u->ns[ENG_STAGE_RECURRENT];
}
static double rest_ns(const be_run *u) {
    return u->seconds * 1e9 - loops_ns(u);
}

/* Stage costs are those of `full` beside it: Fr = one loop of one row, F0 = everything
 * else (prelude, coda, head, sampler, host) per position. */
static void costs_of(const bench *b, size_t s, double *f0, double *fr) {
    double f0s[BE_MAX_REPEAT], frs[BE_MAX_REPEAT];
    for (uint64_t k = 0; k < b->repeat; k++) {
        const be_run *full = run_at(b, s, 0, k);
        f0s[k] = rest_ns(full) / (double)full->positions;
        frs[k] = loops_ns(full) / (double)full->rows[ENG_STAGE_RECURRENT];
    }
    *f0 = median(f0s, b->repeat);
    *fr = median(frs, b->repeat);
}

/* Where the time above the bound's went, as parts of the whole: loops that cost more than
 * Fr (launches with fewer rows, or tails), and the rest where it cost more than F0 (coda
 * launches that served fewer rows, more launches). */
static void fill_losses(be_line *line) {
    const be_run *u = line->run;
    double all = u->seconds * 1e9;
    bool full = line->mode->batching == SCHED_FULL;
    double loops = full ? (double)u->rows[ENG_STAGE_RECURRENT] : (double)u->loops;
    line->lost_loops = (loops_ns(u) - loops * line->fr) / all;
    line->lost_rest = (rest_ns(u) - (double)u->positions * line->f0) / all;
    double loops_run = (double)(u->loops + u->tail_rows) / (double)u->positions;
    line->bound_with_tails =
        (line->f0 + line->max_loops * line->fr) / (line->f0 + loops_run * line->fr);
    line->tails = (double)u->tail_rows / (double)u->rows[ENG_STAGE_RECURRENT];
}

static void fill_line(bench *b, be_line *line, size_t s, size_t m, uint32_t loops) {
    double rates[BE_MAX_REPEAT], ratios[BE_MAX_REPEAT], depths[BE_MAX_REPEAT];
    for (uint64_t k = 0; k < b->repeat; k++) {
        const be_run *u = run_at(b, s, m, k);
        rates[k] = rate(u);
        ratios[k] = rates[k] / rate(run_at(b, s, 0, k));
        depths[k] = (double)u->loops / (double)u->positions;
    }
    *line = (be_line){.mode = &b->modes[m], .sequences = b->sizes[s], .max_loops = loops};
    costs_of(b, s, &line->f0, &line->fr);
    line->tokens_per_s = median(rates, b->repeat);
    line->ratio = median(ratios, b->repeat);
    line->mean_depth = median(depths, b->repeat);
    double depth = m == 0 ? loops : line->mean_depth; /* full runs them all */
    line->bound = (line->f0 + loops * line->fr) / (line->f0 + depth * line->fr);
    line->percent = 100 * line->ratio / line->bound;
    uint64_t pick = 0; /* the run nearest to the median */
    for (uint64_t k = 1; k < b->repeat; k++) {
        double d = rates[k] - line->tokens_per_s, best = rates[pick] - line->tokens_per_s;
        if (d * d < best * best) pick = k;
    }
    line->run = run_at(b, s, m, pick);
    fill_losses(line);
}

static int report(bench *b, const runtime *r, const runtime_opts *ro, const options *o, err *e) {
    uint32_t loops = r->sched.default_max_loops ? r->sched.default_max_loops
                                                : model_plan_of(r->model)->loops_default;
    size_t n = 0;
    for (size_t s = 0; s < b->n_sizes; s++) {
        for (size_t m = 0; m < b->n_modes; m++)
            fill_line(b, &b->lines[n++], s, m, loops);
    }
    FILE *people = o->json ? stderr : stdout;
    be_print_head(people, r, ro, &b->load, b->repeat);
    be_print_lines(people, b->lines, n, o->simulate);
    if (o->json) be_print_json(stdout, b->lines, n, r, &b->load, b->repeat);
    if (!o->plot) return 0;
    char title[200];
    snprintf(title, sizeof title, "%s, %s, %u threads", ro->model, r->backend->info.device,
             r->backend->info.threads);
    for (char *c = title; *c; c++) {
        if (*c == '\'' || *c == '\\') *c = '_';
    }
    return be_plot(o->plot, b->lines, n, title, e);
}

static int run_bench(const runtime *r, const runtime_opts *ro, const options *o, bench *b, err *e) {
    b->load.prompt_tokens = (uint32_t)o->prompt_tokens;
    b->load.output_tokens = (uint32_t)o->output_tokens;
    b->load.waiting = (uint32_t)o->waiting;
    b->load.shared = (uint32_t)o->shared;
    b->load.same_lengths = o->same_lengths;
    uint64_t longest = o->prompt_tokens + o->output_tokens;
    if (!o->same_lengths) longest = longest * 3 / 2 + 2;
    if (longest > model_plan_of(r->model)->max_seq_len) {
        return err_set(e, ERR_USAGE, "--prompt-tokens",
                       "prompts and outputs of up to %llu tokens exceed the context of %u",
                       (unsigned long long)longest, model_plan_of(r->model)->max_seq_len);
    }
    size_t n = b->n_sizes * b->n_modes;
    b->runs = array_new(n * b->repeat, sizeof *b->runs);
    b->lines = array_new(n, sizeof *b->lines);
    if (!b->runs || !b->lines)
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the results");
    return run_all(b, r, e) != 0 ? -1 : report(b, r, ro, o, e);
}

/* ---- the simulated device ---- */

static int read_costs(be_costs *costs, const runtime *r, const options *o, err *e) {
    const model_plan *plan = model_plan_of(r->model);
    if (plan->core_ffn == FFN_MOE) {
        costs->n_experts = plan->n_experts;
        costs->experts_per_row = plan->n_experts_per_tok;
    }
    costs->flights = (uint32_t)o->flights;
    if (o->costs && o->mean_depth <= 0)
        return err_set(e, ERR_USAGE, "--mean-depth", "--costs also needs --mean-depth");
    int rc =
        o->costs ? be_costs_parse(costs, o->costs, e) : be_costs_fit(costs, o->simulate_from, e);
    uint32_t loops = r->sched.default_max_loops ? r->sched.default_max_loops : plan->loops_default;
    if (rc == 0 && o->mean_depth > 0) be_depths_of_mean(costs, o->mean_depth, loops);
    return rc;
}

static int simulate(runtime *r, be_costs *costs, be_load *load, const options *o, err *e) {
    if (read_costs(costs, r, o, e) != 0) return -1;
    be_costs_print(stderr, costs);
    return be_simulated_open(&r->backend, costs, &load->virtual_ns, e);
}

int cmd_bench_engine(int argc, char **argv) {
    runtime_opts ro = {0};
    options o = {.sequences = "8,32,64",
                 .prompt_tokens = 64,
                 .output_tokens = 48,
                 .repeat = 3,
                 .seed = 1,
                 .temperature = 1,
                 .top_p = 1,
                 .flights = 1,
                 .rounds = 1};
    const opt_row table[] = {
        ENGINE_OPTIONS(&ro),
        {"--sequences", OPT_TEXT, &o.sequences, "N,N",
         "numbers of sequences to keep in flight, one after another (default 8,32,64)", 0, 0,
         false},
        {"--waiting", OPT_UINT, &o.waiting, "N", "requests to keep waiting beside them (default 0)",
         0, 1e6, false},
        {"--prompt-tokens", OPT_UINT, &o.prompt_tokens, "N", "mean prompt length (default 64)", 1,
         1e6, false},
        {"--output-tokens", OPT_UINT, &o.output_tokens, "N", "mean output length (default 48)", 2,
         1e6, false},
        {"--repeat", OPT_UINT, &o.repeat, "N",
         "runs of every mode, alternating; the report gives medians (default 3)", 1, BE_MAX_REPEAT,
         false},
        {"--shared-prompt", OPT_UINT, &o.shared, "N",
         "first tokens that all prompts share, with the prefix cache on (default 0: off)", 0, 1e6,
         false},
        {"--same-lengths", OPT_FLAG, &o.same_lengths, NULL,
         "prompts and outputs of exactly these lengths (default: half to one and a half)", 0, 0,
         false},
        {"--rounds", OPT_UINT, &o.rounds, "N",
         "length of a run: requests that end per sequence, on average. More than 1 keeps what is "
         "in flight at both ends from counting (default 1)",
         1, 1e6, false},
        {"--seed", OPT_UINT, &o.seed, "N", "seed of prompts, lengths and sampling (default 1)", 0,
         9e18, false},
        {"--modes", OPT_TEXT, &o.modes, "LIST",
         "modes to run: full, lockstep, depthwise, each with both policies, or as depthwise/last "
         "(default: all)",
         0, 0, false},
        {"--temperature", OPT_REAL, &o.temperature, "X", "sampling temperature (default 1)", 0, 2,
         false},
        {"--top-p", OPT_REAL, &o.top_p, "X", "top_p of the sampler (default 1)", 1e-3, 1, false},
        {"--clock", OPT_CHOICE, &o.clock, "wall|cpu",
         "what to time by; cpu: this process's CPU time, for a machine that others use, with "
         "--threads 1 (default wall)",
         0, 0, false},
        {"--simulate", OPT_FLAG, &o.simulate, NULL,
         "run no model: the same scheduler over a device whose launches take what --costs or "
         "--simulate-from says, in virtual time",
         0, 0, false},
        {"--simulate-from", OPT_TEXT, &o.simulate_from, "FILE",
         "costs and depths of the simulated device, fitted to the result of an earlier --json", 0,
         0, false},
        {"--costs", OPT_TEXT, &o.costs, "TEXT",
         "costs of the simulated device in ns: 'prelude=A,B recurrent=A,B,C,D coda=A,B host=A,B', "
         "A "
         "of a launch, B of a row (host: of a token), C of an expert, D of a row of keys and "
         "values",
         0, 0, false},
        {"--mean-depth", OPT_REAL, &o.mean_depth, "X",
         "mean depth of the simulated positions (default: as in --simulate-from)", 1,
         PLAN_MAX_LOOPS, false},
        {"--flights", OPT_UINT, &o.flights, "N",
         "launches that the simulated device takes at once (default 1)", 1, 2, false},
        {"--json", OPT_FLAG, &o.json, NULL, "print JSON; the text goes to stderr", 0, 0, false},
        {"--plot", OPT_TEXT, &o.plot, "FILE", "also draw FILE.svg or FILE.png (needs gnuplot)", 0,
         0, false},
    };
    const opt_command command = {
        "bench engine", "batching modes and policies side by side, without HTTP",
        "fathom bench engine --model models/demo --sequences 8,32 --repeat 3", table,
        ARRAY_LEN(table)};
    int c = opt_parse(&command, argc, argv);
    if (c != 0) return c > 0 ? 0 : EXIT_USAGE;
    err e = {0};
    bench b = {.repeat = o.repeat};
    b.load = (be_load){.seed = o.seed,
                       .rounds = o.rounds,
                       .temperature = (float)o.temperature,
                       .top_p = (float)o.top_p};
    b.load.cpu_clock = o.clock && strcmp(o.clock, "cpu") == 0;
    if (b.load.cpu_clock && ro.threads != 1) {
        fprintf(stderr, "fathom bench engine: --clock cpu goes with --threads 1\n");
        return EXIT_USAGE;
    }
    if (parse_sizes(&b, o.sequences, &e) != 0 || parse_modes(&b, o.modes, &e) != 0)
        return opt_fail(&e);
    uint32_t most = 0;
    for (size_t i = 0; i < b.n_sizes; i++)
        most = b.sizes[i] > most ? b.sizes[i] : most;
    ro.max_running = most;
    ro.halted_kv = "exact"; /* rows and cache sized for tails */
    ro.batching = "depthwise";
    if (o.simulate && !o.simulate_from && !o.costs) {
        fprintf(stderr, "fathom bench engine: --simulate needs --simulate-from or --costs\n");
        return EXIT_USAGE;
    }
    if (o.simulate) ro.device = "fake";
    runtime r;
    if (runtime_open(&r, &ro, &e) != 0) return opt_fail(&e);
    be_costs costs = {0};
    int rc = o.simulate ? simulate(&r, &costs, &b.load, &o, &e) : 0;
    if (rc == 0) rc = run_bench(&r, &ro, &o, &b, &e);
    for (size_t i = 0; b.runs && i < b.n_sizes * b.n_modes * b.repeat; i++)
        be_table_deinit(&b.runs[i].table);
    free(b.runs);
    free(b.lines);
    runtime_close(&r);
    return rc == 0 ? 0 : opt_fail(&e);
}
