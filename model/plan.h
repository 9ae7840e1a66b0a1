/* plan.h - a looped transformer as data: its shapes, its parts and its rules.
 *
 * A plan is a value: read-only once read, shared by threads. */
#ifndef FATHOM_PLAN_H
#define FATHOM_PLAN_H

#include "base/base.h"

typedef enum { ATTN_MLA, ATTN_GQA } attn_kind;

/* What a halted position is to deeper loops: it goes on looping silently (EXACT),
 * or its last latent stands in for every deeper one (LAST). */
typedef enum { KV_EXACT, KV_LAST } kv_policy;

typedef struct {
    uint32_t vocab_size, dim, n_heads, n_kv_heads;
    uint32_t max_seq_len;    /* positions of one sequence, prompt and output together */
    uint32_t max_loop_iters; /* loops trained; more may be run */
    uint32_t prelude_layers, coda_layers;
    uint32_t kv_lora_rank, q_lora_rank, qk_rope_head_dim, qk_nope_head_dim, v_head_dim; /* MLA */
    uint32_t n_experts, n_shared_experts, n_experts_per_tok, expert_dim;
    uint32_t lora_rank, max_output_tokens;
    float act_threshold, rope_theta;
    attn_kind attn_type;
    kv_policy halted_kv; /* the meaning the model was trained for */
    /* derived when read */
    uint32_t dense_dim;   /* hidden width of prelude and coda FFN: dim * 4 / 3 */
    uint32_t head_dim;    /* GQA: dim / n_heads */
    uint32_t slot_values; /* cache values of one position at one plane:
                             MLA kv_lora_rank + qk_rope_head_dim, GQA 2 * n_kv_heads * head_dim */
} model_plan;

enum { PLAN_MAX_LOOPS = 256 }; /* no request and no flag may ask for more */

/* Parses and checks config.json text; ERR_BAD_FILE names key, value and rule.
 * `what` is the file name used in messages. */
int plan_parse(model_plan *out, const char *text, size_t n, const char *what,
                     err *e) WARN_UNUSED;
/* The published variants mythos_1b, mythos_3b, … mythos_1t, and tiny for tests. ERR_NOT_FOUND. */
int plan_variant(model_plan *out, const char *name, err *e) WARN_UNUSED;
/* Writes config.json text of c (dtype: "float32", "bfloat16", "float16"). */
void plan_write(buf *out, const model_plan *c, const char *dtype);
uint64_t plan_params(const model_plan *c); /* number of weights, tied head counted once */

static inline uint32_t plan_plane_prelude(const model_plan *c, uint32_t layer) {
    (void)c;
    return layer;
}
static inline uint32_t plan_plane_coda(const model_plan *c, uint32_t layer) {
    return c->prelude_layers + layer;
}
static inline uint32_t plan_plane_loop(const model_plan *c, uint32_t t) {
    return c->prelude_layers + c->coda_layers + t;
}

#endif
