/* bench_engine.c - fathom bench engine: batching modes and policies side by side in one
 * run, on real exits, sampling on. */
#include "base/gnuplot.h"
#include "base/size.h"
#include "cli/bench_engine/bench_engine_internal.h"
#include "cli/bench_engine/costs_internal.h"
#include "cli/describe.h"
#include "cli/numbers.h"
#include "engine/backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const char *sequences, *prompts, *modes, *plot, *clock, *simulate_from, *costs, *speculate,
        *agreement;
    uint64_t prompt_tokens, output_tokens, repeat, seed, flights, rounds, waiting, shared,
        draft_loops;
    double top_p, mean_depth;
    opt_real temperature; /* default: 1; with prompts 0 */
    bool json, simulate, same_lengths, prefix_cache;
} options;

typedef struct {
    be_mode modes[BE_MOST_MODES];
    uint32_t sizes[BE_MAX_SIZES];
    uint32_t most; /* of sizes */
    size_t n_modes, n_sizes;
    be_load load;
    uint64_t repeat;
    questions prompts;
    be_run *runs; /* [size][mode][repeat] */
    be_line *lines;
} bench;

static int parse_sizes(bench *to, const char *text, err *e) {
    if (numbers_read("--max-concurrency", text, 65536, to->sizes, BE_MAX_SIZES, &to->n_sizes, e) !=
        0)
        return -1;
    for (size_t i = 0; i < to->n_sizes; i++) {
        if (to->sizes[i] > to->most) to->most = to->sizes[i];
    }
    return 0;
}

static int parse(bench *to, const options *opts, const runtime_opts *run_opts, err *e) {
    bool cpu = opts->clock && strcmp(opts->clock, "cpu") == 0;
    if (cpu && run_opts->threads != 1)
        return err_set(e, ERR_USAGE, "--clock", "--clock cpu goes with --threads 1");
    if (opts->simulate && !opts->simulate_from && !opts->costs)
        return err_set(e, ERR_USAGE, "--simulate", "--simulate needs --simulate-from or --costs");
    if (opts->prompts && (opts->simulate || opts->shared))
        return err_set(e, ERR_USAGE, "--prompts",
                       "--prompts goes with neither --simulate nor --shared-prompt");
    double temperature = opts->temperature.given ? opts->temperature.value : opts->prompts ? 0 : 1;
    to->repeat = opts->repeat;
    to->load = (be_load){.prompt_tokens = (uint32_t)opts->prompt_tokens,
                         .output_tokens = (uint32_t)opts->output_tokens,
                         .waiting = (uint32_t)opts->waiting,
                         .shared = (uint32_t)opts->shared,
                         .same_lengths = opts->same_lengths,
                         .prefix_cache = opts->prefix_cache || opts->shared > 0,
                         .seed = opts->seed,
                         .rounds = opts->rounds,
                         .temperature = (float)temperature,
                         .top_p = (float)opts->top_p,
                         .cpu_clock = cpu};
    if (parse_sizes(to, opts->sequences, e) != 0) return -1;
    return be_modes_parse(to->modes, &to->n_modes, opts->modes, opts->speculate,
                          (uint32_t)opts->draft_loops, e);
}

static int check_lengths(const be_load *load, const model_plan *plan, err *e) {
    if (load->prompts) return 0; /* a real prompt fits, and its output is cut at the context */
    uint64_t longest = (uint64_t)load->prompt_tokens + load->output_tokens;
    if (!load->same_lengths) longest = longest * 3 / 2 + 2;
    if (longest <= plan->max_seq_len) return 0;
    return err_set(e, ERR_USAGE, "--input-len",
                   "prompts and outputs of up to %llu tokens exceed the context of %u",
                   (unsigned long long)longest, plan->max_seq_len);
}

/* ---- running ---- */

static be_run *runs_of(const bench *in, size_t size, size_t mode) { /* [repeat] */
    return &in->runs[(size * in->n_modes + mode) * in->repeat];
}

static int run_mode(bench *in, size_t size, size_t mode, uint64_t i, const runtime *run_on,
                    be_tokens first[KV_POLICIES], err *e) {
    const be_mode *which = &in->modes[mode];
    be_run *run = &runs_of(in, size, mode)[i];
    if (be_drive(run, run_on, which, &in->load, &first[which->halted_kv], e) != 0) return -1;
    char name[BE_NAME];
    fprintf(stderr, "%u sequences, run %llu of %llu, %s: %.1f tokens/s\n", in->sizes[size],
            (unsigned long long)i + 1, (unsigned long long)in->repeat, be_mode_name(name, which),
            (double)run->tokens / run->seconds);
    return 0;
}

