/* test_srv_screen.c - checks before the router, on bytes: targets, framing headers,
 * content types, request ids, and the hash behind the keys. */
#include "base/json.h"
#include "server/server_internal.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

TestSuite(srv_screen, .fini = fail_on_leaks);

Test(srv_screen, targets_are_a_path_of_plain_characters) {
    static const struct {
        const char *raw;
        bool good;
    } rows[] = {
        {"/", true},
        {"/v1/models?x=1&y=%20", true},
        {"", false},
        {"*", false},
        {"x", false},
        {"x:80", false},
        {"/a b", false},
        {"/a\tb", false},
        {"/\x7f", false},
        {"/\xc3\xa9", false},
        {"/..", false},
        {"/a/../b", false},
        {"/a\\b", false},
        {"/%", false},
        {"/%2", false},
        {"/%zz", false},
        {"/%00", false},
        {"/a%00b", false},
        {"/%2e%2e/x", true}, /* no file is behind a path: it only fails to match */
        {"//v1/models", true},
        {"http://x/", true},
        {"http://x", true},
        {"HTTPS://x.y:443/a?b", true},
        {"http://x?a", true},
        {"http://[::1]:80/", true},
        {"http:///a", false},
        {"http://", false},
        {"http://a@x/", false},
        {"http://x%41/", false},
        {"ftp://x/", false},
        {"http://x\\y/", false},
        {"http://x/../y", false},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        cr_assert_eq(srv_screen_target(rows[i].raw), rows[i].good, "'%s'", rows[i].raw);
    }
}

Test(srv_screen, a_target_in_absolute_form_names_its_host_and_its_path) {
    static const struct {
        const char *target, *host, *path;
    } rows[] = {
        {"http://x/v1/models", "x", "/v1/models"}, {"HTTPS://A.b:443/", "A.b:443", "/"},
        {"http://[::1]:80/a", "[::1]:80", "/a"},   {"http://x", "x", ""},
        {"/http://x/", NULL, "/http://x/"},        {"/v1/models", NULL, "/v1/models"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char host[SRV_HOST_MAX];
        cr_assert_eq(srv_target_host(rows[i].target, host), rows[i].host != NULL);
        if (rows[i].host) cr_assert_str_eq(host, rows[i].host);
        cr_assert_str_eq(rows[i].target + srv_target_prefix(rows[i].target), rows[i].path);
    }
    char endless[2 * SRV_HOST_MAX] = "http://";
    memset(endless + 7, 'a', sizeof endless - 8);
    endless[sizeof endless - 1] = 0;
    cr_assert_not(srv_screen_target(endless), "a host longer than any name");
}

Test(srv_screen, a_path_has_one_spelling) {
    static const char *const rows[][2] = {
        {"/", "/"},
        {"", "/"},
        {"//", "/"},
        {"//v1//chat///completions/", "/v1/chat/completions"},
        {"/v1/models/a", "/v1/models/a"},
    };
    char out[SRV_PATH_MAX], longest[SRV_PATH_MAX + 1];
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        cr_assert(srv_plain_path(rows[i][0], out));
        cr_assert_str_eq(out, rows[i][1]);
    }
    memset(longest, 'a', sizeof longest);
    longest[0] = '/', longest[SRV_PATH_MAX] = 0;
    cr_assert_not(srv_plain_path(longest, out), "no room for its end");
    longest[SRV_PATH_MAX - 1] = 0;
    cr_assert(srv_plain_path(longest, out));
}

