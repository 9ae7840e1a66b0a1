/* test_sched_expected.c - tokens that a constraint expects: drafted together, through one coda,
 * with one mask from the maker; and every answer is that of the request alone. */
#include "base/hash.h"
#include "tests/lib/fake_answer.h"
#include "tests/lib/sched_rig.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <string.h>

TestSuite(sched_expected, .fini = fail_on_leaks, .timeout = HANGS_S);

enum { TOKENS = 90, PROMPT = 12, STRETCH = 8, MOST = 4 };

/* Allows every token, and knows the answer: expects its next STRETCH tokens, of which one in
 * wrong_one_in is wrong (0: none). */
typedef struct {
    const fake_answer *answer;
    uint32_t expected[TOKENS + STRETCH], taken, ends, n_made;
    uint32_t wrong_one_in;
    bool ready, misused, says_nothing;
} oracle;

static err_code oracle_make(void *ud) {
    oracle *form = ud;
    form->misused |= form->ready;
    form->ready = true;
    form->n_made++;
    form->ends = form->taken + (form->says_nothing ? 0 : STRETCH);
    if (form->ends > form->answer->n) form->ends = form->answer->n;
    return ERR_NONE;
}
static const eng_mask *oracle_mask(void *ud, uint32_t n) {
    oracle *form = ud;
    form->misused |= !form->ready || form->taken + n > form->ends;
    return NULL;
}
static bool oracle_take(void *ud, uint32_t token) {
    oracle *form = ud;
    form->misused |= !form->ready || token != form->answer->tokens[form->taken];
    form->ready = form->taken < form->ends && form->expected[form->taken] == token;
    if (!form->ready) form->ends = 0;
    form->taken++;
    return true;
}
static uint32_t oracle_expected(void *ud, const uint32_t **tokens) {
    oracle *form = ud;
    form->misused |= !form->ready;
    *tokens = form->expected + form->taken;
    return form->ends - form->taken;
}
static const sched_constraint oracle_calls = {oracle_make, oracle_mask, oracle_take,
                                              oracle_expected};

/* ---- requests and their answers ---- */

typedef struct {
    uint32_t prompt[PROMPT];
    sched_request req;
    uint64_t id;
    fake_answer answer;
    oracle form;
    sequence *masked; /* its next mask is asked for and not made */
} sent;

static sent all[MOST];

static void prepare(const fake_opts *fake, sent *one, uint64_t stream, uint32_t wrong_one_in) {
    eng_sampler *sampler;
    err e = {0};
    *one = (sent){.req = rig_request(one->prompt, PROMPT, TOKENS, stream)};
    cr_assert_eq(eng_sampler_create(&sampler, fake->vocab, &e), 0, "%s", e.msg);
    fake_answer_find(fake, &one->req, sampler, &one->answer);
    eng_sampler_destroy(sampler);
    one->form = (oracle){.answer = &one->answer, .wrong_one_in = wrong_one_in};
    for (uint32_t i = 0; i < one->answer.n; i++) {
        bool wrong = wrong_one_in && hash_mix(stream * 1000 + i) % wrong_one_in == 0;
        one->form.expected[i] = (one->answer.tokens[i] + wrong) % fake->vocab;
    }
    one->req.constraint = &oracle_calls;
    one->req.ud = &one->form;
}

static void expect_answer(const sched_rig *rig, const sent *one) {
    const rig_out *out = &rig->out[one->id];
    cr_assert(!one->form.misused, "a constraint is misused");
    cr_assert(out->ended && out->end.finish == SCHED_LENGTH);
    cr_assert_eq(out->n, one->answer.n);
    for (uint32_t i = 0; i < out->n; i++) {
        cr_assert_eq(out->tokens[i], one->answer.tokens[i], "token %u", i);
        cr_assert_eq(out->depth[i], one->answer.depth[i], "depth of token %u", i);
        cr_assert_eq(out->logprob[i], one->answer.logprob[i], "log-probability %u", i);
    }
}

