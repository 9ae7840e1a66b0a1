/* fake_backend.h - a backend of integers: the content of a slot is a hash of everything it may
 * depend on, so one wrong read changes a token. It keeps the backend's contract and checks the
 * scheduler's: a slot is written before it is read, at the right plane, by the right position.
 * Under policy `last` a slot stands in for a deeper loop only if its position halted; under
 * `collapse` only the slot of a position's deepest loop stands in for others, once an edit says so,
 * and its other slots are not read again. The coda of a draft writes slots that only drafts may
 * read, until the last coda of the position writes them anew.
 *
 * A launch is copied at its start and runs in wait(), as late as the contract allows. The next
 * launch overwrites the results of a wait, as early as the contract allows. */
#ifndef FATHOM_FAKE_BACKEND_H
#define FATHOM_FAKE_BACKEND_H

#include "engine/backend.h"

typedef struct {
    uint64_t seed;    /* of depths and logits */
    kv_policy policy; /* decides the slots that may be read */
    uint32_t vocab, max_loops, max_seq_len;
    uint32_t n_prelude, n_core, n_coda; /* layers; n_core of them share a slot */
    uint32_t n_slots, n_blocks, n_rows, max_launch, max_logits;
    uint32_t mean_depth;             /* a row halts after a loop with probability 1 / mean_depth */
    uint64_t fixed_ns[3], row_ns[3]; /* by eng_stage: the time a launch reports */
    uint32_t deep_one_in;            /* one position in so many runs to its max_loops; 0 = none */
    uint64_t fail_at;                /* launch that returns ERR_DEVICE, from 1; 0 = never */
    uint64_t nan_at;      /* coda launch with NaN in its first logits, from 1; 0 = never */
    bool instant;         /* skip attention: contents depend on the row alone */
    uint32_t nap_us;      /* real time a launch takes */
    uint32_t max_flights; /* 1 or 2 */
    bool samples;         /* takes ENG_ROW_SAMPLE */
    uint32_t n_homes;     /* each has n_slots and n_blocks of its own; 0: one cache */
    /* Of 100 positions, so many favour the token that every draft favours. */
    uint32_t agreement;
    bool by_token; /* the token favoured depends on the newest token alone: texts repeat */
    bool misleads; /* drafts favour the token after it */
} fake_opts;

/* The number of slots of n layers of the prelude or coda. */
static inline uint32_t fake_bundles(const fake_opts *opts, uint32_t n) {
    return (n + opts->n_core - 1) / opts->n_core;
}
static inline uint32_t fake_planes(const fake_opts *opts, uint32_t loops) {
    return fake_bundles(opts, opts->n_prelude) + fake_bundles(opts, opts->n_coda) + loops;
}

void fake_opts_default(fake_opts *opts);
/* Ends with eng_backend_close. */
eng_backend *fake_backend_create(const fake_opts *opts);
/* The first breach of contract seen, or NULL. */
const char *fake_backend_breach(const eng_backend *backend);
uint64_t fake_backend_launches(const eng_backend *backend);
uint64_t
fake_backend_schedule_hash(const eng_backend *backend); /* of every launch's rows and loops */
/* Slots written, but not the ones given back by collapsing; a draft's slot once. */
uint64_t fake_backend_slots_written(const eng_backend *backend);
/* Recurrent launches beyond loop 0, started while no launch was in flight. */
uint64_t fake_backend_idle_loops(const eng_backend *backend);
uint64_t fake_backend_left_out(const eng_backend *backend); /* guarded rows */
/* Rows of the fullest home, summed over recurrent launches. */
uint64_t fake_backend_fullest_rows(const eng_backend *backend);
/* Rows with logits, and rows with a token, from codas. */
uint64_t fake_backend_logits(const eng_backend *backend);
uint64_t fake_backend_choices(const eng_backend *backend);
/* Different slots that the map of a block names at its first n_planes. */
uint32_t fake_backend_slots_of(const eng_backend *backend, uint32_t home, uint32_t block,
                               uint32_t n_planes);
model_plan *fake_backend_config(eng_backend *backend);

/* ---- the same model, one position after another: the result every schedule must give ---- */

typedef struct {
    uint16_t min_loops, max_loops;
    float threshold;
    uint32_t n_prompt; /* policy collapse: positions from here on are generated */
} fake_depth;
typedef struct fake_seq fake_seq;
fake_seq *fake_seq_create(const fake_opts *opts, const fake_depth *depth, uint32_t max_positions);
/* Runs the next position; fills logits [vocab] and returns its depth. */
uint16_t fake_seq_next(fake_seq *seq, uint32_t token, float *logits);
void fake_seq_destroy(fake_seq *seq);

#endif
