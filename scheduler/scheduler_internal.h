/* scheduler_internal.h - what the scheduler's files share.
 *
 * cache.c          slots, pages, blocks          prefix.c     blocks found again by content
 * cost.c           a + b*rows, when to flush     seq.c        one request, checked and copied
 * admit.c          who runs, who waits           cohort.c     cohorts: rows, and what comes next
 * pick.c           the wavefront rule            tails.c      silent loops of policy exact
 * flight.c         launches from start to end    recurrent.c  recurrent launches
 * prelude_coda.c   prelude and coda              emit.c       positions done, tokens out
 * masks.c          what constrained answers may say next
 * sched.c          the machine                   thread.c     the machine on its own thread
 * tenant.c         whose turn it is          sane.c       every invariant, slowly
 *
 * Everything here belongs to the thread that calls sched_step, but for the fields of
 * seq marked atomic. */
#ifndef FATHOM_SCHEDULER_INTERNAL_H
#define FATHOM_SCHEDULER_INTERNAL_H

#include "base/hash.h"
#include "base/list.h"
#include "engine/backend.h"
#include "scheduler/scheduler.h"

#include <stdatomic.h>

#define NONE UINT32_MAX

/* ---- cache.c: slots come from pages, pages belong to blocks ---- */

/* Small, because a block's last page is on average half empty: at 160 slots to a block
 * four slots a page waste about 1 %. */
enum { PAGE_SLOTS = 4 };

/* Everything besides tokens that shapes a block's latents, and who may share it. */
typedef struct {
    uint64_t salt[2];
    float threshold;
    uint16_t min_loops, max_loops;
    uint16_t prompt_min; /* least loops of prompt positions, >= min_loops */
    uint32_t tenant;     /* 0 where tenants share the cache */
} prefix_root;

typedef struct {
    uint64_t half[2];
} hash128;

typedef struct {
    uint32_t refs;  /* sequences whose table names it */
    uint32_t pages; /* first of its pages, the one being filled; linked by page_next */
    uint32_t n_pages;
    uint32_t left;               /* unused slots of that page */
    uint32_t used;               /* slots handed out and not given back */
    uint32_t all;                /* slots its positions would take were every loop stored */
    bool taken;                  /* not on the free list */
    bool cached;                 /* in the prefix table */
    uint32_t tenant;             /* who made it */
    uint32_t hash_next;          /* chain of its bucket */
    uint32_t lru_prev, lru_next; /* of its tenant's blocks that only the prefix cache holds */
    hash128 hash;                /* of its tokens and all before them */
    hash128 parent;
    prefix_root root;
    uint32_t tokens[ENG_BLOCK];
    uint32_t spare[ENG_BLOCK]; /* given back by rows left out; handed out before others */
    uint32_t n_spare;
} block;

typedef struct {                  /* what one tenant's blocks hold */
    uint32_t lru_first, lru_last; /* first = evicted next */
    uint32_t n_pages;             /* of all its blocks */
    uint32_t n_cached_pages, n_cached_blocks;
    uint32_t weight;
} cache_part;

typedef struct {
    block *blocks;
    cache_part *parts; /* [n_parts] by tenant */
    uint32_t n_parts;
    uint32_t *page_next, *free_blocks, *buckets;
    uint32_t n_blocks, n_pages, n_buckets;
    uint32_t n_free_blocks, free_page, n_free_pages, n_cached_pages, n_cached_blocks;
    uint64_t used, all;   /* sums over blocks */
    uint64_t handed;      /* slots handed out, ever, less those given back */
    uint64_t key[2];      /* of the prefix hash */
    bool leak, lose_part; /* planted bugs */
} cache;

/* weights: [n_tenants], >= 1, or NULL for 1 each. */
int sched__cache_init(cache *c, const eng_backend_info *info, uint32_t n_tenants,
                      const uint32_t *weights, err *e);
