/* step.c - a token's stages through the backend, rows at a full context, each its own sequence: the
 * device's time of each stage as a captured graph and as single launches, and the bytes of a step
 * per second as a share of the read probe. Also the time of a loop by the wall clock, once with the
 * host reading the halted rows before it starts the next loop, once with two launches in flight;
 * the excess of either over the step alone is idle time of the device. README.md says how. Writes
 * one JSON object to stdout, a number of rows a line. Run by bench/tools/cuda/first_gpu.py.
 *
 *   fathom-cuda-step MODEL_DIR|VARIANT [CONTEXT] [ROWS,ROWS,...] */
#include "base/clock.h"
#include "base/size.h"
#include "bench/tools/cuda/bench.h"

#include <cuda_profiler_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 5, SAMPLES = PLAN_MAX_LOOPS * ROUNDS };

const char *kb_program = "fathom-cuda-step";

typedef struct {
    kb_rig rig;
    kb_probes probes;
    eng_edit *edits;
    eng_draw *draws;
    uint32_t rows;
    double us[SAMPLES]; /* of launches queued behind another */
    uint32_t n_us;
    double live, looks; /* routed experts with a row, summed over looks */
} step_bench;

/* ---- launches ---- */

static void start(step_bench *bench, eng_stage stage) {
    err e = {0};
    bool loops = stage == ENG_STAGE_RECURRENT;
    eng_launch launch = {stage, bench->rig.row, bench->rows, loops ? bench->edits : NULL,
                         loops ? bench->rows : 0};
    cu_backend *cuda = bench->rig.cuda;
    if (cuda->base.ops->launch(&cuda->base, &launch, &e) != 0) kb_fail("%s", e.msg);
}

static void await(step_bench *bench, bool behind) {
    err e = {0};
    eng_result result;
    cu_backend *cuda = bench->rig.cuda;
    if (cuda->base.ops->wait(&cuda->base, &result, &e) != 0) kb_fail("%s", e.msg);
    for (uint32_t i = 0; i < bench->rows; i++) {
        if (result.halted[i]) kb_fail("a row halts that must not");
    }
    if (behind && bench->n_us < SAMPLES) bench->us[bench->n_us++] = (double)result.ns * 1e-3;
}

/* A slot for each row's loop and, ahead, a guard on both, as a scheduler has them. */
static void start_loop(step_bench *bench, uint32_t loop, bool ahead) {
    kb_rig *rig = &bench->rig;
    for (uint32_t i = 0; i < bench->rows; i++) {
        eng_row *row = &rig->row[i];
        row->loop = (uint16_t)loop;
        row->flags = ahead ? ENG_ROW_GUARDED : 0;
        row->guard = row->row;
        bench->edits[i] = (eng_edit){.block = row->blocks[row->pos / ENG_BLOCK],
                                     .slot = i,
                                     .plane = (uint16_t)plan_plane_loop(&rig->plan, loop),
                                     .n_planes = 1,
                                     .off = (uint8_t)(row->pos % ENG_BLOCK),
                                     .guarded = ahead,
                                     .guard = row->row};
    }
    start(bench, ENG_STAGE_RECURRENT);
}

/* Microseconds per loop by the clock, of one pass over all loops. */
static double pass_us(step_bench *bench, bool ahead) {
    uint32_t loops = bench->rig.plan.loops_default;
    uint64_t from = clock_ns();
    if (ahead) start_loop(bench, 0, true);
    for (uint32_t loop = 0; loop < loops; loop++) {
        if (!ahead) start_loop(bench, loop, false);
        else if (loop + 1 < loops) start_loop(bench, loop + 1, true);
        await(bench, ahead && loop);
    }
    return (double)(clock_ns() - from) * 1e-3 / loops;
}

/* ---- measurements ---- */

static double median(double *values, uint32_t n) {
    return n ? kb_sorted(values, n).median : 0;
}

/* The device's time of one recurrent step, and a loop by the clock on the wall. */
static double loops_us(step_bench *bench, double *wall) {
    double us[ROUNDS];
    (void)pass_us(bench, true);
    bench->n_us = 0;
    for (int i = 0; i < ROUNDS; i++)
        us[i] = pass_us(bench, true);
    if (wall) *wall = median(us, ROUNDS);
    return median(bench->us, bench->n_us);
}

static double stopped_us(step_bench *bench) {
    double us[ROUNDS];
    for (int i = 0; i < ROUNDS; i++) {
        us[i] = pass_us(bench, false);
        bench->live += kb_live_experts(bench->rig.cuda, bench->rows);
        bench->looks++;
    }
    return median(us, ROUNDS);
}

