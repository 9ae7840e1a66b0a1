/* Parts of a plan on the CPU, beyond the published models: each part alone, rows stopped early
 * under every place of the norms, the limits of the rotation's scaling, and matrices of any width
 * in each kind of weights. */
#include "engine/cpu/cpu_internal.h"
#include "tests/lib/reference.h"
#include "tests/lib/testlib.h"
#include "tests/lib/weights.h"
#include "tests/unit/row_driver.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

TestSuite(cpu_parts, .fini = fail_on_leaks);

enum { POS = 40, LOOPS = 5 };

/* A small plan of several layers in every stage; its positions halt at different depths. */
static model_plan small_plan(norm_place norms) {
    model_plan plan;
    cr_assert_eq(plan_variant(&plan, "plan_tiny", NULL), 0);
    plan.norms = norms;
    plan.n_prelude = plan.n_core = plan.n_coda = 2;
    plan.loops_default = LOOPS;
    plan_derive(&plan);
    return plan;
}

static void write_model(const tmp_dir *dir, const model_plan *plan, model_dtype dtype) {
    model_init_opts io = {.seed = 7, .dtype = dtype, .mean_depth = 2.5f};
    err e = {0};
    cr_assert_eq(model_init_write(dir->path, plan, &io, &e), 0, "%s", e.msg);
}

static void open_small(driver *drv, const tmp_dir *dir, const eng_backend_opts *opts) {
    driver_open(drv, dir->path, LOOPS, KV_EXACT, opts);
    driver_start(drv, 1, POS);
    for (uint32_t pos = 0; pos < POS; pos++)
        drv->seq[0].ids[pos] = (pos * 37 + pos * pos) % drv->plan->vocab_size;
}

/* Logits of all positions; the caller frees. */
static float *logits_of(const tmp_dir *dir, uint32_t chunk, const eng_backend_opts *opts) {
    static driver drv;
    open_small(&drv, dir, opts);
    driver_run(&drv, chunk);
    float *out = drv.seq[0].logits;
    drv.seq[0].logits = NULL;
    driver_close(&drv);
    return out;
}

/* ---- each part alone against the plain model ---- */

static void set_bias(model_plan *plan) {
    plan->qk_bias = true;
    plan->rope_halves = true;
}
static void set_full_norm(model_plan *plan) {
    plan->qk_norm = QK_NORM_FULL;
    plan->qk_norm_eps = 1e-2f;
    plan->rope_halves = true;
}
static void set_head_norm(model_plan *plan) {
    plan->qk_norm = QK_NORM_HEAD_UNIT;
    plan->qk_norm_eps = 1e-2f;
}
static void set_after(model_plan *plan) {
    plan->norms = NORM_AFTER;
}
static void set_post(model_plan *plan) {
    plan->norms = NORM_POST;
}
static void set_relu2(model_plan *plan) {
    plan->core_ffn = FFN_HALF_RELU2;
}
/* Tables in every stage, with grouped heads; the gate reads a stream without a norm. */
static void set_values(model_plan *plan) {
    plan->norms = NORM_POST;
    plan->value_embeds[0] = 0x2b; /* layers 0, 1, 3 and 5 of 6 */
}
static void set_input_norm(model_plan *plan) {
    plan->input_norm = true;
}
static void set_linear(model_plan *plan) {
    plan->inject = INJECT_LINEAR;
    plan->input_norm = true;
    plan->state0 = STATE_SEEDED;
    plan->state0_std = 0.5f;
}
static void set_diagonal(model_plan *plan) {
    plan->inject = INJECT_DIAGONAL;
    plan->state0 = STATE_ZERO;
}
static void set_coda_norm(model_plan *plan) {
    plan->coda_in = CODA_IN_NORM;
}
static void set_coda_linear(model_plan *plan) {
    plan->coda_in = CODA_IN_LINEAR;
    plan->n_coda = 0;
}
static void set_scaling(model_plan *plan) {
    plan->scaling = (rope_scaling){.factor = 8, .low = 1, .high = 4, .original = 32};
}

