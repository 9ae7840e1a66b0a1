/* queue.h - a bounded ring between one thread that pushes and one that pops, without a lock. */
#ifndef FATHOM_QUEUE_H
#define FATHOM_QUEUE_H

#include "base/err.h"

typedef struct queue queue;
int queue_create(queue **out, size_t item_bytes, size_t capacity, err *e) WARN_UNUSED;
void queue_destroy(queue *q);
bool queue_push(queue *q, const void *item) WARN_UNUSED; /* copies; false when full */
bool queue_pop(queue *q, void *item) WARN_UNUSED;        /* copies out; false when empty */
size_t queue_len(const queue *q);                        /* either thread; a snapshot */

#endif
