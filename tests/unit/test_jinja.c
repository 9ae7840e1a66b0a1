/* test_jinja.c - the output of templates. Every expected text comes from Python's jinja2, set up as
 * in transformers. */
#include "base/json.h"
#include "tests/lib/testlib.h"
#include "text/jinja.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void in_utc(void) {
    setenv("TZ", "UTC", 1);
    tzset();
}

TestSuite(jinja, .init = in_utc, .fini = fail_on_leaks, .timeout = HANGS_S);

static const char variables[] =
    "{\"s\": \"Hello World\", \"u\": \"h\xc3\xa9llo \xc3\x9f \xe6\x97\xa5\xe6\x9c\xac\", \"n\": 5, "
    "\"f\": 2.5, \"neg\": -7, \"t\": true, \"no\": null, \"l\": [3, 1, 2], \"ls\": [\"b\", \"A\", "
    "\"c\"], \"d\": {\"b\": 1, \"a\": {\"x\": [1, {\"q\": null}]}, \"items\": 5}, \"e\": \"\", "
    "\"q\": \"it's \\\"q\\\"\\n\\t\\\\ \\u0001 \xc3\xa9\xe2\x80\xa8\", \"sp\": \"  a  b \\n c  \", "
    "\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}, {\"role\": \"assistant\", "
    "\"content\": null, \"tool_calls\": [{\"function\": {\"name\": \"f\", \"arguments\": {\"a\": "
    "1}}}]}, {\"role\": \"tool\", \"content\": \" x \"}]}";

typedef struct {
    const char *template, *expected;
} row;

static void check(const row *rows, size_t n) {
    json_t *vars = json_loads(variables, 0, NULL), *value;
    const char *name;
    jinja_var list[32];
    jinja_input in = {.vars = list, .now = 1760000000};
    cr_assert_not_null(vars);
    json_object_foreach(vars, name, value) list[in.n_vars++] = (jinja_var){name, value, false};
    for (size_t i = 0; i < n; i++) {
        jinja *tmpl;
        jinja_output out;
        err e = {0};
        cr_assert_eq(jinja_parse(&tmpl, rows[i].template, strlen(rows[i].template), "row", &e), 0,
                     "%s: %s", rows[i].template, e.msg);
        cr_assert_eq(jinja_render(tmpl, &in, &out, &e), 0, "%s: %s", rows[i].template, e.msg);
        cr_expect_str_eq(out.text.data ? out.text.data : "", rows[i].expected, "%s",
                         rows[i].template);
        jinja_output_deinit(&out);
        jinja_close(tmpl);
    }
    json_decref(vars);
}

static const row values_print_as_python_prints_them_rows[] = {
    {"{{ s }}|{{ n }}|{{ f }}|{{ t }}|{{ no }}|{{ missing }}|", "Hello World|5|2.5|True|None||"},
    {"{{ l }}{{ d }}{{ [q] }}", "[3, 1, 2]{'b': 1, 'a': {'x': [1, {'q': None}]}, 'items': "
                                "5}['it\\'s \"q\"\\n\\t\\\\ \\x01 \xc3\xa9\\u2028']"},
    {"{{ [1.0, 1e16, 1e15, 0.1, 1e-5, 0.0001, 1e300, 123456789012345.6] }}",
     "[1.0, 1e+16, 1000000000000000.0, 0.1, 1e-05, 0.0001, 1e+300, 123456789012345.6]"},
    {"{{ (1,) }}{{ () }}{{ 1, 2 }}{{ {'a': [true, none]} }}", "(1,)()(1, 2){'a': [True, None]}"},
    {"{{ d.items() }}{{ d.keys() }}{{ d.values() }}{{ range(3) }}{{ range(1, 9, 2) }}",
     "dict_items([('b', 1), ('a', {'x': [1, {'q': None}]}), ('items', 5)])dict_keys(['b', 'a', "
     "'items'])dict_values([1, {'x': [1, {'q': None}]}, 5])range(0, 3)range(1, 9, 2)"},
};
Test(jinja, values_print_as_python_prints_them) {
    check(values_print_as_python_prints_them_rows,
          ARRAY_LEN(values_print_as_python_prints_them_rows));
}

