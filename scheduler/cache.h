/* cache.h - slots come from pages, pages belong to blocks. */
#ifndef FATHOM_SCHED_CACHE_H
#define FATHOM_SCHED_CACHE_H

#include "engine/backend.h"

#define NONE UINT32_MAX

/* Small, because a block's last page is on average half empty: at 160 slots per block, pages of
 * four slots waste about 1 %. */
enum { PAGE_SLOTS = 4 };

/* Everything besides tokens that a block's content depends on, and the tenant allowed to share it.
 */
typedef struct {
    uint64_t salt[2];
    float threshold;
    uint16_t min_loops, max_loops;
    uint16_t prompt_min_loops; /* of prompt positions, >= min_loops */
    uint32_t tenant;           /* 0 if tenants share the cache */
    uint16_t home;             /* eng_row.home: the cache that has the block */
} prefix_key;

typedef struct {
    uint64_t half[2];
} hash128;

typedef struct {
    uint32_t refs;   /* sequences with this block in their table */
    uint32_t tenant; /* that took it */
    bool taken;      /* not on the free list */
    bool cached;     /* in the prefix table */
    uint32_t pages;  /* newest page, the one being filled; linked by page_next */
    uint32_t n_pages;
    uint32_t n_unused;           /* slots of the newest page not handed out yet */
    uint32_t n_used;             /* slots handed out and not given back */
    uint32_t n_promised;         /* slots to be taken by the launch being built */
    uint32_t full_depth_slots;   /* slots its positions would take if every loop were stored */
    uint32_t n_spare;            /* slots given back, marked in kv_cache.spare */
    uint32_t hash_next;          /* while cached: chain of its bucket */
    uint32_t lru_prev, lru_next; /* in its tenant's list, while cached and refs is 0 */
} block;                         /* one cache line: every row of every launch reads its block */

typedef struct {
    /* While cached: */
    hash128 hash;   /* of its tokens and all before them */
    hash128 parent; /* hash of the block before it */
    prefix_key key;
    uint32_t tokens[ENG_BLOCK];
} block_content;

typedef struct {                  /* the blocks of one tenant */
    uint32_t lru_first, lru_last; /* cached blocks with refs 0; lru_first is evicted next */
    uint32_t n_pages;             /* of all its blocks, with promised ones */
    uint32_t n_cached_pages, n_cached_blocks; /* of the blocks in the lru list */
    uint32_t weight;
} cache_part;

/* The cache of one home: each home has slots, pages and blocks with numbers of their own. */
typedef struct {
    block *blocks;
    block_content *contents; /* [n_blocks] */
    cache_part *parts;       /* [n_parts] by tenant */
    uint32_t n_parts;
    uint32_t *page_next, *free_blocks, *buckets;
    uint8_t *spare; /* [n_pages] a bit per slot given back; handed out before other slots */
    uint32_t n_blocks, n_pages, n_buckets;
    uint32_t n_free_blocks, first_free_page, n_free_pages, n_cached_pages, n_cached_blocks;
    uint32_t n_promised_pages;         /* free pages to be taken by promised slots */
    uint64_t n_used, full_depth_slots; /* sums over blocks */
    uint64_t n_handed_out;             /* slots handed out since creation, minus slots given back */
    uint64_t hash_seed[2];
    struct kv_feed *feed; /* told of blocks in the prefix table (feed.h); or NULL */
    uint32_t first_link;  /* the feed's number of block 0 */
} kv_cache;

/* weights: [n_tenants], >= 1, or NULL for 1 each. */
int sched__cache_init(kv_cache *cache, const eng_backend_info *info, uint32_t n_tenants,
                      const uint32_t *weights, err *e);
void sched__cache_deinit(kv_cache *cache);
/* Takes the first free block; there is one. */
uint32_t sched__first_free_block(kv_cache *cache, uint32_t tenant);
void sched__give_block(kv_cache *cache, uint32_t id); /* one reference less */
void sched__free_block(kv_cache *cache, uint32_t id); /* refs is 0 and it is not cached */
/* Into and out of the list of cached blocks with refs 0. */
void sched__lru_append(kv_cache *cache, uint32_t id);
void sched__lru_remove(kv_cache *cache, uint32_t id);
/* Pages for n more promised slots of block id. */
uint32_t sched__pages_to_promise(const kv_cache *cache, uint32_t id, uint32_t n);
/* Promises n slots of block id to the launch being built; enough pages are free. */
void sched__promise(kv_cache *cache, uint32_t id, uint32_t n);
void sched__unpromise(kv_cache *cache, uint32_t id, uint32_t n);
/* Takes a promised slot of block id. */
uint32_t sched__take_slot(kv_cache *cache, uint32_t id);
/* Takes a slot back from a position of block id, for other positions of the block. A page goes back
 * to the pool when all its slots are back. */
void sched__give_slot(kv_cache *cache, uint32_t id, uint32_t slot);

#endif
