/* size.h - sizes that come from outside: checked products and sums, and arrays made of them.
 * Any thread. */
#ifndef FATHOM_SIZE_H
#define FATHOM_SIZE_H

#include "base/lang.h"

static inline WARN_UNUSED bool size_mul(size_t a, size_t b, size_t *out) {
    return !__builtin_mul_overflow(a, b, out);
}
static inline WARN_UNUSED bool size_add(size_t a, size_t b, size_t *out) {
    return !__builtin_add_overflow(a, b, out);
}
/* calloc that refuses an overflowing product; NULL when out of memory. */
void *array_new(size_t n, size_t item_bytes) WARN_UNUSED;
/* Rounded up to 64 bytes and aligned to 64; uninitialised; ends with free(). */
void *array_new_aligned(size_t n, size_t item_bytes) WARN_UNUSED;

#endif
