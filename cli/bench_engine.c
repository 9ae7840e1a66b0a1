/* bench_engine.c - fathom bench engine: measures batching modes and policies side by side in one
 * run, with real exits and sampling. */
#include "base/size.h"
#include "cli/bench_engine/bench_engine_internal.h"
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
    const char *sequences, *modes, *plot, *clock;
    uint64_t prompt_tokens, output_tokens, repeat, seed;
    double temperature, top_p;
    bool json;
} options;

typedef struct {
    be_mode modes[BE_MAX_MODES];
    uint32_t sizes[BE_MAX_SIZES];
    size_t n_modes, n_sizes;
    be_load load;
    uint64_t repeat;
    be_run *runs; /* [size][mode][repeat] */
    be_line *lines;
} engine_bench;

static int parse_sizes(engine_bench *bench, const char *text, err *e) {
    for (const char *at = text; *at;) {
        char *end;
        unsigned long n = strtoul(at, &end, 10);
        if (end == at || n < 1 || n > 65536 || bench->n_sizes == BE_MAX_SIZES ||
            (*end && *end != ',')) {
            return err_set(
                e, ERR_USAGE, "--sequences",
                "--sequences '%s': expected up to %d numbers from 1 to 65536, separated by commas",
                text, BE_MAX_SIZES);
        }
        bench->sizes[bench->n_sizes++] = (uint32_t)n;
        at = *end ? end + 1 : end;
    }
    return bench->n_sizes ? 0 : err_set(e, ERR_USAGE, "--sequences", "--sequences names no number");
}

static bool listed(const char *list, const char *name) {
    size_t n = strlen(name);
    for (const char *at = list; at; at = strchr(at, ',')) {
        if (*at == ',') at++;
        if (strncmp(at, name, n) == 0 && (at[n] == ',' || at[n] == 0)) return true;
    }
    return false;
}

/* `full` always runs, since all modes are compared with it. A mode name stands for both policies;
 * "mode/policy" names one. */
static int parse_modes(engine_bench *bench, const char *list, err *e) {
    for (int i = 0; i < BE_MAX_MODES; i++) {
        char both[40];
        snprintf(both, sizeof both, "%s/%s", all_modes[i].mode, all_modes[i].policy);
        if (i == 0 || list == NULL || listed(list, all_modes[i].mode) || listed(list, both)) {
            bench->modes[bench->n_modes++] = all_modes[i];
        }
    }
    if (list && bench->n_modes == 1 && !listed(list, "full")) {
        return err_set(e, ERR_USAGE, "--modes",
                       "--modes '%s' names none of full, lockstep, depthwise", list);
    }
    return 0;
}

static be_run *run_at(const engine_bench *bench, size_t size, size_t mode, uint64_t repeat) {
    return &bench->runs[(size * bench->n_modes + mode) * bench->repeat + repeat];
}

static int run_all(engine_bench *bench, const runtime *rt, err *e) {
    for (size_t size = 0; size < bench->n_sizes; size++) {
        be_tokens first[2] = {{0}, {0}};
        bench->load.sequences = bench->sizes[size];
        int rc = 0;
        for (uint64_t k = 0; k < bench->repeat && rc == 0; k++) {
            for (size_t mode = 0; mode < bench->n_modes && rc == 0; mode++) {
                be_run *run = run_at(bench, size, mode, k);
                rc = be_drive(run, rt, &bench->modes[mode], &bench->load,
                              &first[bench->modes[mode].halted_kv], e);
                if (rc == 0) {
                    fprintf(stderr, "%u sequences, run %llu of %llu, %s %s: %.1f tokens/s\n",
                            bench->sizes[size], (unsigned long long)k + 1,
                            (unsigned long long)bench->repeat, bench->modes[mode].mode,
                            bench->modes[mode].policy, (double)run->tokens / run->seconds);
                }
            }
        }
        be_tokens_deinit(&first[0]);
        be_tokens_deinit(&first[1]);
        if (rc != 0) return -1;
    }
    return 0;
}

static int by_value(const void *first, const void *second) {
    double x = *(const double *)first, y = *(const double *)second;
    return x < y ? -1 : x > y;
}

static double median(const double *values, uint64_t n) {
    double sorted[BE_MAX_REPEAT];
    memcpy(sorted, values, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, by_value);
    return n % 2 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
}

static double rate(const be_run *run) {
    return (double)run->tokens / run->seconds;
}

static double loops_ns(const be_run *run) {
    return (double)run->ns[ENG_STAGE_RECURRENT];
}
static double rest_ns(const be_run *run) {
    return run->seconds * 1e9 - loops_ns(run);
}

