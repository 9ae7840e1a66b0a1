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
    TIGHT_BYTES = 150 << 10, /* half of it under policy last */
};

typedef struct {
    uint32_t tokens[MOST_TOKENS], depths[MOST_TOKENS], n_tokens;
    bool ended;
} answer;

typedef struct {
    const golden_case *golden;
    kv_policy policy;
    uint64_t ids[REQUESTS];
    answer answers[REQUESTS];
    uint32_t n_seen, wrong_depths;
    float worst_logit;
    uint64_t left_out, preempted;
} sched_run;

static uint32_t request_of(const sched_run *run, uint64_t id) {
    uint32_t i = 0;
    while (i < REQUESTS && run->ids[i] != id)
        i++;
    return i;
}

/* Prompts run as under exact, whatever policy collapse makes of the tokens behind them. */
static kv_policy prompt_policy(const sched_run *run) {
    return run->policy == KV_COLLAPSE ? KV_EXACT : run->policy;
}

static void on_tap(void *ud, uint64_t id, uint32_t pos, uint16_t depth, const float *logits) {
    sched_run *run = ud;
    uint32_t seq = request_of(run, id);
    if (seq >= GOLDEN_SEQS || logits == NULL) return;
    const float *want = run->golden->logits[prompt_policy(run)] +
                        ((size_t)seq * GOLDEN_LEN + pos) * run->golden->vocab;
    float far = (float)worst(logits, want, run->golden->vocab);
    run->n_seen++;
    run->wrong_depths += depth != run->golden->depth[prompt_policy(run)][seq][pos];
    if (!(far <= run->worst_logit)) run->worst_logit = far;
}

static void on_event(void *ud, const sched_event *ev) {
    sched_run *run = ud;
    uint32_t i = request_of(run, ev->id);
    if (!check(i < REQUESTS, "an event for no request")) return;
    answer *ans = &run->answers[i];
    if (ev->kind == SCHED_TOKEN && ans->n_tokens < MOST_TOKENS) {
        ans->tokens[ans->n_tokens] = ev->token;
        ans->depths[ans->n_tokens++] = ev->depth;
    }
    if (ev->kind != SCHED_END) return;
    ans->ended = true;
    check(ev->finish == SCHED_LENGTH, "request %u ends with %d, %s", i, ev->finish,
          err_name(ev->why));
}

static void submit(scheduler *sched, sched_run *run, uint32_t i, const sched_request *req) {
    err e = {0};
    check(sched_submit(sched, req, &run->ids[i], &e) == 0, "submit: %s", e.msg);
}

static bool step(scheduler *sched, uint32_t n) {
    for (bool idle = false; n > 0 && !idle; n--) {
        err e = {0};
        if (!check(sched_step(sched, &idle, &e) == 0, "step: %s", e.msg)) return false;
        if (!check(sched_sane(sched, &e), "%s", e.msg)) return false;
    }
    return true;
}

/* Prompts of 3 to 40 tokens, some sampled, some of one loop only or of all loops. */
static void submit_other(scheduler *sched, sched_run *run, uint32_t k) {
    uint32_t prompt[40], n = 3 + k * 17 % 38;
    for (uint32_t i = 0; i < n; i++)
        prompt[i] = (i * 31 + k * 7 + 13) % run->golden->vocab;
    sched_request req = {.prompt = prompt, .n_prompt = n, .max_tokens = 4 + k * 3};
    req.sampling = (eng_sampling){
        .temperature = k % 2 ? 0.9f : 0, .top_p = 1, .repetition_penalty = 1, .seed = k};
    if (k % 4 == 1) req.depth = (sched_depth){.max_loops = 1};
    if (k % 4 == 2) req.depth = (sched_depth){.min_loops = (uint16_t)run->golden->n_loops};
    submit(sched, run, GREEDY + 1 + k, &req);
}

static void submit_golden(scheduler *sched, sched_run *run) {
    const golden_case *golden = run->golden;
    for (uint32_t i = 0; i < GOLDEN_SEQS; i++) {
        sched_request req = {.prompt = golden->ids[i],
                             .n_prompt = GOLDEN_LEN,
                             .tap = on_tap,
                             .tap_logits = true,
                             .ud = run};
        submit(sched, run, i, &req);
    }
    sched_request req = {.prompt = golden->greedy[prompt_policy(run)],
                         .n_prompt = GOLDEN_PROMPT,
                         .max_tokens = GOLDEN_GREEDY - GOLDEN_PROMPT};
    req.sampling = (eng_sampling){.top_p = 1, .repetition_penalty = 1};
    submit(sched, run, GREEDY, &req);
}

