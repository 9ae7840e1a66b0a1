/* test_jinja_bounds.c - wrong, unsupported and too costly templates. */
#include "base/cancel.h"
#include "base/json.h"
#include "tests/lib/testlib.h"
#include "text/jinja.h"

#include <criterion/criterion.h>
#include <string.h>

TestSuite(jinja_bounds, .fini = fail_on_leaks, .timeout = HANGS_S);

static const char variables[] = "{\"s\":\"text\",\"n\":5,\"no\":null,\"l\":[3,1,2],\"d\":{\"a\":1},"
                                "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}";

typedef struct {
    const char *template, *message;
} row;

/* Parses and renders a template; *e holds the reason of a failure. */
static err_code outcome(const char *template, const char *json, jinja_input in, err *e) {
    json_t *vars = json_loads(json, 0, NULL), *value;
    const char *name;
    jinja_var list[32];
    jinja_output out = {0};
    jinja *tmpl;
    *e = (err){0};
    cr_assert_not_null(vars);
    in.vars = list;
    json_object_foreach(vars, name, value) list[in.n_vars++] = (jinja_var){name, value, false};
    if (jinja_parse(&tmpl, template, strlen(template), "config.json", e) == 0) {
        if (jinja_render(tmpl, &in, &out, e) != 0) {
            cr_expect_eq(out.text.len, 0);
            cr_expect_eq(out.n_runs, 0);
        }
    } else {
        cr_expect_null(tmpl);
    }
    jinja_output_deinit(&out);
    jinja_close(tmpl);
    json_decref(vars);
    return e->code;
}

static void check(const row *rows, size_t n, err_code code) {
    for (size_t i = 0; i < n; i++) {
        err e;
        cr_expect_eq(outcome(rows[i].template, variables, (jinja_input){0}, &e), code, "%s: %s",
                     rows[i].template, e.msg);
        cr_expect_str_eq(e.msg, rows[i].message, "%s: %s", rows[i].template, e.msg);
    }
}

Test(jinja_bounds, a_template_that_is_wrong_is_refused_with_its_line_and_the_thing) {
    static const row rows[] = {
        {"a\nb\n{{ s", "config.json: chat template, line 3: '{{' has no '}}'"},
        {"\n{% if s %}x", "config.json: chat template, line 2: a tag has no 'endif'"},
        {"{{ 1 + }}", "config.json: chat template, line 1: an expression was expected, not '}}'"},
        {"{{ (1 }}", "config.json: chat template, line 1: unexpected '}'"},
        {"{{ 'a }}", "config.json: chat template, line 1: a string has no end"},
        {"\n\n{# a", "config.json: chat template, line 3: a comment has no end"},
        {"{% raw %}x", "config.json: chat template, line 1: raw has no endraw"},
        {"{% endif %}",
         "config.json: chat template, line 1: the tag 'endif' is not supported here"},
        {"{% break %}", "config.json: chat template, line 1: 'break' stands outside of a loop"},
        {"{% for x l %}", "config.json: chat template, line 1: 'in' was expected, not 'l'"},
        {"{% for i in l %}{% set x %}{% break %}{% endset %}{% endfor %}",
         "config.json: chat template, line 1: 'break' stands outside of a loop"},
        {"{{ s $ }}", "config.json: chat template, line 1: unexpected character '$'"},
        {"{% set true = 1 %}",
         "config.json: chat template, line 1: a name was expected, not 'true'"},
        {"{{ '\\N{DASH}' }}",
         "config.json: chat template, line 1: the escape '\\N' is wrong or not supported"},
        {"{{ f(a=1, a=2) }}",
         "config.json: chat template, line 1: the argument 'a' is given twice"},
        {"\xff", "config.json: chat template, line 1: it is not UTF-8"},
    };
    check(rows, ARRAY_LEN(rows), ERR_BAD_FILE);
}

