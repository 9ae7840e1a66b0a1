/* test_api_depth.c - the depth fields of requests, checked against the plan and the exit rule of
 * the served model. The model here is an Ouro with random weights, because its family caps the
 * loops; one test has a Nanbeige with fixed loops. */
#include "api/dialect_internal.h"
#include "tests/lib/api_fixture.h"
#include "tests/lib/files.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <float.h>
#include <string.h>

static tmp_dir dir;
static model_folder *model;

static void write_model(const char *variant) {
    model_plan plan;
    err e = {0};
    const model_init_opts opts = {.dtype = DTYPE_BF16, .mean_depth = 2};
    json_setup();
    dir = tmp_dir_create();
    cr_assert_eq(plan_variant(&plan, variant, &e), 0, "%s", e.msg);
    cr_assert_eq(model_init_write(dir.path, &plan, &opts, &e), 0, "%s", e.msg);
    cr_assert_eq(model_open(&model, dir.path, &e), 0, "%s", e.msg);
}
static void write_ouro(void) {
    write_model("ouro_tiny");
}
static void remove_model(void) {
    model_close(model);
    tmp_dir_remove(&dir);
}
static void remove_ouro(void) {
    remove_model();
    fail_on_leaks();
}
TestSuite(api_depth, .init = write_ouro, .fini = remove_ouro);

static api_context *serve(exit_rule rule, float threshold) {
    api_context *ctx;
    err e = {0};
    const api_opts opts = {.served_name = "ouro",
                           .model = model,
                           .ceiling_loops = plan_loops_ceiling(model_plan_of(model)),
                           .own_run = true,
                           .default_loops = model_plan_of(model)->loops_default,
                           .halted_kv = KV_LAST,
                           .exit = rule,
                           .threshold = threshold};
    cr_assert_eq(api_context_open(&ctx, &opts, &e), 0, "%s", e.msg);
    return ctx;
}

/* Parses a completion with these fields and sets *depth to the depth it asks for. */
static int ask(const api_context *ctx, const char *fields, sched_depth *depth, err *e) {
    buf body = {0};
    api_request *req = NULL;
    buf_printf(&body, "{\"prompt\":[1],%s}", fields);
    int rc = api_parse(&req, ctx, &api_dialect_completion, body.data, body.len, e);
    if (rc == 0) *depth = req->depth;
    api_request_destroy(req);
    buf_deinit(&body);
    return rc;
}

static const struct {
    exit_rule rule;
    const char *fields, *param, *message;
} refused[] = {
    {EXIT_HAZARD, "\"depth\":{\"max_loops\":5}", "depth.max_loops",
     "depth.max_loops is 5; ouro models run 1 to 4 loops"},
    {EXIT_HAZARD, "\"depth\":{\"max_loops\":9223372036854775807}", "depth.max_loops",
     "ouro models run 1 to 4 loops"},
    {EXIT_HAZARD, "\"depth\":{\"max_loops\":0}", "depth.max_loops",
     "depth.max_loops is 0; ouro models run 1 to 4 loops"},
    {EXIT_HAZARD, "\"depth\":{\"min_loops\":5}", "depth.min_loops",
     "depth.min_loops is 5; ouro models run 1 to 4 loops"},
    {EXIT_HAZARD, "\"depth\":{\"min_loops\":3,\"max_loops\":2}", "depth.min_loops",
     "this request runs at most 2 loops"},
    {EXIT_HAZARD, "\"depth\":{\"threshold\":1.5}", "depth.threshold",
     "depth.threshold is 1.5; for the exit rule hazard it must be above 0 and at most 1"},
    {EXIT_HAZARD, "\"depth\":{\"threshold\":0}", "depth.threshold", "exit rule hazard"},
    {EXIT_HAZARD, "\"depth\":{\"threshold\":-1e300}", "depth.threshold", "exit rule hazard"},
    {EXIT_HAZARD, "\"depth\":{\"threshold\":\"1\"}", "depth.threshold", "must be a number"},
    {EXIT_LATENT_DIFF, "\"depth\":{\"threshold\":1e7}", "depth.threshold",
     "for the exit rule latent-diff it must be at least 0 (0: every loop runs) and at most 1e6"},
    {EXIT_LATENT_DIFF, "\"depth\":{\"threshold\":1e300}", "depth.threshold", "latent-diff"},
    {EXIT_LATENT_DIFF, "\"depth\":{\"threshold\":-0.1}", "depth.threshold", "latent-diff"},
    {EXIT_ACT, "\"depth\":{\"threshold\":0}", "depth.threshold", "exit rule act"},
    {EXIT_COSINE, "\"depth\":{\"threshold\":2.1}", "depth.threshold",
     "for the exit rule cosine it must be at least 0 (0: every loop runs) and at most 2"},
    {EXIT_FIXED, "\"depth\":{\"threshold\":0.5}", "depth.threshold",
     "this model runs a fixed number of loops and has no threshold"},
};

