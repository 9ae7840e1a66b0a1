/* test_failures.c - every call of the runtime fails once: opening unwinds, a launch reports, and
 * a lost device stays lost. On the shim only; a real device cannot be made to fail. */
#include "tests/cuda/selftest/driver.h"

#include <stdlib.h>
#include <string.h>

#ifdef FATHOM_CUDA_SHIM

static model_folder *open_model(void) {
    err e = {0};
    model_folder *model;
    check(model_open(&model, "tests/golden/cases/mla", &e) == 0, "model: %s", e.msg);
    return model;
}

static const eng_backend_opts small = {.max_loops = 2,
                                       .n_rows = 8,
                                       .max_launch = 4,
                                       .max_logits = 2,
                                       .cache_bytes = 1 << 20,
                                       .max_positions = 64};

/* The number of runtime calls in one open is the first n with which it succeeds. */
static void open_survives_every_failure(const model_folder *model) {
    for (long n = 0;; n++) {
        err e = {0};
        eng_backend *eng = NULL;
        shim_fail_at(n, 0);
        int rc = eng__cuda_open_device(&eng, model, &small, 0, &e);
        shim_fail_at(-1, 0);
        if (rc == 0) {
            eng_backend_close(eng);
            check(n > 100, "open makes only %ld runtime calls", n);
            return;
        }
        check(eng == NULL && e.code != ERR_NONE && e.msg[0],
              "open failed at call %ld without a reason", n);
    }
}

static int one_row(eng_backend *eng, uint32_t block, err *e) {
    static const uint32_t zero[1] = {0};
    eng_edit edits[] = {{.block = block, .slot = 5, .plane = 0, .n_planes = 4, .off = 0}};
    eng_row row = {.row = 1, .token = 3, .blocks = zero};
    eng_launch launch = {ENG_STAGE_PRELUDE, &row, 1, edits, 1};
    eng_result result;
    return eng_run(eng, &launch, &result, e);
}

static int wait_one(eng_backend *eng, err *e) {
    eng_result result;
    return eng->ops->wait(eng, &result, e);
}

/* A lost device stays lost; an error of one call refuses the launch, and the launch can be
 * repeated. */
static void a_device_error_is_final(const model_folder *model) {
    uint32_t lost = 0, refused = 0;
    for (long n = 0;; n++) {
        err e = {0};
        eng_backend *eng = NULL;
        if (!check(eng__cuda_open_device(&eng, model, &small, 0, &e) == 0, "open: %s", e.msg))
            return;
        shim_fail_at(n, 0);
        int rc = one_row(eng, 0, &e);
        shim_fail_at(-1, 0);
        err again = {0};
        if (rc != 0 && e.code == ERR_DEVICE) {
            lost++;
            check(one_row(eng, 0, &again) != 0 && again.code == ERR_DEVICE,
                  "a lost device came back");
        } else if (rc != 0) {
            refused++;
            check(e.code == ERR_INTERNAL, "call %ld: %s", n, e.msg);
            check(((cu_backend *)eng)->n_flying ? wait_one(eng, &again) == 0
                                                : one_row(eng, 0, &again) == 0,
                  "call %ld: %s, then %s", n, e.msg, again.msg);
        }
        eng_backend_close(eng);
        if (rc == 0) {
            check(n >= 5, "a launch makes only %ld runtime calls", n);
            check(lost >= 4 && refused >= 2, "%u calls lose the device, %u refuse", lost, refused);
            return;
        }
    }
}

/* ---- with a launch in flight ---- */

static const uint32_t block_0[1] = {0}, block_1[1] = {1};

/* Position 0 of a sequence in block 0 or 1, through the prelude: its token and slot by `which`. */
static int start_one(eng_backend *eng, uint32_t which, err *e) {
    eng_edit edit = {.block = which, .slot = 5 + which, .n_planes = 4};
    eng_row row = {.row = which, .token = 3 + which, .blocks = which ? block_1 : block_0};
    eng_launch launch = {ENG_STAGE_PRELUDE, &row, 1, &edit, 1};
    return eng->ops->launch(eng, &launch, e);
}

static void a_device_error_ends_both_flights(const model_folder *model) {
    for (long n = 0;; n++) {
        err e = {0}, later = {0};
        eng_backend *eng = NULL;
        if (!check(eng__cuda_open_device(&eng, model, &small, 0, &e) == 0, "open: %s", e.msg))
            return;
        check(start_one(eng, 0, &e) == 0, "the first launch: %s", e.msg);
        shim_fail_at(n, 0);
        bool ok = start_one(eng, 1, &e) == 0;
        ok = ok && wait_one(eng, &e) == 0;
        ok = ok && wait_one(eng, &e) == 0;
        shim_fail_at(-1, 0);
        if (!ok && e.code != ERR_DEVICE) {
            uint32_t left = ((cu_backend *)eng)->n_flying;
            while (left-- > 0)
                check(wait_one(eng, &later) == 0, "call %ld: %s, then %s", n, e.msg, later.msg);
            check(start_one(eng, 1, &later) == 0 && wait_one(eng, &later) == 0,
                  "call %ld: %s, then %s", n, e.msg, later.msg);
        } else if (!ok) {
            check(wait_one(eng, &later) != 0 && later.code == ERR_DEVICE, "a lost device answers");
            later = (err){0};
            check(start_one(eng, 0, &later) != 0 && later.code == ERR_DEVICE,
                  "a lost device works");
        }
        eng_backend_close(eng); /* whatever is in flight */
        if (ok) {
            check(n >= 8, "a launch and two waits make only %ld runtime calls", n);
            return;
        }
    }
}