Test(jinja_bounds, what_is_not_supported_is_refused_by_name_before_anything_is_rendered) {
    static const row rows[] = {
        {"{% if no %}{{ s|urlize }}{% endif %}",
         "config.json: chat template, line 1: the filter 'urlize' is not supported"},
        {"{% if no %}{{ s is filter }}{% endif %}",
         "config.json: chat template, line 1: the test 'filter' is not supported"},
        {"\n{{ s.encode() }}",
         "config.json: chat template, line 2: the method 'encode' is not supported"},
        {"{% for x in l recursive %}{% endfor %}",
         "config.json: chat template, line 1: a recursive 'for' is not supported"},
        {"{% include 'x' %}",
         "config.json: chat template, line 1: the tag 'include' is not supported here"},
        {"{% extends 'x' %}",
         "config.json: chat template, line 1: the tag 'extends' is not supported here"},
        {"{% do l.append(1) %}",
         "config.json: chat template, line 1: the tag 'do' is not supported here"},
        {"{{ f(*l) }}",
         "config.json: chat template, line 1: '*' before an argument is not supported"},
        {"{{ 99999999999999999999 }}",
         "config.json: chat template, line 1: the number 99999999999999999999 is not supported"},
    };
    check(rows, ARRAY_LEN(rows), ERR_BAD_FILE);
}

Test(jinja_bounds, a_rendering_that_makes_no_sense_says_where_and_why) {
    static const row rows[] = {
        {"{{ raise_exception('Roles ' + 'must alternate') }}",
         "the chat template refuses the messages: Roles must alternate"},
        {"\n{{ missing.x }}", "chat template, line 2: 'missing' is undefined"},
        {"{{ d.zz.x }}", "chat template, line 1: the member 'zz' is undefined"},
        {"{{ d['zz'] + 1 }}", "chat template, line 1: the member 'zz' is undefined"},
        {"{{ s + 1 }}", "chat template, line 1: '+' is not for str and int"},
        {"{{ s + no }}", "chat template, line 1: '+' is not for str and None"},
        {"{{ 'a' in no }}", "chat template, line 1: 'in' wants a list, a dict or a text, not None"},
        {"{{ no in s }}", "chat template, line 1: 'in' a text wants a text, not None"},
        {"{% for x in no %}{% endfor %}", "chat template, line 1: None is nothing to go through"},
        {"{{ no|length }}", "chat template, line 1: a None has no length"},
        {"{{ 1 < s }}", "chat template, line 1: int and str have no order"},
        {"{{ missing() }}", "chat template, line 1: 'missing' is undefined"},
        {"{{ s() }}", "chat template, line 1: a str is called, which is no function"},
        {"{{ l.append(1) }}",
         "chat template, line 1: 'append' would change a list, which a template may not"},
        {"{% set d.x = 1 %}", "chat template, line 1: only members of a namespace can be set"},
        {"{% for a, b in [[1]] %}{% endfor %}",
         "chat template, line 1: 1 values are given to 2 names"},
        {"{{ l|map('upper') }}",
         "chat template, line 1: the result of a filter is printed that only a "
         "loop or the filter 'list' can read"},
        {"{{ missing|tojson }}", "chat template, line 1: 'missing' is undefined"},
        {"{{ 1 / 0 }}", "chat template, line 1: a number is divided by zero"},
        {"{{ 9223372036854775807 + 1 }}", "chat template, line 1: a number is too large"},
        {"{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}",
         "chat template, line 1: the macro 'm' takes 1 arguments, not 2"},
        {"{{ s|trim(1, 2) }}", "chat template, line 1: 'trim' does not take 2 arguments"},
        {"{{ s|trim(x=1) }}", "chat template, line 1: 'trim' takes no argument 'x'"},
        {"{{ s.split('') }}", "chat template, line 1: 'split' has an empty separator"},
        {"{{ {[1]: 2} }}", "chat template, line 1: list cannot be the key of a dict"},
        {"{{ s.upper }}", "chat template, line 1: a method is printed, which is no text"},
        {"{{ '%d'|format(s) }}", "chat template, line 1: a str is written as a number"},
        {"{{ n[1:] }}", "chat template, line 1: a int has no slices"},
    };
    check(rows, ARRAY_LEN(rows), ERR_BAD_PARAM);
}

