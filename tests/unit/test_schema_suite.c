/* test_schema_suite.c - the JSON Schema test suite, as the package json-schema-test-suite has it.
 *
 * Each schema is compiled strict and not. Under strict no instance that the suite calls invalid may
 * be allowed, in any spelling tried here. Without strict every schema compiles that allows a value
 * of a known form. tests/suites/schema_draft7.txt lists what strict refuses and which valid
 * instances cannot be written; FATHOM_SUITE_LIST=FILE writes the list anew. */
#include "api/grammar/constrain_internal.h"
#include "base/buf.h"
#include "tests/lib/grammar.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SUITE "/usr/share/json-schema-test-suite/tests/draft7/"
#define UNPACKED "build/sysroot" SUITE
#define LIST "tests/suites/schema_draft7.txt"

TestSuite(schema_suite, .fini = fail_on_leaks, .timeout = HANGS_S);

typedef struct {
    buf list;
    uint32_t compiled, refused, nothing, held, unreached, invalid;
} totals;

/* ---- spellings ---- */

/* A copy with the properties in the schema's order, as far as `properties` and `items` tell it. */
static json_t *arrange(const json_t *schema, json_t *value) {
    const json_t *properties = json_object_get(schema, "properties"),
                 *items = json_object_get(schema, "items");
    const char *key;
    json_t *one, *out;
    size_t i;
    if (json_is_array(value)) {
        out = json_array();
        json_array_foreach(value, i, one) {
            const json_t *sub = json_is_array(items) ? json_array_get(items, i) : items;
            json_array_append_new(out, arrange(sub, one));
        }
        return out;
    }
    if (!json_is_object(value)) return json_incref(value);
    out = json_object();
    json_object_foreach((json_t *)(uintptr_t)properties, key, one) {
        json_t *member = json_object_get(value, key);
        if (member) json_object_set_new(out, key, arrange(one, member));
    }
    json_object_foreach(value, key, one) {
        if (!json_object_get(out, key))
            json_object_set_new(out, key,
                                arrange(json_object_get(schema, "additionalProperties"), one));
    }
    return out;
}

/* Numbers such as 1.0 as integers. */
static json_t *whole(json_t *value) {
    const char *key;
    json_t *one, *out;
    size_t i;
    if (json_is_real(value) && json_real_value(value) == (double)(json_int_t)json_real_value(value))
        return json_integer((json_int_t)json_real_value(value));
    if (json_is_array(value)) {
        out = json_array();
        json_array_foreach(value, i, one) json_array_append_new(out, whole(one));
        return out;
    }
    if (!json_is_object(value)) return json_incref(value);
    out = json_object();
    json_object_foreach(value, key, one) json_object_set_new(out, key, whole(one));
    return out;
}

static bool spelled(const api__grammar *grammar, json_t *value, size_t flags) {
    char *text = json_dumps(value, JSON_ENCODE_ANY | flags);
    bool got = text && grammar_feed(grammar, text) == 1;
    free(text);
    return got;
}

/* Is the instance allowed in some spelling? */
static bool allowed(const api__grammar *grammar, const json_t *schema, json_t *value) {
    json_t *forms[] = {json_incref(value), arrange(schema, value), whole(value), NULL};
    forms[3] = arrange(schema, forms[2]);
    bool got = false;
    for (size_t i = 0; i < ARRAY_LEN(forms); i++) {
        got = got || spelled(grammar, forms[i], JSON_COMPACT) ||
              spelled(grammar, forms[i], JSON_COMPACT | JSON_SORT_KEYS) ||
              spelled(grammar, forms[i], JSON_COMPACT | JSON_REAL_PRECISION(12)) ||
              spelled(grammar, forms[i], JSON_COMPACT | JSON_ENSURE_ASCII) ||
              spelled(grammar, forms[i], JSON_INDENT(2));
        json_decref(forms[i]);
    }
    return got;
}

/* ---- one schema ---- */

static void note(totals *sum, const char *what, const char *group, const char *more) {
    buf_printf(&sum->list, "  %s: %s%s%s\n", what, group, more ? " / " : "", more ? more : "");
}

static void try_instances(totals *sum, const api__grammar *grammar, const json_t *group,
                          const char *file, bool strict) {
    const json_t *schema = json_object_get(group, "schema"), *one;
    const char *about = json_string_value(json_object_get(group, "description"));
    size_t i;
    json_array_foreach(json_object_get(group, "tests"), i, one) {
        const char *name = json_string_value(json_object_get(one, "description"));
        bool valid = json_is_true(json_object_get(one, "valid"));
        bool got = allowed(grammar, schema, json_object_get(one, "data"));
        if (!strict) continue;
        cr_expect(valid || !got, "%s: %s: invalid and allowed: %s", file, about, name);
        sum->held += valid && got;
        sum->invalid += !valid;
        if (!valid || got) continue;
        sum->unreached++;
        note(sum, "cannot be written", about, name);
    }
}

