/* kernels.c - each kernel of a step in a graph of its own, cold and warm, as a share of the rates
 * this device read and multiplied at in the same run; README.md says how. Writes one JSON object to
 * stdout, a kernel a line. Run by bench/cuda/first_gpu.py.
 *
 *   fathom-cuda-bench [VARIANT|FOLDER] [CONTEXT] [ROWS,ROWS,...]     mythos_1b 1024 1,8,32,128,512
 */
#include "base/size.h"
#include "bench/cuda/bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { L2_ATTRIBUTE = 38 }; /* cudaDevAttrL2CacheSize; the shim has no name for it */

const char *kb_program = "fathom-cuda-bench";
bool kb_first_line = true;

typedef struct {
    kb_rig x;
    kb_sets sets;
    kb_sites sites;
    kb_probes probes;
    bool small;
    size_t l2_bytes;
    const char *done[2 * KB_SITES]; /* kernels measured at this number of rows */
    uint32_t n_done;
} bench;

/* One kernel at one number of rows: the times of all its captures. */
typedef struct {
    const char *name;
    bool own;
    kb_times cold, hot, apart; /* apart: without overlap */
} measured;

/* ---- lines ---- */

static void print_work(const bench *b, const kb_work *w, double us) {
    if (w->bytes > 0) {
        double gbs = w->bytes / us * 1e-3;
        printf(",\"bytes\":%.0f,\"gb_s\":%.1f,\"percent_of_read_probe\":%.1f", w->bytes, gbs,
               100 * gbs / b->probes.read_gb_s.best);
    }
    if (w->flop > 0) {
        double tflops = w->flop / us * 1e-6;
        printf(",\"gflop\":%.4f,\"percent_of_matrix_probe\":%.1f", w->flop * 1e-9,
               100 * tflops / b->probes.matrix_tflop_s.best);
    }
}

static void print_kernel(const bench *b, const measured *m, const char *stage, uint32_t rows,
                         const kb_work *w) {
    printf("%s{\"kernel\":\"%s\",\"stage\":\"%s\",\"rows\":%u,\"own\":%s,\"us\":%.2f,"
           "\"spread_percent\":%.1f,\"hot_us\":%.2f,\"no_overlap_us\":%.2f",
           kb_first_line ? "" : ",\n", m->name, stage, rows, m->own ? "true" : "false",
           m->cold.median, 100 * (m->cold.worst - m->cold.best) / m->cold.median, m->hot.median,
           m->apart.median);
    print_work(b, w, m->cold.median);
    printf("}");
    kb_first_line = false;
    fflush(stdout);
}

/* ---- stages ---- */

static const char *const stage_names[] = {"prelude", "recurrent", "coda", "head"};
static const cu_path decode = {CU_ONE_ROW, 1};

static bool is_done(const bench *b, const char *name) {
    for (uint32_t i = 0; i < b->n_done; i++) {
        if (strcmp(b->done[i], name) == 0) return true;
    }
    return false;
}

static measured *find(measured *m, uint32_t n, const char *name) {
    for (uint32_t i = 0; i < n; i++) {
        if (strcmp(m[i].name, name) == 0) return &m[i];
    }
    return NULL;
}

/* The rows the engine's graphs have room for: cuBLAS computes them all. */
static uint32_t capacity(const bench *b, uint32_t rows) {
    return b->x.b->bucket[eng__cuda_bucket(b->x.b, rows)];
}

/* Captures a stage once and times its kernel `only`, or every kernel not measured before at these
 * rows (every stage has a qkv: the loop's counts). */
static uint32_t measure_pass(bench *b, int stage, uint32_t rows, const char *only, bool begin,
                             int pass, measured *out, uint32_t n) {
    kb_sites *s = &b->sites;
    bool cold = pass != 1;
    kb_overlap(b->x.b, pass != 2);
    kb_capture(s, stage, capacity(b, rows), decode, cold);
    for (uint32_t k = 0; k < s->n_sites; k++) {
        const kb_site *site = &s->site[k];
        if (begin != (strcmp(site->name, "begin") == 0)) continue;
        if (only ? strcmp(site->name, only) != 0 : is_done(b, site->name)) continue;
        kb_times t = kb_time(s, site, cold);
        if (pass == 0) out[n++] = (measured){site->name, site->own, t, t, t};
        else if (pass == 1) find(out, n, site->name)->hot = t;
        else find(out, n, site->name)->apart = t;
    }
    kb_forget(s);
    kb_overlap(b->x.b, true);
    return n;
}

