/* step.c - one recurrent step of a real model through the backend: rows at a full context, each
 * its own sequence, as one captured graph and as single launches; the difference is the cost of
 * starting kernels. And a loop by the clock on the wall, once with the host reading who halted
 * before it starts the next, once with two launches in flight; what either takes over the step
 * alone is time the device stands idle. Writes one JSON object to stdout. Run by bench/cuda/run.sh.
 *
 *   fathom-cuda-step MODEL_DIR [CONTEXT] [ROWS,ROWS,...] */
#include "base/clock.h"
#include "base/size.h"
#include "engine/cuda/cuda_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 16, ROUNDS = 5 };

typedef struct {
    eng_backend *b;
    const model_plan *c;
    uint32_t rows, context, blocks; /* blocks of one sequence */
    eng_row *row;
    eng_edit *edits;
    uint32_t *tables;
} bench;

static void must(bool ok, const char *what) {
    if (ok) return;
    fprintf(stderr, "fathom-cuda-step: %s\n", what);
    exit(1);
}

/* Every position of every sequence has a slot of its own, one for all planes. */
static void fill(bench *x) {
    uint32_t n = 0;
    for (uint32_t r = 0; r < x->rows; r++) {
        for (uint32_t i = 0; i < x->blocks; i++)
            x->tables[r * x->blocks + i] = r * x->blocks + i;
        for (uint32_t p = 0; p < x->context; p++) {
            x->edits[n] = (eng_edit){.block = r * x->blocks + p / ENG_BLOCK,
                                     .slot = n,
                                     .n_planes = (uint16_t)x->b->info.n_planes,
                                     .off = (uint8_t)(p % ENG_BLOCK)};
            n++;
        }
        x->row[r] = (eng_row){.row = r,
                              .pos = x->context - 1,
                              .token = r * 37 % x->c->vocab_size,
                              .max_loops = (uint16_t)x->c->loops_default,
                              .threshold = 2,
                              .blocks = x->tables + r * x->blocks};
    }
}

static uint64_t run(bench *x, eng_stage stage, uint32_t loop, uint32_t n_edits) {
    err e = {0};
    eng_result r;
    for (uint32_t i = 0; i < x->rows; i++)
        x->row[i].loop = (uint16_t)loop;
    eng_launch l = {stage, x->row, x->rows, x->edits, n_edits};
    must(eng_run(x->b, &l, &r, &e) == 0, e.msg);
    return r.ns;
}

