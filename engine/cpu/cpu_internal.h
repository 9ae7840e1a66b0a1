/* cpu_internal.h - the structs of the CPU backend; private to engine/cpu and its tests.
 *
 * Values are float32 everywhere. Weights are packed into panels of ENG__PANEL output columns, in
 * float32, bfloat16 or int8. Every output element is one running sum over k in rising order, so its
 * bits depend neither on the other rows of a launch nor on the number of threads. */
#ifndef FATHOM_CPU_INTERNAL_H
#define FATHOM_CPU_INTERNAL_H

#include "base/machine.h"
#include "base/progress.h"
#include "engine/backend_internal.h"
#include "engine/ranks.h"

#include <stdatomic.h>

enum {
    ENG__PANEL = 32,     /* output columns of a packed panel */
    ENG__NARROW = 8,     /* columns of the narrow tile, for few queries */
    ENG__TILE = 12,      /* rows of a register tile */
    ENG__ROW_BLOCK = 96, /* rows that reuse a panel in the core's cache */
    ENG__K_BLOCK = 2048, /* k steps between two visits of an accumulator */
    ENG__GROUP = 128,    /* k steps with one scale in int8 */
    ENG__GROUP_BYTES = ENG__GROUP * ENG__PANEL + 4 * ENG__PANEL, /* codes, then scales */
    ENG__SEGMENT = 128, /* cache positions of one softmax step */
    ENG__SPAN = 1024,   /* positions of one partial result; partial results are merged in order */
    ENG__PIECE = 2048,  /* most values of a position read by a block of several groups */
    ENG__EXPAND_BLOCK = 512, /* most queries with one expanded segment */
    ENG__PAD = 16,           /* floats between rows; avoids cache-set conflicts at powers of two */
};

/* ---- compute pool (pool.c) ---- */

typedef struct eng__pool eng__pool;
/* Runs items [first, last) on thread number `worker`. */
typedef void (*eng__work)(void *arg, uint32_t first, uint32_t last, uint32_t worker);

int eng__pool_create(eng__pool **out, uint32_t threads, err *e) WARN_UNUSED;
void eng__pool_destroy(eng__pool *pool); /* NULL is fine */
/* Splits n items over the threads, in chunks taken on demand; returns when all are done. `grain` is
 * the least number of items in a chunk. One caller at a time. */
void eng__pool_run(eng__pool *pool, eng__work fn, void *arg, uint32_t n, uint32_t grain);
uint32_t eng__pool_threads(const eng__pool *pool);
/* CPU time of the caller and the workers so far. */
uint64_t eng__pool_cpu_ns(const eng__pool *pool);
/* Number of threads for this machine or container: machine_threads, up to the limit of a pool. */
uint32_t eng__threads_here(void);

/* ---- kernels: one source, compiled once per instruction set ---- */

typedef struct {
    const char *name;
    /* acc[r][c] = (add ? acc[r][c] : 0) + sum over k of x[r * ldx + k] * weights[k][c], for rows <=
     * ENG__TILE and all ENG__PANEL columns. tile_f32 reads weights[k * ldw + c]. tile_bf16 reads a
     * packed panel: value 2i is column i, value 2i + 1 is column 16 + i. */
    void (*tile_f32)(const float *weights, size_t ldw, size_t k, const float *x, size_t ldx,
                     uint32_t rows, float *acc, size_t lda, bool add);
    void (*tile_bf16)(const uint16_t *weights, size_t k, const float *x, size_t ldx, uint32_t rows,
                      float *acc, size_t lda, bool add);
    /* y = x / sqrt(mean(x^2) + eps) * weights; y may be x */
    void (*rms)(const float *x, const float *weights, float *y, size_t n, float eps);
    /* y[i] = silu(gate[i]) * up[i] */
    void (*silu_mul)(const float *gate, const float *up, float *y, size_t n);
    /* The same sums for rows side by side: x[k * ldx + r]. */
    void (*tile_f32_across)(const float *weights, size_t ldw, size_t k, const float *x, size_t ldx,
                            uint32_t rows, float *acc, size_t lda, bool add);
    /* tile_f32 for the first NARROW columns, with the same bits. */
    void (*tile_f32_narrow)(const float *weights, size_t ldw, size_t k, const float *x, size_t ldx,
                            uint32_t rows, float *acc, size_t lda);
    /* One softmax step of `lanes` queries (rounded up to 16) over n positions, score[n][PANEL].
     * Query q sees the first seen[q] positions. Updates the running maximum and sum of each query,
     * replaces scores by weights relative to the new maximum, and sets keep to the factor for older
     * results. */
    void (*softmax_across)(float *score, uint32_t n, uint32_t lanes, const int32_t *seen,
                           float *top, float *sum, float *keep);
    float (*dot)(const float *left, const float *right, size_t n);
    /* y = y * keep + x * take */
    void (*scale_add)(float *y, float keep, const float *x, float take, size_t n);
    void (*widen)(const uint16_t *bf16, float *y, size_t n);
    void (*narrow)(const float *x, uint16_t *bf16, size_t n); /* rounds to nearest even */
    /* acc (+)= the product of int8 rows and an int8 panel of `groups` groups. A group is codes
     * [GROUP / 4][PANEL][4] (value + 128), then PANEL float scales. A row has its codes, and per
     * group a scale and the sum of its codes. Exact in integers. */
    void (*tile_i8)(const uint8_t *weights, uint32_t groups, const int8_t *codes, size_t ld_codes,
                    const float *scale, const int32_t *sum, size_t ld_scale, uint32_t rows,
                    float *acc, size_t lda, bool add);
    /* Codes, scale and sum of codes of one group of n <= GROUP values; the rest is 0. */
    void (*quantize)(const float *x, size_t n, int8_t *codes, float *scale, int32_t *sum);
    float (*fma_probe)(size_t n); /* n * fma_probe_flops operations in registers */
    float (*dot_probe)(size_t n); /* n * 4 * fma_probe_flops int8 operations */
    float (*read_probe)(const float *from, size_t n, uint32_t way); /* way < ENG__READ_WAYS */
    uint32_t fma_probe_flops;
} eng__kernels;

