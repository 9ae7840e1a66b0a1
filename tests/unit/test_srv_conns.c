/* test_srv_conns.c - how many connections one address may have, by whatever form of address. */
#include "server/server_internal.h"
#include "tests/lib/testlib.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

TestSuite(srv_conns, .fini = fail_on_leaks);

static struct sockaddr_storage from(const char *text) {
    struct sockaddr_storage a = {0};
    struct sockaddr_in *four = (struct sockaddr_in *)(void *)&a;
    struct sockaddr_in6 *six = (struct sockaddr_in6 *)(void *)&a;
    bool v6 = strchr(text, ':') != NULL;
    a.ss_family = v6 ? AF_INET6 : AF_INET;
    void *to = v6 ? (void *)&six->sin6_addr : (void *)&four->sin_addr;
    cr_assert_eq(inet_pton(a.ss_family, text, to), 1, "%s", text);
    return a;
}

static srv *server_of(uint64_t connections, uint64_t per_ip) {
    srv *s = calloc(1, sizeof *s);
    s->opts = server_opts_default();
    s->opts.max_connections = connections;
    s->opts.max_per_ip = per_ip;
    s->id_seed = 0x1234567;
    err e = {0};
    cr_assert_eq(srv_ledger_open(&s->ledger, 1 << 20, 1 << 20, &e), 0);
    list_init(&s->conns);
    list_init(&s->reqs);
    srv_listener_init(&s->main, s, connections);
    srv_listener_init(&s->admin, s, 64);
    s->admin.admin = true;
    return s;
}

/* Opens while it is welcome; the connections stay open. At most `most`. */
static unsigned open_from(srv_listener *at, const char *text, unsigned most) {
    struct sockaddr_storage a = from(text);
    const struct sockaddr *addr = (const struct sockaddr *)(const void *)&a;
    unsigned n = 0;
    while (n < most && srv_conn_welcome(at, addr)) {
        cr_assert_not_null(srv_conn_open(at, -1, addr));
        n++;
    }
    return n;
}

static void close_all(srv *s) {
    while (!list_empty(&s->conns))
        srv_conn_close(OWNER_OF(s->conns.next, srv_conn, conns_link));
    cr_assert(srv_ledger_is_empty(s->ledger), "no address is remembered for nothing");
    cr_assert_eq(s->n_conns + s->main.n_conns + s->main.n_cut + s->admin.n_conns, 0);
    srv_ledger_close(s->ledger);
    free(s);
}

Test(srv_conns, by_default_an_address_has_a_quarter_and_this_machine_all) {
    srv *s = server_of(4000, SERVER_UNSET);
    cr_expect_eq(open_from(&s->main, "10.0.0.1", 3000), 1000);
    cr_expect_eq(open_from(&s->main, "10.0.0.2", 10), 10, "others are not touched");
    cr_expect_eq(open_from(&s->main, "2001:db8::1", 3000), 1000);
    cr_expect_eq(open_from(&s->main, "2001:db8::ffff:1", 10), 0, "one customer's own half");
    cr_expect_eq(open_from(&s->main, "2001:db8:0:1::1", 10), 10);
    cr_expect_eq(open_from(&s->main, "::ffff:10.0.0.1", 10), 0, "the same address in another form");
    cr_expect_eq(open_from(&s->main, "127.0.0.1", 1500), 1500);
    cr_expect_eq(open_from(&s->main, "::1", 1500), 1500);
    cr_expect_eq(open_from(&s->main, "::ffff:127.0.0.1", 1500), 1500);
    cr_expect_eq(s->counts.refused_address, 4);
    close_all(s);
}

Test(srv_conns, a_small_limit_leaves_an_address_what_a_browser_opens) {
    srv *s = server_of(100, SERVER_UNSET);
    cr_expect_eq(open_from(&s->main, "10.0.0.1", 100), 100);
    close_all(s);
}

Test(srv_conns, a_limit_that_was_given_counts_this_machine_too_and_0_is_none) {
    srv *s = server_of(4000, 7);
    cr_expect_eq(open_from(&s->main, "127.0.0.1", 100), 7);
    cr_expect_eq(open_from(&s->admin, "127.0.0.1", 20), 20, "not on the admin port");
    close_all(s);
    s = server_of(4000, 0);
    cr_expect_eq(open_from(&s->main, "10.0.0.1", 4000), 4000);
    close_all(s);
}

Test(srv_conns, a_closed_connection_leaves_its_place) {
    srv *s = server_of(4000, 1);
    for (unsigned i = 0; i < 100; i++) {
        cr_assert_eq(open_from(&s->main, "10.0.0.1", 10), 1);
        srv_conn_close(OWNER_OF(s->conns.next, srv_conn, conns_link));
    }
    close_all(s);
}
