/* test_cpu_pool.c - the CPU time of the pool's threads. */
#include "engine/cpu/cpu_internal.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <sched.h>
#include <stdatomic.h>
#include <time.h>

TestSuite(cpu_pool, .fini = fail_on_leaks);

enum { WORKERS = 3 };

typedef struct {
    uint64_t ns[WORKERS]; /* by worker */
    atomic_uint met;      /* workers with a piece */
} spent;

static uint64_t own_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void burn(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    spent *totals = arg;
    uint64_t start = own_ns(), used;
    if (totals->ns[worker] == 0) atomic_fetch_add(&totals->met, 1);
    while (atomic_load(&totals->met) <
           WORKERS) /* on a busy machine one worker could take all pieces */
        (void)sched_yield();
    do {
        used = own_ns() - start;
    } while (used < (last - first) * UINT64_C(5000000));
    totals->ns[worker] += used;
}

Test(cpu_pool, processor_time_counts_every_worker) {
    err e = {0};
    eng__pool *pool;
    spent totals = {0};
    cr_assert_eq(eng__pool_create(&pool, WORKERS, &e), 0, "%s", e.msg);
    uint64_t before = eng__pool_cpu_ns(pool);
    eng__pool_run(pool, burn, &totals, 12, 1);
    uint64_t counted = eng__pool_cpu_ns(pool) - before,
             all = totals.ns[0] + totals.ns[1] + totals.ns[2];
    cr_expect_geq(counted, all, "%llu of %llu ns", (unsigned long long)counted,
                  (unsigned long long)all);
    cr_expect_lt(totals.ns[0], all, "the others worked too");
    eng__pool_destroy(pool);
}