void sched__cache_deinit(cache *c);
/* Both evict what only the prefix cache holds when they must; false when all is in use, or kept
 * for other tenants. */
bool sched__take_block(cache *c, uint32_t tenant, uint32_t *out) WARN_UNUSED;
bool sched__take_slot(cache *c, uint32_t b, uint32_t *slot) WARN_UNUSED;
/* The newest slot of a position whose loop was not run after all. A launch takes one of a
 * position at most, so what a block has spare never exceeds its positions. */
void sched__give_slot(cache *c, uint32_t b, uint32_t slot);
/* Whether so many slots in so many new blocks are there without preempting anybody. */
bool sched__surely_fits(const cache *c, uint64_t slots, uint64_t blocks) WARN_UNUSED;
void sched__give_block(cache *c, uint32_t b); /* one reference less */
void sched__free_block(cache *c, uint32_t b); /* refs is 0 and it is not cached */

/* ---- prefix.c ---- */

hash128 sched__prefix_hash(const cache *c, const hash128 *parent, const prefix_root *root,
                           const uint32_t tokens[ENG_BLOCK]);
/* The cached block with this content, or NONE. Takes a reference. */
uint32_t sched__prefix_take(cache *c, const hash128 *hash, const hash128 *parent,
                            const prefix_root *root, const uint32_t tokens[ENG_BLOCK]);
/* Offers a finished block; a block of the same content keeps its place. */
void sched__prefix_offer(cache *c, uint32_t b, const hash128 *hash, const hash128 *parent,
                         const prefix_root *root, const uint32_t tokens[ENG_BLOCK]);
bool sched__same_root(const prefix_root *a, const prefix_root *b);
enum { ANY_TENANT = UINT32_MAX };
/* The least recently used block of the tenant furthest over its share, for `tenant` to take.
 * False when there is none, or only what is kept for others; ANY_TENANT takes that too. */
bool sched__prefix_evict(cache *c, uint32_t tenant);
/* Pages and blocks that `tenant` may take: free, or evictable for it. ANY_TENANT: for each. */
void sched__room_for(const cache *c, uint32_t tenant, uint64_t *pages, uint64_t *blocks);
void sched__lru_remove(cache *c, uint32_t b);
void sched__lru_append(cache *c, uint32_t b);

/* ---- cost.c: one stage's time as a + b * rows, forgetting slowly ---- */

typedef struct {
    double n, x, xx, y, xy; /* decayed sums over launches; x = rows, y = ns */
    double a, b;            /* ns, ns per row */
} cost_fit;
void sched__cost_add(cost_fit *f, uint32_t rows, uint64_t ns);
static inline double sched__cost_ns(const cost_fit *f, double rows) {
    return f->a + f->b * rows;
}

/* ---- seq.c: one request ---- */

typedef struct cohort cohort;
typedef enum { SEQ_NEW, SEQ_WAITING, SEQ_RUNNING, SEQ_ENDED } seq_state;
typedef enum {
    MASK_NONE,   /* nothing constrains it */
    MASK_WANTED, /* being made, or about to be: the constraint belongs to whoever makes it */
    MASK_READY,
    MASK_DROPPED, /* cancelled before it was made */
    MASK_FAILED   /* mask_error says why */
} mask_state;

