/* watch.c - waits for the end of the other ranks' processes.
 *
 * MPI does not tell: a message from a lost process never arrives. The kernel does, through a pidfd,
 * within milliseconds and at no cost. */
#include "base/log.h"
#include "engine/mpi/mpi_internal.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { OWN_WORD_NS = 100000000 }; /* for a reason of this rank's own, if it is about to end */

struct eng__mpi_watch {
    pthread_t thread;
    bool runs;
    uint32_t rank, n;
    struct pollfd *fds; /* [n + 1] by rank, then the bell */
};

static void end_process(const eng__mpi_watch *watch, uint32_t lost) {
    const struct timespec own_word = {.tv_nsec = OWN_WORD_NS};
    log_line(LOG_ALERT, "rank %u of %u: the process of rank %u has ended, so this one ends too",
             watch->rank, watch->n, lost);
    (void)nanosleep(&own_word, NULL);
    _exit(1);
}

static void *watch_all(void *arg) {
    eng__mpi_watch *watch = arg;
    for (;;) {
        if (poll(watch->fds, watch->n + 1, -1) < 0 && errno != EINTR) return NULL;
        if (watch->fds[watch->n].revents) return NULL;
        for (uint32_t rank = 0; rank < watch->n; rank++) {
            if (watch->fds[rank].revents) end_process(watch, rank);
        }
    }
}

/* -1: the process cannot be watched. */
static int open_pidfd(int64_t pid, bool *gone) {
#ifdef SYS_pidfd_open
    int fd = (int)syscall(SYS_pidfd_open, (pid_t)pid, 0);
    *gone = fd < 0 && errno == ESRCH;
    return fd;
#else
    (void)pid;
    *gone = false;
    return -1;
#endif
}

int eng__mpi_watch_start(eng__mpi_watch **out, const eng__mpi_process *all, uint32_t rank,
                         uint32_t n, err *e) {
    eng__mpi_watch *watch = calloc(1, sizeof *watch);
    if (watch) watch->fds = calloc(n + 1, sizeof *watch->fds);
    if (watch == NULL || watch->fds == NULL) {
        free(watch);
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for %u ranks", n);
    }
    *out = watch;
    watch->rank = rank;
    watch->n = n;
    for (uint32_t i = 0; i <= n; i++)
        watch->fds[i] = (struct pollfd){.fd = -1, .events = POLLIN};
    watch->fds[n].fd = eventfd(0, EFD_CLOEXEC);
    if (watch->fds[n].fd < 0)
        return err_set(e, ERR_IO, NULL, "no file descriptor for the watch of ranks");
    for (uint32_t i = 0; i < n; i++) {
        bool gone = false;
        if (i == rank || all[i].machine == 0 || all[i].machine != all[rank].machine) continue;
        watch->fds[i].fd = open_pidfd(all[i].pid, &gone);
        if (gone) return err_set(e, ERR_DEVICE, NULL, "the process of rank %u has ended", i);
    }
    watch->runs = pthread_create(&watch->thread, NULL, watch_all, watch) == 0;
    return watch->runs ? 0 : err_set(e, ERR_IO, NULL, "no thread for the watch of ranks");
}

void eng__mpi_watch_stop(eng__mpi_watch *watch) {
    const uint64_t one = 1;
    if (watch == NULL) return;
    if (watch->runs && write(watch->fds[watch->n].fd, &one, sizeof one) == (ssize_t)sizeof one)
        pthread_join(watch->thread, NULL);
    for (uint32_t i = 0; i <= watch->n; i++) {
        if (watch->fds[i].fd >= 0) close(watch->fds[i].fd);
    }
    free(watch->fds);
    free(watch);
}
