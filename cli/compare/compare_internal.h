/* compare_internal.h - the parts of `fathom compare` beside the comparison on a text: questions
 * with known answers, asked with fewer loops and with as many as the model chooses; and both forms'
 * pictures. */
#ifndef FATHOM_COMPARE_INTERNAL_H
#define FATHOM_COMPARE_INTERNAL_H

#include "cli/questions.h"

#include <stdio.h>

enum {
    ASK_MAX_LOOPS = 64, /* different numbers of each */
    ASK_MAX_STEPS = 64,
    ASK_AT_ONCE = 32, /* questions in flight */
};

typedef struct {
    const char *questions, *loops, *plot; /* plot and loops may be NULL */
    bool json;
} ask_opts;

typedef struct {
    uint64_t asked, right, answered; /* answered: with at least one token */
    double loops;                    /* sum over these of the mean loops of their tokens */
} ask_sum;

/* All questions under one policy with at most so many loops. */
typedef struct {
    kv_policy policy;
    uint32_t max_loops; /* 0: as many as the model chooses */
    ask_sum all, by_step[ASK_MAX_STEPS];
} ask_run;

typedef struct {
    const runtime *rt;
    const ask_opts *opts;
    questions asked;
    uint32_t steps[ASK_MAX_STEPS]; /* different numbers of steps, rising; 0: not given */
    size_t n_steps;
    uint32_t default_loops; /* most loops where the model chooses */
    ask_run *runs;          /* by policy, then by loops, the model's own choice last */
    size_t n_runs;
} ask_session;

/* Asks all, prints a table or JSON to stdout, and draws the picture. */
int ask_compare(const runtime *rt, const ask_opts *opts, err *e) WARN_UNUSED;

double ask_percent(const ask_sum *sum); /* right answers */
double ask_loops(const ask_sum *sum);   /* mean loops of an answer */

/* Agreement after some loops with the default loops. */
typedef struct {
    uint32_t loops;
    double likeliest, drawn; /* % of tokens */
} agreement_point;
typedef struct {
    const char *file, *model_name;
    size_t n_tokens;
    double temperature, top_p; /* of the drawn tokens */
    uint32_t default_loops;
    const agreement_point *points; /* in any order */
    size_t n;
    const uint32_t *depths; /* positions by depth under policy exact, [PLAN_MAX_LOOPS + 1] */
} agreement_curve;

/* curve.c: draws agreement over loops. */
int curve_draw(const agreement_curve *curve, err *e) WARN_UNUSED;

/* report.c, staircase.c */
void ask_print_text(const ask_session *ask);
void ask_print_json(const ask_session *ask);
int ask_draw(const ask_session *ask, err *e) WARN_UNUSED;

#endif
