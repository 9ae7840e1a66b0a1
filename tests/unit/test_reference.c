/* test_reference.c - the oracle of other tests, held against the published model's figures. */
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
    model_folder *m;
    cr_assert_eq(model_open(&m, dir, &e), 0, "%s", e.msg);
    reference *r = ref_open(m);
    model_close(m);
    return r;
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
        golden_case g = golden_open(golden_names[i]);
        reference *r = open_case(g.dir);
        for (int policy = 0; policy < 2; policy++) {
            for (int s = 0; s < GOLDEN_SEQS; s++) {
                ref_opts o = {.policy = (kv_policy)policy, .max_loops = g.n_loops};
                ref_result res = ref_run(r, g.ids[s], GOLDEN_LEN, &o);
                for (int p = 0; p < GOLDEN_LEN; p++) {
                    cr_assert_eq(res.depth[p], g.depth[policy][s][p], "%s policy %d seq %d pos %d",
                                 g.dir, policy, s, p);
                }
                size_t n = (size_t)GOLDEN_LEN * g.vocab;
                double off = ref_relative_error(res.logits, g.logits[policy] + (size_t)s * n, n);
                cr_assert_lt(off, 1e-4, "%s policy %d seq %d: %g", g.dir, policy, s, off);
                ref_result_deinit(&res);
            }
        }
        ref_close(r);
        golden_close(&g);
    }
}

Test(reference, greedy_tokens_are_those_of_the_published_model) {
    for (size_t i = 0; i < GOLDEN_CASES; i++) {
        golden_case g = golden_open(golden_names[i]);
        reference *r = open_case(g.dir);
        for (int policy = 0; policy < 2; policy++) {
            /* The golden tokens are the input; each must be the best after its prefix. */
            ref_opts o = {.policy = (kv_policy)policy, .max_loops = g.n_loops};
            ref_result res = ref_run(r, g.greedy[policy], GOLDEN_GREEDY, &o);
            for (uint32_t p = GOLDEN_PROMPT; p < GOLDEN_GREEDY; p++) {
                cr_assert_eq(argmax(res.logits + (size_t)(p - 1) * g.vocab, g.vocab),
                             g.greedy[policy][p], "%s policy %d pos %u", g.dir, policy, p);
            }
            ref_result_deinit(&res);
        }
        ref_close(r);
        golden_close(&g);
    }
}

Test(reference, min_loops_holds_every_position_and_equal_bounds_pin_the_depth) {
    golden_case g = golden_open("mla");
    reference *r = open_case(g.dir);
    ref_opts o = {.policy = KV_EXACT, .min_loops = 3, .max_loops = 5};
    ref_result res = ref_run(r, g.ids[0], GOLDEN_LEN, &o);
    for (int p = 0; p < GOLDEN_LEN; p++)
        cr_assert(res.depth[p] >= 3 && res.depth[p] <= 5);
    ref_result_deinit(&res);
    o.min_loops = 5;
    res = ref_run(r, g.ids[0], GOLDEN_LEN, &o);
    for (int p = 0; p < GOLDEN_LEN; p++)
        cr_assert_eq(res.depth[p], 5);
    ref_result_deinit(&res);
    ref_close(r);
    golden_close(&g);
}

Test(reference, a_lower_threshold_never_deepens_a_position) {
    golden_case g = golden_open("mla_shallow");
    reference *r = open_case(g.dir);
    ref_result high =
        ref_run(r, g.ids[1], GOLDEN_LEN, &(ref_opts){.policy = KV_EXACT, .max_loops = 8});
    ref_result low = ref_run(r, g.ids[1], GOLDEN_LEN,
                             &(ref_opts){.policy = KV_EXACT, .max_loops = 8, .threshold = 0.5f});
    uint32_t shallower = 0;
    for (int p = 0; p < GOLDEN_LEN; p++) {
        cr_assert_leq(low.depth[p], high.depth[p]);
        shallower += low.depth[p] < high.depth[p];
    }
    cr_assert_gt(shallower, 0);
    ref_result_deinit(&high);
    ref_result_deinit(&low);
    ref_close(r);
    golden_close(&g);
}

Test(reference, without_halting_both_policies_are_one) {
    golden_case g = golden_open("gqa");
    reference *r = open_case(g.dir);
    ref_opts o = {.policy = KV_EXACT, .min_loops = 4, .max_loops = 4};
    ref_result exact = ref_run(r, g.ids[0], GOLDEN_LEN, &o);
    o.policy = KV_LAST;
    ref_result last = ref_run(r, g.ids[0], GOLDEN_LEN, &o);
    cr_assert_eq(memcmp(exact.logits, last.logits, (size_t)GOLDEN_LEN * g.vocab * sizeof(float)),
                 0);
    ref_result_deinit(&exact);
    ref_result_deinit(&last);
    ref_close(r);
    golden_close(&g);
}
