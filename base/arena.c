/* arena.c - blocks from which small things are cut. */
#include "base/arena.h"
#include "base/size.h"

#include <stdlib.h>
#include <string.h>

struct arena_block {
    arena_block *next;
    size_t used, cap;
    _Alignas(16) unsigned char bytes[];
};

enum { ARENA_BLOCK = 16 << 10 };

void arena_init(arena *a, size_t max_bytes) {
    *a = (arena){.max = max_bytes};
}

static void *arena_from_new_block(arena *a, size_t n) {
    size_t cap = n > ARENA_BLOCK / 4 ? n : ARENA_BLOCK, bytes;
    if (!size_add(cap, sizeof(arena_block), &bytes)) return NULL;
    arena_block *block = calloc(1, bytes);
    if (block == NULL) return NULL;
    a->held += bytes;
    block->cap = cap;
    block->used = n;
    if (n > ARENA_BLOCK / 4 && a->head) { /* a big one goes behind, the small block stays open */
        block->next = a->head->next;
        a->head->next = block;
    } else {
        block->next = a->head;
        a->head = block;
    }
    return block->bytes;
}

void *arena_alloc(arena *a, size_t n) {
    size_t total;
    if (a->failed || !size_add(n, 15, &n)) goto fail;
    n &= ~(size_t)15;
    if (!size_add(a->used, n, &total) || total > a->max) goto fail;
    void *out;
    if (a->head && n <= a->head->cap - a->head->used) {
        out = a->head->bytes + a->head->used;
        a->head->used += n;
    } else {
        out = arena_from_new_block(a, n);
        if (out == NULL) goto fail;
    }
    a->used = total;
    return out;
fail:
    a->failed = true;
    return NULL;
}

void *arena_array(arena *a, size_t n, size_t item_bytes) {
    size_t bytes;
    if (!size_mul(n, item_bytes, &bytes)) {
        a->failed = true;
        return NULL;
    }
    return arena_alloc(a, bytes);
}

char *arena_strndup(arena *a, const char *s, size_t n) {
    size_t bytes;
    char *out = size_add(n, 1, &bytes) ? arena_alloc(a, bytes) : NULL;
    if (out && n) memcpy(out, s, n);
    return out;
}

void arena_deinit(arena *a) {
    while (a->head) {
        arena_block *next = a->head->next;
        free(a->head);
        a->head = next;
    }
    *a = (arena){.max = a->max};
}
