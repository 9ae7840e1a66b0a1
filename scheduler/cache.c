/* cache.c - slots, pages and blocks: one slot per executed loop of a position.
 *
 * A page is PAGE_SLOTS consecutive slots of one block. A block hands out its slots one at a time,
 * in the order in which its positions run, so only its newest page can be partly empty. Slots given
 * back are marked in their pages and handed out first. A page returns to the pool when all its
 * slots are given back, the others when the block has no reference left. */
#include "scheduler/cache.h"
#include "base/clock.h"
#include "base/size.h"

#include <stdlib.h>
#include <sys/random.h>

int sched__cache_init(kv_cache *cache, const eng_backend_info *info, uint32_t n_tenants,
                      const uint32_t *weights, err *e) {
    *cache = (kv_cache){
        .n_blocks = info->n_blocks, .n_pages = info->n_slots / PAGE_SLOTS, .n_parts = n_tenants};
    if (cache->n_blocks == 0 || cache->n_pages == 0) {
        return err_set(e, ERR_BAD_PARAM, "kv-memory", "the cache holds no block at all");
    }
    cache->n_buckets = 16;
    while (cache->n_buckets < cache->n_blocks && cache->n_buckets < 1u << 30)
        cache->n_buckets *= 2;
    cache->blocks = array_new(cache->n_blocks, sizeof *cache->blocks);
    cache->contents = array_new(cache->n_blocks, sizeof *cache->contents);
    cache->page_next = array_new(cache->n_pages, sizeof *cache->page_next);
    cache->spare = array_new(cache->n_pages, sizeof *cache->spare);
    cache->free_blocks = array_new(cache->n_blocks, sizeof *cache->free_blocks);
    cache->buckets = array_new(cache->n_buckets, sizeof *cache->buckets);
    cache->parts = array_new(cache->n_parts, sizeof *cache->parts);
    if (!cache->blocks || !cache->contents || !cache->page_next || !cache->spare ||
        !cache->free_blocks || !cache->buckets || !cache->parts) {
        sched__cache_deinit(cache);
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the cache's books");
    }
    for (uint32_t i = 0; i < cache->n_blocks; i++)
        cache->free_blocks[i] = cache->n_blocks - 1 - i;
    cache->n_free_blocks = cache->n_blocks;
    for (uint32_t i = 0; i < cache->n_pages; i++)
        cache->page_next[i] = i + 1 < cache->n_pages ? i + 1 : NONE;
    cache->n_free_pages = cache->n_pages;
    for (uint32_t i = 0; i < cache->n_buckets; i++)
        cache->buckets[i] = NONE;
    for (uint32_t i = 0; i < cache->n_parts; i++) {
        cache->parts[i] =
            (cache_part){.lru_first = NONE, .lru_last = NONE, .weight = weights ? weights[i] : 1};
    }
    /* A client must not be able to aim at collisions. Without entropy the seed is the clock, and
     * collisions cost only speed, since tokens are compared too. */
    if (getrandom(cache->hash_seed, sizeof cache->hash_seed, GRND_NONBLOCK) !=
        (ssize_t)sizeof cache->hash_seed) {
        cache->hash_seed[0] = clock_ns();
    }
    return 0;
}

void sched__cache_deinit(kv_cache *cache) {
    free(cache->blocks);
    free(cache->contents);
    free(cache->page_next);
    free(cache->spare);
    free(cache->free_blocks);
    free(cache->buckets);
    free(cache->parts);
    *cache = (kv_cache){0};
}

/* ---- slots ---- */

/* Pages taken by the block before it has handed out n more slots. */
static uint32_t pages_for(const block *blk, uint32_t n) {
    uint32_t have = blk->n_spare + blk->n_unused;
    return n > have ? (n - have + PAGE_SLOTS - 1) / PAGE_SLOTS : 0;
}

uint32_t sched__pages_to_promise(const kv_cache *cache, uint32_t id, uint32_t n) {
    const block *blk = &cache->blocks[id];
    return pages_for(blk, blk->n_promised + n) - pages_for(blk, blk->n_promised);
}

void sched__promise(kv_cache *cache, uint32_t id, uint32_t n) {
    uint32_t more = sched__pages_to_promise(cache, id, n);
    cache->blocks[id].n_promised += n;
    cache->n_promised_pages += more;
    cache->parts[cache->blocks[id].tenant].n_pages += more;
}

void sched__unpromise(kv_cache *cache, uint32_t id, uint32_t n) {
    block *blk = &cache->blocks[id];
    uint32_t fewer = pages_for(blk, blk->n_promised) - pages_for(blk, blk->n_promised - n);
    blk->n_promised -= n;
    cache->n_promised_pages -= fewer;
    cache->parts[blk->tenant].n_pages -= fewer;
}

