/* kernels.c - each kernel of a step in a graph of its own, cold and warm, as a share of the rates
 * this device read and multiplied at in the same run; README.md says how. Writes one JSON object to
 * stdout, a kernel a line. Run by bench/tools/cuda/first_gpu.py.
 *
 *   fathom-cuda-bench [VARIANT|FOLDER] [CONTEXT] [ROWS,ROWS,...]     mythos_1b 1024 1,8,32,128,512
 */
#include "base/size.h"
#include "bench/tools/cuda/bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { L2_ATTRIBUTE = 38 }; /* cudaDevAttrL2CacheSize; the shim has no name for it */

const char *kb_program = "fathom-cuda-bench";
bool kb_first_line = true;

typedef struct {
    kb_rig rig;
    kb_sets sets;
    kb_sites sites;
    kb_probes probes;
    bool small;
    size_t l2_bytes;
    const char *done[2 * KB_SITES]; /* kernels measured at this number of rows */
    uint32_t n_done;
} kernel_bench;

/* One kernel at one number of rows: the times of all its captures. */
typedef struct {
    const char *name;
    bool own;
    kb_times cold, hot, apart; /* apart: without overlap */
} measured;

/* ---- lines ---- */

static void print_work(const kernel_bench *bench, const kb_work *work, double us) {
    if (work->bytes > 0) {
        double gbs = work->bytes / us * 1e-3;
        printf(",\"bytes\":%.0f,\"gb_s\":%.1f,\"percent_of_read_probe\":%.1f", work->bytes, gbs,
               100 * gbs / bench->probes.read_gb_s.best);
    }
    if (work->flop > 0) {
        double tflops = work->flop / us * 1e-6;
        printf(",\"gflop\":%.4f,\"percent_of_matrix_probe\":%.1f", work->flop * 1e-9,
               100 * tflops / bench->probes.matrix_tflop_s.best);
    }
}

static void print_kernel(const kernel_bench *bench, const measured *meas, const char *stage,
                         uint32_t rows, const kb_work *work) {
    printf("%s{\"kernel\":\"%s\",\"stage\":\"%s\",\"rows\":%u,\"own\":%s,\"us\":%.2f,"
           "\"spread_percent\":%.1f,\"hot_us\":%.2f,\"no_overlap_us\":%.2f",
           kb_first_line ? "" : ",\n", meas->name, stage, rows, meas->own ? "true" : "false",
           meas->cold.median, 100 * (meas->cold.worst - meas->cold.best) / meas->cold.median,
           meas->hot.median, meas->apart.median);
    print_work(bench, work, meas->cold.median);
    printf("}");
    kb_first_line = false;
    fflush(stdout);
}

/* ---- stages ---- */

static const char *const stage_names[] = {"prelude", "recurrent", "coda", "head"};
static const cu_path decode = {CU_ONE_ROW, 1};

static bool is_done(const kernel_bench *bench, const char *name) {
    for (uint32_t i = 0; i < bench->n_done; i++) {
        if (strcmp(bench->done[i], name) == 0) return true;
    }
    return false;
}

static measured *find(measured *meas, uint32_t n, const char *name) {
    for (uint32_t i = 0; i < n; i++) {
        if (strcmp(meas[i].name, name) == 0) return &meas[i];
    }
    return NULL;
}

/* The rows the engine's graphs have room for: cuBLAS computes them all. */
static uint32_t capacity(const kernel_bench *bench, uint32_t rows) {
    return bench->rig.cuda->bucket[eng__cuda_bucket(bench->rig.cuda, rows)];
}

/* Captures a stage once and times its kernel `only`, or every kernel not measured before at these
 * rows (every stage has a qkv: the loop's counts). */
