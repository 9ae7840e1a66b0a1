/* selftest.h - shared by the parts of the CUDA self-test.
 *
 * The same sources make build/fathom-cuda-selftest, run on a device, and the shim's program, run on
 * the CPU under ASan. A check prints only when it fails. */
#ifndef FATHOM_CUDA_SELFTEST_H
#define FATHOM_CUDA_SELFTEST_H

#include "engine/cuda/cuda_internal.h"
#include "engine/rowmath.h"

extern uint32_t checks_done, checks_failed;
/* Counts a check; prints "FAIL: ..." when it does not hold. Returns ok. */
bool check(bool ok, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* Ends the program if a CUDA call of the test itself failed. */
void must(cudaError_t rc, const char *what);

/* ---- random numbers: the same everywhere ---- */
typedef struct {
    uint64_t state;
} rng;
uint32_t rng_next(rng *rnd);
uint32_t rng_below(rng *rnd, uint32_t n);
float rng_float(rng *rnd); /* -1..1 */

/* ---- device buffers ---- */
/* Device memory with n float32 values, as they are or narrowed to bfloat16 (and the caller's values
 * rounded in the same way). NULL: poisoned with NaN patterns. */
void *dev_act(float *values, size_t n, bool f32);
float *dev_floats(const float *values, size_t n);
void *dev_bytes(const void *host, size_t bytes);
void *dev_poison(size_t bytes);
void host_act(float *out, const void *dev, size_t n, bool f32);
void host_bytes(void *out, const void *dev, size_t bytes);
void dev_free_all(void);                               /* everything the dev_ functions gave out */
float *random_floats(rng *rnd, size_t n, float scale); /* free() */

/* Largest |got - want| over the largest |want| (1 if that is 0); NaN gives infinity. */
double worst(const float *got, const float *want, size_t n);

/* A descriptor on the device: rows with their tables, and tiles of up to tile_rows. */
typedef struct {
    const cu_row *rows;
    uint32_t n_rows, n_logits, n_tiles, n_edits, n_tables, n_draws;
    const cu_tile *tiles;
    const cu_edit *edits;
    const cu_draw *draws;
    cu_choice *choices;
    const uint32_t *tables;
    const cu_run *runs;
    uint32_t n_runs;
    uint32_t *bad; /* on the device */
    uint8_t *halted;
    bool ahead, in_order;
} desc_spec;
void *dev_desc(const desc_spec *spec);
/* Runs cu_begin on the contents of `desc` as if the host had sent them: they return through pinned
 * memory. */
void dev_begin(void *desc, const cu_cache *cache, const uint8_t *halted);

extern cudaStream_t test_stream;
extern int shared_bytes; /* the most one thread block of the device may have */
extern bool on_shim;

/* ---- the groups; each runs its checks ---- */
void test_rows(void);
void test_ahead(void);
void test_mm(void);
void test_moe(void);
void test_attention(void);
void test_sample(void);
void test_flash(void);
void test_head(void);
void test_backend(void);
void test_flights(void);
void test_drafts(void);
void test_scheduler(void);
void test_families(void);
void test_published(void);
void test_plans(void);
void test_invariant(void);
void test_ranks(void);
void test_sums(void);
void test_clock(void);
void test_limits(void);
void test_errors(void);
void test_failures(void); /* shim only: every runtime call fails once */

#endif