static void read_slot(eng_backend *base, uint32_t slot, float *out) {
    cu_cache *cache = &((cu_backend *)base)->cache;
    must(cudaMemcpy(out, (float *)cache->slots + (size_t)slot * cache->slot_values,
                    cache->slot_values * 4, cudaMemcpyDeviceToHost),
         "copying");
}

/* Refused launches, one too many, and one with a bad map leave the others in flight as they are:
 * each wait is for the oldest. */
static void refusals_leave_the_queue_consistent(const model_folder *model) {
    err e = {0}, why = {0};
    eng_backend *eng = NULL;
    eng_backend_opts opts = small;
    opts.kernels = "f32";
    static float alone[2][512], together[2][512];
    for (int round = 0; round < 2; round++) {
        if (!check(eng__cuda_open_device(&eng, model, &opts, 0, &e) == 0, "open: %s", e.msg))
            return;
        check(eng->info.max_flights == 2, "%u flights", eng->info.max_flights);
        eng_row bad = {.row = 99, .blocks = block_0},
                unmapped = {.row = 3, .pos = 9, .blocks = block_0};
        eng_launch refused = {ENG_STAGE_PRELUDE, &bad, 1, NULL, 0};
        eng_launch wrong = {ENG_STAGE_PRELUDE, &unmapped, 1, NULL, 0};
        if (round == 0) {
            check(start_one(eng, 0, &e) == 0 && wait_one(eng, &e) == 0 &&
                      start_one(eng, 1, &e) == 0 && wait_one(eng, &e) == 0,
                  "one at a time: %s", e.msg);
        } else {
            check(eng->ops->launch(eng, &wrong, &e) == 0 && start_one(eng, 0, &e) == 0, "%s",
                  e.msg);
            check(start_one(eng, 1, &why) != 0 && why.code == ERR_INTERNAL, "three are in flight");
            why = (err){0};
            check(wait_one(eng, &why) != 0 && why.code == ERR_INTERNAL, "a bad map was taken");
            why = (err){0};
            check(eng->ops->launch(eng, &refused, &why) != 0 && why.code == ERR_INTERNAL,
                  "a bad row was taken");
            check(start_one(eng, 1, &e) == 0 && wait_one(eng, &e) == 0 && wait_one(eng, &e) == 0,
                  "after refusals: %s", e.msg);
            why = (err){0};
            check(wait_one(eng, &why) != 0 && why.code == ERR_INTERNAL, "waited for nothing");
        }
        for (uint32_t i = 0; i < 2; i++)
            read_slot(eng, 5 + i, (round ? together : alone)[i]);
        if (round) check(start_one(eng, 0, &e) == 0 && start_one(eng, 1, &e) == 0, "%s", e.msg);
        eng_backend_close(eng); /* with both in flight */
    }
    check(memcmp(alone, together, sizeof alone) == 0, "two in flight write something else");
}

static void a_wait_is_for_no_more_than_asked(const model_folder *model) {
    err e = {0};
    eng_backend *eng = NULL;
    if (!check(eng__cuda_open_device(&eng, model, &small, 0, &e) == 0, "open: %s", e.msg)) return;
    uint64_t before = shim_launched();
    check(start_one(eng, 0, &e) == 0 && start_one(eng, 1, &e) == 0, "%s", e.msg);
    check(shim_launched() == before, "launch waits for the device");
    check(wait_one(eng, &e) == 0, "%s", e.msg);
    uint64_t first = shim_launched() - before;
    check(wait_one(eng, &e) == 0, "%s", e.msg);
    check(first > 0 && shim_launched() - before == 2 * first,
          "the first wait ran %llu kernels of %llu", (unsigned long long)first,
          (unsigned long long)(shim_launched() - before));
    eng_backend_close(eng);
}

