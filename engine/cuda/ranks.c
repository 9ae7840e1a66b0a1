/* ranks.c - one model over several devices: each rank holds the rows of the feed-forward layers'
 * and the head's matrices that give its output columns, and computes these. Everything else runs on
 * every rank. With sums in rank order, a feed-forward's second product is divided by its inputs
 * instead: a rank multiplies its own hidden values, and what moves is its part of every output.
 *
 * Two carriers. NCCL gathers between devices, inside the captured graphs, parcels as wide as the
 * widest rank's. Staged gathers go through the host's memory and the carrier of eng_ranks, kernels
 * started one by one: for ranks that share a device, and where NCCL is missing. Both bring every
 * value as it was computed, so by columns a row has the bits it has on one device; sums of parts
 * are our own kernel's, in rank order, so they have the same bits on every rank and by either
 * carrier. */
#include "base/clock.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "engine/cuda/cuda_internal.h"
#include "engine/cuda/nccl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    PARCEL_ALIGN = 256,
    /* Bytes that a rank must not have to receive, for an exchange more to pay: 8 us at 360 GB/s. */
    DEAL_BYTES = 3 << 20,
};

typedef enum { WISH_NONE, WISH_STAGED, WISH_NCCL, WISH_SELF, WISH_BAD } carrier_wish;

typedef enum {
    SPLIT_COLUMNS,
    SPLIT_SUMS,
    SPLIT_DEALT, /* for tests: sums are dealt out at any size */
    SPLIT_BAD,
} split_kind;

/* What a rank tells the others about itself. */
typedef struct {
    uint64_t device; /* equal for ranks on one device of one machine */
    uint32_t wish, split, has_nccl;
} rank_place;

struct cu_ranks {
    eng_ranks *peers; /* NULL: a single rank tries NCCL on itself */
    uint32_t rank, n;
    uint32_t sharers; /* ranks on this device, this one included */
    bool staged;
    split_kind split;
    cu_nccl nccl;
    uint8_t *host;              /* pinned, staged: the parcels of all ranks without gaps */
    size_t bytes[CU_MAX_RANKS]; /* of the parcels on their way */
    eng_ranks_counts tally, of_graph[CU_STAGES + 1][CU_BUCKETS];
    err fault;
    bool failed;
};

/* ---- columns ---- */

eng_share eng__cuda_share(const cu_backend *cuda, uint32_t columns, uint32_t unit) {
    const cu_ranks *ranks = cuda->ranks;
    return ranks ? eng_share_columns(columns, unit, ranks->rank, ranks->n)
                 : (eng_share){0, columns};
}

bool eng__cuda_sums(const cu_backend *cuda) {
    return cuda->ranks && cuda->ranks->split != SPLIT_COLUMNS;
}

/* The hidden values of a rank: with sums they are inputs of its product, so they come in whole
 * steps. */
static eng_share hidden_of(const cu_ranks *ranks, uint32_t width, uint32_t rank) {
    uint32_t unit =
        ranks->split == SPLIT_COLUMNS ? (uint32_t)ENG_RANKS_HIDDEN : (uint32_t)CU_K_STEP;
    return eng_share_columns(width, unit, rank, ranks->n);
}

eng_share eng__cuda_share_hidden(const cu_backend *cuda, uint32_t width) {
    const cu_ranks *ranks = cuda->ranks;
    return ranks ? hidden_of(ranks, width, ranks->rank) : (eng_share){0, width};
}

cu_columns eng__cuda_columns_hidden(const cu_backend *cuda, uint32_t width, uint32_t lines) {
    bool stay = eng__cuda_sums(cuda);
    if (stay) {
        eng_share own = eng__cuda_share_hidden(cuda, width);
        width = own.last - own.first;
    }
    return (cu_columns){.to = cuda->work.hidden,
                        .stay = stay,
                        .lines = lines,
                        .ld = width,
                        .columns = width,
                        .unit = ENG_RANKS_HIDDEN,
                        .item_bytes = (uint32_t)cu_act_bytes(cuda)};
}

