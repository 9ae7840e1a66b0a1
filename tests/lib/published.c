/* published.c - see published.h. */
#include "tests/lib/published.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void folder_of(char out[96], const char *family) {
    (void)snprintf(out, 96, "tests/golden/families/%s", family);
}

char *published_edited(const char *family, const char *key, const char *value) {
    char dir[96], *text;
    folder_of(dir, family);
    text = file_get(dir, "config.json", NULL);
    json_t *root = json_loads(text, 0, NULL), *in = root;
    free(text);
    const char *dot = strchr(key, '.');
    if (dot) {
        in = json_object_getn(root, key, (size_t)(dot - key));
        cr_assert(json_is_object(in), "%s", key);
        key = dot + 1;
    }
    if (value) json_object_set_new(in, key, json_loads(value, JSON_DECODE_ANY, NULL));
    else json_object_del(in, key);
    text = json_dumps(root, 0);
    json_decref(root);
    return text;
}

int published_parse(const char *family, const char *key, const char *value, model_plan *plan,
                    err *e) {
    char *text = published_edited(family, key, value);
    int rc = plan_parse(plan, text, strlen(text), "config.json", e);
    free(text);
    return rc;
}

void published_refuses_keys(const char *family, const bad_key *rows, size_t n) {
    for (size_t i = 0; i < n; i++) {
        model_plan plan;
        err e = {0};
        cr_assert_eq(published_parse(family, rows[i].key, rows[i].value, &plan, &e), -1,
                     "%s = %s was accepted", rows[i].key, rows[i].value);
        cr_assert_eq(e.code, ERR_BAD_FILE);
        cr_assert(strstr(e.msg, rows[i].says), "row %zu: \"%s\" has no \"%s\"", i, e.msg,
                  rows[i].says);
        cr_assert(strstr(e.msg, "config.json"), "%s", e.msg);
    }
}

void published_reads_back(const model_plan *plan) {
    buf text = {0};
    model_plan again;
    err e = {0};
    plan_write(&text, plan, "float32");
    cr_assert_eq(plan_parse(&again, text.data, text.len, "again", &e), 0, "%s", e.msg);
    cr_assert_eq(memcmp(plan, &again, sizeof again), 0, "reads back otherwise: %s", text.data);
    buf_deinit(&text);
}

/* ---- folders ---- */

tmp_dir published_copy(const char *family) {
    static const char *const files[] = {"config.json", "model.safetensors"};
    tmp_dir dir = tmp_dir_create();
    char from[96];
    folder_of(from, family);
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        size_t n;
        char *bytes = file_get(from, files[i], &n);
        file_put(dir.path, files[i], bytes, n);
        free(bytes);
    }
    return dir;
}

void published_refuses_folder(const char *dir, const char *says) {
    model_folder *model;
    err e = {0};
    cr_assert_eq(model_open(&model, dir, &e), -1, "accepted instead of: %s", says);
    cr_assert_null(model);
    cr_assert_eq(e.code, ERR_BAD_FILE);
    cr_assert(strstr(e.msg, says), "\"%s\" has no \"%s\"", e.msg, says);
}

void published_refuses_tensors(const char *family, const bad_tensor *rows, size_t n) {
    for (size_t i = 0; i < n; i++) {
        tmp_dir dir = published_copy(family);
        st_file file = st_read(dir.path, "model.safetensors");
        if (rows[i].shape) {
            st_set_shape(&file, rows[i].tensor, rows[i].shape);
        } else {
            json_object_set_new(file.header, "unused",
                                json_incref(st_tensor(&file, rows[i].tensor)));
            json_object_del(file.header, rows[i].tensor);
        }
        st_write(&file, dir.path, "model.safetensors");
        st_free(&file);
        published_refuses_folder(dir.path, rows[i].says);
        tmp_dir_remove(&dir);
    }
}
