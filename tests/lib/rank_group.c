/* rank_group.c - see rank_group.h. */
#include "tests/lib/rank_group.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* ---- the carrier ---- */

typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t all_here;
    uint32_t n, here, left; /* left: carriers not yet closed */
    uint64_t turn;
    bool lost;
    void *data[RANK_GROUP_MOST];
} meeting;

typedef struct {
    eng_ranks base;
    meeting *met;
} thread_ranks;

/* Waits until every rank has called it. False if a rank is lost. */
static bool meet(meeting *met) {
    pthread_mutex_lock(&met->lock);
    uint64_t turn = met->turn;
    if (!met->lost && ++met->here == met->n) {
        met->here = 0;
        met->turn++;
        pthread_cond_broadcast(&met->all_here);
    }
    while (turn == met->turn && !met->lost)
        pthread_cond_wait(&met->all_here, &met->lock);
    bool good = turn != met->turn; /* all were here, even if one has ended since */
    pthread_mutex_unlock(&met->lock);
    return good;
}

static int lost_rank(err *e) {
    return err_set(e, ERR_DEVICE, NULL, "a rank has ended");
}

static int thread_broadcast(eng_ranks *ranks, void *data, size_t bytes, err *e) {
    thread_ranks *self = (thread_ranks *)ranks;
    self->met->data[ranks->rank] = data;
    if (!meet(self->met)) return lost_rank(e);
    if (ranks->rank) memcpy(data, self->met->data[0], bytes);
    return meet(self->met) ? 0 : lost_rank(e);
}

static int thread_gather(eng_ranks *ranks, void *all, const size_t *bytes, err *e) {
    thread_ranks *self = (thread_ranks *)ranks;
    self->met->data[ranks->rank] = all;
    if (!meet(self->met)) return lost_rank(e);
    size_t at = 0;
    for (uint32_t rank = 0; rank < ranks->n; at += bytes[rank++]) {
        if (rank == ranks->rank) continue;
        memcpy((uint8_t *)all + at, (uint8_t *)self->met->data[rank] + at, bytes[rank]);
    }
    return meet(self->met) ? 0 : lost_rank(e);
}

static void thread_close(eng_ranks *ranks, bool orderly) {
    thread_ranks *self = (thread_ranks *)ranks;
    meeting *met = self->met;
    pthread_mutex_lock(&met->lock);
    met->lost |= !orderly;
    bool last = --met->left == 0;
    pthread_cond_broadcast(&met->all_here);
    pthread_mutex_unlock(&met->lock);
    free(self);
    if (!last) return;
    pthread_cond_destroy(&met->all_here);
    pthread_mutex_destroy(&met->lock);
    free(met);
}

static const eng_ranks_ops thread_ops = {thread_broadcast, thread_gather, thread_close};

void rank_group_carriers(eng_ranks *out[], uint32_t n) {
    meeting *met = calloc(1, sizeof *met);
    cr_assert(met && n <= RANK_GROUP_MOST);
    pthread_mutex_init(&met->lock, NULL);
    pthread_cond_init(&met->all_here, NULL);
    met->n = met->left = n;
    for (uint32_t rank = 0; rank < n; rank++) {
        thread_ranks *self = calloc(1, sizeof *self);
        cr_assert_not_null(self);
        self->met = met;
        self->base = (eng_ranks){.ops = &thread_ops,
                                 .carrier = "threads",
                                 .rank = rank,
                                 .n = n,
                                 .local_rank = rank,
                                 .local_n = n};
        cr_assert_eq(eng_ranks_init(&self->base, NULL), 0);
        out[rank] = &self->base;
    }
}

/* ---- a model over several ranks ---- */

typedef struct {
    rank_group *group;
    eng_ranks *ranks;
    eng_backend_opts opts;
    pthread_t thread;
    bool started;
    uint64_t weight_bytes;
    err error;
} member;

struct rank_group {
    uint32_t n;
    const model_folder *model;
    rank_group_open_fn open;
    eng_backend *backend; /* of rank 0 */
    member members[RANK_GROUP_MOST];
};

static void *follow(void *arg) {
    member *self = arg;
    eng_backend *backend = NULL;
    if (self->group->open(&backend, self->group->model, &self->opts, &self->error) == 0) {
        self->weight_bytes = backend->info.weight_bytes;
        (void)!eng_ranks_follow(backend, self->ranks, &self->error);
    }
    eng_backend_close(backend);
    eng_ranks_close(self->ranks);
    return NULL;
}

static void join(member *self) {
    if (self->started) pthread_join(self->thread, NULL);
    self->started = false;
}

eng_backend *rank_group_start(rank_group **out, uint32_t n, const model_folder *model,
                              const eng_backend_opts *opts, uint32_t n_opts,
                              rank_group_open_fn open, err *e) {
    rank_group *group = calloc(1, sizeof *group);
    eng_ranks *ranks[RANK_GROUP_MOST] = {NULL};
    cr_assert_not_null(group);
    *out = group;
    *group = (rank_group){.n = n, .model = model, .open = open};
    if (n > 1) rank_group_carriers(ranks, n);
    for (uint32_t rank = 0; rank < n; rank++) {
        member *self = &group->members[rank];
        *self = (member){.group = group, .ranks = ranks[rank], .opts = opts[rank % n_opts]};
        self->opts.ranks = ranks[rank];
        if (rank == 0) continue;
        cr_assert_eq(pthread_create(&self->thread, NULL, follow, self), 0);
        self->started = true;
    }
    member *first = &group->members[0];
    if (open(&group->backend, model, &first->opts, e) != 0) return NULL;
    first->weight_bytes = group->backend->info.weight_bytes;
    if (n > 1 && eng_ranks_wrap(&group->backend, first->ranks, e) != 0) return NULL;
    return group->backend;
}

void rank_group_close(rank_group *group) {
    eng_backend_close(group->backend);
    eng_ranks_close(group->members[0].ranks);
    for (uint32_t rank = 1; rank < group->n; rank++)
        join(&group->members[rank]);
    free(group);
}

eng_ranks *rank_group_ranks(rank_group *group) {
    return group->members[0].ranks;
}

const err *rank_group_error(rank_group *group, uint32_t rank) {
    join(&group->members[rank]);
    return &group->members[rank].error;
}

uint64_t rank_group_weights(const rank_group *group, uint32_t rank) {
    return group->members[rank].weight_bytes;
}
