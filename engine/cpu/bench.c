/* bench.c - measures the kernels against the limits of the machine.
 *
 * Every measurement alternates with a read probe and an arithmetic probe, so another busy process
 * slows all three. The share of the bound is the median over the rounds. */
#include "base/clock.h"
#include "base/size.h"
#include "engine/cpu/cpu_internal.h"
#include "engine/kernel_bench.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { ROUNDS = 9, PROBE_MB = 192, FMA_STEPS = 4 << 20, FMA_ITEMS = 64 };

typedef struct {
    eng__cpu *cpu; /* pool, kernels and scratch; a whole backend for stages */
    float *big;    /* PROBE_MB, larger than any cache */
    eng_kernel_sink sink;
    void *ud;
    const char *only;     /* NULL = everything */
    uint32_t only_rows;   /* 0 = all */
    uint32_t way;         /* fastest way of reading with this pool */
    _Atomic uint32_t sum; /* keeps the compiler from removing probes */
} bench_state;

static bool wanted(const bench_state *bench, const char *what, uint32_t rows) {
    if (bench->only && strcmp(bench->only, what) != 0) return false;
    return bench->only_rows == 0 || rows == 0 || rows == bench->only_rows;
}

static int by_value(const void *left, const void *right) {
    double x = *(const double *)left, y = *(const double *)right;
    return (x > y) - (x < y);
}

static double median(double *values, size_t n) {
    qsort(values, n, sizeof *values, by_value);
    return values[n / 2];
}

/* Wall time and CPU time per thread, in seconds: a duration or a point in time. */
typedef struct {
    double wall, cpu;
} timing;

static timing now(const bench_state *bench) {
    double cpu = (double)eng__pool_cpu_ns(bench->cpu->pool) * 1e-9;
    return (timing){(double)clock_ns() * 1e-9, cpu / eng__pool_threads(bench->cpu->pool)};
}

static timing since(const bench_state *bench, timing start) {
    timing end = now(bench);
    return (timing){end.wall - start.wall, end.cpu - start.cpu};
}

static void read_work(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    bench_state *bench = arg;
    size_t mb = (1 << 20) / sizeof(float);
    (void)worker;
    float sum =
        bench->cpu->kern->read_probe(bench->big + first * mb, (last - first) * mb, bench->way);
    atomic_fetch_add_explicit(&bench->sum, sum > 0, memory_order_relaxed);
}

static void fma_work(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    bench_state *bench = arg;
    (void)worker;
    float sum = bench->cpu->kern->fma_probe((size_t)(last - first) * (FMA_STEPS / FMA_ITEMS / 16));
    atomic_fetch_add_explicit(&bench->sum, sum > 0, memory_order_relaxed);
}

static void dot_work(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    bench_state *bench = arg;
    (void)worker;
    float sum = bench->cpu->kern->dot_probe((size_t)(last - first) * (FMA_STEPS / FMA_ITEMS / 16));
    atomic_fetch_add_explicit(&bench->sum, sum > 0, memory_order_relaxed);
}

/* Seconds per byte now. */
static timing probe_read(bench_state *bench) {
    timing took = now(bench);
    eng__pool_run(bench->cpu->pool, read_work, bench, PROBE_MB, 1);
    took = since(bench, took);
    double bytes = (double)PROBE_MB * 1048576.0;
    return (timing){took.wall / bytes, took.cpu / bytes};
}

/* Chooses the fastest way of reading: the bound is the best the machine can do. */
static void choose_way(bench_state *bench) {
    double best = INFINITY;
    uint32_t fastest = 0;
    for (uint32_t i = 0; i < 3 * ENG__READ_WAYS; i++) {
        bench->way = i % ENG__READ_WAYS;
        double took = probe_read(bench).wall;
        if (took < best) best = took, fastest = bench->way;
    }
    bench->way = fastest;
}

