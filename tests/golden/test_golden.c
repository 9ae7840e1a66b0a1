/* test_golden.c - the golden cases through scheduler and CPU backend: depths and greedy
 * tokens equal, logits within 1e-3 of the largest, for any chunking of the prompt and
 * whatever else shares the launches. */
#include "base/file.h"
#include "base/json.h"
#include "scheduler/scheduler.h"
#include "tests/lib/golden.h"
#include "tests/lib/testlib.h"
#include "text/tokenizer.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

TestSuite(golden_sched, .fini = fail_on_leaks, .timeout = HANGS_S);

typedef struct {
    char name[24];
    kv_policy policy;
    sched_mode mode;
    uint32_t chunk, max_rows;
    bool mixed;
} run_case;

typedef struct {
    const golden_case *g;
    kv_policy policy;
    uint64_t ids[GOLDEN_SEQS], greedy_id;
    uint32_t n_seen[GOLDEN_SEQS], n_greedy;
    float worst; /* largest error over the largest logit */
    bool ended[GOLDEN_SEQS + 1];
} watch;

static void on_tap(void *ud, uint64_t id, uint32_t pos, uint16_t depth, const float *logits) {
    watch *w = ud;
    const golden_case *g = w->g;
    for (int s = 0; s < GOLDEN_SEQS; s++) {
        if (w->ids[s] != id) continue;
        cr_assert_eq(pos, w->n_seen[s]++, "positions come in order");
        cr_assert_eq(depth, g->depth[w->policy][s][pos], "%s: depth at %u is %u, must be %u",
                     g->dir, pos, depth, g->depth[w->policy][s][pos]);
        const float *want = g->logits[w->policy] + ((size_t)s * GOLDEN_LEN + pos) * g->vocab;
        float largest = 0, error = 0;
        for (uint32_t i = 0; i < g->vocab; i++) {
            largest = fmaxf(largest, fabsf(want[i]));
            error = fmaxf(error, fabsf(want[i] - logits[i]));
        }
        w->worst = fmaxf(w->worst, error / largest);
    }
}

static void on_event(void *ud, const sched_event *ev) {
    watch *w = ud;
    bool greedy = ev->id == w->greedy_id;
    if (ev->kind == SCHED_TOKEN && greedy) {
        uint32_t want = w->g->greedy[w->policy][GOLDEN_PROMPT + w->n_greedy++];
        cr_assert_eq(ev->token, want, "%s: greedy token %u is %u, must be %u", w->g->dir,
                     w->n_greedy - 1, ev->token, want);
    } else if (ev->kind == SCHED_END) {
        for (int s = 0; s < GOLDEN_SEQS; s++)
            w->ended[s] |= ev->id == w->ids[s];
        w->ended[GOLDEN_SEQS] |= greedy;
        if (ev->why == ERR_DEVICE) return; /* sched_step says more */
        cr_assert_eq(ev->finish, SCHED_LENGTH, "request %u ends with %d, %s", (unsigned)ev->id,
                     ev->finish, err_name(ev->why));
    }
}

static eng_backend *open_backend(const model_folder *m, uint32_t loops, uint32_t n_rows,
                                 uint32_t launch) {
    eng_backend_opts o = {.threads = 1,
                          .max_loops = loops,
                          .n_rows = n_rows,
                          .max_launch = launch,
                          .max_logits = 32,
                          .cache_bytes = 32u << 20,
                          .max_positions = model_plan_of(m)->max_seq_len,
                          .cache_dtype = DTYPE_F32,
                          .prompt_chunk = launch >= 128 ? 128 : 0};
    eng_backend *b;
    err e = {0};
    cr_assert_eq(eng_cpu_open(&b, m, &o, &e), 0, "%s", e.msg);
    return b;
}

static uint64_t submit(sched *s, const sched_request *r) {
    err e = {0};
    uint64_t id;
    cr_assert_eq(sched_submit(s, r, &id, &e), 0, "%s", e.msg);
    return id;
}

