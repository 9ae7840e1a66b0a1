/* size.c - arrays with checked sizes. */
#include "base/size.h"

#include <stdlib.h>

void *array_new(size_t n, size_t item_bytes) {
    size_t bytes;
    if (!size_mul(n, item_bytes, &bytes)) return NULL;
    return calloc(bytes ? bytes : 1, 1);
}

void *array_new_aligned(size_t n, size_t item_bytes) {
    size_t bytes;
    if (!size_mul(n, item_bytes, &bytes) || !size_add(bytes, 63, &bytes)) return NULL;
    bytes &= ~(size_t)63;
    return aligned_alloc(64, bytes ? bytes : 64);
}