typedef struct seq {
    list_link rank;  /* in its tenant's waiting or in running, by order and then arrival */
    list_link start; /* in want_decode or want_prompt while a cohort may be started */
    uint64_t id, arrival;
    int64_t order; /* priority, aged: sched__order */
    seq_state state;
    atomic_bool cancel_wanted; /* set by any thread, or inside a step */
    atomic_uint mask;          /* mask_state of the next token */
    err_code mask_error;       /* written before MASK_FAILED */
    bool dear_mask;            /* whoever makes masks: its last one took long */
    struct seq *next_mask;     /* and its list of those to come */
    sched_request req;         /* pointers lead into this allocation */
    prefix_root root;          /* depth as resolved, and salt */
    uint16_t wish_loops;       /* max_loops before any cap for load */
    bool may_share;            /* looks into the prefix cache */
    uint32_t *tokens;          /* prompt, then output: room for n_prompt + max_tokens */
    uint32_t n_tokens;         /* known so far */
    uint32_t *blocks;
    uint32_t n_blocks;
    uint32_t next_start;  /* first position no cohort has taken */
    uint32_t coda_next;   /* first position whose coda has not run */
    uint32_t frontier;    /* most loops a live position has run or is about to */
    uint32_t seen;        /* positions ever finished; a recomputed one is not reported again */
    uint32_t n_offered;   /* blocks already offered to the prefix cache, or taken from it */
    hash128 hash;         /* of those */
    cohort *first, *last; /* cohorts in flight, positions rising */
    uint64_t tried;       /* sched.changes when it was last not let in */
    bool held;            /* and whether that was for a block in the making */
    uint32_t waited;      /* steps its next cohort was refused rows */
    eng_choice pending;   /* score of the next prompt token */
    sched_event end;      /* with keep_ended: its SCHED_END, not yet reported */
    bool admitted_before;
    uint32_t n_cached;
    uint64_t prompt_loops, output_loops;
    uint64_t t_submit, t_admit, t_first, t_last; /* clock_ns */
} seq;

typedef struct { /* what a request is checked against; read-only after create, any thread */
    const model_plan *plan;
    exit_rule exit;  /* of the backend */
    sched_opts opts; /* defaults resolved */
    uint32_t n_pages, n_blocks;
} limits;
/* ERR_BAD_PARAM, ERR_TOO_LONG, ERR_NO_MEMORY. The result ends with free(). Any thread. */
int sched__seq_create(seq **out, const limits *l, const sched_request *r, err *e) WARN_UNUSED;
/* Loops that a position runs at least. */
uint16_t sched__min_loops(const seq *q, uint32_t pos);
/* Positions whose blocks the prefix cache may share. Where prompts run more loops than outputs,
 * equal tokens of an output are not equal latents, so only the prompt's are. */
uint32_t sched__shared_positions(const seq *q);
static inline uint32_t seq_n_output(const seq *q) {
    return q->n_tokens - q->req.n_prompt;
}
/* Pages that n positions take if all of them run max_loops. */
uint64_t sched__worst_pages(const limits *l, uint64_t n_positions, uint32_t max_loops);

/* ---- cohorts ---- */

typedef enum { ROW_FREE, ROW_LIVE, ROW_TAIL, ROW_DONE } row_state;
typedef struct {
    uint32_t pos, next; /* next row of the cohort, or of the free list */
    uint16_t depth;     /* loops executed before it halted; 0 while live */
    uint8_t state;
} row_info;

typedef enum { LIST_DECODE, LIST_TAIL, LIST_PROMPT, N_LISTS } loop_list;

enum { MAX_FLIGHTS = 2 };

/* What a launch says of a cohort's rows in case the launch before, which is not settled
 * yet, turns out to have halted some of them. */
typedef enum {
    IS_SURE,       /* nothing: no live row of it is in the launch before */
    SELF_GUARDED,  /* a row that halted is left out */
    FOLLOWS_GUARD, /* tails that come along with one live row only: left out if that halted */
    OR_TAIL,       /* a row that halted goes on as its own tail */
} hedge;

/* Positions [first, first + n) of one sequence that move together: a prompt chunk, or
 * the one row of a decode step. While it loops it is in one of s->looping; its coda
 * may run while its tails loop on. */