Test(srv_screen, the_nearest_path_comes_first) {
    static const char *const known[] = {"/v1/completions", "/v1/chat/completions", "/v1/models",
                                        "/health"};
    static const struct {
        const char *path, *list;
    } rows[] = {
        {"/v1/model", "/v1/models, /health"},
        {"/v1/chat/completion", "/v1/chat/completions, /v1/completions"},
        {"/", "/health, /v1/models"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        buf out = {0};
        srv_near_paths(rows[i].path, known, ARRAY_LEN(known), 2, &out);
        cr_assert_str_eq(out.data, rows[i].list);
        buf_deinit(&out);
    }
}

Test(srv_screen, a_preflight_may_ask_for_any_token) {
    char many[SRV_CORS_MAX * 2], out[SRV_CORS_MAX];
    static const char *const rows[][2] = {
        {"x-stainless-os,authorization", "x-stainless-os, authorization"},
        {" x-a ,\tX-B,, ", "x-a, X-B"},
        {"x-a, b c, d:e, \xc3\xa9, x-f", "x-a, x-f"},
        {NULL, "authorization, content-type, x-api-key, x-request-id"},
        {" , ", "authorization, content-type, x-api-key, x-request-id"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        srv_cors_names(rows[i][0], out);
        cr_assert_str_eq(out, rows[i][1]);
    }
    memset(many, 'x', sizeof many);
    many[sizeof many - 1] = 0;
    srv_cors_names(many, out);
    cr_assert_str_eq(out, rows[3][1], "a name without end is left out");
    for (size_t i = 1; i + 1 < sizeof many; i += 2)
        many[i] = ',';
    srv_cors_names(many, out);
    cr_assert_eq(strlen(out), 64 + 63 * 2, "64 names at most");
}

Test(srv_screen, request_ids_are_short_and_printable) {
    char longest[SRV_ID_MAX + 2];
    memset(longest, 'x', sizeof longest);
    longest[SRV_ID_MAX + 1] = 0;
    cr_assert_not(srv_screen_id(longest));
    longest[SRV_ID_MAX] = 0;
    cr_assert(srv_screen_id(longest));
    cr_assert_not(srv_screen_id(""));
    cr_assert_not(srv_screen_id("a b"));
    cr_assert_not(srv_screen_id("a\n"));
    cr_assert_not(srv_screen_id("\xc3\xa9"));
}

/* Headers as "Name: value" lines; the verdict for a POST over HTTP/1.1. */
static unsigned verdict(const char *lines, const char *method, const char *version) {
    srv_framing framing = {0};
    while (*lines) {
        size_t n = strcspn(lines, "\n"), colon = strcspn(lines, ":");
        srv_screen_header(&framing, lines, colon, lines + colon + 2, n - colon - 2, 1000);
        lines += n + (lines[n] == '\n');
    }
    const char *why = NULL;
    unsigned status = srv_screen_verdict(&framing, method, version, &why);
    cr_assert((status == 0) == (why == NULL), "a refusal says why");
    return status;
}

Test(srv_screen, framing_that_two_servers_could_read_differently_is_refused) {
    static const struct {
        const char *lines;
        unsigned status;
    } rows[] = {
        {"Host: x\nContent-Length: 5", 0},
        {"Host: x\nTransfer-Encoding: chunked", 0},
        {"Host: x\nTransfer-Encoding: CHUNKED", 0},
        {"Content-Length: 5", 400},
        {"Host: x\nhost: y\nContent-Length: 5", 400},
        {"Host: x\nContent-Length: 5\nContent-Length: 5", 400},
        {"Host: x\nContent-Length: ", 400},
        {"Host: x\nContent-Length: -1", 400},
        {"Host: x\nContent-Length: +1", 400},
        {"Host: x\nContent-Length: 1 ", 400},
        {"Host: x\nContent-Length: 0x1", 400},
        {"Host: x\nContent-Length: 1, 1", 400},
        {"Host: x\nContent-Length: 1000", 0},
        {"Host: x\nContent-Length: 1001", 0},
        {"Host: x\nContent-Length: 18446744073709551615", 0},
        {"Host: x\nContent-Length: 18446744073709551616", 0},
        {"Host: x\nContent-Length: 99999999999999999999999999999999", 0},
        {"Host: x\nContent-Length: 5\nTransfer-Encoding: chunked", 400},
        {"Host: x\nTransfer-Encoding: chunked\nTransfer-Encoding: chunked", 400},
        {"Host: x\nTransfer-Encoding: gzip, chunked", 400},
        {"Host: x\nTransfer-Encoding: identity", 400},
        {"Host: x\nTransfer-Encoding: ", 400},
        {"Host : x\nContent-Length: 5", 400},
        {"Host: x\nA\x01: b\nContent-Length: 5", 400},
        {"Host: x\nA: b\x01\nContent-Length: 5", 400},
        {"Host: x\nAuthorization: a\nAuthorization: b\nContent-Length: 5", 400},
        {"Host: x\nContent-Type: a\nContent-Type: b\nContent-Length: 5", 400},
        {"Host: x\nExpect: 100-Continue\nContent-Length: 5", 0},
        {"Host: x\nExpect: 200-ok\nContent-Length: 5", 417},
        {"Host: x", 411},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        unsigned got = verdict(rows[i].lines, "POST", "HTTP/1.1");
        cr_assert_eq(got, rows[i].status, "%s: %u", rows[i].lines, got);
    }
    cr_assert_eq(verdict("Content-Length: 5", "POST", "HTTP/1.0"), 0);
    cr_assert_eq(verdict("Transfer-Encoding: chunked", "POST", "HTTP/1.0"), 400);
    cr_assert_eq(verdict("Host: x", "GET", "HTTP/1.1"), 0);
    cr_assert_eq(verdict("Host: x", "GET", "HTTP/1.2"), 505);
    cr_assert_eq(verdict("Host: x", "GET", "HTTP/2.0"), 505);
}

Test(srv_screen, a_length_beyond_the_limit_is_known_however_many_digits_it_has) {
    static const struct {
        const char *length;
        bool big;
    } rows[] = {{"1000", false},
                {"1001", true},
                {"18446744073709551615", true},
                {"18446744073709551616", true},
                {"99999999999999999999999999999999", true}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        srv_framing framing = {0};
        srv_screen_header(&framing, "Content-Length", 14, rows[i].length, strlen(rows[i].length),
                          1000);
        cr_assert_eq(framing.big, rows[i].big, "%s", rows[i].length);
        cr_assert_eq(framing.n_body > 1000, rows[i].big);
    }
}

Test(srv_screen, json_types_are_told_from_others) {
    static const struct {
        const char *value;
        bool json;
    } rows[] = {
        {"application/json", true},
        {"Application/JSON", true},
        {"application/json; charset=utf-8", true},
        {"application/json;charset=\"UTF-8\"", true},
        {"application/json ; charset=UTF8 ", true},
        {"application/json; boundary=x; charset=utf-8", true},
        {"application/problem+json", true},
        {"application/json; charset=utf-16", false},
        {"application/json; charset=latin1", false},
        {"application/json;charset=", false},
        {"application/jsonx", false},
        {"text/plain", false},
        {"", false},
        {";", false},
        {"+json", false},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        srv_framing framing = {0};
        /* A copy without an end mark: a sanitizer sees a read past the value. */
        size_t n = strlen(rows[i].value);
        char *exact = malloc(n ? n : 1);
        memcpy(exact, rows[i].value, n);
        srv_screen_header(&framing, "Content-Type", 12, exact, n, 1000);
        free(exact);
        cr_assert_eq(framing.json, rows[i].json, "'%s'", rows[i].value);
    }
}

static void assert_hash(const char *text, size_t n, const char *hex) {
    uint8_t hash[32];
    char seen[65];
    srv_sha256(text, n, hash);
    for (size_t i = 0; i < sizeof hash; i++)
        (void)snprintf(seen + 2 * i, 3, "%02x", hash[i]);
    cr_assert_str_eq(seen, hex);
}

Test(srv_keys, the_hash_is_sha_256) {
    assert_hash("", 0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    assert_hash("abc", 3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_hash("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56,
                "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    char *many = malloc(1000000);
    memset(many, 'a', 1000000);
    assert_hash(many, 1000000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    free(many);
}

static srv_keys *keys_of(const char *text, err *e) {
    char path[] = "/tmp/fathom-keys-XXXXXX";
    int fd = mkstemp(path);
    cr_assert(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
    srv_keys *keys = NULL;
    int rc = srv_keys_open(&keys, path, e);
    cr_assert_eq(rc == 0, keys != NULL);
    unlink(path);
    return keys;
}

Test(srv_keys, each_key_is_found_and_nothing_else) {
    err e = {0};
    srv_keys *keys = keys_of("# c\nkey-one-1 alice\n  key-two-2\tbob  \r\n\nkey-three", &e);
    cr_assert_not_null(keys, "%s", e.msg);
    cr_assert_eq(srv_keys_count(keys), 3);
    cr_assert_eq(srv_keys_find(keys, "key-one-1", 9), 0);
    cr_assert_eq(srv_keys_find(keys, "key-two-2", 9), 1);
    cr_assert_eq(srv_keys_find(keys, "key-three", 9), 2);
    cr_assert_str_eq(srv_keys_name(keys, 1), "bob");
    cr_assert_str_eq(srv_keys_name(keys, 2), "key-3");
    cr_assert_eq(srv_keys_find(keys, "key-one-", 8), -1);
    cr_assert_eq(srv_keys_find(keys, "key-one-1 ", 10), -1);
    cr_assert_eq(srv_keys_find(keys, "", 0), -1);
    srv_keys_close(keys);
}

Test(srv_keys, files_without_a_proper_key_are_refused) {
    static const char *const bad[] = {"", "\n\n", "# only\n", "short", "long-enough-1\nshort\n"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        err e = {0};
        cr_assert_null(keys_of(bad[i], &e));
        cr_assert(e.code != ERR_NONE);
    }
    err e = {0};
    srv_keys *keys = NULL;
    cr_assert_eq(srv_keys_open(&keys, "/tmp", &e), -1);
    cr_assert_null(keys);
}
