/* ranks_here.c - a carrier between threads that run one at a time. */
#include "tests/cuda/selftest/ranks_here.h"
#include "tests/cuda/selftest/selftest.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* What a rank offers in its operation number `posted`, until all have taken it. */
typedef struct {
    const uint8_t *own;
    uint64_t posted, taken;
    bool ended;
} rank_side;

typedef struct {
    eng_ranks base; /* first */
    pthread_t thread;
    void (*body)(eng_ranks *ranks, void *arg);
    void *arg;
} rank_here;

static struct {
    pthread_mutex_t lock;
    pthread_cond_t turned;
    uint32_t n, turn; /* the rank that runs */
    rank_side sides[RANKS_HERE];
} here = {.lock = PTHREAD_MUTEX_INITIALIZER, .turned = PTHREAD_COND_INITIALIZER};
static _Thread_local uint32_t me;

static void wait_for_turn(void) {
    (void)pthread_mutex_lock(&here.lock);
    while (here.turn != me)
        (void)pthread_cond_wait(&here.turned, &here.lock);
    (void)pthread_mutex_unlock(&here.lock);
}

/* The next rank that has not ended runs; it may be this one. */
static void give_turn(void) {
    (void)pthread_mutex_lock(&here.lock);
    uint32_t next = me;
    do {
        next = (next + 1) % here.n;
    } while (here.sides[next].ended && next != me);
    here.turn = next;
    (void)pthread_cond_broadcast(&here.turned);
    (void)pthread_mutex_unlock(&here.lock);
}

static void others_run(void) {
    give_turn();
    wait_for_turn();
}

static int lost(uint32_t rank, err *e) {
    return err_set(e, ERR_DEVICE, NULL, "rank %u is lost", rank);
}

static int all_posted(err *e) {
    for (uint32_t i = 0; i < here.n; i++) {
        while (here.sides[i].posted < here.sides[me].posted) {
            if (here.sides[i].ended) return lost(i, e);
            others_run();
        }
    }
    return 0;
}

static void all_taken(void) {
    rank_side *mine = &here.sides[me];
    mine->taken = mine->posted;
    for (uint32_t i = 0; i < here.n; i++) {
        while (here.sides[i].taken < mine->taken && !here.sides[i].ended)
            others_run();
    }
}

static int gather_here(eng_ranks *ranks, void *all, const size_t *bytes, err *e) {
    uint8_t *to = all;
    size_t at = 0;
    for (uint32_t i = 0; i < ranks->rank; i++)
        at += bytes[i];
    here.sides[me].own = to + at;
    here.sides[me].posted++;
    if (all_posted(e) != 0) return -1;
    for (uint32_t i = 0; i < ranks->n; i++) {
        if (i != me && bytes[i]) memcpy(to, here.sides[i].own, bytes[i]);
        to += bytes[i];
    }
    all_taken();
    return 0;
}

static int broadcast_here(eng_ranks *ranks, void *data, size_t bytes, err *e) {
    (void)ranks;
    here.sides[me].own = data;
    here.sides[me].posted++;
    if (all_posted(e) != 0) return -1;
    if (me) memcpy(data, here.sides[0].own, bytes);
    all_taken();
    return 0;
}

static void close_here(eng_ranks *ranks, bool orderly) {
    (void)ranks;
    (void)orderly;
}

static const eng_ranks_ops ops = {broadcast_here, gather_here, close_here};

static void *run_rank(void *arg) {
    rank_here *rank = arg;
    err e = {0};
    me = rank->base.rank;
    wait_for_turn();
    if (check(eng_ranks_init(&rank->base, &e) == 0, "%s", e.msg)) {
        rank->body(&rank->base, rank->arg);
        eng_ranks_close(&rank->base);
    }
    here.sides[me].ended = true;
    give_turn();
    return NULL;
}

void ranks_here(uint32_t n, void (*body)(eng_ranks *ranks, void *arg), void *arg) {
    rank_here ranks[RANKS_HERE];
    memset(here.sides, 0, sizeof here.sides);
    here.n = n;
    here.turn = 0;
#ifdef FATHOM_CUDA_SHIM
    shim_pause_by(others_run);
#endif
    for (uint32_t i = 0; i < n; i++) {
        ranks[i] = (rank_here){.base = {.ops = &ops,
                                        .carrier = "threads",
                                        .rank = i,
                                        .n = n,
                                        .local_rank = i,
                                        .local_n = n},
                               .body = body,
                               .arg = arg};
        if (pthread_create(&ranks[i].thread, NULL, run_rank, &ranks[i]) != 0) abort();
    }
    for (uint32_t i = 0; i < n; i++)
        (void)pthread_join(ranks[i].thread, NULL);
}
