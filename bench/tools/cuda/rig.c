/* rig.c - a model on the device with sequences at a full context, for the benchmarks. */
#include "base/size.h"
#include "bench/tools/cuda/bench.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

cudaError_t probe_fill(cudaStream_t stream, void *data, uint64_t bytes, uint64_t seed, bool f32,
                       uint32_t blocks);

void kb_fail(const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    fprintf(stderr, "%s: ", kb_program);
    vfprintf(stderr, fmt, args);
    fprintf(stderr, "\n");
    va_end(args);
    exit(1);
}

void kb_must(cudaError_t rc, const char *what) {
    if (rc != cudaSuccess) kb_fail("%s: %s", what, cudaGetErrorString(rc));
}

uint32_t kb_parse_rows(const char *text, uint32_t rows[KB_ROWS], uint32_t *most) {
    uint32_t n = 0;
    *most = 0;
    for (const char *at = text; *at; n++) {
        char *end;
        unsigned long value = strtoul(at, &end, 10);
        if (end == at || (*end && *end != ',') || value < 1 || value > CU_MAX_LAUNCH ||
            n == KB_ROWS) {
            kb_fail("rows are up to %d numbers from 1 to %d, not '%s'", KB_ROWS, CU_MAX_LAUNCH,
                    text);
        }
        rows[n] = (uint32_t)value;
        if (rows[n] > *most) *most = rows[n];
        at = *end ? end + 1 : end;
    }
    if (n == 0) kb_fail("no number of rows is given");
    return n;
}

static int by_value(const void *one, const void *two) {
    double x = *(const double *)one, y = *(const double *)two;
    return x < y ? -1 : x > y;
}

kb_times kb_sorted(double *values, uint32_t n) {
    qsort(values, n, sizeof *values, by_value);
    return (kb_times){values[0], values[n / 2], values[n - 1]};
}

/* ---- models ---- */

static model_folder *open_folder(const char *dir) {
    err e = {0};
    model_folder *model;
    if (model_open(&model, dir, &e) != 0) kb_fail("%s", e.msg);
    return model;
}

static void remove_from(const char *dir, const char *name) {
    char path[64];
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    (void)unlink(path);
}

/* Memory first: nothing is to wait for a disk. */
model_folder *kb_random_model(const model_plan *plan) {
    static const char *const places[] = {"/dev/shm/fathom-XXXXXX", "/tmp/fathom-XXXXXX"};
    err e = {0};
    for (size_t i = 0; i < ARRAY_LEN(places); i++) {
        char dir[40];
        model_init_opts opts = {.seed = 7, .dtype = DTYPE_BF16};
        (void)snprintf(dir, sizeof dir, "%s", places[i]);
        if (mkdtemp(dir) == NULL) continue;
        bool made = model_init_write(dir, plan, &opts, &e) == 0;
        model_folder *model = made ? open_folder(dir) : NULL;
        remove_from(dir, "model.safetensors");
        remove_from(dir, "config.json");
        (void)rmdir(dir);
        if (model) return model;
    }
    kb_fail("no place for random weights: %s", e.msg);
}

model_folder *kb_open_model(const char *variant_or_folder) {
    err e = {0};
    struct stat st;
    model_plan plan;
    if (stat(variant_or_folder, &st) == 0) return open_folder(variant_or_folder);
    if (plan_variant(&plan, variant_or_folder, &e) != 0) kb_fail("%s", e.msg);
    return kb_random_model(&plan);
}

/* ---- memory ---- */

size_t kb_room(void) {
    size_t room = 0, all = 0;
    kb_must(cudaMemGetInfo(&room, &all), "asking for free memory");
    return room;
}

void *kb_take(cu_backend *cuda, size_t bytes) {
    err e = {0};
    void *mem;
    if (eng__cuda_alloc(cuda, &mem, bytes, 1, "a benchmark", &e) != 0) kb_fail("%s", e.msg);
    return mem;
}

void kb_fill(cu_backend *cuda, void *mem, size_t bytes, bool f32) {
    static uint64_t seed;
    kb_must(probe_fill(cuda->stream, mem, bytes, ++seed, f32, (uint32_t)cuda->sms * 8),
            "random data");
    kb_must(cudaStreamSynchronize(cuda->stream), "random data");
}

/* The smallest number of bytes for a cache with `blocks` blocks and a slot for each of their
 * positions; at most `most`. */
static uint64_t cache_bytes(const model_plan *plan, const eng_backend_opts *opts, uint64_t blocks,
                            uint64_t most) {
    eng_backend_info info;
    err e = {0};
    uint64_t bytes = 1 << 20;
    while (bytes < most && (eng__size_cache(&info, plan, opts, bytes, &e) != 0 ||
                            info.n_blocks < blocks || info.n_slots < blocks * ENG_BLOCK)) {
        bytes += bytes / 8;
    }
    return bytes < most ? bytes : most;
}

/* ---- sequences ---- */

static uint32_t gcd(uint32_t x, uint32_t y) {
    return y ? gcd(y, x % y) : x;
}