extern const eng__kernels eng__kernels_portable;
#if defined(__x86_64__)
extern const eng__kernels eng__kernels_avx2, eng__kernels_avx512;
void eng__use_vnni(eng__kernels *kern); /* kern: a copy of eng__kernels_avx512 */
#endif
enum { ENG__READ_WAYS = 4 };
/* name NULL: the fastest code path measured here. ERR_USAGE: unknown or unsupported. */
int eng__kernels_choose(const eng__kernels **out, const char *name, err *e) WARN_UNUSED;

/* ---- packed weights (pack.c) ---- */

typedef enum { ENG__F32, ENG__BF16, ENG__I8 } eng__wtype;

typedef struct {
    /* own panels: [n_in][ENG__PANEL] each, int8: [groups][ENG__GROUP_BYTES] */
    const uint8_t *data;
    uint32_t n_out, n_in, panels; /* panels of all ranks together */
    eng_share own;                /* panels of this rank; all unless the matrix is divided */
    eng__wtype type;
    size_t panel_bytes;
} eng__mat;

/* Input rows of a product, and their codes if the weights are int8. */
typedef struct {
    const float *src;
    size_t ld_src;
    int8_t *codes; /* [rows][ld_codes] */
    float *scale;  /* [rows][ld_scale], one per group */
    int32_t *sum;
    size_t ld_codes, ld_scale;
} eng__input;

typedef struct {
    float *attn_norm, *ffn_norm;         /* [D] of the inputs of sublayers; NULL with NORM_POST */
    float *attn_out_norm, *ffn_out_norm; /* [D] of the outputs; NULL with NORM_PRE */
    uint32_t slot_at;                    /* first value of this layer inside a slot */
    ffn_kind ffn;
    /* MLA */
    eng__mat q_down, q_up_nope, q_up_rope, kv_down;
    float *q_norm, *kv_norm; /* GQA: q_norm and k_norm with QK_NORM_FULL */
    eng__mat *uk;            /* [H] query into the latent: n_out = rank, n_in = nope */
    eng__mat *uv;            /* [H] latent into the value: n_out = v, n_in = rank */
    eng__mat *key; /* [H] uk transposed, latent into the key; NULL if expanding never pays */
    /* GQA; vectors of queries and keys are in the order of the rotation */
    eng__mat wq, wk, wv;
    float *q_bias, *k_bias, *k_norm; /* NULL if the plan has none */
    float *value_gate;               /* [n_kv_heads][PLAN_VALUE_GATE]; NULL: no value embedding */
    model_tensor value_table;        /* in the model's file */
    eng__mat wo;
    /* SwiGLU: each panel of gate_up holds 16 gate columns, then 16 up columns; HALF_RELU2: up */
    eng__mat gate_up, down;                 /* dense FFN; in the MoE: all shared experts as one */
    eng__mat *expert_gate_up, *expert_down; /* [n_experts] */
    eng__mat router;
    float *router_bias;
} eng__layer;

