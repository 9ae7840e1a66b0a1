/* test_constrain.c - the edges of the schema subset and of the automaton, row by row.
 * Random schemas are in tests/property/constrain.c. */
#include "api/grammar/constrain_internal.h"
#include "tests/lib/grammar.h"
#include "tests/lib/testlib.h"
#include "tests/lib/tokens.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

TestSuite(constrain, .fini = fail_on_leaks, .timeout = HANGS_S);

static api__grammar *compile(const char *text, err *e) {
    return grammar_compile(text, false, e);
}

Test(constrain, texts_are_whole_begun_or_refused) {
    const struct {
        const char *schema, *text;
        int want;
    } rows[] = {
        /* any object */
        {NULL, "{}", 1},
        {NULL, "{\"a\":[1,{\"b\":null}], \"c\": \"\\u00e9\\ud83d\\ude00\"}", 1},
        {NULL, "{\"a\":1", 0},
        {NULL, "[", -1},
        {NULL, " {", -1},
        {NULL, "{} ", -1},
        {NULL, "{,", -1},
        {NULL, "{\"a\":1,}", -1},
        {NULL, "{\"a\" :1}", -1},
        {NULL, "{\"a\":1 ,\"b\":2}", -1},
        {NULL, "{\n\t\t\"a\": 1\n}", 1},
        {NULL, "{\"a\":1}{", -1},
        /* strings */
        {"{\"type\":\"string\"}", "\"plain\"", 1},
        {"{\"type\":\"string\"}", "\"line\nbreak\"", -1},
        {"{\"type\":\"string\"}", "\"\\q\"", -1},
        {"{\"type\":\"string\"}", "\"\\u12g4\"", -1},
        {"{\"type\":\"string\"}", "\"\\u0000\"", -1},
        {"{\"type\":\"string\"}", "\"\\ud800x", -1},
        {"{\"type\":\"string\"}", "\"\\ud800\\u0041", -1},
        {"{\"type\":\"string\"}", "\"\\udc00", -1},
        {"{\"type\":\"string\"}", "\"\\ud83d\\ude00\"", 1},
        {"{\"type\":\"string\"}", "\"\xff", -1},
        {"{\"type\":\"string\"}", "\"\xc0\x80", -1},
        {"{\"type\":\"string\"}", "\"\xed\xa0", -1},
        {"{\"type\":\"string\"}", "\"\xf4\x90", -1},
        {"{\"type\":\"string\"}", "\"\xe2\x82\xac\"", 1},
        {"{\"type\":\"string\"}", "\"\xe2\x82\"", -1},
        {"{\"type\":\"string\",\"maxLength\":2}", "\"é日\"", 1},
        {"{\"type\":\"string\",\"maxLength\":2}", "\"abc", -1},
        {"{\"type\":\"string\",\"maxLength\":1}", "\"\\ud83d\\ude00\"", 1},
        {"{\"type\":\"string\",\"minLength\":2}", "\"a\"", -1},
        {"{\"type\":\"string\",\"minLength\":2}", "\"a\\n\"", 1},
        {"{\"minLength\":1}", "1", -1},
        /* numbers */
        {"{\"type\":\"number\"}", "0", 1},
        {"{\"type\":\"number\"}", "-0.5e+10", 1},
        {"{\"type\":\"number\"}", "01", -1},
        {"{\"type\":\"number\"}", "1.", 0},
        {"{\"type\":\"number\"}", "1.e", -1},
        {"{\"type\":\"number\"}", "1e", 0},
        {"{\"type\":\"number\"}", "1e123", -1},
        {"{\"type\":\"number\"}", "+1", -1},
        {"{\"type\":\"number\"}", ".5", -1},
        {"{\"type\":\"number\"}", "123456789012345", 1},
        {"{\"type\":\"number\"}", "1234567890123456", -1},
        {"{\"type\":\"integer\"}", "-12", 1},
        {"{\"type\":\"integer\"}", "-0", -1},
        {"{\"type\":\"integer\"}", "1.0", -1},
        {"{\"type\":\"integer\"}", "1e2", -1},
        {"{\"type\":\"integer\",\"minimum\":10,\"maximum\":120}", "9", 0},
        {"{\"type\":\"integer\",\"minimum\":10,\"maximum\":120}", "99", 1},
        {"{\"type\":\"integer\",\"minimum\":10,\"maximum\":120}", "120", 1},
        {"{\"type\":\"integer\",\"minimum\":10,\"maximum\":120}", "121", -1},
        {"{\"type\":\"integer\",\"minimum\":10,\"maximum\":120}", "0", -1},
        {"{\"type\":\"integer\",\"minimum\":10,\"maximum\":120}", "-", -1},
        {"{\"type\":\"integer\",\"exclusiveMinimum\":-1,\"exclusiveMaximum\":1}", "0", 1},
        {"{\"type\":\"integer\",\"exclusiveMinimum\":-1,\"exclusiveMaximum\":1}", "1", -1},
        {"{\"type\":\"integer\",\"minimum\":-20,\"maximum\":-5}", "-5", 1},
        {"{\"type\":\"integer\",\"minimum\":-20,\"maximum\":-5}", "-4", -1},
        {"{\"type\":\"integer\",\"minimum\":-20,\"maximum\":-5}", "-3", -1},
        {"{\"type\":\"integer\",\"minimum\":-20,\"maximum\":-5}", "-1", 0},
        {"{\"minimum\":5}", "7", 1},
        /* enum, const, several types */
        {"{\"enum\":[1,12,\"a\",null]}", "1", 1},
        {"{\"enum\":[1,12,\"a\",null]}", "12", 1},
        {"{\"enum\":[1,12,\"a\",null]}", "13", -1},
        {"{\"enum\":[1,\"1\"],\"type\":\"string\"}", "1", -1},
        {"{\"type\":\"array\",\"items\":{\"enum\":[1,12]}}", "[1,12,1]", 1},
        {"{\"const\":{\"a\":[1,2]}}", "{\"a\":[1,2]}", 1},
        {"{\"const\":{\"a\":[1,2]}}", "{\"a\": [1,2]}", -1},
        {"{\"type\":[\"string\",\"null\"]}", "null", 1},
        {"{\"type\":[\"string\",\"null\"]}", "nul", 0},
        {"{\"type\":[\"string\",\"null\"]}", "1", -1},
        {"{\"type\":[\"integer\",\"number\"]}", "1.5", 1},
        {"true", "[{}]", 1},
        {"{\"title\":\"anything\"}", "[{}]", 1},
        /* objects */
        {"{\"properties\":{\"a\":{},\"b\":{}},\"required\":[\"b\"]}", "{\"b\":1}", 1},
        {"{\"properties\":{\"a\":{},\"b\":{}},\"required\":[\"b\"]}", "{\"a\":1}", -1},
        {"{\"properties\":{\"a\":{},\"b\":{}},\"required\":[\"b\"]}", "{\"b\":1,\"a\":1}", -1},
        {"{\"properties\":{\"a\":{},\"b\":{}},\"required\":[\"b\"]}", "{\"c", -1},
        {"{\"properties\":{\"a\":{},\"ab\":{}}}", "{\"ab\":1}", 1},
        {"{\"properties\":{\"a\":{},\"ab\":{}}}", "{\"a\":1,\"ab\":2}", 1},
        {"{\"properties\":{\"a\":{\"type\":\"null\"}},\"additionalProperties\":{\"type\":"
         "\"integer\"}}",
         "{\"a\":null,\"ab\":2}", 1},
        {"{\"properties\":{\"a\":{\"type\":\"null\"}},\"additionalProperties\":{\"type\":"
         "\"integer\"}}",
         "{\"b\":2,\"a\":", -1},
        {"{\"properties\":{\"a\":{\"type\":\"null\"}},\"additionalProperties\":{\"type\":"
         "\"integer\"}}",
         "{\"a\":1", -1},
        {"{\"properties\":{},\"type\":\"object\"}", "{\"", -1},
        {"{\"type\":\"object\",\"required\":[\"x\",\"x\"]}", "{\"x\":1}", 1},
        {"{\"type\":\"object\",\"required\":[\"x\"]}", "{\"y", -1},
        {"{\"properties\":{\"q\\\"\":{}},\"required\":[\"q\\\"\"]}", "{\"q\\\"\":1}", 1},
        /* arrays */
        {"{\"type\":\"array\",\"minItems\":1,\"maxItems\":2}", "[]", -1},
        {"{\"type\":\"array\",\"minItems\":1,\"maxItems\":2}", "[ 1, 2 ]", 1},
        {"{\"type\":\"array\",\"minItems\":1,\"maxItems\":2}", "[1,2,", -1},
        {"{\"type\":\"array\",\"minItems\":2}", "[1 ", -1},
        {"{\"prefixItems\":[{\"const\":1},{\"const\":2}],\"items\":false}", "[1,2]", 1},
        {"{\"prefixItems\":[{\"const\":1},{\"const\":2}],\"items\":false}", "[1,2,", -1},
        {"{\"prefixItems\":[{\"const\":1}],\"items\":{\"const\":3}}", "[1,3,3]", 1},
        /* references and alternatives */
        {"{\"anyOf\":[{\"type\":\"object\",\"properties\":{\"k\":{\"const\":1},\"x\":{}},"
         "\"required\":[\"k\",\"x\"]},"
         "{\"type\":\"object\",\"properties\":{\"k\":{\"const\":2},\"y\":{}},\"required\":[\"k\","
         "\"y\"]}]}",
         "{\"k\":2,\"y\":0}", 1},
        {"{\"anyOf\":[{\"type\":\"object\",\"properties\":{\"k\":{\"const\":1},\"x\":{}},"
         "\"required\":[\"k\",\"x\"]},"
         "{\"type\":\"object\",\"properties\":{\"k\":{\"const\":2},\"y\":{}},\"required\":[\"k\","
         "\"y\"]}]}",
         "{\"k\":2,\"x", -1},
        {"{\"anyOf\":[{\"anyOf\":[{\"const\":1},{\"$ref\":\"#\"}]},{\"const\":2}]}", "2", 1},
        {"{\"allOf\":[{\"$ref\":\"#/$defs/a~1b\"}],\"$defs\":{\"a/b\":{\"const\":7}}}", "7", 1},
        {"{\"type\":\"array\",\"items\":{\"$ref\":\"#\"}}", "[[],[[]]]", 1},
        {"{\"oneOf\":[{\"type\":\"string\"},{\"type\":\"string\",\"maxLength\":1}]}", "\"ab\"", 1},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        err e = {0};
        api__grammar *grammar = compile(rows[i].schema, &e);
        cr_assert(grammar, "row %zu: %s", i, e.msg);
        int got = grammar_feed(grammar, rows[i].text);
        cr_assert_eq(got, rows[i].want, "row %zu: '%s' against %s gave %d", i, rows[i].text,
                     rows[i].schema, got);
        api__grammar_free(grammar);
    }
}

