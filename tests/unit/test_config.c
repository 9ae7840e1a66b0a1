/* test_config.c - config.json: good ones, every rule, the published variants. */
#include "base/json.h"
#include "model/model.h"
#include "tests/lib/files.h"
#include "tests/lib/oom.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

TestSuite(config, .fini = fail_on_leaks);

static char *golden_text(const char *name) {
    char dir[64];
    (void)snprintf(dir, sizeof dir, "tests/golden/cases/%s", name);
    return file_get(dir, "config.json", NULL);
}

static int parse(const char *text, model_plan *plan, err *e) {
    return plan_parse(plan, text, strlen(text), "config.json", e);
}

/* The golden text with one key set to a JSON value, or removed when value is NULL. */
static char *edited(const char *name, const char *key, const char *value) {
    char *text = golden_text(name);
    json_t *root = json_loads(text, 0, NULL);
    if (value) json_object_set_new(root, key, json_loads(value, JSON_DECODE_ANY, NULL));
    else json_object_del(root, key);
    free(text);
    text = json_dumps(root, 0);
    json_decref(root);
    return text;
}

Test(config, a_golden_config_gives_the_derived_sizes) {
    model_plan plan;
    err e = {0};
    char *text = golden_text("mla");
    cr_assert_eq(parse(text, &plan, &e), 0, "%s", e.msg);
    free(text);
    cr_assert_eq(plan.ffn_dim, 85);
    cr_assert_eq(plan.slot_values, 32 + 8);
    cr_assert_eq(plan.halted_kv, KV_EXACT);
    cr_assert_float_eq(plan.exit_threshold, 0.99, 1e-6);
    text = golden_text("gqa");
    cr_assert_eq(parse(text, &plan, &e), 0, "%s", e.msg);
    free(text);
    cr_assert_eq(plan.head_dim, 16);
    cr_assert_eq(plan.slot_values, 2 * 2 * 16);
}

static const struct {
    const char *model, *key, *value, *says;
} bad[] = {
    {"mla", "vocab_size", "1", "vocab_size is 1, expected 2 to"},
    {"mla", "vocab_size", "4294967297", "vocab_size is 4294967297"},
    {"mla", "vocab_size", "-320", "vocab_size is -320"},
    {"mla", "vocab_size", "320.5", "vocab_size is 320.5, expected a whole number"},
    {"mla", "vocab_size", "\"320\"", "vocab_size is a string"},
    {"mla", "vocab_size", "null", "vocab_size is null"},
    {"mla", "vocab_size", "true", "vocab_size is true or false"},
    {"mla", "vocab_size", "[320]", "vocab_size is an array"},
    {"mla", "vocab_size", "{}", "vocab_size is an object"},
    {"mla", "dim", "0", "dim is 0"},
    {"mla", "dim", "1", "dim is 1, expected 2 to"},
    {"mla", "dim", "1000000000", "dim is 1000000000"},
    {"mla", "n_heads", "0", "n_heads is 0"},
    {"gqa", "n_heads", "5", "n_kv_heads is 2, expected a divisor of n_heads = 5"},
    {"gqa", "n_heads", "6", "n_heads is 6, expected a divisor of dim = 64"},
    {"gqa", "n_heads", "64", "dim / n_heads = 1, expected an even number"},
    {"gqa", "n_kv_heads", "0", "n_kv_heads is 0"},
    {"gqa", "n_kv_heads", "3", "n_kv_heads is 3, expected a divisor"},
    {"gqa", "n_kv_heads", "8", "n_kv_heads is 8, expected a divisor"},
    {"mla", "max_seq_len", "0", "max_seq_len is 0"},
    {"mla", "max_loop_iters", "0", "max_loop_iters is 0"},
    {"mla", "max_loop_iters", "257", "max_loop_iters is 257, expected 1 to 256"},
    {"mla", "prelude_layers", "1000000000", "prelude_layers is 1000000000"},
    {"mla", "coda_layers", "-1", "coda_layers is -1"},
    {"mla", "kv_lora_rank", "0", "kv_lora_rank is 0"},
    {"mla", "q_lora_rank", "0", "q_lora_rank is 0"},
    {"mla", "qk_rope_head_dim", "7", "qk_rope_head_dim is 7, expected an even number"},
    {"mla", "qk_rope_head_dim", "0", "qk_rope_head_dim is 0"},
    {"mla", "qk_nope_head_dim", "0", "qk_nope_head_dim is 0"},
    {"mla", "v_head_dim", "0", "v_head_dim is 0"},
    {"mla", "n_experts", "0", "n_experts is 0"},
    {"mla", "n_experts_per_tok", "5", "n_experts_per_tok is 5, expected at most n_experts = 4"},
    {"mla", "n_experts_per_tok", "0", "n_experts_per_tok is 0"},
    {"mla", "n_shared_experts", "-1", "n_shared_experts is -1"},
    {"mla", "expert_dim", "0", "expert_dim is 0"},
    {"mla", "lora_rank", "0", "lora_rank is 0"},
    {"mla", "max_output_tokens", "0", "max_output_tokens is 0"},
    {"mla", "act_threshold", "0", "act_threshold is 0, expected above 0"},
    {"mla", "act_threshold", "1.5", "act_threshold is 1.5"},
    {"mla", "act_threshold", "\"0.99\"", "act_threshold is a string"},
    {"mla", "rope_theta", "0", "rope_theta is 0"},
    {"mla", "rope_theta", "-1e4", "rope_theta is -10000"},
    {"mla", "rope_theta", "1e300", "rope_theta is 1e+300"},
    {"mla", "attn_type", "\"mqa\"", "attn_type is \"mqa\", expected \"mla\" or \"gqa\""},
    {"mla", "attn_type", "3", "attn_type is a number"},
    {"mla", "halted_kv", "\"first\"", "halted_kv is \"first\", expected \"exact\" or \"last\""},
    {"mla", "halted_kv", "null", "halted_kv is null"},
    {"gqa", "rope_scaling", "{\"type\": \"yarn\", \"factor\": 4}",
     "rope_scaling is set and not known"},
    {"mla", "quantization_config", "{\"quant_method\": \"gptq\"}", "quantization_config is set"},
    {"mla", "model_type", "\"llama\"",
     "model_type is 'llama'; Fathom runs looped models: openmythos, ouro"},
};

