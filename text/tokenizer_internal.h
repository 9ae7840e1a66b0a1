/* tokenizer_internal.h - a BPE tokenizer as flat tables.
 *
 * Merging begins with the bytes of a piece (ByteLevel) or with its characters (SentencePiece).
 * load.c builds everything here once; afterwards any thread may read it. Only `whole` is written
 * later: it caches facts that every thread computes alike. */
#ifndef FATHOM_TEXT_TOKENIZER_INTERNAL_H
#define FATHOM_TEXT_TOKENIZER_INTERNAL_H

#include "base/json.h"
#include "base/map.h"
#include "text/pattern_internal.h"
#include "text/tokenizer.h"

#include <stdatomic.h>
#include <string.h>

#define TEXT__NO_ID UINT32_MAX

enum {
    TEXT__MAX_PIECE = 16 << 10, /* bytes of one token */
    TEXT__MAX_STEPS = 16,       /* pre-tokenizers in a sequence */
    TEXT__MAX_VOCAB = 4 << 20,
};

/* ---- parts of the tokenizer ---- */

typedef struct {
    uint32_t at, len;      /* bytes it gives inside a text, in tokenizer.text */
    uint32_t key, key_len; /* its spelling, for lookups, in tokenizer.text; key_len 0: no token */
    bool special, added;
    bool control;     /* special or marked */
    bool unreachable; /* no text becomes this token by merging or as a whole word */
} text__token;

/* An added token is searched for in the text before all other steps. */
typedef struct {
    uint32_t id;
    bool lstrip, rstrip, single_word;
    bool plain; /* white space or a character of the vocabulary: it never steers the model */
} text__added;

/* Added tokens as a trie: (node << 8 | byte) -> node, node -> index into `added`. */
typedef struct {
    map edges;
    uint32_t *end; /* [cap], n_nodes + 1 in use; TEXT__NO_ID inside a word */
    size_t cap;
    uint32_t n_nodes; /* without the root */
    bool first[256];  /* a word begins with this byte */
} text__trie;

/* The tries of the added tokens. */
typedef enum {
    TEXT__TRIE_RAW,        /* tokens found in the raw text */
    TEXT__TRIE_NORMALIZED, /* tokens found in the normalized rest, by their normalized spelling */
    TEXT__TRIE_NAMES,      /* their original spelling where it differs, for tokenizer_find */
    TEXT__N_TRIES,
} text__trie_kind;

typedef enum {
    TEXT__ISOLATED,
    TEXT__REMOVED,
    TEXT__MERGED_WITH_PREVIOUS,
    TEXT__MERGED_WITH_NEXT,
    TEXT__CONTIGUOUS,
} text__behavior;

typedef enum { TEXT__ALWAYS, TEXT__FIRST, TEXT__NEVER } text__prepend;

/* A Metaspace replaces each space by another character, may put one before the text, and may split
 * the text before each of them. */
typedef struct {
    char replacement[5];
    uint8_t len; /* of the replacement; 0: this step is no Metaspace */
    text__prepend prepend;
    bool split;
} text__metaspace;

typedef struct {
    text__metaspace meta;
    text__pattern pattern; /* without code: the step adds the prefix space only */
    text__behavior behavior;
    bool invert;
    bool add_prefix_space;
} text__step;

typedef enum {
    TEXT__NFC,
    TEXT__NFD,
    TEXT__NFKC,
    TEXT__NFKD,
    TEXT__LOWERCASE,
    TEXT__STRIP_ACCENTS,
    TEXT__STRIP_BLANKS,
    TEXT__PREPEND,
    TEXT__REPLACE_TEXT,
} text__normal_kind;

/* A part of the normalizer. */
typedef struct {
    text__normal_kind kind;
    char *from, *to; /* REPLACE_TEXT: puts `to` for each `from` (NULL: for each match of `pattern`).
                      * PREPEND: `to` goes before the text. */
    size_t n_from, n_to;
    text__pattern pattern;
    bool left, right; /* STRIP_BLANKS */
} text__normal_step;

typedef enum {
    TEXT__REPLACE,
    TEXT__BYTE_FALLBACK,
    TEXT__FUSE,
    TEXT__STRIP,
    TEXT__SPACES, /* a Metaspace */
} text__decoding;

/* A part of the decoder. */
typedef struct {
    text__decoding kind;
    char *from, *to; /* REPLACE: puts `to` for each `from`. STRIP removes `from`, SPACES puts a
                      * space for it. */
    size_t n_from, n_to;
    uint32_t start, stop; /* STRIP: at most so many characters at each end */
    bool keep_first;      /* SPACES: the first token of a text keeps its space */
} text__decode_step;

