/* upload.c - puts values on the device in its own type, row by row, through a pinned buffer. */
#include "engine/cuda/upload.h"
#include "base/size.h"
#include "engine/rowmath.h"

#include <stdlib.h>
#include <string.h>

enum { STAGE_BYTES = 8 << 20, PIECES = 16384, MOST_THREADS = 8, AT_ONCE = 64 };

static void narrow_all(const float *values, uint32_t n, uint8_t *to) {
    uint16_t bits[AT_ONCE];
    for (uint32_t i = 0; i < AT_ONCE; i++)
        bits[i] = rm_bf16_narrow(values[i]);
    memcpy(to, bits, n * sizeof *bits);
}

static void convert(const cu_piece_of_row *part, bool f32) {
    model_tensor tensor = {.data = part->from, .dtype = part->dtype};
    float values[AT_ONCE] = {0};
    if (f32) {
        model_tensor_read(&tensor, 0, part->n, (float *)(void *)part->to);
    } else if (part->dtype == DTYPE_BF16) {
        memcpy(part->to, part->from, (size_t)part->n * 2);
    } else {
        for (uint32_t i = 0; i < part->n; i += AT_ONCE) {
            uint32_t n = part->n - i < AT_ONCE ? part->n - i : AT_ONCE;
            model_tensor_read(&tensor, i, n, values);
            narrow_all(values, n, part->to + (size_t)i * 2);
        }
    }
}

static void convert_some(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    const cu_uploader *upload = arg;
    (void)worker;
    for (uint32_t i = first; i < last; i++)
        convert(&upload->pieces[i], upload->cuda->f32);
}

int eng__up_flush(cu_uploader *upload, err *e) {
    if (upload->used == 0) return 0;
    eng__pool_run(upload->pool, convert_some, upload, upload->n_pieces, 8);
    upload->n_pieces = 0;
    if (eng__cuda_check(upload->cuda,
                        cudaMemcpy(upload->to, upload->stage, upload->used, cudaMemcpyHostToDevice),
                        "copying weights", e) != 0) {
        return -1;
    }
    upload->to += upload->used;
    progress_add(&upload->bar, upload->used);
    upload->used = 0;
    return 0;
}

uint8_t *eng__up_next_row(cu_uploader *upload, uint32_t n, uint32_t pieces, err *e) {
    size_t bytes = (size_t)upload->ld * cu_act_bytes(upload->cuda),
           filled = (size_t)n * cu_act_bytes(upload->cuda);
    bool full = upload->used + bytes > upload->cap || upload->n_pieces + pieces > PIECES;
    if (full && eng__up_flush(upload, e) != 0) return NULL;
    uint8_t *at = upload->stage + upload->used;
    memset(at + filled, 0, bytes - filled);
    upload->used += bytes;
    return at;
}

void eng__up_piece(cu_uploader *upload, uint8_t *to, const model_tensor *tensor, size_t first,
                   uint32_t n) {
    const uint8_t *from = (const uint8_t *)tensor->data + first * model_dtype_bytes(tensor->dtype);
    upload->pieces[upload->n_pieces++] =
        (cu_piece_of_row){.from = from, .to = to, .n = n, .dtype = tensor->dtype};
}

int eng__up_values(cu_uploader *upload, const float *values, uint32_t n, err *e) {
    uint8_t *at = eng__up_next_row(upload, n, 0, e);
    if (at == NULL) return -1;
    for (uint32_t i = 0; i < n; i++) {
        uint16_t bits = rm_bf16_narrow(values[i]);
        if (upload->cuda->f32) memcpy(at + 4 * (size_t)i, &values[i], 4);
        else memcpy(at + 2 * (size_t)i, &bits, 2);
    }
    return 0;
}

