/* test_ouro.c - Ouro's folder as its authors publish it: accepted keys of config.json, required
 * tensors, and refusals by name. */
#include "model/model.h"
#include "tests/lib/published.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

TestSuite(ouro, .fini = fail_on_leaks);

static int parse(const char *key, const char *value, model_plan *plan, err *e) {
    return published_parse("ouro", key, value, plan, e);
}

Test(ouro, the_published_keys_give_the_plan_of_the_family) {
    model_plan plan;
    err e = {0};
    cr_assert_eq(parse("unused", "1", &plan, &e), 0, "%s", e.msg);
    cr_assert_str_eq(plan_family_name(&plan), "ouro");
    cr_assert(plan.n_prelude == 0 && plan.n_core == 3 && plan.n_coda == 0);
    cr_assert(plan.norms == NORM_SANDWICH && plan.inject == INJECT_NONE && plan.loop_norm);
    cr_assert(plan.exit == EXIT_HAZARD && plan.output == OUTPUT_STATE && !plan.final_norm);
    cr_assert(plan.rope_halves && plan.core_ffn == FFN_SWIGLU && plan.ffn_dim == 96);
    cr_assert_eq(plan.exit_threshold, 1);
    cr_assert(plan.loops_default == 4 && plan.loops_cap == 4 && plan_loops_ceiling(&plan) == 4);
    cr_assert_eq(plan.layer_values, 2 * 4 * 16);
    cr_assert_eq(plan.slot_values, 3 * 2 * 4 * 16, "a slot holds all layers of a loop");
    cr_assert_eq(plan_planes(&plan, 4), 4);
}

/* Every key of the published repositories, and the keys that transformers adds. */
Test(ouro, the_config_as_its_authors_publish_it_is_accepted) {
    static const char text[] =
        "{\"architectures\": [\"OuroForCausalLM\"], \"attention_dropout\": 0.0, \"auto_map\": "
        "{\"AutoConfig\": \"configuration_ouro.OuroConfig\", \"AutoModelForCausalLM\": "
        "\"modeling_ouro.OuroForCausalLM\"}, \"bos_token_id\": 0, \"eos_token_id\": 0, "
        "\"early_exit_threshold\": 1.0, \"head_dim\": 128, \"hidden_act\": \"silu\", "
        "\"hidden_size\": 2048, \"initializer_range\": 0.02, \"intermediate_size\": 5632, "
        "\"layer_types\": [\"full_attention\", \"full_attention\"], "
        "\"max_position_embeddings\": 65536, \"max_window_layers\": 24, \"model_type\": \"ouro\", "
        "\"num_attention_heads\": 16, \"num_hidden_layers\": 2, \"num_key_value_heads\": 16, "
        "\"rms_norm_eps\": 1e-06, \"rope_scaling\": null, \"rope_theta\": 1000000.0, "
        "\"sliding_window\": null, \"tie_word_embeddings\": false, \"torch_dtype\": "
        "\"bfloat16\", \"total_ut_steps\": 4, \"transformers_version\": \"4.55.0\", "
        "\"use_cache\": true, \"use_sliding_window\": false, \"vocab_size\": 49152}";
    model_plan plan;
    err e = {0};
    cr_assert_eq(plan_parse(&plan, text, sizeof text - 1, "config.json", &e), 0, "%s", e.msg);
    cr_assert(plan.dim == 2048 && plan.n_core == 2 && plan.loops_cap == 4 &&
              plan.vocab_size == 49152);
    cr_assert(plan.n_eos == 1 && plan.eos_ids[0] == 0);
}

