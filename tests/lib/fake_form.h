/* fake_form.h - a constraint of hashes: the mask of the next token depends on every token taken, so
 * one token too many or too few changes the rest of the answer. It refuses some tokens that its
 * mask allows, and it checks its contract: a mask is made once for each token, before it is asked
 * for. */
#ifndef FATHOM_FAKE_FORM_H
#define FATHOM_FAKE_FORM_H

#include "scheduler/scheduler.h"

enum { FAKE_FORM_VOCAB = 128 }; /* at most */

typedef struct {
    uint64_t seed;
    uint32_t vocab;
    uint32_t fails_one_in; /* masks; 0 = never */
    uint64_t taken;        /* hash of all tokens taken */
    bool made, misused;    /* made: the mask is that of the next token */
    bool free;             /* the mask allows every token */
    eng_mask mask;
    uint64_t words[FAKE_FORM_VOCAB / 64];
} fake_form;

fake_form fake_form_begin(uint64_t seed, uint32_t vocab, uint32_t fails_one_in);
void fake_form_restart(fake_form *form);
extern const sched_constraint fake_form_calls; /* with a fake_form as ud */

#endif
