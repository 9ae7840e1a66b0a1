/* golden_run.h - a scheduler over the CPU backend, for tests with exact expected numbers. Each call
 * fails the test if it is refused. */
#ifndef FATHOM_TEST_GOLDEN_RUN_H
#define FATHOM_TEST_GOLDEN_RUN_H

#include "engine/backend.h"
#include "scheduler/scheduler.h"

/* One thread, a cache of 32 MB in float32; the caller closes it. */
eng_backend *golden_backend(const model_folder *model, uint32_t loops, uint32_t n_rows,
                            uint32_t launch);
uint64_t golden_submit(scheduler *sch, const sched_request *req);
/* Runs n steps, fewer if the scheduler is idle. Checks the scheduler's invariants after each. */
void golden_step(scheduler *sch, uint32_t n);

#endif
