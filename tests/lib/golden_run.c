/* golden_run.c - see golden_run.h. */
#include "tests/lib/golden_run.h"

#include <criterion/criterion.h>

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
