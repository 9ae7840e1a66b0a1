/* generate.c - `fathom generate`: one prompt, text as it comes. */
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

/* What comes out, collected for --json and printed as it comes otherwise. */
typedef struct {
    const runtime *r;
    const options *o;
    api_utf8 utf8;
    buf text, depths, ids;
    bool tint; /* colour each token by its depth */
    uint32_t n, max_loops;
    uint64_t loops; /* that the tokens put out took */
    sched_event end;
} printer;

/* From blue (left early) to red (went deep), on the 256-colour cube. */
static int depth_colour(uint32_t depth, uint32_t max_loops) {
    static const int ramp[] = {39, 44, 49, 118, 190, 220, 208, 202, 196};
    uint32_t last = ARRAY_LEN(ramp) - 1;
    uint32_t i = max_loops > 1 ? (depth - 1) * last / (max_loops - 1) : 0;
    return ramp[i < last ? i : last];
}

static void on_event(void *ud, const sched_event *ev) {
    printer *p = ud;
    if (ev->kind == SCHED_END) {
        p->end = *ev;
        return;
    }
    if (ev->kind != SCHED_TOKEN) return;
    size_t before = p->text.len;
    if (p->r->tokenizer) api_utf8_token(&p->utf8, p->r->tokenizer, ev->token, &p->text);
    else buf_printf(&p->text, "%s%u", p->n ? " " : "", ev->token);
    buf_printf(&p->depths, "%s%u", p->n ? "," : "", ev->depth);
    buf_printf(&p->ids, "%s%u", p->n ? "," : "", ev->token);
    p->n++;
    p->loops += ev->depth;
    if (p->o->json) return;
    if (p->tint) printf("\x1b[38;5;%dm", depth_colour(ev->depth, p->max_loops));
    fwrite(p->text.data + before, 1, p->text.len - before, stdout);
    if (p->tint) printf("\x1b[0m");
    fflush(stdout);
}

/* "1 2 3" or "[1,2,3]" */
static int parse_ids(const char *s, uint32_t vocab, token_ids *out, err *e) {
    size_t most = strlen(s) + 1;
    out->data = array_new(most, sizeof *out->data);
    if (out->data == NULL)
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for %zu ids", most);
    out->cap = most;
    while (*s) {
        if (strchr(" ,[]\n\t", *s)) {
            s++;
            continue;
        }
        char *end;
        errno = 0;
        unsigned long v = strtoul(s, &end, 10);
        if (*s < '0' || *s > '9' || errno || v >= vocab) {
            return err_set(e, ERR_USAGE, "--ids",
                           "--ids: expected token ids below %u, found '%.20s'", vocab, s);
        }
        out->data[out->n++] = (uint32_t)v;
        s = end;
    }
    return 0;
}

static int prompt_ids(const runtime *r, const api_context *api, const options *o, token_ids *out,
                      err *e) {
    const model_plan *c = model_plan_of(r->model);
    if (o->ids) {
        if (parse_ids(o->ids, c->vocab_size, out, e) != 0) return -1;
    } else if (r->tokenizer == NULL) {
        return runtime_needs_tokenizer(r, "--prompt", "give token ids with --ids", e);
    } else if (api_prompt_ids(api, o->prompt, strlen(o->prompt), out, e) != 0) {
        return -1;
    }
    if (out->n == 0) return err_set(e, ERR_USAGE, "--prompt", "the prompt has no tokens");
    return 0;
}

