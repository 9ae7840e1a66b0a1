/* test_families.c - each family's published code against Fathom, from the family's own folder:
 * tests/golden/families/NAME holds a tiny model as its authors publish it, and expected.json what
 * their code answers in float32. Depths are equal and logits within 1e-4 of the largest, for any
 * chunking of the prompt and whatever else shares the launches. */
#include "base/json.h"
#include "engine/backend.h"
#include "scheduler/scheduler.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

TestSuite(golden_family, .fini = fail_on_leaks, .timeout = 300);

typedef struct {
    char family[16];
    uint32_t chunk; /* 0: the whole prompt */
    bool mixed;
    sched_mode mode;
} way;

/* One case of expected.json under way. */
typedef struct {
    const json_t *expected; /* logits [position][vocab], depths or none */
    uint32_t vocab, n_seen;
    uint64_t id;
    double worst; /* largest error over the largest logit */
    bool ended;
} watch;

static void on_tap(void *ud, uint64_t id, uint32_t pos, uint16_t depth, const float *logits) {
    watch *w = ud;
    const json_t *depths = json_object_get(w->expected, "depths");
    const json_t *row = json_array_get(json_object_get(w->expected, "logits"), pos);
    double largest = 0, error = 0;
    cr_assert_eq(id, w->id);
    cr_assert_eq(pos, w->n_seen++, "positions come in order");
    if (depths) {
        json_int_t want = json_integer_value(json_array_get(depths, pos));
        cr_assert_eq(depth, want, "depth at %u is %u, must be %lld", pos, depth, (long long)want);
    }
    cr_assert_eq(json_array_size(row), w->vocab);
    for (uint32_t i = 0; i < w->vocab; i++) {
        double want = json_number_value(json_array_get(row, i));
        largest = fmax(largest, fabs(want));
        error = fmax(error, fabs(want - (double)logits[i]));
    }
    w->worst = fmax(w->worst, error / largest);
}

static void on_event(void *ud, const sched_event *ev) {
    watch *w = ud;
    if (ev->kind != SCHED_END) return;
    cr_assert_eq(ev->finish, SCHED_LENGTH, "a request ends with %s", err_name(ev->why));
    if (ev->id == w->id) w->ended = true;
}

static void step(sched *s, uint32_t n) {
    for (bool idle = false; n > 0 && !idle; n--) {
        err e = {0};
        cr_assert_eq(sched_step(s, &idle, &e), 0, "%s", e.msg);
        cr_assert(sched_sane(s, &e), "%s", e.msg);
    }
}

static uint64_t submit(sched *s, const sched_request *r) {
    err e = {0};
    uint64_t id;
    cr_assert_eq(sched_submit(s, r, &id, &e), 0, "%s", e.msg);
    return id;
}

/* Company of other lengths, depths and thresholds, some of it sampled. */
static void submit_company(sched *s, uint32_t vocab, uint32_t n, uint32_t salt) {
    static const float thresholds[] = {0.2f, 0.6f, 1.0f};
    uint32_t prompt[60];
    for (uint32_t k = 0; k < n; k++) {
        uint32_t len = 3 + (k * 17 + salt * 5) % 57;
        for (uint32_t i = 0; i < len; i++)
            prompt[i] = (i * 31 + k * 7 + salt * 13) % vocab;
        sched_request r = {.prompt = prompt, .n_prompt = len, .max_tokens = 5 + k * 3};
        r.sampling = (eng_sampling){
            .temperature = k % 2 ? 0.9f : 0, .top_p = 1, .repetition_penalty = 1, .seed = k};
        r.depth.threshold = thresholds[(k + salt) % ARRAY_LEN(thresholds)];
        if (k % 4 == 3) r.depth.max_loops = 2;
        (void)submit(s, &r);
    }
}

/* False for a case that no serving engine has a place for. */
static bool depth_of(const json_t *c, sched_depth *d) {
    const json_t *threshold = json_object_get(c, "exit_threshold"),
                 *at = json_object_get(c, "exit_at_step"), *loops = json_object_get(c, "loops");
    *d = (sched_depth){.threshold = 1};
    if (threshold) d->threshold = (float)json_number_value(threshold);
    else if (at) d->max_loops = (uint16_t)(json_integer_value(at) + 1);
    else if (loops) d->max_loops = (uint16_t)json_integer_value(loops);
    else return false;
    return true;
}

