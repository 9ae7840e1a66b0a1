/* costs.h - the CPU time of an input, at two sizes.
 *
 * Two things must hold. A KB costs less than a wide bound. A KB of a large input costs at most
 * GROWTH times a KB of a small one; a quadratic cost would be LARGE / SMALL times as high. Wall
 * time does not count, and the minimum of several runs does. `unit --verbose` prints the figures.
 */
#ifndef FATHOM_TEST_COSTS_H
#define FATHOM_TEST_COSTS_H

#include "base/buf.h"

typedef struct {
    const char *input;                 /* a description */
    double us_per_kb;                  /* bound for a release build */
    void (*make)(buf *text, size_t n); /* about n bytes; NULL: the unit, repeated */
    const char *unit;
    void (*read)(const buf *text);
} cost_row;

/* Fails the test for each row above its bounds. `what` names the reader of the input. */
void check_costs(const char *what, const cost_row *rows, size_t n);
/* The same where a KB gets dearer between the usual sizes by right: the processor's caches hold the
 * small one alone, or a limit is met in between. Both sizes are so many times larger. */
void check_costs_at(size_t times, const char *what, const cost_row *rows, size_t n);
/* Appends the unit until the text has n bytes. */
void cost_repeat(buf *text, const char *unit, size_t n);
/* The same between a head and a tail. */
void cost_fill(buf *text, size_t n, const char *head, const char *unit, const char *tail);

#endif
