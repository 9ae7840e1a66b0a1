/* config.c - config.json: what it must hold, the published variants, writing one.
 *
 * One table drives reading and writing, so a key cannot be read and not checked. */
#include "model/model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CONFIG_MAX_BYTES = 1 << 20 };

/* Which attention a key matters to: a GQA file may carry any q_lora_rank it likes. */
typedef enum { FOR_BOTH, FOR_MLA, FOR_GQA } used_by;

/* Bounds are far above any published model (1 T parameters: dim 16384, 512 experts) and
 * low enough that every product in plan_params and in tensor shapes fits 63 bits. */
static const struct {
    const char *key;
    size_t at; /* offset of a uint32_t in model_plan */
    uint32_t min, max;
    used_by used;
} numbers[] = {
#define N(key, min, max, used)                                                                     \
    { #key, offsetof(model_plan, key), min, max, used }
    N(vocab_size, 2, 1u << 24, FOR_BOTH),
    N(dim, 16, 1u << 17, FOR_BOTH),
    N(n_heads, 1, 4096, FOR_BOTH),
    N(n_kv_heads, 1, 4096, FOR_GQA),
    N(max_seq_len, 1, 1u << 24, FOR_BOTH),
    N(max_loop_iters, 1, PLAN_MAX_LOOPS, FOR_BOTH),
    N(prelude_layers, 0, 1024, FOR_BOTH),
    N(coda_layers, 0, 1024, FOR_BOTH),
    N(kv_lora_rank, 1, 1u << 16, FOR_MLA),
    N(q_lora_rank, 1, 1u << 16, FOR_MLA),
    N(qk_rope_head_dim, 2, 1u << 12, FOR_MLA),
    N(qk_nope_head_dim, 1, 1u << 12, FOR_MLA),
    N(v_head_dim, 1, 1u << 12, FOR_MLA),
    N(n_experts, 1, 1u << 16, FOR_BOTH),
    N(n_shared_experts, 0, 1024, FOR_BOTH),
    N(n_experts_per_tok, 1, 1024, FOR_BOTH),
    N(expert_dim, 1, 1u << 20, FOR_BOTH),
    N(lora_rank, 1, 1u << 14, FOR_BOTH),
    N(max_output_tokens, 1, 1u << 30, FOR_BOTH),
#undef N
};

static uint32_t *number_at(model_plan *c, size_t i) {
    return (uint32_t *)((char *)c + numbers[i].at);
}

/* ---- reading ---- */

typedef struct {
    const json_t *root;
    const char *what;
    err *e;
} reader;

static const json_t *get(const reader *r, const char *key) {
    const json_t *v = json_object_get(r->root, key);
    if (v == NULL) err_set(r->e, ERR_BAD_FILE, key, "%s: key \"%s\" is missing", r->what, key);
    return v;
}

static const char *kind_of(const json_t *v) {
    switch (json_typeof(v)) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "an array";
    case JSON_STRING: return "a string";
    case JSON_NULL: return "null";
    case JSON_INTEGER:
    case JSON_REAL: return "a number";
    default: return "true or false";
    }
}

static int read_number(const reader *r, model_plan *c, size_t i) {
    const char *key = numbers[i].key;
    const json_t *v = get(r, key);
    if (v == NULL) return -1;
    if (json_is_real(v)) {
        return err_set(r->e, ERR_BAD_FILE, key, "%s: %s is %g, expected a whole number", r->what,
                       key, json_real_value(v));
    }
    if (!json_is_integer(v)) {
        return err_set(r->e, ERR_BAD_FILE, key, "%s: %s is %s, expected a whole number", r->what,
                       key, kind_of(v));
    }
    json_int_t n = json_integer_value(v);
    bool used = numbers[i].used == FOR_BOTH ||
                numbers[i].used == (c->attn_type == ATTN_MLA ? FOR_MLA : FOR_GQA);
    json_int_t min = used ? numbers[i].min : 0;
    if (n < min || n > numbers[i].max) {
        return err_set(r->e, ERR_BAD_FILE, key, "%s: %s is %lld, expected %lld to %u", r->what, key,
                       (long long)n, (long long)min, numbers[i].max);
    }
    *number_at(c, i) = (uint32_t)n;
    return 0;
}

