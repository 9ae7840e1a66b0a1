/* scheduler_internal.h - the scheduler's state, and the functions shared by its files.
 *
 * One step, top down:
 *
 * sched.c          settle, admit, choose, reserve, build, start
 * settle.c         results of launches          ahead.c        launching before results are known
 * admit.c          sequences begin              flush.c        when prelude and coda run
 * recurrent.c      recurrent launches           prelude_coda.c prelude and coda launches
 * reserve.c        room for a launch            pick.c         the wavefront rule, and the order
 * emit.c           positions done, tokens out   end.c          sequences end
 * cohort.c         rows for positions           tails.c        silent loops of policy exact
 * flight.c         the parts of one launch      ranks.c        waiting and running lists
 * tenant.c         shares of several tenants    masks.c        masks of constrained sequences
 * collapse.c       slots given back by policy collapse
 * draft.c          drafted tokens, verdicts     lookahead.c    which rows draft, and how many
 * lookup.c         drafts from the text so far, and from constraints
 * backlog.c        loops expected to run still  home.c         the rank of a sequence
 *
 * Beside the step: create.c, thread.c (a scheduler on its own thread), sane.c (every invariant,
 * slowly). With headers of their own: cache, prefix, evict, feed, cost, launches, seq,
 * rules.
 *
 * Everything here belongs to the thread that calls sched_step, except the fields of sequence marked
 * atomic. */
#ifndef FATHOM_SCHEDULER_INTERNAL_H
#define FATHOM_SCHEDULER_INTERNAL_H

#include "scheduler/cost.h"
#include "scheduler/draft_cost.h"
#include "scheduler/evict.h"
#include "scheduler/launches.h"
#include "scheduler/rules.h"
#include "scheduler/seq.h"

/* ---- rows and cohorts ---- */

typedef enum { ROW_FREE, ROW_LIVE, ROW_TAIL, ROW_DONE } row_state;
typedef struct {
    uint32_t pos, next; /* next row of the cohort, or of the free list */
    uint16_t depth;     /* loops executed before it halted; 0 while live */
    uint8_t state;
} row_info;

typedef enum { LIST_DECODE, LIST_TAIL, LIST_PROMPT, N_LISTS } loop_list;

/* A cohort that still loops, and the draft of the next token. */
typedef enum {
    DRAFTS_NOTHING,
    DRAFT_WAITS,  /* in sched->to_draft */
    DRAFT_JOINS,  /* there too, for keys and values that a later chunk reads: it names no token */
    DRAFT_IS_OUT, /* in a coda that is not settled */
    DRAFT_ENDS    /* it named an end of the answer: nothing to go on with */
} draft_state;

/* The drafts that a row drew, for the verdict. Of more than two names, those between the first and
 * the newest count as the first. */
typedef struct {
    uint64_t loops[PLAN_MAX_LOOPS / 64 + 1]; /* bit i: drew after loop i */
    uint32_t first, newest;                  /* tokens */
    uint16_t changed, last; /* loops when the newest token was drawn first, and last; 0 = never */
} draft_record;

/* Positions [first, first + n_rows) of one sequence that move together: a prompt chunk, or the one
 * row of a decode step. While it loops it is in one of sched->looping; its coda may run while its
 * tails loop on. */