static int run_size(bench *in, size_t size, const runtime *run_on, err *e) {
    be_tokens first[KV_POLICIES] = {0};
    int rc = 0;
    in->load.sequences = in->sizes[size];
    for (uint64_t i = 0; i < in->repeat && rc == 0; i++) {
        for (size_t mode = 0; mode < in->n_modes && rc == 0; mode++)
            rc = run_mode(in, size, mode, i, run_on, first, e);
    }
    for (int i = 0; i < KV_POLICIES; i++)
        be_tokens_deinit(&first[i]);
    return rc;
}

/* ---- reporting ---- */

static void fill_lines(bench *in, const runtime *run_on) {
    uint32_t usual = run_on->sched.default_max_loops;
    for (size_t i = 0; i < in->n_sizes * in->n_modes; i++) {
        size_t size = i / in->n_modes, mode = i % in->n_modes;
        be_line *line = &in->lines[i];
        line->mode = &in->modes[mode];
        line->sequences = in->sizes[size];
        line->max_loops = usual ? usual : model_plan_of(run_on->model)->loops_default;
        be_fill_line(line, runs_of(in, size, mode), runs_of(in, size, 0), in->repeat);
    }
}

static int plot(const bench *in, const runtime *run_on, const char *file, err *e) {
    const eng_backend_info *info = &run_on->backend->info;
    buf title = {0};
    buf_printf(&title,
               "%s: batching modes and policies side by side\n%.1f M weights, %s, %s, "
               "%u thread%s, %s time; ",
               describe_model_name(run_on), (double)plan_params(model_plan_of(run_on->model)) / 1e6,
               info->device, info->kernels, info->threads, info->threads == 1 ? "" : "s",
               be_clock_name(&in->load));
    if (in->load.prompts) buf_printf(&title, "%zu real prompts", in->load.prompts->n);
    else
        buf_printf(&title, "made-up prompts of %u tokens, outputs of %u", in->load.prompt_tokens,
                   in->load.output_tokens);
    buf_printf(&title, "; below: %u sequences", in->sizes[in->n_sizes - 1]);
    int rc = title.failed ? err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the picture")
                          : be_plot(file, in->lines, in->n_sizes * in->n_modes, title.data, e);
    buf_deinit(&title);
    return rc;
}

static int report(bench *in, const runtime *run_on, const runtime_opts *run_opts,
                  const options *opts, err *e) {
    size_t n = in->n_sizes * in->n_modes;
    FILE *people = opts->json ? stderr : stdout;
    fill_lines(in, run_on);
    be_print_head(people, run_on, run_opts, &in->load, in->repeat);
    be_print_lines(people, in->lines, n, opts->simulate);
    if (opts->json) be_print_json(stdout, in->lines, n, run_on, &in->load, in->repeat);
    return opts->plot ? plot(in, run_on, opts->plot, e) : 0;
}

static int run_bench(bench *in, const runtime *run_on, const runtime_opts *run_opts,
                     const options *opts, err *e) {
    if (check_lengths(&in->load, model_plan_of(run_on->model), e) != 0) return -1;
    size_t n = in->n_sizes * in->n_modes;
    in->runs = array_new(n * in->repeat, sizeof *in->runs);
    in->lines = array_new(n, sizeof *in->lines);
    if (!in->runs || !in->lines)
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the results");
    for (size_t size = 0; size < in->n_sizes; size++) {
        if (run_size(in, size, run_on, e) != 0) return -1;
    }
    return report(in, run_on, run_opts, opts, e);
}

static void bench_deinit(bench *in) {
    size_t n = in->n_sizes * in->n_modes * in->repeat;
    for (size_t i = 0; in->runs && i < n; i++)
        be_table_deinit(&in->runs[i].table);
    free(in->runs);
    free(in->lines);
    questions_deinit(&in->prompts);
}

static int read_prompts(bench *in, const runtime *run_on, const char *file, err *e) {
    if (questions_read(&in->prompts, run_on, "--prompts", file, e) != 0) return -1;
    in->load.prompts = &in->prompts;
    in->load.prompts_file = file;
    return 0;
}

