/* test_race.c - the race by which the sampler draws: its random numbers, its exactness, and its
 * distribution. */
#include "engine/sampler_internal.h"
#include "tests/lib/sampling.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <stdlib.h>

TestSuite(race, .fini = fail_on_leaks);

/* ---- random numbers ---- */

static double exact_wait(uint32_t bits) {
    double upper = ((double)(uint32_t)~bits + 0.5) * 0x1p-32;
    return bits >> 31 ? -log(upper) : -log1p(-((double)bits + 0.5) * 0x1p-32);
}

static double wait_error(uint32_t bits) {
    double want = exact_wait(bits);
    return fabs((double)rm_race_wait(bits) - want) / want;
}

Test(race, a_wait_is_the_logarithm_within_two_to_the_minus_22) {
    double worst = 0, sum = 0;
    uint32_t n = 0;
    for (uint32_t i = 0; i < 100000; i++) /* both ends */
        worst = fmax(worst, fmax(wait_error(i), wait_error(~i)));
    for (int shift = 0; shift < 32; shift++) { /* where the exponent changes */
        for (uint32_t i = 0; i < 64; i++) {
            uint32_t bits = (1u << shift) + i - 32;
            worst = fmax(worst, fmax(wait_error(bits), wait_error(~bits)));
        }
    }
    for (uint64_t bits = 0; bits <= UINT32_MAX; bits += 2039, n++) {
        worst = fmax(worst, wait_error((uint32_t)bits));
        sum += (double)rm_race_wait((uint32_t)bits);
    }
    cr_assert_lt(worst, 0x1p-22, "%g", worst);
    cr_assert_float_eq(sum / n, 1, 1e-5, "the mean of the waits is %g", sum / n);
}

Test(race, vectors_give_the_bits_and_the_verdict_of_the_scalar_code) {
    for (uint32_t i = 0; i < 400000; i += 16) {
        uint64_t number = rm_philox(3, i);
        v16u ids, bits;
        v16f weights;
        for (uint32_t lane = 0; lane < 16; lane++) {
            ids[lane] = i * (i % 3 ? 1 : 10007) + lane;
            weights[lane] = lane % 5 ? rm_weight(-30 * (float)rm_uniform(4, i + lane), 0, 1) : 0;
        }
        float best = rm_race_time((uint32_t)number >> i % 32, 0.01f + weights[1]);
        bits = v_race_bits(number, ids);
        v16i may_win = v_race_may_win(bits, weights, best);
        for (uint32_t lane = 0; lane < 16; lane++) {
            cr_assert_eq(bits[lane], rm_race_bits(number, ids[lane]));
            cr_assert_eq(may_win[lane] != 0, rm_race_may_win(bits[lane], weights[lane], best));
        }
    }
}

Test(race, no_token_is_left_out_that_arrives_in_time) {
    uint32_t left_out = 0, n = 0;
    for (uint32_t i = 0; i < 200000; i++) {
        uint32_t bits = (uint32_t)rm_philox(1, i) >> i % 33 % 32;
        float weight = rm_weight(-25 * (float)rm_uniform(2, i), 0, 1);
        if (weight <= 0) continue;
        float time = rm_race_time(bits, weight);
        cr_assert(rm_race_may_win(bits, weight, time), "bits %u, weight %g", bits, (double)weight);
        left_out += !rm_race_may_win(bits, weight, time / 2);
        n++;
    }
    cr_assert_gt(left_out, n / 3, "so most late tokens are left out: %u of %u", left_out, n);
}

/* The bits of two tokens, and how they are related. */
typedef struct {
    const char *what;
    uint64_t seed, index; /* of the second, relative to the first */
    uint32_t id;
} neighbour;

typedef uint32_t (*bits_function)(uint64_t number, uint32_t id);

static uint32_t bits_of(uint64_t number, uint32_t id) {
    return rm_race_bits(number, id);
}
/* What is left without the last multiplication. */
static uint32_t weaker_bits_of(uint64_t number, uint32_t id) {
    uint32_t bits = (id * 0x9e3779b1u) ^ (uint32_t)(number >> 32);
    bits = (bits ^ bits >> 16) * 0x7feb352du ^ (uint32_t)number;
    return bits ^ bits >> 16;
}

