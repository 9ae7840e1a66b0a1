/* stderr.h - what a piece of a test says on stderr, where warnings go. */
#ifndef FATHOM_TEST_STDERR_H
#define FATHOM_TEST_STDERR_H

#include <stddef.h>

/* From here on stderr goes to a file; returns the handle of what it was. */
int stderr_catch(void);
/* Gives stderr back. said is what was written meanwhile, cut to room - 1 bytes. */
void stderr_release(int kept, char *said, size_t room);

#endif
