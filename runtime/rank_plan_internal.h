/* rank_plan_internal.h - shared by the two files of the module. */
#ifndef FATHOM_RANK_PLAN_INTERNAL_H
#define FATHOM_RANK_PLAN_INTERNAL_H

#include "runtime/rank_plan.h"

/* This rank's weights of a piece. */
uint64_t rank__own(const rank_plan *rp, const rank_piece *piece, uint32_t rank);

/* Values of a row between the two products of a feed-forward. */
double rank__hidden(const model_plan *plan, ffn_kind kind);

/* Of one pass: rows of this rank's attention, rows of its feed-forward, and the number of other
 * ranks in an exchange. */
typedef struct {
    double own, all, others;
    bool by_sequence, sums;
} rank__way;
/* Of a launch with so many rows of all ranks together. */
rank__way rank__pass(const rank_plan *rp, rank_split split, uint32_t rows);

#endif