/* Chi-square, as a multiple of its limit, of the high bits of two tokens over many draws; and how
 * far the number of draws where both are small is from the expected one, in standard deviations. */
static double related(bits_function bits, const neighbour *by, double *both_small) {
    enum { SIDE = 32, DRAWS = 200000, SMALL = 1 << 26 };
    static uint32_t counts[SIDE * SIDE];
    static double prob[SIDE * SIDE];
    uint32_t freedom, small = 0;
    memset(counts, 0, sizeof counts);
    for (uint32_t i = 0; i < SIDE * SIDE; i++)
        prob[i] = 1.0 / (SIDE * SIDE);
    for (uint32_t i = 0; i < DRAWS; i++) {
        uint32_t id = 1000, one = bits(rm_philox(9, i), id),
                 two = bits(rm_philox(9 + by->seed, i + by->index), id + by->id);
        counts[one >> 27 | two >> 27 << 5]++;
        small += one < SMALL && two < SMALL;
    }
    double expected = DRAWS / 4096.0;
    *both_small = (small - expected) / sqrt(expected);
    return sampling_chi_square(counts, prob, SIDE * SIDE, DRAWS, &freedom) /
           sampling_chi_limit(freedom);
}

static const neighbour neighbours[] = {
    {"the next id", 0, 0, 1},
    {"the third id", 0, 0, 3},
    {"16 ids on", 0, 0, 16},
    {"64 ids on", 0, 0, 64},
    {"1,000 ids on", 0, 0, 1000},
    {"4,096 ids on", 0, 0, 4096},
    {"65,536 ids on", 0, 0, 65536},
    {"the next index", 0, 1, 0},
    {"the next index and id", 0, 1, 1},
    {"the index 2^32 on", 0, UINT64_C(1) << 32, 0},
    {"the next seed", 1, 0, 0},
    {"the seed 2^32 on", UINT64_C(1) << 32, 0, 0},
    {"the next seed and id", 1, 0, 1},
};

Test(race, random_numbers_of_neighbouring_ids_indices_and_seeds_are_independent) {
    for (size_t k = 0; k < ARRAY_LEN(neighbours); k++) {
        double both_small, chi = related(bits_of, &neighbours[k], &both_small);
        cr_expect_lt(chi, 1, "%s: %g of the limit", neighbours[k].what, chi);
        cr_expect_lt(fabs(both_small), 3.5, "%s: %g deviations", neighbours[k].what, both_small);
    }
}

Test(race, one_multiplication_less_fails_the_same_test) {
    double worst = 0, both_small;
    for (size_t k = 0; k < ARRAY_LEN(neighbours); k++)
        worst = fmax(worst, related(weaker_bits_of, &neighbours[k], &both_small));
    cr_assert_gt(worst, 2, "%g of the limit", worst);
}

/* All orders in which four tokens arrive, against the product of the shares of those not there
 * yet: this fails if the waits of three or four tokens depend on each other. */
Test(race, four_tokens_arrive_in_every_order_as_often_as_their_weights_say) {
    enum { DRAWS = 200000, CODES = 256 };
    static uint32_t counts[CODES];
    static double prob[CODES];
    uint32_t freedom;
    for (uint32_t stride = 1; stride <= 4096; stride *= 64) {
        memset(counts, 0, sizeof counts);
        memset(prob, 0, sizeof prob);
        for (uint32_t code = 0; code < CODES; code++) {
            double share = 1, left = 10;
            uint32_t seen = 0;
            for (uint32_t place = 0; place < 4; place++) {
                uint32_t token = code >> 2 * place & 3;
                share *= seen >> token & 1 ? 0 : (token + 1) / left;
                left -= token + 1;
                seen |= 1u << token;
            }
            prob[code] = seen == 15 ? share : 0;
        }
        for (uint32_t i = 0; i < DRAWS; i++) {
            uint64_t number = rm_philox(77, i);
            float time[4];
            uint32_t code = 0;
            for (uint32_t token = 0; token < 4; token++)
                time[token] =
                    rm_race_time(rm_race_bits(number, 17 + stride * token), (float)(token + 1));
            for (uint32_t token = 0; token < 4; token++) {
                uint32_t place = 0;
                for (uint32_t other = 0; other < 4; other++)
                    place += time[other] < time[token];
                code |= token << 2 * place;
            }
            counts[code]++;
        }
        double chi = sampling_chi_square(counts, prob, CODES, DRAWS, &freedom);
        cr_expect_lt(chi, sampling_chi_limit(freedom), "stride %u: %g over %u", stride, chi,
                     freedom);
    }
}