Test(jinja_bounds, no_template_takes_more_than_its_bounds) {
    static const row rows[] = {
        {"{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
         "chat template, line 1: it takes more than 10000000 steps"},
        {"{{ 'x' * 999999999 }}",
         "chat template, line 1: it makes a text of more than 67108864 bytes"},
        {"{% set ns = namespace(x=s) %}{% for a in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% "
         "endfor %}",
         "chat template, line 1: it makes a text of more than 67108864 bytes"},
        {"{% set ns = namespace(x=l) %}{% for a in range(99) %}{% set ns.x = ns.x + ns.x %}{% "
         "endfor %}",
         "chat template, line 1: it takes more than 268435456 bytes of memory"},
        {"{% set ns = namespace(x=l) %}{% for a in range(9999) %}{% set ns.x = [ns.x] %}{% endfor "
         "%}{{ ns.x }}",
         "chat template, line 1: it is nested more than 1500 deep"},
        {"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
         "chat template, line 1: it is nested more than 1500 deep"},
        {"{{ range(999999999) }}", "chat template, line 1: 'range' has more than 100000 numbers"},
        {"{{ l * 999999999 }}", "chat template, line 1: it makes a list of too many items"},
        {"{{ s.ljust(999999999) }}",
         "chat template, line 1: it makes a text of more than 67108864 bytes"},
        {"{{ s|tojson(indent=999999999) }}",
         "chat template, line 1: 'indent' of 'tojson' is more than 100"},
        {"{{ '%999999999d' % n }}",
         "chat template, line 1: a text is to be filled up to more than 1000 characters"},
    };
    check(rows, ARRAY_LEN(rows), ERR_COSTLY);
}

static char *repeated(buf *text, const char *piece, size_t n) {
    buf_clear(text);
    for (size_t i = 0; i < n; i++)
        buf_puts(text, piece);
    cr_assert(!text->failed);
    return text->data;
}

Test(jinja_bounds, nesting_beyond_its_bound_is_refused_while_it_is_read) {
    static const char *const pieces[] = {
        "{{ (",  "{{ ((((",         "{% if s %}", "{% for i in l %}", "{{ not ",
        "{{ - ", "{% macro m() %}", "{{ [",       "{% set ("};
    buf out = {0};
    for (size_t i = 0; i < ARRAY_LEN(pieces); i++) {
        err e;
        cr_expect_eq(outcome(repeated(&out, pieces[i], 20000), "{}", (jinja_input){0}, &e),
                     ERR_BAD_FILE);
    }
    static const char *const chains[] = {"+1",    "|trim", ".a",  "[0]",     " if 1",
                                         " or 1", "**1",   "-(1", " is none"};
    for (size_t i = 0; i < ARRAY_LEN(chains); i++) {
        err e;
        buf whole = {0};
        buf_printf(&whole, "{{ 1%s }}", repeated(&out, chains[i], 5000));
        cr_expect_eq(outcome(whole.data, "{}", (jinja_input){0}, &e), ERR_BAD_FILE, "%s",
                     chains[i]);
        buf_deinit(&whole);
    }
    buf_deinit(&out);
}

Test(jinja_bounds, a_template_of_too_many_bytes_or_words_is_refused) {
    buf out = {0};
    err e;
    cr_expect_eq(outcome(repeated(&out, "x", (1 << 20) + 1), "{}", (jinja_input){0}, &e),
                 ERR_BAD_FILE);
    cr_expect_eq(outcome(repeated(&out, "x", 1 << 20), "{}", (jinja_input){0}, &e), ERR_NONE, "%s",
                 e.msg);
    cr_expect_eq(outcome(repeated(&out, "{{1}}", 100000), "{}", (jinja_input){0}, &e),
                 ERR_BAD_FILE);
    cr_expect_eq(outcome(repeated(&out, "{{1}}", 80000), "{}", (jinja_input){0}, &e), ERR_NONE,
                 "%s", e.msg);
    buf_deinit(&out);
}