static void check_part(void (*set)(model_plan *), size_t row) {
    static driver drv;
    model_plan plan = small_plan(NORM_PRE);
    tmp_dir dir = tmp_dir_create();
    set(&plan);
    write_model(&dir, &plan, DTYPE_F32);
    open_small(&drv, &dir, NULL);
    driver_run(&drv, 13);
    reference *ref = ref_open(drv.model);
    ref_opts how = {.policy = KV_EXACT, .max_loops = LOOPS};
    ref_result want = ref_run(ref, drv.seq[0].ids, POS, &how);
    double off = ref_relative_error(drv.seq[0].logits, want.logits, (size_t)POS * plan.vocab_size);
    cr_assert_gt(want.margin, 1e-5f, "row %zu: no fair comparison of depths", row);
    for (uint32_t pos = 0; pos < POS; pos++)
        cr_assert_eq(drv.seq[0].depth[pos], want.depth[pos], "row %zu: depth at %u", row, pos);
    cr_assert_leq(off, 2e-5, "row %zu: logits off by %g", row, off);
    ref_result_deinit(&want);
    ref_close(ref);
    driver_close(&drv);
    tmp_dir_remove(&dir);
}

Test(cpu_parts, each_part_alone_equals_the_plain_model) {
    static void (*const parts[])(model_plan *) = {
        set_bias,      set_full_norm,   set_head_norm,  set_after,  set_post,
        set_relu2,     set_values,      set_input_norm, set_linear, set_diagonal,
        set_coda_norm, set_coda_linear, set_scaling};
    for (size_t i = 0; i < ARRAY_LEN(parts); i++)
        check_part(parts[i], i);
}

/* ---- rows stopped early ---- */

static const norm_place every_place[] = {NORM_PRE, NORM_SANDWICH, NORM_AFTER, NORM_POST};

Test(cpu_parts, a_row_for_keys_and_values_only_writes_the_bits_of_a_full_row) {
    static driver drv;
    for (size_t i = 0; i < ARRAY_LEN(every_place); i++) {
        model_plan plan = small_plan(every_place[i]);
        size_t n = (size_t)POS * plan.vocab_size;
        tmp_dir dir = tmp_dir_create();
        write_model(&dir, &plan, DTYPE_F32);
        float *want = logits_of(&dir, 8, NULL);
        open_small(&drv, &dir, NULL);
        drv.full_tails = true;
        driver_run(&drv, 8);
        uint32_t halted = 0;
        for (uint32_t pos = 0; pos < POS; pos++)
            halted += drv.seq[0].depth[pos] < LOOPS;
        cr_assert_gt(halted, 0, "norms %zu: nothing halts early", i);
        cr_assert_eq(memcmp(want, drv.seq[0].logits, n * sizeof *want), 0, "norms %zu", i);
        driver_close(&drv);
        free(want);
        tmp_dir_remove(&dir);
    }
}

/* Runs the coda with logits of every other position; returns their number. */
static uint32_t half_the_coda(driver *drv, const float *want) {
    size_t vocab = drv->plan->vocab_size;
    err e = {0};
    eng_result result;
    driver_add_coda(drv, 0, 0, POS);
    for (uint32_t i = 0; i < drv->n_rows; i += 2)
        drv->rows[i].flags = 0;
    eng_launch launch = {ENG_STAGE_CODA, drv->rows, drv->n_rows, drv->edits, drv->n_edits};
    cr_assert_eq(eng_run(drv->backend, &launch, &result, &e), 0, "%s", e.msg);
    for (uint32_t i = 0; i < result.n_logits; i++) {
        cr_assert_eq(
            memcmp(result.logits + i * vocab, want + (2 * i + 1) * vocab, vocab * sizeof *want), 0,
            "position %u", 2 * i + 1);
    }
    return result.n_logits;
}

