/* The CPU backend beyond the golden cases: the bits of a row depend on this row alone, models of
 * any shape run, and bad input is refused instead of being undefined behaviour. */
#include "engine/cpu/cpu_internal.h"
#include "tests/lib/oom.h"
#include "tests/lib/reference.h"
#include "tests/lib/testlib.h"
#include "tests/unit/row_driver.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

TestSuite(cpu, .fini = fail_on_leaks);

static const char *const mla = "tests/golden/cases/mla", *const gqa = "tests/golden/cases/gqa";

static void fill_ids(driver *drv) {
    for (uint32_t seq_idx = 0; seq_idx < DRIVER_SEQS; seq_idx++) {
        for (uint32_t pos = 0; pos < DRIVER_POS; pos++)
            drv->seq[seq_idx].ids[pos] = (pos * 37 + seq_idx * 11 + pos * pos) % 300;
    }
}

/* Logits of sequence 0; the caller frees. */
static float *logits_of(const char *dir, uint32_t n_seq, uint32_t n_pos, uint32_t chunk,
                        const eng_backend_opts *opts) {
    static driver drv;
    driver_open(&drv, dir, 6, KV_EXACT, opts);
    driver_start(&drv, n_seq, n_pos);
    fill_ids(&drv);
    driver_run(&drv, chunk);
    float *out = drv.seq[0].logits;
    drv.seq[0].logits = NULL;
    driver_close(&drv);
    return out;
}

static void same_bits(const char *dir, const char *what, float *want, float *have, size_t n) {
    cr_assert_eq(memcmp(want, have, n * sizeof *want), 0, "%s: %s changed bits", dir, what);
    free(have);
}

Test(cpu, bits_depend_on_the_row_alone) {
    const char *dirs[] = {mla, gqa};
    for (size_t i = 0; i < ARRAY_LEN(dirs); i++) {
        enum { POS = 90, N = POS * 320 };
        eng_backend_opts opts = {.threads = 1};
        float *base = logits_of(dirs[i], 1, POS, POS, &opts);
        same_bits(dirs[i], "another sequence", base, logits_of(dirs[i], 2, POS, POS, &opts), N);
        same_bits(dirs[i], "chunks of 1", base, logits_of(dirs[i], 1, POS, 1, &opts), N);
        same_bits(dirs[i], "chunks of 13", base, logits_of(dirs[i], 2, POS, 13, &opts), N);
        for (uint32_t threads = 2; threads <= 3; threads++) {
            opts.threads = threads;
            same_bits(dirs[i], "threads", base, logits_of(dirs[i], 2, POS, 29, &opts), N);
        }
        free(base);
    }
}

Test(cpu, rows_at_different_loops_share_a_launch) {
    static driver drv;
    enum { POS = 20, LOOPS = 6, LATE = 2 };
    float *alone = logits_of(mla, 1, POS, POS, NULL);
    driver_open(&drv, mla, LOOPS, KV_EXACT, NULL);
    driver_start(&drv, 2, POS);
    fill_ids(&drv);
    for (uint32_t seq_idx = 0; seq_idx < 2; seq_idx++)
        driver_add_prelude(&drv, seq_idx, 0, POS);
    driver_launch(&drv, ENG_STAGE_PRELUDE);
    for (uint32_t loop = 0; loop < LOOPS + LATE; loop++) {
        if (loop >= LATE) driver_add_loop(&drv, 0, loop - LATE, 0, POS);
        if (loop < LOOPS) driver_add_loop(&drv, 1, loop, 0, POS);
        driver_launch(&drv, ENG_STAGE_RECURRENT);
        if (loop == LOOPS) { /* sequence 1 in the coda while 0 still loops */
            driver_add_coda(&drv, 1, 0, POS);
            driver_launch(&drv, ENG_STAGE_CODA);
        }
    }
    driver_add_coda(&drv, 0, 0, POS);
    driver_launch(&drv, ENG_STAGE_CODA);
    same_bits(mla, "mixing loops", alone, drv.seq[0].logits, POS * 320);
    drv.seq[0].logits = NULL;
    free(alone);
    driver_close(&drv);
}

