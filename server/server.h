/* server.h - the commands of the fathom binary and what they share.
 *
 * main.c picks a command; each lives in its own file. Exit status: 0 fine, 1 failed,
 * 2 bad usage or a model that cannot be loaded. Results go to stdout, progress and
 * the log to stderr. */
#ifndef FATHOM_SERVER_H
#define FATHOM_SERVER_H

#include "api/api.h"

enum { EXIT_FAILED = 1, EXIT_USAGE = 2 };

int cmd_serve(int argc, char **argv);
int cmd_generate(int argc, char **argv);
int cmd_score(int argc, char **argv);
int cmd_compare(int argc, char **argv);
int cmd_inspect(int argc, char **argv);
int cmd_init(int argc, char **argv);
int cmd_bench(int argc, char **argv);        /* load generator over HTTP */
int cmd_bench_engine(int argc, char **argv); /* no HTTP */
int cmd_bench_kernels(int argc, char **argv);

/* ---- command line: one table per command drives parsing and --help ---- */

typedef enum { CLI_TEXT, CLI_FLAG, CLI_UINT, CLI_REAL, CLI_BYTES, CLI_CHOICE, CLI_TEXT_MANY } cli_type;

typedef struct {
    const char *name;    /* "--max-rows" */
    cli_type type;
    void *out;           /* TEXT/CHOICE: const char **; FLAG: bool *; UINT and BYTES: uint64_t *;
                            REAL: double *; TEXT_MANY: cli_list * */
    const char *meta;    /* "N", "DIR"; for CHOICE "a|b|c", which is also checked */
    const char *help;    /* one line, default included */
    double min, max;     /* range of numbers */
    bool required;
} cli_option;

enum { CLI_LIST_MAX = 64 };
typedef struct {
    const char *items[CLI_LIST_MAX];
    size_t n;
} cli_list;

typedef struct {
    const char *command;  /* "serve" */
    const char *summary;  /* one line */
    const char *example;  /* a command line that works as it stands */
    const cli_option *options;
    size_t n_options;
} cli_command;

/* 0: go on. 1: --help or --version was printed, exit 0. -1: bad usage was printed, exit 2. */
int cli_parse(const cli_command *c, int argc, char **argv) WARN_UNUSED;
/* Prints "fathom: MESSAGE" and gives the exit status that fits the failure. */
int cli_fail(const err *e);

/* ---- opening a model for a command ---- */

typedef struct {
    const char *model, *device, *halted_kv, *kernels, *cache_dtype;
    uint64_t threads, cache_bytes, max_loops, max_rows, max_running;
    double threshold;
    const char *batching;
} run_opts; /* zero and NULL = default of each */

typedef struct {
    eng_model *model;
    eng_tokenizer *tokenizer; /* NULL if the folder has none */
    eng_backend *backend;
    api_context *api;         /* NULL without a tokenizer-less reason to have one */
    sched_opts sched;
} run;

int run_open(run *out, const run_opts *o, err *e) WARN_UNUSED;
void run_close(run *r);

#endif
