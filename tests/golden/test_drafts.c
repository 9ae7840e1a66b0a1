/* test_drafts.c - rows of the coda before their last loop, in the CPU engine: a draft names the
 * token of a row leaving then, and leaves no trace. */
#include "tests/lib/draft_run.h"
#include "tests/lib/golden_run.h"
#include "tests/lib/rank_group.h"
#include "tests/lib/reference.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <stdio.h>
#include <string.h>

TestSuite(golden_drafts, .fini = fail_on_leaks, .timeout = HANGS_S);

typedef struct {
    char dir[48];
    char kernels[12]; /* "": the fastest */
    kv_policy policy;
    eng_weights weights;
} draft_case;

static model_folder *open_model(const char *dir) {
    model_folder *model;
    err e = {0};
    cr_assert_eq(model_open(&model, dir, &e), 0, "%s", e.msg);
    return model;
}

static eng_backend_opts opts_of(const model_folder *model, const draft_case *test) {
    eng_backend_opts opts = draft_opts(model_plan_of(model));
    opts.weights = test->weights;
    if (test->kernels[0]) opts.kernels = test->kernels;
    return opts;
}

static draft_result run(eng_backend *backend, const draft_way *way, const char *what) {
    draft_result out;
    err e = {0};
    cr_assert_eq(draft_run(backend, way, &out, &e), 0, "%s, policy %d, %u loops behind: %s", what,
                 way->policy, way->lag, e.msg);
    return out;
}

/* NULL, if this processor lacks the kernels. */
static eng_backend *open_case(model_folder **model, const draft_case *test) {
    eng_backend *backend;
    err e = {0};
    *model = open_model(test->dir);
    eng_backend_opts opts = opts_of(*model, test);
    if (eng_cpu_open(&backend, *model, &opts, &e) == 0) return backend;
    cr_assert(test->kernels[0] && e.code == ERR_USAGE, "%s", e.msg);
    model_close(*model);
    return NULL;
}

static struct criterion_test_params all_cases(void) {
    static const char *const kernels[] = {"", "avx2", "portable"};
    static draft_case cases[GOLDEN_FOLDERS * 2 * (ENG_WEIGHTS_KINDS + 2)];
    size_t n = 0;
    for (size_t i = 0; i < GOLDEN_FOLDERS; i++) {
        for (int policy = 0; policy < 2; policy++) {
            for (int k = 0; k < ENG_WEIGHTS_KINDS + 2; k++) {
                bool own = k >= ENG_WEIGHTS_KINDS;
                draft_case *test = &cases[n++];
                test->policy = policy ? KV_LAST : KV_EXACT;
                test->weights = own ? ENG_WEIGHTS_AS_STORED : (eng_weights)k;
                (void)snprintf(test->dir, sizeof test->dir, "%s", golden_folders[i]);
                (void)snprintf(test->kernels, sizeof test->kernels, "%s",
                               kernels[own ? k - ENG_WEIGHTS_KINDS + 1 : 0]);
            }
        }
    }
    return cr_make_param_array(draft_case, cases, n);
}

/* ---- its token ---- */

/* A weighted sum is rounded once more in a draft: the share of the last loop is added in two steps.
 * Codes of 8 bits may turn at another value then. */
static double most_error(const model_plan *plan, eng_weights weights) {
    if (plan->output == OUTPUT_STATE) return 0;
    return weights == ENG_WEIGHTS_INT8 ? 2e-2 : 1e-5;
}

ParameterizedTestParameters(golden_drafts, a_draft_is_the_answer_of_a_row_that_leaves_now) {
    return all_cases();
}
ParameterizedTest(draft_case *test, golden_drafts, a_draft_is_the_answer_of_a_row_that_leaves_now) {
    model_folder *model;
    eng_backend *backend = open_case(&model, test);
    if (backend == NULL) return;
    draft_way drafts = {.policy = test->policy, .every = true},
              probes = {.policy = test->policy, .probes = true};
    draft_result got = run(backend, &drafts, test->dir), want = run(backend, &probes, test->dir);
    double most = most_error(backend->plan, test->weights);
    uint32_t compared = 0;
    for (uint32_t seq = 0; seq < DRAFT_SEQS; seq++) {
        for (uint32_t at = 0; at < DRAFT_POS * DRAFT_LOOPS; at++) {
            uint32_t pos = at / DRAFT_LOOPS, loop = at % DRAFT_LOOPS;
            if (!got.has[seq][pos][loop]) continue;
            const float *one = draft_after(&got, seq, pos, loop),
                        *other = draft_after(&want, seq, pos, loop);
            cr_assert(want.has[seq][pos][loop]);
            bool same = memcmp(one, other, got.vocab * sizeof *one) == 0;
            cr_assert(same || ref_relative_error(one, other, got.vocab) <= most,
                      "%s: the draft of position %u after %u loops is off by %g", test->dir, pos,
                      loop + 1, ref_relative_error(one, other, got.vocab));
            compared++;
        }
    }
    cr_assert_gt(compared, 10 * (got.loops - 1), "%s: %u drafts", test->dir, compared);
    cr_assert(draft_same_last(&want, &got), "%s: a draft moved its row", test->dir);
    draft_result_deinit(&got);
    draft_result_deinit(&want);
    eng_backend_close(backend);
    model_close(model);
}

