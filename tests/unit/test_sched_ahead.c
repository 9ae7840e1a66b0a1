/* test_sched_ahead.c - two launches in flight: gain, cost, and ends in the middle; and tokens
 * picked by the backend. */
#include "tests/lib/sched_rig.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

TestSuite(sched_ahead, .fini = fail_on_leaks, .timeout = HANGS_S);

static fake_opts device(kv_policy policy, uint32_t max_flights) {
    fake_opts fake;
    fake_opts_default(&fake);
    fake.policy = policy;
    fake.max_flights = max_flights;
    return fake;
}

static sched_rig run_one(kv_policy policy, uint32_t max_flights, uint32_t max_tokens) {
    fake_opts fake = device(policy, max_flights);
    sched_opts opts = rig_opts(policy);
    sched_rig rig = rig_open(&fake, &opts);
    uint32_t prompt[40];
    sched_request req = rig_request(prompt, 40, max_tokens, 3);
    (void)rig_submit(&rig, &req);
    rig_finish(&rig);
    return rig;
}

Test(sched_ahead, a_sequence_alone_never_leaves_the_device_idle_between_its_loops) {
    for (int policy = 0; policy < 2; policy++) {
        sched_rig one = run_one((kv_policy)policy, 1, 200),
                  two = run_one((kv_policy)policy, 2, 200);
        cr_assert_eq(one.out[1].n, 200);
        cr_assert_arr_eq(one.out[1].tokens, two.out[1].tokens, 200 * sizeof(uint32_t));
        cr_assert_gt(fake_backend_idle_loops(one.backend), 200);
        cr_assert_eq(fake_backend_idle_loops(two.backend), 0);
        /* The price: one launch at the end of each position runs no row. It takes no time and is
         * not counted. */
        cr_assert_eq(rig_device_ns(&one), rig_device_ns(&two));
        cr_assert_eq(rig_stats(&one)->voided_rows, 0);
        cr_assert_gt(rig_stats(&two)->voided_rows, 100);
        cr_assert_eq(rig_stats(&one)->tail_rows, rig_stats(&two)->tail_rows);
        fprintf(stderr,
                "%s: %llu loops started on an idle device with one in flight, %llu with two\n",
                policy ? "last" : "exact", (unsigned long long)fake_backend_idle_loops(one.backend),
                (unsigned long long)fake_backend_idle_loops(two.backend));
        rig_close(&one);
        rig_close(&two);
    }
}

static uint32_t spare_slots(const sched_rig *rig) {
    uint32_t n = 0;
    for (uint32_t k = 0; k < rig->sched->caches[0].n_blocks; k++)
        n += rig->sched->caches[0].blocks[k].taken ? rig->sched->caches[0].blocks[k].n_spare : 0;
    return n;
}

Test(sched_ahead, the_slot_of_a_row_left_out_is_given_back_and_used_again) {
    for (int policy = 0; policy < 2; policy++) {
        fake_opts fake = device((kv_policy)policy, 2);
        sched_opts opts = rig_opts(fake.policy);
        sched_rig rig = rig_open(&fake, &opts);
        uint32_t prompt[4], most = 0;
        sched_request req = rig_request(prompt, 4, 100, 3);
        rig_out *out = &rig.out[rig_submit(&rig, &req)];
        while (out->n < 90) {
            rig_steps(&rig, 1);
            uint32_t now = spare_slots(&rig);
            most = now > most ? now : most;
            if (rig.sched->n_out > 0) continue;
            cr_assert_eq(rig.sched->caches[0].n_used, fake_backend_slots_written(rig.backend),
                         "a slot for each executed loop, and no other");
        }
        cr_assert_gt(most, 0);
        cr_assert_lt(most, rig_stats(&rig)->voided_rows, "used again");
        const sched_stats *st = rig_stats(&rig);
        cr_assert_leq((double)(st->pages - st->pages_free) * PAGE_SLOTS,
                      1.06 * (double)fake_backend_slots_written(rig.backend) + 2 * PAGE_SLOTS);
        rig_finish(&rig);
        rig_close(&rig);
    }
}

