/* fuzz_bench_stream.c - any bytes as a server's stream: the load generator must find the same
 * events in them however they are cut, and no text of a chunk may lie outside its event.
 * The first byte says how the rest is cut. */
#include "loadgen/loadgen_internal.h"
#include "tests/fuzz/cost.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    uint64_t hash, events;
} seen;

static void mix(seen *s, const void *bytes, size_t n) {
    const unsigned char *p = bytes;
    for (size_t i = 0; i < n; i++)
        s->hash = (s->hash ^ p[i]) * 0x100000001b3u;
}

static void inside(const char *text, size_t len, const char *json, size_t n) {
    if (text && (text < json || len > n || text > json + n - len)) abort();
}

static int on_data(void *ud, const char *json, size_t n) {
    static bench_chunk c;
    seen *s = ud;
    s->events++;
    mix(s, json, n);
    int rc = bench_chunk_read(&c, json, n);
    mix(s, &rc, sizeof rc);
    if (rc != 0) return 0;
    inside(c.text, c.text_len, json, n);
    inside(c.message, c.message_len, json, n);
    /* What jansson takes for an object must be readable here too. */
    mix(s, &c.n_depths, sizeof c.n_depths);
    return 0;
}

/* The other direction: a payload that is JSON is never called malformed. */
static void check_json(const char *text, size_t n) {
    static bench_chunk c;
    json_error_t why;
    json_t *root = json_loadb(text, n, 0, &why);
    if (json_is_object(root) && bench_chunk_read(&c, text, n) != 0) abort();
    json_decref(root);
}

static void one_input(const uint8_t *data, size_t size) {
    if (size < 1) return;
    const char *bytes = (const char *)data + 1;
    size_t n = size - 1, step = data[0] % 17 + 1u;
    check_json(bytes, n);
    seen whole = {0, 0}, pieces = {0, 0};
    bench_sse s = {{0}, false};
    if (bench_sse_feed(&s, bytes, n, on_data, &whole) != 0) abort();
    bool done = s.done;
    bench_sse_reset(&s);
    for (size_t at = 0; at < n; at += step) {
        size_t len = n - at < step ? n - at : step;
        char *copy = malloc(len); /* its own block: ASan sees a byte too far */
        if (copy == NULL) abort();
        memcpy(copy, bytes + at, len);
        if (bench_sse_feed(&s, copy, len, on_data, &pieces) != 0) abort();
        free(copy);
    }
    if (whole.events != pieces.events || whole.hash != pieces.hash || done != s.done) abort();
    buf_deinit(&s.held);
}

FUZZ_TARGET(one_input, 500, 4000)
