/* test_parcae.c - Parcae's folder as its converter writes it: a dump of a dataclass, value
 * embeddings by the names of tensors, and refusals by name. */
#include "tests/lib/published.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <float.h>
#include <math.h>

TestSuite(parcae, .fini = fail_on_leaks);

Test(parcae, the_published_keys_give_the_plan_of_the_family) {
    model_folder *model;
    err e = {0};
    cr_assert_eq(model_open(&model, "tests/golden/families/parcae", &e), 0, "%s", e.msg);
    const model_plan *plan = model_plan_of(model);
    cr_assert_str_eq(plan_family_name(plan), "parcae", "known by _class_name alone");
    cr_assert(plan->n_prelude == 2 && plan->n_core == 2 && plan->n_coda == 2);
    cr_assert(plan->norms == NORM_PRE && plan->core_ffn == FFN_HALF_RELU2 &&
              plan->end_ffn == FFN_HALF_RELU2);
    cr_assert(plan->qk_norm == QK_NORM_HEAD_UNIT && plan->qk_norm_eps == FLT_EPSILON);
    cr_assert(!plan->rope_halves && plan->rope_theta == 50000 && plan->head_dim == 32);
    cr_assert(plan->inject == INJECT_DIAGONAL && plan->input_norm);
    cr_assert(plan->coda_in == CODA_IN_LINEAR && plan->final_norm && plan->tied_head);
    cr_assert_eq(plan->state0, STATE_ZERO, "the golden file asks for it");
    cr_assert(plan->exit == EXIT_FIXED && plan_allows_exit(plan, EXIT_LATENT_DIFF));
    cr_assert(plan->loops_default == 8 && plan_loops_ceiling(plan) == 16);
    for (uint32_t i = 0; i < 6; i++)
        cr_assert_eq(plan_value_embed(plan, i), i % 2 == 1, "layer %u", i);
    model_close(model);
}

Test(parcae, a_key_may_be_absent_or_spelt_as_in_other_files_and_is_written_back) {
    static const struct {
        const char *key, *value;
    } good[] = {
        {"model_type", "\"parcae\""},
        {"state_init", "\"like-init\""},
        {"state_init", NULL},
        {"padded_vocab_size", NULL},
        {"qk_norm", NULL},
        {"mean_backprop_depth", "7"},
        {"sampling_scheme", "\"fixed\""},
        {"skip_initialization", "true"},
        {"rope_settings.use_rope", NULL},
        {"rope_settings.rope_condense_ratio", NULL},
        {"rope_settings.rope_base", "1e4"},
        {"recurrent_embedding_dimension", "null"},
        {"recurrent_num_attention_heads", "2"},
        {"exit_threshold", "0.01"},
        {"exit_threshold", "0"},
        {"num_key_value_heads", "1"},
    };
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        model_plan plan;
        err e = {0};
        cr_assert_eq(published_parse("parcae", good[i].key, good[i].value, &plan, &e), 0,
                     "row %zu: %s", i, e.msg);
        published_reads_back(&plan);
    }
    model_plan plan;
    err e = {0};
    cr_assert_eq(published_parse("parcae", "state_init", "\"like-init\"", &plan, &e), 0);
    cr_assert_eq(plan.state0, STATE_SEEDED);
    cr_assert_float_eq(plan.state0_std, sqrt(2.0 / (5 * 64)), 1e-7);
    cr_assert_eq(published_parse("parcae", "exit_threshold", "0.01", &plan, &e), 0);
    cr_assert(plan.exit == EXIT_LATENT_DIFF && plan.exit_threshold == 0.01f);
}

