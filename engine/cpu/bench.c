/* bench.c - how near the kernels come to what the machine allows.
 *
 * Every measurement is alternated with a read probe and an arithmetic probe, so that a busy
 * neighbour slows all three; the share of the bound is the median over the rounds. */
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
    eng__cpu *g; /* pool, kernels and scratch; a model only when it measures stages */
    float *big;  /* PROBE_MB that no cache holds */
    eng_kernel_sink sink;
    void *ud;
    const char *only;     /* NULL = everything */
    uint32_t only_rows;   /* 0 = all */
    uint32_t way;         /* of reading, the fastest of this pool */
    _Atomic uint32_t sum; /* keeps probes from being optimised away */
} bench;

static bool wanted(const bench *b, const char *what, uint32_t rows) {
    if (b->only && strcmp(b->only, what) != 0) return false;
    return b->only_rows == 0 || rows == 0 || rows == b->only_rows;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v, size_t n) {
    qsort(v, n, sizeof *v, by_value);
    return v[n / 2];
}

/* Wall time and CPU time per thread, in seconds; as a difference or as a point in time. */
typedef struct {
    double wall, cpu;
} span;

static span now(const bench *b) {
    double cpu = (double)eng__pool_cpu_ns(b->g->pool) * 1e-9;
    return (span){(double)clock_ns() * 1e-9, cpu / eng__pool_threads(b->g->pool)};
}

static span since(const bench *b, span start) {
    span end = now(b);
    return (span){end.wall - start.wall, end.cpu - start.cpu};
}

static void read_work(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    bench *b = arg;
    size_t mb = (1 << 20) / sizeof(float);
    (void)worker;
    float s = b->g->k->read_probe(b->big + first * mb, (last - first) * mb, b->way);
    atomic_fetch_add_explicit(&b->sum, s > 0, memory_order_relaxed);
}

static void fma_work(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    bench *b = arg;
    (void)worker;
    float s = b->g->k->fma_probe((size_t)(last - first) * (FMA_STEPS / FMA_ITEMS / 16));
    atomic_fetch_add_explicit(&b->sum, s > 0, memory_order_relaxed);
}

static void dot_work(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    bench *b = arg;
    (void)worker;
    float s = b->g->k->dot_probe((size_t)(last - first) * (FMA_STEPS / FMA_ITEMS / 16));
    atomic_fetch_add_explicit(&b->sum, s > 0, memory_order_relaxed);
}

/* Seconds per byte and per operation right now. */
static span probe_read(bench *b) {
    span t = now(b);
    eng__pool_run(b->g->pool, read_work, b, PROBE_MB, 1);
    t = since(b, t);
    double bytes = (double)PROBE_MB * 1048576.0;
    return (span){t.wall / bytes, t.cpu / bytes};
}

/* A limit is worth what the fastest reader gets. */
static void choose_way(bench *b) {
    double best = INFINITY;
    uint32_t fastest = 0;
    for (uint32_t i = 0; i < 3 * ENG__READ_WAYS; i++) {
        b->way = i % ENG__READ_WAYS;
        double took = probe_read(b).wall;
        if (took < best) best = took, fastest = b->way;
    }
    b->way = fastest;
}

static span probe_math(bench *b, bool int8) {
    span t = now(b);
    eng__pool_run(b->g->pool, int8 ? dot_work : fma_work, b, FMA_ITEMS, 1);
    t = since(b, t);
    double n = (double)FMA_ITEMS * (FMA_STEPS / FMA_ITEMS / 16) * b->g->k->fma_probe_flops;
    if (int8) n *= 4;
    return (span){t.wall / n, t.cpu / n};
}

typedef void (*pass)(void *arg);

static double larger(double a, double b) {
    return a > b ? a : b;
}

/* Passes of the same arithmetic measured in turn, each with its name. */
typedef struct {
    const char *what;
    pass run;
    void *arg;
} candidate;

enum { MOST_CANDIDATES = 2 };

/* Fills seconds and percent of t, which knows its gbytes and gflop, and reports it for each
 * of n candidates. */
