/* tokens.h - shared by tests of tokenizers. */
#ifndef FATHOM_TEST_TOKENS_H
#define FATHOM_TEST_TOKENS_H

#include "base/buf.h"
#include "text/tokenizer.h"

/* Appends the members of "vocab" for all bytes in byte-level spelling, as ids from `first` on. */
void put_byte_vocabulary(buf *json, unsigned first);
/* Appends the tokens of a text, separated by '|'. Fails the test if encoding fails. */
void put_pieces(buf *out, const tokenizer *tok, const char *text, size_t n, bool special);

#endif
