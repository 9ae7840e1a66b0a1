/* stream.c - the bounded buffer between an answer and its socket.
 *
 * The engine never waits for a socket: bytes for a slow reader wait here, and beyond the bound the
 * connection is cut. */
#include "server/server_internal.h"

#include <string.h>

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
    if (req->out.failed) req->more = false;
    if (!req->more && req->job == NULL) {
        api_reply_destroy(req->reply);
        api_listing_destroy(req->listing);
        req->reply = NULL;
        req->listing = NULL;
    }
    srv_out_changed(req);
    return req->more;
}

/* The next slice of an answer that has begun. */
static void refill_stream(srv_req *req) {
    if (srv_refill(req)) return;
    if (req->out.failed) (void)srv_step(req, REQ_EV_FAIL); /* out of memory: it lacks its end */
    else if (req->job == NULL) (void)srv_step(req, REQ_EV_COMPLETE);
}

void srv_ping(srv_req *req) {
    static const char ping[] = ": keep-alive\n\n";
    if (!req->outcome.stream || req->out.len > req->out_at || req->more) return;
    buf_append(&req->out, ping, sizeof ping - 1);
    srv_out_changed(req);
    srv_req_wake(req);
}

size_t srv_take(srv_req *req, char *to, size_t max) {
    if (req->out.len == req->out_at && req->more) refill_stream(req);
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
