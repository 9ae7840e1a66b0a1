/* sched_rig.h - a scheduler on the fake backend, and a record of its events. */
#ifndef FATHOM_SCHED_RIG_H
#define FATHOM_SCHED_RIG_H

#include "scheduler/scheduler_internal.h"
#include "tests/lib/fake_backend.h"

enum { RIG_IDS = 512, RIG_TOKENS = 512 };

typedef struct {
    uint32_t n, n_prompt; /* tokens and prompt events seen */
    uint32_t tokens[RIG_TOKENS];
    uint16_t depth[RIG_TOKENS];
    float logprob[RIG_TOKENS];
    uint64_t top_hash;       /* of all alternatives reported */
    uint64_t at[RIG_TOKENS]; /* number of recurrent launches at the time of the token */
    uint64_t first_ns;       /* device time of the first token */
    bool ended;
    sched_event end;
} rig_out;

typedef struct {
    eng_backend *backend;
    scheduler *s;
    rig_out *out;      /* [RIG_IDS], by id */
    sched_stats stats; /* scratch of rig_stats */
} rig;

rig rig_open(const fake_opts *fake, const sched_opts *opts);
void rig_close(rig *run); /* checks that every page and row was given back */
/* A greedy request; its prompt is the first n tokens of `stream`. */
sched_request rig_request(uint32_t *prompt, uint32_t n, uint32_t max_tokens, uint64_t stream);
uint64_t rig_submit(rig *run, const sched_request *req);
void rig_steps(rig *run, uint32_t n);
void rig_finish(rig *run); /* steps until idle */
const sched_stats *rig_stats(rig *run);
uint64_t rig_device_ns(rig *run);
uint32_t rig_token(uint64_t stream, uint32_t i); /* below 64 */

#endif
