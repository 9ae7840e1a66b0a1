/* scheduler.h - sequences in, tokens out: continuous depth-wise batching.
 *
 * The unit of work is one loop of one position. A row may run loop t once every earlier position of
 * its sequence has executed loop t or, under KV_LAST, halted before it; rows of all sequences at
 * all depths share launches. The scheduler owns the cache's slots, pages and blocks, and decides
 * which rows run when.
 *
 * Two faces: `scheduler` is the plain single-threaded machine (commands, benchmarks and tests drive
 * it with sched_step); `sched_thread` runs one on its own thread behind two bounded queues (the
 * server). No HTTP, no JSON, no text. */
#ifndef FATHOM_SCHEDULER_H
#define FATHOM_SCHEDULER_H

#include "engine/sampler.h"
#include "model/plan.h"

typedef struct eng_backend eng_backend; /* engine/backend.h */
typedef struct kv_feed kv_feed;         /* scheduler/feed.h */

enum {
    SCHED_CHUNK = 128,
    SCHED_MAX_PRIORITY = 100, /* a priority further from 0 counts as this */
    SCHED_AGE_ARRIVALS = 64,  /* so many later arrivals of its tenant lift a request one level */
    SCHED_MAX_WEIGHT = 1000,
    SCHED_MAX_DRAFTS = 64,    /* drafted tokens in flight of one sequence */
    SCHED_DRAFT_PLACES = 16,  /* of sched_stats.accepted_by_place */
    SCHED_DRAFTS_AUTO = 1000, /* sched_opts.drafts: the scheduler chooses while it runs */
};

typedef enum { SCHED_DEPTHWISE, SCHED_LOCKSTEP, SCHED_FULL } sched_mode;

typedef struct {
    sched_mode batching;
    kv_policy halted_kv;
    uint32_t max_running;      /* sequences holding cache at once */
    uint32_t max_queue;        /* sequences waiting; more are refused with ERR_BUSY */
    uint64_t max_queue_tokens; /* prompt tokens waiting */
    uint32_t max_rows;         /* rows in one launch */
    uint32_t chunk;            /* prompt positions per chunk; 0 = SCHED_CHUNK */
    uint32_t default_max_loops, ceiling_loops; /* 0 = the model's */
    uint32_t default_min_loops;
    uint32_t prompt_min_loops; /* least loops of prompt positions; 0 = default_min_loops, or every
                                  loop under KV_LAST if the model's published engines do so */
    float default_threshold;   /* of the backend's exit rule; 0 = the model's, or the rule's own */
    bool collapse_prompts; /* policy collapse: prompt positions count as generated: `compare` runs
                              a text in place of generated tokens */
    bool prefix_cache;
    uint32_t max_tenants;    /* sched_request.tenant is below this; 0 = 1 */
    const uint32_t *weights; /* [max_tenants] of each tenant's share, >= 1; copied; NULL = 1 each */
    bool share_cache;        /* tenants may find each other's cached prompts */
    bool depth_cap;          /* lower max_loops while the queue is long */
    /* Speculation: most drafted tokens in flight of one sequence, 0 = none, or SCHED_DRAFTS_AUTO.
     */
    uint32_t drafts;
    uint32_t draft_loops; /* loops of a position before it drafts the next token; 0 = chosen */
    uint32_t wait_bound;  /* most launches a ready row may be passed over; 0 = default */
    kv_feed *feed;        /* borrowed; told of cached blocks; NULL: none */
} sched_opts;
void sched_opts_default(sched_opts *opts);

/* Depth a request wishes for; 0 = the default of each. */
typedef struct {
    uint16_t min_loops, max_loops;
    float threshold;
} sched_depth;

/* Logits of one position, seen on the scheduler's thread while they exist. depth is the number of
 * loops executed by this position. logits is NULL if the head was not wanted. */
typedef void (*sched_tap)(void *ud, uint64_t id, uint32_t pos, uint16_t depth, const float *logits);

