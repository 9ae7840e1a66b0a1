/* model_json.c - writes integers beyond 64 bits as reals, then parses. */
#include "base/model_json.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    SURE_DIGITS = 18,  /* integers up to this length fit 64 bits */
    REAL_DIGITS = 308, /* integers up to this length fit a double */
};

/* The length of the number at text, well-formed or not; *whole: digits and a sign only. */
static size_t number_len(const char *text, size_t n, bool *whole) {
    size_t len = *text == '-';
    *whole = true;
    for (; len < n; len++) {
        char byte = text[len];
        if (byte >= '0' && byte <= '9') continue;
        if (byte != '.' && byte != 'e' && byte != 'E' && byte != '+' && byte != '-') break;
        *whole = false;
    }
    return len;
}

/* Whether the integer of len characters at text overflows 64 bits. */
static bool too_wide(const char *text, size_t len) {
    char digits[32];
    if (len <= SURE_DIGITS) return false;
    if (len >= sizeof digits) return true;
    memcpy(digits, text, len);
    digits[len] = 0;
    errno = 0;
    (void)strtoll(digits, NULL, 10);
    return errno == ERANGE;
}

static void put_real(buf *out, const char *text, size_t len) {
    if (len > REAL_DIGITS) {
        buf_puts(out, *text == '-' ? "-1e308" : "1e308");
        return;
    }
    buf_append(out, text, len);
    buf_puts(out, ".0");
}

/* Copies text into out and turns every too wide integer into a real. False, with out empty, if
 * every integer fits. */
static bool widen(buf *out, const char *text, size_t n) {
    size_t copied = 0; /* text before it is in out */
    bool in_string = false, found = false;
    for (size_t i = 0; i < n; i++) {
        char byte = text[i];
        if (in_string) {
            if (byte == '\\') i++;
            else if (byte == '"') in_string = false;
            continue;
        }
        if (byte == '"') in_string = true;
        if (byte != '-' && (byte < '0' || byte > '9')) continue;
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
