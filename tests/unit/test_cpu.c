/* What the CPU backend promises beyond the golden cases: bits that depend on a row alone,
 * any shape of model, and refusals instead of undefined behaviour. */
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

static void fill_ids(driver *d) {
    for (uint32_t s = 0; s < DRIVER_SEQS; s++) {
        for (uint32_t p = 0; p < DRIVER_POS; p++)
            d->seq[s].ids[p] = (p * 37 + s * 11 + p * p) % 300;
    }
}

/* Logits of sequence 0; the caller frees. */
static float *logits_of(const char *dir, uint32_t n_seq, uint32_t n_pos, uint32_t chunk,
                        const eng_backend_opts *o) {
    static driver d;
    driver_open(&d, dir, 6, KV_EXACT, o);
    driver_start(&d, n_seq, n_pos);
    fill_ids(&d);
    driver_run(&d, chunk);
    float *out = d.seq[0].logits;
    d.seq[0].logits = NULL;
    driver_close(&d);
    return out;
}

static void same_bits(const char *dir, const char *what, float *a, float *b, size_t n) {
    cr_assert_eq(memcmp(a, b, n * sizeof *a), 0, "%s: %s changed bits", dir, what);
    free(b);
}

Test(cpu, bits_depend_on_the_row_alone) {
    const char *dirs[] = {mla, gqa};
    for (size_t i = 0; i < ARRAY_LEN(dirs); i++) {
        enum { POS = 90, N = POS * 320 };
        eng_backend_opts o = {.threads = 1};
        float *base = logits_of(dirs[i], 1, POS, POS, &o);
        same_bits(dirs[i], "another sequence", base, logits_of(dirs[i], 2, POS, POS, &o), N);
        same_bits(dirs[i], "chunks of 1", base, logits_of(dirs[i], 1, POS, 1, &o), N);
        same_bits(dirs[i], "chunks of 13", base, logits_of(dirs[i], 2, POS, 13, &o), N);
        for (uint32_t t = 2; t <= 3; t++) {
            o.threads = t;
            same_bits(dirs[i], "threads", base, logits_of(dirs[i], 2, POS, 29, &o), N);
        }
        free(base);
    }
}

Test(cpu, rows_at_different_loops_share_a_launch) {
    static driver d;
    enum { POS = 20, T = 6, LATE = 2 };
    float *alone = logits_of(mla, 1, POS, POS, NULL);
    driver_open(&d, mla, T, KV_EXACT, NULL);
    driver_start(&d, 2, POS);
    fill_ids(&d);
    for (uint32_t s = 0; s < 2; s++)
        driver_add_prelude(&d, s, 0, POS);
    driver_launch(&d, ENG_STAGE_PRELUDE);
    for (uint32_t t = 0; t < T + LATE; t++) {
        if (t >= LATE) driver_add_loop(&d, 0, t - LATE, 0, POS);
        if (t < T) driver_add_loop(&d, 1, t, 0, POS);
        driver_launch(&d, ENG_STAGE_RECURRENT);
        if (t == T) { /* sequence 1 in the coda while 0 still loops */
            driver_add_coda(&d, 1, 0, POS);
            driver_launch(&d, ENG_STAGE_CODA);
        }
    }
    driver_add_coda(&d, 0, 0, POS);
    driver_launch(&d, ENG_STAGE_CODA);
    same_bits(mla, "mixing loops", alone, d.seq[0].logits, POS * 320);
    d.seq[0].logits = NULL;
    free(alone);
    driver_close(&d);
}

