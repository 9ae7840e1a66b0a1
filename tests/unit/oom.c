/* oom.c - the allocator the unit binary is linked with. */
#include "tests/lib/oom.h"

#include <stddef.h>

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__real_aligned_alloc(size_t align, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_aligned_alloc(size_t align, size_t n);

static bool armed, sticky, refused;
static long left;

void oom_after(long n, bool for_ever) {
    left = n;
    sticky = for_ever;
    refused = false;
    armed = true;
}

bool oom_stop(void) {
    armed = false;
    return refused;
}

static bool refuse(void) {
    if (!armed || left-- > 0) return false;
    refused = true;
    if (!sticky) armed = false;
    return true;
}

void *__wrap_malloc(size_t n) {
    return refuse() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size) {
    return refuse() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n) {
    return refuse() ? NULL : __real_realloc(p, n);
}

void *__wrap_aligned_alloc(size_t align, size_t n) {
    return refuse() ? NULL : __real_aligned_alloc(align, n);
}
