/* test_tokenizer.c - refused files, pre-tokenizer behaviours, added tokens, broken bytes, and
 * merging against a plain reading of the definition. Equality with the published tokenizers is in
 * tests/folders/tokenizer. */
#include "base/cancel.h"
#include "tests/lib/testlib.h"
#include "tests/lib/tokens.h"
#include "text/tokenizer_internal.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

TestSuite(tokenizer, .fini = fail_on_leaks, .timeout = HANGS_S);

/* ---- building files ---- */

/* The stand-in of byte b as UTF-8. */
static const char *letter(int b, char out[4]) {
    int next = 256, cp = 0;
    for (int k = 0; k <= b; k++) {
        bool visible = (k >= '!' && k <= '~') || (k >= 0xa1 && k <= 0xac) || k >= 0xae;
        cp = visible ? k : next++;
    }
    if (cp < 0x80) {
        out[0] = (char)cp;
        out[1] = 0;
    } else {
        out[0] = (char)(0xc0 | cp >> 6);
        out[1] = (char)(0x80 | (cp & 63));
        out[2] = 0;
    }
    return out;
}

/* A file: ids 0..255 are the bytes, then the results of merges, in order. */
static json_t *base_file(const char *const *merges, size_t n) {
    json_t *vocab = json_object(), *list = json_array();
    char text[4];
    for (int b = 0; b < 256; b++)
        json_object_set_new(vocab, letter(b, text), json_integer(b));
    for (size_t i = 0; i < n; i++) {
        char joined[256] = "";
        const char *space = strchr(merges[i], ' ');
        (void)snprintf(joined, sizeof joined, "%.*s%s", (int)(space - merges[i]), merges[i],
                       space + 1);
        if (!json_object_get(vocab, joined)) {
            json_object_set_new(vocab, joined, json_integer((json_int_t)json_object_size(vocab)));
        }
        json_array_append_new(list, json_string(merges[i]));
    }
    return json_pack("{s:n, s:[], s:{s:s, s:b, s:b}, s:{s:s}, s:{s:s, s:o, s:o}}", "normalizer",
                     "added_tokens", "pre_tokenizer", "type", "ByteLevel", "add_prefix_space", 0,
                     "use_regex", 0, "decoder", "type", "ByteLevel", "model", "type", "BPE",
                     "vocab", vocab, "merges", list);
}

static int parse(tokenizer **tok, json_t *steal_file, uint32_t vocab_size, err *e) {
    char *text = json_dumps(steal_file, JSON_COMPACT);
    int rc = tokenizer_parse(tok, text, strlen(text), vocab_size, "tokenizer.json", e);
    free(text);
    json_decref(steal_file);
    return rc;
}

static tokenizer *must_parse(json_t *steal_file) {
    tokenizer *tok = NULL;
    err e = {0};
    cr_assert_eq(parse(&tok, steal_file, 100000, &e), 0, "%s", e.msg);
    return tok;
}

static json_t *added(const char *content, int id, bool special) {
    return json_pack("{s:i, s:s, s:b, s:b, s:b, s:b, s:b}", "id", id, "content", content, "special",
                     special, "single_word", 0, "lstrip", 0, "rstrip", 0, "normalized", 0);
}

static void add(json_t *file, json_t *steal_token) {
    json_array_append_new(json_object_get(file, "added_tokens"), steal_token);
}

static void steps(json_t *file, json_t *steal_split) {
    json_object_set_new(file, "pre_tokenizer",
                        json_pack("{s:s, s:[o, {s:s, s:b, s:b}]}", "type", "Sequence",
                                  "pretokenizers", steal_split, "type", "ByteLevel",
                                  "add_prefix_space", 0, "use_regex", 0));
}

static json_t *split_by(const char *regex, const char *behavior, bool invert) {
    return json_pack("{s:s, s:{s:s}, s:s, s:b}", "type", "Split", "pattern", "Regex", regex,
                     "behavior", behavior, "invert", invert);
}