/* More edits than a descriptor holds go ahead in pieces, in order, past a launch in flight. */
static void more_edits_than_a_descriptor_holds(const model_folder *model) {
    enum { N = 2 * CU_EDITS + 77 };
    err e = {0};
    eng_backend *eng = NULL;
    static eng_edit edits[N];
    static uint32_t map[ENG_BLOCK * 64];
    if (!check(eng__cuda_open_device(&eng, model, &small, 0, &e) == 0, "open: %s", e.msg)) return;
    const cu_cache *cache = &((cu_backend *)eng)->cache;
    for (uint32_t i = 0; i < N; i++)
        edits[i] = (eng_edit){.block = 2,
                              .slot = i % cache->n_slots,
                              .n_planes = (uint16_t)cache->n_planes,
                              .off = i % 31};
    eng_launch launch = {ENG_STAGE_PRELUDE, NULL, 0, edits, N};
    check(start_one(eng, 0, &e) == 0 && eng->ops->launch(eng, &launch, &e) == 0 &&
              wait_one(eng, &e) == 0 && wait_one(eng, &e) == 0,
          "%u edits: %s", N, e.msg);
    size_t words = (size_t)cache->n_planes * ENG_BLOCK, wrong = 0;
    must(cudaMemcpy(map, cache->maps + 2 * words, words * 4, cudaMemcpyDeviceToHost), "copying");
    for (uint32_t i = N - 31; i < N; i++) {
        for (uint32_t plane = 0; plane < cache->n_planes; plane++)
            wrong += map[plane * ENG_BLOCK + i % 31] != i % cache->n_slots;
    }
    check(wrong == 0, "%zu of the last edits are not there", wrong);
    eng_backend_close(eng);
}

static void refusals_leave_it_usable(const model_folder *model) {
    err e = {0};
    eng_backend *eng = NULL;
    if (!check(eng__cuda_open_device(&eng, model, &small, 0, &e) == 0, "open: %s", e.msg)) return;
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
        {"a guard that is not there",
         {.row = 1, .flags = ENG_ROW_GUARDED, .guard = 8, .blocks = zero},
         {0},
         1,
         0,
         ENG_STAGE_RECURRENT},
        {"an edit guarded by no row",
         {.blocks = zero},
         {.n_planes = 1, .guarded = true, .guard = 8},
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
        eng_result result;
        for (int k = 0; k < 5; k++)
            rows[k] = bad[i].row;
        eng_launch launch = {bad[i].stage, rows, bad[i].n_rows, &bad[i].edit, bad[i].n_edits};
        check(eng_run(eng, &launch, &result, &why) != 0 && why.code == ERR_INTERNAL, "%s was taken",
              bad[i].what);
    }
    err why = {0};
    eng_row unmapped = {.pos = 40, .blocks = zero};
    eng_launch launch = {ENG_STAGE_PRELUDE, &unmapped, 1, NULL, 0};
    eng_result result;
    check(eng_run(eng, &launch, &result, &why) != 0 && why.code == ERR_INTERNAL,
          "a map without slots was taken");
    check(one_row(eng, 0, &e) == 0, "after refusals: %s", e.msg);
    eng_backend_close(eng);
}

static void bad_options_say_why(const model_folder *model) {
    static const struct {
        eng_backend_opts opts;
        const char *param;
    } bad[] = {
        {{.max_loops = PLAN_MAX_LOOPS + 1}, "max_loops"},
        {{.kernels = "avx512"}, "kernels"},
        {{.cache_dtype = DTYPE_F16}, "cache_dtype"},
        {{.weights = ENG_WEIGHTS_KINDS}, "weights"},
        {{.weights = ENG_WEIGHTS_INT8}, "weights"},
        {{.cache_bytes = 100, .n_rows = 4, .max_positions = 64}, "kv-memory"},
        {{.n_rows = UINT32_MAX}, "n_rows"},
        {{.n_rows = (1u << 24) + 1}, "n_rows"},
        {{.max_positions = (1u << 24) + 1}, "max_positions"},
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        err e = {0};
        eng_backend *eng = NULL;
        check(eng__cuda_open_device(&eng, model, &bad[i].opts, 0, &e) != 0 && eng == NULL &&
                  e.code == ERR_USAGE && strcmp(e.param, bad[i].param) == 0,
              "options %zu: %s %s", i, err_name(e.code), e.msg);
    }
}

void test_failures(void) {
    model_folder *model = open_model();
    if (model == NULL) return;
    open_survives_every_failure(model);
    (void)setenv("FATHOM_CUDA_RANKS", "nccl-self", 1);
    (void)setenv("FATHOM_CUDA_RANKS_SPLIT", "sums-dealt", 1);
    open_survives_every_failure(model);
    (void)unsetenv("FATHOM_CUDA_RANKS_SPLIT");
    (void)unsetenv("FATHOM_CUDA_RANKS");
    a_device_error_is_final(model);
    refusals_leave_it_usable(model);
    a_device_error_ends_both_flights(model);
    refusals_leave_the_queue_consistent(model);
    a_wait_is_for_no_more_than_asked(model);
    more_edits_than_a_descriptor_holds(model);
    bad_options_say_why(model);
    model_close(model);
}

#else
void test_failures(void) {}
#endif
