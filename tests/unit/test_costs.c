/* test_costs.c - what the worst inputs known cost, by processor time.
 *
 * Each row is an input that grows to any size and the code that reads it. Two things must hold:
 * a KB costs less than a wide bound, and a KB of a large input costs no more than GROWTH times a
 * KB of a small one, where a quadratic cost would be LARGE / SMALL times as high. The figures
 * are printed with --verbose. No wall time is judged, and the least of several runs counts. */
#include "api/api_internal.h"
#include "base/cancel.h"
#include "base/json.h"
#include "tests/lib/api_fixture.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <criterion/logging.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

API_SUITE(costs);

enum { SMALL = 32 << 10, LARGE = 256 << 10, GROWTH = 3, RUNS = 3 };

#ifdef FATHOM_SAN
enum { SLOWER = 20 };
#else
enum { SLOWER = 1 };
#endif

typedef struct {
    const char *input;                 /* what it is, in words */
    double us_per_kb;                  /* bound, of a release build */
    void (*make)(buf *text, size_t n); /* about n bytes */
    void (*read)(const buf *text);
} cost_row;

static double thread_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

/* Microseconds of processor time for each KB of the input, the least of some runs. */
static double us_per_kb(const cost_row *row, size_t n) {
    buf text = {0};
    double least = 0;
    row->make(&text, n);
    cr_assert_not(text.failed);
    for (int i = 0; i < RUNS; i++) {
        double start = thread_us();
        row->read(&text);
        double took = thread_us() - start;
        if (i == 0 || took < least) least = took;
    }
    double kb = (double)text.len / 1024;
    buf_deinit(&text);
    return least / kb;
}

static void check_rows(const char *what, const cost_row *rows, size_t n) {
    for (size_t i = 0; i < n; i++) {
        double small = us_per_kb(&rows[i], SMALL), large = us_per_kb(&rows[i], LARGE);
        cr_log_info("%-14s %-52s %8.1f us/KB at %d KB, %8.1f at %d", what, rows[i].input, small,
                    SMALL >> 10, large, LARGE >> 10);
        cr_expect_lt(large, rows[i].us_per_kb * SLOWER, "%s, %s: %.0f us/KB", what, rows[i].input,
                     large);
        cr_expect_lt(large, GROWTH * (small + 1), "%s, %s: %.0f us/KB at %d KB, %.0f at %d", what,
                     rows[i].input, small, SMALL >> 10, large, LARGE >> 10);
    }
}

static void repeat(buf *text, const char *unit, size_t n) {
    while (text->len < n && !text->failed)
        buf_puts(text, unit);
}

/* ---- JSON ---- */

static void read_json(const buf *text) {
    static const json_limits limits = {8 << 20, 64, 8 << 20};
    json_t *root;
    err e = {0};
    if (json_parse(&root, text->data, text->len, &limits, "text", &e) == 0) json_decref(root);
}

static void broken_numbers(buf *b, size_t n) {
    buf_puts(b, "[");
    repeat(b, "1,", n);
}

static void broken_objects(buf *b, size_t n) {
    buf_puts(b, "[");
    repeat(b, "{},[],", n);
}

static void whole_objects(buf *b, size_t n) {
    broken_objects(b, n);
    buf_puts(b, "0]");
}

static void keys(buf *b, size_t n) {
    for (size_t i = 0; b->len < n; i++)
        buf_printf(b, "%s\"k%zu\":%zu", i ? "," : "{", i, i);
}

static void key_twice(buf *b, size_t n) {
    keys(b, n);
    buf_puts(b, ",\"k0\":1}");
}

/* The value of each key of a nest is all that is deeper: a key is freed after its value. */
static void nests(buf *b, size_t n) {
    buf_puts(b, "[");
    for (size_t i = 0; b->len < n; i++) {
        if (i) buf_puts(b, ",");
        for (int d = 0; d < 60; d++)
            buf_puts(b, "{\"a\":0,\"b\":");
        buf_puts(b, "0");
        for (int d = 0; d < 60; d++)
            buf_puts(b, "}");
    }
}

static void nest_of_lists(buf *b, size_t n) {
    for (int d = 0; d < 60; d++)
        buf_puts(b, "{\"a\":0,\"b\":");
    buf_puts(b, "[");
    repeat(b, "0,", n);
}

static void long_string(buf *b, size_t n) {
    buf_puts(b, "[\"");
    repeat(b, "x", n);
    buf_puts(b, "\"]");
}

static void escapes(buf *b, size_t n) {
    buf_puts(b, "[\"");
    repeat(b, "\\ud83d\\ude00", n);
    buf_puts(b, "\"]");
}

static void open_string(buf *b, size_t n) {
    buf_puts(b, "[\"");
    repeat(b, "\\\\", n);
}

static void long_integer(buf *b, size_t n) {
    buf_puts(b, "[1");
    repeat(b, "7", n);
    buf_puts(b, "]");
}

static void long_fraction(buf *b, size_t n) {
    buf_puts(b, "[0.");
    repeat(b, "4999999999999999", n);
    buf_puts(b, "]");
}

static void thousand_digits(buf *b, size_t n) {
    buf_puts(b, "[");
    while (b->len < n) {
        buf_puts(b, "1.");
        for (int i = 0; i < 100; i++)
            buf_puts(b, "2345678901");
        buf_puts(b, "e-300,");
    }
    buf_puts(b, "0]");
}

static void letters(buf *b, size_t n) {
    buf_puts(b, "[");
    repeat(b, "a", n);
}

static const cost_row json_rows[] = {
    {"numbers, the list not closed", 1500, broken_numbers, read_json},
    {"empty objects and lists, not closed", 1500, broken_objects, read_json},
    {"empty objects and lists", 1500, whole_objects, read_json},
    {"keys, the last one twice", 1500, key_twice, read_json},
    {"keys, the object not closed", 1500, keys, read_json},
    {"nests of 60 objects, not closed", 1500, nests, read_json},
    {"a list under 60 objects, not closed", 1500, nest_of_lists, read_json},
    {"one string", 300, long_string, read_json},
    {"one string of surrogate pairs", 300, escapes, read_json},
    {"one string of backslashes, not closed", 300, open_string, read_json},
    {"one integer", 300, long_integer, read_json},
    {"one fraction", 1000, long_fraction, read_json},
    {"numbers of 1000 digits", 1000, thousand_digits, read_json},
    {"one word of letters", 300, letters, read_json},
};

Test(costs, json_costs_its_size_whether_it_is_whole_or_broken) {
    check_rows("json_parse", json_rows, ARRAY_LEN(json_rows));
}
