/* test_srv_ledger.c - bytes held for clients: counted once, by account and by kind. */
#include "server/ledger.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <stdlib.h>

TestSuite(srv_ledger, .fini = fail_on_leaks);

static srv_ledger *open_ledger(size_t ceiling, size_t share) {
    srv_ledger *ledger;
    err e = {0};
    cr_assert_eq(srv_ledger_open(&ledger, ceiling, share, &e), 0, "%s", e.msg);
    return ledger;
}

Test(srv_ledger, an_account_lives_until_its_last_user_leaves) {
    srv_ledger *ledger = open_ledger(100, 100);
    srv_account *account = srv_account_enter(ledger, 7);
    cr_expect_eq(srv_account_enter(ledger, 7), account, "one id, one account");
    cr_expect_neq((void *)srv_account_enter(ledger, 8), (void *)account);
    srv_hold hold;
    srv_hold_begin(&hold, account, SRV_HELD_BODY);
    srv_account_leave(account);
    srv_account_leave(account);
    cr_expect_not(srv_ledger_is_empty(ledger));
    srv_hold_end(&hold); /* its last user */
    srv_account_leave(srv_account_enter(ledger, 8));
    cr_expect_not(srv_ledger_is_empty(ledger), "8 was entered twice and left once");
    srv_account *eight = srv_account_enter(ledger, 8);
    srv_account_leave(eight);
    srv_account_leave(eight);
    cr_expect(srv_ledger_is_empty(ledger));
    srv_ledger_close(ledger);
}

Test(srv_ledger, what_is_leaving_counts_as_held_but_not_against_the_ceiling) {
    srv_ledger *ledger = open_ledger(100, 100);
    srv_account *account = srv_account_enter(ledger, 1);
    srv_hold hold;
    srv_hold_begin(&hold, account, SRV_HELD_WORK);
    srv_hold_set(&hold, 150);
    cr_expect_eq(srv_ledger_over(ledger), account);
    srv_hold_leave(&hold);
    cr_expect_null(srv_ledger_over(ledger));
    cr_expect_eq(srv_ledger_held(ledger, SRV_HELD_WORK), 150u);
    srv_hold_set(&hold, 180);
    cr_expect_null(srv_ledger_over(ledger), "it may still grow until it is gone");
    srv_hold_end(&hold);
    cr_expect_eq(srv_ledger_held(ledger, SRV_HELD_WORK), 0u);
    srv_account_leave(account);
    cr_expect(srv_ledger_is_empty(ledger));
    srv_ledger_close(ledger);
}

Test(srv_ledger, beyond_the_ceiling_the_account_that_holds_most_is_named) {
    srv_ledger *ledger = open_ledger(100, 60);
    srv_account *first = srv_account_enter(ledger, 1), *second = srv_account_enter(ledger, 2);
    srv_hold one, two;
    srv_hold_begin(&one, first, SRV_HELD_BODY);
    srv_hold_begin(&two, second, SRV_HELD_ANSWER);
    srv_hold_set(&one, 50);
    srv_hold_set(&two, 50);
    cr_expect_not(srv_ledger_full(ledger), "100 of 100 is within it");
    cr_expect_not(srv_ledger_fits(ledger, first, 1));
    srv_hold_set(&two, 55);
    cr_expect_eq(srv_ledger_over(ledger), second);
    srv_hold_set(&one, 10);
    cr_expect_null(srv_ledger_over(ledger));
    cr_expect(srv_ledger_fits(ledger, first, 35) && !srv_ledger_fits(ledger, first, 36));
    srv_hold_set(&two, 61);
    cr_expect_eq(srv_ledger_over(ledger), second,
                 "beyond its own share, however little the others hold");
    srv_hold_end(&one);
    srv_hold_end(&two);
    srv_account_leave(first);
    srv_account_leave(second);
    cr_expect(srv_ledger_is_empty(ledger));
    srv_ledger_close(ledger);
}

/* After any order of set, leave and end the sums equal a plain recount. */
Test(srv_ledger, the_sums_are_those_of_a_recount) {
    enum { ACCOUNTS = 5, HOLDS = 40 };
    srv_ledger *ledger = open_ledger(100000, 40000);
    srv_hold holds[HOLDS] = {{0}};
    srand(7);
    for (int step = 0; step < 20000; step++) {
        srv_hold *hold = &holds[rand() % HOLDS];
        switch (rand() % 5) {
        case 0: srv_hold_end(hold); break;
        case 1: srv_hold_leave(hold); break;
        default:
            if (hold->account == NULL) {
                srv_account *account = srv_account_enter(ledger, (uint64_t)(rand() % ACCOUNTS));
                srv_hold_begin(hold, account, rand() % SRV_HELD_KINDS);
                srv_account_leave(account);
            }
            srv_hold_set(hold, (size_t)rand() % 9000);
        }
        size_t total = 0, by_account[ACCOUNTS] = {0}, by_kind[SRV_HELD_KINDS] = {0}, most = 0;
        for (int i = 0; i < HOLDS; i++) {
            if (holds[i].account == NULL) continue;
            by_kind[holds[i].kind] += holds[i].bytes;
            if (holds[i].leaving) continue;
            total += holds[i].bytes;
            by_account[holds[i].account->id] += holds[i].bytes;
        }
        for (int i = 0; i < ACCOUNTS; i++)
            most = by_account[i] > most ? by_account[i] : most;
        for (unsigned k = 0; k < SRV_HELD_KINDS; k++)
            cr_assert_eq(srv_ledger_held(ledger, k), by_kind[k]);
        srv_account *over = srv_ledger_over(ledger);
        cr_assert_eq(over != NULL, total > 100000 || most > 40000, "step %d", step);
        if (over) cr_assert_eq(over->bytes, most);
    }
    for (int i = 0; i < HOLDS; i++)
        srv_hold_end(&holds[i]);
    cr_expect(srv_ledger_is_empty(ledger));
    srv_ledger_close(ledger);
}
