/* options.h - the command line: one table per command drives parsing and --help.
 *
 * Exit status of every command: 0 success, 1 failure, 2 bad usage or a model it cannot load.
 * Results go to stdout, progress and the log to stderr. */
#ifndef FATHOM_OPTIONS_H
#define FATHOM_OPTIONS_H

#include "base/buf.h"
#include "base/err.h"

enum { EXIT_FAILED = 1, EXIT_USAGE = 2 };

typedef enum {
    OPT_TEXT,
    OPT_FLAG,
    OPT_UINT,
    OPT_INT,
    OPT_REAL,
    OPT_GIVEN_REAL,
    OPT_BYTES,
    OPT_CHOICE,
    OPT_TEXT_MANY
} opt_type;

typedef struct {
    const char *name; /* "--max-rows" */
    opt_type type;
    void *out; /* TEXT/CHOICE: const char **; FLAG: bool *; UINT and BYTES: uint64_t *; INT: int64_t
                *; REAL: double *; GIVEN_REAL: opt_real *; TEXT_MANY: opt_list * */
    const char *meta; /* "N", "DIR"; for CHOICE the accepted words, "a|b|c" */
    const char *help; /* one line, default included */
    double min, max;  /* range of numbers */
    bool required;
} opt_row;

enum { OPT_LIST_MAX = 64 };
typedef struct {
    const char *items[OPT_LIST_MAX];
    size_t n;
} opt_list;

typedef struct { /* for an option with a meaning for each number, 0 too */
    double value;
    bool given;
} opt_real;

typedef struct {
    const char *command; /* "serve" */
    const char *summary; /* one line */
    const char *example; /* a working command line */
    const opt_row *options;
    size_t n_options;
} opt_command;

/* 0: go on. 1: printed --help or --version, exit 0. -1: printed the usage error, exit 2. */
int opt_parse(const opt_command *command, int argc, char **argv) WARN_UNUSED;
/* Reads a file named by an option. An unreadable file is bad usage of the option. */
int opt_read_file(buf *out, const char *option, const char *path, size_t max_bytes,
                  err *e) WARN_UNUSED;
/* The exit status for a failure. */
int opt_exit_status(const err *e);
/* Prints "fathom: MESSAGE" and returns the exit status for the failure. */
int opt_fail(const err *e);

#endif
