/* test_huginn.c - Huginn's folder and the folders of models retrofitted with its loop: accepted
 * keys, the style of the layers by the names of tensors, slices of tensors, and refusals by name.
 */
#include "model/model_internal.h"
#include "tests/lib/published.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

TestSuite(huginn, .fini = fail_on_leaks);

static model_folder *open_folder(const char *dir) {
    model_folder *model;
    err e = {0};
    cr_assert_eq(model_open(&model, dir, &e), 0, "%s", e.msg);
    return model;
}

/* ---- config.json ---- */

Test(huginn, the_published_keys_give_the_plan_of_the_family) {
    model_folder *model = open_folder("tests/golden/families/huginn");
    const model_plan *plan = model_plan_of(model);
    cr_assert_str_eq(plan_family_name(plan), "huginn");
    cr_assert(plan->n_prelude == 2 && plan->n_core == 4 && plan->n_coda == 2);
    cr_assert(plan->norms == NORM_AFTER && plan->qk_bias && plan->qk_norm == QK_NORM_NONE);
    cr_assert(!plan->rope_halves && plan->rope_theta == 50000 && plan->embed_scale == 8);
    cr_assert(plan->inject == INJECT_LINEAR && plan->state0 == STATE_SEEDED);
    cr_assert_float_eq(plan->state0_std, 0.0790569 * 8, 1e-6);
    cr_assert(plan->coda_in == CODA_IN_NORM && plan->final_norm && plan->tied_head);
    cr_assert_eq(plan->exit_threshold, exit_rule_never(EXIT_LATENT_DIFF), "every loop runs");
    cr_assert(plan->exit == EXIT_LATENT_DIFF && plan_allows_exit(plan, EXIT_COSINE) &&
              plan_allows_exit(plan, EXIT_FIXED) && !plan_allows_exit(plan, EXIT_HAZARD));
    cr_assert(plan->loops_default == 8 && plan_loops_ceiling(plan) == 16);
    cr_assert(plan->halted_kv == KV_LAST && plan->full_prompts);
    model_close(model);
}

Test(huginn, the_names_of_tensors_tell_a_retrofitted_model_and_the_places_of_its_norms) {
    static const struct {
        const char *dir;
        norm_place norms;
        qk_norm_kind qk_norm;
        float factor;
    } rows[] = {{"tests/golden/families/retro_llama", NORM_PRE, QK_NORM_NONE, 32},
                {"tests/golden/families/retro_olmo", NORM_POST, QK_NORM_FULL, 0}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        model_folder *model = open_folder(rows[i].dir);
        const model_plan *plan = model_plan_of(model);
        cr_assert_str_eq(plan_family_name(plan), "retrofitted");
        cr_assert(plan->norms == rows[i].norms && plan->qk_norm == rows[i].qk_norm);
        cr_assert(plan->rope_halves && !plan->qk_bias && plan->coda_in == CODA_IN_NONE);
        cr_assert(!plan->tied_head && plan->embed_scale == 1 && plan->final_norm);
        cr_assert_eq(plan->scaling.factor, rows[i].factor);
        cr_assert_eq(plan->layer_values, 2 * 2 * 16);
        model_close(model);
    }
}

