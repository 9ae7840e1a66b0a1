/* test_sampler.c - every option by the property it promises; the draw by chi-square. */
#include "engine/sampler_internal.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <stdlib.h>

TestSuite(sampler, .fini = fail_on_leaks);

static const eng_history no_history;

static eng_sampling plain(float temperature) {
    return (eng_sampling){
        .temperature = temperature, .top_p = 1, .repetition_penalty = 1, .seed = 42};
}

static eng_sampler *sampler(uint32_t vocab) {
    eng_sampler *s = NULL;
    err e = {0};
    cr_assert_eq(eng_sampler_create(&s, vocab, &e), 0, "%s", e.msg);
    return s;
}

static uint32_t pick(eng_sampler *s, const eng_sampling *p, const eng_history *h,
                     const eng_mask *mask, const float *logits, uint64_t index) {
    eng_choice c;
    err e = {0};
    cr_assert_eq(eng_sample(s, p, h, mask, logits, index, 0, &c, &e), 0, "%s", e.msg);
    return c.token;
}

/* Repeatable values with a spread like a model's logits. */
static float *random_logits(uint32_t vocab, uint64_t seed, float spread) {
    float *x = malloc(vocab * sizeof *x);
    for (uint32_t i = 0; i < vocab; i++) {
        double u = rm_uniform(seed, i) + rm_uniform(seed, i + 0x100000000u) +
                   rm_uniform(seed, i + 0x200000000u) - 1.5;
        x[i] = (float)u * spread;
    }
    return x;
}

/* Draws n tokens; counts[vocab] says how often each came. */
static void draw_many(const eng_sampling *p, const float *logits, uint32_t vocab, uint32_t n,
                      uint32_t *counts) {
    eng_sampler *s = sampler(vocab);
    memset(counts, 0, vocab * sizeof *counts);
    for (uint32_t i = 0; i < n; i++)
        counts[pick(s, p, &no_history, NULL, logits, i)]++;
    eng_sampler_destroy(s);
}

