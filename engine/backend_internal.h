/* backend_internal.h - shared by the backends; private to engine/. */
#ifndef FATHOM_BACKEND_INTERNAL_H
#define FATHOM_BACKEND_INTERNAL_H

#include "engine/backend.h"

typedef struct {
    uint32_t default_rows; /* row states if the options name none */
    uint32_t launch;       /* most rows of one launch; a larger option is reduced to it */
    uint32_t positions;    /* most the options may name */
} eng__limits;

/* Replaces options left 0 by defaults, reduces launches to the limits, and refuses options that no
 * backend supports (ERR_USAGE, with the name of the option). Names of kernels are checked by each
 * backend. */
int eng__check_opts(eng_backend_opts *opts, const model_plan *plan, const eng__limits *most,
                    err *e) WARN_UNUSED;
/* ERR_UNSUPPORTED, with its name, if the plan has a part that no backend runs yet. */
int eng__check_plan(const model_plan *plan, err *e) WARN_UNUSED;
/* A part of plans, and whether this plan has it. */
typedef struct {
    bool has;
    const char *what;
} eng__part;
/* ERR_UNSUPPORTED with the name of the first part that the plan has: for parts missing in one
 * backend only. */
int eng__refuse_parts(const model_plan *plan, const eng__part *parts, size_t n, err *e) WARN_UNUSED;
bool eng__has_value_embeds(const model_plan *plan);
/* Sets info's planes, slots, blocks and their sizes: divides `bytes` between slots and block maps.
 * ERR_USAGE if not even one block fits. */
int eng__size_cache(eng_backend_info *info, const model_plan *plan, const eng_backend_opts *opts,
                    uint64_t bytes, err *e) WARN_UNUSED;

enum { ENG__PATH_BYTES = 4096 };
/* Finds a plug-in: beside the program, one folder up from build/release (`make`), or in lib/fathom
 * (`make install`). */
bool eng__plugin_path(const char *name, char out[ENG__PATH_BYTES]) WARN_UNUSED;
/* Loads the plug-in at `path` with dlopen's `mode` and returns its eng__NAME_plugin_open, to be
 * cast to its own type; name: "cuda", "mpi". It stays loaded: CUDA and MPI keep threads and exit
 * handlers in their libraries. NULL, with ERR_NOT_FOUND: it cannot be loaded, or has another
 * version. */
typedef void (*eng__plugin_open)(void);
eng__plugin_open eng__plugin_load(const char *path, const char *name, int mode, err *e) WARN_UNUSED;

/* Finds a row state used twice in one launch. */
typedef struct {
    uint32_t *last; /* [n_rows] number of the last launch with this row state */
    uint32_t now;
} eng__stamps;

/* Checks a launch against the sizes of the backend: edits, rows, their blocks, and the number of
 * rows with logits or a token. ERR_INTERNAL. */
int eng__check_launch(const eng_backend_info *info, const model_plan *plan,
                      const eng_backend_opts *opts, eng__stamps *stamps, const eng_launch *launch,
                      err *e) WARN_UNUSED;

#endif