static uint32_t measure_pass(kernel_bench *bench, int stage, uint32_t rows, const char *only,
                             bool begin, int pass, measured *out, uint32_t n) {
    kb_sites *sites = &bench->sites;
    bool cold = pass != 1;
    kb_overlap(bench->rig.cuda, pass != 2);
    kb_capture(sites, stage, capacity(bench, rows), decode, cold);
    for (uint32_t k = 0; k < sites->n_sites; k++) {
        const kb_site *site = &sites->site[k];
        if (begin != (strcmp(site->name, "begin") == 0)) continue;
        if (only ? strcmp(site->name, only) != 0 : is_done(bench, site->name)) continue;
        kb_times times = kb_time(sites, site, cold);
        if (pass == 0) out[n++] = (measured){site->name, site->own, times, times, times};
        else if (pass == 1) find(out, n, site->name)->hot = times;
        else find(out, n, site->name)->apart = times;
    }
    kb_forget(sites);
    kb_overlap(bench->rig.cuda, true);
    return n;
}

/* begin comes last: it writes the descriptor all others read. */
static uint32_t measure_stage(kernel_bench *bench, int stage, uint32_t rows, const char *only,
                              measured out[KB_SITES]) {
    uint32_t n = 0;
    for (int pass = 0; pass < 6; pass++)
        n = measure_pass(bench, stage, rows, only, pass >= 3, pass % 3, out, n);
    return n;
}

static void stage(kernel_bench *bench, int stage_index, uint32_t rows, const char *only,
                  const char *as) {
    measured meas[KB_SITES];
    eng_stage of = stage_index < CU_STAGES ? (eng_stage)stage_index : ENG_STAGE_CODA;
    uint32_t live = kb_live_experts(bench->rig.cuda, rows);
    uint32_t n = measure_stage(bench, stage_index, rows, only, meas);
    for (uint32_t i = 0; i < n; i++) {
        kb_work work =
            kb_kernel_work(bench->rig.cuda, meas[i].name, of, rows, bench->rig.context, live);
        if (as == NULL) bench->done[bench->n_done++] = meas[i].name;
        else meas[i].name = as;
        print_kernel(bench, &meas[i], stage_names[stage_index], rows, &work);
    }
}

/* Enough descriptors for keys and values of four times the second-level cache. */
static uint32_t sets_for(const kernel_bench *bench, uint32_t rows) {
    size_t one = (size_t)rows * bench->rig.context * bench->rig.plan.layer_values * 2 *
                 bench->rig.plan.n_core;
    size_t n = 4 * bench->l2_bytes / one + 1, most = bench->sites.times;
    return (uint32_t)(n < most ? n : most);
}

/* ---- products: own kernel and cuBLAS side by side ---- */

static uint32_t by_one_kind(kernel_bench *bench, int stage_index, uint32_t rows, uint32_t blas_rows,
                            measured out[KB_SITES]) {
    kb_sites *sites = &bench->sites;
    cu_backend *cuda = bench->rig.cuda;
    uint32_t n = 0, engines = cuda->blas_rows;
    cuda->blas_rows = blas_rows;
    if (stage_index < CU_STAGES) (void)kb_run(&bench->rig, (eng_stage)stage_index, 0, rows);
    kb_capture(sites, stage_index, capacity(bench, rows), decode, true);
    for (uint32_t k = 1; k < sites->n_sites; k++) { /* not begin, as in measure_stage */
        kb_times times = kb_time(sites, &sites->site[k], true);
        out[n++] = (measured){sites->site[k].name, sites->site[k].own, times, times, times};
    }
    kb_forget(sites);
    cuda->blas_rows = engines;
    return n;
}

/* Every product cuBLAS can take, to read the best switch point from. The always-on experts are
 * groups of the expert kernels on one side and two products on the other: hence the sums. */
