/* test_sched_thread.c - events have reached the caller before the engine goes on. */
#include "scheduler/scheduler.h"
#include "tests/lib/fake_backend.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

TestSuite(sched_thread, .fini = fail_on_leaks, .timeout = HANGS_S);

enum { STREAMS = 6, MOST_TOKENS = 24, LEAST_LOOPS = 3 };

/* As each launch begins, this backend checks the events delivered to the caller so far. The
 * notification, on the engine's thread, plays the caller: no other thread polls. */
typedef struct {
    eng_backend base;
    eng_backend *inner;
    sched_thread *thread;
    atomic_bool begin; /* all is submitted */
    atomic_uint ends;
    uint64_t ids[STREAMS];
    uint32_t want[STREAMS], tokens[STREAMS];
    bool ended[STREAMS];
    uint32_t computed[STREAMS]; /* tokens with logits from a launch so far */
    uint32_t late_tokens, late_ends, codas_in_a_row, most_codas;
} watcher;

static void nap(void) {
    nanosleep(&(struct timespec){0, 100000}, NULL);
}

static int watch_launch(eng_backend *backend, const eng_launch *launch, err *e) {
    watcher *watch = (watcher *)(void *)backend;
    while (!atomic_load(&watch->begin))
        nap();
    for (int i = 0; i < STREAMS; i++) {
        watch->late_tokens += watch->computed[i] - watch->tokens[i];
        watch->late_ends += watch->computed[i] == watch->want[i] && !watch->ended[i];
    }
    watch->codas_in_a_row = launch->stage == ENG_STAGE_CODA ? watch->codas_in_a_row + 1 : 0;
    if (watch->codas_in_a_row > watch->most_codas) watch->most_codas = watch->codas_in_a_row;
    for (uint32_t i = 0; i < launch->n_rows; i++) /* until the next launch checks */
        if (launch->rows[i].flags & ENG_ROW_LOGITS)
            watch->computed[launch->rows[i].max_loops - LEAST_LOOPS]++;
    return watch->inner->ops->launch(watch->inner, launch, e);
}

static int watch_wait(eng_backend *backend, eng_result *result, err *e) {
    watcher *watch = (watcher *)(void *)backend;
    return watch->inner->ops->wait(watch->inner, result, e);
}

static void watch_close(eng_backend *backend) {
    eng_backend_close(((watcher *)(void *)backend)->inner); /* the rest is the test's */
}

static void on_notify(void *ud) {
    watcher *watch = ud;
    sched_event ev;
    while (sched_thread_poll(watch->thread, &ev)) {
        for (int i = 0; i < STREAMS; i++) {
            if (watch->ids[i] != ev.id) continue;
            if (ev.kind == SCHED_TOKEN) watch->tokens[i]++;
            if (ev.kind == SCHED_END) watch->ended[i] = true;
        }
        if (ev.kind == SCHED_END) atomic_fetch_add(&watch->ends, 1);
    }
}

/* Two logits a launch and six streams: a flush takes several launches of the coda. */
static void run_watched(watcher *watch) {
    static const eng_backend_ops ops = {watch_launch, watch_wait, watch_close};
    fake_opts fake;
    fake_opts_default(&fake);
    fake.instant = true;
    fake.max_logits = 2;
    sched_opts opts;
    sched_opts_default(&opts);
    *watch = (watcher){.inner = fake_backend_create(&fake)};
    watch->base = *watch->inner;
    watch->base.ops = &ops;
    err e = {0};
    cr_assert_eq(sched_thread_start(&watch->thread, &watch->base, &opts, on_notify, watch, &e), 0,
                 "%s", e.msg);
    for (uint32_t i = 0; i < STREAMS; i++) {
        uint32_t prompt[] = {1, 2 + i};
        sched_request req = {.prompt = prompt, .n_prompt = 2, .max_tokens = MOST_TOKENS - 3 * i};
        req.depth.max_loops = (uint16_t)(LEAST_LOOPS + i); /* identifies its rows */
        req.sampling = (eng_sampling){.top_p = 1, .repetition_penalty = 1};
        watch->want[i] = req.max_tokens;
        cr_assert_eq(sched_thread_submit(watch->thread, &req, &watch->ids[i], &e), 0, "%s", e.msg);
    }
    atomic_store(&watch->begin, true);
    while (atomic_load(&watch->ends) < STREAMS)
        nap();
    sched_thread_stop(watch->thread);
}

Test(sched_thread, the_loop_is_told_of_a_token_before_the_next_launch_begins) {
    watcher watch;
    run_watched(&watch);
    cr_assert_gt(watch.most_codas, 1, "no flush took two launches: this shows nothing");
    cr_assert_eq(watch.late_tokens, 0, "%u times a launch began before a token was delivered",
                 watch.late_tokens);
}

