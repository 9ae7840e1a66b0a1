/* ranks_internal.h - the state behind eng_ranks, and launches as bytes; private to engine/. */
#ifndef FATHOM_RANKS_INTERNAL_H
#define FATHOM_RANKS_INTERNAL_H

#include "engine/ranks.h"

#include <stdatomic.h>

struct eng__ranks_state {
    uint8_t *staged; /* parts of all ranks, in rank order */
    size_t room;
    size_t *bytes; /* [n] of each rank's part */
    bool ended;    /* rank 0 has ended the followers, so none waits for another */
    _Atomic uint64_t gathers, messages, received, ns, launches, launch_bytes;
};

/* ---- launches as bytes (ranks_wire.c) ---- */

typedef enum { ENG__WIRE_LAUNCH = 1, ENG__WIRE_END } eng__wire_kind;

/* Begins every message. */
typedef struct {
    uint32_t kind, stage, n_rows, n_edits, n_draws, n_blocks;
    uint64_t bytes; /* of the message, this head included */
    /* Results that rank 0 had waited for when it sent this, and the hash of their checks. */
    uint64_t waited, checks;
} eng__wire_head;

/* A row; the first one follows the head, whose size is a multiple of 8. */
typedef struct {
    uint32_t row, pos, token;
    uint16_t loop, min_loops, max_loops, flags;
    float threshold;
    uint32_t guard, home;
    uint32_t table; /* first entry of its block table in the message */
    uint32_t draw;  /* UINT32_MAX: no draw */
} eng__wire_row;

/* Memory for one message and, on a follower, the launch read from it. Zeroed at the start. */
typedef struct {
    uint8_t *data;
    size_t room;
    eng_row *rows;
    eng_draw *draws;
    eng_sampling *samplings;
    uint32_t rows_cap, draws_cap;
} eng__wire;

/* Room for messages of up to `bytes` bytes; keeps what data holds. */
int eng__wire_room(eng__wire *wire, size_t bytes, err *e) WARN_UNUSED;
/* Writes a launch to wire->data, its head with kind LAUNCH and without the checks. */
int eng__wire_pack(eng__wire *wire, const eng_launch *launch, err *e) WARN_UNUSED;
/* True if the head's counts give its bytes. */
bool eng__wire_head_fits(const eng__wire_head *head) WARN_UNUSED;
/* The launch in wire->data, valid until the next message. The numbers in it are checked by the
 * backend. ERR_DEVICE: the bytes are not a launch. */
int eng__wire_unpack(eng__wire *wire, eng_launch *out, err *e) WARN_UNUSED;
void eng__wire_deinit(eng__wire *wire);

#endif
