/* test_base_utf8.c - UTF-8 against a plain reading of its definition. */
#include "base/utf8.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <string.h>

TestSuite(base_utf8, .fini = fail_on_leaks);

/* The encoding of a code point, or 0 bytes for a surrogate or a number above U+10FFFF. */
static size_t encode(uint32_t point, char out[4]) {
    if (point >= 0x110000 || (point >= 0xd800 && point < 0xe000)) return 0;
    if (point < 0x80) return out[0] = (char)point, 1;
    size_t len = point < 0x800 ? 2 : point < 0x10000 ? 3 : 4;
    for (size_t i = len - 1; i > 0; i--, point >>= 6)
        out[i] = (char)(0x80 | (point & 0x3f));
    out[0] = (char)((unsigned)(0xf00u >> len & 0xffu) | point);
    return len;
}

Test(base_utf8, every_code_point_is_one_character_and_no_shorter_piece_of_it_is) {
    for (uint32_t point = 0; point < 0x110000; point++) {
        char text[4];
        size_t len = encode(point, text);
        if (len == 0) continue;
        cr_assert_eq(utf8_length((unsigned char)text[0]), len, "U+%04x", point);
        cr_assert_eq(utf8_char(text, len), len, "U+%04x", point);
        for (size_t n = 1; n < len; n++)
            cr_assert_eq(utf8_char(text, n), 0, "U+%04x cut to %zu bytes", point, n);
    }
}

Test(base_utf8, of_all_three_bytes_as_many_are_characters_as_have_code_points) {
    size_t found[4] = {0};
    for (uint32_t bytes = 0; bytes < 1u << 24; bytes++) {
        char text[3] = {(char)(bytes >> 16), (char)(bytes >> 8), (char)bytes};
        found[utf8_char(text, 3)]++;
    }
    cr_expect_eq(found[1], 128u << 16);
    cr_expect_eq(found[2], (0x800u - 0x80u) << 8);
    cr_expect_eq(found[3], 0x10000u - 0x800u - 0x800u);
}

Test(base_utf8, what_is_no_character_is_named_so) {
    static const char *const bad[] = {"\x80",
                                      "\xbf",
                                      "\xc0\x80",
                                      "\xc1\xbf",
                                      "\xc3(",
                                      "\xe0\x9f\xbf",
                                      "\xed\xa0\x80",
                                      "\xef\xbf",
                                      "\xf0\x8f\xbf\xbf",
                                      "\xf4\x90\x80\x80",
                                      "\xf5\x80\x80\x80",
                                      "\xff"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        cr_expect_eq(utf8_char(bad[i], strlen(bad[i])), 0, "row %zu", i);
        cr_expect_not(utf8_valid(bad[i], strlen(bad[i])), "row %zu", i);
    }
}

Test(base_utf8, the_beginning_of_a_character_is_broken_as_one) {
    static const struct {
        const char *text;
        size_t n;
    } rows[] = {
        {"\x80\x80", 1},         {"\xff\xff", 1},     {"\xc3(", 1},        {"\xe2\x82", 2},
        {"\xe0\x9f\xbf", 1},     {"\xed\xa0\x80", 1}, {"\xf0\x9f\x94", 3}, {"\xf0\x9f\x94(", 3},
        {"\xf4\x90\x80\x80", 1}, {"\xe1\x8b\xe1", 2},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        cr_expect_eq(utf8_broken(rows[i].text, strlen(rows[i].text)), rows[i].n, "row %zu", i);
}

Test(base_utf8, a_prefix_ends_before_the_first_bad_byte) {
    cr_expect_eq(utf8_prefix("", 0), 0);
    cr_expect_eq(utf8_prefix("h\xc3\xa9llo", 6), 6);
    cr_expect_eq(utf8_prefix("h\xc3\xa9\xff!", 5), 3);
    cr_expect_eq(utf8_prefix("ab\xe2\x82", 4), 2, "an unfinished character is not in it");
    cr_expect(utf8_valid("\xf0\x9f\x94\xa5", 4));
    cr_expect(utf8_valid("a\0b", 3), "NUL is a character");
}

Test(base_utf8, characters_are_counted_not_bytes) {
    cr_expect_eq(utf8_count("", 0), 0);
    cr_expect_eq(utf8_count("h\xc3\xa9\xe2\x82\xac\xf0\x9f\x94\xa5", 10), 4);
}
