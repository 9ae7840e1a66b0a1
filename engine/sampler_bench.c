/* sampler_bench.c - the time of one choice by the host's sampler, for vocabularies of several
 * sizes. */
#include "base/clock.h"
#include "base/size.h"
#include "engine/kernel_bench.h"
#include "engine/rowmath.h"
#include "engine/sampler.h"

#include <stdlib.h>

enum { ROUNDS = 21, MOST_WAYS = 5, IDS_A_ROUND = 1 << 21 };

typedef struct {
    const char *what;
    float temperature, top_p, min_p;
    uint32_t top_k;
} way;

static const way ways[MOST_WAYS] = {
    {"sampler greedy", 0, 1, 0, 0},      {"sampler draw", 1, 1, 0, 0},
    {"sampler top-p", 0.7f, 0.9f, 0, 0}, {"sampler top-k", 0.7f, 0.9f, 0, 50},
    {"sampler min-p", 1, 1, 0.05f, 0},
};

static int by_value(const void *left, const void *right) {
    double x = *(const double *)left, y = *(const double *)right;
    return (x > y) - (x < y);
}

/* Sums of three uniform numbers: some hundred tokens hold most of the probability. */
static void fill(float *logits, uint32_t vocab) {
    for (uint32_t i = 0; i < vocab; i++) {
        double sum = 0;
        for (uint64_t k = 0; k < 3; k++)
            sum += rm_uniform(k, i);
        logits[i] = (float)(sum * 10);
    }
}

/* Processor time of one choice: the mean of as many as take some milliseconds. */
static int time_once(eng_sampler *sampler, const way *how, const float *logits, uint32_t vocab,
                     double *seconds, err *e) {
    const eng_sampling sampling = {.temperature = how->temperature,
                                   .top_p = how->top_p,
                                   .min_p = how->min_p,
                                   .top_k = how->top_k,
                                   .repetition_penalty = 1};
    uint32_t n = IDS_A_ROUND / vocab + 1;
    uint64_t start = clock_thread_ns();
    for (uint32_t i = 0; i < n; i++) {
        eng_choice choice;
        if (eng_sample(sampler, &sampling, &(eng_history){0}, NULL, logits, i, 0, &choice, e) != 0)
            return -1;
    }
    *seconds = (double)(clock_thread_ns() - start) * 1e-9 / n;
    return 0;
}

/* The ways take turns, so another busy process slows all of them. */
static int bench_vocab(uint32_t vocab, eng_kernel_sink sink, void *ud, err *e) {
    double times[MOST_WAYS][ROUNDS];
    eng_sampler *sampler = NULL;
    float *logits = array_new_aligned(vocab, sizeof *logits);
    int rc = logits ? eng_sampler_create(&sampler, vocab, e)
                    : err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the benchmark");
    if (rc == 0) fill(logits, vocab);
    for (int round = 0; rc == 0 && round < ROUNDS; round++) {
        for (int k = 0; rc == 0 && k < MOST_WAYS; k++)
            rc = time_once(sampler, &ways[k], logits, vocab, &times[k][round], e);
    }
    for (int k = 0; rc == 0 && k < MOST_WAYS; k++) {
        qsort(times[k], ROUNDS, sizeof times[k][0], by_value);
        eng_kernel_time time = {.what = ways[k].what,
                                .dtype = "FP32",
                                .threads = 1,
                                .rows = 1,
                                .context = vocab,
                                .seconds = times[k][ROUNDS / 2],
                                .gbytes = (double)vocab * sizeof *logits * 1e-9};
        sink(ud, &time);
    }
    eng_sampler_destroy(sampler);
    free(logits);
    return rc;
}

int eng_sampler_bench(eng_kernel_sink sink, void *ud, err *e) {
    static const uint32_t vocabs[] = {2048, 49152, 151936, 200064};
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < ARRAY_LEN(vocabs); i++)
        rc = bench_vocab(vocabs[i], sink, ud, e);
    return rc;
}
