/* golden_run.h - a scheduler over the CPU backend, for tests with exact expected numbers. Each call
 * fails the test if it is refused. */
#ifndef FATHOM_TEST_GOLDEN_RUN_H
#define FATHOM_TEST_GOLDEN_RUN_H

#include "base/buf.h"
#include "engine/backend.h"
#include "scheduler/scheduler.h"

/* One thread, a cache of 32 MB in float32; the caller closes it. */
eng_backend *golden_backend(const model_folder *model, uint32_t loops, uint32_t n_rows,
                            uint32_t launch);
uint64_t golden_submit(scheduler *sch, const sched_request *req);
/* Runs n steps, fewer if the scheduler is idle. Checks the scheduler's invariants after each. */
void golden_step(scheduler *sch, uint32_t n);

/* ---- everything that comes out of a few sequences, to be compared to the bit ---- */

enum { GOLDEN_OUTPUTS = 8, GOLDEN_FOLDERS = 9 };

/* Tokens and depths of a sequence, and with golden_tap the logits and depths of its prompt. */
typedef struct {
    uint64_t id;
    buf bytes;
    uint32_t vocab;
} golden_output;

typedef struct {
    golden_output of[GOLDEN_OUTPUTS];
    uint32_t n; /* the sequences in use */
} golden_outputs;

void golden_tap(void *ud, uint64_t id, uint32_t pos, uint16_t depth,
                const float *logits); /* a sched_request.tap; ud: a golden_output */
/* Of a scheduler; ud: golden_outputs. Every sequence must end at its length. */
void golden_event(void *ud, const sched_event *ev);
void golden_expect_equal(const golden_outputs *want, const golden_outputs *got, const char *what);
void golden_outputs_deinit(golden_outputs *outs);
/* Models of every family, with grouped queries and with MLA, one core layer and more. */
extern const char *const golden_folders[GOLDEN_FOLDERS];

#endif