static int read_real(const reader *r, const char *key, double min, double max, const char *rule,
                     float *out) {
    const json_t *v = get(r, key);
    if (v == NULL) return -1;
    if (!json_is_number(v)) {
        return err_set(r->e, ERR_BAD_FILE, key, "%s: %s is %s, expected a number", r->what, key,
                       kind_of(v));
    }
    double x = json_number_value(v);
    if (!(x >= min && x <= max)) { /* catches NaN too */
        return err_set(r->e, ERR_BAD_FILE, key, "%s: %s is %g, expected %s", r->what, key, x, rule);
    }
    *out = (float)x;
    return 0;
}

/* names: two spellings, NULL-free; the index of the one found goes to *out. */
static int read_choice(const reader *r, const char *key, const char *const names[2], int *out) {
    const json_t *v = get(r, key);
    if (v == NULL) return -1;
    const char *text = json_string_value(v);
    if (text == NULL) {
        return err_set(r->e, ERR_BAD_FILE, key, "%s: %s is %s, expected \"%s\" or \"%s\"", r->what,
                       key, kind_of(v), names[0], names[1]);
    }
    for (int i = 0; i < 2; i++) {
        if (strcmp(text, names[i]) == 0) return *out = i, 0;
    }
    return err_set(r->e, ERR_BAD_FILE, key, "%s: %s is \"%.40s\", expected \"%s\" or \"%s\"",
                   r->what, key, text, names[0], names[1]);
}

static const char *const attn_names[2] = {[ATTN_MLA] = "mla", [ATTN_GQA] = "gqa"};
static const char *const policy_names[2] = {[KV_EXACT] = "exact", [KV_LAST] = "last"};

static int read_all(const reader *r, model_plan *c) {
    int choice = 0;
    if (read_choice(r, "attn_type", attn_names, &choice) != 0) return -1;
    c->attn_type = (attn_kind)choice;
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++) {
        if (read_number(r, c, i) != 0) return -1;
    }
    if (read_real(r, "act_threshold", 1e-6, 1, "above 0 and at most 1", &c->act_threshold) != 0 ||
        read_real(r, "rope_theta", 1, 1e12, "1 to 1e12", &c->rope_theta) != 0) {
        return -1;
    }
    choice = KV_EXACT;
    if (json_object_get(r->root, "halted_kv") &&
        read_choice(r, "halted_kv", policy_names, &choice) != 0) {
        return -1;
    }
    c->halted_kv = (kv_policy)choice;
    return 0;
}

static int check_attention(const model_plan *c, const char *what, err *e) {
    if (c->attn_type == ATTN_MLA) {
        if (c->qk_rope_head_dim % 2 != 0) {
            return err_set(e, ERR_BAD_FILE, "qk_rope_head_dim",
                           "%s: qk_rope_head_dim is %u, expected an even number: RoPE turns pairs",
                           what, c->qk_rope_head_dim);
        }
        return 0;
    }
    if (c->n_heads % c->n_kv_heads != 0) {
        return err_set(e, ERR_BAD_FILE, "n_kv_heads",
                       "%s: n_kv_heads is %u, expected a divisor of n_heads = %u", what,
                       c->n_kv_heads, c->n_heads);
    }
    if (c->dim % c->n_heads != 0) {
        return err_set(e, ERR_BAD_FILE, "n_heads",
                       "%s: n_heads is %u, expected a divisor of dim = %u (attn_type gqa)", what,
                       c->n_heads, c->dim);
    }
    if (c->dim / c->n_heads % 2 != 0) {
        return err_set(
            e, ERR_BAD_FILE, "n_heads",
            "%s: n_heads is %u, so dim / n_heads = %u, expected an even number: RoPE turns pairs",
            what, c->n_heads, c->dim / c->n_heads);
    }
    return 0;
}

