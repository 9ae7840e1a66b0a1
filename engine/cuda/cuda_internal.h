/* cuda_internal.h - shared by the host files of the CUDA backend. Host code is C; the kernels and
 * their launchers are declared in kernels.h.
 *
 * One stream runs everything. A launch is one captured graph of the stage (and one of the head).
 * Its first kernel fetches the launch's descriptor; flags come back by themselves, logits with one
 * copy. Two launches may be in flight: memory that the host writes or reads exists twice, memory of
 * the device alone once, since the stream runs one launch after the other. */
#ifndef FATHOM_ENGINE_CUDA_INTERNAL_H
#define FATHOM_ENGINE_CUDA_INTERNAL_H

#include "engine/backend_internal.h"
#include "engine/cuda/kernels.h"
#include "engine/ranks.h"

#include <cublas_v2.h>

enum {
    CU_BUCKETS = 16, /* capacities a graph exists for: 1, 2, 4, … */
    /* From here on dense products go to cuBLAS: beside experts, in a core without. */
    CU_BLAS_ROWS = 64,
    CU_BLAS_ROWS_DENSE = 16,
    CU_EDITS = 8192, /* least edits one descriptor holds; more go ahead in pieces */
    CU_STAGES = 3,
    CU_FLIGHTS = 2, /* launches started and not yet waited for */
};

/* The kind of a stage's graph, besides its capacity. */
typedef enum {
    CU_ONE_ROW,      /* every attention tile has one row: decode */
    CU_SHARED_TILES, /* rows of one prompt share tiles */
    CU_EXPANDED,     /* some rows are attended to over expanded keys */
    CU_ALL_EXPANDED, /* all are: nothing is absorbed */
    CU_MODES
} cu_mode;
typedef struct {
    cu_mode mode;
    uint32_t passes; /* how often expanded keys go through their scratch; graphs hold one */
} cu_path;

/* A matrix on the device: act type [n rounded up to 16][ld], ld = k rounded up to 32. */
typedef struct {
    void *w;
    uint32_t n, k, ld;
    uint64_t group; /* values between matrices of a set */
    uint32_t keep;  /* first rows of each to keep in the second-level cache */
    uint32_t all;   /* rows of the whole matrix: n of them are this rank's */
} cu_mat;

typedef struct {
    float *attn_norm, *ffn_norm;         /* POST: NULL */
    float *attn_out_norm, *ffn_out_norm; /* PRE: NULL */
    cu_mat in; /* MLA [q_down; kv_down], GQA [wq; wk; wv; gates of a value embedding] */
    cu_mat wo;
    /* GQA; NULL, and a table without rows, where the plan has none */
    float *qk_bias, *qk_norm; /* [q | k] */
    cu_mat value_table;
    /* MLA */
    float *q_norm, *kv_norm;
    cu_mat q_up;          /* [q_up_nope; q_up_rope] */
    cu_mat uk, uv;        /* [H]: query into the latent; latent into the value */
    cu_mat gate_up, down; /* dense FFN, or the routed experts; gate and up rows 8 and 8 in turn,
                             or up alone */
    /* MoE */
    cu_mat shared_gate_up, shared_down; /* the always-on groups; down is one matrix over all */
    cu_mat router;
    float *router_bias;
} cu_layer;

typedef struct {
    void **items;
    uint32_t n, cap;
    uint64_t bytes;
} cu_allocs;

typedef struct {
    float *x, *delta, *in, *q_up, *part_o, *part_ml, *router, *parts, *loop_sums, *logits;
    void *act, *cq, *q_nope, *q, *ctx, *o, *hidden, *wide, *head;
    void *keys, *values, *keys_rope; /* expanded prefill, as its parts */
    float *flash_o, *flash_ml;
    void *parcels; /* of all ranks, for gathers: see ranks.c */
    cu_moe moe;
} cu_scratch;

typedef struct {
    void *data;
    size_t bytes;
} cu_span;