struct cohort {
    seq *owner;
    cohort *before, *after;            /* of the same sequence, by position */
    list_link loop;                    /* in s->looping[list] */
    list_link stage;                   /* in s->to_prelude, then s->to_coda */
    uint32_t first, n, head, coda_row; /* rows; coda_row = next one for the coda, NONE = taken */
    uint32_t n_live, n_tail, n_coda;   /* rows that loop, loop on silently, await the coda */
    uint32_t waited;                   /* launches it could have joined and did not */
    uint32_t pick[MAX_FLIGHTS];        /* index into the flight's picks, NONE = not in it */
    uint32_t guard;                    /* FOLLOWS_GUARD: the row it comes along with */
    uint16_t next_loop;                /* loops started */
    uint8_t list;
    uint8_t hedge; /* in the newest flight */
    bool decode, looping;
    bool called;    /* raised the frontier on the assumption that it goes on */
    bool parked;    /* tails only, waiting at the frontier; in s->parked */
    bool finishing; /* tails that go on to the end to give their rows back */
    bool unmasked;  /* in s->to_mask: ready for the coda but for the mask */
};

/* One launch, from being built until it is settled. */
typedef struct {
    uint32_t pick; /* whose row it is */
    uint32_t slot; /* taken for its loop */
    bool left_out; /* what guarded it halted: its loop was not run */
} flight_row;

typedef struct {
    eng_stage stage;
    uint32_t index;  /* in s->flights, and in cohort.pick */
    bool of_flush;   /* part of a flush: its time and rows count there */
    cohort **picks;  /* [max_rows] NULL: gone since, or not in it any more */
    eng_row *rows;   /* [max_rows] as the backend was told */
    flight_row *who; /* [max_rows] */
    eng_edit *edits; /* [max_edits] */
    eng_draw *draws; /* [max_rows] of rows whose token the backend picks */
    uint32_t n_picks, n_rows, n_edits;
    uint32_t n_left_out;
    uint32_t n_last;  /* recurrent: live rows in their last loop */
    uint32_t n_may;   /* recurrent: cohorts whose last live row may halt before it */
    uint32_t n_heads; /* coda: rows that run the head */
    uint32_t n_draws;
} flight;

typedef enum { /* planted bugs, for the tests that must find them */
               FAULT_NONE,
               FAULT_BREAK_RULE,   /* a row runs ahead of the row before it */
               FAULT_LEAK_PAGE,    /* a freed block forgets one page */
               FAULT_DROP_TAIL,    /* a halted row of policy exact fills no deeper plane */
               FAULT_CODA_ORDER,   /* a chunk's coda does not wait for the one before */
               FAULT_LOOSE_KEY,    /* the prefix key forgets depth and salt */
               FAULT_SHARE_EARLY,  /* a block is offered before it is finished */
               FAULT_REEMIT,       /* a recomputed position is reported again */
               FAULT_KEEP_LAST,    /* a halted position leaves deeper planes unmapped */
               FAULT_STARVE,       /* the waiting bound is ignored */
               FAULT_NO_GUARD,     /* a launch ahead takes for granted that nobody halts */
               FAULT_KEEP_SLOT,    /* the slot of a row left out is not given back */
               FAULT_LOOSE_TENANT, /* the prefix key forgets the tenant */
               FAULT_LOSE_PART,    /* a page taken is not counted to its tenant */
               FAULT_NO_AGE,       /* who waits never rises */
               FAULT_BY_ARRIVAL,   /* tenants are served as they come */
               N_FAULTS
} sched_fault;

/* Whether a launch is built before the one before it is settled: if it pays, or as tests wish. */
typedef enum { AHEAD_BY_COST, AHEAD_ALWAYS, AHEAD_NEVER } ahead_rule;

/* ---- tenant.c: whose turn it is ---- */

typedef struct {
    list_link waiting; /* seq.rank */
    list_link active;  /* in s->active while it has sequences, or a claim from before */
    uint32_t weight, n_waiting, n_running, n_rows; /* rows: of the pool */
    uint64_t waiting_tokens, arrivals;
    double charged_ns;        /* for its part of launches, and sampling */
    double served;            /* the same by weight; raised to what others have on its return */
    uint32_t claim_places[2]; /* most held in this window of steps, and in the one before */
    uint32_t claim_pages[2];
    uint32_t in_launch, ready, n_live, n_looping; /* rows, counted per launch */
    bool may_run, held, passed;
    double dear;          /* what its rows cost, over the usual; forgets quickly */
    uint32_t since_alone; /* recurrent launches since it had one alone */
    uint64_t rows, output_tokens, preemptions; /* ever */
} sched_tenant;

