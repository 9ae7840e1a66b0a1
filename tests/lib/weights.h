/* weights.h - small model folders for tests, and ways to break them. Aborts on failure. */
#ifndef FATHOM_TEST_WEIGHTS_H
#define FATHOM_TEST_WEIGHTS_H

#include "base/json.h"
#include "model/model.h"
#include "tests/lib/files.h"

/* Random weights of `variant` into dir; depths spread around mean_depth (0: the default). */
void weights_write(const char *dir, const char *variant, model_dtype dtype, uint64_t seed,
                   float mean_depth);

/* One safetensors file in memory, its header parsed. */
typedef struct {
    json_t *header;
    unsigned char *data;
    size_t n_data;
} st_file;
st_file st_read(const char *dir, const char *name);
void st_write(const st_file *file, const char *dir, const char *name);
void st_free(st_file *file);
json_t *st_tensor(const st_file *file, const char *tensor);       /* the header entry, borrowed */
unsigned char *st_bytes(const st_file *file, const char *tensor); /* its first byte */
void st_set_shape(const st_file *file, const char *tensor, const char *json);

#endif
