/* map.h - 64-bit keys to 64-bit values: open addressing, linear probing, at most half full.
 *
 * The zero value is empty and ready. A map belongs to one thread while it changes; afterwards any
 * number of threads may read it. */
#ifndef FATHOM_MAP_H
#define FATHOM_MAP_H

#include "base/hash.h"

#define MAP_NONE UINT64_MAX /* no value; no key either */

typedef struct {
    uint64_t key, value;
} map_entry;

typedef struct {
    map_entry *entries; /* [cap]; an empty entry has the key MAP_NONE. NULL while cap is 0 */
    size_t n, cap;      /* cap: 0 or a power of two */
} map;

static inline size_t map_home(const map *self, uint64_t key) {
    return (size_t)hash_spread(key) & (self->cap - 1);
}

/* The value of key, or MAP_NONE. */
static inline uint64_t map_get(const map *self, uint64_t key) {
    if (self->cap == 0) return MAP_NONE;
    for (size_t at = map_home(self, key);; at = (at + 1) & (self->cap - 1)) {
        if (self->entries[at].key == key) return self->entries[at].value;
        if (self->entries[at].key == MAP_NONE) return MAP_NONE;
    }
}

/* Makes room for `extra` more keys. -1 when memory runs out: the map is unchanged. */
int map_reserve(map *self, size_t extra) WARN_UNUSED;
/* Adds or replaces. A new key needs room from map_reserve; key is not MAP_NONE. */
void map_put(map *self, uint64_t key, uint64_t value);
/* An absent key is no error. */
void map_drop(map *self, uint64_t key);
void map_deinit(map *self); /* empty again, and ready */

#endif
