/* server_internal.h - what the files of `fathom serve` share.
 *
 * One thread, the loop, owns everything here: sockets, requests, replies. The engine
 * thread is met only through sched_thread_*; worker threads see an srv_work and nothing
 * else until it comes back. mhd.c alone knows libmicrohttpd; the others speak of
 * connections (srv_conn) and requests (srv_req).
 *
 *   mhd.c        bytes to requests, answers to bytes, the pump
 *   conns.c      which connections there are, who goes when there are too many
 *   framing.c    what a header block must be before anything looks at it
 *   hosts.c      whether Host is a name of ours, and Origin our own page
 *   route.c      which handler a path means; keys, CORS
 *   parse.c      bodies to api_requests, large ones on a worker
 *   engine.c     submits, maps the scheduler's events back to requests
 *   ledger.c     who makes the server hold how many bytes
 *   evict.c      whose request ends when that is too much
 *   stream.c     the bounded buffer between an answer and its socket; hang-up watch
 *   deadlines.c  absolute deadlines, once a second; pauses are forgiven
 *   pulse.c      when a silent engine is a dead one
 *   watchdog.c   tells, from a thread of its own, when the loop is stuck
 *   sandbox.c    system calls that are refused from the start
 *   drain.c      signals and the orderly end
 *   keys.c       the file of API keys
 *   tenants.c    what one key may have beside the others
 *   metrics.c    the Prometheus page */
#ifndef FATHOM_SRV_INTERNAL_H
#define FATHOM_SRV_INTERNAL_H

#include "api/api.h"
#include "base/list.h"
#include "base/map.h"
#include "server/ledger.h"
#include "server/server.h"

#include <stdatomic.h>
#include <uv.h>

enum {
    SRV_POOL_BYTES = 8 << 10, /* libmicrohttpd's memory per connection: request line and headers */
    SRV_SOCKET_BYTES = 64 << 10, /* most that the kernel keeps for a socket that is not read */
    SRV_LARGE_BYTES =
        256 << 10, /* blocks from here on are pages of their own, returned when freed */
    SRV_SLICE_BYTES = 16 << 10, /* of a whole answer, written at a time */
    SRV_INLINE_BODY = 4 << 10,  /* bodies up to this are parsed on the loop (well under 1 ms) */
    SRV_ID_MAX = 64,            /* longest X-Request-Id taken over */
    SRV_KEY_NAME = 32,
    SRV_TICK_MS = 1000, /* of the sweep */
    SRV_MAX_KEYS = 1024,
    SRV_FAULTS_KEPT = 3, /* numeric failures in ten seconds that end the process */
};

/* Ids of accounts: of keys from here on, below it of addresses. */
#define SRV_KEY_ACCOUNT (UINT64_MAX << 32)

typedef struct srv srv;
typedef struct srv_listener srv_listener;
typedef struct srv_conn srv_conn;
typedef struct srv_req srv_req;
typedef struct srv_job srv_job;
typedef struct srv_work srv_work;
typedef struct srv_seq srv_seq;
typedef struct srv_watchdog srv_watchdog;
struct srv_asset;
struct MHD_Daemon;
struct MHD_Connection;

/* ---- listeners: the port, and the one for probes if it was asked for ---- */
struct srv_listener {
    srv *server;
    struct MHD_Daemon *mhd; /* NULL: not open */
    uv_poll_t poll;         /* of its epoll descriptor */
    uv_timer_t timer;
    bool admin;              /* health, readiness and metrics only */
    bool pumping;            /* libmicrohttpd is on the stack */
    bool loopback;           /* bound to an address that only this machine reaches */
    unsigned limit;          /* of open connections */
    unsigned n_conns, n_cut; /* open connections; those of them that were shut down */
    list_link fresh, rested; /* resting connections, the longest rest first (conns.c) */
    char address[96];        /* as a URL */
};

