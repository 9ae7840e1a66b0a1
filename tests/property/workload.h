/* workload.h - random traffic for the scheduler, and the expected result. */
#ifndef FATHOM_WORKLOAD_H
#define FATHOM_WORKLOAD_H

#include "scheduler/scheduler_internal.h"
#include "tests/lib/fake_backend.h"

enum { WORK_MAX = 24 };

/* A case is a seed, and the parts removed by shrinking. */
typedef struct {
    uint64_t seed;
    uint32_t keep;    /* bit i: request i is sent */
    uint32_t shorter; /* prompts and outputs halved so many times */
    uint32_t simpler; /* WORK_NO_* */
    uint32_t flights; /* launches the backend takes before the first is waited for */
} work_case;

enum {
    WORK_NO_CANCEL = 1,
    WORK_NO_SHARE = 2,
    WORK_BIG_POOL = 4,
    WORK_BIG_ROWS = 8,
    WORK_GREEDY = 16,
    WORK_ALL_AT_ONCE = 32,
    WORK_HOST_SAMPLES = 64, /* the backend samples nothing */
    WORK_ALWAYS_AHEAD = 128,
    WORK_ONE_TENANT = 256,
    WORK_NO_HOMES = 512,
    WORK_NO_DRAFTS = 1024,
    WORK_PLAIN = 2048, /* no penalty, bias or constraint */
    WORK_MASKS_AT_ONCE = 4096,
    WORK_SIMPLER_ALL = 8191,
};

typedef struct {
    uint64_t launches, steps, preemptions, cached_tokens, tokens, cancelled, schedule;
    uint64_t left_out; /* rows */
    uint64_t looked_up, forced, drafts, drafts_accepted, drafts_withdrawn;
    uint64_t from_prompts; /* drafts told of first tokens */
    uint32_t requests, longest_wait;
} work_report;

/* Runs one case. True if everything held; else `why` (at least 300 bytes) names the failure. */
bool work_run(const work_case *spec, work_report *report, char *why, size_t why_bytes);
/* Makes a failing case smaller while it still fails. */
work_case work_shrink(const work_case *failing);
uint64_t work_rand(uint64_t *state); /* splitmix64 */

#endif
