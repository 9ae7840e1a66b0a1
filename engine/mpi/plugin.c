/* plugin.c - fathom-mpi.so: ranks are the processes of an MPI job.
 *
 * Bytes go from rank to rank as plain messages. A wait tests for them, so it can sleep, has an end,
 * and notices a lost rank. No collective call of MPI is used: the library chooses its order.
 *
 * A thread waits for the end of the other processes (watch.c) and then ends this one: a launch
 * cannot go on without all ranks. Processes of other machines are mpirun's to watch. */
#include "base/clock.h"
#include "base/machine.h"
#include "engine/mpi/mpi_internal.h"

#include <limits.h>
#include <mpi.h>
#include <sched.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

const char eng__mpi_plugin_version[] = FATHOM_VERSION;

enum {
    TAG = 1,
    YIELD_NS = 200000,      /* keeps the processor at hand: launches follow this fast */
    NAP_LEAST_NS = 50000,   /* then naps, each twice as long as the one before */
    NAP_MOST_NS = 1000000,  /* delays the first launch after a pause by as much at most */
    GATHER_NAP_NS = 100000, /* the same for a gather: a rank is late, not idle */
};

typedef struct {
    eng_ranks base;
    eng__mpi_watch *watch;
    MPI_Request *requests; /* [2 n] */
    bool lost;
} mpi_ranks;

/* ---- waiting ---- */

static int lost_rank(mpi_ranks *self, err *e) {
    self->lost = true;
    return err_set(e, ERR_DEVICE, NULL, "rank %u of %u: another rank is lost, so this one ends too",
                   self->base.rank, self->base.n);
}

static void nap(uint64_t *ns, uint64_t most) {
    struct timespec time = {.tv_nsec = (long)*ns};
    (void)nanosleep(&time, NULL);
    *ns = *ns * 2 < most ? *ns * 2 : most;
}

/* Waits for n requests. seconds: the most it may take; 0: no end. */
static int finish(mpi_ranks *self, int n, uint64_t most_nap, uint32_t seconds, err *e) {
    uint64_t start = clock_ns(), sleep_ns = NAP_LEAST_NS;
    for (int done = 0; n > 0;) {
        if (MPI_Testall(n, self->requests, &done, MPI_STATUSES_IGNORE) != MPI_SUCCESS)
            return lost_rank(self, e);
        if (done) return 0;
        uint64_t waited = clock_ns() - start;
        if (seconds && waited > seconds * UINT64_C(1000000000)) {
            self->lost = true;
            return err_set(e, ERR_DEVICE, NULL,
                           "rank %u of %u: another rank has not answered for %u seconds",
                           self->base.rank, self->base.n, seconds);
        }
        if (waited < YIELD_NS) (void)sched_yield();
        else nap(&sleep_ns, most_nap);
    }
    return 0;
}

/* ---- the carrier ---- */

static int too_large(err *e, size_t bytes) {
    return err_set(e, ERR_UNSUPPORTED, NULL, "a message of %.1f GB between ranks is too large",
                   (double)bytes / 1e9);
}

static int mpi_broadcast(eng_ranks *ranks, void *data, size_t bytes, err *e) {
    mpi_ranks *self = (mpi_ranks *)ranks;
    int n = 0, rc = MPI_SUCCESS;
    if (self->lost) return lost_rank(self, e);
    if (bytes > INT_MAX) return too_large(e, bytes);
    if (ranks->rank > 0) {
        rc = MPI_Irecv(data, (int)bytes, MPI_BYTE, 0, TAG, MPI_COMM_WORLD, &self->requests[n++]);
        if (rc != MPI_SUCCESS) return lost_rank(self, e);
        return finish(self, n, NAP_MOST_NS, 0, e);
    }
    for (int to = 1; to < (int)ranks->n && rc == MPI_SUCCESS; to++)
        rc = MPI_Isend(data, (int)bytes, MPI_BYTE, to, TAG, MPI_COMM_WORLD, &self->requests[n++]);
    if (rc != MPI_SUCCESS) return lost_rank(self, e);
    return finish(self, n, GATHER_NAP_NS, ranks->ready ? ranks->patience_s : 0, e);
}

