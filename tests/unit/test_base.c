/* test_base.c - buffers, arenas, errors, checked JSON, the queue. */
#include "base/arena.h"
#include "base/cancel.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/queue.h"
#include "base/size.h"
#include "base/wake.h"
#include "tests/lib/oom.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

TestSuite(base, .fini = fail_on_leaks);

Test(base, the_first_error_reported_is_the_one_kept) {
    err e = {0};
    cr_assert_eq(err_set(&e, ERR_BUSY, "queue", "first %d", 1), -1);
    err_set(&e, ERR_IO, "file", "second");
    cr_assert_eq(e.code, ERR_BUSY);
    cr_assert_str_eq(e.param, "queue");
    cr_assert_str_eq(e.msg, "first 1");
}

Test(base, every_error_code_has_a_name_and_a_text) {
    for (int code = 0; code < ERR_COUNT; code++) {
        cr_assert(err_name((err_code)code)[0] && err_text((err_code)code)[0], "code %d", code);
    }
    cr_assert_str_eq(err_name(ERR_COUNT), "UNKNOWN");
}

Test(base, a_buf_stops_at_its_ceiling_and_says_so_once) {
    buf text = {.max = 10};
    buf_puts(&text, "0123456789");
    cr_assert_not(text.failed);
    buf_puts(&text, "x");
    cr_assert(text.failed);
    cr_assert_str_eq(text.data, "0123456789");
    buf_clear(&text);
    buf_printf(&text, "%d-%s", 7, "ok");
    cr_assert_str_eq(text.data, "7-ok");
    buf_drop(&text, 2);
    cr_assert_str_eq(text.data, "ok");
    buf_deinit(&text);
}

Test(base, an_arena_refuses_past_its_limit_and_stays_refused) {
    arena mem;
    arena_init(&mem, 1000);
    cr_assert_not_null(arena_alloc(&mem, 900));
    cr_assert_null(arena_alloc(&mem, 200));
    cr_assert_null(arena_alloc(&mem, 1));
    cr_assert(mem.failed);
    arena_deinit(&mem);
    arena_init(&mem, 1 << 20);
    char *text = arena_strndup(&mem, "hello", 4);
    cr_assert_str_eq(text, "hell");
    for (int i = 0; i < 1000; i++) {
        unsigned char *block = arena_alloc(&mem, 100);
        cr_assert_eq((uintptr_t)block % 16, 0);
        cr_assert_eq(block[0] | block[99], 0);
        memset(block, 0xff, 100);
    }
    cr_assert_null(arena_array(&mem, SIZE_MAX / 2, 4));
    arena_deinit(&mem);
}

Test(base, sizes_that_overflow_are_refused) {
    size_t out;
    cr_assert_not(size_mul(SIZE_MAX / 2, 3, &out));
    cr_assert_not(size_add(SIZE_MAX, 1, &out));
    cr_assert_null(array_new(SIZE_MAX / 4, 8));
    cr_assert_null(array_new_aligned(SIZE_MAX, 1));
}

static const struct {
    const char *text;
    size_t n; /* 0 = strlen */
    err_code want;
} json_rows[] = {
    {"{\"a\":1}", 0, ERR_NONE},
    {"", 0, ERR_BAD_PARAM},
    {"   ", 0, ERR_BAD_PARAM},
    {"{\"a\":", 0, ERR_BAD_PARAM},
    {"{} x", 0, ERR_BAD_PARAM},
    {"{}\0", 3, ERR_BAD_PARAM},
    {"{\"a\":1,\"a\":2}", 0, ERR_BAD_PARAM},
    {"[[[[[1]]]]]", 0, ERR_BAD_PARAM}, /* depth 5, limit 4 */
    {"[[[[1]]]]", 0, ERR_NONE},
    {"[1,1,1,1,1,1,1,1,1,1,1,1]", 0, ERR_BAD_PARAM}, /* structural */
    {"[\"[[[[[[,,,,,,,,,,\\\"[[[\"]", 0, ERR_NONE},  /* inside a string nothing is structural */
    {"[NaN]", 0, ERR_BAD_PARAM},
    {"[1e400]", 0, ERR_BAD_PARAM},
    {"[\"\\u0000\"]", 0, ERR_BAD_PARAM},
    {"[\"\xc3\x28\"]", 0, ERR_BAD_PARAM},
    {"[\"\\ud800\"]", 0, ERR_BAD_PARAM},
    {"\xef\xbb\xbf{}", 0, ERR_BAD_PARAM},
    {"{}//c", 0, ERR_BAD_PARAM},
};

