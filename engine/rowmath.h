/* rowmath.h - the scalar arithmetic of one row, as inline functions. gcc and nvcc compile the same
 * source, so a machine without a GPU tests the arithmetic of the kernels.
 *
 * Everything is float32; bfloat16 is a storage format (the upper half of a float32). Sampling alone
 * must give the same bits on both sides: see "sampling" below. */
#ifndef FATHOM_ENGINE_ROWMATH_H
#define FATHOM_ENGINE_ROWMATH_H

#include <math.h>
#include <stdint.h>

#if defined(__CUDACC__)
#define RM_FN static __host__ __device__ __forceinline__
#else
#define RM_FN static inline
#endif

#define RM_NO_SLOT 0xffffffffu /* a map entry never written */

/* ---- bfloat16 ---- */

RM_FN float rm_float_of(uint32_t bits) {
    union {
        uint32_t word;
        float number;
    } both;
    both.word = bits;
    return both.number;
}

RM_FN uint32_t rm_bits_of(float value) {
    union {
        float number;
        uint32_t word;
    } both;
    both.number = value;
    return both.word;
}

RM_FN float rm_bf16_widen(uint16_t half) {
    return rm_float_of((uint32_t)half << 16);
}

/* Rounds to nearest even. NaN stays NaN (quiet), infinities stay. */
RM_FN uint16_t rm_bf16_narrow(float x) {
    uint32_t bits = rm_bits_of(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((bits >> 16) | 0x40u);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

/* Two values in one word, the first in the low half, as in memory. */
RM_FN uint32_t rm_bf16_pair(float lo, float hi) {
    return (uint32_t)rm_bf16_narrow(lo) | ((uint32_t)rm_bf16_narrow(hi) << 16);
}

/* ---- norms, rotation, embeddings ---- */

/* 1 / sqrt(mean(x^2) + eps), from the sum of squares of n values. */
RM_FN float rm_rms_scale(float sum_squares, uint32_t n, float eps) {
    return 1.0f / sqrtf(sum_squares / (float)n + eps);
}

/* Rotates the pair (x0, x1) by the angle with this cosine and sine. */
RM_FN void rm_rotate(float *x0, float *x1, float cosine, float sine) {
    float old0 = *x0, old1 = *x1;
    *x0 = old0 * cosine - old1 * sine;
    *x1 = old0 * sine + old1 * cosine;
}

/* Frequency j of a rotary embedding over dim values. */
RM_FN float rm_rope_frequency(float theta, uint32_t j, uint32_t dim) {
    return 1.0f / powf(theta, (float)(2 * j) / (float)dim);
}

/* One channel of the loop embedding. Channels from `width` = D / 8 on are zero. Sines come first;
 * if width is odd there is one more sine than cosines. Tables are built from this on the host. */
RM_FN float rm_loop_embedding(uint32_t loop, uint32_t channel, uint32_t width) {
    uint32_t half = width / 2 + width % 2;
    if (channel >= width) return 0.0f;
    uint32_t j = channel < half ? channel : channel - half;
    float angle = (float)loop * powf(10000.0f, -(float)(2 * j) / (float)width);
    return channel < half ? sinf(angle) : cosf(angle);
}

/* ---- activations ---- */

RM_FN float rm_sigmoid(float x) {
    return 1.0f / (1.0f + expf(-x));
}
RM_FN float rm_silu(float x) {
    return x / (1.0f + expf(-x));
}
RM_FN float rm_half_relu2(float x) {
    return x < 0.0f ? 0.0f : 0.5f * x * x; /* NaN stays NaN */
}

/* ---- the recurrent state ---- */

/* The factor A of the injection, per channel. */
RM_FN float rm_lti_decay(float log_dt, float log_a) {
    float exponent = log_dt + log_a;
    exponent = exponent < -20.0f ? -20.0f : exponent > 20.0f ? 20.0f : exponent;
    return expf(-expf(exponent));
}

RM_FN float rm_lti(float state, float input, float layer_out, float keep, float take) {
    return keep * state + take * input + layer_out;
}

/* DIAGONAL injection, per channel: the step, and the factor of the state. */
RM_FN float rm_softplus(float x) {
    return x > 20.0f ? x : log1pf(expf(x));
}
RM_FN float rm_diagonal_decay(float step, float log_a) {
    return expf(-step * expf(log_a));
}

/* Row of the LoRA scale table for a loop; beyond the trained loops, the last row. */
RM_FN uint32_t rm_lora_row(uint32_t loop, uint32_t n_rows) {
    return loop < n_rows ? loop : n_rows - 1;
}

typedef struct {
    float weight; /* of this loop's state in the output */
    float cum;    /* new sum of halting probabilities */
    uint32_t halted;
} rm_act_step;

/* The probability that is left for the last loop, given the sum of the others. */
RM_FN float rm_act_rest(float cum) {
    return 1.0f - cum > 0.0f ? 1.0f - cum : 0.0f;
}

/* One ACT step of a running position. probability = sigmoid(w . state + b); `done` = loops done
 * with this one. Before min_loops the threshold does not count and the sum of weights stops at 1.
 * At max_loops the position leaves with the weights so far. */
RM_FN rm_act_step rm_act(float cum, float probability, float threshold, uint32_t done,
                         uint32_t min_loops, uint32_t max_loops) {
    rm_act_step step;
    float rest = rm_act_rest(cum);
    uint32_t may = done >= min_loops, leaves = may && cum + probability >= threshold;
    step.weight = leaves || (!may && probability > rest) ? rest : probability;
    step.cum = cum + (may ? probability : step.weight);
    step.halted = leaves || done >= max_loops;
    return step;
}

/* ---- exit rules besides ACT ----
 * `done` = loops done with this one. No position leaves before min_loops; every position leaves
 * at max_loops. */

typedef struct {
    float cum; /* probability of having left by now */
    uint32_t halted;
} rm_hazard_step;

/* probability = sigmoid of the gate on the new state. The position leaves at the first loop with
 * cum, 1 - prod(1 - probability), at the threshold or above. A threshold of 1 means never, even if
 * the sum rounds to 1. This is Ouro's exit_threshold, in float32. */
RM_FN rm_hazard_step rm_hazard(float cum, float probability, float threshold, uint32_t done,
                               uint32_t min_loops, uint32_t max_loops) {
    rm_hazard_step step;
    step.cum = cum + (1.0f - cum) * probability;
    step.halted =
        (threshold < 1.0f && done >= min_loops && step.cum >= threshold) || done >= max_loops;
    return step;
}

/* FLT_MIN. As a threshold it means never, even for a state that no longer changes: its distance, or
 * what rounding leaves of it, may be 0 or below. */
#define RM_NEVER 1.17549435e-38f

/* |new - old| / |new| < threshold, from sums of squares. */
RM_FN uint32_t rm_latent_diff(float diff_squares, float new_squares, float threshold, uint32_t done,
                              uint32_t min_loops, uint32_t max_loops) {
    uint32_t close = threshold > RM_NEVER && sqrtf(diff_squares) < threshold * sqrtf(new_squares);
    return (close && done >= min_loops) || done >= max_loops;
}

/* 1 - cos(new, old) < threshold, from the product and the sums of squares. */
RM_FN uint32_t rm_cosine(float product, float new_squares, float old_squares, float threshold,
                         uint32_t done, uint32_t min_loops, uint32_t max_loops) {
    float length = sqrtf(new_squares) * sqrtf(old_squares);
    uint32_t close = threshold > RM_NEVER && length > 0.0f && 1.0f - product / length < threshold;
    return (close && done >= min_loops) || done >= max_loops;
}

/* ---- router ---- */

/* Order of experts: higher biased logit first, then lower index. NaN is last. */
RM_FN uint32_t rm_expert_before(float va, uint32_t ia, float vb, uint32_t ib) {
    if (va > vb || (va == va && vb != vb)) return 1;
    if (vb > va || (vb == vb && va != va)) return 0;
    return ia < ib;
}

/* Weight of a picked expert: softmax over all experts, renormalised over the picked ones, equals
 * the softmax over the picked ones alone. `top` is the largest picked logit, `sum` the sum of
 * exp(logit - top). */
RM_FN float rm_expert_weight(float logit, float top, float sum) {
    return expf(logit - top) / sum;
}

/* ---- attention over parts of the context ---- */

/* Factor for a part of the context with maximum `max` in a whole with maximum max_all. An empty
 * part (max = -inf) gives 0, even if all parts are empty. */
RM_FN float rm_part_scale(float max, float max_all) {
    return max == -INFINITY ? 0.0f : expf(max - max_all);
}

/* Splits n_tiles key tiles over n_splits workers. Returns the tiles per worker; worker s takes [s *
 * per, min((s + 1) * per, n_tiles)). */
RM_FN uint32_t rm_tiles_per_split(uint32_t n_tiles, uint32_t n_splits) {
    return (n_tiles + n_splits - 1) / n_splits;
}
/* Workers with at least one tile. */
RM_FN uint32_t rm_splits_used(uint32_t n_tiles, uint32_t n_splits) {
    uint32_t per = rm_tiles_per_split(n_tiles, n_splits);
    return per ? (n_tiles + per - 1) / per : 0;
}

/* ---- slot look-up ---- */

enum { RM_BLOCK_SHIFT = 5, RM_BLOCK_MASK = 31 }; /* positions of a block: 32 */

/* Map entry of position pos at `plane`; table = blocks of the sequence, maps [block][plane][32]. */
RM_FN uint32_t rm_slot(const uint32_t *maps, const uint32_t *table, uint32_t n_planes,
                       uint32_t plane, uint32_t pos) {
    uint64_t block = table[pos >> RM_BLOCK_SHIFT];
    return maps[((block * n_planes + plane) << RM_BLOCK_SHIFT) + (pos & RM_BLOCK_MASK)];
}

/* ---- sampling ----
 * The host's sampler and the device's must draw the same token from the same logits. So weights
 * are built from single roundings in a fixed order (nothing here may be contracted into fused
 * multiply-adds), and are whole multiples of 2^-34: up to 2^19 of them add up exactly, in
 * integers as in doubles, in any order. */

RM_FN float rm_mul(float left, float right) {
#if defined(__CUDA_ARCH__)
    return __fmul_rn(left, right);
#else
    return left * right;
#endif
}
RM_FN float rm_add(float left, float right) {
#if defined(__CUDA_ARCH__)
    return __fadd_rn(left, right);
#else
    return left + right;
#endif
}
RM_FN float rm_div(float left, float right) {
#if defined(__CUDA_ARCH__)
    return __fdiv_rn(left, right);
#else
    return left / right;
#endif
}

#define RM_GREEDY_BELOW 1e-5f    /* temperatures */
#define RM_EXP_LEAST (-87.3f)    /* below it e^x is taken as 0 */
#define RM_EXP_ROUND 12582912.0f /* 1.5 * 2^23: adding it rounds to an integer */
#define RM_LOG2_E 1.44269504f
#define RM_LN2_HIGH 0.693359375f /* ln 2 in two parts */
#define RM_LN2_LOW (-2.12194440e-4f)
#define RM_WEIGHT_FINE 0x1p-11f /* floats from here on are multiples of 2^-34 */
#define RM_WEIGHT_UNITS 0x1p34f /* units of 2^-34 in a weight of 1 */

/* e^x for x <= 0, within 2 units in the last place. v_exp in sampler_internal.h takes the same
 * steps for 16 values at a time. */
RM_FN float rm_exp_down(float x) {
    if (x < RM_EXP_LEAST) return 0.0f;
    float shifted = rm_add(rm_mul(x, RM_LOG2_E), RM_EXP_ROUND),
          whole = rm_add(shifted, -RM_EXP_ROUND);
    float rest = rm_add(rm_add(x, -rm_mul(whole, RM_LN2_HIGH)), -rm_mul(whole, RM_LN2_LOW));
    float poly = rm_add(rm_mul(1.0f / 5040, rest), 1.0f / 720);
    poly = rm_add(rm_mul(poly, rest), 1.0f / 120);
    poly = rm_add(rm_mul(poly, rest), 1.0f / 24);
    poly = rm_add(rm_mul(poly, rest), 1.0f / 6);
    poly = rm_add(rm_mul(poly, rest), 0.5f);
    poly = rm_add(rm_mul(poly, rest), 1.0f);
    poly = rm_add(rm_mul(poly, rest), 1.0f);
    return rm_mul(poly, rm_float_of((rm_bits_of(shifted) - rm_bits_of(RM_EXP_ROUND) + 127u) << 23));
}

/* Nearest multiple of 2^-34 to a weight in [0, 1]. */
RM_FN float rm_weight_of(float weight) {
    return weight < RM_WEIGHT_FINE ? rm_add(rm_add(weight, RM_WEIGHT_FINE), -RM_WEIGHT_FINE)
                                   : weight;
}
/* Weight of a logit in a draw; scale = 1 / temperature. */
RM_FN float rm_weight(float logit, float max, float scale) {
    return rm_weight_of(rm_exp_down(rm_mul(rm_add(logit, -max), scale)));
}
RM_FN uint64_t rm_weight_units(float weight) {
    return (uint64_t)(weight * RM_WEIGHT_UNITS);
}

/* Maps floats (no NaN) to unsigned integers in the same order; -0 equals 0. */
RM_FN uint32_t rm_order(float x) {
    uint32_t bits = rm_bits_of(rm_add(x, 0.0f));
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

/* First 64 bits of Philox-4x32 with 10 rounds. Each pair (seed, index) has its own number,
 * independent of the order of calls. */
RM_FN uint64_t rm_philox(uint64_t seed, uint64_t index) {
    uint32_t c0 = (uint32_t)index, c1 = (uint32_t)(index >> 32), c2 = 0, c3 = 0;
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t product0 = (uint64_t)0xd2511f53u * c0, product2 = (uint64_t)0xcd9e8d57u * c2;
        c0 = (uint32_t)(product2 >> 32) ^ c1 ^ k0;
        c2 = (uint32_t)(product0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)product2;
        c3 = (uint32_t)product0;
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
    return (uint64_t)c0 << 32 | c1;
}
/* A number in [0, 1) from 53 random bits. */
RM_FN double rm_uniform(uint64_t seed, uint64_t index) {
    return (double)(rm_philox(seed, index) >> 11) * 0x1p-53;
}

/* ---- the race ----
 * A draw is a race: each token of weight w waits E, exponential with mean 1, and arrives at E / w.
 * The first to arrive is picked, so with probability w / (sum of weights). A token's wait depends
 * on the draw and the token alone, not on other tokens' weights. So two distributions, p and q,
 * drawn with the same numbers, give the same token at least as often as (1 - d) / (1 + d), where d
 * is half the sum of |p - q|; the best possible is 1 - d. */

/* 32 random bits of a token in a draw. All bits of draw = rm_philox(seed, index) enter, so draws
 * are independent. For one draw the function is one to one, so no two tokens have the same bits.
 * Three multiplications suffice: pairs of ids, near or far, give independent bits over many draws
 * (tests/unit/test_race.c); after two, neighbours do not. */
RM_FN uint32_t rm_race_bits(uint64_t draw, uint32_t id) {
    uint32_t bits = (id * 0x9e3779b1u) ^ (uint32_t)(draw >> 32);
    bits = (bits ^ bits >> 16) * 0x7feb352du ^ (uint32_t)draw;
    bits = (bits ^ bits >> 15) * 0x846ca68bu;
    return bits ^ bits >> 16;
}

#define RM_LN2 0.693147181f

/* The wait E = -ln u for u = 1 - (bits + 1/2) / 2^32, within 2^-22 of itself (2.3e-7, over all
 * bits). Short waits decide among many tokens; they come from small bits, where nothing is rounded
 * away. */
RM_FN float rm_race_wait(uint32_t bits) {
    uint32_t upper = bits >> 31;
    float halvings = 0.0f, share = (float)(int32_t)(upper ? ~bits : bits);
    share = rm_mul(rm_add(share, 0.5f), 0x1p-32f); /* u if upper, else 1 - u; at most 1/2 */
    if (upper) {                                   /* u = 2^-halvings part, part in [1/2, 1) */
        uint32_t word = rm_bits_of(share);
        halvings = (float)(int32_t)(126u - (word >> 23));
        share = rm_add(1.0f, -rm_float_of((word & 0x007fffffu) | 0x3f000000u));
    }
    float poly = rm_add(rm_mul(1.44111419f, share), -1.69582331f); /* -ln(1 - share) / share */
    poly = rm_add(rm_mul(poly, share), 1.25767779f);
    poly = rm_add(rm_mul(poly, share), -0.203541711f);
    poly = rm_add(rm_mul(poly, share), 0.269613206f);
    poly = rm_add(rm_mul(poly, share), 0.242805049f);
    poly = rm_add(rm_mul(poly, share), 0.333700627f);
    poly = rm_add(rm_mul(poly, share), 0.499992847f);
    poly = rm_add(rm_mul(poly, share), 1.0f);
    return rm_add(rm_mul(halvings, RM_LN2), rm_mul(poly, share));
}

/* When a token of weight > 0 arrives; the first wins, of equals the lower id. */
RM_FN float rm_race_time(uint32_t bits, float weight) {
    return rm_div(rm_race_wait(bits), weight);
}

#define RM_RACE_SLACK 1.0001f /* more than all errors of a time */

/* False if a token cannot arrive by `best`, with neither logarithm nor division: E is at least
 * 1 - u. Weight 0 may give true. v_race_may_win in sampler_internal.h does the same for 16. */
RM_FN uint32_t rm_race_may_win(uint32_t bits, float weight, float best) {
    float least = rm_mul((float)(int32_t)(bits >> 1), 0x1p-31f);
    return least <= rm_mul(rm_mul(best, RM_RACE_SLACK), weight);
}

/* ---- seeded states ---- */

/* The u-quantile of the standard normal distribution, 0 < u < 1: Acklam's rational approximation,
 * relative error below 1.2e-9. */
RM_FN double rm_normal_quantile(double u) {
    const double a[6] = {-3.969683028665376e+01, 2.209460984245205e+02,  -2.759285104469687e+02,
                         1.383577518672690e+02,  -3.066479806614716e+01, 2.506628277459239e+00};
    const double b[5] = {-5.447609879822406e+01, 1.615858368580409e+02, -1.556989798598866e+02,
                         6.680131188771972e+01, -1.328068155288572e+01};
    const double c[6] = {-7.784894002430293e-03, -3.223964580411365e-01, -2.400758277161838e+00,
                         -2.549732539343734e+00, 4.374664141464968e+00,  2.938163982698783e+00};
    const double d[4] = {7.784695709041462e-03, 3.224671290700398e-01, 2.445134137142996e+00,
                         3.754408661907416e+00};
    const double low = 0.02425;
    double q, r, tail = u < low ? u : u > 1 - low ? 1 - u : 0;
    if (tail > 0) {
        q = sqrt(-2 * log(tail));
        r = (((((c[0] * q + c[1]) * q + c[2]) * q + c[3]) * q + c[4]) * q + c[5]) /
            ((((d[0] * q + d[1]) * q + d[2]) * q + d[3]) * q + 1);
        return u < low ? r : -r;
    }
    q = u - 0.5;
    r = q * q;
    return (((((a[0] * r + a[1]) * r + a[2]) * r + a[3]) * r + a[4]) * r + a[5]) * q /
           (((((b[0] * r + b[1]) * r + b[2]) * r + b[3]) * r + b[4]) * r + 1);
}

#define RM_STATE_SEED 0x666174686f6d6830u /* equal on all servers */
#define RM_PHI_MINUS_3 0.0013498980316301

/* One channel of the state before the first loop, a normal draw cut at 3 std. It depends on
 * position and channel only, so equal prefixes have equal states. */
RM_FN float rm_seeded_state(uint32_t pos, uint32_t channel, float std) {
    double uniform = rm_uniform(RM_STATE_SEED, (uint64_t)pos << 32 | channel);
    uniform = RM_PHI_MINUS_3 + uniform * (1 - 2 * RM_PHI_MINUS_3);
    return (float)(rm_normal_quantile(uniform) * (double)std);
}

/* Log-softmax of a logit; log_sum = log of the sum of e^(logit - max). */
RM_FN float rm_logprob(float logit, float max, double log_sum) {
    return (float)((double)logit - (double)max - log_sum);
}

#endif
