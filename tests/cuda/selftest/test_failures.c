/* test_failures.c - every call of the runtime fails once: opening unwinds, a launch reports, and
 * a lost device stays lost. On the shim only; a real device cannot be made to fail. */
#include "tests/cuda/selftest/driver.h"

#include <string.h>

#ifdef FATHOM_CUDA_SHIM

static eng_model *open_model(void) {
    err e = {0};
    eng_model *m;
    check(eng_model_open(&m, "tests/golden/cases/mla", &e) == 0, "model: %s", e.msg);
    return m;
}

static const eng_backend_opts small = {.max_loops = 2,
                                       .n_rows = 8,
                                       .max_launch = 4,
                                       .max_logits = 2,
                                       .cache_bytes = 1 << 20,
                                       .max_positions = 64};

/* The number of runtime calls one open makes is the first n at which it succeeds. */
static void open_survives_every_failure(const eng_model *m) {
    for (long n = 0;; n++) {
        err e = {0};
        eng_backend *b = NULL;
        shim_fail_at(n, 0);
        int rc = eng__cuda_open_device(&b, m, &small, 0, &e);
        shim_fail_at(-1, 0);
        if (rc == 0) {
            eng_backend_close(b);
            check(n > 100, "open makes only %ld runtime calls", n);
            return;
        }
        check(b == NULL && e.code != ERR_NONE && e.msg[0],
              "open failed at call %ld without a reason", n);
    }
}

static int one_row(eng_backend *b, uint32_t block, err *e) {
    static const uint32_t zero[1] = {0};
    eng_edit edits[] = {{.block = block, .slot = 5, .plane = 0, .n_planes = 4, .off = 0}};
    eng_row row = {.row = 1, .token = 3, .blocks = zero};
    eng_launch l = {ENG_STAGE_PRELUDE, &row, 1, edits, 1};
    eng_result r;
    return eng_run(b, &l, &r, e);
}

static void a_device_error_is_final(const eng_model *m) {
    for (long n = 0;; n++) {
        err e = {0};
        eng_backend *b = NULL;
        if (!check(eng__cuda_open_device(&b, m, &small, 0, &e) == 0, "open: %s", e.msg)) return;
        shim_fail_at(n, 0);
        int rc = one_row(b, 0, &e);
        shim_fail_at(-1, 0);
        err again = {0};
        if (rc != 0) {
            check(e.code == ERR_DEVICE, "call %ld: %s", n, e.msg);
            check(one_row(b, 0, &again) != 0 && again.code == ERR_DEVICE,
                  "a lost device came back");
        }
        eng_backend_close(b);
        if (rc == 0) {
            check(n >= 5, "a launch makes only %ld runtime calls", n);
            return;
        }
    }
}

static void refusals_leave_it_usable(const eng_model *m) {
    err e = {0};
    eng_backend *b = NULL;
    if (!check(eng__cuda_open_device(&b, m, &small, 0, &e) == 0, "open: %s", e.msg)) return;
    static const uint32_t zero[2] = {0, 0}, far[1] = {1u << 30};
    static const struct {
        const char *what;
        eng_row row;
        eng_edit edit;
        uint32_t n_rows, n_edits;
        eng_stage stage;
    } bad[] = {
        {"a row that is not there", {.row = 8, .blocks = zero}, {0}, 1, 0, ENG_STAGE_PRELUDE},
        {"a position too far", {.pos = 64, .blocks = zero}, {0}, 1, 0, ENG_STAGE_PRELUDE},
        {"a token beyond the vocabulary",
         {.token = 320, .blocks = zero},
         {0},
         1,
         0,
         ENG_STAGE_PRELUDE},
        {"a loop too deep", {.loop = 2, .blocks = zero}, {0}, 1, 0, ENG_STAGE_RECURRENT},
        {"no blocks", {.row = 1}, {0}, 1, 0, ENG_STAGE_PRELUDE},
        {"a block that is not there", {.blocks = far}, {0}, 1, 0, ENG_STAGE_PRELUDE},
        {"a row named twice", {.row = 2, .blocks = zero}, {0}, 2, 0, ENG_STAGE_PRELUDE},
        {"too many rows", {.blocks = zero}, {0}, 5, 0, ENG_STAGE_PRELUDE},
        {"an edit of no block",
         {.blocks = zero},
         {.block = 1u << 30, .n_planes = 1},
         1,
         1,
         ENG_STAGE_PRELUDE},
        {"an edit of no plane",
         {.blocks = zero},
         {.plane = 4, .n_planes = 1},
         1,
         1,
         ENG_STAGE_PRELUDE},
        {"an edit to no slot",
         {.blocks = zero},
         {.slot = UINT32_MAX - 1, .n_planes = 1},
         1,
         1,
         ENG_STAGE_PRELUDE},
        {"an edit of no position",
         {.blocks = zero},
         {.off = 32, .n_planes = 1},
         1,
         1,
         ENG_STAGE_PRELUDE},
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        err why = {0};
        eng_row rows[5];
        eng_result r;
        for (int k = 0; k < 5; k++)
            rows[k] = bad[i].row;
        eng_launch l = {bad[i].stage, rows, bad[i].n_rows, &bad[i].edit, bad[i].n_edits};
        check(eng_run(b, &l, &r, &why) != 0 && why.code == ERR_INTERNAL, "%s was taken",
              bad[i].what);
    }
    err why = {0};
    eng_row unmapped = {.pos = 40, .blocks = zero};
    eng_launch l = {ENG_STAGE_PRELUDE, &unmapped, 1, NULL, 0};
    eng_result r;
    check(eng_run(b, &l, &r, &why) != 0 && why.code == ERR_INTERNAL,
          "a map without slots was taken");
    check(one_row(b, 0, &e) == 0, "after refusals: %s", e.msg);
    eng_backend_close(b);
}

static void bad_options_say_why(const eng_model *m) {
    static const struct {
        eng_backend_opts o;
        const char *param;
    } bad[] = {
        {{.max_loops = ENG_MAX_LOOPS + 1}, "max_loops"},
        {{.kernels = "avx512"}, "kernels"},
        {{.cache_dtype = ENG_F16}, "cache_dtype"},
        {{.weights = (eng_weights)2}, "weights"},
        {{.cache_bytes = 100, .n_rows = 4, .max_positions = 64}, "kv-memory"},
        {{.n_rows = UINT32_MAX}, "n_rows"},
        {{.n_rows = (1u << 24) + 1}, "n_rows"},
        {{.max_positions = (1u << 24) + 1}, "max_positions"},
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        err e = {0};
        eng_backend *b = NULL;
        check(eng__cuda_open_device(&b, m, &bad[i].o, 0, &e) != 0 && b == NULL &&
                  e.code == ERR_USAGE && strcmp(e.param, bad[i].param) == 0,
              "options %zu: %s %s", i, err_name(e.code), e.msg);
    }
}

void test_failures(void) {
    eng_model *m = open_model();
    if (m == NULL) return;
    open_survives_every_failure(m);
    a_device_error_is_final(m);
    refusals_leave_it_usable(m);
    bad_options_say_why(m);
    eng_model_close(m);
}

#else
void test_failures(void) {}
#endif
