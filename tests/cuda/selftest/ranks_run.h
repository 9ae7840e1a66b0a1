/* ranks_run.h - a workload on several ranks, threads of this process, and on one. */
#ifndef FATHOM_CUDA_RANKS_RUN_H
#define FATHOM_CUDA_RANKS_RUN_H

#include "tests/cuda/selftest/cases.h"
#include "tests/cuda/selftest/ranks_here.h"

typedef struct {
    const char *dir, *kernels;
    model_dtype cache;
    kv_policy policy;
    uint32_t ranks, max_rows, flights;
    bool poison; /* NaN in all working memory before every launch */
    uint64_t seed;
} ranks_case;

typedef struct {
    uint64_t weights; /* bytes of them */
    uint64_t divided; /* of the matrices divided between ranks */
    bool graphs;
} rank_holds;

typedef struct {
    const model_folder *model;
    const drive_spec *spec;
    const char *kernels;
    model_dtype cache;
    bool apart; /* every rank on a device of its own */
    bool ok[RANKS_HERE];
    drive_result results[RANKS_HERE];
    rank_holds holds[RANKS_HERE];
    eng_ranks_counts counts[RANKS_HERE];
    uint64_t ns;
} ranks_run;

/* Random sequences for a row. */
drive_spec ranks_spec(const model_plan *plan, const ranks_case *row);
/* A body of ranks_here, and with NULL a run on one rank; arg: a ranks_run. */
void ranks_run_one(eng_ranks *ranks, void *arg);
void ranks_run_deinit(ranks_run *run);
/* Every rank has the depths and, to the bit, the logits of `one` on rank 0. */
void ranks_same_answers(const ranks_run *one, const ranks_run *many, uint32_t n, const char *what);
/* The ranks together hold every divided matrix once, nearly the same number of bytes each, and all
 * of them everything else. */
void ranks_divide_weights(const rank_holds *one, const rank_holds *many, uint32_t n,
                          const char *what);
/* The golden case mla on so many ranks: near its published logits, as `held` says. */
void ranks_published(uint32_t ranks, const precision *held);

#endif