Test(api_depth, what_the_rule_or_the_family_cannot_do_is_refused_with_the_range) {
    for (size_t i = 0; i < ARRAY_LEN(refused); i++) {
        api_context *ctx = serve(refused[i].rule, exit_rule_default(refused[i].rule));
        sched_depth depth;
        err e = {0};
        cr_expect_eq(ask(ctx, refused[i].fields, &depth, &e), -1, "%s", refused[i].fields);
        cr_expect_eq(api_status(&e), 400, "%s", refused[i].fields);
        cr_expect_str_eq(e.param, refused[i].param, "%s", refused[i].fields);
        cr_expect_not_null(strstr(e.msg, refused[i].message), "%s: %s", refused[i].fields, e.msg);
        api_context_close(ctx);
    }
}

static const struct {
    exit_rule rule;
    const char *fields;
    sched_depth want;
} taken[] = {
    {EXIT_HAZARD, "\"depth\":{\"min_loops\":2,\"max_loops\":4,\"threshold\":1}", {2, 4, 1}},
    {EXIT_HAZARD, "\"depth\":{\"threshold\":null}", {0, 0, 0}},
    {EXIT_LATENT_DIFF, "\"depth\":{\"threshold\":1000000}", {0, 0, 1e6f}},
    {EXIT_COSINE, "\"depth\":{\"threshold\":2}", {0, 0, 2}},
    {EXIT_LATENT_DIFF, "\"depth\":{\"threshold\":0}", {0, 0, FLT_MIN}},
    {EXIT_COSINE, "\"depth\":{\"threshold\":0.0}", {0, 0, FLT_MIN}},
    {EXIT_FIXED, "\"depth\":{\"max_loops\":3}", {0, 3, 0}},
    {EXIT_HAZARD, "\"reasoning_effort\":\"minimal\"", {0, 1, 0}},
    {EXIT_HAZARD, "\"reasoning_effort\":\"low\"", {0, 2, 0}},
    {EXIT_HAZARD, "\"reasoning_effort\":\"medium\"", {0, 3, 0}},
    {EXIT_HAZARD, "\"reasoning_effort\":\"high\"", {0, 4, 0}},
};

Test(api_depth, each_rule_takes_thresholds_of_its_own_range_and_effort_stays_below_the_cap) {
    for (size_t i = 0; i < ARRAY_LEN(taken); i++) {
        api_context *ctx = serve(taken[i].rule, exit_rule_default(taken[i].rule));
        sched_depth depth = {0}, want = taken[i].want;
        err e = {0};
        cr_expect_eq(ask(ctx, taken[i].fields, &depth, &e), 0, "%s: %s", taken[i].fields, e.msg);
        cr_expect_eq(depth.min_loops, want.min_loops, "%s", taken[i].fields);
        cr_expect_eq(depth.max_loops, want.max_loops, "%s", taken[i].fields);
        cr_expect(depth.threshold == want.threshold, "%s", taken[i].fields);
        api_context_close(ctx);
    }
}

static void expect_card(exit_rule rule, float threshold, const char *want) {
    api_context *ctx = serve(rule, threshold);
    buf out = {0};
    api_models(ctx, &out);
    cr_expect_not_null(strstr(out.data, want), "%s is not in %s", want, out.data);
    buf_deinit(&out);
    api_context_close(ctx);
}

