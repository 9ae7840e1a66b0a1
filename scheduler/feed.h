/* feed.h - tells another thread the blocks of the prefix cache, as they come and go.
 *
 * A block is told if a request without a salt and without a depth of its own would find it; no
 * block is told if tenants do not share the cache. So a reader never learns of a block without use
 * for its own requests.
 *
 * No event is lost. Between the engine and the reader stands a queue with room for the removal of
 * every block told so far. A block without further room is told later, in its turn, or never if it
 * is evicted before. So a slow reader knows too few blocks, but no wrong ones, and the engine never
 * waits and never allocates. */
#ifndef FATHOM_SCHED_FEED_H
#define FATHOM_SCHED_FEED_H

#include "engine/backend.h"

typedef enum { KV_STORED, KV_REMOVED, KV_CLEARED } kv_event_kind;

typedef struct {
    kv_event_kind kind; /* KV_CLEARED: the list is empty; blocks still cached are told again */
    uint64_t hash;      /* names the block; never 0. A hash of its tokens and of all before them */
    uint64_t parent;    /* KV_STORED: hash of the block before it; 0: it is the first */
    uint32_t tokens[ENG_BLOCK]; /* KV_STORED */
} kv_event;

typedef struct kv_feed kv_feed;
/* ring is called on the engine thread when events are waiting; it must not block. A feed serves
 * one scheduler (sched_opts.feed); sched_create allocates its queue. */
int kv_feed_create(kv_feed **out, void (*ring)(void *ud), void *ud, err *e) WARN_UNUSED;
void kv_feed_destroy(kv_feed *feed); /* after its scheduler; NULL is fine */
/* The reader's thread, once the scheduler is created. The block before a block is told first,
 * unless it was evicted. False: no event for now. */
bool kv_feed_take(kv_feed *feed, kv_event *out) WARN_UNUSED;
/* Any thread: asks for KV_CLEARED and then every block again, for a late reader. It is
 * done in the engine's next step, within 50 ms if the engine is idle. */
void kv_feed_restate(kv_feed *feed);
/* Any thread: cached blocks not told yet, and the number of events told since the beginning. */
uint32_t kv_feed_untold(const kv_feed *feed);
uint64_t kv_feed_n_told(const kv_feed *feed);

#endif