static void measure_all(bench *b, eng_kernel_time t, const candidate *c, size_t n,
                        uint32_t repeat) {
    double times[MOST_CANDIDATES][ROUNDS], wall[MOST_CANDIDATES][ROUNDS],
        cpu[MOST_CANDIDATES][ROUNDS], reads = 0, maths = 0;
    double bytes = t.gbytes * 1e9, flop = t.gflop * 1e9;
    bool int8 = strcmp(t.dtype, "INT8") == 0;
    for (size_t k = 0; k < n; k++)
        c[k].run(c[k].arg);
    for (int i = 0; i < ROUNDS; i++) {
        span read = probe_read(b), math = probe_math(b, int8);
        for (size_t k = 0; k < n; k++) {
            span took = now(b);
            for (uint32_t r = 0; r < repeat; r++)
                c[k].run(c[k].arg);
            took = since(b, took);
            times[k][i] = took.wall / repeat;
            wall[k][i] = 100.0 * larger(bytes * read.wall, flop * math.wall) / times[k][i];
            cpu[k][i] = 100.0 * larger(bytes * read.cpu, flop * math.cpu) / (took.cpu / repeat);
        }
        reads += bytes * read.cpu;
        maths += flop * math.cpu;
    }
    for (size_t k = 0; k < n; k++) {
        t.what = c[k].what;
        t.threads = eng__pool_threads(b->g->pool);
        t.seconds = median(times[k], ROUNDS);
        t.percent = median(wall[k], ROUNDS);
        t.percent_cpu = median(cpu[k], ROUNDS);
        t.bound = reads > maths ? "read" : int8 ? "int8" : "fma";
        b->sink(b->ud, &t);
    }
}

static void measure(bench *b, eng_kernel_time t, pass run, void *arg, uint32_t repeat) {
    candidate c = {t.what, run, arg};
    if (wanted(b, t.what, t.rows)) measure_all(b, t, &c, 1, repeat);
}

static void report_probe(bench *b, eng_kernel_time t, const span *took) {
    double wall[ROUNDS], cpu[ROUNDS];
    for (int i = 0; i < ROUNDS; i++) {
        wall[i] = took[i].wall * 1e9;
        cpu[i] = took[i].cpu * 1e9;
    }
    t.dtype = "-";
    t.threads = eng__pool_threads(b->g->pool);
    t.seconds = median(wall, ROUNDS);
    t.cpu_seconds = median(cpu, ROUNDS);
    b->sink(b->ud, &t);
}

static void report_probes(bench *b) {
    span read[ROUNDS], fma[ROUNDS], dot[ROUNDS];
    if (!wanted(b, "probe", 0)) return;
    for (int i = 0; i < ROUNDS; i++) {
        read[i] = probe_read(b);
        fma[i] = probe_math(b, false);
        dot[i] = probe_math(b, true);
    }
    report_probe(b, (eng_kernel_time){.what = "read probe", .gbytes = 1}, read);
    report_probe(b, (eng_kernel_time){.what = "fma probe", .gflop = 1}, fma);
    report_probe(b, (eng_kernel_time){.what = "int8 probe", .gflop = 1}, dot);
}

/* ---- products ---- */

typedef struct {
    eng__cpu *g;
    eng__gemm job;
} product;

static void run_product(void *arg) {
    product *p = arg;
    eng__gemm job = p->job;
    eng__gemm_run(p->g, &job, 1);
}

static const char *type_name(eng__wtype t) {
    return t == ENG__F32 ? "F32" : t == ENG__BF16 ? "BF16" : "INT8";
}