/* ---- when it pays ---- */

typedef struct {
    const char *what;
    eng_stage out;
    uint32_t live, last, may, heads;
    double host_us, loop_us;
    sched_mode mode;
    bool pays;
} price;

Test(sched_ahead, it_goes_ahead_where_that_costs_less_than_the_host) {
    static const price all[] = {
        {"a sequence alone", ENG_STAGE_RECURRENT, 1, 0, 1, 0, 0, 500, SCHED_DEPTHWISE, true},
        {"alone, its last loop", ENG_STAGE_RECURRENT, 1, 1, 0, 0, 0, 500, SCHED_DEPTHWISE, true},
        {"two, dear loops", ENG_STAGE_RECURRENT, 2, 0, 2, 0, 15, 500, SCHED_DEPTHWISE, false},
        {"two, cheap loops", ENG_STAGE_RECURRENT, 2, 0, 2, 0, 15, 30, SCHED_DEPTHWISE, true},
        {"many, dear loops", ENG_STAGE_RECURRENT, 64, 0, 64, 0, 15, 500, SCHED_DEPTHWISE, false},
        {"many, before they may halt", ENG_STAGE_RECURRENT, 64, 0, 0, 0, 15, 500, SCHED_DEPTHWISE,
         true},
        {"many, a slow host", ENG_STAGE_RECURRENT, 64, 0, 64, 0, 200, 500, SCHED_DEPTHWISE, true},
        {"all in their last loop", ENG_STAGE_RECURRENT, 64, 64, 0, 0, 15, 500, SCHED_DEPTHWISE,
         true}, /* there is nothing to start then */
        {"a prelude", ENG_STAGE_PRELUDE, 64, 0, 0, 0, 0, 500, SCHED_DEPTHWISE, true},
        {"a coda, and no other rows", ENG_STAGE_CODA, 0, 0, 0, 1, 50, 500, SCHED_DEPTHWISE, false},
        {"a coda of few, slow sampling", ENG_STAGE_CODA, 30, 0, 0, 2, 100, 500, SCHED_DEPTHWISE,
         true},
        {"a coda of half of them", ENG_STAGE_CODA, 16, 0, 0, 16, 100, 500, SCHED_DEPTHWISE, false},
        {"a coda that samples nothing", ENG_STAGE_CODA, 16, 0, 0, 0, 0, 500, SCHED_DEPTHWISE, true},
        {"every loop for all", ENG_STAGE_RECURRENT, 64, 0, 64, 0, 0, 500, SCHED_FULL, true},
    };
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        const price *price_ = &all[i];
        fake_opts fake = device(KV_EXACT, 2);
        sched_opts opts = rig_opts(KV_EXACT);
        opts.batching = price_->mode;
        sched_rig rig = rig_open(&fake, &opts);
        rig.sched->n_looping_live = price_->live;
        rig.sched->cost.exit_rate = 0.25;
        rig.sched->ahead.host_ns[price_->out] = price_->host_us * 1000;
        rig.sched->cost.stage[ENG_STAGE_RECURRENT] =
            (cost_fit){.weight = 1, .base_ns = price_->loop_us * 1000};
        flight out = {.stage = price_->out,
                      .n_last_loop = price_->last,
                      .n_may_halt = price_->may,
                      .n_heads = price_->heads};
        cr_expect_eq(sched__ahead_pays(rig.sched, &out), price_->pays, "%s", price_->what);
        rig.sched->n_looping_live = 0;
        rig_close(&rig);
    }
}