Test(cpu, int8_bits_depend_on_the_row_alone_and_stay_close) {
    const char *dirs[] = {mla, gqa};
    for (size_t i = 0; i < ARRAY_LEN(dirs); i++) {
        enum { POS = 60, N = POS * 320 };
        eng_backend_opts opts = {.threads = 1, .weights = ENG_WEIGHTS_INT8};
        float *exact = logits_of(dirs[i], 1, POS, POS, NULL);
        float *base = logits_of(dirs[i], 1, POS, POS, &opts);
        double error = 0, size = 0;
        for (size_t k = 0; k < N; k++) {
            error += pow((double)(base[k] - exact[k]), 2);
            size += pow((double)exact[k], 2);
        }
        cr_assert_gt(error, 0, "%s: int8 did nothing", dirs[i]);
        cr_assert_lt(sqrt(error / size), 0.25,
                     /* some positions leave at another depth */ "%s: int8 is off by %g", dirs[i],
                     sqrt(error / size));
        same_bits(dirs[i], "int8 and company", base, logits_of(dirs[i], 2, POS, 17, &opts), N);
        opts.threads = 3;
        same_bits(dirs[i], "int8 and threads", base, logits_of(dirs[i], 2, POS, 60, &opts), N);
        free(base);
        free(exact);
    }
}

static void remove_model(const char *dir) {
    static const char *const files[] = {"model.safetensors", "config.json",
                                        "generation_config.json"};
    char path[300];
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        snprintf(path, sizeof path, "%s/%s", dir, files[i]);
        unlink(path);
    }
    rmdir(dir);
}

/* ---- odd shapes against the plain reference ---- */

/* A model of this shape in a new folder; the caller removes it. */
static void make_model(char dir[], const char *shape, uint32_t max_seq_len, model_dtype dtype) {
    char text[2048];
    model_plan plan;
    err e = {0};
    snprintf(
        text, sizeof text,
        "{\"vocab_size\":301,\"max_seq_len\":%u,\"max_loop_iters\":4,%s,\"act_threshold\":0.99,"
        "\"rope_theta\":10000.0,\"max_output_tokens\":64}",
        max_seq_len, shape);
    cr_assert_eq(plan_parse(&plan, text, strlen(text), "shape", &e), 0, "%s: %s", shape, e.msg);
    cr_assert_not_null(mkdtemp(dir));
    model_init_opts io = {.seed = 5, .dtype = dtype, .mean_depth = 2.5f};
    cr_assert_eq(model_init_write(dir, &plan, &io, &e), 0, "%s", e.msg);
}

static void check_shape(const char *shape, model_dtype dtype, uint32_t min_loops, double limit) {
    static driver drv;
    char dir[] = "/tmp/fathom_cpu_XXXXXX";
    make_model(dir, shape, 160, dtype);
    eng_backend_opts opts = {.threads = 2};
    driver_open(&drv, dir, 5, KV_EXACT, &opts);
    drv.min_loops = min_loops;
    driver_start(&drv, 1, 150);
    fill_ids(&drv);
    driver_run(&drv, 64);
    reference *ref = ref_open(drv.model);
    ref_opts ro = {.policy = KV_EXACT, .max_loops = 5, .min_loops = min_loops};
    ref_result want = ref_run(ref, drv.seq[0].ids, 150, &ro);
    double worst = ref_relative_error(drv.seq[0].logits, want.logits, 150u * drv.plan->vocab_size);
    cr_assert_gt(want.margin, 1e-4f, "%s: no fair comparison of depths", shape);
    for (uint32_t pos = 0; pos < 150; pos++) {
        cr_assert_eq(drv.seq[0].depth[pos], want.depth[pos], "%s: depth at %u", shape, pos);
    }
    cr_assert(worst <= limit, "%s: logit error %g", shape, worst);
    ref_result_deinit(&want);
    ref_close(ref);
    driver_close(&drv);
    remove_model(dir);
}

#define MLA(dim, heads, rank, q, rope, nope, v)                                                    \
    "\"attn_type\":\"mla\",\"dim\":" #dim ",\"n_heads\":" #heads                                   \
    ",\"n_kv_heads\":1,\"kv_lora_rank\":" #rank ",\"q_lora_rank\":" #q                             \
    ",\"qk_rope_head_dim\":" #rope ",\"qk_nope_head_dim\":" #nope ",\"v_head_dim\":" #v
#define GQA(dim, heads, kv)                                                                        \
    "\"attn_type\":\"gqa\",\"dim\":" #dim ",\"n_heads\":" #heads ",\"n_kv_heads\":" #kv            \
    ",\"kv_lora_rank\":8,\"q_lora_rank\":8,\"qk_rope_head_dim\":8,\"qk_nope_head_dim\":8,\"v_"     \
    "head_dim\":8"