static void bench_products(bench *b, eng__wtype type) {
    static const uint32_t row_counts[] = {1, 8, 32, 128};
    enum { K = 2048, LD = K + ENG__PAD, MOST = 128 };
    eng__mat w = {.data = (const uint8_t *)b->big, .k = K, .type = type};
    w.panel_bytes = type == ENG__I8 ? (size_t)K / ENG__GROUP * ENG__GROUP_BYTES
                                    : (size_t)K * ENG__PANEL * (type == ENG__F32 ? 4 : 2);
    w.panels = (uint32_t)(PROBE_MB * 1048576u / w.panel_bytes);
    w.n = w.panels * ENG__PANEL;
    float *x = array_new_aligned((size_t)MOST * LD, sizeof *x);
    float *y = array_new_aligned((size_t)MOST * w.n, sizeof *y);
    b->g->codes = array_new(MOST, K);
    b->g->code_scale = array_new((size_t)MOST * K / ENG__GROUP, sizeof(float));
    b->g->code_sum = array_new((size_t)MOST * K / ENG__GROUP, sizeof(int32_t));
    if (x && y && b->g->codes && b->g->code_scale && b->g->code_sum) {
        memset(x, 0, (size_t)MOST * LD * sizeof *x);
        for (size_t i = 0; i < ARRAY_LEN(row_counts); i++) {
            uint32_t rows = row_counts[i];
            product p = {b->g, {.w = &w, .x = x, .ldx = LD, .y = y, .ldy = w.n, .rows = rows}};
            eng_kernel_time t = {.what = "gemm", .dtype = type_name(type), .rows = rows};
            t.gbytes = (double)w.panels * (double)w.panel_bytes * 1e-9;
            t.gflop = 2e-9 * rows * (double)w.n * K;
            measure(b, t, run_product, &p, 1);
        }
    }
    free(x);
    free(y);
    free(b->g->codes);
    free(b->g->code_scale);
    free(b->g->code_sum);
}

/* ---- stages of a model ---- */

typedef struct {
    eng__cpu *g;
    eng_row *rows;
    eng_stage stage;
    uint32_t n;
    bool failed;
} step;

static void run_step(void *arg) {
    step *s = arg;
    eng_launch l = {.stage = s->stage, .rows = s->rows, .n_rows = s->n};
    eng_result r;
    if (eng_run(&s->g->base, &l, &r, NULL) != 0) s->failed = true;
}

static void add_mat(const eng__mat *m, double *bytes, double *weights) {
    *bytes += (double)m->panels * (double)m->panel_bytes;
    *weights += (double)m->n * m->k;
}

static void add_attention(const eng__cpu *g, const eng__layer *l, double *bytes, double *weights) {
    const eng__mat *all[] = {&l->q_down, &l->q_up_nope, &l->q_up_rope, &l->kv_down,
                             &l->wq,     &l->wk,        &l->wv,        &l->wo};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        add_mat(all[i], bytes, weights);
    for (uint32_t h = 0; l->uk && h < g->plan.n_heads; h++) {
        add_mat(&l->uk[h], bytes, weights);
        add_mat(&l->uv[h], bytes, weights);
    }
}

/* What bench_stage measures: a whole launch, or one part of every core layer on the rows that
 * the last launch left behind. */
typedef enum { PART_ALL, PART_ATTENTION, PART_FFN } part;

static void run_attention(void *arg) {
    step *s = arg;
    s->g->rows = s->rows;
    for (uint32_t i = 0; i < s->g->plan.n_core; i++)
        eng__attention(s->g, &s->g->core[i]);
}

static void run_ffn(void *arg) {
    step *s = arg;
    s->g->rows = s->rows;
    for (uint32_t i = 0; i < s->g->plan.n_core; i++) {
        const eng__layer *l = &s->g->core[i];
        if (l->moe) eng__ffn_moe(s->g, l);
        else eng__ffn_dense(s->g, l);
    }
}

static void add_ffn(const eng__cpu *g, const eng__layer *l, double *bytes, double *weights) {
    double chosen = 0, all = 0, one = 0;
    if (l->gate_up.data) { /* dense, or the shared experts */
        add_mat(&l->gate_up, bytes, weights);
        add_mat(&l->down, bytes, weights);
    }
    if (!l->moe) return;
    add_mat(&l->router, bytes, weights);
    for (uint32_t x = 0; x < g->plan.n_experts; x++) {
        if (g->expert_first[x + 1] == g->expert_first[x]) continue;
        add_mat(&l->expert_gate_up[x], bytes, &chosen);
        add_mat(&l->expert_down[x], bytes, &chosen);
    }
    add_mat(&l->expert_gate_up[0], &all, &one);
    add_mat(&l->expert_down[0], &all, &one);
    *weights += one * g->plan.n_experts_per_tok;
}

