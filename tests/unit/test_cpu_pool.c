/* test_cpu_pool.c - what the pool says of its threads' processor time. */
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
    atomic_uint met;      /* workers that took a piece */
} spent;

static uint64_t own_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void burn(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    spent *s = arg;
    uint64_t start = own_ns(), used;
    if (s->ns[worker] == 0) atomic_fetch_add(&s->met, 1);
    while (atomic_load(&s->met) < WORKERS) /* on a busy machine one could take all pieces */
        (void)sched_yield();
    do {
        used = own_ns() - start;
    } while (used < (last - first) * UINT64_C(5000000));
    s->ns[worker] += used;
}

Test(cpu_pool, processor_time_counts_every_worker) {
    err e = {0};
    eng__pool *p;
    spent s = {0};
    cr_assert_eq(eng__pool_create(&p, WORKERS, &e), 0, "%s", e.msg);
    uint64_t before = eng__pool_cpu_ns(p);
    eng__pool_run(p, burn, &s, 12, 1);
    uint64_t counted = eng__pool_cpu_ns(p) - before, all = s.ns[0] + s.ns[1] + s.ns[2];
    cr_expect_geq(counted, all, "%llu of %llu ns", (unsigned long long)counted,
                  (unsigned long long)all);
    cr_expect_lt(s.ns[0], all, "the others worked too");
    eng__pool_destroy(p);
}
