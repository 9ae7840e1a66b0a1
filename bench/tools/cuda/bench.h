/* bench.h - the parts that the device benchmarks share. Names carry kb_; any failure ends the
 * program. */
#ifndef FATHOM_BENCH_CUDA_BENCH_H
#define FATHOM_BENCH_CUDA_BENCH_H

#include "engine/cuda/cuda_internal.h"

extern const char *kb_program; /* its name, before messages */
void kb_fail(const char *fmt, ...) PRINTF_LIKE(1, 2) __attribute__((noreturn));
void kb_must(cudaError_t rc, const char *what);
/* "1,8,32": how many, and the most. */
enum { KB_ROWS = 16 };
uint32_t kb_parse_rows(const char *text, uint32_t rows[KB_ROWS], uint32_t *most);

/* ---- times ---- */

typedef struct {
    double best, median, worst;
} kb_times;
kb_times kb_sorted(double *values, uint32_t n); /* sorts them */

/* ---- rig.c: a model on the device, sequences at a full context ---- */

/* A model folder, or random weights of a variant or plan. Files of random weights are deleted once
 * they are mapped. */
model_folder *kb_open_model(const char *variant_or_folder);
model_folder *kb_random_model(const model_plan *plan);

typedef struct {
    model_plan plan;
    cu_backend *cuda;
    uint32_t context, blocks; /* positions of a sequence, and its blocks */
    uint32_t n_seqs;          /* each has a row state of its own */
    uint32_t used_blocks;     /* blocks with slots: fewer than all blocks if memory is short */
    eng_row *row;             /* [n_seqs] */
    uint32_t *tables;         /* [n_seqs][blocks] */
    cudaEvent_t from, to;
} kb_rig;

/* Rows and sequences at `context`, launches of up to `rows`. Every position has a slot of its own,
 * scattered, one for all planes, full of random values; every row has been through the prelude.
 * `positions`: the maximum of a sequence. */
void kb_rig_open(kb_rig *rig, const model_folder *model, const char *kernels, uint32_t rows,
                 uint32_t n_seqs, uint32_t context, uint32_t positions);
void kb_rig_close(kb_rig *rig);
/* One launch of rows [first, first + n) and its time on the device in ns. */
uint64_t kb_run(kb_rig *rig, eng_stage stage, uint32_t first, uint32_t n);
uint64_t kb_run_rows(kb_rig *rig, eng_stage stage, const eng_row *rows, uint32_t n,
                     const eng_edit *edits, uint32_t n_edits);
void kb_set_loop(kb_rig *rig, int loop);                           /* of all rows; -1: mixed */
void kb_fill(cu_backend *cuda, void *mem, size_t bytes, bool f32); /* random values */
/* Device memory, freed with the backend. */
void *kb_take(cu_backend *cuda, size_t bytes);
size_t kb_room(void); /* free memory of the device */

/* ---- bytes.c: bytes that must move ---- */

typedef struct {
    double bytes, flop; /* 0: not known */
} kb_work;
/* The work of one kernel of a stage, by its name. experts: routed experts with rows. context: keys
 * a row attends to. */
kb_work kb_kernel_work(const cu_backend *cuda, const char *kernel, eng_stage stage, uint32_t rows,
                       uint32_t context, uint32_t experts);
/* Bytes of a whole stage: each weight once, experts with rows, keys and values, states. */
double kb_stage_bytes(const cu_backend *cuda, eng_stage stage, uint32_t rows, uint32_t context,
                      uint32_t experts);
double kb_head_bytes(const cu_backend *cuda, uint32_t rows);
/* Routed experts with rows after a recurrent launch; 0 if the model has no experts. */
uint32_t kb_live_experts(const cu_backend *cuda, uint32_t rows);

/* ---- probes.c ---- */

typedef struct {
    kb_times read_gb_s, matrix_tflop_s; /* best is the largest */
    double launch_us, node_us, node_overlap_us;
} kb_probes;
/* small: to try the program, not to measure. */
void kb_probe_read(kb_probes *probes, cu_backend *cuda, bool small);
void kb_probe_rest(kb_probes *probes, cu_backend *cuda, bool small);
/* Programmatic launches, from the next kernel queued on. */
void kb_overlap(cu_backend *cuda, bool on);

/* ---- sites.c: every kernel of a stage in a graph of its own ---- */

enum { KB_SITES = 40, KB_SETS = 32 };

typedef struct {
    const char *name;
    bool own; /* not cuBLAS's */
    cudaStream_t stream;
    cudaGraphExec_t exec;
    uint32_t count; /* times in the graph */
} kb_site;

/* Data that changes from one repetition to the next, to keep the cache cold: descriptors (other
 * sequences and row states) and copies of weights. */
typedef struct {
    uint8_t *desc[KB_SETS];
    cu_layer *layers[CU_STAGES][KB_SETS];
    cu_backend outside[KB_SETS]; /* its vectors outside layers */
    uint32_t n_desc;
    bool short_of_memory;
} kb_sets;

typedef struct {
    kb_rig *rig;
    kb_sets *sets;
    kb_site site[KB_SITES];
    uint32_t n_sites;
    uint32_t times, replays; /* repetitions in a graph; how often it is run */
    cudaStream_t main, rest, streams[KB_SITES + 1];
    void *flush, *sink;
    size_t flush_bytes;
    void *blas_space;
} kb_sites;

/* Captures a stage (CU_STAGES: the head) for `rows` rows, each kernel into a graph of its own. */
void kb_capture(kb_sites *sites, int stage, uint32_t rows, cu_path path, bool cold);
/* The whole stage in one graph, `times` times. */
void kb_capture_whole(kb_sites *sites, int stage, uint32_t rows, cu_path path);
void kb_forget(kb_sites *sites);
void kb_close_sites(kb_sites *sites);
/* Microseconds of one repetition. cold: its data is not in the second-level cache before. */
kb_times kb_time(kb_sites *sites, const kb_site *site, bool cold);

/* copies.c: fills the layers of sets, for a cache of so many bytes; and the descriptors, after one
 * recurrent launch for each. */
void kb_copy_weights(kb_sets *sets, cu_backend *cuda, size_t cache_bytes, size_t budget);
void kb_copy_desc(kb_sets *sets, kb_rig *rig, eng_stage stage, uint32_t rows, uint32_t n);
void kb_free_sets(kb_sets *sets);

/* ---- prefill.c ---- */
enum { KB_SMALL_PROMPT = 200 }; /* positions of the longest prompt if small */
void kb_prefills(kb_sites *sites, const kb_probes *probes, bool small);

extern bool kb_first_line; /* no measurement has added a line to the JSON list yet */

#endif
