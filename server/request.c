/* request.c - the life of a request: one table of states and events.
 *
 * The usual way is HEAD, BODY, WHOLE, HANDLED, PARSING, HANDLED, WAITING, STREAMING, ENDING,
 * ANSWERED, DONE. Short requests leave out PARSING and WAITING. REFUSED stands in for BODY, and
 * BREAKING for ENDING, where a request goes wrong. From each state a request may be CUT. */
#include "base/clock.h"
#include "server/server_internal.h"

#include <string.h>
#include <sys/socket.h>

#define NAME(name, text) text,
static const char *const state_names[] = {REQ_STATES(NAME)};
static const char *const event_names[] = {REQ_EVENTS(NAME)};
#undef NAME

/* ---- actions; the request is already in its next state ---- */

static void nothing(srv_req *req) {
    (void)req;
}

/* Ends the work of a request. */
static void withdraw(srv_req *req) {
    if (req->work) srv_parse_forget(req);
    if (req->job) srv_engine_drop(req);
}

static void wake(srv_req *req) {
    srv_req_wake(req);
}

/* Ends the connection without the end mark of an answer. The kernel forgets bytes that were not
 * read: megabytes of them could otherwise stay in memory after the connection was closed. */
static void cut(srv_req *req) {
    static const struct linger hard = {.l_onoff = 1, .l_linger = 0};
    withdraw(req);
    if (!req->conn->cut) (void)setsockopt(req->conn->fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    srv_conn_cut(req->conn);
    srv_hold_leave(&req->held_answer);
    srv_req_wake(req);
}

/* A bug ends its request and nothing else. */
static void end_by_bug(srv_req *req, req_event event) {
    log_line(LOG_ALERT, "bug: event '%s' in state '%s'; request %s is ended", event_names[event],
             state_names[req->state], req->id[0] ? req->id : "-");
    withdraw(req);
    if (event == REQ_EV_END || req->state == REQ_DONE) {
        req->state = REQ_DONE;
        return;
    }
    req->state = REQ_CUT;
    if (req->conn) cut(req);
}

static void run_handler(srv_req *req) {
    srv_deadline(req->conn, 0);
    srv_route_run(req);
    if (req->state == REQ_HANDLED) end_by_bug(req, REQ_EV_BODY_END); /* without an answer */
}

static void answer_refusal(srv_req *req) {
    srv_deadline(req->conn, 0);
    srv_answer_refusal(req);
}

static void withdraw_and_refuse(srv_req *req) {
    withdraw(req);
    srv_answer_refusal(req);
}

static void drop_body(srv_req *req) {
    buf_deinit(&req->body);
    srv_hold_set(&req->held_body, 0);
}

static void wait_suspended(srv_req *req) {
    req->last_out_ns = clock_ns();
    if (!req->suspended) srv_req_suspend(req);
    srv_watch(req);
}

static void start_stream(srv_req *req) {
    srv_answer_stream(req);
}

/* The HTTP library still has to send its last bytes. */
static void await_reader(srv_req *req) {
    srv_deadline(req->conn, req->server->opts.stall_s);
}

static void leave(srv_req *req) {
    req->outcome.client_left = true;
    req->server->counts.cancelled_by_client++;
    cut(req);
}

static void stop_stream(srv_req *req) {
    err e = {0};
    (void)err_set(&e, ERR_STOPPING, NULL, "%s", req->server->stop_why);
    if (req->job) { /* the reply writes the error event of its dialect */
        (void)api_reply_fail(req->job->reply, &e, &req->out);
        srv_engine_drop(req);
    }
    srv_out_changed(req);
    srv_req_wake(req);
}

static void stop_waiting(srv_req *req) {
    req->refusal.status = 503;
    req->refusal.message = req->server->stop_why;
    req->refusal.code = "shutting_down";
    withdraw_and_refuse(req);
}

static void release(srv_req *req) {
    if (req->job) req->server->counts.cancelled_by_client++;
    withdraw(req);
}

/* ---- the table ---- */

typedef struct {
    req_state next;
    void (*act)(srv_req *req); /* NULL: the event is impossible in this state */
} transition;

#define ROW(state) [REQ_##state]
#define ON(event, next, act) [REQ_EV_##event] = {REQ_##next, act}
static const transition table[REQ_N_STATES][REQ_N_EVENTS] = {
    ROW(HEAD) = {ON(ACCEPT, BODY, nothing), ON(REFUSE, HANDLED, answer_refusal),
                 ON(ANSWER, ANSWERED, nothing), ON(STOP, HEAD, nothing), ON(SHUT, CUT, cut),
                 ON(END, DONE, nothing)},
    ROW(BODY) = {ON(REFUSE, REFUSED, drop_body), ON(BODY_END, HANDLED, run_handler),
                 ON(WHOLE, WHOLE, nothing), ON(ANSWER, ANSWERED, drop_body), /* early */
                 ON(HALF_CLOSE, CUT, leave), /* the rest of the body cannot come */
                 ON(HANG_UP, CUT, leave), ON(STOP, BODY, nothing), ON(SHUT, CUT, cut),
                 ON(END, DONE, nothing)},
    ROW(REFUSED) = {ON(REFUSE, REFUSED, nothing), ON(BODY_END, HANDLED, answer_refusal),
                    ON(ANSWER, ANSWERED, nothing), /* early */
                    ON(HALF_CLOSE, CUT, leave), ON(HANG_UP, CUT, leave), ON(STOP, REFUSED, nothing),
                    ON(SHUT, CUT, cut), ON(END, DONE, nothing)},
    ROW(WHOLE) = {ON(REFUSE, HANDLED, answer_refusal), ON(BODY_END, HANDLED, run_handler),
                  ON(HALF_CLOSE, WHOLE, srv_half_closed), ON(HANG_UP, CUT, leave),
                  ON(STOP, WHOLE, nothing), ON(SHUT, CUT, cut), ON(END, DONE, nothing)},
    ROW(HANDLED) = {ON(REFUSE, HANDLED, answer_refusal), ON(PARSE, PARSING, wait_suspended),
                    ON(SUBMIT, WAITING, wait_suspended), ON(ANSWER, ANSWERED, nothing),
                    ON(STREAM, STREAMING, nothing), ON(SHUT, CUT, cut)},
    ROW(PARSING) = {ON(REFUSE, HANDLED, withdraw_and_refuse), ON(PARSED, HANDLED, nothing),
                    ON(HALF_CLOSE, PARSING, srv_half_closed), ON(HANG_UP, CUT, leave),
                    ON(STOP, HANDLED, stop_waiting), ON(SHUT, CUT, cut), ON(END, DONE, release)},
    ROW(WAITING) = {ON(REFUSE, HANDLED, withdraw_and_refuse), ON(ANSWER, ANSWERED, nothing),
                    ON(STREAM, STREAMING, nothing), ON(OUTPUT, STREAMING, start_stream),
                    ON(COMPLETE, ENDING, start_stream), ON(HALF_CLOSE, WAITING, srv_half_closed),
                    ON(HANG_UP, CUT, leave), ON(STOP, HANDLED, stop_waiting), ON(SHUT, CUT, cut),
                    ON(END, DONE, release)},
    ROW(STREAMING) = {ON(REFUSE, CUT, cut), ON(OUTPUT, STREAMING, wake), ON(COMPLETE, ENDING, wake),
                      ON(FAIL, BREAKING, wake), ON(HALF_CLOSE, STREAMING, srv_half_closed),
                      ON(HANG_UP, CUT, leave), ON(STOP, BREAKING, stop_stream), ON(SHUT, CUT, cut),
                      ON(END, DONE, release)},
    ROW(ENDING) = {ON(REFUSE, CUT, cut), ON(SENT, ANSWERED, await_reader),
                   ON(HALF_CLOSE, ENDING, nothing), ON(HANG_UP, CUT, leave),
                   ON(STOP, ENDING, nothing), ON(SHUT, CUT, cut), ON(END, DONE, nothing)},
    ROW(BREAKING) = {ON(REFUSE, CUT, cut), ON(SENT, CUT, nothing),
                     ON(HALF_CLOSE, BREAKING, nothing), ON(HANG_UP, CUT, leave),
                     ON(STOP, BREAKING, nothing), ON(SHUT, CUT, cut), ON(END, DONE, nothing)},
    ROW(ANSWERED) = {ON(REFUSE, CUT, cut), ON(HALF_CLOSE, ANSWERED, nothing),
                     ON(HANG_UP, CUT, leave), ON(STOP, ANSWERED, nothing), ON(SHUT, CUT, cut),
                     ON(END, DONE, nothing)},
    ROW(CUT) = {ON(REFUSE, CUT, nothing), ON(HALF_CLOSE, CUT, nothing), ON(HANG_UP, CUT, nothing),
                ON(STOP, CUT, nothing), ON(SHUT, CUT, nothing), ON(END, DONE, nothing)},
};
#undef ROW
#undef ON

const char *srv_state_name(req_state state) {
    return state_names[state];
}

bool srv_transition(req_state state, req_event event, req_state *next) {
    const transition *row = &table[state][event];
    *next = row->next;
    return row->act != NULL;
}

bool srv_step(srv_req *req, req_event event) {
    const transition *row = &table[req->state][event];
    if (row->act == NULL) {
        end_by_bug(req, event);
        return false;
    }
    req->state = row->next;
    row->act(req);
    return true;
}

void srv_refuse(srv_req *req, unsigned status, const char *message, const char *code) {
    if (req->refusal.status == 0) {
        req->refusal.status = status;
        req->refusal.message = message;
        req->refusal.code = code;
    }
    (void)srv_step(req, REQ_EV_REFUSE);
}

/* ---- the head ---- */

/* The library may have no memory left for the head of an answer. */
static bool refuse_early(srv_req *req, unsigned status, const char *why) {
    (void)srv_answer_early(req->conn, status, why, NULL);
    return false;
}

bool srv_req_head(srv_req *req, const srv_head *head) {
    const srv_framing *framing = &head->framing;
    const char *why = NULL, *id = srv_req_header(req, "X-Request-Id");
    srv_conn_busy(req->conn);
    if (id && framing->request_id == 1 && srv_screen_id(id)) memcpy(req->id, id, strlen(id) + 1);
    req->conn->takes_interim = strcmp(head->version, "HTTP/1.1") == 0;
    unsigned bad = srv_screen_verdict(framing, head->method, head->version, &why);
    if (bad == 431) return refuse_early(req, bad, why);
    req->close = req->conn->early = true;
    if (bad || req->refusal.status) { /* of the target */
        srv_refuse(req, bad, why, NULL);
        return true;
    }
    srv_body_begin(req, framing);
    /* A body after "Expect" comes only after "100 Continue"; an announced length may be too large
     * even to be dropped. */
    bool body = framing->length || framing->coding;
    bool follows = body && !framing->expect && framing->n_body <= SRV_DISCARD;
    req->close = req->conn->early = body && !follows;
    if (follows) (void)srv_step(req, REQ_EV_ACCEPT);
    srv_gate(req, head);
    srv_req_account(req);
    bool open = req->state == REQ_HEAD || req->state == REQ_BODY;
    if (open && framing->big) srv_body_too_large(req);
    if (req->state != REQ_HEAD) return true;
    req->close = req->conn->early = false;
    (void)srv_step(req, REQ_EV_ACCEPT);
    return true;
}
