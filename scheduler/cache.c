/* cache.c - slots, pages and blocks: one slot per executed layer or loop of a position.
 *
 * A page is PAGE_SLOTS consecutive slots of one block. A block hands out its slots one
 * at a time, in the order in which its positions run, so that only its last page can be
 * partly empty; its pages return together when nobody names the block any more. */
#include "base/clock.h"
#include "base/size.h"
#include "scheduler/scheduler_internal.h"

#include <stdlib.h>
#include <sys/random.h>

int sched__cache_init(cache *c, const eng_backend_info *info, uint32_t n_tenants,
                      const uint32_t *weights, err *e) {
    *c = (cache){
        .n_blocks = info->n_blocks, .n_pages = info->n_slots / PAGE_SLOTS, .n_parts = n_tenants};
    if (c->n_blocks == 0 || c->n_pages == 0) {
        return err_set(e, ERR_BAD_PARAM, "kv-memory", "the cache holds no block at all");
    }
    c->n_buckets = 16;
    while (c->n_buckets < c->n_blocks && c->n_buckets < 1u << 30)
        c->n_buckets *= 2;
    c->blocks = array_new(c->n_blocks, sizeof *c->blocks);
    c->page_next = array_new(c->n_pages, sizeof *c->page_next);
    c->free_blocks = array_new(c->n_blocks, sizeof *c->free_blocks);
    c->buckets = array_new(c->n_buckets, sizeof *c->buckets);
    c->parts = array_new(c->n_parts, sizeof *c->parts);
    if (!c->blocks || !c->page_next || !c->free_blocks || !c->buckets || !c->parts) {
        sched__cache_deinit(c);
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the cache's books");
    }
    for (uint32_t i = 0; i < c->n_blocks; i++)
        c->free_blocks[i] = c->n_blocks - 1 - i;
    c->n_free_blocks = c->n_blocks;
    for (uint32_t i = 0; i < c->n_pages; i++)
        c->page_next[i] = i + 1 < c->n_pages ? i + 1 : NONE;
    c->n_free_pages = c->n_pages;
    for (uint32_t i = 0; i < c->n_buckets; i++)
        c->buckets[i] = NONE;
    for (uint32_t i = 0; i < c->n_parts; i++) {
        c->parts[i] =
            (cache_part){.lru_first = NONE, .lru_last = NONE, .weight = weights ? weights[i] : 1};
    }
    /* A client must not be able to aim at collisions; with no entropy the key stays fixed,
     * which costs speed at worst since tokens are compared too. */
    if (getrandom(c->key, sizeof c->key, GRND_NONBLOCK) != (ssize_t)sizeof c->key) {
        c->key[0] = clock_ns();
    }
    return 0;
}

void sched__cache_deinit(cache *c) {
    free(c->blocks);
    free(c->page_next);
    free(c->free_blocks);
    free(c->buckets);
    free(c->parts);
    *c = (cache){0};
}

bool sched__take_block(cache *c, uint32_t tenant, uint32_t *out) {
    while (c->n_free_blocks == 0) {
        if (!sched__prefix_evict(c, tenant)) return false;
    }
    *out = c->free_blocks[--c->n_free_blocks];
    c->blocks[*out] = (block){.refs = 1,
                              .pages = NONE,
                              .taken = true,
                              .tenant = tenant,
                              .hash_next = NONE,
                              .lru_prev = NONE,
                              .lru_next = NONE};
    return true;
}

static bool take_page(cache *c, block *k) {
    while (c->n_free_pages == 0) {
        if (!sched__prefix_evict(c, k->tenant)) return false;
    }
    uint32_t page = c->free_page;
    c->free_page = c->page_next[page];
    c->n_free_pages--;
    c->page_next[page] = k->pages;
    k->pages = page;
    k->n_pages++;
    c->parts[k->tenant].n_pages += !c->lose_part;
    k->left = PAGE_SLOTS;
    return true;
}

bool sched__take_slot(cache *c, uint32_t b, uint32_t *slot) {
    block *k = &c->blocks[b];
    if (k->n_spare > 0) {
        *slot = k->spare[--k->n_spare];
    } else {
        if (k->left == 0 && !take_page(c, k)) return false;
        *slot = k->pages * PAGE_SLOTS + (PAGE_SLOTS - k->left);
        k->left--;
    }
    k->used++;
    c->used++;
    c->handed++;
    return true;
}

void sched__give_slot(cache *c, uint32_t b, uint32_t slot) {
    block *k = &c->blocks[b];
    if (k->n_spare == ENG_BLOCK) return; /* cannot be; it would only stay counted as used */
    k->spare[k->n_spare++] = slot;
    k->used--;
    c->used--;
    c->handed--;
}

/* Each slot may begin a page of its own, at worst. */
bool sched__surely_fits(const cache *c, uint64_t slots, uint64_t blocks) {
    uint64_t pages, free_blocks;
    sched__room_for(c, ANY_TENANT, &pages, &free_blocks);
    return slots <= pages && blocks <= free_blocks;
}

void sched__give_block(cache *c, uint32_t b) {
    block *k = &c->blocks[b];
    if (--k->refs > 0) return;
    if (k->cached) {
        sched__lru_append(c, b);
    } else {
        sched__free_block(c, b);
    }
}

void sched__free_block(cache *c, uint32_t b) {
    block *k = &c->blocks[b];
    if (c->leak && k->pages != NONE) k->pages = c->page_next[k->pages];
    for (uint32_t page = k->pages; page != NONE;) {
        uint32_t next = c->page_next[page];
        c->page_next[page] = c->free_page;
        c->free_page = page;
        c->n_free_pages++;
        page = next;
    }
    c->parts[k->tenant].n_pages -= k->n_pages;
    c->used -= k->used;
    c->all -= k->all;
    k->taken = false;
    c->free_blocks[c->n_free_blocks++] = b;
}
