/* test_sched_thread.c - what the loop has been told by the time the engine goes on. */
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

/* A backend that looks, as each launch begins, at what has reached the loop's side. The
 * loop is played inside the notification, on the engine's thread: nobody else polls. */
typedef struct {
    eng_backend base;
    eng_backend *inner;
    sched_thread *t;
    atomic_bool begin; /* all is submitted */
    atomic_uint ends;
    uint64_t ids[STREAMS];
    uint32_t want[STREAMS], tokens[STREAMS];
    bool ended[STREAMS];
    uint32_t computed[STREAMS]; /* tokens whose logits a launch has yielded */
    uint32_t late_tokens, late_ends, codas_in_a_row, most_codas;
} watcher;

static void nap(void) {
    nanosleep(&(struct timespec){0, 100000}, NULL);
}

static int watch_launch(eng_backend *b, const eng_launch *l, err *e) {
    watcher *w = (watcher *)(void *)b;
    while (!atomic_load(&w->begin))
        nap();
    for (int i = 0; i < STREAMS; i++) {
        w->late_tokens += w->computed[i] - w->tokens[i];
        w->late_ends += w->computed[i] == w->want[i] && !w->ended[i];
    }
    w->codas_in_a_row = l->stage == ENG_STAGE_CODA ? w->codas_in_a_row + 1 : 0;
    if (w->codas_in_a_row > w->most_codas) w->most_codas = w->codas_in_a_row;
    for (uint32_t i = 0; i < l->n_rows; i++) /* that is, until the next launch looks */
        if (l->rows[i].flags & ENG_ROW_LOGITS) w->computed[l->rows[i].max_loops - LEAST_LOOPS]++;
    return w->inner->ops->launch(w->inner, l, e);
}

static int watch_wait(eng_backend *b, eng_result *r, err *e) {
    watcher *w = (watcher *)(void *)b;
    return w->inner->ops->wait(w->inner, r, e);
}

static void watch_close(eng_backend *b) {
    eng_backend_close(((watcher *)(void *)b)->inner); /* the rest is the test's */
}

static void on_notify(void *ud) {
    watcher *w = ud;
    sched_event ev;
    while (sched_thread_poll(w->t, &ev)) {
        for (int i = 0; i < STREAMS; i++) {
            if (w->ids[i] != ev.id) continue;
            if (ev.kind == SCHED_TOKEN) w->tokens[i]++;
            if (ev.kind == SCHED_END) w->ended[i] = true;
        }
        if (ev.kind == SCHED_END) atomic_fetch_add(&w->ends, 1);
    }
}

/* Two logits a launch and six streams: a flush takes several launches of the coda. */
static void run_watched(watcher *w) {
    static const eng_backend_ops ops = {watch_launch, watch_wait, watch_close};
    fake_opts f;
    fake_opts_default(&f);
    f.instant = true;
    f.max_logits = 2;
    sched_opts o;
    sched_opts_default(&o);
    *w = (watcher){.inner = fake_backend_create(&f)};
    w->base = *w->inner;
    w->base.ops = &ops;
    err e = {0};
    cr_assert_eq(sched_thread_start(&w->t, &w->base, &o, on_notify, w, &e), 0, "%s", e.msg);
    for (uint32_t i = 0; i < STREAMS; i++) {
        uint32_t prompt[] = {1, 2 + i};
        sched_request r = {.prompt = prompt, .n_prompt = 2, .max_tokens = MOST_TOKENS - 3 * i};
        r.depth.max_loops = (uint16_t)(LEAST_LOOPS + i); /* by which its rows are known */
        r.sampling = (eng_sampling){.top_p = 1, .repetition_penalty = 1};
        w->want[i] = r.max_tokens;
        cr_assert_eq(sched_thread_submit(w->t, &r, &w->ids[i], &e), 0, "%s", e.msg);
    }
    atomic_store(&w->begin, true);
    while (atomic_load(&w->ends) < STREAMS)
        nap();
    sched_thread_stop(w->t);
}

Test(sched_thread, the_loop_is_told_of_a_token_before_the_next_launch_begins) {
    watcher w;
    run_watched(&w);
    cr_assert_gt(w.most_codas, 1, "no flush took two launches: this shows nothing");
    cr_assert_eq(w.late_tokens, 0, "%u times a launch began over a token nobody was told of",
                 w.late_tokens);
}

