/* describe.h - a model's plan as text and as JSON, the same in every command. */
#ifndef FATHOM_DESCRIBE_H
#define FATHOM_DESCRIBE_H

#include "cli/cli.h"

/* "ouro, 24 core layers, exit by hazard at 0.5"; for the rule fixed "a fixed number of loops". */
void describe_plan(buf *out, const model_plan *plan, exit_rule rule, float threshold);
/* "family":"ouro","core_layers":24,"exit":{"rule":"hazard","threshold":0.5} - members of an object,
 * without braces; the threshold of the rule fixed is null. */
void describe_plan_json(buf *out, const model_plan *plan, exit_rule rule, float threshold);
/* The same for an open model, with the rule and threshold in force. */
void describe_runtime(buf *out, const runtime *rt);
void describe_runtime_json(buf *out, const runtime *rt);
/* The last part of the path of its folder, for titles: "demo". */
const char *describe_model_name(const runtime *rt);

/* A line for each part of the plan: "  norms                of a sublayer's input, eps 1e-06". */
void describe_parts(buf *out, const model_plan *plan);

/* Number of cached values of one position at one layer: this model's; those of full multi-head
 * attention of the same width; those of grouped attention with as many K/V heads as the model names
 * (0: it names none). */
typedef struct {
    uint32_t own, full, grouped;
} layer_cache;
layer_cache describe_layer_cache(const model_plan *plan);
/* Ratio of two numbers of values: "14.2 times smaller", "as large". */
const char *describe_ratio(char out[32], uint32_t own, uint32_t other);
/* Digits in groups of three: "98,304". */
const char *describe_number(char out[32], uint64_t n);
/* Three or four digits and a fitting unit: "1.064 B", or with the suffix "B" "2.130 GB". */
const char *describe_scaled(char out[32], uint64_t n, const char *suffix);

#endif