static void run_all(sched_run *run, eng_backend *eng, uint32_t chunk, ahead_rule ahead) {
    sched_opts opts;
    err e = {0};
    scheduler *sched;
    sched_opts_default(&opts);
    opts.halted_kv = run->policy;
    opts.chunk = chunk;
    opts.max_rows = 64;
    opts.default_max_loops = run->golden->n_loops;
    if (!check(sched_create(&sched, eng, &opts, on_event, run, &e) == 0, "scheduler: %s", e.msg))
        return;
    sched->ahead.rule = ahead;
    for (uint32_t k = 0; k < OTHERS / 2; k++)
        submit_other(sched, run, k);
    bool ok = step(sched, 3);
    submit_golden(sched, run);
    ok = ok && step(sched, 4);
    for (uint32_t k = OTHERS / 2; k < OTHERS; k++)
        submit_other(sched, run, k);
    ok = ok && step(sched, 100000);
    for (uint32_t i = 0; ok && i < REQUESTS; i++)
        check(run->answers[i].ended, "request %u does not end", i);
    run->left_out = sched->stats.voided_rows;
    run->preempted = sched->stats.preemptions;
    sched_destroy(sched);
}

static void compare(const sched_run *gpu, const sched_run *cpu, const char *what) {
    const golden_case *golden = gpu->golden;
    const answer *greedy = &gpu->answers[GREEDY];
    check(gpu->n_seen == GOLDEN_SEQS * GOLDEN_LEN && gpu->wrong_depths == 0 &&
              gpu->worst_logit < 1e-3f,
          "%s: of %u positions %u depths differ, logits are off by %g", what, gpu->n_seen,
          gpu->wrong_depths, (double)gpu->worst_logit);
    check(gpu->policy == KV_COLLAPSE || /* the CPU's answer is the truth below */
              (greedy->n_tokens == GOLDEN_GREEDY - GOLDEN_PROMPT &&
               memcmp(greedy->tokens, golden->greedy[gpu->policy] + GOLDEN_PROMPT,
                      greedy->n_tokens * sizeof *greedy->tokens) == 0),
          "%s: the greedy tokens differ", what);
    uint32_t parted = 0;
    for (uint32_t i = GREEDY; i < REQUESTS; i++)
        parted += memcmp(&gpu->answers[i], &cpu->answers[i], sizeof gpu->answers[i]) != 0;
    /* Made-up prompts may meet a tie within rounding, on a device at least. */
    check(parted <= (on_shim ? 0 : 1), "%s: %u answers differ from the CPU's", what, parted);
}

/* tight: a cache too small for all of them at once. */
static uint64_t schedule(const char *name, kv_policy policy, uint32_t chunk, ahead_rule ahead,
                         bool tight) {
    golden_case golden = golden_open(name);
    err e = {0};
    model_folder *model;
    sched_run gpu = {.golden = &golden, .policy = policy},
              cpu = {.golden = &golden, .policy = policy};
    if (!check(model_open(&model, golden.dir, &e) == 0, "%s: %s", golden.dir, e.msg)) return 0;
    eng_backend_opts opts = {.threads = 1,
                             .max_loops = golden.n_loops,
                             .n_rows = 150,
                             .max_launch = 64,
                             .max_logits = 16,
                             .cache_bytes = tight ? TIGHT_BYTES >> (policy == KV_LAST) : 16 << 20,
                             .max_positions = model_plan_of(model)->max_seq_len,
                             .cache_dtype = DTYPE_F32};
    eng_backend_opts f32 = opts;
    f32.kernels = "f32";
    eng_backend *gpu_eng = open_backend(model, &f32), *cpu_eng = NULL;
    check(eng_cpu_open(&cpu_eng, model, &opts, &e) == 0, "cpu: %s", e.msg);
    if (gpu_eng && cpu_eng) {
        run_all(&gpu, gpu_eng, chunk, ahead);
        run_all(&cpu, cpu_eng, chunk, AHEAD_NEVER);
        compare(&gpu, &cpu, name);
        check(!tight || gpu.preempted > 0, "%s: no sequence was preempted", name);
    }
    eng_backend_close(gpu_eng);
    eng_backend_close(cpu_eng);
    model_close(model);
    golden_close(&golden);
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
    left_out += schedule("mla", KV_COLLAPSE, 7, AHEAD_ALWAYS, false);
    left_out += schedule("gqa", KV_COLLAPSE, 32, AHEAD_BY_COST, true);
    check(left_out > 50, "only %llu rows were left out", (unsigned long long)left_out);
}
