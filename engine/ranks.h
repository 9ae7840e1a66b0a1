/* ranks.h - one model over several processes, its ranks. Each holds a part of the weights.
 *
 * The products of the feed-forward layers and the head are divided by output columns: a rank
 * computes its columns of all rows, and a gather gives every rank all columns. Everything else runs
 * on every rank. No sum crosses ranks, so an element has the bits it has in one process. (CUDA may
 * be told to sum over ranks: FATHOM_CUDA_RANKS_SPLIT in engine/cuda/README.md.)
 *
 * Rank 0 schedules. Its backend, wrapped by eng_ranks_wrap, sends each launch to the followers
 * before running it; a follower stays in eng_ranks_follow until rank 0 closes its backend. All
 * ranks run the same launches in the same order, so their gathers meet.
 *
 * Threading: the calls below belong to one thread at a time, the backend's; counters may be read by
 * any thread. Errors: a carrier that loses a rank returns ERR_DEVICE, and ERR_DEVICE ever after. */
#ifndef FATHOM_RANKS_H
#define FATHOM_RANKS_H

#include "engine/backend.h"

/* A carrier moves bytes between the ranks: MPI between processes (fathom-mpi.so), memory between
 * threads in tests. Every rank calls the same operations in the same order with the same sizes. */
typedef struct {
    /* Copies `bytes` bytes at `data` from rank 0 to all others. A follower may wait long here, for
     * the next launch, and sleeps meanwhile. */
    int (*broadcast)(eng_ranks *ranks, void *data, size_t bytes, err *e);
    /* `all` holds the part of every rank, one after the other: bytes[r] of rank r, for n ranks. The
     * caller has filled its own part; afterwards all are filled. A part may be empty. */
    int (*gather)(eng_ranks *ranks, void *all, const size_t *bytes, err *e);
    /* Ends the connection and frees the carrier. `orderly`: every rank ends here, and none is
     * missed. Otherwise the carrier waits for no other rank. */
    void (*close)(eng_ranks *ranks, bool orderly);
} eng_ranks_ops;

enum { ENG_RANKS_PATIENCE_S = 30 }; /* unless the caller of eng_ranks_open sets another */
/* First member of every carrier's own struct. */
struct eng_ranks {
    const eng_ranks_ops *ops;
    const char *carrier;          /* "mpi", "threads" */
    uint32_t rank, n;             /* rank < n */
    uint32_t local_rank, local_n; /* the same among the ranks of this machine */
    /* Most seconds that a gather may take before a rank counts as lost; 0: no limit. */
    uint32_t patience_s;
    bool ready; /* all have loaded their weights; until then carriers wait without limit */
    struct eng__ranks_state *state; /* of ranks.c: set by eng_ranks_init */
};

/* Called by a carrier when its struct is filled; sets state, ready and patience_s.
 * ERR_NO_MEMORY */
int eng_ranks_init(eng_ranks *ranks, err *e) WARN_UNUSED;
/* Frees what eng_ranks_init took, then closes the carrier. NULL is fine. */
void eng_ranks_close(eng_ranks *ranks);

/* ---- the columns of a rank ---- */

/* Cuts lie between whole units, so that a panel or tile of weights stays with one rank. */
enum {
    ENG_RANKS_OUT = 32,    /* output columns of a unit: down products, head, plain products */
    ENG_RANKS_HIDDEN = 16, /* hidden values of a unit of a gated layer: 16 gate and 16 up columns */
};
typedef struct {
    uint32_t first, last; /* [first, last); empty if ranks outnumber units */
} eng_share;

/* The part of `units` owned by a rank: in rank order, without gaps, sizes differing by one at most.
 * Any n > 0, also above the number of units. */
static inline eng_share eng_share_of(uint32_t units, uint32_t rank, uint32_t n) {
    return (eng_share){(uint32_t)((uint64_t)units * rank / n),
                       (uint32_t)((uint64_t)units * (rank + 1) / n)};
}
/* The same for columns: a unit has `unit` columns, the last one may have fewer. */
static inline eng_share eng_share_columns(uint32_t columns, uint32_t unit, uint32_t rank,
                                          uint32_t n) {
    eng_share own = eng_share_of((columns + unit - 1) / unit, rank, n);
    own.first = own.first * unit < columns ? own.first * unit : columns;
    own.last = own.last * unit < columns ? own.last * unit : columns;
    return own;
}
/* Units owned by this rank; all of them if ranks is NULL. */
static inline eng_share eng_share_own(const eng_ranks *ranks, uint32_t units) {
    return ranks ? eng_share_of(units, ranks->rank, ranks->n) : (eng_share){0, units};
}

