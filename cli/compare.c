/* compare.c - fathom compare: the quality lost by cheaper ways to run a model. With --text or
 * --made-up: the same tokens under each policy and with fewer loops, compared with policy exact at
 * the default number of loops. With --questions: right answers (compare/). */
#include "base/clock.h"
#include "base/gnuplot.h"
#include "base/hash.h"
#include "base/progress.h"
#include "base/size.h"
#include "cli/compare/compare_internal.h"
#include "cli/describe.h"
#include "cli/numbers.h"
#include "engine/backend.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_RUNS = 13, PERPLEXITY_DIGITS = 5 };

typedef struct {
    kv_policy policy;
    uint32_t max_loops; /* 0 = the default */
    scheduler *scheduler;
    /* sums over all positions */
    double nll, kl, loops;
    uint64_t n_positions, n_predicted, agree;
    uint64_t drawn_agree; /* the same token drawn, as drafts are judged */
    uint32_t histogram[PLAN_MAX_LOOPS + 1];
} compare_run;

typedef struct {
    compare_run runs[MAX_RUNS];
    size_t n_runs;
    const runtime *rt;
    uint32_t vocab, window;
    float *exact;               /* logits of policy exact, [window][vocab] */
    const uint32_t *window_ids; /* token ids of the present window */
    uint32_t n_window_ids;
    uint64_t window_at; /* tokens before it */
    uint32_t *drawn;    /* by policy exact, [window] */
    eng_sampler *sampler;
    eng_sampling sampling; /* of the drawn tokens */
    compare_run *running;
    double *exact_logprobs, *logprobs; /* scratch, [vocab] */
    bool failed;
} compare;

typedef struct {
    const char *text, *questions, *loops, *plot;
    uint64_t window, first, made_up;
    double temperature, top_p;
    bool json;
} options;

/* Writes the log-probabilities of logits; returns the likeliest id. */
static uint32_t log_softmax(const float *logits, uint32_t n, double *out) {
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++) {
        if (logits[i] > logits[best]) best = i;
    }
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += exp((double)logits[i] - (double)logits[best]);
    double log_sum = log(sum) + (double)logits[best];
    for (uint32_t i = 0; i < n; i++)
        out[i] = (double)logits[i] - log_sum;
    return best;
}

/* The drawn token. The random numbers depend on position and token alone. */
static uint32_t draw(compare *cmp, uint32_t pos, const float *logits) {
    eng_choice choice = {.token = ENG_NO_TOKEN};
    err why = {0};
    if (eng_sample(cmp->sampler, &cmp->sampling, &(eng_history){0}, NULL, logits,
                   cmp->window_at + pos, 0, &choice, &why) != 0)
        cmp->failed = true;
    return choice.token;
}

static void on_position(void *ud, uint64_t id, uint32_t pos, uint16_t depth, const float *logits) {
    compare *cmp = ud;
    compare_run *run = cmp->running;
    (void)id;
    run->n_positions++;
    run->loops += depth;
    run->histogram[depth]++;
    if (logits == NULL) return;
    float *exact = cmp->exact + (size_t)pos * cmp->vocab;
    if (run == &cmp->runs[0]) memcpy(exact, logits, cmp->vocab * sizeof *exact);
    uint32_t exact_top = log_softmax(exact, cmp->vocab, cmp->exact_logprobs),
             top = log_softmax(logits, cmp->vocab, cmp->logprobs);
    run->agree += exact_top == top;
    uint32_t drawn = draw(cmp, pos, logits);
    if (run == &cmp->runs[0]) cmp->drawn[pos] = drawn;
    run->drawn_agree += drawn == cmp->drawn[pos];
    double kl = 0;
    for (uint32_t i = 0; i < cmp->vocab; i++)
        kl += exp(cmp->exact_logprobs[i]) * (cmp->exact_logprobs[i] - cmp->logprobs[i]);
    run->kl += kl;
    if (pos + 1 >= cmp->n_window_ids) return;
    run->nll -= cmp->logprobs[cmp->window_ids[pos + 1]];
    run->n_predicted++;
}

static void on_event(void *ud, const sched_event *ev) {
    compare *cmp = ud;
    if (ev->kind == SCHED_END && ev->finish == SCHED_FAILED) cmp->failed = true;
}

