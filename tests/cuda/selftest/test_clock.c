/* test_clock.c - the stage clock over golden cases: every kernel run is stamped once, in order, and
 * nothing else changes. On the shim the device's clock rises by one at every reading. */
#include "tests/cuda/selftest/cases.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char path[] = "/tmp/fathom-clock-XXXXXX";

static uint64_t kernels_run(void) {
#ifdef FATHOM_CUDA_SHIM
    return shim_launched();
#else
    return 0;
#endif
}

static double number(const json_t *in, const char *key) {
    return json_number_value(json_object_get(in, key));
}
static const char *text(const json_t *in, const char *key) {
    const char *text = json_string_value(json_object_get(in, key));
    return text ? text : "";
}

/* A kernel ends after it began and begins after the one before has ended: on the shim the clock
 * was looked at twice by each of its thread blocks, so the least is one tick. */
static void check_kernel(const json_t *stage, size_t i, const char *what) {
    const json_t *list = json_object_get(stage, "kernels"), *kernel = json_array_get(list, i);
    const char *name = text(kernel, "kernel");
    bool stamped = json_is_true(json_object_get(kernel, "stamped"));
    check(number(kernel, "count") == number(kernel, "sites") * number(stage, "launches"),
          "%s %s: %s was seen %g times in %g launches", what, text(stage, "stage"), name,
          number(kernel, "count"), number(stage, "launches"));
    check(number(kernel, "median_ns") >= (on_shim ? 1 : 0) && number(kernel, "median_ns") < 1e9,
          "%s %s: %s takes %g ns", what, text(stage, "stage"), name, number(kernel, "median_ns"));
    if (on_shim && i && stamped && number(kernel, "gap_median_ns") < 1) {
        const json_t *before = json_array_get(list, i - 1);
        check(json_is_false(json_object_get(before, "stamped")), "%s %s: %s begins too early", what,
              text(stage, "stage"), name);
    }
    for (size_t j = 0; j < i; j++) {
        const char *other = text(json_array_get(list, j), "kernel");
        check(strcmp(other, name) != 0, "%s: %s is listed twice", what, name);
    }
}

/* Kernels in the file. */
static uint64_t check_file(const char *what) {
    json_error_t why;
    json_t *root = json_load_file(path, 0, &why);
    uint64_t kernels = 0;
    if (!check(root != NULL, "%s: %s: %s", what, path, why.text)) return 0;
    const json_t *stages = json_object_get(root, "stages");
    check(json_array_size(stages) >= 3, "%s: %zu stages", what, json_array_size(stages));
    for (size_t here = 0; here < json_array_size(stages); here++) {
        const json_t *stage = json_array_get(stages, here),
                     *list = json_object_get(stage, "kernels");
        double sites = 0, share = 0;
        for (size_t i = 0; i < json_array_size(list); i++) {
            const json_t *kernel = json_array_get(list, i);
            check_kernel(stage, i, what);
            if (json_is_true(json_object_get(kernel, "stamped"))) sites += number(kernel, "sites");
            share += number(kernel, "percent_of_stage");
        }
        kernels += (uint64_t)(sites * number(stage, "launches"));
        share += number(stage, "percent_in_gaps");
        const char *first = text(json_array_get(list, 0), "kernel");
        if (strcmp(text(stage, "stage"), "head") == 0) continue;
        check(strcmp(first, "begin") == 0, "%s: a stage starts with %s", what, first);
        check(!on_shim || (share > 99.5 && share < 100.5), "%s %s: kernels and gaps make %g %%",
              what, text(stage, "stage"), share);
    }
    json_decref(root);
    return kernels;
}

/* A golden case with the clock on: the published answers, and a file with every kernel run. */
static void clocked(const char *name, const precision *prec, uint32_t max_rows, uint32_t flights) {
    golden_case golden = golden_open(name);
    err e = {0};
    model_folder *model;
    if (!check(model_open(&model, golden.dir, &e) == 0, "%s: %s", golden.dir, e.msg)) return;
    drive_spec spec = golden_spec(&golden, model_plan_of(model), KV_EXACT, max_rows, 3);
    spec.flights = flights;
    eng_backend_opts opts = drive_opts(&spec, prec->kernels, prec->cache);
    eng_backend *eng = open_backend(model, &opts);
    drive_result result = {0};
    uint64_t before = kernels_run();
    if (eng && drive(eng, &spec, &result)) compare_golden(&golden, &spec, &result, prec);
    uint64_t ran = kernels_run() - before;
    eng_backend_close(eng);
    uint64_t listed = check_file(prec->kernels);
    if (on_shim && result.empty == 0) {
        check(listed == ran, "%s %s: %llu of %llu kernels are stamped", name, prec->kernels,
              (unsigned long long)listed, (unsigned long long)ran);
    }
    drive_result_deinit(&result);
    model_close(model);
    golden_close(&golden);
}

static void a_file_that_cannot_be_written_is_refused(void) {
    golden_case golden = golden_open("mla");
    err e = {0};
    model_folder *model;
    eng_backend *eng;
    if (!check(model_open(&model, golden.dir, &e) == 0, "%s: %s", golden.dir, e.msg)) return;
    drive_spec spec = golden_spec(&golden, model_plan_of(model), KV_EXACT, 8, 3);
    eng_backend_opts opts = drive_opts(&spec, "f32", DTYPE_F32);
    (void)setenv("FATHOM_CUDA_CLOCK", "/no/such/folder/clock.json", 1);
    bool refused = eng__cuda_open_device(&eng, model, &opts, 0, &e) != 0;
    check(refused && strstr(e.msg, "FATHOM_CUDA_CLOCK") && strstr(e.msg, "/no/such/folder"),
          "a file that cannot be written: %s", refused ? e.msg : "not refused");
    if (!refused) eng_backend_close(eng);
    model_close(model);
    golden_close(&golden);
}

void test_clock(void) {
    static const precision plain = {"f32-stream", DTYPE_F32, 1e-3f, true},
                           half = {"bf16", DTYPE_BF16, 0.05f, false};
    int file = mkstemp(path);
    if (!check(file >= 0, "no temporary file")) return;
    (void)setenv("FATHOM_CUDA_CLOCK", path, 1);
    clocked("mla", &plain, 24, 1);
    clocked("mla", &parity, 24, 1);
    clocked("mla", &parity, 24, 2);
    clocked("gqa", &half, 96, 1); /* products by cuBLAS: no stamps */
    a_file_that_cannot_be_written_is_refused();
    (void)unsetenv("FATHOM_CUDA_CLOCK");
    (void)close(file);
    (void)unlink(path);
}