/* Ids as text, tokens parted by '|'. */
static void encode_n(const tokenizer *tok, const char *text, size_t n, bool special, char *out,
                     size_t cap) {
    buf pieces = {0};
    put_pieces(&pieces, tok, text, n, special);
    (void)snprintf(out, cap, "%s", pieces.data ? pieces.data : "");
    buf_deinit(&pieces);
}

static void expect(const tokenizer *tok, const char *text, bool special, const char *want) {
    char got[512];
    encode_n(tok, text, strlen(text), special, got, sizeof got);
    cr_assert_str_eq(got, want, "'%s' gave '%s', not '%s'", text, got, want);
}

/* ---- refused files ---- */

static void id_twice(json_t *file) {
    json_object_set_new(json_object_get(json_object_get(file, "model"), "vocab"), "zz",
                        json_integer(5));
}
static void id_past_end(json_t *file) {
    json_object_set_new(json_object_get(json_object_get(file, "model"), "vocab"), "zz",
                        json_integer(999));
}
static void id_negative(json_t *file) {
    json_object_set_new(json_object_get(json_object_get(file, "model"), "vocab"), "zz",
                        json_integer(-1));
}
static void id_text(json_t *file) {
    json_object_set_new(json_object_get(json_object_get(file, "model"), "vocab"), "zz",
                        json_string("300"));
}
static void id_fraction(json_t *file) {
    json_object_set_new(json_object_get(json_object_get(file, "model"), "vocab"), "zz",
                        json_real(256.5));
}
static void empty_token(json_t *file) {
    json_object_set_new(json_object_get(json_object_get(file, "model"), "vocab"), "",
                        json_integer(256));
}
static void huge_token(json_t *file) {
    char *text = malloc((1 << 20) + 1);
    memset(text, 'a', 1 << 20);
    text[1 << 20] = 0;
    json_object_set_new(json_object_get(json_object_get(file, "model"), "vocab"), text,
                        json_integer(256));
    free(text);
}
static void bytes_missing(json_t *file) {
    json_object_set_new(json_object_get(file, "model"), "vocab", json_pack("{s:i}", "ab", 0));
}
static void merge(json_t *file, json_t *steal) {
    json_array_append_new(json_object_get(json_object_get(file, "model"), "merges"), steal);
}
static void merge_unknown_left(json_t *file) {
    merge(file, json_string("qq a"));
}
static void merge_unknown_result(json_t *file) {
    merge(file, json_string("q z"));
}
static void merge_no_space(json_t *file) {
    merge(file, json_string("qz"));
}
static void merge_three(json_t *file) {
    merge(file, json_string("q z x"));
}
static void merge_of_three(json_t *file) {
    merge(file, json_pack("[s,s,s]", "a", "b", "c"));
}
static void merge_number(json_t *file) {
    merge(file, json_integer(3));
}
static void merge_empty_side(json_t *file) {
    merge(file, json_string(" a"));
}
static void merges_object(json_t *file) {
    json_object_set_new(json_object_get(file, "model"), "merges", json_object());
}
static void added_id_twice(json_t *file) {
    add(file, added("<x>", 300, true));
    add(file, added("<y>", 300, true));
}
static void added_empty(json_t *file) {
    add(file, added("", 300, true));
}
static void added_on_other(json_t *file) {
    add(file, added("<x>", 65, true));
}
static void added_no_content(json_t *file) {
    add(file, json_pack("{s:i}", "id", 300));
}
static void added_number(json_t *file) {
    add(file, json_integer(3));
}
static void added_object(json_t *file) {
    json_object_set_new(file, "added_tokens", json_object());
}
static void set(json_t *file, const char *key, json_t *steal) {
    json_object_set_new(file, key, steal);
}
static void set_model(json_t *file, const char *key, json_t *steal) {
    json_object_set_new(json_object_get(file, "model"), key, steal);
}
static void normalizer_precompiled(json_t *file) {
    set(file, "normalizer", json_pack("{s:s}", "type", "Precompiled"));
}
static void no_decoder(json_t *file) {
    set(file, "decoder", json_null());
}
static void decoder_wordpiece(json_t *file) {
    set(file, "decoder", json_pack("{s:s}", "type", "WordPiece"));
}
static void pre_metaspace(json_t *file) {
    set(file, "pre_tokenizer", json_pack("{s:s}", "type", "Metaspace"));
}
static void pre_bad_regex(json_t *file) {
    steps(file, split_by("a(b", "Isolated", false));
}
static void pre_byte_regex(json_t *file) {
    steps(file, split_by("a\\Cb", "Isolated", false));
}
static void pre_long_regex(json_t *file) {
    char *text = malloc(20001);
    memset(text, 'a', 20000);
    text[20000] = 0;
    steps(file, split_by(text, "Isolated", false));
    free(text);
}
static void pre_behavior(json_t *file) {
    steps(file, split_by("a", "Sideways", false));
}
static void pre_many(json_t *file) {
    json_t *list = json_array();
    for (int i = 0; i < 40; i++)
        json_array_append_new(list, split_by("a", "Isolated", false));
    set(file, "pre_tokenizer", json_pack("{s:s, s:o}", "type", "Sequence", "pretokenizers", list));
}
static void pre_two_byte_levels(json_t *file) {
    steps(file, json_pack("{s:s}", "type", "ByteLevel"));
}
static void model_unigram(json_t *file) {
    set_model(file, "type", json_string("Unigram"));
}
static void model_fallback(json_t *file) {
    json_t *vocab = json_object_get(json_object_get(file, "model"), "vocab");
    json_object_del(vocab, "a");
    json_object_set_new(vocab, "<0x61>", json_integer(300));
    set_model(file, "merges", json_array());
    set_model(file, "byte_fallback", json_true());
}
static void model_dropout(json_t *file) {
    set_model(file, "dropout", json_real(0.1));
}
static void model_prefix(json_t *file) {
    set_model(file, "continuing_subword_prefix", json_string("##"));
}
static void model_suffix(json_t *file) {
    set_model(file, "end_of_word_suffix", json_string("</w>"));
}
static void model_no_vocab(json_t *file) {
    set_model(file, "vocab", json_array());
}
static void model_empty_vocab(json_t *file) {
    set_model(file, "vocab", json_object());
}
static void no_model(json_t *file) {
    json_object_del(file, "model");
}

