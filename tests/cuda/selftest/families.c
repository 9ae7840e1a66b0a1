/* families.c - reads expected.json of a golden folder, and compares runs with it. */
#include "tests/cuda/selftest/families.h"
#include "base/json.h"
#include "base/size.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

/* Sets how a case leaves the loop; false: a case outside the scope of a serving engine. */
static bool read_exit(family_case *gold, const json_t *from, const model_plan *plan) {
    const json_t *threshold = json_object_get(from, "exit_threshold"),
                 *at = json_object_get(from, "exit_at_step"),
                 *loops = json_object_get(from, "loops");
    const char *rule = json_string_value(json_object_get(from, "criterion")),
               *lookup = json_string_value(json_object_get(from, "lookup"));
    gold->exit = plan->exit;
    gold->loops = plan->loops_default;
    gold->threshold = exit_rule_never(plan->exit);
    gold->policy = KV_EXACT;
    gold->fixed = at || loops;
    if (at) gold->loops = (uint32_t)json_integer_value(at) + 1;
    if (loops) gold->loops = (uint32_t)json_integer_value(loops);
    if (gold->fixed) return true;
    if (rule) {
        gold->policy = KV_LAST;
        threshold = json_object_get(from, "threshold");
        if (!exit_rule_find(rule, &gold->exit) || strcmp(lookup, "latest-m4") != 0) return false;
    }
    if (threshold == NULL) return false;
    gold->threshold = (float)json_number_value(threshold);
    return true;
}

static bool read_case(family_case *gold, const json_t *from, const model_plan *plan, bool *skip) {
    const json_t *ids = json_object_get(from, "ids"), *depths = json_object_get(from, "depths");
    *gold = (family_case){.len = (uint32_t)json_array_size(ids)};
    *skip = !read_exit(gold, from, plan);
    if (*skip) return true;
    if (gold->len > FAMILY_LEN || gold->len > DRIVE_LEN) return false;
    for (uint32_t i = 0; i < gold->len; i++) {
        gold->ids[i] = (uint32_t)json_integer_value(json_array_get(ids, i));
        gold->depth[i] =
            gold->fixed ? gold->loops : (uint32_t)json_integer_value(json_array_get(depths, i));
    }
    return read_logits(gold, json_object_get(from, "logits"));
}