static const row constants_mean_what_python_means_rows[] = {
    {"{{ 'a\\nb\\t\\\\ \\' \\\" \\x41 \\u00e9 \\101 \\q' }}", "a\nb\t\\ ' \" A \xc3\xa9 A \\q"},
    {"{{ 'a' 'b' \"c\" }}", "abc"},
    {"{{ 1_000 }} {{ 0x1F }} {{ 0b101 }} {{ 0o17 }} {{ 1.5e3 }} {{ 1_0.5 }}",
     "1000 31 5 15 1500.0 10.5"},
    {"{{ 'a\\\nb' }}", "ab"},
    {"{{ True }}{{ false }}{{ None }}", "TrueFalseNone"},
};
Test(jinja, constants_mean_what_python_means) {
    check(constants_mean_what_python_means_rows, ARRAY_LEN(constants_mean_what_python_means_rows));
}

static const row operators_bind_and_compute_as_in_python_rows[] = {
    {"{{ 1 + 2 * 3 - 4 / 2 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 7.5 // 2 }} "
     "{{ 2 ** 10 }} {{ 2 ** -1 }} {{ 2 ** 3 ** 2 }} {{ -2 ** 2 }}",
     "5.0 3 -4 2 -2 3.0 1024 0.5 64 4"},
    {"{{ 3 * 'ab' }}{{ 'ab' * -1 }}{{ [1] * 2 }}{{ [1] + [2] }}{{ (1,) + (2,) }}",
     "ababab[1, 1][1, 2](1, 2)"},
    {"{{ 'a' ~ 1 ~ none ~ [1, 'x'] ~ missing }}", "a1None[1, 'x']"},
    {"{{ 1 < 2 < 3 }}{{ 1 < 3 < 2 }}{{ 1 == 1.0 }}{{ true == 1 }}{{ [1, 2] < [1, 3] }}{{ [1] == "
     "(1,) }}{{ missing == other }}",
     "TrueFalseTrueTrueTrueFalseTrue"},
    {"{{ 'a' in 'abc' }}{{ 'x' not in 'abc' }}{{ 1 in l }}{{ 'a' in d }}{{ 1 in missing }}{{ not 1 "
     "in [1] }}",
     "TrueTrueTrueTrueFalseFalse"},
    {"{{ t and n }}{{ e or no or 'last' }}{{ not e }}{{ t and not no }}", "5lastTrueTrue"},
    {"{{ 1 if t else 2 }}{{ 1 if e }}|{{ 1 if e else 2 if e else 3 }}", "1|3"},
    {"{{ 1 + 2|string|length }}{{ not n is string }}{{ -neg|abs }}{{ 'A' ~ 'b'|upper }}",
     "2True7AB"},
    {"{{ 0.1 + 0.2 }}{{ 1 / 3 }}{{ 10 / 5 }}", "0.300000000000000040.33333333333333332.0"},
};
Test(jinja, operators_bind_and_compute_as_in_python) {
    check(operators_bind_and_compute_as_in_python_rows,
          ARRAY_LEN(operators_bind_and_compute_as_in_python_rows));
}

static const row texts_are_counted_and_cut_by_characters_rows[] = {
    {"{{ u|length }}{{ u[1] }}{{ u[-2] }}{{ u[1:4] }}{{ u[::-1] }}{{ u[::3] }}{{ u[20:] }}{{ "
     "u[-3:] }}",
     "10\xc3\xa9\xe6\x97\xa5\xc3\xa9ll\xe6\x9c\xac\xe6\x97\xa5 \xc3\x9f "
     "oll\xc3\xa9hhl\xc3\x9f\xe6\x9c\xac \xe6\x97\xa5\xe6\x9c\xac"},
    {"{{ s[5:2] }}{{ s[5:2:-1] }}{{ s[-100:3] }}{{ s[100] }}|", " olHel|"},
    {"{{ l[::-1] }}{{ l[1:] }}{{ l[-1] }}{{ l[5] }}{{ l[none:2] }}{{ messages[::-1][0].role }}",
     "[2, 1, 3][1, 2]2[3, 1]tool"},
};
Test(jinja, texts_are_counted_and_cut_by_characters) {
    check(texts_are_counted_and_cut_by_characters_rows,
          ARRAY_LEN(texts_are_counted_and_cut_by_characters_rows));
}

