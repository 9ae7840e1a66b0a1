/* sse.c - reads server-sent events and the fields of a chunk that the figures need.
 *
 * Parsing every chunk into a tree would measure this program's allocator. This reader walks the
 * JSON once, in place: it reads choices, usage and error and skips the rest. It accepts some
 * invalid JSON (it does not check numbers or escapes), because the server has its own tests for
 * that. */
#include "loadgen/loadgen_internal.h"

#include <string.h>

/* ---- a cursor over JSON; at == NULL after an error ---- */

typedef struct {
    const char *at, *end;
} cursor;

static void space(cursor *cur) {
    while (cur->at < cur->end &&
           (*cur->at == ' ' || *cur->at == '\t' || *cur->at == '\n' || *cur->at == '\r'))
        cur->at++;
}

static bool take(cursor *cur, char want) {
    space(cur);
    if (cur->at >= cur->end || *cur->at != want) return false;
    cur->at++;
    return true;
}

static bool peek(cursor *cur, char want) {
    space(cur);
    return cur->at < cur->end && *cur->at == want;
}

/* A string without its quotes, still escaped. */
static bool string(cursor *cur, const char **at, size_t *n) {
    if (!take(cur, '"')) return false;
    const char *from = cur->at;
    while (cur->at < cur->end && *cur->at != '"') {
        if (*cur->at == '\\') {
            if (cur->end - cur->at < 2) return false;
            cur->at++;
        }
        cur->at++;
    }
    if (cur->at >= cur->end) return false;
    *at = from;
    *n = (size_t)(cur->at++ - from);
    return true;
}

/* Any value; counts the nesting instead of recursing. */
static bool skip(cursor *cur) {
    size_t depth = 0;
    do {
        space(cur);
        if (cur->at >= cur->end) return false;
        const char *at;
        size_t n;
        switch (*cur->at) {
        case '{':
        case '[':
            depth++;
            cur->at++;
            break;
        case '}':
        case ']':
            if (depth == 0) return false;
            depth--;
            cur->at++;
            break;
        case '"':
            if (!string(cur, &at, &n)) return false;
            break;
        case ',':
        case ':':
            if (depth == 0) return false;
            cur->at++;
            continue; /* a value must follow */
        default: {
            const char *from = cur->at;
            while (cur->at < cur->end && !memchr(",:{}[]\" \t\r\n", *cur->at, 11))
                cur->at++;
            if (cur->at == from) return false;
        }
        }
    } while (depth > 0);
    return true;
}

static bool number(cursor *cur, uint64_t *out) {
    space(cur);
    const char *from = cur->at;
    uint64_t value = 0;
    while (cur->at < cur->end && *cur->at >= '0' && *cur->at <= '9' && cur->at - from < 18) {
        value = value * 10 + (uint64_t)(*cur->at++ - '0');
    }
    if (cur->at == from) return skip(cur); /* null, negative or not a number: *out stays as it is */
    *out = value;
    return true;
}

/* Steps through an object: true with the next key; false at its end or after an error (then cur->at
 * is NULL). Call with *first true. */
static bool next_key(cursor *cur, bool *first, const char **key, size_t *n) {
    if (*first) {
        *first = false;
        if (!take(cur, '{')) goto broken;
        if (take(cur, '}')) return false;
    } else {
        if (take(cur, '}')) return false;
        if (!take(cur, ',')) goto broken;
    }
    if (string(cur, key, n) && take(cur, ':')) return true;
broken:
    cur->at = NULL;
    return false;
}

static bool is(const char *key, size_t n, const char *name) {
    return n == strlen(name) && memcmp(key, name, n) == 0;
}

/* ---- the shapes ---- */

static bool read_depths(cursor *cur, bench_chunk *out) {
    if (!peek(cur, '[')) return skip(cur);
    cur->at++;
    if (take(cur, ']')) return true;
    do {
        uint64_t depth = 0;
        if (!number(cur, &depth)) return false;
        if (out->n_depths < ARRAY_LEN(out->depths)) {
            out->depths[out->n_depths] = (uint16_t)(depth > UINT16_MAX ? UINT16_MAX : depth);
        }
        out->n_depths++;
        out->has_token = true;
        out->depth_sum += depth;
    } while (take(cur, ','));
    return take(cur, ']');
}

static bool read_text(cursor *cur, bench_chunk *out, bool wanted) {
    const char *at;
    size_t n;
    if (!peek(cur, '"')) return skip(cur);
    if (!string(cur, &at, &n)) return false;
    if (n > 0) out->has_token = true;
    if (wanted) {
        out->text = at;
        out->text_len = n;
    }
    return true;
}

/* token_ids, tool_calls: a list that is not empty is a token or a part of one. */
static bool read_list(cursor *cur, bench_chunk *out) {
    cursor ahead = *cur;
    if (take(&ahead, '[') && !peek(&ahead, ']')) out->has_token = true;
    return skip(cur);
}

static bool read_delta(cursor *cur, bench_chunk *out, bool wanted) {
    if (!peek(cur, '{')) return skip(cur);
    bool first = true;
    const char *key;
    size_t n;
    while (next_key(cur, &first, &key, &n)) {
        bool ok;
        if (is(key, n, "content")) ok = read_text(cur, out, wanted);
        else if (is(key, n, "tool_calls")) ok = read_list(cur, out);
        else if (is(key, n, "role")) ok = skip(cur);
        else ok = read_text(cur, out, false); /* reasoning_content, refusal */
        if (!ok) return false;
    }
    return cur->at != NULL;
}