static int run_window(compare *cmp, compare_run *run, err *e) {
    cmp->running = run;
    sched_request request = {.prompt = cmp->window_ids,
                             .n_prompt = cmp->n_window_ids,
                             .depth = {.max_loops = (uint16_t)run->max_loops},
                             .tap = on_position,
                             .tap_logits = true,
                             .ud = cmp};
    request.sampling = (eng_sampling){.top_p = 1, .repetition_penalty = 1};
    uint64_t id;
    if (sched_submit(run->scheduler, &request, &id, e) != 0) return -1;
    int rc = 0;
    for (bool idle = false; !idle && rc == 0;)
        rc = sched_step(run->scheduler, &idle, e);
    if (rc == 0 && cmp->failed)
        rc = err_set(e, ERR_NUMERIC, NULL, "the model produced a value that is not a number");
    return rc;
}

static int run_windows(compare *cmp, const uint32_t *ids, size_t n, err *e) {
    progress bar;
    int rc = 0;
    progress_start(&bar, "comparing", "tokens", n);
    for (size_t at = 0; at < n && rc == 0; at += cmp->window) {
        cmp->window_ids = ids + at;
        cmp->window_at = at;
        cmp->n_window_ids = n - at < cmp->window ? (uint32_t)(n - at) : cmp->window;
        for (size_t i = 0; i < cmp->n_runs && rc == 0; i++)
            rc = run_window(cmp, &cmp->runs[i], e);
        progress_add(&bar, cmp->n_window_ids);
    }
    progress_stop(&bar);
    return rc;
}

static double loops_kept(const compare_run *run, double most) {
    switch (run->policy) {
    case KV_EXACT: return most;
    case KV_LAST: return run->loops / (double)run->n_positions;
    case KV_COLLAPSE: return 1;
    }
    return most;
}

static uint32_t default_loops(const compare *cmp) {
    uint32_t asked = cmp->rt->sched.default_max_loops;
    return asked ? asked : model_plan_of(cmp->rt->model)->loops_default;
}

/* Cache bytes of one position: the planes outside the loop, and the loops kept. */
static double bytes_kept(const compare *cmp, const compare_run *run, bool all_loops) {
    const model_plan *plan = model_plan_of(cmp->rt->model);
    double most = run->max_loops ? run->max_loops : default_loops(cmp);
    double loops = all_loops ? most : loops_kept(run, most);
    return (plan_planes(plan, 0) + loops) * (double)cmp->rt->backend->info.slot_bytes;
}

static double percent(uint64_t part, uint64_t all) {
    return 100.0 * (double)part / (double)all;
}

static void print_text(const compare *cmp, size_t n_tokens) {
    buf plan = {0};
    describe_runtime(&plan, cmp->rt);
    printf(
        "%s\n%zu tokens in windows of %u, compared with policy exact at the default "
        "loops, drawn at temperature %g and top_p %g\n%-14s %10s %10s %8s %8s %10s %8s %12s %12s\n",
        plan.data ? plan.data : "", n_tokens, cmp->window, (double)cmp->sampling.temperature,
        (double)cmp->sampling.top_p, "", "loss", "perplexity", "top-1 %", "drawn %", "KL", "depth",
        "cache B/tok", "all loops");
    buf_deinit(&plan);
    for (size_t i = 0; i < cmp->n_runs; i++) {
        const compare_run *run = &cmp->runs[i];
        char name[40];
        int len = snprintf(name, sizeof name, "%s", kv_policy_name(run->policy));
        if (run->max_loops)
            snprintf(name + len, sizeof name - (size_t)len, ", %u loop%s", run->max_loops,
                     run->max_loops == 1 ? "" : "s");
        double nll = run->nll / (double)run->n_predicted, n = (double)run->n_positions;
        printf("%-14s %10.4f %10.*g %8.2f %8.2f %10.6f %8.3f %12.0f %12.0f\n", name, nll,
               PERPLEXITY_DIGITS, exp(nll), percent(run->agree, run->n_positions),
               percent(run->drawn_agree, run->n_positions), run->kl / n, run->loops / n,
               bytes_kept(cmp, run, false), bytes_kept(cmp, run, true));
    }
}

