/* row_driver.h - drives a backend without a scheduler: the positions of a chunk move together, each
 * leaves at its own depth, and the test keeps the cache map. */
#ifndef FATHOM_TEST_ROW_DRIVER_H
#define FATHOM_TEST_ROW_DRIVER_H

#include "engine/backend.h"

enum { DRIVER_SEQS = 2, DRIVER_POS = 2200 };

typedef struct {
    eng_backend *backend;
    model_folder *model;
    const model_plan *plan;
    uint32_t n_loops, min_loops;
    kv_policy policy;
    bool full_tails; /* tails run their last loop to its end */
    uint32_t next_slot, next_block;
    uint32_t n_seq, n_pos; /* sequences run together, positions each */
    struct driver_seq {
        uint32_t row0, home, blocks[DRIVER_POS / ENG_BLOCK + 1];
        uint32_t ids[DRIVER_POS];
        uint32_t depth[DRIVER_POS]; /* 0 while running */
        uint32_t last_slot[DRIVER_POS];
        float *logits; /* [n_pos][vocab] */
    } seq[DRIVER_SEQS];
    eng_row rows[DRIVER_SEQS * DRIVER_POS];
    eng_edit edits[DRIVER_SEQS * DRIVER_POS * 4];
    uint32_t n_rows, n_edits;
    uint32_t source[DRIVER_SEQS * DRIVER_POS]
                   [2]; /* sequence and position of each row of a launch */
} driver;

/* Opens dir on the CPU backend. opts gives threads, kernels and cache_dtype, and may be NULL. All
 * calls abort the test on failure. */
void driver_open(driver *drv, const char *dir, uint32_t n_loops, kv_policy policy,
                 const eng_backend_opts *opts);
void driver_close(driver *drv);
void driver_start(driver *drv, uint32_t n_seq, uint32_t n_pos); /* forgets earlier runs */
void driver_run(driver *drv, uint32_t chunk);                   /* all positions, chunk by chunk */
/* The parts of driver_run, for other orders: rows are queued, then launched together. */
void driver_add_prelude(driver *drv, uint32_t seq_idx, uint32_t first, uint32_t end);
void driver_add_loop(driver *drv, uint32_t seq_idx, uint32_t loop, uint32_t first, uint32_t end);
void driver_add_coda(driver *drv, uint32_t seq_idx, uint32_t first, uint32_t end);
void driver_launch(driver *drv, eng_stage stage);

#endif