/* Costs measured in the runs of `full`: Fr = one loop of one row; F0 = all other work (prelude,
 * coda, head, sampler, host) per position. */
static void costs_of(const engine_bench *bench, size_t size, double *f0, double *fr) {
    double f0s[BE_MAX_REPEAT], frs[BE_MAX_REPEAT];
    for (uint64_t k = 0; k < bench->repeat; k++) {
        const be_run *full = run_at(bench, size, 0, k);
        f0s[k] = rest_ns(full) / (double)full->positions;
        frs[k] = loops_ns(full) / (double)full->rows[ENG_STAGE_RECURRENT];
    }
    *f0 = median(f0s, bench->repeat);
    *fr = median(frs, bench->repeat);
}

/* Shares of the run's time lost against the bound: loops costing more than Fr (launches with fewer
 * rows, or tails), and other work costing more than F0 (coda launches with fewer rows, more
 * launches). */
static void fill_losses(be_line *line) {
    const be_run *run = line->run;
    double all = run->seconds * 1e9;
    bool full = line->mode->batching == SCHED_FULL;
    double loops = full ? (double)run->rows[ENG_STAGE_RECURRENT] : (double)run->loops;
    line->lost_loops = (loops_ns(run) - loops * line->fr) / all;
    line->lost_rest = (rest_ns(run) - (double)run->positions * line->f0) / all;
    line->tails = (double)run->tail_rows / (double)run->rows[ENG_STAGE_RECURRENT];
}

static void fill_line(engine_bench *bench, be_line *line, size_t size, size_t mode,
                      uint32_t loops) {
    double rates[BE_MAX_REPEAT], ratios[BE_MAX_REPEAT], depths[BE_MAX_REPEAT];
    for (uint64_t k = 0; k < bench->repeat; k++) {
        const be_run *run = run_at(bench, size, mode, k);
        rates[k] = rate(run);
        ratios[k] = rates[k] / rate(run_at(bench, size, 0, k));
        depths[k] = (double)run->loops / (double)run->positions;
    }
    *line =
        (be_line){.mode = &bench->modes[mode], .sequences = bench->sizes[size], .max_loops = loops};
    costs_of(bench, size, &line->f0, &line->fr);
    line->tokens_per_s = median(rates, bench->repeat);
    line->ratio = median(ratios, bench->repeat);
    line->mean_depth = median(depths, bench->repeat);
    double depth = mode == 0 ? loops : line->mean_depth; /* full runs all loops */
    line->bound = (line->f0 + loops * line->fr) / (line->f0 + depth * line->fr);
    line->percent = 100 * line->ratio / line->bound;
    uint64_t pick = 0; /* the run closest to the median */
    for (uint64_t k = 1; k < bench->repeat; k++) {
        double off = rates[k] - line->tokens_per_s, best = rates[pick] - line->tokens_per_s;
        if (off * off < best * best) pick = k;
    }
    line->run = run_at(bench, size, mode, pick);
    fill_losses(line);
}

static int report(engine_bench *bench, const runtime *rt, const runtime_opts *ro,
                  const options *opts, err *e) {
    uint32_t loops = rt->sched.default_max_loops ? rt->sched.default_max_loops
                                                 : model_plan_of(rt->model)->loops_default;
    size_t n = 0;
    for (size_t size = 0; size < bench->n_sizes; size++) {
        for (size_t mode = 0; mode < bench->n_modes; mode++)
            fill_line(bench, &bench->lines[n++], size, mode, loops);
    }
    FILE *people = opts->json ? stderr : stdout;
    be_print_head(people, rt, ro, &bench->load, bench->repeat);
    be_print_lines(people, bench->lines, n);
    if (opts->json) be_print_json(stdout, bench->lines, n, rt, &bench->load, bench->repeat);
    if (!opts->plot) return 0;
    char title[200];
    snprintf(title, sizeof title, "%s, %s, %u threads", ro->model, rt->backend->info.device,
             rt->backend->info.threads);
    for (char *at = title; *at; at++) {
        if (*at == '\'' || *at == '\\') *at = '_';
    }
    return be_plot(opts->plot, bench->lines, n, title, e);
}

