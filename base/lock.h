/* lock.h - a lock around data that any thread may use, for sections of a few microseconds. Nothing
 * waits while it holds one. */
#ifndef FATHOM_LOCK_H
#define FATHOM_LOCK_H

#include "base/lang.h"

#include <pthread.h>

typedef struct {
    pthread_mutex_t mutex;
} lock;

/* A mutex of the default kind in private memory: none of these can fail. */
static inline void lock_init(lock *self) {
    (void)pthread_mutex_init(&self->mutex, NULL);
}
static inline void lock_deinit(lock *self) {
    (void)pthread_mutex_destroy(&self->mutex);
}
static inline void lock_take(lock *self) {
    (void)pthread_mutex_lock(&self->mutex);
}
static inline void lock_give(lock *self) {
    (void)pthread_mutex_unlock(&self->mutex);
}

#endif
