/* upload.h - puts values on the device in its own type, row by row. */
#ifndef FATHOM_ENGINE_CUDA_UPLOAD_H
#define FATHOM_ENGINE_CUDA_UPLOAD_H

#include "engine/cpu/cpu_internal.h"
#include "engine/cuda/cuda_internal.h"

/* Values next to each other in the file and in a row. */
typedef struct {
    const uint8_t *from;
    uint8_t *to; /* in the stage */
    uint32_t n;
    model_dtype dtype;
} cu_piece_of_row;

/* Fills one matrix on the device through a pinned buffer. Rows are only noted at first; when the
 * buffer is full, several threads bring their values into the device's type. */
typedef struct {
    cu_backend *cuda;
    eng__pool *pool;
    uint8_t *stage; /* pinned, of `cap` bytes */
    size_t cap, used;
    cu_piece_of_row *pieces; /* of the stage */
    uint32_t n_pieces;
    uint8_t *to; /* target of the staged bytes */
    uint32_t ld;
    progress bar; /* by bytes on the device */
} cu_uploader;

static inline tensor_place cu_at_role(tensor_place at, tensor_role role) {
    at.role = role;
    return at;
}
static inline tensor_place cu_of_model(tensor_role role) {
    return (tensor_place){.role = role};
}

/* Calls `all` with an uploader for rows of up to `longest` values. */
int eng__up_run(cu_backend *cuda, uint32_t longest, int (*all)(cu_uploader *upload, err *e),
                err *e) WARN_UNUSED;
/* The tensor at this place, or ERR_BAD_FILE. */
int eng__up_need(const cu_backend *cuda, tensor_place at, model_tensor *tensor, err *e) WARN_UNUSED;
/* Float32 values on the device, whatever the mode; a tensor of them. */
int eng__up_floats(cu_backend *cuda, float **out, const float *values, size_t n,
                   err *e) WARN_UNUSED;
int eng__up_vector(cu_backend *cuda, float **out, tensor_place at, err *e) WARN_UNUSED;

/* A set of `count` matrices [n][k]; uploads start at its first row. After all rows: flush. */
int eng__up_begin(cu_uploader *upload, cu_mat *mat, uint32_t count, uint32_t n, uint32_t k,
                  err *e) WARN_UNUSED;
/* n values of `tensor` from column col of `row`; rows have as many values as the tensor's last
 * axis. */
int eng__up_row(cu_uploader *upload, const model_tensor *tensor, uint64_t row, uint64_t col,
                uint32_t n, err *e) WARN_UNUSED;
int eng__up_values(cu_uploader *upload, const float *values, uint32_t n, err *e) WARN_UNUSED;
int eng__up_zeros(cu_uploader *upload, uint32_t rows, err *e) WARN_UNUSED;
/* Space for one row of `pieces` pieces, with zeros beyond its first n values, and one of its
 * pieces. NULL after an error. */
uint8_t *eng__up_next_row(cu_uploader *upload, uint32_t n, uint32_t pieces, err *e) WARN_UNUSED;
void eng__up_piece(cu_uploader *upload, uint8_t *to, const model_tensor *tensor, size_t first,
                   uint32_t n);
int eng__up_flush(cu_uploader *upload, err *e) WARN_UNUSED;

#endif