/* Limits the next token (constrained decoding). All calls take sched_request.ud; none may allocate
 * or block. For one sequence they are called by one thread at a time: sched_thread calls make() on
 * a thread of its own, while launches run, and the others on the engine's. */
typedef struct {
    /* Makes the mask of the next token, from the tokens taken. A result other than ERR_NONE ends
     * the sequence with this error. The work must have a bound: other sequences' masks wait for it.
     */
    err_code (*make)(void *ud);
    /* The mask behind the first n expected tokens; 0: that of the next token. NULL: every token is
     * allowed. */
    const eng_mask *(*mask)(void *ud, uint32_t n);
    /* A token allowed by the mask was drawn: goes on with it. False, with nothing changed, if the
     * token is not possible after all; another is drawn then. */
    bool (*take)(void *ud, uint32_t token);
    /* May be NULL: none. Tokens that probably come next, found by make() with the mask behind each;
     * returns their number. *tokens is valid until the next make() or take(). When the first of
     * them is taken, the others stay expected and no make() follows, because the mask of the next
     * token is there. When another token is taken, none is expected until make() has run. A wrong
     * token here costs time and changes no answer. */
    uint32_t (*expected)(void *ud, const uint32_t **tokens);
} sched_constraint;

typedef struct {
    const uint32_t *prompt;   /* copied */
    uint32_t n_prompt;        /* >= 1 */
    uint32_t max_tokens;      /* 0 is allowed with prompt_logprobs or a tap: score only */
    uint32_t min_tokens;      /* stop ids are banned before this many */
    eng_sampling sampling;    /* bias copied */
    const uint32_t *stop_ids; /* copied; ends with SCHED_STOP, the id is reported */
    uint32_t n_stop_ids;
    sched_depth depth;
    uint32_t n_top;       /* alternatives wanted per token, <= ENG_MAX_TOP */
    bool prompt_logprobs; /* one SCHED_PROMPT event per prompt position */
    uint32_t tenant;      /* tenants share places, launches and pages fairly */
    int32_t
        priority; /* lower first (as in vLLM), among requests of one tenant; rises while waiting */
    uint64_t salt[2]; /* hash of cache_salt; 0,0 = shared with the whole tenant */
    sched_tap tap;    /* may be NULL; with it every position runs the head if tap_logits */
    bool tap_logits;
    const sched_constraint *constraint; /* may be NULL */
    bool tell_drafts;                   /* one SCHED_DRAFT event per drafted token */
    void *ud; /* for tap and constraint; must live until the SCHED_END event */
} sched_request;

/* SCHED_DRAFT: `token` is the draft for `pos`, depth the loops of the position before it. A later
 * SCHED_TOKEN at pos confirms the draft or, with another token, withdraws it and every later one. A
 * new draft for a pos replaces the old one and withdraws later ones. */
typedef enum { SCHED_PROMPT, SCHED_TOKEN, SCHED_DRAFT, SCHED_END } sched_kind;
typedef enum { SCHED_STOP, SCHED_LENGTH, SCHED_CANCELLED, SCHED_FAILED } sched_finish;

typedef struct {
    uint64_t id;
    sched_kind kind;
    /* PROMPT and TOKEN: a token at pos, its log-probability given the tokens before it (PROMPT at
     * pos 0: NaN), and `depth`, the loops executed by the position before it (PROMPT: by the
     * position itself). */
    uint32_t token, pos;
    uint16_t depth;
    float logprob;
    uint32_t n_top;
    eng_top top[ENG_MAX_TOP];
    /* END */
    sched_finish finish;
    err_code why;     /* with SCHED_FAILED */
    uint32_t stop_id; /* with SCHED_STOP */
    uint32_t n_prompt, n_cached, n_output;
    uint64_t prompt_loops, output_loops;       /* executed loops, tails not counted */
    uint64_t queued_ns, prefill_ns, decode_ns; /* submit→admit, admit→first token, first→last */
} sched_event;

enum { SCHED_DEPTH_BINS = PLAN_MAX_LOOPS + 1 };