static bool read_cases(family_golden *family, const json_t *root) {
    const json_t *cases = json_object_get(root, "cases"), *one;
    bool zero = json_object_get(root, "state") != NULL;
    size_t i;
    bool skip;
    json_array_foreach(cases, i, one) {
        if (family->n_cases == FAMILY_CASES) return false;
        family_case *gold = &family->cases[family->n_cases];
        if (!read_case(gold, one, model_plan_of(family->model), &skip)) {
            free(gold->logits);
            return false;
        }
        gold->zero_state = zero;
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
                       .policy = gold->policy,
                       .own_exit = true,
                       .exit = gold->exit,
                       .threshold = gold->threshold,
                       .zero_state = gold->zero_state,
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

/* ---- checks of a whole folder ---- */

/* Runs one case and says how far it is off; worst is infinite if it does not run. */
static family_error run_spec(const family_golden *family, const family_case *gold,
                             const drive_spec *spec, const char *kernels, model_dtype held) {
    family_error far = {.depths = gold->len, .worst = INFINITY};
    eng_backend_opts opts = drive_opts(spec, kernels, held);
    eng_backend *eng = open_backend(family->model, &opts);
    drive_result result = {0};
    if (eng && drive(eng, spec, &result)) far = family_compare(gold, spec, &result);
    drive_result_deinit(&result);
    eng_backend_close(eng);
    return far;
}

/* Graphs for a whole prompt. poisoned_graphs compares their results to the bit, and capturing them
 * takes the shim longer than these runs. */
static void published(const family_golden *family, const family_case *gold, const drive_spec *spec,
                      const char *how) {
    bool graphs = !on_shim || (spec->seed == 0 && spec->max_rows > gold->len);
    family_error far = run_spec(family, gold, spec, graphs ? "f32" : "f32-stream", DTYPE_F32);
    check(far.depths == 0 && far.worst <= 1e-4,
          "%s, %u loops, threshold %g, %s: %u depths differ, logits are off by %g", family->name,
          gold->loops, (double)gold->threshold, how, far.depths, far.worst);
}

/* On the shim cases take turns: one has one launch in flight, the next two. */
void family_ways(const family_golden *family) {
    for (uint32_t i = 0; i < family->n_cases; i++) {
        const family_case *gold = &family->cases[i];
        drive_spec whole = family_spec(gold, 96, 0, false), chunks = family_spec(gold, 5, 0, false);
        drive_spec mixed = family_spec(gold, 96, 40 + i, true),
                   few = family_spec(gold, 7, 70 + i, true);
        published(family, gold, &whole, "whole");
        published(family, gold, &chunks, "chunks of 5");
        bool one = !on_shim || i % 2 == 0, two = !on_shim || i % 2 || family->n_cases == 1;
        if (one) published(family, gold, &mixed, "in company");
        if (one) published(family, gold, &few, "in company, few rows");
        mixed.flights = few.flights = 2;
        few.one_by_one = true;
        if (two) published(family, gold, &mixed, "two in flight");
        if (two) published(family, gold, &few, "two in flight, one by one");
        if (!gold->fixed || !plan_allows_exit(model_plan_of(family->model), EXIT_FIXED)) continue;
        whole.exit = EXIT_FIXED;
        whole.threshold = 0;
        published(family, gold, &whole, "by the rule fixed");
    }
}

void family_half_precision(const family_golden *family) {
    enum { MOST_DEPTHS = 3 };
    const double limit = 0.03; /* 0.02 on the shim */
    for (uint32_t i = 0; i < family->n_cases; i++) {
        const family_case *gold = &family->cases[i];
        drive_spec few = family_spec(gold, 20, 11 + i, true), many = family_spec(gold, 96, 0, true);
        family_error one = run_spec(family, gold, &few, "bf16-stream", DTYPE_BF16);
        family_error two = run_spec(family, gold, &many, "bf16", DTYPE_BF16);
        uint32_t most = gold->fixed ? 0 : MOST_DEPTHS;
        check(
            one.worst <= limit && two.worst <= limit && one.depths <= most && two.depths <= most,
            "%s, %u loops, threshold %g in bf16: %u and %u depths differ, logits off by %g and %g",
            family->name, gold->loops, (double)gold->threshold, one.depths, two.depths, one.worst,
            two.worst);
    }
}

void family_poisoned(const family_golden *family) {
    const family_case *gold = &family->cases[family->n_cases - 1];
    drive_spec one = family_spec(gold, 40, 3, true), two = family_spec(gold, 80, 0, true);
    two.flights = 2;
    two.one_by_one = true;
    check_poisoned_spec(family->model, &one, "f32", "f32-stream", DTYPE_F32, family->name);
    check_poisoned_spec(family->model, &two, "bf16", "bf16-stream", DTYPE_BF16, family->name);
}

/* Nodes of a stage's graph besides 8 for each layer (9 with the activation of cuBLAS's products in
 * a kernel of its own): begin, the end, and products between the stages with the kernel beside
 * each. */
static uint32_t nodes_beside_layers(const model_plan *plan, eng_stage stage) {
    bool linear = plan->inject == INJECT_LINEAR, diagonal = plan->inject == INJECT_DIAGONAL;
    bool more = stage == ENG_STAGE_PRELUDE     ? linear || diagonal
                : stage == ENG_STAGE_RECURRENT ? linear
                                               : plan->coda_in == CODA_IN_LINEAR;
    return more ? 4 : 2;
}

void family_graphs(const family_golden *family) {
    static const struct {
        const char *kernels;
        uint32_t shared;    /* graphs for prompts with shared tiles, from capacity 2 on */
        uint32_t activates; /* of a layer, from the first capacity with products by cuBLAS on */
    } ways[] = {{"f32", 0, 0}, {"bf16", 1, 1}};
    const model_plan *plan = model_plan_of(family->model);
    for (size_t k = 0; k < ARRAY_LEN(ways); k++) {
        eng_backend_opts opts = {.n_rows = 96,
                                 .cache_bytes = 8 << 20,
                                 .max_positions = 64,
                                 .cache_dtype = DTYPE_BF16,
                                 .kernels = ways[k].kernels};
        eng_backend *eng = open_backend(family->model, &opts);
        uint32_t graphs = 0, nodes = 0, more = 0;
        if (eng == NULL) continue;
        const cu_backend *cuda = (const cu_backend *)eng;
        for (uint32_t rows = 1; rows < 192; rows *= 2) { /* 1, 2, 4, … 64, 96 */
            bool blas = rows >= cuda->blas_rows;
            for (int stage = 0; stage < CU_STAGES; stage++) {
                uint32_t layers = eng__cuda_layers(cuda, (eng_stage)stage);
                uint32_t modes = layers && rows > 1 ? 1 + ways[k].shared : 1;
                uint32_t beside = nodes_beside_layers(plan, (eng_stage)stage);
                nodes += modes * (beside + layers * (8 + (blas ? ways[k].activates : 0)));
                graphs += modes;
                /* cuBLAS may split a product in two nodes: 4 of a layer, and those beside. */
                if (blas && !on_shim) more += modes * (4 * layers + beside / 4);
            }
            nodes += 2; /* the head, and sampling */
            graphs++;
            more += blas && !on_shim;
        }
        check(cuda->n_graphs == graphs && cuda->graph_nodes >= nodes &&
                  cuda->graph_nodes <= nodes + more,
              "%s %s: %u graphs of %llu nodes, must be %u of %u to %u", family->name,
              ways[k].kernels, cuda->n_graphs, (unsigned long long)cuda->graph_nodes, graphs, nodes,
              nodes + more);
        eng_backend_close(eng);
    }
}

void family_mixes(const model_folder *model, uint32_t rounds, uint32_t flights, const char *what) {
    static const struct {
        exit_rule rule;
        float threshold;
    } ways[] = {{EXIT_HAZARD, 0.5f},       {EXIT_HAZARD, 0.8f},       {EXIT_FIXED, 0},
                {EXIT_LATENT_DIFF, 0.7f},  {EXIT_COSINE, 0.25f},      {EXIT_HAZARD, 0.3f},
                {EXIT_LATENT_DIFF, 0.35f}, {EXIT_LATENT_DIFF, 0.15f}, {EXIT_ACT, 0.8f}};
    const model_plan *plan = model_plan_of(model);
    rng rnd = {17 + flights};
    for (uint32_t k = 0, way = 0; k < rounds; k++, way++) {
        while (!plan_allows_exit(plan, ways[way % ARRAY_LEN(ways)].rule))
            way++;
        drive_spec spec = random_spec(plan, 4, on_shim ? 20 : DRIVE_LEN, 500 + k, &rnd);
        spec.own_exit = true;
        spec.exit = ways[way % ARRAY_LEN(ways)].rule;
        spec.threshold = ways[way % ARRAY_LEN(ways)].threshold;
        spec.flights = flights;
        spec.one_by_one = k & 2;
        compare_with_cpu(model, &spec, "f32-stream", what);
    }
}
