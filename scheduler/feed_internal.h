/* feed_internal.h - the scheduler's side of a feed; the engine thread, and sched_create. */
#ifndef FATHOM_SCHED_FEED_INTERNAL_H
#define FATHOM_SCHED_FEED_INTERNAL_H

#include "scheduler/cache.h"
#include "scheduler/feed.h"

/* Joins the feed to the caches of all homes, which are of one size and outlive its use. plain: the
 * key of the blocks to tell, at any home; NULL: no block is told. */
int sched__feed_open(kv_feed *feed, kv_cache *caches, uint32_t n_caches, const prefix_key *plain,
                     err *e) WARN_UNUSED;
const prefix_key *sched__feed_key(const kv_feed *feed); /* NULL: no block is told */
/* Block id entered the prefix table, with the feed's key at some home; or is about to leave it,
 * with any key. */
void sched__feed_stored(kv_cache *cache, uint32_t id);
void sched__feed_removed(kv_cache *cache, uint32_t id);
void sched__feed_turn(kv_feed *feed); /* catches up, rings; once a step */
/* Tests, before sched_create: most events in the queue. */
void sched__feed_set_room(kv_feed *feed, uint32_t n_events);

#endif
