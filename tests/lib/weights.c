/* weights.c - small model folders for tests, and ways to break them. */
#include "tests/lib/weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void must(bool ok, const char *what) {
    if (ok) return;
    fprintf(stderr, "weights: %s\n", what);
    abort();
}

void weights_write(const char *dir, const char *variant, model_dtype dtype, uint64_t seed,
                   float mean_depth) {
    model_plan plan;
    err e = {0};
    must(plan_variant(&plan, variant, &e) == 0, e.msg);
    model_init_opts opts = {.seed = seed, .dtype = dtype, .mean_depth = mean_depth};
    must(model_init_write(dir, &plan, &opts, &e) == 0, e.msg);
}

st_file st_read(const char *dir, const char *name) {
    size_t n, header = 0;
    char *bytes = file_get(dir, name, &n);
    must(n >= 8, name);
    for (int i = 7; i >= 0; i--)
        header = header << 8 | (unsigned char)bytes[i];
    st_file file = {.header = json_loadb(bytes + 8, header, 0, NULL), .n_data = n - 8 - header};
    file.data = malloc(file.n_data + 1);
    must(file.header && file.data, name);
    memcpy(file.data, bytes + 8 + header, file.n_data);
    free(bytes);
    return file;
}

void st_write(const st_file *file, const char *dir, const char *name) {
    char *text = json_dumps(file->header, JSON_COMPACT);
    buf out = {0};
    uint64_t n = strlen(text);
    buf_append(&out, &n, sizeof n); /* little-endian machines only, as the project */
    buf_append(&out, text, n);
    buf_append(&out, file->data, file->n_data);
    must(!out.failed, name);
    file_put(dir, name, out.data, out.len);
    buf_deinit(&out);
    free(text);
}

void st_free(st_file *file) {
    json_decref(file->header);
    free(file->data);
    *file = (st_file){0};
}

json_t *st_tensor(const st_file *file, const char *tensor) {
    json_t *entry = json_object_get(file->header, tensor);
    must(entry != NULL, tensor);
    return entry;
}

unsigned char *st_bytes(const st_file *file, const char *tensor) {
    json_t *at = json_object_get(st_tensor(file, tensor), "data_offsets");
    return file->data + json_integer_value(json_array_get(at, 0));
}

void st_set_shape(const st_file *file, const char *tensor, const char *json) {
    json_object_set_new(st_tensor(file, tensor), "shape", json_loads(json, 0, NULL));
}
