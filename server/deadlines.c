/* deadlines.c - absolute deadlines, once a second.
 *
 * Inactivity timers do not stop a byte-a-second client, and libmicrohttpd's own timers do
 * not see connections that never become a request. So every connection carries one absolute
 * deadline, and here the late are shut down. The same tick looks after silent streams,
 * stalled readers, requests that waited too long, and the engine's pulse.
 *
 * While the process stands still (SIGSTOP, a freezer, a snapshot of its machine) nobody is late:
 * when a tick comes much later than due, all these times move by as much. */
#include "base/clock.h"
#include "server/server_internal.h"

#include <string.h>

#define WATCH_AFTER_NS UINT64_C(500000000)

static const char ping[] = ": keep-alive\n\n";

void srv_deadline(srv_conn *c, double seconds) {
    srv_forgive_pause(c->s); /* else a pause that ended just now would lengthen this one */
    c->deadline_ns = seconds > 0 ? clock_ns() + (uint64_t)(seconds * 1e9) : 0;
}

static void sweep_conns(srv *s, uint64_t now) {
    for (list_link *l = s->conns.next; l != &s->conns; l = l->next) {
        srv_conn *c = OWNER_OF(l, srv_conn, link);
        if (c->deadline_ns == 0 || c->deadline_ns > now || c->cut) continue;
        s->counts.deadline_cut++;
        srv_conn_cut(c);
    }
}

static void sweep_stream(srv_req *r, uint64_t now) {
    srv *s = r->s;
    uint64_t silent = now > r->last_out_ns ? now - r->last_out_ns : 0;
    if (r->out.len > r->out_at || r->more) {
        if (silent < (uint64_t)(s->o.stall_s * 1e9)) return;
        s->counts.slow_cut++;
        srv_cut(r);
        srv_req_wake(r);
        return;
    }
    if (r->finished || s->o.ping_s <= 0 || silent < (uint64_t)(s->o.ping_s * 1e9)) return;
    buf_append(&r->out, ping, sizeof ping - 1);
    srv_out_changed(r);
    srv_req_wake(r);
}

static void sweep_waiting(srv_req *r, uint64_t now) {
    srv *s = r->s;
    if (s->o.max_wait_s <= 0 || r->tally.first_token_ns) return;
    if (now - r->start_ns - r->paused_ns < (uint64_t)(s->o.max_wait_s * 1e9)) return;
    r->tally.finish = "timeout";
    if (r->gen) srv_engine_drop(r);
    if (r->work) srv_parse_forget(r);
    srv_answer_http(r, 503, "the request waited for its first token longer than this server allows",
                    "overloaded");
}

static uint64_t later(uint64_t then, uint64_t by, uint64_t now) {
    return now - then > by ? then + by : now;
}

void srv_forgive_pause(srv *s) {
    uint64_t now = clock_ns(), pause = srv_pulse_overslept(&s->pulse, now);
    if (pause == 0) return;
    for (list_link *l = s->conns.next; l != &s->conns; l = l->next) {
        srv_conn *c = OWNER_OF(l, srv_conn, link);
        if (c->deadline_ns) c->deadline_ns += pause;
    }
    for (list_link *l = s->reqs.next; l != &s->reqs; l = l->next) {
        srv_req *r = OWNER_OF(l, srv_req, link);
        r->paused_ns = later(r->start_ns + r->paused_ns, pause, now) - r->start_ns;
        r->last_out_ns = later(r->last_out_ns, pause, now);
        r->body_start_ns = later(r->body_start_ns, pause, now);
    }
    if (s->draining) s->drain_until_ns += pause;
    log_line(LOG_WARN, "the process stood still for %.1f s; all deadlines move by the same time",
             (double)pause * 1e-9);
}

/* Silence is looked for only while there is an engine; every tick tells the pulse that it came. */
static void feel_pulse(srv *s, uint64_t now) {
    uint64_t beat = now, usual = 0;
    if (s->engine) sched_thread_pulse(s->engine, &beat, &usual);
    s->engine_dead = srv_pulse_tick(&s->pulse, now, beat, usual, (uint64_t)(s->o.hang_s * 1e9));
    if (!s->engine_dead || s->stopping) return;
    log_line(LOG_ALERT, "the engine has been silent for %llu ms; a usual step takes %llu ms",
             (unsigned long long)(s->pulse.silent_ns / 1000000),
             (unsigned long long)(usual / 1000000));
    srv_stop(s, EXIT_FAILED,
             "the engine does not answer; the server is ending and must be started again");
}

static void on_tick(uv_timer_t *t) {
    srv *s = t->data;
    srv_turn turn = srv_turn_begin(s);
    srv_forgive_pause(s);
    uint64_t now = clock_ns();
    srv_watchdog_beat(s->watchdog);
    sweep_conns(s, now);
    for (list_link *l = s->reqs.next, *next; l != &s->reqs; l = next) {
        next = l->next;
        srv_req *r = OWNER_OF(l, srv_req, link);
        if (r->gone) continue;
        if (r->state == REQ_STREAMING) sweep_stream(r, now);
        if (r->state == REQ_WAITING || r->state == REQ_PARSING) sweep_waiting(r, now);
        /* A body that takes its time may belong to a peer that has left. */
        if (r->state == REQ_READING && r->body_seen && now - r->body_start_ns > WATCH_AFTER_NS)
            srv_watch(r);
    }
    (void)srv_make_room(s, NULL);
    srv_engine_turn(s); /* no wake of the engine is relied upon for longer than a tick */
    srv_mhd_tick(s);
    srv_look_at_model(s);
    feel_pulse(s, now);
    srv_turn_end(s, turn);
}

srv_turn srv_turn_begin(srv *s) {
    return s->turn_depth++ == 0 ? clock_ns() : 0;
}

void srv_turn_end(srv *s, srv_turn began) {
    s->turn_depth--;
    if (began == 0) return;
    uint64_t took = clock_ns() - began;
    if (took > s->counts.loop_turn_max_ns) s->counts.loop_turn_max_ns = took;
}

int srv_sweep_open(srv *s, err *e) {
    s->sweep.data = s;
    s->pulse.due_ns = clock_ns() + SRV_TICK_MS * UINT64_C(1000000);
    if (uv_timer_init(&s->loop, &s->sweep) == 0 &&
        uv_timer_start(&s->sweep, on_tick, SRV_TICK_MS, SRV_TICK_MS) == 0) {
        return 0;
    }
    return err_set(e, ERR_IO, NULL, "the timer of the deadlines did not start");
}
