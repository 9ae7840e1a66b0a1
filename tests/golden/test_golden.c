/* test_golden.c - the golden cases through scheduler and CPU backend: depths and greedy tokens are
 * equal, logits within 1e-3 of the largest, for any chunking of the prompt and any other rows in
 * the launches. */
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
    const golden_case *golden;
    kv_policy policy;
    uint64_t ids[GOLDEN_SEQS], greedy_id;
    uint32_t n_seen[GOLDEN_SEQS], n_greedy;
    float worst; /* largest error over the largest logit */
    bool ended[GOLDEN_SEQS + 1];
} watch;

static void on_tap(void *ud, uint64_t id, uint32_t pos, uint16_t depth, const float *logits) {
    watch *seen = ud;
    const golden_case *golden = seen->golden;
    for (int seq = 0; seq < GOLDEN_SEQS; seq++) {
        if (seen->ids[seq] != id) continue;
        cr_assert_eq(pos, seen->n_seen[seq]++, "positions come in order");
        cr_assert_eq(depth, golden->depth[seen->policy][seq][pos],
                     "%s: depth at %u is %u, must be %u", golden->dir, pos, depth,
                     golden->depth[seen->policy][seq][pos]);
        const float *want =
            golden->logits[seen->policy] + ((size_t)seq * GOLDEN_LEN + pos) * golden->vocab;
        float largest = 0, error = 0;
        for (uint32_t i = 0; i < golden->vocab; i++) {
            largest = fmaxf(largest, fabsf(want[i]));
            error = fmaxf(error, fabsf(want[i] - logits[i]));
        }
        seen->worst = fmaxf(seen->worst, error / largest);
    }
}

static void on_event(void *ud, const sched_event *ev) {
    watch *seen = ud;
    bool greedy = ev->id == seen->greedy_id;
    if (ev->kind == SCHED_TOKEN && greedy) {
        uint32_t want = seen->golden->greedy[seen->policy][GOLDEN_PROMPT + seen->n_greedy++];
        cr_assert_eq(ev->token, want, "%s: greedy token %u is %u, must be %u", seen->golden->dir,
                     seen->n_greedy - 1, ev->token, want);
    } else if (ev->kind == SCHED_END) {
        for (int seq = 0; seq < GOLDEN_SEQS; seq++)
            seen->ended[seq] |= ev->id == seen->ids[seq];
        seen->ended[GOLDEN_SEQS] |= greedy;
        if (ev->why == ERR_DEVICE) return; /* sched_step says more */
        cr_assert_eq(ev->finish, SCHED_LENGTH, "request %u ends with %d, %s", (unsigned)ev->id,
                     ev->finish, err_name(ev->why));
    }
}

/* Other requests of various lengths, depths and thresholds, some sampled, to share the launches. */
static void submit_company(scheduler *sch, const golden_case *golden, uint32_t n, uint32_t salt) {
    uint32_t prompt[60];
    for (uint32_t k = 0; k < n; k++) {
        uint32_t len = 3 + (k * 17 + salt * 5) % 57;
        for (uint32_t i = 0; i < len; i++)
            prompt[i] = (i * 31 + k * 7 + salt * 13) % golden->vocab;
        sched_request req = {.prompt = prompt, .n_prompt = len, .max_tokens = 5 + k * 3};
        req.sampling = (eng_sampling){
            .temperature = k % 2 ? 0.9f : 0, .top_p = 1, .repetition_penalty = 1, .seed = k};
        if (k % 3 == 1) req.depth = (sched_depth){.max_loops = 1};
        if (k % 3 == 2) req.depth = (sched_depth){.min_loops = (uint16_t)golden->n_loops};
        (void)golden_submit(sch, &req);
    }
}

static void run_golden(const run_case *run) {
    golden_case golden = golden_open(run->name);
    model_folder *model;
    err e = {0};
    cr_assert_eq(model_open(&model, golden.dir, &e), 0, "%s", e.msg);
    eng_backend *backend = golden_backend(model, golden.n_loops, 300, 128);
    sched_opts opts;
    sched_opts_default(&opts);
    opts.halted_kv = run->policy;
    opts.batching = run->mode;
    opts.chunk = run->chunk;
    opts.max_rows = run->max_rows;
    opts.default_max_loops = golden.n_loops;
    watch seen = {.golden = &golden, .policy = run->policy};
    scheduler *sch;
    cr_assert_eq(sched_create(&sch, backend, &opts, on_event, &seen, &e), 0, "%s", e.msg);
    if (run->mixed) {
        submit_company(sch, &golden, 4, 1);
        golden_step(sch, 3);
    }
    for (int i = 0; i < GOLDEN_SEQS; i++) {
        sched_request req = {.prompt = golden.ids[i],
                             .n_prompt = GOLDEN_LEN,
                             .tap = on_tap,
                             .tap_logits = true,
                             .ud = &seen};
        seen.ids[i] = golden_submit(sch, &req);
        if (run->mixed) golden_step(sch, 2);
    }
    sched_request req = {.prompt = golden.greedy[run->policy],
                         .n_prompt = GOLDEN_PROMPT,
                         .max_tokens = GOLDEN_GREEDY - GOLDEN_PROMPT};
    req.sampling = (eng_sampling){.top_p = 1, .repetition_penalty = 1};
    seen.greedy_id = golden_submit(sch, &req);
    if (run->mixed) {
        golden_step(sch, 4);
        submit_company(sch, &golden, 6, 2);
    }
    golden_step(sch, 100000);
    for (int i = 0; i <= GOLDEN_SEQS; i++)
        cr_assert(seen.ended[i]);
    cr_assert_eq(seen.n_seen[0] + seen.n_seen[1], 2 * GOLDEN_LEN);
    cr_assert_eq(seen.n_greedy, GOLDEN_GREEDY - GOLDEN_PROMPT);
    cr_assert_leq(seen.worst, 1e-3f, "%s: logits off by %g of the largest", run->name, seen.worst);
    fprintf(stderr, "golden %s, %s, chunks of %u: logits off by at most %.1e of the largest\n",
            run->name, kv_policy_name(run->policy), run->chunk, (double)seen.worst);
    sched_destroy(sch);
    eng_backend_close(backend);
    model_close(model);
    golden_close(&golden);
}

ParameterizedTestParameters(golden_sched, any_chunking_and_any_company_give_the_published_result) {
    static run_case cases[GOLDEN_CASES * 2 * 3 * 2];
    static const uint32_t chunks[] = {1, 7, 128};
    size_t n = 0;
    for (int i = 0; i < GOLDEN_CASES; i++) {
        for (int policy = 0; policy < 2; policy++) {
            for (int chunk = 0; chunk < 3; chunk++) {
                for (int mixed = 0; mixed < 2; mixed++) {
                    run_case *run = &cases[n++];
                    *run = (run_case){.policy = (kv_policy)policy,
                                      .chunk = chunks[chunk],
                                      .max_rows = 128,
                                      .mixed = mixed};
                    snprintf(run->name, sizeof run->name, "%s", golden_names[i]);
                }
            }
        }
    }
    return cr_make_param_array(run_case, cases, n);
}
ParameterizedTest(run_case *run, golden_sched,
                  any_chunking_and_any_company_give_the_published_result) {
    run_golden(run);
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
ParameterizedTest(run_case *run, golden_sched, so_do_the_other_batching_modes_and_narrow_launches) {
    run_golden(run);
}
