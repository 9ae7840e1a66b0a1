/* test_tokenizer_missing.c - vocabularies without some bytes, as SmolLM2's and Ouro's are,
 * and the other keys of such a file. Equality with the reference over a whole vocabulary is
 * in tests/folders/tokenizer/missing.test.mjs. */
#include "base/model_json.h"
#include "tests/lib/stderr.h"
#include "tests/lib/testlib.h"
#include "tests/lib/tokens.h"
#include "text/tokenizer.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

TestSuite(tokenizer_missing, .fini = fail_on_leaks, .timeout = HANGS_S);

/* The stand-in of byte b in a vocabulary, as a JSON escape. */
static unsigned letter(unsigned b) {
    unsigned next = 256;
    for (unsigned k = 0; k <= b; k++) {
        bool visible = (k > 32 && k < 127) || (k > 160 && k != 173);
        if (k == b) return visible ? k : next;
        next += !visible;
    }
    return 0;
}

/* A file in the published form. without: bytes without a token. model: keys of the model, each
 * with a comma behind. merges: of ASCII letters. made: the tokens of the merges. */
static void file(buf *out, const char *without, const char *model, const char *merges,
                 const char *const *made, size_t n_made) {
    buf_puts(out,
             "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[{"
             "\"id\":300,\"content\":\"<|im_end|>\",\"single_word\":false,\"lstrip\":false,"
             "\"rstrip\":false,\"normalized\":false,\"special\":true}],\"normalizer\":null,"
             "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Digits\","
             "\"individual_digits\":true},{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
             "\"trim_offsets\":true,\"use_regex\":true}]},\"post_processor\":null,\"decoder\":{"
             "\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,"
             "\"use_regex\":true},\"model\":{\"type\":\"BPE\",");
    buf_printf(out, "%s\"merges\":[%s],\"vocab\":{\"<|im_end|>\":300", model, merges);
    for (unsigned b = 0; b < 256; b++) {
        if (b == 0 || strchr(without, (int)b) == NULL)
            buf_printf(out, ",\"\\u%04x\":%u", letter(b), b);
    }
    for (size_t i = 0; i < n_made; i++)
        buf_printf(out, ",\"%s\":%zu", made[i], 256 + i);
    buf_puts(out, "}}}");
}

#define AS_SHIPPED                                                                                 \
    "\"dropout\":null,\"unk_token\":null,\"continuing_subword_prefix\":null,"                      \
    "\"end_of_word_suffix\":null,\"fuse_unk\":false,\"byte_fallback\":false,"                      \
    "\"ignore_merges\":false,"

static tokenizer *open_file(const char *without, const char *model, const char *merges,
                            const char *const *made, size_t n_made) {
    buf json = {0};
    tokenizer *tok = NULL;
    err e = {0};
    file(&json, without, model, merges, made, n_made);
    int rc = tokenizer_parse(&tok, json.data, json.len, 400, "tokenizer.json", &e);
    buf_deinit(&json);
    cr_assert_eq(rc, 0, "%s", e.msg);
    return tok;
}

/* The tokens of a text, parted by '|'. */
static void expect(const tokenizer *tok, const char *text, size_t n, const char *want) {
    buf got = {0};
    put_pieces(&got, tok, text, n, false);
    cr_expect_str_eq(got.data ? got.data : "", want, "'%s'", text);
    buf_deinit(&got);
}

static const char *const pairs[] = {"xy", "xyxy"};

Test(tokenizer_missing, a_byte_without_a_token_is_dropped_and_its_neighbours_merge) {
    tokenizer *tok = open_file("A\xdf\xff", AS_SHIPPED, "\"x y\",\"xy xy\"", pairs, 2);
    expect(tok, "xAy", 3, "xy");
    expect(tok, "AxAAyAxAyA", 10, "xyxy");
    expect(tok, "xAyz", 4, "xy|z");
    expect(tok, "A", 1, "");
    expect(tok, "AAAA AA", 7, " ");
    expect(tok, "x\u07cay", 4, "x|\x8a|y"); /* 0xdf 0x8a: the second byte has a token */
    expect(tok, "x\xdf\xff\xfey", 5, "x|\xfe|y");
    expect(tok, "x\xffy", 3, "x|y"); /* not UTF-8: the text on either side stands alone */
    char longer[400], want[400] = "";
    memset(longer, 'A', sizeof longer);
    for (size_t i = 0; i < 100; i++) { /* longer than a scanned piece */
        longer[4 * i] = i & 1 ? 'y' : 'x';
        if (i % 4 == 3) strcat(want, want[0] ? "|xyxy" : "xyxy");
    }
    expect(tok, longer, sizeof longer, want);
    tokenizer_close(tok);
}

