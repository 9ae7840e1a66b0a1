/* model_internal.h - the tensors a configuration asks for; private to engine/. */
#ifndef FATHOM_MODEL_INTERNAL_H
#define FATHOM_MODEL_INTERNAL_H

#include "engine/engine.h"

typedef struct {
    char name[96];
    eng_part part;
    bool optional; /* head.weight: absent when tied to embed.weight */
    uint32_t rank;
    uint64_t shape[2]; /* rank 1 leaves the second 1 */
} eng__want;

/* Calls visit for every tensor in the order a file holds them; stops at the first that
 * returns non-zero and returns that. */
int eng__wants(const eng_config *c, int (*visit)(void *ud, const eng__want *w), void *ud);
float eng__f16_widen(uint16_t bits);
uint16_t eng__f16_narrow(float value);  /* to nearest, ties to even */
uint16_t eng__bf16_narrow(float value); /* to nearest, ties to even */

#endif
