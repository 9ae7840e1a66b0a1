/* test_sched_load.c - many at once: small pools, shared prefixes, bytes, fairness. */
#include "tests/lib/sched_rig.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

TestSuite(sched_load, .fini = fail_on_leaks, .timeout = HANGS_S);

static sched_opts usual_opts(kv_policy policy) {
    sched_opts opts;
    sched_opts_default(&opts);
    opts.halted_kv = policy;
    return opts;
}

static void same_tokens(const rig_out *out, const rig_out *other, uint64_t id) {
    cr_assert_eq(out->n, other->n, "request %u", (unsigned)id);
    cr_assert_arr_eq(out->tokens, other->tokens, out->n * sizeof *out->tokens, "request %u",
                     (unsigned)id);
    cr_assert_arr_eq(out->depth, other->depth, out->n * sizeof *out->depth, "request %u",
                     (unsigned)id);
}

/* ---- a pool too small for the load ---- */

static sched_rig run_crowd(kv_policy policy, uint32_t n_slots, uint32_t n_blocks, uint32_t n_rows) {
    fake_opts fake;
    fake_opts_default(&fake);
    fake.policy = policy;
    fake.n_slots = n_slots;
    fake.n_blocks = n_blocks;
    fake.n_rows = n_rows;
    sched_opts opts = usual_opts(policy);
    sched_rig rig = rig_open(&fake, &opts);
    uint32_t prompt[100];
    for (uint32_t i = 0; i < 50; i++) {
        sched_request req = rig_request(prompt, 10 + i * 37 % 90, 20 + i * 13 % 60, i);
        req.sampling.temperature = i % 2 ? 1 : 0;
        req.sampling.seed = i;
        (void)rig_submit(&rig, &req);
    }
    rig_finish(&rig);
    return rig;
}

Test(sched_load, a_pool_too_small_ends_every_request_with_the_same_tokens) {
    for (int policy = 0; policy < 2; policy++) {
        sched_rig big = run_crowd((kv_policy)policy, 1 << 17, 2000, 1024);
        /* The longest of them takes 6 blocks of 320 slots; this is eight, then few rows. */
        sched_rig tiny = run_crowd((kv_policy)policy, 8 * 320, 9, 64);
        cr_assert_eq(rig_stats(&big)->preemptions, 0);
        cr_assert_gt(rig_stats(&tiny)->preemptions, 0);
        for (uint64_t id = 1; id <= 50; id++) {
            cr_assert_eq(tiny.out[id].end.finish, SCHED_LENGTH);
            same_tokens(&big.out[id], &tiny.out[id], id);
            cr_assert_eq(big.out[id].end.output_loops, tiny.out[id].end.output_loops);
        }
        fprintf(stderr,
                "%s: 50 requests in a pool for one and a half: %u preemptions, %u launches against "
                "%u\n",
                policy ? "last" : "exact", (unsigned)rig_stats(&tiny)->preemptions,
                (unsigned)fake_backend_launches(tiny.backend),
                (unsigned)fake_backend_launches(big.backend));
        rig_close(&big);
        rig_close(&tiny);
    }
}

/* ---- prefix cache ---- */

enum { SHARED = 1000, FANS = 64 };

static sched_rig run_fans(kv_policy policy, bool shared, bool at_once) {
    fake_opts fake;
    fake_opts_default(&fake);
    fake.policy = policy;
    fake.n_rows = 2048;
    fake.n_slots = 1 << 20;
    fake.n_blocks = 4096;
    sched_opts opts = usual_opts(policy);
    opts.prefix_cache = shared;
    opts.max_rows = 256;
    sched_rig rig = rig_open(&fake, &opts);
    static uint32_t prompt[SHARED + 20];
    for (uint32_t i = 0; i < FANS; i++) {
        sched_request req = rig_request(prompt, SHARED, 8, 5);
        for (uint32_t k = 0; k < 20; k++)
            prompt[SHARED + k] = rig_token(100 + i, k);
        req.n_prompt = SHARED + 20;
        (void)rig_submit(&rig, &req);
        if (!at_once && i == 0) rig_finish(&rig);
    }
    rig_finish(&rig);
    return rig;
}

static double mean_first_ns(const sched_rig *rig) {
    double sum = 0;
    for (uint64_t id = 1; id <= FANS; id++)
        sum += (double)rig->out[id].first_ns / FANS;
    return sum;
}

