/* fake_form.c - see fake_form.h. */
#include "tests/lib/fake_form.h"

#include "tests/lib/fake_model.h"

fake_form fake_form_begin(uint64_t seed, uint32_t vocab, uint32_t fails_one_in) {
    return (fake_form){.seed = seed, .vocab = vocab, .fails_one_in = fails_one_in};
}

void fake_form_restart(fake_form *form) {
    *form = fake_form_begin(form->seed, form->vocab, form->fails_one_in);
}

static bool allows(const fake_form *form, uint32_t token) {
    return form->free || (token < form->vocab && form->words[token / 64] >> token % 64 & 1);
}

static err_code make(void *ud) {
    fake_form *form = ud;
    uint64_t here = mix(form->seed, form->taken);
    form->misused |= form->made;
    form->made = true;
    if (form->fails_one_in && mix(here, 1) % form->fails_one_in == 0) return ERR_CONSTRAINT;
    form->free = mix(here, 2) % 4 == 0;
    memset(form->words, 0, sizeof form->words);
    for (uint32_t i = 0; i < form->vocab; i++) {
        bool allowed = mix(here, 100 + i) % 3 == 0 || i == here % form->vocab;
        form->words[i / 64] |= (uint64_t)allowed << i % 64;
    }
    form->mask = (eng_mask){form->words, FAKE_FORM_VOCAB / 64};
    return ERR_NONE;
}

static const eng_mask *mask(void *ud) {
    fake_form *form = ud;
    form->misused |= !form->made;
    return form->free ? NULL : &form->mask;
}

static bool take(void *ud, uint32_t token) {
    fake_form *form = ud;
    uint64_t here = mix(form->seed, form->taken);
    form->misused |= !form->made || !allows(form, token);
    if (mix(here, 1000 + token) % 6 == 0 && token != here % form->vocab) return false;
    form->taken = mix(form->taken, 1 + token);
    form->made = false;
    return true;
}

const sched_constraint fake_form_calls = {make, mask, take};
