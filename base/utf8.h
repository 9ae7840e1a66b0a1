/* utf8.h - checks for UTF-8 (RFC 3629: no overlong form, no surrogate, nothing above U+10FFFF).
 * Any thread. */
#ifndef FATHOM_UTF8_H
#define FATHOM_UTF8_H

#include "base/lang.h"

#define UTF8_REPLACEMENT "\xef\xbf\xbd" /* U+FFFD */

/* Bytes of a character beginning with `lead`, 1 to 4; 0 if `lead` begins no character. */
static inline size_t utf8_length(unsigned char lead) {
    if (lead < 0x80) return 1;
    if (lead < 0xc2 || lead > 0xf4) return 0;
    return lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
}

/* Whether `next` may be byte `at`, 1 to 3, of a character beginning with `lead`. The limits of the
 * second byte exclude overlong forms, surrogates and values above U+10FFFF. */
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

/* Bytes of the whole character at text, with n > 0 bytes present; 0 if the character is cut short
 * or malformed. */
size_t utf8_char(const char *text, size_t n);
/* For text without a whole character at its start, n > 0: the number of bytes to replace with one
 * U+FFFD. They are the longest beginning of a character, or one byte (the Unicode standard's
 * "maximal subpart"). */
size_t utf8_broken(const char *text, size_t n);
/* Length of the longest prefix made of whole characters. */
size_t utf8_prefix(const char *text, size_t n);
static inline bool utf8_valid(const char *text, size_t n) {
    return utf8_prefix(text, n) == n;
}
/* Characters in n bytes of UTF-8. */
size_t utf8_count(const char *text, size_t n);

#endif