Test(tokenizer_missing, the_count_of_missing_bytes_is_warned_of_once) {
    char said[2000];
    int kept = stderr_catch();
    tokenizer *tok = open_file("A\xdf\xff", AS_SHIPPED, "\"x y\",\"xy xy\"", pairs, 2);
    expect(tok, "AAA", 3, "");
    stderr_release(kept, said, sizeof said);
    const char *first = strstr(said, "tokenizer.json: bytes without a token: 3 of 256");
    cr_assert_not_null(first, "%s", said);
    cr_expect_null(strstr(strchr(first, '\n'), "without a token"), "%s", said);
    tokenizer_close(tok);
    kept = stderr_catch();
    tok = open_file("", AS_SHIPPED, "", pairs, 0);
    stderr_release(kept, said, sizeof said);
    cr_expect_str_eq(said, "");
    tokenizer_close(tok);
}

Test(tokenizer_missing, an_unknown_token_still_stands_in_for_missing_bytes) {
    tokenizer *tok = open_file("A", "\"unk_token\":\"<|im_end|>\",", "", pairs, 0);
    expect(tok, "xAy", 3, "x|<|im_end|>|y");
    tokenizer_close(tok);
}

Test(tokenizer_missing, a_whole_word_of_the_vocabulary_is_found_as_the_reference_finds_it) {
    /* The vocabulary holds a word but not its byte 'A': merging cannot reach the word. */
    static const char *const word[] = {"xAy"};
    tokenizer *tok = open_file("A", AS_SHIPPED, "", word, 1);
    expect(tok, "xAy", 3, "x|y");
    expect(tok, "xAy", 3, "x|y");
    tokenizer_close(tok);
    tok = open_file("A", "\"ignore_merges\":true,", "", word, 1);
    expect(tok, "xAy", 3, "xAy");
    tokenizer_close(tok);
}

Test(tokenizer_missing, every_digit_is_a_piece_and_merges_may_be_pairs) {
    static const char *const made[] = {"xy", "12"};
    tokenizer *tok = open_file("", AS_SHIPPED, "[\"x\",\"y\"],[\"1\",\"2\"]", made, 2);
    expect(tok, "xy12", 4, "xy|1|2");
    tokenizer_close(tok);
}

Test(tokenizer_missing, control_tokens_are_never_read_from_text) {
    tokenizer *tok = open_file("", AS_SHIPPED, "", pairs, 0);
    expect(tok, "<|im_end|>", 10, "<|||i|m|_|e|n|d|||>");
    tokenizer_close(tok);
}

/* ---- numbers ---- */

static const json_limits limits = {4096, 8, 100};

Test(tokenizer_missing, integers_of_a_model_file_that_do_not_fit_are_reals) {
    static const struct {
        const char *text;
        double want;
        bool real;
    } rows[] = {
        {"{\"a\":1000000000000000019884624838656}", 1e30, true},
        {"{\"a\":-1000000000000000019884624838656}", -1e30, true},
        {"{\"a\": 9223372036854775808 }", 9223372036854775808.0, true},
        {"{\"a\":9223372036854775807}", 9223372036854775807.0, false},
        {"{\"a\":-9223372036854775808}", -9223372036854775808.0, false},
        {"{\"a\":0.00000000000000000000000000001}", 1e-29, true},
        {"{\"a\":100000000000000000000e2}", 1e22, true},
        {"{\"b\":\"99999999999999999999\\\"99999999999999999999\",\"a\":3}", 3, false},
        {"{\"b\":[99999999999999999999,99999999999999999999],\"a\":4}", 4, false},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        json_t *root;
        err e = {0};
        cr_assert_eq(
            model_json_parse(&root, rows[i].text, strlen(rows[i].text), &limits, "file", &e), 0,
            "row %zu: %s", i, e.msg);
        const json_t *a = json_object_get(root, "a");
        cr_expect_eq(json_is_real(a), rows[i].real, "row %zu", i);
        cr_expect_float_eq(json_number_value(a) / rows[i].want, 1, 1e-12, "row %zu", i);
        json_decref(root);
    }
}

Test(tokenizer_missing, a_number_longer_than_any_real_is_taken_and_bad_json_still_refused) {
    buf text = {0};
    json_t *root;
    err e = {0};
    buf_puts(&text, "[-");
    for (int i = 0; i < 1000; i++)
        buf_puts(&text, "9");
    buf_puts(&text, "]");
    cr_assert_eq(model_json_parse(&root, text.data, text.len, &limits, "file", &e), 0, "%s", e.msg);
    cr_expect_float_eq(json_real_value(json_array_get(root, 0)), -1e308, 1e300);
    json_decref(root);
    buf_deinit(&text);
    static const char *const bad[] = {
        "",    "-", "[99999999999999999999",  "[99999999999999999999-]", "[--99999999999999999999]",
        "\"9", "9", "[099999999999999999999]"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        e = (err){0};
        cr_expect_eq(model_json_parse(&root, bad[i], strlen(bad[i]), &limits, "file", &e), -1,
                     "row %zu", i);
        cr_expect_null(root);
        cr_expect_eq(e.code, ERR_BAD_PARAM, "row %zu", i);
    }
}
