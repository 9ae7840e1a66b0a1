/* golden.h - one golden case: the output of the published model for two sequences. */
#ifndef FATHOM_TEST_GOLDEN_H
#define FATHOM_TEST_GOLDEN_H

#include "engine/backend.h"

enum { GOLDEN_SEQS = 2, GOLDEN_LEN = 48, GOLDEN_PROMPT = 8, GOLDEN_GREEDY = 32, GOLDEN_CASES = 6 };

typedef struct {
    char dir[128]; /* the model folder: "tests/golden/cases/mla" */
    uint32_t n_loops, vocab;
    uint32_t ids[GOLDEN_SEQS][GOLDEN_LEN];
    uint32_t depth[2][GOLDEN_SEQS][GOLDEN_LEN]; /* [policy] */
    uint32_t greedy[2][GOLDEN_GREEDY];          /* [policy]: 8 prompt tokens and 24 greedy ones */
    float *logits[2];                           /* [policy] -> [GOLDEN_SEQS][GOLDEN_LEN][vocab] */
} golden_case;

extern const char *const golden_names[GOLDEN_CASES];
/* Reads tests/golden/cases/name; aborts if it cannot. */
golden_case golden_open(const char *name);
void golden_close(golden_case *golden);

#endif