static timing probe_math(bench_state *bench, bool int8) {
    timing took = now(bench);
    eng__pool_run(bench->cpu->pool, int8 ? dot_work : fma_work, bench, FMA_ITEMS, 1);
    took = since(bench, took);
    double n = (double)FMA_ITEMS * (FMA_STEPS / FMA_ITEMS / 16) * bench->cpu->kern->fma_probe_flops;
    if (int8) n *= 4;
    return (timing){took.wall / n, took.cpu / n};
}

typedef void (*pass)(void *arg);

static double larger(double left, double right) {
    return left > right ? left : right;
}

/* One of several forms of the same arithmetic, measured in turn. */
typedef struct {
    const char *what;
    pass run;
    void *arg;
} candidate;

enum { MOST_CANDIDATES = 2 };

/* Measures n candidates and reports each. `time` holds gbytes and gflop; seconds and percent are
 * filled in. */
static void measure_all(bench_state *bench, eng_kernel_time time, const candidate *all, size_t n,
                        uint32_t repeat) {
    double times[MOST_CANDIDATES][ROUNDS], wall[MOST_CANDIDATES][ROUNDS],
        cpu[MOST_CANDIDATES][ROUNDS], reads = 0, maths = 0;
    double bytes = time.gbytes * 1e9, flop = time.gflop * 1e9;
    bool int8 = strcmp(time.dtype, "INT8") == 0;
    for (size_t which = 0; which < n; which++)
        all[which].run(all[which].arg);
    for (int i = 0; i < ROUNDS; i++) {
        timing read = probe_read(bench), math = probe_math(bench, int8);
        for (size_t which = 0; which < n; which++) {
            timing took = now(bench);
            for (uint32_t pass_no = 0; pass_no < repeat; pass_no++)
                all[which].run(all[which].arg);
            took = since(bench, took);
            times[which][i] = took.wall / repeat;
            wall[which][i] = 100.0 * larger(bytes * read.wall, flop * math.wall) / times[which][i];
            cpu[which][i] = 100.0 * larger(bytes * read.cpu, flop * math.cpu) / (took.cpu / repeat);
        }
        reads += bytes * read.cpu;
        maths += flop * math.cpu;
    }
    for (size_t which = 0; which < n; which++) {
        time.what = all[which].what;
        time.threads = eng__pool_threads(bench->cpu->pool);
        time.seconds = median(times[which], ROUNDS);
        time.percent = median(wall[which], ROUNDS);
        time.percent_cpu = median(cpu[which], ROUNDS);
        time.bound = reads > maths ? "read" : int8 ? "int8" : "fma";
        bench->sink(bench->ud, &time);
    }
}

static void measure(bench_state *bench, eng_kernel_time time, pass run, void *arg,
                    uint32_t repeat) {
    candidate one = {time.what, run, arg};
    if (wanted(bench, time.what, time.rows)) measure_all(bench, time, &one, 1, repeat);
}

static void report_probe(bench_state *bench, eng_kernel_time time, const timing *took) {
    double wall[ROUNDS], cpu[ROUNDS];
    for (int i = 0; i < ROUNDS; i++) {
        wall[i] = took[i].wall * 1e9;
        cpu[i] = took[i].cpu * 1e9;
    }
    time.dtype = "-";
    time.threads = eng__pool_threads(bench->cpu->pool);
    time.seconds = median(wall, ROUNDS);
    time.cpu_seconds = median(cpu, ROUNDS);
    bench->sink(bench->ud, &time);
}

static void report_probes(bench_state *bench) {
    timing read[ROUNDS], fma[ROUNDS], dot[ROUNDS];
    if (!wanted(bench, "probe", 0)) return;
    for (int i = 0; i < ROUNDS; i++) {
        read[i] = probe_read(bench);
        fma[i] = probe_math(bench, false);
        dot[i] = probe_math(bench, true);
    }
    report_probe(bench, (eng_kernel_time){.what = "read probe", .gbytes = 1}, read);
    report_probe(bench, (eng_kernel_time){.what = "fma probe", .gflop = 1}, fma);
    report_probe(bench, (eng_kernel_time){.what = "int8 probe", .gflop = 1}, dot);
}

