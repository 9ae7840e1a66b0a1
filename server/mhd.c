/* mhd.c - the one file that knows libmicrohttpd.
 *
 * It runs without a thread of its own: libuv polls its epoll descriptor and srv_mhd_pump
 * runs it. Facts this file rests on (0.9.75, measured): a suspended connection leaves every
 * list, so nothing tells of its peer until it is resumed; an answer may be queued at the
 * first handler call, at the last, or while suspended, never in mid-upload; stopping the
 * daemon with anything suspended aborts the process; a wait of 0 ms must be obeyed, but a
 * 0 ms timer re-armed in its own callback starves the loop. */
#include "base/clock.h"
#include "base/queue.h"
#include "server/server_internal.h"

#include <errno.h>
#include <microhttpd.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PAGE_BYTES = 4096, RUNS_PER_WAKE = 4 };

/* ---- the pump ---- */

static void pump(srv_listener *at);

static void on_timer(uv_timer_t *t) {
    pump(t->data);
}

static void on_ready(uv_poll_t *p, int status, int events) {
    (void)status, (void)events;
    pump(p->data);
}

static void pump(srv_listener *at) {
    srv *s = at->s;
    if (at->pumping || at->mhd == NULL) return;
    MHD_UNSIGNED_LONG_LONG wait = 0;
    enum MHD_Result has = MHD_NO;
    srv_forgive_pause(s);
    srv_turn turn = srv_turn_begin(s);
    at->pumping = true;
    for (int i = 0; i < RUNS_PER_WAKE; i++) {
        unsigned open = at->n;
        MHD_run(at->mhd);
        has = MHD_get_timeout(at->mhd, &wait);
        /* At its limit the library does not listen; it listens again in the run after one in
         * which a connection ended. */
        if (at->n >= open && (has != MHD_YES || wait != 0)) break;
    }
    at->pumping = false;
    if (has == MHD_YES) uv_timer_start(&at->timer, on_timer, wait ? wait : 1, 0);
    else uv_timer_stop(&at->timer);
    srv_turn_end(s, turn);
    srv_drain_check(s);
}

void srv_mhd_pump(srv *s) {
    pump(&s->main);
}

void srv_mhd_tick(srv *s) {
    srv_conns_tick(&s->admin);
    srv_conns_tick(&s->main);
    pump(&s->admin);
    pump(&s->main);
}

/* ---- connections ---- */

static void on_conn(void *cls, struct MHD_Connection *c, void **ctx,
                    enum MHD_ConnectionNotificationCode what) {
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *fd =
            MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD);
        const union MHD_ConnectionInfo *from =
            MHD_get_connection_info(c, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
        if (fd == NULL) return;
        *ctx = srv_conn_open(cls, fd->connect_fd, from ? from->client_addr : NULL);
        if (*ctx == NULL) shutdown(fd->connect_fd, SHUT_RDWR); /* no deadline would ever end it */
        return;
    }
    if (*ctx) srv_conn_close(*ctx);
    *ctx = NULL;
}

static enum MHD_Result on_accept(void *cls, const struct sockaddr *from, socklen_t n) {
    (void)n;
    return srv_conn_welcome(cls, from) ? MHD_YES : MHD_NO;
}

/* ---- requests ---- */

/* Called with the target as it stands on the wire, before any decoding; what it returns
 * is the request's context from here on, and its end is always reported. */
