/* tokens.h - what tests of tokenizers share. */
#ifndef FATHOM_TEST_TOKENS_H
#define FATHOM_TEST_TOKENS_H

#include "base/buf.h"
#include "text/tokenizer.h"

/* Appends the members of "vocab" for all bytes in byte-level spelling, as ids from `first` on. */
void put_byte_vocabulary(buf *json, unsigned first);
/* Appends the tokens of a text, parted by '|'; ends the test where it cannot be encoded. */
void put_pieces(buf *out, const tokenizer *t, const char *text, size_t n, bool special);

#endif
