/* plan.h - a looped transformer as data.
 *
 * A model runs its prelude layers once, its core layers once per loop, and its coda layers
 * once; then a head gives the logits. A plan says which layers, norms, attention, injection,
 * exit rule and output a model has. Backends, scheduler and commands read a plan and nothing
 * else of a family; model/families/ has one file per family that fills a plan.
 *
 * A plan is a value: read-only once it is filled, shared by threads. */
#ifndef FATHOM_PLAN_H
#define FATHOM_PLAN_H

#include "base/buf.h"
#include "base/err.h"

/* MLA caches one latent per position; GQA caches keys and values per key-value head (with as
 * many key-value heads as heads it is plain multi-head attention). */
typedef enum { ATTN_MLA, ATTN_GQA } attn_kind;

/* Where a layer norms. n1..n4 are RMS norms with weights, a is attention, f the feed-forward:
 *   PRE       x += a(n1 x);      x += f(n3 x)
 *   SANDWICH  x += n2(a(n1 x));  x += n4(f(n3 x))
 *   AFTER     x = n2(a(n1 x) + x);  x = n4(f(n3 x) + x)
 *   POST      x += n2(a(x));     x += n4(f(x)) */
typedef enum { NORM_PRE, NORM_SANDWICH, NORM_AFTER, NORM_POST } norm_place;

/* SWIGLU down(silu(gate x) * up x); HALF_RELU2 down(0.5 * relu(up x)^2); MOE routed and shared
 * SwiGLU experts. */
typedef enum { FFN_SWIGLU, FFN_HALF_RELU2, FFN_MOE } ffn_kind;

/* FULL: one weighted norm over all heads, before RoPE. HEAD_UNIT: per head, without weights,
 * after RoPE. */
typedef enum { QK_NORM_NONE, QK_NORM_FULL, QK_NORM_HEAD_UNIT } qk_norm_kind;

/* How the input e enters each loop:
 *   NONE      x = h
 *   MYTHOS    x = norm(h + loop embedding + e); after the core h = A h + B e + x + LoRA(x)
 *   LINEAR    x = W [h; e]
 *   DIAGONAL  x = decay * h + dt * (B e) */
typedef enum { INJECT_NONE, INJECT_MYTHOS, INJECT_LINEAR, INJECT_DIAGONAL } inject_kind;

/* The state before the first loop: e itself, zeros, or a truncated normal draw that depends on
 * position and channel only, so that positions can share a prefix cache. */
typedef enum { STATE_EMBEDDING, STATE_ZERO, STATE_SEEDED } state_start;

/* When a position leaves the loop:
 *   ACT          the sum of halting probabilities reaches the threshold
 *   HAZARD       1 - prod(1 - p) reaches the threshold; a threshold of 1 means never
 *   LATENT_DIFF  |h - h_before| / |h| falls below the threshold
 *   COSINE       1 - cos(h, h_before) falls below the threshold
 *   FIXED        after the wanted number of loops */
typedef enum { EXIT_ACT, EXIT_HAZARD, EXIT_LATENT_DIFF, EXIT_COSINE, EXIT_FIXED } exit_rule;
enum { EXIT_RULES = EXIT_FIXED + 1 };

/* What the coda reads: the sum of the loops' states weighted by ACT, or the last state. */
typedef enum { OUTPUT_WEIGHTED_SUM, OUTPUT_STATE } output_kind;

/* What the coda does to its input first. */
typedef enum { CODA_IN_NONE, CODA_IN_NORM, CODA_IN_LINEAR } coda_in_kind;

/* What a halted position gives to deeper loops. EXACT: it goes on looping without output, so
 * that later positions read what the published model computes. LAST: its last keys and values
 * stand in for all deeper loops. */
typedef enum { KV_EXACT, KV_LAST } kv_policy;

