/* step.c - a token's stages through the backend, rows at a full context, each its own sequence: the
 * device's time of each stage as a captured graph and as single launches, and the bytes of a step
 * per second as a share of the read probe. Also the time of a loop by the wall clock, once with the
 * host reading the halted rows before it starts the next loop, once with two launches in flight;
 * the excess of either over the step alone is idle time of the device. README.md says how. Writes
 * one JSON object to stdout, a number of rows a line. Run by bench/cuda/first_gpu.py.
 *
 *   fathom-cuda-step MODEL_DIR|VARIANT [CONTEXT] [ROWS,ROWS,...] */
#include "base/clock.h"
#include "base/size.h"
#include "bench/cuda/bench.h"

#include <cuda_profiler_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 5, SAMPLES = PLAN_MAX_LOOPS * ROUNDS };

const char *kb_program = "fathom-cuda-step";

typedef struct {
    kb_rig x;
    kb_probes probes;
    eng_edit *edits;
    eng_draw *draws;
    uint32_t rows;
    double us[SAMPLES]; /* of launches queued behind another */
    uint32_t n;
    double live, looks; /* routed experts with a row, summed over looks */
} bench;

/* ---- launches ---- */

static void start(bench *b, eng_stage stage) {
    err e = {0};
    bool loops = stage == ENG_STAGE_RECURRENT;
    eng_launch l = {stage, b->x.row, b->rows, loops ? b->edits : NULL, loops ? b->rows : 0};
    cu_backend *c = b->x.b;
    if (c->base.ops->launch(&c->base, &l, &e) != 0) kb_fail("%s", e.msg);
}

static void await(bench *b, bool behind) {
    err e = {0};
    eng_result r;
    cu_backend *c = b->x.b;
    if (c->base.ops->wait(&c->base, &r, &e) != 0) kb_fail("%s", e.msg);
    for (uint32_t i = 0; i < b->rows; i++) {
        if (r.halted[i]) kb_fail("a row halts that must not");
    }
    if (behind && b->n < SAMPLES) b->us[b->n++] = (double)r.ns * 1e-3;
}

/* A slot for each row's loop and, ahead, a guard on both, as a scheduler has them. */
static void start_loop(bench *b, uint32_t loop, bool ahead) {
    kb_rig *x = &b->x;
    for (uint32_t i = 0; i < b->rows; i++) {
        eng_row *r = &x->row[i];
        r->loop = (uint16_t)loop;
        r->flags = ahead ? ENG_ROW_GUARDED : 0;
        r->guard = r->row;
        b->edits[i] = (eng_edit){.block = r->blocks[r->pos / ENG_BLOCK],
                                 .slot = i,
                                 .plane = (uint16_t)plan_plane_loop(&x->c, loop),
                                 .n_planes = 1,
                                 .off = (uint8_t)(r->pos % ENG_BLOCK),
                                 .guarded = ahead,
                                 .guard = r->row};
    }
    start(b, ENG_STAGE_RECURRENT);
}

/* Microseconds per loop by the clock, of one pass over all loops. */
static double pass_us(bench *b, bool ahead) {
    uint32_t loops = b->x.c.loops_default;
    uint64_t from = clock_ns();
    if (ahead) start_loop(b, 0, true);
    for (uint32_t t = 0; t < loops; t++) {
        if (!ahead) start_loop(b, t, false);
        else if (t + 1 < loops) start_loop(b, t + 1, true);
        await(b, ahead && t);
    }
    return (double)(clock_ns() - from) * 1e-3 / loops;
}

/* ---- measurements ---- */

static double median(double *v, uint32_t n) {
    return n ? kb_sorted(v, n).median : 0;
}

/* The device's time of one recurrent step, and a loop by the clock on the wall. */
static double loops_us(bench *b, double *wall) {
    double us[ROUNDS];
    (void)pass_us(b, true);
    b->n = 0;
    for (int i = 0; i < ROUNDS; i++)
        us[i] = pass_us(b, true);
    if (wall) *wall = median(us, ROUNDS);
    return median(b->us, b->n);
}

static double stopped_us(bench *b) {
    double us[ROUNDS];
    for (int i = 0; i < ROUNDS; i++) {
        us[i] = pass_us(b, false);
        b->live += kb_live_experts(b->x.b, b->rows);
        b->looks++;
    }
    return median(us, ROUNDS);
}