/* ---- the token ---- */

/* The first to arrive among tokens with prob > 0, every one computed; or in doubles. *gap is how
 * much later the next arrives, relative to the first. */
static uint32_t first_of_all(const eng_sampling *params, const float *logits, uint32_t vocab,
                             const double *prob, uint64_t index, bool doubles, double *gap) {
    uint64_t number = rm_philox(params->seed, index);
    float max = logits[0], scale = 1 / params->temperature;
    uint32_t token = UINT32_MAX;
    double first = INFINITY, second = INFINITY;
    for (uint32_t i = 1; i < vocab; i++)
        max = logits[i] > max ? logits[i] : max;
    for (uint32_t i = 0; i < vocab; i++) {
        uint32_t bits = rm_race_bits(number, i);
        float weight = rm_weight(logits[i], max, scale);
        if (weight <= 0 || (prob && prob[i] <= 0)) continue;
        double time = (double)rm_race_time(bits, weight);
        if (doubles)
            time = exact_wait(bits) /
                   exp(((double)logits[i] - (double)max) / (double)params->temperature);
        if (time < first) second = first, first = time, token = i;
        else if (time < second) second = time;
    }
    *gap = (second - first) / first;
    return token;
}

Test(race, a_draw_is_the_first_of_all_tokens_to_arrive) {
    const uint32_t sizes[] = {1, 2, 15, 16, 17, 255, 5000, 32000, 200003};
    for (size_t k = 0; k < ARRAY_LEN(sizes); k++) {
        uint32_t vocab = sizes[k];
        eng_sampler *sampler = sampling_sampler(vocab);
        for (uint32_t round = 0; round < (vocab > 30000 ? 20u : 200u); round++) {
            eng_sampling params = sampling_plain(0.1f + (float)(round % 7));
            float *logits = sampling_logits(vocab, round * 31 + k, (float)(1 + round % 40));
            double gap;
            uint32_t want = first_of_all(&params, logits, vocab, NULL, round, false, &gap);
            cr_assert_eq(sampling_pick(sampler, &params, NULL, NULL, logits, round), want,
                         "vocab %u round %u", vocab, round);
            free(logits);
        }
        eng_sampler_destroy(sampler);
    }
}

Test(race, filters_choose_the_tokens_that_race_and_change_nothing_else) {
    const struct {
        uint32_t top_k;
        float top_p, min_p;
    } rows[] = {{1, 1, 0}, {40, 1, 0}, {0, 0.9f, 0}, {0, 1, 0.05f}, {200, 0.8f, 0.01f}};
    const uint32_t vocab = 3001;
    eng_sampler *sampler = sampling_sampler(vocab);
    double *prob = malloc(vocab * sizeof *prob), gap;
    for (size_t k = 0; k < ARRAY_LEN(rows); k++) {
        for (uint32_t round = 0; round < 40; round++) {
            eng_sampling params = sampling_plain(0.7f);
            params.top_k = rows[k].top_k;
            params.top_p = rows[k].top_p;
            params.min_p = rows[k].min_p;
            float *logits = sampling_logits(vocab, round * 31 + k, 12);
            (void)sampling_reference(&params, logits, vocab, prob);
            cr_assert_eq(sampling_pick(sampler, &params, NULL, NULL, logits, round),
                         first_of_all(&params, logits, vocab, prob, round, false, &gap),
                         "row %zu round %u", k, round);
            free(logits);
        }
    }
    free(prob);
    eng_sampler_destroy(sampler);
}

Test(race, a_draw_is_that_of_doubles_unless_two_tokens_arrive_together) {
    const uint32_t vocab = 2000, n = 3000;
    eng_sampler *sampler = sampling_sampler(vocab);
    uint32_t together = 0;
    for (uint32_t round = 0; round < n; round++) {
        eng_sampling params = sampling_plain(0.3f + (float)(round % 5) * 0.4f);
        float *logits = sampling_logits(vocab, round, (float)(1 + round % 20));
        double gap;
        uint32_t want = first_of_all(&params, logits, vocab, NULL, round, true, &gap),
                 got = sampling_pick(sampler, &params, NULL, NULL, logits, round);
        if (gap < 1e-5) together++;
        else cr_assert_eq(got, want, "round %u, the next %g later", round, gap);
        free(logits);
    }
    cr_assert_lt(together, 5);
    eng_sampler_destroy(sampler);
}

