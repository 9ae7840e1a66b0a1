/* wake.c - a flag under a lock, and a condition variable to wait for it. */
#include "base/wake.h"

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

struct wake {
    pthread_mutex_t lock;
    pthread_cond_t bell;
    bool rung;
};

int wake_create(wake **out, err *e) {
    *out = NULL;
    wake *self = calloc(1, sizeof *self);
    if (self == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for a wake");
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    /* A wall clock set back would stretch the wait. */
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    int bad = pthread_mutex_init(&self->lock, NULL) | pthread_cond_init(&self->bell, &attr);
    pthread_condattr_destroy(&attr);
    if (bad) {
        free(self);
        return err_set(e, ERR_NO_MEMORY, NULL, "cannot create a lock");
    }
    *out = self;
    return 0;
}

void wake_destroy(wake *self) {
    if (self == NULL) return;
    pthread_cond_destroy(&self->bell);
    pthread_mutex_destroy(&self->lock);
    free(self);
}

void wake_signal(wake *self) {
    pthread_mutex_lock(&self->lock);
    self->rung = true;
    pthread_cond_signal(&self->bell);
    pthread_mutex_unlock(&self->lock);
}

void wake_wait(wake *self, uint64_t timeout_ns) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    uint64_t ns = (uint64_t)until.tv_nsec + timeout_ns % 1000000000u;
    until.tv_sec += (time_t)(timeout_ns / 1000000000u + ns / 1000000000u);
    until.tv_nsec = (long)(ns % 1000000000u);
    pthread_mutex_lock(&self->lock);
    while (!self->rung) {
        if (pthread_cond_timedwait(&self->bell, &self->lock, &until) != 0) break;
    }
    self->rung = false;
    pthread_mutex_unlock(&self->lock);
}