/* Every key of the published repository. */
Test(huginn, the_config_as_its_authors_publish_it_is_accepted) {
    static const char text[] =
        "{\"architecture_class_name\": \"RecurrentGPT\", \"architectures\": "
        "[\"RavenForCausalLM\"], \"auto_map\": {\"AutoConfig\": "
        "\"raven_config_minimal.RavenConfig\"}, \"bias\": false, \"block_class_name\": "
        "\"SandwichBlock\", \"block_size\": 4096, \"bos_token_id\": 65504, "
        "\"effective_expected_depth\": 132, \"eos_token_id\": 65505, \"head_dim\": 96, "
        "\"init_orthogonal\": false, \"init_strategy\": \"takase\", \"init_values\": "
        "{\"embed_scale\": 72.6636084983398, \"embedding\": 0.008703882797784892, \"out_proj\": "
        "0.0005356869554443541, \"std\": 0.008703882797784892}, \"injection_type\": \"linear\", "
        "\"intermediate_size\": 17920, \"mean_backprop_depth\": 8, \"mean_recurrence\": 32, "
        "\"mlp_class_name\": \"GatedMLP\", \"model_type\": \"huginn_raven\", \"n_embd\": 5280, "
        "\"n_heads\": 55, \"n_layers\": 8, \"n_layers_in_coda\": 2, \"n_layers_in_prelude\": 2, "
        "\"n_layers_in_recurrent_block\": 4, \"nonlin_name\": \"SiLU\", \"norm_class_name\": "
        "\"RMSNorm_llama\", \"norm_eps\": 1e-06, \"num_key_value_heads\": 55, "
        "\"num_attention_heads\": 55, \"pad_token_id\": 65509, \"padded_vocab_size\": 65536, "
        "\"padding_multiple\": 4096, \"qk_bias\": true, \"rope_base\": 50000, "
        "\"sampling_scheme\": \"poisson-lognormal-filling\", \"state_init\": \"like-init\", "
        "\"test_time_noise\": 0, \"test_time_noise_type\": \"fixed\", \"tie_embeddings\": true, "
        "\"tie_word_embeddings\": true, \"torch_dtype\": \"float32\", \"transformers_version\": "
        "\"4.47.1\", \"vocab_size\": 65536}";
    model_plan plan, variant;
    err e = {0};
    cr_assert_eq(plan_parse(&plan, text, sizeof text - 1, "config.json", &e), 0, "%s", e.msg);
    cr_assert_eq(plan_variant(&variant, "huginn_0125", &e), 0, "%s", e.msg);
    cr_assert_eq(memcmp(&plan, &variant, sizeof plan), 0, "the variant is the published model");
    cr_assert_float_eq(plan.state0_std, 0.632455, 1e-5);
}

static const struct {
    const char *family, *key, *value;
} good[] = {
    {"huginn", "head_dim", NULL},
    {"huginn", "padded_vocab_size", NULL},
    {"huginn", "tie_embeddings", NULL},
    {"huginn", "injection_type", NULL},
    {"huginn", "state_init", NULL},
    {"huginn", "state_init", "\"zero\""},
    {"huginn", "initial_state_mode", "\"random\""},
    {"huginn", "test_time_noise", "0.0"},
    {"huginn", "block_class_name", "\"SandwichBlock\""},
    {"huginn", "num_attention_heads", "4"},
    {"huginn", "exit_threshold", "0"},
    {"huginn", "exit_threshold", "0.03"},
    {"huginn", "init_values.std", "0"},
    {"huginn", "eos_token_id", "[100, 101]"},
    {"retro_llama", "rope_theta", NULL},
    {"retro_llama", "rope_base", NULL},
    {"retro_llama", "max_position_embeddings", NULL},
    {"retro_llama", "rope_scaling.type", "\"llama3\""},
    {"retro_llama", "rope_scaling", "{\"type\": \"default\"}"},
    {"retro_llama", "padded_vocab_size", "128"},
    {"retro_llama", "block_class_name", "\"TransformerPreNormBlock\""},
};

Test(huginn, a_key_may_be_absent_or_spelt_as_in_other_files_and_is_written_back) {
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        model_plan plan;
        err e = {0};
        cr_assert_eq(published_parse(good[i].family, good[i].key, good[i].value, &plan, &e), 0,
                     "row %zu: %s", i, e.msg);
        published_reads_back(&plan);
    }
}

