/* ranks_launch.c - rank 0 sends its launches, followers run them.
 *
 * A message is one broadcast of FIRST bytes, and a second one if it is longer. With each travels
 * the hash of all results that rank 0 had waited for; a follower compares it with its own. */
#include "base/hash.h"
#include "engine/ranks_internal.h"

#include <stdlib.h>
#include <string.h>

enum { FIRST = 2048 };

/* The results waited for so far. */
typedef struct {
    uint64_t waited, checks;
} results;

static void add_result(results *sum, const eng_result *result) {
    sum->waited++;
    sum->checks = hash_mix(sum->checks ^ result->check) + HASH_STEP;
}

/* All ranks are ready, with the same sizes of cache and launches, and the same code path. */
static int get_ready(eng_ranks *ranks, const eng_backend_info *info, err *e) {
    const uint64_t sizes[] = {info->n_slots,    info->n_blocks,   info->n_planes,   info->n_rows,
                              info->max_launch, info->max_logits, info->max_flights};
    const eng_fact facts[] = {
        {"the sizes of the backend", hash_seeded(0, sizes, sizeof sizes)},
        {"the kernels", hash_seeded(0, info->kernels, strlen(info->kernels))},
    };
    ranks->state->ended = false;
    ranks->ready = false;
    if (eng_ranks_agree(ranks, facts, ARRAY_LEN(facts), e) != 0) return -1;
    ranks->ready = true;
    return 0;
}

/* ---- rank 0 ---- */

typedef struct {
    eng_backend base;
    eng_backend *inner;
    eng_ranks *ranks;
    eng__wire wire;
    results done;
    bool failed; /* the followers are lost, or run something else */
} leader;

static int send_message(leader *self, err *e) {
    eng__wire_head head;
    memcpy(&head, self->wire.data, sizeof head);
    head.waited = self->done.waited;
    head.checks = self->done.checks;
    memcpy(self->wire.data, &head, sizeof head);
    if (eng_ranks_broadcast(self->ranks, self->wire.data, FIRST, e) != 0) return -1;
    size_t rest = head.bytes > FIRST ? head.bytes - FIRST : 0;
    eng_ranks_count(self->ranks, &(eng_ranks_counts){.launches = head.kind == ENG__WIRE_LAUNCH,
                                                     .launch_bytes = FIRST + rest});
    return eng_ranks_broadcast(self->ranks, self->wire.data + FIRST, rest, e);
}

static int leader_launch(eng_backend *backend, const eng_launch *launch, err *e) {
    leader *self = (leader *)backend;
    self->failed |= eng__wire_pack(&self->wire, launch, e) != 0 || send_message(self, e) != 0 ||
                    self->inner->ops->launch(self->inner, launch, e) != 0;
    return self->failed ? -1 : 0;
}

static int leader_wait(eng_backend *backend, eng_result *result, err *e) {
    leader *self = (leader *)backend;
    if (self->inner->ops->wait(self->inner, result, e) != 0) {
        self->failed = true;
        return -1;
    }
    add_result(&self->done, result);
    return 0;
}

static void leader_close(eng_backend *backend) {
    leader *self = (leader *)backend;
    if (!self->failed) {
        eng__wire_head head = {.kind = ENG__WIRE_END, .bytes = sizeof head};
        memcpy(self->wire.data, &head, sizeof head);
        self->ranks->state->ended = send_message(self, NULL) == 0;
    }
    eng_backend_close(self->inner);
    eng__wire_deinit(&self->wire);
    free(self);
}

static const eng_backend_ops leader_ops = {leader_launch, leader_wait, leader_close};

int eng_ranks_wrap(eng_backend **backend, eng_ranks *ranks, err *e) {
    leader *self = calloc(1, sizeof *self);
    if (self == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for ranks");
    if (eng__wire_room(&self->wire, FIRST, e) != 0 || get_ready(ranks, &(*backend)->info, e) != 0) {
        eng__wire_deinit(&self->wire);
        free(self);
        return -1;
    }
    self->inner = *backend;
    self->base = **backend;
    self->base.ops = &leader_ops;
    self->ranks = ranks;
    *backend = &self->base;
    return 0;
}

/* ---- followers ---- */

typedef struct {
    eng_backend *backend;
    eng_ranks *ranks;
    eng__wire wire;
    results done;
    uint32_t in_flight;
} follower;

static int receive_message(follower *self, eng__wire_head *head, err *e) {
    if (eng_ranks_broadcast(self->ranks, self->wire.data, FIRST, e) != 0) return -1;
    memcpy(head, self->wire.data, sizeof *head);
    if (!eng__wire_head_fits(head))
        return err_set(e, ERR_DEVICE, NULL, "rank 0 sent bytes that are not a launch");
    size_t rest = head->bytes > FIRST ? head->bytes - FIRST : 0;
    if (eng__wire_room(&self->wire, FIRST + rest, e) != 0) return -1;
    eng_ranks_count(self->ranks, &(eng_ranks_counts){.launches = head->kind == ENG__WIRE_LAUNCH,
                                                     .launch_bytes = FIRST + rest});
    return eng_ranks_broadcast(self->ranks, self->wire.data + FIRST, rest, e);
}

static int wait_oldest(follower *self, err *e) {
    eng_result result;
    if (self->backend->ops->wait(self->backend, &result, e) != 0) return -1;
    self->in_flight--;
    add_result(&self->done, &result);
    return 0;
}

/* Waits for what rank 0 had waited for when it sent the message, and compares. */
static int compare(follower *self, const eng__wire_head *head, err *e) {
    while (self->in_flight && self->done.waited < head->waited) {
        if (wait_oldest(self, e) != 0) return -1;
    }
    /* Rank 0 may end without waiting for its last launches. */
    bool missed = head->kind == ENG__WIRE_END && self->done.waited > head->waited;
    if (missed || (self->done.waited == head->waited && self->done.checks == head->checks))
        return 0;
    return err_set(e, ERR_DEVICE, NULL,
                   "rank %u computed other results than rank 0 in launch %llu or the one before",
                   self->ranks->rank, (unsigned long long)self->done.waited);
}

static int run_launch(follower *self, err *e) {
    eng_launch launch;
    if (eng__wire_unpack(&self->wire, &launch, e) != 0) return -1;
    if (self->backend->ops->launch(self->backend, &launch, e) != 0) return -1;
    self->in_flight++;
    /* With one launch in flight its message must stay until it has ended. */
    while (self->in_flight >= self->backend->info.max_flights) {
        if (wait_oldest(self, e) != 0) return -1;
    }
    return 0;
}

static int run_all(follower *self, err *e) {
    eng__wire_head head;
    do {
        if (receive_message(self, &head, e) != 0 || compare(self, &head, e) != 0) return -1;
        if (head.kind == ENG__WIRE_LAUNCH && run_launch(self, e) != 0) return -1;
    } while (head.kind == ENG__WIRE_LAUNCH);
    self->ranks->state->ended = true;
    return 0;
}

int eng_ranks_follow(eng_backend *backend, eng_ranks *ranks, err *e) {
    follower self = {.backend = backend, .ranks = ranks};
    int rc = eng__wire_room(&self.wire, FIRST, e);
    if (rc == 0) rc = get_ready(ranks, &backend->info, e);
    if (rc == 0) rc = run_all(&self, e);
    eng__wire_deinit(&self.wire);
    return rc;
}
