/* rules.h - the behaviour behind a batching mode and a policy for halted positions.
 *
 * sched_create decides these values once. All other code reads them and never compares a mode or a
 * policy, so a further mode is a further row in rules.c. */
#ifndef FATHOM_SCHED_RULES_H
#define FATHOM_SCHED_RULES_H

#include "scheduler/scheduler.h"

typedef enum {
    FLUSH_BY_COST,         /* when the rows that wait have cost as much as a flush */
    FLUSH_WHEN_ALL_HALTED, /* when the deepest row of the batch has halted */
    FLUSH_WHEN_NONE_LOOPS, /* when in addition no tail loops any more */
} flush_rule;

typedef struct {
    flush_rule flush;
    bool tails;             /* a halted row fills the cache at deeper loops */
    bool tails_park;        /* a tail loops only when another row needs its keys and values */
    bool prompt_tails_park; /* the same for tails of prompt rows */
    bool tails_end_early;   /* the last loop of a tail writes keys and values only */
    bool last_stands_in;    /* the last executed loop's slot serves every deeper loop too */
    bool collapses;         /* generated positions run by a clock and give slots back: collapse.c */
    bool drafts;            /* sequences may run ahead on drafted tokens: draft.c */
    bool prelude_at_once;   /* new rows do not wait for a flush */
    bool batch_stays_whole; /* a coda takes all rows, and all its tokens go on together */
} rule_set;

/* ERR_BAD_PARAM if mode and policy contradict each other. */
int sched__rules_init(rule_set *out, const sched_opts *opts, err *e) WARN_UNUSED;

#endif