/* Rules between keys, and what follows from them. */
static int derive(model_plan *c, const char *what, err *e) {
    if (c->dim % 16 != 0) {
        return err_set(e, ERR_BAD_FILE, "dim",
                       "%s: dim is %u, expected a multiple of 16: the loop embedding fills dim / 8 "
                       "channels in pairs",
                       what, c->dim);
    }
    if (c->n_experts_per_tok > c->n_experts) {
        return err_set(e, ERR_BAD_FILE, "n_experts_per_tok",
                       "%s: n_experts_per_tok is %u, expected at most n_experts = %u", what,
                       c->n_experts_per_tok, c->n_experts);
    }
    if (check_attention(c, what, e) != 0) return -1;
    c->dense_dim = (uint32_t)((uint64_t)c->dim * 4 / 3);
    c->head_dim = c->attn_type == ATTN_GQA ? c->dim / c->n_heads : 0;
    c->slot_values = c->attn_type == ATTN_GQA ? 2 * c->n_kv_heads * c->head_dim
                                              : c->kv_lora_rank + c->qk_rope_head_dim;
    return 0;
}

int plan_parse(model_plan *out, const char *text, size_t n, const char *what, err *e) {
    static const json_limits limits = {
        .max_bytes = CONFIG_MAX_BYTES, .max_depth = 16, .max_structural = 100000};
    *out = (model_plan){0};
    json_t *root;
    err why = {0};
    if (json_parse(&root, text, n, &limits, what, &why) != 0) {
        return err_set(e, why.code == ERR_BAD_PARAM ? ERR_BAD_FILE : why.code, NULL, "%s", why.msg);
    }
    int rc = -1;
    if (!json_is_object(root)) {
        err_set(e, ERR_BAD_FILE, NULL, "%s: the text is %s, expected an object", what,
                kind_of(root));
        goto done;
    }
    model_plan c = {0};
    if (read_all(&(reader){root, what, e}, &c) != 0 || derive(&c, what, e) != 0) goto done;
    *out = c;
    rc = 0;
done:
    json_decref(root);
    return rc;
}

/* ---- published variants ---- */

/* All use MLA, two thirds of a 4/3 FFN, threshold 0.99. Sizes as the OpenMythos project
 * publishes them; tiny is ours, small enough for tests that run a model of every kind. */
