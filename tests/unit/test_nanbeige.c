/* test_nanbeige.c - Nanbeige's folder as its authors publish it: two loops, accepted keys, required
 * tensors, and refusals by name. */
#include "tests/lib/published.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>

TestSuite(nanbeige, .fini = fail_on_leaks);

Test(nanbeige, the_published_keys_give_the_plan_of_the_family) {
    model_folder *model;
    err e = {0};
    cr_assert_eq(model_open(&model, "tests/golden/families/nanbeige", &e), 0, "%s", e.msg);
    const model_plan *plan = model_plan_of(model);
    cr_assert_str_eq(plan_family_name(plan), "nanbeige");
    cr_assert(plan->n_prelude == 0 && plan->n_core == 3 && plan->n_coda == 0);
    cr_assert(plan->norms == NORM_PRE && plan->loop_norm && !plan->final_norm);
    cr_assert(plan->n_heads == 6 && plan->n_kv_heads == 2 && plan->head_dim == 16);
    cr_assert_eq(plan_q_width(plan), 96, "wider than the residual stream of 64");
    cr_assert(plan->rope_halves && plan->inject == INJECT_NONE);
    cr_assert(plan->exit == EXIT_FIXED && plan->exits == 1u << EXIT_FIXED);
    cr_assert(plan->loops_default == 2 && plan->loops_cap == 2 && plan->loops_least == 2);
    model_close(model);
}

Test(nanbeige, the_config_as_its_authors_publish_it_is_accepted) {
    static const char text[] =
        "{\"architectures\": [\"NanbeigeForCausalLM\"], \"model_type\": \"nanbeige\", "
        "\"auto_map\": {\"AutoConfig\": \"configuration_nanbeige.NanbeigeConfig\"}, "
        "\"vocab_size\": 166144, \"hidden_size\": 3072, \"intermediate_size\": 10752, "
        "\"num_hidden_layers\": 22, \"num_attention_heads\": 48, \"num_key_value_heads\": 8, "
        "\"head_dim\": 128, \"kv_channels\": 128, \"hidden_act\": \"silu\", "
        "\"max_position_embeddings\": 262144, \"rope_theta\": 70000000, \"rope_scaling\": null, "
        "\"attention_bias\": false, \"attention_dropout\": 0.0, \"rms_norm_eps\": 1e-05, "
        "\"num_loops\": 2, \"loop_loss_weights\": [], \"skip_loop_final_norm\": false, "
        "\"pretraining_tp\": 1, \"tie_word_embeddings\": false, \"pad_token_id\": 0, "
        "\"bos_token_id\": 166100, \"eos_token_id\": 166101, \"initializer_range\": 0.02, "
        "\"torch_dtype\": \"bfloat16\"}";
    model_plan plan, variant;
    err e = {0};
    cr_assert_eq(plan_parse(&plan, text, sizeof text - 1, "config.json", &e), 0, "%s", e.msg);
    cr_assert_eq(plan_variant(&variant, "nanbeige_3b", &e), 0, "%s", e.msg);
    cr_assert_eq(memcmp(&plan, &variant, sizeof plan), 0, "the variant is the published model");
}

Test(nanbeige, a_key_may_be_absent_or_spelt_as_in_other_files_and_is_written_back) {
    static const struct {
        const char *key, *value;
        uint32_t loops, head_dim;
    } good[] = {
        {"kv_channels", "16", 2, 16},
        {"head_dim", NULL, 2, 10},
        {"num_key_value_heads", NULL, 2, 16},
        {"loop_loss_weights", NULL, 2, 16},
        {"loop_loss_weights", "null", 2, 16},
        {"loop_loss_weights", "[0.3]", 2, 16},
        {"loop_loss_weights", "[0.2, 0.3]", 3, 16},
        {"num_loops", "3", 3, 16},
        {"skip_loop_final_norm", NULL, 2, 16},
        {"qk_layernorm", "false", 2, 16},
        {"emb_neighbor_num", "0", 2, 16},
        {"loop_middle_layers", "null", 2, 16},
        {"insert_ngram_layer_idx", "[]", 2, 16},
        {"tie_word_embeddings", "true", 2, 16},
        {"rope_scaling", "{\"rope_type\": \"default\"}", 2, 16},
    };
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        model_plan plan;
        err e = {0};
        cr_assert_eq(published_parse("nanbeige", good[i].key, good[i].value, &plan, &e), 0,
                     "row %zu: %s", i, e.msg);
        cr_assert(plan.loops_default == good[i].loops && plan.loops_cap == good[i].loops &&
                      plan.loops_least == good[i].loops,
                  "row %zu", i);
        cr_assert_eq(plan.head_dim, good[i].head_dim, "row %zu", i);
        published_reads_back(&plan);
    }
}

