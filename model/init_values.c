/* init_values.c - random weights with realistic behaviour: activations keep their size through
 * every stage, experts and attention matter, and tokens leave the loop at different depths.
 *
 * Sizes below are root mean squares (rms) per channel. A linear layer of std 1/sqrt(inputs) turns
 * rms 1 into rms 1. The std of the last matrix of an attention or FFN sets how much the sublayer
 * adds to the residual. */
#include "base/hash.h"
#include "model/model_internal.h"

#include <math.h>
#include <string.h>

/* Amounts added to a residual stream of rms 1. */
#define ATTENTION_OUT 0.4
#define FFN_OUT 0.4
#define SILU_UP 0.597 /* rms of silu(a) * b for standard normal a and b */
#define RELU2 0.612   /* rms of 0.5 * relu(a)^2 for standard normal a */
#define SCORE_STD 1.5 /* attention scores: peaked enough to matter */
#define LORA_OUT 0.05
#define LOGIT_STD 2.5
#define QK_BIAS 0.3
#define VALUE_EMBED 0.5 /* beside values of rms 1 */
/* LINEAR: shares of the state's square, of the input's, and of one channel of the input */
#define KEEP_STATE 0.3
#define INPUT_ALL 0.25
#define INPUT_ONE 0.6
#define LOG_DT 0.213    /* DIAGONAL: softplus gives 0.805, so the state keeps 0.447 of itself */
#define INJECT 0.1      /* injection.B */
#define KEEP 0.36787944 /* A = exp(-exp(0 + 0)) */
#define NORM_STD 0.05
/* Logits with `motion`. With flatter ones a small change moves many draws, whatever the motion;
 * with more peaked ones a sampled text soon repeats a few tokens. */
#define PEAK 4

/* ---- the generator: value i of a tensor is a pure function of (key, i) ---- */

static uint64_t key_of(uint64_t seed, const model__want *want) {
    uint64_t name = hash_fnv(HASH_FNV_START, want->name, strlen(want->name));
    return hash_mix((name + want->first_row) ^ hash_mix(seed + HASH_STEP));
}

/* Sum of four 16-bit uniforms: mean 131070, std 65536 * sqrt(4/12). Bell-shaped, never beyond 3.5
 * std, and cheap: a billion values take seconds. */
static float bell(uint64_t x) {
    int32_t sum = (int32_t)((x & 0xffff) + (x >> 16 & 0xffff) + (x >> 32 & 0xffff) + (x >> 48));
    return (float)(sum - 131070) * (1.0f / 37837.2f);
}

static float std_of_column(const model__fill *fill, uint64_t col) {
    uint64_t half = fill->cols / 2;
    return col < half ? fill->std : col == half ? fill->first : fill->right;
}

static float value_at(const model__fill *fill, uint64_t i) {
    uint64_t bits = hash_mix(fill->key + i * HASH_STEP);
    if (fill->kind == MODEL_FILL_SIGNS) return bits >> 63 ? fill->std : -fill->std;
    if (fill->kind == MODEL_FILL_HALVES) return std_of_column(fill, i % fill->cols) * bell(bits);
    bool first = fill->kind == MODEL_FILL_STEP && i < fill->cols;
    return (first ? fill->first : fill->mean) + fill->std * bell(bits);
}

void model__fill_values(const model__fill *fill, model_dtype dtype, uint64_t first, size_t n,
                        void *out) {
    unsigned char *to = out;
    for (size_t i = 0; i < n; i++) {
        float value = value_at(fill, first + i);
        if (dtype == DTYPE_F32) {
            memcpy(to + 4 * i, &value, 4);
            continue;
        }
        uint16_t half = dtype == DTYPE_BF16 ? model__bf16_narrow(value) : model__f16_narrow(value);
        memcpy(to + 2 * i, &half, 2);
    }
}

/* ---- halting ---- */

/* Of a model whose tokens should run every loop: the mean depth falls short by RARELY. A wide
 * spread would need halting probabilities near 0, and the weighted sum of states with them. */
#define RARELY 0.02
#define ALL_ALIKE 0.1
enum { TOKENS = 401 }; /* grid of tokens from -4 to 4 std */

/* Fills size[loop], the rms of h after each loop of a typical token, in units of e. `along` is the
 * part of h along e; `aside` is the part added by attention and experts.
 * h = keep h + INJECT e + u + additions, u = rms(h + e + loop). With a norm after each loop the
 * size stays 1. */