static const row what_is_not_there_is_undefined_rows[] = {
    {"{{ d.zzz }}{{ d['zzz'] }}{{ no.foo }}{{ n.foo }}{{ s.foo }}|{{ missing is defined }}{{ d.zzz "
     "is undefined }}",
     "|FalseTrue"},
    {"{% for x in missing %}a{% else %}empty{% endfor %}{{ missing|length }}{{ missing|list }}{{ "
     "missing|default('D') }}{{ e|d('D', true) }}",
     "empty0[]DD"},
    {"{{ d['items'] }}{{ d.items is callable }}{{ l.append is defined }}{{ d.pop }}|",
     "5TrueFalse|"},
};
Test(jinja, what_is_not_there_is_undefined) {
    check(what_is_not_there_is_undefined_rows, ARRAY_LEN(what_is_not_there_is_undefined_rows));
}

static const row loops_know_where_they_are_rows[] = {
    {"{% for x in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ "
     "loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.previtem }}{{ loop.nextitem }}{{ "
     "loop.depth }}{{ loop.cycle('a', 'b') }}{{ loop.changed(x > 1) }};{% endfor %}",
     "1032TrueFalse311aTrue;2121FalseFalse3321bTrue;3210FalseTrue311aTrue;"},
    {"{% for x in l if x > 1 %}{{ loop.index }}/{{ loop.length }}:{{ x }};{% else %}none{% endfor "
     "%}{% for x in l if x > 9 %}{% else %}none{% endfor %}",
     "1/2:3;2/2:2;none"},
    {"{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}{% for a, (b, c) in [[1, [2, 3]]] "
     "%}{{ a + b + c }}{% endfor %}",
     "b=1;a={'x': [1, {'q': None}]};items=5;6"},
    {"{% for x in l %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% if x == 2 %}{% break %}{% "
     "endif %}{% endfor %}",
     "32"},
    {"{% for c in 'h\xc3\xa9y' %}{{ c }};{% endfor %}{% for k in d %}{{ k }};{% endfor %}",
     "h;\xc3\xa9;y;b;a;items;"},
    {"{% for x in l %}{% for y in l %}{{ loop.index }}{{ loop.depth }}{% endfor %}{{ loop.index "
     "}};{% endfor %}",
     "1121311;1121312;1121313;"},
};
Test(jinja, loops_know_where_they_are) {
    check(loops_know_where_they_are_rows, ARRAY_LEN(loops_know_where_they_are_rows));
}

static const row names_live_where_jinja_says_rows[] = {
    {"{% set x = 1 %}{% for i in l %}{% set x = x + 1 %}{{ x }}{% endfor %}{{ x }}", "2221"},
    {"{% set a = 1 %}{% if t %}{% set a = 2 %}{% endif %}{{ a }}", "2"},
    {"{% set ns = namespace(x=1, y='a') %}{% for i in l %}{% set ns.x = ns.x + i %}{% endfor %}{{ "
     "ns.x }}{{ ns.y }}{{ ns.z }}",
     "7a"},
    {"{% set a, b = 1, 2 %}{% set a, b = b, a %}{{ a }}{{ b }}", "21"},
    {"{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ a }}", "3"},
    {"{% macro m() %}{{ later }}{% endmacro %}{% set later = 'L' %}{{ m() }}", "L"},
    {"{% macro m() %}{{ i }}{% endmacro %}{% for i in l %}{{ m() }}{% endfor %}|{% for i in l %}{% "
     "macro k() %}{{ i }}{% endmacro %}{{ k() }}{% endfor %}",
     "|312"},
    {"{% generation %}x{% set z = 1 %}{% endgeneration %}{{ z }}", "x"},
};
Test(jinja, names_live_where_jinja_says) {
    check(names_live_where_jinja_says_rows, ARRAY_LEN(names_live_where_jinja_says_rows));
}

static const row macros_and_blocks_give_text_rows[] = {
    {"{% macro m(a, b=2, c='x') %}[{{ a }},{{ b }},{{ c }}]{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ "
     "m(1, c=5) }}{{ m(a=9) }}{{ m() }}",
     "[1,2,x][1,3,x][1,2,5][9,2,x][,2,x]"},
    {"{% macro m(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, z=4) }}",
     "1(2, 3){'z': 4}"},
    {"{% macro m(a) %}<{{ caller(a) }}>{% endmacro %}{% call(x) m(5) %}in{{ x }}{% endcall %}",
     "<in5>"},
    {"{% macro r(x) %}{{ x }}{% if x > 0 %}{{ r(x - 1) }}{% endif %}{% endmacro %}{{ r(5) }}",
     "543210"},
    {"{% set x | upper | trim %}  a{{ n }}b {% endset %}[{{ x }}]", "[A5B]"},
    {"{% filter replace('a', 'b')|upper %}aXa{{ s }}{% endfilter %}", "BXBHELLO WORLD"},
};
Test(jinja, macros_and_blocks_give_text) {
    check(macros_and_blocks_give_text_rows, ARRAY_LEN(macros_and_blocks_give_text_rows));
}

