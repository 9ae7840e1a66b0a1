/* test_grammar_cache.c - compiled schemas are kept within limits, and never freed in use. */
#include "api/api_internal.h"
#include "base/clock.h"
#include "tests/lib/api_fixture.h"
#include "tests/lib/grammar.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

TestSuite(grammar_cache, .init = json_setup, .fini = fail_on_leaks);

static const uint64_t key[2] = {1, 2};

static api__grammar_cache *cache_of(size_t entries, size_t bytes) {
    api__grammar_cache *cache = NULL;
    err e = {0};
    cr_assert_eq(api__grammar_cache_open(&cache, key, entries, bytes, &e), 0);
    return cache;
}

/* The grammar of a schema, or NULL if only a worker may compile it. */
static api__grammar *get(api__grammar_cache *cache, const char *text, bool soon) {
    json_t *schema = json_loads(text, 0, NULL);
    const api__form form = {.json = schema, .param = "schema"};
    api__grammar *grammar = NULL;
    err e = {0};
    int rc = api__grammar_get(&grammar, cache, &form, soon, &e);
    cr_assert_eq(rc, grammar ? 0 : 1, "%s", e.msg);
    json_decref(schema);
    return grammar;
}

/* An object with one property, whose name is a number. */
static api__grammar *numbered(api__grammar_cache *cache, int i) {
    char text[128];
    (void)snprintf(text, sizeof text,
                   "{\"type\":\"object\",\"required\":[\"p%d\"],\"properties\":{\"p%d\":{\"const\":"
                   "1}}}",
                   i, i);
    return get(cache, text, false);
}

static bool is_numbered(const api__grammar *grammar, int i) {
    char text[32];
    (void)snprintf(text, sizeof text, "{\"p%d\":1}", i);
    return grammar_feed(grammar, text) == 1;
}

Test(grammar_cache, a_thousand_schemas_stay_within_the_limits) {
    static const struct {
        size_t entries, bytes;
    } limits[] = {{16, SIZE_MAX}, {SIZE_MAX, 40000}, {1, 8000}, {0, 1 << 20}, {8, 0}};
    for (size_t row = 0; row < ARRAY_LEN(limits); row++) {
        api__grammar_cache *cache = cache_of(limits[row].entries, limits[row].bytes);
        api__grammar *held = numbered(cache, 5000);
        for (int i = 0; i < 1000; i++) {
            api__grammar *grammar = numbered(cache, i);
            cr_assert(is_numbered(grammar, i));
            api__grammar_release(grammar);
            api__grammar_counts counts = api__grammar_cache_counts(cache);
            cr_assert_leq(counts.entries, limits[row].entries);
            cr_assert_leq(counts.bytes, limits[row].bytes);
        }
        cr_assert_eq(api__grammar_cache_counts(cache).compiled, 1001);
        cr_assert(is_numbered(held, 5000), "a grammar in use was freed");
        api__grammar_release(held);
        api__grammar_cache_close(cache);
    }
}

Test(grammar_cache, the_schema_unused_for_longest_goes_first) {
    api__grammar_cache *cache = cache_of(3, SIZE_MAX);
    for (int i = 0; i < 3; i++)
        api__grammar_release(numbered(cache, i));
    api__grammar_release(numbered(cache, 0));
    api__grammar_release(numbered(cache, 3)); /* in the place of 1 */
    cr_assert_eq(api__grammar_cache_counts(cache).compiled, 4);
    static const int kept[] = {0, 2, 3};
    for (size_t i = 0; i < ARRAY_LEN(kept); i++)
        api__grammar_release(numbered(cache, kept[i]));
    cr_assert_eq(api__grammar_cache_counts(cache).compiled, 4);
    api__grammar_release(numbered(cache, 1));
    cr_assert_eq(api__grammar_cache_counts(cache).compiled, 5);
    api__grammar_cache_close(cache);
}

Test(grammar_cache, only_the_same_text_gives_the_same_grammar) {
    static const char *const schemas[] = {
        "{\"type\":\"object\",\"properties\":{\"a\":{},\"b\":{}}}",
        "{\"type\":\"object\",\"properties\":{\"b\":{},\"a\":{}}}",
        "{\"type\":\"object\",\"properties\":{\"a\":{},\"b\":{}},\"required\":[\"a\"]}",
        "{\"enum\":[1]}",
        "{\"enum\":[1.0]}",
        "{\"enum\":[\"1\"]}",
    };
    enum { N = ARRAY_LEN(schemas) };
    api__grammar_cache *cache = cache_of(64, SIZE_MAX);
    api__grammar *first[N];
    for (size_t i = 0; i < N; i++)
        first[i] = get(cache, schemas[i], false);
    for (size_t i = 0; i < N; i++) {
        for (size_t k = 0; k < i; k++)
            cr_assert_neq(first[i], first[k]);
        api__grammar *again = get(cache, schemas[i], true);
        cr_assert_eq(again, first[i]);
        cr_assert_eq(api__grammar_held(again), 0, "the cache holds the bytes, not the request");
        api__grammar_release(again);
        api__grammar_release(first[i]);
    }
    api__grammar_cache_close(cache);
}