/* ---- products ---- */

typedef struct {
    eng__cpu *cpu;
    eng__gemm job;
} product;

static void run_product(void *arg) {
    product *gemm = arg;
    eng__gemm job = gemm->job;
    eng__gemm_run(gemm->cpu, &job, 1);
}

static const char *type_name(eng__wtype type) {
    return type == ENG__F32 ? "F32" : type == ENG__BF16 ? "BF16" : "INT8";
}

static void bench_products(bench_state *bench, eng__wtype type) {
    static const uint32_t row_counts[] = {1, 8, 32, 128};
    enum { DEPTH = 2048, LD = DEPTH + ENG__PAD, MOST = 128 };
    eng__mat mat = {.data = (const uint8_t *)bench->big, .n_in = DEPTH, .type = type};
    mat.panel_bytes = type == ENG__I8 ? (size_t)DEPTH / ENG__GROUP * ENG__GROUP_BYTES
                                      : (size_t)DEPTH * ENG__PANEL * (type == ENG__F32 ? 4 : 2);
    mat.panels = (uint32_t)(PROBE_MB * 1048576u / mat.panel_bytes);
    mat.own = (eng_share){0, mat.panels};
    mat.n_out = mat.panels * ENG__PANEL;
    float *x = array_new_aligned((size_t)MOST * LD, sizeof *x);
    float *y = array_new_aligned((size_t)MOST * mat.n_out, sizeof *y);
    bench->cpu->codes = array_new(MOST, DEPTH);
    bench->cpu->code_scale = array_new((size_t)MOST * DEPTH / ENG__GROUP, sizeof(float));
    bench->cpu->code_sum = array_new((size_t)MOST * DEPTH / ENG__GROUP, sizeof(int32_t));
    if (x && y && bench->cpu->codes && bench->cpu->code_scale && bench->cpu->code_sum) {
        memset(x, 0, (size_t)MOST * LD * sizeof *x);
        for (size_t i = 0; i < ARRAY_LEN(row_counts); i++) {
            uint32_t rows = row_counts[i];
            product gemm = {
                bench->cpu,
                {.mat = &mat, .src = x, .ld_src = LD, .dst = y, .ld_dst = mat.n_out, .rows = rows}};
            eng_kernel_time time = {.what = "gemm", .dtype = type_name(type), .rows = rows};
            time.gbytes = (double)mat.panels * (double)mat.panel_bytes * 1e-9;
            time.gflop = 2e-9 * rows * (double)mat.n_out * DEPTH;
            measure(bench, time, run_product, &gemm, 1);
        }
    }
    free(x);
    free(y);
    free(bench->cpu->codes);
    free(bench->cpu->code_scale);
    free(bench->cpu->code_sum);
}

/* ---- stages of a model ---- */

typedef struct {
    eng__cpu *cpu;
    eng_row *rows;
    eng_stage stage;
    uint32_t n_rows;
    bool failed;
} bench_step;

static void run_step(void *arg) {
    bench_step *step = arg;
    eng_launch launch = {.stage = step->stage, .rows = step->rows, .n_rows = step->n_rows};
    eng_result result;
    if (eng_run(&step->cpu->base, &launch, &result, NULL) != 0) step->failed = true;
}

static void add_mat(const eng__mat *mat, double *bytes, double *weights) {
    *bytes += (double)mat->panels * (double)mat->panel_bytes;
    *weights += (double)mat->n_out * mat->n_in;
}

