/* test_constrain_keywords.c - numbers, patterns, formats, keys and schemas that hold together, row
 * by row; what strict changes; arguments of forced calls. */
#include "api/grammar/constrain_internal.h"
#include "tests/lib/grammar.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

TestSuite(constrain_keywords, .fini = fail_on_leaks, .timeout = HANGS_S);

typedef struct {
    const char *schema, *text;
    int want; /* 1: whole, 0: begun, -1: refused */
} row;

/* Single quotes stand for double ones. */
static json_t *parse(const char *text) {
    char copy[2000];
    json_error_t why;
    (void)snprintf(copy, sizeof copy, "%s", text);
    for (char *at = copy; *at; at++)
        if (*at == '\'') *at = '"';
    json_t *schema = json_loads(copy, JSON_DECODE_ANY, &why);
    cr_assert(schema, "the test's schema: %s in %s", why.text, copy);
    return schema;
}

static void check(const row *rows, size_t n, bool strict) {
    for (size_t i = 0; i < n; i++) {
        err e = {0};
        api__grammar *grammar = NULL;
        json_t *schema = parse(rows[i].schema);
        char text[400];
        (void)snprintf(text, sizeof text, "%s", rows[i].text);
        for (char *at = text; *at; at++)
            if (*at == '\'') *at = '"';
        cr_assert_eq(api__grammar_compile(&grammar, schema, strict, "schema", &e), 0, "row %zu: %s",
                     i, e.msg);
        int got = grammar_feed(grammar, text);
        cr_expect_eq(got, rows[i].want, "row %zu: '%s' against %s gave %d", i, text, rows[i].schema,
                     got);
        api__grammar_free(grammar);
        json_decref(schema);
    }
}

Test(constrain_keywords, ranges_and_multiples_of_numbers_hold_to_the_digit) {
    static const row rows[] = {
        {"{'type':'number','minimum':0,'maximum':1}", "0.5", 1},
        {"{'type':'number','minimum':0,'maximum':1}", "1", 1},
        {"{'type':'number','minimum':0,'maximum':1}", "1.0", 1},
        {"{'type':'number','minimum':0,'maximum':1}", "1.1", -1},
        {"{'type':'number','minimum':0,'maximum':1}", "2", -1},
        {"{'type':'number','minimum':0,'maximum':1}", "-0.1", -1},
        {"{'type':'number','minimum':0,'maximum':1}", "-", -1},
        {"{'type':'number','minimum':-1}", "-0.0", 0},
        {"{'type':'number','minimum':-1}", "-0.0001", 1},
        {"{'type':'number','minimum':0,'maximum':1}", "0.1234567890123", 1},
        {"{'type':'number','minimum':0,'maximum':1}", "0.12345678901234", -1},
        {"{'type':'number','minimum':0,'maximum':1}", "1e0", -1},
        {"{'type':'number','minimum':0.1}", "0.1", 1},
        {"{'type':'number','minimum':0.1}", "0.0999", -1},
        {"{'type':'number','minimum':0.1}", "0.", 0},
        {"{'type':'number','minimum':0.1}", "0", 0},
        {"{'type':'number','minimum':0}", "1764250000123", 1},
        {"{'type':'number','exclusiveMinimum':0}", "0.00", 0},
        {"{'type':'number','exclusiveMinimum':0}", "0.0001", 1},
        {"{'type':'number','exclusiveMinimum':0}", "-", -1},
        {"{'type':'number','exclusiveMaximum':-1.5}", "-1.5", 0},
        {"{'type':'number','exclusiveMaximum':-1.5}", "-1.51", 1},
        {"{'type':'number','exclusiveMaximum':-1.5}", "-1.4", -1},
        {"{'type':'number','exclusiveMaximum':-1.5}", "1", -1},
        {"{'type':'number','maximum':0.5}", "-0.5", 1},
        {"{'type':'number','maximum':0.5}", "0.6", -1},
        {"{'type':'integer','minimum':1.5,'maximum':3.5}", "1", -1},
        {"{'type':'integer','minimum':1.5,'maximum':3.5}", "2", 1},
        {"{'type':'integer','minimum':1.5,'maximum':3.5}", "4", -1},
        {"{'type':'integer','multipleOf':7}", "14", 1},
        {"{'type':'integer','multipleOf':7}", "15", 0},
        {"{'type':'integer','multipleOf':7}", "-21", 1},
        {"{'type':'integer','multipleOf':7,'maximum':30}", "29", -1},
        {"{'type':'integer','multipleOf':2.5,'minimum':1}", "5", 1},
        {"{'type':'integer','multipleOf':2.5,'minimum':1,'maximum':9}", "2", -1},
        {"{'type':'number','multipleOf':0.01}", "19.99", 1},
        {"{'type':'number','multipleOf':0.01}", "19.999", -1},
        {"{'type':'number','multipleOf':0.25,'minimum':0}", "0.75", 1},
        {"{'type':'number','multipleOf':0.25,'minimum':0}", "0.8", -1},
        {"{'allOf':[{'type':'integer','multipleOf':4},{'multipleOf':6}]}", "12", 1},
        {"{'allOf':[{'type':'integer','multipleOf':4},{'multipleOf':6,'maximum':13}]}", "4", -1},
        {"{'type':['number','null'],'maximum':5}", "6", -1},
        {"{'type':['number','null'],'maximum':5}", "null", 1},
    };
    check(rows, ARRAY_LEN(rows), true);
}

