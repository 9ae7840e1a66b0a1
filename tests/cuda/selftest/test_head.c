/* test_head.c - outputs of the coda through the whole backend: rows asking for logits, for a token,
 * for both and for neither, in one launch. */
#include "tests/cuda/selftest/cases.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static eng_sampling samplings[DRIVE_SEQS][DRIVE_LEN];
static eng_draw draws[DRIVE_SEQS][DRIVE_LEN];

static void fill_draws(bool greedy) {
    static const float temperatures[] = {0, 0.6f, 1, 1.8f};
    for (uint32_t seq = 0; seq < DRIVE_SEQS; seq++) {
        for (uint32_t i = 0; i < DRIVE_LEN; i++) {
            eng_sampling *sampling = &samplings[seq][i];
            *sampling = (eng_sampling){.top_p = 1, .repetition_penalty = 1, .seed = 1000 + seq};
            draws[seq][i] = (eng_draw){sampling, i, (seq + i) % (ENG_MAX_TOP + 1)};
            if (greedy) continue;
            sampling->temperature = temperatures[(seq + i) % 4];
            if (i % 3 == 0) sampling->top_k = 1 + i;
            if (i % 4 == 0) sampling->top_p = 0.9f;
            if (i % 5 == 0) sampling->min_p = 0.02f;
        }
    }
}

static bool near(float got, float want) {
    return got == want || fabs((double)got - (double)want) <= 1e-5 + 1e-6 * fabs((double)want);
}

static bool same_answer(const eng_choice *got, const eng_choice *want) {
    bool same =
        got->token == want->token && near(got->logprob, want->logprob) && got->n_top == want->n_top;
    for (uint32_t i = 0; same && i < want->n_top; i++)
        same = got->top[i].id == want->top[i].id && near(got->top[i].logprob, want->top[i].logprob);
    return same;
}

/* `all` gave every row's logits, `some` only the requested outputs: the same logits to the bit, and
 * the token sampled from them by the host. */
static void compare_answers(const char *name, const drive_spec *spec, uint32_t vocab,
                            const drive_result *all, const drive_result *some) {
    static const eng_history none;
    uint32_t rows[4] = {0}, logits = 0, choices = 0, n_choices = 0;
    err e = {0};
    eng_sampler *sampler;
    if (!check(eng_sampler_create(&sampler, vocab, &e) == 0, "%s", e.msg)) return;
    for (uint32_t seq = 0; seq < spec->n_seqs; seq++) {
        for (uint32_t i = 0; i < spec->len[seq]; i++) {
            uint16_t flags = drive_head_flags(seq, i);
            const float *x = all->logits[seq] + (size_t)i * vocab;
            bool sample = flags & ENG_ROW_SAMPLE, give = flags & ENG_ROW_LOGITS;
            rows[sample + 2 * give]++;
            logits += give && memcmp(x, some->logits[seq] + (size_t)i * vocab, vocab * 4) != 0;
            if (!sample) continue;
            eng_choice want;
            const eng_draw *draw = &draws[seq][i];
            n_choices++;
            choices += eng_sample(sampler, draw->sampling, &none, NULL, x, draw->index, draw->n_top,
                                  &want, &e) != 0 ||
                       !same_answer(&some->choices[seq][i], &want);
        }
    }
    check(logits == 0, "%s: logits of %u rows differ when others sample", name, logits);
    check(choices == 0, "%s: %u of %u tokens are not the host's", name, choices, n_choices);
    check(rows[0] && rows[1] && rows[2] && rows[3], "%s: not every kind of row", name);
    eng_sampler_destroy(sampler);
}

/* The greedy tokens of sampling rows are the greedy tokens of the published logits. */
static void compare_with_golden(const golden_case *golden, const drive_spec *spec,
                                const drive_result *result) {
    uint32_t wrong = 0, n = 0;
    for (uint32_t seq = 0; seq < spec->n_seqs; seq++) {
        for (uint32_t i = 0; i < spec->len[seq]; i++) {
            const float *x =
                golden->logits[spec->policy] + ((size_t)seq * GOLDEN_LEN + i) * golden->vocab;
            uint32_t best = 0;
            if (!(drive_head_flags(seq, i) & ENG_ROW_SAMPLE)) continue;
            for (uint32_t k = 1; k < golden->vocab; k++)
                best = x[k] > x[best] ? k : best;
            n++;
            wrong += result->choices[seq][i].token != best;
        }
    }
    check(n > 50 && wrong == 0, "%s: %u of %u greedy tokens differ", golden->dir, wrong, n);
}

typedef struct {
    const char *kernels;
    model_dtype cache;
    uint32_t max_rows, flights;
    bool greedy, poison;
    uint64_t seed;
} head_run;

static void answers(const char *name, kv_policy policy, head_run run) {
    golden_case golden = golden_open(name);
    err e = {0};
    model_folder *model;
    if (!check(model_open(&model, golden.dir, &e) == 0, "%s: %s", golden.dir, e.msg)) return;
    drive_spec plain = golden_spec(&golden, model_plan_of(model), policy, run.max_rows, run.seed);
    plain.flights = run.flights;
    drive_spec spec = plain;
    spec.poison = run.poison;
    fill_draws(run.greedy);
    for (uint32_t seq = 0; seq < spec.n_seqs; seq++)
        spec.draws[seq] = draws[seq];
    eng_backend_opts opts = drive_opts(&spec, run.kernels, run.cache);
    eng_backend *eng = open_backend(model, &opts), *again = open_backend(model, &opts);
    drive_result all = {0}, some = {0};
    if (eng && check(eng->info.samples, "the backend does not sample") &&
        drive(eng, &plain, &all) && again && drive(again, &spec, &some)) {
        compare_answers(name, &spec, golden.vocab, &all, &some);
        if (run.greedy) compare_with_golden(&golden, &spec, &some);
    }
    drive_result_deinit(&all);
    drive_result_deinit(&some);
    eng_backend_close(eng);
    eng_backend_close(again);
    model_close(model);
    golden_close(&golden);
}

