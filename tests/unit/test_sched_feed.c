/* test_sched_feed.c - which blocks a feed tells, and in which order. (That a reader's blocks are
 * those of the cache after any traffic is part of tests/property/workload.c.) */
#include "tests/lib/feed_reader.h"
#include "tests/lib/sched_rig.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <stdlib.h>

TestSuite(sched_feed, .fini = fail_on_leaks, .timeout = HANGS_S);

enum { BLOCKS = 3, PROMPT = BLOCKS * ENG_BLOCK + 5, OUTPUT = 4 };

static unsigned rings;
static void ring(void *ud) {
    (void)ud;
    rings++;
}

typedef struct {
    sched_rig rig;
    kv_feed *feed;
} fed_rig;

static fed_rig open_fed(sched_opts opts, uint32_t n_blocks, uint32_t room) {
    fed_rig fed = {0};
    fake_opts fake;
    err e = {0};
    fake_opts_default(&fake);
    fake.n_blocks = n_blocks;
    opts.prefix_cache = true;
    cr_assert_eq(kv_feed_create(&fed.feed, ring, NULL, &e), 0);
    if (room) sched__feed_set_room(fed.feed, room);
    opts.feed = fed.feed;
    fed.rig = rig_open(&fake, &opts);
    rings = 0;
    return fed;
}

static void close_fed(fed_rig *fed) {
    rig_close(&fed->rig);
    kv_feed_destroy(fed->feed);
}

/* Runs a request with a prompt of BLOCKS full blocks. */
static void run(fed_rig *fed, uint64_t stream, const sched_request *like) {
    uint32_t prompt[PROMPT];
    sched_request req = rig_request(prompt, PROMPT, OUTPUT, stream);
    if (like) {
        req.depth = like->depth;
        req.salt[0] = like->salt[0];
        req.tenant = like->tenant;
    }
    (void)rig_submit(&fed->rig, &req);
    rig_finish(&fed->rig);
}

static const struct {
    const char *name;
    sched_request like;
    uint32_t n_tenants;
    bool share_cache;
    uint32_t told; /* blocks */
} keys[] = {
    {"plain", {0}, 1, false, BLOCKS},
    {"salted", {.salt = {1}}, 1, false, 0},
    {"fewer loops", {.depth = {.max_loops = 2}}, 1, false, 0},
    {"more least loops", {.depth = {.min_loops = 3}}, 1, false, 0},
    {"another threshold", {.depth = {.threshold = 0.5f}}, 1, false, 0},
    {"the first of several tenants", {.tenant = 0}, 3, false, 0},
    {"another of several tenants", {.tenant = 2}, 3, false, 0},
    {"tenants that share the cache", {.tenant = 2}, 3, true, BLOCKS},
    {"a salt among tenants that share", {.tenant = 2, .salt = {9}}, 3, true, 0},
};

Test(sched_feed, only_blocks_that_a_plain_request_of_any_tenant_finds_are_told) {
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        sched_opts opts = rig_opts(KV_EXACT);
        opts.max_tenants = keys[i].n_tenants;
        opts.share_cache = keys[i].share_cache;
        fed_rig fed = open_fed(opts, 100, 0);
        feed_reader *reader = calloc(1, sizeof *reader);
        cr_assert_not_null(reader);
        run(&fed, 7, &keys[i].like);
        cr_expect_null(feed_reader_take(reader, fed.feed, UINT32_MAX));
        cr_expect_eq(reader->n, keys[i].told, "%s: %u blocks", keys[i].name, reader->n);
        cr_expect_eq(rings > 0, keys[i].told > 0, "%s", keys[i].name);
        free(reader);
        close_fed(&fed);
    }
}

/* The events of one run must be a chain: each block names the one told before it. */
static uint64_t must_chain(fed_rig *fed, uint64_t stream) {
    kv_event event;
    uint64_t before = 0;
    for (uint32_t i = 0; i < BLOCKS; i++) {
        cr_assert(kv_feed_take(fed->feed, &event));
        cr_assert_eq(event.kind, KV_STORED);
        cr_expect_eq(event.parent, before, "block %u", i);
        for (uint32_t k = 0; k < ENG_BLOCK; k++)
            cr_expect_eq(event.tokens[k], rig_token(stream, i * ENG_BLOCK + k));
        before = event.hash;
    }
    return before;
}

Test(sched_feed, blocks_are_told_in_the_order_of_their_prompt_and_again_on_a_wish) {
    fed_rig fed = open_fed(rig_opts(KV_EXACT), 100, 0);
    kv_event event;
    bool idle;
    err e = {0};
    run(&fed, 7, NULL);
    uint64_t last = must_chain(&fed, 7);
    cr_expect(!kv_feed_take(fed.feed, &event), "each block is told once");
    run(&fed, 7, NULL); /* found in the cache */
    cr_expect(!kv_feed_take(fed.feed, &event), "a block that is used again is not told again");
    kv_feed_restate(fed.feed);
    cr_assert_eq(sched_step(fed.rig.sched, &idle, &e), 0);
    cr_assert(kv_feed_take(fed.feed, &event));
    cr_expect_eq(event.kind, KV_CLEARED);
    cr_expect_eq(must_chain(&fed, 7), last, "a block keeps its hash");
    cr_expect(!kv_feed_take(fed.feed, &event));
    close_fed(&fed);
}

Test(sched_feed, a_reader_that_sleeps_loses_no_removal_and_learns_the_rest_when_it_wakes) {
    enum { ROOM = 8 };
    fed_rig fed = open_fed(rig_opts(KV_EXACT), 12, ROOM);
    feed_reader *reader = calloc(1, sizeof *reader);
    cr_assert_not_null(reader);
    for (uint64_t stream = 0; stream < 30; stream++) /* the cache holds four of these prompts */
        run(&fed, stream, NULL);
    cr_expect_gt(kv_feed_untold(fed.feed), 0, "the queue is too short for all of it");
    for (uint32_t turn = 0; turn < 12 && kv_feed_untold(fed.feed) > 0; turn++) {
        bool idle;
        err e = {0};
        cr_expect_null(feed_reader_compare(reader, fed.feed, fed.rig.sched));
        cr_assert_eq(sched_step(fed.rig.sched, &idle, &e), 0);
    }
    cr_expect_null(feed_reader_compare(reader, fed.feed, fed.rig.sched));
    cr_expect_geq(reader->n, ROOM - 2, "so many blocks told leave no room but for removals");
    free(reader);
    close_fed(&fed);
}
