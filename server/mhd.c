/* mhd.c - the only file that uses libmicrohttpd.
 *
 * The library runs without a thread of its own: libuv watches its epoll descriptor, and
 * srv_mhd_pump runs it. This file rests on these facts (0.9.75, measured): a suspended connection
 * leaves every list, so the library does not notice its peer until it is resumed; an answer may be
 * queued at the first handler call, at the last, or while suspended, but never while a body
 * arrives; stopping the daemon with a suspended connection aborts the process; a wait of 0 ms must
 * be obeyed, but a 0 ms timer armed again in its own callback starves the loop. */
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

enum { RUNS_PER_WAKE = 4 };

/* ---- the pump ---- */

static void pump(srv_listener *at);

static void on_timer(uv_timer_t *timer) {
    pump(timer->data);
}

static void on_ready(uv_poll_t *watch, int status, int events) {
    (void)status, (void)events;
    pump(watch->data);
}

static void pump(srv_listener *at) {
    srv *server = at->server;
    if (at->pumping || at->mhd == NULL) return;
    MHD_UNSIGNED_LONG_LONG wait = 0;
    enum MHD_Result has = MHD_NO;
    srv_forgive_pause(server);
    srv_turn turn = srv_turn_begin(server);
    at->pumping = true;
    for (int i = 0; i < RUNS_PER_WAKE; i++) {
        unsigned open = at->n_conns;
        MHD_run(at->mhd);
        has = MHD_get_timeout(at->mhd, &wait);
        /* At its limit the library does not accept. After a connection has ended it accepts again,
         * but only from the next run on. */
        if (at->n_conns >= open && (has != MHD_YES || wait != 0)) break;
    }
    at->pumping = false;
    if (has == MHD_YES) uv_timer_start(&at->timer, on_timer, wait ? wait : 1, 0);
    else uv_timer_stop(&at->timer);
    srv_turn_end(server, turn);
    srv_drain_check(server);
}

void srv_mhd_pump(srv *server) {
    pump(&server->main);
}

void srv_mhd_tick(srv *server) {
    srv_conns_tick(&server->admin);
    srv_conns_tick(&server->main);
    pump(&server->admin);
    pump(&server->main);
}

/* ---- connections ---- */

static void on_conn(void *cls, struct MHD_Connection *mhd, void **ctx,
                    enum MHD_ConnectionNotificationCode what) {
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *fd =
            MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD);
        const union MHD_ConnectionInfo *from =
            MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
        if (fd == NULL) return;
        *ctx = srv_conn_open(cls, fd->connect_fd, from ? from->client_addr : NULL);
        if (*ctx == NULL) shutdown(fd->connect_fd, SHUT_RDWR); /* no deadline would ever end it */
        return;
    }
    if (*ctx) {
        srv_linger_conn(*ctx);
        srv_conn_close(*ctx);
    }
    *ctx = NULL;
}

static enum MHD_Result on_accept(void *cls, const struct sockaddr *from, socklen_t n) {
    (void)n;
    return srv_conn_welcome(cls, from) ? MHD_YES : MHD_NO;
}

/* ---- requests ---- */

/* Called with the raw target, before any decoding. The returned pointer is the request's context
 * from here on; on_done is called for it in any case. */
static void *on_target(void *cls, const char *raw, struct MHD_Connection *mhd) {
    srv *server = cls;
    srv_req *req = calloc(1, sizeof *req);
    if (req == NULL) return NULL;
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    req->server = server;
    req->mhd = mhd;
    req->conn = info ? info->socket_context : NULL;
    if (req->conn) req->conn->req = req;
    req->target_bytes = strlen(raw);
    req->start_ns = clock_ns();
    req->key = -1;
    req->body.max = server->opts.max_body;
    if (!srv_screen_target(raw)) {
        req->refusal.status = 400;
        req->refusal.message = "the request target is malformed";
    }
    list_insert_before(&server->reqs, &req->reqs_link);
    server->n_reqs++;
    server->counts.requests++;
    return req;
}

typedef struct {
    srv_framing *framing;
    uint64_t max_body;
} screening;

static enum MHD_Result on_header(void *cls, enum MHD_ValueKind kind, const char *name,
                                 size_t name_n, const char *value, size_t value_n) {
    (void)kind;
    screening *sc = cls;
    srv_screen_header(sc->framing, name, name_n, value ? value : "", value_n, sc->max_body);
    return MHD_YES;
}