Test(constrain_keywords, a_pattern_sees_characters_however_they_are_written) {
    static const row rows[] = {
        {"{'type':'string','pattern':'^a+$'}", "'aaa'", 1},
        {"{'type':'string','pattern':'^a+$'}", "'", 0},
        {"{'type':'string','pattern':'^a+$'}", "''", -1},
        {"{'type':'string','pattern':'^a+$'}", "'ab", -1},
        {"{'type':'string','pattern':'^a+$'}", "'\\u0061'", 1},
        {"{'type':'string','pattern':'^a+$'}", "'\\u0062", -1},
        {"{'type':'string','pattern':'^a+$'}", "'\\u00", 0},
        {"{'type':'string','pattern':'^a+$'}", "'\\u01", -1},
        {"{'type':'string','pattern':'^a+$'}", "'\\n", -1},
        {"{'type':'string','pattern':'^é$'}", "'é'", 1},
        {"{'type':'string','pattern':'^é$'}", "'\xc3\xaa", -1},
        {"{'type':'string','pattern':'^é$'}", "'\xc4", -1},
        {"{'type':'string','pattern':'^\\\\u{1f44d}$'}", "'\\ud83d\\udc4d'", 1},
        {"{'type':'string','pattern':'^\\\\u{1f44d}$'}", "'\\ud83c", -1},
        {"{'type':'string','pattern':'^\\\\u{1f44d}$'}", "'\\ud83d\\udc4e", -1},
        {"{'type':'string','pattern':'^\\\\ud83d\\\\udc4d$'}", "'👍'", 1},
        {"{'type':'string','pattern':'b'}", "'abc'", 1},
        {"{'type':'string','pattern':'b'}", "'ac'", -1},
        {"{'type':'string','pattern':'^[]$|^x$'}", "'x'", 1},
        {"{'type':'string','pattern':'^(?<year>[0-9]{4})$'}", "'2026'", 1},
        {"{'type':'string','pattern':'^.$'}", "'\\n", -1},
        {"{'type':'string','pattern':'^\\\\s$'}", "'\\u3000'", 1},
        {"{'type':'string','pattern':'^[^\\\\\\\\]$'}", "'\\\\", -1},
        {"{'type':'string','pattern':'a','maxLength':2}", "'bb", -1},
        {"{'type':'string','pattern':'a','maxLength':2}", "'ba'", 1},
        {"{'type':'string','pattern':'^(ab)*$','minLength':3}", "'ab'", -1},
        {"{'type':'string','pattern':'^(ab)*$','minLength':3}", "'abab'", 1},
        {"{'type':'string','pattern':'^(ab)*$','minLength':3,'maxLength':5}", "'ababa", -1},
        {"{'allOf':[{'type':'string','pattern':'a'},{'pattern':'b'}]}", "'xbya'", 1},
        {"{'allOf':[{'type':'string','pattern':'a'},{'pattern':'b'}]}", "'xb'", -1},
        {"{'enum':['ab','c'],'pattern':'^a'}", "'c", -1},
        {"{'anyOf':[{'type':'string','pattern':'^a'},{'type':'string','pattern':'z$'}]}", "'bz'",
         1},
        {"{'anyOf':[{'type':'string','pattern':'^a'},{'type':'string','pattern':'z$'}]}", "'b'",
         -1},
    };
    check(rows, ARRAY_LEN(rows), true);
}