static void print_json(const compare *cmp, size_t n_tokens) {
    buf plan = {0};
    describe_runtime_json(&plan, cmp->rt);
    printf("{\"tokens\":%zu,\"window\":%u,\"temperature\":%g,\"top_p\":%g,%s,\"runs\":[", n_tokens,
           cmp->window, (double)cmp->sampling.temperature, (double)cmp->sampling.top_p,
           plan.data ? plan.data : "\"family\":null");
    buf_deinit(&plan);
    for (size_t i = 0; i < cmp->n_runs; i++) {
        const compare_run *run = &cmp->runs[i];
        double nll = run->nll / (double)run->n_predicted, n = (double)run->n_positions;
        printf("%s\n{\"policy\":\"%s\",\"max_loops\":%u,\"nll_per_token\":%.5f,\"perplexity\":%.5f,"
               "\"top1_agreement\":%.6f,\"drawn_agreement\":%.6f,"
               "\"mean_kl\":%.8f,\"mean_depth\":%.4f,\"cache_bytes_per_token\":%.1f,"
               "\"cache_bytes_per_token_all_loops\":%.1f,\"depth_histogram\":[",
               i ? "," : "", kv_policy_name(run->policy), run->max_loops, nll, exp(nll),
               (double)run->agree / n, (double)run->drawn_agree / n, run->kl / n, run->loops / n,
               bytes_kept(cmp, run, false), bytes_kept(cmp, run, true));
        uint32_t deepest = PLAN_MAX_LOOPS;
        while (deepest > 1 && run->histogram[deepest] == 0)
            deepest--;
        for (uint32_t depth = 1; depth <= deepest; depth++)
            printf("%s%u", depth > 1 ? "," : "", run->histogram[depth]);
        printf("]}");
    }
    printf("\n]}\n");
}

/* The curve ends at the default loops, where all tokens are alike. */
static int draw_curve(const compare *cmp, const char *file, size_t n_tokens, err *e) {
    agreement_point points[MAX_RUNS + 1];
    size_t n = 0;
    for (size_t i = 0; i < cmp->n_runs; i++) {
        const compare_run *run = &cmp->runs[i];
        if (run->max_loops == 0 || run->max_loops >= default_loops(cmp)) continue;
        points[n++] = (agreement_point){.loops = run->max_loops,
                                        .likeliest = percent(run->agree, run->n_positions),
                                        .drawn = percent(run->drawn_agree, run->n_positions)};
    }
    points[n++] = (agreement_point){.loops = default_loops(cmp), .likeliest = 100, .drawn = 100};
    const agreement_curve curve = {.file = file,
                                   .model_name = describe_model_name(cmp->rt),
                                   .n_tokens = n_tokens,
                                   .temperature = (double)cmp->sampling.temperature,
                                   .top_p = (double)cmp->sampling.top_p,
                                   .default_loops = default_loops(cmp),
                                   .points = points,
                                   .n = n,
                                   .depths = cmp->runs[0].histogram};
    return curve_draw(&curve, e);
}

static int add_runs(compare *cmp, const char *loops, uint32_t ceiling, err *e) {
    for (int policy = 0; policy < KV_POLICIES; policy++)
        cmp->runs[cmp->n_runs++] = (compare_run){.policy = (kv_policy)policy};
    uint32_t numbers[MAX_RUNS - KV_POLICIES];
    size_t n = 0;
    if (loops &&
        numbers_read("--at-loops", loops, ceiling, numbers, ARRAY_LEN(numbers), &n, e) != 0)
        return -1;
    for (size_t i = 0; i < n; i++)
        cmp->runs[cmp->n_runs++] = (compare_run){.policy = KV_EXACT, .max_loops = numbers[i]};
    return 0;
}

static int open_runs(compare *cmp, err *e) {
    for (size_t i = 0; i < cmp->n_runs; i++) {
        sched_opts limits = cmp->rt->sched;
        limits.halted_kv = cmp->runs[i].policy;
        limits.batching = SCHED_DEPTHWISE;
        limits.collapse_prompts = true; /* the text stands for generated tokens */
        limits.prefix_cache = false;    /* the schedulers use the whole cache, one after another */
        if (sched_create(&cmp->runs[i].scheduler, cmp->rt->backend, &limits, on_event, cmp, e) != 0)
            return -1;
    }
    return 0;
}

