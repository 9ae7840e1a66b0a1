/* test_model.c - model folders: the good ones open, and what opening finds in bad ones. */
#include "engine/engine.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>

TestSuite(model, .fini = fail_on_leaks);

static const char *const folders[] = {
    "tests/golden/cases/mla",
    "tests/golden/cases/gqa",
    "tests/golden/cases/mla_deep",
    "tests/golden/cases/gqa_theta",
    "tests/golden/cases/mla_shallow",
    "tests/golden/cases/mla_no_prelude",
    "models/demo",
};

Test(model, every_golden_folder_opens_and_its_size_is_what_its_config_says) {
    for (size_t i = 0; i < ARRAY_LEN(folders); i++) {
        err e = {0};
        eng_model *m;
        cr_assert_eq(eng_model_open(&m, folders[i], &e), 0, "%s", e.msg);
        cr_assert_eq(eng_model_params(m), eng_config_params(eng_model_config(m)), "%s", folders[i]);
        eng_tensor t;
        cr_assert(eng_model_find(m, "recurrent.act.halt.weight", &t));
        cr_assert_eq(t.rank, 2);
        cr_assert_eq(t.shape[1], eng_model_config(m)->dim);
        cr_assert_not(eng_model_find(m, "no.such.tensor", &t));
        eng_model_close(m);
    }
}
