/* test_constrain_refused.c - schemas that are refused: by the name of a keyword, because no value
 * fits, or for their size. */
#include "api/grammar/constrain_internal.h"
#include "base/buf.h"
#include "tests/lib/grammar.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <string.h>

TestSuite(constrain_refused, .fini = fail_on_leaks, .timeout = HANGS_S);

static api__grammar *compile(const char *text, err *e) {
    return grammar_compile(text, false, e);
}

Test(constrain_refused, what_lies_outside_the_subset_is_refused_by_its_name) {
    const struct {
        const char *schema, *says;
        err_code code;
    } rows[] = {
        {"{\"type\":\"string\",\"pattern\":\"(?=a)\"}", "'pattern'", ERR_UNSUPPORTED},
        {"{\"type\":\"string\",\"pattern\":\"(a)\\\\1\"}", "back references", ERR_UNSUPPORTED},
        {"{\"type\":\"string\",\"pattern\":\"(a\"}", "a parenthesis is missing", ERR_UNSUPPORTED},
        {"{\"type\":\"string\",\"pattern\":\"(a|b)*a(a|b){14}\"}", "too many states",
         ERR_UNSUPPORTED},
        {"{\"type\":\"string\",\"pattern\":\"a\",\"minLength\":2000}", "minLength",
         ERR_UNSUPPORTED},
        {"{\"type\":\"string\",\"format\":\"iri\"}", "'format'", ERR_UNSUPPORTED},
        {"{\"type\":\"array\",\"uniqueItems\":true}", "'uniqueItems'", ERR_UNSUPPORTED},
        {"{\"type\":\"array\",\"contains\":{}}", "'contains'", ERR_UNSUPPORTED},
        {"{\"type\":\"object\",\"dependentRequired\":{\"a\":[\"b\"]}}", "'dependentRequired'",
         ERR_UNSUPPORTED},
        {"{\"properties\":{\"x\":{\"properties\":{\"y\":{\"not\":{\"const\":1}}}}}}", "'not'",
         ERR_UNSUPPORTED},
        {"{\"not\":{\"type\":\"null\"}}", "'not'", ERR_UNSUPPORTED},
        {"{\"not\":{}}", "false matches no value", ERR_BAD_PARAM},
        {"{\"if\":{},\"then\":{\"minLength\":1}}", "'if'", ERR_UNSUPPORTED},
        {"{\"type\":\"object\",\"minProperties\":2}", "'minProperties'", ERR_UNSUPPORTED},
        {"{\"type\":\"number\",\"multipleOf\":1e-30}", "'multipleOf'", ERR_UNSUPPORTED},
        {"{\"oneOf\":[{\"type\":\"string\"},{\"minLength\":3}]}", "'oneOf'", ERR_UNSUPPORTED},
        {"{\"$ref\":\"http://example.org/x\"}", "'$ref'", ERR_UNSUPPORTED},
        {"3", "must be an object or a boolean", ERR_BAD_PARAM},
        {"false", "false", ERR_BAD_PARAM},
        {"{\"type\":\"strange\"}", "unknown type", ERR_BAD_PARAM},
        {"{\"type\":[]}", "empty list of types", ERR_BAD_PARAM},
        {"{\"type\":3}", "unknown type", ERR_BAD_PARAM},
        {"{\"enum\":[]}", "0 values", ERR_BAD_PARAM},
        {"{\"enum\":3}", "must be a list", ERR_BAD_PARAM},
        {"{\"enum\":[1],\"type\":\"string\"}", "has no value of its type", ERR_BAD_PARAM},
        {"{\"anyOf\":[]}", "0 alternatives", ERR_BAD_PARAM},
        {"{\"anyOf\":{\"a\":1}}", "0 alternatives", ERR_BAD_PARAM},
        {"{\"$ref\":\"#/$defs/none\"}", "does not lead to a part", ERR_BAD_PARAM},
        {"{\"$ref\":3}", "does not lead to a part", ERR_BAD_PARAM},
        {"{\"$ref\":\"#\"}", "does not lead to a part", ERR_BAD_PARAM},
        {"{\"anyOf\":[{\"$ref\":\"#\"}]}", "only to themselves", ERR_BAD_PARAM},
        {"{\"properties\":{\"x\":{\"$ref\":\"#\"}},\"required\":[\"x\"]}", "no value with a depth",
         ERR_BAD_PARAM},
        {"{\"type\":\"array\",\"items\":{\"$ref\":\"#\"},\"minItems\":1}", "no value with a depth",
         ERR_BAD_PARAM},
        {"{\"type\":\"string\",\"minLength\":3,\"maxLength\":2}", "minLength", ERR_BAD_PARAM},
        {"{\"type\":\"string\",\"minLength\":-1}", "minLength", ERR_BAD_PARAM},
        {"{\"type\":\"string\",\"maxLength\":\"3\"}", "maxLength", ERR_BAD_PARAM},
        {"{\"type\":\"integer\",\"minimum\":3,\"maximum\":2}", "minimum", ERR_BAD_PARAM},
        {"{\"type\":\"array\",\"minItems\":1,\"items\":false}", "more items than", ERR_BAD_PARAM},
        {"{\"properties\":{\"a\":{}},\"required\":[\"b\"],\"additionalProperties\":false}",
         "'b' is required", ERR_BAD_PARAM},
        {"{\"properties\":[]}", "properties must be an object", ERR_BAD_PARAM},
        {"{\"type\":\"object\",\"required\":[3]}", "list of strings", ERR_BAD_PARAM},
        {"{\"properties\":{\"a\":5}}", "must be an object or a boolean", ERR_BAD_PARAM},
        {"{\"type\":\"array\",\"items\":[3]}", "must be an object or a boolean", ERR_BAD_PARAM},
        {"{\"type\":\"string\",\"pattern\":3}", "pattern must be a string", ERR_BAD_PARAM},
        {"{\"type\":\"string\",\"format\":3}", "format must be a string", ERR_BAD_PARAM},
        {"{\"type\":\"number\",\"minimum\":\"3\"}", "minimum must be a number", ERR_BAD_PARAM},
        {"{\"type\":\"number\",\"multipleOf\":0}", "multipleOf must be", ERR_BAD_PARAM},
        {"{\"type\":\"integer\",\"minimum\":1,\"maximum\":4,\"multipleOf\":5}", "is a multiple",
         ERR_BAD_PARAM},
        {"{\"type\":\"string\",\"pattern\":\"^ab$\",\"maxLength\":1}", "no string matches",
         ERR_BAD_PARAM},
        {"{\"allOf\":[{\"type\":\"string\"},{\"type\":\"null\"}]}", "exclude each other",
         ERR_BAD_PARAM},
        {"{\"properties\":{\"a\":false},\"required\":[\"a\"]}", "'a' is required", ERR_BAD_PARAM},
        {"{\"type\":\"object\",\"required\":[\"a\",\"b\"],\"maxProperties\":1}", "maxProperties",
         ERR_BAD_PARAM},
        {"{\"prefixItems\":3}", "prefixItems", ERR_BAD_PARAM},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        err e = {0};
        cr_assert_null(grammar_compile(rows[i].schema, true, &e), "row %zu was accepted: %s", i,
                       rows[i].schema);
        cr_assert_eq(e.code, rows[i].code, "row %zu: %s", i, e.msg);
        cr_assert(strstr(e.msg, rows[i].says), "row %zu: '%s' lacks %s", i, e.msg, rows[i].says);
        cr_assert_str_eq(e.param, "schema");
    }
}