/* The first call, with complete headers, comes before a body is read: only now and after the body
 * can an answer be queued. Then comes a call for each piece of the body, and one after it. A call
 * for a request that has its answer follows a resumption.
 *
 * A request that may be suspended is handled one call later. Between the two calls the library
 * notes that it needs no more bytes. Otherwise it would read at the resumption, and after a
 * client's FIN close the connection before the answer. */
static enum MHD_Result on_request(void *cls, struct MHD_Connection *mhd, const char *url,
                                  const char *method, const char *version, const char *data,
                                  size_t *len, void **ctx) {
    (void)cls;
    srv_req *req = *ctx;
    if (req == NULL || req->conn == NULL) return MHD_NO;
    if (req->state == REQ_HEAD) {
        srv_head head = {.method = method, .target = url, .version = version};
        screening sc = {.framing = &head.framing, .max_body = req->server->opts.max_body};
        head.framing.bytes = req->target_bytes;
        MHD_get_connection_values_n(mhd, MHD_HEADER_KIND, on_header, &sc);
        return srv_req_head(req, &head) ? MHD_YES : MHD_NO;
    }
    if (req->state == REQ_CUT) return MHD_NO;
    if (*len) {
        size_t n = *len;
        *len = 0;
        if (req->state > REQ_REFUSED) return MHD_NO; /* it was answered early */
        return srv_body_piece(req, data, n) ? MHD_YES : MHD_NO;
    }
    if (req->state == REQ_BODY && req->route->endpoint) {
        (void)srv_step(req, REQ_EV_WHOLE);
        return MHD_YES; /* without an answer: the library calls again, and reads no more */
    }
    if (req->state <= REQ_WHOLE) (void)srv_step(req, REQ_EV_BODY_END);
    return req->state == REQ_CUT ? MHD_NO : MHD_YES;
}

static void release(srv_req *req) {
    buf_deinit(&req->body);
    buf_deinit(&req->out);
    api_reply_destroy(req->reply);
    api_listing_destroy(req->listing);
    srv_hold_end(&req->held_body);
    srv_hold_end(&req->held_answer);
    srv_account_leave(req->account);
    free((void *)(uintptr_t)req->tail);
    free(req->refusal.text);
    free(req);
}

static void on_done(void *cls, struct MHD_Connection *mhd, void **ctx,
                    enum MHD_RequestTerminationCode why) {
    (void)cls, (void)mhd;
    srv_req *req = *ctx;
    if (req == NULL) return;
    srv_unwatch(req); /* before libmicrohttpd closes the descriptor */
    req_state last = req->state;
    if (why != MHD_REQUEST_TERMINATED_COMPLETED_OK)
        req->outcome.client_left |=
            last == REQ_STREAMING || (last == REQ_ANSWERED && !req->outcome.stream);
    (void)srv_step(req, REQ_EV_END);
    if (req->conn) {
        req->conn->req = NULL;
        srv_conn_rest(req->conn);
    }
    if (last != REQ_HEAD) srv_log_request(req);
    list_remove(&req->reqs_link);
    req->server->n_reqs--;
    release(req);
    *ctx = NULL;
}

const char *srv_req_header(const srv_req *req, const char *name) {
    return MHD_lookup_connection_value(req->mhd, MHD_HEADER_KIND, name);
}

const char *srv_req_parameter(const srv_req *req, const char *name) {
    return MHD_lookup_connection_value(req->mhd, MHD_GET_ARGUMENT_KIND, name);
}

void srv_req_suspend(srv_req *req) {
    req->suspended = true;
    MHD_suspend_connection(req->mhd);
}

void srv_req_wake(srv_req *req) {
    if (!req->suspended) return;
    req->suspended = false;
    MHD_resume_connection(req->mhd); /* takes effect at the next pump */
}

/* ---- answers ---- */

static void add(struct MHD_Response *response, const char *name, const char *value) {
    if (MHD_add_response_header(response, name, value) != MHD_YES) {
        log_line(LOG_WARN, "response header %s could not be set", name);
    }
}

const char *srv_reason(unsigned status) {
    return MHD_get_reason_phrase_for(status);
}