/* One launch between its start and its wait. Its memory is the host's again after the wait. */
typedef struct {
    uint8_t *desc;  /* pinned: its descriptor, read when the stream gets there */
    uint8_t *flags; /* pinned, written by kernels: cu_head's bad, from CU_HALTED on its halted */
    float *logits;  /* pinned [max_logits][vocab] */
    cu_choice *choices; /* pinned [max_logits], written by kernels */
    cudaEvent_t from;   /* start of its time: its own `began`, or an end before it */
    cudaEvent_t began;
    cudaEvent_t ended; /* one of the backend's */
    eng_stage stage;
    uint32_t n_rows, n_heads, n_logits, n_choices; /* n_heads: rows the head runs for */
} cu_flight;
enum { CU_HALTED = 16 };
/* Expanded prefill (runs.c): least queries of an expanded run, keys its scratch holds, and the most
 * of everything one descriptor needs; max_runs 0: never. */
typedef struct {
    uint32_t rows, keys, max_runs, max_pieces, max_passes;
} cu_flash_plan;

typedef struct cu_clock cu_clock; /* clock.c */
typedef struct cu_ranks cu_ranks; /* ranks.c */

typedef struct {
    eng_backend base; /* first */
    const model_folder *model;
    model_plan plan; /* a copy: kernels read no pointer to it */
    bool f32;        /* parity mode: weights and activations float32 */
    bool invariant;  /* a row's bits depend on its own sequence alone */
    bool graphs, lost;
    char device_name[128], kernels_name[32];
    int device, sms, shared_bytes; /* shared_bytes: the most one thread block may have */
    int l2_bytes;
    bool pass_experts; /* routed experts' weights leave the second-level cache first */
    eng_backend_opts opts;
    cudaStream_t stream;
    cublasHandle_t blas;
    const char *blas_product; /* refused by cuBLAS with blas_status, until reported; or NULL */
    cublasStatus_t blas_status;
    cu_ranks *ranks; /* NULL: this device computes every column */
    cu_allocs mem;
    uint64_t weight_bytes;

    cu_layer *prelude, *core, *coda;
    cu_mat embed, head;
    float *final_norm, *loop_norm, *loop_emb, *rope;
    float *inj_a, *inj_b, *inj_step; /* MYTHOS A and B, DIAGONAL decay and step */
    cu_mat inj_state, inj_input;     /* LINEAR both; DIAGONAL B in inj_input */
    cu_mat coda_in;
    float *input_norm, *halt_w, *lora_down, *lora_b, *lora_scale, *lora_gate;
    float halt_bias;
    uint32_t lora_rows, loop_width;

    /* shapes */
    uint32_t dim_ld, dk, dv, expert_ld, o_values, o_ld, groups_shared, dense_ld;
    uint32_t tile_rows; /* most rows of one attention tile */
    bool embeds_values; /* some layer reads the row's token */
    bool expand_early;  /* for tests: prompts of two rows and more, in pieces of CU_FLASH_KEYS */
    cu_flash_plan flash;

    cu_cache cache;
    cu_state state;
    cu_scratch work;
    uint32_t *arrived;   /* attention's counters, 0 between kernels */
    cu_span scratch[48]; /* all of work: nothing here lives from launch to launch */
    uint32_t n_scratch;

    uint8_t *desc; /* on the device: of the running launch */
    size_t desc_bytes;
    uint8_t *sent[2]; /* pinned: descriptors on their way, in turn */
    uint8_t *came[2]; /* on the device: their copies, made beside the launch before */
    cudaStream_t copies;
    cudaEvent_t copied[2];
    uint32_t turn;      /* descriptors sent so far, and taken once the stream is idle */
    uint32_t *dev_turn; /* [2] the device's count, see cu_begin_args */
    struct {
        uint32_t now, offs;
    } * edited; /* [n_blocks] positions of a block set by edits number `now`, the last sent */
    uint32_t edits_now;
    uint32_t edit_cap;
    eng__stamps stamps;

    uint32_t n_buckets, bucket[CU_BUCKETS];
    cudaGraphExec_t graph[CU_STAGES][CU_BUCKETS][CU_MODES], head_graph[CU_BUCKETS];
    uint32_t n_graphs;
    uint64_t graph_nodes;

    cu_flight flight[CU_FLIGHTS];
    cudaEvent_t ended[CU_FLIGHTS + 1]; /* of launches, in turn: the ones in flight and one before */
    uint32_t n_launches;
    uint32_t oldest, n_flying; /* flights [oldest, oldest + n_flying), round and round */

    cu_clock *clock; /* NULL: nobody asks for times */
    /* For benchmarks: called with the name of the next kernel, before the stream is read for it;
     * own: not cuBLAS's. */
    void (*next_kernel)(void *arg, const char *kernel, bool own);
    void *next_arg;
    uint32_t blas_rows; /* from here on cuBLAS takes dense products; UINT32_MAX: none */
} cu_backend;

