/* progress.h - shows how far long work has come.
 *
 * On a terminal: one line with a bar, rate and remaining time, redrawn at most 5 times a second and
 * erased at the end. Elsewhere: a plain line every 10 s. Nothing in the first second.
 *
 * The owner starts and stops; any thread may add in between. Adding costs a reading of the clock,
 * and never waits. */
#ifndef FATHOM_PROGRESS_H
#define FATHOM_PROGRESS_H

#include "base/lang.h"

#include <stdatomic.h>
#include <stdio.h>

/* Where progress is shown. */
typedef struct {
    FILE *to;      /* NULL: the log */
    bool terminal; /* redraw one line */
    bool colour;
    unsigned columns; /* 0: ask the terminal */
    uint64_t (*now_ns)(void);
} progress_place;

typedef struct {
    const progress_place *place;
    progress_place own; /* made by progress_start */
    const char *what, *unit;
    uint64_t total, started_ns;
    _Atomic uint64_t done, next_ns;
    atomic_flag drawing;
    bool drawn; /* a bar stands on the terminal; under `drawing` */
} progress;

/* Shows the work on stderr. `what` names it: "packing weights". `unit` names what is counted:
 * "tokens"; NULL: bytes. Both are borrowed until progress_stop. */
void progress_start(progress *self, const char *what, const char *unit, uint64_t total);
/* The same at another place, borrowed too. */
void progress_start_at(progress *self, const progress_place *place, const char *what,
                       const char *unit, uint64_t total);
void progress_add(progress *self, uint64_t n);
/* Sets the amount done. One thread only, and without progress_add. */
void progress_set(progress *self, uint64_t done);
/* Erases the bar. Call it after the last add, and before anything else goes to the terminal. */
void progress_stop(progress *self);

/* From now on, where stderr is no terminal, progress is written as lines of the log. */
void progress_into_log(void);

#endif
