/* test_tenants.c - what a tenant gets beside a greedy one, in the fake backend's time.
 *
 * The greedy one sends what one client may: 16 choices of 64 prompts, long answers, the best
 * priority there is. The other one comes later. Each property is also shown to fail where a
 * planted bug takes the sharing away. */
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
    fake_opts f;
    fake_opts_default(&f);
    f.vocab = 64;
    f.max_loops = 8;
    f.mean_depth = 4;
    f.n_rows = 256;
    f.max_launch = 128;
    f.n_blocks = 400;
    f.n_slots = 400 * ENG_BLOCK * fake_planes(&f, f.max_loops);
    f.instant = true;
    for (int i = 0; i < 3; i++) {
        f.fixed_ns[i] = 20000;
        f.row_ns[i] = 10000; /* arithmetic-bound, where a neighbour's rows cost most */
    }
    return f;
}

static sched_opts two_tenants(void) {
    sched_opts o;
    sched_opts_default(&o);
    o.max_running = PLACES;
    o.max_queue = 2000;
    o.max_rows = 128;
    o.chunk = 32;
    o.max_tenants = 2;
    return o;
}

static uint64_t send(rig *r, uint32_t tenant, uint32_t n_prompt, uint32_t max_tokens,
                     uint64_t stream) {
    uint32_t prompt[400];
    sched_request q = rig_request(prompt, n_prompt, max_tokens, stream);
    q.tenant = tenant;
    if (tenant == GREEDY) q.priority = -SCHED_MAX_PRIORITY;
    return rig_submit(r, &q);
}

static void send_greedy(rig *r) {
    for (uint32_t i = 0; i < GREEDY_ALL; i++)
        (void)send(r, GREEDY, PROMPT, LONG, 1000 + i / 16);
}

typedef struct {
    double tokens_per_s, first_ns, worst_first_ns; /* device time */
    uint64_t rows[2];
} served;

static void until_ended(rig *r, uint64_t id) {
    for (int i = 0; i < 1000000 && !r->out[id].ended; i++)
        rig_steps(r, 1);
    cr_assert(r->out[id].ended, "request %u never ends", (unsigned)id);
}

/* `lanes` clients of the polite tenant, each sending its next request when its last one ended. */
static served polite(const fake_opts *f, const sched_opts *o, bool neighbour, uint32_t lanes,
                     uint32_t n_prompt) {
    enum { REQUESTS = 96, TOKENS = 24 };
    rig r = rig_open(f, o);
    r.s->host_is_free = true; /* the fake device's time is not the clock's */
    served out = {0};
    if (neighbour) {
        send_greedy(&r);
        rig_steps(&r, 400); /* it has every place by now */
    }
    sched_tenant_stats before[2], after[2];
    for (uint32_t i = 0; i < 2; i++)
        sched_get_tenant_stats(r.s, i, &before[i]);
    uint64_t began = rig_device_ns(&r), ids[REQUESTS], sent_ns[REQUESTS];
    uint32_t sent = 0, done = 0, lane[64], open = 0;
    while (done < REQUESTS) {
        while (sent < REQUESTS && open < lanes) {
            sent_ns[sent] = rig_device_ns(&r);
            ids[sent] = send(&r, POLITE, n_prompt, TOKENS, 5000 + sent);
            lane[open++] = sent++;
        }
        rig_steps(&r, 1);
        for (uint32_t i = 0; i < open;) {
            if (!r.out[ids[lane[i]]].ended) {
                i++;
                continue;
            }
            done++;
            lane[i] = lane[--open];
        }
    }
    for (uint32_t i = 0; i < REQUESTS; i++) {
        double first = (double)(r.out[ids[i]].first_ns - sent_ns[i]);
        out.first_ns += first / REQUESTS;
        if (first > out.worst_first_ns) out.worst_first_ns = first;
    }
    out.tokens_per_s = REQUESTS * TOKENS * 1e9 / (double)(rig_device_ns(&r) - began);
    for (uint32_t i = 0; i < 2; i++) {
        sched_get_tenant_stats(r.s, i, &after[i]);
        out.rows[i] = after[i].rows - before[i].rows;
    }
    err e = {0};
    cr_assert(sched_sane(r.s, &e), "%s", e.msg);
    rig_close(&r);
    return out;
}

typedef struct {
    double speed, first, worst, rows; /* beside the neighbour by alone; share of rows */
} ratios;

static ratios beside(const fake_opts *f, const sched_opts *o, uint32_t lanes, uint32_t n_prompt) {
    served alone = polite(f, o, false, lanes, n_prompt);
    served both = polite(f, o, true, lanes, n_prompt);
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
            fake_opts f = machine();
            sched_opts o = two_tenants();
            f.max_flights = flights;
            ratios r = beside(&f, &o, rows[i].lanes, rows[i].n_prompt);
            fprintf(stderr,
                    "%2u at once, prompts of %3u, %u in flight: speed %.2f, first token %.2f, "
                    "longest %.2f of alone; %.2f of all rows\n",
                    rows[i].lanes, rows[i].n_prompt, flights, r.speed, r.first, r.worst, r.rows);
            cr_expect_geq(r.speed, 0.45, "%u at once: speed %.2f", rows[i].lanes, r.speed);
            /* Beyond its half of the places, requests wait for one: with half of the speed each
             * takes twice as long in all, and the wait for a place is part of that. */
            if (rows[i].first > 0) {
                cr_expect_leq(r.first, rows[i].first, "%u at once: first token %.2f", rows[i].lanes,
                              r.first);
            }
            cr_expect_leq(r.worst, 4.5, "%u at once: longest %.2f", rows[i].lanes, r.worst);
        }
    }
}

