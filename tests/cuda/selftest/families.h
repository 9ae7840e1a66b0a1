/* families.h - the answers of a family's published code: expected.json of a golden folder. */
#ifndef FATHOM_CUDA_FAMILIES_H
#define FATHOM_CUDA_FAMILIES_H

#include "tests/cuda/selftest/cases.h"
#include "tests/lib/files.h"

enum { FAMILY_CASES = 16, FAMILY_LEN = 32 };

/* One answer: with a threshold, or after a fixed number of loops. */
typedef struct {
    uint32_t len, vocab;
    uint32_t ids[FAMILY_LEN];
    uint32_t depth[FAMILY_LEN]; /* loops run before the state is read out */
    uint32_t loops;             /* of the model, or the fixed number */
    bool fixed;
    exit_rule exit;
    float threshold; /* fixed: one under which every loop runs */
    kv_policy policy;
    bool zero_state; /* not the published, drawn one */
    float *logits;   /* [len][vocab] */
} family_case;

typedef struct {
    const char *name;
    model_folder *model;
    family_case cases[FAMILY_CASES];
    uint32_t n_cases;
} family_golden;

/* tests/golden/families/NAME; false, with a failed check, if it cannot be read. */
bool family_open(family_golden *family, const char *name);
void family_close(family_golden *family);
/* The case of a fixed number of loops; NULL if there is no such case. */
const family_case *family_fixed(const family_golden *family, uint32_t loops);

/* A spec with the case as its first sequence; with company, a prefix of the case and random tokens
 * beside it. Ids live as long as the process. */
drive_spec family_spec(const family_case *gold, uint32_t max_rows, uint64_t seed, bool company);

typedef struct {
    uint32_t depths; /* positions that leave elsewhere */
    double worst;    /* largest logit error of the others, over the largest logit */
} family_error;
/* The case and, with company, its prefix against the published answers. */
family_error family_compare(const family_case *gold, const drive_spec *spec,
                            const drive_result *result);

/* A folder of random weights for the plan; false with a failed check. */
bool family_random(model_folder **model, const tmp_dir *dir, const model_plan *plan,
                   float mean_depth);

/* ---- checks of a whole folder ---- */

/* Every case whole and in chunks of any size, alone and among others, one launch or two in flight,
 * as a prompt and position by position: logits and depths are the published ones. */
void family_ways(const family_golden *family);
/* bfloat16 weights, activations and cache, by own kernels and through (emulated) cuBLAS. Only a
 * position near its threshold may leave elsewhere. */
void family_half_precision(const family_golden *family);
void family_poisoned(const family_golden *family);
/* The number of nodes follows the README's arithmetic. */
void family_graphs(const family_golden *family);
/* Random mixes under both policies and every rule the weights allow, against the CPU engine. */
void family_mixes(const model_folder *model, uint32_t rounds, uint32_t flights, const char *what);

#endif
