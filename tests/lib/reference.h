/* reference.h - the model computed plainly, from the formulas, one position after the other.
 *
 * No cache, no batching, no absorbed matrices, sums in double: the oracle for backends and
 * schedulers on any small configuration. Aborts when out of memory. */
#ifndef FATHOM_TEST_REFERENCE_H
#define FATHOM_TEST_REFERENCE_H

#include "engine/backend.h"

typedef struct {
    kv_policy policy;
    uint32_t max_loops;                  /* 0 = the plan's; may be more */
    uint32_t min_loops;                  /* no halt before this many are done */
    float threshold;                     /* 0 = the configuration's */
    uint32_t n_prompt, prompt_min_loops; /* so many first positions run at least so many loops;
                                            collapse applies to the positions after them */
    float nudge; /* moves every sum of a product by this share of the sizes of its terms: how far
                    the logits follow tells how much the model enlarges rounding */
    uint32_t nudge_pattern; /* which sums move up, and which down */
    bool own_exit;          /* `exit` instead of the plan's */
    exit_rule exit;
    bool own_state0; /* `state0` instead of the plan's */
    state_start state0;
} ref_opts;

typedef struct {
    uint32_t n, vocab;
    float *logits;       /* [n][vocab] */
    uint32_t *depth;     /* [n] loops executed, 1..max_loops */
    float margin;        /* smallest distance of any halting decision from the threshold: depths can
                            be compared if it is well above rounding */
    float router_margin; /* smallest distance between an expert picked and one left out */
} ref_result;

typedef struct reference reference;
/* Widens the weights to float; the model may be closed afterwards. */
reference *ref_open(const model_folder *model);
void ref_close(reference *ref);
/* The whole sequence at once: logits and depth of every position. */
ref_result ref_run(const reference *ref, const uint32_t *ids, uint32_t n, const ref_opts *o);
void ref_result_deinit(ref_result *res);
/* Largest |a - b| as a fraction of the largest |b|. */
double ref_relative_error(const float *a, const float *b, size_t n);

#endif