/* ---- the simulated device ---- */

static int read_costs(be_costs *costs, const runtime *run_on, const options *opts, err *e) {
    const model_plan *plan = model_plan_of(run_on->model);
    uint32_t usual = run_on->sched.default_max_loops;
    if (plan->core_ffn == FFN_MOE) {
        costs->n_experts = plan->n_experts;
        costs->experts_per_row = plan->n_experts_per_tok;
    }
    costs->flights = (uint32_t)opts->flights;
    if (be_agreement_parse(costs, opts->agreement, e) != 0) return -1;
    if (opts->costs && opts->mean_depth <= 0)
        return err_set(e, ERR_USAGE, "--mean-depth", "--costs also needs --mean-depth");
    int rc = opts->costs ? be_costs_parse(costs, opts->costs, e)
                         : be_costs_fit(costs, opts->simulate_from, e);
    if (rc == 0 && opts->mean_depth > 0)
        be_depths_of_mean(costs, opts->mean_depth, usual ? usual : plan->loops_default);
    return rc;
}

static int simulate(runtime *run_on, be_costs *costs, be_load *load, const options *opts, err *e) {
    if (read_costs(costs, run_on, opts, e) != 0) return -1;
    be_costs_print(stderr, costs);
    return be_simulated_open(&run_on->backend, costs, &load->virtual_ns, e);
}

static int run(const options *opts, runtime_opts *run_opts, err *e) {
    bench all = {0};
    be_costs costs = {0};
    runtime run_on;
    if (parse(&all, opts, run_opts, e) != 0) return -1;
    if (opts->plot && gnuplot_check("--plot", opts->plot, e) != 0) return -1;
    run_opts->max_running = all.most;
    run_opts->halted_kv = "exact"; /* rows and cache sized for tails */
    run_opts->batching = "depthwise";
    run_opts->speculate = "off"; /* each mode says for itself whether it drafts */
    if (opts->simulate) run_opts->device = "fake";
    join_ranks(run_opts);
    if (runtime_open(&run_on, run_opts, e) != 0) return -1;
    int rc = opts->simulate ? simulate(&run_on, &costs, &all.load, opts, e) : 0;
    if (rc == 0 && opts->prompts) rc = read_prompts(&all, &run_on, opts->prompts, e);
    if (rc == 0) rc = run_bench(&all, &run_on, run_opts, opts, e);
    bench_deinit(&all);
    runtime_close(&run_on);
    return rc;
}

