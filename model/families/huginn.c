/* huginn.c - Huginn-0125 and the models retrofitted with its loop (Recurrent-Llama-3.2, -TinyLlama,
 * -OLMo-2): a prelude, a core that starts from a seeded state and gets the prelude's output in
 * every loop, and a coda.
 *
 * All have model_type huginn_raven, and config.json does not tell the places of the norms: the
 * names of the tensors do. Keys and names are from the published files and modeling code. */
#include "base/log.h"
#include "model/model_internal.h"

#include <stdio.h>
#include <string.h>

extern const model_family model__huginn, model__retrofitted;

/* ---- reading ---- */

/* Huginn's blocks norm the sum, all others belong to retrofitted models. */
static void set_norms(model_plan *plan, norm_place norms) {
    bool huginn = norms == NORM_AFTER;
    plan->family = huginn ? &model__huginn : &model__retrofitted;
    plan->norms = norms;
    plan->rope_halves = !huginn;
    plan->coda_in = huginn ? CODA_IN_NORM : CODA_IN_NONE;
    plan->qk_norm = norms == NORM_POST ? QK_NORM_FULL : QK_NORM_NONE;
    plan->qk_norm_eps = norms == NORM_POST ? plan->norm_eps : 0;
}

static void complete(model_plan *plan) {
    plan->attn = ATTN_GQA;
    plan->core_ffn = plan->end_ffn = FFN_SWIGLU;
    plan->inject = INJECT_LINEAR;
    if (plan->state0 == STATE_EMBEDDING) plan->state0 = STATE_SEEDED;
    plan->exit = EXIT_LATENT_DIFF;
    plan->exits = 1u << EXIT_LATENT_DIFF | 1u << EXIT_COSINE | 1u << EXIT_FIXED;
    /* The published default runs every loop; a request may ask for the authors' 0.03. */
    if (plan->exit_threshold == 0) plan->exit_threshold = exit_rule_never(EXIT_LATENT_DIFF);
    plan->output = OUTPUT_STATE;
    plan->final_norm = true;
    plan->halted_kv = KV_LAST;
    plan->full_prompts = true;
    set_norms(plan, plan->norms);
}

/* init_values: the embedding is scaled, and the first state is drawn with std * embed_scale. */
static int read_init_values(const model__config *config, model_plan *plan) {
    const json_t *object = model__config_get(config, "init_values");
    if (object == NULL) return -1;
    if (!json_is_object(object))
        return model__config_bad(config, "init_values", "init_values must be an object");
    model__config in = {object, config->what, config->err, NULL};
    float std;
    if (model__config_real(&in, "std", 0, 1e6, "0 to 1e6", &std) != 0 ||
        model__config_real(&in, "embed_scale", 1e-6, 1e6, "1e-6 to 1e6", &plan->embed_scale) != 0)
        return -1;
    /* the file's digits, so that a written plan reads back the same */
    double exact = json_number_value(json_object_get(object, "std"));
    plan->state0_std = (float)(exact * (double)plan->embed_scale);
    return 0;
}

static int refuse_unknown(const model__config *config) {
    static const model__names rows[] = {
        {"block_class_name", {"SandwichBlock", "TransformerPreNormBlock"}},
        {"norm_class_name", {"RMSNorm_llama", "RMSNorm"}},
        {"mlp_class_name", {"GatedMLP", NULL}},
        {"nonlin_name", {"SiLU", NULL}},
        {"hidden_act", {"silu", NULL}},
        {"injection_type", {"linear", NULL}},
        {"initial_state_mode", {"random", NULL}},
    };
    float noise;
    if (model__config_only_names(config, rows, ARRAY_LEN(rows)) != 0) return -1;
    if (!model__config_has(config, "test_time_noise")) return 0;
    return model__config_real(config, "test_time_noise", 0, 0, "0: Fathom adds no noise", &noise);
}

static int read_qk_bias(const model__config *config, model_plan *plan) {
    if (model__config_flag(config, "qk_bias", false, &plan->qk_bias) != 0) return -1;
    if (!plan->qk_bias || plan->n_kv_heads == plan->n_heads) return 0;
    return model__config_bad(config, "num_key_value_heads",
                             "num_key_value_heads is %u, expected as many as heads with qk_bias: "
                             "%u",
                             plan->n_kv_heads, plan->n_heads);
}

