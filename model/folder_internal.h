/* folder_internal.h - an open model folder: its files, their tensors, and the tensors of its plan.
 */
#ifndef FATHOM_MODEL_FOLDER_INTERNAL_H
#define FATHOM_MODEL_FOLDER_INTERNAL_H

#include "base/file.h"
#include "model/model_internal.h"
#include "model/safetensors_internal.h"

#include <time.h>

typedef struct {
    char *name; /* the file's name for messages; owned */
    file_map map;
    model__st_index index;
    struct timespec changed; /* mtime when mapped */
} weight_file;

typedef struct {
    const model__st_entry *entry;
    uint32_t file;
    bool used;
} placed;

typedef struct { /* a tensor of the plan */
    tensor_place place;
    const placed *in;
    uint64_t first_row, rows, cols;
    uint32_t rank;
} wanted;

struct model_folder {
    model_plan plan;
    char *dir;
    weight_file *files;
    size_t n_files;
    placed *tensors; /* of all files, sorted by name */
    size_t n_tensors;
    wanted *wanted; /* sorted by place */
    size_t n_wanted, cap_wanted;
    model_part_size parts[MODEL_PARTS];
    const placed *embedding, *copy; /* copy: a second one of a tied head; NULL: none */
};

/* Reads config.json into the folder's plan. */
int model__read_config(model_folder *folder, err *e) WARN_UNUSED;
/* Maps the weight files and reads their headers. */
int model__open_files(model_folder *folder, err *e) WARN_UNUSED;
/* True if the tensor has a float dtype and at most four dimensions. */
bool model__fill_tensor(const model_folder *folder, const placed *tensor,
                        model_tensor *out) WARN_UNUSED;
bool model__float_dtype(const model__st_entry *entry, model_dtype *out) WARN_UNUSED;

enum { SAMPLES = 16 }; /* places checked in a large tensor */
int model__check_sample(const model_folder *folder, const placed *tensor, err *e) WARN_UNUSED;
/* Compares the copy with the embedding at so many places; 0: everywhere. */
int model__check_copy(const model_folder *folder, size_t places, err *e) WARN_UNUSED;

int model__folder_no_memory(err *e, const char *dir);

#endif
