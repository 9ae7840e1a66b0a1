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
    for (uint32_t s = 0; s < DRIVE_SEQS; s++) {
        for (uint32_t i = 0; i < DRIVE_LEN; i++) {
            eng_sampling *p = &samplings[s][i];
            *p = (eng_sampling){.top_p = 1, .repetition_penalty = 1, .seed = 1000 + s};
            draws[s][i] = (eng_draw){p, i, (s + i) % (ENG_MAX_TOP + 1)};
            if (greedy) continue;
            p->temperature = temperatures[(s + i) % 4];
            if (i % 3 == 0) p->top_k = 1 + i;
            if (i % 4 == 0) p->top_p = 0.9f;
            if (i % 5 == 0) p->min_p = 0.02f;
        }
    }
}

static bool near(float a, float b) {
    return a == b || fabs((double)a - (double)b) <= 1e-5 + 1e-6 * fabs((double)b);
}

static bool same_answer(const eng_choice *a, const eng_choice *b) {
    bool same = a->token == b->token && near(a->logprob, b->logprob) && a->n_top == b->n_top;
    for (uint32_t i = 0; same && i < b->n_top; i++)
        same = a->top[i].id == b->top[i].id && near(a->top[i].logprob, b->top[i].logprob);
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
    for (uint32_t s = 0; s < spec->n_seqs; s++) {
        for (uint32_t i = 0; i < spec->len[s]; i++) {
            uint16_t flags = drive_head_flags(s, i);
            const float *x = all->logits[s] + (size_t)i * vocab;
            bool sample = flags & ENG_ROW_SAMPLE, give = flags & ENG_ROW_LOGITS;
            rows[sample + 2 * give]++;
            logits += give && memcmp(x, some->logits[s] + (size_t)i * vocab, vocab * 4) != 0;
            if (!sample) continue;
            eng_choice want;
            const eng_draw *d = &draws[s][i];
            n_choices++;
            choices += eng_sample(sampler, d->sampling, &none, NULL, x, d->index, d->n_top, &want,
                                  &e) != 0 ||
                       !same_answer(&some->choices[s][i], &want);
        }
    }
    check(logits == 0, "%s: logits of %u rows differ when others sample", name, logits);
    check(choices == 0, "%s: %u of %u tokens are not the host's", name, choices, n_choices);
    check(rows[0] && rows[1] && rows[2] && rows[3], "%s: not every kind of row", name);
    eng_sampler_destroy(sampler);
}

/* The greedy tokens of sampling rows are the greedy tokens of the published logits. */
static void compare_with_golden(const golden_case *g, const drive_spec *spec,
                                const drive_result *r) {
    uint32_t wrong = 0, n = 0;
    for (uint32_t s = 0; s < spec->n_seqs; s++) {
        for (uint32_t i = 0; i < spec->len[s]; i++) {
            const float *x = g->logits[spec->policy] + ((size_t)s * GOLDEN_LEN + i) * g->vocab;
            uint32_t best = 0;
            if (!(drive_head_flags(s, i) & ENG_ROW_SAMPLE)) continue;
            for (uint32_t k = 1; k < g->vocab; k++)
                best = x[k] > x[best] ? k : best;
            n++;
            wrong += r->choices[s][i].token != best;
        }
    }
    check(n > 50 && wrong == 0, "%s: %u of %u greedy tokens differ", g->dir, wrong, n);
}

typedef struct {
    const char *kernels;
    model_dtype cache;
    uint32_t max_rows, flights;
    bool greedy, poison;
    uint64_t seed;
} how;

static void answers(const char *name, kv_policy policy, how h) {
    golden_case g = golden_open(name);
    err e = {0};
    model_folder *m;
    if (!check(model_open(&m, g.dir, &e) == 0, "%s: %s", g.dir, e.msg)) return;
    drive_spec plain = golden_spec(&g, model_plan_of(m), policy, h.max_rows, h.seed);
    plain.flights = h.flights;
    drive_spec spec = plain;
    spec.poison = h.poison;
    fill_draws(h.greedy);
    for (uint32_t s = 0; s < spec.n_seqs; s++)
        spec.draws[s] = draws[s];
    eng_backend_opts o = drive_opts(&spec, h.kernels, h.cache);
    eng_backend *b = open_backend(m, &o), *again = open_backend(m, &o);
    drive_result all = {0}, some = {0};
    if (b && check(b->info.samples, "the backend does not sample") && drive(b, &plain, &all) &&
        again && drive(again, &spec, &some)) {
        compare_answers(name, &spec, g.vocab, &all, &some);
        if (h.greedy) compare_with_golden(&g, &spec, &some);
    }
    drive_result_deinit(&all);
    drive_result_deinit(&some);
    eng_backend_close(b);
    eng_backend_close(again);
    model_close(m);
    golden_close(&g);
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
    model_folder *m;
    if (!check(model_open(&m, "tests/golden/cases/mla", &e) == 0, "%s", e.msg)) return;
    eng_backend *b = open_backend(m, &small);
    eng_row row[3];
    eng_edit edits[3];
    eng_result r;
    for (uint32_t i = 0; i < 3; i++) {
        row[i] = (eng_row){.row = i, .pos = i, .token = i, .blocks = table};
        edits[i] = (eng_edit){.slot = i, .n_planes = 4, .off = (uint8_t)i};
    }
    eng_launch begin = {ENG_STAGE_PRELUDE, row, 3, edits, 3},
               end = {ENG_STAGE_CODA, row, 1, NULL, 0};
    bool ok = b && check(eng_run(b, &begin, &r, &e) == 0, "%s", e.msg);
    for (size_t i = 0; ok && i < ARRAY_LEN(rows); i++) {
        eng_sampling p = {.temperature = rows[i].temperature,
                          .top_p = rows[i].top_p,
                          .min_p = rows[i].min_p,
                          .repetition_penalty = rows[i].repetition,
                          .presence_penalty = rows[i].presence,
                          .frequency_penalty = rows[i].frequency,
                          .bias = &bias,
                          .n_bias = rows[i].n_bias};
        eng_draw d = {&p, 0, rows[i].n_top};
        err why = {0};
        row[0].flags = ENG_ROW_SAMPLE;
        row[0].draw = &d;
        int rc = eng_run(b, &end, &r, &why);
        check(rows[i].taken ? rc == 0 && r.n_choices == 1 : rc != 0 && why.code == ERR_INTERNAL,
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
        check((eng_run(b, &end, &r, &why) == 0) == (i == 3), "draws %u: %s", i, why.msg);
    }
    eng_backend_close(b);
    model_close(m);
}

void test_head(void) {
    refusals();
    for (int i = 0; i < GOLDEN_CASES; i++) {
        how greedy = {"f32", DTYPE_F32, 96, 1, true, false, 0};
        answers(golden_names[i], i & 1 ? KV_EXACT : KV_LAST, greedy);
    }
    answers("mla", KV_EXACT, (how){"f32", DTYPE_F32, 13, 2, false, true, 3});
    answers("gqa", KV_LAST, (how){"f32-stream", DTYPE_F32, 30, 2, false, false, 4});
    answers("mla", KV_LAST, (how){"bf16", DTYPE_BF16, 40, 1, false, true, 5});
}
