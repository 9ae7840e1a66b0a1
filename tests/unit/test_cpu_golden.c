/* The CPU backend alone against the golden cases, through a driver with no scheduler:
 * prompt positions move together, every position at its own depth. */
#include "engine/cpu/cpu_internal.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

TestSuite(cpu_golden, .fini = fail_on_leaks);

enum { N_SEQ = 2, MAX_POS = 96, MAX_T = 16 };

static const char *const cases[] = {"mla",         "mla_deep", "mla_no_prelude",
                                    "mla_shallow", "gqa",      "gqa_theta"};

/* ---- expected.safetensors ---- */

typedef struct {
    file_map map;
    json_t *header;
    size_t data_at;
    uint32_t n_loops;
} expected;

static void expected_open(expected *x, const char *name) {
    char path[256];
    uint64_t n;
    err e = {0};
    snprintf(path, sizeof path, "tests/golden/cases/%s/expected.safetensors", name);
    cr_assert_eq(file_map_open(&x->map, path, &e), 0, "%s", e.msg);
    memcpy(&n, x->map.data, 8);
    x->header = json_loadb((const char *)x->map.data + 8, n, 0, NULL);
    cr_assert_not_null(x->header);
    x->data_at = 8 + n;
    const json_t *meta = json_object_get(x->header, "__metadata__");
    x->n_loops = (uint32_t)strtoul(json_string_value(json_object_get(meta, "n_loops")), NULL, 10);
}

static const void *expected_get(const expected *x, const char *prefix, const char *name) {
    char key[64];
    snprintf(key, sizeof key, "%s%s", prefix, name);
    const json_t *t = json_object_get(x->header, key);
    cr_assert_not_null(t, "%s", key);
    size_t from = (size_t)json_integer_value(json_array_get(json_object_get(t, "data_offsets"), 0));
    return x->map.data + x->data_at + from;
}

static void expected_close(expected *x) {
    json_decref(x->header);
    file_map_close(&x->map);
}

/* ---- a backend and a plain driver ---- */

typedef struct {
    eng_backend *b;
    eng_model *m;
    const eng_config *c;
    uint32_t n_loops;
    eng_policy policy;
    uint32_t next_slot, next_block;
    uint32_t n_seq, n_pos; /* sequences run together, positions each */
    struct seq {
        uint32_t row0, blocks[MAX_POS / ENG_BLOCK + 1];
        uint32_t ids[MAX_POS];
        uint32_t depth[MAX_POS];
        uint32_t last_slot[MAX_POS];
        float *logits; /* [n_pos][vocab] */
    } seq[N_SEQ];
    eng_row rows[N_SEQ * MAX_POS];
    eng_edit edits[N_SEQ * MAX_POS * 4];
    uint32_t n_rows, n_edits;
} driver;

static void driver_open(driver *d, const char *name, uint32_t n_loops, eng_policy policy,
                        const eng_backend_opts *opts) {
    char dir[256];
    err e = {0};
    snprintf(dir, sizeof dir, "tests/golden/cases/%s", name);
    memset(d, 0, sizeof *d);
    cr_assert_eq(eng_model_open(&d->m, dir, &e), 0, "%s", e.msg);
    d->c = eng_model_config(d->m);
    d->n_loops = n_loops;
    d->policy = policy;
    eng_backend_opts o = {.threads = 1, .n_rows = N_SEQ * MAX_POS, .cache_bytes = 8 << 20};
    if (opts) {
        o.threads = opts->threads;
        o.kernels = opts->kernels;
        o.cache_dtype = opts->cache_dtype;
    }
    o.max_loops = n_loops;
    cr_assert_eq(eng_cpu_open(&d->b, d->m, &o, &e), 0, "%s", e.msg);
}

static void driver_close(driver *d) {
    for (uint32_t s = 0; s < N_SEQ; s++)
        free(d->seq[s].logits);
    eng_backend_close(d->b);
    eng_model_close(d->m);
}

