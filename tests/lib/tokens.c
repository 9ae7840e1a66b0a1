/* tokens.c - the bytes as a vocabulary, and token texts to compare. */
#include "tests/lib/tokens.h"

#include <criterion/criterion.h>

void put_byte_vocabulary(buf *json, unsigned first) {
    for (unsigned code = 0, moved = 256; code < 256;
         code++) { /* printable bytes map to themselves */
        bool plain = (code > 32 && code < 127) || (code > 160 && code != 173);
        buf_printf(json, "%s\"\\u%04x\":%u", code ? "," : "", plain ? code : moved, first + code);
        moved += !plain;
    }
}

void put_pieces(buf *out, const tokenizer *tok, const char *text, size_t n, bool special) {
    token_ids ids = {0};
    err e = {0};
    cr_assert_eq(tokenizer_encode(tok, text, n, special, SIZE_MAX, &ids, &e), 0, "%s", e.msg);
    for (size_t i = 0; i < ids.n; i++) {
        size_t len;
        const char *bytes = tokenizer_bytes(tok, ids.data[i], &len);
        if (i) buf_puts(out, "|");
        buf_append(out, bytes, len);
    }
    token_ids_deinit(&ids);
}