Test(api_depth, a_model_of_fixed_loops_takes_that_number_and_no_other) {
    static const struct {
        const char *fields;
        sched_depth want;
    } good[] = {
        {"\"depth\":{\"max_loops\":2}", {0, 2, 0}},
        {"\"depth\":{\"min_loops\":2,\"max_loops\":2}", {2, 2, 0}},
        {"\"reasoning_effort\":\"minimal\"", {0, 2, 0}},
        {"\"reasoning_effort\":\"high\"", {0, 2, 0}},
    };
    static const char *const bad[][2] = {
        {"\"depth\":{\"max_loops\":1}",
         "depth.max_loops is 1; nanbeige models run exactly 2 loops"},
        {"\"depth\":{\"max_loops\":3}",
         "depth.max_loops is 3; nanbeige models run exactly 2 loops"},
        {"\"depth\":{\"min_loops\":1}",
         "depth.min_loops is 1; nanbeige models run exactly 2 loops"},
        {"\"depth\":{\"threshold\":0.5}", "runs a fixed number of loops and has no threshold"},
    };
    remove_model();
    write_model("nanbeige_tiny");
    api_context *ctx = serve(EXIT_FIXED, 0);
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        sched_depth depth = {0}, want = good[i].want;
        err e = {0};
        cr_expect_eq(ask(ctx, good[i].fields, &depth, &e), 0, "%s: %s", good[i].fields, e.msg);
        cr_expect_eq(depth.min_loops, want.min_loops, "%s", good[i].fields);
        cr_expect_eq(depth.max_loops, want.max_loops, "%s", good[i].fields);
    }
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        sched_depth depth;
        err e = {0};
        cr_expect_eq(ask(ctx, bad[i][0], &depth, &e), -1, "%s", bad[i][0]);
        cr_expect_eq(api_status(&e), 400, "%s", bad[i][0]);
        cr_expect_not_null(strstr(e.msg, bad[i][1]), "%s: %s", bad[i][0], e.msg);
    }
    api_context_close(ctx);
    expect_card(EXIT_FIXED, 0, "\"loops\":{\"default\":2,\"least\":2,\"cap\":2}");
}

Test(api_depth, the_model_list_tells_family_rule_range_loops_and_policy) {
    expect_card(EXIT_HAZARD, 0.5f,
                "\"max_loops\":4,\"trained_loops\":4,\"family\":\"ouro\",\"core_layers\":3,"
                "\"exit\":{\"rule\":\"hazard\",\"threshold\":0.5,\"above\":0,\"most\":1,"
                "\"all_loops_at\":1},\"loops\":{\"default\":4,\"least\":1,\"cap\":4},\"halted_kv\":"
                "\"last\",\"meta\":");
    expect_card(EXIT_LATENT_DIFF, 0.03f,
                "\"rule\":\"latent-diff\",\"threshold\":0.03,\"above\":0,\"most\":1e+06,"
                "\"all_loops_at\":0}");
    expect_card(EXIT_COSINE, exit_rule_never(EXIT_COSINE),
                "\"rule\":\"cosine\",\"threshold\":0,\"above\":0,\"most\":2,\"all_loops_at\":0}");
    expect_card(EXIT_ACT, 0.9f, "\"most\":1,\"all_loops_at\":null}");
    expect_card(EXIT_FIXED, 0,
                "\"rule\":\"fixed\",\"threshold\":null,\"above\":null,\"most\":null,\"all_loops_"
                "at\":null}");
}

Test(api_depth, every_field_of_the_model_list_is_in_the_openapi_document) {
    api_context *ctx = serve(EXIT_HAZARD, 0.5f);
    buf doc = {0}, list = {0};
    api_openapi(&doc);
    api_models(ctx, &list);
    json_t *root = json_loadb(doc.data, doc.len, 0, NULL),
           *models = json_loadb(list.data, list.len, 0, NULL);
    cr_assert(root && models);
    const json_t *schemas = json_object_get(json_object_get(root, "components"), "schemas");
    const json_t *known = json_object_get(json_object_get(schemas, "Model"), "properties");
    const char *name;
    json_t *value;
    json_object_foreach(json_array_get(json_object_get(models, "data"), 0), name, value)
        cr_expect_not_null(json_object_get(known, name), "%s is told and not documented", name);
    json_decref(root);
    json_decref(models);
    buf_deinit(&doc);
    buf_deinit(&list);
    api_context_close(ctx);
}