Test(race, of_tokens_that_arrive_together_the_lower_id_wins_and_weight_0_never_does) {
    float logits[64];
    eng_sampler *sampler = sampling_sampler(64);
    eng_sampling params = sampling_plain(1);
    for (uint32_t i = 0; i < 64; i++)
        logits[i] = i % 2 ? -24.5f : -INFINITY; /* e^-24.5 is below half a unit */
    logits[50] = 0;
    for (uint32_t i = 0; i < 2000; i++)
        cr_assert_eq(sampling_pick(sampler, &params, NULL, NULL, logits, i), 50);
    eng_sampler_destroy(sampler);
}

/* ---- the distribution ---- */

Test(race, draws_after_penalties_bias_mask_and_filters_follow_their_softmax) {
    enum { VOCAB = 130, DRAWS = 20000 };
    const struct {
        uint32_t top_k;
        float top_p, min_p;
    } rows[] = {{0, 1, 0}, {12, 1, 0}, {0, 0.8f, 0}, {0, 1, 0.1f}, {20, 0.9f, 0.02f}};
    const uint32_t prompt[] = {4, 9, 9}, output[] = {7, 7, 30, 129};
    const eng_history history = {prompt, output, 3, 4};
    const eng_bias bias[] = {{11, 1.5f}, {30, -2}};
    const uint64_t words[3] = {UINT64_C(0xfff7ffff5fffffff), UINT64_C(0xffffffffefffffff), 3};
    const eng_mask mask = {words, 3};
    for (size_t k = 0; k < ARRAY_LEN(rows); k++) {
        eng_sampling params = sampling_plain(0.9f);
        params.top_k = rows[k].top_k;
        params.top_p = rows[k].top_p;
        params.min_p = rows[k].min_p;
        params.repetition_penalty = 1.3f;
        params.presence_penalty = 0.4f;
        params.frequency_penalty = 0.2f;
        params.bias = bias;
        params.n_bias = 2;
        params.seed = 500 + k;
        float *logits = sampling_logits(VOCAB, 60 + k, 5), changed[VOCAB];
        for (uint32_t i = 0; i < VOCAB; i++) {
            float times = (float)((i == 7) * 2 + (i == 30) + (i == 129));
            bool met = times > 0 || i == 4 || i == 9;
            changed[i] = !met ? logits[i] : logits[i] > 0 ? logits[i] / 1.3f : logits[i] * 1.3f;
            changed[i] -= times > 0 ? 0.4f + 0.2f * times : 0;
            changed[i] += i == 11 ? 1.5f : i == 30 ? -2 : 0;
            if ((words[i / 64] >> i % 64 & 1) == 0) changed[i] = -INFINITY;
        }
        double prob[VOCAB];
        uint32_t counts[VOCAB], freedom;
        (void)sampling_reference(&params, changed, VOCAB, prob);
        sampling_draws(&params, &(sampling_input){logits, &history, &mask, VOCAB}, DRAWS, counts);
        for (uint32_t i = 0; i < VOCAB; i++)
            cr_expect(counts[i] == 0 || prob[i] > 0, "row %zu drew %u from outside", k, i);
        double chi = sampling_chi_square(counts, prob, VOCAB, DRAWS, &freedom);
        cr_expect_lt(chi, sampling_chi_limit(freedom), "row %zu: %g over %u", k, chi, freedom);
        free(logits);
    }
}

/* A tail of many tokens, each as unlikely as 2^-16, takes its share, evenly. Waits too coarse near
 * 0 would show here. */