#define REST(pre, coda, experts, shared, top, width, lora)                                         \
    ",\"prelude_layers\":" #pre ",\"coda_layers\":" #coda ",\"n_experts\":" #experts               \
    ",\"n_shared_experts\":" #shared ",\"n_experts_per_tok\":" #top ",\"expert_dim\":" #width      \
    ",\"lora_rank\":" #lora

Test(cpu, any_shape_equals_the_reference) {
    static const struct {
        const char *change;
        model_dtype dtype;
        uint32_t min_loops;
    } rows[] = {
        {MLA(48, 3, 20, 28, 6, 10, 14) REST(1, 1, 5, 2, 3, 20, 3), DTYPE_F32, 0},
        {MLA(80, 5, 33, 17, 2, 7, 9) REST(0, 2, 3, 1, 1, 7, 1), DTYPE_F32, 3},
        {MLA(144, 9, 70, 40, 4, 12, 40) REST(2, 1, 17, 3, 5, 33, 5), DTYPE_BF16, 0},
        {GQA(96, 6, 3) REST(1, 1, 4, 1, 4, 18, 4), DTYPE_F16, 2},
        {GQA(112, 2, 2) REST(1, 1, 2, 1, 2, 40, 4), DTYPE_BF16, 0},
        {GQA(288, 18, 9) REST(1, 1, 2, 1, 2, 24, 4), DTYPE_F32, 0},
        /* widths not divisible by 16: an odd number of loop channels, one, zero */
        {MLA(72, 3, 20, 28, 6, 10, 14) REST(1, 1, 5, 2, 3, 20, 3), DTYPE_F32, 0},
        {MLA(89, 5, 33, 17, 2, 7, 9) REST(1, 1, 3, 1, 1, 7, 1), DTYPE_BF16, 3},
        {GQA(100, 5, 5) REST(1, 1, 4, 1, 4, 18, 4), DTYPE_F32, 2},
        {GQA(130, 13, 13) REST(1, 1, 4, 1, 2, 18, 4), DTYPE_F16, 2},
        {MLA(12, 2, 8, 12, 4, 6, 8) REST(1, 1, 2, 1, 1, 16, 1), DTYPE_F32, 2},
        {MLA(7, 2, 8, 12, 4, 6, 8) REST(1, 1, 2, 1, 1, 16, 1), DTYPE_F32, 2},
        {GQA(6, 3, 1) REST(1, 1, 2, 1, 1, 16, 1), DTYPE_BF16, 2},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        check_shape(rows[i].change, rows[i].dtype, rows[i].min_loops, 5e-5);
    }
}

/* Spans of a long context on one thread or several, in chunks of any size. */
Test(cpu, long_contexts_split_over_threads_keep_their_bits) {
    enum { POS = 2150, LOOPS = 2 };
    static const struct {
        const char *shape;
    } rows[] = {{MLA(16, 2, 8, 12, 4, 6, 8) REST(0, 1, 2, 1, 1, 16, 1)},
                {GQA(16, 4, 2) REST(1, 1, 2, 1, 1, 16, 1)},
                {GQA(48, 3, 3) REST(1, 1, 2, 1, 1, 16, 1)}};
    static const uint32_t ways[][2] = {{1, 40}, {3, 20}, {2, 1000}, {2, 3}}; /* threads, chunk */
    static driver drv;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char dir[] = "/tmp/fathom_long_XXXXXX";
        make_model(dir, rows[i].shape, POS, DTYPE_F32);
        float *base = NULL;
        /* the last way is for GQA without shared heads: blocks of several groups */
        for (size_t way = 0; way < ARRAY_LEN(ways) - (i < 2); way++) {
            eng_backend_opts opts = {.threads = ways[way][0]};
            driver_open(&drv, dir, LOOPS, KV_EXACT, &opts);
            driver_start(&drv, 1, POS);
            fill_ids(&drv);
            driver_run(&drv, ways[way][1]);
            size_t n = (size_t)POS * drv.plan->vocab_size;
            if (base == NULL) {
                base = drv.seq[0].logits;
                reference *ref = ref_open(drv.model);
                ref_result want =
                    ref_run(ref, drv.seq[0].ids, POS, &(ref_opts){.max_loops = LOOPS});
                double worst = ref_relative_error(base, want.logits, n);
                cr_assert(worst < 5e-5, "%s: logit error %g", rows[i].shape, worst);
                ref_result_deinit(&want);
                ref_close(ref);
            } else {
                same_bits(rows[i].shape, "a way to split", base, drv.seq[0].logits, n);
            }
            drv.seq[0].logits = NULL;
            driver_close(&drv);
        }
        free(base);
        remove_model(dir);
    }
}

