/* plan.c - derived sizes of a plan, and policies and exit rules by name. */
#include "model/model_internal.h"

#include <float.h>
#include <math.h>
#include <string.h>

void plan_derive(model_plan *plan) {
    plan->layer_values = plan->attn == ATTN_GQA ? 2 * plan->n_kv_heads * plan->head_dim
                                                : plan->kv_lora_rank + plan->qk_rope_head_dim;
    plan->slot_values = plan->n_core * plan->layer_values;
}

uint32_t plan_loops_ceiling(const model_plan *plan) {
    if (plan->loops_cap) return plan->loops_cap;
    return plan->loops_default > PLAN_MAX_LOOPS / 2 ? PLAN_MAX_LOOPS : 2 * plan->loops_default;
}

int plan_check_loops(const model_plan *plan, long long loops, const char *param, err *e) {
    uint32_t least = plan_loops_least(plan), cap = plan->loops_cap;
    bool limited = cap > 0 || least > 1;
    if (!limited || (loops >= least && (cap == 0 || loops <= cap))) return 0;
    buf limits = {0};
    if (least == cap) buf_printf(&limits, "exactly %u", cap);
    else if (cap) buf_printf(&limits, "%u to %u", least, cap);
    else buf_printf(&limits, "at least %u", least);
    (void)err_set(e, ERR_BAD_PARAM, param, "%s is %lld; %s models run %s loops", param, loops,
                  plan_family_name(plan), limits.data ? limits.data : "other");
    buf_deinit(&limits);
    return -1;
}

static int count_want(void *ud, const model__want *want) {
    uint64_t *n = ud;
    if (!want->optional) *n += want->shape[0] * want->shape[1];
    return 0;
}

uint64_t plan_params(const model_plan *plan) {
    uint64_t n = 0;
    (void)model__wants(plan, count_want, &n);
    return n;
}

double plan_rope_frequency(const model_plan *plan, uint32_t pair) {
    uint32_t width = plan->attn == ATTN_MLA ? plan->qk_rope_head_dim : plan->head_dim;
    double frequency = pow((double)plan->rope_theta, -2.0 * pair / width);
    const rope_scaling *scaling = &plan->scaling;
    if (scaling->factor == 0) return frequency;
    double low = (double)scaling->low, high = (double)scaling->high,
           factor = (double)scaling->factor;
    /* turns within the original context */
    double turns = scaling->original * frequency / (2 * 3.14159265358979323846);
    if (turns > high) return frequency;
    if (turns < low) return frequency / factor;
    double kept = (turns - low) / (high - low);
    return (1 - kept) * frequency / factor + kept * frequency;
}

const char *plan_family_name(const model_plan *plan) {
    return plan->family->name;
}

/* ---- policies ---- */

static const char *const policies[KV_POLICIES] = {
    [KV_EXACT] = "exact", [KV_LAST] = "last", [KV_COLLAPSE] = "collapse"};

const char *kv_policy_name(kv_policy policy) {
    return (unsigned)policy < KV_POLICIES ? policies[policy] : "?";
}

bool kv_policy_find(const char *name, kv_policy *out) {
    for (int i = 0; i < KV_POLICIES; i++) {
        if (strcmp(policies[i], name) == 0) return *out = (kv_policy)i, true;
    }
    return false;
}

/* ---- exit rules ---- */

/* A threshold is greater than `above` and at most `most`. */
static const struct {
    const char *name;
    float above, most, usual;
    const char *range;
} rules[EXIT_RULES] = {
    [EXIT_ACT] = {"act", 0, 1, 0.99f, "above 0 and at most 1"},
    [EXIT_HAZARD] = {"hazard", 0, 1, 1, "above 0 and at most 1 (1: every loop runs)"},
    [EXIT_LATENT_DIFF] = {"latent-diff", 0, 1e6f, 0.03f,
                          "at least 0 (0: every loop runs) and at most 1e6"},
    [EXIT_COSINE] = {"cosine", 0, 2, 1e-3f, "at least 0 (0: every loop runs) and at most 2"},
    [EXIT_FIXED] = {"fixed", 0, 0, 0, NULL},
};

const char *exit_rule_name(exit_rule rule) {
    return (unsigned)rule < EXIT_RULES ? rules[rule].name : "?";
}

bool exit_rule_find(const char *name, exit_rule *out) {
    for (int i = 0; i < EXIT_RULES; i++) {
        if (strcmp(rules[i].name, name) == 0) return *out = (exit_rule)i, true;
    }
    return false;
}

int exit_rule_check(exit_rule rule, float threshold, const char *param, err *e) {
    if (rule == EXIT_FIXED) {
        if (threshold == 0) return 0;
        return err_set(e, ERR_BAD_PARAM, param,
                       "%s: this model runs a fixed number of loops and has no threshold", param);
    }
    if (threshold > rules[rule].above && threshold <= rules[rule].most) return 0;
    return err_set(e, ERR_BAD_PARAM, param, "%s is %g; for the exit rule %s it must be %s", param,
                   (double)threshold, rules[rule].name, rules[rule].range);
}

bool exit_rule_range(exit_rule rule, float *above, float *most) {
    *above = rules[rule].above;
    *most = rules[rule].most;
    return rule != EXIT_FIXED;
}

float exit_rule_never(exit_rule rule) {
    switch (rule) {
    case EXIT_HAZARD: return 1;
    case EXIT_LATENT_DIFF:
    case EXIT_COSINE: return FLT_MIN;
    default: return 0;
    }
}

/* 0 stands for a threshold that is not given. */
static bool writes_never_as_0(exit_rule rule) {
    return rule == EXIT_LATENT_DIFF || rule == EXIT_COSINE;
}

float exit_rule_from_written(exit_rule rule, float written) {
    return written == 0 && writes_never_as_0(rule) ? exit_rule_never(rule) : written;
}

float exit_rule_written(exit_rule rule, float threshold) {
    return threshold == exit_rule_never(rule) && writes_never_as_0(rule) ? 0 : threshold;
}

bool exit_rule_runs_all(exit_rule rule, float threshold) {
    if (rule == EXIT_FIXED) return true;
    if (rule == EXIT_HAZARD) return threshold >= 1;
    return rule != EXIT_ACT && threshold <= exit_rule_never(rule);
}

float exit_rule_default(exit_rule rule) {
    return rules[rule].usual;
}
