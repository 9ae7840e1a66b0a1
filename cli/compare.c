/* compare.c - fathom compare: what a cheaper way of running costs in quality, on the
 * same text, against policy exact at the usual number of loops. */
#include "base/clock.h"
#include "base/size.h"
#include "cli/describe.h"
#include "engine/backend.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_VARIANTS = 12 };

typedef struct {
    kv_policy policy;
    uint32_t max_loops; /* 0 = the usual */
    sched *s;
    /* sums over positions */
    double nll, kl, loops;
    uint64_t n_positions, n_predicted, agree;
    uint32_t histogram[PLAN_MAX_LOOPS + 1];
} variant;

typedef struct {
    variant v[MAX_VARIANTS];
    size_t n;
    const runtime *r;
    uint32_t vocab, window;
    float *exact;        /* logits of the reference, [window][vocab] */
    const uint32_t *ids; /* of the window at hand */
    uint32_t n_ids;
    variant *now;
    double *p, *q; /* [vocab] scratch */
    bool failed;
} compare;

typedef struct {
    const char *text, *loops;
    uint64_t window, first;
    bool json;
} options;

/* Log-probabilities of logits; returns the best id. */
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

static void on_position(void *ud, uint64_t id, uint32_t pos, uint16_t depth, const float *logits) {
    compare *c = ud;
    variant *v = c->now;
    (void)id;
    v->n_positions++;
    v->loops += depth;
    v->histogram[depth]++;
    if (logits == NULL) return;
    float *exact = c->exact + (size_t)pos * c->vocab;
    if (v == &c->v[0]) memcpy(exact, logits, c->vocab * sizeof *exact);
    uint32_t top_p = log_softmax(exact, c->vocab, c->p),
             top_q = log_softmax(logits, c->vocab, c->q);
    v->agree += top_p == top_q;
    double kl = 0;
    for (uint32_t i = 0; i < c->vocab; i++)
        kl += exp(c->p[i]) * (c->p[i] - c->q[i]);
    v->kl += kl;
    if (pos + 1 >= c->n_ids) return;
    v->nll -= c->q[c->ids[pos + 1]];
    v->n_predicted++;
}

static void on_event(void *ud, const sched_event *ev) {
    compare *c = ud;
    if (ev->kind == SCHED_END && ev->finish == SCHED_FAILED) c->failed = true;
}

static int run_window(compare *c, variant *v, err *e) {
    c->now = v;
    sched_request q = {.prompt = c->ids,
                       .n_prompt = c->n_ids,
                       .depth = {.max_loops = (uint16_t)v->max_loops},
                       .tap = on_position,
                       .tap_logits = true,
                       .ud = c};
    q.sampling = (eng_sampling){.top_p = 1, .repetition_penalty = 1};
    uint64_t id;
    if (sched_submit(v->s, &q, &id, e) != 0) return -1;
    int rc = 0;
    for (bool idle = false; !idle && rc == 0;)
        rc = sched_step(v->s, &idle, e);
    if (rc == 0 && c->failed)
        rc = err_set(e, ERR_NUMERIC, NULL, "the model produced a value that is not a number");
    return rc;
}

static int run_windows(compare *c, const uint32_t *ids, size_t n, err *e) {
    uint64_t started = clock_ns(), spoke = started;
    for (size_t at = 0; at < n; at += c->window) {
        c->ids = ids + at;
        c->n_ids = n - at < c->window ? (uint32_t)(n - at) : c->window;
        for (size_t i = 0; i < c->n; i++) {
            if (run_window(c, &c->v[i], e) != 0) return -1;
        }
        if (clock_ns() - spoke < 1000000000u) continue;
        spoke = clock_ns();
        fprintf(stderr, "fathom compare: %zu of %zu tokens\n", at + c->n_ids, n);
    }
    return 0;
}

/* Bytes a position keeps: the planes of every loop (exact) or of those it executed (last). */
static double bytes_kept(const compare *c, const variant *v, bool all_loops) {
    const model_plan *g = model_plan_of(c->r->model);
    const sched_opts *o = &c->r->sched;
    double most = v->max_loops           ? v->max_loops
                  : o->default_max_loops ? o->default_max_loops
                                         : g->loops_default;
    double loops = all_loops || v->policy == KV_EXACT ? most : v->loops / (double)v->n_positions;
    return (plan_planes(g, 0) + loops) * (double)c->r->backend->info.slot_bytes;
}

