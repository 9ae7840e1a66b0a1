/* evict.c - ends requests when all requests together hold more bytes than the ceiling.
 *
 * The account with the most bytes loses a request: the one with the largest product of bytes and
 * seconds without progress, such as a slow upload or an unread answer. A request that makes
 * progress counts little, so a client's stalled requests end before its busy ones. */
#include "base/clock.h"
#include "server/server_internal.h"

void srv_req_account(srv_req *req) {
    srv *server = req->server;
    req->account = req->conn->account;
    if (req->key >= 0)
        req->account = srv_account_enter(server->ledger, SRV_KEY_ACCOUNT + (uint64_t)req->key);
    else req->account->users++;
    srv_hold_begin(&req->held_body, req->account, SRV_HELD_BODY);
    srv_hold_begin(&req->held_answer, req->account, SRV_HELD_ANSWER);
}

static size_t staying(const srv_hold *hold) {
    return hold->leaving ? 0 : hold->bytes;
}

size_t srv_req_held(const srv_req *req) {
    return staying(&req->held_body) + staying(&req->held_answer) +
           (req->job ? staying(&req->job->held) : 0) + (req->work ? srv_parse_held(req->work) : 0);
}

/* Seconds since the request last made progress. */
static double idle_seconds(const srv_req *req, uint64_t now) {
    uint64_t since = now;
    if (req->state <= REQ_REFUSED) since = req->body_start_ns;
    else if (req->state == REQ_ANSWERED || req->out.len > req->out_at || req->more)
        since = req->last_out_ns;
    return now > since ? (double)(now - since) * 1e-9 : 0;
}

static srv_req *worst_of(srv *server, const srv_account *account, uint64_t now) {
    srv_req *worst = NULL;
    double most = 0;
    for (list_link *node = server->reqs.next; node != &server->reqs; node = node->next) {
        srv_req *req = OWNER_OF(node, srv_req, reqs_link);
        if (req->account != account) continue;
        double score = (double)srv_req_held(req) * (0.1 + idle_seconds(req, now));
        if (score > most) most = score, worst = req;
    }
    return worst;
}

bool srv_make_room(srv *server, srv_req *req) {
    static const char why[] =
        "the memory that this server sets aside for requests is used up; try again shortly";
    bool kept = true;
    uint64_t now = clock_ns();
    for (srv_account *account; (account = srv_ledger_over(server->ledger)) != NULL;) {
        srv_req *worst = worst_of(server, account, now);
        if (worst == NULL) break; /* its bytes are already leaving */
        server->counts.evicted++;
        if (srv_log_budget(server)) {
            log_line(LOG_WARN,
                     "request %s was ended to free memory: it held %zu KB of --request-memory",
                     worst->id[0] ? worst->id : "-", srv_req_held(worst) >> 10);
        }
        kept = kept && worst != req;
        srv_refuse(worst, 503, why, "overloaded");
    }
    return kept;
}
