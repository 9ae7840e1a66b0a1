/* test_pattern.c - patterns of a tokenizer.json: refusals and their messages, bounds, memory.
 * tests/folders/tokenizer/patterns.test.mjs compares their matches with the reference. */
#include "base/buf.h"
#include "base/clock.h"
#include "tests/lib/oom.h"
#include "text/pattern_internal.h"
#include "text/unicode_internal.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int compile_n(text__pattern *compiled, const char *pattern, size_t n, err *e) {
    *e = (err){0};
    return text__pattern_compile(compiled, pattern, n, false, "file: pattern", e);
}

static int compile(text__pattern *compiled, const char *pattern, err *e) {
    return compile_n(compiled, pattern, strlen(pattern), e);
}

/* ---- refusals ---- */

static const struct {
    const char *pattern, *message;
} refusals[] = {
    /* the reference accepts these */
    {"\\X", "\\X at byte 0 is not supported"},
    {"a\\y", "\\y at byte 1 is not supported"},
    {"ab\\Y", "\\Y at byte 2 is not supported"},
    {"(?y{g})", "the option (?y at byte 0 is not supported"},
    {"(?C)", "the option (?C at byte 0 is not supported"},
    {"(?I)", "the option (?I at byte 0 is not supported"},
    {"(?L)", "the option (?L at byte 0 is not supported"},
    {"ab(?~c)", "the absent operator (?~ at byte 2 is not supported"},
    {"(?{a})", "the callout (?{ at byte 0 is not supported"},
    {"a(*FAIL)", "the callout (* at byte 1 is not supported"},
    {"(?(a)b)", "a condition that is not the number or name of a group at byte 0 is not supported"},
    {"(a)\\k<1+1>", "a reference with a level at byte 3 is not supported"},
    {"(?<n>a\\k<n>)", "a back-reference to a group that has not ended at byte 6 is not supported"},
    {"((?(1)b))", "a condition to a group that has not ended at byte 1 is not supported"},
    {"(?<n>a)(?<n>)\\k<n>",
     "a reference to a name that two groups have at byte 13 is not supported"},
    {"(a)(?i:\\1)", "a case-insensitive back-reference at byte 7 is not supported"},
    {"(a)\\1\\g<1>", "a back-reference beside a call of a group at byte 3 is not supported"},
    {"(a\\g<1>?)", "a call inside a group that is called at byte 2 is not supported"},
    {"a\\g<0>?", "a call inside a group that is called at byte 1 is not supported"},
    {"(?!\\K)", "\\K in a look-around at byte 3 is not supported"},
    {"(?<=ab?)", "an alternative of varying width in a look-behind at byte 4 is not supported"},
    {"(?<=\\R)", "an alternative of varying width in a look-behind at byte 4 is not supported"},
    {"(?<=a{1001})", "a look-behind over 1000 characters at byte 5 is not supported"},
    {"(?i)(?<=[\xc3\x9f])", "a case-insensitive class in a look-behind that matches several "
                            "characters at byte 8 is not supported"},
    {"(a)(?<=b{0})\\1",
     "a repeat of zero times in a look-behind, beside references at byte 8 is not supported"},
    {"\\p{Foo}", "the property \\p{Foo} at byte 0 is not supported"},
    {"[\\p{^InCB}]", "the property \\p{InCB} at byte 1 is not supported"},
    {"a[[:foo:]]", "the POSIX bracket [:foo:] at byte 2 is not supported"},
    {"[[:^foo:]]", "the POSIX bracket [:^foo:] at byte 1 is not supported"},
    {"\\x{61 62}", "a list of code points at byte 0 is not supported"},
    {"\\x{g}", "a code point without digits at byte 0 is not supported"},
    {"\\x{110000}", "a code point over 0x10ffff at byte 0 is not supported"},
    {"\\ud800", "a surrogate code point at byte 0 is not supported"},
    {"\\x80", "an escaped byte that begins no character at byte 0 is not supported"},
    {"\\M-\\M-a", "a control or meta escape inside another at byte 0 is not supported"},
    {"a{65536}", "a repeat of more than 65535 times at byte 1 is not supported"},
    {"[a-[b]]", "a range that ends in a class at byte 3 is not supported"},
    {"[a[^\\0-\xc3\xbf]]", "a negated class in a class, with a range from U+0000 beyond ASCII at "
                           "byte 2 is not supported"},
    {"[^a[^\\P{Lu}\\p{Lu}]]",
     "a negated class of only ASCII that holds a negated class at byte 0 is not supported"},
    {"a(?:b*){2,3}",
     "a counted repeat of a part that may match no text at byte 7 is not supported"},
    {"\\b(?m:.)*", "an unbounded repeat of any character after a part that matches no text at byte "
                   "8 is not supported"},
    /* the reference refuses these too */
    {"(a", "a group without its ')' at byte 0"},
    {"(?", "a group without its ')' at byte 0"},
    {"(?i", "a group without its ')' at byte 0"},
    {"a)", "a ')' without its group at byte 1"},
    {"(?#a", "a comment without its ')' at byte 0"},
    {"(a)(?(<1>", "a condition without its ')' at byte 3"},
    {"(?s)", "an unknown option at byte 0"},
    {"(?<1>a)", "an invalid group name at byte 0"},
    {"(?<>a)", "a reference to a missing group at byte 0"},
    {"\\1", "a reference to a missing group at byte 0"},
    {"\\k<n>", "a reference to a missing group at byte 0"},
    {"\\k<-1>", "a reference to a missing group at byte 0"},
    {"\\g<1>", "a call of a missing group at byte 0"},
    {"(?<n>a)\\1", "a reference by number beside named groups at byte 7"},
    {"*a", "a repeat of nothing at byte 0"},
    {"a|+", "a repeat of nothing at byte 2"},
    {"^*", "a repeat of a part that matches no text at byte 1"},
    {"a{100001}", "a repeat of more than 100000 times at byte 1"},
    {"a\\", "a backslash at the end at byte 1"},
    {"\\c", "an escape without a character at byte 0"},
    {"\\Ca", "\\C without its hyphen at byte 0"},
    {"\\u12", "\\u without four digits at byte 0"},
    {"\\777", "an octal number over 377 at byte 0"},
    {"\\xe6\\xbc", "escaped bytes that are not a character at byte 0"},
    {"\\x{123456789}", "a code point of too many digits or without its '}' at byte 0"},
    {"\\p{L", "a property without its '}' at byte 0"},
    {"[a", "a class without its ']' at byte 0"},
    {"[]", "an empty class at byte 0"},
    {"[b-a]", "a range from high to low at byte 3"},
    {"[\\d-a]", "a range that begins with a set at byte 3"},
    {"[a-\\d]", "a range that ends in a set at byte 3"},
    {"[\\", "a backslash at the end at byte 1"},
    {"\xff", "it is not UTF-8"},
};