/* Spellings of other versions of the files, and their meaning. */
Test(ouro, a_key_may_be_absent_null_or_spelt_as_newer_files_do) {
    static const struct {
        const char *key, *value;
        float threshold;
        uint32_t loops;
    } good[] = {
        {"early_exit_threshold", NULL, 1, 4},
        {"early_exit_threshold", "null", 1, 4},
        {"early_exit_threshold", "0.5", 0.5f, 4},
        {"early_exit_threshold", "7", 1, 4},
        {"early_exit_step", "null", 1, 4},
        {"early_exit_step", "1", 1, 2},
        {"num_key_value_heads", NULL, 1, 4},
        {"head_dim", NULL, 1, 4},
        {"rope_scaling", NULL, 1, 4},
        {"layer_types", NULL, 1, 4},
        {"layer_types", "null", 1, 4},
        {"use_sliding_window", NULL, 1, 4},
        {"quantization_config", "null", 1, 4},
        {"sliding_window", "4096", 1, 4},
        {"max_window_layers", "24", 1, 4},
        {"initializer_range", "0.02", 1, 4},
        {"attn_softcap", "null", 1, 4},
        {"residual_multiplier", "1.0", 1, 4},
        {"num_experts", "0", 1, 4},
        {"attention_dropout", "0.0", 1, 4},
        {"transformers_version", "\"4.55.0\"", 1, 4},
        {"rope_parameters", "{\"rope_theta\": 5e5, \"rope_type\": \"default\"}", 1, 4},
        {"rope_parameters", "{\"rope_theta\": 5e5, \"partial_rotary_factor\": 1.0}", 1, 4},
        {"rope_scaling", "{\"rope_type\": \"default\"}", 1, 4},
        {"rope_scaling", "{\"type\": \"default\", \"factor\": 1}", 1, 4},
        {"grad_norm", "0.73", 1, 4},
        {"max_grad_norm", "1.0", 1, 4},
        {"clip_grad_norm", "2.5", 1, 4},
        {"gradient_clipping", "0.5", 1, 4},
        {"gradient_checkpointing", "true", 1, 4},
        {"activation_checkpointing", "true", 1, 4},
        {"label_smoothing", "0.1", 1, 4},
        {"label_smoothing_factor", "0.1", 1, 4},
        {"lr_scale", "3", 1, 4},
        {"loss_scale", "65536", 1, 4},
        {"initializer_factor", "0.5", 1, 4},
        {"expert_parallel_size", "8", 1, 4},
        {"expert_dropout", "0.1", 1, 4},
        {"router_aux_loss_factor", "0.001", 1, 4},
        {"normDropout", "0.1", 1, 4},
        {"property", "\"ours\"", 1, 4},
        {"made_in_europe", "true", 1, 4},
        {"use_actor", "true", 1, 4},
        {"fact_checked", "true", 1, 4},
        {"refactored", "true", 1, 4},
        {"rope_kind", "\"default\"", 1, 4},
        {"tie_word_embeddings", "true", 1, 4},
        {"eos_token_id", "[0, 2, 2000000]", 1, 4},
    };
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        model_plan plan;
        err e = {0};
        cr_assert_eq(parse(good[i].key, good[i].value, &plan, &e), 0, "%s: %s", good[i].key, e.msg);
        cr_assert_float_eq(plan.exit_threshold, good[i].threshold, 1e-6, "%s", good[i].key);
        cr_assert_eq(plan.loops_default, good[i].loops, "%s", good[i].key);
        published_reads_back(&plan);
    }
}

