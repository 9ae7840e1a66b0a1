/* sampler_internal.h - the arithmetic of the sampler: fast passes over a vocabulary of logits.
 * Arithmetic shared with devices that sample is in rowmath.h.
 *
 * A pass works on 16 floats at a time with compiler vectors. Functions are cloned per instruction
 * set where possible; the loader picks the widest clone the machine supports. */
#ifndef FATHOM_ENGINE_SAMPLER_INTERNAL_H
#define FATHOM_ENGINE_SAMPLER_INTERNAL_H

#include "engine/rowmath.h"
#include "engine/sampler.h"

#include <float.h>
#include <math.h>
#include <string.h>

typedef float v16f __attribute__((vector_size(64)));
typedef int32_t v16i __attribute__((vector_size(64)));
typedef uint32_t v16u __attribute__((vector_size(64)));
typedef uint64_t v8u __attribute__((vector_size(64)));

/* Sanitizers start after the loader resolves clones, so their builds use none. */
#if defined(__x86_64__) && !defined(__clang__) && !defined(FATHOM_SAN)
#define PER_CPU __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define PER_CPU
#endif
/* Functions with vector arguments are always inlined, so the calling convention does not matter
 * (-Wno-psabi). */
#define INLINE static inline __attribute__((always_inline))

/* 16 equal values; a subtraction of 0 changes no bit. Not a function: gcc would take its result
 * apart before it knows a clone's instruction set, and write 16 moves for one broadcast. */
#define v_all(value) ((float)(value) - (v16f){0})

INLINE v16f v_select(v16i mask, v16f yes, v16f no) {
    return (v16f)((mask & (v16i)yes) | (~mask & (v16i)no));
}

INLINE v16f v_max(v16f left, v16f right) {
    return v_select((v16i)(left > right), left, right);
}

INLINE bool v_any(v16i mask) {
    v8u words = (v8u)mask;
    return (words[0] | words[1] | words[2] | words[3] | words[4] | words[5] | words[6] |
            words[7]) != 0;
}

INLINE float v_max_lane(v16f values) {
    float best = values[0];
    for (int i = 1; i < 16; i++)
        best = values[i] > best ? values[i] : best;
    return best;
}

INLINE double v_sum_lanes(v16f values) {
    double sum = 0;
    for (int i = 0; i < 16; i++)
        sum += (double)values[i];
    return sum;
}

/* Up to 16 values. Missing values are -Inf: their weight is 0 and they are never a maximum. */
INLINE v16f v_load(const float *from, size_t n) {
    v16f values;
    if (n >= 16) {
        memcpy(&values, from, sizeof values);
    } else {
        values = v_all(-INFINITY);
        memcpy(&values, from, n * sizeof *from);
    }
    return values;
}

INLINE void v_store(float *to, v16f values, size_t n) {
    if (n >= 16) memcpy(to, &values, sizeof values);
    else memcpy(to, &values, n * sizeof *to);
}

/* rm_exp_down of 16 values, with the same steps: the bits must be equal. */
INLINE v16f v_exp(v16f x) {
    const v16f round = v_all(RM_EXP_ROUND);
    v16i tiny = (v16i)(x < v_all(RM_EXP_LEAST));
    x = v_max(x, v_all(RM_EXP_LEAST));
    v16f shifted = x * v_all(RM_LOG2_E) + round;
    v16f whole = shifted - round;
    v16f rest = x - whole * v_all(RM_LN2_HIGH) - whole * v_all(RM_LN2_LOW);
    v16f poly = v_all(1.0f / 5040);
    poly = poly * rest + v_all(1.0f / 720);
    poly = poly * rest + v_all(1.0f / 120);
    poly = poly * rest + v_all(1.0f / 24);
    poly = poly * rest + v_all(1.0f / 6);
    poly = poly * rest + v_all(0.5f);
    poly = poly * rest + v_all(1.0f);
    poly = poly * rest + v_all(1.0f);
    v16i scale = (((v16i)shifted - (v16i)round) + 127) << 23; /* 2^n as float bits */
    return (v16f)((v16i)(poly * (v16f)scale) & ~tiny);
}

/* rm_weight of 16 logits. */
INLINE v16f v_weight(v16f logits, float max, float scale) {
    const v16f fine = v_all(RM_WEIGHT_FINE);
    v16f weight = v_exp((logits - v_all(max)) * v_all(scale));
    return v_select((v16i)(weight < fine), (weight + fine) - fine, weight);
}

/* rm_race_bits of 16 ids. */
INLINE v16u v_race_bits(uint64_t draw, v16u ids) {
    v16u bits = (ids * 0x9e3779b1u) ^ (uint32_t)(draw >> 32);
    bits = ((bits ^ (bits >> 16)) * 0x7feb352du) ^ (uint32_t)draw;
    bits = (bits ^ (bits >> 15)) * 0x846ca68bu;
    return bits ^ (bits >> 16);
}

/* rm_race_may_win of 16 tokens. */
INLINE v16i v_race_may_win(v16u bits, v16f weights, float best) {
    v16f least = __builtin_convertvector((v16i)(bits >> 1), v16f) * v_all(0x1p-31f);
    return (v16i)(least <= v_all(best * RM_RACE_SLACK) * weights);
}

/* Largest value; -Inf for none. Sets *bad if a value is NaN or +Inf. */
float eng__max_of(const float *x, size_t n, bool *bad);
uint32_t eng__first_equal(const float *x, uint32_t n, float value); /* `value` must occur */

typedef struct {
    float max;      /* largest logit */
    double log_sum; /* log of the sum of e^(x - max) */
} eng__norm;
/* ERR_NUMERIC for NaN, +Inf, or when every logit is -Inf. */
int eng__norm_of(const float *logits, size_t n, eng__norm *out, err *e) WARN_UNUSED;
/* Fills choice->top with the best `limit` finite logits, as log-probabilities. */
void eng__find_top(const float *logits, uint32_t vocab, const eng__norm *norm, uint32_t limit,
                   eng_choice *choice);

#endif
