/* rowmath.h - the scalar arithmetic of one row, as inline functions that gcc and nvcc
 * compile alike, so that a machine without a GPU tests what the kernels compute.
 *
 * Everything is float32; bfloat16 is a storage format (the upper half of a float32).
 * Spec: model.md. */
#ifndef FATHOM_ENGINE_ROWMATH_H
#define FATHOM_ENGINE_ROWMATH_H

#include <math.h>
#include <stdint.h>

#if defined(__CUDACC__)
#define RM_FN static __host__ __device__ __forceinline__
#else
#define RM_FN static inline
#endif

#define RM_EPS 1e-6f           /* of every RMS norm */
#define RM_NO_SLOT 0xffffffffu /* a map entry nobody has written */

/* ---- bfloat16 ---- */

RM_FN float rm_float_of(uint32_t bits) {
    union {
        uint32_t u;
        float f;
    } v;
    v.u = bits;
    return v.f;
}

RM_FN uint32_t rm_bits_of(float x) {
    union {
        float f;
        uint32_t u;
    } v;
    v.f = x;
    return v.u;
}

RM_FN float rm_bf16_widen(uint16_t v) {
    return rm_float_of((uint32_t)v << 16);
}

/* Rounds to nearest even; NaN stays NaN (quiet), infinities stay. */
RM_FN uint16_t rm_bf16_narrow(float x) {
    uint32_t u = rm_bits_of(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((u >> 16) | 0x40u);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

/* Two values in one word, the first in the low half: the order memory has. */
RM_FN uint32_t rm_bf16_pair(float lo, float hi) {
    return (uint32_t)rm_bf16_narrow(lo) | ((uint32_t)rm_bf16_narrow(hi) << 16);
}

/* ---- norms, rotation, embeddings ---- */

/* 1 / sqrt(mean(x^2) + eps) from the sum of squares of n values. */
RM_FN float rm_rms_scale(float sum_squares, uint32_t n) {
    return 1.0f / sqrtf(sum_squares / (float)n + RM_EPS);
}

/* Turns the pair (x0, x1) by the angle whose cosine and sine are given. */
RM_FN void rm_rotate(float *x0, float *x1, float cosine, float sine) {
    float a = *x0, b = *x1;
    *x0 = a * cosine - b * sine;
    *x1 = a * sine + b * cosine;
}

/* Frequency j of a rotary embedding over dim values. */
RM_FN float rm_rope_frequency(float theta, uint32_t j, uint32_t dim) {
    return 1.0f / powf(theta, (float)(2 * j) / (float)dim);
}

/* Channel c of the loop embedding of loop t; `width` = D / 8 channels are not zero, all
 * sines first. Tables are built from this on the host. */
RM_FN float rm_loop_embedding(uint32_t t, uint32_t c, uint32_t width) {
    uint32_t half = width / 2;
    if (c >= 2 * half) return 0.0f;
    uint32_t j = c < half ? c : c - half;
    float angle = (float)t * powf(10000.0f, -(float)(2 * j) / (float)width);
    return c < half ? sinf(angle) : cosf(angle);
}

/* ---- activations ---- */

RM_FN float rm_sigmoid(float x) {
    return 1.0f / (1.0f + expf(-x));
}
RM_FN float rm_silu(float x) {
    return x / (1.0f + expf(-x));
}

/* ---- the recurrent state ---- */

/* A of the injection, per channel. */
RM_FN float rm_lti_decay(float log_dt, float log_a) {
    float s = log_dt + log_a;
    s = s < -20.0f ? -20.0f : s > 20.0f ? 20.0f : s;
    return expf(-expf(s));
}

RM_FN float rm_lti(float h, float e, float y, float a, float b) {
    return a * h + b * e + y;
}

/* Row of the LoRA scale table that loop t uses: beyond the trained loops, the last. */
RM_FN uint32_t rm_lora_row(uint32_t t, uint32_t n_rows) {
    return t < n_rows ? t : n_rows - 1;
}

typedef struct {
    float weight; /* of this loop's h in the output */
    float cum;    /* new sum of halting probabilities */
    uint32_t halted;
} rm_act_step;

/* One ACT step of a position that still runs; p = sigmoid(h . w + b), `done` = loops done with
 * this one. Before min_loops the threshold does not count and the weights stop at a sum of 1;
 * at max_loops the position leaves with the weights it has. */
RM_FN rm_act_step rm_act(float cum, float p, float threshold, uint32_t done, uint32_t min_loops,
                         uint32_t max_loops) {
    rm_act_step s;
    float rest = 1.0f - cum > 0.0f ? 1.0f - cum : 0.0f;
    uint32_t may = done >= min_loops, leaves = may && cum + p >= threshold;
    s.weight = leaves || (!may && p > rest) ? rest : p;
    s.cum = cum + (may ? p : s.weight);
    s.halted = leaves || done >= max_loops;
    return s;
}

/* ---- router ---- */

/* Order of experts: higher biased logit first, ties to the lower index. A NaN is below all. */
RM_FN uint32_t rm_expert_before(float va, uint32_t ia, float vb, uint32_t ib) {
    if (va > vb || (va == va && vb != vb)) return 1;
    if (vb > va || (vb == vb && va != va)) return 0;
    return ia < ib;
}

/* Weight of a picked expert: softmax over all, renormalised over the picked, which is the
 * softmax over the picked alone; `top` is the largest picked logit, `sum` that of exp(l - top). */
RM_FN float rm_expert_weight(float logit, float top, float sum) {
    return expf(logit - top) / sum;
}

/* ---- attention over parts of the context ---- */

/* What a part with maximum m contributes to a whole with maximum m_all; an empty part
 * (m = -inf) gives 0, also where all are empty. */
RM_FN float rm_part_scale(float m, float m_all) {
    return m == -INFINITY ? 0.0f : expf(m - m_all);
}

/* Splits n_tiles key tiles over n_splits workers: tiles of one worker; worker s takes
 * [s * per, min((s + 1) * per, n_tiles)). */
RM_FN uint32_t rm_tiles_per_split(uint32_t n_tiles, uint32_t n_splits) {
    return (n_tiles + n_splits - 1) / n_splits;
}
/* Workers that have any tile. */
RM_FN uint32_t rm_splits_used(uint32_t n_tiles, uint32_t n_splits) {
    uint32_t per = rm_tiles_per_split(n_tiles, n_splits);
    return per ? (n_tiles + per - 1) / per : 0;
}

/* ---- slot look-up ---- */

enum { RM_BLOCK_SHIFT = 5, RM_BLOCK_MASK = 31 }; /* positions of a block: 32 */

/* Entry of position pos at `plane`; table = the sequence's blocks, maps [block][plane][32]. */
RM_FN uint32_t rm_slot(const uint32_t *maps, const uint32_t *table, uint32_t n_planes,
                       uint32_t plane, uint32_t pos) {
    uint64_t block = table[pos >> RM_BLOCK_SHIFT];
    return maps[((block * n_planes + plane) << RM_BLOCK_SHIFT) + (pos & RM_BLOCK_MASK)];
}

#endif
