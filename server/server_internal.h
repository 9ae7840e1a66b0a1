/* server_internal.h - types and functions that the files of `fathom serve` share.
 *
 * One thread, the loop, owns everything here: sockets, requests, replies. It reaches the engine
 * thread through sched_thread_* only. A worker thread owns its srv_work until it is done. Only
 * mhd.c uses libmicrohttpd; all other files work with connections (srv_conn) and requests
 * (srv_req).
 *
 *   mhd.c        bytes to requests, answers to bytes, the pump
 *   conns.c      open connections; closes idle ones when there are too many
 *   framing.c    rules for a header block, checked before it is used (framing.h)
 *   target.c     the request target: absolute form, slashes, a list of near paths
 *   body.c       receives bodies; drops the body of a refused request
 *   early.c      answers before the end of a body; lingering sockets
 *   mhd_errors.c gives the library's own errors the body of all others
 *   hosts.c      whether Host names this server, and Origin this server's page
 *   cors.c       what pages of other origins may read and send
 *   route.c      the handler of each path; keys
 *   request.c    the life of a request: states and events (request.h)
 *   peer.c       notices clients that hang up
 *   parse.c      bodies to api_requests, large ones on a worker
 *   engine.c     submits sequences; assigns the scheduler's events to requests
 *   ledger.c     the bytes that each client makes the server hold
 *   evict.c      ends requests when the bytes exceed the ceiling
 *   stream.c     the buffer between an answer and its socket
 *   deadlines.c  absolute deadlines, checked once a second; pauses do not count
 *   pulse.c      decides when a silent engine is dead
 *   watchdog.c   a thread that reports when the loop is stuck
 *   sandbox.c    has the kernel refuse system calls that a server never makes
 *   drain.c      signals and the orderly end
 *   notify.c     messages to the service manager
 *   keys.c       the file of API keys
 *   tenants.c    limits of one key, fair to the others
 *   metrics.c    the Prometheus page
 *   launches.c   the last launches as JSON
 *   kv_events.c  publishes the blocks of the prefix cache; kv_batch.c its format, zmq.c its library
 */
#ifndef FATHOM_SRV_INTERNAL_H
#define FATHOM_SRV_INTERNAL_H

#include "api/api.h"
#include "base/list.h"
#include "base/map.h"
#include "server/framing.h"
#include "server/ledger.h"
#include "server/request.h"
#include "server/server.h"

#include <stdatomic.h>
#include <uv.h>

enum {
    SRV_POOL_BYTES = 24 << 10, /* libmicrohttpd's memory per connection: the head of a request, its
                                  answer's head, and a piece of a body */
    SRV_DISCARD = 256 << 20,   /* most bytes of a refused body that are read and dropped */
    SRV_SOCKET_BYTES = 64 << 10, /* most bytes that the kernel buffers for an unread socket */
    SRV_LARGE_BYTES = 256 << 10, /* from this size on, a block of memory is mapped by itself and
                                    returned when freed */
    SRV_SLICE_BYTES = 16 << 10,  /* bytes of a whole answer that are written at a time */
    SRV_INLINE_BODY = 4 << 10,   /* bodies up to this are parsed on the loop (well under 1 ms) */
    SRV_KEY_NAME = 32,
    SRV_TICK_MS = 1000, /* between two checks of all deadlines */
    SRV_MAX_KEYS = 1024,
    SRV_MAX_ROUTES = 32,
    SRV_FAULTS_KEPT = 3, /* this many numeric failures within ten seconds end the process */
};

/* Ids of accounts: addresses lie below this value, keys from it on. */
#define SRV_KEY_ACCOUNT (UINT64_MAX << 32)

typedef struct srv_listener srv_listener;
typedef struct srv_seq srv_seq;
typedef struct srv_watchdog srv_watchdog;
typedef struct srv_linger srv_linger;
struct MHD_Daemon;
struct MHD_Response;

/* ---- listeners: the main port, and the admin port if there is one ---- */
struct srv_listener {
    srv *server;
    struct MHD_Daemon *mhd; /* NULL: not open */
    uv_poll_t poll;         /* of its epoll descriptor */
    uv_timer_t timer;
    bool admin;              /* health, readiness and metrics only */
    bool pumping;            /* libmicrohttpd is on the stack */
    bool loopback;           /* bound to an address that only this machine can reach */
    unsigned limit;          /* of open connections */
    unsigned n_conns, n_cut; /* open connections; how many of these are shut down */
    list_link fresh, rested; /* resting connections, the longest resting first (conns.c) */
    char address[96];        /* as a URL */
};