Test(cpu, int8_bits_depend_on_the_row_alone_and_stay_close) {
    const char *dirs[] = {mla, gqa};
    for (size_t i = 0; i < ARRAY_LEN(dirs); i++) {
        enum { POS = 60, N = POS * 320 };
        eng_backend_opts o = {.threads = 1, .weights = ENG_WEIGHTS_INT8};
        float *exact = logits_of(dirs[i], 1, POS, POS, NULL);
        float *base = logits_of(dirs[i], 1, POS, POS, &o);
        double error = 0, size = 0;
        for (size_t k = 0; k < N; k++) {
            error += pow((double)(base[k] - exact[k]), 2);
            size += pow((double)exact[k], 2);
        }
        cr_assert_gt(error, 0, "%s: int8 did nothing", dirs[i]);
        cr_assert_lt(sqrt(error / size), 0.25,
                     /* some positions leave at another depth */ "%s: int8 is off by %g", dirs[i],
                     sqrt(error / size));
        same_bits(dirs[i], "int8 and company", base, logits_of(dirs[i], 2, POS, 17, &o), N);
        o.threads = 3;
        same_bits(dirs[i], "int8 and threads", base, logits_of(dirs[i], 2, POS, 60, &o), N);
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
    model_plan c;
    err e = {0};
    snprintf(
        text, sizeof text,
        "{\"vocab_size\":301,\"max_seq_len\":%u,\"max_loop_iters\":4,%s,\"act_threshold\":0.99,"
        "\"rope_theta\":10000.0,\"max_output_tokens\":64}",
        max_seq_len, shape);
    cr_assert_eq(plan_parse(&c, text, strlen(text), "shape", &e), 0, "%s: %s", shape, e.msg);
    cr_assert_not_null(mkdtemp(dir));
    model_init_opts io = {.seed = 5, .dtype = dtype, .mean_depth = 2.5f};
    cr_assert_eq(model_init_write(dir, &c, &io, &e), 0, "%s", e.msg);
}

static void check_shape(const char *shape, model_dtype dtype, uint32_t min_loops, double limit) {
    static driver d;
    char dir[] = "/tmp/fathom_cpu_XXXXXX";
    make_model(dir, shape, 160, dtype);
    eng_backend_opts o = {.threads = 2};
    driver_open(&d, dir, 5, KV_EXACT, &o);
    d.min_loops = min_loops;
    driver_start(&d, 1, 150);
    fill_ids(&d);
    driver_run(&d, 64);
    reference *r = ref_open(d.m);
    ref_opts ro = {.policy = KV_EXACT, .max_loops = 5, .min_loops = min_loops};
    ref_result want = ref_run(r, d.seq[0].ids, 150, &ro);
    double worst = ref_relative_error(d.seq[0].logits, want.logits, 150u * d.c->vocab_size);
    cr_assert_gt(want.margin, 1e-4f, "%s: no fair comparison of depths", shape);
    for (uint32_t p = 0; p < 150; p++) {
        cr_assert_eq(d.seq[0].depth[p], want.depth[p], "%s: depth at %u", shape, p);
    }
    cr_assert(worst <= limit, "%s: logit error %g", shape, worst);
    ref_result_deinit(&want);
    ref_close(r);
    driver_close(&d);
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
        /* widths that are no multiple of 16: an odd number of loop channels, one, and none */
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
    enum { POS = 2150, T = 2 };
    static const struct {
        const char *shape;
    } rows[] = {{MLA(16, 2, 8, 12, 4, 6, 8) REST(0, 1, 2, 1, 1, 16, 1)},
                {GQA(16, 4, 2) REST(1, 1, 2, 1, 1, 16, 1)},
                {GQA(48, 3, 3) REST(1, 1, 2, 1, 1, 16, 1)}};
    static const uint32_t ways[][2] = {{1, 40}, {3, 20}, {2, 1000}, {2, 3}}; /* threads, chunk */
    static driver d;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char dir[] = "/tmp/fathom_long_XXXXXX";
        make_model(dir, rows[i].shape, POS, DTYPE_F32);
        float *base = NULL;
        /* the last way is for heads of their own: blocks of several groups */
        for (size_t w = 0; w < ARRAY_LEN(ways) - (i < 2); w++) {
            eng_backend_opts o = {.threads = ways[w][0]};
            driver_open(&d, dir, T, KV_EXACT, &o);
            driver_start(&d, 1, POS);
            fill_ids(&d);
            driver_run(&d, ways[w][1]);
            size_t n = (size_t)POS * d.c->vocab_size;
            if (base == NULL) {
                base = d.seq[0].logits;
                reference *r = ref_open(d.m);
                ref_result want = ref_run(r, d.seq[0].ids, POS, &(ref_opts){.max_loops = T});
                double worst = ref_relative_error(base, want.logits, n);
                cr_assert(worst < 5e-5, "%s: logit error %g", rows[i].shape, worst);
                ref_result_deinit(&want);
                ref_close(r);
            } else {
                same_bits(rows[i].shape, "a way to split", base, d.seq[0].logits, n);
            }
            d.seq[0].logits = NULL;
            driver_close(&d);
        }
        free(base);
        remove_model(dir);
    }
}