static void print_text(const compare *c, size_t n_tokens) {
    buf plan = {0};
    describe_runtime(&plan, c->r);
    printf("%s\n%zu tokens in windows of %u, compared with policy exact at the default "
           "loops\n%-14s %10s %10s %8s %10s %8s %12s %12s\n",
           plan.data ? plan.data : "", n_tokens, c->window, "", "loss", "perplexity", "top-1 %",
           "KL", "depth", "cache B/tok", "all loops");
    buf_deinit(&plan);
    for (size_t i = 0; i < c->n; i++) {
        const variant *v = &c->v[i];
        char name[40];
        int len = snprintf(name, sizeof name, "%s", v->policy == KV_LAST ? "last" : "exact");
        if (v->max_loops)
            snprintf(name + len, sizeof name - (size_t)len, ", %u loop%s", v->max_loops,
                     v->max_loops == 1 ? "" : "s");
        double nll = v->nll / (double)v->n_predicted, n = (double)v->n_positions;
        printf("%-14s %10.4f %10.3f %8.2f %10.6f %8.3f %12.0f %12.0f\n", name, nll, exp(nll),
               100.0 * (double)v->agree / n, v->kl / n, v->loops / n, bytes_kept(c, v, false),
               bytes_kept(c, v, true));
    }
}

static void print_json(const compare *c, size_t n_tokens) {
    buf plan = {0};
    describe_runtime_json(&plan, c->r);
    printf("{\"tokens\":%zu,\"window\":%u,%s,\"runs\":[", n_tokens, c->window,
           plan.data ? plan.data : "\"family\":null");
    buf_deinit(&plan);
    for (size_t i = 0; i < c->n; i++) {
        const variant *v = &c->v[i];
        double nll = v->nll / (double)v->n_predicted, n = (double)v->n_positions;
        printf("%s\n{\"policy\":\"%s\",\"max_loops\":%u,\"nll_per_token\":%.5f,\"perplexity\":%.5f,"
               "\"top1_agreement\":%.6f,"
               "\"mean_kl\":%.8f,\"mean_depth\":%.4f,\"cache_bytes_per_token\":%.1f,"
               "\"cache_bytes_per_token_all_loops\":%.1f,\"depth_histogram\":[",
               i ? "," : "", v->policy == KV_LAST ? "last" : "exact", v->max_loops, nll, exp(nll),
               (double)v->agree / n, v->kl / n, v->loops / n, bytes_kept(c, v, false),
               bytes_kept(c, v, true));
        uint32_t deepest = PLAN_MAX_LOOPS;
        while (deepest > 1 && v->histogram[deepest] == 0)
            deepest--;
        for (uint32_t d = 1; d <= deepest; d++)
            printf("%s%u", d > 1 ? "," : "", v->histogram[d]);
        printf("]}");
    }
    printf("\n]}\n");
}

static int add_variants(compare *c, const char *loops, uint32_t ceiling, err *e) {
    c->v[c->n++] = (variant){.policy = KV_EXACT};
    c->v[c->n++] = (variant){.policy = KV_LAST};
    for (const char *at = loops; at && *at;) {
        char *end;
        unsigned long n = strtoul(at, &end, 10);
        if (end == at || n < 1 || n > ceiling || c->n == MAX_VARIANTS || (*end && *end != ',')) {
            return err_set(
                e, ERR_USAGE, "--at-loops",
                "--at-loops '%s': expected up to %d numbers from 1 to %u, separated by commas",
                loops, MAX_VARIANTS - 2, ceiling);
        }
        c->v[c->n++] = (variant){.policy = KV_EXACT, .max_loops = (uint32_t)n};
        at = *end ? end + 1 : end;
    }
    return 0;
}

