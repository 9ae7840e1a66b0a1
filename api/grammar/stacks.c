/* stacks.c - the frames that readings are made of: of equal ones one, in a pool that is taken
 * back to any earlier size, and written down as a state that stands by itself. */
#include "api/grammar/constrain_internal.h"
#include "base/hash.h"
#include "base/size.h"

#include <stdlib.h>
#include <string.h>

int api__automaton_init(api__automaton *a, const api__grammar *g, err *e) {
    *a = (api__automaton){.g = g, .used = 1};
    a->pool = array_new(API__POOL, sizeof *a->pool);
    a->next = array_new(API__POOL, sizeof *a->next);
    a->moved = array_new(API__POOL, sizeof *a->moved);
    if (a->pool && a->next && a->moved) return 0;
    api__automaton_deinit(a);
    return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for a constraint");
}

size_t api__automaton_bytes(void) {
    const api__automaton *a = NULL;
    return API__POOL * (sizeof *a->pool + sizeof *a->next + sizeof *a->moved);
}

void api__automaton_deinit(api__automaton *a) {
    free(a->pool);
    free(a->next);
    free(a->moved);
    *a = (api__automaton){0};
}

static uint16_t *bucket_of(api__automaton *a, const api__frame *f) {
    uint64_t x, y;
    uint32_t z;
    _Static_assert(sizeof *f == sizeof x + sizeof y + sizeof z, "no byte may be left out");
    memcpy(&x, f, sizeof x);
    memcpy(&y, (const char *)f + sizeof x, sizeof y);
    memcpy(&z, (const char *)f + sizeof x + sizeof y, sizeof z);
    uint64_t h = ((x * HASH_STEP ^ y) * HASH_STEP ^ z) * HASH_STEP;
    return &a->bucket[h >> 32 & (API__BUCKETS - 1)];
}

uint16_t api__automaton_push(api__automaton *a, api__frame f) {
    f.depth = f.parent ? a->pool[f.parent].depth + 1 : 1;
    uint16_t *head = bucket_of(a, &f);
    for (uint16_t i = *head; i; i = a->next[i]) {
        a->fuel++;
        if (memcmp(&a->pool[i], &f, sizeof f) == 0) return i;
    }
    if (a->used == API__POOL) return 0;
    uint16_t at = (uint16_t)a->used++;
    a->pool[at] = f;
    a->next[at] = *head;
    *head = at;
    return at;
}

/* The newest of a bucket comes first in it, so taking frames back needs no search. */
void api__automaton_rewind(api__automaton *a, uint32_t used) {
    while (a->used > used) {
        a->used--;
        *bucket_of(a, &a->pool[a->used]) = a->next[a->used];
    }
}

/* ---- states by themselves ---- */

/* The chain under a top that is not in out yet, added bottom first. False: no room for it. */
static bool save_stack(api__automaton *a, uint16_t top, api__stacks *out, uint16_t *from) {
    uint16_t path[API__MAX_STACK];
    size_t n = 0;
    for (uint16_t at = top; at && a->moved[at] == 0; at = a->pool[at].parent)
        path[n++] = at;
    if (out->n_frames + n > API__MAX_FRAMES) return false;
    while (n-- > 0) {
        api__frame f = a->pool[path[n]];
        f.parent = a->moved[f.parent];
        from[out->n_frames] = path[n];
        out->frames[out->n_frames++] = f;
        a->moved[path[n]] = out->n_frames;
    }
    return true;
}

void api__automaton_save(api__automaton *a, const api__threads *t, api__stacks *out) {
    uint16_t from[API__MAX_FRAMES];
    out->n = 0;
    out->n_frames = 0;
    for (uint8_t i = 0; i < t->n; i++) {
        if (save_stack(a, t->top[i], out, from)) out->top[out->n++] = a->moved[t->top[i]];
    }
    for (uint16_t i = 0; i < out->n_frames; i++)
        a->moved[from[i]] = 0;
}

void api__automaton_load(api__automaton *a, const api__stacks *s, api__threads *t) {
    api__automaton_rewind(a, 1);
    for (uint16_t i = 0; i < s->n_frames; i++)
        (void)api__automaton_push(
            a, s->frames[i]); /* all differ, so each gets the name it is called by */
    memcpy(t->top, s->top, s->n * sizeof *t->top);
    t->n = s->n;
}

void api__automaton_compact(api__automaton *a, api__threads *t, api__stacks *scratch) {
    api__automaton_save(a, t, scratch);
    api__automaton_load(a, scratch, t);
}
