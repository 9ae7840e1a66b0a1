/* utf8.c - see utf8.h. */
#include "base/utf8.h"

size_t utf8_char(const char *text, size_t n) {
    const unsigned char *bytes = (const unsigned char *)text;
    size_t len = utf8_length(bytes[0]);
    if (len > n) return 0;
    for (size_t i = 1; i < len; i++) {
        if (!utf8_may_follow(bytes[0], i, bytes[i])) return 0;
    }
    return len;
}

size_t utf8_broken(const char *text, size_t n) {
    const unsigned char *bytes = (const unsigned char *)text;
    size_t at = 1, len = utf8_length(bytes[0]);
    while (at < len && at < n && utf8_may_follow(bytes[0], at, bytes[at]))
        at++;
    return at;
}

size_t utf8_prefix(const char *text, size_t n) {
    size_t at = 0;
    while (at < n) {
        size_t len = utf8_char(text + at, n - at);
        if (len == 0) break;
        at += len;
    }
    return at;
}

size_t utf8_count(const char *text, size_t n) {
    size_t count = 0;
    for (size_t i = 0; i < n; i++)
        count += ((unsigned char)text[i] & 0xc0) != 0x80;
    return count;
}
