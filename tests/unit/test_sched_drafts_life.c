/* test_sched_drafts_life.c - the life of drafts: told, kept, drawn anew, withdrawn; and their ends
 * with the sequence. Every answer is that of the request alone. */
#include "tests/lib/fake_answer.h"
#include "tests/lib/sched_rig.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <string.h>

TestSuite(sched_drafts_life, .fini = fail_on_leaks, .timeout = HANGS_S);

enum { TOKENS = 60, PROMPT = 12, MOST = 8 };

/* Depths of 1 to 8 loops, and drafts that are mostly right. */
static fake_opts uneven(kv_policy policy) {
    fake_opts fake;
    fake_opts_default(&fake);
    fake.policy = policy;
    fake.agreement = 70;
    fake.mean_depth = 4;
    return fake;
}

static sched_opts drafting(kv_policy policy, uint32_t drafts) {
    sched_opts opts = rig_opts(policy);
    opts.drafts = drafts;
    opts.draft_loops = 1;
    return opts;
}

typedef struct {
    uint32_t prompt[PROMPT];
    sched_request req;
    uint64_t id;
} sent;

static void send(sched_rig *rig, sent *one, uint64_t stream) {
    one->req = rig_request(one->prompt, PROMPT, TOKENS, stream);
    one->id = rig_submit(rig, &one->req);
}

static void expect_answer(const sched_rig *rig, const fake_opts *fake, const sent *one) {
    const rig_out *out = &rig->out[one->id];
    fake_answer want;
    eng_sampler *sampler;
    err e = {0};
    cr_assert_eq(eng_sampler_create(&sampler, fake->vocab, &e), 0, "%s", e.msg);
    fake_answer_find(fake, &one->req, sampler, &want);
    eng_sampler_destroy(sampler);
    cr_assert(out->ended);
    cr_assert_eq(out->n, want.n);
    for (uint32_t i = 0; i < want.n; i++) {
        cr_assert_eq(out->tokens[i], want.tokens[i], "token %u", i);
        cr_assert_eq(out->depth[i], want.depth[i], "depth of token %u", i);
        cr_assert_eq(out->logprob[i], want.logprob[i], "log-probability %u", i);
    }
    cr_assert_eq(out->end.finish, want.finish);
    cr_assert_eq(out->end.stop_id, want.stop_id);
}

/* Sends n requests, of streams from `stream` on, and compares their answers. */
static void answer_all(sched_rig *rig, const fake_opts *fake, uint32_t n, uint64_t stream) {
    enum { MOST_SENT = 8 };
    sent all[MOST_SENT];
    cr_assert_leq(n, MOST_SENT);
    for (uint32_t i = 0; i < n; i++)
        send(rig, &all[i], stream + i);
    rig_finish(rig);
    for (uint32_t i = 0; i < n; i++)
        expect_answer(rig, fake, &all[i]);
}

/* With few heads in a coda, a row may wait to draw its draft anew while it halts in the same launch
 * as the position behind it. */
Test(sched_drafts_life, last_codas_run_in_the_order_of_positions) {
    for (uint64_t seed = 1; seed <= 60; seed++) {
        fake_opts fake = uneven(seed % 2 ? KV_EXACT : KV_LAST);
        fake.seed = seed;
        fake.max_flights = 2;
        fake.max_logits = 1 + seed % 3;
        fake.n_coda = (uint32_t)(seed % 2);
        sched_opts opts = drafting(fake.policy, MOST);
        sched_rig rig = rig_open(&fake, &opts);
        rig.sched->ahead.rule = AHEAD_ALWAYS;
        rig.sched->host_is_free = true;
        answer_all(&rig, &fake, 5, seed);
        rig_close(&rig);
    }
}

/* ---- ways to run ---- */

typedef struct {
    const char *what;
    uint32_t flights, homes, drafts;
    ahead_rule rule;
    bool samples, prefix_cache;
} way;