/* One product of a launch: dst (op)= src * mat for `rows` rows. */
typedef enum { ENG__STORE, ENG__ADD, ENG__SILU, ENG__HALF_RELU2 } eng__gemm_op;
typedef struct {
    const eng__mat *mat;
    const float *src;
    float *dst;
    size_t ld_src, ld_dst;
    uint32_t rows;
    eng__gemm_op op;
    /* set by eng__gemm_run; new_rows: rows quantized by this job */
    uint32_t first_item, new_rows;
    eng__input in;
} eng__gemm;

/* Adjacent rows of one sequence with consecutive positions in one plane. */
typedef struct {
    uint32_t first, n_rows; /* scratch rows */
    bool expanded;          /* with keys and values rebuilt per head */
} eng__run;

typedef struct { /* memory of one compute thread */
    float *acc;  /* [ROW_BLOCK][PANEL] */
    float *kv;   /* keys and values in float32: [SEGMENT][ld_gathered], or [TILE][PIECE + PAD] */
    float *query_panels; /* [ROW_BLOCK / PANEL][key_dim][PANEL] queries, transposed */
    float *scores;       /* [ROW_BLOCK / PANEL][SEGMENT][PANEL] */
    float *tmp;          /* [max(D, layer_values + head_dim) + PAD] */
    float *sums;         /* [PANEL][ld_sums] values of a segment */
    float *partial;      /* [ROW_BLOCK][value_dim] result of one span before merging */
    /* expanded attention of one head */
    float *key;   /* [SEGMENT][ld_key] */
    float *value; /* [SEGMENT][ld_value] */
    float *query; /* [EXPAND_BLOCK / PANEL][nope + rope][PANEL] */
} eng__scratch;

typedef struct {
    struct eng__block {
        void *data;
        size_t mapped; /* bytes of its mapping; 0: from the heap */
    } * items;
    uint32_t n_items, cap;
    uint64_t bytes; /* of all items */
} eng__blocks;

/* All packed matrices, one after the other. */
typedef struct {
    uint8_t *data;
    size_t bytes;
    uint64_t key;  /* hash of the packed tensors: kinds, shapes, samples */
    char name[64]; /* of its file in the model's folder */
    void *map;     /* a mapped file of the packed weights; NULL: from memory */
    size_t mapped;
} eng__image;

/* With opts.homes, scratch rows are ordered by home: all full rows, then all others. */
typedef struct {
    uint32_t n;            /* of homes; 0: every row is at home here */
    uint32_t *full, *rest; /* [n] full rows of each home, and others */
    uint32_t first_rest;   /* the first scratch row that is not full */
} eng__homes;

