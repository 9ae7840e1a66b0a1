/* deadlines.c - absolute deadlines, checked once a second.
 *
 * Inactivity timers do not stop a client that sends a byte a second, and libmicrohttpd's own timers
 * miss connections without a request. So every connection has one absolute deadline and is shut
 * down after it. The same tick handles silent streams, stalled readers, requests that waited too
 * long, and the engine's pulse.
 *
 * Time in which the whole process stands still (SIGSTOP, a freezer, a snapshot of its machine) does
 * not count: when a tick comes much later than due, all these times move by the delay. */
#include "base/clock.h"
#include "server/server_internal.h"

#include <string.h>

#define WATCH_AFTER_NS UINT64_C(500000000)

void srv_deadline(srv_conn *conn, double seconds) {
    srv_forgive_pause(
        conn->server); /* else a pause that has just ended would lengthen this deadline */
    conn->deadline_ns = seconds > 0 ? clock_ns() + (uint64_t)(seconds * 1e9) : 0;
}

static void sweep_conns(srv *server, uint64_t now) {
    for (list_link *node = server->conns.next; node != &server->conns; node = node->next) {
        srv_conn *conn = OWNER_OF(node, srv_conn, conns_link);
        if (conn->deadline_ns == 0 || conn->deadline_ns > now || conn->cut) continue;
        if (!conn->half_closed) server->counts.deadline_cut++;
        if (conn->req && (conn->req->state == REQ_BODY || conn->req->state == REQ_REFUSED))
            srv_body_late(conn->req);
        srv_conn_cut(conn);
    }
}

static void sweep_stream(srv_req *req, uint64_t now) {
    srv *server = req->server;
    uint64_t silent = now > req->last_out_ns ? now - req->last_out_ns : 0;
    /* The HTTP library may hold the last bytes of a complete answer, for a peer that reads nothing.
     */
    bool owed = req->out.len > req->out_at || req->more || req->state != REQ_STREAMING;
    if (owed) {
        if (silent < (uint64_t)(server->opts.stall_s * 1e9)) return;
        server->counts.slow_cut++;
        (void)srv_step(req, REQ_EV_SHUT);
        return;
    }
    if (server->opts.ping_s <= 0) return;
    if (silent >= (uint64_t)(server->opts.ping_s * 1e9)) srv_ping(req);
}

static void sweep_waiting(srv_req *req, uint64_t now) {
    srv *server = req->server;
    if (server->opts.max_wait_s <= 0 || req->outcome.first_token_ns) return;
    if (now - req->start_ns - req->paused_ns < (uint64_t)(server->opts.max_wait_s * 1e9)) return;
    req->outcome.finish = "timeout";
    srv_refuse(req, 503, "the request waited for its first token longer than this server allows",
               "overloaded");
}

static uint64_t later(uint64_t then, uint64_t by, uint64_t now) {
    return now - then > by ? then + by : now;
}

void srv_forgive_pause(srv *server) {
    uint64_t now = clock_ns(), pause = srv_pulse_overslept(&server->pulse, now);
    if (pause == 0) return;
    for (list_link *node = server->conns.next; node != &server->conns; node = node->next) {
        srv_conn *conn = OWNER_OF(node, srv_conn, conns_link);
        if (conn->deadline_ns) conn->deadline_ns += pause;
    }
    for (list_link *node = server->reqs.next; node != &server->reqs; node = node->next) {
        srv_req *req = OWNER_OF(node, srv_req, reqs_link);
        req->paused_ns = later(req->start_ns + req->paused_ns, pause, now) - req->start_ns;
        req->last_out_ns = later(req->last_out_ns, pause, now);
        req->body_start_ns = later(req->body_start_ns, pause, now);
    }
    if (server->leaving) server->phase_until_ns += pause;
    log_line(LOG_WARN, "the process stood still for %.1f s; all deadlines move by the same time",
             (double)pause * 1e-9);
}

/* Without an engine there is no silence to look for, but the pulse needs every tick. */
static void feel_pulse(srv *server, uint64_t now) {
    uint64_t beat = now, usual = 0;
    if (server->engine) sched_thread_pulse(server->engine, &beat, &usual);
    server->engine_dead =
        srv_pulse_tick(&server->pulse, now, beat, usual, (uint64_t)(server->opts.hang_s * 1e9));
    if (!server->engine_dead || server->stopping) return;
    log_line(LOG_ALERT, "the engine has been silent for %llu ms; a usual step takes %llu ms",
             (unsigned long long)(server->pulse.silent_ns / 1000000),
             (unsigned long long)(usual / 1000000));
    srv_stop(server, EXIT_FAILED,
             "the engine does not answer; the server is ending and must be started again");
}

static void on_tick(uv_timer_t *timer) {
    srv *server = timer->data;
    srv_turn turn = srv_turn_begin(server);
    srv_forgive_pause(server);
    uint64_t now = clock_ns();
    srv_watchdog_beat(server->watchdog);
    sweep_conns(server, now);
    for (list_link *node = server->reqs.next, *next; node != &server->reqs; node = next) {
        next = node->next;
        srv_req *req = OWNER_OF(node, srv_req, reqs_link);
        if (req->state >= REQ_STREAMING && req->state <= REQ_BREAKING) sweep_stream(req, now);
        if (req->state == REQ_WAITING || req->state == REQ_PARSING) sweep_waiting(req, now);
        /* The peer of a slow upload may have left. */
        if ((req->state == REQ_BODY || req->state == REQ_REFUSED) && req->body_seen &&
            now - req->body_start_ns > WATCH_AFTER_NS)
            srv_watch(req);
    }
    (void)srv_make_room(server, NULL);
    srv_engine_turn(server); /* in case a wake from the engine was lost */
    srv_mhd_tick(server);
    srv_lingers_tick(server);
    srv_look_at_model(server);
    feel_pulse(server, now);
    srv_notify_tick(server, now);
    srv_turn_end(server, turn);
}

srv_turn srv_turn_begin(srv *server) {
    return server->turn_depth++ == 0 ? clock_ns() : 0;
}

void srv_turn_end(srv *server, srv_turn began) {
    server->turn_depth--;
    if (began == 0) return;
    uint64_t took = clock_ns() - began;
    if (took > server->counts.loop_turn_max_ns) server->counts.loop_turn_max_ns = took;
}

int srv_sweep_open(srv *server, err *e) {
    server->sweep.data = server;
    server->pulse.due_ns = clock_ns() + SRV_TICK_MS * UINT64_C(1000000);
    server->probe_timer.data = server;
    if (uv_timer_init(&server->loop, &server->probe_timer) == 0 &&
        uv_timer_init(&server->loop, &server->sweep) == 0 &&
        uv_timer_start(&server->sweep, on_tick, SRV_TICK_MS, SRV_TICK_MS) == 0) {
        return 0;
    }
    return err_set(e, ERR_IO, NULL, "the timer of the deadlines did not start");
}