static void add_attention(const eng__cpu *cpu, const eng__layer *layer, double *bytes,
                          double *weights) {
    const eng__mat *all[] = {&layer->q_down, &layer->q_up_nope, &layer->q_up_rope, &layer->kv_down,
                             &layer->wq,     &layer->wk,        &layer->wv,        &layer->wo};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        add_mat(all[i], bytes, weights);
    for (uint32_t head = 0; layer->uk && head < cpu->plan.n_heads; head++) {
        add_mat(&layer->uk[head], bytes, weights);
        add_mat(&layer->uv[head], bytes, weights);
    }
}

/* Part measured by bench_stage: a whole launch, or one part of every core layer on the rows of the
 * last launch. */
typedef enum { PART_ALL, PART_ATTENTION, PART_FFN } part;

static void run_attention(void *arg) {
    bench_step *step = arg;
    step->cpu->rows = step->rows;
    for (uint32_t i = 0; i < step->cpu->plan.n_core; i++)
        eng__attention(step->cpu, &step->cpu->core[i]);
}

static void run_ffn(void *arg) {
    bench_step *step = arg;
    step->cpu->rows = step->rows;
    for (uint32_t i = 0; i < step->cpu->plan.n_core; i++) {
        const eng__layer *layer = &step->cpu->core[i];
        if (layer->ffn == FFN_MOE) eng__ffn_moe(step->cpu, layer);
        else eng__ffn_dense(step->cpu, layer);
    }
}

static void add_ffn(const eng__cpu *cpu, const eng__layer *layer, double *bytes, double *weights) {
    double chosen = 0, all = 0, one = 0;
    if (layer->gate_up.data) { /* dense, or the shared experts */
        add_mat(&layer->gate_up, bytes, weights);
        add_mat(&layer->down, bytes, weights);
    }
    if (layer->ffn != FFN_MOE) return;
    add_mat(&layer->router, bytes, weights);
    for (uint32_t expert = 0; expert < cpu->plan.n_experts; expert++) {
        if (cpu->expert_first[expert + 1] == cpu->expert_first[expert]) continue;
        add_mat(&layer->expert_gate_up[expert], bytes, &chosen);
        add_mat(&layer->expert_down[expert], bytes, &chosen);
    }
    add_mat(&layer->expert_gate_up[0], &all, &one);
    add_mat(&layer->expert_down[0], &all, &one);
    *weights += one * cpu->plan.n_experts_per_tok;
}

/* Bytes to read and operations of the last launch, or of one part. */
static void weigh_step(const eng__cpu *cpu, const bench_step *step, uint32_t context, bool chunk,
                       part what, eng_kernel_time *time) {
    const model_plan *plan = &cpu->plan;
    bool coda = step->stage == ENG_STAGE_CODA;
    const eng__layer *layers = coda ? cpu->coda : cpu->core;
    uint32_t n = coda ? plan->n_coda : plan->n_core;
    double bytes = 0, weights = 0, attentions = what == PART_FFN ? 0 : n;
    for (uint32_t i = 0; i < n; i++) {
        if (what != PART_FFN) add_attention(cpu, &layers[i], &bytes, &weights);
        if (what != PART_ATTENTION) add_ffn(cpu, &layers[i], &bytes, &weights);
    }
    if (coda) add_mat(&cpu->head, &bytes, &weights);
    if (coda) add_mat(&cpu->coda_in, &bytes, &weights);
    if (!coda && what == PART_ALL) add_mat(&cpu->lora_down, &bytes, &weights);
    if (!coda && what == PART_ALL) add_mat(&cpu->inject_state, &bytes, &weights);
    double caches = chunk ? 1 : step->n_rows; /* the rows of one prompt read one cache */
    double per_position = 2.0 * plan->n_heads * (cpu->key_dim + cpu->value_dim);
    double position_bytes = plan->layer_values * (double)model_dtype_bytes(cpu->opts.cache_dtype);
    bytes += attentions * context * caches * position_bytes;
    time->gbytes = 1e-9 * bytes;
    time->gflop = 1e-9 * step->n_rows * (2.0 * weights + attentions * per_position * context);
}

