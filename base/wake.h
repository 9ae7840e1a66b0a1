/* wake.h - lets one thread sleep until another has news. A signal is never lost. */
#ifndef FATHOM_WAKE_H
#define FATHOM_WAKE_H

#include "base/err.h"

typedef struct wake wake;
int wake_create(wake **out, err *e) WARN_UNUSED;
void wake_destroy(wake *w);
void wake_signal(wake *w);                    /* any thread; merges */
void wake_wait(wake *w, uint64_t timeout_ns); /* returns at once if signalled before */

#endif
