/* safetensors.c - reads and checks the header of a safetensors file. */
#include "base/json.h"
#include "base/size.h"
#include "model/safetensors_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Every dtype the format names. Which of them a model may use is the model's business. */
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
    uint64_t data_at, data_bytes; /* where the data begins in the file, and its length */
    err *e;
} parser;

void model__st_shape_text(char *out, size_t n, const uint64_t *shape, uint32_t rank) {
    size_t len = (size_t)snprintf(out, n, "[");
    for (uint32_t i = 0; i < rank && len < n; i++) {
        len += (size_t)snprintf(out + len, n - len, "%s%llu", i ? ", " : "",
                                (unsigned long long)shape[i]);
    }
    if (len < n) (void)snprintf(out + len, n - len, "]");
}

static int bad(const parser *p, const char *name, const char *rule) {
    return err_set(p->e, ERR_BAD_FILE, name, "%s: tensor %s: %s", p->what, name, rule);
}

static int read_dtype(const parser *p, const json_t *v, model__st_entry *t) {
    const char *text = json_string_value(v);
    if (text == NULL) return bad(p, t->name, "dtype is missing or no string");
    for (size_t i = 0; i < ARRAY_LEN(dtypes); i++) {
        if (strcmp(dtypes[i].name, text) != 0) continue;
        t->dtype = dtypes[i].name;
        t->bits = dtypes[i].bits;
        return 0;
    }
    return err_set(p->e, ERR_BAD_FILE, t->name, "%s: tensor %s: unknown dtype \"%.24s\"", p->what,
                   t->name, text);
}

static int read_shape(const parser *p, const json_t *v, model__st_entry *t) {
    if (!json_is_array(v)) return bad(p, t->name, "shape is missing or no array");
    size_t rank = json_array_size(v);
    if (rank > ENG_ST_MAX_RANK) {
        return err_set(p->e, ERR_BAD_FILE, t->name,
                       "%s: tensor %s: rank %zu, at most %d are accepted", p->what, t->name, rank,
                       ENG_ST_MAX_RANK);
    }
    t->rank = (uint32_t)rank;
    t->n_values = 1;
    for (size_t i = 0; i < rank; i++) {
        const json_t *d = json_array_get(v, i);
        if (!json_is_integer(d) || json_integer_value(d) < 0) {
            return bad(p, t->name, "a dimension of its shape is not a whole number");
        }
        t->shape[i] = (uint64_t)json_integer_value(d);
        if (!size_mul(t->n_values, t->shape[i], &t->n_values)) {
            return bad(p, t->name, "its shape overflows");
        }
    }
    return 0;
}

/* data_offsets against the file, and their length against shape and dtype. */
static int read_range(const parser *p, const json_t *v, model__st_entry *t) {
    const json_t *a = json_array_get(v, 0), *b = json_array_get(v, 1);
    if (json_array_size(v) != 2 || !json_is_integer(a) || !json_is_integer(b)) {
        return bad(p, t->name, "data_offsets is not a pair of whole numbers");
    }
    json_int_t begin = json_integer_value(a), end = json_integer_value(b);
    if (begin < 0 || end < begin || (uint64_t)end > p->data_bytes) {
        return err_set(
            p->e, ERR_BAD_FILE, t->name,
            "%s: tensor %s: data_offsets [%lld, %lld] lie outside the %llu bytes of data", p->what,
            t->name, (long long)begin, (long long)end, (unsigned long long)p->data_bytes);
    }
    uint64_t bits;
    if (!size_mul(t->n_values, t->bits, &bits) || bits % 8 != 0) {
        return bad(p, t->name, "shape times dtype is no whole number of bytes");
    }
    t->bytes = (uint64_t)(end - begin);
    t->first = p->data_at + (uint64_t)begin;
    if (bits / 8 != t->bytes) {
        return err_set(p->e, ERR_BAD_FILE, t->name,
                       "%s: tensor %s: data_offsets span %llu bytes, shape and dtype need %llu",
                       p->what, t->name, (unsigned long long)t->bytes,
                       (unsigned long long)(bits / 8));
    }
    return 0;
}

static int read_entry(const parser *p, model__st_index *out, const char *key, const json_t *v) {
    model__st_entry *t = &out->entries[out->n];
    size_t len = strlen(key);
    if (len > ENG_ST_MAX_NAME) {
        return err_set(p->e, ERR_BAD_FILE, NULL,
                       "%s: a tensor name of %zu bytes (\"%.32s...\"), at most %d are accepted",
                       p->what, len, key, ENG_ST_MAX_NAME);
    }
    t->name = arena_strndup(&out->names, key, len);
    if (t->name == NULL) {
        return err_set(p->e, ERR_NO_MEMORY, NULL, "%s: out of memory for tensor names", p->what);
    }
    if (!json_is_object(v)) return bad(p, t->name, "its description is no object");
    if (read_dtype(p, json_object_get(v, "dtype"), t) != 0 ||
        read_shape(p, json_object_get(v, "shape"), t) != 0 ||
        read_range(p, json_object_get(v, "data_offsets"), t) != 0) {
        return -1;
    }
    out->n++;
    return 0;
}

