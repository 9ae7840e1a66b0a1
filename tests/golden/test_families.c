/* test_families.c - Fathom against the published code of each family. The folder
 * tests/golden/families/NAME holds a tiny model in the authors' format, and expected.json the
 * output of their code in float32. Depths are equal and logits within 1e-4 of the largest, for any
 * chunking of the prompt and any other rows in the launches.
 *
 * The published states are drawn anew for each run, so expected.json holds runs from zero states.
 * Adaptive cases of lookup latest-m4 are those of the policy `last` without a least number of loops
 * for prompts; other look-ups and rules are not offered. */
#include "base/json.h"
#include "engine/backend.h"
#include "scheduler/scheduler.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

TestSuite(golden_family, .fini = fail_on_leaks, .timeout = HANGS_S);

typedef struct {
    char family[16];
    uint32_t n_cases;
    uint32_t chunk; /* 0: the whole prompt */
    bool mixed;
    sched_mode mode;
    eng_weights weights;
} family_run;

/* The number of cases that Fathom offers. */
static const family_run families[] = {
    {.family = "ouro", .n_cases = 9},        {.family = "nanbeige", .n_cases = 1},
    {.family = "huginn", .n_cases = 6},      {.family = "parcae", .n_cases = 3},
    {.family = "retro_llama", .n_cases = 3}, {.family = "retro_olmo", .n_cases = 3},
};

/* Largest error over the largest logit that is right: the float32 sums of the published code differ
 * in order, and rounded weights as measured, with a margin. */
static const double limits[ENG_WEIGHTS_KINDS] = {1e-4, 3e-2, 2e-1};

/* One case of expected.json, being run. */
typedef struct {
    const json_t *expected; /* logits [position][vocab], depths or none */
    uint32_t vocab, n_seen;
    uint64_t id;
    double worst; /* largest error over the largest logit */
    bool ended;
} watch;

static void on_tap(void *ud, uint64_t id, uint32_t pos, uint16_t depth, const float *logits) {
    watch *seen = ud;
    const json_t *depths = json_object_get(seen->expected, "depths");
    const json_t *row = json_array_get(json_object_get(seen->expected, "logits"), pos);
    double largest = 0, error = 0;
    cr_assert_eq(id, seen->id);
    cr_assert_eq(pos, seen->n_seen++, "positions come in order");
    if (depths) {
        json_int_t want = json_integer_value(json_array_get(depths, pos));
        cr_assert_eq(depth, want, "depth at %u is %u, must be %lld", pos, depth, (long long)want);
    }
    cr_assert_eq(json_array_size(row), seen->vocab);
    for (uint32_t i = 0; i < seen->vocab; i++) {
        double want = json_number_value(json_array_get(row, i));
        largest = fmax(largest, fabs(want));
        error = fmax(error, fabs(want - (double)logits[i]));
    }
    seen->worst = fmax(seen->worst, error / largest);
}

static void on_event(void *ud, const sched_event *ev) {
    watch *seen = ud;
    if (ev->kind != SCHED_END) return;
    cr_assert_eq(ev->finish, SCHED_LENGTH, "a request ends with %s", err_name(ev->why));
    if (ev->id == seen->id) seen->ended = true;
}

static void step(scheduler *sch, uint32_t n) {
    for (bool idle = false; n > 0 && !idle; n--) {
        err e = {0};
        cr_assert_eq(sched_step(sch, &idle, &e), 0, "%s", e.msg);
        cr_assert(sched_sane(sch, &e), "%s", e.msg);
    }
}

static uint64_t submit(scheduler *sch, const sched_request *req) {
    err e = {0};
    uint64_t id;
    cr_assert_eq(sched_submit(sch, req, &id, &e), 0, "%s", e.msg);
    return id;
}