/* Draws not possible on a device, and missing draws, refuse their launch; so do more rows than the
 * head has room for. */
static void refusals(void) {
    static const eng_bias bias = {3, 1};
    static const eng_sampling plain = {.temperature = 1, .top_p = 1, .repetition_penalty = 1};
    const struct {
        const char *what;
        float temperature, top_p, min_p, repetition, presence, frequency;
        uint32_t n_bias, n_top;
        bool taken;
    } rows[] = {
        {"a plain draw", 1, 0.5f, 0.1f, 1, 0, 0, 0, ENG_MAX_TOP, true},
        {"a repetition penalty", 1, 1, 0, 1.1f, 0, 0, 0, 0, false},
        {"a presence penalty", 1, 1, 0, 1, 0.5f, 0, 0, 0, false},
        {"a frequency penalty", 1, 1, 0, 1, 0, 0.5f, 0, 0, false},
        {"a bias", 1, 1, 0, 1, 0, 0, 1, 0, false},
        {"more alternatives than there may be", 1, 1, 0, 1, 0, 0, 0, ENG_MAX_TOP + 1, false},
        {"a temperature below 0", -1, 1, 0, 1, 0, 0, 0, 0, false},
        {"no temperature", NAN, 1, 0, 1, 0, 0, 0, 0, false},
        {"top-p above 1", 1, 1.5f, 0, 1, 0, 0, 0, 0, false},
        {"min-p that is no number", 1, 1, NAN, 1, 0, 0, 0, 0, false},
    };
    static const uint32_t table[1] = {0};
    const eng_backend_opts small = {.max_loops = 2,
                                    .n_rows = 8,
                                    .max_launch = 4,
                                    .max_logits = 2,
                                    .cache_bytes = 1 << 20,
                                    .max_positions = 64};
    err e = {0};
    model_folder *model;
    if (!check(model_open(&model, "tests/golden/cases/mla", &e) == 0, "%s", e.msg)) return;
    eng_backend *eng = open_backend(model, &small);
    eng_row row[3];
    eng_edit edits[3];
    eng_result result;
    for (uint32_t i = 0; i < 3; i++) {
        row[i] = (eng_row){.row = i, .pos = i, .token = i, .blocks = table};
        edits[i] = (eng_edit){.slot = i, .n_planes = 4, .off = (uint8_t)i};
    }
    eng_launch begin = {ENG_STAGE_PRELUDE, row, 3, edits, 3},
               end = {ENG_STAGE_CODA, row, 1, NULL, 0};
    bool ok = eng && check(eng_run(eng, &begin, &result, &e) == 0, "%s", e.msg);
    for (size_t i = 0; ok && i < ARRAY_LEN(rows); i++) {
        eng_sampling sampling = {.temperature = rows[i].temperature,
                                 .top_p = rows[i].top_p,
                                 .min_p = rows[i].min_p,
                                 .repetition_penalty = rows[i].repetition,
                                 .presence_penalty = rows[i].presence,
                                 .frequency_penalty = rows[i].frequency,
                                 .bias = &bias,
                                 .n_bias = rows[i].n_bias};
        eng_draw draw = {&sampling, 0, rows[i].n_top};
        err why = {0};
        row[0].flags = ENG_ROW_SAMPLE;
        row[0].draw = &draw;
        int rc = eng_run(eng, &end, &result, &why);
        check(rows[i].taken ? rc == 0 && result.n_choices == 1
                            : rc != 0 && why.code == ERR_INTERNAL,
              "%s: %s", rows[i].what, why.msg);
    }
    const eng_draw none = {0}, good = {&plain, 0, 0}, *draws_of[] = {NULL, &none, &good, &good};
    for (uint32_t i = 0; ok && i < ARRAY_LEN(draws_of); i++) {
        err why = {0};
        for (uint32_t k = 0; k < 3; k++) {
            row[k].flags = k < 2 ? ENG_ROW_SAMPLE : ENG_ROW_LOGITS;
            row[k].draw = draws_of[i];
        }
        end.n_rows = i == 3 ? 2 : 3; /* two rows fit, three do not */
        check((eng_run(eng, &end, &result, &why) == 0) == (i == 3), "draws %u: %s", i, why.msg);
    }
    eng_backend_close(eng);
    model_close(model);
}

void test_head(void) {
    refusals();
    for (int i = 0; i < GOLDEN_CASES; i++) {
        head_run greedy = {"f32", DTYPE_F32, 96, 1, true, false, 0};
        answers(golden_names[i], i & 1 ? KV_EXACT : KV_LAST, greedy);
    }
    answers("mla", KV_EXACT, (head_run){"f32", DTYPE_F32, 13, 2, false, true, 3});
    answers("gqa", KV_LAST, (head_run){"f32-stream", DTYPE_F32, 30, 2, false, false, 4});
    answers("mla", KV_LAST, (head_run){"bf16", DTYPE_BF16, 40, 1, false, true, 5});
}