struct scheduler {
    eng_backend *backend;
    const model_plan *plan;
    limits limits;
    sched_sink sink;
    void *ud;
    cache cache;
    eng_sampler *sampler;

    sched_tenant *tenants;
    uint32_t n_tenants;
    list_link active;                 /* tenant.active */
    uint32_t held_live, held_looping; /* rows of tenants that sat out the newest launch */
    uint64_t window;                  /* of steps, for claims */
    list_link running;                /* seq.rank, of all tenants */
    uint32_t n_waiting, n_running;
    uint64_t waiting_tokens, next_id, next_arrival;
    uint64_t changes;                   /* blocks offered and sequences gone, ever; from 1 */
    list_link want_decode, want_prompt; /* seq.start */

    row_info *rows;
    cohort *cohorts, *free_cohort; /* as many as rows */
    uint32_t n_rows, free_row, n_free_rows, max_rows, chunk;
    uint32_t n_decode_rows; /* held by cohorts that decode */
    list_link looping[N_LISTS], to_prelude, to_coda, parked;
    uint32_t n_looping_live, n_looping_tail, n_parked, n_to_prelude, n_to_coda; /* rows */

    /* Launches started and not settled: n_out from first_out on, oldest first. The next
     * one is built in the flight after them. */
    flight flights[MAX_FLIGHTS];
    uint32_t max_flights, n_out, first_out, max_edits;
    uint64_t n_started; /* launches, ever */

    cost_fit cost[3];
    double seen_live, seen_exits, seen_ready; /* decayed sums over recurrent launches */
    double exit_rate, ready_rate;  /* rows per live row that exit; that become ready for the coda */
    double depth_mean;             /* of positions, forgetting slowly */
    double since_flush_ns;         /* of recurrent launches */
    uint64_t flush_ns, flush_rows; /* settled so far of the flush under way */
    uint32_t n_flush_out;          /* its launches that are not settled */
    bool flushing, flush_open;     /* being started; begun and not learnt from */
    double cycle_rows, cycle_ns;   /* decayed sums over cycles: what time gains */
    uint32_t flush_at;     /* tests: flush at so many ready rows whatever it costs; 0 = by cost */
    uint32_t flush_waited; /* recurrent launches since something first waited for a flush */
    double host_ns[3];     /* from a launch's end to the next one's start, by eng_stage */
    uint64_t settled_at;   /* clock_ns when the newest result came; 0 = long ago */
    eng_stage settled_stage;
    ahead_rule ahead;
    bool free_host; /* tests: the host's own time is charged to nobody */

    uint64_t *mask;           /* vocab bits, to ban stop ids and what was refused */
    list_link to_mask;        /* cohort.stage of those that wait for a mask, in no sum of rows */
    atomic_bool masks_failed; /* of some sequence; set after its state */
    bool starved;             /* nothing was started or settled, and something waits for a mask */
    /* Both take ud and may be NULL. hand_mask: has the mask of a sequence made elsewhere, by
     * sched__makes_mask; each is handed once until it is made. beat: the machine is alive, in the
     * middle of a step that may be long. */
    void (*hand_mask)(void *ud, seq *q);
    void (*beat)(void *ud);
    bool stepping, dead, cancels_wanted;
    bool keep_ended; /* whoever drives takes ended sequences, and reports their end */
    /* Tokens, and with keep_ended ends, are out and nothing refers to who ended: to tell of
     * them before the next launch, which may take long, begins. May be NULL; takes ud. */
    void (*launch_told)(void *ud);
    seq *ended;  /* sequences over, freed when the step ends (unless keep_ended) */
    seq *ending; /* whose SCHED_END is being reported */
    atomic_uint_fast64_t left_waiting, left_waiting_tokens; /* ever; read by thread.c's loop side */
    sched_stats stats;
    sched_fault fault;
};

