/* queue.c - the bounded ring two threads meet in. */
#include "base/queue.h"
#include "base/size.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* head and tail count items ever popped and pushed; their difference is the
 * length, so full and empty need no spare place. Each is written by one thread
 * and stands on its own cache line so that the two do not fight over it. */
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
    queue *q = array_new_aligned(1, sizeof *q);
    if (q == NULL) goto fail;
    memset(q, 0, sizeof *q);
    q->items = array_new(n, item_bytes);
    if (q->items == NULL) goto fail;
    q->item_bytes = item_bytes;
    q->mask = n - 1;
    *out = q;
    return 0;
fail:
    free(q);
    return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for a queue of %zu items", capacity);
}

void queue_destroy(queue *q) {
    if (q == NULL) return;
    free(q->items);
    free(q);
}

bool queue_push(queue *q, const void *item) {
    size_t tail = atomic_load_explicit(&q->tail, memory_order_relaxed);
    size_t head = atomic_load_explicit(&q->head, memory_order_acquire);
    if (tail - head > q->mask) return false;
    memcpy(q->items + (tail & q->mask) * q->item_bytes, item, q->item_bytes);
    atomic_store_explicit(&q->tail, tail + 1, memory_order_release);
    return true;
}

bool queue_pop(queue *q, void *item) {
    size_t head = atomic_load_explicit(&q->head, memory_order_relaxed);
    size_t tail = atomic_load_explicit(&q->tail, memory_order_acquire);
    if (head == tail) return false;
    memcpy(item, q->items + (head & q->mask) * q->item_bytes, q->item_bytes);
    atomic_store_explicit(&q->head, head + 1, memory_order_release);
    return true;
}

size_t queue_len(const queue *q) {
    /* head first: it can only grow, so the difference never goes below zero. */
    size_t head = atomic_load_explicit(&((queue *)(uintptr_t)q)->head, memory_order_acquire);
    size_t tail = atomic_load_explicit(&((queue *)(uintptr_t)q)->tail, memory_order_acquire);
    size_t len = tail - head;
    return len > q->mask + 1 ? q->mask + 1 : len;
}