/* ---- connections ---- */
struct srv_conn {
    list_link conns_link; /* in srv.conns */
    list_link rest_link;  /* in a list of its listener while no request is in progress */
    srv *server;
    srv_listener *at;
    srv_account *account; /* of the peer's address */
    uint64_t rest_ns;     /* since when it rests */
    uint64_t deadline_ns; /* absolute; bytes trickling in do not move it. 0 = none */
    bool counted;         /* among its account's connections */
    int fd;               /* libmicrohttpd's: shut down by us, never closed */
    bool cut;             /* shutdown() was called */
};

/* conns.c */
void srv_listener_init(srv_listener *at, srv *server, uint64_t limit);
/* Asked before a connection is taken: has its address fewer than it may? */
bool srv_conn_welcome(srv_listener *at, const struct sockaddr *from);
/* Most connections of one address; with the default, this machine's own are not counted. */
uint64_t srv_conns_per_address(const server_opts *opts);
srv_conn *srv_conn_open(srv_listener *at, int fd,
                        const struct sockaddr *from); /* NULL: no memory */
void srv_conn_close(srv_conn *conn);                  /* libmicrohttpd has done with it */
void srv_conn_busy(srv_conn *conn);                   /* its request's headers are complete */
void srv_conn_rest(srv_conn *conn);    /* its request is over; sets the idle deadline */
void srv_conn_cut(srv_conn *conn);     /* shuts it down */
void srv_conns_tick(srv_listener *at); /* keeps one place free for newcomers, if any rests */

/* ---- requests ---- */
typedef enum {
    REQ_READING, /* headers or body on their way */
    REQ_PARSING, /* body with a worker; suspended */
    REQ_WAITING, /* submitted, nothing to send yet; suspended */
    REQ_STREAMING,
    REQ_ANSWERED, /* an answer is queued whole */
} req_state;

typedef struct srv_route srv_route;

/* What the engine did for a request, for its log line and the histograms. */
typedef struct {
    bool engine, stream;
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
    const char *tail;              /* owned: what follows a prefix route, decoded; NULL if none */
    req_state state;
    bool screened, suspended, gone, close, head, bad_target;
    bool finished; /* streaming: all bytes are in out */
    bool cut;      /* streaming: ends without its last chunk */
    struct {
        unsigned status; /* 0 = none */
        const char *message, *code, *allow;
    } refusal; /* found at the headers, answered once the body is read and thrown away: closing
                  on unread bytes would reset the connection and lose the answer */
    bool answer_after_body;
    unsigned
        late_status; /* a status found in mid-upload, when no answer is possible: sent at its end */
    unsigned status;
    uint64_t start_ns, last_out_ns; /* last time bytes went in or were taken */
    uint64_t paused_ns;             /* since start_ns, while the whole process stood still */
    uint64_t body_start_ns, body_seen, body_announced;
    uint32_t body_pieces;
    char id[SRV_ID_MAX + 1]; /* X-Request-Id; "" = make one */
    int key;                 /* index of the API key, -1 = none */
    const char *cors;        /* value of Access-Control-Allow-Origin, or NULL */
    buf body;
    buf out; /* waiting for the socket, from out_at on */
    size_t out_at;
    /* Who writes the rest of an answer whose work is over; both NULL: nobody. */
    api_reply *reply;
    api_listing *listing;
    bool more; /* bytes wait there, or in gen's reply, and go into out as the socket takes them */
    srv_account *account; /* of its key or, without keys, of its peer; NULL until they are known */
    srv_hold held_body, held_answer;
    uint64_t body_structure; /* bytes of the body that may each become a JSON value */
    srv_job *job;
    srv_work *work;
    srv_outcome outcome;
    uv_poll_t *watch; /* kept from submission to the end; tells that the peer left */
};

typedef struct {
    const char *name, *value;
} srv_header;

/* evict.c: ends the requests of whoever holds most until the ledger is within its ceiling.
 * False if r (may be NULL) was among them: then its body is gone and r->late says 503, or it has
 * been answered or cut. Loop thread. */
