/* seq.h - one sequence: a request, its tokens and its blocks. */
#ifndef FATHOM_SCHED_SEQ_H
#define FATHOM_SCHED_SEQ_H

#include "base/list.h"
#include "scheduler/prefix.h"
#include "scheduler/scheduler.h"

#include <stdatomic.h>

typedef struct cohort cohort; /* scheduler_internal.h */
typedef enum { SEQ_NEW, SEQ_WAITING, SEQ_RUNNING, SEQ_ENDED } seq_state;
typedef enum {
    MASK_NONE,   /* the sequence has no constraint */
    MASK_WANTED, /* being made, or about to be: the constraint belongs to the mask maker */
    MASK_READY,
    MASK_SPENT,   /* a token was taken that was not expected; the next mask is not asked for */
    MASK_DROPPED, /* cancelled before it was made */
    MASK_FAILED   /* mask_error says why */
} mask_state;

/* Where to look for drafts that no loop names. */
typedef enum { LOOK_NOWHERE, LOOK_FOR_EXPECTED, LOOK_FOR_TEXT_TOO } look_up;

static inline uint32_t fewer(uint32_t x, uint32_t y) {
    return x < y ? x : y;
}

enum { LOOP_PARTS = 256 }; /* expected loops are counted in parts of a loop */

typedef struct {         /* backlog.c: parts of loops that are expected to run still */
    uint64_t known;      /* of positions with a known token */
    uint64_t ahead;      /* of tokens to be generated, if every answer is as long as it may be */
    uint64_t of_a_token; /* of one such token of each sequence that may generate more */
} loop_sums;

typedef struct sequence {
    list_link rank_link;  /* in its tenant's waiting list or in running: by order, then arrival */
    list_link start_link; /* in want_decode or want_prompt while its next cohort may start */
    uint64_t id, arrival;
    int64_t order; /* priority, aged: sched__order */
    seq_state state;
    atomic_bool cancel_wanted;  /* set by any thread, or inside a step */
    atomic_uint mask;           /* mask_state of the next token */
    err_code mask_error;        /* written before MASK_FAILED */
    bool slow_mask;             /* mask maker: the last mask took long */
    struct sequence *next_mask; /* mask maker: its list of masks to make */
    sched_request req;          /* pointers lead into this allocation */
    prefix_key prefix_key;      /* depth limits as resolved, and salt */
    uint16_t wish_loops;        /* max_loops before any cap for load */
    bool may_share;             /* looks into the prefix cache */
    uint32_t *tokens;           /* prompt, then output: room for n_prompt + max_tokens */
    uint32_t n_tokens;          /* known so far */
    uint16_t last_depth;        /* of the newest generated position; 0: none */
    uint32_t n_drafts;          /* drafts behind them in tokens, each with a cohort: draft.c */
    uint8_t to_look_up;         /* look_up: what may follow its newest token: lookup.c */
    uint32_t *blocks;
    uint32_t n_blocks;
    uint32_t next_start; /* first position not yet in a cohort */
    uint32_t coda_next;  /* first position before its coda */
    /* Most loops run, or about to run, by a live position; under policy collapse, the tick after
     * the present one. */
    uint32_t frontier;
    uint32_t clock;          /* policy collapse: tick at which the next generated position begins */
    uint32_t timed_from;     /* first position that policy collapse applies to; UINT32_MAX: none */
    uint32_t n_reported;     /* positions ever finished; a recomputed one is not reported again */
    uint32_t n_offered;      /* blocks already offered to the prefix cache, or taken from it */
    hash128 hash;            /* of those blocks */
    cohort *first, *last;    /* cohorts in flight, positions rising */
    uint64_t refused_epoch;  /* scheduler.epoch when it was last not admitted */
    bool waits_for_block;    /* and whether another sequence was computing its next block */
    uint32_t waited;         /* rounds of refusing rows to its next cohort */
    eng_choice prompt_score; /* of the next prompt token */
    sched_event end_event;   /* with driver_reports_ends: its SCHED_END, not yet reported */
    bool admitted_before;
    uint32_t n_cached;
    uint64_t prompt_loops, output_loops;
    uint32_t prompt_parts, output_parts; /* expected of a prompt position, of an output position */
    loop_sums loops_left;                /* its part of the scheduler's */
    uint64_t t_submit, t_admit, t_first, t_last; /* clock_ns */
} sequence;

typedef struct { /* limits for checking requests; read-only after create, any thread */
    const model_plan *plan;
    exit_rule exit;  /* of the backend */
    sched_opts opts; /* defaults resolved */
    bool collapses;  /* policy collapse */
    uint32_t n_pages, n_blocks;
} request_limits;
/* ERR_BAD_PARAM, ERR_TOO_LONG, ERR_NO_MEMORY. The result ends with free(). Any thread. */
int sched__seq_create(sequence **out, const request_limits *limits, const sched_request *req,
                      err *e) WARN_UNUSED;
/* The prefix key of a request without a depth, a salt and a tenant of its own. */
int sched__plain_key(const request_limits *limits, prefix_key *out, err *e) WARN_UNUSED;
/* Least loops of a position. */
uint16_t sched__min_loops(const sequence *seq, uint32_t pos);
/* Whether a position may halt after this many loops, before its limit. */
bool sched__may_halt(const request_limits *limits, const sequence *seq, uint32_t pos,
                     uint32_t loops);
static inline bool seq_is_stop(const sequence *seq, uint32_t token) {
    for (uint32_t i = 0; i < seq->req.n_stop_ids; i++) {
        if (seq->req.stop_ids[i] == token) return true;
    }
    return false;
}
static inline uint32_t seq_n_output(const sequence *seq) {
    return seq->n_tokens - seq->req.n_prompt;
}
/* Pages for n positions if each runs max_loops. */
uint64_t sched__worst_pages(const request_limits *limits, uint64_t n_positions, uint32_t max_loops);

/* ---- its blocks ---- */

/* Takes the longest cached run of full blocks, short of the last known position (it must be run for
 * its logits). The sequence starts behind them. */
void sched__take_prefix(kv_cache *cache, sequence *seq);
/* Number of blocks that sched__take_prefix would take with this key. The sequence holds none. */
uint32_t sched__count_prefix(kv_cache *cache, const sequence *seq, const prefix_key *key);
/* Offers its blocks below position n_done to the prefix cache. Returns how many were new. */
uint32_t sched__offer_prefix(kv_cache *cache, sequence *seq, uint32_t n_done);
/* Gives back every block; the sequence starts over. */
void sched__give_blocks(kv_cache *cache, sequence *seq);

#endif