int cmd_bench_engine(opt_args *args) {
    runtime_opts run_opts = {0};
    options opts = {.sequences = "8,32,64",
                    .prompt_tokens = 64,
                    .output_tokens = 48,
                    .repeat = 3,
                    .seed = 1,
                    .top_p = 1,
                    .flights = 1,
                    .rounds = 1};
    const opt_row table[] = {
        ENGINE_OPTIONS(&run_opts),
        OPT_OLD_NAME("--sequences", "--max-concurrency"),
        OPT_OLD_NAME("--prompt-tokens", "--input-len"),
        OPT_OLD_NAME("--output-tokens", "--output-len"),
        {"--max-concurrency", OPT_TEXT, &opts.sequences, "N,N",
         "numbers of sequences to keep in flight, one after another (default 8,32,64)", 0, 0,
         false},
        {"--waiting", OPT_UINT, &opts.waiting, "N",
         "requests to keep waiting beside them (default 0)", 0, 1e6, false},
        {"--input-len", OPT_UINT, &opts.prompt_tokens, "N",
         "mean length of made-up prompts (default 64)", 1, 1e6, false},
        {"--output-len", OPT_UINT, &opts.output_tokens, "N",
         "mean output length; with --prompts the most output tokens (default 48)", 2, 1e6, false},
        {"--repeat", OPT_UINT, &opts.repeat, "N",
         "runs of every mode, alternating; the report gives medians (default 3)", 1, BE_MAX_REPEAT,
         false},
        {"--shared-prompt", OPT_UINT, &opts.shared, "N",
         "first tokens that all prompts share, with the prefix cache on (default 0: off)", 0, 1e6,
         false},
        {"--prefix-cache", OPT_FLAG, &opts.prefix_cache, NULL,
         "keep the cache of prompts for later ones, as the server does: with --prompts, a prompt "
         "that comes again runs its last tokens only (default: every prompt is run)",
         0, 0, false},
        {"--same-lengths", OPT_FLAG, &opts.same_lengths, NULL,
         "prompts and outputs of exactly these lengths (default: half to one and a half)", 0, 0,
         false},
        {"--rounds", OPT_UINT, &opts.rounds, "N",
         "length of a run: requests that end per sequence, on average. More than 1 keeps what is "
         "in flight at both ends from counting (default 1)",
         1, 1e6, false},
        {"--seed", OPT_UINT, &opts.seed, "N", "seed of prompts, lengths and sampling (default 1)",
         0, 9e18, false},
        {"--modes", OPT_TEXT, &opts.modes, "LIST",
         "modes to run: full, lockstep, depthwise, each with policies exact and last, or one "
         "policy "
         "as depthwise/last or depthwise/collapse (default: all but collapse)",
         0, 0, false},
        {"--speculate", OPT_TEXT, &opts.speculate, "LIST",
         "runs each mode once for each of these: off, auto, or most drafted tokens of a sequence "
         "in "
         "flight; mode full, and policy collapse, run with off only (default off)",
         0, 0, false},
        {"--draft-loops", OPT_UINT, &opts.draft_loops, "N",
         "loops of a token before it drafts the next one (default 0: chosen while it runs)", 0,
         PLAN_MAX_LOOPS, false},
        {"--prompts", OPT_TEXT, &opts.prompts, "FILE",
         "real prompts instead of made-up ones, a JSON object a line: {\"prompt\": TEXT, "
         "\"answer\": TEXT}, where answer is optional; a run ends when each prompt has ended as "
         "often as --rounds says, and counts the right answers",
         0, 0, false},
        {"--temperature", OPT_GIVEN_REAL, &opts.temperature, "X",
         "sampling temperature (default 1; with --prompts 0: always the likeliest token)", 0, 2,
         false},
        {"--top-p", OPT_REAL, &opts.top_p, "X", "top_p of the sampler (default 1)", 1e-3, 1, false},
        {"--clock", OPT_CHOICE, &opts.clock, "wall|cpu",
         "what to time by; cpu: this process's CPU time, for a machine that others use, with "
         "--threads 1 (default wall)",
         0, 0, false},
        {"--simulate", OPT_FLAG, &opts.simulate, NULL,
         "run no model: the same scheduler over a device whose launches take what --costs or "
         "--simulate-from says, in virtual time",
         0, 0, false},
        {"--simulate-from", OPT_TEXT, &opts.simulate_from, "FILE",
         "costs and depths of the simulated device, fitted to the result of an earlier --json", 0,
         0, false},
        {"--costs", OPT_TEXT, &opts.costs, "TEXT",
         "costs of the simulated device in ns: 'prelude=A,B recurrent=A,B,C,D coda=A,B host=A,B', "
         "A "
         "of a launch, B of a row (host: of a token), C of an expert, D of a row of keys and "
         "values",
         0, 0, false},
        {"--mean-depth", OPT_REAL, &opts.mean_depth, "X",
         "mean depth of the simulated positions; as many as --max-loops: every loop (default: as "
         "in "
         "--simulate-from)",
         1, PLAN_MAX_LOOPS, false},
        {"--agreement", OPT_TEXT, &opts.agreement, "P,P",
         "part of the simulated drafts that are right after loop 1, 2 and so on; after later loops "
         "it rises evenly to 1 at the token's last loop (default 0.9)",
         0, 0, false},
        {"--flights", OPT_UINT, &opts.flights, "N",
         "launches that the simulated device takes at once (default 1)", 1, 2, false},
        {"--json", OPT_FLAG, &opts.json, NULL, "print JSON; the text goes to stderr", 0, 0, false},
        {"--plot", OPT_TEXT, &opts.plot, "FILE", "also draw FILE.svg or FILE.png (needs gnuplot)",
         0, 0, false},
    };
    const opt_command command = {
        "bench engine", "batching modes and policies side by side, without HTTP",
        "fathom bench engine demo --max-concurrency 8,32 --repeat 3", table, ARRAY_LEN(table)};
    int parsed = opt_parse(&command, args);
    if (parsed != 0) return parsed > 0 ? 0 : EXIT_USAGE;
    err e = {0};
    model_place place;
    if (take_model(&run_opts.model, &place, &e) != 0) return opt_fail(&e);
    return run(&opts, &run_opts, &e) == 0 ? 0 : opt_fail(&e);
}