struct cohort {
    sequence *owner;
    cohort *before, *after;       /* of the same sequence, by position */
    list_link loop_link;          /* in sched->looping[list], or in sched->parked */
    list_link stage_link;         /* in sched->to_prelude, then to_draft, then to_coda or to_mask */
    list_link picks;              /* of picked.cohort_link: its launches, the newest last */
    uint32_t first, n_rows;       /* positions */
    uint32_t first_row, last_row; /* linked by row_info.next */
    uint32_t coda_row;            /* next row for the coda; NONE = all rows have entered it */
    uint32_t n_live, n_tail, n_coda; /* rows by state: live, tail, waiting for the coda */
    uint32_t waited;                 /* launches it could have joined and did not */
    uint32_t began;                  /* timed: tick of its first loop; else 0 */
    uint16_t next_loop;              /* loops started */
    uint8_t list;
    bool decode, looping;
    bool raised_on_a_guess; /* raised the frontier before it was known to go on (ahead.c) */
    bool parked;            /* tails only, waiting at the frontier */
    bool finishing;         /* its tails run to their last loop to give their rows back */
    bool awaits_mask;       /* in sched->to_mask: ready for the coda but for the mask */
    bool timed;             /* one generated position under policy collapse: collapse.c */
    bool collapsed;         /* timed: its slots are given back */
    bool draft;             /* its token is a draft without a verdict */
    bool coda_placed;       /* the slots of its coda are taken: a draft of its own took them */
    uint8_t drafting;       /* draft_state */
    uint16_t drew_after;    /* loops before the newest coda that named the next token */
    draft_record drawn;     /* drafts of the next token that it drew */
    uint8_t source;         /* draft: draft_source */
    uint16_t place;         /* draft: drafts without a verdict before it when it was drawn */
    uint32_t n_run;         /* draft: rows run for it so far, in any stage */
};

static inline bool sched__waits_to_draft(const cohort *coh) {
    return coh->drafting == DRAFT_WAITS || coh->drafting == DRAFT_JOINS;
}
/* The position behind it: its last row names the token there. */
static inline uint32_t sched__next_pos(const cohort *coh) {
    return coh->first + coh->n_rows;
}
/* Time of its next loop on its sequence's clock. */
static inline uint32_t sched__tick(const cohort *coh) {
    return coh->began + coh->next_loop;
}

/* ---- launches ---- */

/* What the device does with a cohort's rows if an earlier launch, still unsettled, halted them. */
typedef enum {
    CANNOT_HALT,    /* no live row of the cohort is in an unsettled launch */
    LEAVE_OUT,      /* halted rows are left out */
    LEAVE_OUT_WITH, /* tails running only for one live row, `guard`: left out if the guard halted */
    CONTINUE_AS_TAIL, /* halted rows run as tails */
} if_halted;

typedef struct flight flight;

/* A cohort's part of a launch. */
typedef struct {
    cohort *cohort;        /* NULL: freed, or has left the launch */
    list_link cohort_link; /* in cohort.picks, while cohort is not NULL */
    const flight *flight;
    uint32_t first_row, n_rows; /* of these, a recurrent launch skips ROW_DONE */
    if_halted if_halted;
    uint32_t guard;      /* with LEAVE_OUT_WITH: a row */
    bool draft;          /* coda: only to draft a token */
    uint32_t n_promised; /* slots, while the launch is reserved */
} picked;

typedef struct {
    picked *pick;
    uint32_t slot; /* taken for its loop */
    bool left_out; /* its guard halted: its loop was not run */
    bool prompt;   /* recurrent: a prompt position */
} row_origin;

/* One launch, from choosing its cohorts until it is settled. */
struct flight {
    eng_stage stage;
    picked *picks;       /* [max_rows] */
    eng_row *rows;       /* [max_rows] as the backend was told */
    row_origin *origins; /* [max_rows] */
    eng_edit *edits;     /* [max_edits] */
    eng_draw *draws;     /* [max_rows] of rows with ENG_ROW_SAMPLE */
    uint32_t n_picks, n_rows, n_edits, n_draws;
    uint32_t n_left_out;
    uint32_t n_last_loop; /* recurrent: live rows in their last loop */
    uint32_t n_may_halt;  /* recurrent: cohorts of one live row, which may halt before that */
    uint32_t n_heads;     /* coda: rows with logits or a sampled token */
    uint32_t home_rows[ENG_MOST_HOMES]; /* recurrent: rows picked of each home */
};

/* ---- ahead.c ---- */

/* Two launches hide the host's time; a third would only hold more halted rows. */
enum { MOST_FLIGHTS = 2 };

/* Whether a launch may start before the one before it is settled: tests set the other two. */
typedef enum { AHEAD_BY_COST, AHEAD_ALWAYS, AHEAD_NEVER } ahead_rule;

typedef struct {
    ahead_rule rule;
    double host_ns[3];   /* mean ns from a launch's result to the next start, by eng_stage */
    uint64_t settled_at; /* clock_ns when the newest result came; 0 = long ago */
    eng_stage settled_stage;
} ahead_state;