/* ---- no trace ---- */

static const draft_way ways[] = {
    {.lag = 1},
    {.lag = 2},
    {.lag = 3, .every = true},
    {.lag = 1, .every = true, .wrong = true},
    {.lag = 1, .wrong = true, .ahead = true},
};

/* Compares all ways on `others` with positions waiting for each other on `plain`. */
static void equals_plain(eng_backend *plain, eng_backend *others, const draft_case *test) {
    draft_way one_by_one = {.policy = test->policy};
    draft_result want = run(plain, &one_by_one, test->dir);
    cr_assert_eq(want.n_drafts, 0);
    for (size_t i = 0; i < ARRAY_LEN(ways); i++) {
        draft_way way = ways[i];
        way.policy = test->policy;
        if (way.lag >= want.loops) continue;
        draft_result got = run(others, &way, test->dir);
        cr_assert(draft_same_last(&want, &got), "%s, %u loops behind: other logits", test->dir,
                  way.lag);
        cr_assert_gt(got.n_drafts, 10);
        cr_assert(!way.wrong || got.n_withdrawn > 3);
        cr_assert(want.loops < 4 || got.most_loops > want.most_loops, "%u loops side by side",
                  got.most_loops);
        draft_result_deinit(&got);
    }
    draft_result_deinit(&want);
}

ParameterizedTestParameters(golden_drafts, positions_that_follow_drafts_give_the_plain_bits) {
    return all_cases();
}
ParameterizedTest(draft_case *test, golden_drafts,
                  positions_that_follow_drafts_give_the_plain_bits) {
    model_folder *model;
    eng_backend *backend = open_case(&model, test);
    if (backend == NULL) return;
    equals_plain(backend, backend, test);
    eng_backend_close(backend);
    model_close(model);
}

/* ---- over ranks ---- */

typedef struct {
    draft_case test;
    bool homes;
} rank_case;

ParameterizedTestParameters(golden_drafts, any_number_of_ranks_drafts_as_one_process_does) {
    static rank_case cases[GOLDEN_FOLDERS * 2];
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        cases[i] = (rank_case){.homes = i & 1};
        cases[i].test.policy = i & 2 ? KV_LAST : KV_EXACT;
        cases[i].test.weights = i % 3 ? ENG_WEIGHTS_AS_STORED : ENG_WEIGHTS_INT8;
        (void)snprintf(cases[i].test.dir, sizeof cases->test.dir, "%s", golden_folders[i / 2]);
    }
    return cr_make_param_array(rank_case, cases, ARRAY_LEN(cases));
}
ParameterizedTest(rank_case *way, golden_drafts, any_number_of_ranks_drafts_as_one_process_does) {
    model_folder *model;
    eng_backend *alone = open_case(&model, &way->test);
    eng_backend_opts opts = opts_of(model, &way->test);
    opts.homes = way->homes;
    draft_way every = {.policy = way->test.policy, .lag = 1, .every = true, .wrong = true};
    draft_result want = run(alone, &every, way->test.dir);
    for (uint32_t n = 2; n <= 3; n++) {
        err e = {0};
        rank_group *group;
        eng_backend *ranks = rank_group_start(&group, n, model, &opts, 1, eng_cpu_open, &e);
        cr_assert_not_null(ranks, "%s", e.msg);
        cr_assert_eq(ranks->info.n_homes, way->homes ? n : 0);
        equals_plain(alone, ranks, &way->test);
        draft_result got = run(ranks, &every, way->test.dir);
        cr_assert_eq(memcmp(got.has, want.has, sizeof got.has), 0);
        for (uint32_t seq = 0; seq < DRAFT_SEQS; seq++) {
            for (uint32_t at = 0; at < DRAFT_POS * DRAFT_LOOPS; at++) {
                uint32_t pos = at / DRAFT_LOOPS, loop = at % DRAFT_LOOPS;
                if (!want.has[seq][pos][loop]) continue;
                cr_assert_eq(memcmp(draft_after(&want, seq, pos, loop),
                                    draft_after(&got, seq, pos, loop), got.vocab * sizeof(float)),
                             0, "%s on %u ranks: another draft", way->test.dir, n);
            }
        }
        draft_result_deinit(&got);
        rank_group_close(group);
    }
    draft_result_deinit(&want);
    eng_backend_close(alone);
    model_close(model);
}