static int make_ids(uint32_t vocab, size_t n, token_ids *ids, err *e) {
    ids->data = array_new(n, sizeof *ids->data);
    if (ids->data == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the tokens");
    for (size_t i = 0; i < n; i++)
        ids->data[i] = (uint32_t)(hash_mix((i + 1) * HASH_STEP) % vocab);
    ids->n = ids->cap = n;
    return 0;
}

static int read_ids(const runtime *rt, const options *opts, token_ids *ids, err *e) {
    if (opts->made_up) return make_ids(model_plan_of(rt->model)->vocab_size, opts->made_up, ids, e);
    if (rt->tokenizer == NULL) return runtime_needs_tokenizer(rt, "--text", "", e);
    buf text = {0};
    int rc = opt_read_file(&text, "--text", opts->text, 256u << 20, e);
    if (rc == 0)
        rc = tokenizer_encode(rt->tokenizer, text.data, text.len, false, 256u << 20, ids, e);
    buf_deinit(&text);
    if (rc == 0 && opts->first && opts->first < ids->n) ids->n = opts->first;
    if (rc == 0 && ids->n < 2)
        rc = err_set(e, ERR_USAGE, "--text", "--text: %s holds fewer than two tokens", opts->text);
    return rc;
}

static int run_compare(const runtime *rt, const options *opts, err *e) {
    const model_plan *plan = model_plan_of(rt->model);
    compare cmp = {.rt = rt,
                   .vocab = plan->vocab_size,
                   .window = (uint32_t)opts->window,
                   .sampling = {.temperature = (float)opts->temperature,
                                .top_p = (float)opts->top_p,
                                .repetition_penalty = 1}};
    if (opts->window > plan->max_seq_len) {
        return err_set(e, ERR_USAGE, "--window", "--window: the model's context is %u tokens",
                       plan->max_seq_len);
    }
    token_ids ids = {0};
    size_t cells;
    int rc = add_runs(&cmp, opts->loops, rt->sched.ceiling_loops, e);
    if (rc == 0) rc = read_ids(rt, opts, &ids, e);
    if (rc == 0 && size_mul(cmp.window, cmp.vocab, &cells))
        cmp.exact = array_new(cells, sizeof *cmp.exact);
    cmp.exact_logprobs = array_new(cmp.vocab, sizeof *cmp.exact_logprobs);
    cmp.logprobs = array_new(cmp.vocab, sizeof *cmp.logprobs);
    cmp.drawn = array_new(cmp.window, sizeof *cmp.drawn);
    if (rc == 0 && (!cmp.exact || !cmp.exact_logprobs || !cmp.logprobs || !cmp.drawn))
        rc = err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the logits");
    if (rc == 0) rc = eng_sampler_create(&cmp.sampler, cmp.vocab, e);
    if (rc == 0) rc = open_runs(&cmp, e);
    if (rc == 0) rc = run_windows(&cmp, ids.data, ids.n, e);
    if (rc == 0) (opts->json ? print_json : print_text)(&cmp, ids.n);
    if (rc == 0 && opts->plot) rc = draw_curve(&cmp, opts->plot, ids.n, e);
    for (size_t i = 0; i < cmp.n_runs; i++)
        sched_destroy(cmp.runs[i].scheduler);
    token_ids_deinit(&ids);
    eng_sampler_destroy(cmp.sampler);
    free(cmp.drawn);
    free(cmp.exact);
    free(cmp.exact_logprobs);
    free(cmp.logprobs);
    return rc;
}

static int check_options(const options *opts, err *e) {
    if ((opts->text != NULL) + (opts->questions != NULL) + (opts->made_up > 0) != 1)
        return err_set(e, ERR_USAGE, NULL,
                       "compare: give one of --text, --made-up and --questions");
    if (opts->plot && opts->questions == NULL && opts->loops == NULL)
        return err_set(e, ERR_USAGE, "--plot",
                       "compare: --plot draws agreement over loops: give --at-loops, as in 1,2,4");
    return opts->plot ? gnuplot_check("--plot", opts->plot, e) : 0;
}

static int compare_text(runtime_opts *run_opts, const options *opts, err *e) {
    runtime rt;
    /* The text stands for generated tokens, so the higher minimum for prompt tokens does not
     * apply. */
    if (run_opts->prompt_min_loops == 0) run_opts->prompt_min_loops = 1;
    run_opts->halted_kv = "exact"; /* so that there are rows for tails */
    run_opts->batching = "depthwise";
    run_opts->speculate = "off"; /* it would change no answer */
    run_opts->max_running = 1;
    if (runtime_open(&rt, run_opts, e) != 0) return -1;
    int rc = run_compare(&rt, opts, e);
    runtime_close(&rt);
    return rc;
}

static int compare_answers(runtime_opts *run_opts, const options *opts, err *e) {
    runtime rt;
    ask_opts ask = {
        .questions = opts->questions, .loops = opts->loops, .plot = opts->plot, .json = opts->json};
    run_opts->halted_kv = "exact";
    run_opts->batching = "depthwise";
    run_opts->speculate = "off"; /* it would change no answer */
    run_opts->max_running = ASK_AT_ONCE;
    if (runtime_open(&rt, run_opts, e) != 0) return -1;
    int rc = ask_compare(&rt, &ask, e);
    runtime_close(&rt);
    return rc;
}

int cmd_compare(opt_args *args) {
    runtime_opts ro = {0};
    options opts = {.window = 128, .temperature = 1, .top_p = 1};
    const opt_row table[] = {
        ENGINE_OPTIONS(&ro),
        {"--text", OPT_TEXT, &opts.text, "FILE",
         "text file to compare on: loss, agreement and depth of every token", 0, 0, false},
        {"--made-up", OPT_UINT, &opts.made_up, "N",
         "compare on N random tokens instead of a text: for models without a tokenizer", 2, 1e9,
         false},
        {"--questions", OPT_TEXT, &opts.questions, "FILE",
         "questions to ask instead of --text, a JSON object a line: {\"prompt\": TEXT, "
         "\"answer\": TEXT, \"steps\": N}, where steps is optional; reports the share of right "
         "answers by steps, with at most N loops and at the model's own depth, under policies "
         "exact "
         "and last",
         0, 0, false},
        {"--window", OPT_UINT, &opts.window, "N",
         "tokens of one window; a window is computed without what stands before it (default 128)",
         2, 1e6, false},
        {"--first", OPT_UINT, &opts.first, "N", "use only the first N tokens (default: all)", 2,
         1e9, false},
        {"--at-loops", OPT_TEXT, &opts.loops, "N,N",
         "also run with at most N loops, for each N; with --text or --made-up under policy exact: "
         "how often the draft of loop N would be right, as the likeliest token (top-1) and drawn "
         "(default: none; with --questions: all up to the model's)",
         0, 0, false},
        {"--temperature", OPT_REAL, &opts.temperature, "X",
         "with --text or --made-up: temperature of the drawn tokens (default 1)", 0, 2, false},
        {"--top-p", OPT_REAL, &opts.top_p, "P",
         "with --text or --made-up: draw from the likeliest tokens that together reach this "
         "probability (default 1)",
         0, 1, false},
        {"--plot", OPT_TEXT, &opts.plot, "FILE",
         "also draw into FILE, which ends in .svg or .png: with --questions right answers over "
         "loops, else agreement over loops (needs gnuplot)",
         0, 0, false},
        {"--json", OPT_FLAG, &opts.json, NULL, "print JSON instead of a table", 0, 0, false},
    };
    const opt_command command = {"compare",
                                 "compares policies and fewer loops: on a text with policy exact "
                                 "at the default loops, or by "
                                 "the share of right answers",
                                 "fathom compare demo --text "
                                 "models/demo/held_out.txt --first 8192 --at-loops 1,2,4",
                                 table, ARRAY_LEN(table)};
    int parsed = opt_parse(&command, args);
    if (parsed != 0) return parsed > 0 ? 0 : EXIT_USAGE;
    err e = {0};
    model_place place;
    int rc = check_options(&opts, &e);
    if (rc == 0) rc = take_model(&ro.model, &place, &e);
    if (rc == 0)
        rc = opts.questions ? compare_answers(&ro, &opts, &e) : compare_text(&ro, &opts, &e);
    return rc == 0 ? 0 : opt_fail(&e);
}
