/* runtime.h - a model ready to run: its folder, its tokenizer, its backend, and the settings of its
 * scheduler. Commands and the server open it the same way. */
#ifndef FATHOM_RUNTIME_H
#define FATHOM_RUNTIME_H

#include "base/options.h"
#include "engine/ranks.h"
#include "model/model.h"
#include "scheduler/scheduler.h"
#include "text/tokenizer.h"

/* Zero and NULL mean the default. */
typedef struct {
    const char *model, *device, *halted_kv, *batching, *kernels, *cache_dtype, *weights;
    const char *exit_rule;     /* by name: exit_rule_find */
    const char *rank_split;    /* "columns", "sequences" */
    const char *initial_state; /* "zero", "seeded" */
    const char *speculate;     /* "auto", "off", or most drafted tokens of a sequence in flight */
    bool packed_cache, no_tokenizer;
    uint64_t threads, cache_bytes, max_loops, max_rows, max_running, chunk, wait_bound;
    uint64_t prompt_min_loops, draft_loops;
    uint64_t min_loops;    /* --min-loops, which the command puts into its requests */
    uint64_t fake_us;      /* device "fake": µs to sleep per coda launch */
    opt_real threshold;    /* of the exit rule, as people write it */
    uint64_t rank_seconds; /* most that a rank may be silent */
    bool ranks;            /* run over all ranks, if a launcher started several processes */
} runtime_opts;

enum { RUNTIME_WHY = 400 }; /* bytes of a reason, its end included */

typedef struct {
    model_folder *model;
    tokenizer *tokenizer; /* NULL if the folder has no usable tokenizer, or with no_tokenizer */
    char no_tokenizer[RUNTIME_WHY]; /* the reason for NULL; "" if the folder has no tokenizer */
    eng_ranks *ranks;               /* NULL: this process alone */
    eng_backend *backend;
    sched_opts sched; /* from runtime_opts and the model */
} runtime;

/* Opens model, tokenizer and backend. ERR_USAGE names an option the model's family does not
 * support. An unusable tokenizer causes a warning only; the model then takes token ids. On failure
 * everything is closed again. */
int runtime_open(runtime *out, const runtime_opts *opts, err *e) WARN_UNUSED;
void runtime_close(runtime *self);
/* Ranks above 0 (eng_ranks_expected) call this instead, with the options of rank 0: it runs the
 * launches of rank 0 until that closes its runtime, or ERR_DEVICE. */
int runtime_follow(const runtime_opts *opts, err *e) WARN_UNUSED;
/* Opens the folder's tokenizer. Without one *out is unchanged and why_not is "". An unusable one
 * causes a warning: *out is unchanged and why_not holds the reason. */
int runtime_open_tokenizer(tokenizer **out, const char *dir, uint32_t vocab_size,
                           char why_not[RUNTIME_WHY], err *e) WARN_UNUSED;
/* The error for an option that needs a tokenizer, for a model without one. */
int runtime_needs_tokenizer(const runtime *self, const char *option, const char *use, err *e);
/* The exit threshold of requests that name none; 0 for the rule "fixed". */
float runtime_threshold(const runtime *self);
/* Writes the exit rules this plan allows: "hazard, latent-diff, cosine, fixed". */
void runtime_exit_rules(buf *out, const model_plan *plan);

#endif