static double run_case(eng_backend *b, const way *y, const json_t *c, const sched_depth *depth) {
    const json_t *ids = json_object_get(c, "ids");
    uint32_t prompt[256], n = (uint32_t)json_array_size(ids);
    err e = {0};
    watch w = {.expected = c, .vocab = b->plan->vocab_size};
    sched_opts o;
    sched *s;
    cr_assert_leq(n, ARRAY_LEN(prompt));
    for (uint32_t i = 0; i < n; i++)
        prompt[i] = (uint32_t)json_integer_value(json_array_get(ids, i));
    sched_opts_default(&o);
    o.batching = y->mode;
    o.chunk = y->chunk ? y->chunk : n;
    o.max_rows = 64;
    cr_assert_eq(sched_create(&s, b, &o, on_event, &w, &e), 0, "%s", e.msg);
    if (y->mixed) {
        submit_company(s, w.vocab, 4, 1);
        step(s, 3);
    }
    sched_request r = {.prompt = prompt,
                       .n_prompt = n,
                       .depth = *depth,
                       .tap = on_tap,
                       .tap_logits = true,
                       .ud = &w};
    w.id = submit(s, &r);
    if (y->mixed) {
        step(s, 2);
        submit_company(s, w.vocab, 6, 2);
    }
    step(s, 100000);
    cr_assert(w.ended);
    cr_assert_eq(w.n_seen, n);
    sched_destroy(s);
    return w.worst;
}

static void run_family(const way *y) {
    char dir[96], path[128];
    err e = {0};
    model_folder *m;
    eng_backend *b;
    (void)snprintf(dir, sizeof dir, "tests/golden/families/%s", y->family);
    (void)snprintf(path, sizeof path, "%s/expected.json", dir);
    json_error_t why;
    json_t *root = json_load_file(path, 0, &why);
    cr_assert(root, "%s: %s", path, why.text);
    cr_assert_eq(model_open(&m, dir, &e), 0, "%s", e.msg);
    eng_backend_opts o = {.threads = 1, .n_rows = 300, .max_launch = 128, .cache_bytes = 32u << 20};
    cr_assert_eq(eng_cpu_open(&b, m, &o, &e), 0, "%s", e.msg);
    const json_t *c;
    size_t i, ran = 0;
    double worst = 0;
    json_array_foreach(json_object_get(root, "cases"), i, c) {
        sched_depth depth;
        if (!depth_of(c, &depth)) continue;
        double off = run_case(b, y, c, &depth);
        cr_assert_leq(off, 1e-4, "%s, case %zu: logits off by %g of the largest", y->family, i,
                      off);
        worst = fmax(worst, off);
        ran++;
    }
    cr_assert_gt(ran, 0);
    fprintf(stderr, "golden %s, chunks of %u, %s: %zu cases, logits off by at most %.1e\n",
            y->family, y->chunk, y->mixed ? "mixed" : "alone", ran, worst);
    eng_backend_close(b);
    model_close(m);
    json_decref(root);
}

ParameterizedTestParameters(golden_family, any_chunking_and_any_company_give_the_published_result) {
    static const uint32_t chunks[] = {0, 1, 5};
    static way ways[16];
    size_t n = 0;
    for (size_t i = 0; i < ARRAY_LEN(chunks); i++) {
        for (int mixed = 0; mixed < 2; mixed++)
            ways[n++] = (way){"ouro", chunks[i], mixed, SCHED_DEPTHWISE};
    }
    ways[n++] = (way){"ouro", 5, true, SCHED_FULL};
    ways[n++] = (way){"ouro", 5, true, SCHED_LOCKSTEP};
    return cr_make_param_array(way, ways, n);
}
ParameterizedTest(way *y, golden_family, any_chunking_and_any_company_give_the_published_result) {
    run_family(y);
}
