/* map.c - growing, and deletion by shifting back what follows. */
#include "base/map.h"
#include "base/size.h"

#include <stdlib.h>
#include <string.h>

enum { SMALLEST = 16 };

/* Where key is, or the empty place where it would stand. */
static size_t place(const map *m, uint64_t key) {
    size_t at = map_home(m, key);
    while (m->entries[at].key != key && m->entries[at].key != MAP_NONE)
        at = (at + 1) & (m->cap - 1);
    return at;
}

int map_reserve(map *m, size_t extra) {
    size_t want, cap = m->cap ? m->cap : SMALLEST;
    if (!size_add(m->n, extra, &want) || !size_mul(want, 2, &want)) return -1;
    while (cap < want) {
        if (!size_mul(cap, 2, &cap)) return -1;
    }
    if (cap == m->cap) return 0;
    map bigger = {.entries = array_new(cap, sizeof *bigger.entries), .cap = cap};
    if (bigger.entries == NULL) return -1;
    memset(bigger.entries, 0xff, cap * sizeof *bigger.entries); /* MAP_NONE in every byte */
    for (size_t i = 0; i < m->cap; i++) {
        if (m->entries[i].key != MAP_NONE) map_put(&bigger, m->entries[i].key, m->entries[i].value);
    }
    free(m->entries);
    *m = bigger;
    return 0;
}

void map_put(map *m, uint64_t key, uint64_t value) {
    size_t at = place(m, key);
    m->n += m->entries[at].key == MAP_NONE;
    m->entries[at] = (map_entry){key, value};
}

void map_drop(map *m, uint64_t key) {
    if (m->cap == 0) return;
    size_t mask = m->cap - 1, hole = place(m, key);
    if (m->entries[hole].key == MAP_NONE) return;
    for (size_t i = (hole + 1) & mask; m->entries[i].key != MAP_NONE; i = (i + 1) & mask) {
        size_t from_home = (i - map_home(m, m->entries[i].key)) & mask;
        if (from_home < ((i - hole) & mask)) continue; /* would move before its home */
        m->entries[hole] = m->entries[i];
        hole = i;
    }
    m->entries[hole] = (map_entry){MAP_NONE, MAP_NONE};
    m->n--;
}

void map_deinit(map *m) {
    free(m->entries);
    *m = (map){0};
}
