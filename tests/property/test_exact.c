/* test_exact.c - policy exact on a real model: a random ouro_tiny, a thousand random requests in
 * random company, on a cache too small for all of them. The truth is each request alone, with
 * every loop of every position computed and the state selected where the exit rule fires (what
 * the published code does). Tokens, depths and log-probabilities must be equal to the bit.
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

/* Some prompts begin alike, so that the prefix cache is met too. */
static wish draw_wish(uint64_t *state, uint32_t vocab) {
    static const float thresholds[] = {0.05f, 0.2f, 0.4f, 0.5f, 0.6f, 0.8f, 0.95f, 1.0f};
    wish w = {.n_prompt = between(state, 1, MOST_PROMPT),
              .max_tokens = between(state, 1, MOST_TOKENS)};
    uint32_t family = between(state, 0, 3), alike = between(state, 0, 70);
    for (uint32_t i = 0; i < w.n_prompt; i++)
        w.prompt[i] = i < alike ? (i * 7 + family) % vocab : between(state, 0, vocab - 1);
    w.threshold = thresholds[between(state, 0, ARRAY_LEN(thresholds) - 1)];
    w.max_loops = between(state, 1, 4);
    w.min_loops = between(state, 1, w.max_loops);
    w.temperature = between(state, 0, 1) ? 0 : 0.8f;
    w.seed = draw(state);
    w.priority = (int32_t)between(state, 0, 2);
    return w;
}

static void on_event(void *ud, const sched_event *ev) {
    answers *all = ud;
    for (uint32_t i = 0; i < all->n; i++) {
        answer *a = &all->answers[i];
        if (a->id != ev->id) continue;
        if (ev->kind == SCHED_END) {
            cr_assert_eq(ev->finish, SCHED_LENGTH, "ends with %s", err_name(ev->why));
            a->ended = true;
        } else {
            a->tokens[a->n] = ev->token;
            a->depths[a->n] = ev->depth;
            a->logprobs[a->n++] = ev->logprob;
        }
    }
}

static eng_backend *open_cpu(const model_folder *m, uint64_t cache_bytes) {
    eng_backend_opts o = {.threads = 1,
                          .n_rows = 96,
                          .max_launch = 48,
                          .max_positions = MOST_PROMPT + MOST_TOKENS,
                          .cache_bytes = cache_bytes};
    eng_backend *b;
    err e = {0};
    cr_assert_eq(eng_cpu_open(&b, m, &o, &e), 0, "%s", e.msg);
    return b;
}

static void submit(scheduler *s, const wish *w, answer *a) {
    err e = {0};
    sched_request r = {.prompt = w->prompt,
                       .n_prompt = w->n_prompt,
                       .max_tokens = w->max_tokens,
                       .priority = w->priority,
                       .depth = {.min_loops = (uint16_t)w->min_loops,
                                 .max_loops = (uint16_t)w->max_loops,
                                 .threshold = w->threshold}};
    r.sampling = (eng_sampling){
        .temperature = w->temperature, .top_p = 1, .repetition_penalty = 1, .seed = w->seed};
    *a = (answer){0};
    cr_assert_eq(sched_submit(s, &r, &a->id, &e), 0, "%s", e.msg);
}

static bool step(scheduler *s) {
    bool idle = false;
    err e = {0};
    cr_assert_eq(sched_step(s, &idle, &e), 0, "%s", e.msg);
    cr_assert(sched_sane(s, &e), "%s", e.msg);
    return !idle;
}

static answer alone(eng_backend *b, const wish *w) {
    answer a;
    answers all = {&a, 1};
    sched_opts o;
    scheduler *s;
    err e = {0};
    sched_opts_default(&o);
    o.batching = SCHED_FULL;
    o.prefix_cache = false;
    o.chunk = MOST_PROMPT;
    cr_assert_eq(sched_create(&s, b, &o, on_event, &all, &e), 0, "%s", e.msg);
    submit(s, w, &a);
    while (step(s)) {
    }
    sched_destroy(s);
    return a;
}

static uint64_t together(eng_backend *b, const wish *wishes, answer *out, uint64_t *state) {
    answers all = {out, 0};
    sched_opts o;
    scheduler *s;
    err e = {0};
    sched_stats stats;
    sched_opts_default(&o);
    o.chunk = between(state, 1, 40);
    o.max_rows = between(state, 4, 48);
    o.max_running = between(state, 2, 24);
    o.prefix_cache = between(state, 0, 1);
    cr_assert_eq(sched_create(&s, b, &o, on_event, &all, &e), 0, "%s", e.msg);
    while (all.n < REQUESTS) {
        submit(s, &wishes[all.n], &out[all.n]);
        all.n++;
        for (uint32_t i = between(state, 0, 6); i > 0; i--)
            (void)step(s);
    }
    while (step(s)) {
    }
    sched_get_stats(s, &stats);
    sched_destroy(s);
    return stats.preemptions;
}

Test(exact_property, a_thousand_requests_in_company_get_what_full_depth_and_select_gives_alone) {
    const char *text = getenv("FATHOM_SEED");
    uint64_t seed = text ? strtoull(text, NULL, 0) : clock_ns() & 0xffffffff, state = seed;
    uint64_t preemptions = 0, tokens = 0, by_depth[5] = {0};
    tmp_dir d = tmp_dir_create();
    weights_write(d.path, "ouro_tiny", DTYPE_F32, seed, 2.5f);
    model_folder *m;
    err e = {0};
    cr_assert_eq(model_open(&m, d.path, &e), 0, "%s", e.msg);
    uint32_t vocab = model_plan_of(m)->vocab_size;
    eng_backend *roomy = open_cpu(m, 32u << 20), *tight = open_cpu(m, 1u << 20);
    wish *wishes = array_new(REQUESTS, sizeof *wishes);
    answer *got = array_new(REQUESTS, sizeof *got);
    for (int k = 0; k < MACHINES; k++) {
        for (uint32_t i = 0; i < REQUESTS; i++)
            wishes[i] = draw_wish(&state, vocab);
        preemptions += together(tight, wishes, got, &state);
        for (uint32_t i = 0; i < REQUESTS; i++) {
            answer want = alone(roomy, &wishes[i]);
            const answer *a = &got[i];
            cr_assert(a->ended && want.ended);
            cr_assert_eq(a->n, want.n);
            cr_assert_arr_eq(a->tokens, want.tokens, a->n * sizeof *a->tokens,
                             "FATHOM_SEED=%" PRIu64 ": other tokens", seed);
            cr_assert_arr_eq(a->depths, want.depths, a->n * sizeof *a->depths,
                             "FATHOM_SEED=%" PRIu64 ": other depths", seed);
            cr_assert_eq(memcmp(a->logprobs, want.logprobs, a->n * sizeof *a->logprobs), 0,
                         "FATHOM_SEED=%" PRIu64 ": other log-probabilities", seed);
            for (uint32_t t = 0; t < a->n; t++)
                by_depth[a->depths[t]]++;
            tokens += a->n;
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
    model_close(m);
    tmp_dir_remove(&d);
}