static void queue_answer(srv_req *req, unsigned status, const char *type,
                         struct MHD_Response *response, const srv_header *extra, size_t n_extra) {
    srv *server = req->server;
    if (req->id[0] == 0) srv_make_id(server, req->id);
    if (type) add(response, "Content-Type", type);
    add(response, "x-request-id", req->id);
    bool has_vary = false;
    for (size_t i = 0; i < n_extra; i++) {
        add(response, extra[i].name, extra[i].value);
        has_vary |= strcmp(extra[i].name, "Vary") == 0;
    }
    if (req->cors) {
        add(response, "Access-Control-Allow-Origin", req->cors);
        add(response, "Access-Control-Expose-Headers",
            "x-request-id, retry-after, www-authenticate, allow");
    }
    if (server->opts.cors.n && !has_vary) add(response, "Vary", "Origin");
    if (status == 503 || status == 429) add(response, "Retry-After", "1");
    if (req->close || server->leaving) add(response, "Connection", "close");
    req->status = status;
    /* A page of metrics from before this answer must not be shown after it. */
    if (req->route == NULL || !(req->route->flags & ROUTE_METRICS)) server->metrics_page_ns = 0;
    server->counts.answers[status / 100 < 6 ? status / 100 : 0]++;
    bool queued = srv_mhd_queue(req->mhd, status, response);
    MHD_destroy_response(response);
    if (queued) srv_req_wake(req);
    else (void)srv_step(req, REQ_EV_SHUT);
}

/* A whole answer must be read at no less than 16 KB/s, or the connection ends. */
static void expect_reader(srv_req *req, size_t n) {
    req->last_out_ns = clock_ns();
    srv_deadline(req->conn, req->server->opts.stall_s + (double)n / 16384);
}

void srv_answer(srv_req *req, unsigned status, const char *type, buf *steal_body,
                const srv_header *extra, size_t n_extra) {
    buf body = *steal_body;
    *steal_body = (buf){0};
    struct MHD_Response *response = NULL;
    bool allowed = srv_step(req, REQ_EV_ANSWER);
    if (allowed && !body.failed) {
        response = MHD_create_response_from_buffer(
            body.len, body.data, body.data ? MHD_RESPMEM_MUST_FREE : MHD_RESPMEM_PERSISTENT);
    }
    if (response == NULL) { /* no memory even for an error */
        buf_deinit(&body);
        req->status = 503;
        (void)srv_step(req, REQ_EV_SHUT);
        return;
    }
    req->server->counts.bytes_out += body.len;
    srv_hold_set(&req->held_answer, body.cap); /* belongs to the library until it is sent */
    expect_reader(req, body.len);
    queue_answer(req, status, type, response, extra, n_extra);
}

void srv_answer_static(srv_req *req, unsigned status, const char *type, const void *data, size_t n,
                       const srv_header *extra, size_t n_extra) {
    if (!srv_step(req, REQ_EV_ANSWER)) return;
    struct MHD_Response *response =
        MHD_create_response_from_buffer(n, (void *)(uintptr_t)data, MHD_RESPMEM_PERSISTENT);
    if (response == NULL) {
        (void)srv_step(req, REQ_EV_SHUT);
        return;
    }
    req->server->counts.bytes_out += n;
    expect_reader(req, n);
    queue_answer(req, status, type, response, extra, n_extra);
}

void srv_answer_http(srv_req *req, unsigned status, const char *message, const char *code) {
    buf body = {0};
    api_http_error_body(&body, srv_req_dialect(req), status, message, code);
    static const srv_header how = {"WWW-Authenticate", "Bearer"};
    srv_answer(req, status, "application/json", &body, &how, status == 401);
}

void srv_answer_err(srv_req *req, const err *e) {
    buf body = {0};
    api_error_body(&body, srv_req_dialect(req), e);
    srv_answer(req, api_status(e), "application/json", &body, NULL, 0);
}

/* libmicrohttpd calls this for the next bytes of a stream and makes one send of each call. */
static ssize_t feed(void *cls, uint64_t pos, char *to, size_t max) {
    (void)pos;
    srv_req *req = cls;
    if (req->state == REQ_CUT) return MHD_CONTENT_READER_END_WITH_ERROR;
    size_t n = srv_take(req, to, max);
    if (n) return (ssize_t)n;
    if (req->state == REQ_ENDING) {
        (void)srv_step(req, REQ_EV_SENT);
        return MHD_CONTENT_READER_END_OF_STREAM;
    }
    if (req->state != REQ_STREAMING) {
        (void)srv_step(req, REQ_EV_SENT);
        return MHD_CONTENT_READER_END_WITH_ERROR;
    }
    srv_req_suspend(req); /* returning 0 is allowed only for a suspended request */
    return 0;
}