bool srv_make_room(srv *server, srv_req *req);
/* Bytes that ending this request would free. */
size_t srv_req_held(const srv_req *req);
/* Its account, once its key is known (or there are no keys). */
void srv_req_account(srv_req *req);

/* mhd.c. All on the loop thread. */
int srv_mhd_open(srv_listener *at, int fd, err *e) WARN_UNUSED; /* takes the listening socket */
/* Runs libmicrohttpd for the main port and arms its timer; not from its own callbacks. The admin
 * port has nothing that waits for others: its own descriptor and timer wake it. */
void srv_mhd_pump(srv *server);
void srv_mhd_tick(srv *server); /* once a second: makes room on both ports and runs both */
/* The main port takes no new connections and its listening socket is closed; the admin port goes
 * on telling probes how it stands. */
void srv_mhd_quiesce(srv *server);
void srv_mhd_close(srv_listener *at); /* nothing may be suspended */
/* Queues a whole answer; takes the body. Allowed from a handler, and for a suspended
 * request, which is then resumed. */
void srv_answer(srv_req *req, unsigned status, const char *type, buf *steal_body,
                const srv_header *extra, size_t n_extra);
/* The same for bytes that live as long as the program. */
void srv_answer_static(srv_req *req, unsigned status, const char *type, const void *data, size_t n,
                       const srv_header *extra, size_t n_extra);
void srv_answer_err(srv_req *req, const err *e);
void srv_answer_http(srv_req *req, unsigned status, const char *message, const char *code);
/* Starts the event stream of a suspended request; what is in r->out goes out first. */
void srv_answer_stream(srv_req *req);
void srv_req_suspend(srv_req *req); /* only from a handler */
void srv_req_wake(srv_req *req);    /* resumes; srv_mhd_pump once after the whole batch */
/* First value of a request header, NULL if absent. */
const char *srv_req_header(const srv_req *req, const char *name);

/* framing.c: no libmicrohttpd, no sockets; every input is bytes. */
typedef struct {
    unsigned host, length, coding, type, encoding, expect, auth, x_key, request_id;
    uint64_t n_body; /* as announced; 0 if it was not */
    bool chunked, bad_length, big, bad_name, bad_value, bad_expect, json, coded, bad_type;
} srv_framing;
bool srv_screen_target(const char *raw) WARN_UNUSED; /* false: 400 */
void srv_screen_header(srv_framing *framing, const char *name, size_t name_n, const char *value,
                       size_t value_n, uint64_t max_body);
/* 0 = fine, else the status; *why is a sentence for the client. */
unsigned srv_screen_verdict(const srv_framing *framing, const char *method, const char *version,
                            const char **why);
bool srv_screen_id(const char *id); /* may this X-Request-Id be echoed? */

/* hosts.c: bytes only, like framing.c. */
/* Whether a Host header names this server: a local name, the text it was bound to, or one of
 * `allowed`, with any port; "*" among these allows all. */
bool srv_host_known(const char *value, const char *bound, const opt_list *allowed);
bool srv_host_option_ok(const char *text); /* may --allowed-host say this? */
/* Whether a page of this Origin was served by the host and port in a Host header. */
bool srv_origin_is(const char *origin, const char *value);

/* route.c */
enum {
    ROUTE_OPEN = 1,    /* needs no key */
    ROUTE_METRICS = 2, /* needs a key only when asked for */
    ROUTE_JSON = 4,    /* takes a JSON body */
    ROUTE_LOADED = 8,  /* needs the model */
    ROUTE_WORK = 16,   /* gives the engine work: refused while draining */
    ROUTE_PREFIX = 32, /* the rest of the path is an argument */
    ROUTE_V1 = 64,     /* also under /v1 */
    ROUTE_ADMIN = 128, /* also on the admin port, which has no other */
};
struct srv_route {
    const char *path, *method; /* "GET" (HEAD too) or "POST" */
    unsigned flags;
    void (*handle)(srv_req *req); /* the request is whole: answer, or suspend and answer later */
};
/* Sets r->route and r->tail. Returns 0, 404 or 405 (*allow is then the Allow header). */
unsigned srv_route_find(srv_req *req, const char *method, const char *path, const char **allow);
const srv_route *srv_routes(size_t *n);
/* CORS, keys, content type: what stands between the screen and the handler. Answers what it
 * refuses, at once or, with r->defer, by srv_refuse at the end of the body. */