static int generate(const runtime *r, const options *o, token_ids *prompt, printer *p, err *e) {
    const model_plan *c = model_plan_of(r->model);
    api_context *api = NULL;
    sched *s = NULL;
    int rc = -1;
    api_opts ao = {.model_dir = model_dir(r->model),
                   .model = r->model,
                   .tokenizer = r->tokenizer,
                   .max_context = c->max_seq_len,
                   .max_n = 1,
                   .max_prompts = 1,
                   .ceiling_loops = r->sched.ceiling_loops};
    if (api_context_open(&api, &ao, e) != 0) return -1;
    if (prompt_ids(r, api, o, prompt, e) != 0) goto done;
    sched_request q = {
        .prompt = prompt->data,
        .n_prompt = (uint32_t)prompt->n,
        .max_tokens = (uint32_t)o->max_tokens,
        .sampling = {.temperature = (float)o->temperature,
                     .top_p = (float)o->top_p,
                     .min_p = (float)o->min_p,
                     .top_k = (uint32_t)o->top_k,
                     .repetition_penalty = (float)o->repetition,
                     .seed = o->seed},
        .depth = {.min_loops = (uint16_t)o->run.min_loops, .max_loops = (uint16_t)o->run.loops},
    };
    if (prompt->n < c->max_seq_len && q.max_tokens > c->max_seq_len - prompt->n) {
        q.max_tokens = c->max_seq_len - (uint32_t)prompt->n;
    }
    if (!o->ignore_eos) q.stop_ids = api_stop_ids(api, &q.n_stop_ids);
    uint64_t id;
    bool idle = false;
    if (sched_create(&s, r->backend, &r->sched, on_event, p, e) != 0) goto done;
    if (sched_submit(s, &q, &id, e) != 0) goto done;
    while (!idle) {
        if (sched_step(s, &idle, e) != 0) goto done;
    }
    if (p->end.finish == SCHED_FAILED) {
        err_set(e, p->end.why, NULL, "the generation failed: %s", err_text(p->end.why));
        goto done;
    }
    rc = 0;
done:
    sched_destroy(s);
    api_context_close(api);
    return rc;
}

static const char *finish_name(sched_finish f) {
    return f == SCHED_STOP ? "stop" : f == SCHED_LENGTH ? "length" : "cancelled";
}

static void print_end(printer *p, const token_ids *prompt) {
    const sched_event *end = &p->end;
    if (p->r->tokenizer) api_utf8_finish(&p->utf8, &p->text);
    if (p->o->json) {
        buf out = {0};
        buf_puts(&out, "{\"text\":");
        buf_json_string(&out, p->text.data ? p->text.data : "", p->text.len);
        buf_printf(&out, ",\"ids\":[%s],\"depths\":[%s],\"finish_reason\":\"%s\",\"prompt_ids\":[",
                   p->ids.data ? p->ids.data : "", p->depths.data ? p->depths.data : "",
                   finish_name(end->finish));
        for (size_t i = 0; i < prompt->n; i++)
            buf_printf(&out, "%s%u", i ? "," : "", prompt->data[i]);
        buf_puts(&out, "],");
        describe_runtime_json(&out, p->r);
        buf_printf(&out, ",\"prompt_ms\":%.3f,\"decode_ms\":%.3f}\n", (double)end->prefill_ns / 1e6,
                   (double)end->decode_ns / 1e6);
        fwrite(out.data, 1, out.len, stdout);
        buf_deinit(&out);
        return;
    }
    printf("\n");
    if (p->o->show_depth) printf("depths: %s\n", p->depths.data ? p->depths.data : "");
    fflush(stdout); /* the line on stderr comes after the text, on a terminal or in a pipe */
    double s = (double)end->decode_ns / 1e9;
    fprintf(stderr, "%u prompt + %u tokens, mean depth %.2f, first token after %.1f ms",
            end->n_prompt, end->n_output, end->n_output ? (double)p->loops / end->n_output : 0.0,
            (double)end->prefill_ns / 1e6);
    if (end->n_output > 1 && s > 0)
        fprintf(stderr, ", then %.1f tokens/s", (end->n_output - 1) / s);
    buf plan = {0};
    describe_runtime(&plan, p->r);
    fprintf(stderr, " (%s)\n%s\n", finish_name(end->finish), plan.data ? plan.data : "");
    buf_deinit(&plan);
}