/* ---- tenant.c ---- */

typedef struct {
    list_link waiting;     /* of sequence.rank_link */
    list_link active_link; /* in sched->active while it has sequences, or an old claim */
    uint32_t weight, n_waiting, n_running, n_rows; /* rows: of the pool */
    uint64_t waiting_tokens, arrivals;
    double charged_ns;        /* its part of launches, and sampling */
    double served;            /* charged_ns by weight; raised to the others' on its return */
    uint64_t claim_places[2]; /* most held in this window of steps, and in the one before */
    uint64_t claim_pages[2];  /* of all homes */
    uint32_t in_launch, ready, n_live, n_looping; /* rows, counted per launch */
    uint32_t n_seen, may_give;                    /* recounted when pages are to be taken */
    bool may_run, sits_out, refused;              /* recounted per launch, and per admission */
    double price_factor;  /* time of its rows over the usual; forgets quickly */
    uint32_t since_alone; /* recurrent launches since it had one alone */
    uint64_t rows, output_tokens, preemptions; /* since creation */
} sched_tenant;

/* ---- the scheduler ---- */

struct scheduler {
    eng_backend *backend;
    const model_plan *plan;
    request_limits limits;
    rule_set rules;
    sched_sink sink;
    void *ud;
    kv_cache *caches; /* [n_homes] */
    cost_model cost;
    draft_model drafts;
    draft_choice draft_now;  /* how sequences draft at present */
    double trial_ns;         /* of codas only for trials of drafts */
    uint64_t drafts_planned; /* stats.launches of recurrent launches when it was chosen */
    ahead_state ahead;
    eng_sampler *sampler;

    /* sequences */
    sched_tenant *tenants;
    uint32_t n_tenants;
    list_link active;                            /* of sched_tenant.active_link */
    uint32_t rows_sitting_out, live_sitting_out; /* of tenants sitting out the newest launch */
    uint64_t window;                             /* of steps, for claims */
    list_link running;                           /* of sequence.rank_link, all tenants */
    uint32_t n_waiting, n_running;
    uint64_t waiting_tokens, next_id, next_arrival;
    loop_sums loops_left;                  /* of all sequences */
    uint32_t n_homes;                      /* of the backend, at least 1 */
    uint32_t home_running[ENG_MOST_HOMES]; /* running sequences of each home */
    uint32_t home_rows[ENG_MOST_HOMES];    /* rows held by them */
    uint64_t epoch; /* counts events that may make room or finish a block, from 1 */
    list_link want_decode, want_prompt; /* of sequence.start_link */

    /* rows */
    row_info *rows;
    cohort *cohorts, *free_cohort; /* as many as rows */
    uint32_t *row_slots;           /* with rules.collapses or .drafts: [n_rows][n_planes] */
    uint32_t n_planes;             /* of ceiling_loops */
    uint32_t n_rows, free_row, n_free_rows, max_rows, chunk;
    uint32_t n_decode_rows;             /* held by cohorts that decode, without drafts */
    uint32_t n_draft_rows;              /* held by drafts */
    uint32_t n_found_rows;              /* of these, by drafts that no loop named */
    uint32_t n_to_look_up;              /* sequences with to_look_up */
    list_link looping[N_LISTS], parked; /* of cohort.loop_link */
    list_link to_prelude, to_draft, to_coda, to_mask; /* of cohort.stage_link */
    uint32_t n_looping_live, n_looping_tail, n_parked, n_to_prelude, n_to_draft,
        n_to_coda; /* rows; n_to_draft: of the tokens to be named */

    /* Launches started and not settled: n_out from first_out on, oldest first. The next launch is
     * built in the flight after them. */
    flight *flights; /* [max_flights] */
    uint32_t max_flights, n_out, first_out, max_edits;
    uint64_t n_started; /* launches since creation */

    /* the flush */
    uint32_t flush_waited; /* recurrent launches since a row first waited for a flush */
    uint32_t flush_at;     /* tests: flush at this many ready rows; 0 = by cost */

