/* nearest.h - the known name that a misspelt word was probably meant to be.
 *
 * Case, hyphens and underscores do not count. A swapped pair, or a missing, extra or wrong letter
 * is one mistake: words of up to five letters may have one, longer words two. Any thread. */
#ifndef FATHOM_NEAREST_H
#define FATHOM_NEAREST_H

#include <stddef.h>

enum { NEAREST_LETTERS = 40 }; /* a longer word has no nearest name */

typedef struct {
    const char *best; /* NULL: no offered name is near */
    unsigned below;   /* mistakes of the next name must be fewer */
    size_t n;
    char wanted[NEAREST_LETTERS];
} nearest;
void nearest_start(nearest *self, const char *word);
/* Keeps the name, borrowed, if it is nearer than all before it. */
void nearest_offer(nearest *self, const char *name);

#endif
