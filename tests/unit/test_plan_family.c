/* test_plan_family.c - the family of any plan: what is written is read back, every contradiction is
 * refused by name, and each part of a plan has its tensors. */
#include "model/model.h"
#include "tests/lib/testlib.h"
#include "tests/lib/weights.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

TestSuite(plan_family, .fini = fail_on_leaks);

static json_t *config_of(const model_plan *plan) {
    buf text = {0};
    plan_write(&text, plan, "float32");
    json_t *root = json_loadb(text.data, text.len, 0, NULL);
    cr_assert(root, "%s", text.data);
    buf_deinit(&text);
    return root;
}

/* plan_tiny's config.json with the keys of `edits`, a JSON object, set; null removes a key. */
static char *edited(const char *edits) {
    model_plan plan;
    err e = {0};
    const char *key;
    json_t *value, *changes = json_loads(edits, 0, NULL);
    cr_assert(changes, "%s", edits);
    cr_assert_eq(plan_variant(&plan, "plan_tiny", &e), 0);
    json_t *root = config_of(&plan);
    json_object_foreach(changes, key, value) {
        if (json_is_null(value)) json_object_del(root, key);
        else json_object_set(root, key, value);
    }
    char *text = json_dumps(root, 0);
    json_decref(root);
    json_decref(changes);
    return text;
}

static int parse(const char *edits, model_plan *plan, err *e) {
    char *text = edited(edits);
    int rc = plan_parse(plan, text, strlen(text), "config.json", e);
    free(text);
    return rc;
}

#define MLA                                                                                        \
    "\"attn\": \"mla\", \"n_kv_heads\": null, \"head_dim\": null, \"rope_halves\": null, "         \
    "\"qk_norm\": null, \"kv_lora_rank\": 20, \"q_lora_rank\": 12, \"qk_rope_head_dim\": 6, "      \
    "\"qk_nope_head_dim\": 10, \"v_head_dim\": 14"
#define MOE                                                                                        \
    "\"norms\": \"pre\", \"core_ffn\": \"moe\", \"n_experts\": 4, \"n_shared_experts\": 1, "       \
    "\"n_experts_per_tok\": 2, \"expert_dim\": 12"
#define MYTHOS                                                                                     \
    "\"inject\": \"mythos\", \"n_core\": 1, \"loop_norm\": false, \"lora_rank\": 3, "              \
    "\"lora_rows\": 2"
#define ACT "\"exit\": \"act\", \"exits\": [\"act\"], \"output\": \"weighted-sum\""

/* Plans with every part of a plan. */
static const char *const plans[] = {
    "{}",
    "{" MLA ", " MOE ", " MYTHOS ", " ACT "}",
    "{\"n_prelude\": 0, \"n_coda\": 0, \"end_ffn\": null, " MOE ", \"ffn_dim\": null}",
    "{\"norms\": \"after\", \"inject\": \"linear\", \"state0\": \"seeded\", \"state0_std\": 0.5, "
    "\"qk_bias\": true, \"embed_scale\": 7.5, \"coda_in\": \"norm\"}",
    "{\"norms\": \"post\", \"inject\": \"linear\", \"state0\": \"zero\", \"qk_norm\": \"full\", "
    "\"qk_norm_eps\": 1e-6, \"scaling.factor\": 8, \"scaling.low\": 1, \"scaling.high\": 4, "
    "\"scaling.original\": 64}",
    "{\"norms\": \"pre\", \"inject\": \"diagonal\", \"core_ffn\": \"half-relu2\", \"end_ffn\": "
    "\"half-relu2\", \"qk_norm\": \"head-unit\", \"qk_norm_eps\": 1e-7, \"value_embeds\": [1, 3], "
    "\"input_norm\": true, \"coda_in\": \"linear\", \"exit\": \"fixed\", \"exit_threshold\": null, "
    "\"exits\": null}",
    "{\"exit\": \"cosine\", \"exit_threshold\": 0.01, \"loops_cap\": 9, \"loops_least\": 3, "
    "\"halted_kv\": \"last\", \"full_prompts\": true, \"tied_head\": false, \"final_norm\": false, "
    "\"max_output_tokens\": 9, \"eos_token_id\": [3, 4], \"_name\": \"mine\"}",
    "{\"exit\": \"latent-diff\", \"qk_bias\": false, \"transformers_version\": \"4\"}",
    "{\"loops_default\": 1, \"exit\": \"latent-diff\", \"exit_threshold\": 0}",
};

