/* stderr.h - captures stderr, where warnings go, during a part of a test. */
#ifndef FATHOM_TEST_STDERR_H
#define FATHOM_TEST_STDERR_H

#include <stddef.h>

/* Sends stderr to a file; returns a handle of the old stderr. */
int stderr_catch(void);
/* Restores stderr. *said is the captured text, cut to room - 1 bytes. */
void stderr_release(int kept, char *said, size_t room);

#endif