struct tokenizer {
    uint32_t n_ids;
    char *text;             /* bytes of all tokens */
    text__token *tokens;    /* [n_ids] */
    _Atomic uint8_t *whole; /* [n_ids] text__whole */
    uint32_t max_len;       /* longest spelling that text can become, bytes */
    uint32_t longest;       /* most bytes of text that one token covers; 0: text may be dropped */
    uint32_t *slots;        /* hash of spelling -> id; TEXT__NO_ID = empty */
    size_t slot_mask;
    bool chars;             /* symbols are characters, not bytes */
    uint32_t byte_id[256];  /* TEXT__NO_ID: no token; the unknown token or nothing replaces it */
    uint32_t ascii_id[128]; /* tokens of characters; TEXT__NO_ID: no token */
    map joints;             /* text__joint of two characters -> 0: some merge spans them */
    uint32_t unk, bos;      /* TEXT__NO_ID if none */
    bool fuse_unk, ignore_merges;
    map merges; /* left << 32 | right -> rank << 32 | result */
    text__added *added;
    text__trie tries[TEXT__N_TRIES];
    text__step steps[TEXT__MAX_STEPS];
    uint32_t n_steps;
    text__normal_step normalizer[TEXT__MAX_STEPS];
    uint32_t n_normalizer;
    text__decode_step decoder[TEXT__MAX_STEPS]; /* on spellings */
    uint32_t n_decoder;                         /* 0: the bytes of the tokens are joined */
    bool decode_whole;                          /* a text must be decoded in one step */
};

/* Does the spelling of this token, as a whole piece, encode to the token alone? */
typedef enum { TEXT__WHOLE_UNKNOWN, TEXT__WHOLE_YES, TEXT__WHOLE_NO } text__whole;

/* The token with this spelling, if text may become it; otherwise TEXT__NO_ID. */
uint32_t text__token_lookup(const tokenizer *tok, const char *key, size_t n);
/* Index of the longest added token at the start of text, or TEXT__NO_ID. */
uint32_t text__trie_match(const text__trie *trie, const char *text, size_t n, size_t *len);

/* ---- characters ---- */

/* The bytes of a UTF-8 character, at most 4, as one number. */
static inline uint32_t text__packed(const char *bytes, size_t len) {
    uint32_t number = 0;
    memcpy(&number, bytes, len);
    return number;
}

static inline uint64_t text__joint(uint32_t left, uint32_t right) {
    return (uint64_t)left << 32 | right;
}

/* Bytes of white space at the start of text. */
size_t text__spaces_after(const char *text, size_t n);
/* Start of the white space that ends at `end`; never before `floor`. */
size_t text__spaces_before(const char *text, size_t floor, size_t end);
/* The text begins (or ends, at `end`) with a character of a word. */
bool text__word_after(const char *text, size_t n);
bool text__word_before(const char *text, size_t end);

/* ---- decoding ---- */

/* The text of one spelling in the middle of a text: decoder steps on the ends of a whole text are
 * left out. */
void text__decode_one(const tokenizer *tok, const char *key, size_t n, buf *out);
void text__decoder_free(tokenizer *tok);

/* ---- encoding: the state of one call ---- */

typedef struct {
    uint32_t id, prev, next; /* neighbours by index; TEXT__NO_ID at the ends */
} text__symbol;

typedef struct {
    const tokenizer *tok;
    token_ids *out;
    size_t max_ids;
    size_t pieces;        /* encoded so far; the cancel flag is read every so many */
    const text_run *runs; /* of `text` */
    size_t n_runs;
    const char *text;
    const char *text_start; /* the first byte of the whole text, as rewritten so far */
    err *e;
    text__symbol *symbols; /* for long pieces */
    uint64_t *heap;        /* rank << 32 | index of the left symbol */
    size_t cap;            /* symbols allocated; the heap has twice as many entries */
    text__search search;
} text__encoder;

int text__put_id(text__encoder *enc, uint32_t id) WARN_UNUSED;
/* Merges one piece of the split text and puts out its tokens. */
int text__encode_piece(text__encoder *enc, const char *text, size_t n) WARN_UNUSED;
/* The first run that ends after byte `at` of the encoder's text. */
size_t text__first_run(const text__encoder *enc, size_t at);
/* Frees the encoder's own memory, not its output. */
void text__encoder_deinit(text__encoder *enc);

/* A normalized text and the origin of its bytes. */
typedef struct {
    buf text;
    text_run *runs;
    size_t n_runs, cap;
} text__normal;
/* Normalizes n bytes of the encoder's text. On success the caller frees *out. Fails as
 * tokenizer_encode. */
int text__normalize(text__encoder *enc, const char *text, size_t n, text__normal *out) WARN_UNUSED;
void text__normal_deinit(text__normal *normal);
bool text__normalizer_shortens(const tokenizer *tok); /* some text may get shorter */
void text__normalizer_free(tokenizer *tok);

/* Calls `take` for all matches of the pattern in valid UTF-8 and for the text between them, in
 * order. Stops at the first call that does not return 0. Fails as tokenizer_encode. */
typedef int text__match_item(void *ud, size_t start, size_t end, bool is_match);
int text__each_match(text__encoder *enc, const text__pattern *pattern, const char *text, size_t n,
                     text__match_item *take, void *ud) WARN_UNUSED;
/* Runs the pre-tokenizers from `step` on over valid UTF-8. */
int text__encode_split(text__encoder *enc, uint32_t step, const char *text, size_t n) WARN_UNUSED;

/* ---- loading a part of tokenizer.json; `key` and `file` name it in messages ---- */

/* A Regex. */
int text__pattern_load(text__pattern *pattern, const json_t *regex, const char *key,
                       const char *file, err *e) WARN_UNUSED;
/* A pre-tokenizer or decoder of type Metaspace. */
int text__metaspace_load(text__metaspace *meta, const json_t *one, const char *key,
                         const char *file, err *e) WARN_UNUSED;
/* All pre-tokenizers. They decide whether symbols are bytes or characters. */
int text__steps_load(tokenizer *tok, const json_t *pre, const char *file, err *e) WARN_UNUSED;

#endif
