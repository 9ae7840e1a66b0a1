/* test_srv_hosts.c - the Host headers and Origins accepted as this server's own. */
#include "server/server_internal.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <string.h>

TestSuite(srv_hosts, .fini = fail_on_leaks);

static const opt_list no_hosts = {0};

static void assert_known(const char *const *rows, size_t n, const opt_list *allowed, bool want) {
    for (size_t i = 0; i < n; i++) {
        cr_assert_eq(srv_host_known(rows[i], "127.0.0.1", allowed), want, "'%s'", rows[i]);
    }
}

Test(srv_hosts, local_names_are_ours_with_any_port) {
    static const char *const rows[] = {
        "localhost",    "localhost:8080",         "LocalHost:1",        "localhost.",
        "localhost.:9", "app.localhost:8080",     "a.b.localhost.",     "127.0.0.1",
        "127.0.0.1:80", "127.255.255.254:65535",  "127.0.0.1.:8080",    "[::1]",
        "[::1]:8080",   "[0:0:0:0:0:0:0:1]:8080", "[::ffff:127.0.0.1]",
    };
    assert_known(rows, ARRAY_LEN(rows), &no_hosts, true);
}

Test(srv_hosts, what_only_looks_local_is_not) {
    static const char *const rows[] = {
        "",
        " ",
        ".",
        "..",
        ":",
        ":8080",
        "x",
        "example.com",
        "localhost.evil.com",
        "localhost.evil.com:8080",
        "127.0.0.1.evil.com",
        "evil.com.127.0.0.1",
        "evillocalhost",
        "evil-localhost",
        "localhost.com",
        "localhost..",
        "127.1",
        "127.0.1",
        "127",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "127.0.0.01",
        "127.0.0.256",
        "127.0.0.1.1",
        "126.0.0.1",
        "128.0.0.1",
        "0.0.0.0",
        "10.0.0.1",
        "192.168.1.1",
        "[::1",
        "::1",
        "::1]",
        "[::1]]",
        "[[::1]]",
        "[::1]x",
        "[::1]:",
        "[::1%lo]",
        "[::1%25lo]",
        "[]",
        "[",
        "]",
        "[localhost]",
        "[127.0.0.1]",
        "[::2]",
        "[::]",
        "[fe80::1]",
        "[::ffff:10.0.0.1]",
        "user@localhost",
        "localhost@evil.com",
        "user:pw@localhost",
        "localhost:",
        "localhost:x",
        "localhost:0",
        "localhost:65536",
        "localhost:99999999999999999999",
        "localhost:80:80",
        "localhost:-1",
        "localhost:+1",
        "localhost: 80",
        "localhost :80",
        " localhost",
        "localhost ",
        "localhost\t",
        "localhost/",
        "localhost/x",
        "localhost?x",
        "localhost#x",
        "localhost\\x",
        "local%68ost",
        "%6cocalhost",
        "localhost%00",
        "localhost,evil.com",
        "localhost;evil.com",
        "*",
        "http://localhost",
        "//localhost",
        "l\xc3\xb6"
        "calhost",
        "\xef\xbd\x8c"
        "ocalhost",
        "\xe2\x93\x9b"
        "ocalhost",
        "localhost\x01",
        "localhost\x7f",
    };
    assert_known(rows, ARRAY_LEN(rows), &no_hosts, false);
}

Test(srv_hosts, hosts_of_any_length_are_read_safely) {
    char text[20000];
    for (size_t n = 1; n < sizeof text; n = n * 3 / 2 + 1) {
        for (const char *c = "a.1:[l%"; *c; c++) {
            memset(text, *c, n);
            text[n] = 0;
            cr_assert_not(srv_host_known(text, "127.0.0.1", &no_hosts));
            text[0] = '[';
            cr_assert_not(srv_host_known(text, "127.0.0.1", &no_hosts));
        }
    }
    memset(text, 'a', 253);
    memcpy(text + 253 - 10, ".localhost", 11);
    cr_assert(srv_host_known(text, "127.0.0.1", &no_hosts), "the longest name there is");
    memset(text, 'a', 254);
    memcpy(text + 254 - 10, ".localhost", 11);
    cr_assert_not(srv_host_known(text, "127.0.0.1", &no_hosts));
}