cu_columns eng__cuda_columns_floats(float *to, uint32_t columns, uint32_t lines) {
    return (cu_columns){.to = to,
                        .lines = lines,
                        .ld = columns,
                        .columns = columns,
                        .unit = ENG_RANKS_OUT,
                        .item_bytes = sizeof *to};
}

static size_t parcel_of(size_t bytes) {
    return (bytes + PARCEL_ALIGN - 1) / PARCEL_ALIGN * PARCEL_ALIGN;
}

/* The first column of a rank; behind the last rank, the number of columns. */
static uint32_t first_column(const cu_ranks *ranks, const cu_columns *cols, uint32_t rank) {
    if (rank == ranks->n) return cols->columns;
    return eng_share_columns(cols->columns, cols->unit, rank, ranks->n).first;
}

/* Bytes of the widest rank's parcel: the step from one to the next. */
static size_t parcel_bytes(const cu_ranks *ranks, const cu_columns *cols) {
    uint32_t units = (cols->columns + cols->unit - 1) / cols->unit;
    uint32_t most = (units + ranks->n - 1) / ranks->n * cols->unit;
    if (most > cols->columns) most = cols->columns;
    return parcel_of((size_t)cols->lines * most * cols->item_bytes);
}

/* ---- the size of parcels of sums ---- */

static size_t sum_bytes(const cu_backend *cuda, uint32_t rows) {
    return (size_t)rows * cuda->plan.dim * sizeof(float);
}

/* Every rank may send its part of all outputs to all others, and each sums every output: one
 * exchange. Or it deals them out, so that each rank sums its own columns, and a gather brings the
 * sums: one exchange more, but a rank receives 2 (n - 1) / n of the outputs instead of n - 1. A sum
 * has the same bits both ways. */
static bool deals(const cu_backend *cuda, uint32_t rows) {
    const cu_ranks *ranks = cuda->ranks;
    if (ranks->staged) return false; /* its carrier only gathers */
    if (ranks->split == SPLIT_DEALT) return true;
    if (ranks->n < 3) return false; /* as many bytes either way */
    return sum_bytes(cuda, rows) / ranks->n * (ranks->n - 1) * (ranks->n - 2) > DEAL_BYTES;
}

/* Dealt: parcels to send, where the sums are gathered then, and behind them those that come. */
static uint64_t sums_bytes(const cu_backend *cuda, uint32_t rows) {
    const cu_ranks *ranks = cuda->ranks;
    cu_columns sum = eng__cuda_columns_floats(NULL, cuda->plan.dim, rows);
    return ranks->n * (uint64_t)(deals(cuda, rows) ? 2 * parcel_bytes(ranks, &sum)
                                                   : parcel_of(sum_bytes(cuda, rows)));
}

uint64_t eng__cuda_parcels_bytes(const cu_backend *cuda) {
    const cu_ranks *ranks = cuda->ranks;
    const model_plan *plan = &cuda->plan;
    if (ranks == NULL) return 0;
    uint32_t rows = cuda->opts.max_launch;
    const cu_columns all[] = {
        eng__cuda_columns_hidden(cuda, cuda->dense_ld, rows),
        eng__cuda_columns_hidden(cuda, cuda->expert_ld, rows * eng__cuda_expert_lines(cuda)),
        eng__cuda_columns_floats(NULL, plan->dim, rows),
        eng__cuda_columns_floats(NULL, plan->vocab_size, cuda->opts.max_logits),
    };
    uint64_t most = 0;
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        uint64_t bytes = (uint64_t)ranks->n * parcel_bytes(ranks, &all[i]);
        if (bytes > most && !all[i].stay) most = bytes;
    }
    for (uint32_t i = 0; i < cuda->n_buckets && eng__cuda_sums(cuda); i++) {
        uint64_t bytes = sums_bytes(cuda, cuda->bucket[i]);
        if (bytes > most) most = bytes;
    }
    return most;
}

