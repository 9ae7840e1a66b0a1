/* ranks_here.h - several ranks as threads of this process. One runs at a time: it goes on until it
 * waits for the others, so nothing under test needs to know of threads. */
#ifndef FATHOM_CUDA_RANKS_HERE_H
#define FATHOM_CUDA_RANKS_HERE_H

#include "engine/ranks.h"

enum { RANKS_HERE = 8 };

/* Runs body on n ranks and returns when all have ended. A rank that ends is lost to those that
 * still wait for it. The ranks are closed behind the body. */
void ranks_here(uint32_t n, void (*body)(eng_ranks *ranks, void *arg), void *arg);

#endif
