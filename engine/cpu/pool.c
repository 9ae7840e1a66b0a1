/* pool.c - the compute threads.
 *
 * A run is published as one 64-bit word: its number, its number of chunks, and the next chunk. A
 * thread takes a chunk by a compare-and-swap on this word, so a late thread can never take work of
 * a finished run. The caller waits only for threads that took a chunk: if another process occupies
 * a core, the other threads take more chunks. */
#include "base/clock.h"
#include "base/machine.h"
#include "base/size.h"
#include "engine/cpu/cpu_internal.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { CHUNK_BITS = 20, CHUNKS_PER_THREAD = 8, MAX_THREADS = 512 };
#define CHUNK_MASK ((UINT64_C(1) << CHUNK_BITS) - 1)
#define SPIN_NS 50000u /* longer than the gaps between the phases of a launch */

struct eng__pool {
    uint32_t threads; /* including the caller */
    /* the current run */
    eng__work fn;
    void *arg;
    uint32_t n, chunk;
    /* [number | chunks | next chunk] */
    _Alignas(64) _Atomic uint64_t ticket;
    _Alignas(64) _Atomic uint32_t done;
    _Alignas(64) _Atomic uint32_t sleepers;
    _Atomic uint32_t caller_sleeps;
    _Atomic bool stop;
    pthread_mutex_t lock;
    pthread_cond_t work, finished;
    uint32_t n_started;
    struct worker {
        pthread_t thread;
        eng__pool *pool;
        uint32_t number;
    } workers[];
};

uint32_t eng__threads_here(void) {
    machine here;
    machine_read(&here);
    uint32_t n = machine_threads(&here);
    return n < MAX_THREADS ? n : MAX_THREADS;
}

static inline void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    atomic_signal_fence(memory_order_seq_cst);
#endif
}

/* Takes and runs chunks until none is left. */
static void work(eng__pool *pool, uint32_t worker) {
    uint64_t ticket = atomic_load_explicit(&pool->ticket, memory_order_acquire);
    for (;;) {
        uint64_t next = ticket & CHUNK_MASK, chunks = (ticket >> CHUNK_BITS) & CHUNK_MASK;
        if (next >= chunks) return;
        if (!atomic_compare_exchange_weak_explicit(&pool->ticket, &ticket, ticket + 1,
                                                   memory_order_acq_rel, memory_order_acquire)) {
            continue;
        }
        uint32_t first = (uint32_t)next * pool->chunk;
        uint32_t last = pool->n - first < pool->chunk ? pool->n : first + pool->chunk;
        pool->fn(pool->arg, first, last, worker);
        if (atomic_fetch_add(&pool->done, 1) + 1 == chunks && atomic_load(&pool->caller_sleeps)) {
            pthread_mutex_lock(&pool->lock);
            pthread_cond_signal(&pool->finished);
            pthread_mutex_unlock(&pool->lock);
        }
        ticket = atomic_load_explicit(&pool->ticket, memory_order_acquire);
    }
}

static bool has_work(eng__pool *pool) {
    uint64_t ticket = atomic_load(&pool->ticket);
    return (ticket & CHUNK_MASK) < ((ticket >> CHUNK_BITS) & CHUNK_MASK);
}

static void *worker_main(void *arg) {
    struct worker *self = arg;
    eng__pool *pool = self->pool;
    while (!atomic_load(&pool->stop)) {
        work(pool, self->number);
        uint64_t until = clock_ns() + SPIN_NS;
        while (!has_work(pool) && !atomic_load(&pool->stop) && clock_ns() < until) {
            for (int i = 0; i < 32; i++)
                relax();
        }
        if (has_work(pool)) continue;
        pthread_mutex_lock(&pool->lock);
        atomic_fetch_add(&pool->sleepers, 1);
        while (!has_work(pool) && !atomic_load(&pool->stop))
            pthread_cond_wait(&pool->work, &pool->lock);
        atomic_fetch_sub(&pool->sleepers, 1);
        pthread_mutex_unlock(&pool->lock);
    }
    return NULL;
}

