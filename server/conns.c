/* conns.c - which connections there are, and who goes when there are too many.
 *
 * A connection is busy from complete headers to the end of its answer, and rests otherwise.
 * Resting ones stand in two lists by how long they rest: those that never brought a request and
 * those that did. Above nine tenths of a listener's limit each newcomer costs the longest rest,
 * so that a probe, or anybody, comes in however many connections lie about. Busy ones are never
 * closed for room, nor is who came a moment ago. libmicrohttpd stops accepting at the limit. */
#include "base/clock.h"
#include "server/server_internal.h"

#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

enum { TRIES = 8, PER_NEWCOMER = 2 };
/* What a newcomer may take for its first request in a crowd, and when the last place is taken. */
#define CROWD_NS UINT64_C(1000000000)
#define FULL_NS UINT64_C(100000000)

void srv_listener_init(srv_listener *at, srv *s, uint64_t limit) {
    at->s = s;
    at->limit = (unsigned)limit;
    list_init(&at->fresh);
    list_init(&at->rested);
}

void srv_conn_cut(srv_conn *k) {
    if (k->cut) return;
    k->cut = true;
    k->at->n_cut++;
    list_remove(&k->rest);
    shutdown(k->fd, SHUT_RDWR); /* libmicrohttpd closes it at its next run */
}

/* ---- room for newcomers ---- */

/* The one to go: who took too long to say something, else who rests longest. Not one whose request
 * has come in meanwhile: that one goes to the end of its list. */
static srv_conn *longest_rest(srv_listener *at, const srv_conn *but, uint64_t patience) {
    uint64_t now = clock_ns();
    for (unsigned i = 0; i < TRIES; i++) {
        list_link *from = &at->fresh;
        if (list_empty(from) || now - OWNER_OF(from->next, srv_conn, rest)->rest_ns < patience)
            from = &at->rested;
        if (list_empty(from)) return NULL;
        srv_conn *k = OWNER_OF(from->next, srv_conn, rest);
        int unread = 0;
        if (k != but && (ioctl(k->fd, FIONREAD, &unread) != 0 || unread == 0)) return k;
        list_move_back(from, &k->rest);
        k->rest_ns = now;
    }
    return NULL;
}

static void make_room(srv_listener *at, unsigned most, const srv_conn *but) {
    for (unsigned i = 0; i < PER_NEWCOMER && at->n - at->n_cut > most; i++) {
        bool full = at->n - at->n_cut >= at->limit;
        srv_conn *k = longest_rest(at, but, full ? FULL_NS : CROWD_NS);
        if (k == NULL) return;
        at->s->counts.crowd_cut++;
        srv_conn_cut(k);
    }
}

void srv_conns_tick(srv_listener *at) {
    if (at->limit) make_room(at, at->limit - 1, NULL);
}

/* ---- addresses ---- */

/* An IPv4 address, or the half of an IPv6 address that one customer has to himself. */
static uint64_t peer_of(const struct sockaddr *a) {
    uint64_t half = 0;
    if (a == NULL) return 0;
    if (a->sa_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)(const void *)a)->sin_addr.s_addr);
    if (a->sa_family != AF_INET6) return 0;
    const struct in6_addr *six = &((const struct sockaddr_in6 *)(const void *)a)->sin6_addr;
    uint32_t four;
    memcpy(&four, six->s6_addr + 12, sizeof four);
    if (IN6_IS_ADDR_V4MAPPED(six)) return ntohl(four);
    if (!IN6_IS_ADDR_LOOPBACK(six)) memcpy(&half, six->s6_addr, sizeof half);
    return half;
}

/* The id of a peer's account, mixed with a secret, so that nobody picks addresses that meet in
 * the ledger's map. */
static uint64_t account_id(const srv *s, const struct sockaddr *a) {
    return (peer_of(a) ^ s->id_seed) % SRV_KEY_ACCOUNT;
}

/* Of this machine only as many as an option says: its connections are a proxy's, or its user's. */
static bool is_counted(const srv_listener *at, const struct sockaddr *a) {
    uint64_t peer = peer_of(a);
    bool local = peer == 0 || (peer >> 24 == 127 && at->s->o.max_per_ip == SERVER_UNSET);
    return !at->admin && !local;
}

/* Many share one address behind a proxy or a company's gateway, so the default leaves each a
 * quarter, and never fewer than a browser or a small proxy opens. */
uint64_t srv_conns_per_address(const server_opts *o) {
    uint64_t quarter = o->max_connections / 4;
    if (o->max_per_ip != SERVER_UNSET) return o->max_per_ip ? o->max_per_ip : UINT64_MAX;
    return quarter > 256 ? quarter : 256;
}

bool srv_conn_welcome(srv_listener *at, const struct sockaddr *from) {
    srv *s = at->s;
    if (!is_counted(at, from)) return true;
    const srv_account *a = srv_account_find(s->ledger, account_id(s, from));
    if (a == NULL || a->n_conns < srv_conns_per_address(&s->o)) return true;
    s->counts.refused_address++;
    return false;
}

/* ---- the life of a connection ---- */

srv_conn *srv_conn_open(srv_listener *at, int fd, const struct sockaddr *from) {
    srv *s = at->s;
    srv_conn *k = calloc(1, sizeof *k);
    if (k == NULL) return NULL;
    *k = (srv_conn){.s = s, .at = at, .fd = fd, .rest_ns = clock_ns()};
    k->account = srv_account_enter(s->ledger, account_id(s, from));
    k->counted = is_counted(at, from);
    k->account->n_conns += k->counted;
    srv_deadline(k, s->o.header_s);
    list_insert_before(&s->conns, &k->link);
    list_insert_before(&at->fresh, &k->rest);
    s->n_conns++;
    at->n++;
    s->counts.connections++;
    make_room(at, at->limit - at->limit / 10, k);
    return k;
}

void srv_conn_close(srv_conn *k) {
    srv *s = k->s;
    k->account->n_conns -= k->counted;
    list_remove(&k->link);
    list_remove(&k->rest);
    s->n_conns--;
    k->at->n--;
    k->at->n_cut -= k->cut;
    srv_account_leave(k->account);
    free(k);
}

void srv_conn_busy(srv_conn *k) {
    list_remove(&k->rest);
}

void srv_conn_rest(srv_conn *k) {
    srv_deadline(k, k->s->o.idle_s);
    if (k->cut || !list_empty(&k->rest)) return;
    k->rest_ns = clock_ns();
    list_insert_before(&k->at->rested, &k->rest);
    if (k->at->n - k->at->n_cut >= k->at->limit) make_room(k->at, k->at->limit - 1, k);
}
