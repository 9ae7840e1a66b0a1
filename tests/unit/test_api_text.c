/* test_api_text.c - statuses, UTF-8 over token bytes, stop strings. */
#include "api/dialect_internal.h"
#include "base/utf8.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

TestSuite(api_text, .fini = fail_on_leaks);

/* ---- statuses ---- */

Test(api_text, every_error_code_has_a_status_of_400_or_more) {
    for (int code = 0; code < ERR_COUNT; code++) {
        err e = {.code = (err_code)code};
        unsigned status = api_status(&e);
        cr_expect(status >= 400 && status < 600, "%s: %u", err_name(e.code), status);
    }
}

static const struct {
    err_code code;
    unsigned status;
} statuses[] = {
    {ERR_BAD_PARAM, 400}, {ERR_UNSUPPORTED, 400}, {ERR_TOO_LONG, 400}, {ERR_NOT_FOUND, 404},
    {ERR_BUSY, 503},      {ERR_NO_MEMORY, 503},   {ERR_DEVICE, 503},   {ERR_NUMERIC, 500},
    {ERR_INTERNAL, 500},  {ERR_CONSTRAINT, 400},  {ERR_COSTLY, 400},
};

Test(api_text, each_failure_has_the_status_that_clients_retry_or_do_not_by) {
    for (size_t i = 0; i < ARRAY_LEN(statuses); i++) {
        err e = {.code = statuses[i].code};
        cr_expect_eq(api_status(&e), statuses[i].status, "%s", err_name(e.code));
    }
}

Test(api_text, an_error_body_has_four_keys_and_hides_what_is_internal) {
    buf out = {0};
    err e = {0};
    err_set(&e, ERR_IO, "file", "/secret/path: no such file");
    api_error_body(&out, NULL, &e);
    cr_assert_str_eq(
        out.data,
        "{\"error\":{\"message\":\"the operating system refused\",\"type\":\"server_error\","
        "\"param\":null,\"code\":null}}");
    buf_clear(&out);
    e = (err){.have = 12, .limit = 8};
    err_set(&e, ERR_TOO_LONG, "prompt", "too \"long\"");
    api_error_body(&out, NULL, &e);
    cr_assert_str_eq(
        out.data,
        "{\"error\":{\"message\":\"too \\\"long\\\"\",\"type\":\"invalid_request_error\",\"param\":"
        "\"prompt\",\"code\":\"context_length_exceeded\",\"n_prompt_tokens\":12,\"n_ctx\":8}}");
    buf_clear(&out);
    api_http_error_body(&out, NULL, 401, "a key is needed", "invalid_api_key");
    cr_assert_str_eq(
        out.data, "{\"error\":{\"message\":\"a key is needed\",\"type\":\"authentication_error\","
                  "\"param\":null,\"code\":\"invalid_api_key\"}}");
    buf_deinit(&out);
}

/* ---- UTF-8 ---- */

/* The expected value, computed another way: decode the whole, one U+FFFD for each maximal
 * ill-formed part. */
static void decode_whole(const char *text, size_t n, buf *out) {
    for (size_t i = 0; i < n;) {
        size_t best = 0; /* longest prefix of a character; the character itself if valid */
        for (size_t len = 1; len <= 4 && i + len <= n; len++) {
            if (utf8_valid(text + i, len)) {
                buf_append(out, text + i, len);
                i += len;
                best = 0;
                goto next;
            }
        }
        best = 1;
        for (size_t len = 2; len <= 3 && i + len <= n; len++) {
            bool prefix = false; /* some continuation makes it whole */
            for (int next_byte = 0x80; next_byte < 0xc0 && !prefix; next_byte++) {
                char try[5];
                memcpy(try, text + i, len);
                try[len] = (char)next_byte;
                try[len + 1 > 4 ? 4 : len + 1] = (char)0x80;
                prefix = utf8_valid(try, len + 1) || (len == 2 && utf8_valid(try, 4));
            }
            if (!prefix) break;
            best = len;
        }
        buf_append(out, "\xef\xbf\xbd", 3);
        i += best;
    next:;
    }
}