/* ---- connections ---- */
struct srv_conn {
    list_link conns_link; /* in srv.conns */
    list_link rest_link;  /* in a list of its listener while it has no request */
    srv *server;
    srv_listener *at;
    srv_account *account; /* of the peer's address */
    uint64_t rest_ns;     /* when it began to rest */
    uint64_t deadline_ns; /* absolute, not moved by bytes that arrive; 0 = no deadline */
    bool counted;         /* among its account's connections */
    int fd;             /* belongs to libmicrohttpd: this code shuts it down and never closes it */
    bool cut;           /* shutdown() was called */
    bool half_closed;   /* the peer has sent its FIN */
    bool takes_interim; /* the peer takes answers with status 1xx */
    unsigned n_probes;
    uint64_t probe_ns; /* half-closed: when to look next whether the peer has left */
    bool early;        /* it was answered before its request had arrived whole */
    srv_req *req;      /* the request that it carries now; NULL between two requests */
};

/* conns.c */
void srv_listener_init(srv_listener *at, srv *server, uint64_t limit);
/* Before a connection is accepted: does its address have fewer than it may have? */
bool srv_conn_welcome(srv_listener *at, const struct sockaddr *from);
/* Most connections of one address. By default those of this machine do not count. */
uint64_t srv_conns_per_address(const server_opts *opts);
srv_conn *srv_conn_open(srv_listener *at, int fd,
                        const struct sockaddr *from); /* NULL: no memory */
void srv_conn_close(srv_conn *conn); /* called when libmicrohttpd is done with it */
void srv_conn_busy(srv_conn *conn);  /* its request's headers are complete */
void srv_conn_rest(srv_conn *conn);  /* its request is over; sets the idle deadline */
void srv_conn_cut(srv_conn *conn);   /* shuts it down */
/* Keeps one place free for a new connection, if a connection rests */
void srv_conns_tick(srv_listener *at);

/* ---- requests (request.h) ---- */
typedef struct {
    const char *name, *value;
} srv_header;

/* evict.c: ends requests of the accounts that hold most until the ledger is within its ceiling.
 * False if req (may be NULL) was ended too: then its body is dropped and it is refused with 503, or
 * it was answered or cut. Loop thread. */
bool srv_make_room(srv *server, srv_req *req);
/* Bytes freed by ending this request. */
size_t srv_req_held(const srv_req *req);
/* Sets the account of a request; its key must be known. */
void srv_req_account(srv_req *req);

/* body.c */
void srv_body_begin(srv_req *req, const srv_framing *framing); /* the headers are complete */
/* Takes a piece of the body. False: the request was answered early, and its connection must end. */
bool srv_body_piece(srv_req *req, const char *data, size_t n) WARN_UNUSED;
void srv_body_too_large(srv_req *req);
void srv_body_late(srv_req *req); /* its deadline has passed: it is answered early */

/* early.c */
/* Writes an error to the socket of a connection whose request has not arrived whole. The connection
 * must end after it. False: the client gets no answer. */
bool srv_answer_early(srv_conn *conn, unsigned status, const char *message, const char *code);
/* Called when a connection ends: keeps its socket open if the client may not have read the answer.
 */
void srv_linger_conn(const srv_conn *conn);
void srv_lingers_tick(srv *server); /* once a second */
void srv_lingers_close(srv *server);

/* mhd_errors.c: MHD_queue_response for an answer of this server. */
bool srv_mhd_queue(struct MHD_Connection *mhd, unsigned status, struct MHD_Response *response);

/* mhd.c. All on the loop thread. */
const char *srv_reason(unsigned status);                        /* "Not Found" */
int srv_mhd_open(srv_listener *at, int fd, err *e) WARN_UNUSED; /* takes the listening socket */
/* Runs libmicrohttpd for the main port and arms its timer. Not to be called from libmicrohttpd's
 * callbacks. The admin port needs no pump: its own descriptor and timer wake it. */
void srv_mhd_pump(srv *server);
/* Once a second: makes room on both ports and runs libmicrohttpd for both */
void srv_mhd_tick(srv *server);
/* Closes the listening socket of the main port. */
void srv_mhd_quiesce(srv *server);
void srv_mhd_close(srv_listener *at); /* no request may be suspended */
/* Queues a whole answer and takes over the body. Allowed from a handler, and for a suspended
 * request, which it resumes. */
