/* prefix.c - finished blocks found again by content.
 *
 * A block is found by a seeded 128-bit hash of its tokens, of the hash of the block before it, and
 * of its prefix_key: everything else that its content depends on (depth limits, threshold; the
 * policy is one per scheduler) and that limits sharing (salt, tenant). A hit also compares tokens,
 * key and parent, so a collision costs a miss and never a wrong answer.
 *
 * Blocks that only the prefix cache holds stand in their tenant's list by last use. A sequence
 * gives its blocks back last first, so a block is never older than one that needs it. Pages are
 * taken from the tenant that holds most by its weight. A quarter of all pages is kept: each tenant
 * with cached blocks has its share of that quarter, which no other tenant takes. */
#include "scheduler/prefix.h"

#include "base/hash.h"

#include <string.h>

enum { KEPT_PART = 4 }; /* 1 / KEPT_PART of all pages is kept for cached blocks */

hash128 sched__prefix_hash(const kv_cache *cache, const hash128 *parent, const prefix_key *key,
                           const uint32_t tokens[ENG_BLOCK]) {
    hash_sip sip;
    hash128 hash;
    hash_sip_begin(&sip, cache->hash_seed);
    uint32_t threshold;
    memcpy(&threshold, &key->threshold, sizeof threshold);
    hash_sip_word(&sip, parent->half[0]);
    hash_sip_word(&sip, parent->half[1]);
    hash_sip_word(&sip, key->salt[0]);
    hash_sip_word(&sip, key->salt[1]);
    hash_sip_word(&sip,
                  (uint64_t)threshold << 32 | (uint32_t)key->min_loops << 16 | key->max_loops);
    hash_sip_word(&sip, (uint64_t)key->tenant << 32 | key->prompt_min_loops);
    for (uint32_t i = 0; i < ENG_BLOCK; i += 2) {
        hash_sip_word(&sip, (uint64_t)tokens[i] << 32 | tokens[i + 1]);
    }
    hash_sip_end(&sip, hash.half);
    return hash;
}

static bool same_hash(const hash128 *x, const hash128 *y) {
    return x->half[0] == y->half[0] && x->half[1] == y->half[1];
}

bool sched__same_key(const prefix_key *x, const prefix_key *y) {
    return x->salt[0] == y->salt[0] && x->salt[1] == y->salt[1] && x->min_loops == y->min_loops &&
           x->max_loops == y->max_loops && x->prompt_min_loops == y->prompt_min_loops &&
           x->tenant == y->tenant && x->threshold == y->threshold;
}

static uint32_t *bucket_of(kv_cache *cache, const hash128 *hash) {
    return &cache->buckets[hash->half[0] & (cache->n_buckets - 1)];
}

static uint32_t find(kv_cache *cache, const hash128 *hash, const hash128 *parent,
                     const prefix_key *key, const uint32_t tokens[ENG_BLOCK]) {
    for (uint32_t b = *bucket_of(cache, hash); b != NONE; b = cache->blocks[b].hash_next) {
        const block *blk = &cache->blocks[b];
        if (same_hash(&blk->hash, hash) && same_hash(&blk->parent, parent) &&
            sched__same_key(&blk->key, key) &&
            memcmp(blk->tokens, tokens, sizeof blk->tokens) == 0) {
            return b;
        }
    }
    return NONE;
}

void sched__lru_remove(kv_cache *cache, uint32_t b) {
    block *blk = &cache->blocks[b];
    cache_part *part = &cache->parts[blk->tenant];
    *(blk->lru_prev == NONE ? &part->lru_first : &cache->blocks[blk->lru_prev].lru_next) =
        blk->lru_next;
    *(blk->lru_next == NONE ? &part->lru_last : &cache->blocks[blk->lru_next].lru_prev) =
        blk->lru_prev;
    blk->lru_prev = blk->lru_next = NONE;
    part->n_cached_pages -= blk->n_pages;
    part->n_cached_blocks--;
    cache->n_cached_pages -= blk->n_pages;
    cache->n_cached_blocks--;
}

void sched__lru_append(kv_cache *cache, uint32_t b) {
    block *blk = &cache->blocks[b];
    cache_part *part = &cache->parts[blk->tenant];
    blk->lru_prev = part->lru_last;
    blk->lru_next = NONE;
    *(part->lru_last == NONE ? &part->lru_first : &cache->blocks[part->lru_last].lru_next) = b;
    part->lru_last = b;
    part->n_cached_pages += blk->n_pages;
    part->n_cached_blocks++;
    cache->n_cached_pages += blk->n_pages;
    cache->n_cached_blocks++;
}

uint32_t sched__prefix_take(kv_cache *cache, const hash128 *hash, const hash128 *parent,
                            const prefix_key *key, const uint32_t tokens[ENG_BLOCK]) {
    uint32_t b = find(cache, hash, parent, key, tokens);
    if (b == NONE) return NONE;
    if (cache->blocks[b].refs++ == 0) sched__lru_remove(cache, b);
    return b;
}

void sched__prefix_offer(kv_cache *cache, uint32_t b, const hash128 *hash, const hash128 *parent,
                         const prefix_key *key, const uint32_t tokens[ENG_BLOCK]) {
    block *blk = &cache->blocks[b];
    if (blk->cached || find(cache, hash, parent, key, tokens) != NONE) return;
    blk->cached = true;
    blk->hash = *hash;
    blk->parent = *parent;
    blk->key = *key;
    memcpy(blk->tokens, tokens, sizeof blk->tokens);
    uint32_t *bucket = bucket_of(cache, hash);
    blk->hash_next = *bucket;
    *bucket = b;
}

static uint64_t weight_of_holders(const kv_cache *cache) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < cache->n_parts; i++)
        sum += cache->parts[i].n_cached_pages > 0 ? cache->parts[i].weight : 0;
    return sum;
}

/* Cached pages of tenant i that another tenant may take. */
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

/* The tenant to evict from: the one that holds most by its weight, if `tenant` may take from it. */
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

bool sched__prefix_evict(kv_cache *cache, uint32_t tenant) {
    uint32_t fullest = fullest_part(cache, tenant);
    if (fullest == NONE) return false;
    uint32_t b = cache->parts[fullest].lru_first;
    sched__lru_remove(cache, b);
    uint32_t *at = bucket_of(cache, &cache->blocks[b].hash);
    while (*at != b)
        at = &cache->blocks[*at].hash_next;
    *at = cache->blocks[b].hash_next;
    cache->blocks[b].cached = false;
    sched__free_block(cache, b);
    return true;
}