Test(srv_hosts, the_name_it_was_bound_to_is_ours) {
    cr_assert(srv_host_known("my-box:8080", "My-Box", &no_hosts));
    cr_assert(srv_host_known("my-box.", "my-box", &no_hosts));
    cr_assert_not(srv_host_known("my-box.evil.com", "my-box", &no_hosts));
    cr_assert(srv_host_known("[fd00::1]:8080", "fd00::1", &no_hosts));
    cr_assert(srv_host_known("[fd00:0::1]", "fd00::1", &no_hosts));
    cr_assert_not(srv_host_known("[fd00::2]", "fd00::1", &no_hosts));
    cr_assert_not(srv_host_known("0.0.0.0:80", "::", &no_hosts));
}

Test(srv_hosts, allowed_names_are_ours_and_a_star_is_everything) {
    static const opt_list some = {.items = {"a.example", "10.0.0.7", "fd00::7", "[fd00::8]"},
                                  .n = 4};
    static const opt_list all = {.items = {"*"}, .n = 1};
    static const char *const in[] = {"a.example",    "A.EXAMPLE:443", "a.example.", "10.0.0.7:80",
                                     "[fd00::7]:80", "[fd00:0:0::8]", "localhost"};
    static const char *const out[] = {"b.a.example", "a.example.evil.com", "xa.example",
                                      "aXexample",   "10.0.0.8",           "[fd00::9]",
                                      "fd00::7",     "a.example:x",        ""};
    assert_known(in, ARRAY_LEN(in), &some, true);
    assert_known(out, ARRAY_LEN(out), &some, false);
    assert_known(in, ARRAY_LEN(in), &all, true);
    assert_known(out, ARRAY_LEN(out), &all, true);
}

Test(srv_hosts, an_option_that_could_never_match_is_refused) {
    static const char *const good[] = {"*",       "a.example", "a", "10.0.0.7",
                                       "fd00::7", "[fd00::7]", "a."};
    static const char *const bad[] = {"",
                                      "http://a.example",
                                      "a.example/",
                                      "a.example:80",
                                      "*.a.example",
                                      "a b",
                                      "[fd00::7]:80",
                                      "[a]",
                                      ".",
                                      "a,b"};
    for (size_t i = 0; i < ARRAY_LEN(good); i++)
        cr_assert(srv_host_option_ok(good[i]), "'%s'", good[i]);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        cr_assert_not(srv_host_option_ok(bad[i]), "'%s'", bad[i]);
}

Test(srv_hosts, an_origin_is_ours_when_host_and_port_are_the_same) {
    static const struct {
        const char *origin, *value;
        bool same;
    } rows[] = {
        {"http://localhost:8080", "localhost:8080", true},
        {"HTTP://LOCALHOST:8080", "localhost:8080", true},
        {"http://localhost", "localhost", true},
        {"http://localhost:80", "localhost", true},
        {"http://localhost", "localhost:80", true},
        {"https://a.example", "a.example", true}, /* a proxy ends TLS */
        {"https://a.example", "a.example:443", true},
        {"https://a.example:8443", "a.example:8443", true},
        {"http://[::1]:8080", "[::1]:8080", true},
        {"http://localhost:3000", "localhost:8080", false},
        {"http://localhost:8080", "127.0.0.1:8080", false},
        {"http://localhost", "localhost:8080", false},
        {"https://a.example", "a.example:80", false},
        {"http://evil.com", "localhost:8080", false},
        {"http://localhost:8080.evil.com", "localhost:8080", false},
        {"http://localhost:8080@evil.com", "localhost:8080", false},
        {"http://localhost:8080/", "localhost:8080", false}, /* no browser sends a path */
        {"chrome-extension://localhost:8080", "localhost:8080", false},
        {"file://", "localhost:8080", false},
        {"null", "localhost:8080", false},
        {"", "localhost:8080", false},
        {"http://", "", false},
        {"localhost:8080", "localhost:8080", false},
        {"http://localhost:8080 http://localhost:8080", "localhost:8080", false},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        cr_assert_eq(srv_origin_is(rows[i].origin, rows[i].value), rows[i].same, "'%s' at '%s'",
                     rows[i].origin, rows[i].value);
    }
}
