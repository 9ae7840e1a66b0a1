/* A file of options: what it may hold, and the error of each line that it may not. */
#include "base/buf.h"
#include "base/config_file.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <string.h>

TestSuite(config_file, .fini = fail_on_leaks);

static int put(void *ud, const config_entry *entry) {
    buf_printf(ud, "%u[%s]%s=<%s>", entry->line, entry->section, entry->name, entry->value);
    return strcmp(entry->name, "stop") == 0 ? 7 : 0;
}

static int read(buf *out, const char *text, size_t n, err *e) {
    char copy[2000];
    memcpy(copy, text, n);
    copy[n] = 0;
    return config_file_read(copy, n, put, out, e);
}

Test(config_file, every_form_of_a_line_is_read) {
    static const struct {
        const char *text, *entries;
    } rows[] = {
        {"", ""},
        {"\n \n#c\n  # d: 1\n; e = 2\n", ""},
        {"a: 1", "1[]a=<1>"},
        {"a:1", "1[]a=<1>"},
        {"a=1\n\tb = 2 \r\n", "1[]a=<1>2[]b=<2>"},
        {"A_b-9 :  x y  # z", "1[]A_b-9=<x y>"},
        {"url: http://a:80/#b", "1[]url=<http://a:80/#b>"},
        {"t = a=b: c;d", "1[]t=<a=b: c;d>"},
        {"a: 'it''s # 1' # c", "1[]a=<it's # 1>"},
        {"a: ''", "1[]a=<>"},
        {"a: \"q\\\"\\\\ \\n\\t\"", "1[]a=<q\"\\ \n\t>"},
        {"---\na: 1", "2[]a=<1>"},
        {"\xef\xbb\xbf"
         "a: 1",
         "1[]a=<1>"},
        {"[serve]\na=1\n[ bench engine ] # c\nb=2", "2[serve]a=<1>4[bench engine]b=<2>"},
        {"a:\n  - 1\n# c\n- 'x y'\nb: 2", "2[]a=<1>4[]a=<x y>5[]b=<2>"},
        {"a: gr\xc3\xbc\xc3\x9f", "1[]a=<gr\xc3\xbc\xc3\x9f>"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        buf out = {0};
        err e = {0};
        buf_puts(&out, "");
        cr_assert_eq(read(&out, rows[i].text, strlen(rows[i].text), &e), 0, "'%s': %s",
                     rows[i].text, e.msg);
        cr_assert_str_eq(out.data ? out.data : "", rows[i].entries, "'%s'", rows[i].text);
        buf_deinit(&out);
    }
}

Test(config_file, a_line_that_cannot_be_read_is_named) {
    static const struct {
        const char *text, *says;
    } rows[] = {
        {"\nnonsense", "2: expected 'name: value'"},
        {"{\"a\": 1}", "1: expected 'name: value'"},
        {": 1", "1: expected 'name: value'"},
        {"a b: 1", "1: expected 'name: value'"},
        {"--a: 1", "1: expected 'name: value'"},
        {"a: 'x", "1: the closing ' is missing"},
        {"a: 'x' y", "1: text follows the closing '"},
        {"a: \"x", "1: the closing \" is missing"},
        {"a: \"x\\", "1: after \\ only"},
        {"a: \"\\x\"", "1: after \\ only"},
        {"a: \"x\"y", "1: text follows the closing \""},
        {"[serve", "1: the closing ] is missing"},
        {"[ ]", "1: the section has no name"},
        {"[a] b", "1: text follows the closing ]"},
        {"- x", "1: a list item needs a line 'name:' before it"},
        {"a: 1\n- x", "2: a list item needs a line 'name:' before it"},
        {"a:\n-\n", "2: the list item has no value"},
        {"b: 1\na:\n\nc: 2", "2: the name has no value"},
        {"a: # x", "1: the name has no value"},
        {"\xff", " the file is not UTF-8 text"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        buf out = {0};
        err e = {0};
        cr_assert_eq(read(&out, rows[i].text, strlen(rows[i].text), &e), -1, "'%s' was read",
                     rows[i].text);
        cr_assert_eq(strncmp(e.msg, rows[i].says, strlen(rows[i].says)), 0, "'%s' says '%s'",
                     rows[i].text, e.msg);
        buf_deinit(&out);
    }
    buf out = {0};
    err e = {0};
    cr_assert_eq(read(&out, "a: 1\nb\0: 2", 10, &e), -1);
    cr_assert_str_eq(e.msg, "2: the line holds a zero byte");
    buf_deinit(&out);
}

Test(config_file, the_callback_can_end_the_reading) {
    buf out = {0};
    err e = {0};
    cr_assert_eq(read(&out, "a: 1\nstop: 2\nc: 3", 17, &e), 7);
    cr_assert_str_eq(out.data, "1[]a=<1>2[]stop=<2>");
    buf_deinit(&out);
}