static const way ways[] = {
    {"one launch at a time", .flights = 1, .drafts = MOST},
    {"always ahead", .flights = 2, .drafts = MOST, .rule = AHEAD_ALWAYS},
    {"never ahead", .flights = 2, .drafts = MOST, .rule = AHEAD_NEVER},
    {"the device draws", .flights = 2, .drafts = MOST, .rule = AHEAD_ALWAYS, .samples = true},
    {"one draft", .flights = 2, .drafts = 1, .rule = AHEAD_ALWAYS},
    {"three homes", .flights = 2, .homes = 3, .drafts = 3, .rule = AHEAD_ALWAYS},
    {"prefix cache", .flights = 1, .drafts = MOST, .prefix_cache = true},
};

static void run_way(const way *how, kv_policy policy) {
    fake_opts fake = uneven(policy);
    fake.max_flights = how->flights;
    fake.n_homes = how->homes;
    fake.samples = how->samples;
    sched_opts opts = drafting(policy, how->drafts);
    opts.prefix_cache = how->prefix_cache;
    sched_rig rig = rig_open(&fake, &opts);
    rig.sched->ahead.rule = how->rule;
    answer_all(&rig, &fake, 4, 0);
    const sched_stats *st = rig_stats(&rig);
    cr_expect_gt(st->drafts_accepted, 20, "%s: %llu accepted", how->what,
                 (unsigned long long)st->drafts_accepted);
    cr_expect_gt(st->drafts_withdrawn, 10, "%s", how->what);
    cr_expect_eq(st->drafts_accepted + st->drafts_withdrawn, st->draft_tokens, "%s", how->what);
    uint64_t by_place = 0;
    for (uint32_t i = 0; i < SCHED_DRAFT_PLACES; i++)
        by_place += st->accepted_by_place[i];
    cr_expect_eq(by_place, st->drafts_accepted, "%s", how->what);
    rig_close(&rig);
}

Test(sched_drafts_life, every_draft_is_kept_or_withdrawn_whatever_the_way_to_run) {
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        run_way(&ways[i], KV_EXACT);
        run_way(&ways[i], KV_LAST);
    }
}

/* ---- the end of a sequence ---- */

static const sequence *running(const sched_rig *rig, uint64_t id) {
    const list_link *link = rig->sched->running.next;
    for (; link != &rig->sched->running; link = link->next) {
        const sequence *seq = OWNER_OF((uintptr_t)link, sequence, rank_link);
        if (seq->id == id) return seq;
    }
    return NULL;
}

/* Steps until the sequence has so many drafts at once. */
static void step_to_drafts(sched_rig *rig, uint64_t id, uint32_t n) {
    for (int steps = 0; steps < 100000; steps++) {
        const sequence *seq = running(rig, id);
        if (seq && seq->n_drafts >= n) return;
        cr_assert(!rig->out[id].ended, "it never had %u drafts", n);
        rig_steps(rig, 1);
    }
    cr_assert_fail("no drafts");
}

/* All positions run 8 loops, and drafts are right. */
static fake_opts right(kv_policy policy) {
    fake_opts fake = uneven(policy);
    fake.agreement = 100;
    fake.deep_one_in = 1;
    return fake;
}

Test(sched_drafts_life, a_cancel_takes_its_drafts_along) {
    for (uint32_t flights = 1; flights <= 2; flights++) {
        for (uint32_t n = 1; n <= 3; n++) {
            fake_opts fake = right(n % 2 ? KV_EXACT : KV_LAST);
            fake.max_flights = flights;
            sched_opts opts = drafting(fake.policy, MOST);
            sched_rig rig = rig_open(&fake, &opts);
            rig.sched->ahead.rule = AHEAD_ALWAYS;
            sent one;
            send(&rig, &one, n);
            step_to_drafts(&rig, one.id, n);
            sched_cancel(rig.sched, one.id);
            const sched_stats *st = rig_stats(&rig);
            cr_assert_eq(st->pages_free, st->pages);
            cr_assert_eq(rig.sched->n_free_rows, rig.sched->n_rows);
            cr_assert_eq(rig.sched->n_draft_rows + rig.sched->n_to_draft, 0);
            cr_assert_geq(st->drafts_withdrawn, n);
            cr_assert_eq(rig.out[one.id].end.finish, SCHED_CANCELLED);
            rig_finish(&rig);
            rig_close(&rig);
        }
    }
}