/* Prelude, or coda with head and sampling: the second of two launches queued together. */
static double stage_us(bench *b, eng_stage stage) {
    static const eng_sampling greedy = {.top_p = 1, .repetition_penalty = 1};
    for (uint32_t i = 0; i < b->rows; i++) {
        b->draws[i] = (eng_draw){.sampling = &greedy};
        b->x.row[i].draw = &b->draws[i];
        b->x.row[i].flags = stage == ENG_STAGE_CODA ? ENG_ROW_SAMPLE : 0;
    }
    b->n = 0;
    for (int i = 0; i < ROUNDS + 1; i++) {
        start(b, stage);
        start(b, stage);
        await(b, false);
        await(b, i > 0); /* the first warms up */
    }
    return median(b->us, b->n);
}

static double share(const bench *b, double bytes, double us) {
    return bytes / us * 1e-3 / b->probes.read_gb_s.best;
}

static void at_rows(bench *b, uint32_t rows, bool first) {
    kb_rig *x = &b->x;
    cu_backend *c = x->b;
    double wall, stop, graph, single, prelude, coda;
    b->rows = rows;
    b->live = b->looks = 0;
    prelude = stage_us(b, ENG_STAGE_PRELUDE);
    graph = loops_us(b, &wall);
    stop = stopped_us(b);
    coda = stage_us(b, ENG_STAGE_CODA);
    c->graphs = false;
    (void)cudaProfilerStart(); /* ncu --profile-from-start off: only warm steps, without the opening
                                */
    single = loops_us(b, NULL);
    (void)cudaProfilerStop();
    c->graphs = true;
    uint32_t live = (uint32_t)(b->live / b->looks + 0.5), loops = x->c.loops_default;
    double step = kb_stage_bytes(c, ENG_STAGE_RECURRENT, rows, x->context, live);
    double in = kb_stage_bytes(c, ENG_STAGE_PRELUDE, rows, x->context, 0);
    double out = kb_stage_bytes(c, ENG_STAGE_CODA, rows, x->context, 0) + kb_head_bytes(c, rows);
    double token = prelude + loops * graph + coda;
    printf("%s{\"rows\":%u,\"graph_us\":%.1f,\"step_bytes\":%.0f,\"share_of_probe\":%.3f,"
           "\"experts_with_rows\":%u,\"single_launches_us\":%.1f,\"prelude_us\":%.1f,"
           "\"prelude_share_of_probe\":%.3f,\"coda_and_head_us\":%.1f,"
           "\"coda_and_head_share_of_probe\":%.3f,\"row_loops_per_s\":%.0f,"
           "\"tokens_per_s_all_loops\":%.0f,\"loop_host_stop_us\":%.1f,"
           "\"loop_two_in_flight_us\":%.1f,\"two_in_flight_gain\":%.3f}",
           first ? "" : ",\n", rows, graph, step, share(b, step, graph), live, single, prelude,
           share(b, in, prelude), coda, share(b, out, coda), rows / graph * 1e6, rows / token * 1e6,
           stop, wall, stop / wall);
    fflush(stdout);
}

int main(int argc, char **argv) {
    static bench b;
    uint32_t rows[KB_ROWS], most;
    int devices = 0;
    if (argc < 2 || cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
        fprintf(stderr, argc < 2
                            ? "usage: fathom-cuda-step MODEL_DIR|VARIANT [CONTEXT] [ROWS,...]\n"
                            : "fathom-cuda-step: no CUDA device\n");
        return 2;
    }
    uint32_t context = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 1024;
    if (context < 1 || context > 1u << 17) kb_fail("the context is 1 to 131072");
    uint32_t n = kb_parse_rows(argc > 3 ? argv[3] : "1,8,32,128,512", rows, &most);
    model_folder *m = kb_open_model(argv[1]);
    kb_rig *x = &b.x;
    kb_rig_open(x, m, "bf16", most, most, context, context);
    b.edits = array_new(most, sizeof *b.edits);
    b.draws = array_new(most, sizeof *b.draws);
    if (b.edits == NULL || b.draws == NULL) kb_fail("out of memory");
    kb_probe_read(&b.probes, x->b, plan_params(&x->c) < 10000000);
    printf("{\"device\":\"%s\",\"context\":%u,\"loops\":%u,\"read_probe_gb_s\":%.1f,"
           "\"read_probe_median_gb_s\":%.1f,\"slots_of_every_position\":%s,\n\"steps\":[\n",
           x->b->device_name, context, x->c.loops_default, b.probes.read_gb_s.best,
           b.probes.read_gb_s.median,
           x->used_blocks < (uint64_t)x->n_seqs * x->blocks ? "false" : "true");
    for (uint32_t i = 0; i < n; i++)
        at_rows(&b, rows[i], i == 0);
    printf("\n]}\n");
    free(b.edits);
    free(b.draws);
    kb_rig_close(x);
    model_close(m);
    return 0;
}