static void *on_target(void *cls, const char *raw, struct MHD_Connection *c) {
    srv *s = cls;
    srv_req *r = calloc(1, sizeof *r);
    if (r == NULL) return NULL;
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(c, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    r->s = s;
    r->mhd = c;
    r->conn = info ? info->socket_context : NULL;
    r->bad_target = !srv_screen_target(raw);
    r->start_ns = clock_ns();
    r->key = -1;
    r->body.max = s->o.max_body;
    list_insert_before(&s->reqs, &r->link);
    s->n_reqs++;
    s->counts.requests++;
    return r;
}

typedef struct {
    srv_framing f;
    uint64_t max_body;
} screening;

static enum MHD_Result on_header(void *cls, enum MHD_ValueKind kind, const char *name,
                                 size_t name_n, const char *value, size_t value_n) {
    (void)kind;
    screening *sc = cls;
    srv_screen_header(&sc->f, name, name_n, value ? value : "", value_n, sc->max_body);
    return MHD_YES;
}

/* First call: the headers are there, the body is not. The one moment to refuse early. */
static void judge(srv_req *r, const char *url, const char *method, const char *version) {
    srv *s = r->s;
    screening sc = {.max_body = s->o.max_body};
    r->screened = true;
    srv_conn_busy(r->conn);
    MHD_get_connection_values_n(r->mhd, MHD_HEADER_KIND, on_header, &sc);
    const char *id = srv_req_header(r, "X-Request-Id");
    if (id && sc.f.request_id == 1 && srv_screen_id(id)) memcpy(r->id, id, strlen(id) + 1);
    const char *why = NULL;
    unsigned bad = srv_screen_verdict(&sc.f, method, version, &why);
    if (r->bad_target && bad != 505) bad = 400, why = "the request target is malformed";
    if (bad) {
        r->close = true;
        srv_answer_http(r, bad, why, NULL);
        return;
    }
    r->head = strcmp(method, "HEAD") == 0;
    r->body_start_ns = clock_ns();
    r->body_announced = sc.f.n_body;
    srv_deadline(r->conn, s->o.body_s);
    bool body = sc.f.length || sc.f.coding;
    r->defer = body && !sc.f.expect;
    r->close = body && sc.f.expect; /* answered instead of 100: the body never comes */
    srv_gate(r, method, url, &sc.f);
    srv_req_account(r);
    if (r->state == REQ_READING) r->close = false;
}

/* Until when the next piece of a body is waited for: it must come within the grace after the
 * last one, and the whole at no less than 1 KB/s after its grace. Bytes sent early buy no
 * silence later. */
static uint64_t body_deadline(const srv_req *r, uint64_t now) {
    uint64_t grace = (uint64_t)(r->s->o.body_s * 1e9);
    uint64_t by_rate = r->body_start_ns + grace + r->body_seen / 1024 * UINT64_C(1000000000);
    return by_rate < now + grace ? by_rate : now + grace;
}

/* Six bytes of framing is what a chunk costs at least: is that most of what came? */
static bool mostly_framing(srv_req *r) {
    uint64_t overhead = (uint64_t)r->body_pieces * 6;
    if (overhead <= (100 << 10) || overhead <= 4 * r->body_seen) return false;
    r->late = 413;
    return overhead > (400 << 10);
}

/* Bytes that may each begin, end or part a JSON value; those inside strings are counted too. */
static uint64_t count_structure(const char *data, size_t n) {
    uint64_t count = 0;
    for (size_t i = 0; i < n; i++) {
        char c = data[i];
        count += (uint64_t)((c == '{') + (c == '[') + (c == ',') + (c == ':'));
    }
    return count;
}

/* Keeps a piece and enters what is held. Room for a large body is taken at once: its pages come
 * as the body does, so it is as large as what has come. A small one, or one of unknown length,
 * grows; all of its room counts. */
static void keep_piece(srv_req *r, const char *data, size_t n) {
    if (r->body.cap == 0 && r->body_announced <= r->s->o.max_body) {
        size_t announced = (size_t)r->body_announced;
        if (announced >= SRV_LARGE_BYTES && buf_reserve(&r->body, announced) != 0)
            r->body.failed = false; /* growing may still do */
    }
    buf_append(&r->body, data, n);
    r->body_structure += count_structure(data, n);
    bool paged = r->body.cap > SRV_LARGE_BYTES && r->body.cap > r->body.len + PAGE_BYTES;
    srv_hold_set(&r->held_body, paged ? r->body.len + PAGE_BYTES : r->body.cap);
}

/* A piece of the body. No answer can be queued now, so what is wrong is kept in r->late.
 * Beyond four times the limit the connection is dropped. */
static enum MHD_Result collect(srv_req *r, const char *data, size_t *len) {
    srv *s = r->s;
    size_t n = *len;
    *len = 0;
    r->body_seen += n;
    r->body_pieces++;
    s->counts.bytes_in += n;
    r->conn->deadline_ns = body_deadline(r, clock_ns());
    if (mostly_framing(r)) return MHD_NO;
    if (r->body_seen > s->o.max_body) {
        r->late = 413;
        return r->body_seen > 4 * s->o.max_body ? MHD_NO : MHD_YES;
    }
    if (r->late || r->refusal.status) return MHD_YES;
    keep_piece(r, data, n);
    if (r->body.failed) r->late = 503;
    if (srv_ledger_full(s->ledger)) (void)srv_make_room(s, r); /* or r->late says 503 */
    return MHD_YES;
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *c, const char *url,
                                  const char *method, const char *version, const char *data,
                                  size_t *len, void **ctx) {
    (void)cls, (void)c;
    srv_req *r = *ctx;
    if (r == NULL || r->conn == NULL) return MHD_NO;
    if (!r->screened) {
        judge(r, url, method, version);
        return MHD_YES;
    }
    if (*len) return collect(r, data, len);
    /* Resumed with nothing queued: the peer left while its request was being worked on. */
    if (r->state != REQ_READING) return r->gone ? MHD_NO : MHD_YES;
    srv_deadline(r->conn, 0);
    if (r->refusal.status) {
        srv_refuse(r);
    } else if (r->late == 413) {
        srv_answer_http(r, 413, "the request body is larger than this server accepts", NULL);
    } else if (r->late) {
        srv_answer_http(r, 503,
                        "the server has no memory left for this request body; try again shortly",
                        "overloaded");
    } else {
        srv_route_run(r);
    }
    return MHD_YES;
}

static void on_done(void *cls, struct MHD_Connection *c, void **ctx,
                    enum MHD_RequestTerminationCode why) {
    (void)cls, (void)c;
    srv_req *r = *ctx;
    if (r == NULL) return;
    srv *s = r->s;
    srv_unwatch(r); /* before libmicrohttpd closes the descriptor */
    if (why != MHD_REQUEST_TERMINATED_COMPLETED_OK) r->gone = true;
    if (r->work) srv_parse_forget(r);
    if (r->gen) {
        s->counts.cancelled_by_client += !r->cut;
        srv_engine_drop(r);
    }
    if (r->conn) srv_conn_rest(r->conn);
    if (r->screened) srv_log_request(r);
    list_remove(&r->link);
    s->n_reqs--;
    buf_deinit(&r->body);
    buf_deinit(&r->out);
    api_reply_destroy(r->reply);
    api_listing_destroy(r->listing);
    srv_hold_end(&r->held_body);
    srv_hold_end(&r->held_answer);
    srv_account_leave(r->account);
    free((void *)(uintptr_t)r->tail);
    free(r);
    *ctx = NULL;
}

const char *srv_req_header(const srv_req *r, const char *name) {
    return MHD_lookup_connection_value(r->mhd, MHD_HEADER_KIND, name);
}

void srv_req_suspend(srv_req *r) {
    r->suspended = true;
    MHD_suspend_connection(r->mhd);
}

void srv_req_wake(srv_req *r) {
    if (!r->suspended) return;
    r->suspended = false;
    MHD_resume_connection(r->mhd); /* wakes nobody by itself: a pump must follow */
}

/* ---- answers ---- */

static void add(struct MHD_Response *p, const char *name, const char *value) {
    if (MHD_add_response_header(p, name, value) != MHD_YES) {
        log_line(LOG_WARN, "response header %s could not be set", name);
    }
}

static void queue_answer(srv_req *r, unsigned status, const char *type, struct MHD_Response *p,
                         const srv_header *extra, size_t n_extra) {
    srv *s = r->s;
    if (r->id[0] == 0) srv_make_id(s, r->id);
    if (type) add(p, "Content-Type", type);
    add(p, "x-request-id", r->id);
    for (size_t i = 0; i < n_extra; i++)
        add(p, extra[i].name, extra[i].value);
    if (r->cors) {
        add(p, "Access-Control-Allow-Origin", r->cors);
        add(p, "Access-Control-Expose-Headers", "x-request-id, retry-after");
        if (strcmp(r->cors, "*") != 0) add(p, "Vary", "Origin");
    }
    if (status == 503 || status == 429) add(p, "Retry-After", "1");
    if (r->close || s->draining) add(p, "Connection", "close");
    r->status = status;
    s->counts.answers[status / 100 < 6 ? status / 100 : 0]++;
    if (MHD_queue_response(r->mhd, status, p) != MHD_YES) srv_cut(r);
    MHD_destroy_response(p);
    srv_req_wake(r);
}

/* A whole answer must be read at no less than 16 KB/s, or the connection ends. */
static void expect_reader(srv_req *r, size_t n) {
    r->last_out_ns = clock_ns();
    srv_deadline(r->conn, r->s->o.stall_s + (double)n / 16384);
}

void srv_answer(srv_req *r, unsigned status, const char *type, buf *steal_body,
                const srv_header *extra, size_t n_extra) {
    buf body = *steal_body;
    *steal_body = (buf){0};
    r->state = REQ_ANSWERED;
    struct MHD_Response *p = NULL;
    if (!body.failed) {
        p = MHD_create_response_from_buffer(
            body.len, body.data, body.data ? MHD_RESPMEM_MUST_FREE : MHD_RESPMEM_PERSISTENT);
    }
    if (p == NULL) { /* nothing left to say it with */
        buf_deinit(&body);
        r->status = 503;
        srv_cut(r);
        srv_req_wake(r);
        return;
    }
    r->s->counts.bytes_out += body.len;
    srv_hold_set(&r->held_answer, body.cap); /* the library's until it is sent */
    expect_reader(r, body.len);
    queue_answer(r, status, type, p, extra, n_extra);
}

void srv_answer_static(srv_req *r, unsigned status, const char *type, const void *data, size_t n,
                       const srv_header *extra, size_t n_extra) {
    r->state = REQ_ANSWERED;
    struct MHD_Response *p =
        MHD_create_response_from_buffer(n, (void *)(uintptr_t)data, MHD_RESPMEM_PERSISTENT);
    if (p == NULL) {
        srv_cut(r);
        srv_req_wake(r);
        return;
    }
    r->s->counts.bytes_out += n;
    expect_reader(r, n);
    queue_answer(r, status, type, p, extra, n_extra);
}

void srv_answer_http(srv_req *r, unsigned status, const char *message, const char *code) {
    buf body = {0};
    api_http_error_body(&body, status, message, code);
    static const srv_header how = {"WWW-Authenticate", "Bearer"};
    srv_answer(r, status, "application/json", &body, &how, status == 401);
}

void srv_answer_err(srv_req *r, const err *e) {
    buf body = {0};
    api_error_body(&body, e);
    srv_answer(r, api_status(e), "application/json", &body, NULL, 0);
}

/* libmicrohttpd asks for the next bytes of a stream; each call becomes one send. */
static ssize_t feed(void *cls, uint64_t pos, char *to, size_t max) {
    (void)pos;
    srv_req *r = cls;
    if (r->gone) return MHD_CONTENT_READER_END_WITH_ERROR;
    size_t n = srv_take(r, to, max);
    if (n) return (ssize_t)n;
    if (r->cut) return MHD_CONTENT_READER_END_WITH_ERROR;
    if (r->finished) {
        srv_deadline(r->conn, r->s->o.stall_s); /* for what the library still has to send */
        return MHD_CONTENT_READER_END_OF_STREAM;
    }
    srv_req_suspend(r); /* 0 is legal only together with this */
    return 0;
}

static void start_feed(srv_req *r, const char *type, const srv_header *extra, size_t n_extra) {
    r->state = REQ_STREAMING;
    struct MHD_Response *p =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 1024, feed, r, NULL);
    if (p == NULL) {
        srv_cut(r);
        srv_req_wake(r);
        return;
    }
    queue_answer(r, 200, type, p, extra, n_extra);
}

