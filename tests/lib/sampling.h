/* sampling.h - what tests of the sampler share: logits, draws, the options' meaning in doubles, and
 * chi-square. A failure ends the test. */
#ifndef FATHOM_TESTS_SAMPLING_H
#define FATHOM_TESTS_SAMPLING_H

#include "engine/sampler.h"

/* No penalty, bias or filter; seed 42. */
eng_sampling sampling_plain(float temperature);
eng_sampler *sampling_sampler(uint32_t vocab);
/* The token of eng_sample. history and mask may be NULL. */
uint32_t sampling_pick(eng_sampler *sampler, const eng_sampling *params, const eng_history *history,
                       const eng_mask *mask, const float *logits, uint64_t index);

/* Repeatable values, spread like a model's logits. The caller frees them. */
float *sampling_logits(uint32_t vocab, uint64_t seed, float spread);

typedef struct {
    const float *logits;
    const eng_history *history; /* may be NULL */
    const eng_mask *mask;       /* may be NULL */
    uint32_t vocab;
} sampling_input;
/* Draws n tokens, with indices from 0; counts [vocab] receives how often each came. */
void sampling_draws(const eng_sampling *params, const sampling_input *in, uint32_t n,
                    uint32_t *counts);

/* Chi-square of counts against probabilities; bins with less than 5 expected are pooled. */
double sampling_chi_square(const uint32_t *counts, const double *prob, uint32_t bins, uint32_t n,
                           uint32_t *freedom);
/* 99.9 % point of chi-square (Wilson and Hilferty). */
double sampling_chi_limit(uint32_t freedom);

typedef struct {
    double logit;
    uint32_t id;
} sampling_rank;
/* For qsort: higher logits first, of equals lower ids. */
int sampling_by_rank(const void *left, const void *right);
/* The meaning of temperature and filters, written in doubles with a full sort. prob [vocab]
 * receives the probabilities; returns how many tokens have one. */
uint32_t sampling_reference(const eng_sampling *params, const float *logits, uint32_t vocab,
                            double *prob);

#endif