static int run_bench(const runtime *rt, const runtime_opts *ro, const options *opts,
                     engine_bench *bench, err *e) {
    bench->load.prompt_tokens = (uint32_t)opts->prompt_tokens;
    bench->load.output_tokens = (uint32_t)opts->output_tokens;
    uint64_t longest = (opts->prompt_tokens + opts->output_tokens) * 3 / 2 + 2;
    if (longest > model_plan_of(rt->model)->max_seq_len) {
        return err_set(
            e, ERR_USAGE, "--prompt-tokens",
            "prompts and outputs of up to %llu tokens exceed the model's context of %u tokens",
            (unsigned long long)longest, model_plan_of(rt->model)->max_seq_len);
    }
    size_t n = bench->n_sizes * bench->n_modes;
    bench->runs = array_new(n * bench->repeat, sizeof *bench->runs);
    bench->lines = array_new(n, sizeof *bench->lines);
    if (!bench->runs || !bench->lines)
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the results");
    return run_all(bench, rt, e) != 0 ? -1 : report(bench, rt, ro, opts, e);
}

int cmd_bench_engine(int argc, char **argv) {
    runtime_opts ro = {0};
    options opts = {.sequences = "8,32,64",
                    .prompt_tokens = 64,
                    .output_tokens = 48,
                    .repeat = 3,
                    .seed = 1,
                    .temperature = 1,
                    .top_p = 1};
    const opt_row table[] = {
        ENGINE_OPTIONS(&ro),
        {"--sequences", OPT_TEXT, &opts.sequences, "N,N",
         "sequences that run at once; one measurement for each number (default 8,32,64)", 0, 0,
         false},
        {"--prompt-tokens", OPT_UINT, &opts.prompt_tokens, "N",
         "mean tokens of a prompt (default 64)", 1, 1e6, false},
        {"--output-tokens", OPT_UINT, &opts.output_tokens, "N",
         "mean tokens of an output (default 48)", 1, 1e6, false},
        {"--repeat", OPT_UINT, &opts.repeat, "N",
         "runs of each mode, taken in turns; the report gives medians (default 3)", 1,
         BE_MAX_REPEAT, false},
        {"--seed", OPT_UINT, &opts.seed, "N", "seed of prompts, lengths and sampling (default 1)",
         0, 9e18, false},
        {"--modes", OPT_TEXT, &opts.modes, "LIST",
         "modes to run, with commas: full, lockstep or depthwise with both policies, or one pair "
         "as depthwise/last (default: all)",
         0, 0, false},
        {"--temperature", OPT_REAL, &opts.temperature, "X", "sampling temperature (default 1)", 0,
         2, false},
        {"--top-p", OPT_REAL, &opts.top_p, "X",
         "sample from the likeliest tokens that together hold probability X; 1: from all (default "
         "1)",
         1e-3, 1, false},
        {"--clock", OPT_CHOICE, &opts.clock, "wall|cpu",
         "clock to measure with; cpu: CPU time of this process, for a machine with other load, "
         "needs --threads 1 (default wall)",
         0, 0, false},
        {"--json", OPT_FLAG, &opts.json, NULL, "print JSON to stdout and the text to stderr", 0, 0,
         false},
        {"--plot", OPT_TEXT, &opts.plot, "FILE",
         "also draw the results into FILE, which ends in .svg or .png (needs gnuplot)", 0, 0,
         false},
    };
    const opt_command command = {
        "bench engine", "measures batching modes and policies side by side, without HTTP",
        "fathom bench engine --model models/demo --sequences 8,32 --repeat 3", table,
        ARRAY_LEN(table)};
    int parsed = opt_parse(&command, argc, argv);
    if (parsed != 0) return parsed > 0 ? 0 : EXIT_USAGE;
    err e = {0};
    engine_bench bench = {.repeat = opts.repeat};
    bench.load = (be_load){
        .seed = opts.seed, .temperature = (float)opts.temperature, .top_p = (float)opts.top_p};
    bench.load.cpu_clock = opts.clock && strcmp(opts.clock, "cpu") == 0;
    if (bench.load.cpu_clock && ro.threads != 1) {
        fprintf(stderr, "fathom bench engine: --clock cpu needs --threads 1\n");
        return EXIT_USAGE;
    }
    if (parse_sizes(&bench, opts.sequences, &e) != 0 || parse_modes(&bench, opts.modes, &e) != 0)
        return opt_fail(&e);
    uint32_t most = 0;
    for (size_t i = 0; i < bench.n_sizes; i++)
        most = bench.sizes[i] > most ? bench.sizes[i] : most;
    ro.max_running = most;
    ro.halted_kv = "exact"; /* so that rows and cache have room for tails */
    ro.batching = "depthwise";
    runtime rt;
    if (runtime_open(&rt, &ro, &e) != 0) return opt_fail(&e);
    int rc = run_bench(&rt, &ro, &opts, &bench, &e);
    free(bench.runs);
    free(bench.lines);
    runtime_close(&rt);
    return rc == 0 ? 0 : opt_fail(&e);
}