Test(constrain, nesting_stops_where_the_stack_ends_and_still_closes) {
    err e = {0};
    api__grammar *grammar = compile(NULL, &e);
    char text[400] = "";
    size_t n = 0;
    int depth = 0;
    while (depth < 100) { /* {"a":{"a":... to the greatest depth */
        memcpy(text + n, "{\"a\":", 6);
        if (grammar_feed(grammar, text) < 0) break;
        n += 5;
        depth++;
    }
    cr_assert_eq(depth, API__MAX_STACK - 1, "%d", depth);
    memcpy(text + n, "1", 2);
    for (n += 1; depth > 0; depth--, n++)
        text[n] = '}';
    text[n] = 0;
    cr_assert_eq(grammar_feed(grammar, text), 1, "%s", text);
    api__grammar_free(grammar);
}

Test(constrain, blanks_are_bounded) {
    err e = {0};
    api__grammar *grammar = compile(NULL, &e);
    char text[100] = "{\n";
    size_t n = 2;
    for (; grammar_feed(grammar, text) >= 0 && n < 90; n++)
        text[n] = n % 2 ? ' ' : '\t';
    cr_assert_eq(n - 2, API__MAX_BLANKS);
    cr_assert_eq(grammar_feed(grammar, "{\n\n"), -1, "one newline at a time");
    cr_assert_eq(grammar_feed(grammar, "{ "), 0);
    cr_assert_eq(grammar_feed(grammar, "{  "), -1, "one space, unless it indents");
    cr_assert_eq(grammar_feed(grammar, "{ \n"), -1);
    cr_assert_eq(grammar_feed(grammar, "{\"a\": 1, \"b\":\n"), -1, "no new line after a colon");
    api__grammar_free(grammar);
}

