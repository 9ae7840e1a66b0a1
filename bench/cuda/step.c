/* step.c - one recurrent step of a real model through the backend: rows at a full context, each
 * its own sequence, as one captured graph and as single launches; the difference is the cost of
 * starting kernels. Writes one JSON object to stdout. Run by bench/cuda/run.sh.
 *
 *   fathom-cuda-step MODEL_DIR [CONTEXT] [ROWS,ROWS,...] */
#include "engine/cuda/cuda_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 16 };

typedef struct {
    eng_backend *b;
    const eng_config *c;
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
                              .max_loops = (uint16_t)x->c->max_loop_iters,
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

/* Median time of a step over all loops, in microseconds on the device. */
static double median_us(const eng_model *m, uint32_t rows, uint32_t context, const char *kernels) {
    err e = {0};
    const eng_config *c = eng_model_config(m);
    bench x = {
        .c = c, .rows = rows, .context = context, .blocks = (context + ENG_BLOCK - 1) / ENG_BLOCK};
    uint64_t slot = (uint64_t)c->slot_values * 2,
             planes = c->prelude_layers + c->coda_layers + c->max_loop_iters;
    uint64_t need = (uint64_t)rows * x.blocks * ENG_BLOCK * (slot + planes * 4) * 2 +
                    planes * 32 * (slot + 4) * 2;
    /* Maps may take but a part of the budget: leave room for one per block. */
    eng_backend_opts o = {.n_rows = rows,
                          .max_launch = rows,
                          .max_logits = 1,
                          .cache_bytes = need * 4 + (64u << 20),
                          .max_positions = context,
                          .cache_dtype = ENG_BF16,
                          .kernels = kernels};
    must(eng__cuda_open_device(&x.b, m, &o, 0, &e) == 0, e.msg);
    cu_backend *b = (cu_backend *)x.b;
    must(b->cache.n_blocks >= rows * x.blocks && b->cache.n_slots >= rows * context,
         "the cache is too small");
    must(cudaMemset(b->cache.slots, 0, (size_t)b->cache.n_slots * slot) == cudaSuccess,
         "clearing the cache");
    must(cudaDeviceSynchronize() == cudaSuccess, "clearing the cache");
    x.row = array_new(rows, sizeof *x.row);
    x.edits = array_new((size_t)rows * context, sizeof *x.edits);
    x.tables = array_new((size_t)rows * x.blocks, sizeof *x.tables);
    must(x.row && x.edits && x.tables, "out of memory");
    fill(&x);
    (void)run(&x, ENG_STAGE_PRELUDE, 0, rows * context);
    uint64_t ns[ENG_MAX_LOOPS * 3];
    uint32_t n = 0;
    for (int round = 0; round < 3; round++) {
        for (uint32_t t = 0; t < c->max_loop_iters; t++) {
            uint64_t took = run(&x, ENG_STAGE_RECURRENT, t, 0);
            if (round) ns[n++] = took; /* the first round warms up */
        }
    }
    qsort(ns, n, sizeof *ns, by_size);
    free(x.row);
    free(x.edits);
    free(x.tables);
    eng_backend_close(x.b);
    return (double)ns[n / 2] * 1e-3;
}

int main(int argc, char **argv) {
    err e = {0};
    eng_model *m;
    int devices = 0;
    if (argc < 2 || cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
        fprintf(stderr, argc < 2 ? "usage: fathom-cuda-step MODEL_DIR [CONTEXT] [ROWS,...]\n"
                                 : "fathom-cuda-step: no CUDA device\n");
        return 2;
    }
    must(eng_model_open(&m, argv[1], &e) == 0, e.msg);
    uint32_t context = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 1024;
    must(context >= 1 && context <= 1u << 17, "the context is 1 to 131072");
    uint32_t loops = eng_model_config(m)->max_loop_iters, n = 0;
    printf("{\"context\":%u,\"loops\":%u,\"steps\":[\n", context, loops);
    for (const char *at = argc > 3 ? argv[3] : "1,8,32,128,512"; *at && n < MOST; n++) {
        char *end;
        uint32_t rows = (uint32_t)strtoul(at, &end, 10);
        must(end != at && rows >= 1 && rows <= 8192, "rows are 1 to 8192");
        double graph = median_us(m, rows, context, "bf16"),
               plain = median_us(m, rows, context, "bf16-stream");
        printf(
            "%s{\"rows\":%u,\"graph_us\":%.1f,\"single_launches_us\":%.1f,\"row_loops_per_s\":%.0f,"
            "\"tokens_per_s_all_loops\":%.0f}",
            n ? ",\n" : "", rows, graph, plain, rows / graph * 1e6, rows / graph * 1e6 / loops);
        fflush(stdout);
        at = *end ? end + 1 : end;
    }
    printf("\n]}\n");
    eng_model_close(m);
    return 0;
}
