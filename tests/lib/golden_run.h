/* golden_run.h - a scheduler over the CPU backend for tests that know every number. Each call fails
 * the test when what it asks for is refused. */
#ifndef FATHOM_TEST_GOLDEN_RUN_H
#define FATHOM_TEST_GOLDEN_RUN_H

#include "engine/backend.h"
#include "scheduler/scheduler.h"

/* One thread, a cache of 32 MB in float32; the caller closes it. */
eng_backend *golden_backend(const model_folder *m, uint32_t loops, uint32_t n_rows,
                            uint32_t launch);
uint64_t golden_submit(sched *s, const sched_request *r);
/* n steps, or fewer until nothing is left to do; the scheduler's own rules hold after each. */
void golden_step(sched *s, uint32_t n);

#endif
