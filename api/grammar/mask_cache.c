/* mask_cache.c - masks of automaton states, shared by all requests with the same grammar.
 *
 * Most masks allow some hundred tokens, or nearly the same tokens as any string. So a mask is kept
 * as a list of its differences from no tokens or from the plain tokens of a string, unless the
 * whole mask is shorter. State and mask stand in a chain of blocks of equal size, so masks of any
 * length replace each other without gaps. Blocks take memory once they are used. When all are used,
 * the masks unused for longest give way. Any thread; nothing allocates. */
#include "api/grammar/vocab_internal.h"
#include "base/hash.h"
#include "base/list.h"
#include "base/lock.h"
#include "base/size.h"

#include <stdlib.h>
#include <string.h>

enum {
    BLOCK_BYTES = 252,
    BLOCKS_PER_MASK = 2, /* at least, on average; fewer would take more entries than there are */
    MOST_LISTED = 2048,  /* differences */
    WHOLE = UINT32_MAX,
};

typedef struct {
    uint32_t next; /* of the chain; all indices have 1 added; 0: the end */
    uint8_t bytes[BLOCK_BYTES];
} block;

typedef struct {
    list_link link; /* by last use, oldest first */
    uint64_t hash;
    uint32_t next;  /* entry of the same bucket, or free entry */
    uint32_t chain; /* first block: the key, then the mask */
    uint32_t base;  /* the mask differs from this row of bases; API__NO_BASE: from no tokens */
    uint32_t n_ids; /* differences, or WHOLE */
} entry;

struct api__masks {
    lock lock;
    size_t n_words;
    const uint64_t *bases; /* [][n_words] */
    uint32_t n_blocks, n_entries, n_buckets;
    uint32_t used_blocks, used_entries; /* the first ones; each is in use or free */
    uint32_t free_block, free_entry;
    block *blocks;
    entry *entries;
    uint32_t *buckets;
    list_link used;
    api__mask_counts counts;
};

/* ---- chains ---- */

typedef struct {
    block *blocks;
    uint32_t at; /* block */
    size_t used; /* bytes of it */
} place;

/* The next bytes of the chain, at most n. *got: how many stand in one piece. */
static uint8_t *next_bytes(place *at, size_t n, size_t *got) {
    if (at->used == BLOCK_BYTES) {
        at->at = at->blocks[at->at - 1].next;
        at->used = 0;
    }
    uint8_t *bytes = at->blocks[at->at - 1].bytes + at->used;
    *got = n < BLOCK_BYTES - at->used ? n : BLOCK_BYTES - at->used;
    at->used += *got;
    return bytes;
}

static void write_bytes(place *at, const void *bytes, size_t n) {
    for (size_t done = 0, got; done < n; done += got) {
        uint8_t *to = next_bytes(at, n - done, &got);
        memcpy(to, (const uint8_t *)bytes + done, got);
    }
}

static void read_bytes(place *at, void *out, size_t n) {
    for (size_t done = 0, got; done < n; done += got) {
        const uint8_t *from = next_bytes(at, n - done, &got);
        memcpy((uint8_t *)out + done, from, got);
    }
}

static bool equal_bytes(place *at, const void *bytes, size_t n) {
    for (size_t done = 0, got; done < n; done += got) {
        const uint8_t *own = next_bytes(at, n - done, &got);
        if (memcmp(own, (const uint8_t *)bytes + done, got) != 0) return false;
    }
    return true;
}

static void flip(uint64_t *words, uint32_t id) {
    words[id / 64] ^= (uint64_t)1 << id % 64;
}

/* Keys and ids have whole multiples of four bytes, so no id is cut by the end of a block. */
static void flip_listed(place *at, uint32_t n_ids, uint64_t *words) {
    _Static_assert(BLOCK_BYTES % sizeof(uint32_t) == 0, "ids must not be cut");
    for (size_t left = n_ids * sizeof(uint32_t), got; left > 0; left -= got) {
        const uint8_t *from = next_bytes(at, left, &got);
        for (size_t i = 0; i < got; i += sizeof(uint32_t)) {
            uint32_t id;
            memcpy(&id, from + i, sizeof id);
            flip(words, id);
        }
    }
}

