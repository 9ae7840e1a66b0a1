/* test_tenants.c - the share of a tenant beside a greedy one, in the fake backend's time.
 *
 * The greedy tenant sends as much as one client may: 16 choices of 64 prompts, long answers, at the
 * best priority. The polite one comes later. tests/mutants shows that these tests fail without
 * sharing. */
#include "base/hash.h"
#include "tests/lib/sched_rig.h"
#include "tests/lib/testlib.h"
#include "tests/property/workload.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

TestSuite(tenants, .fini = fail_on_leaks, .timeout = HANGS_S);

enum { GREEDY = 0, POLITE = 1, PLACES = 16, GREEDY_ALL = 300, PROMPT = 40, LONG = 300 };

static fake_opts machine(void) {
    fake_opts fake;
    fake_opts_default(&fake);
    fake.vocab = 64;
    fake.max_loops = 8;
    fake.mean_depth = 4;
    fake.n_rows = 256;
    fake.max_launch = 128;
    fake.n_blocks = 400;
    fake.n_slots = 400 * ENG_BLOCK * fake_planes(&fake, fake.max_loops);
    fake.instant = true;
    for (int i = 0; i < 3; i++) {
        fake.fixed_ns[i] = 20000;
        fake.row_ns[i] = 10000; /* arithmetic-bound: a neighbour's rows cost most */
    }
    return fake;
}

static sched_opts two_tenants(void) {
    sched_opts opts;
    sched_opts_default(&opts);
    opts.max_running = PLACES;
    opts.max_queue = 2000;
    opts.max_rows = 128;
    opts.chunk = 32;
    opts.max_tenants = 2;
    return opts;
}

static uint64_t send(sched_rig *rig, uint32_t tenant, uint32_t n_prompt, uint32_t max_tokens,
                     uint64_t stream) {
    uint32_t prompt[400];
    sched_request req = rig_request(prompt, n_prompt, max_tokens, stream);
    req.tenant = tenant;
    if (tenant == GREEDY) req.priority = -SCHED_MAX_PRIORITY;
    return rig_submit(rig, &req);
}

static void send_greedy(sched_rig *rig) {
    for (uint32_t i = 0; i < GREEDY_ALL; i++)
        (void)send(rig, GREEDY, PROMPT, LONG, 1000 + i / 16);
}

typedef struct {
    double tokens_per_s, first_ns, worst_first_ns; /* device time */
    uint64_t rows[2];
} served;

static void until_ended(sched_rig *rig, uint64_t id) {
    for (int i = 0; i < 1000000 && !rig->out[id].ended; i++)
        rig_steps(rig, 1);
    cr_assert(rig->out[id].ended, "request %u never ends", (unsigned)id);
}

/* `lanes` clients of the polite tenant, each sending its next request when its last one ended. */
static served polite(const fake_opts *fake, const sched_opts *opts, bool neighbour, uint32_t lanes,
                     uint32_t n_prompt) {
    enum { REQUESTS = 96, TOKENS = 24 };
    sched_rig rig = rig_open(fake, opts);
    rig.sched->host_is_free = true; /* the fake device's time is not the clock's */
    served out = {0};
    if (neighbour) {
        send_greedy(&rig);
        rig_steps(&rig, 400); /* it has every place by now */
    }
    sched_tenant_stats before[2], after[2];
    for (uint32_t i = 0; i < 2; i++)
        sched_get_tenant_stats(rig.sched, i, &before[i]);
    uint64_t began = rig_device_ns(&rig), ids[REQUESTS], sent_ns[REQUESTS];
    uint32_t sent = 0, done = 0, lane[64], open = 0;
    while (done < REQUESTS) {
        while (sent < REQUESTS && open < lanes) {
            sent_ns[sent] = rig_device_ns(&rig);
            ids[sent] = send(&rig, POLITE, n_prompt, TOKENS, 5000 + sent);
            lane[open++] = sent++;
        }
        rig_steps(&rig, 1);
        for (uint32_t i = 0; i < open;) {
            if (!rig.out[ids[lane[i]]].ended) {
                i++;
                continue;
            }
            done++;
            lane[i] = lane[--open];
        }
    }
    for (uint32_t i = 0; i < REQUESTS; i++) {
        double first = (double)(rig.out[ids[i]].first_ns - sent_ns[i]);
        out.first_ns += first / REQUESTS;
        if (first > out.worst_first_ns) out.worst_first_ns = first;
    }
    out.tokens_per_s = REQUESTS * TOKENS * 1e9 / (double)(rig_device_ns(&rig) - began);
    for (uint32_t i = 0; i < 2; i++) {
        sched_get_tenant_stats(rig.sched, i, &after[i]);
        out.rows[i] = after[i].rows - before[i].rows;
    }
    err e = {0};
    cr_assert(sched_sane(rig.sched, &e), "%s", e.msg);
    rig_close(&rig);
    return out;
}