/* Every position runs 8 loops, and no loop but the last names the token. */
static fake_opts deep(void) {
    fake_opts fake;
    fake_opts_default(&fake);
    fake.deep_one_in = 1;
    fake.agreement = 0;
    fake.n_slots = 1 << 15;
    return fake;
}

static void run_one(const fake_opts *fake, uint32_t drafts, bool says_nothing,
                    uint32_t wrong_one_in, sched_stats *stats) {
    sched_opts opts = rig_opts(fake->policy);
    opts.drafts = drafts;
    sched_rig rig = rig_open(fake, &opts);
    rig.sched->host_is_free = true;
    prepare(fake, &all[0], 1, wrong_one_in);
    all[0].form.says_nothing = says_nothing;
    all[0].id = rig_submit(&rig, &all[0].req);
    rig_finish(&rig);
    expect_answer(&rig, &all[0]);
    *stats = *rig_stats(&rig);
    rig_close(&rig);
}

Test(sched_expected, a_run_of_expected_tokens_takes_few_more_launches_than_one_token) {
    for (uint32_t flights = 1; flights <= 2; flights++) {
        static sched_stats with, without;
        fake_opts fake = deep();
        fake.max_flights = flights;
        run_one(&fake, SCHED_DRAFTS_AUTO, true, 0, &without);
        run_one(&fake, SCHED_DRAFTS_AUTO, false, 0, &with);
        const uint64_t *launches = with.launches, *before = without.launches;
        cr_expect_lt(launches[ENG_STAGE_RECURRENT] * 4, before[ENG_STAGE_RECURRENT]);
        cr_expect_lt(launches[ENG_STAGE_CODA], TOKENS / 2, "%llu codas",
                     (unsigned long long)launches[ENG_STAGE_CODA]);
        cr_expect_gt(with.forced_drafts, TOKENS * 3 / 4);
        cr_expect_eq(with.forced_drafts_accepted, with.forced_drafts);
        cr_expect_eq(without.forced_drafts, 0);
    }
}

/* The first request also measures the stages. */
Test(sched_expected, a_prompt_is_followed_by_expected_tokens_before_its_answer_begins) {
    fake_opts fake = deep();
    sched_opts opts = rig_opts(fake.policy);
    opts.drafts = SCHED_DRAFTS_AUTO;
    sched_rig rig = rig_open(&fake, &opts);
    rig.sched->host_is_free = true;
    for (uint32_t i = 0; i < 2; i++) {
        prepare(&fake, &all[i], i + 1, 0);
        all[i].id = rig_submit(&rig, &all[i].req);
        static sched_stats before;
        before = *rig_stats(&rig);
        while (rig_stats(&rig)->launches[ENG_STAGE_RECURRENT] <
               before.launches[ENG_STAGE_RECURRENT] + 4)
            rig_steps(&rig, 1);
        cr_assert_eq(rig.out[all[i].id].n, 0);
        if (i == 1) cr_expect_eq(rig_stats(&rig)->forced_drafts - before.forced_drafts, STRETCH);
        rig_finish(&rig);
        expect_answer(&rig, &all[i]);
    }
    rig_close(&rig);
}

Test(sched_expected, without_drafts_too_a_run_asks_for_one_mask) {
    static sched_stats stats;
    fake_opts fake = deep();
    run_one(&fake, 0, false, 0, &stats);
    cr_assert_eq(stats.draft_tokens, 0);
    cr_assert_eq(all[0].form.n_made, TOKENS / (STRETCH + 1), "%u masks", all[0].form.n_made);
    run_one(&fake, 0, true, 0, &stats);
    cr_assert_eq(all[0].form.n_made, TOKENS);
}

