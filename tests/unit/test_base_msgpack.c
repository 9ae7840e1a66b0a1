/* test_base_msgpack.c - every form of MessagePack that is written, at both ends of its range. */
#include "base/msgpack.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <string.h>

TestSuite(base_msgpack, .fini = fail_on_leaks);

static void expect_bytes(buf *out, const char *want, size_t n, const char *what) {
    cr_assert(!out->failed);
    cr_expect(out->len == n && memcmp(out->data, want, n) == 0, "%s: %zu bytes", what, out->len);
    buf_deinit(out);
}

static const struct {
    uint64_t value;
    size_t n;
    const char *bytes;
} numbers[] = {
    {0, 1, "\x00"},
    {127, 1, "\x7f"},
    {128, 2, "\xcc\x80"},
    {255, 2, "\xcc\xff"},
    {256, 3, "\xcd\x01\x00"},
    {65535, 3, "\xcd\xff\xff"},
    {65536, 5, "\xce\x00\x01\x00\x00"},
    {UINT32_MAX, 5, "\xce\xff\xff\xff\xff"},
    {UINT64_C(1) << 32, 9, "\xcf\x00\x00\x00\x01\x00\x00\x00\x00"},
    {UINT64_MAX, 9, "\xcf\xff\xff\xff\xff\xff\xff\xff\xff"},
};

Test(base_msgpack, a_number_takes_its_shortest_form) {
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++) {
        buf out = {0};
        msgpack_uint(&out, numbers[i].value);
        expect_bytes(&out, numbers[i].bytes, numbers[i].n, "number");
    }
}

static const struct {
    uint32_t n;
    size_t n_bytes;
    const char *bytes;
} arrays[] = {
    {0, 1, "\x90"},
    {15, 1, "\x9f"},
    {16, 3, "\xdc\x00\x10"},
    {65535, 3, "\xdc\xff\xff"},
    {65536, 5, "\xdd\x00\x01\x00\x00"},
};

Test(base_msgpack, an_array_begins_with_its_length) {
    for (size_t i = 0; i < ARRAY_LEN(arrays); i++) {
        buf out = {0};
        msgpack_array(&out, arrays[i].n);
        expect_bytes(&out, arrays[i].bytes, arrays[i].n_bytes, "array");
    }
}

static const struct {
    size_t n, head;
    const char *bytes;
} texts[] = {
    {0, 1, "\xa0"},
    {31, 1, "\xbf"},
    {32, 2, "\xd9\x20"},
    {255, 2, "\xd9\xff"},
    {256, 3, "\xda\x01\x00"},
    {65535, 3, "\xda\xff\xff"},
    {65536, 5, "\xdb\x00\x01\x00\x00"},
};

Test(base_msgpack, a_text_begins_with_its_length) {
    static char text[65537];
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        buf out = {0};
        memset(text, 'a', texts[i].n);
        text[texts[i].n] = 0;
        msgpack_text(&out, text);
        cr_assert_eq(out.len, texts[i].head + texts[i].n);
        cr_expect_arr_eq(out.data, texts[i].bytes, texts[i].head);
        cr_expect_arr_eq(out.data + texts[i].head, text, texts[i].n);
        buf_deinit(&out);
    }
}

Test(base_msgpack, nil_and_doubles_and_wide_numbers_have_one_form) {
    buf out = {0};
    msgpack_nil(&out);
    msgpack_double(&out, -1.5);
    msgpack_uint64(&out, 5);
    expect_bytes(&out,
                 "\xc0"
                 "\xcb\xbf\xf8\x00\x00\x00\x00\x00\x00"
                 "\xcf\x00\x00\x00\x00\x00\x00\x00\x05",
                 19, "all three");
}
