/* fake_model.h - the integer model of the fake backend and of fake_seq: all arithmetic is mixing
 * of hashes. */
#ifndef FATHOM_FAKE_MODEL_H
#define FATHOM_FAKE_MODEL_H

#include "tests/lib/fake_backend.h"

#include <string.h>

static inline uint64_t mix(uint64_t a, uint64_t b) {
    uint64_t x = a * 0x9e3779b97f4a7c15u + b + 0x632be59bd9b4e019u;
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9u;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static inline uint64_t model_embed(const fake_opts *opts, uint32_t token, uint32_t pos) {
    return mix(mix(opts->seed, token), pos);
}

static inline uint64_t model_latent(uint64_t x, uint32_t plane) {
    return mix(x, 1000 + plane);
}

static inline bool model_halts(const fake_opts *opts, uint64_t state, uint64_t embed, uint32_t done,
                               uint32_t min_loops, uint32_t max_loops, float threshold) {
    if (done >= max_loops) return true;
    if (done < min_loops) return false;
    if (opts->deep_one_in)
        return mix(embed, 7) % opts->deep_one_in != 0 && done >= opts->mean_depth;
    uint32_t bits;
    memcpy(&bits, &threshold, sizeof bits);
    return mix(state, bits) % opts->mean_depth == 0;
}

/* The token favoured behind this one. */
static inline uint32_t model_favourite(const fake_opts *opts, uint32_t token, uint32_t pos) {
    return (uint32_t)(mix(model_embed(opts, token, opts->by_token ? 0 : pos), 5) % opts->vocab);
}

/* Of a position with this token, from the state x of its coda. Every draft favours one token, and
 * so do opts.agreement of 100 positions. Without an agreement the state alone decides. */
static inline void model_logits(const fake_opts *opts, uint64_t x, uint32_t token, uint32_t pos,
                                bool draft, float *out) {
    for (uint32_t i = 0; i < opts->vocab; i++)
        out[i] = (float)(mix(x, i) >> 40) / (float)(1 << 21);
    uint32_t misled = draft && opts->misleads;
    if (draft || mix(x, 77) % 100 < opts->agreement)
        out[(model_favourite(opts, token, pos) + misled) % opts->vocab] += 9;
}

#endif
