/* test_sched_ahead.c - two launches in flight: what it gains, what it must not cost, and
 * what is in flight when things end; and tokens that the backend picks. */
#include "tests/lib/sched_rig.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

TestSuite(sched_ahead, .fini = fail_on_leaks, .timeout = HANGS_S);

static fake_opts device(kv_policy policy, uint32_t max_flights) {
    fake_opts f;
    fake_opts_default(&f);
    f.policy = policy;
    f.max_flights = max_flights;
    return f;
}

static sched_opts plain(kv_policy policy) {
    sched_opts o;
    sched_opts_default(&o);
    o.halted_kv = policy;
    o.prefix_cache = false;
    return o;
}

static rig run_one(kv_policy policy, uint32_t max_flights, uint32_t max_tokens) {
    fake_opts f = device(policy, max_flights);
    sched_opts o = plain(policy);
    rig r = rig_open(&f, &o);
    uint32_t prompt[40];
    sched_request q = rig_request(prompt, 40, max_tokens, 3);
    (void)rig_submit(&r, &q);
    rig_finish(&r);
    return r;
}

Test(sched_ahead, a_sequence_alone_never_leaves_the_device_idle_between_its_loops) {
    for (int policy = 0; policy < 2; policy++) {
        rig one = run_one((kv_policy)policy, 1, 200), two = run_one((kv_policy)policy, 2, 200);
        cr_assert_eq(one.out[1].n, 200);
        cr_assert_arr_eq(one.out[1].tokens, two.out[1].tokens, 200 * sizeof(uint32_t));
        cr_assert_gt(fake_backend_idle_loops(one.backend), 200);
        cr_assert_eq(fake_backend_idle_loops(two.backend), 0);
        /* The price: a launch that does nothing at the end of each position, no time and no
         * row of which counts. */
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

static uint32_t spare_slots(const rig *r) {
    uint32_t n = 0;
    for (uint32_t b = 0; b < r->s->cache.n_blocks; b++)
        n += r->s->cache.blocks[b].taken ? r->s->cache.blocks[b].n_spare : 0;
    return n;
}

Test(sched_ahead, the_slot_of_a_row_left_out_is_given_back_and_used_again) {
    for (int policy = 0; policy < 2; policy++) {
        fake_opts f = device((kv_policy)policy, 2);
        sched_opts o = plain(f.policy);
        rig r = rig_open(&f, &o);
        uint32_t prompt[4], most = 0;
        sched_request q = rig_request(prompt, 4, 100, 3);
        rig_out *out = &r.out[rig_submit(&r, &q)];
        while (out->n < 90) {
            rig_steps(&r, 1);
            uint32_t now = spare_slots(&r);
            most = now > most ? now : most;
            if (r.s->n_out > 0) continue;
            cr_assert_eq(r.s->cache.n_used, fake_backend_slots_written(r.backend),
                         "a slot for each executed loop, and no other");
        }
        cr_assert_gt(most, 0);
        cr_assert_lt(most, rig_stats(&r)->voided_rows, "used again");
        const sched_stats *st = rig_stats(&r);
        cr_assert_leq((double)(st->pages - st->pages_free) * PAGE_SLOTS,
                      1.06 * (double)fake_backend_slots_written(r.backend) + 2 * PAGE_SLOTS);
        rig_finish(&r);
        rig_close(&r);
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
        {"a coda, and nobody else", ENG_STAGE_CODA, 0, 0, 0, 1, 50, 500, SCHED_DEPTHWISE, false},
        {"a coda of few, slow sampling", ENG_STAGE_CODA, 30, 0, 0, 2, 100, 500, SCHED_DEPTHWISE,
         true},
        {"a coda of half of them", ENG_STAGE_CODA, 16, 0, 0, 16, 100, 500, SCHED_DEPTHWISE, false},
        {"a coda that samples nothing", ENG_STAGE_CODA, 16, 0, 0, 0, 0, 500, SCHED_DEPTHWISE, true},
        {"every loop for all", ENG_STAGE_RECURRENT, 64, 0, 64, 0, 0, 500, SCHED_FULL, true},
    };
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        const price *p = &all[i];
        fake_opts f = device(KV_EXACT, 2);
        sched_opts o = plain(KV_EXACT);
        o.batching = p->mode;
        rig r = rig_open(&f, &o);
        r.s->n_looping_live = p->live;
        r.s->cost.exit_rate = 0.25;
        r.s->ahead.host_ns[p->out] = p->host_us * 1000;
        r.s->cost.stage[ENG_STAGE_RECURRENT] =
            (cost_fit){.weight = 1, .base_ns = p->loop_us * 1000};
        flight out = {
            .stage = p->out, .n_last_loop = p->last, .n_may_halt = p->may, .n_heads = p->heads};
        cr_expect_eq(sched__ahead_pays(r.s, &out), p->pays, "%s", p->what);
        r.s->n_looping_live = 0;
        rig_close(&r);
    }
}

/* Launches dear, the host cheap: starting ahead would hold back who halts, so it must not. */
static double tokens_per_ms(uint32_t max_flights, ahead_rule rule, uint32_t n) {
    fake_opts f = device(KV_LAST, max_flights);
    f.instant = true;
    f.n_slots = 1 << 18;
    f.n_blocks = 4096;
    for (int i = 0; i < 3; i++)
        f.fixed_ns[i] = i == ENG_STAGE_RECURRENT ? 20000000 : 2000000;
    sched_opts o = plain(KV_LAST);
    rig r = rig_open(&f, &o);
    r.s->ahead.rule = rule;
    uint32_t prompt[4];
    for (uint32_t i = 0; i < n; i++) {
        sched_request q = rig_request(prompt, 4, 300, i);
        (void)rig_submit(&r, &q);
    }
    while (rig_stats(&r)->output_tokens < n * 200)
        rig_steps(&r, 1);
    double rate = (double)r.stats.output_tokens * 1e6 / (double)rig_device_ns(&r);
    rig_close(&r);
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
        fake_opts f = device(at % 2 ? KV_LAST : KV_EXACT, 2);
        sched_opts o = plain(f.policy);
        rig r = rig_open(&f, &o);
        uint32_t prompt[50];
        uint64_t id[3];
        for (uint32_t i = 0; i < 3; i++) {
            sched_request q = rig_request(prompt, 50 - i * 20, 30, at + i);
            id[i] = rig_submit(&r, &q);
        }
        rig_steps(&r, at);
        for (uint32_t i = 0; i < 3; i++)
            sched_cancel(r.s, id[i]);
        err e = {0};
        cr_assert(sched_sane(r.s, &e), "%s", e.msg);
        cr_assert_eq(rig_stats(&r)->pages_free, r.stats.pages);
        cr_assert_eq(r.s->n_free_rows, r.s->n_rows);
        sched_request q = rig_request(prompt, 50, 20, 99); /* into the rows just freed */
        (void)rig_submit(&r, &q);
        bool idle = false;
        while (!idle) {
            cr_assert_eq(sched_step(r.s, &idle, &e), 0, "%s", e.msg);
            cr_assert(!idle || r.s->n_out == 0);
        }
        cr_assert_eq(r.out[id[2] + 1].n, 20);
        rig_close(&r);
    }
}

