/* model_json.c - writes integers beyond 64 bits as reals, then parses. */
#include "base/model_json.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    SURE_DIGITS = 18,  /* integers up to this length fit 64 bits */
    REAL_DIGITS = 308, /* integers up to this length fit a double */
};

/* The length of the number, or of what looks like one, at s; *whole: digits and a sign only. */
static size_t number_len(const char *s, size_t n, bool *whole) {
    size_t len = *s == '-';
    *whole = true;
    for (; len < n; len++) {
        char c = s[len];
        if (c >= '0' && c <= '9') continue;
        if (c != '.' && c != 'e' && c != 'E' && c != '+' && c != '-') break;
        *whole = false;
    }
    return len;
}

/* Whether the integer at s overflows 64 bits; len is its length. */
static bool too_wide(const char *s, size_t len) {
    char digits[32];
    if (len <= SURE_DIGITS) return false;
    if (len >= sizeof digits) return true;
    memcpy(digits, s, len);
    digits[len] = 0;
    errno = 0;
    (void)strtoll(digits, NULL, 10);
    return errno == ERANGE;
}

static void put_real(buf *out, const char *s, size_t len) {
    if (len > REAL_DIGITS) {
        buf_puts(out, *s == '-' ? "-1e308" : "1e308");
        return;
    }
    buf_append(out, s, len);
    buf_puts(out, ".0");
}

/* Copies text into out with every integer that is too wide made a real. False if there is
 * none, and then out stays empty. */
static bool widen(buf *out, const char *text, size_t n) {
    size_t copied = 0; /* text before it is in out */
    bool in_string = false, found = false;
    for (size_t i = 0; i < n; i++) {
        char c = text[i];
        if (in_string) {
            if (c == '\\') i++;
            else if (c == '"') in_string = false;
            continue;
        }
        if (c == '"') in_string = true;
        if (c != '-' && (c < '0' || c > '9')) continue;
        bool whole;
        size_t len = number_len(text + i, n - i, &whole);
        if (whole && too_wide(text + i, len)) {
            buf_append(out, text + copied, i - copied);
            put_real(out, text + i, len);
            copied = i + len;
            found = true;
        }
        i += len - 1;
    }
    if (found) buf_append(out, text + copied, n - copied);
    return found;
}

int model_json_parse(json_t **out, const char *text, size_t n, const json_limits *limits,
                     const char *what, err *e) {
    buf wide = {0};
    int rc;
    *out = NULL;
    if (n > limits->max_bytes || !widen(&wide, text, n)) {
        rc = json_parse(out, text, n, limits, what, e);
    } else if (wide.failed) {
        rc = err_set(e, ERR_NO_MEMORY, NULL, "%s: out of memory while parsing", what);
    } else {
        json_limits room = *limits;
        room.max_bytes = wide.len; /* the file itself was measured */
        rc = json_parse(out, wide.data, wide.len, &room, what, e);
    }
    buf_deinit(&wide);
    return rc;
}