/* ---- refusals ---- */

/* One compute thread: what the wrapped allocator counts is this thread's. */
Test(cpu, open_survives_every_failed_allocation) {
    model_folder *m;
    err e = {0};
    cr_assert_eq(model_open(&m, gqa, &e), 0, "%s", e.msg);
    for (int for_ever = 0; for_ever < 2; for_ever++) {
        for (long n = 0;; n++) {
            eng_backend_opts o = {.threads = 1,
                                  .n_rows = 8,
                                  .cache_bytes = 1 << 20,
                                  .kernels = "portable",
                                  .weights = ENG_WEIGHTS_INT8};
            eng_backend *b = NULL;
            err why = {0};
            oom_after(n, for_ever);
            int rc = eng_cpu_open(&b, m, &o, &why);
            bool refused = oom_stop();
            if (rc == 0) {
                eng_backend_close(b);
                if (!refused) break;
                continue;
            }
            cr_assert_null(b);
            cr_assert(refused);
            cr_assert_eq(why.code, ERR_NO_MEMORY, "allocation %ld: %s", n, why.msg);
        }
    }
    model_close(m);
}

Test(cpu, options_that_cannot_work_are_refused) {
    static const struct {
        eng_backend_opts o;
        const char *param;
    } rows[] = {
        {{.kernels = "sse9"}, "kernels"},
        {{.max_loops = PLAN_MAX_LOOPS + 1}, "max_loops"},
        {{.cache_dtype = DTYPE_F16}, "cache_dtype"},
        {{.cache_bytes = 1000}, "kv-memory"},
        {{.threads = 100000}, "threads"},
        {{.n_rows = (1u << 24) + 1}, "n_rows"},
        {{.weights = (eng_weights)2}, "weights"},
        {{.max_positions = (1u << 30) + 1}, "max_positions"},
    };
    model_folder *m;
    err e = {0};
    cr_assert_eq(model_open(&m, mla, &e), 0, "%s", e.msg);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        eng_backend *b = (eng_backend *)1;
        err got = {0};
        cr_assert_eq(eng_cpu_open(&b, m, &rows[i].o, &got), -1, "row %zu", i);
        cr_assert_null(b);
        cr_assert_eq(got.code, ERR_USAGE, "row %zu: %s", i, got.msg);
        cr_assert_str_eq(got.param, rows[i].param);
    }
    model_close(m);
}