Test(sched_ahead, a_device_lost_with_launches_in_flight_ends_everybody) {
    for (uint64_t at = 1; at < 40; at++) {
        fake_opts f = device(KV_EXACT, 2);
        f.fail_at = at;
        sched_opts o = plain(KV_EXACT);
        rig r = rig_open(&f, &o);
        r.s->ahead.rule = AHEAD_ALWAYS;
        uint32_t prompt[8];
        for (uint32_t i = 0; i < 4; i++) {
            sched_request q = rig_request(prompt, 8, 20, i);
            (void)rig_submit(&r, &q);
        }
        err e = {0};
        bool idle = false;
        while (sched_step(r.s, &idle, &e) == 0)
            cr_assert(!idle);
        cr_assert_eq(e.code, ERR_DEVICE);
        cr_assert(idle);
        cr_assert_eq(r.s->n_out, 0);
        for (uint64_t id = 1; id <= 4; id++)
            cr_assert_eq(r.out[id].end.why, ERR_DEVICE);
        rig_close(&r);
    }
}

Test(sched_ahead, it_can_be_destroyed_with_launches_in_flight) {
    for (uint32_t at = 1; at < 30; at++) {
        fake_opts f = device(KV_LAST, 2);
        sched_opts o = plain(KV_LAST);
        rig r = rig_open(&f, &o);
        uint32_t prompt[50];
        for (uint32_t i = 0; i < 3; i++) {
            sched_request q = rig_request(prompt, 50, 30, i);
            (void)rig_submit(&r, &q);
        }
        rig_steps(&r, at);
        rig_close(&r);
    }
}

/* One sequence that may take every page, and does if all its positions run every loop: a
 * slot too many would have to throw it out, which is a failure of ours. */
Test(sched_ahead, a_sequence_that_may_fill_the_pool_fits_with_launches_in_flight) {
    for (uint32_t depth = 1; depth <= 8; depth++) {
        fake_opts f = device(depth % 2 ? KV_LAST : KV_EXACT, 2);
        f.n_blocks = 3;
        f.n_slots = 3 * ENG_BLOCK * 10;
        f.mean_depth = depth;
        sched_opts o = plain(f.policy);
        o.prefix_cache = depth % 4 < 2;
        rig r = rig_open(&f, &o);
        r.s->ahead.rule = AHEAD_ALWAYS;
        uint32_t prompt[40];
        sched_request q = rig_request(prompt, 40, 57, depth);
        if (depth == 8) q.depth.min_loops = 8;
        rig_out *out = &r.out[rig_submit(&r, &q)];
        rig_finish(&r);
        cr_assert_eq(out->end.finish, SCHED_LENGTH);
        cr_assert_eq(out->n, 57);
        cr_assert_eq(rig_stats(&r)->preemptions, 0);
        rig_close(&r);
    }
}

