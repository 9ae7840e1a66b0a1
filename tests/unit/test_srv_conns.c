/* test_srv_conns.c - the limit of connections of one address, in every form of the address. */
#include "server/server_internal.h"
#include "tests/lib/testlib.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

TestSuite(srv_conns, .fini = fail_on_leaks);

static struct sockaddr_storage from(const char *text) {
    struct sockaddr_storage addr = {0};
    struct sockaddr_in *four = (struct sockaddr_in *)(void *)&addr;
    struct sockaddr_in6 *six = (struct sockaddr_in6 *)(void *)&addr;
    bool v6 = strchr(text, ':') != NULL;
    addr.ss_family = v6 ? AF_INET6 : AF_INET;
    void *to = v6 ? (void *)&six->sin6_addr : (void *)&four->sin_addr;
    cr_assert_eq(inet_pton(addr.ss_family, text, to), 1, "%s", text);
    return addr;
}

static srv *server_of(uint64_t connections, uint64_t per_ip) {
    srv *server = calloc(1, sizeof *server);
    server->opts = server_opts_default();
    server->opts.max_connections = connections;
    server->opts.max_per_ip = per_ip;
    server->id_seed = 0x1234567;
    err e = {0};
    cr_assert_eq(srv_ledger_open(&server->ledger, 1 << 20, 1 << 20, &e), 0);
    list_init(&server->conns);
    list_init(&server->reqs);
    srv_listener_init(&server->main, server, connections);
    srv_listener_init(&server->admin, server, 64);
    server->admin.admin = true;
    return server;
}

/* Opens connections until one is refused, at most `most`, and leaves them open. */
static unsigned open_from(srv_listener *at, const char *text, unsigned most) {
    struct sockaddr_storage storage = from(text);
    const struct sockaddr *addr = (const struct sockaddr *)(const void *)&storage;
    unsigned n = 0;
    while (n < most && srv_conn_welcome(at, addr)) {
        cr_assert_not_null(srv_conn_open(at, -1, addr));
        n++;
    }
    return n;
}

static void close_all(srv *server) {
    while (!list_empty(&server->conns))
        srv_conn_close(OWNER_OF(server->conns.next, srv_conn, conns_link));
    cr_assert(srv_ledger_is_empty(server->ledger), "no address is remembered for nothing");
    cr_assert_eq(
        server->n_conns + server->main.n_conns + server->main.n_cut + server->admin.n_conns, 0);
    srv_ledger_close(server->ledger);
    free(server);
}

Test(srv_conns, by_default_an_address_has_a_quarter_and_this_machine_all) {
    srv *server = server_of(4000, SERVER_UNSET);
    cr_expect_eq(open_from(&server->main, "10.0.0.1", 3000), 1000);
    cr_expect_eq(open_from(&server->main, "10.0.0.2", 10), 10, "others are not touched");
    cr_expect_eq(open_from(&server->main, "2001:db8::1", 3000), 1000);
    cr_expect_eq(open_from(&server->main, "2001:db8::ffff:1", 10), 0, "one customer's own half");
    cr_expect_eq(open_from(&server->main, "2001:db8:0:1::1", 10), 10);
    cr_expect_eq(open_from(&server->main, "::ffff:10.0.0.1", 10), 0,
                 "the same address in another form");
    cr_expect_eq(open_from(&server->main, "127.0.0.1", 1500), 1500);
    cr_expect_eq(open_from(&server->main, "::1", 1500), 1500);
    cr_expect_eq(open_from(&server->main, "::ffff:127.0.0.1", 1500), 1500);
    cr_expect_eq(server->counts.refused_address, 4);
    close_all(server);
}

Test(srv_conns, a_small_limit_leaves_an_address_what_a_browser_opens) {
    srv *server = server_of(100, SERVER_UNSET);
    cr_expect_eq(open_from(&server->main, "10.0.0.1", 100), 100);
    close_all(server);
}

Test(srv_conns, a_limit_that_was_given_counts_this_machine_too_and_0_is_none) {
    srv *server = server_of(4000, 7);
    cr_expect_eq(open_from(&server->main, "127.0.0.1", 100), 7);
    cr_expect_eq(open_from(&server->admin, "127.0.0.1", 20), 20, "not on the admin port");
    close_all(server);
    server = server_of(4000, 0);
    cr_expect_eq(open_from(&server->main, "10.0.0.1", 4000), 4000);
    close_all(server);
}

Test(srv_conns, a_closed_connection_leaves_its_place) {
    srv *server = server_of(4000, 1);
    for (unsigned i = 0; i < 100; i++) {
        cr_assert_eq(open_from(&server->main, "10.0.0.1", 10), 1);
        srv_conn_close(OWNER_OF(server->conns.next, srv_conn, conns_link));
    }
    close_all(server);
}