    uint64_t *mask;           /* vocab bits, to ban stop ids and refused tokens */
    atomic_bool masks_failed; /* a sequence's mask became MASK_FAILED */
    bool awaits_masks_only;   /* nothing was started or settled, and a cohort waits for a mask */
    bool stepping, dead, cancels_wanted;
    bool host_is_free; /* tests: the host takes a constant time, and no tenant is charged for it */
    sequence *ended;   /* linked by rank_link.next; freed when the step ends, see below */
    sched_stats stats;
    launch_ring launches;

    /* For thread.c; all take ud and may be NULL. With driver_reports_ends the driver takes ended
     * sequences (sched__take_ended), reports them and frees them. */
    bool driver_reports_ends;
    /* Has the mask of a sequence made elsewhere, by sched__make_mask. Called once per mask. */
    void (*hand_mask)(void *ud, sequence *seq);
    /* A sign of life in the middle of a long step. */
    void (*beat)(void *ud);
    /* Tokens and ends are out; the next launch, perhaps a long one, has not begun. */
    void (*on_tokens_out)(void *ud);
    atomic_uint_fast64_t left_waiting, left_waiting_tokens; /* since creation; any thread reads */
};

static inline sched_tenant *sched__tenant_of(const scheduler *sched, const sequence *seq) {
    return &sched->tenants[seq->req.tenant];
}
/* The cache of its home. */
static inline kv_cache *sched__cache_of(const scheduler *sched, const sequence *seq) {
    return &sched->caches[seq->prefix_key.home];
}

/* ---- tenant.c ---- */

int sched__tenants_init(scheduler *sched, err *e) WARN_UNUSED;
/* Rank of a newly arrived request among the requests of its tenant: lower is first. */
int64_t sched__order(scheduler *sched, const sequence *seq);
void sched__activate(scheduler *sched, sched_tenant *tenant); /* it has a sequence now */
void sched__roll_claims(scheduler *sched);                    /* before admission, each round */
/* The next tenant to admit a sequence of, except tenants refused this round; or NULL. */
sched_tenant *sched__next_tenant(const scheduler *sched);
/* Whether tenant may have one more place. *from: the tenant to take one from, or NULL. */
bool sched__may_place(const scheduler *sched, const sched_tenant *tenant, sched_tenant **from);
/* Pages of each home claimed by others, left alone by a tenant beyond its share. */
uint64_t sched__claimed_pages(const scheduler *sched, const sched_tenant *tenant, uint64_t wanted);
/* The tenant to take pages of a home from, if `tenant` wants this many within its share; or NULL.
 */
sched_tenant *sched__gives_pages(const scheduler *sched, const sched_tenant *tenant, uint32_t home,
                                 uint64_t wanted);
/* The tenant whose last sequence at a home gives way when the home's pages run out; NULL: the last
 * of all tenants there. */
sched_tenant *sched__most_pages(const scheduler *sched, uint32_t home);
void sched__charge(scheduler *sched, const flight *done, uint64_t ns); /* by rows */
void sched__charge_host(scheduler *sched, const sequence *seq, uint64_t ns);
/* Before cohorts are chosen for a recurrent launch: sets sits_out of each tenant. */
void sched__seat_tenants(scheduler *sched);
/* Whether a tenant has rows waiting for a flush and no rows looping. */
bool sched__flush_is_waited_for(scheduler *sched);

/* ---- ranks.c ---- */

void sched__accept(scheduler *sched, sequence *seq); /* takes a new sequence; its id is set */
void sched__begin(scheduler *sched, sequence *seq);  /* from waiting to running */
/* Takes it from its lists and gives back its rows, cohorts and blocks. */
void sched__release(scheduler *sched, sequence *seq);
void sched__preempt(scheduler *sched, sequence *seq); /* from running to waiting */
/* The last in rank of the running sequences, of one tenant or (NULL) of all, at one home or at any;
 * there is one. */
enum { ANY_HOME = UINT32_MAX };
sequence *sched__last_running(const scheduler *sched, const sched_tenant *tenant, uint32_t home);

/* ---- admit.c ---- */

