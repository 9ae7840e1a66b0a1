/* stream.c - the bounded buffer between an answer and its socket, and the watch for peers that
 * leave.
 *
 * The engine never waits for a socket: bytes for a slow reader wait here, and beyond the bound the
 * connection is cut. The watch is one uv_poll per request in the engine, because libmicrohttpd does
 * not notice the peer of a suspended connection. */
#include "server/server_internal.h"

#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static void on_handle_closed(uv_handle_t *handle) {
    free(handle);
}

void srv_unwatch(srv_req *req) {
    if (req->watch == NULL) return;
    uv_poll_stop(req->watch);
    uv_close((uv_handle_t *)req->watch, on_handle_closed);
    req->watch = NULL;
}

/* FIN and half-close come as the event, RST as an error status. Half-close counts as leaving: a
 * client that waits for its answer keeps its side open. */
static void on_hangup(uv_poll_t *watch, int status, int events) {
    (void)status, (void)events;
    srv_req *req = watch->data;
    srv *server = req->server;
    req->gone = true;
    server->counts.cancelled_by_client++;
    srv_unwatch(req);
    if (req->job) srv_engine_drop(req);
    if (req->work) srv_parse_forget(req);
    if (req->state == REQ_READING)
        srv_cut(req); /* the library does not notice while it reads a body */
    srv_req_wake(req);
    srv_mhd_pump(server);
}

void srv_watch(srv_req *req) {
    if (req->watch) return;
    int fd = req->conn->fd, room = SRV_SOCKET_BYTES;
    /* Longer than --stall-seconds, so that deadlines.c acts first and counts the reason; the kernel
     * then cuts peers that vanished. */
    unsigned patience_ms = (unsigned)(req->server->opts.stall_s * 1e3) + 5000;
    /* Both only reduce the bytes held for a slow or vanished reader; a failure does no harm. */
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &patience_ms, sizeof patience_ms);
    uv_poll_t *watch = malloc(sizeof *watch);
    if (watch == NULL || uv_poll_init(&req->server->loop, watch, fd) != 0) {
        free(watch); /* without a watch, the next write notices that the peer left */
        return;
    }
    watch->data = req;
    req->watch = watch;
    uv_poll_start(watch, UV_DISCONNECT, on_hangup);
}

void srv_cut(srv_req *req) {
    req->gone = true;
    req->cut = true;
    srv_unwatch(req);
    if (req->job) srv_engine_drop(req);
    /* Else the kernel keeps megabytes for a peer without reading. */
    struct linger hard = {.l_onoff = 1, .l_linger = 0};
    if (!req->conn->cut) (void)setsockopt(req->conn->fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    srv_conn_cut(req->conn);
}

/* Length of the whole events at the front that fit into max. Some clients split on network chunks,
 * so events stay whole; only an event larger than max goes out in pieces. */
static size_t whole_events(const char *text, size_t n, size_t max) {
    if (n <= max) return n;
    for (size_t end = max; end >= 2; end--) {
        const char *nl = memrchr(text, '\n', end);
        if (nl == NULL || nl == text) break;
        end = (size_t)(nl - text) + 1;
        if (nl[-1] == '\n') return end;
    }
    return max;
}

void srv_out_changed(srv_req *req) {
    size_t rest = req->reply ? api_reply_bytes(req->reply) : 0;
    if (req->listing) rest = api_listing_bytes(req->listing);
    srv_hold_set(&req->held_answer, req->out.cap + rest);
}

bool srv_refill(srv_req *req) {
    api_reply *reply = req->job ? req->job->reply : req->reply;
    req->more = req->listing ? api_listing_more(req->listing, &req->out, SRV_SLICE_BYTES)
                             : api_reply_more(reply, &req->out, SRV_SLICE_BYTES);
    if (req->out.failed) req->cut = true; /* out of memory: the answer lacks its end */
    if (req->cut) req->more = false;
    if (!req->more && req->job == NULL) {
        api_reply_destroy(req->reply);
        api_listing_destroy(req->listing);
        req->reply = NULL;
        req->listing = NULL;
        req->finished = true;
    }
    srv_out_changed(req);
    return req->more;
}

size_t srv_take(srv_req *req, char *to, size_t max) {
    if (req->out.len == req->out_at && req->more) (void)srv_refill(req);
    size_t waiting = req->out.len - req->out_at;
    if (waiting == 0) return 0;
    size_t n = whole_events(req->out.data + req->out_at, waiting, max);
    memcpy(to, req->out.data + req->out_at, n);
    req->out_at += n;
    req->server->counts.bytes_out += n;
    req->last_out_ns = uv_now(&req->server->loop) * UINT64_C(1000000);
    if (req->out_at == req->out.len) {
        buf_clear(&req->out);
        req->out_at = 0;
    } else if (req->out_at > SRV_SOCKET_BYTES / 2) {
        buf_drop(&req->out, req->out_at);
        req->out_at = 0;
    }
    return n;
}
