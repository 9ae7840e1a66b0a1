/* feed_reader.c - see feed_reader.h. */
#include "tests/lib/feed_reader.h"

#include "scheduler/prefix.h"

#include <string.h>

static uint32_t find(const feed_reader *reader, uint64_t hash) {
    uint32_t i = 0;
    while (i < reader->n && reader->blocks[i].hash != hash)
        i++;
    return i;
}

static const char *apply(feed_reader *reader, const kv_event *event) {
    uint32_t at = find(reader, event->hash);
    reader->n_events++;
    switch (event->kind) {
    case KV_CLEARED:
        reader->n = 0;
        reader->n_cleared++;
        return NULL;
    case KV_REMOVED:
        if (at == reader->n) return "a block is removed that was not told";
        reader->blocks[at] = reader->blocks[--reader->n];
        return NULL;
    case KV_STORED:
        if (at < reader->n) return "a block is stored twice";
        if (event->hash == 0 || reader->n == FEED_BLOCKS) return "no such block";
        reader->blocks[reader->n++] = *event;
        return NULL;
    }
    return "an event of no kind";
}

const char *feed_reader_take(feed_reader *reader, kv_feed *feed, uint32_t at_most) {
    kv_event event;
    const char *fault = NULL;
    for (uint32_t i = 0; i < at_most && fault == NULL && kv_feed_take(feed, &event); i++)
        fault = apply(reader, &event);
    return fault;
}

static uint64_t name_of(const hash128 *hash) {
    return hash->half[0] || hash->half[1] ? hash->half[1] : 0;
}

/* Adds the blocks of one home that are to be told, and those known to the reader. */
static const char *compare_home(const feed_reader *reader, const scheduler *sched, uint32_t home,
                                uint32_t *to_tell, uint32_t *known) {
    const kv_cache *cache = &sched->caches[home];
    prefix_key plain;
    err e = {0};
    if (sched__plain_key(&sched->limits, &plain, &e) != 0) return "no plain key";
    plain.home = (uint16_t)home;
    for (uint32_t id = 0; id < cache->n_blocks; id++) {
        const block_content *content = &cache->contents[id];
        if (!cache->blocks[id].taken || !cache->blocks[id].cached) continue;
        uint32_t at = find(reader, name_of(&content->hash));
        bool tell = sched__same_key(&content->key, &plain) &&
                    (sched->limits.opts.share_cache || sched->limits.opts.max_tenants == 1);
        *to_tell += tell;
        *known += at < reader->n;
        if (at == reader->n) continue;
        const kv_event *told = &reader->blocks[at];
        if (!tell) return "a block was told that a plain request cannot find";
        if (memcmp(told->tokens, content->tokens, sizeof told->tokens) != 0 ||
            told->parent != name_of(&content->parent))
            return "a block was told with other tokens or another parent";
    }
    return NULL;
}

const char *feed_reader_compare(feed_reader *reader, kv_feed *feed, const scheduler *sched) {
    const char *fault = feed_reader_take(reader, feed, UINT32_MAX);
    uint32_t to_tell = 0, known = 0;
    for (uint32_t home = 0; home < sched->n_homes && fault == NULL; home++)
        fault = compare_home(reader, sched, home, &to_tell, &known);
    if (fault) return fault;
    if (known != reader->n) return "the reader knows a block that is gone";
    if (to_tell - known != kv_feed_untold(feed)) return "a block is missing that is not late";
    return NULL;
}
