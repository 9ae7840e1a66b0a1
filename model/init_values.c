/* init_values.c - random weights that behave: activations keep their size through every stage,
 * experts and attention matter, and tokens leave the loop at different depths.
 *
 * Sizes below are root mean squares per channel. A linear layer of std 1/sqrt(inputs)
 * turns rms 1 into rms 1; what an attention or FFN adds to the residual is set by the std
 * of its last matrix. */
#include "base/hash.h"
#include "model/model_internal.h"

#include <math.h>
#include <string.h>

/* What each part adds to a residual stream of rms 1. */
#define ATTENTION_OUT 0.4
#define FFN_OUT 0.4
#define SILU_UP 0.597 /* rms of silu(a) * b for standard normal a and b */
#define SCORE_STD 1.5 /* attention scores: peaked enough to matter */
#define LORA_OUT 0.05
#define LOGIT_STD 2.5
#define INJECT 0.1      /* injection.B */
#define KEEP 0.36787944 /* A = exp(-exp(0 + 0)) */
#define NORM_STD 0.05

/* ---- the generator: value i of a tensor is a pure function of (key, i) ---- */

static uint64_t key_of(uint64_t seed, const char *name) {
    return hash_mix(hash_fnv(HASH_FNV_START, name, strlen(name)) ^ hash_mix(seed + HASH_STEP));
}

/* Sum of four 16-bit uniforms: mean 131070, std 65536 * sqrt(4/12). Bell-shaped, never
 * beyond 3.5 std, and cheap: a billion take seconds. */
static float bell(uint64_t x) {
    int32_t sum = (int32_t)((x & 0xffff) + (x >> 16 & 0xffff) + (x >> 32 & 0xffff) + (x >> 48));
    return (float)(sum - 131070) * (1.0f / 37837.2f);
}

static float value_at(const model__fill *f, uint64_t i) {
    uint64_t x = hash_mix(f->key + i * HASH_STEP);
    if (f->kind == MODEL_FILL_SIGNS) return x >> 63 ? f->std : -f->std;
    return f->mean + f->std * bell(x);
}

void model__fill_values(const model__fill *f, model_dtype dtype, uint64_t first, size_t n,
                        void *out) {
    unsigned char *to = out;
    for (size_t i = 0; i < n; i++) {
        float v = value_at(f, first + i);
        if (dtype == DTYPE_F32) {
            memcpy(to + 4 * i, &v, 4);
            continue;
        }
        uint16_t half = dtype == DTYPE_BF16 ? model__bf16_narrow(v) : model__f16_narrow(v);
        memcpy(to + 2 * i, &half, 2);
    }
}

/* ---- halting ---- */

enum { TOKENS = 401 }; /* grid of tokens from -4 to 4 std */

/* rms of h after loop t of a typical token, in units of e: along_t follows e, aside_t is
 * what attention and experts added. h = KEEP h + INJECT e + u + additions, u = rms(h + e + loop).
 * A state that is normed after each loop keeps its size. */
static void state_sizes(const model_plan *p, float *size) {
    double along = 1, aside = 0, added = sqrt(ATTENTION_OUT * ATTENTION_OUT + FFN_OUT * FFN_OUT);
    for (uint32_t t = 0; t < p->loops_default; t++) {
        double rms = sqrt((along + 1) * (along + 1) + aside * aside + 1.0 / 16);
        double next = KEEP * along + INJECT + (along + 1) / rms;
        aside = KEEP * aside + added + aside / rms;
        along = next;
        size[t] = p->loop_norm ? 1 : (float)sqrt(along * along + aside * aside);
    }
}

typedef struct {
    double mean, std;
} depths;

/* Loops of a token whose halting logits are bias + reach * size. */
static uint32_t loops_of(const model_plan *p, const float *size, double bias, double reach) {
    bool hazard = p->exit == EXIT_HAZARD;
    double sum = 0, enough = hazard ? (double)MODEL_HAZARD_AT : (double)p->exit_threshold;
    uint32_t t = 0;
    while (t < p->loops_default && sum < enough) {
        double halts = 1 / (1 + exp(-bias - reach * (double)size[t]));
        sum += hazard ? (1 - sum) * halts : halts;
        t++;
    }
    return t;
}

/* Depths over tokens whose halting logit is normal with this bias and spread. */
static depths depths_at(const model_plan *p, const float *size, double bias, double spread) {
    double sum = 0, squares = 0, weights = 0;
    /* There is at least one loop. NOLINTNEXTLINE(clang-analyzer-core.uninitialized.Assign) */
    double last = (double)size[p->loops_default - 1];
    for (int i = 0; i < TOKENS; i++) {
        double g = -4 + 8.0 * i / (TOKENS - 1), w = exp(-g * g / 2);
        uint32_t t = loops_of(p, size, bias, spread * g / last);
        sum += w * t;
        squares += w * t * t;
        weights += w;
    }
    double mean = sum / weights, variance = squares / weights - mean * mean;
    return (depths){mean, sqrt(variance > 0 ? variance : 0)};
}