enum { SCHED_MOST_HOMES = 64 }; /* ENG_MOST_HOMES */
typedef struct {                /* gauges of one home's cache */
    uint32_t running, pages, pages_free, pages_cached;
} sched_home_stats;

typedef struct { /* counters only grow; gauges are as of now */
    uint32_t running, waiting;
    uint64_t waiting_tokens;
    uint64_t pages, pages_free, pages_cached; /* cached = only the prefix cache holds them */
    uint32_t page_slots, n_homes;
    sched_home_stats homes[SCHED_MOST_HOMES]; /* their parts; with one home the whole */
    size_t slot_bytes;
    uint64_t blocks;       /* of ENG_BLOCK positions that fit if each runs default_max_loops */
    uint64_t loops_to_run; /* expected of all sequences, waiting and running */
    uint32_t rows_held;    /* row states in use, parked tails included */
    uint64_t slots_used, cache_bytes,
        cache_bytes_all_loops;                   /* the last: if every loop were stored */
    uint32_t rows_by_loop[SCHED_DEPTH_BINS];     /* gauge: rows in flight about to run loop i */
    uint64_t rows_run_by_loop[SCHED_DEPTH_BINS]; /* rows that ran loop i; loops count from 0 */
    uint64_t exits_by_depth[SCHED_DEPTH_BINS];
    uint64_t launches[3], launch_rows[3], launch_ns[3]; /* by eng_stage */
    uint64_t head_rows, tail_rows, kv_only_rows, prompt_rows,
        decode_rows;      /* recurrent rows by kind */
    uint64_t collapsed;   /* positions that gave slots back under policy collapse */
    uint64_t voided_rows; /* left out of a launch ahead, because they had halted */
    /* Speculation. Drafted tokens that a row was started with; of these, how many were confirmed
     * and how many withdrawn. A chain begins with a draft behind the newest known token; the place
     * of a draft counts the unconfirmed drafts before it. */
    uint64_t draft_chains, draft_tokens, drafts_accepted, drafts_withdrawn;
    uint64_t accepted_by_place[SCHED_DRAFT_PLACES]; /* the last: this place and all later ones */
    uint64_t text_drafts, text_drafts_accepted;     /* of these, copied from the text so far */
    uint64_t forced_drafts, forced_drafts_accepted; /* and expected by the constraint */
    uint64_t draft_heads;                           /* coda rows that only named a draft */
    uint64_t withdrawn_rows; /* rows run, in any stage, for positions withdrawn later */
    uint32_t draft_loops_now, drafts_now; /* gauges: as chosen now; 0 = no drafts */
    uint64_t prompt_tokens, output_tokens, prompt_loops, output_loops;
    uint64_t finished[4]; /* by sched_finish */
    uint64_t preemptions, refused;
    uint64_t prefix_queries, prefix_hits; /* tokens */
    uint64_t sample_ns, steps;
    uint32_t depth_cap_now; /* 0 = not capping */
    uint32_t longest_wait;  /* launches the oldest ready row was passed over, most ever */
} sched_stats;

enum { SCHED_LAUNCHES = 256 }; /* recurrent launches that are remembered */

typedef struct {         /* one recurrent launch */
    uint64_t id;         /* counts recurrent launches from 1 on */
    uint64_t end_ns, ns; /* its end by clock_ns; its length */
    uint32_t n_prompt;   /* rows of prompt positions */
    uint32_t n_loops;
    uint32_t *rows; /* [n_loops] rows that ran loop i; loops count from 0 */
} sched_launch;

typedef struct { /* one tenant; counters only grow, gauges are as of now */
    uint32_t running, waiting;
    uint64_t waiting_tokens;
    uint64_t pages, pages_cached; /* held in all; held only for the prefix cache */
    uint64_t rows;                /* run in launches of any stage */
    uint64_t charged_ns;          /* its part of launches, and of sampling */
    uint64_t output_tokens, preemptions;
} sched_tenant_stats;