static const bad_key bad[] = {
    {"model_type", "\"llama\"",
     "model_type is 'llama'; Fathom runs looped models: openmythos, ouro"},
    {"model_type", NULL, "\"model_type\" is missing (the file is a OuroForCausalLM); Fathom runs"},
    {"model_type", "7", "model_type is a number"},
    {"vocab_size", "1", "vocab_size is 1, expected 2 to"},
    {"hidden_size", "0", "hidden_size is 0"},
    {"hidden_size", "64.5", "hidden_size is 64.5, expected a whole number"},
    {"intermediate_size", NULL, "\"intermediate_size\" is missing"},
    {"intermediate_size", "-1", "intermediate_size is -1"},
    {"num_hidden_layers", "0", "num_hidden_layers is 0"},
    {"num_hidden_layers", "100000", "num_hidden_layers is 100000, expected 1 to 1024"},
    {"num_attention_heads", "0", "num_attention_heads is 0"},
    {"num_key_value_heads", "3", "num_key_value_heads is 3, expected a divisor"},
    {"head_dim", "15", "head_dim is 15, expected an even number"},
    {"head_dim", "\"16\"", "head_dim is a string"},
    {"max_position_embeddings", "0", "max_position_embeddings is 0"},
    {"rms_norm_eps", "0", "rms_norm_eps is 0"},
    {"rope_theta", "0", "rope_theta is 0"},
    {"total_ut_steps", "0", "total_ut_steps is 0"},
    {"total_ut_steps", "257", "total_ut_steps is 257, expected 1 to 256"},
    {"early_exit_threshold", "0", "early_exit_threshold is 0, expected above 0"},
    {"early_exit_threshold", "\"1\"", "early_exit_threshold is a string"},
    {"early_exit_step", "4", "early_exit_step is 4, expected 0 to 3"},
    {"rope_scaling", "{\"type\": \"linear\", \"factor\": 2}", "type is \"linear\""},
    {"rope_scaling", "[2.0]", "rope_scaling is set"},
    {"rope_scaling", "{\"rope_type\": \"default\", \"factor\": 2}", "factor is set and not known"},
    {"rope_parameters", "{\"rope_type\": \"yarn\"}", "rope_type is \"yarn\""},
    {"rope_parameters", "{\"rope_theta\": 1e6, \"partial_rotary_factor\": 0.5}",
     "partial_rotary_factor is set and not known"},
    {"rope_parameters", "\"yarn\"", "rope_parameters is set"},
    {"use_sliding_window", "true", "use_sliding_window is true"},
    {"use_sliding_window", "1", "use_sliding_window is a number, expected true or false"},
    {"layer_types", "[\"full_attention\", \"sliding_attention\", \"full_attention\"]",
     "layer_types 1 is 'sliding_attention'"},
    {"layer_types", "[\"full_attention\"]", "layer_types must list all 3 layers"},
    {"hidden_act", "\"gelu\"", "hidden_act is \"gelu\""},
    {"attention_bias", "true", "attention_bias is true"},
    {"quantization_config", "{\"quant_method\": \"fp8\"}", "quantization_config is set"},
    {"attn_logit_softcapping", "30.0", "attn_logit_softcapping is set and not known to Fathom"},
    {"residual_multiplier", "0.22", "residual_multiplier is set and not known"},
    {"partial_rotary_factor", "0.5", "partial_rotary_factor is set and not known"},
    {"use_qk_norm", "true", "use_qk_norm is set and not known"},
    {"num_local_experts", "8", "num_local_experts is set and not known"},
    {"attn_logits_soft_cap", "50", "attn_logits_soft_cap is set and not known"},
    {"attnLogitSoftcap", "50", "attnLogitSoftcap is set and not known"},
    {"qk_layernorm", "true", "qk_layernorm is set and not known"},
    {"use_rmsnorm", "true", "use_rmsnorm is set and not known"},
    {"logit_scale", "0.0625", "logit_scale is set and not known"},
    {"compression_config", "{\"format\": \"int\"}", "compression_config is set and not known"},
    {"tie_word_embeddings", "\"no\"", "tie_word_embeddings is a string"},
    {"eos_token_id", "\"</s>\"", "eos_token_id holds a string, expected token ids"},
    {"eos_token_id", "[0, \"x\"]", "eos_token_id holds a string"},
};

Test(ouro, every_key_that_would_change_the_arithmetic_is_refused_by_name) {
    published_refuses_keys("ouro", bad, ARRAY_LEN(bad));
}

