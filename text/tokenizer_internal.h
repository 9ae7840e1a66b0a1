/* tokenizer_internal.h - a BPE tokenizer as flat tables.
 *
 * Merging begins with the bytes of a piece (ByteLevel) or with its characters (SentencePiece's
 * way). Everything here is built once by load.c and then only read, by any thread; the
 * exception, `whole`, caches facts that every thread would compute alike. */
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

/* ---- pieces of the tokenizer ---- */

typedef struct {
    uint32_t at, len;      /* in tokenizer.text: the bytes it stands for inside a text */
    uint32_t key, key_len; /* the same of its spelling, by which it is looked up; 0: no token */
    bool special, added;
    bool control; /* special, or marked */
    bool alien;   /* no text leads to it by merging or as a whole word */
} text__token;

/* An added token is found in the text before anything else looks at it. */
typedef struct {
    uint32_t id;
    bool lstrip, rstrip, single_word;
    bool plain; /* white space, or a character of the vocabulary: it steers no model */
} text__added;

/* Added tokens as a trie: (node << 8 | byte) -> node, node -> index into `added`. */
typedef struct {
    map edges;
    uint32_t *end; /* [cap], of which n_nodes + 1 are used; TEXT__NO_ID inside a word */
    size_t cap;
    uint32_t n_nodes; /* but the root */
    bool first[256];
} text__trie;

typedef enum {
    TEXT__ISOLATED,
    TEXT__REMOVED,
    TEXT__MERGED_WITH_PREVIOUS,
    TEXT__MERGED_WITH_NEXT,
    TEXT__CONTIGUOUS,
} text__behavior;

typedef enum { TEXT__ALWAYS, TEXT__FIRST, TEXT__NEVER } text__prepend;

/* A Metaspace writes another character for each space, may put one before the text, and may cut
 * the text before each. */
typedef struct {
    char replacement[5];
    uint8_t len; /* of the replacement; 0: this step is no Metaspace */
    text__prepend prepend;
    bool split;
} text__metaspace;

typedef struct {
    text__metaspace meta;
    text__pattern pattern; /* none: no split, only the prefix space */
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
    char *from, *to; /* REPLACE_TEXT: what for what; from NULL: for what the pattern matches.
                      * PREPEND: to */
    size_t n_from, n_to;
    text__pattern pattern;
    bool left, right; /* STRIP_BLANKS */
} text__normal_step;

typedef enum {
    TEXT__REPLACE,
    TEXT__BYTE_FALLBACK,
    TEXT__FUSE,
    TEXT__STRIP,
    TEXT__SPACES, /* Metaspace's */
} text__decoding;

/* A part of the decoder. */
typedef struct {
    text__decoding kind;
    char *from, *to; /* REPLACE; from: also what STRIP takes off, and what SPACES puts spaces for */
    size_t n_from, n_to;
    uint32_t start, stop; /* STRIP: most characters off each end */
    bool keep_first;      /* SPACES: the first token of a text has its space, too */
} text__decode_step;

struct tokenizer {
    uint32_t n_ids;
    char *text;             /* bytes of all tokens */
    text__token *tokens;    /* [n_ids] */
    _Atomic uint8_t *whole; /* [n_ids] text__whole */
    uint32_t max_len;       /* longest spelling of the vocabulary, bytes */
    uint32_t longest; /* most bytes of text that one token stands for; 0: some text may vanish */
    uint32_t *slots;  /* hash of spelling to id; TEXT__NO_ID = empty */
    size_t slot_mask;
    bool chars;             /* symbols are characters, not bytes */
    uint32_t byte_id[256];  /* TEXT__NO_ID: the unknown token stands in, or nothing does */
    uint32_t ascii_id[128]; /* of characters; TEXT__NO_ID: it has no token */
    map joints;             /* text__joint of characters between which some merge goes */
    uint32_t unk, bos;      /* TEXT__NO_ID if none */
    bool fuse_unk, ignore_merges;
    map merges; /* left << 32 | right -> rank << 32 | result */
    text__added *added;
    /* Found in raw text; in what is left, normalized; and the spellings of those that are
     * spelled otherwise there, by which they are named. */
    text__trie tries[3];
    text__step steps[TEXT__MAX_STEPS];
    uint32_t n_steps;
    text__normal_step normalizer[TEXT__MAX_STEPS];
    uint32_t n_normalizer;
    text__decode_step decoder[TEXT__MAX_STEPS]; /* of spellings, where they are not bytes */
    uint32_t n_decoder;                         /* 0: what tokens stand for is put together */
    bool decode_whole;                          /* a text is decoded at once */
};

