/* test_sched_launches.c - the last recurrent launches, as the scheduler remembers them. */
#include "tests/lib/sched_rig.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <time.h>

TestSuite(sched_launches, .fini = fail_on_leaks, .timeout = HANGS_S);

typedef struct {
    uint64_t n, rows, ns, prompt, by_loop[SCHED_DEPTH_BINS], end_ns;
} launch_sum;

/* Adds up the launches since the last call. */
static void watch_launches(const scheduler *sched, launch_sum *sum) {
    sched_launch launch;
    while (sched_get_launch(sched, sum->n + 1, &launch)) {
        cr_assert_eq(launch.id, ++sum->n);
        cr_assert_geq(launch.end_ns, sum->end_ns);
        sum->end_ns = launch.end_ns;
        sum->ns += launch.ns;
        sum->prompt += launch.n_prompt;
        for (uint32_t i = 0; i < launch.n_loops; i++) {
            sum->rows += launch.rows[i];
            sum->by_loop[i] += launch.rows[i];
        }
    }
}

static sched_rig open_rig(kv_policy policy, uint32_t max_flights) {
    fake_opts fake;
    fake_opts_default(&fake);
    fake.policy = policy;
    fake.max_flights = max_flights;
    sched_opts opts = rig_opts(policy);
    return rig_open(&fake, &opts);
}

static void submit_mixed(sched_rig *rig, uint32_t n) {
    uint32_t prompt[100];
    for (uint32_t i = 0; i < n; i++) {
        sched_request req = rig_request(prompt, 1 + i * 37 % 90, 1 + i * 13 % 60, i);
        req.depth.max_loops = (uint16_t)(1 + i % 7);
        (void)rig_submit(rig, &req);
    }
}

Test(sched_launches, every_launch_is_told_once_and_sums_to_the_counters) {
    for (int way = 0; way < 4; way++) {
        kv_policy policy = way & 1 ? KV_LAST : KV_EXACT;
        sched_rig rig = open_rig(policy, way & 2 ? 2 : 1);
        rig.sched->ahead.rule = AHEAD_ALWAYS;
        launch_sum sum = {0};
        submit_mixed(&rig, 40);
        while (rig.sched->n_running + rig.sched->n_waiting > 0) {
            rig_steps(&rig, 1);
            watch_launches(rig.sched, &sum);
        }
        const sched_stats *st = rig_stats(&rig);
        cr_assert_eq(sum.n, st->launches[ENG_STAGE_RECURRENT]);
        cr_assert_eq(sum.rows, st->launch_rows[ENG_STAGE_RECURRENT]);
        cr_assert_eq(sum.ns, st->launch_ns[ENG_STAGE_RECURRENT]);
        cr_assert_arr_eq(sum.by_loop, st->rows_run_by_loop, sizeof sum.by_loop);
        if (way & 2) cr_assert_gt(st->voided_rows, 0, "no row was left out: this shows little");
        /* Without tails a position has a row at every loop below its depth, and no other. */
        uint64_t deeper = 0;
        for (uint32_t i = SCHED_DEPTH_BINS - 1; policy == KV_LAST && i > 0; i--) {
            deeper += st->exits_by_depth[i];
            cr_assert_eq(sum.by_loop[i - 1], deeper, "loop %u", i);
        }
        if (policy == KV_LAST) cr_assert_eq(sum.prompt, st->prompt_loops);
        else cr_assert_gt(sum.prompt, st->prompt_loops, "tails of prompts are rows of prompts");
        rig_close(&rig);
    }
}

Test(sched_launches, the_oldest_is_forgotten_when_the_ring_is_full) {
    sched_rig rig = open_rig(KV_EXACT, 1);
    sched_launch launch;
    cr_assert_not(sched_get_launch(rig.sched, 0, &launch));
    cr_assert_not(sched_get_launch(rig.sched, 1, &launch));
    submit_mixed(&rig, 200);
    rig_finish(&rig);
    uint64_t last = rig_stats(&rig)->launches[ENG_STAGE_RECURRENT];
    cr_assert_gt(last, SCHED_LAUNCHES);
    cr_assert_not(sched_get_launch(rig.sched, last + 1, &launch));
    cr_assert(sched_get_launch(rig.sched, last, &launch));
    cr_assert(sched_get_launch(rig.sched, last - SCHED_LAUNCHES + 1, &launch));
    cr_assert_eq(launch.id, last - SCHED_LAUNCHES + 1);
    cr_assert_not(sched_get_launch(rig.sched, last - SCHED_LAUNCHES, &launch));
    rig_close(&rig);
}

/* ---- across threads ---- */

static sched_thread *start_thread(void) {
    fake_opts fake;
    fake_opts_default(&fake);
    fake.instant = true;
    sched_opts opts;
    sched_opts_default(&opts);
    sched_thread *thread;
    err e = {0};
    cr_assert_eq(sched_thread_start(&thread, fake_backend_create(&fake), &opts, NULL, NULL, &e), 0,
                 "%s", e.msg);
    return thread;
}

static void run_request(sched_thread *thread, uint32_t n_tokens, sched_stats *st) {
    uint32_t prompt[] = {1, 2, 3};
    sched_request req = {.prompt = prompt, .n_prompt = 3, .max_tokens = n_tokens};
    req.sampling = (eng_sampling){.top_p = 1, .repetition_penalty = 1};
    uint64_t id, launches_before = st->launches[ENG_STAGE_RECURRENT];
    err e = {0};
    cr_assert_eq(sched_thread_submit(thread, &req, &id, &e), 0, "%s", e.msg);
    for (sched_event ev = {0}; ev.kind != SCHED_END;) {
        if (!sched_thread_poll(thread, &ev)) nanosleep(&(struct timespec){0, 100000}, NULL);
        sched_thread_stats(thread, st);
    }
    /* The thread hands over its figures when it is idle, which may be after the last event. */
    for (uint64_t last = 0;;) {
        nanosleep(&(struct timespec){0, 2000000}, NULL);
        sched_thread_stats(thread, st);
        if (last == st->launches[ENG_STAGE_RECURRENT] && last > launches_before) return;
        last = st->launches[ENG_STAGE_RECURRENT];
    }
}

Test(sched_launches, a_snapshot_holds_the_last_launches_however_rarely_one_is_taken) {
    sched_thread *thread = start_thread();
    sched_stats *st = calloc(1, sizeof *st);
    uint64_t seen = 0;
    for (uint32_t round = 0; round < 4; round++) {
        run_request(thread, round % 2 ? 4 : 400, st); /* many launches, then few */
        uint64_t last = st->launches[ENG_STAGE_RECURRENT], rows = 0;
        cr_assert_gt(last, seen);
        uint64_t oldest = last > SCHED_LAUNCHES ? last - SCHED_LAUNCHES + 1 : 1;
        sched_launch launch;
        for (uint64_t id = oldest; id <= last; id++) {
            cr_assert(sched_thread_launch(thread, id, &launch));
            cr_assert_eq(launch.id, id);
            for (uint32_t i = 0; i < launch.n_loops; i++)
                rows += launch.rows[i];
        }
        cr_assert_geq(rows, last - oldest + 1, "a launch has a row at least");
        cr_assert_not(sched_thread_launch(thread, oldest - 1, &launch));
        cr_assert_not(sched_thread_launch(thread, last + 1, &launch));
        seen = last;
    }
    free(st);
    sched_thread_stop(thread);
}
