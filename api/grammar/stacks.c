/* stacks.c - the pool of frames. Equal frames are stored once; the pool can be cut back to any
 * earlier size; a state can be saved on its own. */
#include "api/grammar/constrain_internal.h"
#include "base/hash.h"
#include "base/size.h"

#include <stdlib.h>
#include <string.h>

int api__automaton_init(api__automaton *machine, const api__grammar *grammar, err *e) {
    *machine = (api__automaton){.grammar = grammar, .used = 1};
    machine->pool = array_new(API__POOL, sizeof *machine->pool);
    machine->next = array_new(API__POOL, sizeof *machine->next);
    machine->moved = array_new(API__POOL, sizeof *machine->moved);
    if (machine->pool && machine->next && machine->moved) return 0;
    api__automaton_deinit(machine);
    return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for a constraint");
}

size_t api__automaton_bytes(void) {
    const api__automaton *machine = NULL;
    return API__POOL * (sizeof *machine->pool + sizeof *machine->next + sizeof *machine->moved);
}

void api__automaton_deinit(api__automaton *machine) {
    free(machine->pool);
    free(machine->next);
    free(machine->moved);
    *machine = (api__automaton){0};
}

static uint16_t *bucket_of(api__automaton *machine, const api__frame *frame) {
    uint64_t head, middle;
    uint32_t tail;
    _Static_assert(sizeof *frame == sizeof head + sizeof middle + sizeof tail,
                   "no byte may be left out");
    memcpy(&head, frame, sizeof head);
    memcpy(&middle, (const char *)frame + sizeof head, sizeof middle);
    memcpy(&tail, (const char *)frame + sizeof head + sizeof middle, sizeof tail);
    uint64_t hash = ((head * HASH_STEP ^ middle) * HASH_STEP ^ tail) * HASH_STEP;
    return &machine->bucket[hash >> (64 - API__BUCKET_BITS)]; /* all bits reach the highest */
}

uint16_t api__automaton_push(api__automaton *machine, api__frame frame) {
    frame.depth = frame.parent ? machine->pool[frame.parent].depth + 1 : 1;
    uint16_t *head = bucket_of(machine, &frame);
    for (uint16_t i = *head; i; i = machine->next[i]) {
        machine->fuel++;
        if (memcmp(&machine->pool[i], &frame, sizeof frame) == 0) return i;
    }
    if (machine->used == API__POOL) return 0;
    uint16_t at = (uint16_t)machine->used++;
    machine->pool[at] = frame;
    machine->next[at] = *head;
    *head = at;
    return at;
}

/* The newest frame of a bucket comes first, so removing frames needs no search. */
void api__automaton_rewind(api__automaton *machine, uint32_t used) {
    while (machine->used > used) {
        machine->used--;
        *bucket_of(machine, &machine->pool[machine->used]) = machine->next[machine->used];
    }
}

/* ---- states by themselves ---- */

/* Saves the frames of one stack, without those already in out, bottom first. False: no room. */
static bool save_stack(api__automaton *machine, uint16_t top, api__stacks *out, uint16_t *from) {
    uint16_t path[API__MAX_STACK];
    size_t n = 0;
    for (uint16_t at = top; at && machine->moved[at] == 0; at = machine->pool[at].parent)
        path[n++] = at;
    if (out->n_frames + n > API__MAX_FRAMES) return false;
    while (n-- > 0) {
        api__frame frame = machine->pool[path[n]];
        frame.parent = machine->moved[frame.parent];
        from[out->n_frames] = path[n];
        out->frames[out->n_frames++] = frame;
        machine->moved[path[n]] = out->n_frames;
    }
    return true;
}

void api__automaton_save(api__automaton *machine, const api__readings *readings, api__stacks *out) {
    uint16_t from[API__MAX_FRAMES];
    out->n_tops = 0;
    out->n_frames = 0;
    for (uint8_t i = 0; i < readings->n_tops; i++) {
        if (save_stack(machine, readings->top[i], out, from))
            out->top[out->n_tops++] = machine->moved[readings->top[i]];
    }
    for (uint16_t i = 0; i < out->n_frames; i++)
        machine->moved[from[i]] = 0;
}

void api__automaton_load(api__automaton *machine, const api__stacks *stacks,
                         api__readings *readings) {
    api__automaton_rewind(machine, 1);
    for (uint16_t i = 0; i < stacks->n_frames; i++)
        (void)api__automaton_push(machine,
                                  stacks->frames[i]); /* frames differ, so each gets its index */
    memcpy(readings->top, stacks->top, stacks->n_tops * sizeof *readings->top);
    readings->n_tops = stacks->n_tops;
}

void api__automaton_compact(api__automaton *machine, api__readings *readings,
                            api__stacks *scratch) {
    api__automaton_save(machine, readings, scratch);
    api__automaton_load(machine, scratch, readings);
}
