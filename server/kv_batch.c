/* kv_batch.c - KV events in the format of vLLM, as llm-d's router reads it.
 *
 * An event is an array: its name, then fields by position. vLLM of late writes maps instead. The
 * router takes both, and earlier ones take arrays alone. Even small hashes have the
 * type uint 64, since readers in Go tell a hash by its type. */
#include "base/msgpack.h"
#include "server/kv_events_internal.h"

/* vLLM's name of the first tier of a cache, whatever the device. Readers take another name for
 * memory further away. */
#define MEDIUM "GPU"

/* How many of the n events, from the first on, share one event on the wire. */
static uint32_t run_length(const kv_event *events, uint32_t n) {
    uint32_t i = 1;
    if (events[0].kind == KV_CLEARED) return 1;
    for (; i < n && events[i].kind == events[0].kind; i++) {
        if (events[i].kind == KV_STORED && events[i].parent != events[i - 1].hash) break;
    }
    return i;
}

static void put_hashes(buf *out, const kv_event *events, uint32_t n) {
    msgpack_array(out, n);
    for (uint32_t i = 0; i < n; i++)
        msgpack_uint64(out, events[i].hash);
}

static void put_stored(buf *out, const kv_event *events, uint32_t n) {
    msgpack_array(out, 8);
    msgpack_text(out, "BlockStored");
    put_hashes(out, events, n);
    if (events[0].parent) msgpack_uint64(out, events[0].parent);
    else msgpack_nil(out);
    msgpack_array(out, n * ENG_BLOCK);
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t k = 0; k < ENG_BLOCK; k++)
            msgpack_uint(out, events[i].tokens[k]);
    }
    msgpack_uint(out, ENG_BLOCK);
    msgpack_nil(out); /* lora_id */
    msgpack_text(out, MEDIUM);
    msgpack_nil(out); /* lora_name */
}

static void put_run(buf *out, const kv_event *events, uint32_t n) {
    switch (events[0].kind) {
    case KV_STORED: put_stored(out, events, n); break;
    case KV_REMOVED:
        msgpack_array(out, 3);
        msgpack_text(out, "BlockRemoved");
        put_hashes(out, events, n);
        msgpack_text(out, MEDIUM);
        break;
    case KV_CLEARED:
        msgpack_array(out, 1);
        msgpack_text(out, "AllBlocksCleared");
        break;
    }
}

void srv_kv_batch(buf *out, const kv_event *events, uint32_t n, double unix_s) {
    uint32_t runs = 0;
    for (uint32_t i = 0; i < n; i += run_length(events + i, n - i))
        runs++;
    msgpack_array(out, 3);
    msgpack_double(out, unix_s);
    msgpack_array(out, runs);
    for (uint32_t i = 0, run; i < n; i += run) {
        run = run_length(events + i, n - i);
        put_run(out, events + i, run);
    }
    msgpack_uint(out, 0); /* data_parallel_rank */
}
