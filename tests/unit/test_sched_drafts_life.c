/* test_sched_drafts_life.c - the life of drafts: told, kept, drawn anew, withdrawn; and their ends
 * with the sequence. Every answer is that of the request alone. */
#include "tests/lib/fake_answer.h"
#include "tests/lib/fake_form.h"
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
        sent all[5];
        for (uint32_t i = 0; i < 5; i++)
            send(&rig, &all[i], seed + i);
        rig_finish(&rig);
        for (uint32_t i = 0; i < 5; i++)
            expect_answer(&rig, &fake, &all[i]);
        rig_close(&rig);
    }
}