static int by_size(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void open_at(bench *x, const model_folder *m, uint32_t rows, uint32_t context,
                    const char *kernels) {
    err e = {0};
    const model_plan *c = model_plan_of(m);
    *x = (bench){
        .c = c, .rows = rows, .context = context, .blocks = (context + ENG_BLOCK - 1) / ENG_BLOCK};
    uint64_t slot = (uint64_t)c->slot_values * 2, planes = plan_planes(c, c->loops_default);
    uint64_t need = (uint64_t)rows * x->blocks * ENG_BLOCK * (slot + planes * 4) * 2 +
                    planes * 32 * (slot + 4) * 2;
    /* Maps may take but a part of the budget: leave room for one per block. */
    eng_backend_opts o = {.n_rows = rows,
                          .max_launch = rows,
                          .max_logits = 1,
                          .cache_bytes = need * 4 + (64u << 20),
                          .max_positions = context,
                          .cache_dtype = DTYPE_BF16,
                          .kernels = kernels};
    must(eng__cuda_open_device(&x->b, m, &o, 0, &e) == 0, e.msg);
    cu_backend *b = (cu_backend *)x->b;
    must(b->cache.n_blocks >= rows * x->blocks && b->cache.n_slots >= rows * context,
         "the cache is too small");
    must(cudaMemset(b->cache.slots, 0, (size_t)b->cache.n_slots * slot) == cudaSuccess,
         "clearing the cache");
    must(cudaDeviceSynchronize() == cudaSuccess, "clearing the cache");
    x->row = array_new(rows, sizeof *x->row);
    x->edits = array_new((size_t)rows * context, sizeof *x->edits);
    x->tables = array_new((size_t)rows * x->blocks, sizeof *x->tables);
    must(x->row && x->edits && x->tables, "out of memory");
    fill(x);
    (void)run(x, ENG_STAGE_PRELUDE, 0, rows * context);
}

static void close_it(bench *x) {
    free(x->row);
    free(x->edits);
    free(x->tables);
    eng_backend_close(x->b);
}

/* Median time of a step over all loops, in microseconds on the device. */
static double median_us(bench *x) {
    uint64_t ns[PLAN_MAX_LOOPS * 3];
    uint32_t n = 0;
    for (int round = 0; round < 3; round++) {
        for (uint32_t t = 0; t < x->c->loops_default; t++) {
            uint64_t took = run(x, ENG_STAGE_RECURRENT, t, 0);
            if (round) ns[n++] = took; /* the first round warms up */
        }
    }
    qsort(ns, n, sizeof *ns, by_size);
    return (double)ns[n / 2] * 1e-3;
}

/* A slot for each row's loop and, ahead, a guard on both, as a scheduler has them. */
static void start(bench *x, uint32_t loop, bool ahead) {
    err e = {0};
    for (uint32_t i = 0; i < x->rows; i++) {
        eng_row *r = &x->row[i];
        r->loop = (uint16_t)loop;
        r->flags = ahead ? ENG_ROW_GUARDED : 0;
        r->guard = r->row;
        x->edits[i] = (eng_edit){.block = r->blocks[r->pos / ENG_BLOCK],
                                 .slot = i * x->context + r->pos,
                                 .plane = (uint16_t)plan_plane_loop(x->c, loop),
                                 .n_planes = 1,
                                 .off = (uint8_t)(r->pos % ENG_BLOCK),
                                 .guarded = ahead,
                                 .guard = r->row};
    }
    eng_launch l = {ENG_STAGE_RECURRENT, x->row, x->rows, x->edits, x->rows};
    must(x->b->ops->launch(x->b, &l, &e) == 0, e.msg);
}

static void await(bench *x) {
    err e = {0};
    eng_result r;
    must(x->b->ops->wait(x->b, &r, &e) == 0, e.msg);
    for (uint32_t i = 0; i < x->rows; i++)
        must(!r.halted[i], "a row halts that must not");
}

/* Microseconds per loop by the clock, of one pass over all loops. */
static double pass_us(bench *x, bool ahead) {
    uint32_t loops = x->c->loops_default;
    uint64_t from = clock_ns();
    if (ahead) start(x, 0, true);
    for (uint32_t t = 0; t < loops; t++) {
        if (!ahead) start(x, t, false);
        else if (t + 1 < loops) start(x, t + 1, true);
        await(x);
    }
    return (double)(clock_ns() - from) * 1e-3 / loops;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Both ways in turn; medians. */
static void loop_us(bench *x, double *stop, double *ahead) {
    double us[2][ROUNDS];
    for (uint32_t i = 0; i < x->rows; i++) { /* nobody halts */
        x->row[i].threshold = 1e30f;
        x->row[i].max_loops = UINT16_MAX;
    }
    (void)run(x, ENG_STAGE_PRELUDE, 0, 0);
    (void)pass_us(x, true);
    for (int i = 0; i < ROUNDS; i++) {
        us[0][i] = pass_us(x, false);
        us[1][i] = pass_us(x, true);
    }
    for (int k = 0; k < 2; k++)
        qsort(us[k], ROUNDS, sizeof us[k][0], by_value);
    *stop = us[0][ROUNDS / 2];
    *ahead = us[1][ROUNDS / 2];
}

int main(int argc, char **argv) {
    err e = {0};
    model_folder *m;
    int devices = 0;
    if (argc < 2 || cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
        fprintf(stderr, argc < 2 ? "usage: fathom-cuda-step MODEL_DIR [CONTEXT] [ROWS,...]\n"
                                 : "fathom-cuda-step: no CUDA device\n");
        return 2;
    }
    must(model_open(&m, argv[1], &e) == 0, e.msg);
    uint32_t context = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 1024;
    must(context >= 1 && context <= 1u << 17, "the context is 1 to 131072");
    uint32_t loops = model_plan_of(m)->loops_default, n = 0;
    printf("{\"context\":%u,\"loops\":%u,\"steps\":[\n", context, loops);
    for (const char *at = argc > 3 ? argv[3] : "1,8,32,128,512"; *at && n < MOST; n++) {
        char *end;
        uint32_t rows = (uint32_t)strtoul(at, &end, 10);
        must(end != at && rows >= 1 && rows <= 8192, "rows are 1 to 8192");
        bench x;
        double graph, plain, stop, ahead;
        open_at(&x, m, rows, context, "bf16");
        graph = median_us(&x);
        loop_us(&x, &stop, &ahead);
        close_it(&x);
        open_at(&x, m, rows, context, "bf16-stream");
        plain = median_us(&x);
        close_it(&x);
        printf(
            "%s{\"rows\":%u,\"graph_us\":%.1f,\"single_launches_us\":%.1f,\"row_loops_per_s\":%.0f,"
            "\"tokens_per_s_all_loops\":%.0f,\"loop_host_stop_us\":%.1f,\"loop_two_in_flight_us\":%"
            ".1f,"
            "\"two_in_flight_gain\":%.3f}",
            n ? ",\n" : "", rows, graph, plain, rows / graph * 1e6, rows / graph * 1e6 / loops,
            stop, ahead, stop / ahead);
        fflush(stdout);
        at = *end ? end + 1 : end;
    }
    printf("\n]}\n");
    model_close(m);
    return 0;
}