Test(grammar_cache, the_functions_allowed_and_their_notation_decide_the_grammar) {
    json_t *tools = json_loads("[{\"type\":\"function\",\"function\":{\"name\":\"f\"}},"
                               "{\"type\":\"function\",\"function\":{\"name\":\"g\"}}]",
                               0, NULL);
    const api__form forms[] = {
        {tools, api__grammar_compile_tools, NULL, false, "tools"},
        {tools, api__grammar_compile_tools, "f", false, "tools"},
        {tools, api__grammar_compile_tools, "g", false, "tools"},
        {tools, api__grammar_compile_tags, NULL, false, "tools"},
        {tools, api__grammar_compile_tags, "f", false, "tools"},
        {NULL, NULL, NULL, false, "response_format"},
    };
    enum { N = ARRAY_LEN(forms) };
    api__grammar_cache *cache = cache_of(64, SIZE_MAX);
    api__grammar *grammars[N];
    err e = {0};
    for (size_t turn = 0; turn < 2; turn++) {
        for (size_t i = 0; i < N; i++)
            cr_assert_eq(api__grammar_get(&grammars[i], cache, &forms[i], turn, &e), 0);
        cr_assert_eq(grammar_feed(grammars[0], "{\"name\":\"g\",\"arguments\":{}}"), 1);
        cr_assert_eq(grammar_feed(grammars[1], "{\"name\":\"g"), -1);
        cr_assert_eq(grammar_feed(grammars[2], "{\"name\":\"g\",\"arguments\":{}}"), 1);
        cr_assert_eq(grammar_feed(grammars[3], "{\"name\":"), -1);
        cr_assert_eq(grammar_feed(grammars[5], "{\"other\":[]}"), 1);
        for (size_t i = 0; i < N; i++)
            api__grammar_release(grammars[i]);
    }
    cr_assert_eq(api__grammar_cache_counts(cache).compiled, N);
    json_decref(tools);
    api__grammar_cache_close(cache);
}

Test(grammar_cache, without_room_a_grammar_belongs_to_its_request) {
    api__grammar_cache *cache = cache_of(2, SIZE_MAX);
    api__grammar *grammars[3];
    for (int i = 0; i < 3; i++)
        grammars[i] = numbered(cache, i);
    cr_assert_eq(api__grammar_held(grammars[1]), 0);
    cr_assert_gt(api__grammar_held(grammars[2]), 0);
    cr_assert_null(get(cache, "{\"enum\":[2]}", true), "the loop thread compiled a schema");
    for (int i = 0; i < 3; i++) {
        cr_assert(is_numbered(grammars[i], i));
        api__grammar_release(grammars[i]);
    }
    cr_assert_eq(api__grammar_cache_counts(cache).entries, 2);
    api__grammar_cache_close(cache);
}

Test(grammar_cache, a_refused_schema_leaves_nothing_behind) {
    api__grammar_cache *cache = cache_of(8, SIZE_MAX);
    json_t *schema = json_loads("{\"type\":\"wrong\"}", 0, NULL);
    const api__form form = {.json = schema, .param = "schema"};
    for (int turn = 0; turn < 2; turn++) {
        api__grammar *grammar = NULL;
        err e = {0};
        cr_assert_eq(api__grammar_get(&grammar, cache, &form, false, &e), -1);
        cr_assert_null(grammar);
        cr_assert_eq(e.code, ERR_BAD_PARAM);
    }
    cr_assert_eq(api__grammar_cache_counts(cache).entries, 0);
    json_decref(schema);
    api__grammar_cache_close(cache);
}

/* ---- whole requests ---- */

static void put_request(buf *out, int salt, int properties) {
    buf_printf(out,
               "{\"model\":\"demo\",\"max_tokens\":3,\"messages\":[{\"role\":\"user\",\"content\":"
               "\"x\"}],\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":"
               "\"n\",\"schema\":{\"type\":\"object\",\"title\":\"%d\",\"properties\":{",
               salt);
    for (int i = 0; i < properties; i++)
        buf_printf(out, "%s\"property %d\":{\"type\":[\"string\",\"null\"],\"maxLength\":%d}",
                   i ? "," : "", i, i);
    buf_puts(out, "}}}}}");
}

Test(grammar_cache, the_loop_thread_compiles_no_schema) {
    api_fixture fixture;
    buf body = {0};
    err e = {0};
    api_request *req = NULL;
    api_fixture_open(&fixture, NULL, false);
    put_request(&body, 0, 3);
    cr_assert_eq(api_parse_soon(&req, fixture.ctx, &api_dialect_chat, body.data, body.len, &e), 1);
    cr_assert_null(req);
    cr_assert_eq(api_parse(&req, fixture.ctx, &api_dialect_chat, body.data, body.len, &e), 0, "%s",
                 e.msg);
    api_request_destroy(req);
    cr_assert_eq(api_parse_soon(&req, fixture.ctx, &api_dialect_chat, body.data, body.len, &e), 0);
    api_request_destroy(req);
    buf_deinit(&body);
    api_fixture_close(&fixture);
}

static int by_time(const void *x, const void *y) {
    uint64_t left = *(const uint64_t *)x, right = *(const uint64_t *)y;
    return (left > right) - (left < right);
}

Test(grammar_cache, a_schema_seen_before_is_parsed_faster) {
    enum { TURNS = 15 };
    uint64_t first[TURNS], second[TURNS];
    api_fixture fixture;
    buf body = {0};
    err e = {0};
    api_fixture_open(&fixture, NULL, false);
    for (int i = 0; i < TURNS; i++) {
        buf_clear(&body);
        put_request(&body, i, 500);
        for (int turn = 0; turn < 2; turn++) {
            api_request *req = NULL;
            uint64_t began = clock_thread_ns();
            cr_assert_eq(api_parse(&req, fixture.ctx, &api_dialect_chat, body.data, body.len, &e),
                         0);
            (turn ? second : first)[i] = clock_thread_ns() - began;
            api_request_destroy(req);
        }
    }
    qsort(first, TURNS, sizeof *first, by_time);
    qsort(second, TURNS, sizeof *second, by_time);
    cr_assert_lt(second[TURNS / 2], first[TURNS / 2]);
    cr_log_info("first %lu ns, second %lu ns", first[TURNS / 2], second[TURNS / 2]);
    buf_deinit(&body);
    api_fixture_close(&fixture);
}
