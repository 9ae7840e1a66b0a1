/* describe.c - see describe.h. */
#include "cli/describe.h"
#include "base/json.h"
#include "engine/backend.h"

#include <stdio.h>
#include <string.h>

typedef unsigned long long ull;

void describe_plan(buf *out, const model_plan *plan, exit_rule rule, float threshold) {
    buf_printf(out, "%s, %u core layer%s, ", plan_family_name(plan), plan->n_core,
               plan->n_core == 1 ? "" : "s");
    if (rule == EXIT_FIXED) {
        buf_puts(out, "a fixed number of loops");
        return;
    }
    buf_printf(out, "exit by %s at %g%s", exit_rule_name(rule),
               (double)exit_rule_written(rule, threshold),
               exit_rule_runs_all(rule, threshold) ? " (every loop runs)" : "");
}

void describe_plan_json(buf *out, const model_plan *plan, exit_rule rule, float threshold) {
    buf_printf(out, "\"family\":\"%s\",\"core_layers\":%u,\"exit\":{\"rule\":\"%s\",\"threshold\":",
               plan_family_name(plan), plan->n_core, exit_rule_name(rule));
    if (rule == EXIT_FIXED) buf_puts(out, "null");
    else buf_json_float(out, exit_rule_written(rule, threshold));
    buf_puts(out, "}");
}

const char *describe_model_name(const runtime *rt) {
    const char *dir = model_dir(rt->model), *slash = strrchr(dir, '/');
    return slash && slash[1] ? slash + 1 : dir;
}

void describe_runtime(buf *out, const runtime *rt) {
    describe_plan(out, model_plan_of(rt->model), rt->backend->info.exit, runtime_threshold(rt));
    if (rt->ranks == NULL) return;
    buf_printf(out, "; %u ranks by %s%s", rt->ranks->n, rt->ranks->carrier,
               rt->backend->info.n_homes ? ", a home for each sequence" : "");
}

void describe_runtime_json(buf *out, const runtime *rt) {
    describe_plan_json(out, model_plan_of(rt->model), rt->backend->info.exit,
                       runtime_threshold(rt));
    if (rt->ranks == NULL) return;
    eng_ranks_counts counts = eng_ranks_read(rt->ranks);
    buf_printf(out,
               ",\"ranks\":{\"n\":%u,\"carrier\":\"%s\",\"split\":\"%s\",\"weight_bytes\":%llu,"
               "\"gathers\":%llu,"
               "\"messages\":%llu,\"bytes\":%llu,\"seconds\":%.6f,\"launches\":%llu,"
               "\"launch_bytes\":%llu}",
               rt->ranks->n, rt->ranks->carrier,
               rt->backend->info.n_homes ? "sequences" : "columns",
               (ull)rt->backend->info.weight_bytes, (ull)counts.gathers, (ull)counts.messages,
               (ull)counts.bytes, (double)counts.ns * 1e-9, (ull)counts.launches,
               (ull)counts.launch_bytes);
}

layer_cache describe_layer_cache(const model_plan *plan) {
    layer_cache cache = {.own = plan->layer_values};
    if (plan->attn == ATTN_GQA) {
        cache.full = 2 * plan_q_width(plan);
        cache.grouped = 2 * plan_kv_width(plan);
    } else { /* heads divide the width of the residual stream */
        cache.full = 2 * plan->dim;
        cache.grouped = (uint32_t)((uint64_t)cache.full * plan->n_kv_heads / plan->n_heads);
    }
    return cache;
}

const char *describe_ratio(char out[32], uint32_t own, uint32_t other) {
    if (own == other) return "as large";
    if (own > other) (void)snprintf(out, 32, "%.1f times larger", (double)own / other);
    else (void)snprintf(out, 32, "%.1f times smaller", (double)other / own);
    return out;
}

const char *describe_number(char out[32], uint64_t n) {
    char digits[24];
    size_t len = (size_t)snprintf(digits, sizeof digits, "%llu", (unsigned long long)n), at = 0;
    for (size_t i = 0; i < len; i++) {
        if (i && (len - i) % 3 == 0) out[at++] = ',';
        out[at++] = digits[i];
    }
    out[at] = 0;
    return out;
}

const char *describe_scaled(char out[32], uint64_t n, const char *suffix) {
    static const struct {
        double over;
        const char *count, *bytes;
    } units[] = {{1e12, "T", "TB"}, {1e9, "B", "GB"}, {1e6, "M", "MB"}, {1e3, "k", "kB"}};
    for (size_t i = 0; i < ARRAY_LEN(units); i++) {
        double value = (double)n / units[i].over;
        if (value < 1) continue;
        (void)snprintf(out, 32,
                       value < 10    ? "%.3f %s"
                       : value < 100 ? "%.2f %s"
                                     : "%.1f %s",
                       value, suffix[0] ? units[i].bytes : units[i].count);
        return out;
    }
    (void)snprintf(out, 32, "%llu%s%s", (unsigned long long)n, suffix[0] ? " " : "", suffix);
    return out;
}