Test(config, every_rule_is_refused_with_key_value_and_rule) {
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        model_plan plan;
        err e = {0};
        char *text = edited(bad[i].model, bad[i].key, bad[i].value);
        cr_assert_eq(parse(text, &plan, &e), -1, "%s = %s was accepted", bad[i].key, bad[i].value);
        free(text);
        cr_assert_eq(e.code, ERR_BAD_FILE);
        cr_assert(strstr(e.msg, bad[i].says), "row %zu: \"%s\" has no \"%s\"", i, e.msg,
                  bad[i].says);
        cr_assert(strstr(e.msg, "config.json"), "%s", e.msg);
        cr_assert_eq(plan.dim, 0, "a refused config leaves nothing behind");
    }
}

Test(config, each_key_but_halted_kv_must_be_there) {
    char *text = golden_text("gqa");
    json_t *root = json_loads(text, 0, NULL), *v;
    const char *key;
    size_t missed = 0;
    free(text);
    json_object_foreach(root, key, v) {
        static const char *const ignored[] = {"architectures", "model_type", "torch_dtype",
                                              "dropout"};
        bool optional = false;
        for (size_t i = 0; i < ARRAY_LEN(ignored); i++)
            optional |= strcmp(key, ignored[i]) == 0;
        model_plan plan;
        err e = {0};
        text = edited("gqa", key, NULL);
        int rc = parse(text, &plan, &e);
        free(text);
        cr_assert_eq(rc, optional ? 0 : -1, "without %s", key);
        if (optional) continue;
        cr_assert_str_eq(e.param, key);
        cr_assert(strstr(e.msg, "is missing"));
        missed++;
    }
    json_decref(root);
    cr_assert_eq(missed, 22);
}

static const struct {
    const char *text, *says;
} not_objects[] = {
    {"", "not valid JSON"},
    {"{", "not valid JSON"},
    {"[]", "expected an object"},
    {"{\"dim\": 64, \"dim\": 64}", "a key appears twice"},
    {"{} {}", "not valid JSON"},
    {"{\"dim\": NaN}", "not valid JSON"},
    {"{\"a\":[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]}", "nested deeper"},
    {"{\"d\xff\": 1}", "not valid JSON"},
    {"{}", "key \"model_type\" is missing; Fathom runs looped models: openmythos, ouro"},
    {"{\"_class_name\": \"GPTConfig\"}", "is missing (the file is a GPTConfig); Fathom runs"},
    {"{\"architectures\": [\"GPT2LMHeadModel\"]}", "(the file is a GPT2LMHeadModel)"},
    {"{\"architectures\": 7}", "key \"model_type\" is missing; Fathom"},
};

