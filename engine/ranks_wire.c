/* ranks_wire.c - a launch as bytes, for ranks that run the same program.
 *
 * A message is the head, rows, edits, draws and block tables, each beginning at a multiple of 8
 * bytes. Rows beside each other with one block table share it. */
#include "base/size.h"
#include "engine/ranks_internal.h"

#include <stdlib.h>
#include <string.h>

enum { NONE = UINT32_MAX, LEAST_ROWS = 64 };

typedef struct {
    eng_sampling sampling; /* without bias */
    uint64_t index;
    uint32_t n_top, unused;
} wire_draw;

typedef struct {
    uint64_t rows, edits, draws, blocks, end; /* places in the message, in bytes */
} layout;

static uint64_t aligned(uint64_t bytes) {
    return (bytes + 7) & ~(uint64_t)7;
}

static layout layout_of(const eng__wire_head *head) {
    layout at = {.rows = aligned(sizeof *head)};
    at.edits = aligned(at.rows + (uint64_t)head->n_rows * sizeof(eng__wire_row));
    at.draws = aligned(at.edits + (uint64_t)head->n_edits * sizeof(eng_edit));
    at.blocks = aligned(at.draws + (uint64_t)head->n_draws * sizeof(wire_draw));
    at.end = aligned(at.blocks + (uint64_t)head->n_blocks * sizeof(uint32_t));
    return at;
}

bool eng__wire_head_fits(const eng__wire_head *head) {
    if (head->kind == ENG__WIRE_END) return head->bytes == sizeof *head;
    return head->kind == ENG__WIRE_LAUNCH && head->stage <= ENG_STAGE_CODA &&
           head->bytes == layout_of(head).end;
}

int eng__wire_room(eng__wire *wire, size_t bytes, err *e) {
    if (bytes <= wire->room) return 0;
    size_t room = bytes + bytes / 2;
    uint8_t *more = array_new_aligned(room, 1);
    if (more == NULL) {
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for a launch of %.1f MB",
                       (double)bytes / 1e6);
    }
    memset(more, 0, room);
    if (wire->room) memcpy(more, wire->data, wire->room);
    free(wire->data);
    wire->data = more;
    wire->room = room;
    return 0;
}

void eng__wire_deinit(eng__wire *wire) {
    free(wire->data);
    free(wire->rows);
    free(wire->draws);
    free(wire->samplings);
    *wire = (eng__wire){0};
}

/* ---- writing ---- */

/* The end of the rows from `first` on that share its table; *n is the table's length. */
static uint32_t run_end(const eng_launch *launch, uint32_t first, uint32_t *n) {
    uint32_t last_pos = 0, i = first;
    for (; i < launch->n_rows && launch->rows[i].blocks == launch->rows[first].blocks; i++)
        last_pos = launch->rows[i].pos > last_pos ? launch->rows[i].pos : last_pos;
    *n = last_pos / ENG_BLOCK + 1;
    return i;
}

static eng__wire_head head_of(const eng_launch *launch) {
    eng__wire_head head = {.kind = ENG__WIRE_LAUNCH,
                           .stage = (uint32_t)launch->stage,
                           .n_rows = launch->n_rows,
                           .n_edits = launch->n_edits};
    for (uint32_t i = 0, n; i < launch->n_rows; head.n_blocks += n)
        i = run_end(launch, i, &n);
    for (uint32_t i = 0; i < launch->n_rows; i++)
        head.n_draws += launch->rows[i].draw != NULL;
    head.bytes = layout_of(&head).end;
    return head;
}

static void pack_rows(const eng_launch *launch, const layout *at, uint8_t *data) {
    uint32_t *blocks = (uint32_t *)(void *)(data + at->blocks), table = 0, n = 0, draw = 0;
    for (uint32_t i = 0, end = 0; i < launch->n_rows; i++) {
        const eng_row *row = &launch->rows[i];
        if (i == end) {
            table += n;
            end = run_end(launch, i, &n);
            memcpy(blocks + table, row->blocks, n * sizeof *blocks);
        }
        eng__wire_row to = {.row = row->row,
                            .pos = row->pos,
                            .token = row->token,
                            .loop = row->loop,
                            .min_loops = row->min_loops,
                            .max_loops = row->max_loops,
                            .flags = row->flags,
                            .threshold = row->threshold,
                            .guard = row->guard,
                            .home = row->home,
                            .table = table,
                            .draw = row->draw ? draw : NONE};
        memcpy(data + at->rows + i * sizeof to, &to, sizeof to);
        if (row->draw == NULL) continue;
        wire_draw drawn = {
            .sampling = *row->draw->sampling, .index = row->draw->index, .n_top = row->draw->n_top};
        drawn.sampling.bias = NULL;
        drawn.sampling.n_bias = 0;
        memcpy(data + at->draws + draw++ * sizeof drawn, &drawn, sizeof drawn);
    }
}

