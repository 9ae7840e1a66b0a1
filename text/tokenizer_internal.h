/* tokenizer_internal.h - a byte-level BPE tokenizer as flat tables.
 *
 * Everything here is built once by load.c and then only read, by any thread;
 * the exception, `whole`, caches facts that every thread would compute alike. */
#ifndef FATHOM_ENGINE_TOKENIZER_INTERNAL_H
#define FATHOM_ENGINE_TOKENIZER_INTERNAL_H

#include "base/json.h"
#include "base/map.h"
#include "text/pattern_internal.h"
#include "text/tokenizer.h"

#include <stdatomic.h>

#define TEXT__NO_ID UINT32_MAX

enum {
    TEXT__MAX_PIECE = 16 << 10, /* bytes of one token */
    TEXT__MAX_STEPS = 16,       /* pre-tokenizers in a sequence */
    TEXT__MAX_VOCAB = 4 << 20,
};

/* ---- pieces of the tokenizer ---- */

typedef struct {
    size_t at;    /* in tokenizer.text */
    uint32_t len; /* 0: the id stands for nothing */
    bool special, added;
    bool control; /* special, or marked */
    bool alien;   /* not made of alphabet bytes: merging never leads to it */
} text__token;

/* An added token is found in the text before anything else looks at it. */
typedef struct {
    uint32_t id;
    bool lstrip, rstrip, single_word;
} text__added;

/* Added tokens as a trie: (node << 8 | byte) -> node, node -> index into `added`. */
typedef struct {
    map edges;
    uint32_t *end; /* [n_nodes]; TEXT__NO_ID inside a word */
    uint32_t n_nodes;
    bool first[256];
} text__trie;

typedef enum {
    TEXT__ISOLATED,
    TEXT__REMOVED,
    TEXT__MERGED_WITH_PREVIOUS,
    TEXT__MERGED_WITH_NEXT,
    TEXT__CONTIGUOUS,
} text__behavior;

typedef struct {
    text__pattern pattern; /* none: no split, only the prefix space */
    text__behavior behavior;
    bool invert;
    bool add_prefix_space;
} text__step;

struct tokenizer {
    uint32_t n_ids;
    char *text;             /* bytes of all tokens */
    text__token *tokens;    /* [n_ids] */
    _Atomic uint8_t *whole; /* [n_ids] text__whole */
    uint32_t max_len;       /* longest token of the vocabulary, bytes */
    uint32_t longest; /* most bytes of text that one token stands for; 0: some text may vanish */
    uint32_t *slots;  /* hash of token bytes to id; TEXT__NO_ID = empty */
    size_t slot_mask;
    uint32_t byte_id[256]; /* TEXT__NO_ID: the unknown token stands in, or nothing does */
    uint32_t unk, bos;     /* TEXT__NO_ID if none */
    bool fuse_unk, ignore_merges;
    map merges; /* left << 32 | right -> rank << 32 | result */
    text__added *added;
    text__trie tries[2]; /* found in raw text; found in what is left ("normalized") */
    text__step steps[TEXT__MAX_STEPS];
    uint32_t n_steps;
};

/* Does the text of this token, as a whole piece, encode to the token alone? */
typedef enum { TEXT__WHOLE_UNKNOWN, TEXT__WHOLE_YES, TEXT__WHOLE_NO } text__whole;

uint32_t text__token_lookup(const tokenizer *t, const char *bytes, size_t n); /* TEXT__NO_ID */
/* Index of the longest added token at the start of text, or TEXT__NO_ID. */
uint32_t text__trie_match(const text__trie *trie, const char *text, size_t n, size_t *len);

/* ---- characters ---- */

size_t text__spaces_after(const char *text, size_t n);
/* Where the spaces that end at `end` begin; not before `floor`. */
size_t text__spaces_before(const char *text, size_t floor, size_t end);
bool text__word_after(const char *text, size_t n); /* the text begins with a letter or the like */
bool text__word_before(const char *text, size_t end);

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
    err *e;
    text__symbol *symbols; /* for long pieces */
    uint64_t *heap;        /* rank << 32 | index of the left symbol */
    size_t cap;            /* symbols there is room for; the heap has twice that */
    text__search search;
} text__encoder;

int text__put_id(text__encoder *c, uint32_t id) WARN_UNUSED;
/* One piece, merged; the split is over. */
int text__encode_piece(text__encoder *c, const char *text, size_t n) WARN_UNUSED;
/* Valid UTF-8 through the pre-tokenizers from `step` on. */
int text__encode_split(text__encoder *c, uint32_t step, const char *text, size_t n) WARN_UNUSED;

/* Compiles the pre-tokenizers of the file. ERR_BAD_FILE. */
int text__steps_load(tokenizer *t, const json_t *pre, const char *what, err *e) WARN_UNUSED;

#endif