static int read_metadata(const parser *p, model__st_index *out, json_t *v) {
    const char *key;
    json_t *item;
    if (!json_is_object(v)) {
        return err_set(p->e, ERR_BAD_FILE, "__metadata__", "%s: __metadata__ is no object",
                       p->what);
    }
    json_object_foreach(v, key, item) {
        if (!json_is_string(item)) {
            return err_set(p->e, ERR_BAD_FILE, "__metadata__",
                           "%s: __metadata__ \"%.40s\" is no string", p->what, key);
        }
        if (strcmp(key, "n_loops") == 0) {
            (void)snprintf(out->n_loops, sizeof out->n_loops, "%s", json_string_value(item));
        }
    }
    return 0;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const model__st_entry *)a)->name, ((const model__st_entry *)b)->name);
}

static int by_place(const void *a, const void *b) {
    const model__st_entry *x = a, *y = b;
    if (x->first != y->first) return x->first < y->first ? -1 : 1;
    return x->bytes < y->bytes ? -1
                               : x->bytes > y->bytes; /* an empty tensor before its neighbour */
}

/* The format: ranges neither overlap nor leave bytes that belong to nobody, where a
 * second file could hide. */
static int check_cover(const parser *p, model__st_index *out) {
    qsort(out->entries, out->n, sizeof *out->entries, by_place);
    uint64_t at = p->data_at;
    for (size_t i = 0; i < out->n; i++) {
        const model__st_entry *t = &out->entries[i];
        if (t->first < at) {
            return err_set(p->e, ERR_BAD_FILE, t->name, "%s: tensor %s overlaps tensor %s", p->what,
                           t->name, out->entries[i - 1].name);
        }
        if (t->first > at) {
            return err_set(p->e, ERR_BAD_FILE, t->name,
                           "%s: %llu bytes before tensor %s belong to no tensor", p->what,
                           (unsigned long long)(t->first - at), t->name);
        }
        at += t->bytes;
    }
    uint64_t end = p->data_at + p->data_bytes;
    if (at != end) {
        return err_set(p->e, ERR_BAD_FILE, NULL,
                       "%s: %llu bytes after the last tensor belong to no tensor", p->what,
                       (unsigned long long)(end - at));
    }
    qsort(out->entries, out->n, sizeof *out->entries, by_name);
    return 0;
}

static int read_header(const parser *p, model__st_index *out, json_t *root) {
    const char *key;
    json_t *v;
    out->entries = array_new(json_object_size(root), sizeof *out->entries);
    if (out->entries == NULL) {
        return err_set(p->e, ERR_NO_MEMORY, NULL, "%s: out of memory for %zu tensors", p->what,
                       json_object_size(root));
    }
    json_object_foreach(root, key, v) {
        int rc = strcmp(key, "__metadata__") == 0 ? read_metadata(p, out, v)
                                                  : read_entry(p, out, key, v);
        if (rc != 0) return -1;
    }
    return check_cover(p, out);
}

static uint64_t read_u64(const uint8_t *bytes) {
    uint64_t v = 0;
    for (int i = 7; i >= 0; i--)
        v = v << 8 | bytes[i];
    return v;
}

int model__st_parse(model__st_index *out, const uint8_t *bytes, size_t size, const char *what,
                    err *e) {
    /* 15 structural characters a tensor: room for 10^5 tensors. */
    static const json_limits limits = {
        .max_bytes = ENG_ST_MAX_HEADER, .max_depth = 3, .max_structural = 2000000};
    *out = (model__st_index){0};
    if (size < 8) {
        return err_set(e, ERR_BAD_FILE, NULL,
                       "%s: too small for safetensors: %zu bytes, expected at least 8", what, size);
    }
    uint64_t len = read_u64(bytes);
    if (len > ENG_ST_MAX_HEADER || len > size - 8) {
        return err_set(
            e, ERR_BAD_FILE, NULL,
            "%s: the header claims %llu bytes; the file has %zu, and at most %d are accepted", what,
            (unsigned long long)len, size - 8, ENG_ST_MAX_HEADER);
    }
    if (len == 0 || bytes[8] != '{') {
        return err_set(e, ERR_BAD_FILE, NULL, "%s: the header does not begin with {", what);
    }
    json_t *root;
    err why = {0};
    if (json_parse(&root, (const char *)bytes + 8, (size_t)len, &limits, what, &why) != 0) {
        return err_set(e, why.code == ERR_BAD_PARAM ? ERR_BAD_FILE : why.code, NULL, "%s", why.msg);
    }
    arena_init(&out->names, ENG_ST_MAX_HEADER + (16u << 20));
    parser p = {what, 8 + len, size - 8 - len, e};
    int rc = read_header(&p, out, root);
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