Test(constrain_keywords, formats_are_exact_where_they_are_known) {
    static const row rows[] = {
        {"{'type':'string','format':'date'}", "'2024-02-29'", 1},
        {"{'type':'string','format':'date'}", "'2023-02-29", -1},
        {"{'type':'string','format':'date'}", "'1900-02-29", -1},
        {"{'type':'string','format':'date'}", "'2000-02-29'", 1},
        {"{'type':'string','format':'date'}", "'2024-04-31", -1},
        {"{'type':'string','format':'time'}", "'23:59:59.123Z'", 1},
        {"{'type':'string','format':'time'}", "'24", -1},
        {"{'type':'string','format':'date-time'}", "'2026-11-27T14:00:00+01:00'", 1},
        {"{'type':'string','format':'date-time'}", "'2026-11-27T14:00:00'", -1},
        {"{'type':'string','format':'uuid'}", "'123e4567-e89b-12d3-a456-426614174000'", 1},
        {"{'type':'string','format':'uuid'}", "'123e4567-e89b-12d3-a456-42661417400'", -1},
        {"{'type':'string','format':'email'}", "'joe.b+x@example.com'", 1},
        {"{'type':'string','format':'email'}", "'joe.@", -1},
        {"{'type':'string','format':'uri'}", "'https://example.org/a?b=c#d'", 1},
        {"{'type':'string','format':'uri'}", "'//example.org'", -1},
        {"{'type':'string','format':'uri'}", "'urn:isbn:12'", 1},
        {"{'type':'string','format':'ipv4'}", "'127.0.0.1'", 1},
        {"{'type':'string','format':'ipv4'}", "'256", -1},
        {"{'type':'string','format':'ipv6'}", "'::1'", 1},
        {"{'type':'string','format':'ipv6'}", "'1::2::3", -1},
        {"{'type':'string','format':'hostname'}", "'a-b.example'", 1},
        {"{'type':'string','format':'hostname'}", "'-a", -1},
        {"{'type':'string','format':'duration'}", "'P1DT2H'", 1},
        {"{'type':'string','format':'int32'}", "'any'", 1},
        {"{'enum':['2024-01-01','x'],'format':'date'}", "'x", -1},
    };
    check(rows, ARRAY_LEN(rows), true);
}