seq *sched__take_ended(scheduler *s);    /* NULL when there is none */
void sched__cancel_wanted(scheduler *s); /* ends every sequence whose cancel_wanted is set */
void sched__end_all(scheduler *s, sched_finish finish, err_code why);

/* ---- tenant.c ---- */

int sched__tenants_init(scheduler *s, err *e) WARN_UNUSED;
static inline sched_tenant *sched__tenant_of(const scheduler *s, const seq *q) {
    return &s->tenants[q->req.tenant];
}
/* Where a request that arrives now stands among those of its tenant: lower is first. */
int64_t sched__order(scheduler *s, const seq *q);
void sched__activate(scheduler *s, sched_tenant *t); /* it has a sequence now */
void sched__roll_claims(scheduler *s);               /* before admission, each round */
/* The tenant whose turn to be let in it is, of those not passed; NULL: nobody waits. */
sched_tenant *sched__next_tenant(const scheduler *s);
/* Whether t may have one more place; *from is then who must give one up, NULL if nobody. */
bool sched__may_place(const scheduler *s, const sched_tenant *t, sched_tenant **from);
/* Pages of a claim of others that t, beyond its share, must leave alone. */
uint64_t sched__claimed_pages(const scheduler *s, const sched_tenant *t, uint64_t wanted);
/* Who gives up pages so that t, which wants so many more, has its share; NULL: nobody. */
sched_tenant *sched__gives_pages(const scheduler *s, const sched_tenant *t, uint64_t wanted);
/* The tenant whose last sequence gives way when pages run out; NULL: the last of all. */
sched_tenant *sched__most_pages(const scheduler *s);
void sched__charge(scheduler *s, const flight *f, uint64_t ns); /* to whose rows are in it */
void sched__charge_host(scheduler *s, const seq *q, uint64_t ns);
/* Before a recurrent launch is picked: sets `held` of tenants that let others go first. */
void sched__hold_tenants(scheduler *s);
/* Some tenant has nothing left to loop, or lets others loop, and its rows wait for a flush. */
bool sched__flush_is_waited_for(scheduler *s);

/* ---- cohort.c ---- */

void sched__start_cohorts(scheduler *s);
void sched__want_start(scheduler *s, seq *q);       /* its next cohort may be started */
void sched__settle_cohort(scheduler *s, cohort *c); /* a launch is behind it; may free it */
void sched__drop_cohorts(scheduler *s, seq *q);

/* ---- pick.c ---- */

void sched__pick_loops(scheduler *s, flight *f); /* who runs a loop in the launch being built */
typedef enum { MUST_WAIT, IF_BEFORE_RUNS, MAY_RUN } readiness;
readiness sched__readiness(const scheduler *s, const cohort *c); /* by the wavefront rule */

/* ---- flight.c ---- */

int sched__flights_init(scheduler *s, err *e) WARN_UNUSED; /* max_rows and max_edits are known */
void sched__flights_deinit(scheduler *s);
static inline flight *sched__newest_out(scheduler *s) { /* NULL: everything is settled */
    return s->n_out ? &s->flights[(s->first_out + s->n_out - 1) % MAX_FLIGHTS] : NULL;
}
static inline bool sched__in_flight(const cohort *c) {
    return c->pick[0] != NONE || c->pick[1] != NONE;
}
bool sched__loop_is_out(const scheduler *s, const cohort *c); /* in flight, in a recurrent launch */
/* Building: an empty one; cohorts into it; slots and rows for them. */
flight *sched__new_flight(scheduler *s, eng_stage stage);
void sched__pick(flight *f, cohort *c);
void sched__unpick(flight *f, cohort *c);
/* The block of pos, taken when its first position starts. False: q had to go. */
bool sched__have_block(scheduler *s, seq *q, uint32_t pos) WARN_UNUSED;
/* A free slot of position pos into planes [plane, plane + n_planes): preempts others when
 * there is none. NULL: q itself was preempted or ended. */
