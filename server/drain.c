/* drain.c - signals and the orderly end.
 *
 * From the first SIGTERM or SIGINT on the server is not ready, and each answer ends its connection.
 * Two phases follow:
 *
 *   lame duck  for --lame-duck-seconds: new work is served as before, so that a balancer which has
 *              not asked /ready yet loses nothing.
 *   drain      new work gets 503. Running work goes on for up to --drain-seconds and then gets an
 *              error event.
 *
 * The server listens until the drain is over: probes and scrapers see it to the end. A second
 * signal ends the process at once. SIGHUP does nothing: the log goes to stderr, and its file
 * belongs to the supervisor. SIGUSR1 writes the state to the log, SIGUSR2 the stack of the loop
 * (watchdog.c). */
#include "base/clock.h"
#include "server/server_internal.h"

#include <signal.h>
#include <unistd.h>

enum {
    FLUSH_TICK_MS = 20,
    FLUSH_TICKS = 50, /* one second to send the last bytes */
    GRACE_TICKS = 5,  /* for requests that are on their way over open connections */
};

/* Whether the drain must go on for this request. Probes and refused requests do not count: while
 * the server listens there is always a next one. */
static bool is_work(const srv_req *req) {
    return req->route && (req->route->flags & ROUTE_WORK) && req->refusal.status == 0;
}

static bool has_work(const srv *server) {
    for (list_link *node = server->reqs.next; node != &server->reqs; node = node->next) {
        if (is_work(OWNER_OF(node, srv_req, reqs_link))) return true;
    }
    return server->n_parsing > 0;
}

static bool owes_answers(const srv *server) {
    for (list_link *node = server->reqs.next; node != &server->reqs; node = node->next) {
        if (OWNER_OF(node, srv_req, reqs_link)->state >= REQ_REFUSED) return true;
    }
    return server->n_parsing > 0;
}

static void on_flush(uv_timer_t *timer) {
    srv *server = timer->data;
    srv_mhd_pump(server);
    unsigned ticks = ++server->flush_ticks;
    if (server->n_conns > 0 && ticks < GRACE_TICKS) return;
    if (owes_answers(server) && ticks < FLUSH_TICKS) return;
    uv_timer_stop(timer);
    uv_stop(&server->loop);
}

static void stop(srv *server, int exit_status, const char *why) {
    server->stopping = true;
    server->stop_why = why;
    srv_notify_stopping(server, why);
    server->exit_status = exit_status;
    server->leaving = server->draining = true;
    srv_mhd_quiesce(server);
    for (list_link *node = server->reqs.next, *next; node != &server->reqs; node = next) {
        next = node->next;
        srv_req *req = OWNER_OF(node, srv_req, reqs_link);
        (void)srv_step(req, REQ_EV_STOP);
    }
    uv_timer_start(&server->drain_timer, on_flush, 0, FLUSH_TICK_MS);
}

void srv_stop_for(srv *server, const err *cause, const char *why) {
    if (server->stopping) return;
    log_line(LOG_ALERT, "%s: %s", why, cause->msg[0] ? cause->msg : err_text(cause->code));
    stop(server, opt_exit_status(cause), why);
}

void srv_stop(srv *server, int exit_status, const char *why) {
    if (server->stopping) return;
    if (exit_status) log_line(LOG_ALERT, "%s", why);
    stop(server, exit_status, why);
}

void srv_drain_check(srv *server) {
    if (server->draining && !server->stopping && !has_work(server))
        srv_stop(server, server->exit_status, "the server is shutting down");
}

/* ---- lame duck and drain ---- */

static void start_phase(srv *server, double seconds);

static void begin_drain(srv *server) {
    server->draining = true;
    log_line(LOG_INFO, "draining: %u requests, up to %.0f s", server->n_reqs, server->opts.drain_s);
    srv_notify_stopping(server, "draining");
    start_phase(server, server->opts.drain_s);
    srv_mhd_pump(server); /* ends the drain if there is no work */
}