Test(huginn, keys_with_an_effect_have_it) {
    model_plan plan;
    err e = {0};
    cr_assert_eq(published_parse("huginn", "exit_threshold", "0.03", &plan, &e), 0, "%s", e.msg);
    cr_assert_float_eq(plan.exit_threshold, 0.03, 1e-7);
    cr_assert_eq(published_parse("huginn", "state_init", "\"zero\"", &plan, &e), 0, "%s", e.msg);
    cr_assert_eq(plan.state0, STATE_ZERO);
    cr_assert_eq(published_parse("huginn", "padded_vocab_size", "192", &plan, &e), 0, "%s", e.msg);
    cr_assert_eq(plan.vocab_size, 192, "the table has the padded number of rows");
    cr_assert_eq(published_parse("retro_llama", "rope_theta", "1e4", &plan, &e), 0, "%s", e.msg);
    cr_assert_eq(plan.rope_theta, 10000, "rope_theta goes before rope_base");
    cr_assert_eq(published_parse("retro_llama", "block_size", "64", &plan, &e), 0, "%s", e.msg);
    cr_assert_eq(plan.max_seq_len, 128, "block_size is the length of training only");
    cr_assert(plan.scaling.low == 1 && plan.scaling.high == 4 && plan.scaling.original == 64);
}

static const bad_key bad[] = {
    {"n_embd", "0", "n_embd is 0"},
    {"intermediate_size", NULL, "\"intermediate_size\" is missing"},
    {"n_heads", "0", "n_heads is 0"},
    {"n_heads", NULL, "\"num_attention_heads\" is missing"},
    {"num_key_value_heads", "3", "num_key_value_heads is 3, expected a divisor of n_heads = 4"},
    {"num_key_value_heads", "2",
     "num_key_value_heads is 2, expected as many as heads with qk_bias"},
    {"head_dim", "15", "head_dim is 15, expected an even number"},
    {"vocab_size", "1", "vocab_size is 1"},
    {"padded_vocab_size", "100", "padded_vocab_size is 100, expected 128 to"},
    {"block_size", "0", "block_size is 0"},
    {"n_layers_in_prelude", "-1", "n_layers_in_prelude is -1"},
    {"n_layers_in_recurrent_block", "0", "n_layers_in_recurrent_block is 0"},
    {"n_layers_in_coda", "5000", "n_layers_in_coda is 5000, expected 0 to 1024"},
    {"mean_recurrence", "0", "mean_recurrence is 0"},
    {"mean_recurrence", "257", "mean_recurrence is 257, expected 1 to 256"},
    {"norm_eps", "0", "norm_eps is 0"},
    {"rope_base", "0", "rope_base is 0"},
    {"rope_base", NULL, "\"rope_base\" is missing"},
    {"bias", "true", "bias is true"},
    {"qk_bias", "1", "qk_bias is a number"},
    {"tie_embeddings", "\"no\"", "tie_embeddings is a string"},
    {"injection_type", "\"add\"", "injection_type is \"add\", expected \"linear\""},
    {"state_init", "\"normal\"", "state_init is \"normal\", expected \"like-init\" or \"zero\""},
    {"initial_state_mode", "\"embed-init\"", "initial_state_mode is \"embed-init\""},
    {"test_time_noise", "0.1", "test_time_noise is 0.1, expected 0: Fathom adds no noise"},
    {"block_class_name", "\"MoEBlock\"", "block_class_name is \"MoEBlock\""},
    {"norm_class_name", "\"LayerNorm\"", "norm_class_name is \"LayerNorm\""},
    {"mlp_class_name", "\"BaseMLP\"", "mlp_class_name is \"BaseMLP\""},
    {"nonlin_name", "\"GELU\"", "nonlin_name is \"GELU\""},
    {"hidden_act", "\"gelu\"", "hidden_act is \"gelu\""},
    {"init_values", NULL, "\"init_values\" is missing"},
    {"init_values", "1", "init_values must be an object"},
    {"init_values.std", "-1", "std is -1"},
    {"init_values.std", NULL, "\"std\" is missing"},
    {"init_values.embed_scale", "0", "embed_scale is 0"},
    {"init_values.embed_scale", NULL, "\"embed_scale\" is missing"},
    {"exit_threshold", "-0.1", "exit_threshold is -0.1"},
    {"exit_threshold", "\"auto\"", "exit_threshold is a string"},
    {"quantization_config", "{\"quant_method\": \"fp8\"}", "quantization_config is set"},
    {"use_qk_norm", "true", "use_qk_norm is set and not known"},
};