/* Does the suite know a valid instance? */
static bool any_valid(const json_t *group) {
    const json_t *one;
    size_t i;
    json_array_foreach(json_object_get(group, "tests"), i, one) {
        if (json_is_true(json_object_get(one, "valid"))) return true;
    }
    return false;
}

static void try_loose(const json_t *group, const char *file) {
    const char *about = json_string_value(json_object_get(group, "description"));
    api__grammar *grammar = NULL;
    err e = {0};
    int rc = api__grammar_compile(&grammar, json_object_get(group, "schema"), false, "schema", &e);
    cr_expect(rc == 0 || !any_valid(group) || strstr(e.msg, "no value matches"),
              "%s: %s: refused without strict: %s", file, about, e.msg);
    api__grammar_free(grammar);
}

static void try_group(totals *sum, const json_t *group, const char *file) {
    const char *about = json_string_value(json_object_get(group, "description"));
    api__grammar *grammar = NULL;
    err e = {0};
    int rc = api__grammar_compile(&grammar, json_object_get(group, "schema"), true, "schema", &e);
    if (rc == 0) {
        sum->compiled++;
        try_instances(sum, grammar, group, file, true);
    } else {
        const char *from = strchr(e.msg, '\'');
        char keyword[60];
        bool unheld = e.code == ERR_UNSUPPORTED && from;
        (void)snprintf(keyword, sizeof keyword, "refused for %.*s",
                       unheld ? (int)strcspn(from + 1, "'") : 0, unheld ? from + 1 : "");
        sum->refused += unheld;
        sum->nothing += !unheld;
        note(sum, unheld ? keyword : "allows nothing", about, unheld ? NULL : e.msg);
    }
    api__grammar_free(grammar);
    try_loose(group, file);
}

static void try_file(totals *sum, const char *path) {
    const char *name = strstr(path, SUITE) + strlen(SUITE);
    json_error_t why;
    json_t *groups = json_load_file(path, JSON_ALLOW_NUL, &why);
    if (groups == NULL) /* integers too large for 64 bits */
        groups = json_load_file(path, JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, &why);
    const json_t *group;
    size_t i;
    cr_assert(groups, "%s: %s", path, why.text);
    if (strcmp(name, "optional/content.json") == 0) { /* annotations since draft 2019-09 */
        json_decref(groups);
        return;
    }
    buf_printf(&sum->list, "%s\n", name);
    json_array_foreach(groups, i, group) try_group(sum, group, name);
    json_decref(groups);
}

static char *read_list(void) {
    FILE *file = fopen(LIST, "r");
    char *text = calloc(1, 1 << 18);
    if (file == NULL || text == NULL) return text;
    size_t n = fread(text, 1, (1 << 18) - 1, file);
    text[n] = 0;
    (void)fclose(file);
    return text;
}

/* Names the first line that differs. */
static void compare(const char *list, const char *known) {
    size_t line = 1;
    while (*list && *known) {
        size_t n = strcspn(list, "\n"), m = strcspn(known, "\n");
        cr_assert(n == m && memcmp(list, known, n) == 0, "%s:%zu says '%.*s', but now: '%.*s'",
                  LIST, line, (int)m, known, (int)n, list);
        list += n + (list[n] != 0);
        known += m + (known[m] != 0);
        line++;
    }
    cr_assert(*list == *known, "%s:%zu: one list is longer", LIST, line);
}

Test(schema_suite, strict_allows_no_invalid_instance_and_the_list_of_what_it_refuses_is_exact) {
    static const char *const files[] = {"*.json", "optional/*.json", "optional/format/*.json"};
    totals sum = {.compiled = 0};
    glob_t found = {0};
    const char *folder = access(SUITE, R_OK) == 0 ? SUITE : UNPACKED;
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        char pattern[200];
        (void)snprintf(pattern, sizeof pattern, "%s%s", folder, files[i]);
        (void)glob(pattern, i ? GLOB_APPEND : 0, NULL, &found);
    }
    if (found.gl_pathc == 0) {
        globfree(&found);
        cr_skip_test("the package json-schema-test-suite is not installed");
    }
    for (size_t i = 0; i < found.gl_pathc; i++)
        try_file(&sum, found.gl_pathv[i]);
    globfree(&found);
    buf_printf(
        &sum.list,
        "schemas: %u enforced, %u refused by name, %u that allow nothing\n"
        "instances of enforced ones: %u invalid, none allowed; %u valid and allowed, %u valid "
        "and outside the form\n",
        sum.compiled, sum.refused, sum.nothing, sum.invalid, sum.held, sum.unreached);
    const char *anew = getenv("FATHOM_SUITE_LIST");
    if (anew) {
        FILE *file = fopen(anew, "w");
        cr_assert(file && fwrite(sum.list.data, 1, sum.list.len, file) == sum.list.len);
        (void)fclose(file);
    }
    char *known = read_list();
    compare(sum.list.data, known);
    free(known);
    buf_deinit(&sum.list);
}
