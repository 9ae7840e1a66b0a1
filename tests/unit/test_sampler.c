/* test_sampler.c - every option by its property; the draw by chi-square. */
#include "engine/sampler_internal.h"
#include "tests/lib/sampling.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <stdlib.h>

TestSuite(sampler, .fini = fail_on_leaks);

static const eng_history no_history;

Test(sampler, philox_gives_the_published_numbers) {
    cr_assert_eq(rm_philox(0, 0), 0x6627e8d5e169c58dull);
    cr_assert_eq(rm_philox(UINT64_MAX, UINT64_MAX) == rm_philox(0, 0), 0);
    double sum = 0;
    for (uint64_t i = 0; i < 100000; i++) {
        double uniform = rm_uniform(7, i);
        cr_assert(uniform >= 0 && uniform < 1);
        sum += uniform;
    }
    cr_assert_float_eq(sum / 100000, 0.5, 0.005);
}

Test(sampler, vectors_weigh_as_the_scalar_code_a_device_runs) {
    for (uint32_t i = 0; i < 400000; i += 16) {
        float x[16], power[16], weight[16], max = (float)rm_uniform(3, i) * 40;
        float scale = 1.0f / (0.05f + 3 * (float)rm_uniform(4, i));
        for (uint32_t lane = 0; lane < 16; lane++)
            x[lane] = max - (float)rm_uniform(5, i + lane) * (i % 3 ? 10 : 200);
        x[i / 16 % 16] = i % 5 ? max : -INFINITY;
        v16f values = v_load(x, 16), powers = v_exp(values - v_all(max)),
             weights = v_weight(values, max, scale);
        memcpy(power, &powers, sizeof power);
        memcpy(weight, &weights, sizeof weight);
        for (uint32_t lane = 0; lane < 16; lane++) {
            cr_assert_eq(rm_bits_of(power[lane]), rm_bits_of(rm_exp_down(x[lane] - max)),
                         "e^(%.9g)", (double)(x[lane] - max));
            float want = rm_weight(x[lane], max, scale);
            cr_assert_eq(rm_bits_of(weight[lane]), rm_bits_of(want), "%.9g", (double)want);
            cr_assert_eq((double)rm_weight_units(want), (double)want * 0x1p34, "not whole");
        }
    }
}

Test(sampler, greedy_takes_the_largest_and_the_lower_id_of_equals) {
    float logits[] = {1, 5, -INFINITY, 5, 2};
    eng_sampler *sampler = sampling_sampler(5);
    eng_sampling params = sampling_plain(0);
    cr_assert_eq(sampling_pick(sampler, &params, NULL, NULL, logits, 0), 1);
    logits[4] = 5.0001f;
    cr_assert_eq(sampling_pick(sampler, &params, NULL, NULL, logits, 0), 4);
    eng_sampler_destroy(sampler);
}

Test(sampler, log_probabilities_equal_a_softmax_in_doubles) {
    const uint32_t sizes[] = {1, 2, 3, 5, 255, 256, 257, 2048, 128256};
    for (size_t k = 0; k < ARRAY_LEN(sizes); k++) {
        uint32_t vocab = sizes[k];
        float *logits = sampling_logits(vocab, k, 30);
        double sum = 0;
        for (uint32_t i = 0; i < vocab; i++)
            sum += exp((double)logits[i]);
        for (uint32_t probe = 0; probe < 20; probe++) {
            uint32_t id = (uint32_t)((uint64_t)probe * (vocab - 1) / 19);
            eng_choice choice;
            err e = {0};
            cr_assert_eq(eng_score(logits, vocab, id, 0, &choice, &e), 0);
            cr_assert_float_eq(choice.logprob, (double)logits[id] - log(sum), 2e-5,
                               "vocab %u id %u", vocab, id);
        }
        free(logits);
    }
}