/* Company of other lengths, depths and thresholds, some of it sampled. */
static void submit_company(sched *s, const golden_case *g, uint32_t n, uint32_t salt) {
    uint32_t prompt[60];
    for (uint32_t k = 0; k < n; k++) {
        uint32_t len = 3 + (k * 17 + salt * 5) % 57;
        for (uint32_t i = 0; i < len; i++)
            prompt[i] = (i * 31 + k * 7 + salt * 13) % g->vocab;
        sched_request r = {.prompt = prompt, .n_prompt = len, .max_tokens = 5 + k * 3};
        r.sampling = (eng_sampling){
            .temperature = k % 2 ? 0.9f : 0, .top_p = 1, .repetition_penalty = 1, .seed = k};
        if (k % 3 == 1) r.depth = (sched_depth){.max_loops = 1};
        if (k % 3 == 2) r.depth = (sched_depth){.min_loops = (uint16_t)g->n_loops};
        (void)submit(s, &r);
    }
}

static void step(sched *s, uint32_t n) {
    for (bool idle = false; n > 0 && !idle; n--) {
        err e = {0};
        cr_assert_eq(sched_step(s, &idle, &e), 0, "%s", e.msg);
        cr_assert(sched_sane(s, &e), "%s", e.msg);
    }
}

static void run_golden(const run_case *c) {
    golden_case g = golden_open(c->name);
    model_folder *m;
    err e = {0};
    cr_assert_eq(model_open(&m, g.dir, &e), 0, "%s", e.msg);
    eng_backend *b = open_backend(m, g.n_loops, 300, 128);
    sched_opts o;
    sched_opts_default(&o);
    o.halted_kv = c->policy;
    o.batching = c->mode;
    o.chunk = c->chunk;
    o.max_rows = c->max_rows;
    o.default_max_loops = g.n_loops;
    watch w = {.g = &g, .policy = c->policy};
    sched *s;
    cr_assert_eq(sched_create(&s, b, &o, on_event, &w, &e), 0, "%s", e.msg);
    if (c->mixed) {
        submit_company(s, &g, 4, 1);
        step(s, 3);
    }
    for (int i = 0; i < GOLDEN_SEQS; i++) {
        sched_request r = {.prompt = g.ids[i],
                           .n_prompt = GOLDEN_LEN,
                           .tap = on_tap,
                           .tap_logits = true,
                           .ud = &w};
        w.ids[i] = submit(s, &r);
        if (c->mixed) step(s, 2);
    }
    sched_request r = {.prompt = g.greedy[c->policy],
                       .n_prompt = GOLDEN_PROMPT,
                       .max_tokens = GOLDEN_GREEDY - GOLDEN_PROMPT};
    r.sampling = (eng_sampling){.top_p = 1, .repetition_penalty = 1};
    w.greedy_id = submit(s, &r);
    if (c->mixed) {
        step(s, 4);
        submit_company(s, &g, 6, 2);
    }
    step(s, 100000);
    for (int i = 0; i <= GOLDEN_SEQS; i++)
        cr_assert(w.ended[i]);
    cr_assert_eq(w.n_seen[0] + w.n_seen[1], 2 * GOLDEN_LEN);
    cr_assert_eq(w.n_greedy, GOLDEN_GREEDY - GOLDEN_PROMPT);
    cr_assert_leq(w.worst, 1e-3f, "%s: logits off by %g of the largest", c->name, w.worst);
    fprintf(stderr, "golden %s, %s, chunks of %u: logits off by at most %.1e of the largest\n",
            c->name, c->policy == KV_LAST ? "last" : "exact", c->chunk, (double)w.worst);
    sched_destroy(s);
    eng_backend_close(b);
    model_close(m);
    golden_close(&g);
}

ParameterizedTestParameters(golden_sched, any_chunking_and_any_company_give_the_published_result) {
    static run_case cases[GOLDEN_CASES * 2 * 3 * 2];
    static const uint32_t chunks[] = {1, 7, 128};
    size_t n = 0;
    for (int i = 0; i < GOLDEN_CASES; i++) {
        for (int policy = 0; policy < 2; policy++) {
            for (int chunk = 0; chunk < 3; chunk++) {
                for (int mixed = 0; mixed < 2; mixed++) {
                    run_case *c = &cases[n++];
                    *c = (run_case){.policy = (kv_policy)policy,
                                    .chunk = chunks[chunk],
                                    .max_rows = 128,
                                    .mixed = mixed};
                    snprintf(c->name, sizeof c->name, "%s", golden_names[i]);
                }
            }
        }
    }
    return cr_make_param_array(run_case, cases, n);
}
ParameterizedTest(run_case *c, golden_sched,
                  any_chunking_and_any_company_give_the_published_result) {
    run_golden(c);
}

