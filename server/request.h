/* request.h - a request and its life, as states and events.
 *
 * Private to server/. A request is in one state. All changes go through srv_step: a table in
 * request.c names, for each state and event, the next state and the action. The loop thread owns
 * every request. */
#ifndef FATHOM_SERVER_REQUEST_H
#define FATHOM_SERVER_REQUEST_H

#include "api/api.h"
#include "base/list.h"
#include "server/framing.h"
#include "server/ledger.h"

#include <uv.h>

typedef struct srv srv;
typedef struct srv_conn srv_conn;
typedef struct srv_req srv_req;
typedef struct srv_job srv_job;
typedef struct srv_work srv_work;
typedef struct srv_route srv_route;
struct srv_asset;
struct MHD_Connection;

/* In this order: up to REFUSED a request is still arriving. */
#define REQ_STATES(X)                                                                              \
    X(HEAD, "head")           /* its head arrives or is checked */                                 \
    X(BODY, "body")           /* its body arrives */                                               \
    X(REFUSED, "refused")     /* its body arrives and is dropped; its refusal follows */           \
    X(WHOLE, "whole")         /* it has arrived; the HTTP library stops reading */                 \
    X(HANDLED, "handled")     /* its answer is decided now, on the stack of the loop */            \
    X(PARSING, "parsing")     /* its body waits for a worker or is at one; suspended */            \
    X(WAITING, "waiting")     /* in the engine, without output so far; suspended */                \
    X(STREAMING, "streaming") /* its answer is sent while it grows */                              \
    X(ENDING, "ending")       /* all bytes of its answer are in `out` */                           \
    X(BREAKING, "breaking")   /* the answer ends after the bytes in `out`, without its end mark */ \
    X(ANSWERED, "answered")   /* the HTTP library has the whole answer */                          \
    X(CUT, "cut")             /* gets no further byte; its connection ends */                      \
    X(DONE, "done")           /* the HTTP library is done with it */

#define REQ_EVENTS(X)                                                                              \
    X(ACCEPT, "accept")         /* its head is fine */                                             \
    X(REFUSE, "refuse")         /* it gets `refusal` instead of an answer, or is cut */            \
    X(WHOLE, "whole")           /* it has arrived whole, and may wait for its answer */            \
    X(BODY_END, "body end")     /* its answer is due */                                            \
    X(PARSE, "parse")           /* its body needs a worker */                                      \
    X(PARSED, "parsed")         /* the worker is done */                                           \
    X(SUBMIT, "submit")         /* its sequences are in the engine */                              \
    X(ANSWER, "answer")         /* a whole answer is given to the HTTP library */                  \
    X(STREAM, "stream")         /* an answer begins that is written piece by piece */              \
    X(OUTPUT, "output")         /* `out` has more bytes */                                         \
    X(COMPLETE, "complete")     /* `out` has the last bytes */                                     \
    X(FAIL, "fail")             /* the answer cannot go on after the bytes in `out` */             \
    X(SENT, "sent")             /* the HTTP library has taken all bytes of `out` */                \
    X(HALF_CLOSE, "half-close") /* its client sends no more; it may still read */                  \
    X(HANG_UP, "hang-up")       /* its client is gone */                                           \
    X(STOP, "stop")             /* the server ends */                                              \
    X(SHUT, "shut")             /* this server ends the connection */                              \
    X(END, "end")               /* the HTTP library is done with it */

#define STATE(name, text) REQ_##name,
#define EVENT(name, text) REQ_EV_##name,
typedef enum { REQ_STATES(STATE) REQ_N_STATES } req_state;
typedef enum { REQ_EVENTS(EVENT) REQ_N_EVENTS } req_event;
#undef STATE
#undef EVENT

/* Results of a request in the engine, for its log line and the histograms. */
typedef struct {
    bool engine, stream;
    bool client_left;                       /* before its answer was complete */
    uint64_t prompt, cached, output, loops; /* tokens; executed loops of output tokens */
    uint64_t first_token_ns, queued_ns;
    uint32_t sequences;
    const char *finish; /* "stop", "length", "cancelled", "failed"; NULL = not over */
} srv_outcome;

struct srv_req {
    list_link reqs_link; /* in srv.reqs */
    srv *server;
    srv_conn *conn;
    struct MHD_Connection *mhd;
    const srv_route *route;
    const struct srv_asset *asset; /* a file of the page */
    const char *tail; /* owned: the decoded rest of the path after a prefix route; or NULL */
    req_state state;
    bool suspended; /* in the HTTP library */
    bool close;     /* the connection ends with the answer */
    struct {
        unsigned status; /* 0 = not refused */
        const char *message, *code, *allow;
        char *text; /* owned: the message, if it was made for this request */
    } refusal;
    unsigned status;
    size_t target_bytes;
    uint64_t start_ns, last_out_ns; /* when bytes were last put into or taken out of `out` */
    uint64_t paused_ns;             /* of the time since start_ns: the process stood still */
    uint64_t body_start_ns, body_seen, body_announced;
    uint32_t body_pieces;
    char id[SRV_ID_MAX + 1]; /* X-Request-Id; "" = make one */
    int key;                 /* index of the API key; -1: the request has no key */
    const char *cors;        /* value of Access-Control-Allow-Origin, or NULL */
    buf body;
    buf out; /* bytes for the socket, from out_at on */
    size_t out_at;
    /* Source of the rest of an answer after its work is over; both NULL: all is in `out`. */
    api_reply *reply;
    api_listing *listing;
    bool more; /* reply, listing or job->reply has further bytes; they go into `out` as the socket
                  takes them */
    srv_account *account; /* of its key or, without keys, of its peer; NULL until known */
    srv_hold held_body, held_answer;
    uint64_t body_structure; /* bytes of the body that may become JSON values */
    srv_job *job;
    srv_work *work;
    srv_outcome outcome;
    uv_poll_t *watch; /* of the peer; from submission to the end */
};

/* request.c */
/* Applies an event. An event that the state does not allow is a bug of this server: it is logged,
 * and the request ends. False: it was such an event. */
bool srv_step(srv_req *req, req_event event);
/* Refuses a request in any state: answers it now, or after its body, or cuts its connection. The
 * first reason stands. */
void srv_refuse(srv_req *req, unsigned status, const char *message, const char *code);
/* The headers are complete; `body` says whether a body follows, `expects` whether the client waits
 * for "100 Continue". False: the connection must end now. */
typedef struct {
    const char *method, *target, *version;
    srv_framing framing;
} srv_head;
bool srv_req_head(srv_req *req, const srv_head *head) WARN_UNUSED;
/* For tests: whether the table has this pair, and the next state. */
bool srv_transition(req_state state, req_event event, req_state *next);
const char *srv_state_name(req_state state);

#endif