/* begin comes last: it writes the descriptor all others read. */
static uint32_t measure_stage(bench *b, int stage, uint32_t rows, const char *only,
                              measured out[KB_SITES]) {
    uint32_t n = 0;
    for (int pass = 0; pass < 6; pass++)
        n = measure_pass(b, stage, rows, only, pass >= 3, pass % 3, out, n);
    return n;
}

static void stage(bench *b, int stage_index, uint32_t rows, const char *only, const char *as) {
    measured m[KB_SITES];
    eng_stage of = stage_index < CU_STAGES ? (eng_stage)stage_index : ENG_STAGE_CODA;
    uint32_t live = kb_live_experts(b->x.b, rows);
    uint32_t n = measure_stage(b, stage_index, rows, only, m);
    for (uint32_t i = 0; i < n; i++) {
        kb_work w = kb_kernel_work(b->x.b, m[i].name, of, rows, b->x.context, live);
        if (as == NULL) b->done[b->n_done++] = m[i].name;
        else m[i].name = as;
        print_kernel(b, &m[i], stage_names[stage_index], rows, &w);
    }
}

/* Enough descriptors for keys and values of four times the second-level cache. */
static uint32_t sets_for(const bench *b, uint32_t rows) {
    size_t one = (size_t)rows * b->x.context * b->x.c.layer_values * 2 * b->x.c.n_core;
    size_t n = 4 * b->l2_bytes / one + 1, most = b->sites.times;
    return (uint32_t)(n < most ? n : most);
}

/* ---- products: own kernel and cuBLAS side by side ---- */

static uint32_t by_one_kind(bench *b, int stage_index, uint32_t rows, uint32_t blas_rows,
                            measured out[KB_SITES]) {
    kb_sites *s = &b->sites;
    cu_backend *e = b->x.b;
    uint32_t n = 0, engines = e->blas_rows;
    e->blas_rows = blas_rows;
    if (stage_index < CU_STAGES) (void)kb_run(&b->x, (eng_stage)stage_index, 0, rows);
    kb_capture(s, stage_index, capacity(b, rows), decode, true);
    for (uint32_t k = 1; k < s->n_sites; k++) { /* not begin, as in measure_stage */
        kb_times t = kb_time(s, &s->site[k], true);
        out[n++] = (measured){s->site[k].name, s->site[k].own, t, t, t};
    }
    kb_forget(s);
    e->blas_rows = engines;
    return n;
}

/* Every product cuBLAS can take, to read the best switch point from. The always-on experts are
 * groups of the expert kernels on one side and two products on the other: hence the sums. */
static void products(bench *b, int stage_index, uint32_t rows) {
    measured own[KB_SITES], blas[KB_SITES];
    uint32_t n_own = by_one_kind(b, stage_index, rows, UINT32_MAX, own);
    uint32_t n_blas = by_one_kind(b, stage_index, rows, 1, blas);
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
               rows >= b->x.b->blas_rows ? "cublas" : "own");
    }
    printf(",\n{\"kernel\":\"sum_of_kernels\",\"stage\":\"%s\",\"rows\":%u,\"own_us\":%.2f,"
           "\"cublas_us\":%.2f}",
           stage_names[stage_index], rows, sum[0], sum[1]);
    fflush(stdout);
}

/* ---- the head and its ways to sample ---- */

static void head(bench *b, uint32_t rows) {
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
    eng_row *r = array_new(rows, sizeof *r);
    eng_draw *draws = array_new(rows, sizeof *draws);
    if (r == NULL || draws == NULL) kb_fail("out of memory");
    b->sets.n_desc = 0;
    for (size_t k = 0; k < ARRAY_LEN(ways); k++) {
        for (uint32_t i = 0; i < rows; i++) {
            draws[i] = (eng_draw){.sampling = &ways[k].how, .index = i, .n_top = ways[k].n_top};
            r[i] = b->x.row[i];
            r[i].flags = ENG_ROW_SAMPLE;
            r[i].draw = &draws[i];
        }
        (void)kb_run_rows(&b->x, ENG_STAGE_CODA, r, rows, NULL, 0);
        if (k == 0) stage(b, CU_STAGES, rows, "head", "head");
        stage(b, CU_STAGES, rows, "sample", ways[k].name);
    }
    free(r);
    free(draws);
}

