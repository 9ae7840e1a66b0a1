/* cli.h - the commands of the fathom binary, and the options that several of them take.
 *
 * main.c picks a command; each lives in its own file. */
#ifndef FATHOM_CLI_H
#define FATHOM_CLI_H

#include "base/options.h"
#include "runtime/runtime.h"

int cmd_serve(int argc, char **argv);
int cmd_generate(int argc, char **argv);
int cmd_score(int argc, char **argv);
int cmd_compare(int argc, char **argv);
int cmd_inspect(int argc, char **argv);
int cmd_init(int argc, char **argv);
int cmd_tokenize(int argc, char **argv);
int cmd_bench_engine(int argc, char **argv); /* no HTTP */
int cmd_bench_kernels(int argc, char **argv);


/* Options for a opt_row table. ENGINE_OPTIONS: of every command that runs a model;
 * POLICY_OPTIONS: of those that run it one way; RUN_OPTIONS: of those that run many requests. */
/* One option a line, however long. */
/* clang-format off */
#define ENGINE_OPTIONS(o) \
    {"--model", OPT_TEXT, &(o)->model, "DIR", "model folder", 0, 0, true}, \
    {"--device", OPT_CHOICE, &(o)->device, "auto|cpu|cuda|fake", "where to run (default auto); fake: canned tokens, to load-test the HTTP side alone", 0, 0, false}, \
    {"--threads", OPT_UINT, &(o)->threads, "N", "compute threads (default: one per core)", 1, 1024, false}, \
    {"--max-loops", OPT_UINT, &(o)->max_loops, "N", "most loops of any token (default: as trained)", 1, PLAN_MAX_LOOPS, false}, \
    {"--act-threshold", OPT_REAL, &(o)->threshold, "P", "halting threshold (default: the model's)", 1e-3, 1, false}, \
    {"--max-rows", OPT_UINT, &(o)->max_rows, "N", "most rows in one launch (default 512)", 1, 65536, false}, \
    {"--wait-bound", OPT_UINT, &(o)->wait_bound, "N", "launches a ready row may be passed over (default 16)", 1, 1e6, false}, \
    {"--chunk", OPT_UINT, &(o)->chunk, "N", "prompt positions that move together (default 128)", 1, 65536, false}, \
    {"--kv-memory", OPT_BYTES, &(o)->cache_bytes, "BYTES", "cache budget, as in 512M or 4G (default: what fits)", 1 << 16, 1e15, false}, \
    {"--kv-dtype", OPT_CHOICE, &(o)->cache_dtype, "f32|bf16", "cache precision (default f32 on cpu, bf16 on cuda)", 0, 0, false}, \
    {"--kernels", OPT_CHOICE, &(o)->kernels, "auto|avx512|avx2|portable|bf16|f32", "code path: CPU avx512, avx2, portable (default: measured); CUDA bf16, f32 (default bf16)", 0, 0, false}, \
    {"--weights", OPT_CHOICE, &(o)->weights, "auto|int8", "CPU: large matrices as stored, or in 8 bits (default auto)", 0, 0, false}, \
    {"--packed-cache", OPT_FLAG, &(o)->packed_cache, NULL, "CPU: keep packed weights in the model folder, for faster starts", 0, 0, false}
#define POLICY_OPTIONS(o) \
    {"--halted-kv", OPT_CHOICE, &(o)->halted_kv, "exact|last", "what halted positions are to deeper loops (default: the model's)", 0, 0, false}, \
    {"--batching", OPT_CHOICE, &(o)->batching, "depthwise|lockstep|full", "who shares a launch (default depthwise)", 0, 0, false}
#define RUN_OPTIONS(o) \
    ENGINE_OPTIONS(o), \
    POLICY_OPTIONS(o), \
    {"--max-running", OPT_UINT, &(o)->max_running, "N", "sequences in flight (default 256)", 1, 65536, false}
/* clang-format on */

#endif
