/* test_sched_homes.c - a cache per home: where sequences go, and which ones give way. (That any
 * traffic on 1 to 3 homes gives what each request gives alone is part of
 * tests/property/workload.c.) */
#include "tests/lib/sched_rig.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <stdio.h>

TestSuite(sched_homes, .fini = fail_on_leaks, .timeout = HANGS_S);

enum { BLOCKS = 8, MOST_PROMPT = 300 };

/* Every position runs all loops, so a home holds BLOCKS full blocks. */
static sched_rig open_homes(uint32_t n_homes, sched_opts opts) {
    fake_opts fake;
    fake_opts_default(&fake);
    fake.n_homes = n_homes;
    fake.mean_depth = 1000;
    fake.n_blocks = 4 * BLOCKS;
    fake.n_slots = BLOCKS * ENG_BLOCK * fake_planes(&fake, fake.max_loops);
    return rig_open(&fake, &opts);
}

static sched_opts with_prefixes(void) {
    sched_opts opts = rig_opts(KV_EXACT);
    opts.prefix_cache = true;
    return opts;
}

static uint64_t send(sched_rig *rig, uint32_t tenant, uint32_t n_prompt, uint32_t max_tokens,
                     uint64_t stream) {
    uint32_t prompt[MOST_PROMPT];
    sched_request req = rig_request(prompt, n_prompt, max_tokens, stream);
    req.tenant = tenant;
    return rig_submit(rig, &req);
}

/* ENG_MOST_HOMES: it does not run. */
static uint32_t home_of(const sched_rig *rig, uint64_t id) {
    const list_link *list = &rig->sched->running;
    for (const list_link *link = list->next; link != list; link = link->next) {
        const sequence *seq = OWNER_OF((uintptr_t)link, sequence, rank_link);
        if (seq->id == id) return seq->prefix_key.home;
    }
    return ENG_MOST_HOMES;
}

static void must_be_sane(const sched_rig *rig) {
    err e = {0};
    cr_assert(sched_sane(rig->sched, &e), "%s", e.msg);
}

/* Runs sequences of 50 positions, all at once. *most: of them running without a preemption. */
static uint64_t preemptions_of(uint32_t n_homes, uint32_t n_sequences, uint32_t *most) {
    sched_rig rig = open_homes(n_homes, rig_opts(KV_EXACT));
    *most = 0;
    for (uint32_t i = 0; i < n_sequences; i++)
        (void)send(&rig, 0, 40, 10, i);
    do {
        rig_steps(&rig, 1);
        const sched_stats *stats = rig_stats(&rig);
        if (stats->running > *most) *most = stats->running;
        uint64_t pages = 0, n_free = 0, n_running = 0;
        for (uint32_t home = 0; home < n_homes; home++) {
            pages += stats->homes[home].pages;
            n_free += stats->homes[home].pages_free;
            n_running += stats->homes[home].running;
        }
        cr_assert_eq(stats->n_homes, n_homes);
        cr_assert_eq(stats->pages, pages);
        cr_assert_eq(stats->pages_free, n_free);
        cr_assert_eq(stats->running, n_running);
    } while (rig.stats.running + rig.stats.waiting > 0);
    uint64_t preemptions = rig.stats.preemptions;
    rig_close(&rig);
    return preemptions;
}

Test(sched_homes, each_home_more_holds_as_many_sequences_more) {
    enum { FIT = 4 }; /* 50 positions take a fifth of a home */
    uint32_t most;
    for (uint32_t n = 1; n <= 4; n++) {
        cr_expect_eq(preemptions_of(n, n * FIT, &most), 0, "%u homes", n);
        cr_expect_eq(most, n * FIT, "%u homes", n);
        cr_expect_gt(preemptions_of(n, (n + 1) * FIT + 2 * n, &most), 0, "%u homes", n);
    }
}

Test(sched_homes, a_prompt_goes_where_it_is_cached_and_another_to_the_emptiest_home) {
    sched_rig rig = open_homes(3, with_prefixes());
    uint64_t ids[3];
    for (uint32_t i = 0; i < 3; i++)
        ids[i] = send(&rig, 0, 70, 30, i);
    rig_steps(&rig, 5);
    for (uint32_t i = 0; i < 3; i++)
        cr_expect_eq(home_of(&rig, ids[i]), i);
    rig_finish(&rig);
    for (uint32_t i = 3; i-- > 0;) {
        uint64_t again = send(&rig, 0, 70, 30, i);
        rig_steps(&rig, 2);
        cr_expect_eq(home_of(&rig, again), i);
        must_be_sane(&rig);
        rig_finish(&rig);
        cr_expect_eq(rig.out[again].end.n_cached, 64);
    }
    rig_close(&rig);
}

