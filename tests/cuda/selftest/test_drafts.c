/* test_drafts.c - rows of the coda that still loop: the drafts are the CPU engine's, and the
 * answers of all positions are as without them, whatever loops stand side by side and is in flight.
 */
#include "tests/cuda/selftest/cases.h"
#include "tests/lib/draft_run.h"

#include <string.h>

/* lag 0: every position waits for the one before. */
static const draft_way ways[] = {
    {.lag = 0, .every = true},
    {.lag = 1, .wrong = true, .ahead = true},
    {.lag = 2, .every = true, .ahead = true},
};

static bool run(eng_backend *eng, const draft_way *way, draft_result *out, const char *what) {
    err e = {0};
    return check(draft_run(eng, way, out, &e) == 0, "%s, %u loops behind: %s", what, way->lag,
                 e.msg);
}

/* The largest error of all drafts that both have; *n: how many. */
static double drafts_apart(const draft_result *one, const draft_result *two, uint32_t *n) {
    double off = 0;
    *n = 0;
    for (uint32_t at = 0; at < DRAFT_ROWS * DRAFT_LOOPS; at++) {
        uint32_t seq = at % DRAFT_SEQS, pos = at / DRAFT_SEQS % DRAFT_POS, loop = at / DRAFT_ROWS;
        if (!one->has[seq][pos][loop] || !two->has[seq][pos][loop]) continue;
        const float *x = draft_after(one, seq, pos, loop), *y = draft_after(two, seq, pos, loop);
        double apart = worst(x, y, one->vocab);
        off = apart > off ? apart : off;
        ++*n;
    }
    return off;
}

static double last_apart(const draft_result *one, const draft_result *two) {
    double off = 0;
    for (uint32_t seq = 0; seq < DRAFT_SEQS; seq++) {
        double apart = worst(one->last[seq], two->last[seq], (size_t)one->len[seq] * one->vocab);
        off = apart > off ? apart : off;
    }
    return off;
}

/* float32 beside the CPU engine: every draft and every answer. */
static void as_the_cpu_drafts(const model_folder *model, kv_policy policy, const char *kernels,
                              const char *what) {
    err e = {0};
    eng_backend_opts opts = draft_opts(model_plan_of(model));
    eng_backend *cpu = NULL;
    check(eng_cpu_open(&cpu, model, &opts, &e) == 0, "cpu: %s", e.msg);
    opts.kernels = kernels;
    eng_backend *gpu = open_backend(model, &opts);
    for (size_t i = 1; cpu && gpu && i < ARRAY_LEN(ways); i++) {
        draft_way way = ways[i];
        draft_result want = {0}, got = {0};
        uint32_t n = 0;
        way.policy = policy;
        if (way.lag >= model_plan_of(model)->loops_default) continue;
        if (run(gpu, &way, &got, what) && run(cpu, &way, &want, what)) {
            double drafts = drafts_apart(&got, &want, &n), last = last_apart(&got, &want);
            check(n > 10 && memcmp(got.has, want.has, sizeof got.has) == 0,
                  "%s, %u loops behind: %u drafts", what, way.lag, n);
            check(drafts < 1e-3 && last < 1e-3, "%s %s: drafts are off by %g, answers by %g", what,
                  kernels, drafts, last);
        }
        draft_result_deinit(&want);
        draft_result_deinit(&got);
    }
    eng_backend_close(cpu);
    eng_backend_close(gpu);
}

/* bf16-invariant: the bits of positions that wait for each other, and a draft has those of a
 * position that leaves with it. In a weighted sum the last share is rounded apart. */
static void the_plain_bits(const model_folder *model, kv_policy policy, const char *kernels,
                           const char *what) {
    eng_backend_opts opts = draft_opts(model_plan_of(model));
    opts.cache_dtype = DTYPE_BF16;
    opts.kernels = kernels;
    eng_backend *eng = open_backend(model, &opts);
    draft_way probes = {.policy = policy, .probes = true};
    draft_result plain = {0};
    bool weighted = model_plan_of(model)->output == OUTPUT_WEIGHTED_SUM;
    if (eng && run(eng, &probes, &plain, what)) {
        for (size_t i = 0; i < ARRAY_LEN(ways); i++) {
            draft_way way = ways[i];
            draft_result got = {0};
            uint32_t n = 0;
            way.policy = policy;
            if (way.lag >= plain.loops) continue;
            if (run(eng, &way, &got, what)) {
                check(draft_same_last(&plain, &got), "%s %s, %u loops behind: other bits", what,
                      kernels, way.lag);
                double off = drafts_apart(&got, &plain, &n);
                check(n > 10 && (way.lag || off <= (weighted ? 0.05 : 0)),
                      "%s %s: %u drafts are off by %g", what, kernels, n, off);
            }
            draft_result_deinit(&got);
        }
    }
    draft_result_deinit(&plain);
    eng_backend_close(eng);
}

void test_drafts(void) {
    static const struct {
        const char *dir;
        kv_policy policy;
    } cases[] = {
        {"tests/golden/cases/mla", KV_EXACT},          {"tests/golden/cases/gqa", KV_LAST},
        {"tests/golden/families/ouro", KV_EXACT},      {"tests/golden/families/huginn", KV_LAST},
        {"tests/golden/families/parcae", KV_LAST},     {"tests/golden/cases/mla_deep", KV_LAST},
        {"tests/golden/families/retro_olmo", KV_EXACT}};
    for (size_t i = 0; i < ARRAY_LEN(cases) - (on_shim ? 2 : 0); i++) {
        err e = {0};
        model_folder *model;
        const char *dir = cases[i].dir;
        if (!check(model_open(&model, dir, &e) == 0, "%s: %s", dir, e.msg)) continue;
        as_the_cpu_drafts(model, cases[i].policy, i & 1 ? "f32" : "f32-stream", dir);
        the_plain_bits(model, cases[i].policy, i & 1 ? "bf16-invariant-stream" : "bf16-invariant",
                       dir);
        model_close(model);
    }
}
