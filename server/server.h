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
int cmd_tokenize(int argc, char **argv);
int cmd_bench(int argc, char **argv);        /* load generator over HTTP */
int cmd_bench_engine(int argc, char **argv); /* no HTTP */
int cmd_bench_kernels(int argc, char **argv);

/* ---- command line: one table per command drives parsing and --help ---- */

typedef enum {
    CLI_TEXT,
    CLI_FLAG,
    CLI_UINT,
    CLI_REAL,
    CLI_BYTES,
    CLI_CHOICE,
    CLI_TEXT_MANY
} cli_type;

typedef struct {
    const char *name; /* "--max-rows" */
    cli_type type;
    void *out;        /* TEXT/CHOICE: const char **; FLAG: bool *; UINT and BYTES: uint64_t *;
                         REAL: double *; TEXT_MANY: cli_list * */
    const char *meta; /* "N", "DIR"; for CHOICE "a|b|c", which is also checked */
    const char *help; /* one line, default included */
    double min, max;  /* range of numbers */
    bool required;
} cli_option;

enum { CLI_LIST_MAX = 64 };
typedef struct {
    const char *items[CLI_LIST_MAX];
    size_t n;
} cli_list;

typedef struct {
    const char *command; /* "serve" */
    const char *summary; /* one line */
    const char *example; /* a command line that works as it stands */
    const cli_option *options;
    size_t n_options;
} cli_command;

/* 0: go on. 1: --help or --version was printed, exit 0. -1: bad usage was printed, exit 2. */
int cli_parse(const cli_command *c, int argc, char **argv) WARN_UNUSED;
/* Reads a file that an option named: one that cannot be read is bad usage of that option. */
int cli_read_file(buf *out, const char *option, const char *path, size_t max_bytes,
                  err *e) WARN_UNUSED;
/* Prints "fathom: MESSAGE" and gives the exit status that fits the failure. */
int cli_fail(const err *e);

/* ---- opening a model for a command ---- */

/* Zero and NULL mean the default of each. */
typedef struct {
    const char *model, *device, *halted_kv, *batching, *kernels, *cache_dtype, *weights;
    bool packed_cache;
    uint64_t threads, cache_bytes, max_loops, max_rows, max_running, chunk, wait_bound;
    uint64_t fake_us; /* device "fake": slept per launch that yields logits */
    double threshold;
} run_opts;

/* Options for a cli_option table. ENGINE_OPTIONS: of every command that runs a model;
 * POLICY_OPTIONS: of those that run it one way; RUN_OPTIONS: of those that run many requests. */
/* One option a line, however long. */
/* clang-format off */
#define ENGINE_OPTIONS(o) \
    {"--model", CLI_TEXT, &(o)->model, "DIR", "model folder", 0, 0, true}, \
    {"--device", CLI_CHOICE, &(o)->device, "auto|cpu|cuda|fake", "where to run (default auto); fake: canned tokens, to load-test the HTTP side alone", 0, 0, false}, \
    {"--threads", CLI_UINT, &(o)->threads, "N", "compute threads (default: one per core)", 1, 1024, false}, \
    {"--max-loops", CLI_UINT, &(o)->max_loops, "N", "most loops of any token (default: as trained)", 1, ENG_MAX_LOOPS, false}, \
    {"--act-threshold", CLI_REAL, &(o)->threshold, "P", "halting threshold (default: the model's)", 1e-3, 1, false}, \
    {"--max-rows", CLI_UINT, &(o)->max_rows, "N", "most rows in one launch (default 512)", 1, 65536, false}, \
    {"--wait-bound", CLI_UINT, &(o)->wait_bound, "N", "launches a ready row may be passed over (default 16)", 1, 1e6, false}, \
    {"--chunk", CLI_UINT, &(o)->chunk, "N", "prompt positions that move together (default 128)", 1, 65536, false}, \
    {"--kv-memory", CLI_BYTES, &(o)->cache_bytes, "BYTES", "cache budget, as in 512M or 4G (default: what fits)", 1 << 16, 1e15, false}, \
    {"--kv-dtype", CLI_CHOICE, &(o)->cache_dtype, "f32|bf16", "cache precision (default f32 on cpu, bf16 on cuda)", 0, 0, false}, \
    {"--kernels", CLI_CHOICE, &(o)->kernels, "auto|avx512|avx2|portable|bf16|f32", "code path: CPU avx512, avx2, portable (default: measured); CUDA bf16, f32 (default bf16)", 0, 0, false}, \
    {"--weights", CLI_CHOICE, &(o)->weights, "auto|int8", "CPU: large matrices as stored, or in 8 bits (default auto)", 0, 0, false}, \
    {"--packed-cache", CLI_FLAG, &(o)->packed_cache, NULL, "CPU: keep packed weights in the model folder, for faster starts", 0, 0, false}
#define POLICY_OPTIONS(o) \
    {"--halted-kv", CLI_CHOICE, &(o)->halted_kv, "exact|last", "what halted positions are to deeper loops (default: the model's)", 0, 0, false}, \
    {"--batching", CLI_CHOICE, &(o)->batching, "depthwise|lockstep|full", "who shares a launch (default depthwise)", 0, 0, false}
#define RUN_OPTIONS(o) \
    ENGINE_OPTIONS(o), \
    POLICY_OPTIONS(o), \
    {"--max-running", CLI_UINT, &(o)->max_running, "N", "sequences in flight (default 256)", 1, 65536, false}
/* clang-format on */

typedef struct {
    eng_model *model;
    eng_tokenizer *tokenizer; /* NULL if the folder has none */
    eng_backend *backend;
    sched_opts sched; /* what run_opts and the model say */
} run;

/* Opens model, tokenizer and backend. On failure everything is closed again. */
int run_open(run *out, const run_opts *o, err *e) WARN_UNUSED;
void run_close(run *r);

/* srv_fake.c: a backend that answers at once with canned tokens, to measure all but the
 * arithmetic. us_per_token is slept in every launch that yields logits. */
int srv_fake_open(eng_backend **out, const eng_model *m, const eng_backend_opts *o,
                  uint64_t us_per_token, err *e) WARN_UNUSED;

#endif