Test(config, text_that_is_no_config_of_a_model_is_refused) {
    for (size_t i = 0; i < ARRAY_LEN(not_objects); i++) {
        model_plan plan;
        err e = {0};
        guarded guard = guard_copy(not_objects[i].text, strlen(not_objects[i].text));
        cr_assert_eq(plan_parse(&plan, guard.data, strlen(not_objects[i].text), "config.json", &e),
                     -1);
        cr_assert_eq(e.code, ERR_BAD_FILE);
        cr_assert(strstr(e.msg, not_objects[i].says), "row %zu: %s", i, e.msg);
        guard_free(&guard);
    }
}

Test(config, a_config_cut_anywhere_is_refused_without_reading_past_its_end) {
    char *text = golden_text("mla");
    size_t n = strlen(text);
    while (n > 0 && text[n - 1] != '}')
        n--;
    for (size_t cut = 0; cut < n; cut++) {
        guarded guard = guard_copy(text, cut);
        model_plan plan;
        err e = {0};
        cr_assert_eq(plan_parse(&plan, guard.data, cut, "config.json", &e), -1, "cut at %zu", cut);
        guard_free(&guard);
    }
    free(text);
}

Test(config, keys_of_the_other_attention_may_hold_anything_in_range) {
    model_plan plan;
    err e = {0};
    char *text = edited("gqa", "qk_rope_head_dim", "7");
    cr_assert_eq(parse(text, &plan, &e), 0, "%s", e.msg);
    free(text);
    text = edited("mla", "n_kv_heads", "0");
    cr_assert_eq(parse(text, &plan, &e), 0, "%s", e.msg);
    free(text);
}

Test(config, what_is_written_reads_back_the_same) {
    static const char *const names[] = {"tiny",       "mythos_1b",   "mythos_3b",   "mythos_10b",
                                        "mythos_50b", "mythos_100b", "mythos_500b", "mythos_1t"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        model_plan plan, again;
        err e = {0};
        cr_assert_eq(plan_variant(&plan, names[i], &e), 0, "%s", e.msg);
        plan.halted_kv = i % 2 ? KV_LAST : KV_EXACT;
        buf text = {0};
        plan_write(&text, &plan, "bfloat16");
        cr_assert_eq(parse(text.data, &again, &e), 0, "%s: %s", names[i], e.msg);
        buf_deinit(&text);
        cr_assert_eq(memcmp(&plan, &again, sizeof plan), 0, "%s", names[i]);
    }
}

Test(config, the_variants_have_the_sizes_their_names_say) {
    static const struct {
        const char *name;
        double billions, within;
    } sizes[] = {{"mythos_1b", 1.064, 0.001}, {"mythos_3b", 3, 0.5},    {"mythos_10b", 10, 1},
                 {"mythos_50b", 50, 5},       {"mythos_100b", 100, 10}, {"mythos_500b", 500, 50},
                 {"mythos_1t", 1000, 100}};
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        model_plan plan;
        cr_assert_eq(plan_variant(&plan, sizes[i].name, NULL), 0);
        double billions = (double)plan_params(&plan) / 1e9;
        cr_assert_float_eq(billions, sizes[i].billions, sizes[i].within, "%s: %g", sizes[i].name,
                           billions);
    }
    model_plan plan;
    err e = {0};
    cr_assert_eq(plan_variant(&plan, "mythos_2b", &e), -1);
    cr_assert_eq(e.code, ERR_NOT_FOUND);
    cr_assert(strstr(e.msg, "mythos_1b"), "%s", e.msg);
}

/* Of a flat file, and of one with an object inside. */
Test(config, parsing_survives_every_failed_allocation, .timeout = HANGS_S) {
    static const char *const folders[] = {"tests/golden/cases/mla",
                                          "tests/golden/families/retro_llama"};
    json_setup();
    for (int run = 0; run < 4; run++) {
        char *text = file_get(folders[run / 2], "config.json", NULL);
        for (long n = 0;; n++) {
            model_plan plan;
            err e = {0};
            oom_after(n, run % 2);
            int rc = parse(text, &plan, &e);
            bool refused = oom_stop();
            if (!refused) {
                cr_assert_eq(rc, 0);
                cr_assert_gt(n, 20);
                break;
            }
            cr_assert_eq(rc, -1, "allocation %ld", n);
            cr_assert_eq(e.code, ERR_NO_MEMORY, "allocation %ld: %s", n, e.msg);
        }
        free(text);
    }
}