Test(api_text, bytes_in_any_split_give_the_same_text_and_only_whole_characters) {
    static const char *const pool[] = {
        "a",    "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80", "\xff", "\x80",
        "\xc0", "\xe2\x82", "\xed\xa0\x80", "\xf4\x90",         "\xf0", "\xe0\x9f"};
    srand(7);
    for (int round = 0; round < 3000; round++) {
        buf in = {0}, want = {0}, got = {0};
        for (int k = rand() % 8; k >= 0; k--)
            buf_puts(&in, pool[(size_t)rand() % ARRAY_LEN(pool)]);
        decode_whole(in.data, in.len, &want);
        api_utf8 utf8 = {0};
        for (size_t at = 0; at < in.len;) {
            size_t n = 1 + (size_t)rand() % 3;
            if (n > in.len - at) n = in.len - at;
            api__utf8_bytes(&utf8, in.data + at, n, &got);
            cr_assert(got.len == 0 || utf8_valid(got.data, got.len));
            at += n;
        }
        api_utf8_finish(&utf8, &got);
        cr_assert_eq(want.len, got.len, "round %d", round);
        cr_assert_arr_eq(want.data, got.data, want.len, "round %d", round);
        buf_deinit(&in);
        buf_deinit(&want);
        buf_deinit(&got);
    }
}

/* ---- stop strings ---- */

/* The definition, by search: the text ends at the first complete stop string. If several are
 * complete there, the longest counts. */
static size_t naive_cut(const char *text, size_t n, char stops[][8], int n_stops, int *hit) {
    for (size_t end = 1; end <= n; end++) {
        size_t best = 0;
        for (int k = 0; k < n_stops; k++) {
            size_t len = strlen(stops[k]);
            if (len > best && len <= end && memcmp(text + end - len, stops[k], len) == 0) {
                best = len;
                *hit = k;
            }
        }
        if (best) return end - best;
    }
    *hit = -1;
    return n;
}

/* The longest end of the text with which a stop string begins. */
static size_t naive_held(const char *text, size_t n, char stops[][8], int n_stops) {
    for (size_t len = n < 7 ? n : 7; len > 0; len--) {
        for (int k = 0; k < n_stops; k++) {
            if (len < strlen(stops[k]) && memcmp(text + n - len, stops[k], len) == 0) return len;
        }
    }
    return 0;
}

Test(api_text, stop_strings_are_found_in_any_split_and_exactly_what_may_become_one_is_held) {
    srand(11);
    for (int round = 0; round < 20000; round++) {
        char stops[4][8], text[40];
        int n_stops = 1 + rand() % 4, hit, want_hit;
        api__stop compiled[4];
        for (int k = 0; k < n_stops; k++) {
            size_t len = 1 + (size_t)rand() % 6;
            for (size_t i = 0; i < len; i++)
                stops[k][i] = (char)('a' + rand() % 2);
            stops[k][len] = 0;
            api__stop_init(&compiled[k], stops[k], len);
        }
        size_t n = (size_t)rand() % sizeof text, at = 0;
        for (size_t i = 0; i < n; i++)
            text[i] = (char)('a' + rand() % 3);
        size_t cut = naive_cut(text, n, stops, n_stops, &want_hit);
        api__matcher matcher = {.stops = compiled, .n_stops = (uint8_t)n_stops};
        hit = -1;
        while (at < n && hit < 0) {
            size_t piece = 1 + (size_t)rand() % 5;
            if (piece > n - at) piece = n - at;
            at += api__stop_feed(&matcher, text + at, piece, &hit);
            if (hit >= 0) break;
            cr_assert_eq(api__stop_held(&matcher), naive_held(text, at, stops, n_stops), "round %d",
                         round);
            cr_assert_leq(at - api__stop_held(&matcher), cut,
                          "round %d: a byte of a stop string leaked", round);
        }
        cr_assert_eq(hit >= 0 ? at - compiled[hit].len : n, cut, "round %d", round);
        if (want_hit < 0) cr_assert_lt(hit, 0);
        else cr_assert_str_eq(stops[hit], stops[want_hit]);
    }
}
