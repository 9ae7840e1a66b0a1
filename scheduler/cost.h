/* cost.h - costs of launches, learnt while they run. */
#ifndef FATHOM_SCHED_COST_H
#define FATHOM_SCHED_COST_H

#include "engine/backend.h"

typedef struct {
    double weight, rows, rows2, ns, rows_ns; /* decayed sums over launches: 1, x, x*x, y, x*y */
    double base_ns, row_ns;                  /* fitted: ns = base_ns + row_ns * rows */
} cost_fit;

enum { COST_SIZES = 16 }; /* of launches: 1, 2, 3, 4, 6, 8, 12, … rows */

typedef struct {
    cost_fit stage[3];                                 /* by eng_stage */
    double loop_rows[COST_SIZES], loop_ns[COST_SIZES]; /* means over recurrent launches, by size */
    double live_rows, exited_rows;                     /* decayed sums over recurrent launches */
    double exit_rate;                                  /* exits per live row and launch */
    double mean_depth; /* of positions; 0 = unknown, as for the other means */
    double mean_prompt_depth, mean_output_depth;
    double mean_output;       /* tokens of an answer that came to its end */
    double as_deep, compared; /* decayed sums: generated positions as deep as the one before */
    double waited_ns;         /* cost of waiting rows since the newest flush */
} cost_model;

void sched__fit_add(cost_fit *fit, uint32_t n_rows, uint64_t ns);
static inline double sched__fit_ns(const cost_fit *fit, double n_rows) {
    return fit->base_ns + fit->row_ns * n_rows;
}

/* Part of a prelude's and a coda's time that does not grow with their rows. */
static inline double sched__flush_base_ns(const cost_model *cost) {
    return cost->stage[ENG_STAGE_PRELUDE].base_ns + cost->stage[ENG_STAGE_CODA].base_ns;
}
/* Time of a recurrent launch: measured near this size, else by the fit. */
double sched__loop_ns(const cost_model *cost, double n_rows);
/* A launch of n_rows rows took ns; n_rows may be 0. */
void sched__learn_launch(cost_model *cost, eng_stage stage, uint32_t n_rows, uint64_t ns);
/* A recurrent launch ran `live` live rows, of which `exited` left the loop. */
void sched__learn_exits(cost_model *cost, uint32_t live, uint32_t exited);
void sched__learn_depth(cost_model *cost, uint16_t depth, bool prompt); /* a position is done */
void sched__learn_same_depth(cost_model *cost, bool same);              /* as the position before */
void sched__learn_length(cost_model *cost, uint32_t n_output); /* a sequence has come to its end */
/* Charges `ready` rows with waiting for one more recurrent launch, of `looping` rows of which
 * `live` are live. Rows that meet share so many flushes, this one and later ones. False, and
 * nothing is charged, if the flush pays now instead; so while nothing is measured. */
bool sched__charge_wait(cost_model *cost, double live, double looping, double ready,
                        double flushes);

#endif