void *eng__cuda_own(const cu_backend *cuda, const cu_columns *cols, uint32_t *ld) {
    const cu_ranks *ranks = cuda->ranks;
    *ld = cols->ld;
    if (ranks == NULL || cols->stay) return cols->to;
    eng_share own = eng__cuda_share(cuda, cols->columns, cols->unit);
    *ld = own.last - own.first;
    return (uint8_t *)cuda->work.parcels + ranks->rank * parcel_bytes(ranks, cols);
}

/* ---- gathers ---- */

/* A failed gather ends the backend; cudaErrorUnknown. */
static cudaError_t failed(cu_ranks *ranks) {
    ranks->failed = true;
    return cudaErrorUnknown;
}

bool eng__cuda_ranks_fault(cu_backend *cuda, err *e) {
    if (cuda->ranks == NULL || !cuda->ranks->failed) return false;
    const err *fault = &cuda->ranks->fault;
    cuda->lost = true;
    (void)err_set(e, fault->code, NULL, "%s: %s", cuda->device_name, fault->msg);
    return true;
}

static cudaError_t gather_nccl(cu_backend *cuda, const char *name, size_t parcel) {
    cu_ranks *ranks = cuda->ranks;
    eng__cuda_unstamped(cuda, name);
    const char *why =
        eng__nccl_gather(&ranks->nccl, cuda->work.parcels, parcel, ranks->rank, cuda->stream);
    ranks->tally.bytes += (ranks->n - 1) * parcel;
    ranks->tally.messages += ranks->n - 1;
    if (why == NULL) return cudaSuccess;
    (void)err_set(&ranks->fault, ERR_DEVICE, NULL, "NCCL refused %s: %s", name, why);
    return failed(ranks);
}

/* The own parcel to the host, those of the others back. Waits for the device and for the others. */
static cudaError_t gather_staged(cu_backend *cuda, size_t parcel) {
    cu_ranks *ranks = cuda->ranks;
    uint8_t *parcels = cuda->work.parcels;
    size_t own_at = 0;
    for (uint32_t rank = 0; rank < ranks->n; rank++) {
        size_t bytes = ranks->bytes[rank];
        if (rank < ranks->rank) own_at += bytes;
        if (rank != ranks->rank) ranks->tally.messages += bytes > 0, ranks->tally.bytes += bytes;
    }
    cudaError_t rc =
        cudaMemcpyAsync(ranks->host + own_at, parcels + ranks->rank * parcel,
                        ranks->bytes[ranks->rank], cudaMemcpyDeviceToHost, cuda->stream);
    STEP(rc, cudaStreamSynchronize(cuda->stream));
    if (rc != cudaSuccess) return rc;
    uint64_t start = clock_ns();
    if (ranks->peers->ops->gather(ranks->peers, ranks->host, ranks->bytes, &ranks->fault) != 0)
        return failed(ranks);
    ranks->tally.ns += clock_ns() - start;
    const uint8_t *from = ranks->host;
    for (uint32_t rank = 0; rank < ranks->n; rank++) {
        if (rank != ranks->rank)
            STEP(rc, cudaMemcpyAsync(parcels + rank * parcel, from, ranks->bytes[rank],
                                     cudaMemcpyHostToDevice, cuda->stream));
        from += ranks->bytes[rank];
    }
    return rc;
}

/* Every rank gets the parcels of the others, ranks->bytes in each. */
static cudaError_t gather_parcels(cu_backend *cuda, const char *name, size_t parcel) {
    cuda->ranks->tally.gathers++;
    return cuda->ranks->staged ? gather_staged(cuda, parcel) : gather_nccl(cuda, name, parcel);
}