static void products(kernel_bench *bench, int stage_index, uint32_t rows) {
    measured own[KB_SITES], blas[KB_SITES];
    uint32_t n_own = by_one_kind(bench, stage_index, rows, UINT32_MAX, own);
    uint32_t n_blas = by_one_kind(bench, stage_index, rows, 1, blas);
    double sum[2] = {0, 0};
    for (uint32_t i = 0; i < n_own; i++)
        sum[0] += own[i].cold.median;
    for (uint32_t i = 0; i < n_blas; i++) {
        measured *other = find(own, n_own, blas[i].name);
        sum[1] += blas[i].cold.median;
        if (blas[i].own || other == NULL) continue;
        printf(",\n{\"kernel\":\"product_%s\",\"rows\":%u,\"own_us\":%.2f,\"cublas_us\":%.2f,"
               "\"engine_uses\":\"%s\"}",
               blas[i].name, rows, other->cold.median, blas[i].cold.median,
               rows >= bench->rig.cuda->blas_rows ? "cublas" : "own");
    }
    printf(",\n{\"kernel\":\"sum_of_kernels\",\"stage\":\"%s\",\"rows\":%u,\"own_us\":%.2f,"
           "\"cublas_us\":%.2f}",
           stage_names[stage_index], rows, sum[0], sum[1]);
    fflush(stdout);
}

/* ---- the head and its ways to sample ---- */

static void head(kernel_bench *bench, uint32_t rows) {
    static const struct {
        const char *name;
        eng_sampling how;
        uint32_t n_top;
    } ways[] = {{"sample_greedy", {.top_p = 1, .repetition_penalty = 1}, 0},
                {"sample_draw", {.temperature = 0.8f, .top_p = 1, .repetition_penalty = 1}, 0},
                {"sample_top_k_top_p",
                 {.temperature = 0.8f, .top_p = 0.9f, .top_k = 50, .repetition_penalty = 1},
                 0},
                {"sample_greedy_20_best", {.top_p = 1, .repetition_penalty = 1}, ENG_MAX_TOP}};
    eng_row *row = array_new(rows, sizeof *row);
    eng_draw *draws = array_new(rows, sizeof *draws);
    if (row == NULL || draws == NULL) kb_fail("out of memory");
    bench->sets.n_desc = 0;
    for (size_t k = 0; k < ARRAY_LEN(ways); k++) {
        for (uint32_t i = 0; i < rows; i++) {
            draws[i] = (eng_draw){.sampling = &ways[k].how, .index = i, .n_top = ways[k].n_top};
            row[i] = bench->rig.row[i];
            row[i].flags = ENG_ROW_SAMPLE;
            row[i].draw = &draws[i];
        }
        (void)kb_run_rows(&bench->rig, ENG_STAGE_CODA, row, rows, NULL, 0);
        if (k == 0) stage(bench, CU_STAGES, rows, "head", "head");
        stage(bench, CU_STAGES, rows, "sample", ways[k].name);
    }
    free(row);
    free(draws);
}

/* ---- begin, with an edit a row ---- */

static void begin_with_edits(kernel_bench *bench, uint32_t rows) {
    kb_rig *rig = &bench->rig;
    eng_edit *edits = array_new(rows, sizeof *edits);
    if (edits == NULL) kb_fail("out of memory");
    for (uint32_t i = 0; i < rows; i++) {
        const eng_row *row = &rig->row[i];
        edits[i] = (eng_edit){.block = row->blocks[row->pos / ENG_BLOCK],
                              .slot = i,
                              .plane = (uint16_t)plan_plane_loop(&rig->plan, row->loop),
                              .n_planes = 1,
                              .off = (uint8_t)(row->pos % ENG_BLOCK)};
    }
    (void)kb_run_rows(rig, ENG_STAGE_RECURRENT, rig->row, rows, edits, rows);
    bench->sets.n_desc = 0; /* the backend's own */
    stage(bench, ENG_STAGE_RECURRENT, rows, "begin", "begin_with_edits");
    free(edits);
}

