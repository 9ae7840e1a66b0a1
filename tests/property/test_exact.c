/* test_exact.c - policy exact on a real model: a random ouro_tiny, a thousand random requests in
 * random company, on a cache too small for all of them. The truth is each request alone, with every
 * loop of every position computed and the state selected at the loop where the exit rule fires, as
 * in the published code. Tokens, depths and log-probabilities must be equal to the bit.
 *
 *   FATHOM_SEED=N   first seed (else from the clock; printed) */
#include "base/clock.h"
#include "base/size.h"
#include "engine/backend.h"
#include "scheduler/scheduler.h"
#include "tests/lib/testlib.h"
#include "tests/lib/weights.h"

#include <criterion/criterion.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

TestSuite(exact_property, .fini = fail_on_leaks, .timeout = 600);

enum { MACHINES = 25, REQUESTS = 40, MOST_PROMPT = 90, MOST_TOKENS = 24 };

typedef struct {
    uint32_t prompt[MOST_PROMPT], n_prompt, max_tokens, max_loops, min_loops;
    float threshold, temperature;
    uint64_t seed;
    int32_t priority;
} wish;

typedef struct {
    uint64_t id;
    uint32_t n, tokens[MOST_TOKENS], depths[MOST_TOKENS];
    float logprobs[MOST_TOKENS];
    bool ended;
} answer;

typedef struct {
    answer *answers;
    uint32_t n;
} answers;

static uint64_t draw(uint64_t *state) { /* splitmix64 */
    uint64_t x = *state += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}
static uint32_t between(uint64_t *state, uint32_t low, uint32_t high) {
    return low + (uint32_t)(draw(state) % (high - low + 1));
}

/* Some prompts begin alike, to meet the prefix cache too. */
static wish draw_wish(uint64_t *state, uint32_t vocab) {
    static const float thresholds[] = {0.05f, 0.2f, 0.4f, 0.5f, 0.6f, 0.8f, 0.95f, 1.0f};
    wish ask = {.n_prompt = between(state, 1, MOST_PROMPT),
                .max_tokens = between(state, 1, MOST_TOKENS)};
    uint32_t family = between(state, 0, 3), alike = between(state, 0, 70);
    for (uint32_t i = 0; i < ask.n_prompt; i++)
        ask.prompt[i] = i < alike ? (i * 7 + family) % vocab : between(state, 0, vocab - 1);
    ask.threshold = thresholds[between(state, 0, ARRAY_LEN(thresholds) - 1)];
    ask.max_loops = between(state, 1, 4);
    ask.min_loops = between(state, 1, ask.max_loops);
    ask.temperature = between(state, 0, 1) ? 0 : 0.8f;
    ask.seed = draw(state);
    ask.priority = (int32_t)between(state, 0, 2);
    return ask;
}

static void on_event(void *ud, const sched_event *ev) {
    answers *all = ud;
    for (uint32_t i = 0; i < all->n; i++) {
        answer *ans = &all->answers[i];
        if (ans->id != ev->id) continue;
        if (ev->kind == SCHED_END) {
            cr_assert_eq(ev->finish, SCHED_LENGTH, "ends with %s", err_name(ev->why));
            ans->ended = true;
        } else {
            ans->tokens[ans->n] = ev->token;
            ans->depths[ans->n] = ev->depth;
            ans->logprobs[ans->n++] = ev->logprob;
        }
    }
}

static eng_backend *open_cpu(const model_folder *model, uint64_t cache_bytes) {
    eng_backend_opts opts = {.threads = 1,
                             .n_rows = 96,
                             .max_launch = 48,
                             .max_positions = MOST_PROMPT + MOST_TOKENS,
                             .cache_bytes = cache_bytes};
    eng_backend *backend;
    err e = {0};
    cr_assert_eq(eng_cpu_open(&backend, model, &opts, &e), 0, "%s", e.msg);
    return backend;
}

static void submit(scheduler *sched, const wish *ask, answer *ans) {
    err e = {0};
    sched_request req = {.prompt = ask->prompt,
                         .n_prompt = ask->n_prompt,
                         .max_tokens = ask->max_tokens,
                         .priority = ask->priority,
                         .depth = {.min_loops = (uint16_t)ask->min_loops,
                                   .max_loops = (uint16_t)ask->max_loops,
                                   .threshold = ask->threshold}};
    req.sampling = (eng_sampling){
        .temperature = ask->temperature, .top_p = 1, .repetition_penalty = 1, .seed = ask->seed};
    *ans = (answer){0};
    cr_assert_eq(sched_submit(sched, &req, &ans->id, &e), 0, "%s", e.msg);
}