static void state_sizes(const model__recipe *recipe, float *size) {
    const model_plan *plan = recipe->plan;
    double along = 1, aside = 0, keep = KEEP * recipe->motion;
    double added = sqrt(ATTENTION_OUT * ATTENTION_OUT + FFN_OUT * FFN_OUT) * recipe->motion;
    for (uint32_t loop = 0; loop < plan->loops_default; loop++) {
        double rms = sqrt((along + 1) * (along + 1) + aside * aside + 1.0 / 16);
        double next = keep * along + INJECT + (along + 1) / rms;
        aside = keep * aside + added + aside / rms;
        along = next;
        size[loop] = plan->loop_norm ? 1 : (float)sqrt(along * along + aside * aside);
    }
}

typedef struct {
    double mean, std;
} depths;

/* Depth of a token with halting logits bias + reach * size. */
static uint32_t loops_of(const model_plan *plan, const float *size, double bias, double reach) {
    bool hazard = plan->exit == EXIT_HAZARD;
    double sum = 0, enough = hazard ? (double)MODEL_HAZARD_AT : (double)plan->exit_threshold;
    uint32_t loops = 0;
    while (loops < plan->loops_default && sum < enough) {
        double halts = 1 / (1 + exp(-bias - reach * (double)size[loops]));
        sum += hazard ? (1 - sum) * halts : halts;
        loops++;
    }
    return loops;
}

/* Depths over tokens with normally distributed halting logits. */
static depths depths_at(const model_plan *plan, const float *size, double bias, double spread) {
    double sum = 0, squares = 0, weights = 0;
    /* There is at least one loop. NOLINTNEXTLINE(clang-analyzer-core.uninitialized.Assign) */
    double last = (double)size[plan->loops_default - 1];
    for (int i = 0; i < TOKENS; i++) {
        double logit = -4 + 8.0 * i / (TOKENS - 1), weight = exp(-logit * logit / 2);
        uint32_t loops = loops_of(plan, size, bias, spread * logit / last);
        sum += weight * loops;
        squares += weight * loops * loops;
        weights += weight;
    }
    double mean = sum / weights, variance = squares / weights - mean * mean;
    return (depths){mean, sqrt(variance > 0 ? variance : 0)};
}

/* Depth falls as the bias rises: bisection. */
static double solve_bias(const model_plan *plan, const float *size, double mean, double spread) {
    double low = -16, high = 16;
    for (int i = 0; i < 60; i++) {
        double mid = (low + high) / 2;
        if (depths_at(plan, size, mid, spread).mean > mean) low = mid;
        else high = mid;
    }
    return high;
}

static int find_head(void *ud, const model__want *want) {
    (void)ud;
    return want->place.role == TENSOR_HEAD && !want->optional;
}

void model__recipe_init(model__recipe *recipe, const model_plan *plan, uint64_t seed,
                        float mean_depth, float motion) {
    /* Small means need a wide spread, or every token halts at the same loop. */
    static const double spreads[] = {0.7, 1, 1.5, 2.5, 4};
    float size[PLAN_MAX_LOOPS];
    *recipe = (model__recipe){.plan = plan, .seed = seed, .motion = 1, .peak = 1};
    if (motion > 0) {
        recipe->motion = (double)motion;
        recipe->peak = PEAK;
    }
    state_sizes(recipe, size);
    double bias = 0, spread = 0, most = plan->loops_default - RARELY,
           mean = (double)mean_depth < most ? (double)mean_depth : most;
    for (size_t i = 0; i < ARRAY_LEN(spreads); i++) {
        spread = mean < most ? spreads[i] : ALL_ALIKE;
        bias = solve_bias(plan, size, mean, spread);
        if (mean == most || depths_at(plan, size, bias, spread).std >= mean / 4) break;
    }
    recipe->halt_bias = (float)bias;
    recipe->tied = model__wants(plan, find_head, NULL) == 0;
    recipe->halt_std = (float)(spread / ((double)size[plan->loops_default - 1] * sqrt(plan->dim)));
}

/* Fits to mean depths of random models with 480 and 512 channels over thresholds from 0.5 to 0.001:
 * depth = a + b x + c x^2, with x = -log(threshold). With 5,280 channels the depth is 7 % off. */
float model__depth_threshold(const model_plan *plan, float mean_depth) {
    static const double linear[] = {1.9, 2.6, 0.22}, diagonal[] = {1.6, 0.75, 0.09};
    const double *fit = plan->inject == INJECT_DIAGONAL ? diagonal : linear;
    double a = fit[0] - (double)mean_depth, b = fit[1], c = fit[2];
    return (float)exp((b - sqrt(b * b - 4 * a * c)) / (2 * c));
}

/* ---- the values of each tensor ---- */

