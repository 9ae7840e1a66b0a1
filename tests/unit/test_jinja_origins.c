/* test_jinja_origins.c - the origin of every byte of a rendering.
 *
 * The client's variables contain one letter, the template's constants another. Each keeps its
 * origin through every expression. */
#include "base/json.h"
#include "tests/lib/testlib.h"
#include "text/jinja.h"

#include <criterion/criterion.h>
#include <string.h>

TestSuite(jinja_origins, .fini = fail_on_leaks, .timeout = HANGS_S);

#define CLIENT "\xeb\xb7\x81" /* a letter without case */
#define OWN "\xe6\x97\xa5"    /* another one */

static const char variables[] =
    "{\"c\":\"a " CLIENT ", b" CLIENT "\\n" CLIENT "z\",\"w\":\"" CLIENT
    "\",\"n\":7,\"b\":true,\"r\":1.5,"
    "\"l\":[\"" CLIENT "\",\"x" CLIENT "\",[\"" CLIENT "\"]],\"d\":{\"k" CLIENT "\":\"" CLIENT
    "v\",\"z\":{\"" CLIENT "\":[1,\"" CLIENT "\"]}},\"bos\":\"<s>" OWN
    "\",\"messages\":[{\"role\":\"user\",\"content\":\"user\",\"name\":\"" CLIENT
    "\"},{\"role\":\"" CLIENT "\",\"content\":\"" CLIENT "\"}]}";

static jinja_output render(const char *template) {
    static const char *const roles[] = {"user", "assistant", NULL};
    json_t *vars = json_loads(variables, 0, NULL), *value;
    const char *name;
    jinja_var list[32];
    jinja_input in = {.vars = list, .roles = roles};
    jinja_output out;
    jinja *tmpl;
    err e = {0};
    cr_assert_not_null(vars);
    json_object_foreach(vars, name, value) list[in.n_vars++] =
        (jinja_var){name, value, strcmp(name, "bos") == 0};
    cr_assert_eq(jinja_parse(&tmpl, template, strlen(template), "row", &e), 0, "%s: %s", template,
                 e.msg);
    cr_assert_eq(jinja_render(tmpl, &in, &out, &e), 0, "%s: %s", template, e.msg);
    jinja_close(tmpl);
    json_decref(vars);
    return out;
}

static bool trusted_at(const jinja_output *out, size_t at) {
    size_t i = 0;
    while (out->runs[i].end <= at)
        i++;
    return out->runs[i].trusted;
}

/* "ttCCt": a letter for each byte. */
static void origins(const jinja_output *out, char *text, size_t room) {
    cr_assert_lt(out->text.len, room);
    for (size_t i = 0; i < out->text.len; i++)
        text[i] = trusted_at(out, i) ? 't' : 'C';
    text[out->text.len] = 0;
}

static void check_letters(const char *template, bool wants_own) {
    jinja_output out = render(template);
    size_t clients = 0, own = 0;
    for (size_t i = 0; i < out.text.len; i++) {
        unsigned char byte = (unsigned char)out.text.data[i];
        if (byte == (unsigned char)CLIENT[0]) {
            clients++;
            for (size_t k = 0; k < 3; k++)
                cr_expect(!trusted_at(&out, i + k), "%s: %s at %zu", template, out.text.data, i);
        } else if (byte == (unsigned char)OWN[0]) {
            own++;
            cr_expect(trusted_at(&out, i), "%s: %s at %zu", template, out.text.data, i);
        }
    }
    cr_expect_gt(clients, 0, "%s: %s", template, out.text.data);
    if (wants_own) cr_expect_gt(own, 0, "%s: %s", template, out.text.data);
    jinja_output_deinit(&out);
}

