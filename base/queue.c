/* queue.c - see queue.h. */
#include "base/queue.h"
#include "base/size.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* head and tail count all items ever popped and pushed. Their difference is the length, so full and
 * empty differ without a spare place. Each is written by one thread and has its own cache line, so
 * the two threads do not contend for it. */
struct queue {
    _Alignas(64) _Atomic size_t head;
    _Alignas(64) _Atomic size_t tail;
    _Alignas(64) size_t item_bytes;
    size_t mask;
    unsigned char *items;
};

int queue_create(queue **out, size_t item_bytes, size_t capacity, err *e) {
    *out = NULL;
    size_t n = 1;
    while (n < capacity) {
        if (!size_mul(n, 2, &n))
            return err_set(e, ERR_NO_MEMORY, NULL, "queue of %zu items", capacity);
    }
    queue *self = array_new_aligned(1, sizeof *self);
    if (self == NULL) goto fail;
    memset(self, 0, sizeof *self);
    self->items = array_new(n, item_bytes);
    if (self->items == NULL) goto fail;
    self->item_bytes = item_bytes;
    self->mask = n - 1;
    *out = self;
    return 0;
fail:
    free(self);
    return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for a queue of %zu items", capacity);
}

void queue_destroy(queue *self) {
    if (self == NULL) return;
    free(self->items);
    free(self);
}

bool queue_push(queue *self, const void *item) {
    size_t tail = atomic_load_explicit(&self->tail, memory_order_relaxed);
    size_t head = atomic_load_explicit(&self->head, memory_order_acquire);
    if (tail - head > self->mask) return false;
    memcpy(self->items + (tail & self->mask) * self->item_bytes, item, self->item_bytes);
    atomic_store_explicit(&self->tail, tail + 1, memory_order_release);
    return true;
}

bool queue_pop(queue *self, void *item) {
    size_t head = atomic_load_explicit(&self->head, memory_order_relaxed);
    size_t tail = atomic_load_explicit(&self->tail, memory_order_acquire);
    if (head == tail) return false;
    memcpy(item, self->items + (head & self->mask) * self->item_bytes, self->item_bytes);
    atomic_store_explicit(&self->head, head + 1, memory_order_release);
    return true;
}

size_t queue_len(const queue *self) {
    /* Read head first: it only grows, so the difference never goes below zero. */
    size_t head = atomic_load_explicit(&((queue *)(uintptr_t)self)->head, memory_order_acquire);
    size_t tail = atomic_load_explicit(&((queue *)(uintptr_t)self)->tail, memory_order_acquire);
    size_t len = tail - head;
    return len > self->mask + 1 ? self->mask + 1 : len;
}