int eng__up_row(cu_uploader *upload, const model_tensor *tensor, uint64_t row, uint64_t col,
                uint32_t n, err *e) {
    uint8_t *at = eng__up_next_row(upload, n, 1, e);
    if (at == NULL) return -1;
    eng__up_piece(upload, at, tensor, (size_t)(row * tensor->shape[1] + col), n);
    return 0;
}

int eng__up_zeros(cu_uploader *upload, uint32_t rows, err *e) {
    for (uint32_t i = 0; i < rows; i++) {
        if (eng__up_next_row(upload, 0, 0, e) == NULL) return -1;
    }
    return 0;
}

int eng__up_begin(cu_uploader *upload, cu_mat *mat, uint32_t count, uint32_t n, uint32_t k,
                  err *e) {
    mat->n = mat->all = n;
    mat->k = cu_round(k, CU_K_STEP);
    mat->ld = mat->k;
    mat->group = (uint64_t)cu_round(n, CU_MM_ROWS) * mat->ld;
    size_t values;
    if (!size_mul((size_t)mat->group, count, &values)) {
        return err_set(e, ERR_NO_MEMORY, NULL, "a weight matrix is larger than memory can be");
    }
    if (eng__cuda_alloc(upload->cuda, &mat->w, values, cu_act_bytes(upload->cuda), "weights", e) !=
        0)
        return -1;
    upload->cuda->weight_bytes += values * cu_act_bytes(upload->cuda);
    upload->to = mat->w;
    upload->ld = mat->ld;
    return 0;
}

int eng__up_need(const cu_backend *cuda, tensor_place at, model_tensor *tensor, err *e) {
    if (model_find(cuda->model, at, tensor)) return 0;
    return err_set(e, ERR_BAD_FILE, NULL, "the model has no tensor %s",
                   model_tensor_name(cuda->model, at));
}

int eng__up_floats(cu_backend *cuda, float **out, const float *values, size_t n, err *e) {
    if (eng__cuda_alloc(cuda, out, n, sizeof(float), "weights", e) != 0) return -1;
    cuda->weight_bytes += n * sizeof(float);
    return eng__cuda_check(cuda,
                           cudaMemcpy(*out, values, n * sizeof(float), cudaMemcpyHostToDevice),
                           "copying weights", e);
}

int eng__up_vector(cu_backend *cuda, float **out, tensor_place at, err *e) {
    model_tensor tensor;
    if (eng__up_need(cuda, at, &tensor, e) != 0) return -1;
    float *values = array_new(tensor.n_values, sizeof *values);
    if (values == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory packing weights");
    model_tensor_read(&tensor, 0, tensor.n_values, values);
    int rc = eng__up_floats(cuda, out, values, tensor.n_values, e);
    free(values);
    return rc;
}

int eng__up_run(cu_backend *cuda, uint32_t longest, int (*all)(cu_uploader *upload, err *e),
                err *e) {
    cu_uploader upload = {.cuda = cuda};
    size_t row = (size_t)longest * sizeof(float);
    uint32_t threads = eng__threads_here();
    upload.cap = row > STAGE_BYTES ? row : STAGE_BYTES;
    if (eng__pool_create(&upload.pool, threads < MOST_THREADS ? threads : MOST_THREADS, e) != 0)
        return -1;
    upload.pieces = array_new(PIECES, sizeof *upload.pieces);
    int rc = upload.pieces ? 0 : err_set(e, ERR_NO_MEMORY, NULL, "out of memory packing weights");
    if (rc == 0)
        rc = eng__cuda_check(cuda, cudaMallocHost((void **)&upload.stage, upload.cap),
                             "pinning memory", e);
    progress_start(&upload.bar, "copying weights to the device", NULL,
                   model_params(cuda->model) * cu_act_bytes(cuda));
    if (rc == 0) rc = all(&upload, e);
    progress_stop(&upload.bar);
    if (upload.stage) (void)cudaFreeHost(upload.stage);
    free(upload.pieces);
    eng__pool_destroy(upload.pool);
    return rc;
}