static void on_phase_over(uv_timer_t *timer) {
    srv *server = timer->data;
    srv_forgive_pause(server);
    uint64_t now = clock_ns();
    if (now < server->phase_until_ns) {
        uv_timer_start(timer, on_phase_over, (server->phase_until_ns - now) / 1000000 + 1, 0);
    } else if (!server->draining) {
        begin_drain(server);
    } else {
        srv_stop(server, 0, "the server is shutting down");
    }
}

static void start_phase(srv *server, double seconds) {
    uint64_t ms = (uint64_t)(seconds * 1e3);
    server->phase_until_ns = clock_ns() + ms * 1000000;
    uv_timer_start(&server->drain_timer, on_phase_over, ms ? ms : 1, 0);
}

static void leave(srv *server, int signum) {
    if (server->leaving || !server->loaded) {
        /* At a second signal, or while the model loads, there is no work worth waiting for. */
        log_line(LOG_INFO, "stopped at once by signal %d", signum);
        _exit(server->leaving ? 128 + signum : 0);
    }
    srv_forgive_pause(server);
    server->leaving = true;
    if (server->opts.lame_duck_s <= 0) {
        log_line(LOG_INFO, "signal %d: not ready any more", signum);
        begin_drain(server);
        return;
    }
    log_line(LOG_INFO, "signal %d: not ready any more, but serving on for %.0f s", signum,
             server->opts.lame_duck_s);
    srv_notify_stopping(server, "lame duck");
    start_phase(server, server->opts.lame_duck_s);
}

static void dump(srv *server) {
    sched_stats st = {0};
    if (server->engine) sched_thread_stats(server->engine, &st);
    log_line(
        LOG_INFO,
        "state: connections %u, requests %u, parsing %u, sequences %u (running %u, waiting "
        "%u), pages %llu free of %llu, bytes in answers %zu, loaded %d, leaving %d, draining %d, "
        "engine silent for %llu ms",
        server->n_conns, server->n_reqs, server->n_parsing, server->n_sequences, st.running,
        st.waiting, (unsigned long long)st.pages_free, (unsigned long long)st.pages,
        srv_ledger_held(server->ledger, SRV_HELD_ANSWER), server->loaded, server->leaving,
        server->draining,
        (unsigned long long)(server->engine ? sched_thread_silence_ns(server->engine) / 1000000
                                            : 0));
    unsigned shown = 0;
    for (list_link *node = server->reqs.next; node != &server->reqs && shown < 20;
         node = node->next, shown++) {
        const srv_req *req = OWNER_OF(node, srv_req, reqs_link);
        log_line(LOG_INFO, "  request %s %s age %llu ms output %llu waiting %zu",
                 req->id[0] ? req->id : "-", srv_state_name(req->state),
                 (unsigned long long)((clock_ns() - req->start_ns) / 1000000),
                 (unsigned long long)req->outcome.output, req->out.len - req->out_at);
    }
}

static void on_signal(uv_signal_t *handle, int signum) {
    srv *server = handle->data;
    if (signum == SIGUSR1) dump(server);
    else leave(server, signum);
}

int srv_signals_open(srv *server, err *e) {
    static const int wanted[] = {SIGTERM, SIGINT, SIGUSR1};
    signal(SIGPIPE, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    server->drain_timer.data = server;
    if (uv_timer_init(&server->loop, &server->drain_timer) != 0) goto fail;
    for (size_t i = 0; i < ARRAY_LEN(wanted); i++) {
        uv_signal_t *handle = &server->signals[server->n_signals];
        if (uv_signal_init(&server->loop, handle) != 0) goto fail;
        server->n_signals++;
        handle->data = server;
        if (uv_signal_start(handle, on_signal, wanted[i]) != 0) goto fail;
    }
    return 0;
fail:
    return err_set(e, ERR_IO, NULL, "cannot wait for signals");
}
