/* fake_form.c - see fake_form.h. */
#include "tests/lib/fake_form.h"

#include "tests/lib/fake_model.h"

fake_form fake_form_begin(uint64_t seed, uint32_t vocab, uint32_t fails_one_in) {
    return (fake_form){.seed = seed, .vocab = vocab, .fails_one_in = fails_one_in};
}

void fake_form_expect(fake_form *form, uint64_t draw) {
    static const uint32_t percents[] = {0, 40, 80, 97};
    form->quality = (fake_form_quality)(draw % FORM_QUALITIES);
    form->forced_percent = percents[draw / FORM_QUALITIES % 4];
}

void fake_form_restart(fake_form *form) {
    uint32_t forced_percent = form->forced_percent;
    *form = fake_form_begin(form->seed, form->vocab, form->fails_one_in);
    form->forced_percent = forced_percent;
}

/* ---- the place behind some tokens, as a hash ---- */

static uint64_t place(const fake_form *form, uint64_t taken) {
    return mix(form->seed, taken);
}

/* May always come. */
static uint32_t sure_token(const fake_form *form, uint64_t here) {
    return (uint32_t)(here % form->vocab);
}

static bool is_forced(const fake_form *form, uint64_t here) {
    return mix(here, 3) % 100 < form->forced_percent;
}

static bool fails(const fake_form *form, uint64_t here) {
    return form->fails_one_in && mix(here, 1) % form->fails_one_in == 0;
}

/* The mask of a place, as number `at`. */
static void set_mask(fake_form *form, uint32_t at, uint64_t here) {
    bool forced = is_forced(form, here);
    uint64_t *words = form->words[at];
    form->free[at] = !forced && mix(here, 2) % 4 == 0;
    memset(words, 0, sizeof form->words[at]);
    for (uint32_t i = 0; i < form->vocab; i++) {
        bool allowed = (!forced && mix(here, 100 + i) % 3 == 0) || i == sure_token(form, here);
        words[i / 64] |= (uint64_t)allowed << i % 64;
    }
    form->masks[at] = (eng_mask){words, FAKE_FORM_WORDS};
}

static bool allows(const fake_form *form, uint32_t at, uint32_t token) {
    return form->free[at] || eng_mask_allows(&form->masks[at], token);
}

/* False: nothing is expected at the place with this mask. */
static bool expect(const fake_form *form, uint32_t at, uint64_t here, uint32_t *token) {
    *token = sure_token(form, here);
    switch (form->quality) {
    case FORM_EXPECTS_FORCED: return is_forced(form, here);
    case FORM_GUESSES:
        if (mix(here, 4) % 2) *token = (uint32_t)(mix(here, 5) % form->vocab);
        return allows(form, at, *token) && mix(here, 6) % 8 > 0;
    case FORM_IS_WRONG:
        if (mix(here, 4) % 8) *token = (*token + 1) % form->vocab;
        return true;
    default: return false;
    }
}

/* ---- calls ---- */

static err_code make(void *ud) {
    fake_form *form = ud;
    uint64_t taken = form->taken, here = place(form, taken);
    form->misused |= form->made;
    form->made = true;
    form->at = form->n_expected = 0;
    if (fails(form, here)) return ERR_CONSTRAINT;
    set_mask(form, 0, here);
    uint32_t token;
    while (form->n_expected < FAKE_FORM_AHEAD && expect(form, form->n_expected, here, &token)) {
        taken = mix(taken, 1 + token);
        here = place(form, taken);
        if (fails(form, here)) break;
        form->tokens[form->n_expected++] = token;
        set_mask(form, form->n_expected, here);
    }
    return ERR_NONE;
}

static const eng_mask *mask(void *ud, uint32_t n) {
    fake_form *form = ud;
    form->misused |= !form->made || form->at + n > form->n_expected;
    return form->free[form->at + n] ? NULL : &form->masks[form->at + n];
}

static bool take(void *ud, uint32_t token) {
    fake_form *form = ud;
    uint64_t here = place(form, form->taken);
    form->misused |= !form->made || !allows(form, form->at, token);
    if (mix(here, 1000 + token) % 6 == 0 && token != sure_token(form, here)) return false;
    form->taken = mix(form->taken, 1 + token);
    form->made = form->at < form->n_expected && form->tokens[form->at] == token;
    form->at += form->made;
    return true;
}

static uint32_t expected(void *ud, const uint32_t **tokens) {
    fake_form *form = ud;
    form->misused |= !form->made;
    *tokens = form->tokens + form->at;
    return form->n_expected - form->at;
}

const sched_constraint fake_form_calls = {make, mask, take, expected};
