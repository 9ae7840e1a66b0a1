/* runtime.h - a model ready to run: its folder, its tokenizer, its backend, and how its
 * requests are scheduled. Commands and the server open it the same way. */
#ifndef FATHOM_RUNTIME_H
#define FATHOM_RUNTIME_H

#include "scheduler/scheduler.h"
#include "text/tokenizer.h"

/* Zero and NULL mean the default of each. */
typedef struct {
    const char *model, *device, *halted_kv, *batching, *kernels, *cache_dtype, *weights;
    bool packed_cache;
    uint64_t threads, cache_bytes, max_loops, max_rows, max_running, chunk, wait_bound;
    uint64_t fake_us; /* device "fake": slept per launch that yields logits */
    double threshold;
} runtime_opts;

typedef struct {
    model_folder *model;
    tokenizer *tokenizer; /* NULL if the folder has none */
    eng_backend *backend;
    sched_opts sched; /* what runtime_opts and the model say */
} runtime;

/* Opens model, tokenizer and backend. On failure everything is closed again. */
int runtime_open(runtime *out, const runtime_opts *o, err *e) WARN_UNUSED;
void runtime_close(runtime *r);

#endif