/* ---- entries; the lock is held ---- */

static uint64_t hash_of(const api__mask_key *key) {
    uint64_t hash = key->n_bytes;
    for (uint32_t i = 0; i < key->n_bytes; i += sizeof(uint32_t)) {
        uint32_t part;
        memcpy(&part, key->bytes + i, sizeof part);
        hash = (hash ^ part) * HASH_STEP;
        hash ^= hash >> 32;
    }
    return hash;
}

static uint32_t *bucket_of(api__masks *masks, uint64_t hash) {
    return &masks->buckets[hash % masks->n_buckets];
}

static entry *find(api__masks *masks, uint64_t hash, const api__mask_key *key, place *mask) {
    for (uint32_t i = *bucket_of(masks, hash); i; i = masks->entries[i - 1].next) {
        entry *one = &masks->entries[i - 1];
        *mask = (place){masks->blocks, one->chain, 0};
        if (one->hash == hash && equal_bytes(mask, key->bytes, key->n_bytes)) return one;
    }
    return NULL;
}

static void drop_oldest(api__masks *masks) {
    entry *oldest = OWNER_OF(masks->used.next, entry, link);
    uint32_t id = (uint32_t)(oldest - masks->entries) + 1;
    uint32_t *from = bucket_of(masks, oldest->hash), last = oldest->chain;
    while (*from != id)
        from = &masks->entries[*from - 1].next;
    *from = oldest->next;
    list_remove(&oldest->link);
    masks->counts.kept--;
    masks->counts.blocks--;
    while (masks->blocks[last - 1].next) {
        last = masks->blocks[last - 1].next;
        masks->counts.blocks--;
    }
    masks->blocks[last - 1].next = masks->free_block;
    masks->free_block = oldest->chain;
    oldest->next = masks->free_entry;
    masks->free_entry = id;
}

/* A chain for n bytes. The free blocks are enough. */
static uint32_t take_chain(api__masks *masks, size_t n) {
    uint32_t first = 0, *link = &first;
    for (size_t i = 0; i < n; i += BLOCK_BYTES) {
        uint32_t id = masks->free_block;
        if (id) masks->free_block = masks->blocks[id - 1].next;
        else id = ++masks->used_blocks;
        *link = id;
        link = &masks->blocks[id - 1].next;
        masks->counts.blocks++;
    }
    *link = 0;
    return first;
}

static uint32_t take_entry(api__masks *masks) {
    uint32_t id = masks->free_entry;
    if (id) masks->free_entry = masks->entries[id - 1].next;
    else id = ++masks->used_entries;
    masks->counts.kept++;
    return id;
}

/* A new entry with room for n bytes, in its bucket. NULL: they are more than all blocks. */
static entry *add(api__masks *masks, uint64_t hash, size_t n) {
    size_t wanted = (n + BLOCK_BYTES - 1) / BLOCK_BYTES;
    if (wanted > masks->n_blocks) return NULL;
    while (masks->counts.blocks + wanted > masks->n_blocks ||
           masks->counts.kept == masks->n_entries)
        drop_oldest(masks);
    uint32_t id = take_entry(masks), *bucket = bucket_of(masks, hash);
    entry *made = &masks->entries[id - 1];
    *made = (entry){.hash = hash, .next = *bucket, .chain = take_chain(masks, n)};
    *bucket = id;
    list_insert_before(&masks->used, &made->link);
    return made;
}

/* ---- masks ---- */

static const uint64_t *base_of(const api__masks *masks, uint32_t base) {
    return base == API__NO_BASE ? NULL : masks->bases + base * masks->n_words;
}