/* ---- the plain machine: one thread ---- */
typedef struct scheduler scheduler;
typedef void (*sched_sink)(void *ud, const sched_event *event);

/* Borrows the backend. Events go to sink during sched_step and sched_cancel. */
int sched_create(scheduler **out, eng_backend *backend, const sched_opts *opts, sched_sink sink,
                 void *ud, err *e) WARN_UNUSED;
void sched_destroy(scheduler *sched); /* running sequences end without events */
/* ERR_BUSY: queue full. ERR_TOO_LONG: can never fit the context or the cache.
 * ERR_BAD_PARAM: names the field. *id is never 0. */
int sched_submit(scheduler *sched, const sched_request *req, uint64_t *id, err *e) WARN_UNUSED;
/* Unknown ids are ignored. The pages are free on return. */
void sched_cancel(scheduler *sched, uint64_t id);
/* Does one round of launches. If the backend takes several in flight, the last may still be in
 * flight on return. *idle is set when nothing is left to do. Fails only with ERR_DEVICE (all
 * running sequences got SCHED_FAILED); a request can only end itself. */
int sched_step(scheduler *sched, bool *idle, err *e) WARN_UNUSED;
void sched_get_stats(const scheduler *sched, sched_stats *out);
void sched_get_tenant_stats(const scheduler *sched, uint32_t tenant, sched_tenant_stats *out);
/* The newest launch has the id stats.launches[ENG_STAGE_RECURRENT]. False: not remembered. Its rows
 * are valid until the next step. */
bool sched_get_launch(const scheduler *sched, uint64_t id, sched_launch *out) WARN_UNUSED;
/* Slow check of every invariant of cache and rows; for tests. *e names the fault. */
bool sched_sane(const scheduler *sched, err *e) WARN_UNUSED;

/* ---- the machine on its own thread ---- */
typedef struct sched_thread sched_thread;
typedef void (*sched_notify)(
    void *ud); /* on the engine thread: events are waiting; must not block */

/* Takes the backend: sched_thread_stop closes it. */
int sched_thread_start(sched_thread **out, eng_backend *steal_backend, const sched_opts *opts,
                       sched_notify notify, void *ud, err *e) WARN_UNUSED;
/* The following six are called from one thread, the caller's. Submit never blocks, and refuses a
 * bad request at once, before any header is sent. */
int sched_thread_submit(sched_thread *thread, const sched_request *req, uint64_t *id,
                        err *e) WARN_UNUSED;
void sched_thread_cancel(sched_thread *thread, uint64_t id); /* its SCHED_END still comes */
bool sched_thread_poll(sched_thread *thread,
                       sched_event *event) WARN_UNUSED;          /* false: no more for now */
void sched_thread_stats(sched_thread *thread, sched_stats *out); /* a snapshot at most 100 ms old */
/* Of one tenant, from the snapshot last taken by sched_thread_stats. */
void sched_thread_tenant_stats(const sched_thread *thread, uint32_t tenant,
                               sched_tenant_stats *out);
/* The same as sched_get_launch, from the snapshot last taken by sched_thread_stats. Its rows are
 * valid until the next one is taken. */
bool sched_thread_launch(const sched_thread *thread, uint64_t id, sched_launch *out) WARN_UNUSED;
/* Nanoseconds since the engine thread's last sign of life; whether its device failed. */
uint64_t sched_thread_silence_ns(sched_thread *thread);
/* Any thread: the time of its last sign of life, by clock_ns, and the duration of its slowest
 * recent step; 0 before the first. */
void sched_thread_pulse(const sched_thread *thread, uint64_t *beat_ns, uint64_t *usual_step_ns);
bool sched_thread_failed(sched_thread *thread);
/* Asks the engine thread to end, and waits at most this long. False: it has not ended. A step that
 * hangs cannot be joined: then the process must end without sched_thread_stop. */
bool sched_thread_ends(sched_thread *thread, uint64_t within_ns) WARN_UNUSED;
void sched_thread_stop(
    sched_thread *thread); /* cancels all sequences, joins, frees; NULL is fine */

#endif