Test(sched_load, a_shared_prefix_is_run_once_and_changes_no_token) {
    for (int policy = 0; policy < 2; policy++) {
        sched_rig none = run_fans((kv_policy)policy, false, true);
        for (int at_once = 0; at_once < 2; at_once++) {
            sched_rig hit = run_fans((kv_policy)policy, true, at_once);
            for (uint64_t id = 1; id <= FANS; id++) {
                same_tokens(&none.out[id], &hit.out[id], id);
                cr_assert_eq(hit.out[id].end.n_cached,
                             id == 1 ? 0 : SHARED / ENG_BLOCK * ENG_BLOCK);
            }
            fprintf(
                stderr,
                "%s, %s: first token after %.1f ms with the cache, %.1f without (device time)\n",
                policy ? "last" : "exact", at_once ? "64 at once" : "one first, then 63",
                mean_first_ns(&hit) / 1e6, mean_first_ns(&none) / 1e6);
            cr_assert_lt(mean_first_ns(&hit), 0.5 * mean_first_ns(&none));
            cr_assert_eq(rig_stats(&hit)->prefix_hits, 63u * (SHARED / ENG_BLOCK * ENG_BLOCK));
            rig_close(&hit);
        }
        rig_close(&none);
    }
}

typedef struct {
    const char *what;
    void (*change)(sched_request *req);
    bool shares;
} key_case;
static void nothing(sched_request *req) {
    (void)req;
}
static void other_salt(sched_request *req) {
    req->salt[1] = 9;
}
static void other_loops(sched_request *req) {
    req->depth.max_loops = 7;
}
static void other_min(sched_request *req) {
    req->depth.min_loops = 2;
}
static void other_threshold(sched_request *req) {
    req->depth.threshold = 0.5f;
}
static void other_sampling(sched_request *req) {
    req->sampling.temperature = 1;
}
static void scored(sched_request *req) {
    req->prompt_logprobs = true;
}

Test(sched_load, only_what_has_the_same_latents_and_salt_shares) {
    static const key_case all[] = {{"the same", nothing, true},
                                   {"other sampling", other_sampling, true},
                                   {"another salt", other_salt, false},
                                   {"other loops", other_loops, false},
                                   {"other least", other_min, false},
                                   {"other threshold", other_threshold, false},
                                   {"every position scored", scored, false}};
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        fake_opts fake;
        fake_opts_default(&fake);
        sched_opts opts = usual_opts(KV_EXACT);
        sched_rig rig = rig_open(&fake, &opts);
        uint32_t prompt[64];
        sched_request req = rig_request(prompt, 64, 3, 1);
        (void)rig_submit(&rig, &req);
        rig_finish(&rig);
        all[i].change(&req);
        uint64_t id = rig_submit(&rig, &req);
        rig_finish(&rig);
        /* 64 tokens are two blocks, but the last position must be run: one is shared. */
        cr_expect_eq(rig.out[id].end.n_cached, all[i].shares ? 32 : 0, "%s", all[i].what);
        rig_close(&rig);
    }
}

Test(sched_load, the_prefix_cache_gives_way_oldest_first) {
    fake_opts fake;
    fake_opts_default(&fake);
    fake.n_blocks = 12;
    fake.n_slots = 12 * 320;
    sched_opts opts = usual_opts(KV_EXACT);
    sched_rig rig = rig_open(&fake, &opts);
    uint32_t prompt[100];
    for (uint64_t stream = 0; stream < 10; stream++) { /* four blocks each: three of them fit */
        sched_request req = rig_request(prompt, 100, 20, stream);
        (void)rig_submit(&rig, &req);
        rig_finish(&rig);
    }
    sched_request newest = rig_request(prompt, 100, 1, 9);
    uint64_t id = rig_submit(&rig, &newest);
    rig_finish(&rig);
    cr_assert_eq(rig.out[id].end.n_cached, 96);
    sched_request oldest = rig_request(prompt, 100, 1, 0);
    id = rig_submit(&rig, &oldest);
    rig_finish(&rig);
    cr_assert_eq(rig.out[id].end.n_cached, 0);
    cr_assert_eq(rig_stats(&rig)->preemptions, 0);
    rig_close(&rig);
}

/* ---- bytes ---- */