/* Launches dear, the host cheap: starting ahead would hold back halted rows, so it must not. */
static double tokens_per_ms(uint32_t max_flights, ahead_rule rule, uint32_t n) {
    fake_opts fake = device(KV_LAST, max_flights);
    fake.instant = true;
    fake.n_slots = 1 << 18;
    fake.n_blocks = 4096;
    for (int i = 0; i < 3; i++)
        fake.fixed_ns[i] = i == ENG_STAGE_RECURRENT ? 20000000 : 2000000;
    sched_opts opts = rig_opts(KV_LAST);
    sched_rig rig = rig_open(&fake, &opts);
    rig.sched->ahead.rule = rule;
    rig.sched->host_is_free = true; /* a pause of the process is no host time */
    uint32_t prompt[4];
    for (uint32_t i = 0; i < n; i++) {
        sched_request req = rig_request(prompt, 4, 300, i);
        (void)rig_submit(&rig, &req);
    }
    while (rig_stats(&rig)->output_tokens < n * 200)
        rig_steps(&rig, 1);
    double rate = (double)rig.stats.output_tokens * 1e6 / (double)rig_device_ns(&rig);
    rig_close(&rig);
    return rate;
}

Test(sched_ahead, many_sequences_lose_nothing_by_it) {
    static const uint32_t sizes[] = {1, 2, 8, 32};
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        double one = tokens_per_ms(1, AHEAD_BY_COST, sizes[i]);
        double two = tokens_per_ms(2, AHEAD_BY_COST, sizes[i]);
        double always = tokens_per_ms(2, AHEAD_ALWAYS, sizes[i]);
        fprintf(stderr,
                "%2u sequences, tokens per device time over one in flight: by cost %.3f, always "
                "%.3f\n",
                sizes[i], two / one, always / one);
        cr_expect_geq(two, 0.98 * one);
    }
}

/* ---- ends ---- */

Test(sched_ahead, cancel_frees_all_at_once_and_rest_comes_after_the_last_result) {
    for (uint32_t at = 1; at < 60; at++) {
        fake_opts fake = device(at % 2 ? KV_LAST : KV_EXACT, 2);
        sched_opts opts = rig_opts(fake.policy);
        sched_rig rig = rig_open(&fake, &opts);
        uint32_t prompt[50];
        uint64_t id[3];
        for (uint32_t i = 0; i < 3; i++) {
            sched_request req = rig_request(prompt, 50 - i * 20, 30, at + i);
            id[i] = rig_submit(&rig, &req);
        }
        rig_steps(&rig, at);
        for (uint32_t i = 0; i < 3; i++)
            sched_cancel(rig.sched, id[i]);
        err e = {0};
        cr_assert(sched_sane(rig.sched, &e), "%s", e.msg);
        cr_assert_eq(rig_stats(&rig)->pages_free, rig.stats.pages);
        cr_assert_eq(rig.sched->n_free_rows, rig.sched->n_rows);
        sched_request req = rig_request(prompt, 50, 20, 99); /* into the rows just freed */
        (void)rig_submit(&rig, &req);
        bool idle = false;
        while (!idle) {
            cr_assert_eq(sched_step(rig.sched, &idle, &e), 0, "%s", e.msg);
            cr_assert(!idle || rig.sched->n_out == 0);
        }
        cr_assert_eq(rig.out[id[2] + 1].n, 20);
        rig_close(&rig);
    }
}

Test(sched_ahead, a_device_lost_with_launches_in_flight_ends_all_requests) {
    for (uint64_t at = 1; at < 40; at++) {
        fake_opts fake = device(KV_EXACT, 2);
        fake.fail_at = at;
        sched_opts opts = rig_opts(KV_EXACT);
        sched_rig rig = rig_open(&fake, &opts);
        rig.sched->ahead.rule = AHEAD_ALWAYS;
        uint32_t prompt[8];
        for (uint32_t i = 0; i < 4; i++) {
            sched_request req = rig_request(prompt, 8, 20, i);
            (void)rig_submit(&rig, &req);
        }
        err e = {0};
        bool idle = false;
        while (sched_step(rig.sched, &idle, &e) == 0)
            cr_assert(!idle);
        cr_assert_eq(e.code, ERR_DEVICE);
        cr_assert(idle);
        cr_assert_eq(rig.sched->n_out, 0);
        for (uint64_t id = 1; id <= 4; id++)
            cr_assert_eq(rig.out[id].end.why, ERR_DEVICE);
        rig_close(&rig);
    }
}

