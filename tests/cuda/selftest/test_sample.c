/* test_sample.c - tokens picked on the device against the host's sampler: every option alone and
 * together, on logits of every kind; the same bits in every batch and order of threads. */
#include "base/size.h"
#include "tests/cuda/selftest/selftest.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_DRAWS = 12 };

typedef struct {
    eng_sampling sampling;
    uint64_t index;
    uint32_t n_top, row; /* row: of the logits */
} sample_wish;

static cu_draw draw_of(const sample_wish *wish) {
    float temperature = wish->sampling.temperature;
    return (cu_draw){.seed = wish->sampling.seed,
                     .index = wish->index,
                     .scale = temperature < RM_GREEDY_BELOW ? 0 : 1 / temperature,
                     .top_p = wish->sampling.top_p,
                     .min_p = wish->sampling.min_p,
                     .top_k = wish->sampling.top_k,
                     .n_top = wish->n_top,
                     .logits = wish->row};
}

/* Samples n wishes from logits [..][vocab] on the device, in a launch with room for more: nothing
 * may be written beyond. out: n choices. */
static void sample(const float *dev_logits, uint32_t vocab, const sample_wish *wish, uint32_t n,
                   cu_choice *out) {
    uint32_t room = n + 3;
    cu_draw *draws = array_new(n, sizeof *draws);
    cu_choice *all = array_new(room, sizeof *all);
    if (draws == NULL || all == NULL) must(cudaErrorMemoryAllocation, "the host's memory");
    for (uint32_t i = 0; i < n; i++)
        draws[i] = draw_of(&wish[i]);
    desc_spec spec = {
        .draws = draws, .n_draws = n, .choices = dev_poison(room * sizeof(cu_choice))};
    cu_sample_args args = {.desc = dev_desc(&spec), .logits = dev_logits, .vocab = vocab};
    must(cu_sample(test_stream, &args, room), "sampling");
    host_bytes(all, spec.choices, room * sizeof *all);
    memcpy(out, all, n * sizeof *all);
    uint32_t touched = 0;
    for (uint32_t i = n; i < room; i++) {
        for (size_t k = 0; k < sizeof(cu_choice); k++)
            touched += ((const uint8_t *)&all[i])[k] != 0xff;
    }
    check(touched == 0, "%u bytes written for draws that are not there", touched);
    free(draws);
    free(all);
}

/* ---- logits of every kind ---- */

enum { KINDS = 12 };

static float bell(rng *rnd, float spread) {
    return (rng_float(rnd) + rng_float(rnd) + rng_float(rnd)) * spread;
}

static void fill_logits(float *x, uint32_t vocab, uint32_t kind, rng *rnd) {
    uint32_t peak = rng_below(rnd, vocab);
    for (uint32_t i = 0; i < vocab; i++) {
        switch (kind) {
        case 0: x[i] = bell(rnd, 1); break;
        case 1: x[i] = bell(rnd, 5); break;
        case 2: x[i] = bell(rnd, 30); break;
        case 3: x[i] = 3.25f; break;                         /* flat */
        case 4: x[i] = roundf(bell(rnd, 3) * 2) / 2; break;  /* many ties */
        case 5: x[i] = i == peak ? 40 : bell(rnd, 2); break; /* one peak */
        case 6: x[i] = rng_below(rnd, 2) ? bell(rnd, 4) : -INFINITY; break;
        case 7: x[i] = rng_below(rnd, 2) ? 0.0f : -0.0f; break; /* equal all the same */
        case 8: x[i] = 1000 + bell(rnd, 0.001f); break;         /* few floats apart */
        case 9: x[i] = bell(rnd, 1e38f); break;                 /* differences overflow */
        case 10: x[i] = i == peak ? -5 : -INFINITY; break;      /* one choice */
        default: x[i] = -(float)i * 0.01f; break;               /* falling */
        }
    }
    if (kind == 6) x[peak] = 1;
}

static eng_sampling any_sampling(rng *rnd) {
    static const float temperatures[] = {0, 0.1f, 0.7f, 1, 1, 1.3f, 2.5f, 5};
    eng_sampling sampling = {.temperature = temperatures[rng_below(rnd, 8)],
                             .top_p = 1,
                             .repetition_penalty = 1,
                             .seed = (uint64_t)rng_next(rnd) << 32 | rng_next(rnd)};
    uint32_t filters = rng_below(rnd, 8);
    if (filters & 1)
        sampling.top_k = rng_below(rnd, 4) ? 1 + rng_below(rnd, 60) : 1 + rng_below(rnd, 5000);
    if (filters & 2) sampling.top_p = rng_below(rnd, 8) ? fabsf(rng_float(rnd)) : 0;
    if (filters & 4) sampling.min_p = rng_below(rnd, 8) ? fabsf(rng_float(rnd)) * 0.3f : 1;
    return sampling;
}