/* Without the files, a bias is the best sign of Huginn. */
static int read(const model__config *config, model_plan *plan) {
    bool tied;
    if (model__read_raven_shape(config, plan) != 0 || read_qk_bias(config, plan) != 0 ||
        model__read_rope(config, "rope_base", plan) != 0 || read_init_values(config, plan) != 0 ||
        refuse_unknown(config) != 0 || model__read_raven_exit(config, plan) != 0 ||
        model__config_flag(config, "tie_word_embeddings", true, &tied) != 0 ||
        model__config_flag(config, "tie_embeddings", tied, &plan->tied_head) != 0) {
        return -1;
    }
    /* block_size is the length of training; Llama's RoPE reaches further. */
    if (model__config_has(config, "max_position_embeddings") &&
        model__config_whole(config, "max_position_embeddings", 1, 1u << 24, &plan->max_seq_len) !=
            0) {
        return -1;
    }
    plan->norms = plan->qk_bias ? NORM_AFTER : NORM_PRE;
    complete(plan);
    return 0;
}

/* ---- what the files tell ---- */

/* Retrofitted models were written with the token ids of Huginn's tokenizer, which are ordinary
 * words of theirs. */
static void drop_ids_of_huginn(model_plan *plan) {
    enum { VOCAB = 65536, FIRST = 65504, LAST = 65509 };
    uint32_t n = 0;
    if (plan->vocab_size == VOCAB) return;
    for (uint32_t i = 0; i < plan->n_eos; i++) {
        uint32_t id = plan->eos_ids[i];
        if (id < FIRST || id > LAST) plan->eos_ids[n++] = id;
        else
            log_line(LOG_WARN,
                     "config.json: eos_token_id %u belongs to Huginn's tokenizer, not to this "
                     "model's; ignored",
                     id);
    }
    for (uint32_t i = n; i < plan->n_eos; i++)
        plan->eos_ids[i] = 0;
    plan->n_eos = n;
}

static void refine(model_plan *plan, model__has_tensor has, const void *ud) {
    norm_place norms = has(ud, "transformer.core_block.0.norm_3.weight")        ? NORM_AFTER
                       : has(ud, "transformer.core_block.0.attn.q_norm.weight") ? NORM_POST
                                                                                : NORM_PRE;
    set_norms(plan, norms);
    drop_ids_of_huginn(plan);
}

/* ---- writing ---- */

static void write(buf *out, const model_plan *plan, const char *dtype) {
    bool huginn = plan->norms == NORM_AFTER;
    buf_printf(out,
               "{\n  \"architectures\": [\"RavenForCausalLM\"],\n"
               "  \"model_type\": \"huginn_raven\",\n  \"torch_dtype\": \"%s\",\n"
               "  \"injection_type\": \"linear\",\n  \"qk_bias\": %s,\n  \"tie_embeddings\": %s,\n",
               dtype, plan->qk_bias ? "true" : "false", plan->tied_head ? "true" : "false");
    /* the product of both is the std of the plan, to the bit */
    buf_printf(out, "  \"init_values\": {\"std\": %.17g,\n",
               (double)plan->state0_std / (double)plan->embed_scale);
    model__write_real(out, "embed_scale", plan->embed_scale);
    buf_puts(out, "},\n");
    if (plan->exit_threshold != exit_rule_never(EXIT_LATENT_DIFF)) {
        model__write_real(out, "exit_threshold", plan->exit_threshold);
        buf_puts(out, ",\n");
    }
    model__write_raven_shape(out, plan);
    buf_puts(out, ",\n");
    if (huginn && plan->scaling.factor == 0) {
        model__write_real(out, "rope_base", plan->rope_theta);
    } else {
        buf_printf(out, "  \"max_position_embeddings\": %u,\n", plan->max_seq_len);
        model__write_rope(out, plan);
    }
    buf_puts(out, "\n}\n");
}

