/* clock.c - the stage clock: when each kernel of a step began and ended. */
#include "engine/cuda/cuda_internal.h"

cu_stamp *eng__cuda_stamp(cu_backend *b, const char *kernel) {
    (void)b;
    (void)kernel;
    return NULL;
}
