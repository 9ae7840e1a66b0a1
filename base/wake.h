/* wake.h - lets one thread sleep until another signals it. A signal is never lost. */
#ifndef FATHOM_WAKE_H
#define FATHOM_WAKE_H

#include "base/err.h"

typedef struct wake wake;
int wake_create(wake **out, err *e) WARN_UNUSED;
void wake_destroy(wake *self);
void wake_signal(wake *self);                    /* any thread; several signals may become one */
void wake_wait(wake *self, uint64_t timeout_ns); /* returns at once if signalled before */

#endif