void sched__admit(scheduler *sched);

/* ---- home.c ---- */

/* All homes, the best one for a waiting sequence first. */
void sched__order_homes(const scheduler *sched, const sequence *seq,
                        uint16_t order[ENG_MOST_HOMES]);

/* ---- cohort.c ---- */

void sched__start_cohorts(scheduler *sched);
void sched__want_start(scheduler *sched, sequence *seq); /* its next cohort may be started */
/* A launch is settled for it: decides what it does next, and offers finished blocks to the prefix
 * cache. May free it. */
void sched__settle_cohort(scheduler *sched, cohort *coh);
void sched__drop_cohorts(scheduler *sched, sequence *seq);
/* Takes one row for the draft behind the last cohort of seq; there is one. */
void sched__start_draft(scheduler *sched, sequence *seq);
/* The draft of coh proved right. */
void sched__keep_draft(scheduler *sched, cohort *coh);
/* Frees the last cohort of seq and gives its slots back, as if it had never run. */
void sched__undo_last(scheduler *sched, sequence *seq);
void sched__free_if_over(scheduler *sched, cohort *coh); /* nothing is left for it to do */

/* ---- pick.c ---- */

typedef enum { MUST_WAIT, IF_BEFORE_RUNS, MAY_RUN } readiness;
readiness sched__readiness(const cohort *coh); /* by the wavefront rule */
void sched__pick_loops(scheduler *sched, flight *next);

/* ---- flight.c: parts of a launch ---- */

int sched__flights_init(scheduler *sched, err *e) WARN_UNUSED; /* max_rows, max_edits are known */
void sched__flights_deinit(scheduler *sched);
static inline flight *sched__newest_out(const scheduler *sched) { /* NULL: all are settled */
    uint32_t newest = (sched->first_out + sched->n_out - 1) % sched->max_flights;
    return sched->n_out ? &sched->flights[newest] : NULL;
}
static inline picked *sched__pick_at(list_link *link) {
    return OWNER_OF(link, picked, cohort_link);
}
static inline bool sched__in_flight(const cohort *coh) {
    return !list_empty(&coh->picks);
}
/* Whether coh is part of `newest`, the newest launch of all. */
static inline bool sched__is_picked(const flight *newest, const cohort *coh) {
    return sched__in_flight(coh) && sched__pick_at(coh->picks.prev)->flight == newest;
}
bool sched__loop_is_out(const cohort *coh); /* it is in a recurrent launch */
flight *sched__new_flight(scheduler *sched, eng_stage stage);
void sched__pick(flight *next, cohort *coh, uint32_t first_row, uint32_t n_rows);
void sched__unpick(picked *pick);
void sched__drop_lost_picks(flight *next); /* of cohorts freed since they were picked */
/* Takes a promised slot of a row's position into planes [plane, plane + n_planes). */
eng_edit *sched__place(scheduler *sched, flight *next, const sequence *seq, uint32_t row,
                       uint32_t plane, uint32_t n_planes);
/* [n_planes] The slots that a row took by plane, NONE where it took none. NULL: not kept. */
static inline uint32_t *sched__row_slots(const scheduler *sched, uint32_t row) {
    return sched->row_slots ? sched->row_slots + (size_t)row * sched->n_planes : NULL;
}
eng_row *sched__add_row(const scheduler *sched, flight *next, picked *pick, uint32_t row);

/* ---- reserve.c ---- */

/* Takes blocks and promises slots for the picks of `next`. If none are left it preempts the last in
 * rank and drops its picks. After it building cannot fail. */
void sched__reserve(scheduler *sched, flight *next);

/* ---- recurrent.c, prelude_coda.c: the phases of each stage ---- */

void sched__choose_prelude(scheduler *sched, flight *next);
void sched__build_prelude(scheduler *sched, flight *next);
void sched__started_prelude(scheduler *sched, flight *next);
void sched__settle_prelude(flight *done);
void sched__choose_loops(scheduler *sched, flight *next);
void sched__build_loops(scheduler *sched, flight *next);
void sched__started_loops(flight *next);
void sched__settle_loops(scheduler *sched, flight *done, const eng_result *result);
void sched__choose_coda(scheduler *sched, flight *next);
void sched__build_coda(scheduler *sched, flight *next);
void sched__started_coda(scheduler *sched, flight *next);
void sched__settle_coda(scheduler *sched, flight *done, const eng_result *result);