int eng__pool_create(eng__pool **out, uint32_t threads, err *e) {
    *out = NULL;
    if (threads == 0) threads = eng__threads_here();
    if (threads > MAX_THREADS) {
        return err_set(e, ERR_USAGE, "threads", "%u threads requested; the most is %d", threads,
                       MAX_THREADS);
    }
    eng__pool *pool = array_new_aligned(1, sizeof *pool + threads * sizeof(struct worker));
    if (pool == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for compute threads");
    *pool = (eng__pool){.threads = threads};
    if (pthread_mutex_init(&pool->lock, NULL) != 0) goto fail_lock;
    if (pthread_cond_init(&pool->work, NULL) != 0) goto fail_work;
    if (pthread_cond_init(&pool->finished, NULL) != 0) goto fail_finished;
    for (uint32_t i = 1; i < threads; i++) {
        struct worker *worker = &pool->workers[i];
        *worker = (struct worker){.pool = pool, .number = i};
        if (pthread_create(&worker->thread, NULL, worker_main, worker) != 0) break;
        pool->n_started++;
    }
    if (pool->n_started + 1 != threads) {
        eng__pool_destroy(pool);
        return err_set(e, ERR_IO, NULL, "cannot start %u compute threads", threads);
    }
    *out = pool;
    return 0;
fail_finished:
    pthread_cond_destroy(&pool->work);
fail_work:
    pthread_mutex_destroy(&pool->lock);
fail_lock:
    free(pool);
    return err_set(e, ERR_IO, NULL, "cannot create the compute pool");
}

void eng__pool_destroy(eng__pool *pool) {
    if (pool == NULL) return;
    pthread_mutex_lock(&pool->lock);
    atomic_store(&pool->stop, true);
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->lock);
    for (uint32_t i = 1; i <= pool->n_started; i++)
        pthread_join(pool->workers[i].thread, NULL);
    pthread_cond_destroy(&pool->finished);
    pthread_cond_destroy(&pool->work);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}

uint32_t eng__pool_threads(const eng__pool *pool) {
    return pool->threads;
}

static uint64_t cpu_ns(clockid_t clock) {
    struct timespec time;
    if (clock_gettime(clock, &time) != 0) return 0;
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

/* Thread by thread: the clock of the process includes threads running on other cores only up to
 * their last timer tick. */
uint64_t eng__pool_cpu_ns(const eng__pool *pool) {
    uint64_t sum = cpu_ns(CLOCK_THREAD_CPUTIME_ID);
    for (uint32_t i = 1; i <= pool->n_started; i++) {
        clockid_t clock;
        if (pthread_getcpuclockid(pool->workers[i].thread, &clock) == 0) sum += cpu_ns(clock);
    }
    return sum;
}

static void wait_done(eng__pool *pool, uint32_t chunks) {
    uint64_t until = clock_ns() + SPIN_NS;
    while (atomic_load_explicit(&pool->done, memory_order_acquire) != chunks) {
        for (int i = 0; i < 16; i++)
            relax();
        if (clock_ns() < until) continue;
        pthread_mutex_lock(&pool->lock);
        atomic_store(&pool->caller_sleeps, 1);
        while (atomic_load(&pool->done) != chunks)
            pthread_cond_wait(&pool->finished, &pool->lock);
        atomic_store(&pool->caller_sleeps, 0);
        pthread_mutex_unlock(&pool->lock);
    }
}

void eng__pool_run(eng__pool *pool, eng__work fn, void *arg, uint32_t n, uint32_t grain) {
    if (n == 0) return;
    uint32_t most = pool->threads * CHUNKS_PER_THREAD, chunk = (n - 1) / most + 1;
    if (chunk < grain) chunk = grain;
    uint32_t chunks = (n - 1) / chunk + 1;
    if (chunks == 1 || pool->threads == 1) {
        fn(arg, 0, n, 0);
        return;
    }
    pool->fn = fn;
    pool->arg = arg;
    pool->n = n;
    pool->chunk = chunk;
    atomic_store_explicit(&pool->done, 0, memory_order_relaxed);
    uint64_t number =
        (atomic_load_explicit(&pool->ticket, memory_order_relaxed) >> (2 * CHUNK_BITS)) + 1;
    atomic_store(&pool->ticket, number << (2 * CHUNK_BITS) | (uint64_t)chunks << CHUNK_BITS);
    if (atomic_load(&pool->sleepers)) {
        pthread_mutex_lock(&pool->lock);
        pthread_cond_broadcast(&pool->work);
        pthread_mutex_unlock(&pool->lock);
    }
    work(pool, 0);
    wait_done(pool, chunks);
}