Test(sched_thread, the_loop_is_told_of_an_end_before_the_next_launch_begins) {
    watcher w;
    run_watched(&w);
    for (int i = 0; i < STREAMS; i++)
        cr_assert_eq(w.tokens[i], w.want[i]);
    cr_assert_eq(w.late_ends, 0, "%u times a launch began over an end nobody was told of",
                 w.late_ends);
}

/* ---- masks ---- */

/* A mask that is not done before it may be. */
typedef struct {
    atomic_bool may, begun, over;
    uint64_t words[1];
    eng_mask mask;
} slow_form;

static err_code slow_make(void *ud) {
    slow_form *f = ud;
    atomic_store(&f->begun, true);
    while (!atomic_load(&f->may))
        nap();
    cr_assert_not(atomic_load(&f->over), "told ended while its mask was made");
    f->words[0] = 1u << 9;
    f->mask = (eng_mask){f->words, 1};
    return ERR_NONE;
}
static const eng_mask *slow_mask(void *ud) {
    slow_form *f = ud;
    return &f->mask;
}
static bool slow_take(void *ud, uint32_t token) {
    (void)ud;
    return token == 9;
}
static const sched_constraint slow_calls = {slow_make, slow_mask, slow_take};

/* Starts one sequence with the form and two without; returns when the two have ended, which
 * they do only if nobody waits for the mask. ids[0] is the constrained one. */
static sched_thread *start_beside(slow_form *f, uint64_t ids[3], uint32_t max_tokens) {
    fake_opts o;
    fake_opts_default(&o);
    o.instant = true;
    sched_opts so;
    sched_opts_default(&so);
    sched_thread *t;
    err e = {0};
    cr_assert_eq(sched_thread_start(&t, fake_backend_create(&o), &so, NULL, NULL, &e), 0);
    for (uint32_t i = 0; i < 3; i++) {
        uint32_t prompt[] = {1, 2 + i};
        sched_request r = {.prompt = prompt, .n_prompt = 2, .max_tokens = max_tokens};
        r.sampling = (eng_sampling){.top_p = 1, .repetition_penalty = 1};
        if (i == 0) {
            r.constraint = &slow_calls;
            r.ud = f;
        }
        cr_assert_eq(sched_thread_submit(t, &r, &ids[i], &e), 0, "%s", e.msg);
    }
    for (uint32_t ended = 0; ended < 2;) {
        sched_event ev;
        if (!sched_thread_poll(t, &ev)) {
            nap();
            continue;
        }
        cr_assert_neq(ev.id, ids[0], "its mask is not there");
        ended += ev.kind == SCHED_END;
    }
    while (!atomic_load(&f->begun))
        nap();
    return t;
}

static sched_event wait_end(sched_thread *t) {
    sched_event ev;
    do {
        while (!sched_thread_poll(t, &ev))
            nap();
    } while (ev.kind != SCHED_END);
    return ev;
}

Test(sched_thread, a_mask_that_takes_long_delays_its_own_sequence_alone) {
    slow_form f = {0};
    uint64_t ids[3];
    sched_thread *t = start_beside(&f, ids, 12);
    uint64_t then = sched_thread_silence_ns(t), beats = 0;
    while (beats < 3) { /* the engine waits for its bell and says that it is alive */
        uint64_t now = sched_thread_silence_ns(t);
        beats += now < then;
        then = now;
        nap();
    }
    atomic_store(&f.may, true);
    sched_event end = wait_end(t);
    cr_assert(end.id == ids[0] && end.finish == SCHED_LENGTH && end.n_output == 12);
    sched_thread_stop(t);
}

Test(sched_thread, a_sequence_ends_only_after_its_mask_is_let_go_of) {
    slow_form f = {0};
    uint64_t ids[3];
    sched_thread *t = start_beside(&f, ids, 12);
    sched_thread_cancel(t, ids[0]);
    sched_event ev;
    for (int i = 0; i < 300; i++) { /* long enough for the engine to have seen it */
        cr_assert_not(sched_thread_poll(t, &ev), "told while its mask is made");
        nap();
    }
    atomic_store(&f.may, true);
    ev = wait_end(t);
    cr_assert(ev.id == ids[0] && ev.finish == SCHED_CANCELLED);
    atomic_store(&f.over, true);
    sched_thread_stop(t);
}
