/* model.h - a model folder: its plan and its tensors, mapped from the files.
 *
 * Threading: an open model is read-only and may be shared by threads. */
#ifndef FATHOM_MODEL_H
#define FATHOM_MODEL_H

#include "model/plan.h"

typedef enum { DTYPE_F32, DTYPE_F16, DTYPE_BF16 } model_dtype;

typedef struct {
    const void *data; /* little-endian, row-major, inside the map; lives as long as the model.
                         Alignment is whatever the file has: read with memcpy or unaligned loads */
    model_dtype dtype;
    uint32_t rank; /* 0..4 */
    uint64_t shape[4];
    size_t n_values, bytes;
} model_tensor;

typedef struct model_folder model_folder;

/* Opens a model folder: config.json, and model.safetensors or the shards of
 * model.safetensors.index.json. Every tensor the configuration needs is present with
 * the right shape and a float dtype, or the call fails with ERR_BAD_FILE and file,
 * tensor, expected and found. On failure *out is NULL. */
int model_open(model_folder **out, const char *dir, err *e) WARN_UNUSED;
void model_close(model_folder *m); /* NULL is fine */
/* Opening looks at a sample of the weights; this reads them all (seconds a GB) and fails
 * with ERR_BAD_FILE at the first that is NaN or infinite. */
int model_check(const model_folder *m, err *e) WARN_UNUSED;
const model_plan *model_plan_of(const model_folder *m);
const char *model_dir(const model_folder *m);
/* True and *out filled if the model has this tensor (names: spec model.md, e.g.
 * "recurrent.block.attn.kv_down.weight"). */
bool model_find(const model_folder *m, const char *name, model_tensor *out) WARN_UNUSED;
uint64_t model_bytes(const model_folder *m);  /* of all tensors */
uint64_t model_params(const model_folder *m); /* values in all tensors, head counted once */
/* Where the weights are, for people: sums to model_params and model_bytes. */
typedef enum {
    MODEL_PART_EMBED, /* and the head, if it is its own */
    MODEL_PART_ATTENTION,
    MODEL_PART_DENSE,   /* FFN of prelude and coda */
    MODEL_PART_EXPERTS, /* routed experts and their router */
    MODEL_PART_SHARED,  /* always-on experts */
    MODEL_PART_OTHER,   /* norms, injection, LoRA, halting */
    MODEL_PARTS
} model_part;
typedef struct {
    uint64_t params, bytes;
} model_part_size;
void model_parts(const model_folder *m, model_part_size out[MODEL_PARTS]);
const char *model_part_name(model_part part); /* "routed experts" */
/* Widens n values from index first to float. */
void model_tensor_read(const model_tensor *t, size_t first, size_t n, float *out);
const char *model_dtype_name(model_dtype d); /* "F32" */
size_t model_dtype_bytes(model_dtype d);

typedef struct {
    uint64_t seed;
    model_dtype dtype;
    float mean_depth; /* halting is scaled so that depths of random text spread around this */
    void (*progress)(void *ud, uint64_t done_bytes, uint64_t all_bytes); /* may be NULL */
    void *ud;
    uint64_t shard_bytes; /* 0 = one file */
} model_init_opts;
/* Writes a folder of random weights that model_open loads. Refuses to overwrite
 * an existing model.safetensors. */
int model_init_write(const char *dir, const model_plan *c, const model_init_opts *opts,
                   err *e) WARN_UNUSED;

#endif