/* Memory never written is one shared page of zeros, so it would be read from the cache. */
static void fill_slots(eng__cpu *cpu, uint32_t first, uint32_t n) {
    size_t values = (size_t)n * cpu->plan.slot_values, from = (size_t)first * cpu->plan.slot_values;
    for (size_t i = from; i < from + values; i++) {
        float value = (float)(i * 2654435761u % 1024) / 1024.0f - 0.5f;
        if (cpu->opts.cache_dtype == DTYPE_F32) ((float *)cpu->slots)[i] = value;
        else cpu->kern->narrow(&value, (uint16_t *)cpu->slots + i, 1);
    }
}

/* Rows at the end of `context` positions each, at loops spread over the trained ones. Each row is a
 * sequence of its own, or with `chunk` all are one prompt. */
static int set_rows(bench_step *step, uint32_t *blocks, uint32_t context, bool chunk, err *e) {
    eng__cpu *cpu = step->cpu;
    uint32_t per = (context + ENG_BLOCK - 1) / ENG_BLOCK, slot = 0, seed = 1;
    uint32_t sequences = chunk ? 1 : step->n_rows, used = sequences * per * ENG_BLOCK + 1;
    fill_slots(cpu, 0, eng__min(used, cpu->base.info.n_slots));
    for (uint32_t i = 0; i < sequences * per; i++) {
        blocks[i] = i % cpu->base.info.n_blocks; /* a small cache serves several rows at once */
        if (i >= cpu->base.info.n_blocks) continue;
        for (uint32_t off = 0; off < ENG_BLOCK; off++) {
            slot = (slot + 1) % cpu->base.info.n_slots;
            eng_edit edit = {.block = i,
                             .slot = slot,
                             .n_planes = (uint16_t)cpu->base.info.n_planes,
                             .off = (uint8_t)off};
            eng_launch launch = {.stage = step->stage, .edits = &edit, .n_edits = 1};
            eng_result result;
            if (eng_run(&cpu->base, &launch, &result, e) != 0) return -1;
        }
    }
    for (size_t i = 0; i < (size_t)step->n_rows * cpu->plan.dim; i++) {
        seed = seed * 1664525u + 1013904223u;
        cpu->state[i] = cpu->out[i] = (float)(seed >> 8) / 16777216.0f - 0.5f;
        if (cpu->plan.inject != INJECT_NONE) cpu->input[i] = cpu->state[i];
    }
    for (uint32_t i = 0; i < step->n_rows; i++) {
        step->rows[i] = (eng_row){.row = i,
                                  .pos = chunk ? context - step->n_rows + i : context - 1,
                                  .loop = (uint16_t)(chunk ? 0 : i % cpu->plan.loops_default),
                                  .min_loops = PLAN_MAX_LOOPS,
                                  .max_loops = PLAN_MAX_LOOPS,
                                  .flags = step->stage == ENG_STAGE_CODA ? ENG_ROW_LOGITS : 0,
                                  .threshold = 1.0f,
                                  .blocks = chunk ? blocks : blocks + i * per};
    }
    return 0;
}

enum { STEP_CONTEXT = 512, MOST_ROWS = 128 };