ParameterizedTestParameters(golden_sched, so_do_the_other_batching_modes_and_narrow_launches) {
    static run_case cases[] = {
        {"mla", KV_EXACT, SCHED_FULL, 7, 128, true},
        {"gqa", KV_EXACT, SCHED_FULL, 128, 5, true},
        {"mla_deep", KV_EXACT, SCHED_LOCKSTEP, 32, 128, true},
        {"mla", KV_LAST, SCHED_LOCKSTEP, 7, 128, true},
        {"gqa_theta", KV_LAST, SCHED_DEPTHWISE, 32, 9, true},
        {"mla_no_prelude", KV_EXACT, SCHED_DEPTHWISE, 32, 9, true},
        {"mla_shallow", KV_LAST, SCHED_DEPTHWISE, 32, 1, true},
    };
    return cr_make_param_array(run_case, cases, sizeof cases / sizeof *cases);
}
ParameterizedTest(run_case *c, golden_sched, so_do_the_other_batching_modes_and_narrow_launches) {
    run_golden(c);
}

/* ---- models/demo/expected.json ---- */

typedef struct {
    json_t *ids, *depths;
    size_t n_prompt, got;
} demo_watch;

static void demo_tap(void *ud, uint64_t id, uint32_t pos, uint16_t depth, const float *logits) {
    (void)id, (void)logits;
    demo_watch *w = ud;
    json_int_t want = json_integer_value(json_array_get(w->depths, pos));
    cr_assert_eq(depth, want, "depth at %u is %u, must be %d", pos, depth, (int)want);
    w->got++;
}

static demo_watch *demo_by_id[8];
static void demo_event(void *ud, const sched_event *ev) {
    (void)ud;
    if (ev->kind != SCHED_TOKEN) return;
    json_int_t want = json_integer_value(json_array_get(demo_by_id[ev->id]->ids, ev->pos));
    cr_assert_eq(ev->token, want, "token at %u is %u, must be %d", ev->pos, ev->token, (int)want);
}

static void run_demo_greedy(json_t *greedy, kv_policy policy, bool together) {
    model_folder *m;
    err e = {0};
    cr_assert_eq(model_open(&m, "models/demo", &e), 0, "%s", e.msg);
    eng_backend *b = open_backend(m, 8, 512, 128);
    sched_opts o;
    sched_opts_default(&o);
    o.halted_kv = policy;
    sched *s;
    cr_assert_eq(sched_create(&s, b, &o, demo_event, NULL, &e), 0, "%s", e.msg);
    static demo_watch w[4];
    size_t i;
    json_t *one;
    json_array_foreach(greedy, i, one) {
        json_t *want = json_object_get(one, policy == KV_LAST ? "last" : "exact"), *v;
        w[i] = (demo_watch){.ids = json_object_get(want, "ids"),
                            .depths = json_object_get(want, "depths")};
        uint32_t prompt[64];
        json_array_foreach(json_object_get(one, "prompt_ids"), w[i].n_prompt, v) {
            prompt[w[i].n_prompt] = (uint32_t)json_integer_value(v);
        }
        size_t n = json_array_size(w[i].ids);
        sched_request r = {.prompt = prompt,
                           .n_prompt = (uint32_t)w[i].n_prompt,
                           .max_tokens = (uint32_t)(n - w[i].n_prompt),
                           .tap = demo_tap,
                           .ud = &w[i]};
        r.sampling = (eng_sampling){.top_p = 1, .repetition_penalty = 1};
        demo_by_id[i + 1] = &w[i];
        cr_assert_eq(submit(s, &r), i + 1);
        if (!together) step(s, 100000);
    }
    step(s, 100000);
    for (i = 0; i < 4; i++)
        cr_assert_eq(w[i].got + 1, json_array_size(w[i].ids), "all but the last token are run");
    sched_destroy(s);
    eng_backend_close(b);
    model_close(m);
}

static json_t *demo_expected(const char *key) {
    json_error_t je;
    json_t *all = json_load_file("models/demo/expected.json", 0, &je);
    cr_assert_not_null(all, "%s", je.text);
    json_t *part = json_incref(json_object_get(all, key));
    json_decref(all);
    return part;
}

