/* generate.c - `fathom generate`: continues one prompt and prints the text as it comes. */
#include "api/api.h"
#include "base/json.h"
#include "base/size.h"
#include "cli/describe.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    runtime_opts run;
    const char *prompt, *ids;
    uint64_t max_tokens, top_k, seed, repeat;
    double temperature, top_p, min_p, repetition;
    bool json, show_depth, ignore_eos;
} options;

/* Output of the run: collected for --json, else printed as it comes. */
typedef struct {
    const runtime *rt;
    const options *opts;
    api_utf8 utf8;
    buf text, depths, ids;
    bool tint; /* colour each token by its depth */
    uint32_t n_tokens, max_loops;
    uint64_t loops; /* loops of all output tokens */
    sched_event end;
} token_printer;

/* Colours of the 256-colour cube from blue (few loops) to red (many). */
static int depth_colour(uint32_t depth, uint32_t max_loops) {
    static const int ramp[] = {39, 44, 49, 118, 190, 220, 208, 202, 196};
    uint32_t last = ARRAY_LEN(ramp) - 1;
    uint32_t i = max_loops > 1 ? (depth - 1) * last / (max_loops - 1) : 0;
    return ramp[i < last ? i : last];
}

static void on_event(void *ud, const sched_event *ev) {
    token_printer *printer = ud;
    if (ev->kind == SCHED_END) {
        printer->end = *ev;
        return;
    }
    if (ev->kind != SCHED_TOKEN) return;
    size_t before = printer->text.len;
    if (printer->rt->tokenizer)
        api_utf8_token(&printer->utf8, printer->rt->tokenizer, ev->token, &printer->text);
    else buf_printf(&printer->text, "%s%u", printer->n_tokens ? " " : "", ev->token);
    buf_printf(&printer->depths, "%s%u", printer->n_tokens ? "," : "", ev->depth);
    buf_printf(&printer->ids, "%s%u", printer->n_tokens ? "," : "", ev->token);
    printer->n_tokens++;
    printer->loops += ev->depth;
    if (printer->opts->json) return;
    if (printer->tint) printf("\x1b[38;5;%dm", depth_colour(ev->depth, printer->max_loops));
    fwrite(printer->text.data + before, 1, printer->text.len - before, stdout);
    if (printer->tint) printf("\x1b[0m");
    fflush(stdout);
}

/* "1 2 3" or "[1,2,3]" */
static int parse_ids(const char *text, uint32_t vocab, token_ids *out, err *e) {
    size_t most = strlen(text) + 1;
    out->data = array_new(most, sizeof *out->data);
    if (out->data == NULL)
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for %zu ids", most);
    out->cap = most;
    while (*text) {
        if (strchr(" ,[]\n\t", *text)) {
            text++;
            continue;
        }
        char *end;
        errno = 0;
        unsigned long id = strtoul(text, &end, 10);
        if (*text < '0' || *text > '9' || errno || id >= vocab) {
            return err_set(e, ERR_USAGE, "--ids",
                           "--ids: expected token ids below %u, found '%.20s'", vocab, text);
        }
        out->data[out->n++] = (uint32_t)id;
        text = end;
    }
    return 0;
}

static int prompt_ids(const runtime *rt, const api_context *api, const options *opts,
                      token_ids *out, err *e) {
    const model_plan *plan = model_plan_of(rt->model);
    if (opts->ids) {
        if (parse_ids(opts->ids, plan->vocab_size, out, e) != 0) return -1;
    } else if (rt->tokenizer == NULL) {
        return runtime_needs_tokenizer(rt, "--prompt", "give token ids with --ids", e);
    } else if (api_prompt_ids(api, opts->prompt, strlen(opts->prompt), out, e) != 0) {
        return -1;
    }
    if (out->n == 0) return err_set(e, ERR_USAGE, "--prompt", "the prompt has no tokens");
    return 0;
}

