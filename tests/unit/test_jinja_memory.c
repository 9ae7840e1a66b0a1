/* test_jinja_memory.c - every allocation of parsing and rendering fails: in one run it alone, in
 * another it and all later ones. */
#include "base/json.h"
#include "tests/lib/oom.h"
#include "tests/lib/testlib.h"
#include "text/jinja.h"

#include <criterion/criterion.h>
#include <string.h>

TestSuite(jinja_memory, .fini = fail_on_leaks, .timeout = HANGS_S);

static const char template[] =
    "{% macro show(v, depth=0) %}{% if v is mapping %}{% for k, x in v|dictsort %}{{ k|upper }}:"
    "{{ show(x, depth + 1) }}{% endfor %}{% else %}{{ v }}{{ varargs }}{{ kwargs }}{% endif %}{% "
    "endmacro %}"
    "{% set ns = namespace(x='', n=0) %}{% for m in messages[::-1] if m.role is string %}"
    "{% set ns.x = ns.x + m.role ~ (m.content|string).split(' ')|join('-') %}"
    "{{ loop.cycle('a', 'b') }}{{ m|tojson(indent=2) }}{% endfor %}{{ ns.x }}{{ show(d) }}{{ "
    "show(1, 2, 3, q=4) }}"
    "{% set x | trim %} {{ '%s %5.1f' % (d, 2.5) }} {% endset %}{{ x.replace('a', "
    "'bc').title()[::-2] }}"
    "{{ messages|map(attribute='role')|list|sort(reverse=true) }}{{ range(99)|batch(7, 'x')|list }}"
    "{% with y = {1: 2, 'b': [3.5, none, true]} %}{{ y }}{% endwith %}{{ '{} {:>7}'.format(1, 'a') "
    "}}"
    "{% filter indent(2, true) %}a\nb{% endfilter %}{{ strftime_now('%Y') }}{{ d.items()|list ~ "
    "joiner()() }}"
    "{% macro box() %}[{{ caller() }}]{% endmacro %}{% call box() %}{{ 'x' * 6000 }}{% endcall %}";

static const char variables[] = "{\"d\":{\"b\":{\"c\":1},\"a\":\"x\",\"e\":1,\"f\":1,\"g\":1,\"h\":"
                                "1,\"i\":1,\"j\":1,\"k\":[1,[2,\"\\n\"]]},"
                                "\"messages\":[{\"role\":\"user\",\"content\":\"hello "
                                "there\"},{\"role\":\"assistant\",\"content\":null}]}";

/* 0, or -1 with the reason in e. */
static int whole(json_t *vars, jinja_output *out, err *e) {
    jinja_var list[4];
    jinja_input in = {.vars = list, .now = 1760000000};
    const char *name;
    json_t *value;
    jinja *tmpl;
    *out = (jinja_output){0};
    json_object_foreach(vars, name, value) list[in.n_vars++] = (jinja_var){name, value, false};
    if (jinja_parse(&tmpl, template, strlen(template), "row", e) != 0) return -1;
    int rc = jinja_render(tmpl, &in, out, e);
    jinja_close(tmpl);
    return rc;
}

Test(jinja_memory, a_template_that_runs_out_of_memory_says_so_and_leaves_nothing_behind) {
    json_t *vars = json_loads(variables, 0, NULL);
    jinja_output clean, out;
    err none = {0};
    cr_assert_not_null(vars);
    cr_assert_eq(whole(vars, &clean, &none), 0, "%s", none.msg);
    for (int sticky = 0; sticky < 2; sticky++) {
        for (long n = 0;; n++) {
            err e = {0};
            cr_assert_lt(n, 2000);
            oom_after(n, sticky);
            int rc = whole(vars, &out, &e);
            bool reached = oom_stop();
            if (rc != 0) cr_assert_eq(e.code, ERR_NO_MEMORY, "allocation %ld: %s", n, e.msg);
            else
                cr_assert_str_eq(out.text.data, clean.text.data,
                                 "allocation %ld failed without an error", n);
            jinja_output_deinit(&out);
            if (!reached) break;
            cr_assert_neq(rc, 0, "allocation %ld failed without an error", n);
        }
    }
    jinja_output_deinit(&clean);
    json_decref(vars);
}

/* The limit of the arena, reached at every allocation in turn. */
Test(jinja_memory, a_rendering_stops_at_its_ceiling_wherever_that_is) {
    json_t *vars = json_loads(variables, 0, NULL), *value;
    jinja_var list[4];
    jinja_input in = {.vars = list};
    const char *name;
    jinja *tmpl;
    err e = {0};
    cr_assert_not_null(vars);
    json_object_foreach(vars, name, value) list[in.n_vars++] = (jinja_var){name, value, false};
    cr_assert_eq(jinja_parse(&tmpl, template, strlen(template), "row", &e), 0, "%s", e.msg);
    int rc = -1;
    for (in.max_memory = 16; rc != 0; in.max_memory += 16) {
        jinja_output out;
        e = (err){0};
        cr_assert_lt(in.max_memory, 1 << 20);
        rc = jinja_render(tmpl, &in, &out, &e);
        if (rc != 0) cr_assert_eq(e.code, ERR_COSTLY, "%zu bytes: %s", in.max_memory, e.msg);
        jinja_output_deinit(&out);
    }
    jinja_close(tmpl);
    json_decref(vars);
}
