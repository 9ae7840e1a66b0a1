/* test_sched_drafts.c - speculation: what drafts gain, and when they stay away. */
#include "tests/lib/sched_rig.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

TestSuite(sched_drafts, .fini = fail_on_leaks, .timeout = HANGS_S);

enum { LOOPS = 8, TOKENS = 500 };

/* Every position runs 8 loops, and a launch takes about as long for few rows as for one. */
static fake_opts eight_loops(uint32_t agreement) {
    fake_opts fake;
    fake_opts_default(&fake);
    fake.deep_one_in = 1;
    fake.agreement = agreement;
    fake.n_slots = 1 << 17;
    return fake;
}

typedef struct {
    double us, expected_us; /* of a token of all sequences together, on the device */
    sched_stats stats;
} measured;

static void measure(const fake_opts *fake, uint32_t drafts, uint32_t n, measured *out) {
    sched_opts opts = rig_opts(fake->policy);
    opts.drafts = drafts;
    sched_rig rig = rig_open(fake, &opts);
    rig.sched->host_is_free = true;
    uint32_t prompt[16];
    for (uint32_t i = 0; i < n; i++) {
        sched_request req = rig_request(prompt, 16, TOKENS, i);
        for (uint32_t k = 0; k < 16; k++)
            prompt[k] %= fake->vocab;
        rig_submit(&rig, &req);
    }
    rig_finish(&rig);
    const scheduler *sched = rig.sched;
    draft_load load = {.sequences = n, .depth = LOOPS, .in_step = true, .max_loops = LOOPS};
    out->stats = *rig_stats(&rig);
    out->us = (double)rig_device_ns(&rig) / 1e3 / TOKENS / n;
    out->expected_us =
        sched__token_ns(&sched->cost, &sched->drafts, &load, &sched->draft_now) / 1e3;
    rig_close(&rig);
}

/* Tokens a second over those without drafts. */
static double gain(const fake_opts *fake, uint32_t n, measured *with) {
    measured without;
    measure(fake, 0, n, &without);
    measure(fake, SCHED_DRAFTS_AUTO, n, with);
    const sched_stats *st = &with->stats;
    fprintf(stderr,
            "%2u sequences, %3u %% agree: %.2f times as fast (%.1f us a token, %.1f expected); "
            "%llu of %llu drafts right, %llu rows withdrawn\n",
            n, fake->agreement, without.us / with->us, with->us, with->expected_us,
            (unsigned long long)st->drafts_accepted, (unsigned long long)st->draft_tokens,
            (unsigned long long)st->withdrawn_rows);
    return without.us / with->us;
}

/* Launches for each token: agreement * 1 + (1 - agreement) * 8, instead of 8. */
Test(sched_drafts, one_stream_runs_as_fast_as_its_drafts_are_right) {
    static const struct {
        uint32_t agreement;
        double least;
    } rows[] = {{100, 4.2}, {95, 3.0}, {80, 1.7}, {50, 1.1}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        fake_opts fake = eight_loops(rows[i].agreement);
        measured with;
        double got = gain(&fake, 1, &with);
        cr_expect_gt(got, rows[i].least, "%u %%: %.2f", rows[i].agreement, got);
        cr_expect_lt(with.us, 1.25 * with.expected_us, "%u %%: %.2f us, expected %.2f",
                     rows[i].agreement, with.us, with.expected_us);
    }
}

Test(sched_drafts, streams_with_free_places_gain_too) {
    static const uint32_t sizes[] = {2, 8, 32};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        fake_opts fake = eight_loops(95);
        measured with;
        double got = gain(&fake, sizes[i], &with);
        cr_expect_gt(got, 1.8, "%u sequences: %.2f", sizes[i], got);
    }
}

Test(sched_drafts, drafts_that_are_wrong_or_rows_that_cost_lose_little) {
    static const struct {
        uint32_t agreement, n;
        uint64_t row_ns; /* of a recurrent launch */
    } rows[] = {{0, 1, 20},     {0, 2, 20},     {0, 8, 20},     {0, 32, 20},
                {30, 2, 20},    {30, 8, 20},    {30, 32, 20},   {95, 1, 20000},
                {95, 2, 20000}, {95, 8, 20000}, {95, 32, 20000}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        fake_opts fake = eight_loops(rows[i].agreement);
        fake.row_ns[ENG_STAGE_RECURRENT] = rows[i].row_ns;
        measured with;
        double got = gain(&fake, rows[i].n, &with);
        cr_expect_gt(got, 0.95, "row %zu: %.2f", i, got);
    }
}