/* ---- refusals ---- */

/* One compute thread, because the wrapped allocator counts per thread. */
Test(cpu, open_survives_every_failed_allocation) {
    model_folder *model;
    err e = {0};
    cr_assert_eq(model_open(&model, gqa, &e), 0, "%s", e.msg);
    for (int for_ever = 0; for_ever < 2; for_ever++) {
        for (long n = 0;; n++) {
            eng_backend_opts opts = {.threads = 1,
                                     .n_rows = 8,
                                     .cache_bytes = 1 << 20,
                                     .kernels = "portable",
                                     .weights = ENG_WEIGHTS_INT8};
            eng_backend *backend = NULL;
            err why = {0};
            oom_after(n, for_ever);
            int rc = eng_cpu_open(&backend, model, &opts, &why);
            bool refused = oom_stop();
            if (rc == 0) {
                eng_backend_close(backend);
                if (!refused) break;
                continue;
            }
            cr_assert_null(backend);
            cr_assert(refused);
            cr_assert_eq(why.code, ERR_NO_MEMORY, "allocation %ld: %s", n, why.msg);
        }
    }
    model_close(model);
}

Test(cpu, options_that_cannot_work_are_refused) {
    static const struct {
        eng_backend_opts opts;
        const char *param;
    } rows[] = {
        {{.kernels = "sse9"}, "kernels"},
        {{.max_loops = PLAN_MAX_LOOPS + 1}, "max_loops"},
        {{.cache_dtype = DTYPE_F16}, "cache_dtype"},
        {{.cache_bytes = 1000}, "kv-memory"},
        {{.threads = 100000}, "threads"},
        {{.n_rows = (1u << 24) + 1}, "n_rows"},
        {{.weights = ENG_WEIGHTS_KINDS}, "weights"},
        {{.max_positions = (1u << 30) + 1}, "max_positions"},
    };
    model_folder *model;
    err e = {0};
    cr_assert_eq(model_open(&model, mla, &e), 0, "%s", e.msg);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        eng_backend *backend = (eng_backend *)1;
        err got = {0};
        cr_assert_eq(eng_cpu_open(&backend, model, &rows[i].opts, &got), -1, "row %zu", i);
        cr_assert_null(backend);
        cr_assert_eq(got.code, ERR_USAGE, "row %zu: %s", i, got.msg);
        cr_assert_str_eq(got.param, rows[i].param);
    }
    model_close(model);
}

Test(cpu, rows_and_edits_out_of_range_are_refused) {
    static driver drv;
    driver_open(&drv, mla, 6, KV_EXACT, NULL);
    driver_start(&drv, 1, 4);
    fill_ids(&drv);
    const eng_backend_info *in = &drv.backend->info;
    uint32_t good[] = {0}, bad[] = {in->n_blocks};
    const eng_row ok = {.row = 1, .pos = 0, .token = 5, .blocks = good, .max_loops = 6};
    const struct {
        eng_stage stage;
        eng_row row[2];
        uint32_t n;
    } rows[] = {
        {ENG_STAGE_PRELUDE, {{.row = in->n_rows, .blocks = good}}, 1},
        {ENG_STAGE_PRELUDE, {{.token = drv.plan->vocab_size, .blocks = good}}, 1},
        {ENG_STAGE_RECURRENT, {{.token = drv.plan->vocab_size, .blocks = good}}, 1},
        {ENG_STAGE_CODA, {{.token = drv.plan->vocab_size, .blocks = good}}, 1},
        {ENG_STAGE_PRELUDE, {{.pos = drv.plan->max_seq_len, .blocks = good}}, 1},
        {ENG_STAGE_PRELUDE, {{.blocks = bad}}, 1},
        {ENG_STAGE_PRELUDE, {{.blocks = NULL}}, 1},
        {ENG_STAGE_PRELUDE, {{.home = 1, .blocks = good}}, 1},
        {ENG_STAGE_PRELUDE, {ok, ok}, 2},
        {ENG_STAGE_PRELUDE, {ok}, in->max_launch + 1},
        {ENG_STAGE_RECURRENT, {{.loop = 6, .blocks = good}}, 1},
        {ENG_STAGE_PRELUDE, {ok}, 1}, /* its map names no slot */
    };
    const eng_edit edits[] = {
        {.block = in->n_blocks, .n_planes = 1},
        {.slot = in->n_slots, .n_planes = 1},
        {.plane = (uint16_t)in->n_planes, .n_planes = 1},
        {.off = ENG_BLOCK, .n_planes = 1},
        {.plane = 1, .n_planes = UINT16_MAX},
        {.n_planes = 1, .home = 1},
    };
    eng_result result;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        eng_launch launch = {rows[i].stage, rows[i].row, rows[i].n, NULL, 0};
        err e = {0};
        cr_assert_eq(eng_run(drv.backend, &launch, &result, &e), -1, "row %zu", i);
        cr_assert_eq(e.code, ERR_INTERNAL);
    }
    for (size_t i = 0; i < ARRAY_LEN(edits); i++) {
        eng_launch launch = {ENG_STAGE_PRELUDE, NULL, 0, &edits[i], 1};
        err e = {0};
        cr_assert_eq(eng_run(drv.backend, &launch, &result, &e), -1, "edit %zu", i);
        cr_assert_eq(e.code, ERR_INTERNAL);
    }
    driver_run(&drv, 4); /* later launches are not affected */
    cr_assert(isfinite(drv.seq[0].logits[0]));
    driver_close(&drv);
}

