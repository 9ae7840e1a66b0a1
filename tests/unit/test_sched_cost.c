/* test_sched_cost.c - stage times are fitted, and flushing by them is as good as the best
 * fixed rule, whatever the stages cost. */
#include "scheduler/scheduler_internal.h"
#include "tests/lib/fake_backend.h"
#include "tests/lib/sched_rig.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

TestSuite(sched_cost, .fini = fail_on_leaks, .timeout = HANGS_S);

Test(sched_cost, a_line_is_found_again_through_noise) {
    cost_fit fit = {0};
    uint64_t rng = 1;
    for (int i = 0; i < 500; i++) {
        rng = rng * 6364136223846793005u + 1442695040888963407u;
        uint32_t rows = 1 + (uint32_t)(rng >> 33) % 64;
        uint64_t noise = (rng >> 20) % 400;
        sched__fit_add(&fit, rows, 10000 + 300 * rows + noise);
    }
    cr_assert_float_eq(fit.base_ns, 10200, 300);
    cr_assert_float_eq(fit.row_ns, 300, 10);
}

Test(sched_cost, one_interrupted_launch_does_not_upset_it) {
    cost_fit fit = {0};
    for (uint32_t i = 0; i < 200; i++)
        sched__fit_add(&fit, 1 + i % 32, 10000 + 300 * (1 + i % 32));
    sched__fit_add(&fit, 16, 10000000000u);
    cr_assert_lt(sched__fit_ns(&fit, 16), 60000);
}

Test(sched_cost, launches_of_one_size_still_give_their_time) {
    cost_fit fit = {0};
    for (int i = 0; i < 50; i++)
        sched__fit_add(&fit, 8, 5000);
    cr_assert_float_eq(sched__fit_ns(&fit, 8), 5000, 1);
    cr_assert_geq(fit.base_ns, 0);
    cr_assert_geq(fit.row_ns, 0);
}

typedef struct {
    const char *name;
    uint64_t fixed[3], row[3];
    kv_policy policy;
    uint32_t n;
} price;

static const price prices[] = {
    {"weight-bound, heavy coda, last", {43000, 900000, 110000}, {100, 300, 200}, KV_LAST, 32},
    {"weight-bound, heavy coda, exact", {43000, 900000, 110000}, {100, 300, 200}, KV_EXACT, 32},
    {"weight-bound, coda as dear as a loop, last",
     {500000, 900000, 900000},
     {100, 300, 200},
     KV_LAST,
     32},
    {"weight-bound, coda as dear as a loop, exact",
     {500000, 900000, 900000},
     {100, 300, 200},
     KV_EXACT,
     16},
    {"arithmetic-bound, last", {1000, 1000, 1000}, {20000, 60000, 40000}, KV_LAST, 64},
    {"launch-bound, last", {20000, 20000, 20000}, {100, 100, 100}, KV_LAST, 8},
    /* mythos_1b on an H100, fitted to launches of few rows: bench/reports/depthwise.md */
    {"a flush nearly as dear as a loop, 8, last",
     {111000, 260000, 186000},
     {350, 1900, 380},
     KV_LAST,
     8},
    {"a flush nearly as dear as a loop, 32, last",
     {111000, 420000, 186000},
     {350, 1400, 380},
     KV_LAST,
     32},
    {"one sequence, last", {43000, 900000, 110000}, {100, 300, 200}, KV_LAST, 1},
};

typedef struct {
    scheduler *sched;
    const price *cost;
    uint32_t next, tokens;
} loop;

static void submit(loop *run) {
    uint32_t prompt = run->next++ % 64;
    sched_request req = {.prompt = &prompt, .n_prompt = 1, .max_tokens = 60 + run->next % 40};
    req.sampling =
        (eng_sampling){.temperature = 1, .top_p = 1, .repetition_penalty = 1, .seed = run->next};
    uint64_t id;
    err e = {0};
    cr_assert_eq(sched_submit(run->sched, &req, &id, &e), 0, "%s", e.msg);
}

static void on_event(void *ud, const sched_event *ev) {
    loop *run = ud;
    run->tokens += ev->kind == SCHED_TOKEN;
    if (ev->kind == SCHED_END) submit(run);
}

