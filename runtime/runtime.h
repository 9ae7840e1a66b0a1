/* runtime.h - a model ready to run: its folder, its tokenizer, its backend, and how its
 * requests are scheduled. Commands and the server open it the same way. */
#ifndef FATHOM_RUNTIME_H
#define FATHOM_RUNTIME_H

#include "model/model.h"
#include "scheduler/scheduler.h"
#include "text/tokenizer.h"

/* Zero and NULL mean the default of each. */
typedef struct {
    const char *model, *device, *halted_kv, *batching, *kernels, *cache_dtype, *weights;
    const char *exit_rule;     /* by name: exit_rule_find */
    const char *initial_state; /* "zero", "seeded" */
    bool packed_cache, no_tokenizer;
    uint64_t threads, cache_bytes, max_loops, max_rows, max_running, chunk, wait_bound;
    uint64_t prompt_min_loops;
    uint64_t loops, min_loops; /* of the one request that will run: --loops and --min-loops */
    uint64_t fake_us;          /* device "fake": slept per launch that yields logits */
    double threshold;          /* of the exit rule */
} runtime_opts;

enum { RUNTIME_WHY = 400 }; /* bytes of a reason, its end included */

typedef struct {
    model_folder *model;
    tokenizer *tokenizer; /* NULL if the folder has none that can be used, or by no_tokenizer */
    char no_tokenizer[RUNTIME_WHY]; /* then says why; "" where the folder has none at all */
    eng_backend *backend;
    sched_opts sched; /* what runtime_opts and the model say */
} runtime;

/* Opens model, tokenizer and backend. ERR_USAGE names an option that the model's family cannot
 * follow. A tokenizer that cannot be used is warned of: such a model takes token ids. On failure
 * everything is closed again. */
int runtime_open(runtime *out, const runtime_opts *o, err *e) WARN_UNUSED;
void runtime_close(runtime *r);
/* The folder's tokenizer; *out stays as it is where there is none, and where it cannot be used,
 * which is warned of: why_not then says why. */
int runtime_open_tokenizer(tokenizer **out, const char *dir, uint32_t vocab_size,
                           char why_not[RUNTIME_WHY], err *e) WARN_UNUSED;
/* Refuses an option that needs text to become tokens, where r->tokenizer is NULL. */
int runtime_needs_tokenizer(const runtime *r, const char *option, const char *use, err *e);
/* The threshold that rows leave by unless a request names one; 0 for the rule fixed. */
float runtime_threshold(const runtime *r);
/* The rules that models of this plan may leave the loop by: "hazard, latent-diff, cosine, fixed".
 */
void runtime_exit_rules(buf *out, const model_plan *p);

#endif