/* ---- against the host ---- */

static bool near(float got, float want) {
    if (got == want) return true;
    return fabs((double)got - (double)want) <= 1e-5 + 1e-6 * fabs((double)want);
}

/* False if the host's sampler answers otherwise. */
static bool as_the_host(eng_sampler *sampler, const float *logits, const sample_wish *wish,
                        const cu_choice *got) {
    static const eng_history none;
    eng_choice want;
    err e = {0};
    if (eng_sample(sampler, &wish->sampling, &none, NULL, logits, wish->index, wish->n_top, &want,
                   &e) != 0)
        return got->token == ENG_NO_TOKEN && got->n_top == 0 && e.code == ERR_NUMERIC;
    bool same =
        got->token == want.token && got->n_top == want.n_top && near(got->logprob, want.logprob);
    for (uint32_t i = 0; same && i < want.n_top; i++) {
        same = got->top[i].id == want.top[i].id && near(got->top[i].logprob, want.top[i].logprob);
    }
    return same;
}

static void choices_are_the_hosts(uint32_t vocab, uint32_t rounds, uint64_t seed) {
    rng rnd = {seed};
    eng_sampler *sampler;
    err e = {0};
    if (!check(eng_sampler_create(&sampler, vocab, &e) == 0, "%s", e.msg)) return;
    float *x = array_new((size_t)vocab * MOST_DRAWS, sizeof *x);
    for (uint32_t k = 0; k < rounds; k++) {
        sample_wish wishes[MOST_DRAWS];
        cu_choice got[MOST_DRAWS];
        uint32_t kind[MOST_DRAWS], n = 1 + rng_below(&rnd, vocab > 2000 ? 3 : MOST_DRAWS);
        for (uint32_t i = 0; i < n; i++) {
            kind[i] = rng_below(&rnd, KINDS);
            fill_logits(x + (size_t)i * vocab, vocab, kind[i], &rnd);
            wishes[i] = (sample_wish){any_sampling(&rnd), rng_next(&rnd), 0, i};
            if (rng_below(&rnd, 2)) wishes[i].n_top = rng_below(&rnd, ENG_MAX_TOP + 1);
        }
        sample(dev_floats(x, (size_t)vocab * n), vocab, wishes, n, got);
        for (uint32_t i = 0; i < n; i++) {
            const eng_sampling *sampling = &wishes[i].sampling;
            check(as_the_host(sampler, x + (size_t)i * vocab, &wishes[i], &got[i]),
                  "vocab %u kind %u: temperature %g, top-k %u, top-p %g, min-p %g, %u best: the "
                  "host does not pick token %u",
                  vocab, kind[i], (double)sampling->temperature, sampling->top_k,
                  (double)sampling->top_p, (double)sampling->min_p, wishes[i].n_top, got[i].token);
        }
        dev_free_all();
    }
    free(x);
    eng_sampler_destroy(sampler);
}

static void rows_that_cannot_be_sampled(uint32_t vocab) {
    static const float bad[] = {NAN, INFINITY, -NAN};
    enum { N = 9 };
    rng rnd = {5};
    sample_wish wishes[N];
    cu_choice got[N];
    float *x = array_new((size_t)vocab * N, sizeof *x);
    eng_sampler *sampler;
    err e = {0};
    if (!check(eng_sampler_create(&sampler, vocab, &e) == 0, "%s", e.msg)) return;
    for (uint32_t i = 0; i < N; i++) {
        float *row = x + (size_t)i * vocab;
        fill_logits(row, vocab, 1, &rnd);
        wishes[i] = (sample_wish){any_sampling(&rnd), i, i, i};
        if (i < 6) row[i & 1 ? vocab - 1 : rng_below(&rnd, vocab)] = bad[i / 2];
        for (uint32_t k = 0; i == 6 && k < vocab; k++)
            row[k] = -INFINITY;
    }
    sample(dev_floats(x, (size_t)vocab * N), vocab, wishes, N, got);
    for (uint32_t i = 0; i < N; i++) {
        check((got[i].token == ENG_NO_TOKEN) == (i < 7), "vocab %u row %u: token %u", vocab, i,
              got[i].token);
        check(as_the_host(sampler, x + (size_t)i * vocab, &wishes[i], &got[i]), "vocab %u row %u",
              vocab, i);
    }
    free(x);
    eng_sampler_destroy(sampler);
    dev_free_all();
}

static bool same_choice(const cu_choice *one, const cu_choice *two) {
    return memcmp(one, two, 12) == 0 &&
           memcmp(one->top, two->top, one->n_top * sizeof *one->top) == 0;
}

