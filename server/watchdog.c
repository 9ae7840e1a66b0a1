/* watchdog.c - a thread that reports when the loop is stuck.
 *
 * A callback that takes long holds up every stream, and a stuck loop cannot report itself. So
 * another thread watches its pulse and, once per stall, logs the length of the silence and the
 * loop's stack. It repairs nothing. */
#include "base/clock.h"
#include "server/server_internal.h"

#include <execinfo.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

enum { MAX_FRAMES = 48, LOOKS_PER_STALL = 4 };

struct srv_watchdog {
    pthread_t thread, watched;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool stop; /* under lock */
    uint64_t stall_ns;
    atomic_uint_fast64_t beat_ns;
};

/* Runs in the watched thread. The first call of backtrace loads a library, so srv_watchdog_start
 * has made one. */
static void write_stack(int signum) {
    (void)signum;
    void *frames[MAX_FRAMES];
    backtrace_symbols_fd(frames, backtrace(frames, MAX_FRAMES), STDERR_FILENO);
}

static bool sleep_until(srv_watchdog *watchdog, uint64_t ns) {
    struct timespec until = {.tv_sec = (time_t)(ns / 1000000000),
                             .tv_nsec = (long)(ns % 1000000000)};
    while (!watchdog->stop && clock_ns() < ns)
        (void)pthread_cond_timedwait(&watchdog->wake, &watchdog->lock, &until);
    return !watchdog->stop;
}

static void *watch(void *arg) {
    srv_watchdog *watchdog = arg;
    uint64_t step = watchdog->stall_ns / LOOKS_PER_STALL, told = 0, before = clock_ns();
    (void)pthread_mutex_lock(&watchdog->lock);
    while (sleep_until(watchdog, before + step)) {
        uint64_t now = clock_ns(), beat = atomic_load(&watchdog->beat_ns);
        /* If this thread overslept too, the whole process stood still (SIGSTOP, a suspended
         * laptop): the loop gets a fresh start. */
        if (now - before > 2 * step) atomic_compare_exchange_strong(&watchdog->beat_ns, &beat, now);
        else if (now > beat && now - beat > watchdog->stall_ns && beat != told) {
            told = beat;
            log_line(LOG_ALERT, "the event loop has been stuck for %.1f s; its stack:",
                     (double)(now - beat) * 1e-9);
            (void)pthread_kill(watchdog->watched, SIGUSR2);
        }
        before = now;
    }
    (void)pthread_mutex_unlock(&watchdog->lock);
    return NULL;
}

void srv_watchdog_beat(srv_watchdog *watchdog) {
    atomic_store(&watchdog->beat_ns, clock_ns());
}

int srv_watchdog_start(srv_watchdog **out, double stall_s, err *e) {
    void *frame;
    pthread_condattr_t monotonic;
    struct sigaction on = {.sa_handler = write_stack, .sa_flags = SA_RESTART};
    srv_watchdog *watchdog = *out = calloc(1, sizeof *watchdog);
    if (watchdog == NULL)
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory to start the watchdog");
    (void)backtrace(&frame, 1);
    watchdog->watched = pthread_self();
    watchdog->stall_ns = (uint64_t)(stall_s * 1e9);
    srv_watchdog_beat(watchdog);
    (void)pthread_condattr_init(&monotonic);
    (void)pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    (void)pthread_mutex_init(&watchdog->lock, NULL);
    (void)pthread_cond_init(&watchdog->wake, &monotonic);
    (void)pthread_condattr_destroy(&monotonic);
    if (sigaction(SIGUSR2, &on, NULL) == 0 &&
        pthread_create(&watchdog->thread, NULL, watch, watchdog) == 0)
        return 0;
    free(watchdog);
    *out = NULL;
    return err_set(e, ERR_IO, NULL, "the thread of the watchdog did not start");
}

void srv_watchdog_stop(srv_watchdog *watchdog) {
    if (watchdog == NULL) return;
    (void)pthread_mutex_lock(&watchdog->lock);
    watchdog->stop = true;
    (void)pthread_cond_signal(&watchdog->wake);
    (void)pthread_mutex_unlock(&watchdog->lock);
    (void)pthread_join(watchdog->thread, NULL);
    (void)pthread_cond_destroy(&watchdog->wake);
    (void)pthread_mutex_destroy(&watchdog->lock);
    free(watchdog);
}
