/* evict.h - room in the cache: free, or freed by evicting cached blocks. */
#ifndef FATHOM_SCHED_EVICT_H
#define FATHOM_SCHED_EVICT_H

#include "scheduler/cache.h"

enum { ANY_TENANT = UINT32_MAX };

/* Evicts cached blocks if no block is free. False: every block is in use, or kept for other
 * tenants. */
bool sched__take_block(kv_cache *cache, uint32_t tenant, uint32_t *out) WARN_UNUSED;
/* Sets pages aside for n more calls of sched__take_slot for block id, evicting cached blocks if it
 * must. False, and nothing is set aside: too few pages. */
bool sched__promise_slots(kv_cache *cache, uint32_t id, uint32_t n) WARN_UNUSED;
/* Evicts the least recently used block of the tenant furthest over its share, for `tenant` to take.
 * False: no block is cached, or only protected blocks of other tenants. ANY_TENANT evicts protected
 * blocks too. */
bool sched__evict(kv_cache *cache, uint32_t tenant) WARN_UNUSED;
/* Pages and blocks open to `tenant`: free, or evictable for it. ANY_TENANT: open to every one. */
void sched__room_for(const kv_cache *cache, uint32_t tenant, uint64_t *pages, uint64_t *blocks);
/* Whether this many slots and new blocks are available without preempting, however the slots are
 * spread over blocks. */
bool sched__surely_fits(const kv_cache *cache, uint64_t n_slots, uint64_t n_blocks) WARN_UNUSED;

#endif