Test(constrain_keywords, keys_may_be_named_by_patterns_and_counted) {
#define P "{'patternProperties':{'^x-':{'type':'integer'}}"
    static const row rows[] = {
        {P "}", "{'x-a':1}", 1},
        {P "}", "{'y", -1},
        {P "}", "{'x-a':'", -1},
        {P ",'additionalProperties':{'type':'null'}}", "{'y':null,'x-b':2}", 1},
        {P ",'additionalProperties':{'type':'null'}}", "{'x-y':n", -1},
        {P ",'properties':{'x-1':{'minimum':5},'n':{}}}", "{'x-1':7,'x-2':1}", 1},
        {P ",'properties':{'x-1':{'minimum':5},'n':{}}}", "{'x-1':1.", -1},
        {P ",'properties':{'x-1':{'minimum':5},'n':{}}}", "{'x-2':1,'x-1'", -1},
        {"{'type':'object','propertyNames':{'pattern':'^[a-z]+$'}}", "{'abc':1,'d':[]}", 1},
        {"{'type':'object','propertyNames':{'pattern':'^[a-z]+$'}}", "{'A", -1},
        {"{'type':'object','propertyNames':{'maxLength':2}}", "{'abc", -1},
        {"{'type':'object','propertyNames':{'enum':['a','b']}}", "{'b':1}", 1},
        {"{'type':'object','propertyNames':{'enum':['a','b']}}", "{'c", -1},
        {"{'properties':{'ab':{},'A':{}},'propertyNames':{'pattern':'^[a-z]+$'}}", "{'A", -1},
        {"{'properties':{'ab':{}},'propertyNames':{'pattern':'^[a-z]+$'},"
         "'additionalProperties':{'type':'null'}}",
         "{'ab':1,'abc':null}", 1},
        {"{'properties':{'ab':{}},'propertyNames':{'pattern':'^[a-z]+$'},"
         "'additionalProperties':{'type':'null'}}",
         "{'ab':1,'ab'", -1},
        {"{'properties':{'a':{},'b':{},'c':{}},'minProperties':2}", "{'a':1}", -1},
        {"{'properties':{'a':{},'b':{},'c':{}},'minProperties':2}", "{'b':1,'c':1}", 1},
        {"{'properties':{'a':{},'b':{},'c':{}},'minProperties':2}", "{'c'", -1},
        {"{'properties':{'a':{},'b':{},'c':{}},'maxProperties':2}", "{'a':1,'b':1,", -1},
        {"{'properties':{'a':{},'b':{},'c':{}},'maxProperties':2,'required':['c']}",
         "{'a':1,'c':1}", 1},
        {"{'properties':{'a':{},'b':{},'c':{}},'maxProperties':2,'required':['c']}", "{'a':1,'b'",
         -1},
        {"{'type':'object','minProperties':1}", "{}", -1},
        {"{'type':'object','minProperties':1}", "{'q':1}", 1},
        {"{'type':'object','maxProperties':1}", "{'q':1,", -1},
        {"{'properties':{'a':{},'b':false}}", "{'b", -1},
        {"{'properties':{'a':{}},'unevaluatedProperties':false}", "{'a':1}", 1},
        {"{'properties':{'a':{}},'required':['a','b']}", "{'a':1,'b':2}", 1},
    };
    check(rows, ARRAY_LEN(rows), true);
}