static const bad_key bad[] = {
    {"_class_name", NULL, "\"model_type\" is missing"},
    {"n_embd", "16", "n_embd is 16, expected at least 32: the value gates read so many"},
    {"num_attention_heads", NULL, "\"num_attention_heads\" is missing"},
    {"n_layers_in_coda", "1021", "prelude, core and coda have 1025 layers, expected at most 1024"},
    {"bias", "true", "bias is true"},
    {"qk_bias", "true", "qk_bias is true"},
    {"qk_norm", "false", "qk_norm is false; Fathom knows only true for this family"},
    {"prelude_norm", "false", "prelude_norm is false"},
    {"tie_embeddings", "false", "tie_embeddings is false"},
    {"tie_embeddings", "1", "tie_embeddings is a number"},
    {"block_class_name", "\"SandwichBlock\"", "block_class_name is \"SandwichBlock\""},
    {"norm_class_name", "\"LayerNorm\"", "norm_class_name is \"LayerNorm\""},
    {"mlp_class_name", "\"GatedMLP\"", "mlp_class_name is \"GatedMLP\""},
    {"nonlin_name", "\"GELU\"", "nonlin_name is \"GELU\""},
    {"injection_type", "\"linear\"", "injection_type is \"linear\", expected \"diagonal\""},
    {"init_strategy", "\"takase\"", "init_strategy is \"takase\""},
    {"recurrent_iteration_method", "\"per-token\"", "recurrent_iteration_method is \"per-token\""},
    {"model_class_name", "\"GPT\"", "model_class_name is \"GPT\""},
    {"state_init", "\"embed\"", "state_init is \"embed\", expected \"like-init\" or \"zero\""},
    {"clip_qkv", "8", "clip_qkv is set"},
    {"logit_softcap", "30", "logit_softcap is set"},
    {"randomize_positions_from", "4096", "randomize_positions_from is set"},
    {"recurrent_num_attention_heads", "4", "recurrent_num_attention_heads is 4, but the other"},
    {"recurrent_embedding_dimension", "32",
     "recurrent_embedding_dimension is 32, but the other layers have 64"},
    {"recurrent_intermediation_embedding_dimension", "128", "but the other layers have 256"},
    {"use_abacus", "true", "use_abacus is true"},
    {"debias_attention", "true", "debias_attention is true"},
    {"center_attention", "true", "center_attention is true"},
    {"lockstep_n", "true", "lockstep_n is true"},
    {"rope_settings", NULL, "\"rope_settings\" is missing"},
    {"rope_settings", "null", "rope_settings must be an object"},
    {"rope_settings.use_rope", "false", "use_rope is false"},
    {"rope_settings.rope_condense_ratio", "2", "rope_condense_ratio is 2, expected 1"},
    {"rope_settings.rope_base", NULL, "\"rope_base\" is missing"},
    {"mup_model_scaling_factor", "2", "mup_model_scaling_factor is set and not known"},
    {"mean_recurrence", "0", "mean_recurrence is 0"},
};

Test(parcae, every_key_that_would_change_the_arithmetic_is_refused_by_name) {
    published_refuses_keys("parcae", bad, ARRAY_LEN(bad));
}

Test(parcae, a_missing_or_misshapen_tensor_is_named_with_what_was_expected_and_found) {
    static const bad_tensor rows[] = {
        {"transformer.C.weight", NULL, "transformer.C.weight is missing, expected [64, 64]"},
        {"transformer.adapter.A_log", NULL, "adapter.A_log is missing, expected [64]"},
        {"transformer.ln_prelude.weight", NULL, "ln_prelude.weight is missing"},
        {"transformer.core_block.1.attn.ve_gate.weight", "[32,2]",
         "core_block.1.attn.ve_gate.weight has shape [32, 2], expected [2, 32]"},
        {"value_embeds.5.weight", "[64,128]",
         "value_embeds.5.weight has shape [64, 128], expected [128, 64]"},
        {"transformer.prelude.0.mlp.fc.weight", "[64,256]", "expected [256, 64]"},
    };
    published_refuses_tensors("parcae", rows, ARRAY_LEN(rows));
}

/* As in the published code: a layer adds to its values only with both. */
Test(parcae, a_layer_without_gate_or_table_has_no_value_embedding) {
    static const char *const gone[] = {"value_embeds.3.weight",
                                       "transformer.core_block.1.attn.ve_gate.weight"};
    for (size_t i = 0; i < ARRAY_LEN(gone); i++) {
        tmp_dir dir = published_copy("parcae");
        st_file file = st_read(dir.path, "model.safetensors");
        json_object_set_new(file.header, "unused", json_incref(st_tensor(&file, gone[i])));
        json_object_del(file.header, gone[i]);
        st_write(&file, dir.path, "model.safetensors");
        st_free(&file);
        model_folder *model;
        err e = {0};
        cr_assert_eq(model_open(&model, dir.path, &e), 0, "%s", e.msg);
        cr_assert(!plan_value_embed(model_plan_of(model), 3));
        cr_assert(plan_value_embed(model_plan_of(model), 1));
        model_close(model);
        tmp_dir_remove(&dir);
    }
}