/* The whole stage as one graph, layers and all: the time of its kernels together. */
static void whole(kernel_bench *bench, uint32_t rows) {
    kb_sites *sites = &bench->sites;
    kb_rig *rig = &bench->rig;
    uint32_t live = kb_live_experts(rig->cuda, rows),
             n = eng__cuda_layers(rig->cuda, ENG_STAGE_RECURRENT);
    uint32_t times = sites->times;
    kb_times took[2];
    if (times > 8) sites->times = 8; /* 48 layers are a long graph */
    for (int overlap = 0; overlap < 2; overlap++) {
        kb_overlap(rig->cuda, overlap);
        kb_capture_whole(sites, ENG_STAGE_RECURRENT, capacity(bench, rows), decode);
        took[overlap] = kb_time(sites, &sites->site[0], true);
        kb_forget(sites);
    }
    sites->times = times;
    kb_work work = {kb_stage_bytes(rig->cuda, ENG_STAGE_RECURRENT, rows, rig->context, live), 0};
    printf(",\n{\"kernel\":\"stage_recurrent\",\"rows\":%u,\"layers\":%u,\"us\":%.2f,"
           "\"us_per_layer\":%.2f,\"no_overlap_us\":%.2f,\"experts_with_rows\":%u",
           rows, n, took[1].median, took[1].median / n, took[0].median, live);
    print_work(bench, &work, took[1].median);
    printf("}");
    fflush(stdout);
}

static void at_rows(kernel_bench *bench, uint32_t rows) {
    bench->n_done = 0;
    kb_set_loop(&bench->rig, -1);
    kb_copy_desc(&bench->sets, &bench->rig, ENG_STAGE_RECURRENT, rows, sets_for(bench, rows));
    stage(bench, ENG_STAGE_RECURRENT, rows, NULL, NULL);
    kb_copy_desc(&bench->sets, &bench->rig, ENG_STAGE_RECURRENT, rows, sets_for(bench, rows));
    whole(bench, rows);
    kb_copy_desc(&bench->sets, &bench->rig, ENG_STAGE_RECURRENT, rows, sets_for(bench, rows));
    if (rows > 8) products(bench, ENG_STAGE_RECURRENT, rows);
    begin_with_edits(bench, rows);
    for (int other = ENG_STAGE_PRELUDE; other <= ENG_STAGE_CODA; other += ENG_STAGE_CODA) {
        kb_copy_desc(&bench->sets, &bench->rig, (eng_stage)other, rows, sets_for(bench, rows));
        stage(bench, other, rows, NULL, NULL);
    }
    head(bench, rows);
}

/* ---- the same model with grouped queries ---- */

static void close_all(kernel_bench *bench, model_folder *model) {
    kb_close_sites(&bench->sites);
    kb_free_sets(&bench->sets);
    kb_rig_close(&bench->rig);
    model_close(model);
}

static void open_all(kernel_bench *bench, const model_folder *model, uint32_t most,
                     uint32_t context) {
    int l2 = 0;
    uint32_t small_most = context > KB_SMALL_PROMPT / 2 ? 2 * context : KB_SMALL_PROMPT;
    uint32_t positions = bench->small ? small_most : 4096;
    uint32_t seqs = most > 2 * KB_SETS ? most : 2 * KB_SETS;
    if (bench->small || cudaDeviceGetAttribute(&l2, (int)L2_ATTRIBUTE, 0)) l2 = 1 << 16;
    bench->l2_bytes = (size_t)l2;
    bench->sets = (kb_sets){.n_desc = 0};
    bench->sites = (kb_sites){.rig = &bench->rig,
                              .sets = &bench->sets,
                              .times = bench->small ? 2 : KB_SETS,
                              .replays = bench->small ? 1 : 7,
                              .flush_bytes = 4 * bench->l2_bytes};
    kb_rig_open(&bench->rig, model, bench->small ? "bf16-expand-stream" : "bf16-stream", most,
                bench->small ? most + 1 : seqs, context, positions);
    cu_backend *cuda = bench->rig.cuda;
    bench->sites.flush = kb_take(cuda, bench->sites.flush_bytes);
    bench->sites.sink = kb_take(cuda, 16);
    kb_fill(cuda, bench->sites.flush, bench->sites.flush_bytes, false);
    cuda->opts.max_positions =
        context; /* all derived figures stay those of decoding at `context` */
}

