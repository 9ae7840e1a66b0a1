/* test_sched_collapse.c - policy collapse: the slots that generated positions give back, and what
 * may not follow from it. Random traffic under this policy: tests/property/test_sched.c. */
#include "tests/lib/sched_rig.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <string.h>

TestSuite(sched_collapse, .fini = fail_on_leaks, .timeout = HANGS_S);

enum { LOOPS = 8, OUTSIDE = 2 }; /* planes of a loop, and of prelude and coda */

static fake_opts device(kv_policy policy) {
    fake_opts fake;
    fake_opts_default(&fake);
    fake.policy = policy;
    fake.max_loops = LOOPS;
    return fake;
}

static sched_rig open_plain(kv_policy policy) {
    fake_opts fake = device(policy);
    sched_opts opts = rig_opts(policy);
    return rig_open(&fake, &opts);
}

Test(sched_collapse, a_generated_position_that_is_done_holds_one_slot_for_all_its_loops) {
    enum { PROMPT = 5, TOKENS = 60 };
    uint32_t prompt[PROMPT];
    sched_rig rig = open_plain(KV_COLLAPSE);
    sched_request req = rig_request(prompt, PROMPT, TOKENS, 1);
    req.depth.min_loops = LOOPS;
    uint64_t id = rig_submit(&rig, &req), seen = 0;
    for (uint32_t n = 0; n + 1 < TOKENS;) {
        rig_steps(&rig, 1);
        if (rig.out[id].n == n || rig.sched->n_out > 0) continue;
        n = rig.out[id].n;
        if (n < 2) continue;
        /* The position of the newest token is through its prelude and its first loop, the loop that
         * finds the position before it collapsed. */
        cr_assert_eq(rig_stats(&rig)->slots_used,
                     PROMPT * (OUTSIDE + LOOPS) + (n - 1) * (OUTSIDE + 1) + 2);
        seen++;
    }
    cr_assert_gt(seen, TOKENS / 2);
    rig_finish(&rig);
    cr_assert_eq(rig_stats(&rig)->collapsed, TOKENS - 2); /* all but the last that ran */
    rig_close(&rig);
}

static uint64_t pages_of_a_long_answer(kv_policy policy) {
    enum { TOKENS = 400 };
    uint32_t prompt[1];
    sched_rig rig = open_plain(policy);
    sched_request req = rig_request(prompt, 1, TOKENS, 2);
    uint64_t id = rig_submit(&rig, &req);
    while (rig.out[id].n + 1 < TOKENS)
        rig_steps(&rig, 1);
    uint64_t pages = rig_stats(&rig)->pages - rig_stats(&rig)->pages_free;
    rig_finish(&rig);
    rig_close(&rig);
    return pages;
}

Test(sched_collapse, pages_come_back_while_the_sequence_runs) {
    uint64_t exact = pages_of_a_long_answer(KV_EXACT),
             collapsed = pages_of_a_long_answer(KV_COLLAPSE);
    uint64_t least = 400 * (OUTSIDE + 1) / PAGE_SLOTS;
    cr_assert_lt(collapsed, least + least / 5, "%llu pages, %llu under exact",
                 (unsigned long long)collapsed, (unsigned long long)exact);
    cr_assert_gt(exact, 2 * collapsed);
}

/* The answer to `prompt`, in a scheduler that answered `before` first unless that is NULL. */
static rig_out answer_after(const sched_request *before, const sched_request *req) {
    fake_opts fake = device(KV_COLLAPSE);
    sched_opts opts = rig_opts(KV_COLLAPSE);
    opts.prefix_cache = true;
    sched_rig rig = rig_open(&fake, &opts);
    if (before) (void)rig_submit(&rig, before);
    rig_finish(&rig);
    uint64_t id = rig_submit(&rig, req);
    rig_finish(&rig);
    rig_out out = rig.out[id];
    rig_close(&rig);
    return out;
}