void srv_answer_stream(srv_req *r) {
    static const srv_header sse[] = {{"Cache-Control", "no-cache"}, {"X-Accel-Buffering", "no"}};
    r->s->counts.streams++;
    start_feed(r, "text/event-stream", sse, ARRAY_LEN(sse));
}

void srv_answer_rest(srv_req *r) {
    r->last_out_ns = clock_ns();
    if (!srv_refill(r)) srv_answer(r, 200, "application/json", &r->out, NULL, 0);
    else start_feed(r, "application/json", NULL, 0);
}

/* ---- start and stop ---- */

static void on_library_log(void *cls, const char *fmt, va_list args) {
    srv *s = cls;
    s->counts.bad_clients++;
    if (!srv_log_budget(s)) return;
    char line[256];
    (void)vsnprintf(line, sizeof line, fmt, args);
    log_line(LOG_DEBUG, "http library: %s", line);
}

/* From 1.0 on the library can refuse what only it sees: folded headers, NUL in a value, and line
 * feeds alone, also between chunks. Before, its strict mode covers none of these and answers for
 * Host and target, which are screened here with clean answers. */
#if MHD_VERSION >= 0x01000000
#define STRICTNESS MHD_OPTION_CLIENT_DISCIPLINE_LVL, 1
#else
#define STRICTNESS MHD_OPTION_STRICT_FOR_CLIENT, 0
#endif

