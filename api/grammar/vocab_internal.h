/* vocab_internal.h - a tokenizer's tokens as tries, and a cache of masks over them:
 * constrain_vocab.c makes the tries, constrain_mask.c walks them, mask_cache.c keeps the masks. */
#ifndef FATHOM_API_VOCAB_INTERNAL_H
#define FATHOM_API_VOCAB_INTERNAL_H

#include "api/grammar/constrain_internal.h"

#define API__NO_TOKEN UINT32_MAX

typedef struct {
    uint32_t token; /* place of the token that ends here in a list, or API__NO_TOKEN */
    uint32_t child; /* index of the first child; children stand side by side */
    uint16_t n_children;
    uint8_t byte;
} api__trie_node;

/* The first n_roots nodes are the first bytes. */
typedef struct {
    api__trie_node *nodes;
    uint32_t n_nodes, n_roots;
} api__trie;

/* Tokens, or their endings without leading plain characters. A trie node's token is an index i into
 * ids; the tokens with this text are ids[i] to ids[last[i]]: vocabularies with byte tokens have two
 * for many characters, and many tokens have one ending. */
typedef struct {
    api__trie tree;
    uint32_t *ids, *last;
} api__endings;

/* ---- masks kept for states that come again ---- */

enum {
    API__KEPT_FRAMES = 64, /* masks of larger states are not kept */
    API__NO_BASE = UINT32_MAX,
};

/* The state of a grammar's automaton as bytes, a multiple of four. */
typedef struct {
    uint32_t n_bytes;
    uint8_t bytes[16 + API__KEPT_FRAMES * sizeof(api__frame) + API__MAX_READINGS * 2];
} api__mask_key;

typedef struct api__masks api__masks;

/* bases: masks that others are like, [][n_words]. max_bytes: of all masks and their states. -1: out
 * of memory. */
int api__masks_open(api__masks **out, size_t n_words, const uint64_t *bases,
                    size_t max_bytes) WARN_UNUSED;
void api__masks_close(api__masks *masks); /* masks may be NULL */
/* Copies the mask of a state. False: it is not kept. */
bool api__masks_find(api__masks *masks, const api__mask_key *key, uint64_t *words);
/* base: the row of bases that the mask is like, or API__NO_BASE. */
void api__masks_keep(api__masks *masks, const api__mask_key *key, uint32_t base,
                     const uint64_t *words);

typedef struct {
    size_t kept, blocks, bytes;
    uint64_t found, made;
} api__mask_counts;
api__mask_counts api__masks_counts(api__masks *masks);

/* ---- the vocabulary ---- */

struct api__vocab {
    uint32_t n_tokens; /* of the model's vocabulary */
    size_t n_words;
    /* plain: whole characters, unescaped in a JSON string; irregular: all other tokens */
    api__endings all, plain, irregular; /* whole tokens */
    api__endings ends;                  /* of all irregular tokens */
    /* Of irregular tokens with this many leading plain characters. */
    api__endings ends_after[API__MAX_TOKEN_BYTES];
    /* [max_chars + 1][n_words] plain tokens of at most this many characters */
    uint64_t *plain_upto;
    uint8_t *chars; /* [n_tokens] characters of a plain token; 0: not plain */
    uint32_t max_chars;
    uint32_t max_items; /* no token begins more items of one array */
    /* Tokens with API__CLOSER among their leading plain characters. */
    uint32_t *closers;
    uint32_t n_closers;
    uint32_t *sorted; /* [n_sorted] all tokens that a text may contain, by bytes */
    uint32_t n_sorted;
    const tokenizer *tokenizer;
    api__masks *masks;
};

/* The tokens sorted[*from] to sorted[*to - 1] begin with a text. */
void api__vocab_beginning(const api__vocab *vocab, const char *text, size_t n, uint32_t *from,
                          uint32_t *to);

#endif