Test(cpu, the_cache_keeps_to_its_budget) {
    model_folder *model;
    eng_backend *backend;
    err e = {0};
    cr_assert_eq(model_open(&model, mla, &e), 0, "%s", e.msg);
    for (uint64_t bytes = 1 << 18; bytes <= 64 << 20; bytes *= 4) {
        eng_backend_opts opts = {.threads = 1, .cache_bytes = bytes};
        cr_assert_eq(eng_cpu_open(&backend, model, &opts, &e), 0, "%s", e.msg);
        const eng_backend_info *in = &backend->info;
        uint64_t slots = in->n_slots * (uint64_t)in->slot_bytes;
        uint64_t maps = in->n_blocks * (uint64_t)in->block_map_bytes;
        cr_assert(slots + maps <= bytes, "%llu", (unsigned long long)bytes);
        cr_assert(slots + maps > bytes - bytes / 50 - in->slot_bytes);
        cr_assert((uint64_t)in->n_blocks * ENG_BLOCK * in->n_planes >= in->n_slots / 2);
        eng_backend_close(backend);
    }
    model_close(model);
}

/* ---- kernels one by one, each path against plain arithmetic ---- */

/* Two steps over 7 and 5 positions against one plain softmax; query q sees q % 13 positions. */
static void check_softmax(const eng__kernels *kern) {
    enum { FIRST = 7, SECOND = 5, PANEL = ENG__PANEL };
    float score[(FIRST + SECOND) * PANEL], top[PANEL], sum[PANEL], keep[2][PANEL];
    int32_t seen[2][PANEL];
    for (int i = 0; i < (FIRST + SECOND) * PANEL; i++)
        score[i] = sinf((float)i) * 30.0f;
    score[3 * PANEL + 20] = NAN;
    float plain[(FIRST + SECOND) * PANEL];
    memcpy(plain, score, sizeof score);
    for (int query = 0; query < PANEL; query++) {
        top[query] = -INFINITY;
        sum[query] = 0;
        seen[0][query] = query % 13;
        seen[1][query] = query % 13 > FIRST ? query % 13 - FIRST : 0;
    }
    kern->softmax_across(score, FIRST, PANEL, seen[0], top, sum, keep[0]);
    kern->softmax_across(score + FIRST * PANEL, SECOND, PANEL, seen[1], top, sum, keep[1]);
    for (int query = 0; query < PANEL; query++) {
        double best = -INFINITY, total = 0;
        for (int i = 0; i < query % 13; i++)
            best = fmax(best, (double)plain[i * PANEL + query]);
        for (int i = 0; i < query % 13; i++)
            total += exp((double)plain[i * PANEL + query] - best);
        if (query == 20) {
            cr_assert(isnan(sum[query]), "%s: NaN is lost", kern->name);
            continue;
        }
        cr_assert_float_eq(sum[query], total, 1e-6 * total + 1e-30, "%s sum %d", kern->name, query);
        for (int i = 0; i < FIRST + SECOND; i++) {
            double want = i < query % 13 ? exp((double)plain[i * PANEL + query] - best) : 0;
            double got =
                (double)score[i * PANEL + query] * (i < FIRST ? (double)keep[1][query] : 1);
            cr_assert_float_eq(got, want, 1e-5 * want + 1e-30, "%s weight %d of %d: %g %g",
                               kern->name, i, query, got, want);
        }
    }
}