/* Depth falls as the bias rises: bisection. */
static double solve_bias(const model_plan *p, const float *size, double mean, double spread) {
    double low = -16, high = 16;
    for (int i = 0; i < 60; i++) {
        double mid = (low + high) / 2;
        if (depths_at(p, size, mid, spread).mean > mean) low = mid;
        else high = mid;
    }
    return high;
}

void model__recipe_init(model__recipe *r, const model_plan *p, uint64_t seed, float mean_depth) {
    /* Small means need a wide spread, or every token halts at the same loop. */
    static const double spreads[] = {0.7, 1, 1.5, 2.5, 4};
    float size[PLAN_MAX_LOOPS];
    state_sizes(p, size);
    double bias = 0, spread = 0;
    for (size_t i = 0; i < ARRAY_LEN(spreads); i++) {
        spread = spreads[i];
        bias = solve_bias(p, size, (double)mean_depth, spread);
        if (depths_at(p, size, bias, spread).std >= (double)mean_depth / 4) break;
    }
    *r = (model__recipe){.p = p, .seed = seed, .halt_bias = (float)bias};
    r->halt_std = (float)(spread / ((double)size[p->loops_default - 1] * sqrt(p->dim)));
}

/* ---- which tensor gets what ---- */

/* Additions of all blocks of a stage together stay FFN_OUT and ATTENTION_OUT. */
static double per_block(const model_plan *p, const model__want *w) {
    uint32_t n = w->place.stage == PART_OF_PRELUDE ? p->n_prelude
                 : w->place.stage == PART_OF_CODA  ? p->n_coda
                                                   : p->n_core;
    return 1 / sqrt((double)n);
}

static double down_std(const model_plan *p, const model__want *w) {
    double share = per_block(p, w);
    if (w->part == MODEL_PART_SHARED) share = sqrt(0.5 / p->n_shared_experts);
    /* Top-k weights sum to 1; their squares to about half of that. */
    if (w->part == MODEL_PART_EXPERTS) share = p->n_shared_experts ? 1 : sqrt(2);
    return FFN_OUT * share / (SILU_UP * sqrt((double)w->shape[1]));
}

static double matrix_std(const model_plan *p, const model__want *w) {
    double in = sqrt((double)w->shape[1]);
    switch (w->place.role) {
    case TENSOR_DOWN:
    case TENSOR_EXPERT_DOWN:
    case TENSOR_SHARED_DOWN: return down_std(p, w);
    case TENSOR_WO: return ATTENTION_OUT * per_block(p, w) / in;
    case TENSOR_WQ:
    case TENSOR_Q_UP_NOPE:
    case TENSOR_Q_UP_ROPE: return SCORE_STD / in;
    case TENSOR_HEAD: return LOGIT_STD / in;
    default: return 1 / in;
    }
}

/* A norm on what a sublayer gives sets how much the sublayer adds. */
static void fill_out_norm(model__fill *f, double out, double share) {
    f->mean = (float)(out * share);
    f->std = (float)(NORM_STD * out * share);
}

model__fill model__recipe_fill(const model__recipe *r, const model__want *w) {
    const model_plan *p = r->p;
    model__fill f = {.kind = MODEL_FILL_NORMAL, .key = key_of(r->seed, w->name)};
    double added = ATTENTION_OUT * ATTENTION_OUT + FFN_OUT * FFN_OUT;
    switch (w->place.role) {
    case TENSOR_EMBED:
        /* So that e, the sum of embedding and prelude, has rms 1. */
        f.std = (float)sqrt(p->n_prelude ? 1 - added : 1);
        break;
    case TENSOR_FINAL_NORM:
        /* With the head tied, plain ones would make every token predict itself. */
        f.kind = MODEL_FILL_SIGNS;
        f.std = (float)(LOGIT_STD / sqrt(p->dim) / sqrt(p->n_prelude ? 1 - added : 1));
        break;
    case TENSOR_ATTN_OUT_NORM: fill_out_norm(&f, ATTENTION_OUT, per_block(p, w)); break;
    case TENSOR_FFN_OUT_NORM: fill_out_norm(&f, FFN_OUT, per_block(p, w)); break;
    case TENSOR_ATTN_NORM:
    case TENSOR_FFN_NORM:
    case TENSOR_LOOP_NORM:
    case TENSOR_INPUT_NORM:
    case TENSOR_Q_NORM:
    case TENSOR_KV_NORM:
        f.mean = 1;
        f.std = (float)NORM_STD;
        break;
    case TENSOR_EXIT_WEIGHT: f.std = r->halt_std; break;
    case TENSOR_EXIT_BIAS: f.mean = r->halt_bias; break;
    case TENSOR_INJECT_B:
        f.mean = (float)INJECT;
        f.std = 0.02f;
        break;
    case TENSOR_LOG_A:
    case TENSOR_ROUTER_BIAS: f.std = 0.1f; break;
    case TENSOR_LOG_DT: f.std = 0; break;
    case TENSOR_LORA_SCALE:
        f.mean = 1;
        f.std = 0.5f;
        break;
    case TENSOR_LORA_B: f.std = (float)(LORA_OUT / sqrt(p->lora_rank)); break;
    default: f.std = (float)matrix_std(p, w);
    }
    return f;
}
