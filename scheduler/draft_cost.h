/* draft_cost.h - how to draft: how often drafts are right, and what they save and cost. */
#ifndef FATHOM_SCHED_DRAFT_COST_H
#define FATHOM_SCHED_DRAFT_COST_H

#include "scheduler/cost.h"

/* What names a draft. */
typedef enum { FROM_LOOPS, FROM_TEXT, FROM_CONSTRAINT, DRAFT_SOURCES } draft_source;

typedef struct { /* by loops before the draft; decayed sums over verdicts */
    double right[PLAN_MAX_LOOPS + 1], judged[PLAN_MAX_LOOPS + 1];
    double found_right[DRAFT_SOURCES], found_judged[DRAFT_SOURCES]; /* of sources beside loops */
} draft_model;

typedef struct {
    uint16_t loops;     /* of a position before it drafts the next token; 0 = no drafts */
    uint16_t most;      /* drafts of one sequence without a verdict */
    bool trial;         /* it is not known to pay: one sequence at a time */
    double saves_ns;    /* time of all sequences saved by a right draft that no loop named */
    double depth;       /* loops of a position */
    uint32_t coda_rows; /* most rows of a coda that one draft is worth */
    uint64_t checks[PLAN_MAX_LOOPS / 64 + 1]; /* bit i: after loop i the draft is drawn anew */
} draft_choice;

/* A verdict on a token drafted after so many loops. */
void sched__learn_draft(draft_model *drafts, uint32_t loops, bool right);
/* The same of a source beside loops. */
void sched__learn_found(draft_model *drafts, draft_source source, bool right);
/* Probability that a draft of a source beside loops is right, with some hope. */
double sched__found_agreement(const draft_model *drafts, draft_source source);
/* Before the verdicts of a token, or after tokens without drafts: older verdicts count less. */
void sched__age_drafts(draft_model *drafts, double tokens);
/* Probability that a draft after so many loops is right. */
double sched__agreement(const draft_model *drafts, uint32_t loops);

typedef struct {
    double sequences;   /* that decode */
    double other_rows;  /* of each recurrent launch: prompts, tails */
    double depth;       /* loops of a position */
    bool in_step;       /* every position runs `depth` loops */
    uint32_t max_loops; /* most that any position runs */
    uint32_t max_rows;  /* of a launch; 0 = no limit */
} draft_load;

/* Expected ns for one token of all sequences together, if each drafts in this way. */
double sched__token_ns(const cost_model *cost, const draft_model *drafts, const draft_load *load,
                       const draft_choice *choice);
/* The cheapest way, as far as known and hoped. loops, most: given by the user, or 0 and
 * PLAN_MAX_LOOPS. */
void sched__choose_draft(const cost_model *cost, const draft_model *drafts, const draft_load *load,
                         uint32_t loops, uint32_t most, draft_choice *out);
/* Time of all sequences taken by a draft that no loop named, beside launches of so many rows. */
double sched__found_costs_ns(const cost_model *cost, const draft_choice *choice, double rows);
/* Whether a draft drawn after `drawn` loops is drawn anew after `now` loops. */
bool sched__check_is_due(const draft_choice *choice, uint32_t drawn, uint32_t now);

#endif