Test(sampler, alternatives_are_the_best_in_order_with_lower_ids_first) {
    const uint32_t vocab = 1003;
    float *logits = sampling_logits(vocab, 3, 10);
    for (uint32_t i = 0; i < vocab; i++)
        logits[i] = roundf(logits[i]); /* many ties */
    logits[1002] = 20;
    sampling_rank *rank = malloc(vocab * sizeof *rank);
    for (uint32_t i = 0; i < vocab; i++)
        rank[i] = (sampling_rank){logits[i], i};
    qsort(rank, vocab, sizeof *rank, sampling_by_rank);
    eng_choice choice;
    err e = {0};
    for (uint32_t n = 0; n <= ENG_MAX_TOP; n++) {
        cr_assert_eq(eng_score(logits, vocab, 5, n, &choice, &e), 0);
        cr_assert_eq(choice.n_top, n);
        for (uint32_t i = 0; i < n; i++)
            cr_assert_eq(choice.top[i].id, rank[i].id, "%u of %u", i, n);
        for (uint32_t i = 1; i < n; i++)
            cr_assert_leq(choice.top[i].logprob, choice.top[i - 1].logprob);
    }
    cr_assert_eq(eng_score(logits, vocab, rank[0].id, 1, &choice, &e), 0);
    cr_assert_eq(choice.top[0].logprob, choice.logprob);
    float few[] = {-INFINITY, 3, -INFINITY};
    cr_assert_eq(eng_score(few, 3, 0, 20, &choice, &e), 0);
    cr_assert_eq(choice.n_top, 1, "a token of probability zero is no alternative");
    cr_assert_eq(choice.logprob, -INFINITY);
    free(rank);
    free(logits);
}

Test(sampler, draws_follow_the_softmax_at_every_temperature) {
    const uint32_t vocab = 61, n = 60000;
    float *logits = sampling_logits(vocab, 9, 3);
    const float temperatures[] = {0.3f, 1.0f, 2.5f};
    for (size_t which = 0; which < 3; which++) {
        eng_sampling params = sampling_plain(temperatures[which]);
        params.seed = 1000 + which;
        uint32_t counts[61], freedom;
        double prob[61];
        sampling_reference(&params, logits, vocab, prob);
        sampling_draws(&params, &(sampling_input){.logits = logits, .vocab = vocab}, n, counts);
        double chi = sampling_chi_square(counts, prob, vocab, n, &freedom);
        cr_assert_lt(chi, sampling_chi_limit(freedom), "temperature %g: %g over %u",
                     (double)params.temperature, chi, freedom);
    }
    free(logits);
}

Test(sampler, filters_keep_exactly_the_set_a_full_sort_keeps) {
    const struct {
        uint32_t top_k;
        float top_p, min_p;
    } rows[] = {{1, 1, 0},        {5, 1, 0},         {40, 1, 0},   {1000, 1, 0},   {0, 0.5f, 0},
                {0, 0.95f, 0},    {0, 0.001f, 0},    {0, 1, 0.1f}, {0, 1, 1},      {20, 0.8f, 0},
                {20, 0.8f, 0.2f}, {3, 0.99f, 0.01f}, {0, 0, 0},    {0, 0.9999f, 0}};
    const uint32_t vocab = 200, n = 20000;
    uint32_t *counts = malloc(vocab * sizeof *counts);
    double *prob = malloc(vocab * sizeof *prob);
    for (size_t k = 0; k < ARRAY_LEN(rows); k++) {
        float *logits = sampling_logits(vocab, 50 + k, 6);
        if (k % 2) {
            for (uint32_t i = 0; i < vocab; i++)
                logits[i] = roundf(logits[i] * 2) / 2; /* ties at the cut */
        }
        eng_sampling params = sampling_plain(1);
        params.top_k = rows[k].top_k;
        params.top_p = rows[k].top_p;
        params.min_p = rows[k].min_p;
        uint32_t freedom, kept = sampling_reference(&params, logits, vocab, prob);
        if (params.top_p == 0) prob[0] = 0, kept = 1;
        sampling_draws(&params, &(sampling_input){.logits = logits, .vocab = vocab}, n, counts);
        uint32_t seen = 0;
        for (uint32_t i = 0; i < vocab; i++) {
            if (params.top_p > 0)
                cr_assert(counts[i] == 0 || prob[i] > 0, "row %zu drew %u from outside", k, i);
            seen += counts[i] > 0;
        }
        cr_assert_leq(seen, kept, "row %zu", k);
        if (kept <= 50) cr_assert_eq(seen, kept, "row %zu: %u of %u came up", k, seen, kept);
        if (kept > 1) {
            double chi = sampling_chi_square(counts, prob, vocab, n, &freedom);
            cr_assert_lt(chi, sampling_chi_limit(freedom), "row %zu: %g over %u", k, chi, freedom);
        }
        free(logits);
    }
    free(counts);
    free(prob);
}

