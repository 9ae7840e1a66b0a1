/* backend_internal.h - what the backends share and nobody else sees. */
#ifndef FATHOM_ENGINE_BACKEND_INTERNAL_H
#define FATHOM_ENGINE_BACKEND_INTERNAL_H

#include "engine/backend.h"

typedef struct {
    uint32_t default_rows; /* row states where none are asked for */
    uint32_t launch;       /* most rows of one launch; a wish for more is cut down to it */
    uint32_t positions;    /* most that may be asked for */
} eng__limits;

/* Fills in what was left 0, cuts launches down to what there is room for, and refuses what no
 * backend can do (ERR_USAGE, naming the option). Names of kernels are each backend's own. */
int eng__check_opts(eng_backend_opts *o, const model_plan *c, const eng__limits *most,
                    err *e) WARN_UNUSED;

#endif
