/* test_tokenizer_sp.c - SentencePiece's way of BPE: characters as symbols, normalizers and the
 * origins of their output, decoders. Equality with the reference is in
 * tests/folders/tokenizer/sentencepiece.test.mjs. */
#include "tests/lib/stderr.h"
#include "tests/lib/testlib.h"
#include "tests/lib/tokens.h"
#include "text/tokenizer_internal.h"

#include <criterion/criterion.h>
#include <string.h>

TestSuite(tokenizer_sp, .fini = fail_on_leaks, .timeout = HANGS_S);

#define LOW "\u2581"
#define LLAMA_NORMALIZER                                                                           \
    "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"" LOW "\"},"      \
    "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"" LOW "\"}]}"
#define REPLACE_LOW "{\"type\":\"Replace\",\"pattern\":{\"String\":\"" LOW "\"},\"content\":\" \"}"
#define LLAMA_DECODER                                                                              \
    "{\"type\":\"Sequence\",\"decoders\":[" REPLACE_LOW ",{\"type\":\"ByteFallback\"},"            \
    "{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}]}"
#define METASPACE(scheme, split)                                                                   \
    "{\"type\":\"Metaspace\",\"replacement\":\"" LOW "\",\"prepend_scheme\":\"" scheme             \
    "\",\"split\":" split "}"
#define FLAGS "\"special\":false,\"normalized\":true"

/* Parts of a small file: letters, two words, the bytes of a euro sign. */
typedef struct {
    const char *normalizer, *pre, *decoder, *model, *added, *vocab, *merges;
} parts;

static int parse(tokenizer **tok, const parts *file, err *e) {
    buf json = {0};
    buf_printf(&json, "{\"added_tokens\":[{\"id\":1,\"content\":\"<s>\",\"special\":true}%s%s],",
               file->added ? "," : "", file->added ? file->added : "");
    buf_printf(&json, "\"normalizer\":%s,\"pre_tokenizer\":%s,\"decoder\":%s,",
               file->normalizer ? file->normalizer : "null", file->pre ? file->pre : "null",
               file->decoder ? file->decoder : LLAMA_DECODER);
    buf_printf(&json,
               "\"model\":{\"type\":\"BPE\",%s\"vocab\":{\"<unk>\":0,\"<s>\":1,\"" LOW "\":2",
               file->model ? file->model : "");
    for (int c = 0; c < 26; c++)
        buf_printf(&json, ",\"%c\":%d", 'a' + c, 10 + c);
    buf_puts(&json, ",\"th\":40,\"the\":41,\"" LOW "the\":42,\"" LOW LOW "\":43,\"<0xE2>\":50,"
                    "\"<0x82>\":51,\"<0xAC>\":52,\"<0x0A>\":53");
    buf_printf(&json,
               "%s%s},\"merges\":[\"t h\",\"th e\",\"" LOW " the\",\"" LOW " " LOW "\"%s%s]}}",
               file->vocab ? "," : "", file->vocab ? file->vocab : "", file->merges ? "," : "",
               file->merges ? file->merges : "");
    int rc = tokenizer_parse(tok, json.data, json.len, 400, "tokenizer.json", e);
    buf_deinit(&json);
    return rc;
}

static tokenizer *open_file(parts file) {
    tokenizer *tok = NULL;
    err e = {0};
    cr_assert_eq(parse(&tok, &file, &e), 0, "%s", e.msg);
    return tok;
}

static void expect(const tokenizer *tok, const char *text, const char *want) {
    buf got = {0};
    put_pieces(&got, tok, text, strlen(text), true);
    cr_expect_str_eq(got.data ? got.data : "", want, "'%s'", text);
    buf_deinit(&got);
}

static void expect_text(const tokenizer *tok, const uint32_t *ids, size_t n, const char *want) {
    buf got = {0};
    err e = {0};
    cr_assert_eq(tokenizer_decode(tok, ids, n, false, &got, &e), 0, "%s", e.msg);
    cr_expect_str_eq(got.data ? got.data : "", want);
    buf_deinit(&got);
}
#define TEXT_OF(tok, want, ...)                                                                    \
    expect_text(tok, (const uint32_t[]){__VA_ARGS__},                                              \
                ARRAY_LEN(((const uint32_t[]){__VA_ARGS__})), want)

