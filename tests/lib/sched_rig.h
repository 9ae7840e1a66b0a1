/* sched_rig.h - a scheduler on the fake backend, and all its events. */
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
    uint64_t top_hash;       /* of all alternatives told */
    uint64_t at[RIG_TOKENS]; /* recurrent launches run when it came */
    uint64_t first_ns;       /* device time when the first token came */
    bool ended;
    sched_event end;
} rig_out;

typedef struct {
    eng_backend *backend;
    scheduler *sched;
    rig_out *out;      /* [RIG_IDS], by id */
    sched_stats stats; /* scratch of rig_stats */
} sched_rig;

/* Defaults with this policy and without a prefix cache. */
sched_opts rig_opts(kv_policy policy);
sched_rig rig_open(const fake_opts *fake, const sched_opts *opts);
void rig_close(sched_rig *rig); /* also checks for pages and rows not given back */
/* A greedy request of n prompt tokens drawn from `stream`, first ones first. */
sched_request rig_request(uint32_t *prompt, uint32_t n, uint32_t max_tokens, uint64_t stream);
uint64_t rig_submit(sched_rig *rig, const sched_request *req);
void rig_steps(sched_rig *rig, uint32_t n);
void rig_finish(sched_rig *rig); /* steps until idle */
/* One step of any scheduler, and a check of all that must hold behind it. False: it is idle. */
bool rig_step_of(scheduler *sched);
const sched_stats *rig_stats(sched_rig *rig);
uint64_t rig_device_ns(sched_rig *rig);
uint32_t rig_token(uint64_t stream, uint32_t i); /* below 64 */

#endif