Test(sched_drafts_life, a_stop_id_ends_the_answer_before_the_drafts_behind_it) {
    uint32_t ended = 0;
    for (uint32_t i = 0; i < 12; i++) {
        fake_opts fake = uneven(i % 2 ? KV_EXACT : KV_LAST);
        sched_opts opts = drafting(fake.policy, MOST);
        sched_rig rig = rig_open(&fake, &opts);
        uint32_t stop = 5 * i;
        sent one = {0};
        one.req = rig_request(one.prompt, PROMPT, TOKENS, i);
        one.req.stop_ids = &stop;
        one.req.n_stop_ids = 1;
        one.req.min_tokens = i;
        one.id = rig_submit(&rig, &one.req);
        rig_finish(&rig);
        expect_answer(&rig, &fake, &one);
        ended += rig.out[one.id].end.finish == SCHED_STOP;
        rig_close(&rig);
    }
    cr_assert_gt(ended, 3);
}

Test(sched_drafts_life, no_draft_is_run_that_could_not_be_put_out) {
    for (uint32_t most = 1; most <= 6; most++) {
        fake_opts fake = right(KV_EXACT);
        sched_opts opts = drafting(KV_EXACT, MOST);
        sched_rig rig = rig_open(&fake, &opts);
        sent one = {0};
        one.req = rig_request(one.prompt, PROMPT, most, 1);
        one.id = rig_submit(&rig, &one.req);
        rig_finish(&rig);
        expect_answer(&rig, &fake, &one);
        const sched_stats *st = rig_stats(&rig);
        /* The last token is never run. */
        cr_assert_eq(st->draft_tokens, most - 1, "%u tokens: %llu drafts", most,
                     (unsigned long long)st->draft_tokens);
        cr_assert_eq(st->drafts_withdrawn, 0);
        rig_close(&rig);
    }
}

/* ---- drafts from a prompt ---- */

typedef struct {
    const char *what;
    kv_policy policy;
    uint32_t n_coda, chunk, flights, loops; /* loops: before a draft */
    bool prefix_cache;
} from_prompt;

static const from_prompt prompts[] = {
    {"a coda without attention", KV_EXACT, .n_coda = 0, .chunk = 32, .flights = 1, .loops = 1},
    {"the coda reads the prompt", KV_EXACT, .n_coda = 1, .chunk = 32, .flights = 1, .loops = 1},
    {"two loops", KV_LAST, .n_coda = 1, .chunk = 32, .flights = 1, .loops = 2},
    {"several chunks", KV_EXACT, .n_coda = 1, .chunk = 5, .flights = 1, .loops = 1},
    {"several chunks, last", KV_LAST, .n_coda = 2, .chunk = 4, .flights = 1, .loops = 1},
    {"two launches at once", KV_LAST, .n_coda = 1, .chunk = 5, .flights = 2, .loops = 1},
    {"prefix cache", KV_EXACT, .n_coda = 1, .chunk = 5, .flights = 1, .loops = 1, true},
};

/* Without drafts the position behind the prompt begins when the prompt has run its 8 loops. */
Test(sched_drafts_life, the_last_position_of_a_prompt_drafts) {
    for (size_t i = 0; i < sizeof prompts / sizeof *prompts; i++) {
        const from_prompt *row = &prompts[i];
        fake_opts fake = right(row->policy);
        fake.n_coda = row->n_coda;
        fake.max_flights = row->flights;
        sched_opts opts = drafting(row->policy, MOST);
        opts.chunk = row->chunk;
        opts.draft_loops = row->loops;
        opts.prefix_cache = row->prefix_cache;
        sched_rig rig = rig_open(&fake, &opts);
        sent one = {0};
        one.req = rig_request(one.prompt, PROMPT, 2, 1);
        one.id = rig_submit(&rig, &one.req);
        rig_finish(&rig);
        expect_answer(&rig, &fake, &one);
        const sched_stats *st = rig_stats(&rig);
        const rig_out *out = &rig.out[one.id];
        cr_expect_eq(st->draft_tokens, 1, "%s: %llu drafts", row->what,
                     (unsigned long long)st->draft_tokens);
        cr_expect_eq(st->drafts_accepted, 1, "%s", row->what);
        /* A launch ahead may come before the draft. */
        uint64_t between = out->at[1] - out->at[0], most = row->loops + row->flights - 1;
        cr_expect(between >= row->loops && between <= most, "%s: %llu launches", row->what,
                  (unsigned long long)between);
        rig_close(&rig);
    }
}

