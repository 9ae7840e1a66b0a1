/* conns.c - open connections; closes idle ones when there are too many.
 *
 * A connection is busy from the end of its headers to the end of its answer, and rests otherwise.
 * Two lists hold the resting connections, the longest resting first: one for connections without a
 * request so far, one for the others. Above nine tenths of a listener's limit, each new connection
 * closes the longest resting one, so a health probe gets in however many idle connections are open.
 * Busy connections and very new ones are never closed to make room. libmicrohttpd stops accepting
 * at the limit. */
#include "base/clock.h"
#include "server/server_internal.h"

#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

enum { TRIES = 8, PER_NEWCOMER = 2 };
/* Time that a new connection has for its first request: in a crowd, and when all places are
 * taken. */
#define CROWD_NS UINT64_C(1000000000)
#define FULL_NS UINT64_C(100000000)
#define HALF_CLOSED_S                                                                              \
    0.1 /* seconds that a connection stays after its peer's FIN and its answer                     \
         */

void srv_listener_init(srv_listener *at, srv *server, uint64_t limit) {
    at->server = server;
    at->limit = (unsigned)limit;
    list_init(&at->fresh);
    list_init(&at->rested);
}

void srv_conn_cut(srv_conn *conn) {
    if (conn->cut) return;
    conn->cut = true;
    conn->at->n_cut++;
    list_remove(&conn->rest_link);
    shutdown(conn->fd, SHUT_RDWR); /* libmicrohttpd closes it at its next run */
}

/* ---- room for new connections ---- */

/* The connection to close: one that took too long to send its first request, else the longest
 * resting one. A connection with unread input is not idle: it moves to the end of its list. */
static srv_conn *longest_rest(srv_listener *at, const srv_conn *except, uint64_t patience) {
    uint64_t now = clock_ns();
    for (unsigned i = 0; i < TRIES; i++) {
        list_link *from = &at->fresh;
        if (list_empty(from) || now - OWNER_OF(from->next, srv_conn, rest_link)->rest_ns < patience)
            from = &at->rested;
        if (list_empty(from)) return NULL;
        srv_conn *conn = OWNER_OF(from->next, srv_conn, rest_link);
        int unread = 0;
        if (conn != except && (ioctl(conn->fd, FIONREAD, &unread) != 0 || unread == 0)) return conn;
        list_move_back(from, &conn->rest_link);
        conn->rest_ns = now;
    }
    return NULL;
}

static void make_room(srv_listener *at, unsigned most, const srv_conn *except) {
    for (unsigned i = 0; i < PER_NEWCOMER && at->n_conns - at->n_cut > most; i++) {
        bool full = at->n_conns - at->n_cut >= at->limit;
        srv_conn *conn = longest_rest(at, except, full ? FULL_NS : CROWD_NS);
        if (conn == NULL) return;
        at->server->counts.crowd_cut++;
        srv_conn_cut(conn);
    }
}

void srv_conns_tick(srv_listener *at) {
    if (at->limit) make_room(at, at->limit - 1, NULL);
}

/* ---- addresses ---- */

/* An IPv4 address, or the upper half of an IPv6 address, which identifies one customer. */
static uint64_t peer_of(const struct sockaddr *addr) {
    uint64_t half = 0;
    if (addr == NULL) return 0;
    if (addr->sa_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)(const void *)addr)->sin_addr.s_addr);
    if (addr->sa_family != AF_INET6) return 0;
    const struct in6_addr *six = &((const struct sockaddr_in6 *)(const void *)addr)->sin6_addr;
    uint32_t four;
    memcpy(&four, six->s6_addr + 12, sizeof four);
    if (IN6_IS_ADDR_V4MAPPED(six)) return ntohl(four);
    if (!IN6_IS_ADDR_LOOPBACK(six)) memcpy(&half, six->s6_addr, sizeof half);
    return half;
}

/* The id of a peer's account. It is mixed with a secret, so that addresses cannot be chosen to
 * collide in the ledger's map. */
static uint64_t account_id(const srv *server, const struct sockaddr *addr) {
    return (peer_of(addr) ^ server->id_seed) % SRV_KEY_ACCOUNT;
}

/* Connections of this machine belong to a proxy or to its user, so only --max-connections-per-ip
 * limits them. */
static bool is_counted(const srv_listener *at, const struct sockaddr *addr) {
    uint64_t peer = peer_of(addr);
    bool local = peer == 0 || (peer >> 24 == 127 && at->server->opts.max_per_ip == SERVER_UNSET);
    return !at->admin && !local;
}

/* Many clients share one address behind a proxy or a company's gateway. So the default is a quarter
 * of all connections, and never fewer than a browser or a small proxy opens. */
uint64_t srv_conns_per_address(const server_opts *opts) {
    uint64_t quarter = opts->max_connections / 4;
    if (opts->max_per_ip != SERVER_UNSET) return opts->max_per_ip ? opts->max_per_ip : UINT64_MAX;
    return quarter > 256 ? quarter : 256;
}

bool srv_conn_welcome(srv_listener *at, const struct sockaddr *from) {
    srv *server = at->server;
    if (!is_counted(at, from)) return true;
    const srv_account *account = srv_account_find(server->ledger, account_id(server, from));
    if (account == NULL || account->n_conns < srv_conns_per_address(&server->opts)) return true;
    server->counts.refused_address++;
    return false;
}

/* ---- the life of a connection ---- */

srv_conn *srv_conn_open(srv_listener *at, int fd, const struct sockaddr *from) {
    srv *server = at->server;
    srv_conn *conn = calloc(1, sizeof *conn);
    if (conn == NULL) return NULL;
    *conn = (srv_conn){.server = server, .at = at, .fd = fd, .rest_ns = clock_ns()};
    conn->account = srv_account_enter(server->ledger, account_id(server, from));
    conn->counted = is_counted(at, from);
    conn->account->n_conns += conn->counted;
    srv_deadline(conn, server->opts.header_s);
    list_insert_before(&server->conns, &conn->conns_link);
    list_insert_before(&at->fresh, &conn->rest_link);
    server->n_conns++;
    at->n_conns++;
    server->counts.connections++;
    make_room(at, at->limit - at->limit / 10, conn);
    return conn;
}

void srv_conn_close(srv_conn *conn) {
    srv *server = conn->server;
    conn->account->n_conns -= conn->counted;
    list_remove(&conn->conns_link);
    list_remove(&conn->rest_link);
    server->n_conns--;
    conn->at->n_conns--;
    conn->at->n_cut -= conn->cut;
    srv_account_leave(conn->account);
    free(conn);
}

void srv_conn_busy(srv_conn *conn) {
    list_remove(&conn->rest_link);
}

/* The library does not notice a FIN that came with the last bytes it read. */
static bool has_ended(srv_conn *conn) {
    char byte;
    if (!conn->half_closed && recv(conn->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0)
        conn->half_closed = true;
    return conn->half_closed;
}

void srv_conn_rest(srv_conn *conn) {
    /* A request that was sent ahead may still be in the library's memory. */
    srv_deadline(conn, has_ended(conn) ? HALF_CLOSED_S : conn->server->opts.idle_s);
    if (conn->cut || !list_empty(&conn->rest_link)) return;
    conn->rest_ns = clock_ns();
    list_insert_before(&conn->at->rested, &conn->rest_link);
    if (conn->at->n_conns - conn->at->n_cut >= conn->at->limit)
        make_room(conn->at, conn->at->limit - 1, conn);
}
