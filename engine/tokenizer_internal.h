/* tokenizer_internal.h - a byte-level BPE tokenizer as flat tables.
 *
 * Everything here is built once by tokenizer_load.c and then only read, by any thread;
 * the exception, `whole`, caches facts that every thread would compute alike. */
#ifndef FATHOM_ENGINE_TOKENIZER_INTERNAL_H
#define FATHOM_ENGINE_TOKENIZER_INTERNAL_H

#define PCRE2_CODE_UNIT_WIDTH 8

#include "engine/engine.h"

#include <pcre2.h>
#include <stdatomic.h>

#define ENG__NO_ID UINT32_MAX

enum {
    ENG__MAX_PIECE = 16 << 10, /* bytes of one token */
    ENG__MAX_STEPS = 16,       /* pre-tokenizers in a sequence */
    ENG__MAX_VOCAB = 4 << 20,
};

/* ---- map: 64-bit keys to 64-bit values, open addressing, built once ---- */

typedef struct {
    uint64_t key, value;
} eng__entry;

typedef struct {
    eng__entry *entries;
    size_t mask; /* slots - 1, a power of two less one; 0 entries while NULL */
    size_t n;
} eng__map;

#define ENG__NO_VALUE UINT64_MAX /* also the key of an empty slot */

static inline uint64_t eng__mix(uint64_t x) {
    x *= 0x9e3779b97f4a7c15ull;
    return x ^ x >> 29;
}

static inline uint64_t eng__map_get(const eng__map *m, uint64_t key) {
    for (size_t at = eng__mix(key) & m->mask;; at = (at + 1) & m->mask) {
        if (m->entries[at].key == key) return m->entries[at].value;
        if (m->entries[at].key == ENG__NO_VALUE) return ENG__NO_VALUE;
    }
}

int eng__map_init(eng__map *m, size_t capacity) WARN_UNUSED;  /* at most capacity puts follow */
void eng__map_put(eng__map *m, uint64_t key, uint64_t value); /* replaces */
void eng__map_deinit(eng__map *m);

/* ---- pieces of the tokenizer ---- */

typedef struct {
    size_t at;    /* in eng_tokenizer.text */
    uint32_t len; /* 0: the id stands for nothing */
    bool special, added;
    bool alien; /* not made of alphabet bytes: merging never leads to it */
} eng__token;

/* An added token is found in the text before anything else looks at it. */
typedef struct {
    uint32_t id;
    bool special, lstrip, rstrip;
} eng__added;

/* Added tokens as a trie: (node << 8 | byte) -> node, node -> index into `added`. */
typedef struct {
    eng__map edges;
    uint32_t *end; /* [n_nodes]; ENG__NO_ID inside a word */
    uint32_t n_nodes;
    bool first[256];
} eng__trie;

typedef enum {
    ENG__ISOLATED,
    ENG__REMOVED,
    ENG__MERGED_WITH_PREVIOUS,
    ENG__MERGED_WITH_NEXT,
    ENG__CONTIGUOUS,
} eng__behavior;

typedef struct {
    pcre2_code *code; /* NULL: no split, only the prefix space */
    bool jit;
    eng__behavior behavior;
    bool invert;
    bool add_prefix_space;
} eng__step;

struct eng_tokenizer {
    uint32_t n_ids;
    char *text;             /* bytes of all tokens */
    eng__token *tokens;     /* [n_ids] */
    _Atomic uint8_t *whole; /* [n_ids] eng__whole */
    uint32_t max_len;       /* longest token of the vocabulary, bytes */
    uint32_t *slots;        /* hash of token bytes to id; ENG__NO_ID = empty */
    size_t slot_mask;
    uint32_t byte_id[256]; /* ENG__NO_ID where the unknown token stands in */
    uint32_t unk, bos;     /* ENG__NO_ID if none */
    bool fuse_unk, ignore_merges;
    eng__map merges; /* left << 32 | right -> rank << 32 | result */
    eng__added *added;
    eng__trie tries[2]; /* found in raw text; found in what is left ("normalized") */
    eng__step steps[ENG__MAX_STEPS];
    uint32_t n_steps;
};

/* Does the text of this token, as a whole piece, encode to the token alone? */
typedef enum { ENG__WHOLE_UNKNOWN, ENG__WHOLE_YES, ENG__WHOLE_NO } eng__whole;

uint32_t eng__token_lookup(const eng_tokenizer *t, const char *bytes, size_t n); /* ENG__NO_ID */

/* ---- encoding: what one call holds ---- */

typedef struct {
    uint32_t id, prev, next; /* neighbours by index; ENG__NO_ID at the ends */
} eng__symbol;

typedef struct {
    const eng_tokenizer *t;
    eng_ids *out;
    size_t max_ids;
    bool parse_special;
    err *e;
    eng__symbol *symbols; /* for long pieces */
    uint64_t *heap;       /* rank << 32 | index of the left symbol */
    size_t cap;           /* symbols there is room for; the heap has twice that */
    pcre2_match_data *match;
    pcre2_match_context *context; /* both made at first use */
    pcre2_jit_stack *stack;
} eng__encoder;

int eng__put_id(eng__encoder *c, uint32_t id) WARN_UNUSED;
/* One piece, merged; the split is over. */
int eng__encode_piece(eng__encoder *c, const char *text, size_t n) WARN_UNUSED;
/* Valid UTF-8 through the pre-tokenizers from `step` on. */
int eng__encode_split(eng__encoder *c, uint32_t step, const char *text, size_t n) WARN_UNUSED;

/* Compiles the pre-tokenizers of the file. ERR_BAD_FILE. */
int eng__steps_load(eng_tokenizer *t, const json_t *pre, const char *what, err *e) WARN_UNUSED;

#endif
