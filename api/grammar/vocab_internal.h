/* vocab_internal.h - a tokenizer's tokens as tries: constrain_vocab.c makes them, constrain_mask.c
 * walks them. */
#ifndef FATHOM_API_VOCAB_INTERNAL_H
#define FATHOM_API_VOCAB_INTERNAL_H

#include "api/grammar/constrain_internal.h"

#define API__NO_TOKEN UINT32_MAX

typedef struct {
    uint32_t token; /* the token that ends here, or API__NO_TOKEN */
    uint32_t next;  /* index after this subtree */
    uint8_t byte, depth;
} api__trie_node;

typedef struct {
    api__trie_node *nodes;
    uint32_t n_nodes;
} api__trie;

/* Irregular tokens without their leading plain characters. A trie node's token is an index i into
 * ids; the tokens with this ending are ids[i] to ids[last[i]]. */
typedef struct {
    api__trie tree;
    uint32_t *ids, *last;
} api__endings;

struct api__vocab {
    uint32_t n_tokens; /* of the model's vocabulary */
    size_t n_words;
    /* plain: whole characters, unescaped in a JSON string; irregular: all other tokens */
    api__trie all, plain, irregular;
    api__endings ends; /* of all irregular tokens */
    /* Of irregular tokens with this many leading plain characters. */
    api__endings ends_after[API__MAX_TOKEN_BYTES];
    /* [max_chars + 1][n_words] plain tokens of at most this many characters */
    uint64_t *plain_upto;
    uint8_t *chars; /* [n_tokens] characters of a plain token; 0: not plain */
    uint32_t max_chars;
    /* Tokens with API__CLOSER among their leading plain characters. */
    uint32_t *closers;
    uint32_t n_closers;
    uint32_t *sorted; /* [n_sorted] all tokens that a text may contain, by bytes */
    uint32_t n_sorted;
    const tokenizer *tokenizer;
};

/* The tokens sorted[*from] to sorted[*to - 1] begin with a text. */
void api__vocab_beginning(const api__vocab *vocab, const char *text, size_t n, uint32_t *from,
                          uint32_t *to);

#endif