/* Prelude, or coda with head and sampling: the second of two launches queued together. */
static double stage_us(step_bench *bench, eng_stage stage) {
    static const eng_sampling greedy = {.top_p = 1, .repetition_penalty = 1};
    for (uint32_t i = 0; i < bench->rows; i++) {
        bench->draws[i] = (eng_draw){.sampling = &greedy};
        bench->rig.row[i].draw = &bench->draws[i];
        bench->rig.row[i].flags = stage == ENG_STAGE_CODA ? ENG_ROW_SAMPLE : 0;
    }
    bench->n_us = 0;
    for (int i = 0; i < ROUNDS + 1; i++) {
        start(bench, stage);
        start(bench, stage);
        await(bench, false);
        await(bench, i > 0); /* the first warms up */
    }
    return median(bench->us, bench->n_us);
}

static double share(const step_bench *bench, double bytes, double us) {
    return bytes / us * 1e-3 / bench->probes.read_gb_s.best;
}

static void at_rows(step_bench *bench, uint32_t rows, bool first) {
    kb_rig *rig = &bench->rig;
    cu_backend *cuda = rig->cuda;
    double wall, stop, graph, single, prelude, coda;
    bench->rows = rows;
    bench->live = bench->looks = 0;
    prelude = stage_us(bench, ENG_STAGE_PRELUDE);
    graph = loops_us(bench, &wall);
    stop = stopped_us(bench);
    coda = stage_us(bench, ENG_STAGE_CODA);
    cuda->graphs = false;
    (void)cudaProfilerStart(); /* ncu --profile-from-start off: warm steps only */
    single = loops_us(bench, NULL);
    (void)cudaProfilerStop();
    cuda->graphs = true;
    uint32_t live = (uint32_t)(bench->live / bench->looks + 0.5), loops = rig->plan.loops_default;
    double step = kb_stage_bytes(cuda, ENG_STAGE_RECURRENT, rows, rig->context, live);
    double in = kb_stage_bytes(cuda, ENG_STAGE_PRELUDE, rows, rig->context, 0);
    double out =
        kb_stage_bytes(cuda, ENG_STAGE_CODA, rows, rig->context, 0) + kb_head_bytes(cuda, rows);
    double token = prelude + loops * graph + coda;
    printf("%s{\"rows\":%u,\"graph_us\":%.1f,\"step_bytes\":%.0f,\"share_of_probe\":%.3f,"
           "\"experts_with_rows\":%u,\"single_launches_us\":%.1f,\"prelude_us\":%.1f,"
           "\"prelude_share_of_probe\":%.3f,\"coda_and_head_us\":%.1f,"
           "\"coda_and_head_share_of_probe\":%.3f,\"row_loops_per_s\":%.0f,"
           "\"tokens_per_s_all_loops\":%.0f,\"loop_host_stop_us\":%.1f,"
           "\"loop_two_in_flight_us\":%.1f,\"two_in_flight_gain\":%.3f}",
           first ? "" : ",\n", rows, graph, step, share(bench, step, graph), live, single, prelude,
           share(bench, in, prelude), coda, share(bench, out, coda), rows / graph * 1e6,
           rows / token * 1e6, stop, wall, stop / wall);
    fflush(stdout);
}

int main(int argc, char **argv) {
    static step_bench bench;
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
    model_folder *model = kb_open_model(argv[1]);
    kb_rig *rig = &bench.rig;
    kb_rig_open(rig, model, "bf16", most, most, context, context);
    bench.edits = array_new(most, sizeof *bench.edits);
    bench.draws = array_new(most, sizeof *bench.draws);
    if (bench.edits == NULL || bench.draws == NULL) kb_fail("out of memory");
    kb_probe_read(&bench.probes, rig->cuda, plan_params(&rig->plan) < 10000000);
    printf("{\"device\":\"%s\",\"context\":%u,\"loops\":%u,\"read_probe_gb_s\":%.1f,"
           "\"read_probe_median_gb_s\":%.1f,\"slots_of_every_position\":%s,\n\"steps\":[\n",
           rig->cuda->device_name, context, rig->plan.loops_default, bench.probes.read_gb_s.best,
           bench.probes.read_gb_s.median,
           rig->used_blocks < (uint64_t)rig->n_seqs * rig->blocks ? "false" : "true");
    for (uint32_t i = 0; i < n; i++)
        at_rows(&bench, rows[i], i == 0);
    printf("\n]}\n");
    free(bench.edits);
    free(bench.draws);
    kb_rig_close(rig);
    model_close(model);
    return 0;
}