#define FALLBACK "\"byte_fallback\":true,\"fuse_unk\":true,\"unk_token\":\"<unk>\","

/* ---- symbols ---- */

Test(tokenizer_sp, a_text_is_one_piece_whose_symbols_are_characters) {
    tokenizer *tok = open_file((parts){.normalizer = LLAMA_NORMALIZER, .model = FALLBACK});
    expect(tok, "the the", " the| the");
    expect(tok, " the", " | the"); /* the word has the lower rank */
    expect(tok, "a\nb", " |a|\n|b");
    expect(tok, "a\u20acb", " |a|\xe2|\x82|\xac|b");
    expect(tok, "<s>the", "<s>| the");
    expect(tok, "", "");
    tokenizer_close(tok);
}

Test(tokenizer_sp, what_has_no_token_is_bytes_else_unknown_else_nothing) {
    static const struct {
        const char *model, *text, *want;
    } rows[] = {
        {FALLBACK, "a\u00e9\u00e9b", "a|<unk>|b"},
        {"\"byte_fallback\":true,\"unk_token\":\"<unk>\",", "a\u00e9\u00e9b", "a|<unk>|<unk>|b"},
        {"\"unk_token\":\"<unk>\",", "a\u20acb", "a|<unk>|b"},
        {"", "a\u20ac\u00e9b", "a|b"},
        {"", "t\u20ache", "the"}, /* the neighbours of a dropped character meet */
        /* As in the reference, an unknown token comes after the bytes, before a known character. */
        {FALLBACK, "\u00e9\u20ac\u00e9b", "\xe2|\x82|\xac|<unk>|b"},
        {FALLBACK, "\u00e9\u20ac", "\xe2|\x82|\xac|<unk>"},
        {FALLBACK, "th\u00e9e", "th|<unk>|e"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char said[1000];
        int kept = stderr_catch();
        tokenizer *tok = open_file((parts){.model = rows[i].model});
        stderr_release(kept, said, sizeof said);
        cr_expect_eq(strstr(said, "encoding drops characters") != NULL, rows[i].model[0] == 0);
        expect(tok, rows[i].text, rows[i].want);
        tokenizer_close(tok);
    }
}

Test(tokenizer_sp, a_long_run_merges_as_a_short_one) {
    tokenizer *tok = open_file((parts){.model = FALLBACK});
    buf text = {0}, want = {0};
    for (int i = 0; i < 400; i++) {
        buf_puts(&text, "th");
        buf_puts(&want, i ? "|th" : "th");
    }
    expect(tok, text.data, want.data);
    buf_deinit(&text);
    buf_deinit(&want);
    tokenizer_close(tok);
}

Test(tokenizer_sp, whole_words_go_first_where_the_file_says_so_but_never_special_ones) {
    tokenizer *tok = open_file((parts){.model = "\"ignore_merges\":true,", .vocab = "\"ax\":60"});
    expect(tok, "ax", "ax");
    expect(tok, "axa", "a|x|a");
    buf got = {0};
    put_pieces(&got, tok, "<s>", 3, false);
    cr_expect_str_eq(got.data, "s");
    buf_deinit(&got);
    tokenizer_close(tok);
}

/* ---- Metaspace ---- */

Test(tokenizer_sp, metaspace_puts_its_character_where_its_scheme_says) {
    static const struct {
        const char *pre, *text, *want;
    } rows[] = {
        {METASPACE("always", "true"), "the<s>the", " the|<s>| the"},
        {METASPACE("first", "true"), "the<s>the", " the|<s>|the"},
        {METASPACE("first", "false"), "<s>the", "<s>|the"},
        {METASPACE("never", "true"), "the the", "the| the"},
        {METASPACE("always", "true"), " the", " the"},
        {METASPACE("always", "true"), "a  b", " |a| | |b"}, /* two pieces */
        {METASPACE("always", "false"), "a  b", " |a|  |b"},
        {"{\"type\":\"Metaspace\",\"replacement\":\"" LOW "\",\"add_prefix_space\":false}", "the",
         "the"},
        {"{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Digits\",\"individual_digits\":"
         "true}," METASPACE("first", "true") "]}",
         "a1b", " |a|b"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        tokenizer *tok = open_file((parts){.pre = rows[i].pre});
        expect(tok, rows[i].text, rows[i].want);
        tokenizer_close(tok);
    }
}

/* ---- normalizers ---- */

#define STEP(json) "{\"type\":\"Sequence\",\"normalizers\":[" json "]}"

Test(tokenizer_sp, normalizers_change_a_text_as_the_reference_does) {
    static const struct {
        const char *normalizer, *text, *want;
    } rows[] = {
        {"{\"type\":\"Lowercase\"}", "ABC", "a|b|c"},
        {"{\"type\":\"Lowercase\"}", "\u0130", "i"}, /* and a dot above, without a token */
        {STEP("{\"type\":\"NFD\"},{\"type\":\"StripAccents\"}"), "\u00e9\u1e69a", "e|s|a"},
        {"{\"type\":\"NFKC\"}", "\ufb01\uff41", "f|i|a"},
        {STEP("{\"type\":\"NFC\"},{\"type\":\"Replace\",\"pattern\":{\"String\":\"\u00e9\"},"
              "\"content\":\"x\"}"),
         "e\u0301a", "x|a"},
        {STEP("{\"type\":\"NFC\"},{\"type\":\"Replace\",\"pattern\":{\"String\":\"\ud55c\"},"
              "\"content\":\"x\"}"),
         "\u1112\u1161\u11ab", "x"},
        {STEP("{\"type\":\"NFKC\"},{\"type\":\"Replace\",\"pattern\":{\"String\":\"\u30ac\"},"
              "\"content\":\"x\"}"),
         "\uff76\uff9e", "x"},
        {"{\"type\":\"Strip\",\"strip_left\":true,\"strip_right\":false}", "\u3000 a ", "a"},
        {"{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"b+\"},\"content\":\"x\"}", "abbbab",
         "a|x|a|x"},
        {"{\"type\":\"Replace\",\"pattern\":{\"String\":\"ab\"},\"content\":\"\"}", "tabhe", "the"},
        {STEP("{\"type\":\"Strip\",\"strip_left\":true,\"strip_right\":true},{\"type\":"
              "\"Prepend\",\"prepend\":\"x\"}"),
         "  ", ""},
        {STEP(STEP("{\"type\":\"Prepend\",\"prepend\":\"b\"}") ",{\"type\":\"Prepend\",\"prepend\":"
                                                               "\"a\"}"),
         "c", "a|b|c"},
        {"{\"type\":\"NFC\"}", "a\xff\xc3z", "a|z"},
        {"{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"(?=b)\"},\"content\":\"x\"}", "abb",
         "a|x|b|x|b"},
        {"{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"b{2,}\"},\"content\":"
         "\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"}",
         "ab", "a|b"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        tokenizer *tok = open_file((parts){.normalizer = rows[i].normalizer});
        expect(tok, rows[i].text, rows[i].want);
        tokenizer_close(tok);
    }
}

Test(tokenizer_sp, added_tokens_are_found_before_or_behind_the_normalizer) {
    tokenizer *tok = open_file(
        (parts){.normalizer = "{\"type\":\"Lowercase\"}",
                .added = "{\"id\":60,\"content\":\"ABC\"," FLAGS "},"
                         "{\"id\":61,\"content\":\"DEF\",\"special\":false,\"normalized\":false}"});
    uint32_t id;
    expect(tok, "abcABCaBcx", "abc|abc|abc|x"); /* shown in lower case, as in the reference */
    expect(tok, "DEFdef", "DEF|d|e|f");
    cr_expect(tokenizer_find(tok, "ABC", &id) && id == 60, "by the name the file gives it");
    cr_expect(tokenizer_find(tok, "DEF", &id) && id == 61);
    tokenizer_mark_control(tok, "x ABC", 5);
    cr_expect(tokenizer_is_control(tok, 60));
    tokenizer_close(tok);
}

Test(tokenizer_sp, an_added_token_whose_normalized_text_is_empty_or_too_long_is_left_out) {
    static const struct {
        const char *from, *says; /* content is 2000 times "a" */
        size_t n_to;
    } rows[] = {{"aa", "its normalized text is empty", 0},
                {"a", "its normalized text is too long", 15}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        buf added = {0}, step = {0};
        char said[1000];
        buf_puts(&added, "{\"id\":60,\"content\":\"");
        for (int k = 0; k < 2000; k++)
            buf_puts(&added, "a");
        buf_puts(&added, "\"," FLAGS "}");
        buf_printf(&step,
                   "{\"type\":\"Replace\",\"pattern\":{\"String\":\"%s\"},\"content\":\"%.*s\"}",
                   rows[i].from, (int)rows[i].n_to, "bbbbbbbbbbbbbbb");
        int kept = stderr_catch();
        tokenizer *tok = open_file((parts){.normalizer = step.data, .added = added.data});
        stderr_release(kept, said, sizeof said);
        cr_expect(strstr(said, rows[i].says), "row %zu: %s", i, said);
        cr_expect(!tokenizer_is_special(tok, 60));
        buf_deinit(&added);
        buf_deinit(&step);
        tokenizer_close(tok);
    }
}

/* ---- origins ---- */

/* The text's parts are parted by '|': the template's, the client's, the template's, and so on. */
static void expect_runs(const tokenizer *tok, const char *parted, const char *want) {
    buf text = {0}, got = {0};
    text_run runs[16];
    size_t n = 0, len;
    token_ids ids = {0};
    err e = {0};
    for (const char *part = parted;; part += len + 1) {
        len = strcspn(part, "|");
        buf_append(&text, part, len);
        runs[n] = (text_run){text.len, n % 2 == 0};
        n++;
        if (part[len] == 0) break;
    }
    cr_assert_eq(tokenizer_encode_runs(tok, text.data, text.len, runs, n, 1000, &ids, &e), 0, "%s",
                 e.msg);
    for (size_t i = 0; i < ids.n; i++) {
        const char *bytes = tokenizer_bytes(tok, ids.data[i], &len);
        if (i) buf_puts(&got, "|");
        buf_append(&got, bytes, len);
    }
    cr_expect_str_eq(got.data ? got.data : "", want, "'%s'", parted);
    buf_deinit(&text);
    buf_deinit(&got);
    token_ids_deinit(&ids);
}

Test(tokenizer_sp, a_control_token_in_normalized_text_needs_all_its_source_bytes_trusted) {
    tokenizer *tok = open_file((parts){
        .normalizer = STEP("{\"type\":\"NFD\"},{\"type\":\"StripAccents\"},{\"type\":\"Lowercase\"}"
                           ",{\"type\":\"Replace\",\"pattern\":{\"String\":\"qq\"},\"content\":"
                           "\"in\"}"),
        .added = "{\"id\":60,\"content\":\"Cin\",\"special\":true,\"normalized\":true}"});
    static const char *const rows[][2] = {
        {"CIN", "Cin"},
        {"|cin", "c|i|n"},
        {"C|in", "c|i|n"},
        {"Ci|n|", "c|i|n"},
        {"|cIN|cIN", "c|i|n|Cin"},
        {"cqq", "Cin"},     /* trusted bytes give trusted output */
        {"cq|q|", "c|i|n"}, /* other bytes do not */
        {"c|qq|", "c|i|n"},
        {"c\u00edn", "Cin"},       /* an accent of the template's own */
        {"ci|\u0301|n", "c|i|n"},  /* an accent of the client, removed by a step */
        {"cin|\u0301|x", "Cin|x"}, /* but beside the token it does no harm */
        {"x|\u0301|cin", "x|Cin"},
        {"cin|a|cin|b|cin", "Cin|a|Cin|b|Cin"},
        {"cin|\u1112\u1161|cin", "Cin|Cin"}, /* no token for these, nothing joins around them */
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        expect_runs(tok, rows[i][0], rows[i][1]);
    tokenizer_close(tok);
}

Test(tokenizer_sp, stripped_blanks_and_prefixes_leave_origins_where_they_were) {
    tokenizer *tok = open_file(
        (parts){.normalizer = STEP("{\"type\":\"Strip\",\"strip_left\":true,\"strip_right\":true},"
                                   "{\"type\":\"Prepend\",\"prepend\":\"xx\"}"),
                .added = "{\"id\":60,\"content\":\"abc\",\"special\":true,\"normalized\":true}"});
    expect_runs(tok, "abc", "abc"); /* the token's own spelling has the prefix, too */
    expect_runs(tok, "  |  |abc", "abc");
    expect_runs(tok, "|  a|bc", "x|x|a|b|c");
    expect_runs(tok, "<s>|abc|<s>abc", "<s>|x|x|a|b|c|<s>|abc");
    tokenizer_close(tok);
}

Test(tokenizer_sp, a_marked_token_is_reached_by_no_merge_and_no_whole_word) {
    for (int ignore = 0; ignore < 2; ignore++) {
        tokenizer *tok =
            open_file((parts){.model = ignore ? "\"ignore_merges\":true," : "",
                              .added = "{\"id\":41,\"content\":\"the\"," FLAGS "},"
                                       "{\"id\":43,\"content\":\"" LOW LOW "\"," FLAGS "}"});
        expect_runs(tok, "|the" LOW LOW, "the|  "); /* not marked: as in the reference */
        tokenizer_mark_control(tok, "{the}a" LOW LOW, 12);
        expect_runs(tok, "|the" LOW LOW, "th|e|  "); /* a token of white space stays unmarked */
        expect_runs(tok, "|aba", "a|b|a");           /* and so does one letter */
        expect_runs(tok, "the|x", "the|x");
        tokenizer_close(tok);
    }
}

/* ---- decoding ---- */

Test(tokenizer_sp, a_text_loses_the_space_that_was_put_before_it_and_one_token_does_not) {
    tokenizer *tok = open_file((parts){.normalizer = LLAMA_NORMALIZER, .model = FALLBACK});
    size_t n;
    TEXT_OF(tok, "the the", 42, 42);
    TEXT_OF(tok, "the", 41);
    TEXT_OF(tok, " the", 2, 42);
    TEXT_OF(tok, "<s> the", 1, 42);
    TEXT_OF(tok, "\u20ac\n", 50, 51, 52, 53);
    TEXT_OF(tok, "\ufffd\ufffdthe\ufffd", 50, 51, 41, 52);
    TEXT_OF(tok, "a", 10, 399, 5000);
    cr_expect(memcmp(tokenizer_bytes(tok, 42, &n), " the", 4) == 0 && n == 4);
    cr_expect(memcmp(tokenizer_bytes(tok, 51, &n), "\x82", 1) == 0 && n == 1);
    buf got = {0};
    err e = {0};
    cr_assert_eq(tokenizer_decode(tok, (const uint32_t[]){1, 42, 1}, 3, true, &got, &e), 0);
    cr_expect_str_eq(got.data, "the", "special tokens are left out before the space is");
    buf_deinit(&got);
    tokenizer_close(tok);
}

Test(tokenizer_sp, stretches_of_a_text_put_together_are_the_text) {
    tokenizer *tok = open_file((parts){.normalizer = LLAMA_NORMALIZER, .model = FALLBACK});
    uint32_t ids[300];
    buf whole = {0}, parted = {0};
    err e = {0};
    for (size_t i = 0; i < ARRAY_LEN(ids); i++)
        ids[i] = i % 7 ? 50 + (uint32_t)(i % 3) : 42;
    for (size_t i = 100; i < 200; i++)
        ids[i] = 50 + (uint32_t)((i + 2) % 3); /* a euro sign across every place to cut */
    size_t stretches = 0;
    for (size_t at = 0; at < ARRAY_LEN(ids); stretches++)
        cr_assert_eq(tokenizer_decode_some(tok, ids, ARRAY_LEN(ids), &at, false, &parted, &e), 0);
    cr_expect_gt(stretches, 2);
    cr_assert_eq(tokenizer_decode(tok, ids, ARRAY_LEN(ids), false, &whole, &e), 0);
    cr_expect_str_eq(parted.data, whole.data);
    cr_expect_eq(strncmp(whole.data, "the", 3), 0);
    buf_deinit(&whole);
    buf_deinit(&parted);
    tokenizer_close(tok);
}

Test(tokenizer_sp, decoders_of_other_kinds_are_read) {
    tokenizer *tok = open_file((parts){.decoder = METASPACE("first", "true")});
    TEXT_OF(tok, "the the", 42, 42);
    tokenizer_close(tok);
    tok = open_file((parts){.decoder = METASPACE("never", "true")});
    TEXT_OF(tok, " the the", 42, 42);
    tokenizer_close(tok);
    tok = open_file((parts){.decoder = "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Strip\","
                                       "\"content\":\"t\",\"start\":1,\"stop\":1}]}"});
    TEXT_OF(tok, "hehe", 41, 41);
    TEXT_OF(tok, "", 29);
    tokenizer_close(tok);
    tok = open_file((parts){.decoder = "{\"type\":\"ByteLevel\"}", .vocab = "\"\u0120a\":60"});
    TEXT_OF(tok, "the a", 41, 60);
    expect(tok, "\u0120a", "a"); /* no token for the first: nothing joins them */
    tokenizer_close(tok);
}

/* ---- refused files ---- */

Test(tokenizer_sp, what_is_not_supported_is_refused_by_name) {
    static const struct {
        parts file;
        const char *says;
    } rows[] = {
        {{.normalizer = "{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"\"}"}, "Precompiled"},
        {{.normalizer = "{\"type\":\"Nmt\"}"}, "normalizer Nmt"},
        {{.normalizer = "{}"}, "a normalizer has no type"},
        {{.normalizer = "{\"type\":\"Prepend\"}"}, "text of a Prepend normalizer is missing"},
        {{.normalizer = "{\"type\":\"Strip\"}"}, "Strip normalizer needs"},
        {{.normalizer = "{\"type\":\"Replace\",\"content\":\"\"}"}, "needs a String or Regex"},
        {{.normalizer = "{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"}}"}, "content"},
        {{.normalizer = "{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"a(\"},\"content\":\"\"}"},
         "pattern"},
        {{.normalizer = "{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"},\"content\":"
                        "\"aaaaaaaaaaaaaaaaa\"}"},
         "more than 16 times longer"},
        {{.pre = "{\"type\":\"Metaspace\",\"replacement\":\"ab\"}"}, "replacement of a Metaspace"},
        {{.pre = METASPACE("sometimes", "true")}, "prepend_scheme"},
        {{.pre = METASPACE("first", "3")}, "split must be true or false"},
        {{.pre = "{\"type\":\"Whitespace\"}"}, "pre_tokenizer Whitespace"},
        {{.decoder = "null"}, "decoder null"},
        {{.decoder = "{\"type\":\"WordPiece\"}"}, "decoder WordPiece"},
        {{.decoder = "{\"type\":\"Strip\",\"content\":\"ab\",\"start\":0,\"stop\":0}"},
         "needs a text of one character"},
        {{.decoder = "{\"type\":\"Strip\",\"content\":\"a\",\"start\":-1,\"stop\":0}"}, "start"},
        {{.decoder = "{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"a\"},\"content\":\"\"}"},
         "needs a String"},
        {{.decoder = "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"ByteLevel\"},{\"type\":"
                     "\"Fuse\"}]}"},
         "decoder ByteLevel is not supported here"},
        {{.model = "\"end_of_word_suffix\":\"</w>\","}, "end_of_word_suffix"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        tokenizer *tok = NULL;
        err e = {0};
        cr_assert_eq(parse(&tok, &rows[i].file, &e), -1, "row %zu", i);
        cr_assert_null(tok);
        cr_expect_eq(e.code, ERR_BAD_FILE, "row %zu: %s", i, e.msg);
        cr_expect(strstr(e.msg, rows[i].says), "row %zu: '%s' lacks '%s'", i, e.msg, rows[i].says);
    }
}
