/* cases.h - golden cases and random workloads for the tests of the whole backend. */
#ifndef FATHOM_CUDA_CASES_H
#define FATHOM_CUDA_CASES_H

#include "tests/cuda/selftest/driver.h"
#include "tests/lib/golden.h"

typedef struct {
    const char *kernels;
    model_dtype cache;
    float limit; /* of the logit error, as a fraction of the largest logit */
    bool all;    /* every position must hold it, and every depth be equal; otherwise most must:
                    with bfloat16 a position may leave a loop earlier or pick another expert */
} precision;
extern const precision parity;

/* NULL, with a failed check, if the backend does not open. */
eng_backend *open_backend(const model_folder *model, const eng_backend_opts *opts);
drive_spec golden_spec(const golden_case *golden, const model_plan *plan, kv_policy policy,
                       uint32_t max_rows, uint64_t seed);
void compare_golden(const golden_case *golden, const drive_spec *spec, const drive_result *result,
                    const precision *prec);

/* Sequences of random tokens, fewer and more loops than trained, minimum depths. The ids live as
 * long as the process. */
drive_spec random_spec(const model_plan *plan, uint32_t n_seqs, uint32_t most_len, uint64_t seed,
                       rng *rnd);
/* A random token may halt within rounding of the threshold: then its sequence parts. */
void compare_near(const drive_spec *spec, uint32_t vocab, const drive_result *one,
                  const drive_result *two, const char *what);

/* A golden case on memory full of NaN before every launch: test_backend.c. */
typedef struct {
    const char *name, *graphs, *plain; /* the case; kernels with graphs and without */
    model_dtype cache;
    kv_policy policy;
    uint32_t flights;
    bool one_by_one;
    uint64_t seed;
} poisoned_case;
void check_poisoned(const poisoned_case *test);
/* The same for any model and spec: `graphs` and `plain` name kernels. */
void check_poisoned_spec(const model_folder *model, const drive_spec *spec, const char *graphs,
                         const char *plain, model_dtype cache, const char *what);
/* The CUDA backend in float32 ("f32", "f32-stream") against the CPU backend, driven by the same
 * spec. */
void compare_with_cpu(const model_folder *model, const drive_spec *spec, const char *kernels,
                      const char *what);

#endif