Test(tokenizer, every_malformed_file_is_refused_with_its_name_and_the_reason) {
    const struct {
        void (*spoil)(json_t *file);
        const char *says;
    } rows[] = {
        {id_twice, "two tokens"},
        {id_past_end, "past the model's 400"},
        {id_negative, "not a whole number"},
        {id_text, "not a whole number"},
        {id_fraction, "not a whole number"},
        {empty_token, "0 bytes"},
        {huge_token, "1048576 bytes"},
        {bytes_missing, "no byte has a token"},
        {merge_unknown_left, "merge 1 names a token"},
        {merge_unknown_result, "merge 1 names a token"},
        {merge_no_space, "merge 1 is not a pair"},
        {merge_three, "merge 1 is not a pair"},
        {merge_of_three, "merge 1 is not a pair"},
        {merge_number, "merge 1 is not a pair"},
        {merge_empty_side, "merge 1 is not a pair"},
        {merges_object, "not a list"},
        {added_id_twice, "another token has it"},
        {added_empty, "0 bytes"},
        {added_on_other, "another token has it"},
        {added_no_content, "0 bytes"},
        {added_number, "0 bytes"},
        {added_object, "not a list"},
        {normalizer_precompiled, "normalizer Precompiled"},
        {no_decoder, "decoder null"},
        {decoder_wordpiece, "decoder WordPiece"},
        {pre_metaspace, "Metaspace"},
        {pre_bad_regex, "split pattern"},
        {pre_byte_regex, "split pattern"},
        {pre_long_regex, "longer than 16384 bytes"},
        {pre_behavior, "behavior"},
        {pre_many, "more than 16"},
        {pre_two_byte_levels, "after ByteLevel"},
        {model_unigram, "Unigram"},
        {model_fallback, "byte_fallback"},
        {model_dropout, "dropout"},
        {model_prefix, "continuing_subword_prefix"},
        {model_suffix, "end_of_word_suffix"},
        {model_no_vocab, "vocab"},
        {model_empty_vocab, "empty"},
        {no_model, "no model"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        json_t *file = base_file((const char *[]){"a b"}, 1);
        rows[i].spoil(file);
        tokenizer *tok = NULL;
        err e = {0};
        cr_assert_eq(parse(&tok, file, 400, &e), -1, "row %zu (%s) was accepted", i, rows[i].says);
        cr_assert_null(tok);
        cr_assert_eq(e.code, ERR_BAD_FILE, "row %zu: %s", i, e.msg);
        cr_assert(strstr(e.msg, "tokenizer.json"), "row %zu: %s", i, e.msg);
        cr_assert(strstr(e.msg, rows[i].says), "row %zu: '%s' lacks '%s'", i, e.msg, rows[i].says);
    }
}

Test(tokenizer, text_that_is_no_tokenizer_file_is_refused) {
    const char *rows[] = {"",
                          "{",
                          "[]",
                          "null",
                          "{}",
                          "{\"model\":3}",
                          "{\"model\":{\"vocab\":{\"a\":1,\"a\":2}}}",
                          "{\"a\":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]}",
                          "{\"model\":{\"vocab\":{\"\xff\":0}}}"};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        tokenizer *tok = NULL;
        err e = {0};
        cr_assert_eq(tokenizer_parse(&tok, rows[i], strlen(rows[i]), 400, "f", &e), -1, "row %zu",
                     i);
        cr_assert_eq(e.code, ERR_BAD_FILE, "row %zu: %s", i, e.msg);
        cr_assert_null(tok);
    }
}