Test(pattern, whatever_is_refused_is_refused_by_name_and_place) {
    for (size_t i = 0; i < ARRAY_LEN(refusals); i++) {
        text__pattern compiled = {0};
        err e;
        char want[300];
        (void)snprintf(want, sizeof want, "file: pattern: %s", refusals[i].message);
        cr_expect_eq(compile(&compiled, refusals[i].pattern, &e), -1, "%s", refusals[i].pattern);
        cr_expect_eq(e.code, ERR_BAD_FILE, "%s", refusals[i].pattern);
        cr_expect_str_eq(e.msg, want, "%s: %s", refusals[i].pattern, e.msg);
        cr_expect_null(compiled.code);
    }
}

/* ---- bounds ---- */

static int compile_repeated(const char *open, const char *middle, const char *close, size_t n,
                            err *e) {
    buf text = {0};
    text__pattern compiled = {0};
    for (size_t i = 0; i < n; i++)
        buf_puts(&text, open);
    buf_puts(&text, middle);
    for (size_t i = 0; i < n; i++)
        buf_puts(&text, close);
    int rc = compile_n(&compiled, text.data, text.len, e);
    text__pattern_deinit(&compiled);
    buf_deinit(&text);
    return rc;
}

Test(pattern, a_pattern_is_so_long_at_most_and_nested_so_deep) {
    static const struct {
        const char *open, *middle, *close, *message;
    } nested[] = {
        {"(", "a", ")", "a group inside 100 others"},
        {"(?:", "a", ")", "a group inside 100 others"},
        {"(?i)", "a", "", "a group inside 100 others"},
        {"(?=", "a", ")", "a group inside 100 others"},
        {"[", "a", "]", "a class inside 100 others"},
        {"", "a", "{0,}", "a quantifier inside 100 others"},
    };
    err e;
    for (size_t i = 0; i < ARRAY_LEN(nested); i++) {
        const char *open = nested[i].open, *middle = nested[i].middle, *close = nested[i].close;
        cr_expect_eq(compile_repeated(open, middle, close, 40, &e), 0, "%s: %s", open, e.msg);
        cr_expect_eq(compile_repeated(open, middle, close, 2000, &e), -1, "%s", open);
        cr_expect(strstr(e.msg, nested[i].message), "%s: %s", open, e.msg);
    }
    cr_expect_eq(compile_repeated("", "", ".", 16384, &e), 0, "%s", e.msg);
    cr_expect_eq(compile_repeated("", "", "a", 16385, &e), -1);
    cr_expect_str_eq(e.msg, "file: pattern: it is longer than 16384 bytes");
    /* A pattern too large for PCRE2 is refused with PCRE2's reason. */
    cr_expect_eq(compile_repeated("", "", "[\\p{Lu}&&[^\\p{Greek}]]", 500, &e), -1);
    cr_expect_eq(e.code, ERR_BAD_FILE, "%s", e.msg);
}