static int mpi_gather(eng_ranks *ranks, void *all, const size_t *bytes, err *e) {
    mpi_ranks *self = (mpi_ranks *)ranks;
    uint8_t *at = all, *own = all;
    int n = 0, rc = MPI_SUCCESS;
    if (self->lost) return lost_rank(self, e);
    for (uint32_t rank = 0; rank < ranks->n; rank++) {
        if (bytes[rank] > INT_MAX) return too_large(e, bytes[rank]);
        if (rank == ranks->rank) own = at;
        else if (bytes[rank] && rc == MPI_SUCCESS)
            rc = MPI_Irecv(at, (int)bytes[rank], MPI_BYTE, (int)rank, TAG, MPI_COMM_WORLD,
                           &self->requests[n++]);
        at += bytes[rank];
    }
    size_t sent = bytes[ranks->rank];
    for (uint32_t rank = 0; sent && rank < ranks->n && rc == MPI_SUCCESS; rank++) {
        if (rank == ranks->rank) continue;
        rc = MPI_Isend(own, (int)sent, MPI_BYTE, (int)rank, TAG, MPI_COMM_WORLD,
                       &self->requests[n++]);
    }
    if (rc != MPI_SUCCESS) return lost_rank(self, e);
    return finish(self, n, GATHER_NAP_NS, ranks->ready ? ranks->patience_s : 0, e);
}

/* MPI_Finalize waits for every rank, so after a loss the process ends without it. */
static void mpi_close(eng_ranks *ranks, bool orderly) {
    mpi_ranks *self = (mpi_ranks *)ranks;
    eng__mpi_watch_stop(self->watch);
    if (orderly) MPI_Finalize();
    free(self->requests);
    free(self);
}

static const eng_ranks_ops ops = {mpi_broadcast, mpi_gather, mpi_close};

/* ---- opening ---- */

/* Ranks of this machine, in the order of their ranks. */
static int find_local(eng_ranks *ranks) {
    MPI_Comm local;
    int rank = 0, n = 1;
    if (MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, (int)ranks->rank, MPI_INFO_NULL,
                            &local) != MPI_SUCCESS ||
        MPI_Comm_rank(local, &rank) != MPI_SUCCESS || MPI_Comm_size(local, &n) != MPI_SUCCESS ||
        MPI_Comm_free(&local) != MPI_SUCCESS) {
        return -1;
    }
    ranks->local_rank = (uint32_t)rank;
    ranks->local_n = (uint32_t)n;
    return 0;
}

/* Watches the other ranks from here on. */
static int start_watch(mpi_ranks *self, err *e) {
    uint32_t n = self->base.n;
    eng__mpi_process here = {machine_identity(), getpid()}, *all = calloc(n, sizeof *all);
    if (all == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for %u ranks", n);
    int rc =
        MPI_Allgather(&here, sizeof here, MPI_BYTE, all, sizeof here, MPI_BYTE, MPI_COMM_WORLD);
    rc = rc == MPI_SUCCESS ? eng__mpi_watch_start(&self->watch, all, self->base.rank, n, e)
                           : lost_rank(self, e);
    free(all);
    return rc;
}

static int join(mpi_ranks *self, uint32_t expected, err *e) {
    int rank = 0, n = 0, level;
    /* Else one process reads the memory of another, and the sandbox of the server refuses it. */
    (void)setenv("OMPI_MCA_btl_vader_single_copy_mechanism", "none", 0);
    /* Else Open MPI catches SIGBUS and others, which base/mapped.h turns into a sentence. */
    (void)setenv("OMPI_MCA_opal_signal", "", 0);
    if (MPI_Init_thread(NULL, NULL, MPI_THREAD_SERIALIZED, &level) != MPI_SUCCESS ||
        MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN) != MPI_SUCCESS ||
        MPI_Comm_rank(MPI_COMM_WORLD, &rank) != MPI_SUCCESS ||
        MPI_Comm_size(MPI_COMM_WORLD, &n) != MPI_SUCCESS) {
        return err_set(e, ERR_DEVICE, NULL, "MPI cannot start");
    }
    if (n != (int)expected) {
        return err_set(
            e, ERR_DEVICE, NULL,
            "the launcher started %u ranks, but fathom-mpi.so sees %d: it was built with "
            "another MPI than the launcher's",
            expected, n);
    }
    if (level < MPI_THREAD_SERIALIZED)
        return err_set(e, ERR_DEVICE, NULL, "this MPI does not allow calls from several threads");
    self->base.ops = &ops;
    self->base.carrier = "mpi";
    self->base.rank = (uint32_t)rank;
    self->base.n = (uint32_t)n;
    self->requests = calloc(2 * (size_t)n, sizeof *self->requests);
    if (self->requests == NULL)
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for %d ranks", n);
    if (find_local(&self->base) != 0) return lost_rank(self, e);
    return start_watch(self, e);
}

int eng__mpi_plugin_open(eng_ranks **out, uint32_t expected, err *e) {
    mpi_ranks *self = calloc(1, sizeof *self);
    *out = NULL;
    if (self == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for ranks");
    if (join(self, expected, e) != 0 || eng_ranks_init(&self->base, e) != 0) {
        eng__mpi_watch_stop(self->watch);
        free(self->requests);
        free(self);
        return -1;
    }
    *out = &self->base;
    return 0;
}
