/* families.c - reads expected.json of a golden folder, and compares runs with it. */
#include "tests/cuda/selftest/families.h"
#include "base/json.h"
#include "base/size.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

static bool read_logits(family_case *gold, const json_t *rows) {
    gold->vocab = (uint32_t)json_array_size(json_array_get(rows, 0));
    gold->logits = array_new((size_t)gold->len * gold->vocab, sizeof *gold->logits);
    if (gold->logits == NULL || json_array_size(rows) != gold->len) return false;
    for (uint32_t i = 0; i < gold->len; i++) {
        const json_t *row = json_array_get(rows, i);
        if (json_array_size(row) != gold->vocab) return false;
        for (uint32_t k = 0; k < gold->vocab; k++)
            gold->logits[(size_t)i * gold->vocab + k] =
                (float)json_number_value(json_array_get(row, k));
    }
    return true;
}

/* *skip: a case outside the scope of a serving engine. */
static bool read_case(family_case *gold, const json_t *from, uint32_t loops, bool *skip) {
    const json_t *ids = json_object_get(from, "ids"), *depths = json_object_get(from, "depths");
    const json_t *threshold = json_object_get(from, "exit_threshold"),
                 *at = json_object_get(from, "exit_at_step");
    *gold = (family_case){.len = (uint32_t)json_array_size(ids), .loops = loops, .threshold = 1};
    *skip = threshold == NULL && at == NULL;
    if (*skip) return true;
    if (gold->len > FAMILY_LEN || gold->len > DRIVE_LEN) return false;
    if (threshold) gold->threshold = (float)json_number_value(threshold);
    gold->fixed = threshold == NULL;
    if (gold->fixed) gold->loops = (uint32_t)json_integer_value(at) + 1;
    for (uint32_t i = 0; i < gold->len; i++) {
        gold->ids[i] = (uint32_t)json_integer_value(json_array_get(ids, i));
        gold->depth[i] =
            gold->fixed ? gold->loops : (uint32_t)json_integer_value(json_array_get(depths, i));
    }
    return read_logits(gold, json_object_get(from, "logits"));
}

static bool read_cases(family_golden *family, const json_t *root) {
    const json_t *cases = json_object_get(root, "cases"), *one;
    size_t i;
    bool skip;
    json_array_foreach(cases, i, one) {
        if (family->n_cases == FAMILY_CASES) return false;
        family_case *gold = &family->cases[family->n_cases];
        if (!read_case(gold, one, model_plan_of(family->model)->loops_default, &skip)) {
            free(gold->logits);
            return false;
        }
        family->n_cases += !skip;
    }
    return family->n_cases > 0;
}

bool family_open(family_golden *family, const char *name) {
    char dir[96], path[128];
    err e = {0};
    json_error_t why;
    *family = (family_golden){.name = name};
    (void)snprintf(dir, sizeof dir, "tests/golden/families/%s", name);
    (void)snprintf(path, sizeof path, "%s/expected.json", dir);
    if (!check(model_open(&family->model, dir, &e) == 0, "%s: %s", dir, e.msg)) return false;
    json_t *root = json_load_file(path, 0, &why);
    bool ok = check(root != NULL, "%s: %s", path, why.text);
    ok = ok && check(read_cases(family, root), "%s: not the cases this test reads", path);
    json_decref(root);
    if (!ok) family_close(family);
    return ok;
}

void family_close(family_golden *family) {
    for (uint32_t i = 0; i < family->n_cases; i++)
        free(family->cases[i].logits);
    model_close(family->model);
    *family = (family_golden){0};
}

const family_case *family_fixed(const family_golden *family, uint32_t loops) {
    for (uint32_t i = 0; i < family->n_cases; i++) {
        if (family->cases[i].fixed && family->cases[i].loops == loops) return &family->cases[i];
    }
    return NULL;
}

drive_spec family_spec(const family_case *gold, uint32_t max_rows, uint64_t seed, bool company) {
    static uint32_t others[2][DRIVE_LEN];
    drive_spec spec = {.n_seqs = company ? 4 : 1,
                       .n_loops = gold->loops,
                       .max_rows = max_rows,
                       .len = {gold->len, gold->len / 3 + 1, 37, 9},
                       .ids = {gold->ids, gold->ids, others[0], others[1]},
                       .policy = KV_EXACT,
                       .threshold = gold->threshold,
                       .seed = seed};
    rng rnd = {seed + 5};
    for (uint32_t k = 0; k < 2; k++) {
        for (uint32_t i = 0; i < DRIVE_LEN; i++)
            others[k][i] = rng_below(&rnd, gold->vocab);
    }
    return spec;
}

family_error family_compare(const family_case *gold, const drive_spec *spec,
                            const drive_result *result) {
    family_error far = {0};
    for (uint32_t seq = 0; seq < 2 && seq < spec->n_seqs; seq++) {
        for (uint32_t i = 0; i < spec->len[seq]; i++) {
            size_t at = (size_t)i * gold->vocab;
            double off = worst(result->logits[seq] + at, gold->logits + at, gold->vocab);
            bool other = result->depth[seq][i] != gold->depth[i];
            far.depths += other;
            if (!other && !(off <= far.worst)) far.worst = off;
        }
    }
    return far;
}

bool family_random(model_folder **model, const tmp_dir *dir, const model_plan *plan,
                   float mean_depth) {
    err e = {0};
    model_init_opts opts = {.seed = 9, .dtype = DTYPE_F32, .mean_depth = mean_depth};
    return check(model_init_write(dir->path, plan, &opts, &e) == 0, "init: %s", e.msg) &&
           check(model_open(model, dir->path, &e) == 0, "open: %s", e.msg);
}
