/* safetensors.c - reads and checks the header of a safetensors file. */
#include "base/json.h"
#include "base/size.h"
#include "model/safetensors_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Every dtype of the format. folder.c decides about the dtypes of weights. */
static const struct {
    const char *name;
    uint32_t bits;
} dtypes[] = {
    {"F32", 32},    {"F16", 16},    {"BF16", 16},   {"F64", 64},    {"I64", 64},
    {"I32", 32},    {"I16", 16},    {"I8", 8},      {"U64", 64},    {"U32", 32},
    {"U16", 16},    {"U8", 8},      {"BOOL", 8},    {"F8_E5M2", 8}, {"F8_E4M3", 8},
    {"F8_E8M0", 8}, {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"F4", 4},      {"C64", 64},
};

typedef struct {
    const char *what;
    uint64_t data_at, data_bytes; /* offset of the data in the file, and its length */
    err *err;
} parser;

void model__st_shape_text(char *out, size_t n, const uint64_t *shape, uint32_t rank) {
    size_t len = (size_t)snprintf(out, n, "[");
    for (uint32_t i = 0; i < rank && len < n; i++) {
        len += (size_t)snprintf(out + len, n - len, "%s%llu", i ? ", " : "",
                                (unsigned long long)shape[i]);
    }
    if (len < n) (void)snprintf(out + len, n - len, "]");
}

static int bad(const parser *ctx, const char *name, const char *rule) {
    return err_set(ctx->err, ERR_BAD_FILE, name, "%s: tensor %s: %s", ctx->what, name, rule);
}

static int read_dtype(const parser *ctx, const json_t *value, model__st_entry *entry) {
    const char *text = json_string_value(value);
    if (text == NULL) return bad(ctx, entry->name, "dtype is missing or no string");
    for (size_t i = 0; i < ARRAY_LEN(dtypes); i++) {
        if (strcmp(dtypes[i].name, text) != 0) continue;
        entry->dtype = dtypes[i].name;
        entry->bits = dtypes[i].bits;
        return 0;
    }
    return err_set(ctx->err, ERR_BAD_FILE, entry->name, "%s: tensor %s: unknown dtype \"%.24s\"",
                   ctx->what, entry->name, text);
}

static int read_shape(const parser *ctx, const json_t *value, model__st_entry *entry) {
    if (!json_is_array(value)) return bad(ctx, entry->name, "shape is missing or no array");
    size_t rank = json_array_size(value);
    if (rank > MODEL_ST_MAX_RANK) {
        return err_set(ctx->err, ERR_BAD_FILE, entry->name,
                       "%s: tensor %s: rank %zu, at most %d are accepted", ctx->what, entry->name,
                       rank, MODEL_ST_MAX_RANK);
    }
    entry->rank = (uint32_t)rank;
    entry->n_values = 1;
    for (size_t i = 0; i < rank; i++) {
        const json_t *length = json_array_get(value, i);
        if (!json_is_integer(length) || json_integer_value(length) < 0) {
            return bad(ctx, entry->name, "a dimension of its shape is not a whole number");
        }
        entry->shape[i] = (uint64_t)json_integer_value(length);
        if (!size_mul(entry->n_values, entry->shape[i], &entry->n_values)) {
            return bad(ctx, entry->name, "its shape overflows");
        }
    }
    return 0;
}

/* Checks data_offsets against the file, and their length against shape and dtype. */
static int read_range(const parser *ctx, const json_t *value, model__st_entry *entry) {
    const json_t *first = json_array_get(value, 0), *last = json_array_get(value, 1);
    if (json_array_size(value) != 2 || !json_is_integer(first) || !json_is_integer(last)) {
        return bad(ctx, entry->name, "data_offsets is not a pair of whole numbers");
    }
    json_int_t begin = json_integer_value(first), end = json_integer_value(last);
    if (begin < 0 || end < begin || (uint64_t)end > ctx->data_bytes) {
        return err_set(
            ctx->err, ERR_BAD_FILE, entry->name,
            "%s: tensor %s: data_offsets [%lld, %lld] lie outside the %llu bytes of data",
            ctx->what, entry->name, (long long)begin, (long long)end,
            (unsigned long long)ctx->data_bytes);
    }
    uint64_t bits;
    if (!size_mul(entry->n_values, entry->bits, &bits) || bits % 8 != 0) {
        return bad(ctx, entry->name, "shape times dtype is no whole number of bytes");
    }
    entry->bytes = (uint64_t)(end - begin);
    entry->first = ctx->data_at + (uint64_t)begin;
    if (bits / 8 != entry->bytes) {
        return err_set(ctx->err, ERR_BAD_FILE, entry->name,
                       "%s: tensor %s: data_offsets span %llu bytes, shape and dtype need %llu",
                       ctx->what, entry->name, (unsigned long long)entry->bytes,
                       (unsigned long long)(bits / 8));
    }
    return 0;
}

static int read_entry(const parser *ctx, model__st_index *out, const char *key,
                      const json_t *value) {
    model__st_entry *entry = &out->entries[out->n];
    size_t len = strlen(key);
    if (len > MODEL_ST_MAX_NAME) {
        return err_set(ctx->err, ERR_BAD_FILE, NULL,
                       "%s: a tensor name of %zu bytes (\"%.32s...\"), at most %d are accepted",
                       ctx->what, len, key, MODEL_ST_MAX_NAME);
    }
    entry->name = arena_strndup(&out->names, key, len);
    if (entry->name == NULL) {
        return err_set(ctx->err, ERR_NO_MEMORY, NULL, "%s: out of memory for tensor names",
                       ctx->what);
    }
    if (!json_is_object(value)) return bad(ctx, entry->name, "its description is no object");
    if (read_dtype(ctx, json_object_get(value, "dtype"), entry) != 0 ||
        read_shape(ctx, json_object_get(value, "shape"), entry) != 0 ||
        read_range(ctx, json_object_get(value, "data_offsets"), entry) != 0) {
        return -1;
    }
    out->n++;
    return 0;
}

