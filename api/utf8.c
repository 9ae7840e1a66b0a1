/* utf8.c - token bytes to whole characters.
 *
 * What waits in `pending` is always the proper beginning of a valid character (RFC 3629);
 * the byte that spoils it turns what waited into one U+FFFD and is looked at afresh, as
 * the Unicode standard's "maximal subpart" practice has it. */
#include "base/utf8.h"
#include "api/api_internal.h"

static void feed(api_utf8 *u, unsigned char b, buf *out) {
    if (u->n_pending > 0) {
        if (utf8_may_follow(u->pending[0], u->n_pending, b)) {
            u->pending[u->n_pending++] = b;
            if (u->n_pending == utf8_length(u->pending[0])) {
                buf_append(out, u->pending, u->n_pending);
                u->n_pending = 0;
            }
            return;
        }
        api_utf8_finish(u, out);
    }
    if (b < 0x80) buf_append(out, &b, 1);
    else if (utf8_length(b)) u->pending[u->n_pending++] = b;
    else buf_puts(out, UTF8_REPLACEMENT);
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
    if (u->n_pending > 0) buf_puts(out, UTF8_REPLACEMENT);
    u->n_pending = 0;
}
