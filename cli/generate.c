/* generate.c - `fathom generate`: continues one prompt and prints the text as it comes. */
#include "api/api.h"
#include "base/json.h"
#include "base/log.h"
#include "base/size.h"
#include "base/terminal.h"
#include "cli/describe.h"
#include "cli/numbers.h"
#include "cli/token_printer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { STDIN_MAX_BYTES = 16 << 20 };
#define UNSET UINT64_MAX

typedef struct {
    runtime_opts run;
    const char *prompt, *ids, *chat_template;
    uint64_t max_tokens, top_k, seed;
    opt_real temperature, top_p, min_p, repetition; /* not given: the model's */
    bool json, show_depth, ignore_eos, chat;
} options;

/* Output of the run: collected for --json, else printed as it comes. */
typedef struct {
    const runtime *rt;
    const options *opts;
    token_printer printer;
    api_utf8 utf8;
    buf text, depths, ids;
    uint32_t n_tokens;
    uint64_t cut_to; /* tokens that the context has room for, if fewer than asked for; 0: enough */
    uint64_t drafted, right; /* drafted tokens, and how many of them were right */
    sched_event end;
} run_output;

static void on_event(void *ud, const sched_event *ev) {
    run_output *out = ud;
    if (ev->kind == SCHED_END) {
        out->end = *ev;
        return;
    }
    if (ev->kind != SCHED_TOKEN) return;
    size_t before = out->text.len;
    if (out->rt->tokenizer) api_utf8_token(&out->utf8, out->rt->tokenizer, ev->token, &out->text);
    else buf_printf(&out->text, "%s%u", out->n_tokens ? " " : "", ev->token);
    buf_printf(&out->depths, "%s%u", out->n_tokens ? "," : "", ev->depth);
    buf_printf(&out->ids, "%s%u", out->n_tokens ? "," : "", ev->token);
    out->n_tokens++;
    size_t n = out->opts->json ? 0 : out->text.len - before;
    token_printer_count(&out->printer, ev->depth);
    token_printer_put(&out->printer, n ? out->text.data + before : "", n, ev->depth, false);
}

/* ---- the prompt ---- */

/* "1 2 3" or "[1,2,3]" */
static int parse_ids(const char *text, uint32_t vocab, token_ids *out, err *e) {
    size_t most = strlen(text) + 1;
    out->data = array_new(most, sizeof *out->data);
    if (out->data == NULL)
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for %zu ids", most);
    out->cap = most;
    uint64_t id;
    int rc;
    while ((rc = numbers_next(&text, vocab, &id)) > 0)
        out->data[out->n++] = (uint32_t)id;
    if (rc == 0) return 0;
    return err_set(e, ERR_USAGE, "--ids", "--ids: expected token ids below %u, found '%.20s'",
                   vocab, text);
}

/* All of stdin, without the newline at its end. */
static int read_stdin(buf *out, err *e) {
    if (opt_read_stdin(out, "--prompt", STDIN_MAX_BYTES, e) != 0) return -1;
    if (out->len && out->data[out->len - 1] == '\n') out->len--;
    return 0;
}

/* The text as a conversation of one user message. */
static int chat_ids(const runtime *rt, const options *opts, const buf *text, token_ids *out,
                    err *e) {
    api_chat *chat = NULL;
    jinja_output rendered = {0};
    buf body = {0};
    int rc = api_chat_open(&chat, model_dir(rt->model), opts->chat_template, rt->tokenizer, e);
    if (rc == 0) {
        buf_puts(&body, "[{\"role\":\"user\",\"content\":");
        buf_json_string(&body, text->data ? text->data : "", text->len);
        buf_puts(&body, "}]");
        rc = body.failed ? err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the prompt")
                         : api_chat_render(chat, body.data, body.len, &rendered, out, e);
    }
    jinja_output_deinit(&rendered);
    buf_deinit(&body);
    api_chat_close(chat);
    return rc;
}