Test(tokenizer, a_folder_without_the_file_is_not_found_and_the_demo_opens) {
    tokenizer *tok = NULL;
    err e = {0};
    cr_assert_eq(tokenizer_open(&tok, "tests/unit", 100, &e), -1);
    cr_assert_eq(e.code, ERR_NOT_FOUND);
    e = (err){0};
    cr_assert_eq(tokenizer_open(&tok, "models/demo", 2048, &e), 0, "%s", e.msg);
    cr_assert_eq(tokenizer_size(tok), 2048);
    uint32_t id;
    cr_assert(tokenizer_find(tok, "<|end|>", &id) && id == 2047);
    cr_assert(tokenizer_is_special(tok, 2047) && !tokenizer_is_special(tok, 5));
    cr_assert_not(tokenizer_bos(tok, &id));
    tokenizer_close(tok);
    e = (err){0};
    cr_assert_eq(tokenizer_open(&tok, "models/demo", 1000, &e), -1);
    cr_assert_eq(e.code, ERR_BAD_FILE, "an id past the model's vocabulary");
    tokenizer_close(NULL);
}

/* ---- splitting ---- */

Test(tokenizer, split_behaviours_cut_as_the_reference_documents) {
    const struct {
        const char *regex, *behavior;
        bool invert;
        const char *text, *want;
    } rows[] = {
        {"-", "Isolated", false, "aa-a--a", "aa|-|a|-|-|a"},
        {"-", "Removed", false, "aa-a--a", "aa|a|a"},
        {"-", "MergedWithPrevious", false, "aa-a--a", "aa-|a-|-|a"},
        {"-", "MergedWithPrevious", false, "--a", "-|-|a"},
        {"-", "MergedWithNext", false, "aa-a--a", "aa|-a|-|-a"},
        {"-", "MergedWithNext", false, "a--", "a|-|-"},
        {"-", "Contiguous", false, "aa-a--a", "aa|-|a|--|a"},
        {"a+", "Isolated", true, "aa-a--a", "aa|-|a|--|a"},
        {"a+", "Removed", true, "aa-a--a", "aa|a|a"},
        {"x", "Isolated", false, "aa-a", "aa-a"},
        {"(?=-)", "Isolated", false, "aa-a", "aa|-a"},
        {"$", "Isolated", false, "aa-a", "aa-a"},
    };
    /* Every expected run of 'a' and '-' is one token, so the output shows the cuts. */
    const char *merges[] = {"a a", "- a", "aa -", "a -", "- -", "aa- a", "- aa"};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        json_t *file = base_file(merges, ARRAY_LEN(merges));
        steps(file, split_by(rows[i].regex, rows[i].behavior, rows[i].invert));
        json_object_set_new(json_object_get(file, "model"), "ignore_merges", json_true());
        tokenizer *tok = must_parse(file);
        char got[128];
        encode_n(tok, rows[i].text, strlen(rows[i].text), false, got, sizeof got);
        cr_assert_str_eq(got, rows[i].want, "row %zu: '%s'", i, got);
        tokenizer_close(tok);
    }
}