typedef struct {
    double speed, first, worst, rows; /* beside the neighbour by alone; share of rows */
} ratios;

static ratios beside(const fake_opts *fake, const sched_opts *opts, uint32_t lanes,
                     uint32_t n_prompt) {
    served alone = polite(fake, opts, false, lanes, n_prompt);
    served both = polite(fake, opts, true, lanes, n_prompt);
    return (ratios){both.tokens_per_s / alone.tokens_per_s, both.first_ns / alone.first_ns,
                    both.worst_first_ns / alone.worst_first_ns,
                    (double)both.rows[POLITE] / (double)(both.rows[GREEDY] + both.rows[POLITE])};
}

Test(tenants, beside_a_greedy_tenant_another_keeps_half_of_its_speed_and_twice_its_first_token) {
    static const struct {
        uint32_t lanes, n_prompt;
        double first;        /* at most; 0: it waits for places too */
    } rows[] = {{1, 8, 2.7}, /* alone it takes less than a launch of the other's rows */
                {1, 64, 2.2}, {4, 40, 2.2}, {8, 40, 2.2}, {16, 40, 0}, {32, 40, 0}, {16, 160, 0}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        for (uint32_t flights = 1; flights <= 2; flights++) {
            fake_opts fake = machine();
            sched_opts opts = two_tenants();
            fake.max_flights = flights;
            ratios ratio = beside(&fake, &opts, rows[i].lanes, rows[i].n_prompt);
            fprintf(stderr,
                    "%2u at once, prompts of %3u, %u in flight: speed %.2f, first token %.2f, "
                    "longest %.2f of alone; %.2f of all rows\n",
                    rows[i].lanes, rows[i].n_prompt, flights, ratio.speed, ratio.first, ratio.worst,
                    ratio.rows);
            cr_expect_geq(ratio.speed, 0.45, "%u at once: speed %.2f", rows[i].lanes, ratio.speed);
            /* Beyond its half of the places, requests wait for one: with half of the speed each
             * takes twice as long in all, including the wait for a place. */
            if (rows[i].first > 0) {
                cr_expect_leq(ratio.first, rows[i].first, "%u at once: first token %.2f",
                              rows[i].lanes, ratio.first);
            }
            cr_expect_leq(ratio.worst, 4.5, "%u at once: longest %.2f", rows[i].lanes, ratio.worst);
        }
    }
}

/* Pages for a third of what the greedy tenant could use, at one home or divided between several. */
Test(tenants, beside_a_greedy_tenant_another_has_as_much_of_few_pages_on_several_homes) {
    static const uint32_t lanes[] = {1, 4, 16};
    for (size_t i = 0; i < ARRAY_LEN(lanes); i++) {
        ratios one = {0};
        for (uint32_t homes = 1; homes <= 4; homes++) {
            fake_opts fake = machine();
            sched_opts opts = two_tenants();
            fake.n_homes = homes;
            fake.n_blocks = 120 / homes;
            fake.n_slots = 60 / homes * ENG_BLOCK * fake_planes(&fake, fake.max_loops);
            ratios ratio = beside(&fake, &opts, lanes[i], PROMPT);
            fprintf(stderr, "%2u at once, %u homes: speed %.2f, first token %.2f, longest %.2f\n",
                    lanes[i], homes, ratio.speed, ratio.first, ratio.worst);
            if (homes == 1) one = ratio;
            cr_expect_geq(ratio.speed, 0.4);
            cr_expect_geq(ratio.speed, 0.9 * one.speed);
            cr_expect_leq(ratio.first, 1.3 * one.first);
        }
    }
}

Test(tenants, weights_share_the_machine_as_they_say) {
    static const uint32_t weights[] = {1, 3};
    fake_opts fake = machine();
    sched_opts opts = two_tenants();
    opts.weights = weights;
    ratios ratio = beside(&fake, &opts, 32, 40);
    cr_expect_geq(ratio.speed, 0.7, "a tenant of weight 3 beside one of 1: %.2f", ratio.speed);
    static const uint32_t other[] = {3, 1};
    opts.weights = other;
    ratio = beside(&fake, &opts, 32, 40);
    cr_expect(ratio.speed > 0.2 && ratio.speed < 0.4, "a tenant of weight 1 beside one of 3: %.2f",
              ratio.speed);
}

