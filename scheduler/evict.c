/* evict.c - room in the cache: free, or freed by evicting blocks held only by the prefix cache.
 *
 * Such blocks stand in their tenant's list by last use. A sequence gives its blocks back last
 * first, so a block is never older than one that needs it. Room is taken from the tenant with the
 * most pages by weight. A quarter of all pages is protected: each tenant with cached blocks keeps
 * its share of this quarter. */
#include "scheduler/evict.h"

#include "scheduler/prefix.h"

enum { KEPT_PART = 4 }; /* 1 / KEPT_PART of all pages is protected */

static uint64_t weight_of_holders(const kv_cache *cache) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < cache->n_parts; i++)
        sum += cache->parts[i].n_cached_pages > 0 ? cache->parts[i].weight : 0;
    return sum;
}

/* Cached pages of tenant i open to other tenants. */
static uint32_t open_pages(const kv_cache *cache, uint32_t i, uint64_t weights) {
    const cache_part *part = &cache->parts[i];
    uint64_t kept = weights ? (uint64_t)cache->n_pages / KEPT_PART * part->weight / weights : 0;
    return part->n_cached_pages > kept ? (uint32_t)(part->n_cached_pages - kept) : 0;
}

void sched__room_for(const kv_cache *cache, uint32_t tenant, uint64_t *pages, uint64_t *blocks) {
    *pages = (uint64_t)cache->n_free_pages + cache->n_cached_pages;
    *blocks = (uint64_t)cache->n_free_blocks + cache->n_cached_blocks;
    if (cache->n_parts == 1) return;
    uint64_t weights = weight_of_holders(cache);
    for (uint32_t i = 0; i < cache->n_parts; i++) {
        const cache_part *part = &cache->parts[i];
        if (i == tenant || part->n_cached_pages == 0) continue;
        uint64_t open = open_pages(cache, i, weights);
        *pages -= part->n_cached_pages - open;
        *blocks -= part->n_cached_blocks - part->n_cached_blocks * open / part->n_cached_pages;
    }
}

/* The tenant to evict from: the one with the most pages by weight, among those open to `tenant`. */
static uint32_t fullest_part(const kv_cache *cache, uint32_t tenant) {
    uint64_t weights = cache->n_parts > 1 ? weight_of_holders(cache) : 0;
    uint32_t best = NONE;
    for (uint32_t i = 0; i < cache->n_parts; i++) {
        const cache_part *part = &cache->parts[i];
        if (part->lru_first == NONE) continue;
        if (i != tenant && tenant != ANY_TENANT && open_pages(cache, i, weights) == 0) continue;
        if (best == NONE || (uint64_t)part->n_pages * cache->parts[best].weight >
                                (uint64_t)cache->parts[best].n_pages * part->weight) {
            best = i;
        }
    }
    return best;
}

bool sched__evict(kv_cache *cache, uint32_t tenant) {
    uint32_t fullest = fullest_part(cache, tenant);
    if (fullest == NONE) return false;
    uint32_t id = cache->parts[fullest].lru_first;
    sched__lru_remove(cache, id);
    sched__prefix_forget(cache, id);
    sched__free_block(cache, id);
    return true;
}

bool sched__take_block(kv_cache *cache, uint32_t tenant, uint32_t *out) {
    while (cache->n_free_blocks == 0) {
        if (!sched__evict(cache, tenant)) return false;
    }
    *out = sched__first_free_block(cache, tenant);
    return true;
}

bool sched__promise_slots(kv_cache *cache, uint32_t id, uint32_t n) {
    uint32_t more = sched__pages_to_promise(cache, id, n);
    while (cache->n_free_pages < cache->n_promised_pages + more) {
        if (!sched__evict(cache, cache->blocks[id].tenant)) return false;
    }
    sched__promise(cache, id, n);
    return true;
}

/* At worst, each slot begins a page of its own. */
bool sched__surely_fits(const kv_cache *cache, uint64_t n_slots, uint64_t n_blocks) {
    uint64_t pages, free_blocks;
    sched__room_for(cache, ANY_TENANT, &pages, &free_blocks);
    return n_slots <= pages && n_blocks <= free_blocks;
}