Test(tenants, weights_share_the_machine_as_they_say) {
    static const uint32_t weights[] = {1, 3};
    fake_opts f = machine();
    sched_opts o = two_tenants();
    o.weights = weights;
    ratios r = beside(&f, &o, 32, 40);
    cr_expect_geq(r.speed, 0.7, "a tenant of weight 3 beside one of 1: %.2f", r.speed);
    static const uint32_t other[] = {3, 1};
    o.weights = other;
    r = beside(&f, &o, 32, 40);
    cr_expect(r.speed > 0.2 && r.speed < 0.4, "a tenant of weight 1 beside one of 3: %.2f",
              r.speed);
}

Test(tenants, with_more_tenants_than_places_each_has_its_turn) {
    enum { TENANTS = 9, EACH = 12, FLOOD = 200 };
    fake_opts f = machine();
    sched_opts o = two_tenants();
    o.max_running = 3;
    o.max_tenants = TENANTS;
    rig r = rig_open(&f, &o);
    r.s->host_is_free = true;
    uint64_t ids[TENANTS][EACH];
    for (uint32_t i = 0; i < FLOOD; i++)
        (void)send(&r, GREEDY, 8, 40, i);
    for (uint32_t i = 0; i < EACH; i++) {
        for (uint32_t t = 1; t < TENANTS; t++)
            ids[t][i] = send(&r, t, 8, 40, 1000 + i * TENANTS + t);
    }
    for (uint32_t t = 1; t < TENANTS; t++)
        until_ended(&r, ids[t][EACH - 1]);
    sched_tenant_stats greedy, other;
    sched_get_tenant_stats(r.s, GREEDY, &greedy);
    sched_get_tenant_stats(r.s, 1, &other);
    cr_expect_lt(greedy.rows, 2 * other.rows, "%u rows beside %u", (unsigned)greedy.rows,
                 (unsigned)other.rows);
    rig_finish(&r);
    rig_close(&r);
}

/* Steps until a request of the worst priority ends while better ones never stop coming. */
static uint64_t wait_of_the_last(void) {
    enum { STREAM = 400 };
    fake_opts f = machine();
    sched_opts o = two_tenants();
    o.max_running = 1;
    rig r = rig_open(&f, &o);
    uint32_t prompt[8];
    sched_request q = rig_request(prompt, 8, 2, 1);
    q.priority = 2;
    uint64_t id = 0, better = 0;
    for (uint32_t i = 0; i < STREAM && (id == 0 || !r.out[id].ended); i++) {
        sched_request b = rig_request(prompt, 8, 2, 2 + i);
        b.priority = -1;
        if (i == 0) {
            better = rig_submit(&r, &b);
            id = rig_submit(&r, &q);
        }
        uint64_t before = better;
        better = rig_submit(&r, &b); /* so one is always waiting when a place comes free */
        until_ended(&r, before);
    }
    uint64_t waited = r.out[id].ended ? better - id : UINT64_MAX;
    rig_finish(&r);
    rig_close(&r);
    return waited;
}

Test(tenants, a_waiting_request_rises_above_however_many_better_ranked_requests_come) {
    uint64_t waited = wait_of_the_last();
    cr_expect_leq(waited, 3 * SCHED_AGE_ARRIVALS + 4, "passed by %u requests", (unsigned)waited);
    cr_expect_geq(waited, 2 * SCHED_AGE_ARRIVALS, "priority counts for %u requests",
                  (unsigned)waited);
}

static uint32_t cached_of(rig *r, uint32_t tenant, uint32_t n_prompt, uint64_t stream) {
    uint64_t id = send(r, tenant, n_prompt, 1, stream);
    until_ended(r, id);
    return r->out[id].end.n_cached;
}

Test(tenants, the_prefix_cache_tells_nothing_of_another_tenant_unless_they_share_it) {
    for (int share = 0; share < 2; share++) {
        fake_opts f = machine();
        sched_opts o = two_tenants();
        o.share_cache = share;
        rig r = rig_open(&f, &o);
        cr_expect_eq(cached_of(&r, GREEDY, 200, 7), 0);
        cr_expect_eq(cached_of(&r, GREEDY, 200, 7), 192);
        cr_expect_eq(cached_of(&r, POLITE, 200, 7), share ? 192 : 0);
        rig_close(&r);
    }
}

Test(tenants, no_flood_of_another_tenant_empties_what_one_left_in_the_prefix_cache) {
    for (int flood = 0; flood < 3; flood++) {
        fake_opts f = machine();
        f.n_blocks = 40;
        f.n_slots = 40 * ENG_BLOCK * fake_planes(&f, f.max_loops);
        sched_opts o = two_tenants();
        rig r = rig_open(&f, &o);
        cr_expect_eq(cached_of(&r, POLITE, 128, 7), 0);
        for (uint32_t i = 0; i < 60; i++) {
            if (flood == 0) (void)cached_of(&r, GREEDY, 390, 100 + i); /* one after another */
            else (void)send(&r, GREEDY, flood == 1 ? 390 : 20, flood == 1 ? 1 : 300, 100 + i);
        }
        rig_finish(&r);
        cr_expect_eq(cached_of(&r, POLITE, 128, 7), 96, "flood %d", flood);
        rig_close(&r);
    }
}

Test(tenants, one_request_may_still_have_every_page) {
    fake_opts f = machine();
    f.n_blocks = 10;
    f.n_slots = 10 * ENG_BLOCK * fake_planes(&f, f.max_loops);
    f.mean_depth = 100; /* all loops */
    sched_opts o = two_tenants();
    rig r = rig_open(&f, &o);
    (void)cached_of(&r, POLITE, 96, 7);
    uint64_t id = send(&r, GREEDY, 300, 20, 8);
    until_ended(&r, id);
    cr_expect_eq(r.out[id].end.finish, SCHED_LENGTH);
    rig_close(&r);
}