bool api__masks_find(api__masks *masks, const api__mask_key *key, uint64_t *words) {
    uint64_t hash = hash_of(key);
    const size_t bytes = masks->n_words * sizeof *words;
    place mask;
    lock_take(&masks->lock);
    entry *found = find(masks, hash, key, &mask);
    if (found) {
        const uint64_t *base = base_of(masks, found->base);
        list_move_back(&masks->used, &found->link);
        masks->counts.found++;
        if (found->n_ids == WHOLE) {
            read_bytes(&mask, words, bytes);
        } else {
            if (base) memcpy(words, base, bytes);
            else memset(words, 0, bytes);
            flip_listed(&mask, found->n_ids, words);
        }
    }
    lock_give(&masks->lock);
    return found != NULL;
}

/* Lists the differences from a base (NULL: from no tokens). WHOLE: a list would be longer than the
 * mask. */
static uint32_t list_ids(const uint64_t *words, size_t n_words, const uint64_t *base,
                         uint32_t ids[MOST_LISTED]) {
    size_t most = n_words * (sizeof *words / sizeof *ids);
    uint32_t n = 0;
    if (most > MOST_LISTED) most = MOST_LISTED;
    for (size_t i = 0; i < n_words; i++) {
        for (uint64_t left = words[i] ^ (base ? base[i] : 0); left; left &= left - 1) {
            if (n == most) return WHOLE;
            ids[n++] = (uint32_t)(i * 64) + (uint32_t)__builtin_ctzll(left);
        }
    }
    return n;
}

void api__masks_keep(api__masks *masks, const api__mask_key *key, uint32_t base,
                     const uint64_t *words) {
    uint32_t ids[MOST_LISTED];
    uint32_t n_ids = list_ids(words, masks->n_words, base_of(masks, base), ids);
    uint64_t hash = hash_of(key);
    const void *mask = n_ids == WHOLE ? (const void *)words : ids;
    size_t bytes = n_ids == WHOLE ? masks->n_words * sizeof *words : n_ids * sizeof *ids;
    place at;
    lock_take(&masks->lock);
    masks->counts.made++;
    entry *made = find(masks, hash, key, &at) ? NULL : add(masks, hash, key->n_bytes + bytes);
    if (made) {
        made->base = base;
        made->n_ids = n_ids;
        at = (place){masks->blocks, made->chain, 0};
        write_bytes(&at, key->bytes, key->n_bytes);
        write_bytes(&at, mask, bytes);
    }
    lock_give(&masks->lock);
}

api__mask_counts api__masks_counts(api__masks *masks) {
    lock_take(&masks->lock);
    api__mask_counts counts = masks->counts;
    counts.bytes = counts.blocks * sizeof *masks->blocks;
    lock_give(&masks->lock);
    return counts;
}

int api__masks_open(api__masks **out, size_t n_words, const uint64_t *bases, size_t max_bytes) {
    api__masks *masks = *out = calloc(1, sizeof *masks);
    if (masks == NULL) return -1;
    size_t each = sizeof *masks->blocks +
                  (sizeof *masks->entries + 2 * sizeof *masks->buckets) / BLOCKS_PER_MASK;
    size_t n = max_bytes / each;
    lock_init(&masks->lock);
    list_init(&masks->used);
    masks->n_words = n_words;
    masks->bases = bases;
    masks->n_blocks = n > INT32_MAX ? INT32_MAX : (uint32_t)n;
    masks->n_entries = masks->n_blocks / BLOCKS_PER_MASK + 1;
    masks->n_buckets = masks->n_entries * 2;
    masks->blocks = array_new(masks->n_blocks, sizeof *masks->blocks);
    masks->entries = array_new(masks->n_entries, sizeof *masks->entries);
    masks->buckets = array_new(masks->n_buckets, sizeof *masks->buckets);
    if (masks->blocks && masks->entries && masks->buckets) return 0;
    api__masks_close(masks);
    *out = NULL;
    return -1;
}

void api__masks_close(api__masks *masks) {
    if (masks == NULL) return;
    lock_deinit(&masks->lock);
    free(masks->blocks);
    free(masks->entries);
    free(masks->buckets);
    free(masks);
}
