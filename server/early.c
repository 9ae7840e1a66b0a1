/* early.c - answers to requests that have not arrived whole, and the sockets behind them.
 *
 * A socket that is closed with unread bytes is reset, and the reset may destroy an answer that the
 * client has not read yet. So after an early answer this file keeps a copy of the descriptor,
 * drops the bytes that still arrive, and closes it when the client has closed its side, within
 * bounds of bytes and time. libmicrohttpd has sent its FIN by then, so the client sees the end of
 * the answer at once. */
#include "base/clock.h"
#include "server/server_internal.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    MOST = 32,               /* sockets; in a crowd the oldest is closed */
    PIECE = 256 << 10,       /* bytes dropped by one call */
    PIECES = 8,              /* calls for one event */
    SILENT_TICKS = 3,        /* ticks without a byte until a socket is closed */
    TICKS = 30,              /* ticks until it is closed in any case */
    ALL_BYTES = SRV_DISCARD, /* bytes until it is closed in any case */
};

struct srv_linger {
    list_link lingers_link; /* in srv.lingers, the oldest first */
    srv *server;
    uv_poll_t poll;
    int fd;
    unsigned ticks, silent_ticks;
    size_t bytes;
};

static void on_closed(uv_handle_t *handle) {
    free(handle->data);
}

static void end(srv_linger *linger) {
    list_remove(&linger->lingers_link);
    linger->server->n_lingers--;
    uv_poll_stop(&linger->poll);
    close(linger->fd);
    uv_close((uv_handle_t *)&linger->poll, on_closed);
}

/* MSG_TRUNC drops the bytes in the kernel. */
static void on_bytes(uv_poll_t *poll, int status, int events) {
    (void)events;
    srv_linger *linger = poll->data;
    for (int i = 0; status == 0 && i < PIECES; i++) {
        ssize_t n = recv(linger->fd, NULL, PIECE, MSG_TRUNC | MSG_DONTWAIT);
        if (n < 0 && i > 0) return; /* no more bytes now */
        if (n <= 0) break;          /* the client has closed its side, or is gone */
        linger->silent_ticks = 0;
        linger->bytes += (size_t)n;
        linger->server->counts.bytes_in += (uint64_t)n;
        if (linger->bytes > ALL_BYTES) break;
        if (i == PIECES - 1) return;
    }
    end(linger);
}

void srv_linger_conn(const srv_conn *conn) {
    srv *server = conn->server;
    int unread = 0;
    if (conn->cut || server->stopping) return;
    if (!conn->early && (ioctl(conn->fd, FIONREAD, &unread) != 0 || unread == 0)) return;
    if (server->n_lingers == MOST) end(OWNER_OF(server->lingers.next, srv_linger, lingers_link));
    srv_linger *linger = calloc(1, sizeof *linger);
    int fd = linger ? fcntl(conn->fd, F_DUPFD_CLOEXEC, 0) : -1;
    if (fd < 0 || uv_poll_init(&server->loop, &linger->poll, fd) != 0) {
        if (fd >= 0) close(fd);
        free(linger);
        return; /* the client may lose its answer, and nothing else happens */
    }
    linger->server = server;
    linger->fd = fd;
    linger->poll.data = linger;
    list_insert_before(&server->lingers, &linger->lingers_link);
    server->n_lingers++;
    uv_poll_start(&linger->poll, UV_READABLE, on_bytes);
}

void srv_lingers_tick(srv *server) {
    for (list_link *node = server->lingers.next, *next; node != &server->lingers; node = next) {
        next = node->next;
        srv_linger *linger = OWNER_OF(node, srv_linger, lingers_link);
        if (++linger->silent_ticks > SILENT_TICKS || ++linger->ticks > TICKS) end(linger);
    }
}

void srv_lingers_close(srv *server) {
    while (!list_empty(&server->lingers))
        end(OWNER_OF(server->lingers.next, srv_linger, lingers_link));
}

/* ---- early answers ---- */

static void write_head(const srv_conn *conn, unsigned status, size_t n_body, buf *out) {
    srv *server = conn->server;
    const srv_req *req = conn->req;
    char id[SRV_ID_MAX + 1], date[64] = "";
    time_t now = time(NULL);
    struct tm utc;
    if (gmtime_r(&now, &utc)) strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", &utc);
    if (req == NULL || req->id[0] == 0) srv_make_id(server, id);
    buf_printf(out,
               "HTTP/1.1 %u %s\r\nDate: %s\r\nConnection: close\r\n"
               "Content-Type: application/json\r\nContent-Length: %zu\r\nx-request-id: %s\r\n",
               status, srv_reason(status), date, n_body, req && req->id[0] ? req->id : id);
    if (req && req->cors) buf_printf(out, "Access-Control-Allow-Origin: %s\r\n", req->cors);
    if (status == 503) buf_puts(out, "Retry-After: 1\r\n");
    buf_puts(out, "\r\n");
}

bool srv_answer_early(srv_conn *conn, unsigned status, const char *message, const char *code) {
    srv *server = conn->server;
    buf body = {0}, all = {0};
    const api_dialect *dialect = conn->req ? srv_req_dialect(conn->req) : NULL;
    api_http_error_body(&body, dialect, status, message, code);
    write_head(conn, status, body.len, &all);
    buf_append(&all, body.data, body.len);
    bool sent = !body.failed && !all.failed &&
                send(conn->fd, all.data, all.len, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)all.len;
    if (sent) {
        if (conn->req) {
            conn->req->status = status;
            (void)srv_step(conn->req, REQ_EV_ANSWER);
        }
        conn->early = true;
        server->counts.answers[status / 100]++;
        server->counts.bytes_out += all.len;
    }
    buf_deinit(&body);
    buf_deinit(&all);
    return sent;
}