/* Other requests of various lengths, depths and thresholds, some sampled, to share the launches. */
static void submit_company(scheduler *sch, const eng_backend *backend, uint32_t n, uint32_t salt) {
    static const float thresholds[] = {0.2f, 0.6f, 1.0f};
    uint32_t vocab = backend->plan->vocab_size, least = backend->plan->loops_least;
    uint32_t prompt[60];
    for (uint32_t k = 0; k < n; k++) {
        uint32_t len = 3 + (k * 17 + salt * 5) % 57, tokens = 5 + k * 3;
        if (len > backend->plan->max_seq_len - tokens) len = backend->plan->max_seq_len - tokens;
        for (uint32_t i = 0; i < len; i++)
            prompt[i] = (i * 31 + k * 7 + salt * 13) % vocab;
        sched_request req = {.prompt = prompt, .n_prompt = len, .max_tokens = tokens};
        req.sampling = (eng_sampling){
            .temperature = k % 2 ? 0.9f : 0, .top_p = 1, .repetition_penalty = 1, .seed = k};
        if (backend->info.exit != EXIT_FIXED)
            req.depth.threshold = thresholds[(k + salt) % ARRAY_LEN(thresholds)];
        if (k % 4 == 3 && least <= 2) req.depth.max_loops = 2;
        (void)submit(sch, &req);
    }
}

/* What a case asks for. */
typedef struct {
    sched_depth depth;
    exit_rule exit;
    bool adaptive;    /* by a rule that the model was not published with */
    bool fixed_loops; /* equal for every position */
} wish;

/* False: the case uses an option Fathom does not offer. */
static bool wish_of(const model_plan *plan, const json_t *item, wish *out) {
    const json_t *threshold = json_object_get(item, "exit_threshold"),
                 *at = json_object_get(item, "exit_at_step"),
                 *loops = json_object_get(item, "loops");
    const char *rule = json_string_value(json_object_get(item, "criterion")),
               *lookup = json_string_value(json_object_get(item, "lookup"));
    *out = (wish){.exit = plan->exit, .depth.threshold = exit_rule_never(plan->exit)};
    if (threshold) {
        out->depth.threshold = (float)json_number_value(threshold);
    } else if (at) {
        out->depth.max_loops = (uint16_t)(json_integer_value(at) + 1);
        out->fixed_loops = true;
    } else if (loops) {
        out->depth.max_loops = (uint16_t)json_integer_value(loops);
        out->fixed_loops = true;
    } else {
        if (rule == NULL || strcmp(lookup, "latest-m4") != 0) return false;
        if (!exit_rule_find(rule, &out->exit)) return false;
        out->adaptive = true;
        out->depth.threshold = (float)json_number_value(json_object_get(item, "threshold"));
    }
    return true;
}

static double run_case(eng_backend *backend, const family_run *way, const json_t *item,
                       const wish *wanted) {
    const json_t *ids = json_object_get(item, "ids");
    uint32_t prompt[256], n = (uint32_t)json_array_size(ids);
    err e = {0};
    watch seen = {.expected = item, .vocab = backend->plan->vocab_size};
    sched_opts opts;
    scheduler *sch;
    cr_assert_leq(n, ARRAY_LEN(prompt));
    for (uint32_t i = 0; i < n; i++)
        prompt[i] = (uint32_t)json_integer_value(json_array_get(ids, i));
    sched_opts_default(&opts);
    opts.batching = way->mode;
    opts.chunk = way->chunk ? way->chunk : n;
    opts.max_rows = 64;
    if (wanted->adaptive) {
        opts.halted_kv = KV_LAST;
        opts.prompt_min_loops = 1;
    }
    cr_assert_eq(sched_create(&sch, backend, &opts, on_event, &seen, &e), 0, "%s", e.msg);
    if (way->mixed) {
        submit_company(sch, backend, 4, 1);
        step(sch, 3);
    }
    sched_request req = {.prompt = prompt,
                         .n_prompt = n,
                         .depth = wanted->depth,
                         .tap = on_tap,
                         .tap_logits = true,
                         .ud = &seen};
    seen.id = submit(sch, &req);
    if (way->mixed) {
        step(sch, 2);
        submit_company(sch, backend, 6, 2);
    }
    step(sch, 100000);
    cr_assert(seen.ended);
    cr_assert_eq(seen.n_seen, n);
    sched_destroy(sch);
    return seen.worst;
}