/* Chi-square of counts against probabilities; bins expecting under 5 are pooled. */
static double chi_square(const uint32_t *counts, const double *prob, uint32_t vocab, uint32_t n,
                         uint32_t *freedom) {
    double sum = 0, small_seen = 0, small_expected = 0;
    *freedom = 0;
    for (uint32_t i = 0; i < vocab; i++) {
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

/* 99.9 % point of chi-square (Wilson and Hilferty). */
static double chi_limit(uint32_t k) {
    double a = 2.0 / (9.0 * k);
    return k * pow(1 - a + 3.09 * sqrt(a), 3);
}

/* The options' meaning, spelt out in doubles with a full sort. */
typedef struct {
    double y;
    uint32_t id;
} ranked;

static int by_rank(const void *a, const void *b) {
    const ranked *x = a, *y = b;
    if (x->y != y->y) return x->y > y->y ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

static uint32_t reference(const eng_sampling *p, const float *logits, uint32_t vocab,
                          double *prob) {
    ranked *r = malloc(vocab * sizeof *r);
    for (uint32_t i = 0; i < vocab; i++)
        r[i] = (ranked){logits[i], i};
    qsort(r, vocab, sizeof *r, by_rank);
    double *w = malloc(vocab * sizeof *w), total = 0, above = 0;
    uint32_t kept = vocab;
    for (uint32_t i = 0; i < vocab; i++)
        w[i] = exp((r[i].y - r[0].y) / (double)p->temperature);
    while (kept > 1 && w[kept - 1] < (double)p->min_p)
        kept--;
    if (p->top_k && p->top_k < kept) kept = p->top_k;
    for (uint32_t i = 0; i < kept; i++)
        total += w[i];
    uint32_t nucleus = 0;
    while (nucleus < kept && above < (double)p->top_p * total)
        above += w[nucleus++];
    memset(prob, 0, vocab * sizeof *prob);
    for (uint32_t i = 0; i < nucleus; i++)
        prob[r[i].id] = w[i] / above;
    free(r);
    free(w);
    return nucleus;
}

Test(sampler, philox_gives_the_published_numbers) {
    cr_assert_eq(rm_philox(0, 0), 0x6627e8d5e169c58dull);
    cr_assert_eq(rm_philox(UINT64_MAX, UINT64_MAX) == rm_philox(0, 0), 0);
    double sum = 0;
    for (uint64_t i = 0; i < 100000; i++) {
        double u = rm_uniform(7, i);
        cr_assert(u >= 0 && u < 1);
        sum += u;
    }
    cr_assert_float_eq(sum / 100000, 0.5, 0.005);
}

Test(sampler, vectors_weigh_as_the_scalar_code_a_device_runs) {
    for (uint32_t i = 0; i < 400000; i += 16) {
        float x[16], y[16], w[16], max = (float)rm_uniform(3, i) * 40;
        float scale = 1.0f / (0.05f + 3 * (float)rm_uniform(4, i));
        for (uint32_t k = 0; k < 16; k++)
            x[k] = max - (float)rm_uniform(5, i + k) * (i % 3 ? 10 : 200);
        x[i / 16 % 16] = i % 5 ? max : -INFINITY;
        v16f v = v_load(x, 16), e = v_exp(v - v_all(max)), q = v_weight(v, max, scale);
        memcpy(y, &e, sizeof y);
        memcpy(w, &q, sizeof w);
        for (uint32_t k = 0; k < 16; k++) {
            cr_assert_eq(rm_bits_of(y[k]), rm_bits_of(rm_exp_down(x[k] - max)), "e^(%.9g)",
                         (double)(x[k] - max));
            float want = rm_weight(x[k], max, scale);
            cr_assert_eq(rm_bits_of(w[k]), rm_bits_of(want), "%.9g", (double)want);
            cr_assert_eq((double)rm_weight_units(want), (double)want * 0x1p34, "not whole");
        }
    }
}

/* Weights are whole numbers of units, so the walk can be done in integers: then no order of
 * sums, no vector width and no device can give another token. */
Test(sampler, a_draw_is_the_walk_down_whole_units) {
    const uint32_t sizes[] = {1, 2, 17, 255, 256, 257, 5000, 32000, 200003};
    for (size_t k = 0; k < ARRAY_LEN(sizes); k++) {
        uint32_t vocab = sizes[k];
        eng_sampler *s = sampler(vocab);
        for (uint32_t round = 0; round < (vocab > 30000 ? 40u : 300u); round++) {
            eng_sampling p = plain(0.1f + (float)(round % 7));
            float *x = random_logits(vocab, round * 31 + k, (float)(1 + round % 40)), max = x[0];
            uint64_t total = 0;
            for (uint32_t i = 1; i < vocab; i++)
                max = x[i] > max ? x[i] : max;
            for (uint32_t i = 0; i < vocab; i++)
                total += rm_weight_units(rm_weight(x[i], max, 1 / p.temperature));
            uint64_t goal = (uint64_t)(rm_uniform(p.seed, round) * (double)total);
            uint32_t want = 0;
            for (uint64_t sum = 0; want < vocab; want++) {
                sum += rm_weight_units(rm_weight(x[want], max, 1 / p.temperature));
                if (sum > goal) break;
            }
            cr_assert_eq(pick(s, &p, &no_history, NULL, x, round), want, "vocab %u round %u", vocab,
                         round);
            free(x);
        }
        eng_sampler_destroy(s);
    }
}

Test(sampler, greedy_takes_the_largest_and_the_lower_id_of_equals) {
    float x[] = {1, 5, -INFINITY, 5, 2};
    eng_sampler *s = sampler(5);
    eng_sampling p = plain(0);
    cr_assert_eq(pick(s, &p, &no_history, NULL, x, 0), 1);
    x[4] = 5.0001f;
    cr_assert_eq(pick(s, &p, &no_history, NULL, x, 0), 4);
    eng_sampler_destroy(s);
}

Test(sampler, log_probabilities_equal_a_softmax_in_doubles) {
    const uint32_t sizes[] = {1, 2, 3, 5, 255, 256, 257, 2048, 128256};
    for (size_t k = 0; k < ARRAY_LEN(sizes); k++) {
        uint32_t vocab = sizes[k];
        float *x = random_logits(vocab, k, 30);
        double sum = 0;
        for (uint32_t i = 0; i < vocab; i++)
            sum += exp((double)x[i]);
        for (uint32_t probe = 0; probe < 20; probe++) {
            uint32_t id = (uint32_t)((uint64_t)probe * (vocab - 1) / 19);
            eng_choice c;
            err e = {0};
            cr_assert_eq(eng_score(x, vocab, id, 0, &c, &e), 0);
            cr_assert_float_eq(c.logprob, (double)x[id] - log(sum), 2e-5, "vocab %u id %u", vocab,
                               id);
        }
        free(x);
    }
}

Test(sampler, alternatives_are_the_best_in_order_with_lower_ids_first) {
    const uint32_t vocab = 1003;
    float *x = random_logits(vocab, 3, 10);
    for (uint32_t i = 0; i < vocab; i++)
        x[i] = roundf(x[i]); /* many ties */
    x[1002] = 20;
    ranked *r = malloc(vocab * sizeof *r);
    for (uint32_t i = 0; i < vocab; i++)
        r[i] = (ranked){x[i], i};
    qsort(r, vocab, sizeof *r, by_rank);
    eng_choice c;
    err e = {0};
    for (uint32_t n = 0; n <= ENG_MAX_TOP; n++) {
        cr_assert_eq(eng_score(x, vocab, 5, n, &c, &e), 0);
        cr_assert_eq(c.n_top, n);
        for (uint32_t i = 0; i < n; i++)
            cr_assert_eq(c.top[i].id, r[i].id, "%u of %u", i, n);
        for (uint32_t i = 1; i < n; i++)
            cr_assert_leq(c.top[i].logprob, c.top[i - 1].logprob);
    }
    cr_assert_eq(eng_score(x, vocab, r[0].id, 1, &c, &e), 0);
    cr_assert_eq(c.top[0].logprob, c.logprob);
    float few[] = {-INFINITY, 3, -INFINITY};
    cr_assert_eq(eng_score(few, 3, 0, 20, &c, &e), 0);
    cr_assert_eq(c.n_top, 1, "a token of probability zero is no alternative");
    cr_assert_eq(c.logprob, -INFINITY);
    free(r);
    free(x);
}

Test(sampler, draws_follow_the_softmax_at_every_temperature) {
    const uint32_t vocab = 61, n = 60000;
    float *x = random_logits(vocab, 9, 3);
    const float temperatures[] = {0.3f, 1.0f, 2.5f};
    for (size_t t = 0; t < 3; t++) {
        eng_sampling p = plain(temperatures[t]);
        p.seed = 1000 + t;
        uint32_t counts[61], freedom;
        double prob[61];
        reference(&p, x, vocab, prob);
        draw_many(&p, x, vocab, n, counts);
        double chi = chi_square(counts, prob, vocab, n, &freedom);
        cr_assert_lt(chi, chi_limit(freedom), "temperature %g: %g over %u", (double)p.temperature,
                     chi, freedom);
    }
    free(x);
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
        float *x = random_logits(vocab, 50 + k, 6);
        if (k % 2) {
            for (uint32_t i = 0; i < vocab; i++)
                x[i] = roundf(x[i] * 2) / 2; /* ties at the cut */
        }
        eng_sampling p = plain(1);
        p.top_k = rows[k].top_k;
        p.top_p = rows[k].top_p;
        p.min_p = rows[k].min_p;
        uint32_t freedom, kept = reference(&p, x, vocab, prob);
        if (p.top_p == 0) prob[0] = 0, kept = 1;
        draw_many(&p, x, vocab, n, counts);
        uint32_t seen = 0;
        for (uint32_t i = 0; i < vocab; i++) {
            if (p.top_p > 0)
                cr_assert(counts[i] == 0 || prob[i] > 0, "row %zu drew %u from outside", k, i);
            seen += counts[i] > 0;
        }
        cr_assert_leq(seen, kept, "row %zu", k);
        if (kept <= 50) cr_assert_eq(seen, kept, "row %zu: %u of %u came up", k, seen, kept);
        if (kept > 1) {
            double chi = chi_square(counts, prob, vocab, n, &freedom);
            cr_assert_lt(chi, chi_limit(freedom), "row %zu: %g over %u", k, chi, freedom);
        }
        free(x);
    }
    free(counts);
    free(prob);
}

Test(sampler, a_cut_among_equals_keeps_the_lower_ids) {
    float x[300];
    for (int i = 0; i < 300; i++)
        x[i] = 1;
    x[299] = 2;
    eng_sampling p = plain(1);
    p.top_k = 4;
    uint32_t counts[300];
    draw_many(&p, x, 300, 2000, counts);
    for (int i = 0; i < 300; i++)
        cr_assert_eq(counts[i] > 0, i < 3 || i == 299, "id %d", i);
}

Test(sampler, penalties_do_vllms_arithmetic) {
    const float x[] = {2.0f, -2.0f, 1.0f, 0.5f, 3.0f};
    const uint32_t prompt[] = {0, 1, 0}, output[] = {2, 2, 2, 3, 99};
    const eng_history h = {prompt, output, 3, 5};
    /* Each row: what the logits must have become, read off by biases that make two tokens
     * tie unless the arithmetic is exact enough. */
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
    eng_sampler *s = sampler(5);
    for (size_t k = 0; k < ARRAY_LEN(rows); k++) {
        for (uint32_t id = 0; id < 5; id++) {
            for (int side = -1; side <= 1; side += 2) {
                /* token id against token 4 (never penalised): lift it just over or under */
                eng_bias bias[] = {{id, 3.0f - rows[k].want[id] + 0.01f * (float)side}, {4, 0}};
                for (uint32_t other = 0; other < 4; other++)
                    (void)other;
                uint64_t allowed = 1u << id | 1u << 4;
                eng_mask mask = {&allowed, 1};
                eng_sampling p = plain(0);
                p.repetition_penalty = rows[k].repetition;
                p.presence_penalty = rows[k].presence;
                p.frequency_penalty = rows[k].frequency;
                p.bias = bias;
                p.n_bias = 2;
                if (id == 4) continue;
                cr_assert_eq(pick(s, &p, &h, &mask, x, 0), side > 0 ? id : 4u,
                             "row %zu token %u side %d", k, id, side);
            }
        }
    }
    eng_sampler_destroy(s);
}

Test(sampler, a_mask_bans_what_it_does_not_name) {
    const uint32_t vocab = 130;
    float *x = random_logits(vocab, 4, 1);
    uint64_t words[3] = {1ull << 5, 0, 1ull << 1}; /* 5 and 129 */
    eng_mask mask = {words, 3};
    eng_sampler *s = sampler(vocab);
    eng_sampling p = plain(1);
    uint32_t seen[2] = {0, 0};
    for (uint64_t i = 0; i < 400; i++) {
        uint32_t id = pick(s, &p, &no_history, &mask, x, i);
        cr_assert(id == 5 || id == 129, "drew %u", id);
        seen[id == 129]++;
    }
    cr_assert(seen[0] && seen[1]);
    mask.n_words = 1; /* ids beyond the words are banned */
    for (uint64_t i = 0; i < 50; i++)
        cr_assert_eq(pick(s, &p, &no_history, &mask, x, i), 5);
    eng_sampler_destroy(s);
    free(x);
}

Test(sampler, log_probabilities_are_of_the_models_own_logits) {
    const float x[] = {1, 2, 3};
    eng_sampling p = plain(0.1f);
    eng_bias bias = {0, 100};
    p.bias = &bias;
    p.n_bias = 1;
    eng_sampler *s = sampler(3);
    eng_choice c;
    err e = {0};
    cr_assert_eq(eng_sample(s, &p, &no_history, NULL, x, 0, 3, &c, &e), 0);
    cr_assert_eq(c.token, 0);
    cr_assert_float_eq(c.logprob, 1 - log(exp(1) + exp(2) + exp(3)), 1e-6);
    cr_assert_eq(c.top[0].id, 2);
    cr_assert_eq(c.top[2].id, 0);
    eng_sampler_destroy(s);
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
    eng_sampler *s = sampler(5);
    const float temperatures[] = {0, 1};
    for (size_t k = 0; k < ARRAY_LEN(rows); k++) {
        for (int t = 0; t < 2; t++) {
            eng_sampling p = plain(temperatures[t]);
            eng_choice c;
            err e = {0};
            cr_assert_eq(eng_sample(s, &p, &no_history, rows[k].mask, rows[k].x, 0, 2, &c, &e), -1,
                         "%s", rows[k].what);
            cr_assert_eq(e.code, rows[k].code, "%s: %s", rows[k].what, e.msg);
            p.temperature = 0;
            cr_assert_eq(pick(s, &p, &no_history, NULL, good, 0), 4);
        }
    }
    /* -Inf for some is legal, and never drawn. */
    const float some[] = {-INFINITY, 0, -INFINITY, 0, -INFINITY};
    eng_sampling p = plain(1);
    p.bias = minus;
    for (uint64_t i = 0; i < 100; i++)
        cr_assert(pick(s, &p, &no_history, NULL, some, i) % 2 == 1);
    eng_sampler_destroy(s);
}

Test(sampler, no_bias_and_no_penalty_within_its_range_takes_every_token_away) {
    const float x[] = {-FLT_MAX, FLT_MAX, -3e38f, 3e38f, 0};
    const uint32_t all[] = {0, 1, 2, 3, 4};
    const eng_history h = {all, all, 5, 5};
    const float penalties[] = {1e-6f, 1, 1e6f}, counts[] = {-1e6f, 0, 1e6f},
                biases[] = {-FLT_MAX, 0, FLT_MAX}, temperatures[] = {0, 1e-5f, 1, 1e6f};
    eng_sampler *s = sampler(5);
    for (int k = 0; k < 3 * 3 * 3 * 4; k++) {
        eng_sampling p = plain(temperatures[k / 27]);
        eng_bias bias[10]; /* each token twice: their sum overflows */
        for (uint32_t i = 0; i < 10; i++)
            bias[i] = (eng_bias){i / 2, biases[k % 3]};
        p.bias = bias;
        p.n_bias = 10;
        p.repetition_penalty = penalties[k / 3 % 3];
        p.presence_penalty = p.frequency_penalty = counts[k / 9 % 3];
        eng_choice c;
        err e = {0};
        for (uint64_t i = 0; i < 20; i++) {
            cr_assert_eq(eng_sample(s, &p, &h, NULL, x, i, 2, &c, &e), 0, "case %d: %s", k, e.msg);
            cr_assert_lt(c.token, 5);
        }
    }
    eng_sampler_destroy(s);
}

Test(sampler, options_out_of_range_are_refused_by_name) {
    eng_sampling rows[8];
    for (size_t i = 0; i < 8; i++)
        rows[i] = plain(1);
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
    const float x[] = {1, 2};
    eng_sampler *s = sampler(2);
    for (size_t i = 0; i < 8; i++) {
        eng_choice c;
        err e = {0};
        cr_assert_eq(eng_sample(s, &rows[i], &no_history, NULL, x, 0, 0, &c, &e), -1, "row %zu", i);
        cr_assert_eq(e.code, ERR_BAD_PARAM);
        cr_assert_str_eq(e.param, names[i]);
    }
    eng_sampler_destroy(s);
}

Test(sampler, a_token_depends_on_seed_and_index_alone) {
    const uint32_t vocab = 5000;
    float *x = random_logits(vocab, 1, 8), *other = random_logits(vocab, 2, 8);
    eng_sampling p = plain(1), q = plain(0.5f);
    q.top_k = 9;
    q.repetition_penalty = 1.3f;
    const uint32_t past[] = {1, 2, 3};
    const eng_history h = {past, past, 3, 3};
    eng_sampler *alone = sampler(vocab), *busy = sampler(vocab);
    uint32_t differ = 0;
    for (uint64_t i = 100; i-- > 0;) { /* even in another order */
        (void)pick(busy, &q, &h, NULL, other, i * 7);
        uint32_t a = pick(alone, &p, &no_history, NULL, x, i),
                 b = pick(busy, &p, &no_history, NULL, x, i);
        cr_assert_eq(a, b);
        eng_sampling seeded = p;
        seeded.seed = 43;
        differ += pick(busy, &seeded, &no_history, NULL, x, i) != a;
    }
    cr_assert_gt(differ, 80, "another seed gives other tokens");
    eng_sampler_destroy(alone);
    eng_sampler_destroy(busy);
    free(x);
    free(other);
}

Test(sampler, a_large_vocabulary_is_cut_like_a_small_one) {
    const uint32_t vocab = 128256, n = 400;
    float *x = random_logits(vocab, 77, 24);
    double *prob = malloc(vocab * sizeof *prob);
    eng_sampling p = plain(0.8f);
    p.top_k = 50;
    p.top_p = 0.9f;
    uint32_t kept = reference(&p, x, vocab, prob);
    eng_sampler *s = sampler(vocab);
    for (uint64_t i = 0; i < n; i++) {
        cr_assert_gt(prob[pick(s, &p, &no_history, NULL, x, i)], 0, "outside the %u kept", kept);
    }
    p.top_k = 0;
    reference(&p, x, vocab, prob);
    for (uint64_t i = 0; i < n; i++)
        cr_assert_gt(prob[pick(s, &p, &no_history, NULL, x, i)], 0);
    eng_sampler_destroy(s);
    free(prob);
    free(x);
}