static int read_metadata(const parser *ctx, model__st_index *out, json_t *value) {
    const char *key;
    json_t *item;
    if (!json_is_object(value)) {
        return err_set(ctx->err, ERR_BAD_FILE, "__metadata__", "%s: __metadata__ is no object",
                       ctx->what);
    }
    json_object_foreach(value, key, item) {
        if (!json_is_string(item)) {
            return err_set(ctx->err, ERR_BAD_FILE, "__metadata__",
                           "%s: __metadata__ \"%.40s\" is no string", ctx->what, key);
        }
        if (strcmp(key, "n_loops") == 0) {
            (void)snprintf(out->n_loops, sizeof out->n_loops, "%s", json_string_value(item));
        }
    }
    return 0;
}

static int by_name(const void *one, const void *other) {
    return strcmp(((const model__st_entry *)one)->name, ((const model__st_entry *)other)->name);
}

static int by_place(const void *one, const void *other) {
    const model__st_entry *left = one, *right = other;
    if (left->first != right->first) return left->first < right->first ? -1 : 1;
    return left->bytes < right->bytes
               ? -1
               : left->bytes > right->bytes; /* an empty tensor before its neighbour */
}

/* The format forbids overlapping ranges and gaps between them: a second file could hide in a gap.
 */
static int check_cover(const parser *ctx, model__st_index *out) {
    qsort(out->entries, out->n, sizeof *out->entries, by_place);
    uint64_t at = ctx->data_at;
    for (size_t i = 0; i < out->n; i++) {
        const model__st_entry *entry = &out->entries[i];
        if (entry->first < at) {
            return err_set(ctx->err, ERR_BAD_FILE, entry->name, "%s: tensor %s overlaps tensor %s",
                           ctx->what, entry->name, out->entries[i - 1].name);
        }
        if (entry->first > at) {
            return err_set(ctx->err, ERR_BAD_FILE, entry->name,
                           "%s: %llu bytes before tensor %s belong to no tensor", ctx->what,
                           (unsigned long long)(entry->first - at), entry->name);
        }
        at += entry->bytes;
    }
    uint64_t end = ctx->data_at + ctx->data_bytes;
    if (at != end) {
        return err_set(ctx->err, ERR_BAD_FILE, NULL,
                       "%s: %llu bytes after the last tensor belong to no tensor", ctx->what,
                       (unsigned long long)(end - at));
    }
    qsort(out->entries, out->n, sizeof *out->entries, by_name);
    return 0;
}

static int read_header(const parser *ctx, model__st_index *out, json_t *root) {
    const char *key;
    json_t *value;
    out->entries = array_new(json_object_size(root), sizeof *out->entries);
    if (out->entries == NULL) {
        return err_set(ctx->err, ERR_NO_MEMORY, NULL, "%s: out of memory for %zu tensors",
                       ctx->what, json_object_size(root));
    }
    json_object_foreach(root, key, value) {
        int rc = strcmp(key, "__metadata__") == 0 ? read_metadata(ctx, out, value)
                                                  : read_entry(ctx, out, key, value);
        if (rc != 0) return -1;
    }
    return check_cover(ctx, out);
}

static uint64_t read_u64(const uint8_t *bytes) {
    uint64_t value = 0;
    for (int i = 7; i >= 0; i--)
        value = value << 8 | bytes[i];
    return value;
}

int model__st_parse(model__st_index *out, const uint8_t *bytes, size_t size, const char *what,
                    err *e) {
    /* A tensor has 15 structural characters, so this is room for 10^5 tensors. */
    static const json_limits limits = {
        .max_bytes = MODEL_ST_MAX_HEADER, .max_depth = 3, .max_structural = 2000000};
    *out = (model__st_index){0};
    if (size < 8) {
        return err_set(e, ERR_BAD_FILE, NULL,
                       "%s: too small for safetensors: %zu bytes, expected at least 8", what, size);
    }
    uint64_t len = read_u64(bytes);
    if (len > MODEL_ST_MAX_HEADER || len > size - 8) {
        return err_set(
            e, ERR_BAD_FILE, NULL,
            "%s: the header claims %llu bytes; the file has %zu, and at most %d are accepted", what,
            (unsigned long long)len, size - 8, MODEL_ST_MAX_HEADER);
    }
    if (len == 0 || bytes[8] != '{') {
        return err_set(e, ERR_BAD_FILE, NULL, "%s: the header does not begin with {", what);
    }
    json_t *root;
    err why = {0};
    if (json_parse(&root, (const char *)bytes + 8, (size_t)len, &limits, what, &why) != 0) {
        return err_set(e, why.code == ERR_BAD_PARAM ? ERR_BAD_FILE : why.code, NULL, "%s", why.msg);
    }
    arena_init(&out->names, MODEL_ST_MAX_HEADER + (16u << 20));
    parser ctx = {what, 8 + len, size - 8 - len, e};
    int rc = read_header(&ctx, out, root);
    json_decref(root);
    if (rc != 0) model__st_deinit(out);
    return rc;
}

void model__st_deinit(model__st_index *index) {
    free(index->entries);
    arena_deinit(&index->names);
    *index = (model__st_index){0};
}

const model__st_entry *model__st_find(const model__st_index *index, const char *name) {
    model__st_entry key = {.name = name};
    if (index->n == 0) return NULL;
    return bsearch(&key, index->entries, index->n, sizeof *index->entries, by_name);
}
