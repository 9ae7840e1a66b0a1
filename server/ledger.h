/* ledger.h - the bytes that each client makes the server hold; for the loop thread only.
 *
 * Private to server/. Uses neither connections nor requests, so it is tested by itself. */
#ifndef FATHOM_SERVER_LEDGER_H
#define FATHOM_SERVER_LEDGER_H

#include "base/err.h"
#include "base/list.h"

typedef struct srv_ledger srv_ledger;

typedef enum {
    SRV_HELD_BODY,   /* bodies being received */
    SRV_HELD_PARSE,  /* bodies at a worker, and the memory that parsing them may take */
    SRV_HELD_WORK,   /* requests in the engine and their output so far */
    SRV_HELD_ANSWER, /* answers on their way out */
    SRV_HELD_KINDS
} srv_held_kind;
extern const char *const srv_held_names[SRV_HELD_KINDS]; /* as labels of a metric */

/* One client: an API key, or the address of a peer. Lives while it has users. */
typedef struct {
    list_link ledger_link; /* in the ledger */
    srv_ledger *ledger;
    uint64_t id;
    uint32_t n_conns; /* connections that count against the limit of one address */
    uint32_t users;   /* connections, requests and holds with a pointer to this account */
    size_t bytes;     /* of its holds, except those that are leaving */
    /* parse.c: bodies waiting for a worker, in order; processor time spent on its bodies. */
    list_link waiting, turn_link;
    unsigned n_waiting, n_running;
    uint64_t parse_ns;
} srv_account;

/* Sets limits in bytes: `ceiling` for all accounts together, `share` for one account. */
int srv_ledger_open(srv_ledger **out, size_t ceiling, size_t share, err *e) WARN_UNUSED;
void srv_ledger_close(srv_ledger *ledger); /* NULL is fine */
/* The account of this id, created if there is none. Never NULL: if memory runs out, such clients
 * share one account. Each enter needs a leave. */
srv_account *srv_account_enter(srv_ledger *ledger, uint64_t id);
srv_account *srv_account_find(const srv_ledger *ledger, uint64_t id); /* NULL: it has no users */
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
/* Stops counting the bytes against the ceiling, because another part (the engine, a worker, the
 * HTTP library) is about to free them. */
void srv_hold_leave(srv_hold *hold);
void srv_hold_end(srv_hold *hold);

/* If the ceiling or a share is exceeded: the account with the most bytes. Else NULL. */
srv_account *srv_ledger_over(srv_ledger *ledger);
bool srv_ledger_full(const srv_ledger *ledger); /* whether the ceiling or a share is exceeded */
bool srv_ledger_fits(const srv_ledger *ledger, const srv_account *account,
                     size_t bytes); /* would more bytes fit? */
size_t srv_ledger_held(const srv_ledger *ledger, srv_held_kind kind);
size_t srv_ledger_ceiling(const srv_ledger *ledger);
bool srv_ledger_is_empty(const srv_ledger *ledger); /* no bytes and no accounts: for tests */

#endif