static int prompt_ids(const runtime *rt, const api_context *api, const options *opts,
                      token_ids *out, err *e) {
    buf text = {0};
    int rc = 0;
    if (opts->ids) {
        if (parse_ids(opts->ids, model_plan_of(rt->model)->vocab_size, out, e) != 0) return -1;
    } else if (rt->tokenizer == NULL) {
        return runtime_needs_tokenizer(rt, "--prompt", "give token ids with --ids", e);
    } else {
        if (strcmp(opts->prompt, "-") == 0) rc = read_stdin(&text, e);
        else buf_puts(&text, opts->prompt);
        if (rc == 0)
            rc = opts->chat ? chat_ids(rt, opts, &text, out, e)
                            : api_prompt_ids(api, text.data ? text.data : "", text.len, out, e);
        buf_deinit(&text);
        if (rc != 0) return -1;
    }
    if (out->n == 0) return err_set(e, ERR_USAGE, "--prompt", "the prompt has no tokens");
    return 0;
}

/* ---- the run ---- */

/* Options first, then the model's generation_config.json, then the likeliest token. */
static eng_sampling sampling_of(const api_context *api, const options *opts) {
    eng_sampling sampling;
    if (!api_sampling(api, &sampling)) sampling.temperature = 0;
    if (opts->temperature.given) sampling.temperature = (float)opts->temperature.value;
    if (opts->top_p.given) sampling.top_p = (float)opts->top_p.value;
    if (opts->min_p.given) sampling.min_p = (float)opts->min_p.value;
    if (opts->repetition.given) sampling.repetition_penalty = (float)opts->repetition.value;
    if (opts->top_k != UNSET) sampling.top_k = (uint32_t)opts->top_k;
    sampling.seed = opts->seed;
    return sampling;
}

static int run(run_output *out, scheduler *sched, const sched_request *request, err *e) {
    uint64_t id;
    bool idle = false;
    if (sched_submit(sched, request, &id, e) != 0) return -1;
    while (!idle) {
        if (sched_step(sched, &idle, e) != 0) return -1;
    }
    sched_stats stats;
    sched_get_stats(sched, &stats);
    out->drafted = stats.draft_tokens;
    out->right = stats.drafts_accepted;
    if (out->end.finish != SCHED_FAILED) return 0;
    return err_set(e, out->end.why, NULL, "the generation failed: %s", err_text(out->end.why));
}

static int generate(const runtime *rt, const options *opts, token_ids *prompt, run_output *out,
                    err *e) {
    const model_plan *plan = model_plan_of(rt->model);
    api_context *api = NULL;
    scheduler *sched = NULL;
    api_opts ao = {.model_dir = model_dir(rt->model),
                   .model = rt->model,
                   .tokenizer = rt->tokenizer,
                   .max_context = plan->max_seq_len,
                   .max_n = 1,
                   .max_prompts = 1,
                   .ceiling_loops = rt->sched.ceiling_loops};
    if (api_context_open(&api, &ao, e) != 0) return -1;
    int rc = prompt_ids(rt, api, opts, prompt, e);
    sched_request request = {
        .prompt = prompt->data,
        .n_prompt = (uint32_t)prompt->n,
        .max_tokens = (uint32_t)opts->max_tokens,
        .sampling = sampling_of(api, opts),
        .depth = {.min_loops = (uint16_t)opts->run.min_loops},
    };
    if (prompt->n < plan->max_seq_len && request.max_tokens > plan->max_seq_len - prompt->n)
        request.max_tokens = (uint32_t)(out->cut_to = plan->max_seq_len - prompt->n);
    if (!opts->ignore_eos) request.stop_ids = api_stop_ids(api, &request.n_stop_ids);
    if (rc == 0) rc = sched_create(&sched, rt->backend, &rt->sched, on_event, out, e);
    if (rc == 0) rc = run(out, sched, &request, e);
    sched_destroy(sched);
    api_context_close(api);
    return rc;
}

/* ---- the end ---- */

static const char *finish_name(sched_finish finish) {
    return finish == SCHED_STOP ? "stop" : finish == SCHED_LENGTH ? "length" : "cancelled";
}