Test(constrain_keywords, schemas_that_hold_together_are_one) {
#define BOTH "{'allOf':[{'properties':{'a':{'type':'integer'}},'required':['a']},"
    static const row rows[] = {
        {BOTH "{'properties':{'b':{'type':'string'},'a':{'minimum':3}}}]}", "{'a':3,'b':'x'}", 1},
        {BOTH "{'properties':{'b':{'type':'string'},'a':{'minimum':3}}}]}", "{'a':2}", -1},
        {"{'type':'object','properties':{'a':{},'b':{}},"
         "'anyOf':[{'required':['a']},{'required':['b']}]}",
         "{'b':1}", 1},
        {"{'type':'object','properties':{'a':{},'b':{}},"
         "'anyOf':[{'required':['a']},{'required':['b']}]}",
         "{}", -1},
        {"{'$ref':'#/$defs/s','minLength':2,'$defs':{'s':{'type':'string','maxLength':3}}}", "'ab'",
         1},
        {"{'$ref':'#/$defs/s','minLength':2,'$defs':{'s':{'type':'string','maxLength':3}}}", "'a'",
         -1},
        {"{'allOf':[{'minItems':1,'items':{'type':'integer'}},{'maxItems':2,'items':{'minimum':5}}"
         "]}",
         "[5,6]", 1},
        {"{'allOf':[{'minItems':1,'items':{'type':'integer'}},{'maxItems':2,'items':{'minimum':5}}"
         "]}",
         "[]", -1},
        {"{'anyOf':[{'type':'string'},{'type':'null'}],'oneOf':[{'const':'a'},{'const':null}]}",
         "null", 1},
        {"{'oneOf':[{'type':'object','properties':{'k':{'const':1}},'required':['k']},"
         "{'type':'object','properties':{'k':{'const':2}},'required':['k']}]}",
         "{'k':2}", 1},
        {"{'enum':[1,2,3],'minimum':2}", "1", -1},
        {"{'enum':[1,2,3],'not':false,'minimum':2}", "3", 1},
        {"{'type':'integer','enum':[1.0,2.5]}", "1.0", 1},
        {"{'items':[{'const':1},{'const':2}],'additionalItems':false}", "[1,2]", 1},
        {"{'items':[{'const':1},{'const':2}],'additionalItems':false}", "[1,2,", -1},
        {"{'x-unknown':1,'type':'null'}", "null", 1},
        {"{'anyOf':[false,{'const':1}]}", "1", 1},
    };
    check(rows, ARRAY_LEN(rows), true);
}

Test(constrain_keywords, without_strict_the_shape_holds_and_the_rest_is_left_out) {
    static const row rows[] = {
        {"{'type':'string','pattern':'(?=a)'}", "'b'", 1},
        {"{'type':'string','pattern':'(?=a)','maxLength':1}", "'bb", -1},
        {"{'type':'string','pattern':'(unbalanced'}", "'b'", 1},
        {"{'type':'string','format':'iri'}", "'b'", 1},
        {"{'type':'array','uniqueItems':true,'items':{'const':1}}", "[1,1]", 1},
        {"{'type':'array','uniqueItems':true,'items':{'const':1}}", "[2", -1},
        {"{'properties':{'a':{'not':{'type':'string'}}},'required':['a']}", "{'a':'x'}", 1},
        {"{'if':{'required':['a']},'then':{'required':['b']},'type':'object'}", "{'a':1}", 1},
        {"{'oneOf':[{'type':'string'},{'minLength':1}]}", "'x'", 1},
        {"{'$ref':'http://example.org/x'}", "[1]", 1},
        {"{'patternProperties':{'(?!a)':{'type':'null'}},'properties':{'a':{}}}", "{'a':1}", 1},
        {"{'type':'object','minProperties':3}", "{'a':1}", 1},
    };
    check(rows, ARRAY_LEN(rows), false);
}

/* ---- calls ---- */

static int compile_call(api__grammar **out, const char *parameters, bool tags, err *e) {
    json_t *tools = parse("[{'type':'function','function':{'name':'f'}}]");
    json_t *function = json_object_get(json_array_get(tools, 0), "function");
    if (parameters) json_object_set_new(function, "parameters", parse(parameters));
    int rc = tags ? api__grammar_compile_tags(out, tools, NULL, "tools", e)
                  : api__grammar_compile_tools(out, tools, NULL, "tools", e);
    json_decref(tools);
    return rc;
}