Test(tokenizer, a_pattern_may_call_white_space_what_unicode_does) {
    json_t *file = base_file(NULL, 0);
    steps(file, split_by("\\s", "Removed", false));
    tokenizer *tok = must_parse(file);
    expect(tok,
           "a\tb\u00a0c\u3000d\xc2\x85"
           "e",
           false, "a|b|c|d|e");
    size_t before = 0;
    token_ids ids = {0};
    err e = {0};
    cr_assert_eq(tokenizer_encode(tok, "\u180e\ufeff", 6, false, 100, &ids, &e), 0);
    cr_assert_eq(ids.n - before, 6, "neither is white space");
    token_ids_deinit(&ids);
    tokenizer_close(tok);
}

/* ---- added tokens ---- */

Test(tokenizer, added_tokens_are_found_leftmost_and_longest) {
    json_t *file = base_file(NULL, 0);
    add(file, added("<|a|>", 300, true));
    add(file, added("<|a|>b", 301, true));
    add(file, added("<t>", 302, false));
    tokenizer *tok = must_parse(file);
    expect(tok, "x<|a|>y", true, "x|<|a|>|y");
    expect(tok, "<|a|>b<|a|>c", true, "<|a|>b|<|a|>|c");
    expect(tok, "<|a<|a|>", true, "<|||a|<|a|>");
    expect(tok, "<t>", false, "<t>");
    expect(tok, "<|a|>", false, "<|||a|||>");
    uint32_t id;
    cr_assert(tokenizer_find(tok, "<|a|>b", &id) && id == 301);
    cr_assert(tokenizer_find(tok, "a", &id) && id == 'a');
    cr_assert_not(tokenizer_find(tok, "<|a", &id));
    cr_assert_not(tokenizer_find(tok, "", &id));
    size_t n;
    cr_assert_null(tokenizer_bytes(tok, 299, &n), "a hole stands for nothing");
    cr_assert_eq(n, 0);
    cr_assert_null(tokenizer_bytes(tok, 5000, &n));
    tokenizer_close(tok);
}

Test(tokenizer, no_text_leads_to_a_special_token_unless_asked) {
    /* Plain text could become the special token in one way: the vocabulary holds it, and whole
     * pieces skip merging. */
    json_t *file = base_file(NULL, 0);
    json_object_set_new(json_object_get(json_object_get(file, "model"), "vocab"), "<end>",
                        json_integer(256));
    json_object_set_new(json_object_get(file, "model"), "ignore_merges", json_true());
    add(file, added("<end>", 256, true));
    tokenizer *tok = must_parse(file);
    expect(tok, "<end>", false, "<|e|n|d|>");
    expect(tok, "<end>", true, "<end>");
    tokenizer_close(tok);
}

Test(tokenizer, strip_flags_take_the_spaces_beside_a_token) {
    json_t *file = base_file(NULL, 0), *left = added("<l>", 300, true),
           *right = added("<r>", 301, true);
    json_object_set_new(left, "lstrip", json_true());
    json_object_set_new(right, "rstrip", json_true());
    add(file, left);
    add(file, right);
    tokenizer *tok = must_parse(file);
    expect(tok, "a \t\u3000<l> b", true, "a|<l>| |b");
    expect(tok, "a <r> \n\u00a0b", true, "a| |<r>|b");
    expect(tok, "<r>  <l>", true, "<r>|<l>");
    expect(tok, "  <l>", true, "<l>");
    tokenizer_close(tok);
}