extern const char eng__cuda_plugin_version[];
int eng__cuda_plugin_open(eng_backend **out, const model_folder *model,
                          const eng_backend_opts *opts, err *e) WARN_UNUSED;
int eng__cuda_open_device(eng_backend **out, const model_folder *model,
                          const eng_backend_opts *opts, int device, err *e) WARN_UNUSED;

/* Joins steps until one fails. */
#define STEP(rc, call)                                                                             \
    do {                                                                                           \
        if ((rc) == cudaSuccess) (rc) = (call);                                                    \
    } while (0)

static inline uint32_t cu_round(uint32_t value, uint32_t to) {
    return (value + to - 1) / to * to;
}
static inline size_t cu_act_bytes(const cu_backend *cuda) {
    return cuda->f32 ? 4 : 2;
}

/* 0 if rc is success. ERR_DEVICE, and the backend is lost, if the device is in a lasting error;
 * ERR_NO_MEMORY or ERR_INTERNAL if only this call was refused. The message names the kernel not
 * started or the product refused by cuBLAS. */
int eng__cuda_check(cu_backend *cuda, cudaError_t rc, const char *what, err *e) WARN_UNUSED;
/* n items of device memory, freed with the backend; its contents are undefined. ERR_NO_MEMORY
 * says how much was needed and free. */
int eng__cuda_alloc(cu_backend *cuda, void *out, size_t n, size_t item_bytes, const char *what,
                    err *e) WARN_UNUSED;

/* Values between rows of a layer's [q | k | v] or [q | kv]: in fours. */
static inline uint32_t cu_in_ld(const cu_layer *layer) {
    return cu_round(layer->in.n, 4);
}

/* weights.c: uploads everything the model has; fills the matrices, norms and tables. */
int eng__cuda_upload(cu_backend *cuda, err *e) WARN_UNUSED;
/* keep.c: chooses the weights for the second-level cache to keep, once they are uploaded; with
 * FATHOM_CUDA_L2=0 in the environment it keeps no weights. keep_rows: how many of n rows to keep if
 * `total` bytes share `budget`, in whole tiles of CU_MM_ROWS. */
void eng__cuda_plan_l2(cu_backend *cuda, uint64_t l2_bytes);
uint32_t eng__cuda_keep_rows(uint32_t n, uint64_t budget, uint64_t total);
/* clock.c: the stamp for the next kernel queued; NULL unless the clock runs. `kernel` names it and
 * must live as long as the backend. To be called before cuda->stream is read. unstamped: a
 * library's kernel follows. */
cu_stamp *eng__cuda_stamp(cu_backend *cuda, const char *kernel);
void eng__cuda_unstamped(cu_backend *cuda, const char *kernel);
/* Around the kernels of one graph; stage CU_STAGES is the head. */
void eng__cuda_clock_begin(cu_backend *cuda, int stage, uint32_t rows, cu_path path);
void eng__cuda_clock_end(cu_backend *cuda);
/* Behind a launch, on its stream, and once it has been waited for. */
cudaError_t eng__cuda_clock_fetch(cu_backend *cuda, const cu_flight *flight, cu_path path);
void eng__cuda_clock_read(cu_backend *cuda, const cu_flight *flight);
/* Opened before graphs are captured, started after. Closing writes the file. */
int eng__cuda_clock_open(cu_backend *cuda, err *e) WARN_UNUSED;
int eng__cuda_clock_start(cu_backend *cuda, err *e) WARN_UNUSED;
void eng__cuda_clock_close(cu_backend *cuda);
/* stages.c: the number of layers of a stage. */
uint32_t eng__cuda_layers(const cu_backend *cuda, eng_stage stage);
/* The first kernel of a launch. */
cudaError_t eng__cuda_begin(cu_backend *cuda);
/* Puts one stage's kernels for `rows` rows on the stream. */
cudaError_t eng__cuda_stage(cu_backend *cuda, eng_stage stage, uint32_t rows, cu_path path);
cudaError_t eng__cuda_head(cu_backend *cuda, uint32_t rows);
/* Into how many parts attention may split a context, of how many key tiles at least. */
typedef struct {
    uint32_t most, per;
} cu_parts;
cu_parts eng__cuda_parts(const cu_backend *cuda, uint32_t rows);
void eng__cuda_attn_shape(const cu_backend *cuda, cu_attn_args *args);
void eng__cuda_flash_shape(const cu_backend *cuda, cu_flash_args *args);
/* memory.c: working memory and states; memory for launches on their way; the cache. */
int eng__cuda_take_scratch(cu_backend *cuda, err *e) WARN_UNUSED;
int eng__cuda_take_exchange(cu_backend *cuda, err *e) WARN_UNUSED;
int eng__cuda_take_cache(cu_backend *cuda, err *e) WARN_UNUSED;
/* products.c: a product of `rows` rows by this project's kernel or, from blas_rows on, by cuBLAS.
 * `name` is the kernel's. x [rows][mat->ld], y [rows][ldy] float32, or act with a store that
 * activates. */