static const struct {
    const char *name;
    model_plan c;
} variants[] = {
    {"tiny",
     {.vocab_size = 320,
      .dim = 64,
      .n_heads = 4,
      .n_kv_heads = 2,
      .max_seq_len = 512,
      .max_loop_iters = 8,
      .prelude_layers = 1,
      .coda_layers = 1,
      .kv_lora_rank = 32,
      .q_lora_rank = 48,
      .qk_rope_head_dim = 8,
      .qk_nope_head_dim = 16,
      .v_head_dim = 16,
      .n_experts = 8,
      .n_shared_experts = 1,
      .n_experts_per_tok = 2,
      .expert_dim = 32,
      .lora_rank = 4,
      .max_output_tokens = 512,
      .rope_theta = 10000}},
    {"mythos_1b",
     {.vocab_size = 32000,
      .dim = 2048,
      .n_heads = 16,
      .n_kv_heads = 4,
      .max_seq_len = 4096,
      .max_loop_iters = 16,
      .prelude_layers = 2,
      .coda_layers = 2,
      .kv_lora_rank = 256,
      .q_lora_rank = 512,
      .qk_rope_head_dim = 32,
      .qk_nope_head_dim = 64,
      .v_head_dim = 64,
      .n_experts = 64,
      .n_shared_experts = 2,
      .n_experts_per_tok = 4,
      .expert_dim = 2048,
      .lora_rank = 8,
      .max_output_tokens = 4096,
      .rope_theta = 500000}},
    {"mythos_3b",
     {.vocab_size = 32000,
      .dim = 3072,
      .n_heads = 24,
      .n_kv_heads = 6,
      .max_seq_len = 4096,
      .max_loop_iters = 16,
      .prelude_layers = 2,
      .coda_layers = 2,
      .kv_lora_rank = 384,
      .q_lora_rank = 768,
      .qk_rope_head_dim = 32,
      .qk_nope_head_dim = 96,
      .v_head_dim = 96,
      .n_experts = 64,
      .n_shared_experts = 2,
      .n_experts_per_tok = 4,
      .expert_dim = 4096,
      .lora_rank = 8,
      .max_output_tokens = 4096,
      .rope_theta = 500000}},
    {"mythos_10b",
     {.vocab_size = 32000,
      .dim = 4096,
      .n_heads = 32,
      .n_kv_heads = 8,
      .max_seq_len = 8192,
      .max_loop_iters = 24,
      .prelude_layers = 2,
      .coda_layers = 2,
      .kv_lora_rank = 512,
      .q_lora_rank = 1024,
      .qk_rope_head_dim = 64,
      .qk_nope_head_dim = 128,
      .v_head_dim = 128,
      .n_experts = 128,
      .n_shared_experts = 2,
      .n_experts_per_tok = 4,
      .expert_dim = 5632,
      .lora_rank = 16,
      .max_output_tokens = 4096,
      .rope_theta = 500000}},
    {"mythos_50b",
     {.vocab_size = 32000,
      .dim = 6144,
      .n_heads = 48,
      .n_kv_heads = 8,
      .max_seq_len = 8192,
      .max_loop_iters = 32,
      .prelude_layers = 3,
      .coda_layers = 3,
      .kv_lora_rank = 512,
      .q_lora_rank = 1536,
      .qk_rope_head_dim = 64,
      .qk_nope_head_dim = 128,
      .v_head_dim = 128,
      .n_experts = 256,
      .n_shared_experts = 4,
      .n_experts_per_tok = 4,
      .expert_dim = 9728,
      .lora_rank = 32,
      .max_output_tokens = 4096,
      .rope_theta = 500000}},
    {"mythos_100b",
     {.vocab_size = 32000,
      .dim = 8192,
      .n_heads = 64,
      .n_kv_heads = 8,
      .max_seq_len = 1000000,
      .max_loop_iters = 32,
      .prelude_layers = 4,
      .coda_layers = 4,
      .kv_lora_rank = 512,
      .q_lora_rank = 2048,
      .qk_rope_head_dim = 64,
      .qk_nope_head_dim = 128,
      .v_head_dim = 128,
      .n_experts = 256,
      .n_shared_experts = 4,
      .n_experts_per_tok = 8,
      .expert_dim = 13568,
      .lora_rank = 64,
      .max_output_tokens = 131072,
      .rope_theta = 1000000}},
    {"mythos_500b",
     {.vocab_size = 100000,
      .dim = 12288,
      .n_heads = 96,
      .n_kv_heads = 16,
      .max_seq_len = 1000000,
      .max_loop_iters = 48,
      .prelude_layers = 4,
      .coda_layers = 4,
      .kv_lora_rank = 1024,
      .q_lora_rank = 3072,
      .qk_rope_head_dim = 64,
      .qk_nope_head_dim = 128,
      .v_head_dim = 128,
      .n_experts = 512,
      .n_shared_experts = 8,
      .n_experts_per_tok = 8,
      .expert_dim = 23040,
      .lora_rank = 128,
      .max_output_tokens = 131072,
      .rope_theta = 1000000}},
    {"mythos_1t",
     {.vocab_size = 100000,
      .dim = 16384,
      .n_heads = 128,
      .n_kv_heads = 16,
      .max_seq_len = 1000000,
      .max_loop_iters = 64,
      .prelude_layers = 6,
      .coda_layers = 6,
      .kv_lora_rank = 1024,
      .q_lora_rank = 4096,
      .qk_rope_head_dim = 64,
      .qk_nope_head_dim = 128,
      .v_head_dim = 128,
      .n_experts = 512,
      .n_shared_experts = 8,
      .n_experts_per_tok = 8,
      .expert_dim = 34560,
      .lora_rank = 256,
      .max_output_tokens = 131072,
      .rope_theta = 2000000}},
};