/* ---- bytes ---- */

Test(tokenizer, bytes_that_are_not_utf8_are_encoded_one_by_one) {
    json_t *file =
        base_file((const char *[]){"a b", "\u00c3 \u00a9"}, 2); /* "ab" and the bytes of é */
    steps(file, split_by("\\p{L}+", "Isolated", false));
    tokenizer *tok = must_parse(file);
    const struct {
        const char *text;
        size_t n, ids;
    } rows[] = {
        {"ab\xff"
         "ab",
         5, 3},
        {"\xc3\xa9", 2, 1},
        {"\xc3", 1, 1},
        {"\xc3"
         "ab",
         3, 2},
        {"\xed\xa0\x80", 3, 3},
        {"\xf4\x90\x80\x80", 4, 4},
        {"\xe0\x80\x80", 3, 3},
        {"\xc0\x80", 2, 2},
        {"a\0b", 3, 3},
        {"\xf0\x9f\x98", 3, 3},
        {"\x80\x80\x80\x80", 4, 4},
        {"", 0, 0},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        token_ids ids = {0};
        err e = {0};
        char *exact = malloc(rows[i].n + 1); /* no end mark: a sanitizer sees an over-read */
        memcpy(exact, rows[i].text, rows[i].n);
        exact = realloc(exact, rows[i].n ? rows[i].n : 1);
        cr_assert_eq(tokenizer_encode(tok, exact, rows[i].n, true, 100, &ids, &e), 0, "row %zu: %s",
                     i, e.msg);
        cr_assert_eq(ids.n, rows[i].ids, "row %zu: %zu ids", i, ids.n);
        buf back = {0};
        for (size_t k = 0; k < ids.n; k++) {
            size_t n;
            const char *bytes = tokenizer_bytes(tok, ids.data[k], &n);
            buf_append(&back, bytes, n);
        }
        cr_assert(back.len == rows[i].n &&
                      (back.len == 0 || memcmp(back.data, exact, back.len) == 0),
                  "row %zu", i);
        buf_deinit(&back);
        token_ids_deinit(&ids);
        free(exact);
    }
    tokenizer_close(tok);
}

Test(tokenizer, a_missing_byte_becomes_the_unknown_token) {
    for (int fuse = 0; fuse < 2; fuse++) {
        json_t *file = base_file(NULL, 0), *model = json_object_get(file, "model");
        json_object_del(json_object_get(model, "vocab"), "z");
        json_object_set_new(json_object_get(model, "vocab"), "<unk>", json_integer(300));
        json_object_set_new(model, "unk_token", json_string("<unk>"));
        json_object_set_new(model, "fuse_unk", json_boolean(fuse));
        tokenizer *tok = must_parse(file);
        expect(tok, "azzb", false, fuse ? "a|<unk>|b" : "a|<unk>|<unk>|b");
        tokenizer_close(tok);
    }
}

Test(tokenizer, more_ids_than_allowed_is_an_error_and_keeps_what_was_there) {
    tokenizer *tok = must_parse(base_file(NULL, 0));
    token_ids ids = {0};
    err e = {0};
    cr_assert_eq(tokenizer_encode(tok, "abcd", 4, false, 4, &ids, &e), 0);
    cr_assert_eq(tokenizer_encode(tok, "abcde", 5, false, 4, &ids, &e), -1);
    cr_assert_eq(e.code, ERR_TOO_LONG);
    cr_assert(ids.n >= 4 && ids.data[3] == 'd');
    token_ids_deinit(&ids);
    tokenizer_close(tok);
}

