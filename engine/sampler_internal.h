/* sampler_internal.h - the arithmetic under the sampler: the few passes over a vocabulary
 * of logits that have to be quick. What a device samples with too is in rowmath.h.
 *
 * A pass works on 16 floats at a time with the compiler's vectors; where functions can be
 * cloned per CPU, the loader picks the widest that the machine has. */
#ifndef FATHOM_ENGINE_SAMPLER_INTERNAL_H
#define FATHOM_ENGINE_SAMPLER_INTERNAL_H

#include "engine/rowmath.h"
#include "engine/sampler.h"

#include <float.h>
#include <math.h>
#include <string.h>

typedef float v16f __attribute__((vector_size(64)));
typedef int32_t v16i __attribute__((vector_size(64)));
typedef uint64_t v8u __attribute__((vector_size(64)));

/* Sanitizers start after the loader resolves clones, so their builds do without. */
#if defined(__x86_64__) && !defined(__clang__) && !defined(FATHOM_SAN)
#define PER_CPU __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define PER_CPU
#endif
/* Vectors in arguments: always inlined, so no calling convention is concerned (-Wno-psabi). */
#define INLINE static inline __attribute__((always_inline))

INLINE v16f v_all(float x) {
    return (v16f){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x};
}

INLINE v16f v_select(v16i mask, v16f yes, v16f no) {
    return (v16f)((mask & (v16i)yes) | (~mask & (v16i)no));
}

INLINE v16f v_max(v16f a, v16f b) {
    return v_select((v16i)(a > b), a, b);
}

INLINE bool v_any(v16i mask) {
    v8u m = (v8u)mask;
    return (m[0] | m[1] | m[2] | m[3] | m[4] | m[5] | m[6] | m[7]) != 0;
}

INLINE float v_max_lane(v16f v) {
    float best = v[0];
    for (int i = 1; i < 16; i++)
        best = v[i] > best ? v[i] : best;
    return best;
}

INLINE double v_sum_lanes(v16f v) {
    double sum = 0;
    for (int i = 0; i < 16; i++)
        sum += (double)v[i];
    return sum;
}

/* Up to 16 values; missing ones are -Inf, which weighs nothing and is never a maximum. */
INLINE v16f v_load(const float *p, size_t n) {
    v16f v;
    if (n >= 16) {
        memcpy(&v, p, sizeof v);
    } else {
        v = v_all(-INFINITY);
        memcpy(&v, p, n * sizeof *p);
    }
    return v;
}

/* rm_exp_down of 16 values, step by step the same: the bits must be equal. */
INLINE v16f v_exp(v16f x) {
    const v16f round = v_all(RM_EXP_ROUND);
    v16i tiny = (v16i)(x < v_all(RM_EXP_LEAST));
    x = v_max(x, v_all(RM_EXP_LEAST));
    v16f t = x * v_all(RM_LOG2_E) + round;
    v16f n = t - round;
    v16f r = x - n * v_all(RM_LN2_HIGH) - n * v_all(RM_LN2_LOW);
    v16f p = v_all(1.0f / 5040);
    p = p * r + v_all(1.0f / 720);
    p = p * r + v_all(1.0f / 120);
    p = p * r + v_all(1.0f / 24);
    p = p * r + v_all(1.0f / 6);
    p = p * r + v_all(0.5f);
    p = p * r + v_all(1.0f);
    p = p * r + v_all(1.0f);
    v16i scale = (((v16i)t - (v16i)round) + 127) << 23; /* 2^n as float bits */
    return (v16f)((v16i)(p * (v16f)scale) & ~tiny);
}

/* rm_weight of 16 logits. */
INLINE v16f v_weight(v16f logits, float max, float scale) {
    const v16f fine = v_all(RM_WEIGHT_FINE);
    v16f e = v_exp((logits - v_all(max)) * v_all(scale));
    return v_select((v16i)(e < fine), (e + fine) - fine, e);
}

/* Largest value; -Inf for none. *bad is set if any is NaN or +Inf. */
float eng__max_of(const float *x, size_t n, bool *bad);
uint32_t eng__first_equal(const float *x, uint32_t n, float value); /* value is there */

typedef struct {
    float max;      /* largest logit */
    double log_sum; /* log of the sum of e^(x - max) */
} eng__norm;
/* ERR_NUMERIC for NaN, +Inf, or when every logit is -Inf. */
int eng__norm_of(const float *logits, size_t n, eng__norm *out, err *e) WARN_UNUSED;
/* Fills c->top with the best `limit` finite logits, as log-probabilities. */
void eng__find_top(const float *logits, uint32_t vocab, const eng__norm *norm, uint32_t limit,
                   eng_choice *c);

#endif