static void print_json(run_output *run_out, const token_ids *prompt) {
    const sched_event *end = &run_out->end;
    buf out = {0};
    buf_puts(&out, "{\"text\":");
    buf_json_string(&out, run_out->text.data ? run_out->text.data : "", run_out->text.len);
    buf_printf(&out, ",\"ids\":[%s],\"depths\":[%s],\"finish_reason\":\"%s\",\"prompt_ids\":[",
               run_out->ids.data ? run_out->ids.data : "",
               run_out->depths.data ? run_out->depths.data : "", finish_name(end->finish));
    for (size_t i = 0; i < prompt->n; i++)
        buf_printf(&out, "%s%u", i ? "," : "", prompt->data[i]);
    buf_puts(&out, "],");
    describe_runtime_json(&out, run_out->rt);
    buf_printf(&out, ",\"drafted\":%llu,\"drafts_right\":%llu",
               (unsigned long long)run_out->drafted, (unsigned long long)run_out->right);
    buf_printf(&out, ",\"prompt_ms\":%.3f,\"decode_ms\":%.3f}\n", (double)end->prefill_ns / 1e6,
               (double)end->decode_ns / 1e6);
    fwrite(out.data, 1, out.len, stdout);
    buf_deinit(&out);
}

/* The lines behind the text. */
static void print_figures(const run_output *run_out) {
    const sched_event *end = &run_out->end;
    double seconds = (double)end->decode_ns / 1e9;
    buf out = {0};
    buf_printf(&out, "%u prompt + %u tokens, ", end->n_prompt, end->n_output);
    token_printer_depth(&run_out->printer, &out);
    buf_printf(&out, ", first token after %.1f ms", (double)end->prefill_ns / 1e6);
    if (end->n_output > 1 && seconds > 0)
        buf_printf(&out, ", then %.1f tokens/s", (end->n_output - 1) / seconds);
    if (run_out->drafted)
        buf_printf(&out, ", %llu of %llu drafts right", (unsigned long long)run_out->right,
                   (unsigned long long)run_out->drafted);
    buf_printf(&out, " (%s)\n", finish_name(end->finish));
    if (run_out->cut_to && end->finish == SCHED_LENGTH) {
        buf_printf(&out, "--max-tokens %llu is cut to %llu, the room in the context\n",
                   (unsigned long long)run_out->opts->max_tokens,
                   (unsigned long long)run_out->cut_to);
    }
    token_printer_legend(&run_out->printer, &out);
    describe_runtime(&out, run_out->rt);
    fprintf(stderr, "%s\n", out.data ? out.data : "");
    buf_deinit(&out);
}

static void print_end(run_output *run_out, const token_ids *prompt) {
    size_t before = run_out->text.len;
    if (run_out->rt->tokenizer) api_utf8_finish(&run_out->utf8, &run_out->text);
    if (run_out->opts->json) {
        print_json(run_out, prompt);
        return;
    }
    if (run_out->text.len > before)
        fwrite(run_out->text.data + before, 1, run_out->text.len - before, stdout);
    printf("\n");
    if (run_out->opts->show_depth)
        printf("depths: %s\n", run_out->depths.data ? run_out->depths.data : "");
    fflush(stdout); /* so that the lines on stderr follow the text */
    print_figures(run_out);
}

/* The message about options that do not go together; NULL: all do. */
static const char *wrong_options(const options *opts) {
    if ((opts->prompt != NULL) == (opts->ids != NULL)) return "give one of --prompt and --ids";
    if (opts->chat && opts->ids) return "--chat takes a text, so it cannot go with --ids";
    return opts->chat_template && !opts->chat ? "--chat-template needs --chat" : NULL;
}