Test(constrain_keywords, arguments_are_an_object_whatever_the_parameters_say) {
    static const char *const parameters[] = {NULL,
                                             "{}",
                                             "null",
                                             "true",
                                             "{'description':'anything'}",
                                             "{'title':'x','$defs':{}}",
                                             "{'$comment':'none','examples':[1]}",
                                             "{'type':['object','null']}",
                                             "{'additionalProperties':true}",
                                             "{'anyOf':[{'type':'string'},{'type':'object'}]}"};
    for (size_t i = 0; i < ARRAY_LEN(parameters); i++) {
        api__grammar *grammar = NULL;
        err e = {0};
        cr_assert_eq(compile_call(&grammar, parameters[i], false, &e), 0, "%zu: %s", i, e.msg);
        cr_expect_eq(grammar_feed(grammar, "{\"name\":\"f\",\"arguments\":{}}"), 1, "%zu", i);
        static const char *const others[] = {"1", "\"", "[", "n", "t"};
        for (size_t k = 0; k < ARRAY_LEN(others); k++) {
            char text[60];
            (void)snprintf(text, sizeof text, "{\"name\":\"f\",\"arguments\":%s", others[k]);
            cr_expect_eq(grammar_feed(grammar, text), -1, "%zu: %s", i, text);
        }
        api__grammar_free(grammar);
        cr_assert_eq(compile_call(&grammar, parameters[i], true, &e), 0, "%zu: %s", i, e.msg);
        cr_expect_eq(grammar_feed(grammar, "<tool_call>\n<function=f>\n</function>\n</tool_call>"),
                     1, "%zu", i);
        api__grammar_free(grammar);
    }
}

Test(constrain_keywords, a_function_whose_parameters_allow_no_object_is_refused_by_its_name) {
    static const char *const parameters[] = {"{'type':'string'}", "false", "{'enum':[1]}",
                                             "{'required':['a'],'properties':{'a':false}}",
                                             "{'properties':{'a':{'$ref':'#'}},'required':['a']}"};
    for (size_t i = 0; i < ARRAY_LEN(parameters); i++) {
        for (int tags = 0; tags < 2; tags++) {
            api__grammar *grammar = NULL;
            err e = {0};
            cr_assert_eq(compile_call(&grammar, parameters[i], tags, &e), -1, "%zu", i);
            cr_expect_eq(e.code, ERR_BAD_PARAM);
            cr_expect(strstr(e.msg, "function 'f' allow no object"), "%zu %d: %s", i, tags, e.msg);
        }
    }
}

Test(constrain_keywords, a_function_says_by_itself_whether_it_is_strict) {
    json_t *tools = parse("[{'function':{'name':'f','strict':false,'parameters':{'properties':{'a':"
                          "{'uniqueItems':true}}}}},{'function':{'name':'g','strict':true,"
                          "'parameters':{'properties':{'a':{'uniqueItems':true}}}}}]");
    for (int tags = 0; tags < 2; tags++) {
        api__grammar *grammar = NULL;
        err e = {0};
        int (*compile)(api__grammar **, const json_t *, const char *, const char *, err *) =
            tags ? api__grammar_compile_tags : api__grammar_compile_tools;
        cr_expect_eq(compile(&grammar, tools, "f", "tools", &e), 0, "%s", e.msg);
        api__grammar_free(grammar);
        cr_expect_eq(compile(&grammar, tools, NULL, "tools", &e), -1);
        cr_expect_eq(e.code, ERR_UNSUPPORTED);
        cr_expect(strstr(e.msg, "'uniqueItems'"), "%s", e.msg);
    }
    json_decref(tools);
}

Test(constrain_keywords, a_text_in_a_tag_keeps_to_its_pattern) {
#define VALUE(text)                                                                                \
    "<tool_call>\n<function=f>\n<parameter=a>\n" text "\n</parameter>\n</function>\n</tool_call>"
    api__grammar *grammar = NULL;
    err e = {0};
    cr_assert_eq(compile_call(&grammar,
                              "{'properties':{'a':{'type':'string','pattern':'^[a-z\\\\n<]+$'}},"
                              "'required':['a']}",
                              true, &e),
                 0, "%s", e.msg);
    cr_expect_eq(grammar_feed(grammar, VALUE("ab")), 1);
    cr_expect_eq(grammar_feed(grammar, VALUE("a\n<b")), 1);
    cr_expect_eq(grammar_feed(grammar, VALUE("A")), -1);
    cr_expect_eq(grammar_feed(grammar, VALUE("")), -1);
    api__grammar_free(grammar);
}
