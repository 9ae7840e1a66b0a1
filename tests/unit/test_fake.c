/* The backend of --device fake: the tokens that it names. */
#include "engine/backend.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>

TestSuite(fake_device, .fini = fail_on_leaks);

enum { POSITIONS = 140 };

/* The token that a coda with these flags names after a position. */
static uint32_t token_after(eng_backend *backend, uint32_t pos, uint16_t flags) {
    static const uint32_t blocks[POSITIONS / ENG_BLOCK + 1] = {0};
    eng_row row = {.pos = pos, .flags = flags | ENG_ROW_LOGITS, .blocks = blocks};
    eng_launch launch = {ENG_STAGE_CODA, &row, 1, NULL, 0};
    eng_result result;
    err e = {0};
    uint32_t best = 0;
    cr_assert_eq(eng_run(backend, &launch, &result, &e), 0, "%s", e.msg);
    cr_assert_eq(result.n_logits, 1);
    for (uint32_t i = 1; i < backend->plan->vocab_size; i++)
        best = result.logits[i] > result.logits[best] ? i : best;
    return best;
}

Test(fake_device, the_draft_of_one_position_in_seven_names_another_token) {
    eng_backend_opts opts = {.n_rows = 1, .max_launch = 1, .cache_dtype = DTYPE_F32};
    model_folder *model;
    eng_backend *backend;
    err e = {0};
    uint32_t wrong = 0;
    cr_assert_eq(model_open(&model, "tests/golden/cases/mla", &e), 0, "%s", e.msg);
    cr_assert_eq(eng_fake_open(&backend, model, &opts, 0, &e), 0, "%s", e.msg);
    for (uint32_t pos = 0; pos < POSITIONS; pos++) {
        uint32_t token = token_after(backend, pos, 0),
                 draft = token_after(backend, pos, ENG_ROW_DRAFT);
        cr_assert_eq(token_after(backend, pos, 0), token, "a draft leaves nothing behind");
        cr_assert_eq(draft != token, pos % 7 == 6, "position %u", pos);
        wrong += draft != token;
    }
    cr_assert_eq(wrong, POSITIONS / 7);
    eng_backend_close(backend);
    model_close(model);
}
