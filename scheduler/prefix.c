/* prefix.c - finished blocks found again by content.
 *
 * The key of a block is a keyed 128-bit hash of its tokens, of the key of the block
 * before it, and of everything that shapes its latents (depth limits, threshold; the
 * policy is one per scheduler) or who may see it (salt). A hit also compares tokens, root
 * and parent, so a collision costs a miss and never a wrong answer.
 *
 * Blocks that only the cache holds stand in a list by last use. A sequence gives its
 * blocks back last first, so that a block is never older than one that needs it. */
#include "scheduler/scheduler_internal.h"

#include <string.h>

hash128 sched__prefix_hash(const cache *c, const hash128 *parent, const prefix_root *root,
                           const uint32_t tokens[ENG_BLOCK]) {
    hash_sip sip;
    hash128 key;
    hash_sip_begin(&sip, c->key);
    uint32_t threshold;
    memcpy(&threshold, &root->threshold, sizeof threshold);
    hash_sip_word(&sip, parent->half[0]);
    hash_sip_word(&sip, parent->half[1]);
    hash_sip_word(&sip, root->salt[0]);
    hash_sip_word(&sip, root->salt[1]);
    hash_sip_word(&sip,
                  (uint64_t)threshold << 32 | (uint32_t)root->min_loops << 16 | root->max_loops);
    hash_sip_word(&sip, root->prompt_min);
    for (uint32_t i = 0; i < ENG_BLOCK; i += 2) {
        hash_sip_word(&sip, (uint64_t)tokens[i] << 32 | tokens[i + 1]);
    }
    hash_sip_end(&sip, key.half);
    return key;
}

static bool same_hash(const hash128 *a, const hash128 *b) {
    return a->half[0] == b->half[0] && a->half[1] == b->half[1];
}

bool sched__same_root(const prefix_root *a, const prefix_root *b) {
    return a->salt[0] == b->salt[0] && a->salt[1] == b->salt[1] && a->min_loops == b->min_loops &&
           a->max_loops == b->max_loops && a->prompt_min == b->prompt_min &&
           a->threshold == b->threshold;
}

static uint32_t *bucket_of(cache *c, const hash128 *hash) {
    return &c->buckets[hash->half[0] & (c->n_buckets - 1)];
}

static uint32_t find(cache *c, const hash128 *hash, const hash128 *parent, const prefix_root *root,
                     const uint32_t tokens[ENG_BLOCK]) {
    for (uint32_t b = *bucket_of(c, hash); b != NONE; b = c->blocks[b].hash_next) {
        const block *k = &c->blocks[b];
        if (same_hash(&k->hash, hash) && same_hash(&k->parent, parent) &&
            sched__same_root(&k->root, root) && memcmp(k->tokens, tokens, sizeof k->tokens) == 0) {
            return b;
        }
    }
    return NONE;
}

void sched__lru_remove(cache *c, uint32_t b) {
    block *k = &c->blocks[b];
    *(k->lru_prev == NONE ? &c->lru_first : &c->blocks[k->lru_prev].lru_next) = k->lru_next;
    *(k->lru_next == NONE ? &c->lru_last : &c->blocks[k->lru_next].lru_prev) = k->lru_prev;
    k->lru_prev = k->lru_next = NONE;
    c->n_cached_pages -= k->n_pages;
    c->n_cached_blocks--;
}

void sched__lru_append(cache *c, uint32_t b) {
    block *k = &c->blocks[b];
    k->lru_prev = c->lru_last;
    k->lru_next = NONE;
    *(c->lru_last == NONE ? &c->lru_first : &c->blocks[c->lru_last].lru_next) = b;
    c->lru_last = b;
    c->n_cached_pages += k->n_pages;
    c->n_cached_blocks++;
}

uint32_t sched__prefix_take(cache *c, const hash128 *hash, const hash128 *parent,
                            const prefix_root *root, const uint32_t tokens[ENG_BLOCK]) {
    uint32_t b = find(c, hash, parent, root, tokens);
    if (b == NONE) return NONE;
    if (c->blocks[b].refs++ == 0) sched__lru_remove(c, b);
    return b;
}

void sched__prefix_offer(cache *c, uint32_t b, const hash128 *hash, const hash128 *parent,
                         const prefix_root *root, const uint32_t tokens[ENG_BLOCK]) {
    block *k = &c->blocks[b];
    if (k->cached || find(c, hash, parent, root, tokens) != NONE) return;
    k->cached = true;
    k->hash = *hash;
    k->parent = *parent;
    k->root = *root;
    memcpy(k->tokens, tokens, sizeof k->tokens);
    uint32_t *bucket = bucket_of(c, hash);
    k->hash_next = *bucket;
    *bucket = b;
}

bool sched__prefix_evict(cache *c) {
    uint32_t b = c->lru_first;
    if (b == NONE) return false;
    sched__lru_remove(c, b);
    uint32_t *at = bucket_of(c, &c->blocks[b].hash);
    while (*at != b)
        at = &c->blocks[*at].hash_next;
    *at = c->blocks[b].hash_next;
    c->blocks[b].cached = false;
    sched__free_block(c, b);
    return true;
}
