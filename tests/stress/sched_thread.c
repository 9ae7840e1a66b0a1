/* sched_thread.c - the engine thread and the loop: submits, cancels, full queues, a device
 * that fails, and stopping in the middle, over and over. Built with TSan by `make tsan`. */
#include "base/clock.h"
#include "base/log.h"
#include "scheduler/scheduler.h"
#include "tests/lib/fake_backend.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { REQUESTS = 3000, OPEN = 48 };

static atomic_uint rings;
static void on_notify(void *ud) {
    (void)ud;
    atomic_fetch_add(&rings, 1);
}

enum { AHEAD = 8, WRONG_ONE_IN = 11 };

/* The constraint of a stream allows exactly one next token, a new one after every token taken, and
 * expects the next few, some of them wrongly. It is valid until the stream's END is polled; a later
 * use aborts. */
typedef struct {
    uint64_t words[AHEAD + 1];
    eng_mask masks[AHEAD + 1];
    uint32_t expected[AHEAD];
    uint32_t taken, first, ends; /* masks[0] is behind `first` tokens; expected before `ends` */
    uint32_t slow_us;            /* a mask takes so long */
    bool over;
} constraint_state;

static uint32_t form_token(uint32_t taken) {
    return taken * 7 % 64;
}
static err_code form_make(void *ud) {
    constraint_state *form = ud;
    if (form->over) abort();
    if (form->slow_us) nanosleep(&(struct timespec){.tv_nsec = (long)form->slow_us * 1000}, NULL);
    form->first = form->taken;
    form->ends = form->taken + AHEAD;
    for (uint32_t i = 0; i <= AHEAD; i++) {
        uint32_t at = form->first + i;
        form->words[i] = UINT64_C(1) << form_token(at);
        form->masks[i] = (eng_mask){&form->words[i], 1};
        if (i < AHEAD) form->expected[i] = form_token(at + (at % WRONG_ONE_IN == 0));
    }
    if (form->over) abort();
    return ERR_NONE;
}
static const eng_mask *form_mask(void *ud, uint32_t n) {
    constraint_state *form = ud;
    if (form->over || form->taken + n - form->first > AHEAD) abort();
    return &form->masks[form->taken + n - form->first];
}
static bool form_take(void *ud, uint32_t token) {
    constraint_state *form = ud;
    if (form->over || token != form_token(form->taken)) return false;
    if (form->taken == form->ends || form->expected[form->taken - form->first] != token)
        form->ends = form->taken + 1;
    form->taken++;
    return true;
}
static uint32_t form_expected(void *ud, const uint32_t **tokens) {
    constraint_state *form = ud;
    if (form->over) abort();
    *tokens = form->expected + (form->taken - form->first);
    return form->ends - form->taken;
}
static const sched_constraint form_calls = {form_make, form_mask, form_take, form_expected};

typedef struct {
    uint64_t id;
    uint32_t tokens, want;
    bool cancelled, constrained;
    constraint_state form;
} open_stream;

static uint64_t state = 42;
static uint32_t pick(uint32_t n) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % n;
}

static int die(const char *what) {
    fprintf(stderr, "sched_thread: %s\n", what);
    return 1;
}

static eng_backend *backend(const fake_opts *changes) {
    fake_opts opts = *changes;
    opts.instant = true;
    return fake_backend_create(&opts);
}

static open_stream *find(open_stream *open, uint64_t id) {
    for (int i = 0; i < OPEN; i++) {
        if (open[i].id == id) return &open[i];
    }
    return NULL;
}

static int submit_one(sched_thread *thread, open_stream *stream) {
    uint32_t prompt[64];
    uint32_t n = 1 + pick(64);
    for (uint32_t i = 0; i < n; i++)
        prompt[i] = pick(64);
    sched_request req = {.prompt = prompt, .n_prompt = n, .max_tokens = 1 + pick(20)};
    req.tell_drafts = pick(2);
    req.sampling =
        (eng_sampling){.temperature = 1, .top_p = 1, .repetition_penalty = 1, .seed = pick(1000)};
    err e = {0};
    *stream = (open_stream){.want = req.max_tokens, .constrained = pick(3) == 0};
    if (stream->constrained) {
        stream->form.slow_us = pick(20) == 0 ? pick(2000) : 0;
        req.constraint = &form_calls;
        req.ud = &stream->form;
    }
    if (sched_thread_submit(thread, &req, &stream->id, &e) == 0) return 0;
    stream->id = 0;
    return e.code == ERR_BUSY ? 1 : -1;
}

/* Deadlines end a hanging test; they do not measure speed. */
static const uint64_t patience_ns = 600 * UINT64_C(1000000000);

