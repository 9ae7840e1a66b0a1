/* queue.h - a bounded, lock-free ring between one pushing and one popping thread. */
#ifndef FATHOM_QUEUE_H
#define FATHOM_QUEUE_H

#include "base/err.h"

typedef struct queue queue;
int queue_create(queue **out, size_t item_bytes, size_t capacity, err *e) WARN_UNUSED;
void queue_destroy(queue *self);
bool queue_push(queue *self, const void *item) WARN_UNUSED; /* copies; false when full */
bool queue_pop(queue *self, void *item) WARN_UNUSED;        /* copies out; false when empty */
size_t queue_len(const queue *self);                        /* either thread; a snapshot */

#endif