static int generate(const runtime *rt, const options *opts, token_ids *prompt,
                    token_printer *printer, err *e) {
    const model_plan *plan = model_plan_of(rt->model);
    api_context *api = NULL;
    scheduler *sched = NULL;
    int rc = -1;
    api_opts ao = {.model_dir = model_dir(rt->model),
                   .model = rt->model,
                   .tokenizer = rt->tokenizer,
                   .max_context = plan->max_seq_len,
                   .max_n = 1,
                   .max_prompts = 1,
                   .ceiling_loops = rt->sched.ceiling_loops};
    if (api_context_open(&api, &ao, e) != 0) return -1;
    if (prompt_ids(rt, api, opts, prompt, e) != 0) goto done;
    sched_request request = {
        .prompt = prompt->data,
        .n_prompt = (uint32_t)prompt->n,
        .max_tokens = (uint32_t)opts->max_tokens,
        .sampling = {.temperature = (float)opts->temperature,
                     .top_p = (float)opts->top_p,
                     .min_p = (float)opts->min_p,
                     .top_k = (uint32_t)opts->top_k,
                     .repetition_penalty = (float)opts->repetition,
                     .seed = opts->seed},
        .depth = {.min_loops = (uint16_t)opts->run.min_loops,
                  .max_loops = (uint16_t)opts->run.loops},
    };
    if (prompt->n < plan->max_seq_len && request.max_tokens > plan->max_seq_len - prompt->n) {
        request.max_tokens = plan->max_seq_len - (uint32_t)prompt->n;
    }
    if (!opts->ignore_eos) request.stop_ids = api_stop_ids(api, &request.n_stop_ids);
    uint64_t id;
    bool idle = false;
    if (sched_create(&sched, rt->backend, &rt->sched, on_event, printer, e) != 0) goto done;
    if (sched_submit(sched, &request, &id, e) != 0) goto done;
    while (!idle) {
        if (sched_step(sched, &idle, e) != 0) goto done;
    }
    if (printer->end.finish == SCHED_FAILED) {
        err_set(e, printer->end.why, NULL, "the generation failed: %s", err_text(printer->end.why));
        goto done;
    }
    rc = 0;
done:
    sched_destroy(sched);
    api_context_close(api);
    return rc;
}

static const char *finish_name(sched_finish finish) {
    return finish == SCHED_STOP ? "stop" : finish == SCHED_LENGTH ? "length" : "cancelled";
}

static void print_end(token_printer *printer, const token_ids *prompt) {
    const sched_event *end = &printer->end;
    if (printer->rt->tokenizer) api_utf8_finish(&printer->utf8, &printer->text);
    if (printer->opts->json) {
        buf out = {0};
        buf_puts(&out, "{\"text\":");
        buf_json_string(&out, printer->text.data ? printer->text.data : "", printer->text.len);
        buf_printf(&out, ",\"ids\":[%s],\"depths\":[%s],\"finish_reason\":\"%s\",\"prompt_ids\":[",
                   printer->ids.data ? printer->ids.data : "",
                   printer->depths.data ? printer->depths.data : "", finish_name(end->finish));
        for (size_t i = 0; i < prompt->n; i++)
            buf_printf(&out, "%s%u", i ? "," : "", prompt->data[i]);
        buf_puts(&out, "],");
        describe_runtime_json(&out, printer->rt);
        buf_printf(&out, ",\"prompt_ms\":%.3f,\"decode_ms\":%.3f}\n", (double)end->prefill_ns / 1e6,
                   (double)end->decode_ns / 1e6);
        fwrite(out.data, 1, out.len, stdout);
        buf_deinit(&out);
        return;
    }
    printf("\n");
    if (printer->opts->show_depth)
        printf("depths: %s\n", printer->depths.data ? printer->depths.data : "");
    fflush(stdout); /* so that the line on stderr follows the text */
    double seconds = (double)end->decode_ns / 1e9;
    fprintf(stderr, "%u prompt + %u tokens, mean depth %.2f, first token after %.1f ms",
            end->n_prompt, end->n_output,
            end->n_output ? (double)printer->loops / end->n_output : 0.0,
            (double)end->prefill_ns / 1e6);
    if (end->n_output > 1 && seconds > 0)
        fprintf(stderr, ", then %.1f tokens/s", (end->n_output - 1) / seconds);
    buf plan = {0};
    describe_runtime(&plan, printer->rt);
    fprintf(stderr, " (%s)\n%s\n", finish_name(end->finish), plan.data ? plan.data : "");
    buf_deinit(&plan);
}