Test(jinja_origins, a_clients_bytes_stay_the_clients_through_every_filter) {
    static const char *const filters[] = {"trim",
                                          "trim('" OWN "')",
                                          "tojson",
                                          "tojson(indent=2)",
                                          "string",
                                          "default('x')",
                                          "d('x', true)",
                                          "upper",
                                          "lower",
                                          "title",
                                          "capitalize",
                                          "replace('a', 'b')",
                                          "indent",
                                          "indent(3, true, true)",
                                          "indent('" OWN "', true)",
                                          "escape",
                                          "e",
                                          "forceescape",
                                          "safe",
                                          "center(80)",
                                          "format",
                                          "list",
                                          "list|join",
                                          "list|first",
                                          "list|last",
                                          "join",
                                          "join('" OWN "')",
                                          "reverse",
                                          "sort",
                                          "sort(reverse=true)|join",
                                          "unique|join",
                                          "max",
                                          "batch(2, '" OWN "')|list",
                                          "map('upper')|list",
                                          "map('replace', 'a', 'b')|join",
                                          "select|join",
                                          "select('string')|list",
                                          "reject('none')|join('" OWN "')",
                                          "list|tojson",
                                          "list|string",
                                          "list|reverse|list|last",
                                          "e|upper",
                                          "title|lower|indent|trim"};
    for (size_t i = 0; i < ARRAY_LEN(filters); i++) {
        char template[200];
        bool lastly = strstr(filters[i], "first") || strstr(filters[i], "last");
        (void)snprintf(template, sizeof template, "{{ (w ~ '" OWN "' ~ c ~ '" OWN "' ~ w)|%s }}",
                       filters[i]);
        check_letters(template, !lastly && strcmp(filters[i], "max") != 0);
        (void)snprintf(template, sizeof template,
                       "{%% set x | %s %%}{{ w }}" OWN "{{ c }}{{ w }}{%% endset %%}{{ x }}",
                       filters[i]);
        check_letters(template, !lastly && strcmp(filters[i], "max") != 0);
    }
}

Test(jinja_origins, a_clients_bytes_stay_the_clients_through_every_method) {
    static const char *const methods[] = {"upper()",
                                          "lower()",
                                          "title()",
                                          "capitalize()",
                                          "swapcase()",
                                          "strip()",
                                          "lstrip('a')",
                                          "rstrip('z')",
                                          "split()",
                                          "split(',')[1]",
                                          "rsplit(' ', 1)",
                                          "rsplit(none, 1)[0]",
                                          "splitlines()",
                                          "splitlines(true)[0]",
                                          "partition(',')",
                                          "rpartition(',')[0]",
                                          "replace('a', '" OWN "')",
                                          "replace('" OWN "', 'a')",
                                          "replace(',', w)",
                                          "replace('', '-')",
                                          "join(['x', 'y'])",
                                          "join([w, '" OWN "'])",
                                          "removeprefix('x')",
                                          "removesuffix('x')",
                                          "format()",
                                          "ljust(90)",
                                          "rjust(90, '" OWN "')",
                                          "center(90, w)",
                                          "zfill(90)",
                                          "strip()[0:30]",
                                          "upper()[::-1]",
                                          "split('" OWN "')[0]"};
    for (size_t i = 0; i < ARRAY_LEN(methods); i++) {
        char template[200];
        (void)snprintf(template, sizeof template, "{{ (w ~ '" OWN "' ~ c ~ '" OWN "' ~ w).%s }}",
                       methods[i]);
        check_letters(template, false);
    }
}

Test(jinja_origins, a_clients_bytes_stay_the_clients_through_everything_else) {
    static const char *const templates[] = {
        "{{ '" OWN "' + w + '" OWN "' }}",
        "{{ '" OWN "' ~ l ~ d }}",
        "{{ (w ~ '" OWN "') * 3 }}",
        "{{ (w ~ '" OWN "' ~ w)[1:] }}",
        "{{ (c ~ '" OWN "')[::-1] }}",
        "{{ (c ~ '" OWN "')[2] }}{{ '" OWN "' }}",
        "{% for x in c ~ '" OWN "' %}{{ x }}{% endfor %}",
        "{% for k, v in d.items() %}" OWN "{{ k }}{{ v }}{% endfor %}",
        "{% for k in d %}{{ k ~ '" OWN "' }}{% endfor %}",
        "{{ d|items|list }}" OWN,
        "{{ d|dictsort|list }}" OWN,
        "{{ d|tojson(sort_keys=true) }}" OWN,
        "{{ {'" OWN "': w} }}",
        "{{ {w: '" OWN "'}|tojson }}",
        "{{ dict(a=w, b='" OWN "') }}",
        "{{ '%s " OWN " %5s' % (w, c) }}",
        "{{ '%(a)s" OWN "' % {'a': w} }}",
        "{{ (w ~ '%s') % '" OWN "' }}",
        "{{ '{} " OWN " {:>9}'.format(w, w) }}",
        "{{ (w ~ '{}').format('" OWN "') }}",
        "{{ '{:" CLIENT ">9}'.format('" OWN "') if false else w }}" OWN,
        "{{ l|map('string')|join('" OWN "') }}",
        "{{ messages|map(attribute='name')|select|join }}" OWN,
        "{{ messages|selectattr('name')|list }}" OWN,
        "{{ messages|sort(attribute='content')|map(attribute='content')|join('" OWN "') }}",
        "{% set ns = namespace(x='" OWN "') %}{% for x in l %}{% set ns.x = ns.x ~ x ~ '" OWN
        "' %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x='" OWN
        "') %}{% set ns.y = ns.x + w %}{% set ns.z = ns.x + '-' %}{{ ns.y + ns.z }}",
        "{% macro m(a, b='" OWN "') %}{{ a }}{{ b }}{% endmacro %}{{ m(w) }}{{ m('" OWN
        "', w) }}{{ m(w, w)|upper }}",
        "{% macro m() %}" OWN "{{ caller() }}{% endmacro %}{% call m() %}{{ w }}{% endcall %}",
        "{% filter upper %}{{ w }}" OWN "{% endfilter %}",
        "{% set x %}{{ w }}" OWN "{% endset %}{{ x[0] }}{{ x[1] }}",
        "{{ w if true else '' }}" OWN,
        "{{ '' or w }}" OWN,
        "{{ cycler(w, '" OWN "').next() }}" OWN,
        "{% set j = joiner(w) %}{{ j() }}{{ j() }}" OWN,
        "{{ ['" OWN "', w]|batch(1)|list }}",
        "{{ (w, '" OWN "') }}",
        "{{ ('<' ~ w)|e + '" OWN "' }}",
        "{{ strftime_now('%Y' ~ w) }}" OWN,
        "{{ [w, '" OWN "']|sort }}"};
    for (size_t i = 0; i < ARRAY_LEN(templates); i++)
        check_letters(templates[i], true);
}