/* The sums of a row have the same bits among any number of rows, and in two halves of k. */
static void check_rows_alone(const eng__kernels *kern) {
    enum { DEPTH = 2 * ENG__GROUP, PANEL = ENG__PANEL, ROWS = ENG__TILE };
    static float x[ROWS * DEPTH], across[DEPTH * PANEL], weights[(DEPTH + 1) * PANEL],
        all[3][ROWS * PANEL], one[3][PANEL], halves[PANEL];
    static uint16_t packed[DEPTH * PANEL + 4096];
    static uint8_t codes[2 * ENG__GROUP_BYTES + 8192];
    static int8_t quantized[ROWS * DEPTH];
    float scale[ROWS * 2];
    int32_t sum[ROWS * 2];
    for (size_t i = 0; i < ARRAY_LEN(weights); i++)
        weights[i] = cosf(3.0f * (float)i);
    kern->narrow(weights, packed, (size_t)DEPTH * PANEL);
    for (size_t i = 0; i < 2 * ENG__GROUP_BYTES; i++)
        codes[i] = (uint8_t)(i * 151 + i / 7);
    for (size_t i = 0; i < 2 * PANEL; i++)
        memcpy(codes + i / PANEL * ENG__GROUP_BYTES + ENG__GROUP * PANEL + 4 * (i % PANEL),
               &weights[i], 4);
    for (size_t i = 0; i < ARRAY_LEN(x); i++) {
        x[i] = sinf((float)i);
        across[i % DEPTH * PANEL + i / DEPTH] = x[i];
    }
    for (size_t group = 0; group < ROWS * 2; group++)
        kern->quantize(x + group * ENG__GROUP, ENG__GROUP, quantized + group * ENG__GROUP,
                       &scale[group], &sum[group]);
    for (uint32_t rows = 1; rows <= ROWS; rows++) {
        kern->tile_f32(weights, PANEL, DEPTH, x, DEPTH, rows, all[0], PANEL, false);
        kern->tile_bf16(packed, DEPTH, x, DEPTH, rows, all[1], PANEL, false);
        kern->tile_i8(codes, 2, quantized, DEPTH, scale, sum, 2, rows, all[2], PANEL, false);
        for (uint32_t row = 0; row < rows; row++) {
            kern->tile_f32_across(weights, PANEL, DEPTH / 2, across + row, PANEL, 1, halves, PANEL,
                                  false);
            kern->tile_f32_across(weights + DEPTH / 2 * PANEL, PANEL, DEPTH / 2,
                                  across + DEPTH / 2 * PANEL + row, PANEL, 1, halves, PANEL, true);
            cr_assert_arr_eq(halves, all[0] + row * PANEL, sizeof halves,
                             "%s: across, row %u of %u", kern->name, row, rows);
            kern->tile_f32(weights, PANEL, DEPTH, x + row * DEPTH, DEPTH, 1, one[0], PANEL, false);
            kern->tile_bf16(packed, DEPTH, x + row * DEPTH, DEPTH, 1, one[1], PANEL, false);
            kern->tile_i8(codes, 2, quantized + row * DEPTH, DEPTH, scale + 2 * row, sum + 2 * row,
                          2, 1, one[2], PANEL, false);
            for (int tile = 0; tile < 3; tile++) {
                cr_assert_arr_eq(one[tile], all[tile] + row * PANEL, sizeof one[tile],
                                 "%s: tile %d, row %u of %u", kern->name, tile, row, rows);
            }
        }
    }
}

