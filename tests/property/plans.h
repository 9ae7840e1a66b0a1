/* plans.h - model plans drawn at random, with folders of random weights, and a count of their
 * parts.
 */
#ifndef FATHOM_PLANS_H
#define FATHOM_PLANS_H

#include "model/model.h"

uint64_t plans_rand(uint64_t *state);                                 /* splitmix64 */
uint32_t plans_between(uint64_t *state, uint32_t low, uint32_t high); /* both included */
bool plans_chance(uint64_t *state, uint32_t one_in);

/* Any plan that its family accepts, small and of odd sizes. */
model_plan plans_draw(uint64_t *state);
/* A model folder of this plan. Its weights vary more than those of `fathom init`, so that a part
 * left out or put in the wrong place changes the logits. */
void plans_write(const char *dir, const model_plan *plan, uint64_t *state);

/* The parts of plans that were drawn. A test that draws many plans must meet each of them. */
enum { PLANS_MAX_PARTS = 64 };
typedef struct {
    const char *names[PLANS_MAX_PARTS];
    uint32_t counts[PLANS_MAX_PARTS], n;
} plans_parts;
/* Counts a part if `has`. */
void plans_note(plans_parts *parts, const char *name, bool has);
void plans_count(plans_parts *parts, const model_plan *plan);

#endif