static int bench_stage(bench_state *bench, const char *what, eng_stage stage, bool chunk, part kind,
                       err *e) {
    static const pass passes[] = {run_step, run_attention, run_ffn};
    static const uint32_t row_counts[] = {1, 8, 32, MOST_ROWS};
    eng__cpu *cpu = bench->cpu;
    uint32_t context = eng__min(cpu->opts.max_positions, STEP_CONTEXT);
    uint32_t blocks_per = (context + ENG_BLOCK - 1) / ENG_BLOCK;
    bench_step step = {.cpu = cpu, .stage = stage};
    uint32_t *blocks = array_new((size_t)MOST_ROWS * blocks_per, sizeof *blocks);
    step.rows = array_new(MOST_ROWS, sizeof *step.rows);
    int rc = blocks && step.rows ? 0 : err_set(e, ERR_NO_MEMORY, NULL, "out of memory");
    for (size_t i = chunk ? ARRAY_LEN(row_counts) - 1 : 0; rc == 0 && i < ARRAY_LEN(row_counts);
         i++) {
        eng_kernel_time time = {
            .what = what, .dtype = type_name(cpu->head.type), .context = context};
        step.n_rows = time.rows = row_counts[i];
        if ((rc = set_rows(&step, blocks, context, chunk, e)) != 0) break;
        if (!wanted(bench, what, step.n_rows)) continue;
        run_step(&step);
        weigh_step(cpu, &step, context, chunk, kind, &time);
        measure(bench, time, passes[kind], &step, cpu->weight_bytes < 64u << 20 ? 20 : 1);
        if (step.failed) rc = err_set(e, ERR_INTERNAL, NULL, "a launch of the benchmark failed");
    }
    free(blocks);
    free(step.rows);
    return rc;
}

/* ---- prompts: MLA attention absorbed and expanded, in turn ---- */

enum { LONG_RUN = 512, LONG_CONTEXT = 4096 };
#define BENCH_CACHE (UINT64_C(2) << 30) /* far larger than any processor's cache */

typedef struct {
    bench_step *step;
    uint32_t window; /* window of the expanded form; 0 = absorbed */
    pass run;
} formed;

static void run_formed(void *arg) {
    formed *form = arg;
    form->step->cpu->window = form->window;
    form->run(form->step);
}

static void measure_forms(bench_state *bench, bench_step *step, uint32_t context) {
    static const struct {
        const char *names[MOST_CANDIDATES];
        part what;
        pass run;
    } rows[] = {{{"attention absorbed", "attention expanded"}, PART_ATTENTION, run_attention},
                {{"prompt absorbed", "prompt expanded"}, PART_ALL, run_step}};
    run_step(step);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        eng_kernel_time time = {
            .dtype = type_name(bench->cpu->head.type), .context = context, .rows = step->n_rows};
        formed forms[] = {{step, 0, rows[i].run}, {step, MOST_ROWS, rows[i].run}};
        candidate candidates[] = {{rows[i].names[0], run_formed, &forms[0]},
                                  {rows[i].names[1], run_formed, &forms[1]}};
        weigh_step(bench->cpu, step, context, true, rows[i].what, &time);
        measure_all(bench, time, candidates, ARRAY_LEN(candidates),
                    bench->cpu->weight_bytes < 64u << 20 ? 5 : 1);
    }
}

/* Both forms count the operations of the absorbed form, so their shares compare as speeds. */
static int bench_forms(bench_state *bench, err *e) {
    static const uint32_t chunks[] = {128, 256, LONG_RUN}, contexts[] = {512, 2048, LONG_CONTEXT};
    bench_step step = {.cpu = bench->cpu, .stage = ENG_STAGE_RECURRENT};
    uint32_t *blocks = array_new(LONG_CONTEXT / ENG_BLOCK, sizeof *blocks);
    step.rows = array_new(LONG_RUN, sizeof *step.rows);
    int rc = blocks && step.rows ? 0 : err_set(e, ERR_NO_MEMORY, NULL, "out of memory");
    for (size_t i = 0; i < ARRAY_LEN(chunks) * ARRAY_LEN(contexts); i++) {
        uint32_t context = contexts[i % ARRAY_LEN(contexts)];
        if (rc != 0 || context > bench->cpu->opts.max_positions) continue;
        step.n_rows = chunks[i / ARRAY_LEN(contexts)];
        if (bench->only_rows && bench->only_rows != step.n_rows) continue;
        if ((rc = set_rows(&step, blocks, context, true, e)) == 0)
            measure_forms(bench, &step, context);
    }
    if (rc == 0 && step.failed)
        rc = err_set(e, ERR_INTERNAL, NULL, "a launch of the benchmark failed");
    free(blocks);
    free(step.rows);
    return rc;
}