Test(sched_homes, a_home_without_room_is_passed_over_even_if_it_has_the_prompt) {
    sched_rig rig = open_homes(2, with_prefixes());
    (void)send(&rig, 0, 100, 1, 7);
    rig_finish(&rig);
    uint64_t large = send(&rig, 0, 152, 8, 8); /* with the prompt cached it fills home 0 */
    rig_steps(&rig, 15);
    cr_assert_eq(home_of(&rig, large), 0);
    uint64_t again = send(&rig, 0, 100, 5, 7);
    rig_steps(&rig, 2);
    cr_expect_eq(home_of(&rig, again), 1);
    must_be_sane(&rig);
    rig_finish(&rig);
    cr_expect_eq(rig.out[again].end.n_cached, 0);
    rig_close(&rig);
}

/* The last in rank of all is at home 1; the pages run out at home 0. */
Test(sched_homes, pages_are_taken_from_the_last_in_rank_of_the_home_that_ran_out) {
    sched_rig rig = open_homes(2, rig_opts(KV_EXACT));
    uint64_t first = send(&rig, 0, 30, 150, 0), small = send(&rig, 0, 8, 110, 1);
    uint64_t second = send(&rig, 0, 30, 150, 2), last = send(&rig, 0, 8, 110, 3);
    rig_steps(&rig, 4);
    cr_assert_eq(home_of(&rig, first), 0);
    cr_assert_eq(home_of(&rig, second), 0);
    cr_assert_eq(home_of(&rig, small), 1);
    cr_assert_eq(home_of(&rig, last), 1);
    while (!rig.out[first].ended) {
        rig_steps(&rig, 1);
        cr_assert(rig.out[first].ended || home_of(&rig, first) == 0, "the first gave way");
        cr_assert(rig.out[small].ended || home_of(&rig, small) == 1, "another home gave way");
        cr_assert(rig.out[last].ended || home_of(&rig, last) == 1, "another home gave way");
    }
    cr_expect_gt(rig_stats(&rig)->preemptions, 0);
    rig_finish(&rig);
    cr_expect_eq(rig.out[second].n, 150);
    rig_close(&rig);
}

/* A tenant with one sequence at each home holds nearly every page. */
Test(sched_homes, a_tenant_within_its_share_gets_pages_but_not_those_of_the_first_of_another) {
    enum { NEEDED = 150 }; /* pages of 60 positions */
    sched_opts opts = rig_opts(KV_EXACT);
    opts.max_tenants = 2;
    sched_rig rig = open_homes(2, opts);
    uint64_t first = send(&rig, 0, 210, 46, 0), second = send(&rig, 0, 210, 46, 1);
    for (bool full = false; !full;) {
        rig_steps(&rig, 1);
        const sched_home_stats *homes = rig_stats(&rig)->homes;
        full = homes[0].pages_free < NEEDED && homes[1].pages_free < NEEDED;
        cr_assert_eq(home_of(&rig, first), 0);
        cr_assert_eq(home_of(&rig, second), 1);
    }
    uint64_t polite = send(&rig, 1, 60, 5, 2);
    rig_steps(&rig, 3);
    cr_expect_eq(home_of(&rig, first), 0);
    cr_expect_eq(home_of(&rig, second), ENG_MOST_HOMES);
    cr_expect_eq(home_of(&rig, polite), 1);
    must_be_sane(&rig);
    rig_finish(&rig);
    cr_expect_eq(rig.out[second].n, 46);
    rig_close(&rig);
}

Test(sched_homes, what_fits_no_single_home_is_refused) {
    sched_rig rig = open_homes(3, rig_opts(KV_EXACT));
    uint32_t prompt[MOST_PROMPT];
    err e = {0};
    uint64_t id;
    sched_request req = rig_request(prompt, BLOCKS * ENG_BLOCK + 1, 1, 0);
    cr_expect_eq(sched_submit(rig.sched, &req, &id, &e), -1);
    cr_expect_eq(e.code, ERR_TOO_LONG);
    id = send(&rig, 0, BLOCKS * ENG_BLOCK, 1, 0);
    rig_finish(&rig);
    cr_expect_eq(rig.out[id].n, 1);
    rig_close(&rig);
}

/* The attention of a launch takes as long as that of its fullest home. The homes have equal
 * sequences, with more rows than a launch takes. */
Test(sched_homes, a_launch_has_about_as_many_rows_of_each_home) {
    for (uint32_t n = 2; n <= 4; n++) {
        fake_opts fake;
        fake_opts_default(&fake);
        fake.n_homes = n;
        fake.n_rows = 2048;
        sched_opts opts = rig_opts(KV_EXACT);
        opts.chunk = ENG_BLOCK;
        opts.max_rows = 4 * n * ENG_BLOCK;
        sched_rig rig = rig_open(&fake, &opts);
        for (uint32_t i = 0; i < 6 * n; i++)
            (void)send(&rig, 0, 288, 4, i);
        rig_finish(&rig);
        const sched_stats *stats = rig_stats(&rig);
        double rows = (double)stats->launch_rows[ENG_STAGE_RECURRENT];
        double share = (double)fake_backend_fullest_rows(rig.backend) * n / rows;
        printf("%u homes: the fullest has %.2f of an equal part\n", n, share);
        cr_expect_lt(share, 1.3);
        rig_close(&rig);
    }
}
