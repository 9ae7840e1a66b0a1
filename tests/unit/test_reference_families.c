/* test_reference_families.c - the oracle of other tests against the published code of each family:
 * every golden case with a fixed number of loops, a gate, or an exit under the authors' latest-m4,
 * which is policy `last`. */
#include "base/json.h"
#include "tests/lib/reference.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

TestSuite(reference_family, .fini = fail_on_leaks);

typedef struct {
    char name[16];
    uint32_t least; /* cases that the oracle must be able to run */
} family_row;

/* False: a case of another lookup or criterion, for human readers only. */
static bool opts_of(const json_t *item, ref_opts *opts) {
    const json_t *threshold = json_object_get(item, "exit_threshold"),
                 *at = json_object_get(item, "exit_at_step"),
                 *loops = json_object_get(item, "loops");
    const char *criterion = json_string_value(json_object_get(item, "criterion")),
               *lookup = json_string_value(json_object_get(item, "lookup"));
    *opts = (ref_opts){.policy = KV_EXACT, .own_exit = true, .exit = EXIT_FIXED};
    if (loops) opts->max_loops = (uint32_t)json_integer_value(loops);
    else if (at) opts->max_loops = (uint32_t)json_integer_value(at) + 1;
    else if (threshold) {
        opts->exit = EXIT_HAZARD;
        opts->threshold = (float)json_number_value(threshold);
    } else if (criterion && strcmp(lookup, "latest-m4") == 0) {
        opts->policy = KV_LAST;
        opts->threshold = (float)json_number_value(json_object_get(item, "threshold"));
        return exit_rule_find(criterion, &opts->exit);
    } else return false;
    return true;
}

/* Largest error as a fraction of the largest logit. */
static double run_case(const reference *ref, const json_t *item, const ref_opts *opts) {
    const json_t *ids = json_object_get(item, "ids"), *depths = json_object_get(item, "depths"),
                 *rows = json_object_get(item, "logits");
    uint32_t n = (uint32_t)json_array_size(ids), tokens[256];
    cr_assert_leq(n, ARRAY_LEN(tokens));
    for (uint32_t i = 0; i < n; i++)
        tokens[i] = (uint32_t)json_integer_value(json_array_get(ids, i));
    ref_result res = ref_run(ref, tokens, n, opts);
    float *want = calloc((size_t)n * res.vocab, sizeof *want);
    cr_assert(want);
    for (uint32_t pos = 0; pos < n; pos++) {
        const json_t *row = json_array_get(rows, pos);
        cr_assert_eq(json_array_size(row), res.vocab);
        for (uint32_t i = 0; i < res.vocab; i++)
            want[pos * res.vocab + i] = (float)json_number_value(json_array_get(row, i));
        if (depths) cr_assert_eq(res.depth[pos], json_integer_value(json_array_get(depths, pos)));
    }
    double off = ref_relative_error(res.logits, want, (size_t)n * res.vocab);
    free(want);
    ref_result_deinit(&res);
    return off;
}

/* The published answers start from zeros even if the state is drawn. */
static void start_as_published(const model_plan *plan, ref_opts *opts) {
    opts->own_state0 = plan->state0 != STATE_EMBEDDING;
    opts->state0 = STATE_ZERO;
}

ParameterizedTestParameters(reference_family, the_plain_model_gives_the_published_answers) {
    static family_row rows[] = {{"ouro", 9},        {"nanbeige", 1},   {"huginn", 6},
                                {"retro_llama", 3}, {"retro_olmo", 3}, {"parcae", 3}};
    return cr_make_param_array(family_row, rows, ARRAY_LEN(rows));
}
ParameterizedTest(const family_row *row, reference_family,
                  the_plain_model_gives_the_published_answers) {
    char dir[96], path[128];
    err e = {0};
    json_error_t why;
    model_folder *model;
    const json_t *item;
    size_t i;
    uint32_t ran = 0;
    double worst = 0;
    (void)snprintf(dir, sizeof dir, "tests/golden/families/%s", row->name);
    (void)snprintf(path, sizeof path, "%s/expected.json", dir);
    json_t *root = json_load_file(path, 0, &why);
    cr_assert(root, "%s: %s", path, why.text);
    cr_assert_eq(model_open(&model, dir, &e), 0, "%s", e.msg);
    reference *ref = ref_open(model);
    json_array_foreach(json_object_get(root, "cases"), i, item) {
        ref_opts opts;
        if (!opts_of(item, &opts)) continue;
        start_as_published(model_plan_of(model), &opts);
        double off = run_case(ref, item, &opts);
        cr_assert_leq(off, 1e-5, "%s, case %zu: logits off by %g of the largest", row->name, i,
                      off);
        if (off > worst) worst = off;
        ran++;
    }
    cr_assert_geq(ran, row->least);
    fprintf(stderr, "reference %s: %u cases, logits off by at most %.1e\n", row->name, ran, worst);
    ref_close(ref);
    model_close(model);
    json_decref(root);
}
