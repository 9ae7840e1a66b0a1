/* forced_internal.h - the text that a grammar leaves no choice about, in tokens.
 *
 * From braces, keys, colons and single values follows the next byte, again and again. Only blanks
 * are free there: they are guessed as the answer wrote them so far, at first as most models and
 * printers do. A token may be cut otherwise than the model cuts it. So all of this is a guess. */
#ifndef FATHOM_API_FORCED_INTERNAL_H
#define FATHOM_API_FORCED_INTERNAL_H

#include "api/grammar/vocab_internal.h"

enum {
    API__MOST_FORCED = 8,    /* tokens */
    API__FORCED_BYTES = 256, /* of their text */
};

/* ---- next_bytes.c: one byte ahead ---- */

/* Where blanks may stand. */
typedef enum {
    API__NO_GAP,
    API__AFTER_OPEN, /* behind { or [ */
    API__AFTER_COLON,
    API__AFTER_COMMA,
    API__BEFORE_CLOSE, /* before } or ], or a comma before which none may stand */
    API__N_GAPS
} api__gap;
/* The gap that a reading is in. *blanks: API__ONE_SPACE, or its blank bytes so far. *level: of its
 * object or array; the outermost has 1. */
api__gap api__next_gap(const api__automaton *machine, uint16_t top, uint32_t *blanks,
                       uint32_t *level);

typedef struct {
    uint64_t bits[4];
    bool many; /* and others: in free text, in numbers */
} api__byte_set;
/* The bytes that may come next, but for blanks in a gap, and perhaps some more: a few names are
 * left that the automaton would refuse. */
void api__next_bytes(const api__automaton *machine, const api__readings *now, api__byte_set *out);
/* Between the first and the last character of a key or of a value of an enum. */
bool api__within_name(const api__automaton *machine, uint16_t top);

/* ---- forced.c ---- */

/* The blanks of an answer so far. */
typedef struct {
    uint8_t blanks[API__N_GAPS]; /* none, one space, or a line and its indentation */
    uint8_t indent;              /* bytes for each level */
    bool tabs;
} api__style;

void api__style_begin(api__style *style);
/* The answer goes on with a byte after these readings. */
void api__style_learn(api__style *style, const api__automaton *machine, const api__readings *now,
                      uint8_t byte);

typedef struct {
    uint32_t tokens[API__MOST_FORCED], n;
    bool open; /* the text ends with the last token, where several names go on differently */
} api__forced;

/* The tokens that spell the text which is forced behind the readings: the longest ones. Drops no
 * frame of the machine and adds some. Ends when its fuel is above the limit. */
void api__forced_find(api__forced *out, const api__vocab *vocab, api__automaton *machine,
                      const api__readings *now, const api__style *style, uint64_t limit);
/* Whether the mask allows a longer token that begins with this one. */
bool api__forced_may_grow(const api__vocab *vocab, const eng_mask *mask, uint32_t token);

#endif
