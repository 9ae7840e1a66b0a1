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
} wish;

static cu_draw draw_of(const wish *w) {
    float t = w->sampling.temperature;
    return (cu_draw){.seed = w->sampling.seed,
                     .index = w->index,
                     .scale = t < RM_GREEDY_BELOW ? 0 : 1 / t,
                     .top_p = w->sampling.top_p,
                     .min_p = w->sampling.min_p,
                     .top_k = w->sampling.top_k,
                     .n_top = w->n_top,
                     .logits = w->row};
}

/* Samples n wishes from logits [..][vocab] on the device, in a launch with room for more: nothing
 * may be written beyond. out: n choices. */
static void sample(const float *dev_logits, uint32_t vocab, const wish *w, uint32_t n,
                   cu_choice *out) {
    uint32_t room = n + 3;
    cu_draw *draws = array_new(n, sizeof *draws);
    cu_choice *all = array_new(room, sizeof *all);
    if (draws == NULL || all == NULL) must(cudaErrorMemoryAllocation, "the host's memory");
    for (uint32_t i = 0; i < n; i++)
        draws[i] = draw_of(&w[i]);
    desc_spec d = {.draws = draws, .n_draws = n, .choices = dev_poison(room * sizeof(cu_choice))};
    cu_sample_args a = {.desc = dev_desc(&d), .logits = dev_logits, .vocab = vocab};
    must(cu_sample(test_stream, &a, room), "sampling");
    host_bytes(all, d.choices, room * sizeof *all);
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

static float bell(rng *r, float spread) {
    return (rng_float(r) + rng_float(r) + rng_float(r)) * spread;
}

static void fill_logits(float *x, uint32_t vocab, uint32_t kind, rng *r) {
    uint32_t peak = rng_below(r, vocab);
    for (uint32_t i = 0; i < vocab; i++) {
        switch (kind) {
        case 0: x[i] = bell(r, 1); break;
        case 1: x[i] = bell(r, 5); break;
        case 2: x[i] = bell(r, 30); break;
        case 3: x[i] = 3.25f; break;                       /* flat */
        case 4: x[i] = roundf(bell(r, 3) * 2) / 2; break;  /* many ties */
        case 5: x[i] = i == peak ? 40 : bell(r, 2); break; /* one peak */
        case 6: x[i] = rng_below(r, 2) ? bell(r, 4) : -INFINITY; break;
        case 7: x[i] = rng_below(r, 2) ? 0.0f : -0.0f; break; /* equal all the same */
        case 8: x[i] = 1000 + bell(r, 0.001f); break;         /* few floats apart */
        case 9: x[i] = bell(r, 1e38f); break;                 /* differences overflow */
        case 10: x[i] = i == peak ? -5 : -INFINITY; break;    /* one choice */
        default: x[i] = -(float)i * 0.01f; break;             /* falling */
        }
    }
    if (kind == 6) x[peak] = 1;
}

static eng_sampling any_sampling(rng *r) {
    static const float temperatures[] = {0, 0.1f, 0.7f, 1, 1, 1.3f, 2.5f, 5};
    eng_sampling p = {.temperature = temperatures[rng_below(r, 8)],
                      .top_p = 1,
                      .repetition_penalty = 1,
                      .seed = (uint64_t)rng_next(r) << 32 | rng_next(r)};
    uint32_t filters = rng_below(r, 8);
    if (filters & 1) p.top_k = rng_below(r, 4) ? 1 + rng_below(r, 60) : 1 + rng_below(r, 5000);
    if (filters & 2) p.top_p = rng_below(r, 8) ? fabsf(rng_float(r)) : 0;
    if (filters & 4) p.min_p = rng_below(r, 8) ? fabsf(rng_float(r)) * 0.3f : 1;
    return p;
}

/* ---- against the host ---- */

static bool near(float a, float b) {
    if (a == b) return true;
    return fabs((double)a - (double)b) <= 1e-5 + 1e-6 * fabs((double)b);
}

/* False if the host's sampler answers otherwise. */
static bool as_the_host(eng_sampler *s, const float *logits, const wish *w, const cu_choice *got) {
    static const eng_history none;
    eng_choice want;
    err e = {0};
    if (eng_sample(s, &w->sampling, &none, NULL, logits, w->index, w->n_top, &want, &e) != 0)
        return got->token == ENG_NO_TOKEN && got->n_top == 0 && e.code == ERR_NUMERIC;
    bool same =
        got->token == want.token && got->n_top == want.n_top && near(got->logprob, want.logprob);
    for (uint32_t i = 0; same && i < want.n_top; i++) {
        same = got->top[i].id == want.top[i].id && near(got->top[i].logprob, want.top[i].logprob);
    }
    return same;
}

static void choices_are_the_hosts(uint32_t vocab, uint32_t rounds, uint64_t seed) {
    rng r = {seed};
    eng_sampler *s;
    err e = {0};
    if (!check(eng_sampler_create(&s, vocab, &e) == 0, "%s", e.msg)) return;
    float *x = array_new((size_t)vocab * MOST_DRAWS, sizeof *x);
    for (uint32_t k = 0; k < rounds; k++) {
        wish w[MOST_DRAWS];
        cu_choice got[MOST_DRAWS];
        uint32_t kind[MOST_DRAWS], n = 1 + rng_below(&r, vocab > 2000 ? 3 : MOST_DRAWS);
        for (uint32_t i = 0; i < n; i++) {
            kind[i] = rng_below(&r, KINDS);
            fill_logits(x + (size_t)i * vocab, vocab, kind[i], &r);
            w[i] = (wish){any_sampling(&r), rng_next(&r), 0, i};
            if (rng_below(&r, 2)) w[i].n_top = rng_below(&r, ENG_MAX_TOP + 1);
        }
        sample(dev_floats(x, (size_t)vocab * n), vocab, w, n, got);
        for (uint32_t i = 0; i < n; i++) {
            const eng_sampling *p = &w[i].sampling;
            check(as_the_host(s, x + (size_t)i * vocab, &w[i], &got[i]),
                  "vocab %u kind %u: temperature %g, top-k %u, top-p %g, min-p %g, %u best: the "
                  "host does not pick token %u",
                  vocab, kind[i], (double)p->temperature, p->top_k, (double)p->top_p,
                  (double)p->min_p, w[i].n_top, got[i].token);
        }
        dev_free_all();
    }
    free(x);
    eng_sampler_destroy(s);
}

static void rows_that_cannot_be_sampled(uint32_t vocab) {
    static const float bad[] = {NAN, INFINITY, -NAN};
    enum { N = 9 };
    rng r = {5};
    wish w[N];
    cu_choice got[N];
    float *x = array_new((size_t)vocab * N, sizeof *x);
    eng_sampler *s;
    err e = {0};
    if (!check(eng_sampler_create(&s, vocab, &e) == 0, "%s", e.msg)) return;
    for (uint32_t i = 0; i < N; i++) {
        float *row = x + (size_t)i * vocab;
        fill_logits(row, vocab, 1, &r);
        w[i] = (wish){any_sampling(&r), i, i, i};
        if (i < 6) row[i & 1 ? vocab - 1 : rng_below(&r, vocab)] = bad[i / 2];
        for (uint32_t k = 0; i == 6 && k < vocab; k++)
            row[k] = -INFINITY;
    }
    sample(dev_floats(x, (size_t)vocab * N), vocab, w, N, got);
    for (uint32_t i = 0; i < N; i++) {
        check((got[i].token == ENG_NO_TOKEN) == (i < 7), "vocab %u row %u: token %u", vocab, i,
              got[i].token);
        check(as_the_host(s, x + (size_t)i * vocab, &w[i], &got[i]), "vocab %u row %u", vocab, i);
    }
    free(x);
    eng_sampler_destroy(s);
    dev_free_all();
}

static bool same_choice(const cu_choice *a, const cu_choice *b) {
    return memcmp(a, b, 12) == 0 && memcmp(a->top, b->top, a->n_top * sizeof *a->top) == 0;
}

/* Alone, in twos with another beside, and all together; threads in several orders. */
static void bits_depend_on_the_row_alone(uint32_t vocab) {
    rng r = {77};
    float *x = array_new((size_t)vocab * MOST_DRAWS, sizeof *x);
    wish w[MOST_DRAWS];
    cu_choice all[MOST_DRAWS], got[MOST_DRAWS];
    for (uint32_t i = 0; i < MOST_DRAWS; i++) {
        fill_logits(x + (size_t)i * vocab, vocab, i % KINDS, &r);
        w[i] = (wish){any_sampling(&r), i, 5, i};
        if (i % 4 == 0) w[i].sampling.top_k = 7, w[i].sampling.top_p = 0.8f;
    }
    const float *dev = dev_floats(x, (size_t)vocab * MOST_DRAWS);
    sample(dev, vocab, w, MOST_DRAWS, all);
    for (uint32_t n = 1; n <= 2; n++) {
        for (uint32_t i = 0; i < MOST_DRAWS; i++) {
            wish two[2] = {w[i], w[(i + 5) % MOST_DRAWS]};
            sample(dev, vocab, two, n, got);
            check(same_choice(&got[0], &all[i]), "vocab %u row %u differs in a launch of %u", vocab,
                  i, n);
        }
    }
#ifdef FATHOM_CUDA_SHIM
    for (unsigned order = 1; order < 5; order++) {
        shim_set_order(order);
        sample(dev, vocab, w, MOST_DRAWS, got);
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
    rng r = {seed};
    float x[VOCAB], *dev;
    double prob[VOCAB], sum = 0, chi = 0, freedom = -1;
    uint32_t counts[VOCAB] = {0};
    wish *w = array_new(PER_LAUNCH, sizeof *w);
    cu_choice *got = array_new(PER_LAUNCH, sizeof *got);
    fill_logits(x, VOCAB, 0, &r);
    for (uint32_t i = 0; i < VOCAB; i++)
        sum += prob[i] = exp((double)x[i] / (double)temperature);
    dev = dev_floats(x, VOCAB);
    for (uint32_t first = 0; first < DRAWS; first += PER_LAUNCH) {
        for (uint32_t i = 0; i < PER_LAUNCH; i++) {
            w[i] = (wish){.sampling = {.temperature = temperature, .top_p = 1, .seed = seed},
                          .index = first + i};
        }
        sample(dev, VOCAB, w, PER_LAUNCH, got);
        for (uint32_t i = 0; i < PER_LAUNCH; i++)
            counts[got[i].token < VOCAB ? got[i].token : 0]++;
    }
    for (uint32_t i = 0; i < VOCAB; i++) {
        double want = prob[i] / sum * DRAWS;
        if (want < 5) continue;
        chi += (counts[i] - want) * (counts[i] - want) / want;
        freedom++;
    }
    double a = 2 / (9 * freedom), limit = freedom * pow(1 - a + 3.09 * sqrt(a), 3);
    check(freedom > 20 && chi < limit, "temperature %g: chi-square %g of %g degrees",
          (double)temperature, chi, freedom);
    free(w);
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
