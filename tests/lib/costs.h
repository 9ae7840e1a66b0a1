/* costs.h - what an input costs by processor time, at two sizes.
 *
 * Two things must hold: a KB costs less than a wide bound, and a KB of a large input costs no more
 * than GROWTH times a KB of a small one, where a quadratic cost would be LARGE / SMALL times as
 * high. No wall time is judged, and the least of several runs counts. The figures are printed by
 * `unit --verbose`. */
#ifndef FATHOM_TEST_COSTS_H
#define FATHOM_TEST_COSTS_H

#include "base/buf.h"

typedef struct {
    const char *input;                 /* what it is, in words */
    double us_per_kb;                  /* bound, of a release build */
    void (*make)(buf *text, size_t n); /* about n bytes; NULL: the unit, again and again */
    const char *unit;
    void (*read)(const buf *text);
} cost_row;

/* Fails the test for each row that costs too much; `what` reads the input, for the message. */
void check_costs(const char *what, const cost_row *rows, size_t n);
/* Appends the unit until the text has n bytes. */
void cost_repeat(buf *text, const char *unit, size_t n);
/* The same between a head and a tail. */
void cost_fill(buf *text, size_t n, const char *head, const char *unit, const char *tail);

#endif