static int open_variants(compare *c, err *e) {
    for (size_t i = 0; i < c->n; i++) {
        sched_opts o = c->r->sched;
        o.halted_kv = c->v[i].policy;
        o.batching = SCHED_DEPTHWISE;
        o.prefix_cache = false; /* each scheduler has the whole cache, one after another */
        if (sched_create(&c->v[i].s, c->r->backend, &o, on_event, c, e) != 0) return -1;
    }
    return 0;
}

static int read_ids(const runtime *r, const options *o, token_ids *ids, err *e) {
    if (r->tokenizer == NULL) return runtime_needs_tokenizer(r, "--text", "", e);
    buf text = {0};
    int rc = opt_read_file(&text, "--text", o->text, 256u << 20, e);
    if (rc == 0)
        rc = tokenizer_encode(r->tokenizer, text.data, text.len, false, 256u << 20, ids, e);
    buf_deinit(&text);
    if (rc == 0 && o->first && o->first < ids->n) ids->n = o->first;
    if (rc == 0 && ids->n < 2)
        rc = err_set(e, ERR_USAGE, "--text", "--text: %s holds fewer than two tokens", o->text);
    return rc;
}

static int run_compare(const runtime *r, const options *o, err *e) {
    const model_plan *g = model_plan_of(r->model);
    compare c = {.r = r, .vocab = g->vocab_size, .window = (uint32_t)o->window};
    if (o->window > g->max_seq_len) {
        return err_set(e, ERR_USAGE, "--window", "--window: the model's context is %u tokens",
                       g->max_seq_len);
    }
    token_ids ids = {0};
    size_t cells;
    int rc = add_variants(&c, o->loops, r->sched.ceiling_loops, e);
    if (rc == 0) rc = read_ids(r, o, &ids, e);
    if (rc == 0 && size_mul(c.window, c.vocab, &cells)) c.exact = array_new(cells, sizeof *c.exact);
    c.p = array_new(c.vocab, sizeof *c.p);
    c.q = array_new(c.vocab, sizeof *c.q);
    if (rc == 0 && (!c.exact || !c.p || !c.q))
        rc = err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the logits");
    if (rc == 0) rc = open_variants(&c, e);
    if (rc == 0) rc = run_windows(&c, ids.data, ids.n, e);
    if (rc == 0) (o->json ? print_json : print_text)(&c, ids.n);
    for (size_t i = 0; i < c.n; i++)
        sched_destroy(c.v[i].s);
    token_ids_deinit(&ids);
    free(c.exact);
    free(c.p);
    free(c.q);
    return rc;
}

int cmd_compare(int argc, char **argv) {
    runtime_opts ro = {0};
    options o = {.window = 128};
    const opt_row table[] = {
        ENGINE_OPTIONS(&ro),
        {"--text", OPT_TEXT, &o.text, "FILE", "text file to compare on", 0, 0, true},
        {"--window", OPT_UINT, &o.window, "N",
         "tokens of one window; a window is computed without what stands before it (default 128)",
         2, 1e6, false},
        {"--first", OPT_UINT, &o.first, "N", "use only the first N tokens (default: all)", 2, 1e9,
         false},
        {"--at-loops", OPT_TEXT, &o.loops, "N,N",
         "also run policy exact with at most N loops, for each N", 0, 0, false},
        {"--json", OPT_FLAG, &o.json, NULL, "print JSON instead of a table", 0, 0, false},
    };
    const opt_command command = {
        "compare", "compares policy last and fewer loops with policy exact on the same text",
        "fathom compare --model models/demo --text "
        "models/demo/held_out.txt --first 8192 --at-loops 1,2,4",
        table, ARRAY_LEN(table)};
    int parsed = opt_parse(&command, argc, argv);
    if (parsed != 0) return parsed > 0 ? 0 : EXIT_USAGE;
    err e = {0};
    ro.halted_kv = "exact"; /* rows for its tails */
    /* The text stands for generated tokens, which may leave early where prompts may not. */
    if (ro.prompt_min_loops == 0) ro.prompt_min_loops = 1;
    ro.batching = "depthwise";
    ro.max_running = 1;
    runtime r;
    if (runtime_open(&r, &ro, &e) != 0) return opt_fail(&e);
    int rc = run_compare(&r, &o, &e);
    runtime_close(&r);
    return rc == 0 ? 0 : opt_fail(&e);
}
