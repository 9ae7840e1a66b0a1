/* load_internal.h - shared by the parts of the reader of tokenizer.json. */
#ifndef FATHOM_TEXT_LOAD_INTERNAL_H
#define FATHOM_TEXT_LOAD_INTERNAL_H

#include "text/tokenizer_internal.h"

enum { TEXT__ALPHABET = 256 + 68 }; /* highest code point of the byte alphabet, plus 1 */

typedef struct {
    tokenizer *tok;
    const char *file;                /* name for messages */
    uint32_t n_rows;                 /* of the model's embedding; ids lie below it */
    buf text;                        /* becomes tok->text */
    int16_t byte_of[TEXT__ALPHABET]; /* code point -> byte, -1 = none */
    bool byte_decoder;               /* spellings stand for bytes by this alphabet */
    double growth;                   /* factor by which the steps so far may lengthen a text */
    bool byte_fallback;              /* "<0x0A>" replaces a byte of a character without a token */
    json_t *vocab;                   /* of the file */
    json_t *last_entry;  /* spelling of an added token -> index of its last entry, which counts */
    json_t *without_row; /* spellings of added tokens with an id past the model's rows */
    err *e;
} text__loader;

/* Both return -1. */
int text__bad(text__loader *loader, const char *key, const char *fmt, ...) PRINTF_LIKE(3, 4);
int text__load_no_memory(text__loader *loader);
/* Copies a string of the file. The owner of *out frees it. */
int text__load_copy(text__loader *loader, const json_t *text, char **out, size_t *n) WARN_UNUSED;

/* Calls `load` for every part of a Sequence in order, or for the part itself if it is no Sequence.
 * Nested Sequences count as one; the depth of the file is bounded. With key "decoder" the list is
 * named "decoders". */
typedef int text__part_load(text__loader *loader, const json_t *part, const char *type);
int text__each_part(text__loader *loader, const json_t *part, const char *key,
                    text__part_load *load) WARN_UNUSED;

/* vocab.c */
void text__alphabet_init(int16_t *byte_of);
int text__vocab_measure(text__loader *loader) WARN_UNUSED;
/* Appends spelling and bytes of a token to loader->text; only once if they are equal. */
int text__token_spell(text__loader *loader, text__token *token, const char *key, size_t n_key,
                      const char *bytes, size_t n) WARN_UNUSED;
int text__vocab_load(text__loader *loader) WARN_UNUSED;
/* The id of a spelling in the vocabulary; -1 if there is none or the model has no row for it. */
int text__vocab_id(const text__loader *loader, const char *key, size_t n, uint32_t *id) WARN_UNUSED;
int text__vocab_index(text__loader *loader) WARN_UNUSED;
int text__merges_load(text__loader *loader, const json_t *merges) WARN_UNUSED;

/* added.c. Measure first: it finds the entries that count and the highest id. */
int text__added_measure(text__loader *loader, const json_t *added) WARN_UNUSED;
int text__added_load(text__loader *loader, const json_t *added) WARN_UNUSED;

/* normalize.c. Before the added tokens, which are normalized while they are loaded. */
int text__normalizer_load(text__loader *loader, const json_t *normalizer) WARN_UNUSED;

/* decode.c */
int text__decoder_load(text__loader *loader, const json_t *decoder) WARN_UNUSED;

/* post.c: finds the token that the post-processor puts before every text. */
void text__post_load(text__loader *loader, const json_t *post);

#endif