cudaError_t eng__cuda_gather(cu_backend *cuda, const char *name, const cu_columns *cols) {
    cu_ranks *ranks = cuda->ranks;
    if (ranks == NULL || cols->stay || cols->lines == 0) return cudaSuccess;
    size_t parcel = parcel_bytes(ranks, cols);
    for (uint32_t rank = 0; rank < ranks->n; rank++) {
        eng_share share = eng_share_columns(cols->columns, cols->unit, rank, ranks->n);
        ranks->bytes[rank] = (size_t)(share.last - share.first) * cols->lines * cols->item_bytes;
    }
    cudaError_t rc = gather_parcels(cuda, name, parcel);
    cu_spread_args args = {.stamp = eng__cuda_stamp(cuda, "spread"),
                           .parcels = cuda->work.parcels,
                           .parcel_bytes = parcel,
                           .to = cols->to,
                           .lines = cols->lines,
                           .ld = cols->ld,
                           .item_bytes = cols->item_bytes,
                           .ranks = ranks->n};
    for (uint32_t rank = 0; rank <= ranks->n; rank++)
        args.first[rank] = first_column(ranks, cols, rank);
    STEP(rc, cu_spread(cuda->stream, &args));
    return rc;
}

/* ---- sums in rank order ---- */

static bool has_parts(const cu_backend *cuda, const cu_ranks_sum *sum, uint32_t rank) {
    eng_share own = hidden_of(cuda->ranks, sum->hidden, rank);
    return own.last > own.first;
}

float *eng__cuda_parts_place(const cu_backend *cuda, uint32_t rows) {
    const cu_ranks *ranks = cuda->ranks;
    if (deals(cuda, rows)) return cuda->work.delta;
    return (float *)cuda->work.parcels +
           ranks->rank * parcel_of(sum_bytes(cuda, rows)) / sizeof(float);
}

/* The sum of the parcels from `parcels` on. */
static cudaError_t sum_parcels(cu_backend *cuda, const cu_ranks_sum *sum, const void *parcels,
                               size_t parcel, float *to, uint32_t width) {
    cu_sum_args args = {.desc = cuda->desc,
                        .stamp = eng__cuda_stamp(cuda, "sum_parcels"),
                        .parcels = parcels,
                        .parcel_bytes = parcel,
                        .to = to,
                        .width = width};
    for (uint32_t rank = 0; rank < cuda->ranks->n; rank++)
        if (has_parts(cuda, sum, rank)) args.parcel[args.n++] = rank;
    return cu_sum_parcels(cuda->stream, &args, sum->rows);
}

/* All parts to every rank. */
static cudaError_t sum_gathered(cu_backend *cuda, const cu_ranks_sum *sum) {
    cu_ranks *ranks = cuda->ranks;
    uint32_t dim = cuda->plan.dim;
    size_t bytes = sum_bytes(cuda, sum->rows), parcel = parcel_of(bytes);
    float *own = eng__cuda_parts_place(cuda, sum->rows);
    cudaError_t rc = cudaSuccess;
    if (sum->parts != own && has_parts(cuda, sum, ranks->rank)) {
        cu_join_args args = {.desc = cuda->desc,
                             .stamp = eng__cuda_stamp(cuda, "join_parts"),
                             .parts = sum->parts,
                             .to = own,
                             .n_parts = sum->n_parts,
                             .width = dim};
        rc = cu_join_parts(cuda->stream, &args, sum->rows);
    }
    for (uint32_t rank = 0; rank < ranks->n; rank++)
        ranks->bytes[rank] = has_parts(cuda, sum, rank) ? bytes : 0;
    STEP(rc, gather_parcels(cuda, "gather_parts", parcel));
    STEP(rc, sum_parcels(cuda, sum, cuda->work.parcels, parcel, sum->to, dim));
    return rc;
}

