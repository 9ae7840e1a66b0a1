/* driver.h - runs known token ids through a backend without a scheduler: whichever rows the
 * wavefront rule lets run, in batches drawn at random, one or two launches in flight. */
#ifndef FATHOM_CUDA_DRIVER_H
#define FATHOM_CUDA_DRIVER_H

#include "tests/cuda/selftest/selftest.h"

enum { DRIVE_SEQS = 8, DRIVE_LEN = 80 };

typedef struct {
    uint32_t n_seqs, n_loops, min_loops, max_rows; /* max_rows: most rows of one launch */
    uint32_t len[DRIVE_SEQS];
    const uint32_t *ids[DRIVE_SEQS];
    kv_policy policy;
    bool own_exit; /* by `exit` instead of the plan's rule */
    exit_rule exit;
    float threshold;
    bool zero_state;  /* start from zeros instead of the plan's state, if the plan allows it */
    uint32_t flights; /* launches in flight, if the backend takes so many; 0 as 1 */
    bool one_by_one;  /* as in decoding: a position starts when the one before it has halted */
    bool poison;      /* fill the backend's working memory with NaN before every launch */
    /* [len] draws of the sampling rows (drive_head_flags); NULL: every row gives its logits */
    const eng_draw *draws[DRIVE_SEQS];
    uint64_t seed; /* 0: every ready row, prelude first, then loops, then coda */
} drive_spec;

typedef struct {
    uint32_t depth[DRIVE_SEQS][DRIVE_LEN];
    float *logits[DRIVE_SEQS];          /* [len][vocab], 0 if not asked for */
    eng_choice *choices[DRIVE_SEQS];    /* [len], token 0 and no best if not asked for */
    uint32_t launches, left_out, empty; /* rows left out; launches without rows left */
    uint32_t became_tails;
} drive_result;

/* False, with a failed check, if the backend refuses a launch. */
bool drive(eng_backend *eng, const drive_spec *spec, drive_result *out);
void drive_result_deinit(drive_result *result);
/* Options of a backend wide enough for `spec`. */
eng_backend_opts drive_opts(const drive_spec *spec, const char *kernels, model_dtype cache);
/* Flags of a row with draws: ENG_ROW_LOGITS, ENG_ROW_SAMPLE, both or neither. */
uint16_t drive_head_flags(uint32_t seq, uint32_t pos);
/* After a drive of `spec`: the values in the CUDA backend's cache, in float32, for every plane of
 * every position of a sequence: [len][n_planes][slot_values]; free(). */
float *drive_latents(const eng_backend *eng, const drive_spec *spec, uint32_t seq, size_t *n);

#endif