/* Keeps the additions of all layers of a stage together at FFN_OUT and ATTENTION_OUT. */
static double per_layer(const model_plan *plan, const model__want *want) {
    uint32_t n = want->place.stage == PART_OF_PRELUDE ? plan->n_prelude
                 : want->place.stage == PART_OF_CODA  ? plan->n_coda
                                                      : plan->n_core;
    return 1 / sqrt((double)n);
}

static double down_std(const model_plan *plan, const model__want *want) {
    double share = per_layer(plan, want);
    if (want->part == MODEL_PART_SHARED) share = sqrt(0.5 / plan->n_shared_experts);
    /* Top-k weights sum to 1, their squares to about 1/2. */
    if (want->part == MODEL_PART_EXPERTS) share = plan->n_shared_experts ? 1 : sqrt(2);
    ffn_kind ffn = want->place.stage == PART_OF_CORE ? plan->core_ffn : plan->end_ffn;
    double hidden = ffn == FFN_HALF_RELU2 ? RELU2 : SILU_UP;
    return FFN_OUT * share / (hidden * sqrt((double)want->shape[1]));
}

static double matrix_std(const model_plan *plan, const model__want *want) {
    double in = sqrt((double)want->shape[1]);
    switch (want->place.role) {
    case TENSOR_DOWN:
    case TENSOR_EXPERT_DOWN:
    case TENSOR_SHARED_DOWN: return down_std(plan, want);
    case TENSOR_WO: return ATTENTION_OUT * per_layer(plan, want) / in;
    case TENSOR_WQ:
    case TENSOR_Q_UP_NOPE:
    case TENSOR_Q_UP_ROPE: return SCORE_STD / in;
    case TENSOR_HEAD: return LOGIT_STD / in;
    default: return 1 / in;
    }
}

static void fill_norm(model__fill *fill, double mean) {
    fill->mean = (float)mean;
    fill->std = (float)(NORM_STD * mean);
}

/* A norm on a sublayer's output sets how much the sublayer adds; a norm of the sum keeps it. */
static void fill_out_norm(model__fill *fill, const model_plan *plan, double out, double share) {
    fill_norm(fill, plan->norms == NORM_AFTER ? 1 : out * share);
}

/* e, the sum of scaled embedding and prelude, gets rms 1. */
static double embed_std(const model_plan *plan) {
    double added = ATTENTION_OUT * ATTENTION_OUT + FFN_OUT * FFN_OUT;
    bool sums = plan->n_prelude > 0 && plan->norms != NORM_AFTER;
    return (sums ? sqrt(1 - added) : 1) / (double)plan->embed_scale;
}

/* With a tied head, a norm of ones would make every token predict itself. */
static void fill_final_norm(model__fill *fill, const model__recipe *recipe) {
    if (!recipe->tied) {
        fill_norm(fill, 1);
        return;
    }
    fill->kind = MODEL_FILL_SIGNS;
    fill->std =
        (float)(recipe->peak * LOGIT_STD / sqrt(recipe->plan->dim) / embed_std(recipe->plan));
}

/* The adapter of LINEAR: the state's half keeps the state small enough to converge. One column of
 * the input's half is larger than the others, so the input's share of a loop differs from token to
 * token, and with it the speed of convergence. */
static void fill_linear(model__fill *fill, const model_plan *plan) {
    fill->kind = MODEL_FILL_HALVES;
    fill->cols = 2 * (uint64_t)plan->dim;
    fill->std = (float)sqrt(KEEP_STATE / plan->dim);
    fill->right = (float)sqrt(INPUT_ALL / plan->dim);
    fill->first = (float)sqrt(INPUT_ONE);
}

/* ---- less motion ----
 * Loops after the first change the state by the part that stays of the state before, and if the
 * core's result is added to the state, by this addition. ACT's weighted sum of states grows with
 * every loop, from about one part in all loops, so the coda's addition beside it would shrink. */

/* The state keeps e^(-dt e^LOG_A) of itself. Returns the mean of LOG_A to keep `motion` times as
 * much as LOG_A = 0. */
static double log_a(const model__recipe *recipe) {
    double dt = recipe->plan->inject == INJECT_DIAGONAL ? log1p(exp(LOG_DT)) : 1;
    return log1p(-log(recipe->motion) / dt);
}

static void scale(model__fill *fill, double by) {
    fill->mean *= (float)by;
    fill->std *= (float)by;
}

/* The loop embedding differs from loop to loop in its D / 8 channels. */
static void quiet_loop_embedding(model__fill *fill, const model__recipe *recipe) {
    fill->kind = MODEL_FILL_STEP;
    fill->cols = recipe->plan->dim / 8;
    fill->first = (float)recipe->motion;
}