Test(plan_family, a_written_plan_is_read_back_as_it_was) {
    for (size_t i = 0; i < ARRAY_LEN(plans); i++) {
        model_plan plan, again;
        err e = {0};
        cr_assert_eq(parse(plans[i], &plan, &e), 0, "plan %zu: %s", i, e.msg);
        buf text = {0};
        plan_write(&text, &plan, "float32");
        cr_assert_eq(plan_parse(&again, text.data, text.len, "config.json", &e), 0, "%s", e.msg);
        json_t *first = config_of(&plan), *second = config_of(&again);
        cr_assert(json_equal(first, second), "plan %zu", i);
        cr_assert_arr_eq(plan.value_embeds, again.value_embeds, sizeof plan.value_embeds);
        cr_assert(plan.exits == again.exits && plan.slot_values == again.slot_values);
        json_decref(first);
        json_decref(second);
        buf_deinit(&text);
    }
}

Test(plan_family, a_threshold_of_0_lets_every_loop_run) {
    model_plan plan;
    err e = {0};
    cr_assert_eq(parse("{\"exit\": \"cosine\", \"exit_threshold\": 0}", &plan, &e), 0, "%s", e.msg);
    cr_assert(exit_rule_runs_all(EXIT_COSINE, plan.exit_threshold));
}

Test(plan_family, a_folder_of_random_weights_opens_for_every_kind_of_plan) {
    for (size_t i = 0; i < ARRAY_LEN(plans); i++) {
        model_plan plan;
        err e = {0};
        model_folder *model;
        tmp_dir dir = tmp_dir_create();
        model_init_opts opts = {.seed = i, .dtype = DTYPE_F32};
        cr_assert_eq(parse(plans[i], &plan, &e), 0, "plan %zu: %s", i, e.msg);
        cr_assert_eq(model_init_write(dir.path, &plan, &opts, &e), 0, "plan %zu: %s", i, e.msg);
        cr_assert_eq(model_open(&model, dir.path, &e), 0, "plan %zu: %s", i, e.msg);
        cr_assert_eq(model_check(model, &e), 0, "plan %zu: %s", i, e.msg);
        cr_assert_eq(model_params(model), plan_params(&plan));
        model_close(model);
        tmp_dir_remove(&dir);
    }
}

