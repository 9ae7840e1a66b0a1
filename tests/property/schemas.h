/* schemas.h - random schemas, values that fit them, and a judge. */
#ifndef FATHOM_TESTS_SCHEMAS_H
#define FATHOM_TESTS_SCHEMAS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

extern uint64_t schemas_state; /* of the random numbers */
uint32_t schemas_below(uint32_t n);
/* An object with two definitions to refer to: a leaf, and a tree of any depth. */
json_t *schemas_random_root(void);
bool schemas_valid(const json_t *root, const json_t *schema, const json_t *val);
/* A value that fits, or NULL if the depth does not suffice. */
json_t *schemas_instance(const json_t *root, const json_t *schema, int depth);

#endif