/* ---- tensors ---- */

static void want_norms(model__walk *walk) {
    static const tensor_role before[] = {TENSOR_ATTN_NORM, TENSOR_FFN_NORM},
                             after[] = {TENSOR_ATTN_OUT_NORM, TENSOR_FFN_OUT_NORM},
                             both[] = {TENSOR_ATTN_NORM, TENSOR_ATTN_OUT_NORM, TENSOR_FFN_NORM,
                                       TENSOR_FFN_OUT_NORM};
    norm_place norms = walk->plan->norms;
    const tensor_role *roles = norms == NORM_AFTER ? both : norms == NORM_POST ? after : before;
    for (int i = 0; i < (norms == NORM_AFTER ? 4 : 2); i++) {
        char name[24];
        (void)snprintf(name, sizeof name, "norm_%d.weight", i + 1);
        model__want_one(walk, roles[i], MODEL_PART_OTHER, name, walk->plan->dim, 0);
    }
}

static void want_attention(model__walk *walk) {
    const model_plan *plan = walk->plan;
    const model_part part = MODEL_PART_ATTENTION;
    uint64_t dim = plan->dim, q_width = plan_q_width(plan), kv_width = plan_kv_width(plan);
    model__shape all = {2, {q_width + 2 * kv_width, dim}};
    model__shape biases = {4, {2, 1, plan->n_heads, plan->head_dim}};
    static const char name[] = "attn.Wqkv.weight", bias[] = "attn.qk_bias";
    model__want_slice(walk, TENSOR_WQ, part, name, 0, q_width, dim, &all);
    model__want_slice(walk, TENSOR_WK, part, name, q_width, kv_width, dim, &all);
    model__want_slice(walk, TENSOR_WV, part, name, q_width + kv_width, kv_width, dim, &all);
    if (plan->qk_bias) {
        model__want_slice(walk, TENSOR_Q_BIAS, part, bias, 0, q_width, 0, &biases);
        model__want_slice(walk, TENSOR_K_BIAS, part, bias, q_width, kv_width, 0, &biases);
    }
    if (plan->qk_norm == QK_NORM_FULL) {
        model__want_one(walk, TENSOR_Q_NORM, MODEL_PART_OTHER, "attn.q_norm.weight", q_width, 0);
        model__want_one(walk, TENSOR_K_NORM, MODEL_PART_OTHER, "attn.k_norm.weight", kv_width, 0);
    }
    model__want_one(walk, TENSOR_WO, part, "attn.proj.weight", dim, q_width);
}

static void want_layer(model__walk *walk) {
    uint64_t dim = walk->plan->dim, hidden = walk->plan->ffn_dim;
    model__shape both = {2, {2 * hidden, dim}};
    const model_part dense = MODEL_PART_DENSE;
    want_norms(walk);
    want_attention(walk);
    model__want_slice(walk, TENSOR_GATE, dense, "mlp.fc.weight", 0, hidden, dim, &both);
    model__want_slice(walk, TENSOR_UP, dense, "mlp.fc.weight", hidden, hidden, dim, &both);
    model__want_one(walk, TENSOR_DOWN, dense, "mlp.proj.weight", dim, hidden);
}

static void tensors(model__walk *walk) {
    const model_plan *plan = walk->plan;
    const model_part embed = MODEL_PART_EMBED, other = MODEL_PART_OTHER;
    uint64_t dim = plan->dim, vocab = plan->vocab_size;
    model__want_one(walk, TENSOR_EMBED, embed, "transformer.wte.weight", vocab, dim);
    model__want_raven_layers(walk, want_layer);
    model__want_one(walk, TENSOR_INJECT, other, "transformer.adapter.weight", dim, 2 * dim);
    model__want_one(walk, TENSOR_FINAL_NORM, other, "transformer.ln_f.weight", dim, 0);
    if (plan->tied_head) model__want_copy(walk, "lm_head.weight", vocab, dim);
    else model__want_one(walk, TENSOR_HEAD, embed, "lm_head.weight", vocab, dim);
}

/* ---- variants ---- */