/* ---- gathers ---- */

/* A matrix [rows][ld] of items. Every rank has filled its own columns. */
typedef struct {
    void *data;
    size_t ld, item_bytes; /* ld in items */
    uint32_t rows, columns, unit;
} eng_columns;

/* Fills the other ranks' columns of all parts, with one gather. ERR_DEVICE if a rank is lost.
 * Memory is taken only when a gather is larger than all before. */
int eng_ranks_gather(eng_ranks *ranks, const eng_columns *parts, uint32_t n, err *e) WARN_UNUSED;
/* Gathers whole rows in place: `rows` holds n[0] rows of rank 0, then n[1] of rank 1, and so on, of
 * row_bytes each. The caller has filled its own. ERR_DEVICE if a rank is lost. */
int eng_ranks_gather_rows(eng_ranks *ranks, void *rows, size_t row_bytes, const uint32_t *n,
                          err *e) WARN_UNUSED;
/* Takes the memory for gathers of up to `bytes` bytes in all (every rank's parts together), so that
 * none is taken later. ERR_NO_MEMORY */
int eng_ranks_reserve(eng_ranks *ranks, size_t bytes, err *e) WARN_UNUSED;

/* Both ways a value of rank 0 or of all ranks decides for all; used while a backend opens. */
int eng_ranks_broadcast(eng_ranks *ranks, void *data, size_t bytes, err *e) WARN_UNUSED;
/* The number of ranks that call with the same value, this one included. */
int eng_ranks_alike(eng_ranks *ranks, uint64_t value, uint32_t *n, err *e) WARN_UNUSED;
/* *value becomes the least value of all ranks. */
int eng_ranks_least(eng_ranks *ranks, uint64_t *value, err *e) WARN_UNUSED;

/* A fact that must be equal on all ranks, as a hash. */
typedef struct {
    const char *what; /* "the weights": completes "... differ" */
    uint64_t hash;
} eng_fact;
/* ERR_USAGE, naming the fact and a rank, if a fact of any rank differs from rank 0's: on every
 * rank alike. n <= ENG_MAX_FACTS */
enum { ENG_MAX_FACTS = 16 };
int eng_ranks_agree(eng_ranks *ranks, const eng_fact *facts, uint32_t n, err *e) WARN_UNUSED;
/* The first call of every backend that opens: all ranks have the same program, model and options.
 * opts: as eng__check_opts leaves them; device: "cpu", "cuda". Nothing if ranks is NULL. */
int eng_ranks_agree_model(eng_ranks *ranks, const model_folder *model, const eng_backend_opts *opts,
                          const char *device, err *e) WARN_UNUSED;

/* Counts since eng_ranks_init. A gather without any row counts nothing. */
typedef struct {
    uint64_t gathers;
    uint64_t messages; /* received in gathers: one from each other rank with columns */
    uint64_t bytes;    /* received in gathers */
    uint64_t ns;       /* spent in gathers, waiting for slower ranks included */
    uint64_t launches; /* sent or received */
    uint64_t launch_bytes;
} eng_ranks_counts;
/* Any thread. */
eng_ranks_counts eng_ranks_read(const eng_ranks *ranks);
/* For a carrier of gathers inside a backend (NCCL in graphs): adds to the counts. Any thread. */
void eng_ranks_count(eng_ranks *ranks, const eng_ranks_counts *more);

/* ---- launches ---- */

/* Rank 0: wraps *backend. A launch of the new backend reaches the followers first, and its close
 * ends them. It owns the old backend. Followers call eng_ranks_follow at the same time. On failure
 * *backend is unchanged. */
int eng_ranks_wrap(eng_backend **backend, eng_ranks *ranks, err *e) WARN_UNUSED;
/* Followers: runs the launches of rank 0 on a backend opened with equal options, until rank 0
 * closes its backend: 0. ERR_DEVICE: rank 0 is lost, a launch failed, or results differ from rank
 * 0's. The caller closes the backend. */
int eng_ranks_follow(eng_backend *backend, eng_ranks *ranks, err *e) WARN_UNUSED;

/* ---- processes ---- */

/* True if a launcher (mpirun) started this process as one of several. Reads the environment only.
 */
bool eng_ranks_expected(uint32_t *rank, uint32_t *n);
/* Joins the ranks started by the launcher; *out is NULL if this process is alone, and then nothing
 * is loaded. Loads fathom-mpi.so from beside the program. Once per process. ERR_NOT_FOUND: no
 * plug-in; ERR_DEVICE: the launcher and the plug-in do not meet. */
int eng_ranks_open(eng_ranks **out, err *e) WARN_UNUSED;

#endif