Test(tenants, with_more_tenants_than_places_each_has_its_turn) {
    enum { TENANTS = 9, EACH = 12, FLOOD = 200 };
    fake_opts fake = machine();
    sched_opts opts = two_tenants();
    opts.max_running = 3;
    opts.max_tenants = TENANTS;
    sched_rig rig = rig_open(&fake, &opts);
    rig.sched->host_is_free = true;
    uint64_t ids[TENANTS][EACH];
    for (uint32_t i = 0; i < FLOOD; i++)
        (void)send(&rig, GREEDY, 8, 40, i);
    for (uint32_t i = 0; i < EACH; i++) {
        for (uint32_t tenant = 1; tenant < TENANTS; tenant++)
            ids[tenant][i] = send(&rig, tenant, 8, 40, 1000 + i * TENANTS + tenant);
    }
    for (uint32_t tenant = 1; tenant < TENANTS; tenant++)
        until_ended(&rig, ids[tenant][EACH - 1]);
    sched_tenant_stats greedy, other;
    sched_get_tenant_stats(rig.sched, GREEDY, &greedy);
    sched_get_tenant_stats(rig.sched, 1, &other);
    cr_expect_lt(greedy.rows, 2 * other.rows, "%u rows beside %u", (unsigned)greedy.rows,
                 (unsigned)other.rows);
    rig_finish(&rig);
    rig_close(&rig);
}

/* Steps until a request of the worst priority ends while better ones never stop coming. */
static uint64_t wait_of_the_last(void) {
    enum { STREAM = 400 };
    fake_opts fake = machine();
    sched_opts opts = two_tenants();
    opts.max_running = 1;
    sched_rig rig = rig_open(&fake, &opts);
    uint32_t prompt[8];
    sched_request req = rig_request(prompt, 8, 2, 1);
    req.priority = 2;
    uint64_t id = 0, better = 0;
    for (uint32_t i = 0; i < STREAM && (id == 0 || !rig.out[id].ended); i++) {
        sched_request better_req = rig_request(prompt, 8, 2, 2 + i);
        better_req.priority = -1;
        if (i == 0) {
            better = rig_submit(&rig, &better_req);
            id = rig_submit(&rig, &req);
        }
        uint64_t before = better;
        better =
            rig_submit(&rig, &better_req); /* so one is always waiting when a place comes free */
        until_ended(&rig, before);
    }
    uint64_t waited = rig.out[id].ended ? better - id : UINT64_MAX;
    rig_finish(&rig);
    rig_close(&rig);
    return waited;
}

Test(tenants, a_waiting_request_rises_above_however_many_better_ranked_requests_come) {
    uint64_t waited = wait_of_the_last();
    cr_expect_leq(waited, 3 * SCHED_AGE_ARRIVALS + 4, "passed by %u requests", (unsigned)waited);
    cr_expect_geq(waited, 2 * SCHED_AGE_ARRIVALS, "priority counts for %u requests",
                  (unsigned)waited);
}

static uint32_t cached_of(sched_rig *rig, uint32_t tenant, uint32_t n_prompt, uint64_t stream) {
    uint64_t id = send(rig, tenant, n_prompt, 1, stream);
    until_ended(rig, id);
    return rig->out[id].end.n_cached;
}

Test(tenants, the_prefix_cache_tells_nothing_of_another_tenant_unless_they_share_it) {
    for (int share = 0; share < 2; share++) {
        fake_opts fake = machine();
        sched_opts opts = two_tenants();
        opts.share_cache = share;
        sched_rig rig = rig_open(&fake, &opts);
        cr_expect_eq(cached_of(&rig, GREEDY, 200, 7), 0);
        cr_expect_eq(cached_of(&rig, GREEDY, 200, 7), 192);
        cr_expect_eq(cached_of(&rig, POLITE, 200, 7), share ? 192 : 0);
        rig_close(&rig);
    }
}

Test(tenants, no_flood_of_another_tenant_empties_what_one_left_in_the_prefix_cache) {
    for (int flood = 0; flood < 3; flood++) {
        fake_opts fake = machine();
        fake.n_blocks = 40;
        fake.n_slots = 40 * ENG_BLOCK * fake_planes(&fake, fake.max_loops);
        sched_opts opts = two_tenants();
        sched_rig rig = rig_open(&fake, &opts);
        cr_expect_eq(cached_of(&rig, POLITE, 128, 7), 0);
        for (uint32_t i = 0; i < 60; i++) {
            if (flood == 0) (void)cached_of(&rig, GREEDY, 390, 100 + i); /* one after another */
            else (void)send(&rig, GREEDY, flood == 1 ? 390 : 20, flood == 1 ? 1 : 300, 100 + i);
        }
        rig_finish(&rig);
        cr_expect_eq(cached_of(&rig, POLITE, 128, 7), 96, "flood %d", flood);
        rig_close(&rig);
    }
}

Test(tenants, one_request_may_still_have_every_page) {
    fake_opts fake = machine();
    fake.n_blocks = 10;
    fake.n_slots = 10 * ENG_BLOCK * fake_planes(&fake, fake.max_loops);
    fake.mean_depth = 100; /* all loops */
    sched_opts opts = two_tenants();
    sched_rig rig = rig_open(&fake, &opts);
    (void)cached_of(&rig, POLITE, 96, 7);
    uint64_t id = send(&rig, GREEDY, 300, 20, 8);
    until_ended(&rig, id);
    cr_expect_eq(rig.out[id].end.finish, SCHED_LENGTH);
    rig_close(&rig);
}