enum { ASKED = 24 };

/* Rows of codas in requests of 2 tokens, one after another. */
static uint64_t coda_rows(uint64_t row_ns, uint32_t n_coda, uint32_t drafts, uint64_t *accepted) {
    fake_opts fake = right(KV_EXACT);
    fake.n_coda = n_coda;
    fake.row_ns[ENG_STAGE_CODA] = row_ns;
    sched_opts opts = rig_opts(KV_EXACT);
    opts.drafts = drafts;
    sched_rig rig = rig_open(&fake, &opts);
    for (uint32_t i = 0; i < ASKED; i++) {
        sent one = {0};
        one.req = rig_request(one.prompt, PROMPT, 2, i);
        one.id = rig_submit(&rig, &one.req);
        rig_finish(&rig);
        expect_answer(&rig, &fake, &one);
    }
    const sched_stats *st = rig_stats(&rig);
    uint64_t n = st->launch_rows[ENG_STAGE_CODA];
    *accepted = st->drafts_accepted;
    rig_close(&rig);
    return n;
}

/* A loop takes 4 us, so a draft saves up to 28 us. */
Test(sched_drafts_life, a_prompt_goes_through_the_coda_for_a_draft_only_where_that_pays) {
    static const struct {
        uint64_t row_ns;
        uint32_t n_coda;
        bool drafts;
    } rows[] = {{20, 1, true}, {4000, 1, false}, {4000, 0, true}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint64_t none, accepted;
        uint64_t without = coda_rows(rows[i].row_ns, rows[i].n_coda, 0, &none);
        uint64_t with = coda_rows(rows[i].row_ns, rows[i].n_coda, SCHED_DRAFTS_AUTO, &accepted);
        cr_expect_eq(accepted > ASKED / 2, rows[i].drafts, "row %zu: %llu drafts right", i,
                     (unsigned long long)accepted);
        bool twice = with > without + (uint64_t)ASKED / 2 * PROMPT;
        cr_expect_eq(twice, rows[i].drafts && rows[i].n_coda > 0, "row %zu: %llu rows, not %llu", i,
                     (unsigned long long)with, (unsigned long long)without);
    }
}

/* ---- want of pages ---- */

Test(sched_drafts_life, a_sequence_without_room_is_preempted_with_its_drafts) {
    fake_opts fake = uneven(KV_EXACT);
    fake.n_slots = 3 * (PROMPT + TOKENS) / 2 * fake_planes(&fake, fake.max_loops);
    sched_opts opts = drafting(KV_EXACT, MOST);
    sched_rig rig = rig_open(&fake, &opts);
    answer_all(&rig, &fake, 4, 0);
    const sched_stats *st = rig_stats(&rig);
    cr_assert_gt(st->preemptions, 0);
    cr_assert_gt(st->drafts_accepted, 0);
    cr_assert_eq(st->drafts_accepted + st->drafts_withdrawn, st->draft_tokens);
    rig_close(&rig);
}

static void step_sanely(sched_rig *rig) {
    err e = {0};
    rig_steps(rig, 1);
    cr_assert(sched_sane(rig->sched, &e), "%s", e.msg);
}

