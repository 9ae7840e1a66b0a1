/* describe.c - see describe.h. */
#include "cli/describe.h"
#include "engine/backend.h"

#include <stdio.h>
#include <string.h>

void describe_plan(buf *out, const model_plan *p, exit_rule rule, float threshold) {
    buf_printf(out, "%s, %u core layer%s, ", plan_family_name(p), p->n_core,
               p->n_core == 1 ? "" : "s");
    if (rule == EXIT_FIXED) buf_puts(out, "a fixed number of loops");
    else buf_printf(out, "exit by %s at %g", exit_rule_name(rule), (double)threshold);
}

void describe_plan_json(buf *out, const model_plan *p, exit_rule rule, float threshold) {
    buf_printf(out, "\"family\":\"%s\",\"core_layers\":%u,\"exit\":{\"rule\":\"%s\",\"threshold\":",
               plan_family_name(p), p->n_core, exit_rule_name(rule));
    if (rule == EXIT_FIXED) buf_puts(out, "null}");
    else buf_printf(out, "%.9g}", (double)threshold);
}

void describe_runtime(buf *out, const runtime *r) {
    describe_plan(out, model_plan_of(r->model), r->backend->info.exit, runtime_threshold(r));
}

void describe_runtime_json(buf *out, const runtime *r) {
    describe_plan_json(out, model_plan_of(r->model), r->backend->info.exit, runtime_threshold(r));
}

layer_cache describe_layer_cache(const model_plan *p) {
    layer_cache c = {.own = p->layer_values};
    if (p->attn == ATTN_GQA) {
        c.full = 2 * plan_q_width(p);
        c.grouped = 2 * plan_kv_width(p);
    } else { /* heads that share the width of the residual stream */
        c.full = 2 * p->dim;
        c.grouped = (uint32_t)((uint64_t)c.full * p->n_kv_heads / p->n_heads);
    }
    return c;
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
