/* agreement.h - random weights with a wanted agreement of loop 1 and the last loop. */
#ifndef FATHOM_CLI_AGREEMENT_H
#define FATHOM_CLI_AGREEMENT_H

#include "model/model.h"

/* At some positions loop 1 and the last loop give the same token, drawn at temperature 1 with the
 * same random numbers, as drafts are judged. The agreement is the part of these positions. */
typedef struct {
    float motion;        /* for model_init_opts: gives about the agreement asked for */
    double agreement;    /* of a smaller model with this motion */
    uint32_t dim, loops; /* of the smaller, measured model; its last loop */
} agreement_found;

/* Looks for the motion on smaller models of the plan's shape, written one after another to a folder
 * beside `dir` and removed again (trial.h). Takes seconds. ERR_USAGE if no token may run fewer
 * loops than all. */
int agreement_find(agreement_found *out, const model_plan *plan, const model_init_opts *opts,
                   double wanted, const char *dir, err *e) WARN_UNUSED;

#endif