static int bench_model(bench_state *bench, const model_folder *model, const eng_backend_opts *in,
                       err *e) {
    eng_backend_opts opts = *in;
    eng_backend *backend;
    eng__cpu *plain = bench->cpu;
    opts.n_rows = opts.max_launch = LONG_RUN;
    opts.max_logits = opts.prompt_chunk = MOST_ROWS;
    if (opts.cache_bytes == 0) opts.cache_bytes = BENCH_CACHE;
    if (opts.max_positions == 0 || opts.max_positions > LONG_CONTEXT)
        opts.max_positions = LONG_CONTEXT;
    if (eng_cpu_open(&backend, model, &opts, e) != 0) return -1;
    eng__cpu *cpu = bench->cpu = (eng__cpu *)backend;
    int rc = bench_stage(bench, "recurrent step", ENG_STAGE_RECURRENT, false, PART_ALL, e);
    if (rc == 0)
        rc = bench_stage(bench, "attention", ENG_STAGE_RECURRENT, false, PART_ATTENTION, e);
    if (rc == 0) rc = bench_stage(bench, "feed-forward", ENG_STAGE_RECURRENT, false, PART_FFN, e);
    if (rc == 0)
        rc = bench_stage(bench, "recurrent prompt", ENG_STAGE_RECURRENT, true, PART_ALL, e);
    if (rc == 0) rc = bench_stage(bench, "coda and head", ENG_STAGE_CODA, false, PART_ALL, e);
    if (rc == 0 && cpu->crossover && bench->only && strcmp(bench->only, "forms") == 0)
        rc = bench_forms(bench, e);
    bench->cpu = plain;
    eng_backend_close(backend);
    return rc;
}

int eng_cpu_bench(const model_folder *model, const eng_backend_opts *opts, const char *only,
                  uint32_t rows, const char **kernels, eng_kernel_sink sink, void *ud, err *e) {
    eng__cpu cpu = {0};
    bench_state bench = {.cpu = &cpu, .sink = sink, .ud = ud, .only = only, .only_rows = rows};
    int rc = -1;
    uint32_t threads = opts->threads ? opts->threads : eng__threads_here();
    if (eng__kernels_choose(&cpu.kern, opts->kernels, e) != 0) return -1;
    *kernels = cpu.kern->name;
    bench.big = array_new_aligned(PROBE_MB, 1 << 20);
    cpu.scratch = array_new(threads, sizeof *cpu.scratch);
    float *acc = array_new_aligned((size_t)threads * ENG__ROW_BLOCK * ENG__PANEL, sizeof *acc);
    if (bench.big == NULL || cpu.scratch == NULL || acc == NULL) {
        err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the benchmark");
        goto end;
    }
    memset(bench.big, 0, (size_t)PROBE_MB << 20);
    for (uint32_t i = 0; i < threads; i++) {
        cpu.scratch[i].acc = acc + (size_t)i * ENG__ROW_BLOCK * ENG__PANEL;
    }
    for (uint32_t n_threads = 1; n_threads < threads; n_threads *= 2) {
        if (eng__pool_create(&cpu.pool, n_threads, e) != 0) goto end;
        choose_way(&bench);
        report_probes(&bench);
        eng__pool_destroy(cpu.pool);
        cpu.pool = NULL;
    }
    if (eng__pool_create(&cpu.pool, threads, e) != 0) goto end;
    choose_way(&bench);
    report_probes(&bench);
    bench_products(&bench, ENG__F32);
    bench_products(&bench, ENG__BF16);
    bench_products(&bench, ENG__I8);
    rc = model ? bench_model(&bench, model, opts, e) : 0;
end:
    eng__pool_destroy(cpu.pool);
    free(bench.big);
    free(cpu.scratch);
    free(acc);
    return rc;
}