Test(jinja_bounds, a_value_that_a_client_nested_too_deep_is_refused) {
    buf out = {0};
    err e;
    for (size_t deep = 199; deep <= 201; deep++) {
        buf json = {0};
        buf_printf(&json, "{\"x\":%s", repeated(&out, "[", deep));
        buf_printf(&json, "%s}", repeated(&out, "]", deep));
        cr_expect_eq(outcome("{{ x|tojson }}{{ x == x }}", json.data, (jinja_input){0}, &e),
                     deep <= 200 ? ERR_NONE : ERR_COSTLY, "%zu: %s", deep, e.msg);
        buf_deinit(&json);
    }
    buf_deinit(&out);
}

Test(jinja_bounds, the_callers_own_bounds_hold) {
    err e;
    cr_expect_eq(outcome("{{ s }}{{ s }}", variables, (jinja_input){.max_output = 7}, &e),
                 ERR_COSTLY);
    cr_expect_eq(outcome("{{ s }}{{ s }}", variables, (jinja_input){.max_output = 8}, &e),
                 ERR_NONE);
    cr_expect_eq(outcome("{{ s|list }}", variables, (jinja_input){.max_memory = 600}, &e),
                 ERR_COSTLY);
    cr_expect_eq(outcome("{{ s }}", variables, (jinja_input){.max_steps = 3}, &e), ERR_COSTLY);
    const char *list = "{% set a = range(5000)|list %}",
               *copied = "{% set a = range(5000)|list %}{% set b = a.copy() %}";
    cr_expect_eq(outcome(list, "{}", (jinja_input){.max_steps = 800}, &e), ERR_NONE);
    cr_expect_eq(outcome(copied, "{}", (jinja_input){.max_steps = 800}, &e), ERR_COSTLY);
}

Test(jinja_bounds, a_cancelled_rendering_ends_early) {
    atomic_bool stop = true;
    err e;
    cancel_watch(&stop);
    err_code code =
        outcome("{% for a in range(999) %}{{ a }}{% endfor %}", "{}", (jinja_input){0}, &e);
    cancel_watch(NULL);
    cr_expect_eq(code, ERR_CANCELLED);
}

/* A conversation of n messages with contents of some 300 bytes. */
static char *conversation(buf *text, size_t n) {
    buf_clear(text);
    buf_puts(text, "{\"messages\":[");
    for (size_t i = 0; i < n; i++)
        buf_printf(text, "%s{\"role\":\"user\",\"content\":\"%0300zu\"}", i ? "," : "", i);
    buf_puts(text, "]}");
    cr_assert(!text->failed);
    return text->data;
}

/* A text of 310 KB. With a copy at every step it would take 155 MB. */
Test(jinja_bounds, a_text_that_a_long_conversation_makes_longer_takes_memory_in_proportion) {
    static const char *const templates[] = {
        "{% set ns = namespace(x='') %}{% for m in messages %}{% set ns.x = ns.x + m.role + ': ' + "
        "m.content %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x='') %}{% for m in messages %}{% set ns.x = ns.x ~ m.role ~ ': ' ~ "
        "m.content %}{% endfor %}{{ ns.x }}",
        "{% set x %}{% for m in messages %}{{ m.role + ': ' + m.content }}{% endfor %}{% endset "
        "%}{{ x }}"};
    buf out = {0};
    for (size_t i = 0; i < ARRAY_LEN(templates); i++) {
        err e;
        jinja_input in = {.max_memory = 8 << 20, .max_steps = 50000};
        cr_expect_eq(outcome(templates[i], conversation(&out, 1000), in, &e), ERR_NONE, "%s: %s",
                     templates[i], e.msg);
    }
    buf_deinit(&out);
}
