/* bench_engine_internal.h - types and functions shared by `fathom bench engine`. */
#ifndef FATHOM_BENCH_ENGINE_H
#define FATHOM_BENCH_ENGINE_H

#include "cli/cli.h"
#include "cli/questions.h"
#include "engine/backend.h"

#include <stdio.h>

enum { BE_MAX_SIZES = 8, BE_MAX_REPEAT = 64, BE_SAMPLES = 2000 };

/* ---- modes.c ---- */

enum { BE_MOST_MODES = 20, BE_NAME = 48 }; /* 4 without drafts, 2 with 8 choices each; bytes */

typedef struct {
    const char *mode, *policy; /* "depthwise", "exact" */
    sched_mode batching;
    kv_policy halted_kv;
    uint32_t drafts, draft_loops; /* of sched_opts */
    bool tells_drafts;            /* beside other runs with or without drafts */
} be_mode;
/* Mode full without drafts comes first: the others are compared with it. NULL: the default lists.
 * ERR_USAGE names the option. */
int be_modes_parse(be_mode out[BE_MOST_MODES], size_t *n, const char *modes, const char *speculate,
                   uint32_t draft_loops, err *e) WARN_UNUSED;
/* "depthwise exact", "depthwise exact auto", "depthwise exact 3"; returns `out`. */
const char *be_mode_name(char out[BE_NAME], const be_mode *mode);

typedef struct {
    uint32_t sequences, prompt_tokens, output_tokens; /* lengths: half to one and a half of these */
    bool same_lengths;                                /* exactly these */
    uint32_t shared;                                  /* first tokens of all prompts */
    bool prefix_cache;                                /* off: every prompt is run */
    uint32_t waiting;                                 /* requests kept waiting beside them */
    uint64_t seed, rounds;
    float temperature, top_p;
    const questions
        *prompts; /* request i has prompt i modulo their number; NULL: made-up prompts */
    const char *prompts_file;
    bool cpu_clock; /* time is this process's CPU time: fair on a machine others use, with one
                       thread */
    const uint64_t *virtual_ns; /* the simulated device's clock; NULL: a real one */
} be_load;

/* ---- watch.c: each launch of a run, written down ---- */

typedef struct {
    uint8_t stage;                 /* eng_stage */
    uint32_t rows, tails, kv_only; /* the last two are part of rows */
    uint32_t waiting; /* rows in flight that it leaves out: for another stage or another launch;
                         0 with drafts: the backend is not told of withdrawn rows */
    uint64_t ns;
} be_launch;

typedef struct {
    be_launch *launches; /* in the order they were started in */
    size_t n, cap;
} be_table;
void be_table_deinit(be_table *table);

typedef struct {
    eng_backend base;
    eng_backend *inner; /* borrowed */
    const be_load *load;
    be_table *table;
    bool drafts;                 /* rows may be withdrawn */
    size_t n_settled;            /* launches of the table with a known time */
    uint32_t n_looping, n_ready; /* rows from prelude to halt, from halt to coda */
    uint32_t n_out, n_skip;      /* launches out; of these, begun before the window */
    eng_stage out_stage[2];
    uint32_t out_rows[2];
    uint64_t began;
    uint64_t inside_ns; /* real processor time of the simulated device: of this thread, ever */
} be_watch;
void be_watch_init(be_watch *watch, eng_backend *inner, const be_load *load, be_table *table);
void be_watch_open_window(be_watch *watch); /* forgets all launches so far */
void be_watch_close_window(be_watch *watch);

uint64_t be_clock_ns(const be_load *load);
const char *be_clock_name(const be_load *load); /* "wall", "cpu", "virtual" */

/* ---- window.c ---- */

/* One run's window: from the moment every sequence has put out a token until
 * rounds * sequences * (output_tokens - 1) more were put out, or with prompts until each has ended
 * `rounds` times, with `sequences` always in flight. */
typedef struct {
    double seconds;
    uint64_t tokens, positions, loops; /* put out; finished, of prompts too; their loops */
    uint64_t depth[SCHED_DEPTH_BINS];
    uint64_t launches[3], rows[3], ns[3], sample_ns, tail_rows, requests;
    uint64_t cache_bytes, cache_bytes_all_loops, slots_ideal_bytes; /* most in use, and then */
    double pool_mean;         /* rows in the recurrent stage, mean over launches */
    double at_ms[BE_SAMPLES]; /* pool over time, thinned */
    uint32_t pool[BE_SAMPLES], n_samples;
    uint64_t compared, differing; /* tokens against the first run of the same policy */
    uint64_t warm_up_ns,
        warm_up_positions; /* the next, and positions finished, before the window */
    uint64_t scheduler_ns; /* processor time of steps beside their launches, events included */
    uint32_t rows_held;    /* row states in use, at most */
    uint64_t draft_chains, drafts_accepted, drafts_withdrawn, draft_heads, withdrawn_rows;
    uint64_t text_drafts, text_drafts_accepted;
    uint64_t accepted_by_place[SCHED_DRAFT_PLACES];
    uint32_t draft_loops, drafts; /* as the scheduler chose them, at the end */
    uint32_t n_asked, n_right;    /* prompts with an answer that were run; right every time */
    be_table table;
} be_run;