cudaError_t eng__cuda_product(cu_backend *cuda, const char *name, const cu_mat *mat,
                              cu_mm_store store, const void *x, void *y, uint32_t ldy,
                              uint32_t rows);
/* One product per head, act to act. */
cudaError_t eng__cuda_per_head(cu_backend *cuda, const char *name, const cu_mat *mat, const void *x,
                               uint32_t x_head, void *y, uint32_t ldy, uint32_t y_head,
                               uint32_t rows);
/* y [rows][ldy] = x [rows][ldx] wT, `count` times with the given strides; y float32 or bfloat16. */
cudaError_t eng__cuda_blas(cu_backend *cuda, const char *name, const cu_mat *mat, const void *x,
                           uint32_t ldx, uint32_t x_step, void *y, uint32_t ldy, uint32_t y_step,
                           bool y_f32, uint32_t rows, uint32_t count);
cu_mm_args eng__cuda_dense_args(cu_backend *cuda, const char *name, const cu_mat *mat,
                                const void *x);
bool eng__cuda_use_blas(const cu_backend *cuda, uint32_t rows);
bool eng__cuda_blas_shared(const cu_backend *cuda, uint32_t rows); /* always-on experts by cuBLAS */
uint32_t eng__cuda_max_blocks(const cu_backend *cuda); /* of a product, worth starting at once */
/* act -> delta. */
cudaError_t eng__cuda_dense_ffn(cu_backend *cuda, const cu_layer *layer, ffn_kind ffn,
                                uint32_t rows);
/* act -> parts [rows][n_parts][D]. The always-on experts are groups like the others, or at many
 * rows two dense products, summed as the last part. With ranks by columns *n_parts is 0: the last
 * core layer has added its parts to x, the others have left their sum in delta. By sums it is 1. */
cudaError_t eng__cuda_experts(cu_backend *cuda, const cu_layer *layer, uint32_t rows,
                              uint32_t *n_parts);
uint32_t eng__cuda_expert_lines(const cu_backend *cuda); /* most lines of hidden values of a row */
/* ---- ranks.c: one model over several devices ----
 *
 * A product divided by its outputs writes this rank's columns, line by line, into its parcel. A
 * gather fills the parcels of the other ranks and spreads all of them to the place where the next
 * kernel reads whole lines. Without ranks a product writes there at once.
 *
 * With sums in rank order (FATHOM_CUDA_RANKS_SPLIT) hidden values stay with their rank, which has
 * the inputs of a down product that meet them, so a part of every output: see cu_ranks_sum. */
typedef struct {
    void *to;                                      /* [lines][ld] */
    bool stay;                                     /* own columns only, and no gather */
    uint32_t lines, ld, columns, unit, item_bytes; /* widths in items */
} cu_columns;
/* The columns that are this rank's; all of them without ranks. */
eng_share eng__cuda_share(const cu_backend *cuda, uint32_t columns, uint32_t unit);
/* The hidden values, of `width`, that are this rank's. */
eng_share eng__cuda_share_hidden(const cu_backend *cuda, uint32_t width);
/* Whether down products are divided by their inputs, and their parts summed in rank order. */
bool eng__cuda_sums(const cu_backend *cuda);
/* Lines of hidden values, of all ranks or, if they stay, of this one; lines of floats. */
cu_columns eng__cuda_columns_hidden(const cu_backend *cuda, uint32_t width, uint32_t lines);
cu_columns eng__cuda_columns_floats(float *to, uint32_t columns, uint32_t lines);
/* Where a product writes its columns of line 0, and the items from line to line. */
void *eng__cuda_own(const cu_backend *cuda, const cu_columns *cols, uint32_t *ld);
/* Queues the gather of a product's columns, and their spreading; nothing without ranks. Every rank
 * queues the same ones in the same order. */
