/* init_internal.h - how random weights are scaled; private to engine/. */
#ifndef FATHOM_INIT_INTERNAL_H
#define FATHOM_INIT_INTERNAL_H

#include "model/model_internal.h"

typedef enum { MODEL_FILL_NORMAL, MODEL_FILL_SIGNS } model__fill_kind;

/* NORMAL: mean + std * a bell-shaped value; SIGNS: plus or minus std. */
typedef struct {
    model__fill_kind kind;
    float mean, std;
    uint64_t key; /* of the counter-based generator */
} model__fill;

typedef struct {
    const model_plan *c;
    uint64_t seed;
    float halt_std, halt_bias;
} model__recipe;

/* Scales halting so that the expected depth of a random token is mean_depth (1..max_loop_iters). */
void model__recipe_init(model__recipe *r, const model_plan *c, uint64_t seed, float mean_depth);
model__fill model__recipe_fill(const model__recipe *r, const model__want *w);
/* Values first .. first + n of a tensor, narrowed to dtype, into out; any split of the
 * tensor gives the same bytes. */
void model__fill_values(const model__fill *f, model_dtype dtype, uint64_t first, size_t n,
                        void *out);

#endif
