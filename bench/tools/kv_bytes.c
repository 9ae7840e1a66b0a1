/* kv_bytes.c - cache bytes of one token, from the plans alone: every loop stored, policy last at a
 * mean depth, and policy collapse for generated tokens.
 *
 *   bench/tools/kv_bytes.sh [VARIANT=MEAN_DEPTH ...]   (default: every variant, at every loop) */
#include "model/plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* bfloat16; the planes outside the loop, and so many loops. */
static double bytes(const model_plan *plan, double loops) {
    return (plan_planes(plan, 0) + loops) * plan->slot_values * 2;
}

static void print_row(const char *name, const model_plan *plan, double depth) {
    double all = bytes(plan, plan->loops_default), last = bytes(plan, depth),
           collapse = bytes(plan, 1);
    printf("| %s | %u | %.4g | %.0f | %.0f (-%.0f %%) | %.0f (-%.0f %%) |\n", name,
           plan->loops_default, depth, all, last, 100 - 100 * last / all, collapse,
           100 - 100 * collapse / all);
}

/* "VARIANT" or "VARIANT=MEAN_DEPTH" */
static int print_variant(const char *text) {
    char name[80];
    const char *mean = strchr(text, '=');
    size_t n = mean ? (size_t)(mean - text) : strlen(text);
    (void)snprintf(name, sizeof name, "%.*s", (int)n, text);
    model_plan plan;
    err e = {0};
    if (plan_variant(&plan, name, &e) != 0) return fprintf(stderr, "%s\n", e.msg), -1;
    double depth = mean ? strtod(mean + 1, NULL) : plan.loops_default;
    if (depth >= 1 && depth <= plan.loops_default) return print_row(name, &plan, depth), 0;
    fprintf(stderr, "%s: the mean depth must be 1 to %u\n", text, plan.loops_default);
    return -1;
}

int main(int argc, char **argv) {
    printf("| variant | loops | mean depth | every loop stored | last | collapse |\n"
           "|---|---|---|---|---|---|\n");
    int rc = 0;
    for (int i = 1; i < argc && rc == 0; i++)
        rc = print_variant(argv[i]);
    for (size_t i = 0; argc == 1 && rc == 0 && plan_variant_name(i); i++)
        rc = print_variant(plan_variant_name(i));
    return rc == 0 ? 0 : 2;
}
