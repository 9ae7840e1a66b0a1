/* test_scheduler.c - the real scheduler over the CUDA backend, launches in flight: the published
 * tokens, depths and logits, and the CPU backend's for company of all kinds. */
#include "tests/cuda/selftest/cases.h"

#include "scheduler/scheduler_internal.h"

#include <stdlib.h>
#include <string.h>

enum {
    OTHERS = 7,
    MOST_TOKENS = 40,
    GREEDY = GOLDEN_SEQS,
    REQUESTS = GOLDEN_SEQS + 1 + OTHERS,
    TIGHT_BYTES = 200 << 10, /* half of the sequences under policy last */
};

typedef struct {
    uint32_t tokens[MOST_TOKENS], depths[MOST_TOKENS], n;
    bool ended;
} answer;

typedef struct {
    const golden_case *g;
    kv_policy policy;
    uint64_t ids[REQUESTS];
    answer answers[REQUESTS];
    uint32_t n_seen, wrong_depths;
    float worst_logit;
    uint64_t left_out, preempted;
} run;

static uint32_t who(const run *x, uint64_t id) {
    uint32_t i = 0;
    while (i < REQUESTS && x->ids[i] != id)
        i++;
    return i;
}

static void on_tap(void *ud, uint64_t id, uint32_t pos, uint16_t depth, const float *logits) {
    run *x = ud;
    uint32_t s = who(x, id);
    if (s >= GOLDEN_SEQS || logits == NULL) return;
    const float *want = x->g->logits[x->policy] + ((size_t)s * GOLDEN_LEN + pos) * x->g->vocab;
    float far = (float)worst(logits, want, x->g->vocab);
    x->n_seen++;
    x->wrong_depths += depth != x->g->depth[x->policy][s][pos];
    if (!(far <= x->worst_logit)) x->worst_logit = far;
}

static void on_event(void *ud, const sched_event *ev) {
    run *x = ud;
    uint32_t i = who(x, ev->id);
    if (!check(i < REQUESTS, "an event for nobody")) return;
    answer *a = &x->answers[i];
    if (ev->kind == SCHED_TOKEN && a->n < MOST_TOKENS) {
        a->tokens[a->n] = ev->token;
        a->depths[a->n++] = ev->depth;
    }
    if (ev->kind != SCHED_END) return;
    a->ended = true;
    check(ev->finish == SCHED_LENGTH, "request %u ends with %d, %s", i, ev->finish,
          err_name(ev->why));
}

static void submit(scheduler *s, run *x, uint32_t i, const sched_request *r) {
    err e = {0};
    check(sched_submit(s, r, &x->ids[i], &e) == 0, "submit: %s", e.msg);
}

static bool step(scheduler *s, uint32_t n) {
    for (bool idle = false; n > 0 && !idle; n--) {
        err e = {0};
        if (!check(sched_step(s, &idle, &e) == 0, "step: %s", e.msg)) return false;
        if (!check(sched_sane(s, &e), "%s", e.msg)) return false;
    }
    return true;
}

/* Prompts of 3 to 40 tokens, some sampled, some of one loop only or of all loops. */
static void submit_other(scheduler *s, run *x, uint32_t k) {
    uint32_t prompt[40], n = 3 + k * 17 % 38;
    for (uint32_t i = 0; i < n; i++)
        prompt[i] = (i * 31 + k * 7 + 13) % x->g->vocab;
    sched_request r = {.prompt = prompt, .n_prompt = n, .max_tokens = 4 + k * 3};
    r.sampling = (eng_sampling){
        .temperature = k % 2 ? 0.9f : 0, .top_p = 1, .repetition_penalty = 1, .seed = k};
    if (k % 4 == 1) r.depth = (sched_depth){.max_loops = 1};
    if (k % 4 == 2) r.depth = (sched_depth){.min_loops = (uint16_t)x->g->n_loops};
    submit(s, x, GREEDY + 1 + k, &r);
}

static void submit_golden(scheduler *s, run *x) {
    const golden_case *g = x->g;
    for (uint32_t i = 0; i < GOLDEN_SEQS; i++) {
        sched_request r = {.prompt = g->ids[i],
                           .n_prompt = GOLDEN_LEN,
                           .tap = on_tap,
                           .tap_logits = true,
                           .ud = x};
        submit(s, x, i, &r);
    }
    sched_request r = {.prompt = g->greedy[x->policy],
                       .n_prompt = GOLDEN_PROMPT,
                       .max_tokens = GOLDEN_GREEDY - GOLDEN_PROMPT};
    r.sampling = (eng_sampling){.top_p = 1, .repetition_penalty = 1};
    submit(s, x, GREEDY, &r);
}