enum {
    PLAN_MAX_LOOPS = 256, /* no request and no option may ask for more */
    PLAN_MAX_LAYERS = 1024,
    PLAN_MAX_EOS = 16,
};

/* llama3's RoPE scaling; factor 0: none. */
typedef struct {
    float factor, low, high;
    uint32_t original; /* context before scaling */
} rope_scaling;

typedef struct model_family model_family;

typedef struct {
    const model_family *family;

    /* ---- text ---- */
    uint32_t vocab_size;
    uint32_t max_seq_len;       /* positions of one sequence, prompt and output together */
    uint32_t max_output_tokens; /* 0: the family names none */
    uint32_t eos_ids[PLAN_MAX_EOS], n_eos; /* as config.json names them */

    /* ---- layers ---- */
    uint32_t dim;                       /* width of the residual stream */
    uint32_t n_prelude, n_core, n_coda; /* layers; n_core is at least 1 */
    norm_place norms;                   /* of every layer */
    float norm_eps;                     /* of every RMS norm */

    /* ---- attention ---- */
    attn_kind attn;
    uint32_t n_heads, n_kv_heads;
    uint32_t head_dim; /* GQA; n_heads * head_dim may differ from dim */
    uint32_t kv_lora_rank, q_lora_rank, qk_rope_head_dim, qk_nope_head_dim, v_head_dim; /* MLA */
    bool qk_bias;
    qk_norm_kind qk_norm;
    float qk_norm_eps;
    float rope_theta;
    bool rope_halves; /* the file's RoPE pairs are (i, i + head_dim / 2): see plan_rope_row */
    rope_scaling scaling;

    /* ---- feed-forward ---- */
    ffn_kind core_ffn, end_ffn; /* of core layers; of prelude and coda layers */
    uint32_t ffn_dim;           /* hidden width of SWIGLU and HALF_RELU2 */
    uint32_t n_experts, n_shared_experts, n_experts_per_tok, expert_dim; /* MOE */
    uint8_t value_embeds[PLAN_MAX_LAYERS / 8]; /* bit i: layer i (prelude, core, coda) adds a
                                                  table row of the token to its values */

    /* ---- embedding and loop ---- */
    float embed_scale; /* on the embedding, not on a tied head */
    bool tied_head;    /* the head is the embedding; false: the file has its own, or is tied by
                          leaving it out where the family allows that */
    bool input_norm;   /* e is normed once */
    inject_kind inject;
    uint32_t lora_rank, lora_rows; /* MYTHOS: rank, and loops with a scale of their own */
    state_start state0;
    float state0_std;
    bool loop_norm; /* the state is normed after each loop, and that is what goes on */

    /* ---- exit and output ---- */
    exit_rule exit;       /* as the model was published */
    uint32_t exits;       /* bit per exit_rule that the weights allow */
    float exit_threshold; /* for `exit` */
    output_kind output;
    coda_in_kind coda_in;
    bool final_norm; /* before the head */
    uint32_t loops_default;
    uint32_t loops_cap;  /* most that make sense; 0: depth may be extrapolated */
    kv_policy halted_kv; /* the meaning the model was trained for */
    bool full_prompts;   /* with KV_LAST prompts still run every loop, as published engines do */

    /* ---- derived by plan_derive ---- */
    uint32_t layer_values; /* cache values of one position in one layer:
                              MLA kv_lora_rank + qk_rope_head_dim, GQA 2 * n_kv_heads * head_dim */
    uint32_t slot_values;  /* of one slot: n_core * layer_values */
} model_plan;

/* ---- reading and writing ---- */

/* Parses and checks config.json text. ERR_BAD_FILE names file, key, value and rule, or for
 * another family its model_type and the families Fathom runs. `what` is the file's name. */