Test(plan_family, each_refusal_names_the_key_and_the_rule) {
    static const struct {
        const char *edits, *key, *says;
    } rows[] = {
        {"{\"dim\": null}", "dim", "\"dim\" is missing"},
        {"{\"dim\": 0}", "dim", "dim is 0, expected 2 to 131072"},
        {"{\"n_core\": 0}", "n_core", "n_core is 0, expected 1 to 1024"},
        {"{\"norm_eps\": 2}", "norm_eps", "norm_eps is 2, expected 1e-12 to 1"},
        {"{\"norms\": \"both\"}", "norms", "norms is \"both\", expected \"pre\" or \"sandwich\""},
        {"{\"tied_head\": 1}", "tied_head", "tied_head is a number, expected true or false"},
        {"{\"exit\": \"soon\"}", "exit", "exit has \"soon\", expected one of: act, hazard"},
        {"{\"exit\": 3}", "exit", "exit has \"no text\""},
        {"{\"dimm\": 3}", "dimm", "dimm is not a field of a plan"},
        {"{\"kv_lora_rank\": 8}", "kv_lora_rank", "only attn \"mla\" gives it a meaning"},
        {"{\"qk_norm_eps\": 1e-6}", "qk_norm_eps", "only a qk_norm gives it a meaning"},
        {"{\"state0_std\": 1}", "state0_std", "only state0 \"seeded\""},
        {"{\"lora_rank\": 1}", "lora_rank", "only inject \"mythos\""},
        {"{\"n_experts\": 4}", "n_experts", "only core_ffn \"moe\""},
        {"{\"scaling.low\": 1}", "scaling.low", "only scaling.factor above 0"},
        {"{\"exit\": \"fixed\"}", "exit_threshold", "only an exit other than \"fixed\""},
        {"{\"n_prelude\": 0, \"n_coda\": 0}", "end_ffn", "only n_prelude or n_coda above 0"},
        {"{" MLA ", \"qk_bias\": true}", "qk_bias", "only attn \"gqa\""},
        {"{" MLA ", \"value_embeds\": [1]}", "value_embeds", "needs attn \"gqa\""},
        {"{\"value_embeds\": 1}", "value_embeds", "must be a list"},
        {"{\"value_embeds\": [4]}", "value_embeds", "value_embeds 0 must be the number of a layer"},
        {"{\"value_embeds\": [0, -1]}", "value_embeds", "value_embeds 1 must be"},
        {"{\"dim\": 30, \"value_embeds\": [1]}", "value_embeds", "a dim of at least 32"},
        {"{\"exits\": [\"act\", \"late\"]}", "exits", "exits has \"late\""},
        {"{\"exits\": [\"fixed\"]}", "exits", "does not list the model's own exit, \"hazard\""},
        {"{\"n_kv_heads\": 4}", "n_kv_heads", "expected a divisor of n_heads = 6"},
        {"{\"head_dim\": 7}", "head_dim", "head_dim is 7, expected an even number"},
        {"{\"scaling.factor\": 8, \"scaling.low\": 4, \"scaling.high\": 4, "
         "\"scaling.original\": 9}",
         "scaling.low", "expected less than scaling.high = 4"},
        {"{\"loops_cap\": 5}", "loops_cap", "expected at least loops_default = 6"},
        {"{\"loops_least\": 7}", "loops_least", "expected at most loops_default = 6"},
        {"{\"exit_threshold\": 0}", "exit_threshold", "exit_threshold is 0, expected above 0"},
        {"{\"exit_threshold\": 1.5}", "exit_threshold",
         "above 0 and at most 1 for exit \"hazard\""},
        {"{" MOE ", \"norms\": \"sandwich\"}", "norms", "core_ffn \"moe\" needs norms \"pre\""},
        {"{" MOE ", \"n_experts_per_tok\": 5}", "n_experts_per_tok", "at most n_experts = 4"},
        {"{\"end_ffn\": \"moe\"}", "end_ffn", "expected \"swiglu\" or \"half-relu2\""},
        {"{" MYTHOS ", \"n_core\": 2}", "n_core", "inject \"mythos\" needs n_core 1"},
        {"{" MYTHOS ", \"loop_norm\": true}", "loop_norm", "loop_norm must be false"},
        {"{\"state0\": \"zero\"}", "state0", "inject \"none\" needs state0 \"embedding\""},
        {"{\"output\": \"weighted-sum\"}", "output", "needs exit and exits \"act\""},
        {"{\"coda_in\": \"norm\", \"final_norm\": false}", "coda_in", "final_norm must be true"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        model_plan plan;
        err e = {0};
        cr_assert_eq(parse(rows[i].edits, &plan, &e), -1, "%s is accepted", rows[i].edits);
        cr_assert_eq(e.code, ERR_BAD_FILE, "%s: %s", rows[i].edits, e.msg);
        cr_assert_str_eq(e.param, rows[i].key, "%s: %s", rows[i].edits, e.msg);
        cr_assert(strstr(e.msg, rows[i].says), "%s: %s", rows[i].edits, e.msg);
    }
}

static void must_have(const model_folder *model, tensor_role role, tensor_stage stage,
                      uint32_t layer, const char *name) {
    tensor_place place = {.role = role, .stage = stage, .layer = layer};
    cr_assert_str_eq(model_tensor_name(model, place), name);
}

Test(plan_family, tensors_have_the_names_of_their_places) {
    model_plan plan;
    err e = {0};
    model_folder *model;
    tmp_dir dir = tmp_dir_create();
    model_init_opts opts = {.dtype = DTYPE_F32};
    cr_assert_eq(parse(plans[5], &plan, &e), 0, "%s", e.msg);
    cr_assert_eq(model_init_write(dir.path, &plan, &opts, &e), 0, "%s", e.msg);
    cr_assert_eq(model_open(&model, dir.path, &e), 0, "%s", e.msg);
    must_have(model, TENSOR_WQ, PART_OF_PRELUDE, 0, "prelude.0.attn.wq.weight");
    must_have(model, TENSOR_UP, PART_OF_CORE, 1, "core.1.ffn.up.weight");
    must_have(model, TENSOR_GATE, PART_OF_CORE, 1, "?");
    must_have(model, TENSOR_VALUE_TABLE, PART_OF_CORE, 0, "core.0.attn.value_table.weight");
    must_have(model, TENSOR_VALUE_GATE, PART_OF_CODA, 0, "coda.0.attn.value_gate.weight");
    must_have(model, TENSOR_VALUE_TABLE, PART_OF_PRELUDE, 0, "?");
    must_have(model, TENSOR_INJECT, PART_OF_MODEL, 0, "inject.weight");
    must_have(model, TENSOR_EXIT_WEIGHT, PART_OF_MODEL, 0, "?");
    must_have(model, TENSOR_HEAD, PART_OF_MODEL, 0, "?");
    model_close(model);
    tmp_dir_remove(&dir);
}

Test(plan_family, the_example_of_the_documentation_is_accepted) {
    char *text = file_get("docs", "models.md", NULL), *from = strstr(text, "of your own\n\n");
    cr_assert(from && (from = strstr(from, "```json\n")), "docs/models.md has no example");
    char *end = strstr(from + 8, "```");
    cr_assert(end);
    model_plan plan;
    err e = {0};
    cr_assert_eq(plan_parse(&plan, from + 8, (size_t)(end - from - 8), "the example", &e), 0, "%s",
                 e.msg);
    cr_assert(plan.inject == INJECT_LINEAR && plan.exit == EXIT_LATENT_DIFF);
    free(text);
}