int eng__wire_pack(eng__wire *wire, const eng_launch *launch, err *e) {
    eng__wire_head head = head_of(launch);
    layout at = layout_of(&head);
    if (eng__wire_room(wire, at.end, e) != 0) return -1;
    memcpy(wire->data, &head, sizeof head);
    if (launch->n_edits)
        memcpy(wire->data + at.edits, launch->edits, launch->n_edits * sizeof *launch->edits);
    pack_rows(launch, &at, wire->data);
    return 0;
}

/* ---- reading ---- */

static int not_a_launch(err *e) {
    return err_set(e, ERR_DEVICE, NULL, "rank 0 sent bytes that are not a launch");
}

static int take_lists(eng__wire *wire, const eng__wire_head *head, err *e) {
    bool good = true;
    if (head->n_rows > wire->rows_cap) {
        uint32_t cap = head->n_rows < LEAST_ROWS ? LEAST_ROWS : head->n_rows;
        free(wire->rows);
        wire->rows = array_new(cap, sizeof *wire->rows);
        good = wire->rows != NULL;
        wire->rows_cap = good ? cap : 0;
    }
    if (good && head->n_draws > wire->draws_cap) {
        free(wire->draws);
        free(wire->samplings);
        wire->draws = array_new(head->n_draws, sizeof *wire->draws);
        wire->samplings = array_new(head->n_draws, sizeof *wire->samplings);
        good = wire->draws && wire->samplings;
        wire->draws_cap = good ? head->n_draws : 0;
    }
    return good ? 0 : err_set(e, ERR_NO_MEMORY, NULL, "out of memory for %u rows", head->n_rows);
}

/* A byte other than 0 and 1 is no bool. */
static bool edits_hold(const uint8_t *edits, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        if (edits[i * sizeof(eng_edit) + offsetof(eng_edit, guarded)] > 1) return false;
    }
    return true;
}

static bool read_row(const eng__wire *wire, const eng__wire_head *head, const layout *at,
                     uint32_t i) {
    eng__wire_row from;
    memcpy(&from, wire->data + at->rows + i * sizeof from, sizeof from);
    if ((uint64_t)from.table + from.pos / ENG_BLOCK + 1 > head->n_blocks) return false;
    if (from.draw != NONE && from.draw >= head->n_draws) return false;
    if (from.flags & ENG_ROW_SAMPLE && from.draw == NONE) return false;
    wire->rows[i] = (eng_row){
        .row = from.row,
        .pos = from.pos,
        .token = from.token,
        .loop = from.loop,
        .min_loops = from.min_loops,
        .max_loops = from.max_loops,
        .flags = from.flags,
        .threshold = from.threshold,
        .guard = from.guard,
        .home = from.home,
        .draw = from.draw == NONE ? NULL : &wire->draws[from.draw],
        .blocks = (const uint32_t *)(const void *)(wire->data + at->blocks) + from.table,
    };
    return true;
}

int eng__wire_unpack(eng__wire *wire, eng_launch *out, err *e) {
    eng__wire_head head;
    memcpy(&head, wire->data, sizeof head);
    if (head.kind != ENG__WIRE_LAUNCH || !eng__wire_head_fits(&head) || head.bytes > wire->room)
        return not_a_launch(e);
    layout at = layout_of(&head);
    if (take_lists(wire, &head, e) != 0) return -1;
    for (uint32_t i = 0; i < head.n_draws; i++) {
        wire_draw from;
        memcpy(&from, wire->data + at.draws + i * sizeof from, sizeof from);
        if (from.sampling.bias || from.sampling.n_bias) return not_a_launch(e);
        wire->samplings[i] = from.sampling;
        wire->draws[i] =
            (eng_draw){.sampling = &wire->samplings[i], .index = from.index, .n_top = from.n_top};
    }
    if (!edits_hold(wire->data + at.edits, head.n_edits)) return not_a_launch(e);
    for (uint32_t i = 0; i < head.n_rows; i++) {
        if (!read_row(wire, &head, &at, i)) return not_a_launch(e);
    }
    *out = (eng_launch){.stage = (eng_stage)head.stage,
                        .rows = wire->rows,
                        .n_rows = head.n_rows,
                        .edits = (const eng_edit *)(const void *)(wire->data + at.edits),
                        .n_edits = head.n_edits};
    return 0;
}