Test(sampler, a_cut_among_equals_keeps_the_lower_ids) {
    float logits[300];
    for (int i = 0; i < 300; i++)
        logits[i] = 1;
    logits[299] = 2;
    eng_sampling params = sampling_plain(1);
    params.top_k = 4;
    uint32_t counts[300];
    sampling_draws(&params, &(sampling_input){.logits = logits, .vocab = 300}, 2000, counts);
    for (int i = 0; i < 300; i++)
        cr_assert_eq(counts[i] > 0, i < 3 || i == 299, "id %d", i);
}

Test(sampler, penalties_do_vllms_arithmetic) {
    const float logits[] = {2.0f, -2.0f, 1.0f, 0.5f, 3.0f};
    const uint32_t prompt[] = {0, 1, 0}, output[] = {2, 2, 2, 3, 99};
    const eng_history history = {prompt, output, 3, 5};
    /* Each row: the expected logits. A bias lifts each token just over or under token 4, so the
     * arithmetic must be exact enough. */
    const struct {
        float repetition, presence, frequency;
        float want[5];
    } rows[] = {
        {2.0f, 0, 0, {1.0f, -4.0f, 0.5f, 0.25f, 3.0f}},
        {0.5f, 0, 0, {4.0f, -1.0f, 2.0f, 1.0f, 3.0f}},
        {1.0f, 1.5f, 0, {2.0f, -2.0f, -0.5f, -1.0f, 3.0f}},
        {1.0f, 0, 0.5f, {2.0f, -2.0f, -0.5f, 0.0f, 3.0f}},
        {2.0f, 0.25f, 0.5f, {1.0f, -4.0f, -1.25f, -0.5f, 3.0f}},
        {1.0f, -1.0f, -1.0f, {2.0f, -2.0f, 5.0f, 2.5f, 3.0f}},
    };
    eng_sampler *sampler = sampling_sampler(5);
    for (size_t k = 0; k < ARRAY_LEN(rows); k++) {
        for (uint32_t id = 0; id < 5; id++) {
            for (int side = -1; side <= 1; side += 2) {
                /* token id against token 4 (never penalised): lift it just over or under */
                eng_bias bias[] = {{id, 3.0f - rows[k].want[id] + 0.01f * (float)side}, {4, 0}};
                uint64_t allowed = 1u << id | 1u << 4;
                eng_mask mask = {&allowed, 1};
                eng_sampling params = sampling_plain(0);
                params.repetition_penalty = rows[k].repetition;
                params.presence_penalty = rows[k].presence;
                params.frequency_penalty = rows[k].frequency;
                params.bias = bias;
                params.n_bias = 2;
                if (id == 4) continue;
                cr_assert_eq(sampling_pick(sampler, &params, &history, &mask, logits, 0),
                             side > 0 ? id : 4u, "row %zu token %u side %d", k, id, side);
            }
        }
    }
    eng_sampler_destroy(sampler);
}

Test(sampler, a_mask_bans_what_it_does_not_name) {
    const uint32_t vocab = 130;
    float *logits = sampling_logits(vocab, 4, 1);
    uint64_t words[3] = {1ull << 5, 0, 1ull << 1}; /* 5 and 129 */
    eng_mask mask = {words, 3};
    eng_sampler *sampler = sampling_sampler(vocab);
    eng_sampling params = sampling_plain(1);
    uint32_t seen[2] = {0, 0};
    for (uint64_t i = 0; i < 400; i++) {
        uint32_t id = sampling_pick(sampler, &params, NULL, &mask, logits, i);
        cr_assert(id == 5 || id == 129, "drew %u", id);
        seen[id == 129]++;
    }
    cr_assert(seen[0] && seen[1]);
    mask.n_words = 1; /* ids beyond the words are banned */
    for (uint64_t i = 0; i < 50; i++)
        cr_assert_eq(sampling_pick(sampler, &params, NULL, &mask, logits, i), 5);
    eng_sampler_destroy(sampler);
    free(logits);
}