/* Alone, in twos with another beside, and all together; threads in several orders. */
static void bits_depend_on_the_row_alone(uint32_t vocab) {
    rng rnd = {77};
    float *x = array_new((size_t)vocab * MOST_DRAWS, sizeof *x);
    sample_wish wishes[MOST_DRAWS];
    cu_choice all[MOST_DRAWS], got[MOST_DRAWS];
    for (uint32_t i = 0; i < MOST_DRAWS; i++) {
        fill_logits(x + (size_t)i * vocab, vocab, i % KINDS, &rnd);
        wishes[i] = (sample_wish){any_sampling(&rnd), i, 5, i};
        if (i % 4 == 0) wishes[i].sampling.top_k = 7, wishes[i].sampling.top_p = 0.8f;
    }
    const float *dev = dev_floats(x, (size_t)vocab * MOST_DRAWS);
    sample(dev, vocab, wishes, MOST_DRAWS, all);
    for (uint32_t n = 1; n <= 2; n++) {
        for (uint32_t i = 0; i < MOST_DRAWS; i++) {
            sample_wish two[2] = {wishes[i], wishes[(i + 5) % MOST_DRAWS]};
            sample(dev, vocab, two, n, got);
            check(same_choice(&got[0], &all[i]), "vocab %u row %u differs in a launch of %u", vocab,
                  i, n);
        }
    }
#ifdef FATHOM_CUDA_SHIM
    for (unsigned order = 1; order < 5; order++) {
        shim_set_order(order);
        sample(dev, vocab, wishes, MOST_DRAWS, got);
        for (uint32_t i = 0; i < MOST_DRAWS; i++)
            check(same_choice(&got[i], &all[i]), "vocab %u row %u: the order of threads shows",
                  vocab, i);
    }
    shim_set_order(0);
#endif
    free(x);
    dev_free_all();
}

/* Chi-square of many draws of one row against its softmax; 99.9 % point by Wilson and Hilferty. */
static void draws_follow_the_softmax(float temperature, uint64_t seed) {
    enum { VOCAB = 61, DRAWS = 20000, PER_LAUNCH = 2000 };
    rng rnd = {seed};
    float x[VOCAB], *dev;
    double prob[VOCAB], sum = 0, chi = 0, freedom = -1;
    uint32_t counts[VOCAB] = {0};
    sample_wish *wish = array_new(PER_LAUNCH, sizeof *wish);
    cu_choice *got = array_new(PER_LAUNCH, sizeof *got);
    fill_logits(x, VOCAB, 0, &rnd);
    for (uint32_t i = 0; i < VOCAB; i++)
        sum += prob[i] = exp((double)x[i] / (double)temperature);
    dev = dev_floats(x, VOCAB);
    for (uint32_t first = 0; first < DRAWS; first += PER_LAUNCH) {
        for (uint32_t i = 0; i < PER_LAUNCH; i++) {
            wish[i] =
                (sample_wish){.sampling = {.temperature = temperature, .top_p = 1, .seed = seed},
                              .index = first + i};
        }
        sample(dev, VOCAB, wish, PER_LAUNCH, got);
        for (uint32_t i = 0; i < PER_LAUNCH; i++)
            counts[got[i].token < VOCAB ? got[i].token : 0]++;
    }
    for (uint32_t i = 0; i < VOCAB; i++) {
        double want = prob[i] / sum * DRAWS;
        if (want < 5) continue;
        chi += (counts[i] - want) * (counts[i] - want) / want;
        freedom++;
    }
    double spread = 2 / (9 * freedom), limit = freedom * pow(1 - spread + 3.09 * sqrt(spread), 3);
    check(freedom > 20 && chi < limit, "temperature %g: chi-square %g of %g degrees",
          (double)temperature, chi, freedom);
    free(wish);
    free(got);
    dev_free_all();
}

void test_sample(void) {
    static const uint32_t small[] = {1, 2, 3, 63, 64, 65, 127, 129, 1000, 1003};
    uint32_t more = on_shim ? 1 : 3;
    for (size_t i = 0; i < ARRAY_LEN(small); i++)
        choices_are_the_hosts(small[i], (small[i] < 100 ? 60 : 40) * more, 100 + i);
    choices_are_the_hosts(4999, 12 * more, 7);
    choices_are_the_hosts(32000, 12 * more, 8);
    choices_are_the_hosts(70001, 2 * more, 9); /* too large for shared memory */
    choices_are_the_hosts(262148, more, 10);   /* chunks of two steps */
    rows_that_cannot_be_sampled(7);
    rows_that_cannot_be_sampled(1000);
    rows_that_cannot_be_sampled(60000);
    bits_depend_on_the_row_alone(65);
    bits_depend_on_the_row_alone(3000);
    draws_follow_the_softmax(0.4f, 11);
    draws_follow_the_softmax(1, 12);
    draws_follow_the_softmax(2.5f, 13);
}
