/* golden_run.c - see golden_run.h. */
#include "tests/lib/golden_run.h"

#include <criterion/criterion.h>
#include <string.h>

eng_backend *golden_backend(const model_folder *model, uint32_t loops, uint32_t n_rows,
                            uint32_t launch) {
    eng_backend_opts opts = {.threads = 1,
                             .max_loops = loops,
                             .n_rows = n_rows,
                             .max_launch = launch,
                             .max_logits = 32,
                             .cache_bytes = 32u << 20,
                             .max_positions = model_plan_of(model)->max_seq_len,
                             .cache_dtype = DTYPE_F32,
                             .prompt_chunk = launch >= 128 ? 128 : 0};
    eng_backend *backend;
    err e = {0};
    cr_assert_eq(eng_cpu_open(&backend, model, &opts, &e), 0, "%s", e.msg);
    return backend;
}

uint64_t golden_submit(scheduler *sch, const sched_request *req) {
    err e = {0};
    uint64_t id;
    cr_assert_eq(sched_submit(sch, req, &id, &e), 0, "%s", e.msg);
    return id;
}

void golden_step(scheduler *sch, uint32_t n) {
    for (bool idle = false; n > 0 && !idle; n--) {
        err e = {0};
        cr_assert_eq(sched_step(sch, &idle, &e), 0, "%s", e.msg);
        cr_assert(sched_sane(sch, &e), "%s", e.msg);
    }
}

/* ---- outputs ---- */

const char *const golden_folders[GOLDEN_FOLDERS] = {
    "tests/golden/cases/mla",          "tests/golden/cases/gqa",
    "tests/golden/cases/mla_deep",     "tests/golden/families/ouro",
    "tests/golden/families/nanbeige",  "tests/golden/families/huginn",
    "tests/golden/families/parcae",    "tests/golden/families/retro_llama",
    "tests/golden/families/retro_olmo"};

void golden_tap(void *ud, uint64_t id, uint32_t pos, uint16_t depth, const float *logits) {
    golden_output *out = ud;
    (void)id;
    buf_append(&out->bytes, &pos, sizeof pos);
    buf_append(&out->bytes, &depth, sizeof depth);
    buf_append(&out->bytes, logits, out->vocab * sizeof *logits);
}

void golden_event(void *ud, const sched_event *ev) {
    golden_outputs *outs = ud;
    for (uint32_t i = 0; i < outs->n; i++) {
        golden_output *out = &outs->of[i];
        if (out->id != ev->id) continue;
        if (ev->kind == SCHED_TOKEN) {
            buf_append(&out->bytes, &ev->token, sizeof ev->token);
            buf_append(&out->bytes, &ev->depth, sizeof ev->depth);
        } else if (ev->kind == SCHED_END) {
            cr_assert_eq(ev->finish, SCHED_LENGTH, "a request ends with %s", err_name(ev->why));
        }
    }
}

void golden_expect_equal(const golden_outputs *want, const golden_outputs *got, const char *what) {
    cr_assert(want->n > 0 && got->n == want->n, "%s: %u sequences of %u", what, got->n, want->n);
    for (uint32_t i = 0; i < want->n; i++) {
        const buf *one = &want->of[i].bytes, *other = &got->of[i].bytes;
        cr_assert_gt(one->len, 0);
        cr_assert_eq(other->len, one->len, "%s: sequence %u has another length", what, i);
        cr_assert_eq(memcmp(other->data, one->data, one->len), 0, "%s: sequence %u differs", what,
                     i);
    }
}

void golden_outputs_deinit(golden_outputs *outs) {
    for (uint32_t i = 0; i < outs->n; i++)
        buf_deinit(&outs->of[i].bytes);
    *outs = (golden_outputs){0};
}