void srv_answer(srv_req *req, unsigned status, const char *type, buf *steal_body,
                const srv_header *extra, size_t n_extra);
/* The same for bytes that stay valid until the process ends. */
void srv_answer_static(srv_req *req, unsigned status, const char *type, const void *data, size_t n,
                       const srv_header *extra, size_t n_extra);
void srv_answer_err(srv_req *req, const err *e);
void srv_answer_http(srv_req *req, unsigned status, const char *message, const char *code);
/* Starts the event stream of a suspended request; the bytes in req->out go out first. */
void srv_answer_stream(srv_req *req);
void srv_req_suspend(srv_req *req); /* only from a handler */
void srv_req_wake(srv_req *req);    /* resumes; call srv_mhd_pump once after the last */
/* First value of a request header, NULL if absent. */
const char *srv_req_header(const srv_req *req, const char *name);
/* First value of a query parameter, NULL if absent. */
const char *srv_req_parameter(const srv_req *req, const char *name);

/* route.c */
enum {
    ROUTE_OPEN = 1,    /* needs no key */
    ROUTE_METRICS = 2, /* needs a key only with --metrics-key */
    ROUTE_JSON = 4,    /* takes a JSON body */
    ROUTE_LOADED = 8,  /* needs the loaded model */
    ROUTE_WORK = 16, /* makes work for the engine: refused while draining; the drain waits for it */
    ROUTE_PREFIX = 32, /* the rest of the path is an argument */
    ROUTE_V1 = 64,     /* also exists under /v1 */
    ROUTE_ADMIN = 128, /* exists on the admin port too, which has no other routes */
};
struct srv_route {
    const char *path, *method; /* "GET" (HEAD too) or "POST" */
    unsigned flags;
    /* Called with a whole request: answers it, or suspends it to answer later */
    void (*handle)(srv_req *req);
    const api_endpoint *endpoint; /* NULL: a route without a body */
};
/* The shape of this request's errors; NULL: OpenAI's. */
static inline const api_dialect *srv_req_dialect(const srv_req *req) {
    return req->route && req->route->endpoint ? req->route->endpoint->dialect : NULL;
}
/* Sets req->route and req->tail. Returns 0, 404 or 405 (*allow is then the Allow header). */
unsigned srv_route_find(srv_req *req, const char *method, const char *path, const char **allow);
const srv_route *srv_routes(size_t *n);
/* Checks origin, key and content type before the handler; may refuse or answer the request. */
void srv_gate(srv_req *req, const srv_head *head);
void srv_answer_refusal(srv_req *req);
void srv_route_run(srv_req *req);
/* Why the server takes no work now, as an answer says it; NULL: it is ready. */
const char *srv_not_ready(srv *server);

/* cors.c */
/* The value of Access-Control-Allow-Origin for this Origin; NULL: its pages may not read. */
const char *srv_cors_origin(const srv *server, const char *origin);
/* Answers an OPTIONS request with the methods of its route and the headers it asked for. */
void srv_cors_preflight(srv_req *req, const char *methods);

/* keys.c: API keys, stored as SHA-256 only. */
typedef struct srv_keys srv_keys;
int srv_keys_open(srv_keys **out, const char *path, err *e) WARN_UNUSED;
void srv_keys_close(srv_keys *keys);
/* Index of the key, -1 if unknown. The time taken does not depend on how close a wrong key is. */
int srv_keys_find(const srv_keys *keys, const char *key, size_t n);
const char *srv_keys_name(const srv_keys *keys, int i);
size_t srv_keys_count(const srv_keys *keys);
int srv_keys_first_of_name(const srv_keys *keys, int i); /* the first key of the same name */
typedef struct {                                         /* rights of a key, from the file */
    uint32_t weight; /* share of the engine relative to other keys; 1 to SCHED_MAX_WEIGHT */
    int32_t least_priority, most_priority; /* range of priorities that its requests may name */
} srv_key_terms;
const srv_key_terms *srv_keys_terms(const srv_keys *keys, int i);
typedef struct { /* unfinished work of a key */
    uint32_t requests, sequences;
    uint64_t tokens;         /* prompt tokens plus the most output tokens of all its sequences */
    uint64_t waiting_prompt; /* prompt tokens of sequences without a first token */
    uint64_t refused;        /* requests answered with 429 since the start */
    bool ever;               /* it has had a request */
} srv_use;
srv_use *srv_keys_use(srv_keys *keys, int i);
void srv_sha256(const void *data, size_t n, uint8_t out[32]);