Test(sched_load, the_cache_costs_executed_loops_and_little_more) {
    for (int policy = 0; policy < 2; policy++) {
        fake_opts fake;
        fake_opts_default(&fake);
        fake.policy = (kv_policy)policy;
        fake.max_loops = 16;
        fake.mean_depth = 4;
        fake.instant = true;
        fake.n_slots = 1 << 18;
        sched_opts opts = usual_opts(fake.policy);
        opts.max_queue = 400;
        opts.prefix_cache = false;
        sched_rig rig = rig_open(&fake, &opts);
        uint32_t prompt[400];
        for (uint32_t i = 0; i < 300; i++) {
            sched_request req = rig_request(prompt, 40 + i * 131 % 360, 10 + i * 57 % 190, i);
            (void)rig_submit(&rig, &req);
        }
        double held = 0, needed = 0, all_loops = 0, worst = 0;
        for (bool idle = false; !idle;) {
            err e = {0};
            cr_assert_eq(sched_step(rig.sched, &idle, &e), 0);
            const sched_stats *st = rig_stats(&rig);
            double slots = (double)st->slots_used * (double)st->slot_bytes,
                   over = (double)st->cache_bytes / slots;
            if (st->running < 32) continue; /* the load proper, not its first and last steps */
            held += (double)st->cache_bytes;
            needed += slots;
            all_loops += (double)st->cache_bytes_all_loops;
            worst = over > worst ? over : worst;
        }
        fprintf(stderr,
                "%s: %.4f of the slots' bytes over the run (%.4f while prompts had only begun), "
                "all loops would take %.2f times as much\n",
                policy ? "last" : "exact", held / needed, worst, all_loops / held);
        cr_assert_leq(held / needed, 1.06);
        rig_close(&rig);
    }
}

/* ---- fairness ---- */

typedef struct {
    uint32_t p50, p99, most;
} gaps;

static int by_value(const void *left, const void *right) {
    uint32_t x = *(const uint32_t *)left, y = *(const uint32_t *)right;
    return x < y ? -1 : x > y;
}

/* Recurrent launches between two tokens of a sequence, if the position of the later one left at 3:
 * how far deep sequences delay the others. */
static gaps gaps_of(const sched_rig *rig, uint64_t n) {
    uint32_t *all = calloc(n * RIG_TOKENS, sizeof *all);
    size_t k = 0;
    for (uint64_t id = 1; id <= n; id++) {
        const rig_out *out = &rig->out[id];
        for (uint32_t i = 1; i < out->n; i++) {
            if (out->depth[i] <= 3) all[k++] = (uint32_t)(out->at[i] - out->at[i - 1]);
        }
    }
    qsort(all, k, sizeof *all, by_value);
    gaps gap = {all[k / 2], all[k * 99 / 100], all[k - 1]};
    free(all);
    return gap;
}

static gaps run_deep(sched_mode mode, uint32_t max_rows, uint32_t bound) {
    fake_opts fake;
    fake_opts_default(&fake);
    fake.policy = KV_LAST;
    fake.max_loops = 32;
    fake.mean_depth = 3;
    fake.deep_one_in = 100;
    fake.instant = true;
    /* A coda as dear as ten loops: it pays to wait for company, up to the bound. */
    fake.fixed_ns[ENG_STAGE_CODA] = 40000;
    fake.n_slots = 1 << 18;
    fake.n_blocks = 4096;
    sched_opts opts = usual_opts(KV_LAST);
    opts.batching = mode;
    opts.max_rows = max_rows;
    opts.wait_bound = bound;
    sched_rig rig = rig_open(&fake, &opts);
    uint32_t prompt[4];
    for (uint32_t i = 0; i < 64; i++) {
        sched_request req = rig_request(prompt, 4, 300, i);
        req.sampling.temperature = 1;
        req.sampling.seed = i;
        (void)rig_submit(&rig, &req);
    }
    rig_steps(&rig, 6000);
    gaps gap = gaps_of(&rig, 64);
    rig_close(&rig);
    return gap;
}