/* What the layers of a stage add, relative to the usual weights. */
static double added_part(const model__recipe *recipe, tensor_stage stage) {
    const model_plan *plan = recipe->plan;
    bool sums = plan->inject == INJECT_NONE || plan->inject == INJECT_MYTHOS;
    if (stage == PART_OF_CORE && sums) return recipe->motion;
    if (stage == PART_OF_CODA && plan->output == OUTPUT_WEIGHTED_SUM)
        return recipe->motion / plan->loops_default;
    return 1;
}

static void slow_down(model__fill *fill, const model__recipe *recipe, const model__want *want) {
    const model_plan *plan = recipe->plan;
    double added = added_part(recipe, want->place.stage);
    bool normed = plan->norms == NORM_SANDWICH || plan->norms == NORM_POST;
    switch (want->place.role) {
    case TENSOR_WO:
    case TENSOR_DOWN:
    case TENSOR_EXPERT_DOWN:
    case TENSOR_SHARED_DOWN:
        if (!normed) scale(fill, added);
        break;
    case TENSOR_ATTN_OUT_NORM:
    case TENSOR_FFN_OUT_NORM:
        if (normed) scale(fill, added);
        break;
    case TENSOR_LOOP_NORM:
        fill->std *= (float)recipe->motion;
        if (plan->inject == INJECT_MYTHOS) quiet_loop_embedding(fill, recipe);
        break;
    case TENSOR_INJECT:
        if (plan->inject == INJECT_LINEAR) fill->std *= (float)recipe->motion;
        break;
    case TENSOR_LORA_B: scale(fill, recipe->motion); break;
    case TENSOR_LOG_A: fill->mean = (float)log_a(recipe); break;
    case TENSOR_HEAD: scale(fill, recipe->peak); break;
    default: break;
    }
}

static model__fill usual_fill(const model__recipe *recipe, const model__want *want) {
    const model_plan *plan = recipe->plan;
    model__fill fill = {.kind = MODEL_FILL_NORMAL, .key = key_of(recipe->seed, want)};
    bool diagonal = plan->inject == INJECT_DIAGONAL;
    switch (want->place.role) {
    case TENSOR_EMBED: fill.std = (float)embed_std(plan); break;
    case TENSOR_FINAL_NORM: fill_final_norm(&fill, recipe); break;
    case TENSOR_ATTN_OUT_NORM:
        fill_out_norm(&fill, plan, ATTENTION_OUT, per_layer(plan, want));
        break;
    case TENSOR_FFN_OUT_NORM: fill_out_norm(&fill, plan, FFN_OUT, per_layer(plan, want)); break;
    case TENSOR_ATTN_NORM:
    case TENSOR_FFN_NORM:
    case TENSOR_LOOP_NORM:
    case TENSOR_INPUT_NORM:
    case TENSOR_K_NORM:
    case TENSOR_KV_NORM: fill_norm(&fill, 1); break;
    case TENSOR_Q_NORM: fill_norm(&fill, plan->qk_norm == QK_NORM_FULL ? SCORE_STD : 1); break;
    case TENSOR_Q_BIAS:
    case TENSOR_K_BIAS: fill.std = (float)QK_BIAS; break;
    case TENSOR_INJECT:
        if (diagonal) fill.std = (float)matrix_std(plan, want);
        else fill_linear(&fill, plan);
        break;
    case TENSOR_VALUE_TABLE: fill.std = (float)VALUE_EMBED; break;
    case TENSOR_EXIT_WEIGHT: fill.std = recipe->halt_std; break;
    case TENSOR_EXIT_BIAS: fill.mean = recipe->halt_bias; break;
    case TENSOR_INJECT_B:
        fill.mean = (float)INJECT;
        fill.std = 0.02f;
        break;
    case TENSOR_LOG_A:
    case TENSOR_ROUTER_BIAS: fill.std = 0.1f; break;
    case TENSOR_LOG_DT:
        fill.mean = (float)(diagonal ? LOG_DT : 0);
        fill.std = diagonal ? 0.1f : 0;
        break;
    case TENSOR_LORA_SCALE:
        fill.mean = 1;
        fill.std = 0.5f;
        break;
    case TENSOR_LORA_B: fill.std = (float)(LORA_OUT / sqrt(plan->lora_rank)); break;
    default: fill.std = (float)matrix_std(plan, want);
    }
    return fill;
}

model__fill model__recipe_fill(const model__recipe *recipe, const model__want *want) {
    model__fill fill = usual_fill(recipe, want);
    if (recipe->peak > 1) slow_down(&fill, recipe, want);
    return fill;
}