static void driver_start(driver *d, uint32_t n_seq, uint32_t n_pos) {
    d->n_seq = n_seq;
    d->n_pos = n_pos;
    d->next_slot = d->next_block = 0;
    for (uint32_t s = 0; s < n_seq; s++) {
        struct seq *q = &d->seq[s];
        q->row0 = s * MAX_POS;
        for (uint32_t i = 0; i <= n_pos / ENG_BLOCK; i++)
            q->blocks[i] = d->next_block++;
        memset(q->depth, 0, sizeof q->depth);
        free(q->logits);
        q->logits = calloc((size_t)n_pos * d->c->vocab_size, sizeof(float));
    }
}

static void map_slot(driver *d, uint32_t s, uint32_t pos, uint32_t plane, uint32_t n_planes,
                     uint32_t slot) {
    d->edits[d->n_edits++] = (eng_edit){.block = d->seq[s].blocks[pos / ENG_BLOCK],
                                        .slot = slot,
                                        .plane = (uint16_t)plane,
                                        .n_planes = (uint16_t)n_planes,
                                        .off = (uint8_t)(pos % ENG_BLOCK)};
}

static eng_row *add_row(driver *d, uint32_t s, uint32_t pos) {
    struct seq *q = &d->seq[s];
    eng_row *r = &d->rows[d->n_rows++];
    *r = (eng_row){.row = q->row0 + pos, .pos = pos, .token = q->ids[pos], .blocks = q->blocks};
    return r;
}

static void launch(driver *d, eng_stage stage, eng_result *r) {
    err e = {0};
    eng_launch l = {stage, d->rows, d->n_rows, d->edits, d->n_edits};
    cr_assert_eq(eng_run(d->b, &l, r, &e), 0, "%s", e.msg);
    d->n_rows = d->n_edits = 0;
}

static void run_prelude(driver *d, uint32_t first, uint32_t end) {
    eng_result r;
    for (uint32_t s = 0; s < d->n_seq; s++) {
        for (uint32_t p = first; p < end; p++) {
            add_row(d, s, p);
            for (uint32_t i = 0; i < d->c->prelude_layers; i++) {
                map_slot(d, s, p, eng_plane_prelude(d->c, i), 1, d->next_slot++);
            }
        }
    }
    launch(d, ENG_STAGE_PRELUDE, &r);
}

/* One loop of all positions [first, end) that still run or follow as tails. */
static void run_loop(driver *d, uint32_t t, uint32_t first, uint32_t end) {
    eng_result r;
    uint32_t seq_of[N_SEQ * MAX_POS], pos_of[N_SEQ * MAX_POS], n = 0;
    for (uint32_t s = 0; s < d->n_seq; s++) {
        struct seq *q = &d->seq[s];
        for (uint32_t p = first; p < end; p++) {
            bool gone = q->depth[p] != 0, tail = gone && d->policy == ENG_EXACT;
            if (gone && !tail) {
                map_slot(d, s, p, eng_plane_loop(d->c, t), 1, q->last_slot[p]);
                continue;
            }
            q->last_slot[p] = d->next_slot++;
            map_slot(d, s, p, eng_plane_loop(d->c, t), 1, q->last_slot[p]);
            eng_row *row = add_row(d, s, p);
            row->loop = (uint16_t)t;
            row->max_loops = (uint16_t)d->n_loops;
            row->threshold = d->c->act_threshold;
            if (tail)
                row->flags = t + 1 == d->n_loops ? ENG_ROW_TAIL | ENG_ROW_KV_ONLY : ENG_ROW_TAIL;
            seq_of[n] = s;
            pos_of[n++] = p;
        }
    }
    launch(d, ENG_STAGE_RECURRENT, &r);
    for (uint32_t i = 0; i < n; i++) {
        if (r.halted[i]) d->seq[seq_of[i]].depth[pos_of[i]] = t + 1;
    }
}

static void run_coda(driver *d, uint32_t first, uint32_t end) {
    eng_result r;
    for (uint32_t s = 0; s < d->n_seq; s++) {
        for (uint32_t p = first; p < end; p++) {
            add_row(d, s, p)->flags = ENG_ROW_LOGITS;
            for (uint32_t i = 0; i < d->c->coda_layers; i++) {
                map_slot(d, s, p, eng_plane_coda(d->c, i), 1, d->next_slot++);
            }
        }
    }
    launch(d, ENG_STAGE_CODA, &r);
    cr_assert_eq(r.n_logits, d->n_seq * (end - first));
    for (uint32_t s = 0; s < d->n_seq; s++) {
        size_t n = (size_t)(end - first) * d->c->vocab_size;
        memcpy(d->seq[s].logits + (size_t)first * d->c->vocab_size, r.logits + s * n,
               n * sizeof(float));
    }
}