static bool step(scheduler *sched) {
    bool idle = false;
    err e = {0};
    cr_assert_eq(sched_step(sched, &idle, &e), 0, "%s", e.msg);
    cr_assert(sched_sane(sched, &e), "%s", e.msg);
    return !idle;
}

static answer alone(eng_backend *backend, const wish *ask) {
    answer ans;
    answers all = {&ans, 1};
    sched_opts opts;
    scheduler *sched;
    err e = {0};
    sched_opts_default(&opts);
    opts.batching = SCHED_FULL;
    opts.prefix_cache = false;
    opts.chunk = MOST_PROMPT;
    cr_assert_eq(sched_create(&sched, backend, &opts, on_event, &all, &e), 0, "%s", e.msg);
    submit(sched, ask, &ans);
    while (step(sched)) {
    }
    sched_destroy(sched);
    return ans;
}

static uint64_t together(eng_backend *backend, const wish *wishes, answer *out, uint64_t *state) {
    answers all = {out, 0};
    sched_opts opts;
    scheduler *sched;
    err e = {0};
    sched_stats stats;
    sched_opts_default(&opts);
    opts.chunk = between(state, 1, 40);
    opts.max_rows = between(state, 4, 48);
    opts.max_running = between(state, 2, 24);
    opts.prefix_cache = between(state, 0, 1);
    cr_assert_eq(sched_create(&sched, backend, &opts, on_event, &all, &e), 0, "%s", e.msg);
    while (all.n < REQUESTS) {
        submit(sched, &wishes[all.n], &out[all.n]);
        all.n++;
        for (uint32_t i = between(state, 0, 6); i > 0; i--)
            (void)step(sched);
    }
    while (step(sched)) {
    }
    sched_get_stats(sched, &stats);
    sched_destroy(sched);
    return stats.preemptions;
}

Test(exact_property, a_thousand_requests_in_company_get_what_full_depth_and_select_gives_alone) {
    const char *text = getenv("FATHOM_SEED");
    uint64_t seed = text ? strtoull(text, NULL, 0) : clock_ns() & 0xffffffff, state = seed;
    uint64_t preemptions = 0, tokens = 0, by_depth[5] = {0};
    tmp_dir dir = tmp_dir_create();
    weights_write(dir.path, "ouro_tiny", DTYPE_F32, seed, 2.5f);
    model_folder *model;
    err e = {0};
    cr_assert_eq(model_open(&model, dir.path, &e), 0, "%s", e.msg);
    uint32_t vocab = model_plan_of(model)->vocab_size;
    eng_backend *roomy = open_cpu(model, 32u << 20), *tight = open_cpu(model, 1u << 20);
    wish *wishes = array_new(REQUESTS, sizeof *wishes);
    answer *got = array_new(REQUESTS, sizeof *got);
    for (int k = 0; k < MACHINES; k++) {
        for (uint32_t i = 0; i < REQUESTS; i++)
            wishes[i] = draw_wish(&state, vocab);
        preemptions += together(tight, wishes, got, &state);
        for (uint32_t i = 0; i < REQUESTS; i++) {
            answer want = alone(roomy, &wishes[i]);
            const answer *ans = &got[i];
            cr_assert(ans->ended && want.ended);
            cr_assert_eq(ans->n, want.n);
            cr_assert_arr_eq(ans->tokens, want.tokens, ans->n * sizeof *ans->tokens,
                             "FATHOM_SEED=%" PRIu64 ": other tokens", seed);
            cr_assert_arr_eq(ans->depths, want.depths, ans->n * sizeof *ans->depths,
                             "FATHOM_SEED=%" PRIu64 ": other depths", seed);
            cr_assert_eq(memcmp(ans->logprobs, want.logprobs, ans->n * sizeof *ans->logprobs), 0,
                         "FATHOM_SEED=%" PRIu64 ": other log-probabilities", seed);
            for (uint32_t j = 0; j < ans->n; j++)
                by_depth[ans->depths[j]]++;
            tokens += ans->n;
        }
    }
    fprintf(stderr,
            "FATHOM_SEED=%" PRIu64 ": %d requests, %" PRIu64 " tokens (%" PRIu64 " %" PRIu64
            " %" PRIu64 " %" PRIu64 " at depths 1 to 4), %" PRIu64 " preemptions\n",
            seed, MACHINES * REQUESTS, tokens, by_depth[1], by_depth[2], by_depth[3], by_depth[4],
            preemptions);
    cr_assert_gt(preemptions, 0, "the cache was not too small");
    for (int i = 1; i <= 4; i++)
        cr_assert_gt(by_depth[i], 0, "no token left at depth %d", i);
    free(wishes);
    free(got);
    eng_backend_close(roomy);
    eng_backend_close(tight);
    model_close(model);
    tmp_dir_remove(&dir);
}