/* ---- the backend picks the token ---- */

typedef struct {
    const char *what;
    void (*change)(sched_request *q);
    uint32_t logits, choices; /* rows that gave them, of a prompt of 8 and 12 tokens out */
} head_case;

static uint32_t some_id[] = {5};
static eng_bias some_bias[] = {{5, 2}};
static err_code nothing_to_make(void *ud) {
    (void)ud;
    return ERR_NONE;
}
static const eng_mask *anything(void *ud) {
    (void)ud;
    return NULL;
}
static bool takes_all(void *ud, uint32_t token) {
    (void)ud, (void)token;
    return true;
}
static const sched_constraint no_limit = {nothing_to_make, anything, takes_all};
static void see_all(void *ud, uint64_t id, uint32_t pos, uint16_t depth, const float *logits) {
    (void)ud, (void)id, (void)pos, (void)depth;
    cr_assert_not_null(logits);
}
static void see_depth(void *ud, uint64_t id, uint32_t pos, uint16_t depth, const float *logits) {
    (void)ud, (void)id, (void)pos, (void)depth;
    cr_assert_null(logits);
}

static void greedy(sched_request *q) {
    (void)q;
}
static void hot(sched_request *q) {
    q->sampling.temperature = 0.9f, q->sampling.top_p = 0.9f, q->sampling.seed = 7, q->n_top = 5;
}
static void penalty(sched_request *q) {
    q->sampling.repetition_penalty = 1.2f;
}
static void bias(sched_request *q) {
    q->sampling.bias = some_bias, q->sampling.n_bias = 1;
}
static void constrained(sched_request *q) {
    q->constraint = &no_limit;
}
static void stop_late(sched_request *q) {
    q->stop_ids = some_id, q->n_stop_ids = 1, q->min_tokens = 4;
}
static void tap_all(sched_request *q) {
    q->tap = see_all, q->tap_logits = true;
}
static void tap_depths(sched_request *q) {
    q->tap = see_depth;
}
static void scored_prompt(sched_request *q) {
    q->prompt_logprobs = true;
}

static rig run_case(const head_case *h, bool samples, uint32_t max_flights) {
    fake_opts f = device(KV_EXACT, max_flights);
    f.samples = samples;
    sched_opts o = plain(KV_EXACT);
    rig r = rig_open(&f, &o);
    uint32_t prompt[8];
    sched_request q = rig_request(prompt, 8, 12, 11);
    h->change(&q);
    (void)rig_submit(&r, &q);
    rig_finish(&r);
    return r;
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
            const head_case *h = &all[i];
            rig host = run_case(h, false, flights), dev = run_case(h, true, flights);
            const rig_out *a = &host.out[1], *b = &dev.out[1];
            cr_expect_eq(fake_backend_choices(host.backend), 0);
            cr_expect_eq(fake_backend_logits(dev.backend), h->logits, "%s", h->what);
            cr_expect_eq(fake_backend_choices(dev.backend), h->choices, "%s", h->what);
            cr_expect_eq(rig_stats(&host)->head_rows, rig_stats(&dev)->head_rows);
            cr_expect_eq(a->n, 12, "%s", h->what);
            cr_expect_eq(b->n, 12, "%s", h->what);
            cr_expect_arr_eq(a->tokens, b->tokens, 12 * sizeof(uint32_t), "%s", h->what);
            cr_expect_arr_eq(a->logprob, b->logprob, 12 * sizeof(float), "%s", h->what);
            cr_expect_eq(a->top_hash, b->top_hash, "%s", h->what);
            rig_close(&host);
            rig_close(&dev);
        }
    }
}

Test(sched_ahead, a_token_the_backend_cannot_pick_ends_one_request_only) {
    fake_opts f = device(KV_LAST, 2);
    f.samples = true;
    f.nan_at = 6;
    sched_opts o = plain(KV_LAST);
    rig r = rig_open(&f, &o);
    uint32_t prompt[8];
    for (uint32_t i = 0; i < 6; i++) {
        sched_request q = rig_request(prompt, 3 + i, 12, i);
        (void)rig_submit(&r, &q);
    }
    rig_finish(&r);
    uint32_t failed = 0;
    for (uint64_t id = 1; id <= 6; id++) {
        const rig_out *out = &r.out[id];
        failed += out->end.finish == SCHED_FAILED && out->end.why == ERR_NUMERIC;
        if (out->end.finish != SCHED_FAILED) cr_assert_eq(out->n, 12);
    }
    cr_assert_eq(failed, 1);
    rig_close(&r);
}