void srv_gate(srv_req *req, const char *method, const char *path, const srv_framing *framing);
void srv_refuse(srv_req *req); /* answers r->refusal */
void srv_route_run(srv_req *req);

/* keys.c: API keys, kept as SHA-256 only. */
typedef struct srv_keys srv_keys;
int srv_keys_open(srv_keys **out, const char *path, err *e) WARN_UNUSED;
void srv_keys_close(srv_keys *keys);
/* Index of the key, -1 if unknown. The time taken does not depend on which key came close. */
int srv_keys_find(const srv_keys *keys, const char *key, size_t n);
const char *srv_keys_name(const srv_keys *keys, int i);
size_t srv_keys_count(const srv_keys *keys);
int srv_keys_first_of_name(const srv_keys *keys, int i); /* the first key of the same name */
typedef struct {                                         /* what the file grants a key */
    uint32_t weight;                       /* of its share of the engine; 1 to SCHED_MAX_WEIGHT */
    int32_t least_priority, most_priority; /* that its requests may name */
} srv_key_terms;
const srv_key_terms *srv_keys_terms(const srv_keys *keys, int i);
typedef struct { /* what a key has under way */
    uint32_t requests, sequences;
    uint64_t tokens;         /* prompts, and all that their sequences may put out */
    uint64_t waiting_prompt; /* prompt tokens of sequences without a first token */
    uint64_t refused;        /* with 429, ever */
    bool ever;               /* it had a request */
} srv_use;
srv_use *srv_keys_use(srv_keys *keys, int i);
void srv_sha256(const void *data, size_t n, uint8_t out[32]);

/* parse.c: accounts take turns at the workers, whoever had least processor time first. */
typedef enum { SRV_COMPLETION, SRV_CHAT, SRV_RESPONSES, SRV_TOKENIZE, SRV_DETOKENIZE } srv_kind;
void srv_parse_start(srv_req *req, srv_kind kind);
void srv_parse_forget(srv_req *req); /* the request ends while its body waits or is parsed */
size_t srv_parse_held(const srv_work *work);

/* engine.c */
int srv_engine_init(srv *server, err *e) WARN_UNUSED; /* before anything can be loaded */
int srv_engine_open(srv *server,
                    err *e) WARN_UNUSED; /* the model is loaded: start the engine thread */
void srv_engine_close(srv *server);
void srv_engine_submit(srv_req *req, api_request *steal_request);
void srv_engine_drop(srv_req *req); /* the client left or was cut: cancel what it still had */
void srv_engine_turn(srv *server);  /* drains every event, then one pump */
bool srv_engine_alive(srv *server);
/* Answers 503 `overloaded`, or 429 where the key's share is full, and returns false when no more
 * work may be taken. */
bool srv_engine_admit(srv_req *req);

/* tenants.c. Key i is the scheduler's tenant i + 1; requests without a key are tenant 0. */
void srv_tenants_fill(const srv *server,
                      sched_opts *limits); /* how many tenants, and their weights */
bool srv_tenant_admit(srv_req *req);       /* before its body is parsed; false: it got 429 */
/* ERR_BUSY: its sequences or tokens are more than its key may have now: srv_tenant_refuse. */
int srv_tenant_check(const srv_job *job, err *e) WARN_UNUSED;
void srv_tenant_refuse(srv_req *req, const err *e); /* answers 429 */
/* ERR_BAD_PARAM: the key may not use the priority that the request names. */
int srv_tenant_priority(const srv_req *req, const api_request *request, int32_t *out,
                        err *e) WARN_UNUSED;