/* The columns of each rank to it; `came`: parcels from the others. */
static cudaError_t deal_parcels(cu_backend *cuda, const cu_ranks_sum *sum, const cu_columns *cols,
                                uint8_t *came, size_t parcel) {
    cu_ranks *ranks = cuda->ranks;
    size_t sent_bytes[CU_MAX_RANKS];
    bool sends = has_parts(cuda, sum, ranks->rank);
    eng_share own = eng__cuda_share(cuda, cols->columns, cols->unit);
    for (uint32_t rank = 0; rank < ranks->n; rank++) {
        eng_share share = eng_share_columns(cols->columns, cols->unit, rank, ranks->n);
        size_t line = cols->lines * sizeof(float);
        sent_bytes[rank] = sends ? (share.last - share.first) * line : 0;
        ranks->bytes[rank] = has_parts(cuda, sum, rank) ? (own.last - own.first) * line : 0;
        if (rank == ranks->rank) continue;
        ranks->tally.bytes += ranks->bytes[rank];
        ranks->tally.messages += ranks->bytes[rank] > 0;
    }
    ranks->tally.gathers++;
    eng__cuda_unstamped(cuda, "deal_parts");
    const char *why = eng__nccl_exchange(&ranks->nccl, cuda->work.parcels, sent_bytes, came,
                                         ranks->bytes, parcel, ranks->rank, ranks->n, cuda->stream);
    if (why == NULL) return cudaSuccess;
    (void)err_set(&ranks->fault, ERR_DEVICE, NULL, "NCCL refused deal_parts: %s", why);
    return failed(ranks);
}

/* Each rank sums its columns, and a gather brings the sums. */
static cudaError_t sum_dealt(cu_backend *cuda, const cu_ranks_sum *sum) {
    cu_ranks *ranks = cuda->ranks;
    cu_columns cols = eng__cuda_columns_floats(sum->to, cuda->plan.dim, sum->rows);
    size_t parcel = parcel_bytes(ranks, &cols);
    uint8_t *came = (uint8_t *)cuda->work.parcels + ranks->n * parcel;
    cudaError_t rc = cudaSuccess;
    if (has_parts(cuda, sum, ranks->rank)) {
        cu_deal_args args = {.desc = cuda->desc,
                             .stamp = eng__cuda_stamp(cuda, "deal_parts"),
                             .parts = sum->parts,
                             .to = cuda->work.parcels,
                             .own = (float *)(void *)(came + ranks->rank * parcel),
                             .parcel_bytes = parcel,
                             .n_parts = sum->n_parts,
                             .dim = cols.columns,
                             .rank = ranks->rank,
                             .ranks = ranks->n};
        for (uint32_t rank = 0; rank <= ranks->n; rank++)
            args.first[rank] = first_column(ranks, &cols, rank);
        rc = cu_deal_parts(cuda->stream, &args, sum->rows);
    }
    STEP(rc, deal_parcels(cuda, sum, &cols, came, parcel));
    uint32_t ld;
    float *own = eng__cuda_own(cuda, &cols, &ld);
    STEP(rc, sum_parcels(cuda, sum, came, parcel, own, ld));
    STEP(rc, eng__cuda_gather(cuda, "gather_sums", &cols));
    return rc;
}

cudaError_t eng__cuda_sum(cu_backend *cuda, const cu_ranks_sum *sum) {
    return deals(cuda, sum->rows) ? sum_dealt(cuda, sum) : sum_gathered(cuda, sum);
}

/* ---- counters ---- */

void eng__cuda_ranks_begin(cu_backend *cuda) {
    if (cuda->ranks) cuda->ranks->tally = (eng_ranks_counts){0};
}

void eng__cuda_ranks_captured(cu_backend *cuda, int stage, uint32_t rows) {
    cu_ranks *ranks = cuda->ranks;
    if (ranks) ranks->of_graph[stage][eng__cuda_bucket(cuda, rows)] = ranks->tally;
}

void eng__cuda_ranks_launched(cu_backend *cuda, int stage, uint32_t rows, bool graph) {
    cu_ranks *ranks = cuda->ranks;
    if (ranks == NULL || ranks->peers == NULL) return;
    eng_ranks_count(ranks->peers,
                    graph ? &ranks->of_graph[stage][eng__cuda_bucket(cuda, rows)] : &ranks->tally);
}

/* ---- opening and closing ---- */