static const bad_key bad[] = {
    {"hidden_size", "0", "hidden_size is 0"},
    {"num_hidden_layers", "0", "num_hidden_layers is 0"},
    {"num_attention_heads", "5", "num_key_value_heads is 2, expected a divisor of num_attention"},
    {"kv_channels", "32", "kv_channels is 32, but head_dim is 16; both name one size"},
    {"kv_channels", "\"16\"", "kv_channels is a string"},
    {"num_loops", "0", "num_loops is 0"},
    {"num_loops", NULL, "\"num_loops\" is missing"},
    {"num_loops", "257", "num_loops is 257, expected 1 to 256"},
    {"loop_loss_weights", "1", "loop_loss_weights must be a list"},
    {"skip_loop_final_norm", "true", "skip_loop_final_norm is set; Fathom does not know it"},
    {"qk_layernorm", "true", "qk_layernorm is set"},
    {"emb_neighbor_num", "2", "emb_neighbor_num is set"},
    {"enable_double_loop_split", "true", "enable_double_loop_split is set"},
    {"loop_middle_layers", "11", "loop_middle_layers is set"},
    {"loop_share_kv", "true", "loop_share_kv is set"},
    {"enable_hyper_connection", "true", "enable_hyper_connection is set"},
    {"enable_mhc", "1", "enable_mhc is set"},
    {"enable_depth_attention", "true", "enable_depth_attention is set"},
    {"insert_ngram_layer_idx", "[0]", "insert_ngram_layer_idx is set"},
    {"attention_bias", "true", "attention_bias is true"},
    {"mlp_bias", "true", "mlp_bias is true"},
    {"hidden_act", "\"relu\"", "hidden_act is \"relu\""},
    {"layer_types", "[\"full_attention\"]", "layer_types must list all 3 layers"},
    {"rope_scaling", "{\"type\": \"yarn\", \"factor\": 4}", "type is \"yarn\""},
    {"quantization_config", "{\"quant_method\": \"fp8\"}", "quantization_config is set"},
};

Test(nanbeige, every_key_that_would_change_the_arithmetic_is_refused_by_name) {
    published_refuses_keys("nanbeige", bad, ARRAY_LEN(bad));
    char weights[1100] = "[0";
    for (int i = 1; i < 256; i++)
        strcat(weights, ",0");
    const bad_key many = {"loop_loss_weights", strcat(weights, "]"),
                          "loop_loss_weights has 256 entries, expected at most 255"};
    published_refuses_keys("nanbeige", &many, 1);
}

Test(nanbeige, a_missing_or_misshapen_tensor_is_named_with_what_was_expected_and_found) {
    static const bad_tensor rows[] = {
        {"lm_head.weight", NULL, "lm_head.weight is missing, expected [113, 64]"},
        {"model.norm.weight", NULL, "model.norm.weight is missing, expected [64]"},
        {"model.layers.2.self_attn.q_proj.weight", "[64,96]",
         "self_attn.q_proj.weight has shape [64, 96], expected [96, 64]"},
        {"model.layers.0.self_attn.k_proj.weight", NULL, "k_proj.weight is missing, expected [32"},
    };
    published_refuses_tensors("nanbeige", rows, ARRAY_LEN(rows));
}