Test(cpu, rows_and_edits_out_of_range_are_refused) {
    static driver d;
    driver_open(&d, mla, 6, KV_EXACT, NULL);
    driver_start(&d, 1, 4);
    fill_ids(&d);
    const eng_backend_info *in = &d.b->info;
    uint32_t good[] = {0}, bad[] = {in->n_blocks};
    const eng_row ok = {.row = 1, .pos = 0, .token = 5, .blocks = good, .max_loops = 6};
    const struct {
        eng_stage stage;
        eng_row row[2];
        uint32_t n;
    } rows[] = {
        {ENG_STAGE_PRELUDE, {{.row = in->n_rows, .blocks = good}}, 1},
        {ENG_STAGE_PRELUDE, {{.token = d.c->vocab_size, .blocks = good}}, 1},
        {ENG_STAGE_PRELUDE, {{.pos = d.c->max_seq_len, .blocks = good}}, 1},
        {ENG_STAGE_PRELUDE, {{.blocks = bad}}, 1},
        {ENG_STAGE_PRELUDE, {{.blocks = NULL}}, 1},
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
    };
    eng_result r;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        eng_launch l = {rows[i].stage, rows[i].row, rows[i].n, NULL, 0};
        err e = {0};
        cr_assert_eq(eng_run(d.b, &l, &r, &e), -1, "row %zu", i);
        cr_assert_eq(e.code, ERR_INTERNAL);
    }
    for (size_t i = 0; i < ARRAY_LEN(edits); i++) {
        eng_launch l = {ENG_STAGE_PRELUDE, NULL, 0, &edits[i], 1};
        err e = {0};
        cr_assert_eq(eng_run(d.b, &l, &r, &e), -1, "edit %zu", i);
        cr_assert_eq(e.code, ERR_INTERNAL);
    }
    driver_run(&d, 4); /* and none of it hurts what follows */
    cr_assert(isfinite(d.seq[0].logits[0]));
    driver_close(&d);
}

Test(cpu, the_cache_keeps_to_its_budget) {
    model_folder *m;
    eng_backend *b;
    err e = {0};
    cr_assert_eq(model_open(&m, mla, &e), 0, "%s", e.msg);
    for (uint64_t bytes = 1 << 18; bytes <= 64 << 20; bytes *= 4) {
        eng_backend_opts o = {.threads = 1, .cache_bytes = bytes};
        cr_assert_eq(eng_cpu_open(&b, m, &o, &e), 0, "%s", e.msg);
        const eng_backend_info *in = &b->info;
        uint64_t slots = in->n_slots * (uint64_t)in->slot_bytes;
        uint64_t maps = in->n_blocks * (uint64_t)in->block_map_bytes;
        cr_assert(slots + maps <= bytes, "%llu", (unsigned long long)bytes);
        cr_assert(slots + maps > bytes - bytes / 50 - in->slot_bytes);
        cr_assert((uint64_t)in->n_blocks * ENG_BLOCK * in->n_planes >= in->n_slots / 2);
        eng_backend_close(b);
    }
    model_close(m);
}

/* ---- kernels one by one, each path against plain arithmetic ---- */

/* Two steps over 7 and 5 positions against one plain softmax; query q sees q % 13. */
static void check_softmax(const eng__kernels *k) {
    enum { A = 7, B = 5, P = ENG__PANEL };
    float s[(A + B) * P], top[P], sum[P], keep[2][P];
    int32_t seen[2][P];
    for (int i = 0; i < (A + B) * P; i++)
        s[i] = sinf((float)i) * 30.0f;
    s[3 * P + 20] = NAN;
    float plain[(A + B) * P];
    memcpy(plain, s, sizeof s);
    for (int q = 0; q < P; q++) {
        top[q] = -INFINITY;
        sum[q] = 0;
        seen[0][q] = q % 13;
        seen[1][q] = q % 13 > A ? q % 13 - A : 0;
    }
    k->softmax_across(s, A, P, seen[0], top, sum, keep[0]);
    k->softmax_across(s + A * P, B, P, seen[1], top, sum, keep[1]);
    for (int q = 0; q < P; q++) {
        double best = -INFINITY, total = 0;
        for (int i = 0; i < q % 13; i++)
            best = fmax(best, (double)plain[i * P + q]);
        for (int i = 0; i < q % 13; i++)
            total += exp((double)plain[i * P + q] - best);
        if (q == 20) {
            cr_assert(isnan(sum[q]), "%s: NaN is lost", k->name);
            continue;
        }
        cr_assert_float_eq(sum[q], total, 1e-6 * total + 1e-30, "%s sum %d", k->name, q);
        for (int i = 0; i < A + B; i++) {
            double want = i < q % 13 ? exp((double)plain[i * P + q] - best) : 0;
            double got = (double)s[i * P + q] * (i < A ? (double)keep[1][q] : 1);
            cr_assert_float_eq(got, want, 1e-5 * want + 1e-30, "%s weight %d of %d: %g %g", k->name,
                               i, q, got, want);
        }
    }
}