/* ---- memory ---- */

Test(pattern, memory_that_runs_out_at_any_place_is_an_error_and_nothing_leaks) {
    static const char pattern[] = "(?<a>x)\\k<a>|(?i:stra\xc3\x9f"
                                  "e|[k\xc3\x9f]+)|[\\p{L}&&[^\\p{Han}a-z]]{1,3}+|\\b\\R(?<=y)";
    for (int for_ever = 0; for_ever < 2; for_ever++) {
        for (long n = 0;; n++) {
            text__pattern compiled = {0};
            err e;
            oom_after(n, for_ever);
            int rc = compile(&compiled, pattern, &e);
            bool refused = oom_stop();
            if (rc != 0) cr_assert_eq(e.code, ERR_NO_MEMORY, "allocation %ld: %s", n, e.msg);
            text__pattern_deinit(&compiled);
            if (!refused) break;
            cr_assert_neq(rc, 0, "allocation %ld failed without an error", n);
        }
    }
}

/* ---- searching ---- */

static void expect_matches(const char *pattern, const char *text, const char *want) {
    text__pattern compiled = {0};
    err e;
    buf got = {0};
    cr_assert_eq(compile(&compiled, pattern, &e), 0, "%s: %s", pattern, e.msg);
    text__search search = {.n_bytes = strlen(text)};
    text__matches found = {.pattern = &compiled, .text = text, .len = strlen(text)};
    int rc;
    while ((rc = text__match_next(&search, &found, &e)) > 0)
        buf_printf(&got, "%zu-%zu ", found.start, found.end);
    cr_expect_eq(rc, 0);
    cr_expect_str_eq(got.data ? got.data : "", want, "%s in '%s': %s", pattern, text,
                     got.data ? got.data : "");
    buf_deinit(&got);
    text__search_deinit(&search);
    text__pattern_deinit(&compiled);
}