Test(base, json_refuses_each_bad_row_and_takes_each_good_one) {
    json_setup();
    json_limits limits = {.max_bytes = 64, .max_depth = 4, .max_structural = 12};
    for (size_t i = 0; i < ARRAY_LEN(json_rows); i++) {
        err e = {0};
        json_t *root = NULL;
        size_t n = json_rows[i].n ? json_rows[i].n : strlen(json_rows[i].text);
        int rc = json_parse(&root, json_rows[i].text, n, &limits, "test", &e);
        cr_assert_eq(e.code, json_rows[i].want, "row %zu: %s", i, e.msg);
        cr_assert_eq(rc == 0, root != NULL);
        json_decref(root);
    }
}

/* Every allocation of a parse fails once. The error tells a bad text from a lack of memory, and
 * nothing leaks. The text is long, so blocks are freed long after later ones were taken. */
Test(base, json_that_runs_out_of_memory_says_so_whether_it_is_whole_or_broken) {
    static const char *const ends[] = {"]", "", ",]", ",{\"a\":1,\"a\":2}]"};
    json_limits limits = {.max_bytes = 4096, .max_depth = 16, .max_structural = 4096};
    json_setup();
    for (size_t k = 0; k < ARRAY_LEN(ends); k++) {
        buf text = {0};
        buf_puts(&text, "[{\"key\":[\"a longer string, and so on\"");
        for (int i = 0; i < 12; i++)
            buf_puts(&text, ",{\"x\":[1,2.5,\"y\"]}");
        buf_puts(&text, "]}");
        buf_puts(&text, ends[k]);
        for (long n = 0;; n++) {
            err e = {0};
            json_t *root;
            oom_after(n, false);
            int rc = json_parse(&root, text.data, text.len, &limits, "test", &e);
            if (!oom_stop()) {
                cr_expect_eq(e.code, k == 0 ? ERR_NONE : ERR_BAD_PARAM, "%s", e.msg);
                json_decref(root);
                break;
            }
            cr_assert_eq(rc, -1, "allocation %ld failed unnoticed", n);
            cr_assert_eq(e.code, ERR_NO_MEMORY, "allocation %ld: %s", n, e.msg);
        }
        buf_deinit(&text);
    }
}

Test(base, json_parsing_stops_early_when_it_is_cancelled_and_leaves_nothing_behind) {
    json_limits limits = {.max_bytes = 1 << 20, .max_depth = 4, .max_structural = 1 << 20};
    atomic_bool flag = true;
    buf text = {0};
    json_t *root;
    json_setup();
    buf_puts(&text, "[");
    for (int i = 0; i < 10000; i++)
        buf_puts(&text, "\"a\",");
    buf_puts(&text, "0]");
    for (int k = 0; k < 3; k++) { /* asked to stop; not asked; no flag to watch */
        err e = {0};
        atomic_store(&flag, k == 0);
        cancel_watch(k < 2 ? &flag : NULL);
        int rc = json_parse(&root, text.data, text.len, &limits, "test", &e);
        cr_expect_eq(rc, k == 0 ? -1 : 0);
        cr_expect_eq(e.code, k == 0 ? ERR_CANCELLED : ERR_NONE, "%s", e.msg);
        json_decref(root);
    }
    buf_deinit(&text);
}

