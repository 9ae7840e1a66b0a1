/* stream.c - the bounded buffer between an answer and its socket, and the watch that
 * tells when the peer left.
 *
 * The engine never waits for a socket: what a slow reader has not taken waits here, and
 * past the bound the reader is cut. The watch is one uv_poll per request in the engine,
 * because libmicrohttpd sees nothing of a suspended connection's peer. */
#include "server/server_internal.h"

#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static void on_handle_closed(uv_handle_t *h) {
    free(h);
}

void srv_unwatch(srv_req *r) {
    if (r->watch == NULL) return;
    uv_poll_stop(r->watch);
    uv_close((uv_handle_t *)r->watch, on_handle_closed);
    r->watch = NULL;
}

/* FIN and half-close come as the event, RST as an error status. Half-close counts as
 * gone: a client that wants its answer keeps its side open. */
static void on_hangup(uv_poll_t *p, int status, int events) {
    (void)status, (void)events;
    srv_req *r = p->data;
    srv *s = r->s;
    r->gone = true;
    s->counts.cancelled_by_client++;
    srv_unwatch(r);
    if (r->gen) srv_engine_drop(r);
    if (r->work) srv_parse_forget(r);
    if (r->state == REQ_READING) srv_cut(r); /* the library does not look while a body is due */
    srv_req_wake(r);
    srv_mhd_pump(s);
}

void srv_watch(srv_req *r) {
    if (r->watch) return;
    int fd = r->conn->fd, room = SRV_SOCKET_BYTES;
    /* Later than the sweep, which knows why; the kernel's own cut is for peers that vanished. */
    unsigned patience_ms = (unsigned)(r->s->o.stall_s * 1e3) + 5000;
    /* Both only tighten what a slow or vanished reader can hold; failing does no harm. */
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &patience_ms, sizeof patience_ms);
    uv_poll_t *w = malloc(sizeof *w);
    if (w == NULL || uv_poll_init(&r->s->loop, w, fd) != 0) {
        free(w); /* unwatched, the peer's leaving shows when its socket is written to */
        return;
    }
    w->data = r;
    r->watch = w;
    uv_poll_start(w, UV_DISCONNECT, on_hangup);
}

void srv_cut(srv_req *r) {
    r->gone = true;
    r->cut = true;
    srv_unwatch(r);
    if (r->gen) srv_engine_drop(r);
    /* Without this the kernel keeps megabytes for a peer that does not read. */
    struct linger hard = {.l_onoff = 1, .l_linger = 0};
    if (!r->conn->cut) (void)setsockopt(r->conn->fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    srv_conn_cut(r->conn);
}

/* Length of the whole events at the front of n bytes that fit max; an event that does not
 * fit goes out in pieces. Some clients split on network chunks, so events stay whole. */
static size_t whole_events(const char *p, size_t n, size_t max) {
    if (n <= max) return n;
    for (size_t end = max; end >= 2; end--) {
        const char *nl = memrchr(p, '\n', end);
        if (nl == NULL || nl == p) break;
        end = (size_t)(nl - p) + 1;
        if (nl[-1] == '\n') return end;
    }
    return max;
}

void srv_out_changed(srv_req *r) {
    size_t rest = r->reply ? api_reply_bytes(r->reply) : 0;
    if (r->listing) rest = api_listing_bytes(r->listing);
    srv_hold_set(&r->held_answer, r->out.cap + rest);
}

bool srv_refill(srv_req *r) {
    api_reply *reply = r->gen ? r->gen->reply : r->reply;
    r->more = r->listing ? api_listing_more(r->listing, &r->out, SRV_SLICE_BYTES)
                         : api_reply_more(reply, &r->out, SRV_SLICE_BYTES);
    if (r->out.failed) r->cut = true; /* for want of memory: the answer lacks its end */
    if (r->cut) r->more = false;
    if (!r->more && r->gen == NULL) {
        api_reply_destroy(r->reply);
        api_listing_destroy(r->listing);
        r->reply = NULL;
        r->listing = NULL;
        r->finished = true;
    }
    srv_out_changed(r);
    return r->more;
}

size_t srv_take(srv_req *r, char *to, size_t max) {
    if (r->out.len == r->out_at && r->more) (void)srv_refill(r);
    size_t waiting = r->out.len - r->out_at;
    if (waiting == 0) return 0;
    size_t n = whole_events(r->out.data + r->out_at, waiting, max);
    memcpy(to, r->out.data + r->out_at, n);
    r->out_at += n;
    r->s->counts.bytes_out += n;
    r->last_out_ns = uv_now(&r->s->loop) * UINT64_C(1000000);
    if (r->out_at == r->out.len) {
        buf_clear(&r->out);
        r->out_at = 0;
    } else if (r->out_at > SRV_SOCKET_BYTES / 2) {
        buf_drop(&r->out, r->out_at);
        r->out_at = 0;
    }
    return n;
}