/* ---- begin, with an edit a row ---- */

static void begin_with_edits(bench *b, uint32_t rows) {
    kb_rig *x = &b->x;
    eng_edit *edits = array_new(rows, sizeof *edits);
    if (edits == NULL) kb_fail("out of memory");
    for (uint32_t i = 0; i < rows; i++) {
        const eng_row *r = &x->row[i];
        edits[i] = (eng_edit){.block = r->blocks[r->pos / ENG_BLOCK],
                              .slot = i,
                              .plane = (uint16_t)plan_plane_loop(&x->c, r->loop),
                              .n_planes = 1,
                              .off = (uint8_t)(r->pos % ENG_BLOCK)};
    }
    (void)kb_run_rows(x, ENG_STAGE_RECURRENT, x->row, rows, edits, rows);
    b->sets.n_desc = 0; /* the backend's own */
    stage(b, ENG_STAGE_RECURRENT, rows, "begin", "begin_with_edits");
    free(edits);
}

/* The whole stage as one graph, layers and all: the time of its kernels together. */
static void whole(bench *b, uint32_t rows) {
    kb_sites *s = &b->sites;
    kb_rig *x = &b->x;
    uint32_t live = kb_live_experts(x->b, rows), n = eng__cuda_layers(x->b, ENG_STAGE_RECURRENT);
    uint32_t times = s->times;
    kb_times t[2];
    if (times > 8) s->times = 8; /* 48 layers are a long graph */
    for (int overlap = 0; overlap < 2; overlap++) {
        kb_overlap(x->b, overlap);
        kb_capture_whole(s, ENG_STAGE_RECURRENT, capacity(b, rows), decode);
        t[overlap] = kb_time(s, &s->site[0], true);
        kb_forget(s);
    }
    s->times = times;
    kb_work w = {kb_stage_bytes(x->b, ENG_STAGE_RECURRENT, rows, x->context, live), 0};
    printf(",\n{\"kernel\":\"stage_recurrent\",\"rows\":%u,\"layers\":%u,\"us\":%.2f,"
           "\"us_per_layer\":%.2f,\"no_overlap_us\":%.2f,\"experts_with_rows\":%u",
           rows, n, t[1].median, t[1].median / n, t[0].median, live);
    print_work(b, &w, t[1].median);
    printf("}");
    fflush(stdout);
}

static void at_rows(bench *b, uint32_t rows) {
    b->n_done = 0;
    kb_set_loop(&b->x, -1);
    kb_copy_desc(&b->sets, &b->x, ENG_STAGE_RECURRENT, rows, sets_for(b, rows));
    stage(b, ENG_STAGE_RECURRENT, rows, NULL, NULL);
    kb_copy_desc(&b->sets, &b->x, ENG_STAGE_RECURRENT, rows, sets_for(b, rows));
    whole(b, rows);
    kb_copy_desc(&b->sets, &b->x, ENG_STAGE_RECURRENT, rows, sets_for(b, rows));
    if (rows > 8) products(b, ENG_STAGE_RECURRENT, rows);
    begin_with_edits(b, rows);
    for (int s = ENG_STAGE_PRELUDE; s <= ENG_STAGE_CODA; s += ENG_STAGE_CODA) {
        kb_copy_desc(&b->sets, &b->x, (eng_stage)s, rows, sets_for(b, rows));
        stage(b, s, rows, NULL, NULL);
    }
    head(b, rows);
}

/* ---- the same model with grouped queries ---- */

static void close_all(bench *b, model_folder *m) {
    kb_close_sites(&b->sites);
    kb_free_sets(&b->sets);
    kb_rig_close(&b->x);
    model_close(m);
}

static void open_all(bench *b, const model_folder *m, uint32_t most, uint32_t context) {
    int l2 = 0;
    uint32_t positions = b->small ? 2 * context : 4096;
    uint32_t seqs = most > 2 * KB_SETS ? most : 2 * KB_SETS;
    if (b->small || cudaDeviceGetAttribute(&l2, (int)L2_ATTRIBUTE, 0)) l2 = 1 << 16;
    b->l2_bytes = (size_t)l2;
    b->sets = (kb_sets){.n_desc = 0};
    b->sites = (kb_sites){.x = &b->x,
                          .sets = &b->sets,
                          .times = b->small ? 2 : KB_SETS,
                          .replays = b->small ? 1 : 7,
                          .flush_bytes = 4 * b->l2_bytes};
    kb_rig_open(&b->x, m, b->small ? "bf16-expand-stream" : "bf16-stream", most,
                b->small ? most + 1 : seqs, context, positions);
    cu_backend *e = b->x.b;
    b->sites.flush = kb_take(e, b->sites.flush_bytes);
    b->sites.sink = kb_take(e, 16);
    kb_fill(e, b->sites.flush, b->sites.flush_bytes, false);
    e->opts.max_positions = context; /* all derived figures stay those of decoding at `context` */
}