static void say_leniency(void) {
    if (MHD_VERSION >= 0x01000000) return;
    log_line(LOG_INFO,
             "libmicrohttpd %s takes folded headers, NUL in header values and lone line feeds; "
             "version 1.0 or a proxy in front of the server refuses them",
             MHD_get_version());
}

int srv_mhd_open(srv_listener *at, int fd, err *e) {
    srv *s = at->s;
    at->mhd = MHD_start_daemon(
        MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, on_accept, at, on_request,
        s, MHD_OPTION_EXTERNAL_LOGGER, on_library_log, s, MHD_OPTION_LISTEN_SOCKET, fd,
        MHD_OPTION_CONNECTION_LIMIT, at->limit, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
        (size_t)SRV_POOL_BYTES,
        /* Every deadline is the sweep's: the library's own would count a pause of the process. */
        MHD_OPTION_CONNECTION_TIMEOUT, 0U, STRICTNESS, MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1,
        MHD_OPTION_URI_LOG_CALLBACK, on_target, s, MHD_OPTION_NOTIFY_COMPLETED, on_done, s,
        MHD_OPTION_NOTIFY_CONNECTION, on_conn, at, MHD_OPTION_END);
    if (at->mhd == NULL) {
        close(fd);
        return err_set(e, ERR_IO, NULL, "the HTTP library did not start");
    }
    if (!at->admin) say_leniency();
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(at->mhd, MHD_DAEMON_INFO_EPOLL_FD);
    if (info == NULL || uv_poll_init(&s->loop, &at->poll, info->epoll_fd) != 0) {
        MHD_stop_daemon(at->mhd);
        at->mhd = NULL;
        return err_set(e, ERR_IO, NULL, "the HTTP library's descriptor cannot be watched");
    }
    at->poll.data = at->timer.data = at;
    uv_timer_init(&s->loop, &at->timer);
    uv_poll_start(&at->poll, UV_READABLE, on_ready);
    pump(at);
    return 0;
}

void srv_mhd_quiesce(srv *s) {
    /* The socket is ours from here; left open, new peers would hang in its backlog. */
    int fd = MHD_quiesce_daemon(s->main.mhd);
    if (fd >= 0) close(fd);
}

void srv_mhd_close(srv_listener *at) {
    if (at->mhd == NULL) return;
    at->pumping = true;
    for (int i = 0; i < RUNS_PER_WAKE; i++)
        MHD_run(at->mhd); /* lets what was resumed go */
    uv_poll_stop(&at->poll);
    uv_close((uv_handle_t *)&at->poll, NULL);
    uv_close((uv_handle_t *)&at->timer, NULL);
    MHD_stop_daemon(at->mhd);
    at->mhd = NULL;
}
