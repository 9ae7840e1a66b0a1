/* options_internal.h - parts of the option parser. */
#ifndef FATHOM_OPTIONS_INTERNAL_H
#define FATHOM_OPTIONS_INTERNAL_H

#include "base/options.h"

enum { OPT_MAX_ROWS = 192, OPT_LABEL_BYTES = 200 };

typedef enum { FROM_DEFAULT, FROM_FILE, FROM_SECTION, FROM_ENVIRONMENT, FROM_ARGUMENT } opt_source;

typedef struct {
    const opt_command *command;
    opt_args *args;
    const char *config;                 /* --config */
    const opt_row *bare;                /* the option that an argument without dashes set */
    unsigned char source[OPT_MAX_ROWS]; /* opt_source of each row's value */
} opt_parser;

/* Prints the error, with the command before it, and returns -1. */
int opt__usage(const opt_parser *self, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* Sets the value from the text. `said` stands in errors for the option: "--port",
 * "FATHOM_PORT". */
int opt__set(opt_parser *self, const opt_row *row, const char *said, const char *text,
             opt_source source) WARN_UNUSED;
/* Fill what the command line left out. */
int opt__read_environment(opt_parser *self) WARN_UNUSED;
int opt__read_config(opt_parser *self) WARN_UNUSED;
/* Prints the help, or with `part` the groups or options it names; -1: it names none. */
int opt__help(const opt_parser *self, const char *part);
/* Appends "; did you mean '--port'?" if an option is near. `dashes`: "--", or "" in a file. */
void opt__suggest(buf *out, const opt_command *command, const char *name, const char *dashes);

#endif
