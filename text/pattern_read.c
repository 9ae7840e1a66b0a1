/* pattern_read.c - what a pattern is read by: its characters, however they are spelt, and what is
 * said of it. */
#include "base/utf8.h"
#include "text/pattern_tree_internal.h"

#include <stdio.h>
#include <string.h>

/* ---- messages ---- */

static int complain(pattern *p, size_t at, bool unknown, const char *fmt, va_list args) {
    char thing[200];
    (void)vsnprintf(thing, sizeof thing, fmt, args);
    return err_set(p->e, ERR_BAD_FILE, NULL, "%s: %s at byte %zu%s", p->what, thing, at,
                   unknown ? " is not known" : "");
}

int pattern_unknown(pattern *p, size_t at, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    (void)complain(p, at, true, fmt, args);
    va_end(args);
    return -1;
}

int pattern_wrong(pattern *p, size_t at, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    (void)complain(p, at, false, fmt, args);
    va_end(args);
    return -1;
}

int pattern_full(pattern *p) {
    if (p->tree.used < p->tree.max / 2)
        return err_set(p->e, ERR_NO_MEMORY, NULL, "%s: out of memory", p->what);
    return err_set(p->e, ERR_BAD_FILE, NULL, "%s: takes more than %d MB", p->what,
                   PATTERN_TREE_BYTES >> 20);
}

/* ---- characters ---- */

bool pattern_next(pattern *p, uint32_t *c) {
    if (p->at == p->n) return false;
    const unsigned char *s = (const unsigned char *)p->text + p->at;
    size_t len = utf8_length(*s);
    uint32_t v = len == 1 ? *s : *s & (0x7fU >> len);
    for (size_t i = 1; i < len; i++)
        v = v << 6 | (s[i] & 0x3fU);
    p->at += len;
    *c = v;
    return true;
}

bool pattern_at(const pattern *p, char c) {
    return p->at < p->n && p->text[p->at] == c;
}

bool pattern_take(pattern *p, char c) {
    if (!pattern_at(p, c)) return false;
    p->at++;
    return true;
}

bool pattern_at_digit(const pattern *p) {
    return p->at < p->n && p->text[p->at] >= '0' && p->text[p->at] <= '9';
}

static int digit_value(char c, unsigned base) {
    int v = c >= '0' && c <= '9'   ? c - '0'
            : c >= 'a' && c <= 'f' ? c - 'a' + 10
            : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                   : 99;
    return v < (int)base ? v : -1;
}

/* At most `most` digits; *n is how many there were. Too large a number stays the largest. */
uint32_t pattern_number(pattern *p, unsigned base, size_t most, size_t *n) {
    uint64_t v = 0;
    for (*n = 0; *n < most && p->at < p->n; ++*n, p->at++) {
        int d = digit_value(p->text[p->at], base);
        if (d < 0) break;
        v = v * base + (unsigned)d;
        if (v > UINT32_MAX) v = UINT32_MAX;
    }
    return (uint32_t)v;
}

static int in_braces(pattern *p, size_t start, unsigned base, uint32_t *c) {
    size_t n;
    *c = pattern_number(p, base, base == 16 ? 8 : 11, &n);
    if (n == 0) return pattern_unknown(p, start, "a code point without digits");
    if (p->at == p->n || digit_value(p->text[p->at], base == 16 ? 16 : 10) >= 0)
        return pattern_wrong(p, start, "a code point of too many digits or without its '}'");
    if (!pattern_take(p, '}')) return pattern_unknown(p, start, "a list of code points");
    return 0;
}

/* The byte has been read; more of them must follow until it is a character. */
static int whole_character(pattern *p, size_t start, uint32_t byte, uint32_t *c) {
    char bytes[4] = {(char)byte};
    size_t len = utf8_length((unsigned char)byte), n;
    if (len == 0) return pattern_unknown(p, start, "a byte that begins no character");
    for (size_t i = 1; i < len; i++) {
        bool hex = p->at + 1 < p->n && p->text[p->at] == '\\' && p->text[p->at + 1] == 'x';
        if (!hex && !pattern_at(p, '\\'))
            return pattern_wrong(p, start, "bytes that are no character");
        p->at += hex ? 2 : 1;
        uint32_t v = pattern_number(p, hex ? 16 : 8, hex ? 2 : 3, &n);
        if (n == 0 || v > 0xff) return pattern_wrong(p, start, "bytes that are no character");
        bytes[i] = (char)v;
    }
    if (utf8_char(bytes, len) != len) return pattern_wrong(p, start, "bytes that are no character");
    pattern spelled = {.text = bytes, .n = len};
    (void)pattern_next(&spelled, c);
    return 0;
}

int pattern_numbered(pattern *p, size_t start, uint32_t kind, bool in_class, uint32_t *c) {
    size_t n;
    uint32_t v;
    switch (kind) {
    case 'u':
        v = pattern_number(p, 16, 4, &n);
        if (n < 4) return pattern_wrong(p, start, "\\u without four digits");
        break;
    case 'x':
    case 'o':
        if (p->at == p->n || (kind == 'o' && !pattern_at(p, '{'))) {
            *c = kind;
            return 0;
        }
        if (pattern_take(p, '{')) {
            if (in_braces(p, start, kind == 'x' ? 16 : 8, &v) != 0) return -1;
            break;
        }
        v = pattern_number(p, 16, 2, &n);
        return whole_character(p, start, v, c);
    default:
        p->at--; /* the digit itself */
        v = pattern_number(p, 8, 3, &n);
        if (v > 0xff) return pattern_wrong(p, start, "an octal number over 377");
        return whole_character(p, start, v, c);
    }
    if (!in_class && v >= UNICODE_END) return pattern_unknown(p, start, "a code point over 10ffff");
    if (!in_class && v >= 0xd800 && v < 0xe000)
        return pattern_unknown(p, start, "a surrogate code point");
    *c = v;
    return 0;
}

/* \cX and \C-X, where X may be another of these or \M-X. */
int pattern_escaped_value(pattern *p, uint32_t *c) {
    size_t start = p->at - 1;
    bool control = false, meta = false;
    uint32_t v = 0;
    for (unsigned nested = 0;; nested++) {
        if (nested == 8) return pattern_unknown(p, start, "control in control");
        if (!pattern_next(p, &v)) return pattern_wrong(p, start, "an escape without a character");
        if (v != 'c' && v != 'C' && v != 'M') break;
        if (v != 'c' && !pattern_take(p, '-'))
            return pattern_wrong(p, start, "\\%c without its hyphen", (char)v);
        if (meta || (control && v != 'M')) return pattern_unknown(p, start, "control in control");
        if (v == 'M') meta = true;
        else control = true;
        if (!pattern_take(p, '\\')) {
            if (!pattern_next(p, &v))
                return pattern_wrong(p, start, "an escape without a character");
            goto plain;
        }
    }
    static const char from[] = "ntrfabev", to[] = "\n\t\r\f\a\b\x1b\v";
    const char *known = v < 0x80 && v ? strchr(from, (char)v) : NULL;
    if (known) v = (unsigned char)to[known - from];
plain:
    if (meta) v = (v & 0xff) | 0x80;
    if (control) v = v == '?' && !meta ? 0x7f : v & 0x9f;
    *c = v;
    return 0;
}