Test(sampler, log_probabilities_are_of_the_models_own_logits) {
    const float logits[] = {1, 2, 3};
    eng_sampling params = sampling_plain(0.1f);
    eng_bias bias = {0, 100};
    params.bias = &bias;
    params.n_bias = 1;
    eng_sampler *sampler = sampling_sampler(3);
    eng_choice choice;
    err e = {0};
    cr_assert_eq(eng_sample(sampler, &params, &no_history, NULL, logits, 0, 3, &choice, &e), 0);
    cr_assert_eq(choice.token, 0);
    cr_assert_float_eq(choice.logprob, 1 - log(exp(1) + exp(2) + exp(3)), 1e-6);
    cr_assert_eq(choice.top[0].id, 2);
    cr_assert_eq(choice.top[2].id, 0);
    eng_sampler_destroy(sampler);
}

Test(sampler, only_the_model_makes_a_numeric_error_and_what_a_request_bans_has_a_code_of_its_own) {
    const float good[] = {1, 2, 3, 4, 5};
    const uint64_t none = 0;
    const eng_mask banned = {&none, 1};
    const uint64_t third_bit = 4;
    const eng_mask third = {&third_bit, 1};
    eng_bias minus[5];
    for (uint32_t i = 0; i < 5; i++)
        minus[i] = (eng_bias){i, -3.4e38f};
    const struct {
        const char *what;
        float x[5];
        const eng_mask *mask;
        err_code code;
    } rows[] = {
        {"NaN", {1, NAN, 3, 4, 5}, NULL, ERR_NUMERIC},
        {"NaN at the end", {1, 2, 3, 4, NAN}, NULL, ERR_NUMERIC},
        {"+Inf", {1, 2, INFINITY, 4, 5}, NULL, ERR_NUMERIC},
        {"all -Inf", {-INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY}, NULL, ERR_NUMERIC},
        {"all banned", {1, 2, 3, 4, 5}, &banned, ERR_CONSTRAINT},
        {"what is allowed is -Inf", {1, 2, -INFINITY, 4, 5}, &third, ERR_CONSTRAINT},
        {"no mask words", {1, 2, 3, 4, 5}, &(eng_mask){&none, 0}, ERR_CONSTRAINT},
    };
    eng_sampler *sampler = sampling_sampler(5);
    const float temperatures[] = {0, 1};
    for (size_t k = 0; k < ARRAY_LEN(rows); k++) {
        for (int which = 0; which < 2; which++) {
            eng_sampling params = sampling_plain(temperatures[which]);
            eng_choice choice;
            err e = {0};
            cr_assert_eq(eng_sample(sampler, &params, &no_history, rows[k].mask, rows[k].x, 0, 2,
                                    &choice, &e),
                         -1, "%s", rows[k].what);
            cr_assert_eq(e.code, rows[k].code, "%s: %s", rows[k].what, e.msg);
            params.temperature = 0;
            cr_assert_eq(sampling_pick(sampler, &params, NULL, NULL, good, 0), 4);
        }
    }
    /* Some -Inf are legal, and never drawn. */
    const float some[] = {-INFINITY, 0, -INFINITY, 0, -INFINITY};
    eng_sampling params = sampling_plain(1);
    params.bias = minus;
    for (uint64_t i = 0; i < 100; i++)
        cr_assert(sampling_pick(sampler, &params, NULL, NULL, some, i) % 2 == 1);
    eng_sampler_destroy(sampler);
}

Test(sampler, no_bias_and_no_penalty_within_its_range_takes_every_token_away) {
    const float logits[] = {-FLT_MAX, FLT_MAX, -3e38f, 3e38f, 0};
    const uint32_t all[] = {0, 1, 2, 3, 4};
    const eng_history history = {all, all, 5, 5};
    const float penalties[] = {1e-6f, 1, 1e6f}, counts[] = {-1e6f, 0, 1e6f},
                biases[] = {-FLT_MAX, 0, FLT_MAX}, temperatures[] = {0, 1e-5f, 1, 1e6f};
    eng_sampler *sampler = sampling_sampler(5);
    for (int k = 0; k < 3 * 3 * 3 * 4; k++) {
        eng_sampling params = sampling_plain(temperatures[k / 27]);
        eng_bias bias[10]; /* each token twice: their sum overflows */
        for (uint32_t i = 0; i < 10; i++)
            bias[i] = (eng_bias){i / 2, biases[k % 3]};
        params.bias = bias;
        params.n_bias = 10;
        params.repetition_penalty = penalties[k / 3 % 3];
        params.presence_penalty = params.frequency_penalty = counts[k / 9 % 3];
        eng_choice choice;
        err e = {0};
        for (uint64_t i = 0; i < 20; i++) {
            cr_assert_eq(eng_sample(sampler, &params, &history, NULL, logits, i, 2, &choice, &e), 0,
                         "case %d: %s", k, e.msg);
            cr_assert_lt(choice.token, 5);
        }
    }
    eng_sampler_destroy(sampler);
}