/* parse.c: accounts take turns at the workers, the one with the least processor time first. */
void srv_parse_start(srv_req *req);  /* the handler of every endpoint of api/endpoints.c */
void srv_parse_forget(srv_req *req); /* for a request that ends while its body waits or is parsed */
size_t srv_parse_held(const srv_work *work);

/* engine.c */
int srv_engine_init(srv *server, err *e) WARN_UNUSED; /* before the model is loaded */
int srv_engine_open(srv *server,
                    err *e) WARN_UNUSED; /* after the model is loaded: starts the engine thread */
void srv_engine_close(srv *server);
void srv_engine_submit(srv_req *req, api_request *steal_request);
void srv_engine_drop(srv_req *req); /* the client left or was cut: cancels its sequences */
void srv_engine_turn(srv *server);  /* handles all events, then pumps once */
bool srv_engine_alive(srv *server);
/* Returns false if no more work may be taken, after answering 503 `overloaded`, or 429 if the key's
 * share is full. */
bool srv_engine_admit(srv_req *req);

/* tenants.c. Key i is the scheduler's tenant i + 1; requests without a key belong to tenant 0. */
void srv_tenants_fill(const srv *server,
                      sched_opts *limits); /* sets the number of tenants and their weights */
/* Before its body is parsed; false: it was answered with 429 */
bool srv_tenant_admit(srv_req *req);
/* ERR_BUSY: the key may not have so many sequences or tokens now; answer with srv_tenant_refuse. */
int srv_tenant_check(const srv_job *job, err *e) WARN_UNUSED;
void srv_tenant_refuse(srv_req *req, const err *e); /* answers 429 */
/* ERR_BAD_PARAM: the request names a priority outside the key's range. */
int srv_tenant_priority(const srv_req *req, const api_request *request, int32_t *out,
                        err *e) WARN_UNUSED;
/* Call when a sequence was submitted; when its first token came; when it has ended. */
void srv_tenant_entered(srv_job *job, srv_seq *seq);
void srv_tenant_began(srv_job *job, srv_seq *seq);
void srv_tenant_left(srv_job *job, srv_seq *seq);
void srv_tenants_write(const srv *server, buf *out,
                       const char *labels); /* metrics per name of a key */

/* peer.c */
void srv_watch(srv_req *req); /* notices at once when the peer hangs up */
void srv_unwatch(srv_req *req);
void srv_half_closed(srv_req *req); /* the peer has sent its FIN: probes it from now on */

/* stream.c */
void srv_ping(srv_req *req); /* puts a comment into a stream that has no other bytes to send */
/* Fills a buffer for libmicrohttpd, with whole events if they fit. 0 = no bytes now. */
size_t srv_take(srv_req *req, char *to, size_t max);
/* Enters the size of req->out and of the rest of its answer into the ledger */
void srv_out_changed(srv_req *req);
/* Writes the next slice of the rest of the answer to req->out; false if it was the last. */
bool srv_refill(srv_req *req);
/* Answers 200 with the rest of req->reply or req->listing: at once if it is short, else as the
 * socket takes it. */
void srv_answer_rest(srv_req *req);

/* deadlines.c */
int srv_sweep_open(srv *server, err *e) WARN_UNUSED;
void srv_deadline(srv_conn *conn, double seconds); /* 0 = none */
/* Measures how long a callback holds the loop. Of nested turns the outermost is measured. */
typedef uint64_t srv_turn;
srv_turn srv_turn_begin(srv *server);
void srv_turn_end(srv *server, srv_turn began);
/* If the process stood still, moves every deadline by that time. Call before a deadline is checked
 * or set. */
void srv_forgive_pause(srv *server);

/* pulse.c: pure functions of the times given to them. */
typedef struct {
    uint64_t due_ns;    /* when the loop's next tick is due; 0 = before the first tick */
    uint64_t seen_ns;   /* time of the last tick */
    uint64_t beat_ns;   /* the engine's last beat known at that tick */
    uint64_t silent_ns; /* silence since that beat, counted only while the loop was awake */
    unsigned strikes;   /* consecutive ticks at which it was silent for too long */
    bool paused;        /* the process stood still since the last tick */
} srv_pulse;
/* How late the tick is, in ns: 0 unless it is late by a whole tick. Reports each delay once. */
uint64_t srv_pulse_overslept(srv_pulse *pulse, uint64_t now);
/* One tick; call srv_pulse_overslept before it. True if the engine is dead: at two consecutive
 * ticks it has been silent for longer than hang_ns and longer than 20 of its usual steps. */
