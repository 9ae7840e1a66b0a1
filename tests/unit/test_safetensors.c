/* test_safetensors.c - headers: the fields read, and every way a header can be wrong. */
#include "base/json.h"
#include "model/safetensors_internal.h"
#include "tests/lib/files.h"
#include "tests/lib/oom.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

TestSuite(safetensors, .fini = fail_on_leaks);

/* Length, header and `data` zero bytes, ending at an unreadable page. */
static guarded file_of(const char *header, size_t header_bytes, size_t data, size_t *n) {
    *n = 8 + header_bytes + data;
    char *bytes = calloc(1, *n);
    for (int i = 0; i < 8; i++)
        bytes[i] = (char)(header_bytes >> 8 * i);
    memcpy(bytes + 8, header, header_bytes);
    guarded copy = guard_copy(bytes, *n);
    free(bytes);
    return copy;
}

static int parse(const char *header, size_t data, model__st_index *index, err *e) {
    size_t n;
    guarded copy = file_of(header, strlen(header), data, &n);
    int rc = model__st_parse(index, (const uint8_t *)copy.data, n, "model.safetensors", e);
    guard_free(&copy); /* the index borrows nothing of the file */
    return rc;
}

Test(safetensors, a_header_gives_names_shapes_and_places) {
    model__st_index index;
    err e = {0};
    const char *header = "{\"__metadata__\":{\"format\":\"pt\",\"n_loops\":\"6\"},"
                         "\"b\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[2,26]},"
                         "\"a\":{\"dtype\":\"BF16\",\"shape\":[],\"data_offsets\":[0,2]},"
                         "\"empty\":{\"dtype\":\"I64\",\"shape\":[0,7],\"data_offsets\":[2,2]}}   ";
    cr_assert_eq(parse(header, 26, &index, &e), 0, "%s", e.msg);
    cr_assert_eq(index.n, 3);
    cr_assert_str_eq(index.n_loops, "6");
    const model__st_entry *b = model__st_find(&index, "b"), *a = model__st_find(&index, "a");
    cr_assert(a && b);
    cr_assert_eq(b->rank, 2);
    cr_assert_eq(b->shape[1], 3);
    cr_assert_eq(b->n_values, 6);
    cr_assert_eq(b->first, 8 + strlen(header) + 2);
    cr_assert_eq(a->n_values, 1);
    cr_assert_str_eq(a->dtype, "BF16");
    cr_assert_null(model__st_find(&index, "c"));
    model__st_deinit(&index);
}

#define TENSOR(dtype, shape, offsets)                                                              \
    "{\"t\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}}"

