/* test_reference.c - the oracle of other tests, compared with the published model's figures. */
#include "tests/lib/reference.h"

#include "tests/lib/golden.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

TestSuite(reference, .fini = fail_on_leaks);

static reference *open_case(const char *dir) {
    err e = {0};
    model_folder *model;
    cr_assert_eq(model_open(&model, dir, &e), 0, "%s", e.msg);
    reference *ref = ref_open(model);
    model_close(model);
    return ref;
}

static uint32_t argmax(const float *x, uint32_t n) {
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++) {
        if (x[i] > x[best]) best = i;
    }
    return best;
}

Test(reference, depths_and_logits_are_those_of_the_published_model_in_every_golden_case) {
    for (size_t i = 0; i < GOLDEN_CASES; i++) {
        golden_case golden = golden_open(golden_names[i]);
        reference *ref = open_case(golden.dir);
        for (int policy = 0; policy < 2; policy++) {
            for (int seq = 0; seq < GOLDEN_SEQS; seq++) {
                ref_opts opts = {.policy = (kv_policy)policy, .max_loops = golden.n_loops};
                ref_result res = ref_run(ref, golden.ids[seq], GOLDEN_LEN, &opts);
                for (int pos = 0; pos < GOLDEN_LEN; pos++) {
                    cr_assert_eq(res.depth[pos], golden.depth[policy][seq][pos],
                                 "%s policy %d seq %d pos %d", golden.dir, policy, seq, pos);
                }
                size_t n = (size_t)GOLDEN_LEN * golden.vocab;
                double off =
                    ref_relative_error(res.logits, golden.logits[policy] + (size_t)seq * n, n);
                cr_assert_lt(off, 1e-4, "%s policy %d seq %d: %g", golden.dir, policy, seq, off);
                ref_result_deinit(&res);
            }
        }
        ref_close(ref);
        golden_close(&golden);
    }
}

Test(reference, greedy_tokens_are_those_of_the_published_model) {
    for (size_t i = 0; i < GOLDEN_CASES; i++) {
        golden_case golden = golden_open(golden_names[i]);
        reference *ref = open_case(golden.dir);
        for (int policy = 0; policy < 2; policy++) {
            /* The golden tokens are the input; each must be the best after its prefix. */
            ref_opts opts = {.policy = (kv_policy)policy, .max_loops = golden.n_loops};
            ref_result res = ref_run(ref, golden.greedy[policy], GOLDEN_GREEDY, &opts);
            for (uint32_t pos = GOLDEN_PROMPT; pos < GOLDEN_GREEDY; pos++) {
                cr_assert_eq(argmax(res.logits + (size_t)(pos - 1) * golden.vocab, golden.vocab),
                             golden.greedy[policy][pos], "%s policy %d pos %u", golden.dir, policy,
                             pos);
            }
            ref_result_deinit(&res);
        }
        ref_close(ref);
        golden_close(&golden);
    }
}

Test(reference, min_loops_holds_every_position_and_equal_bounds_pin_the_depth) {
    golden_case golden = golden_open("mla");
    reference *ref = open_case(golden.dir);
    ref_opts opts = {.policy = KV_EXACT, .min_loops = 3, .max_loops = 5};
    ref_result res = ref_run(ref, golden.ids[0], GOLDEN_LEN, &opts);
    for (int pos = 0; pos < GOLDEN_LEN; pos++)
        cr_assert(res.depth[pos] >= 3 && res.depth[pos] <= 5);
    ref_result_deinit(&res);
    opts.min_loops = 5;
    res = ref_run(ref, golden.ids[0], GOLDEN_LEN, &opts);
    for (int pos = 0; pos < GOLDEN_LEN; pos++)
        cr_assert_eq(res.depth[pos], 5);
    ref_result_deinit(&res);
    ref_close(ref);
    golden_close(&golden);
}

Test(reference, a_lower_threshold_never_deepens_a_position) {
    golden_case golden = golden_open("mla_shallow");
    reference *ref = open_case(golden.dir);
    ref_result high =
        ref_run(ref, golden.ids[1], GOLDEN_LEN, &(ref_opts){.policy = KV_EXACT, .max_loops = 8});
    ref_result low = ref_run(ref, golden.ids[1], GOLDEN_LEN,
                             &(ref_opts){.policy = KV_EXACT, .max_loops = 8, .threshold = 0.5f});
    uint32_t shallower = 0;
    for (int pos = 0; pos < GOLDEN_LEN; pos++) {
        cr_assert_leq(low.depth[pos], high.depth[pos]);
        shallower += low.depth[pos] < high.depth[pos];
    }
    cr_assert_gt(shallower, 0);
    ref_result_deinit(&high);
    ref_result_deinit(&low);
    ref_close(ref);
    golden_close(&golden);
}

Test(reference, without_halting_both_policies_are_one) {
    golden_case golden = golden_open("gqa");
    reference *ref = open_case(golden.dir);
    ref_opts opts = {.policy = KV_EXACT, .min_loops = 4, .max_loops = 4};
    ref_result exact = ref_run(ref, golden.ids[0], GOLDEN_LEN, &opts);
    opts.policy = KV_LAST;
    ref_result last = ref_run(ref, golden.ids[0], GOLDEN_LEN, &opts);
    cr_assert_eq(
        memcmp(exact.logits, last.logits, (size_t)GOLDEN_LEN * golden.vocab * sizeof(float)), 0);
    ref_result_deinit(&exact);
    ref_result_deinit(&last);
    ref_close(ref);
    golden_close(&golden);
}
