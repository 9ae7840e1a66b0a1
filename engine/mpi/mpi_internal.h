/* mpi_internal.h - the parts of fathom-mpi.so; private to engine/mpi. */
#ifndef FATHOM_MPI_INTERNAL_H
#define FATHOM_MPI_INTERNAL_H

#include "engine/ranks.h"

/* The doors of the plug-in, found by name (ranks_open.c). expected: ranks started by
 * the launcher. Once per process; any thread, and the calls of eng_ranks on one thread at a time.
 */
extern const char eng__mpi_plugin_version[];
int eng__mpi_plugin_open(eng_ranks **out, uint32_t expected, err *e) WARN_UNUSED;

/* ---- the watch (watch.c): ends this process when another rank disappears ---- */

typedef struct {
    uint64_t machine; /* machine_identity */
    int64_t pid;
} eng__mpi_process;

typedef struct eng__mpi_watch eng__mpi_watch;
/* Watches the processes of the other ranks on this machine, all[n] by rank. If one disappears it
 * logs a sentence and ends the process with status 1. */
int eng__mpi_watch_start(eng__mpi_watch **out, const eng__mpi_process *all, uint32_t rank,
                         uint32_t n, err *e) WARN_UNUSED;
void eng__mpi_watch_stop(eng__mpi_watch *watch); /* NULL is fine */

#endif
