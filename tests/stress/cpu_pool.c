/* cpu_pool.c - more compute threads than cores, runs of every size: each item is done exactly once
 * and is visible to the caller, even if threads wake late. Built with TSan by `make tsan`. */
#include "engine/cpu/cpu_internal.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

enum { RUNS = 6000, MOST = 700, THREADS = 5 };

typedef struct {
    uint32_t done[MOST]; /* plain: the pool alone must order the accesses */
    uint32_t run, sum_before;
} pool_work;

static void count(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    pool_work *work = arg;
    if (worker >= THREADS) work->done[first] += 1000;
    for (uint32_t i = first; i < last; i++)
        work->done[i] += 1 + work->run;
}

int main(void) {
    static pool_work work;
    eng__pool *pool;
    err e = {0};
    if (eng__pool_create(&pool, THREADS, &e) != 0) return fprintf(stderr, "%s\n", e.msg), 1;
    for (uint32_t run = 0; run < RUNS; run++) {
        uint32_t n = run * 7919 % MOST, grain = 1 + run % 5;
        memset(work.done, 0, sizeof work.done);
        work.run = run;
        eng__pool_run(pool, count, &work, n, grain);
        for (uint32_t i = 0; i < MOST; i++) {
            if (work.done[i] == (i < n ? 1 + run : 0)) continue;
            return fprintf(stderr, "run %u: item %u of %u done %u times\n", run, i, n,
                           work.done[i]),
                   1;
        }
        if (run % 500 == 0)
            nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL); /* let all sleep */
    }
    eng__pool_destroy(pool);
    printf("cpu_pool: %d runs, every item once\n", RUNS);
    return 0;
}
