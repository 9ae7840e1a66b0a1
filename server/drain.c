/* drain.c - signals and the orderly end.
 *
 * The first SIGTERM or SIGINT: not ready, no new connections, new work 503, running work
 * goes on up to --drain-seconds, then gets an error event. A second one ends at once.
 * SIGHUP does nothing (the log goes to stderr, whose file belongs to the supervisor);
 * SIGUSR1 writes the state to the log, SIGUSR2 the stack of the loop (watchdog.c). */
#include "base/clock.h"
#include "server/server_internal.h"

#include <signal.h>
#include <unistd.h>

enum { FLUSH_TICK_MS = 20, FLUSH_TICKS = 50 }; /* a second for last bytes to leave */

static bool busy(const srv *s) {
    for (list_link *l = s->reqs.next; l != &s->reqs; l = l->next) {
        if (OWNER_OF(l, srv_req, link)->state != REQ_READING) return true;
    }
    return s->n_parsing > 0;
}

static void on_flush(uv_timer_t *t) {
    srv *s = t->data;
    srv_mhd_pump(s);
    if (busy(s) && ++s->flush_ticks < FLUSH_TICKS) return;
    uv_timer_stop(t);
    uv_stop(&s->loop);
}

static void end_stream(srv_req *r, const char *why) {
    if (r->finished || r->gone) return;
    err e = {0};
    (void)err_set(&e, ERR_STOPPING, NULL, "%s", why);
    if (r->gen) { /* the reply knows how its kind of stream tells an error */
        if (!r->more) (void)api_reply_fail(r->gen->reply, &e, &r->out); /* between two events */
        srv_engine_drop(r);
    }
    srv_out_changed(r);
    r->cut = true;
    srv_req_wake(r);
}

void srv_stop(srv *s, int exit_status, const char *why) {
    if (s->stopping) return;
    s->stopping = true;
    s->exit_status = exit_status;
    if (exit_status) log_line(LOG_ALERT, "%s", why);
    if (!s->draining) {
        s->draining = true;
        srv_mhd_quiesce(s);
    }
    for (list_link *l = s->reqs.next, *next; l != &s->reqs; l = next) {
        next = l->next;
        srv_req *r = OWNER_OF(l, srv_req, link);
        if (r->state == REQ_STREAMING) end_stream(r, why);
        if (r->state != REQ_WAITING && r->state != REQ_PARSING) continue;
        if (r->work) srv_parse_forget(r);
        if (r->gen) srv_engine_drop(r);
        srv_answer_http(r, 503, why, "shutting_down");
    }
    uv_timer_start(&s->drain_timer, on_flush, 0, FLUSH_TICK_MS);
}

void srv_drain_check(srv *s) {
    if (s->draining && !s->stopping && !busy(s))
        srv_stop(s, s->exit_status, "the server is shutting down");
}

static void on_drained(uv_timer_t *t) {
    srv *s = t->data;
    srv_forgive_pause(s);
    uint64_t now = clock_ns();
    if (now < s->drain_until_ns) {
        uv_timer_start(t, on_drained, (s->drain_until_ns - now) / 1000000 + 1, 0);
        return;
    }
    srv_stop(s, 0, "the server is shutting down");
}

static void begin_drain(srv *s, int signum) {
    if (s->draining || !s->loaded) {
        /* A second signal, or a load that cannot be interrupted: nothing is owed to anybody. */
        log_line(LOG_INFO, "stopped at once by signal %d", signum);
        _exit(s->draining ? 128 + signum : 0);
    }
    srv_forgive_pause(s);
    s->draining = true;
    log_line(LOG_INFO, "draining: %u requests, up to %.0f s (signal %d)", s->n_reqs, s->o.drain_s,
             signum);
    srv_mhd_quiesce(s);
    uint64_t ms = (uint64_t)(s->o.drain_s * 1e3);
    s->drain_until_ns = clock_ns() + ms * 1000000;
    uv_timer_start(&s->drain_timer, on_drained, ms ? ms : 1, 0);
    srv_mhd_pump(s);
}

static void dump(srv *s) {
    sched_stats st = {0};
    if (s->engine) sched_thread_stats(s->engine, &st);
    log_line(LOG_INFO,
             "state: connections %u, requests %u, parsing %u, sequences %u (running %u, waiting "
             "%u), pages %u free of %u, bytes in answers %zu, loaded %d, draining %d, engine "
             "silent for %llu ms",
             s->n_conns, s->n_reqs, s->n_parsing, s->n_sequences, st.running, st.waiting,
             st.pages_free, st.pages, srv_ledger_held(s->ledger, SRV_HELD_ANSWER), s->loaded,
             s->draining,
             (unsigned long long)(s->engine ? sched_thread_silence_ns(s->engine) / 1000000 : 0));
    unsigned shown = 0;
    for (list_link *l = s->reqs.next; l != &s->reqs && shown < 20; l = l->next, shown++) {
        const srv_req *r = OWNER_OF(l, srv_req, link);
        log_line(LOG_INFO, "  request %s state %d age %llu ms output %llu waiting %zu",
                 r->id[0] ? r->id : "-", (int)r->state,
                 (unsigned long long)((clock_ns() - r->start_ns) / 1000000),
                 (unsigned long long)r->tally.output, r->out.len - r->out_at);
    }
}

static void on_signal(uv_signal_t *h, int signum) {
    srv *s = h->data;
    if (signum == SIGUSR1) dump(s);
    else begin_drain(s, signum);
}

int srv_signals_open(srv *s, err *e) {
    static const int wanted[] = {SIGTERM, SIGINT, SIGUSR1};
    signal(SIGPIPE, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    s->drain_timer.data = s;
    if (uv_timer_init(&s->loop, &s->drain_timer) != 0) goto fail;
    for (size_t i = 0; i < ARRAY_LEN(wanted); i++) {
        uv_signal_t *h = &s->signals[s->n_signals];
        if (uv_signal_init(&s->loop, h) != 0) goto fail;
        s->n_signals++;
        h->data = s;
        if (uv_signal_start(h, on_signal, wanted[i]) != 0) goto fail;
    }
    return 0;
fail:
    return err_set(e, ERR_IO, NULL, "cannot wait for signals");
}
