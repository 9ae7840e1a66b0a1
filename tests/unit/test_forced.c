/* test_forced.c - the tokens that a schema forces, row by row, and how an answer's own blanks are
 * followed. That the masks behind them are exact is in tests/property/constrain.c. */
#include "api/grammar/forced_internal.h"
#include "tests/lib/grammar.h"
#include "tests/lib/testlib.h"
#include "tests/lib/tokens.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

TestSuite(forced, .fini = fail_on_leaks, .timeout = HANGS_S);

/* ---- an answer so far, and the tokens expected behind it ---- */

typedef struct {
    tokenizer *tok;
    api__vocab *vocab;
    uint32_t stop;
} words;

static void open_model(words *all, const char *dir, uint32_t vocab) {
    err e = {0};
    *all = (words){.stop = vocab - 1};
    cr_assert_eq(tokenizer_open(&all->tok, dir, vocab, &e), 0, "%s", e.msg);
    cr_assert_eq(api__vocab_open(&all->vocab, all->tok, vocab, &e), 0);
}

static void open_json(words *all, const buf *json, uint32_t vocab) {
    err e = {0};
    *all = (words){.stop = vocab - 1};
    cr_assert_eq(tokenizer_parse(&all->tok, json->data, json->len, vocab, "test", &e), 0, "%s",
                 e.msg);
    cr_assert_eq(api__vocab_open(&all->vocab, all->tok, vocab, &e), 0);
}

static void close_words(words *all) {
    api__vocab_close(all->vocab);
    tokenizer_close(all->tok);
}

