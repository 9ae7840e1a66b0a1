/* plan.h - a looped transformer as data.
 *
 * A model runs its prelude layers once, its core layers once per loop, and its coda layers once;
 * then its head computes the logits. A plan describes a model's layers, norms, attention,
 * injection, exit rule and output. Backends, scheduler and commands know a family only by its plan;
 * model/families/ has one file per family to fill the plan.
 *
 * A plan is a value: read-only once filled, shared by threads. */
#ifndef FATHOM_PLAN_H
#define FATHOM_PLAN_H

#include "base/buf.h"
#include "base/err.h"

/* MLA caches one latent per position; GQA caches keys and values per key-value head (with as
 * many key-value heads as heads it is plain multi-head attention). */
typedef enum { ATTN_MLA, ATTN_GQA } attn_kind;

/* The places of a layer's norms. n1..n4 are RMS norms with weights, a is attention, f the
 * feed-forward:
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
 *   DIAGONAL  x = decay * h + dt * (B e), with dt = softplus(LOG_DT) and
 *             decay = exp(-dt * exp(LOG_A)) per channel
 * The second term of LINEAR and DIAGONAL does not change from loop to loop: backends compute it
 * once per position. */
typedef enum { INJECT_NONE, INJECT_MYTHOS, INJECT_LINEAR, INJECT_DIAGONAL } inject_kind;

/* The state before the first loop: e itself, zeros, or a truncated normal draw. The draw depends
 * on position and channel only, so sequences can share cached prefixes. */
typedef enum { STATE_EMBEDDING, STATE_ZERO, STATE_SEEDED } state_start;

/* When a position leaves the loop:
 *   ACT          the sum of halting probabilities reaches the threshold
 *   HAZARD       1 - prod(1 - p) reaches the threshold; a threshold of 1 means never
 *   LATENT_DIFF  |h - h_before| / |h| falls below the threshold
 *   COSINE       1 - cos(h, h_before) falls below the threshold
 *   FIXED        after the wanted number of loops */
typedef enum { EXIT_ACT, EXIT_HAZARD, EXIT_LATENT_DIFF, EXIT_COSINE, EXIT_FIXED } exit_rule;
enum { EXIT_RULES = EXIT_FIXED + 1 };

/* The coda's input: the sum of the loops' states weighted by ACT, or the last state. */
typedef enum { OUTPUT_WEIGHTED_SUM, OUTPUT_STATE } output_kind;

/* The coda's first operation on its input: none, the final norm (its weights serve twice), or a
 * matrix. */
typedef enum { CODA_IN_NONE, CODA_IN_NORM, CODA_IN_LINEAR } coda_in_kind;

/* The keys and values of a halted position in deeper loops. EXACT: the position goes on looping
 * without output, so later positions read the same values as in the published model. LAST: its last
 * keys and values stand in for all deeper loops. COLLAPSE: as EXACT, and once a generated position
 * has run every loop, the keys and values of its deepest loop stand in for all its loops. */
typedef enum { KV_EXACT, KV_LAST, KV_COLLAPSE } kv_policy;
enum { KV_POLICIES = KV_COLLAPSE + 1 };
const char *kv_policy_name(kv_policy policy); /* "exact" */
bool kv_policy_find(const char *name, kv_policy *out) WARN_UNUSED;

enum {
    PLAN_MAX_LOOPS = 256, /* most loops of any request or option */
    PLAN_MAX_LAYERS = 1024,
    PLAN_MAX_EOS = 16,
    PLAN_VALUE_GATE = 32, /* channels read by the gate of a value embedding */
};

/* llama3's RoPE scaling; factor 0: no scaling. */
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
    uint32_t max_output_tokens; /* 0: not given by the family */
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
    uint8_t value_embeds[PLAN_MAX_LAYERS / 8]; /* bit i: see plan_value_embed */

    /* ---- embedding and loop ---- */
    float embed_scale; /* on the embedding, not on a tied head */
    bool tied_head;  /* the head is the embedding. If false, a file without a head still has a tied
                        head in families with an optional one */
    bool input_norm; /* e is normed once */
    inject_kind inject;
    uint32_t lora_rank, lora_rows; /* MYTHOS: rank, and loops with a scale of their own */
    state_start state0;
    float state0_std;
    bool loop_norm; /* the state is normed after each loop and replaced by the result */

    /* ---- exit and output ---- */
    exit_rule exit;       /* as the model was published */
    uint32_t exits;       /* a bit per exit_rule, set if the weights allow the rule */
    float exit_threshold; /* for `exit` */
    output_kind output;
    coda_in_kind coda_in;
    bool final_norm; /* before the head */
    uint32_t loops_default;
    uint32_t loops_cap;   /* most loops any token may run; 0: twice the default */
    uint32_t loops_least; /* fewest loops any token may run; 0: one */
    kv_policy halted_kv;  /* the policy the model was trained with */
    bool full_prompts;    /* with KV_LAST prompts still run every loop, as published engines do */

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
/* Writes config.json text of the plan (dtype: "float32", "bfloat16", "float16"). */
void plan_write(buf *out, const model_plan *plan, const char *dtype);
/* Writes every field as the family of any plan names it, whatever the plan's own family. */
void plan_write_fields(buf *out, const model_plan *plan);
const char *plan_family_name(const model_plan *plan); /* "openmythos", "ouro" */
uint64_t plan_params(const model_plan *plan); /* number of weights, a tied head counted once */
/* Fills the derived fields. */
void plan_derive(model_plan *plan);