static void run_chunk(driver *d, uint32_t first, uint32_t end) {
    run_prelude(d, first, end);
    for (uint32_t t = 0; t < d->n_loops; t++)
        run_loop(d, t, first, end);
    run_coda(d, first, end);
}

static void run_all(driver *d, uint32_t chunk) {
    for (uint32_t p = 0; p < d->n_pos; p += chunk) {
        run_chunk(d, p, p + chunk < d->n_pos ? p + chunk : d->n_pos);
    }
}

/* ---- the tests ---- */

static float worst_error(const float *got, const float *want, size_t n) {
    float top = 0, worst = 0;
    for (size_t i = 0; i < n; i++)
        top = fmaxf(top, fabsf(want[i]));
    for (size_t i = 0; i < n; i++) {
        float d = fabsf(got[i] - want[i]);
        if (!(d <= worst)) worst = d; /* NaN counts */
    }
    return worst / top;
}

static void check_case(const char *name, eng_policy policy, uint32_t chunk,
                       const eng_backend_opts *opts, float limit) {
    static driver d;
    expected x;
    const char *prefix = policy == ENG_EXACT ? "exact." : "last.";
    expected_open(&x, name);
    driver_open(&d, name, x.n_loops, policy, opts);
    driver_start(&d, 2, 48);
    const int32_t *ids = expected_get(&x, "", "ids"), *depth = expected_get(&x, prefix, "depth");
    const float *logits = expected_get(&x, prefix, "logits");
    for (uint32_t s = 0; s < 2; s++) {
        for (uint32_t p = 0; p < 48; p++)
            d.seq[s].ids[p] = (uint32_t)ids[s * 48 + p];
    }
    run_all(&d, chunk);
    for (uint32_t s = 0; s < 2; s++) {
        size_t n = (size_t)48 * d.c->vocab_size;
        for (uint32_t p = 0; p < 48; p++) {
            cr_assert_eq(d.seq[s].depth[p], (uint32_t)depth[s * 48 + p],
                         "%s%s chunk %u: depth at %u,%u is %u, not %d", prefix, name, chunk, s, p,
                         d.seq[s].depth[p], depth[s * 48 + p]);
        }
        float worst = worst_error(d.seq[s].logits, logits + s * n, n);
        cr_assert(worst <= limit, "%s%s chunk %u %s: logit error %g of the largest logit", prefix,
                  name, chunk, d.b->info.kernels, (double)worst);
    }
    driver_close(&d);
    expected_close(&x);
}

Test(cpu_golden, every_case_and_policy_equals_the_published_model) {
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        check_case(cases[i], ENG_EXACT, 48, NULL, 2e-5f);
        check_case(cases[i], ENG_LAST, 48, NULL, 2e-5f);
    }
}

Test(cpu_golden, any_chunking_gives_the_same_answers) {
    static const uint32_t chunks[] = {1, 7, 33};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        for (size_t k = 0; k < ARRAY_LEN(chunks); k++) {
            check_case(cases[i], k & 1 ? ENG_EXACT : ENG_LAST, chunks[k], NULL, 2e-5f);
        }
    }
}

Test(cpu_golden, every_kernel_path_holds_every_case) {
    static const char *const paths[] = {"avx512", "avx2", "portable"};
    for (size_t k = 0; k < ARRAY_LEN(paths); k++) {
        const eng__kernels *found;
        if (eng__kernels_choose(&found, paths[k], NULL) != 0) continue;
        eng_backend_opts o = {.threads = 2, .kernels = paths[k]};
        for (size_t i = 0; i < ARRAY_LEN(cases); i++)
            check_case(cases[i], ENG_EXACT, 16, &o, 2e-5f);
    }
}

Test(cpu_golden, a_bfloat16_cache_stays_close) {
    eng_backend_opts o = {.threads = 1, .cache_dtype = ENG_BF16};
    check_case("mla", ENG_EXACT, 48, &o, 0.05f);
    check_case("gqa", ENG_LAST, 48, &o, 0.05f);
}
