/* sampler.h - from logits to a token.
 *
 * Threading: a sampler belongs to one thread for its whole life. */
#ifndef FATHOM_SAMPLER_H
#define FATHOM_SAMPLER_H

#include "base/err.h"

enum { ENG_MAX_TOP = 20 };
#define ENG_NO_TOKEN UINT32_MAX

typedef struct {
    uint32_t id;
    float value; /* added to the logit */
} eng_bias;

/* A set bit allows the token. n_words words of 64 ids; ids beyond them are not allowed. */
typedef struct {
    const uint64_t *words;
    size_t n_words;
} eng_mask;
static inline bool eng_mask_allows(const eng_mask *mask, uint32_t id) {
    return id / 64 < mask->n_words && (mask->words[id / 64] >> id % 64 & 1);
}

typedef struct {
    float temperature;        /* below 1e-5: greedy (ties: lower id) */
    float top_p, min_p;       /* 1 and 0 = off */
    float repetition_penalty; /* 1 = off; counts prompt and output tokens (vLLM's meaning) */
    float presence_penalty, frequency_penalty; /* 0 = off; output tokens only */
    uint32_t top_k;                            /* 0 = off */
    uint64_t seed;
    const eng_bias *bias; /* borrowed */
    uint32_t n_bias;
} eng_sampling;

/* A smaller divisor would turn a large logit into infinity. */
#define ENG_REPETITION_MIN 1e-6

/* ERR_BAD_PARAM, with the name of the option, for values refused by eng_sample. Call it before any
 * work. */
int eng_sampling_check(const eng_sampling *params, err *e) WARN_UNUSED;
/* True if no penalty and no bias changes the logits. */
bool eng_sampling_is_plain(const eng_sampling *params) WARN_UNUSED;

typedef struct {
    const uint32_t *prompt, *output; /* tokens counted by penalties */
    size_t n_prompt, n_output;
} eng_history;

typedef struct {
    uint32_t id;
    float logprob;
} eng_top;

typedef struct {
    uint32_t token;
    /* log-softmax of the model's logits, before penalties, bias and temperature */
    float logprob;
    uint32_t n_top;
    eng_top top[ENG_MAX_TOP]; /* best first, by the same log-softmax; ties: lower id */
} eng_choice;

typedef struct eng_sampler eng_sampler; /* scratch memory of one thread */
int eng_sampler_create(eng_sampler **out, uint32_t vocab_size, err *e) WARN_UNUSED;
void eng_sampler_destroy(eng_sampler *sampler);
/* Picks a token from logits [vocab], which are not changed. Randomness is a pure function of (seed,
 * index), where `index` is the number of tokens the sequence has produced, so other requests never
 * change it. mask may be NULL. ERR_NUMERIC when the model is at fault: NaN, +Inf, or every token
 * impossible. ERR_CONSTRAINT when the mask leaves no possible token; bias and penalties alone
 * cannot exclude a token. No allocation. */
int eng_sample(eng_sampler *sampler, const eng_sampling *params, const eng_history *history,
               const eng_mask *mask, const float *logits, uint64_t index, uint32_t n_top,
               eng_choice *out, err *e) WARN_UNUSED;
/* Log-probabilities of one given token and of the n_top best, to score prompts. */
int eng_score(const float *logits, uint32_t vocab, uint32_t token, uint32_t n_top, eng_choice *out,
              err *e) WARN_UNUSED;

#endif
