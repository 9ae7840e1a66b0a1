/* mem.c - checked arrays, growable buffers and arenas. */
#include "base/base.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

/* ---- buf ---- */

int buf_reserve(buf *b, size_t extra) {
    size_t need;
    if (b->failed) return -1;
    if (!size_add(b->len, extra, &need) || !size_add(need, 1, &need)) goto fail;
    if (need <= b->cap) return 0;
    if (b->max && need > b->max + 1) goto fail;
    size_t cap = b->cap ? b->cap : 64;
    while (cap < need) {
        if (!size_mul(cap, 2, &cap)) goto fail;
    }
    if (b->max && cap > b->max + 1) cap = b->max + 1;
    char *data = realloc(b->data, cap);
    if (data == NULL) goto fail;
    b->data = data;
    b->cap = cap;
    return 0;
fail:
    b->failed = true;
    return -1;
}

void buf_append(buf *b, const void *bytes, size_t n) {
    if (n == 0 || buf_reserve(b, n) != 0) return;
    memcpy(b->data + b->len, bytes, n);
    b->len += n;
    b->data[b->len] = 0;
}

void buf_puts(buf *b, const char *text) {
    buf_append(b, text, strlen(text));
}

void buf_printf(buf *b, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    if (n < 0) {
        b->failed = true;
        return;
    }
    if (buf_reserve(b, (size_t)n) != 0) return;
    va_start(args, fmt);
    (void)vsnprintf(b->data + b->len, (size_t)n + 1, fmt, args);
    va_end(args);
    b->len += (size_t)n;
}

void buf_drop(buf *b, size_t n) {
    if (n >= b->len) {
        b->len = 0;
    } else {
        memmove(b->data, b->data + n, b->len - n);
        b->len -= n;
    }
    if (b->data) b->data[b->len] = 0;
}

void buf_clear(buf *b) {
    b->len = 0;
    b->failed = false;
    if (b->data) b->data[0] = 0;
}

void buf_deinit(buf *b) {
    free(b->data);
    *b = (buf){.max = b->max};
}

/* ---- arena ---- */

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