/* What the launch just run had to read and compute, or that part of it. */
static void weigh_step(const eng__cpu *g, const step *s, uint32_t context, bool chunk, part what,
                       eng_kernel_time *t) {
    const model_plan *p = &g->plan;
    bool coda = s->stage == ENG_STAGE_CODA;
    const eng__layer *layers = coda ? g->coda : g->core;
    uint32_t n = coda ? p->n_coda : p->n_core;
    double bytes = 0, weights = 0, attentions = what == PART_FFN ? 0 : n;
    for (uint32_t i = 0; i < n; i++) {
        if (what != PART_FFN) add_attention(g, &layers[i], &bytes, &weights);
        if (what != PART_ATTENTION) add_ffn(g, &layers[i], &bytes, &weights);
    }
    if (coda) add_mat(&g->head, &bytes, &weights);
    if (!coda && what == PART_ALL) add_mat(&g->lora_down, &bytes, &weights);
    double caches = chunk ? 1 : s->n; /* rows of one prompt read one cache */
    double per_position = 2.0 * p->n_heads * (g->dk + g->dv);
    double position_bytes = p->layer_values * (double)model_dtype_bytes(g->opts.cache_dtype);
    bytes += attentions * context * caches * position_bytes;
    t->gbytes = 1e-9 * bytes;
    t->gflop = 1e-9 * s->n * (2.0 * weights + attentions * per_position * context);
}

/* Memory never written is one page of zeros for all addresses, which every cache holds. */
static void fill_slots(eng__cpu *g, uint32_t first, uint32_t n) {
    size_t values = (size_t)n * g->plan.slot_values, from = (size_t)first * g->plan.slot_values;
    for (size_t i = from; i < from + values; i++) {
        float v = (float)(i * 2654435761u % 1024) / 1024.0f - 0.5f;
        if (g->opts.cache_dtype == DTYPE_F32) ((float *)g->slots)[i] = v;
        else g->k->narrow(&v, (uint16_t *)g->slots + i, 1);
    }
}

/* n rows at the end of `context` positions each, at loops spread over the trained ones;
 * one sequence per row, or with `chunk` one prompt. */
static int set_rows(step *s, uint32_t *blocks, uint32_t context, bool chunk, err *e) {
    eng__cpu *g = s->g;
    uint32_t per = (context + ENG_BLOCK - 1) / ENG_BLOCK, slot = 0, seed = 1;
    uint32_t sequences = chunk ? 1 : s->n, used = sequences * per * ENG_BLOCK + 1;
    fill_slots(g, 0, used < g->base.info.n_slots ? used : g->base.info.n_slots);
    for (uint32_t i = 0; i < sequences * per; i++) {
        blocks[i] = i % g->base.info.n_blocks; /* a small cache serves several rows at once */
        if (i >= g->base.info.n_blocks) continue;
        for (uint32_t p = 0; p < ENG_BLOCK; p++) {
            slot = (slot + 1) % g->base.info.n_slots;
            eng_edit d = {.block = i,
                          .slot = slot,
                          .n_planes = (uint16_t)g->base.info.n_planes,
                          .off = (uint8_t)p};
            eng_launch l = {.stage = s->stage, .edits = &d, .n_edits = 1};
            eng_result r;
            if (eng_run(&g->base, &l, &r, e) != 0) return -1;
        }
    }
    for (size_t i = 0; i < (size_t)s->n * g->plan.dim; i++) {
        seed = seed * 1664525u + 1013904223u;
        g->h[i] = g->out[i] = (float)(seed >> 8) / 16777216.0f - 0.5f;
        if (g->plan.inject != INJECT_NONE) g->e[i] = g->h[i];
    }
    for (uint32_t i = 0; i < s->n; i++) {
        s->rows[i] = (eng_row){.row = i,
                               .pos = chunk ? context - s->n + i : context - 1,
                               .loop = (uint16_t)(chunk ? 0 : i % g->plan.loops_default),
                               .min_loops = PLAN_MAX_LOOPS,
                               .max_loops = PLAN_MAX_LOOPS,
                               .flags = s->stage == ENG_STAGE_CODA ? ENG_ROW_LOGITS : 0,
                               .threshold = 1.0f,
                               .blocks = chunk ? blocks : blocks + i * per};
    }
    return 0;
}