static const struct {
    const char *header;
    size_t data;
    const char *says;
} bad[] = {
    {"[1]", 0, "does not begin with {"},
    {" {}", 0, "does not begin with {"},
    {"{", 0, "not valid JSON"},
    {"{}x", 0, "not valid JSON"},
    {"{\"\xff\":1}", 0, "not valid JSON"},
    {"{\"a\\u0000b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1,
     "a key holds U+0000"},
    {"{\"t\":1,\"t\":2}", 0, "a key appears twice"},
    {"{\"t\":[[[[1]]]]}", 0, "nested deeper than 3"},
    {"{}", 4, "4 bytes after the last tensor belong to no tensor"},
    {"{\"t\":7}", 0, "tensor t: its description is no object"},
    {"{\"t\":{}}", 0, "tensor t: dtype is missing"},
    {TENSOR("\"F33\"", "[1]", "[0,4]"), 4, "unknown dtype \"F33\""},
    {TENSOR("4", "[1]", "[0,4]"), 4, "dtype is missing or no string"},
    {TENSOR("\"F32\"", "7", "[0,4]"), 4, "shape is missing or no array"},
    {TENSOR("\"F32\"", "[-1]", "[0,4]"), 4, "not a whole number"},
    {TENSOR("\"F32\"", "[1.0]", "[0,4]"), 4, "not a whole number"},
    {TENSOR("\"F32\"", "[1,1,1,1,1,1,1,1,1]", "[0,4]"), 4, "rank 9, at most 8"},
    {TENSOR("\"F32\"", "[4294967296,4294967296]", "[0,4]"), 4, "its shape overflows"},
    {TENSOR("\"F32\"", "[2305843009213693951,2]", "[0,4]"), 4, "no whole number of bytes"},
    {TENSOR("\"F4\"", "[3]", "[0,2]"), 2, "no whole number of bytes"},
    {TENSOR("\"F32\"", "[2]", "[0,4]"), 4, "span 4 bytes, shape and dtype need 8"},
    {TENSOR("\"F32\"", "[0]", "[0,4]"), 4, "span 4 bytes, shape and dtype need 0"},
    {TENSOR("\"F32\"", "[1]", "[0,8]"), 4, "lie outside the 4 bytes"},
    {TENSOR("\"F32\"", "[1]", "[4,0]"), 4, "lie outside"},
    {TENSOR("\"F32\"", "[1]", "[-4,0]"), 4, "lie outside"},
    {TENSOR("\"F32\"", "[1]", "[0,9223372036854775807]"), 4, "lie outside"},
    {TENSOR("\"F32\"", "[1]", "[0,9223372036854775808]"), 4, "a number is too large"},
    {TENSOR("\"F32\"", "[1]", "[0]"), 4, "not a pair"},
    {TENSOR("\"F32\"", "[1]", "[0,4,8]"), 8, "not a pair"},
    {TENSOR("\"F32\"", "[1]", "{}"), 4, "not a pair"},
    {TENSOR("\"F32\"", "[1]", "[4,8]"), 8, "4 bytes before tensor t belong to no tensor"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
     "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[3,7]}}",
     7, "tensor b overlaps tensor a"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
     "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}",
     4, "overlaps"},
    {"{\"__metadata__\":{\"a\":1}}", 0, "__metadata__ \"a\" is no string"},
    {"{\"__metadata__\":\"a\"}", 0, "__metadata__ is no object"},
};

Test(safetensors, every_bad_header_is_refused_and_says_why) {
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        model__st_index index;
        err e = {0};
        cr_assert_eq(parse(bad[i].header, bad[i].data, &index, &e), -1, "row %zu was accepted", i);
        cr_assert_eq(e.code, ERR_BAD_FILE, "row %zu", i);
        cr_assert(strstr(e.msg, bad[i].says), "row %zu: \"%s\" has no \"%s\"", i, e.msg,
                  bad[i].says);
        cr_assert(strstr(e.msg, "model.safetensors"), "row %zu: %s", i, e.msg);
        cr_assert_null(index.entries);
    }
}

static const struct {
    uint64_t claims; /* header length written */
    size_t bytes;    /* of the whole file */
    const char *says;
} lengths[] = {
    {0, 0, "too small"},
    {0, 7, "too small: 7 bytes"},
    {0, 8, "does not begin with {"},
    {1, 8, "the header claims 1 bytes; the file has 0"},
    {100, 50, "the header claims 100 bytes; the file has 42"},
    {1u << 31, 50, "the header claims 2147483648 bytes"},
    {UINT64_C(1) << 63, 50, "the header claims 9223372036854775808 bytes"},
    {UINT64_MAX, 50, "the header claims 18446744073709551615 bytes"},
    {UINT64_MAX - 7, 50, "the header claims"},
};

Test(safetensors, a_length_that_lies_is_refused) {
    for (size_t i = 0; i < ARRAY_LEN(lengths); i++) {
        uint8_t bytes[64] = {0};
        for (int k = 0; k < 8; k++)
            bytes[k] = (uint8_t)(lengths[i].claims >> 8 * k);
        guarded copy = guard_copy(bytes, lengths[i].bytes);
        model__st_index index;
        err e = {0};
        cr_assert_eq(model__st_parse(&index, (uint8_t *)copy.data, lengths[i].bytes, "f", &e), -1);
        /* "too small for safetensors: 7 bytes" */
        const char *says = lengths[i].bytes < 8 ? "too small" : lengths[i].says;
        cr_assert(strstr(e.msg, says), "row %zu: %s", i, e.msg);
        guard_free(&copy);
    }
}