static const bad_key bad_rope[] = {
    {"rope_scaling.rope_type", "\"linear\"",
     "rope_type is \"linear\", expected \"default\" or \"llama3\""},
    {"rope_scaling.rope_type", "\"yarn\"", "rope_type is \"yarn\""},
    {"rope_scaling.type", "\"default\"", "rope_type is \"llama3\", but type is \"default\""},
    {"rope_scaling.factor", NULL, "\"factor\" is missing"},
    {"rope_scaling.factor", "0", "factor is 0"},
    {"rope_scaling.low_freq_factor", "\"1\"", "low_freq_factor is a string"},
    {"rope_scaling.high_freq_factor", "1", "high_freq_factor is 1, expected above low_freq"},
    {"rope_scaling.original_max_position_embeddings", "0", "original_max_position_embeddings is 0"},
    {"rope_scaling.attention_factor", "1.2", "attention_factor is set and not known"},
    {"rope_scaling", "[32]", "rope_scaling is set"},
    {"max_position_embeddings", "0", "max_position_embeddings is 0"},
    {"n_heads", "5", "num_key_value_heads is 2, expected a divisor of n_heads = 5"},
};

Test(huginn, every_key_that_would_change_the_arithmetic_is_refused_by_name) {
    published_refuses_keys("huginn", bad, ARRAY_LEN(bad));
    published_refuses_keys("retro_llama", bad_rope, ARRAY_LEN(bad_rope));
}

/* ---- token ids ---- */

static bool no_tensor(const void *ud, const char *name) {
    (void)ud, (void)name;
    return false;
}

Test(huginn, end_tokens_of_another_tokenizer_are_dropped) {
    model_plan plan;
    err e = {0};
    cr_assert_eq(plan_variant(&plan, "retro_llama_1b", &e), 0, "%s", e.msg);
    plan.n_eos = 3;
    plan.eos_ids[0] = 65505;
    plan.eos_ids[1] = 128001;
    plan.eos_ids[2] = 65509;
    plan.family->refine(&plan, no_tensor, NULL);
    cr_assert(plan.n_eos == 1 && plan.eos_ids[0] == 128001 && plan.eos_ids[1] == 0);
    plan.vocab_size = 65536;
    plan.eos_ids[0] = 65505;
    plan.family->refine(&plan, no_tensor, NULL);
    cr_assert(plan.n_eos == 1 && plan.eos_ids[0] == 65505, "they are right for Huginn");
}

/* ---- tensors ---- */

static model_tensor core_tensor(const model_folder *model, tensor_role role) {
    model_tensor tensor;
    cr_assert(model_find(model, (tensor_place){.role = role, .stage = PART_OF_CORE}, &tensor));
    return tensor;
}

Test(huginn, matrices_stored_together_are_found_one_by_one) {
    model_folder *model = open_folder("tests/golden/families/huginn");
    model_tensor q = core_tensor(model, TENSOR_WQ), k = core_tensor(model, TENSOR_WK),
                 v = core_tensor(model, TENSOR_WV), gate = core_tensor(model, TENSOR_GATE),
                 up = core_tensor(model, TENSOR_UP), q_bias = core_tensor(model, TENSOR_Q_BIAS),
                 k_bias = core_tensor(model, TENSOR_K_BIAS);
    const char *first = q.data;
    cr_assert(q.rank == 2 && q.shape[0] == 64 && q.shape[1] == 64 && q.bytes == 16384);
    cr_assert((const char *)k.data == first + 16384 && (const char *)v.data == first + 32768);
    cr_assert(gate.shape[0] == 96 && (const char *)up.data == (const char *)gate.data + gate.bytes);
    cr_assert(q_bias.rank == 1 && q_bias.shape[0] == 64 && k_bias.n_values == 64);
    cr_assert((const char *)k_bias.data == (const char *)q_bias.data + 256);
    model_close(model);
}

