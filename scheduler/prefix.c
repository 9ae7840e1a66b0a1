/* prefix.c - finished blocks found again by content.
 *
 * The key of a block is a keyed 128-bit hash of its tokens, of the key of the block
 * before it, and of everything that shapes its latents (depth limits, threshold; the
 * policy is one per scheduler) or who may see it (salt, tenant). A hit also compares tokens,
 * root and parent, so a collision costs a miss and never a wrong answer.
 *
 * Blocks that only the cache holds stand in a list of their tenant by last use. A sequence
 * gives its blocks back last first, so that a block is never older than one that needs it.
 * Who needs pages takes them from the tenant that holds most by its weight. A quarter of all
 * pages is kept: of it every tenant with cached blocks has its share, which no other takes. */
#include "scheduler/scheduler_internal.h"

#include <string.h>

enum { KEPT_PART = 4 }; /* of the pages, kept for what others left in the cache */

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
    hash_sip_word(&sip, (uint64_t)root->tenant << 32 | root->prompt_min);
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
           a->tenant == b->tenant && a->threshold == b->threshold;
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
    cache_part *p = &c->parts[k->tenant];
    *(k->lru_prev == NONE ? &p->lru_first : &c->blocks[k->lru_prev].lru_next) = k->lru_next;
    *(k->lru_next == NONE ? &p->lru_last : &c->blocks[k->lru_next].lru_prev) = k->lru_prev;
    k->lru_prev = k->lru_next = NONE;
    p->n_cached_pages -= k->n_pages;
    p->n_cached_blocks--;
    c->n_cached_pages -= k->n_pages;
    c->n_cached_blocks--;
}

void sched__lru_append(cache *c, uint32_t b) {
    block *k = &c->blocks[b];
    cache_part *p = &c->parts[k->tenant];
    k->lru_prev = p->lru_last;
    k->lru_next = NONE;
    *(p->lru_last == NONE ? &p->lru_first : &c->blocks[p->lru_last].lru_next) = b;
    p->lru_last = b;
    p->n_cached_pages += k->n_pages;
    p->n_cached_blocks++;
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

static uint64_t weight_of_holders(const cache *c) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < c->n_parts; i++)
        sum += c->parts[i].n_cached_pages > 0 ? c->parts[i].weight : 0;
    return sum;
}

/* Cached pages of part i that another tenant may take. */
static uint32_t open_pages(const cache *c, uint32_t i, uint64_t weights) {
    const cache_part *p = &c->parts[i];
    uint64_t kept = weights ? (uint64_t)c->n_pages / KEPT_PART * p->weight / weights : 0;
    return p->n_cached_pages > kept ? (uint32_t)(p->n_cached_pages - kept) : 0;
}

void sched__room_for(const cache *c, uint32_t tenant, uint64_t *pages, uint64_t *blocks) {
    *pages = (uint64_t)c->n_free_pages + c->n_cached_pages;
    *blocks = (uint64_t)c->n_free_blocks + c->n_cached_blocks;
    if (c->n_parts == 1) return;
    uint64_t weights = weight_of_holders(c);
    for (uint32_t i = 0; i < c->n_parts; i++) {
        const cache_part *p = &c->parts[i];
        if (i == tenant || p->n_cached_pages == 0) continue;
        uint64_t open = open_pages(c, i, weights);
        *pages -= p->n_cached_pages - open;
        *blocks -= p->n_cached_blocks - p->n_cached_blocks * open / p->n_cached_pages;
    }
}

/* A part to evict from: of those open to `tenant`, the one that holds most by its weight. */
static uint32_t fullest_part(const cache *c, uint32_t tenant) {
    uint64_t weights = c->n_parts > 1 ? weight_of_holders(c) : 0;
    uint32_t best = NONE;
    for (uint32_t i = 0; i < c->n_parts; i++) {
        const cache_part *p = &c->parts[i];
        if (p->lru_first == NONE) continue;
        if (i != tenant && tenant != ANY_TENANT && open_pages(c, i, weights) == 0) continue;
        if (best == NONE || (uint64_t)p->n_pages * c->parts[best].weight >
                                (uint64_t)c->parts[best].n_pages * p->weight) {
            best = i;
        }
    }
    return best;
}

bool sched__prefix_evict(cache *c, uint32_t tenant) {
    uint32_t part = fullest_part(c, tenant);
    if (part == NONE) return false;
    uint32_t b = c->parts[part].lru_first;
    sched__lru_remove(c, b);
    uint32_t *at = bucket_of(c, &c->blocks[b].hash);
    while (*at != b)
        at = &c->blocks[*at].hash_next;
    *at = c->blocks[b].hash_next;
    c->blocks[b].cached = false;
    sched__free_block(c, b);
    return true;
}
