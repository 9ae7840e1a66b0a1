/* test_costs.c - what the worst inputs known cost, by processor time.
 *
 * Each row is an input that grows to any size and the code that reads it. Two things must hold:
 * a KB costs less than a wide bound, and a KB of a large input costs no more than GROWTH times a
 * KB of a small one, where a quadratic cost would be LARGE / SMALL times as high. The figures
 * are printed with --verbose. No wall time is judged, and the least of several runs counts. */
#include "api/api_internal.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/model_json.h"
#include "loadgen/loadgen_internal.h"
#include "model/model_internal.h"
#include "model/safetensors_internal.h"
#include "tests/lib/api_fixture.h"
#include "tests/lib/testlib.h"
#include "tests/lib/tokens.h"
#include "text/tokenizer_internal.h"

#include <criterion/criterion.h>
#include <criterion/logging.h>
#include <stdlib.h>
#include <string.h>

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
    void (*make)(buf *text, size_t n); /* about n bytes; NULL: the unit, again and again */
    const char *unit;
    void (*read)(const buf *text);
} cost_row;

static void repeat(buf *text, const char *unit, size_t n) {
    size_t len = strlen(unit);
    while (text->len < n && !text->failed)
        buf_append(text, unit, len);
}

/* Microseconds of processor time for each KB of the input, the least of some runs. */
static double us_per_kb(const cost_row *row, size_t n) {
    buf text = {0};
    double least = 0;
    if (row->make) row->make(&text, n);
    else repeat(&text, row->unit, n);
    cr_assert_not(text.failed);
    for (int i = 0; i < RUNS; i++) {
        uint64_t start = clock_thread_ns();
        row->read(&text);
        double took = (double)(clock_thread_ns() - start) * 1e-3;
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
    {"numbers, the list not closed", 1500, broken_numbers, NULL, read_json},
    {"empty objects and lists, not closed", 1500, broken_objects, NULL, read_json},
    {"empty objects and lists", 1500, whole_objects, NULL, read_json},
    {"keys, the last one twice", 1500, key_twice, NULL, read_json},
    {"keys, the object not closed", 1500, keys, NULL, read_json},
    {"nests of 60 objects, not closed", 1500, nests, NULL, read_json},
    {"a list under 60 objects, not closed", 1500, nest_of_lists, NULL, read_json},
    {"one string", 300, long_string, NULL, read_json},
    {"one string of surrogate pairs", 300, escapes, NULL, read_json},
    {"one string of backslashes, not closed", 300, open_string, NULL, read_json},
    {"one integer", 300, long_integer, NULL, read_json},
    {"one fraction", 1000, long_fraction, NULL, read_json},
    {"numbers of 1000 digits", 1000, thousand_digits, NULL, read_json},
    {"one word of letters", 300, letters, NULL, read_json},
};

Test(costs, json_costs_its_size_whether_it_is_whole_or_broken) {
    check_rows("json_parse", json_rows, ARRAY_LEN(json_rows));
}

/* ---- model files ---- */

static void read_model_json(const buf *text) {
    static const json_limits limits = {8 << 20, 64, 8 << 20};
    json_t *root;
    err e = {0};
    if (model_json_parse(&root, text->data, text->len, &limits, "text", &e) == 0) json_decref(root);
}

static void wide_integers(buf *b, size_t n) {
    buf_puts(b, "[");
    repeat(b, "99999999999999999999,", n);
    buf_puts(b, "0]");
}

static void read_plan(const buf *text) {
    model_plan plan;
    err e = {0};
    cr_assert_neq(plan_parse(&plan, text->data, text->len, "config.json", &e), 0);
}

static void plain_keys(buf *b, size_t n) {
    keys(b, n);
    buf_puts(b, "}");
}

static void read_safetensors(const buf *text) {
    model__st_index index;
    err e = {0};
    if (model__st_parse(&index, (const uint8_t *)text->data, text->len, "file", &e) == 0)
        model__st_deinit(&index);
}

/* Empty tensors all lie in the same place. */
static void many_tensors(buf *b, size_t n, const char *end) {
    uint64_t len = 0;
    buf_append(b, &len, sizeof len);
    for (size_t i = 0; b->len < n; i++) {
        buf_printf(b, "%s\"%zu\":{\"dtype\":\"F4\",\"shape\":[0],\"data_offsets\":[0,0]}",
                   i ? "," : "{", i);
    }
    buf_puts(b, end);
    len = b->len - sizeof len;
    memcpy(b->data, &len, sizeof len);
}

static void whole_tensors(buf *b, size_t n) {
    many_tensors(b, n, "}");
}

static void broken_tensors(buf *b, size_t n) {
    many_tensors(b, n, ",}");
}

static void vocabulary(buf *b, size_t n) {
    buf_puts(b, "{\"pre_tokenizer\":{\"type\":\"ByteLevel\"},\"decoder\":{\"type\":\"ByteLevel\"},"
                "\"added_tokens\":[],\"model\":{\"vocab\":{");
    put_byte_vocabulary(b, 0);
    for (size_t i = 0; b->len < n / 2; i++)
        buf_printf(b, ",\"ab%zu\":%zu", i, i + 256);
    buf_puts(b, "},\"merges\":[");
    repeat(b, "\"a b0\",", n);
    buf_puts(b, "\"a b0\"]}}");
}

static void read_vocabulary(const buf *text) {
    tokenizer *t;
    err e = {0};
    if (tokenizer_parse(&t, text->data, text->len, 1 << 20, "tokenizer.json", &e) == 0)
        tokenizer_close(t);
}

static const cost_row model_rows[] = {
    {"integers of over 64 bits", 2000, wide_integers, NULL, read_model_json},
    {"signs and digits", 300, NULL, "1-", read_model_json},
    {"config.json of unknown keys", 2000, plain_keys, NULL, read_plan},
    {"safetensors header of empty tensors", 2000, whole_tensors, NULL, read_safetensors},
    {"safetensors header, broken at its end", 2000, broken_tensors, NULL, read_safetensors},
    {"tokenizer.json", 2000, vocabulary, NULL, read_vocabulary},
};

Test(costs, a_model_file_costs_its_size) {
    check_rows("model files", model_rows, ARRAY_LEN(model_rows));
}

/* ---- tokenizers ---- */

static const tokenizer *encoding_with;

static void encode(const buf *text) {
    token_ids ids = {0};
    err e = {0};
    cr_assert_eq(tokenizer_encode(encoding_with, text->data, text->len, false, SIZE_MAX, &ids, &e),
                 0, "%s", e.msg);
    token_ids_deinit(&ids);
}

/* A pattern may cost too much on a text: then the text is refused, at no more than its size. */
static void encode_or_refuse(const buf *text) {
    token_ids ids = {0};
    err e = {0};
    if (tokenizer_encode(encoding_with, text->data, text->len, false, SIZE_MAX, &ids, &e) != 0)
        cr_assert_eq(e.code, ERR_BAD_PARAM, "%s", e.msg);
    token_ids_deinit(&ids);
}

static void spaces_and_a_letter(buf *b, size_t n) {
    repeat(b, " ", n);
    buf_puts(b, "x");
}

static const cost_row texts[] = {
    {"one letter", 3000, NULL, "a", encode},
    {"spaces", 3000, NULL, " ", encode},
    {"spaces and a letter", 3000, spaces_and_a_letter, NULL, encode},
    {"line feeds", 3000, NULL, "\n", encode},
    {"blanks of two kinds", 3000, NULL, " \t", encode},
    {"a pair that merges", 3000, NULL, "ab", encode},
    {"a pair that merges, apart", 3000, NULL, "ab ba", encode},
    {"combining marks", 3000, NULL, "\u0301", encode},
    {"a letter and combining marks", 3000, NULL, "e\u0301\u0323", encode},
    {"digits", 3000, NULL, "1", encode},
    {"digits and points", 3000, NULL, "1.", encode},
    {"alternating scripts", 3000, NULL, "aя字ひ한ع", encode},
    {"apostrophes", 3000, NULL, "'", encode},
    {"contractions", 3000, NULL, "'ll", encode},
    {"upper and lower case", 3000, NULL, "aB", encode},
    {"signs", 3000, NULL, "!?", encode},
    {"joined emoji", 3000, NULL, "👩\u200d", encode},
    {"wide spaces", 3000, NULL, "\u3000\u00a0", encode},
    {"the start of a control token", 3000, NULL, "<|im_", encode},
    {"a control token", 3000, NULL, "<|im_start|>", encode},
};

/* Split patterns as published, in JSON; NULL: none but ByteLevel's own. */
static const struct {
    const char *name, *pattern;
} patterns[] = {
    {"whole text", ""},
    {"gpt2", NULL},
    {"llama3",
     "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}| "
     "?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"},
    {"o200k",
     "[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?[\\\\p{Lu}\\\\p{Lt}\\\\p{Lm}\\\\p{Lo}\\\\p{M}]*[\\\\p{Ll}\\\\p{"
     "Lm}\\\\p{Lo}\\\\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?[\\\\p{Lu}"
     "\\\\p{Lt}\\\\p{Lm}\\\\p{Lo}\\\\p{M}]+[\\\\p{Ll}\\\\p{Lm}\\\\p{Lo}\\\\p{M}]*(?i:'s|'t|'re|'ve|"
     "'m|'ll|'d)?|\\\\p{N}{1,3}| "
     "?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n/]*|\\\\s*[\\\\r\\\\n]+|\\\\s+"
     "(?!\\\\S)|\\\\s+"},
    {"blanks at end", "\\\\s+$"},
};

/* Bytes, runs of one letter, and a pair; <|im_start|> is a control token. */
static tokenizer *tokenizer_of(const char *pattern) {
    static const char *const merges[][2] = {{"a", "a"}, {"aa", "aa"}, {"a", "b"}, {"ab", "ab"}};
    buf b = {0};
    tokenizer *t = NULL;
    err e = {0};
    buf_puts(&b, "{\"added_tokens\":[{\"id\":300,\"content\":\"<|im_start|>\",\"special\":true}],"
                 "\"decoder\":{\"type\":\"ByteLevel\"},\"pre_tokenizer\":{\"type\":\"Sequence\","
                 "\"pretokenizers\":[");
    if (pattern && pattern[0]) {
        buf_printf(&b,
                   "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"%s\"},\"behavior\":\"Isolated\","
                   "\"invert\":false},",
                   pattern);
    }
    buf_printf(&b, "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":%s}]},",
               pattern ? "false" : "true");
    buf_puts(&b, "\"model\":{\"type\":\"BPE\",\"vocab\":{");
    put_byte_vocabulary(&b, 0);
    for (size_t i = 0; i < ARRAY_LEN(merges); i++)
        buf_printf(&b, ",\"%s%s\":%zu", merges[i][0], merges[i][1], 256 + i);
    buf_puts(&b, "},\"merges\":[");
    for (size_t i = 0; i < ARRAY_LEN(merges); i++)
        buf_printf(&b, "%s\"%s %s\"", i ? "," : "", merges[i][0], merges[i][1]);
    buf_puts(&b, "]}}");
    cr_assert_eq(tokenizer_parse(&t, b.data, b.len, 1000, "file", &e), 0, "%s", e.msg);
    buf_deinit(&b);
    return t;
}

Test(costs, text_costs_its_size_whatever_it_is_and_however_it_is_split) {
    encoding_with = f.tokenizer;
    check_rows("demo", texts, ARRAY_LEN(texts));
    for (size_t i = 0; i < ARRAY_LEN(patterns); i++) {
        tokenizer *t = tokenizer_of(patterns[i].pattern);
        encoding_with = t;
        check_rows(patterns[i].name, texts, ARRAY_LEN(texts));
        tokenizer_close(t);
    }
}

Test(costs, text_costs_its_size_where_patterns_are_interpreted) {
    static const cost_row row = {"spaces and a letter", 3000, spaces_and_a_letter, NULL,
                                 encode_or_refuse};
    for (size_t i = 0; i < ARRAY_LEN(patterns); i++) {
        tokenizer *t = tokenizer_of(patterns[i].pattern);
        for (uint32_t k = 0; k < t->n_steps; k++)
            t->steps[k].jit = false;
        encoding_with = t;
        check_rows(patterns[i].name, &row, 1);
        tokenizer_close(t);
    }
}
