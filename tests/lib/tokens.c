/* tokens.c - the bytes as a vocabulary, and token texts to compare. */
#include "tests/lib/tokens.h"

#include <criterion/criterion.h>

void put_byte_vocabulary(buf *json, unsigned first) {
    for (unsigned b = 0, moved = 256; b < 256; b++) { /* bytes that print stand for themselves */
        bool plain = (b > 32 && b < 127) || (b > 160 && b != 173);
        buf_printf(json, "%s\"\\u%04x\":%u", b ? "," : "", plain ? b : moved, first + b);
        moved += !plain;
    }
}

void put_pieces(buf *out, const tokenizer *t, const char *text, size_t n, bool special) {
    token_ids ids = {0};
    err e = {0};
    cr_assert_eq(tokenizer_encode(t, text, n, special, SIZE_MAX, &ids, &e), 0, "%s", e.msg);
    for (size_t i = 0; i < ids.n; i++) {
        size_t len;
        const char *bytes = tokenizer_bytes(t, ids.data[i], &len);
        if (i) buf_puts(out, "|");
        buf_append(out, bytes, len);
    }
    token_ids_deinit(&ids);
}
