/* backend_internal.h - what the backends share and nobody above them sees. */
#ifndef FATHOM_BACKEND_INTERNAL_H
#define FATHOM_BACKEND_INTERNAL_H

#include "engine/backend.h"

typedef struct {
    uint32_t default_rows; /* row states where none are asked for */
    uint32_t launch;       /* most rows of one launch; a wish for more is cut down to it */
    uint32_t positions;    /* most that may be asked for */
} eng__limits;

/* Fills in options left 0, cuts launches down to the limits, and refuses what no backend can
 * do (ERR_USAGE, naming the option). Names of kernels are each backend's own. */
int eng__check_opts(eng_backend_opts *opts, const model_plan *plan, const eng__limits *most,
                    err *e) WARN_UNUSED;
/* ERR_UNSUPPORTED, naming the part, if the plan has a part that no backend runs yet. */
int eng__check_plan(const model_plan *plan, err *e) WARN_UNUSED;
/* Fills info's planes, slots, blocks and their sizes: divides `bytes` between slots and block
 * maps. ERR_USAGE if not even one block fits. */
int eng__size_cache(eng_backend_info *info, const model_plan *plan, const eng_backend_opts *opts,
                    uint64_t bytes, err *e) WARN_UNUSED;

/* Finds a row state that a launch names twice. */
typedef struct {
    uint32_t *last; /* [n_rows] the launch that last named each row state */
    uint32_t now;
} eng__stamps;

/* Checks a launch against what the backend holds: edits, rows, the blocks they name, and how
 * many rows run the head. ERR_INTERNAL. */
int eng__check_launch(const eng_backend_info *info, const model_plan *plan,
                      const eng_backend_opts *opts, eng__stamps *stamps, const eng_launch *launch,
                      err *e) WARN_UNUSED;

#endif