bool srv_pulse_tick(srv_pulse *pulse, uint64_t now, uint64_t beat_ns, uint64_t usual_ns,
                    uint64_t hang_ns);

/* watchdog.c. Watches the thread that starts it and must beat more often than every stall_s. After
 * a longer silence the watchdog writes the stack of that thread to the log. Uses SIGUSR2. */
int srv_watchdog_start(srv_watchdog **out, double stall_s, err *e) WARN_UNUSED;
void srv_watchdog_beat(srv_watchdog *watchdog); /* from any thread */
void srv_watchdog_stop(srv_watchdog *watchdog); /* NULL is fine */

/* sandbox.c. Has the kernel refuse, in all threads and for good, system calls that a server never
 * makes and, with forbid_programs, the start of programs. Returns 0 or an errno. Call
 * srv_sandbox_open before the model is read, srv_sandbox_loaded when no device needs to start
 * programs any more. */
int srv_sandbox(bool forbid_programs);
void srv_sandbox_open(const srv *server);
void srv_sandbox_loaded(const srv *server);

/* drain.c */
int srv_signals_open(srv *server, err *e) WARN_UNUSED;
void srv_drain_check(srv *server); /* ends the loop when all work is drained */
/* Stops serving; the process ends with this exit status. Live streams get an error event. */
void srv_stop(srv *server, int exit_status, const char *why);
/* The same after a failure, which decides the exit status and stands in the log. */
void srv_stop_for(srv *server, const err *cause, const char *why);

/* notify.c. All on the loop thread; without a service manager that asks, they do nothing. */
typedef struct {
    int fd;           /* connected to the manager's socket; -1: nothing is told */
    uv_timer_t timer; /* of the signs of life */
    uint64_t told_ns; /* when the manager was last asked for more time */
} srv_notify;
int srv_notify_open(srv *server, err *e) WARN_UNUSED; /* the model is about to be loaded */
void srv_notify_close(srv *server);
void srv_notify_ready(srv *server);
void srv_notify_stopping(srv *server, const char *status); /* status: a short text for people */
void srv_notify_tick(srv *server, uint64_t now);           /* once a second */

/* replaced.c. Once a second: checks on a worker whether a file of the model was changed. */
void srv_look_at_model(srv *server);

/* load.c: opens the model away from the loop. */
int srv_load_start(srv *server, err *e) WARN_UNUSED;

/* metrics.c */
enum { SRV_BUCKETS = 32 };
typedef struct {
    const double *bounds;
    uint64_t buckets[SRV_BUCKETS + 1], count;
    double sum;
} srv_hist;
typedef struct {
    srv_hist ttft, itl, tpot, e2e, queue_time, inference, prefill, decode;
    srv_hist prompt_tokens, output_tokens, max_output_tokens, max_tokens, params_n;
    srv_hist iteration_tokens, depth, cancel;
    uint64_t all_prompt_tokens, cached_tokens,
        finished[4]; /* by sched_finish; a stop string counts as SCHED_STOP */
    uint64_t connections, requests, answers[6]; /* by the first digit of the status */
    uint64_t bytes_in, bytes_out, streams, slow_cut, deadline_cut, refused_busy, refused_key;
    uint64_t evicted; /* requests ended because all requests together held too much */
    uint64_t crowd_cut, refused_address, refused_foreign, refused_draining;
    uint64_t bad_clients, numeric_failures, cancelled_by_client;
    uint64_t requests_by_route[SRV_MAX_ROUTES];
    uint64_t loop_turn_max_ns;
} srv_counts;
void srv_metrics_init(srv_counts *counts, uint32_t max_context);
void srv_observe(srv_hist *hist, double value, uint64_t times);
void srv_metrics_write(srv *server, buf *out);
/* The part of the page about speculation. labels: of every sample, "model_name=...". */
void srv_metrics_speculation(const sched_stats *st, const char *labels, buf *out);
void srv_handle_metrics(srv_req *req);
/* Most loops that a token runs unless its request says otherwise; 0 until the model is loaded. */
uint32_t srv_default_loops(const srv *server);

