/* cancel.h - long work that stops early when nobody waits for its result any more.
 *
 * The thread that does the work watches a flag; any other thread sets it. The work asks at its
 * own steps, so between two questions no more than some ten microseconds may pass. */
#ifndef FATHOM_CANCEL_H
#define FATHOM_CANCEL_H

#include "base/err.h"

#include <stdatomic.h>

/* The flag that this thread's work obeys from now on; NULL = none, which every thread begins
 * with. Borrowed: it outlives the work, or is unset before. */
void cancel_watch(const atomic_bool *flag);
bool cancel_asked(void);
/* -1 and ERR_CANCELLED when asked to stop. `what` is what stops: "reading the request body". */
int cancel_check(const char *what, err *e) WARN_UNUSED;

#endif