Test(constrain, a_tool_call_is_one_of_the_functions_with_arguments_that_fit) {
    json_t *tools =
        json_loads("[{\"type\":\"function\",\"function\":{\"name\":\"add\",\"parameters\":{"
                   "\"type\":\"object\",\"properties\":"
                   "{\"a\":{\"$ref\":\"#/$defs/"
                   "n\"}},\"required\":[\"a\"],\"$defs\":{\"n\":{\"type\":\"integer\"}}}}},"
                   "{\"type\":\"function\",\"function\":{\"name\":\"now\"}}]",
                   0, NULL);
    const struct {
        const char *only, *text;
        int want;
    } rows[] = {
        {NULL, "{\"name\":\"add\",\"arguments\":{\"a\":3}}", 1},
        {NULL, "{\"name\":\"now\",\"arguments\":{}}", 1},
        {NULL, "{\"name\":\"now\",\"arguments\":{\"a", -1},
        {NULL, "{\"name\":\"sub", -1},
        {NULL, "{\"name\":\"add\",\"arguments\":{\"a\":\"", -1},
        {"now", "{\"name\":\"a", -1},
        {"now", "{\"name\": \"now\", \"arguments\": {}}", 1},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        api__grammar *grammar = NULL;
        err e = {0};
        cr_assert_eq(api__grammar_compile_tools(&grammar, tools, rows[i].only, "tools", &e), 0,
                     "%s", e.msg);
        cr_assert_eq(grammar_feed(grammar, rows[i].text), rows[i].want, "row %zu", i);
        api__grammar_free(grammar);
    }
    json_decref(tools);
}