enum { STEP_CONTEXT = 512, MOST_ROWS = 128 };

static int bench_stage(bench *b, const char *what, eng_stage stage, bool chunk, part kind, err *e) {
    static const pass passes[] = {run_step, run_attention, run_ffn};
    static const uint32_t row_counts[] = {1, 8, 32, MOST_ROWS};
    eng__cpu *g = b->g;
    uint32_t context = g->opts.max_positions < STEP_CONTEXT ? g->opts.max_positions : STEP_CONTEXT;
    uint32_t blocks_per = (context + ENG_BLOCK - 1) / ENG_BLOCK;
    step s = {.g = g, .stage = stage};
    uint32_t *blocks = array_new((size_t)MOST_ROWS * blocks_per, sizeof *blocks);
    s.rows = array_new(MOST_ROWS, sizeof *s.rows);
    int rc = blocks && s.rows ? 0 : err_set(e, ERR_NO_MEMORY, NULL, "out of memory");
    for (size_t i = chunk ? ARRAY_LEN(row_counts) - 1 : 0; rc == 0 && i < ARRAY_LEN(row_counts);
         i++) {
        eng_kernel_time t = {.what = what, .dtype = type_name(g->head.type), .context = context};
        s.n = t.rows = row_counts[i];
        if ((rc = set_rows(&s, blocks, context, chunk, e)) != 0) break;
        if (!wanted(b, what, s.n)) continue;
        run_step(&s);
        weigh_step(g, &s, context, chunk, kind, &t);
        measure(b, t, passes[kind], &s, g->weight_bytes < 64u << 20 ? 20 : 1);
        if (s.failed) rc = err_set(e, ERR_INTERNAL, NULL, "a launch of the benchmark failed");
    }
    free(blocks);
    free(s.rows);
    return rc;
}

/* ---- prompts: MLA attention absorbed and expanded, in turn ---- */

enum { LONG_RUN = 512, LONG_CONTEXT = 4096 };
#define BENCH_CACHE (UINT64_C(2) << 30) /* far more than any processor's own cache */

typedef struct {
    step *s;
    uint32_t window; /* of the expanded form; 0 = absorbed */
    pass run;
} formed;

static void run_formed(void *arg) {
    formed *f = arg;
    f->s->g->window = f->window;
    f->run(f->s);
}

static void measure_forms(bench *b, step *s, uint32_t context) {
    static const struct {
        const char *names[MOST_CANDIDATES];
        part what;
        pass run;
    } rows[] = {{{"attention absorbed", "attention expanded"}, PART_ATTENTION, run_attention},
                {{"prompt absorbed", "prompt expanded"}, PART_ALL, run_step}};
    run_step(s);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        eng_kernel_time t = {.dtype = type_name(b->g->head.type), .context = context, .rows = s->n};
        formed f[] = {{s, 0, rows[i].run}, {s, MOST_ROWS, rows[i].run}};
        candidate c[] = {{rows[i].names[0], run_formed, &f[0]},
                         {rows[i].names[1], run_formed, &f[1]}};
        weigh_step(b->g, s, context, true, rows[i].what, &t);
        measure_all(b, t, c, ARRAY_LEN(c), b->g->weight_bytes < 64u << 20 ? 5 : 1);
    }
}

/* Both forms count the absorbed form's arithmetic, so their shares compare as speeds do. */
static int bench_forms(bench *b, err *e) {
    static const uint32_t chunks[] = {128, 256, LONG_RUN}, contexts[] = {512, 2048, LONG_CONTEXT};
    step s = {.g = b->g, .stage = ENG_STAGE_RECURRENT};
    uint32_t *blocks = array_new(LONG_CONTEXT / ENG_BLOCK, sizeof *blocks);
    s.rows = array_new(LONG_RUN, sizeof *s.rows);
    int rc = blocks && s.rows ? 0 : err_set(e, ERR_NO_MEMORY, NULL, "out of memory");
    for (size_t i = 0; i < ARRAY_LEN(chunks) * ARRAY_LEN(contexts); i++) {
        uint32_t context = contexts[i % ARRAY_LEN(contexts)];
        if (rc != 0 || context > b->g->opts.max_positions) continue;
        s.n = chunks[i / ARRAY_LEN(contexts)];
        if (b->only_rows && b->only_rows != s.n) continue;
        if ((rc = set_rows(&s, blocks, context, true, e)) == 0) measure_forms(b, &s, context);
    }
    if (rc == 0 && s.failed)
        rc = err_set(e, ERR_INTERNAL, NULL, "a launch of the benchmark failed");
    free(blocks);
    free(s.rows);
    return rc;
}