cudaError_t eng__cuda_gather(cu_backend *cuda, const char *name, const cu_columns *cols);
/* A sum over ranks: each has the parts of the outputs that its hidden values give. */
typedef struct {
    const float *parts;     /* [rows][n_parts][dim]; nothing if the rank has no hidden values */
    float *to;              /* [rows][dim] their sums on every rank; may be `parts` */
    uint32_t n_parts, rows; /* rows: capacity */
    uint32_t hidden;        /* hidden values of all ranks */
} cu_ranks_sum;
/* Queues the exchange of all ranks' parts, and their sums: this rank's parts of a row in their
 * order, then the ranks' in theirs. With sums only. Every rank queues the same ones in the same
 * order. */
cudaError_t eng__cuda_sum(cu_backend *cuda, const cu_ranks_sum *sum);
/* Where one part of each row is best written: [rows][dim]. It may be work.delta. */
float *eng__cuda_parts_place(const cu_backend *cuda, uint32_t rows);
/* Finds the other ranks, a carrier and the split, as opts.ranks, FATHOM_CUDA_RANKS and
 * FATHOM_CUDA_RANKS_SPLIT say. Every rank calls it at the same time. Decides about graphs. */
int eng__cuda_ranks_open(cu_backend *cuda, err *e) WARN_UNUSED;
void eng__cuda_ranks_close(cu_backend *cuda);
/* Bytes of the parcels of all ranks, for the largest gather; 0 without ranks. */
uint64_t eng__cuda_parcels_bytes(const cu_backend *cuda);
/* Room for a cache: as much as every rank has, if this one has *room bytes free and they are to be
 * shared with the other ranks on its device. */
int eng__cuda_ranks_room(const cu_backend *cuda, uint64_t *room, err *e) WARN_UNUSED;
/* Gathers are counted as they are queued. begin: none yet. captured: those since belong to the
 * graph of a stage (CU_STAGES: the head) and capacity. launched: this graph runs once more, or the
 * gathers since `begin` ran by themselves; opts.ranks counts them. */
void eng__cuda_ranks_begin(cu_backend *cuda);
void eng__cuda_ranks_captured(cu_backend *cuda, int stage, uint32_t rows);
void eng__cuda_ranks_launched(cu_backend *cuda, int stage, uint32_t rows, bool graph);
/* True if a gather has failed: the backend is lost, and *e says why. */
bool eng__cuda_ranks_fault(cu_backend *cuda, err *e);
/* For tests: fills all working memory with NaN patterns once the launches in flight are over. */
int eng__cuda_poison(cu_backend *cuda, err *e) WARN_UNUSED;
/* runs.c: the expanded keys of a launch's prompts. Sizes for a crossover in queries, and a scratch
 * of `keys` (0: as many as 64 MB hold). put_runs: fills the descriptor of one launch, rows already
 * there, from byte `at` on, and returns its new length. *all: every row is expanded. */
void eng__cuda_size_runs(cu_backend *cuda, uint32_t crossover, uint32_t keys, uint64_t key_bytes);
size_t eng__cuda_runs_bytes(const cu_backend *cuda);
size_t eng__cuda_put_runs(const cu_backend *cuda, const eng_launch *launch, uint8_t *desc,
                          size_t at, bool *all);
/* Most tiles of queries in a launch of so many rows. */
uint32_t eng__cuda_flash_tiles(const cu_backend *cuda, uint32_t rows);
/* True if row, next to `before`, reads the same keys and some more. */
bool eng__cuda_shares_keys(eng_stage stage, const eng_row *before, const eng_row *row);
/* launch.c */
extern const eng_backend_ops eng__cuda_ops;
uint32_t eng__cuda_bucket(const cu_backend *cuda, uint32_t rows);

#endif
