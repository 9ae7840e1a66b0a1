/* ranks.c - gathers of columns, and counters, for every carrier. */
#include "base/clock.h"
#include "base/size.h"
#include "engine/ranks_internal.h"

#include <stdlib.h>
#include <string.h>

int eng_ranks_init(eng_ranks *ranks, err *e) {
    struct eng__ranks_state *state = calloc(1, sizeof *state);
    if (state) state->bytes = calloc(ranks->n, sizeof *state->bytes);
    if (state == NULL || state->bytes == NULL) {
        free(state);
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for %u ranks", ranks->n);
    }
    ranks->state = state;
    ranks->ready = false;
    ranks->patience_s = ENG_RANKS_PATIENCE_S;
    return 0;
}

void eng_ranks_close(eng_ranks *ranks) {
    if (ranks == NULL) return;
    bool orderly = ranks->state && ranks->state->ended;
    if (ranks->state) {
        free(ranks->state->staged);
        free(ranks->state->bytes);
        free(ranks->state);
    }
    ranks->ops->close(ranks, orderly);
}

/* ---- counters ---- */

static void add(_Atomic uint64_t *to, uint64_t more) {
    atomic_fetch_add_explicit(to, more, memory_order_relaxed);
}

static uint64_t value_of(const _Atomic uint64_t *from) {
    return atomic_load_explicit(from, memory_order_relaxed);
}

void eng_ranks_count(eng_ranks *ranks, const eng_ranks_counts *more) {
    struct eng__ranks_state *state = ranks->state;
    add(&state->gathers, more->gathers);
    add(&state->messages, more->messages);
    add(&state->received, more->bytes);
    add(&state->ns, more->ns);
    add(&state->launches, more->launches);
    add(&state->launch_bytes, more->launch_bytes);
}

eng_ranks_counts eng_ranks_read(const eng_ranks *ranks) {
    const struct eng__ranks_state *state = ranks->state;
    return (eng_ranks_counts){.gathers = value_of(&state->gathers),
                              .messages = value_of(&state->messages),
                              .bytes = value_of(&state->received),
                              .ns = value_of(&state->ns),
                              .launches = value_of(&state->launches),
                              .launch_bytes = value_of(&state->launch_bytes)};
}

/* ---- gathers ---- */

int eng_ranks_reserve(eng_ranks *ranks, size_t bytes, err *e) {
    struct eng__ranks_state *state = ranks->state;
    if (bytes <= state->room) return 0;
    uint8_t *more = array_new_aligned(bytes, 1);
    if (more == NULL) {
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for gathers of %.1f MB",
                       (double)bytes / 1e6);
    }
    free(state->staged);
    state->staged = more;
    state->room = bytes;
    return 0;
}

typedef enum { PACK, UNPACK } direction;

/* Copies the columns of one rank between the parts and its staged bytes; returns their end. */
static uint8_t *copy_share(const eng_ranks *ranks, const eng_columns *parts, uint32_t n,
                           uint32_t rank, uint8_t *staged, direction way) {
    for (uint32_t i = 0; i < n; i++) {
        const eng_columns *part = &parts[i];
        eng_share own = eng_share_columns(part->columns, part->unit, rank, ranks->n);
        size_t bytes = (size_t)(own.last - own.first) * part->item_bytes;
        if (bytes == 0) continue;
        uint8_t *at = (uint8_t *)part->data + own.first * part->item_bytes;
        for (uint32_t row = 0; row < part->rows; row++) {
            if (way == PACK) memcpy(staged, at, bytes);
            else memcpy(at, staged, bytes);
            staged += bytes;
            at += part->ld * part->item_bytes;
        }
    }
    return staged;
}

static size_t share_bytes(const eng_ranks *ranks, const eng_columns *parts, uint32_t n,
                          uint32_t rank) {
    size_t bytes = 0;
    for (uint32_t i = 0; i < n; i++) {
        eng_share own = eng_share_columns(parts[i].columns, parts[i].unit, rank, ranks->n);
        bytes += (size_t)(own.last - own.first) * parts[i].rows * parts[i].item_bytes;
    }
    return bytes;
}

int eng_ranks_gather(eng_ranks *ranks, const eng_columns *parts, uint32_t n, err *e) {
    struct eng__ranks_state *state = ranks->state;
    uint64_t start = clock_ns();
    size_t all = 0, own_at = 0;
    eng_ranks_counts counts = {.gathers = 1};
    for (uint32_t rank = 0; rank < ranks->n; rank++) {
        if (rank == ranks->rank) own_at = all;
        all += state->bytes[rank] = share_bytes(ranks, parts, n, rank);
        if (rank != ranks->rank) {
            counts.bytes += state->bytes[rank];
            counts.messages += state->bytes[rank] > 0;
        }
    }
    if (all == 0) return 0;
    if (eng_ranks_reserve(ranks, all, e) != 0) return -1;
    (void)copy_share(ranks, parts, n, ranks->rank, state->staged + own_at, PACK);
    if (ranks->ops->gather(ranks, state->staged, state->bytes, e) != 0) return -1;
    uint8_t *at = state->staged;
    for (uint32_t rank = 0; rank < ranks->n; rank++) {
        if (rank == ranks->rank) at += state->bytes[rank];
        else at = copy_share(ranks, parts, n, rank, at, UNPACK);
    }
    counts.ns = clock_ns() - start;
    eng_ranks_count(ranks, &counts);
    return 0;
}

int eng_ranks_gather_rows(eng_ranks *ranks, void *rows, size_t row_bytes, const uint32_t *n,
                          err *e) {
    struct eng__ranks_state *state = ranks->state;
    uint64_t start = clock_ns();
    eng_ranks_counts counts = {.gathers = 1};
    size_t all = 0;
    for (uint32_t rank = 0; rank < ranks->n; rank++) {
        all += state->bytes[rank] = n[rank] * row_bytes;
        if (rank == ranks->rank) continue;
        counts.bytes += state->bytes[rank];
        counts.messages += n[rank] > 0;
    }
    if (all == 0) return 0;
    if (ranks->ops->gather(ranks, rows, state->bytes, e) != 0) return -1;
    counts.ns = clock_ns() - start;
    eng_ranks_count(ranks, &counts);
    return 0;
}