Test(sched_expected, tokens_expected_wrongly_are_soon_not_drafted) {
    static sched_stats right, wrong;
    fake_opts fake = deep();
    fake.row_ns[ENG_STAGE_RECURRENT] = fake.fixed_ns[ENG_STAGE_RECURRENT]; /* rows cost */
    run_one(&fake, SCHED_DRAFTS_AUTO, false, 1, &wrong);
    run_one(&fake, SCHED_DRAFTS_AUTO, false, 0, &right);
    cr_expect_eq(wrong.forced_drafts_accepted, 0);
    cr_expect_lt(wrong.forced_drafts, 20, "%llu", (unsigned long long)wrong.forced_drafts);
    cr_expect_gt(right.forced_drafts, wrong.forced_drafts);
}

/* ---- late masks ---- */

static void on_mask_wanted(void *ud, sequence *seq) {
    (void)ud;
    for (uint32_t i = 0; i < MOST; i++) {
        if (seq->req.ud == &all[i].form) all[i].masked = seq;
    }
}

static void make_some(uint64_t *state, uint32_t percent) {
    for (uint32_t i = 0; i < MOST; i++) {
        if (all[i].masked == NULL || hash_mix(*state += HASH_STEP) % 100 >= percent) continue;
        cr_assert(sched__make_mask(all[i].masked));
        all[i].masked = NULL;
    }
}

/* The loops name right tokens, which are expected once the mask is made: positions wait for a mask
 * side by side, and one may leave the loop just when the mask of the one in front is made. */
Test(sched_expected, no_position_overtakes_another_that_waits_for_its_mask) {
    for (uint64_t seed = 1; seed <= 120; seed++) {
        uint64_t state = seed;
        fake_opts fake = deep();
        fake.seed = seed;
        fake.policy = seed % 2 ? KV_EXACT : KV_LAST;
        fake.deep_one_in = (uint32_t)(seed % 3);
        fake.agreement = 100;
        fake.max_flights = 2;
        sched_opts opts = rig_opts(fake.policy);
        opts.drafts = 8;
        opts.draft_loops = 1;
        sched_rig rig = rig_open(&fake, &opts);
        rig.sched->ahead.rule = seed % 4 < 2 ? AHEAD_ALWAYS : AHEAD_NEVER;
        rig.sched->hand_mask = on_mask_wanted;
        for (uint32_t i = 0; i < MOST; i++) {
            prepare(&fake, &all[i], seed * 10 + i, seed % 5 == 0 ? 0 : 4);
            all[i].id = rig_submit(&rig, &all[i].req);
        }
        do
            make_some(&state, 20);
        while (rig_step_of(rig.sched));
        for (uint32_t i = 0; i < MOST; i++)
            expect_answer(&rig, &all[i]);
        rig_close(&rig);
    }
}

/* ---- ends ---- */

Test(sched_expected, a_cancel_and_a_preemption_take_its_drafts_along) {
    static sched_stats stats;
    fake_opts fake = deep();
    fake.n_slots = (PROMPT + TOKENS) * 2 * fake_planes(&fake, fake.max_loops);
    sched_opts opts = rig_opts(fake.policy);
    opts.drafts = 64;
    sched_rig rig = rig_open(&fake, &opts);
    for (uint32_t i = 0; i < MOST; i++) {
        prepare(&fake, &all[i], 50 + i, 7);
        all[i].id = rig_submit(&rig, &all[i].req);
    }
    for (int steps = 0; rig.out[all[0].id].n < 30; steps++)
        rig_steps(&rig, 1);
    sched_cancel(rig.sched, all[0].id);
    rig_finish(&rig);
    cr_assert_eq(rig.out[all[0].id].end.finish, SCHED_CANCELLED);
    for (uint32_t i = 1; i < MOST; i++)
        expect_answer(&rig, &all[i]);
    stats = *rig_stats(&rig);
    cr_assert_gt(stats.preemptions, 0);
    cr_assert_gt(stats.forced_drafts_accepted, 0);
    cr_assert_eq(stats.drafts_accepted + stats.drafts_withdrawn, stats.draft_tokens);
    rig_close(&rig);
}
