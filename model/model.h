/* model.h - a model folder: its plan and its tensors, mapped from the files.
 *
 * Threading: an open model is read-only and may be shared by threads. */
#ifndef FATHOM_MODEL_H
#define FATHOM_MODEL_H

#include "model/plan.h"

typedef enum { DTYPE_F32, DTYPE_F16, DTYPE_BF16 } model_dtype;

typedef struct {
    const void *data; /* little-endian, row-major, inside the map; lives as long as the model.
                         May be unaligned: read with memcpy or unaligned loads */
    model_dtype dtype;
    uint32_t rank; /* 0..4 */
    uint64_t shape[4];
    size_t n_values, bytes;
} model_tensor;

typedef struct model_folder model_folder;

/* Opens a model folder: config.json, and model.safetensors or the shards of
 * model.safetensors.index.json. Every tensor the configuration needs must be present with the
 * right shape and a float dtype. Otherwise the call fails with ERR_BAD_FILE and names file,
 * tensor, expected and found shape. On failure *out is NULL. */
int model_open(model_folder **out, const char *dir, err *e) WARN_UNUSED;
void model_close(model_folder *folder); /* NULL is allowed */
/* Reads all weights (seconds per GB; opening reads a sample only). ERR_BAD_FILE at the first NaN
 * or infinite value. */
int model_check(const model_folder *folder, err *e) WARN_UNUSED;
/* ERR_BAD_FILE with the file's name if a file was written to since opening: mapped weights then
 * change in use, and reading past the end of a shortened file kills the process. A new file
 * renamed into place is no change: the map keeps the old file. */
int model_unchanged(const model_folder *folder, err *e) WARN_UNUSED;
const model_plan *model_plan_of(const model_folder *folder);
const char *model_dir(const model_folder *folder);

/* ---- tensors by role ----
 * Families name tensors differently, so a tensor is found by its place in the plan. */

typedef enum { PART_OF_MODEL, PART_OF_PRELUDE, PART_OF_CORE, PART_OF_CODA } tensor_stage;

typedef enum {
    /* of the model (stage PART_OF_MODEL) */
    TENSOR_EMBED,      /* [vocab_size][dim] */
    TENSOR_HEAD,       /* [vocab_size][dim]; absent if tied to the embedding */
    TENSOR_FINAL_NORM, /* [dim] */
    TENSOR_INPUT_NORM, /* [dim] of e, once */
    TENSOR_LOOP_NORM, /* [dim] MYTHOS: of h + e before the core; loop_norm: of the state after it */
    TENSOR_LOG_A,
    TENSOR_LOG_DT,
    TENSOR_INJECT_B, /* [dim], [1], [dim] MYTHOS; DIAGONAL: LOG_A [dim], LOG_DT [dim] */
    TENSOR_INJECT,   /* LINEAR [dim][2 dim], state first; DIAGONAL [dim][dim], its B */
    TENSOR_LORA_DOWN,
    TENSOR_LORA_B,
    TENSOR_LORA_SCALE, /* [rank][dim], [rank][dim], [loops][rank] */
    TENSOR_EXIT_WEIGHT,
    TENSOR_EXIT_BIAS, /* [1][dim], [1]: the halting gate */
    TENSOR_CODA_IN,   /* [dim][dim] LINEAR */
    /* of a layer */
    TENSOR_ATTN_NORM,
    TENSOR_ATTN_OUT_NORM,
    TENSOR_FFN_NORM,
    TENSOR_FFN_OUT_NORM, /* n1..n4 [dim] */
    TENSOR_WQ,
    TENSOR_WK,
    TENSOR_WV,
    TENSOR_WO,
    TENSOR_Q_BIAS,
    TENSOR_K_BIAS, /* [q width], [kv width] */
    TENSOR_K_NORM, /* QK_NORM_FULL: Q_NORM [q width], K_NORM [kv width] */
    TENSOR_Q_DOWN,
    TENSOR_Q_NORM,
    TENSOR_Q_UP_NOPE,
    TENSOR_Q_UP_ROPE, /* MLA */
    TENSOR_KV_DOWN,
    TENSOR_KV_NORM,
    TENSOR_KV_UP,
    TENSOR_GATE,
    TENSOR_UP,
    TENSOR_DOWN, /* dense FFN; HALF_RELU2 has no GATE */
    TENSOR_ROUTER,
    TENSOR_ROUTER_BIAS, /* MOE */
    TENSOR_EXPERT_GATE,
    TENSOR_EXPERT_UP,
    TENSOR_EXPERT_DOWN, /* by expert */
    TENSOR_SHARED_GATE,
    TENSOR_SHARED_UP,
    TENSOR_SHARED_DOWN, /* by shared expert */
    TENSOR_VALUE_TABLE, /* [vocab_size][kv width] */
    TENSOR_VALUE_GATE,  /* [n_kv_heads][PLAN_VALUE_GATE] */
    TENSOR_ROLES
} tensor_role;

