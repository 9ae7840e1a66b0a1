/* test_sched.c - thousands of random workloads against the sequential model.
 *
 *   FATHOM_SEED=N   first seed (else from the clock; printed)
 *   FATHOM_RUNS=N   workloads
 *   FATHOM_CASE=seed,keep,shorter,simpler,flights   one case, as a failure prints it */
#include "base/clock.h"
#include "tests/lib/testlib.h"
#include "tests/property/workload.h"

#include <criterion/criterion.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

TestSuite(sched_property, .fini = fail_on_leaks, .timeout = HANGS_S);

static uint64_t env_u64(const char *name, uint64_t otherwise) {
    const char *text = getenv(name);
    return text ? strtoull(text, NULL, 0) : otherwise;
}

static void print_case(const char *what, const work_case *spec, const char *why) {
    fprintf(stderr, "%s: %s\n  FATHOM_CASE=%" PRIu64 ",%u,%u,%u,%u\n", what, why, spec->seed,
            spec->keep, spec->shorter, spec->simpler, spec->flights);
}

static bool one_case(const work_case *spec, work_report *sum) {
    work_report report;
    char why[300] = "";
    if (work_run(spec, &report, why, sizeof why)) {
        sum->requests += report.requests;
        sum->launches += report.launches;
        sum->preemptions += report.preemptions;
        sum->cached_tokens += report.cached_tokens;
        sum->cancelled += report.cancelled;
        sum->tokens += report.tokens;
        sum->left_out += report.left_out;
        sum->drafts += report.drafts;
        sum->from_prompts += report.from_prompts;
        sum->looked_up += report.looked_up;
        sum->forced += report.forced;
        sum->drafts_accepted += report.drafts_accepted;
        sum->drafts_withdrawn += report.drafts_withdrawn;
        return true;
    }
    print_case("failing", spec, why);
    work_case small = work_shrink(spec);
    (void)work_run(&small, &report, why, sizeof why);
    print_case("shrunk", &small, why);
    return false;
}

Test(sched_property, any_traffic_gives_what_each_request_gives_alone) {
    const char *text = getenv("FATHOM_CASE");
    work_report sum = {0};
    if (text) {
        work_case spec = {0};
        cr_assert_eq(sscanf(text, "%" SCNu64 ",%u,%u,%u,%u", &spec.seed, &spec.keep, &spec.shorter,
                            &spec.simpler, &spec.flights),
                     5);
        cr_assert(one_case(&spec, &sum));
        return;
    }
    uint64_t seed = env_u64("FATHOM_SEED", clock_ns() & 0xffffffff),
             runs = env_u64("FATHOM_RUNS", 2000);
    for (uint64_t i = 0; i < runs; i++) {
        work_case spec = {.seed = seed + i / 2, .keep = (1u << WORK_MAX) - 1, .flights = 1 + i % 2};
        cr_assert(one_case(&spec, &sum), "a workload of seed %" PRIu64 " fails", seed);
    }
    fprintf(stderr,
            "FATHOM_SEED=%" PRIu64 " FATHOM_RUNS=%" PRIu64 ": %u requests, %" PRIu64
            " tokens, %" PRIu64 " launches, %" PRIu64 " preemptions, %" PRIu64
            " prompt tokens from the prefix cache, %" PRIu64 " cancelled, %" PRIu64
            " rows left out, %" PRIu64 " drafts, %" PRIu64 " of them from the text, %" PRIu64
            " expected by constraints and right, %" PRIu64 " told from prompts, %" PRIu64
            " accepted, %" PRIu64 " withdrawn\n",
            seed, runs, sum.requests, sum.tokens, sum.launches, sum.preemptions, sum.cached_tokens,
            sum.cancelled, sum.left_out, sum.drafts, sum.looked_up, sum.forced, sum.from_prompts,
            sum.drafts_accepted, sum.drafts_withdrawn);
    cr_assert(runs < 200 || (sum.preemptions > 0 && sum.cached_tokens > 0 && sum.cancelled > 0 &&
                             sum.left_out > 0 && sum.drafts_accepted > 0 &&
                             sum.drafts_withdrawn > 0 && sum.looked_up > 0 && sum.forced > 0));
    cr_assert(runs < 1000 || sum.from_prompts > 0);
}

Test(sched_property, the_same_seed_gives_the_same_schedule) {
    for (uint64_t seed = 1; seed <= 100; seed++) {
        work_case spec = {
            .seed = seed * 7919, .keep = (1u << WORK_MAX) - 1, .flights = 1 + seed % 2};
        work_report report, again;
        char why[300];
        cr_assert(work_run(&spec, &report, why, sizeof why), "%s", why);
        cr_assert(work_run(&spec, &again, why, sizeof why), "%s", why);
        cr_assert_eq(report.schedule, again.schedule);
        cr_assert_eq(report.steps, again.steps);
    }
}