Test(safetensors, a_file_cut_anywhere_is_refused_without_reading_past_its_end) {
    size_t n;
    char *bytes = file_get("tests/golden/cases/gqa", "expected.safetensors", &n);
    for (size_t cut = 0; cut < 1200; cut++) {
        guarded copy = guard_copy(bytes, cut);
        model__st_index index;
        cr_assert_eq(model__st_parse(&index, (uint8_t *)copy.data, cut, "f", NULL), -1,
                     "cut at %zu", cut);
        guard_free(&copy);
    }
    model__st_index index;
    cr_assert_eq(model__st_parse(&index, (uint8_t *)bytes, n - 1, "f", NULL), -1);
    cr_assert_eq(model__st_parse(&index, (uint8_t *)bytes, n, "f", NULL), 0);
    model__st_deinit(&index);
    free(bytes);
}

/* A header with one tensor of a name of n bytes. */
static int parse_name_of(size_t n, model__st_index *index, err *e) {
    char *name = malloc(n + 1);
    memset(name, 'x', n);
    name[n] = 0;
    buf text = {0};
    buf_printf(&text, "{\"%s\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", name);
    free(name);
    int rc = parse(text.data, 0, index, e);
    buf_deinit(&text);
    return rc;
}

Test(safetensors, a_name_may_have_256_bytes_and_no_more) {
    model__st_index index;
    err e = {0};
    cr_assert_eq(parse_name_of(256, &index, &e), 0, "%s", e.msg);
    model__st_deinit(&index);
    cr_assert_eq(parse_name_of(257, &index, &e), -1);
    cr_assert(strstr(e.msg, "257 bytes"), "%s", e.msg);
    err big = {0};
    cr_assert_eq(parse_name_of(1 << 20, &index, &big), -1);
    cr_assert(strstr(big.msg, "1048576 bytes"), "%s", big.msg);
}

Test(safetensors, a_hundred_thousand_tensors_are_read_and_found, .timeout = HANGS_S) {
    buf text = {0};
    enum { TENSORS = 100000 };
    for (uint32_t i = 0; i < TENSORS; i++) {
        buf_printf(
            &text,
            "%c\"model.layer.%u\":{\"dtype\":\"BF16\",\"shape\":[1,1],\"data_offsets\":[%u,%u]}",
            i ? ',' : '{', i, 2 * i, 2 * i + 2);
    }
    buf_puts(&text, "}");
    model__st_index index;
    err e = {0};
    cr_assert_eq(parse(text.data, 2 * TENSORS, &index, &e), 0, "%s", e.msg);
    cr_assert_eq(index.n, TENSORS);
    const model__st_entry *tensor = model__st_find(&index, "model.layer.77777");
    cr_assert(tensor && tensor->first == 8 + text.len + 2 * 77777);
    model__st_deinit(&index);
    buf_deinit(&text);
}

Test(safetensors, too_many_elements_are_refused_before_memory_is_spent) {
    buf text = {0};
    buf_puts(&text, "{\"t\":[");
    for (int i = 0; i < 700000; i++)
        buf_puts(&text, "[],");
    buf_puts(&text, "[]]}");
    model__st_index index;
    err e = {0};
    cr_assert_eq(parse(text.data, 0, &index, &e), -1);
    cr_assert(strstr(e.msg, "JSON elements"), "%s", e.msg);
    buf_deinit(&text);
}

Test(safetensors, parsing_survives_every_failed_allocation, .timeout = HANGS_S) {
    json_setup();
    const char *header = "{\"__metadata__\":{\"format\":\"pt\"},"
                         "\"b\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[2,26]},"
                         "\"a\":{\"dtype\":\"BF16\",\"shape\":[1],\"data_offsets\":[0,2]}}";
    size_t size;
    guarded copy = file_of(header, strlen(header), 26, &size);
    for (int sticky = 0; sticky < 2; sticky++) {
        for (long n = 0;; n++) {
            model__st_index index;
            err e = {0};
            oom_after(n, sticky);
            int rc = model__st_parse(&index, (uint8_t *)copy.data, size, "f", &e);
            if (!oom_stop()) {
                cr_assert_eq(rc, 0);
                cr_assert_gt(n, 10);
                model__st_deinit(&index);
                break;
            }
            cr_assert_eq(rc, -1, "allocation %ld", n);
            cr_assert_eq(e.code, ERR_NO_MEMORY, "allocation %ld: %s", n, e.msg);
        }
    }
    guard_free(&copy);
}