/* The bytes, and some pieces as trained vocabularies have them. */
static void open_pieces(words *all) {
    static const char *const pieces[] = {
        "{\\\"",        "\\\":", "\u0120\\\"", "\u0120{\\\"",
        "\\\",",        "name",  "age",        "\u0120\\\"a",
        "\u01201",      "red",   "\\\"}",      "},",
        "city",         "tr",    "true",       "\u010a\u0120\u0120",
        "\u0120\u0120",
    };
    buf json = {0};
    uint32_t id = 256;
    buf_puts(&json, "{\"added_tokens\":[{\"id\":299,\"content\":\"<|end|>\",\"special\":true}],"
                    "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
                    "\"use_regex\":true},\"decoder\":{\"type\":\"ByteLevel\"},"
                    "\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":{");
    put_byte_vocabulary(&json, 0);
    for (size_t i = 0; i < ARRAY_LEN(pieces); i++)
        buf_printf(&json, ",\"%s\":%u", pieces[i], id++);
    buf_puts(&json, "}}}");
    open_json(all, &json, 300);
    buf_deinit(&json);
}

/* Takes the text in the longest tokens; appends the expected tokens, separated by '|'. */
static void expect_behind(const words *all, const api__grammar *grammar, const char *text,
                          buf *out) {
    api__workspace *work = NULL;
    api__constraint *constr = NULL;
    const uint32_t *tokens;
    err e = {0};
    cr_assert_eq(api__workspace_create(&work, grammar, all->vocab, &all->stop, 1, &e), 0);
    cr_assert_eq(api__constraint_create(&constr, work, &e), 0);
    token_ids ids = {0};
    cr_assert_eq(tokenizer_encode(all->tok, text, strlen(text), false, SIZE_MAX, &ids, &e), 0);
    for (size_t i = 0; i < ids.n; i++)
        cr_assert(api__constraint_take(constr, ids.data[i]), "token %zu of '%s'", i, text);
    cr_assert_eq(api__constraint_make(constr), ERR_NONE);
    uint32_t n = api__constraint_expected(constr, &tokens);
    for (uint32_t i = 0; i < n; i++) {
        size_t len;
        const char *bytes = tokenizer_bytes(all->tok, tokens[i], &len);
        if (i) buf_puts(out, "|");
        buf_append(out, bytes, len);
    }
    buf_puts(out, "");
    token_ids_deinit(&ids);
    api__constraint_destroy(constr);
    api__workspace_destroy(work);
}

typedef struct {
    const char *schema, *text, *want;
} row;

static void check_rows(const words *all, const row *rows, size_t n) {
    for (size_t i = 0; i < n; i++) {
        err e = {0};
        buf got = {0};
        api__grammar *grammar = grammar_compile(rows[i].schema, false, &e);
        cr_assert(grammar, "%s", e.msg);
        expect_behind(all, grammar, rows[i].text, &got);
        const char *text = got.data ? got.data : "";
        cr_expect_str_eq(text, rows[i].want, "row %zu: behind '%s': '%s', not '%s'", i,
                         rows[i].text, text, rows[i].want);
        buf_deinit(&got);
        api__grammar_free(grammar);
    }
}

static void check_pieces(const row *rows, size_t n) {
    words all;
    open_pieces(&all);
    check_rows(&all, rows, n);
    close_words(&all);
}

#define STRING "{\"type\":\"string\"}"
#define PERSON                                                                                     \
    "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\"},\"age\":{\"type\":"       \
    "\"integer\"}},\"required\":[\"name\",\"age\"]}"

/* Only `name` and `age`, both needed: everything but their values follows. */
Test(forced, keys_colons_and_closing_braces_are_expected_with_the_blanks_of_the_answer_so_far) {
    static const row rows[] = {
        {PERSON, "", "{\"|name|\":| \""},
        {PERSON, "{\"name", "\":| \""},
        {PERSON, "{\"name\": \"x", ""},
        {PERSON, "{\"name\": \"x\"",
         ",| \"a|g|e|\":| "},                         /* the longest: models may cut otherwise */
        {PERSON, "{\"name\":\"x\",", " \"a|g|e|\":"}, /* no blank behind a colon, as before */
        {PERSON, "{\"name\":\"x\",\"age", "\":"},
        {PERSON, "{\"name\": \"x\", \"age\": 3", ""},
        {PERSON, "{\n  \"name\"", ":| \""},
        {PERSON, "{\n  \"name\": \"x\"", ",|\n  |\"|age|\":| "},
        {PERSON, "{\n \"name\": \"x\"", ",|\n| \"a|g|e|\":| "},
        {PERSON, "{\n\t\"name\": \"x\"", ",|\n|\t|\"|age|\":| "},
        {PERSON, "{\n  \"name\": \"x\",\n  \"age\": 3\n", "}"},
        {"{\"properties\":{\"a\":{\"const\":1}},\"required\":[\"a\"]}", "", "{\"|a|\":| 1|}"},
        {"{\"properties\":{\"a\":{\"const\":1}},\"required\":[\"a\"]}", "{\"a\":", " 1|}"},
        {"{\"properties\":{\"a\":{\"const\":1}},\"required\":[\"a\"]}", "{ \"a\":1", " |}"},
        {"{\"properties\":{\"a\":{\"const\":1}},\"required\":[\"a\"]}", "{\n  \"a\": 1", "\n|}"},
    };
    check_pieces(rows, ARRAY_LEN(rows));
}

Test(forced, nothing_is_expected_where_the_text_may_go_on_in_several_ways) {
    static const row rows[] = {
        {NULL, "", "{"}, /* then a key or the end */
        {NULL, "{", ""},
        {"{\"type\":\"string\"}", "", "\""},
        {"{\"type\":\"string\"}", "\"abc", ""},
        {"{\"type\":\"string\",\"maxLength\":3}", "\"abc", "\""},
        {"{\"type\":\"integer\"}", "", ""},
        {"{\"type\":\"boolean\"}", "", ""},
        {"{\"type\":\"boolean\"}", "t", "r|u|e"},
        {"{\"enum\":[\"red\",\"rose\"]}", "", "\""}, /* r begins a longer token */
        {"{\"enum\":[\"red\",\"rose\"]}", "\"ro", "s|e|\""},
        {"{\"enum\":[1,12]}", "1", ""},
        {"{\"properties\":{\"name\":{},\"age\":{}},\"required\":[]}", "{\"", ""},
        {"{\"properties\":{\"name\":{},\"age\":{}},\"required\":[\"age\"]}", "{\"", ""},
        {"{\"properties\":{\"name\":{},\"age\":{}},\"required\":[\"name\"]}", "{\"", "name|\":| "},
        {"{\"properties\":{\"name\":{}},\"required\":[\"name\"],\"additionalProperties\":{}}",
         "{\"name\":1,", " \""},
        {"{\"properties\":{\"first name\":{\"const\":0}},\"required\":[\"first name\"]}",
         "{\"first", " |name|\":| |0|}"},
        {"{\"type\":\"array\",\"items\":{\"const\":1},\"minItems\":3,\"maxItems\":3}", "",
         "[|1|,| 1|,| 1|]"},
        {"{\"type\":\"array\",\"items\":{\"const\":1},\"minItems\":1,\"maxItems\":2}", "[1", ""},
        {"{\"anyOf\":[{\"const\":\"name\"},{\"const\":\"nama\"}]}", "\"", "n|a|m"},
        {"{\"properties\":{\"\u00e9\":{}},\"required\":[\"\u00e9\"]}", "{", "\"|\xc3|\xa9|\":| "},
        {"{\"const\":1}", "1", ""},
    };
    check_pieces(rows, ARRAY_LEN(rows));
}

Test(forced, the_bundled_vocabularies_spell_keys_too) {
    static const row demo[] = {
        {PERSON, "", "{|\"|n|ame|\"|:| |\""},
        {PERSON, "{\"name\": \"x\"", ",| |\"|age|\"|:| "},
        {PERSON, "{\"name\": \"x", ""},
    };
    static const row hops[] = {
        {PERSON, "", "{|\"|n|am|e|\"|:| "},
    };
    words all;
    open_model(&all, "models/demo", 2048);
    check_rows(&all, demo, ARRAY_LEN(demo));
    close_words(&all);
    open_model(&all, "models/hops", 352);
    check_rows(&all, hops, ARRAY_LEN(hops));
    close_words(&all);
}

/* The first expected tokens of a key and the signs behind it, against the tokenizer's own cut. */
static void check_key(const words *all, const char *key) {
    char schema[200], text[100];
    buf got = {0}, want = {0};
    err e = {0};
    (void)snprintf(schema, sizeof schema,
                   "{\"properties\":{\"%s\":" STRING "},\"required\":[\"%s\"]}", key, key);
    (void)snprintf(text, sizeof text, "{\"%s\": \"", key);
    api__grammar *grammar = grammar_compile(schema, false, &e);
    expect_behind(all, grammar, "", &got);
    put_pieces(&want, all->tok, text, strlen(text), false);
    cr_expect(got.len > 0 && strncmp(got.data, want.data, got.len) == 0, "'%s' and not '%s'",
              got.data, want.data);
    buf_deinit(&got);
    buf_deinit(&want);
    api__grammar_free(grammar);
}

Test(forced, keys_are_cut_as_the_tokenizer_cuts_them) {
    static const char *const keys[] = {"name",
                                       "customer_full_name",
                                       "shipping_address_line_1",
                                       "is_recurring_customer",
                                       "TotalAmountBeforeTax",
                                       "a",
                                       "_id",
                                       "straße"};
    words all;
    open_model(&all, "models/demo", 2048);
    for (size_t i = 0; i < ARRAY_LEN(keys); i++)
        check_key(&all, keys[i]);
    close_words(&all);
    open_model(&all, "models/hops", 352);
    for (size_t i = 0; i < ARRAY_LEN(keys); i++)
        check_key(&all, keys[i]);
    close_words(&all);
}

/* Its spaces are U+2581, and `{` has a byte token besides. */
Test(forced, a_sign_is_preferred_to_the_byte_token_of_equal_text) {
    buf json = {0};
    words all;
    buf_puts(&json, "{\"added_tokens\":[{\"id\":31,\"content\":\"</s>\",\"special\":true}],"
                    "\"normalizer\":{\"type\":\"Prepend\",\"prepend\":\"\u2581\"},"
                    "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\","
                    "\"pattern\":{\"String\":\"\u2581\"},\"content\":\" \"},{\"type\":"
                    "\"ByteFallback\"},{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\" \","
                    "\"start\":1,\"stop\":0}]},\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,"
                    "\"merges\":[],\"vocab\":{\"<0x7B>\":0,\"<0x22>\":1,\"{\":2,\"\\\"\":3,\"a\":4,"
                    "\"\\\":\":5,\"\u25811\":6,\"}\":7,\"\u2581\":8}}}");
    open_json(&all, &json, 32);
    api__workspace *work = NULL;
    api__constraint *constr = NULL;
    const uint32_t *tokens, want[] = {2, 3, 4, 5, 6, 7};
    err e = {0};
    api__grammar *grammar =
        grammar_compile("{\"properties\":{\"a\":{\"const\":1}},\"required\":[\"a\"]}", false, &e);
    cr_assert_eq(api__workspace_create(&work, grammar, all.vocab, &all.stop, 1, &e), 0);
    cr_assert_eq(api__constraint_create(&constr, work, &e), 0);
    cr_assert_eq(api__constraint_make(constr), ERR_NONE);
    uint32_t n = api__constraint_expected(constr, &tokens);
    cr_assert_eq(n, ARRAY_LEN(want));
    cr_assert_arr_eq(tokens, want, sizeof want);
    api__constraint_destroy(constr);
    api__workspace_destroy(work);
    api__grammar_free(grammar);
    close_words(&all);
    buf_deinit(&json);
}

/* ---- the life of a run ---- */

Test(forced, a_run_is_used_up_token_by_token_and_lost_by_another_one) {
    words all;
    err e = {0};
    const uint32_t *tokens;
    open_pieces(&all);
    api__grammar *grammar = grammar_compile(PERSON, false, &e);
    api__workspace *work = NULL;
    api__constraint *constr = NULL;
    cr_assert_eq(api__workspace_create(&work, grammar, all.vocab, &all.stop, 1, &e), 0);
    cr_assert_eq(api__constraint_create(&constr, work, &e), 0);
    cr_assert_eq(api__constraint_expected(constr, &tokens), 0, "nothing before a mask is made");
    cr_assert_eq(api__constraint_make(constr), ERR_NONE);
    for (uint32_t left = api__constraint_expected(constr, &tokens); left > 0; left--) {
        cr_assert_eq(api__constraint_expected(constr, &tokens), left);
        cr_assert_not(api__constraint_take(constr, '!'));
        cr_assert_eq(api__constraint_expected(constr, &tokens), left,
                     "nothing changes by a refusal");
        cr_assert(api__constraint_take(constr, tokens[0]));
    }
    cr_assert_eq(api__constraint_expected(constr, &tokens), 0);
    cr_assert_eq(api__constraint_make(constr), ERR_NONE);
    cr_assert(api__constraint_take(constr, '"'), "the end of the name");
    cr_assert_eq(api__constraint_make(constr), ERR_NONE);
    cr_assert_gt(api__constraint_expected(constr, &tokens), 2);
    cr_assert(api__constraint_take(constr, ','));
    cr_assert(api__constraint_take(constr, '"'), "not the one with a blank");
    cr_assert_eq(api__constraint_expected(constr, &tokens), 0);
    api__constraint_destroy(constr);
    api__workspace_destroy(work);
    api__grammar_free(grammar);
    close_words(&all);
}

Test(forced, it_costs_little_where_nothing_is_forced) {
    words all;
    err e = {0};
    open_model(&all, "models/demo", 2048);
    api__grammar *grammar = grammar_compile("{\"type\":\"string\"}", false, &e);
    api__workspace *work = NULL;
    api__constraint *constr = NULL;
    cr_assert_eq(api__workspace_create(&work, grammar, all.vocab, &all.stop, 1, &e), 0);
    cr_assert_eq(api__constraint_create(&constr, work, &e), 0);
    uint32_t quote, letter;
    cr_assert(tokenizer_find(all.tok, "\"", &quote) && tokenizer_find(all.tok, "e", &letter));
    cr_assert(api__constraint_take(constr, quote) && api__constraint_take(constr, letter));
    cr_assert_eq(api__constraint_make(constr), ERR_NONE);
    cr_assert(api__constraint_take(constr, letter));
    cr_assert_eq(api__constraint_make(constr), ERR_NONE);
    cr_assert_leq(api__constraint_fuel(constr), 10, "the mask is kept, and the rest is free");
    api__constraint_destroy(constr);
    api__workspace_destroy(work);
    api__grammar_free(grammar);
    close_words(&all);
}
