/* queue.c - two threads, two small queues and two bells: a million items each
 * way arrive once and in order. Built with TSan by `make tsan`. */

#include "base/queue.h"
#include "base/wake.h"

#include <pthread.h>
#include <stdio.h>

enum { ITEMS = 1000000 };
static queue *there, *back;
static wake *bell_there, *bell_back;

static void *echo(void *arg) {
    (void)arg;
    for (uint64_t got = 0; got < ITEMS;) {
        uint64_t x;
        if (!queue_pop(there, &x)) {
            wake_wait(bell_there, 1000000);
            continue;
        }
        while (!queue_push(back, &x))
            wake_signal(bell_back);
        wake_signal(bell_back);
        got++;
    }
    return NULL;
}

int main(void) {
    err e = {0};
    if (queue_create(&there, 8, 64, &e) || queue_create(&back, 8, 64, &e) ||
        wake_create(&bell_there, &e) || wake_create(&bell_back, &e)) {
        return 1;
    }
    pthread_t thread;
    if (pthread_create(&thread, NULL, echo, NULL) != 0) return 1;
    uint64_t sent = 0, got = 0;
    while (got < ITEMS) {
        while (sent < ITEMS && queue_push(there, &sent))
            sent++;
        wake_signal(bell_there);
        uint64_t x;
        if (!queue_pop(back, &x)) {
            wake_wait(bell_back, 1000000);
            continue;
        }
        if (x != got) {
            fprintf(stderr, "item %llu came as %llu\n", (unsigned long long)got,
                    (unsigned long long)x);
            return 1;
        }
        got++;
    }
    pthread_join(thread, NULL);
    queue_destroy(there);
    queue_destroy(back);
    wake_destroy(bell_there);
    wake_destroy(bell_back);
    printf("%d items each way\n", ITEMS);
    return 0;
}