Test(jinja_origins, runs_give_the_origin_of_each_byte) {
    static const struct {
        const char *template, *text, *origins;
    } rows[] = {
        {"<{{ w }}>", "<" CLIENT ">", "tCCCt"},
        {"{{ bos }}{{ w }}", "<s>" OWN CLIENT, "ttttttCCC"},
        {"{{ n }} {{ n + 1 }} {{ r }} {{ b }} {{ 5 }}", "7 8 1.5 True 5", "CtCtCCCtCCCCtt"},
        {"{{ l|length }}{{ n == 7 }}{{ '7'|int }}", "3True7", "tttttt"},
        {"{{ [w, 'a'] }}", "['" CLIENT "', 'a']", "ttCCCttttttt"},
        {"{{ {'a': w}|tojson }}", "{\"a\": \"" CLIENT "\"}", "tttttttCCCtt"},
        {"{{ messages[0].role }}:{{ messages[0].content }}", "user:user", "tttttCCCC"},
        {"{{ messages[1].role }}", CLIENT, "CCC"},
        {"{{ (w ~ 'a' ~ w)[1:] }}", "a" CLIENT, "tCCC"},
        {"{{ ('a' ~ w ~ 'b').split(w) }}", "['a', 'b']", "tttttttttt"},
        {"{{ (c ~ '')|tojson }}", "\"a " CLIENT ", b" CLIENT "\\n" CLIENT "z\"",
         "tCCCCCCCCCCCCCCCCCt"},
        {"{{ w.replace(w, 'x') }}{{ 'x'.replace('x', w) }}", "x" CLIENT, "tCCC"},
        {"{{ '\xc3\x9f'.upper() }}{{ w|e }}", "SS" CLIENT, "ttCCC"},
        {"{{ missing }}{{ '' }}", "", ""},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char text[200];
        jinja_output out = render(rows[i].template);
        origins(&out, text, sizeof text);
        cr_expect_str_eq(out.text.data ? out.text.data : "", rows[i].text, "%s", rows[i].template);
        cr_expect_str_eq(text, rows[i].origins, "%s", rows[i].template);
        for (size_t k = 1; k < out.n_runs; k++)
            cr_expect_neq(out.runs[k].trusted, out.runs[k - 1].trusted);
        jinja_output_deinit(&out);
    }
}

static void append(void *ud, const char *text, size_t n) {
    buf_append(ud, text, n);
    buf_puts(ud, "|");
}

Test(jinja_origins, the_texts_and_the_variables_of_a_template_can_be_asked_for) {
    static const char template[] = "a{{ x.tools ~ 'b' }}{# c #}{% if tools %}d{% set e = ['f' 'g'] "
                                   "%}{% endif %}{% raw %}{{ h }}{% endraw %}";
    jinja *tmpl;
    buf texts = {0};
    err e = {0};
    cr_assert_eq(jinja_parse(&tmpl, template, strlen(template), "row", &e), 0, "%s", e.msg);
    jinja_each_text(tmpl, append, &texts);
    cr_expect_str_eq(texts.data, "a|b|d|fg|{{ h }}|");
    cr_expect(jinja_uses(tmpl, "tools"));
    cr_expect(jinja_uses(tmpl, "x"));
    cr_expect(!jinja_uses(tmpl, "e"));
    cr_expect(!jinja_uses(tmpl, "h"));
    cr_expect(!jinja_uses(tmpl, "c"));
    buf_deinit(&texts);
    jinja_close(tmpl);
}