Test(sched_load, one_deep_row_in_a_hundred_does_not_hold_the_others_back) {
    gaps lock = run_deep(SCHED_LOCKSTEP, 512, 1), none = run_deep(SCHED_DEPTHWISE, 512, 1000000);
    gaps sixteen = run_deep(SCHED_DEPTHWISE, 512, 0), two = run_deep(SCHED_DEPTHWISE, 512, 2);
    gaps narrow = run_deep(SCHED_DEPTHWISE, 24, 4);
    fprintf(stderr,
            "launches between tokens, p50/p99/most: lockstep %u/%u/%u, no bound %u/%u/%u, bound 16 "
            "%u/%u/%u, "
            "bound 2 %u/%u/%u, 24 rows for 64 sequences, bound 4 %u/%u/%u\n",
            lock.p50, lock.p99, lock.most, none.p50, none.p99, none.most, sixteen.p50, sixteen.p99,
            sixteen.most, two.p50, two.p99, two.most, narrow.p50, narrow.p99, narrow.most);
    cr_assert_leq(two.most, 3 + 2 + 1, "its own loops, then the bound");
    cr_assert_leq(sixteen.most, 3 + 16 + 1);
    cr_assert_leq(narrow.most, 3 * (4 + 64 / 24 + 2) + 4 + 1);
    cr_assert_lt(two.p99, lock.p99);
}

Test(sched_load, prompts_and_decoding_do_not_starve_each_other) {
    fake_opts fake;
    fake_opts_default(&fake);
    fake.policy = KV_LAST;
    fake.instant = true;
    fake.n_slots = 1 << 19;
    fake.n_blocks = 4096;
    sched_opts opts = usual_opts(KV_LAST);
    opts.max_rows = 32;
    opts.chunk = 32;
    opts.wait_bound = 8;
    opts.prefix_cache = false;
    sched_rig rig = rig_open(&fake, &opts);
    static uint32_t prompt[1500];
    for (uint32_t i = 0; i < 40; i++) { /* more than fill every launch by themselves */
        sched_request req = rig_request(prompt, 4, 400, i);
        (void)rig_submit(&rig, &req);
    }
    rig_steps(&rig, 100);
    uint64_t before = rig.sched->stats.launches[ENG_STAGE_RECURRENT];
    for (uint32_t i = 0; i < 4; i++) {
        sched_request req = rig_request(prompt, 1500, 4, 100 + i);
        (void)rig_submit(&rig, &req);
    }
    while (rig.out[41].n == 0)
        rig_steps(&rig, 1);
    uint64_t first = rig.sched->stats.launches[ENG_STAGE_RECURRENT] - before;
    rig_finish(&rig);
    uint32_t most = 0;
    for (uint64_t id = 1; id <= 40; id++) {
        for (uint32_t i = 1; i < rig.out[id].n; i++) {
            uint32_t gap = (uint32_t)(rig.out[id].at[i] - rig.out[id].at[i - 1]);
            most = gap > most ? gap : most;
        }
    }
    fprintf(stderr,
            "a prompt of 47 chunks: first token after %u launches; decoding waited at most %u; a "
            "ready row %u\n",
            (unsigned)first, most, rig_stats(&rig)->longest_wait);
    /* A chunk waits at most bound + rows / (max_rows - chunk + 1) + 1 at each of 8 loops;
     * in practice a quarter of the launches is the prompts'. */
    cr_assert_leq(rig_stats(&rig)->longest_wait, 8 + 512 + 2);
    cr_assert_leq(first, 47 * 8 * 10);
    cr_assert_leq(most, 300);
    rig_close(&rig);
}

/* ---- tails of policy exact ---- */

Test(sched_load, exact_runs_no_unread_loop_and_waits_for_none) {
    fake_opts fake;
    fake_opts_default(&fake);
    fake.max_loops = 32;
    fake.mean_depth = 3;
    sched_opts opts = usual_opts(KV_EXACT);
    sched_rig rig = rig_open(&fake, &opts);
    uint32_t prompt[4];
    sched_request req = rig_request(prompt, 4, 200, 7);
    rig_out *out = &rig.out[rig_submit(&rig, &req)];
    while (out->n < 190)
        rig_steps(&rig, 1);
    uint64_t needed = 0, all = 0, frontier = 0;
    for (uint32_t i = 190; i-- > 1;) { /* a position runs as deep as any after it went */
        frontier = out->depth[i] > frontier ? out->depth[i] : frontier;
        needed += 2 + frontier;
        all += 2 + 32;
    }
    for (uint32_t i = 1; i < 190; i++) {
        cr_assert_eq(out->at[i] - out->at[i - 1], out->depth[i],
                     "token %u waits for more than its own loops", i);
    }
    const sched_stats *st = rig_stats(&rig);
    uint64_t most = 0;
    for (uint32_t depth = 0; depth <= 32; depth++)
        most = st->exits_by_depth[depth] ? depth : most;
    cr_assert_lt(most, 32);
    cr_assert_leq(st->slots_used, 193 * (2 + most) + 4 * 32,
                  "but for the prompt no slot beyond the deepest position");
    cr_assert_geq(st->slots_used, needed);
    fprintf(stderr,
            "exact, deepest of 190 positions %u of 32: %u slots, %u of them read, %u for all "
            "loops\n",
            (unsigned)most, (unsigned)st->slots_used, (unsigned)needed, (unsigned)all);
    rig_finish(&rig);
    rig_close(&rig);
}

