/* prefix.h - finished blocks found again by content. */
#ifndef FATHOM_SCHED_PREFIX_H
#define FATHOM_SCHED_PREFIX_H

#include "scheduler/cache.h"

hash128 sched__prefix_hash(const kv_cache *cache, const hash128 *parent, const prefix_key *key,
                           const uint32_t tokens[ENG_BLOCK]);
/* The cached block with this content, or NONE. Takes a reference. */
uint32_t sched__prefix_take(kv_cache *cache, const hash128 *hash, const hash128 *parent,
                            const prefix_key *key, const uint32_t tokens[ENG_BLOCK]);
/* Whether it is there, without taking it. */
bool sched__prefix_has(kv_cache *cache, const hash128 *hash, const hash128 *parent,
                       const prefix_key *key, const uint32_t tokens[ENG_BLOCK]);
/* Offers a finished block. A cached block of the same content keeps its place. */
void sched__prefix_offer(kv_cache *cache, uint32_t id, const hash128 *hash, const hash128 *parent,
                         const prefix_key *key, const uint32_t tokens[ENG_BLOCK]);
bool sched__same_key(const prefix_key *x, const prefix_key *y);
void sched__prefix_forget(kv_cache *cache, uint32_t id); /* it is cached */

#endif
