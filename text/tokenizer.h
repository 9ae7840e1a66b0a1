/* tokenizer.h - text to token ids and back, as tokenizer.json says.
 *
 * Threading: an open tokenizer is read-only and may be shared by threads. */
#ifndef FATHOM_TOKENIZER_H
#define FATHOM_TOKENIZER_H

#include "base/buf.h"
#include "base/err.h"

typedef struct tokenizer tokenizer;

typedef struct {
    uint32_t *data; /* caller frees with free() */
    size_t n, cap;
} token_ids;

/* A stretch of a text that has one origin. A list of runs covers its text: each begins where the
 * one before ends. */
typedef struct {
    size_t end;   /* byte behind the last one of this run */
    bool trusted; /* it was written by the model's own files, not by a client */
} text_run;

/* ERR_NOT_FOUND if dir has no tokenizer.json (such a model serves token-id prompts);
 * ERR_BAD_FILE if it has one that is wrong. Ids must lie below vocab_size. */
int tokenizer_open(tokenizer **out, const char *dir, uint32_t vocab_size, err *e) WARN_UNUSED;
int tokenizer_parse(tokenizer **out, const char *json, size_t n, uint32_t vocab_size,
                    const char *what, err *e) WARN_UNUSED;
void tokenizer_close(tokenizer *t);
/* Appends the ids of n bytes of text (any bytes; not UTF-8 is encoded byte by byte). Bytes
 * that the vocabulary has no token for become its unknown token or, without one, nothing.
 * Text that spells a special token is plain text unless parse_special. Time is
 * O(n log n). Any thread. Fails only for memory, max_ids (ERR_TOO_LONG), a split pattern that
 * takes some twenty times as long as it may on this text (ERR_BAD_PARAM), or when nobody waits
 * any more (ERR_CANCELLED, base/cancel.h). */
int tokenizer_encode(const tokenizer *t, const char *text, size_t n, bool parse_special,
                     size_t max_ids, token_ids *out, err *e) WARN_UNUSED;
/* The same of a text of several origins: a control token is read where every byte of its
 * spelling is trusted, and is plain text elsewhere. */
int tokenizer_encode_runs(const tokenizer *t, const char *text, size_t n, const text_run *runs,
                          size_t n_runs, size_t max_ids, token_ids *out, err *e) WARN_UNUSED;
/* Fewest tokens that n bytes of text can make; 0 where the tokenizer may drop bytes. */
size_t tokenizer_fewest(const tokenizer *t, size_t n);
/* Appends the text of n ids, all of one text, as the file's decoder makes it: a tokenizer that
 * puts a space before every text takes it off again, and ids that are none add nothing. Byte-level
 * tokens may leave bytes that are not UTF-8. ERR_NO_MEMORY. Any thread. */
int tokenizer_decode(const tokenizer *t, const uint32_t *ids, size_t n, bool skip_special, buf *out,
                     err *e) WARN_UNUSED;
/* The same of some of the ids, from ids[*at] on, which goes behind them: 0 at first, n when the
 * text is whole. */
int tokenizer_decode_some(const tokenizer *t, const uint32_t *ids, size_t n, size_t *at,
                          bool skip_special, buf *out, err *e) WARN_UNUSED;
/* The bytes an id stands for inside a text; NULL and 0 if the id has none. A special token's
 * bytes are its spelling. Borrowed from t. */
const char *tokenizer_bytes(const tokenizer *t, uint32_t id, size_t *n);
/* Flagged as special by the file: no text of an answer. */
bool tokenizer_is_special(const tokenizer *t, uint32_t id);
/* Special, or marked: text of a client never becomes this token. */
bool tokenizer_is_control(const tokenizer *t, uint32_t id);
/* Makes control tokens of those added tokens whose spelling stands in the text: those a chat
 * template writes steer the model, whatever their flag says. White space and single characters of
 * the vocabulary do not, though some files have added tokens of them. Before other threads use
 * t. */
void tokenizer_mark_control(tokenizer *t, const char *text, size_t n);
/* The id of a whole token. */
bool tokenizer_find(const tokenizer *t, const char *token, uint32_t *id) WARN_UNUSED;
/* The token that the file's template puts before every text, if any. Encode never adds it. */
bool tokenizer_bos(const tokenizer *t, uint32_t *id) WARN_UNUSED;
uint32_t tokenizer_size(const tokenizer *t); /* highest id + 1 */
void token_ids_deinit(token_ids *ids);

#endif
