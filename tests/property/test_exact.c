/* test_exact.c - policies exact and collapse on a real model: a random ouro_tiny, random requests
 * in random company, on a cache too small for all of them. Under exact the truth is each request
 * alone, with every loop of every position computed and the state selected at the loop where the
 * exit rule fires, as in the published code. Under collapse it is each request alone. Tokens,
 * depths and log-probabilities must be equal to the bit.
 *
 *   FATHOM_SEED=N   first seed (else from the clock; printed) */
#include "base/clock.h"
#include "base/hash.h"
#include "base/size.h"
#include "engine/backend.h"
#include "scheduler/scheduler.h"
#include "tests/lib/sched_rig.h"
#include "tests/lib/testlib.h"
#include "tests/lib/weights.h"

#include <criterion/criterion.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

TestSuite(exact_property, .fini = fail_on_leaks, .timeout = HANGS_S);
TestSuite(collapse_property, .fini = fail_on_leaks, .timeout = HANGS_S);

enum { MACHINES = 25, REQUESTS = 40, MOST_PROMPT = 90, MOST_TOKENS = 24, MOST_LOOPS = 4 };

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

static uint64_t draw(uint64_t *state) {
    return hash_mix(*state += HASH_STEP);
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
    ask.max_loops = between(state, 1, MOST_LOOPS);
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

static answer alone(eng_backend *backend, const wish *ask, kv_policy policy) {
    answer ans;
    answers all = {&ans, 1};
    sched_opts opts;
    scheduler *sched;
    err e = {0};
    sched_opts_default(&opts);
    opts.halted_kv = policy;
    opts.batching = policy == KV_EXACT ? SCHED_FULL : SCHED_DEPTHWISE;
    opts.prefix_cache = false;
    opts.chunk = MOST_PROMPT;
    cr_assert_eq(sched_create(&sched, backend, &opts, on_event, &all, &e), 0, "%s", e.msg);
    submit(sched, ask, &ans);
    while (rig_step_of(sched)) {
    }
    sched_destroy(sched);
    return ans;
}

static uint64_t together(eng_backend *backend, const wish *wishes, answer *out, kv_policy policy,
                         uint64_t *state) {
    answers all = {out, 0};
    sched_opts opts;
    scheduler *sched;
    err e = {0};
    sched_stats stats;
    sched_opts_default(&opts);
    opts.halted_kv = policy;
    opts.chunk = between(state, 1, 40);
    opts.max_rows = between(state, 4, 48);
    opts.max_running = between(state, 2, 24);
    opts.prefix_cache = between(state, 0, 1);
    cr_assert_eq(sched_create(&sched, backend, &opts, on_event, &all, &e), 0, "%s", e.msg);
    while (all.n < REQUESTS) {
        submit(sched, &wishes[all.n], &out[all.n]);
        all.n++;
        for (uint32_t i = between(state, 0, 6); i > 0; i--)
            (void)rig_step_of(sched);
    }
    while (rig_step_of(sched)) {
    }
    sched_get_stats(sched, &stats);
    sched_destroy(sched);
    return stats.preemptions;
}

static void is_equal(const answer *got, const answer *want, uint64_t seed) {
    cr_assert(got->ended && want->ended);
    cr_assert_eq(got->n, want->n);
    cr_assert_arr_eq(got->tokens, want->tokens, got->n * sizeof *got->tokens,
                     "FATHOM_SEED=%" PRIu64 ": other tokens", seed);
    cr_assert_arr_eq(got->depths, want->depths, got->n * sizeof *got->depths,
                     "FATHOM_SEED=%" PRIu64 ": other depths", seed);
    cr_assert_eq(memcmp(got->logprobs, want->logprobs, got->n * sizeof *got->logprobs), 0,
                 "FATHOM_SEED=%" PRIu64 ": other log-probabilities", seed);
}

typedef struct {
    tmp_dir dir;
    model_folder *model;
    eng_backend *roomy, *tight;
    wish *wishes;
    answer *got;
    uint64_t seed, state, preemptions, tokens, by_depth[5];
} test_bed;

static test_bed bed_open(const char *variant) {
    const char *text = getenv("FATHOM_SEED");
    test_bed bed = {.seed = text ? strtoull(text, NULL, 0) : clock_ns() & 0xffffffff};
    err e = {0};
    bed.state = bed.seed;
    bed.dir = tmp_dir_create();
    weights_write(bed.dir.path, variant, DTYPE_F32, bed.seed, 2.5f);
    cr_assert_eq(model_open(&bed.model, bed.dir.path, &e), 0, "%s", e.msg);
    bed.roomy = open_cpu(bed.model, 32u << 20);
    /* Positions of the longest request, and half as many more. */
    const model_plan *plan = model_plan_of(bed.model);
    uint64_t bytes = plan_planes(plan, MOST_LOOPS) * (uint64_t)plan->slot_values * sizeof(float);
    bed.tight = open_cpu(bed.model, bytes * (MOST_PROMPT + MOST_TOKENS) * 3 / 2);
    bed.wishes = array_new(REQUESTS, sizeof *bed.wishes);
    bed.got = array_new(REQUESTS, sizeof *bed.got);
    return bed;
}

/* REQUESTS random requests at once, into got. */
static void run_company(test_bed *bed, kv_policy policy) {
    uint32_t vocab = model_plan_of(bed->model)->vocab_size;
    for (uint32_t i = 0; i < REQUESTS; i++)
        bed->wishes[i] = draw_wish(&bed->state, vocab);
    bed->preemptions += together(bed->tight, bed->wishes, bed->got, policy, &bed->state);
    for (uint32_t i = 0; i < REQUESTS; i++) {
        for (uint32_t j = 0; j < bed->got[i].n; j++)
            bed->by_depth[bed->got[i].depths[j]]++;
        bed->tokens += bed->got[i].n;
    }
}

/* Also checks that the machines met what they are for. */
static void bed_close(test_bed *bed, int n_requests) {
    const uint64_t *depth = bed->by_depth;
    fprintf(stderr,
            "FATHOM_SEED=%" PRIu64 ": %d requests, %" PRIu64 " tokens (%" PRIu64 " %" PRIu64
            " %" PRIu64 " %" PRIu64 " at depths 1 to 4), %" PRIu64 " preemptions\n",
            bed->seed, n_requests, bed->tokens, depth[1], depth[2], depth[3], depth[4],
            bed->preemptions);
    cr_assert_gt(bed->preemptions, 0, "the cache was not too small");
    for (int i = 1; i <= 4; i++)
        cr_assert_gt(depth[i], 0, "no token left at depth %d", i);
    free(bed->wishes);
    free(bed->got);
    eng_backend_close(bed->roomy);
    eng_backend_close(bed->tight);
    model_close(bed->model);
    tmp_dir_remove(&bed->dir);
}

Test(exact_property, a_thousand_requests_in_company_get_what_full_depth_and_select_gives_alone) {
    test_bed bed = bed_open("ouro_tiny");
    for (int k = 0; k < MACHINES; k++) {
        run_company(&bed, KV_EXACT);
        for (uint32_t i = 0; i < REQUESTS; i++) {
            answer want = alone(bed.roomy, &bed.wishes[i], KV_EXACT);
            is_equal(&bed.got[i], &want, bed.seed);
        }
    }
    bed_close(&bed, MACHINES * REQUESTS);
}

static void run_collapse(const char *variant) {
    test_bed bed = bed_open(variant);
    uint64_t differing = 0;
    for (int k = 0; k < MACHINES / 2; k++) {
        run_company(&bed, KV_COLLAPSE);
        for (uint32_t i = 0; i < REQUESTS; i++) {
            answer want = alone(bed.roomy, &bed.wishes[i], KV_COLLAPSE),
                   exact = alone(bed.roomy, &bed.wishes[i], KV_EXACT);
            is_equal(&bed.got[i], &want, bed.seed);
            size_t n = (want.n < exact.n ? want.n : exact.n) * sizeof *want.logprobs;
            bool differs = memcmp(want.logprobs, exact.logprobs, n) != 0;
            if (bed.wishes[i].max_loops == 1) cr_assert(!differs, "one loop, and not as exact");
            differing += differs;
        }
    }
    cr_assert_gt(differing, REQUESTS, "collapsing changed nothing");
    bed_close(&bed, MACHINES / 2 * REQUESTS);
}

Test(collapse_property, requests_in_company_get_what_they_get_alone_and_not_what_exact_gives) {
    run_collapse("ouro_tiny");
    run_collapse("huginn_tiny"); /* planes outside the loop, latent-diff */
}
