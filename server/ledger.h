/* ledger.h - who makes the server hold how many bytes; the loop thread's alone.
 *
 * Private to server/. Nothing here knows of connections or requests, so it is tested alone. */
#ifndef FATHOM_SERVER_LEDGER_H
#define FATHOM_SERVER_LEDGER_H

#include "base/err.h"
#include "base/list.h"

typedef struct srv_ledger srv_ledger;

typedef enum {
    SRV_HELD_BODY,   /* bodies being received */
    SRV_HELD_PARSE,  /* bodies with a worker, and what parsing them may take */
    SRV_HELD_WORK,   /* requests in the engine and what they have put out */
    SRV_HELD_ANSWER, /* answers on their way out */
    SRV_HELD_KINDS
} srv_held_kind;
extern const char *const srv_held_names[SRV_HELD_KINDS]; /* as labels of a metric */

/* One client: an API key, or the address of a peer. It lives while somebody uses it. */
typedef struct {
    list_link ledger_link; /* in the ledger */
    srv_ledger *ledger;
    uint64_t id;
    uint32_t n_conns; /* of an address that is held to a limit of them */
    uint32_t users;   /* connections, requests and holds that name it */
    size_t bytes;     /* of its holds, less those that are leaving */
    /* parse.c: bodies that wait for a worker, in order; processor time its bodies took. */
    list_link waiting, turn_link;
    unsigned n_waiting, n_running;
    uint64_t parse_ns;
} srv_account;

/* `ceiling` bytes in all, of which one account may hold `share`. */
int srv_ledger_open(srv_ledger **out, size_t ceiling, size_t share, err *e) WARN_UNUSED;
void srv_ledger_close(srv_ledger *ledger); /* NULL is fine */
/* The account of this id, made if need be. Never NULL: when memory runs out, one that all such
 * clients share. Each enter needs a leave. */
srv_account *srv_account_enter(srv_ledger *ledger, uint64_t id);
srv_account *srv_account_find(const srv_ledger *ledger, uint64_t id); /* NULL: nobody uses it */
void srv_account_leave(srv_account *account);                         /* NULL is fine */

/* Bytes held for one purpose. The zero value holds nothing; set and end then do nothing. */
typedef struct {
    srv_account *account;
    srv_held_kind kind;
    bool leaving;
    size_t bytes;
} srv_hold;
void srv_hold_begin(srv_hold *hold, srv_account *account, srv_held_kind kind);
void srv_hold_set(srv_hold *hold, size_t bytes);
/* What is held is about to be freed by somebody else (the engine, a worker, the HTTP library):
 * it no longer counts against the ceiling. */
void srv_hold_leave(srv_hold *hold);
void srv_hold_end(srv_hold *hold);

/* The account that holds most if there is more than the ceiling or its share allows, or NULL. */
srv_account *srv_ledger_over(srv_ledger *ledger);
bool srv_ledger_full(
    const srv_ledger *ledger); /* the same question, without looking for the account */
bool srv_ledger_fits(const srv_ledger *ledger, const srv_account *account,
                     size_t bytes); /* so many more */
size_t srv_ledger_held(const srv_ledger *ledger, srv_held_kind kind);
size_t srv_ledger_ceiling(const srv_ledger *ledger);
bool srv_ledger_is_empty(const srv_ledger *ledger); /* no bytes and no accounts: for tests */

#endif
