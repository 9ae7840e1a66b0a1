/* cli.h - the commands of the fathom binary, and options shared by several commands.
 *
 * main.c picks a command; each command has its own file. A command parses its table with opt_parse,
 * and does nothing else when opt_parse returns another number than 0: so its table can be shown
 * without running it. */
#ifndef FATHOM_CLI_H
#define FATHOM_CLI_H

#include "base/options.h"
#include "runtime/find_model.h"
#include "runtime/runtime.h"

int cmd_serve(opt_args *args);
int cmd_generate(opt_args *args);
int cmd_chat(opt_args *args);
int cmd_score(opt_args *args);
int cmd_compare(opt_args *args);
int cmd_inspect(opt_args *args);
int cmd_init(opt_args *args);
int cmd_tokenize(opt_args *args);
int cmd_health(opt_args *args);
int cmd_models(opt_args *args);
int cmd_version(opt_args *args);
int cmd_completion(opt_args *args);
int cmd_manual(opt_args *args);
int cmd_bench_engine(opt_args *args); /* no HTTP */
int cmd_bench_kernels(opt_args *args);

/* Finds the folder of --model: *model, a path, a name or NULL, becomes place->dir. Tells on stderr
 * which folder a name, or no name, stands for. */
int take_model(const char **model, model_place *place, err *e) WARN_UNUSED;

/* Called with the final options, before runtime_open, by each command that runs over ranks. On rank
 * 0, and in a process of its own, it only says so in opts. On the others it runs rank 0's launches
 * and ends the process. */
void join_ranks(runtime_opts *opts);

/* Rows of an opt_row table. MODEL_OPTION: the model, for take_model. ENGINE_OPTIONS: for each
 * command that runs a model; POLICY_OPTIONS: for commands that run it under one policy;
 * RUN_OPTIONS: for commands that run many requests; SPECULATION_OPTIONS: for commands that generate
 * for a reader. A row after them is the command's own. */
/* One option a line, of any length. */
/* clang-format off */
#define GROUP_ENGINE OPT_GROUP("Model and engine")
#define GROUP_DEPTH OPT_GROUP("Depth")
#define GROUP_BATCHING OPT_GROUP("Batching and cache")
#define MODEL_OPTION(to) \
    {"--model", OPT_TEXT, to, "MODEL", "model: a folder, a name that 'fathom models' lists, or ORG/NAME in the Hugging Face cache (default: the newest of your own, else demo, else hops)", 0, 0, false}, \
    OPT_BARE("--model")
