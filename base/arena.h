/* arena.h - many small allocations freed together, under a limit in bytes. An arena belongs to
 * one thread. */
#ifndef FATHOM_ARENA_H
#define FATHOM_ARENA_H

#include "base/lang.h"

typedef struct arena_slab arena_slab;
typedef struct {
    arena_slab *head;
    size_t used, max; /* bytes; max is fixed at init */
    size_t held;      /* bytes of all slabs, used or not */
    bool failed;      /* sticky: an allocation was refused */
} arena;
void arena_init(arena *self, size_t max_bytes);
void *arena_alloc(arena *self, size_t n) WARN_UNUSED; /* 16-byte aligned, zeroed; NULL when full */
void *arena_array(arena *self, size_t n, size_t item_bytes) WARN_UNUSED;
char *arena_strndup(arena *self, const char *text, size_t n) WARN_UNUSED;
void arena_deinit(arena *self);

#endif