Test(sched_collapse, a_prompt_never_finds_the_collapsed_positions_of_an_answer) {
    enum { PROMPT = 40, TOKENS = 120 };
    uint32_t prompt[PROMPT + TOKENS];
    sched_request first = rig_request(prompt, PROMPT, TOKENS, 3);
    rig_out said = answer_after(NULL, &first);
    cr_assert_eq(said.n, TOKENS);
    memcpy(prompt + PROMPT, said.tokens, TOKENS * sizeof *prompt);
    sched_request next = first;
    next.n_prompt = PROMPT + TOKENS;
    next.max_tokens = 30;
    rig_out fresh = answer_after(NULL, &next), after = answer_after(&first, &next);
    cr_assert_eq(after.end.n_cached, PROMPT / ENG_BLOCK * ENG_BLOCK);
    cr_assert_arr_eq(after.tokens, fresh.tokens, 30 * sizeof *fresh.tokens);
}

static rig_out answer_at(kv_policy policy, uint16_t max_loops) {
    uint32_t prompt[10];
    sched_rig rig = open_plain(policy);
    sched_request req = rig_request(prompt, 10, 50, 4);
    req.depth.max_loops = max_loops;
    uint64_t id = rig_submit(&rig, &req);
    rig_finish(&rig);
    rig_out out = rig.out[id];
    rig_close(&rig);
    return out;
}

Test(sched_collapse, with_one_loop_collapse_is_exact_and_with_more_it_is_not) {
    rig_out exact = answer_at(KV_EXACT, 1), collapsed = answer_at(KV_COLLAPSE, 1);
    cr_assert_arr_eq(exact.tokens, collapsed.tokens, 50 * sizeof *exact.tokens);
    exact = answer_at(KV_EXACT, LOOPS), collapsed = answer_at(KV_COLLAPSE, LOOPS);
    cr_assert_neq(memcmp(exact.tokens, collapsed.tokens, 50 * sizeof *exact.tokens), 0);
}

Test(sched_collapse, it_waits_for_no_launch_more_than_exact) {
    uint32_t prompt[10];
    uint64_t launches[KV_POLICIES];
    for (int policy = 0; policy < KV_POLICIES; policy++) {
        sched_rig rig = open_plain((kv_policy)policy);
        sched_request req = rig_request(prompt, 10, 100, 5);
        req.depth.max_loops = 4;
        uint64_t id = rig_submit(&rig, &req), loops = 0;
        rig_finish(&rig);
        for (uint32_t i = 1; i < 100; i++)
            loops += rig.out[id].depth[i];
        /* One launch per loop of a live row; the prompt takes four more. */
        launches[policy] = rig_stats(&rig)->launches[ENG_STAGE_RECURRENT] - loops;
        rig_close(&rig);
    }
    cr_assert_leq(launches[KV_COLLAPSE], 4);
    cr_assert_leq(launches[KV_EXACT], 4);
}

static void is_refused(const fake_opts *fake, const sched_opts *opts, const char *param,
                       const char *part) {
    eng_backend *backend = fake_backend_create(fake);
    scheduler *sched;
    err e = {0};
    cr_assert_neq(sched_create(&sched, backend, opts, NULL, NULL, &e), 0);
    cr_assert_eq(e.code, ERR_BAD_PARAM);
    cr_assert_str_eq(e.param, param);
    cr_assert(strstr(e.msg, part), "%s", e.msg);
    eng_backend_close(backend);
}

Test(sched_collapse, other_modes_and_too_few_rows_are_refused) {
    fake_opts fake = device(KV_COLLAPSE);
    sched_opts opts = rig_opts(KV_COLLAPSE);
    opts.batching = SCHED_LOCKSTEP;
    is_refused(&fake, &opts, "batching", "policy collapse goes with depthwise batching only");
    opts.batching = SCHED_FULL;
    is_refused(&fake, &opts, "batching", "it does not go with collapse");
    opts.batching = SCHED_DEPTHWISE;
    opts.chunk = 32;
    fake.n_rows = 32 + LOOPS;
    is_refused(&fake, &opts, "halted-kv", "needs 41 row states for one sequence, there are 40");
    fake.n_rows++;
    sched_rig rig = rig_open(&fake, &opts);
    cr_assert_eq(rig.sched->limits.opts.max_running, 1);
    rig_close(&rig);
}