static const row white_space_goes_as_trim_blocks_and_lstrip_blocks_say_rows[] = {
    {"a\n  {% if t %}\n  b\n  {% endif %}\nc\n", "a\n  b\nc"},
    {"a\n\t{%+ if t %}\nb{% endif +%}\nc", "a\n\tb\nc"},
    {"{% if t -%}\n\n x {%- endif %}\n\ny", "x\ny"},
    {"x\n  {# c #}\ny", "x\ny"},
    {"x {# c #}\ny", "x y"},
    {"{{ s }}\n\n", "Hello World\n"},
    {"a\r\nb\rc\r\n", "a\nb\nc"},
    {"{% raw %}\n {{ a }} \n{% endraw %}\nb", "\n {{ a }} \nb"},
    {"{%- raw -%}\n x \n{%- endraw -%}\n y", "xy"},
    {"{{ 'x' }}  {% if t %}\ny{% endif %}", "x  y"},
    {"  {{- s -}}  w", "Hello Worldw"},
    {"a\n\xe3\x80\x80{% if t %}x{% endif %}", "a\nx"},
    {"{#- a -#}\n\n b", "b"},
    {"  {%- if t -%}   x   {%- endif -%}  y", "xy"},
};
Test(jinja, white_space_goes_as_trim_blocks_and_lstrip_blocks_say) {
    check(white_space_goes_as_trim_blocks_and_lstrip_blocks_say_rows,
          ARRAY_LEN(white_space_goes_as_trim_blocks_and_lstrip_blocks_say_rows));
}

static const row filters_do_what_pythons_do_rows[] = {
    {"{{ s|upper }}{{ s|lower }}{{ u|title }}{{ u|capitalize }}{{ \"they're (the) [uk] a-b\"|title "
     "}}{{ ' x '|trim }}{{ s|trim('Hd') }}",
     "HELLO WORLDhello worldH\xc3\xa9llo SS \xe6\x97\xa5\xe6\x9c\xacH\xc3\xa9llo \xc3\x9f "
     "\xe6\x97\xa5\xe6\x9c\xacThey're (The) [Uk] A-Bxello Worl"},
    {"{{ d|tojson }}{{ q|tojson }}{{ u|tojson(ensure_ascii=true) }}",
     "{\"b\": 1, \"a\": {\"x\": [1, {\"q\": null}]}, \"items\": 5}\"it's \\\"q\\\"\\n\\t\\\\ "
     "\\u0001 \xc3\xa9\xe2\x80\xa8\"\"h\\u00e9llo \\u00df \\u65e5\\u672c\""},
    {"{{ d|tojson(indent=2) }}{{ [[], {}, [1]]|tojson(indent=4) }}{{ d|tojson(separators=(',', "
     "':'), sort_keys=true) }}{{ {1: 2, none: true}|tojson }}",
     "{\n  \"b\": 1,\n  \"a\": {\n    \"x\": [\n      1,\n      {\n        \"q\": null\n      }\n  "
     "  ]\n  },\n  \"items\": 5\n}[\n    [],\n    {},\n    [\n        1\n    "
     "]\n]{\"a\":{\"x\":[1,{\"q\":null}]},\"b\":1,\"items\":5}{\"1\": 2, \"null\": true}"},
    {"{{ l|first }}{{ l|last }}{{ l|join(', ') }}{{ messages|join(', ', attribute='role') }}{{ "
     "l|sum }}{{ l|max }}{{ l|min }}",
     "323, 1, 2user, assistant, tool631"},
    {"{{ ls|sort }}{{ ls|sort(case_sensitive=true) }}{{ l|sort(reverse=true) }}{{ "
     "l|sort|reverse|list }}{{ messages|sort(attribute='role')|map(attribute='role')|list }}",
     "['A', 'b', 'c']['A', 'b', 'c'][3, 2, 1][3, 2, 1]['assistant', 'tool', 'user']"},
    {"{{ d|dictsort|list }}{{ d|items|list }}{{ d|list }}{{ [1, 2, 1]|unique|list }}{{ [1, 2, "
     "3]|batch(2)|list }}",
     "[('a', {'x': [1, {'q': None}]}), ('b', 1), ('items', 5)][('b', 1), ('a', {'x': [1, {'q': "
     "None}]}), ('items', 5)]['b', 'a', 'items'][1, 2][[1, 2], [3]]"},
    {"{{ messages|map(attribute='role')|list }}{{ ls|map('upper')|list }}{{ "
     "messages|map(attribute='zz', default='Q')|list }}",
     "['user', 'assistant', 'tool']['B', 'A', 'C']['Q', 'Q', 'Q']"},
    {"{{ messages|selectattr('role', 'equalto', 'user')|list }}{{ "
     "messages|rejectattr('content')|map(attribute='role')|list }}{{ [1, 'a', "
     "none]|select('number')|list }}{{ [0, 1]|reject|list }}",
     "[{'role': 'user', 'content': 'hi'}]['assistant'][1][0]"},
    {"{{ '3.7'|int }}{{ 'x'|int(7) }}{{ '42'|int + 1 }}{{ '1e3'|float }}{{ neg|abs }}{{ 2.5|round "
     "}}{{ 2.675|round(2) }}{{ 2.1|round(0, 'ceil') }}{{ n|round }}",
     "37431000.072.02.673.05"},
    {"{{ 'a\nb\n\nc'|indent }}|{{ 'a\nb\n\nc'|indent(2, true, true) }}|{{ s|replace('l', 'L', 2) "
     "}}|{{ s|wordcount }}|{{ 'a'|center(5) }}|",
     "a\n    b\n\n    c|  a\n  b\n  \n  c|HeLLo World|2|  a  |"},
    {"{{ '<&\"'|e }}{{ ('<'|e) + '<' }}{{ ('<'|e) ~ '<' }}{{ '<'|safe + '>' }}{{ "
     "'%s-%d'|format('a', 5) }}{{ 5|string + 'x' }}",
     "&lt;&amp;&#34;&lt;&lt;&lt;<<&gt;a-55x"},
    {"{% if l|select('gt', 100) %}an iterator is true{% endif %}{% set g = l|map('string') %}{{ "
     "g|list }}{{ g|list }}",
     "an iterator is true['3', '1', '2'][]"},
};
Test(jinja, filters_do_what_pythons_do) {
    check(filters_do_what_pythons_do_rows, ARRAY_LEN(filters_do_what_pythons_do_rows));
}