typedef struct {
    tensor_role role;
    tensor_stage stage;
    uint32_t layer; /* within its stage */
    uint32_t index; /* of an expert */
} tensor_place;

/* True and *out filled if the model has this tensor, with the plan's shape. */
bool model_find(const model_folder *folder, tensor_place place, model_tensor *out) WARN_UNUSED;
/* True and *out filled if the files hold a tensor of this name, used or not. */
bool model_find_named(const model_folder *folder, const char *name, model_tensor *out) WARN_UNUSED;
/* The tensor's name in the file, for messages; "?" if the plan has no such tensor. */
const char *model_tensor_name(const model_folder *folder, tensor_place place);
uint64_t model_bytes(const model_folder *folder);  /* of all tensors */
uint64_t model_params(const model_folder *folder); /* values in all tensors, head counted once */
/* Sizes of the model's parts, for reports. They add up to model_params and model_bytes. */
typedef enum {
    MODEL_PART_EMBED, /* embedding, and the head if not tied */
    MODEL_PART_ATTENTION,
    MODEL_PART_DENSE,   /* FFN of every token */
    MODEL_PART_EXPERTS, /* routed experts and their router */
    MODEL_PART_SHARED,  /* always-on experts */
    MODEL_PART_VALUES,  /* tables of value embeddings */
    MODEL_PART_OTHER,   /* norms, injection, LoRA, halting */
    MODEL_PARTS
} model_part;
typedef struct {
    uint64_t params, bytes;
} model_part_size;
void model_parts(const model_folder *folder, model_part_size out[MODEL_PARTS]);
const char *model_part_name(model_part part); /* "routed experts" */
/* Hash of dtype, shape and samples of the values, continuing `seed`. Kept in files: never changes.
 */
uint64_t model_tensor_hash(uint64_t seed, const model_tensor *tensor);
/* The same for all tensors of the plan, with their names. Folders with other weights differ, unless
 * every sampled value is equal. */
uint64_t model_fingerprint(const model_folder *folder);
/* Widens n values from index first to float. */
void model_tensor_read(const model_tensor *tensor, size_t first, size_t n, float *out);
const char *model_dtype_name(model_dtype dtype); /* "F32" */
size_t model_dtype_bytes(model_dtype dtype);

/* A tensor of a plan, [rows][cols]; a vector has one column. */
typedef struct {
    tensor_place place;
    model_part part;
    uint64_t rows, cols;
    bool optional; /* a head that files may leave out: the embedding then is the head */
} plan_matrix;
/* Calls visit for every tensor of a plan, in the order of the file. Needs no weights. */
void plan_tensors(const model_plan *plan, void (*visit)(void *ud, const plan_matrix *tensor),
                  void *ud);

typedef struct {
    uint64_t seed;
    model_dtype dtype;
    float mean_depth; /* wanted mean depth of random text; 0: 3/8 of the trained loops, plus one */
    void (*progress)(void *ud, uint64_t done_bytes, uint64_t all_bytes); /* may be NULL */
    void *ud;
    uint64_t shard_bytes; /* 0 = one file */
    /* How much loops after the first change the state, relative to the usual weights, and then
     * logits as peaked as a trained model's. 0: the usual weights, else at most 1. */
    float motion;
} model_init_opts;
/* ERR_USAGE if the folder has a file that model_init_write would overwrite, ERR_IO if its file
 * system has no room for weights of so many bytes. The folder need not be there; its parent must.
 */
int model_init_check(const char *dir, uint64_t bytes, err *e) WARN_UNUSED;
/* Writes a model folder with random weights. Makes the check above first. */
int model_init_write(const char *dir, const model_plan *plan, const model_init_opts *opts,
                     err *e) WARN_UNUSED;

#endif
