/* cancel.h - stops long work early when its result is no longer wanted.
 *
 * The working thread watches a flag, and any other thread sets it. The work looks at the flag
 * between its steps, so a step may take some ten microseconds at most. */
#ifndef FATHOM_CANCEL_H
#define FATHOM_CANCEL_H

#include "base/err.h"

#include <stdatomic.h>

/* Sets the flag this thread's work obeys from now on. NULL, the initial value, is no flag.
 * Borrowed: the flag outlives the work, or is unset first. */
void cancel_watch(const atomic_bool *flag);
bool cancel_asked(void);
/* -1 and ERR_CANCELLED when asked to stop. `what` names the work: "reading the request body". */
int cancel_check(const char *what, err *e) WARN_UNUSED;

#endif