/* A sequence is in the scheduler; has its first token; has ended. */
void srv_tenant_entered(srv_job *job, srv_seq *seq);
void srv_tenant_began(srv_job *job, srv_seq *seq);
void srv_tenant_left(srv_job *job, srv_seq *seq);
void srv_tenants_write(const srv *server, buf *out,
                       const char *labels); /* metrics by name of key */

/* stream.c */
void srv_watch(srv_req *req); /* tells at once when the peer hangs up */
void srv_unwatch(srv_req *req);
void srv_cut(srv_req *req); /* ends the connection now, without a last chunk */
/* libmicrohttpd asks for bytes: whole events where they fit. 0 = none now. */
size_t srv_take(srv_req *req, char *to, size_t max);
void srv_out_changed(srv_req *req); /* enters what r->out and the rest of its answer hold */
/* Writes the next slice of what waits to r->out; false when that was the last of it. */
bool srv_refill(srv_req *req);
/* Answers 200 with all that is still to be written of r->reply or r->listing: at once if it is
 * short, else as the socket takes it. */
void srv_answer_rest(srv_req *req);

/* deadlines.c */
int srv_sweep_open(srv *server, err *e) WARN_UNUSED;
void srv_deadline(srv_conn *conn, double seconds); /* 0 = none */
/* Around whatever the loop calls that may take time; of nested ones the outermost is measured. */
typedef uint64_t srv_turn;
srv_turn srv_turn_begin(srv *server);
void srv_turn_end(srv *server, srv_turn began);
/* Moves every deadline by the pause, if the process stood still. Called before a deadline is
 * looked at and before one is set. */
void srv_forgive_pause(srv *server);

/* pulse.c: arithmetic on the times it is given. */
typedef struct {
    uint64_t due_ns;    /* when the loop's next tick is due; 0 = there was none yet */
    uint64_t seen_ns;   /* last tick */
    uint64_t beat_ns;   /* the engine's last beat as of that tick */
    uint64_t silent_ns; /* since that beat, in time the loop was awake to see */
    unsigned strikes;   /* ticks in a row that found it silent for too long */
    bool paused;        /* since the last tick */
} srv_pulse;
/* By how much the tick is late, once: 0 unless that is a whole tick or more. */
uint64_t srv_pulse_overslept(srv_pulse *pulse, uint64_t now);
/* One tick; asks for srv_pulse_overslept before it. True when the engine is dead: in two ticks in
 * a row it was silent for longer than hang_ns, and than 20 of its usual steps. */
bool srv_pulse_tick(srv_pulse *pulse, uint64_t now, uint64_t beat_ns, uint64_t usual_ns,
                    uint64_t hang_ns);

/* watchdog.c. Started by the thread it watches, which beats more often than stall_s; a
 * longer silence is written to the log with that thread's stack. Takes SIGUSR2. */
int srv_watchdog_start(srv_watchdog **out, double stall_s, err *e) WARN_UNUSED;
void srv_watchdog_beat(srv_watchdog *watchdog); /* any thread, two stores */
void srv_watchdog_stop(srv_watchdog *watchdog); /* NULL is fine */

/* sandbox.c. Refuses, in all threads and for good, what a server never asks of the kernel, and
 * with forbid_programs starting any; 0, or why not as in errno. open: before the model is read;
 * loaded: once no device needs a program any more. */
int srv_sandbox(bool forbid_programs);
void srv_sandbox_open(const srv *server);
void srv_sandbox_loaded(const srv *server);

/* drain.c */
int srv_signals_open(srv *server, err *e) WARN_UNUSED;
void srv_drain_check(srv *server); /* ends the loop once nothing is left to drain */
/* Ends the process's serving with this exit status; live streams get an error event. */
void srv_stop(srv *server, int exit_status, const char *why);

