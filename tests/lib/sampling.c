/* sampling.c - see sampling.h. */
#include "tests/lib/sampling.h"

#include "engine/rowmath.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

eng_sampling sampling_plain(float temperature) {
    return (eng_sampling){
        .temperature = temperature, .top_p = 1, .repetition_penalty = 1, .seed = 42};
}

eng_sampler *sampling_sampler(uint32_t vocab) {
    eng_sampler *sampler = NULL;
    err e = {0};
    cr_assert_eq(eng_sampler_create(&sampler, vocab, &e), 0, "%s", e.msg);
    return sampler;
}

uint32_t sampling_pick(eng_sampler *sampler, const eng_sampling *params, const eng_history *history,
                       const eng_mask *mask, const float *logits, uint64_t index) {
    static const eng_history none;
    eng_choice choice;
    err e = {0};
    cr_assert_eq(
        eng_sample(sampler, params, history ? history : &none, mask, logits, index, 0, &choice, &e),
        0, "%s", e.msg);
    return choice.token;
}

float *sampling_logits(uint32_t vocab, uint64_t seed, float spread) {
    float *logits = malloc(vocab * sizeof *logits);
    for (uint32_t i = 0; i < vocab; i++) {
        double value = rm_uniform(seed, i) + rm_uniform(seed, i + 0x100000000u) +
                       rm_uniform(seed, i + 0x200000000u) - 1.5;
        logits[i] = (float)value * spread;
    }
    return logits;
}

void sampling_draws(const eng_sampling *params, const sampling_input *in, uint32_t n,
                    uint32_t *counts) {
    eng_sampler *sampler = sampling_sampler(in->vocab);
    memset(counts, 0, in->vocab * sizeof *counts);
    for (uint32_t i = 0; i < n; i++)
        counts[sampling_pick(sampler, params, in->history, in->mask, in->logits, i)]++;
    eng_sampler_destroy(sampler);
}

double sampling_chi_square(const uint32_t *counts, const double *prob, uint32_t bins, uint32_t n,
                           uint32_t *freedom) {
    double sum = 0, small_seen = 0, small_expected = 0;
    *freedom = 0;
    for (uint32_t i = 0; i < bins; i++) {
        double expected = prob[i] * n;
        if (expected < 5) {
            small_seen += counts[i];
            small_expected += expected;
            continue;
        }
        sum += (counts[i] - expected) * (counts[i] - expected) / expected;
        ++*freedom;
    }
    if (small_expected > 0) {
        sum += (small_seen - small_expected) * (small_seen - small_expected) / small_expected;
        ++*freedom;
    }
    --*freedom;
    return sum;
}

double sampling_chi_limit(uint32_t freedom) {
    double share = 2.0 / (9.0 * freedom);
    return freedom * pow(1 - share + 3.09 * sqrt(share), 3);
}

int sampling_by_rank(const void *first, const void *second) {
    const sampling_rank *left = first, *right = second;
    if (left->logit != right->logit) return left->logit > right->logit ? -1 : 1;
    return left->id < right->id ? -1 : 1;
}

uint32_t sampling_reference(const eng_sampling *params, const float *logits, uint32_t vocab,
                            double *prob) {
    sampling_rank *rank = malloc(vocab * sizeof *rank);
    for (uint32_t i = 0; i < vocab; i++)
        rank[i] = (sampling_rank){logits[i], i};
    qsort(rank, vocab, sizeof *rank, sampling_by_rank);
    double *weight = malloc(vocab * sizeof *weight), total = 0, above = 0;
    uint32_t kept = vocab;
    for (uint32_t i = 0; i < vocab; i++)
        weight[i] = exp((rank[i].logit - rank[0].logit) / (double)params->temperature);
    while (kept > 1 && weight[kept - 1] < (double)params->min_p)
        kept--;
    if (params->top_k && params->top_k < kept) kept = params->top_k;
    for (uint32_t i = 0; i < kept; i++)
        total += weight[i];
    uint32_t nucleus = 0;
    while (nucleus < kept && above < (double)params->top_p * total)
        above += weight[nucleus++];
    memset(prob, 0, vocab * sizeof *prob);
    for (uint32_t i = 0; i < nucleus; i++)
        prob[rank[i].id] = weight[i] / above;
    free(rank);
    free(weight);
    return nucleus;
}