static void nap_ms(long ms) {
    nanosleep(&(struct timespec){.tv_nsec = ms * 1000000}, NULL);
}

/* Waits for three heartbeats. Only a heartbeat makes the silence shorter. */
static bool heart_beats(sched_thread *thread) {
    uint64_t until = clock_ns() + patience_ns, before = 0;
    for (int beats = 0; beats < 3;) {
        uint64_t silent = sched_thread_silence_ns(thread);
        beats += silent < before;
        before = silent;
        if (clock_ns() > until) return false;
        nap_ms(1);
    }
    return true;
}

static bool comes_to_rest(sched_thread *thread, sched_stats *stats) {
    for (uint64_t until = clock_ns() + patience_ns; clock_ns() < until; nap_ms(1)) {
        sched_thread_stats(thread, stats);
        uint64_t over = stats->finished[SCHED_LENGTH] + stats->finished[SCHED_CANCELLED];
        if (!stats->running && !stats->waiting && over == REQUESTS) return true;
    }
    return false;
}

/* Whether the snapshot has the last launches, and none after them. */
static bool holds_launches(const sched_thread *thread, uint64_t last) {
    uint64_t oldest = last > SCHED_LAUNCHES ? last - SCHED_LAUNCHES + 1 : 1;
    sched_launch launch;
    for (uint64_t id = oldest; id <= last; id++) {
        uint32_t rows = 0;
        if (!sched_thread_launch(thread, id, &launch) || launch.id != id) return false;
        for (uint32_t i = 0; i < launch.n_loops; i++)
            rows += launch.rows[i];
        if (rows < launch.n_prompt) return false;
    }
    return !sched_thread_launch(thread, last + 1, &launch);
}

/* The loop: keeps OPEN requests going, cancels one in five, now and then forgets to poll. */
static int traffic(uint32_t max_flights, uint32_t drafts) {
    fake_opts opts;
    fake_opts_default(&opts);
    opts.max_flights = max_flights;
    opts.agreement = 80;
    opts.n_slots = 1 << 13; /* small: preemptions too */
    sched_opts limits;
    sched_opts_default(&limits);
    limits.max_running = 16;
    limits.drafts = drafts;
    limits.draft_loops = drafts > 0;
    limits.max_queue = 24; /* fewer than OPEN: some are refused */
    sched_thread *thread;
    err e = {0};
    if (sched_thread_start(&thread, backend(&opts), &limits, on_notify, NULL, &e) != 0)
        return die(e.msg);
    static open_stream open[OPEN];
    memset(open, 0, sizeof open);
    uint32_t sent = 0, ended = 0, busy = 0, cancelled = 0;
    sched_stats *stats = malloc(sizeof *stats);
    while (ended < REQUESTS) {
        for (int i = 0; i < OPEN && sent < REQUESTS; i++) {
            if (open[i].id) continue;
            int rc = submit_one(thread, &open[i]);
            if (rc < 0) return die("refused for no reason");
            if (rc > 0) {
                busy++;
                break;
            }
            sent++;
            if (pick(5) == 0) {
                open[i].cancelled = true;
                cancelled++;
                sched_thread_cancel(thread, open[i].id);
                sched_thread_cancel(thread, open[i].id);
            }
        }
        sched_event ev;
        while (sched_thread_poll(thread, &ev)) {
            open_stream *stream = find(open, ev.id);
            if (stream == NULL) return die("an event of an unknown stream");
            if (ev.kind == SCHED_TOKEN && stream->constrained &&
                ev.token != stream->tokens * 7 % 64)
                return die("a token that its mask does not allow");
            if (ev.kind == SCHED_TOKEN) stream->tokens++;
            if (ev.kind != SCHED_END) continue;
            stream->form.over = true;
            if (ev.n_output != stream->tokens) return die("tokens got lost");
            if (!stream->cancelled && (ev.finish != SCHED_LENGTH || stream->tokens != stream->want))
                return die("a wrong end");
            stream->id = 0;
            ended++;
        }
        sched_thread_stats(thread, stats);
        if (sched_thread_failed(thread)) return die("failed");
        if (!holds_launches(thread, stats->launches[ENG_STAGE_RECURRENT]))
            return die("the last launches are not as they were");
        if (pick(200) == 0) nap_ms(20);
    }
    sched_thread_cancel(thread, 12345);
    if (!comes_to_rest(thread, stats)) return die("the statistics do not end at rest");
    if (stats->pages_free + stats->pages_cached != stats->pages) return die("pages are missing");
    if (!heart_beats(thread)) return die("no heartbeat");
    if (drafts > 0 && (stats->drafts_accepted == 0 || stats->drafts_withdrawn == 0))
        return die("no draft was kept, or none withdrawn");
    if (drafts > 0 && stats->forced_drafts_accepted == 0)
        return die("no token that a constraint expects was drafted");
    printf(
        "%u requests, %u cancelled, %u times busy, %llu preemptions, %u rings, %llu drafts, %llu "
        "kept; of constraints %llu, %llu kept\n",
        ended, cancelled, busy, (unsigned long long)stats->preemptions, atomic_load(&rings),
        (unsigned long long)stats->draft_tokens, (unsigned long long)stats->drafts_accepted,
        (unsigned long long)stats->forced_drafts,
        (unsigned long long)stats->forced_drafts_accepted);
    free(stats);
    sched_thread_stop(thread);
    return 0;
}