/* A row's sums are the same bits among any number of rows, and in two halves of k. */
static void check_rows_alone(const eng__kernels *k) {
    enum { K = 2 * ENG__GROUP, P = ENG__PANEL, ROWS = ENG__TILE };
    static float x[ROWS * K], across[K * P], w[(K + 1) * P], all[3][ROWS * P], one[3][P], halves[P];
    static uint16_t packed[K * P + 4096];
    static uint8_t codes[2 * ENG__GROUP_BYTES + 8192];
    static int8_t q[ROWS * K];
    float scale[ROWS * 2];
    int32_t sum[ROWS * 2];
    for (size_t i = 0; i < ARRAY_LEN(w); i++)
        w[i] = cosf(3.0f * (float)i);
    k->narrow(w, packed, (size_t)K * P);
    for (size_t i = 0; i < 2 * ENG__GROUP_BYTES; i++)
        codes[i] = (uint8_t)(i * 151 + i / 7);
    for (size_t i = 0; i < 2 * P; i++)
        memcpy(codes + i / P * ENG__GROUP_BYTES + ENG__GROUP * P + 4 * (i % P), &w[i], 4);
    for (size_t i = 0; i < ARRAY_LEN(x); i++) {
        x[i] = sinf((float)i);
        across[i % K * P + i / K] = x[i];
    }
    for (size_t g = 0; g < ROWS * 2; g++)
        k->quantize(x + g * ENG__GROUP, ENG__GROUP, q + g * ENG__GROUP, &scale[g], &sum[g]);
    for (uint32_t rows = 1; rows <= ROWS; rows++) {
        k->tile_f32(w, P, K, x, K, rows, all[0], P, false);
        k->tile_bf16(packed, K, x, K, rows, all[1], P, false);
        k->tile_i8(codes, 2, q, K, scale, sum, 2, rows, all[2], P, false);
        for (uint32_t r = 0; r < rows; r++) {
            k->tile_f32_across(w, P, K / 2, across + r, P, 1, halves, P, false);
            k->tile_f32_across(w + K / 2 * P, P, K / 2, across + K / 2 * P + r, P, 1, halves, P,
                               true);
            cr_assert_arr_eq(halves, all[0] + r * P, sizeof halves, "%s: across, row %u of %u",
                             k->name, r, rows);
            k->tile_f32(w, P, K, x + r * K, K, 1, one[0], P, false);
            k->tile_bf16(packed, K, x + r * K, K, 1, one[1], P, false);
            k->tile_i8(codes, 2, q + r * K, K, scale + 2 * r, sum + 2 * r, 2, 1, one[2], P, false);
            for (int t = 0; t < 3; t++) {
                cr_assert_arr_eq(one[t], all[t] + r * P, sizeof one[t], "%s: tile %d, row %u of %u",
                                 k->name, t, r, rows);
            }
        }
    }
}

