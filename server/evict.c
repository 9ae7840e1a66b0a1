/* evict.c - whose request ends when all requests together hold more than the ceiling.
 *
 * The account that holds most gives something up, and of its requests the one that has held most
 * for longest without getting on: an upload that crawls, an answer that nobody reads. Work that
 * goes on counts little, so a client's stalled requests go before its busy ones. */
#include "base/clock.h"
#include "server/server_internal.h"

void srv_req_account(srv_req *r) {
    srv *s = r->s;
    r->account = r->conn->account;
    if (r->key >= 0) r->account = srv_account_enter(s->ledger, SRV_KEY_ACCOUNT + (uint64_t)r->key);
    else r->account->users++;
    srv_hold_begin(&r->held_body, r->account, SRV_HELD_BODY);
    srv_hold_begin(&r->held_answer, r->account, SRV_HELD_ANSWER);
}

static size_t staying(const srv_hold *h) {
    return h->leaving ? 0 : h->bytes;
}

size_t srv_req_held(const srv_req *r) {
    return staying(&r->held_body) + staying(&r->held_answer) +
           (r->gen ? staying(&r->gen->held) : 0) + (r->work ? srv_parse_held(r->work) : 0);
}

/* Since when the request has only held what it holds. */
static double idle_seconds(const srv_req *r, uint64_t now) {
    uint64_t since = now;
    if (r->state == REQ_READING) since = r->body_start_ns;
    else if (r->state == REQ_ANSWERED || r->out.len > r->out_at || r->more) since = r->last_out_ns;
    return now > since ? (double)(now - since) * 1e-9 : 0;
}

static srv_req *worst_of(srv *s, const srv_account *a, uint64_t now) {
    srv_req *worst = NULL;
    double most = 0;
    for (list_link *l = s->reqs.next; l != &s->reqs; l = l->next) {
        srv_req *r = OWNER_OF(l, srv_req, link);
        if (r->account != a) continue;
        double score = (double)srv_req_held(r) * (0.1 + idle_seconds(r, now));
        if (score > most) most = score, worst = r;
    }
    return worst;
}

static void evict(srv_req *r) {
    static const char why[] =
        "the memory that this server sets aside for requests is used up; try again shortly";
    switch (r->state) {
    case REQ_READING: /* no answer is possible before the end of the body, which is dropped */
        r->late = 503;
        buf_deinit(&r->body);
        srv_hold_set(&r->held_body, 0);
        return;
    case REQ_PARSING:
        srv_parse_forget(r);
        srv_answer_http(r, 503, why, "overloaded");
        return;
    case REQ_WAITING:
        if (r->gen) srv_engine_drop(r);
        srv_answer_http(r, 503, why, "overloaded");
        return;
    case REQ_STREAMING:
    case REQ_ANSWERED:
        srv_cut(r);
        srv_hold_leave(&r->held_answer);
        srv_req_wake(r);
        return;
    }
}

bool srv_make_room(srv *s, srv_req *r) {
    bool kept = true;
    uint64_t now = clock_ns();
    for (srv_account *a; (a = srv_ledger_over(s->ledger)) != NULL;) {
        srv_req *worst = worst_of(s, a, now);
        if (worst == NULL) break; /* what it holds is leaving */
        s->counts.evicted++;
        if (srv_log_budget(s)) {
            log_line(LOG_WARN,
                     "request %s was ended to free memory: it held %zu KB of --request-memory",
                     worst->id[0] ? worst->id : "-", srv_req_held(worst) >> 10);
        }
        kept = kept && worst != r;
        evict(worst);
    }
    return kept;
}
