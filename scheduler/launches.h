/* launches.h - a ring of the last recurrent launches.
 *
 * Memory is taken once, when the scheduler is created. The scheduler's thread writes its ring, and
 * each snapshot of the figures has a copy. */
#ifndef FATHOM_SCHED_LAUNCHES_H
#define FATHOM_SCHED_LAUNCHES_H

#include "scheduler/scheduler.h"

typedef struct {
    sched_launch *launches; /* [SCHED_LAUNCHES]; launch id stands at id % SCHED_LAUNCHES */
    uint32_t *rows;         /* [SCHED_LAUNCHES][n_loops] */
    uint32_t n_loops;
    uint64_t last; /* id of the newest; 0 = none yet */
} launch_ring;

int sched__launches_init(launch_ring *ring, uint32_t n_loops, err *e) WARN_UNUSED;
void sched__launches_deinit(launch_ring *ring); /* a ring of zeros is fine */
/* The next launch, with its rows all 0. The launch SCHED_LAUNCHES before it is forgotten. */
sched_launch *sched__launches_add(launch_ring *ring);
/* Copies the launches that `to` lacks. Both were made for the same number of loops. */
void sched__launches_copy(launch_ring *to, const launch_ring *from);
bool sched__launches_get(const launch_ring *ring, uint64_t id, sched_launch *out);

#endif
