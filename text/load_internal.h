/* load_internal.h - what the files that read a tokenizer.json share. */
#ifndef FATHOM_TEXT_LOAD_INTERNAL_H
#define FATHOM_TEXT_LOAD_INTERNAL_H

#include "text/tokenizer_internal.h"

enum { TEXT__ALPHABET = 256 + 68 }; /* highest code point of the byte alphabet, plus 1 */

typedef struct {
    tokenizer *t;
    const char *what;                /* file name for messages */
    uint32_t rows;                   /* ids lie below it */
    buf text;                        /* becomes t->text */
    int16_t byte_of[TEXT__ALPHABET]; /* code point -> byte, -1 = none */
    bool byte_decoder;               /* spellings stand for bytes by that alphabet */
    double growth;                   /* times that the steps read so far may lengthen a text */
    bool byte_fallback;              /* "<0x0A>" stands in for a byte of what has no token */
    json_t *vocab;                   /* of the file */
    json_t *last; /* spelling of an added token -> index of its last entry, which counts */
    json_t *past; /* spellings of added tokens whose id the model has no row for */
    err *e;
} text__loader;

/* Both return -1. */
int text__bad(text__loader *l, const char *key, const char *fmt, ...) PRINTF_LIKE(3, 4);
int text__load_no_memory(text__loader *l);
/* A string of the file; its owner frees *out. */
int text__load_copy(text__loader *l, const json_t *text, char **out, size_t *n) WARN_UNUSED;

/* Hands every part of a Sequence to `load`, in order, or the one part that it is. Sequences within
 * Sequences are one; the file's depth is bounded. key: "decoder", its list is called "decoders". */
typedef int text__part_load(text__loader *l, const json_t *part, const char *type);
int text__each_part(text__loader *l, const json_t *part, const char *key,
                    text__part_load *load) WARN_UNUSED;

/* vocab.c. Sides of merges and unk_token are ids of the vocabulary; -1 where there is none, or
 * the model has no row for it. */
void text__alphabet_init(int16_t *byte_of);
int text__vocab_measure(text__loader *l) WARN_UNUSED;
/* Spelling and bytes of a token into l->text; where both are the same, once. */
int text__token_spell(text__loader *l, text__token *token, const char *key, size_t n_key,
                      const char *bytes, size_t n) WARN_UNUSED;
int text__vocab_load(text__loader *l) WARN_UNUSED;
int text__vocab_id(const text__loader *l, const char *key, size_t n, uint32_t *id) WARN_UNUSED;
int text__vocab_index(text__loader *l) WARN_UNUSED;
int text__merges_load(text__loader *l, const json_t *merges) WARN_UNUSED;

/* added.c: first looks through them, then loads them. */
int text__added_measure(text__loader *l, const json_t *added) WARN_UNUSED;
int text__added_load(text__loader *l, const json_t *added) WARN_UNUSED;

/* normalize.c, before added tokens */
int text__normalizer_load(text__loader *l, const json_t *normalizer) WARN_UNUSED;

/* decode.c */
int text__decoder_load(text__loader *l, const json_t *decoder) WARN_UNUSED;

/* post.c: finds the token that a post-processor puts before every text. */
void text__post_load(text__loader *l, const json_t *post);

#endif