eng_edit *sched__place(scheduler *s, flight *f, seq *q, uint32_t pos, uint32_t plane,
                       uint32_t n_planes) WARN_UNUSED;
eng_row *sched__add_row(scheduler *s, flight *f, const cohort *c, uint32_t row);
/* Starts it without the rows of those who had to go; without any rows it is forgotten. */
int sched__launch(scheduler *s, flight *f, err *e) WARN_UNUSED;
/* Settling: what a launch that was started too many has to wait for; all of them; the oldest. */
int sched__settle_surplus(scheduler *s, err *e) WARN_UNUSED;
int sched__settle_all(scheduler *s, err *e) WARN_UNUSED;
int sched__settle_oldest(scheduler *s, err *e) WARN_UNUSED;
void sched__drain(scheduler *s); /* waits for everything that is out and looks at nothing */

/* ---- recurrent.c, prelude_coda.c: each starts launches, and settles one of its stage ---- */

int sched__run_loops(scheduler *s, err *e) WARN_UNUSED;
int sched__run_prelude(scheduler *s, err *e) WARN_UNUSED;
int sched__run_coda(scheduler *s, err *e) WARN_UNUSED;
void sched__settle_loops(scheduler *s, flight *f, const eng_result *r);
void sched__settle_prelude(flight *f);
void sched__settle_coda(scheduler *s, flight *f, const eng_result *r);

/* ---- masks.c ---- */

static inline mask_state sched__mask(const seq *q) {
    return atomic_load_explicit(&((seq *)(uintptr_t)q)->mask, memory_order_acquire);
}
void sched__want_mask(scheduler *s, seq *q); /* of its next token, if anything constrains that */
bool sched__makes_mask(seq *q);              /* whoever has it from hand_mask; false: MASK_FAILED */
bool sched__lacks_mask(const cohort *c);     /* it may not enter the coda yet */
void sched__look_at_masks(scheduler *s);     /* what has become of those that were wanted */

/* ---- cost.c ---- */

bool sched__flush_pays(scheduler *s);
/* Whether to build the next launch before the one that is out is settled. */
bool sched__ahead_pays(const scheduler *s, const flight *out);
void sched__learn_cycle(scheduler *s); /* a flush is settled */

/* ---- tails.c ---- */

bool sched__parks_at_all(const scheduler *s, const cohort *c); /* tails of its kind */
bool sched__may_park(const scheduler *s, const cohort *c);     /* and this one now */
void sched__park(scheduler *s, cohort *c);
void sched__raise_frontier(scheduler *s, seq *q, uint32_t loops);
void sched__lower_frontier(seq *q);
void sched__call_back(scheduler *s, seq *q, uint32_t loops); /* its live position halted instead */
void sched__relieve_rows(scheduler *s);

/* ---- admit.c ---- */

void sched__accept(scheduler *s, seq *q); /* takes q, which has its id */
void sched__admit(scheduler *s);
bool sched__make_room(scheduler *s, seq *q) WARN_UNUSED; /* false: q itself had to go */
void sched__release(scheduler *s, seq *q);               /* rows, cohorts, blocks */
void sched__offer_blocks(scheduler *s, seq *q);

/* ---- emit.c ---- */

/* ENG_ROW_LOGITS or ENG_ROW_SAMPLE where the position runs the head, or 0. */
uint16_t sched__head_wanted(const scheduler *s, const seq *q, uint32_t pos);
/* logits or choice as was wanted, NULL where it was not. May end q. */
void sched__finish_position(scheduler *s, seq *q, uint32_t pos, uint16_t depth, const float *logits,
                            const eng_choice *choice);
void sched__end(scheduler *s, seq *q, sched_finish finish, err_code why, uint32_t stop_id);

#endif
