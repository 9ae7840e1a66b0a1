/* size.h - checked products and sums of untrusted sizes, and arrays of such sizes. Any thread. */
#ifndef FATHOM_SIZE_H
#define FATHOM_SIZE_H

#include "base/lang.h"

static inline WARN_UNUSED bool size_mul(size_t one, size_t other, size_t *out) {
    return !__builtin_mul_overflow(one, other, out);
}
static inline WARN_UNUSED bool size_add(size_t one, size_t other, size_t *out) {
    return !__builtin_add_overflow(one, other, out);
}
/* Zeroed; NULL when the product overflows or memory runs out. Ends with free(). */
void *array_new(size_t n, size_t item_bytes) WARN_UNUSED;
/* Rounded up to 64 bytes and aligned to 64, not initialised. Ends with free(). */
void *array_new_aligned(size_t n, size_t item_bytes) WARN_UNUSED;

#endif
