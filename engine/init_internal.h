/* init_internal.h - how random weights are scaled; private to engine/. */
#ifndef FATHOM_INIT_INTERNAL_H
#define FATHOM_INIT_INTERNAL_H

#include "engine/model_internal.h"

typedef enum { ENG_FILL_NORMAL, ENG_FILL_SIGNS } eng__fill_kind;

/* NORMAL: mean + std * a bell-shaped value; SIGNS: plus or minus std. */
typedef struct {
    eng__fill_kind kind;
    float mean, std;
    uint64_t key; /* of the counter-based generator */
} eng__fill;

typedef struct {
    const eng_config *c;
    uint64_t seed;
    float halt_std, halt_bias;
} eng__recipe;

/* Scales halting so that the expected depth of a random token is mean_depth (1..max_loop_iters). */
void eng__recipe_init(eng__recipe *r, const eng_config *c, uint64_t seed, float mean_depth);
eng__fill eng__recipe_fill(const eng__recipe *r, const eng__want *w);
/* Values first .. first + n of a tensor, narrowed to dtype, into out; any split of the
 * tensor gives the same bytes. */
void eng__fill_values(const eng__fill *f, eng_dtype dtype, uint64_t first, size_t n, void *out);

#endif
