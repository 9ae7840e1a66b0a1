/* test_sched_backlog.c - the figure of loops still to run, against sums made by hand; and the
 * blocks of tokens that fit the cache. sched_sane() compares the kept sums with a count of all
 * sequences, after every step of the property tests too. */
#include "tests/lib/sched_rig.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <math.h>

TestSuite(sched_backlog, .fini = fail_on_leaks, .timeout = HANGS_S);

enum { PROMPT = 10, OUTPUT = 5, DEPTH = 3 };

static uint64_t loops_to_run(sched_rig *rig) {
    err e = {0};
    cr_assert(sched_sane(rig->sched, &e), "%s", e.msg);
    return rig_stats(rig)->loops_to_run;
}

/* A request of PROMPT + OUTPUT tokens; the last is not run. */
static sched_request fixed_request(uint32_t *prompt, uint64_t stream) {
    sched_request req = rig_request(prompt, PROMPT, OUTPUT, stream);
    req.depth = (sched_depth){.min_loops = DEPTH, .max_loops = DEPTH};
    return req;
}

/* Loops left when so many tokens are out, while no chunk of the prompt is half done. */
static uint64_t left_after(uint32_t n_out) {
    uint64_t positions = n_out == 0 ? PROMPT + OUTPUT - 1 : OUTPUT - n_out;
    return positions * DEPTH;
}

Test(sched_backlog, it_is_what_waiting_and_running_sequences_have_left_and_0_in_the_end) {
    for (int policy = 0; policy < 2; policy++) {
        enum { N = 4 };
        fake_opts fake;
        fake_opts_default(&fake);
        fake.policy = (kv_policy)policy;
        sched_opts opts = rig_opts(fake.policy);
        opts.max_running = 2;
        sched_rig rig = rig_open(&fake, &opts);
        cr_assert_eq(loops_to_run(&rig), 0);
        uint32_t prompt[PROMPT];
        for (uint64_t i = 1; i <= N; i++) {
            sched_request req = fixed_request(prompt, i);
            rig_submit(&rig, &req);
            cr_assert_eq(loops_to_run(&rig), i * (PROMPT + OUTPUT - 1) * DEPTH);
        }
        while (rig.sched->n_running + rig.sched->n_waiting > 0) {
            uint64_t by_hand = 0;
            rig_steps(&rig, 1);
            for (uint64_t id = 1; id <= N; id++)
                by_hand += left_after(rig.out[id].n);
            cr_assert_eq(loops_to_run(&rig), by_hand);
        }
        cr_assert_eq(loops_to_run(&rig), 0);
        rig_close(&rig);
    }
}

Test(sched_backlog, a_cancelled_sequence_leaves_nothing_behind) {
    fake_opts fake;
    fake_opts_default(&fake);
    sched_opts opts = rig_opts(KV_EXACT);
    opts.max_running = 1;
    sched_rig rig = rig_open(&fake, &opts);
    uint32_t prompt[PROMPT];
    sched_request req = fixed_request(prompt, 1);
    uint64_t runs = rig_submit(&rig, &req), waits = rig_submit(&rig, &req);
    rig_steps(&rig, 3);
    sched_cancel(rig.sched, runs);
    cr_assert_eq(loops_to_run(&rig), (PROMPT + OUTPUT - 1) * DEPTH, "of the one that waits");
    sched_cancel(rig.sched, waits);
    cr_assert_eq(loops_to_run(&rig), 0);
    rig_finish(&rig);
    rig_close(&rig);
}

Test(sched_backlog, depth_is_the_mean_of_what_was_seen_within_the_limits_of_the_request) {
    fake_opts fake;
    fake_opts_default(&fake); /* halts with one chance in 3 a loop, at most 8 loops */
    sched_opts opts = rig_opts(KV_EXACT);
    sched_rig rig = rig_open(&fake, &opts);
    uint32_t prompt[100];
    sched_request req = rig_request(prompt, 100, 101, 1);
    uint64_t id = rig_submit(&rig, &req);
    cr_assert_eq(loops_to_run(&rig), 200 * 8, "nothing is known: every loop");
    rig_finish(&rig);
    const sched_event *end = &rig.out[id].end;
    double seen = (double)(end->prompt_loops + end->output_loops);
    rig_submit(&rig, &req);
    double expected = (double)loops_to_run(&rig);
    cr_assert_lt(fabs(expected - seen), seen / 10, "%g expected, %g run the first time", expected,
                 seen);
    const struct {
        sched_depth depth;
        uint64_t each;
    } limited[] = {{{.max_loops = 1}, 1}, {{.min_loops = 7}, 7}, {{.min_loops = 8}, 8}};
    for (size_t i = 0; i < ARRAY_LEN(limited); i++) {
        uint64_t before = loops_to_run(&rig);
        req.depth = limited[i].depth;
        rig_submit(&rig, &req);
        uint64_t more = loops_to_run(&rig) - before;
        cr_assert_leq(more, limited[i].each * 200 + 1, "%zu: %llu", i, (unsigned long long)more);
        cr_assert_geq(more + 1, limited[i].each * 200, "%zu: %llu", i, (unsigned long long)more);
    }
    rig_finish(&rig);
    cr_assert_eq(loops_to_run(&rig), 0);
    rig_close(&rig);
}

