/* families.c - reads expected.json of a golden folder, and compares runs with it. */
#include "tests/cuda/selftest/families.h"
#include "base/json.h"
#include "base/size.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

static bool read_logits(family_case *c, const json_t *rows) {
    c->vocab = (uint32_t)json_array_size(json_array_get(rows, 0));
    c->logits = array_new((size_t)c->n * c->vocab, sizeof *c->logits);
    if (c->logits == NULL || json_array_size(rows) != c->n) return false;
    for (uint32_t i = 0; i < c->n; i++) {
        const json_t *row = json_array_get(rows, i);
        if (json_array_size(row) != c->vocab) return false;
        for (uint32_t k = 0; k < c->vocab; k++)
            c->logits[(size_t)i * c->vocab + k] = (float)json_number_value(json_array_get(row, k));
    }
    return true;
}

/* *skip: a case outside the scope of a serving engine. */
static bool read_case(family_case *c, const json_t *from, uint32_t loops, bool *skip) {
    const json_t *ids = json_object_get(from, "ids"), *depths = json_object_get(from, "depths");
    const json_t *threshold = json_object_get(from, "exit_threshold"),
                 *at = json_object_get(from, "exit_at_step");
    *c = (family_case){.n = (uint32_t)json_array_size(ids), .loops = loops, .threshold = 1};
    *skip = threshold == NULL && at == NULL;
    if (*skip) return true;
    if (c->n > FAMILY_LEN || c->n > DRIVE_LEN) return false;
    if (threshold) c->threshold = (float)json_number_value(threshold);
    c->fixed = threshold == NULL;
    if (c->fixed) c->loops = (uint32_t)json_integer_value(at) + 1;
    for (uint32_t i = 0; i < c->n; i++) {
        c->ids[i] = (uint32_t)json_integer_value(json_array_get(ids, i));
        c->depth[i] = c->fixed ? c->loops : (uint32_t)json_integer_value(json_array_get(depths, i));
    }
    return read_logits(c, json_object_get(from, "logits"));
}

static bool read_cases(family_golden *f, const json_t *root) {
    const json_t *cases = json_object_get(root, "cases"), *one;
    size_t i;
    bool skip;
    json_array_foreach(cases, i, one) {
        if (f->n_cases == FAMILY_CASES) return false;
        family_case *c = &f->cases[f->n_cases];
        if (!read_case(c, one, model_plan_of(f->model)->loops_default, &skip)) {
            free(c->logits);
            return false;
        }
        f->n_cases += !skip;
    }
    return f->n_cases > 0;
}

bool family_open(family_golden *f, const char *name) {
    char dir[96], path[128];
    err e = {0};
    json_error_t why;
    *f = (family_golden){.name = name};
    (void)snprintf(dir, sizeof dir, "tests/golden/families/%s", name);
    (void)snprintf(path, sizeof path, "%s/expected.json", dir);
    if (!check(model_open(&f->model, dir, &e) == 0, "%s: %s", dir, e.msg)) return false;
    json_t *root = json_load_file(path, 0, &why);
    bool ok = check(root != NULL, "%s: %s", path, why.text);
    ok = ok && check(read_cases(f, root), "%s: not the cases this test reads", path);
    json_decref(root);
    if (!ok) family_close(f);
    return ok;
}

void family_close(family_golden *f) {
    for (uint32_t i = 0; i < f->n_cases; i++)
        free(f->cases[i].logits);
    model_close(f->model);
    *f = (family_golden){0};
}

const family_case *family_fixed(const family_golden *f, uint32_t loops) {
    for (uint32_t i = 0; i < f->n_cases; i++) {
        if (f->cases[i].fixed && f->cases[i].loops == loops) return &f->cases[i];
    }
    return NULL;
}

drive_spec family_spec(const family_case *c, uint32_t max_rows, uint64_t seed, bool company) {
    static uint32_t others[2][DRIVE_LEN];
    drive_spec spec = {.n_seqs = company ? 4 : 1,
                       .n_loops = c->loops,
                       .max_rows = max_rows,
                       .len = {c->n, c->n / 3 + 1, 37, 9},
                       .ids = {c->ids, c->ids, others[0], others[1]},
                       .policy = KV_EXACT,
                       .threshold = c->threshold,
                       .seed = seed};
    rng r = {seed + 5};
    for (uint32_t k = 0; k < 2; k++) {
        for (uint32_t i = 0; i < DRIVE_LEN; i++)
            others[k][i] = rng_below(&r, c->vocab);
    }
    return spec;
}

family_error family_compare(const family_case *c, const drive_spec *spec, const drive_result *r) {
    family_error far = {0};
    for (uint32_t s = 0; s < 2 && s < spec->n_seqs; s++) {
        for (uint32_t i = 0; i < spec->len[s]; i++) {
            size_t at = (size_t)i * c->vocab;
            double off = worst(r->logits[s] + at, c->logits + at, c->vocab);
            bool other = r->depth[s][i] != c->depth[i];
            far.depths += other;
            if (!other && !(off <= far.worst)) far.worst = off;
        }
    }
    return far;
}

bool family_random(model_folder **m, const tmp_dir *dir, const model_plan *p, float mean_depth) {
    err e = {0};
    model_init_opts o = {.seed = 9, .dtype = DTYPE_F32, .mean_depth = mean_depth};
    return check(model_init_write(dir->path, p, &o, &e) == 0, "init: %s", e.msg) &&
           check(model_open(m, dir->path, &e) == 0, "open: %s", e.msg);
}
