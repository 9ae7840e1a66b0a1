/* feed.c - see feed.h.
 *
 * All blocks to tell, of all homes, stand in one list in the order of storing, so a block stands
 * behind the block before it. The first part of the list is told, the rest is not yet; `next` is
 * the first of the rest. To tell everything again, `next` goes back to the first block.
 *
 * The rule of the queue: events in it, plus blocks told, plus one never exceed its room. A removal
 * turns a block told into an event, so it always fits. */
#include "scheduler/feed_internal.h"

#include "base/queue.h"
#include "base/size.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum {
    SLACK = 1024,         /* events in the queue beyond one for each block */
    UNTOLD = 1,           /* in the list, not told */
    FIRST_ROUND = UNTOLD, /* a block told in round n has the state n + 1 */
};

typedef struct {
    uint32_t prev, after;
    uint32_t state; /* 0: not in the list; UNTOLD; above: told in this round */
} feed_link;

struct kv_feed {
    void (*ring)(void *ud);
    void *ud;
    queue *events; /* kv_event */
    uint32_t room; /* of the queue */
    prefix_key plain;
    bool tells, pushed;
    const kv_cache *caches; /* of the scheduler, all with n_blocks blocks */
    uint32_t n_blocks;
    feed_link *links; /* [n_caches * n_blocks] */
    uint32_t first, last, next, n_told, n_listed;
    uint32_t round; /* counts restatements; a block with another round's state is untold */
    atomic_bool restate;
    atomic_uint untold;
    atomic_uint_fast64_t n_events; /* told since the beginning */
};

int kv_feed_create(kv_feed **out, void (*ring)(void *ud), void *ud, err *e) {
    kv_feed *feed = *out = calloc(1, sizeof *feed);
    if (feed == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the KV events");
    feed->ring = ring;
    feed->ud = ud;
    feed->first = feed->last = feed->next = NONE;
    feed->round = FIRST_ROUND;
    return 0;
}

void kv_feed_destroy(kv_feed *feed) {
    if (feed == NULL) return;
    queue_destroy(feed->events);
    free(feed->links);
    free(feed);
}

void sched__feed_set_room(kv_feed *feed, uint32_t n_events) {
    feed->room = n_events;
}

int sched__feed_open(kv_feed *feed, kv_cache *caches, uint32_t n_caches, const prefix_key *plain,
                     err *e) {
    uint64_t n_links = (uint64_t)caches[0].n_blocks * n_caches;
    feed->tells = plain != NULL;
    if (plain) feed->plain = *plain;
    feed->caches = caches;
    feed->n_blocks = caches[0].n_blocks;
    if (feed->room == 0 && n_links < UINT32_MAX - SLACK) feed->room = (uint32_t)n_links + SLACK;
    feed->links = array_new(n_links, sizeof *feed->links);
    if (feed->links == NULL || feed->room == 0)
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the KV events");
    for (uint32_t i = 0; i < n_caches; i++) {
        caches[i].feed = feed;
        caches[i].first_link = i * feed->n_blocks;
    }
    return queue_create(&feed->events, sizeof(kv_event), feed->room, e);
}

const prefix_key *sched__feed_key(const kv_feed *feed) {
    return feed->tells ? &feed->plain : NULL;
}

/* ---- telling ---- */

/* Half of a keyed hash names the block; the other half chooses its bucket. */
static uint64_t name_of(const hash128 *hash) {
    return hash->half[1] ? hash->half[1] : 1;
}

/* Room for `more` events, with n_told blocks told after them. */
static bool fits(const kv_feed *feed, uint32_t more, uint32_t n_told) {
    return queue_len(feed->events) + more + n_told + 1 <= feed->room;
}

static void push(kv_feed *feed, const kv_event *event) {
    atomic_fetch_add_explicit(&feed->n_events, 1, memory_order_relaxed);
    feed->pushed |= queue_push(feed->events, event); /* cannot fail, see above */
}

static void tell_stored(kv_feed *feed, const block_content *content) {
    kv_event event = {.kind = KV_STORED, .hash = name_of(&content->hash)};
    bool first = content->parent.half[0] == 0 && content->parent.half[1] == 0;
    if (!first) event.parent = name_of(&content->parent);
    memcpy(event.tokens, content->tokens, sizeof event.tokens);
    push(feed, &event);
}

static void count_untold(kv_feed *feed) {
    atomic_store_explicit(&feed->untold, feed->n_listed - feed->n_told, memory_order_relaxed);
}

static const block_content *content_of(const kv_feed *feed, uint32_t at) {
    return &feed->caches[at / feed->n_blocks].contents[at % feed->n_blocks];
}

static void tell_more(kv_feed *feed) {
    while (feed->next != NONE && fits(feed, 1, feed->n_told + 1)) {
        feed_link *link = &feed->links[feed->next];
        tell_stored(feed, content_of(feed, feed->next));
        link->state = feed->round + 1;
        feed->next = link->after;
        feed->n_told++;
    }
    count_untold(feed);
}

void sched__feed_stored(kv_cache *cache, uint32_t id) {
    kv_feed *feed = cache->feed;
    uint32_t at = cache->first_link + id;
    feed->links[at] = (feed_link){.prev = feed->last, .after = NONE, .state = UNTOLD};
    *(feed->last == NONE ? &feed->first : &feed->links[feed->last].after) = at;
    feed->last = at;
    if (feed->next == NONE) feed->next = at;
    feed->n_listed++;
    tell_more(feed);
}

void sched__feed_removed(kv_cache *cache, uint32_t id) {
    kv_feed *feed = cache->feed;
    uint32_t at = cache->first_link + id;
    feed_link *link = &feed->links[at];
    if (link->state == 0) return;
    *(link->prev == NONE ? &feed->first : &feed->links[link->prev].after) = link->after;
    *(link->after == NONE ? &feed->last : &feed->links[link->after].prev) = link->prev;
    if (feed->next == at) feed->next = link->after;
    feed->n_listed--;
    if (link->state == feed->round + 1) {
        feed->n_told--;
        push(feed, &(kv_event){.kind = KV_REMOVED, .hash = name_of(&cache->contents[id].hash)});
    }
    link->state = 0;
    count_untold(feed);
}

/* Without room for KV_CLEARED the wish stays. */
static void restate(kv_feed *feed) {
    if (!atomic_load_explicit(&feed->restate, memory_order_relaxed) || !fits(feed, 1, 0)) return;
    atomic_store_explicit(&feed->restate, false, memory_order_relaxed);
    push(feed, &(kv_event){.kind = KV_CLEARED});
    feed->round++;
    feed->n_told = 0;
    feed->next = feed->first;
}

void sched__feed_turn(kv_feed *feed) {
    restate(feed);
    tell_more(feed);
    if (feed->pushed && feed->ring) feed->ring(feed->ud);
    feed->pushed = false;
}

/* ---- the reader ---- */

bool kv_feed_take(kv_feed *feed, kv_event *out) {
    return queue_pop(feed->events, out);
}

void kv_feed_restate(kv_feed *feed) {
    atomic_store_explicit(&feed->restate, true, memory_order_relaxed);
}

uint64_t kv_feed_n_told(const kv_feed *feed) {
    return atomic_load_explicit(&((kv_feed *)(uintptr_t)feed)->n_events, memory_order_relaxed);
}

uint32_t kv_feed_untold(const kv_feed *feed) {
    return atomic_load_explicit(&((kv_feed *)(uintptr_t)feed)->untold, memory_order_relaxed);
}