Test(sched_load, parked_tails_give_their_rows_back_when_rows_run_short) {
    fake_opts fake;
    fake_opts_default(&fake);
    fake.n_rows = 40; /* one sequence alone parks more positions */
    fake.max_launch = 16;
    sched_opts opts = usual_opts(KV_EXACT);
    opts.chunk = 8;
    sched_rig rig = rig_open(&fake, &opts);
    uint32_t prompt[4];
    for (uint32_t i = 0; i < 3; i++) {
        sched_request req = rig_request(prompt, 4, 200, i);
        (void)rig_submit(&rig, &req);
    }
    rig_finish(&rig);
    for (uint64_t id = 1; id <= 3; id++)
        cr_assert_eq(rig.out[id].n, 200);
    rig_close(&rig);
}

/* ---- prompts beside decoding sequences ---- */

/* mythos_1b in bfloat16 on a machine of 30 GB/s and 200 GFLOP/s: device time in ns. */
static sched_rig open_slow_device(void) {
    static const uint64_t fixed[3] = {3000000, 10000000, 7000000};
    static const uint64_t row[3] = {440000, 1560000, 440000};
    fake_opts fake;
    fake_opts_default(&fake);
    fake.policy = KV_LAST;
    fake.instant = true;
    fake.mean_depth = 6;
    fake.max_loops = 16;
    fake.n_rows = 4096;
    fake.max_launch = 512;
    fake.max_logits = 256;
    fake.n_slots = 1 << 20;
    fake.n_blocks = 8192;
    fake.max_seq_len = 4096;
    memcpy(fake.fixed_ns, fixed, sizeof fixed);
    memcpy(fake.row_ns, row, sizeof row);
    sched_opts opts = usual_opts(KV_LAST);
    opts.max_running = opts.max_queue = 300;
    return rig_open(&fake, &opts);
}

typedef struct {
    uint32_t n, length; /* prompts that come at once */
    uint32_t most_launches;
} burst;

/* The longest a sequence waits for a token while a burst of prompts is worked off, in
 * recurrent launches as full as they get. */
static double longest_gap(const burst *salvo) {
    enum { DECODING = 8, BEFORE = 60 };
    sched_rig rig = open_slow_device();
    static uint32_t prompt[2048];
    uint64_t id = 0, last = 0, worst = 0;
    for (uint32_t i = 0; i < DECODING; i++) {
        sched_request req = rig_request(prompt, 10, 200, i);
        id = rig_submit(&rig, &req);
    }
    for (uint32_t seen = 0; !rig.out[id].ended;) {
        rig_steps(&rig, 1);
        if (rig.out[id].n == seen) continue;
        seen = rig.out[id].n;
        uint64_t now = rig_device_ns(&rig);
        if (seen > BEFORE && now - last > worst) worst = now - last;
        last = now;
        for (uint32_t i = 0; seen == BEFORE && i < salvo->n; i++) {
            sched_request req = rig_request(prompt, salvo->length, 8, 1000 + i);
            (void)rig_submit(&rig, &req);
        }
    }
    rig_finish(&rig);
    rig_close(&rig);
    return (double)worst / (10000000 + 512 * 1560000.);
}

Test(sched_load, a_burst_of_prompts_holds_no_decoding_sequence_up_for_long) {
    /* A token at depth 6 and a flush take about 8; at depth 16, about 20. */
    static const burst bursts[] = {{256, 16, 16}, {8, 2000, 20}, {2, 500, 8}};
    for (size_t i = 0; i < ARRAY_LEN(bursts); i++) {
        double gap = longest_gap(&bursts[i]);
        fprintf(stderr, "%u prompts of %u: longest gap of a decoding sequence %.1f launches\n",
                bursts[i].n, bursts[i].length, gap);
        cr_expect_leq(gap, bursts[i].most_launches, "%u prompts of %u: %.1f launches", bursts[i].n,
                      bursts[i].length, gap);
    }
}
