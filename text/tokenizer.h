/* tokenizer.h - text to token ids and back, as tokenizer.json describes.
 *
 * Threading: an open tokenizer is read-only and may be shared by threads. */
#ifndef FATHOM_TOKENIZER_H
#define FATHOM_TOKENIZER_H

#include "base/buf.h"
#include "base/err.h"
#include "base/version.h"

typedef struct tokenizer tokenizer;

typedef struct {
    uint32_t *data; /* caller frees with free() */
    size_t n, cap;
} token_ids;

/* A part of a text with one origin. The runs of a text cover it in order: each begins at the end
 * of the previous one. */
typedef struct {
    size_t end;   /* byte after the last one of this run */
    bool trusted; /* the bytes come from the model's own files, not from a client */
} text_run;

/* ERR_NOT_FOUND if dir has no tokenizer.json (such a model serves token-id prompts);
 * ERR_BAD_FILE if the file is invalid. Ids must lie below vocab_size. */
int tokenizer_open(tokenizer **out, const char *dir, uint32_t vocab_size, err *e) WARN_UNUSED;
/* The same from n bytes of JSON. `file` is the name for messages. */
int tokenizer_parse(tokenizer **out, const char *json, size_t n, uint32_t vocab_size,
                    const char *file, err *e) WARN_UNUSED;
void tokenizer_close(tokenizer *tok);
/* Appends the ids of n bytes of text. The text may hold any bytes: invalid UTF-8 is encoded byte
 * by byte. A byte without a token becomes the unknown token; without an unknown token it is
 * dropped. The spelling of a special token is plain text unless parse_special. Time is
 * O(n log n). Any thread. Fails only for memory, for more than max_ids tokens (ERR_TOO_LONG), if a
 * split pattern takes about twenty times its usual time on this text (ERR_BAD_PARAM), or after
 * the request was cancelled (ERR_CANCELLED, base/cancel.h). */
int tokenizer_encode(const tokenizer *tok, const char *text, size_t n, bool parse_special,
                     size_t max_ids, token_ids *out, err *e) WARN_UNUSED;
/* The same for a text of several origins. The spelling of a control token becomes the token only
 * if all its bytes are trusted; otherwise it is plain text. */
int tokenizer_encode_runs(const tokenizer *tok, const char *text, size_t n, const text_run *runs,
                          size_t n_runs, size_t max_ids, token_ids *out, err *e) WARN_UNUSED;
/* Merges at most TOKENIZER_PIECE bytes of text that stand in one piece, whatever pattern splits
 * texts: pieces of one kind of signs come out as tokenizer_encode cuts them. Returns the number of
 * ids, 0: the tokenizer has no merges of bytes. Allocates nothing. Any thread. */
enum { TOKENIZER_PIECE = 48 };
size_t tokenizer_merge(const tokenizer *tok, const char *text, size_t n,
                       uint32_t ids[TOKENIZER_PIECE]) WARN_UNUSED;
/* The smallest number of tokens that n bytes of text can give; 0 if the tokenizer may drop
 * bytes. */
size_t tokenizer_fewest(const tokenizer *tok, size_t n);
/* Appends the text of n ids, which form one text, as the file's decoder makes it. A tokenizer that
 * puts a space before every text removes it again here. Invalid ids add nothing. Byte-level tokens
 * may give bytes that are not UTF-8. ERR_NO_MEMORY. Any thread. */
int tokenizer_decode(const tokenizer *tok, const uint32_t *ids, size_t n, bool skip_special,
                     buf *out, err *e) WARN_UNUSED;
/* The same in steps: decodes some ids from ids[*at] on and advances *at past them. *at is 0 before
 * the first call and n when the text is complete. */
int tokenizer_decode_some(const tokenizer *tok, const uint32_t *ids, size_t n, size_t *at,
                          bool skip_special, buf *out, err *e) WARN_UNUSED;
/* The bytes that an id gives inside a text; NULL and 0 if it gives none. The bytes of a special
 * token are its spelling. Borrowed from the tokenizer. */
const char *tokenizer_bytes(const tokenizer *tok, uint32_t id, size_t *n);
/* The file flags the token as special: it is never part of an answer's text. */
bool tokenizer_is_special(const tokenizer *tok, uint32_t id);
/* Special or marked: text of a client never becomes this token. */
bool tokenizer_is_control(const tokenizer *tok, uint32_t id);
/* Turns the added tokens spelled in the text into control tokens: a token written by a chat
 * template steers the model, whatever its flag says. White space and single characters of the
 * vocabulary stay ordinary, though some files list them as added tokens. Call it before other
 * threads use the tokenizer. */
void tokenizer_mark_control(tokenizer *tok, const char *text, size_t n);
/* The id of the token spelled exactly so. */
bool tokenizer_find(const tokenizer *tok, const char *token, uint32_t *id) WARN_UNUSED;
/* The token that the file's post-processor puts before every text, if any. Encoding never adds
 * it. */
bool tokenizer_bos(const tokenizer *tok, uint32_t *id) WARN_UNUSED;
uint32_t tokenizer_size(const tokenizer *tok); /* highest id + 1 */
void token_ids_deinit(token_ids *ids);
/* Tells the libraries of tokenizers. */
void tokenizer_libraries(version_sink put, void *ud);

#endif