int cmd_generate(opt_args *args) {
    options opts = {.max_tokens = 128, .top_k = UNSET};
    const opt_row table[] = {
        ENGINE_OPTIONS(&opts.run),
        POLICY_OPTIONS(&opts.run),
        SPECULATION_OPTIONS(&opts.run),
        {"--prompt", OPT_TEXT, &opts.prompt, "TEXT",
         "text to continue, or - for stdin without its last newline; the name of a special token "
         "in it is read as that token",
         0, 0, false},
        OPT_DASH("--prompt"),
        {"--ids", OPT_TEXT, &opts.ids, "\"1 2 3\"", "token ids to continue, instead of --prompt", 0,
         0, false},
        {"--chat", OPT_FLAG, &opts.chat, NULL,
         "put the prompt into the model's chat template, as the message of a user", 0, 0, false},
        {"--chat-template", OPT_TEXT, &opts.chat_template, "FILE|NAME",
         "with --chat: template to use instead of the folder's", 0, 0, false},
        {"--max-tokens", OPT_UINT, &opts.max_tokens, "N", "most tokens to generate (default 128)",
         1, 1e6, false},
        {"--temperature", OPT_GIVEN_REAL, &opts.temperature, "T",
         "sampling temperature; 0: always the likeliest token (default: that of the model's "
         "generation_config.json, or 0 if it names no sampling)",
         0, 2, false},
        {"--top-k", OPT_UINT, &opts.top_k, "N",
         "sample from the N likeliest tokens; 0: from all (default: the model's, or 0)", 0, 1e6,
         false},
        {"--top-p", OPT_GIVEN_REAL, &opts.top_p, "P",
         "sample from the likeliest tokens that together hold probability P; 1: from all (default: "
         "the model's, or 1)",
         1e-6, 1, false},
        {"--min-p", OPT_GIVEN_REAL, &opts.min_p, "P",
         "leave out tokens less likely than P times the likeliest one; 0: none (default: the "
         "model's, or 0)",
         0, 1, false},
        {"--repetition-penalty", OPT_GIVEN_REAL, &opts.repetition, "R",
         "divide the logits of tokens that have occurred by R; 1: no penalty (default: the "
         "model's, or 1)",
         0.01, 10, false},
        {"--seed", OPT_UINT, &opts.seed, "N",
         "seed of the sampler; the same seed gives the same tokens (default 0)", 0, 1.8e19, false},
        OPT_OLD_NAME("--loops", "--max-loops"),
        GROUP_DEPTH,
        {"--min-loops", OPT_UINT, &opts.run.min_loops, "N",
         "fewest loops that a token runs (default 1)", 1, PLAN_MAX_LOOPS, false},
        OPT_GROUP(""),
        {"--ignore-eos", OPT_FLAG, &opts.ignore_eos, NULL, "do not end at a stop token", 0, 0,
         false},
        {"--show-depth", OPT_FLAG, &opts.show_depth, NULL,
         "print how many loops each token ran; on a terminal, colour each token by it", 0, 0,
         false},
        {"--json", OPT_FLAG, &opts.json, NULL,
         "print one JSON object with text, ids, depths, drafts and exit rule", 0, 0, false},
    };
    const opt_command command = {
        "generate", "continues one prompt and prints the text as it comes",
        "fathom generate demo --prompt 'In the beginning God' --show-depth", table,
        ARRAY_LEN(table)};
    int parsed = opt_parse(&command, args);
    if (parsed != 0) return parsed > 0 ? 0 : EXIT_USAGE;
    const char *wrong = wrong_options(&opts);
    if (wrong) {
        fprintf(stderr, "fathom generate: %s\n", wrong);
        return EXIT_USAGE;
    }
    opts.run.max_running = 1;
    err e = {0};
    runtime rt;
    token_ids prompt = {0};
    run_output out = {.rt = &rt, .opts = &opts};
    model_place place;
    log_set_level(LOG_WARN); /* the answer is what counts, not the device */
    if (take_model(&opts.run.model, &place, &e) != 0) return opt_fail(&e);
    join_ranks(&opts.run);
    if (runtime_open(&rt, &opts.run, &e) != 0) return opt_fail(&e);
    token_printer_init(&out.printer, stdout, &rt, 0);
    out.printer.tint = opts.show_depth && !opts.json && terminal_has_colours(STDOUT_FILENO);
    int rc = generate(&rt, &opts, &prompt, &out, &e);
    if (rc == 0) print_end(&out, &prompt);
    buf_deinit(&out.text);
    buf_deinit(&out.depths);
    buf_deinit(&out.ids);
    token_ids_deinit(&prompt);
    runtime_close(&rt);
    return rc == 0 ? 0 : opt_fail(&e);
}
