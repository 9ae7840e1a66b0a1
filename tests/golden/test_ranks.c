/* test_ranks.c - a model over several ranks gives the bits of one process: depths, tokens and
 * logits of every sequence, for every family, policy and kind of weights. The ranks are threads. */
#include "scheduler/scheduler.h"
#include "tests/lib/golden_run.h"
#include "tests/lib/rank_group.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <stdio.h>

TestSuite(golden_ranks, .fini = fail_on_leaks, .timeout = HANGS_S);

enum { SEQUENCES = 4, MOST_IDS = 64 };

typedef struct {
    char dir[48];
    kv_policy policy;
    eng_weights weights;
} rank_case;

/* Prompts of different lengths and depths, two of them sampled, that share launches. */
static void run_sequences(eng_backend *backend, kv_policy policy, golden_outputs *outs) {
    const model_plan *plan = backend->plan;
    uint32_t prompt[MOST_IDS];
    sched_opts opts;
    scheduler *sch;
    err e = {0};
    sched_opts_default(&opts);
    opts.halted_kv = policy;
    opts.chunk = 16;
    opts.max_rows = 64;
    outs->n = SEQUENCES;
    cr_assert_eq(sched_create(&sch, backend, &opts, golden_event, outs, &e), 0, "%s", e.msg);
    for (uint32_t k = 0; k < SEQUENCES; k++) {
        uint32_t tokens = 4 + 3 * k, room = plan->max_seq_len - tokens;
        uint32_t n = 7 + 13 * k < room ? 7 + 13 * k : room;
        for (uint32_t i = 0; i < n; i++)
            prompt[i] = (i * 31 + k * 7 + 3) % plan->vocab_size;
        golden_output *out = &outs->of[k];
        out->vocab = plan->vocab_size;
        sched_request req = {.prompt = prompt,
                             .n_prompt = n,
                             .max_tokens = tokens,
                             .tap = golden_tap,
                             .tap_logits = true,
                             .ud = out};
        req.sampling = (eng_sampling){
            .temperature = k % 2 ? 0.9f : 0, .top_p = 1, .repetition_penalty = 1, .seed = k};
        out->id = golden_submit(sch, &req);
        golden_step(sch, 2);
    }
    golden_step(sch, 100000);
    sched_destroy(sch);
}

/* Runs the sequences on n ranks. Thread counts differ between ranks. */
static void run_on(const model_folder *model, const rank_case *run, uint32_t n,
                   golden_outputs *outs) {
    const eng_backend_opts one = {.threads = 1,
                                  .n_rows = 300,
                                  .max_launch = 128,
                                  .max_logits = 32,
                                  .cache_bytes = 16u << 20,
                                  .weights = run->weights,
                                  .own_state0 = model_plan_of(model)->state0 == STATE_SEEDED,
                                  .state0 = STATE_ZERO};
    eng_backend_opts opts[] = {one, one};
    opts[1].threads = 2;
    err e = {0};
    rank_group *group;
    eng_backend *backend = rank_group_start(&group, n, model, opts, 2, eng_cpu_open, &e);
    cr_assert_not_null(backend, "%s", e.msg);
    run_sequences(backend, run->policy, outs);
    if (n > 1) cr_assert_gt(eng_ranks_read(rank_group_ranks(group)).gathers, 0);
    rank_group_close(group);
}

ParameterizedTestParameters(golden_ranks, any_number_of_ranks_gives_the_bits_of_one_process) {
    static rank_case cases[2 * ENG_WEIGHTS_KINDS * GOLDEN_FOLDERS];
    size_t n = 0;
    for (size_t i = 0; i < GOLDEN_FOLDERS; i++) {
        for (int weights = 0; weights < ENG_WEIGHTS_KINDS; weights++) {
            for (int policy = 0; policy < 2; policy++) {
                cases[n].policy = policy ? KV_LAST : KV_EXACT;
                cases[n].weights = (eng_weights)weights;
                (void)snprintf(cases[n++].dir, sizeof cases->dir, "%s", golden_folders[i]);
            }
        }
    }
    return cr_make_param_array(rank_case, cases, n);
}
ParameterizedTest(rank_case *run, golden_ranks, any_number_of_ranks_gives_the_bits_of_one_process) {
    static const uint32_t ranks[] = {2, 3, 7};
    model_folder *model;
    err e = {0};
    golden_outputs alone = {0};
    cr_assert_eq(model_open(&model, run->dir, &e), 0, "%s", e.msg);
    run_on(model, run, 1, &alone);
    for (size_t i = 0; i < ARRAY_LEN(ranks); i++) {
        golden_outputs outs = {0};
        char what[96];
        (void)snprintf(what, sizeof what, "%s, policy %d, weights %d, %u ranks", run->dir,
                       run->policy, run->weights, ranks[i]);
        run_on(model, run, ranks[i], &outs);
        golden_expect_equal(&alone, &outs, what);
        golden_outputs_deinit(&outs);
    }
    golden_outputs_deinit(&alone);
    model_close(model);
}
