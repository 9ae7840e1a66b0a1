/* fuzz_bench_stream.c - any bytes as a server's stream. The load generator must find the same
 * events for any division into reads, and the text of a chunk must lie inside its event. The first
 * byte chooses the division. */
#include "loadgen/loadgen_internal.h"
#include "tests/fuzz/cost.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    uint64_t hash, events;
} event_hash;

static void mix(event_hash *seen, const void *bytes, size_t n) {
    const unsigned char *data = bytes;
    for (size_t i = 0; i < n; i++)
        seen->hash = (seen->hash ^ data[i]) * 0x100000001b3u;
}

static void inside(const char *text, size_t len, const char *json, size_t n) {
    if (text && (text < json || len > n || text > json + n - len)) abort();
}

static int on_data(void *ud, const char *json, size_t n) {
    static bench_chunk chunk;
    event_hash *seen = ud;
    seen->events++;
    mix(seen, json, n);
    int rc = bench_chunk_read(&chunk, json, n);
    mix(seen, &rc, sizeof rc);
    if (rc != 0) return 0;
    inside(chunk.text, chunk.text_len, json, n);
    inside(chunk.message, chunk.message_len, json, n);
    mix(seen, &chunk.n_depths, sizeof chunk.n_depths);
    return 0;
}

/* Conversely, a payload that jansson reads as an object is never called malformed. */
static void check_json(const char *text, size_t n) {
    static bench_chunk chunk;
    json_error_t why;
    json_t *root = json_loadb(text, n, 0, &why);
    if (json_is_object(root) && bench_chunk_read(&chunk, text, n) != 0) abort();
    json_decref(root);
}

static void one_input(const uint8_t *data, size_t size) {
    if (size < 1) return;
    const char *bytes = (const char *)data + 1;
    size_t n = size - 1, step = data[0] % 17 + 1u;
    check_json(bytes, n);
    event_hash whole = {0, 0}, pieces = {0, 0};
    bench_sse sse = {{0}, false};
    if (bench_sse_feed(&sse, bytes, n, on_data, &whole) != 0) abort();
    bool done = sse.done;
    bench_sse_reset(&sse);
    for (size_t at = 0; at < n; at += step) {
        size_t len = n - at < step ? n - at : step;
        char *copy = malloc(len); /* a block of its own, so ASan sees a read beyond it */
        if (copy == NULL) abort();
        memcpy(copy, bytes + at, len);
        if (bench_sse_feed(&sse, copy, len, on_data, &pieces) != 0) abort();
        free(copy);
    }
    if (whole.events != pieces.events || whole.hash != pieces.hash || done != sse.done) abort();
    buf_deinit(&sse.held);
}

FUZZ_TARGET(one_input, 500, 4000)