Test(constrain_refused, a_schema_as_large_or_deep_as_a_request_may_send_is_an_answer_not_a_crash) {
    buf text = {0};
    err e = {0};
    for (int i = 0; i < 60; i++)
        buf_puts(&text, "{\"properties\":{\"a\":");
    buf_puts(&text, "{}");
    for (int i = 0; i < 60; i++)
        buf_puts(&text, "},\"required\":[\"a\"]}");
    cr_assert_null(compile(text.data, &e));
    cr_assert(strstr(e.msg, "depth"), "%s", e.msg);
    buf_clear(&text);
    e = (err){0};
    buf_puts(&text, "{\"anyOf\":[");
    for (int i = 0; i < 40; i++)
        buf_printf(&text, "%s{\"const\":%d}", i ? "," : "", i);
    buf_puts(&text, "]}");
    cr_assert_null(compile(text.data, &e));
    cr_assert(strstr(e.msg, "alternatives"), "%s", e.msg);
    buf_clear(&text);
    e = (err){0};
    buf_puts(&text, "{\"properties\":{");
    for (int i = 0; i < 600; i++)
        buf_printf(&text, "%s\"p%d\":{\"type\":\"null\"}", i ? "," : "", i);
    buf_puts(&text, "}}");
    cr_assert_null(compile(text.data, &e));
    cr_assert(strstr(e.msg, "512 properties"), "%s", e.msg);
    buf_clear(&text);
    e = (err){0};
    buf_puts(&text, "{\"type\":\"array\",\"prefixItems\":[");
    for (int i = 0; i < 400; i++) {
        buf_printf(&text, "%s{\"properties\":{", i ? "," : "");
        for (int k = 0; k < 8; k++)
            buf_printf(&text, "%s\"p%d\":{\"maxLength\":%d}", k ? "," : "", k, i);
        buf_puts(&text, "}}");
    }
    buf_puts(&text, "]}");
    cr_assert_null(compile(text.data, &e));
    cr_assert(strstr(e.msg, "2048 parts"), "%s", e.msg);
    buf_deinit(&text);
}

Test(constrain_refused, long_references_followed_from_many_places_are_refused_in_time) {
    buf text = {0}, path = {0};
    err e = {0};
    const int depth = 40, length = 250;
    for (int i = 0; i < depth; i++) /* the path to the target: keys of the greatest length */
        buf_printf(&path, "/%0*d", length, i);
    buf_puts(&text, "{\"type\":\"array\",\"prefixItems\":[");
    for (int i = 0; i < 500; i++)
        buf_printf(&text, "%s{\"$ref\":\"#/$defs/r\"}", i ? "," : "");
    buf_printf(&text, "],\"$defs\":{\"r\":{\"$ref\":\"#/$defs%s\"}", path.data);
    for (int i = 0; i < depth; i++)
        buf_printf(&text, "%s\"%0*d\":", i ? "{" : ",", length, i);
    buf_puts(&text, "{\"type\":\"null\"}");
    for (int i = 0; i < depth + 1; i++)
        buf_puts(&text, "}");
    cr_assert_null(compile(text.data, &e));
    cr_assert(strstr(e.msg, "too long to follow"), "%s", e.msg);
    buf_deinit(&text);
    buf_deinit(&path);
}