/* ---- settle.c ---- */

int sched__settle_oldest(scheduler *sched, err *e) WARN_UNUSED;
int sched__settle_all(scheduler *sched, err *e) WARN_UNUSED;
void sched__drain(scheduler *sched); /* waits for every launch and ignores the results */

/* ---- ahead.c ---- */

/* Whether to start the next launch before the newest one out is settled. */
bool sched__ahead_pays(const scheduler *sched, const flight *out);
/* Whether a launch of this stage fits without preempting. */
bool sched__ahead_fits(const scheduler *sched, eng_stage stage);
/* Before and after the cohorts of a recurrent launch are chosen. */
void sched__assume_none_halts(scheduler *sched);
void sched__doubt_picks(scheduler *sched, flight *next);
void sched__doubt_row(const picked *pick, bool is_tail, eng_row *row);
/* A recurrent launch is settled: takes back rows left out of later launches. */
void sched__take_back(scheduler *sched);
void sched__guess_failed(scheduler *sched, cohort *coh); /* it halted after all */
void sched__learn_host(scheduler *sched);                /* a launch was started */
void sched__host_begins(scheduler *sched, eng_stage settled);

/* ---- masks.c ---- */

static inline mask_state sched__mask(const sequence *seq) {
    return atomic_load_explicit(&((sequence *)(uintptr_t)seq)->mask, memory_order_acquire);
}
/* Of its next token. False: there is no need, it is not constrained or the mask is made. */
bool sched__want_mask(scheduler *sched, sequence *seq);
bool sched__make_mask(sequence *seq); /* for a sequence from hand_mask; false: MASK_FAILED */
/* Whether the mask of the token at pos is known, or none is needed: behind expected drafts, too. */
bool sched__knows_mask(const sequence *seq, uint32_t pos);
/* It is known; NULL: every token is allowed. */
const eng_mask *sched__mask_at(const sequence *seq, uint32_t pos);
/* Tokens that the constraint expects next: sched_constraint.expected; 0 while its mask is made. */
uint32_t sched__expected(const sequence *seq, const uint32_t **tokens);
/* Hands a drawn token to the constraint, if any. False: it is refused. */
bool sched__take_token(sequence *seq, uint32_t token);
bool sched__lacks_mask(const cohort *coh);  /* it may not enter the coda yet */
void sched__admit_masked(scheduler *sched); /* cohorts with a ready mask may enter the coda */

/* ---- flush.c ---- */

bool sched__flush_pays(scheduler *sched);
void sched__flush_begins(scheduler *sched);

/* ---- tails.c ---- */

bool sched__parks_at_all(const scheduler *sched, const cohort *coh); /* tails of its kind */
bool sched__may_park(const scheduler *sched, const cohort *coh);     /* and this one now */
void sched__park(scheduler *sched, cohort *coh);
/* A position of coh is about to run its next loop. */
void sched__raise_frontier(scheduler *sched, const cohort *coh);
void sched__restart_frontier(sequence *seq);
void sched__lower_frontier(scheduler *sched, sequence *seq, uint32_t loops);
/* A launch is settled: where drafts run, tails need no loop beyond those of live rows. */
void sched__follow_drafts(scheduler *sched);
void sched__relieve_rows(scheduler *sched);

/* ---- collapse.c ---- */

/* Whether a timed cohort may run its next loop by its sequence's clock. */
bool sched__may_tick(const cohort *coh);
/* Collapses each position that later loops than reader's last find collapsed. */
void sched__collapse_before(scheduler *sched, flight *next, const cohort *reader);

/* ---- lookahead.c ---- */