/* Tells this boot of this machine from others, containers aside. */
static uint64_t machine_hash(void) {
    buf text = {0};
    uint64_t hash = 0;
    if (file_read(&text, "/proc/sys/kernel/random/boot_id", 64, NULL) == 0)
        hash = hash_fnv(HASH_FNV_START, text.data, text.len);
    buf_deinit(&text);
    return hash;
}

static carrier_wish wish_of(const char *name) {
    static const char *const names[] = {
        [WISH_STAGED] = "staged", [WISH_NCCL] = "nccl", [WISH_SELF] = "nccl-self"};
    if (name == NULL) return WISH_NONE;
    for (size_t i = WISH_STAGED; i < ARRAY_LEN(names); i++) {
        if (strcmp(name, names[i]) == 0) return (carrier_wish)i;
    }
    return WISH_BAD;
}

static split_kind split_of(const char *name) {
    static const char *const names[] = {
        [SPLIT_COLUMNS] = "columns", [SPLIT_SUMS] = "sums", [SPLIT_DEALT] = "sums-dealt"};
    for (size_t i = 0; name && i < ARRAY_LEN(names); i++) {
        if (strcmp(name, names[i]) == 0) return (split_kind)i;
    }
    return name ? SPLIT_BAD : SPLIT_COLUMNS;
}

static int refuse_wish(err *e) {
    return err_set(e, ERR_USAGE, NULL,
                   "FATHOM_CUDA_RANKS must be staged, nccl, or for one rank nccl-self");
}

static int refuse_split(err *e) {
    return err_set(e, ERR_USAGE, NULL, "FATHOM_CUDA_RANKS_SPLIT must be columns or sums");
}

/* Chooses the carrier and the split: the same on every rank. */
static int choose_carrier(cu_backend *cuda, err *e) {
    cu_ranks *ranks = cuda->ranks;
    char bus[64] = "";
    rank_place places[CU_MAX_RANKS] = {0}, *own = &places[ranks->rank];
    if (eng__cuda_check(cuda, cudaDeviceGetPCIBusId(bus, sizeof bus, cuda->device),
                        "asking for the device's place", e) != 0)
        return -1;
    *own = (rank_place){.device = hash_fnv(machine_hash(), bus, strlen(bus)),
                        .wish = wish_of(getenv("FATHOM_CUDA_RANKS")),
                        .split = split_of(getenv("FATHOM_CUDA_RANKS_SPLIT")),
                        .has_nccl = eng__nccl_load(&ranks->nccl)};
    eng_columns all = {places, ranks->n, sizeof *places, 1, ranks->n, 1};
    if (eng_ranks_gather(ranks->peers, &all, 1, e) != 0) return -1;
    bool alone = true, nccl = true;
    for (uint32_t i = 0; i < ranks->n; i++) {
        nccl = nccl && places[i].has_nccl;
        ranks->sharers += places[i].device == own->device;
        for (uint32_t j = 0; j < i; j++)
            alone = alone && places[i].device != places[j].device;
    }
    carrier_wish wish = (carrier_wish)places[0].wish;
    ranks->split = (split_kind)places[0].split;
    if (wish == WISH_BAD || wish == WISH_SELF) return refuse_wish(e);
    if (ranks->split == SPLIT_BAD) return refuse_split(e);
    if (wish == WISH_NCCL && !nccl) {
        return err_set(e, ERR_NOT_FOUND, NULL,
                       "FATHOM_CUDA_RANKS=nccl, but libnccl.so.2 is not there for every rank");
    }
    ranks->staged = wish == WISH_STAGED || (wish == WISH_NONE && !(alone && nccl));
    const char *why = !ranks->staged        ? "NCCL"
                      : wish == WISH_STAGED ? "the host's memory"
                      : alone               ? "the host's memory, as libnccl.so.2 is missing"
                                            : "the host's memory, as some share a device";
    if (ranks->rank == 0)
        log_line(LOG_INFO, "%s: %u ranks, %s, gathers through %s", cuda->device_name, ranks->n,
                 ranks->split == SPLIT_COLUMNS ? "columns" : "sums in rank order", why);
    return 0;
}

