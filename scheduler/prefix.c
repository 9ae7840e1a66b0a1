/* prefix.c - finished blocks found again by content.
 *
 * A block is found by a seeded 128-bit hash of its tokens, of the hash of the block before it, and
 * of its prefix_key: everything else in its content (depth limits, threshold; the policy is one per
 * scheduler), and the limits of sharing (salt, tenant). A hit also compares tokens, key and parent,
 * so a collision costs a miss and never a wrong answer. */
#include "scheduler/prefix.h"

#include "base/hash.h"
#include "scheduler/feed_internal.h"

#include <string.h>

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
    hash_sip_word(&sip,
                  (uint64_t)key->tenant << 32 | (uint32_t)key->home << 16 | key->prompt_min_loops);
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
           x->tenant == y->tenant && x->home == y->home && x->threshold == y->threshold;
}

static uint32_t *bucket_of(kv_cache *cache, const hash128 *hash) {
    return &cache->buckets[hash->half[0] & (cache->n_buckets - 1)];
}

static uint32_t find(kv_cache *cache, const hash128 *hash, const hash128 *parent,
                     const prefix_key *key, const uint32_t tokens[ENG_BLOCK]) {
    for (uint32_t id = *bucket_of(cache, hash); id != NONE; id = cache->blocks[id].hash_next) {
        const block_content *content = &cache->contents[id];
        if (same_hash(&content->hash, hash) && same_hash(&content->parent, parent) &&
            sched__same_key(&content->key, key) &&
            memcmp(content->tokens, tokens, sizeof content->tokens) == 0) {
            return id;
        }
    }
    return NONE;
}

uint32_t sched__prefix_take(kv_cache *cache, const hash128 *hash, const hash128 *parent,
                            const prefix_key *key, const uint32_t tokens[ENG_BLOCK]) {
    uint32_t id = find(cache, hash, parent, key, tokens);
    if (id == NONE) return NONE;
    if (cache->blocks[id].refs++ == 0) sched__lru_remove(cache, id);
    return id;
}

bool sched__prefix_has(kv_cache *cache, const hash128 *hash, const hash128 *parent,
                       const prefix_key *key, const uint32_t tokens[ENG_BLOCK]) {
    return find(cache, hash, parent, key, tokens) != NONE;
}

/* A request may find the block at any home. */
static bool is_to_be_told(const kv_cache *cache, const prefix_key *key) {
    const prefix_key *told = cache->feed ? sched__feed_key(cache->feed) : NULL;
    if (told == NULL) return false;
    prefix_key there = *told;
    there.home = key->home;
    return sched__same_key(&there, key);
}

void sched__prefix_offer(kv_cache *cache, uint32_t id, const hash128 *hash, const hash128 *parent,
                         const prefix_key *key, const uint32_t tokens[ENG_BLOCK]) {
    block *blk = &cache->blocks[id];
    if (blk->cached || find(cache, hash, parent, key, tokens) != NONE) return;
    blk->cached = true;
    block_content *content = &cache->contents[id];
    content->hash = *hash;
    content->parent = *parent;
    content->key = *key;
    memcpy(content->tokens, tokens, sizeof content->tokens);
    uint32_t *bucket = bucket_of(cache, hash);
    blk->hash_next = *bucket;
    *bucket = id;
    if (is_to_be_told(cache, key)) sched__feed_stored(cache, id);
}

void sched__prefix_forget(kv_cache *cache, uint32_t id) {
    if (cache->feed) sched__feed_removed(cache, id);
    uint32_t *at = bucket_of(cache, &cache->contents[id].hash);
    while (*at != id)
        at = &cache->blocks[*at].hash_next;
    *at = cache->blocks[id].hash_next;
    cache->blocks[id].cached = false;
}
