/* model_internal.h - the tensors a configuration asks for; private to engine/. */
#ifndef FATHOM_MODEL_INTERNAL_H
#define FATHOM_MODEL_INTERNAL_H

#include "model/model.h"

typedef struct {
    char name[96];
    model_part part;
    bool optional; /* head.weight: absent when tied to embed.weight */
    uint32_t rank;
    uint64_t shape[2]; /* rank 1 leaves the second 1 */
} model__want;

/* Calls visit for every tensor in the order a file holds them; stops at the first that
 * returns non-zero and returns that. */
int model__wants(const model_plan *c, int (*visit)(void *ud, const model__want *w), void *ud);
float model__f16_widen(uint16_t bits);
uint16_t model__f16_narrow(float value);  /* to nearest, ties to even */
uint16_t model__bf16_narrow(float value); /* to nearest, ties to even */

#endif