static void run_all(run *x, eng_backend *b, uint32_t chunk, ahead_rule ahead) {
    sched_opts o;
    err e = {0};
    scheduler *s;
    sched_opts_default(&o);
    o.halted_kv = x->policy;
    o.chunk = chunk;
    o.max_rows = 64;
    o.default_max_loops = x->g->n_loops;
    if (!check(sched_create(&s, b, &o, on_event, x, &e) == 0, "scheduler: %s", e.msg)) return;
    s->ahead.rule = ahead;
    for (uint32_t k = 0; k < OTHERS / 2; k++)
        submit_other(s, x, k);
    bool ok = step(s, 3);
    submit_golden(s, x);
    ok = ok && step(s, 4);
    for (uint32_t k = OTHERS / 2; k < OTHERS; k++)
        submit_other(s, x, k);
    ok = ok && step(s, 100000);
    for (uint32_t i = 0; ok && i < REQUESTS; i++)
        check(x->answers[i].ended, "request %u does not end", i);
    x->left_out = s->stats.voided_rows;
    x->preempted = s->stats.preemptions;
    sched_destroy(s);
}

static void compare(const run *a, const run *b, const char *what) {
    const golden_case *g = a->g;
    const answer *greedy = &a->answers[GREEDY];
    check(a->n_seen == GOLDEN_SEQS * GOLDEN_LEN && a->wrong_depths == 0 && a->worst_logit < 1e-3f,
          "%s: of %u positions %u depths differ, logits are off by %g", what, a->n_seen,
          a->wrong_depths, (double)a->worst_logit);
    check(greedy->n == GOLDEN_GREEDY - GOLDEN_PROMPT &&
              memcmp(greedy->tokens, g->greedy[a->policy] + GOLDEN_PROMPT,
                     greedy->n * sizeof *greedy->tokens) == 0,
          "%s: the greedy tokens differ", what);
    uint32_t parted = 0;
    for (uint32_t i = GREEDY; i < REQUESTS; i++)
        parted += memcmp(&a->answers[i], &b->answers[i], sizeof a->answers[i]) != 0;
    /* Made-up prompts may meet a tie within rounding, on a device at least. */
    check(parted <= (on_shim ? 0 : 1), "%s: %u answers differ from the CPU's", what, parted);
}

/* tight: a cache too small for all of them at once. */
static uint64_t schedule(const char *name, kv_policy policy, uint32_t chunk, ahead_rule ahead,
                         bool tight) {
    golden_case g = golden_open(name);
    err e = {0};
    model_folder *m;
    run gpu = {.g = &g, .policy = policy}, cpu = {.g = &g, .policy = policy};
    if (!check(model_open(&m, g.dir, &e) == 0, "%s: %s", g.dir, e.msg)) return 0;
    eng_backend_opts o = {.threads = 1,
                          .max_loops = g.n_loops,
                          .n_rows = 150,
                          .max_launch = 64,
                          .max_logits = 16,
                          .cache_bytes = tight ? TIGHT_BYTES >> (policy == KV_LAST) : 16 << 20,
                          .max_positions = model_plan_of(m)->max_seq_len,
                          .cache_dtype = DTYPE_F32};
    eng_backend_opts f32 = o;
    f32.kernels = "f32";
    eng_backend *b = open_backend(m, &f32), *c = NULL;
    check(eng_cpu_open(&c, m, &o, &e) == 0, "cpu: %s", e.msg);
    if (b && c) {
        run_all(&gpu, b, chunk, ahead);
        run_all(&cpu, c, chunk, AHEAD_NEVER);
        compare(&gpu, &cpu, name);
        check(!tight || gpu.preempted > 0, "%s: nobody was preempted", name);
    }
    eng_backend_close(b);
    eng_backend_close(c);
    model_close(m);
    golden_close(&g);
    return gpu.left_out;
}

void test_scheduler(void) {
    uint64_t left_out = 0;
    left_out += schedule("mla", KV_EXACT, 7, AHEAD_ALWAYS, false);
    left_out += schedule("mla", KV_LAST, 32, AHEAD_ALWAYS, false);
    left_out += schedule("gqa", KV_EXACT, 32, AHEAD_BY_COST, false);
    left_out += schedule("gqa", KV_LAST, 7, AHEAD_ALWAYS, false);
    left_out += schedule("mla_deep", KV_EXACT, 16, AHEAD_ALWAYS, false);
    left_out += schedule("mla_deep", KV_LAST, 16, AHEAD_BY_COST, false);
    left_out += schedule("mla_shallow", KV_LAST, 16, AHEAD_ALWAYS, true);
    left_out += schedule("mla_no_prelude", KV_EXACT, 16, AHEAD_ALWAYS, true);
    check(left_out > 50, "only %llu rows were left out", (unsigned long long)left_out);
}