static bool read_choice(cursor *cur, bench_chunk *out, bool is_first) {
    if (!peek(cur, '{')) return skip(cur);
    bool first = true;
    const char *key;
    size_t n;
    while (next_key(cur, &first, &key, &n)) {
        bool ok;
        if (is(key, n, "depths")) ok = read_depths(cur, out);
        else if (is(key, n, "text")) ok = read_text(cur, out, is_first);
        else if (is(key, n, "delta")) ok = read_delta(cur, out, is_first);
        else if (is(key, n, "token_ids")) ok = read_list(cur, out);
        else ok = skip(cur);
        if (!ok) return false;
    }
    return cur->at != NULL;
}

static bool read_choices(cursor *cur, bench_chunk *out) {
    if (!peek(cur, '[')) return skip(cur);
    cur->at++;
    if (take(cur, ']')) return true;
    bool is_first = true;
    out->has_choice = true;
    do {
        if (!read_choice(cur, out, is_first)) return false;
        is_first = false;
    } while (take(cur, ','));
    return take(cur, ']');
}

static bool read_details(cursor *cur, bench_chunk *out) {
    if (!peek(cur, '{')) return skip(cur);
    bool first = true;
    const char *key;
    size_t n;
    while (next_key(cur, &first, &key, &n)) {
        bool ok = is(key, n, "loops") ? number(cur, &out->usage_loops) : skip(cur);
        if (!ok) return false;
    }
    return cur->at != NULL;
}

static bool read_usage(cursor *cur, bench_chunk *out) {
    if (!peek(cur, '{')) return skip(cur);
    out->has_usage = true;
    bool first = true;
    const char *key;
    size_t n;
    while (next_key(cur, &first, &key, &n)) {
        bool ok;
        if (is(key, n, "prompt_tokens")) ok = number(cur, &out->usage_input);
        else if (is(key, n, "completion_tokens")) ok = number(cur, &out->usage_output);
        else if (is(key, n, "completion_tokens_details")) ok = read_details(cur, out);
        else ok = skip(cur);
        if (!ok) return false;
    }
    return cur->at != NULL;
}

static bool read_error(cursor *cur, bench_chunk *out) {
    if (peek(cur, 'n')) return skip(cur); /* null means no error */
    out->is_error = true;
    if (peek(cur, '"')) return string(cur, &out->message, &out->message_len);
    if (!peek(cur, '{')) return skip(cur);
    bool first = true;
    const char *key;
    size_t n;
    while (next_key(cur, &first, &key, &n)) {
        bool ok = is(key, n, "message") && peek(cur, '"')
                      ? string(cur, &out->message, &out->message_len)
                      : skip(cur);
        if (!ok) return false;
    }
    return cur->at != NULL;
}

int bench_chunk_read(bench_chunk *out, const char *json, size_t n) {
    /* Clears all but `depths`: clearing these for every token would cost more than reading. */
    out->has_choice = out->has_token = out->has_usage = out->is_error = false;
    out->n_depths = 0;
    out->depth_sum = out->usage_input = out->usage_output = out->usage_loops = 0;
    out->text = out->message = NULL;
    out->text_len = out->message_len = 0;
    cursor cur = {json, json + n};
    bool first = true;
    const char *key;
    size_t len;
    while (next_key(&cur, &first, &key, &len)) {
        bool ok;
        if (is(key, len, "choices")) ok = read_choices(&cur, out);
        else if (is(key, len, "usage")) ok = read_usage(&cur, out);
        else if (is(key, len, "error")) ok = read_error(&cur, out);
        else ok = skip(&cur);
        if (!ok) return -1;
    }
    if (cur.at == NULL) return -1;
    space(&cur);
    return cur.at == cur.end ? 0 : -1;
}

/* ---- lines ---- */

static int on_line(bench_sse *sse, const char *line, size_t n, bench_on_data on_data, void *ud) {
    if (n && line[n - 1] == '\r') n--;
    if (n < 5 || memcmp(line, "data:", 5) != 0) return 0; /* blank, comment, event: */
    line += 5;
    n -= 5;
    if (n && *line == ' ') {
        line++;
        n--;
    }
    if (n >= 6 && memcmp(line, "[DONE]", 6) == 0) {
        sse->done = true;
        return 0;
    }
    return on_data(ud, line, n);
}

int bench_sse_feed(bench_sse *sse, const char *bytes, size_t n, bench_on_data on_data, void *ud) {
    const char *end = bytes + n;
    while (bytes < end) {
        const char *eol = memchr(bytes, '\n', (size_t)(end - bytes));
        if (eol == NULL) break;
        int rc;
        if (sse->held.len == 0) {
            rc = on_line(sse, bytes, (size_t)(eol - bytes), on_data, ud);
        } else {
            buf_append(&sse->held, bytes, (size_t)(eol - bytes));
            if (sse->held.failed) return -1;
            rc = on_line(sse, sse->held.data, sse->held.len, on_data, ud);
            buf_clear(&sse->held);
        }
        if (rc != 0) return rc;
        bytes = eol + 1;
    }
    if (bytes == end) return 0;
    sse->held.max = BENCH_SSE_HELD;
    buf_append(&sse->held, bytes, (size_t)(end - bytes));
    return sse->held.failed ? -1 : 0;
}

void bench_sse_reset(bench_sse *sse) {
    buf_clear(&sse->held);
    sse->done = false;
}
