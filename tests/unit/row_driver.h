/* row_driver.h - drives a backend with no scheduler: the positions of a chunk move
 * together, each leaves at its own depth, and the cache map is kept by hand. */
#ifndef FATHOM_TEST_ROW_DRIVER_H
#define FATHOM_TEST_ROW_DRIVER_H

#include "engine/backend.h"

enum { DRIVER_SEQS = 2, DRIVER_POS = 2200 };

typedef struct {
    eng_backend *b;
    model_folder *m;
    const model_plan *c;
    uint32_t n_loops, min_loops;
    kv_policy policy;
    uint32_t next_slot, next_block;
    uint32_t n_seq, n_pos; /* sequences run together, positions each */
    struct driver_seq {
        uint32_t row0, blocks[DRIVER_POS / ENG_BLOCK + 1];
        uint32_t ids[DRIVER_POS];
        uint32_t depth[DRIVER_POS]; /* 0 while it runs */
        uint32_t last_slot[DRIVER_POS];
        float *logits; /* [n_pos][vocab] */
    } seq[DRIVER_SEQS];
    eng_row rows[DRIVER_SEQS * DRIVER_POS];
    eng_edit edits[DRIVER_SEQS * DRIVER_POS * 4];
    uint32_t n_rows, n_edits;
    uint32_t who[DRIVER_SEQS * DRIVER_POS][2]; /* of each row of a launch: sequence, position */
} driver;

/* Opens dir on the CPU backend; o gives threads, kernels, cache_dtype and may be NULL. All
 * calls abort the test on failure. */
void driver_open(driver *d, const char *dir, uint32_t n_loops, kv_policy policy,
                 const eng_backend_opts *o);
void driver_close(driver *d);
void driver_start(driver *d, uint32_t n_seq, uint32_t n_pos); /* forgets what ran before */
void driver_run(driver *d, uint32_t chunk);                   /* all positions, chunk by chunk */
/* The parts of it, for odd orders: rows are queued, then launched together. */
void driver_add_prelude(driver *d, uint32_t s, uint32_t first, uint32_t end);
void driver_add_loop(driver *d, uint32_t s, uint32_t t, uint32_t first, uint32_t end);
void driver_add_coda(driver *d, uint32_t s, uint32_t first, uint32_t end);
void driver_launch(driver *d, eng_stage stage);

#endif
