/* cpu_pool.c - more compute threads than cores, runs of every size: each item is done
 * exactly once and is seen by the caller, also by threads that wake late. Built with TSan
 * by `make tsan`. */
#include "engine/cpu/cpu_internal.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

enum { RUNS = 6000, MOST = 700, THREADS = 5 };

typedef struct {
    uint32_t done[MOST]; /* plain: the pool alone must order the accesses */
    uint32_t run, sum_before;
} work;

static void count(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    work *w = arg;
    if (worker >= THREADS) w->done[first] += 1000;
    for (uint32_t i = first; i < last; i++)
        w->done[i] += 1 + w->run;
}

int main(void) {
    static work w;
    eng__pool *p;
    err e = {0};
    if (eng__pool_create(&p, THREADS, &e) != 0) return fprintf(stderr, "%s\n", e.msg), 1;
    for (uint32_t r = 0; r < RUNS; r++) {
        uint32_t n = r * 7919 % MOST, grain = 1 + r % 5;
        memset(w.done, 0, sizeof w.done);
        w.run = r;
        eng__pool_run(p, count, &w, n, grain);
        for (uint32_t i = 0; i < MOST; i++) {
            if (w.done[i] == (i < n ? 1 + r : 0)) continue;
            return fprintf(stderr, "run %u: item %u of %u done %u times\n", r, i, n, w.done[i]), 1;
        }
        if (r % 500 == 0)
            nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL); /* let all sleep */
    }
    eng__pool_destroy(p);
    printf("cpu_pool: %d runs, every item once\n", RUNS);
    return 0;
}
