/* mapped.c - see mapped.h. */
#include "base/mapped.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

typedef struct note {
    struct note *_Atomic next;
    uintptr_t first, size;
    char path[];
} note;

/* Changed under the lock. The handler reads it without, since its thread may hold the lock. */
static note *_Atomic notes;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

int mapped_note(const void *data, size_t size, const char *path, err *e) {
    size_t bytes = strlen(path) + 1;
    note *one = malloc(sizeof *one + bytes);
    if (one == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "%s: out of memory", path);
    one->first = (uintptr_t)data;
    one->size = size;
    memcpy(one->path, path, bytes);
    pthread_mutex_lock(&lock);
    one->next = notes;
    notes = one;
    pthread_mutex_unlock(&lock);
    return 0;
}

void mapped_forget(const void *data) {
    note *gone = NULL;
    pthread_mutex_lock(&lock);
    for (note *_Atomic *at = &notes; *at; at = &(*at)->next) {
        if ((*at)->first != (uintptr_t)data) continue;
        gone = *at;
        *at = gone->next;
        break;
    }
    pthread_mutex_unlock(&lock);
    free(gone);
}

/* Calls async-signal-safe functions only. */
static void on_fault(int signum, siginfo_t *info, void *context) {
    static const char before[] = "fathom: ",
                      after[] = ": a part that was mapped is gone: the file was cut short while in "
                                "use, or its disk failed; replace models by rename\n";
    (void)context;
    uintptr_t at = (uintptr_t)info->si_addr;
    for (const note *noted = notes; noted && info->si_code > 0; noted = noted->next) {
        if (at - noted->first >= noted->size) continue;
        struct iovec parts[] = {{(void *)(uintptr_t)before, sizeof before - 1},
                                {(void *)(uintptr_t)noted->path, strlen(noted->path)},
                                {(void *)(uintptr_t)after, sizeof after - 1}};
        if (writev(STDERR_FILENO, parts, 3) < 0) _exit(1); /* stderr is closed */
        _exit(1);
    }
    (void)signal(signum, SIG_DFL);
    if (info->si_code <= 0) (void)raise(signum); /* sent by a process: it does not come again */
}

void mapped_name_faults(void) {
    struct sigaction on = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    (void)sigaction(SIGBUS, &on, NULL);
}