Test(constrain, a_token_that_cannot_come_changes_nothing_and_the_end_comes_only_when_whole) {
    tokenizer *tok = NULL;
    api__vocab *vocab = NULL;
    api__constraint *constr = NULL;
    api__workspace *work = NULL;
    err e = {0};
    const uint32_t stop = 2047;
    cr_assert_eq(tokenizer_open(&tok, "models/demo", 2048, &e), 0);
    cr_assert_eq(api__vocab_open(&vocab, tok, 2048, &e), 0);
    api__grammar *grammar =
        compile("{\"type\":\"array\",\"items\":{\"const\":1},\"maxItems\":2}", &e);
    cr_assert_eq(api__workspace_create(&work, grammar, vocab, &stop, 1, &e), 0);
    cr_assert_eq(api__constraint_create(&constr, work, &e), 0);
    const char *text = "[1]";
    for (int i = 0; i < 3; i++) {
        uint32_t right, wrong;
        char one[2] = {text[i], 0};
        cr_assert(tokenizer_find(tok, one, &right) && tokenizer_find(tok, "x", &wrong));
        uint64_t before[32];
        cr_assert_eq(api__constraint_make(constr), ERR_NONE);
        memcpy(before, api__constraint_mask(constr, 0)->words, sizeof before);
        cr_assert_eq(before[stop / 64] >> stop % 64 & 1, 0);
        cr_assert_not(api__constraint_take(constr, wrong));
        cr_assert_not(api__constraint_take(constr, stop));
        cr_assert_eq(api__constraint_make(constr), ERR_NONE);
        cr_assert(memcmp(api__constraint_mask(constr, 0)->words, before, sizeof before) == 0);
        cr_assert(api__constraint_take(constr, right));
    }
    cr_assert_eq(api__constraint_make(constr), ERR_NONE);
    const uint64_t *end = api__constraint_mask(constr, 0)->words;
    cr_assert_eq(end[stop / 64], 1ull << stop % 64, "whole: the stop token and nothing else");
    for (int i = 0; i < 31; i++)
        cr_assert_eq(end[i], 0);
    cr_assert(api__constraint_take(constr, stop));
    api__constraint_destroy(constr);
    api__workspace_destroy(work);
    api__grammar_free(grammar);
    api__vocab_close(vocab);
    tokenizer_close(tok);
}