/* Does the text of this token, as a whole piece, encode to the token alone? */
typedef enum { TEXT__WHOLE_UNKNOWN, TEXT__WHOLE_YES, TEXT__WHOLE_NO } text__whole;

/* The token that text may become; TEXT__NO_ID if none is spelled so. */
uint32_t text__token_lookup(const tokenizer *t, const char *key, size_t n);
/* Index of the longest added token at the start of text, or TEXT__NO_ID. */
uint32_t text__trie_match(const text__trie *trie, const char *text, size_t n, size_t *len);

/* ---- characters ---- */

/* A character of UTF-8 as a number, at most 4 bytes. */
static inline uint32_t text__packed(const char *s, size_t len) {
    uint32_t c = 0;
    memcpy(&c, s, len);
    return c;
}

static inline uint64_t text__joint(uint32_t left, uint32_t right) {
    return (uint64_t)left << 32 | right;
}

size_t text__spaces_after(const char *text, size_t n);
/* Where the spaces that end at `end` begin; not before `floor`. */
size_t text__spaces_before(const char *text, size_t floor, size_t end);
bool text__word_after(const char *text, size_t n); /* the text begins with a letter or the like */
bool text__word_before(const char *text, size_t end);

/* ---- decoding ---- */

/* A spelling as it stands inside a text: what the decoder does to texts as a whole is left out. */
void text__decode_one(const tokenizer *t, const char *key, size_t n, buf *out);
void text__decoder_free(tokenizer *t);

/* ---- encoding: what one call holds ---- */

typedef struct {
    uint32_t id, prev, next; /* neighbours by index; TEXT__NO_ID at the ends */
} text__symbol;

typedef struct {
    const tokenizer *t;
    token_ids *out;
    size_t max_ids;
    size_t pieces;        /* seen so far; now and then it is asked whether anybody still waits */
    const text_run *runs; /* of `text` */
    size_t n_runs;
    const char *text;
    const char *first; /* where the whole text begins, now */
    err *e;
    text__symbol *symbols; /* for long pieces */
    uint64_t *heap;        /* rank << 32 | index of the left symbol */
    size_t cap;            /* symbols there is room for; the heap has twice that */
    text__search search;
} text__encoder;

int text__put_id(text__encoder *c, uint32_t id) WARN_UNUSED;
/* One piece, merged; the split is over. */
int text__encode_piece(text__encoder *c, const char *text, size_t n) WARN_UNUSED;
/* The first run that ends behind byte `at` of the encoder's text. */
size_t text__first_run(const text__encoder *c, size_t at);
/* Frees what the encoder holds, not its output. */
void text__encoder_deinit(text__encoder *c);

/* A normalized text and the origin of its bytes. */
typedef struct {
    buf text;
    text_run *runs;
    size_t n_runs, cap;
} text__normal;
/* n bytes of the encoder's text through the normalizer. On success the caller ends *out. Fails
 * as tokenizer_encode. */
int text__normalize(text__encoder *c, const char *text, size_t n, text__normal *out) WARN_UNUSED;
void text__normal_deinit(text__normal *o);
bool text__normalizer_shortens(const tokenizer *t); /* some text may get shorter */
void text__normalizer_free(tokenizer *t);

/* All matches of the pattern in valid UTF-8 and what stands between them, in order. The first
 * call of `take` that does not return 0 ends it. Fails as tokenizer_encode. */
typedef int text__match_item(void *ud, size_t start, size_t end, bool is_match);
int text__each_match(text__encoder *c, const text__pattern *pattern, const char *text, size_t n,
                     text__match_item *take, void *ud) WARN_UNUSED;
/* Valid UTF-8 through the pre-tokenizers from `step` on. */
int text__encode_split(text__encoder *c, uint32_t step, const char *text, size_t n) WARN_UNUSED;

/* A Regex of another part of the file; key: which, for the message. */
int text__pattern_load(text__pattern *p, const json_t *regex, const char *key, const char *what,
                       err *e) WARN_UNUSED;
/* A pre-tokenizer or decoder of type Metaspace; key: which of them, for the message. */
int text__metaspace_load(text__metaspace *m, const json_t *one, const char *key, const char *what,
                         err *e) WARN_UNUSED;
/* Compiles the pre-tokenizers of the file, which say what symbols are. ERR_BAD_FILE. */
int text__steps_load(tokenizer *t, const json_t *pre, const char *what, err *e) WARN_UNUSED;

#endif