/* Tokens per second of device time, with n sequences always running. */
static double throughput(const price *cost, sched_mode mode, uint32_t flush_at) {
    fake_opts fake;
    fake_opts_default(&fake);
    fake.policy = cost->policy;
    fake.max_loops = 16;
    fake.mean_depth = 4;
    fake.instant = true;
    fake.n_rows = 2048;
    fake.max_launch = 1024;
    for (int i = 0; i < 3; i++)
        fake.fixed_ns[i] = cost->fixed[i], fake.row_ns[i] = cost->row[i];
    eng_backend *backend = fake_backend_create(&fake);
    sched_opts so;
    sched_opts_default(&so);
    so.halted_kv = cost->policy;
    so.batching = mode;
    so.max_running = cost->n;
    so.max_rows = 1024;
    so.wait_bound = 64;
    loop run = {.cost = cost};
    err e = {0};
    bool idle;
    cr_assert_eq(sched_create(&run.sched, backend, &so, on_event, &run, &e), 0, "%s", e.msg);
    run.sched->flush_at = flush_at;
    for (uint32_t i = 0; i < cost->n; i++)
        submit(&run);
    while (run.tokens < 20 * cost->n)
        cr_assert_eq(sched_step(run.sched, &idle, &e), 0, "%s", e.msg);
    sched_stats *st = calloc(2, sizeof *st);
    sched_get_stats(run.sched, &st[0]);
    uint32_t before = run.tokens;
    while (run.tokens < before + 300 * cost->n)
        cr_assert_eq(sched_step(run.sched, &idle, &e), 0, "%s", e.msg);
    sched_get_stats(run.sched, &st[1]);
    uint64_t ns = 0;
    for (int i = 0; i < 3; i++)
        ns += st[1].launch_ns[i] - st[0].launch_ns[i];
    double rate = (run.tokens - before) * 1e9 / (double)ns;
    free(st);
    sched_destroy(run.sched);
    eng_backend_close(backend);
    return rate;
}

Test(sched_cost, flushing_by_cost_is_as_good_as_the_best_fixed_rule) {
    for (size_t i = 0; i < sizeof prices / sizeof *prices; i++) {
        const price *cost = &prices[i];
        double ours = throughput(cost, SCHED_DEPTHWISE, 0), best = 0;
        uint32_t best_at = 0;
        for (uint32_t at = 1; at <= cost->n; at += at < 4 ? 1 : cost->n / 16 + 1) {
            double rate = throughput(cost, SCHED_DEPTHWISE, at);
            if (rate > best) best = rate, best_at = at;
        }
        fprintf(stderr, "%-45s %8.1f tokens/s, best fixed rule %8.1f (at %u rows): %.3f\n",
                cost->name, ours, best, best_at, ours / best);
        cr_expect_geq(ours, 0.98 * best, "%s", cost->name);
    }
}

/* Stage times in the proportions of mythos_1b in bf16 on a device that reads 4 TB/s: a loop
 * reads up to 0.91 G weights, prelude and coda with the head 0.15 G. Reading the weights hides
 * the arithmetic of up to some hundreds of rows. Times are modelled, exits are drawn. */
Test(sched_cost, where_weights_bound_the_step_exact_gives_twice_what_full_does) {
    static const uint32_t sizes[] = {8, 32, 64};
    for (size_t i = 0; i < 3; i++) {
        price cost = {
            "mythos_1b, modelled", {22000, 455000, 54000}, {20, 200, 20}, KV_EXACT, sizes[i]};
        double full = throughput(&cost, SCHED_FULL, 0), lock = throughput(&cost, SCHED_LOCKSTEP, 0);
        double exact = throughput(&cost, SCHED_DEPTHWISE, 0);
        cost.policy = KV_LAST;
        double last = throughput(&cost, SCHED_DEPTHWISE, 0);
        fprintf(stderr,
                "weights bound, %2u sequences, over full: lockstep exact %.2f, depthwise exact "
                "%.2f, last %.2f\n",
                cost.n, lock / full, exact / full, last / full);
        cr_expect_geq(exact, 2 * full);
        cr_expect_geq(last, exact);
    }
}

/* Loops of 4 us, a prelude and a coda of 3: four loops are too long to wait for one coda. */
Test(sched_cost, sequences_of_equal_loops_that_come_at_other_times_share_their_codas) {
    enum { TOKENS = 200, LATER = 10 };
    for (uint32_t late = 1; late < 8; late++) {
        fake_opts fake;
        fake_opts_default(&fake);
        fake.deep_one_in = 1;
        sched_opts opts = rig_opts(fake.policy);
        opts.drafts = 0;
        sched_rig rig = rig_open(&fake, &opts);
        rig.sched->host_is_free = true;
        uint32_t prompt[8];
        sched_request req = rig_request(prompt, 8, TOKENS, 1);
        uint64_t first = rig_submit(&rig, &req);
        while (rig.out[first].n < LATER)
            rig_steps(&rig, 1);
        uint64_t loops = rig_stats(&rig)->launches[ENG_STAGE_RECURRENT];
        while (rig_stats(&rig)->launches[ENG_STAGE_RECURRENT] < loops + late)
            rig_steps(&rig, 1);
        req = rig_request(prompt, 8, TOKENS, 2);
        rig_submit(&rig, &req);
        rig_finish(&rig);
        uint64_t codas = rig_stats(&rig)->launches[ENG_STAGE_CODA];
        cr_expect_leq(codas, TOKENS + 3 * LATER, "%u loops later: %llu codas of %d tokens", late,
                      (unsigned long long)codas, 2 * TOKENS);
        rig_close(&rig);
    }
}
