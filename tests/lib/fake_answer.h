/* fake_answer.h - the answer that the fake backend's model gives to a request alone, one position
 * after another: what every schedule must give. */
#ifndef FATHOM_FAKE_ANSWER_H
#define FATHOM_FAKE_ANSWER_H

#include "scheduler/scheduler.h"
#include "tests/lib/fake_backend.h"

enum { FAKE_ANSWER_TOKENS = 400 };

typedef struct {
    uint32_t n;
    uint32_t tokens[FAKE_ANSWER_TOKENS];
    uint16_t depth[FAKE_ANSWER_TOKENS];
    float logprob[FAKE_ANSWER_TOKENS];
    uint64_t tops; /* fake_tops of all alternatives */
    sched_finish finish;
    uint32_t stop_id; /* with SCHED_STOP */
    err_code why;     /* with SCHED_FAILED */
} fake_answer;

/* Of a vocabulary of at most 128 and at most FAKE_ANSWER_TOKENS tokens. The constraint of req, if
 * any, is at its beginning: it is asked and moved on as the scheduler would. */
void fake_answer_find(const fake_opts *fake, const sched_request *req, eng_sampler *sampler,
                      fake_answer *out);
/* `hash` with the alternatives of one more token. */
uint64_t fake_tops(uint64_t hash, const eng_top *top, uint32_t n);

#endif