Test(sched_ahead, it_can_be_destroyed_with_launches_in_flight) {
    for (uint32_t at = 1; at < 30; at++) {
        fake_opts fake = device(KV_LAST, 2);
        sched_opts opts = rig_opts(KV_LAST);
        sched_rig rig = rig_open(&fake, &opts);
        uint32_t prompt[50];
        for (uint32_t i = 0; i < 3; i++) {
            sched_request req = rig_request(prompt, 50, 30, i);
            (void)rig_submit(&rig, &req);
        }
        rig_steps(&rig, at);
        rig_close(&rig);
    }
}

/* One sequence takes every page if all its positions run every loop. One slot too many preempts it:
 * a bug of the scheduler. */
Test(sched_ahead, a_sequence_that_may_fill_the_pool_fits_with_launches_in_flight) {
    for (uint32_t depth = 1; depth <= 8; depth++) {
        fake_opts fake = device(depth % 2 ? KV_LAST : KV_EXACT, 2);
        fake.n_blocks = 3;
        fake.n_slots = 3 * ENG_BLOCK * 10;
        fake.mean_depth = depth;
        sched_opts opts = rig_opts(fake.policy);
        opts.prefix_cache = depth % 4 < 2;
        sched_rig rig = rig_open(&fake, &opts);
        rig.sched->ahead.rule = AHEAD_ALWAYS;
        uint32_t prompt[40];
        sched_request req = rig_request(prompt, 40, 57, depth);
        if (depth == 8) req.depth.min_loops = 8;
        rig_out *out = &rig.out[rig_submit(&rig, &req)];
        rig_finish(&rig);
        cr_assert_eq(out->end.finish, SCHED_LENGTH);
        cr_assert_eq(out->n, 57);
        cr_assert_eq(rig_stats(&rig)->preemptions, 0);
        rig_close(&rig);
    }
}

/* ---- the backend picks the token ---- */

typedef struct {
    const char *what;
    void (*change)(sched_request *req);
    uint32_t logits,
        choices; /* expected rows of each kind, with a prompt of 8 and 12 output tokens */
} head_case;

static uint32_t some_id[] = {5};
static eng_bias some_bias[] = {{5, 2}};
static err_code nothing_to_make(void *ud) {
    (void)ud;
    return ERR_NONE;
}
static const eng_mask *anything(void *ud, uint32_t n) {
    (void)ud, (void)n;
    return NULL;
}
static bool takes_all(void *ud, uint32_t token) {
    (void)ud, (void)token;
    return true;
}
static const sched_constraint no_limit = {nothing_to_make, anything, takes_all, NULL};
static void see_all(void *ud, uint64_t id, uint32_t pos, uint16_t depth, const float *logits) {
    (void)ud, (void)id, (void)pos, (void)depth;
    cr_assert_not_null(logits);
}
static void see_depth(void *ud, uint64_t id, uint32_t pos, uint16_t depth, const float *logits) {
    (void)ud, (void)id, (void)pos, (void)depth;
    cr_assert_null(logits);
}