static void check_kernels(const eng__kernels *k) {
    enum { K = 37, LD = 40 };
    static float x[ENG__TILE * LD], w[(K + 1) * ENG__PANEL], acc[ENG__TILE * ENG__PANEL];
    for (size_t i = 0; i < ARRAY_LEN(x); i++)
        x[i] = sinf((float)i);
    for (size_t i = 0; i < ARRAY_LEN(w); i++)
        w[i] = cosf(3.0f * (float)i);
    for (uint32_t rows = 1; rows <= ENG__TILE; rows++) {
        memset(acc, 0x7f, sizeof acc);
        k->tile_f32(w, ENG__PANEL, K, x, LD, rows, acc, ENG__PANEL, false);
        float narrow[ENG__TILE * ENG__PANEL];
        k->tile_f32_narrow(w, ENG__PANEL, K, x, LD, rows, narrow, ENG__PANEL);
        for (uint32_t r = 0; r < rows; r++) {
            cr_assert_eq(memcmp(narrow + r * ENG__PANEL, acc + r * ENG__PANEL, ENG__NARROW * 4), 0,
                         "%s: the narrow tile differs", k->name);
            for (uint32_t c = 0; c < ENG__PANEL; c++) {
                double want = 0;
                for (uint32_t i = 0; i < K; i++)
                    want += (double)x[r * LD + i] * (double)w[i * ENG__PANEL + c];
                cr_assert_float_eq(acc[r * ENG__PANEL + c], want, 1e-4, "%s row %u col %u", k->name,
                                   r, c);
            }
        }
    }
    check_rows_alone(k);
    static uint8_t panel[2 * ENG__GROUP_BYTES];
    int8_t q[2][2 * ENG__GROUP];
    float scale[2][2], row[2 * ENG__GROUP];
    int32_t qsum[2][2];
    for (uint32_t r = 0; r < 2; r++) {
        for (uint32_t i = 0; i < 2 * ENG__GROUP; i++)
            row[i] = sinf((float)(i * (r + 3))) * (r ? 50 : 1);
        for (uint32_t g = 0; g < 2; g++) {
            k->quantize(row + g * ENG__GROUP, g ? 77 : ENG__GROUP, q[r] + g * ENG__GROUP,
                        &scale[r][g], &qsum[r][g]);
        }
    }
    for (size_t i = 0; i < sizeof panel; i++)
        panel[i] = (uint8_t)(i * 151 + i / 7);
    for (uint32_t g = 0; g < 2; g++) {
        for (uint32_t c = 0; c < ENG__PANEL; c++) {
            float sc = 0.01f * (float)(c + 1 + g);
            memcpy(panel + g * ENG__GROUP_BYTES + ENG__GROUP * ENG__PANEL + 4 * c, &sc, 4);
        }
    }
    k->tile_i8(panel, 2, q[0], 2 * ENG__GROUP, scale[0], qsum[0], 2, 2, acc, ENG__PANEL, false);
    for (uint32_t r = 0; r < 2; r++) {
        for (uint32_t c = 0; c < ENG__PANEL; c++) {
            double want = 0;
            for (uint32_t i = 0; i < 2 * ENG__GROUP; i++) {
                uint32_t g = i / ENG__GROUP, in = i % ENG__GROUP;
                int code =
                    panel[g * ENG__GROUP_BYTES + (in / 4 * ENG__PANEL + c) * 4 + in % 4] - 128;
                want += 0.01 * (c + 1 + g) * code * (double)scale[r][g] * q[r][i];
            }
            cr_assert_float_eq(acc[r * ENG__PANEL + c], want, 1e-3 + 1e-5 * fabs(want),
                               "%s int8 row %u col %u: %g %g", k->name, r, c,
                               (double)acc[r * ENG__PANEL + c], want);
        }
    }
    check_softmax(k);
    float g[19], u[19], y[19];
    for (int i = 0; i < 19; i++)
        g[i] = (float)(i - 9) * 30.0f, u[i] = 1.0f + (float)i;
    k->silu_mul(g, u, y, 19);
    for (int i = 0; i < 19; i++) {
        float want = g[i] / (1.0f + expf(-g[i])) * u[i];
        cr_assert(fabsf(y[i] - want) <= 1e-5f * fabsf(want) + 1e-30f, "%s silu %d", k->name, i);
    }
}

Test(cpu, every_kernel_equals_plain_arithmetic) {
    static const char *const paths[] = {"avx512", "avx2", "portable"};
    for (size_t i = 0; i < ARRAY_LEN(paths); i++) {
        const eng__kernels *k;
        if (eng__kernels_choose(&k, paths[i], NULL) == 0) check_kernels(k);
    }
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512bw")) check_kernels(&eng__kernels_avx512); /* without VNNI */
#endif
}
