/* utf8.h - which bytes are UTF-8 (RFC 3629: no overlong form, no surrogate, nothing above
 * U+10FFFF). Any thread. */
#ifndef FATHOM_UTF8_H
#define FATHOM_UTF8_H

#include "base/lang.h"

#define UTF8_REPLACEMENT "\xef\xbf\xbd" /* U+FFFD */

/* Bytes of the character that begins with `lead`, 1 to 4; 0 if none begins with it. */
static inline size_t utf8_length(unsigned char lead) {
    if (lead < 0x80) return 1;
    if (lead < 0xc2 || lead > 0xf4) return 0;
    return lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
}

/* Whether `next` may stand at place `at`, 1 to 3, of a character that begins with `lead`. The
 * second byte is what excludes overlong forms, surrogates and what lies above U+10FFFF. */
static inline bool utf8_may_follow(unsigned char lead, size_t at, unsigned char next) {
    unsigned char low = 0x80, high = 0xbf;
    if (at == 1) {
        if (lead == 0xe0) low = 0xa0;
        if (lead == 0xed) high = 0x9f;
        if (lead == 0xf0) low = 0x90;
        if (lead == 0xf4) high = 0x8f;
    }
    return next >= low && next <= high;
}

/* Bytes of the whole character at s, of which n > 0 bytes are there; 0 if there is none. */
size_t utf8_char(const char *s, size_t n);
/* Bytes at s, where n > 0 are there and no whole character is, that one U+FFFD stands for: the
 * longest beginning of a character, or one byte (the Unicode standard's "maximal subpart"). */
size_t utf8_broken(const char *s, size_t n);
/* How many of the n bytes, from the first on, are whole characters. */
size_t utf8_prefix(const char *s, size_t n);
static inline bool utf8_valid(const char *s, size_t n) {
    return utf8_prefix(s, n) == n;
}
/* Characters in n bytes of UTF-8. */
size_t utf8_count(const char *s, size_t n);

#endif