/* replaced.c. Once a second: asks on a worker whether a file of the model was written to. */
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
    uint64_t cached_tokens, finished[4];        /* by sched_finish, as the client sees it */
    uint64_t connections, requests, answers[6]; /* by hundreds of the status */
    uint64_t bytes_in, bytes_out, streams, slow_cut, deadline_cut, refused_busy, refused_key;
    uint64_t evicted; /* requests ended because all of them together held too much */
    uint64_t crowd_cut, refused_address, refused_foreign;
    uint64_t bad_clients, numeric_failures, cancelled_by_client;
    uint64_t requests_by_route[32];
    uint64_t loop_turn_max_ns;
} srv_counts;
void srv_metrics_init(srv_counts *counts, uint32_t max_context);
void srv_observe(srv_hist *hist, double value, uint64_t times);
void srv_metrics_write(srv *server, buf *out);
void srv_handle_metrics(srv_req *req);

/* log.c */
void srv_log_request(const srv_req *req); /* one line, at the end of every request */
/* For lines a stranger can cause: at most a few a second, the rest are counted. */
bool srv_log_budget(srv *server);

/* ---- the work of one request in the engine ---- */
struct srv_seq {
    srv_job *job;
    uint32_t index;   /* in gen->seqs */
    uint64_t id;      /* 0 = ended */
    uint64_t last_ns; /* when its last token came */
    uint32_t n_prompt, max_tokens, n_output;
    bool waits;   /* no token of it has come yet */
    bool stopped; /* a stop string was found: cancelled by us, yet a good end */
};

struct srv_job {
    list_link jobs_link; /* in srv.jobs */
    srv *server;
    srv_req *req; /* NULL once the client left or has its answer */
    api_reply *reply;
    uint32_t n_seqs, n_open; /* sequences, and how many the scheduler still has */
    int key;
    srv_hold held;
    size_t seq_bytes; /* of its sequences in the scheduler */
    int32_t priority;
    uint64_t cancel_ns; /* when the rest was cancelled because nobody listens; 0 = it was not */
    srv_seq seqs[];     /* [n] */
};

/* ---- the server ---- */
typedef struct srv_load srv_load;
typedef struct srv_look srv_look;
struct srv {
    server_opts opts;
    uv_loop_t loop;
    srv_listener main, admin;
    uv_timer_t sweep, drain_timer;
    uv_async_t async;
    unsigned turn_depth; /* of srv_turn_begin */
    uv_signal_t signals[5];
    unsigned n_signals;
    srv_watchdog *watchdog;

    list_link conns, reqs, jobs;
    unsigned n_reqs, n_parsing, n_conns; /* n_parsing: bodies that wait for a worker too */
    unsigned n_workers_busy;
    list_link parse_turns; /* accounts with bodies that wait for a worker */
    uint64_t parse_floor_ns;
    srv_ledger *ledger;

    srv_load *load;
    bool loaded, draining, stopping;
    bool model_changed; /* a file of it was written to in place */
    srv_look *look;     /* at the files, on a worker; NULL = none */
    int exit_status;
    unsigned flush_ticks;
    runtime model;
    exit_rule exit; /* of its backend, which the engine thread owns */
    api_context *api;
    sched_thread *engine;
    map ids;                              /* of a sequence to its srv_seq */
    uint32_t n_sequences;                 /* in the scheduler */
    uint64_t waiting_prompt;              /* prompt tokens of those without a first token */
    uint64_t turn_tokens;                 /* that this turn's events brought */
    uint64_t numeric_ns[SRV_FAULTS_KEPT]; /* when the last numeric failures came, oldest first */
    bool engine_ill;
    srv_pulse pulse;
    bool engine_dead;        /* as of the last tick */
    uint64_t drain_until_ns; /* while draining */

    srv_keys *keys;
    srv_counts counts;
    buf metrics_page;
    uint64_t metrics_page_ns;
    uint64_t log_window_ns;
    unsigned log_window_lines;
    uint64_t log_suppressed;
    uint64_t next_id, id_seed;
    uint64_t start_ns;
};

/* A fresh "req-…" for answers that no reply names. */
void srv_make_id(srv *server, char out[SRV_ID_MAX + 1]);

#endif
