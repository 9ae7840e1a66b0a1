/* options.h - the options of a command: one table drives parsing, --help, the environment, the
 * options file, completion and manual pages.
 *
 * A value comes from the command line, else from the environment (--max-rows is FATHOM_MAX_ROWS),
 * else from the file of --config, else it is the default.
 *
 * Exit status of every command: 0 success, 1 failure, 2 bad usage or a model it cannot load.
 * Results go to stdout, progress and the log to stderr. */
#ifndef FATHOM_OPTIONS_H
#define FATHOM_OPTIONS_H

#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"

#include <stdio.h>

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
    OPT_TEXT_MANY,
    OPT_MARK /* no option: see OPT_GROUP and the macros after it */
} opt_type;

typedef enum {
    OPT_MARK_GROUP,
    OPT_MARK_OTHER_NAME,
    OPT_MARK_OLD_NAME,
    OPT_MARK_BARE,
    OPT_MARK_DASH,
    OPT_MARK_NO_ENVIRONMENT
} opt_mark;

typedef struct {
    const char *name; /* "--max-rows" */
    opt_type type;
    void *out; /* TEXT/CHOICE: const char **; FLAG: bool *; UINT and BYTES: uint64_t *; INT: int64_t
                *; REAL: double *; GIVEN_REAL: opt_real *; TEXT_MANY: opt_list * */
    /* "N", "DIR"; for CHOICE the accepted words, "a|b|c". One with a range takes whole numbers too;
     * its last word "N" stands for them. The value is a text in any case. */
    const char *meta;
    const char *help; /* one line, default included */
    double min, max;  /* range of numbers */
    bool required;
} opt_row;

/* Rows that say something of other rows. */
/* clang-format off */
#define OPT_MARK_ROW(mark, name, target) {name, OPT_MARK, NULL, target, NULL, mark, 0, false}
/* The rows after it belong to this group of --help; "": to the command's own options. */
#define OPT_GROUP(title) OPT_MARK_ROW(OPT_MARK_GROUP, title, NULL)
/* Another name of an option. The old name is accepted and not shown. */
#define OPT_OTHER_NAME(name, target) OPT_MARK_ROW(OPT_MARK_OTHER_NAME, name, target)
#define OPT_OLD_NAME(name, target) OPT_MARK_ROW(OPT_MARK_OLD_NAME, name, target)
/* An argument without dashes is the value of this option; so is a single "-". */
#define OPT_BARE(target) OPT_MARK_ROW(OPT_MARK_BARE, NULL, target)
#define OPT_DASH(target) OPT_MARK_ROW(OPT_MARK_DASH, NULL, target)
/* FATHOM_NAME means something else, so it does not set this option. */
#define OPT_NO_ENVIRONMENT(target) OPT_MARK_ROW(OPT_MARK_NO_ENVIRONMENT, NULL, target)
/* clang-format on */

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

/* What a command is called with. With `show`, it shows its table and does nothing else. */
typedef struct {
    int argc;
    char **argv; /* argv[0] is a word of the command */
    void (*show)(void *ud, const opt_command *command);
    void *ud;
    /* Whether any command has this name (option NULL), or any command has this option; NULL: no
     * other command is known. */
    bool (*known)(const char *command, const char *option);
    arena texts; /* values from the environment and the file; options borrow them */
} opt_args;
void opt_args_init(opt_args *args, int argc, char **argv);
void opt_args_deinit(opt_args *args);

/* 0: go on. 1: printed --help or --version, or showed the table: exit 0. -1: printed the usage
 * error: exit 2. */
int opt_parse(const opt_command *command, opt_args *args) WARN_UNUSED;
/* Reads a file named by an option. An unreadable file is bad usage of the option. */
int opt_read_file(buf *out, const char *option, const char *path, size_t max_bytes,
                  err *e) WARN_UNUSED;
/* The same for "-": all of stdin. */
int opt_read_stdin(buf *out, const char *option, size_t max_bytes, err *e) WARN_UNUSED;
/* The exit status for a failure. */
int opt_exit_status(const err *e);
/* Prints "fathom: MESSAGE" and returns the exit status for the failure. */
int opt_fail(const err *e);

/* ---- the table, for --help, completion and manual pages ---- */

/* The n-th option (0 first) in the order of --help, or NULL after the last. *group is the title of
 * its group. */
const opt_row *opt_next(const opt_command *command, size_t n, const char **group);
/* The option of this name or other name, or NULL. */
const opt_row *opt_find(const opt_command *command, const char *name, size_t len);
/* The option that the mark is about, or NULL. */
const opt_row *opt_marked(const opt_command *command, opt_mark mark);
/* Appends its help with range, other names and "(required)". */
void opt_describe(buf *out, const opt_command *command, const opt_row *row);
/* Whether the option is a CHOICE that takes whole numbers besides its words. */
bool opt_takes_number(const opt_row *row);
/* Prints words from column `indent` on, up to column 100; each line after the first is indented as
 * far. */
void opt_wrap(FILE *to, int indent, const char *text);
/* Appends "fathom serve [MODEL] [options]". */
void opt_usage(buf *out, const opt_command *command);
/* Appends "FATHOM_MAX_ROWS". False: no variable sets this option. */
bool opt_variable(buf *out, const opt_command *command, const opt_row *row);
/* The options that every command has: --config (unless the command has its own), --help,
 * --version. */
const opt_row *opt_common(size_t n);

#endif