Test(cpu_parts, rows_without_logits_do_not_change_the_logits_of_others) {
    static driver drv;
    for (size_t i = 0; i < 2 * ARRAY_LEN(every_place); i++) {
        model_plan plan = small_plan(every_place[i / 2]);
        if (i % 2) plan.n_coda = 0;
        plan.coda_in = i / 2 % 2 ? CODA_IN_NORM : CODA_IN_LINEAR;
        tmp_dir dir = tmp_dir_create();
        write_model(&dir, &plan, DTYPE_F32);
        float *want = logits_of(&dir, POS, NULL);
        open_small(&drv, &dir, NULL);
        driver_add_prelude(&drv, 0, 0, POS);
        driver_launch(&drv, ENG_STAGE_PRELUDE);
        for (uint32_t loop = 0; loop < LOOPS; loop++) {
            driver_add_loop(&drv, 0, loop, 0, POS);
            driver_launch(&drv, ENG_STAGE_RECURRENT);
        }
        cr_assert_eq(half_the_coda(&drv, want), POS / 2);
        driver_close(&drv);
        free(want);
        tmp_dir_remove(&dir);
    }
}

/* ---- rotation ---- */

/* Llama 3's rule in terms of wavelengths, as its authors write it. */
static double llama3_frequency(double frequency, const rope_scaling *scaling) {
    double wavelength = 2 * 3.14159265358979323846 / frequency;
    double original = scaling->original, low = (double)scaling->low, high = (double)scaling->high,
           factor = (double)scaling->factor;
    if (wavelength < original / high) return frequency;
    if (wavelength > original / low) return frequency / factor;
    double smooth = (original / wavelength - low) / (high - low);
    return (1 - smooth) * frequency / factor + smooth * frequency;
}

Test(cpu_parts, the_rotation_follows_llama_3_on_both_sides_of_its_limits) {
    static driver drv;
    static const uint32_t positions[] = {0, 1, 77, 255, 256, 257, 499};
    model_plan plan = small_plan(NORM_PRE);
    plan.rope_theta = 5e5f;
    plan.scaling = (rope_scaling){.factor = 32, .low = 1, .high = 4, .original = 64};
    tmp_dir dir = tmp_dir_create();
    write_model(&dir, &plan, DTYPE_F32);
    open_small(&drv, &dir, NULL);
    const eng__cpu *cpu = (const eng__cpu *)drv.backend;
    uint32_t kept = 0, slowed = 0, mixed = 0;
    for (uint32_t pair = 0; pair < plan.head_dim / 2; pair++) {
        double raw = pow(5e5, -2.0 * pair / plan.head_dim);
        double frequency = llama3_frequency(raw, &plan.scaling);
        if (frequency == raw) kept++;
        else if (frequency == raw / 32) slowed++;
        else mixed++;
        for (size_t i = 0; i < ARRAY_LEN(positions); i++) {
            float turn[64];
            eng__rope_at(cpu, positions[i], turn);
            cr_assert_float_eq(turn[2 * pair], cos(positions[i] * frequency), 1e-6);
            cr_assert_float_eq(turn[2 * pair + 1], sin(positions[i] * frequency), 1e-6);
        }
    }
    cr_assert(kept > 0 && slowed > 0 && mixed > 0, "%u %u %u", kept, slowed, mixed);
    driver_close(&drv);
    tmp_dir_remove(&dir);
}

/* ---- weights ---- */

/* All matrices of these families alone, of widths not divisible by a group of int8. */
static model_plan odd_widths(inject_kind inject) {
    model_plan plan = small_plan(NORM_AFTER);
    plan.dim = 200;
    plan.n_heads = 4;
    plan.n_kv_heads = 2;
    plan.head_dim = 50;
    plan.ffn_dim = 300;
    plan.core_ffn = plan.end_ffn = FFN_HALF_RELU2;
    plan.inject = inject;
    plan.input_norm = true;
    plan.state0 = STATE_SEEDED;
    plan.state0_std = 0.1f;
    plan.coda_in = CODA_IN_LINEAR;
    plan.qk_bias = true;
    plan.exit = EXIT_FIXED;
    plan.exits = 1u << EXIT_FIXED;
    plan.exit_threshold = 0;
    plan_derive(&plan);
    return plan;
}