/* The ends of a run's window, and the samples between them. */
typedef struct {
    be_run *run;
    sched_stats before, now;
    uint64_t every, n_seen, sampled_rows, sampled_launches;
} be_window;
void be_window_open(be_window *window, be_run *run, const scheduler *sched);
void be_window_look(be_window *window, const scheduler *sched, uint64_t since_ns);
void be_window_close(be_window *window, const scheduler *sched);

/* ---- tokens.c ---- */

/* All tokens of the first run of a policy, by request. */
typedef struct {
    uint32_t **tokens, *n;
    uint32_t n_requests, cap;
} be_tokens;
void be_tokens_deinit(be_tokens *first);
/* Requests are added in order, and may have max_tokens each. */
int be_tokens_add(be_tokens *first, uint32_t request, uint32_t max_tokens, err *e) WARN_UNUSED;
void be_tokens_record(be_tokens *first, uint32_t request, uint32_t token);
void be_tokens_compare(const be_tokens *first, uint32_t request, uint32_t index, uint32_t token,
                       be_run *run);

/* ---- answers.c ---- */

/* The first tokens of the request in each lane, and the verdict on each prompt. */
typedef struct {
    const questions *prompts; /* borrowed */
    const tokenizer *tok;     /* borrowed */
    uint32_t *tokens, *n;     /* [n_lanes][most], [n_lanes] */
    uint32_t most;
    uint8_t *verdict; /* by prompt: its answer_state; OPEN: not run yet */
} be_answers;
int be_answers_init(be_answers *out, const questions *prompts, const tokenizer *tok,
                    uint32_t n_lanes, err *e) WARN_UNUSED;
void be_answers_deinit(be_answers *ans);
void be_answers_begin(be_answers *ans, uint32_t lane);
void be_answers_token(be_answers *ans, uint32_t lane, uint32_t token);
/* The lane's request, of this prompt, has ended. */
int be_answers_end(be_answers *ans, uint32_t lane, size_t prompt, err *e) WARN_UNUSED;
void be_answers_count(const be_answers *ans, be_run *run);

/* ---- drive.c ---- */

/* Runs one mode once. `first` is filled when empty, else compared with. */
int be_drive(be_run *out, const runtime *run_on, const be_mode *mode, const be_load *load,
             be_tokens *first, err *e) WARN_UNUSED;

/* ---- lines.c, report.c, plot.c ---- */

/* One mode at one number of sequences. */
typedef struct {
    const be_mode *mode;
    uint32_t sequences, max_loops;
    double tokens_per_s, mean_depth, ratio, bound, percent; /* medians over repeats */
    double f0, fr;                                          /* ns per position; per row and loop */
    const be_run *run;                                      /* the run with the median tokens/s */
    double lost_loops, lost_rest; /* parts of its time beyond the bound's */
    double tails;                 /* part of the rows looped */
    double bound_with_tails;      /* the bound if a tail row cost as much as a live one */
} be_line;

/* Of `repeat` runs of a mode and of `full` beside them. mode, sequences, max_loops are set. */
void be_fill_line(be_line *line, const be_run *runs, const be_run *full, uint64_t repeat);
double be_percent(uint64_t part, uint64_t all); /* 0 if there is nothing */
/* Mean tokens put out for each recurrent launch and sequence. */
double be_tokens_per_launch(const be_run *run, uint32_t sequences);
void be_print_head(FILE *to, const runtime *run_on, const runtime_opts *opts, const be_load *load,
                   uint64_t repeat);
/* virtual: a simulated device ran it, so the host's time is the scheduler's own. */
void be_print_lines(FILE *to, const be_line *lines, size_t n, bool is_virtual);
void be_print_json(FILE *to, const be_line *lines, size_t n, const runtime *run_on,
                   const be_load *load, uint64_t repeat);
/* file has passed gnuplot_check. */
int be_plot(const char *file, const be_line *lines, size_t n, const char *title,
            err *e) WARN_UNUSED;

#endif
