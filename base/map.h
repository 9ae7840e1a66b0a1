/* map.h - 64-bit keys to 64-bit values: open addressing, linear probing, at most half full.
 *
 * The zero value is empty and ready. A map belongs to one thread while it changes; any number of
 * threads may read one that no longer does. */
#ifndef FATHOM_MAP_H
#define FATHOM_MAP_H

#include "base/hash.h"

#define MAP_NONE UINT64_MAX /* no value; no key either */

typedef struct {
    uint64_t key, value;
} map_entry;

typedef struct {
    map_entry *entries; /* [cap]; the key of an empty one is MAP_NONE. NULL while cap is 0 */
    size_t n, cap;      /* cap: 0 or a power of two */
} map;

static inline size_t map_home(const map *m, uint64_t key) {
    return (size_t)hash_spread(key) & (m->cap - 1);
}

/* The value of key, or MAP_NONE. */
static inline uint64_t map_get(const map *m, uint64_t key) {
    if (m->cap == 0) return MAP_NONE;
    for (size_t at = map_home(m, key);; at = (at + 1) & (m->cap - 1)) {
        if (m->entries[at].key == key) return m->entries[at].value;
        if (m->entries[at].key == MAP_NONE) return MAP_NONE;
    }
}

/* Room for `extra` more keys, so that as many map_put succeed. -1 when memory runs out: the map
 * is as before. */
int map_reserve(map *m, size_t extra) WARN_UNUSED;
/* Adds or replaces. A new key needs room reserved before; key is not MAP_NONE. */
void map_put(map *m, uint64_t key, uint64_t value);
/* A key that is not there is no error. */
void map_drop(map *m, uint64_t key);
void map_deinit(map *m); /* empty again, and ready */

#endif
