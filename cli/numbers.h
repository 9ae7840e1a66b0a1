/* numbers.h - lists of numbers in texts, as in --at-loops 1,2,4 and --ids "1 2 3". */
#ifndef FATHOM_NUMBERS_H
#define FATHOM_NUMBERS_H

#include "base/err.h"

/* Reads whole numbers from 1 to `most` with commas between them into out[cap]. ERR_USAGE names the
 * option. */
int numbers_read(const char *option, const char *text, uint32_t most, uint32_t *out, size_t cap,
                 size_t *n, err *e) WARN_UNUSED;

/* Reads the next number of a list like "1 2 3" or "[1,2,3]", and moves *text behind it. 1: *out is
 * a number below `limit`. 0: the list has ended. -1: something else stands at *text. */
int numbers_next(const char **text, uint64_t limit, uint64_t *out) WARN_UNUSED;

#endif
