/* body.c - receives the body of a request, or drops it when the request is refused.
 *
 * A client sends its body before it reads an answer. So a refusal waits for the end of the body,
 * which is read and dropped up to SRV_DISCARD bytes. Beyond that, and at a deadline, the answer
 * goes out early (early.c). */
#include "base/clock.h"
#include "server/server_internal.h"

enum { PAGE_BYTES = 4096, DISCARD_SECONDS = 120 };

void srv_body_begin(srv_req *req, const srv_framing *framing) {
    req->body_start_ns = clock_ns();
    req->body_announced = framing->n_body;
    srv_deadline(req->conn, req->server->opts.body_s);
}

/* Deadline for the next piece of a body. A piece must follow the last within the grace, and the
 * whole body must keep up 1 KB/s after the grace; bytes sent early do not extend it. A body to be
 * dropped has a limit of time besides. */
static uint64_t deadline(const srv_req *req, uint64_t now) {
    uint64_t grace = (uint64_t)(req->server->opts.body_s * 1e9);
    uint64_t by_rate = req->body_start_ns + grace + req->body_seen / 1024 * UINT64_C(1000000000);
    uint64_t end = by_rate < now + grace ? by_rate : now + grace;
    uint64_t last = req->body_start_ns + DISCARD_SECONDS * UINT64_C(1000000000);
    return req->state == REQ_REFUSED && last < end ? last : end;
}

/* Counts the bytes that begin, end or separate JSON values, including those inside strings. */
static uint64_t count_structure(const char *data, size_t n) {
    uint64_t count = 0;
    for (size_t i = 0; i < n; i++) {
        char ch = data[i];
        count += (uint64_t)((ch == '{') + (ch == '[') + (ch == ',') + (ch == ':'));
    }
    return count;
}

/* Stores a piece and enters the bytes held. A large announced body gets its whole buffer at once:
 * the kernel gives pages as they fill, so only the filled part counts. A small body, or one of
 * unknown length, grows its buffer, and the whole buffer counts. */
static void keep_piece(srv_req *req, const char *data, size_t n) {
    if (req->body.cap == 0 && req->body_announced <= req->server->opts.max_body) {
        size_t announced = (size_t)req->body_announced;
        if (announced >= SRV_LARGE_BYTES && buf_reserve(&req->body, announced) != 0)
            req->body.failed = false; /* growing may still do */
    }
    buf_append(&req->body, data, n);
    req->body_structure += count_structure(data, n);
    bool paged = req->body.cap > SRV_LARGE_BYTES && req->body.cap > req->body.len + PAGE_BYTES;
    srv_hold_set(&req->held_body, paged ? req->body.len + PAGE_BYTES : req->body.cap);
}

void srv_body_too_large(srv_req *req) {
    srv_refuse(req, 413, "the request body is larger than this server accepts", NULL);
}

static void answer_early(srv_req *req) {
    (void)srv_answer_early(req->conn, req->refusal.status, req->refusal.message, req->refusal.code);
}

void srv_body_late(srv_req *req) {
    srv_refuse(req, 408, "the request body did not arrive in time", NULL);
    answer_early(req);
}

/* A chunk costs at least six bytes of framing. */
static uint64_t framing_bytes(const srv_req *req) {
    return (uint64_t)req->body_pieces * 6;
}

bool srv_body_piece(srv_req *req, const char *data, size_t n) {
    srv *server = req->server;
    req->body_seen += n;
    req->body_pieces++;
    server->counts.bytes_in += n;
    uint64_t framing = framing_bytes(req);
    bool mostly_framing = framing > (100 << 10) && framing > 4 * req->body_seen;
    if (req->body_seen > server->opts.max_body || mostly_framing) srv_body_too_large(req);
    req->conn->deadline_ns = deadline(req, clock_ns());
    if (req->state == REQ_REFUSED) {
        if (req->body_seen + framing <= SRV_DISCARD && (!mostly_framing || framing <= (400 << 10)))
            return true;
        answer_early(req);
        return false;
    }
    keep_piece(req, data, n);
    if (req->body.failed) {
        srv_refuse(req, 503,
                   "the server has no memory left for this request body; try again shortly",
                   "overloaded");
    }
    if (srv_ledger_full(server->ledger)) (void)srv_make_room(server, req);
    return req->state != REQ_CUT;
}