/* Its heads, K/V heads and width, with small experts. */
static void grouped(bench *b, const uint32_t *rows, uint32_t n, uint32_t most) {
    static const char *const kernels[][2] = {{"gqa_prep", "gqa_prep"},
                                             {"attention", "attention_gqa"}};
    model_plan p = b->x.c;
    uint32_t context = b->x.context;
    p.attn = ATTN_GQA;
    p.head_dim = p.dim / p.n_heads;
    p.expert_dim = 32;
    plan_derive(&p);
    model_folder *m = kb_random_model(&p);
    open_all(b, m, most, context);
    kb_copy_weights(&b->sets, b->x.b, b->l2_bytes, kb_room() / 2);
    for (uint32_t i = 0; i < n; i++) {
        kb_set_loop(&b->x, -1);
        kb_copy_desc(&b->sets, &b->x, ENG_STAGE_RECURRENT, rows[i], sets_for(b, rows[i]));
        for (size_t k = 0; k < ARRAY_LEN(kernels); k++)
            stage(b, ENG_STAGE_RECURRENT, rows[i], kernels[k][0], kernels[k][1]);
    }
    close_all(b, m);
}

/* ---- the program ---- */

static void print_probes(const kb_probes *p) {
    printf("\"read_probe_gb_s\":%.1f,\"read_probe_median_gb_s\":%.1f,"
           "\"matrix_probe_tflop_s\":%.1f,\"matrix_probe_median_tflop_s\":%.1f,\n",
           p->read_gb_s.best, p->read_gb_s.median, p->matrix_tflop_s.best,
           p->matrix_tflop_s.median);
    printf("\"host_launch_us\":%.2f,\"graph_node_us\":%.2f,\"graph_node_overlap_us\":%.2f,\n",
           p->launch_us, p->node_us, p->node_overlap_us);
    fflush(stdout);
}

int main(int argc, char **argv) {
    static bench b;
    uint32_t rows[KB_ROWS], most;
    int devices = 0;
    const char *variant = argc > 1 ? argv[1] : "mythos_1b";
    b.small = strstr(variant, "tiny") != NULL; /* to try the program itself, not to measure */
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
        fprintf(stderr, "fathom-cuda-bench: no CUDA device\n");
        return 2;
    }
    uint32_t context = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 1024;
    if (context < 1 || context > 1u << 20) kb_fail("the context is 1 to 1048576");
    uint32_t n = kb_parse_rows(argc > 3  ? argv[3]
                               : b.small ? "1,9"
                                         : "1,8,32,128,512",
                               rows, &most);
    model_folder *m = kb_open_model(variant);
    open_all(&b, m, most, context);
    printf("{\"device\":\"%s\",\"variant\":\"%s\",\"context\":%u,\"dtype\":\"bf16\",\n",
           b.x.b->device_name, variant, context);
    kb_probe_read(&b.probes, b.x.b, b.small);
    kb_probe_rest(&b.probes, b.x.b, b.small);
    print_probes(&b.probes);
    kb_copy_weights(&b.sets, b.x.b, b.l2_bytes, kb_room() / 2);
    printf(
        "\"repetitions\":%u,\"weights_cold\":%s,\"slots_of_every_position\":%s,\n\"kernels\":[\n",
        b.sites.times, b.sets.short_of_memory ? "false" : "true",
        b.x.used_blocks < (uint64_t)b.x.n_seqs * b.x.blocks ? "false" : "true");
    for (uint32_t i = 0; i < n; i++)
        at_rows(&b, rows[i]);
    if (b.x.b->flash.max_runs) kb_prefills(&b.sites, &b.probes, b.small);
    bool mla = b.x.c.attn == ATTN_MLA;
    close_all(&b, m);
    if (mla) grouped(&b, rows, n, most);
    printf("\n]}\n");
    return 0;
}
