/* rank_plan.h - a model on several ranks: memory, traffic and time, by arithmetic.
 *
 * Nothing is measured, and no weights are read: a plan and a row of the table of devices give all
 * figures. docs/models.md has the formulas, bench/reports/ranks-plan.md compares them with devices.
 *
 * A rank_plan is a value, read-only once filled; all calls are safe from any thread. */
#ifndef FATHOM_RANK_PLAN_H
#define FATHOM_RANK_PLAN_H

#include "model/model.h"

/* The device of one rank. GB are 1e9 bytes. */
typedef struct {
    const char *name;      /* "h200" */
    double memory_gb;      /* 0: not known */
    double read_gbs;       /* weights and cache from memory, GB/s */
    double tflops;         /* products, 1e12 operations/s */
    double link_gbs;       /* received from all other ranks together, GB/s */
    double exchange_us;    /* of one exchange, beside its bytes */
    double layer_us;       /* starts and edges of the kernels of one layer */
    uint32_t value_bytes;  /* of a cached value */
    uint32_t act_bytes;    /* of a normed or hidden value on the link */
    uint32_t sum_bytes;    /* of an output of a layer, a sum or a logit on the link */
    bool experts_together; /* routed and always-on experts share a launch: the bytes of the one hide
                              the operations of the other */
} rank_device;

/* The table's row of this name, or NULL. */
const rank_device *rank_device_find(const char *name);
#define RANK_DEVICE_NAMES "h200|h100|cpu"

/* Ways to divide a model between the ranks.
 *   COLUMNS        feed-forward and head by output columns; attention and cache on every rank
 *   ORDERED_SUM    the same, but the down products by input columns: sums of parts in rank order,
 *                  parts sent to all ranks or dealt out, whichever is sooner
 *   SEQUENCES      attention, row states and cache by sequence; feed-forward as COLUMNS
 *   SEQUENCES_SUM  attention, row states and cache by sequence; feed-forward as ORDERED_SUM
 *   REPLICAS       no ranks: so many independent copies of the model, each with its part of rows
 * COLUMNS and SEQUENCES keep the bits of one process. */
typedef enum {
    RANK_COLUMNS,
    RANK_ORDERED_SUM,
    RANK_SEQUENCES,
    RANK_SEQUENCES_SUM,
    RANK_REPLICAS,
    RANK_SPLITS
} rank_split;
const char *rank_split_name(rank_split split); /* "sequences, sums" */
const char *rank_split_key(rank_split split);  /* "sequences_sum", for JSON */

enum {
    RANK_PLAN_MOST_RANKS = 64,
    RANK_PLAN_ROWS = 512, /* rows with memory on each rank: the default of --max-rows */
    RANK_PLAN_PIECES = 16,
};

/* Matrices of one shape, divided alike. */
typedef struct {
    tensor_stage stage; /* PART_OF_MODEL: the head */
    model_part part;
    uint32_t rows, unit; /* rows are output columns; cuts lie between units */
    uint64_t cols, n;    /* n matrices [rows][cols] */
} rank_piece;

typedef struct {
    const model_plan *plan; /* borrowed */
    rank_device device;
    uint32_t ranks, context; /* positions attended to by each row */
    double weight_bytes;     /* of one weight in memory */
    /* derived */
    rank_piece pieces[RANK_PLAN_PIECES];
    uint32_t n_pieces;
    uint64_t read_whole[PART_OF_CODA + 1]; /* undivided weights read by every pass of a stage */
    uint64_t held_whole;                   /* all undivided weights */
    uint32_t widest;                       /* the rank with most weights */
} rank_plan;

/* ranks is 1 to RANK_PLAN_MOST_RANKS. */
void rank_plan_make(rank_plan *out, const model_plan *plan, const rank_device *device,
                    uint32_t ranks, uint32_t context, double weight_bytes);

/* ---- memory, in bytes ---- */

double rank_plan_divided(const rank_plan *rp, uint32_t rank); /* this rank's part */
double rank_plan_whole(const rank_plan *rp);                  /* what each rank holds undivided */
double rank_plan_row(const rank_plan *rp); /* of one row: its state, and working memory */
double rank_plan_position(const rank_plan *rp, double depth); /* of one position in the cache */
/* Number of positions that fit into the cache beside the weights of the widest rank, at this
 * depth; 0 if the weights do not fit. INFINITY without device.memory_gb. A replica holds all
 * weights. */
double rank_plan_positions(const rank_plan *rp, rank_split split, double depth);
/* Whether each rank has memory for its part of so many rows, each with `context` positions at this
 * depth, beside its weights. */
bool rank_plan_holds(const rank_plan *rp, rank_split split, uint32_t rows, double depth);
/* Whether the weights and one sequence of `context` positions at all loops fit on every rank. */
bool rank_plan_fits(const rank_plan *rp);
/* The smallest number of ranks that fits; 0 if it is above RANK_PLAN_MOST_RANKS. */
uint32_t rank_plan_least(const rank_plan *rp);

/* ---- time and traffic of one rank ---- */

typedef struct {
    double weight_bytes, cache_bytes; /* read from memory */
    uint32_t exchanges;               /* gathers, and rows sent back to their rank */
    double received;                  /* bytes from other ranks, the mean of the ranks */
    double us;
} rank_cost;

/* One loop of so many rows of all ranks together; prelude, coda and head of so many rows. */
rank_cost rank_plan_loop(const rank_plan *rp, rank_split split, uint32_t rows);
rank_cost rank_plan_ends(const rank_plan *rp, rank_split split, uint32_t rows);
/* With this many rows always under way, each token at the mean depth. */
double rank_plan_tokens_per_s(const rank_plan *rp, rank_split split, uint32_t rows, double depth);

#endif
