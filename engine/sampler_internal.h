/* sampler_internal.h - the arithmetic under the sampler: counter-based random numbers
 * and the few passes over a vocabulary of logits that have to be quick.
 *
 * A pass works on 16 floats at a time with the compiler's vectors; where functions can be
 * cloned per CPU, the loader picks the widest that the machine has. */
#ifndef FATHOM_ENGINE_SAMPLER_INTERNAL_H
#define FATHOM_ENGINE_SAMPLER_INTERNAL_H

#include "engine/engine.h"

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

/* e^x for x <= 0, within 2 units in the last place; 0 below -87.3 (and for -Inf). */
INLINE v16f v_exp(v16f x) {
    const v16f round = v_all(12582912.0f); /* 1.5 * 2^23: adding it leaves the integer part */
    v16i tiny = (v16i)(x < v_all(-87.3f));
    x = v_max(x, v_all(-87.3f));
    v16f t = x * v_all(1.44269504f) + round;
    v16f n = t - round;
    v16f r = x - n * v_all(0.693359375f) - n * v_all(-2.12194440e-4f); /* x - n ln 2 in two parts */
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

/* Philox-4x32 with 10 rounds; the first 64 bits of its output. Every (seed, index) has
 * its own number, whoever asks and in whatever order. */
uint64_t eng__philox(uint64_t seed, uint64_t index);
/* 53 bits of it as a number in [0, 1). */
double eng__uniform(uint64_t seed, uint64_t index);

/* Largest value; -Inf for none. *bad is set if any is NaN or +Inf. */
float eng__max_of(const float *x, size_t n, bool *bad);
uint32_t eng__first_equal(const float *x, uint32_t n, float value); /* value is there */

typedef struct {
    float max;      /* largest logit */
    double log_sum; /* log of the sum of e^(x - max) */
} eng__norm;
/* ERR_NUMERIC for NaN, +Inf, or when every logit is -Inf. */
int eng__norm_of(const float *logits, size_t n, eng__norm *out, err *e) WARN_UNUSED;
float eng__logprob(const eng__norm *norm, float logit);
/* Fills c->top with the best `limit` finite logits, as log-probabilities. */
void eng__find_top(const float *logits, uint32_t vocab, const eng__norm *norm, uint32_t limit,
                   eng_choice *c);

#endif