/* The end of the colour scale. */
static uint32_t most_loops(const runtime *r, const options *o) {
    if (o->run.loops) return (uint32_t)o->run.loops;
    if (r->sched.default_max_loops) return r->sched.default_max_loops;
    return model_plan_of(r->model)->loops_default;
}

int cmd_generate(int argc, char **argv) {
    options o = {.max_tokens = 128, .top_p = 1, .repetition = 1};
    const opt_row table[] = {
        ENGINE_OPTIONS(&o.run),
        POLICY_OPTIONS(&o.run),
        {"--prompt", OPT_TEXT, &o.prompt, "TEXT",
         "text to continue; the name of a special token in it is read as that token", 0, 0, false},
        {"--ids", OPT_TEXT, &o.ids, "\"1 2 3\"", "token ids to continue, instead of --prompt", 0, 0,
         false},
        {"--max-tokens", OPT_UINT, &o.max_tokens, "N", "most tokens to generate (default 128)", 1,
         1e6, false},
        {"--temperature", OPT_REAL, &o.temperature, "T",
         "sampling temperature; 0: always the likeliest token (default 0)", 0, 2, false},
        {"--top-k", OPT_UINT, &o.top_k, "N",
         "sample from the N likeliest tokens; 0: from all (default 0)", 0, 1e6, false},
        {"--top-p", OPT_REAL, &o.top_p, "P",
         "sample from the likeliest tokens that together hold probability P; 1: from all (default "
         "1)",
         1e-6, 1, false},
        {"--min-p", OPT_REAL, &o.min_p, "P",
         "leave out tokens less likely than P times the likeliest one; 0: none (default 0)", 0, 1,
         false},
        {"--repetition-penalty", OPT_REAL, &o.repetition, "R",
         "divide the logits of tokens that have occurred by R; 1: no penalty (default 1)", 0.01, 10,
         false},
        {"--seed", OPT_UINT, &o.seed, "N",
         "seed of the sampler; the same seed gives the same tokens (default 0)", 0, 1.8e19, false},
        {"--loops", OPT_UINT, &o.run.loops, "N",
         "most loops that a token runs (default: the model's)", 1, PLAN_MAX_LOOPS, false},
        {"--min-loops", OPT_UINT, &o.run.min_loops, "N",
         "fewest loops that a token runs (default 1)", 1, PLAN_MAX_LOOPS, false},
        {"--ignore-eos", OPT_FLAG, &o.ignore_eos, NULL, "do not end at a stop token", 0, 0, false},
        {"--show-depth", OPT_FLAG, &o.show_depth, NULL,
         "print how many loops each token ran; on a terminal, colour each token by it", 0, 0,
         false},
        {"--json", OPT_FLAG, &o.json, NULL,
         "print one JSON object with text, ids, depths and exit rule", 0, 0, false},
    };
    const opt_command command = {
        "generate", "continues one prompt and prints the text as it comes",
        "fathom generate --model models/demo --prompt 'In the beginning God' --show-depth", table,
        ARRAY_LEN(table)};
    int c = opt_parse(&command, argc, argv);
    if (c != 0) return c > 0 ? 0 : EXIT_USAGE;
    if ((o.prompt != NULL) == (o.ids != NULL)) {
        fprintf(stderr, "fathom generate: give one of --prompt and --ids\n");
        return EXIT_USAGE;
    }
    o.run.max_running = 1;
    err e = {0};
    runtime r;
    token_ids prompt = {0};
    printer p = {.r = &r, .o = &o};
    if (runtime_open(&r, &o.run, &e) != 0) return opt_fail(&e);
    p.max_loops = most_loops(&r, &o);
    p.tint = o.show_depth && isatty(STDOUT_FILENO);
    int rc = generate(&r, &o, &prompt, &p, &e);
    if (rc == 0) print_end(&p, &prompt);
    buf_deinit(&p.text);
    buf_deinit(&p.depths);
    buf_deinit(&p.ids);
    token_ids_deinit(&prompt);
    runtime_close(&r);
    return rc == 0 ? 0 : opt_fail(&e);
}