typedef struct {
    eng_backend base;
    const model_folder *model;
    model_plan plan;
    eng_backend_opts opts;
    const eng__kernels *kern;
    eng__pool *pool;
    eng__blocks mem;

    /* weights */
    eng__layer *prelude, *core, *coda;
    float *loop_norm, *exit_w, *final_norm, *input_norm; /* [D] */
    float *inj_a, *inj_b;                                /* [D] factors of state and input */
    eng__mat inject_state, inject_input; /* LINEAR: both halves; DIAGONAL: only that of the input */
    eng__mat coda_in;
    float exit_bias;
    eng__mat lora_down, head;
    float *lora_b, *lora_scale; /* [lora_rank][D], [lora_rows][lora_rank] */
    uint32_t lora_rows;
    model_tensor embed;
    uint64_t weight_bytes;
    eng__image image;
    float *loop_emb; /* [max_loops][loop_width] */
    uint32_t loop_width, shared_dim;
    double *rope_low, *rope_high; /* [256][pairs][2] and [max_positions / 256 + 1][pairs][2] */
    uint32_t rope_pairs;

    /* attention geometry: `groups` sets of `group_heads` query heads share keys */
    uint32_t groups, group_heads, key_dim, value_dim, ld_gathered, value_at;
    uint32_t ld_sums;          /* value_dim in whole panels */
    uint32_t ld_key, ld_value; /* floats between rows of one expanded head */
    uint32_t crossover;        /* least queries for which expanding is less arithmetic; 0 = never */
    uint32_t window;           /* aligned positions of one form; 0 = all absorbed */
    uint32_t expand_block;     /* queries in one item of expanded attention */
    float attn_scale;

    /* row states, [n_rows] each; input, the injection's second term, is NULL if the loop has no
     * injection */
    float *state, *input, *out, *exit_sum;
    bool *chunked; /* its prelude ran in the expanded form, so its loops may */
    eng__stamps stamps;

    /* cache */
    void *slots;
    uint32_t *maps; /* [n_blocks][n_planes][ENG_BLOCK] slot + 1, so a zero page names no slot */

    /* scratch of a launch; rows (index idx) in scratch order: full rows, then K/V-only rows */
    uint32_t slot_at;     /* slot_at of the current layer */
    uint32_t *launch_row; /* scratch row -> launch row */
    uint32_t *plane;      /* by scratch row */
    uint32_t n_all, n_full;
    eng__homes homes;
    size_t ld_stream, ld_q_latent, ld_kv, ld_q_nope, ld_q_rope, ld_attended, ld_hidden, ld_expert,
        ld_router, ld_lora, ld_ctx, ld_rope;
    float *stream, *normed; /* [max_launch][ld_stream] residual stream, its norm */
    float *q_latent, *kv;   /* [max_launch][ld_q_latent], [..][ld_kv] */
    float *q_nope, *q_rope; /* before the layout by group; GQA: all in q_nope */
    float *queries;         /* [groups][max_launch][group_heads][key_dim] */
    float *ctx, *attended;  /* [max_launch][ld_ctx], [max_launch][ld_attended] */
    float *rope;            /* [max_launch][ld_rope] cos and sin at the position of the row */
    float *hidden;          /* [max_launch][ld_hidden] */
    float *expert_hidden;   /* [max_launch * top_k][ld_expert] */
    float *expert_x;        /* [max_launch * top_k][ld_stream] */
    float *router, *lora;   /* [max_launch][ld_router], [..][ld_lora] */
    uint32_t *pick;         /* [max_launch][top_k] experts, rising */
    float *pick_weight;     /* [max_launch][top_k] */
    uint32_t *expert_first; /* [n_experts + 1] first sorted assignment of each expert */
    uint32_t *sorted;       /* [max_launch * top_k] assignment = row * top_k + pick index */
    int8_t *codes;          /* int8 codes of the inputs of a phase */
    float *code_scale;
    int32_t *code_sum;
    size_t code_cap, code_groups_cap;
    eng__gemm *jobs;
    uint32_t max_jobs;
    eng__run *runs;
    uint32_t n_runs;
    uint32_t query_block;   /* most queries of one group in an item of attention, <= ROW_BLOCK */
    uint32_t block_columns; /* the same for an item of several groups, <= PANEL */
    float *partials; /* [partials_cap][value_dim + 2] results of spans from several threads */
    uint32_t partials_cap;
    eng__scratch *scratch; /* per thread */
    uint8_t *halted;       /* [max_launch] by launch row */
    float *logits;         /* [max_logits][vocab] */
    uint32_t n_logits;
    uint64_t ns, check;
    err ranks_lost;            /* the first failure of a gather; the launch reports it at its end */
    _Atomic uint32_t bad_slot; /* set if a map named a slot outside the cache */
    const eng_row *rows;       /* of the launch in progress */
    uint32_t n_rows;
    bool in_coda;
} eng__cpu;

static inline uint32_t eng__min(uint32_t left, uint32_t right) {
    return left < right ? left : right;
}

static inline const eng_row *eng__row_of(const eng__cpu *cpu, uint32_t scratch_row) {
    return &cpu->rows[cpu->launch_row[scratch_row]];
}

/* Slot of a position, or ENG_NO_SLOT if the map names no slot of the cache. */
static inline uint32_t eng__slot_at(const eng__cpu *cpu, const uint32_t *table, uint32_t pos,
                                    uint32_t plane) {
    size_t map = (size_t)table[pos / ENG_BLOCK] * cpu->base.info.n_planes + plane;
    uint32_t slot = cpu->maps[map * ENG_BLOCK + pos % ENG_BLOCK] - 1;
    return slot < cpu->base.info.n_slots ? slot : ENG_NO_SLOT;
}

/* The same for a position that must have a slot. Without one the launch fails at its end. */
static inline bool eng__find_slot(eng__cpu *cpu, const uint32_t *table, uint32_t pos,
                                  uint32_t plane, uint32_t *slot) {
    *slot = eng__slot_at(cpu, table, pos, plane);
    if (*slot != ENG_NO_SLOT) return true;
    atomic_store_explicit(&cpu->bad_slot, 1, memory_order_relaxed);
    return false;
}

/* First value of the current layer inside the cache. */
static inline size_t eng__layer_at(const eng__cpu *cpu, uint32_t slot) {
    return (size_t)slot * cpu->plan.slot_values + cpu->slot_at;
}

/* Memory until close: zeroed, 64-byte aligned, advised for huge pages if large. NULL when out of
 * memory. */
void *eng__take(eng__cpu *cpu, size_t n, size_t item_bytes) WARN_UNUSED;

