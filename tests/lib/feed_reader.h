/* feed_reader.h - the reader of a feed: a set of blocks, checked against the prefix cache. */
#ifndef FATHOM_FEED_READER_H
#define FATHOM_FEED_READER_H

#include "scheduler/feed_internal.h"
#include "scheduler/scheduler_internal.h"

enum { FEED_BLOCKS = 512 };

typedef struct {
    kv_event blocks[FEED_BLOCKS]; /* KV_STORED and not removed */
    uint32_t n;
    uint64_t n_events, n_cleared;
} feed_reader;

/* Takes at most this many events. NULL, or the fault of an event: a block is stored twice, or
 * removed without being there. */
const char *feed_reader_take(feed_reader *reader, kv_feed *feed, uint32_t at_most);
/* Takes all events. NULL, or the fault: the reader's blocks are not those of the cache, except
 * blocks that had no room in the queue yet. */
const char *feed_reader_compare(feed_reader *reader, kv_feed *feed, const scheduler *sched);

#endif