Test(huginn, a_missing_or_misshapen_tensor_is_named_with_what_was_expected_and_found) {
    static const bad_tensor rows[] = {
        {"transformer.core_block.3.attn.Wqkv.weight", NULL,
         "transformer.core_block.3.attn.Wqkv.weight is missing, expected [192, 64]"},
        {"transformer.prelude.0.attn.qk_bias", "[2,64]",
         "prelude.0.attn.qk_bias has shape [2, 64], expected [2, 1, 4, 16]"},
        {"transformer.coda.1.mlp.fc.weight", "[96,128]",
         "coda.1.mlp.fc.weight has shape [96, 128], expected [192, 64]"},
        {"transformer.adapter.weight", "[128,64]",
         "adapter.weight has shape [128, 64], expected [64, 128]"},
        {"transformer.coda.0.norm_4.weight", NULL, "coda.0.norm_4.weight is missing"},
        {"transformer.ln_f.weight", NULL, "ln_f.weight is missing, expected [64]"},
    };
    static const bad_tensor untied[] = {
        {"lm_head.weight", NULL, "lm_head.weight is missing, expected [97, 64]"},
        {"transformer.coda.1.attn.k_norm.weight", "[8,4]",
         "k_norm.weight has shape [8, 4], expected [32]"},
    };
    published_refuses_tensors("huginn", rows, ARRAY_LEN(rows));
    published_refuses_tensors("retro_olmo", untied, ARRAY_LEN(untied));
}

/* Adds lm_head.weight, the bytes of the embedding, with one value changed in `row` (or -1). */
static tmp_dir with_copied_head(int row) {
    enum { ROWS = 128, COLS = 64, BYTES = ROWS * COLS * 4 };
    tmp_dir dir = published_copy("huginn");
    st_file file = st_read(dir.path, "model.safetensors");
    file.data = realloc(file.data, file.n_data + BYTES);
    float *head = (float *)(void *)(file.data + file.n_data);
    memcpy(head, st_bytes(&file, "transformer.wte.weight"), BYTES);
    if (row >= 0) head[row * COLS + 5] += 1;
    json_object_set_new(file.header, "lm_head.weight",
                        json_pack("{s:s, s:[i,i], s:[I,I]}", "dtype", "F32", "shape", ROWS, COLS,
                                  "data_offsets", (json_int_t)file.n_data,
                                  (json_int_t)(file.n_data + BYTES)));
    file.n_data += BYTES;
    st_write(&file, dir.path, "model.safetensors");
    st_free(&file);
    return dir;
}

Test(huginn, a_second_copy_of_the_tied_head_must_equal_the_embedding) {
    err e = {0};
    model_tensor head;
    tmp_dir equal = with_copied_head(-1), first = with_copied_head(0), third = with_copied_head(3);
    model_folder *model = open_folder(equal.path);
    cr_assert_eq(model_check(model, &e), 0, "%s", e.msg);
    cr_assert(!model_find(model, (tensor_place){.role = TENSOR_HEAD}, &head));
    model_folder *plain = open_folder("tests/golden/families/huginn");
    cr_assert_eq(model_params(model), model_params(plain), "the copy counts for nothing");
    model_close(plain);
    model_close(model);
    published_refuses_folder(first.path, "lm_head.weight differs from transformer.wte.weight at "
                                         "row 0");
    model = open_folder(third.path); /* the sample misses this row, the whole check finds it */
    cr_assert_eq(model_check(model, &e), -1);
    cr_assert(strstr(e.msg, "differs from transformer.wte.weight at row 3"), "%s", e.msg);
    model_close(model);
    tmp_dir_remove(&equal), tmp_dir_remove(&first), tmp_dir_remove(&third);
}
