/* costs_internal.h - costs of launches, given by hand or fitted to a real run. */
#ifndef FATHOM_BENCH_COSTS_H
#define FATHOM_BENCH_COSTS_H

#include "cli/bench_engine/bench_engine_internal.h"

typedef struct {
    double launch, row; /* ns of a launch; of each row in it */
    double expert;      /* recurrent: ns of each expert that some row of the launch needs */
    double kv_row;      /* recurrent: ns of each row that only writes keys and values */
} be_stage_cost;

typedef struct be_costs {
    be_stage_cost stage[3];         /* by eng_stage */
    double host_launch, host_token; /* ns of the host before each launch; after each token */
    uint32_t n_experts, experts_per_row;
    uint32_t flights;                       /* launches that the device takes at once */
    uint32_t n_depths;                      /* deepest depth drawn */
    double depth_below[PLAN_MAX_LOOPS + 1]; /* [d] part of positions that run at most d loops */
    double agreement[PLAN_MAX_LOOPS];       /* part of drafts that are right after loop 1, 2, … */
    uint32_t n_agreement;                   /* later loops: see be_agreement_after */
    double stage_error[3];                  /* of a fit: mean relative error of a launch */
} be_costs;

/* Experts that some of n rows needs, if each row draws its own at random. */
double be_experts_of(const be_costs *costs, double rows);
double be_launch_ns(const be_costs *costs, const be_launch *launch);

/* Each reports ERR_USAGE with the option's name. The experts are plan's. */
int be_costs_parse(be_costs *out, const char *text, err *e) WARN_UNUSED;
int be_costs_fit(be_costs *out, const char *path, err *e) WARN_UNUSED;
/* "0.6,0.9"; NULL: the default. */
int be_agreement_parse(be_costs *out, const char *list, err *e) WARN_UNUSED;
/* Part of drafts after `done` loops that are right, of positions that run `all` loops: it rises
 * evenly from the last one given to 1. */
double be_agreement_after(const be_costs *costs, uint32_t done, uint32_t all);
void be_costs_print(FILE *to, const be_costs *costs);
/* 1 + the sum of two geometric draws, as wide as trained exits are. */
void be_depths_of_mean(be_costs *costs, double mean, uint32_t max_loops);

/* Puts a simulated device over *steal_backend and owns it, on failure too. */
int be_simulated_open(eng_backend **steal_backend, const be_costs *costs,
                      const uint64_t **virtual_ns, err *e) WARN_UNUSED;

#endif