/* Depth at the end of the colour scale. */
static uint32_t most_loops(const runtime *rt, const options *opts) {
    if (opts->run.loops) return (uint32_t)opts->run.loops;
    if (rt->sched.default_max_loops) return rt->sched.default_max_loops;
    return model_plan_of(rt->model)->loops_default;
}

int cmd_generate(opt_args *args) {
    options opts = {.max_tokens = 128, .top_p = 1, .repetition = 1};
    const opt_row table[] = {
        ENGINE_OPTIONS(&opts.run),
        POLICY_OPTIONS(&opts.run),
        {"--prompt", OPT_TEXT, &opts.prompt, "TEXT",
         "text to continue; the name of a special token in it is read as that token", 0, 0, false},
        {"--ids", OPT_TEXT, &opts.ids, "\"1 2 3\"", "token ids to continue, instead of --prompt", 0,
         0, false},
        {"--max-tokens", OPT_UINT, &opts.max_tokens, "N", "most tokens to generate (default 128)",
         1, 1e6, false},
        {"--temperature", OPT_REAL, &opts.temperature, "T",
         "sampling temperature; 0: always the likeliest token (default 0)", 0, 2, false},
        {"--top-k", OPT_UINT, &opts.top_k, "N",
         "sample from the N likeliest tokens; 0: from all (default 0)", 0, 1e6, false},
        {"--top-p", OPT_REAL, &opts.top_p, "P",
         "sample from the likeliest tokens that together hold probability P; 1: from all (default "
         "1)",
         1e-6, 1, false},
        {"--min-p", OPT_REAL, &opts.min_p, "P",
         "leave out tokens less likely than P times the likeliest one; 0: none (default 0)", 0, 1,
         false},
        {"--repetition-penalty", OPT_REAL, &opts.repetition, "R",
         "divide the logits of tokens that have occurred by R; 1: no penalty (default 1)", 0.01, 10,
         false},
        {"--seed", OPT_UINT, &opts.seed, "N",
         "seed of the sampler; the same seed gives the same tokens (default 0)", 0, 1.8e19, false},
        {"--loops", OPT_UINT, &opts.run.loops, "N",
         "most loops that a token runs (default: the model's)", 1, PLAN_MAX_LOOPS, false},
        {"--min-loops", OPT_UINT, &opts.run.min_loops, "N",
         "fewest loops that a token runs (default 1)", 1, PLAN_MAX_LOOPS, false},
        {"--ignore-eos", OPT_FLAG, &opts.ignore_eos, NULL, "do not end at a stop token", 0, 0,
         false},
        {"--show-depth", OPT_FLAG, &opts.show_depth, NULL,
         "print how many loops each token ran; on a terminal, colour each token by it", 0, 0,
         false},
        {"--json", OPT_FLAG, &opts.json, NULL,
         "print one JSON object with text, ids, depths and exit rule", 0, 0, false},
    };
    const opt_command command = {
        "generate", "continues one prompt and prints the text as it comes",
        "fathom generate --model models/demo --prompt 'In the beginning God' --show-depth", table,
        ARRAY_LEN(table)};
    int parsed = opt_parse(&command, args);
    if (parsed != 0) return parsed > 0 ? 0 : EXIT_USAGE;
    if ((opts.prompt != NULL) == (opts.ids != NULL)) {
        fprintf(stderr, "fathom generate: give one of --prompt and --ids\n");
        return EXIT_USAGE;
    }
    opts.run.max_running = 1;
    err e = {0};
    runtime rt;
    token_ids prompt = {0};
    token_printer printer = {.rt = &rt, .opts = &opts};
    if (runtime_open(&rt, &opts.run, &e) != 0) return opt_fail(&e);
    printer.max_loops = most_loops(&rt, &opts);
    printer.tint = opts.show_depth && isatty(STDOUT_FILENO);
    int rc = generate(&rt, &opts, &prompt, &printer, &e);
    if (rc == 0) print_end(&printer, &prompt);
    buf_deinit(&printer.text);
    buf_deinit(&printer.depths);
    buf_deinit(&printer.ids);
    token_ids_deinit(&prompt);
    runtime_close(&rt);
    return rc == 0 ? 0 : opt_fail(&e);
}
