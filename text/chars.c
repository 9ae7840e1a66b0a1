/* chars.c - white space and characters of words, as Unicode defines them. */
#include "base/utf8.h"
#include "text/tokenizer_internal.h"

#include <string.h>
#include <utf8proc.h>

/* ---- white space ---- */

/* The character of `len` bytes has Unicode's property White_Space. */
static bool is_space(const char *text, size_t len) {
    if (len == 1) return *text == ' ' || (*text >= '\t' && *text <= '\r');
    static const char *const wide[] = {
        "\xc2\x85", "\xc2\xa0", "\u1680", "\u2000", "\u2001", "\u2002", "\u2003",
        "\u2004",   "\u2005",   "\u2006", "\u2007", "\u2008", "\u2009", "\u200a",
        "\u2028",   "\u2029",   "\u202f", "\u205f", "\u3000",
    };
    for (size_t i = 0; i < ARRAY_LEN(wide); i++) {
        if (strlen(wide[i]) == len && memcmp(wide[i], text, len) == 0) return true;
    }
    return false;
}

size_t text__spaces_after(const char *text, size_t n) {
    size_t i = 0;
    while (i < n) {
        size_t len = utf8_char(text + i, n - i);
        if (len == 0 || !is_space(text + i, len)) break;
        i += len;
    }
    return i;
}

/* Bytes of the complete character that ends at `end`; 0 if there is none. */
static size_t char_before(const char *text, size_t end) {
    size_t len = 1;
    while (len < 4 && len < end && ((unsigned char)text[end - len] & 0xc0) == 0x80)
        len++;
    return end > 0 && utf8_char(text + end - len, len) == len ? len : 0;
}

size_t text__spaces_before(const char *text, size_t floor, size_t end) {
    while (end > floor) {
        size_t len = char_before(text + floor, end - floor);
        if (len == 0 || !is_space(text + end - len, len)) break;
        end -= len;
    }
    return end;
}

/* ---- words ---- */

/* The characters of \w in the reference: letters, marks, decimal digits, connectors, the two
 * joiners, and the alphabetic symbols of Unicode, which are letters in circles and squares. */
static bool is_word(const char *text, size_t len) {
    utf8proc_int32_t code;
    if (utf8proc_iterate((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)len, &code) <= 0)
        return false;
    switch (utf8proc_category(code)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_PC: return true;
    default: break;
    }
    return code == 0x200c || code == 0x200d || (code >= 0x24b6 && code <= 0x24e9) ||
           (code >= 0x1f130 && code <= 0x1f149) || (code >= 0x1f150 && code <= 0x1f169) ||
           (code >= 0x1f170 && code <= 0x1f189);
}

bool text__word_after(const char *text, size_t n) {
    size_t len = n > 0 ? utf8_char(text, n) : 0;
    return len > 0 && is_word(text, len);
}

bool text__word_before(const char *text, size_t end) {
    size_t len = char_before(text, end);
    return len > 0 && is_word(text + end - len, len);
}