Test(tokenizer, nothing_is_normalised_and_every_text_comes_back) {
    tokenizer *tok = NULL;
    err e = {0};
    cr_assert_eq(tokenizer_open(&tok, "models/demo", 2048, &e), 0, "%s", e.msg);
    buf joiners = {0};
    for (int i = 0; i < 10000; i++)
        buf_puts(&joiners, "\u200d");
    const char *rows[] = {
        "e\u0301 and \u00e9", "\u202eright to left\u202c \u200f", "\ufb01 \u2126 \u212b",
        joiners.data,         "tab\tcr\r\nnl\n\u2028\xc2\x85",    "\x01\x02\x7f"};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        token_ids ids = {0};
        buf back = {0};
        size_t n = strlen(rows[i]), len;
        cr_assert_eq(tokenizer_encode(tok, rows[i], n, true, SIZE_MAX, &ids, &e), 0);
        for (size_t k = 0; k < ids.n; k++) {
            const char *bytes = tokenizer_bytes(tok, ids.data[k], &len);
            buf_append(&back, bytes, len);
        }
        cr_assert(back.len == n && memcmp(back.data, rows[i], n) == 0, "row %zu", i);
        buf_deinit(&back);
        token_ids_deinit(&ids);
    }
    buf_deinit(&joiners);
    tokenizer_close(tok);
}

/* ---- merging ---- */

/* The definition, word for word: merge the pair of lowest rank, the leftmost of equals. */
static size_t merge_plainly(const tokenizer *tok, const char *text, size_t n, uint32_t *ids) {
    for (size_t i = 0; i < n; i++)
        ids[i] = (unsigned char)text[i];
    for (;;) {
        uint64_t best = MAP_NONE;
        size_t at = 0;
        for (size_t i = 0; i + 1 < n; i++) {
            uint64_t found = map_get(&tok->merges, (uint64_t)ids[i] << 32 | ids[i + 1]);
            if (found >= best) continue;
            best = found;
            at = i;
        }
        if (best == MAP_NONE) return n;
        ids[at] = (uint32_t)best;
        memmove(ids + at + 1, ids + at + 2, (n - at - 2) * sizeof *ids);
        n--;
    }
}

Test(tokenizer, merging_follows_the_definition_at_every_length) {
    uint64_t state = 7;
    for (int round = 0; round < 30; round++) {
        char merges[60][64];
        const char *list[60];
        char words[64][32] = {"a", "b", "c"};
        size_t n_words = 3, n = 0;
        while (n < 60) { /* random tokens of a, b, c, each from two earlier ones */
            state = state * 6364136223846793005u + 1442695040888963407u;
            const char *x = words[(state >> 33) % n_words], *y = words[(state >> 45) % n_words];
            if (strlen(x) + strlen(y) > 24 || n_words == 64) break;
            (void)snprintf(merges[n], sizeof merges[n], "%s %s", x, y);
            (void)snprintf(words[n_words++], sizeof words[0], "%s%s", x, y);
            list[n] = merges[n];
            n++;
        }
        tokenizer *tok = must_parse(base_file(list, n));
        for (size_t len = 0; len < 400; len = len < 60 ? len + 1 : len + 37) {
            char text[400];
            uint32_t want[400];
            for (size_t i = 0; i < len; i++) {
                state = state * 6364136223846793005u + 1442695040888963407u;
                text[i] = (char)('a' + (state >> 40) % 3);
            }
            size_t n_want = merge_plainly(tok, text, len, want);
            for (int again = 0; again < 2; again++) { /* the second time with cached facts */
                token_ids ids = {0};
                err e = {0};
                cr_assert_eq(tokenizer_encode(tok, text, len, false, 1000, &ids, &e), 0);
                cr_assert_eq(ids.n, n_want, "round %d length %zu: %zu, not %zu", round, len, ids.n,
                             n_want);
                cr_assert(len == 0 || memcmp(ids.data, want, n_want * sizeof *want) == 0,
                          "round %d length %zu", round, len);
                token_ids_deinit(&ids);
            }
            uint32_t piece[TOKENIZER_PIECE];
            size_t n_merged = tokenizer_merge(tok, text, len, piece);
            cr_assert_eq(n_merged, len > TOKENIZER_PIECE ? 0 : n_want, "a piece of %zu", len);
            cr_assert(n_merged == 0 || memcmp(piece, want, n_want * sizeof *want) == 0);
        }
        tokenizer_close(tok);
    }
}

