/* fake_form.h - a constraint of hashes: the mask of the next token depends on every token taken, so
 * one token too many or too few changes the rest of the answer. It refuses some tokens that its
 * mask allows, and it checks its contract: a mask is made once for each token, before it is asked
 * for, unless the token before was expected.
 *
 * At some places only one token may come. A form may expect tokens, of any quality. The others
 * behave as if it did not: masks do not depend on it. */
#ifndef FATHOM_FAKE_FORM_H
#define FATHOM_FAKE_FORM_H

#include "scheduler/scheduler.h"

enum { FAKE_FORM_VOCAB = 128 /* at most */, FAKE_FORM_AHEAD = 8, FAKE_FORM_WORDS = 2 };

typedef enum {
    FORM_EXPECTS_NONE,
    FORM_EXPECTS_FORCED, /* while only one token may come: always right, unless it is refused */
    FORM_GUESSES,        /* beyond that, one of the tokens that may come: sometimes right */
    FORM_IS_WRONG,       /* mostly tokens that may not come */
    FORM_QUALITIES
} fake_form_quality;

typedef struct {
    uint64_t seed;
    uint32_t vocab;
    uint32_t fails_one_in; /* masks; 0 = never */
    fake_form_quality quality;
    uint32_t forced_percent; /* places with one token */
    uint64_t taken;          /* hash of all tokens taken */
    bool made, misused;      /* made: the mask is that of the next token */
    uint32_t at, n_expected; /* tokens[at] is expected next; masks[at] is the mask of the next */
    uint32_t tokens[FAKE_FORM_AHEAD];
    bool free[FAKE_FORM_AHEAD + 1]; /* the mask allows every token */
    eng_mask masks[FAKE_FORM_AHEAD + 1];
    uint64_t words[FAKE_FORM_AHEAD + 1][FAKE_FORM_WORDS];
} fake_form;

fake_form fake_form_begin(uint64_t seed, uint32_t vocab, uint32_t fails_one_in);
/* Draws how many places are forced and what is expected. */
void fake_form_expect(fake_form *form, uint64_t draw);
/* At its beginning again. It expects nothing: the answer must be the same. */
void fake_form_restart(fake_form *form);
extern const sched_constraint fake_form_calls; /* with a fake_form as ud */

#endif