Test(cpu_parts, each_kind_of_weights_takes_matrices_of_any_width) {
    static const struct {
        eng_weights kind;
        double least, most;
    } rows[] = {{ENG_WEIGHTS_BF16, 1e-5, 3e-2}, {ENG_WEIGHTS_INT8, 1e-4, 2e-1}};
    for (size_t i = 0; i < 2 * ARRAY_LEN(rows); i++) {
        model_plan plan = odd_widths(i % 2 ? INJECT_DIAGONAL : INJECT_LINEAR);
        size_t n = (size_t)POS * plan.vocab_size;
        tmp_dir dir = tmp_dir_create();
        write_model(&dir, &plan, DTYPE_F32);
        float *exact = logits_of(&dir, POS, NULL);
        eng_backend_opts opts = {.threads = 1, .weights = rows[i / 2].kind};
        float *near = logits_of(&dir, POS, &opts);
        double off = ref_relative_error(near, exact, n);
        cr_assert(off >= rows[i / 2].least && off <= rows[i / 2].most, "row %zu: off by %g", i,
                  off);
        opts.threads = 3;
        float *again = logits_of(&dir, 7, &opts);
        cr_assert_eq(memcmp(near, again, n * sizeof *near), 0, "row %zu: chunks of 7", i);
        free(exact);
        free(near);
        free(again);
        tmp_dir_remove(&dir);
    }
}

/* The packed matrices of a float32 file, rounded, and of a bfloat16 file with the same values. */
Test(cpu_parts, weights_rounded_while_loading_are_those_of_a_bfloat16_file) {
    static driver wide, narrow;
    model_plan plan = odd_widths(INJECT_LINEAR);
    tmp_dir dirs[] = {tmp_dir_create(), tmp_dir_create()};
    write_model(&dirs[0], &plan, DTYPE_F32);
    write_model(&dirs[1], &plan, DTYPE_BF16);
    eng_backend_opts opts = {.threads = 1, .weights = ENG_WEIGHTS_BF16};
    open_small(&wide, &dirs[0], &opts);
    open_small(&narrow, &dirs[1], NULL);
    const eng__image *left = &((eng__cpu *)wide.backend)->image,
                     *right = &((eng__cpu *)narrow.backend)->image;
    cr_assert_eq(left->bytes, right->bytes);
    cr_assert_eq(memcmp(left->data, right->data, left->bytes), 0);
    driver_close(&wide);
    driver_close(&narrow);
    tmp_dir_remove(&dirs[0]);
    tmp_dir_remove(&dirs[1]);
}

/* ---- refusals ---- */

static void set_moe_outside(model_plan *plan) {
    plan->end_ffn = FFN_MOE;
}
static void set_moe_after(model_plan *plan) {
    plan->core_ffn = FFN_MOE;
    plan->norms = NORM_AFTER;
}
static void set_deep_mythos(model_plan *plan) {
    plan->inject = INJECT_MYTHOS;
}
static void set_mla_bias(model_plan *plan) {
    plan->attn = ATTN_MLA;
    plan->qk_bias = true;
}
static void set_mla_norm(model_plan *plan) {
    plan->attn = ATTN_MLA;
    plan->qk_norm = QK_NORM_FULL;
}
static void set_mla_values(model_plan *plan) {
    plan->attn = ATTN_MLA;
    plan->value_embeds[0] = 1;
}
static void set_thin_values(model_plan *plan) {
    plan->dim = PLAN_VALUE_GATE - 2;
    plan->value_embeds[0] = 1;
}

Test(cpu_parts, a_part_that_no_backend_runs_is_refused_by_name) {
    static const struct {
        void (*set)(model_plan *);
        const char *says;
    } rows[] = {
        {set_moe_outside, "a mixture of experts outside the loop"},
        {set_moe_after, "a mixture of experts with norms of outputs"},
        {set_deep_mythos, "a MYTHOS core of several layers"},
        {set_mla_bias, "a bias of queries and keys in MLA"},
        {set_mla_norm, "a norm of queries and keys in MLA"},
        {set_mla_values, "a value embedding in MLA"},
        {set_thin_values, "a value embedding of so few channels"},
    };
    model_plan good = small_plan(NORM_PRE);
    cr_assert_eq(eng__check_plan(&good, NULL), 0);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        model_plan plan = small_plan(NORM_PRE);
        err e = {0};
        rows[i].set(&plan);
        cr_assert_eq(eng__check_plan(&plan, &e), -1, "row %zu", i);
        cr_assert_eq(e.code, ERR_UNSUPPORTED);
        cr_assert(strstr(e.msg, rows[i].says), "row %zu says %s", i, e.msg);
    }
}
