/* test_sched_drafts.c - speculation: what drafts gain, and what they never change. */
#include "tests/lib/sched_rig.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <stdio.h>

TestSuite(sched_drafts, .fini = fail_on_leaks, .timeout = HANGS_S);

enum { TOKENS = 400 };

/* Every position runs 8 loops. */
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
        rig_submit(&rig, &req);
    }
    rig_finish(&rig);
    out->stats = *rig_stats(&rig);
    out->us = (double)rig_device_ns(&rig) / 1e3 / TOKENS / n;
    draft_load load = {.sequences = n, .depth = 8, .in_step = true, .max_loops = 8};
    out->expected_us =
        sched__token_ns(&rig.sched->cost, &rig.sched->drafts, &load, rig.sched->draft_now) / 1e3;
    rig_close(&rig);
}

Test(sched_drafts, experiment) {
    static const uint32_t agreements[] = {0, 30, 50, 80, 95, 100}, sizes[] = {1, 2, 4, 8, 32, 64};
    for (int s = 0; s < 6; s++)
        for (int i = 0; i < 6; i++) {
            fake_opts fake = eight_loops(agreements[i]);
            measured got;
            fprintf(stderr, "%u seqs, agreement %u:", sizes[s], agreements[i]);
            static const uint32_t drafts[] = {0, SCHED_DRAFTS_AUTO, 1, 3, 8};
            for (int k = 0; k < 5; k++) {
                measure(&fake, drafts[k], sizes[s], &got);
                fprintf(stderr, "  [%u] %.1f/%.1f", drafts[k], got.us, got.expected_us);
                if (k == 1)
                    fprintf(stderr, " (%u/%u: %llu of %llu, heads %llu rows %llu)",
                            got.stats.draft_loops_now, got.stats.drafts_now,
                            (unsigned long long)got.stats.drafts_accepted,
                            (unsigned long long)got.stats.draft_tokens,
                            (unsigned long long)got.stats.draft_heads,
                            (unsigned long long)got.stats.withdrawn_rows);
            }
            fprintf(stderr, "\n");
        }
}