Test(sched_thread, the_loop_is_told_of_an_end_before_the_next_launch_begins) {
    watcher watch;
    run_watched(&watch);
    for (int i = 0; i < STREAMS; i++)
        cr_assert_eq(watch.tokens[i], watch.want[i]);
    cr_assert_eq(watch.late_ends, 0, "%u times a launch began before an end was delivered",
                 watch.late_ends);
}

/* ---- masks ---- */

/* Making its mask waits until the test allows it. */
typedef struct {
    atomic_bool may, begun, over;
    uint64_t words[1];
    eng_mask mask;
} slow_form;

static err_code slow_make(void *ud) {
    slow_form *form = ud;
    atomic_store(&form->begun, true);
    while (!atomic_load(&form->may))
        nap();
    cr_assert_not(atomic_load(&form->over), "told ended while its mask was made");
    form->words[0] = 1u << 9;
    form->mask = (eng_mask){form->words, 1};
    return ERR_NONE;
}
static const eng_mask *slow_mask(void *ud, uint32_t n) {
    (void)n;
    slow_form *form = ud;
    return &form->mask;
}
static bool slow_take(void *ud, uint32_t token) {
    (void)ud;
    return token == 9;
}
static const sched_constraint slow_calls = {slow_make, slow_mask, slow_take, NULL};

/* Starts one sequence with the form and two without; returns when the two have ended: they do not
 * wait for the mask. ids[0] is the constrained one. */
static sched_thread *start_beside(slow_form *form, uint64_t ids[3], uint32_t max_tokens) {
    fake_opts fake;
    fake_opts_default(&fake);
    fake.instant = true;
    sched_opts so;
    sched_opts_default(&so);
    sched_thread *thread;
    err e = {0};
    cr_assert_eq(sched_thread_start(&thread, fake_backend_create(&fake), &so, NULL, NULL, &e), 0);
    for (uint32_t i = 0; i < 3; i++) {
        uint32_t prompt[] = {1, 2 + i};
        sched_request req = {.prompt = prompt, .n_prompt = 2, .max_tokens = max_tokens};
        req.sampling = (eng_sampling){.top_p = 1, .repetition_penalty = 1};
        if (i == 0) {
            req.constraint = &slow_calls;
            req.ud = form;
        }
        cr_assert_eq(sched_thread_submit(thread, &req, &ids[i], &e), 0, "%s", e.msg);
    }
    for (uint32_t ended = 0; ended < 2;) {
        sched_event ev;
        if (!sched_thread_poll(thread, &ev)) {
            nap();
            continue;
        }
        cr_assert_neq(ev.id, ids[0], "its mask is not there");
        ended += ev.kind == SCHED_END;
    }
    while (!atomic_load(&form->begun))
        nap();
    return thread;
}

static sched_event wait_end(sched_thread *thread) {
    sched_event ev;
    do {
        while (!sched_thread_poll(thread, &ev))
            nap();
    } while (ev.kind != SCHED_END);
    return ev;
}

Test(sched_thread, a_mask_that_takes_long_delays_its_own_sequence_alone) {
    slow_form form = {0};
    uint64_t ids[3];
    sched_thread *thread = start_beside(&form, ids, 12);
    uint64_t then = sched_thread_silence_ns(thread), beats = 0;
    while (beats < 3) { /* the engine waits for its bell and gives signs of life */
        uint64_t now = sched_thread_silence_ns(thread);
        beats += now < then;
        then = now;
        nap();
    }
    atomic_store(&form.may, true);
    sched_event end = wait_end(thread);
    cr_assert(end.id == ids[0] && end.finish == SCHED_LENGTH && end.n_output == 12);
    sched_thread_stop(thread);
}

Test(sched_thread, a_sequence_ends_only_after_its_mask_is_let_go_of) {
    slow_form form = {0};
    uint64_t ids[3];
    sched_thread *thread = start_beside(&form, ids, 12);
    sched_thread_cancel(thread, ids[0]);
    sched_event ev;
    for (int i = 0; i < 300; i++) { /* long enough for the engine to have seen it */
        cr_assert_not(sched_thread_poll(thread, &ev), "told while its mask is made");
        nap();
    }
    atomic_store(&form.may, true);
    ev = wait_end(thread);
    cr_assert(ev.id == ids[0] && ev.finish == SCHED_CANCELLED);
    atomic_store(&form.over, true);
    sched_thread_stop(thread);
}

/* A gateway that asks for the size of the cache right behind the first /ready must find it. */
Test(sched_thread, the_size_of_the_cache_is_known_as_soon_as_the_engine_runs) {
    fake_opts fake;
    sched_opts opts;
    sched_thread *thread;
    sched_stats stats;
    err e = {0};
    fake_opts_default(&fake);
    sched_opts_default(&opts);
    for (int i = 0; i < 20; i++) { /* an engine thread may happen to be quick */
        cr_assert_eq(sched_thread_start(&thread, fake_backend_create(&fake), &opts, NULL, NULL, &e),
                     0, "%s", e.msg);
        sched_thread_stats(thread, &stats);
        cr_assert_gt(stats.pages, 0);
        sched_thread_stop(thread);
    }
}