int plan_parse(model_plan *out, const char *text, size_t n, const char *what, err *e) WARN_UNUSED;
/* A published or test variant by name. ERR_NOT_FOUND lists the names. */
int plan_variant(model_plan *out, const char *name, err *e) WARN_UNUSED;
/* The name of variant i over all families; NULL past the last. */
const char *plan_variant_name(size_t i);
/* Writes config.json text of p (dtype: "float32", "bfloat16", "float16"). */
void plan_write(buf *out, const model_plan *p, const char *dtype);
const char *plan_family_name(const model_plan *p); /* "openmythos", "ouro" */
uint64_t plan_params(const model_plan *p);         /* number of weights, a tied head counted once */
/* Fills the derived fields. */
void plan_derive(model_plan *p);

/* ---- the cache: slots and planes ----
 * A slot holds one position's keys and values of n_core layers side by side; layer l begins at
 * value plan_layer_offset. A loop of a position takes one slot. Prelude and coda layers share
 * slots in groups of n_core. A plane is one such slot's place in a position's map: planes of
 * the prelude first, then of the coda, then one per loop. */

static inline uint32_t plan_planes_prelude(const model_plan *p) {
    return (p->n_prelude + p->n_core - 1) / p->n_core;
}
static inline uint32_t plan_planes_coda(const model_plan *p) {
    return (p->n_coda + p->n_core - 1) / p->n_core;
}
/* Planes, and so slots, of one position that may run so many loops. */
static inline uint32_t plan_planes(const model_plan *p, uint32_t loops) {
    return plan_planes_prelude(p) + plan_planes_coda(p) + loops;
}
/* First plane of each stage; the recurrent stage's is that of loop `loop`. */
static inline uint32_t plan_plane_prelude(const model_plan *p, uint32_t layer) {
    return layer / p->n_core;
}
static inline uint32_t plan_plane_coda(const model_plan *p, uint32_t layer) {
    return plan_planes_prelude(p) + layer / p->n_core;
}
static inline uint32_t plan_plane_loop(const model_plan *p, uint32_t loop) {
    return plan_planes(p, loop);
}
/* First value of a layer inside its slot; `layer` counts within its stage. */
static inline uint32_t plan_layer_offset(const model_plan *p, uint32_t layer) {
    return layer % p->n_core * p->layer_values;
}

/* ---- small facts ---- */

static inline uint32_t plan_q_width(const model_plan *p) { /* GQA: rows of wq */
    return p->n_heads * p->head_dim;
}
static inline uint32_t plan_kv_width(const model_plan *p) { /* GQA: rows of wk and of wv */
    return p->n_kv_heads * p->head_dim;
}
/* Most loops a request may ask for: the family's cap, or twice the default. */
uint32_t plan_loops_ceiling(const model_plan *p);
/* The backends rotate pairs (2i, 2i + 1). Where the file's pairs are (i, i + head_dim / 2), row
 * `row` of the wanted wq or wk is this row of the file's. */
static inline uint32_t plan_rope_row(const model_plan *p, uint32_t row) {
    if (!p->rope_halves) return row;
    uint32_t in = row % p->head_dim;
    return row - in + in / 2 + in % 2 * (p->head_dim / 2);
}

/* ---- exit rules ---- */

const char *exit_rule_name(exit_rule rule); /* "act", "latent-diff" */
bool exit_rule_find(const char *name, exit_rule *out) WARN_UNUSED;
/* 0 if a position may be run with this threshold, or ERR_BAD_PARAM for `param` with the range.
 * FIXED takes none: its threshold is not looked at, and only 0 (none given) is right. */
int exit_rule_check(exit_rule rule, float threshold, const char *param, err *e) WARN_UNUSED;
/* Thresholds of a rule lie above *above and reach *most; false for FIXED, which takes none. */
bool exit_rule_range(exit_rule rule, float *above, float *most) WARN_UNUSED;
/* A threshold that suits the rule where the model names none. */
float exit_rule_default(exit_rule rule);
static inline bool plan_allows_exit(const model_plan *p, exit_rule rule) {
    return (p->exits >> rule & 1) != 0;
}

#endif
