/* numbers.h - lists of numbers in options, as in --at-loops 1,2,4. */
#ifndef FATHOM_NUMBERS_H
#define FATHOM_NUMBERS_H

#include "base/err.h"

/* Reads whole numbers from 1 to `most` with commas between them into out[cap]. ERR_USAGE names the
 * option. */
int numbers_read(const char *option, const char *text, uint32_t most, uint32_t *out, size_t cap,
                 size_t *n, err *e) WARN_UNUSED;

#endif
