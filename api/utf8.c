/* utf8.c - token bytes to whole characters.
 *
 * What waits in `pending` is always the proper beginning of a valid character (RFC 3629);
 * the byte that spoils it turns what waited into one U+FFFD and is looked at afresh, as
 * the Unicode standard's "maximal subpart" practice has it. */
#include "api/api_internal.h"

static const char replacement[] = "\xef\xbf\xbd";

/* Whether b may follow the n bytes in p. The second byte excludes overlong forms,
 * surrogates and what lies above U+10FFFF. */
static bool may_follow(const unsigned char *p, size_t n, unsigned char b) {
    unsigned char low = 0x80, high = 0xbf;
    if (n == 1) {
        switch (p[0]) {
        case 0xe0: low = 0xa0; break;
        case 0xed: high = 0x9f; break;
        case 0xf0: low = 0x90; break;
        case 0xf4: high = 0x8f; break;
        default: break;
        }
    }
    return b >= low && b <= high;
}

static size_t length_of(unsigned char lead) {
    return lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
}

static void feed(api_utf8 *u, unsigned char b, buf *out) {
    if (u->n_pending > 0) {
        if (may_follow(u->pending, u->n_pending, b)) {
            u->pending[u->n_pending++] = b;
            if (u->n_pending == length_of(u->pending[0])) {
                buf_append(out, u->pending, u->n_pending);
                u->n_pending = 0;
            }
            return;
        }
        api_utf8_finish(u, out);
    }
    if (b < 0x80) buf_append(out, &b, 1);
    else if (b >= 0xc2 && b <= 0xf4) u->pending[u->n_pending++] = b;
    else buf_append(out, replacement, 3);
}

void api_utf8_token(api_utf8 *u, const tokenizer *t, uint32_t id, buf *out) {
    if (t == NULL || tokenizer_is_special(t, id)) return;
    size_t n;
    const char *bytes = tokenizer_bytes(t, id, &n);
    api__utf8_bytes(u, bytes, n, out);
}

void api__utf8_bytes(api_utf8 *u, const char *bytes, size_t n, buf *out) {
    for (size_t i = 0; i < n;) {
        size_t run = i; /* ASCII goes in one piece */
        while (u->n_pending == 0 && run < n && (unsigned char)bytes[run] < 0x80)
            run++;
        if (run > i) buf_append(out, bytes + i, run - i);
        i = run;
        if (i < n) feed(u, (unsigned char)bytes[i++], out);
    }
}

void api_utf8_finish(api_utf8 *u, buf *out) {
    if (u->n_pending > 0) buf_append(out, replacement, 3);
    u->n_pending = 0;
}

size_t api__utf8_chars(const char *s, size_t n) {
    size_t chars = 0;
    for (size_t i = 0; i < n; i++)
        chars += ((unsigned char)s[i] & 0xc0) != 0x80;
    return chars;
}

bool api__utf8_valid(const char *s, size_t n) {
    unsigned char p[4];
    size_t have = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned char b = (unsigned char)s[i];
        if (have > 0) {
            if (!may_follow(p, have, b)) return false;
            p[have++] = b;
            if (have == length_of(p[0])) have = 0;
        } else if (b >= 0x80) {
            if (b < 0xc2 || b > 0xf4) return false;
            p[have++] = b;
        }
    }
    return have == 0;
}