static int bench_model(bench *b, const model_folder *m, const eng_backend_opts *in, err *e) {
    eng_backend_opts o = *in;
    eng_backend *backend;
    eng__cpu *plain = b->g;
    o.n_rows = o.max_launch = LONG_RUN;
    o.max_logits = o.prompt_chunk = MOST_ROWS;
    if (o.cache_bytes == 0) o.cache_bytes = BENCH_CACHE;
    if (o.max_positions == 0 || o.max_positions > LONG_CONTEXT) o.max_positions = LONG_CONTEXT;
    if (eng_cpu_open(&backend, m, &o, e) != 0) return -1;
    eng__cpu *g = b->g = (eng__cpu *)backend;
    int rc = bench_stage(b, "recurrent step", ENG_STAGE_RECURRENT, false, PART_ALL, e);
    if (rc == 0) rc = bench_stage(b, "attention", ENG_STAGE_RECURRENT, false, PART_ATTENTION, e);
    if (rc == 0) rc = bench_stage(b, "feed-forward", ENG_STAGE_RECURRENT, false, PART_FFN, e);
    if (rc == 0) rc = bench_stage(b, "recurrent prompt", ENG_STAGE_RECURRENT, true, PART_ALL, e);
    if (rc == 0) rc = bench_stage(b, "coda and head", ENG_STAGE_CODA, false, PART_ALL, e);
    if (rc == 0 && g->crossover && b->only && strcmp(b->only, "forms") == 0) rc = bench_forms(b, e);
    b->g = plain;
    eng_backend_close(backend);
    return rc;
}

int eng_cpu_bench(const model_folder *m, const eng_backend_opts *o, const char *only, uint32_t rows,
                  const char **kernels, eng_kernel_sink sink, void *ud, err *e) {
    eng__cpu g = {0};
    bench b = {.g = &g, .sink = sink, .ud = ud, .only = only, .only_rows = rows};
    int rc = -1;
    uint32_t threads = o->threads ? o->threads : eng__threads_here();
    if (eng__kernels_choose(&g.k, o->kernels, e) != 0) return -1;
    *kernels = g.k->name;
    b.big = array_new_aligned(PROBE_MB, 1 << 20);
    g.scratch = array_new(threads, sizeof *g.scratch);
    float *acc = array_new_aligned((size_t)threads * ENG__ROW_BLOCK * ENG__PANEL, sizeof *acc);
    if (b.big == NULL || g.scratch == NULL || acc == NULL) {
        err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the benchmark");
        goto end;
    }
    memset(b.big, 0, (size_t)PROBE_MB << 20);
    for (uint32_t i = 0; i < threads; i++) {
        g.scratch[i].acc = acc + (size_t)i * ENG__ROW_BLOCK * ENG__PANEL;
    }
    for (uint32_t t = 1; t < threads; t *= 2) {
        if (eng__pool_create(&g.pool, t, e) != 0) goto end;
        choose_way(&b);
        report_probes(&b);
        eng__pool_destroy(g.pool);
        g.pool = NULL;
    }
    if (eng__pool_create(&g.pool, threads, e) != 0) goto end;
    choose_way(&b);
    report_probes(&b);
    bench_products(&b, ENG__F32);
    bench_products(&b, ENG__BF16);
    bench_products(&b, ENG__I8);
    rc = m ? bench_model(&b, m, o, e) : 0;
end:
    eng__pool_destroy(g.pool);
    free(b.big);
    free(g.scratch);
    free(acc);
    return rc;
}