/* The early loops name wrong tokens only, but the text repeats. */
Test(sched_drafts, text_that_repeats_is_drafted_without_a_coda) {
    fake_opts fake = eight_loops(100);
    fake.by_token = fake.misleads = true;
    measured with;
    double got = gain(&fake, 1, &with);
    cr_expect_gt(got, 3, "%.2f", got);
    cr_expect_gt(with.stats.text_drafts_accepted, with.stats.drafts_accepted / 2);
}

/* Of text that never repeats nothing is found, and text that repeats by chance misleads soon. */
Test(sched_drafts, a_text_of_few_words_is_looked_up_in_vain_and_loses_little) {
    fake_opts fake = eight_loops(0);
    fake.vocab = 4;
    fake.misleads = true;
    static const uint32_t sizes[] = {1, 8, 32};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        measured with;
        double got = gain(&fake, sizes[i], &with);
        cr_expect_gt(got, 0.95, "%u sequences: %.2f", sizes[i], got);
    }
}

/* A loop launched before the draft is known would run the position in front alone. */
Test(sched_drafts, a_device_that_takes_two_launches_gains_as_much) {
    static const uint32_t sizes[] = {1, 8};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        fake_opts fake = eight_loops(95);
        measured one, two;
        measure(&fake, SCHED_DRAFTS_AUTO, sizes[i], &one);
        fake.max_flights = 2;
        measure(&fake, SCHED_DRAFTS_AUTO, sizes[i], &two);
        cr_expect_lt(two.us, 1.1 * one.us, "%u sequences: %.2f us, with one launch %.2f", sizes[i],
                     two.us, one.us);
    }
}

/* Then loops are started before a draft is known, and it is drawn later than planned: but not on
 * trial, or the trial would not end. */
Test(sched_drafts, a_host_slower_than_the_device_comes_to_draft_too) {
    static const uint32_t sizes[] = {1, 2, 4, 8};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        fake_opts fake = eight_loops(95);
        measured asked, chosen;
        fake.max_flights = 2;
        fake.fixed_ns[ENG_STAGE_RECURRENT] = 1500; /* the host takes 2000 */
        measure(&fake, 7, sizes[i], &asked);
        measure(&fake, SCHED_DRAFTS_AUTO, sizes[i], &chosen);
        cr_expect_lt(chosen.us, 1.15 * asked.us, "%u sequences: %.2f us, asked for drafts %.2f",
                     sizes[i], chosen.us, asked.us);
    }
}

Test(sched_drafts, a_verdict_counts_for_the_loops_before_its_draft_though_the_row_ran_on) {
    static const struct {
        uint32_t flights, max_loops, loops;
    } rows[] = {{1, LOOPS, 2}, {2, LOOPS, 2}, {2, 100, 63}, {2, 100, 64}, {2, PLAN_MAX_LOOPS, 255}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        fake_opts fake = eight_loops(95);
        fake.max_flights = rows[i].flights;
        fake.max_loops = rows[i].max_loops;
        sched_opts opts = rig_opts(fake.policy);
        opts.drafts = 3;
        opts.draft_loops = rows[i].loops;
        sched_rig rig = rig_open(&fake, &opts);
        rig.sched->ahead.rule = AHEAD_ALWAYS;
        uint32_t prompt[16];
        sched_request req = rig_request(prompt, 16, 100, 0);
        rig_submit(&rig, &req);
        rig_finish(&rig);
        double n = rig.sched->drafts.judged[rows[i].loops];
        cr_expect_gt(n, 50, "row %zu: %.1f verdicts", i, n);
        rig_close(&rig);
    }
}

/* Rows of prompts run as often at any pace of decoding: fewer launches for a token spare nothing of
 * their time, however large a part of a launch they are. */
Test(sched_drafts, where_rows_are_dear_prompts_beside_them_make_no_draft_pay) {
    static const uint64_t base[] = {300000, 400000, 500000}, row[] = {30000, 60000, 90000};
    static cost_model cost;
    static draft_model drafts;
    for (uint32_t n = 1; n <= 128; n++) {
        for (int stage = 0; stage < 3; stage++)
            sched__learn_launch(&cost, (eng_stage)stage, n, base[stage] + row[stage] * n);
    }
    for (uint32_t i = 0; i < 100; i++) {
        for (uint32_t loops = 1; loops < LOOPS; loops++)
            sched__learn_draft(&drafts, loops, i < 85);
    }
    for (double prompts = 0; prompts <= 100; prompts += 20) {
        draft_load load = {.sequences = 15,
                           .other_rows = prompts,
                           .depth = LOOPS,
                           .in_step = true,
                           .max_loops = LOOPS};
        draft_choice choice;
        sched__choose_draft(&cost, &drafts, &load, 0, PLAN_MAX_LOOPS, &choice);
        cr_expect_eq(choice.loops, 0, "beside %g rows: after %u loops", prompts, choice.loops);
    }
}