static const model__variant huginn_variants[] = {
    {"huginn_tiny",
     {.vocab_size = 320,
      .dim = 64,
      .ffn_dim = 96,
      .n_prelude = 2,
      .n_core = 4,
      .n_coda = 2,
      .norms = NORM_AFTER,
      .norm_eps = 1e-6f,
      .n_heads = 4,
      .n_kv_heads = 4,
      .head_dim = 16,
      .qk_bias = true,
      .rope_theta = 50000,
      .embed_scale = 8,
      .state0_std = 0.632455532f,
      .tied_head = true,
      .max_seq_len = 512,
      .loops_default = 8}},
    {"huginn_0125",
     {.vocab_size = 65536,
      .dim = 5280,
      .ffn_dim = 17920,
      .n_prelude = 2,
      .n_core = 4,
      .n_coda = 2,
      .norms = NORM_AFTER,
      .norm_eps = 1e-6f,
      .n_heads = 55,
      .n_kv_heads = 55,
      .head_dim = 96,
      .qk_bias = true,
      .rope_theta = 50000,
      .embed_scale = 72.6636084983398f,
      .state0_std = 0.632455532f,
      .tied_head = true,
      .max_seq_len = 4096,
      .loops_default = 32,
      .eos_ids = {65505},
      .n_eos = 1}},
};

/* The std is Huginn's, which their files repeat. */
#define RETRO(eps, theta)                                                                          \
    .embed_scale = 1, .state0_std = 0.00870388280f, .norm_eps = (eps), .rope_theta = (theta)

static const model__variant retrofitted_variants[] = {
    {"retro_tiny_llama",
     {RETRO(1e-5f, 500000), .vocab_size = 320, .dim = 64, .ffn_dim = 96, .n_prelude = 2,
      .n_core = 3, .n_coda = 2, .norms = NORM_PRE, .n_heads = 4, .n_kv_heads = 2, .head_dim = 16,
      .scaling = {32, 1, 4, 64}, .max_seq_len = 512, .loops_default = 8}},
    {"retro_tiny_olmo",
     {RETRO(1e-5f, 500000), .vocab_size = 320, .dim = 64, .ffn_dim = 96, .n_prelude = 2,
      .n_core = 3, .n_coda = 2, .norms = NORM_POST, .n_heads = 4, .n_kv_heads = 4, .head_dim = 16,
      .max_seq_len = 512, .loops_default = 8}},
    {"retro_llama_1b",
     {RETRO(1e-5f, 500000), .vocab_size = 128256, .dim = 2048, .ffn_dim = 8192, .n_prelude = 4,
      .n_core = 6, .n_coda = 4, .norms = NORM_PRE, .n_heads = 32, .n_kv_heads = 8, .head_dim = 64,
      .scaling = {32, 1, 4, 8192}, .max_seq_len = 131072, .loops_default = 16}},
    {"retro_tinyllama_1b",
     {RETRO(1e-5f, 10000), .vocab_size = 32000, .dim = 2048, .ffn_dim = 5632, .n_prelude = 4,
      .n_core = 8, .n_coda = 4, .norms = NORM_PRE, .n_heads = 32, .n_kv_heads = 4, .head_dim = 64,
      .max_seq_len = 2048, .loops_default = 16}},
    {"retro_olmo_1b",
     {RETRO(1e-6f, 500000), .vocab_size = 100352, .dim = 2048, .ffn_dim = 8192, .n_prelude = 4,
      .n_core = 6, .n_coda = 4, .norms = NORM_POST, .n_heads = 16, .n_kv_heads = 16,
      .head_dim = 128, .max_seq_len = 4096, .loops_default = 16}},
};

#undef RETRO

#define FAMILY(name_, variants_)                                                                   \
    {                                                                                              \
        .name = name_, .model_type = "huginn_raven", .read = read, .write = write,                 \
        .complete = complete, .refine = refine, .tensors = tensors, .variants = variants_,         \
        .n_variants = ARRAY_LEN(variants_)                                                         \
    }

const model_family model__huginn = FAMILY("huginn", huginn_variants),
                   model__retrofitted = FAMILY("retrofitted", retrofitted_variants);