int plan_variant(model_plan *out, const char *name, err *e) {
    *out = (model_plan){0};
    buf names = {0};
    for (size_t i = 0; i < ARRAY_LEN(variants); i++) {
        if (strcmp(variants[i].name, name) == 0) {
            buf_deinit(&names);
            *out = variants[i].c;
            out->act_threshold = 0.99f;
            return derive(out, name, e);
        }
        buf_printf(&names, "%s%s", i ? " " : "", variants[i].name);
    }
    err_set(e, ERR_NOT_FOUND, "variant", "no variant \"%.40s\"; there are: %s", name,
            names.data ? names.data : "");
    buf_deinit(&names);
    return -1;
}

/* ---- writing ---- */

/* As short as reads back the same: 0.99, not 0.99000001. */
static void write_real(buf *out, const char *key, float v) {
    char text[32];
    for (int digits = 6; digits <= 9; digits++) {
        (void)snprintf(text, sizeof text, "%.*g", digits, (double)v);
        if (strtof(text, NULL) == v) break;
    }
    buf_printf(out, "  \"%s\": %s", key, text);
}

void plan_write(buf *out, const model_plan *c, const char *dtype) {
    buf_puts(out, "{\n  \"architectures\": [\"OpenMythos\"],\n  \"model_type\": \"openmythos\",\n");
    buf_printf(out, "  \"torch_dtype\": \"%s\",\n", dtype);
    buf_printf(out, "  \"attn_type\": \"%s\",\n", attn_names[c->attn_type]);
    buf_printf(out, "  \"halted_kv\": \"%s\",\n", policy_names[c->halted_kv]);
    model_plan copy = *c;
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++) {
        buf_printf(out, "  \"%s\": %u,\n", numbers[i].key, *number_at(&copy, i));
    }
    write_real(out, "act_threshold", c->act_threshold);
    buf_puts(out, ",\n");
    write_real(out, "rope_theta", c->rope_theta);
    buf_puts(out, "\n}\n");
}

static uint64_t attention_params(const model_plan *c) {
    uint64_t d = c->dim, h = c->n_heads, q = c->q_lora_rank, kv = c->kv_lora_rank;
    if (c->attn_type == ATTN_GQA) return 2 * d * d + 2 * d * c->n_kv_heads * c->head_dim;
    return q * d + q + h * q * (c->qk_nope_head_dim + c->qk_rope_head_dim) + d * c->slot_values +
           kv + h * kv * (c->qk_nope_head_dim + c->v_head_dim) + d * h * c->v_head_dim;
}

uint64_t plan_params(const model_plan *c) {
    uint64_t d = c->dim, block = attention_params(c) + 2 * d;
    uint64_t dense = 3 * d * c->dense_dim, expert = 3 * d * c->expert_dim;
    uint64_t experts = c->n_experts + (uint64_t)c->n_shared_experts * c->n_experts_per_tok;
    uint64_t lora = 2 * d * c->lora_rank + (uint64_t)c->max_loop_iters * c->lora_rank;
    uint64_t recurrent = block + experts * expert + c->n_experts * d + c->n_experts + lora +
                         d /* norm */ + (2 * d + 1) /* log_A, B, log_dt */ + (d + 1) /* halt */;
    return c->vocab_size * d + d +
           ((uint64_t)c->prelude_layers + c->coda_layers) * (block + dense) + recurrent;
}
