/* sse.c - server-sent events and the few fields of a chunk that are figures.
 *
 * A generator that parsed every chunk into a tree would measure its own allocator. This
 * reader walks the JSON once, in place: it follows choices, usage and error and skips the
 * rest. It accepts some things that are not JSON (it does not check numbers or escapes);
 * the server's own tests do that. */
#include "loadgen/loadgen_internal.h"

#include <string.h>

/* ---- a cursor over JSON; p == NULL means it went wrong ---- */

typedef struct {
    const char *p, *end;
} cursor;

static void space(cursor *c) {
    while (c->p < c->end && (*c->p == ' ' || *c->p == '\t' || *c->p == '\n' || *c->p == '\r'))
        c->p++;
}

static bool take(cursor *c, char want) {
    space(c);
    if (c->p >= c->end || *c->p != want) return false;
    c->p++;
    return true;
}

static bool peek(cursor *c, char want) {
    space(c);
    return c->p < c->end && *c->p == want;
}

/* A string without its quotes, still escaped. */
static bool string(cursor *c, const char **at, size_t *n) {
    if (!take(c, '"')) return false;
    const char *from = c->p;
    while (c->p < c->end && *c->p != '"') {
        if (*c->p == '\\') {
            if (c->end - c->p < 2) return false;
            c->p++;
        }
        c->p++;
    }
    if (c->p >= c->end) return false;
    *at = from;
    *n = (size_t)(c->p++ - from);
    return true;
}

/* Any value; nesting is counted, not recursed into. */
static bool skip(cursor *c) {
    size_t depth = 0;
    do {
        space(c);
        if (c->p >= c->end) return false;
        const char *at;
        size_t n;
        switch (*c->p) {
        case '{':
        case '[':
            depth++;
            c->p++;
            break;
        case '}':
        case ']':
            if (depth == 0) return false;
            depth--;
            c->p++;
            break;
        case '"':
            if (!string(c, &at, &n)) return false;
            break;
        case ',':
        case ':':
            if (depth == 0) return false;
            c->p++;
            continue; /* a value still has to come */
        default: {
            const char *from = c->p;
            while (c->p < c->end && !memchr(",:{}[]\" \t\r\n", *c->p, 11))
                c->p++;
            if (c->p == from) return false;
        }
        }
    } while (depth > 0);
    return true;
}

static bool number(cursor *c, uint64_t *out) {
    space(c);
    const char *from = c->p;
    uint64_t v = 0;
    while (c->p < c->end && *c->p >= '0' && *c->p <= '9' && c->p - from < 18) {
        v = v * 10 + (uint64_t)(*c->p++ - '0');
    }
    if (c->p == from) return skip(c); /* null, negative or no number: stays as it was */
    *out = v;
    return true;
}

/* Steps through an object: true with the next key, false at its end or when it is broken
 * (then c->p is NULL). Call with *first true. */
static bool next_key(cursor *c, bool *first, const char **key, size_t *n) {
    if (*first) {
        *first = false;
        if (!take(c, '{')) goto broken;
        if (take(c, '}')) return false;
    } else {
        if (take(c, '}')) return false;
        if (!take(c, ',')) goto broken;
    }
    if (string(c, key, n) && take(c, ':')) return true;
broken:
    c->p = NULL;
    return false;
}

static bool is(const char *key, size_t n, const char *name) {
    return n == strlen(name) && memcmp(key, name, n) == 0;
}

/* ---- the shapes ---- */

static bool read_depths(cursor *c, bench_chunk *out) {
    if (!peek(c, '[')) return skip(c);
    c->p++;
    if (take(c, ']')) return true;
    do {
        uint64_t d = 0;
        if (!number(c, &d)) return false;
        if (out->n_depths < ARRAY_LEN(out->depths)) {
            out->depths[out->n_depths] = (uint16_t)(d > UINT16_MAX ? UINT16_MAX : d);
        }
        out->n_depths++;
        out->depth_sum += d;
    } while (take(c, ','));
    return take(c, ']');
}

static bool read_text(cursor *c, bench_chunk *out, bool wanted) {
    const char *at;
    size_t n;
    if (!peek(c, '"')) return skip(c);
    if (!string(c, &at, &n)) return false;
    if (wanted) {
        out->text = at;
        out->text_len = n;
    }
    return true;
}

static bool read_delta(cursor *c, bench_chunk *out, bool wanted) {
    if (!peek(c, '{')) return skip(c);
    bool first = true;
    const char *key;
    size_t n;
    while (next_key(c, &first, &key, &n)) {
        bool ok = is(key, n, "content") ? read_text(c, out, wanted) : skip(c);
        if (!ok) return false;
    }
    return c->p != NULL;
}