/* kv_events.c. All but the counts: loop thread. */
enum { SRV_KV_SUBSCRIBERS = 128 }; /* most at a time */
typedef struct srv_kv_events srv_kv_events;
/* Opens the socket of --kv-events-endpoint, if it is given. */
int srv_kv_events_open(srv *server, err *e) WARN_UNUSED;
kv_feed *srv_kv_events_feed(const srv_kv_events *kv);     /* for the scheduler; kv may be NULL */
int srv_kv_events_start(srv *server, err *e) WARN_UNUSED; /* the engine runs */
void srv_kv_events_close(srv_kv_events *kv);              /* after the engine; NULL is fine */
typedef struct {
    uint64_t stored, removed, cleared, messages, bytes, waits;
    uint64_t late; /* events not published yet, and blocks not told yet */
} srv_kv_counts;
bool srv_kv_events_counts(const srv_kv_events *kv, srv_kv_counts *out); /* false: none */

/* launches.c */
void srv_handle_launches(srv_req *req);

/* log.c */
void srv_log_request(const srv_req *req); /* writes one line at the end of every request */
/* For log lines that any client can cause: true for a few lines a second; the rest are counted. */
bool srv_log_budget(srv *server);

/* ---- the work of one request in the engine ---- */
struct srv_seq {
    srv_job *job;
    uint32_t index;   /* in gen->seqs */
    uint64_t id;      /* in the scheduler; 0 = ended */
    uint64_t last_ns; /* when its last token came */
    uint32_t n_prompt, max_tokens, n_output;
    bool waits;                         /* it has no token yet */
    bool shares_prompt, prompt_counted; /* with the choice before; in the metrics */
    bool stopped;                       /* cancelled after a stop string: a good end */
};

struct srv_job {
    list_link jobs_link; /* in srv.jobs */
    srv *server;
    srv_req *req; /* NULL after the client left or has its answer */
    api_reply *reply;
    uint32_t n_seqs, n_open; /* sequences; how many are still in the scheduler */
    int key;
    srv_hold held;
    size_t seq_bytes; /* bytes that the scheduler holds for its sequences */
    int32_t priority;
    uint64_t cancel_ns; /* when its sequences were cancelled because the request ended; 0 = they
                           were not */
    srv_seq seqs[];     /* [n] */
};

/* ---- the server ---- */
typedef struct srv_load srv_load;
typedef struct srv_look srv_look;
struct srv {
    server_opts opts;
    uv_loop_t loop;
    srv_listener main, admin;
    uv_timer_t sweep, drain_timer, probe_timer;
    uv_async_t async;
    unsigned turn_depth; /* nesting depth of srv_turn_begin */
    uv_signal_t signals[5];
    unsigned n_signals;
    srv_watchdog *watchdog;
    srv_notify notify;

    list_link conns, reqs, jobs, lingers;
    unsigned n_reqs, n_parsing, n_conns,
        n_lingers; /* n_parsing: bodies at a worker or waiting for one */
    unsigned n_workers_busy;
    list_link parse_turns; /* accounts with bodies waiting for a worker */
    uint64_t parse_floor_ns;
    srv_ledger *ledger;

    srv_load *load;
    bool loaded;
    bool leaving;         /* a signal has told it to end: not ready */
    bool draining;        /* new work is refused */
    bool stopping;        /* nothing goes on but sending */
    const char *stop_why; /* a sentence for clients */
    bool model_changed;   /* a file of the model was changed */
    srv_look *look;       /* the check of the files in progress; NULL = none */
    int exit_status;
    unsigned flush_ticks;
    runtime model;
    exit_rule exit; /* exit rule of its backend; the backend belongs to the engine thread */
    api_context *api;
    sched_thread *engine;
    srv_kv_events *kv;                    /* NULL: KV events are not published */
    map ids;                              /* sequence id to srv_seq */
    uint32_t n_sequences;                 /* in the scheduler */
    uint64_t waiting_prompt;              /* prompt tokens of sequences without a first token */
    uint64_t turn_tokens;                 /* tokens in the events of this turn */
    uint64_t numeric_ns[SRV_FAULTS_KEPT]; /* times of the last numeric failures, oldest first */
    bool engine_ill;
    srv_pulse pulse;
    bool engine_dead;        /* found at the last tick */
    uint64_t phase_until_ns; /* while leaving: end of the lame duck, or of the drain */

    srv_keys *keys;
    srv_counts counts;
    buf metrics_page;
    uint64_t metrics_page_ns;
    uint64_t log_window_ns;
    unsigned log_window_lines;
    uint64_t log_suppressed;
    uint64_t next_id, id_seed;
    uint64_t start_ns;
    int64_t start_unix_s;
};

/* A new "req-…" for an answer without the id of a reply. */
void srv_make_id(srv *server, char out[SRV_ID_MAX + 1]);

#endif