static const row methods_do_what_pythons_do_rows[] = {
    {"{{ sp.split() }}{{ s.split('l') }}{{ s.split('l', 1) }}{{ s.rsplit('l', 1) }}{{ "
     "sp.split(none, 1) }}{{ sp.rsplit(none, 1) }}",
     "['a', 'b', 'c']['He', '', 'o Wor', 'd']['He', 'lo World']['Hello Wor', 'd']['a', 'b \\n c  "
     "']['  a  b', 'c']"},
    {"{{ sp.strip() }}|{{ sp.lstrip() }}|{{ sp.rstrip() }}|{{ s.strip('Hd') }}|{{ "
     "s.removeprefix('He') }}|{{ s.removesuffix('ld') }}",
     "a  b \n c|a  b \n c  |  a  b \n c|ello Worl|llo World|Hello Wor"},
    {"{{ s.startswith('He') }}{{ s.endswith(('x', 'ld')) }}{{ s.find('o') }}{{ s.rfind('o') }}{{ "
     "s.index('W') }}{{ s.count('l') }}{{ u.find('\xe6\x97\xa5') }}{{ s.find('o', 5) }}",
     "TrueTrue476387"},
    {"{{ s.replace('l', 'L') }}{{ s.replace('l', 'L', 1) }}{{ 'ab'.replace('', '-') }}{{ "
     "s.partition(' ') }}{{ s.rpartition('zz') }}{{ ', '.join(ls) }}{{ q.splitlines() }}",
     "HeLLo WorLdHeLlo World-a-b-('Hello', ' ', 'World')('', '', 'Hello World')b, A, c['it\\'s "
     "\"q\"', '\\t\\\\ \\x01 \xc3\xa9']"},
    {"{{ u.upper() }}{{ u.title() }}{{ s.swapcase() }}{{ 'ab'.center(5, '*') }}{{ 'ab'.ljust(4) "
     "}}|{{ '-5'.zfill(4) }}{{ '\xc7\x86\xc5\x89 \xce\x9f\xce\xa3'.title() }}{{ '\xc4\xb0'.lower() "
     "}}",
     "H\xc3\x89LLO SS \xe6\x97\xa5\xe6\x9c\xacH\xc3\xa9llo Ss \xe6\x97\xa5\xe6\x9c\xachELLO "
     "wORLD**ab*ab  |-005\xc7\x85\xc5\x89 \xce\x9f\xcf\x82i\xcc\x87"},
    {"{{ '12'.isdigit() }}{{ 'ab'.isalpha() }}{{ 'a1'.isalnum() }}{{ ' '.isspace() }}{{ "
     "'AB'.isupper() }}{{ 'ab'.islower() }}{{ 'Ab'.istitle() }}",
     "TrueTrueTrueTrueTrueTrueTrue"},
    {"{{ d.get('b') }}{{ d.get('zz') }}{{ d.get('zz', 'D') }}{{ l.index(1) }}{{ l.count(1) }}{{ "
     "d.copy() }}",
     "1NoneD11{'b': 1, 'a': {'x': [1, {'q': None}]}, 'items': 5}"},
    {"{{ '%s|%5.1f|%-4d|%x|%%|%(a)s' % {'a': 1} if no else '%s|%5.1f|%-4d|%x|%%' % ('a', 2.25, 3, "
     "255) }}{{ '%(a)s' % {'a': 1} }}",
     "a|  2.2|3   |ff|%1"},
    {"{{ '{} {1}'.format(1, 2) if no else '{} {:>4}|{:,.2f}|{x!r}'.format(1, 'a', 1234.5, x='b') "
     "}}{{ '{{}}'.format() }}",
     "1    a|1,234.50|'b'{}"},
};
Test(jinja, methods_do_what_pythons_do) {
    check(methods_do_what_pythons_do_rows, ARRAY_LEN(methods_do_what_pythons_do_rows));
}

