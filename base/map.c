/* map.c - growth, and deletion by shifting later entries back. */
#include "base/map.h"
#include "base/size.h"

#include <stdlib.h>
#include <string.h>

enum { SMALLEST = 16 };

/* The index of key, or of the empty entry a new key would take. */
static size_t place(const map *self, uint64_t key) {
    size_t at = map_home(self, key);
    while (self->entries[at].key != key && self->entries[at].key != MAP_NONE)
        at = (at + 1) & (self->cap - 1);
    return at;
}

int map_reserve(map *self, size_t extra) {
    size_t want, cap = self->cap ? self->cap : SMALLEST;
    if (!size_add(self->n, extra, &want) || !size_mul(want, 2, &want)) return -1;
    while (cap < want) {
        if (!size_mul(cap, 2, &cap)) return -1;
    }
    if (cap == self->cap) return 0;
    map bigger = {.entries = array_new(cap, sizeof *bigger.entries), .cap = cap};
    if (bigger.entries == NULL) return -1;
    memset(bigger.entries, 0xff, cap * sizeof *bigger.entries); /* MAP_NONE in every byte */
    for (size_t i = 0; i < self->cap; i++) {
        if (self->entries[i].key != MAP_NONE)
            map_put(&bigger, self->entries[i].key, self->entries[i].value);
    }
    free(self->entries);
    *self = bigger;
    return 0;
}

void map_put(map *self, uint64_t key, uint64_t value) {
    size_t at = place(self, key);
    self->n += self->entries[at].key == MAP_NONE;
    self->entries[at] = (map_entry){key, value};
}

void map_drop(map *self, uint64_t key) {
    if (self->cap == 0) return;
    size_t mask = self->cap - 1, hole = place(self, key);
    if (self->entries[hole].key == MAP_NONE) return;
    for (size_t i = (hole + 1) & mask; self->entries[i].key != MAP_NONE; i = (i + 1) & mask) {
        size_t from_home = (i - map_home(self, self->entries[i].key)) & mask;
        if (from_home < ((i - hole) & mask)) continue; /* would move before its home */
        self->entries[hole] = self->entries[i];
        hole = i;
    }
    self->entries[hole] = (map_entry){MAP_NONE, MAP_NONE};
    self->n--;
}

void map_deinit(map *self) {
    free(self->entries);
    *self = (map){0};
}
