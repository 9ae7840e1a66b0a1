/* test_golden.c - the golden cases through scheduler and CPU backend: depths and greedy
 * tokens equal, logits within 1e-3 of the largest, for any chunking of the prompt and
 * whatever else shares the launches. */
#include "scheduler/scheduler.h"
#include "tests/lib/golden.h"
#include "tests/lib/golden_run.h"
#include "tests/lib/testlib.h"

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
        (void)golden_submit(s, &r);
    }
}

static void run_golden(const run_case *c) {
    golden_case g = golden_open(c->name);
    model_folder *m;
    err e = {0};
    cr_assert_eq(model_open(&m, g.dir, &e), 0, "%s", e.msg);
    eng_backend *b = golden_backend(m, g.n_loops, 300, 128);
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
        golden_step(s, 3);
    }
    for (int i = 0; i < GOLDEN_SEQS; i++) {
        sched_request r = {.prompt = g.ids[i],
                           .n_prompt = GOLDEN_LEN,
                           .tap = on_tap,
                           .tap_logits = true,
                           .ud = &w};
        w.ids[i] = golden_submit(s, &r);
        if (c->mixed) golden_step(s, 2);
    }
    sched_request r = {.prompt = g.greedy[c->policy],
                       .n_prompt = GOLDEN_PROMPT,
                       .max_tokens = GOLDEN_GREEDY - GOLDEN_PROMPT};
    r.sampling = (eng_sampling){.top_p = 1, .repetition_penalty = 1};
    w.greedy_id = golden_submit(s, &r);
    if (c->mixed) {
        golden_step(s, 4);
        submit_company(s, &g, 6, 2);
    }
    golden_step(s, 100000);
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
