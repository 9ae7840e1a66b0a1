/* test_srv_keys.c - keys of a file: the syntax of a line; the time of a look-up tells nothing about
 * a key. */
#include "server/server_internal.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

TestSuite(srv_keys, .fini = fail_on_leaks);

enum { KEYS = 1000 };

static srv_keys *keys_of(const char *text, err *e) { /* NULL: refused */
    char path[] = "/tmp/fathom-keys-XXXXXX";
    int fd = mkstemp(path);
    cr_assert(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
    srv_keys *keys;
    cr_assert_eq(srv_keys_open(&keys, path, e) == 0, keys != NULL);
    unlink(path);
    return keys;
}

static srv_keys *open_keys(void) {
    buf text = {0};
    for (int i = 0; i < KEYS; i++)
        buf_printf(&text, "sk-number-%d client-%d\n", i, i);
    err e = {0};
    srv_keys *keys = keys_of(text.data, &e);
    cr_assert_not_null(keys, "%s", e.msg);
    buf_deinit(&text);
    return keys;
}

/* CPU time of this thread for some look-ups, in ns. */
static double cost_of(const srv_keys *keys, const char *text) {
    struct timespec from, to;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &from);
    for (int i = 0; i < 5; i++)
        (void)srv_keys_find(keys, text, strlen(text));
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &to);
    return (double)(to.tv_sec - from.tv_sec) * 1e9 + (double)(to.tv_nsec - from.tv_nsec);
}

Test(srv_keys, every_key_is_found_and_no_other) {
    srv_keys *keys = open_keys();
    char text[32];
    for (int i = 0; i < KEYS; i++) {
        (void)snprintf(text, sizeof text, "sk-number-%d", i);
        cr_assert_eq(srv_keys_find(keys, text, strlen(text)), i);
    }
    cr_expect_eq(srv_keys_find(keys, "sk-number-1000", 14), -1);
    cr_expect_eq(srv_keys_find(keys, "sk-number-7", 10), -1);
    cr_expect_eq(srv_keys_find(keys, "", 0), -1);
    srv_keys_close(keys);
}

enum { SAMPLES = 101 };

static int by_size(const void *left, const void *right) {
    double x = *(const double *)left, y = *(const double *)right;
    return (x > y) - (x < y);
}

static double median_of(double samples[SAMPLES]) {
    qsort(samples, SAMPLES, sizeof *samples, by_size);
    return samples[SAMPLES / 2];
}

Test(srv_keys, the_first_the_last_and_an_unknown_key_cost_the_same_processor_time) {
    srv_keys *keys = open_keys();
    const char *const texts[] = {"sk-number-0", "sk-number-999", "sk-number-xyz"};
    double all[3][SAMPLES], cost[3];
    /* In turn: a slower spell of the processor meets all three. */
    for (int i = 0; i < 3 * SAMPLES; i++)
        all[i % 3][i / 3] = cost_of(keys, texts[i % 3]);
    for (int i = 0; i < 3; i++)
        cost[i] = median_of(all[i]);
    /* A search ending at its key would be a thousand times cheaper for the first key. */
    cr_expect(cost[0] > 0.5 * cost[2] && cost[0] < 2 * cost[2], "%f and %f ns", cost[0], cost[2]);
    cr_expect(cost[1] > 0.5 * cost[2] && cost[1] < 2 * cost[2], "%f and %f ns", cost[1], cost[2]);
    srv_keys_close(keys);
}

Test(srv_keys, a_line_may_give_a_key_a_weight_and_a_range_of_priorities) {
    static const struct {
        const char *line, *name;
        uint32_t weight;
        int32_t least, most;
    } rows[] = {
        {"sk-00000001", "key-1", 1, INT32_MIN, INT32_MAX},
        {"sk-00000001 alice", "alice", 1, INT32_MIN, INT32_MAX},
        {"sk-00000001 alice weight=2", "alice", 2, INT32_MIN, INT32_MAX},
        {"sk-00000001\tweight=1000 \r", "key-1", 1000, INT32_MIN, INT32_MAX},
        {"sk-00000001 priority=-5..5", "key-1", 1, -5, 5},
        {"sk-00000001 a priority=3..3 weight=4", "a", 4, 3, 3},
        {"sk-00000001 a priority=-100..100", "a", 1, -100, 100},
        {"sk-00000001 alice smith", "alice", 1, INT32_MIN, INT32_MAX},
        {"sk-00000001 alice # weight=7", "alice", 1, INT32_MIN, INT32_MAX},
        {"sk-00000001 # alice", "key-1", 1, INT32_MIN, INT32_MAX},
        {"sk-00000001 team=blue", "team=blue", 1, INT32_MIN, INT32_MAX},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        err e = {0};
        srv_keys *keys = keys_of(rows[i].line, &e);
        cr_assert_not_null(keys, "%s: %s", rows[i].line, e.msg);
        const srv_key_terms *terms = srv_keys_terms(keys, 0);
        cr_expect_str_eq(srv_keys_name(keys, 0), rows[i].name);
        cr_expect_eq(terms->weight, rows[i].weight, "%s", rows[i].line);
        cr_expect(terms->least_priority == rows[i].least && terms->most_priority == rows[i].most,
                  "%s", rows[i].line);
        srv_keys_close(keys);
    }
}

Test(srv_keys, a_line_that_says_something_else_is_refused_with_its_number) {
    static const char *const rows[] = {
        "weight=",          "weight=0",        "weight=-1",          "weight=1001",
        "weight=2x",        "weight=1.5",      "weight=99999999999", "priority=",
        "priority=5",       "priority=5..",    "priority=..5",       "priority=5..-5",
        "priority=-101..0", "priority=0..101", "priority=a..b",      "priority=1...5",
        "alice wieght=2",   "alice key=value", "weight=2 alice=3",   "priority=--5..5",
        "priority=1..2..3",
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char text[128];
        (void)snprintf(text, sizeof text, "# keys\nsk-00000000 first\nsk-secret-1 %s\n", rows[i]);
        err e = {0};
        cr_assert_null(keys_of(text, &e), "%s", rows[i]);
        cr_expect(strstr(e.msg, ":3: ") != NULL, "%s: %s", rows[i], e.msg);
        cr_expect(strstr(e.msg, "secret") == NULL, "the key is shown: %s", e.msg);
    }
}

Test(srv_keys, keys_of_one_name_are_known_as_such) {
    err e = {0};
    srv_keys *keys = keys_of("sk-00000001 a\nsk-00000002 b\nsk-00000003 a\nsk-00000004\n", &e);
    cr_assert_not_null(keys);
    static const int first[] = {0, 1, 0, 3};
    for (int i = 0; i < 4; i++)
        cr_expect_eq(srv_keys_first_of_name(keys, i), first[i]);
    srv_keys_close(keys);
}