Test(sched_backlog, answers_are_as_long_as_usual_and_no_longer_than_allowed) {
    fake_opts fake;
    fake_opts_default(&fake);
    sched_opts opts = rig_opts(KV_EXACT);
    sched_rig rig = rig_open(&fake, &opts);
    uint32_t prompt[PROMPT];
    for (uint64_t i = 0; i < 3; i++) {
        sched_request req = fixed_request(prompt, i);
        rig_submit(&rig, &req);
    }
    rig_finish(&rig);
    sched_request req = fixed_request(prompt, 9);
    req.max_tokens = 400;
    rig_submit(&rig, &req);
    cr_assert_eq(loops_to_run(&rig), (PROMPT + OUTPUT) * DEPTH, "as the three before");
    rig_submit(&rig, &req);
    cr_assert_eq(loops_to_run(&rig), 2 * (PROMPT + OUTPUT) * DEPTH);
    req.max_tokens = 1;
    rig_submit(&rig, &req);
    cr_assert_eq(loops_to_run(&rig), (2 * (PROMPT + OUTPUT) + PROMPT) * DEPTH);
    rig_finish(&rig);
    cr_assert_eq(loops_to_run(&rig), 0);
    rig_close(&rig);
}

Test(sched_backlog, cached_blocks_need_no_loops) {
    enum { BLOCKS = 3, LONG = BLOCKS * ENG_BLOCK + 1 };
    fake_opts fake;
    fake_opts_default(&fake);
    sched_opts opts = rig_opts(KV_EXACT);
    opts.prefix_cache = true;
    opts.chunk = LONG;
    sched_rig rig = rig_open(&fake, &opts);
    uint32_t prompt[LONG];
    for (uint64_t again = 0; again < 2; again++) {
        sched_request req = rig_request(prompt, LONG, 2, 1);
        req.depth = (sched_depth){.min_loops = DEPTH, .max_loops = DEPTH};
        rig_submit(&rig, &req);
        cr_assert_eq(loops_to_run(&rig), (LONG + 1) * DEPTH, "it waits: the cache was not asked");
        rig_steps(&rig, 1);
        uint64_t cached = again * BLOCKS * ENG_BLOCK;
        cr_assert_eq(loops_to_run(&rig), (LONG + 1 - cached) * DEPTH);
        rig_finish(&rig);
        cr_assert_eq(loops_to_run(&rig), 0);
    }
    rig_close(&rig);
}

Test(sched_backlog, blocks_that_fit_are_counted_in_tokens_at_the_usual_depth) {
    const struct {
        uint32_t n_slots, n_blocks, loops; /* 0: the model's 8 */
        uint32_t blocks;
    } rows[] = {
        /* A position takes a slot in prelude and coda, and one a loop. */
        {32 * 10 * 7, 100, 0, 7},        {32 * 10 * 7 - 4, 100, 0, 6}, {32 * 10 * 7, 5, 0, 5},
        {32 * 5 * 9 + 8, 100, DEPTH, 9}, {32 * 10, 100, 0, 1},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        fake_opts fake;
        fake_opts_default(&fake);
        fake.n_slots = rows[i].n_slots;
        fake.n_blocks = rows[i].n_blocks;
        sched_opts opts = rig_opts(KV_EXACT);
        opts.default_max_loops = rows[i].loops;
        sched_rig rig = rig_open(&fake, &opts);
        cr_assert_eq(rig_stats(&rig)->blocks, rows[i].blocks, "%zu: %u", i, rig.stats.blocks);
        rig_close(&rig);
    }
}