/* Chooses how sequences draft, from time to time. */
void sched__plan_drafts(scheduler *sched);
/* A launch is settled for coh: it may draft the next token in the next coda. */
void sched__offer_draft(scheduler *sched, cohort *coh);
/* A flush begins: rows whose draft is to be drawn anew join its coda. */
void sched__offer_checks(scheduler *sched);
void sched__take_draft_offer(scheduler *sched, cohort *coh); /* out of sched->to_draft */
/* Rows of coh that run the coda for a draft: the last one, after the others if it reads their keys
 * and values and no coda has written any. */
uint32_t sched__draft_rows(const scheduler *sched, const cohort *coh);
/* The draft is more often right than a name given after so many loops. */
bool sched__outranks(const scheduler *sched, const cohort *draft, uint32_t loops);
/* It has a newest row that still loops, or is about to, with nothing known behind. */
bool sched__has_lead(const sequence *seq);
/* The next token behind its newest row may be drafted, whatever names it. */
bool sched__may_draft_behind(const scheduler *sched, const sequence *seq);
/* Its newest token is to be looked up here, beside places wanted before; or nowhere any more. */
void sched__want_look_up(scheduler *sched, sequence *seq, look_up where);
/* Sequences that cannot go on without a coda; and sequences with a newest row that loops on, a
 * prompt as many times as it has live rows. */
uint32_t sched__held_up(const scheduler *sched);
uint32_t sched__leading(const scheduler *sched);
/* Leading rows will draft, or begin a draft, when `out` is settled, and that is worth more than a
 * loop started before. */
bool sched__draft_goes_first(const scheduler *sched, const flight *out, double loop_ns);

/* ---- draft.c ---- */

/* coh named `token` as the next one: its sequence goes on with it, unless it does already.
 * ENG_NO_TOKEN: with none. */
void sched__take_draft(scheduler *sched, cohort *coh, uint32_t token);
/* The same for a token from elsewhere. False: it would end the answer, or its mask forbids it. */
bool sched__draft_behind(scheduler *sched, sequence *seq, uint32_t token, draft_source source);
/* The token behind the known ones is `token`. True: it had been drafted, and its position runs. */
bool sched__judge_draft(scheduler *sched, sequence *seq, uint32_t token);
/* Its drafts are lost with the sequence's place: they count as withdrawn. */
void sched__count_lost_drafts(scheduler *sched, const sequence *seq);
/* Withdraws the drafts of one sequence of a home, to make room. False: there are none. */
bool sched__withdraw_some(scheduler *sched, uint32_t home);

/* ---- lookup.c ---- */

/* Drafts for the sequences that want them, behind the newest cohorts. */
void sched__look_up_drafts(scheduler *sched);

/* ---- backlog.c ---- */

/* Fixes the loops expected of each position of a new sequence. */
void sched__expect_loops(const scheduler *sched, sequence *seq);
loop_sums sched__count_loops(const sequence *seq);
void sched__note_loops(scheduler *sched, sequence *seq);   /* its positions have changed */
void sched__forget_loops(scheduler *sched, sequence *seq); /* it runs nothing more */
/* Rounded up. Each sequence generates as many tokens more as it may, or as answers usually have. */
uint64_t sched__loops_to_run(const scheduler *sched);

/* ---- emit.c ---- */

/* ENG_ROW_LOGITS or ENG_ROW_SAMPLE if the position runs the head, or 0. */
uint16_t sched__head_wanted(const scheduler *sched, const sequence *seq, uint32_t pos);
/* A live position named a draft of the next token. */
void sched__finish_draft(scheduler *sched, cohort *coh, const float *logits,
                         const eng_choice *choice);
/* logits or choice as wanted, else NULL. May end the sequence. */
void sched__finish_position(scheduler *sched, sequence *seq, uint32_t pos, uint16_t depth,
                            const float *logits, const eng_choice *choice);

/* ---- end.c ---- */

void sched__end(scheduler *sched, sequence *seq, sched_finish finish, err_code why,
                uint32_t stop_id);
void sched__end_all(scheduler *sched, sched_finish finish, err_code why);
void sched__end_cancelled(scheduler *sched);   /* every sequence with cancel_wanted */
void sched__end_unmasked(scheduler *sched);    /* every sequence with a failed mask */
sequence *sched__take_ended(scheduler *sched); /* NULL when there is none */

#endif
