/* terminal.h - what the terminal behind a descriptor can show. Any thread. */
#ifndef FATHOM_TERMINAL_H
#define FATHOM_TERMINAL_H

#include "base/lang.h"

/* A terminal that moves its cursor: no file, no pipe, not TERM=dumb. */
bool terminal_is(int fd);
/* Such a terminal, unless NO_COLOR is set to anything (https://no-color.org). */
bool terminal_has_colours(int fd);
/* The width in characters; 80 if it is unknown. */
unsigned terminal_columns(int fd);

#endif