#define ENGINE_OPTIONS_ON(o, devices, device_help) \
    MODEL_OPTION(&(o)->model), \
    GROUP_ENGINE, \
    {"--device", OPT_CHOICE, &(o)->device, devices, "device to run on (default auto: CUDA if there is one, else the CPU)" device_help, 0, 0, false}, \
    {"--no-tokenizer", OPT_FLAG, &(o)->no_tokenizer, NULL, "ignore the folder's tokenizer: prompts and answers are token ids only", 0, 0, false}, \
    {"--threads", OPT_UINT, &(o)->threads, "N", "compute threads (default: one per core, or as many as the container's CPU quota pays for)", 1, 1024, false}, \
    {"--kernels", OPT_CHOICE, &(o)->kernels, "auto|avx512|avx2|portable|bf16|bf16-invariant|f32", "compute kernels; on cpu: avx512, avx2 or portable (default: the fastest measured); on cuda: bf16, bf16-invariant or f32 (default bf16); bf16-invariant is slower, but an answer's bits do not depend on other requests", 0, 0, false}, \
    {"--weights", OPT_CHOICE, &(o)->weights, "auto|bf16|int8", "on cpu: format of large matrices in memory (default auto: as stored); on cuda: bf16 in any case", 0, 0, false}, \
    {"--packed-cache", OPT_FLAG, &(o)->packed_cache, NULL, "on cpu: write the packed weights into the model folder, so that the next start is faster", 0, 0, false}, \
    {"--rank-split", OPT_CHOICE, &(o)->rank_split, "columns|sequences", "under mpirun, on cpu: what is divided beside the weights of feed-forward and head; columns: nothing, each rank runs attention for every sequence; sequences: each sequence has its attention and its cache on one rank, so that R ranks hold R times as much, for one more message a layer (default columns)", 0, 0, false}, \
    {"--rank-seconds", OPT_UINT, &(o)->rank_seconds, "S", "under mpirun: end when another rank has not answered for S seconds during a launch (default 30)", 1, 86400, false}, \
    GROUP_DEPTH, \
    {"--max-loops", OPT_UINT, &(o)->max_loops, "N", "most loops that a token runs (default: the model's)", 1, PLAN_MAX_LOOPS, false}, \
    {"--prompt-min-loops", OPT_UINT, &(o)->prompt_min_loops, "N", "fewest loops that a prompt token runs (default: 1; with --halted-kv last, all loops for Ouro and Huginn models)", 1, PLAN_MAX_LOOPS, false}, \
    {"--exit-rule", OPT_CHOICE, &(o)->exit_rule, "act|hazard|latent-diff|cosine|fixed", "rule that decides when a token leaves the loop (default: the model's)", 0, 0, false}, \
    {"--exit-threshold", OPT_GIVEN_REAL, &(o)->threshold, "X", "threshold of the exit rule; every loop runs at 1 by hazard, at 0 by latent-diff and cosine (default: the model's)", 0, 1e6, false}, \
    OPT_OLD_NAME("--act-threshold", "--exit-threshold"), \
    {"--initial-state", OPT_CHOICE, &(o)->initial_state, "zero|seeded", "state of a token before its first loop (default: the model's)", 0, 0, false}, \
    GROUP_BATCHING, \
    {"--max-rows", OPT_UINT, &(o)->max_rows, "N", "most rows in one launch; a row is one token at one loop (default 512)", 1, 65536, false}, \
    {"--wait-bound", OPT_UINT, &(o)->wait_bound, "N", "most launches one after another that may leave out a ready row (default 16)", 1, 1e6, false}, \
    {"--chunk", OPT_UINT, &(o)->chunk, "N", "prompt tokens that are computed together (default 128)", 1, 65536, false}, \
    {"--kv-memory", OPT_BYTES, &(o)->cache_bytes, "BYTES", "bytes for the key/value cache, as in 512M or 4G (default: what fits into memory)", 1 << 16, 1e15, false}, \
    {"--kv-dtype", OPT_CHOICE, &(o)->cache_dtype, "f32|bf16", "number format of the key/value cache (default: f32 on cpu, bf16 on cuda)", 0, 0, false}, \
    OPT_GROUP("")
#define ENGINE_OPTIONS(o) ENGINE_OPTIONS_ON(o, "auto|cpu|cuda", "")
#define POLICY_OPTIONS(o) \
    GROUP_DEPTH, \
    {"--halted-kv", OPT_CHOICE, &(o)->halted_kv, "exact|last|collapse", "whether a token that left the loop keeps filling the cache at deeper loops; exact: it does; last: deeper loops read what it wrote last; collapse: as exact, then a generated token keeps the entries of its deepest loop only (default: the model's)", 0, 0, false}, \
    GROUP_BATCHING, \
    {"--batching", OPT_CHOICE, &(o)->batching, "depthwise|lockstep|full", "which tokens share a launch: depthwise: tokens at any loop; lockstep: tokens at the same loop only; full: as lockstep, and every token runs every loop (default depthwise)", 0, 0, false}, \
    OPT_GROUP("")
#define SPECULATION_OPTIONS(o) \
    GROUP_BATCHING, \
    {"--speculate", OPT_CHOICE, &(o)->speculate, "auto|off|N", "let the model guess the next tokens from its early loops (drafts), and begin them before the token is certain; wrong guesses are dropped, so answers stay the same and only the speed changes; auto: while it pays; off: never; N: up to N tokens ahead; never with --halted-kv collapse, or with --batching lockstep or full (default auto)", 1, SCHED_MAX_DRAFTS, false}, \
    {"--draft-loops", OPT_UINT, &(o)->draft_loops, "N", "loops of a token before the guess (default 0: chosen while it runs)", 0, PLAN_MAX_LOOPS, false}, \
    OPT_GROUP("")
#define RUNNING_OPTION(o) \
    {"--max-running", OPT_UINT, &(o)->max_running, "N", "most sequences that run at once (default 256)", 1, 65536, false}
#define RUN_OPTIONS(o) \
    ENGINE_OPTIONS(o), \
    POLICY_OPTIONS(o), \
    GROUP_BATCHING, \
    RUNNING_OPTION(o), \
    OPT_GROUP("")
/* clang-format on */

#endif
