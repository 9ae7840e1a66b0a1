/* fuzz_launch.c - any bytes as a launch that rank 0 sent: a follower may refuse them. All that an
 * accepted launch points at must lie in the message, and a second message made from it must give
 * the same launch. */
#include "base/hash.h"
#include "engine/ranks_internal.h"
#include "tests/fuzz/cost.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    return 0;
}

/* A hash of every value that a backend may read. Pointers do not count, nor do tokens' biases,
 * which are never sent. */
static uint64_t hash_of(const eng_launch *launch) {
    uint64_t hash = hash_seeded(launch->stage, launch->edits, launch->n_edits * sizeof(eng_edit));
    for (uint32_t i = 0; i < launch->n_edits; i++)
        hash += launch->edits[i].guarded; /* UBSan refuses a bool of 2 */
    for (uint32_t i = 0; i < launch->n_rows; i++) {
        eng_row row = launch->rows[i];
        const eng_draw *draw = row.draw;
        hash = hash_seeded(hash, row.blocks, (row.pos / ENG_BLOCK + 1) * sizeof *row.blocks);
        if (draw) {
            hash = hash_seeded(hash, draw->sampling, sizeof *draw->sampling);
            hash = hash_seeded(hash, &draw->index, sizeof draw->index);
            hash = hash_seeded(hash, &draw->n_top, sizeof draw->n_top);
        }
        row.draw = NULL;
        row.blocks = NULL;
        hash = hash_seeded(hash, &row, sizeof row);
    }
    return hash;
}

/* ASan sees each byte beyond the message, because the message fills its memory. */
static bool take(eng__wire *wire, const uint8_t *data, size_t size, eng_launch *out) {
    err e = {0};
    wire->data = malloc(size);
    if (wire->data == NULL) abort();
    memcpy(wire->data, data, size);
    wire->room = size;
    if (eng__wire_unpack(wire, out, &e) == 0) return true;
    if (e.code == ERR_NONE || e.msg[0] == 0) abort();
    return false;
}

static void check(const uint8_t *data, size_t size) {
    eng__wire wire = {0}, again = {0};
    eng_launch launch, same;
    if (take(&wire, data, size, &launch)) {
        if (eng__wire_pack(&again, &launch, NULL) != 0) abort();
        if (eng__wire_unpack(&again, &same, NULL) != 0) abort();
        if (same.n_rows != launch.n_rows || hash_of(&same) != hash_of(&launch)) abort();
    }
    eng__wire_deinit(&wire);
    eng__wire_deinit(&again);
}

/* Tries the input as it is, and with small counts and the size that they give: mutations rarely
 * find it. */
static void one_input(const uint8_t *data, size_t size) {
    eng__wire_head head;
    if (size < sizeof head) return; /* a message is never shorter */
    check(data, size);
    memcpy(&head, data, sizeof head);
    head.kind = ENG__WIRE_LAUNCH;
    head.stage %= ENG_STAGE_CODA + 1;
    head.n_rows %= 16;
    head.n_edits %= 16;
    head.n_draws %= 8;
    head.n_blocks %= 64;
    for (head.bytes = sizeof head; !eng__wire_head_fits(&head);)
        head.bytes += 8;
    uint8_t *copy = malloc(size);
    if (copy == NULL) abort();
    memcpy(copy, data, size);
    memcpy(copy, &head, sizeof head);
    check(copy, size);
    free(copy);
}

FUZZ_TARGET(one_input, 500, 8000)