/* Slots of blocks [first, first + n), scattered: slot = position * step mod all positions. */
static void map_blocks(kb_rig *rig, uint32_t first, uint32_t n) {
    uint32_t slots = rig->used_blocks * ENG_BLOCK, step = 1000003 % slots | 1;
    eng_edit *edits = array_new((size_t)n * ENG_BLOCK, sizeof *edits);
    if (edits == NULL) kb_fail("out of memory");
    while (gcd(step, slots) != 1)
        step += 2;
    for (uint32_t i = 0; i < n * ENG_BLOCK; i++) {
        uint64_t at = (uint64_t)first * ENG_BLOCK + i;
        edits[i] = (eng_edit){.block = first + i / ENG_BLOCK,
                              .slot = (uint32_t)(at * step % slots),
                              .n_planes = (uint16_t)rig->cuda->base.info.n_planes,
                              .off = (uint8_t)(i % ENG_BLOCK)};
    }
    (void)kb_run_rows(rig, ENG_STAGE_PRELUDE, rig->row, 0, edits, n * ENG_BLOCK);
    free(edits);
}

static void take_sequences(kb_rig *rig, uint32_t positions) {
    const cu_backend *cuda = rig->cuda;
    uint64_t have = cuda->cache.n_blocks, all = (uint64_t)rig->n_seqs * rig->blocks;
    uint64_t longest = (positions + ENG_BLOCK - 1) / ENG_BLOCK;
    if (cuda->cache.n_slots / ENG_BLOCK < have) have = cuda->cache.n_slots / ENG_BLOCK;
    rig->used_blocks = (uint32_t)(all < longest ? longest : all);
    if (have < rig->used_blocks) rig->used_blocks = (uint32_t)have;
    rig->row = array_new(rig->n_seqs, sizeof *rig->row);
    rig->tables = array_new((size_t)all, sizeof *rig->tables);
    if (rig->row == NULL || rig->tables == NULL) kb_fail("out of memory");
    float never = cuda->opts.exit == EXIT_ACT ? 1e30f : exit_rule_never(cuda->opts.exit);
    for (uint32_t seq = 0; seq < rig->n_seqs; seq++) {
        uint32_t *table = rig->tables + (size_t)seq * rig->blocks;
        for (uint32_t i = 0; i < rig->blocks; i++)
            table[i] = (uint32_t)(((uint64_t)seq * rig->blocks + i) % rig->used_blocks);
        rig->row[seq] = (eng_row){.row = seq,
                                  .pos = rig->context - 1,
                                  .token = seq * 37 % rig->plan.vocab_size,
                                  .max_loops = UINT16_MAX, /* no row halts */
                                  .threshold = never,
                                  .blocks = table};
    }
}

void kb_set_loop(kb_rig *rig, int loop) {
    for (uint32_t seq = 0; seq < rig->n_seqs; seq++)
        rig->row[seq].loop = (uint16_t)(loop < 0 ? seq % rig->plan.loops_default : (uint32_t)loop);
}

uint64_t kb_run_rows(kb_rig *rig, eng_stage stage, const eng_row *rows, uint32_t n,
                     const eng_edit *edits, uint32_t n_edits) {
    err e = {0};
    eng_result result;
    eng_launch launch = {stage, rows, n, edits, n_edits};
    if (eng_run(&rig->cuda->base, &launch, &result, &e) != 0) kb_fail("%s", e.msg);
    return result.ns;
}

uint64_t kb_run(kb_rig *rig, eng_stage stage, uint32_t first, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        rig->row[first + i].flags = stage == ENG_STAGE_CODA ? ENG_ROW_LOGITS : 0;
    return kb_run_rows(rig, stage, rig->row + first, n, NULL, 0);
}

void kb_rig_open(kb_rig *rig, const model_folder *model, const char *kernels, uint32_t rows,
                 uint32_t n_seqs, uint32_t context, uint32_t positions) {
    err e = {0};
    eng_backend *eng;
    *rig = (kb_rig){.plan = *model_plan_of(model),
                    .n_seqs = n_seqs,
                    .context = context,
                    .blocks = (context + ENG_BLOCK - 1) / ENG_BLOCK};
    eng_backend_opts opts = {.n_rows = n_seqs,
                             .max_launch = rows,
                             .max_logits = rows,
                             .max_loops = rig->plan.loops_default,
                             .max_positions = positions > context ? positions : context,
                             .cache_dtype = DTYPE_BF16,
                             .kernels = kernels};
    size_t room = kb_room(), weights = (size_t)plan_params(&rig->plan) * 2;
    uint64_t blocks = (uint64_t)n_seqs * rig->blocks + opts.max_positions / ENG_BLOCK + 1;
    opts.cache_bytes =
        cache_bytes(&rig->plan, &opts, blocks, room > weights ? (room - weights) / 2 : 1 << 20);
    if (eng__cuda_open_device(&eng, model, &opts, 0, &e) != 0) kb_fail("%s", e.msg);
    rig->cuda = (cu_backend *)eng;
    take_sequences(rig, positions);
    kb_must(cudaEventCreate(&rig->from), "opening an event");
    kb_must(cudaEventCreate(&rig->to), "opening an event");
    kb_fill(rig->cuda, rig->cuda->cache.slots,
            (size_t)rig->cuda->cache.n_slots * eng->info.slot_bytes, false);
    for (uint32_t i = 0; i < rig->used_blocks; i += 1024)
        map_blocks(rig, i, rig->used_blocks - i < 1024 ? rig->used_blocks - i : 1024);
    for (uint32_t i = 0; i < n_seqs; i += rows)
        (void)kb_run(rig, ENG_STAGE_PRELUDE, i, n_seqs - i < rows ? n_seqs - i : rows);
}

void kb_rig_close(kb_rig *rig) {
    (void)cudaEventDestroy(rig->from);
    (void)cudaEventDestroy(rig->to);
    eng_backend_close(&rig->cuda->base);
    free(rig->row);
    free(rig->tables);
}