/* Its heads, K/V heads and width, with small experts. */
static void grouped(kernel_bench *bench, const uint32_t *rows, uint32_t n, uint32_t most) {
    static const char *const kernels[][2] = {{"gqa_prep", "gqa_prep"},
                                             {"attention", "attention_gqa"}};
    model_plan plan = bench->rig.plan;
    uint32_t context = bench->rig.context;
    plan.attn = ATTN_GQA;
    plan.head_dim = plan.dim / plan.n_heads;
    plan.expert_dim = 32;
    plan_derive(&plan);
    model_folder *model = kb_random_model(&plan);
    open_all(bench, model, most, context);
    kb_copy_weights(&bench->sets, bench->rig.cuda, bench->l2_bytes, kb_room() / 2);
    for (uint32_t i = 0; i < n; i++) {
        kb_set_loop(&bench->rig, -1);
        kb_copy_desc(&bench->sets, &bench->rig, ENG_STAGE_RECURRENT, rows[i],
                     sets_for(bench, rows[i]));
        for (size_t k = 0; k < ARRAY_LEN(kernels); k++)
            stage(bench, ENG_STAGE_RECURRENT, rows[i], kernels[k][0], kernels[k][1]);
    }
    close_all(bench, model);
}

/* ---- the program ---- */

static void print_probes(const kb_probes *probes) {
    printf("\"read_probe_gb_s\":%.1f,\"read_probe_median_gb_s\":%.1f,"
           "\"matrix_probe_tflop_s\":%.1f,\"matrix_probe_median_tflop_s\":%.1f,\n",
           probes->read_gb_s.best, probes->read_gb_s.median, probes->matrix_tflop_s.best,
           probes->matrix_tflop_s.median);
    printf("\"host_launch_us\":%.2f,\"graph_node_us\":%.2f,\"graph_node_overlap_us\":%.2f,\n",
           probes->launch_us, probes->node_us, probes->node_overlap_us);
    fflush(stdout);
}

int main(int argc, char **argv) {
    static kernel_bench bench;
    uint32_t rows[KB_ROWS], most;
    int devices = 0;
    const char *variant = argc > 1 ? argv[1] : "mythos_1b";
    bench.small = strstr(variant, "tiny") != NULL; /* to try the program itself, not to measure */
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
        fprintf(stderr, "fathom-cuda-bench: no CUDA device\n");
        return 2;
    }
    uint32_t context = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 1024;
    if (context < 1 || context > 1u << 20) kb_fail("the context is 1 to 1048576");
    uint32_t n = kb_parse_rows(argc > 3      ? argv[3]
                               : bench.small ? "1,9"
                                             : "1,8,32,128,512",
                               rows, &most);
    model_folder *model = kb_open_model(variant);
    open_all(&bench, model, most, context);
    printf("{\"device\":\"%s\",\"variant\":\"%s\",\"context\":%u,\"dtype\":\"bf16\",\n",
           bench.rig.cuda->device_name, variant, context);
    kb_probe_read(&bench.probes, bench.rig.cuda, bench.small);
    kb_probe_rest(&bench.probes, bench.rig.cuda, bench.small);
    print_probes(&bench.probes);
    kb_copy_weights(&bench.sets, bench.rig.cuda, bench.l2_bytes, kb_room() / 2);
    printf(
        "\"repetitions\":%u,\"weights_cold\":%s,\"slots_of_every_position\":%s,\n\"kernels\":[\n",
        bench.sites.times, bench.sets.short_of_memory ? "false" : "true",
        bench.rig.used_blocks < (uint64_t)bench.rig.n_seqs * bench.rig.blocks ? "false" : "true");
    for (uint32_t i = 0; i < n; i++)
        at_rows(&bench, rows[i]);
    if (bench.rig.cuda->flash.max_runs) kb_prefills(&bench.sites, &bench.probes, bench.small);
    bool mla = bench.rig.plan.attn == ATTN_MLA;
    close_all(&bench, model);
    if (mla) grouped(&bench, rows, n, most);
    printf("\n]}\n");
    return 0;
}
