/* pattern_read.c - the basics of the parser: error messages, and characters in all spellings. */
#include "base/utf8.h"
#include "text/pattern_tree_internal.h"

#include <stdio.h>
#include <string.h>

/* ---- messages ---- */

static int complain(pattern *pat, size_t at, bool unknown, const char *fmt, va_list args) {
    char thing[200];
    (void)vsnprintf(thing, sizeof thing, fmt, args);
    return err_set(pat->e, ERR_BAD_FILE, NULL, "%s: %s at byte %zu%s", pat->label, thing, at,
                   unknown ? " is not supported" : "");
}

int pattern_unknown(pattern *pat, size_t at, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    (void)complain(pat, at, true, fmt, args);
    va_end(args);
    return -1;
}

int pattern_wrong(pattern *pat, size_t at, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    (void)complain(pat, at, false, fmt, args);
    va_end(args);
    return -1;
}

int pattern_full(pattern *pat) {
    if (pat->tree.used < pat->tree.max / 2)
        return err_set(pat->e, ERR_NO_MEMORY, NULL, "%s: out of memory", pat->label);
    return err_set(pat->e, ERR_BAD_FILE, NULL, "%s: it needs more than %d MB of memory", pat->label,
                   PATTERN_TREE_BYTES >> 20);
}

/* ---- characters ---- */

bool pattern_next(pattern *pat, uint32_t *code) {
    if (pat->at == pat->len) return false;
    const unsigned char *bytes = (const unsigned char *)pat->text + pat->at;
    size_t len = utf8_length(*bytes);
    uint32_t value = len == 1 ? *bytes : *bytes & (0x7fU >> len);
    for (size_t i = 1; i < len; i++)
        value = value << 6 | (bytes[i] & 0x3fU);
    pat->at += len;
    *code = value;
    return true;
}

bool pattern_at(const pattern *pat, char byte) {
    return pat->at < pat->len && pat->text[pat->at] == byte;
}

bool pattern_take(pattern *pat, char byte) {
    if (!pattern_at(pat, byte)) return false;
    pat->at++;
    return true;
}

bool pattern_at_digit(const pattern *pat) {
    return pat->at < pat->len && pat->text[pat->at] >= '0' && pat->text[pat->at] <= '9';
}

static int digit_value(char digit, unsigned base) {
    int value = digit >= '0' && digit <= '9'   ? digit - '0'
                : digit >= 'a' && digit <= 'f' ? digit - 'a' + 10
                : digit >= 'A' && digit <= 'F' ? digit - 'A' + 10
                                               : 99;
    return value < (int)base ? value : -1;
}

uint32_t pattern_number(pattern *pat, unsigned base, size_t most, size_t *n) {
    uint64_t value = 0;
    for (*n = 0; *n < most && pat->at < pat->len; ++*n, pat->at++) {
        int digit = digit_value(pat->text[pat->at], base);
        if (digit < 0) break;
        value = value * base + (unsigned)digit;
        if (value > UINT32_MAX) value = UINT32_MAX;
    }
    return (uint32_t)value;
}

static int in_braces(pattern *pat, size_t start, unsigned base, uint32_t *code) {
    size_t n;
    *code = pattern_number(pat, base, base == 16 ? 8 : 11, &n);
    if (n == 0) return pattern_unknown(pat, start, "a code point without digits");
    if (pat->at == pat->len || digit_value(pat->text[pat->at], base == 16 ? 16 : 10) >= 0)
        return pattern_wrong(pat, start, "a code point of too many digits or without its '}'");
    if (!pattern_take(pat, '}')) return pattern_unknown(pat, start, "a list of code points");
    return 0;
}

/* `byte` was taken. Takes further escaped bytes until the character is complete. */
static int whole_character(pattern *pat, size_t start, uint32_t byte, uint32_t *code) {
    char bytes[4] = {(char)byte};
    size_t len = utf8_length((unsigned char)byte), n;
    if (len == 0) return pattern_unknown(pat, start, "an escaped byte that begins no character");
    for (size_t i = 1; i < len; i++) {
        bool hex =
            pat->at + 1 < pat->len && pat->text[pat->at] == '\\' && pat->text[pat->at + 1] == 'x';
        if (!hex && !pattern_at(pat, '\\'))
            return pattern_wrong(pat, start, "escaped bytes that are not a character");
        pat->at += hex ? 2 : 1;
        uint32_t value = pattern_number(pat, hex ? 16 : 8, hex ? 2 : 3, &n);
        if (n == 0 || value > 0xff)
            return pattern_wrong(pat, start, "escaped bytes that are not a character");
        bytes[i] = (char)value;
    }
    if (utf8_char(bytes, len) != len)
        return pattern_wrong(pat, start, "escaped bytes that are not a character");
    pattern spelled = {.text = bytes, .len = len};
    (void)pattern_next(&spelled, code);
    return 0;
}

int pattern_numbered(pattern *pat, size_t start, uint32_t kind, bool in_class, uint32_t *code) {
    size_t n;
    uint32_t value;
    switch (kind) {
    case 'u':
        value = pattern_number(pat, 16, 4, &n);
        if (n < 4) return pattern_wrong(pat, start, "\\u without four digits");
        break;
    case 'x':
    case 'o':
        if (pat->at == pat->len || (kind == 'o' && !pattern_at(pat, '{'))) {
            *code = kind;
            return 0;
        }
        if (pattern_take(pat, '{')) {
            if (in_braces(pat, start, kind == 'x' ? 16 : 8, &value) != 0) return -1;
            break;
        }
        value = pattern_number(pat, 16, 2, &n);
        return whole_character(pat, start, value, code);
    default:
        pat->at--; /* the digit itself */
        value = pattern_number(pat, 8, 3, &n);
        if (value > 0xff) return pattern_wrong(pat, start, "an octal number over 377");
        return whole_character(pat, start, value, code);
    }
    if (!in_class && value >= UNICODE_END)
        return pattern_unknown(pat, start, "a code point over 0x10ffff");
    if (!in_class && value >= 0xd800 && value < 0xe000)
        return pattern_unknown(pat, start, "a surrogate code point");
    *code = value;
    return 0;
}

/* In \cX and \C-X, X may be \M-X; in \M-X, X may be \cX or \C-X. */
int pattern_escaped_value(pattern *pat, uint32_t *code) {
    size_t start = pat->at - 1;
    bool control = false, meta = false;
    uint32_t value = 0;
    for (unsigned nested = 0;; nested++) {
        if (nested == 8)
            return pattern_unknown(pat, start, "a control or meta escape inside another");
        if (!pattern_next(pat, &value))
            return pattern_wrong(pat, start, "an escape without a character");
        if (value != 'c' && value != 'C' && value != 'M') break;
        if (value != 'c' && !pattern_take(pat, '-'))
            return pattern_wrong(pat, start, "\\%c without its hyphen", (char)value);
        if (meta || (control && value != 'M'))
            return pattern_unknown(pat, start, "a control or meta escape inside another");
        if (value == 'M') meta = true;
        else control = true;
        if (!pattern_take(pat, '\\')) {
            if (!pattern_next(pat, &value))
                return pattern_wrong(pat, start, "an escape without a character");
            goto plain;
        }
    }
    static const char from[] = "ntrfabev", to[] = "\n\t\r\f\a\b\x1b\v";
    const char *known = value < 0x80 && value ? strchr(from, (char)value) : NULL;
    if (known) value = (unsigned char)to[known - from];
plain:
    if (meta) value = (value & 0xff) | 0x80;
    if (control) value = value == '?' && !meta ? 0x7f : value & 0x9f;
    *code = value;
    return 0;
}