static const row tests_ask_what_pythons_ask_rows[] = {
    {"{% for v in [s, n, f, t, no, l, d, range(1)] %}{{ v is string }}{{ v is number }}{{ v is "
     "integer }}{{ v is float }}{{ v is boolean }}{{ v is mapping }}{{ v is sequence }}{{ v is "
     "iterable }}{{ v is none }}\n{% endfor %}",
     "TrueFalseFalseFalseFalseFalseTrueTrueFalse\nFalseTrueTrueFalseFalseFalseFalseFalseFalse\nFals"
     "eTrueFalseTrueFalseFalseFalseFalseFalse\nFalseTrueFalseFalseTrueFalseFalseFalseFalse\nFalseFa"
     "lseFalseFalseFalseFalseFalseFalseTrue\nFalseFalseFalseFalseFalseFalseTrueTrueFalse\nFalseFals"
     "eFalseFalseFalseTrueTrueTrueFalse\nFalseFalseFalseFalseFalseFalseTrueTrueFalse\n"},
    {"{{ missing is iterable }}{{ missing is sequence }}{{ n is odd }}{{ n is even }}{{ n is "
     "divisibleby 5 }}{{ n is eq 5 }}{{ n is in [5] }}{{ n is lt 6 }}{{ s is not string }}{{ no is "
     "sameas none }}{{ t is true }}{{ t is false }}",
     "TrueTrueTrueFalseTrueTrueTrueTrueFalseTrueTrueFalse"},
};
Test(jinja, tests_ask_what_pythons_ask) {
    check(tests_ask_what_pythons_ask_rows, ARRAY_LEN(tests_ask_what_pythons_ask_rows));
}

static const row functions_of_transformers_are_there_rows[] = {
    {"{{ strftime_now('%d %b %Y') }}{{ strftime_now('%Y-%m-%d') }}", "09 Oct 20252025-10-09"},
    {"{{ range(5)|list }}{{ range(5, 0, -2)|list }}{{ range(5)[-1] }}{{ dict(a=1, b='x') }}{{ "
     "dict({'a': 1}, b=2) }}",
     "[0, 1, 2, 3, 4][5, 3, 1]4{'a': 1, 'b': 'x'}{'a': 1, 'b': 2}"},
    {"{% set j = joiner(', ') %}{% for i in l %}{{ j() }}{{ i }}{% endfor %}{% set c = cycler('a', "
     "'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}",
     "3, 1, 2abab"},
};
Test(jinja, functions_of_transformers_are_there) {
    check(functions_of_transformers_are_there_rows,
          ARRAY_LEN(functions_of_transformers_are_there_rows));
}
