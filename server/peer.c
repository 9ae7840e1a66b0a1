/* peer.c - watches the clients of requests in work, which libmicrohttpd does not while a connection
 * is suspended.
 *
 * A FIN has two meanings: the client has left, or it has sent everything and reads on. Only bytes
 * sent to it tell one from the other, because a client that has left answers them with a reset. So
 * after a FIN the request goes on, and now and then its client gets bytes without meaning: a
 * comment in a stream, "100 Continue" before an answer. */
#include "base/clock.h"
#include "server/server_internal.h"

#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

enum { PROBE_TICK_MS = 100 };
/* Most answers come before the first probe. Parsing takes processor time, so its client is probed
 * at the next tick. */
#define PROBE_FIRST_NS UINT64_C(400000000)
#define PROBE_AGAIN_NS UINT64_C(2000000000)

static void on_handle_closed(uv_handle_t *handle) {
    free(handle);
}

void srv_unwatch(srv_req *req) {
    if (req->watch == NULL) return;
    uv_poll_stop(req->watch);
    uv_close((uv_handle_t *)req->watch, on_handle_closed);
    req->watch = NULL;
}

/* After a FIN alone the socket can still be written to. */
static bool only_half_closed(int fd) {
    struct pollfd ask = {.fd = fd};
    return poll(&ask, 1, 0) == 0;
}

static bool has_unread(int fd) {
    int unread = 0;
    return ioctl(fd, FIONREAD, &unread) == 0 && unread > 0;
}

/* FIN comes as the event, RST as an error status. */
static void on_peer(uv_poll_t *watch, int status, int events) {
    srv_req *req = watch->data;
    srv *server = req->server;
    int fd = req->conn->fd;
    if (status == 0 && (events & UV_PRIORITIZED)) { /* urgent data means nothing here */
        srv_unwatch(req);
        return;
    }
    if (status == 0 && only_half_closed(fd)) {
        if (req->state <= REQ_REFUSED && has_unread(fd)) { /* perhaps the end of its body */
            srv_mhd_pump(server);
            return;
        }
        uv_poll_start(watch, UV_PRIORITIZED, on_peer); /* errors come unasked */
        (void)srv_step(req, REQ_EV_HALF_CLOSE);
    } else {
        srv_unwatch(req);
        (void)srv_step(req, REQ_EV_HANG_UP);
    }
    srv_mhd_pump(server);
}

void srv_watch(srv_req *req) {
    if (req->watch) return;
    int fd = req->conn->fd, room = SRV_SOCKET_BYTES;
    /* Longer than --stall-seconds: deadlines.c acts first and counts the reason. The kernel then
     * cuts vanished peers. */
    unsigned patience_ms = (unsigned)(req->server->opts.stall_s * 1e3) + 5000;
    /* Both only reduce the bytes held for a slow or vanished reader; a failure does no harm. */
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &patience_ms, sizeof patience_ms);
    uv_poll_t *watch = malloc(sizeof *watch);
    if (watch == NULL || uv_poll_init(&req->server->loop, watch, fd) != 0) {
        free(watch); /* without a watch, the next write notices a hang-up */
        return;
    }
    watch->data = req;
    req->watch = watch;
    uv_poll_start(watch, UV_DISCONNECT, on_peer);
}

/* ---- half-closed peers ---- */

/* A client of HTTP/1.0 takes no "100 Continue". Before its answer has begun it counts as gone after
 * a while, because an old proxy is likelier than a client that closes its own side only. */
static void probe(srv_req *req, uint64_t now) {
    static const char interim[] = "HTTP/1.1 100 Continue\r\n\r\n";
    unsigned before = req->conn->n_probes++;
    req->conn->probe_ns = now + PROBE_AGAIN_NS;
    if (req->state == REQ_STREAMING) srv_ping(req);
    else if (req->conn->takes_interim)
        (void)send(req->conn->fd, interim, sizeof interim - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
    else if (before > 0) (void)srv_step(req, REQ_EV_HANG_UP);
}

static bool is_probed(const srv_req *req) {
    return req->conn && req->conn->half_closed &&
           (req->state == REQ_PARSING || req->state == REQ_WAITING || req->state == REQ_STREAMING);
}

static void on_probe(uv_timer_t *timer) {
    srv *server = timer->data;
    uint64_t now = clock_ns();
    bool others = false;
    for (list_link *node = server->reqs.next; node != &server->reqs; node = node->next) {
        srv_req *req = OWNER_OF(node, srv_req, reqs_link);
        if (!is_probed(req)) continue;
        others = true;
        if (req->conn->probe_ns <= now) probe(req, now);
    }
    if (others) srv_mhd_pump(server);
    else uv_timer_stop(timer);
}

void srv_half_closed(srv_req *req) {
    srv *server = req->server;
    req->conn->half_closed = true;
    req->conn->probe_ns = req->state == REQ_PARSING ? 0 : clock_ns() + PROBE_FIRST_NS;
    req->close = true; /* no further request can come */
    if (uv_is_active((uv_handle_t *)&server->probe_timer)) return;
    uv_timer_start(&server->probe_timer, on_probe, PROBE_TICK_MS, PROBE_TICK_MS);
}