/* weights.c */
int eng__load_weights(eng__cpu *cpu, err *e) WARN_UNUSED;
/* packed_file.c: the image kept in the model's folder. open and save return true on success; a
 * failure only costs time. */
bool eng__packed_open(eng__cpu *cpu);
bool eng__packed_save(eng__cpu *cpu);
void eng__packed_close(eng__cpu *cpu); /* fine if nothing is mapped */
/* Checksum of an image; false if a page cannot be read. The bar, if any, is told of each part. */
bool eng__image_sum(eng__pool *pool, const uint8_t *data, size_t bytes, uint64_t *sum,
                    progress *bar);

/* gemm.c */
void eng__gemm_run(eng__cpu *cpu, eng__gemm *jobs, uint32_t n_jobs);
/* Sets `in` of the jobs: the rows, and their codes if the weights are int8. */
void eng__gemm_inputs(eng__cpu *cpu, eng__gemm *jobs, uint32_t n_jobs);
/* acc[rows][PANEL] = rows of `in` from row0 on times one panel of mat, rows <= ROW_BLOCK. The panel
 * is one of mat->own. */
void eng__panel(const eng__cpu *cpu, const eng__mat *mat, uint32_t panel, const eng__input *in,
                uint32_t row0, uint32_t rows, float *acc);

/* attention.c: writes K/V of every row of the launch. Attention of full rows is added to `stream`
 * or left in `normed`: see eng__to_stream. */
void eng__attention(eng__cpu *cpu, const eng__layer *layer);
/* In a prelude, before its layers: chooses the form of each row. */
void eng__choose_forms(eng__cpu *cpu);
/* The rows read by the first products of a sublayer. */
static inline const float *eng__sublayer_input(const eng__cpu *cpu) {
    return plan_norms_inputs(&cpu->plan) ? cpu->normed : cpu->stream;
}
/* The last product of a sublayer: full rows of src times mat, added to `stream`. With NORM_SANDWICH
 * and NORM_POST, whose norm comes before the sum, the product is stored in `normed`. */
eng__gemm eng__to_stream(const eng__cpu *cpu, const eng__mat *mat, const float *src, size_t ld_src);
/* attention_blocks.c: attention of the runs not expanded, from `queries` to `ctx` */
void eng__attend_blocks(eng__cpu *cpu);
/* Keys and values of positions [pos0, pos0 + n) of a group as float32 rows [n][ld_gathered]. */
void eng__gather(eng__cpu *cpu, const uint32_t *table, uint32_t plane, uint32_t group,
                 uint32_t pos0, uint32_t n, float *to);
/* attention_expanded.c: attention of the expanded runs, from queries to `attended` */
void eng__attend_expanded(eng__cpu *cpu, const eng__layer *layer);
/* moe.c: the feed-forward of full rows, ended by eng__to_stream. Experts need NORM_PRE. */
void eng__ffn_dense(eng__cpu *cpu, const eng__layer *layer);
void eng__ffn_moe(eng__cpu *cpu, const eng__layer *layer);
/* cpu_ranks.c: the backend as one of several ranks. Without opts.ranks nothing is gathered. */
/* Fills the other ranks' columns of the parts. A failure is kept in ranks_lost. */
void eng__gather_ranks(eng__cpu *cpu, const eng_columns *parts, uint32_t n);
/* Runs an attention sublayer for rows at home, and gathers the stream of all other rows that go on
 * to the feed-forward. */
void eng__attend_at_home(eng__cpu *cpu, const eng__layer *layer,
                         void (*sublayer)(eng__cpu *, const eng__layer *));
int eng__take_homes(eng__cpu *cpu, err *e) WARN_UNUSED;
/* Chooses the kernels: of the options, or for all ranks those of rank 0. */
int eng__agree_kernels(eng__cpu *cpu, err *e) WARN_UNUSED;
/* Leaves this rank its part of a machine that several ranks share. */
int eng__share_machine(eng__cpu *cpu, machine *here, err *e) WARN_UNUSED;
/* Takes the memory of the largest gather. */
int eng__reserve_gathers(eng__cpu *cpu, err *e) WARN_UNUSED;
/* eng_result.check of the launch in progress. */
uint64_t eng__results_check(const eng__cpu *cpu, eng_stage stage);
/* stages.c */
void eng__stage_prelude(eng__cpu *cpu);
void eng__stage_recurrent(eng__cpu *cpu);
void eng__stage_coda(eng__cpu *cpu);
/* cos and sin of the pairwise rotation at pos: out[pairs][2] */
void eng__rope_at(const eng__cpu *cpu, uint32_t pos, float *out);
int eng__tables_init(eng__cpu *cpu, err *e) WARN_UNUSED;

#endif