static eng_backend *open_for(const model_folder *model, const family_run *way, exit_rule exit) {
    bool draws = model_plan_of(model)->state0 == STATE_SEEDED;
    eng_backend_opts opts = {.threads = 1,
                             .n_rows = 300,
                             .max_launch = 128,
                             .cache_bytes = 32u << 20,
                             .weights = way->weights,
                             .own_exit = true,
                             .exit = exit,
                             .own_state0 = draws,
                             .state0 = STATE_ZERO};
    eng_backend *backend;
    err e = {0};
    cr_assert_eq(eng_cpu_open(&backend, model, &opts, &e), 0, "%s", e.msg);
    return backend;
}

/* Deeper loops of `full` compute keys and values of their own, and rounded weights move depths. */
static bool comparable(const family_run *way, const wish *wanted) {
    if (way->weights != ENG_WEIGHTS_AS_STORED) return wanted->fixed_loops;
    return !wanted->adaptive || way->mode != SCHED_FULL;
}

/* Largest error over the largest logit, over all cases. */
static double run_family(const family_run *way) {
    char dir[96], path[128];
    err e = {0};
    model_folder *model;
    (void)snprintf(dir, sizeof dir, "tests/golden/families/%s", way->family);
    (void)snprintf(path, sizeof path, "%s/expected.json", dir);
    json_error_t why;
    json_t *root = json_load_file(path, 0, &why);
    cr_assert(root, "%s: %s", path, why.text);
    cr_assert_eq(model_open(&model, dir, &e), 0, "%s", e.msg);
    const json_t *item;
    size_t i, ran = 0;
    double worst = 0;
    json_array_foreach(json_object_get(root, "cases"), i, item) {
        wish wanted;
        if (!wish_of(model_plan_of(model), item, &wanted)) continue;
        ran++;
        if (!comparable(way, &wanted)) continue;
        eng_backend *backend = open_for(model, way, wanted.exit);
        double off = run_case(backend, way, item, &wanted);
        eng_backend_close(backend);
        cr_assert_leq(off, limits[way->weights], "%s, case %zu: logits off by %g of the largest",
                      way->family, i, off);
        worst = fmax(worst, off);
    }
    cr_assert_eq(ran, way->n_cases);
    model_close(model);
    json_decref(root);
    return worst;
}

ParameterizedTestParameters(golden_family, any_chunking_and_any_company_give_the_published_result) {
    static const uint32_t chunks[] = {0, 1, 5};
    static family_run ways[8 * ARRAY_LEN(families)];
    size_t n = 0;
    for (size_t family = 0; family < ARRAY_LEN(families); family++) {
        family_run way = families[family];
        for (size_t i = 0; i < 2 * ARRAY_LEN(chunks); i++) {
            way.chunk = chunks[i / 2];
            way.mixed = i % 2;
            ways[n++] = way;
        }
        way.mode = SCHED_FULL;
        ways[n++] = way;
        way.mode = SCHED_LOCKSTEP;
        ways[n++] = way;
    }
    return cr_make_param_array(family_run, ways, n);
}
ParameterizedTest(family_run *way, golden_family,
                  any_chunking_and_any_company_give_the_published_result) {
    double worst = run_family(way);
    fprintf(stderr, "golden %s, chunks of %u, %s: %u cases, logits off by at most %.1e\n",
            way->family, way->chunk, way->mixed ? "mixed" : "alone", way->n_cases, worst);
}

/* Rounded weights must change the logits, or the option did nothing. */
static void run_rounded(eng_weights weights, const char *name) {
    for (size_t i = 0; i < ARRAY_LEN(families); i++) {
        family_run way = families[i];
        way.weights = weights;
        way.chunk = 5;
        double worst = run_family(&way);
        fprintf(stderr, "golden %s, weights in %s: logits off by at most %.1e\n", way.family, name,
                worst);
        cr_assert_gt(worst, 1e-4, "%s: %s changed nothing", way.family, name);
    }
}

Test(golden_family, bfloat16_weights_stay_within_their_rounding) {
    run_rounded(ENG_WEIGHTS_BF16, "bfloat16");
}

Test(golden_family, int8_weights_stay_close) {
    run_rounded(ENG_WEIGHTS_INT8, "int8");
}