static void greedy(sched_request *req) {
    (void)req;
}
static void hot(sched_request *req) {
    req->sampling.temperature = 0.9f, req->sampling.top_p = 0.9f, req->sampling.seed = 7,
    req->n_top = 5;
}
static void penalty(sched_request *req) {
    req->sampling.repetition_penalty = 1.2f;
}
static void bias(sched_request *req) {
    req->sampling.bias = some_bias, req->sampling.n_bias = 1;
}
static void constrained(sched_request *req) {
    req->constraint = &no_limit;
}
static void stop_late(sched_request *req) {
    req->stop_ids = some_id, req->n_stop_ids = 1, req->min_tokens = 4;
}
static void tap_all(sched_request *req) {
    req->tap = see_all, req->tap_logits = true;
}
static void tap_depths(sched_request *req) {
    req->tap = see_depth;
}
static void scored_prompt(sched_request *req) {
    req->prompt_logprobs = true;
}

static sched_rig run_case(const head_case *kind, bool samples, uint32_t max_flights) {
    fake_opts fake = device(KV_EXACT, max_flights);
    fake.samples = samples;
    sched_opts opts = rig_opts(KV_EXACT);
    sched_rig rig = rig_open(&fake, &opts);
    uint32_t prompt[8];
    sched_request req = rig_request(prompt, 8, 12, 11);
    kind->change(&req);
    (void)rig_submit(&rig, &req);
    rig_finish(&rig);
    return rig;
}

Test(sched_ahead, logits_leave_the_device_only_when_asked_for_and_tokens_stay_the_same) {
    static const head_case all[] = {{"greedy", greedy, 0, 12},
                                    {"hot, with alternatives", hot, 0, 12},
                                    {"a penalty", penalty, 12, 0},
                                    {"a bias", bias, 12, 0},
                                    {"a constraint", constrained, 12, 0},
                                    {"stop ids, not before four", stop_late, 4, 8},
                                    {"every logit tapped", tap_all, 19, 0},
                                    {"depths tapped", tap_depths, 0, 12},
                                    {"the prompt scored", scored_prompt, 7, 12}};
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        for (uint32_t flights = 1; flights <= 2; flights++) {
            const head_case *kind = &all[i];
            sched_rig host = run_case(kind, false, flights), dev = run_case(kind, true, flights);
            const rig_out *out = &host.out[1], *other = &dev.out[1];
            cr_expect_eq(fake_backend_choices(host.backend), 0);
            cr_expect_eq(fake_backend_logits(dev.backend), kind->logits, "%s", kind->what);
            cr_expect_eq(fake_backend_choices(dev.backend), kind->choices, "%s", kind->what);
            cr_expect_eq(rig_stats(&host)->head_rows, rig_stats(&dev)->head_rows);
            cr_expect_eq(out->n, 12, "%s", kind->what);
            cr_expect_eq(other->n, 12, "%s", kind->what);
            cr_expect_arr_eq(out->tokens, other->tokens, 12 * sizeof(uint32_t), "%s", kind->what);
            cr_expect_arr_eq(out->logprob, other->logprob, 12 * sizeof(float), "%s", kind->what);
            cr_expect_eq(out->top_hash, other->top_hash, "%s", kind->what);
            rig_close(&host);
            rig_close(&dev);
        }
    }
}

Test(sched_ahead, a_token_the_backend_cannot_pick_ends_one_request_only) {
    fake_opts fake = device(KV_LAST, 2);
    fake.samples = true;
    fake.nan_at = 6;
    sched_opts opts = rig_opts(KV_LAST);
    sched_rig rig = rig_open(&fake, &opts);
    uint32_t prompt[8];
    for (uint32_t i = 0; i < 6; i++) {
        sched_request req = rig_request(prompt, 3 + i, 12, i);
        (void)rig_submit(&rig, &req);
    }
    rig_finish(&rig);
    uint32_t failed = 0;
    for (uint64_t id = 1; id <= 6; id++) {
        const rig_out *out = &rig.out[id];
        failed += out->end.finish == SCHED_FAILED && out->end.why == ERR_NUMERIC;
        if (out->end.finish != SCHED_FAILED) cr_assert_eq(out->n, 12);
    }
    cr_assert_eq(failed, 1);
    rig_close(&rig);
}