Test(race, a_long_tail_has_its_share_evenly) {
    enum { VOCAB = 65537, DRAWS = 3000, BINS = 17 };
    float *logits = malloc(VOCAB * sizeof *logits);
    eng_sampler *sampler = sampling_sampler(VOCAB);
    eng_sampling params = sampling_plain(1);
    uint32_t counts[BINS] = {0}, freedom;
    double prob[BINS];
    for (uint32_t i = 0; i < VOCAB; i++)
        logits[i] = -16 * RM_LN2;
    logits[VOCAB - 1] = 0;
    for (uint32_t i = 0; i < BINS; i++)
        prob[i] = i < BINS - 1 ? 0.5 / (BINS - 1) : 0.5;
    for (uint32_t i = 0; i < DRAWS; i++)
        counts[sampling_pick(sampler, &params, NULL, NULL, logits, i) >> 12]++;
    double chi = sampling_chi_square(counts, prob, BINS, DRAWS, &freedom);
    cr_assert_lt(chi, sampling_chi_limit(freedom), "%g over %u", chi, freedom);
    eng_sampler_destroy(sampler);
    free(logits);
}

Test(race, tokens_of_neighbouring_indices_and_seeds_are_independent) {
    enum { VOCAB = 8, DRAWS = 60000 };
    float *logits = sampling_logits(VOCAB, 5, 2);
    eng_sampler *sampler = sampling_sampler(VOCAB);
    double alone[VOCAB], pairs[VOCAB * VOCAB];
    eng_sampling params = sampling_plain(1);
    (void)sampling_reference(&params, logits, VOCAB, alone);
    for (uint32_t i = 0; i < VOCAB * VOCAB; i++)
        pairs[i] = alone[i / VOCAB] * alone[i % VOCAB];
    for (uint32_t by_seed = 0; by_seed < 2; by_seed++) {
        uint32_t counts[VOCAB * VOCAB] = {0}, freedom;
        for (uint32_t i = 0; i < DRAWS; i++) {
            eng_sampling other = params;
            params.seed = by_seed ? i : 42;
            other.seed = params.seed + by_seed;
            uint64_t index = by_seed ? 3 : 2 * i;
            uint32_t one = sampling_pick(sampler, &params, NULL, NULL, logits, index),
                     two = sampling_pick(sampler, &other, NULL, NULL, logits, index + !by_seed);
            counts[one * VOCAB + two]++;
        }
        double chi = sampling_chi_square(counts, pairs, VOCAB * VOCAB, DRAWS, &freedom);
        cr_expect_lt(chi, sampling_chi_limit(freedom), "by %s: %g over %u",
                     by_seed ? "seed" : "index", chi, freedom);
    }
    eng_sampler_destroy(sampler);
    free(logits);
}

/* What drafts need: see "the race" in rowmath.h. */
Test(race, two_close_distributions_draw_the_same_token_nearly_as_often_as_possible) {
    enum { VOCAB = 300, DRAWS = 2000, PAIRS = 24 };
    eng_sampler *sampler = sampling_sampler(VOCAB);
    double expected = 0, most = 0, seen = 0;
    for (uint32_t pair = 0; pair < PAIRS; pair++) {
        eng_sampling params = sampling_plain(1);
        params.seed = 900 + pair;
        float *one = sampling_logits(VOCAB, pair, 6 + (float)(pair % 6)),
              *two = sampling_logits(VOCAB, 1000 + pair, 0.2f * (float)(1 + pair % 8));
        double left[VOCAB], right[VOCAB], distance = 0;
        for (uint32_t i = 0; i < VOCAB; i++)
            two[i] += one[i];
        (void)sampling_reference(&params, one, VOCAB, left);
        (void)sampling_reference(&params, two, VOCAB, right);
        for (uint32_t i = 0; i < VOCAB; i++)
            distance += fabs(left[i] - right[i]) / 2;
        for (uint32_t i = 0; i < DRAWS; i++)
            seen += sampling_pick(sampler, &params, NULL, NULL, one, i) ==
                    sampling_pick(sampler, &params, NULL, NULL, two, i);
        expected += (1 - distance) / (1 + distance);
        most += 1 - distance;
        free(one);
        free(two);
    }
    expected /= PAIRS, most /= PAIRS, seen /= PAIRS * DRAWS;
    cr_assert_gt(most - expected, 0.05, "the distributions differ");
    double deviation = sqrt(0.25 / (PAIRS * DRAWS));
    cr_assert_gt(seen, expected - 3 * deviation, "%g of at least %g", seen, expected);
    cr_assert_lt(seen, most + 3 * deviation, "%g of at most %g", seen, most);
    eng_sampler_destroy(sampler);
}
