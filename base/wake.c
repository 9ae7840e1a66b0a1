/* wake.c - a bell: a flag under a lock, and a condition that waits for it. */
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
