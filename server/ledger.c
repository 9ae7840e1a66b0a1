/* ledger.c - how many bytes each client makes this server hold.
 *
 * A client is an API key or, without keys, the address of a peer. Bodies on their way in, parse
 * trees, work in the engine and answers on their way out are all entered here, so that one
 * ceiling bounds them together. The ledger decides nothing: evict.c does, by what stands here. */
#include "server/ledger.h"

#include "base/map.h"

#include <stdlib.h>

const char *const srv_held_names[SRV_HELD_KINDS] = {"bodies", "parsing", "work", "answers"};

struct srv_ledger {
    size_t ceiling, share; /* bytes in all, and of one account */
    size_t total;          /* less what is leaving */
    size_t n_over;         /* accounts beyond their share */
    size_t by_kind[SRV_HELD_KINDS];
    list_link accounts;
    map by_id;
    srv_account nobody; /* of clients for whom there was no memory */
};

static void account_init(srv_account *a, srv_ledger *l, uint64_t id) {
    *a = (srv_account){.ledger = l, .id = id};
    list_init(&a->waiting);
    list_init(&a->turn);
    list_insert_before(&l->accounts, &a->link);
}

int srv_ledger_open(srv_ledger **out, size_t ceiling, size_t share, err *e) {
    srv_ledger *l = *out = calloc(1, sizeof *l);
    if (l == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the ledger");
    l->ceiling = ceiling;
    l->share = share;
    list_init(&l->accounts);
    account_init(&l->nobody, l, MAP_NONE);
    l->nobody.users = 1;
    return 0;
}

void srv_ledger_close(srv_ledger *l) {
    if (l == NULL) return;
    while (!list_empty(&l->accounts)) {
        srv_account *a = OWNER_OF(l->accounts.next, srv_account, link);
        list_remove(&a->link);
        if (a != &l->nobody) free(a);
    }
    map_deinit(&l->by_id);
    free(l);
}

static srv_account *account_new(srv_ledger *l, uint64_t id) {
    if (id == MAP_NONE || map_reserve(&l->by_id, 1) != 0) return NULL;
    srv_account *a = calloc(1, sizeof *a);
    if (a == NULL) return NULL;
    account_init(a, l, id);
    map_put(&l->by_id, id, (uintptr_t)a);
    return a;
}

srv_account *srv_account_find(const srv_ledger *l, uint64_t id) {
    uint64_t found = id == MAP_NONE ? MAP_NONE : map_get(&l->by_id, id);
    return found == MAP_NONE ? NULL : (srv_account *)(uintptr_t)found;
}

srv_account *srv_account_enter(srv_ledger *l, uint64_t id) {
    srv_account *a = srv_account_find(l, id);
    if (a == NULL) a = account_new(l, id);
    if (a == NULL) a = &l->nobody;
    a->users++;
    return a;
}

void srv_account_leave(srv_account *a) {
    if (a == NULL || --a->users > 0) return;
    map_drop(&a->ledger->by_id, a->id);
    list_remove(&a->link);
    free(a);
}

void srv_hold_begin(srv_hold *h, srv_account *a, srv_held_kind kind) {
    *h = (srv_hold){.account = a, .kind = kind};
    a->users++;
}

/* Counts bytes that came (or, wrapping, went) against the ceiling and the account's share. */
static void count(srv_account *a, size_t more) {
    srv_ledger *l = a->ledger;
    bool was_over = a->bytes > l->share;
    l->total += more;
    a->bytes += more;
    l->n_over += (size_t)(a->bytes > l->share) - (size_t)was_over;
}

void srv_hold_set(srv_hold *h, size_t bytes) {
    if (h->account == NULL || h->bytes == bytes) return;
    h->account->ledger->by_kind[h->kind] += bytes - h->bytes;
    if (!h->leaving) count(h->account, bytes - h->bytes);
    h->bytes = bytes;
}

void srv_hold_leave(srv_hold *h) {
    if (h->account == NULL || h->leaving) return;
    h->leaving = true;
    count(h->account, 0 - h->bytes);
}

void srv_hold_end(srv_hold *h) {
    if (h->account == NULL) return;
    srv_hold_set(h, 0);
    srv_account_leave(h->account);
    *h = (srv_hold){0};
}

bool srv_ledger_full(const srv_ledger *l) {
    return l->total > l->ceiling || l->n_over > 0;
}

srv_account *srv_ledger_over(srv_ledger *l) {
    if (!srv_ledger_full(l)) return NULL;
    srv_account *most = &l->nobody;
    for (list_link *at = l->accounts.next; at != &l->accounts; at = at->next) {
        srv_account *a = OWNER_OF(at, srv_account, link);
        if (a->bytes > most->bytes) most = a;
    }
    return most;
}

bool srv_ledger_fits(const srv_ledger *l, const srv_account *a, size_t bytes) {
    return l->total <= l->ceiling && bytes <= l->ceiling - l->total && a->bytes <= l->share &&
           bytes <= l->share - a->bytes;
}

size_t srv_ledger_held(const srv_ledger *l, srv_held_kind kind) {
    return l->by_kind[kind];
}

size_t srv_ledger_ceiling(const srv_ledger *l) {
    return l->ceiling;
}

bool srv_ledger_is_empty(const srv_ledger *l) {
    for (size_t i = 0; i < SRV_HELD_KINDS; i++) {
        if (l->by_kind[i]) return false;
    }
    return l->total == 0 && l->accounts.next == &l->nobody.link &&
           l->nobody.link.next == &l->accounts;
}