/* A slot would hold 1024 layers of 4096 heads of 4096 values. */
Test(ouro, sizes_in_range_one_by_one_are_refused_where_their_product_is_not) {
    model_plan plan;
    err e = {0};
    static const char text[] =
        "{\"model_type\":\"ouro\",\"vocab_size\":9,\"hidden_size\":8,\"intermediate_size\":8,"
        "\"num_hidden_layers\":1024,\"num_attention_heads\":4096,\"head_dim\":4096,"
        "\"max_position_embeddings\":8,\"rms_norm_eps\":1e-6,\"rope_theta\":1e4,"
        "\"total_ut_steps\":4}";
    cr_assert_eq(plan_parse(&plan, text, sizeof text - 1, "config.json", &e), -1);
    cr_assert(strstr(e.msg, "one loop of one position would cache"), "%s", e.msg);
    static const char wide[] =
        "{\"model_type\":\"ouro\",\"vocab_size\":9,\"hidden_size\":131072,"
        "\"intermediate_size\":8,\"num_hidden_layers\":1,\"num_attention_heads\":2,"
        "\"max_position_embeddings\":8,\"rms_norm_eps\":1e-6,\"rope_theta\":1e4,"
        "\"total_ut_steps\":4}";
    e = (err){0};
    cr_assert_eq(plan_parse(&plan, wide, sizeof wide - 1, "config.json", &e), -1);
    cr_assert(strstr(e.msg, "head_dim is 65536, expected at most 4096"), "%s", e.msg);
}

/* ---- files ---- */

Test(ouro, a_missing_or_misshapen_tensor_is_named_with_what_was_expected_and_found) {
    static const bad_tensor rows[] = {
        {"lm_head.weight", NULL, "tensor lm_head.weight is missing, expected [97, 64]"},
        {"model.norm.weight", NULL, "tensor model.norm.weight is missing, expected [64]"},
        {"model.early_exit_gate.bias", NULL, "early_exit_gate.bias is missing, expected [1]"},
        {"model.layers.2.input_layernorm_2.weight", NULL,
         "tensor model.layers.2.input_layernorm_2.weight is missing, expected [64]"},
        {"model.layers.1.self_attn.k_proj.weight", "[32,128]",
         "tensor model.layers.1.self_attn.k_proj.weight has shape [32, 128], expected [64, 64]"},
        {"model.layers.0.mlp.down_proj.weight", "[96,64]",
         "tensor model.layers.0.mlp.down_proj.weight has shape [96, 64], expected [64, 96]"},
    };
    published_refuses_tensors("ouro", rows, ARRAY_LEN(rows));
}

Test(ouro, a_folder_of_another_family_is_refused_before_its_tensors_are_looked_at) {
    tmp_dir dir = published_copy("ouro");
    char *text = published_edited("ouro", "model_type", "\"qwen3\"");
    file_put(dir.path, "config.json", text, strlen(text));
    free(text);
    published_refuses_folder(dir.path,
                             "model_type is 'qwen3'; Fathom runs looped models: openmythos, ouro");
    tmp_dir_remove(&dir);
}

Test(ouro, shards_hold_the_same_model_as_one_file) {
    tmp_dir dir = tmp_dir_create();
    model_plan plan;
    err e = {0};
    model_folder *one, *many;
    char parts[96];
    (void)snprintf(parts, sizeof parts, "%s/parts", dir.path);
    weights_write(dir.path, "ouro_tiny", DTYPE_F32, 5, 2);
    cr_assert_eq(plan_variant(&plan, "ouro_tiny", &e), 0);
    model_init_opts opts = {.seed = 5, .dtype = DTYPE_F32, .mean_depth = 2, .shard_bytes = 100000};
    cr_assert_eq(model_init_write(parts, &plan, &opts, &e), 0, "%s", e.msg);
    cr_assert_eq(model_open(&one, dir.path, &e), 0, "%s", e.msg);
    cr_assert_eq(model_open(&many, parts, &e), 0, "%s", e.msg);
    cr_assert_eq(model_params(one), model_params(many));
    for (uint32_t layer = 0; layer < plan.n_core; layer++) {
        model_tensor a, b;
        tensor_place at = {.role = TENSOR_WQ, .stage = PART_OF_CORE, .layer = layer};
        cr_assert(model_find(one, at, &a) && model_find(many, at, &b));
        cr_assert(a.bytes == b.bytes && memcmp(a.data, b.data, a.bytes) == 0);
    }
    model_close(one);
    model_close(many);
    tmp_dir_remove(&dir);
}
