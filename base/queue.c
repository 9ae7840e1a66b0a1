/* queue.c - the bounded ring two threads meet in, and the bell beside it. */
#include "base/base.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

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

/* ---- wake ---- */

struct wake {
    pthread_mutex_t lock;
    pthread_cond_t bell;
    bool rung;
};

int wake_create(wake **out, err *e) {
    *out = NULL;
    wake *w = calloc(1, sizeof *w);
    if (w == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for a wake");
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr,
                              CLOCK_MONOTONIC); /* a clock set back must not stretch the wait */
    int bad = pthread_mutex_init(&w->lock, NULL) | pthread_cond_init(&w->bell, &attr);
    pthread_condattr_destroy(&attr);
    if (bad) {
        free(w);
        return err_set(e, ERR_NO_MEMORY, NULL, "cannot create a lock");
    }
    *out = w;
    return 0;
}

void wake_destroy(wake *w) {
    if (w == NULL) return;
    pthread_cond_destroy(&w->bell);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

void wake_signal(wake *w) {
    pthread_mutex_lock(&w->lock);
    w->rung = true;
    pthread_cond_signal(&w->bell);
    pthread_mutex_unlock(&w->lock);
}

void wake_wait(wake *w, uint64_t timeout_ns) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    uint64_t ns = (uint64_t)until.tv_nsec + timeout_ns % 1000000000u;
    until.tv_sec += (time_t)(timeout_ns / 1000000000u + ns / 1000000000u);
    until.tv_nsec = (long)(ns % 1000000000u);
    pthread_mutex_lock(&w->lock);
    while (!w->rung) {
        if (pthread_cond_timedwait(&w->bell, &w->lock, &until) != 0) break;
    }
    w->rung = false;
    pthread_mutex_unlock(&w->lock);
}