Test(pattern, an_empty_match_where_the_last_one_ended_does_not_count) {
    expect_matches("", "ab", "0-0 1-1 2-2 ");
    expect_matches("a*", "baab", "0-0 1-3 4-4 ");
    expect_matches("(?:|a)", "aa", "0-0 1-1 2-2 ");
    expect_matches("\\b", "\xc3\xa9 x", "0-0 2-2 3-3 4-4 ");
    expect_matches("a\\K", "aa", "1-1 2-2 ");
}

Test(pattern, atomic_groups_are_not_misread_by_a_search_for_first_characters) {
    expect_matches("(?>a+?)ab", "aaab", "1-4 ");
    expect_matches("(?>x|.*|)b", "cb", "");
    expect_matches("[a-z]{0,3}(?:b)?+[^c]", "x", "0-1 ");
    expect_matches("(?:\\S+?){3,2}(?<=[a-z])", "\u00aa\ufb00\ufb00s", "2-9 ");
}

Test(pattern, only_a_search_start_keeps_a_search_from_being_cut_into_windows) {
    static const struct {
        const char *pattern;
        bool in_windows;
    } rows[] = {
        {"a\\Gb", false}, {"a\\\\Gb", true}, {"[\\G]", true}, {"(?#\\G)a", true}, {"", true}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        text__pattern compiled = {0};
        err e;
        cr_assert_eq(compile(&compiled, rows[i].pattern, &e), 0, "%s", e.msg);
        cr_expect_eq(compiled.in_windows, rows[i].in_windows, "%s", rows[i].pattern);
        text__pattern_deinit(&compiled);
    }
}

/* ---- sets ---- */

Test(pattern, categories_part_the_code_points_and_sets_obey_their_laws) {
    arena memory;
    arena_init(&memory, 64 << 20);
    text__ranges all = {0};
    size_t count = 0;
    static const char *const groups[] = {"L", "M", "N", "P", "S", "Z", "C"};
    for (size_t i = 0; i < ARRAY_LEN(groups); i++) {
        text__set set = text__property_set(&memory, text__property_find(groups[i], 1));
        for (size_t k = 0; k < set.count; k++)
            count += set.items[k].hi - set.items[k].lo + 1;
        text__set not = text__set_not(&memory, &set), back = text__set_not(&memory, &not );
        text__set none = text__set_and(&memory, &set, &not );
        cr_expect(text__set_equal(&set, &back), "%s", groups[i]);
        cr_expect_eq(none.count, 0, "%s", groups[i]);
        text__ranges_add_set(&memory, &all, &set);
    }
    text__set whole = text__set_of(&memory, &all);
    cr_expect_eq(whole.count, 1);
    cr_expect_eq(count, UNICODE_END);
    cr_expect_eq(text__property_find("no such", 7), -1);
    cr_expect_eq(text__property_find("Upper-Case Letter", 17), text__property_find("Lu", 2));
    cr_expect_not(memory.failed);
    arena_deinit(&memory);
}

/* A text of two megabytes of digits was refused on a busy machine: its two million searches were
 * charged for reading the clock. */
Test(pattern, many_short_searches_are_charged_no_more_than_they_take) {
    enum { DIGITS = 512 << 10 };
    text__pattern compiled = {0};
    err e = {0};
    char *text = malloc(DIGITS);
    memset(text, '7', DIGITS);
    cr_assert_eq(text__pattern_compile(&compiled, "\\p{N}", 5, false, "test", &e), 0, "%s", e.msg);
    text__search search = {.n_bytes = DIGITS};
    text__matches found = {.pattern = &compiled, .text = text, .len = DIGITS};
    uint64_t start = clock_thread_ns(), n = 0;
    while (text__match_next(&search, &found, &e) == 1)
        n++;
    uint64_t took = clock_thread_ns() - start;
    cr_expect_eq(n, DIGITS, "%s", e.msg);
    cr_expect_gt(search.search_ns, 0);
    cr_expect_lt(search.search_ns, 2 * took, "charged %llu ns of %llu",
                 (unsigned long long)search.search_ns, (unsigned long long)took);
    text__search_deinit(&search);
    text__pattern_deinit(&compiled);
    free(text);
}
