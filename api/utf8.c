/* utf8.c - turns token bytes into whole characters.
 *
 * `pending` always holds the beginning of a valid character (RFC 3629). A byte that does not
 * continue it turns the pending bytes into one U+FFFD and is then read afresh: the Unicode
 * standard's "maximal subpart" practice. */
#include "base/utf8.h"
#include "api/api_internal.h"

static void feed(api_utf8 *utf8, unsigned char byte, buf *out) {
    if (utf8->n_pending > 0) {
        if (utf8_may_follow(utf8->pending[0], utf8->n_pending, byte)) {
            utf8->pending[utf8->n_pending++] = byte;
            if (utf8->n_pending == utf8_length(utf8->pending[0])) {
                buf_append(out, utf8->pending, utf8->n_pending);
                utf8->n_pending = 0;
            }
            return;
        }
        api_utf8_finish(utf8, out);
    }
    if (byte < 0x80) buf_append(out, &byte, 1);
    else if (utf8_length(byte)) utf8->pending[utf8->n_pending++] = byte;
    else buf_puts(out, UTF8_REPLACEMENT);
}

void api_utf8_token(api_utf8 *utf8, const tokenizer *tok, uint32_t id, buf *out) {
    if (tok == NULL || tokenizer_is_special(tok, id)) return;
    size_t n;
    const char *bytes = tokenizer_bytes(tok, id, &n);
    api__utf8_bytes(utf8, bytes, n, out);
}

void api__utf8_bytes(api_utf8 *utf8, const char *bytes, size_t n, buf *out) {
    for (size_t i = 0; i < n;) {
        size_t run = i; /* copy ASCII in one piece */
        while (utf8->n_pending == 0 && run < n && (unsigned char)bytes[run] < 0x80)
            run++;
        if (run > i) buf_append(out, bytes + i, run - i);
        i = run;
        if (i < n) feed(utf8, (unsigned char)bytes[i++], out);
    }
}

void api_utf8_finish(api_utf8 *utf8, buf *out) {
    if (utf8->n_pending > 0) buf_puts(out, UTF8_REPLACEMENT);
    utf8->n_pending = 0;
}
