/* faint.h - drafted text, faint behind the answer on a terminal, until it firms up or vanishes. */
#ifndef FATHOM_CLI_CHAT_FAINT_H
#define FATHOM_CLI_CHAT_FAINT_H

#include "base/lang.h"

#include <stdio.h>

/* The cursor's place is known from the text since the line began. How many columns a character
 * beyond ASCII takes is up to the terminal, so the place is a range. */
typedef struct {
    FILE *to;             /* a terminal with colours; NULL: nothing is shown */
    unsigned columns;     /* of the terminal when the line began; 0: it has changed since */
    uint64_t least, most; /* columns that the line takes, were it not wrapped */
    bool shown;           /* drafted text stands behind the cursor */
} faint;

/* Begins an answer at the start of a line. */
void faint_begin(faint *self, FILE *to);
/* Takes away what is shown. Call it before anything else is printed. */
void faint_clear(faint *self);
/* Follows text that was printed. */
void faint_follow(faint *self, const char *text, size_t n);
/* Shows as much of the text as fits the line without reaching its last column; none from the first
 * control character on. The cursor stays. Call faint_clear before. */
void faint_show(faint *self, const char *text, size_t n);

#endif