/* Its spaces are U+2581, and some of its characters are byte tokens. */
static void put_sp_file(buf *json) {
    buf_puts(json, "{\"added_tokens\":[{\"id\":63,\"content\":\"</s>\",\"special\":true}],"
                   "\"normalizer\":{\"type\":\"Prepend\",\"prepend\":\"\u2581\"},"
                   "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\","
                   "\"pattern\":{\"String\":\"\u2581\"},\"content\":\" \"},{\"type\":"
                   "\"ByteFallback\"},{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\" \","
                   "\"start\":1,\"stop\":0}]},\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,"
                   "\"merges\":[],\"vocab\":{\"{\":0,\"\u2581{\":1,\"\\\"\":2,\"a\":3,\"\\\":\":4,"
                   "\"\u2581\":5,\"\u25811\":6,\"1\":7,\"}\":8,\"\u2581}\":9,\"\u2581\\\"\":10,"
                   "\"<0x7B>\":11,\"<0x7D>\":12,\"<0x32>\":13,\"<0xC3>\":14,\"<0xA9>\":15,"
                   "\"\u00e9\":16,\"\u2581word\":17,\",\":18,\"\\\",\":19,\"b\":20,\":\":21}}}");
}

Test(constrain, answers_in_a_sentencepiece_vocabulary_keep_their_schema) {
    buf file = {0};
    tokenizer *tok = NULL;
    api__vocab *vocab = NULL;
    err e = {0};
    const uint32_t stop = 63;
    put_sp_file(&file);
    cr_assert_eq(tokenizer_parse(&tok, file.data, file.len, 64, "test", &e), 0, "%s", e.msg);
    cr_assert_eq(api__vocab_open(&vocab, tok, 64, &e), 0);
    api__grammar *grammar =
        compile("{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"},"
                "\"b\":{\"type\":\"string\",\"maxLength\":9}},\"required\":[\"a\","
                "\"b\"],\"additionalProperties\":false}",
                &e);
    cr_assert(grammar, "%s", e.msg);
    uint64_t used = 0; /* tokens of all answers */
    int whole = 0;
    srand(3);
    for (int answer = 0; answer < 200; answer++) {
        api__workspace *work = NULL;
        api__constraint *constr = NULL;
        uint32_t ids[200], n = 0, id = 0;
        cr_assert_eq(api__workspace_create(&work, grammar, vocab, &stop, 1, &e), 0);
        cr_assert_eq(api__constraint_create(&constr, work, &e), 0);
        while (n < ARRAY_LEN(ids)) {
            cr_assert_eq(api__constraint_make(constr), ERR_NONE);
            uint64_t mask = api__constraint_mask(constr, 0)->words[0];
            cr_assert_neq(mask, 0, "nothing to choose behind %u tokens", n);
            do
                id = (uint32_t)rand() % 64;
            while ((mask >> id & 1) == 0);
            cr_assert(api__constraint_take(constr, id));
            if (id == stop) break;
            used |= 1ull << id;
            ids[n++] = id;
        }
        buf text = {0};
        cr_assert_eq(tokenizer_decode(tok, ids, n, true, &text, &e), 0);
        whole += id == stop;
        json_t *root = id == stop ? json_loadb(text.data, text.len, 0, NULL) : NULL;
        cr_expect(id != stop || json_is_integer(json_object_get(root, "a")), "%s", text.data);
        cr_expect(id != stop || json_is_string(json_object_get(root, "b")), "%s", text.data);
        json_decref(root);
        buf_deinit(&text);
        api__constraint_destroy(constr);
        api__workspace_destroy(work);
    }
    cr_expect_gt(whole, 100);
    cr_expect_neq(used >> 17 & 1, 0, "no answer had a word with its space");
    cr_expect_neq(used >> 14 & 1, 0, "no answer had a byte of a letter");
    cr_expect_neq(used >> 11 & used >> 13 & 1, 0, "no answer had a byte token for a sign");
    api__grammar_free(grammar);
    api__vocab_close(vocab);
    tokenizer_close(tok);
    buf_deinit(&file);
}