/* Without a reader the event queue fills, and the engine sleeps but stays alive. Then all events
 * arrive. */
static int slow_loop(void) {
    fake_opts opts;
    fake_opts_default(&opts);
    sched_opts so;
    sched_opts_default(&so);
    sched_thread *thread;
    err e = {0};
    if (sched_thread_start(&thread, backend(&opts), &so, on_notify, NULL, &e) != 0)
        return die(e.msg);
    uint32_t prompt = 1, want = 0, got = 0, ends = 0;
    for (int i = 0; i < 8; i++) {
        sched_request req = {.prompt = &prompt, .n_prompt = 1, .max_tokens = 1000};
        req.sampling = (eng_sampling){.top_p = 1, .repetition_penalty = 1};
        uint64_t id;
        if (sched_thread_submit(thread, &req, &id, &e) != 0) return die(e.msg);
        want += 1000;
    }
    nap_ms(900); /* long enough to fill the queue */
    if (!heart_beats(thread)) return die("silent while its events wait");
    for (uint64_t until = clock_ns() + patience_ns; ends < 8 && clock_ns() < until;) {
        sched_event ev;
        while (sched_thread_poll(thread, &ev)) {
            got += ev.kind == SCHED_TOKEN;
            ends += ev.kind == SCHED_END;
        }
    }
    sched_thread_stop(thread);
    return got == want && ends == 8 ? 0 : die("events got lost in the full queue");
}

static int device_failure(void) {
    fake_opts opts;
    fake_opts_default(&opts);
    opts.fail_at = 20;
    opts.max_flights = 2;
    sched_opts so;
    sched_opts_default(&so);
    sched_thread *thread;
    err e = {0};
    if (sched_thread_start(&thread, backend(&opts), &so, on_notify, NULL, &e) != 0)
        return die(e.msg);
    static open_stream open[OPEN];
    uint32_t sent = 0, failed = 0;
    for (int i = 0; i < 10; i++)
        sent += submit_one(thread, &open[i]) == 0;
    for (uint64_t until = clock_ns() + patience_ns; failed < sent && clock_ns() < until;) {
        sched_event ev;
        while (sched_thread_poll(thread, &ev)) {
            if (ev.kind == SCHED_END && ev.finish == SCHED_FAILED && ev.why == ERR_DEVICE) failed++;
            else if (ev.kind == SCHED_END) sent--;
        }
    }
    bool told = sched_thread_failed(thread);
    if (submit_one(thread, &open[0]) != -1) told = false;
    sched_thread_stop(thread);
    return failed == sent && told ? 0 : die("a failed device was not told to all");
}

static int stop_anywhere(void) {
    for (int round = 0; round < 60; round++) {
        fake_opts opts;
        fake_opts_default(&opts);
        opts.max_flights = 1 + (uint32_t)round % 2;
        opts.agreement = 80;
        sched_opts so;
        sched_opts_default(&so);
        so.drafts = (uint32_t)round % 3 * 4;
        sched_thread *thread;
        err e = {0};
        if (sched_thread_start(&thread, backend(&opts), &so, on_notify, NULL, &e) != 0)
            return die(e.msg);
        static open_stream open[OPEN];
        for (uint32_t i = 0; i < pick(OPEN); i++) {
            if (submit_one(thread, &open[i]) == 0 && pick(3) == 0)
                sched_thread_cancel(thread, open[i].id);
        }
        nanosleep(&(struct timespec){0, (long)pick(2000000)}, NULL);
        sched_event ev;
        for (uint32_t i = pick(10); i > 0 && sched_thread_poll(thread, &ev); i--) {
        }
        sched_thread_stop(thread);
    }
    return 0;
}

int main(void) {
    log_set_level(LOG_ALERT);
    return traffic(1, 0) || traffic(2, 0) || traffic(1, 4) || traffic(2, 8) || slow_loop() ||
           device_failure() || stop_anywhere();
}
