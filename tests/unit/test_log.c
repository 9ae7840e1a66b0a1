/* The log: its forms, and texts that try to break out of a line. */
#include "base/json.h"
#include "base/log.h"
#include "tests/lib/stderr.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

TestSuite(log, .fini = fail_on_leaks);

static const log_field fields[] = {
    {"id", LOG_A_TEXT, .text = "re\"q\\1"},        {"key", LOG_A_TEXT, .text = NULL},
    {"status", LOG_A_COUNT, .count = 200},         {"stream", LOG_A_BOOL, .count = 1},
    {"ms", LOG_A_REAL, .real = 1.25, .digits = 1},
};

static char said[16384];

static json_t *parsed(const char *line) {
    static const json_limits limits = {1 << 16, 8, 1000};
    json_t *root = NULL;
    err e = {0};
    cr_assert_eq(json_parse(&root, line, strlen(line), &limits, "the line", &e), 0, "%s: %s", e.msg,
                 line);
    return root;
}

static json_t *only_line_as_json(void) {
    size_t n = strlen(said);
    cr_assert(n > 1 && said[n - 1] == '\n' && strchr(said, '\n') == said + n - 1, "%s", said);
    said[n - 1] = 0;
    return parsed(said);
}

Test(log, an_event_is_text_with_its_fields_behind_it) {
    int kept = stderr_catch();
    log_set_format(LOG_TEXT);
    log_event(LOG_INFO, "request", fields, ARRAY_LEN(fields));
    stderr_release(kept, said, sizeof said);
    cr_assert_str_eq(said + strlen("2026-11-27T17:28:31Z"),
                     " info request id=re\"q\\1 key=- status=200 stream=true ms=1.2\n");
}

Test(log, an_event_is_an_object_with_its_fields_as_members) {
    int kept = stderr_catch();
    log_set_format(LOG_JSON);
    log_event(LOG_INFO, "request", fields, ARRAY_LEN(fields));
    stderr_release(kept, said, sizeof said);
    json_t *line = only_line_as_json();
    cr_assert_str_eq(json_string_value(json_object_get(line, "level")), "info");
    cr_assert_str_eq(json_string_value(json_object_get(line, "message")), "request");
    cr_assert_eq(strlen(json_string_value(json_object_get(line, "time"))),
                 strlen("2026-11-27T17:28:31.123Z"));
    cr_assert_str_eq(json_string_value(json_object_get(line, "id")), "re\"q\\1");
    cr_assert(json_is_null(json_object_get(line, "key")));
    cr_assert_eq(json_integer_value(json_object_get(line, "status")), 200);
    cr_assert(json_is_true(json_object_get(line, "stream")));
    cr_assert_float_eq(json_real_value(json_object_get(line, "ms")), 1.2, 0.06);
    json_decref(line);
}

Test(log, no_text_breaks_a_line_of_json) {
    char text[3000];
    for (unsigned seed = 1; seed < 300; seed++) {
        size_t n = seed * 10;
        for (size_t i = 0; i < n; i++)
            text[i] = (char)(1 + (seed * 2654435761u + i * i * 40503u) % 255);
        text[n] = 0;
        int kept = stderr_catch();
        log_set_format(LOG_JSON);
        log_line(LOG_WARN, "%s", text);
        const log_field long_fields[] = {{"a", LOG_A_TEXT, .text = text},
                                         {"b", LOG_A_TEXT, .text = text},
                                         {"c", LOG_A_TEXT, .text = text}};
        log_event(LOG_WARN, text, long_fields, ARRAY_LEN(long_fields));
        stderr_release(kept, said, sizeof said);
        size_t lines = 0;
        for (char *at = said, *end; (end = strchr(at, '\n')) != NULL; at = end + 1, lines++) {
            *end = 0;
            json_decref(parsed(at));
        }
        cr_assert_eq(lines, 2);
    }
}

Test(log, a_line_of_text_has_no_escape_codes_of_its_content) {
    int kept = stderr_catch();
    log_set_format(LOG_TEXT);
    log_line(LOG_WARN, "%s", "one\ntwo\x1b[31m\x7f");
    stderr_release(kept, said, sizeof said);
    cr_assert(strstr(said, "warn one two [31m \n"), "%s", said);
}

/* Sends the log to a file that $JOURNAL_STREAM names, or another one. */
static void log_for_journal(bool named) {
    int kept = stderr_catch();
    struct stat st;
    char stream[64];
    cr_assert_eq(fstat(STDERR_FILENO, &st), 0);
    (void)snprintf(stream, sizeof stream, "%llu:%llu", (unsigned long long)st.st_dev,
                   (unsigned long long)st.st_ino + !named);
    setenv("JOURNAL_STREAM", stream, 1);
    log_set_format(LOG_AUTO);
    log_line(LOG_ALERT, "it burns");
    log_line(LOG_INFO, "all is well");
    stderr_release(kept, said, sizeof said);
}

Test(log, the_journal_gets_levels_as_numbers_and_no_time) {
    log_for_journal(true);
    cr_assert_str_eq(said, "<1>alert it burns\n<6>info all is well\n");
}

Test(log, another_file_than_the_journal_gets_plain_lines) {
    log_for_journal(false);
    cr_assert_eq(said[0], '2', "%s", said);
    cr_assert_null(strchr(said, '<'));
    cr_assert_null(strchr(said, '\x1b'));
}

Test(log, a_line_over_a_bar_erases_it_first) {
    int kept = stderr_catch();
    log_set_format(LOG_TEXT);
    log_over_bar(true);
    log_line(LOG_INFO, "over");
    log_over_bar(false);
    log_line(LOG_INFO, "free");
    stderr_release(kept, said, sizeof said);
    cr_assert_eq(strncmp(said, "\r\x1b[K2", 5), 0, "%s", said);
    cr_assert(strstr(said, "info over\n2"), "%s", said);
}