/* Byte tokens come before the signs that models write. */
Test(constrain, of_two_tokens_with_one_text_both_may_come) {
    buf file = {0};
    tokenizer *tok = NULL;
    api__vocab *vocab = NULL;
    api__workspace *work = NULL;
    api__constraint *constr = NULL;
    err e = {0};
    const uint32_t stop = 7;
    buf_puts(&file, "{\"added_tokens\":[{\"id\":7,\"content\":\"</s>\",\"special\":true}],"
                    "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"ByteFallback\"},"
                    "{\"type\":\"Fuse\"}]},\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,"
                    "\"merges\":[],\"vocab\":{\"<0x7B>\":0,\"<0x7D>\":1,\"<0x22>\":2,\"{\":3,"
                    "\"}\":4,\"\\\"\":5,\"x\":6}}}");
    cr_assert_eq(tokenizer_parse(&tok, file.data, file.len, 8, "test", &e), 0, "%s", e.msg);
    cr_assert_eq(api__vocab_open(&vocab, tok, 8, &e), 0);
    api__grammar *grammar = compile(NULL, &e);
    cr_assert_eq(api__workspace_create(&work, grammar, vocab, &stop, 1, &e), 0);
    cr_assert_eq(api__constraint_create(&constr, work, &e), 0);
    static const uint64_t masks[] = {1 << 0 | 1 << 3, 1 << 1 | 1 << 2 | 1 << 4 | 1 << 5, 1 << 7};
    static const uint32_t answer[] = {3, 4, 7};
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(api__constraint_make(constr), ERR_NONE);
        cr_assert_eq(api__constraint_mask(constr, 0)->words[0], masks[i], "token %d", i);
        cr_assert(api__constraint_take(constr, answer[i]));
    }
    api__constraint_destroy(constr);
    api__workspace_destroy(work);
    api__grammar_free(grammar);
    api__vocab_close(vocab);
    tokenizer_close(tok);
    buf_deinit(&file);
}

/* ---- costs of masks ---- */

static api__vocab *open_demo(tokenizer **tok) {
    api__vocab *vocab = NULL;
    err e = {0};
    cr_assert_eq(tokenizer_open(tok, "models/demo", 2048, &e), 0);
    cr_assert_eq(api__vocab_open(&vocab, *tok, 2048, &e), 0);
    return vocab;
}

static void put_times(buf *out, int n, const char *before, const char *each, const char *after) {
    buf_puts(out, before);
    for (int i = 0; i < n; i++) {
        if (i) buf_puts(out, ",");
        for (const char *at = each; *at; at++) { /* % stands for the number */
            if (*at == '%') buf_printf(out, "%d", i);
            else buf_append(out, at, 1);
        }
    }
    buf_puts(out, after);
}

/* The most fuel of one mask over some random answers to the schema. */
static uint64_t most_fuel(const api__vocab *vocab, const char *schema, bool *costly) {
    err e = {0};
    const uint32_t stop = 2047;
    uint64_t most = 0;
    api__grammar *grammar = compile(schema, &e);
    cr_assert(grammar, "%s: %s", schema, e.msg);
    srand(1);
    *costly = false;
    for (int answer = 0; answer < 20; answer++) {
        api__workspace *work = NULL;
        api__constraint *constr = NULL;
        cr_assert_eq(api__workspace_create(&work, grammar, vocab, &stop, 1, &e), 0);
        cr_assert_eq(api__constraint_create(&constr, work, &e), 0);
        for (int k = 0; k < 60; k++) {
            bool bad = api__constraint_make(constr) != ERR_NONE;
            if (api__constraint_fuel(constr) > most) most = api__constraint_fuel(constr);
            *costly = *costly || bad;
            uint32_t can[2048], n = 0;
            for (uint32_t id = 0; id < 2048; id++) {
                if (api__constraint_mask(constr, 0)->words[id / 64] >> id % 64 & 1) can[n++] = id;
            }
            if (bad) break;
            cr_assert_gt(n, 0);
            uint32_t id = can[(unsigned)rand() % n];
            cr_assert(api__constraint_take(constr, id));
            if (id == stop) break;
        }
        api__constraint_destroy(constr);
        api__workspace_destroy(work);
    }
    api__grammar_free(grammar);
    return most;
}