/* Attention is divided by the number of multiprocessors, so the bits of a row follow from the
 * device too. */
static int agree(cu_backend *cuda, err *e) {
    const uint64_t sizes[] = {(uint64_t)cuda->sms, (uint64_t)cuda->shared_bytes};
    const eng_fact facts[] = {
        {"the CUDA devices", hash_fnv(HASH_FNV_START, sizes, sizeof sizes)},
        {"the kernels", hash_fnv(HASH_FNV_START, cuda->kernels_name, strlen(cuda->kernels_name))},
    };
    return eng_ranks_agree(cuda->ranks->peers, facts, ARRAY_LEN(facts), e);
}

static int join_nccl(cu_ranks *ranks, err *e) {
    cu_nccl_id id = {{0}};
    if (ranks->rank == 0 && eng__nccl_make_id(&ranks->nccl, &id, e) != 0) return -1;
    if (ranks->peers && eng_ranks_broadcast(ranks->peers, &id, sizeof id, e) != 0) return -1;
    return eng__nccl_open(&ranks->nccl, &id, ranks->rank, ranks->n, e);
}

static int open_staged(cu_backend *cuda, err *e) {
    void *mem = NULL;
    cuda->graphs = false;
    if (eng__cuda_check(cuda, cudaMallocHost(&mem, eng__cuda_parcels_bytes(cuda)), "pinning memory",
                        e) != 0)
        return -1;
    cuda->ranks->host = mem;
    return 0;
}

int eng__cuda_ranks_open(cu_backend *cuda, err *e) {
    eng_ranks *peers = cuda->opts.ranks && cuda->opts.ranks->n > 1 ? cuda->opts.ranks : NULL;
    carrier_wish wish = wish_of(getenv("FATHOM_CUDA_RANKS"));
    split_kind split = split_of(getenv("FATHOM_CUDA_RANKS_SPLIT"));
    if (peers == NULL && wish == WISH_BAD) return refuse_wish(e);
    if (peers == NULL && split == SPLIT_BAD) return refuse_split(e);
    if (peers == NULL && wish != WISH_SELF) return 0;
    if (peers && peers->n > CU_MAX_RANKS) {
        return err_set(e, ERR_UNSUPPORTED, NULL, "%u ranks; CUDA takes at most %d", peers->n,
                       CU_MAX_RANKS);
    }
    cu_ranks *ranks = cuda->ranks = calloc(1, sizeof *ranks);
    if (ranks == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the ranks");
    *ranks = (cu_ranks){.peers = peers, .n = 1, .sharers = peers ? 0 : 1, .split = split};
    if (peers) {
        ranks->rank = peers->rank;
        ranks->n = peers->n;
        if (eng_ranks_agree_model(peers, cuda->model, &cuda->opts, "cuda", e) != 0 ||
            agree(cuda, e) != 0 || choose_carrier(cuda, e) != 0)
            return -1;
    } else if (!eng__nccl_load(&ranks->nccl)) {
        return err_set(e, ERR_NOT_FOUND, NULL,
                       "FATHOM_CUDA_RANKS=nccl-self, but libnccl.so.2 is not there");
    }
    return ranks->staged ? open_staged(cuda, e) : join_nccl(ranks, e);
}

int eng__cuda_ranks_room(const cu_backend *cuda, uint64_t *room, err *e) {
    const cu_ranks *ranks = cuda->ranks;
    if (ranks == NULL || ranks->peers == NULL) return 0;
    *room /= ranks->sharers;
    return eng_ranks_least(ranks->peers, room, e);
}

void eng__cuda_ranks_close(cu_backend *cuda) {
    cu_ranks *ranks = cuda->ranks;
    if (ranks == NULL) return;
    eng__nccl_close(&ranks->nccl, !cuda->lost);
    if (ranks->host) (void)cudaFreeHost(ranks->host);
    free(ranks);
    cuda->ranks = NULL;
}