Test(sampler, options_out_of_range_are_refused_by_name) {
    eng_sampling rows[8];
    for (size_t i = 0; i < 8; i++)
        rows[i] = sampling_plain(1);
    eng_bias nan_bias = {1, NAN};
    rows[0].temperature = NAN;
    rows[1].temperature = -1;
    rows[2].top_p = 1.5f;
    rows[3].min_p = -0.1f;
    rows[4].repetition_penalty = 0;
    rows[5].presence_penalty = INFINITY;
    rows[6].frequency_penalty = NAN;
    rows[7].bias = &nan_bias;
    rows[7].n_bias = 1;
    const char *names[] = {
        "temperature",      "temperature",       "top_p",     "min_p", "repetition_penalty",
        "presence_penalty", "frequency_penalty", "logit_bias"};
    const float logits[] = {1, 2};
    eng_sampler *sampler = sampling_sampler(2);
    for (size_t i = 0; i < 8; i++) {
        eng_choice choice;
        err e = {0};
        cr_assert_eq(eng_sample(sampler, &rows[i], &no_history, NULL, logits, 0, 0, &choice, &e),
                     -1, "row %zu", i);
        cr_assert_eq(e.code, ERR_BAD_PARAM);
        cr_assert_str_eq(e.param, names[i]);
    }
    eng_sampler_destroy(sampler);
}

Test(sampler, a_token_depends_on_seed_and_index_alone) {
    const uint32_t vocab = 5000;
    float *logits = sampling_logits(vocab, 1, 8), *other = sampling_logits(vocab, 2, 8);
    eng_sampling params = sampling_plain(1), other_params = sampling_plain(0.5f);
    other_params.top_k = 9;
    other_params.repetition_penalty = 1.3f;
    const uint32_t past[] = {1, 2, 3};
    const eng_history history = {past, past, 3, 3};
    eng_sampler *alone = sampling_sampler(vocab), *busy = sampling_sampler(vocab);
    uint32_t differ = 0;
    for (uint64_t i = 100; i-- > 0;) { /* even in another order */
        (void)sampling_pick(busy, &other_params, &history, NULL, other, i * 7);
        uint32_t token = sampling_pick(alone, &params, NULL, NULL, logits, i),
                 again = sampling_pick(busy, &params, NULL, NULL, logits, i);
        cr_assert_eq(token, again);
        eng_sampling seeded = params;
        seeded.seed = 43;
        differ += sampling_pick(busy, &seeded, NULL, NULL, logits, i) != token;
    }
    cr_assert_gt(differ, 80, "another seed gives other tokens");
    eng_sampler_destroy(alone);
    eng_sampler_destroy(busy);
    free(logits);
    free(other);
}

Test(sampler, a_large_vocabulary_is_cut_like_a_small_one) {
    const uint32_t vocab = 128256, n = 400;
    float *logits = sampling_logits(vocab, 77, 24);
    double *prob = malloc(vocab * sizeof *prob);
    eng_sampling params = sampling_plain(0.8f);
    params.top_k = 50;
    params.top_p = 0.9f;
    uint32_t kept = sampling_reference(&params, logits, vocab, prob);
    eng_sampler *sampler = sampling_sampler(vocab);
    for (uint64_t i = 0; i < n; i++) {
        cr_assert_gt(prob[sampling_pick(sampler, &params, NULL, NULL, logits, i)], 0,
                     "outside the %u kept", kept);
    }
    params.top_k = 0;
    sampling_reference(&params, logits, vocab, prob);
    for (uint64_t i = 0; i < n; i++)
        cr_assert_gt(prob[sampling_pick(sampler, &params, NULL, NULL, logits, i)], 0);
    eng_sampler_destroy(sampler);
    free(prob);
    free(logits);
}