Test(tokenizer, two_megabytes_of_one_kind_take_n_log_n_steps) {
    const char *merges[] = {
        "a a", "aa aa", "aaaa aaaa", "a b", "ab ab", "\u0120 \u0120", "\u0120\u0120 \u0120\u0120"};
    json_t *file = base_file(merges, ARRAY_LEN(merges));
    tokenizer *tok = must_parse(file);
    const size_t n = 2 << 20;
    char *text = malloc(n);
    for (int kind = 0; kind < 3; kind++) {
        for (size_t i = 0; i < n; i++)
            text[i] = kind == 0 ? 'a' : kind == 1 ? ' ' : "ab"[i & 1];
        token_ids ids = {0};
        err e = {0};
        clock_t start = clock(); /* CPU time: quadratic steps would take hours */
        cr_assert_eq(tokenizer_encode(tok, text, n, false, SIZE_MAX, &ids, &e), 0);
        cr_assert_lt(clock() - start, 60 * CLOCKS_PER_SEC, "kind %d", kind);
        cr_assert_eq(ids.n, kind == 0 ? n / 8 : n / 4, "kind %d: %zu", kind, ids.n);
        token_ids_deinit(&ids);
    }
    free(text);
    tokenizer_close(tok);
}

Test(tokenizer, a_pattern_that_backtracks_for_ever_ends_the_call_only) {
    json_t *file = base_file(NULL, 0);
    steps(file, split_by("(?:(?:a+)+)+[bc]", "Isolated", false));
    tokenizer *tok = must_parse(file);
    char text[64];
    memset(text, 'a', sizeof text);
    token_ids ids = {0};
    err e = {0};
    cr_assert_eq(tokenizer_encode(tok, text, sizeof text, false, 1000, &ids, &e), -1);
    cr_assert_eq(e.code, ERR_BAD_PARAM, "%s", e.msg);
    token_ids_deinit(&ids);
    expect(tok, "aab-", false, "a|a|b|-");
    tokenizer_close(tok);
}

/* A search runs in windows. A window may end inside a character; the matches stay the same. */
Test(tokenizer, a_match_far_behind_the_last_one_is_found_and_sees_what_stands_before_it) {
    for (size_t n = 1; n < 3000; n = n * 3 + n % 2) {
        json_t *file = base_file(NULL, 0);
        steps(file, split_by("(?<=\xc3\xa9)x|(?<=\\Aaa)x", "Removed", false));
        tokenizer *tok = must_parse(file);
        buf text = {0};
        buf_puts(&text, "aaxax");
        for (size_t i = 0; i < n; i++)
            buf_puts(&text, "\xc3\xa9");
        buf_puts(&text, "xax");
        token_ids ids = {0};
        err e = {0};
        cr_assert_eq(tokenizer_encode(tok, text.data, text.len, false, SIZE_MAX, &ids, &e), 0);
        cr_expect_eq(ids.n, text.len - 2, "%zu letters: %zu of %zu bytes are left", n, ids.n,
                     text.len);
        cr_expect_eq(ids.data[ids.n - 1], (uint32_t)'x');
        token_ids_deinit(&ids);
        buf_deinit(&text);
        tokenizer_close(tok);
    }
}

Test(tokenizer, encoding_ends_early_when_cancelled) {
    static const char *const merges[] = {"a a"};
    tokenizer *tok = must_parse(base_file(merges, 1));
    atomic_bool flag = true;
    buf text = {0};
    for (int i = 0; i < 100000; i++)
        buf_puts(&text, "a");
    for (int k = 0; k < 2; k++) {
        token_ids ids = {0};
        err e = {0};
        atomic_store(&flag, k == 0);
        cancel_watch(&flag);
        int rc = tokenizer_encode(tok, text.data, text.len, false, SIZE_MAX, &ids, &e);
        cancel_watch(NULL);
        cr_expect_eq(rc, k == 0 ? -1 : 0);
        cr_expect_eq(e.code, k == 0 ? ERR_CANCELLED : ERR_NONE, "%s", e.msg);
        token_ids_deinit(&ids);
    }
    buf_deinit(&text);
    tokenizer_close(tok);
}
