/* test_srv_request.c - the table of a request's states and events, pair by pair. */
#include "server/server_internal.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

TestSuite(srv_request, .fini = fail_on_leaks);

#define NAME(name, text) #name,
static const char *const states[] = {REQ_STATES(NAME)};
static const char *const events[] = {REQ_EVENTS(NAME)};
#undef NAME

/* One row for each state, one column for each event, in the order of the enumerations: the next
 * state by its first two letters (BR: BREAKING), or "--" where the event cannot happen. */
static const char *const wanted[REQ_N_STATES] = {
    /* AC RE WH BE PA PD SU AN ST OU CO FA SE HC HU SP SH EN */
    "BO HA -- -- -- -- -- AN -- -- -- -- -- -- -- HE CU DO", /* HEAD: no watch before the body */
    "-- RE WH HA -- -- -- AN -- -- -- -- -- CU CU BO CU DO", /* BODY: half a body is no request */
    "-- RE -- HA -- -- -- AN -- -- -- -- -- CU CU RE CU DO", /* REFUSED */
    "-- HA -- HA -- -- -- -- -- -- -- -- -- WH CU WH CU DO", /* WHOLE */
    "-- HA -- -- PA -- WA AN ST -- -- -- -- -- -- -- CU --", /* HANDLED: nothing else runs */
    "-- HA -- -- -- HA -- -- -- -- -- -- -- PA CU HA CU DO", /* PARSING */
    "-- HA -- -- -- -- -- AN ST ST EN -- -- WA CU HA CU DO", /* WAITING */
    "-- CU -- -- -- -- -- -- -- ST EN BR -- ST CU BR CU DO", /* STREAMING */
    "-- CU -- -- -- -- -- -- -- -- -- -- AN EN CU EN CU DO", /* ENDING: no output after the last */
    "-- CU -- -- -- -- -- -- -- -- -- -- CU BR CU BR CU DO", /* BREAKING: its work is withdrawn */
    "-- CU -- -- -- -- -- -- -- -- -- -- -- AN CU AN CU DO", /* ANSWERED: once */
    "-- CU -- -- -- -- -- -- -- -- -- -- -- CU CU CU CU DO", /* CUT */
    "-- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- -- --", /* DONE: it does not exist */
};

Test(srv_request, every_pair_of_state_and_event_is_a_row_or_impossible) {
    for (unsigned state = 0; state < REQ_N_STATES; state++) {
        cr_assert_eq(strlen(wanted[state]), 3 * REQ_N_EVENTS - 1);
        for (unsigned event = 0; event < REQ_N_EVENTS; event++) {
            req_state next = REQ_DONE;
            const char *want = wanted[state] + 3 * (size_t)event;
            bool possible = srv_transition(state, event, &next);
            cr_expect_eq(possible, want[0] != '-', "%s in %s", events[event], states[state]);
            if (possible && want[0] != '-')
                cr_expect_eq(strncmp(states[next], want, 2), 0, "%s in %s: to %s", events[event],
                             states[state], states[next]);
        }
    }
}

/* The states that a chain of events can lead to from `state`. */
static unsigned reach(unsigned from) {
    unsigned seen = 1U << from, before = 0;
    while (seen != before) {
        before = seen;
        for (unsigned state = 0; state < REQ_N_STATES; state++) {
            for (unsigned event = 0; (seen >> state & 1) && event < REQ_N_EVENTS; event++) {
                req_state next;
                if (srv_transition(state, event, &next)) seen |= 1U << next;
            }
        }
    }
    return seen;
}

Test(srv_request, every_state_is_reached_and_every_state_ends) {
    cr_assert_eq(reach(REQ_HEAD), (1U << REQ_N_STATES) - 1);
    for (unsigned state = 0; state < REQ_N_STATES; state++)
        cr_assert(reach(state) >> REQ_DONE & 1, "%s never ends", states[state]);
}

Test(srv_request, a_request_never_returns_to_an_earlier_part_of_its_life) {
    cr_assert_not(reach(REQ_HANDLED) & (1U << REQ_HEAD | 1U << REQ_BODY | 1U << REQ_REFUSED));
    cr_assert_not(reach(REQ_STREAMING) & (1U << REQ_HANDLED | 1U << REQ_WAITING));
    cr_assert_eq(reach(REQ_ANSWERED), 1U << REQ_ANSWERED | 1U << REQ_CUT | 1U << REQ_DONE);
    cr_assert_eq(reach(REQ_CUT), 1U << REQ_CUT | 1U << REQ_DONE);
}

static srv *server_with_a_listener(void) {
    srv *server = calloc(1, sizeof *server);
    server->opts = server_opts_default();
    err e = {0};
    cr_assert_eq(srv_ledger_open(&server->ledger, 1 << 20, 1 << 20, &e), 0);
    list_init(&server->conns);
    list_init(&server->reqs);
    srv_listener_init(&server->main, server, 8);
    return server;
}

Test(srv_request, an_impossible_event_ends_its_request_and_nothing_else) {
    srv *server = server_with_a_listener();
    log_set_level(LOG_ALERT);
    for (unsigned state = 0; state < REQ_DONE; state++) {
        for (unsigned event = 0; event < REQ_N_EVENTS; event++) {
            req_state next;
            int ends[2];
            char byte;
            if (srv_transition(state, event, &next)) continue;
            cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends), 0);
            srv_conn *conn = srv_conn_open(&server->main, ends[0], NULL);
            srv_req req = {.server = server, .conn = conn, .state = state, .key = -1};
            conn->req = &req;
            cr_expect_not(srv_step(&req, event));
            cr_expect_eq(req.state, event == REQ_EV_END ? REQ_DONE : REQ_CUT);
            if (event != REQ_EV_END)
                cr_expect_eq(read(ends[1], &byte, 1), 0, "its connection is shut down");
            srv_conn_close(conn);
            close(ends[0]);
            close(ends[1]);
        }
    }
    log_set_level(LOG_INFO);
    cr_assert(srv_ledger_is_empty(server->ledger));
    srv_ledger_close(server->ledger);
    free(server);
}