/* The answer's state is STREAMING or later: all its bytes may be there already. */
static void start_feed(srv_req *req, const char *type, const srv_header *extra, size_t n_extra) {
    struct MHD_Response *response =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 1024, feed, req, NULL);
    if (response) queue_answer(req, 200, type, response, extra, n_extra);
    else (void)srv_step(req, REQ_EV_SHUT);
}

void srv_answer_stream(srv_req *req) {
    static const srv_header sse[] = {{"Cache-Control", "no-cache"}, {"X-Accel-Buffering", "no"}};
    req->server->counts.streams++;
    start_feed(req, "text/event-stream", sse, ARRAY_LEN(sse));
}

void srv_answer_rest(srv_req *req) {
    req->last_out_ns = clock_ns();
    if (!srv_refill(req)) srv_answer(req, 200, "application/json", &req->out, NULL, 0);
    else if (srv_step(req, REQ_EV_STREAM)) start_feed(req, "application/json", NULL, 0);
}

/* ---- start and stop ---- */

static void on_library_log(void *cls, const char *fmt, va_list args) {
    srv *server = cls;
    server->counts.bad_clients++;
    if (!srv_log_budget(server)) return;
    char line[256];
    (void)vsnprintf(line, sizeof line, fmt, args);
    log_line(LOG_DEBUG, "http library: %s", line);
}

/* From 1.0 on, the library can refuse input that this file never sees: folded headers, NUL in a
 * value, and lone line feeds, also between chunks. Older versions cannot; their strict mode would
 * only answer for Host and target itself, which framing.c does with better messages. */
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
    srv *server = at->server;
    at->mhd = MHD_start_daemon(
        MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, on_accept, at, on_request,
        server, MHD_OPTION_EXTERNAL_LOGGER, on_library_log, server, MHD_OPTION_LISTEN_SOCKET, fd,
        MHD_OPTION_CONNECTION_LIMIT, at->limit, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
        (size_t)SRV_POOL_BYTES,
        /* Deadlines are kept in deadlines.c: the library's own would count a pause of the
         * process. */
        MHD_OPTION_CONNECTION_TIMEOUT, 0U, STRICTNESS, MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1,
        MHD_OPTION_URI_LOG_CALLBACK, on_target, server, MHD_OPTION_NOTIFY_COMPLETED, on_done,
        server, MHD_OPTION_NOTIFY_CONNECTION, on_conn, at, MHD_OPTION_END);
    if (at->mhd == NULL) {
        close(fd);
        return err_set(e, ERR_IO, NULL, "the HTTP library did not start");
    }
    if (!at->admin) say_leniency();
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(at->mhd, MHD_DAEMON_INFO_EPOLL_FD);
    if (info == NULL || uv_poll_init(&server->loop, &at->poll, info->epoll_fd) != 0) {
        MHD_stop_daemon(at->mhd);
        at->mhd = NULL;
        return err_set(e, ERR_IO, NULL, "the HTTP library's descriptor cannot be watched");
    }
    at->poll.data = at->timer.data = at;
    uv_timer_init(&server->loop, &at->timer);
    uv_poll_start(&at->poll, UV_READABLE, on_ready);
    pump(at);
    return 0;
}

void srv_mhd_quiesce(srv *server) {
    pump(&server->main); /* takes in the peers that wait in the backlog */
    /* This code owns the socket from here on; left open, new peers would hang in its backlog. */
    int fd = MHD_quiesce_daemon(server->main.mhd);
    if (fd >= 0) close(fd);
}

void srv_mhd_close(srv_listener *at) {
    if (at->mhd == NULL) return;
    at->pumping = true;
    for (int i = 0; i < RUNS_PER_WAKE; i++)
        MHD_run(at->mhd); /* finishes the resumed requests */
    uv_poll_stop(&at->poll);
    uv_close((uv_handle_t *)&at->poll, NULL);
    uv_close((uv_handle_t *)&at->timer, NULL);
    MHD_stop_daemon(at->mhd);
    at->mhd = NULL;
}