static void check_kernels(const eng__kernels *kern) {
    enum { DEPTH = 37, LD = 40 };
    static float x[ENG__TILE * LD], weights[(DEPTH + 1) * ENG__PANEL], acc[ENG__TILE * ENG__PANEL];
    for (size_t i = 0; i < ARRAY_LEN(x); i++)
        x[i] = sinf((float)i);
    for (size_t i = 0; i < ARRAY_LEN(weights); i++)
        weights[i] = cosf(3.0f * (float)i);
    for (uint32_t rows = 1; rows <= ENG__TILE; rows++) {
        memset(acc, 0x7f, sizeof acc);
        kern->tile_f32(weights, ENG__PANEL, DEPTH, x, LD, rows, acc, ENG__PANEL, false);
        float narrow[ENG__TILE * ENG__PANEL];
        kern->tile_f32_narrow(weights, ENG__PANEL, DEPTH, x, LD, rows, narrow, ENG__PANEL);
        for (uint32_t row = 0; row < rows; row++) {
            cr_assert_eq(memcmp(narrow + row * ENG__PANEL, acc + row * ENG__PANEL, ENG__NARROW * 4),
                         0, "%s: the narrow tile differs", kern->name);
            for (uint32_t col = 0; col < ENG__PANEL; col++) {
                double want = 0;
                for (uint32_t i = 0; i < DEPTH; i++)
                    want += (double)x[row * LD + i] * (double)weights[i * ENG__PANEL + col];
                cr_assert_float_eq(acc[row * ENG__PANEL + col], want, 1e-4, "%s row %u col %u",
                                   kern->name, row, col);
            }
        }
    }
    check_rows_alone(kern);
    static uint8_t panel[2 * ENG__GROUP_BYTES];
    int8_t codes[2][2 * ENG__GROUP];
    float scale[2][2], values[2 * ENG__GROUP];
    int32_t qsum[2][2];
    for (uint32_t row = 0; row < 2; row++) {
        for (uint32_t i = 0; i < 2 * ENG__GROUP; i++)
            values[i] = sinf((float)(i * (row + 3))) * (row ? 50 : 1);
        for (uint32_t group = 0; group < 2; group++) {
            kern->quantize(values + group * ENG__GROUP, group ? 77 : ENG__GROUP,
                           codes[row] + group * ENG__GROUP, &scale[row][group], &qsum[row][group]);
        }
    }
    for (size_t i = 0; i < sizeof panel; i++)
        panel[i] = (uint8_t)(i * 151 + i / 7);
    for (uint32_t group = 0; group < 2; group++) {
        for (uint32_t col = 0; col < ENG__PANEL; col++) {
            float value = 0.01f * (float)(col + 1 + group);
            memcpy(panel + group * ENG__GROUP_BYTES + ENG__GROUP * ENG__PANEL + 4 * col, &value, 4);
        }
    }
    kern->tile_i8(panel, 2, codes[0], 2 * ENG__GROUP, scale[0], qsum[0], 2, 2, acc, ENG__PANEL,
                  false);
    for (uint32_t row = 0; row < 2; row++) {
        for (uint32_t col = 0; col < ENG__PANEL; col++) {
            double want = 0;
            for (uint32_t i = 0; i < 2 * ENG__GROUP; i++) {
                uint32_t group = i / ENG__GROUP, at = i % ENG__GROUP;
                int code =
                    panel[group * ENG__GROUP_BYTES + (at / 4 * ENG__PANEL + col) * 4 + at % 4] -
                    128;
                want += 0.01 * (col + 1 + group) * code * (double)scale[row][group] * codes[row][i];
            }
            cr_assert_float_eq(acc[row * ENG__PANEL + col], want, 1e-3 + 1e-5 * fabs(want),
                               "%s int8 row %u col %u: %g %g", kern->name, row, col,
                               (double)acc[row * ENG__PANEL + col], want);
        }
    }
    check_softmax(kern);
    float group[19], up[19], y[19];
    for (int i = 0; i < 19; i++)
        group[i] = (float)(i - 9) * 30.0f, up[i] = 1.0f + (float)i;
    kern->silu_mul(group, up, y, 19);
    for (int i = 0; i < 19; i++) {
        float want = group[i] / (1.0f + expf(-group[i])) * up[i];
        cr_assert(fabsf(y[i] - want) <= 1e-5f * fabsf(want) + 1e-30f, "%s silu %d", kern->name, i);
    }
}

Test(cpu, every_kernel_equals_plain_arithmetic) {
    static const char *const paths[] = {"avx512", "avx2", "portable"};
    for (size_t i = 0; i < ARRAY_LEN(paths); i++) {
        const eng__kernels *kern;
        if (eng__kernels_choose(&kern, paths[i], NULL) == 0) check_kernels(kern);
    }
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512bw")) check_kernels(&eng__kernels_avx512); /* without VNNI */
#endif
}