static void take_page(kv_cache *cache, block *blk) {
    uint32_t page = cache->first_free_page;
    cache->first_free_page = cache->page_next[page];
    cache->n_free_pages--;
    cache->n_promised_pages--;
    cache->page_next[page] = blk->pages;
    blk->pages = page;
    blk->n_pages++;
    blk->n_unused = PAGE_SLOTS;
}

/* Newer pages stand first, and hold most of the slots given back. */
static uint32_t find_spare(const kv_cache *cache, const block *blk) {
    uint32_t page = blk->pages;
    while (cache->spare[page] == 0)
        page = cache->page_next[page];
    return page * PAGE_SLOTS + (uint32_t)__builtin_ctz(cache->spare[page]);
}

uint32_t sched__take_slot(kv_cache *cache, uint32_t id) {
    block *blk = &cache->blocks[id];
    blk->n_promised--;
    blk->n_used++;
    cache->n_used++;
    cache->n_handed_out++;
    if (blk->n_spare > 0) {
        uint32_t slot = find_spare(cache, blk);
        cache->spare[slot / PAGE_SLOTS] &= (uint8_t) ~(1u << slot % PAGE_SLOTS);
        blk->n_spare--;
        return slot;
    }
    if (blk->n_unused == 0) take_page(cache, blk);
    return blk->pages * PAGE_SLOTS + (PAGE_SLOTS - blk->n_unused--);
}

static void push_free_page(kv_cache *cache, uint32_t page) {
    cache->spare[page] = 0;
    cache->page_next[page] = cache->first_free_page;
    cache->first_free_page = page;
    cache->n_free_pages++;
}

static void give_page(kv_cache *cache, block *blk, uint32_t page) {
    uint32_t *at = &blk->pages;
    while (*at != page)
        at = &cache->page_next[*at];
    *at = cache->page_next[page];
    push_free_page(cache, page);
    blk->n_pages--;
    blk->n_spare -= PAGE_SLOTS;
    cache->parts[blk->tenant].n_pages--;
}

void sched__give_slot(kv_cache *cache, uint32_t id, uint32_t slot) {
    enum { WHOLE_PAGE = (1 << PAGE_SLOTS) - 1 };
    block *blk = &cache->blocks[id];
    uint32_t page = slot / PAGE_SLOTS, promised = pages_for(blk, blk->n_promised);
    cache->spare[page] |= (uint8_t)(1u << slot % PAGE_SLOTS);
    blk->n_spare++;
    blk->n_used--;
    cache->n_used--;
    cache->n_handed_out--;
    if (cache->spare[page] == WHOLE_PAGE) give_page(cache, blk, page);
    /* A promise needs fewer pages now, or another one. */
    uint32_t now = pages_for(blk, blk->n_promised);
    cache->n_promised_pages += now - promised;
    cache->parts[blk->tenant].n_pages += now - promised;
}

/* ---- blocks ---- */

uint32_t sched__first_free_block(kv_cache *cache, uint32_t tenant) {
    uint32_t id = cache->free_blocks[--cache->n_free_blocks];
    cache->blocks[id] = (block){.refs = 1, .tenant = tenant, .taken = true, .pages = NONE};
    cache->blocks[id].hash_next = cache->blocks[id].lru_prev = cache->blocks[id].lru_next = NONE;
    return id;
}

void sched__lru_remove(kv_cache *cache, uint32_t id) {
    block *blk = &cache->blocks[id];
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

void sched__lru_append(kv_cache *cache, uint32_t id) {
    block *blk = &cache->blocks[id];
    cache_part *part = &cache->parts[blk->tenant];
    blk->lru_prev = part->lru_last;
    blk->lru_next = NONE;
    *(part->lru_last == NONE ? &part->lru_first : &cache->blocks[part->lru_last].lru_next) = id;
    part->lru_last = id;
    part->n_cached_pages += blk->n_pages;
    part->n_cached_blocks++;
    cache->n_cached_pages += blk->n_pages;
    cache->n_cached_blocks++;
}

void sched__give_block(kv_cache *cache, uint32_t id) {
    block *blk = &cache->blocks[id];
    if (--blk->refs > 0) return;
    if (blk->cached) {
        sched__lru_append(cache, id);
    } else {
        sched__free_block(cache, id);
    }
}

void sched__free_block(kv_cache *cache, uint32_t id) {
    block *blk = &cache->blocks[id];
    for (uint32_t page = blk->pages; page != NONE;) {
        uint32_t next = cache->page_next[page];
        push_free_page(cache, page);
        page = next;
    }
    uint32_t promised = pages_for(blk, blk->n_promised);
    cache->n_promised_pages -= promised;
    cache->parts[blk->tenant].n_pages -= blk->n_pages + promised;
    cache->n_used -= blk->n_used;
    cache->full_depth_slots -= blk->full_depth_slots;
    blk->taken = false;
    cache->free_blocks[cache->n_free_blocks++] = id;
}