/* Right drafts are withdrawn only for want of pages, and then the sequences need them all. */
Test(sched_drafts_life, drafts_give_way_before_any_sequence_does) {
    enum { SENT = 6 };
    uint32_t gave_way = 0;
    for (uint32_t slots = 1000; slots < 1400; slots += 10) {
        fake_opts fake = right(KV_EXACT);
        fake.n_slots = slots;
        sched_opts opts = drafting(KV_EXACT, MOST);
        sched_rig rig = rig_open(&fake, &opts);
        sent all[SENT];
        for (uint32_t i = 0; i < SENT; i++)
            send(&rig, &all[i], i);
        const sched_stats *st = rig_stats(&rig);
        while (st->drafts_withdrawn + st->preemptions == 0) {
            step_sanely(&rig);
            st = rig_stats(&rig);
        }
        gave_way += st->preemptions == 0;
        while (rig.sched->n_running + rig.sched->n_waiting > 0)
            step_sanely(&rig);
        for (uint32_t i = 0; i < SENT; i++)
            expect_answer(&rig, &fake, &all[i]);
        rig_close(&rig);
    }
    cr_assert_gt(gave_way, 3, "%u", gave_way);
}

/* ---- events ---- */

typedef struct {
    uint32_t n, n_shown, n_told, replaced, confirmed, shown[TOKENS];
    bool ended;
} story;

static void on_event(void *ud, const sched_event *ev) {
    story *seen = ud;
    cr_assert(!seen->ended, "an event after the end");
    uint32_t next = PROMPT + seen->n;
    if (ev->kind == SCHED_END) seen->ended = true;
    if (ev->kind == SCHED_TOKEN) {
        cr_assert_eq(ev->pos, next);
        bool confirms = seen->n_shown > 0 && seen->shown[0] == ev->token;
        seen->confirmed += confirms;
        seen->n_shown = confirms ? seen->n_shown - 1 : 0;
        memmove(seen->shown, seen->shown + 1, seen->n_shown * sizeof *seen->shown);
        seen->n++;
    }
    if (ev->kind != SCHED_DRAFT) return;
    cr_assert(ev->pos >= next && ev->pos <= next + seen->n_shown, "a draft for %u, next is %u",
              ev->pos, next);
    cr_assert(ev->depth >= 1 && ev->depth < MOST, "drafted after %u loops", ev->depth);
    seen->replaced += ev->pos < next + seen->n_shown;
    seen->n_told++;
    seen->shown[ev->pos - next] = ev->token;
    seen->n_shown = ev->pos - next + 1;
}

static story tell_story(const fake_opts *fake, bool tell, sched_stats *stats) {
    eng_backend *backend = fake_backend_create(fake);
    sched_opts opts = drafting(fake->policy, MOST);
    scheduler *sched;
    uint32_t prompt[PROMPT];
    story seen = {0};
    uint64_t id;
    err e = {0};
    cr_assert_eq(sched_create(&sched, backend, &opts, on_event, &seen, &e), 0, "%s", e.msg);
    sched_request req = rig_request(prompt, PROMPT, TOKENS, 3);
    req.tell_drafts = tell;
    cr_assert_eq(sched_submit(sched, &req, &id, &e), 0, "%s", e.msg);
    for (bool idle = false; !idle;)
        cr_assert_eq(sched_step(sched, &idle, &e), 0, "%s", e.msg);
    sched_get_stats(sched, stats);
    sched_destroy(sched);
    eng_backend_close(backend);
    cr_assert(seen.ended);
    cr_assert_eq(seen.n, TOKENS);
    return seen;
}

Test(sched_drafts_life, drafts_are_told_in_order_and_replaced_and_never_after_the_end) {
    static sched_stats stats;
    for (uint32_t agreement = 0; agreement <= 100; agreement += 20) {
        fake_opts fake = uneven(agreement % 40 ? KV_EXACT : KV_LAST);
        fake.agreement = agreement;
        story seen = tell_story(&fake, true, &stats);
        cr_assert_eq(seen.n_told, stats.draft_tokens);
        cr_assert_geq(seen.confirmed, stats.drafts_accepted);
        cr_assert(agreement < 100 || seen.confirmed == seen.n_told);
        cr_assert_eq(tell_story(&fake, false, &stats).n_told, 0);
        cr_assert_gt(stats.draft_tokens, 0);
    }
}

/* ---- faults, taps ---- */