/* ---- the cache: slots and planes ----
 * A slot holds one position's keys and values of n_core layers side by side; a layer begins at
 * value plan_layer_offset. A loop of a position takes one slot. Prelude and coda layers share
 * slots in groups of n_core. A plane is the index of such a slot in a position's map: planes of the
 * prelude first, then of the coda, then one per loop. */

static inline uint32_t plan_planes_prelude(const model_plan *plan) {
    return (plan->n_prelude + plan->n_core - 1) / plan->n_core;
}
static inline uint32_t plan_planes_coda(const model_plan *plan) {
    return (plan->n_coda + plan->n_core - 1) / plan->n_core;
}
/* Planes, and so slots, of one position with at most this many loops. */
static inline uint32_t plan_planes(const model_plan *plan, uint32_t loops) {
    return plan_planes_prelude(plan) + plan_planes_coda(plan) + loops;
}
/* The plane of a prelude layer, of a coda layer, and of a loop. */
static inline uint32_t plan_plane_prelude(const model_plan *plan, uint32_t layer) {
    return layer / plan->n_core;
}
static inline uint32_t plan_plane_coda(const model_plan *plan, uint32_t layer) {
    return plan_planes_prelude(plan) + layer / plan->n_core;
}
static inline uint32_t plan_plane_loop(const model_plan *plan, uint32_t loop) {
    return plan_planes(plan, loop);
}
/* First value of a layer inside its slot; `layer` counts within its stage. */
static inline uint32_t plan_layer_offset(const model_plan *plan, uint32_t layer) {
    return layer % plan->n_core * plan->layer_values;
}

/* ---- small facts ---- */

static inline uint32_t plan_q_width(const model_plan *plan) { /* GQA: rows of wq */
    return plan->n_heads * plan->head_dim;
}
static inline uint32_t plan_kv_width(const model_plan *plan) { /* GQA: rows of wk and of wv */
    return plan->n_kv_heads * plan->head_dim;
}
/* Most loops a request may ask for: the family's cap, or twice the default. */
uint32_t plan_loops_ceiling(const model_plan *plan);
static inline uint32_t plan_loops_least(const model_plan *plan) {
    return plan->loops_least ? plan->loops_least : 1;
}
/* ERR_BAD_PARAM for `param` names the family's limits if a token may not run so many loops. */
int plan_check_loops(const model_plan *plan, long long loops, const char *param,
                     err *e) WARN_UNUSED;
/* The row of the file's wq or wk for row `row` of the wanted one. Backends rotate pairs
 * (2i, 2i + 1); with rope_halves the file's pairs are (i, i + head_dim / 2). */
static inline uint32_t plan_rope_row(const model_plan *plan, uint32_t row) {
    if (!plan->rope_halves) return row;
    uint32_t in = row % plan->head_dim;
    return row - in + in / 2 + in % 2 * (plan->head_dim / 2);
}

/* The norms n1 and n3, of a sublayer's input; the norms n2 and n4, of its output. */
static inline bool plan_norms_inputs(const model_plan *plan) {
    return plan->norms != NORM_POST;
}
static inline bool plan_norms_outputs(const model_plan *plan) {
    return plan->norms != NORM_PRE;
}
/* True if layer `index`, counted over prelude, core and coda, adds a row of its table to its
 * values: v += 2 * sigmoid(gate * x[0 .. PLAN_VALUE_GATE]) * table[token], with one gate per
 * key-value head and x the input of the layer's products. A core layer adds the same row in every
 * loop. */
static inline bool plan_value_embed(const model_plan *plan, uint32_t index) {
    return index < PLAN_MAX_LAYERS && (plan->value_embeds[index / 8] >> index % 8 & 1) != 0;
}
/* Angle per position of RoPE pair `pair` of head_dim / 2, or of qk_rope_head_dim / 2 with MLA:
 * theta^(-2 pair / width), and with `scaling` what Llama 3 makes of it. Turns of more than
 * original / low positions become `factor` times longer, those of fewer than original / high stay,
 * and between the two limits the frequencies are mixed. */
double plan_rope_frequency(const model_plan *plan, uint32_t pair);

/* ---- exit rules ---- */

const char *exit_rule_name(exit_rule rule); /* "act", "latent-diff" */
bool exit_rule_find(const char *name, exit_rule *out) WARN_UNUSED;
/* Checks a threshold for this rule. ERR_BAD_PARAM for `param` names the range. FIXED has no
 * threshold, so only 0 (not given) is right. */
int exit_rule_check(exit_rule rule, float threshold, const char *param, err *e) WARN_UNUSED;
/* Valid thresholds are greater than *above and at most *most; people also write 0 for
 * exit_rule_never. False for FIXED: no threshold. */
bool exit_rule_range(exit_rule rule, float *above, float *most) WARN_UNUSED;
/* The threshold under which every loop runs: 1 for HAZARD, the least float above 0 for LATENT_DIFF
 * and COSINE (people write 0 for it), 0 for rules without one. */
float exit_rule_never(exit_rule rule);
/* Between a plan's thresholds and those people read and write: only 0 for never differs. */
float exit_rule_from_written(exit_rule rule, float written);
float exit_rule_written(exit_rule rule, float threshold);
/* Whether no position leaves the loop before its last loop. */
bool exit_rule_runs_all(exit_rule rule, float threshold);
/* The default threshold of a rule, for models that name another rule or none. */
float exit_rule_default(exit_rule rule);
static inline bool plan_allows_exit(const model_plan *plan, exit_rule rule) {
    return (plan->exits >> rule & 1) != 0;
}

#endif