Test(base, a_json_string_escapes_what_must_be_and_replaces_what_is_not_utf8) {
    buf text = {0};
    static const char in[] = "a\"\\\n\x01\x7f\xff\xe2\x82\xac\xe2\x82";
    buf_json_string(&text, in, sizeof in - 1);
    cr_assert_str_eq(text.data,
                     "\"a\\\"\\\\\\n\\u0001\\u007f\xef\xbf\xbd\xe2\x82\xac\xef\xbf\xbd\"");
    buf_deinit(&text);
}

Test(base, a_float_has_the_fewest_digits_that_read_back) {
    const struct {
        float value;
        const char *text;
    } rows[] = {{0.99f, "0.99"}, {0.1f, "0.1"},           {1e-6f, "1e-06"},
                {3, "3"},        {-0.5f, "-0.5"},         {16777216.0f, "16777216"},
                {0, "0"},        {1 / 3.0f, "0.33333334"}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        buf out = {0};
        buf_json_float(&out, rows[i].value);
        cr_assert_str_eq(out.data, rows[i].text);
        cr_assert(strtof(out.data, NULL) == rows[i].value);
        buf_deinit(&out);
    }
}

Test(base, a_full_queue_refuses_and_an_empty_one_says_so) {
    queue *fifo;
    err e = {0};
    cr_assert_eq(queue_create(&fifo, sizeof(int), 3, &e), 0);
    for (int i = 0; i < 4; i++)
        cr_assert(queue_push(fifo, &i)); /* rounded up to 4 */
    int x = 9;
    cr_assert_not(queue_push(fifo, &x));
    cr_assert_eq(queue_len(fifo), 4);
    for (int i = 0; i < 4; i++) {
        cr_assert(queue_pop(fifo, &x));
        cr_assert_eq(x, i);
    }
    cr_assert_not(queue_pop(fifo, &x));
    queue_destroy(fifo);
}

Test(base, a_signal_before_the_wait_is_not_lost) {
    wake *bell;
    err e = {0};
    cr_assert_eq(wake_create(&bell, &e), 0);
    wake_signal(bell);
    const uint64_t long_ns = 60 * UINT64_C(1000000000);
    uint64_t from = clock_ns();
    wake_wait(bell, long_ns);
    cr_assert_lt(clock_ns() - from, long_ns); /* ended by the signal */
    wake_wait(bell, 1000000);                 /* no event: the wait ends by its timeout */
    wake_destroy(bell);
}

Test(base, files_that_are_not_regular_are_refused) {
    file_map file;
    err e = {0};
    cr_assert_eq(file_map_open(&file, "/dev/null", &e), -1);
    cr_assert_eq(e.code, ERR_BAD_FILE);
    e = (err){0};
    cr_assert_eq(file_map_open(&file, "tests", &e), -1);
    e = (err){0};
    cr_assert_eq(file_map_open(&file, "no/such/file", &e), -1);
    cr_assert_not_null(strstr(e.msg, "no/such/file"));
    buf text = {0};
    e = (err){0};
    cr_assert_eq(file_read(&text, "LICENSE", 100, &e), -1);
    cr_assert_eq(e.code, ERR_BAD_FILE);
    buf_deinit(&text);
}

Test(base, the_parent_of_a_path_is_the_folder_that_holds_its_last_part) {
    static const char *const rows[][2] = {{"a", "."},       {"a/", "."},   {"a/b", "a"},
                                          {"a/b//", "a"},   {"/a", "/"},   {"/", "/"},
                                          {"a/b/c", "a/b"}, {"/a/b", "/a"}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        buf out = {0};
        file_parent(&out, rows[i][0]);
        cr_expect_str_eq(out.data, rows[i][1], "'%s': '%s'", rows[i][0], out.data);
        buf_deinit(&out);
    }
}