static bool read_choice(cursor *c, bench_chunk *out, bool is_first) {
    if (!peek(c, '{')) return skip(c);
    bool first = true;
    const char *key;
    size_t n;
    while (next_key(c, &first, &key, &n)) {
        bool ok;
        if (is(key, n, "depths")) ok = read_depths(c, out);
        else if (is(key, n, "text")) ok = read_text(c, out, is_first);
        else if (is(key, n, "delta")) ok = read_delta(c, out, is_first);
        else ok = skip(c);
        if (!ok) return false;
    }
    return c->p != NULL;
}

static bool read_choices(cursor *c, bench_chunk *out) {
    if (!peek(c, '[')) return skip(c);
    c->p++;
    if (take(c, ']')) return true;
    bool is_first = true;
    out->has_choice = true;
    do {
        if (!read_choice(c, out, is_first)) return false;
        is_first = false;
    } while (take(c, ','));
    return take(c, ']');
}

static bool read_details(cursor *c, bench_chunk *out) {
    if (!peek(c, '{')) return skip(c);
    bool first = true;
    const char *key;
    size_t n;
    while (next_key(c, &first, &key, &n)) {
        bool ok = is(key, n, "loops") ? number(c, &out->usage_loops) : skip(c);
        if (!ok) return false;
    }
    return c->p != NULL;
}

static bool read_usage(cursor *c, bench_chunk *out) {
    if (!peek(c, '{')) return skip(c);
    out->has_usage = true;
    bool first = true;
    const char *key;
    size_t n;
    while (next_key(c, &first, &key, &n)) {
        bool ok;
        if (is(key, n, "prompt_tokens")) ok = number(c, &out->usage_input);
        else if (is(key, n, "completion_tokens")) ok = number(c, &out->usage_output);
        else if (is(key, n, "completion_tokens_details")) ok = read_details(c, out);
        else ok = skip(c);
        if (!ok) return false;
    }
    return c->p != NULL;
}

static bool read_error(cursor *c, bench_chunk *out) {
    if (peek(c, 'n')) return skip(c); /* null is no error */
    out->is_error = true;
    if (peek(c, '"')) return string(c, &out->message, &out->message_len);
    if (!peek(c, '{')) return skip(c);
    bool first = true;
    const char *key;
    size_t n;
    while (next_key(c, &first, &key, &n)) {
        bool ok = is(key, n, "message") && peek(c, '"')
                      ? string(c, &out->message, &out->message_len)
                      : skip(c);
        if (!ok) return false;
    }
    return c->p != NULL;
}

int bench_chunk_read(bench_chunk *out, const char *json, size_t n) {
    /* All but the depths: clearing those for every token would cost more than reading. */
    out->has_choice = out->has_usage = out->is_error = false;
    out->n_depths = 0;
    out->depth_sum = out->usage_input = out->usage_output = out->usage_loops = 0;
    out->text = out->message = NULL;
    out->text_len = out->message_len = 0;
    cursor c = {json, json + n};
    bool first = true;
    const char *key;
    size_t len;
    while (next_key(&c, &first, &key, &len)) {
        bool ok;
        if (is(key, len, "choices")) ok = read_choices(&c, out);
        else if (is(key, len, "usage")) ok = read_usage(&c, out);
        else if (is(key, len, "error")) ok = read_error(&c, out);
        else ok = skip(&c);
        if (!ok) return -1;
    }
    if (c.p == NULL) return -1;
    space(&c);
    return c.p == c.end ? 0 : -1;
}

/* ---- lines ---- */

static int on_line(bench_sse *s, const char *line, size_t n, bench_on_data on_data, void *ud) {
    if (n && line[n - 1] == '\r') n--;
    if (n < 5 || memcmp(line, "data:", 5) != 0) return 0; /* blank, comment, event: */
    line += 5;
    n -= 5;
    if (n && *line == ' ') {
        line++;
        n--;
    }
    if (n >= 6 && memcmp(line, "[DONE]", 6) == 0) {
        s->done = true;
        return 0;
    }
    return on_data(ud, line, n);
}

int bench_sse_feed(bench_sse *s, const char *bytes, size_t n, bench_on_data on_data, void *ud) {
    const char *end = bytes + n;
    while (bytes < end) {
        const char *eol = memchr(bytes, '\n', (size_t)(end - bytes));
        if (eol == NULL) break;
        int rc;
        if (s->held.len == 0) {
            rc = on_line(s, bytes, (size_t)(eol - bytes), on_data, ud);
        } else {
            buf_append(&s->held, bytes, (size_t)(eol - bytes));
            if (s->held.failed) return -1;
            rc = on_line(s, s->held.data, s->held.len, on_data, ud);
            buf_clear(&s->held);
        }
        if (rc != 0) return rc;
        bytes = eol + 1;
    }
    if (bytes == end) return 0;
    s->held.max = BENCH_SSE_HELD;
    buf_append(&s->held, bytes, (size_t)(end - bytes));
    return s->held.failed ? -1 : 0;
}

void bench_sse_reset(bench_sse *s) {
    buf_clear(&s->held);
    s->done = false;
}
