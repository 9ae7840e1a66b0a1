/* ledger.c - the bytes that each client makes this server hold.
 *
 * A client is an API key or, without keys, the address of a peer. Bodies on their way in, parse
 * trees, work in the engine and answers on their way out are all entered here, so one ceiling
 * bounds their sum. The ledger only counts; evict.c decides. */
#include "server/ledger.h"

#include "base/map.h"

#include <stdlib.h>

const char *const srv_held_names[SRV_HELD_KINDS] = {"bodies", "parsing", "work", "answers"};

struct srv_ledger {
    size_t ceiling, share; /* bytes of all accounts together; bytes of one account */
    size_t total;          /* without the bytes that are leaving */
    size_t n_over;         /* accounts over their share */
    size_t by_kind[SRV_HELD_KINDS];
    list_link accounts;
    map by_id;
    srv_account nobody; /* shared by clients that came when memory had run out */
};

static void account_init(srv_account *account, srv_ledger *ledger, uint64_t id) {
    *account = (srv_account){.ledger = ledger, .id = id};
    list_init(&account->waiting);
    list_init(&account->turn_link);
    list_insert_before(&ledger->accounts, &account->ledger_link);
}

int srv_ledger_open(srv_ledger **out, size_t ceiling, size_t share, err *e) {
    srv_ledger *ledger = *out = calloc(1, sizeof *ledger);
    if (ledger == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the ledger");
    ledger->ceiling = ceiling;
    ledger->share = share;
    list_init(&ledger->accounts);
    account_init(&ledger->nobody, ledger, MAP_NONE);
    ledger->nobody.users = 1;
    return 0;
}

void srv_ledger_close(srv_ledger *ledger) {
    if (ledger == NULL) return;
    while (!list_empty(&ledger->accounts)) {
        srv_account *account = OWNER_OF(ledger->accounts.next, srv_account, ledger_link);
        list_remove(&account->ledger_link);
        if (account != &ledger->nobody) free(account);
    }
    map_deinit(&ledger->by_id);
    free(ledger);
}

static srv_account *account_new(srv_ledger *ledger, uint64_t id) {
    if (id == MAP_NONE || map_reserve(&ledger->by_id, 1) != 0) return NULL;
    srv_account *account = calloc(1, sizeof *account);
    if (account == NULL) return NULL;
    account_init(account, ledger, id);
    map_put(&ledger->by_id, id, (uintptr_t)account);
    return account;
}

srv_account *srv_account_find(const srv_ledger *ledger, uint64_t id) {
    uint64_t found = id == MAP_NONE ? MAP_NONE : map_get(&ledger->by_id, id);
    return found == MAP_NONE ? NULL : (srv_account *)(uintptr_t)found;
}

srv_account *srv_account_enter(srv_ledger *ledger, uint64_t id) {
    srv_account *account = srv_account_find(ledger, id);
    if (account == NULL) account = account_new(ledger, id);
    if (account == NULL) account = &ledger->nobody;
    account->users++;
    return account;
}

void srv_account_leave(srv_account *account) {
    if (account == NULL || --account->users > 0) return;
    map_drop(&account->ledger->by_id, account->id);
    list_remove(&account->ledger_link);
    free(account);
}

void srv_hold_begin(srv_hold *hold, srv_account *account, srv_held_kind kind) {
    *hold = (srv_hold){.account = account, .kind = kind};
    account->users++;
}

/* Adds bytes (a wrapped value subtracts) to the total and to the account. */
static void count(srv_account *account, size_t more) {
    srv_ledger *ledger = account->ledger;
    bool was_over = account->bytes > ledger->share;
    ledger->total += more;
    account->bytes += more;
    ledger->n_over += (size_t)(account->bytes > ledger->share) - (size_t)was_over;
}

void srv_hold_set(srv_hold *hold, size_t bytes) {
    if (hold->account == NULL || hold->bytes == bytes) return;
    hold->account->ledger->by_kind[hold->kind] += bytes - hold->bytes;
    if (!hold->leaving) count(hold->account, bytes - hold->bytes);
    hold->bytes = bytes;
}

void srv_hold_leave(srv_hold *hold) {
    if (hold->account == NULL || hold->leaving) return;
    hold->leaving = true;
    count(hold->account, 0 - hold->bytes);
}

void srv_hold_end(srv_hold *hold) {
    if (hold->account == NULL) return;
    srv_hold_set(hold, 0);
    srv_account_leave(hold->account);
    *hold = (srv_hold){0};
}

bool srv_ledger_full(const srv_ledger *ledger) {
    return ledger->total > ledger->ceiling || ledger->n_over > 0;
}

srv_account *srv_ledger_over(srv_ledger *ledger) {
    if (!srv_ledger_full(ledger)) return NULL;
    srv_account *most = &ledger->nobody;
    for (list_link *at = ledger->accounts.next; at != &ledger->accounts; at = at->next) {
        srv_account *account = OWNER_OF(at, srv_account, ledger_link);
        if (account->bytes > most->bytes) most = account;
    }
    return most;
}

bool srv_ledger_fits(const srv_ledger *ledger, const srv_account *account, size_t bytes) {
    return ledger->total <= ledger->ceiling && bytes <= ledger->ceiling - ledger->total &&
           account->bytes <= ledger->share && bytes <= ledger->share - account->bytes;
}

size_t srv_ledger_held(const srv_ledger *ledger, srv_held_kind kind) {
    return ledger->by_kind[kind];
}

size_t srv_ledger_ceiling(const srv_ledger *ledger) {
    return ledger->ceiling;
}

bool srv_ledger_is_empty(const srv_ledger *ledger) {
    for (size_t i = 0; i < SRV_HELD_KINDS; i++) {
        if (ledger->by_kind[i]) return false;
    }
    return ledger->total == 0 && ledger->accounts.next == &ledger->nobody.ledger_link &&
           ledger->nobody.ledger_link.next == &ledger->accounts;
}