Test(constrain, the_worst_schemas_known_stay_within_their_fuel) {
    tokenizer *tok = NULL;
    api__vocab *vocab = open_demo(&tok);
    const struct {
        const char *what, *before, *each, *after;
        int n;
        uint64_t fuel; /* for 2048 tokens */
    } rows[] = {
        {"any", "{}", "", "", 0, 20000},
        {"strings of 32 lengths", "{\"anyOf\":[", "{\"type\":\"string\",\"maxLength\":9%}", "]}",
         32, 20000},
        {"512 names and free ones", "{\"properties\":{", "\"name_%\":{\"type\":\"integer\"}",
         "},\"additionalProperties\":{\"type\":\"string\"}}", 512, 20000},
        {"500 names, the last of them required", "{\"required\":[\"name_499\"],\"properties\":{",
         "\"name_%\":{\"type\":\"integer\"}", "}}", 500, 20000},
        {"512 values", "{\"type\":\"array\",\"items\":{\"enum\":[", "\"value %\"", "]}}", 512,
         20000},
        {"32 ranges", "{\"type\":\"array\",\"items\":{\"anyOf\":[",
         "{\"type\":\"integer\",\"minimum\":%,\"maximum\":1%00}", "]}}", 32, 100000},
        {"32 objects that begin alike", "{\"anyOf\":[",
         "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\"},\"b%\":{}}}", "]}", 32,
         200000},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        buf text = {0};
        bool costly;
        put_times(&text, rows[i].n, rows[i].before, rows[i].each, rows[i].after);
        uint64_t most = most_fuel(vocab, text.data, &costly);
        cr_expect(!costly && most <= rows[i].fuel, "%s: %llu units", rows[i].what,
                  (unsigned long long)most);
        buf_deinit(&text);
    }
    api__vocab_close(vocab);
    tokenizer_close(tok);
}

Test(constrain, a_mask_that_takes_more_than_its_fuel_is_an_error_and_soon) {
    /* 32 readings inside bounded strings, and a costly vocabulary: every token is an escape with
     * four digits, so every token moves every reading, and few readings come again. */
    buf text = {0}, json = {0};
    tokenizer *tok = NULL;
    api__vocab *words = NULL;
    err e = {0};
    const uint32_t vocab = 40000, stop = vocab - 1;
    buf_puts(&json, "{\"added_tokens\":[{\"id\":39999,\"content\":\"<|end|>\",\"special\":true}],"
                    "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
                    "\"use_regex\":true},\"decoder\":{\"type\":\"ByteLevel\"},"
                    "\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":{");
    put_byte_vocabulary(&json, 0);
    for (uint32_t id = 256; id < stop; id++)
        buf_printf(&json, ",\"\\\\u%04x\":%u", id * 40503u & 0xffff, id);
    buf_puts(&json, "}}}");
    cr_assert_eq(tokenizer_parse(&tok, json.data, json.len, vocab, "test", &e), 0, "%s", e.msg);
    cr_assert_eq(api__vocab_open(&words, tok, vocab, &e), 0);
    put_times(&text, 32, "{\"anyOf\":[",
              "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\",\"maxLength\":5%},"
              "\"b%\":{}},\"required\":[\"a\"]}",
              "]}");
    api__grammar *grammar = compile(text.data, &e);
    cr_assert(grammar, "%s", e.msg);
    api__workspace *work = NULL;
    api__constraint *constr = NULL;
    cr_assert_eq(api__workspace_create(&work, grammar, words, &stop, 1, &e), 0);
    cr_assert_eq(api__constraint_create(&constr, work, &e), 0);
    err_code made = ERR_NONE;
    clock_t from = 0;
    for (const char *at = "{\"a\":\"xyz"; *at && made == ERR_NONE; at++) {
        from = clock();
        made = api__constraint_make(constr);
        cr_assert(made != ERR_NONE || api__constraint_take(constr, (uint8_t)*at), "at %s", at);
    }
    cr_assert_eq(made, ERR_COSTLY);
    double seconds = (double)(clock() - from) / CLOCKS_PER_SEC;
    cr_expect_leq(api__constraint_fuel(constr), API__MASK_FUEL + 10000);
    cr_expect_lt(seconds, 5.0, "%g s of processor time", seconds);
    api__constraint_destroy(constr);
    api__workspace_destroy(work);
    api__grammar_free(grammar);
    api__vocab_close(words);
    tokenizer_close(tok);
    buf_deinit(&json);
    buf_deinit(&text);
}