Test(golden_sched, the_demo_model_writes_the_expected_texts_at_the_expected_depths) {
    json_t *greedy = demo_expected("greedy");
    for (int policy = 0; policy < 2; policy++) {
        run_demo_greedy(greedy, (kv_policy)policy, false);
        run_demo_greedy(greedy, (kv_policy)policy, true);
    }
    json_decref(greedy);
}

enum { ROW = 128, ROWS = 64 };

typedef struct {
    double nll;
    uint32_t n, histogram[9];
} held_out;

static void held_out_event(void *ud, const sched_event *ev) {
    held_out *h = ud;
    if (ev->kind != SCHED_PROMPT) return;
    if (ev->pos + 1 < ROW) h->histogram[ev->depth]++;
    if (ev->pos == 0) return;
    h->nll -= ev->logprob;
    h->n++;
}

static held_out run_held_out(const uint32_t *ids, kv_policy policy) {
    model_folder *m;
    err e = {0};
    cr_assert_eq(model_open(&m, "models/demo", &e), 0, "%s", e.msg);
    eng_backend *b = open_backend(m, 8, 1024, 256);
    sched_opts o;
    sched_opts_default(&o);
    o.halted_kv = policy;
    held_out h = {0};
    sched *s;
    cr_assert_eq(sched_create(&s, b, &o, held_out_event, &h, &e), 0, "%s", e.msg);
    for (int i = 0; i < ROWS; i++) {
        sched_request r = {
            .prompt = ids + (size_t)i * ROW, .n_prompt = ROW, .prompt_logprobs = true};
        (void)submit(s, &r);
    }
    for (bool idle = false; !idle;)
        cr_assert_eq(sched_step(s, &idle, &e), 0, "%s", e.msg);
    sched_destroy(s);
    eng_backend_close(b);
    model_close(m);
    return h;
}

static void held_out_equals(json_t *all, const uint32_t *ids, kv_policy policy) {
    json_t *want = json_object_get(all, policy == KV_LAST ? "last" : "exact"), *v;
    held_out h = run_held_out(ids, policy);
    double nll = json_number_value(json_object_get(want, "nll_per_token")), loops = 0;
    cr_assert_float_eq(h.nll / h.n, nll, 2e-4, "loss %f, must be %f", h.nll / h.n, nll);
    size_t i;
    uint32_t rows = 0, moved = 0;
    json_array_foreach(json_object_get(want, "depth_histogram"), i, v) {
        uint32_t n = h.histogram[i + 1]; /* bins count from depth 1 */
        loops += (double)((i + 1) * n);
        rows += n;
        json_int_t d = json_integer_value(v) - (json_int_t)n;
        moved += (uint32_t)(d < 0 ? -d : d);
    }
    fprintf(stderr, "held out, %s: loss %.4f (%.4f), mean depth %.3f, %u of %u in other bins\n",
            policy == KV_LAST ? "last" : "exact", h.nll / h.n, nll, loops / rows, moved / 2, rows);
    double mean = json_number_value(json_object_get(want, "mean_depth"));
    cr_assert_float_eq(loops / rows, mean, 2e-3, "mean depth %f, must be %f", loops / rows, mean);
    /* A halting probability may lie within rounding of the threshold: 1 in 1000 may differ. */
    cr_assert_leq(moved / 2, 8);
}

Test(golden_sched, the_demo_model_has_the_expected_loss_and_depths_on_held_out_text) {
    json_t *all = demo_expected("held_out");
    tokenizer *t;
    err e = {0};
    cr_assert_eq(tokenizer_open(&t, "models/demo", 2048, &e), 0, "%s", e.msg);
    buf text = {0};
    cr_assert_eq(file_read(&text, "models/demo/held_out.txt", 1u << 22, &e), 0, "%s", e.msg);
    token_ids ids = {0};
    cr_assert_eq(tokenizer_encode(t, text.data, text.len, false, 1u << 20, &ids, &e), 0, "%s",
                 e.msg);
    cr_assert_geq(ids.n, ROWS * ROW);
    held_out_equals(all, ids.data, KV_EXACT);
    held_out_equals(all, ids.data, KV_LAST);
    token_ids_deinit(&ids);
    buf_deinit(&text);
    tokenizer_close(t);
    json_decref(all);
}