/* The launch of the NaN may hold the last coda of a position: then the sequence fails there. */
Test(sched_drafts_life, a_draft_of_logits_that_are_no_numbers_is_none) {
    uint32_t whole = 0, failed = 0;
    for (uint64_t at = 2; at < 80; at++) {
        fake_opts fake = uneven(at % 2 ? KV_EXACT : KV_LAST);
        fake_answer want;
        eng_sampler *sampler;
        err e = {0};
        sched_opts opts = drafting(fake.policy, MOST);
        fake.nan_at = at;
        sched_rig rig = rig_open(&fake, &opts);
        sent one;
        send(&rig, &one, at);
        rig_finish(&rig);
        cr_assert_eq(eng_sampler_create(&sampler, fake.vocab, &e), 0, "%s", e.msg);
        fake_answer_find(&fake, &one.req, sampler, &want);
        eng_sampler_destroy(sampler);
        const rig_out *out = &rig.out[one.id];
        cr_assert_arr_eq(out->tokens, want.tokens, out->n * sizeof *out->tokens);
        whole += out->end.finish == SCHED_LENGTH && out->n == TOKENS;
        failed += out->end.finish == SCHED_FAILED && out->end.why == ERR_NUMERIC;
        rig_close(&rig);
    }
    cr_assert_eq(whole + failed, 78);
    cr_assert(whole > 10 && failed > 10, "%u whole, %u failed", whole, failed);
}

Test(sched_drafts_life, a_failed_device_ends_sequences_with_their_drafts) {
    for (uint64_t at = 1; at < 120; at++) {
        fake_opts fake = uneven(KV_EXACT);
        fake.fail_at = at;
        fake.max_flights = 1 + (uint32_t)(at % 2);
        sched_opts opts = drafting(KV_EXACT, MOST);
        sched_rig rig = rig_open(&fake, &opts);
        sent all[2];
        for (uint32_t i = 0; i < 2; i++)
            send(&rig, &all[i], i);
        err e = {0};
        bool idle = false;
        while (sched_step(rig.sched, &idle, &e) == 0)
            cr_assert(!idle);
        cr_assert_eq(e.code, ERR_DEVICE);
        cr_assert_eq(rig.sched->n_draft_rows + rig.sched->n_to_draft, 0);
        for (uint32_t i = 0; i < 2; i++)
            cr_assert_eq(rig.out[all[i].id].end.why, ERR_DEVICE);
        rig_close(&rig);
    }
}

typedef struct {
    uint32_t n;
    uint64_t hash;
} taps;

static void on_tap(void *ud, uint64_t id, uint32_t pos, uint16_t depth, const float *logits) {
    taps *seen = ud;
    (void)id;
    cr_assert_eq(pos, seen->n++);
    cr_assert_not_null(logits);
    seen->hash = seen->hash * 31 + depth;
    for (int i = 0; i < 64; i++) {
        uint32_t bits;
        memcpy(&bits, &logits[i], sizeof bits);
        seen->hash = (seen->hash ^ bits) * 0x9e3779b97f4a7c15u;
    }
}

static taps tapped(const fake_opts *fake, uint32_t drafts) {
    sched_opts opts = drafting(fake->policy, drafts);
    sched_rig rig = rig_open(fake, &opts);
    uint32_t prompt[PROMPT];
    taps seen = {0};
    sched_request req = rig_request(prompt, PROMPT, TOKENS, 5);
    req.tap = on_tap;
    req.tap_logits = true;
    req.ud = &seen;
    (void)rig_submit(&rig, &req);
    rig_finish(&rig);
    cr_assert(drafts == 0 || rig_stats(&rig)->drafts_withdrawn > 0);
    rig_close(&rig);
    return seen;
}

Test(sched_drafts_life, a_tap_sees_each_position_once_and_no_draft) {
    for (int policy = 0; policy < 2; policy++) {
        fake_opts fake = uneven((kv_policy)policy);
        taps with = tapped(&fake, MOST), without = tapped(&fake, 0);
        cr_assert_eq(with.n, PROMPT + TOKENS - 1);
        cr_assert_eq(with.n, without.n);
        cr_assert_eq(with.hash, without.hash);
    }
}
