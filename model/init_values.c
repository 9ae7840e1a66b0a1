/* recipe.c - random weights that behave: activations keep their size through every stage,
 * experts and attention matter, and tokens leave the loop at different depths.
 *
 * Sizes below are root mean squares per channel. A linear layer of std 1/sqrt(inputs)
 * turns rms 1 into rms 1; what an attention or FFN adds to the residual is set by the std
 * of its last matrix. */
#include "model/init_internal.h"

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

static uint64_t mix(uint64_t x) {
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static uint64_t key_of(uint64_t seed, const char *name) {
    uint64_t h = 0xcbf29ce484222325u;
    for (; *name; name++)
        h = (h ^ (unsigned char)*name) * 0x100000001b3u;
    return mix(h ^ mix(seed + 0x9e3779b97f4a7c15u));
}

/* Sum of four 16-bit uniforms: mean 131070, std 65536 * sqrt(4/12). Bell-shaped, never
 * beyond 3.5 std, and cheap: a billion take seconds. */
static float bell(uint64_t x) {
    int32_t sum = (int32_t)((x & 0xffff) + (x >> 16 & 0xffff) + (x >> 32 & 0xffff) + (x >> 48));
    return (float)(sum - 131070) * (1.0f / 37837.2f);
}

static float value_at(const model__fill *f, uint64_t i) {
    uint64_t x = mix(f->key + i * 0x9e3779b97f4a7c15u);
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
 */
static void state_sizes(uint32_t n, float *size) {
    double along = 1, aside = 0, added = sqrt(ATTENTION_OUT * ATTENTION_OUT + FFN_OUT * FFN_OUT);
    for (uint32_t t = 0; t < n; t++) {
        double rms = sqrt((along + 1) * (along + 1) + aside * aside + 1.0 / 16);
        double next = KEEP * along + INJECT + (along + 1) / rms;
        aside = KEEP * aside + added + aside / rms;
        along = next;
        size[t] = (float)sqrt(along * along + aside * aside);
    }
}

typedef struct {
    double mean, std;
} depths;

/* Depths over tokens whose halting logit is normal with this bias and spread. */
static depths depths_at(const model_plan *c, const float *size, double bias, double spread) {
    double sum = 0, squares = 0, weights = 0;
    for (int i = 0; i < TOKENS; i++) {
        double g = -4 + 8.0 * i / (TOKENS - 1), w = exp(-g * g / 2), cum = 0;
        uint32_t t = 0;
        while (t < c->max_loop_iters && cum < (double)c->act_threshold) {
            double z = bias + spread * g * (double)(size[t] / size[c->max_loop_iters - 1]);
            cum += 1 / (1 + exp(-z));
            t++;
        }
        sum += w * t;
        squares += w * t * t;
        weights += w;
    }
    double mean = sum / weights, variance = squares / weights - mean * mean;
    return (depths){mean, sqrt(variance > 0 ? variance : 0)};
}

/* Depth falls as the bias rises: bisection. */
static double solve_bias(const model_plan *c, const float *size, double mean, double spread) {
    double low = -16, high = 16;
    for (int i = 0; i < 60; i++) {
        double mid = (low + high) / 2;
        if (depths_at(c, size, mid, spread).mean > mean) low = mid;
        else high = mid;
    }
    return high;
}

void model__recipe_init(model__recipe *r, const model_plan *c, uint64_t seed, float mean_depth) {
    /* Small means need a wide spread, or every token halts at the same loop. */
    static const double spreads[] = {0.7, 1, 1.5, 2.5, 4};
    float size[PLAN_MAX_LOOPS];
    state_sizes(c->max_loop_iters, size);
    double bias = 0, spread = 0;
    for (size_t i = 0; i < ARRAY_LEN(spreads); i++) {
        spread = spreads[i];
        bias = solve_bias(c, size, (double)mean_depth, spread);
        if (depths_at(c, size, bias, spread).std >= (double)mean_depth / 4) break;
    }
    *r = (model__recipe){.c = c, .seed = seed, .halt_bias = (float)bias};
    r->halt_std = (float)(spread / ((double)size[c->max_loop_iters - 1] * sqrt(c->dim)));
}

/* ---- which tensor gets what ---- */

static bool ends(const char *name, const char *suffix) {
    size_t n = strlen(name), k = strlen(suffix);
    return n >= k && strcmp(name + n - k, suffix) == 0;
}

/* Additions of all blocks of a stage together stay FFN_OUT and ATTENTION_OUT. */
static double per_block(const model_plan *c, const char *name) {
    uint32_t n = strncmp(name, "prelude.", 8) == 0 ? c->prelude_layers
                 : strncmp(name, "coda.", 5) == 0  ? c->coda_layers
                                                   : 1;
    return 1 / sqrt((double)n);
}

static double down_std(const model_plan *c, const model__want *w) {
    double share = per_block(c, w->name);
    if (w->part == MODEL_PART_SHARED) share = sqrt(0.5 / c->n_shared_experts);
    /* Top-k weights sum to 1; their squares to about half of that. */
    if (w->part == MODEL_PART_EXPERTS) share = c->n_shared_experts ? 1 : sqrt(2);
    return FFN_OUT * share / (SILU_UP * sqrt((double)w->shape[1]));
}

static double matrix_std(const model_plan *c, const model__want *w) {
    double in = sqrt((double)w->shape[1]);
    if (ends(w->name, "down.weight") && w->part != MODEL_PART_ATTENTION &&
        w->part != MODEL_PART_OTHER) {
        return down_std(c, w);
    }
    if (ends(w->name, ".wo.weight")) return ATTENTION_OUT * per_block(c, w->name) / in;
    if (ends(w->name, ".q_up_nope.weight") || ends(w->name, ".q_up_rope.weight") ||
        ends(w->name, ".wq.weight")) {
        return SCORE_STD / in;
    }
    return 1 / in;
}

model__fill model__recipe_fill(const model__recipe *r, const model__want *w) {
    const model_plan *c = r->c;
    model__fill f = {.kind = MODEL_FILL_NORMAL, .key = key_of(r->seed, w->name)};
    double added = ATTENTION_OUT * ATTENTION_OUT + FFN_OUT * FFN_OUT;
    if (strcmp(w->name, "embed.weight") == 0) {
        /* So that e, the sum of embedding and prelude, has rms 1. */
        f.std = (float)sqrt(c->prelude_layers ? 1 - added : 1);
    } else if (strcmp(w->name, "norm.weight") == 0) {
        /* With the head tied, plain ones would make every token predict itself. */
        f.kind = MODEL_FILL_SIGNS;
        f.std = (float)(LOGIT_STD / sqrt(c->dim) / sqrt(c->prelude_layers ? 1 - added : 1));
    } else if (ends(w->name, "norm.weight")) {
        f.mean = 1;
        f.std = (float)NORM_STD;
    } else if (ends(w->name, "act.halt.weight")) {
        f.std = r->halt_std;
    } else if (ends(w->name, "act.halt.bias")) {
        f.mean = r->halt_bias;
    } else if (ends(w->name, "injection.B")) {
        f.mean = (float)INJECT;
        f.std = 0.02f;
    } else if (ends(w->name, "log_A") || ends(w->name, "router_bias")) {
        f.std = 0.1f;
    } else if (ends(w->name, "log_dt")) {
        f.std = 0;
    } else if (ends(w->name, "lora.scale.weight")) {
        f.mean = 1;
        f.std = 0.5f;
    } else if (ends(w->name, "lora.B")) {
        f.std = (float)(LORA_OUT / sqrt(c->lora_rank));
    } else {
        f.std = (float)matrix_std(c, w);
    }
    return f;
}
