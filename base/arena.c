/* arena.c - small allocations cut from larger slabs. */
#include "base/arena.h"
#include "base/size.h"

#include <stdlib.h>
#include <string.h>

struct arena_slab {
    arena_slab *next;
    size_t used, cap;
    _Alignas(16) unsigned char bytes[];
};

enum { ARENA_SLAB = 16 << 10 };

void arena_init(arena *self, size_t max_bytes) {
    *self = (arena){.max = max_bytes};
}

static void *arena_from_new_slab(arena *self, size_t n) {
    size_t cap = n > ARENA_SLAB / 4 ? n : ARENA_SLAB, bytes;
    if (!size_add(cap, sizeof(arena_slab), &bytes)) return NULL;
    arena_slab *slab = calloc(1, bytes);
    if (slab == NULL) return NULL;
    self->held += bytes;
    slab->cap = cap;
    slab->used = n;
    if (n > ARENA_SLAB / 4 &&
        self->head) { /* behind the head: the head still has room for small ones */
        slab->next = self->head->next;
        self->head->next = slab;
    } else {
        slab->next = self->head;
        self->head = slab;
    }
    return slab->bytes;
}

void *arena_alloc(arena *self, size_t n) {
    size_t total;
    if (self->failed || !size_add(n, 15, &n)) goto fail;
    n &= ~(size_t)15;
    if (!size_add(self->used, n, &total) || total > self->max) goto fail;
    void *out;
    if (self->head && n <= self->head->cap - self->head->used) {
        out = self->head->bytes + self->head->used;
        self->head->used += n;
    } else {
        out = arena_from_new_slab(self, n);
        if (out == NULL) goto fail;
    }
    self->used = total;
    return out;
fail:
    self->failed = true;
    return NULL;
}

void *arena_array(arena *self, size_t n, size_t item_bytes) {
    size_t bytes;
    if (!size_mul(n, item_bytes, &bytes)) {
        self->failed = true;
        return NULL;
    }
    return arena_alloc(self, bytes);
}

char *arena_strndup(arena *self, const char *text, size_t n) {
    size_t bytes;
    char *out = size_add(n, 1, &bytes) ? arena_alloc(self, bytes) : NULL;
    if (out && n) memcpy(out, text, n);
    return out;
}

void arena_deinit(arena *self) {
    while (self->head) {
        arena_slab *next = self->head->next;
        free(self->head);
        self->head = next;
    }
    *self = (arena){.max = self->max};
}
