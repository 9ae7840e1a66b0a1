/* cost.h - costs and gains of launches, learnt while they run.
 *
 * A cycle is the recurrent launches between two flushes and the second flush. Its gain is the rows
 * finished by its coda launches. */
#ifndef FATHOM_SCHED_COST_H
#define FATHOM_SCHED_COST_H

#include "engine/backend.h"

typedef struct {
    double weight, rows, rows2, ns, rows_ns; /* decayed sums over launches: 1, x, x*x, y, x*y */
    double base_ns, row_ns;                  /* fitted: ns = base_ns + row_ns * rows */
} cost_fit;

typedef struct {
    cost_fit stage[3];                         /* by eng_stage */
    double live_rows, exited_rows, ready_rows; /* decayed sums over recurrent launches */
    double exit_rate;                          /* exits per live row and launch */
    double ready_rate;             /* the same for rows that become ready for the coda */
    double mean_depth;             /* of positions; 0 = unknown */
    double loops_ns;               /* recurrent launches of the cycle under way */
    uint64_t flush_ns, flush_rows; /* of its flush */
    double cycle_rows, cycle_ns;   /* decayed sums over cycles */
} cost_model;

void sched__fit_add(cost_fit *fit, uint32_t n_rows, uint64_t ns);
static inline double sched__fit_ns(const cost_fit *fit, double n_rows) {
    return fit->base_ns + fit->row_ns * n_rows;
}

/* A launch of n_rows rows took ns; n_rows may be 0. */
void sched__learn_launch(cost_model *cost, eng_stage stage, uint32_t n_rows, uint64_t ns,
                         bool of_flush);
/* A recurrent launch ran `live` live rows: `exited` left the loop, `ready` rows became ready for
 * the coda. */
void sched__learn_exits(cost_model *cost, uint32_t live, uint32_t exited, uint32_t ready);
void sched__learn_depth(cost_model *cost, uint16_t depth); /* a position is done */
void sched__learn_cycle(cost_model *cost);                 /* a flush is settled */
/* Whether one more recurrent launch before the flush gains rows faster than the average cycle.
 * False while nothing is measured. */
bool sched__waiting_pays(const cost_model *cost, double live, double looping, double max_rows);

#endif
